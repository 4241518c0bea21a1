/* chimaera.c - Chimaera in one file. Written by ./amalgamate; edit sources/. */
#define CHI_AMALGAMATION 1

/* ---- sources/base.h ---- */
/* base.h - first include of every source file: feature macros, linkage, assertions. */
#ifndef CHI_BASE_H
#define CHI_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "chimaera.h"

/* Linkage of everything that is not public: static in the amalgamation, hidden otherwise.
 * With a part left out by CHI_OMIT_*, some helpers have no caller; that is not worth a warning. */
#ifndef CHI_PRIVATE
#ifndef CHI_AMALGAMATION
#define CHI_PRIVATE __attribute__((visibility("hidden")))
#elif defined(CHI_OMIT_REAL) || defined(CHI_OMIT_SIM)
#define CHI_PRIVATE static __attribute__((unused))
#else
#define CHI_PRIVATE static
#endif
#endif

/* An assertion states what the program itself guarantees; it stays on in release builds.
 * Input from outside is checked, never asserted. The failing text reaches standard error. */
CHI_PRIVATE void chi_assert_failed(const char *cond, const char *file, int line)
    __attribute__((noreturn));
#define CHI_ASSERT(cond)                                                                           \
  (__builtin_expect(!!(cond), 1) ? (void)0 : chi_assert_failed(#cond, __FILE__, __LINE__))

/* A small function in a header: not every file, nor every build, has a use for it. */
#define CHI_INLINE static inline __attribute__((unused))

#define CHI_LIKELY(cond) __builtin_expect(!!(cond), 1)
#define CHI_UNLIKELY(cond) __builtin_expect(!!(cond), 0)
#define CHI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CHI_CACHE_LINE 64
#define CHI_CONTAINER_OF(ptr, type, member)                                                        \
  ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif

/* ---- sources/atomic.h ---- */
/* atomic.h - the only door to atomic operations. Used by lane, ring, shm and bell alone.
 *
 * With CHI_INTERLEAVE every operation is a scheduling point: the interleaving test build runs
 * the parties of a protocol as co-operative threads and explores the orders in which they pass
 * these points. The point comes *before* the operation it belongs to. Stores wait there in a
 * buffer, as in a processor, until a fence, a read-modify-write or the explorer lets others see
 * them. */
#ifndef CHI_ATOMIC_H
#define CHI_ATOMIC_H

#ifdef CHI_INTERLEAVE
/* Provided by the test. */
enum chi_interleave_kind { CHI_INTERLEAVE_GET, CHI_INTERLEAVE_SET, CHI_INTERLEAVE_CHANGE };
void chi_interleave_point(const void *p, int kind, const char *file, int line);
void chi_interleave_set(void *p, const void *value, size_t size);
void chi_interleave_drain(void);
void chi_interleave_pause(void);
#define CHI_ATOMIC_POINT(p, kind)                                                                  \
  chi_interleave_point((p), CHI_INTERLEAVE_##kind, __FILE__, __LINE__)
#define CHI_ATOMIC_SET(p, v, order)                                                                \
  (CHI_ATOMIC_POINT(p, SET),                                                                       \
   chi_interleave_set((p), &(__typeof__(*(p))){(v)}, sizeof(*(p))))
#define CHI_ATOMIC_DRAIN(p) (CHI_ATOMIC_POINT(p, CHANGE), chi_interleave_drain())
#else
#define CHI_ATOMIC_POINT(p, kind) ((void)0)
#define CHI_ATOMIC_SET(p, v, order) __atomic_store_n((p), (v), (order))
#define CHI_ATOMIC_DRAIN(p) ((void)0)
#endif

/* Plain integers and pointers, accessed atomically: the public header must not need _Atomic. */
#define atomic_get(p) (CHI_ATOMIC_POINT(p, GET), __atomic_load_n((p), __ATOMIC_RELAXED))
#define atomic_get_acquire(p) (CHI_ATOMIC_POINT(p, GET), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define atomic_set(p, v) CHI_ATOMIC_SET(p, v, __ATOMIC_RELAXED)
#define atomic_set_release(p, v) CHI_ATOMIC_SET(p, v, __ATOMIC_RELEASE)
#define atomic_swap(p, v) (CHI_ATOMIC_DRAIN(p), __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL))
#define atomic_add(p, v) (CHI_ATOMIC_DRAIN(p), __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL))
/* On failure *expected receives the value found. */
#define atomic_cas(p, expected, v)                                                                 \
  (CHI_ATOMIC_DRAIN(p), __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL,     \
                                                    __ATOMIC_ACQUIRE))
/* Orders every earlier store before every later load: one half of a sleep/wake hand-shake. */
#define atomic_fence() (CHI_ATOMIC_DRAIN(NULL), __atomic_thread_fence(__ATOMIC_SEQ_CST))

CHI_INLINE void atomic_pause(void)
{
#ifdef CHI_INTERLEAVE
  chi_interleave_pause();
#elif defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* A word that somebody sets for others to see: what was written before is seen by who sees it. */
#define mark_get(p) atomic_get_acquire(p)
#define mark_set(p, v) atomic_set_release(p, v)
/* As mark_set, and before any later look at another word: one half of a hand-shake. */
#define mark_set_fenced(p, v) (mark_set(p, v), atomic_fence())
/* The mark was `from`, and is `to` now. False: it was something else, and is that still. */
#define mark_change(p, from, to) atomic_cas((p), &(__typeof__(*(p))){(from)}, (to))
/* A number that several change; the value before. */
#define count_add(p, n) atomic_add(p, n)

/* A figure that one thread counts and others read: no order is implied. */
CHI_INLINE void tally_add(uint64_t *t, uint64_t n)
{
  __atomic_store_n(t, __atomic_load_n(t, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
CHI_INLINE void tally_set(uint64_t *t, uint64_t n)
{
  __atomic_store_n(t, n, __ATOMIC_RELAXED);
}
CHI_INLINE uint64_t tally_get(const uint64_t *t)
{
  return __atomic_load_n(t, __ATOMIC_RELAXED);
}

#endif

/* ---- sources/alloc.h ---- */
/* alloc.h - where memory comes from: three helpers around a pair of functions. */
#ifndef CHI_ALLOC_H
#define CHI_ALLOC_H

/* A source of memory, filled by its provider and then constant. get returns memory aligned for
 * any type, or NULL when there is none left; put takes back exactly what get gave, with the size
 * that was asked for. Both are called from any thread that uses an object built on this source,
 * so a source shared by threads must guard itself. Fault tests fail get at will: every caller
 * must cope with NULL. */
struct alloc {
  void *(*get)(void *arg, size_t size);
  void (*put)(void *arg, void *p, size_t size);
  void *arg;
};

/* Memory of size bytes (not 0) with any content, or NULL. The caller owns it until alloc_put. */
CHI_INLINE void *alloc_get(const struct alloc *alloc, size_t size)
{
  CHI_ASSERT(size > 0);
  return alloc->get(alloc->arg, size);
}

/* As alloc_get, with every byte zero. */
CHI_INLINE void *alloc_zero(const struct alloc *alloc, size_t size)
{
  void *p = alloc_get(alloc, size);
  return p ? memset(p, 0, size) : NULL;
}

/* Gives back p of alloc_get or alloc_zero with the size it was asked with; NULL does nothing. */
CHI_INLINE void alloc_put(const struct alloc *alloc, void *p, size_t size)
{
  if (p)
    alloc->put(alloc->arg, p, size);
}

#endif

/* ---- sources/env.h ---- */
/* env.h - the seam: everything through which the core reaches the world.
 *
 * Two environments implement it: the real one (real_*.c: threads, libev, io_uring, sockets) and the
 * simulated one (sim/: virtual time, one thread, everything in memory). A node's core is stepped
 * by its environment and calls back through this table only; nothing else in the core reads a
 * clock, draws a random number, starts a thread or opens anything.
 *
 * Obligations common to all operations: none blocks unless its comment says so; none calls back
 * into the core before returning unless said so; failing leaves nothing behind; results are
 * chi_status codes. "Worker thread" means the thread that steps the worker in question. */
#ifndef CHI_ENV_H
#define CHI_ENV_H

#define ENV_VERSION 1

/* Shared memory: zeroed and populated when opened, so that no later access to it can fail. The
 * handle belongs to the environment. */
struct env_segment {
  void *base;
  uint64_t size;
  int64_t handle;
};

/* Who may write a segment beside the side that opened it. */
enum env_access { ENV_SHARED_WRITE, ENV_SHARED_READ };

/* A bell wakes one sleeper: a worker, or a client thread that waits. Ringing is idempotent until
 * the sleeper has answered; a ring is never lost and orders what the ringer wrote before it. */
typedef int64_t env_bell;
#define ENV_NO_BELL ((env_bell)-1)

/* What is handed over a link beside the bytes of a message, in order. */
enum env_share_kind { ENV_SHARE_SEGMENT_WRITE, ENV_SHARE_SEGMENT_READ, ENV_SHARE_BELL };
struct env_share {
  int kind;                   /* enum env_share_kind */
  struct env_segment segment; /* received: mapped at base in the receiver; close it there */
  env_bell bell;              /* received: a handle of the receiver's own; close it there */
};
#define ENV_SHARES_MAX 80 /* of one message */
#define ENV_MESSAGE_MAX 8192 /* bytes of one link message */

/* A connection between a client and a node: messages with boundaries, in order, and a hang-up that
 * the other side always hears, whatever way a party dies. Handles of the environment. */
typedef int64_t env_link;

/* Who is at the other end, as the operating system says. */
struct env_peer {
  uint32_t uid, pid;
};

/* A stack with an inaccessible page below base. */
struct env_stack {
  void *base;
  size_t size;
};

enum env_io_op {
  ENV_IO_OPEN,     /* path, flags (enum chi_file_flag) -> file */
  ENV_IO_READ,     /* file, buf, size, offset -> bytes, fewer at the end of the file or any time */
  ENV_IO_WRITE,    /* file, buf, size, offset -> bytes, possibly fewer */
  ENV_IO_SYNC,     /* file: data and size durable */
  ENV_IO_TRUNCATE, /* file, size */
  ENV_IO_SIZE,     /* file -> bytes */
  ENV_IO_CLOSE,    /* file; never fails to close */
  ENV_IO_RENAME,   /* path, path2 */
  ENV_IO_REMOVE,   /* path */
  ENV_IO_DIRSYNC,  /* path: the directory that holds it */
  ENV_IO_SPACE     /* path -> free bytes of its file system */
};

/* One operation on files. The memory belongs to the core; buf and paths stay valid until it has
 * completed. The environment may use `next` between submission and completion. */
struct env_io {
  struct env_io *next;
  int op; /* enum env_io_op */
  uint32_t flags;
  int64_t file; /* handle, from ENV_IO_OPEN */
  void *buf;
  uint64_t size, offset;
  const char *path, *path2;
  int64_t result; /* >= 0, or a chi_status */
  uint64_t scratch[4]; /* the environment's own */
};

enum env_trace {
  ENV_TRACE_DISPATCH, /* a worker took a task: a worker, b task id, c pool << 16 | method */
  ENV_TRACE_BEGIN,    /* its body begins: a worker, b task id */
  ENV_TRACE_BLOCK,    /* it blocks: a worker, b task id */
  ENV_TRACE_RESUME,   /* it goes on: a worker, b task id */
  ENV_TRACE_COMPLETE, /* a worker, b task id, c rc */
  ENV_TRACE_POOL,     /* a pool's state: a major << 32 | minor, b state, c generation */
  ENV_TRACE_TAKEOVER, /* a worker found stuck, b its heir, c lanes moved */
  ENV_TRACE_CLIENT,   /* a link, b 1 attached, 2 refused, 0 gone */
  ENV_TRACE_MARK      /* a test's own */
};

struct env {
  uint32_t version; /* ENV_VERSION; the table only ever grows at its end */
  void *self;       /* the environment's own, passed to every operation by way of this struct */

  /* Private memory; NULL when there is none. Any thread. */
  struct alloc alloc;

  /* Nanoseconds of a monotonic clock that starts near zero at no particular time, never 0. The core
   * calls it around a method (sampling) and where a client waits; a worker's step is told the
   * time. Any thread. */
  uint64_t (*clock)(struct env *env);
  /* 64 random bits: seeds for streams, boot numbers. Any thread. */
  uint64_t (*random)(struct env *env);
  /* One line without newline, already filtered by level. Any thread; may block for the sink. */
  void (*log)(struct env *env, int level, const char *line);
  /* A typed event. NULL where nobody listens. Any thread. */
  void (*trace)(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c);

  /* Stacks for fibers. CHI_ENOMEM. Any thread. */
  int (*stack_open)(struct env *env, size_t size, struct env_stack *out);
  void (*stack_close)(struct env *env, struct env_stack *stack);

  /* Shared memory, opened by a node. CHI_ENOMEM before anything could fault: the budget of the
   * machine or container is checked first. `name` is for people. Network worker thread. */
  int (*segment_open)(struct env *env, const char *name, uint64_t size, int access,
                      struct env_segment *out);
  /* Unmaps; memory is gone when the other side has closed its own. Both sides. */
  void (*segment_close)(struct env *env, struct env_segment *segment);
  /* Gives the pages back though it stays mapped (reads give zero), and populates them again. */
  void (*segment_discard)(struct env *env, struct env_segment *segment);
  int (*segment_restore)(struct env *env, struct env_segment *segment);

  int (*bell_open)(struct env *env, env_bell *out);
  void (*bell_close)(struct env *env, env_bell bell);
  void (*bell_ring)(struct env *env, env_bell bell); /* any thread; a system call */

  /* ---- node side of links; network worker thread. The environment calls runtime_on_connect,
   * runtime_on_request and runtime_on_hangup between steps of the network worker. */
  /* Answers the request being handled or a later moment; CHI_ESHUTDOWN when the peer is gone, which
   * runtime_on_hangup also tells. Does not close what is shared. */
  int (*link_reply)(struct env *env, env_link link, const void *message, size_t size,
                    const struct env_share *shares, uint32_t count);
  /* After this no upcall about the link comes. */
  void (*link_close)(struct env *env, env_link link);

  /* ---- client side of links; any thread; these block */
  /* Finds the node of an instance and connects. On failure *err says what was looked for. */
  int (*link_open)(struct env *env, const char *instance, env_link *out, chi_error *err);
  /* Sends a request and waits for its answer; callers on several threads are served one after the
   * other. *size: room in, bytes out; *count: room for shares in, number out. CHI_ESHUTDOWN. */
  int (*link_call)(struct env *env, env_link link, const void *request, size_t request_size,
                   void *reply, size_t *size, struct env_share *shares, uint32_t *count);
  /* Sleeps until the bell is rung (CHI_OK, the ring is consumed), deadline (CHI_ETIMEOUT; clock
   * time, UINT64_MAX none) or the link hangs up (CHI_ESHUTDOWN). May return CHI_OK for nothing. */
  int (*link_wait)(struct env *env, env_link link, env_bell bell, uint64_t deadline);
  void (*link_shut)(struct env *env, env_link link);
  /* A descriptor, readable when the bell rings or the link hangs up; -1 where there are none. */
  int (*link_descriptor)(struct env *env, env_link link, env_bell bell);
  /* Gives the CPU to another thread for a moment, in a spin. */
  void (*relax)(struct env *env);

  /* ---- files; worker thread of `worker` */
  /* Starts an operation: 0: it will be handed back by io_reap of the same worker; 1: it has
   * completed already; CHI_EBUSY: no room now, some others are in flight. */
  int (*io_submit)(struct env *env, uint32_t worker, struct env_io *io);
  /* True if io_submit of this operation would hold the thread up: it belongs on a slow worker. */
  bool (*io_blocks)(struct env *env, uint32_t worker, const struct env_io *io);
  /* Completed operations, oldest first, through `next`; NULL: none. A worker with operations in
   * flight is woken by their completion when it sleeps. */
  struct env_io *(*io_reap)(struct env *env, uint32_t worker);

  /* Loads the shared object of a module; stays loaded while the environment lives. Network worker
   * thread; may block. CHI_ENOMODULE, CHI_EVERSION; *err says what was looked for. */
  int (*module_load)(struct env *env, const char *name, const chi_module **out, chi_error *err);

  /* A word that is not 0 in the process that opened the environment, and reads 0 in a child that
   * was forked from it: nothing of the environment may be used there, except to close it. Never
   * NULL. Any thread. */
  const uint32_t *alive;

  /* Client side: sleeps until the clock says `until`. Any thread that is not a worker's. */
  void (*pause)(struct env *env, uint64_t until);
};

#endif

/* ---- sources/runtime.h ---- */
/* runtime.h - one node: open, step, drain, close. What an environment drives.
 *
 * Life: runtime_open, then every worker is stepped (by a thread each, or by one thread in turn)
 * until the state is RUNTIME_STOPPED, then nobody steps any more, then runtime_close. Upcalls and
 * runtime_stop belong to the thread of the network worker, between its steps. */
#ifndef CHI_RUNTIME_H
#define CHI_RUNTIME_H

struct runtime;

enum runtime_state {
  RUNTIME_STARTING,   /* pools of the configuration are being created */
  RUNTIME_SERVING,
  RUNTIME_FAILED,     /* a pool could not be created: runtime_failure tells; then stop it */
  RUNTIME_DRAINING,   /* no new tasks; those accepted go on */
  RUNTIME_CANCELLING, /* the grace period is over: what is left has been cancelled */
  RUNTIME_STOPPED,    /* nothing runs, all containers are destroyed */
  RUNTIME_STUCK       /* a method does not come back, or tasks outlived the second grace period */
};

struct runtime_options {
  const chi_config *config; /* copied where needed; thread counts must be resolved (not 0) */
  const char *instance;     /* "NAME:PORT", for logs and replies */
  uint32_t node;            /* own position in config->hosts */
  const chi_module *const *modules; /* linked in, beside admin and bdev */
  uint32_t module_count;
  /* Called on every change of state by the network worker; must not call back. May be NULL. */
  void (*on_state)(void *arg, enum runtime_state state);
  void *arg;
};

CHI_PRIVATE int runtime_open(struct env *env, const struct runtime_options *options,
                             struct runtime **out, chi_error *err);
/* Only in RUNTIME_STOPPED or before the first step: frees everything. */
CHI_PRIVATE void runtime_close(struct runtime *rt);

/* Workers are numbered: fast ones from 0, then slow ones, and the network worker last. */
CHI_PRIVATE uint32_t runtime_worker_count(const struct runtime *rt);
CHI_PRIVATE uint32_t runtime_network_worker(const struct runtime *rt);
CHI_PRIVATE env_bell runtime_worker_bell(const struct runtime *rt, uint32_t worker);

/* Does up to `budget` pieces of work. Returns true if there may be more to do at once; *deadline
 * receives the time of the next timer (UINT64_MAX: none). Thread of that worker. */
CHI_PRIVATE bool runtime_step(struct runtime *rt, uint32_t worker, uint64_t now, uint32_t budget,
                              uint64_t *deadline);
/* Tasks that this worker has completed or refused. Any thread. */
CHI_PRIVATE uint64_t runtime_worker_done(const struct runtime *rt, uint32_t worker);
/* A cheap look at all sources of work, for a spin between steps. Thread of that worker. */
CHI_PRIVATE bool runtime_has_work(const struct runtime *rt, uint32_t worker);
/* Before a worker parks: announces the sleep and looks once more. True: park until the bell, the
 * deadline of the last step or an I/O completion; false: step again. After either, call
 * runtime_awake before the next step. */
CHI_PRIVATE bool runtime_may_sleep(struct runtime *rt, uint32_t worker);
CHI_PRIVATE void runtime_awake(struct runtime *rt, uint32_t worker);

/* Begins to stop: drains for grace_ns, then cancels and waits as long again. While the node stops,
 * a further call changes nothing, but one that is stuck is given grace_ns more. */
CHI_PRIVATE void runtime_stop(struct runtime *rt, uint64_t grace_ns);
/* The grace period of the stop under way. Network worker. */
CHI_PRIVATE uint64_t runtime_grace(const struct runtime *rt);
CHI_PRIVATE enum runtime_state runtime_state(const struct runtime *rt);
CHI_PRIVATE const chi_error *runtime_failure(const struct runtime *rt);

/* For the handler of a memory fault, on the thread that faulted: if address is in the guard page
 * of the task's stack that runs there, writes "method <name> of pool <id> overran its stack of N
 * bytes" to buf and returns it, else NULL. Safe in a signal handler. */
CHI_PRIVATE const char *runtime_fault(struct runtime *rt, const void *address, char *buf,
                                      size_t size);

CHI_PRIVATE void runtime_on_connect(struct runtime *rt, env_link link, const struct env_peer *peer);
CHI_PRIVATE void runtime_on_request(struct runtime *rt, env_link link, const void *message,
                                    size_t size);
CHI_PRIVATE void runtime_on_hangup(struct runtime *rt, env_link link);

#endif

/* ---- sources/bell.h ---- */
/* bell.h - waking without loss: the words by which a sleeper tells that it must be rung.
 *
 * Sleeper: bell_announce, look at every source once more, park, bell_withdraw, look again.
 * Ringer: publish the work, bell_wanted, and if it says so ring the sleeper's bell. Either the
 * sleeper sees the work or the ringer sees the announcement: both sides fence in between. */
#ifndef CHI_BELL_H
#define CHI_BELL_H

/* Odd: asleep or about to be. Written by the sleeper alone; others may map it read-only. */
struct bell_word {
  uint32_t word;
  uint32_t unused[15]; /* a cache line of its own */
};

CHI_PRIVATE void bell_announce(struct bell_word *b);
CHI_PRIVATE void bell_withdraw(struct bell_word *b);
/* After publishing: true if the sleeper must be rung. *last is the announcement that was answered
 * last, kept by this ringer or, atomically, by several that ring the same bell. */
CHI_PRIVATE bool bell_wanted(const struct bell_word *b, uint32_t *last);
/* The same for a ringer that has fenced since it published. */
CHI_PRIVATE bool bell_wanted_after_fence(const struct bell_word *b, uint32_t *last);

#endif

/* ---- sources/attach.h ---- */
/* attach.h - what a client and a node say to each other over their link, outside shared memory. */
#ifndef CHI_ATTACH_H
#define CHI_ATTACH_H

#define ATTACH_VERSION 1u

enum attach_op {
  ATTACH_HELLO,  /* -> page (read); figures of the node */
  ATTACH_BELLS,  /* id: first worker -> bells, at most ATTACH_BELLS_MAX, in order */
  ATTACH_LEASE,  /* kind, size -> id: chunk; segment (write), none if it was leased here before */
  ATTACH_RETURN, /* id: chunk */
  ATTACH_QUEUE,  /* thread: a number for it -> id: queue; desk (write), board (read), bell */
  ATTACH_CLOSE   /* id: queue */
};

#define ATTACH_BELLS_MAX 64u

struct attach_request {
  uint32_t version, op, kind, id;
  uint64_t size, thread;
};

struct attach_reply {
  int32_t rc;
  uint32_t id;
  uint64_t size;
  uint64_t boot;                       /* of this run of the node */
  uint64_t spin_ns;                    /* how long a waiting client may look before it sleeps */
  uint32_t workers, fast, slow, depth;
  uint32_t nodes, chunks;              /* nodes of the cluster; chunk numbers are below chunks */
  char text[400];                      /* what went wrong */
};

/* Read by clients: how to wake whom. */
struct attach_page {
  uint32_t version, workers;
  uint64_t boot;
  uint32_t unused[12];
  struct bell_word worker[];
};

#endif

/* ---- sources/lane.h ---- */
/* lane.h - submission and completion rings in memory shared between a client and the daemon.
 *
 * A queue has a desk, which the client writes, and a board, which the daemon writes and the client
 * maps read-only. On the desk: three submission rings. On the board: how far each was taken, which
 * worker is its home, and the completion ring, which has room for everything in flight.
 *
 * Every entry carries its turn (which lap of the ring it belongs to), written last; so neither side
 * needs the other's index to know whether an entry is there. The daemon copies an entry before it
 * looks at it, and trusts nothing in it. */
#ifndef CHI_LANE_H
#define CHI_LANE_H

enum lane_kind { LANE_FAST, LANE_SLOW, LANE_NETWORK, LANE_KINDS };
enum lane_op { LANE_RUN, LANE_CANCEL };

#ifndef LANE_ENTRIES
#define LANE_ENTRIES 1024u /* of one submission ring: four pages */
#endif

struct lane_entry {
  uint64_t ref;  /* of the task in shared memory */
  uint32_t slot; /* echoed by the completion; the tag of the task for LANE_CANCEL */
  uint32_t turn; /* lap * 2 + op; where it was taken out: its tag */
};

struct lane_done {
  uint32_t slot;
  int32_t rc;
  uint32_t unused;
  uint32_t turn; /* lap */
};

struct lane_desk {
  struct bell_word client; /* the client's own sleep */
  struct lane_entry entry[LANE_KINDS][LANE_ENTRIES];
};

struct lane_count {
  uint32_t value;
  uint32_t unused[15];
};

struct lane_board {
  uint32_t home[LANE_KINDS]; /* worker that serves the lane now */
  uint32_t unused[13];
  struct lane_count taken[LANE_KINDS];
  struct lane_done done[]; /* lane_done_room(depth) of them */
};

/* Entries of a completion ring for `depth` tasks in flight, and the bytes of a board. */
CHI_PRIVATE uint32_t lane_done_room(uint32_t depth);
CHI_PRIVATE uint64_t lane_board_size(uint32_t depth);

/* ---- client side: one thread */
struct lane_out {
  struct lane_entry *entry;
  const uint32_t *taken;
  uint32_t tail, taken_seen;
};
CHI_PRIVATE void lane_out_init(struct lane_out *o, struct lane_desk *desk,
                               const struct lane_board *board, enum lane_kind kind);
/* False: full. */
CHI_PRIVATE bool lane_put(struct lane_out *o, enum lane_op op, uint64_t ref, uint32_t slot);
/* The tag of what was put last: names an entry among all lanes of a queue; never 0. Both sides
 * know it from the entry's place, so that it need not be written anywhere. */
CHI_PRIVATE uint32_t lane_tag(const struct lane_out *o, enum lane_kind kind);

/* Who serves the lane, to be woken for what was put; orders everything put before it. */
CHI_PRIVATE uint32_t lane_home(const struct lane_board *board, enum lane_kind kind);

struct lane_done_out {
  const struct lane_done *ring;
  uint32_t mask, shift, head;
};
CHI_PRIVATE void lane_done_out_init(struct lane_done_out *o, const struct lane_board *board,
                                    uint32_t depth);
CHI_PRIVATE bool lane_done_pop(struct lane_done_out *o, struct lane_done *out);
CHI_PRIVATE bool lane_done_ready(const struct lane_done_out *o);

/* ---- daemon side. Taking: one worker at a time, under a latch. Completing: any worker. */
struct lane_in {
  struct lane_entry *entry;
  uint32_t *taken;
  uint32_t head, kind;
};
CHI_PRIVATE void lane_in_init(struct lane_in *in, struct lane_desk *desk, struct lane_board *board,
                              enum lane_kind kind);
CHI_PRIVATE bool lane_take(struct lane_in *in, struct lane_entry *out, enum lane_op *op);
/* A hint without the latch; exact for the home worker after a fence while nobody else takes. */
CHI_PRIVATE bool lane_ready(const struct lane_in *in);

struct lane_done_in {
  struct lane_done *ring;
  uint32_t mask, shift;
  uint32_t tail; /* completions so far */
};
CHI_PRIVATE void lane_done_in_init(struct lane_done_in *in, struct lane_board *board,
                                   uint32_t depth);
CHI_PRIVATE void lane_done_push(struct lane_done_in *in, uint32_t slot, int32_t rc);

#endif

/* ---- sources/ring.h ---- */
/* ring.h - small pieces that several workers of one node touch: latch, inbox, task list.
 *
 * Private memory of the daemon only; what is shared with clients is in lane.h. */
#ifndef CHI_RING_H
#define CHI_RING_H

/* A latch guards a handful of instructions, never a method or a system call. */
struct latch {
  uint32_t held;
};

CHI_PRIVATE void latch_lock(struct latch *l);
CHI_PRIVATE bool latch_try(struct latch *l);
CHI_PRIVATE void latch_unlock(struct latch *l);

/* A link in one inbox or list at a time; embedded in what is sent, so that sending cannot fail.
 * `kind` tells the receiver what it is embedded in. */
struct ring_node {
  struct ring_node *next;
  uint32_t kind;
};

/* Many senders, one receiver. */
struct inbox {
  struct ring_node *top; /* newest first */
};

/* Returns true if the inbox was empty: then the receiver may have to be woken. */
CHI_PRIVATE bool inbox_push(struct inbox *b, struct ring_node *n);
/* All that was sent, oldest first, or NULL. */
CHI_PRIVATE struct ring_node *inbox_take(struct inbox *b);
CHI_PRIVATE bool inbox_empty(const struct inbox *b);

/* First in, first out; any worker may push, pop, or take everything (take-over). */
struct ring_list {
  struct latch latch;
  uint32_t count; /* may be read without the latch as a hint; exact after a fence */
  struct ring_node *head, *tail;
};

CHI_PRIVATE void ring_push(struct ring_list *l, struct ring_node *n);
CHI_PRIVATE struct ring_node *ring_pop(struct ring_list *l); /* NULL: empty */
CHI_PRIVATE bool ring_empty(const struct ring_list *l);
/* Appends everything of `from` to `to`; returns how many. */
CHI_PRIVATE uint32_t ring_splice(struct ring_list *to, struct ring_list *from);

/* A gate lets one task at a time into a container. Whoever does not get in is queued, and is let in
 * by the one who leaves: then the gate is its own already. */
struct gate {
  uint32_t state; /* 0 open, 1 taken, 2 taken and perhaps somebody queued */
  struct latch latch;
  struct ring_node *head, *tail;
};

/* True: entered. False: n is queued, to be returned by somebody's gate_leave. */
CHI_PRIVATE bool gate_enter(struct gate *g, struct ring_node *n);
/* The node that is inside now, or NULL. */
CHI_PRIVATE struct ring_node *gate_leave(struct gate *g);

#endif

/* ---- sources/shm.h ---- */
/* shm.h - shared memory in chunks leased to clients: places in it, and the allocator over it.
 *
 * A place is a `ref`: chunk number + 1 in the upper 24 bits, offset in the lower 40; 0 is none.
 * The daemon keeps a table chunk -> memory for each client and resolves refs through it, with
 * bounds. The client allocates in its chunks by an arena whose own data is private memory. */
#ifndef CHI_SHM_H
#define CHI_SHM_H

#define SHM_CHUNK_SIZE (2u << 20)
#define SHM_SPAN_SIZE (64u << 10) /* a chunk is cut into spans, a span into slots of one class */
#define SHM_SPANS (SHM_CHUNK_SIZE / SHM_SPAN_SIZE)
#define SHM_SMALL (32u << 10)     /* up to this, a slot; above, whole spans or an own chunk */
#define SHM_CLASSES 31u
#define SHM_SIZE_MAX (1ull << 39) /* of one allocation */

/* Which budget a chunk counts against. */
enum shm_kind { SHM_MAIN, SHM_CLIENT_DATA, SHM_RUNTIME_DATA, SHM_KINDS };

CHI_INLINE uint64_t shm_ref(uint32_t chunk, uint64_t offset)
{
  return ((uint64_t)(chunk + 1) << 40) | offset;
}

/* ---- daemon side */
struct shm_chunk {
  char *base;
  uint64_t size; /* published last; 0: no such chunk */
};
struct shm_table {
  struct shm_chunk *chunk;
  uint32_t room;
};
/* The memory of a ref, or NULL if [ref, ref + size) is not all inside one chunk or not aligned to
 * 8. Any worker. */
CHI_PRIVATE void *shm_resolve(const struct shm_table *t, uint64_t ref, uint64_t size);
/* Makes a chunk known (network worker). */
CHI_PRIVATE void shm_publish(struct shm_table *t, uint32_t chunk, void *base, uint64_t size);

/* ---- client side: one thread */

/* Where an arena gets its chunks: a multiple of SHM_CHUNK_SIZE bytes. */
struct shm_source {
  int (*lease)(void *arg, enum shm_kind kind, uint64_t size, void **base, uint32_t *chunk);
  void (*give_back)(void *arg, uint32_t chunk);
  void *arg;
};

struct shm_span;
struct shm_lease;
struct shm_arena {
  const struct alloc *alloc;
  struct shm_source source;
  enum shm_kind kind;
  struct shm_span *partial[SHM_CLASSES]; /* spans with a free slot, by class */
  struct shm_lease **lease;              /* sorted by base */
  uint32_t lease_count, lease_room, idle; /* idle: leases with nothing in use */
  struct shm_lease *last;                /* the one found last */
  uint64_t used;                         /* bytes handed out, rounded to slots */
};

CHI_PRIVATE void shm_arena_init(struct shm_arena *a, const struct alloc *alloc, enum shm_kind kind,
                                const struct shm_source *source);
/* Forgets everything; chunks are not given back. */
CHI_PRIVATE void shm_arena_fini(struct shm_arena *a);
/* Gives every chunk back and forgets everything: nothing in them is used any more. */
CHI_PRIVATE void shm_arena_give_back(struct shm_arena *a);
/* Memory aligned to 64, and to 4096 if size is 4096 or more. CHI_ENOMEM, or what lease returned. */
CHI_PRIVATE int shm_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref);
/* CHI_EINVAL if p isn't the start of something allocated here: then nothing has changed. */
CHI_PRIVATE int shm_put(struct shm_arena *a, void *p);
/* The ref of memory that was allocated here, and the bytes it has room for; CHI_EINVAL. */
CHI_PRIVATE int shm_find(struct shm_arena *a, const void *p, uint64_t *ref, uint64_t *room);

#endif

/* ---- sources/client.h ---- */
/* client.h - a program's side of shared memory: attach, queues, submit, reap, wait, cancel. */
#ifndef CHI_CLIENT_H
#define CHI_CLIENT_H

/* What chi_client_open does, in any environment. env must outlive the client; if `dispose` is not
 * NULL it is called with env when the client has been closed. */
CHI_PRIVATE int client_open(struct env *env, void (*dispose)(struct env *env), const char *instance,
                            chi_client **out, chi_error *err);

/* ---- between client.c (attach and memory) and client_task.c (tasks under way) */

/* One connection to one run of a node. Queues and their memory hold on to it after it died. */
struct client_link {
  struct env *env;
  env_link link;
  uint32_t users, dead; /* atomic */
  uint64_t boot, spin_ns;
  uint32_t workers, nodes, chunks;
  struct env_segment page_segment;
  const struct attach_page *page;
  env_bell *bell;            /* by worker */
  struct env_segment *chunk; /* by chunk number; an entry is written by who leased it first */
};

/* The memory of a queue from one connection. */
struct client_memory {
  struct client_memory *next; /* older */
  chi_queue *queue;
  struct client_link *link;
  struct shm_arena task, bulk;
};

enum client_slot_state { CLIENT_FREE, CLIENT_FLYING, CLIENT_DONE };

/* A task under way. */
struct client_slot {
  void *task;
  chi_done_fn *done;
  void *arg;
  uint32_t next, prev; /* in the free list, or of those that are done */
  uint32_t tag;
  uint8_t state, lane; /* enum client_slot_state, enum lane_kind */
  bool forget;
};

#define CLIENT_NO_SLOT UINT32_MAX

struct chi_queue {
  chi_queue *next;
  chi_client *client;
  struct client_memory *memory; /* the current one first */
  uint32_t id, depth;
  uint32_t number; /* among the client's: stands for the thread that uses it */
  struct env_segment desk_segment, board_segment;
  struct lane_desk *desk;
  const struct lane_board *board;
  struct lane_out out[LANE_KINDS];
  struct lane_done_out done;
  env_bell bell;
  uint32_t *rung; /* by worker */
  struct client_slot *slot;
  uint32_t slot_used, slot_free; /* slots ever used; first free one */
  uint32_t done_first, done_last, flying;
  uint32_t calls; /* done ones that have a callback */
  uint64_t window; /* how long to spin before sleeping, nanoseconds */
  uint32_t fruitless;
  bool armed;
  uint64_t listen_at; /* when a look that finds nothing asks whether the daemon is still there */
  chi_error error;
};

struct chi_client {
  struct env *env;
  void (*dispose)(struct env *env);
  char instance[CHI_PATH_MAX];
  uint32_t queue_numbers; /* atomic */
  struct latch latch;     /* the list of queues, and current */
  chi_queue *queues;
  struct client_link *current;
};

/* CHI_OK if the queue may be used now: the process is the one that opened it, and the queue is on
 * the client's current connection (it moves there if need be). */
CHI_PRIVATE int client_queue_check(chi_queue *q);
CHI_PRIVATE int client_fail(chi_queue *q, int code, const char *text);
/* Ends everything under way on a dead connection with CHI_ESHUTDOWN. */
CHI_PRIVATE void client_queue_fail_all(chi_queue *q);
CHI_PRIVATE void client_queue_reset(chi_queue *q);
/* Waits until nothing is under way; false: time is up. */
CHI_PRIVATE bool client_queue_settle(chi_queue *q, uint64_t timeout_ns);
/* The memory an address was allocated in; NULL. */
CHI_PRIVATE struct client_memory *client_memory_of(chi_queue *q, const void *p, uint64_t *ref,
                                                   uint64_t *room, bool *bulk);

#endif

/* ---- sources/heap.h ---- */
/* heap.h - entries ordered by (time, seq): what is due first, and removal of any of them. */
#ifndef CHI_HEAP_H
#define CHI_HEAP_H

/* Lives inside what is ordered; the owner sets time and seq and leaves them alone while it is in a
 * heap. All zero is an entry in no heap. In at most one heap at a time. */
struct heap_entry {
  uint64_t time;
  uint64_t seq;   /* breaks ties; the owner keeps (time, seq) unique if order must be certain */
  uint32_t index; /* private: 1 + position, 0 in no heap */
};

/* A copy of the key beside the pointer, so that comparing doesn't touch the entries. */
struct heap_slot {
  uint64_t time, seq;
  struct heap_entry *entry;
};

struct heap {
  struct heap_slot *slot;
  uint32_t count; /* entries in it; for reading */
  uint32_t room;
  const struct alloc *alloc;
};

/* An empty heap, which takes its memory from alloc when it needs it. */
CHI_PRIVATE void heap_init(struct heap *heap, const struct alloc *alloc);

/* Gives back the memory; entries still in it are simply forgotten (their index stays set). */
CHI_PRIVATE void heap_fini(struct heap *heap);

/* Room for n entries in all, so that pushing up to that many cannot fail. CHI_OK or CHI_ENOMEM,
 * which changes nothing. */
CHI_PRIVATE int heap_reserve(struct heap *heap, uint32_t n);

/* Puts an entry that is in no heap into this one. CHI_OK or CHI_ENOMEM, which changes nothing. */
CHI_PRIVATE int heap_push(struct heap *heap, struct heap_entry *entry);

/* The entry with the lowest (time, seq), still in the heap; NULL if the heap is empty. */
CHI_PRIVATE struct heap_entry *heap_top(const struct heap *heap);

/* Takes that entry out; NULL if the heap is empty. */
CHI_PRIVATE struct heap_entry *heap_pop(struct heap *heap);

/* Takes out an entry that is in this heap. */
CHI_PRIVATE void heap_remove(struct heap *heap, struct heap_entry *entry);

/* Whether the entry is in this heap. */
CHI_PRIVATE bool heap_contains(const struct heap *heap, const struct heap_entry *entry);

#endif

/* ---- sources/task.h ---- */
/* task.h - a task inside the daemon: its record, and the copy between client memory and private.
 *
 * Dispatch copies header and IN fields into private memory, validates the copy, and the method
 * runs on the copy; OUT is written back at completion. Nothing else reads a client's memory. */
#ifndef CHI_TASK_H
#define CHI_TASK_H

struct worker;
struct queue;
struct container;
struct worker_fiber;
struct method;

/* What a ring_node is embedded in. */
enum node_kind {
  NODE_TASK,       /* chi_ctx: to be started, gate not entered yet */
  NODE_GRANTED,    /* chi_ctx: to be started, inside its container's gate */
  NODE_RAW,        /* task_raw: a lane entry whose pool the taker did not know */
  NODE_IO,         /* worker_io: a file operation for a slow worker */
  NODE_IO_DONE,    /* worker_io: completed, back to the task's worker */
  NODE_RESUME,     /* chi_ctx: woken, by another worker */
  NODE_ENTERED,    /* chi_ctx: blocked task that has re-entered its gate */
  NODE_SUBTASK,    /* chi_ctx: a completed subtask, to the parent's worker */
  NODE_TABLE,      /* pool_notice: a new snapshot of the pool table */
  NODE_TABLE_SEEN, /* pool_notice: the worker uses it */
  NODE_LANE,       /* queue_lane: to be served by this worker */
  NODE_CALL        /* chi_ctx of the node's own: completed, to the network worker */
};

enum task_state {
  TASK_QUEUED,   /* accepted, waiting to be started */
  TASK_RUNNING,  /* its body is on a worker */
  TASK_BLOCKED,  /* its body waits on a fiber of its own */
  TASK_RESTING   /* periodic, between runs */
};

enum task_wait {
  TASK_WAIT_NONE,
  TASK_WAIT_TIME,    /* sleep or yield */
  TASK_WAIT_SUBTASK, /* until one, or all, subtasks have completed */
  TASK_WAIT_SYNC,    /* in the list of a lock or event */
  TASK_WAIT_IO,      /* a file operation: cannot be interrupted */
  TASK_WAIT_PAUSE,   /* as TIME, but cannot be interrupted */
  TASK_WAIT_JOIN,    /* as SUBTASK for all, at the end of its body: cannot be interrupted */
  TASK_WAIT_GATE     /* to re-enter its container */
};

/* Where the result goes. */
enum task_origin { TASK_FROM_CLIENT, TASK_FROM_PARENT, TASK_FROM_NODE };

struct task_list {
  chi_ctx *head, *tail;
};

/* The record of an accepted task; a method sees it as its chi_ctx. Owned by the worker that runs
 * it; what others may touch is said at the field. */
struct chi_ctx {
  struct ring_node node; /* in one list or inbox */
  struct worker *worker; /* whose fiber it has; set when it is started */
  struct container *container;
  const struct method *method;
  chi_task *task; /* private copy */
  uint32_t size;  /* bytes of record and copy together, as allocated */
  uint8_t origin, state, wait, depth;
  int32_t cancel;    /* CHI_ECANCELLED asked by the parent or the node: atomic, any worker */
  int32_t wait_rc;   /* what the wait returns */
  uint64_t id;       /* of this task among all of the node's run: for traces */
  uint64_t root;     /* lock group: the id of the task at the root */
  uint64_t accepted; /* node's clock */
  uint64_t deadline; /* UINT64_MAX: none */
  struct worker_fiber *fiber; /* while blocked */
  struct heap_entry timer;
  chi_ctx *blocked_next, *blocked_prev; /* the worker's list of blocked tasks */

  struct queue *queue; /* of the client's task at the root; NULL below a task of the node */
  uint32_t slot, tag;
  chi_task *shared; /* the client's own task */

  chi_ctx *parent, *child, *sibling; /* subtasks, newest first: parent's worker only */
  uint32_t running;                  /* subtasks not completed: parent's worker only */
  bool ended;                        /* a subtask that isn't under way: parent's worker only */
  const chi_ctx *awaited;            /* the subtask waited for; NULL: all */

  void *sync;                        /* lock or event waited for */
  chi_ctx *sync_next, *sync_prev;    /* its list of waiters: under its latch */
  uint32_t sync_mode;
  void *sync_hold;                   /* memory for the hold of a reader that waits */
  void (*call_done)(chi_ctx *ctx);   /* TASK_FROM_NODE: on the network worker */
  void *call_arg;
  bool slow;                         /* estimated to belong on a slow worker */
  bool shielded;                     /* is not cancelled */
  bool resolved;                     /* container and method are set: no look-up at submission */
};

/* A lane entry on its way to the network worker. */
struct task_raw {
  struct ring_node node;
  struct queue *queue;
  uint64_t ref;
  uint32_t slot, tag;
};

/* ---- how a declared struct is copied */

#define TASK_RUNS 12
struct task_plan {
  const chi_type *type;
  bool plain;         /* scalars only: one memcpy in */
  uint32_t out_count; /* runs of OUT scalars, merged; UINT32_MAX: field by field */
  struct {
    uint32_t offset, size;
  } out[TASK_RUNS];
};

/* CHI_EINVAL (with *err) if a declaration is impossible: sizes, kinds, overlaps. */
CHI_PRIVATE int task_plan_init(struct task_plan *plan, const chi_type *type, chi_error *err);
/* Copies header and IN fields of `shared` into the zeroed `copy` and validates them. Bulk fields
 * are resolved through the client's table. CHI_ECORRUPT. */
CHI_PRIVATE int task_copy_in(const struct task_plan *plan, const struct shm_table *table,
                             const chi_task *header, const chi_task *shared, chi_task *copy);
/* Writes OUT fields back. The code travels with the completion. */
CHI_PRIVATE void task_copy_out(const struct task_plan *plan, const chi_task *copy,
                               chi_task *shared);

CHI_PRIVATE void task_list_push(struct task_list *l, chi_ctx *ctx); /* through node.next */
CHI_PRIVATE chi_ctx *task_list_pop(struct task_list *l);

/* A record is followed by its private copy. */
#define TASK_RECORD ((sizeof(chi_ctx) + 63) / 64 * 64)
CHI_INLINE chi_ctx *task_record(const void *task)
{
  return (chi_ctx *)(void *)((char *)(uintptr_t)task - TASK_RECORD);
}

CHI_INLINE chi_ctx *task_of(struct ring_node *n)
{
  return CHI_CONTAINER_OF(n, chi_ctx, node);
}

#endif

/* ---- sources/module.h ---- */
/* module.h - the registry of modules: method tables, checked and indexed once. */
#ifndef CHI_MODULE_H
#define CHI_MODULE_H

#define MODULE_METHOD_IDS 256u /* method ids are below this */
#define MODULE_OWN_METHODS 10u /* ids below are the system's */
#define METHOD_UNCOUNTED UINT32_MAX /* index of a method that is in no module's table */

struct method {
  const chi_method *def;
  struct task_plan plan;
  uint32_t index;  /* in its module, for figures */
  uint64_t weight; /* tally: measured cost over estimate, times 1024; any worker corrects it */
};

struct module {
  const chi_module *def;
  struct module *next;
  uint32_t count;
  uint16_t by_id[MODULE_METHOD_IDS]; /* index + 1 */
  struct method method[];
};

struct module_list {
  const struct alloc *alloc;
  struct module *first;
};

/* Checks the declaration and adds it. CHI_EINVAL, CHI_EVERSION, CHI_EEXIST, CHI_ENOMEM. */
CHI_PRIVATE int module_add(struct module_list *l, const chi_module *def, chi_error *err);
/* Whether a module has this name, with or without a leading "chimaera_" on either side. */
CHI_PRIVATE bool module_is_named(const chi_module *def, const char *name);
/* By name, in the same way. NULL: not there. */
CHI_PRIVATE struct module *module_find(const struct module_list *l, const char *name);
CHI_PRIVATE void module_free_all(struct module_list *l);

CHI_INLINE struct method *module_method(struct module *m, uint32_t id)
{
  return id < MODULE_METHOD_IDS && m->by_id[id] ? &m->method[m->by_id[id] - 1] : NULL;
}

#endif

/* ---- sources/pool.h ---- */
/* pool.h - pools, their containers and figures, and snapshots of the pool table.
 *
 * Pools belong to the network worker. The other workers look pools up in immutable snapshots that
 * are handed to them by message; a container's figures are counted by each worker for itself. */
#ifndef CHI_POOL_H
#define CHI_POOL_H

enum pool_state { POOL_CREATING, POOL_READY, POOL_DESTROYED, POOL_FAILED };

#define POOL_BUCKETS 40u /* of service time: powers of two of nanoseconds in halves, from 64 ns */

/* One method on one worker: tallies. */
struct pool_figures {
  uint64_t count, errors, sampled, sampled_ns;
  uint64_t bucket[POOL_BUCKETS];
};

/* What one worker knows of one container. */
struct pool_tally {
  uint64_t active;              /* tally: accepted less ended here; the sum over workers is meant */
  struct pool_figures *figures; /* by method index; NULL until something was counted */
  uint64_t unused[6];
};

struct container {
  struct pool *pool;
  uint32_t index;
  bool parallel;
  struct gate gate;
  void *state;
  struct pool_tally *tally; /* by worker */
};

struct pool {
  struct pool *next;
  chi_pool_id id;
  char name[CHI_PATH_MAX];
  struct module *module;
  enum pool_state state;
  uint32_t doomed; /* atomic: being destroyed, periodic tasks end */
  void *params; /* module->def->params->size bytes, or NULL */
  uint32_t workers;
  struct container container;
  chi_event created; /* set when it is no longer in creation */
  struct ring_node *parked, **parked_end; /* task_raw that wait for creation */
};

struct pool_entry {
  chi_pool_id id;
  enum pool_state state;
  struct pool *pool;
};

/* A snapshot: never changed after pool_table_build; counted by the network worker alone. */
struct pool_table {
  uint64_t version;
  uint32_t users, mask;
  struct pool_entry slot[];
};

/* A snapshot on its way to a worker and back. */
struct pool_notice {
  struct ring_node node;
  uint32_t worker;
  bool under_way;
  struct pool_table *table;  /* to be used */
  struct pool_table *former; /* filled by the worker: no longer used there */
};

CHI_PRIVATE int pool_open(const struct alloc *alloc, uint32_t workers, chi_pool_id id,
                          const char *name, struct module *module, struct pool **out);
CHI_PRIVATE void pool_close(const struct alloc *alloc, struct pool *pool);
/* Tasks accepted and not ended. Exact once every worker has a snapshot without the pool; before
 * that, a figure. */
CHI_PRIVATE uint64_t pool_active(const struct pool *pool);
CHI_PRIVATE void pool_park(struct pool *pool, struct ring_node *raw);

CHI_PRIVATE struct pool_table *pool_table_build(const struct alloc *alloc, struct pool *first,
                                                uint64_t version);
CHI_PRIVATE void pool_table_free(const struct alloc *alloc, struct pool_table *t);
CHI_PRIVATE const struct pool_entry *pool_table_find(const struct pool_table *t, chi_pool_id id);

/* Counts one run; ns 0: it was not timed. */
CHI_PRIVATE void pool_count(const struct alloc *alloc, struct container *c, uint32_t worker,
                            const struct method *method, int rc, uint64_t ns);
/* Figures of a method over all workers. */
CHI_PRIVATE void pool_figures_sum(const struct pool *pool, uint32_t method,
                                  struct pool_figures *out);
/* The upper end of a bucket in nanoseconds. */
CHI_PRIVATE uint64_t pool_bucket_end(uint32_t bucket);
/* The time below which `percent` of the sampled runs stayed: upper end of a bucket; 0: none. */
CHI_PRIVATE uint64_t pool_percentile(const struct pool_figures *f, uint32_t percent);

CHI_INLINE bool pool_id_equal(chi_pool_id a, chi_pool_id b)
{
  return a.major == b.major && a.minor == b.minor;
}

#endif

/* ---- sources/fiber.h ---- */
/* fiber.h - many stacks on one thread: switching from one to another by hand. */
#ifndef CHI_FIBER_H
#define CHI_FIBER_H

/* x86-64 switches by hand in a few nanoseconds; everything else, and a build that defines
 * CHI_FIBER_UCONTEXT, through ucontext. */
#if !defined(CHI_FIBER_UCONTEXT) && (!defined(__x86_64__) || defined(__ILP32__))
#define CHI_FIBER_UCONTEXT 1
#endif

#ifdef CHI_FIBER_UCONTEXT
#include <ucontext.h>
#endif

/* How far below a stack an overrun is still told to be its own: a method's local array is rarely
 * larger, so that no step of it gets past the guard. Addresses only, no memory. */
#define FIBER_GUARD_SIZE (1u << 20)
#define FIBER_STACK_MIN 4096  /* the least a stack may have; real methods need far more */

/* What runs on a fiber. It never returns: its last act is a switch away for good. */
typedef void fiber_entry(void *arg);

/* A stack and where its code was left. At any moment exactly one fiber runs on a thread. Private to
 * fiber.c; not moved in memory between fiber_init and fiber_fini. */
struct fiber {
  void *sp;               /* where it goes on; NULL while it runs */
  const void *stack;      /* lowest address; of a host known to sanitizers only */
  size_t size;            /* bytes of stack */
  fiber_entry *entry;     /* NULL: a host */
  void *arg;              /* for entry */
  struct fiber *previous; /* who switched here last */
  void *fake_stack;       /* AddressSanitizer's, of a fiber that doesn't run */
  void *tsan;             /* ThreadSanitizer's handle */
  unsigned valgrind;      /* valgrind's stack id */
#ifdef CHI_FIBER_UCONTEXT
  ucontext_t context;
#endif
};

/* Makes *host stand for the stack that the calling thread runs on at this moment, so that one can
 * switch away from it and back. One host for each thread at a time. */
CHI_PRIVATE void fiber_init_host(struct fiber *host);

/* Prepares *f so that the first switch to it calls entry(arg) on the given stack, with the
 * floating-point modes (rounding, masks) that the caller of fiber_init has now. The stack is the
 * caller's, at least FIBER_STACK_MIN bytes, and stays untouched by others until fiber_fini. Whoever
 * maps many equal stacks should vary size by some cache lines, else all their tops fall into the
 * same cache set. Any thread. */
CHI_PRIVATE void fiber_init(struct fiber *f, void *stack, size_t size, fiber_entry *entry,
                            void *arg);

/* Leaves *from, which must be the one that runs on this thread, and goes on in *to, which must be
 * suspended. Returns when someone switches to *from again. Kept over the switch: what a function
 * call keeps, with the floating-point modes; the signal mask must be the same in both. A fiber may
 * be switched to only on the thread on which it ran last (a new one: on any), because compilers
 * keep addresses of thread-local variables over calls. */
CHI_PRIVATE void fiber_switch(struct fiber *from, struct fiber *to);

/* Forgets *f, which must not be running: what is on its stack is dropped without being unwound. A
 * fiber that never ran is fine, and so is a host. The stack is the caller's again, to be unmapped
 * or used for another fiber. Any thread. */
CHI_PRIVATE void fiber_fini(struct fiber *f);

/* Whether address lies in the stack of *f or in the FIBER_GUARD_SIZE bytes directly below, where a
 * guard catches an overrun. Always false for a host. Reads only; fit for a signal handler. */
CHI_PRIVATE bool fiber_holds(const struct fiber *f, const void *address);

#endif

/* ---- sources/log.h ---- */
/* log.h - lines for people: formatted only if wanted, bounded, impossible to forge. */
#ifndef CHI_LOG_H
#define CHI_LOG_H

#define LOG_LINE_MAX 512 /* bytes of a line with its NUL */

/* Where lines go. sink gets each line without a newline, on the thread that wrote it, and keeps no
 * pointer to it; it adds time and place, and guards itself if threads share it. */
struct log {
  void (*sink)(void *arg, int level, const char *line); /* NULL: nowhere */
  void *arg;
  int level; /* an enum chi_log_level; lines below it are dropped unformatted */
};

/* Holds back repetitions of one kind of line. All zero to begin with; not shared by threads. */
struct log_limit {
  uint64_t next;       /* when the next line may pass, nanoseconds */
  uint32_t suppressed; /* lines held back since the last one that passed */
};

/* Writes a line. What doesn't fit ends in "..."; control characters and malformed UTF-8 become '?',
 * so that no name within it begins a line of its own. */
CHI_PRIVATE void log_write(const struct log *log, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As log_write, but at most one line a second for each limit; the next line that passes says how
 * many were held back. now: nanoseconds of any clock; a clock set back doesn't silence it. */
CHI_PRIVATE void log_limited(const struct log *log, struct log_limit *limit, uint64_t now,
                             int level, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#endif

/* ---- sources/queue.h ---- */
/* queue.h - a client's queue as the daemon sees it: three lanes and the way back. */
#ifndef CHI_QUEUE_H
#define CHI_QUEUE_H

struct session;

/* One submission ring with its home. The latch covers taking entries and changing home. */
struct queue_lane {
  struct ring_node node; /* NODE_LANE, on the way to a new home */
  struct latch latch;
  struct lane_in in;
  struct queue *queue;
  uint32_t kind;      /* enum lane_kind */
  uint32_t home;      /* worker; changed under the latch, on the network worker */
  uint32_t closed;    /* nothing more is taken: set under the latch */
  uint32_t holders;   /* workers that have it in their list, and one while it is moving */
  uint32_t moving;    /* its node is on the way: network worker sets, the new home clears */
};

struct queue {
  struct queue *next; /* of the session */
  struct session *session;
  struct env *env;
  const struct shm_table *table;
  uint32_t id, depth;
  struct lane_desk *desk;
  struct lane_board *board;
  struct queue_lane lane[LANE_KINDS];
  struct lane_done_in done;
  env_bell bell; /* the client's */
  uint32_t rung; /* last announcement answered: atomic */
  uint32_t gone; /* the client is gone: atomic; its tasks are cancelled, its results dropped */
  uint32_t *tag; /* by slot: of the task in it, 0 once it is cancelled; atomic */
  uint64_t *ended;  /* by worker: tasks ended, tally */
  uint32_t workers;
  struct env_segment desk_segment, board_segment;
};

/* Completes what was submitted under `slot`, and wakes the client if it sleeps. Any worker. The
 * last access to the queue for this task: it may be freed thereafter. */
CHI_PRIVATE void queue_complete(struct queue *q, uint32_t worker, uint32_t slot, int32_t rc);
/* An entry that asks for no answer has been dealt with. */
CHI_PRIVATE void queue_forget(struct queue *q, uint32_t worker);
/* The slot is that of the task with this tag from now on. Under the latch of the task's lane, since
 * its cancellation comes through the same lane. */
CHI_PRIVATE void queue_hold(struct queue *q, uint32_t slot, uint32_t tag);
/* False: the task isn't there any more. Any worker. */
CHI_PRIVATE bool queue_cancel(struct queue *q, uint64_t slot, uint32_t tag);
/* Of a task that hasn't ended. */
CHI_PRIVATE bool queue_cancelled(const struct queue *q, uint32_t slot, uint32_t tag);
/* Entries taken and not dealt with: exact when all lanes are closed. */
CHI_PRIVATE uint32_t queue_in_flight(const struct queue *q);

#endif

/* ---- sources/worker.h ---- */
/* worker.h - the step: lanes, tasks, ready fibers, blocked tasks, timers, take-over. */
#ifndef CHI_WORKER_H
#define CHI_WORKER_H

enum worker_kind { WORKER_FAST, WORKER_SLOW, WORKER_NETWORK };

#define WORKER_SLOW_NS 50000u   /* tasks estimated at this or more belong on slow workers */
#define WORKER_FIBERS 1024u     /* tasks begun and not ended, per worker */
#define WORKER_RESERVE 64u      /* more of them for each level of subtasks */
#define WORKER_DEPTH 16u        /* levels of subtasks */
#define WORKER_SPARES 32u       /* stacks kept for the next burst, per worker */
#define WORKER_RECORDS 8u       /* size classes of records: 512 << class */
#define WORKER_STUCK_NS 20000000u /* a method this long in one go loses its worker's other work */

struct worker;

/* A stack on which the loop runs, or a blocked task sleeps. */
struct worker_fiber {
  struct fiber fiber;
  struct env_stack stack;
  struct worker *worker;
  struct worker_fiber *next; /* among the spare ones */
};

/* A file operation on behalf of a task: lives on the task's stack. */
struct worker_io {
  struct ring_node node;
  struct env_io io;
  chi_ctx *ctx;
  struct worker_io *next;
};

/* What the workers of a node share. */
struct worker_crew {
  struct env *env;
  const struct alloc *alloc;
  struct log log;
  struct latch refusals_latch;
  struct log_limit refusals; /* one line a second for all workers */
  struct worker *worker; /* fast ones, slow ones, the network worker */
  uint32_t count, fast, slow;
  uint32_t node, nodes;
  uint64_t stack_size;
  uint64_t cancel_epoch; /* atomic: rises when somebody asked for a cancellation */
  uint32_t cancel_all;   /* atomic: every task is cancelled */
  uint32_t draining;     /* atomic: nothing new is accepted from clients */
  uint32_t watching;     /* atomic: the network worker looks after the others */
  uint32_t turn;         /* atomic: round robin over slow workers */
  /* Upcalls, on the network worker: a lane entry for a pool that is not ready (the callee owns
   * raw); one worker's answer to a notice. */
  void (*on_raw)(void *arg, struct task_raw *raw);
  void (*on_notice)(void *arg, struct pool_notice *notice);
  void *arg;
};

struct worker {
  struct worker_crew *crew;
  uint32_t index, kind;
  /* touched by others */
  struct inbox inbox;
  struct ring_list queue;  /* tasks of clients, not begun */
  struct ring_list urgent; /* what others wait for: subtasks, tasks inside a gate, operations */
  struct bell_word *word;
  env_bell bell;
  uint32_t awake, inside; /* atomic: stepped lately; inside a method */
  uint32_t full;          /* atomic: it has no stack to begin one more task with */
  uint64_t beat, accepted, ended, refused, busy_ns, blocked_count, resting; /* tallies */
  uint64_t beat_seen; /* network worker: at its last look */
  bool stuck;         /* network worker: full, or inside a method since the look before */
  /* its own */
  uint64_t now, cancel_seen, ids;
  uint32_t budget, sample, switches;
  bool more;
  struct pool_table *table;
  const struct pool_entry *last; /* found last */
  struct queue_lane **lane;
  uint32_t lane_count, lane_room, lane_at, lane_run;
  struct ring_node *adopt; /* lanes for which there was no memory yet */
  struct fiber host;
  struct worker_fiber *fiber, *spare;
  uint32_t fibers, spares; /* the first is read by others, as is lane_count */
  chi_ctx *running;
  struct task_list ready;
  chi_ctx *blocked;
  struct heap timer;
  uint64_t timer_seq;
  uint32_t io_flight;
  struct worker_io *io_first, **io_end; /* waiting for room in the environment */
  struct {
    chi_ctx *first;
    uint32_t count;
  } record[WORKER_RECORDS];
  uint32_t *rung; /* by worker: announcement answered last */
};

CHI_PRIVATE int worker_open(struct worker *w, struct worker_crew *crew, uint32_t index,
                            enum worker_kind kind, struct bell_word *word);
CHI_PRIVATE void worker_close(struct worker *w);

/* See runtime.h. */
CHI_PRIVATE bool worker_step(struct worker *w, uint64_t now, uint32_t budget, uint64_t *deadline);
CHI_PRIVATE bool worker_has_work(const struct worker *w);
CHI_PRIVATE bool worker_may_sleep(struct worker *w);
CHI_PRIVATE void worker_awake(struct worker *w);

/* Sends n to another worker's inbox and wakes it; `from` is the sender. Any worker. */
CHI_PRIVATE void worker_send(struct worker *from, struct worker *to, struct ring_node *n);
/* Rings a worker that sleeps. */
CHI_PRIVATE void worker_ring(struct worker *from, struct worker *to);
/* Makes every worker look whether a task of its own is cancelled. */
CHI_PRIVATE void worker_cancel_changed(struct worker *from);

/* A record with room for a task of `size` bytes, zeroed but for the copy; NULL: no memory. */
CHI_PRIVATE chi_ctx *worker_record(struct worker *w, uint32_t size);
CHI_PRIVATE void worker_record_free(struct worker *w, chi_ctx *ctx);
/* Takes a lane entry that was sent as raw and whose pool is ready now. Network worker. */
CHI_PRIVATE void worker_accept_raw(struct worker *w, struct task_raw *raw);
/* Completes a raw entry with a code instead. */
CHI_PRIVATE void worker_refuse_raw(struct worker *w, struct task_raw *raw, int rc);
/* An id for a task that begins inside the node. */
CHI_INLINE uint64_t worker_new_id(struct worker *w)
{
  return (uint64_t)(w->index + 1) << 48 | ++w->ids | 1ull << 63; /* clients' ids begin with 0 */
}
/* Submits a record whose container and method are set, from the worker w: starts it there or on
 * a slow worker. */
CHI_PRIVATE void worker_submit(struct worker *w, chi_ctx *ctx);

/* For the running task. Blocks until woken, `until` (UINT64_MAX: none) or, unless the wait cannot
 * be interrupted, cancellation; returns what the waker gave, CHI_ETIMEOUT or CHI_ECANCELLED. */
CHI_PRIVATE int worker_block(chi_ctx *ctx, enum task_wait wait, uint64_t until);
/* Wakes a blocked task with rc, once. `from`: the worker that calls. */
CHI_PRIVATE void worker_wake(struct worker *from, chi_ctx *ctx, int rc);
/* Wakes a list linked by sync_next with CHI_OK. */
CHI_PRIVATE void worker_wake_all(struct worker *from, chi_ctx *woken);
/* Runs a file operation for the running task; returns its result. */
CHI_PRIVATE int64_t worker_io_run(chi_ctx *ctx, struct env_io *io);
/* CHI_OK, CHI_ECANCELLED or CHI_ETIMEOUT. */
CHI_PRIVATE int worker_cancelled(const chi_ctx *ctx);

/* Network worker: looks which of the others are stuck: in a method, or without a stack to begin one
 * more task with. True: one of them is awake. */
CHI_PRIVATE bool worker_look(struct worker *network);
/* Network worker: gives what has not begun on a stuck worker to another. Returns the heir of worker
 * `index`, or its own index if it isn't stuck or all are. */
CHI_PRIVATE uint32_t worker_relieve(struct worker *network, uint32_t index);
/* Gives a lane a home and tells the worker. Network worker. */
CHI_PRIVATE void worker_home(struct worker *network, struct queue_lane *lane, uint32_t home);

/* ---- between worker.c, worker_accept.c and worker_io.c */
/* A slow worker that isn't inside a method, if there is one; in turn. */
CHI_PRIVATE struct worker *worker_of_slow(struct worker_crew *crew);
/* Starts an operation from this worker's loop; one that finds no room waits its turn. */
CHI_PRIVATE void worker_io_start(struct worker *w, struct worker_io *wio);
/* Hands on what has completed, and starts what waited; false: nothing has. */
CHI_PRIVATE bool worker_io_reap(struct worker *w);
/* Whether a body of that depth may be begun: there is a fiber to go on with if it blocks. */
CHI_PRIVATE bool worker_may_begin(struct worker *w, uint32_t depth);
/* Takes one entry from a lane and deals with it; false: there was none. */
CHI_PRIVATE bool worker_accept(struct worker *w, struct queue_lane *lane);
/* Enters the container's gate and runs the body to its end or first block. The worker's stack. */
CHI_PRIVATE void worker_begin(struct worker *w, chi_ctx *ctx);

/* The running task whose stack or guard holds the address, or NULL. Signal-safe. */
CHI_PRIVATE const chi_ctx *worker_fault(const struct worker *w, const void *address);

#endif

/* ---- sources/directory.h ---- */
/* directory.h - the pools of this node: owned by the network worker, published to the others. */
#ifndef CHI_DIRECTORY_H
#define CHI_DIRECTORY_H

struct directory {
  struct worker_crew *crew;
  struct pool *first;
  uint64_t version;
  struct pool_table *current;
  struct pool_notice *notice; /* by worker */
  uint64_t *seen;             /* by worker: version it uses */
};

/* Gives every worker an empty table. Before the first step. */
CHI_PRIVATE int directory_open(struct directory *d, struct worker_crew *crew);
/* After the last step: frees the pools and tables that are left. */
CHI_PRIVATE void directory_close(struct directory *d);

CHI_PRIVATE struct pool *directory_find(const struct directory *d, chi_pool_id id);
CHI_PRIVATE struct pool *directory_find_name(const struct directory *d, const char *name);
CHI_PRIVATE void directory_add(struct directory *d, struct pool *pool);
CHI_PRIVATE void directory_remove(struct directory *d, struct pool *pool);
/* Tells the workers. CHI_ENOMEM: they were not told. */
CHI_PRIVATE int directory_publish(struct directory *d);
/* True once every worker has what was published last. */
CHI_PRIVATE bool directory_settled(const struct directory *d);
CHI_PRIVATE void directory_on_notice(struct directory *d, struct pool_notice *notice);

#endif

/* ---- sources/session.h ---- */
/* session.h - clients as their node sees them: attach, lease memory, open queues, vanish.
 *
 * All of it belongs to the network worker. What workers touch of a client (its queues, its chunk
 * table) stays until its last task has ended. */
#ifndef CHI_SESSION_H
#define CHI_SESSION_H

#define SESSION_MOST 4096u       /* clients of a node */
#define SESSION_MOST_QUEUES 1024u /* of a client */

struct session_chunk {
  struct env_segment segment;
  uint32_t kind;
  uint8_t state; /* enum session_chunk_state */
};

struct session {
  struct session *next;
  env_link link;
  struct env_peer peer;
  uint32_t id;
  bool greeted, gone;
  struct shm_table table;
  struct session_chunk *chunk; /* by chunk number */
  uint32_t chunk_count;
  uint64_t used[SHM_KINDS];
  struct queue *queues, *closing;
  uint32_t queue_count;
};

struct session_set {
  struct worker_crew *crew;
  const chi_config *config;
  struct attach_page *page;
  struct env_segment page_segment;
  uint64_t boot;
  struct session *first;
  uint32_t count, next_session, next_queue, next_fast, next_slow;
  uint64_t used[SHM_KINDS], budget[SHM_KINDS];
  uint64_t tend_at, tend_delay; /* while something is closing */
  bool draining;                /* nobody new is let in */
  struct log_limit limit;
};

CHI_PRIVATE int session_set_open(struct session_set *s, struct worker_crew *crew,
                                 const chi_config *config);
CHI_PRIVATE void session_set_close(struct session_set *s);

CHI_PRIVATE void session_connect(struct session_set *s, env_link link,
                                 const struct env_peer *peer);
CHI_PRIVATE void session_request(struct session_set *s, env_link link, const void *message,
                                 size_t size);
CHI_PRIVATE void session_hangup(struct session_set *s, env_link link);
/* Frees what nothing needs any more; when to look again, UINT64_MAX: nothing is closing. */
CHI_PRIVATE uint64_t session_tend(struct session_set *s, uint64_t now);
/* Closes every link: clients hear that the node is gone. */
CHI_PRIVATE void session_end_all(struct session_set *s);
CHI_PRIVATE uint64_t session_in_flight(const struct session *s);
/* Gives every lane of worker `from` to worker `to`; how many. */
CHI_PRIVATE uint32_t session_move_lanes(struct session_set *s, uint32_t from, uint32_t to);

#endif

/* ---- sources/admin.h ---- */
/* admin.h - the admin module: pools, stop, flush, monitor. Runs on the network worker. */
#ifndef CHI_ADMIN_H
#define CHI_ADMIN_H

/* What admin works on; belongs to the network worker. */
struct admin_host {
  struct worker_crew *crew;
  struct directory *directory;
  struct session_set *sessions;
  struct module_list *modules;
  const char *instance;
  uint64_t boot_time;
  uint64_t flushing; /* tasks that wait for the others to end */
  uint32_t waiting;  /* tasks of the admin pool that may wait for long */
  chi_event composed; /* set when the pools of the configuration are there, or have failed */
  struct pool *pool; /* admin's own */
  struct method create, destroy; /* run in a container for its pool */
  /* The node is to stop, and how it is: an enum runtime_state as text. */
  void (*stop)(void *arg, uint64_t grace_ns);
  const char *(*state)(void *arg);
  void *arg;
};

CHI_PRIVATE const chi_module *admin_module(void);
/* Creates pool 1.0 for a host that outlives it. Before the first step. */
CHI_PRIVATE int admin_open(struct admin_host *host, chi_error *err);

/* For compose: the body of get_or_create, for the running task of the admin pool. *id in: wanted,
 * out: given. */
CHI_PRIVATE int admin_create_pool(chi_ctx *ctx, struct admin_host *host, const char *mod_name,
                                  const char *pool_name, const char *params, chi_pool_id *id,
                                  bool *created, chi_error *err);
/* Destroys every pool but admin's own. */
CHI_PRIVATE void admin_destroy_all(chi_ctx *ctx, struct admin_host *host);

/* A method of the node's own, in no module's table: run gets what was passed to admin_start. */
CHI_PRIVATE void admin_method(struct method *method, const chi_method *def);
/* Starts a task of the admin pool on behalf of the node, one that can't be cancelled if `shielded`;
 * done(ctx) runs on the network worker when it has ended, and frees it by worker_record_free.
 * ctx->call_arg is arg. CHI_ENOMEM. */
CHI_PRIVATE int admin_start(struct admin_host *host, struct method *method, bool shielded,
                            void (*done)(chi_ctx *ctx), void *arg);

/* ---- figures (admin_monitor.c) */
CHI_PRIVATE void admin_monitor_print(const struct admin_host *host, uint64_t now, chi_put_fn *put,
                                     void *arg);

#endif

/* ---- sources/compose.h ---- */
/* compose.h - pools declared in configuration become create tasks. */
#ifndef CHI_COMPOSE_H
#define CHI_COMPOSE_H

struct compose {
  struct admin_host *host;
  const chi_config *config; /* outlives the task */
  struct method method;
  void (*done)(void *arg, int rc); /* on the network worker; error tells more */
  void *arg;
  chi_error error;
};

/* Creates the pools of config->compose in order; the first failure ends it. c stays until done. */
CHI_PRIVATE int compose_start(struct compose *c);

/* The parameters of an entry in the form admin takes: NAME=VALUE lines. CHI_ETOOBIG. */
CHI_PRIVATE int compose_params(const chi_param *params, uint32_t count, char *out, size_t room);

#endif

/* ---- sources/bdev.h ---- */
/* bdev.h - the block device module: space of a file or of memory, in blocks.
 *
 * What its methods do is said at their tasks in chimaera.h. Beyond that:
 * - An allocation is acknowledged when it is durable, and not cancelled while it waits for that. A
 *   free is durable with the next allocation or sync: until then a crash may take it back, and the
 *   block can be freed again.
 * - Any part of an allocated block may be freed, in units of the alignment, at least 4 KiB.
 * - A block's type is the power of two of 4 KiB that it holds: 0 from 4 KiB on, 1 from 8 KiB on.
 * - Reads and writes ask that the whole block is allocated (else CHI_EINVAL), and that the length
 *   fits the block (CHI_ERANGE) and the buffer (CHI_EINVAL). Offset and length are any bytes.
 *   Freeing a block while it is written to is the caller's own race.
 * - A sync that failed makes every later one fail with CHI_EIO until the pool is opened again. What
 *   was written since the last good one must be written again: it may be readable and yet be lost.
 * - The declared perf_metrics are shown by the monitor beside what was measured, and used nowhere.
 * - A pool whose file is in use by another pool or process is refused with CHI_EBUSY. */
#ifndef CHI_BDEV_H
#define CHI_BDEV_H

CHI_PRIVATE const chi_module *bdev_module(void);

#endif

/* ---- sources/extent.h ---- */
/* extent.h - which parts of a space are free: allocation as extents, with coalescing.
 *
 * Every byte of [0, capacity) is free, claimed or allocated. Claimed is between the two: taken from
 * what is free, but not yet granted, so that nobody can free or use it. Only free and claimed
 * extents are stored, in one balanced tree by offset; what no extent covers is allocated. A map
 * does not remember how allocated space was cut: any part of it, in units, may be freed by itself.
 * Free neighbours are always one extent. Operations take O(log n) steps per extent touched. */
#ifndef CHI_EXTENT_H
#define CHI_EXTENT_H

struct extent_range {
  uint64_t offset, size; /* bytes */
};

/* A free or claimed part. Claimed ones may be read by whoever holds the chain; the rest of it is
 * private. */
struct extent {
  uint64_t offset, size;
  struct extent *next; /* in a chain of claims, in order of claiming */
  struct extent *left, *right;
  uint64_t largest; /* free extent of this subtree */
  uint32_t height;
  bool claimed;
};

struct extent_map {
  uint64_t capacity, unit; /* for reading; unit is a power of two and divides capacity */
  uint64_t free_bytes;     /* for reading */
  uint64_t count;          /* for reading: extents in the tree */
  struct extent *root, *spare;
  uint64_t spare_count;
};

/* A map where everything is free. capacity is not 0 and a multiple of unit, a power of two.
 * CHI_OK or CHI_ENOMEM. */
CHI_PRIVATE int extent_init(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                            uint64_t unit);
/* Gives back all memory, that of claims too. A zeroed map may be closed as well. */
CHI_PRIVATE void extent_fini(struct extent_map *map, const struct alloc *alloc);

/* Claims size bytes, a multiple of unit and not 0, as few extents as there can be: the first one
 * in the space that is large enough, else the largest ones and the first that holds what is left.
 * *chain: the claims, linked by `next`; *count: how many. CHI_ENOSPC: less is free; CHI_ETOOBIG:
 * it takes more than `room` extents, *count tells how many; CHI_ENOMEM. Then nothing is claimed. */
CHI_PRIVATE int extent_claim(struct extent_map *map, const struct alloc *alloc, uint64_t size,
                             uint64_t room, struct extent **chain, uint64_t *count);
/* Ends the claims of a chain: they are allocated (settle) or free again (release). The chain is
 * gone. Neither can fail. */
CHI_PRIVATE void extent_settle(struct extent_map *map, const struct alloc *alloc,
                               struct extent *chain);
CHI_PRIVATE void extent_release(struct extent_map *map, const struct alloc *alloc,
                                struct extent *chain);

/* Frees ranges of allocated space; all or none. CHI_EINVAL: one of them is empty, not in whole
 * units, outside, overlaps another one, or is not allocated in whole; CHI_ENOMEM. */
CHI_PRIVATE int extent_free(struct extent_map *map, const struct alloc *alloc,
                            const struct extent_range *ranges, uint64_t count);
/* Allocates exactly this range. CHI_EINVAL: it is not free in whole, or as above; CHI_ENOMEM. */
CHI_PRIVATE int extent_take(struct extent_map *map, const struct alloc *alloc,
                            struct extent_range range);

/* Whether the whole range, any bytes of the space, is allocated. An empty one is if it lies inside
 * or at the end of allocated space. */
CHI_PRIVATE bool extent_allocated(const struct extent_map *map, uint64_t offset, uint64_t size);
/* The first run of allocated space that ends behind `from`, cut to begin at `from` at the
 * earliest. False: there is none. */
CHI_PRIVATE bool extent_next(const struct extent_map *map, uint64_t from,
                             struct extent_range *range);
/* The size of the largest free extent. */
CHI_PRIVATE uint64_t extent_largest(const struct extent_map *map);

/* Makes the space larger or smaller and changes its unit, when nothing is claimed; both as for
 * extent_init. CHI_ECONFLICT: what would be cut off is not free, or the unit would grow though
 * something is allocated; CHI_ENOMEM. Then nothing has changed. */
CHI_PRIVATE int extent_resize(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                              uint64_t unit);

#endif

/* ---- sources/bdev_log.h ---- */
/* bdev_log.h - the bytes of an allocation log: a head and records, written and read back.
 *
 * A log says which parts of a device are allocated. It begins with a head and a snapshot, which
 * were durable before the file got its name; records of allocations and frees follow in the order
 * in which they happened. They are appended in batches, one after the other: a batch is begun only
 * when the one before is durable. So each record tells where its batch began (base): whatever lies
 * before that place was durable when the record was made. All numbers are little-endian.
 *
 * Each record carries the checksum of the one before (link) and a sequence number that is never
 * used again, not even after a failed batch. What a failed batch left behind a shorter one
 * therefore never passes for its continuation.
 *
 * Reading stops at the first record that doesn't fit. If all that could be lost with it is a
 * batch that was never confirmed, it is the torn tail of a crash, and dropped. If it lies in the
 * snapshot, or a later record proves that it was durable, it is damage, and the log is refused. The
 * last batch of a log can't be told from a torn one; a mark, a record of its own batch without
 * ranges that is appended at a clean end, closes that gap. */
#ifndef CHI_BDEV_LOG_H
#define CHI_BDEV_LOG_H

#define BDEV_LOG_HEAD 64u   /* bytes of the head */
#define BDEV_LOG_RECORD 48u /* bytes of a record without its ranges */
#define BDEV_LOG_RANGE 16u  /* bytes of a range; records begin at multiples of this */

enum bdev_log_kind { BDEV_LOG_ALLOCATE = 1, BDEV_LOG_FREE, BDEV_LOG_MARK };

struct bdev_log_head {
  uint64_t id; /* of this file; in every record */
  uint64_t capacity, unit;
  uint64_t snapshot_end; /* offset behind the snapshot */
};

/* Writes records into memory of the caller, from where the chain of records stands. */
struct bdev_log_writer {
  uint8_t *bytes;
  uint64_t size, room;
  uint64_t id, base, seq; /* seq: the last one used */
  uint32_t link;
  uint64_t open; /* where the record that is being written begins */
};

/* Bytes of a record with count ranges. */
CHI_PRIVATE uint64_t bdev_log_size(uint64_t count);

/* Writes the head at the beginning of w, whose bytes and room are set, and sets the rest of w for
 * the records of the snapshot, which follow. */
CHI_PRIVATE void bdev_log_put_head(struct bdev_log_writer *w, const struct bdev_log_head *head);

/* Begins a record, adds a range to it, ends it. There must be room. */
CHI_PRIVATE void bdev_log_begin(struct bdev_log_writer *w, enum bdev_log_kind kind);
CHI_PRIVATE void bdev_log_range(struct bdev_log_writer *w, uint64_t offset, uint64_t size);
CHI_PRIVATE void bdev_log_end(struct bdev_log_writer *w);

/* What was read. */
struct bdev_log_found {
  struct bdev_log_head head;
  uint64_t seq, end; /* the last sequence number; where the next record belongs */
  uint32_t link;
  uint64_t records;
  bool torn;   /* something lies behind `end` */
  bool marked; /* nothing follows the snapshot, or a mark comes last */
};

/* Makes *map (unset before) what the log says. CHI_EVERSION: of another version; CHI_ECORRUPT:
 * damaged, *err tells where; CHI_ENOMEM. On failure the map needs no extent_fini. */
CHI_PRIVATE int bdev_log_replay(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                                struct extent_map *map, struct bdev_log_found *found,
                                chi_error *err);

#endif

/* ---- sources/bdev_commit.h ---- */
/* bdev_commit.h - the allocation log on disk: what was allocated is durable before anybody hears.
 *
 * Allocations wait until their record is durable; those that come while one is being written share
 * the next write and sync. Frees are entered in order but not waited for: one that a crash takes
 * back only keeps its space allocated, and whoever got the space again waited for a record behind
 * it. They are durable with the next allocation or sync.
 *
 * A batch that can't be written fails its allocations and is tried again for its frees. When a
 * sync has failed, nobody knows what is durable: from then on allocations, frees and syncs fail
 * with CHI_EIO until the device is opened again.
 *
 * When the log has outgrown what it says, it is written anew beside itself, and renamed. All
 * functions are called inside a method of the device's container and block, unless said otherwise.
 */
#ifndef CHI_BDEV_COMMIT_H
#define CHI_BDEV_COMMIT_H

struct bdev_commit_entry;

/* Zeroed: closed. Private but for what is said to be for reading. */
struct bdev_commit {
  chi_file *file;
  struct extent_map *map;
  char path[CHI_PATH_MAX + 16];   /* of the file */
  char beside[CHI_PATH_MAX + 16]; /* of the one that takes its place */
  uint64_t id, seq;
  uint64_t end;   /* of what is durable in the file */
  uint64_t reach; /* how far it has been written: beyond the end lie remains of a failed batch */
  uint32_t link;
  uint64_t snapshot_end, retry_at; /* retry_at: no new file before the log is this long */
  uint64_t owed;                   /* bytes of records of frees that wait */
  struct bdev_commit_entry *first, **last;
  bool busy;     /* somebody writes */
  bool unnamed;  /* the file's name is not durable yet */
  bool unmarked; /* the last record is none that ends a log */
  int failed;    /* for reading: not 0: a sync has failed */
};

/* Memory of the node, for those who ask by a struct alloc. Valid as long as ctx is. */
CHI_PRIVATE struct alloc bdev_commit_memory(chi_ctx *ctx);

/* Opens the log beside the file `name`, or makes one, and makes *map (zeroed before) what it says,
 * with this capacity and unit. *map stays the caller's and must live longer. On failure the node's
 * log tells why, and nothing is open: CHI_ECONFLICT: what is allocated doesn't fit the capacity or
 * the unit; CHI_ECORRUPT, CHI_EVERSION, CHI_ENOMEM, or that of a file operation. */
CHI_PRIVATE int bdev_commit_open(chi_ctx *ctx, struct bdev_commit *c, const char *name,
                                 struct extent_map *map, uint64_t capacity, uint64_t unit);

/* Writes what waits and a mark, closes. No other call may be under way. */
CHI_PRIVATE void bdev_commit_close(chi_ctx *ctx, struct bdev_commit *c);

/* Ends the claims of a chain of the map: CHI_OK: they are durably allocated; else they are free
 * again. The chain is gone. As the next ones: when it waits, the task is not cancelled any more. */
CHI_PRIVATE int bdev_commit_allocate(chi_ctx *ctx, struct bdev_commit *c, struct extent *chain);

/* extent_free, and its record. Blocks only when very many frees wait. */
CHI_PRIVATE int bdev_commit_free(chi_ctx *ctx, struct bdev_commit *c,
                                 const struct extent_range *ranges, uint64_t count);

/* Returns CHI_OK when every free of before is durable. */
CHI_PRIVATE int bdev_commit_sync(chi_ctx *ctx, struct bdev_commit *c);

#endif

/* ---- sources/bdev_io.h ---- */
/* bdev_io.h - where the bytes of a block device are: in a file or in memory, and what that costs.
 *
 * A file is opened past the page cache. What is aligned goes straight from and to the caller's
 * memory; the rest through a buffer, where parts of a sector are read, changed and written back.
 * Meanwhile no other write touches that sector. At most `depth` reads, writes and syncs are under
 * way at a time; others wait in order. Syncs run one by one; one may serve several turns. Memory is
 * zero until it is written.
 *
 * All functions are called inside a method of the device's container; those on a file block. */
#ifndef CHI_BDEV_IO_H
#define CHI_BDEV_IO_H

enum bdev_io_kind { BDEV_IO_READ, BDEV_IO_WRITE, BDEV_IO_SYNC };

/* One operation, from begin to end; lives on the caller's stack. Private. */
struct bdev_io_turn {
  struct bdev_io_turn *next;
  enum bdev_io_kind kind;
  uint64_t number, first, last; /* the sectors of a write; first > last: none */
  bool patch;                   /* writes parts of sectors */
  bool admitted, timed;
  uint64_t since;
  chi_event wake;
};

/* Operations of one kind, or of all. Those that were timed count in the last four only. */
struct bdev_io_meter {
  uint64_t count, bytes;       /* for reading */
  uint64_t timed, timed_bytes; /* operations that were timed, and their bytes */
  uint64_t spent, busy_ns;     /* sum of their times; time in which one was under way */
  uint64_t under_way, since;
};

struct bdev_io {
  uint64_t capacity; /* for reading */
  chi_file *file;    /* NULL: memory */
  uint8_t *memory;
  uint64_t *written; /* a bit for each piece of the memory that has been written to */
  uint64_t turns;
  uint64_t synced; /* turns before this number: what was written before them is durable */
  uint32_t depth, active, touchy, sample;
  struct bdev_io_turn *running, *waiting, **waiting_end;
  struct bdev_io_meter meter[3]; /* reads, writes, both together */
  int failed;                    /* a sync has failed */
};

/* Opens a file that nobody else has open in this way; flags beside CHI_FILE_LOCK. What a killed
 * process had under way in the kernel keeps its lock until it has come to its end, and is waited
 * for: a while, then CHI_EBUSY. Other codes as chi_file_open. */
CHI_PRIVATE int bdev_io_open_locked(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out);
/* Opens the file, making or extending it; *capacity 0: its size, then what it is. Locked against
 * every other opener. Name and size are durable, and what was in it. *made: it was not there
 * before. On failure nothing is open or made and the node's log tells why: CHI_EBUSY: in use;
 * CHI_EINVAL: no capacity, or that of a file operation. */
CHI_PRIVATE int bdev_io_open_file(chi_ctx *ctx, struct bdev_io *io, const char *path,
                                  uint64_t *capacity, uint32_t depth, bool *made);
/* capacity bytes of memory, not 0. CHI_ENOMEM. Does not block. */
CHI_PRIVATE int bdev_io_open_memory(chi_ctx *ctx, struct bdev_io *io, uint64_t capacity);
/* Gives everything back. Nothing may be under way. */
CHI_PRIVATE void bdev_io_close(chi_ctx *ctx, struct bdev_io *io);

/* Waits for its turn; size 0 for a sync. CHI_OK, then bdev_io_end must follow; or CHI_ECANCELLED,
 * CHI_ETIMEOUT. */
CHI_PRIVATE int bdev_io_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn,
                              enum bdev_io_kind kind, uint64_t offset, uint64_t size);
/* bytes: how many were transferred, for the figures; 0 with an rc other than CHI_OK. */
CHI_PRIVATE void bdev_io_end(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn, int rc,
                             uint64_t bytes);

/* Between begin and end, with what begin was told; the range lies inside the capacity. CHI_OK,
 * CHI_ENOMEM, or that of a file operation: then some part may have been transferred. */
CHI_PRIVATE int bdev_io_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, void *data,
                             uint64_t size);
CHI_PRIVATE int bdev_io_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, const void *data,
                              uint64_t size);
/* Of a file. CHI_OK: what was written before the turn began is durable. When a sync has failed
 * once, it is CHI_EIO until the device is opened again: nobody knows what became of the data. */
CHI_PRIVATE int bdev_io_sync(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn);

/* Figures of a meter; 0 where nothing was measured. Megabytes are of 10^6 bytes. Bandwidth and
 * operations a second count the time in which an operation was under way. */
CHI_PRIVATE double bdev_io_bandwidth_mbps(const struct bdev_io_meter *m);
CHI_PRIVATE double bdev_io_latency_us(const struct bdev_io_meter *m);
CHI_PRIVATE double bdev_io_iops(const struct bdev_io_meter *m);

#endif

/* ---- sources/ctx.h ---- */
/* ctx.h - what a method may call, beyond the public functions: for the built-in modules. */
#ifndef CHI_CTX_H
#define CHI_CTX_H

/* From here on the running task is not cancelled. */
CHI_PRIVATE void ctx_shield(chi_ctx *ctx);
/* Blocks for ns whatever happens. */
CHI_PRIVATE void ctx_pause(chi_ctx *ctx, uint64_t ns);
/* A subtask for a given container and method instead of those that its pool and method id name. */
CHI_PRIVATE void ctx_aim(void *subtask, struct container *container, struct method *method,
                         bool slow);

#endif

/* ---- sources/route.h ---- */
/* route.h - query -> where: which container, on which node, a task is for. */
#ifndef CHI_ROUTE_H
#define CHI_ROUTE_H

struct route {
  uint32_t node, container;
};

/* Resolves a query over `containers` containers, container i on node i, seen from `self`. Dynamic
 * counts as local: whoever schedules has asked the module before. CHI_OK with *out on one target;
 * CHI_ERANGE: no such container or node; CHI_EINVAL: no such mode; CHI_EUNREACHABLE: several
 * targets, or one on a node that cannot be reached. */
CHI_PRIVATE int route_resolve(const chi_query *query, uint32_t containers, uint32_t self,
                              struct route *out);

#endif

/* ---- sources/sync.h ---- */
/* sync.h - the state of co-operative locks: who holds, who waits, who is next. Nothing blocks here.
 *
 * The objects live in a container's state as the opaque structs of chimaera.h; zeroed is unlocked.
 * Each has a latch, since containers of parallel modules are entered by several workers. Tasks of
 * one root are one holder. A function that lets tasks in returns them as a list through
 * sync_next; the caller wakes each with CHI_OK. */
#ifndef CHI_SYNC_H
#define CHI_SYNC_H

/* CHI_OK: held now. CHI_EBUSY: not; if `wait`, ctx is queued and will be let in by somebody. */
CHI_PRIVATE int sync_mutex_lock(chi_mutex *m, chi_ctx *ctx, bool wait);
CHI_PRIVATE int sync_mutex_unlock(chi_mutex *m, chi_ctx *ctx, chi_ctx **woken);

/* A reader's hold is remembered by root, in memory of alloc: CHI_ENOMEM. */
CHI_PRIVATE int sync_rwlock_lock(chi_rwlock *l, chi_ctx *ctx, bool write,
                                 const struct alloc *alloc);
CHI_PRIVATE int sync_rwlock_unlock(chi_rwlock *l, chi_ctx *ctx, const struct alloc *alloc,
                                   chi_ctx **woken);

/* CHI_OK: it is set. CHI_EBUSY: ctx is queued. */
CHI_PRIVATE int sync_event_wait(chi_event *e, chi_ctx *ctx);
CHI_PRIVATE void sync_event_set(chi_event *e, chi_ctx **woken);
CHI_PRIVATE void sync_event_reset(chi_event *e);

/* Takes a waiting task out of its queue; false: somebody has let it in already. Others may get in
 * because it no longer stands before them. */
CHI_PRIVATE bool sync_abandon(chi_ctx *ctx, const struct alloc *alloc, chi_ctx **woken);

#endif

/* ---- sources/text.h ---- */
/* text.h - declared structs as text: reading fields, printing them, describing a module.
 *
 * Everything here is pure; any thread. The functions for users are in chimaera.h. */
#ifndef CHI_TEXT_H
#define CHI_TEXT_H

#define TEXT_DEPTH_MAX 4  /* structs within structs */
#define TEXT_NAME_MAX 128 /* a field's name with its NUL, in a path */

/* Prints what a module declares as one JSON object, in the form of docs/modules.md: the parameters
 * and methods with every field's place in the struct, so that a program which has never seen the
 * declarations can fill a task. CHI_EINVAL: structs nest deeper than TEXT_DEPTH_MAX; nothing was
 * printed. */
CHI_PRIVATE int text_describe(const chi_module *m, chi_put_fn *put, void *arg);

/* The spelling of an enum chi_kind; NULL for what is none. */
CHI_PRIVATE const char *text_kind_name(uint32_t kind);
/* Bytes of a scalar of this kind; 0 for str, object, array and what is none. */
CHI_PRIVATE uint32_t text_kind_size(uint32_t kind);

/* Prints a string, of which at most max bytes are looked at, in quotes as JSON. Malformed UTF-8
 * becomes U+FFFD. */
CHI_PRIVATE void text_put_string(const char *text, size_t max, chi_put_fn *put, void *arg);

/* Reads "300.0". CHI_EINVAL; CHI_ERANGE: a part is above 32 bits. *out is then untouched. */
CHI_PRIVATE int text_pool(const char *text, chi_pool_id *out);

/* How many letters must be inserted, removed, changed or swapped with their neighbour to make one
 * name of the other; UINT32_MAX when they are too different, or too long, to be confused. */
CHI_PRIVATE uint32_t text_distance(const char *a, const char *b);

#endif

/* ---- sources/config.h ---- */
/* config.h - the configuration of a node: its keys, their defaults and bounds, the struct. */
#ifndef CHI_CONFIG_H
#define CHI_CONFIG_H

#define CONFIG_KEY_COUNT 22
#define CONFIG_POOLS_MAX 4096  /* entries of compose: keeps the search for doubles short */
#define CONFIG_PARAMS_MAX 256  /* parameters of one entry, for the same reason */
#define CONFIG_HOSTS_MAX 65536 /* nodes of a cluster */
#define CONFIG_EXPECTED_MAX 128

enum config_type {
  CONFIG_COUNT,    /* uint32_t; 0 where there is no preset: not set */
  CONFIG_SIZE,     /* uint64_t; unit: what it is rounded up to */
  CONFIG_DURATION, /* uint64_t; unit: of a plain number */
  CONFIG_LEVEL,    /* int */
  CONFIG_POLICY,   /* int */
  CONFIG_PATH,     /* char[CHI_PATH_MAX], may be empty */
  CONFIG_NAME      /* char[CHI_NAME_MAX]; empty: not set */
};

/* A key as it is spelled today, "section.key", and the field of chi_config it sets. */
struct config_key {
  const char *name, *preset;
  size_t offset;
  enum config_type type;
  uint64_t min, max, unit;
};

/* The value of a key on its way into or out of the struct: text for the last two types. */
struct config_value {
  uint64_t number;
  char text[CHI_PATH_MAX];
};

/* Key number i, ordered by section. */
CHI_PRIVATE const struct config_key *config_key_at(size_t i);
/* The key of that name, or NULL. */
CHI_PRIVATE const struct config_key *config_find_key(const char *name);
CHI_PRIVATE bool config_key_is_text(const struct config_key *key);
/* What the key wants, in words: perhaps in buf, of CONFIG_EXPECTED_MAX bytes. */
CHI_PRIVATE const char *config_key_expected(const struct config_key *key, char *buf);

CHI_PRIVATE void config_get(const chi_config *config, const struct config_key *key,
                            struct config_value *out);
/* The value must be valid for the key. */
CHI_PRIVATE void config_put(chi_config *config, const struct config_key *key,
                            const struct config_value *value);
/* Reads a number, size, time or word as the key wants it; false if it is none or out of bounds. */
CHI_PRIVATE bool config_parse(const struct config_key *key, const char *text, uint64_t *out);
/* The word of today for the value of a key that is a word. */
CHI_PRIVATE const char *config_word(const struct config_key *key, uint64_t value);
/* Whether text of a proper length may be the value of a key that is text. */
CHI_PRIVATE bool config_text_valid(const struct config_key *key, const char *text);
/* What an entry of compose may have: names of modules and parameters, queries, ids ("300.0", not
 * null). */
CHI_PRIVATE bool config_is_identifier(const char *text);
CHI_PRIVATE bool config_is_query(const char *text);
CHI_PRIVATE bool config_parse_id(const char *text, uint32_t *major, uint32_t *minor);

/* The only place of the core that takes memory from the C library: a chi_config is a value that
 * exists before there is an environment to take memory from. As realloc; size 0 frees and gives
 * NULL. */
CHI_PRIVATE void *config_memory(void *old, size_t size);
/* A new zeroed entry at the end of compose, or NULL. */
CHI_PRIVATE chi_compose_entry *config_new_pool(chi_config *config);
CHI_PRIVATE void config_drop_pools(chi_config *config);
CHI_PRIVATE void config_drop_hosts(chi_config *config);
/* The first of `count` entries with this id (unless null) or this name (unless empty), or NULL. */
CHI_PRIVATE const chi_compose_entry *config_find_pool(const chi_config *config, uint32_t count,
                                                      uint32_t major, uint32_t minor,
                                                      const char *name);
CHI_PRIVATE const chi_param *config_find_param(const chi_compose_entry *entry, const char *name);

#endif

/* ---- sources/report.h ---- */
/* report.h - telling what is wrong in a text file, and where. */
#ifndef CHI_REPORT_H
#define CHI_REPORT_H

#define REPORT_ERRORS_MAX 1000 /* a file with more is not worth reading on */

/* Where something was written, counted from 1; line 0: nowhere in particular. */
struct report_mark {
  int line, column;
};

/* Where problems go. Set the first four (each may be NULL), the rest to 0. */
struct report {
  const char *file; /* begins each line */
  chi_config_report *sink;
  void *sink_arg;
  chi_error *err; /* receives the first error */
  uint32_t errors;
  int code; /* of the first error, else CHI_OK */
};

/* Reports an error; code becomes the report's if it is the first. Control characters and malformed
 * UTF-8 become "?", so that it is one line. Beyond REPORT_ERRORS_MAX nothing more is reported. */
CHI_PRIVATE void report_error(struct report *r, struct report_mark at, int code, const char *fmt,
                              ...) __attribute__((format(printf, 4, 5)));
/* Reports a warning or a note; level is a chi_log_level below CHI_LOG_ERROR. */
CHI_PRIVATE void report_note(struct report *r, struct report_mark at, int level, const char *fmt,
                             ...) __attribute__((format(printf, 4, 5)));
/* True when so many errors were reported that reading on makes no sense. */
CHI_PRIVATE bool report_gave_up(const struct report *r);

#endif

/* ---- sources/reader.h ---- */
/* reader.h - a configuration file's sections, keys and values on their way into chi_config.
 *
 * No file format in here: the reader of some format (real_conf) walks its file and hands over what
 * it finds, with the place it was written at. Problems go to a report; memory that runs out is one
 * of them, with code CHI_ENOMEM. */
#ifndef CHI_READER_H
#define CHI_READER_H

#define READER_SECTION_COUNT 10 /* of all generations */
#define READER_SPELLING_COUNT (CONFIG_KEY_COUNT + 16)
#define READER_FIELD_COUNT 4 /* what every entry of compose has */

/* What a value looks like in the file. */
enum reader_kind {
  READER_TEXT,
  READER_NUMBER, /* text that reads as a number and was not quoted */
  READER_BOOL,   /* likewise as true or false */
  READER_NOTHING,
  READER_MAP,
  READER_LIST,
  READER_REFUSED /* already reported; only that the key is there counts */
};

struct reader_value {
  int kind;         /* enum reader_kind */
  const char *text; /* of the first three kinds */
  struct report_mark at;
};

/* Reads one file. Set the first four, the rest to 0. Used by one thread. */
struct reader {
  chi_config *config;
  struct report *report;
  /* The value of an environment variable, NULL if unset; valid until the next call. NULL: none
   * is set. */
  const char *(*lookup)(void *arg, const char *name);
  void *lookup_arg;

  const char *section; /* being read */
  struct report_mark sections[READER_SECTION_COUNT], spellings[READER_SPELLING_COUNT];
  struct report_mark pool, fields[READER_FIELD_COUNT]; /* of the compose entry being read */
  int given[CONFIG_KEY_COUNT]; /* 1 + the spelling by which the key got a valid value */
  bool overfull;               /* it was said that there are too many pools */
};

enum reader_step { READER_SKIP, READER_KEYS, READER_POOLS };

/* A key of the top level. Says what to do with its value: nothing more, hand each key of the map to
 * reader_key, or each item of the list to reader_pool. */
CHI_PRIVATE enum reader_step reader_section(struct reader *r, const char *name,
                                            struct report_mark at,
                                            const struct reader_value *value);
/* A key of the section that was begun last. Of maps and lists only the kind matters. */
CHI_PRIVATE void reader_key(struct reader *r, const char *name, struct report_mark at,
                            const struct reader_value *value);
/* An item of compose. True: hand each of its keys to reader_field, then call reader_pool_end. */
CHI_PRIVATE bool reader_pool(struct reader *r, const struct reader_value *value);
/* True: the value is a map of parameters; hand over its keys as "name.key". */
CHI_PRIVATE bool reader_field(struct reader *r, const char *name, struct report_mark at,
                              const struct reader_value *value);
CHI_PRIVATE void reader_pool_end(struct reader *r);
/* At the end of the file, or without one: fills in names that were not given, and checks what
 * concerns several keys. */
CHI_PRIVATE void reader_end(struct reader *r);
/* Where the value of a current key was written; line 0 if it was not. */
CHI_PRIVATE struct report_mark reader_written(const struct reader *r, const char *key);

#endif

/* ---- sources/hostfile.h ---- */
/* hostfile.h - the nodes of a cluster, from the text of a hostfile. */
#ifndef CHI_HOSTFILE_H
#define CHI_HOSTFILE_H

/* Replaces config->hosts by the nodes of the text, which needs no NUL at its end. The format is in
 * docs/configuration.md. All errors go to the report, CHI_ENOMEM among them; the hosts are of use
 * only if there were none. No clock, no look-up of names. Any thread. */
CHI_PRIVATE void hostfile_parse(chi_config *config, const char *text, size_t size,
                                struct report *report);

#endif

/* ---- sources/error.h ---- */
/* error.h - filling a chi_error. */
#ifndef CHI_ERROR_H
#define CHI_ERROR_H

/* Writes code and the formatted text into *err, cut to what fits and made one line: line breaks
 * become spaces and are dropped at the end. err may be NULL. Returns code. Any thread. */
CHI_PRIVATE int error_set(chi_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif

/* ---- sources/units.h ---- */
/* units.h - numbers with units: whole counts, sizes in bytes, durations. */
#ifndef CHI_UNITS_H
#define CHI_UNITS_H

/* Reads a whole decimal number: digits only. CHI_EINVAL for anything else, CHI_ERANGE beyond
 * UINT64_MAX; *out is then untouched. Any thread. Sizes and durations are in chimaera.h. */
CHI_PRIVATE int units_parse_count(const char *text, uint64_t *out);

#endif

/* ---- sources/utf8.h ---- */
/* utf8.h - looking at UTF-8 text that ends in NUL. */
#ifndef CHI_UTF8_H
#define CHI_UTF8_H

/* Length of the character at p, which is not at the end of the text, and its code point; 0 if it
 * is malformed: cut short, longer than needed, a surrogate, or beyond U+10FFFF. */
CHI_PRIVATE size_t utf8_char(const char *p, uint32_t *code);
/* Control characters, line breaks among them: C0, DEL and C1. */
CHI_PRIVATE bool utf8_is_control(uint32_t code);
/* Well-formed from beginning to end. */
CHI_PRIVATE bool utf8_is_text(const char *text);
/* Well-formed and without control characters. */
CHI_PRIVATE bool utf8_is_line(const char *text);
/* Replaces what is malformed and control characters by "?", in place. */
CHI_PRIVATE void utf8_make_line(char *text);

#endif

/* ---- sources/rng.h ---- */
/* rng.h - streams of random integers, equal on every machine. Not for secrets. */
#ifndef CHI_RNG_H
#define CHI_RNG_H

/* One stream: xoshiro256**. Copying it copies its future. */
struct rng {
  uint64_t s[4];
};

/* Begins the stream that belongs to (seed, stream_a, stream_b), such as (seed, node, purpose): the
 * draws of one stream tell nothing about another's, and don't depend on what others draw. */
CHI_PRIVATE void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream_a, uint64_t stream_b);

/* The next 64 random bits. */
CHI_PRIVATE uint64_t rng_next(struct rng *rng);

/* A number from 0 to n - 1, each equally likely; n is not 0. May draw more than once, rarely. */
CHI_PRIVATE uint64_t rng_below(struct rng *rng, uint64_t n);

/* True with a chance of ppm in a million. Draws even if the outcome is certain, so that turning a
 * chance down to 0 doesn't shift what follows. */
CHI_PRIVATE bool rng_chance(struct rng *rng, uint32_t ppm);

#endif

/* ---- sources/hash.h ---- */
/* hash.h - mixing, hashing and checksums; equal results on every machine and compiler. */
#ifndef CHI_HASH_H
#define CHI_HASH_H

/* Spreads x over all 64 bits; one to one, and 0 stays 0. For keys that come as integers. */
CHI_INLINE uint64_t hash_mix64(uint64_t x)
{
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/* The XXH64 hash of size bytes at data (NULL is fine for none). Not for keeping secrets. */
CHI_PRIVATE uint64_t hash_bytes(const void *data, size_t size, uint64_t seed);

/* The CRC-32C (Castagnoli) of size bytes at data, continued from that of the bytes before them, 0
 * at the start: crc(b, crc(a, 0)) is the sum of a followed by b. Finds every burst of errors up to
 * 32 bits. Uses the processor's instruction where there is one. */
CHI_PRIVATE uint32_t hash_crc32c(uint32_t crc, const void *data, size_t size);

/* The same without the instruction. */
CHI_PRIVATE uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t size);

/* A hash of a sequence of values that grows for as long as one likes: what a trace amounts to.
 * Equal sequences of calls with equal values give equal hashes, and no others are likely to. */
struct hash_stream {
  uint64_t state, count;
};

/* Begins with the empty sequence. */
CHI_INLINE void hash_stream_init(struct hash_stream *stream, uint64_t seed)
{
  *stream = (struct hash_stream){seed, 0};
}

/* Appends one integer. */
CHI_INLINE void hash_stream_u64(struct hash_stream *stream, uint64_t value)
{
  stream->state = hash_mix64((stream->state ^ value) + 0x9e3779b97f4a7c15u);
  stream->count++;
}

/* Appends a string of bytes as one value: "ab" and "c" differ from "a" and "bc". Never give it a
 * struct with padding. */
CHI_PRIVATE void hash_stream_bytes(struct hash_stream *stream, const void *data, size_t size);

/* The hash of the sequence so far; more may follow. */
CHI_INLINE uint64_t hash_stream_finish(const struct hash_stream *stream)
{
  return hash_mix64(stream->state + stream->count);
}

#endif

/* ---- sources/real_node.h ---- */
#ifndef CHI_OMIT_REAL
/* real_node.h - a node in this process, and a client of one: the functions are in chimaera.h. */
#ifndef CHI_REAL_NODE_H
#define CHI_REAL_NODE_H

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_limit.h ---- */
#ifndef CHI_OMIT_REAL
/* real_limit.h - what this process may use: memory and CPUs, as cgroups and the machine say. */
#ifndef CHI_REAL_LIMIT_H
#define CHI_REAL_LIMIT_H

#ifndef CHI_OMIT_REAL

/* Where to look; a test looks elsewhere. */
struct real_limit {
  const char *cgroup;  /* the cgroups of this process: /proc/self/cgroup */
  const char *root;    /* where they are mounted: /sys/fs/cgroup */
  const char *meminfo; /* the machine: /proc/meminfo */
};

CHI_PRIVATE struct real_limit real_limit_system(void);

/* Bytes of memory that can still be taken while a reserve stays free: the least that the machine,
 * the own cgroup and those above it have left, page cache that can be dropped counted as free.
 * UINT64_MAX: nothing limits it. Any thread; reads files. */
CHI_PRIVATE uint64_t real_limit_memory(const struct real_limit *limit);

/* CPUs that the calling thread may run on, at most as many as the quota of its cgroups amounts to,
 * rounded up; at least 1. */
CHI_PRIVATE uint32_t real_limit_cpus(const struct real_limit *limit);

/* Threads of a process that may look for work in a loop at a time: as many as there are CPUs, for
 * each gives way between two looks. Under a quota one less than it amounts to: what looking uses
 * up of it is lost to work. */
CHI_PRIVATE uint32_t real_limit_spinners(const struct real_limit *limit);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_log.h ---- */
#ifndef CHI_OMIT_REAL
/* real_log.h - where log lines go: a file, or standard error. */
#ifndef CHI_REAL_LOG_H
#define CHI_REAL_LOG_H

#ifndef CHI_OMIT_REAL

#include <pthread.h>

struct real_log {
  int fd; /* -1: lines are dropped without being counted */
  bool owned, stalled, torn;
  uint64_t lost; /* lines since the last one that was written */
  pthread_mutex_t mutex;
};

/* Opens the file for appending, making it if it isn't there; an empty path is standard error. If
 * that fails, lines go to standard error, the first of which says so. NULL: drops everything. */
CHI_PRIVATE void real_log_open(struct real_log *log, const char *path);
CHI_PRIVATE void real_log_close(struct real_log *log);

/* Writes "2026-01-02T03:04:05.678Z level line". A line that the sink does not take is dropped and
 * counted; the next one that it takes is preceded by the count. A sink that does not move, such as
 * a full pipe, holds a thread up for a moment once, and then not again until it moves. Any thread;
 * not a signal handler. */
CHI_PRIVATE void real_log_write(struct real_log *log, int level, const char *line);

/* The last line of a process, at level error, to the log and to standard error. Safe in a signal
 * handler. */
CHI_PRIVATE void real_log_cry(const struct real_log *log, const char *line);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_env.h ---- */
#ifndef CHI_OMIT_REAL
/* real_env.h - the real environment: clock, random, memory, log, stacks, bells, the mark of a fork.
 *
 * This file makes an environment with these in it; the other real_* files add what is theirs, each
 * by a function real_<file>_bind. */
#ifndef CHI_REAL_ENV_H
#define CHI_REAL_ENV_H

#ifndef CHI_OMIT_REAL

struct real_loop;
struct real_file;
struct real_module;

struct real_env {
  struct env env; /* what the core sees; its self is this struct */
  uint32_t *mark; /* env.alive */
  struct real_log log;
  const char *directory;   /* of sockets; NULL: that of this user */
  struct real_limit limit; /* real_shm asks it */
  uint64_t complained;     /* when real_shm last logged that memory is short */
  struct real_loop *loop;  /* of a node */
  struct real_file *files; /* of a node: one for each worker */
  uint32_t file_count;
  struct real_module *modules; /* those loaded */
  /* For tests: as if the kernel had no io_uring, no MADV_POPULATE_WRITE. */
  bool no_ring, no_populate;
};

CHI_INLINE struct real_env *real_env_of(struct env *env)
{
  return (struct real_env *)env->self;
}

/* A bell: an eventfd, which does not block, and the descriptor that a client's own event loop
 * waits on. env_bell is the address of one. */
struct real_env_bell {
  int fd;
  int set; /* epoll of real_link_descriptor; -1: not asked for yet */
};

CHI_INLINE struct real_env_bell *real_env_bell_of(env_bell bell)
{
  return (struct real_env_bell *)(intptr_t)bell;
}

/* log_file: as real_log_open. The struct must stay where it is until real_env_close. CHI_ENOMEM. */
CHI_PRIVATE int real_env_open(struct real_env *r, const char *log_file);
/* What other files have added must be closed before. Fine in a forked child. */
CHI_PRIVATE void real_env_close(struct real_env *r);

/* False in a child that was forked from the process that opened the environment. */
CHI_PRIVATE bool real_env_alive(const struct real_env *r);

/* A bell of a descriptor, which it then owns; closed if that fails. */
CHI_PRIVATE int real_env_adopt_bell(int fd, env_bell *out);
/* Consumes what was rung. */
CHI_PRIVATE void real_env_drain(int fd);

/* The chi_status that says best what errno says. */
CHI_PRIVATE int real_env_code(int error);

/* The time left until a deadline of the clock, for ppoll; NULL if there is none. */
CHI_PRIVATE struct timespec *real_env_left(uint64_t now, uint64_t deadline, struct timespec *out);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_spin.h ---- */
#ifndef CHI_OMIT_REAL
/* real_spin.h - how long a thread looks for work before it parks: as long as that pays. */
#ifndef CHI_REAL_SPIN_H
#define CHI_REAL_SPIN_H

#ifndef CHI_OMIT_REAL

/* Parking costs a wake-up of some 50 us; looking on costs a CPU. A window that passed twice in a
 * row without work shrinks to nothing, until some sleeps in a row end so soon that looking on would
 * have found the work. One thread. */
struct real_spin {
  uint64_t limit;  /* the whole window */
  uint64_t window; /* the present one: limit or 0 */
  uint32_t fruitless, brief; /* windows without work, short sleeps: in a row */
};

/* Nothing at first: a thread that has never been busy doesn't spin. */
CHI_PRIVATE void real_spin_init(struct real_spin *s, uint64_t limit);
/* A window has ended, with or without work. */
CHI_PRIVATE void real_spin_ended(struct real_spin *s, bool found);
/* A sleep has ended; from the last work to its end it took so long. */
CHI_PRIVATE void real_spin_slept(struct real_spin *s, uint64_t took);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_thread.h ---- */
#ifndef CHI_OMIT_REAL
/* real_thread.h - the threads of a node: each steps one worker, looks for more work, and parks. */
#ifndef CHI_REAL_THREAD_H
#define CHI_REAL_THREAD_H

#ifndef CHI_OMIT_REAL

#include <pthread.h>

struct real_thread_crew;

/* The thread of one worker. */
struct real_thread {
  struct real_thread_crew *crew;
  uint32_t worker;
  pthread_t id;
  struct real_spin spin;
  uint64_t now;      /* the clock, at the end of the last step or later */
  uint64_t polled;   /* network worker: when it last looked at its sockets */
  bool ring_watched; /* network worker: its loop wakes for its files */
  bool at_once;      /* the last work was there at the first look */
  bool gather;       /* tasks come in a stream */
  uint32_t tries;    /* steps until letting them gather is tried again */
};

/* All threads of a node. Set the first six, the rest to 0. */
struct real_thread_crew {
  struct real_env *env;
  struct runtime *runtime;
  uint64_t spin_window_ns;
  uint32_t spinners; /* so many of its threads may spin at a time */
  /* Called by the network worker before each step. */
  void (*turn)(void *arg);
  void *arg;

  struct real_thread *thread;
  uint32_t count;    /* started */
  uint32_t gate;     /* 0: wait, 1: go, 2: end; guarded by lock */
  uint32_t quit;     /* atomic */
  uint32_t spinning; /* atomic: threads that spin now */
  pthread_mutex_t lock;
  pthread_cond_t opened;
};

/* Starts a thread for every worker of the runtime; the loop of the environment must be open. On
 * failure no worker has been stepped. CHI_ENOMEM, and in *err what failed. */
CHI_PRIVATE int real_thread_start(struct real_thread_crew *crew, chi_error *err);
/* Makes all threads end; any thread. */
CHI_PRIVATE void real_thread_quit(struct real_thread_crew *crew);
/* Waits until all have ended. */
CHI_PRIVATE void real_thread_join(struct real_thread_crew *crew);
/* True if the caller is one of them. */
CHI_PRIVATE bool real_thread_inside(const struct real_thread_crew *crew);

/* Catches memory faults of the process, once for all nodes in it: one in the guard page of a stack
 * of one of our threads is told to log and standard error and ends the process with this status.
 * Other faults go where they went before. CHI_EINVAL where the system refuses. */
#define REAL_THREAD_OVERRUN_STATUS 70
CHI_PRIVATE int real_thread_guard(void);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_loop.h ---- */
#ifndef CHI_OMIT_REAL
/* real_loop.h - the event loop of a node's network worker: the attach socket and its links, bells,
 * a deadline. libev underneath. One thread, but for real_loop_open. */
#ifndef CHI_REAL_LOOP_H
#define CHI_REAL_LOOP_H

#ifndef CHI_OMIT_REAL

struct real_loop;

/* What the loop tells its owner, in real_loop_poll and real_loop_sleep only. connect, request and
 * hangup as runtime_on_*. */
struct real_loop_owner {
  void *arg;
  void (*connect)(void *arg, env_link link, const struct env_peer *peer);
  void (*request)(void *arg, env_link link, const void *message, size_t size);
  void (*hangup)(void *arg, env_link link);
  /* A sleep is over; comes before anything else that is told. */
  void (*awake)(void *arg);
};

#define REAL_LOOP_LINKS_MAX 4096 /* clients at a time; more are hung up on */

/* Begins to watch `listener`, which stays the caller's, and adds link_reply and link_close to the
 * environment. At most links_max links. CHI_ENOMEM. */
CHI_PRIVATE int real_loop_open(struct real_env *r, int listener, uint32_t links_max,
                               const struct real_loop_owner *owner);
/* Closes all links without a word to the owner. */
CHI_PRIVATE void real_loop_close(struct real_env *r);

/* Wakes the loop when fd becomes readable; a bell is then drained. CHI_ENOMEM. */
CHI_PRIVATE int real_loop_watch(struct real_loop *l, int fd, bool bell);

/* Handles what has arrived, without waiting. */
CHI_PRIVATE void real_loop_poll(struct real_loop *l);
/* Waits until something arrives or the deadline of the clock has come, and handles it. May return
 * for nothing. */
CHI_PRIVATE void real_loop_sleep(struct real_loop *l, uint64_t deadline);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_link.h ---- */
#ifndef CHI_OMIT_REAL
/* real_link.h - the attach socket: where it is, and messages with descriptors over it.
 *
 * An instance NAME:PORT listens at DIRECTORY/NAME-PORT.sock; the directory is /tmp/chimaera-UID and
 * belongs to that user alone. Beside the socket is a lock file, which a node holds locked while it
 * lives. A node that is killed leaves both behind, and the next one replaces them. */
#ifndef CHI_REAL_LINK_H
#define CHI_REAL_LINK_H

#ifndef CHI_OMIT_REAL

#include <sys/un.h>

#define REAL_LINK_DIRECTORY_MAX 80

/* Where an instance is. */
struct real_link_place {
  char instance[CHI_NAME_MAX + 16]; /* "NAME:PORT" */
  char directory[REAL_LINK_DIRECTORY_MAX];
  char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
  char lock[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* What a node holds while it listens. */
struct real_link_desk {
  int socket, lock; /* -1: none */
};

/* directory NULL: that of this user. CHI_EINVAL: not a name; CHI_ETOOBIG: the path of the socket
 * would be longer than an address may be. */
CHI_PRIVATE int real_link_locate(const char *directory, const char *name, uint32_t port,
                                 struct real_link_place *out, chi_error *err);

/* Makes the directory if it isn't there, takes the lock and listens. CHI_EBUSY: another node has
 * this instance; CHI_EACCES: the directory isn't ours alone; CHI_EIO, CHI_ENOSPC, CHI_ENOMEM. */
CHI_PRIVATE int real_link_listen(const struct real_link_place *place, struct real_link_desk *out,
                                 chi_error *err);
/* Stops listening and removes both files. */
CHI_PRIVATE void real_link_leave(const struct real_link_place *place, struct real_link_desk *desk);

/* ---- a node's side of a connection */

/* Who is at the other end; CHI_EACCES if it is neither this user nor root. */
CHI_PRIVATE int real_link_peer(int fd, struct env_peer *out);
/* A descriptor that becomes readable when the process at the other end has died, whoever has
 * inherited its socket; -1 where the kernel has none. */
CHI_PRIVATE int real_link_watch(int fd, const struct env_peer *peer);
/* Sends a reply without waiting. CHI_ESHUTDOWN: the peer is gone, or doesn't read. CHI_EINVAL: a
 * segment can't be shared that way (again); CHI_ETOOBIG. */
CHI_PRIVATE int real_link_answer(int fd, const void *message, size_t size,
                                 const struct env_share *shares, uint32_t count);
/* Takes a request without waiting: its size, 0 if there is none now. CHI_ESHUTDOWN: the peer is
 * gone, or sent what is no request: too much, nothing, or descriptors. */
CHI_PRIVATE int64_t real_link_take(int fd, void *message, size_t room);

/* ---- a client's side */

/* Adds the operations on links of a client. */
CHI_PRIVATE void real_link_bind(struct real_env *r);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_file.h ---- */
#ifndef CHI_OMIT_REAL
/* real_file.h - files: io_uring where the kernel has it and lets us, else pread and pwrite. */
#ifndef CHI_REAL_FILE_H
#define CHI_REAL_FILE_H

#ifndef CHI_OMIT_REAL

#define REAL_FILE_DEPTH 256u /* operations of one worker in flight */

/* Adds io_submit, io_blocks and io_reap for this number of workers. A worker gets its ring when it
 * first needs one; without rings, and for everything but read, write and sync, an operation is done
 * at once and blocks. A direct file on a file system that has no such thing is opened as a plain
 * one. CHI_ENOMEM. */
CHI_PRIVATE int real_file_bind(struct real_env *r, uint32_t workers);
/* No operation may be in flight. */
CHI_PRIVATE void real_file_close(struct real_env *r);

/* The rest is for the thread of that worker, between its steps. */

/* Hands what was submitted to the kernel, all of it in one call. False: the kernel can't take all
 * of it now; try again soon. */
CHI_PRIVATE bool real_file_flush(struct real_env *r, uint32_t worker);
/* True if something has completed that io_reap hasn't handed out. */
CHI_PRIVATE bool real_file_ready(const struct real_env *r, uint32_t worker);
/* A descriptor that is readable while real_file_ready; -1 while nothing is in flight. It stays the
 * same from the first operation on. */
CHI_PRIVATE int real_file_descriptor(const struct real_env *r, uint32_t worker);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_module.h ---- */
#ifndef CHI_OMIT_REAL
/* real_module.h - modules that are loaded as shared objects. */
#ifndef CHI_REAL_MODULE_H
#define CHI_REAL_MODULE_H

#ifndef CHI_OMIT_REAL

/* Adds module_load. NAME is looked for as NAME.so in the directories of $CHI_MODULE_PATH, which are
 * separated by colons; the first one found counts. The file's name may begin with "lib", and it
 * and NAME with "chimaera_". */
CHI_PRIVATE void real_module_bind(struct real_env *r);
/* Unloads what was loaded: nothing may be running in it. */
CHI_PRIVATE void real_module_close(struct real_env *r);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_shm.h ---- */
#ifndef CHI_OMIT_REAL
/* real_shm.h - shared memory: memfds that nobody can shrink, populated before they are used. */
#ifndef CHI_REAL_SHM_H
#define CHI_REAL_SHM_H

#ifndef CHI_OMIT_REAL

/* Adds segment_open, segment_close, segment_discard and segment_restore. Segments are whole pages,
 * are not inherited by forked children, and are known by an address of private memory (handle 0 in
 * a process that received one). A segment that may be written is shared at most once: its
 * descriptor is closed then, so that a node needs few of them; one that may only be read is shared
 * any number of times. */
CHI_PRIVATE void real_shm_bind(struct real_env *r);

/* The descriptor to hand over for a share of this segment; -1 if there is none any more. It stays
 * the segment's. */
CHI_PRIVATE int real_shm_lend(const struct env_segment *segment, enum env_access access);
/* After a descriptor that was lent has been sent. */
CHI_PRIVATE void real_shm_lent(const struct env_segment *segment, enum env_access access);

/* Maps a segment that was received; closes fd in any case. CHI_ENOMEM, CHI_ECORRUPT: it is not a
 * segment, or could be shrunk. */
CHI_PRIVATE int real_shm_adopt(int fd, enum env_access access, struct env_segment *out);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_conf.h ---- */
#ifndef CHI_OMIT_REAL
/* real_conf.h - configuration from YAML files, with libyaml. */
#ifndef CHI_REAL_CONF_H
#define CHI_REAL_CONF_H

#ifndef CHI_OMIT_REAL

/* Reads a YAML text into r->config, as reader.h says; the outcome is in r->report. Does not read
 * the hostfile. */
CHI_PRIVATE void real_conf_parse(struct reader *r, const char *text, size_t size);

/* Fills in the names of segments that are not set, for a configuration that was not loaded from a
 * file. CHI_ECONFIG. */
CHI_PRIVATE int real_conf_names(chi_config *config, chi_error *err);

#endif
#endif
#endif /* CHI_OMIT_REAL */

/* ---- sim/sim_disk.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_disk.h - a disk in memory: what programs see, what is safe, and what a crash leaves.
 *
 * Knows neither time nor faults: every operation happens at once. Each file has what is read now
 * and what is safe, and the changes in between; names likewise. A sync makes safe what was changed
 * before it was begun, a directory sync the names. A crash decides about everything else. */
#ifndef CHI_SIM_DISK_H
#define CHI_SIM_DISK_H

#define SIM_DISK_SECTOR 512u /* written whole or not at all */
#define SIM_DISK_ALIGN 4096u /* what a direct file asks of offset, size and memory */

struct sim_disk;

enum sim_disk_crash {
  SIM_DISK_SEED, /* each unsynced change is lost, kept or torn, whatever came after it */
  SIM_DISK_LOSE, /* nothing unsynced survives */
  SIM_DISK_KEEP  /* only the process died: all is there, and what was unsynced still is */
};

/* An empty disk of capacity bytes; what a crash leaves is drawn from (seed, node). Ends the program
 * if there is no memory, here and in everything below. */
CHI_PRIVATE struct sim_disk *sim_disk_open(uint64_t seed, uint32_t node, uint64_t capacity);
CHI_PRIVATE void sim_disk_close(struct sim_disk *d);

/* A directory, durable at once. Opening, creating or renaming to a path whose directory was not
 * made this way is CHI_ENOENT; "/" and the directory of relative paths are always there. */
CHI_PRIVATE CHI_UNUSED void sim_disk_mkdir(struct sim_disk *d, const char *path);

/* Performs an operation of the seam and returns its result, as env.h describes it; io is not
 * written, io->buf is as the operation says. mark is what sim_disk_mark gave when the operation
 * was begun: a sync covers the changes that were made up to then. */
CHI_PRIVATE uint64_t sim_disk_mark(const struct sim_disk *d);
CHI_PRIVATE int64_t sim_disk_do(struct sim_disk *d, const struct env_io *io, uint64_t mark);

/* A sync that fails: of the changes it would have covered, each is safe or will be gone after a
 * crash, as drawn; no later sync covers them. Reading gives them until then. */
CHI_PRIVATE void sim_disk_sync_failed(struct sim_disk *d, const struct env_io *io, uint64_t mark);

/* All open files and locks are gone, and of what was not safe, what `how` says. */
CHI_PRIVATE void sim_disk_crash(struct sim_disk *d, enum sim_disk_crash how);

/* A path of an open file; NULL: it has none any more, or there is no such handle. */
CHI_PRIVATE const char *sim_disk_path(const struct sim_disk *d, int64_t handle);
/* Number of open files. */
CHI_PRIVATE uint32_t sim_disk_open_count(const struct sim_disk *d);

/* For tests. Reads as a program would: bytes, or CHI_ENOENT. */
CHI_PRIVATE CHI_UNUSED int64_t sim_disk_peek(const struct sim_disk *d, const char *path, void *buf,
                                             uint64_t size, uint64_t offset);
/* For tests. Writes into a file, which is made if it isn't there; durable at once. */
CHI_PRIVATE CHI_UNUSED void sim_disk_poke(struct sim_disk *d, const char *path, const void *buf,
                                          uint64_t size, uint64_t offset);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_fault.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_fault.h - what goes wrong in a simulation, and when: memory, shared memory, files. */
#ifndef CHI_SIM_FAULT_H
#define CHI_SIM_FAULT_H

/* What may be refused for want of memory, as a set. */
enum sim_fault_memory {
  SIM_FAULT_ALLOC = 1,   /* private memory */
  SIM_FAULT_STACK = 2,   /* of a fiber */
  SIM_FAULT_SEGMENT = 4, /* shared memory, opened or populated again */
  SIM_FAULT_BELL = 8,
  SIM_FAULT_ANY = 15
};

#define SIM_FAULT_ANYWHERE UINT32_MAX /* every node, every operation */
#define SIM_FAULT_RULES 16

/* Something wrong with files. Of the operations that fit, the first `after` are left alone, then
 * `times` are hit (0: all). A hit delays by delay_ns and then: a result below 0 fails it, of a
 * write some part may have happened, of a sync the changes may be gone; else a limit above 0 lets
 * it transfer that much at most. */
struct sim_fault_io {
  uint32_t node;    /* or SIM_FAULT_ANYWHERE */
  uint32_t op;      /* enum env_io_op, or SIM_FAULT_ANYWHERE */
  const char *path; /* part of the file's path; NULL: any. The caller's, while the rule lives */
  uint64_t after, times;
  int64_t result;
  uint64_t limit, delay_ns;
  uint64_t fits; /* how often it fitted so far: set by the simulation */
};

struct sim_fault {
  struct rng rng;
  uint64_t asked;       /* times that memory of `kinds` was asked for, since this was last set */
  uint64_t fail_at;     /* the asking that fails, once; 0: none */
  uint32_t per_million; /* of askings that fail */
  uint32_t kinds;       /* a set of enum sim_fault_memory; 0: none are counted */
  uint64_t injected;    /* faults so far */
  struct sim_fault_io rules[SIM_FAULT_RULES];
  uint32_t rule_count;
};

/* Counts askings for memory of these kinds from now on, by anybody, and fails the one with this
 * number (from 1; 0: none), or per_million of them at random, or both. */
CHI_PRIVATE CHI_UNUSED void sim_fault_memory(struct sim_fault *fault, uint32_t kinds,
                                             uint64_t fail_at, uint32_t per_million);
/* Adds a rule (a copy) and returns it; at most SIM_FAULT_RULES. */
CHI_PRIVATE CHI_UNUSED struct sim_fault_io *sim_fault_add(struct sim_fault *fault,
                                                          const struct sim_fault_io *rule);
/* From now on nothing goes wrong. */
CHI_PRIVATE CHI_UNUSED void sim_fault_clear(struct sim_fault *fault);

/* Asked by the environment: whether this asking for memory fails. */
CHI_PRIVATE bool sim_fault_hits(struct sim_fault *fault, enum sim_fault_memory kind);
/* Asked by the environment: the rule that hits this operation, or NULL. */
CHI_PRIVATE const struct sim_fault_io *sim_fault_hits_io(struct sim_fault *fault, uint32_t node,
                                                         int op, const char *path);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim.h ---- */
#ifndef CHI_OMIT_SIM
/* sim.h - the simulated environment: nodes and clients in one thread, in virtual time.
 *
 * Everything that happens follows from the seed and the calls below: equal runs have equal hashes,
 * whatever the compiler, the flags or the machine. Only one real thread may use a simulation.
 * Functions that run time may not be called from a client's body or a method. */
#ifndef CHI_SIM_H
#define CHI_SIM_H

struct sim;
struct sim_client;

CHI_PRIVATE CHI_UNUSED struct sim *sim_open(uint64_t seed);
/* Ends what still runs, as if killed, and frees everything. */
CHI_PRIVATE CHI_UNUSED void sim_close(struct sim *sim);

/* Virtual nanoseconds; begins at one second. */
CHI_PRIVATE CHI_UNUSED uint64_t sim_now(const struct sim *sim);
/* Over all that has happened, and how many events that were. */
CHI_PRIVATE CHI_UNUSED uint64_t sim_hash(const struct sim *sim);
CHI_PRIVATE CHI_UNUSED uint64_t sim_events(const struct sim *sim);
/* The first thing that must not happen, in words: a leak, memory of nobody; NULL: nothing. */
CHI_PRIVATE CHI_UNUSED const char *sim_failure(const struct sim *sim);
/* From now on put receives a line for each event that is worth reading; NULL: nobody does. */
CHI_PRIVATE CHI_UNUSED void sim_transcript(struct sim *sim, chi_put_fn *put, void *arg);
/* What goes wrong: to be set with the functions of sim_fault.h. */
CHI_PRIVATE CHI_UNUSED struct sim_fault *sim_faults(struct sim *sim);

/* Runs events until pred holds (it is asked after each event), until nothing can happen any more,
 * or for limit_ns: then false. */
CHI_PRIVATE CHI_UNUSED bool sim_run_until(struct sim *sim, bool (*pred)(void *arg), void *arg,
                                          uint64_t limit_ns);
CHI_PRIVATE CHI_UNUSED void sim_run_for(struct sim *sim, uint64_t ns);
/* Until every client's body has returned. */
CHI_PRIVATE CHI_UNUSED bool sim_run_idle(struct sim *sim, uint64_t limit_ns);

/* ---- nodes, known by number; a node has its disk before it first starts and ever after */

/* Starts a node and runs time until it serves; thread counts of 0 become two fast workers and a
 * slow one. Its place in the cluster is its number if the configuration has so many hosts; else it
 * is alone. Modules must outlive it. Any error of runtime_open; what a pool failed with;
 * CHI_ETIMEOUT: not within a minute. After an error it does not run. */
CHI_PRIVATE CHI_UNUSED int sim_node_start(struct sim *sim, uint32_t node, const chi_config *config,
                                          const chi_module *const *modules, uint32_t count,
                                          chi_error *err);
/* Asks it to stop and runs time until it has: CHI_OK. CHI_EBUSY: it is stuck and goes on. What it
 * then has not given back is a failure. */
CHI_PRIVATE CHI_UNUSED int sim_node_stop(struct sim *sim, uint32_t node, uint32_t grace_ms);
/* It ends at this instant and its links hang up: the machine lost power, and the disk what it
 * hadn't made safe; or only the process was killed. Not from the node's own methods. */
CHI_PRIVATE CHI_UNUSED void sim_node_crash(struct sim *sim, uint32_t node);
CHI_PRIVATE CHI_UNUSED void sim_node_kill(struct sim *sim, uint32_t node);
/* RUNTIME_STOPPED if it does not run. */
CHI_PRIVATE CHI_UNUSED enum runtime_state sim_node_state(struct sim *sim, uint32_t node);
CHI_PRIVATE CHI_UNUSED struct sim_disk *sim_node_disk(struct sim *sim, uint32_t node);
/* The name by which clients find it: "sim:N". Lives as long as the simulation. */
CHI_PRIVATE CHI_UNUSED const char *sim_node_instance(struct sim *sim, uint32_t node);
/* From its next start on, operations on files hold up the worker that begins them. */
CHI_PRIVATE CHI_UNUSED void sim_node_blocking_io(struct sim *sim, uint32_t node, bool blocks);

/* Of a method's body, or a client's: that much CPU is used. Nobody else is held up. UINT64_MAX: it
 * never comes back. */
CHI_PRIVATE CHI_UNUSED void sim_cpu(struct sim *sim, uint64_t ns);

/* ---- clients: processes on a node's host, each with one thread */

/* Starts one; its number. body may call any chi_ function for clients; when it returns the process
 * has ended. What a client holds after its last chi_client_close is a failure. */
CHI_PRIVATE CHI_UNUSED uint32_t sim_client(struct sim *sim, uint32_t node,
                                           void (*body)(struct sim_client *client, void *arg),
                                           void *arg);
/* As kill -9, at this instant; nothing if it has ended. Not from its own body. */
CHI_PRIVATE CHI_UNUSED void sim_client_kill(struct sim *sim, uint32_t number);
CHI_PRIVATE CHI_UNUSED bool sim_client_ended(struct sim *sim, uint32_t number);

/* Inside the body. */
/* Attaches to its node, as chi_client_open. */
CHI_PRIVATE CHI_UNUSED int sim_client_attach(struct sim_client *client, chi_client **out,
                                             chi_error *err);
CHI_PRIVATE CHI_UNUSED void sim_client_sleep(struct sim_client *client, uint64_t ns);
CHI_PRIVATE CHI_UNUSED struct sim *sim_client_sim(struct sim_client *client);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_trace.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_trace.h - what happens in a simulation: a hash over all of it, and a transcript to read. */
#ifndef CHI_SIM_TRACE_H
#define CHI_SIM_TRACE_H

/* What the simulation itself reports, beside the events of enum env_trace. */
enum sim_trace_kind {
  SIM_TRACE_THREAD = 100, /* a thread goes on: a its number */
  SIM_TRACE_RING,         /* a bell is rung: a its number */
  SIM_TRACE_SEND,         /* a message on a link: a link, b bytes, c shares */
  SIM_TRACE_LINK,         /* a link, b 1 up, 0 hung up */
  SIM_TRACE_NODE,         /* a enum sim_trace_node */
  SIM_TRACE_CLIENT,       /* a its number, b enum sim_trace_client */
  SIM_TRACE_IO_BEGIN,     /* a worker, b operation, c bytes; text: path */
  SIM_TRACE_IO_END,       /* a worker, b operation, c result */
  SIM_TRACE_FAULT_IO,     /* an operation is hit: a worker, b operation; text: path */
  SIM_TRACE_FAULT_MEMORY  /* memory is refused: a client or 0; text: which */
};

enum sim_trace_node {
  SIM_TRACE_NODE_STARTS,
  SIM_TRACE_NODE_SERVES,
  SIM_TRACE_NODE_FAILS,
  SIM_TRACE_NODE_STOPS,
  SIM_TRACE_NODE_KILLED,
  SIM_TRACE_NODE_LOSES_POWER
};

enum sim_trace_client { SIM_TRACE_CLIENT_STARTS, SIM_TRACE_CLIENT_ENDS, SIM_TRACE_CLIENT_KILLED };

/* The hash sees every event, the listener those worth reading; it may be NULL. */
struct sim_trace {
  struct hash_stream hash;
  uint64_t events;
  chi_put_fn *put;
  void *arg;
};

/* One event: its values, and its text (may be NULL), enter the hash; so they must not depend on
 * addresses. A line "TIME nodeN EVENT" goes to the listener, NODE being UINT32_MAX for none. */
CHI_PRIVATE void sim_trace_event(struct sim_trace *trace, uint64_t now, uint32_t node, int kind,
                                 const uint64_t values[3], const char *text);

/* A line of text for the listener alone. */
CHI_PRIVATE void sim_trace_text(struct sim_trace *trace, uint64_t now, uint32_t node,
                                const char *text);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_world.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_world.h - virtual time: events in order of their time, and what all of them share.
 *
 * Time only moves from event to event. Among those of one time the order is drawn. */
#ifndef CHI_SIM_WORLD_H
#define CHI_SIM_WORLD_H

#define SIM_WORLD_START UINT64_C(1000000000) /* time at the beginning, ns */
#define SIM_WORLD_NEVER UINT64_MAX

/* How often, in a million, what may happen for no reason does: a sleeper wakes for nothing, an
 * operation finds no room though there is some, a transfer does less than asked. */
#ifdef CHI_HOSTILE
#define SIM_WORLD_WHIM_PPM 300000u
#else
#define SIM_WORLD_WHIM_PPM 20000u
#endif

/* Purposes of random streams, each keyed by (seed, node, purpose). */
enum sim_world_purpose {
  SIM_WORLD_STREAM_ORDER = 1, /* of simultaneous events */
  SIM_WORLD_STREAM_FAULT,
  SIM_WORLD_STREAM_RANDOM,       /* what the core draws */
  SIM_WORLD_STREAM_CPU,          /* how long steps take */
  SIM_WORLD_STREAM_IO,           /* how files behave */
  SIM_WORLD_STREAM_LINK,         /* how long messages take, spurious wake-ups */
  SIM_WORLD_STREAM_CLIENT = 1000 /* and the client's number on top */
};

/* Something that happens at a time; embedded in what it happens to, zeroed before its first use. */
struct sim_world_event {
  struct heap_entry entry;
  void (*run)(struct sim_world_event *event);
};

struct sim_world {
  uint64_t seed, now;
  uint64_t sequence;
  struct heap heap; /* of sim_world_event */
  struct alloc alloc;
  struct rng order;
  struct fiber host; /* the real thread, while a simulated one runs */
  struct sim_thread *running;
  uint32_t thread_count, bell_count; /* so far: they number them */
  struct sim_trace trace;
  struct sim_fault fault;
  char failure[400]; /* the first thing that must not happen; empty: none */
};

CHI_PRIVATE void sim_world_init(struct sim_world *world, uint64_t seed);
CHI_PRIVATE void sim_world_fini(struct sim_world *world);

/* Memory of the simulation's own, zeroed; ends the program if there is none. Freed by free(). */
CHI_PRIVATE void *sim_world_new(size_t size);
/* Begins a stream. */
CHI_PRIVATE void sim_world_stream(const struct sim_world *world, struct rng *rng, uint32_t node,
                                  uint64_t purpose);
/* One event for hash and transcript, at the present time. */
CHI_PRIVATE void sim_world_trace(struct sim_world *world, uint32_t node, int kind, uint64_t a,
                                 uint64_t b, uint64_t c, const char *text);
/* Notes what must not happen; the first stays. It also reaches the transcript. */
CHI_PRIVATE void sim_world_fail(struct sim_world *world, uint32_t node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Lets the event happen at that time (not before now), instead of when it was going to. */
CHI_PRIVATE void sim_world_at(struct sim_world *world, struct sim_world_event *event,
                              uint64_t time);
CHI_PRIVATE void sim_world_cancel(struct sim_world *world, struct sim_world_event *event);
/* Runs the next event if it is due at limit or before: true. Else time moves to the limit. Not
 * from a simulated thread. */
CHI_PRIVATE bool sim_world_next(struct sim_world *world, uint64_t limit);

/* A time of about `ns`: up to a quarter more, as drawn. */
CHI_PRIVATE uint64_t sim_world_about(struct rng *rng, uint64_t ns);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_thread.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_thread.h - threads of the simulation: fibers on one real thread, and their stacks.
 *
 * A thread runs until it sleeps or parks, and no time passes meanwhile. Wherever that happens, on
 * its own stack or on one that its code has made, everything stays as it is, as with a real one. */
#ifndef CHI_SIM_THREAD_H
#define CHI_SIM_THREAD_H

struct sim_thread {
  struct sim_world_event wake;
  struct sim_world *world;
  struct fiber fiber;
  struct fiber *left; /* where it goes on: its fiber, or what it left on another stack */
  char *stack;
  uint32_t number, node;
  bool parked; /* sim_thread_wake may end its sleep */
  bool done;   /* its body has returned */
  void (*body)(void *arg);
  void *arg;
};

/* Starts a thread: it runs body(arg) from the next event on. The struct is the caller's; ended
 * with sim_thread_end, also after its body has returned. */
CHI_PRIVATE void sim_thread_start(struct sim_world *world, struct sim_thread *thread, uint32_t node,
                                  void (*body)(void *arg), void *arg);
/* Takes the thread out of the world, whatever it is doing; not the one that runs. */
CHI_PRIVATE void sim_thread_end(struct sim_thread *thread);

/* Of the running thread: time passes until then. SIM_WORLD_NEVER: it never runs again. */
CHI_PRIVATE void sim_thread_sleep(struct sim_world *world, uint64_t until);
/* The same, but sim_thread_wake may end it. */
CHI_PRIVATE void sim_thread_park(struct sim_world *world, uint64_t until);
/* A parked thread goes on at that time if nothing lets it earlier; another isn't touched. */
CHI_PRIVATE void sim_thread_wake(struct sim_thread *thread, uint64_t time);

/* A stack with its guard page; NULL: no memory. Released even if a fiber was left on it. */
CHI_PRIVATE void *sim_thread_stack_open(size_t size);
CHI_PRIVATE void sim_thread_stack_close(void *base, size_t size);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_party.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_party.h - a process in the simulation: the memory, stacks, segments and bells it holds.
 *
 * A node is one, a client another. What a party holds is counted: when it should have given
 * everything back, what it still holds is told; when it dies, all of it is taken. */
#ifndef CHI_SIM_PARTY_H
#define CHI_SIM_PARTY_H

/* Handles: positions in a table that grows and never uses a position again. */
struct sim_party_table {
  void **item; /* NULL: closed */
  uint32_t count, room;
};

/* Pages that parties share. */
struct sim_party_segment {
  char *base;
  uint64_t size;
  uint32_t refs;
};

/* A bell and its one sleeper, who is there while it sleeps. */
struct sim_party_bell {
  uint32_t refs, number;
  bool rung;
  struct sim_thread *sleeper;
  const struct sim_party *owner; /* of the sleeper */
};

struct sim_party_block;

struct sim_party {
  struct env env; /* env.self is this party */
  struct sim_world *world;
  uint32_t node;   /* it belongs to */
  uint32_t number; /* of the client; 0: the node itself */
  struct rng random, timing;
  struct sim_party_block *blocks; /* private memory, newest first */
  uint64_t block_count, block_bytes;
  struct sim_party_table stacks, segments, bells, links;
};

/* Fills in memory, stacks, segments, bells, clock and random of *party's environment. */
CHI_PRIVATE void sim_party_init(struct sim_party *party, struct sim_world *world, uint32_t node,
                                uint32_t number);
/* Takes everything the party holds but its links, which must be closed. */
CHI_PRIVATE void sim_party_fini(struct sim_party *party);
/* Notes a failure for everything it still holds, `when` saying in whose name. */
CHI_PRIVATE void sim_party_check(struct sim_party *party, const char *when);

CHI_INLINE struct sim_party *sim_party_of(struct env *env)
{
  return env->self;
}

/* Tables. get and take give NULL for a handle that isn't open; take closes it. */
CHI_PRIVATE int64_t sim_party_table_add(struct sim_party_table *table, void *item);
CHI_PRIVATE void *sim_party_table_get(const struct sim_party_table *table, int64_t handle);
CHI_PRIVATE void *sim_party_table_take(struct sim_party_table *table, int64_t handle);
CHI_PRIVATE uint32_t sim_party_table_used(const struct sim_party_table *table);

/* References that are on their way between parties. */
CHI_PRIVATE struct sim_party_segment *sim_party_segment_get(struct sim_party *party,
                                                            int64_t handle);
CHI_PRIVATE void sim_party_segment_drop(struct sim_party_segment *segment);
CHI_PRIVATE void sim_party_segment_give(struct sim_party *party, struct sim_party_segment *segment,
                                        struct env_segment *out);
CHI_PRIVATE struct sim_party_bell *sim_party_bell_get(struct sim_party *party, env_bell handle);
CHI_PRIVATE void sim_party_bell_drop(struct sim_party_bell *bell);

/* Of the running thread of the party: parks until the bell is rung, until then, or until somebody
 * wakes the thread. True: it was rung; the ring is consumed. */
CHI_PRIVATE bool sim_party_bell_wait(struct sim_party *party, env_bell handle, uint64_t until);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_link.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_link.h - connections between clients and nodes: messages in order, and hang-ups. */
#ifndef CHI_SIM_LINK_H
#define CHI_SIM_LINK_H

struct sim_link;

enum sim_link_kind { SIM_LINK_CONNECT, SIM_LINK_REQUEST, SIM_LINK_REPLY, SIM_LINK_HANGUP };

/* Something on its way to one end of a link. */
struct sim_link_mail {
  struct sim_link_mail *next;
  struct sim_link *link;
  int kind;        /* enum sim_link_kind */
  uint32_t sender; /* the client's number; 0: a node */
  uint64_t due;
  uint64_t size;
  uint32_t count;
  struct {
    int kind; /* enum env_share_kind */
    struct sim_party_segment *segment;
    struct sim_party_bell *bell;
  } share[ENV_SHARES_MAX];
  unsigned char bytes[]; /* size of them */
};

/* Where a node hears of its links: mail in order. */
struct sim_link_port {
  struct sim_party *node;
  struct sim_thread *thread; /* its network worker, to be woken; NULL: none */
  struct sim_link_mail *first, **last;
};

CHI_PRIVATE void sim_link_port_init(struct sim_link_port *port, struct sim_party *node);
/* The next mail that is due, to be freed with sim_link_mail_free; NULL: none. Its link's handle on
 * the node's side goes to *link. */
CHI_PRIVATE struct sim_link_mail *sim_link_take(struct sim_link_port *port, env_link *link);
CHI_PRIVATE void sim_link_mail_free(struct sim_link_mail *mail);
/* When the next mail is due; SIM_WORLD_NEVER. */
CHI_PRIVATE uint64_t sim_link_due(const struct sim_link_port *port);

/* Of the running thread of a client. See env.h. */
CHI_PRIVATE env_link sim_link_connect(struct sim_party *client, struct sim_link_port *port);
CHI_PRIVATE int sim_link_call(struct sim_party *client, env_link link, const void *request,
                              size_t request_size, void *reply, size_t *size,
                              struct env_share *shares, uint32_t *count);
CHI_PRIVATE int sim_link_wait(struct sim_party *client, env_link link, env_bell bell,
                              uint64_t deadline);
CHI_PRIVATE void sim_link_shut(struct sim_party *client, env_link link);

/* Of the network worker of a node. */
CHI_PRIVATE int sim_link_reply(struct sim_party *node, env_link link, const void *message,
                               size_t size, const struct env_share *shares, uint32_t count);
CHI_PRIVATE void sim_link_close(struct sim_link_port *port, env_link link);

/* A client, or a node, is no more: all of its links hang up. */
CHI_PRIVATE void sim_link_shut_all(struct sim_party *client);
CHI_PRIVATE void sim_link_close_all(struct sim_link_port *port);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_io.h ---- */
#ifndef CHI_OMIT_SIM
/* sim_io.h - a node's operations on files: the time they take and the faults that hit them. */
#ifndef CHI_SIM_IO_H
#define CHI_SIM_IO_H

/* What one worker has under way, and what it has not reaped. */
struct sim_io_worker {
  struct sim_thread *thread; /* to be woken; NULL: none */
  uint32_t flight;
  struct env_io *first, **last;
};

struct sim_io_op;

struct sim_io {
  struct sim_world *world;
  struct sim_disk *disk;
  uint32_t node;
  struct rng rng;
  bool blocks; /* operations hold their thread up, as where there is no asynchronous I/O */
  struct sim_io_worker *worker;
  uint32_t worker_count;
  struct sim_io_op *flight, **last; /* oldest first */
};

CHI_PRIVATE void sim_io_init(struct sim_io *io, struct sim_world *world, struct sim_disk *disk,
                             uint32_t node, uint32_t worker_count);
/* Forgets what is under way: of a change it is drawn whether it was made. */
CHI_PRIVATE void sim_io_fini(struct sim_io *io);

/* As env.io_submit, io_blocks and io_reap. */
CHI_PRIVATE int sim_io_submit(struct sim_io *io, uint32_t worker, struct env_io *op);
CHI_PRIVATE bool sim_io_blocks(const struct sim_io *io, const struct env_io *op);
CHI_PRIVATE struct env_io *sim_io_reap(struct sim_io *io, uint32_t worker);
/* Whether the worker has anything to reap. */
CHI_PRIVATE bool sim_io_ready(const struct sim_io *io, uint32_t worker);

#endif
#endif /* CHI_OMIT_SIM */

/* ---- sources/runtime.c ---- */
/* runtime.c - one node: open, step, drain, close. Wires the parts together: the story starts here.
 *
 * A client attaches over a link (session), leases memory and opens queues. A worker takes an entry
 * from a lane, copies the task into private memory, finds its pool in a snapshot of the table, and
 * runs the method on a fiber of its own only if it blocks (worker, worker_accept). The result is
 * written back and the client is woken (queue). The network worker also keeps the pools (directory,
 * admin), the clients (session) and an eye on the others (worker_relieve). */

#include <stdio.h>

#define RUNTIME_LOOK_NS WORKER_STUCK_NS
#define RUNTIME_LINGER_NS 250000000ull /* how long after the last activity it keeps looking */
#define RUNTIME_DRAIN_NS 1000000ull    /* between looks whether everything has ended */

struct runtime {
  struct env *env;
  struct worker_crew crew;
  struct directory directory;
  struct session_set sessions;
  struct module_list modules;
  struct admin_host admin;
  struct compose compose;
  struct method closing;
  chi_config config;
  char instance[CHI_NAME_MAX + 16];
  enum runtime_state state; /* network worker */
  bool settled;             /* pools of the configuration are there, or have failed */
  struct ring_node *early, **early_end; /* task_raw that came before, for a pool not there yet */
  bool closing_pools, closed_pools;
  chi_error failure;
  void (*on_state)(void *arg, enum runtime_state state);
  void *on_state_arg;
  uint64_t look_at, last_active; /* at the other workers */
  uint64_t stop_grace, stop_at, drain_look;
};

static const char *const runtime_state_names[] = {"starting",   "serving", "failed", "draining",
                                                  "cancelling", "stopped", "stuck"};

static void runtime_set_state(struct runtime *rt, enum runtime_state state)
{
  if (rt->state == state)
    return;
  rt->state = state;
  log_write(&rt->crew.log, CHI_LOG_DEBUG, "node is %s", runtime_state_names[state]);
  if (rt->on_state)
    rt->on_state(rt->on_state_arg, state);
}

static struct worker *runtime_network(const struct runtime *rt)
{
  return &rt->crew.worker[rt->crew.count - 1];
}

/* ---- upcalls from below, on the network worker */

static void runtime_on_raw(void *arg, struct task_raw *raw)
{
  struct runtime *rt = arg;
  const chi_task *shared = shm_resolve(raw->queue->table, raw->ref, sizeof *shared);
  chi_pool_id id = {0, 0};
  if (shared)
    memcpy(&id, &shared->pool, sizeof id);
  struct pool *p = directory_find(&rt->directory, id);
  if (p && p->state == POOL_CREATING) {
    pool_park(p, &raw->node);
  } else if (!p && !rt->settled) {
    raw->node.next = NULL;
    *rt->early_end = &raw->node;
    rt->early_end = &raw->node.next;
  } else {
    worker_refuse_raw(runtime_network(rt), raw, CHI_ENOENT);
  }
}

static void runtime_on_notice(void *arg, struct pool_notice *notice)
{
  struct runtime *rt = arg;
  directory_on_notice(&rt->directory, notice);
}

static void runtime_composed(void *arg, int rc)
{
  struct runtime *rt = arg;
  rt->settled = true;
  while (rt->early) {
    struct ring_node *n = rt->early;
    rt->early = n->next;
    ring_push(&runtime_network(rt)->queue, n);
  }
  if (rc != CHI_OK) {
    rt->failure = rt->compose.error;
    log_write(&rt->crew.log, CHI_LOG_ERROR, "%s", rt->failure.text);
  }
  if (rt->state == RUNTIME_STARTING)
    runtime_set_state(rt, rc == CHI_OK ? RUNTIME_SERVING : RUNTIME_FAILED);
}

static void runtime_stop_upcall(void *arg, uint64_t grace_ns)
{
  runtime_stop(arg, grace_ns);
}

static const char *runtime_state_upcall(void *arg)
{
  const struct runtime *rt = arg;
  return runtime_state_names[rt->state];
}

/* ---- open and close */

static void runtime_log_sink(void *arg, int level, const char *line)
{
  struct env *env = arg;
  env->log(env, level, line);
}

static int runtime_open_workers(struct runtime *rt)
{
  struct worker_crew *crew = &rt->crew;
  for (uint32_t i = 0; i < crew->count; i++) {
    enum worker_kind kind = i < crew->fast                ? WORKER_FAST
                            : i < crew->fast + crew->slow ? WORKER_SLOW
                                                          : WORKER_NETWORK;
    int rc = worker_open(&crew->worker[i], crew, i, kind, &rt->sessions.page->worker[i]);
    if (rc != CHI_OK)
      return rc;
  }
  return CHI_OK;
}

static int runtime_add_modules(struct runtime *rt, const struct runtime_options *o, chi_error *err)
{
  rt->modules.alloc = rt->crew.alloc;
  int rc = module_add(&rt->modules, admin_module(), err);
  if (rc == CHI_OK)
    rc = module_add(&rt->modules, bdev_module(), err);
  for (uint32_t i = 0; i < o->module_count && rc == CHI_OK; i++)
    rc = module_add(&rt->modules, o->modules[i], err);
  return rc;
}

static void runtime_init(struct runtime *rt, struct env *env, const struct runtime_options *o)
{
  const chi_config *config = o->config;
  rt->env = env;
  rt->config = *config; /* its arrays stay the caller's; used while composing only */
  rt->on_state = o->on_state;
  rt->on_state_arg = o->arg;
  rt->look_at = rt->drain_look = UINT64_MAX;
  rt->early_end = &rt->early;
  size_t length = strnlen(o->instance, sizeof rt->instance - 1);
  memcpy(rt->instance, o->instance, length);
  rt->crew = (struct worker_crew){
      .env = env,
      .alloc = &env->alloc,
      .log = {.sink = runtime_log_sink, .arg = env, .level = config->log_level},
      .fast = config->sched_threads,
      .slow = config->slow_threads,
      .count = config->sched_threads + config->slow_threads + 1,
      .node = o->node,
      .nodes = config->host_count ? config->host_count : 1,
      .stack_size = config->stack_size,
      .on_raw = runtime_on_raw,
      .on_notice = runtime_on_notice,
      .arg = rt,
  };
}

static int runtime_open_parts(struct runtime *rt, const struct runtime_options *o, chi_error *err)
{
  struct worker_crew *crew = &rt->crew;
  crew->worker = alloc_zero(crew->alloc, crew->count * sizeof *crew->worker);
  int rc = crew->worker ? session_set_open(&rt->sessions, crew, &rt->config) : CHI_ENOMEM;
  if (rc == CHI_OK)
    rc = runtime_open_workers(rt);
  if (rc == CHI_OK)
    rc = directory_open(&rt->directory, crew);
  if (rc != CHI_OK)
    return error_set(err, rc, "Failed to allocate shared memory segment or workers: %s",
                     chi_status_text(rc));
  rc = runtime_add_modules(rt, o, err);
  if (rc != CHI_OK)
    return rc;
  rt->admin = (struct admin_host){
      .crew = crew,
      .directory = &rt->directory,
      .sessions = &rt->sessions,
      .modules = &rt->modules,
      .instance = rt->instance,
      .boot_time = crew->env->clock(crew->env),
      .stop = runtime_stop_upcall,
      .state = runtime_state_upcall,
      .arg = rt,
  };
  rc = admin_open(&rt->admin, err);
  if (rc != CHI_OK)
    return rc;
  rt->compose = (struct compose){
      .host = &rt->admin, .config = &rt->config, .done = runtime_composed, .arg = rt};
  rc = compose_start(&rt->compose);
  return rc == CHI_OK ? rc : error_set(err, rc, "no memory to start");
}

int runtime_open(struct env *env, const struct runtime_options *o, struct runtime **out,
                 chi_error *err)
{
  CHI_ASSERT(env->version == ENV_VERSION && o->config->sched_threads > 0);
  CHI_ASSERT(o->config->slow_threads > 0);
  struct runtime *rt = alloc_zero(&env->alloc, sizeof *rt);
  if (!rt)
    return error_set(err, CHI_ENOMEM, "no memory for a node");
  runtime_init(rt, env, o);
  int rc = runtime_open_parts(rt, o, err);
  if (rc != CHI_OK) {
    runtime_close(rt);
    return rc;
  }
  *out = rt;
  return CHI_OK;
}

/* What workers were still to be told or to tell is dropped with them; tasks of the node itself that
 * never began are freed. */
static void runtime_drop_queued(struct runtime *rt)
{
  for (uint32_t i = 0; i < rt->crew.count; i++) {
    struct worker *w = &rt->crew.worker[i];
    for (struct ring_node *n = ring_pop(&w->queue); n; n = ring_pop(&w->queue))
      if (n->kind == NODE_TASK && task_of(n)->origin == TASK_FROM_NODE)
        worker_record_free(w, task_of(n));
  }
}

void runtime_close(struct runtime *rt)
{
  struct worker_crew *crew = &rt->crew;
  if (crew->worker) {
    if (rt->sessions.crew) {
      session_end_all(&rt->sessions);
      rt->sessions.tend_at = 0;
      session_tend(&rt->sessions, 0);
    }
    runtime_drop_queued(rt);
    if (rt->directory.crew)
      directory_close(&rt->directory);
    for (uint32_t i = 0; i < crew->count; i++)
      if (crew->worker[i].crew)
        worker_close(&crew->worker[i]);
    if (rt->sessions.crew)
      session_set_close(&rt->sessions);
  }
  module_free_all(&rt->modules);
  alloc_put(crew->alloc, crew->worker, crew->count * sizeof *crew->worker);
  alloc_put(crew->alloc, rt, sizeof *rt);
}

/* ---- looking after the other workers */

/* While any of them is awake, and a little longer, a look every 20 ms finds one that is stuck in a
 * method or out of stacks. When all sleep there is nothing to look for, and no timer. */
static void runtime_look(struct runtime *rt, uint64_t now)
{
  struct worker_crew *crew = &rt->crew;
  bool awake = worker_look(runtime_network(rt));
  for (uint32_t i = 0; i + 1 < crew->count; i++) {
    uint32_t heir = worker_relieve(runtime_network(rt), i);
    if (heir == i)
      continue;
    uint32_t moved = session_move_lanes(&rt->sessions, i, heir);
    if (moved == 0)
      continue;
    log_write(&crew->log, CHI_LOG_WARNING, "worker %u %s: its %u lanes go to worker %u", i,
              mark_get(&crew->worker[i].full) ? "has as many blocked tasks as it can"
                                              : "does not come back from a method",
              moved, heir);
    if (rt->env->trace)
      rt->env->trace(rt->env, ENV_TRACE_TAKEOVER, i, heir, moved);
  }
  if (awake)
    rt->last_active = now;
  rt->look_at = now + RUNTIME_LOOK_NS;
  if (now - rt->last_active < RUNTIME_LINGER_NS)
    return;
  mark_set_fenced(&crew->watching, 0);
  for (uint32_t i = 0; i + 1 < crew->count; i++)
    if (mark_get(&crew->worker[i].awake)) {
      mark_set(&crew->watching, 1);
      return;
    }
  rt->look_at = UINT64_MAX;
}

/* ---- stopping */

static uint64_t runtime_work_left(const struct runtime *rt)
{
  uint64_t ended = 0, accepted = 0;
  /* In this order: a task that goes from one worker to another while we look counts as left. */
  for (uint32_t i = 0; i < rt->crew.count; i++)
    ended += mark_get(&rt->crew.worker[i].ended);
  for (uint32_t i = 0; i < rt->crew.count; i++)
    accepted += mark_get(&rt->crew.worker[i].accepted);
  return accepted - ended;
}

CHI_TASK(runtime_closing, 0, CHI_NO_FIELDS)

static int runtime_closing_body(chi_ctx *ctx, void *self, void *task)
{
  struct runtime *rt = ctx->call_arg;
  (void)self;
  (void)task;
  admin_destroy_all(ctx, &rt->admin);
  return CHI_OK;
}

static void runtime_closing_done(chi_ctx *ctx)
{
  struct runtime *rt = ctx->call_arg;
  worker_record_free(runtime_network(rt), ctx);
  rt->closed_pools = true;
}

static const chi_method runtime_closing_method = {&runtime_closing_type, runtime_closing_body, 0,
                                                  0};

void runtime_stop(struct runtime *rt, uint64_t grace_ns)
{
  if (rt->state >= RUNTIME_DRAINING && rt->state != RUNTIME_STUCK)
    return;
  rt->stop_grace = grace_ns;
  rt->stop_at = 0; /* set by the next step, which knows the time */
  if (rt->state == RUNTIME_STUCK) {
    runtime_set_state(rt, RUNTIME_CANCELLING);
    return;
  }
  rt->sessions.draining = true;
  mark_set(&rt->crew.draining, 1);
  worker_cancel_changed(runtime_network(rt)); /* periodic tasks end */
  runtime_set_state(rt, RUNTIME_DRAINING);
  rt->drain_look = 0;
  log_write(&rt->crew.log, CHI_LOG_INFO, "stopping: %llu tasks are under way",
            (unsigned long long)runtime_work_left(rt));
}

/* Of the phases after the first: even who gives no grace means to have the pools closed. */
static uint64_t runtime_patience(const struct runtime *rt)
{
  return rt->stop_grace > 100000000 ? rt->stop_grace : 100000000;
}

static void runtime_close_pools(struct runtime *rt)
{
  admin_method(&rt->closing, &runtime_closing_method);
  if (admin_start(&rt->admin, &rt->closing, true, runtime_closing_done, rt) == CHI_OK)
    rt->closing_pools = true;
}

/* Each phase may last the grace period: drain, then cancel, then close the pools. */
static void runtime_drain(struct runtime *rt, uint64_t now)
{
  rt->drain_look = now + RUNTIME_DRAIN_NS;
  if (rt->stop_at == 0)
    rt->stop_at = now + rt->stop_grace;
  if (!rt->closing_pools && runtime_work_left(rt) == 0) {
    runtime_close_pools(rt);
    rt->stop_at = now + runtime_patience(rt);
    return;
  }
  if (rt->closed_pools && runtime_work_left(rt) == 0) {
    session_end_all(&rt->sessions);
    rt->sessions.tend_at = 0;
    if (session_tend(&rt->sessions, now) == UINT64_MAX && directory_settled(&rt->directory)) {
      rt->drain_look = UINT64_MAX;
      runtime_set_state(rt, RUNTIME_STOPPED);
      return;
    }
  }
  if (now < rt->stop_at)
    return;
  rt->stop_at = now + runtime_patience(rt);
  if (rt->state == RUNTIME_DRAINING && !rt->closing_pools) {
    runtime_set_state(rt, RUNTIME_CANCELLING);
    mark_set(&rt->crew.cancel_all, 1);
    worker_cancel_changed(runtime_network(rt));
  } else if (rt->state != RUNTIME_STUCK) {
    log_write(&rt->crew.log, CHI_LOG_ERROR, "%llu tasks do not end",
              (unsigned long long)runtime_work_left(rt));
    runtime_set_state(rt, RUNTIME_STUCK);
  }
}

/* ---- stepping */

/* What the network worker does beside being a worker; returns when it wants to be called again. */
static uint64_t runtime_tend(struct runtime *rt, uint64_t now)
{
  if (rt->look_at == UINT64_MAX && mark_get(&rt->crew.watching)) {
    rt->last_active = now;
    rt->look_at = now + RUNTIME_LOOK_NS;
  }
  if (now >= rt->look_at)
    runtime_look(rt, now);
  uint64_t next = rt->look_at;
  uint64_t tend = session_tend(&rt->sessions, now);
  next = tend < next ? tend : next;
  if (now >= rt->drain_look)
    runtime_drain(rt, now);
  return rt->drain_look < next ? rt->drain_look : next;
}

bool runtime_step(struct runtime *rt, uint32_t worker, uint64_t now, uint32_t budget,
                  uint64_t *deadline)
{
  struct worker *w = &rt->crew.worker[worker];
  bool more = worker_step(w, now, budget, deadline);
  if (w->kind == WORKER_NETWORK) {
    uint64_t next = runtime_tend(rt, now);
    *deadline = next < *deadline ? next : *deadline;
  }
  return more;
}

uint64_t runtime_worker_done(const struct runtime *rt, uint32_t worker)
{
  const struct worker *w = &rt->crew.worker[worker];
  return tally_get(&w->ended) + tally_get(&w->refused);
}

bool runtime_has_work(const struct runtime *rt, uint32_t worker)
{
  const struct worker *w = &rt->crew.worker[worker];
  if (w->kind == WORKER_NETWORK && rt->look_at == UINT64_MAX && mark_get(&rt->crew.watching))
    return true;
  return worker_has_work(w);
}

bool runtime_may_sleep(struct runtime *rt, uint32_t worker)
{
  struct worker *w = &rt->crew.worker[worker];
  return worker_may_sleep(w) && !(w->kind == WORKER_NETWORK && runtime_has_work(rt, worker));
}

void runtime_awake(struct runtime *rt, uint32_t worker)
{
  worker_awake(&rt->crew.worker[worker]);
}

uint32_t runtime_worker_count(const struct runtime *rt)
{
  return rt->crew.count;
}

uint32_t runtime_network_worker(const struct runtime *rt)
{
  return rt->crew.count - 1;
}

env_bell runtime_worker_bell(const struct runtime *rt, uint32_t worker)
{
  return rt->crew.worker[worker].bell;
}

uint64_t runtime_grace(const struct runtime *rt)
{
  return rt->stop_grace;
}

enum runtime_state runtime_state(const struct runtime *rt)
{
  return rt->state;
}

const chi_error *runtime_failure(const struct runtime *rt)
{
  return &rt->failure;
}

const char *runtime_fault(struct runtime *rt, const void *address, char *buf, size_t size)
{
  for (uint32_t i = 0; i < rt->crew.count; i++) {
    const chi_ctx *ctx = worker_fault(&rt->crew.worker[i], address);
    if (!ctx)
      continue;
    const struct pool *p = ctx->container->pool;
    snprintf(buf, size, "method %.64s of pool %u.%u (%.256s) overran its stack of %llu bytes",
             ctx->method->def->type->name, p->id.major, p->id.minor, p->name,
             (unsigned long long)rt->crew.stack_size);
    return buf;
  }
  return NULL;
}

void runtime_on_connect(struct runtime *rt, env_link link, const struct env_peer *peer)
{
  session_connect(&rt->sessions, link, peer);
}

void runtime_on_request(struct runtime *rt, env_link link, const void *message, size_t size)
{
  session_request(&rt->sessions, link, message, size);
}

void runtime_on_hangup(struct runtime *rt, env_link link)
{
  session_hangup(&rt->sessions, link);
}

#undef RUNTIME_LOOK_NS
#undef RUNTIME_LINGER_NS
#undef RUNTIME_DRAIN_NS

/* ---- sources/client.c ---- */
/* client.c - a program's side of shared memory: attach, lease memory, open and close queues. */

#define CLIENT_SETTLE_NS 1000000000ull /* how long closing a queue waits for its tasks */
#define CLIENT_RETRY_NS 20000000ull

int client_fail(chi_queue *q, int code, const char *text)
{
  return error_set(&q->error, code, "%s", text ? text : chi_status_text(code));
}

static int client_call(struct client_link *l, const struct attach_request *request,
                       struct attach_reply *reply, struct env_share *share, uint32_t *count)
{
  struct attach_request q = *request;
  size_t size = sizeof *reply;
  uint32_t none = 0;
  q.version = ATTACH_VERSION;
  *reply = (struct attach_reply){0};
  int rc = l->env->link_call(l->env, l->link, &q, sizeof q, reply, &size, share,
                             count ? count : &none);
  if (rc == CHI_ESHUTDOWN)
    mark_set(&l->dead, 1);
  if (rc == CHI_OK && size != sizeof *reply)
    rc = CHI_EVERSION;
  return rc != CHI_OK ? rc : reply->rc;
}

/* ---- connections */

static void client_link_release(struct client_link *l)
{
  struct env *env = l->env;
  if (count_add(&l->users, (uint32_t)-1) != 1)
    return;
  for (uint32_t i = 0; l->chunk && i < l->chunks; i++)
    if (l->chunk[i].base)
      env->segment_close(env, &l->chunk[i]);
  for (uint32_t i = 0; l->bell && i < l->workers; i++)
    if (l->bell[i] != ENV_NO_BELL)
      env->bell_close(env, l->bell[i]);
  if (l->page)
    env->segment_close(env, &l->page_segment);
  env->link_shut(env, l->link);
  alloc_put(&env->alloc, l->chunk, l->chunks * sizeof *l->chunk);
  alloc_put(&env->alloc, l->bell, l->workers * sizeof *l->bell);
  alloc_put(&env->alloc, l, sizeof *l);
}

static int client_get_bells(struct client_link *l)
{
  uint32_t have = 0;
  while (have < l->workers) {
    struct env_share share[ATTACH_BELLS_MAX];
    struct attach_reply r;
    uint32_t count = ATTACH_BELLS_MAX;
    int rc = client_call(l, &(struct attach_request){.op = ATTACH_BELLS, .id = have}, &r, share,
                         &count);
    if (rc != CHI_OK || count == 0 || have + count > l->workers)
      return rc != CHI_OK ? rc : CHI_EVERSION;
    for (uint32_t i = 0; i < count; i++)
      l->bell[have++] = share[i].bell;
  }
  return CHI_OK;
}

static int client_hello(struct client_link *l, chi_error *err)
{
  struct env *env = l->env;
  struct env_share share[1];
  struct attach_reply r;
  uint32_t count = 1;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_HELLO}, &r, share, &count);
  if (rc != CHI_OK || count != 1)
    return error_set(err, rc != CHI_OK ? rc : CHI_EVERSION, "the daemon refused: %s",
                     r.text[0] ? r.text : chi_status_text(rc));
  l->page_segment = share[0].segment;
  l->page = share[0].segment.base;
  l->boot = r.boot;
  l->spin_ns = r.spin_ns;
  l->nodes = r.nodes;
  l->bell = alloc_get(&env->alloc, r.workers * sizeof *l->bell);
  if (l->bell)
    l->workers = r.workers;
  for (uint32_t i = 0; i < l->workers; i++)
    l->bell[i] = ENV_NO_BELL;
  l->chunk = alloc_zero(&env->alloc, r.chunks * sizeof *l->chunk);
  if (l->chunk)
    l->chunks = r.chunks;
  if (!l->bell || !l->chunk)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  rc = client_get_bells(l);
  return rc == CHI_OK ? rc : error_set(err, rc, "attaching: %s", chi_status_text(rc));
}

static int client_connect(struct env *env, const char *instance, struct client_link **out,
                          chi_error *err)
{
  struct client_link *l = alloc_zero(&env->alloc, sizeof *l);
  if (!l)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  l->env = env;
  l->users = 1;
  int rc = env->link_open(env, instance, &l->link, err);
  if (rc != CHI_OK) {
    alloc_put(&env->alloc, l, sizeof *l);
    return rc;
  }
  rc = client_hello(l, err);
  if (rc != CHI_OK) {
    client_link_release(l);
    return rc;
  }
  *out = l;
  return CHI_OK;
}

int client_open(struct env *env, void (*dispose)(struct env *env), const char *instance,
                chi_client **out, chi_error *err)
{
  chi_client *c = alloc_zero(&env->alloc, sizeof *c);
  if (!c)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  c->env = env;
  c->dispose = dispose;
  if (instance)
    memcpy(c->instance, instance, strnlen(instance, sizeof c->instance - 1));
  int rc = client_connect(env, instance, &c->current, err);
  if (rc != CHI_OK) {
    alloc_put(&env->alloc, c, sizeof *c);
    return rc;
  }
  *out = c;
  return CHI_OK;
}

static struct client_link *client_current(chi_client *c)
{
  latch_lock(&c->latch);
  struct client_link *l = c->current;
  count_add(&l->users, 1);
  latch_unlock(&c->latch);
  return l;
}

int chi_client_reconnect(chi_client *c, uint64_t timeout_ns, chi_error *err)
{
  struct env *env = c->env;
  if (!mark_get(env->alive))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  uint64_t now = env->clock(env);
  uint64_t until = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
  struct client_link *fresh = NULL;
  const char *instance = c->instance[0] ? c->instance : NULL;
  int rc = client_connect(env, instance, &fresh, err);
  while (rc != CHI_OK && (now = env->clock(env)) < until) {
    env->pause(env, until - now > CLIENT_RETRY_NS ? now + CLIENT_RETRY_NS : until);
    rc = client_connect(env, instance, &fresh, err);
  }
  if (rc != CHI_OK)
    return rc;
  latch_lock(&c->latch);
  struct client_link *old = c->current;
  c->current = fresh;
  latch_unlock(&c->latch);
  mark_set(&old->dead, 1);
  client_link_release(old);
  return CHI_OK;
}

/* ---- memory */

static int client_lease(void *arg, enum shm_kind kind, uint64_t size, void **base, uint32_t *chunk)
{
  struct client_memory *m = arg;
  chi_queue *q = m->queue;
  struct client_link *l = m->link;
  struct env_share share[1];
  struct attach_reply r;
  uint32_t count = 1;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_LEASE, .kind = kind, .size = size},
                       &r, share, &count);
  if (rc != CHI_OK)
    return client_fail(q, rc, r.text[0] ? r.text : NULL);
  if (r.id >= l->chunks || (count == 0 && !l->chunk[r.id].base))
    return client_fail(q, CHI_EVERSION, NULL);
  if (count == 1)
    l->chunk[r.id] = share[0].segment;
  *base = l->chunk[r.id].base;
  *chunk = r.id;
  return CHI_OK;
}

/* The connection may be dead: then there is nobody to give it back to. */
static void client_give_back(void *arg, uint32_t chunk)
{
  struct client_memory *m = arg;
  struct attach_reply r;
  if (!mark_get(&m->link->dead))
    client_call(m->link, &(struct attach_request){.op = ATTACH_RETURN, .id = chunk}, &r, NULL,
                NULL);
}

/* Fresh memory on the current connection, in front of what the queue had. */
static int client_memory_open(chi_queue *q)
{
  struct env *env = q->client->env;
  struct client_memory *m = alloc_zero(&env->alloc, sizeof *m);
  if (!m)
    return CHI_ENOMEM;
  m->queue = q;
  m->link = client_current(q->client);
  struct shm_source source = {client_lease, client_give_back, m};
  shm_arena_init(&m->task, &env->alloc, SHM_MAIN, &source);
  shm_arena_init(&m->bulk, &env->alloc, SHM_CLIENT_DATA, &source);
  m->next = q->memory;
  q->memory = m;
  return CHI_OK;
}

static void client_memory_close(chi_queue *q, struct client_memory *m)
{
  struct env *env = q->client->env;
  shm_arena_fini(&m->task);
  shm_arena_fini(&m->bulk);
  client_link_release(m->link);
  alloc_put(&env->alloc, m, sizeof *m);
}

/* What was allocated on earlier connections goes when the last of it has been freed. */
static void client_memory_trim(chi_queue *q)
{
  struct client_memory **at = &q->memory->next;
  while (*at) {
    struct client_memory *m = *at;
    if (m->task.used == 0 && m->bulk.used == 0) {
      *at = m->next;
      client_memory_close(q, m);
    } else {
      at = &m->next;
    }
  }
}

struct client_memory *client_memory_of(chi_queue *q, const void *p, uint64_t *ref, uint64_t *room,
                                       bool *bulk)
{
  for (struct client_memory *m = q->memory; m; m = m->next) {
    *bulk = false;
    if (shm_find(&m->task, p, ref, room) == CHI_OK)
      return m;
    *bulk = true;
    if (shm_find(&m->bulk, p, ref, room) == CHI_OK)
      return m;
  }
  return NULL;
}

/* ---- queues */

static void client_queue_unmap(chi_queue *q)
{
  struct env *env = q->client->env;
  if (q->desk)
    env->segment_close(env, &q->desk_segment);
  if (q->board)
    env->segment_close(env, &q->board_segment);
  if (q->bell != ENV_NO_BELL)
    env->bell_close(env, q->bell);
  alloc_put(&env->alloc, q->slot, q->depth * sizeof *q->slot);
  if (q->memory)
    alloc_put(&env->alloc, q->rung, q->memory->link->workers * sizeof *q->rung);
  q->desk = NULL;
  q->board = NULL;
  q->bell = ENV_NO_BELL;
  q->slot = NULL;
  q->rung = NULL;
}

/* Opens the queue on the connection of its first memory. */
static int client_queue_map(chi_queue *q)
{
  struct env *env = q->client->env;
  struct client_link *l = q->memory->link;
  struct env_share share[3];
  struct attach_reply r;
  uint32_t count = 3;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_QUEUE, .thread = q->number}, &r,
                       share, &count);
  if (rc != CHI_OK || count != 3)
    return client_fail(q, rc != CHI_OK ? rc : CHI_EVERSION, r.text[0] ? r.text : NULL);
  q->id = r.id;
  q->depth = r.depth;
  q->desk_segment = share[0].segment;
  q->board_segment = share[1].segment;
  q->desk = share[0].segment.base;
  q->board = share[1].segment.base;
  q->bell = share[2].bell;
  q->slot = alloc_get(&env->alloc, q->depth * sizeof *q->slot);
  q->rung = alloc_zero(&env->alloc, l->workers * sizeof *q->rung);
  if (!q->slot || !q->rung)
    return client_fail(q, CHI_ENOMEM, NULL);
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    lane_out_init(&q->out[k], q->desk, q->board, (enum lane_kind)k);
  lane_done_out_init(&q->done, q->board, q->depth);
  client_queue_reset(q);
  return CHI_OK;
}

static void client_queue_free(chi_queue *q)
{
  struct env *env = q->client->env;
  client_queue_unmap(q);
  while (q->memory) {
    struct client_memory *m = q->memory;
    q->memory = m->next;
    client_memory_close(q, m);
  }
  alloc_put(&env->alloc, q, sizeof *q);
}

int chi_queue_open(chi_client *c, chi_queue **out, chi_error *err)
{
  struct env *env = c->env;
  if (!mark_get(env->alive))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  chi_queue *q = alloc_zero(&env->alloc, sizeof *q);
  if (!q)
    return error_set(err, CHI_ENOMEM, "no memory for a queue");
  q->client = c;
  q->number = count_add(&c->queue_numbers, 1);
  q->bell = ENV_NO_BELL;
  int rc = client_memory_open(q);
  if (rc == CHI_OK)
    rc = client_queue_map(q);
  if (rc != CHI_OK) {
    error_set(err, rc, "%s", q->error.text[0] ? q->error.text : chi_status_text(rc));
    client_queue_free(q);
    return rc;
  }
  latch_lock(&c->latch);
  q->next = c->queues;
  c->queues = q;
  latch_unlock(&c->latch);
  *out = q;
  return CHI_OK;
}

/* After a reconnection: what was under way has ended, what was allocated becomes old. */
static int client_queue_move(chi_queue *q)
{
  client_queue_fail_all(q);
  if (q->slot && q->done_first != CLIENT_NO_SLOT)
    return client_fail(q, CHI_ESHUTDOWN, "results of the former connection are still to be taken");
  int rc = client_memory_open(q);
  if (rc != CHI_OK)
    return client_fail(q, rc, NULL);
  struct client_memory *fresh = q->memory;
  q->memory = fresh->next;
  client_queue_unmap(q);
  q->memory = fresh;
  rc = client_queue_map(q);
  if (rc != CHI_OK) {
    client_queue_unmap(q);
    q->memory = fresh->next;
    client_memory_close(q, fresh);
    return rc;
  }
  client_memory_trim(q);
  return CHI_OK;
}

int client_queue_check(chi_queue *q)
{
  chi_client *c = q->client;
  if (CHI_UNLIKELY(!mark_get(c->env->alive)))
    return client_fail(q, CHI_EFORKED, NULL);
  struct client_link *l = q->memory->link;
  if (CHI_LIKELY(mark_get(&c->current) == l && !mark_get(&l->dead) && q->slot))
    return CHI_OK;
  if (mark_get(&c->current) == l) {
    client_queue_fail_all(q);
    return client_fail(q, CHI_ESHUTDOWN, NULL);
  }
  return client_queue_move(q);
}

static void client_unlist(chi_client *c, chi_queue *q)
{
  latch_lock(&c->latch);
  chi_queue **at = &c->queues;
  while (*at != q) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = q->next;
  latch_unlock(&c->latch);
}

void chi_queue_close(chi_queue *q)
{
  if (!q)
    return;
  chi_client *c = q->client;
  struct client_link *l = q->memory->link;
  client_unlist(c, q);
  if (mark_get(c->env->alive) && !mark_get(&l->dead) && q->slot) {
    /* Chunks are given back only when no task can touch them any more; what does not end in time
     * keeps its memory until the client closes. */
    bool settled = client_queue_settle(q, CLIENT_SETTLE_NS);
    struct attach_reply r;
    client_call(l, &(struct attach_request){.op = ATTACH_CLOSE, .id = q->id}, &r, NULL, NULL);
    if (settled) {
      shm_arena_give_back(&q->memory->task);
      shm_arena_give_back(&q->memory->bulk);
    }
  }
  client_queue_free(q);
}

void chi_client_close(chi_client *c)
{
  if (!c)
    return;
  struct env *env = c->env;
  void (*dispose)(struct env *) = c->dispose;
  while (c->queues) {
    chi_queue *q = c->queues;
    c->queues = q->next;
    client_queue_free(q);
  }
  client_link_release(c->current);
  alloc_put(&env->alloc, c, sizeof *c);
  if (dispose)
    dispose(env);
}

int chi_queue_error(chi_queue *q, chi_error *err)
{
  if (err)
    *err = q->error;
  return q->error.code;
}

/* ---- allocation */

void *chi_task_new(chi_queue *q, const chi_type *type)
{
  void *p = NULL;
  uint64_t ref = 0;
  if (client_queue_check(q) != CHI_OK)
    return NULL;
  int rc = type->size < sizeof(chi_task) ? CHI_EINVAL
                                         : shm_get(&q->memory->task, type->size, &p, &ref);
  if (rc != CHI_OK) {
    if (q->error.code != rc)
      client_fail(q, rc, NULL);
    return NULL;
  }
  memset(p, 0, type->size);
  ((chi_task *)p)->method = type->id;
  return p;
}

int chi_bulk_alloc(chi_queue *q, uint64_t size, chi_bulk *out)
{
  int rc = client_queue_check(q);
  if (rc != CHI_OK)
    return rc;
  *out = (chi_bulk){.size = size};
  rc = shm_get(&q->memory->bulk, size, &out->data, &out->ref);
  if (rc != CHI_OK && q->error.code != rc)
    client_fail(q, rc, NULL);
  return rc;
}

int chi_bulk_free(chi_queue *q, chi_bulk *bulk)
{
  if (!bulk->data)
    return CHI_OK;
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  int rc = CHI_EINVAL;
  for (struct client_memory *m = q->memory; m && rc != CHI_OK; m = m->next)
    rc = shm_put(&m->bulk, bulk->data);
  if (rc != CHI_OK)
    return client_fail(q, rc, "not the start of a buffer of this queue");
  *bulk = (chi_bulk){0};
  return CHI_OK;
}

/* ---- pools, by tasks of the admin pool */

int chi_pool_find(chi_queue *q, const char *name, chi_pool_id *out)
{
  struct chi_admin_find_pool *t = CHI_NEW(q, chi_admin_find_pool);
  if (!t)
    return q->error.code;
  t->task.pool = CHI_ADMIN_POOL;
  memcpy(t->pool_name, name, strnlen(name, sizeof t->pool_name - 1));
  int rc = chi_run(q, t);
  *out = t->pool_id;
  chi_task_free(q, t);
  return rc;
}

int chi_pool_create(chi_queue *q, const char *mod_name, const char *pool_name,
                    const chi_param *params, uint32_t count, chi_pool_id *id, chi_error *err)
{
  struct chi_admin_get_or_create_pool *t = CHI_NEW(q, chi_admin_get_or_create_pool);
  if (!t)
    return error_set(err, q->error.code, "%s", q->error.text);
  int rc = CHI_ETOOBIG;
  if (strlen(mod_name) < sizeof t->mod_name && strlen(pool_name) < sizeof t->pool_name)
    rc = compose_params(params, count, t->params, sizeof t->params);
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    t->task.query.mode = CHI_QUERY_DYNAMIC;
    t->pool_id = *id;
    memcpy(t->mod_name, mod_name, strlen(mod_name) + 1);
    memcpy(t->pool_name, pool_name, strlen(pool_name) + 1);
    rc = chi_run(q, t);
    *id = t->pool_id;
  }
  if (rc != CHI_OK)
    error_set(err, rc, "%s", t->error_message[0] ? t->error_message : chi_status_text(rc));
  chi_task_free(q, t);
  return rc;
}

int chi_pool_destroy(chi_queue *q, chi_pool_id id, chi_error *err)
{
  struct chi_admin_destroy_pool *t = CHI_NEW(q, chi_admin_destroy_pool);
  if (!t)
    return error_set(err, q->error.code, "%s", q->error.text);
  t->task.pool = CHI_ADMIN_POOL;
  t->pool_id = id;
  int rc = chi_run(q, t);
  if (rc != CHI_OK)
    error_set(err, rc, "%s", t->error_message[0] ? t->error_message : chi_status_text(rc));
  chi_task_free(q, t);
  return rc;
}

#undef CLIENT_SETTLE_NS
#undef CLIENT_RETRY_NS

/* ---- sources/client_task.c ---- */
/* client_task.c - tasks under way: submit, reap, wait, cancel, abandon. */

#define CLIENT_SLOW_NS 50000u /* an estimate of this much goes to the slow workers */
#define CLIENT_PAUSES 72u     /* about 1 us */
#define CLIENT_TURNS 64u      /* the least that a window gives way before it closes */
#define CLIENT_STREAM 8u      /* so many tasks under way are a stream */
#define CLIENT_GATHER 16u     /* pauses that let completions gather */
#define CLIENT_LISTEN_NS 100000000ull /* between two looks at the link by a program that polls */

/* ---- slots */

void client_queue_reset(chi_queue *q)
{
  q->slot_used = q->flying = q->calls = 0;
  q->slot_free = q->done_first = q->done_last = CLIENT_NO_SLOT;
  q->window = q->memory->link->spin_ns;
  q->fruitless = 0;
  q->armed = false;
}

static uint32_t client_slot_take(chi_queue *q)
{
  uint32_t i = q->slot_free;
  if (i != CLIENT_NO_SLOT)
    q->slot_free = q->slot[i].next;
  else if (q->slot_used < q->depth)
    i = q->slot_used++;
  return i;
}

static void client_slot_give(chi_queue *q, uint32_t i)
{
  q->slot[i].state = CLIENT_FREE;
  q->slot[i].task = NULL;
  q->slot[i].next = q->slot_free;
  q->slot_free = i;
}

/* The slot of a task that is under way or done but not handed out; CLIENT_NO_SLOT. The number in
 * the task is a hint: it lies where others write. */
static uint32_t client_slot_of(const chi_queue *q, const void *task)
{
  uint64_t number = ((const chi_task *)task)->id;
  if (number == 0 || number > q->slot_used || q->slot[number - 1].task != task ||
      q->slot[number - 1].state == CLIENT_FREE)
    return CLIENT_NO_SLOT;
  return (uint32_t)number - 1;
}

static void client_done_add(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  s->state = CLIENT_DONE;
  s->next = CLIENT_NO_SLOT;
  s->prev = q->done_last;
  if (q->done_last != CLIENT_NO_SLOT)
    q->slot[q->done_last].next = i;
  else
    q->done_first = i;
  q->done_last = i;
  q->calls += s->done != NULL;
}

static void client_done_drop(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  CHI_ASSERT(s->state == CLIENT_DONE);
  if (s->prev != CLIENT_NO_SLOT)
    q->slot[s->prev].next = s->next;
  else
    q->done_first = s->next;
  if (s->next != CLIENT_NO_SLOT)
    q->slot[s->next].prev = s->prev;
  else
    q->done_last = s->prev;
  q->calls -= s->done != NULL;
  client_slot_give(q, i);
}

/* Frees a task's memory, wherever it came from. */
static int client_put_back(chi_queue *q, void *task)
{
  int rc = CHI_EINVAL;
  for (struct client_memory *m = q->memory; m && rc != CHI_OK; m = m->next)
    rc = shm_put(&m->task, task);
  return rc == CHI_OK ? rc : client_fail(q, rc, "not a task of this queue");
}

static void client_complete(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  q->flying--;
  if (!s->forget) {
    client_done_add(q, i);
    return;
  }
  void *task = s->task;
  client_slot_give(q, i);
  client_put_back(q, task);
}

/* The header stays shared between the caches of both sides where nothing in it changes. */
static void client_set_rc(chi_task *task, int32_t rc)
{
  if (task->rc != rc)
    task->rc = rc;
}

/* Takes in all completions that have arrived. */
static void client_pump(chi_queue *q)
{
  struct lane_done d;
  while (lane_done_pop(&q->done, &d)) {
    if (d.slot >= q->slot_used || q->slot[d.slot].state != CLIENT_FLYING)
      continue;
    client_set_rc(q->slot[d.slot].task, d.rc);
    client_complete(q, d.slot);
  }
}

void client_queue_fail_all(chi_queue *q)
{
  if (!q->slot)
    return;
  client_pump(q);
  for (uint32_t i = 0; i < q->slot_used && q->flying > 0; i++) {
    if (q->slot[i].state != CLIENT_FLYING)
      continue;
    ((chi_task *)q->slot[i].task)->rc = CHI_ESHUTDOWN;
    client_complete(q, i);
  }
}

/* Callbacks may submit, free and wait themselves: each is taken off the list first. */
static void client_run_callbacks(chi_queue *q)
{
  for (uint32_t i = q->done_first; q->calls > 0 && i != CLIENT_NO_SLOT;) {
    struct client_slot s = q->slot[i];
    uint32_t next = s.next;
    if (s.done) {
      client_done_drop(q, i);
      s.done(s.arg, q, s.task);
      next = q->done_first; /* the list may look different now */
    }
    i = next;
  }
}

/* ---- submission */

static enum lane_kind client_choose_lane(const chi_queue *q, const chi_task *t)
{
  uint32_t mode = t->query.mode;
  bool here = mode == CHI_QUERY_LOCAL || mode == CHI_QUERY_DYNAMIC || q->memory->link->nodes == 1;
  if ((t->pool.major == 1 && t->pool.minor == 0) || !here || (t->flags & CHI_TASK_FORCE_NET))
    return LANE_NETWORK;
  uint64_t size = t->io_size < (1ull << 40) ? t->io_size : 1ull << 40;
  uint64_t ns = size / 4 + t->compute_us * 1000ull + 5000;
  return ns >= CLIENT_SLOW_NS ? LANE_SLOW : LANE_FAST;
}

static int client_put(chi_queue *q, void *task, chi_done_fn *done, void *arg, uint32_t *lanes)
{
  struct client_memory *m = q->memory;
  uint64_t ref = 0, room = 0;
  bool bulk = false;
  if (CHI_UNLIKELY(shm_find(&m->task, task, &ref, &room) != CHI_OK)) {
    m = client_memory_of(q, task, &ref, &room, &bulk);
    return m && !bulk ? client_fail(q, CHI_ESTALE, NULL)
                      : client_fail(q, CHI_EINVAL, "not a task of this queue");
  }
  if (client_slot_of(q, task) != CLIENT_NO_SLOT)
    return client_fail(q, CHI_EINVAL, "the task is under way, or its result not yet taken");
  uint32_t i = client_slot_take(q);
  if (i == CLIENT_NO_SLOT)
    return client_fail(q, CHI_EBUSY, "queue_depth tasks are in flight");
  chi_task *t = task;
  if (t->id != i + 1u)
    t->id = i + 1u;
  client_set_rc(t, CHI_OK);
  enum lane_kind lane = client_choose_lane(q, t);
  q->slot[i] = (struct client_slot){.task = task,
                                    .done = done,
                                    .arg = arg,
                                    .state = CLIENT_FLYING,
                                    .lane = (uint8_t)lane,
                                    .forget = (t->flags & CHI_TASK_FORGET) != 0};
  if (!lane_put(&q->out[lane], LANE_RUN, ref, i)) {
    client_slot_give(q, i);
    return client_fail(q, CHI_EBUSY, "the lane is full");
  }
  q->slot[i].tag = lane_tag(&q->out[lane], lane);
  q->flying++;
  *lanes |= 1u << lane;
  return CHI_OK;
}

/* Wakes the workers that serve these lanes, if they sleep. */
static void client_ring(chi_queue *q, uint32_t lanes)
{
  struct client_link *l = q->memory->link;
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    if (!(lanes >> k & 1))
      continue;
    /* A home that changes after this look is rung by whoever changes it. */
    uint32_t home = lane_home(q->board, (enum lane_kind)k);
    if (home < l->workers && bell_wanted_after_fence(&l->page->worker[home], &q->rung[home]))
      l->env->bell_ring(l->env, l->bell[home]);
  }
}

static int client_submit(chi_queue *q, void *task, chi_done_fn *done, void *arg)
{
  uint32_t lanes = 0;
  int rc = client_queue_check(q);
  if (rc == CHI_OK)
    rc = client_put(q, task, done, arg, &lanes);
  if (rc == CHI_EBUSY) {
    client_pump(q);
    rc = client_put(q, task, done, arg, &lanes);
  }
  if (rc == CHI_OK)
    client_ring(q, lanes);
  return rc;
}

int chi_submit(chi_queue *q, void *task)
{
  return client_submit(q, task, NULL, NULL);
}

int chi_submit_callback(chi_queue *q, void *task, chi_done_fn *done, void *arg)
{
  return client_submit(q, task, done, arg);
}

int chi_submit_many(chi_queue *q, void *const *tasks, uint32_t count)
{
  uint32_t lanes = 0, n = 0;
  int rc = client_queue_check(q);
  while (rc == CHI_OK && n < count) {
    rc = client_put(q, tasks[n], NULL, NULL, &lanes);
    if (rc == CHI_EBUSY) {
      client_pump(q);
      rc = client_put(q, tasks[n], NULL, NULL, &lanes);
    }
    n += rc == CHI_OK;
  }
  client_ring(q, lanes);
  return n > 0 ? (int)n : rc;
}

/* ---- waiting */

/* Takes back what chi_queue_arm announced, and the ring that may have answered it. */
static void client_disarm(chi_queue *q)
{
  struct client_link *l = q->memory->link;
  if (!q->armed)
    return;
  q->armed = false;
  bell_withdraw(&q->desk->client);
  if (l->env->link_wait(l->env, l->link, q->bell, 1) == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
}

/* A program that only looks, and never sleeps, would not hear that the daemon is gone: no memory
 * tells. So fruitless looks ask the link, too, now and then. */
static void client_listen(chi_queue *q)
{
  struct client_link *l = q->memory->link;
  uint64_t now = q->flying > 0 && !q->armed ? l->env->clock(l->env) : 0;
  if (now < q->listen_at || now == 0)
    return;
  q->listen_at = now + CLIENT_LISTEN_NS;
  if (mark_get(&l->dead) || l->env->link_wait(l->env, l->link, q->bell, 1) == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
}

/* Looks for a completion for a while before it is worth sleeping: first at full speed, then giving
 * way to others. A window that was fruitless twice is closed until a sleep turns out short. */
static bool client_spin(chi_queue *q, uint64_t until)
{
  struct env *env = q->client->env;
  /* With many under way, some may gather: else both sides fight over one cache line. */
  for (uint32_t i = 0; q->flying >= CLIENT_STREAM && i < CLIENT_GATHER; i++)
    atomic_pause();
  for (uint32_t i = 0; i < CLIENT_PAUSES; i++) {
    if (lane_done_ready(&q->done))
      return true;
    atomic_pause();
  }
  if (q->window == 0)
    return false;
  uint64_t now = env->clock(env), end = now + q->window;
  /* Where others run in between, time passes but nothing is spent: then turns count. */
  for (uint32_t n = 0; now < until && (now < end || n < CLIENT_TURNS); n++) {
    env->relax(env);
    if (lane_done_ready(&q->done)) {
      q->fruitless = 0;
      return true;
    }
    now = env->clock(env);
  }
  if (++q->fruitless >= 2)
    q->window = 0;
  return false;
}

static int client_sleep(chi_queue *q, uint64_t until)
{
  struct client_link *l = q->memory->link;
  struct env *env = l->env;
  bell_announce(&q->desk->client);
  uint64_t begun = env->clock(env);
  int rc = CHI_OK;
  if (!lane_done_ready(&q->done))
    rc = env->link_wait(env, l->link, q->bell, until);
  bell_withdraw(&q->desk->client);
  if (q->window == 0 && env->clock(env) - begun < l->spin_ns) {
    q->window = l->spin_ns;
    q->fruitless = 1;
  }
  if (rc == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
  return rc == CHI_ESHUTDOWN ? CHI_OK : rc;
}

static uint64_t client_until(chi_queue *q, uint64_t timeout_ns)
{
  if (timeout_ns == UINT64_MAX)
    return UINT64_MAX;
  uint64_t now = q->client->env->clock(q->client->env);
  return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

/* Waits for some completion to arrive. CHI_ETIMEOUT. */
static int client_await(chi_queue *q, uint64_t until)
{
  client_disarm(q);
  if (q->flying == 0)
    return CHI_EINVAL; /* nothing can come */
  if (lane_done_ready(&q->done) || client_spin(q, until)) {
    client_pump(q);
    return CHI_OK;
  }
  int rc = client_sleep(q, until);
  client_pump(q);
  return rc;
}

/* A connection that was replaced is dead: what was under way on it ends here and now. */
static int client_wait_check(chi_queue *q)
{
  int rc = client_queue_check(q);
  if (rc == CHI_EFORKED)
    return rc;
  return q->slot ? CHI_OK : rc;
}

int chi_wait(chi_queue *q, void *task, uint64_t timeout_ns)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  client_pump(q);
  uint32_t i = client_slot_of(q, task);
  if (i == CLIENT_NO_SLOT)
    return ((chi_task *)task)->id ? ((chi_task *)task)->rc
                                  : client_fail(q, CHI_EINVAL, "the task was not submitted");
  if (q->slot[i].forget || q->slot[i].done)
    return client_fail(q, CHI_EINVAL, "the task answers by callback, or not at all");
  uint64_t until = q->slot[i].state == CLIENT_DONE ? 0 : client_until(q, timeout_ns);
  while (q->slot[i].state == CLIENT_FLYING) {
    rc = client_await(q, until);
    if (q->slot[i].state == CLIENT_DONE)
      break;
    if (rc == CHI_ETIMEOUT)
      return rc;
    client_run_callbacks(q);
    if (!q->slot || client_slot_of(q, task) != i) /* they may do anything with the queue */
      return client_fail(q, CHI_ESTALE, "a callback took the task's result");
  }
  client_done_drop(q, i);
  rc = ((chi_task *)task)->rc;
  client_run_callbacks(q);
  return rc;
}

static bool client_is_done(chi_queue *q, const void *task)
{
  if (!q->slot)
    return true;
  client_pump(q);
  uint32_t i = client_slot_of(q, task);
  return i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE;
}

int chi_task_done(chi_queue *q, const void *task)
{
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  if (client_is_done(q, task))
    return 1;
  client_listen(q);
  return client_is_done(q, task);
}

int chi_wait_any(chi_queue *q, void *const *tasks, uint32_t count, uint64_t timeout_ns,
                 uint32_t *which)
{
  int rc = client_wait_check(q);
  uint64_t until = client_until(q, timeout_ns);
  while (rc == CHI_OK) {
    for (uint32_t n = 0; n < count; n++) {
      if (client_is_done(q, tasks[n])) {
        *which = n;
        return chi_wait(q, tasks[n], 0);
      }
    }
    rc = count > 0 ? client_await(q, until) : CHI_EINVAL;
    client_run_callbacks(q);
  }
  return rc;
}

int chi_wait_all(chi_queue *q, void *const *tasks, uint32_t count, uint64_t timeout_ns)
{
  int first = CHI_OK;
  uint64_t until = client_until(q, timeout_ns);
  for (uint32_t n = 0; n < count; n++) {
    uint64_t now = until == UINT64_MAX ? 0 : client_until(q, 0);
    int rc = chi_wait(q, tasks[n], until == UINT64_MAX ? until : now < until ? until - now : 0);
    if (rc == CHI_ETIMEOUT && !client_is_done(q, tasks[n]))
      return rc;
    if (first == CHI_OK)
      first = rc;
  }
  return first;
}

int chi_run(chi_queue *q, void *task)
{
  int rc = chi_submit(q, task);
  return rc != CHI_OK ? rc : chi_wait(q, task, UINT64_MAX);
}

int chi_reap(chi_queue *q, void **tasks, uint32_t room)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  client_disarm(q);
  client_pump(q);
  if (q->done_first == CLIENT_NO_SLOT)
    client_listen(q);
  client_run_callbacks(q);
  uint32_t n = 0;
  for (uint32_t i = q->done_first; n < room && i != CLIENT_NO_SLOT;) {
    uint32_t next = q->slot[i].next;
    if (!q->slot[i].done) {
      tasks[n++] = q->slot[i].task;
      client_done_drop(q, i);
    }
    i = next;
  }
  return (int)n;
}

bool client_queue_settle(chi_queue *q, uint64_t timeout_ns)
{
  for (uint32_t i = 0; i < q->slot_used; i++)
    if (q->slot[i].state == CLIENT_FLYING)
      chi_cancel(q, q->slot[i].task);
  uint64_t until = client_until(q, timeout_ns);
  while (q->flying > 0)
    if (client_await(q, until) != CHI_OK)
      return q->flying == 0;
  return true;
}

/* ---- the end of tasks */

int chi_cancel(chi_queue *q, void *task)
{
  int rc = client_queue_check(q);
  if (rc != CHI_OK)
    return rc;
  client_pump(q);
  uint32_t i = client_slot_of(q, task);
  if (i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE)
    return CHI_OK;
  struct client_slot *s = &q->slot[i];
  if (!lane_put(&q->out[s->lane], LANE_CANCEL, i, s->tag))
    return client_fail(q, CHI_EBUSY, "the lane is full");
  client_ring(q, 1u << s->lane);
  return CHI_OK;
}

int chi_abandon(chi_queue *q, void *task)
{
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  uint32_t i = q->slot ? client_slot_of(q, task) : CLIENT_NO_SLOT;
  if (i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE)
    return chi_task_free(q, task);
  q->slot[i].forget = true;
  return chi_cancel(q, task);
}

int chi_task_free(chi_queue *q, void *task)
{
  if (!task)
    return CHI_OK;
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  uint32_t i = q->slot ? client_slot_of(q, task) : CLIENT_NO_SLOT;
  if (i != CLIENT_NO_SLOT && q->slot[i].state == CLIENT_FLYING) {
    client_pump(q);
    if (q->slot[i].state == CLIENT_FLYING)
      return client_fail(q, CHI_EBUSY, "the task is in flight");
  }
  if (i != CLIENT_NO_SLOT)
    client_done_drop(q, i);
  return client_put_back(q, task);
}

/* ---- for an event loop of one's own */

int chi_queue_fd(chi_queue *q)
{
  int rc = client_queue_check(q);
  struct client_link *l = q->memory->link;
  return rc != CHI_OK ? rc : l->env->link_descriptor(l->env, l->link, q->bell);
}

int chi_queue_arm(chi_queue *q)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  client_pump(q);
  if (q->done_first != CLIENT_NO_SLOT)
    return 1;
  if (q->armed)
    return 0;
  bell_announce(&q->desk->client);
  q->armed = true;
  if (!lane_done_ready(&q->done))
    return 0;
  client_disarm(q);
  client_pump(q);
  return 1;
}

#undef CLIENT_SLOW_NS
#undef CLIENT_PAUSES
#undef CLIENT_TURNS
#undef CLIENT_STREAM
#undef CLIENT_GATHER
#undef CLIENT_LISTEN_NS

/* ---- sources/compose.c ---- */
/* compose.c - pools declared in configuration become create tasks. */

#define COMPOSE_PARAMS_MAX 2048u

int compose_params(const chi_param *params, uint32_t count, char *out, size_t room)
{
  size_t used = 0;
  for (uint32_t i = 0; i < count; i++) {
    size_t name = strlen(params[i].name), value = strlen(params[i].value);
    if (strpbrk(params[i].value, "\n") || strpbrk(params[i].name, "\n="))
      return CHI_EINVAL;
    if (used + name + value + 3 > room)
      return CHI_ETOOBIG;
    memcpy(out + used, params[i].name, name);
    out[used + name] = '=';
    memcpy(out + used + name + 1, params[i].value, value);
    used += name + value + 1;
    out[used++] = '\n';
  }
  out[used] = '\0';
  return CHI_OK;
}

static int compose_entry(chi_ctx *ctx, struct compose *c, const chi_compose_entry *e)
{
  char params[COMPOSE_PARAMS_MAX];
  chi_error why = {0};
  chi_pool_id id = {e->pool_major, e->pool_minor};
  bool created = false;
  int rc = compose_params(e->params, e->param_count, params, sizeof params);
  if (rc == CHI_OK)
    rc = admin_create_pool(ctx, c->host, e->mod_name, e->pool_name, params, &id, &created, &why);
  else
    error_set(&why, rc, "its parameters: %s", chi_status_text(rc));
  if (rc == CHI_OK && (id.major != e->pool_major || id.minor != e->pool_minor))
    rc = error_set(&why, CHI_ECONFLICT, "it is there as %u.%u", id.major, id.minor);
  if (rc != CHI_OK)
    error_set(&c->error, rc, "compose entry %s (%u.%u, module %s): %s", e->pool_name,
              e->pool_major, e->pool_minor, e->mod_name, why.text);
  return rc;
}

CHI_TASK(compose_pools, 0, CHI_NO_FIELDS)

static int compose_body(chi_ctx *ctx, void *self, void *task)
{
  struct compose *c = ctx->call_arg;
  (void)self;
  (void)task;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < c->config->compose_count && rc == CHI_OK; i++)
    rc = compose_entry(ctx, c, &c->config->compose[i]);
  chi_event_set(ctx, &c->host->composed);
  return rc;
}

static const chi_method compose_method = {&compose_pools_type, compose_body, 0, 0};

static void compose_ended(chi_ctx *ctx)
{
  struct compose *c = ctx->call_arg;
  int rc = ctx->task->rc;
  worker_record_free(&c->host->crew->worker[c->host->crew->count - 1], ctx);
  if (rc != CHI_OK && c->error.code == CHI_OK)
    error_set(&c->error, rc, "compose: %s", chi_status_text(rc));
  c->done(c->arg, rc);
}

int compose_start(struct compose *c)
{
  admin_method(&c->method, &compose_method);
  return admin_start(c->host, &c->method, false, compose_ended, c);
}

#undef COMPOSE_PARAMS_MAX

/* ---- sources/admin.c ---- */
/* admin.c - the admin module: pools, stop, flush, monitor. Runs on the network worker. */

#include <stdio.h>

struct admin {
  struct admin_host *host;
};

#define ADMIN_PARAMS_MAX 64u /* fields of a module's parameters */
#define ADMIN_WAITING 256u   /* tasks that may wait at a time: others need stacks, too */

/* ---- what runs in a container on behalf of its pool */

CHI_TASK(admin_create, 0, CHI_NO_FIELDS)
CHI_TASK(admin_destroy, 1, CHI_NO_FIELDS)

static int admin_create_body(chi_ctx *ctx, void *self, void *task)
{
  const struct pool *p = ctx->container->pool;
  (void)task;
  return p->module->def->create ? p->module->def->create(ctx, self, p->params) : CHI_OK;
}

static int admin_destroy_body(chi_ctx *ctx, void *self, void *task)
{
  const struct pool *p = ctx->container->pool;
  (void)task;
  ctx_shield(ctx);
  if (p->module->def->destroy)
    p->module->def->destroy(ctx, self);
  return CHI_OK;
}

static const chi_method admin_create_method = {&admin_create_type, admin_create_body, 0, 0};
static const chi_method admin_destroy_method = {&admin_destroy_type, admin_destroy_body, 0, 0};

void admin_method(struct method *method, const chi_method *def)
{
  *method = (struct method){.def = def, .index = METHOD_UNCOUNTED, .weight = 1024};
  int rc = task_plan_init(&method->plan, def->type, NULL);
  CHI_ASSERT(rc == CHI_OK);
}

/* Runs one of them to its end, whatever happens to the caller meanwhile. */
static int admin_run_in(chi_ctx *ctx, struct pool *p, struct method *method)
{
  void *task = chi_subtask_new(ctx, method->def->type);
  if (!task)
    return CHI_ENOMEM;
  ctx_aim(task, &p->container, method, true);
  int rc = chi_call(ctx, task);
  if (!chi_subtask_done(ctx, task)) { /* the caller was cancelled: the body is told, and decides */
    chi_subtask_cancel(ctx, task);
    for (uint64_t ns = 1000000; !chi_subtask_done(ctx, task); ns = ns < 50000000 ? ns * 2 : ns)
      ctx_pause(ctx, ns);
    rc = ((const chi_task *)task)->rc;
  }
  chi_subtask_free(ctx, task);
  return rc;
}

/* ---- parameters */

static bool admin_same_name(const char *field, const char *name, size_t length)
{
  if (strlen(field) != length)
    return false;
  for (size_t i = 0; i < length; i++)
    if (field[i] != (name[i] == '.' ? '_' : name[i]))
      return false;
  return true;
}

static int admin_set_param(const chi_type *type, void *params, const char *line, size_t length,
                           uint64_t *given, chi_error *err)
{
  const char *equals = memchr(line, '=', length);
  char name[CHI_NAME_MAX], value[CHI_PATH_MAX];
  size_t name_length = equals ? (size_t)(equals - line) : length;
  size_t value_length = equals ? length - name_length - 1 : 0;
  if (!equals || name_length >= sizeof name || value_length >= sizeof value)
    return error_set(err, CHI_EINVAL, "parameter \"%.*s\": expected NAME=VALUE",
                     (int)(length < 64 ? length : 64), line);
  memcpy(value, equals + 1, value_length);
  value[value_length] = '\0';
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (!admin_same_name(type->fields[i].name, line, name_length))
      continue;
    *given |= 1ull << i;
    return chi_type_set(type, params, type->fields[i].name, value, err);
  }
  memcpy(name, line, name_length);
  name[name_length] = '\0';
  return chi_type_set(type, params, name, value, err); /* fails, naming the nearest */
}

static int admin_parse_params(const struct module *m, const char *text, void *params,
                              chi_error *err)
{
  const chi_type *type = m->def->params;
  uint64_t given = 0;
  int rc = CHI_OK;
  if (type && type->field_count > ADMIN_PARAMS_MAX)
    return error_set(err, CHI_EINVAL, "module %s declares more than %u parameters", m->def->name,
                     ADMIN_PARAMS_MAX);
  for (uint32_t i = 0; type && i < type->field_count && rc == CHI_OK; i++) {
    const chi_field *f = &type->fields[i];
    if (f->preset[0] != '\0')
      rc = chi_type_set(type, params, f->name, f->preset, err);
  }
  while (*text && rc == CHI_OK) {
    size_t length = strcspn(text, "\n");
    if (length > 0 && !type)
      return error_set(err, CHI_EINVAL, "module %s takes no parameters", m->def->name);
    if (length > 0)
      rc = admin_set_param(type, params, text, length, &given, err);
    text += length + (text[length] == '\n');
  }
  for (uint32_t i = 0; type && i < type->field_count && rc == CHI_OK; i++)
    if (type->fields[i].preset[0] == '\0' && !(given >> i & 1))
      rc = error_set(err, CHI_EINVAL, "module %s: parameter %s is missing", m->def->name,
                     type->fields[i].name);
  return rc;
}

/* ---- pools */

static struct module *admin_find_module(struct admin_host *host, const char *name, chi_error *err)
{
  struct module *m = module_find(host->modules, name);
  if (m)
    return m;
  struct env *env = host->crew->env;
  const chi_module *def = NULL;
  if (env->module_load(env, name, &def, err) != CHI_OK)
    return NULL;
  if (!module_is_named(def, name)) {
    error_set(err, CHI_ENOMODULE, "module %s: what was loaded calls itself %s", name, def->name);
    return NULL;
  }
  return module_add(host->modules, def, err) == CHI_OK ? module_find(host->modules, name) : NULL;
}

static void admin_publish(chi_ctx *ctx, struct directory *d)
{
  while (directory_publish(d) != CHI_OK)
    ctx_pause(ctx, 10000000);
}

/* Nobody may take the pool for ready, and destroy it, while there is no memory to tell the rest. */
static void admin_publish_ready(chi_ctx *ctx, struct directory *d, struct pool *p)
{
  p->state = POOL_READY;
  while (directory_publish(d) != CHI_OK) {
    p->state = POOL_CREATING;
    ctx_pause(ctx, 10000000);
    p->state = POOL_READY;
  }
}

static void admin_trace(struct admin_host *host, const struct pool *p)
{
  struct env *env = host->crew->env;
  if (env->trace)
    env->trace(env, ENV_TRACE_POOL, ((uint64_t)p->id.major << 32) | p->id.minor,
               (uint64_t)p->state, host->directory->version);
}

/* Entries that waited for the pool are looked at again, in order. */
static void admin_unpark(struct admin_host *host, struct pool *p)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  struct ring_node *n = p->parked;
  p->parked = NULL;
  p->parked_end = &p->parked;
  while (n) {
    struct ring_node *next = n->next;
    ring_push(&network->queue, n);
    n = next;
  }
}

/* Takes a pool out of everybody's sight, and waits until nobody has it any more. */
static void admin_retire(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                         enum pool_state state)
{
  struct directory *d = host->directory;
  p->state = state;
  mark_set(&p->doomed, 1);
  directory_remove(d, p);
  admin_publish(ctx, d);
  admin_unpark(host, p);
  worker_cancel_changed(ctx->worker);
  chi_event_set(ctx, &p->created);
  for (uint64_t ns = 200000; !directory_settled(d) || pool_active(p) != 0;
       ns = ns < 50000000 ? ns * 2 : ns)
    ctx_pause(ctx, ns);
  admin_trace(host, p);
}

static int admin_make_pool(chi_ctx *ctx, struct admin_host *host, struct pool *p, chi_error *err)
{
  directory_add(host->directory, p);
  admin_publish(ctx, host->directory);
  admin_trace(host, p);
  int rc = admin_run_in(ctx, p, &host->create);
  if (rc == CHI_OK) {
    admin_publish_ready(ctx, host->directory, p);
    admin_unpark(host, p);
    admin_trace(host, p);
    chi_event_set(ctx, &p->created);
    log_write(&host->crew->log, CHI_LOG_INFO, "pool %u.%u (%s) of module %s is ready",
              p->id.major, p->id.minor, p->name, p->module->def->name);
    return CHI_OK;
  }
  error_set(err, rc, "pool %s: create of module %s failed: %s", p->name, p->module->def->name,
            rc > 0 ? "a code of its own" : chi_status_text(rc));
  admin_retire(ctx, host, p, POOL_FAILED);
  pool_close(host->crew->alloc, p);
  return rc;
}

static int admin_same_definition(const struct pool *there, const struct pool *asked,
                                 chi_error *err)
{
  const chi_type *type = there->module->def->params;
  if (there->module != asked->module)
    return error_set(err, CHI_ECONFLICT, "pool %s is there with module %s", there->name,
                     there->module->def->name);
  if (type && memcmp(there->params, asked->params, type->size) != 0)
    return error_set(err, CHI_ECONFLICT, "pool %s is there with other parameters", there->name);
  return CHI_OK;
}

/* True if this task was called, over however many others, by one that runs in the pool: to wait for
 * the pool would be to wait for oneself. */
static bool admin_called_from(const chi_ctx *ctx, const struct pool *p)
{
  const chi_ctx *c = ctx->parent;
  while (c && c->container->pool != p)
    c = c->parent;
  return c != NULL;
}

/* The pool of that name, or of that id, once it is no longer in creation; NULL: none. */
static struct pool *admin_existing(chi_ctx *ctx, struct admin_host *host, const char *name,
                                   chi_pool_id id, int *rc)
{
  for (;;) {
    struct pool *p = directory_find_name(host->directory, name);
    if (!p)
      p = directory_find(host->directory, id);
    if (!p || p->state == POOL_READY)
      return p;
    if (admin_called_from(ctx, p)) {
      *rc = CHI_EDEADLOCK;
      return NULL;
    }
    *rc = chi_event_wait(ctx, &p->created, 50000000);
    if (*rc != CHI_OK && *rc != CHI_ETIMEOUT)
      return NULL;
    *rc = chi_cancelled(ctx);
    if (*rc != CHI_OK)
      return NULL;
  }
}

int admin_create_pool(chi_ctx *ctx, struct admin_host *host, const char *mod_name,
                      const char *pool_name, const char *params, chi_pool_id *id, bool *created,
                      chi_error *err)
{
  const struct alloc *alloc = host->crew->alloc;
  *created = false;
  if (id->major == 0 && id->minor == 0)
    return error_set(err, CHI_EINVAL, "pool id 0.0 is null: give one such as 300.0");
  if (pool_name[0] == '\0' || mod_name[0] == '\0')
    return error_set(err, CHI_EINVAL, "a pool needs a name and a module");
  chi_error why = {0};
  struct module *m = admin_find_module(host, mod_name, &why);
  if (!m)
    return error_set(err, why.code, "%s", why.text);
  struct pool *p = NULL;
  int rc = pool_open(alloc, host->crew->count, *id, pool_name, m, &p);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for pool %s", pool_name);
  rc = admin_parse_params(m, params, p->params, err);
  struct pool *there = rc == CHI_OK ? admin_existing(ctx, host, pool_name, *id, &rc) : NULL;
  if (there) {
    if (strcmp(there->name, pool_name) != 0)
      rc = error_set(err, CHI_ECONFLICT, "pool id %u.%u belongs to pool %s", id->major, id->minor,
                     there->name);
    else
      rc = admin_same_definition(there, p, err);
    *id = there->id;
  }
  if (there || rc != CHI_OK) {
    pool_close(alloc, p);
    return rc;
  }
  if (mark_get(&host->crew->draining)) {
    pool_close(alloc, p);
    return error_set(err, CHI_ESHUTDOWN, "pool %s: the node is stopping", pool_name);
  }
  *created = true;
  return admin_make_pool(ctx, host, p, err);
}

/* Before a task of the admin pool waits, perhaps for long. CHI_EBUSY: too many do. */
static int admin_begin_to_wait(struct admin_host *host)
{
  if (host->waiting == ADMIN_WAITING)
    return CHI_EBUSY;
  host->waiting++;
  return CHI_OK;
}

static int chi_admin_get_or_create_pool_run(chi_ctx *ctx, struct admin *self,
                                            struct chi_admin_get_or_create_pool *t)
{
  chi_error err = {0};
  bool created = false;
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_create_pool(ctx, self->host, t->mod_name, t->pool_name, t->params, &t->pool_id,
                         &created, &err);
  self->host->waiting--;
  t->created = created;
  if (rc != CHI_OK)
    memcpy(t->error_message, err.text, sizeof t->error_message);
  return rc;
}

static void admin_destroy_pool(chi_ctx *ctx, struct admin_host *host, struct pool *p)
{
  ctx_shield(ctx);
  log_write(&host->crew->log, CHI_LOG_INFO, "destroying pool %u.%u (%s)", p->id.major, p->id.minor,
            p->name);
  admin_retire(ctx, host, p, POOL_DESTROYED);
  int rc = admin_run_in(ctx, p, &host->destroy);
  while (rc == CHI_ENOMEM || rc == CHI_EBUSY) {
    ctx_pause(ctx, 10000000);
    rc = admin_run_in(ctx, p, &host->destroy);
  }
  while (pool_active(p) != 0)
    ctx_pause(ctx, 200000);
  pool_close(host->crew->alloc, p);
}

static int chi_admin_destroy_pool_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_destroy_pool *t)
{
  struct pool *p = directory_find(self->host->directory, t->pool_id);
  if (pool_id_equal(t->pool_id, CHI_ADMIN_POOL)) {
    snprintf(t->error_message, sizeof t->error_message, "the admin pool stays");
    return CHI_EINVAL;
  }
  if (!p || p->state != POOL_READY) {
    snprintf(t->error_message, sizeof t->error_message, "no pool %u.%u is ready here",
             t->pool_id.major, t->pool_id.minor);
    return p ? CHI_EBUSY : CHI_ENOENT;
  }
  if (admin_called_from(ctx, p)) {
    snprintf(t->error_message, sizeof t->error_message, "pool %u.%u would wait for its own task",
             t->pool_id.major, t->pool_id.minor);
    return CHI_EDEADLOCK;
  }
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  admin_destroy_pool(ctx, self->host, p);
  self->host->waiting--;
  return CHI_OK;
}

void admin_destroy_all(chi_ctx *ctx, struct admin_host *host)
{
  for (;;) {
    struct pool *last = NULL;
    for (struct pool *p = host->directory->first; p; p = p->next)
      if (p != host->pool && p->state == POOL_READY)
        last = p;
    if (!last)
      return;
    admin_destroy_pool(ctx, host, last);
  }
}

static int chi_admin_find_pool_run(chi_ctx *ctx, struct admin *self, struct chi_admin_find_pool *t)
{
  struct admin_host *host = self->host;
  const struct pool *p = directory_find_name(host->directory, t->pool_name);
  if (!p && !ctx->parent) { /* a create that asks would wait for itself */
    int rc = admin_begin_to_wait(host);
    if (rc != CHI_OK)
      return rc;
    rc = chi_event_wait(ctx, &host->composed, 0); /* it may be one of the configuration */
    host->waiting--;
    if (rc != CHI_OK)
      return rc;
    p = directory_find_name(host->directory, t->pool_name);
  }
  if (!p)
    return CHI_ENOENT;
  t->pool_id = p->id;
  memcpy(t->mod_name, p->module->def->name, strlen(p->module->def->name) + 1);
  return CHI_OK;
}

/* ---- the node */

static int chi_admin_stop_runtime_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_stop_runtime *t)
{
  (void)ctx;
  self->host->stop(self->host->arg, (uint64_t)t->grace_period_ms * 1000000ull);
  return CHI_OK;
}

/* Tasks accepted and not ended, but for those that wait for this, and periodic ones at rest. */
static uint64_t admin_work_left(const struct admin_host *host, uint64_t *done)
{
  uint64_t accepted = 0, ended = 0, resting = 0;
  for (uint32_t i = 0; i < host->crew->count; i++) {
    const struct worker *w = &host->crew->worker[i];
    ended += mark_get(&w->ended);
    resting += mark_get(&w->resting);
  }
  for (uint32_t i = 0; i < host->crew->count; i++) /* after what ended: what moves counts as left */
    accepted += mark_get(&host->crew->worker[i].accepted);
  *done = ended;
  return accepted - ended - resting - host->flushing;
}

static int chi_admin_flush_run(chi_ctx *ctx, struct admin *self, struct chi_admin_flush *t)
{
  struct admin_host *host = self->host;
  if (ctx->parent) /* whoever waits for this is work itself */
    return CHI_EDEADLOCK;
  int rc = admin_begin_to_wait(host);
  if (rc != CHI_OK)
    return rc;
  host->flushing++;
  for (uint64_t ns = 100000; rc == CHI_OK && admin_work_left(host, &t->total_work_done) > 0;
       ns = ns < 10000000 ? ns * 2 : ns)
    rc = chi_sleep(ctx, ns);
  host->flushing--;
  host->waiting--;
  return rc;
}

/* Text into a bulk field, counted even where it doesn't fit. */
struct admin_text {
  char *at;
  uint64_t room, size;
};

static void admin_put(void *arg, const char *text)
{
  struct admin_text *t = arg;
  size_t length = strlen(text);
  if (t->size + length <= t->room)
    memcpy(t->at + t->size, text, length);
  t->size += length;
}

static int admin_text_end(const struct admin_text *t, chi_bulk *bulk, uint64_t *size)
{
  *size = t->size;
  if (t->size > t->room)
    return CHI_ETOOBIG;
  bulk->size = t->size;
  return CHI_OK;
}

static int chi_admin_monitor_run(chi_ctx *ctx, struct admin *self, struct chi_admin_monitor *t)
{
  struct admin_text text = {.at = t->json.data, .room = t->json.size};
  admin_monitor_print(self->host, chi_now(ctx), admin_put, &text);
  return admin_text_end(&text, &t->json, &t->size);
}

static int chi_admin_describe_run(chi_ctx *ctx, struct admin *self, struct chi_admin_describe *t)
{
  (void)ctx;
  struct admin_text text = {.at = t->text.data, .room = t->text.size};
  const struct pool *p = directory_find(self->host->directory, t->pool_id);
  if (!p)
    return CHI_ENOENT;
  int rc = text_describe(p->module->def, admin_put, &text);
  return rc != CHI_OK ? rc : admin_text_end(&text, &t->text, &t->size);
}

#define ADMIN_METHODS(M, S)                                                                        \
  M(S, chi_admin_get_or_create_pool)                                                               \
  M(S, chi_admin_destroy_pool)                                                                     \
  M(S, chi_admin_stop_runtime)                                                                     \
  M(S, chi_admin_flush)                                                                            \
  M(S, chi_admin_monitor)                                                                          \
  M(S, chi_admin_find_pool)                                                                        \
  M(S, chi_admin_describe)
CHI_METHODS(admin, ADMIN_METHODS)

static const chi_module admin_definition = {
    .version = CHI_MODULE_VERSION,
    .name = "admin",
    .state_size = sizeof(struct admin),
    .methods = admin_methods,
};

const chi_module *admin_module(void)
{
  return &admin_definition;
}

int admin_open(struct admin_host *host, chi_error *err)
{
  struct module *m = module_find(host->modules, "admin");
  CHI_ASSERT(m != NULL);
  int rc = pool_open(host->crew->alloc, host->crew->count, CHI_ADMIN_POOL, "admin", m, &host->pool);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for the admin pool");
  ((struct admin *)host->pool->container.state)->host = host;
  host->pool->state = POOL_READY;
  directory_add(host->directory, host->pool);
  admin_method(&host->create, &admin_create_method);
  admin_method(&host->destroy, &admin_destroy_method);
  return directory_publish(host->directory);
}

int admin_start(struct admin_host *host, struct method *method, bool shielded,
                void (*done)(chi_ctx *ctx), void *arg)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  uint32_t size = method->def->type->size;
  chi_ctx *ctx = worker_record(network, size);
  if (!ctx)
    return CHI_ENOMEM;
  memset(ctx->task, 0, size);
  ctx->origin = TASK_FROM_NODE;
  ctx->container = &host->pool->container;
  ctx->method = method;
  ctx->call_done = done;
  ctx->call_arg = arg;
  ctx->id = ctx->root = worker_new_id(network);
  ctx->shielded = shielded;
  ctx->accepted = network->now;
  tally_add(&network->accepted, 1);
  tally_add(&ctx->container->tally[network->index].active, 1);
  worker_submit(network, ctx);
  return CHI_OK;
}

#undef ADMIN_METHODS
#undef ADMIN_PARAMS_MAX
#undef ADMIN_WAITING

/* ---- sources/admin_monitor.c ---- */
/* admin_monitor.c - the node's figures as one JSON object. Figures of other workers are read while
 * they run: each is exact for some recent moment, together they need not be of the same one. */

#include <stdio.h>

struct admin_out {
  chi_put_fn *put;
  void *arg;
};

static void admin_out_number(const struct admin_out *o, const char *name, uint64_t value,
                             bool first)
{
  char text[96];
  snprintf(text, sizeof text, "%s\"%s\":%llu", first ? "" : ",", name, (unsigned long long)value);
  o->put(o->arg, text);
}

static void admin_out_string(const struct admin_out *o, const char *name, const char *value,
                             bool first)
{
  char text[64];
  snprintf(text, sizeof text, "%s\"%s\":", first ? "" : ",", name);
  o->put(o->arg, text);
  text_put_string(value, strlen(value) + 1, o->put, o->arg);
}

static void admin_out_open(const struct admin_out *o, const char *name, const char *bracket,
                           bool first)
{
  char text[64];
  snprintf(text, sizeof text, "%s\"%s\":%s", first ? "" : ",", name, bracket);
  o->put(o->arg, text);
}

static void admin_out_worker(const struct admin_out *o, const struct worker *w, bool first)
{
  static const char *const kinds[] = {"fast", "slow", "network"};
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", w->index, true);
  admin_out_string(o, "kind", kinds[w->kind], false);
  admin_out_number(o, "lanes", mark_get(&w->lane_count), false);
  admin_out_number(o, "queued", mark_get(&w->queue.count) + mark_get(&w->urgent.count), false);
  admin_out_number(o, "blocked", tally_get(&w->blocked_count), false);
  admin_out_number(o, "tasks", tally_get(&w->ended), false);
  admin_out_number(o, "busy_ns", tally_get(&w->busy_ns), false);
  admin_out_number(o, "stuck", w->stuck, false);
  o->put(o->arg, "}");
}

/* The histogram: [upper end in nanoseconds, count] for each bucket that has any. */
static void admin_out_latency(const struct admin_out *o, const struct pool_figures *f)
{
  bool first = true;
  admin_out_open(o, "latency", "[", false);
  for (uint32_t b = 0; b < POOL_BUCKETS; b++) {
    char text[64];
    if (f->bucket[b] == 0)
      continue;
    snprintf(text, sizeof text, "%s[%llu,%llu]", first ? "" : ",",
             (unsigned long long)pool_bucket_end(b), (unsigned long long)f->bucket[b]);
    o->put(o->arg, text);
    first = false;
  }
  o->put(o->arg, "]");
}

static void admin_out_method(const struct admin_out *o, const struct pool *p, uint32_t index,
                             bool first)
{
  struct pool_figures f;
  const chi_type *type = p->module->method[index].def->type;
  pool_figures_sum(p, index, &f);
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", type->id, true);
  admin_out_string(o, "name", type->name, false);
  admin_out_number(o, "count", f.count, false);
  admin_out_number(o, "errors", f.errors, false);
  admin_out_number(o, "mean_ns", f.sampled ? f.sampled_ns / f.sampled : 0, false);
  admin_out_number(o, "p50_ns", pool_percentile(&f, 50), false);
  admin_out_number(o, "p99_ns", pool_percentile(&f, 99), false);
  admin_out_latency(o, &f);
  o->put(o->arg, "}");
}

static void admin_out_pool(const struct admin_out *o, const struct pool *p, bool first)
{
  static const char *const states[] = {"creating", "ready", "destroyed", "failed"};
  char id[24];
  snprintf(id, sizeof id, "%u.%u", p->id.major, p->id.minor);
  o->put(o->arg, first ? "{" : ",{");
  admin_out_string(o, "id", id, true);
  admin_out_string(o, "name", p->name, false);
  admin_out_string(o, "module", p->module->def->name, false);
  admin_out_string(o, "state", states[p->state], false);
  admin_out_number(o, "tasks", pool_active(p), false);
  admin_out_open(o, "methods", "[", false);
  for (uint32_t i = 0; i < p->module->count; i++)
    admin_out_method(o, p, i, i == 0);
  o->put(o->arg, "]}");
}

static void admin_out_client(const struct admin_out *o, const struct session *c, bool first)
{
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", c->id, true);
  admin_out_number(o, "uid", c->peer.uid, false);
  admin_out_number(o, "pid", c->peer.pid, false);
  admin_out_number(o, "queues", c->queue_count, false);
  admin_out_number(o, "in_flight", session_in_flight(c), false);
  admin_out_number(o, "main_bytes", c->used[SHM_MAIN], false);
  admin_out_number(o, "data_bytes", c->used[SHM_CLIENT_DATA], false);
  o->put(o->arg, "}");
}

static void admin_out_budget(const struct admin_out *o, const struct session_set *s,
                             const char *name, enum shm_kind kind, bool first)
{
  admin_out_open(o, name, "{", first);
  admin_out_number(o, "budget", s->budget[kind], true);
  admin_out_number(o, "used", s->used[kind], false);
  o->put(o->arg, "}");
}

static void admin_out_memory(const struct admin_out *o, const struct admin_host *host)
{
  uint64_t fibers = 0;
  for (uint32_t i = 0; i < host->crew->count; i++)
    fibers += mark_get(&host->crew->worker[i].fibers);
  admin_out_open(o, "memory", "{", false);
  admin_out_budget(o, host->sessions, "main", SHM_MAIN, true);
  admin_out_budget(o, host->sessions, "client_data", SHM_CLIENT_DATA, false);
  admin_out_budget(o, host->sessions, "runtime_data", SHM_RUNTIME_DATA, false);
  admin_out_number(o, "stacks", fibers, false);
  admin_out_number(o, "stack_bytes", fibers * host->crew->stack_size, false);
  o->put(o->arg, "}");
}

static void admin_out_totals(const struct admin_out *o, const struct admin_host *host)
{
  uint64_t accepted = 0, ended = 0, refused = 0, failed = 0;
  for (uint32_t i = 0; i < host->crew->count; i++) {
    accepted += tally_get(&host->crew->worker[i].accepted);
    ended += tally_get(&host->crew->worker[i].ended);
    refused += tally_get(&host->crew->worker[i].refused);
  }
  for (const struct pool *p = host->directory->first; p; p = p->next) {
    for (uint32_t i = 0; i < p->module->count; i++) {
      struct pool_figures f;
      pool_figures_sum(p, i, &f);
      failed += f.errors;
    }
  }
  admin_out_open(o, "totals", "{", false);
  admin_out_number(o, "submitted", accepted + refused, true);
  admin_out_number(o, "completed", ended + refused, false);
  admin_out_number(o, "failed", failed, false);
  admin_out_number(o, "refused", refused, false);
  o->put(o->arg, "}");
}

void admin_monitor_print(const struct admin_host *host, uint64_t now, chi_put_fn *put, void *arg)
{
  const struct admin_out o = {put, arg};
  const struct worker_crew *crew = host->crew;
  put(arg, "{");
  admin_out_string(&o, "instance", host->instance, true);
  admin_out_string(&o, "version", CHI_VERSION, false);
  admin_out_number(&o, "node", crew->node, false);
  admin_out_string(&o, "state", host->state(host->arg), false);
  admin_out_number(&o, "uptime_ns", now - host->boot_time, false);
  admin_out_open(&o, "workers", "[", false);
  for (uint32_t i = 0; i < crew->count; i++)
    admin_out_worker(&o, &crew->worker[i], i == 0);
  put(arg, "]");
  admin_out_open(&o, "pools", "[", false);
  for (const struct pool *p = host->directory->first; p; p = p->next)
    admin_out_pool(&o, p, p == host->directory->first);
  put(arg, "]");
  admin_out_open(&o, "clients", "[", false);
  bool first = true;
  for (const struct session *c = host->sessions->first; c; c = c->next) {
    admin_out_client(&o, c, first);
    first = false;
  }
  put(arg, "]");
  admin_out_memory(&o, host);
  admin_out_totals(&o, host);
  put(arg, "}");
}

/* ---- sources/bdev.c ---- */
/* bdev.c - the block device module: parameters, methods, figures. */

#include <stdio.h>

#define BDEV_CLASS 4096u /* the smallest block */
#define BDEV_ALIGNMENT_MIN 512u
#define BDEV_ALIGNMENT_MAX (1u << 20)
#define BDEV_DEPTH_MAX 1024u /* operations on a file under way are looked through one by one */

/* A container. */
struct bdev {
  struct chi_bdev_params params;
  struct extent_map map;
  struct bdev_io io;
  struct bdev_commit commit; /* of a file */
};

/* ---- blocks ---------------------------------------------------------------------------------- */

static uint32_t bdev_type_of(uint64_t size)
{
  uint32_t type = 0;
  while (size / 2 >= (uint64_t)BDEV_CLASS << type)
    type++;
  return type;
}

/* Tells the extents of a chain: the first in the task, further ones in its buffer. */
static void bdev_tell(struct chi_bdev_allocate_blocks *t, const struct extent *chain)
{
  uint8_t *more = t->more.data;
  for (uint64_t i = 0; chain; chain = chain->next, i++) {
    struct chi_block block;
    memset(&block, 0, sizeof(block));
    block.offset = chain->offset;
    block.size = chain->size;
    block.type = bdev_type_of(chain->size);
    if (i < CHI_BDEV_BLOCKS)
      t->blocks[t->blocks_count++] = block;
    else
      memcpy(more + (i - CHI_BDEV_BLOCKS) * sizeof(block), &block, sizeof(block));
  }
}

static int bdev_allocate(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_allocate_blocks *t = task;
  struct alloc memory = bdev_commit_memory(ctx);
  uint64_t unit = self->map.unit, room = CHI_BDEV_BLOCKS;
  struct extent *chain;
  int rc;
  t->blocks_count = 0;
  t->block_total = 0;
  if (t->size == 0)
    return CHI_EINVAL;
  if (t->size > self->map.capacity)
    return CHI_ENOSPC;
  if (t->more.data)
    room += t->more.size / sizeof(struct chi_block);
  rc = extent_claim(&self->map, &memory, (t->size + unit - 1) & ~(unit - 1), room, &chain,
                    &t->block_total);
  if (rc) {
    t->block_total = rc == CHI_ETOOBIG ? t->block_total : 0;
    return rc;
  }
  bdev_tell(t, chain);
  if (self->io.file)
    rc = bdev_commit_allocate(ctx, &self->commit, chain);
  else
    extent_settle(&self->map, &memory, chain);
  if (rc)
    t->block_total = t->blocks_count = 0;
  return rc;
}

static uint64_t bdev_more_blocks(const struct chi_bdev_free_blocks *t)
{
  return t->more.data ? t->more.size / sizeof(struct chi_block) : 0;
}

/* The task's blocks as ranges; a client may change its buffer at any time: it is read once. */
static void bdev_gather(const struct chi_bdev_free_blocks *t, struct extent_range *ranges)
{
  const uint8_t *more = t->more.data;
  uint64_t count = t->blocks_count + bdev_more_blocks(t);
  for (uint64_t i = 0; i < count; i++) {
    struct chi_block block;
    if (i < t->blocks_count)
      block = t->blocks[i];
    else
      memcpy(&block, more + (i - t->blocks_count) * sizeof(block), sizeof(block));
    ranges[i] = (struct extent_range){block.offset, block.size};
  }
}

static int bdev_free(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  const struct chi_bdev_free_blocks *t = task;
  struct alloc memory = bdev_commit_memory(ctx);
  struct extent_range few[CHI_BDEV_BLOCKS], *ranges = few;
  uint64_t count = t->blocks_count + bdev_more_blocks(t);
  int rc;
  if (t->blocks_count > CHI_BDEV_BLOCKS || count > self->map.capacity / self->map.unit ||
      (t->more.data && t->more.size % sizeof(struct chi_block) != 0))
    return CHI_EINVAL;
  if (count > CHI_BDEV_BLOCKS)
    ranges = chi_alloc(ctx, count * sizeof(*ranges));
  if (!ranges)
    return CHI_ENOMEM;
  bdev_gather(t, ranges);
  rc = self->io.file ? bdev_commit_free(ctx, &self->commit, ranges, count)
                     : extent_free(&self->map, &memory, ranges, count);
  if (ranges != few)
    chi_free(ctx, ranges, count * sizeof(*ranges));
  return rc;
}

/* ---- transfers ------------------------------------------------------------------------------- */

static int bdev_check_transfer(const struct chi_block *block, const chi_bulk *data, uint64_t length)
{
  if (length > block->size)
    return CHI_ERANGE;
  return length > data->size || (length > 0 && !data->data) ? CHI_EINVAL : CHI_OK;
}

static int bdev_write(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_write *t = task;
  struct bdev_io_turn turn;
  int rc = bdev_check_transfer(&t->block, &t->data, t->length);
  t->bytes_written = 0;
  if (!rc)
    rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_WRITE, t->block.offset, t->length);
  if (rc)
    return rc;
  if (!extent_allocated(&self->map, t->block.offset, t->block.size))
    rc = CHI_EINVAL;
  else if (t->length > 0)
    rc = bdev_io_write(ctx, &self->io, t->block.offset, t->data.data, t->length);
  t->bytes_written = rc ? 0 : t->length;
  bdev_io_end(ctx, &self->io, &turn, rc, t->bytes_written);
  return rc;
}

static int bdev_read(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_read *t = task;
  struct bdev_io_turn turn;
  int rc = bdev_check_transfer(&t->block, &t->data, t->length);
  t->bytes_read = 0;
  if (!rc)
    rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_READ, t->block.offset, t->length);
  if (rc)
    return rc;
  if (!extent_allocated(&self->map, t->block.offset, t->block.size))
    rc = CHI_EINVAL;
  else if (t->length > 0)
    rc = bdev_io_read(ctx, &self->io, t->block.offset, t->data.data, t->length);
  t->bytes_read = rc ? 0 : t->length;
  bdev_io_end(ctx, &self->io, &turn, rc, t->bytes_read);
  return rc;
}

static int bdev_sync(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct bdev_io_turn turn;
  int rc;
  (void)task;
  if (!self->io.file)
    return CHI_OK;
  rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_SYNC, 0, 0);
  if (rc)
    return rc;
  rc = bdev_io_sync(ctx, &self->io, &turn);
  bdev_io_end(ctx, &self->io, &turn, rc, 0);
  return rc ? rc : bdev_commit_sync(ctx, &self->commit);
}

/* ---- create and destroy ---------------------------------------------------------------------- */

static int bdev_refuse(chi_ctx *ctx, const char *what, uint64_t got, const char *wanted)
{
  chi_log(ctx, CHI_LOG_ERROR, "%s is %llu, expected %s", what, (unsigned long long)got, wanted);
  return CHI_EINVAL;
}

static bool bdev_is_metric(double value)
{
  return value >= 0 && value <= 1e18;
}

static int bdev_check(chi_ctx *ctx, const struct chi_bdev_params *p)
{
  bool file = strcmp(p->bdev_type, "file") == 0;
  if (!file && strcmp(p->bdev_type, "ram") != 0) {
    chi_log(ctx, CHI_LOG_ERROR, "bdev_type is \"%s\", expected \"file\" or \"ram\"", p->bdev_type);
    return CHI_EINVAL;
  }
  if (p->alignment < BDEV_ALIGNMENT_MIN || p->alignment > BDEV_ALIGNMENT_MAX ||
      (p->alignment & (p->alignment - 1)) != 0)
    return bdev_refuse(ctx, "alignment", p->alignment, "a power of two from 512 to 1048576");
  if (p->io_depth < 1 || p->io_depth > BDEV_DEPTH_MAX)
    return bdev_refuse(ctx, "io_depth", p->io_depth, "1 to 1024");
  if (p->capacity > INT64_MAX || (p->capacity == 0 && !file))
    return bdev_refuse(ctx, "capacity", p->capacity, "1 to 2^63 - 1 bytes");
  if (!bdev_is_metric(p->perf_metrics_read_bandwidth_mbps) ||
      !bdev_is_metric(p->perf_metrics_write_bandwidth_mbps) ||
      !bdev_is_metric(p->perf_metrics_read_latency_us) ||
      !bdev_is_metric(p->perf_metrics_write_latency_us) || !bdev_is_metric(p->perf_metrics_iops)) {
    chi_log(ctx, CHI_LOG_ERROR, "a value of perf_metrics is negative or not a number");
    return CHI_EINVAL;
  }
  return CHI_OK;
}

/* What blocks are multiples of. */
static uint64_t bdev_unit(const struct chi_bdev_params *p)
{
  return p->alignment > BDEV_CLASS ? p->alignment : BDEV_CLASS;
}

static int bdev_open_memory(chi_ctx *ctx, struct bdev *self, uint64_t capacity, uint64_t unit)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc = bdev_io_open_memory(ctx, &self->io, capacity);
  if (!rc)
    rc = extent_init(&self->map, &memory, capacity, unit);
  if (rc)
    chi_log(ctx, CHI_LOG_ERROR, "no memory for %llu bytes", (unsigned long long)capacity);
  return rc;
}

static int bdev_create_memory(chi_ctx *ctx, struct bdev *self)
{
  uint64_t unit = bdev_unit(&self->params), capacity = self->params.capacity & ~(unit - 1);
  int rc;
  if (capacity == 0)
    return bdev_refuse(ctx, "capacity", self->params.capacity, "at least one block");
  rc = bdev_open_memory(ctx, self, capacity, unit);
  if (rc)
    bdev_io_close(ctx, &self->io);
  return rc;
}

static int bdev_open_log(chi_ctx *ctx, struct bdev *self, const char *path, uint64_t capacity)
{
  uint64_t unit = bdev_unit(&self->params), whole = capacity & ~(unit - 1);
  if (whole == 0)
    return bdev_refuse(ctx, "capacity", capacity, "at least one block");
  return bdev_commit_open(ctx, &self->commit, path, &self->map, whole, unit);
}

static int bdev_create_file(chi_ctx *ctx, struct bdev *self)
{
  const char *path = chi_self_pool_name(ctx);
  uint64_t capacity = self->params.capacity;
  bool made;
  int rc = bdev_io_open_file(ctx, &self->io, path, &capacity, self->params.io_depth, &made);
  if (rc)
    return rc;
  rc = bdev_open_log(ctx, self, path, capacity);
  if (!rc)
    return CHI_OK;
  bdev_io_close(ctx, &self->io);
  if (made)
    chi_file_remove(ctx, path);
  return rc;
}

static int bdev_create(chi_ctx *ctx, void *state, const void *params)
{
  struct bdev *self = state;
  int rc;
  self->params = *(const struct chi_bdev_params *)params;
  rc = bdev_check(ctx, &self->params);
  if (rc)
    return rc;
  if (strcmp(self->params.bdev_type, "ram") == 0)
    return bdev_create_memory(ctx, self);
  return bdev_create_file(ctx, self);
}

static void bdev_destroy(chi_ctx *ctx, void *state)
{
  struct bdev *self = state;
  struct alloc memory = bdev_commit_memory(ctx);
  if (self->io.file) {
    bdev_sync(ctx, self, NULL);
    bdev_commit_close(ctx, &self->commit);
  }
  bdev_io_close(ctx, &self->io);
  extent_fini(&self->map, &memory);
}

/* ---- figures --------------------------------------------------------------------------------- */

static void bdev_figures(const struct bdev *self, struct chi_bdev_get_stats *t)
{
  const struct bdev_io_meter *r = &self->io.meter[BDEV_IO_READ];
  const struct bdev_io_meter *w = &self->io.meter[BDEV_IO_WRITE];
  t->capacity = self->map.capacity;
  t->remaining = self->map.free_bytes;
  t->largest_extent = extent_largest(&self->map);
  t->reads = r->count;
  t->writes = w->count;
  t->bytes_read = r->bytes;
  t->bytes_written = w->bytes;
  t->read_bandwidth_mbps = bdev_io_bandwidth_mbps(r);
  t->write_bandwidth_mbps = bdev_io_bandwidth_mbps(w);
  t->read_latency_us = bdev_io_latency_us(r);
  t->write_latency_us = bdev_io_latency_us(w);
  t->iops = bdev_io_iops(&self->io.meter[2]);
}

static int bdev_get_stats(chi_ctx *ctx, void *state, void *task)
{
  (void)ctx;
  bdev_figures(state, task);
  return CHI_OK;
}

/* Text that is being written into a buffer; goes on counting when it is full. */
struct bdev_text {
  char *to;
  size_t room, size;
};

static void bdev_put(void *arg, const char *text)
{
  struct bdev_text *into = arg;
  size_t n = strlen(text), left = into->size < into->room ? into->room - into->size : 0;
  if (left > 0) {
    size_t fits = n < left ? n : left - 1;
    memcpy(into->to + into->size, text, fits);
    into->to[into->size + fits] = '\0';
  }
  into->size += n;
}

/* {"measured":{...},"declared":{...}} */
static int bdev_monitor(chi_ctx *ctx, void *state, char *json, size_t room)
{
  struct bdev *self = state;
  struct bdev_text into = {json, room, 0};
  struct chi_bdev_get_stats figures;
  (void)ctx;
  memset(&figures, 0, sizeof(figures));
  bdev_figures(self, &figures);
  bdev_put(&into, "{\"measured\":");
  chi_type_print(&chi_bdev_get_stats_type, &figures, CHI_DIR_OUT, bdev_put, &into);
  bdev_put(&into, ",\"declared\":");
  chi_type_print(&chi_bdev_params_type, &self->params, CHI_DIR_IN, bdev_put, &into);
  bdev_put(&into, "}");
  return into.size < room ? (int)into.size : CHI_ETOOBIG;
}

/* ---- the module ------------------------------------------------------------------------------ */

static const chi_method bdev_methods[] = {
    {&chi_bdev_allocate_blocks_type, bdev_allocate, 0, 0},
    {&chi_bdev_free_blocks_type, bdev_free, 0, 0},
    {&chi_bdev_write_type, bdev_write, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_read_type, bdev_read, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_get_stats_type, bdev_get_stats, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_sync_type, bdev_sync, CHI_METHOD_IDEMPOTENT, 0},
    {NULL, NULL, 0, 0},
};

static const chi_module bdev_definition = {
    .version = CHI_MODULE_VERSION,
    .name = "bdev",
    .state_size = sizeof(struct bdev),
    .params = &chi_bdev_params_type,
    .methods = bdev_methods,
    .create = bdev_create,
    .destroy = bdev_destroy,
    .monitor = bdev_monitor,
};

CHI_PRIVATE const chi_module *bdev_module(void)
{
  return &bdev_definition;
}

#undef BDEV_CLASS
#undef BDEV_ALIGNMENT_MIN
#undef BDEV_ALIGNMENT_MAX
#undef BDEV_DEPTH_MAX

/* ---- sources/bdev_commit.c ---- */
/* bdev_commit.c - group commit of the allocation log, and its renewal. */

#include <stdio.h>

#define BDEV_COMMIT_SLACK ((uint64_t)64 << 10) /* of a log beyond twice its snapshot */
#define BDEV_COMMIT_OWED ((uint64_t)256 << 10) /* bytes of frees that may wait for a commit */

enum bdev_commit_kind {
  BDEV_COMMIT_ALLOCATE, /* chain is to be allocated; somebody waits */
  BDEV_COMMIT_FREE,     /* ranges are free already; nobody waits */
  BDEV_COMMIT_BARRIER,  /* somebody waits for what is before; leaves no record */
  BDEV_COMMIT_MARK      /* somebody waits; leaves a mark */
};

/* What waits to be written, in order; those in flight come first. On the stack of who waits. */
struct bdev_commit_entry {
  struct bdev_commit_entry *next;
  enum bdev_commit_kind kind;
  int rc;
  bool done;    /* rc is what the waiter gets */
  bool flight;  /* part of the batch that is being written */
  bool covered; /* the snapshot that is being written has its effect */
  chi_event wake;
  struct extent *chain;
  uint64_t count; /* of ranges, or in the chain */
  struct extent_range ranges[];
};

/* ---- small things ---------------------------------------------------------------------------- */

static void *bdev_commit_get(void *ctx, size_t size)
{
  return chi_alloc(ctx, size);
}

static void bdev_commit_put(void *ctx, void *p, size_t size)
{
  chi_free(ctx, p, size);
}

CHI_PRIVATE struct alloc bdev_commit_memory(chi_ctx *ctx)
{
  return (struct alloc){bdev_commit_get, bdev_commit_put, ctx};
}

/* Bytes of a free's entry in memory. */
static size_t bdev_commit_room(uint64_t ranges)
{
  return sizeof(struct bdev_commit_entry) + ranges * sizeof(struct extent_range);
}

/* Bytes of an entry's record. */
static uint64_t bdev_commit_size(const struct bdev_commit_entry *e)
{
  return e->kind == BDEV_COMMIT_BARRIER ? 0 : bdev_log_size(e->count);
}

static void bdev_commit_append(struct bdev_commit *c, struct bdev_commit_entry *e)
{
  e->next = NULL;
  *c->last = e;
  c->last = &e->next;
}

static void bdev_commit_unlink(struct bdev_commit *c, struct bdev_commit_entry **at)
{
  struct bdev_commit_entry *e = *at;
  *at = e->next;
  if (c->last == &e->next)
    c->last = at;
}

/* ---- the outcome of a batch ------------------------------------------------------------------ */

/* The first that waits has to write next. */
static void bdev_commit_pass(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry *e = c->first;
  while (e && e->kind == BDEV_COMMIT_FREE)
    e = e->next;
  if (e)
    chi_event_set(ctx, &e->wake);
}

/* A free that the file knows of, or never will. */
static void bdev_commit_forget(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry **at)
{
  struct bdev_commit_entry *e = *at;
  CHI_ASSERT(e->kind == BDEV_COMMIT_FREE);
  bdev_commit_unlink(c, at);
  c->owed -= bdev_commit_size(e);
  chi_free(ctx, e, bdev_commit_room(e->count));
}

/* Ends an entry for which somebody waits. */
static void bdev_commit_end(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry **at,
                            int rc)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_commit_entry *e = *at;
  bdev_commit_unlink(c, at);
  if (e->kind == BDEV_COMMIT_ALLOCATE && rc == CHI_OK)
    extent_settle(c->map, &memory, e->chain);
  else if (e->kind == BDEV_COMMIT_ALLOCATE)
    extent_release(c->map, &memory, e->chain);
  e->rc = rc;
  e->done = true;
  chi_event_set(ctx, &e->wake);
}

/* Frees that could not be written stay. */
static void bdev_commit_resolve(chi_ctx *ctx, struct bdev_commit *c, int rc)
{
  struct bdev_commit_entry **at = &c->first;
  while (*at && (*at)->flight) {
    (*at)->flight = false;
    if ((*at)->kind != BDEV_COMMIT_FREE)
      bdev_commit_end(ctx, c, at, rc);
    else if (rc == CHI_OK)
      bdev_commit_forget(ctx, c, at);
    else
      at = &(*at)->next;
  }
}

/* ---- appending ------------------------------------------------------------------------------- */

/* A sync has failed: nobody knows what is durable. */
static int bdev_commit_doubt(chi_ctx *ctx, struct bdev_commit *c, int rc)
{
  c->failed = CHI_EIO;
  chi_log(ctx, CHI_LOG_ERROR,
          "syncing the allocation log failed (%s): nothing is allocated or freed any more",
          chi_status_text(rc));
  return CHI_EIO;
}

static void bdev_commit_encode(struct bdev_log_writer *w, const struct bdev_commit_entry *e)
{
  static const enum bdev_log_kind kinds[] = {
      [BDEV_COMMIT_ALLOCATE] = BDEV_LOG_ALLOCATE,
      [BDEV_COMMIT_FREE] = BDEV_LOG_FREE,
      [BDEV_COMMIT_MARK] = BDEV_LOG_MARK,
  };
  if (e->kind == BDEV_COMMIT_BARRIER)
    return;
  bdev_log_begin(w, kinds[e->kind]);
  if (e->kind == BDEV_COMMIT_FREE) {
    for (uint64_t i = 0; i < e->count; i++)
      bdev_log_range(w, e->ranges[i].offset, e->ranges[i].size);
  }
  for (const struct extent *x = e->chain; x; x = x->next)
    bdev_log_range(w, x->offset, x->size);
  bdev_log_end(w);
}

/* Cuts off what a failed batch has left. It does no harm but keep its space after a restart. */
static int bdev_commit_sweep(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = c->reach > c->end ? chi_file_truncate(ctx, c->file, c->end) : CHI_OK;
  c->reach = rc ? c->reach : c->end;
  return rc;
}

static int bdev_commit_settle_name(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = c->unnamed ? chi_file_dirsync(ctx, c->path) : CHI_OK;
  if (rc)
    return bdev_commit_doubt(ctx, c, rc);
  c->unnamed = false;
  return CHI_OK;
}

static int bdev_commit_store(chi_ctx *ctx, struct bdev_commit *c, const struct bdev_log_writer *w)
{
  int64_t n = chi_file_write(ctx, c->file, w->bytes, w->size, c->end);
  int rc;
  c->reach = c->reach > c->end + w->size ? c->reach : c->end + w->size;
  if (n < 0) {
    bdev_commit_sweep(ctx, c);
    return (int)n;
  }
  rc = chi_file_sync(ctx, c->file);
  return rc ? bdev_commit_doubt(ctx, c, rc) : CHI_OK;
}

/* Writes the batch in flight and makes it durable. */
static int bdev_commit_write(chi_ctx *ctx, struct bdev_commit *c, uint64_t size)
{
  struct bdev_log_writer w = {
      .room = size, .id = c->id, .base = c->end, .seq = c->seq, .link = c->link};
  bool mark = false;
  int rc;
  w.bytes = chi_alloc(ctx, size);
  if (!w.bytes)
    return CHI_ENOMEM;
  for (const struct bdev_commit_entry *e = c->first; e && e->flight; e = e->next) {
    bdev_commit_encode(&w, e);
    mark = e->kind == BDEV_COMMIT_MARK;
  }
  CHI_ASSERT(w.size == size);
  c->seq = w.seq; /* used, whatever comes of it */
  rc = bdev_commit_store(ctx, c, &w);
  chi_free(ctx, w.bytes, size);
  if (!rc)
    rc = bdev_commit_settle_name(ctx, c);
  if (rc)
    return rc;
  c->end += size;
  c->link = w.link;
  c->unmarked = !mark;
  return CHI_OK;
}

/* ---- a new file ------------------------------------------------------------------------------ */

/* The whole file in memory, at w->bytes of w->room. */
static int bdev_commit_snapshot(chi_ctx *ctx, struct bdev_commit *c, struct bdev_log_writer *w)
{
  struct bdev_log_head head = {chi_random(ctx), c->map->capacity, c->map->unit, 0};
  struct extent_range r;
  uint64_t runs = 0;
  for (uint64_t at = 0; extent_next(c->map, at, &r); at = r.offset + r.size)
    runs++;
  head.snapshot_end = BDEV_LOG_HEAD + (runs ? bdev_log_size(runs) : 0);
  *w = (struct bdev_log_writer){.room = head.snapshot_end,
                                .bytes = chi_alloc(ctx, head.snapshot_end)};
  if (!w->bytes)
    return CHI_ENOMEM;
  bdev_log_put_head(w, &head);
  if (runs)
    bdev_log_begin(w, BDEV_LOG_ALLOCATE);
  for (uint64_t at = 0; extent_next(c->map, at, &r); at = r.offset + r.size)
    bdev_log_range(w, r.offset, r.size);
  if (runs)
    bdev_log_end(w);
  CHI_ASSERT(w->size == w->room);
  return CHI_OK;
}

static int bdev_commit_fill(chi_ctx *ctx, chi_file *file, const struct bdev_log_writer *w)
{
  int rc = chi_file_truncate(ctx, file, 0);
  int64_t n = rc ? rc : chi_file_write(ctx, file, w->bytes, w->size, 0);
  return n < 0 ? (int)n : chi_file_sync(ctx, file);
}

/* Makes the file that takes the log's place, up to its name. */
static int bdev_commit_replace(chi_ctx *ctx, struct bdev_commit *c, const struct bdev_log_writer *w,
                               chi_file **out)
{
  int rc = bdev_io_open_locked(ctx, c->beside, CHI_FILE_CREATE, out);
  if (rc)
    return rc;
  rc = bdev_commit_fill(ctx, *out, w);
  if (!rc)
    rc = chi_file_rename(ctx, c->beside, c->path);
  if (rc) {
    chi_file_close(ctx, *out);
    chi_file_remove(ctx, c->beside);
  }
  return rc;
}

/* Frees before the snapshot are in it; what waits for its allocation is not, and follows. */
static void bdev_commit_cover(struct bdev_commit *c, bool covered)
{
  for (struct bdev_commit_entry *e = c->first; e; e = e->next)
    e->covered = covered && e->kind == BDEV_COMMIT_FREE;
}

static void bdev_commit_drop_covered(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry **at = &c->first;
  while (*at) {
    if ((*at)->covered)
      bdev_commit_forget(ctx, c, at);
    else
      at = &(*at)->next;
  }
}

/* Writes the log anew. Only the writer may. On failure the old one goes on, unless c->failed. */
static int bdev_commit_renew(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_log_writer w;
  chi_file *file = NULL;
  int rc = bdev_commit_snapshot(ctx, c, &w);
  if (rc)
    return rc;
  bdev_commit_cover(c, true);
  rc = bdev_commit_replace(ctx, c, &w, &file);
  chi_free(ctx, w.bytes, w.room);
  if (rc) {
    bdev_commit_cover(c, false);
    return rc;
  }
  if (c->file)
    chi_file_close(ctx, c->file);
  c->file = file;
  c->id = w.id;
  c->seq = w.seq;
  c->link = w.link;
  c->end = c->reach = c->snapshot_end = w.size;
  c->retry_at = 0;
  c->unmarked = false;
  c->unnamed = true;
  bdev_commit_drop_covered(ctx, c);
  return bdev_commit_settle_name(ctx, c);
}

/* Renews a log that has outgrown what it says. One that can't be renewed just grows on. */
static int bdev_commit_care(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc;
  if (c->end <= 2 * c->snapshot_end + BDEV_COMMIT_SLACK || c->end < c->retry_at)
    return CHI_OK;
  rc = bdev_commit_renew(ctx, c);
  if (rc && !c->failed) {
    chi_log(ctx, CHI_LOG_WARNING, "the allocation log can't be shortened: %s", chi_status_text(rc));
    c->retry_at = c->end + BDEV_COMMIT_SLACK;
  }
  return c->failed;
}

/* ---- who writes ------------------------------------------------------------------------------ */

/* Everything that waits is one batch; returns the bytes of its records. */
static uint64_t bdev_commit_gather(struct bdev_commit *c)
{
  uint64_t size = 0;
  for (struct bdev_commit_entry *e = c->first; e; e = e->next) {
    e->flight = true;
    size += bdev_commit_size(e);
  }
  return size;
}

/* Writes what waits, of this task and of others. */
static void bdev_commit_lead(chi_ctx *ctx, struct bdev_commit *c)
{
  uint64_t size;
  int rc = c->failed;
  CHI_ASSERT(!c->busy);
  c->busy = true;
  if (!rc)
    rc = bdev_commit_care(ctx, c);
  size = bdev_commit_gather(c);
  if (!rc)
    rc = size > 0 ? bdev_commit_write(ctx, c, size) : bdev_commit_settle_name(ctx, c);
  bdev_commit_resolve(ctx, c, rc);
  c->busy = false;
  bdev_commit_pass(ctx, c);
}

/* Sees to it that an entry is written, together with others. The task can't be cancelled any more:
 * others may depend on what it writes. */
static int bdev_commit_wait(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry *e)
{
  ctx_shield(ctx);
  bdev_commit_append(c, e);
  while (!e->done) {
    if (!c->busy) {
      bdev_commit_lead(ctx, c);
    } else {
      int rc = chi_event_wait(ctx, &e->wake, 0);
      CHI_ASSERT(rc == CHI_OK);
      chi_event_reset(ctx, &e->wake);
    }
  }
  return e->rc;
}

/* ---- what others call ------------------------------------------------------------------------ */

CHI_PRIVATE int bdev_commit_allocate(chi_ctx *ctx, struct bdev_commit *c, struct extent *chain)
{
  struct bdev_commit_entry e = {.kind = BDEV_COMMIT_ALLOCATE, .chain = chain};
  for (const struct extent *x = chain; x; x = x->next)
    e.count++;
  return bdev_commit_wait(ctx, c, &e);
}

CHI_PRIVATE int bdev_commit_sync(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry e = {.kind = BDEV_COMMIT_BARRIER};
  if (c->failed || (!c->first && !c->unnamed))
    return c->failed;
  return bdev_commit_wait(ctx, c, &e);
}

CHI_PRIVATE int bdev_commit_free(chi_ctx *ctx, struct bdev_commit *c,
                                 const struct extent_range *ranges, uint64_t count)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_commit_entry *e;
  int rc = c->owed > BDEV_COMMIT_OWED ? bdev_commit_sync(ctx, c) : c->failed;
  if (rc || count == 0)
    return rc;
  e = chi_alloc(ctx, bdev_commit_room(count));
  if (!e)
    return CHI_ENOMEM;
  rc = extent_free(c->map, &memory, ranges, count);
  if (rc) {
    chi_free(ctx, e, bdev_commit_room(count));
    return rc;
  }
  *e = (struct bdev_commit_entry){.kind = BDEV_COMMIT_FREE, .count = count};
  memcpy(e->ranges, ranges, count * sizeof(*ranges));
  c->owed += bdev_commit_size(e);
  bdev_commit_append(c, e);
  return CHI_OK;
}

/* Reads the whole file; *bytes is of *size, NULL when it is empty. */
static int bdev_commit_load(chi_ctx *ctx, struct bdev_commit *c, uint8_t **bytes, uint64_t *size)
{
  int64_t n = chi_file_size(ctx, c->file);
  *bytes = NULL;
  *size = 0;
  if (n <= 0)
    return (int)n;
  *bytes = chi_alloc(ctx, (size_t)n);
  *size = (uint64_t)n;
  if (!*bytes)
    return CHI_ENOMEM;
  n = chi_file_read(ctx, c->file, *bytes, *size, 0);
  return n < 0 ? (int)n : (uint64_t)n < *size ? CHI_EIO : CHI_OK;
}

/* Replays the open file. */
static int bdev_commit_restore(chi_ctx *ctx, struct bdev_commit *c, chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_log_found found = {0};
  uint8_t *bytes;
  uint64_t size;
  int rc = bdev_commit_load(ctx, c, &bytes, &size);
  if (!rc)
    rc = bdev_log_replay(bytes, size, &memory, c->map, &found, err);
  if (bytes)
    chi_free(ctx, bytes, size);
  if (rc)
    return rc;
  c->id = found.head.id;
  c->seq = found.seq;
  c->link = found.link;
  c->end = found.end;
  c->reach = size;
  c->snapshot_end = found.head.snapshot_end;
  c->unmarked = !found.marked;
  c->unnamed = true; /* who renamed it may have been killed before that was durable */
  if (found.torn)
    chi_log(ctx, CHI_LOG_WARNING,
            "the last %llu bytes of the allocation log were never confirmed: dropped",
            (unsigned long long)(size - found.end));
  return CHI_OK;
}

/* What was read need not be durable, not even after a sync: one of the process before may have
 * failed. But what follows in the same file would say that it is. So a new one is begun; on a full
 * disk, the old one is made as good as can be. */
static int bdev_commit_secure(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = bdev_commit_renew(ctx, c);
  if (rc != CHI_ENOSPC)
    return rc;
  chi_log(ctx, CHI_LOG_WARNING, "no space for a new allocation log: the old one goes on");
  rc = bdev_commit_sweep(ctx, c);
  return rc ? rc : chi_file_sync(ctx, c->file);
}

/* Takes over another capacity or unit. */
static int bdev_commit_adapt(chi_ctx *ctx, struct bdev_commit *c, uint64_t capacity, uint64_t unit,
                             chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc;
  if (c->map->capacity == capacity && c->map->unit == unit)
    return c->reach > c->snapshot_end ? bdev_commit_secure(ctx, c)
                                      : bdev_commit_settle_name(ctx, c);
  rc = extent_resize(c->map, &memory, capacity, unit);
  if (rc == CHI_ECONFLICT)
    return error_set(err, rc, "what it says is allocated doesn't fit this capacity and alignment");
  return rc ? rc : bdev_commit_renew(ctx, c);
}

static int bdev_commit_begin(chi_ctx *ctx, struct bdev_commit *c, uint64_t capacity, uint64_t unit,
                             chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc = bdev_io_open_locked(ctx, c->path, 0, &c->file);
  if (rc == CHI_ENOENT) {
    c->file = NULL;
    rc = extent_init(c->map, &memory, capacity, unit);
    return rc ? rc : bdev_commit_renew(ctx, c);
  }
  if (rc)
    return rc;
  rc = bdev_commit_restore(ctx, c, err);
  return rc ? rc : bdev_commit_adapt(ctx, c, capacity, unit, err);
}

CHI_PRIVATE int bdev_commit_open(chi_ctx *ctx, struct bdev_commit *c, const char *name,
                                 struct extent_map *map, uint64_t capacity, uint64_t unit)
{
  struct alloc memory = bdev_commit_memory(ctx);
  chi_error err = {0, ""};
  int rc;
  *c = (struct bdev_commit){.map = map};
  c->last = &c->first;
  snprintf(c->path, sizeof(c->path), "%s.chi-log", name);
  snprintf(c->beside, sizeof(c->beside), "%s.chi-log.new", name);
  rc = bdev_commit_begin(ctx, c, capacity, unit, &err);
  if (!rc) {
    chi_file_remove(ctx, c->beside); /* of a renewal that a crash cut short */
    return CHI_OK;
  }
  chi_log(ctx, CHI_LOG_ERROR, "allocation log: %s", err.code ? err.text : chi_status_text(rc));
  if (c->file)
    chi_file_close(ctx, c->file);
  extent_fini(map, &memory);
  *c = (struct bdev_commit){0};
  return rc;
}

CHI_PRIVATE void bdev_commit_close(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry mark = {.kind = BDEV_COMMIT_MARK};
  CHI_ASSERT(!c->busy);
  if (bdev_commit_sync(ctx, c) == CHI_OK && c->unmarked)
    bdev_commit_wait(ctx, c, &mark);
  bdev_commit_sweep(ctx, c);
  while (c->first)
    bdev_commit_forget(ctx, c, &c->first);
  chi_file_close(ctx, c->file);
  *c = (struct bdev_commit){0};
}

#undef BDEV_COMMIT_SLACK
#undef BDEV_COMMIT_OWED

/* ---- sources/bdev_io.c ---- */
/* bdev_io.c - turns, files and memory of a block device. */

#define BDEV_IO_SECTOR 4096u               /* what a direct file asks of offset, size and memory */
#define BDEV_IO_BOUNCE ((uint64_t)1 << 18) /* bytes of the buffer for what isn't aligned */
#define BDEV_IO_PIECE ((uint64_t)1 << 16)  /* memory that becomes zero at a time */
#define BDEV_IO_TIMED 16u                  /* of so many operations in memory one is timed */
#define BDEV_IO_PATIENCE 1000000000u       /* nanoseconds that a locked file is waited for */

static uint64_t bdev_io_least(uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static bool bdev_io_aligned(uint64_t place, const void *data)
{
  return ((place | (uintptr_t)data) & (BDEV_IO_SECTOR - 1)) == 0;
}

/* ---- figures --------------------------------------------------------------------------------- */

static void bdev_io_meter_begin(struct bdev_io_meter *m, uint64_t now)
{
  if (m->under_way++ == 0)
    m->since = now;
}

static void bdev_io_meter_end(struct bdev_io_meter *m, const struct bdev_io_turn *turn,
                              uint64_t now, bool done, uint64_t bytes)
{
  if (turn->timed && --m->under_way == 0)
    m->busy_ns += now - m->since;
  if (!done)
    return;
  m->count++;
  m->bytes += bytes;
  if (!turn->timed)
    return;
  m->timed++;
  m->timed_bytes += bytes;
  m->spent += now - turn->since;
}

static void bdev_io_time_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  turn->timed = turn->kind != BDEV_IO_SYNC && (io->file || io->sample++ % BDEV_IO_TIMED == 0);
  if (!turn->timed)
    return;
  turn->since = chi_now(ctx);
  bdev_io_meter_begin(&io->meter[turn->kind], turn->since);
  bdev_io_meter_begin(&io->meter[2], turn->since);
}

static void bdev_io_time_end(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn,
                             bool done, uint64_t bytes)
{
  uint64_t now = turn->timed ? chi_now(ctx) : 0;
  if (turn->kind == BDEV_IO_SYNC)
    return;
  bdev_io_meter_end(&io->meter[turn->kind], turn, now, done, bytes);
  bdev_io_meter_end(&io->meter[2], turn, now, done, bytes);
}

CHI_PRIVATE double bdev_io_bandwidth_mbps(const struct bdev_io_meter *m)
{
  return m->busy_ns ? (double)m->timed_bytes * 1e3 / (double)m->busy_ns : 0;
}

CHI_PRIVATE double bdev_io_latency_us(const struct bdev_io_meter *m)
{
  return m->timed ? (double)m->spent / 1e3 / (double)m->timed : 0;
}

CHI_PRIVATE double bdev_io_iops(const struct bdev_io_meter *m)
{
  return m->busy_ns ? (double)m->timed * 1e9 / (double)m->busy_ns : 0;
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Two writes to the same sectors, one of them only to parts; or two syncs, of which only the first
 * would hear of an error. */
static bool bdev_io_conflict(const struct bdev_io_turn *a, const struct bdev_io_turn *b)
{
  if (a->kind == BDEV_IO_SYNC || b->kind == BDEV_IO_SYNC)
    return a->kind == b->kind;
  return (a->patch || b->patch) && a->first <= b->last && b->first <= a->last;
}

/* An earlier operation that is under way must have ended before. */
static bool bdev_io_must_wait(const struct bdev_io *io, const struct bdev_io_turn *turn)
{
  if (io->touchy == 0)
    return false;
  for (const struct bdev_io_turn *t = io->running; t; t = t->next) {
    if (t->number < turn->number && bdev_io_conflict(t, turn))
      return true;
  }
  return false;
}

/* Whether others may have to wait for it though there is room for them. */
static bool bdev_io_touchy(const struct bdev_io_turn *turn)
{
  return turn->patch || turn->kind == BDEV_IO_SYNC;
}

static void bdev_io_admit(struct bdev_io *io, struct bdev_io_turn *turn)
{
  turn->admitted = true;
  turn->next = io->running;
  io->running = turn;
  io->active++;
  io->touchy += bdev_io_touchy(turn);
}

/* Takes a turn out of one of the lists. */
static void bdev_io_unlink(struct bdev_io *io, struct bdev_io_turn *turn)
{
  struct bdev_io_turn **at = turn->admitted ? &io->running : &io->waiting;
  while (*at != turn)
    at = &(*at)->next;
  *at = turn->next;
  if (!turn->admitted && io->waiting_end == &turn->next)
    io->waiting_end = at;
}

/* Gives up a turn: who waits longest gets it, and those look again that wait for a sector. */
static void bdev_io_leave(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  bdev_io_unlink(io, turn);
  if (turn->admitted) {
    for (struct bdev_io_turn *t = io->touchy > 0 ? io->running : NULL; t; t = t->next)
      chi_event_set(ctx, &t->wake);
    io->active--;
    io->touchy -= bdev_io_touchy(turn);
  }
  while (io->waiting && io->active < io->depth) {
    struct bdev_io_turn *next = io->waiting;
    bdev_io_unlink(io, next);
    bdev_io_admit(io, next);
    chi_event_set(ctx, &next->wake);
  }
}

static int bdev_io_enter(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  if (io->active < io->depth) {
    bdev_io_admit(io, turn);
  } else {
    *io->waiting_end = turn;
    io->waiting_end = &turn->next;
  }
  while (!turn->admitted || bdev_io_must_wait(io, turn)) {
    int rc = chi_event_wait(ctx, &turn->wake, 0);
    if (rc) {
      bdev_io_leave(ctx, io, turn);
      return rc;
    }
    chi_event_reset(ctx, &turn->wake);
  }
  return CHI_OK;
}

CHI_PRIVATE int bdev_io_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn,
                              enum bdev_io_kind kind, uint64_t offset, uint64_t size)
{
  int rc = CHI_OK;
  *turn = (struct bdev_io_turn){.kind = kind, .number = io->turns++, .first = 1};
  if (kind == BDEV_IO_WRITE && size > 0) {
    turn->first = offset / BDEV_IO_SECTOR;
    turn->last = (offset + size - 1) / BDEV_IO_SECTOR;
    turn->patch = !bdev_io_aligned(offset | size, NULL);
  }
  if (io->file)
    rc = bdev_io_enter(ctx, io, turn);
  if (!rc)
    bdev_io_time_begin(ctx, io, turn);
  return rc;
}

CHI_PRIVATE void bdev_io_end(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn, int rc,
                             uint64_t bytes)
{
  bdev_io_time_end(ctx, io, turn, rc == CHI_OK, bytes);
  if (io->file)
    bdev_io_leave(ctx, io, turn);
}

/* ---- memory ---------------------------------------------------------------------------------- */

CHI_PRIVATE int bdev_io_open_memory(chi_ctx *ctx, struct bdev_io *io, uint64_t capacity)
{
  uint64_t words = (capacity - 1) / BDEV_IO_PIECE / 64 + 1;
  CHI_ASSERT(capacity > 0);
  *io = (struct bdev_io){.capacity = capacity};
  if (capacity > SIZE_MAX / 2)
    return CHI_ENOMEM;
  io->memory = chi_alloc(ctx, capacity);
  io->written = io->memory ? chi_alloc(ctx, words * sizeof(*io->written)) : NULL;
  if (!io->written) {
    bdev_io_close(ctx, io);
    return CHI_ENOMEM;
  }
  memset(io->written, 0, words * sizeof(*io->written));
  return CHI_OK;
}

static bool bdev_io_is_written(const struct bdev_io *io, uint64_t piece)
{
  return io->written[piece / 64] >> (piece % 64) & 1;
}

/* The first write to a piece makes what it leaves out of it zero. */
static void bdev_io_prepare(struct bdev_io *io, uint64_t offset, uint64_t size)
{
  uint64_t piece = offset / BDEV_IO_PIECE, begin = piece * BDEV_IO_PIECE;
  uint64_t end = bdev_io_least(begin + BDEV_IO_PIECE, io->capacity);
  if (bdev_io_is_written(io, piece))
    return;
  memset(io->memory + begin, 0, offset - begin);
  memset(io->memory + offset + size, 0, end - offset - size);
  io->written[piece / 64] |= (uint64_t)1 << (piece % 64);
}

/* What is left of a piece of `unit` bytes at offset, at most size. */
static uint64_t bdev_io_part(uint64_t offset, uint64_t size, uint64_t unit)
{
  return bdev_io_least(unit - offset % unit, size);
}

static void bdev_io_store(struct bdev_io *io, uint64_t offset, const uint8_t *data, uint64_t size)
{
  for (uint64_t at = offset, end = offset + size, n; at < end; at += n) {
    n = bdev_io_part(at, end - at, BDEV_IO_PIECE);
    bdev_io_prepare(io, at, n);
  }
  memcpy(io->memory + offset, data, size);
}

static void bdev_io_fetch(const struct bdev_io *io, uint64_t offset, uint8_t *data, uint64_t size)
{
  for (uint64_t done = 0, n; done < size; done += n) {
    n = bdev_io_part(offset + done, size - done, BDEV_IO_PIECE);
    if (bdev_io_is_written(io, (offset + done) / BDEV_IO_PIECE))
      memcpy(data + done, io->memory + offset + done, n);
    else
      memset(data + done, 0, n);
  }
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Memory for what isn't aligned. */
struct bdev_io_bounce {
  void *memory;
  uint8_t *sectors; /* aligned, inside memory */
  uint64_t size;
};

static int bdev_io_bounce_open(chi_ctx *ctx, struct bdev_io_bounce *b, uint64_t offset,
                               uint64_t size)
{
  uint64_t span = offset % BDEV_IO_SECTOR + size + BDEV_IO_SECTOR - 1;
  b->size = bdev_io_least(span - span % BDEV_IO_SECTOR, BDEV_IO_BOUNCE);
  b->memory = chi_alloc(ctx, b->size + BDEV_IO_SECTOR - 1);
  if (!b->memory)
    return CHI_ENOMEM;
  b->sectors = (uint8_t *)b->memory + (-(uintptr_t)b->memory & (BDEV_IO_SECTOR - 1));
  return CHI_OK;
}

static void bdev_io_bounce_close(chi_ctx *ctx, struct bdev_io_bounce *b)
{
  chi_free(ctx, b->memory, b->size + BDEV_IO_SECTOR - 1);
}

/* Less than what was asked for means that somebody else has cut the file. */
static int bdev_io_load(chi_ctx *ctx, struct bdev_io *io, void *to, uint64_t size, uint64_t offset)
{
  int64_t n = chi_file_read(ctx, io->file, to, size, offset);
  return n < 0 ? (int)n : (uint64_t)n < size ? CHI_EIO : CHI_OK;
}

static int bdev_io_save(chi_ctx *ctx, struct bdev_io *io, const void *from, uint64_t size,
                        uint64_t offset)
{
  int64_t n = chi_file_write(ctx, io->file, from, size, offset);
  return n < 0 ? (int)n : CHI_OK;
}

/* Reads the sectors that a write of the bytes from begin to end changes only in part. */
static int bdev_io_load_edges(chi_ctx *ctx, struct bdev_io *io, uint8_t *sectors, uint64_t begin,
                              uint64_t end)
{
  uint64_t low = begin - begin % BDEV_IO_SECTOR, high = end - end % BDEV_IO_SECTOR;
  int rc = CHI_OK;
  if (begin > low || end < low + BDEV_IO_SECTOR)
    rc = bdev_io_load(ctx, io, sectors, BDEV_IO_SECTOR, low);
  if (!rc && end > high && high > low)
    rc = bdev_io_load(ctx, io, sectors + (high - low), BDEV_IO_SECTOR, high);
  return rc;
}

static int bdev_io_bounce_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset,
                                const uint8_t *data, uint64_t size)
{
  struct bdev_io_bounce b;
  int rc = bdev_io_bounce_open(ctx, &b, offset, size);
  for (uint64_t done = 0, n; !rc && done < size; done += n) {
    uint64_t at = offset + done, lead = at % BDEV_IO_SECTOR, span;
    n = bdev_io_least(b.size - lead, size - done);
    span = (lead + n + BDEV_IO_SECTOR - 1) / BDEV_IO_SECTOR * BDEV_IO_SECTOR;
    rc = bdev_io_load_edges(ctx, io, b.sectors, at, at + n);
    memcpy(b.sectors + lead, data + done, n);
    if (!rc)
      rc = bdev_io_save(ctx, io, b.sectors, span, at - lead);
  }
  if (b.memory)
    bdev_io_bounce_close(ctx, &b);
  return rc;
}

static int bdev_io_bounce_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, uint8_t *data,
                               uint64_t size)
{
  struct bdev_io_bounce b;
  int rc = bdev_io_bounce_open(ctx, &b, offset, size);
  for (uint64_t done = 0, n; !rc && done < size; done += n) {
    uint64_t at = offset + done, lead = at % BDEV_IO_SECTOR, span;
    n = bdev_io_least(b.size - lead, size - done);
    span = (lead + n + BDEV_IO_SECTOR - 1) / BDEV_IO_SECTOR * BDEV_IO_SECTOR;
    rc = bdev_io_load(ctx, io, b.sectors, span, at - lead);
    if (!rc)
      memcpy(data + done, b.sectors + lead, n);
  }
  if (b.memory)
    bdev_io_bounce_close(ctx, &b);
  return rc;
}

/* Whole sectors that can go without a buffer, from the beginning of a transfer. */
static uint64_t bdev_io_straight(uint64_t offset, const void *data, uint64_t size)
{
  return bdev_io_aligned(offset, data) ? size - size % BDEV_IO_SECTOR : 0;
}

/* ---- what others call ------------------------------------------------------------------------ */

CHI_PRIVATE int bdev_io_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, void *data,
                             uint64_t size)
{
  uint64_t straight = bdev_io_straight(offset, data, size);
  int rc = CHI_OK;
  CHI_ASSERT(size <= io->capacity && offset <= io->capacity - size);
  if (!io->file) {
    bdev_io_fetch(io, offset, data, size);
    return CHI_OK;
  }
  if (straight > 0)
    rc = bdev_io_load(ctx, io, data, straight, offset);
  if (!rc && size > straight)
    rc = bdev_io_bounce_read(ctx, io, offset + straight, (uint8_t *)data + straight,
                             size - straight);
  return rc;
}

CHI_PRIVATE int bdev_io_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, const void *data,
                              uint64_t size)
{
  uint64_t straight = bdev_io_straight(offset, data, size);
  int rc = CHI_OK;
  CHI_ASSERT(size <= io->capacity && offset <= io->capacity - size);
  if (!io->file) {
    bdev_io_store(io, offset, data, size);
    return CHI_OK;
  }
  if (straight > 0)
    rc = bdev_io_save(ctx, io, data, straight, offset);
  if (!rc && size > straight)
    rc = bdev_io_bounce_write(ctx, io, offset + straight, (const uint8_t *)data + straight,
                              size - straight);
  return rc;
}

CHI_PRIVATE int bdev_io_sync(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn)
{
  uint64_t covers = io->turns;
  int rc;
  if (io->failed || turn->number < io->synced)
    return io->failed;
  rc = chi_file_sync(ctx, io->file);
  if (rc == CHI_OK)
    io->synced = covers;
  if (rc == CHI_OK || rc == CHI_ECANCELLED || rc == CHI_ETIMEOUT)
    return rc;
  io->failed = CHI_EIO;
  chi_log(ctx, CHI_LOG_ERROR, "syncing the file failed (%s): every sync fails from now on",
          chi_status_text(rc));
  return CHI_EIO;
}

/* ---- open and close -------------------------------------------------------------------------- */

CHI_PRIVATE int bdev_io_open_locked(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out)
{
  uint64_t end = chi_now(ctx) + BDEV_IO_PATIENCE;
  int rc = chi_file_open(ctx, path, flags | CHI_FILE_LOCK, out);
  while (rc == CHI_EBUSY && chi_now(ctx) < end) {
    rc = chi_sleep(ctx, BDEV_IO_PATIENCE / 100);
    if (rc == CHI_OK)
      rc = chi_file_open(ctx, path, flags | CHI_FILE_LOCK, out);
  }
  return rc;
}

/* Opens the file or makes it. */
static int bdev_io_open_or_make(chi_ctx *ctx, struct bdev_io *io, const char *path, bool make,
                                bool *made)
{
  int rc = bdev_io_open_locked(ctx, path, CHI_FILE_DIRECT, &io->file);
  *made = rc == CHI_ENOENT && make;
  if (*made)
    rc = chi_file_open(ctx, path,
                       CHI_FILE_DIRECT | CHI_FILE_LOCK | CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE,
                       &io->file);
  *made = *made && rc == CHI_OK;
  return rc;
}

/* Sees to the size of the file, and that it and the name are durable: who made it may have been
 * killed before they were. */
static int bdev_io_extend(chi_ctx *ctx, struct bdev_io *io, const char *path, uint64_t *capacity)
{
  int64_t size = chi_file_size(ctx, io->file);
  int rc = size < 0 ? (int)size : CHI_OK;
  if (!rc && *capacity == 0)
    *capacity = (uint64_t)size;
  if (!rc && *capacity == 0)
    return CHI_EINVAL;
  if (!rc && (uint64_t)size < *capacity)
    rc = chi_file_truncate(ctx, io->file, *capacity);
  if (!rc)
    rc = chi_file_sync(ctx, io->file);
  return rc ? rc : chi_file_dirsync(ctx, path);
}

CHI_PRIVATE int bdev_io_open_file(chi_ctx *ctx, struct bdev_io *io, const char *path,
                                  uint64_t *capacity, uint32_t depth, bool *made)
{
  const char *why;
  int rc;
  *io = (struct bdev_io){.depth = depth};
  io->waiting_end = &io->waiting;
  rc = bdev_io_open_or_make(ctx, io, path, *capacity > 0, made);
  if (rc) {
    why = rc == CHI_EBUSY ? "another pool or process uses it" : chi_status_text(rc);
    chi_log(ctx, CHI_LOG_ERROR, "the file can't be opened: %s", why);
    return rc;
  }
  rc = bdev_io_extend(ctx, io, path, capacity);
  io->capacity = *capacity;
  if (!rc)
    return CHI_OK;
  why = rc == CHI_EINVAL && *capacity == 0 ? "it is empty, and no capacity is given"
                                           : chi_status_text(rc);
  chi_log(ctx, CHI_LOG_ERROR, "the file can't be given its size: %s", why);
  bdev_io_close(ctx, io);
  if (*made)
    chi_file_remove(ctx, path);
  return rc;
}

CHI_PRIVATE void bdev_io_close(chi_ctx *ctx, struct bdev_io *io)
{
  uint64_t words = (io->capacity - 1) / BDEV_IO_PIECE / 64 + 1;
  CHI_ASSERT(!io->running && !io->waiting);
  if (io->file)
    chi_file_close(ctx, io->file);
  if (io->written)
    chi_free(ctx, io->written, words * sizeof(*io->written));
  if (io->memory)
    chi_free(ctx, io->memory, io->capacity);
  *io = (struct bdev_io){0};
}

#undef BDEV_IO_SECTOR
#undef BDEV_IO_BOUNCE
#undef BDEV_IO_PIECE
#undef BDEV_IO_TIMED
#undef BDEV_IO_PATIENCE

/* ---- sources/bdev_log.c ---- */
/* bdev_log.c - layout and replay of an allocation log. */

/* Head: 0 magic[8], 8 version, 12 checksum, 16 id, 24 capacity, 32 unit, 40 snapshot_end, zeros.
 * Record: 0 magic, 4 kind, 8 seq, 16 base, 24 count, 32 id, 40 link, 44 checksum, 48 ranges, each
 * offset and size. A checksum is that of everything else in its head or record. */
#define BDEV_LOG_MAGIC "CHI-LOG\n"
#define BDEV_LOG_VERSION 1u
#define BDEV_LOG_RECORD_MAGIC 0x4c494843u
#define BDEV_LOG_UNIT_MAX ((uint64_t)1 << 30)

struct bdev_log_record {
  uint32_t kind, link, sum;
  uint64_t seq, base, count, size;
  const uint8_t *ranges;
};

/* ---- bytes ----------------------------------------------------------------------------------- */

static void bdev_log_put32(uint8_t *at, uint32_t value)
{
  for (int i = 0; i < 4; i++)
    at[i] = (uint8_t)(value >> (8 * i));
}

static void bdev_log_put64(uint8_t *at, uint64_t value)
{
  bdev_log_put32(at, (uint32_t)value);
  bdev_log_put32(at + 4, (uint32_t)(value >> 32));
}

static uint32_t bdev_log_get32(const uint8_t *at)
{
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t bdev_log_get64(const uint8_t *at)
{
  return bdev_log_get32(at) | (uint64_t)bdev_log_get32(at + 4) << 32;
}

/* The checksum of size bytes without the four at `hole`. */
static uint32_t bdev_log_sum(const uint8_t *bytes, uint64_t size, uint64_t hole)
{
  uint32_t sum = hash_crc32c(0, bytes, hole);
  return hash_crc32c(sum, bytes + hole + 4, size - hole - 4);
}

/* ---- writing --------------------------------------------------------------------------------- */

CHI_PRIVATE uint64_t bdev_log_size(uint64_t count)
{
  return BDEV_LOG_RECORD + BDEV_LOG_RANGE * count;
}

CHI_PRIVATE void bdev_log_put_head(struct bdev_log_writer *w, const struct bdev_log_head *head)
{
  uint8_t *at = w->bytes;
  CHI_ASSERT(w->room >= BDEV_LOG_HEAD);
  memset(at, 0, BDEV_LOG_HEAD);
  memcpy(at, BDEV_LOG_MAGIC, 8);
  bdev_log_put32(at + 8, BDEV_LOG_VERSION);
  bdev_log_put64(at + 16, head->id);
  bdev_log_put64(at + 24, head->capacity);
  bdev_log_put64(at + 32, head->unit);
  bdev_log_put64(at + 40, head->snapshot_end);
  w->link = bdev_log_sum(at, BDEV_LOG_HEAD, 12);
  bdev_log_put32(at + 12, w->link);
  w->size = w->base = BDEV_LOG_HEAD;
  w->id = head->id;
  w->seq = 0;
}

CHI_PRIVATE void bdev_log_begin(struct bdev_log_writer *w, enum bdev_log_kind kind)
{
  uint8_t *at = w->bytes + w->size;
  CHI_ASSERT(w->room - w->size >= BDEV_LOG_RECORD);
  bdev_log_put32(at, BDEV_LOG_RECORD_MAGIC);
  bdev_log_put32(at + 4, (uint32_t)kind);
  bdev_log_put64(at + 8, ++w->seq);
  bdev_log_put64(at + 16, w->base);
  bdev_log_put64(at + 32, w->id);
  bdev_log_put32(at + 40, w->link);
  w->open = w->size;
  w->size += BDEV_LOG_RECORD;
}

CHI_PRIVATE void bdev_log_range(struct bdev_log_writer *w, uint64_t offset, uint64_t size)
{
  CHI_ASSERT(w->room - w->size >= BDEV_LOG_RANGE);
  bdev_log_put64(w->bytes + w->size, offset);
  bdev_log_put64(w->bytes + w->size + 8, size);
  w->size += BDEV_LOG_RANGE;
}

CHI_PRIVATE void bdev_log_end(struct bdev_log_writer *w)
{
  uint8_t *at = w->bytes + w->open;
  bdev_log_put64(at + 24, (w->size - w->open - BDEV_LOG_RECORD) / BDEV_LOG_RANGE);
  w->link = bdev_log_sum(at, w->size - w->open, 44);
  bdev_log_put32(at + 44, w->link);
}

/* ---- reading --------------------------------------------------------------------------------- */

static int bdev_log_read_head(const uint8_t *bytes, uint64_t size, struct bdev_log_found *found,
                              chi_error *err)
{
  struct bdev_log_head *head = &found->head;
  if (size < BDEV_LOG_HEAD || memcmp(bytes, BDEV_LOG_MAGIC, 8) != 0)
    return error_set(err, CHI_ECORRUPT, "this is not an allocation log");
  found->link = bdev_log_sum(bytes, BDEV_LOG_HEAD, 12);
  if (found->link != bdev_log_get32(bytes + 12))
    return error_set(err, CHI_ECORRUPT, "the head of the log is damaged");
  if (bdev_log_get32(bytes + 8) != BDEV_LOG_VERSION)
    return error_set(err, CHI_EVERSION, "the log is of version %u, expected %u",
                     bdev_log_get32(bytes + 8), BDEV_LOG_VERSION);
  head->id = bdev_log_get64(bytes + 16);
  head->capacity = bdev_log_get64(bytes + 24);
  head->unit = bdev_log_get64(bytes + 32);
  head->snapshot_end = bdev_log_get64(bytes + 40);
  if (head->unit == 0 || head->unit > BDEV_LOG_UNIT_MAX || (head->unit & (head->unit - 1)) != 0 ||
      head->capacity == 0 || (head->capacity & (head->unit - 1)) != 0 ||
      head->snapshot_end < BDEV_LOG_HEAD)
    return error_set(err, CHI_ECORRUPT, "the head of the log makes no sense");
  found->end = BDEV_LOG_HEAD;
  return CHI_OK;
}

/* Whether an intact record of the log `id` begins at `at`, of which `room` bytes are there. */
static bool bdev_log_parse(const uint8_t *at, uint64_t room, uint64_t id, struct bdev_log_record *r)
{
  if (room < BDEV_LOG_RECORD || bdev_log_get32(at) != BDEV_LOG_RECORD_MAGIC ||
      bdev_log_get64(at + 32) != id)
    return false;
  r->count = bdev_log_get64(at + 24);
  if (r->count > (room - BDEV_LOG_RECORD) / BDEV_LOG_RANGE)
    return false;
  r->size = bdev_log_size(r->count);
  r->sum = bdev_log_get32(at + 44);
  r->kind = bdev_log_get32(at + 4);
  r->seq = bdev_log_get64(at + 8);
  r->base = bdev_log_get64(at + 16);
  r->link = bdev_log_get32(at + 40);
  r->ranges = at + BDEV_LOG_RECORD;
  return bdev_log_sum(at, r->size, 44) == r->sum;
}

static bool bdev_log_continues(const struct bdev_log_found *found, const struct bdev_log_record *r)
{
  return r->link == found->link && r->seq > found->seq && r->base <= found->end;
}

/* Does what a record says. */
static int bdev_log_apply(const struct bdev_log_record *r, const struct alloc *alloc,
                          struct extent_map *map)
{
  for (uint64_t i = 0; i < r->count; i++) {
    const uint8_t *at = r->ranges + i * BDEV_LOG_RANGE;
    struct extent_range range = {bdev_log_get64(at), bdev_log_get64(at + 8)};
    int rc = CHI_EINVAL;
    if (r->kind == BDEV_LOG_ALLOCATE)
      rc = extent_take(map, alloc, range);
    else if (r->kind == BDEV_LOG_FREE)
      rc = extent_free(map, alloc, &range, 1);
    if (rc)
      return rc;
  }
  return r->kind >= BDEV_LOG_ALLOCATE && r->kind <= BDEV_LOG_MARK ? CHI_OK : CHI_EINVAL;
}

/* Whether a record behind the end proves that what lies at the end was durable. */
static bool bdev_log_was_durable(const uint8_t *bytes, uint64_t size,
                                 const struct bdev_log_found *found)
{
  struct bdev_log_record r;
  for (uint64_t at = found->end; at < size; at += BDEV_LOG_RANGE) {
    if (bdev_log_parse(bytes + at, size - at, found->head.id, &r) && r.base > found->end)
      return true;
  }
  return false;
}

static int bdev_log_read(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                         struct extent_map *map, struct bdev_log_found *found, chi_error *err)
{
  struct bdev_log_record r;
  while (bdev_log_parse(bytes + found->end, size - found->end, found->head.id, &r) &&
         bdev_log_continues(found, &r)) {
    int rc = bdev_log_apply(&r, alloc, map);
    if (rc == CHI_ENOMEM)
      return error_set(err, rc, "no memory for the free space");
    if (rc)
      return error_set(err, CHI_ECORRUPT, "the record at offset %llu contradicts those before it",
                       (unsigned long long)found->end);
    found->end += r.size;
    found->seq = r.seq;
    found->link = r.sum;
    found->records++;
    found->marked = r.kind == BDEV_LOG_MARK;
  }
  if (found->end < found->head.snapshot_end || bdev_log_was_durable(bytes, size, found))
    return error_set(err, CHI_ECORRUPT,
                     "the log is damaged at offset %llu, before records that are in order",
                     (unsigned long long)found->end);
  found->torn = found->end < size;
  found->marked = found->marked || found->end == found->head.snapshot_end;
  return CHI_OK;
}

CHI_PRIVATE int bdev_log_replay(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                                struct extent_map *map, struct bdev_log_found *found,
                                chi_error *err)
{
  int rc;
  *found = (struct bdev_log_found){0};
  rc = bdev_log_read_head(bytes, size, found, err);
  if (rc)
    return rc;
  if (extent_init(map, alloc, found->head.capacity, found->head.unit))
    return error_set(err, CHI_ENOMEM, "no memory for the free space");
  rc = bdev_log_read(bytes, size, alloc, map, found, err);
  if (rc)
    extent_fini(map, alloc);
  return rc;
}

#undef BDEV_LOG_MAGIC
#undef BDEV_LOG_VERSION
#undef BDEV_LOG_RECORD_MAGIC
#undef BDEV_LOG_UNIT_MAX

/* ---- sources/extent.c ---- */
/* extent.c - free space as an AVL tree by offset; every node knows the largest extent below it. */

#define EXTENT_SPARE_MAX 64 /* nodes kept for later; enough for a full list of blocks */

/* ---- the tree -------------------------------------------------------------------------------- */

static uint32_t extent_height(const struct extent *e)
{
  return e ? e->height : 0;
}

static uint64_t extent_best(const struct extent *e)
{
  return e ? e->largest : 0;
}

static void extent_refresh(struct extent *e)
{
  uint32_t left = extent_height(e->left), right = extent_height(e->right);
  uint64_t best = e->claimed ? 0 : e->size;
  best = extent_best(e->left) > best ? extent_best(e->left) : best;
  best = extent_best(e->right) > best ? extent_best(e->right) : best;
  e->height = (left > right ? left : right) + 1;
  e->largest = best;
}

static struct extent *extent_turn_right(struct extent *e)
{
  struct extent *top = e->left;
  e->left = top->right;
  top->right = e;
  extent_refresh(e);
  extent_refresh(top);
  return top;
}

static struct extent *extent_turn_left(struct extent *e)
{
  struct extent *top = e->right;
  e->right = top->left;
  top->left = e;
  extent_refresh(e);
  extent_refresh(top);
  return top;
}

/* Restores a subtree one of whose branches has changed by one level; returns its new root. */
static struct extent *extent_balance(struct extent *e)
{
  uint32_t left = extent_height(e->left), right = extent_height(e->right);
  if (left > right + 1) {
    if (extent_height(e->left->left) < extent_height(e->left->right))
      e->left = extent_turn_left(e->left);
    return extent_turn_right(e);
  }
  if (right > left + 1) {
    if (extent_height(e->right->right) < extent_height(e->right->left))
      e->right = extent_turn_right(e->right);
    return extent_turn_left(e);
  }
  extent_refresh(e);
  return e;
}

static struct extent *extent_insert(struct extent *at, struct extent *e)
{
  if (!at) {
    e->left = e->right = NULL;
    extent_refresh(e);
    return e;
  }
  CHI_ASSERT(at->offset != e->offset);
  if (e->offset < at->offset)
    at->left = extent_insert(at->left, e);
  else
    at->right = extent_insert(at->right, e);
  return extent_balance(at);
}

static struct extent *extent_remove_first(struct extent *at, struct extent **first)
{
  if (!at->left) {
    *first = at;
    return at->right;
  }
  at->left = extent_remove_first(at->left, first);
  return extent_balance(at);
}

/* e is in the subtree `at`. */
static struct extent *extent_remove(struct extent *at, struct extent *e)
{
  struct extent *heir;
  CHI_ASSERT(at);
  if (at != e) {
    if (e->offset < at->offset)
      at->left = extent_remove(at->left, e);
    else
      at->right = extent_remove(at->right, e);
    return extent_balance(at);
  }
  if (!e->left || !e->right)
    return e->left ? e->left : e->right;
  heir = NULL;
  e->right = extent_remove_first(e->right, &heir);
  heir->left = e->left;
  heir->right = e->right;
  return extent_balance(heir);
}

/* The size or state of e, or its offset within the gap it lies in, has changed. */
static void extent_changed(struct extent *at, const struct extent *e)
{
  CHI_ASSERT(at);
  if (at != e)
    extent_changed(e->offset < at->offset ? at->left : at->right, e);
  extent_refresh(at);
}

/* The last extent that begins before offset, or NULL; *after: the first one that doesn't. */
static struct extent *extent_around(const struct extent_map *map, uint64_t offset,
                                    struct extent **after)
{
  struct extent *before = NULL, *at = map->root;
  *after = NULL;
  while (at) {
    if (at->offset < offset) {
      before = at;
      at = at->right;
    } else {
      *after = at;
      at = at->left;
    }
  }
  return before;
}

/* The first free extent of at least size bytes; there is one. */
static struct extent *extent_first_fit(const struct extent_map *map, uint64_t size)
{
  struct extent *at = map->root;
  CHI_ASSERT(extent_best(at) >= size);
  for (;;) {
    if (extent_best(at->left) >= size)
      at = at->left;
    else if (!at->claimed && at->size >= size)
      return at;
    else
      at = at->right;
  }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* n nodes to spare, so that what follows cannot fail. */
static int extent_reserve(struct extent_map *map, const struct alloc *alloc, uint64_t n)
{
  while (map->spare_count < n) {
    struct extent *e = alloc_get(alloc, sizeof(*e));
    if (!e)
      return CHI_ENOMEM;
    e->next = map->spare;
    map->spare = e;
    map->spare_count++;
  }
  return CHI_OK;
}

static void extent_trim(struct extent_map *map, const struct alloc *alloc, uint64_t keep)
{
  while (map->spare_count > keep) {
    struct extent *e = map->spare;
    map->spare = e->next;
    map->spare_count--;
    alloc_put(alloc, e, sizeof(*e));
  }
}

static struct extent *extent_add(struct extent_map *map, uint64_t offset, uint64_t size,
                                 bool claimed)
{
  struct extent *e = map->spare;
  CHI_ASSERT(e && size > 0);
  map->spare = e->next;
  map->spare_count--;
  map->count++;
  *e = (struct extent){.offset = offset, .size = size, .claimed = claimed};
  map->root = extent_insert(map->root, e);
  return e;
}

static void extent_drop(struct extent_map *map, struct extent *e)
{
  map->root = extent_remove(map->root, e);
  map->count--;
  e->next = map->spare;
  map->spare = e;
  map->spare_count++;
}

static bool extent_touches(const struct extent *low, const struct extent *high)
{
  return low && high && !low->claimed && !high->claimed && low->offset + low->size == high->offset;
}

/* Makes one extent of the free e and the free extents that it touches. */
static void extent_coalesce(struct extent_map *map, struct extent *e)
{
  struct extent *after, *before = extent_around(map, e->offset, &after);
  CHI_ASSERT(after == e);
  extent_around(map, e->offset + 1, &after);
  if (extent_touches(e, after)) {
    e->size += after->size;
    extent_drop(map, after);
  }
  if (extent_touches(before, e)) {
    before->size += e->size;
    extent_drop(map, e);
    e = before;
  }
  extent_changed(map->root, e);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static bool extent_inside(const struct extent_map *map, struct extent_range r)
{
  return r.size > 0 && r.size <= map->capacity && r.offset <= map->capacity - r.size &&
         ((r.offset | r.size) & (map->unit - 1)) == 0;
}

/* Frees one range. It may take a spare node. */
static int extent_free_one(struct extent_map *map, struct extent_range r)
{
  if (!extent_inside(map, r) || !extent_allocated(map, r.offset, r.size))
    return CHI_EINVAL;
  extent_coalesce(map, extent_add(map, r.offset, r.size, false));
  map->free_bytes += r.size;
  return CHI_OK;
}

/* Allocates a range that is free in whole. It may take a spare node. */
static int extent_take_one(struct extent_map *map, struct extent_range r)
{
  struct extent *after, *e = extent_around(map, r.offset + 1, &after);
  uint64_t end = r.offset + r.size, rest;
  if (!e || e->claimed || e->offset + e->size < end)
    return CHI_EINVAL;
  rest = e->offset + e->size - end;
  map->free_bytes -= r.size;
  if (e->offset == r.offset && rest == 0) {
    extent_drop(map, e);
    return CHI_OK;
  }
  if (e->offset == r.offset) {
    e->offset = end;
    e->size = rest;
  } else {
    e->size = r.offset - e->offset;
  }
  extent_changed(map->root, e);
  if (e->offset < r.offset && rest > 0)
    extent_add(map, end, rest, false);
  return CHI_OK;
}

CHI_PRIVATE int extent_free(struct extent_map *map, const struct alloc *alloc,
                            const struct extent_range *ranges, uint64_t count)
{
  uint64_t done = 0;
  int rc = extent_reserve(map, alloc, count);
  while (rc == CHI_OK && done < count) {
    rc = extent_free_one(map, ranges[done]);
    done += rc == CHI_OK;
  }
  /* Each step back leads to what was there before the step, for which the nodes sufficed. */
  while (rc != CHI_OK && done > 0) {
    int undone = extent_take_one(map, ranges[--done]);
    CHI_ASSERT(undone == CHI_OK);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
  return rc;
}

CHI_PRIVATE int extent_take(struct extent_map *map, const struct alloc *alloc,
                            struct extent_range range)
{
  int rc = extent_reserve(map, alloc, 1);
  if (rc)
    return rc;
  rc = extent_inside(map, range) ? extent_take_one(map, range) : CHI_EINVAL;
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
  return rc;
}

CHI_PRIVATE bool extent_allocated(const struct extent_map *map, uint64_t offset, uint64_t size)
{
  struct extent *after, *before;
  if (size > map->capacity || offset > map->capacity - size)
    return false;
  before = extent_around(map, offset, &after);
  if (before && before->offset + before->size > offset)
    return false;
  return !after || after->offset >= offset + size;
}

CHI_PRIVATE bool extent_next(const struct extent_map *map, uint64_t from,
                             struct extent_range *range)
{
  struct extent *after, *before = extent_around(map, from, &after);
  if (before && before->offset + before->size > from)
    from = before->offset + before->size;
  while (after && after->offset == from) {
    from += after->size;
    extent_around(map, from, &after);
  }
  range->offset = from;
  range->size = (after ? after->offset : map->capacity) - from;
  return from < map->capacity;
}

CHI_PRIVATE uint64_t extent_largest(const struct extent_map *map)
{
  return extent_best(map->root);
}

/* ---- claims ---------------------------------------------------------------------------------- */

/* Claims one extent of at most size bytes, as large as there is. It may take a spare node. */
static struct extent *extent_claim_one(struct extent_map *map, uint64_t size)
{
  uint64_t most = extent_largest(map);
  struct extent *e = extent_first_fit(map, most < size ? most : size);
  map->free_bytes -= e->size < size ? e->size : size;
  if (e->size <= size) {
    e->claimed = true;
    extent_changed(map->root, e);
    return e;
  }
  e->offset += size;
  e->size -= size;
  extent_changed(map->root, e);
  return extent_add(map, e->offset - size, size, true);
}

CHI_PRIVATE int extent_claim(struct extent_map *map, const struct alloc *alloc, uint64_t size,
                             uint64_t room, struct extent **chain, uint64_t *count)
{
  struct extent **tail = chain;
  CHI_ASSERT(size > 0 && (size & (map->unit - 1)) == 0);
  *chain = NULL;
  *count = 0;
  if (size > map->free_bytes)
    return CHI_ENOSPC;
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  while (size > 0) {
    *tail = extent_claim_one(map, size);
    size -= (*tail)->size;
    (*tail)->next = NULL;
    tail = &(*tail)->next;
    ++*count;
  }
  if (*count <= room)
    return CHI_OK;
  extent_release(map, alloc, *chain);
  *chain = NULL;
  return CHI_ETOOBIG;
}

CHI_PRIVATE void extent_settle(struct extent_map *map, const struct alloc *alloc,
                               struct extent *chain)
{
  while (chain) {
    struct extent *e = chain;
    CHI_ASSERT(e->claimed);
    chain = e->next;
    extent_drop(map, e);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
}

CHI_PRIVATE void extent_release(struct extent_map *map, const struct alloc *alloc,
                                struct extent *chain)
{
  while (chain) {
    struct extent *e = chain;
    CHI_ASSERT(e->claimed);
    chain = e->next;
    e->claimed = false;
    map->free_bytes += e->size;
    extent_coalesce(map, e);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
}

/* ---- the whole space ------------------------------------------------------------------------- */

CHI_PRIVATE int extent_init(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                            uint64_t unit)
{
  CHI_ASSERT(unit > 0 && (unit & (unit - 1)) == 0);
  CHI_ASSERT(capacity > 0 && (capacity & (unit - 1)) == 0);
  *map = (struct extent_map){.capacity = capacity, .unit = unit, .free_bytes = capacity};
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  extent_add(map, 0, capacity, false);
  return CHI_OK;
}

CHI_PRIVATE void extent_fini(struct extent_map *map, const struct alloc *alloc)
{
  while (map->root)
    extent_drop(map, map->root);
  extent_trim(map, alloc, 0);
  *map = (struct extent_map){0};
}

CHI_PRIVATE int extent_resize(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                              uint64_t unit)
{
  uint64_t old = map->capacity;
  struct extent_range rest = {capacity, capacity < old ? old - capacity : 0};
  CHI_ASSERT(capacity > 0 && unit > 0 && (unit & (unit - 1)) == 0);
  CHI_ASSERT((capacity & (unit - 1)) == 0);
  if (unit > map->unit && map->free_bytes != old)
    return CHI_ECONFLICT;
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  if (rest.size > 0 && extent_take_one(map, rest))
    return CHI_ECONFLICT;
  map->capacity = capacity;
  map->unit = unit;
  if (capacity > old) {
    extent_coalesce(map, extent_add(map, old, capacity - old, false));
    map->free_bytes += capacity - old;
  }
  return CHI_OK;
}

#undef EXTENT_SPARE_MAX

/* ---- sources/ctx.c ---- */
/* ctx.c - what a method may call: time, subtasks, locks, files. */

#include <stdarg.h>
#include <stdio.h>

/* ---- time and identity */

uint64_t chi_now(chi_ctx *ctx)
{
  struct env *env = ctx->worker->crew->env;
  uint64_t now = env->clock(env);
  if (now > ctx->worker->now)
    ctx->worker->now = now;
  return ctx->worker->now;
}

uint64_t chi_random(chi_ctx *ctx)
{
  struct env *env = ctx->worker->crew->env;
  return env->random(env);
}

int chi_cancelled(chi_ctx *ctx)
{
  if (ctx->deadline != UINT64_MAX)
    chi_now(ctx);
  return worker_cancelled(ctx);
}

chi_pool_id chi_self_pool(chi_ctx *ctx)
{
  return ctx->container->pool->id;
}

const char *chi_self_pool_name(chi_ctx *ctx)
{
  return ctx->container->pool->name;
}

uint32_t chi_self_container(chi_ctx *ctx)
{
  return ctx->container->index;
}

uint32_t chi_self_node(chi_ctx *ctx)
{
  return ctx->worker->crew->node;
}

uint32_t chi_node_count(chi_ctx *ctx)
{
  return ctx->worker->crew->nodes;
}

void chi_log(chi_ctx *ctx, int level, const char *fmt, ...)
{
  char text[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  const struct pool *pool = ctx->container->pool;
  log_write(&ctx->worker->crew->log, level, "pool %u.%u (%s): %s", pool->id.major, pool->id.minor,
            pool->name, text);
}

void *chi_alloc(chi_ctx *ctx, size_t size)
{
  return alloc_get(ctx->worker->crew->alloc, size ? size : 1);
}

void chi_free(chi_ctx *ctx, void *p, size_t size)
{
  alloc_put(ctx->worker->crew->alloc, p, size ? size : 1);
}

static uint64_t ctx_until(chi_ctx *ctx, uint64_t timeout_ns)
{
  if (timeout_ns == 0 || timeout_ns == UINT64_MAX)
    return UINT64_MAX;
  uint64_t now = chi_now(ctx);
  return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

int chi_sleep(chi_ctx *ctx, uint64_t ns)
{
  int rc = chi_cancelled(ctx);
  if (rc != CHI_OK)
    return rc;
  uint64_t now = chi_now(ctx);
  return worker_block(ctx, TASK_WAIT_TIME, ns > UINT64_MAX - now ? UINT64_MAX : now + ns);
}

int chi_yield(chi_ctx *ctx)
{
  int rc = worker_cancelled(ctx);
  return rc != CHI_OK ? rc : worker_block(ctx, TASK_WAIT_TIME, ctx->worker->now);
}

void ctx_shield(chi_ctx *ctx)
{
  ctx->shielded = true;
}

void ctx_pause(chi_ctx *ctx, uint64_t ns)
{
  worker_block(ctx, TASK_WAIT_PAUSE, chi_now(ctx) + ns);
}

/* ---- subtasks */

void *chi_subtask_new(chi_ctx *ctx, const chi_type *type)
{
  chi_ctx *sub = type->size < sizeof(chi_task) ? NULL : worker_record(ctx->worker, type->size);
  if (!sub)
    return NULL;
  memset(sub->task, 0, type->size);
  sub->task->method = type->id;
  sub->origin = TASK_FROM_PARENT;
  sub->ended = true;
  sub->parent = ctx;
  sub->sibling = ctx->child;
  ctx->child = sub;
  return sub->task;
}

void ctx_aim(void *subtask, struct container *container, struct method *method, bool slow)
{
  chi_ctx *sub = task_record(subtask);
  sub->container = container;
  sub->method = method;
  sub->slow = slow;
  sub->resolved = true;
}

static void ctx_unlink(chi_ctx *ctx, chi_ctx *sub)
{
  chi_ctx **at = &ctx->child;
  while (*at != sub) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->sibling;
  }
  *at = sub->sibling;
}

/* Finds container and method of a subtask in this worker's snapshot. */
static int ctx_resolve(chi_ctx *ctx, chi_ctx *sub)
{
  struct worker *w = ctx->worker;
  const chi_task *t = sub->task;
  const struct pool_entry *entry = pool_table_find(w->table, t->pool);
  if (!entry || entry->state != POOL_READY)
    return CHI_ENOENT;
  struct method *m = module_method(entry->pool->module, t->method);
  if (!m)
    return CHI_ENOMETHOD;
  if (TASK_RECORD + m->plan.type->size > sub->size ||
      ((t->flags & CHI_TASK_PERIODIC) && t->period_us == 0))
    return CHI_EINVAL;
  struct route route;
  int rc = t->query.mode == CHI_QUERY_DYNAMIC
               ? CHI_OK
               : route_resolve(&t->query, w->crew->nodes, w->crew->node, &route);
  if (rc != CHI_OK)
    return rc;
  sub->container = &entry->pool->container;
  sub->method = m;
  uint64_t us = t->compute_us ? t->compute_us : m->def->compute_us;
  uint64_t size = t->io_size < (1ull << 40) ? t->io_size : 1ull << 40;
  sub->slow = size / 4 + us * 1000 + 5000 >= WORKER_SLOW_NS;
  return CHI_OK;
}

int chi_subtask_submit(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  struct worker *w = ctx->worker;
  if (sub->parent != ctx || !sub->ended)
    return CHI_EINVAL;
  if (ctx->depth + 1u >= WORKER_DEPTH)
    return CHI_EBUSY;
  int rc = sub->resolved ? CHI_OK : ctx_resolve(ctx, sub);
  if (rc != CHI_OK)
    return rc;
  sub->depth = (uint8_t)(ctx->depth + 1);
  sub->id = worker_new_id(w);
  sub->root = ctx->root;
  sub->accepted = w->now;
  sub->worker = NULL;
  sub->cancel = 0;
  sub->ended = false;
  sub->shielded = ctx->shielded;
  sub->deadline = UINT64_MAX;
  if (sub->task->deadline_ms)
    sub->deadline = w->now + sub->task->deadline_ms * 1000000ull;
  if (sub->task->flags & CHI_TASK_FORGET) {
    ctx_unlink(ctx, sub);
    sub->parent = NULL;
    sub->queue = NULL;
    sub->depth = 0;
  } else {
    sub->queue = ctx->queue;
    sub->slot = ctx->slot;
    sub->tag = ctx->tag;
    sub->deadline = ctx->deadline < sub->deadline ? ctx->deadline : sub->deadline;
    ctx->running++;
  }
  tally_add(&w->accepted, 1);
  tally_add(&sub->container->tally[w->index].active, 1);
  worker_submit(w, sub);
  return CHI_OK;
}

int chi_subtask_done(chi_ctx *ctx, const void *task)
{
  (void)ctx;
  return task_record(task)->ended;
}

int chi_subtask_wait(chi_ctx *ctx, void *task, uint64_t timeout_ns)
{
  chi_ctx *sub = task_record(task);
  if (sub == ctx)
    return CHI_EDEADLOCK;
  if (sub->parent != ctx)
    return CHI_EINVAL;
  uint64_t until = ctx_until(ctx, timeout_ns);
  while (!sub->ended) {
    int rc = chi_cancelled(ctx);
    if (rc == CHI_OK) {
      ctx->awaited = sub;
      rc = worker_block(ctx, TASK_WAIT_SUBTASK, until);
    }
    if (rc != CHI_OK && !sub->ended)
      return rc;
  }
  return sub->task->rc;
}

int chi_subtask_wait_all(chi_ctx *ctx)
{
  while (ctx->running > 0) {
    int rc = chi_cancelled(ctx);
    if (rc == CHI_OK) {
      ctx->awaited = NULL;
      rc = worker_block(ctx, TASK_WAIT_SUBTASK, UINT64_MAX);
    }
    if (rc != CHI_OK && ctx->running > 0)
      return rc;
  }
  int first = CHI_OK;
  for (chi_ctx *sub = ctx->child; sub; sub = sub->sibling) {
      if (sub->task->rc != CHI_OK)
      first = sub->task->rc; /* the list is newest first */
  }
  return first;
}

int chi_subtask_cancel(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  if (sub->parent != ctx)
    return CHI_EINVAL;
  if (sub->ended)
    return CHI_OK;
  mark_set(&sub->cancel, CHI_ECANCELLED);
  worker_cancel_changed(ctx->worker);
  return CHI_OK;
}

void chi_subtask_free(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  CHI_ASSERT(sub->parent == ctx);
  if (!sub->ended) { /* freed with ctx, at the latest */
    chi_subtask_cancel(ctx, task);
    return;
  }
  ctx_unlink(ctx, sub);
  worker_record_free(ctx->worker, sub);
}

int chi_call(chi_ctx *ctx, void *task)
{
  int rc = chi_subtask_submit(ctx, task);
  return rc != CHI_OK ? rc : chi_subtask_wait(ctx, task, 0);
}

/* ---- locks */

static int ctx_wait_lock(chi_ctx *ctx, int rc, uint64_t timeout_ns)
{
  if (rc != CHI_EBUSY)
    return rc;
  return worker_block(ctx, TASK_WAIT_SYNC, ctx_until(ctx, timeout_ns));
}

int chi_mutex_lock(chi_ctx *ctx, chi_mutex *m, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  return rc != CHI_OK ? rc : ctx_wait_lock(ctx, sync_mutex_lock(m, ctx, true), timeout_ns);
}

int chi_mutex_trylock(chi_ctx *ctx, chi_mutex *m)
{
  return sync_mutex_lock(m, ctx, false);
}

int chi_mutex_unlock(chi_ctx *ctx, chi_mutex *m)
{
  chi_ctx *woken = NULL;
  int rc = sync_mutex_unlock(m, ctx, &woken);
  worker_wake_all(ctx->worker, woken);
  return rc;
}

static int ctx_rwlock(chi_ctx *ctx, chi_rwlock *l, bool write, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  if (rc != CHI_OK)
    return rc;
  return ctx_wait_lock(ctx, sync_rwlock_lock(l, ctx, write, ctx->worker->crew->alloc), timeout_ns);
}

int chi_rwlock_rdlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns)
{
  return ctx_rwlock(ctx, l, false, timeout_ns);
}

int chi_rwlock_wrlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns)
{
  return ctx_rwlock(ctx, l, true, timeout_ns);
}

int chi_rwlock_unlock(chi_ctx *ctx, chi_rwlock *l)
{
  chi_ctx *woken = NULL;
  int rc = sync_rwlock_unlock(l, ctx, ctx->worker->crew->alloc, &woken);
  worker_wake_all(ctx->worker, woken);
  return rc;
}

int chi_event_wait(chi_ctx *ctx, chi_event *e, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  return rc != CHI_OK ? rc : ctx_wait_lock(ctx, sync_event_wait(e, ctx), timeout_ns);
}

void chi_event_set(chi_ctx *ctx, chi_event *e)
{
  chi_ctx *woken = NULL;
  sync_event_set(e, &woken);
  worker_wake_all(ctx->worker, woken);
}

void chi_event_reset(chi_ctx *ctx, chi_event *e)
{
  (void)ctx;
  sync_event_reset(e);
}

/* ---- files: a chi_file is the environment's handle plus one, as a pointer */

static int64_t ctx_file_handle(const chi_file *file)
{
  return (int64_t)(intptr_t)file - 1;
}

static int64_t ctx_file_run(chi_ctx *ctx, int op, chi_file *file, uint64_t size)
{
  struct env_io io = {.op = op, .file = ctx_file_handle(file), .size = size};
  return worker_io_run(ctx, &io);
}

int chi_file_open(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out)
{
  struct env_io io = {.op = ENV_IO_OPEN, .path = path, .flags = flags};
  int64_t result = worker_io_run(ctx, &io);
  if (result < 0)
    return (int)result;
  *out = (chi_file *)(intptr_t)(result + 1);
  return CHI_OK;
}

int chi_file_close(chi_ctx *ctx, chi_file *file)
{
  return (int)ctx_file_run(ctx, ENV_IO_CLOSE, file, 0);
}

/* The environment may move less than was asked for; callers here may not. */
static int64_t ctx_file_move(chi_ctx *ctx, int op, chi_file *file, char *buf, uint64_t size,
                             uint64_t offset)
{
  uint64_t done = 0;
  while (done < size) {
    struct env_io io = {.op = op,
                        .file = ctx_file_handle(file),
                        .buf = buf + done,
                        .size = size - done,
                        .offset = offset + done};
    int64_t moved = worker_io_run(ctx, &io);
    if (moved < 0)
      return moved;
    if (moved == 0)
      return op == ENV_IO_READ ? (int64_t)done : CHI_EIO;
    done += (uint64_t)moved;
  }
  return (int64_t)done;
}

int64_t chi_file_read(chi_ctx *ctx, chi_file *file, void *buf, uint64_t size, uint64_t offset)
{
  return ctx_file_move(ctx, ENV_IO_READ, file, buf, size, offset);
}

int64_t chi_file_write(chi_ctx *ctx, chi_file *file, const void *buf, uint64_t size,
                       uint64_t offset)
{
  return ctx_file_move(ctx, ENV_IO_WRITE, file, (char *)(uintptr_t)buf, size, offset);
}

int chi_file_sync(chi_ctx *ctx, chi_file *file)
{
  return (int)ctx_file_run(ctx, ENV_IO_SYNC, file, 0);
}

int64_t chi_file_size(chi_ctx *ctx, chi_file *file)
{
  return ctx_file_run(ctx, ENV_IO_SIZE, file, 0);
}

int chi_file_truncate(chi_ctx *ctx, chi_file *file, uint64_t size)
{
  return (int)ctx_file_run(ctx, ENV_IO_TRUNCATE, file, size);
}

static int64_t ctx_path_run(chi_ctx *ctx, int op, const char *path, const char *path2)
{
  struct env_io io = {.op = op, .path = path, .path2 = path2};
  return worker_io_run(ctx, &io);
}

int chi_file_rename(chi_ctx *ctx, const char *from, const char *to)
{
  return (int)ctx_path_run(ctx, ENV_IO_RENAME, from, to);
}

int chi_file_remove(chi_ctx *ctx, const char *path)
{
  return (int)ctx_path_run(ctx, ENV_IO_REMOVE, path, NULL);
}

int chi_file_dirsync(chi_ctx *ctx, const char *path)
{
  return (int)ctx_path_run(ctx, ENV_IO_DIRSYNC, path, NULL);
}

int64_t chi_file_space(chi_ctx *ctx, const char *path)
{
  return ctx_path_run(ctx, ENV_IO_SPACE, path, NULL);
}

/* ---- sources/session.c ---- */
/* session.c - clients as their node sees them: attach, lease memory, open queues, vanish. */

enum session_chunk_state { SESSION_UNUSED, SESSION_LEASED, SESSION_RETURNED };

#define SESSION_TEND_FIRST 1000000ull /* nanoseconds between looks at what is closing */
#define SESSION_TEND_LAST 200000000ull

static struct worker *session_network(const struct session_set *s)
{
  return &s->crew->worker[s->crew->count - 1];
}

int session_set_open(struct session_set *s, struct worker_crew *crew, const chi_config *config)
{
  struct env *env = crew->env;
  *s = (struct session_set){.crew = crew, .config = config, .tend_at = UINT64_MAX};
  s->boot = env->random(env);
  s->budget[SHM_MAIN] = config->main_segment_size;
  s->budget[SHM_CLIENT_DATA] = config->client_data_segment_size;
  s->budget[SHM_RUNTIME_DATA] = config->runtime_data_segment_size;
  uint64_t size = sizeof *s->page + crew->count * sizeof s->page->worker[0];
  int rc = env->segment_open(env, config->main_segment_name, size, ENV_SHARED_READ,
                             &s->page_segment);
  if (rc != CHI_OK)
    return rc;
  s->page = s->page_segment.base;
  s->page->version = ATTACH_VERSION;
  s->page->workers = crew->count;
  s->page->boot = s->boot;
  return CHI_OK;
}

void session_set_close(struct session_set *s)
{
  CHI_ASSERT(s->first == NULL);
  if (s->page)
    s->crew->env->segment_close(s->crew->env, &s->page_segment);
  s->page = NULL;
}

static struct session *session_find(struct session_set *s, env_link link)
{
  struct session *c = s->first;
  while (c && (c->link != link || c->gone))
    c = c->next;
  return c;
}

static void session_trace(struct session_set *s, env_link link, uint64_t what)
{
  if (s->crew->env->trace)
    s->crew->env->trace(s->crew->env, ENV_TRACE_CLIENT, (uint64_t)link, what, 0);
}

void session_connect(struct session_set *s, env_link link, const struct env_peer *peer)
{
  struct env *env = s->crew->env;
  struct session *c = NULL;
  if (s->count < SESSION_MOST && !s->draining)
    c = alloc_zero(s->crew->alloc, sizeof *c);
  if (!c) {
    session_trace(s, link, 2);
    env->link_close(env, link);
    return;
  }
  c->link = link;
  c->peer = *peer;
  c->id = ++s->next_session;
  c->next = s->first;
  s->first = c;
  s->count++;
  session_trace(s, link, 1);
}

/* Chunk numbers a client can need: all of both budgets, and as many again that it returned. */
static uint32_t session_chunk_room(const struct session_set *s)
{
  uint64_t room = (s->budget[SHM_MAIN] + s->budget[SHM_CLIENT_DATA]) / SHM_CHUNK_SIZE * 2 + 16;
  return room < (1u << 20) ? (uint32_t)room : 1u << 20;
}

static int session_hello(struct session_set *s, struct session *c, struct attach_reply *r,
                         struct env_share *share, uint32_t *count)
{
  if (c->greeted || c->table.room)
    return CHI_EINVAL;
  uint32_t room = session_chunk_room(s);
  c->table.chunk = alloc_zero(s->crew->alloc, room * sizeof *c->table.chunk);
  c->chunk = alloc_zero(s->crew->alloc, room * sizeof *c->chunk);
  c->table.room = room;
  if (!c->table.chunk || !c->chunk)
    return CHI_ENOMEM; /* freed with the session */
  c->greeted = true;
  r->boot = s->boot;
  r->workers = s->crew->count;
  r->fast = s->crew->fast;
  r->slow = s->crew->slow;
  r->depth = s->config->queue_depth;
  r->nodes = s->crew->nodes;
  r->chunks = room;
  r->spin_ns = s->config->spin_window_ns;
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_READ, .segment = s->page_segment};
  *count = 1;
  return CHI_OK;
}

static int session_bells(struct session_set *s, uint32_t first, struct env_share *share,
                         uint32_t *count)
{
  uint32_t n = 0;
  for (uint32_t w = first; w < s->crew->count && n < ATTACH_BELLS_MAX; w++)
    share[n++] = (struct env_share){.kind = ENV_SHARE_BELL, .bell = s->crew->worker[w].bell};
  *count = n;
  return n > 0 ? CHI_OK : CHI_EINVAL;
}

static const char *session_kind_name(const struct session_set *s, uint32_t kind)
{
  return kind == SHM_MAIN ? s->config->main_segment_name : s->config->client_data_segment_name;
}

/* Memory that is counted against a budget, before the system is asked. */
static int session_segment(struct session_set *s, uint32_t kind, uint64_t size, int access,
                           struct env_segment *out, char *text, size_t room)
{
  struct env *env = s->crew->env;
  chi_error err = {0};
  int rc = CHI_OK;
  if (size > s->budget[kind] - s->used[kind])
    rc = error_set(&err, CHI_ENOMEM,
                   "Failed to allocate shared memory segment: %llu bytes of %s asked, %llu of its "
                   "budget of %llu are left",
                   (unsigned long long)size, session_kind_name(s, kind),
                   (unsigned long long)(s->budget[kind] - s->used[kind]),
                   (unsigned long long)s->budget[kind]);
  else if ((rc = env->segment_open(env, session_kind_name(s, kind), size, access, out)) != CHI_OK)
    error_set(&err, rc,
              "Failed to allocate shared memory segment: the system has no %llu bytes for %s",
              (unsigned long long)size, session_kind_name(s, kind));
  if (rc == CHI_OK) {
    s->used[kind] += size;
    return CHI_OK;
  }
  log_limited(&s->crew->log, &s->limit, session_network(s)->now, CHI_LOG_WARNING, "%s", err.text);
  memcpy(text, err.text, room < sizeof err.text ? room : sizeof err.text);
  text[room - 1] = '\0';
  return rc;
}

/* A chunk of that size that this client had before: still mapped on both sides. */
static int session_lease_again(struct session_set *s, struct session *c, uint32_t kind,
                               uint64_t size, uint32_t *number)
{
  for (uint32_t i = 0; i < c->chunk_count; i++) {
    struct session_chunk *k = &c->chunk[i];
    if (k->state != SESSION_RETURNED || k->kind != kind || k->segment.size != size ||
        size > s->budget[kind] - s->used[kind])
      continue;
    if (s->crew->env->segment_restore(s->crew->env, &k->segment) != CHI_OK) {
      s->crew->env->segment_discard(s->crew->env, &k->segment);
      return CHI_ENOENT; /* nor is a new one to be had, which will be said */
    }
    k->state = SESSION_LEASED;
    s->used[kind] += size;
    c->used[kind] += size;
    *number = i;
    return CHI_OK;
  }
  return CHI_ENOENT;
}

static int session_lease(struct session_set *s, struct session *c,
                         const struct attach_request *q, struct attach_reply *r,
                         struct env_share *share, uint32_t *count)
{
  if (q->kind > SHM_CLIENT_DATA || q->size == 0 || q->size % SHM_CHUNK_SIZE != 0 ||
      q->size > SHM_SIZE_MAX)
    return CHI_EINVAL;
  int rc = session_lease_again(s, c, q->kind, q->size, &r->id);
  if (rc != CHI_ENOENT)
    return rc;
  if (c->chunk_count == c->table.room)
    return CHI_ENOMEM;
  struct session_chunk *k = &c->chunk[c->chunk_count];
  rc = session_segment(s, q->kind, q->size, ENV_SHARED_WRITE, &k->segment, r->text,
                       sizeof r->text);
  if (rc != CHI_OK)
    return rc;
  k->kind = q->kind;
  k->state = SESSION_LEASED;
  c->used[q->kind] += q->size;
  r->id = c->chunk_count++;
  shm_publish(&c->table, r->id, k->segment.base, q->size);
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_WRITE, .segment = k->segment};
  *count = 1;
  return CHI_OK;
}

/* The pages go at once; the mapping stays, so that a task of a lying client that still points there
 * reads zeros instead of faulting. */
static int session_return(struct session_set *s, struct session *c, uint32_t number)
{
  if (number >= c->chunk_count || c->chunk[number].state != SESSION_LEASED)
    return CHI_EINVAL;
  struct session_chunk *k = &c->chunk[number];
  s->crew->env->segment_discard(s->crew->env, &k->segment);
  k->state = SESSION_RETURNED;
  s->used[k->kind] -= k->segment.size;
  c->used[k->kind] -= k->segment.size;
  return CHI_OK;
}

/* ---- queues */

static uint32_t session_choose(struct session_set *s, const struct session *c, uint64_t thread,
                               uint32_t first, uint32_t count, uint32_t *turn)
{
  uint64_t n = 0;
  switch (s->config->lane_policy) {
  case CHI_LANE_BY_PID_TID:
    n = hash_mix64(((uint64_t)c->peer.pid << 32) ^ thread);
    break;
  case CHI_LANE_RANDOM:
    n = s->crew->env->random(s->crew->env);
    break;
  default:
    n = (*turn)++;
  }
  return first + (uint32_t)(n % count);
}

static void session_queue_free(struct session_set *s, struct session *c, struct queue *q)
{
  struct worker_crew *crew = s->crew;
  struct env *env = crew->env;
  struct env_segment *segment[2] = {&q->desk_segment, &q->board_segment};
  for (uint32_t i = 0; i < 2; i++) {
    if (!segment[i]->base)
      continue;
    s->used[SHM_MAIN] -= segment[i]->size;
    c->used[SHM_MAIN] -= segment[i]->size;
    env->segment_close(env, segment[i]);
  }
  if (q->bell != ENV_NO_BELL)
    env->bell_close(env, q->bell);
  alloc_put(crew->alloc, q->tag, q->depth * sizeof *q->tag);
  alloc_put(crew->alloc, q->ended, (size_t)crew->count * CHI_CACHE_LINE);
  alloc_put(crew->alloc, q, sizeof *q);
}

static int session_queue_memory(struct session_set *s, struct session *c, struct queue *q,
                                struct attach_reply *r)
{
  struct worker_crew *crew = s->crew;
  uint64_t size[2] = {sizeof(struct lane_desk), lane_board_size(q->depth)};
  struct env_segment *segment[2] = {&q->desk_segment, &q->board_segment};
  q->tag = alloc_zero(crew->alloc, q->depth * sizeof *q->tag);
  q->ended = alloc_zero(crew->alloc, (size_t)crew->count * CHI_CACHE_LINE);
  if (!q->tag || !q->ended)
    return CHI_ENOMEM;
  for (uint32_t i = 0; i < 2; i++) {
    uint64_t whole = (size[i] + 4095) / 4096 * 4096;
    int rc = session_segment(s, SHM_MAIN, whole, i == 0 ? ENV_SHARED_WRITE : ENV_SHARED_READ,
                             segment[i], r->text, sizeof r->text);
    if (rc != CHI_OK)
      return rc;
    c->used[SHM_MAIN] += whole;
  }
  q->desk = q->desk_segment.base;
  q->board = q->board_segment.base;
  return crew->env->bell_open(crew->env, &q->bell);
}

static void session_queue_homes(struct session_set *s, struct session *c, struct queue *q,
                                uint64_t thread)
{
  struct worker_crew *crew = s->crew;
  uint32_t home[LANE_KINDS];
  home[LANE_FAST] = session_choose(s, c, thread, 0, crew->fast, &s->next_fast);
  home[LANE_SLOW] = session_choose(s, c, thread, crew->fast, crew->slow, &s->next_slow);
  home[LANE_NETWORK] = crew->count - 1;
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    struct queue_lane *l = &q->lane[k];
    l->queue = q;
    l->kind = k;
    lane_in_init(&l->in, q->desk, q->board, (enum lane_kind)k);
  }
  for (uint32_t k = 0; k < LANE_KINDS; k++) /* a worker that serves one may look at all */
    worker_home(session_network(s), &q->lane[k], home[k]);
}

static int session_queue(struct session_set *s, struct session *c, uint64_t thread,
                         struct attach_reply *r, struct env_share *share, uint32_t *count)
{
  struct worker_crew *crew = s->crew;
  if (c->queue_count == SESSION_MOST_QUEUES)
    return CHI_EBUSY;
  struct queue *q = alloc_zero(crew->alloc, sizeof *q);
  if (!q)
    return CHI_ENOMEM;
  q->session = c;
  q->env = crew->env;
  q->table = &c->table;
  q->id = ++s->next_queue;
  q->depth = s->config->queue_depth;
  q->workers = crew->count;
  q->bell = ENV_NO_BELL;
  int rc = session_queue_memory(s, c, q, r);
  if (rc != CHI_OK) {
    session_queue_free(s, c, q);
    return rc;
  }
  lane_done_in_init(&q->done, q->board, q->depth);
  session_queue_homes(s, c, q, thread);
  q->next = c->queues;
  c->queues = q;
  c->queue_count++;
  r->id = q->id;
  r->depth = q->depth;
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_WRITE, .segment = q->desk_segment};
  share[1] = (struct env_share){.kind = ENV_SHARE_SEGMENT_READ, .segment = q->board_segment};
  share[2] = (struct env_share){.kind = ENV_SHARE_BELL, .bell = q->bell};
  *count = 3;
  return CHI_OK;
}

/* From here on nothing is taken from its lanes; it is freed when what was taken has ended. */
static void session_queue_close(struct session_set *s, struct session *c, struct queue *q)
{
  mark_set(&q->gone, 1);
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    latch_lock(&q->lane[k].latch);
    mark_set(&q->lane[k].closed, 1);
    latch_unlock(&q->lane[k].latch);
  }
  q->next = c->closing;
  c->closing = q;
  worker_cancel_changed(session_network(s));
  s->tend_delay = SESSION_TEND_FIRST;
  s->tend_at = 0;
}

static int session_close_queue(struct session_set *s, struct session *c, uint32_t id)
{
  struct queue **at = &c->queues;
  while (*at && (*at)->id != id)
    at = &(*at)->next;
  struct queue *q = *at;
  if (!q)
    return CHI_EINVAL;
  *at = q->next;
  session_queue_close(s, c, q);
  return CHI_OK;
}

/* ---- requests */

static int session_answer(struct session_set *s, struct session *c,
                          const struct attach_request *q, struct attach_reply *r,
                          struct env_share *share, uint32_t *count)
{
  if (!c->greeted && q->op != ATTACH_HELLO)
    return CHI_EINVAL;
  switch (q->op) {
  case ATTACH_HELLO:
    return session_hello(s, c, r, share, count);
  case ATTACH_BELLS:
    return session_bells(s, q->id, share, count);
  case ATTACH_LEASE:
    return session_lease(s, c, q, r, share, count);
  case ATTACH_RETURN:
    return session_return(s, c, q->id);
  case ATTACH_QUEUE:
    return s->draining ? CHI_ESHUTDOWN : session_queue(s, c, q->thread, r, share, count);
  case ATTACH_CLOSE:
    return session_close_queue(s, c, q->id);
  default:
    return CHI_EINVAL;
  }
}

void session_request(struct session_set *s, env_link link, const void *message, size_t size)
{
  struct env *env = s->crew->env;
  struct session *c = session_find(s, link);
  struct attach_request q = {0};
  struct attach_reply r = {0};
  struct env_share share[ATTACH_BELLS_MAX] = {{0}};
  uint32_t count = 0;
  if (!c)
    return;
  memcpy(&q, message, size < sizeof q ? size : sizeof q);
  if (size < sizeof(uint32_t) || q.version != ATTACH_VERSION) {
    r.rc = CHI_EVERSION;
    chi_error err = {0};
    error_set(&err, CHI_EVERSION, "the node speaks version %u of the attach protocol, not %u",
              ATTACH_VERSION, q.version);
    memcpy(r.text, err.text, sizeof r.text);
  } else if (size != sizeof q) {
    r.rc = CHI_EINVAL;
  } else {
    r.rc = session_answer(s, c, &q, &r, share, &count);
  }
  /* A client that doesn't hear what it was given must not go on as if it had been given nothing. */
  if (env->link_reply(env, link, &r, sizeof r, share, r.rc == CHI_OK ? count : 0) != CHI_OK)
    session_hangup(s, link);
}

/* ---- the end of a client */

static void session_end(struct session_set *s, struct session *c)
{
  CHI_ASSERT(!c->gone);
  session_trace(s, c->link, 0);
  s->crew->env->link_close(s->crew->env, c->link);
  c->gone = true;
  while (c->queues) {
    struct queue *q = c->queues;
    c->queues = q->next;
    session_queue_close(s, c, q);
  }
  s->tend_delay = SESSION_TEND_FIRST;
  s->tend_at = 0;
}

void session_hangup(struct session_set *s, env_link link)
{
  struct session *c = session_find(s, link);
  if (c)
    session_end(s, c);
}

void session_end_all(struct session_set *s)
{
  for (struct session *c = s->first; c; c = c->next)
    if (!c->gone)
      session_end(s, c);
}

static void session_free(struct session_set *s, struct session *c)
{
  struct worker_crew *crew = s->crew;
  for (uint32_t i = 0; i < c->chunk_count; i++) {
    if (c->chunk[i].state == SESSION_LEASED)
      s->used[c->chunk[i].kind] -= c->chunk[i].segment.size;
    crew->env->segment_close(crew->env, &c->chunk[i].segment);
  }
  alloc_put(crew->alloc, c->table.chunk, c->table.room * sizeof *c->table.chunk);
  alloc_put(crew->alloc, c->chunk, c->table.room * sizeof *c->chunk);
  alloc_put(crew->alloc, c, sizeof *c);
  s->count--;
}

static bool session_queue_idle(const struct queue *q)
{
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    if (mark_get(&q->lane[k].holders) != 0)
      return false;
  return queue_in_flight(q) == 0;
}

uint64_t session_tend(struct session_set *s, uint64_t now)
{
  if (now < s->tend_at)
    return s->tend_at;
  bool waiting = false;
  struct session **at = &s->first;
  while (*at) {
    struct session *c = *at;
    struct queue **closing = &c->closing;
    while (*closing) {
      struct queue *q = *closing;
      if (session_queue_idle(q)) {
        *closing = q->next;
        c->queue_count--;
        session_queue_free(s, c, q);
      } else {
        closing = &q->next;
      }
    }
    waiting = waiting || c->closing;
    if (c->gone && !c->closing) {
      *at = c->next;
      session_free(s, c);
    } else {
      at = &c->next;
    }
  }
  s->tend_at = waiting ? now + s->tend_delay : UINT64_MAX;
  s->tend_delay = s->tend_delay * 2 < SESSION_TEND_LAST ? s->tend_delay * 2 : SESSION_TEND_LAST;
  return s->tend_at;
}

uint64_t session_in_flight(const struct session *c)
{
  uint64_t sum = 0;
  for (const struct queue *q = c->queues; q; q = q->next)
    sum += queue_in_flight(q);
  for (const struct queue *q = c->closing; q; q = q->next)
    sum += queue_in_flight(q);
  return sum;
}

uint32_t session_move_lanes(struct session_set *s, uint32_t from, uint32_t to)
{
  uint32_t moved = 0;
  for (struct session *c = s->first; c; c = c->next) {
    for (struct queue *q = c->queues; q; q = q->next) {
      for (uint32_t k = 0; k < LANE_KINDS; k++) {
        struct queue_lane *l = &q->lane[k];
        /* One whose last move isn't complete is left for the next look. */
        if (l->home != from || mark_get(&l->moving))
          continue;
        worker_home(session_network(s), l, to);
        moved++;
      }
    }
  }
  return moved;
}

#undef SESSION_TEND_FIRST
#undef SESSION_TEND_LAST

/* ---- sources/directory.c ---- */
/* directory.c - the pools of this node: owned by the network worker, published to the others. */

static struct worker *directory_network(const struct directory *d)
{
  return &d->crew->worker[d->crew->count - 1];
}

static void directory_release(struct directory *d, struct pool_table *t)
{
  CHI_ASSERT(t->users > 0);
  if (--t->users == 0 && t != d->current)
    pool_table_free(d->crew->alloc, t);
}

int directory_open(struct directory *d, struct worker_crew *crew)
{
  *d = (struct directory){.crew = crew, .version = 1};
  d->notice = alloc_zero(crew->alloc, crew->count * sizeof *d->notice);
  d->seen = alloc_zero(crew->alloc, crew->count * sizeof *d->seen);
  d->current = pool_table_build(crew->alloc, NULL, d->version);
  if (!d->notice || !d->seen || !d->current) {
    directory_close(d);
    return CHI_ENOMEM;
  }
  for (uint32_t w = 0; w < crew->count; w++) {
    d->notice[w].worker = w;
    d->seen[w] = d->version;
    crew->worker[w].table = d->current;
    d->current->users++;
  }
  return CHI_OK;
}

void directory_close(struct directory *d)
{
  const struct alloc *alloc = d->crew->alloc;
  for (uint32_t w = 0; d->notice && d->seen && w < d->crew->count; w++) {
    struct pool_notice *n = &d->notice[w];
    if (n->under_way) /* sent, or on its way back: both tables count this worker */
      directory_release(d, n->node.kind == NODE_TABLE ? n->table : n->former);
    if (d->crew->worker[w].table)
      directory_release(d, d->crew->worker[w].table);
    d->crew->worker[w].table = NULL;
  }
  while (d->first) {
    struct pool *p = d->first;
    d->first = p->next;
    pool_close(alloc, p);
  }
  if (d->current)
    pool_table_free(alloc, d->current);
  alloc_put(alloc, d->notice, d->crew->count * sizeof *d->notice);
  alloc_put(alloc, d->seen, d->crew->count * sizeof *d->seen);
  d->current = NULL;
  d->notice = NULL;
  d->seen = NULL;
}

struct pool *directory_find(const struct directory *d, chi_pool_id id)
{
  struct pool *p = d->first;
  while (p && !pool_id_equal(p->id, id))
    p = p->next;
  return p;
}

struct pool *directory_find_name(const struct directory *d, const char *name)
{
  struct pool *p = d->first;
  while (p && strcmp(p->name, name) != 0)
    p = p->next;
  return p;
}

void directory_add(struct directory *d, struct pool *pool)
{
  struct pool **at = &d->first;
  while (*at)
    at = &(*at)->next;
  pool->next = NULL;
  *at = pool;
}

void directory_remove(struct directory *d, struct pool *pool)
{
  struct pool **at = &d->first;
  while (*at != pool) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = pool->next;
}

static void directory_send(struct directory *d, uint32_t w)
{
  struct pool_notice *n = &d->notice[w];
  n->under_way = true;
  n->table = d->current;
  n->former = NULL;
  n->node.kind = NODE_TABLE;
  d->current->users++;
  worker_send(directory_network(d), &d->crew->worker[w], &n->node);
}

int directory_publish(struct directory *d)
{
  struct pool_table *t = pool_table_build(d->crew->alloc, d->first, d->version + 1);
  if (!t)
    return CHI_ENOMEM;
  d->version++;
  struct pool_table *old = d->current;
  d->current = t;
  if (old->users == 0)
    pool_table_free(d->crew->alloc, old);
  struct worker *network = directory_network(d);
  directory_release(d, network->table);
  network->table = t;
  network->last = NULL;
  t->users++;
  d->seen[network->index] = d->version;
  for (uint32_t w = 0; w < network->index; w++)
    if (!d->notice[w].under_way)
      directory_send(d, w);
  return CHI_OK;
}

bool directory_settled(const struct directory *d)
{
  for (uint32_t w = 0; w < d->crew->count; w++)
    if (d->seen[w] != d->version)
      return false;
  return true;
}

void directory_on_notice(struct directory *d, struct pool_notice *n)
{
  n->under_way = false;
  d->seen[n->worker] = n->table->version;
  directory_release(d, n->former);
  if (n->table != d->current)
    directory_send(d, n->worker);
}

/* ---- sources/worker.c ---- */
/* worker.c - the step: tasks, ready fibers, blocked tasks, timers, sleep and take-over. */

static void worker_loop(void *arg);
static void worker_finish(struct worker *w, chi_ctx *ctx, int rc);

static void worker_trace(const struct worker *w, int what, const chi_ctx *ctx, uint64_t c)
{
  if (w->crew->env->trace)
    w->crew->env->trace(w->crew->env, what, w->index, ctx->id, c);
}

/* ---- fibers */

static struct worker_fiber *worker_fiber_open(struct worker *w)
{
  struct worker_crew *crew = w->crew;
  struct worker_fiber *f = alloc_zero(crew->alloc, sizeof *f);
  if (!f)
    return NULL;
  if (crew->env->stack_open(crew->env, crew->stack_size, &f->stack) != CHI_OK) {
    alloc_put(crew->alloc, f, sizeof *f);
    return NULL;
  }
  f->worker = w;
  fiber_init(&f->fiber, f->stack.base, f->stack.size, worker_loop, f);
  mark_set(&w->fibers, w->fibers + 1);
  return f;
}

static void worker_fiber_close(struct worker *w, struct worker_fiber *f)
{
  fiber_fini(&f->fiber);
  w->crew->env->stack_close(w->crew->env, &f->stack);
  alloc_put(w->crew->alloc, f, sizeof *f);
  mark_set(&w->fibers, w->fibers - 1);
}

static void worker_spare(struct worker *w, struct worker_fiber *f)
{
  f->next = w->spare;
  w->spare = f;
  w->spares++;
}

static struct worker_fiber *worker_unspare(struct worker *w)
{
  struct worker_fiber *f = w->spare;
  CHI_ASSERT(f && w->spares > 0);
  w->spare = f->next;
  w->spares--;
  return f;
}

bool worker_may_begin(struct worker *w, uint32_t depth)
{
  if (w->spares > 0)
    return true;
  if (depth >= WORKER_DEPTH || w->fibers > WORKER_FIBERS + depth * WORKER_RESERVE)
    return false;
  struct worker_fiber *f = worker_fiber_open(w);
  if (!f)
    return false;
  worker_spare(w, f);
  return true;
}

/* ---- messages */

void worker_ring(struct worker *from, struct worker *to)
{
  if (from != to && bell_wanted(to->word, &from->rung[to->index]))
    to->crew->env->bell_ring(to->crew->env, to->bell);
}

void worker_send(struct worker *from, struct worker *to, struct ring_node *n)
{
  inbox_push(&to->inbox, n);
  worker_ring(from, to);
}

void worker_cancel_changed(struct worker *from)
{
  struct worker_crew *crew = from->crew;
  count_add(&crew->cancel_epoch, 1);
  for (uint32_t i = 0; i < crew->count; i++)
    worker_ring(from, &crew->worker[i]);
}

struct worker *worker_of_slow(struct worker_crew *crew)
{
  uint32_t turn = count_add(&crew->turn, 1);
  for (uint32_t i = 0; i < crew->slow; i++) {
    struct worker *w = &crew->worker[crew->fast + (turn + i) % crew->slow];
    if (!mark_get(&w->inside) && !mark_get(&w->full))
      return w;
  }
  return &crew->worker[crew->fast + turn % crew->slow];
}

void worker_submit(struct worker *w, chi_ctx *ctx)
{
  struct worker_crew *crew = w->crew;
  struct worker *to = w;
  if (pool_id_equal(ctx->container->pool->id, CHI_ADMIN_POOL))
    to = &crew->worker[crew->count - 1];
  else if (w->kind == WORKER_NETWORK || (ctx->slow && w->kind != WORKER_SLOW))
    to = ctx->slow || crew->fast == 0 ? worker_of_slow(crew)
                                      : &crew->worker[count_add(&crew->turn, 1) % crew->fast];
  ctx->state = TASK_QUEUED;
  ctx->node.kind = NODE_TASK;
  ring_push(ctx->depth > 0 ? &to->urgent : &to->queue, &ctx->node);
  worker_ring(w, to);
}

/* ---- the container's gate */

/* Somebody has been let in: a blocked task goes on where its fiber is, a new one begins here, or
 * on a slow worker if it belongs there. */
static void worker_granted(struct worker *w, struct ring_node *n)
{
  chi_ctx *ctx = task_of(n);
  if (ctx->state == TASK_BLOCKED) {
    ctx->node.kind = NODE_ENTERED;
    if (ctx->worker == w)
      task_list_push(&w->ready, ctx);
    else
      worker_send(w, ctx->worker, &ctx->node);
    return;
  }
  struct worker *to = ctx->slow && w->kind == WORKER_FAST ? worker_of_slow(w->crew) : w;
  ctx->node.kind = NODE_GRANTED;
  ring_push(&to->urgent, &ctx->node);
  worker_ring(w, to);
}

static void worker_leave(struct worker *w, struct container *c)
{
  struct ring_node *n = c->parallel ? NULL : gate_leave(&c->gate);
  if (n)
    worker_granted(w, n);
}

/* ---- cancellation */

int worker_cancelled(const chi_ctx *ctx)
{
  const struct worker *w = ctx->worker;
  if (ctx->shielded)
    return CHI_OK;
  if (ctx->queue && queue_cancelled(ctx->queue, ctx->slot, ctx->tag))
    return CHI_ECANCELLED;
  if (mark_get(&ctx->cancel) || (w && mark_get(&w->crew->cancel_all)))
    return CHI_ECANCELLED;
  return w && w->now >= ctx->deadline ? CHI_ETIMEOUT : CHI_OK;
}

static bool worker_interruptible(const chi_ctx *ctx)
{
  return ctx->wait == TASK_WAIT_TIME || ctx->wait == TASK_WAIT_SUBTASK ||
         ctx->wait == TASK_WAIT_SYNC;
}

/* ---- blocking and waking */

static void worker_blocked_add(struct worker *w, chi_ctx *ctx)
{
  ctx->blocked_prev = NULL;
  ctx->blocked_next = w->blocked;
  if (w->blocked)
    w->blocked->blocked_prev = ctx;
  w->blocked = ctx;
  tally_add(&w->blocked_count, 1);
}

static void worker_blocked_drop(struct worker *w, chi_ctx *ctx)
{
  if (ctx->blocked_prev)
    ctx->blocked_prev->blocked_next = ctx->blocked_next;
  else
    w->blocked = ctx->blocked_next;
  if (ctx->blocked_next)
    ctx->blocked_next->blocked_prev = ctx->blocked_prev;
  tally_add(&w->blocked_count, (uint64_t)-1);
}

/* The heap has room for every task that can be blocked; a resting one makes its own before. */
static void worker_timer_set(struct worker *w, chi_ctx *ctx, uint64_t time)
{
  if (time == UINT64_MAX)
    return;
  ctx->timer.time = time;
  ctx->timer.seq = w->timer_seq++;
  int rc = heap_push(&w->timer, &ctx->timer);
  CHI_ASSERT(rc == CHI_OK);
}

static void worker_timer_clear(struct worker *w, chi_ctx *ctx)
{
  if (heap_contains(&w->timer, &ctx->timer))
    heap_remove(&w->timer, &ctx->timer);
}

int worker_block(chi_ctx *ctx, enum task_wait wait, uint64_t until)
{
  struct worker *w = ctx->worker;
  CHI_ASSERT(w->running == ctx && ctx->state == TASK_RUNNING);
  ctx->wait = (uint8_t)wait;
  ctx->state = TASK_BLOCKED;
  ctx->wait_rc = CHI_OK;
  if (worker_interruptible(ctx))
    worker_timer_set(w, ctx, until < ctx->deadline || ctx->shielded ? until : ctx->deadline);
  else if (wait == TASK_WAIT_PAUSE)
    worker_timer_set(w, ctx, until);
  worker_blocked_add(w, ctx);
  worker_trace(w, ENV_TRACE_BLOCK, ctx, (uint64_t)wait);
  struct worker_fiber *mine = w->fiber, *next = worker_unspare(w);
  ctx->fiber = mine;
  w->running = NULL;
  w->switches++;
  mark_set(&w->inside, 0);
  worker_leave(w, ctx->container);
  w->fiber = next;
  fiber_switch(&mine->fiber, &next->fiber);
  CHI_ASSERT(w->fiber == mine && ctx->worker == w);
  w->running = ctx;
  ctx->state = TASK_RUNNING;
  mark_set(&w->inside, 1);
  worker_trace(w, ENV_TRACE_RESUME, ctx, (uint64_t)(int64_t)ctx->wait_rc);
  return ctx->wait_rc;
}

/* The task's own worker: it is awake; what remains is to enter its container again. */
static void worker_ready(struct worker *w, chi_ctx *ctx)
{
  CHI_ASSERT(ctx->worker == w && ctx->state == TASK_BLOCKED);
  worker_timer_clear(w, ctx);
  ctx->wait = TASK_WAIT_GATE;
  if (ctx->container->parallel || gate_enter(&ctx->container->gate, &ctx->node))
    task_list_push(&w->ready, ctx);
}

void worker_wake(struct worker *from, chi_ctx *ctx, int rc)
{
  ctx->wait_rc = rc;
  if (ctx->worker == from) {
    worker_ready(from, ctx);
    return;
  }
  ctx->node.kind = NODE_RESUME;
  worker_send(from, ctx->worker, &ctx->node);
}

void worker_wake_all(struct worker *from, chi_ctx *woken)
{
  while (woken) {
    chi_ctx *next = woken->sync_next; /* it may be running elsewhere once it is woken */
    worker_wake(from, woken, CHI_OK);
    woken = next;
  }
}

/* Timer or cancellation of a task blocked here: wakes it unless somebody else already does. */
static void worker_interrupt(struct worker *w, chi_ctx *ctx, int rc)
{
  chi_ctx *woken = NULL;
  if (ctx->wait == TASK_WAIT_SYNC && !sync_abandon(ctx, w->crew->alloc, &woken))
    return;
  ctx->wait_rc = rc;
  worker_ready(w, ctx);
  worker_wake_all(w, woken);
}

static void worker_resume(struct worker *w, chi_ctx *ctx)
{
  struct worker_fiber *mine = w->fiber;
  worker_blocked_drop(w, ctx);
  ctx->wait = TASK_WAIT_NONE;
  worker_spare(w, mine);
  w->fiber = ctx->fiber;
  w->switches++;
  fiber_switch(&mine->fiber, &ctx->fiber->fiber);
}

/* ---- running a body */

static void worker_learn(struct worker *w, chi_ctx *ctx, uint64_t ns)
{
  struct method *m = (struct method *)(uintptr_t)ctx->method;
  const chi_task *t = ctx->task;
  uint64_t us = t->compute_us ? t->compute_us : m->def->compute_us;
  uint64_t estimate = (t->io_size < (1ull << 40) ? t->io_size / 4 : 1ull << 38) + us * 1000 + 5000;
  uint64_t measured = ns < (1ull << 40) ? ns * 1024 / estimate : 1ull << 30;
  uint64_t weight = tally_get(&m->weight);
  weight = weight - weight / 8 + measured / 8;
  tally_set(&m->weight, weight < 8 ? 8 : weight > (1ull << 24) ? 1ull << 24 : weight);
  tally_add(&w->busy_ns, ns * 16);
}

/* What is left of a task's subtasks is waited for: their memory is its own. */
static void worker_join(chi_ctx *ctx)
{
  ctx->awaited = NULL;
  if (ctx->running > 0 && worker_cancelled(ctx) == CHI_OK) /* else nobody wakes it for that again */
    worker_block(ctx, TASK_WAIT_SUBTASK, UINT64_MAX);
  if (ctx->running == 0)
    return;
  for (chi_ctx *sub = ctx->child; sub; sub = sub->sibling)
    mark_set(&sub->cancel, CHI_ECANCELLED);
  worker_cancel_changed(ctx->worker);
  worker_block(ctx, TASK_WAIT_JOIN, UINT64_MAX);
  CHI_ASSERT(ctx->running == 0);
}

static void worker_free_children(struct worker *w, chi_ctx *ctx)
{
  while (ctx->child) {
    chi_ctx *sub = ctx->child;
    ctx->child = sub->sibling;
    worker_record_free(w, sub);
  }
}

static int worker_schedule(chi_ctx *ctx)
{
  const chi_module *def = ctx->container->pool->module->def;
  if (ctx->task->query.mode != CHI_QUERY_DYNAMIC || !def->schedule)
    return CHI_OK;
  chi_query query = {.mode = CHI_QUERY_LOCAL};
  int rc = def->schedule(ctx, ctx->container->state, ctx->task, &query);
  struct route route;
  if (rc == CHI_OK)
    rc = route_resolve(&query, ctx->worker->crew->nodes, ctx->worker->crew->node, &route);
  return rc;
}

/* Inside the gate, on the loop's stack. When the body blocks, this call stays behind with it. */
static void worker_run(struct worker *w, chi_ctx *ctx)
{
  struct env *env = w->crew->env;
  ctx->worker = w;
  ctx->state = TASK_RUNNING;
  int rc = worker_cancelled(ctx);
  uint64_t begun = 0, ns = 0;
  if (rc == CHI_OK) {
    w->running = ctx;
    mark_set(&w->inside, 1);
    worker_trace(w, ENV_TRACE_BEGIN, ctx, ctx->task->method);
    uint32_t switches = w->switches;
    if ((w->sample++ & 15) == 0)
      begun = env->clock(env);
    rc = worker_schedule(ctx);
    if (rc == CHI_OK)
      rc = ctx->method->def->run(ctx, ctx->container->state, ctx->task);
    if (begun) {
      uint64_t ended = env->clock(env);
      ns = ended - begun + 1;
      w->now = ended > w->now ? ended : w->now;
      if (switches == w->switches) /* else it says how long the task took, not what it cost */
        worker_learn(w, ctx, ns);
    }
    worker_join(ctx);
    w->running = NULL;
    mark_set(&w->inside, 0);
  }
  pool_count(w->crew->alloc, ctx->container, w->index, ctx->method, rc, ns);
  worker_leave(w, ctx->container);
  worker_finish(w, ctx, rc);
}

/* Everything but the gate has been seen to: the worker has a fiber to go on with. */
void worker_begin(struct worker *w, chi_ctx *ctx)
{
  CHI_ASSERT(w->spares > 0);
  ctx->state = TASK_QUEUED;
  ctx->node.kind = NODE_TASK;
  if (ctx->container->parallel || gate_enter(&ctx->container->gate, &ctx->node))
    worker_run(w, ctx);
}

/* ---- the end of a task */

/* A periodic task rests until its next run; false: it has ended. */
static bool worker_rest(struct worker *w, chi_ctx *ctx, int *rc)
{
  if (!(ctx->task->flags & CHI_TASK_PERIODIC) || *rc != CHI_OK)
    return false;
  *rc = worker_cancelled(ctx);
  if (*rc == CHI_OK && (mark_get(&w->crew->draining) || mark_get(&ctx->container->pool->doomed)))
    *rc = CHI_ECANCELLED;
  if (*rc == CHI_OK)
    *rc = heap_reserve(&w->timer, (w->timer.count / 1024 + 1) * 1024 + WORKER_FIBERS * 2 + 1);
  if (*rc != CHI_OK)
    return false;
  worker_free_children(w, ctx);
  ctx->state = TASK_RESTING;
  ctx->worker = w;
  tally_add(&w->resting, 1);
  uint64_t next = w->now + ctx->task->period_us * 1000ull;
  worker_blocked_add(w, ctx);
  worker_timer_set(w, ctx, next < ctx->deadline ? next : ctx->deadline);
  return true;
}

static void worker_subtask_done(struct worker *w, chi_ctx *sub)
{
  chi_ctx *parent = sub->parent;
  CHI_ASSERT(parent->worker == w && parent->running > 0);
  sub->ended = true;
  parent->running--;
  bool waits = parent->state == TASK_BLOCKED &&
               (parent->wait == TASK_WAIT_SUBTASK || parent->wait == TASK_WAIT_JOIN);
  if (waits && (parent->awaited == sub || (!parent->awaited && parent->running == 0)))
    worker_wake(w, parent, CHI_OK);
}

static void worker_finish_subtask(struct worker *w, chi_ctx *ctx)
{
  if (!ctx->parent)
    worker_record_free(w, ctx);
  else if (ctx->parent->worker == w)
    worker_subtask_done(w, ctx);
  else {
    ctx->node.kind = NODE_SUBTASK;
    worker_send(w, ctx->parent->worker, &ctx->node);
  }
}

static void worker_finish_call(struct worker *w, chi_ctx *ctx)
{
  ctx->node.kind = NODE_CALL;
  if (w->kind == WORKER_NETWORK)
    ctx->call_done(ctx);
  else
    worker_send(w, &w->crew->worker[w->crew->count - 1], &ctx->node);
}

static void worker_finish(struct worker *w, chi_ctx *ctx, int rc)
{
  if (worker_rest(w, ctx, &rc))
    return;
  worker_free_children(w, ctx);
  ctx->task->rc = rc;
  worker_trace(w, ENV_TRACE_COMPLETE, ctx, (uint64_t)(int64_t)rc);
  if (ctx->origin == TASK_FROM_CLIENT)
    task_copy_out(&ctx->method->plan, ctx->task, ctx->shared);
  tally_add(&w->ended, 1);
  uint64_t *active = &ctx->container->tally[w->index].active;
  mark_set(active, *active - 1); /* whoever sees the last one end sees all it did */
  if (ctx->origin == TASK_FROM_PARENT) {
    worker_finish_subtask(w, ctx);
  } else if (ctx->origin == TASK_FROM_NODE) {
    worker_finish_call(w, ctx);
  } else {
    struct queue *q = ctx->queue;
    uint32_t slot = ctx->slot;
    worker_record_free(w, ctx);
    queue_complete(q, w->index, slot, rc);
  }
}

/* ---- one piece of work */

static void worker_adopt(struct worker *w, struct queue_lane *l)
{
  for (uint32_t i = 0; i < w->lane_count; i++) {
    if (w->lane[i] == l) {
      mark_set(&l->moving, 0);
      count_add(&l->holders, (uint32_t)-1);
      return;
    }
  }
  if (w->lane_count == w->lane_room) {
    uint32_t room = w->lane_room ? w->lane_room * 2 : 16;
    struct queue_lane **bigger = alloc_get(w->crew->alloc, room * sizeof(void *));
    if (!bigger) {
      l->node.next = w->adopt;
      w->adopt = &l->node;
      return;
    }
    if (w->lane_count)
      memcpy(bigger, w->lane, w->lane_count * sizeof(void *));
    alloc_put(w->crew->alloc, w->lane, w->lane_room * sizeof(void *));
    w->lane = bigger;
    w->lane_room = room;
  }
  w->lane[w->lane_count] = l;
  mark_set(&w->lane_count, w->lane_count + 1);
  mark_set(&l->moving, 0);
}

static void worker_adopt_waiting(struct worker *w)
{
  struct ring_node *n = w->adopt;
  w->adopt = NULL;
  while (n) {
    struct ring_node *next = n->next;
    worker_adopt(w, CHI_CONTAINER_OF(n, struct queue_lane, node));
    n = next;
  }
}

static void worker_switch_table(struct worker *w, struct pool_notice *notice)
{
  notice->former = w->table;
  w->table = notice->table;
  w->last = NULL;
  notice->node.kind = NODE_TABLE_SEEN;
  if (w->kind == WORKER_NETWORK)
    w->crew->on_notice(w->crew->arg, notice);
  else
    worker_send(w, &w->crew->worker[w->crew->count - 1], &notice->node);
}

static void worker_receive(struct worker *w, struct ring_node *n)
{
  switch (n->kind) {
  case NODE_RESUME:
    worker_ready(w, task_of(n));
    break;
  case NODE_ENTERED:
    task_list_push(&w->ready, task_of(n));
    break;
  case NODE_SUBTASK:
    worker_subtask_done(w, task_of(n));
    break;
  case NODE_IO_DONE:
    worker_wake(w, CHI_CONTAINER_OF(n, struct worker_io, node)->ctx, CHI_OK);
    break;
  case NODE_TABLE:
    worker_switch_table(w, CHI_CONTAINER_OF(n, struct pool_notice, node));
    break;
  case NODE_TABLE_SEEN:
    w->crew->on_notice(w->crew->arg, CHI_CONTAINER_OF(n, struct pool_notice, node));
    break;
  default:
    CHI_ASSERT(n->kind == NODE_CALL);
    task_of(n)->call_done(task_of(n));
  }
}

static void worker_mail(struct worker *w)
{
  struct ring_node *n = inbox_take(&w->inbox);
  while (n) {
    struct ring_node *next = n->next;
    worker_receive(w, n);
    n = next;
  }
}

static void worker_end_rest(struct worker *w, chi_ctx *ctx, int rc)
{
  worker_blocked_drop(w, ctx);
  worker_timer_clear(w, ctx);
  tally_add(&w->resting, (uint64_t)-1);
  ctx->state = TASK_QUEUED;
  if (rc != CHI_OK)
    worker_finish(w, ctx, rc);
  else if (worker_may_begin(w, ctx->depth))
    worker_begin(w, ctx);
  else {
    ctx->node.kind = NODE_TASK;
    ring_push(&w->queue, &ctx->node);
  }
}

/* Somebody asked for a cancellation: those that wait here are looked through. */
static void worker_look_for_cancelled(struct worker *w)
{
  w->cancel_seen = mark_get(&w->crew->cancel_epoch);
  chi_ctx *next = NULL;
  for (chi_ctx *ctx = w->blocked; ctx; ctx = next) {
    next = ctx->blocked_next;
    int rc = worker_cancelled(ctx);
    bool rests = ctx->state == TASK_RESTING;
    if (rests && rc == CHI_OK && (mark_get(&w->crew->draining) ||
                                  mark_get(&ctx->container->pool->doomed)))
      rc = CHI_ECANCELLED;
    if (rc == CHI_OK)
      continue;
    if (rests)
      worker_end_rest(w, ctx, rc);
    else if (worker_interruptible(ctx))
      worker_interrupt(w, ctx, rc);
  }
}

static void worker_timer_due(struct worker *w)
{
  struct heap_entry *e = heap_pop(&w->timer);
  chi_ctx *ctx = CHI_CONTAINER_OF(e, chi_ctx, timer);
  int rc = worker_cancelled(ctx);
  if (ctx->state == TASK_RESTING)
    worker_end_rest(w, ctx, rc);
  else if (ctx->wait == TASK_WAIT_PAUSE)
    worker_interrupt(w, ctx, CHI_OK);
  else
    worker_interrupt(w, ctx, rc == CHI_OK && ctx->wait != TASK_WAIT_TIME ? CHI_ETIMEOUT : rc);
}

static void worker_take_node(struct worker *w, struct ring_node *n)
{
  chi_ctx *ctx = task_of(n);
  switch (n->kind) {
  case NODE_RAW:
    worker_accept_raw(w, CHI_CONTAINER_OF(n, struct task_raw, node));
    break;
  case NODE_LANE:
    worker_adopt(w, CHI_CONTAINER_OF(n, struct queue_lane, node));
    break;
  case NODE_IO:
    worker_io_start(w, CHI_CONTAINER_OF(n, struct worker_io, node));
    break;
  case NODE_GRANTED:
    if (worker_may_begin(w, ctx->depth)) {
      worker_run(w, ctx);
      break;
    }
    worker_leave(w, ctx->container);
    if (ctx->depth > 0) {
      worker_finish(w, ctx, CHI_EBUSY);
      break;
    }
    ctx->node.kind = NODE_TASK; /* waits for a fiber, outside */
    ring_push(&w->queue, &ctx->node);
    break;
  default:
    CHI_ASSERT(n->kind == NODE_TASK);
    if (worker_may_begin(w, ctx->depth))
      worker_begin(w, ctx);
    else
      worker_finish(w, ctx, CHI_EBUSY);
  }
}

static void worker_drop_lane(struct worker *w, uint32_t at)
{
  struct queue_lane *l = w->lane[at];
  mark_set(&w->lane_count, w->lane_count - 1);
  w->lane[at] = w->lane[w->lane_count];
  count_add(&l->holders, (uint32_t)-1); /* it may be freed from here on */
}

static bool worker_take_from_lanes(struct worker *w)
{
  for (uint32_t n = w->lane_count; n > 0; n--) {
    if (w->lane_at >= w->lane_count)
      w->lane_at = 0;
    struct queue_lane *l = w->lane[w->lane_at];
    if (mark_get(&l->home) != w->index || mark_get(&l->closed)) {
      worker_drop_lane(w, w->lane_at);
      continue;
    }
    if (lane_ready(&l->in) && worker_accept(w, l)) {
      if (++w->lane_run >= 8) {
        w->lane_run = 0;
        w->lane_at++;
      }
      return true;
    }
    w->lane_run = 0;
    w->lane_at++;
  }
  return false;
}

static bool worker_take_from_queue(struct worker *w)
{
  struct ring_node *n = ring_pop(&w->queue);
  if (n)
    worker_take_node(w, n);
  return n != NULL;
}

static bool worker_go_on(struct worker *w)
{
  struct heap_entry *due = heap_top(&w->timer);
  if (due && due->time <= w->now) {
    worker_timer_due(w);
    return true;
  }
  chi_ctx *ctx = task_list_pop(&w->ready);
  if (ctx)
    worker_resume(w, ctx);
  return ctx != NULL;
}

static bool worker_take_urgent(struct worker *w)
{
  if (w->io_flight > 0 && worker_io_reap(w))
    return true;
  struct ring_node *n = ring_pop(&w->urgent);
  if (n)
    worker_take_node(w, n);
  return n != NULL;
}

/* Neither lanes nor what other workers send may starve the other. */
static bool worker_take_new(struct worker *w)
{
  uint32_t full = !worker_may_begin(w, 0);
  if (CHI_UNLIKELY(full != w->full))
    mark_set(&w->full, full);
  if (full) /* taken in, though not begun: cancellations are among them */
    return worker_take_from_lanes(w);
  if (w->beat & 8)
    return worker_take_from_queue(w) || worker_take_from_lanes(w);
  return worker_take_from_lanes(w) || worker_take_from_queue(w);
}

static bool worker_turn(struct worker *w)
{
  tally_add(&w->beat, 1);
  if (!inbox_empty(&w->inbox)) {
    worker_mail(w);
    return true;
  }
  if (mark_get(&w->crew->cancel_epoch) != w->cancel_seen) {
    worker_look_for_cancelled(w);
    return true;
  }
  /* What comes back again and again comes first, but not always. */
  switch (w->beat & 7) {
  case 0:
    return worker_take_new(w) || worker_take_urgent(w) || worker_go_on(w);
  case 1:
    return worker_take_urgent(w) || worker_go_on(w) || worker_take_new(w);
  default:
    return worker_go_on(w) || worker_take_urgent(w) || worker_take_new(w);
  }
}

/* Runs on whichever fiber is free; always exactly one is inside, or on its way out. */
static void worker_loop(void *arg)
{
  struct worker_fiber *f = arg;
  struct worker *w = f->worker;
  for (;;) {
    w->more = true;
    while (w->budget > 0 && w->more) {
      w->budget--;
      w->more = worker_turn(w);
    }
    CHI_ASSERT(w->fiber == f);
    fiber_switch(&f->fiber, &w->host);
  }
}

bool worker_step(struct worker *w, uint64_t now, uint32_t budget, uint64_t *deadline)
{
  CHI_ASSERT(budget > 0);
  if (now > w->now)
    w->now = now;
  w->budget = budget;
  if (CHI_UNLIKELY(w->adopt != NULL))
    worker_adopt_waiting(w);
  fiber_init_host(&w->host);
  fiber_switch(&w->host, &w->fiber->fiber);
  if (CHI_UNLIKELY(w->spares > WORKER_SPARES) && !w->more) {
    worker_fiber_close(w, worker_unspare(w)); /* one at a time, while there is nothing else to do */
    w->more = true;
  }
  struct heap_entry *next = heap_top(&w->timer);
  *deadline = next ? next->time : UINT64_MAX;
  return w->more;
}

/* ---- sleep */

bool worker_has_work(const struct worker *w)
{
  if (!inbox_empty(&w->inbox) || !ring_empty(&w->urgent) || w->ready.head || w->adopt ||
      mark_get(&w->crew->cancel_epoch) != w->cancel_seen)
    return true;
  bool full = w->spares == 0 && w->fibers > WORKER_FIBERS;
  if (!full && !ring_empty(&w->queue))
    return true;
  for (uint32_t i = 0; i < w->lane_count; i++)
    if (lane_ready(&w->lane[i]->in) || mark_get(&w->lane[i]->closed) ||
        mark_get(&w->lane[i]->home) != w->index)
      return true;
  return false;
}

bool worker_may_sleep(struct worker *w)
{
  bell_announce(w->word);
  if (worker_has_work(w))
    return false;
  mark_set(&w->awake, 0);
  return true;
}

void worker_awake(struct worker *w)
{
  struct worker_crew *crew = w->crew;
  if (mark_get(&w->word->word) & 1)
    bell_withdraw(w->word);
  mark_set_fenced(&w->awake, 1);
  if (w->kind == WORKER_NETWORK || mark_get(&crew->watching))
    return;
  mark_set(&crew->watching, 1);
  worker_ring(w, &crew->worker[crew->count - 1]);
}

/* ---- take-over */

static void worker_set_home(struct queue_lane *l, uint32_t home)
{
  latch_lock(&l->latch);
  mark_set(&l->home, home);
  latch_unlock(&l->latch);
  mark_set(&l->queue->board->home[l->kind], home);
}

void worker_home(struct worker *network, struct queue_lane *l, uint32_t home)
{
  CHI_ASSERT(network->kind == WORKER_NETWORK);
  worker_set_home(l, home);
  count_add(&l->holders, 1);
  mark_set(&l->moving, 1);
  l->node.kind = NODE_LANE;
  /* Not by inbox: what a stuck worker hasn't adopted must be there for the taking. */
  ring_push(&network->crew->worker[home].urgent, &l->node);
  worker_ring(network, &network->crew->worker[home]);
}

bool worker_look(struct worker *network)
{
  bool awake = false;
  for (uint32_t i = 0; i < network->index; i++) {
    struct worker *w = &network->crew->worker[i];
    uint64_t beat = tally_get(&w->beat);
    w->stuck = mark_get(&w->full) || (mark_get(&w->inside) && beat == w->beat_seen);
    w->beat_seen = beat;
    awake = awake || mark_get(&w->awake);
  }
  return awake;
}

/* One of its own kind, if there is one. */
static uint32_t worker_heir(const struct worker_crew *crew, uint32_t index)
{
  uint32_t others = crew->fast + crew->slow, heir = index;
  for (uint32_t i = 1; i < others; i++) {
    const struct worker *other = &crew->worker[(index + i) % others];
    if (other->stuck)
      continue;
    if (other->kind == crew->worker[index].kind)
      return other->index;
    heir = heir == index ? other->index : heir;
  }
  return heir;
}

uint32_t worker_relieve(struct worker *network, uint32_t index)
{
  struct worker_crew *crew = network->crew;
  struct worker *w = &crew->worker[index];
  uint32_t heir = w->stuck ? worker_heir(crew, index) : index;
  if (heir == index)
    return index;
  struct worker *to = &crew->worker[heir];
  uint32_t moved = ring_splice(&to->queue, &w->queue);
  for (struct ring_node *n = ring_pop(&w->urgent); n; n = ring_pop(&w->urgent), moved++) {
    if (n->kind == NODE_LANE) /* a lane follows its node: whoever adopts it must be its home */
      worker_set_home(CHI_CONTAINER_OF(n, struct queue_lane, node), heir);
    ring_push(&to->urgent, n);
  }
  if (moved > 0)
    worker_ring(network, to);
  return heir;
}

const chi_ctx *worker_fault(const struct worker *w, const void *address)
{
  return w->running && w->fiber && fiber_holds(&w->fiber->fiber, address) ? w->running : NULL;
}

/* ---- life */

int worker_open(struct worker *w, struct worker_crew *crew, uint32_t index, enum worker_kind kind,
                struct bell_word *word)
{
  *w = (struct worker){.crew = crew, .index = index, .kind = (uint32_t)kind, .word = word};
  w->bell = ENV_NO_BELL;
  w->io_end = &w->io_first;
  heap_init(&w->timer, crew->alloc);
  w->rung = alloc_zero(crew->alloc, crew->count * sizeof *w->rung);
  int rc = w->rung ? heap_reserve(&w->timer, WORKER_FIBERS * 2 + 1) : CHI_ENOMEM;
  if (rc == CHI_OK)
    rc = crew->env->bell_open(crew->env, &w->bell);
  if (rc == CHI_OK) {
    w->fiber = worker_fiber_open(w);
    rc = w->fiber ? CHI_OK : CHI_ENOMEM;
  }
  if (rc != CHI_OK)
    worker_close(w);
  return rc;
}

void worker_close(struct worker *w)
{
  const struct alloc *alloc = w->crew->alloc;
  CHI_ASSERT(!w->blocked && w->io_flight == 0);
  while (w->spare)
    worker_fiber_close(w, worker_unspare(w));
  if (w->fiber)
    worker_fiber_close(w, w->fiber);
  w->fiber = NULL;
  for (uint32_t class = 0; class < WORKER_RECORDS; class++) {
    while (w->record[class].first) {
      chi_ctx *ctx = w->record[class].first;
      w->record[class].first = ctx->sibling;
      alloc_put(alloc, ctx, ctx->size);
    }
  }
  alloc_put(alloc, w->lane, w->lane_room * sizeof(void *));
  alloc_put(alloc, w->rung, w->crew->count * sizeof *w->rung);
  heap_fini(&w->timer);
  if (w->bell != ENV_NO_BELL)
    w->crew->env->bell_close(w->crew->env, w->bell);
  w->bell = ENV_NO_BELL;
  w->lane = NULL;
  w->rung = NULL;
}

/* ---- sources/worker_accept.c ---- */
/* worker_accept.c - from a lane entry to a task: the one place where a client's memory is read. */

static uint32_t worker_record_class(uint32_t size)
{
  uint32_t class = 0;
  while (class < WORKER_RECORDS && (512u << class) < size)
    class++;
  return class;
}

chi_ctx *worker_record(struct worker *w, uint32_t task_size)
{
  uint32_t size = (uint32_t)TASK_RECORD + task_size;
  uint32_t class = worker_record_class(size);
  chi_ctx *ctx = NULL;
  if (class < WORKER_RECORDS) {
    size = 512u << class;
    ctx = w->record[class].first;
    if (ctx) {
      w->record[class].first = ctx->sibling;
      w->record[class].count--;
    }
  }
  if (!ctx)
    ctx = alloc_get(w->crew->alloc, size);
  if (!ctx)
    return NULL;
  *ctx = (chi_ctx){.size = size, .deadline = UINT64_MAX, .timer.index = 0};
  ctx->task = (chi_task *)(void *)((char *)ctx + TASK_RECORD);
  return ctx;
}

/* Most records are used again at once; a hoard, as after a burst, goes back. */
void worker_record_free(struct worker *w, chi_ctx *ctx)
{
  uint32_t class = worker_record_class(ctx->size);
  if (class < WORKER_RECORDS && w->record[class].count < 64) {
    ctx->sibling = w->record[class].first;
    w->record[class].first = ctx;
    w->record[class].count++;
  } else {
    alloc_put(w->crew->alloc, ctx, ctx->size);
  }
}

static void worker_refuse(struct worker *w, const struct task_raw *raw, int rc)
{
  struct worker_crew *crew = w->crew;
  struct queue *q = raw->queue;
  tally_add(&w->refused, 1);
  if (rc == CHI_ECORRUPT && latch_try(&crew->refusals_latch)) {
    log_limited(&crew->log, &crew->refusals, w->now, CHI_LOG_WARNING,
                "refused a task of queue %u: its offset, length or slot does not fit", q->id);
    latch_unlock(&crew->refusals_latch);
  }
  if (crew->env->trace)
    crew->env->trace(crew->env, ENV_TRACE_COMPLETE, w->index, ((uint64_t)q->id << 32) | raw->tag,
                     (uint64_t)(int64_t)rc);
  queue_complete(q, w->index, raw->slot, rc);
}

/* The network worker knows every pool, and keeps what waits for one in creation. */
static void worker_forward(struct worker *w, const struct task_raw *entry)
{
  struct worker_crew *crew = w->crew;
  struct task_raw *raw = alloc_get(crew->alloc, sizeof *raw);
  if (!raw) {
    worker_refuse(w, entry, CHI_ENOMEM);
    return;
  }
  *raw = *entry;
  raw->node.kind = NODE_RAW;
  if (w->kind == WORKER_NETWORK) {
    crew->on_raw(crew->arg, raw);
    return;
  }
  struct worker *network = &crew->worker[crew->count - 1];
  ring_push(&network->queue, &raw->node);
  worker_ring(w, network);
}

/* Declared cost, corrected by measurement: a lower bound of nothing, good to tell 5 us from 50. */
static bool worker_is_slow(const struct method *m, const chi_task *header)
{
  uint64_t us = header->compute_us ? header->compute_us : m->def->compute_us;
  uint64_t size = header->io_size < (1ull << 40) ? header->io_size : 1ull << 40;
  uint64_t ns = size / 4 + us * 1000 + 5000;
  return ns * (tally_get(&m->weight) >> 3) >> 7 >= WORKER_SLOW_NS;
}

static const struct pool_entry *worker_pool(struct worker *w, chi_pool_id id)
{
  if (!w->last || !pool_id_equal(w->last->id, id))
    w->last = pool_table_find(w->table, id);
  return w->last;
}

static int worker_check_header(const struct worker *w, const chi_task *header)
{
  if ((header->flags & CHI_TASK_PERIODIC) && header->period_us == 0)
    return CHI_EINVAL;
  if (header->compute_us > 60u * 1000000u)
    return CHI_EINVAL;
  if (header->query.mode == CHI_QUERY_DYNAMIC)
    return CHI_OK;
  struct route route;
  return route_resolve(&header->query, w->crew->nodes, w->crew->node, &route);
}

/* Makes the record of a task whose pool is ready. */
static int worker_prepare(struct worker *w, const struct task_raw *raw, const chi_task *header,
                          struct pool *pool, chi_ctx **out)
{
  struct queue *q = raw->queue;
  struct method *m = module_method(pool->module, header->method);
  if (!m)
    return CHI_ENOMETHOD;
  uint32_t size = m->plan.type->size;
  chi_task *shared = shm_resolve(q->table, raw->ref, size);
  if (!shared)
    return CHI_ECORRUPT;
  int rc = worker_check_header(w, header);
  if (rc != CHI_OK)
    return rc;
  chi_ctx *ctx = worker_record(w, size);
  if (!ctx)
    return CHI_ENOMEM;
  if (!m->plan.plain)
    memset(ctx->task, 0, size);
  rc = task_copy_in(&m->plan, q->table, header, shared, ctx->task);
  if (rc != CHI_OK) {
    worker_record_free(w, ctx);
    return rc;
  }
  ctx->container = &pool->container;
  ctx->method = m;
  ctx->origin = TASK_FROM_CLIENT;
  ctx->queue = q;
  ctx->shared = shared;
  ctx->slot = raw->slot;
  ctx->tag = raw->tag;
  ctx->id = ctx->root = ((uint64_t)q->id << 32) | raw->tag;
  ctx->accepted = w->now;
  if (header->deadline_ms)
    ctx->deadline = w->now + header->deadline_ms * 1000000ull;
  ctx->slow = worker_is_slow(m, header);
  *out = ctx;
  return CHI_OK;
}

static void worker_accept_task(struct worker *w, const struct task_raw *raw)
{
  struct queue *q = raw->queue;
  const chi_task *shared = shm_resolve(q->table, raw->ref, sizeof *shared);
  if (!shared || raw->slot >= q->depth) {
    worker_refuse(w, raw, CHI_ECORRUPT);
    return;
  }
  chi_task header;
  memcpy(&header, shared, sizeof header);
  header.rc = CHI_OK;
  bool admin = pool_id_equal(header.pool, CHI_ADMIN_POOL);
  if (mark_get(&w->crew->draining) && !admin) {
    worker_refuse(w, raw, CHI_ESHUTDOWN);
    return;
  }
  const struct pool_entry *entry = worker_pool(w, header.pool);
  if (!entry || entry->state != POOL_READY || (admin && w->kind != WORKER_NETWORK)) {
    worker_forward(w, raw);
    return;
  }
  chi_ctx *ctx = NULL;
  int rc = worker_prepare(w, raw, &header, entry->pool, &ctx);
  if (rc != CHI_OK) {
    worker_refuse(w, raw, rc);
    return;
  }
  tally_add(&w->accepted, 1);
  tally_add(&ctx->container->tally[w->index].active, 1);
  if (w->crew->env->trace)
    w->crew->env->trace(w->crew->env, ENV_TRACE_DISPATCH, w->index, ctx->id,
                        ((uint64_t)header.pool.major << 16) | header.method);
  bool here = w->kind == WORKER_SLOW || (!ctx->slow && w->kind == WORKER_FAST) || admin;
  if (here && worker_may_begin(w, 0))
    worker_begin(w, ctx);
  else
    worker_submit(w, ctx);
}

/* The task has been taken from the same lane before, and perhaps ended since. */
static void worker_accept_cancel(struct worker *w, struct queue *q, uint64_t slot, uint32_t tag)
{
  if (queue_cancel(q, slot, tag))
    worker_cancel_changed(w);
  queue_forget(q, w->index);
}

bool worker_accept(struct worker *w, struct queue_lane *l)
{
  struct lane_entry e;
  enum lane_op op = LANE_RUN;
  struct queue *q = l->queue;
  if (!latch_try(&l->latch))
    return false;
  bool taken = mark_get(&l->home) == w->index && !mark_get(&l->closed);
  /* A client that keeps to the rules never has more in flight; one that doesn't is held back here,
   * within what accumulates between two looks. */
  if (taken && (l->in.head & 63) == 63 && queue_in_flight(q) > q->depth + 64)
    taken = false;
  taken = taken && lane_take(&l->in, &e, &op);
  if (taken && op == LANE_RUN && e.slot < q->depth)
    queue_hold(q, e.slot, e.turn);
  latch_unlock(&l->latch);
  if (!taken)
    return false;
  if (op == LANE_CANCEL) {
    worker_accept_cancel(w, q, e.ref, e.slot);
  } else {
    struct task_raw raw = {.queue = q, .ref = e.ref, .slot = e.slot, .tag = e.turn};
    worker_accept_task(w, &raw);
  }
  return true;
}

void worker_accept_raw(struct worker *w, struct task_raw *raw)
{
  struct task_raw copy = *raw;
  alloc_put(w->crew->alloc, raw, sizeof *raw);
  worker_accept_task(w, &copy);
}

void worker_refuse_raw(struct worker *w, struct task_raw *raw, int rc)
{
  struct task_raw copy = *raw;
  alloc_put(w->crew->alloc, raw, sizeof *raw);
  worker_refuse(w, &copy, rc);
}

/* ---- sources/worker_io.c ---- */
/* worker_io.c - file operations of tasks: here, or on a slow worker if they would block. */

static void worker_io_done(struct worker *w, struct worker_io *wio)
{
  wio->node.kind = NODE_IO_DONE;
  if (wio->ctx->worker == w)
    worker_wake(w, wio->ctx, CHI_OK);
  else
    worker_send(w, wio->ctx->worker, &wio->node);
}

void worker_io_start(struct worker *w, struct worker_io *wio)
{
  struct env *env = w->crew->env;
  int rc = w->io_first ? CHI_EBUSY : env->io_submit(env, w->index, &wio->io);
  if (rc == CHI_EBUSY) {
    wio->next = NULL;
    *w->io_end = wio;
    w->io_end = &wio->next;
  } else if (rc == 0) {
    w->io_flight++;
  } else {
    worker_io_done(w, wio);
  }
}

bool worker_io_reap(struct worker *w)
{
  struct env *env = w->crew->env;
  struct env_io *io = env->io_reap(env, w->index);
  if (!io)
    return false;
  while (io) {
    struct env_io *next = io->next;
    CHI_ASSERT(w->io_flight > 0);
    w->io_flight--;
    worker_io_done(w, CHI_CONTAINER_OF(io, struct worker_io, io));
    io = next;
  }
  struct worker_io *waiting = w->io_first;
  w->io_first = NULL;
  w->io_end = &w->io_first;
  while (waiting) {
    struct worker_io *next = waiting->next;
    worker_io_start(w, waiting);
    waiting = next;
  }
  return true;
}

int64_t worker_io_run(chi_ctx *ctx, struct env_io *io)
{
  struct worker *w = ctx->worker;
  struct env *env = w->crew->env;
  struct worker_io wio = {.node.kind = NODE_IO, .io = *io, .ctx = ctx};
  if (w->kind != WORKER_SLOW && env->io_blocks(env, w->index, &wio.io)) {
    struct worker *slow = worker_of_slow(w->crew);
    ring_push(&slow->urgent, &wio.node);
    worker_ring(w, slow);
    worker_block(ctx, TASK_WAIT_IO, UINT64_MAX);
    return wio.io.result;
  }
  int rc = w->io_first ? CHI_EBUSY : env->io_submit(env, w->index, &wio.io);
  if (rc == 1)
    return wio.io.result;
  if (rc == 0) {
    w->io_flight++;
  } else if (rc == CHI_EBUSY && w->io_flight > 0) {
    *w->io_end = &wio;
    w->io_end = &wio.next;
  } else {
    return rc;
  }
  worker_block(ctx, TASK_WAIT_IO, UINT64_MAX);
  return wio.io.result;
}

/* ---- sources/route.c ---- */
/* route.c - query -> where: which container, on which node, a task is for. */

static int route_range(const chi_query *q, uint32_t containers, uint32_t *target)
{
  if (q->b == 0 || q->a >= containers || q->b > containers - q->a)
    return CHI_ERANGE;
  *target = q->a;
  return q->b == 1 ? CHI_OK : CHI_EUNREACHABLE;
}

int route_resolve(const chi_query *q, uint32_t containers, uint32_t self, struct route *out)
{
  CHI_ASSERT(containers > 0 && self < containers);
  uint32_t target = self;
  int rc = CHI_OK;
  switch (q->mode) {
  case CHI_QUERY_LOCAL:
  case CHI_QUERY_DYNAMIC:
    break;
  case CHI_QUERY_ID:
  case CHI_QUERY_PHYSICAL:
    target = q->a;
    rc = q->a < containers ? CHI_OK : CHI_ERANGE;
    break;
  case CHI_QUERY_HASH:
    target = q->a % containers;
    break;
  case CHI_QUERY_RANGE:
    rc = route_range(q, containers, &target);
    break;
  case CHI_QUERY_BROADCAST:
    target = 0;
    rc = containers == 1 ? CHI_OK : CHI_EUNREACHABLE;
    break;
  default:
    rc = CHI_EINVAL;
  }
  if (rc != CHI_OK)
    return rc;
  *out = (struct route){.node = target, .container = target};
  return target == self ? CHI_OK : CHI_EUNREACHABLE;
}

/* ---- sources/pool.c ---- */
/* pool.c - pools, their containers and figures, and snapshots of the pool table. */

int pool_open(const struct alloc *alloc, uint32_t workers, chi_pool_id id, const char *name,
              struct module *module, struct pool **out)
{
  const chi_module *def = module->def;
  struct pool *p = alloc_zero(alloc, sizeof *p);
  if (!p)
    return CHI_ENOMEM;
  p->id = id;
  p->module = module;
  p->state = POOL_CREATING;
  p->workers = workers;
  p->parked_end = &p->parked;
  memcpy(p->name, name, strnlen(name, sizeof p->name - 1));
  struct container *c = &p->container;
  c->pool = p;
  c->parallel = (def->flags & CHI_MODULE_PARALLEL) != 0;
  c->tally = alloc_zero(alloc, workers * sizeof *c->tally);
  c->state = alloc_zero(alloc, def->state_size ? def->state_size : 1);
  p->params = def->params ? alloc_zero(alloc, def->params->size) : NULL;
  if (!c->tally || !c->state || (def->params && !p->params)) {
    pool_close(alloc, p);
    return CHI_ENOMEM;
  }
  *out = p;
  return CHI_OK;
}

void pool_close(const struct alloc *alloc, struct pool *p)
{
  const chi_module *def = p->module->def;
  struct container *c = &p->container;
  CHI_ASSERT(p->parked == NULL);
  for (uint32_t w = 0; c->tally && w < p->workers; w++)
    alloc_put(alloc, c->tally[w].figures, p->module->count * sizeof(struct pool_figures));
  alloc_put(alloc, c->tally, p->workers * sizeof *c->tally);
  alloc_put(alloc, c->state, def->state_size ? def->state_size : 1);
  if (p->params)
    alloc_put(alloc, p->params, def->params->size);
  alloc_put(alloc, p, sizeof *p);
}

uint64_t pool_active(const struct pool *p)
{
  uint64_t sum = 0;
  for (uint32_t w = 0; w < p->workers; w++)
    sum += mark_get(&p->container.tally[w].active);
  return sum;
}

void pool_park(struct pool *p, struct ring_node *raw)
{
  raw->next = NULL;
  *p->parked_end = raw;
  p->parked_end = &raw->next;
}

static uint64_t pool_hash(chi_pool_id id)
{
  return hash_mix64(((uint64_t)id.major << 32) | id.minor);
}

struct pool_table *pool_table_build(const struct alloc *alloc, struct pool *first, uint64_t version)
{
  uint32_t count = 0, room = 8;
  for (struct pool *p = first; p; p = p->next)
    count++;
  while (room < count * 2)
    room *= 2;
  struct pool_table *t = alloc_zero(alloc, sizeof *t + room * sizeof t->slot[0]);
  if (!t)
    return NULL;
  t->version = version;
  t->mask = room - 1;
  for (struct pool *p = first; p; p = p->next) {
    uint32_t at = (uint32_t)pool_hash(p->id) & t->mask;
    while (t->slot[at].pool)
      at = (at + 1) & t->mask;
    t->slot[at] = (struct pool_entry){.id = p->id, .state = p->state, .pool = p};
  }
  return t;
}

void pool_table_free(const struct alloc *alloc, struct pool_table *t)
{
  CHI_ASSERT(t->users == 0);
  alloc_put(alloc, t, sizeof *t + (t->mask + 1) * sizeof t->slot[0]);
}

const struct pool_entry *pool_table_find(const struct pool_table *t, chi_pool_id id)
{
  uint32_t at = (uint32_t)pool_hash(id) & t->mask;
  while (t->slot[at].pool) {
    if (pool_id_equal(t->slot[at].id, id))
      return &t->slot[at];
    at = (at + 1) & t->mask;
  }
  return NULL;
}

/* Two buckets to each power of two. */
static uint32_t pool_bucket(uint64_t ns)
{
  if (ns < 64)
    return 0;
  uint32_t log = 63 - (uint32_t)__builtin_clzll(ns);
  uint32_t bucket = (log - 6) * 2 + (uint32_t)(ns >> (log - 1) & 1);
  return bucket < POOL_BUCKETS ? bucket : POOL_BUCKETS - 1;
}

uint64_t pool_bucket_end(uint32_t bucket)
{
  uint64_t power = 64ull << (bucket / 2);
  return bucket % 2 ? power * 2 : power + power / 2;
}

void pool_count(const struct alloc *alloc, struct container *c, uint32_t worker,
                const struct method *method, int rc, uint64_t ns)
{
  struct pool_tally *t = &c->tally[worker];
  if (method->index == METHOD_UNCOUNTED)
    return;
  if (!t->figures) {
    size_t size = c->pool->module->count * sizeof(struct pool_figures);
    struct pool_figures *fresh = alloc_zero(alloc, size);
    if (!fresh)
      return; /* figures are not worth failing a task for */
    mark_set(&t->figures, fresh);
  }
  struct pool_figures *f = &t->figures[method->index];
  tally_add(&f->count, 1);
  if (rc != CHI_OK)
    tally_add(&f->errors, 1);
  if (ns == 0)
    return;
  tally_add(&f->sampled, 1);
  tally_add(&f->sampled_ns, ns);
  tally_add(&f->bucket[pool_bucket(ns)], 1);
}

void pool_figures_sum(const struct pool *p, uint32_t method, struct pool_figures *out)
{
  *out = (struct pool_figures){0};
  for (uint32_t w = 0; w < p->workers; w++) {
    struct pool_figures *f = mark_get(&p->container.tally[w].figures);
    if (!f)
      continue;
    f += method;
    out->count += tally_get(&f->count);
    out->errors += tally_get(&f->errors);
    out->sampled += tally_get(&f->sampled);
    out->sampled_ns += tally_get(&f->sampled_ns);
    for (uint32_t b = 0; b < POOL_BUCKETS; b++)
      out->bucket[b] += tally_get(&f->bucket[b]);
  }
}

uint64_t pool_percentile(const struct pool_figures *f, uint32_t percent)
{
  uint64_t total = 0, below = 0;
  for (uint32_t b = 0; b < POOL_BUCKETS; b++)
    total += f->bucket[b];
  if (total == 0)
    return 0;
  for (uint32_t b = 0; b < POOL_BUCKETS; b++) {
    below += f->bucket[b];
    if (below * 100 >= total * percent)
      return pool_bucket_end(b);
  }
  return pool_bucket_end(POOL_BUCKETS - 1);
}

/* ---- sources/module.c ---- */
/* module.c - the registry of modules: method tables, checked and indexed once. */

static const char *module_short_name(const char *name)
{
  static const char prefix[] = "chimaera_";
  size_t length = sizeof prefix - 1;
  return strncmp(name, prefix, length) == 0 ? name + length : name;
}

bool module_is_named(const chi_module *def, const char *name)
{
  return strcmp(module_short_name(def->name), module_short_name(name)) == 0;
}

struct module *module_find(const struct module_list *l, const char *name)
{
  for (struct module *m = l->first; m; m = m->next)
    if (module_is_named(m->def, name))
      return m;
  return NULL;
}

static int module_check(const struct module_list *l, const chi_module *def, uint32_t *count,
                        chi_error *err)
{
  if (def->version != CHI_MODULE_VERSION)
    return error_set(err, CHI_EVERSION, "module %s: version %u, this library takes %u",
                     def->name ? def->name : "?", def->version, CHI_MODULE_VERSION);
  if (!def->name || def->name[0] == '\0' || strlen(def->name) >= CHI_NAME_MAX || !def->methods)
    return error_set(err, CHI_EINVAL, "a module without a name or without methods");
  if (module_find(l, def->name))
    return error_set(err, CHI_EEXIST, "module %s is there already", def->name);
  *count = 0;
  for (const chi_method *m = def->methods; m->type; m++) {
    if (m->type->id < MODULE_OWN_METHODS || m->type->id >= MODULE_METHOD_IDS || !m->run)
      return error_set(err, CHI_EINVAL, "module %s, method %s: id %u, expected %u to %u",
                       def->name, m->type->name, m->type->id, MODULE_OWN_METHODS,
                       MODULE_METHOD_IDS - 1);
    for (const chi_method *n = def->methods; n != m; n++)
      if (n->type->id == m->type->id)
        return error_set(err, CHI_EINVAL, "module %s: methods %s and %s have the same id %u",
                         def->name, n->type->name, m->type->name, m->type->id);
    ++*count;
  }
  return CHI_OK;
}

int module_add(struct module_list *l, const chi_module *def, chi_error *err)
{
  uint32_t count = 0;
  int rc = module_check(l, def, &count, err);
  struct task_plan params;
  if (rc == CHI_OK && def->params)
    rc = task_plan_init(&params, def->params, err);
  if (rc != CHI_OK)
    return rc;
  struct module *m = alloc_zero(l->alloc, sizeof *m + count * sizeof m->method[0]);
  if (!m)
    return error_set(err, CHI_ENOMEM, "no memory for module %s", def->name);
  m->def = def;
  m->count = count;
  for (uint32_t i = 0; i < count && rc == CHI_OK; i++) {
    struct method *method = &m->method[i];
    *method = (struct method){.def = &def->methods[i], .index = i, .weight = 1024};
    rc = task_plan_init(&method->plan, def->methods[i].type, err);
    m->by_id[def->methods[i].type->id] = (uint16_t)(i + 1);
  }
  if (rc != CHI_OK) {
    alloc_put(l->alloc, m, sizeof *m + count * sizeof m->method[0]);
    return rc;
  }
  m->next = l->first;
  l->first = m;
  return CHI_OK;
}

void module_free_all(struct module_list *l)
{
  while (l->first) {
    struct module *m = l->first;
    l->first = m->next;
    alloc_put(l->alloc, m, sizeof *m + m->count * sizeof m->method[0]);
  }
}

/* ---- sources/sync.c ---- */
/* sync.c - the state of co-operative locks: who holds, who waits, who is next. */

enum sync_mode { SYNC_MUTEX, SYNC_READ, SYNC_WRITE, SYNC_EVENT };

struct sync_head {
  struct latch latch;
  chi_ctx *first, *last;
};

struct sync_mutex {
  struct sync_head head;
  uint64_t owner; /* root, while count > 0 */
  uint32_t count;
};

/* A group that reads. */
struct sync_hold {
  struct sync_hold *next;
  uint64_t root;
  uint32_t count;
};

struct sync_rwlock {
  struct sync_head head;
  uint64_t writer; /* root, while writes > 0 */
  uint32_t writes;
  struct sync_hold *readers;
};

struct sync_event {
  struct sync_head head;
  uint32_t set;
};

_Static_assert(sizeof(struct sync_mutex) <= sizeof(chi_mutex), "chi_mutex is too small");
_Static_assert(sizeof(struct sync_rwlock) <= sizeof(chi_rwlock), "chi_rwlock is too small");
_Static_assert(sizeof(struct sync_event) <= sizeof(chi_event), "chi_event is too small");

static void sync_queue(struct sync_head *h, chi_ctx *ctx, enum sync_mode mode)
{
  mark_set(&ctx->sync, (void *)h);
  ctx->sync_mode = (uint32_t)mode;
  ctx->sync_next = NULL;
  ctx->sync_prev = h->last;
  if (h->last)
    h->last->sync_next = ctx;
  else
    h->first = ctx;
  h->last = ctx;
}

static void sync_unqueue(struct sync_head *h, chi_ctx *ctx)
{
  CHI_ASSERT(ctx->sync == h);
  if (ctx->sync_prev)
    ctx->sync_prev->sync_next = ctx->sync_next;
  else
    h->first = ctx->sync_next;
  if (ctx->sync_next)
    ctx->sync_next->sync_prev = ctx->sync_prev;
  else
    h->last = ctx->sync_prev;
  mark_set(&ctx->sync, NULL);
  ctx->sync_next = ctx->sync_prev = NULL;
}

/* Moves the first waiter to the end of the woken. */
static void sync_let_in(struct sync_head *h, chi_ctx ***end)
{
  chi_ctx *ctx = h->first;
  sync_unqueue(h, ctx);
  **end = ctx;
  *end = &ctx->sync_next;
}

int sync_mutex_lock(chi_mutex *mutex, chi_ctx *ctx, bool wait)
{
  struct sync_mutex *m = (struct sync_mutex *)(void *)mutex;
  latch_lock(&m->head.latch);
  int rc = CHI_OK;
  if (m->count == 0 || m->owner == ctx->root) {
    m->owner = ctx->root;
    m->count++;
  } else {
    rc = CHI_EBUSY;
    if (wait)
      sync_queue(&m->head, ctx, SYNC_MUTEX);
  }
  latch_unlock(&m->head.latch);
  return rc;
}

int sync_mutex_unlock(chi_mutex *mutex, chi_ctx *ctx, chi_ctx **woken)
{
  struct sync_mutex *m = (struct sync_mutex *)(void *)mutex;
  *woken = NULL;
  latch_lock(&m->head.latch);
  int rc = m->count > 0 && m->owner == ctx->root ? CHI_OK : CHI_EINVAL;
  if (rc == CHI_OK && --m->count == 0 && m->head.first) {
    m->owner = m->head.first->root;
    /* Others of the same group pass through with it. */
    chi_ctx **end = woken;
    do {
      m->count++;
      sync_let_in(&m->head, &end);
    } while (m->head.first && m->head.first->root == m->owner);
  }
  latch_unlock(&m->head.latch);
  return rc;
}

static struct sync_hold *sync_find_hold(struct sync_rwlock *l, uint64_t root)
{
  struct sync_hold *h = l->readers;
  while (h && h->root != root)
    h = h->next;
  return h;
}

static bool sync_may_write(struct sync_rwlock *l, uint64_t root)
{
  if (l->writes > 0)
    return l->writer == root;
  return !l->readers || (l->readers->root == root && !l->readers->next);
}

/* Uses up or gives back the memory that the reader brought. */
static void sync_hold(struct sync_rwlock *l, uint64_t root, struct sync_hold *fresh,
                      const struct alloc *alloc)
{
  struct sync_hold *h = sync_find_hold(l, root);
  if (h) {
    h->count++;
    alloc_put(alloc, fresh, sizeof *fresh);
    return;
  }
  *fresh = (struct sync_hold){.next = l->readers, .root = root, .count = 1};
  l->readers = fresh;
}

static void sync_rwlock_grant(struct sync_rwlock *l, const struct alloc *alloc, chi_ctx ***end)
{
  while (l->head.first) {
    chi_ctx *ctx = l->head.first;
    if (ctx->sync_mode == SYNC_WRITE) {
      if (!sync_may_write(l, ctx->root))
        return;
      l->writer = ctx->root;
      l->writes++;
    } else {
      if (l->writes > 0 && l->writer != ctx->root)
        return;
      sync_hold(l, ctx->root, ctx->sync_hold, alloc);
      ctx->sync_hold = NULL;
    }
    sync_let_in(&l->head, end);
  }
}

static int sync_rwlock_write(struct sync_rwlock *l, chi_ctx *ctx)
{
  bool again = l->writes > 0 && l->writer == ctx->root;
  if (again || ((!l->head.first || sync_find_hold(l, ctx->root)) && sync_may_write(l, ctx->root))) {
    l->writer = ctx->root;
    l->writes++;
    return CHI_OK;
  }
  sync_queue(&l->head, ctx, SYNC_WRITE);
  return CHI_EBUSY;
}

int sync_rwlock_lock(chi_rwlock *rwlock, chi_ctx *ctx, bool write, const struct alloc *alloc)
{
  struct sync_rwlock *l = (struct sync_rwlock *)(void *)rwlock;
  struct sync_hold *fresh = write ? NULL : alloc_get(alloc, sizeof *fresh);
  if (!write && !fresh)
    return CHI_ENOMEM;
  latch_lock(&l->head.latch);
  int rc = CHI_OK;
  bool own = sync_find_hold(l, ctx->root) || (l->writes > 0 && l->writer == ctx->root);
  if (write) {
    rc = sync_rwlock_write(l, ctx);
  } else if (own || (l->writes == 0 && !l->head.first)) {
    sync_hold(l, ctx->root, fresh, alloc);
  } else {
    ctx->sync_hold = fresh;
    sync_queue(&l->head, ctx, SYNC_READ);
    rc = CHI_EBUSY;
  }
  latch_unlock(&l->head.latch);
  return rc;
}

int sync_rwlock_unlock(chi_rwlock *rwlock, chi_ctx *ctx, const struct alloc *alloc,
                       chi_ctx **woken)
{
  struct sync_rwlock *l = (struct sync_rwlock *)(void *)rwlock;
  *woken = NULL;
  latch_lock(&l->head.latch);
  int rc = CHI_OK;
  struct sync_hold *h = sync_find_hold(l, ctx->root);
  bool writes = l->writes > 0 && l->writer == ctx->root;
  if (!h && writes) { /* of a group that does both, what excludes others goes last */
    l->writes--;
  } else if (!h) {
    rc = CHI_EINVAL;
  } else if (--h->count == 0) {
    struct sync_hold **at = &l->readers;
    while (*at != h)
      at = &(*at)->next;
    *at = h->next;
    alloc_put(alloc, h, sizeof *h);
  }
  chi_ctx **end = woken;
  if (rc == CHI_OK)
    sync_rwlock_grant(l, alloc, &end);
  latch_unlock(&l->head.latch);
  return rc;
}

int sync_event_wait(chi_event *event, chi_ctx *ctx)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  latch_lock(&e->head.latch);
  int rc = e->set ? CHI_OK : CHI_EBUSY;
  if (!e->set)
    sync_queue(&e->head, ctx, SYNC_EVENT);
  latch_unlock(&e->head.latch);
  return rc;
}

void sync_event_set(chi_event *event, chi_ctx **woken)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  chi_ctx **end = woken;
  *woken = NULL;
  latch_lock(&e->head.latch);
  e->set = 1;
  while (e->head.first)
    sync_let_in(&e->head, &end);
  latch_unlock(&e->head.latch);
}

void sync_event_reset(chi_event *event)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  latch_lock(&e->head.latch);
  e->set = 0;
  latch_unlock(&e->head.latch);
}

bool sync_abandon(chi_ctx *ctx, const struct alloc *alloc, chi_ctx **woken)
{
  /* Set before the task blocked and cleared under the latch by whoever lets it in: if that is
   * happening now, the address is still good, for the lock outlives those who wait for it. */
  struct sync_head *h = mark_get(&ctx->sync);
  *woken = NULL;
  if (!h)
    return false;
  latch_lock(&h->latch);
  bool waiting = ctx->sync == h;
  if (waiting) {
    sync_unqueue(h, ctx);
    alloc_put(alloc, ctx->sync_hold, sizeof(struct sync_hold));
    ctx->sync_hold = NULL;
    chi_ctx **end = woken;
    if (ctx->sync_mode == SYNC_READ || ctx->sync_mode == SYNC_WRITE)
      sync_rwlock_grant((struct sync_rwlock *)(void *)h, alloc, &end);
  }
  latch_unlock(&h->latch);
  return waiting;
}

/* ---- sources/fiber.c ---- */
/* fiber.c - the context switch, and what sanitizers, valgrind and debuggers need to follow it. */

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#elif __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define FIBER_VALGRIND 1
#endif
#endif

/* ---- the tools that watch ---------------------------------------------------------------- */

static void fiber_tools_init(struct fiber *f)
{
#ifdef FIBER_ASAN
  __asan_unpoison_memory_region(f->stack, f->size);
#endif
#ifdef FIBER_TSAN
  f->tsan = __tsan_create_fiber(0);
#endif
#ifdef FIBER_VALGRIND
  f->valgrind = VALGRIND_STACK_REGISTER(f->stack, (const char *)f->stack + f->size);
#endif
  (void)f;
}

/* Last thing before the switch, still on the stack of *from. This and fiber_swap are inlined: from
 * here on ThreadSanitizer books calls and returns on the other fiber. */
__attribute__((always_inline)) static inline void fiber_tools_leave(struct fiber *from,
                                                                    struct fiber *to)
{
#ifdef FIBER_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->size);
#endif
#ifdef FIBER_TSAN
  __tsan_switch_to_fiber(to->tsan, 0);
#endif
  (void)from, (void)to;
}

/* First thing after the switch, on the stack of *self. The bounds that come out are those of the
 * stack just left: nothing new about a fiber, but the only way to learn those of a host. */
static inline void fiber_tools_arrive(struct fiber *self)
{
#ifdef FIBER_ASAN
  __sanitizer_finish_switch_fiber(self->fake_stack, &self->previous->stack, &self->previous->size);
#endif
  (void)self;
}

#ifdef FIBER_ASAN
/* Only the running fiber's fake stack can be released: so *f is made to run for an instant, as far
 * as the sanitizer knows. Nothing in between may be instrumented. */
__attribute__((no_sanitize_address)) static void fiber_asan_fini(struct fiber *f)
{
  void *fake_stack;
  const void *stack;
  size_t size;
  if (f->fake_stack) {
    __sanitizer_start_switch_fiber(&fake_stack, f->stack, f->size);
    __sanitizer_finish_switch_fiber(f->fake_stack, &stack, &size);
    __sanitizer_start_switch_fiber(NULL, stack, size);
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
  }
  __asan_unpoison_memory_region(f->stack, f->size);
}
#endif

static void fiber_tools_fini(struct fiber *f)
{
#ifdef FIBER_ASAN
  fiber_asan_fini(f);
#endif
#ifdef FIBER_TSAN
  __tsan_destroy_fiber(f->tsan);
#endif
#ifdef FIBER_VALGRIND
  VALGRIND_STACK_DEREGISTER(f->valgrind);
  (void)VALGRIND_MAKE_MEM_UNDEFINED(f->stack, f->size); /* else what lay below sp is forbidden */
#endif
  (void)f;
}

/* ---- the switch -------------------------------------------------------------------------- */

/* Where every fiber begins. */
static void fiber_main(struct fiber *f)
{
  fiber_tools_arrive(f);
  f->entry(f->arg);
  CHI_ASSERT(!"the entry of a fiber never returns");
}

#ifdef CHI_FIBER_UCONTEXT

/* makecontext passes only ints: the address comes in two halves. */
static void fiber_begin(unsigned high, unsigned low)
{
  fiber_main((struct fiber *)(uintptr_t)((uint64_t)high << 32 | low));
}

static void *fiber_prepare(struct fiber *f)
{
  uint64_t self = (uintptr_t)f;
  int rc = getcontext(&f->context);
  CHI_ASSERT(rc == 0);
  f->context.uc_stack.ss_sp = (void *)(uintptr_t)f->stack;
  f->context.uc_stack.ss_size = f->size;
  f->context.uc_link = NULL;
  makecontext(&f->context, (void (*)(void))fiber_begin, 2, (unsigned)(self >> 32), (unsigned)self);
  return f;
}

__attribute__((always_inline)) static inline void fiber_swap(struct fiber *from, struct fiber *to)
{
  int rc;
  from->sp = from;
  to->sp = NULL;
  rc = swapcontext(&from->context, &to->context);
  CHI_ASSERT(rc == 0);
}

static void fiber_check_thread(void)
{
}

#else

/* Naked, so that no compiler flag adds a prologue; no instrumentation, so that none adds a call;
 * and not looked into, because its body doesn't show what it does to registers. */
#ifdef __clang__
#define FIBER_NAKED                                                                                \
  __attribute__((naked, noinline, no_stack_protector, no_instrument_function,                      \
                 no_profile_instrument_function,                                                   \
                 no_sanitize("address", "thread", "undefined", "coverage")))
#else
#define FIBER_NAKED                                                                                \
  __attribute__((naked, noipa, no_stack_protector, no_instrument_function,                         \
                 no_profile_instrument_function, no_sanitize("address", "thread", "undefined")))
#endif
/* One instruction, and what it means to whoever unwinds the stack. */
#ifdef __GCC_HAVE_DWARF2_CFI_ASM
#define FIBER_ASM(text, cfi) __asm__(text "\n" cfi)
#else
#define FIBER_ASM(text, cfi) __asm__(text)
#endif
#define FIBER_PUSH(reg)                                                                            \
  FIBER_ASM("push %" reg, ".cfi_adjust_cfa_offset 8\n.cfi_rel_offset " reg ", 0")
#define FIBER_POP(reg) FIBER_ASM("pop %" reg, ".cfi_adjust_cfa_offset -8\n.cfi_restore " reg)
#if defined(__CET__) && (__CET__ & 1)
#define FIBER_JUMP "notrack jmp *%rcx" /* to behind a call, where there is no endbr64 */
#else
#define FIBER_JUMP "jmp *%rcx"
#endif

/* What a suspended fiber's sp points at. */
struct fiber_frame {
  uint32_t mxcsr;
  uint16_t x87, unused;
  void *r15, *r14, *r13;
  void (*r12)(struct fiber *f);
  struct fiber *rbx;
  void *rbp;
  void (*rip)(void);
};

/* Saves a frame on this stack and its address in *save, then continues at the frame `load` points
 * at. The jump instead of a return is on purpose: the processor would predict a return to whoever
 * called here last, wrongly, at 6 ns each. Both stacks look alike at the exchange, so the unwind
 * information before it fits after it. */
FIBER_NAKED static void fiber_exchange(void **save __attribute__((unused)),
                                       void *load __attribute__((unused)))
{
  FIBER_PUSH("rbp");
  FIBER_PUSH("rbx");
  FIBER_PUSH("r12");
  FIBER_PUSH("r13");
  FIBER_PUSH("r14");
  FIBER_PUSH("r15");
  FIBER_ASM("sub $8, %rsp", ".cfi_adjust_cfa_offset 8");
  __asm__("stmxcsr (%rsp)");
  __asm__("fnstcw 4(%rsp)");
  __asm__("mov %rsp, (%rdi)");
  __asm__("mov %rsi, %rsp");
  __asm__("ldmxcsr (%rsp)");
  __asm__("fldcw 4(%rsp)");
  FIBER_ASM("add $8, %rsp", ".cfi_adjust_cfa_offset -8");
  FIBER_POP("r15");
  FIBER_POP("r14");
  FIBER_POP("r13");
  FIBER_POP("r12");
  FIBER_POP("rbx");
  FIBER_POP("rbp");
  FIBER_ASM("pop %rcx", ".cfi_adjust_cfa_offset -8\n.cfi_register rip, rcx");
  __asm__(FIBER_JUMP);
}

/* The outermost frame of a fiber's stack: unwinding ends here, because no caller is known. */
FIBER_NAKED static void fiber_begin(void)
{
  FIBER_ASM("mov %rbx, %rdi", ".cfi_undefined rip");
  __asm__("call *%r12");
  __asm__("ud2");
}

static void *fiber_prepare(struct fiber *f)
{
  uintptr_t top = ((uintptr_t)f->stack + f->size) & ~(uintptr_t)15;
  struct fiber_frame *frame;
  top -= 16; /* zeroes above the outermost frame, for who looks for a return address there */
  memset((void *)top, 0, 16);
  frame = (struct fiber_frame *)top - 1;
  memset(frame, 0, sizeof(*frame));
  __asm__("stmxcsr %0\n\tfnstcw %1" : "=m"(frame->mxcsr), "=m"(frame->x87));
  frame->rbx = f;
  frame->r12 = fiber_main;
  frame->rip = fiber_begin;
  return frame;
}

__attribute__((always_inline)) static inline void fiber_swap(struct fiber *from, struct fiber *to)
{
  void *sp = to->sp;
  to->sp = NULL;
  fiber_exchange(&from->sp, sp);
}

/* Shadow stacks (which Linux turns on only when asked to) would have to be switched as well; a
 * program that wants them defines CHI_FIBER_UCONTEXT. The instruction does nothing without them. */
static void fiber_check_thread(void)
{
#if defined(__CET__) && (__CET__ & 2)
  uint64_t shadow_stack = 0;
  __asm__(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(shadow_stack)); /* rdsspq %rax */
  CHI_ASSERT(shadow_stack == 0);
#endif
}

#endif

CHI_PRIVATE void fiber_init_host(struct fiber *host)
{
  memset(host, 0, sizeof(*host));
  fiber_check_thread();
#ifdef FIBER_TSAN
  host->tsan = __tsan_get_current_fiber();
#endif
}

CHI_PRIVATE void fiber_init(struct fiber *f, void *stack, size_t size, fiber_entry *entry,
                            void *arg)
{
  CHI_ASSERT(stack && entry);
  CHI_ASSERT(size >= FIBER_STACK_MIN);
  memset(f, 0, sizeof(*f));
  f->stack = stack;
  f->size = size;
  f->entry = entry;
  f->arg = arg;
  fiber_tools_init(f);
  f->sp = fiber_prepare(f);
}

CHI_PRIVATE void fiber_switch(struct fiber *from, struct fiber *to)
{
  CHI_ASSERT(!from->sp); /* it runs */
  CHI_ASSERT(to->sp);    /* it is suspended */
  to->previous = from;
  fiber_tools_leave(from, to);
  fiber_swap(from, to);
  fiber_tools_arrive(from);
}

CHI_PRIVATE void fiber_fini(struct fiber *f)
{
  if (f->entry) {
    CHI_ASSERT(f->sp); /* it doesn't run */
    fiber_tools_fini(f);
  }
  f->sp = NULL;
}

CHI_PRIVATE bool fiber_holds(const struct fiber *f, const void *address)
{
  uintptr_t low = (uintptr_t)f->stack - FIBER_GUARD_SIZE, at = (uintptr_t)address;
  return f->entry && at - low < f->size + FIBER_GUARD_SIZE;
}

#undef FIBER_ASAN
#undef FIBER_TSAN
#undef FIBER_VALGRIND
#undef FIBER_NAKED
#undef FIBER_ASM
#undef FIBER_PUSH
#undef FIBER_POP
#undef FIBER_JUMP

/* ---- sources/queue.c ---- */
/* queue.c - a client's queue as the daemon sees it: three lanes and the way back. */

void queue_complete(struct queue *q, uint32_t worker, uint32_t slot, int32_t rc)
{
  if (!mark_get(&q->gone)) {
    lane_done_push(&q->done, slot, rc);
    if (bell_wanted(&q->desk->client, &q->rung))
      q->env->bell_ring(q->env, q->bell);
  }
  queue_forget(q, worker);
}

void queue_forget(struct queue *q, uint32_t worker)
{
  uint64_t *ended = &q->ended[worker * (CHI_CACHE_LINE / sizeof(uint64_t))];
  mark_set(ended, *ended + 1);
}

void queue_hold(struct queue *q, uint32_t slot, uint32_t tag)
{
  CHI_ASSERT(slot < q->depth && tag != 0);
  mark_set(&q->tag[slot], tag);
}

bool queue_cancel(struct queue *q, uint64_t slot, uint32_t tag)
{
  return slot < q->depth && tag != 0 && mark_change(&q->tag[slot], tag, 0);
}

bool queue_cancelled(const struct queue *q, uint32_t slot, uint32_t tag)
{
  return mark_get(&q->gone) || mark_get(&q->tag[slot]) != tag;
}

uint32_t queue_in_flight(const struct queue *q)
{
  uint64_t ended = 0;
  for (uint32_t w = 0; w < q->workers; w++)
    ended += mark_get(&q->ended[w * (CHI_CACHE_LINE / sizeof(uint64_t))]);
  uint32_t taken = 0;
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    taken += mark_get(&q->lane[k].in.head);
  return taken - (uint32_t)ended;
}

/* ---- sources/lane.c ---- */
/* lane.c - submission and completion rings in memory shared between a client and the daemon. */

/* Laps count from 1, so that zeroed memory holds no entry; with the index wrapping at 2^32 a lap
 * number comes again only after every entry has been rewritten. */
static uint32_t lane_turn(uint32_t index, enum lane_op op)
{
  return ((index / LANE_ENTRIES + 1) << 1) | (uint32_t)op;
}

static uint32_t lane_shift(uint32_t depth)
{
  uint32_t shift = 4;
  while ((1u << shift) < depth)
    shift++;
  return shift;
}

uint32_t lane_done_room(uint32_t depth)
{
  return 1u << lane_shift(depth);
}

uint64_t lane_board_size(uint32_t depth)
{
  return sizeof(struct lane_board) + (uint64_t)lane_done_room(depth) * sizeof(struct lane_done);
}

void lane_out_init(struct lane_out *o, struct lane_desk *desk, const struct lane_board *board,
                   enum lane_kind kind)
{
  CHI_ASSERT(kind < LANE_KINDS);
  *o = (struct lane_out){.entry = desk->entry[kind], .taken = &board->taken[kind].value};
}

bool lane_put(struct lane_out *o, enum lane_op op, uint64_t ref, uint32_t slot)
{
  if (o->tail - o->taken_seen >= LANE_ENTRIES) {
    o->taken_seen = atomic_get_acquire(o->taken);
    if (o->tail - o->taken_seen >= LANE_ENTRIES)
      return false;
  }
  struct lane_entry *e = &o->entry[o->tail % LANE_ENTRIES];
  atomic_set(&e->ref, ref);
  atomic_set(&e->slot, slot);
  atomic_set_release(&e->turn, lane_turn(o->tail, op));
  o->tail++;
  return true;
}

static uint32_t lane_tag_of(uint32_t index, uint32_t kind)
{
  return index << 2 | (kind + 1);
}

uint32_t lane_tag(const struct lane_out *o, enum lane_kind kind)
{
  return lane_tag_of(o->tail - 1, (uint32_t)kind);
}

uint32_t lane_home(const struct lane_board *board, enum lane_kind kind)
{
  atomic_fence();
  return atomic_get_acquire(&board->home[kind]);
}

void lane_done_out_init(struct lane_done_out *o, const struct lane_board *board, uint32_t depth)
{
  uint32_t shift = lane_shift(depth);
  *o = (struct lane_done_out){.ring = board->done, .mask = (1u << shift) - 1, .shift = shift};
}

bool lane_done_ready(const struct lane_done_out *o)
{
  return atomic_get_acquire(&o->ring[o->head & o->mask].turn) == (o->head >> o->shift) + 1;
}

bool lane_done_pop(struct lane_done_out *o, struct lane_done *out)
{
  if (!lane_done_ready(o))
    return false;
  const struct lane_done *d = &o->ring[o->head & o->mask];
  *out = (struct lane_done){.slot = atomic_get(&d->slot), .rc = atomic_get(&d->rc)};
  o->head++;
  return true;
}

void lane_in_init(struct lane_in *in, struct lane_desk *desk, struct lane_board *board,
                  enum lane_kind kind)
{
  CHI_ASSERT(kind < LANE_KINDS);
  *in = (struct lane_in){.entry = desk->entry[kind],
                         .taken = &board->taken[kind].value,
                         .kind = (uint32_t)kind};
}

bool lane_ready(const struct lane_in *in)
{
  uint32_t head = atomic_get(&in->head);
  uint32_t turn = atomic_get(&in->entry[head % LANE_ENTRIES].turn);
  return turn >> 1 == lane_turn(head, LANE_RUN) >> 1;
}

bool lane_take(struct lane_in *in, struct lane_entry *out, enum lane_op *op)
{
  uint32_t head = in->head;
  struct lane_entry *e = &in->entry[head % LANE_ENTRIES];
  uint32_t turn = atomic_get_acquire(&e->turn);
  if (turn >> 1 != lane_turn(head, LANE_RUN) >> 1)
    return false;
  *out = (struct lane_entry){.ref = atomic_get(&e->ref),
                             .slot = atomic_get(&e->slot),
                             .turn = lane_tag_of(head, in->kind)};
  *op = (enum lane_op)(turn & 1);
  atomic_set(&in->head, head + 1);
  atomic_set_release(in->taken, head + 1);
  return true;
}

void lane_done_in_init(struct lane_done_in *in, struct lane_board *board, uint32_t depth)
{
  uint32_t shift = lane_shift(depth);
  *in = (struct lane_done_in){.ring = board->done, .mask = (1u << shift) - 1, .shift = shift};
}

void lane_done_push(struct lane_done_in *in, uint32_t slot, int32_t rc)
{
  uint32_t index = atomic_add(&in->tail, 1);
  struct lane_done *d = &in->ring[index & in->mask];
  atomic_set(&d->slot, slot);
  atomic_set(&d->rc, rc);
  atomic_set_release(&d->turn, (index >> in->shift) + 1);
}

/* ---- sources/bell.c ---- */
/* bell.c - waking without loss: the words by which a sleeper tells that it must be rung. */

void bell_announce(struct bell_word *b)
{
  uint32_t word = atomic_get(&b->word);
  CHI_ASSERT((word & 1) == 0);
  atomic_set(&b->word, word + 1);
  atomic_fence();
}

void bell_withdraw(struct bell_word *b)
{
  uint32_t word = atomic_get(&b->word);
  CHI_ASSERT((word & 1) == 1);
  atomic_set(&b->word, word + 1);
  atomic_fence();
}

bool bell_wanted(const struct bell_word *b, uint32_t *last)
{
  atomic_fence();
  return bell_wanted_after_fence(b, last);
}

bool bell_wanted_after_fence(const struct bell_word *b, uint32_t *last)
{
  uint32_t word = atomic_get(&b->word);
  if ((word & 1) == 0 || word == atomic_get(last))
    return false;
  atomic_set(last, word);
  return true;
}

/* ---- sources/task.c ---- */
/* task.c - a task inside the daemon: its record, and the copy between client memory and private. */

static bool task_kind_is_scalar(uint8_t kind)
{
  return kind >= CHI_KIND_u8 && kind <= CHI_KIND_pool;
}

#define TASK_NESTED 4 /* levels of objects inside elements */

/* Elements hold scalars, strings and objects of such, a few levels deep. */
static bool task_is_flat(const chi_type *elem, int levels)
{
  for (uint32_t i = 0; i < elem->field_count; i++) {
    const chi_field *f = &elem->fields[i];
    if (f->kind == CHI_KIND_object && f->elem && levels > 0 && task_is_flat(f->elem, levels - 1))
      continue;
    if (!task_kind_is_scalar(f->kind) && f->kind != CHI_KIND_str)
      return false;
    if (f->size == 0 || f->offset > elem->size || f->size > elem->size - f->offset)
      return false;
  }
  return true;
}

static int task_field_check(const chi_type *type, const chi_field *f, chi_error *err)
{
  bool nested = f->kind == CHI_KIND_object || f->kind == CHI_KIND_array;
  if (!f->name || f->dir < CHI_DIR_IN || f->dir > CHI_DIR_INOUT || f->kind < CHI_KIND_u8 ||
      f->kind > CHI_KIND_bulk || nested != (f->elem != NULL) || f->room == 0)
    return error_set(err, CHI_EINVAL, "%s: field %s is declared wrongly", type->name,
                     f->name ? f->name : "?");
  if (task_kind_is_scalar(f->kind) && (f->size != text_kind_size(f->kind) || f->room != 1))
    return error_set(err, CHI_EINVAL, "%s: field %s has the wrong size", type->name, f->name);
  uint64_t end = f->offset + (uint64_t)f->size * f->room;
  if (f->offset < (type->id ? sizeof(chi_task) : 0) || end > type->size)
    return error_set(err, CHI_EINVAL, "%s: field %s lies outside the struct", type->name, f->name);
  if (nested && (f->elem->size != f->size || !task_is_flat(f->elem, TASK_NESTED)))
    return error_set(err, CHI_EINVAL, "%s: elements of %s may hold scalars, strings, objects only",
                     type->name, f->name);
  return CHI_OK;
}

static void task_plan_out(struct task_plan *plan, const chi_field *f)
{
  if (plan->out_count == UINT32_MAX || !(f->dir & CHI_DIR_OUT))
    return;
  uint32_t n = plan->out_count;
  if (!task_kind_is_scalar(f->kind)) {
    plan->out_count = UINT32_MAX;
  } else if (n > 0 && plan->out[n - 1].offset + plan->out[n - 1].size == f->offset) {
    plan->out[n - 1].size += f->size;
  } else if (n == TASK_RUNS) {
    plan->out_count = UINT32_MAX;
  } else {
    plan->out[n].offset = f->offset;
    plan->out[n].size = f->size;
    plan->out_count++;
  }
}

int task_plan_init(struct task_plan *plan, const chi_type *type, chi_error *err)
{
  *plan = (struct task_plan){.type = type, .plain = true};
  if (!type->name || type->size > (1u << 24) || (type->id && type->size < sizeof(chi_task)))
    return error_set(err, CHI_EINVAL, "%s: impossible size %u", type->name ? type->name : "?",
                     type->size);
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    int rc = task_field_check(type, f, err);
    if (rc != CHI_OK)
      return rc;
    if (!task_kind_is_scalar(f->kind) || f->kind == CHI_KIND_bool)
      plan->plain = false;
    task_plan_out(plan, f);
  }
  return CHI_OK;
}

static uint32_t *task_count_of(const chi_field *f, void *object)
{
  return (uint32_t *)(void *)((char *)object + f->count_offset);
}

/* A string that fills its field without an end is cut; a bool that is neither is true. */
static void task_tidy(const chi_field *f, char *at)
{
  if (f->kind == CHI_KIND_str)
    at[f->size - 1] = '\0';
  else if (f->kind == CHI_KIND_bool)
    *at = *at != 0;
}

static void task_tidy_elements(const chi_field *f, char *at, uint32_t count)
{
  for (uint32_t k = 0; k < count; k++) {
    for (uint32_t i = 0; i < f->elem->field_count; i++) {
      const chi_field *inner = &f->elem->fields[i];
      char *to = at + (size_t)k * f->size + inner->offset;
      if (inner->kind == CHI_KIND_object)
        task_tidy_elements(inner, to, 1);
      else
        task_tidy(inner, to);
    }
  }
}

static int task_bulk_in(const struct shm_table *table, chi_bulk *bulk)
{
  if (bulk->ref == 0 && bulk->size == 0) {
    bulk->data = NULL;
    return CHI_OK;
  }
  bulk->data = shm_resolve(table, bulk->ref, bulk->size);
  return bulk->data ? CHI_OK : CHI_ECORRUPT;
}

static int task_field_in(const chi_field *f, const struct shm_table *table, const char *from,
                         char *to)
{
  const char *src = from + f->offset;
  char *dst = to + f->offset;
  if (f->kind == CHI_KIND_bulk) {
    memcpy(dst, src, sizeof(chi_bulk));
    return task_bulk_in(table, (chi_bulk *)(void *)dst);
  }
  if (!(f->dir & CHI_DIR_IN))
    return CHI_OK;
  if (f->kind == CHI_KIND_array) {
    uint32_t count = 0;
    memcpy(&count, from + f->count_offset, sizeof count);
    if (count > f->room)
      return CHI_ECORRUPT;
    *task_count_of(f, to) = count;
    memcpy(dst, src, (size_t)count * f->size);
    task_tidy_elements(f, dst, count);
    return CHI_OK;
  }
  memcpy(dst, src, f->size);
  if (f->kind == CHI_KIND_object)
    task_tidy_elements(f, dst, 1);
  else
    task_tidy(f, dst);
  return CHI_OK;
}

int task_copy_in(const struct task_plan *plan, const struct shm_table *table,
                 const chi_task *header, const chi_task *shared, chi_task *copy)
{
  const chi_type *type = plan->type;
  if (plan->plain) {
    memcpy(copy, shared, type->size);
    *copy = *header;
    return CHI_OK;
  }
  *copy = *header;
  for (uint32_t i = 0; i < type->field_count; i++) {
    int rc = task_field_in(&type->fields[i], table, (const char *)shared, (char *)copy);
    if (rc != CHI_OK)
      return rc;
  }
  return CHI_OK;
}

static void task_field_out(const chi_field *f, const char *from, char *to)
{
  const char *src = from + f->offset;
  char *dst = to + f->offset;
  if (f->kind == CHI_KIND_array) {
    uint32_t count = 0;
    memcpy(&count, from + f->count_offset, sizeof count);
    count = count < f->room ? count : f->room;
    memcpy(to + f->count_offset, &count, sizeof count);
    memcpy(dst, src, (size_t)count * f->size);
  } else if (f->kind == CHI_KIND_str) {
    memcpy(dst, src, strnlen(src, f->size - 1) + 1);
    dst[f->size - 1] = '\0';
  } else if (f->kind == CHI_KIND_bulk) {
    memcpy(dst + offsetof(chi_bulk, size), src + offsetof(chi_bulk, size), sizeof(uint64_t));
  } else {
    memcpy(dst, src, f->size);
  }
}

void task_copy_out(const struct task_plan *plan, const chi_task *copy, chi_task *shared)
{
  const chi_type *type = plan->type;
  if (plan->out_count != UINT32_MAX) {
    for (uint32_t i = 0; i < plan->out_count; i++)
      memcpy((char *)shared + plan->out[i].offset, (const char *)copy + plan->out[i].offset,
             plan->out[i].size);
  } else {
    for (uint32_t i = 0; i < type->field_count; i++)
      if (type->fields[i].dir & CHI_DIR_OUT)
        task_field_out(&type->fields[i], (const char *)copy, (char *)shared);
  }
}

void task_list_push(struct task_list *l, chi_ctx *ctx)
{
  ctx->node.next = NULL;
  if (l->tail)
    l->tail->node.next = &ctx->node;
  else
    l->head = ctx;
  l->tail = ctx;
}

chi_ctx *task_list_pop(struct task_list *l)
{
  chi_ctx *ctx = l->head;
  if (!ctx)
    return NULL;
  l->head = ctx->node.next ? task_of(ctx->node.next) : NULL;
  if (!l->head)
    l->tail = NULL;
  return ctx;
}

#undef TASK_NESTED

/* ---- sources/text.c ---- */
/* text.c - declared structs as text: reading fields, printing them, describing a module. */

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- kinds ------------------------------------------------------------------------------ */

static const struct text_kind {
  const char *name;
  uint32_t size;
  uint64_t max; /* of unsigned integers; of signed ones the largest, the smallest is -max - 1 */
} text_kinds[] = {
    [CHI_KIND_u8] = {"u8", 1, UINT8_MAX},
    [CHI_KIND_u16] = {"u16", 2, UINT16_MAX},
    [CHI_KIND_u32] = {"u32", 4, UINT32_MAX},
    [CHI_KIND_u64] = {"u64", 8, UINT64_MAX},
    [CHI_KIND_i8] = {"i8", 1, INT8_MAX},
    [CHI_KIND_i16] = {"i16", 2, INT16_MAX},
    [CHI_KIND_i32] = {"i32", 4, INT32_MAX},
    [CHI_KIND_i64] = {"i64", 8, INT64_MAX},
    [CHI_KIND_f64] = {"f64", 8, 0},
    [CHI_KIND_bool] = {"bool", 1, 1},
    [CHI_KIND_size] = {"size", 8, UINT64_MAX},
    [CHI_KIND_duration] = {"duration", 8, UINT64_MAX},
    [CHI_KIND_pool] = {"pool", sizeof(chi_pool_id), 0},
    [CHI_KIND_str] = {"str", 0, 0},
    [CHI_KIND_object] = {"object", 0, 0},
    [CHI_KIND_array] = {"array", 0, 0},
    [CHI_KIND_bulk] = {"bulk", sizeof(chi_bulk), 0},
};

CHI_PRIVATE const char *text_kind_name(uint32_t kind)
{
  return kind < CHI_COUNT(text_kinds) ? text_kinds[kind].name : NULL;
}

CHI_PRIVATE uint32_t text_kind_size(uint32_t kind)
{
  return kind < CHI_COUNT(text_kinds) ? text_kinds[kind].size : 0;
}

static const char *text_dir_name(uint32_t dir)
{
  return dir == CHI_DIR_IN ? "in" : dir == CHI_DIR_OUT ? "out" : "inout";
}

/* ---- names ------------------------------------------------------------------------------ */

#define TEXT_SIMILAR_MAX 40 /* longer names are not compared */

static uint32_t text_least(uint32_t a, uint32_t b)
{
  return a < b ? a : b;
}

CHI_PRIVATE uint32_t text_distance(const char *a, const char *b)
{
  uint32_t rows[3][TEXT_SIMILAR_MAX + 1], *before = rows[0], *last = rows[1], *now = rows[2];
  size_t m = strlen(a), n = strlen(b), longer = m > n ? m : n;
  if (longer > TEXT_SIMILAR_MAX)
    return UINT32_MAX;
  for (uint32_t j = 0; j <= n; j++)
    last[j] = before[j] = j;
  for (uint32_t i = 1; i <= m; i++) {
    uint32_t *next = before;
    now[0] = i;
    for (uint32_t j = 1; j <= n; j++) {
      uint32_t change = last[j - 1] + (a[i - 1] != b[j - 1]);
      now[j] = text_least(change, text_least(last[j], now[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        now[j] = text_least(now[j], before[j - 2] + 1);
    }
    before = last;
    last = now;
    now = next;
  }
  return last[n] <= (longer + 2) / 3 ? last[n] : UINT32_MAX;
}

/* Adds to a text in buf; what does not fit is left out. */
static void text_add(char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void text_add(char *buf, size_t size, const char *fmt, ...)
{
  size_t used = strlen(buf);
  va_list args;
  CHI_ASSERT(used < size);
  va_start(args, fmt);
  if (vsnprintf(buf + used, size - used, fmt, args) < 0)
    buf[used] = '\0';
  va_end(args);
}

static int text_no_field(const chi_type *type, const char *path, const char *name, chi_error *err)
{
  const chi_field *nearest = NULL;
  uint32_t least = UINT32_MAX;
  char known[300] = "";
  for (uint32_t i = 0; i < type->field_count; i++) {
    uint32_t distance = text_distance(name, type->fields[i].name);
    if (distance < least) {
      least = distance;
      nearest = &type->fields[i];
    }
    text_add(known, sizeof(known), "%s%s", i ? ", " : "", type->fields[i].name);
  }
  if (nearest)
    return error_set(err, CHI_ENOENT, "%.64s: %s has no such field; nearest is \"%s\"; it has: %s",
                     path, type->name, nearest->name, known);
  return error_set(err, CHI_ENOENT, "%.64s: %s has no such field; it has: %s", path, type->name,
                   *known ? known : "none");
}

static const chi_field *text_field(const chi_type *type, const char *name)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (strcmp(type->fields[i].name, name) == 0)
      return &type->fields[i];
  }
  return NULL;
}

/* ---- numbers ---------------------------------------------------------------------------- */

CHI_PRIVATE int text_pool(const char *text, chi_pool_id *out)
{
  const char *dot = strchr(text, '.');
  char major_text[16];
  uint64_t major, minor;
  int status;
  if (!dot || dot == text || (size_t)(dot - text) >= sizeof(major_text))
    return CHI_EINVAL;
  memcpy(major_text, text, (size_t)(dot - text));
  major_text[dot - text] = '\0';
  status = units_parse_count(major_text, &major);
  if (status == CHI_OK)
    status = units_parse_count(dot + 1, &minor);
  if (status != CHI_OK)
    return status;
  if (major > UINT32_MAX || minor > UINT32_MAX)
    return CHI_ERANGE;
  *out = (chi_pool_id){(uint32_t)major, (uint32_t)minor};
  return CHI_OK;
}

/* Digits, a point, an exponent: what JSON calls a number, with a leading + allowed. */
static bool text_is_decimal(const char *text)
{
  size_t digits = 0;
  text += *text == '-' || *text == '+';
  for (; *text >= '0' && *text <= '9'; text++)
    digits++;
  if (*text == '.')
    for (text++; *text >= '0' && *text <= '9'; text++)
      digits++;
  if (!digits)
    return false;
  if (*text == 'e' || *text == 'E') {
    text++;
    text += *text == '-' || *text == '+';
    for (digits = 0; *text >= '0' && *text <= '9'; text++)
      digits++;
  }
  return digits && !*text;
}

/* The C library reads and writes the point as the program's locale has it. One byte in all that
 * are in use but a few, where a fraction is refused and printing shows their point. */
static char text_point(void)
{
  char half[16];
  snprintf(half, sizeof(half), "%.1f", 0.5);
  return half[1];
}

static int text_read_double(const char *text, double *out)
{
  char buf[64], *point, *end;
  double value;
  size_t size = strlen(text);
  if (size >= sizeof(buf) || !text_is_decimal(text))
    return CHI_EINVAL;
  memcpy(buf, text, size + 1);
  point = strchr(buf, '.');
  if (point)
    *point = text_point();
  value = strtod(buf, &end);
  if (*end)
    return CHI_EINVAL;
  if (value > DBL_MAX || value < -DBL_MAX)
    return CHI_ERANGE;
  *out = value;
  return CHI_OK;
}

/* The shortest text that reads back as the same number. JSON has none for infinity and NaN. */
static void text_put_double(double value, chi_put_fn *put, void *arg)
{
  char buf[40], *point;
  if (value != value || value > DBL_MAX || value < -DBL_MAX) {
    put(arg, "null");
    return;
  }
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(buf, sizeof(buf), "%.*g", digits, value);
    if (strtod(buf, NULL) == value)
      break;
  }
  point = strchr(buf, text_point());
  if (point)
    *point = '.';
  put(arg, buf);
}

/* ---- setting fields --------------------------------------------------------------------- */

/* Where a path leads to. No effect has been had on the object yet. */
struct text_place {
  const chi_field *field;
  char *at;
  const chi_field *array; /* the array that it is an element of, else NULL */
  uint32_t index;
};

/* A scalar in its struct's representation, before it is stored. */
union text_value {
  uint64_t u64;
  uint32_t u32;
  uint16_t u16;
  uint8_t u8;
  double f64;
  chi_pool_id pool;
};

/* Cuts the next name off a path. */
static bool text_next_name(const char **path, char *name)
{
  size_t size = 0;
  while ((*path)[size] && (*path)[size] != '.' && (*path)[size] != '[')
    size++;
  if (!size || size >= TEXT_NAME_MAX)
    return false;
  memcpy(name, *path, size);
  name[size] = '\0';
  *path += size;
  return true;
}

/* Cuts "[2]" off a path. */
static bool text_next_index(const char **path, uint32_t room, uint32_t *index)
{
  uint64_t value = 0;
  const char *p = *path;
  if (p[0] != '[' || p[1] < '0' || p[1] > '9')
    return false;
  for (p++; *p >= '0' && *p <= '9'; p++) {
    value = value * 10 + (uint64_t)(*p - '0');
    if (value >= room)
      return false;
  }
  if (*p != ']')
    return false;
  *index = (uint32_t)value;
  *path = p + 1;
  return true;
}

/* The step from an object or array into its struct: rest begins at the first "." or "[". */
static int text_enter(const char *path, const char **rest, struct text_place *place, chi_error *err)
{
  const chi_field *field = place->field;
  CHI_ASSERT(field->elem != NULL);
  if (field->kind == CHI_KIND_array) {
    if (!text_next_index(rest, field->room, &place->index))
      return error_set(err, **rest == '[' ? CHI_ERANGE : CHI_EINVAL,
                       "%.64s: \"%s\" is an array; write \"%s[N].%s\" with N from 0 to %u", path,
                       field->name, field->name, field->elem->fields[0].name, field->room - 1);
    place->array = field;
    place->at += (size_t)place->index * field->size;
  }
  if (**rest != '.')
    return error_set(err, CHI_EINVAL, "%.64s: \"%s\" is a struct %s; write \"%.64s.%s\"", path,
                     field->name, field->elem->name, path, field->elem->fields[0].name);
  ++*rest;
  return CHI_OK;
}

static int text_find(const chi_type *type, void *object, const char *path, struct text_place *place,
                     chi_error *err)
{
  char name[TEXT_NAME_MAX];
  const char *rest = path;
  int status;
  *place = (struct text_place){.at = object};
  for (int depth = 0; depth < TEXT_DEPTH_MAX; depth++) {
    if (!text_next_name(&rest, name))
      return error_set(err, CHI_EINVAL, "%.64s: not the name of a field", path);
    place->field = text_field(type, name);
    if (!place->field)
      return text_no_field(type, path, name, err);
    place->at += place->field->offset;
    type = place->field->elem;
    if (!type) {
      if (*rest)
        return error_set(err, CHI_EINVAL, "%.64s: \"%s\" has no parts", path, name);
      return CHI_OK;
    }
    if (place->field->kind == CHI_KIND_array && depth > 0)
      return error_set(err, CHI_EINVAL, "%.64s: an array within a struct", path);
    status = text_enter(path, &rest, place, err);
    if (status != CHI_OK)
      return status;
  }
  return error_set(err, CHI_EINVAL, "%.64s: too many parts", path);
}

static int text_read_unsigned(const char *text, uint64_t max, union text_value *out)
{
  uint64_t value;
  int status = units_parse_count(text, &value);
  if (status != CHI_OK)
    return status;
  out->u64 = value;
  return value <= max ? CHI_OK : CHI_ERANGE;
}

static int text_read_signed(const char *text, uint64_t max, union text_value *out)
{
  bool negative = *text == '-';
  uint64_t value;
  int status = units_parse_count(text + negative, &value);
  if (status != CHI_OK)
    return status;
  out->u64 = negative ? 0 - value : value;
  return value <= max + negative ? CHI_OK : CHI_ERANGE;
}

static int text_read_bool(const char *text, union text_value *out)
{
  out->u64 = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
  return out->u64 || strcmp(text, "false") == 0 || strcmp(text, "0") == 0 ? CHI_OK : CHI_EINVAL;
}

/* An integer of `size` bytes in the place where memcpy of that size takes it from. */
static void text_narrow(union text_value *value, uint32_t size)
{
  uint64_t wide = value->u64;
  if (size == 4)
    value->u32 = (uint32_t)wide;
  else if (size == 2)
    value->u16 = (uint16_t)wide;
  else if (size == 1)
    value->u8 = (uint8_t)wide;
}

static int text_read_value(uint32_t kind, const char *text, union text_value *out)
{
  uint64_t max = text_kinds[kind].max;
  int status;
  if (kind == CHI_KIND_f64)
    return text_read_double(text, &out->f64);
  if (kind == CHI_KIND_pool)
    return text_pool(text, &out->pool);
  if (kind == CHI_KIND_bool)
    status = text_read_bool(text, out);
  else if (kind == CHI_KIND_size)
    status = chi_parse_size(text, &out->u64);
  else if (kind == CHI_KIND_duration)
    status = chi_parse_duration(text, 1, &out->u64);
  else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64)
    status = text_read_signed(text, max, out);
  else
    status = text_read_unsigned(text, max, out);
  text_narrow(out, text_kinds[kind].size);
  return status;
}

/* What the text of a kind looks like, for messages. */
static void text_expected(uint32_t kind, char *buf, size_t size)
{
  uint64_t max = text_kinds[kind].max;
  if (kind >= CHI_KIND_u8 && kind <= CHI_KIND_u64)
    snprintf(buf, size, "a whole number from 0 to %llu", (unsigned long long)max);
  else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64)
    snprintf(buf, size, "a whole number from -%llu to %llu", (unsigned long long)max + 1,
             (unsigned long long)max);
  else
    snprintf(buf, size, "%s",
             kind == CHI_KIND_f64        ? "a number"
             : kind == CHI_KIND_bool     ? "true or false"
             : kind == CHI_KIND_size     ? "a size such as 4096, 64K or 1.5G"
             : kind == CHI_KIND_duration ? "a duration such as 20ms or 1.5s"
                                         : "a pool id such as 300.0");
}

/* Makes an array long enough for an index; new elements start at their defaults. */
static int text_grow(const chi_field *array, void *object, uint32_t index, chi_error *err)
{
  uint32_t count;
  char *base = (char *)object + array->offset;
  memcpy(&count, (char *)object + array->count_offset, sizeof(count));
  if (count > array->room)
    count = array->room;
  for (; count <= index; count++) {
    int status;
    memset(base + (size_t)count * array->size, 0, array->size);
    status = chi_type_preset(array->elem, base + (size_t)count * array->size, err);
    if (status != CHI_OK)
      return status;
  }
  memcpy((char *)object + array->count_offset, &count, sizeof(count));
  return CHI_OK;
}

int chi_type_set(const chi_type *type, void *object, const char *field, const char *text,
                 chi_error *err)
{
  struct text_place place;
  union text_value value = {0};
  char expected[80];
  uint32_t kind;
  int status = text_find(type, object, field, &place, err);
  if (status != CHI_OK)
    return status;
  kind = place.field->kind;
  if (kind == CHI_KIND_bulk)
    return error_set(err, CHI_EINVAL, "%.64s: a buffer cannot be set from text", field);
  if (kind == CHI_KIND_str) {
    if (strlen(text) >= place.field->size)
      return error_set(err, CHI_ETOOBIG, "%.64s: has room for %u bytes, not %zu", field,
                       place.field->size - 1, strlen(text));
  } else {
    status = text_read_value(kind, text, &value);
    text_expected(kind, expected, sizeof(expected));
    if (status != CHI_OK)
      return error_set(err, status, "%.64s: \"%.64s\" is %s; expected %s", field, text,
                       status == CHI_ERANGE ? "out of range" : "no value for it", expected);
  }
  if (place.array) {
    status = text_grow(place.array, object, place.index, err);
    if (status != CHI_OK)
      return status;
  }
  if (kind == CHI_KIND_str) {
    memset(place.at, 0, place.field->size);
    memcpy(place.at, text, strlen(text));
  } else {
    memcpy(place.at, &value, text_kinds[kind].size);
  }
  return CHI_OK;
}

static int text_preset(const chi_type *type, void *object, int depth, chi_error *err)
{
  if (depth == TEXT_DEPTH_MAX)
    return error_set(err, CHI_EINVAL, "%s: structs nest too deep", type->name);
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    int status = CHI_OK;
    if (f->kind == CHI_KIND_object)
      status = text_preset(f->elem, (char *)object + f->offset, depth + 1, err);
    else if (f->preset && *f->preset && f->kind != CHI_KIND_array)
      status = chi_type_set(type, object, f->name, f->preset, err);
    if (status != CHI_OK)
      return status;
  }
  return CHI_OK;
}

int chi_type_preset(const chi_type *type, void *object, chi_error *err)
{
  return text_preset(type, object, 0, err);
}

/* ---- printing --------------------------------------------------------------------------- */

/* Writes one character as JSON to out (8 bytes) and returns how many bytes it took of the text. */
static size_t text_escape(const char *text, size_t left, char *out)
{
  char copy[5] = "";
  uint32_t code;
  size_t size;
  memcpy(copy, text, left < 4 ? left : 4); /* a field need not have its NUL */
  size = utf8_char(copy, &code);
  if (size == 0)
    snprintf(out, 8, "\\ufffd");
  else if (code == '"' || code == '\\')
    snprintf(out, 8, "\\%c", copy[0]);
  else if (code == '\n')
    snprintf(out, 8, "\\n");
  else if (utf8_is_control(code))
    snprintf(out, 8, "\\u%04x", code);
  else
    snprintf(out, 8, "%.*s", (int)size, copy);
  return size ? size : 1;
}

CHI_PRIVATE void text_put_string(const char *text, size_t max, chi_put_fn *put, void *arg)
{
  char buf[128] = "\"";
  size_t used = 1, size = strnlen(text, max);
  for (size_t i = 0; i < size;) {
    if (used + 8 >= sizeof(buf)) {
      put(arg, buf);
      used = 0;
    }
    i += text_escape(text + i, size - i, buf + used);
    used += strlen(buf + used);
  }
  buf[used] = '"';
  buf[used + 1] = '\0';
  put(arg, buf);
}

static void text_put_unsigned(uint64_t value, chi_put_fn *put, void *arg)
{
  char buf[24];
  snprintf(buf, sizeof(buf), "%llu", (unsigned long long)value);
  put(arg, buf);
}

/* The integer of any width at `at`, sign-extended for signed kinds. */
static uint64_t text_integer(uint32_t kind, const char *at)
{
  union text_value value = {0};
  uint32_t size = text_kinds[kind].size;
  bool is_signed = kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64;
  memcpy(&value, at, size);
  if (size == 8)
    return value.u64;
  if (size == 4)
    return is_signed ? (uint64_t)(int32_t)value.u32 : value.u32;
  if (size == 2)
    return is_signed ? (uint64_t)(int16_t)value.u16 : value.u16;
  return is_signed ? (uint64_t)(int8_t)value.u8 : value.u8;
}

static void text_put_integer(uint32_t kind, const char *at, chi_put_fn *put, void *arg)
{
  uint64_t value = text_integer(kind, at);
  if (kind == CHI_KIND_bool) {
    put(arg, value ? "true" : "false");
  } else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64 && (int64_t)value < 0) {
    put(arg, "-");
    text_put_unsigned(0 - value, put, arg);
  } else {
    text_put_unsigned(value, put, arg);
  }
}

static void text_put_struct(const chi_type *type, const char *object, uint32_t dirs, int depth,
                            chi_put_fn *put, void *arg);

static void text_put_array(const chi_field *f, const char *object, int depth, chi_put_fn *put,
                           void *arg)
{
  uint32_t count;
  memcpy(&count, object + f->count_offset, sizeof(count));
  if (count > f->room)
    count = f->room;
  put(arg, "[");
  for (uint32_t i = 0; i < count; i++) {
    if (i)
      put(arg, ",");
    text_put_struct(f->elem, object + f->offset + (size_t)i * f->size, CHI_DIR_INOUT, depth + 1,
                    put, arg);
  }
  put(arg, "]");
}

static void text_put_pool(const char *at, chi_put_fn *put, void *arg)
{
  char buf[40];
  chi_pool_id id;
  memcpy(&id, at, sizeof(id));
  snprintf(buf, sizeof(buf), "\"%u.%u\"", id.major, id.minor);
  put(arg, buf);
}

static void text_put_field(const chi_field *f, const char *object, int depth, chi_put_fn *put,
                           void *arg)
{
  const char *at = object + f->offset;
  chi_bulk bulk;
  double number;
  switch (f->kind) {
  case CHI_KIND_f64:
    memcpy(&number, at, sizeof(number));
    text_put_double(number, put, arg);
    break;
  case CHI_KIND_pool:
    text_put_pool(at, put, arg);
    break;
  case CHI_KIND_str:
    text_put_string(at, f->size, put, arg);
    break;
  case CHI_KIND_object:
    text_put_struct(f->elem, at, CHI_DIR_INOUT, depth + 1, put, arg);
    break;
  case CHI_KIND_array:
    text_put_array(f, object, depth, put, arg);
    break;
  case CHI_KIND_bulk:
    memcpy(&bulk, at, sizeof(bulk));
    text_put_unsigned(bulk.size, put, arg);
    break;
  default:
    text_put_integer(f->kind, at, put, arg);
  }
}

static void text_put_struct(const chi_type *type, const char *object, uint32_t dirs, int depth,
                            chi_put_fn *put, void *arg)
{
  bool first = true;
  if (depth == TEXT_DEPTH_MAX) {
    put(arg, "null");
    return;
  }
  put(arg, "{");
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    if (!(f->dir & dirs))
      continue;
    if (!first)
      put(arg, ",");
    first = false;
    text_put_string(f->name, SIZE_MAX, put, arg);
    put(arg, ":");
    text_put_field(f, object, depth, put, arg);
  }
  put(arg, "}");
}

void chi_type_print(const chi_type *type, const void *object, uint32_t dirs, chi_put_fn *put,
                    void *arg)
{
  text_put_struct(type, object, dirs, 0, put, arg);
}

/* ---- describing a module ---------------------------------------------------------------- */

static bool text_too_deep(const chi_type *type, int depth)
{
  if (depth == TEXT_DEPTH_MAX)
    return true;
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (type->fields[i].elem && text_too_deep(type->fields[i].elem, depth + 1))
      return true;
  }
  return false;
}

static void text_put_number(const char *name, uint64_t value, chi_put_fn *put, void *arg)
{
  put(arg, ",\"");
  put(arg, name);
  put(arg, "\":");
  text_put_unsigned(value, put, arg);
}

static void text_describe_type(const chi_type *type, chi_put_fn *put, void *arg);

static void text_describe_field(const chi_field *f, chi_put_fn *put, void *arg)
{
  put(arg, "{\"name\":");
  text_put_string(f->name, SIZE_MAX, put, arg);
  put(arg, ",\"dir\":\"");
  put(arg, text_dir_name(f->dir));
  put(arg, "\",\"kind\":\"");
  put(arg, text_kind_name(f->kind));
  put(arg, "\"");
  text_put_number("offset", f->offset, put, arg);
  text_put_number("size", f->size, put, arg);
  if (f->kind == CHI_KIND_array) {
    text_put_number("room", f->room, put, arg);
    text_put_number("count_offset", f->count_offset, put, arg);
  }
  if (f->preset && *f->preset) {
    put(arg, ",\"preset\":");
    text_put_string(f->preset, SIZE_MAX, put, arg);
  }
  if (f->elem) {
    put(arg, ",\"elem\":{");
    text_describe_type(f->elem, put, arg);
    put(arg, "}");
  }
  put(arg, "}");
}

/* Without its braces, so that the caller can add to it. */
static void text_describe_type(const chi_type *type, chi_put_fn *put, void *arg)
{
  put(arg, "\"name\":");
  text_put_string(type->name, SIZE_MAX, put, arg);
  text_put_number("size", type->size, put, arg);
  put(arg, ",\"fields\":[");
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (i)
      put(arg, ",");
    text_describe_field(&type->fields[i], put, arg);
  }
  put(arg, "]");
}

static void text_describe_method(const chi_method *method, chi_put_fn *put, void *arg)
{
  put(arg, "{");
  text_describe_type(method->type, put, arg);
  text_put_number("id", method->type->id, put, arg);
  text_put_number("compute_us", method->compute_us, put, arg);
  put(arg, ",\"idempotent\":");
  put(arg, method->flags & CHI_METHOD_IDEMPOTENT ? "true}" : "false}");
}

CHI_PRIVATE int text_describe(const chi_module *m, chi_put_fn *put, void *arg)
{
  const chi_method *method;
  bool deep = m->params && text_too_deep(m->params, 0);
  for (method = m->methods; method && method->type; method++)
    deep = deep || text_too_deep(method->type, 0);
  if (deep)
    return CHI_EINVAL;
  put(arg, "{\"module\":");
  text_put_string(m->name, SIZE_MAX, put, arg);
  put(arg, m->flags & CHI_MODULE_PARALLEL ? ",\"parallel\":true" : ",\"parallel\":false");
  if (m->params) {
    put(arg, ",\"params\":{");
    text_describe_type(m->params, put, arg);
    put(arg, "}");
  }
  put(arg, ",\"methods\":[");
  for (method = m->methods; method && method->type; method++) {
    if (method != m->methods)
      put(arg, ",");
    text_describe_method(method, put, arg);
  }
  put(arg, "]}");
  return CHI_OK;
}

#undef TEXT_SIMILAR_MAX

/* ---- sources/shm.c ---- */
/* shm.c - shared memory in chunks leased to clients: places in it, and the allocator over it. */

#define SHM_SLOTS_MAX (SHM_SPAN_SIZE / 64u)
#define SHM_WORDS (SHM_SLOTS_MAX / 64u)
#define SHM_CLASS_NONE 0xffu
#define SHM_CLASS_LARGE 0xfeu /* first span of an allocation of whole spans */
#define SHM_CLASS_REST 0xfdu  /* further spans of it */

/* One span: SHM_SPAN_SIZE bytes of a lease. A bit of `vacant` is set for each free slot. */
struct shm_span {
  struct shm_span *next, *prev; /* in the arena's partial list of its class */
  struct shm_lease *lease;
  uint8_t class, index;
  uint16_t spans; /* of a large allocation */
  uint16_t free, slots;
  uint64_t vacant[SHM_WORDS];
};

/* A chunk, private view. A lease larger than one chunk holds a single allocation. */
struct shm_lease {
  char *base;
  uint64_t size;
  uint32_t chunk;
  uint32_t vacant_spans; /* a bit for each free span */
  uint32_t used_spans, open_spans; /* open: used spans of slots that are all free */
  struct shm_span span[SHM_SPANS];
};

void *shm_resolve(const struct shm_table *t, uint64_t ref, uint64_t size)
{
  uint64_t number = ref >> 40, offset = ref & ((1ull << 40) - 1);
  if (number == 0 || number > t->room || (offset & 7) != 0)
    return NULL;
  const struct shm_chunk *c = &t->chunk[number - 1];
  uint64_t room = atomic_get_acquire(&c->size);
  if (room == 0 || size > room || offset > room - size)
    return NULL;
  return c->base + offset;
}

void shm_publish(struct shm_table *t, uint32_t chunk, void *base, uint64_t size)
{
  CHI_ASSERT(chunk < t->room);
  t->chunk[chunk].base = base;
  atomic_set_release(&t->chunk[chunk].size, size);
}

/* Classes: 64 .. 1024 by 64, then 1280 .. 3584 in quarters, then 4096 .. 32768 by 4096. */
static uint32_t shm_class(uint64_t size)
{
  if (size <= 1024)
    return size == 0 ? 0 : (uint32_t)((size - 1) / 64);
  if (size <= 2048)
    return 16 + (uint32_t)((size - 1025) / 256);
  if (size <= 3584)
    return 20 + (uint32_t)((size - 2049) / 512);
  return 23 + (uint32_t)((size - 1) / 4096);
}

static uint32_t shm_class_size(uint32_t class)
{
  CHI_ASSERT(class < SHM_CLASSES);
  if (class < 16)
    return (class + 1) * 64;
  if (class < 20)
    return 1024 + (class - 15) * 256;
  if (class < 23)
    return 2048 + (class - 19) * 512;
  return (class - 22) * 4096;
}

/* n / (class size / 64) without a division: exact for n below 1024, a span's worth of lines. */
static uint32_t shm_slot_of(uint32_t class, uint32_t n)
{
#define SHM_UNIT(units) (((1u << 20) + (units)-1) / (units))
  static const uint32_t inverse[SHM_CLASSES] = {
      SHM_UNIT(1),   SHM_UNIT(2),   SHM_UNIT(3),   SHM_UNIT(4),   SHM_UNIT(5),   SHM_UNIT(6),
      SHM_UNIT(7),   SHM_UNIT(8),   SHM_UNIT(9),   SHM_UNIT(10),  SHM_UNIT(11),  SHM_UNIT(12),
      SHM_UNIT(13),  SHM_UNIT(14),  SHM_UNIT(15),  SHM_UNIT(16),  SHM_UNIT(20),  SHM_UNIT(24),
      SHM_UNIT(28),  SHM_UNIT(32),  SHM_UNIT(40),  SHM_UNIT(48),  SHM_UNIT(56),  SHM_UNIT(64),
      SHM_UNIT(128), SHM_UNIT(192), SHM_UNIT(256), SHM_UNIT(320), SHM_UNIT(384), SHM_UNIT(448),
      SHM_UNIT(512)};
#undef SHM_UNIT
  return n * inverse[class] >> 20;
}

void shm_arena_init(struct shm_arena *a, const struct alloc *alloc, enum shm_kind kind,
                    const struct shm_source *source)
{
  *a = (struct shm_arena){.alloc = alloc, .source = *source, .kind = kind};
}

void shm_arena_fini(struct shm_arena *a)
{
  for (uint32_t i = 0; i < a->lease_count; i++)
    alloc_put(a->alloc, a->lease[i], sizeof *a->lease[i]);
  alloc_put(a->alloc, a->lease, a->lease_room * sizeof(struct shm_lease *));
  a->lease = NULL;
  a->lease_count = a->lease_room = a->idle = 0;
  a->last = NULL;
  memset(a->partial, 0, sizeof a->partial);
}

void shm_arena_give_back(struct shm_arena *a)
{
  for (uint32_t i = 0; i < a->lease_count; i++)
    a->source.give_back(a->source.arg, a->lease[i]->chunk);
  shm_arena_fini(a);
}

static void shm_partial_add(struct shm_arena *a, struct shm_span *s)
{
  s->prev = NULL;
  s->next = a->partial[s->class];
  if (s->next)
    s->next->prev = s;
  a->partial[s->class] = s;
}

static void shm_partial_drop(struct shm_arena *a, struct shm_span *s)
{
  if (s->prev)
    s->prev->next = s->next;
  else
    a->partial[s->class] = s->next;
  if (s->next)
    s->next->prev = s->prev;
}

/* Room for one more in the sorted list of leases. */
static int shm_lease_room(struct shm_arena *a)
{
  if (a->lease_count < a->lease_room)
    return CHI_OK;
  uint32_t room = a->lease_room ? a->lease_room * 2 : 8;
  struct shm_lease **bigger = alloc_get(a->alloc, room * sizeof *bigger);
  if (!bigger)
    return CHI_ENOMEM;
  if (a->lease_count)
    memcpy(bigger, a->lease, a->lease_count * sizeof *bigger);
  alloc_put(a->alloc, a->lease, a->lease_room * sizeof *bigger);
  a->lease = bigger;
  a->lease_room = room;
  return CHI_OK;
}

static int shm_lease_add(struct shm_arena *a, uint64_t size, struct shm_lease **out)
{
  int rc = shm_lease_room(a);
  struct shm_lease *l = rc == CHI_OK ? alloc_zero(a->alloc, sizeof *l) : NULL;
  if (!l)
    return CHI_ENOMEM;
  void *base = NULL;
  rc = a->source.lease(a->source.arg, a->kind, size, &base, &l->chunk);
  if (rc != CHI_OK) {
    alloc_put(a->alloc, l, sizeof *l);
    return rc;
  }
  l->base = base;
  l->size = size;
  l->vacant_spans = UINT32_MAX;
  for (uint32_t i = 0; i < SHM_SPANS; i++) {
    l->span[i].lease = l;
    l->span[i].index = (uint8_t)i;
    l->span[i].class = SHM_CLASS_NONE;
  }
  uint32_t at = a->lease_count++;
  for (; at > 0 && a->lease[at - 1]->base > l->base; at--)
    a->lease[at] = a->lease[at - 1];
  a->lease[at] = l;
  a->idle++;
  *out = l;
  return CHI_OK;
}

static void shm_lease_drop(struct shm_arena *a, struct shm_lease *l)
{
  uint32_t at = 0;
  while (a->lease[at] != l)
    at++;
  a->lease_count--;
  for (; at < a->lease_count; at++)
    a->lease[at] = a->lease[at + 1];
  if (a->last == l)
    a->last = NULL;
  a->idle--;
  a->source.give_back(a->source.arg, l->chunk);
  alloc_put(a->alloc, l, sizeof *l);
}

static void shm_spans_take(struct shm_arena *a, struct shm_lease *l, uint32_t first, uint32_t n)
{
  a->idle -= l->used_spans == l->open_spans;
  uint32_t mask = n == SHM_SPANS ? UINT32_MAX : ((1u << n) - 1) << first;
  CHI_ASSERT((l->vacant_spans & mask) == mask);
  l->vacant_spans &= ~mask;
  l->used_spans += n;
}

static bool shm_span_is_open(const struct shm_span *s)
{
  return s->class < SHM_CLASSES && s->free == s->slots;
}

static void shm_lease_sweep(struct shm_arena *a, struct shm_lease *l)
{
  for (uint32_t i = 0; i < SHM_SPANS && l->open_spans > 0; i++) {
    struct shm_span *s = &l->span[i];
    if (!shm_span_is_open(s))
      continue;
    shm_partial_drop(a, s);
    s->class = SHM_CLASS_NONE;
    l->vacant_spans |= 1u << i;
    l->used_spans--;
    l->open_spans--;
  }
  CHI_ASSERT(l->open_spans == 0);
}

/* One lease with nothing in use is kept, so that a program at the edge does not lease and return
 * a chunk for every task; a further one, and any oversized one, goes back. */
static void shm_lease_rest(struct shm_arena *a, struct shm_lease *l)
{
  CHI_ASSERT(l->used_spans == l->open_spans);
  a->idle++;
  if (a->idle > 1 || l->size > SHM_CHUNK_SIZE) {
    shm_lease_sweep(a, l);
    shm_lease_drop(a, l);
  }
}

static void shm_spans_give(struct shm_arena *a, struct shm_lease *l, uint32_t first, uint32_t n)
{
  uint32_t mask = n == SHM_SPANS ? UINT32_MAX : ((1u << n) - 1) << first;
  CHI_ASSERT((l->vacant_spans & mask) == 0 && l->used_spans >= n);
  l->vacant_spans |= mask;
  l->used_spans -= n;
  for (uint32_t i = first; i < first + n; i++)
    l->span[i].class = SHM_CLASS_NONE;
  if (l->used_spans == l->open_spans)
    shm_lease_rest(a, l);
}

/* First run of n free spans in a lease, or SHM_SPANS. */
static uint32_t shm_spans_find(const struct shm_lease *l, uint32_t n)
{
  if (l->size > SHM_CHUNK_SIZE)
    return SHM_SPANS;
  if (n == SHM_SPANS)
    return l->vacant_spans == UINT32_MAX ? 0 : SHM_SPANS;
  uint32_t mask = (1u << n) - 1;
  for (uint32_t first = 0; first + n <= SHM_SPANS; first++)
    if ((l->vacant_spans >> first & mask) == mask)
      return first;
  return SHM_SPANS;
}

/* n neighbouring spans of some lease, a new one if need be. */
static int shm_spans_get(struct shm_arena *a, uint32_t n, struct shm_span **out)
{
  struct shm_lease *l = NULL;
  uint32_t first = SHM_SPANS;
  for (uint32_t i = 0; i < a->lease_count && first == SHM_SPANS; i++) {
    l = a->lease[i];
    first = shm_spans_find(l, n);
  }
  for (uint32_t i = 0; i < a->lease_count && first == SHM_SPANS; i++) {
    l = a->lease[i];
    if (l->open_spans > 0)
      shm_lease_sweep(a, l);
    first = shm_spans_find(l, n);
  }
  if (first == SHM_SPANS) {
    int rc = shm_lease_add(a, SHM_CHUNK_SIZE, &l);
    if (rc != CHI_OK)
      return rc;
    first = 0;
  }
  shm_spans_take(a, l, first, n);
  *out = &l->span[first];
  return CHI_OK;
}

static char *shm_span_base(const struct shm_span *s)
{
  return s->lease->base + (uint64_t)s->index * SHM_SPAN_SIZE;
}

static int shm_span_open(struct shm_arena *a, uint32_t class)
{
  struct shm_span *s = NULL;
  int rc = shm_spans_get(a, 1, &s);
  if (rc != CHI_OK)
    return rc;
  s->class = (uint8_t)class;
  s->slots = s->free = (uint16_t)(SHM_SPAN_SIZE / shm_class_size(class));
  for (uint32_t i = 0; i < SHM_WORDS; i++) {
    uint32_t left = s->slots > i * 64 ? s->slots - i * 64u : 0;
    s->vacant[i] = left >= 64 ? UINT64_MAX : (1ull << left) - 1;
  }
  s->lease->open_spans++;
  a->idle += s->lease->used_spans == s->lease->open_spans;
  shm_partial_add(a, s);
  return CHI_OK;
}

static int shm_small_get(struct shm_arena *a, uint32_t class, void **out, uint64_t *ref)
{
  struct shm_span *s = a->partial[class];
  if (!s) {
    int rc = shm_span_open(a, class);
    if (rc != CHI_OK)
      return rc;
    s = a->partial[class];
  }
  uint32_t word = 0;
  while (s->vacant[word] == 0)
    word++;
  uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(s->vacant[word]);
  CHI_ASSERT(slot < s->slots);
  s->vacant[word] &= s->vacant[word] - 1;
  if (s->free == s->slots) {
    a->idle -= s->lease->used_spans == s->lease->open_spans;
    s->lease->open_spans--;
  }
  if (--s->free == 0)
    shm_partial_drop(a, s);
  uint32_t size = shm_class_size(class);
  uint64_t offset = (uint64_t)s->index * SHM_SPAN_SIZE + (uint64_t)slot * size;
  a->used += size;
  *out = s->lease->base + offset;
  *ref = shm_ref(s->lease->chunk, offset);
  return CHI_OK;
}

static int shm_large_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref)
{
  struct shm_span *s = NULL;
  uint32_t n = SHM_SPANS;
  if (size <= SHM_CHUNK_SIZE) {
    n = (uint32_t)((size + SHM_SPAN_SIZE - 1) / SHM_SPAN_SIZE);
    int rc = shm_spans_get(a, n, &s);
    if (rc != CHI_OK)
      return rc;
  } else {
    struct shm_lease *l = NULL;
    uint64_t whole = (size + SHM_CHUNK_SIZE - 1) / SHM_CHUNK_SIZE * SHM_CHUNK_SIZE;
    int rc = shm_lease_add(a, whole, &l);
    if (rc != CHI_OK)
      return rc;
    shm_spans_take(a, l, 0, n);
    s = &l->span[0];
  }
  s->class = SHM_CLASS_LARGE;
  s->spans = (uint16_t)n;
  for (uint32_t i = 1; i < n; i++)
    s[i].class = SHM_CLASS_REST;
  a->used += s->lease->size > SHM_CHUNK_SIZE ? s->lease->size : (uint64_t)n * SHM_SPAN_SIZE;
  *out = shm_span_base(s);
  *ref = shm_ref(s->lease->chunk, (uint64_t)s->index * SHM_SPAN_SIZE);
  return CHI_OK;
}

int shm_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref)
{
  if (size > SHM_SIZE_MAX)
    return CHI_ENOMEM;
  return size <= SHM_SMALL ? shm_small_get(a, shm_class(size), out, ref)
                           : shm_large_get(a, size, out, ref);
}

/* The lease that an address lies in, or NULL. */
static struct shm_lease *shm_lease_find(struct shm_arena *a, const char *p)
{
  struct shm_lease *l = a->last;
  if (l && p >= l->base && p < l->base + l->size)
    return l;
  uint32_t low = 0, high = a->lease_count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (a->lease[middle]->base <= p)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0)
    return NULL;
  l = a->lease[low - 1];
  if (p >= l->base + l->size)
    return NULL;
  a->last = l;
  return l;
}

/* The span and slot of an allocation that starts at p; NULL if none does. */
static struct shm_span *shm_locate(struct shm_arena *a, const void *p, uint32_t *slot)
{
  struct shm_lease *l = shm_lease_find(a, p);
  if (!l)
    return NULL;
  uint64_t offset = (uint64_t)((const char *)p - l->base);
  if (offset >= SHM_CHUNK_SIZE)
    return NULL;
  struct shm_span *s = &l->span[offset / SHM_SPAN_SIZE];
  uint32_t inside = (uint32_t)(offset % SHM_SPAN_SIZE);
  *slot = 0;
  if (s->class == SHM_CLASS_LARGE)
    return inside == 0 ? s : NULL;
  if (s->class >= SHM_CLASSES)
    return NULL;
  uint32_t size = shm_class_size(s->class);
  *slot = shm_slot_of(s->class, inside / 64);
  if (*slot * size != inside || *slot >= s->slots || (s->vacant[*slot / 64] >> (*slot % 64) & 1))
    return NULL;
  return s;
}

static void shm_small_put(struct shm_arena *a, struct shm_span *s, uint32_t slot)
{
  a->used -= shm_class_size(s->class);
  s->vacant[slot / 64] |= 1ull << (slot % 64);
  if (s->free++ == 0)
    shm_partial_add(a, s);
  if (s->free < s->slots)
    return;
  struct shm_lease *l = s->lease;
  /* The last span of a class stays open: a task allocated and freed in turn costs no set-up. */
  if (a->partial[s->class] == s && !s->next) {
    l->open_spans++;
    if (l->used_spans == l->open_spans)
      shm_lease_rest(a, l);
    return;
  }
  shm_partial_drop(a, s);
  shm_spans_give(a, l, s->index, 1);
}

int shm_put(struct shm_arena *a, void *p)
{
  uint32_t slot = 0;
  struct shm_span *s = shm_locate(a, p, &slot);
  if (!s)
    return CHI_EINVAL;
  if (s->class == SHM_CLASS_LARGE) {
    struct shm_lease *l = s->lease;
    a->used -= l->size > SHM_CHUNK_SIZE ? l->size : (uint64_t)s->spans * SHM_SPAN_SIZE;
    shm_spans_give(a, l, s->index, s->spans);
  } else {
    shm_small_put(a, s, slot);
  }
  return CHI_OK;
}

int shm_find(struct shm_arena *a, const void *p, uint64_t *ref, uint64_t *room)
{
  uint32_t slot = 0;
  struct shm_span *s = shm_locate(a, p, &slot);
  if (!s)
    return CHI_EINVAL;
  uint64_t offset = (uint64_t)((const char *)p - s->lease->base);
  *ref = shm_ref(s->lease->chunk, offset);
  if (s->class != SHM_CLASS_LARGE)
    *room = shm_class_size(s->class);
  else
    *room = s->lease->size > SHM_CHUNK_SIZE ? s->lease->size : (uint64_t)s->spans * SHM_SPAN_SIZE;
  return CHI_OK;
}

#undef SHM_SLOTS_MAX
#undef SHM_WORDS
#undef SHM_CLASS_NONE
#undef SHM_CLASS_LARGE
#undef SHM_CLASS_REST

/* ---- sources/reader.c ---- */
/* reader.c - a configuration file's sections, keys and values on their way into chi_config. */

#include <stdio.h>

#define READER_WORD_MAX 48 /* bytes of a key that are compared with the known ones */

/* Older spellings; current NULL: has no meaning any more. */
static const struct reader_alias {
  const char *name, *current;
} reader_aliases[] = {
    {"workers.low_latency_threads", "workers.sched_threads"},
    {"runtime.sched_threads", "workers.sched_threads"},
    {"runtime.num_threads", "workers.sched_threads"},
    {"workers.high_latency_threads", "workers.slow_threads"},
    {"runtime.slow_threads", "workers.slow_threads"},
    {"runtime.process_reaper_threads", "workers.process_reaper_threads"},
    {"workers.reinforcement_threads", NULL},
    {"network.port", "networking.port"},
    {"network.zmq_port", "networking.port"},
    {"networking.zmq_port", "networking.port"},
    {"performance.stack_size", "runtime.stack_size"},
    {"performance.queue_depth", "runtime.queue_depth"},
    {"performance.lane_map_policy", "runtime.lane_map_policy"},
    {"task_queue.lanes", NULL},
    {"runtime.sleep_increment", NULL},
    {"runtime.max_sleep", NULL},
};

/* The sections of all generations, and what an older one is called now. */
static const struct reader_alias reader_sections[] = {
    {"workers", "workers"}, {"memory", "memory"},      {"networking", "networking"},
    {"logging", "logging"}, {"runtime", "runtime"},    {"shared_memory", "shared_memory"},
    {"compose", "compose"}, {"network", "networking"}, {"performance", "runtime"},
    {"task_queue", NULL},
};

_Static_assert(CHI_COUNT(reader_aliases) == READER_SPELLING_COUNT - CONFIG_KEY_COUNT, "aliases");
_Static_assert(CHI_COUNT(reader_sections) == READER_SECTION_COUNT, "sections");

static const char *const reader_fields[] = {"mod_name", "pool_name", "pool_query", "pool_id"};
enum reader_field_index { READER_MOD_NAME, READER_POOL_NAME, READER_POOL_QUERY, READER_POOL_ID };
_Static_assert(CHI_COUNT(reader_fields) == READER_FIELD_COUNT, "fields");

/* Spellings are numbered: first the current keys, then the aliases. */
static const char *reader_spelling(size_t i)
{
  return i < CONFIG_KEY_COUNT ? config_key_at(i)->name : reader_aliases[i - CONFIG_KEY_COUNT].name;
}

/* The key that a spelling stands for, NULL if it has no meaning. */
static const struct config_key *reader_meaning(size_t spelling)
{
  const char *current;
  CHI_ASSERT(spelling < READER_SPELLING_COUNT);
  if (spelling < CONFIG_KEY_COUNT)
    return config_key_at(spelling);
  current = reader_aliases[spelling - CONFIG_KEY_COUNT].current;
  return current ? config_find_key(current) : NULL;
}

/* What follows the section in a dotted name. */
static const char *reader_leaf(const char *name)
{
  const char *dot = strchr(name, '.');
  return dot ? dot + 1 : name;
}

/* Whether a dotted name lies in a section. */
static bool reader_within(const char *name, const char *section)
{
  size_t n = strlen(section);
  return strncmp(name, section, n) == 0 && name[n] == '.';
}

static void reader_unexpected(struct report *report, const char *what, const char *expected,
                              const struct reader_value *value)
{
  static const char *const shapes[] = {"", "", "", "nothing", "a map", "a list"};
  CHI_ASSERT(value->kind < READER_REFUSED);
  if (value->kind >= READER_NOTHING)
    report_error(report, value->at, CHI_ECONFIG, "%s: expected %s, found %s", what, expected,
                 shapes[value->kind]);
  else if (!utf8_is_line(value->text))
    report_error(report, value->at, CHI_ECONFIG,
                 "%s: expected %s, found control characters in \"%.80s\"", what, expected,
                 value->text);
  else
    report_error(report, value->at, CHI_ECONFIG, "%s: expected %s, found \"%.80s\"", what, expected,
                 value->text);
}

/* ---- suggestions ------------------------------------------------------------------------ */

/* How many characters must be added, dropped, changed or swapped with their neighbour to get from
 * one word to the other; long words are cut. */
static uint32_t reader_distance(const char *a, const char *b)
{
  uint32_t rows[3][READER_WORD_MAX + 1];
  size_t na = strnlen(a, READER_WORD_MAX), nb = strnlen(b, READER_WORD_MAX);
  for (size_t j = 0; j <= nb; j++)
    rows[0][j] = (uint32_t)j;
  for (size_t i = 1; i <= na; i++) {
    uint32_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
    row[0] = (uint32_t)i;
    for (size_t j = 1; j <= nb; j++) {
      uint32_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
      if (above[j] + 1 < best)
        best = above[j] + 1;
      if (row[j - 1] + 1 < best)
        best = row[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          above2[j - 2] + 1 < best)
        best = above2[j - 2] + 1;
      row[j] = best;
    }
  }
  return rows[na % 3][nb];
}

/* The distance if it is small enough for a slip of the pen, else UINT32_MAX. */
static uint32_t reader_slip(const char *written, const char *known)
{
  uint32_t d = reader_distance(written, known);
  return d <= 1 + (strlen(known) - 1) / 4 ? d : UINT32_MAX;
}

/* The current key whose spelling in any section is nearest; one in the same section comes before
 * one that is as near elsewhere. section "": at the top level. NULL: none is near. */
static const char *reader_nearest_key(const char *section, const char *name, uint32_t *nearest)
{
  const char *found = NULL;
  *nearest = UINT32_MAX;
  for (size_t i = 0; i < READER_SPELLING_COUNT; i++) {
    const struct config_key *key = reader_meaning(i);
    const char *spelling = reader_spelling(i);
    uint32_t d = reader_slip(name, reader_leaf(spelling));
    if (!key || d == UINT32_MAX)
      continue;
    d = 2 * d + !reader_within(spelling, section);
    if (d < *nearest) {
      *nearest = d;
      found = key->name;
    }
  }
  return found;
}

static const char *reader_nearest_section(const char *name, uint32_t *nearest)
{
  const char *found = NULL;
  *nearest = UINT32_MAX;
  for (size_t i = 0; i < READER_SECTION_COUNT; i++) {
    uint32_t d = reader_slip(name, reader_sections[i].name);
    if (d != UINT32_MAX && 2 * d < *nearest && reader_sections[i].current) {
      *nearest = 2 * d;
      found = reader_sections[i].current;
    }
  }
  return found;
}

static void reader_list(char *buf, size_t size, const char *word)
{
  size_t used = strlen(buf);
  snprintf(buf + used, size - used, "%s%s", used ? ", " : "", word);
}

static void reader_unknown_section(struct report *report, const char *name, struct report_mark at)
{
  uint32_t key_distance, section_distance;
  const char *key = reader_nearest_key("", name, &key_distance);
  const char *section = reader_nearest_section(name, &section_distance);
  char known[256] = "";
  if (key || section) {
    report_error(report, at, CHI_ECONFIG, "unknown key \"%.80s\"; did you mean \"%s\"?", name,
                 section_distance <= key_distance ? section : key);
    return;
  }
  for (size_t i = 0; i < READER_SECTION_COUNT; i++) {
    if (reader_sections[i].current && !strcmp(reader_sections[i].name, reader_sections[i].current))
      reader_list(known, sizeof(known), reader_sections[i].name);
  }
  report_error(report, at, CHI_ECONFIG, "unknown key \"%.80s\"; the sections are %s", name, known);
}

static void reader_unknown_key(struct report *report, const char *section, const char *name,
                               struct report_mark at)
{
  uint32_t distance;
  const char *key = reader_nearest_key(section, name, &distance);
  char known[512] = "";
  if (key) {
    report_error(report, at, CHI_ECONFIG, "unknown key \"%s.%.80s\"; did you mean \"%s\"?", section,
                 name, key);
    return;
  }
  for (size_t i = 0; i < READER_SPELLING_COUNT; i++) {
    if (reader_within(reader_spelling(i), section))
      reader_list(known, sizeof(known), reader_leaf(reader_spelling(i)));
  }
  report_error(report, at, CHI_ECONFIG, "unknown key \"%s.%.80s\"; \"%s\" has %s", section, name,
               section, known);
}

/* ---- reading ---------------------------------------------------------------------------- */

/* Notes that something was written at `at`; complains if it was written before. */
static bool reader_first(struct report *report, struct report_mark *seen, const char *what,
                         const char *name, struct report_mark at)
{
  if (seen->line) {
    report_error(report, at, CHI_ECONFIG, "%s\"%s\" is given twice, first in line %d", what, name,
                 seen->line);
    return false;
  }
  *seen = at;
  return true;
}

CHI_PRIVATE enum reader_step reader_section(struct reader *r, const char *name,
                                            struct report_mark at, const struct reader_value *value)
{
  size_t i = 0;
  bool compose;
  while (i < READER_SECTION_COUNT && strcmp(reader_sections[i].name, name) != 0)
    i++;
  if (i == READER_SECTION_COUNT) {
    reader_unknown_section(r->report, name, at);
    return READER_SKIP;
  }
  if (!reader_first(r->report, &r->sections[i], "section ", reader_sections[i].name, at) ||
      value->kind == READER_REFUSED)
    return READER_SKIP;
  compose = strcmp(name, "compose") == 0;
  if (value->kind != (compose ? READER_LIST : READER_MAP)) {
    reader_unexpected(r->report, reader_sections[i].name,
                      compose ? "a list of pools" : "a map of keys", value);
    return READER_SKIP;
  }
  if (compose)
    config_drop_pools(r->config);
  r->section = reader_sections[i].name;
  return compose ? READER_POOLS : READER_KEYS;
}

/* Appends n bytes to the text in out; *used grows beyond room when they do not fit. */
static void reader_append(char *out, size_t room, size_t *used, const char *bytes, size_t n)
{
  if (*used < room && n < room - *used) {
    memcpy(out + *used, bytes, n);
    out[*used + n] = '\0';
  }
  *used += n;
}

/* Appends the value of the variable at p, which begins with "${", and gives what follows it; NULL
 * after complaining. */
static const char *reader_variable(struct reader *r, const char *what,
                                   const struct reader_value *value, const char *p, char *out,
                                   size_t room, size_t *used)
{
  char name[CHI_NAME_MAX] = "";
  const char *end = strchr(p, '}'), *found = NULL;
  size_t n = end ? (size_t)(end - p - 2) : 0;
  if (!end) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: \"${\" has no closing \"}\"", what);
    return NULL;
  }
  memcpy(name, p + 2, n < sizeof(name) ? n : sizeof(name) - 1);
  if (n >= sizeof(name) || !config_is_identifier(name) || strpbrk(name, ".-")) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: \"%.80s\" is not a variable's name", what,
                 name);
    return NULL;
  }
  if (r->lookup)
    found = r->lookup(r->lookup_arg, name);
  if (!found) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: the variable %.80s is not set", what,
                 name);
    return NULL;
  }
  reader_append(out, room, used, found, strlen(found));
  return end + 1;
}

/* Copies a path or name, with "${VAR}" replaced and "$${" made "${". Complains and returns false
 * if that cannot be done or gives more than fits. */
static bool reader_expand(struct reader *r, const char *what, const struct reader_value *value,
                          char *out, size_t room)
{
  const char *p = value->text;
  size_t used = 0;
  out[0] = '\0';
  while (p && *p && used < room) {
    if (strncmp(p, "$${", 3) == 0) {
      reader_append(out, room, &used, "${", 2);
      p += 3;
    } else if (strncmp(p, "${", 2) == 0) {
      p = reader_variable(r, what, value, p, out, room, &used);
    } else {
      reader_append(out, room, &used, p++, 1);
    }
  }
  if (p && used < room)
    return true;
  if (p)
    report_error(r->report, value->at, CHI_ECONFIG, "%s: longer than %zu bytes", what, room - 1);
  out[0] = '\0';
  return false;
}

/* Text that was meant as text: not a number or a boolean by its looks. */
static bool reader_wants_text(struct report *report, const char *what, const char *expected,
                              const struct reader_value *value)
{
  if (value->kind == READER_TEXT)
    return true;
  if (value->kind == READER_NUMBER || value->kind == READER_BOOL)
    report_error(report, value->at, CHI_ECONFIG,
                 "%s: expected %s, found the %s %.80s; quote it if it is meant as text", what,
                 expected, value->kind == READER_BOOL ? "boolean" : "number", value->text);
  else
    reader_unexpected(report, what, expected, value);
  return false;
}

static bool reader_parse(struct reader *r, const struct config_key *key,
                         const struct reader_value *value, struct config_value *out)
{
  char buf[CONFIG_EXPECTED_MAX];
  const char *expected = config_key_expected(key, buf);
  size_t room = key->type == CONFIG_PATH ? CHI_PATH_MAX : CHI_NAME_MAX;
  struct reader_value found = *value;
  out->number = 0;
  out->text[0] = '\0';
  if (config_key_is_text(key)) {
    if (!reader_wants_text(r->report, key->name, expected, value) ||
        !reader_expand(r, key->name, value, out->text, room))
      return false;
    if (config_text_valid(key, out->text))
      return true;
    found.text = out->text;
  } else if (value->kind == READER_TEXT || value->kind == READER_NUMBER) {
    if (config_parse(key, value->text, &out->number))
      return true;
  }
  reader_unexpected(r->report, key->name, expected, &found);
  return false;
}

/* Notes an older spelling of a value that is a word. */
static void reader_note_word(struct reader *r, const struct config_key *key,
                             const struct reader_value *value, uint64_t number)
{
  const char *word;
  if (key->type != CONFIG_LEVEL && key->type != CONFIG_POLICY)
    return;
  word = config_word(key, number);
  if (strcmp(value->text, word) != 0)
    report_note(r->report, value->at, CHI_LOG_INFO, "\"%s\" is now spelled \"%s\"", value->text,
                word);
}

/* Stores a valid value unless another spelling of the key gave another one. */
static void reader_accept(struct reader *r, const struct config_key *key, size_t spelling,
                          struct report_mark at, const struct config_value *value)
{
  int *given = &r->given[key - config_key_at(0)];
  struct config_value other;
  if (*given) {
    size_t first = (size_t)*given - 1;
    config_get(r->config, key, &other);
    if (other.number != value->number || strcmp(other.text, value->text) != 0)
      report_error(r->report, at, CHI_ECONFIG,
                   "\"%s\" differs from \"%s\" in line %d, which is the same key",
                   reader_spelling(spelling), reader_spelling(first), r->spellings[first].line);
    return;
  }
  *given = (int)spelling + 1;
  config_put(r->config, key, value);
}

CHI_PRIVATE void reader_key(struct reader *r, const char *name, struct report_mark at,
                            const struct reader_value *value)
{
  const struct config_key *key;
  struct config_value parsed;
  size_t i = 0;
  CHI_ASSERT(r->section);
  while (i < READER_SPELLING_COUNT && !(reader_within(reader_spelling(i), r->section) &&
                                        strcmp(reader_leaf(reader_spelling(i)), name) == 0))
    i++;
  if (i == READER_SPELLING_COUNT) {
    reader_unknown_key(r->report, r->section, name, at);
    return;
  }
  if (!reader_first(r->report, &r->spellings[i], "", reader_spelling(i), at))
    return;
  key = reader_meaning(i);
  if (!key) {
    report_note(r->report, at, CHI_LOG_WARNING, "\"%s\" has no meaning any more and is ignored",
                reader_spelling(i));
    return;
  }
  if (value->kind == READER_REFUSED)
    return;
  if (i >= CONFIG_KEY_COUNT)
    report_note(r->report, at, CHI_LOG_INFO, "\"%s\" is now spelled \"%s\"", reader_spelling(i),
                key->name);
  if (!reader_parse(r, key, value, &parsed))
    return;
  reader_note_word(r, key, value, parsed.number);
  reader_accept(r, key, i, at, &parsed);
}

/* ---- reading compose -------------------------------------------------------------------- */

static chi_compose_entry *reader_last_pool(const struct reader *r)
{
  CHI_ASSERT(r->config->compose_count > 0);
  return &r->config->compose[r->config->compose_count - 1];
}

CHI_PRIVATE bool reader_pool(struct reader *r, const struct reader_value *value)
{
  chi_compose_entry *entry;
  if (value->kind == READER_REFUSED)
    return false;
  if (value->kind != READER_MAP) {
    reader_unexpected(r->report, "compose", "a map that describes a pool", value);
    return false;
  }
  if (r->config->compose_count >= CONFIG_POOLS_MAX) {
    if (!r->overfull)
      report_error(r->report, value->at, CHI_ECONFIG, "compose: more than %d pools",
                   CONFIG_POOLS_MAX);
    r->overfull = true;
    return false;
  }
  entry = config_new_pool(r->config);
  if (!entry) {
    report_error(r->report, value->at, CHI_ENOMEM, "compose: out of memory");
    return false;
  }
  r->pool = value->at;
  entry->line = value->at.line;
  entry->column = value->at.column;
  memset(r->fields, 0, sizeof(r->fields));
  return true;
}

static void reader_required(struct reader *r, size_t field, const struct reader_value *value)
{
  static const char *const expected[] = {"the name of a module", "a name or path",
                                         "dynamic, local or broadcast", "an id such as \"300.0\""};
  chi_compose_entry *entry = reader_last_pool(r);
  const char *what = reader_fields[field];
  struct reader_value found = *value;
  char name[CHI_PATH_MAX];
  bool ok = value->kind == READER_TEXT;
  if (field == READER_POOL_ID) {
    ok = (ok || value->kind == READER_NUMBER) &&
         config_parse_id(value->text, &entry->pool_major, &entry->pool_minor);
  } else if (!reader_wants_text(r->report, what, expected[field], value)) {
    return;
  } else if (field == READER_MOD_NAME) {
    ok = config_is_identifier(value->text);
    snprintf(entry->mod_name, sizeof(entry->mod_name), "%s", ok ? value->text : "");
  } else if (field == READER_POOL_QUERY) {
    ok = config_is_query(value->text);
    snprintf(entry->pool_query, sizeof(entry->pool_query), "%s", ok ? value->text : "");
  } else {
    if (!reader_expand(r, what, value, name, sizeof(name)))
      return;
    found.text = name;
    ok = *name && utf8_is_line(name);
    snprintf(entry->pool_name, sizeof(entry->pool_name), "%s", ok ? name : "");
  }
  if (!ok)
    reader_unexpected(r->report, what, expected[field], &found);
}

static void reader_param(struct reader *r, const char *name, struct report_mark at,
                         const struct reader_value *value)
{
  chi_compose_entry *entry = reader_last_pool(r);
  const chi_param *other = config_find_param(entry, name);
  int rc;
  if (value->kind >= READER_NOTHING) {
    reader_unexpected(r->report, name, "a value", value);
    return;
  }
  if (other) {
    report_error(r->report, at, CHI_ECONFIG, "\"%s\" is given twice, first in line %d", name,
                 other->line);
    return;
  }
  rc = chi_config_add_param(entry, name, value->text);
  if (rc == CHI_OK) {
    entry->params[entry->param_count - 1].line = at.line;
    entry->params[entry->param_count - 1].column = at.column;
  } else if (rc == CHI_ERANGE) {
    report_error(r->report, at, CHI_ECONFIG, "more than %d parameters", CONFIG_PARAMS_MAX);
  } else if (rc == CHI_EINVAL) {
    report_error(r->report, at, CHI_ECONFIG, "\"%.80s\" is not a parameter's name", name);
  } else {
    report_error(r->report, at, rc, "compose: out of memory");
  }
}

CHI_PRIVATE bool reader_field(struct reader *r, const char *name, struct report_mark at,
                              const struct reader_value *value)
{
  size_t i = 0;
  while (i < READER_FIELD_COUNT && strcmp(reader_fields[i], name) != 0)
    i++;
  if (i < READER_FIELD_COUNT) {
    if (reader_first(r->report, &r->fields[i], "", name, at) && value->kind != READER_REFUSED)
      reader_required(r, i, value);
    return false;
  }
  if (value->kind == READER_REFUSED)
    return false;
  if (value->kind == READER_MAP)
    return true;
  reader_param(r, name, at, value);
  return false;
}

static void reader_missing(struct reader *r, const char *field)
{
  const chi_compose_entry *entry = reader_last_pool(r);
  for (uint32_t i = 0; i < entry->param_count; i++) {
    const chi_param *p = &entry->params[i];
    if (reader_slip(p->name, field) != UINT32_MAX) {
      report_error(r->report, (struct report_mark){p->line, p->column}, CHI_ECONFIG,
                   "this pool has no \"%s\"; did you mean that by \"%.80s\"?", field, p->name);
      return;
    }
  }
  report_error(r->report, r->pool, CHI_ECONFIG, "this pool has no \"%s\"", field);
}

CHI_PRIVATE void reader_pool_end(struct reader *r)
{
  const chi_compose_entry *entry = reader_last_pool(r), *other;
  for (size_t i = 0; i < READER_FIELD_COUNT; i++) {
    if (!r->fields[i].line)
      reader_missing(r, reader_fields[i]);
  }
  other = config_find_pool(r->config, r->config->compose_count - 1, entry->pool_major,
                           entry->pool_minor, "");
  if (other)
    report_error(r->report, r->fields[READER_POOL_ID], CHI_ECONFIG,
                 "pool id %u.%u is taken by the pool of line %d", entry->pool_major,
                 entry->pool_minor, other->line);
  other = config_find_pool(r->config, r->config->compose_count - 1, 0, 0, entry->pool_name);
  if (other)
    report_error(r->report, r->fields[READER_POOL_NAME], CHI_ECONFIG,
                 "pool name \"%.200s\" is taken by the pool of line %d", entry->pool_name,
                 other->line);
}

CHI_PRIVATE void reader_end(struct reader *r)
{
  struct report_mark last = {0, 0};
  chi_error err;
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = config_key_at(i);
    struct reader_value preset = {READER_TEXT, key->preset, {0, 0}};
    struct config_value value;
    if (key->type != CONFIG_NAME)
      continue;
    if (reader_written(r, key->name).line > last.line)
      last = reader_written(r, key->name);
    config_get(r->config, key, &value);
    if (!*value.text && reader_parse(r, key, &preset, &value))
      config_put(r->config, key, &value);
  }
  /* Each value was checked when it was read, so it is one name being given to two segments, or
   * something that was in the struct before. */
  if (!r->report->errors && chi_config_check(r->config, &err) != CHI_OK)
    report_error(r->report, last, CHI_ECONFIG, "%s", err.text);
}

CHI_PRIVATE struct report_mark reader_written(const struct reader *r, const char *key)
{
  const struct config_key *found = config_find_key(key);
  int given;
  CHI_ASSERT(found);
  given = r->given[found - config_key_at(0)];
  return given ? r->spellings[given - 1] : (struct report_mark){0, 0};
}

#undef READER_WORD_MAX

/* ---- sources/hostfile.c ---- */
/* hostfile.c - the nodes of a cluster, from the text of a hostfile. */

#include <stdio.h>

#define HOSTFILE_PATTERN_MAX 1024 /* bytes: bounds the work for each name that comes out of it */
#define HOSTFILE_DIGITS_MAX 9     /* of a number in a range */

struct hostfile {
  chi_config *config;
  struct report *report;
  struct report_mark *marks; /* where each host was written */
  uint32_t room;             /* of marks */
  bool over;                 /* no use to read on */
};

/* A column of a line, [text, end): patterns separated by ";". Walked by hostfile_next. */
struct hostfile_column {
  const char *text, *end;
  struct report_mark at;
  uint32_t total;            /* names that come out of it */
  const char *group, *limit; /* the pattern being expanded */
  uint32_t index, count;     /* its next name, its names */
};

/* One item between the commas of a range: numbers from low to high in at least `width` digits. */
struct hostfile_item {
  uint32_t low, high;
  int width;
};

static bool hostfile_is_digit(char c)
{
  return c >= '0' && c <= '9';
}

static char hostfile_lower(char c)
{
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool hostfile_is_name_char(char c)
{
  char lower = hostfile_lower(c);
  return hostfile_is_digit(c) || (lower >= 'a' && lower <= 'z') || (c && strchr(".-_:%", c));
}

/* Where c is first in [p, end); end if it is not there. */
static const char *hostfile_find(const char *p, const char *end, char c)
{
  while (p < end && *p != c)
    p++;
  return p;
}

static struct report_mark hostfile_mark(const struct hostfile_column *c, const char *p)
{
  return (struct report_mark){c->at.line, c->at.column + (int)(p - c->text)};
}

/* ---- patterns --------------------------------------------------------------------------- */

/* Reads the digits at p and gives how many there are; 0 if none or too many. */
static size_t hostfile_digits(const char *p, const char *end, uint32_t *value)
{
  size_t n = 0;
  *value = 0;
  for (; p + n < end && hostfile_is_digit(p[n]); n++) {
    if (n == HOSTFILE_DIGITS_MAX)
      return 0;
    *value = *value * 10 + (uint32_t)(p[n] - '0');
  }
  return n;
}

/* Reads "7", "07" or "00-09" at p and gives what follows, NULL if it is malformed. Leading zeros
 * pad all numbers of the item to that width, so the upper end may not have others. */
static const char *hostfile_item(const char *p, const char *end, struct hostfile_item *item)
{
  size_t low = hostfile_digits(p, end, &item->low), high;
  if (!low)
    return NULL;
  item->high = item->low;
  item->width = low > 1 && *p == '0' ? (int)low : 0;
  p += low;
  if (p == end || *p != '-')
    return p;
  high = hostfile_digits(++p, end, &item->high);
  if (high < low || item->high < item->low)
    return NULL;
  if (high > low && *p == '0')
    return NULL;
  return p + high;
}

/* Counts the numbers of the range at p, which begins with "[". Gives its "]", or NULL and in *bad
 * where it is malformed. Counts no further than just beyond CONFIG_HOSTS_MAX. */
static const char *hostfile_range(const char *p, const char *end, uint32_t *count, const char **bad)
{
  struct hostfile_item item;
  uint64_t total = 0;
  do {
    const char *next = hostfile_item(p + 1, end, &item);
    if (!next || next == end || (*next != ',' && *next != ']')) {
      *bad = p + 1;
      return NULL;
    }
    total += (uint64_t)item.high - item.low + 1;
    p = next;
  } while (*p != ']');
  *count = total > CONFIG_HOSTS_MAX ? CONFIG_HOSTS_MAX + 1 : (uint32_t)total;
  return p;
}

/* Writes number `index` of the range at p, which is well-formed and has it. Gives its length, also
 * if there is less room. */
static size_t hostfile_pick(const char *p, const char *end, uint32_t index, char *out, size_t size)
{
  struct hostfile_item item;
  for (;;) {
    p = hostfile_item(p + 1, end, &item);
    CHI_ASSERT(p && p < end);
    if (index <= item.high - item.low)
      break;
    index -= item.high - item.low + 1;
  }
  return (size_t)snprintf(out, size, "%0*u", item.width, item.low + index);
}

/* "[::1]" is an IPv6 address in brackets and not a range: takes the brackets off. */
static void hostfile_unwrap(const char **p, const char **end)
{
  size_t n = (size_t)(*end - *p);
  if (n > 2 && **p == '[' && (*end)[-1] == ']' && hostfile_find(*p, *end, ':') < *end &&
      hostfile_find(*p + 1, *end, '[') == *end) {
    ++*p;
    --*end;
  }
}

/* Counts the names of the pattern [p, end), no further than just beyond CONFIG_HOSTS_MAX; 0, and in
 * *bad where, if it is malformed. */
static uint32_t hostfile_count(const char *p, const char *end, const char **bad)
{
  uint64_t total = 1;
  *bad = p;
  if (p == end || end - p > HOSTFILE_PATTERN_MAX)
    return 0;
  hostfile_unwrap(&p, &end);
  for (; p < end; p++) {
    uint32_t count = 1;
    *bad = p;
    if (*p == '[')
      p = hostfile_range(p, end, &count, bad);
    else if (!hostfile_is_name_char(*p))
      return 0;
    if (!p)
      return 0;
    total *= count;
    if (total > CONFIG_HOSTS_MAX)
      total = CONFIG_HOSTS_MAX + 1;
  }
  return (uint32_t)total;
}

/* Name number `index` of a well-formed pattern with `count` names: its last range runs fastest.
 * False if it does not fit. */
static bool hostfile_expand(const char *p, const char *end, uint32_t index, uint32_t count,
                            char *out, size_t size)
{
  size_t used = 0;
  hostfile_unwrap(&p, &end);
  for (; p < end && used < size; p++) {
    const char *bad;
    uint32_t range;
    if (*p != '[') {
      out[used++] = *p;
      continue;
    }
    const char *close = hostfile_range(p, end, &range, &bad);
    CHI_ASSERT(close && range && count % range == 0);
    count /= range;
    used += hostfile_pick(p, end, index / count, out + used, size - used);
    index %= count;
    p = close;
  }
  if (used >= size)
    return false;
  out[used] = '\0';
  return true;
}

/* ---- columns ---------------------------------------------------------------------------- */

static void hostfile_malformed(struct hostfile *h, const struct hostfile_column *c, const char *bad,
                               const char *limit)
{
  const char *problem = "unexpected character in a name or an address";
  if (bad > c->text && (bad[-1] == '[' || bad[-1] == ','))
    problem = "expected a range such as [0-9] or [00-09,12]";
  else if (bad == limit)
    problem = "expected a name or an address";
  else if (limit - bad > HOSTFILE_PATTERN_MAX)
    problem = "a name of more than 1024 bytes";
  report_error(h->report, hostfile_mark(c, bad), CHI_ECONFIG, "%s", problem);
}

/* Checks a column and counts its names; false after complaining. */
static bool hostfile_measure(struct hostfile *h, struct hostfile_column *c)
{
  const char *p = c->text;
  c->total = 0;
  for (;;) {
    const char *bad, *limit = hostfile_find(p, c->end, ';');
    uint32_t count = hostfile_count(p, limit, &bad);
    if (!count) {
      hostfile_malformed(h, c, bad, limit);
      return false;
    }
    c->total = count + c->total > CONFIG_HOSTS_MAX ? CONFIG_HOSTS_MAX + 1 : count + c->total;
    if (limit == c->end)
      break;
    p = limit + 1;
  }
  c->group = c->text;
  c->limit = hostfile_find(c->text, c->end, ';');
  c->index = 0;
  c->count = hostfile_count(c->group, c->limit, &p);
  return true;
}

/* The next name of a measured column that has one; false if it is too long. */
static bool hostfile_next(struct hostfile_column *c, char *out, size_t size)
{
  const char *bad;
  if (c->index == c->count) {
    CHI_ASSERT(c->limit < c->end);
    c->group = c->limit + 1;
    c->limit = hostfile_find(c->group, c->end, ';');
    c->index = 0;
    c->count = hostfile_count(c->group, c->limit, &bad);
  }
  return hostfile_expand(c->group, c->limit, c->index++, c->count, out, size);
}

/* ---- addresses -------------------------------------------------------------------------- */

static bool hostfile_is_ipv4(const char *text)
{
  for (int part = 0; part < 4; part++) {
    uint32_t value;
    size_t digits = hostfile_digits(text, text + strlen(text), &value);
    if (!digits || digits > 3 || value > 255)
      return false;
    text += digits;
    if (*text++ != (part < 3 ? '.' : '\0'))
      return false;
  }
  return true;
}

/* Not exact: what the system makes of an address shows when it is used. Here it is only made sure
 * that a slip of the pen, or a port, is noticed where it was written. */
static const char *hostfile_address_problem(const char *text)
{
  size_t colons = 0;
  for (const char *p = text; *p; p++)
    colons += *p == ':';
  if (colons) {
    size_t n = strcspn(text, "%");
    if (colons == 1)
      return "a port does not belong here; networking.port holds for all nodes";
    return strspn(text, "0123456789abcdefABCDEF:.") < n ? "not an IPv6 address" : NULL;
  }
  if (strchr(text, '%'))
    return "unexpected character in a name or an address";
  if (strspn(text, "0123456789.") == strlen(text) && !hostfile_is_ipv4(text))
    return "not an IPv4 address";
  return NULL;
}

/* ---- lines ------------------------------------------------------------------------------ */

static bool hostfile_add(struct hostfile *h, const char *name, const char *address,
                         struct report_mark at)
{
  uint32_t n = h->config->host_count;
  if (n == h->room) {
    uint32_t room = n ? n * 2 : 64;
    struct report_mark *grown = config_memory(h->marks, room * sizeof(*grown));
    if (!grown)
      return false;
    h->marks = grown;
    h->room = room;
  }
  h->marks[n] = at;
  return chi_config_add_host(h->config, name, address) == CHI_OK;
}

/* Adds the next host of a line; false if there is no use in going on with the line. */
static bool hostfile_host(struct hostfile *h, struct hostfile_column *names,
                          struct hostfile_column *addresses)
{
  char name[CHI_NAME_MAX], address[CHI_NAME_MAX];
  const char *problem;
  bool fits = hostfile_next(names, name, sizeof(name));
  if (addresses == names)
    memcpy(address, name, sizeof(address));
  else
    fits = hostfile_next(addresses, address, sizeof(address)) && fits;
  if (!fits) {
    report_error(h->report, names->at, CHI_ECONFIG, "a name of more than %d bytes",
                 CHI_NAME_MAX - 1);
    return false;
  }
  problem = hostfile_address_problem(address);
  if (problem) {
    report_error(h->report, addresses->at, CHI_ECONFIG, "\"%.80s\": %s", address, problem);
    return false;
  }
  if (!hostfile_add(h, name, address, names->at)) {
    report_error(h->report, names->at, CHI_ENOMEM, "out of memory");
    h->over = true;
  }
  return !h->over;
}

static void hostfile_hosts(struct hostfile *h, struct hostfile_column *names,
                           struct hostfile_column *addresses)
{
  if (!hostfile_measure(h, names) || (addresses != names && !hostfile_measure(h, addresses)))
    return;
  if (names->total > CONFIG_HOSTS_MAX - h->config->host_count) {
    report_error(h->report, names->at, CHI_ECONFIG, "more than %d hosts", CONFIG_HOSTS_MAX);
    h->over = true;
    return;
  }
  if (names->total != addresses->total) {
    report_error(h->report, addresses->at, CHI_ECONFIG, "%u addresses for %u names",
                 addresses->total, names->total);
    return;
  }
  for (uint32_t i = 0; i < names->total; i++) {
    if (!hostfile_host(h, names, addresses))
      return;
  }
}

static bool hostfile_is_blank(char c)
{
  return c == ' ' || c == '\t';
}

/* Reads the line [p, end), without its line break and comment. */
static void hostfile_line(struct hostfile *h, const char *p, const char *end, int line)
{
  struct hostfile_column columns[3];
  const char *start = p;
  size_t count = 0;
  while (p < end && count < CHI_COUNT(columns)) {
    struct hostfile_column *c = &columns[count];
    while (p < end && hostfile_is_blank(*p))
      p++;
    c->text = p;
    c->at = (struct report_mark){line, (int)(p - start) + 1};
    while (p < end && !hostfile_is_blank(*p))
      p++;
    c->end = p;
    count += c->end > c->text;
  }
  if (count > 2)
    report_error(h->report, columns[2].at, CHI_ECONFIG,
                 "expected a name and an address, found a third column");
  else if (count)
    hostfile_hosts(h, &columns[0], &columns[count - 1]);
}

/* ---- doubles ---------------------------------------------------------------------------- */

static bool hostfile_same(const char *a, const char *b)
{
  while (*a && hostfile_lower(*a) == hostfile_lower(*b))
    a++, b++;
  return hostfile_lower(*a) == hostfile_lower(*b);
}

static uint32_t hostfile_hash(const char *text)
{
  uint32_t hash = 2166136261u;
  for (; *text; text++)
    hash = (hash ^ (unsigned char)hostfile_lower(*text)) * 16777619u;
  return hash ^ hash >> 15;
}

/* Complains of hosts with an address, or a name, that an earlier one has. `slots` has room for at
 * least twice as many numbers as there are hosts; their count is a power of two. */
static void hostfile_doubles(struct hostfile *h, uint32_t *slots, uint32_t count, bool by_address)
{
  const chi_host *hosts = h->config->hosts;
  memset(slots, 0, count * sizeof(*slots));
  for (uint32_t i = 0; i < h->config->host_count; i++) {
    const char *key = by_address ? hosts[i].address : hosts[i].name;
    uint32_t at = hostfile_hash(key) & (count - 1);
    const chi_host *other = NULL;
    while (slots[at] && !other) {
      const chi_host *host = &hosts[slots[at] - 1];
      if (hostfile_same(by_address ? host->address : host->name, key))
        other = host;
      else
        at = (at + 1) & (count - 1);
    }
    if (!other)
      slots[at] = i + 1;
    else if (by_address || !hostfile_same(other->address, hosts[i].address))
      report_error(h->report, h->marks[i], CHI_ECONFIG,
                   "%s \"%s\" is given twice, first in line %d", by_address ? "address" : "name",
                   key, h->marks[other - hosts].line);
  }
}

static void hostfile_check(struct hostfile *h)
{
  uint32_t count = 16, *slots;
  while (count < 2 * h->config->host_count)
    count *= 2;
  slots = config_memory(NULL, count * sizeof(*slots));
  if (!slots) {
    report_error(h->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
    return;
  }
  hostfile_doubles(h, slots, count, true);
  hostfile_doubles(h, slots, count, false);
  config_memory(slots, 0);
}

CHI_PRIVATE void hostfile_parse(chi_config *config, const char *text, size_t size,
                                struct report *report)
{
  struct hostfile h = {.config = config, .report = report};
  const char *p = text, *end = text + size;
  uint32_t errors = report->errors;
  config_drop_hosts(config);
  if (size >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
    p += 3; /* a byte order mark */
  for (int line = 1; p < end && !h.over && !report_gave_up(report); line++) {
    const char *next = hostfile_find(p, end, '\n'), *stop = next;
    if (stop > p && stop[-1] == '\r')
      stop--;
    hostfile_line(&h, p, hostfile_find(p, stop, '#'), line);
    p = next < end ? next + 1 : end;
  }
  if (config->host_count)
    hostfile_check(&h);
  else if (report->errors == errors)
    report_error(report, (struct report_mark){0, 0}, CHI_ECONFIG, "no hosts in it");
  config_memory(h.marks, 0);
}

#undef HOSTFILE_PATTERN_MAX
#undef HOSTFILE_DIGITS_MAX

/* ---- sources/config.c ---- */
/* config.c - the configuration of a node: its keys, their defaults and bounds, the struct. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CONFIG_PAGE 4096
#define CONFIG_KI ((uint64_t)1024)
#define CONFIG_MI (CONFIG_KI * CONFIG_KI)
#define CONFIG_TI (CONFIG_MI * CONFIG_MI)
#define CONFIG_US ((uint64_t)1000)
#define CONFIG_MS (CONFIG_US * 1000)
#define CONFIG_S (CONFIG_MS * 1000)
#define CONFIG_TIME_MAX (CONFIG_S * 86400 * 365) /* so that adding it to a clock is safe */
#define CONFIG_AT(field) offsetof(chi_config, field)

static const struct config_key config_keys[] = {
    {"workers.sched_threads", NULL, CONFIG_AT(sched_threads), CONFIG_COUNT, 1, 1024, 0},
    {"workers.slow_threads", NULL, CONFIG_AT(slow_threads), CONFIG_COUNT, 1, 1024, 0},
    {"workers.process_reaper_threads", "1", CONFIG_AT(process_reaper_threads), CONFIG_COUNT, 1,
     1024, 0},
    {"memory.main_segment_size", "1G", CONFIG_AT(main_segment_size), CONFIG_SIZE, 4 * CONFIG_MI,
     256 * CONFIG_TI, 1},
    {"memory.client_data_segment_size", "512M", CONFIG_AT(client_data_segment_size), CONFIG_SIZE,
     4 * CONFIG_MI, 256 * CONFIG_TI, 1},
    {"memory.runtime_data_segment_size", "512M", CONFIG_AT(runtime_data_segment_size), CONFIG_SIZE,
     4 * CONFIG_MI, 256 * CONFIG_TI, 1},
    {"networking.port", "5555", CONFIG_AT(port), CONFIG_COUNT, 1, 65535, 0},
    {"networking.neighborhood_size", "32", CONFIG_AT(neighborhood_size), CONFIG_COUNT, 1,
     CONFIG_HOSTS_MAX, 0},
    {"networking.hostfile", "", CONFIG_AT(hostfile), CONFIG_PATH, 0, 0, 0},
    {"networking.wait_for_restart", "30", CONFIG_AT(wait_for_restart_ns), CONFIG_DURATION, 0,
     CONFIG_TIME_MAX, CONFIG_S},
    {"networking.wait_for_restart_poll_period", "1", CONFIG_AT(wait_for_restart_poll_ns),
     CONFIG_DURATION, CONFIG_MS, CONFIG_TIME_MAX, CONFIG_S},
    {"logging.level", "info", CONFIG_AT(log_level), CONFIG_LEVEL, 0, CHI_LOG_ERROR, 0},
    {"logging.file", "/tmp/chimaera.log", CONFIG_AT(log_file), CONFIG_PATH, 0, 0, 0},
    {"runtime.stack_size", "65536", CONFIG_AT(stack_size), CONFIG_SIZE, 16 * CONFIG_KI,
     1024 * CONFIG_MI, CONFIG_PAGE},
    {"runtime.queue_depth", "10000", CONFIG_AT(queue_depth), CONFIG_COUNT, 1, 1048576, 0},
    {"runtime.lane_map_policy", "round_robin", CONFIG_AT(lane_policy), CONFIG_POLICY, 0,
     CHI_LANE_RANDOM, 0},
    {"runtime.heartbeat_interval", "1000", CONFIG_AT(heartbeat_interval_ns), CONFIG_DURATION,
     CONFIG_MS, CONFIG_TIME_MAX, CONFIG_MS},
    {"runtime.task_timeout", "30000", CONFIG_AT(task_timeout_ns), CONFIG_DURATION, CONFIG_MS,
     CONFIG_TIME_MAX, CONFIG_MS},
    {"runtime.first_busy_wait", "50", CONFIG_AT(spin_window_ns), CONFIG_DURATION, 0,
     CONFIG_TIME_MAX, CONFIG_US},
    {"shared_memory.main_segment_name", "chi_main_segment_${USER}", CONFIG_AT(main_segment_name),
     CONFIG_NAME, 0, 0, 0},
    {"shared_memory.client_data_segment_name", "chi_client_data_segment_${USER}",
     CONFIG_AT(client_data_segment_name), CONFIG_NAME, 0, 0, 0},
    {"shared_memory.runtime_data_segment_name", "chi_runtime_data_segment_${USER}",
     CONFIG_AT(runtime_data_segment_name), CONFIG_NAME, 0, 0, 0},
};

_Static_assert(CHI_COUNT(config_keys) == CONFIG_KEY_COUNT, "keys");

/* Values of the two enumerations; an older word follows the current one. */
struct config_word {
  const char *word;
  int value;
};
static const struct config_word config_levels[] = {
    {"debug", CHI_LOG_DEBUG},  {"info", CHI_LOG_INFO},   {"warning", CHI_LOG_WARNING},
    {"warn", CHI_LOG_WARNING}, {"error", CHI_LOG_ERROR}, {NULL, 0},
};
static const struct config_word config_policies[] = {
    {"round_robin", CHI_LANE_ROUND_ROBIN},
    {"map_by_pid_tid", CHI_LANE_BY_PID_TID},
    {"random", CHI_LANE_RANDOM},
    {NULL, 0},
};

CHI_PRIVATE bool config_key_is_text(const struct config_key *key)
{
  return key->type == CONFIG_PATH || key->type == CONFIG_NAME;
}

static size_t config_room(const struct config_key *key)
{
  return key->type == CONFIG_PATH ? CHI_PATH_MAX : CHI_NAME_MAX;
}

CHI_PRIVATE void config_get(const chi_config *config, const struct config_key *key,
                            struct config_value *out)
{
  const char *field = (const char *)config + key->offset;
  uint32_t small;
  int word;
  out->text[0] = '\0';
  out->number = 0;
  if (config_key_is_text(key)) {
    size_t n = strnlen(field, config_room(key) - 1);
    memcpy(out->text, field, n);
    out->text[n] = '\0';
  } else if (key->type == CONFIG_COUNT) {
    memcpy(&small, field, sizeof(small));
    out->number = small;
  } else if (key->type == CONFIG_LEVEL || key->type == CONFIG_POLICY) {
    memcpy(&word, field, sizeof(word));
    out->number = word < 0 ? UINT64_MAX : (uint64_t)word;
  } else {
    memcpy(&out->number, field, sizeof(out->number));
  }
}

CHI_PRIVATE void config_put(chi_config *config, const struct config_key *key,
                            const struct config_value *value)
{
  char *field = (char *)config + key->offset;
  uint32_t small = (uint32_t)value->number;
  int word = (int)value->number;
  if (config_key_is_text(key)) {
    CHI_ASSERT(strlen(value->text) < config_room(key));
    memcpy(field, value->text, strlen(value->text) + 1);
  } else if (key->type == CONFIG_COUNT) {
    memcpy(field, &small, sizeof(small));
  } else if (key->type == CONFIG_LEVEL || key->type == CONFIG_POLICY) {
    memcpy(field, &word, sizeof(word));
  } else {
    memcpy(field, &value->number, sizeof(value->number));
  }
}

static const struct config_word *config_words(const struct config_key *key)
{
  return key->type == CONFIG_LEVEL ? config_levels : config_policies;
}

CHI_PRIVATE const char *config_word(const struct config_key *key, uint64_t value)
{
  const struct config_word *words = config_words(key);
  while (words->word && (uint64_t)words->value != value)
    words++;
  return words->word ? words->word : "?";
}

static bool config_match_word(const struct config_word *words, const char *text, uint64_t *out)
{
  for (; words->word; words++) {
    if (strcmp(words->word, text) == 0) {
      *out = (uint64_t)words->value;
      return true;
    }
  }
  return false;
}

CHI_PRIVATE bool config_parse(const struct config_key *key, const char *text, uint64_t *out)
{
  uint64_t value;
  int rc = CHI_EINVAL;
  if (key->type == CONFIG_COUNT)
    rc = units_parse_count(text, &value);
  else if (key->type == CONFIG_SIZE)
    rc = chi_parse_size(text, &value);
  else if (key->type == CONFIG_DURATION)
    rc = chi_parse_duration(text, key->unit, &value);
  else
    return config_match_word(config_words(key), text, out);
  if (rc != CHI_OK || value < key->min || value > key->max)
    return false;
  if (key->type == CONFIG_SIZE)
    value = (value + key->unit - 1) / key->unit * key->unit;
  *out = value;
  return true;
}

/* Letters, digits and a few signs, beginning with no sign. */
CHI_PRIVATE bool config_is_identifier(const char *text)
{
  static const char signs[] = "_.-";
  size_t i = 0;
  for (; text[i]; i++) {
    char c = text[i];
    bool sign = strchr(signs, c) != NULL;
    if (!sign && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z'))
      return false;
    if (i == 0 && sign && c != '_')
      return false;
  }
  return i > 0 && i < CHI_NAME_MAX;
}

CHI_PRIVATE bool config_is_query(const char *text)
{
  return strcmp(text, "dynamic") == 0 || strcmp(text, "local") == 0 ||
         strcmp(text, "broadcast") == 0;
}

CHI_PRIVATE bool config_text_valid(const struct config_key *key, const char *text)
{
  return utf8_is_line(text) && (key->type == CONFIG_PATH || (*text && !strchr(text, '/')));
}

CHI_PRIVATE bool config_parse_id(const char *text, uint32_t *major, uint32_t *minor)
{
  char buf[24];
  uint64_t a, b;
  char *dot;
  if (strlen(text) >= sizeof(buf))
    return false;
  memcpy(buf, text, strlen(text) + 1);
  dot = strchr(buf, '.');
  if (!dot)
    return false;
  *dot = '\0';
  if (units_parse_count(buf, &a) != CHI_OK || units_parse_count(dot + 1, &b) != CHI_OK)
    return false;
  if (a > UINT32_MAX || b > UINT32_MAX || (a == 0 && b == 0))
    return false;
  *major = (uint32_t)a;
  *minor = (uint32_t)b;
  return true;
}

CHI_PRIVATE const char *config_key_expected(const struct config_key *key, char *buf)
{
  char low[CHI_FORMAT_MAX], high[CHI_FORMAT_MAX];
  const char *unit = key->unit == CONFIG_S    ? "seconds"
                     : key->unit == CONFIG_MS ? "milliseconds"
                                              : "microseconds";
  switch (key->type) {
  case CONFIG_COUNT:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a whole number from %llu to %llu",
             (unsigned long long)key->min, (unsigned long long)key->max);
    return buf;
  case CONFIG_SIZE:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a size from %s to %s: bytes, or a number with K, M, G or T",
             chi_format_size(key->min, low, sizeof(low)),
             chi_format_size(key->max, high, sizeof(high)));
    return buf;
  case CONFIG_DURATION:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a time from %s to %s: %s, or a number with ns, us, ms or s",
             chi_format_duration(key->min, low, sizeof(low)),
             chi_format_duration(key->max, high, sizeof(high)), unit);
    return buf;
  case CONFIG_LEVEL:
    return "debug, info, warning or error";
  case CONFIG_POLICY:
    return "round_robin, map_by_pid_tid or random";
  case CONFIG_PATH:
    return "a path";
  case CONFIG_NAME:
    return "a name without \"/\"";
  }
  return "";
}

CHI_PRIVATE const struct config_key *config_key_at(size_t i)
{
  CHI_ASSERT(i < CONFIG_KEY_COUNT);
  return &config_keys[i];
}

CHI_PRIVATE const struct config_key *config_find_key(const char *name)
{
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    if (strcmp(config_keys[i].name, name) == 0)
      return &config_keys[i];
  }
  return NULL;
}

/* ---- the struct ------------------------------------------------------------------------- */

CHI_PRIVATE void *config_memory(void *old, size_t size)
{
  if (size)
    return realloc(old, size);
  free(old);
  return NULL;
}

/* Makes room for one more item in *array, which has count. Arrays grow only here, by doubling, so
 * a count that is a power of two means that the array is full. */
static bool config_grow(void *array, uint32_t count, size_t item)
{
  void *old, *grown;
  if (count & (count - 1))
    return true;
  memcpy(&old, array, sizeof(old));
  grown = config_memory(old, (count ? (size_t)count * 2 : 1) * item);
  if (grown)
    memcpy(array, &grown, sizeof(grown));
  return grown != NULL;
}

static char *config_copy(const char *text)
{
  size_t size = strlen(text) + 1;
  char *copy = config_memory(NULL, size);
  return copy ? memcpy(copy, text, size) : NULL;
}

CHI_PRIVATE void config_drop_pools(chi_config *config)
{
  for (uint32_t i = 0; i < config->compose_count; i++) {
    chi_compose_entry *entry = &config->compose[i];
    for (uint32_t k = 0; k < entry->param_count; k++) {
      config_memory(entry->params[k].name, 0);
      config_memory(entry->params[k].value, 0);
    }
    config_memory(entry->params, 0);
  }
  config->compose = config_memory(config->compose, 0);
  config->compose_count = 0;
}

CHI_PRIVATE void config_drop_hosts(chi_config *config)
{
  config->hosts = config_memory(config->hosts, 0);
  config->host_count = 0;
}

void chi_config_init(chi_config *config)
{
  memset(config, 0, sizeof(*config));
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    struct config_value value = {0, ""};
    bool ok = true;
    if (!key->preset || key->type == CONFIG_NAME)
      continue;
    if (key->type == CONFIG_PATH)
      snprintf(value.text, sizeof(value.text), "%s", key->preset);
    else
      ok = config_parse(key, key->preset, &value.number);
    CHI_ASSERT(ok);
    config_put(config, key, &value);
  }
}

void chi_config_free(chi_config *config)
{
  config_drop_pools(config);
  config_drop_hosts(config);
  chi_config_init(config);
}

CHI_PRIVATE const chi_compose_entry *config_find_pool(const chi_config *config, uint32_t count,
                                                      uint32_t major, uint32_t minor,
                                                      const char *name)
{
  for (uint32_t i = 0; i < count; i++) {
    const chi_compose_entry *e = &config->compose[i];
    bool same_id = (major || minor) && e->pool_major == major && e->pool_minor == minor;
    if (same_id || (*name && strcmp(e->pool_name, name) == 0))
      return e;
  }
  return NULL;
}

CHI_PRIVATE chi_compose_entry *config_new_pool(chi_config *config)
{
  chi_compose_entry *entry;
  if (!config_grow(&config->compose, config->compose_count, sizeof(*entry)))
    return NULL;
  entry = &config->compose[config->compose_count++];
  memset(entry, 0, sizeof(*entry));
  return entry;
}

int chi_config_add_pool(chi_config *config, const char *mod_name, const char *pool_name,
                        const char *pool_query, uint32_t major, uint32_t minor,
                        chi_compose_entry **entry)
{
  chi_compose_entry *new;
  if (!config_is_identifier(mod_name) || !*pool_name || strlen(pool_name) >= CHI_PATH_MAX ||
      !utf8_is_line(pool_name) || !config_is_query(pool_query) || (!major && !minor))
    return CHI_EINVAL;
  if (config->compose_count >= CONFIG_POOLS_MAX)
    return CHI_ERANGE;
  if (config_find_pool(config, config->compose_count, major, minor, pool_name))
    return CHI_EEXIST;
  new = config_new_pool(config);
  if (!new)
    return CHI_ENOMEM;
  memcpy(new->mod_name, mod_name, strlen(mod_name) + 1);
  memcpy(new->pool_name, pool_name, strlen(pool_name) + 1);
  memcpy(new->pool_query, pool_query, strlen(pool_query) + 1);
  new->pool_major = major;
  new->pool_minor = minor;
  if (entry)
    *entry = new;
  return CHI_OK;
}

CHI_PRIVATE const chi_param *config_find_param(const chi_compose_entry *entry, const char *name)
{
  for (uint32_t i = 0; i < entry->param_count; i++) {
    if (strcmp(entry->params[i].name, name) == 0)
      return &entry->params[i];
  }
  return NULL;
}

int chi_config_add_param(chi_compose_entry *entry, const char *name, const char *value)
{
  chi_param param = {NULL, NULL, 0, 0};
  if (!config_is_identifier(name) || !utf8_is_text(value))
    return CHI_EINVAL;
  if (entry->param_count >= CONFIG_PARAMS_MAX)
    return CHI_ERANGE;
  if (config_find_param(entry, name))
    return CHI_EEXIST;
  if (!config_grow(&entry->params, entry->param_count, sizeof(param)))
    return CHI_ENOMEM;
  param.name = config_copy(name);
  param.value = config_copy(value);
  if (!param.name || !param.value) {
    config_memory(param.name, 0);
    config_memory(param.value, 0);
    return CHI_ENOMEM;
  }
  entry->params[entry->param_count++] = param;
  return CHI_OK;
}

int chi_config_add_host(chi_config *config, const char *name, const char *address)
{
  chi_host *host;
  if (!address)
    address = name;
  if (!*name || strlen(name) >= CHI_NAME_MAX || !utf8_is_line(name) || !*address ||
      strlen(address) >= CHI_NAME_MAX || !utf8_is_line(address))
    return CHI_EINVAL;
  if (config->host_count >= CONFIG_HOSTS_MAX)
    return CHI_ERANGE;
  if (!config_grow(&config->hosts, config->host_count, sizeof(*host)))
    return CHI_ENOMEM;
  host = &config->hosts[config->host_count++];
  memset(host, 0, sizeof(*host));
  memcpy(host->name, name, strlen(name) + 1);
  memcpy(host->address, address, strlen(address) + 1);
  return CHI_OK;
}

/* ---- checking --------------------------------------------------------------------------- */

static bool config_key_valid(const chi_config *config, const struct config_key *key)
{
  struct config_value value;
  config_get(config, key, &value);
  if (config_key_is_text(key)) {
    const char *field = (const char *)config + key->offset;
    if (!memchr(field, '\0', config_room(key)))
      return false;
    return (key->type == CONFIG_NAME && !*value.text) || config_text_valid(key, value.text);
  }
  if (key->type == CONFIG_COUNT && !key->preset && value.number == 0)
    return true;
  return value.number >= key->min && value.number <= key->max;
}

static bool config_pool_valid(const chi_compose_entry *e)
{
  if (!memchr(e->mod_name, '\0', sizeof(e->mod_name)) ||
      !memchr(e->pool_name, '\0', sizeof(e->pool_name)) ||
      !memchr(e->pool_query, '\0', sizeof(e->pool_query)))
    return false;
  if (!config_is_identifier(e->mod_name) || !*e->pool_name || !utf8_is_line(e->pool_name) ||
      !config_is_query(e->pool_query) || (!e->pool_major && !e->pool_minor))
    return false;
  for (uint32_t i = 0; i < e->param_count; i++) {
    if (!config_is_identifier(e->params[i].name) || !utf8_is_text(e->params[i].value))
      return false;
  }
  return true;
}

static int config_check_pool(const chi_config *config, uint32_t i, chi_error *err)
{
  const chi_compose_entry *e = &config->compose[i];
  if (!config_pool_valid(e))
    return error_set(err, CHI_ECONFIG, "compose: entry %u lacks a proper name, query or id", i + 1);
  if (config_find_pool(config, i, e->pool_major, e->pool_minor, e->pool_name))
    return error_set(err, CHI_ECONFIG, "compose: entry %u has the id or name of another", i + 1);
  return CHI_OK;
}

static int config_check_names(const char *a, const char *b, chi_error *err)
{
  if (!*a || strcmp(a, b) != 0)
    return CHI_OK;
  return error_set(err, CHI_ECONFIG, "shared_memory: two segments have the name \"%s\"", a);
}

int chi_config_check(const chi_config *config, chi_error *err)
{
  char buf[CONFIG_EXPECTED_MAX];
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    if (!config_key_valid(config, key))
      return error_set(err, CHI_ECONFIG, "%s: expected %s", key->name,
                       config_key_expected(key, buf));
  }
  if (config_check_names(config->main_segment_name, config->client_data_segment_name, err) ||
      config_check_names(config->main_segment_name, config->runtime_data_segment_name, err) ||
      config_check_names(config->client_data_segment_name, config->runtime_data_segment_name, err))
    return CHI_ECONFIG;
  for (uint32_t i = 0; i < config->compose_count; i++) {
    if (config_check_pool(config, i, err) != CHI_OK)
      return CHI_ECONFIG;
  }
  return CHI_OK;
}

/* ---- printing --------------------------------------------------------------------------- */

struct config_writer {
  void (*put)(void *arg, const char *text);
  void *arg;
};

__attribute__((format(printf, 2, 3))) static void config_write(const struct config_writer *w,
                                                               const char *fmt, ...)
{
  char line[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof(line), fmt, args);
  va_end(args);
  w->put(w->arg, line);
}

/* One character within double quotes; gives its length in text. */
static size_t config_write_char(const struct config_writer *w, const char *text)
{
  uint32_t c;
  size_t n = utf8_char(text, &c);
  if (!n) {
    w->put(w->arg, "\\uFFFD");
    return 1;
  }
  if (c == '"' || c == '\\')
    config_write(w, "\\%c", (int)c);
  else if (utf8_is_control(c) || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe ||
           c == 0xffff)
    config_write(w, "\\u%04X", c);
  else
    config_write(w, "%.*s", (int)n, text);
  return n;
}

/* Text in double quotes; where variables are expanded, "${" is written so that it stays. */
static void config_write_text(const struct config_writer *w, const char *text, bool expanded)
{
  w->put(w->arg, "\"");
  while (*text) {
    if (expanded && strncmp(text, "${", 2) == 0)
      w->put(w->arg, "$");
    text += config_write_char(w, text);
  }
  w->put(w->arg, "\"\n");
}

static void config_write_key(const struct config_writer *w, const char *leaf,
                             const struct config_key *key, const struct config_value *value)
{
  char buf[CHI_FORMAT_MAX];
  if (key->type == CONFIG_COUNT && !key->preset && !value->number) {
    config_write(w, "  # %s: not set; 4, but at most one per CPU\n", leaf);
    return;
  }
  if (key->type == CONFIG_NAME && !*value->text) {
    config_write(w, "  %s: \"%s\"\n", leaf, key->preset);
    return;
  }
  config_write(w, "  %s: ", leaf);
  if (config_key_is_text(key))
    config_write_text(w, value->text, true);
  else if (key->type == CONFIG_COUNT)
    config_write(w, "%llu\n", (unsigned long long)value->number);
  else if (key->type == CONFIG_SIZE)
    config_write(w, "%s\n", chi_format_size(value->number, buf, sizeof(buf)));
  else if (key->type == CONFIG_DURATION)
    config_write(w, "%s\n", chi_format_duration(value->number, buf, sizeof(buf)));
  else
    config_write(w, "%s\n", config_word(key, value->number));
}

static void config_write_pool(const struct config_writer *w, const chi_compose_entry *entry)
{
  config_write(w, "  - mod_name: ");
  config_write_text(w, entry->mod_name, false);
  config_write(w, "    pool_name: ");
  config_write_text(w, entry->pool_name, true);
  config_write(w, "    pool_query: %s\n", entry->pool_query);
  config_write(w, "    pool_id: \"%u.%u\"\n", entry->pool_major, entry->pool_minor);
  for (uint32_t i = 0; i < entry->param_count; i++) {
    config_write(w, "    %s: ", entry->params[i].name);
    config_write_text(w, entry->params[i].value, false);
  }
}

void chi_config_print(const chi_config *config, void (*put)(void *arg, const char *text), void *arg)
{
  struct config_writer w = {put, arg};
  struct config_value value;
  const char *section = "";
  size_t length = 0;
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    if (strncmp(key->name, section, length + 1) != 0) {
      section = key->name;
      length = strcspn(section, ".");
      config_write(&w, "%.*s:\n", (int)length, section);
    }
    config_get(config, key, &value);
    config_write_key(&w, key->name + length + 1, key, &value);
  }
  config_write(&w, config->compose_count ? "compose:\n" : "compose: []\n");
  for (uint32_t i = 0; i < config->compose_count; i++)
    config_write_pool(&w, &config->compose[i]);
}

#undef CONFIG_PAGE
#undef CONFIG_KI
#undef CONFIG_MI
#undef CONFIG_TI
#undef CONFIG_US
#undef CONFIG_MS
#undef CONFIG_S
#undef CONFIG_TIME_MAX
#undef CONFIG_AT

/* ---- sources/report.c ---- */
/* report.c - telling what is wrong in a text file, and where. */

#include <stdarg.h>
#include <stdio.h>

#define REPORT_LINE_MAX 2048

static void report_format(char *line, const struct report *r, struct report_mark at,
                          const char *fmt, va_list args)
{
  const char *file = r->file ? r->file : "configuration";
  int n = at.line ? snprintf(line, REPORT_LINE_MAX, "%s:%d:%d: ", file, at.line, at.column)
                  : snprintf(line, REPORT_LINE_MAX, "%s: ", file);
  if (n >= 0 && n < REPORT_LINE_MAX)
    vsnprintf(line + n, REPORT_LINE_MAX - (size_t)n, fmt, args);
  utf8_make_line(line);
}

CHI_PRIVATE void report_error(struct report *r, struct report_mark at, int code, const char *fmt,
                              ...)
{
  char line[REPORT_LINE_MAX];
  va_list args;
  CHI_ASSERT(code < 0);
  if (report_gave_up(r))
    return;
  va_start(args, fmt);
  report_format(line, r, at, fmt, args);
  va_end(args);
  if (r->errors++ == 0) {
    r->code = code;
    error_set(r->err, code, "%s", line);
  }
  if (r->sink)
    r->sink(r->sink_arg, CHI_LOG_ERROR, line);
  if (r->sink && report_gave_up(r))
    r->sink(r->sink_arg, CHI_LOG_ERROR, "too many errors; what follows is not checked");
}

CHI_PRIVATE void report_note(struct report *r, struct report_mark at, int level, const char *fmt,
                             ...)
{
  char line[REPORT_LINE_MAX];
  va_list args;
  CHI_ASSERT(level < CHI_LOG_ERROR);
  if (!r->sink)
    return;
  va_start(args, fmt);
  report_format(line, r, at, fmt, args);
  va_end(args);
  r->sink(r->sink_arg, level, line);
}

CHI_PRIVATE bool report_gave_up(const struct report *r)
{
  return r->errors >= REPORT_ERRORS_MAX;
}

#undef REPORT_LINE_MAX

/* ---- sources/error.c ---- */
/* error.c - names and texts of status codes, error messages, failed assertions. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *chi_status_name(int code)
{
  switch (code) {
#define ERROR_NAME(name, code, text)                                                               \
  case name:                                                                                       \
    return #name;
    CHI_STATUS_TABLE(ERROR_NAME)
#undef ERROR_NAME
  default:
    return "unknown";
  }
}

const char *chi_status_text(int code)
{
  switch (code) {
#define ERROR_TEXT(name, code, text)                                                               \
  case name:                                                                                       \
    return text;
    CHI_STATUS_TABLE(ERROR_TEXT)
#undef ERROR_TEXT
  default:
    return "unknown";
  }
}

/* Format a line of text in place: line breaks become spaces, none stay at the end. */
static void error_one_line(char *text)
{
  size_t end = 0;
  for (size_t i = 0; text[i]; i++) {
    if (text[i] == '\n' || text[i] == '\r')
      text[i] = ' ';
    else
      end = i + 1;
  }
  text[end] = '\0';
}

CHI_PRIVATE int error_set(chi_error *err, int code, const char *fmt, ...)
{
  va_list args;
  if (!err)
    return code;
  err->code = code;
  va_start(args, fmt);
  if (vsnprintf(err->text, sizeof(err->text), fmt, args) < 0)
    err->text[0] = '\0';
  va_end(args);
  error_one_line(err->text);
  return code;
}

/* Not through stdio: an unbuffered stream takes 8 KiB of what may be a small or full stack. */
CHI_PRIVATE void chi_assert_failed(const char *cond, const char *file, int line)
{
  char text[512];
  int n = snprintf(text, sizeof(text), "chimaera: %s:%d: assertion failed: %s\n", file, line, cond);
  if (n >= (int)sizeof(text)) {
    n = sizeof(text);
    text[n - 1] = '\n';
  }
  if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0)
    abort();
  abort();
}

/* ---- sources/log.c ---- */
/* log.c - formatting a log line and handing it to the sink. */

#include <stdarg.h>
#include <stdio.h>

#define LOG_LIMIT_NS 1000000000u

static inline bool log_wants(const struct log *log, int level)
{
  return level >= log->level && log->sink;
}

/* Ends a line that filled all of size bytes with dots, not in the middle of a character. */
static void log_cut(char *line, size_t size)
{
  size_t end = size - sizeof("...");
  while (end > 0 && ((unsigned char)line[end] & 0xc0) == 0x80)
    end--;
  memcpy(line + end, "...", sizeof("..."));
}

__attribute__((format(printf, 4, 0))) static void
log_format(const struct log *log, int level, uint32_t suppressed, const char *fmt, va_list args)
{
  char line[LOG_LINE_MAX], tail[32] = "";
  size_t room;
  int n;
  if (suppressed > 0)
    snprintf(tail, sizeof(tail), " (%u more held back)", suppressed);
  room = sizeof(line) - strlen(tail);
  n = vsnprintf(line, room, fmt, args);
  if (n < 0)
    line[0] = '\0';
  else if ((size_t)n >= room)
    log_cut(line, room);
  utf8_make_line(line);
  memcpy(line + strlen(line), tail, strlen(tail) + 1);
  log->sink(log->arg, level, line);
}

CHI_PRIVATE void log_write(const struct log *log, int level, const char *fmt, ...)
{
  va_list args;
  if (!log_wants(log, level))
    return;
  va_start(args, fmt);
  log_format(log, level, 0, fmt, args);
  va_end(args);
}

CHI_PRIVATE void log_limited(const struct log *log, struct log_limit *limit, uint64_t now,
                             int level, const char *fmt, ...)
{
  uint32_t suppressed = limit->suppressed;
  va_list args;
  if (!log_wants(log, level))
    return;
  if (now < limit->next && limit->next - now <= LOG_LIMIT_NS) {
    limit->suppressed += suppressed < UINT32_MAX;
    return;
  }
  *limit = (struct log_limit){now + LOG_LIMIT_NS, 0};
  va_start(args, fmt);
  log_format(log, level, suppressed, fmt, args);
  va_end(args);
}

#undef LOG_LIMIT_NS

/* ---- sources/units.c ---- */
/* units.c - numbers with units: whole counts, sizes in bytes, durations. */

#include <stdio.h>

/* A decimal number as written: the digits before and after the point, and what follows. */
struct units_number {
  const char *whole, *fraction, *suffix;
  size_t whole_digits, fraction_digits;
};

static size_t units_digits(const char *text)
{
  size_t n = 0;
  while (text[n] >= '0' && text[n] <= '9')
    n++;
  return n;
}

static char units_lower(char c)
{
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Equal, where text may be in any case and word is in lower case. */
static bool units_same(const char *text, const char *word)
{
  while (*word && units_lower(*text) == *word)
    text++, word++;
  return !*text && !*word;
}

static int units_split(const char *text, struct units_number *n)
{
  n->whole = text;
  n->whole_digits = units_digits(text);
  n->fraction = n->suffix = text + n->whole_digits;
  n->fraction_digits = 0;
  if (*n->suffix == '.') {
    n->fraction = n->suffix + 1;
    n->fraction_digits = units_digits(n->fraction);
    n->suffix = n->fraction + n->fraction_digits;
    if (!n->fraction_digits)
      return CHI_EINVAL;
  }
  return n->whole_digits ? CHI_OK : CHI_EINVAL;
}

static int units_whole(const char *digits, size_t count, uint64_t *out)
{
  uint64_t value = 0;
  for (size_t i = 0; i < count; i++) {
    if (__builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, (uint64_t)(digits[i] - '0'), &value))
      return CHI_ERANGE;
  }
  *out = value;
  return CHI_OK;
}

/* number * unit, rounded down. Exact for any number of digits: the fraction is worked off from its
 * last digit, and rounding down at each step is the same as rounding down once at the end. */
static int units_scale(const struct units_number *n, uint64_t unit, uint64_t *out)
{
  uint64_t value, part = 0;
  bool zero = true;
  CHI_ASSERT(unit > 0 && unit <= UINT64_MAX / 10);
  if (units_whole(n->whole, n->whole_digits, &value) != CHI_OK)
    return CHI_ERANGE;
  for (size_t i = n->fraction_digits; i-- > 0;) {
    uint64_t digit = (uint64_t)(n->fraction[i] - '0');
    part = (unit * digit + part) / 10;
    zero = zero && digit == 0;
  }
  zero = zero && value == 0;
  if (__builtin_mul_overflow(value, unit, &value) || __builtin_add_overflow(value, part, &value))
    return CHI_ERANGE;
  if (value == 0 && !zero)
    return CHI_ERANGE;
  *out = value;
  return CHI_OK;
}

CHI_PRIVATE int units_parse_count(const char *text, uint64_t *out)
{
  size_t digits = units_digits(text);
  if (!digits || text[digits])
    return CHI_EINVAL;
  return units_whole(text, digits, out);
}

int chi_parse_size(const char *text, uint64_t *out)
{
  static const char letters[] = "kmgt";
  struct units_number n;
  const char *letter;
  if (!text || !out || units_split(text, &n) != CHI_OK)
    return CHI_EINVAL;
  if (!*n.suffix || units_same(n.suffix, "b"))
    return n.fraction_digits ? CHI_EINVAL : units_scale(&n, 1, out);
  letter = strchr(letters, units_lower(*n.suffix));
  if (!letter)
    return CHI_EINVAL;
  if (n.suffix[1] && !units_same(n.suffix + 1, "b") && !units_same(n.suffix + 1, "ib"))
    return CHI_EINVAL;
  return units_scale(&n, (uint64_t)1 << (10 * (letter - letters + 1)), out);
}

static const struct units_time {
  const char *name;
  uint64_t ns;
} units_times[] = {{"s", 1000000000}, {"ms", 1000000}, {"us", 1000}, {"ns", 1}};

int chi_parse_duration(const char *text, uint64_t unit_ns, uint64_t *out)
{
  struct units_number n;
  if (!text || !out || !unit_ns || unit_ns > UINT64_MAX / 10 || units_split(text, &n) != CHI_OK)
    return CHI_EINVAL;
  if (!*n.suffix)
    return units_scale(&n, unit_ns, out);
  for (size_t i = 0; i < CHI_COUNT(units_times); i++) {
    if (strcmp(n.suffix, units_times[i].name) == 0)
      return units_scale(&n, units_times[i].ns, out);
  }
  return CHI_EINVAL;
}

const char *chi_format_size(uint64_t bytes, char *buf, size_t size)
{
  static const char *const names[] = {"", "K", "M", "G", "T"};
  size_t i = 0;
  for (; bytes && bytes % 1024 == 0 && i + 1 < CHI_COUNT(names); i++)
    bytes /= 1024;
  snprintf(buf, size, "%llu%s", (unsigned long long)bytes, names[i]);
  return buf;
}

const char *chi_format_duration(uint64_t ns, char *buf, size_t size)
{
  size_t i = 0;
  while (ns % units_times[i].ns != 0)
    i++;
  snprintf(buf, size, "%llu%s", (unsigned long long)(ns / units_times[i].ns), units_times[i].name);
  return buf;
}

/* ---- sources/utf8.c ---- */
/* utf8.c - looking at UTF-8 text that ends in NUL. */

CHI_PRIVATE size_t utf8_char(const char *p, uint32_t *code)
{
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char first = (unsigned char)*p;
  size_t n = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  uint32_t c = n == 1 ? first : first & (0x7fu >> n);
  if ((first >= 0x80 && first < 0xc0) || first >= 0xf8)
    return 0;
  for (size_t i = 1; i < n; i++) {
    if (((unsigned char)p[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | ((unsigned char)p[i] & 0x3f);
  }
  if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
    return 0;
  *code = c;
  return n;
}

CHI_PRIVATE bool utf8_is_control(uint32_t code)
{
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

CHI_PRIVATE bool utf8_is_text(const char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    if (!n)
      return false;
    text += n;
  }
  return true;
}

CHI_PRIVATE bool utf8_is_line(const char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    if (!n || utf8_is_control(c))
      return false;
    text += n;
  }
  return true;
}

CHI_PRIVATE void utf8_make_line(char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    size_t skip = n ? n : 1;
    if (!n || utf8_is_control(c))
      memset(text, '?', skip);
    text += skip;
  }
}

/* ---- sources/rng.c ---- */
/* rng.c - xoshiro256**, seeded through splitmix64. */

#define RNG_STEP 0x9e3779b97f4a7c15u

static inline uint64_t rng_rotate(uint64_t x, unsigned bits)
{
  return x << bits | x >> (64 - bits);
}

CHI_PRIVATE void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream_a, uint64_t stream_b)
{
  uint64_t x = seed;
  x = hash_mix64(x + RNG_STEP) ^ stream_a;
  x = hash_mix64(x + RNG_STEP) ^ stream_b;
  x = hash_mix64(x + RNG_STEP);
  for (int i = 0; i < 4; i++)
    rng->s[i] = hash_mix64(x += RNG_STEP);
  CHI_ASSERT(rng->s[0] || rng->s[1]); /* all zero would stay so; mixing is one to one */
}

CHI_PRIVATE uint64_t rng_next(struct rng *rng)
{
  uint64_t *s = rng->s, out = rng_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rng_rotate(s[3], 45);
  return out;
}

CHI_PRIVATE uint64_t rng_below(struct rng *rng, uint64_t n)
{
  uint64_t rest, x;
  CHI_ASSERT(n > 0);
  rest = -n % n; /* 2^64 mod n: that many numbers are left out */
  do
    x = rng_next(rng);
  while (x < rest);
  return x % n;
}

CHI_PRIVATE bool rng_chance(struct rng *rng, uint32_t ppm)
{
  return rng_below(rng, 1000000) < ppm;
}

#undef RNG_STEP

/* ---- sources/hash.c ---- */
/* hash.c - XXH64, CRC-32C eight bytes at a time, and the hash of a stream. */

#if defined(__x86_64__) && !defined(__ILP32__)
#define HASH_CRC_INSTRUCTION 1
#endif

/* The constants of XXH64. */
#define HASH_P1 0x9e3779b185ebca87u
#define HASH_P2 0xc2b2ae3d27d4eb4fu
#define HASH_P3 0x165667b19e3779f9u
#define HASH_P4 0x85ebca77c2b2ae63u
#define HASH_P5 0x27d4eb2f165667c5u

/* Little-endian on every machine. */
static inline uint64_t hash_load64(const uint8_t *p)
{
  uint64_t v;
  memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

static inline uint32_t hash_load32(const uint8_t *p)
{
  uint32_t v;
  memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap32(v);
#endif
  return v;
}

static inline uint64_t hash_rotate(uint64_t x, unsigned bits)
{
  return x << bits | x >> (64 - bits);
}

static inline uint64_t hash_round(uint64_t sum, uint64_t word)
{
  return hash_rotate(sum + word * HASH_P2, 31) * HASH_P1;
}

static inline uint64_t hash_merge(uint64_t sum, uint64_t lane)
{
  return (sum ^ hash_round(0, lane)) * HASH_P1 + HASH_P4;
}

/* Four independent lanes over all whole blocks of 32 bytes. */
static uint64_t hash_blocks(const uint8_t *p, size_t blocks, uint64_t seed)
{
  uint64_t a = seed + HASH_P1 + HASH_P2, b = seed + HASH_P2, c = seed, d = seed - HASH_P1;
  uint64_t sum;
  for (; blocks > 0; blocks--, p += 32) {
    a = hash_round(a, hash_load64(p));
    b = hash_round(b, hash_load64(p + 8));
    c = hash_round(c, hash_load64(p + 16));
    d = hash_round(d, hash_load64(p + 24));
  }
  sum = hash_rotate(a, 1) + hash_rotate(b, 7) + hash_rotate(c, 12) + hash_rotate(d, 18);
  return hash_merge(hash_merge(hash_merge(hash_merge(sum, a), b), c), d);
}

CHI_PRIVATE uint64_t hash_bytes(const void *data, size_t size, uint64_t seed)
{
  const uint8_t *p = data;
  size_t left = size % 32;
  uint64_t sum = seed + HASH_P5;
  CHI_ASSERT(data || size == 0);
  if (size >= 32) {
    sum = hash_blocks(p, size / 32, seed);
    p += size - left;
  }
  sum += size;
  for (; left >= 8; left -= 8, p += 8)
    sum = hash_rotate(sum ^ hash_round(0, hash_load64(p)), 27) * HASH_P1 + HASH_P4;
  for (; left >= 4; left -= 4, p += 4)
    sum = hash_rotate(sum ^ hash_load32(p) * HASH_P1, 23) * HASH_P2 + HASH_P3;
  for (; left > 0; left--, p++)
    sum = hash_rotate(sum ^ *p * HASH_P5, 11) * HASH_P1;
  sum = (sum ^ sum >> 33) * HASH_P2;
  sum = (sum ^ sum >> 29) * HASH_P3;
  return sum ^ sum >> 32;
}

/* ---- CRC-32C ----------------------------------------------------------------------------- */

/* The sum of a byte is the exclusive or of the sums of its bits, so that the eight numbers in a row
 * below, for bits 7 to 0, make a table of 256. Table k is for a byte with k bytes after it. */
#define HASH_CRC(i, b7, b6, b5, b4, b3, b2, b1, b0)                                                \
  (((i)&128 ? b7 : 0) ^ ((i)&64 ? b6 : 0) ^ ((i)&32 ? b5 : 0) ^ ((i)&16 ? b4 : 0) ^                \
   ((i)&8 ? b3 : 0) ^ ((i)&4 ? b2 : 0) ^ ((i)&2 ? b1 : 0) ^ ((i)&1 ? b0 : 0))
#define HASH_CRC_4(i, ...)                                                                         \
  HASH_CRC(i, __VA_ARGS__), HASH_CRC((i) + 1, __VA_ARGS__), HASH_CRC((i) + 2, __VA_ARGS__),        \
      HASH_CRC((i) + 3, __VA_ARGS__)
#define HASH_CRC_16(i, ...)                                                                        \
  HASH_CRC_4(i, __VA_ARGS__), HASH_CRC_4((i) + 4, __VA_ARGS__), HASH_CRC_4((i) + 8, __VA_ARGS__),  \
      HASH_CRC_4((i) + 12, __VA_ARGS__)
#define HASH_CRC_64(i, ...)                                                                        \
  HASH_CRC_16(i, __VA_ARGS__), HASH_CRC_16((i) + 16, __VA_ARGS__),                                 \
      HASH_CRC_16((i) + 32, __VA_ARGS__), HASH_CRC_16((i) + 48, __VA_ARGS__)
#define HASH_CRC_TABLE(...)                                                                        \
  {                                                                                                \
    HASH_CRC_64(0, __VA_ARGS__), HASH_CRC_64(64, __VA_ARGS__), HASH_CRC_64(128, __VA_ARGS__),      \
        HASH_CRC_64(192, __VA_ARGS__)                                                              \
  }

static const uint32_t hash_crc_table[8][256] = {
    HASH_CRC_TABLE(0x82f63b78, 0x417b1dbc, 0x20bd8ede, 0x105ec76f, 0x8ad958cf, 0xc79a971f,
                   0xe13b70f7, 0xf26b8303),
    HASH_CRC_TABLE(0xfbc3faf9, 0xff17c604, 0x7f8be302, 0x3fc5f181, 0x9d14c3b8, 0x4e8a61dc,
                   0x274530ee, 0x13a29877),
    HASH_CRC_TABLE(0x8b277743, 0xc76580d9, 0xe144fb14, 0x70a27d8a, 0x38513ec5, 0x9edea41a,
                   0x4f6f520d, 0xa541927e),
    HASH_CRC_TABLE(0x52a0c93f, 0xaba65fe7, 0xd725148b, 0xe964b13d, 0xf64463e6, 0x7b2231f3,
                   0xbf672381, 0xdd45aab8),
    HASH_CRC_TABLE(0x6ea2d55c, 0x37516aae, 0x1ba8b557, 0x8f2261d3, 0xc5670b91, 0xe045beb0,
                   0x7022df58, 0x38116fac),
    HASH_CRC_TABLE(0x1c08b7d6, 0x0e045beb, 0x85f4168d, 0xc00c303e, 0x6006181f, 0xb2f53777,
                   0xdb8ca0c3, 0xef306b19),
    HASH_CRC_TABLE(0xf56e0ef4, 0x7ab7077a, 0x3d5b83bd, 0x9c5bfaa6, 0x4e2dfd53, 0xa5e0c5d1,
                   0xd0065990, 0x68032cc8),
    HASH_CRC_TABLE(0x34019664, 0x1a00cb32, 0x0d006599, 0x847609b4, 0x423b04da, 0x211d826d,
                   0x9278fa4e, 0x493c7d27),
};

CHI_PRIVATE uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
  const uint32_t(*table)[256] = hash_crc_table;
  const uint8_t *p = data;
  crc = ~crc;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t v = hash_load64(p) ^ crc;
    crc = table[7][v & 255] ^ table[6][v >> 8 & 255] ^ table[5][v >> 16 & 255] ^
          table[4][v >> 24 & 255] ^ table[3][v >> 32 & 255] ^ table[2][v >> 40 & 255] ^
          table[1][v >> 48 & 255] ^ table[0][v >> 56];
  }
  for (; size > 0; size--, p++)
    crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
  return ~crc;
}

#ifdef HASH_CRC_INSTRUCTION
__attribute__((target("sse4.2"))) static uint32_t hash_crc32c_fast(uint32_t crc, const void *data,
                                                                   size_t size)
{
  const uint8_t *p = data;
  uint64_t sum = ~crc;
  for (; size >= 8; size -= 8, p += 8)
    sum = __builtin_ia32_crc32di(sum, hash_load64(p));
  for (; size > 0; size--, p++)
    sum = __builtin_ia32_crc32qi((uint32_t)sum, *p);
  return ~(uint32_t)sum;
}
#endif

CHI_PRIVATE uint32_t hash_crc32c(uint32_t crc, const void *data, size_t size)
{
  CHI_ASSERT(data || size == 0);
#ifdef HASH_CRC_INSTRUCTION
  if (__builtin_cpu_supports("sse4.2"))
    return hash_crc32c_fast(crc, data, size);
#endif
  return hash_crc32c_portable(crc, data, size);
}

CHI_PRIVATE void hash_stream_bytes(struct hash_stream *stream, const void *data, size_t size)
{
  hash_stream_u64(stream, size);
  hash_stream_u64(stream, hash_bytes(data, size, 0));
}

#undef HASH_CRC_INSTRUCTION
#undef HASH_P1
#undef HASH_P2
#undef HASH_P3
#undef HASH_P4
#undef HASH_P5
#undef HASH_CRC
#undef HASH_CRC_4
#undef HASH_CRC_16
#undef HASH_CRC_64
#undef HASH_CRC_TABLE

/* ---- sources/heap.c ---- */
/* heap.c - a heap with four children per node: half the levels of a binary one, in fewer lines of
 * cache. */

#define HEAP_ARITY 4
#define HEAP_ROOM_FIRST 16
#define HEAP_ROOM_MAX (1u << 27) /* keeps positions of children and bytes in 32 bits */

static inline bool heap_before(const struct heap_slot *a, const struct heap_slot *b)
{
  return a->time < b->time || (a->time == b->time && a->seq < b->seq);
}

static inline void heap_place(struct heap *heap, uint32_t at, struct heap_slot slot)
{
  heap->slot[at] = slot;
  slot.entry->index = at + 1;
}

/* Fills the hole at `at` with slot, or with an ancestor and so on up. */
static void heap_rise(struct heap *heap, uint32_t at, struct heap_slot slot)
{
  while (at > 0) {
    uint32_t parent = (at - 1) / HEAP_ARITY;
    if (!heap_before(&slot, &heap->slot[parent]))
      break;
    heap_place(heap, at, heap->slot[parent]);
    at = parent;
  }
  heap_place(heap, at, slot);
}

/* Fills the hole at `at` with slot, or with its first child and so on down. */
static void heap_sink(struct heap *heap, uint32_t at, struct heap_slot slot)
{
  uint32_t child;
  while ((child = at * HEAP_ARITY + 1) < heap->count) {
    uint32_t end = child + HEAP_ARITY < heap->count ? child + HEAP_ARITY : heap->count;
    uint32_t best = child;
    while (++child < end)
      best = heap_before(&heap->slot[child], &heap->slot[best]) ? child : best;
    if (!heap_before(&heap->slot[best], &slot))
      break;
    heap_place(heap, at, heap->slot[best]);
    at = best;
  }
  heap_place(heap, at, slot);
}

CHI_PRIVATE void heap_init(struct heap *heap, const struct alloc *alloc)
{
  *heap = (struct heap){.alloc = alloc};
}

CHI_PRIVATE void heap_fini(struct heap *heap)
{
  alloc_put(heap->alloc, heap->slot, heap->room * sizeof(*heap->slot));
  heap->slot = NULL;
  heap->count = heap->room = 0;
}

CHI_PRIVATE int heap_reserve(struct heap *heap, uint32_t n)
{
  struct heap_slot *slot;
  if (n <= heap->room)
    return CHI_OK;
  if (n > HEAP_ROOM_MAX)
    return CHI_ENOMEM;
  slot = alloc_get(heap->alloc, n * sizeof(*slot));
  if (!slot)
    return CHI_ENOMEM;
  if (heap->count > 0)
    memcpy(slot, heap->slot, heap->count * sizeof(*slot));
  alloc_put(heap->alloc, heap->slot, heap->room * sizeof(*slot));
  heap->slot = slot;
  heap->room = n;
  return CHI_OK;
}

CHI_PRIVATE int heap_push(struct heap *heap, struct heap_entry *entry)
{
  CHI_ASSERT(entry->index == 0);
  if (heap->count == heap->room) {
    int rc = heap_reserve(heap, heap->room ? heap->room * 2 : HEAP_ROOM_FIRST);
    if (rc)
      return rc;
  }
  heap_rise(heap, heap->count++, (struct heap_slot){entry->time, entry->seq, entry});
  return CHI_OK;
}

CHI_PRIVATE struct heap_entry *heap_top(const struct heap *heap)
{
  return heap->count > 0 ? heap->slot[0].entry : NULL;
}

CHI_PRIVATE struct heap_entry *heap_pop(struct heap *heap)
{
  struct heap_entry *top = heap_top(heap);
  if (top)
    heap_remove(heap, top);
  return top;
}

CHI_PRIVATE void heap_remove(struct heap *heap, struct heap_entry *entry)
{
  uint32_t at = entry->index - 1;
  struct heap_slot last;
  CHI_ASSERT(heap_contains(heap, entry));
  CHI_ASSERT(heap->slot[at].time == entry->time && heap->slot[at].seq == entry->seq);
  entry->index = 0;
  last = heap->slot[--heap->count];
  if (at == heap->count)
    return;
  if (at > 0 && heap_before(&last, &heap->slot[(at - 1) / HEAP_ARITY]))
    heap_rise(heap, at, last);
  else
    heap_sink(heap, at, last);
}

CHI_PRIVATE bool heap_contains(const struct heap *heap, const struct heap_entry *entry)
{
  return entry->index > 0 && entry->index <= heap->count &&
         heap->slot[entry->index - 1].entry == entry;
}

#undef HEAP_ARITY
#undef HEAP_ROOM_FIRST
#undef HEAP_ROOM_MAX

/* ---- sources/ring.c ---- */
/* ring.c - small pieces that several workers of one node touch: latch, inbox, task list. */

void latch_lock(struct latch *l)
{
  while (!latch_try(l))
    while (atomic_get(&l->held))
      atomic_pause();
}

bool latch_try(struct latch *l)
{
  return atomic_get(&l->held) == 0 && atomic_swap(&l->held, 1) == 0;
}

void latch_unlock(struct latch *l)
{
  CHI_ASSERT(atomic_get(&l->held) == 1);
  atomic_set_release(&l->held, 0);
}

bool inbox_push(struct inbox *b, struct ring_node *n)
{
  struct ring_node *top = atomic_get(&b->top);
  do
    n->next = top;
  while (!atomic_cas(&b->top, &top, n));
  return top == NULL;
}

struct ring_node *inbox_take(struct inbox *b)
{
  if (inbox_empty(b))
    return NULL;
  struct ring_node *newest = atomic_swap(&b->top, NULL), *oldest = NULL;
  while (newest) {
    struct ring_node *next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

bool inbox_empty(const struct inbox *b)
{
  return atomic_get(&b->top) == NULL;
}

void ring_push(struct ring_list *l, struct ring_node *n)
{
  n->next = NULL;
  latch_lock(&l->latch);
  if (l->tail)
    l->tail->next = n;
  else
    l->head = n;
  l->tail = n;
  atomic_set(&l->count, l->count + 1);
  latch_unlock(&l->latch);
}

struct ring_node *ring_pop(struct ring_list *l)
{
  if (ring_empty(l))
    return NULL;
  latch_lock(&l->latch);
  struct ring_node *n = l->head;
  if (n) {
    l->head = n->next;
    if (!l->head)
      l->tail = NULL;
    atomic_set(&l->count, l->count - 1);
  }
  latch_unlock(&l->latch);
  return n;
}

bool ring_empty(const struct ring_list *l)
{
  return atomic_get(&l->count) == 0;
}

uint32_t ring_splice(struct ring_list *to, struct ring_list *from)
{
  CHI_ASSERT(to != from);
  latch_lock(&from->latch);
  struct ring_node *head = from->head, *tail = from->tail;
  uint32_t moved = from->count;
  from->head = from->tail = NULL;
  atomic_set(&from->count, 0);
  latch_unlock(&from->latch);
  if (!head)
    return 0;
  latch_lock(&to->latch);
  if (to->tail)
    to->tail->next = head;
  else
    to->head = head;
  to->tail = tail;
  atomic_set(&to->count, to->count + moved);
  latch_unlock(&to->latch);
  return moved;
}

bool gate_enter(struct gate *g, struct ring_node *n)
{
  uint32_t open = 0;
  if (atomic_cas(&g->state, &open, 1))
    return true;
  latch_lock(&g->latch);
  bool entered = atomic_swap(&g->state, 2) == 0;
  if (!entered) {
    n->next = NULL;
    if (g->tail)
      g->tail->next = n;
    else
      g->head = n;
    g->tail = n;
  }
  latch_unlock(&g->latch);
  return entered;
}

struct ring_node *gate_leave(struct gate *g)
{
  uint32_t alone = 1;
  if (atomic_cas(&g->state, &alone, 0))
    return NULL;
  CHI_ASSERT(alone == 2);
  latch_lock(&g->latch);
  struct ring_node *n = g->head;
  if (n) {
    g->head = n->next;
    if (!g->head)
      g->tail = NULL;
  }
  /* Only under the latch does the state leave 2, and only by whoever is inside. */
  atomic_set_release(&g->state, n ? (g->head ? 2u : 1u) : 0u);
  latch_unlock(&g->latch);
  return n;
}

/* ---- sources/real_node.c ---- */
#ifndef CHI_OMIT_REAL
/* real_node.c - a node in this process, and a client of one: chi_node_* and chi_client_open. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define REAL_NODE_THREADS 4u             /* of a kind, unless configured: at most the CPUs */
#define REAL_NODE_MARGIN_NS 10000000000u /* for a node that doesn't even say that it is stuck */
#define REAL_NODE_FAILED_GRACE_NS 1000000000u /* for what a failed start has begun */

struct chi_node {
  struct real_env real;
  chi_config config;
  struct real_link_place place;
  struct real_link_desk desk;
  struct runtime *runtime;
  struct real_thread_crew crew;
  int stop_fd;          /* readable as soon as the node was asked to stop */
  uint32_t stop_wanted; /* atomic: the network worker shall begin to stop */
  uint64_t grace_ns;    /* written before */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  enum runtime_state state; /* guarded by lock */
  uint64_t stop_grace;      /* of the stop under way, whoever asked for it; guarded by lock */
};

/* ---- states ---------------------------------------------------------------------------------- */

static void real_node_ask(struct chi_node *n)
{
  uint64_t one = 1;
  while (write(n->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
    ;
}

/* Network worker. */
static void real_node_on_state(void *arg, enum runtime_state state)
{
  struct chi_node *n = (struct chi_node *)arg;
  if (state == RUNTIME_STOPPED)
    real_thread_quit(&n->crew);
  pthread_mutex_lock(&n->lock);
  n->state = state;
  if (state >= RUNTIME_DRAINING)
    n->stop_grace = runtime_grace(n->runtime);
  pthread_cond_broadcast(&n->changed);
  pthread_mutex_unlock(&n->lock);
  if (state >= RUNTIME_DRAINING) /* last: who hears it finds all this */
    real_node_ask(n);
}

/* Network worker, between steps. */
static void real_node_turn(void *arg)
{
  struct chi_node *n = (struct chi_node *)arg;
  if (!mark_get(&n->stop_wanted))
    return;
  mark_set(&n->stop_wanted, 0); /* a further request while it stops changes nothing */
  runtime_stop(n->runtime, n->grace_ns);
}

static void real_node_deadline(struct chi_node *n, uint64_t patience, struct timespec *out)
{
  uint64_t now = n->real.env.clock(&n->real.env);
  uint64_t end = patience < UINT64_MAX / 2 - now ? now + patience : UINT64_MAX / 2;
  out->tv_sec = (time_t)(end / 1000000000u);
  out->tv_nsec = (long)(end % 1000000000u);
}

/* Waits until the state is one of a set of bits, at most so long; returns the state. */
static enum runtime_state real_node_await(struct chi_node *n, uint32_t set, uint64_t patience)
{
  struct timespec end;
  int rc = 0;
  real_node_deadline(n, patience, &end);
  pthread_mutex_lock(&n->lock);
  while (!(set >> n->state & 1) && rc == 0)
    rc = pthread_cond_timedwait(&n->changed, &n->lock, &end);
  enum runtime_state state = n->state;
  pthread_mutex_unlock(&n->lock);
  return state;
}

/* ---- upcalls of the loop --------------------------------------------------------------------- */

static void real_node_on_connect(void *arg, env_link link, const struct env_peer *peer)
{
  runtime_on_connect(((struct chi_node *)arg)->runtime, link, peer);
}

static void real_node_on_request(void *arg, env_link link, const void *message, size_t size)
{
  runtime_on_request(((struct chi_node *)arg)->runtime, link, message, size);
}

static void real_node_on_hangup(void *arg, env_link link)
{
  runtime_on_hangup(((struct chi_node *)arg)->runtime, link);
}

static void real_node_on_awake(void *arg)
{
  struct runtime *rt = ((struct chi_node *)arg)->runtime;
  runtime_awake(rt, runtime_network_worker(rt));
}

/* ---- open ------------------------------------------------------------------------------------ */

/* Everything of *config, with lists of its own. */
static int real_node_copy(chi_config *to, const chi_config *config)
{
  int rc = CHI_OK;
  *to = *config;
  to->compose = NULL;
  to->hosts = NULL;
  to->compose_count = to->host_count = 0;
  for (uint32_t i = 0; i < config->host_count && rc == CHI_OK; i++)
    rc = chi_config_add_host(to, config->hosts[i].name, config->hosts[i].address);
  for (uint32_t i = 0; i < config->compose_count && rc == CHI_OK; i++) {
    const chi_compose_entry *e = &config->compose[i];
    chi_compose_entry *mine = NULL;
    rc = chi_config_add_pool(to, e->mod_name, e->pool_name, e->pool_query, e->pool_major,
                             e->pool_minor, &mine);
    for (uint32_t k = 0; k < e->param_count && rc == CHI_OK; k++)
      rc = chi_config_add_param(mine, e->params[k].name, e->params[k].value);
  }
  return rc;
}

static int real_node_configure(struct chi_node *n, const chi_config *config, chi_error *err)
{
  int rc = real_node_copy(&n->config, config);
  if (rc != CHI_OK)
    return error_set(err, rc, "the configuration: %s", chi_status_text(rc));
  rc = real_conf_names(&n->config, err);
  if (rc == CHI_OK)
    rc = chi_config_check(&n->config, err);
  if (rc != CHI_OK)
    return rc;
  uint32_t cpus = real_limit_cpus(&n->real.limit);
  uint32_t threads = cpus < REAL_NODE_THREADS ? cpus : REAL_NODE_THREADS;
  n->crew.spinners = real_limit_spinners(&n->real.limit);
  if (n->config.sched_threads == 0)
    n->config.sched_threads = threads;
  if (n->config.slow_threads == 0)
    n->config.slow_threads = threads;
  return CHI_OK;
}

static int real_node_open_env(struct chi_node *n, const chi_config *config, chi_error *err)
{
  const struct real_loop_owner owner = {n, real_node_on_connect, real_node_on_request,
                                        real_node_on_hangup, real_node_on_awake};
  int rc = real_node_configure(n, config, err);
  if (rc == CHI_OK)
    rc = real_link_locate(n->real.directory, n->config.main_segment_name, n->config.port, &n->place,
                          err);
  if (rc == CHI_OK)
    rc = real_link_listen(&n->place, &n->desk, err);
  if (rc != CHI_OK)
    return rc;
  rc = real_loop_open(&n->real, n->desk.socket, REAL_LOOP_LINKS_MAX, &owner);
  if (rc == CHI_OK)
    rc = real_file_bind(&n->real, n->config.sched_threads + n->config.slow_threads + 1);
  real_shm_bind(&n->real);
  real_module_bind(&n->real);
  return rc == CHI_OK ? CHI_OK : error_set(err, rc, "cannot make an event loop");
}

/* Everything that stands before the first step. */
static int real_node_prepare(struct chi_node *n, const chi_config *config,
                             const chi_module *const *modules, uint32_t count, chi_error *err)
{
  int rc = real_node_open_env(n, config, err);
  if (rc != CHI_OK)
    return rc;
  const struct runtime_options options = {.config = &n->config,
                                          .instance = n->place.instance,
                                          .modules = modules,
                                          .module_count = count,
                                          .on_state = real_node_on_state,
                                          .arg = n};
  rc = runtime_open(&n->real.env, &options, &n->runtime, err);
  if (rc != CHI_OK)
    return rc;
  n->crew.env = &n->real;
  n->crew.runtime = n->runtime;
  n->crew.spin_window_ns = n->config.spin_window_ns;
  n->crew.turn = real_node_turn;
  n->crew.arg = n;
  return real_thread_start(&n->crew, err);
}

/* Frees whatever there is; no thread may be stepping. */
static void real_node_free(struct chi_node *n)
{
  if (n->runtime)
    runtime_close(n->runtime);
  if (n->real.files)
    real_file_close(&n->real);
  if (n->real.loop)
    real_loop_close(&n->real);
  real_link_leave(&n->place, &n->desk);
  real_module_close(&n->real);
  real_env_close(&n->real);
  chi_config_free(&n->config);
  close(n->stop_fd);
  pthread_cond_destroy(&n->changed);
  pthread_mutex_destroy(&n->lock);
  free(n);
}

static struct chi_node *real_node_new(const chi_config *config)
{
  struct chi_node *n = calloc(1, sizeof(*n));
  pthread_condattr_t attr;
  if (!n)
    return NULL;
  n->desk = (struct real_link_desk){-1, -1};
  n->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (n->stop_fd < 0 || real_env_open(&n->real, config->log_file) != CHI_OK) {
    if (n->stop_fd >= 0)
      close(n->stop_fd);
    free(n);
    return NULL;
  }
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&n->lock, NULL);
  pthread_cond_init(&n->changed, &attr);
  pthread_condattr_destroy(&attr);
  return n;
}

/* Begins to stop and waits for the end. CHI_EBUSY: it doesn't come. */
static int real_node_stop(struct chi_node *n, uint64_t grace_ns)
{
  struct env *env = &n->real.env;
  n->grace_ns = grace_ns;
  pthread_mutex_lock(&n->lock);
  if (n->state == RUNTIME_STUCK)
    n->state = RUNTIME_CANCELLING; /* to be told anew */
  uint64_t grace = n->stop_grace > grace_ns ? n->stop_grace : grace_ns;
  pthread_mutex_unlock(&n->lock);
  mark_set(&n->stop_wanted, 1);
  env->bell_ring(env, runtime_worker_bell(n->runtime, runtime_network_worker(n->runtime)));
  if (real_node_await(n, 1u << RUNTIME_STOPPED | 1u << RUNTIME_STUCK,
                      3 * grace + REAL_NODE_MARGIN_NS) != RUNTIME_STOPPED)
    return CHI_EBUSY;
  real_thread_join(&n->crew);
  return CHI_OK;
}

int chi_node_open(const chi_config *config, const chi_module *const *modules, uint32_t count,
                  chi_node **out, chi_error *err)
{
  struct chi_node *n = real_node_new(config);
  if (!n)
    return error_set(err, CHI_ENOMEM, "out of memory or descriptors");
  int rc = real_node_prepare(n, config, modules, count, err);
  if (rc != CHI_OK) {
    real_node_free(n);
    return rc;
  }
  real_node_await(n, ~(1u << RUNTIME_STARTING), UINT64_MAX);
  const chi_error *failure = runtime_failure(n->runtime);
  if (!failure || failure->code == CHI_OK) {
    *out = n;
    return CHI_OK;
  }
  rc = error_set(err, failure->code, "%s", failure->text);
  if (real_node_stop(n, REAL_NODE_FAILED_GRACE_NS) == CHI_OK) /* else its threads still use it */
    real_node_free(n);
  return rc;
}

/* ---- while it runs --------------------------------------------------------------------------- */

const char *chi_node_instance(const chi_node *node)
{
  return node->place.instance;
}

int chi_node_wait(chi_node *node, uint64_t timeout_ns)
{
  struct env *env = &node->real.env;
  uint64_t now = env->clock(env), deadline = UINT64_MAX;
  struct pollfd p = {node->stop_fd, POLLIN, 0};
  struct timespec left;
  if (!real_env_alive(&node->real))
    return CHI_EFORKED;
  if (timeout_ns < UINT64_MAX - now)
    deadline = now + timeout_ns;
  for (;;) {
    int n = ppoll(&p, 1, real_env_left(env->clock(env), deadline, &left), NULL);
    if (n > 0)
      return CHI_OK;
    if (n == 0)
      return CHI_ETIMEOUT;
  }
}

void chi_node_stop(chi_node *node)
{
  int error = errno;
  if (real_env_alive(&node->real))
    real_node_ask(node);
  errno = error;
}

int chi_node_guard(chi_node *node)
{
  return real_env_alive(&node->real) ? real_thread_guard() : CHI_EFORKED;
}

int chi_node_close(chi_node *node, uint32_t grace_ms)
{
  if (!real_env_alive(&node->real))
    return CHI_EFORKED;
  if (real_thread_inside(&node->crew))
    return CHI_EDEADLOCK;
  int rc = real_node_stop(node, (uint64_t)grace_ms * 1000000u);
  if (rc == CHI_OK)
    real_node_free(node);
  return rc;
}

/* ---- clients --------------------------------------------------------------------------------- */

static void real_node_dispose_client(struct env *env)
{
  struct real_env *r = real_env_of(env);
  real_env_close(r);
  free(r);
}

int chi_client_open(const char *instance, chi_client **out, chi_error *err)
{
  struct real_env *r = malloc(sizeof(*r));
  if (!r || real_env_open(r, NULL) != CHI_OK) {
    free(r);
    return error_set(err, CHI_ENOMEM, "out of memory");
  }
  real_shm_bind(r);
  real_link_bind(r);
  int rc = client_open(&r->env, real_node_dispose_client, instance, out, err);
  if (rc != CHI_OK)
    real_node_dispose_client(&r->env);
  return rc;
}

#undef REAL_NODE_THREADS
#undef REAL_NODE_MARGIN_NS
#undef REAL_NODE_FAILED_GRACE_NS

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_thread.c ---- */
#ifndef CHI_OMIT_REAL
/* real_thread.c - the threads of a node: each steps one worker, looks for more work, and parks. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define REAL_THREAD_BUDGET 64u        /* pieces of work in a step, for one look at the clock */
#define REAL_THREAD_PAUSES 72         /* about 1 us */
#define REAL_THREAD_TRY 64u           /* steps between tries to let tasks gather */
#define REAL_THREAD_TURNS 64          /* the least that a window gives way before it closes */
#define REAL_THREAD_GATHER 16         /* pauses in which they do */
#define REAL_THREAD_POLL_NS 50000u    /* the most a busy network worker leaves its sockets alone */
#define REAL_THREAD_ALT_SIZE 65536u   /* of the stack on which a memory fault is handled */

/* Signal actions belong to the process, and a handler has nothing but the thread it runs on to
 * find out whose fault it is: that is why these are not in a handle. */
static _Thread_local struct real_thread *real_thread_current
    __attribute__((tls_model("initial-exec")));
static struct sigaction real_thread_before[2]; /* SIGSEGV, SIGBUS */
static pthread_once_t real_thread_once = PTHREAD_ONCE_INIT;

/* ---- memory faults --------------------------------------------------------------------------- */

static void real_thread_pass_on(int signal, siginfo_t *info, void *context)
{
  const struct sigaction *before = &real_thread_before[signal == SIGBUS];
  if (before->sa_flags & SA_SIGINFO)
    before->sa_sigaction(signal, info, context);
  else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
    before->sa_handler(signal);
  else
    sigaction(signal, before, NULL); /* it faults again at once, and then as if we weren't there */
}

static void real_thread_on_fault(int signal, siginfo_t *info, void *context)
{
  struct real_thread *t = real_thread_current;
  char text[512];
  int error = errno;
  const char *said =
      t ? runtime_fault(t->crew->runtime, info->si_addr, text, sizeof(text)) : NULL;
  if (said) {
    real_log_cry(&t->crew->env->log, said);
    _exit(REAL_THREAD_OVERRUN_STATUS);
  }
  errno = error;
  real_thread_pass_on(signal, info, context);
}

static void real_thread_catch(void)
{
  struct sigaction action = {.sa_sigaction = real_thread_on_fault,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, NULL, &real_thread_before[1]);
  sigaction(SIGSEGV, NULL, &real_thread_before[0]);
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
}

int real_thread_guard(void)
{
  return pthread_once(&real_thread_once, real_thread_catch) == 0 ? CHI_OK : CHI_EINVAL;
}

/* Gives the thread a stack for signals; without one a fault merely kills without a word. */
static void *real_thread_enter(struct real_thread *t, stack_t *before)
{
  void *base = mmap(NULL, REAL_THREAD_ALT_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  real_thread_current = t;
  if (base == MAP_FAILED)
    return NULL;
  stack_t mine = {.ss_sp = base, .ss_size = REAL_THREAD_ALT_SIZE};
  if (sigaltstack(&mine, before) == 0)
    return base;
  munmap(base, REAL_THREAD_ALT_SIZE);
  return NULL;
}

static void real_thread_leave(void *base, const stack_t *before)
{
  real_thread_current = NULL;
  if (!base)
    return;
  sigaltstack(before, NULL);
  munmap(base, REAL_THREAD_ALT_SIZE);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static bool real_thread_is_network(const struct real_thread *t)
{
  return t->worker == runtime_network_worker(t->crew->runtime);
}

static uint64_t real_thread_now(const struct real_thread *t)
{
  struct env *env = &t->crew->env->env;
  return env->clock(env);
}

static bool real_thread_look(const struct real_thread *t)
{
  return runtime_has_work(t->crew->runtime, t->worker) ||
         real_file_ready(t->crew->env, t->worker);
}

/* Looks for work, giving the CPU to others in between, until the window or the deadline is over. */
static bool real_thread_yield(struct real_thread *t, uint64_t deadline)
{
  struct real_thread_crew *crew = t->crew;
  bool found = false;
  if (count_add(&crew->spinning, 1) < crew->spinners) {
    uint64_t end = t->now + t->spin.window;
    /* Where others run in between, time passes but nothing is spent: then turns count. */
    for (int n = 0; !found && t->now < deadline && (t->now < end || n < REAL_THREAD_TURNS); n++) {
      sched_yield();
      found = real_thread_look(t);
      t->now = real_thread_now(t);
    }
    real_spin_ended(&t->spin, found);
  }
  count_add(&crew->spinning, UINT32_MAX);
  return found;
}

/* When tasks come in a stream, it pays to let some gather before the next look: else both sides
 * fight over the one cache line where the next will be. Whether it pays shows in how many a step
 * finds; where single ones come at once it is tried now and then. */
static void real_thread_pace(struct real_thread *t, uint64_t done)
{
  if (done > 1) {
    t->gather = true;
  } else if (t->gather) {
    t->gather = false;
    t->tries = REAL_THREAD_TRY;
  } else if (t->tries > 0) {
    t->tries--;
  } else {
    t->gather = t->at_once;
  }
}

static bool real_thread_spin(struct real_thread *t, uint64_t deadline)
{
  for (int i = 0; t->gather && i < REAL_THREAD_GATHER; i++)
    atomic_pause();
  for (int i = 0; i < REAL_THREAD_PAUSES; i++) {
    if (real_thread_look(t)) {
      t->at_once = i == 0;
      return true;
    }
    atomic_pause();
  }
  t->at_once = false;
  return t->spin.window > 0 && real_thread_yield(t, deadline);
}

/* Sleeps until the bell, the deadline or a completed operation on a file. */
static void real_thread_park(struct real_thread *t, uint64_t deadline)
{
  struct real_thread_crew *crew = t->crew;
  int bell = real_env_bell_of(runtime_worker_bell(crew->runtime, t->worker))->fd;
  int ring = real_file_descriptor(crew->env, t->worker);
  struct pollfd p[] = {{bell, POLLIN, 0}, {ring, POLLIN, 0}};
  struct timespec left;
  int n = ppoll(p, ring >= 0 ? 2 : 1, real_env_left(real_thread_now(t), deadline, &left), NULL);
  if (n > 0 && p[0].revents)
    real_env_drain(bell);
  runtime_awake(crew->runtime, t->worker);
}

/* The network worker's loop calls runtime_awake itself, before anything is told to the runtime. */
static void real_thread_sleep(struct real_thread *t, uint64_t worked, uint64_t deadline)
{
  if (deadline <= real_thread_now(t))
    return;
  if (!runtime_may_sleep(t->crew->runtime, t->worker)) {
    runtime_awake(t->crew->runtime, t->worker);
    return;
  }
  if (real_thread_is_network(t))
    real_loop_sleep(t->crew->env->loop, deadline);
  else
    real_thread_park(t, deadline);
  t->polled = t->now = real_thread_now(t);
  real_spin_slept(&t->spin, t->polled - worked);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* What the network worker does between steps. False: it must not sleep. */
static bool real_thread_serve(struct real_thread *t, uint64_t now)
{
  struct real_env *r = t->crew->env;
  if (now - t->polled > REAL_THREAD_POLL_NS) {
    real_loop_poll(r->loop);
    t->polled = now;
  }
  t->crew->turn(t->crew->arg);
  int ring = real_file_descriptor(r, t->worker);
  if (ring >= 0 && !t->ring_watched)
    t->ring_watched = real_loop_watch(r->loop, ring, false) == CHI_OK;
  return ring < 0 || t->ring_watched;
}

static void real_thread_work(struct real_thread *t)
{
  struct real_thread_crew *crew = t->crew;
  bool network = real_thread_is_network(t);
  t->now = real_thread_now(t);
  while (!mark_get(&crew->quit)) {
    uint64_t now = t->now, deadline = UINT64_MAX;
    bool more = network && !real_thread_serve(t, now);
    uint64_t done = runtime_worker_done(crew->runtime, t->worker);
    more |= runtime_step(crew->runtime, t->worker, now, REAL_THREAD_BUDGET, &deadline);
    real_thread_pace(t, runtime_worker_done(crew->runtime, t->worker) - done);
    if (!real_file_flush(crew->env, t->worker)) {
      sched_yield();
      more = true;
    }
    /* Read here, where nobody waits for it, the time is good for a step that begins within 1 us. */
    t->now = real_thread_now(t);
    if (!more && !real_thread_spin(t, deadline))
      real_thread_sleep(t, now, deadline);
  }
}

/* Waits until all threads have been started. False: they could not. */
static bool real_thread_may_go(struct real_thread_crew *crew)
{
  pthread_mutex_lock(&crew->lock);
  while (crew->gate == 0)
    pthread_cond_wait(&crew->opened, &crew->lock);
  bool go = crew->gate == 1;
  pthread_mutex_unlock(&crew->lock);
  return go;
}

static void real_thread_name(const struct real_thread *t)
{
  char name[16];
  snprintf(name, sizeof(name), real_thread_is_network(t) ? "chi-net" : "chi-worker-%u",
           (unsigned)t->worker);
  pthread_setname_np(t->id, name);
}

static void *real_thread_main(void *arg)
{
  struct real_thread *t = (struct real_thread *)arg;
  stack_t before;
  prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* a sleep shall not be rounded up by 50 us */
  void *stack = real_thread_enter(t, &before);
  if (real_thread_may_go(t->crew))
    real_thread_work(t);
  real_thread_leave(stack, &before);
  return NULL;
}

/* ---- start and end --------------------------------------------------------------------------- */

static void real_thread_open_gate(struct real_thread_crew *crew, uint32_t gate)
{
  pthread_mutex_lock(&crew->lock);
  crew->gate = gate;
  pthread_cond_broadcast(&crew->opened);
  pthread_mutex_unlock(&crew->lock);
}

/* Signals are for the threads of the host program, except those that a thread brings on itself. */
static void real_thread_block_signals(sigset_t *before)
{
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t all;
  sigfillset(&all);
  for (size_t i = 0; i < CHI_COUNT(own); i++)
    sigdelset(&all, own[i]);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

static int real_thread_create_all(struct real_thread_crew *crew, uint32_t count)
{
  sigset_t before;
  int rc = 0;
  real_thread_block_signals(&before);
  while (crew->count < count) {
    struct real_thread *t = &crew->thread[crew->count];
    *t = (struct real_thread){.crew = crew, .worker = crew->count};
    real_spin_init(&t->spin, crew->spin_window_ns);
    rc = pthread_create(&t->id, NULL, real_thread_main, t);
    if (rc != 0)
      break;
    real_thread_name(t);
    crew->count++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return rc;
}

int real_thread_start(struct real_thread_crew *crew, chi_error *err)
{
  uint32_t count = runtime_worker_count(crew->runtime);
  env_bell bell = runtime_worker_bell(crew->runtime, runtime_network_worker(crew->runtime));
  pthread_mutex_init(&crew->lock, NULL);
  pthread_cond_init(&crew->opened, NULL);
  crew->thread = calloc(count, sizeof(*crew->thread));
  if (!crew->thread ||
      real_loop_watch(crew->env->loop, real_env_bell_of(bell)->fd, true) != CHI_OK) {
    real_thread_join(crew);
    return error_set(err, CHI_ENOMEM, "out of memory");
  }
  int rc = real_thread_create_all(crew, count);
  real_thread_open_gate(crew, rc == 0 ? 1 : 2);
  if (rc == 0)
    return CHI_OK;
  uint32_t started = crew->count;
  real_thread_join(crew);
  errno = rc;
  return error_set(err, CHI_ENOMEM, "cannot start thread %u of %u: %m", started + 1, count);
}

void real_thread_quit(struct real_thread_crew *crew)
{
  struct env *env = &crew->env->env;
  mark_set(&crew->quit, 1);
  for (uint32_t i = 0; i < runtime_worker_count(crew->runtime); i++)
    env->bell_ring(env, runtime_worker_bell(crew->runtime, i));
}

void real_thread_join(struct real_thread_crew *crew)
{
  for (uint32_t i = 0; i < crew->count; i++)
    pthread_join(crew->thread[i].id, NULL);
  free(crew->thread);
  crew->thread = NULL;
  crew->count = 0;
  pthread_mutex_destroy(&crew->lock);
  pthread_cond_destroy(&crew->opened);
}

bool real_thread_inside(const struct real_thread_crew *crew)
{
  return real_thread_current && real_thread_current->crew == crew;
}

#undef REAL_THREAD_BUDGET
#undef REAL_THREAD_PAUSES
#undef REAL_THREAD_TRY
#undef REAL_THREAD_TURNS
#undef REAL_THREAD_GATHER
#undef REAL_THREAD_POLL_NS
#undef REAL_THREAD_ALT_SIZE

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_spin.c ---- */
#ifndef CHI_OMIT_REAL
/* real_spin.c - how long a thread looks for work before it parks: as long as that pays. */

#ifndef CHI_OMIT_REAL

#define REAL_SPIN_WAKE_NS 50000u /* from a ring to the sleeper's first look, on another CPU */
#define REAL_SPIN_FRUITLESS 2u
#define REAL_SPIN_BRIEF 4u /* sleeps: work that comes just too late for a window wastes few */

void real_spin_init(struct real_spin *s, uint64_t limit)
{
  *s = (struct real_spin){.limit = limit};
}

void real_spin_ended(struct real_spin *s, bool found)
{
  s->fruitless = found ? 0 : s->fruitless + 1;
  if (s->fruitless >= REAL_SPIN_FRUITLESS)
    s->window = 0;
}

void real_spin_slept(struct real_spin *s, uint64_t took)
{
  bool brief = took < REAL_SPIN_WAKE_NS || took - REAL_SPIN_WAKE_NS < s->limit;
  s->brief = brief ? s->brief + 1 : 0;
  if (s->brief < REAL_SPIN_BRIEF)
    return;
  s->window = s->limit;
  s->fruitless = s->brief = 0;
}

#undef REAL_SPIN_WAKE_NS
#undef REAL_SPIN_FRUITLESS
#undef REAL_SPIN_BRIEF

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_loop.c ---- */
#ifndef CHI_OMIT_REAL
/* real_loop.c - the event loop of a node's network worker: the attach socket and its links, bells,
 * a deadline. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define REAL_LOOP_FIRST 64             /* links there is room for at first */
#define REAL_LOOP_ACCEPTS 16           /* accepted at a time, before others get their turn */
#define REAL_LOOP_REQUESTS 8           /* of one link at a time, likewise */
#define REAL_LOOP_OWED 16              /* who has more requests unanswered is no client */
#define REAL_LOOP_RETRY_S 0.1          /* until accepting is tried again after it failed */
#define REAL_LOOP_QUIET_NS 1000000000u /* between two complaints */

/* A link's handle is its generation and its index: a handle of a link that is gone fits nothing. */
struct real_loop_link {
  struct real_loop *loop;
  ev_io input, death;
  int fd;    /* -1: free */
  int pidfd; /* -1: none */
  uint32_t index, generation;
  uint32_t owed; /* requests without an answer */
  struct real_loop_link *next_free;
};

/* Something else that wakes the loop. */
struct real_loop_source {
  ev_io io;
  bool bell;
  struct real_loop_source *next;
};

struct real_loop {
  struct real_env *env;
  struct real_loop_owner owner;
  struct ev_loop *ev;
  ev_io listener, clock;
  ev_timer retry;
  int timer;      /* timerfd of the deadline: libev counts in milliseconds */
  uint64_t armed; /* what it is set to; UINT64_MAX: nothing */
  bool asleep;
  struct real_loop_source *sources;
  struct real_loop_link **link;
  uint32_t link_count, link_room, links_max, links_used;
  struct real_loop_link *free_links;
  uint64_t complained;
};

static void real_loop_complain(struct real_loop *l, const char *text)
{
  struct env *env = &l->env->env;
  uint64_t now = env->clock(env);
  if (l->complained && now - l->complained < REAL_LOOP_QUIET_NS)
    return;
  l->complained = now;
  env->log(env, CHI_LOG_WARNING, text);
}

/* ---- links ----------------------------------------------------------------------------------- */

static env_link real_loop_handle(const struct real_loop_link *k)
{
  return (env_link)((uint64_t)k->generation << 32 | k->index);
}

static struct real_loop_link *real_loop_find(const struct real_loop *l, env_link link)
{
  uint32_t index = (uint32_t)link, generation = (uint32_t)((uint64_t)link >> 32);
  if (index >= l->link_count)
    return NULL;
  struct real_loop_link *k = l->link[index];
  return k->fd >= 0 && k->generation == generation ? k : NULL;
}

/* A place for one more link, or NULL. */
static struct real_loop_link *real_loop_place(struct real_loop *l)
{
  struct real_loop_link *k = l->free_links;
  if (k) {
    l->free_links = k->next_free;
    return k;
  }
  if (l->link_count == l->link_room) {
    uint32_t room = l->link_room ? 2 * l->link_room : REAL_LOOP_FIRST;
    struct real_loop_link **more = realloc(l->link, room * sizeof(struct real_loop_link *));
    if (!more)
      return NULL;
    l->link = more;
    l->link_room = room;
  }
  k = calloc(1, sizeof(*k));
  if (!k)
    return NULL;
  k->loop = l;
  k->generation = 1;
  k->fd = k->pidfd = -1;
  k->index = l->link_count;
  l->link[l->link_count++] = k;
  return k;
}

static void real_loop_drop(struct real_loop_link *k)
{
  struct real_loop *l = k->loop;
  CHI_ASSERT(k->fd >= 0);
  ev_io_stop(l->ev, &k->input);
  shutdown(k->fd, SHUT_RDWR);
  close(k->fd);
  if (k->pidfd >= 0) {
    ev_io_stop(l->ev, &k->death);
    close(k->pidfd);
  }
  k->fd = k->pidfd = -1;
  k->generation = k->generation % INT32_MAX + 1;
  k->next_free = l->free_links;
  l->free_links = k;
  l->links_used--;
}

/* The end of a link that its owner does not know of yet. */
static void real_loop_hang_up(struct real_loop_link *k)
{
  struct real_loop *l = k->loop;
  env_link link = real_loop_handle(k);
  real_loop_drop(k);
  l->owner.hangup(l->owner.arg, link);
}

static void real_loop_on_death(struct ev_loop *ev, ev_io *io, int events)
{
  (void)ev;
  (void)events;
  real_loop_hang_up((struct real_loop_link *)io->data);
}

static void real_loop_on_input(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop_link *k = (struct real_loop_link *)io->data;
  struct real_loop *l = k->loop;
  env_link link = real_loop_handle(k);
  char message[ENV_MESSAGE_MAX];
  (void)ev;
  (void)events;
  for (int i = 0; i < REAL_LOOP_REQUESTS && real_loop_find(l, link) == k; i++) {
    int64_t size = real_link_take(k->fd, message, sizeof(message));
    if (size == 0)
      return;
    if (size < 0 || k->owed == REAL_LOOP_OWED) {
      real_loop_hang_up(k);
      return;
    }
    k->owed++;
    l->owner.request(l->owner.arg, link, message, (size_t)size);
  }
}

/* Takes over a connection. False: no memory. */
static bool real_loop_adopt(struct real_loop *l, int fd, const struct env_peer *peer)
{
  struct real_loop_link *k = real_loop_place(l);
  if (!k)
    return false;
  k->fd = fd;
  k->owed = 0;
  k->pidfd = real_link_watch(fd, peer);
  l->links_used++;
  ev_io_init(&k->input, real_loop_on_input, fd, EV_READ);
  k->input.data = k;
  ev_io_start(l->ev, &k->input);
  if (k->pidfd >= 0) {
    ev_io_init(&k->death, real_loop_on_death, k->pidfd, EV_READ);
    ev_set_priority(&k->death, EV_MINPRI); /* what it has sent before counts */
    k->death.data = k;
    ev_io_start(l->ev, &k->death);
  }
  l->owner.connect(l->owner.arg, real_loop_handle(k), peer);
  return true;
}

static void real_loop_welcome(struct real_loop *l, int fd)
{
  struct env_peer peer;
  if (real_link_peer(fd, &peer) != CHI_OK) {
    real_loop_complain(l, "refused a client of another user");
  } else if (l->links_used == l->links_max) {
    real_loop_complain(l, "refused a client: there are too many");
  } else if (!real_loop_adopt(l, fd, &peer)) {
    real_loop_complain(l, "refused a client: out of memory");
  } else {
    return;
  }
  close(fd);
}

/* Accepting fails as long as descriptors or memory are short, while the socket stays readable. */
static void real_loop_rest(struct real_loop *l)
{
  real_loop_complain(l, "cannot accept clients: out of descriptors or memory; trying again");
  ev_io_stop(l->ev, &l->listener);
  ev_timer_set(&l->retry, REAL_LOOP_RETRY_S, 0.);
  ev_now_update(l->ev);
  ev_timer_start(l->ev, &l->retry);
}

static void real_loop_on_retry(struct ev_loop *ev, ev_timer *timer, int events)
{
  struct real_loop *l = (struct real_loop *)timer->data;
  (void)events;
  ev_io_start(ev, &l->listener);
}

static void real_loop_on_listener(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop *l = (struct real_loop *)io->data;
  (void)ev;
  (void)events;
  for (int i = 0; i < REAL_LOOP_ACCEPTS; i++) {
    int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
      real_loop_welcome(l, fd);
    else if (errno == EAGAIN)
      return;
    else if (errno != EINTR && errno != ECONNABORTED) {
      real_loop_rest(l);
      return;
    }
  }
}

static int real_loop_reply(struct env *env, env_link link, const void *message, size_t size,
                           const struct env_share *shares, uint32_t count)
{
  struct real_loop_link *k = real_loop_find(real_env_of(env)->loop, link);
  if (!k)
    return CHI_ESHUTDOWN;
  int rc = real_link_answer(k->fd, message, size, shares, count);
  if (rc == CHI_ESHUTDOWN) /* who doesn't read answers is gone, too: the loop will see it */
    shutdown(k->fd, SHUT_RDWR);
  else if (rc == CHI_OK && k->owed > 0)
    k->owed--;
  return rc;
}

static void real_loop_close_link(struct env *env, env_link link)
{
  struct real_loop_link *k = real_loop_find(real_env_of(env)->loop, link);
  if (k)
    real_loop_drop(k);
}

/* ---- what else wakes ------------------------------------------------------------------------- */

static void real_loop_on_source(struct ev_loop *ev, ev_io *io, int events)
{
  const struct real_loop_source *s = (const struct real_loop_source *)io->data;
  (void)ev;
  (void)events;
  if (s->bell)
    real_env_drain(io->fd);
}

int real_loop_watch(struct real_loop *l, int fd, bool bell)
{
  struct real_loop_source *s = calloc(1, sizeof(*s));
  if (!s)
    return CHI_ENOMEM;
  s->bell = bell;
  s->next = l->sources;
  l->sources = s;
  ev_io_init(&s->io, real_loop_on_source, fd, EV_READ);
  s->io.data = s;
  ev_io_start(l->ev, &s->io);
  return CHI_OK;
}

static void real_loop_on_clock(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop *l = (struct real_loop *)io->data;
  (void)ev;
  (void)events;
  real_env_drain(io->fd);
  l->armed = UINT64_MAX;
}

static void real_loop_arm(struct real_loop *l, uint64_t deadline)
{
  struct itimerspec at = {{0, 0}, {0, 0}};
  if (deadline == l->armed)
    return;
  if (deadline != UINT64_MAX) {
    at.it_value.tv_sec = (time_t)(deadline / 1000000000u);
    at.it_value.tv_nsec = (long)(deadline % 1000000000u);
  }
  int rc = timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &at, NULL);
  CHI_ASSERT(rc == 0);
  l->armed = deadline;
}

/* libev calls this when it has waited, before it calls any watcher. */
static void real_loop_woken(struct ev_loop *ev)
{
  struct real_loop *l = (struct real_loop *)ev_userdata(ev);
  if (!l->asleep)
    return;
  l->asleep = false;
  l->owner.awake(l->owner.arg);
}

void real_loop_poll(struct real_loop *l)
{
  CHI_ASSERT(!l->asleep);
  ev_run(l->ev, EVRUN_NOWAIT);
}

void real_loop_sleep(struct real_loop *l, uint64_t deadline)
{
  CHI_ASSERT(!l->asleep);
  real_loop_arm(l, deadline);
  l->asleep = true;
  ev_run(l->ev, EVRUN_ONCE);
  CHI_ASSERT(!l->asleep);
}

/* ---- open and close -------------------------------------------------------------------------- */

static void real_loop_start(struct real_loop *l, int listener)
{
  ev_set_userdata(l->ev, l);
  ev_set_loop_release_cb(l->ev, NULL, real_loop_woken);
  ev_io_init(&l->listener, real_loop_on_listener, listener, EV_READ);
  ev_set_priority(&l->listener, EV_MINPRI); /* those who are there come first */
  l->listener.data = l;
  ev_io_start(l->ev, &l->listener);
  ev_io_init(&l->clock, real_loop_on_clock, l->timer, EV_READ);
  l->clock.data = l;
  ev_io_start(l->ev, &l->clock);
  ev_timer_init(&l->retry, real_loop_on_retry, REAL_LOOP_RETRY_S, 0.);
  l->retry.data = l;
}

int real_loop_open(struct real_env *r, int listener, uint32_t links_max,
                   const struct real_loop_owner *owner)
{
  struct real_loop *l = calloc(1, sizeof(*l));
  if (!l)
    return CHI_ENOMEM;
  l->env = r;
  l->owner = *owner;
  l->links_max = links_max;
  l->armed = UINT64_MAX;
  l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  l->ev = l->timer >= 0 ? ev_loop_new(EVFLAG_NOENV | EVBACKEND_EPOLL | EVBACKEND_POLL) : NULL;
  if (!l->ev) {
    if (l->timer >= 0)
      close(l->timer);
    free(l);
    return CHI_ENOMEM;
  }
  real_loop_start(l, listener);
  r->loop = l;
  r->env.link_reply = real_loop_reply;
  r->env.link_close = real_loop_close_link;
  return CHI_OK;
}

void real_loop_close(struct real_env *r)
{
  struct real_loop *l = r->loop;
  for (uint32_t i = 0; i < l->link_count; i++) {
    if (l->link[i]->fd >= 0)
      real_loop_drop(l->link[i]);
    free(l->link[i]);
  }
  while (l->sources) {
    struct real_loop_source *s = l->sources;
    l->sources = s->next;
    ev_io_stop(l->ev, &s->io);
    free(s);
  }
  ev_loop_destroy(l->ev);
  close(l->timer);
  free(l->link);
  free(l);
  r->loop = NULL;
}

#undef REAL_LOOP_FIRST
#undef REAL_LOOP_ACCEPTS
#undef REAL_LOOP_REQUESTS
#undef REAL_LOOP_OWED
#undef REAL_LOOP_RETRY_S
#undef REAL_LOOP_QUIET_NS

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_link.c ---- */
#ifndef CHI_OMIT_REAL
/* real_link.c - the attach socket: where it is, and messages with descriptors over it. */

#ifndef CHI_OMIT_REAL

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define REAL_LINK_BACKLOG 512    /* clients that have connected and wait to be accepted */
#define REAL_LINK_CONNECT_S 5    /* so long a client waits for room in it */
#define REAL_LINK_LOCK_TRIES 16  /* a lock file may be removed while it is being locked */
#define REAL_LINK_ENTRIES 65536   /* of the directory that are looked at: killed nodes leave some */
#define REAL_LINK_SUFFIX ".sock"
#define REAL_LINK_PEERPIDFD 77 /* SO_PEERPIDFD: Linux 6.5, not in older headers */

/* What precedes the bytes of a reply: how many descriptors come along, and which. */
struct real_link_header {
  uint32_t count;
  uint8_t kind[ENV_SHARES_MAX]; /* enum env_share_kind */
};

/* Room for the descriptors of a message. */
union real_link_control {
  char room[CMSG_SPACE(ENV_SHARES_MAX * sizeof(int))];
  struct cmsghdr align;
};

/* ---- where ----------------------------------------------------------------------------------- */

static void real_link_directory(const char *directory, char *out, size_t room)
{
  if (directory)
    snprintf(out, room, "%s", directory);
  else
    snprintf(out, room, "/tmp/chimaera-%u", (unsigned)geteuid());
}

static bool real_link_named(const char *name)
{
  if (!*name || *name == '.' || strchr(name, '/'))
    return false;
  for (; *name; name++)
    if ((unsigned char)*name < ' ' || *name == 127)
      return false;
  return true;
}

int real_link_locate(const char *directory, const char *name, uint32_t port,
                     struct real_link_place *out, chi_error *err)
{
  if (!real_link_named(name) || strlen(name) >= CHI_NAME_MAX)
    return error_set(err, CHI_EINVAL,
                     "\"%s\" is not a name of an instance: it is part of a file's name, and must "
                     "not be empty, begin with a dot, or contain a slash",
                     name);
  real_link_directory(directory, out->directory, sizeof(out->directory));
  snprintf(out->instance, sizeof(out->instance), "%s:%u", name, (unsigned)port);
  int n = snprintf(out->socket, sizeof(out->socket), "%s/%s-%u" REAL_LINK_SUFFIX, out->directory,
                   name, (unsigned)port);
  if (n < 0 || (size_t)n >= sizeof(out->socket))
    return error_set(err, CHI_ETOOBIG,
                     "the name \"%s\" is too long: the socket %s/%s-%u" REAL_LINK_SUFFIX
                     " would have %d bytes, and %d is the most",
                     name, out->directory, name, (unsigned)port, n, (int)sizeof(out->socket) - 1);
  snprintf(out->lock, sizeof(out->lock), "%s/%s-%u.lock", out->directory, name, (unsigned)port);
  return CHI_OK;
}

/* ---- a node listens -------------------------------------------------------------------------- */

static int real_link_check_directory(const char *path, chi_error *err)
{
  struct stat st;
  if (mkdir(path, 0700) != 0 && errno != EEXIST)
    return error_set(err, real_env_code(errno), "cannot make the directory %s: %m", path);
  if (lstat(path, &st) != 0)
    return error_set(err, real_env_code(errno), "cannot look at the directory %s: %m", path);
  if (!S_ISDIR(st.st_mode))
    return error_set(err, CHI_EACCES, "%s is %s, not a directory: remove it", path,
                     S_ISLNK(st.st_mode) ? "a symbolic link" : "something else");
  if (st.st_uid != geteuid())
    return error_set(err, CHI_EACCES, "the directory %s belongs to user %u, not to user %u", path,
                     (unsigned)st.st_uid, (unsigned)geteuid());
  if (st.st_mode & 077)
    return error_set(err, CHI_EACCES,
                     "the directory %s is open to others (mode %04o, expected 0700): remove it",
                     path, (unsigned)st.st_mode & 07777);
  return CHI_OK;
}

/* Another node holds the lock: says which process that is, if it has written that down. */
static int real_link_taken(const struct real_link_place *place, int fd, chi_error *err)
{
  char text[32] = "";
  uint64_t pid = 0;
  ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
  text[n > 0 ? n : 0] = '\0';
  text[strcspn(text, "\n")] = '\0';
  if (units_parse_count(text, &pid) == CHI_OK && pid > 0)
    return error_set(err, CHI_EBUSY, "instance %s is already served by process %llu (%s)",
                     place->instance, (unsigned long long)pid, place->lock);
  return error_set(err, CHI_EBUSY, "instance %s is already served by another process (%s)",
                   place->instance, place->lock);
}

/* Opens and locks the lock file. One that was removed meanwhile protects nothing: again then. */
static int real_link_lock(const struct real_link_place *place, int *out, chi_error *err)
{
  struct stat held, there;
  for (int i = 0; i < REAL_LINK_LOCK_TRIES; i++) {
    int fd = open(place->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0)
      return error_set(err, real_env_code(errno), "cannot open %s: %m", place->lock);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      int rc = errno == EWOULDBLOCK
                   ? real_link_taken(place, fd, err)
                   : error_set(err, real_env_code(errno), "cannot lock %s: %m", place->lock);
      close(fd);
      return rc;
    }
    if (fstat(fd, &held) == 0 && stat(place->lock, &there) == 0 && held.st_ino == there.st_ino &&
        held.st_dev == there.st_dev) {
      *out = fd;
      return CHI_OK;
    }
    close(fd);
  }
  return error_set(err, CHI_EBUSY, "cannot lock %s: it is removed again and again", place->lock);
}

/* Only for people, and for the message of real_link_taken: a full disk is no reason to stop. */
static void real_link_sign(int lock)
{
  char text[32];
  int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
  if (ftruncate(lock, 0) != 0 || pwrite(lock, text, (size_t)n, 0) != n)
    return;
}

static void real_link_address(const char *path, struct sockaddr_un *out)
{
  *out = (struct sockaddr_un){.sun_family = AF_UNIX};
  CHI_ASSERT(strlen(path) < sizeof(out->sun_path));
  memcpy(out->sun_path, path, strlen(path) + 1);
}

static int real_link_socket(const struct real_link_place *place, int *out, chi_error *err)
{
  struct sockaddr_un address;
  real_link_address(place->socket, &address);
  *out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*out < 0)
    return error_set(err, real_env_code(errno), "cannot make a socket: %m");
  if (unlink(place->socket) != 0 && errno != ENOENT)
    return error_set(err, real_env_code(errno), "cannot replace %s: %m", place->socket);
  if (bind(*out, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
      listen(*out, REAL_LINK_BACKLOG) != 0)
    return error_set(err, real_env_code(errno), "cannot listen at %s: %m", place->socket);
  return CHI_OK;
}

int real_link_listen(const struct real_link_place *place, struct real_link_desk *out,
                     chi_error *err)
{
  *out = (struct real_link_desk){-1, -1};
  int rc = real_link_check_directory(place->directory, err);
  if (rc == CHI_OK)
    rc = real_link_lock(place, &out->lock, err);
  if (rc != CHI_OK)
    return rc;
  real_link_sign(out->lock);
  rc = real_link_socket(place, &out->socket, err);
  if (rc != CHI_OK)
    real_link_leave(place, out);
  return rc;
}

void real_link_leave(const struct real_link_place *place, struct real_link_desk *desk)
{
  if (desk->socket >= 0) {
    unlink(place->socket);
    close(desk->socket);
  }
  if (desk->lock >= 0) {
    unlink(place->lock);
    close(desk->lock);
  }
  *desk = (struct real_link_desk){-1, -1};
}

/* ---- a node's side of a connection ----------------------------------------------------------- */

int real_link_peer(int fd, struct env_peer *out)
{
  struct ucred cred;
  socklen_t size = sizeof(cred);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0)
    return CHI_EACCES;
  *out = (struct env_peer){.uid = cred.uid, .pid = (uint32_t)cred.pid};
  return cred.uid == geteuid() || cred.uid == 0 || geteuid() == 0 ? CHI_OK : CHI_EACCES;
}

int real_link_watch(int fd, const struct env_peer *peer)
{
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (getsockopt(fd, SOL_SOCKET, REAL_LINK_PEERPIDFD, &pidfd, &size) != 0)
    pidfd = peer->pid ? (int)syscall(SYS_pidfd_open, peer->pid, 0) : -1;
  return pidfd;
}

/* The descriptors of what is shared. */
static int real_link_lend(const struct env_share *shares, uint32_t count,
                          struct real_link_header *header, int *fds)
{
  *header = (struct real_link_header){.count = count};
  for (uint32_t i = 0; i < count; i++) {
    const struct env_share *s = &shares[i];
    header->kind[i] = (uint8_t)s->kind;
    fds[i] = s->kind == ENV_SHARE_BELL            ? real_env_bell_of(s->bell)->fd
             : s->kind == ENV_SHARE_SEGMENT_WRITE ? real_shm_lend(&s->segment, ENV_SHARED_WRITE)
                                                  : real_shm_lend(&s->segment, ENV_SHARED_READ);
    if (fds[i] < 0)
      return CHI_EINVAL;
  }
  return CHI_OK;
}

static void real_link_attach(struct msghdr *m, union real_link_control *control, const int *fds,
                             uint32_t count)
{
  if (count == 0)
    return;
  memset(control, 0, sizeof(*control));
  m->msg_control = control->room;
  m->msg_controllen = CMSG_SPACE(count * sizeof(int));
  struct cmsghdr *c = CMSG_FIRSTHDR(m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(c), fds, count * sizeof(int));
}

int real_link_answer(int fd, const void *message, size_t size, const struct env_share *shares,
                     uint32_t count)
{
  struct real_link_header header;
  union real_link_control control;
  int fds[ENV_SHARES_MAX];
  if (size > ENV_MESSAGE_MAX || count > ENV_SHARES_MAX)
    return CHI_ETOOBIG;
  int rc = real_link_lend(shares, count, &header, fds);
  if (rc != CHI_OK)
    return rc;
  struct iovec part[] = {{&header, sizeof(header)}, {(void *)(uintptr_t)message, size}};
  struct msghdr m = {.msg_iov = part, .msg_iovlen = CHI_COUNT(part)};
  real_link_attach(&m, &control, fds, count);
  ssize_t n;
  do
    n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return CHI_ESHUTDOWN;
  for (uint32_t i = 0; i < count; i++)
    if (shares[i].kind == ENV_SHARE_SEGMENT_WRITE)
      real_shm_lent(&shares[i].segment, ENV_SHARED_WRITE);
  return CHI_OK;
}

int64_t real_link_take(int fd, void *message, size_t room)
{
  struct iovec part = {message, room};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1}; /* no room for descriptors */
  ssize_t n;
  do
    n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : CHI_ESHUTDOWN;
  return n == 0 || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ? CHI_ESHUTDOWN : n;
}

/* ---- a client finds its node ----------------------------------------------------------------- */

static int real_link_refused(int error, const char *path, chi_error *err)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    return error_set(err, CHI_ENODAEMON, "no daemon: there is no socket %s", path);
  case ECONNREFUSED:
  case EPROTOTYPE:
  case ENOTSOCK:
    return error_set(err, CHI_ENODAEMON, "no daemon: nobody listens at %s", path);
  case EAGAIN:
    return error_set(err, CHI_EBUSY, "the daemon at %s does not answer", path);
  default:
    errno = error;
    return error_set(err, real_env_code(error), "cannot connect to %s: %m", path);
  }
}

/* Connects to the socket of that path. */
static int real_link_dial(const char *path, int *out, chi_error *err)
{
  struct sockaddr_un address;
  struct timeval patience = {REAL_LINK_CONNECT_S, 0}, none = {0, 0};
  struct env_peer peer;
  int rc;
  if (strlen(path) >= sizeof(address.sun_path))
    return error_set(err, CHI_ETOOBIG, "the path %s has %zu bytes, and %zu is the most of a socket",
                     path, strlen(path), sizeof(address.sun_path) - 1);
  real_link_address(path, &address);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return error_set(err, real_env_code(errno), "cannot make a socket: %m");
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  do
    rc = connect(fd, (const struct sockaddr *)&address, sizeof(address));
  while (rc != 0 && errno == EINTR);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
  if (rc != 0)
    rc = real_link_refused(errno, path, err);
  else if (real_link_peer(fd, &peer) != CHI_OK)
    rc = error_set(err, CHI_EACCES, "%s is served by another user", path);
  if (rc != CHI_OK)
    close(fd);
  else
    *out = fd;
  return rc;
}

/* Splits "NAME-PORT.sock" or "NAME:PORT" at the last mark; false if there is no port behind it. */
static bool real_link_split(const char *text, char mark, const char *end, char *name, size_t room,
                            uint64_t *port)
{
  char digits[8];
  const char *at = end;
  while (at > text && at[-1] != mark)
    at--;
  size_t length = (size_t)(end - at);
  if (at == text || length >= sizeof(digits) || (size_t)(at - text) > room)
    return false;
  memcpy(digits, at, length);
  digits[length] = '\0';
  memcpy(name, text, (size_t)(at - text) - 1);
  name[at - text - 1] = '\0';
  return units_parse_count(digits, port) == CHI_OK && *port <= UINT16_MAX;
}

/* A search for the only node with this name or port. */
struct real_link_search {
  char directory[REAL_LINK_DIRECTORY_MAX];
  const char *name; /* NULL: any */
  const char *port; /* NULL: any */
  int fd;           /* of the first node found, else -1 */
  char found[CHI_NAME_MAX + 16];
};

/* Tries one file of the directory. CHI_EINVAL: it is the second that answers. */
static int real_link_try(struct real_link_search *s, const char *file, chi_error *err)
{
  char name[CHI_NAME_MAX], text[16], path[REAL_LINK_DIRECTORY_MAX + CHI_NAME_MAX];
  size_t length = strlen(file), suffix = strlen(REAL_LINK_SUFFIX);
  uint64_t port;
  int fd;
  if (length <= suffix || strcmp(file + length - suffix, REAL_LINK_SUFFIX) != 0 ||
      !real_link_split(file, '-', file + length - suffix, name, sizeof(name), &port))
    return CHI_OK;
  snprintf(text, sizeof(text), "%u", (unsigned)port);
  if ((s->name && strcmp(name, s->name) != 0) || (s->port && strcmp(text, s->port) != 0))
    return CHI_OK;
  snprintf(path, sizeof(path), "%s/%s", s->directory, file);
  if (real_link_dial(path, &fd, NULL) != CHI_OK)
    return CHI_OK;
  if (s->fd >= 0) {
    close(fd);
    return error_set(err, CHI_EINVAL, "there are several daemons, among them %s and %s:%s",
                     s->found, name, text);
  }
  s->fd = fd;
  snprintf(s->found, sizeof(s->found), "%s:%s", name, text);
  return CHI_OK;
}

static int real_link_search(struct real_link_search *s, chi_error *err)
{
  DIR *d = opendir(s->directory);
  const struct dirent *e;
  int rc = CHI_OK;
  for (int i = 0; d && rc == CHI_OK && i < REAL_LINK_ENTRIES && (e = readdir(d)); i++)
    rc = real_link_try(s, e->d_name, err);
  if (d)
    closedir(d);
  if (rc == CHI_OK && s->fd < 0)
    return error_set(err, CHI_ENODAEMON, "no daemon: nobody listens at %s/%s-%s" REAL_LINK_SUFFIX,
                     s->directory, s->name ? s->name : "*", s->port ? s->port : "*");
  if (rc != CHI_OK && s->fd >= 0)
    close(s->fd);
  return rc;
}

/* The instance that the configuration names. */
static int real_link_configured(struct real_env *r, int *fd, chi_error *err)
{
  struct real_link_place place;
  chi_config config;
  chi_config_init(&config);
  int rc = chi_config_load(&config, NULL, NULL, NULL, err);
  if (rc == CHI_OK)
    rc = real_link_locate(r->directory, config.main_segment_name, config.port, &place, err);
  chi_config_free(&config);
  return rc == CHI_OK ? real_link_dial(place.socket, fd, err) : rc;
}

/* Connects to an instance, whichever way it is written. */
static int real_link_find(struct real_env *r, const char *instance, int *fd, chi_error *err)
{
  struct real_link_place place;
  struct real_link_search search = {.fd = -1};
  char name[CHI_NAME_MAX];
  uint64_t port;
  if (!instance)
    return real_link_configured(r, fd, err);
  if (strchr(instance, '/'))
    return real_link_dial(instance, fd, err);
  bool split =
      real_link_split(instance, ':', instance + strlen(instance), name, sizeof(name), &port);
  if (split && *name) {
    int rc = real_link_locate(r->directory, name, (uint32_t)port, &place, err);
    return rc == CHI_OK ? real_link_dial(place.socket, fd, err) : rc;
  }
  if (!split && !real_link_named(instance))
    return error_set(err, CHI_EINVAL, "\"%s\" is not an instance: expected NAME:PORT", instance);
  real_link_directory(r->directory, search.directory, sizeof(search.directory));
  search.name = split ? NULL : instance;
  search.port = split ? instance + 1 : NULL;
  int rc = real_link_search(&search, err);
  *fd = search.fd;
  return rc;
}

/* ---- a client's side of a connection --------------------------------------------------------- */

struct real_link {
  int fd;
  pthread_mutex_t calling; /* held from a request to its answer */
};

static struct real_link *real_link_of(env_link link)
{
  return (struct real_link *)(intptr_t)link;
}

static int real_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  struct real_env *r = real_env_of(env);
  if (!real_env_alive(r))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  struct real_link *l = malloc(sizeof(*l));
  if (!l)
    return error_set(err, CHI_ENOMEM, "out of memory");
  int rc = real_link_find(r, instance, &l->fd, err);
  if (rc != CHI_OK) {
    free(l);
    return rc;
  }
  pthread_mutex_init(&l->calling, NULL);
  *out = (env_link)(intptr_t)l;
  return CHI_OK;
}

static void real_link_shut(struct env *env, env_link link)
{
  struct real_link *l = real_link_of(link);
  if (real_env_alive(real_env_of(env))) {
    shutdown(l->fd, SHUT_RDWR); /* a forked child may have inherited the socket */
    pthread_mutex_destroy(&l->calling);
  }
  close(l->fd);
  free(l);
}

static void real_link_close_all(const int *fds, uint32_t from, uint32_t count)
{
  for (uint32_t i = from; i < count; i++)
    close(fds[i]);
}

/* Collects the descriptors that came with a message; returns how many. */
static uint32_t real_link_collect(struct msghdr *m, int *fds)
{
  uint32_t count = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    uint32_t n = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    CHI_ASSERT(count + n <= ENV_SHARES_MAX);
    memcpy(fds + count, CMSG_DATA(c), n * sizeof(int));
    count += n;
  }
  return count;
}

/* Waits for a reply. *size: room in, bytes out; *fd_count: descriptors received. */
static int real_link_receive(int fd, void *reply, size_t *size, struct real_link_header *header,
                             int *fds, uint32_t *fd_count)
{
  union real_link_control control;
  struct iovec part[] = {{header, sizeof(*header)}, {reply, *size}};
  struct msghdr m = {.msg_iov = part,
                     .msg_iovlen = CHI_COUNT(part),
                     .msg_control = control.room,
                     .msg_controllen = sizeof(control.room)};
  ssize_t n;
  do
    n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < (ssize_t)sizeof(*header)) /* less than a header is no daemon of ours */
    return CHI_ESHUTDOWN;
  *fd_count = real_link_collect(&m, fds);
  *size = (size_t)n - sizeof(*header);
  if (m.msg_flags & MSG_TRUNC)
    return CHI_ETOOBIG;
  if (m.msg_flags & MSG_CTRUNC) /* out of descriptors */
    return CHI_ENOMEM;
  return header->count == *fd_count ? CHI_OK : CHI_ECORRUPT;
}

/* Makes one descriptor what it stands for; closes it if that fails. */
static int real_link_adopt(int fd, int kind, struct env_share *out)
{
  *out = (struct env_share){.kind = kind, .bell = ENV_NO_BELL};
  switch (kind) {
  case ENV_SHARE_BELL:
    return real_env_adopt_bell(fd, &out->bell);
  case ENV_SHARE_SEGMENT_WRITE:
    return real_shm_adopt(fd, ENV_SHARED_WRITE, &out->segment);
  case ENV_SHARE_SEGMENT_READ:
    return real_shm_adopt(fd, ENV_SHARED_READ, &out->segment);
  default:
    close(fd);
    return CHI_ECORRUPT;
  }
}

static int real_link_adopt_all(struct env *env, const struct real_link_header *header,
                               const int *fds, struct env_share *shares)
{
  for (uint32_t i = 0; i < header->count; i++) {
    int rc = real_link_adopt(fds[i], header->kind[i], &shares[i]);
    if (rc == CHI_OK)
      continue;
    real_link_close_all(fds, i + 1, header->count);
    while (i-- > 0)
      if (shares[i].kind == ENV_SHARE_BELL)
        env->bell_close(env, shares[i].bell);
      else
        env->segment_close(env, &shares[i].segment);
    return rc;
  }
  return CHI_OK;
}

static int real_link_send(int fd, const void *request, size_t size)
{
  ssize_t n;
  do
    n = send(fd, request, size, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n < 0 ? CHI_ESHUTDOWN : CHI_OK;
}

static int real_link_call(struct env *env, env_link link, const void *request, size_t request_size,
                          void *reply, size_t *size, struct env_share *shares, uint32_t *count)
{
  struct real_link *l = real_link_of(link);
  struct real_link_header header;
  int fds[ENV_SHARES_MAX];
  uint32_t fd_count = 0;
  if (!real_env_alive(real_env_of(env)))
    return CHI_EFORKED;
  if (request_size == 0 || request_size > ENV_MESSAGE_MAX)
    return CHI_ETOOBIG;
  pthread_mutex_lock(&l->calling);
  int rc = real_link_send(l->fd, request, request_size);
  if (rc == CHI_OK)
    rc = real_link_receive(l->fd, reply, size, &header, fds, &fd_count);
  pthread_mutex_unlock(&l->calling);
  if (rc == CHI_OK && fd_count > *count)
    rc = CHI_ETOOBIG;
  *count = rc == CHI_OK ? fd_count : 0;
  if (rc == CHI_OK)
    rc = real_link_adopt_all(env, &header, fds, shares);
  else
    real_link_close_all(fds, 0, fd_count);
  return rc;
}

static int real_link_wait(struct env *env, env_link link, env_bell bell, uint64_t deadline)
{
  struct timespec left;
  if (!real_env_alive(real_env_of(env)))
    return CHI_EFORKED;
  int fd = real_env_bell_of(bell)->fd;
  for (;;) {
    /* Of the link only its end counts: what can be read is the answer to another thread. */
    struct pollfd p[] = {{fd, POLLIN, 0}, {real_link_of(link)->fd, POLLRDHUP, 0}};
    int n = ppoll(p, CHI_COUNT(p), real_env_left(env->clock(env), deadline, &left), NULL);
    if (n == 0)
      return CHI_ETIMEOUT;
    if (n < 0 && errno != EINTR)
      return CHI_ENOMEM;
    if (n > 0 && p[0].revents) {
      real_env_drain(fd);
      return CHI_OK;
    }
    if (n > 0)
      return CHI_ESHUTDOWN;
  }
}

static bool real_link_join(int set, int fd, uint32_t events)
{
  struct epoll_event e = {.events = events};
  return epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0 || errno == EEXIST;
}

static int real_link_descriptor(struct env *env, env_link link, env_bell bell)
{
  struct real_env_bell *b = real_env_bell_of(bell);
  if (!real_env_alive(real_env_of(env)))
    return -1;
  if (b->set < 0)
    b->set = epoll_create1(EPOLL_CLOEXEC);
  /* A link that was shut has left the set by itself. */
  if (b->set >= 0 && real_link_join(b->set, b->fd, EPOLLIN) &&
      real_link_join(b->set, real_link_of(link)->fd, EPOLLRDHUP))
    return b->set;
  return -1;
}

void real_link_bind(struct real_env *r)
{
  r->env.link_open = real_link_open;
  r->env.link_call = real_link_call;
  r->env.link_wait = real_link_wait;
  r->env.link_shut = real_link_shut;
  r->env.link_descriptor = real_link_descriptor;
}

#undef REAL_LINK_BACKLOG
#undef REAL_LINK_CONNECT_S
#undef REAL_LINK_LOCK_TRIES
#undef REAL_LINK_ENTRIES
#undef REAL_LINK_SUFFIX
#undef REAL_LINK_PEERPIDFD

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_file.c ---- */
#ifndef CHI_OMIT_REAL
/* real_file.c - files: io_uring where the kernel has it and lets us, else pread and pwrite. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL_FILE_MOST 0x7ffff000u /* bytes of one operation: the kernel moves no more at once */
#define REAL_FILE_TRIES 8u         /* of an operation that was interrupted in the ring */
#define REAL_FILE_NEEDS                                                                            \
  (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS) /* Linux 5.6 */

enum real_file_state { REAL_FILE_NEW, REAL_FILE_RING, REAL_FILE_PLAIN };

/* The files of one worker. Indices run freely; the kernel's side of them is shared. */
struct real_file {
  enum real_file_state state;
  int fd; /* of the ring */
  uint32_t in_flight, queued;
  uint32_t tail, mask, head, done_mask;
  uint32_t *shared_tail, *shared_head, *shared_done_tail, *shared_done_head;
  struct io_uring_sqe *sqe;
  const struct io_uring_cqe *done;
  void *map;
  size_t map_size, sqe_size;
};

/* ---- the ring -------------------------------------------------------------------------------- */

static void real_file_unmap(struct real_file *f)
{
  if (f->sqe)
    munmap(f->sqe, f->sqe_size);
  if (f->map)
    munmap(f->map, f->map_size);
  close(f->fd);
  *f = (struct real_file){.state = REAL_FILE_PLAIN, .fd = -1};
}

static void *real_file_map(int fd, size_t size, off_t what)
{
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
  if (p == MAP_FAILED)
    return NULL;
  madvise(p, size, MADV_DONTFORK);
  return p;
}

static bool real_file_map_ring(struct real_file *f, const struct io_uring_params *p)
{
  size_t size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  f->map_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  if (f->map_size < size)
    f->map_size = size;
  f->sqe_size = p->sq_entries * sizeof(struct io_uring_sqe);
  f->map = real_file_map(f->fd, f->map_size, IORING_OFF_SQ_RING);
  f->sqe = f->map ? real_file_map(f->fd, f->sqe_size, IORING_OFF_SQES) : NULL;
  if (!f->sqe)
    return false;
  char *base = f->map;
  uint32_t *array = (uint32_t *)(void *)(base + p->sq_off.array);
  f->shared_tail = (uint32_t *)(void *)(base + p->sq_off.tail);
  f->shared_head = (uint32_t *)(void *)(base + p->sq_off.head);
  f->shared_done_tail = (uint32_t *)(void *)(base + p->cq_off.tail);
  f->shared_done_head = (uint32_t *)(void *)(base + p->cq_off.head);
  f->done = (const struct io_uring_cqe *)(const void *)(base + p->cq_off.cqes);
  f->mask = p->sq_entries - 1;
  f->done_mask = p->cq_entries - 1;
  for (uint32_t i = 0; i < p->sq_entries; i++)
    array[i] = i;
  return true;
}

/* Gets a ring, or finds that there are none. */
static void real_file_prepare(const struct real_env *r, struct real_file *f)
{
  struct io_uring_params p = {0};
  if (f->state != REAL_FILE_NEW)
    return;
  f->state = REAL_FILE_PLAIN;
  f->fd = r->no_ring ? -1 : (int)syscall(SYS_io_uring_setup, REAL_FILE_DEPTH, &p);
  if (f->fd < 0)
    return;
  if ((p.features & REAL_FILE_NEEDS) == REAL_FILE_NEEDS && real_file_map_ring(f, &p))
    f->state = REAL_FILE_RING;
  else
    real_file_unmap(f);
}

static bool real_file_fits_ring(const struct env_io *io)
{
  return io->op == ENV_IO_READ || io->op == ENV_IO_WRITE || io->op == ENV_IO_SYNC;
}

static void real_file_describe(struct io_uring_sqe *sqe, struct env_io *io)
{
  *sqe = (struct io_uring_sqe){.fd = (int)io->file, .user_data = (uint64_t)(uintptr_t)io};
  if (io->op == ENV_IO_SYNC) {
    sqe->opcode = IORING_OP_FSYNC;
    sqe->fsync_flags = IORING_FSYNC_DATASYNC;
    return;
  }
  sqe->opcode = io->op == ENV_IO_READ ? IORING_OP_READ : IORING_OP_WRITE;
  sqe->addr = (uint64_t)(uintptr_t)io->buf;
  sqe->len = io->size < REAL_FILE_MOST ? (uint32_t)io->size : REAL_FILE_MOST;
  sqe->off = io->offset;
}

/* Puts an operation into the ring. False: it is full. */
static bool real_file_queue(struct real_file *f, struct env_io *io)
{
  if (f->tail - mark_get(f->shared_head) > f->mask)
    return false;
  real_file_describe(&f->sqe[f->tail & f->mask], io);
  f->tail++;
  f->queued++;
  mark_set(f->shared_tail, f->tail);
  return true;
}

bool real_file_flush(struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  while (f->queued) {
    int n = (int)syscall(SYS_io_uring_enter, f->fd, f->queued, 0, 0, NULL, 0);
    if (n > 0)
      f->queued -= (uint32_t)n;
    else if (n == 0 || errno != EINTR)
      return false;
  }
  return true;
}

/* ---- operations that are done at once -------------------------------------------------------- */

static int64_t real_file_failed(void)
{
  return real_env_code(errno);
}

/* Only what has an end and offsets is a file: a pipe could hold us up for ever. */
static int real_file_check(int fd, uint32_t flags)
{
  struct stat st;
  if (fstat(fd, &st) != 0)
    return real_env_code(errno);
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
    return CHI_EINVAL;
  if ((flags & CHI_FILE_LOCK) && flock(fd, LOCK_EX | LOCK_NB) != 0)
    return real_env_code(errno);
  /* Drops O_NONBLOCK. Direct where it can be. */
  if (!(flags & CHI_FILE_DIRECT) || fcntl(fd, F_SETFL, O_DIRECT) != 0)
    return fcntl(fd, F_SETFL, 0) == 0 ? CHI_OK : real_env_code(errno);
  return CHI_OK;
}

static int64_t real_file_open(const struct env_io *io)
{
  int how = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  how |= io->flags & CHI_FILE_READONLY ? O_RDONLY : O_RDWR;
  how |= io->flags & CHI_FILE_CREATE ? O_CREAT : 0;
  how |= io->flags & CHI_FILE_CREATE && io->flags & CHI_FILE_EXCLUSIVE ? O_EXCL : 0;
  int fd = open(io->path, how, 0600);
  if (fd < 0)
    return real_file_failed();
  int rc = real_file_check(fd, io->flags);
  if (rc != CHI_OK)
    close(fd);
  return rc == CHI_OK ? fd : rc;
}

static int64_t real_file_move(const struct env_io *io)
{
  size_t size = io->size < REAL_FILE_MOST ? io->size : REAL_FILE_MOST;
  ssize_t n;
  do
    n = io->op == ENV_IO_READ ? pread((int)io->file, io->buf, size, (off_t)io->offset)
                              : pwrite((int)io->file, io->buf, size, (off_t)io->offset);
  while (n < 0 && errno == EINTR);
  return n < 0 ? real_file_failed() : n;
}

static int64_t real_file_size(const struct env_io *io)
{
  struct stat st;
  if (fstat((int)io->file, &st) != 0)
    return real_file_failed();
  off_t size = S_ISBLK(st.st_mode) ? lseek((int)io->file, 0, SEEK_END) : st.st_size;
  return size < 0 ? real_file_failed() : size;
}

/* The directory that holds path. */
static bool real_file_parent(const char *path, char *out, size_t room)
{
  const char *slash = strrchr(path, '/');
  size_t length = slash ? (size_t)(slash - path) : 0;
  if (length >= room)
    return false;
  if (slash && length == 0)
    length = 1; /* the root */
  snprintf(out, room, "%.*s", slash ? (int)length : 1, slash ? path : ".");
  return true;
}

static int64_t real_file_sync_directory(const struct env_io *io)
{
  char path[CHI_PATH_MAX];
  if (!real_file_parent(io->path, path, sizeof(path)))
    return CHI_ETOOBIG;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return real_file_failed();
  /* EINVAL: a file system where that is not needed. */
  int64_t rc = fsync(fd) == 0 || errno == EINVAL ? CHI_OK : real_file_failed();
  close(fd);
  return rc;
}

static int64_t real_file_space(const struct env_io *io)
{
  struct statvfs s;
  char path[CHI_PATH_MAX];
  int rc = statvfs(io->path, &s);
  if (rc != 0 && errno == ENOENT && real_file_parent(io->path, path, sizeof(path)))
    rc = statvfs(path, &s);
  if (rc != 0)
    return real_file_failed();
  uint64_t unit = s.f_frsize ? s.f_frsize : s.f_bsize, blocks = s.f_bavail;
  return unit && blocks > INT64_MAX / unit ? INT64_MAX : (int64_t)(blocks * unit);
}

/* The result of a call that gives 0 or -1. */
static int64_t real_file_outcome(int rc)
{
  return rc == 0 ? CHI_OK : real_file_failed();
}

static int64_t real_file_run(const struct env_io *io)
{
  switch (io->op) {
  case ENV_IO_OPEN:
    return real_file_open(io);
  case ENV_IO_READ:
  case ENV_IO_WRITE:
    return real_file_move(io);
  case ENV_IO_SYNC:
    return real_file_outcome(fdatasync((int)io->file));
  case ENV_IO_TRUNCATE:
    return real_file_outcome(ftruncate((int)io->file, (off_t)io->size));
  case ENV_IO_SIZE:
    return real_file_size(io);
  case ENV_IO_CLOSE:
    close((int)io->file);
    return CHI_OK;
  case ENV_IO_RENAME:
    return real_file_outcome(rename(io->path, io->path2));
  case ENV_IO_REMOVE:
    return real_file_outcome(unlink(io->path));
  case ENV_IO_DIRSYNC:
    return real_file_sync_directory(io);
  case ENV_IO_SPACE:
    return real_file_space(io);
  default:
    return CHI_ENOTSUP;
  }
}

/* ---- the seam -------------------------------------------------------------------------------- */

static bool real_file_in_range(const struct env_io *io)
{
  return io->offset <= INT64_MAX && (io->op != ENV_IO_TRUNCATE || io->size <= INT64_MAX);
}

static int real_file_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  real_file_prepare(r, f);
  if (!real_file_in_range(io)) {
    io->result = CHI_EINVAL;
    return 1;
  }
  if (f->state != REAL_FILE_RING || !real_file_fits_ring(io)) {
    io->result = real_file_run(io);
    return 1;
  }
  if (f->in_flight == REAL_FILE_DEPTH || !real_file_queue(f, io))
    return CHI_EBUSY;
  io->scratch[0] = 0;
  f->in_flight++;
  return 0;
}

static bool real_file_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  real_file_prepare(r, f);
  return f->state != REAL_FILE_RING || !real_file_fits_ring(io);
}

/* What came back from the kernel. True: it is completed. */
static bool real_file_finish(struct real_file *f, struct env_io *io, int res)
{
  if (res != -EINTR && res != -EAGAIN) {
    io->result = res < 0 ? real_env_code(-res) : res;
    return true;
  }
  if (++io->scratch[0] < REAL_FILE_TRIES && real_file_queue(f, io))
    return false;
  io->result = real_file_run(io); /* holds us up, but ends */
  return true;
}

static struct env_io *real_file_reap(struct env *env, uint32_t worker)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  struct env_io *first = NULL, **last = &first;
  if (f->in_flight == 0)
    return NULL;
  uint32_t tail = mark_get(f->shared_done_tail);
  while (f->head != tail) {
    const struct io_uring_cqe *c = &f->done[f->head & f->done_mask];
    struct env_io *io = (struct env_io *)(uintptr_t)c->user_data;
    int res = c->res;
    f->head++;
    mark_set(f->shared_done_head, f->head);
    if (!real_file_finish(f, io, res))
      continue;
    f->in_flight--;
    io->next = NULL;
    *last = io;
    last = &io->next;
  }
  real_file_flush(r, worker);
  return first;
}

bool real_file_ready(const struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  const struct real_file *f = &r->files[worker];
  return f->in_flight > 0 && mark_get(f->shared_done_tail) != f->head;
}

int real_file_descriptor(const struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  return r->files[worker].in_flight > 0 ? r->files[worker].fd : -1;
}

int real_file_bind(struct real_env *r, uint32_t workers)
{
  r->files = calloc(workers, sizeof(*r->files));
  if (!r->files)
    return CHI_ENOMEM;
  r->file_count = workers;
  r->env.io_submit = real_file_submit;
  r->env.io_blocks = real_file_blocks;
  r->env.io_reap = real_file_reap;
  return CHI_OK;
}

void real_file_close(struct real_env *r)
{
  for (uint32_t i = 0; i < r->file_count; i++)
    if (r->files[i].state == REAL_FILE_RING)
      real_file_unmap(&r->files[i]);
  free(r->files);
  r->files = NULL;
  r->file_count = 0;
}

#undef REAL_FILE_MOST
#undef REAL_FILE_TRIES
#undef REAL_FILE_NEEDS

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_module.c ---- */
#ifndef CHI_OMIT_REAL
/* real_module.c - modules that are loaded as shared objects. */

#ifndef CHI_OMIT_REAL

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One that is loaded. */
struct real_module {
  struct real_module *next;
  void *handle;
  const chi_module *def;
  char name[CHI_NAME_MAX];
};

/* Letters, digits, dot, dash and underscore, not beginning with a dot: a name of a file that stays
 * in its directory. */
static bool real_module_named(const char *name)
{
  size_t length = 0;
  for (; name[length]; length++)
    if (!isalnum((unsigned char)name[length]) && !strchr("._-", name[length]))
      return false;
  return length > 0 && length < CHI_NAME_MAX && name[0] != '.';
}

/* The first file of that name on the way; false if there is none. */
static bool real_module_seek(const char *way, const char *name, char *path, size_t room)
{
  static const char *const prefix[] = {"", "lib", "chimaera_", "libchimaera_"};
  name += strncmp(name, "chimaera_", 9) == 0 ? 9 : 0;
  while (*way) {
    size_t length = strcspn(way, ":");
    for (size_t i = 0; length > 0 && i < CHI_COUNT(prefix); i++) {
      int n = snprintf(path, room, "%.*s/%s%s.so", (int)length, way, prefix[i], name);
      if (n > 0 && (size_t)n < room && access(path, F_OK) == 0)
        return true;
    }
    way += length + (way[length] == ':');
  }
  return false;
}

/* What the shared object says of itself, checked. */
static int real_module_enter(struct real_module *m, const char *path, chi_error *err)
{
  void *symbol = dlsym(m->handle, "chi_module_entry");
  chi_module_entry_fn *entry;
  if (!symbol)
    return error_set(err, CHI_ENOMODULE, "module %s: %s has no chi_module_entry", m->name, path);
  memcpy(&entry, &symbol, sizeof(entry));
  m->def = entry();
  if (!m->def || !m->def->name)
    return error_set(err, CHI_ENOMODULE, "module %s: chi_module_entry of %s gave nothing", m->name,
                     path);
  if (m->def->version != CHI_MODULE_VERSION)
    return error_set(err, CHI_EVERSION, "module %s: %s is of version %u, this node of version %u",
                     m->name, path, m->def->version, CHI_MODULE_VERSION);
  return CHI_OK;
}

static int real_module_open(struct real_module *m, const char *path, chi_error *err)
{
  m->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!m->handle) {
    const char *why = dlerror();
    return error_set(err, CHI_ENOMODULE, "module %s: %s", m->name, why ? why : path);
  }
  int rc = real_module_enter(m, path, err);
  if (rc != CHI_OK)
    dlclose(m->handle);
  return rc;
}

static int real_module_load(struct env *env, const char *name, const chi_module **out,
                            chi_error *err)
{
  struct real_env *r = real_env_of(env);
  const char *way = getenv("CHI_MODULE_PATH");
  char path[CHI_PATH_MAX + CHI_NAME_MAX];
  for (struct real_module *m = r->modules; m; m = m->next)
    if (strcmp(m->name, name) == 0) {
      *out = m->def;
      return CHI_OK;
    }
  if (!real_module_named(name))
    return error_set(err, CHI_ENOMODULE, "\"%s\" is not a name of a module", name);
  if (!way || !*way)
    return error_set(err, CHI_ENOMODULE,
                     "no module %s: it isn't linked in, and CHI_MODULE_PATH is not set", name);
  if (!real_module_seek(way, name, path, sizeof(path)))
    return error_set(err, CHI_ENOMODULE,
                     "no module %s: it isn't linked in, and there is no %s.so in "
                     "CHI_MODULE_PATH (%s)",
                     name, name, way);
  struct real_module *m = calloc(1, sizeof(*m));
  if (!m)
    return error_set(err, CHI_ENOMEM, "module %s: out of memory", name);
  memcpy(m->name, name, strlen(name) + 1);
  int rc = real_module_open(m, path, err);
  if (rc != CHI_OK) {
    free(m);
    return rc;
  }
  m->next = r->modules;
  r->modules = m;
  *out = m->def;
  return CHI_OK;
}

void real_module_bind(struct real_env *r)
{
  r->env.module_load = real_module_load;
}

void real_module_close(struct real_env *r)
{
  while (r->modules) {
    struct real_module *m = r->modules;
    r->modules = m->next;
    dlclose(m->handle);
    free(m);
  }
}

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_shm.c ---- */
#ifndef CHI_OMIT_REAL
/* real_shm.c - shared memory: memfds that nobody can shrink, populated before they are used. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL_SHM_QUIET_NS 1000000000u /* between two complaints about memory */
#define REAL_SHM_POPULATE 23          /* MADV_POPULATE_WRITE: Linux 5.14, not in older headers */
#define REAL_SHM_NOEXEC 8u            /* MFD_NOEXEC_SEAL: Linux 6.3, likewise */

/* A segment that this process has opened. */
struct real_shm {
  int fd; /* -1: shared, and not to be shared again */
  enum env_access access;
};

static struct real_shm *real_shm_of(const struct env_segment *segment)
{
  return (struct real_shm *)(intptr_t)segment->handle;
}

static uint64_t real_shm_pages(uint64_t size)
{
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  return (size + page - 1) / page * page;
}

/* Lets the kernel write to every page: where a page can't be had, read() fails with EFAULT, while
 * touching it here would end the process. */
static int real_shm_touch(void *base, uint64_t size)
{
  int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  uint64_t done = 0;
  while (fd >= 0 && done < size) {
    ssize_t n = read(fd, (char *)base + done, size - done);
    if (n <= 0 && errno != EINTR)
      break;
    done += n > 0 ? (uint64_t)n : 0;
  }
  if (fd >= 0)
    close(fd);
  return done == size ? CHI_OK : CHI_ENOMEM;
}

/* Gives every page of a mapping memory of its own. The content must still be zero. */
static int real_shm_populate(const struct real_env *r, void *base, uint64_t size)
{
  int rc;
  if (size > real_limit_memory(&r->limit))
    return CHI_ENOMEM;
  do
    rc = r->no_populate ? -1 : madvise(base, size, REAL_SHM_POPULATE);
  while (rc != 0 && !r->no_populate && (errno == EINTR || errno == EAGAIN));
  if (rc == 0)
    return CHI_OK;
  return r->no_populate || errno == EINVAL ? real_shm_touch(base, size) : CHI_ENOMEM;
}

/* Logs that memory is short, once a second at most: a client may ask again and again. */
static void real_shm_complain(struct real_env *r, const char *name, uint64_t size, int rc)
{
  char text[256];
  uint64_t now = r->env.clock(&r->env);
  if (r->complained && now - r->complained < REAL_SHM_QUIET_NS)
    return;
  r->complained = now;
  snprintf(text, sizeof(text),
           "Failed to allocate shared memory segment %s of %llu bytes: %s (%llu can be had)", name,
           (unsigned long long)size, chi_status_text(rc),
           (unsigned long long)real_limit_memory(&r->limit));
  r->env.log(&r->env, CHI_LOG_ERROR, text);
}

/* A sealed memfd, mapped and populated. */
static int real_shm_make(struct real_env *r, const char *name, struct real_shm *s,
                         struct env_segment *out)
{
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  char label[200]; /* the kernel takes 249 bytes */
  snprintf(label, sizeof(label), "%s", name);
  s->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | REAL_SHM_NOEXEC);
  if (s->fd < 0 && errno == EINVAL)
    s->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (s->fd < 0 || ftruncate(s->fd, (off_t)out->size) != 0)
    return real_env_code(errno);
  void *base = mmap(NULL, out->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
  if (base == MAP_FAILED)
    return CHI_ENOMEM;
  out->base = base;
  madvise(base, out->size, MADV_DONTFORK);
  if (s->access == ENV_SHARED_READ) /* from here on nobody else can map it to write */
    seals |= F_SEAL_FUTURE_WRITE;
  if (fcntl(s->fd, F_ADD_SEALS, seals) != 0)
    return real_env_code(errno);
  return real_shm_populate(r, base, out->size);
}

static void real_shm_close(struct env *env, struct env_segment *segment)
{
  struct real_shm *s = real_shm_of(segment);
  /* In a forked child it isn't mapped, and something else may be there. */
  if (segment->base && real_env_alive(real_env_of(env)))
    munmap(segment->base, segment->size);
  if (s && s->fd >= 0)
    close(s->fd);
  free(s);
  *segment = (struct env_segment){NULL, 0, 0};
}

static int real_shm_open(struct env *env, const char *name, uint64_t size, int access,
                         struct env_segment *out)
{
  struct real_env *r = real_env_of(env);
  if (size == 0 || size > (uint64_t)INT64_MAX / 2)
    return CHI_EINVAL;
  struct real_shm *s = malloc(sizeof(*s));
  if (!s)
    return CHI_ENOMEM;
  *s = (struct real_shm){-1, (enum env_access)access};
  *out = (struct env_segment){NULL, real_shm_pages(size), (int64_t)(intptr_t)s};
  int rc = real_shm_make(r, name, s, out);
  if (rc != CHI_OK) {
    real_shm_complain(r, name, size, rc);
    real_shm_close(env, out);
  }
  return rc;
}

static void real_shm_discard(struct env *env, struct env_segment *segment)
{
  (void)env;
  /* Refused for a segment sealed against writing. */
  if (madvise(segment->base, segment->size, MADV_REMOVE) != 0)
    memset(segment->base, 0, segment->size);
}

static int real_shm_restore(struct env *env, struct env_segment *segment)
{
  struct real_env *r = real_env_of(env);
  int rc = real_shm_populate(r, segment->base, segment->size);
  if (rc != CHI_OK)
    real_shm_complain(r, "(again)", segment->size, rc);
  return rc;
}

void real_shm_bind(struct real_env *r)
{
  r->env.segment_open = real_shm_open;
  r->env.segment_close = real_shm_close;
  r->env.segment_discard = real_shm_discard;
  r->env.segment_restore = real_shm_restore;
}

int real_shm_lend(const struct env_segment *segment, enum env_access access)
{
  const struct real_shm *s = real_shm_of(segment);
  return s && s->access == access ? s->fd : -1;
}

void real_shm_lent(const struct env_segment *segment, enum env_access access)
{
  struct real_shm *s = real_shm_of(segment);
  if (access == ENV_SHARED_READ)
    return;
  close(s->fd);
  s->fd = -1;
}

/* What makes a descriptor a segment that can't vanish under its readers. */
static int real_shm_check(int fd, uint64_t *size)
{
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 || st.st_size <= 0)
    return CHI_ECORRUPT;
  *size = (uint64_t)st.st_size;
  return CHI_OK;
}

int real_shm_adopt(int fd, enum env_access access, struct env_segment *out)
{
  int protection = access == ENV_SHARED_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
  uint64_t size = 0;
  int rc = real_shm_check(fd, &size);
  if (rc == CHI_OK) {
    void *base = mmap(NULL, size, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED) {
      rc = CHI_ENOMEM;
    } else {
      madvise(base, size, MADV_DONTFORK);
      *out = (struct env_segment){base, size, 0};
    }
  }
  close(fd);
  return rc;
}

#undef REAL_SHM_QUIET_NS
#undef REAL_SHM_POPULATE
#undef REAL_SHM_NOEXEC

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_env.c ---- */
#ifndef CHI_OMIT_REAL
/* real_env.c - the real environment: clock, random, memory, log, stacks, bells, the mark of a
 * fork. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* ---- clock, random, memory, log -------------------------------------------------------------- */

static uint64_t real_env_clock(struct env *env)
{
  struct timespec now;
  (void)env;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 1;
}

static uint64_t real_env_random(struct env *env)
{
  uint64_t value;
  ssize_t n;
  do
    n = getrandom(&value, sizeof(value), 0);
  while (n < 0 && errno == EINTR);
  if (n != sizeof(value)) /* an ancient kernel: different at least for each call and process */
    value = (real_env_clock(env) ^ (uint64_t)getpid() << 40) * 0x9e3779b97f4a7c15u;
  return value;
}

static void *real_env_get(void *arg, size_t size)
{
  (void)arg;
  return malloc(size);
}

static void real_env_put(void *arg, void *p, size_t size)
{
  (void)arg;
  (void)size;
  free(p);
}

static void real_env_log(struct env *env, int level, const char *line)
{
  real_log_write(&real_env_of(env)->log, level, line);
}

static void real_env_relax(struct env *env)
{
  (void)env;
  sched_yield();
}

static void real_env_pause(struct env *env, uint64_t until)
{
  const struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
  (void)env;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
    ;
}

/* ---- stacks ---------------------------------------------------------------------------------- */

/* A stack is a guard and whole pages, of which the size told is a little less, and differs by cache
 * lines from that of its neighbours: else the tops of all would fall into the same sets. */
static int real_env_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE), guard = FIBER_GUARD_SIZE;
  (void)env;
  if (size == 0 || size > SIZE_MAX / 4)
    return CHI_EINVAL;
  size = (size + page - 1) / page * page;
  size_t whole = guard + size + page;
  char *map = mmap(NULL, whole, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (map == MAP_FAILED)
    return CHI_ENOMEM;
  if (mprotect(map + guard, size + page, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, whole);
    return CHI_ENOMEM;
  }
  size_t lines = page / CHI_CACHE_LINE;
  size_t colour = ((uintptr_t)map / whole) % (lines - 1) + 1;
  *out = (struct env_stack){map + guard, size + colour * CHI_CACHE_LINE};
  return CHI_OK;
}

static void real_env_stack_close(struct env *env, struct env_stack *stack)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  (void)env;
  CHI_ASSERT(stack->base);
  munmap((char *)stack->base - FIBER_GUARD_SIZE,
         FIBER_GUARD_SIZE + (stack->size + page - 1) / page * page);
  *stack = (struct env_stack){NULL, 0};
}

/* ---- bells ----------------------------------------------------------------------------------- */

int real_env_adopt_bell(int fd, env_bell *out)
{
  struct real_env_bell *b = malloc(sizeof(*b));
  if (!b) {
    close(fd);
    return CHI_ENOMEM;
  }
  *b = (struct real_env_bell){fd, -1};
  *out = (env_bell)(intptr_t)b;
  return CHI_OK;
}

static int real_env_bell_open(struct env *env, env_bell *out)
{
  (void)env;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? CHI_ENOMEM : real_env_adopt_bell(fd, out);
}

static void real_env_bell_close(struct env *env, env_bell bell)
{
  struct real_env_bell *b = real_env_bell_of(bell);
  (void)env;
  CHI_ASSERT(bell != ENV_NO_BELL && b);
  close(b->fd);
  if (b->set >= 0)
    close(b->set);
  free(b);
}

static void real_env_bell_ring(struct env *env, env_bell bell)
{
  uint64_t one = 1;
  (void)env;
  CHI_ASSERT(bell != ENV_NO_BELL);
  /* EAGAIN: it has been rung more often than can be counted, and is rung. */
  while (write(real_env_bell_of(bell)->fd, &one, sizeof(one)) < 0 && errno == EINTR)
    ;
}

void real_env_drain(int fd)
{
  uint64_t count;
  while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
    ;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* A page of its own, which the kernel clears in a forked child. */
static uint32_t *real_env_make_mark(void)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint32_t *mark = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mark == MAP_FAILED)
    return NULL;
  madvise(mark, page, MADV_WIPEONFORK);
  *mark = 1;
  return mark;
}

bool real_env_alive(const struct real_env *r)
{
  return *r->mark != 0;
}

int real_env_open(struct real_env *r, const char *log_file)
{
  *r = (struct real_env){.mark = real_env_make_mark(), .limit = real_limit_system()};
  if (!r->mark)
    return CHI_ENOMEM;
  real_log_open(&r->log, log_file);
  r->env = (struct env){
      .version = ENV_VERSION,
      .self = r,
      .alloc = {real_env_get, real_env_put, NULL},
      .clock = real_env_clock,
      .random = real_env_random,
      .log = real_env_log,
      .stack_open = real_env_stack_open,
      .stack_close = real_env_stack_close,
      .bell_open = real_env_bell_open,
      .bell_close = real_env_bell_close,
      .bell_ring = real_env_bell_ring,
      .relax = real_env_relax,
      .alive = r->mark,
      .pause = real_env_pause,
  };
  return CHI_OK;
}

void real_env_close(struct real_env *r)
{
  real_log_close(&r->log);
  munmap(r->mark, (size_t)sysconf(_SC_PAGESIZE));
  r->mark = NULL;
}

int real_env_code(int error)
{
  switch (error) {
  case 0:
    return CHI_OK;
  case ENOMEM:
  case EMFILE:
  case ENFILE:
  case ENOBUFS:
  case ETOOMANYREFS:
    return CHI_ENOMEM;
  case ENOSPC:
  case EDQUOT:
    return CHI_ENOSPC;
  case EACCES:
  case EPERM:
  case EROFS:
    return CHI_EACCES;
  case ENOENT:
  case ENOTDIR:
    return CHI_ENOENT;
  case EEXIST:
  case ENOTEMPTY:
    return CHI_EEXIST;
  case EBUSY:
  case EAGAIN:
  case ETXTBSY:
    return CHI_EBUSY;
  case EFBIG:
  case EOVERFLOW:
  case ENAMETOOLONG:
    return CHI_ETOOBIG;
  case ENOSYS:
  case EOPNOTSUPP:
    return CHI_ENOTSUP;
  case EPIPE:
  case ECONNRESET:
  case ENOTCONN:
    return CHI_ESHUTDOWN;
  case ECANCELED:
    return CHI_ECANCELLED;
  case EINVAL:
  case EISDIR:
  case ELOOP:
  case EBADF:
  case EFAULT:
  case ESPIPE:
    return CHI_EINVAL;
  default:
    return CHI_EIO;
  }
}

struct timespec *real_env_left(uint64_t now, uint64_t deadline, struct timespec *out)
{
  if (deadline == UINT64_MAX)
    return NULL;
  uint64_t left = deadline > now ? deadline - now : 0;
  out->tv_sec = (time_t)(left / 1000000000u);
  out->tv_nsec = (long)(left % 1000000000u);
  return out;
}

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_limit.c ---- */
#ifndef CHI_OMIT_REAL
/* real_limit.c - what this process may use: memory and CPUs, as cgroups and the machine say. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REAL_LIMIT_PATH 1536             /* of a file of a cgroup */
#define REAL_LIMIT_TEXT 6144             /* of a file that is read; a fiber may be short of stack */
#define REAL_LIMIT_RESERVE (16ull << 20) /* kept free, or a part of a small cgroup's limit */
#define REAL_LIMIT_PART 64
#define REAL_LIMIT_CPUS_MAX (1 << 16)

/* A visit of the directory of one cgroup: *least is the least found so far. */
typedef void real_limit_visit(const char *dir, uint64_t *least);

struct real_limit real_limit_system(void)
{
  return (struct real_limit){"/proc/self/cgroup", "/sys/fs/cgroup", "/proc/meminfo"};
}

/* Reads a small file as text; false if there is none. */
static bool real_limit_read(const char *dir, const char *name, char *text, size_t room)
{
  char path[REAL_LIMIT_PATH];
  size_t have = 0;
  ssize_t n;
  if ((size_t)snprintf(path, sizeof(path), "%s%s%s", dir, *dir ? "/" : "", name) >= sizeof(path))
    return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  while (have + 1 < room &&
         ((n = read(fd, text + have, room - 1 - have)) > 0 || (n < 0 && errno == EINTR)))
    have += n > 0 ? (size_t)n : 0;
  text[have] = '\0';
  close(fd);
  return have > 0;
}

/* The number that text begins with; false if it begins with something else, such as "max". */
static bool real_limit_number(const char *text, uint64_t *out)
{
  if (*text < '0' || *text > '9')
    return false;
  *out = strtoull(text, NULL, 10);
  return true;
}

/* The number behind a key that begins a line; 0 if there is none. */
static uint64_t real_limit_field(const char *text, const char *key)
{
  size_t length = strlen(key);
  uint64_t value = 0;
  while (text) {
    if (strncmp(text, key, length) == 0) {
      real_limit_number(text + length + strspn(text + length, " \t"), &value);
      return value;
    }
    text = strchr(text, '\n');
    text = text ? text + 1 : NULL;
  }
  return 0;
}

static void real_limit_least(uint64_t *least, uint64_t value)
{
  if (value < *least)
    *least = value;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void real_limit_account(uint64_t max, uint64_t used, uint64_t cache, uint64_t *least)
{
  uint64_t reserve = max / REAL_LIMIT_PART;
  real_limit_least(&reserve, REAL_LIMIT_RESERVE);
  used -= cache < used ? cache : used;
  used += reserve;
  real_limit_least(least, max > used ? max - used : 0);
}

static void real_limit_memory_v2(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t max, used, cache = 0;
  if (!real_limit_read(dir, "memory.max", text, sizeof(text)) || !real_limit_number(text, &max) ||
      !real_limit_read(dir, "memory.current", text, sizeof(text)) ||
      !real_limit_number(text, &used))
    return;
  if (real_limit_read(dir, "memory.stat", text, sizeof(text)))
    cache = real_limit_field(text, "inactive_file ") + real_limit_field(text, "active_file ");
  real_limit_account(max, used, cache, least);
}

static void real_limit_memory_v1(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t max, used, cache = 0;
  if (!real_limit_read(dir, "memory.limit_in_bytes", text, sizeof(text)) ||
      !real_limit_number(text, &max) ||
      !real_limit_read(dir, "memory.usage_in_bytes", text, sizeof(text)) ||
      !real_limit_number(text, &used))
    return;
  if (real_limit_read(dir, "memory.stat", text, sizeof(text)))
    cache = real_limit_field(text, "total_inactive_file ") +
            real_limit_field(text, "total_active_file ");
  real_limit_account(max, used, cache, least);
}

/* ---- CPUs, in thousandths -------------------------------------------------------------------- */

static void real_limit_quota(uint64_t quota, uint64_t period, uint64_t *least)
{
  if (period > 0 && quota < UINT64_MAX / 1000)
    real_limit_least(least, quota * 1000 / period);
}

static void real_limit_cpus_v2(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT], *rest;
  uint64_t quota, period;
  if (!real_limit_read(dir, "cpu.max", text, sizeof(text)) || !real_limit_number(text, &quota))
    return;
  rest = text + strspn(text, "0123456789");
  if (real_limit_number(rest + strspn(rest, " "), &period))
    real_limit_quota(quota, period, least);
}

static void real_limit_cpus_v1(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t quota, period;
  if (real_limit_read(dir, "cpu.cfs_quota_us", text, sizeof(text)) &&
      real_limit_number(text, &quota) &&
      real_limit_read(dir, "cpu.cfs_period_us", text, sizeof(text)) &&
      real_limit_number(text, &period))
    real_limit_quota(quota, period, least);
}

/* ---- the cgroups of this process ------------------------------------------------------------- */

/* Visits a cgroup and those above it. A container may see its own cgroup at the root, though the
 * path is the one the host sees: then only the root is there to be visited. */
static void real_limit_climb(const char *root, const char *mount, const char *path,
                             real_limit_visit *visit, uint64_t *least)
{
  char dir[REAL_LIMIT_PATH];
  int base = snprintf(dir, sizeof(dir), "%s%s", root, mount);
  if (base < 0 || (size_t)base >= sizeof(dir) ||
      (size_t)snprintf(dir + base, sizeof(dir) - (size_t)base, "%s", path) >=
          sizeof(dir) - (size_t)base)
    return;
  for (;;) {
    char *slash = strrchr(dir + base, '/');
    if (!slash || slash[1])
      visit(dir, least);
    if (!slash)
      return;
    *slash = '\0';
  }
}

/* Whether a comma-separated list contains a word. */
static bool real_limit_lists(const char *list, const char *word)
{
  size_t length = strlen(word);
  while (strncmp(list, word, length) != 0 || (list[length] && list[length] != ',')) {
    list = strchr(list, ',');
    if (!list)
      return false;
    list++;
  }
  return true;
}

/* Visits every cgroup that the process is in and that holds this controller: lines are
 * "ID:CONTROLLERS:PATH", where version 2 is "0::PATH". */
static uint64_t real_limit_walk(const struct real_limit *limit, const char *controller,
                                real_limit_visit *v1, real_limit_visit *v2)
{
  char text[REAL_LIMIT_TEXT], mount[64], *next = text;
  uint64_t least = UINT64_MAX;
  if (!real_limit_read("", limit->cgroup, text, sizeof(text)))
    return least;
  while (next && *next) {
    char *list = strchr(next, ':');
    char *path = list ? strchr(list + 1, ':') : NULL;
    next = strchr(next, '\n');
    if (next)
      *next++ = '\0';
    if (!path || path[1] != '/')
      continue;
    *path++ = '\0';
    if (!list[1]) {
      real_limit_climb(limit->root, "", path, v2, &least);
      real_limit_climb(limit->root, "/unified", path, v2, &least);
    } else if (real_limit_lists(list + 1, controller)) {
      snprintf(mount, sizeof(mount), "/%s", controller);
      real_limit_climb(limit->root, mount, path, v1, &least);
    }
  }
  return least;
}

uint64_t real_limit_memory(const struct real_limit *limit)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t least = real_limit_walk(limit, "memory", real_limit_memory_v1, real_limit_memory_v2);
  if (real_limit_read("", limit->meminfo, text, sizeof(text)) && strstr(text, "MemAvailable:")) {
    uint64_t free_bytes = real_limit_field(text, "MemAvailable:") * 1024;
    real_limit_least(&least, free_bytes > REAL_LIMIT_RESERVE ? free_bytes - REAL_LIMIT_RESERVE : 0);
  }
  return least;
}

/* CPUs in the affinity mask of this thread, however large the machine is. */
static uint32_t real_limit_affinity(void)
{
  for (size_t room = CPU_SETSIZE; room <= REAL_LIMIT_CPUS_MAX; room *= 2) {
    cpu_set_t *set = CPU_ALLOC(room);
    if (!set)
      break;
    int rc = sched_getaffinity(0, CPU_ALLOC_SIZE(room), set);
    int count = rc == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE(room), set) : 0;
    CPU_FREE(set);
    if (count > 0)
      return (uint32_t)count;
    if (errno != EINVAL)
      break;
  }
  return 1;
}

/* CPUs that the quota amounts to, rounded up. */
static uint32_t real_limit_quota_cpus(const struct real_limit *limit)
{
  uint64_t quota = real_limit_walk(limit, "cpu", real_limit_cpus_v1, real_limit_cpus_v2);
  uint64_t cpus = quota / 1000 + (quota % 1000 != 0);
  real_limit_least(&cpus, REAL_LIMIT_CPUS_MAX);
  return cpus > 0 ? (uint32_t)cpus : 1;
}

uint32_t real_limit_cpus(const struct real_limit *limit)
{
  uint32_t cpus = real_limit_affinity(), quota = real_limit_quota_cpus(limit);
  return cpus < quota ? cpus : quota;
}

uint32_t real_limit_spinners(const struct real_limit *limit)
{
  uint32_t cpus = real_limit_affinity(), quota = real_limit_quota_cpus(limit);
  return quota <= cpus ? quota - 1 : cpus;
}

#undef REAL_LIMIT_PATH
#undef REAL_LIMIT_TEXT
#undef REAL_LIMIT_RESERVE
#undef REAL_LIMIT_PART
#undef REAL_LIMIT_CPUS_MAX

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_log.c ---- */
#ifndef CHI_OMIT_REAL
/* real_log.c - where log lines go: a file, or standard error. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL_LOG_PATIENCE_MS 100
#define REAL_LOG_PREFIX 64

/* The date of a day counted from 1970-01-01; what the C library has for this is not fit for a
 * signal handler. Years begin in March here, so that the odd day is the last one. */
static void real_log_date(int64_t day, int *year, int *month, int *mday)
{
  int64_t era_day = day + 719468;     /* from 0000-03-01 */
  int64_t era = era_day / 146097;     /* of 400 years */
  int64_t d = era_day - era * 146097; /* of the era */
  int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
  int64_t n = d - (365 * y + y / 4 - y / 100); /* of the year */
  int64_t m = (5 * n + 2) / 153;
  *mday = (int)(n - (153 * m + 2) / 5 + 1);
  *month = (int)(m < 10 ? m + 3 : m - 9);
  *year = (int)(y + era * 400 + (m >= 10));
}

/* "2026-01-02T03:04:05.678Z level " */
static void real_log_prefix(char *text, size_t room, int level)
{
  static const char *const names[] = {"debug", "info", "warning", "error"};
  struct timespec now;
  int year, month, mday;
  clock_gettime(CLOCK_REALTIME, &now);
  int second = (int)(now.tv_sec % 86400);
  real_log_date(now.tv_sec / 86400, &year, &month, &mday);
  snprintf(text, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s ", year, month, mday, second / 3600,
           second / 60 % 60, second % 60, (int)(now.tv_nsec / 1000000),
           level >= 0 && level < (int)CHI_COUNT(names) ? names[level] : "?");
}

/* True if a line can be written without being held up for long. */
static bool real_log_ready(struct real_log *log)
{
  struct pollfd p = {log->fd, POLLOUT, 0};
  int rc = poll(&p, 1, log->stalled ? 0 : REAL_LOG_PATIENCE_MS);
  log->stalled = rc == 0;
  return rc > 0 && p.revents == POLLOUT; /* a broken pipe would raise a signal */
}

/* Writes one line; false if it got lost, as a whole or in part. */
static bool real_log_put(struct real_log *log, int level, const char *line)
{
  char prefix[REAL_LOG_PREFIX];
  if (!real_log_ready(log))
    return false;
  real_log_prefix(prefix, sizeof(prefix), level);
  struct iovec part[] = {{(char *)(uintptr_t) "\n", log->torn},
                         {prefix, strlen(prefix)},
                         {(char *)(uintptr_t)line, strlen(line)},
                         {(char *)(uintptr_t) "\n", 1}};
  size_t size = 0;
  for (size_t i = 0; i < CHI_COUNT(part); i++)
    size += part[i].iov_len;
  ssize_t n;
  do
    n = writev(log->fd, part, CHI_COUNT(part));
  while (n < 0 && errno == EINTR);
  if (n > 0)
    log->torn = (size_t)n < size;
  return n == (ssize_t)size;
}

void real_log_write(struct real_log *log, int level, const char *line)
{
  if (log->fd < 0)
    return;
  pthread_mutex_lock(&log->mutex);
  if (log->lost) {
    char text[64];
    snprintf(text, sizeof(text), "%llu lines lost", (unsigned long long)log->lost);
    if (real_log_put(log, CHI_LOG_WARNING, text))
      log->lost = 0;
  }
  if (log->lost || !real_log_put(log, level, line))
    log->lost++;
  pthread_mutex_unlock(&log->mutex);
}

void real_log_cry(const struct real_log *log, const char *line)
{
  char prefix[REAL_LOG_PREFIX];
  real_log_prefix(prefix, sizeof(prefix), CHI_LOG_ERROR);
  struct iovec part[] = {{prefix, strlen(prefix)},
                         {(char *)(uintptr_t)line, strlen(line)},
                         {(char *)(uintptr_t) "\n", 1}};
  ssize_t n = writev(STDERR_FILENO, part, CHI_COUNT(part));
  if (log->fd >= 0 && log->fd != STDERR_FILENO)
    n = writev(log->fd, part, CHI_COUNT(part));
  (void)n; /* there is nobody left to tell */
}

void real_log_open(struct real_log *log, const char *path)
{
  *log = (struct real_log){.fd = path ? STDERR_FILENO : -1};
  pthread_mutex_init(&log->mutex, NULL);
  if (!path || !*path)
    return;
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
  if (fd < 0) {
    char text[CHI_PATH_MAX + 128];
    snprintf(text, sizeof(text), "log file %s: %m; logging to standard error instead", path);
    real_log_write(log, CHI_LOG_WARNING, text);
    return;
  }
  log->fd = fd;
  log->owned = true;
}

void real_log_close(struct real_log *log)
{
  if (log->owned)
    close(log->fd);
  log->fd = -1;
  pthread_mutex_destroy(&log->mutex);
}

#undef REAL_LOG_PATIENCE_MS
#undef REAL_LOG_PREFIX

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sources/real_conf.c ---- */
#ifndef CHI_OMIT_REAL
/* real_conf.c - configuration from YAML files, with libyaml. */

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

#define REAL_CONF_FILE_MAX ((size_t)1 << 20)     /* far beyond any configuration */
#define REAL_CONF_HOSTFILE_MAX ((size_t)1 << 24) /* CONFIG_HOSTS_MAX long lines */
#define REAL_CONF_DEPTH_MAX 16                   /* of maps and lists within each other */

/* A file on its way through libyaml. `event` is the current one; after a syntax error, or when
 * reading on makes no sense, there are no more. */
struct real_conf {
  yaml_parser_t parser;
  yaml_event_t event;
  struct reader *reader;
  struct report *report;
  const char *text;
  size_t size;
  int depth; /* maps and lists that have begun and not ended */
  bool over;
};

/* A key of a map: its text and place. */
struct real_conf_key {
  char name[CHI_NAME_MAX];
  struct report_mark at;
};

/* ---- events ---------------------------------------------------------------------------------- */

static struct report_mark real_conf_mark(yaml_mark_t mark)
{
  return (struct report_mark){(int)mark.line + 1, (int)mark.column + 1};
}

/* libyaml says of a malformed character only at which byte it is. */
static struct report_mark real_conf_mark_byte(const struct real_conf *c, size_t offset)
{
  struct report_mark at = {1, 1};
  for (size_t i = 0; i < offset && i < c->size; i++) {
    if (c->text[i] == '\n')
      at = (struct report_mark){at.line + 1, 1};
    else if ((c->text[i] & 0xc0) != 0x80)
      at.column++;
  }
  return at;
}

static void real_conf_syntax_error(struct real_conf *c)
{
  const yaml_parser_t *p = &c->parser;
  const char *problem = p->problem ? p->problem : "malformed";
  struct report_mark at = real_conf_mark(p->problem_mark);
  if (p->error == YAML_MEMORY_ERROR)
    report_error(c->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
  else if (p->error == YAML_READER_ERROR)
    report_error(c->report, real_conf_mark_byte(c, p->problem_offset), CHI_ECONFIG, "%s", problem);
  else if (p->context && p->context_mark.line != p->problem_mark.line)
    report_error(c->report, at, CHI_ECONFIG, "%s %s that begins in line %d", problem, p->context,
                 real_conf_mark(p->context_mark).line);
  else if (p->context)
    report_error(c->report, at, CHI_ECONFIG, "%s %s", problem, p->context);
  else
    report_error(c->report, at, CHI_ECONFIG, "%s", problem);
}

static bool real_conf_begins(const yaml_event_t *e)
{
  return e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT;
}

static bool real_conf_ends(const yaml_event_t *e)
{
  return e->type == YAML_MAPPING_END_EVENT || e->type == YAML_SEQUENCE_END_EVENT;
}

/* Moves to the next event and gives its type; YAML_NO_EVENT when there are no more. */
static yaml_event_type_t real_conf_next(struct real_conf *c)
{
  yaml_event_delete(&c->event);
  c->over = c->over || report_gave_up(c->report);
  if (c->over)
    return YAML_NO_EVENT;
  if (!yaml_parser_parse(&c->parser, &c->event)) {
    real_conf_syntax_error(c);
    c->over = true;
  }
  c->depth += real_conf_begins(&c->event);
  c->depth -= real_conf_ends(&c->event);
  if (c->depth > REAL_CONF_DEPTH_MAX) {
    report_error(c->report, real_conf_mark(c->event.start_mark), CHI_ECONFIG,
                 "more than %d maps and lists within each other", REAL_CONF_DEPTH_MAX);
    c->over = true;
  }
  if (c->over)
    yaml_event_delete(&c->event);
  return c->event.type;
}

/* Passes over the rest of the value whose first event is the current one. */
static void real_conf_skip(struct real_conf *c)
{
  int outside = c->depth - real_conf_begins(&c->event);
  while (c->depth > outside && real_conf_next(c) != YAML_NO_EVENT) {
  }
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool real_conf_is_one_of(const char *text, const char *const *words)
{
  while (*words && strcmp(text, *words) != 0)
    words++;
  return *words != NULL;
}

static bool real_conf_is_number(const char *text)
{
  size_t digits = 0, points = 0;
  text += *text == '+' || *text == '-';
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o') && text[2])
    return strspn(text + 2, "0123456789abcdefABCDEF") == strlen(text + 2);
  for (; (*text >= '0' && *text <= '9') || *text == '.'; text++) {
    digits += *text != '.';
    points += *text == '.';
  }
  if (!digits || points > 1)
    return false;
  if (*text == 'e' || *text == 'E') {
    text++;
    text += *text == '+' || *text == '-';
    return *text && strspn(text, "0123456789") == strlen(text);
  }
  return !*text;
}

/* What an unquoted scalar is by its looks. */
static int real_conf_plain_kind(const char *text)
{
  static const char *const nothing[] = {"", "~", "null", "Null", "NULL", NULL};
  static const char *const booleans[] = {"true", "True", "TRUE", "false", "False", "FALSE", "yes",
                                         "Yes",  "YES",  "no",   "No",    "NO",    "on",    "On",
                                         "ON",   "off",  "Off",  "OFF",   NULL};
  if (real_conf_is_one_of(text, nothing))
    return READER_NOTHING;
  if (real_conf_is_one_of(text, booleans))
    return READER_BOOL;
  return real_conf_is_number(text) ? READER_NUMBER : READER_TEXT;
}

/* What YAML offers beyond plain maps, lists and scalars is refused: it would be surprising if it
 * were ignored. */
static bool real_conf_refuse(struct real_conf *c, const yaml_char_t *anchor, const yaml_char_t *tag)
{
  struct report_mark at = real_conf_mark(c->event.start_mark);
  if (anchor)
    report_error(c->report, at, CHI_ECONFIG, "anchors and aliases (\"%.80s\") are not supported",
                 (const char *)anchor);
  else if (tag)
    report_error(c->report, at, CHI_ECONFIG, "tags (\"%.80s\") are not supported",
                 (const char *)tag);
  return anchor || tag;
}

/* Describes the value whose first event is the current one; its text lives as long as the event.
 * False after complaining. */
static bool real_conf_describe(struct real_conf *c, struct reader_value *value)
{
  const yaml_event_t *e = &c->event;
  *value = (struct reader_value){READER_NOTHING, "", real_conf_mark(e->start_mark)};
  switch (e->type) {
  case YAML_MAPPING_START_EVENT:
    value->kind = READER_MAP;
    return !real_conf_refuse(c, e->data.mapping_start.anchor, e->data.mapping_start.tag);
  case YAML_SEQUENCE_START_EVENT:
    value->kind = READER_LIST;
    return !real_conf_refuse(c, e->data.sequence_start.anchor, e->data.sequence_start.tag);
  case YAML_ALIAS_EVENT:
    return !real_conf_refuse(c, e->data.alias.anchor, NULL);
  case YAML_SCALAR_EVENT:
    break;
  default:
    return false;
  }
  value->text = (const char *)e->data.scalar.value;
  value->kind = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? real_conf_plain_kind(value->text)
                                                                : READER_TEXT;
  if (strlen(value->text) != e->data.scalar.length) {
    report_error(c->report, value->at, CHI_ECONFIG, "text with a NUL character");
    return false;
  }
  return !real_conf_refuse(c, e->data.scalar.anchor, e->data.scalar.tag);
}

/* The same, with the kind saying what was refused. */
static bool real_conf_value(struct real_conf *c, struct reader_value *value)
{
  bool good = real_conf_describe(c, value);
  if (!good)
    value->kind = READER_REFUSED;
  return good;
}

/* Reads the key that is the current event. False after complaining. */
static bool real_conf_read_key(struct real_conf *c, struct real_conf_key *key)
{
  struct reader_value value;
  if (!real_conf_value(c, &value))
    return false;
  key->at = value.at;
  if (value.kind >= READER_MAP) {
    report_error(c->report, value.at, CHI_ECONFIG, "a key must be a word");
    return false;
  }
  if (strlen(value.text) >= sizeof(key->name)) {
    report_error(c->report, value.at, CHI_ECONFIG, "a key of more than %zu bytes",
                 sizeof(key->name) - 1);
    return false;
  }
  memcpy(key->name, value.text, strlen(value.text) + 1);
  return true;
}

/* Steps through a map: moves to the first event of the next value and describes key and value.
 * False at the end of the map. Between the calls the value must be passed over. */
static bool real_conf_entry(struct real_conf *c, struct real_conf_key *key,
                            struct reader_value *value)
{
  for (;;) {
    yaml_event_type_t type = real_conf_next(c);
    bool good;
    if (type == YAML_MAPPING_END_EVENT || type == YAML_NO_EVENT)
      return false;
    good = real_conf_read_key(c, key);
    real_conf_skip(c);
    if (real_conf_next(c) == YAML_NO_EVENT)
      return false;
    real_conf_value(c, value);
    if (good)
      return true;
    real_conf_skip(c);
  }
}

/* ---- the file -------------------------------------------------------------------------------- */

static void real_conf_section(struct real_conf *c)
{
  struct real_conf_key key;
  struct reader_value value;
  while (real_conf_entry(c, &key, &value)) {
    reader_key(c->reader, key.name, key.at, &value);
    real_conf_skip(c);
  }
}

/* Hands over one key of a pool, and the keys of a map below it with their names joined: the depth
 * of the recursion is bounded with the depth of the file. */
static void real_conf_field(struct real_conf *c, const char *prefix)
{
  struct real_conf_key key;
  struct reader_value value;
  char name[CHI_NAME_MAX];
  while (real_conf_entry(c, &key, &value)) {
    int n = snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key.name);
    if (n < 0 || (size_t)n >= sizeof(name))
      report_error(c->report, key.at, CHI_ECONFIG, "a key of more than %zu bytes",
                   sizeof(name) - 1);
    else if (reader_field(c->reader, name, key.at, &value)) {
      real_conf_field(c, name);
      continue;
    }
    real_conf_skip(c);
  }
}

static void real_conf_compose(struct real_conf *c)
{
  struct reader_value value;
  for (;;) {
    yaml_event_type_t type = real_conf_next(c);
    if (type == YAML_SEQUENCE_END_EVENT || type == YAML_NO_EVENT)
      return;
    if (!real_conf_value(c, &value) || !reader_pool(c->reader, &value)) {
      real_conf_skip(c);
      continue;
    }
    real_conf_field(c, "");
    if (!c->over)
      reader_pool_end(c->reader);
  }
}

static void real_conf_sections(struct real_conf *c)
{
  struct real_conf_key key;
  struct reader_value value;
  while (real_conf_entry(c, &key, &value)) {
    switch (reader_section(c->reader, key.name, key.at, &value)) {
    case READER_SKIP:
      real_conf_skip(c);
      break;
    case READER_KEYS:
      real_conf_section(c);
      break;
    case READER_POOLS:
      real_conf_compose(c);
      break;
    }
  }
}

static void real_conf_document(struct real_conf *c)
{
  struct reader_value value;
  real_conf_next(c);
  if (!real_conf_value(c, &value))
    return;
  if (value.kind == READER_MAP) {
    real_conf_sections(c);
  } else if (value.kind == READER_NOTHING && !*value.text) {
    return;
  } else {
    report_error(c->report, value.at, CHI_ECONFIG,
                 "expected a map of sections such as \"networking:\", found %s",
                 value.kind == READER_LIST ? "a list" : "a single value");
    c->over = true;
  }
}

CHI_PRIVATE void real_conf_parse(struct reader *r, const char *text, size_t size)
{
  struct real_conf c = {.reader = r, .report = r->report, .text = text, .size = size};
  bool seen = false;
  if (!yaml_parser_initialize(&c.parser)) {
    report_error(r->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
    return;
  }
  yaml_parser_set_input_string(&c.parser, (const unsigned char *)text, size);
  for (yaml_event_type_t type = real_conf_next(&c);
       type != YAML_STREAM_END_EVENT && type != YAML_NO_EVENT; type = real_conf_next(&c)) {
    if (type != YAML_DOCUMENT_START_EVENT)
      continue;
    if (seen) {
      report_error(r->report, real_conf_mark(c.event.start_mark), CHI_ECONFIG,
                   "a second document begins here; a configuration is one");
      c.over = true;
    } else {
      real_conf_document(&c);
    }
    seen = true;
  }
  yaml_event_delete(&c.event);
  yaml_parser_delete(&c.parser);
  reader_end(r);
}

/* ---- the world ------------------------------------------------------------------------------- */

/* Holds the user's name while it is expanded. */
struct real_conf_env {
  char user[CHI_NAME_MAX];
};

static const char *real_conf_lookup(void *arg, const char *name)
{
  struct real_conf_env *env = arg;
  const char *value = getenv(name);
  struct passwd entry, *found = NULL;
  char buf[4096];
  if (strcmp(name, "USER") != 0 || (value && *value))
    return value;
  if (getpwuid_r(getuid(), &entry, buf, sizeof(buf), &found) == 0 && found)
    snprintf(env->user, sizeof(env->user), "%s", found->pw_name);
  else
    snprintf(env->user, sizeof(env->user), "%lu", (unsigned long)getuid());
  return env->user;
}

static int real_conf_status(int error)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    return CHI_ENOENT;
  case EACCES:
  case EPERM:
    return CHI_EACCES;
  case ENOMEM:
    return CHI_ENOMEM;
  default:
    return CHI_EIO;
  }
}

/* Reads all of a file, but at most max bytes and one, into memory that the caller frees. */
static int real_conf_read(int fd, size_t max, char **text, size_t *size)
{
  size_t room = 0;
  ssize_t n;
  *text = NULL;
  *size = 0;
  do {
    if (*size == room) {
      char *grown = realloc(*text, room = room ? room * 2 : 4096);
      if (!grown)
        return CHI_ENOMEM;
      *text = grown;
    }
    n = read(fd, *text + *size, room - *size);
    if (n > 0)
      *size += (size_t)n;
  } while (*size <= max && (n > 0 || (n < 0 && errno == EINTR)));
  return n < 0 ? real_conf_status(errno) : CHI_OK;
}

/* Reads the file at path; `what` it is, and `at` where it is named, are for the report. NULL after
 * reporting; the caller frees the text. */
static char *real_conf_slurp(struct report *report, struct report_mark at, const char *what,
                             const char *path, size_t max, size_t *size)
{
  char *text = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  int rc = fd < 0 ? real_conf_status(errno) : real_conf_read(fd, max, &text, size);
  if (rc != CHI_OK)
    report_error(report, at, rc, "cannot read %s: %m", what);
  else if (*size > max)
    report_error(report, at, rc = CHI_ECONFIG, "%s is larger than %zu bytes", what, max);
  if (fd >= 0)
    close(fd);
  if (rc == CHI_OK)
    return text;
  free(text);
  return NULL;
}

static int real_conf_home(char *path, size_t size)
{
  const char *home = getenv("HOME");
  struct passwd entry, *found = NULL;
  char buf[4096];
  if ((!home || !*home) && getpwuid_r(getuid(), &entry, buf, sizeof(buf), &found) == 0 && found)
    home = found->pw_dir;
  if (!home || !*home)
    return CHI_ENOENT;
  if ((size_t)snprintf(path, size, "%s/.chimaera/chimaera.yaml", home) >= size)
    return CHI_ETOOBIG;
  if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
    return CHI_ENOENT;
  return CHI_OK;
}

int chi_config_path(char *path, size_t size)
{
  static const char *const variables[] = {"CHI_SERVER_CONF", "WRP_RUNTIME_CONF"};
  for (size_t i = 0; i < CHI_COUNT(variables); i++) {
    const char *value = getenv(variables[i]);
    if (value && *value)
      return (size_t)snprintf(path, size, "%s", value) < size ? CHI_OK : CHI_ETOOBIG;
  }
  return real_conf_home(path, size);
}

static void real_conf_hosts(struct reader *r)
{
  struct report_mark at = reader_written(r, "networking.hostfile");
  const char *file = r->report->file;
  char what[CHI_PATH_MAX + 16], *text;
  size_t size;
  snprintf(what, sizeof(what), "the hostfile %s", r->config->hostfile);
  text = real_conf_slurp(r->report, at, what, r->config->hostfile, REAL_CONF_HOSTFILE_MAX, &size);
  if (!text)
    return;
  r->report->file = r->config->hostfile;
  hostfile_parse(r->config, text, size, r->report);
  r->report->file = file;
  free(text);
}

int chi_config_load(chi_config *config, const char *path, chi_config_report *report, void *arg,
                    chi_error *err)
{
  char found[CHI_PATH_MAX];
  struct real_conf_env env;
  struct report problems = {NULL, report, arg, err, 0, CHI_OK};
  struct reader r = {config, &problems, .lookup = real_conf_lookup, .lookup_arg = &env};
  char *text = NULL;
  size_t size = 0;
  int rc = path ? CHI_OK : chi_config_path(found, sizeof(found));
  if (rc == CHI_ETOOBIG)
    report_error(&problems, (struct report_mark){0, 0}, CHI_ECONFIG, "its path is too long");
  if (problems.errors)
    return problems.code;
  problems.file = path ? path : rc == CHI_OK ? found : NULL;
  if (problems.file) {
    text = real_conf_slurp(&problems, (struct report_mark){0, 0}, "it", problems.file,
                           REAL_CONF_FILE_MAX, &size);
    if (!text)
      return problems.code;
  }
  real_conf_parse(&r, text ? text : "", size);
  free(text);
  if (*config->hostfile)
    real_conf_hosts(&r);
  else
    config_drop_hosts(config);
  return problems.code;
}

CHI_PRIVATE int real_conf_names(chi_config *config, chi_error *err)
{
  struct real_conf_env env;
  struct report problems = {NULL, NULL, NULL, err, 0, CHI_OK};
  struct reader r = {config, &problems, .lookup = real_conf_lookup, .lookup_arg = &env};
  reader_end(&r);
  return problems.code;
}

#undef REAL_CONF_FILE_MAX
#undef REAL_CONF_HOSTFILE_MAX
#undef REAL_CONF_DEPTH_MAX

#endif
#endif /* CHI_OMIT_REAL */

/* ---- sim/sim.c ---- */
#ifndef CHI_OMIT_SIM
/* sim.c - the simulated environment: nodes and clients in one thread, in virtual time. */

#include <stdio.h>
#include <stdlib.h>

#define SIM_STEP_NS 1000u  /* a step of a worker */
#define SIM_PARK_NS 500u   /* from announcing sleep to sleeping */
#define SIM_RELAX_NS 500u  /* a turn of a client's spin */
#define SIM_OPEN_NS 20000u /* finding out who is there */
#define SIM_WHIM_NS 20000u /* until a sleep ends for nothing */
#define SIM_BUDGET 1u
#define SIM_CAPACITY (UINT64_C(64) << 30)
#define SIM_PATIENCE_NS UINT64_C(60000000000)

struct sim_worker {
  struct sim_thread thread;
  struct sim_node *node;
  uint32_t index;
};

struct sim_node {
  struct sim_node *next;
  struct sim *sim;
  uint32_t number;
  char instance[32];
  struct sim_disk *disk;
  bool blocking_io;
  bool up; /* what follows is in use */
  struct sim_party party;
  struct sim_io io;
  struct sim_link_port port;
  struct rng cpu;
  struct runtime *runtime;
  struct sim_worker *workers;
  uint32_t worker_count;
  enum runtime_state state;
  bool stop_asked, ended;
  uint64_t grace_ns;
};

struct sim_client {
  struct sim_client *next;
  struct sim *sim;
  uint32_t number;
  struct sim_node *node;
  struct sim_party party;
  struct sim_thread thread;
  void (*body)(struct sim_client *client, void *arg);
  void *arg;
  uint32_t attached;
  bool ended; /* its body has returned */
  bool gone;  /* and nothing is left of it */
};

struct sim {
  struct sim_world world;
  struct sim_node *nodes;
  struct sim_client *clients, **last_client;
  uint32_t client_count, clients_left;
  bool ended; /* some node or client has */
};

static struct sim_node *sim_node_of(struct env *env)
{
  return CHI_CONTAINER_OF(sim_party_of(env), struct sim_node, party);
}

static void sim_sleep(struct sim_world *world, struct rng *rng, uint64_t ns)
{
  sim_thread_sleep(world, world->now + sim_world_about(rng, ns));
}

/* ---- the environment of a node ------------------------------------------------------------ */

static void sim_env_log(struct env *env, int level, const char *line)
{
  struct sim_party *party = sim_party_of(env);
  (void)level;
  sim_trace_text(&party->world->trace, party->world->now, party->node, line);
}

static void sim_env_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c)
{
  struct sim_party *party = sim_party_of(env);
  sim_world_trace(party->world, party->node, what, a, b, c, NULL);
}

static int sim_env_link_reply(struct env *env, env_link link, const void *message, size_t size,
                              const struct env_share *shares, uint32_t count)
{
  return sim_link_reply(sim_party_of(env), link, message, size, shares, count);
}

static void sim_env_link_close(struct env *env, env_link link)
{
  sim_link_close(&sim_node_of(env)->port, link);
}

static int sim_env_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  return sim_io_submit(&sim_node_of(env)->io, worker, io);
}

static bool sim_env_io_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  (void)worker;
  return sim_io_blocks(&sim_node_of(env)->io, io);
}

static struct env_io *sim_env_io_reap(struct env *env, uint32_t worker)
{
  return sim_io_reap(&sim_node_of(env)->io, worker);
}

static int sim_env_module_load(struct env *env, const char *name, const chi_module **out,
                               chi_error *err)
{
  (void)env, (void)out;
  return error_set(err, CHI_ENOMODULE, "no module \"%s\": a simulation loads none", name);
}

static void sim_node_env(struct sim_node *node)
{
  struct env *env = &node->party.env;
  env->log = sim_env_log;
  env->trace = sim_env_trace;
  env->link_reply = sim_env_link_reply;
  env->link_close = sim_env_link_close;
  env->io_submit = sim_env_io_submit;
  env->io_blocks = sim_env_io_blocks;
  env->io_reap = sim_env_io_reap;
  env->module_load = sim_env_module_load;
}

/* ---- workers: what a thread of the real environment does ---------------------------------- */

static void sim_node_deliver(struct sim_node *node, const struct sim_link_mail *mail, env_link link)
{
  const struct env_peer peer = {1000, 1000 + mail->sender};
  switch (mail->kind) {
  case SIM_LINK_CONNECT:
    runtime_on_connect(node->runtime, link, &peer);
    break;
  case SIM_LINK_REQUEST:
    runtime_on_request(node->runtime, link, mail->bytes, mail->size);
    break;
  default:
    runtime_on_hangup(node->runtime, link);
  }
}

/* What the network worker does between its steps. */
static void sim_node_upcalls(struct sim_node *node)
{
  struct sim_link_mail *mail;
  env_link link;
  while ((mail = sim_link_take(&node->port, &link))) {
    sim_node_deliver(node, mail, link);
    sim_link_mail_free(mail);
  }
  if (node->stop_asked)
    runtime_stop(node->runtime, node->grace_ns);
  node->stop_asked = false;
}

static bool sim_worker_is_network(const struct sim_worker *worker)
{
  return worker->index == runtime_network_worker(worker->node->runtime);
}

/* When a sleeping worker goes on if nobody wakes it. */
static uint64_t sim_worker_until(const struct sim_worker *worker, uint64_t deadline)
{
  struct sim_node *node = worker->node;
  uint64_t now = node->sim->world.now, due = sim_link_due(&node->port);
  if (sim_io_ready(&node->io, worker->index))
    return now;
  if (sim_worker_is_network(worker) && node->stop_asked)
    return now;
  if (sim_worker_is_network(worker) && due < deadline)
    deadline = due;
  if (rng_chance(&node->cpu, SIM_WORLD_WHIM_PPM) && now + SIM_WHIM_NS < deadline)
    deadline = now + SIM_WHIM_NS;
  return deadline;
}

static void sim_worker_rest(struct sim_worker *worker, uint64_t deadline)
{
  struct sim_node *node = worker->node;
  if (runtime_may_sleep(node->runtime, worker->index)) {
    sim_sleep(&node->sim->world, &node->cpu, SIM_PARK_NS);
    sim_party_bell_wait(&node->party, runtime_worker_bell(node->runtime, worker->index),
                        sim_worker_until(worker, deadline));
  }
  runtime_awake(node->runtime, worker->index);
}

/* Time passes before a step, and what it does is seen when that time is over. */
static void sim_worker_main(void *arg)
{
  struct sim_worker *worker = arg;
  struct sim_node *node = worker->node;
  struct sim_world *world = &node->sim->world;
  uint64_t deadline = SIM_WORLD_NEVER;
  while (!node->ended) {
    bool more;
    if (sim_worker_is_network(worker))
      sim_node_upcalls(node);
    sim_sleep(world, &node->cpu, SIM_STEP_NS);
    more = runtime_step(node->runtime, worker->index, world->now, SIM_BUDGET, &deadline);
    if (sim_worker_is_network(worker) && runtime_state(node->runtime) == RUNTIME_STOPPED)
      node->ended = node->sim->ended = true;
    else if (!more)
      sim_worker_rest(worker, deadline);
  }
}

static void sim_node_employ(struct sim_node *node)
{
  struct sim_world *world = &node->sim->world;
  node->worker_count = runtime_worker_count(node->runtime);
  node->workers = sim_world_new(node->worker_count * sizeof(*node->workers));
  sim_io_init(&node->io, world, node->disk, node->number, node->worker_count);
  node->io.blocks = node->blocking_io;
  for (uint32_t i = 0; i < node->worker_count; i++) {
    struct sim_worker *worker = &node->workers[i];
    worker->node = node;
    worker->index = i;
    sim_thread_start(world, &worker->thread, node->number, sim_worker_main, worker);
    node->io.worker[i].thread = &worker->thread;
  }
  node->port.thread = &node->workers[runtime_network_worker(node->runtime)].thread;
}

/* ---- nodes -------------------------------------------------------------------------------- */

/* The node of that number, made when it is first spoken of. */
static struct sim_node *sim_node_get(struct sim *sim, uint32_t number)
{
  struct sim_node *node = sim->nodes;
  while (node && node->number != number)
    node = node->next;
  if (node)
    return node;
  node = sim_world_new(sizeof(*node));
  node->sim = sim;
  node->number = number;
  node->state = RUNTIME_STOPPED;
  snprintf(node->instance, sizeof(node->instance), "sim:%u", number);
  node->disk = sim_disk_open(sim->world.seed, number, SIM_CAPACITY);
  node->next = sim->nodes;
  sim->nodes = node;
  return node;
}

static void sim_node_trace(struct sim_node *node, uint64_t what)
{
  sim_world_trace(&node->sim->world, node->number, SIM_TRACE_NODE, what, 0, 0, NULL);
}

/* Its threads are no more, nor what they had under way. */
static void sim_node_dismiss(struct sim_node *node)
{
  node->port.thread = NULL;
  if (node->workers)
    sim_io_fini(&node->io);
  for (uint32_t i = 0; i < node->worker_count; i++)
    sim_thread_end(&node->workers[i].thread);
  free(node->workers);
  node->workers = NULL;
  node->worker_count = 0;
}

/* Everything of a run goes but the disk, with what is done to it now. */
static void sim_node_clear(struct sim_node *node, enum sim_disk_crash how)
{
  sim_node_dismiss(node);
  sim_link_close_all(&node->port);
  sim_party_fini(&node->party);
  sim_disk_crash(node->disk, how);
  node->runtime = NULL;
  node->up = node->ended = node->stop_asked = false;
  node->state = RUNTIME_STOPPED;
}

/* The runtime has stopped by itself: nothing of it may be left. */
static void sim_node_finish(struct sim_node *node)
{
  uint32_t files = sim_disk_open_count(node->disk);
  sim_node_trace(node, SIM_TRACE_NODE_STOPS);
  if (node->io.flight)
    sim_world_fail(&node->sim->world, node->number, "a stopped node still has file operations");
  sim_node_dismiss(node);
  runtime_close(node->runtime);
  sim_party_check(&node->party, "of a stopped node");
  if (files)
    sim_world_fail(&node->sim->world, node->number, "leak of a stopped node: %u open files", files);
  sim_node_clear(node, SIM_DISK_KEEP);
}

static void sim_node_on_state(void *arg, enum runtime_state state)
{
  struct sim_node *node = arg;
  node->state = state;
  if (state == RUNTIME_SERVING)
    sim_node_trace(node, SIM_TRACE_NODE_SERVES);
  else if (state == RUNTIME_FAILED)
    sim_node_trace(node, SIM_TRACE_NODE_FAILS);
}

static bool sim_node_is_ready(void *arg)
{
  struct sim_node *node = arg;
  return !node->up || node->state != RUNTIME_STARTING;
}

static bool sim_node_is_down(void *arg)
{
  struct sim_node *node = arg;
  return !node->up || node->state == RUNTIME_STUCK;
}

static int sim_node_open(struct sim_node *node, const chi_config *config,
                         const chi_module *const *modules, uint32_t count, chi_error *err)
{
  chi_config resolved = *config;
  struct runtime_options options = {.config = &resolved,
                                    .instance = node->instance,
                                    .node = node->number < config->host_count ? node->number : 0,
                                    .modules = modules,
                                    .module_count = count,
                                    .on_state = sim_node_on_state,
                                    .arg = node};
  int rc;
  resolved.sched_threads = config->sched_threads ? config->sched_threads : 2;
  resolved.slow_threads = config->slow_threads ? config->slow_threads : 1;
  sim_party_init(&node->party, &node->sim->world, node->number, 0);
  sim_link_port_init(&node->port, &node->party);
  sim_world_stream(&node->sim->world, &node->cpu, node->number, SIM_WORLD_STREAM_CPU);
  sim_node_env(node);
  node->up = true;
  node->state = RUNTIME_STARTING;
  sim_node_trace(node, SIM_TRACE_NODE_STARTS);
  rc = runtime_open(&node->party.env, &options, &node->runtime, err);
  if (rc) {
    sim_party_check(&node->party, "of a node that did not open");
    sim_node_clear(node, SIM_DISK_KEEP);
  } else {
    sim_node_employ(node);
  }
  return rc;
}

CHI_PRIVATE int sim_node_start(struct sim *sim, uint32_t number, const chi_config *config,
                               const chi_module *const *modules, uint32_t count, chi_error *err)
{
  struct sim_node *node = sim_node_get(sim, number);
  chi_error why = {CHI_ESHUTDOWN, "it was asked to stop"};
  int rc;
  CHI_ASSERT(!node->up && !sim->world.running);
  rc = sim_node_open(node, config, modules, count, err);
  if (rc)
    return rc;
  if (!sim_run_until(sim, sim_node_is_ready, node, SIM_PATIENCE_NS)) {
    sim_node_kill(sim, number);
    return error_set(err, CHI_ETIMEOUT, "node %u does not come up", number);
  }
  if (node->state == RUNTIME_SERVING)
    return CHI_OK;
  if (node->state == RUNTIME_FAILED)
    why = *runtime_failure(node->runtime);
  if (node->up && sim_node_stop(sim, number, 0) != CHI_OK)
    sim_node_kill(sim, number);
  return error_set(err, why.code, "%s", why.text);
}

CHI_PRIVATE int sim_node_stop(struct sim *sim, uint32_t number, uint32_t grace_ms)
{
  struct sim_node *node = sim_node_get(sim, number);
  CHI_ASSERT(node->up && !sim->world.running);
  node->stop_asked = true;
  node->grace_ns = (uint64_t)grace_ms * 1000000u;
  sim_thread_wake(node->port.thread, sim->world.now);
  sim_run_until(sim, sim_node_is_down, node, 2 * node->grace_ns + SIM_PATIENCE_NS);
  if (!node->up)
    return CHI_OK;
  return node->state == RUNTIME_STUCK ? CHI_EBUSY : CHI_ETIMEOUT;
}

static void sim_node_end(struct sim *sim, uint32_t number, uint64_t what, enum sim_disk_crash how)
{
  struct sim_node *node = sim_node_get(sim, number);
  CHI_ASSERT(node->up);
  for (uint32_t i = 0; i < node->worker_count; i++)
    CHI_ASSERT(sim->world.running != &node->workers[i].thread);
  sim_node_trace(node, what);
  sim_node_clear(node, how);
}

CHI_PRIVATE void sim_node_crash(struct sim *sim, uint32_t number)
{
  sim_node_end(sim, number, SIM_TRACE_NODE_LOSES_POWER, SIM_DISK_SEED);
}

CHI_PRIVATE void sim_node_kill(struct sim *sim, uint32_t number)
{
  sim_node_end(sim, number, SIM_TRACE_NODE_KILLED, SIM_DISK_KEEP);
}

CHI_PRIVATE enum runtime_state sim_node_state(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->state;
}

CHI_PRIVATE struct sim_disk *sim_node_disk(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->disk;
}

CHI_PRIVATE const char *sim_node_instance(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->instance;
}

CHI_PRIVATE void sim_node_blocking_io(struct sim *sim, uint32_t number, bool blocks)
{
  sim_node_get(sim, number)->blocking_io = blocks;
}

/* ---- the environment of a client ---------------------------------------------------------- */

static int sim_env_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  struct sim_party *client = sim_party_of(env);
  struct sim *sim = CHI_CONTAINER_OF(client->world, struct sim, world);
  struct sim_node *node = sim->nodes;
  sim_sleep(client->world, &client->timing, SIM_OPEN_NS);
  while (node && (!instance || strcmp(node->instance, instance) != 0))
    node = node->next;
  if (!node || !node->up)
    return error_set(err, CHI_ENODAEMON, "no daemon \"%s\": looked for a simulated node",
                     instance ? instance : "");
  *out = sim_link_connect(client, &node->port);
  return CHI_OK;
}

static int sim_env_link_call(struct env *env, env_link link, const void *request,
                             size_t request_size, void *reply, size_t *size,
                             struct env_share *shares, uint32_t *count)
{
  return sim_link_call(sim_party_of(env), link, request, request_size, reply, size, shares, count);
}

static int sim_env_link_wait(struct env *env, env_link link, env_bell bell, uint64_t deadline)
{
  return sim_link_wait(sim_party_of(env), link, bell, deadline);
}

static void sim_env_link_shut(struct env *env, env_link link)
{
  sim_link_shut(sim_party_of(env), link);
}

static int sim_env_link_descriptor(struct env *env, env_link link, env_bell bell)
{
  (void)env, (void)link, (void)bell;
  return -1;
}

static void sim_env_relax(struct env *env)
{
  struct sim_party *party = sim_party_of(env);
  sim_sleep(party->world, &party->timing, SIM_RELAX_NS);
}

static void sim_env_pause(struct env *env, uint64_t until)
{
  struct sim_world *world = sim_party_of(env)->world;
  if (until > world->now)
    sim_thread_sleep(world, until);
}

static void sim_client_env(struct sim_client *client)
{
  struct env *env = &client->party.env;
  env->log = sim_env_log;
  env->trace = sim_env_trace;
  env->link_open = sim_env_link_open;
  env->link_call = sim_env_link_call;
  env->link_wait = sim_env_link_wait;
  env->link_shut = sim_env_link_shut;
  env->link_descriptor = sim_env_link_descriptor;
  env->relax = sim_env_relax;
  env->pause = sim_env_pause;
}

/* ---- clients ------------------------------------------------------------------------------ */

static struct sim_client *sim_client_get(struct sim *sim, uint32_t number)
{
  struct sim_client *client = sim->clients;
  while (client && client->number != number)
    client = client->next;
  CHI_ASSERT(client);
  return client;
}

static void sim_client_trace(struct sim_client *client, uint64_t what)
{
  sim_world_trace(&client->sim->world, client->node->number, SIM_TRACE_CLIENT, client->number, what,
                  0, NULL);
}

static void sim_client_main(void *arg)
{
  struct sim_client *client = arg;
  client->body(client, client->arg);
  client->ended = client->sim->ended = true;
}

/* The process is no more: its links hang up, what it holds is taken. */
static void sim_client_clear(struct sim_client *client)
{
  sim_thread_end(&client->thread);
  sim_link_shut_all(&client->party);
  sim_party_fini(&client->party);
  client->gone = true;
  client->sim->clients_left--;
}

CHI_PRIVATE uint32_t sim_client(struct sim *sim, uint32_t node,
                                void (*body)(struct sim_client *client, void *arg), void *arg)
{
  struct sim_client *client = sim_world_new(sizeof(*client));
  client->sim = sim;
  client->number = ++sim->client_count;
  client->node = sim_node_get(sim, node);
  client->body = body;
  client->arg = arg;
  *sim->last_client = client;
  sim->last_client = &client->next;
  sim->clients_left++;
  sim_party_init(&client->party, &sim->world, node, client->number);
  sim_client_env(client);
  sim_thread_start(&sim->world, &client->thread, node, sim_client_main, client);
  sim_client_trace(client, SIM_TRACE_CLIENT_STARTS);
  return client->number;
}

CHI_PRIVATE void sim_client_kill(struct sim *sim, uint32_t number)
{
  struct sim_client *client = sim_client_get(sim, number);
  if (client->gone)
    return;
  CHI_ASSERT(sim->world.running != &client->thread);
  sim_client_trace(client, SIM_TRACE_CLIENT_KILLED);
  sim_client_clear(client);
}

CHI_PRIVATE bool sim_client_ended(struct sim *sim, uint32_t number)
{
  return sim_client_get(sim, number)->gone;
}

static void sim_client_detached(struct env *env)
{
  struct sim_client *client = CHI_CONTAINER_OF(sim_party_of(env), struct sim_client, party);
  CHI_ASSERT(client->attached > 0);
  if (--client->attached == 0)
    sim_party_check(&client->party, "of a client that has closed");
}

CHI_PRIVATE int sim_client_attach(struct sim_client *client, chi_client **out, chi_error *err)
{
  int rc = client_open(&client->party.env, sim_client_detached, client->node->instance, out, err);
  if (rc == CHI_OK)
    client->attached++;
  else if (client->attached == 0)
    sim_party_check(&client->party, "of a client that did not attach");
  return rc;
}

CHI_PRIVATE void sim_client_sleep(struct sim_client *client, uint64_t ns)
{
  struct sim_world *world = &client->sim->world;
  CHI_ASSERT(world->running == &client->thread);
  sim_thread_sleep(world, world->now + ns);
}

CHI_PRIVATE struct sim *sim_client_sim(struct sim_client *client)
{
  return client->sim;
}

/* ---- the whole ---------------------------------------------------------------------------- */

CHI_PRIVATE struct sim *sim_open(uint64_t seed)
{
  struct sim *sim = sim_world_new(sizeof(*sim));
  sim_world_init(&sim->world, seed);
  sim->last_client = &sim->clients;
  return sim;
}

CHI_PRIVATE void sim_close(struct sim *sim)
{
  CHI_ASSERT(!sim->world.running);
  while (sim->clients) {
    struct sim_client *client = sim->clients;
    if (!client->gone)
      sim_client_clear(client);
    sim->clients = client->next;
    free(client);
  }
  while (sim->nodes) {
    struct sim_node *node = sim->nodes;
    if (node->up)
      sim_node_clear(node, SIM_DISK_LOSE);
    sim_disk_close(node->disk);
    sim->nodes = node->next;
    free(node);
  }
  sim_world_fini(&sim->world);
  free(sim);
}

CHI_PRIVATE uint64_t sim_now(const struct sim *sim)
{
  return sim->world.now;
}

CHI_PRIVATE uint64_t sim_hash(const struct sim *sim)
{
  return hash_stream_finish(&sim->world.trace.hash);
}

CHI_PRIVATE uint64_t sim_events(const struct sim *sim)
{
  return sim->world.trace.events;
}

CHI_PRIVATE const char *sim_failure(const struct sim *sim)
{
  return sim->world.failure[0] ? sim->world.failure : NULL;
}

CHI_PRIVATE void sim_transcript(struct sim *sim, chi_put_fn *put, void *arg)
{
  sim->world.trace.put = put;
  sim->world.trace.arg = arg;
}

CHI_PRIVATE struct sim_fault *sim_faults(struct sim *sim)
{
  return &sim->world.fault;
}

CHI_PRIVATE void sim_cpu(struct sim *sim, uint64_t ns)
{
  uint64_t now = sim->world.now;
  sim_thread_sleep(&sim->world, ns < SIM_WORLD_NEVER - now ? now + ns : SIM_WORLD_NEVER);
}

/* Of clients whose body has returned and nodes that have stopped, takes what is left. */
static void sim_bury(struct sim *sim)
{
  for (struct sim_client *client = sim->clients; client; client = client->next)
    if (client->ended && !client->gone) {
      sim_client_trace(client, SIM_TRACE_CLIENT_ENDS);
      sim_client_clear(client);
    }
  for (struct sim_node *node = sim->nodes; node; node = node->next)
    if (node->ended)
      sim_node_finish(node);
  sim->ended = false;
}

CHI_PRIVATE bool sim_run_until(struct sim *sim, bool (*pred)(void *arg), void *arg,
                               uint64_t limit_ns)
{
  uint64_t limit = sim->world.now + limit_ns;
  while (!pred(arg)) {
    if (!sim_world_next(&sim->world, limit))
      return false;
    if (sim->ended)
      sim_bury(sim);
  }
  return true;
}

static bool sim_never(void *arg)
{
  (void)arg;
  return false;
}

CHI_PRIVATE void sim_run_for(struct sim *sim, uint64_t ns)
{
  sim_run_until(sim, sim_never, NULL, ns);
}

static bool sim_is_idle(void *arg)
{
  const struct sim *sim = arg;
  return sim->clients_left == 0;
}

CHI_PRIVATE bool sim_run_idle(struct sim *sim, uint64_t limit_ns)
{
  return sim_run_until(sim, sim_is_idle, sim, limit_ns);
}

#undef SIM_STEP_NS
#undef SIM_PARK_NS
#undef SIM_RELAX_NS
#undef SIM_OPEN_NS
#undef SIM_WHIM_NS
#undef SIM_BUDGET
#undef SIM_CAPACITY
#undef SIM_PATIENCE_NS
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_link.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_link.c - connections between clients and nodes: messages in order, and hang-ups. */

#include <stdlib.h>

#define SIM_LINK_NS 20000u /* a message, a connection, the news of a hang-up */

struct sim_link {
  uint32_t refs;              /* of two ends and the mail under way */
  struct sim_party *client;   /* NULL: shut, or dead */
  struct sim_link_port *port; /* NULL: closed, or dead */
  env_link client_end, node_end;
  struct sim_thread *waiting;  /* the client's, in a call or a wait */
  struct sim_link_mail *reply; /* arrived, or about to */
};

static void sim_link_drop(struct sim_link *link)
{
  CHI_ASSERT(link->refs > 0);
  if (--link->refs == 0)
    free(link);
}

static uint64_t sim_link_time(struct sim_party *sender)
{
  return sender->world->now + sim_world_about(&sender->timing, SIM_LINK_NS);
}

/* ---- mail --------------------------------------------------------------------------------- */

static struct sim_link_mail *sim_link_mail(struct sim_link *link, int kind, const void *bytes,
                                           size_t size)
{
  struct sim_link_mail *mail = sim_world_new(sizeof(*mail) + size);
  CHI_ASSERT(size <= ENV_MESSAGE_MAX);
  mail->link = link;
  link->refs++;
  mail->kind = kind;
  mail->size = size;
  if (size)
    memcpy(mail->bytes, bytes, size);
  return mail;
}

static void sim_link_enclose(struct sim_link_mail *mail, struct sim_party *sender,
                             const struct env_share *shares, uint32_t count)
{
  CHI_ASSERT(count <= ENV_SHARES_MAX);
  mail->count = count;
  for (uint32_t i = 0; i < count; i++) {
    mail->share[i].kind = shares[i].kind;
    if (shares[i].kind == ENV_SHARE_BELL)
      mail->share[i].bell = sim_party_bell_get(sender, shares[i].bell);
    else
      mail->share[i].segment = sim_party_segment_get(sender, shares[i].segment.handle);
  }
}

/* What was in the mail becomes the receiver's own. */
static void sim_link_unpack(struct sim_link_mail *mail, struct sim_party *receiver,
                            struct env_share *shares)
{
  for (uint32_t i = 0; i < mail->count; i++) {
    shares[i] = (struct env_share){.kind = mail->share[i].kind, .bell = ENV_NO_BELL};
    if (mail->share[i].kind == ENV_SHARE_BELL)
      shares[i].bell = sim_party_table_add(&receiver->bells, mail->share[i].bell);
    else
      sim_party_segment_give(receiver, mail->share[i].segment, &shares[i].segment);
  }
  mail->count = 0;
}

CHI_PRIVATE void sim_link_mail_free(struct sim_link_mail *mail)
{
  for (uint32_t i = 0; i < mail->count; i++) {
    if (mail->share[i].kind == ENV_SHARE_BELL)
      sim_party_bell_drop(mail->share[i].bell);
    else
      sim_party_segment_drop(mail->share[i].segment);
  }
  sim_link_drop(mail->link);
  free(mail);
}

static void sim_link_trace(struct sim_party *sender, const struct sim_link_mail *mail)
{
  struct sim_world *world = sender->world;
  const struct sim_link *link = mail->link;
  if (mail->kind == SIM_LINK_CONNECT || mail->kind == SIM_LINK_HANGUP)
    sim_world_trace(world, sender->node, SIM_TRACE_LINK, (uint64_t)link->node_end,
                    mail->kind == SIM_LINK_CONNECT, 0, NULL);
  else
    sim_world_trace(world, sender->node, SIM_TRACE_SEND, (uint64_t)link->node_end, mail->size,
                    mail->count, NULL);
}

/* To the node: nothing overtakes what was sent before, whoever sent it. */
static void sim_link_post(struct sim_party *sender, struct sim_link_port *port,
                          struct sim_link_mail *mail)
{
  mail->sender = sender->number;
  mail->due = sim_link_time(sender);
  for (const struct sim_link_mail *before = port->first; before; before = before->next)
    if (mail->due < before->due)
      mail->due = before->due;
  *port->last = mail;
  port->last = &mail->next;
  sim_link_trace(sender, mail);
  if (port->thread)
    sim_thread_wake(port->thread, mail->due);
}

/* ---- the node's side ---------------------------------------------------------------------- */

CHI_PRIVATE void sim_link_port_init(struct sim_link_port *port, struct sim_party *node)
{
  *port = (struct sim_link_port){node, NULL, NULL, NULL};
  port->last = &port->first;
}

static void sim_link_unlink(struct sim_link_port *port, struct sim_link_mail **at)
{
  struct sim_link_mail *mail = *at;
  *at = mail->next;
  if (port->last == &mail->next)
    port->last = at;
}

CHI_PRIVATE struct sim_link_mail *sim_link_take(struct sim_link_port *port, env_link *link)
{
  struct sim_link_mail *mail = port->first;
  if (!mail || mail->due > port->node->world->now)
    return NULL;
  sim_link_unlink(port, &port->first);
  CHI_ASSERT(mail->link->port == port);
  *link = mail->link->node_end;
  return mail;
}

CHI_PRIVATE uint64_t sim_link_due(const struct sim_link_port *port)
{
  return port->first ? port->first->due : SIM_WORLD_NEVER;
}

CHI_PRIVATE int sim_link_reply(struct sim_party *node, env_link handle, const void *message,
                               size_t size, const struct env_share *shares, uint32_t count)
{
  struct sim_link *link = sim_party_table_get(&node->links, handle);
  struct sim_link_mail *mail;
  CHI_ASSERT(link);
  if (!link->client)
    return CHI_ESHUTDOWN;
  CHI_ASSERT(!link->reply); /* one answer to one request */
  mail = sim_link_mail(link, SIM_LINK_REPLY, message, size);
  sim_link_enclose(mail, node, shares, count);
  mail->due = sim_link_time(node);
  link->reply = mail;
  sim_link_trace(node, mail);
  if (link->waiting)
    sim_thread_wake(link->waiting, mail->due);
  return CHI_OK;
}

CHI_PRIVATE void sim_link_close(struct sim_link_port *port, env_link handle)
{
  struct sim_link *link = sim_party_table_take(&port->node->links, handle);
  CHI_ASSERT(link && link->port == port);
  for (struct sim_link_mail **at = &port->first; *at;) {
    struct sim_link_mail *mail = *at;
    if (mail->link == link) {
      sim_link_unlink(port, at);
      sim_link_mail_free(mail);
    } else {
      at = &mail->next;
    }
  }
  link->port = NULL;
  sim_world_trace(port->node->world, port->node->node, SIM_TRACE_LINK, (uint64_t)link->node_end, 0,
                  0, NULL);
  if (link->waiting)
    sim_thread_wake(link->waiting, sim_link_time(port->node));
  sim_link_drop(link);
}

CHI_PRIVATE void sim_link_close_all(struct sim_link_port *port)
{
  struct sim_party_table *links = &port->node->links;
  for (uint32_t i = 0; i < links->count; i++)
    if (links->item[i])
      sim_link_close(port, i);
  CHI_ASSERT(!port->first);
}

/* ---- the client's side -------------------------------------------------------------------- */

CHI_PRIVATE env_link sim_link_connect(struct sim_party *client, struct sim_link_port *port)
{
  struct sim_link *link = sim_world_new(sizeof(*link));
  link->refs = 2;
  link->client = client;
  link->port = port;
  link->client_end = sim_party_table_add(&client->links, link);
  link->node_end = sim_party_table_add(&port->node->links, link);
  sim_link_post(client, port, sim_link_mail(link, SIM_LINK_CONNECT, NULL, 0));
  return link->client_end;
}

/* Parks the running thread until the reply is there, or the link has hung up: false. */
static bool sim_link_await(struct sim_party *client, struct sim_link *link)
{
  struct sim_world *world = client->world;
  CHI_ASSERT(!link->waiting); /* one thread at a time */
  link->waiting = world->running;
  while (link->reply ? link->reply->due > world->now : link->port != NULL)
    sim_thread_park(world, link->reply ? link->reply->due : SIM_WORLD_NEVER);
  link->waiting = NULL;
  return link->reply != NULL;
}

CHI_PRIVATE int sim_link_call(struct sim_party *client, env_link handle, const void *request,
                              size_t request_size, void *reply, size_t *size,
                              struct env_share *shares, uint32_t *count)
{
  struct sim_link *link = sim_party_table_get(&client->links, handle);
  struct sim_link_mail *mail;
  int rc = CHI_OK;
  CHI_ASSERT(link);
  if (!link->port)
    return CHI_ESHUTDOWN;
  sim_link_post(client, link->port, sim_link_mail(link, SIM_LINK_REQUEST, request, request_size));
  if (!sim_link_await(client, link))
    return CHI_ESHUTDOWN;
  mail = link->reply;
  link->reply = NULL;
  if (mail->size > *size || mail->count > *count) {
    rc = CHI_ETOOBIG;
  } else {
    *size = mail->size;
    *count = mail->count;
    memcpy(reply, mail->bytes, mail->size);
    sim_link_unpack(mail, client, shares);
  }
  sim_link_mail_free(mail);
  return rc;
}

CHI_PRIVATE int sim_link_wait(struct sim_party *client, env_link handle, env_bell bell,
                              uint64_t deadline)
{
  struct sim_link *link = sim_party_table_get(&client->links, handle);
  bool rung;
  CHI_ASSERT(link && !link->waiting);
  if (rng_chance(&client->timing, SIM_WORLD_WHIM_PPM))
    return CHI_OK;
  if (!link->port)
    return CHI_ESHUTDOWN;
  link->waiting = client->world->running;
  rung = sim_party_bell_wait(client, bell, deadline);
  link->waiting = NULL;
  if (rung)
    return CHI_OK;
  if (!link->port)
    return CHI_ESHUTDOWN;
  return client->world->now >= deadline ? CHI_ETIMEOUT : CHI_OK;
}

CHI_PRIVATE void sim_link_shut(struct sim_party *client, env_link handle)
{
  struct sim_link *link = sim_party_table_take(&client->links, handle);
  CHI_ASSERT(link && link->client == client);
  link->client = NULL;
  link->waiting = NULL;
  if (link->reply)
    sim_link_mail_free(link->reply);
  link->reply = NULL;
  if (link->port)
    sim_link_post(client, link->port, sim_link_mail(link, SIM_LINK_HANGUP, NULL, 0));
  sim_link_drop(link);
}

CHI_PRIVATE void sim_link_shut_all(struct sim_party *client)
{
  for (uint32_t i = 0; i < client->links.count; i++)
    if (client->links.item[i])
      sim_link_shut(client, i);
}

#undef SIM_LINK_NS
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_io.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_io.c - a node's operations on files: the time they take and the faults that hit them. */

#include <stdlib.h>

#define SIM_IO_DEPTH 32u       /* operations under way, per worker */
#define SIM_IO_NS 50000u       /* an operation */
#define SIM_IO_SYNC_NS 500000u /* a sync; a transfer takes 1 ns more for each byte */
#define SIM_IO_WAKE_NS 2000u

struct sim_io_op {
  struct sim_world_event event;
  struct sim_io_op *next;
  struct sim_io *owner;
  uint32_t worker;
  struct env_io *io;
  uint64_t mark;
  bool faulty, done;
  struct sim_fault_io fault;
  struct sim_thread *waiter; /* of a blocking operation */
};

CHI_PRIVATE void sim_io_init(struct sim_io *io, struct sim_world *world, struct sim_disk *disk,
                             uint32_t node, uint32_t worker_count)
{
  *io = (struct sim_io){.world = world, .disk = disk, .node = node, .worker_count = worker_count};
  sim_world_stream(world, &io->rng, node, SIM_WORLD_STREAM_IO);
  io->worker = sim_world_new(worker_count * sizeof(*io->worker));
  for (uint32_t i = 0; i < worker_count; i++)
    io->worker[i].last = &io->worker[i].first;
  io->last = &io->flight;
}

static void sim_io_trace(const struct sim_io_op *op, int kind, uint64_t value)
{
  const struct env_io *io = op->io;
  const char *path = kind == SIM_TRACE_IO_END ? NULL : io->path;
  if (kind == SIM_TRACE_IO_BEGIN && !path)
    path = sim_disk_path(op->owner->disk, io->file);
  sim_world_trace(op->owner->world, op->owner->node, kind, op->worker, (uint64_t)io->op, value,
                  path);
}

/* ---- what an operation does --------------------------------------------------------------- */

/* Fails as the rule says; but part of a write may have happened, a sync may have lost data, and
 * what is closed is closed. */
static int64_t sim_io_fail(struct sim_io_op *op)
{
  struct sim_io *owner = op->owner;
  struct env_io part = *op->io;
  if (part.op == ENV_IO_CLOSE)
    sim_disk_do(owner->disk, &part, op->mark);
  if (part.op == ENV_IO_SYNC)
    sim_disk_sync_failed(owner->disk, &part, op->mark);
  if (part.op == ENV_IO_WRITE) {
    part.size = rng_below(&owner->rng, part.size / SIM_DISK_ALIGN + 1) * SIM_DISK_ALIGN;
    if (part.size)
      sim_disk_do(owner->disk, &part, op->mark);
  }
  return op->fault.result;
}

/* A transfer may do less than asked, at any time. What a direct file transfers stays aligned. */
static uint64_t sim_io_size(struct sim_io_op *op)
{
  uint64_t size = op->io->size, unit = size % SIM_DISK_ALIGN ? SIM_DISK_SECTOR : SIM_DISK_ALIGN;
  bool less = rng_chance(&op->owner->rng, SIM_WORLD_WHIM_PPM);
  if (op->faulty && op->fault.limit)
    return size < op->fault.limit ? size : op->fault.limit;
  if (!less || size <= unit)
    return size;
  return unit * (1 + rng_below(&op->owner->rng, (size - 1) / unit));
}

static int64_t sim_io_perform(struct sim_io_op *op)
{
  struct env_io io = *op->io;
  if (op->faulty && op->fault.result < 0)
    return sim_io_fail(op);
  if (io.op == ENV_IO_READ || io.op == ENV_IO_WRITE)
    io.size = sim_io_size(op);
  return sim_disk_do(op->owner->disk, &io, op->mark);
}

static void sim_io_unlink(struct sim_io_op *op)
{
  struct sim_io_op **at = &op->owner->flight;
  while (*at != op)
    at = &(*at)->next;
  *at = op->next;
  if (!op->next)
    op->owner->last = at;
}

/* ---- its way ------------------------------------------------------------------------------ */

static void sim_io_hand_back(struct sim_io_op *op)
{
  struct sim_io_worker *worker = &op->owner->worker[op->worker];
  op->io->next = NULL;
  *worker->last = op->io;
  worker->last = &op->io->next;
  if (worker->thread)
    sim_thread_wake(worker->thread, op->owner->world->now + SIM_IO_WAKE_NS);
}

static void sim_io_complete(struct sim_world_event *event)
{
  struct sim_io_op *op = CHI_CONTAINER_OF(event, struct sim_io_op, event);
  op->io->result = sim_io_perform(op);
  op->owner->worker[op->worker].flight--;
  sim_io_trace(op, SIM_TRACE_IO_END, (uint64_t)op->io->result);
  sim_io_unlink(op);
  if (op->waiter) {
    op->done = true;
    sim_thread_wake(op->waiter, op->owner->world->now);
    return;
  }
  sim_io_hand_back(op);
  free(op);
}

static uint64_t sim_io_time(struct sim_io_op *op)
{
  const struct env_io *io = op->io;
  uint64_t ns = SIM_IO_NS;
  if (io->op == ENV_IO_SYNC || io->op == ENV_IO_DIRSYNC)
    ns = SIM_IO_SYNC_NS;
  if (io->op == ENV_IO_READ || io->op == ENV_IO_WRITE)
    ns += io->size;
  ns = sim_world_about(&op->owner->rng, ns);
  return op->owner->world->now + ns + (op->faulty ? op->fault.delay_ns : 0);
}

static struct sim_io_op *sim_io_begin(struct sim_io *io, uint32_t worker, struct env_io *env_io)
{
  struct sim_io_op *op = sim_world_new(sizeof(*op));
  const char *path = env_io->path ? env_io->path : sim_disk_path(io->disk, env_io->file);
  const struct sim_fault_io *fault =
      sim_fault_hits_io(&io->world->fault, io->node, env_io->op, path);
  op->event.run = sim_io_complete;
  op->owner = io;
  op->worker = worker;
  op->io = env_io;
  op->mark = sim_disk_mark(io->disk);
  op->faulty = fault != NULL;
  if (fault) {
    op->fault = *fault;
    sim_world_trace(io->world, io->node, SIM_TRACE_FAULT_IO, worker, (uint64_t)env_io->op, 0, path);
  }
  *io->last = op;
  io->last = &op->next;
  io->worker[worker].flight++;
  sim_io_trace(op, SIM_TRACE_IO_BEGIN, env_io->size);
  return op;
}

/* The cheapest operations may be over before the call returns. */
static bool sim_io_at_once(struct sim_io_op *op)
{
  bool drawn = rng_below(&op->owner->rng, 2);
  return drawn && !op->faulty && (op->io->op == ENV_IO_CLOSE || op->io->op == ENV_IO_SIZE);
}

static int sim_io_run_blocking(struct sim_io_op *op)
{
  op->waiter = op->owner->world->running;
  sim_world_at(op->owner->world, &op->event, sim_io_time(op));
  while (!op->done)
    sim_thread_park(op->owner->world, SIM_WORLD_NEVER);
  free(op);
  return 1;
}

CHI_PRIVATE int sim_io_submit(struct sim_io *io, uint32_t worker, struct env_io *env_io)
{
  struct sim_io_op *op;
  uint32_t flight;
  CHI_ASSERT(worker < io->worker_count);
  flight = io->worker[worker].flight;
  if (flight && (flight >= SIM_IO_DEPTH || rng_chance(&io->rng, SIM_WORLD_WHIM_PPM)))
    return CHI_EBUSY;
  op = sim_io_begin(io, worker, env_io);
  if (io->blocks)
    return sim_io_run_blocking(op);
  if (!sim_io_at_once(op)) {
    sim_world_at(io->world, &op->event, sim_io_time(op));
    return 0;
  }
  env_io->result = sim_io_perform(op);
  io->worker[worker].flight--;
  sim_io_trace(op, SIM_TRACE_IO_END, (uint64_t)env_io->result);
  sim_io_unlink(op);
  free(op);
  return 1;
}

CHI_PRIVATE bool sim_io_blocks(const struct sim_io *io, const struct env_io *op)
{
  (void)op;
  return io->blocks;
}

CHI_PRIVATE struct env_io *sim_io_reap(struct sim_io *io, uint32_t worker)
{
  struct sim_io_worker *from = &io->worker[worker];
  struct env_io *first = from->first;
  from->first = NULL;
  from->last = &from->first;
  return first;
}

CHI_PRIVATE bool sim_io_ready(const struct sim_io *io, uint32_t worker)
{
  return io->worker[worker].first != NULL;
}

static bool sim_io_changes(const struct env_io *io)
{
  return io->op == ENV_IO_WRITE || io->op == ENV_IO_TRUNCATE || io->op == ENV_IO_RENAME ||
         io->op == ENV_IO_REMOVE || io->op == ENV_IO_OPEN;
}

CHI_PRIVATE void sim_io_fini(struct sim_io *io)
{
  while (io->flight) {
    struct sim_io_op *op = io->flight;
    if (sim_io_changes(op->io) && rng_below(&io->rng, 2))
      sim_disk_do(io->disk, op->io, op->mark);
    sim_world_cancel(io->world, &op->event);
    sim_io_unlink(op);
    free(op);
  }
  free(io->worker);
  memset(io, 0, sizeof(*io));
}

#undef SIM_IO_DEPTH
#undef SIM_IO_NS
#undef SIM_IO_SYNC_NS
#undef SIM_IO_WAKE_NS
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_party.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_party.c - a process in the simulation: the memory, stacks, segments and bells it holds. */

#include <stdlib.h>
#include <sys/mman.h>

#define SIM_PARTY_BELL_NS 5000u /* from ringing to the sleeper's first instruction */
#define SIM_PARTY_NEW 0xa5
#define SIM_PARTY_OLD 0x5a

/* ---- tables ------------------------------------------------------------------------------- */

CHI_PRIVATE int64_t sim_party_table_add(struct sim_party_table *table, void *item)
{
  CHI_ASSERT(item);
  if (table->count == table->room) {
    table->room = table->room * 2 + 8;
    table->item = realloc(table->item, table->room * sizeof(*table->item));
    CHI_ASSERT(table->item);
  }
  table->item[table->count] = item;
  return table->count++;
}

CHI_PRIVATE void *sim_party_table_get(const struct sim_party_table *table, int64_t handle)
{
  return handle >= 0 && handle < table->count ? table->item[handle] : NULL;
}

CHI_PRIVATE void *sim_party_table_take(struct sim_party_table *table, int64_t handle)
{
  void *item = sim_party_table_get(table, handle);
  if (item)
    table->item[handle] = NULL;
  return item;
}

CHI_PRIVATE uint32_t sim_party_table_used(const struct sim_party_table *table)
{
  uint32_t used = 0;
  for (uint32_t i = 0; i < table->count; i++)
    used += table->item[i] != NULL;
  return used;
}

/* Whether a fault refuses it. The size is no part of the trace: it differs between machines. */
static bool sim_party_refused(struct sim_party *party, enum sim_fault_memory kind, const char *what)
{
  if (!sim_fault_hits(&party->world->fault, kind))
    return false;
  sim_world_trace(party->world, party->node, SIM_TRACE_FAULT_MEMORY, party->number, 0, 0, what);
  return true;
}

/* ---- private memory ----------------------------------------------------------------------- */

/* In front of what a party was given. */
struct sim_party_block {
  struct sim_party_block *next, *previous;
  struct sim_party *party;
  size_t size;
};
_Static_assert(sizeof(struct sim_party_block) % 16 == 0,
               "what follows must be aligned for any type");

static void *sim_party_env_get(void *arg, size_t size)
{
  struct sim_party *party = arg;
  struct sim_party_block *block;
  if (sim_party_refused(party, SIM_FAULT_ALLOC, "private memory"))
    return NULL;
  block = malloc(sizeof(*block) + size);
  CHI_ASSERT(block);
  *block = (struct sim_party_block){party->blocks, NULL, party, size};
  if (party->blocks)
    party->blocks->previous = block;
  party->blocks = block;
  party->block_count++;
  party->block_bytes += size;
  return memset(block + 1, SIM_PARTY_NEW, size);
}

static void sim_party_unlink(struct sim_party_block *block)
{
  struct sim_party *party = block->party;
  if (block->previous)
    block->previous->next = block->next;
  else
    party->blocks = block->next;
  if (block->next)
    block->next->previous = block->previous;
  party->block_count--;
  party->block_bytes -= block->size;
}

static void sim_party_env_put(void *arg, void *p, size_t size)
{
  struct sim_party_block *block = (struct sim_party_block *)p - 1;
  CHI_ASSERT(block->party == arg); /* given back twice, or to somebody else */
  CHI_ASSERT(block->size == size);
  sim_party_unlink(block);
  memset(block, SIM_PARTY_OLD, sizeof(*block) + size);
  free(block);
}

/* ---- stacks ------------------------------------------------------------------------------- */

static int sim_party_env_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  struct sim_party *party = sim_party_of(env);
  struct env_stack *stack;
  if (sim_party_refused(party, SIM_FAULT_STACK, "a stack"))
    return CHI_ENOMEM;
  out->size = size;
  out->base = sim_thread_stack_open(size);
  if (!out->base)
    return CHI_ENOMEM;
  stack = sim_world_new(sizeof(*stack));
  *stack = *out;
  sim_party_table_add(&party->stacks, stack);
  return CHI_OK;
}

static void sim_party_stack_free(struct env_stack *stack)
{
  sim_thread_stack_close(stack->base, stack->size);
  free(stack);
}

static void sim_party_env_stack_close(struct env *env, struct env_stack *stack)
{
  struct sim_party_table *stacks = &sim_party_of(env)->stacks;
  for (uint32_t i = 0; i < stacks->count; i++) {
    struct env_stack *held = stacks->item[i];
    if (held && held->base == stack->base) {
      CHI_ASSERT(held->size == stack->size);
      stacks->item[i] = NULL;
      sim_party_stack_free(held);
      return;
    }
  }
  CHI_ASSERT(!"a stack that the party does not have");
}

/* ---- segments ----------------------------------------------------------------------------- */

CHI_PRIVATE void sim_party_segment_drop(struct sim_party_segment *segment)
{
  CHI_ASSERT(segment->refs > 0);
  if (--segment->refs)
    return;
  munmap(segment->base, segment->size);
  free(segment);
}

CHI_PRIVATE struct sim_party_segment *sim_party_segment_get(struct sim_party *party, int64_t handle)
{
  struct sim_party_segment *segment = sim_party_table_get(&party->segments, handle);
  CHI_ASSERT(segment);
  segment->refs++;
  return segment;
}

CHI_PRIVATE void sim_party_segment_give(struct sim_party *party, struct sim_party_segment *segment,
                                        struct env_segment *out)
{
  out->base = segment->base;
  out->size = segment->size;
  out->handle = sim_party_table_add(&party->segments, segment);
}

static int sim_party_env_segment_open(struct env *env, const char *name, uint64_t size, int access,
                                      struct env_segment *out)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_segment *segment;
  void *base;
  (void)access;
  if (sim_party_refused(party, SIM_FAULT_SEGMENT, name))
    return CHI_ENOMEM;
  base =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return CHI_ENOMEM;
  segment = sim_world_new(sizeof(*segment));
  *segment = (struct sim_party_segment){base, size, 1};
  sim_party_segment_give(party, segment, out);
  return CHI_OK;
}

static void sim_party_env_segment_close(struct env *env, struct env_segment *segment)
{
  struct sim_party_segment *held =
      sim_party_table_take(&sim_party_of(env)->segments, segment->handle);
  CHI_ASSERT(held);
  sim_party_segment_drop(held);
}

static void sim_party_env_segment_discard(struct env *env, struct env_segment *segment)
{
  struct sim_party_segment *held =
      sim_party_table_get(&sim_party_of(env)->segments, segment->handle);
  CHI_ASSERT(held && held->base == segment->base);
  madvise(held->base, held->size, MADV_DONTNEED);
}

static int sim_party_env_segment_restore(struct env *env, struct env_segment *segment)
{
  struct sim_party *party = sim_party_of(env);
  CHI_ASSERT(sim_party_table_get(&party->segments, segment->handle));
  if (sim_party_refused(party, SIM_FAULT_SEGMENT, "pages given back"))
    return CHI_ENOMEM;
  return CHI_OK;
}

/* ---- bells -------------------------------------------------------------------------------- */

CHI_PRIVATE void sim_party_bell_drop(struct sim_party_bell *bell)
{
  CHI_ASSERT(bell->refs > 0);
  if (--bell->refs == 0)
    free(bell);
}

CHI_PRIVATE struct sim_party_bell *sim_party_bell_get(struct sim_party *party, env_bell handle)
{
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  CHI_ASSERT(bell);
  bell->refs++;
  return bell;
}

static int sim_party_env_bell_open(struct env *env, env_bell *out)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_bell *bell;
  if (sim_party_refused(party, SIM_FAULT_BELL, "a bell"))
    return CHI_ENOMEM;
  bell = sim_world_new(sizeof(*bell));
  bell->refs = 1;
  bell->number = ++party->world->bell_count;
  *out = sim_party_table_add(&party->bells, bell);
  return CHI_OK;
}

static void sim_party_env_bell_close(struct env *env, env_bell handle)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_bell *bell = sim_party_table_take(&party->bells, handle);
  CHI_ASSERT(bell);
  if (bell->owner == party)
    bell->sleeper = NULL;
  sim_party_bell_drop(bell);
}

static void sim_party_env_bell_ring(struct env *env, env_bell handle)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_world *world = party->world;
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  CHI_ASSERT(bell);
  sim_world_trace(world, party->node, SIM_TRACE_RING, bell->number, 0, 0, NULL);
  bell->rung = true;
  if (bell->sleeper)
    sim_thread_wake(bell->sleeper, world->now + sim_world_about(&party->timing, SIM_PARTY_BELL_NS));
}

CHI_PRIVATE bool sim_party_bell_wait(struct sim_party *party, env_bell handle, uint64_t until)
{
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  bool rung;
  CHI_ASSERT(bell && !bell->sleeper);
  if (!bell->rung && until > party->world->now) {
    bell->sleeper = party->world->running;
    bell->owner = party;
    sim_thread_park(party->world, until);
    bell->sleeper = NULL;
  }
  rung = bell->rung;
  bell->rung = false;
  return rung;
}

/* ---- the whole ---------------------------------------------------------------------------- */

static uint64_t sim_party_env_clock(struct env *env)
{
  return sim_party_of(env)->world->now;
}

static uint64_t sim_party_env_random(struct env *env)
{
  return rng_next(&sim_party_of(env)->random);
}

/* Nothing forks in a simulation. */
static const uint32_t sim_party_alive = 1;

CHI_PRIVATE void sim_party_init(struct sim_party *party, struct sim_world *world, uint32_t node,
                                uint32_t number)
{
  struct env *env = &party->env;
  uint64_t purpose = number ? SIM_WORLD_STREAM_CLIENT + 2 * (uint64_t)number : 0;
  memset(party, 0, sizeof(*party));
  party->world = world;
  party->node = node;
  party->number = number;
  sim_world_stream(world, &party->random, node, purpose ? purpose : SIM_WORLD_STREAM_RANDOM);
  sim_world_stream(world, &party->timing, node, purpose ? purpose + 1 : SIM_WORLD_STREAM_LINK);
  env->version = ENV_VERSION;
  env->self = party;
  env->alive = &sim_party_alive;
  env->alloc = (struct alloc){sim_party_env_get, sim_party_env_put, party};
  env->clock = sim_party_env_clock;
  env->random = sim_party_env_random;
  env->stack_open = sim_party_env_stack_open;
  env->stack_close = sim_party_env_stack_close;
  env->segment_open = sim_party_env_segment_open;
  env->segment_close = sim_party_env_segment_close;
  env->segment_discard = sim_party_env_segment_discard;
  env->segment_restore = sim_party_env_segment_restore;
  env->bell_open = sim_party_env_bell_open;
  env->bell_close = sim_party_env_bell_close;
  env->bell_ring = sim_party_env_bell_ring;
}

CHI_PRIVATE void sim_party_check(struct sim_party *party, const char *when)
{
  const struct {
    const char *what;
    uint64_t count;
  } held[] = {{"pieces of memory", party->block_count},
              {"stacks", sim_party_table_used(&party->stacks)},
              {"segments", sim_party_table_used(&party->segments)},
              {"bells", sim_party_table_used(&party->bells)},
              {"links", sim_party_table_used(&party->links)}};
  for (size_t i = 0; i < CHI_COUNT(held); i++)
    if (held[i].count)
      sim_world_fail(party->world, party->node, "leak %s: %llu %s (%llu bytes of memory in all)",
                     when, (unsigned long long)held[i].count, held[i].what,
                     (unsigned long long)party->block_bytes);
}

static void sim_party_drop_bells(struct sim_party *party)
{
  for (uint32_t i = 0; i < party->bells.count; i++) {
    struct sim_party_bell *bell = party->bells.item[i];
    if (bell && bell->owner == party)
      bell->sleeper = NULL;
    if (bell)
      sim_party_bell_drop(bell);
  }
  free(party->bells.item);
}

CHI_PRIVATE void sim_party_fini(struct sim_party *party)
{
  CHI_ASSERT(sim_party_table_used(&party->links) == 0);
  while (party->blocks) {
    struct sim_party_block *block = party->blocks;
    party->blocks = block->next;
    free(block);
  }
  for (uint32_t i = 0; i < party->stacks.count; i++)
    if (party->stacks.item[i])
      sim_party_stack_free(party->stacks.item[i]);
  for (uint32_t i = 0; i < party->segments.count; i++)
    if (party->segments.item[i])
      sim_party_segment_drop(party->segments.item[i]);
  sim_party_drop_bells(party);
  free(party->stacks.item);
  free(party->segments.item);
  free(party->links.item);
  memset(party, 0, sizeof(*party));
}

#undef SIM_PARTY_BELL_NS
#undef SIM_PARTY_NEW
#undef SIM_PARTY_OLD
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_thread.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_thread.c - threads of the simulation: fibers on one real thread, and their stacks. */

#include <sys/mman.h>

#define SIM_THREAD_STACK (256u << 10)
#define SIM_THREAD_GUARD 65536u /* a page or more, whatever the machine */

/* ---- stacks ------------------------------------------------------------------------------- */

CHI_PRIVATE void *sim_thread_stack_open(size_t size)
{
  char *low = mmap(NULL, size + SIM_THREAD_GUARD, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (low == MAP_FAILED)
    return NULL;
  if (mprotect(low, SIM_THREAD_GUARD, PROT_NONE) != 0) {
    munmap(low, size + SIM_THREAD_GUARD);
    return NULL;
  }
  return low + SIM_THREAD_GUARD;
}

static void sim_thread_stack_entry(void *arg)
{
  (void)arg;
}

/* A fiber that was left for good on this stack may have marked it for a sanitizer; preparing and
 * forgetting a new one takes the marks away. */
CHI_PRIVATE void sim_thread_stack_close(void *base, size_t size)
{
  struct fiber fiber;
  fiber_init(&fiber, base, size, sim_thread_stack_entry, NULL);
  fiber_fini(&fiber);
  munmap((char *)base - SIM_THREAD_GUARD, size + SIM_THREAD_GUARD);
}

/* ---- threads ------------------------------------------------------------------------------ */

static void sim_thread_main(void *arg)
{
  struct sim_thread *thread = arg;
  thread->body(thread->arg);
  thread->done = true;
  sim_thread_sleep(thread->world, SIM_WORLD_NEVER);
}

/* The event by which a thread goes on. */
static void sim_thread_run(struct sim_world_event *event)
{
  struct sim_thread *thread = CHI_CONTAINER_OF(event, struct sim_thread, wake);
  struct sim_world *world = thread->world;
  struct fiber *to = thread->left;
  CHI_ASSERT(to);
  sim_world_trace(world, thread->node, SIM_TRACE_THREAD, thread->number, 0, 0, NULL);
  thread->left = NULL;
  thread->parked = false;
  world->running = thread;
  fiber_init_host(&world->host);
  fiber_switch(&world->host, to);
  world->running = NULL;
}

/* Back to who runs the events. Code that made a stack of its own and runs on it is left there: a
 * second struct stands for that stack meanwhile. */
static void sim_thread_leave(struct sim_world *world, uint64_t until)
{
  struct sim_thread *thread = world->running;
  struct fiber elsewhere;
  CHI_ASSERT(thread && !thread->left);
  if (until != SIM_WORLD_NEVER)
    sim_world_at(world, &thread->wake, until);
  if (fiber_holds(&thread->fiber, __builtin_frame_address(0))) {
    thread->left = &thread->fiber;
  } else {
    fiber_init_host(&elsewhere);
    thread->left = &elsewhere;
  }
  fiber_switch(thread->left, &world->host);
}

CHI_PRIVATE void sim_thread_sleep(struct sim_world *world, uint64_t until)
{
  sim_thread_leave(world, until);
}

CHI_PRIVATE void sim_thread_park(struct sim_world *world, uint64_t until)
{
  CHI_ASSERT(world->running);
  world->running->parked = true;
  sim_thread_leave(world, until);
}

CHI_PRIVATE void sim_thread_wake(struct sim_thread *thread, uint64_t time)
{
  struct sim_world *world = thread->world;
  if (!thread->parked)
    return;
  if (heap_contains(&world->heap, &thread->wake.entry) && thread->wake.entry.time <= time)
    return;
  sim_world_at(world, &thread->wake, time);
}

CHI_PRIVATE void sim_thread_start(struct sim_world *world, struct sim_thread *thread, uint32_t node,
                                  void (*body)(void *arg), void *arg)
{
  memset(thread, 0, sizeof(*thread));
  thread->world = world;
  thread->number = ++world->thread_count;
  thread->node = node;
  thread->body = body;
  thread->arg = arg;
  thread->wake.run = sim_thread_run;
  thread->stack = sim_thread_stack_open(SIM_THREAD_STACK);
  CHI_ASSERT(thread->stack);
  fiber_init(&thread->fiber, thread->stack, SIM_THREAD_STACK, sim_thread_main, thread);
  thread->left = &thread->fiber;
  sim_world_at(world, &thread->wake, world->now);
}

CHI_PRIVATE void sim_thread_end(struct sim_thread *thread)
{
  CHI_ASSERT(thread->stack && thread->world->running != thread);
  sim_world_cancel(thread->world, &thread->wake);
  if (thread->left == &thread->fiber)
    fiber_fini(&thread->fiber);
  sim_thread_stack_close(thread->stack, SIM_THREAD_STACK);
  memset(thread, 0, sizeof(*thread));
}

#undef SIM_THREAD_STACK
#undef SIM_THREAD_GUARD
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_world.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_world.c - virtual time: events in order of their time, and what all of them share. */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void *sim_world_get(void *arg, size_t size)
{
  (void)arg;
  return malloc(size);
}

static void sim_world_put(void *arg, void *p, size_t size)
{
  (void)arg, (void)size;
  free(p);
}

CHI_PRIVATE void sim_world_init(struct sim_world *world, uint64_t seed)
{
  memset(world, 0, sizeof(*world));
  world->seed = seed;
  world->now = SIM_WORLD_START;
  world->alloc = (struct alloc){sim_world_get, sim_world_put, NULL};
  heap_init(&world->heap, &world->alloc);
  hash_stream_init(&world->trace.hash, seed);
  sim_world_stream(world, &world->order, 0, SIM_WORLD_STREAM_ORDER);
  sim_world_stream(world, &world->fault.rng, 0, SIM_WORLD_STREAM_FAULT);
}

CHI_PRIVATE void sim_world_fini(struct sim_world *world)
{
  CHI_ASSERT(!world->running);
  CHI_ASSERT(world->heap.count == 0);
  heap_fini(&world->heap);
}

CHI_PRIVATE void *sim_world_new(size_t size)
{
  void *p = calloc(1, size);
  CHI_ASSERT(p);
  return p;
}

CHI_PRIVATE void sim_world_stream(const struct sim_world *world, struct rng *rng, uint32_t node,
                                  uint64_t purpose)
{
  rng_seed(rng, world->seed, node, purpose);
}

CHI_PRIVATE void sim_world_trace(struct sim_world *world, uint32_t node, int kind, uint64_t a,
                                 uint64_t b, uint64_t c, const char *text)
{
  const uint64_t values[3] = {a, b, c};
  sim_trace_event(&world->trace, world->now, node, kind, values, text);
}

CHI_PRIVATE void sim_world_fail(struct sim_world *world, uint32_t node, const char *fmt, ...)
{
  char text[sizeof(world->failure)];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof(text), fmt, args);
  va_end(args);
  sim_trace_text(&world->trace, world->now, node, text);
  if (!world->failure[0])
    memcpy(world->failure, text, sizeof(text));
}

CHI_PRIVATE uint64_t sim_world_about(struct rng *rng, uint64_t ns)
{
  return ns + rng_below(rng, ns / 4 + 1);
}

/* ---- events ------------------------------------------------------------------------------- */

CHI_PRIVATE void sim_world_at(struct sim_world *world, struct sim_world_event *event, uint64_t time)
{
  CHI_ASSERT(time >= world->now && event->run);
  sim_world_cancel(world, event);
  event->entry.time = time;
  event->entry.seq = rng_next(&world->order) << 48 | world->sequence++;
  if (heap_push(&world->heap, &event->entry) != CHI_OK)
    CHI_ASSERT(!"memory for the event heap");
}

CHI_PRIVATE void sim_world_cancel(struct sim_world *world, struct sim_world_event *event)
{
  if (heap_contains(&world->heap, &event->entry))
    heap_remove(&world->heap, &event->entry);
}

CHI_PRIVATE bool sim_world_next(struct sim_world *world, uint64_t limit)
{
  const struct heap_entry *top = heap_top(&world->heap);
  struct sim_world_event *event;
  CHI_ASSERT(!world->running);
  if (!top || top->time > limit) {
    if (world->now < limit && limit != SIM_WORLD_NEVER)
      world->now = limit;
    return false;
  }
  event = CHI_CONTAINER_OF(heap_pop(&world->heap), struct sim_world_event, entry);
  CHI_ASSERT(event->entry.time >= world->now);
  world->now = event->entry.time;
  event->run(event);
  return true;
}
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_disk.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_disk.c - a disk in memory: what programs see, what is safe, and what a crash leaves. */

#include <stdlib.h>

#define SIM_DISK_STREAM UINT64_C(0x6469736b)  /* "disk" */
#define SIM_DISK_SIZE_MAX (UINT64_C(1) << 42) /* of a file: bounds the table of its pages */

/* Content of a file: pages that were never written are holes, and read as zeros. */
struct sim_disk_data {
  uint8_t **page;
  uint64_t room;  /* of the table */
  uint64_t pages; /* that are there */
  uint64_t size;
};

/* What was done to a file since its last sync. */
struct sim_disk_change {
  struct sim_disk_change *next;
  uint64_t number; /* of all changes on this disk */
  bool cut;        /* truncated to size; else size bytes written at offset */
  uint64_t offset, size;
  uint8_t bytes[];
};

struct sim_disk_file {
  struct sim_disk_file *next;
  uint32_t opens;
  bool locked;
  struct sim_disk_data now, safe;
  struct sim_disk_change *changes, **last;
};

struct sim_disk_name {
  struct sim_disk_name *next;
  struct sim_disk_file *file; /* NULL: a directory */
  char path[];
};

/* A file lost the name `from`, got the name `to`, or both; the other is NULL. */
struct sim_disk_move {
  struct sim_disk_move *next;
  uint64_t number;
  struct sim_disk_file *file;
  char *from, *to;
};

struct sim_disk_handle {
  struct sim_disk_file *file; /* NULL: closed */
  uint32_t flags;
};

struct sim_disk {
  struct rng rng;
  uint64_t capacity;
  uint64_t changes; /* numbers changes and moves */
  struct sim_disk_file *files;
  struct sim_disk_name *now, *safe, *directories;
  struct sim_disk_move *moves, **last_move;
  struct sim_disk_handle *handles;
  uint32_t handle_count, handle_room;
};

static void *sim_disk_new(size_t size)
{
  void *p = calloc(1, size);
  CHI_ASSERT(p);
  return p;
}

static char *sim_disk_text(const char *text)
{
  size_t size = text ? strlen(text) + 1 : 0;
  return text ? memcpy(sim_disk_new(size), text, size) : NULL;
}

/* ---- content ------------------------------------------------------------------------------ */

static uint8_t *sim_disk_data_page(const struct sim_disk_data *data, uint64_t offset)
{
  uint64_t index = offset / SIM_DISK_ALIGN;
  return index < data->room ? data->page[index] : NULL;
}

/* The page that holds offset, made if it was a hole. */
static uint8_t *sim_disk_data_make(struct sim_disk_data *data, uint64_t offset)
{
  uint64_t index = offset / SIM_DISK_ALIGN;
  CHI_ASSERT(offset < SIM_DISK_SIZE_MAX);
  if (index >= data->room) {
    uint64_t room = index + index / 2 + 8;
    data->page = realloc(data->page, room * sizeof(*data->page));
    CHI_ASSERT(data->page);
    memset(data->page + data->room, 0, (room - data->room) * sizeof(*data->page));
    data->room = room;
  }
  if (!data->page[index]) {
    data->page[index] = sim_disk_new(SIM_DISK_ALIGN);
    data->pages++;
  }
  return data->page[index];
}

/* Bytes from offset to the end of what `unit` divides, at most size. */
static uint64_t sim_disk_piece(uint64_t offset, uint64_t size, uint64_t unit)
{
  uint64_t piece = unit - offset % unit;
  return piece < size ? piece : size;
}

static void sim_disk_data_write(struct sim_disk_data *data, const uint8_t *bytes, uint64_t size,
                                uint64_t offset)
{
  while (size) {
    uint64_t piece = sim_disk_piece(offset, size, SIM_DISK_ALIGN);
    memcpy(sim_disk_data_make(data, offset) + offset % SIM_DISK_ALIGN, bytes, piece);
    bytes += piece;
    offset += piece;
    size -= piece;
    if (data->size < offset)
      data->size = offset;
  }
}

static uint64_t sim_disk_data_read(const struct sim_disk_data *data, uint8_t *bytes, uint64_t size,
                                   uint64_t offset)
{
  uint64_t done = 0;
  if (offset >= data->size)
    return 0;
  if (size > data->size - offset)
    size = data->size - offset;
  while (done < size) {
    uint64_t piece = sim_disk_piece(offset, size - done, SIM_DISK_ALIGN);
    const uint8_t *page = sim_disk_data_page(data, offset);
    if (page)
      memcpy(bytes + done, page + offset % SIM_DISK_ALIGN, piece);
    else
      memset(bytes + done, 0, piece);
    done += piece;
    offset += piece;
  }
  return done;
}

static void sim_disk_data_cut(struct sim_disk_data *data, uint64_t size)
{
  uint64_t keep = (size + SIM_DISK_ALIGN - 1) / SIM_DISK_ALIGN;
  uint8_t *page = sim_disk_data_page(data, size);
  if (size % SIM_DISK_ALIGN && page)
    memset(page + size % SIM_DISK_ALIGN, 0, SIM_DISK_ALIGN - size % SIM_DISK_ALIGN);
  for (uint64_t i = keep; i < data->room; i++) {
    data->pages -= data->page[i] != NULL;
    free(data->page[i]);
    data->page[i] = NULL;
  }
  data->size = size;
}

static void sim_disk_data_copy(struct sim_disk_data *to, const struct sim_disk_data *from)
{
  sim_disk_data_cut(to, 0);
  for (uint64_t i = 0; i < from->room; i++)
    if (from->page[i])
      memcpy(sim_disk_data_make(to, i * SIM_DISK_ALIGN), from->page[i], SIM_DISK_ALIGN);
  to->size = from->size;
}

static void sim_disk_data_free(struct sim_disk_data *data)
{
  sim_disk_data_cut(data, 0);
  free(data->page);
}

/* ---- names -------------------------------------------------------------------------------- */

static struct sim_disk_name **sim_disk_name_at(struct sim_disk_name **names, const char *path)
{
  while (*names && strcmp((*names)->path, path) != 0)
    names = &(*names)->next;
  return names;
}

static struct sim_disk_file *sim_disk_find(const struct sim_disk *d, const char *path)
{
  struct sim_disk_name *names = d->now;
  struct sim_disk_name *name = *sim_disk_name_at(&names, path);
  return name ? name->file : NULL;
}

static void sim_disk_name_set(struct sim_disk_name **names, const char *path,
                              struct sim_disk_file *file)
{
  struct sim_disk_name **at = sim_disk_name_at(names, path);
  size_t size = strlen(path) + 1;
  if (!*at) {
    *at = sim_disk_new(sizeof(**at) + size);
    memcpy((*at)->path, path, size);
  }
  (*at)->file = file;
}

static void sim_disk_name_drop(struct sim_disk_name **at)
{
  struct sim_disk_name *name = *at;
  *at = name->next;
  free(name);
}

static void sim_disk_move_apply(struct sim_disk_name **names, const struct sim_disk_move *move)
{
  struct sim_disk_name **at = move->from ? sim_disk_name_at(names, move->from) : NULL;
  if (at && *at && (*at)->file == move->file)
    sim_disk_name_drop(at);
  if (move->to)
    sim_disk_name_set(names, move->to, move->file);
}

/* Length of the directory part of a path: 0 for a relative one without a slash. */
static size_t sim_disk_directory(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash ? (slash == path ? 1 : (size_t)(slash - path)) : 0;
}

static bool sim_disk_has_directory(const struct sim_disk *d, const char *path)
{
  size_t length = sim_disk_directory(path);
  const struct sim_disk_name *name = d->directories;
  if (length == 0 || (length == 1 && path[0] == '/'))
    return true;
  while (name && !(strlen(name->path) == length && memcmp(name->path, path, length) == 0))
    name = name->next;
  return name != NULL;
}

static void sim_disk_move(struct sim_disk *d, struct sim_disk_file *file, const char *from,
                          const char *to)
{
  struct sim_disk_move *move = sim_disk_new(sizeof(*move));
  move->number = ++d->changes;
  move->file = file;
  move->from = sim_disk_text(from);
  move->to = sim_disk_text(to);
  *d->last_move = move;
  d->last_move = &move->next;
  sim_disk_move_apply(&d->now, move);
}

/* Takes the move at *at out of the list, and makes it safe or forgets it. */
static void sim_disk_move_settle(struct sim_disk *d, struct sim_disk_move **at, bool keep)
{
  struct sim_disk_move *move = *at;
  *at = move->next;
  if (d->last_move == &move->next)
    d->last_move = at;
  if (keep)
    sim_disk_move_apply(&d->safe, move);
  free(move->from);
  free(move->to);
  free(move);
}

/* ---- files -------------------------------------------------------------------------------- */

static bool sim_disk_named(const struct sim_disk_name *name, const struct sim_disk_file *file)
{
  while (name && name->file != file)
    name = name->next;
  return name != NULL;
}

static bool sim_disk_moving(const struct sim_disk_move *move, const struct sim_disk_file *file)
{
  while (move && move->file != file)
    move = move->next;
  return move != NULL;
}

/* Takes the oldest change out, and makes it safe or forgets it. */
static void sim_disk_change_settle(struct sim_disk_file *file, bool keep)
{
  struct sim_disk_change *change = file->changes;
  file->changes = change->next;
  if (!file->changes)
    file->last = &file->changes;
  if (keep && change->cut)
    sim_disk_data_cut(&file->safe, change->size);
  else if (keep)
    sim_disk_data_write(&file->safe, change->bytes, change->size, change->offset);
  free(change);
}

static void sim_disk_file_free(struct sim_disk_file *file)
{
  while (file->changes)
    sim_disk_change_settle(file, false);
  sim_disk_data_free(&file->now);
  sim_disk_data_free(&file->safe);
  free(file);
}

/* Frees the files that nothing refers to any more. */
static void sim_disk_sweep(struct sim_disk *d)
{
  for (struct sim_disk_file **at = &d->files; *at;) {
    struct sim_disk_file *file = *at;
    if (file->opens || sim_disk_named(d->now, file) || sim_disk_named(d->safe, file) ||
        sim_disk_moving(d->moves, file)) {
      at = &file->next;
    } else {
      *at = file->next;
      sim_disk_file_free(file);
    }
  }
}

static struct sim_disk_file *sim_disk_file_new(struct sim_disk *d)
{
  struct sim_disk_file *file = sim_disk_new(sizeof(*file));
  file->last = &file->changes;
  file->next = d->files;
  d->files = file;
  return file;
}

static uint64_t sim_disk_free_bytes(const struct sim_disk *d)
{
  uint64_t used = 0;
  for (const struct sim_disk_file *file = d->files; file; file = file->next)
    if (file->opens || sim_disk_named(d->now, file))
      used += file->now.pages * SIM_DISK_ALIGN;
  return used < d->capacity ? d->capacity - used : 0;
}

static struct sim_disk_change *sim_disk_change(struct sim_disk *d, struct sim_disk_file *file,
                                               uint64_t bytes)
{
  struct sim_disk_change *change = sim_disk_new(sizeof(*change) + bytes);
  change->number = ++d->changes;
  *file->last = change;
  file->last = &change->next;
  return change;
}

/* ---- operations --------------------------------------------------------------------------- */

static struct sim_disk_handle *sim_disk_handle(const struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle;
  if (io->file < 0 || io->file >= (int64_t)d->handle_count)
    return NULL;
  handle = &d->handles[io->file];
  return handle->file ? handle : NULL;
}

static int64_t sim_disk_handle_new(struct sim_disk *d, struct sim_disk_file *file, uint32_t flags)
{
  if (d->handle_count == d->handle_room) {
    d->handle_room = d->handle_room * 2 + 8;
    d->handles = realloc(d->handles, d->handle_room * sizeof(*d->handles));
    CHI_ASSERT(d->handles);
  }
  d->handles[d->handle_count] = (struct sim_disk_handle){file, flags};
  file->opens++;
  file->locked = file->locked || (flags & CHI_FILE_LOCK);
  return d->handle_count++;
}

static int64_t sim_disk_do_open(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  uint32_t make = io->flags & (CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE);
  if (!io->path || !io->path[0])
    return CHI_EINVAL;
  if (!sim_disk_has_directory(d, io->path))
    return CHI_ENOENT;
  if (file && make == (CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE))
    return CHI_EEXIST;
  if (file && file->locked && (io->flags & CHI_FILE_LOCK))
    return CHI_EBUSY;
  if (!file && !(io->flags & CHI_FILE_CREATE))
    return CHI_ENOENT;
  if (!file) {
    file = sim_disk_file_new(d);
    sim_disk_move(d, file, NULL, io->path);
  }
  return sim_disk_handle_new(d, file, io->flags);
}

static int64_t sim_disk_do_close(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return CHI_EINVAL;
  if (handle->flags & CHI_FILE_LOCK)
    handle->file->locked = false;
  handle->file->opens--;
  handle->file = NULL;
  sim_disk_sweep(d);
  return CHI_OK;
}

/* CHI_OK if the handle may transfer like that. */
static int sim_disk_may_transfer(const struct sim_disk_handle *handle, const struct env_io *io)
{
  if (!handle || !io->buf || io->offset > SIM_DISK_SIZE_MAX)
    return CHI_EINVAL;
  if (io->size > SIM_DISK_SIZE_MAX - io->offset)
    return CHI_EINVAL;
  if ((handle->flags & CHI_FILE_DIRECT) &&
      ((io->offset | io->size | (uintptr_t)io->buf) & (SIM_DISK_ALIGN - 1)))
    return CHI_EINVAL;
  return CHI_OK;
}

static int64_t sim_disk_do_read(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  int rc = sim_disk_may_transfer(handle, io);
  if (rc)
    return rc;
  return (int64_t)sim_disk_data_read(&handle->file->now, io->buf, io->size, io->offset);
}

/* How much of a write fits on the disk. */
static uint64_t sim_disk_fits(const struct sim_disk *d, const struct sim_disk_file *file,
                              const struct env_io *io)
{
  uint64_t left = sim_disk_free_bytes(d), fits = 0;
  while (fits < io->size) {
    uint64_t at = io->offset + fits;
    bool hole = !sim_disk_data_page(&file->now, at);
    if (hole && left < SIM_DISK_ALIGN)
      break;
    left -= hole ? SIM_DISK_ALIGN : 0;
    fits += sim_disk_piece(at, io->size - fits, SIM_DISK_ALIGN);
  }
  return fits;
}

static int64_t sim_disk_do_write(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  struct sim_disk_change *change;
  uint64_t size;
  int rc = sim_disk_may_transfer(handle, io);
  if (rc)
    return rc;
  if (handle->flags & CHI_FILE_READONLY)
    return CHI_EACCES;
  size = sim_disk_fits(d, handle->file, io);
  if (size == 0)
    return io->size ? CHI_ENOSPC : 0;
  change = sim_disk_change(d, handle->file, size);
  change->offset = io->offset;
  change->size = size;
  memcpy(change->bytes, io->buf, size);
  sim_disk_data_write(&handle->file->now, change->bytes, size, io->offset);
  return (int64_t)size;
}

static int64_t sim_disk_do_truncate(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  struct sim_disk_change *change;
  if (!handle || io->size > SIM_DISK_SIZE_MAX)
    return CHI_EINVAL;
  if (handle->flags & CHI_FILE_READONLY)
    return CHI_EACCES;
  change = sim_disk_change(d, handle->file, 0);
  change->cut = true;
  change->size = io->size;
  sim_disk_data_cut(&handle->file->now, io->size);
  return CHI_OK;
}

static int64_t sim_disk_do_sync(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return CHI_EINVAL;
  while (handle->file->changes && handle->file->changes->number <= mark)
    sim_disk_change_settle(handle->file, true);
  return CHI_OK;
}

static int64_t sim_disk_do_rename(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  if (!io->path || !io->path2 || !io->path2[0])
    return CHI_EINVAL;
  if (!file || !sim_disk_has_directory(d, io->path2))
    return CHI_ENOENT;
  if (strcmp(io->path, io->path2) != 0)
    sim_disk_move(d, file, io->path, io->path2);
  sim_disk_sweep(d);
  return CHI_OK;
}

static int64_t sim_disk_do_remove(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  if (!io->path)
    return CHI_EINVAL;
  if (!file)
    return CHI_ENOENT;
  sim_disk_move(d, file, io->path, NULL);
  return CHI_OK;
}

static bool sim_disk_same_directory(const char *a, const char *b)
{
  size_t length = sim_disk_directory(a);
  return length == sim_disk_directory(b) && memcmp(a, b, length) == 0;
}

/* A rename belongs to the directory it renamed to. */
static int64_t sim_disk_do_dirsync(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  if (!io->path)
    return CHI_EINVAL;
  if (!sim_disk_has_directory(d, io->path))
    return CHI_ENOENT;
  for (struct sim_disk_move **at = &d->moves; *at && (*at)->number <= mark;) {
    if (sim_disk_same_directory((*at)->to ? (*at)->to : (*at)->from, io->path))
      sim_disk_move_settle(d, at, true);
    else
      at = &(*at)->next;
  }
  sim_disk_sweep(d);
  return CHI_OK;
}

CHI_PRIVATE uint64_t sim_disk_mark(const struct sim_disk *d)
{
  return d->changes;
}

CHI_PRIVATE int64_t sim_disk_do(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  const struct sim_disk_handle *handle;
  switch (io->op) {
  case ENV_IO_OPEN:
    return sim_disk_do_open(d, io);
  case ENV_IO_READ:
    return sim_disk_do_read(d, io);
  case ENV_IO_WRITE:
    return sim_disk_do_write(d, io);
  case ENV_IO_SYNC:
    return sim_disk_do_sync(d, io, mark);
  case ENV_IO_TRUNCATE:
    return sim_disk_do_truncate(d, io);
  case ENV_IO_SIZE:
    handle = sim_disk_handle(d, io);
    return handle ? (int64_t)handle->file->now.size : CHI_EINVAL;
  case ENV_IO_CLOSE:
    return sim_disk_do_close(d, io);
  case ENV_IO_RENAME:
    return sim_disk_do_rename(d, io);
  case ENV_IO_REMOVE:
    return sim_disk_do_remove(d, io);
  case ENV_IO_DIRSYNC:
    return sim_disk_do_dirsync(d, io, mark);
  case ENV_IO_SPACE:
    if (!io->path)
      return CHI_EINVAL;
    return sim_disk_has_directory(d, io->path) ? (int64_t)sim_disk_free_bytes(d) : CHI_ENOENT;
  default:
    return CHI_ENOTSUP;
  }
}

/* ---- bad days ----------------------------------------------------------------------------- */

/* Part of a write: sectors up to some point, or any of them; the size may have grown beyond. */
static void sim_disk_tear(struct sim_disk *d, struct sim_disk_file *file,
                          const struct sim_disk_change *change)
{
  uint64_t prefix = rng_below(&d->rng, change->size / SIM_DISK_SECTOR + 2), sectors = 0;
  bool any = rng_below(&d->rng, 2), grown = rng_below(&d->rng, 2);
  for (uint64_t done = 0, piece; done < change->size; done += piece, sectors++) {
    piece = sim_disk_piece(change->offset + done, change->size - done, SIM_DISK_SECTOR);
    if (any ? rng_below(&d->rng, 2) : sectors < prefix)
      sim_disk_data_write(&file->safe, change->bytes + done, piece, change->offset + done);
  }
  if (grown && file->safe.size < change->offset + change->size)
    file->safe.size = change->offset + change->size;
}

/* The oldest change is lost, kept, or torn if it is a write. */
static void sim_disk_change_draw(struct sim_disk *d, struct sim_disk_file *file)
{
  uint64_t fate = rng_below(&d->rng, 3);
  if (fate == 2 && !file->changes->cut)
    sim_disk_tear(d, file, file->changes);
  sim_disk_change_settle(file, fate == 1);
}

CHI_PRIVATE void sim_disk_sync_failed(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return;
  while (handle->file->changes && handle->file->changes->number <= mark)
    sim_disk_change_draw(d, handle->file);
}

/* Half of the crashes treat all changes alike: the plain cases must not be rare. */
static enum sim_disk_crash sim_disk_draw(struct sim_disk *d)
{
  uint64_t drawn = rng_below(&d->rng, 4);
  return drawn == 0 ? SIM_DISK_LOSE : drawn == 1 ? SIM_DISK_KEEP : SIM_DISK_SEED;
}

static void sim_disk_crash_file(struct sim_disk *d, struct sim_disk_file *file,
                                enum sim_disk_crash how)
{
  if (how == SIM_DISK_SEED)
    how = sim_disk_draw(d);
  while (file->changes) {
    if (how == SIM_DISK_SEED)
      sim_disk_change_draw(d, file);
    else
      sim_disk_change_settle(file, how == SIM_DISK_KEEP);
  }
  sim_disk_data_copy(&file->now, &file->safe);
}

static void sim_disk_crash_names(struct sim_disk *d, enum sim_disk_crash how)
{
  if (how == SIM_DISK_SEED)
    how = sim_disk_draw(d);
  while (d->moves)
    sim_disk_move_settle(d, &d->moves,
                         how == SIM_DISK_SEED ? rng_below(&d->rng, 2) : how == SIM_DISK_KEEP);
  while (d->now)
    sim_disk_name_drop(&d->now);
  for (struct sim_disk_name *name = d->safe; name; name = name->next)
    sim_disk_name_set(&d->now, name->path, name->file);
}

/* Files are visited newest first: an order that the program's own doings made. */
CHI_PRIVATE void sim_disk_crash(struct sim_disk *d, enum sim_disk_crash how)
{
  for (struct sim_disk_file *file = d->files; file; file = file->next) {
    file->opens = 0;
    file->locked = false;
    if (how != SIM_DISK_KEEP) /* else the cache lives on, as safe as it was and no more */
      sim_disk_crash_file(d, file, how);
  }
  d->handle_count = 0;
  if (how != SIM_DISK_KEEP)
    sim_disk_crash_names(d, how);
  sim_disk_sweep(d);
}

/* ---- open, close, and a test's own view --------------------------------------------------- */

CHI_PRIVATE struct sim_disk *sim_disk_open(uint64_t seed, uint32_t node, uint64_t capacity)
{
  struct sim_disk *d = sim_disk_new(sizeof(*d));
  rng_seed(&d->rng, seed, node, SIM_DISK_STREAM);
  d->capacity = capacity;
  d->last_move = &d->moves;
  return d;
}

CHI_PRIVATE void sim_disk_close(struct sim_disk *d)
{
  sim_disk_crash(d, SIM_DISK_LOSE);
  while (d->now)
    sim_disk_name_drop(&d->now);
  while (d->safe)
    sim_disk_name_drop(&d->safe);
  while (d->directories)
    sim_disk_name_drop(&d->directories);
  sim_disk_sweep(d);
  CHI_ASSERT(!d->files);
  free(d->handles);
  free(d);
}

CHI_PRIVATE void sim_disk_mkdir(struct sim_disk *d, const char *path)
{
  sim_disk_name_set(&d->directories, path, NULL);
}

CHI_PRIVATE const char *sim_disk_path(const struct sim_disk *d, int64_t handle)
{
  const struct sim_disk_name *name = d->now;
  if (handle < 0 || handle >= (int64_t)d->handle_count || !d->handles[handle].file)
    return NULL;
  while (name && name->file != d->handles[handle].file)
    name = name->next;
  return name ? name->path : NULL;
}

CHI_PRIVATE uint32_t sim_disk_open_count(const struct sim_disk *d)
{
  uint32_t count = 0;
  for (const struct sim_disk_file *file = d->files; file; file = file->next)
    count += file->opens;
  return count;
}

CHI_PRIVATE int64_t sim_disk_peek(const struct sim_disk *d, const char *path, void *buf,
                                  uint64_t size, uint64_t offset)
{
  const struct sim_disk_file *file = sim_disk_find(d, path);
  return file ? (int64_t)sim_disk_data_read(&file->now, buf, size, offset) : CHI_ENOENT;
}

CHI_PRIVATE void sim_disk_poke(struct sim_disk *d, const char *path, const void *buf, uint64_t size,
                               uint64_t offset)
{
  struct sim_disk_file *file = sim_disk_find(d, path);
  if (!file)
    file = sim_disk_file_new(d);
  sim_disk_name_set(&d->now, path, file);
  sim_disk_name_set(&d->safe, path, file);
  sim_disk_data_write(&file->now, buf, size, offset);
  sim_disk_data_write(&file->safe, buf, size, offset);
}

#undef SIM_DISK_STREAM
#undef SIM_DISK_SIZE_MAX
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_fault.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_fault.c - what goes wrong in a simulation, and when: memory, shared memory, files. */

CHI_PRIVATE void sim_fault_memory(struct sim_fault *fault, uint32_t kinds, uint64_t fail_at,
                                  uint32_t per_million)
{
  CHI_ASSERT((kinds & ~(uint32_t)SIM_FAULT_ANY) == 0);
  fault->asked = 0;
  fault->kinds = kinds;
  fault->fail_at = fail_at;
  fault->per_million = per_million;
}

CHI_PRIVATE struct sim_fault_io *sim_fault_add(struct sim_fault *fault,
                                               const struct sim_fault_io *rule)
{
  struct sim_fault_io *added = &fault->rules[fault->rule_count];
  CHI_ASSERT(fault->rule_count < SIM_FAULT_RULES);
  CHI_ASSERT(rule->result <= 0);
  *added = *rule;
  added->fits = 0;
  fault->rule_count++;
  return added;
}

CHI_PRIVATE void sim_fault_clear(struct sim_fault *fault)
{
  fault->rule_count = 0;
  sim_fault_memory(fault, 0, 0, 0);
}

CHI_PRIVATE bool sim_fault_hits(struct sim_fault *fault, enum sim_fault_memory kind)
{
  bool hit;
  if (!(fault->kinds & (uint32_t)kind))
    return false;
  fault->asked++;
  hit = fault->asked == fault->fail_at;
  if (rng_chance(&fault->rng, fault->per_million))
    hit = true;
  fault->injected += hit;
  return hit;
}

static bool sim_fault_fits(const struct sim_fault_io *rule, uint32_t node, int op, const char *path)
{
  if (rule->node != SIM_FAULT_ANYWHERE && rule->node != node)
    return false;
  if (rule->op != SIM_FAULT_ANYWHERE && rule->op != (uint32_t)op)
    return false;
  return !rule->path || (path && strstr(path, rule->path));
}

CHI_PRIVATE const struct sim_fault_io *sim_fault_hits_io(struct sim_fault *fault, uint32_t node,
                                                         int op, const char *path)
{
  const struct sim_fault_io *hit = NULL;
  for (uint32_t i = 0; i < fault->rule_count; i++) {
    struct sim_fault_io *rule = &fault->rules[i];
    if (!sim_fault_fits(rule, node, op, path))
      continue;
    rule->fits++;
    if (!hit && rule->fits > rule->after &&
        (!rule->times || rule->fits - rule->after <= rule->times))
      hit = rule;
  }
  fault->injected += hit != NULL;
  return hit;
}
#endif /* CHI_OMIT_SIM */

/* ---- sim/sim_trace.c ---- */
#ifndef CHI_OMIT_SIM
/* sim_trace.c - what happens in a simulation: a hash over all of it, and a transcript to read. */

#include <stdio.h>

#define SIM_TRACE_LINE 600

/* How an event reads: %a %b %c are values, %t the text, %p a pool, %k a task, %i an operation, %r
 * its result, %s a status, %n %l %h %u words. What is not here is not worth a line. */
static const struct {
  int kind;
  const char *format;
} sim_trace_forms[] = {
    {ENV_TRACE_DISPATCH, "worker %a takes task %k for method %m of pool %o"},
    {ENV_TRACE_BEGIN, "worker %a begins task %k"},
    {ENV_TRACE_BLOCK, "worker %a: task %k blocks"},
    {ENV_TRACE_RESUME, "worker %a: task %k goes on"},
    {ENV_TRACE_COMPLETE, "worker %a completes task %k: %s"},
    {ENV_TRACE_POOL, "pool %p is %b, generation %c"},
    {ENV_TRACE_TAKEOVER, "worker %a is stuck: worker %b takes %c lanes"},
    {ENV_TRACE_CLIENT, "link %a %h"},
    {ENV_TRACE_MARK, "mark %a %b %c"},
    {SIM_TRACE_LINK, "link %a %u"},
    {SIM_TRACE_NODE, "the node %n"},
    {SIM_TRACE_CLIENT, "client %a %l"},
    {SIM_TRACE_IO_BEGIN, "worker %a: %i %t, %c bytes"},
    {SIM_TRACE_IO_END, "worker %a: %i gives %r"},
    {SIM_TRACE_FAULT_IO, "worker %a: a fault hits %i %t"},
    {SIM_TRACE_FAULT_MEMORY, "a fault refuses %t"},
};

static const char *const sim_trace_io_words[] = {"open",     "read",    "write", "sync",
                                                 "truncate", "size",    "close", "rename",
                                                 "remove",   "dirsync", "space"};
static const char *const sim_trace_node_words[] = {
    [SIM_TRACE_NODE_STARTS] = "starts",    [SIM_TRACE_NODE_SERVES] = "serves",
    [SIM_TRACE_NODE_FAILS] = "fails",      [SIM_TRACE_NODE_STOPS] = "stops",
    [SIM_TRACE_NODE_KILLED] = "is killed", [SIM_TRACE_NODE_LOSES_POWER] = "loses power"};
static const char *const sim_trace_client_words[] = {[SIM_TRACE_CLIENT_STARTS] = "starts",
                                                     [SIM_TRACE_CLIENT_ENDS] = "ends",
                                                     [SIM_TRACE_CLIENT_KILLED] = "is killed"};
static const char *const sim_trace_attach_words[] = {"is gone", "is attached", "is refused"};
static const char *const sim_trace_link_words[] = {"hangs up", "connects"};

#define SIM_TRACE_WORD(words, value) ((value) < CHI_COUNT(words) ? (words)[value] : "?")

struct sim_trace_line {
  char text[SIM_TRACE_LINE];
  size_t used;
};

static void sim_trace_add(struct sim_trace_line *line, const char *text)
{
  size_t size = strlen(text), room = sizeof(line->text) - 2 - line->used;
  size = size < room ? size : room;
  memcpy(line->text + line->used, text, size);
  line->used += size;
}

static void sim_trace_add_number(struct sim_trace_line *line, uint64_t value)
{
  char text[24];
  snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
  sim_trace_add(line, text);
}

static void sim_trace_add_result(struct sim_trace_line *line, int64_t value)
{
  if (value < 0 && value >= INT32_MIN)
    sim_trace_add(line, chi_status_name((int)value));
  else
    sim_trace_add_number(line, (uint64_t)value);
}

static void sim_trace_add_pool(struct sim_trace_line *line, uint64_t major, uint64_t minor)
{
  sim_trace_add_number(line, major);
  sim_trace_add(line, ".");
  sim_trace_add_number(line, minor);
}

static void sim_trace_add_field(struct sim_trace_line *line, char field, const uint64_t v[3],
                                const char *text)
{
  switch (field) {
  case 'a':
    sim_trace_add_number(line, v[0]);
    break;
  case 'b':
    sim_trace_add_number(line, v[1]);
    break;
  case 'c':
    sim_trace_add_number(line, v[2]);
    break;
  case 'm':
    sim_trace_add_number(line, v[2] & 0xffff);
    break;
  case 'o':
    sim_trace_add_number(line, v[2] >> 16);
    break;
  case 'p':
    sim_trace_add_pool(line, v[0] >> 32, v[0] & UINT32_MAX);
    break;
  case 'r':
    sim_trace_add_result(line, (int64_t)v[2]);
    break;
  case 'k':
    sim_trace_add_number(line, v[1] >> 32);
    sim_trace_add(line, ":");
    sim_trace_add_number(line, v[1] & UINT32_MAX);
    break;
  case 's':
    sim_trace_add(line, (int64_t)v[2] > 0 ? "its own " : "");
    if ((int64_t)v[2] > 0)
      sim_trace_add_number(line, v[2]);
    else
      sim_trace_add(line, chi_status_name((int)(int64_t)v[2]));
    break;
  case 'i':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_io_words, v[1]));
    break;
  case 'n':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_node_words, v[0]));
    break;
  case 'l':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_client_words, v[1]));
    break;
  case 'h':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_attach_words, v[1]));
    break;
  case 'u':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_link_words, v[1]));
    break;
  default:
    sim_trace_add(line, text ? text : "-");
  }
}

/* "12.000345678 node3: ": virtual seconds and who. */
static void sim_trace_begin(struct sim_trace_line *line, uint64_t now, uint32_t node)
{
  line->used = (size_t)snprintf(line->text, sizeof(line->text), "%llu.%09llu ",
                                (unsigned long long)(now / 1000000000u),
                                (unsigned long long)(now % 1000000000u));
  if (node == UINT32_MAX)
    return;
  sim_trace_add(line, "node");
  sim_trace_add_number(line, node);
  sim_trace_add(line, ": ");
}

static void sim_trace_end(struct sim_trace *trace, struct sim_trace_line *line)
{
  line->text[line->used] = '\n';
  line->text[line->used + 1] = '\0';
  trace->put(trace->arg, line->text);
}

CHI_PRIVATE void sim_trace_event(struct sim_trace *trace, uint64_t now, uint32_t node, int kind,
                                 const uint64_t values[3], const char *text)
{
  struct sim_trace_line line;
  size_t form = 0;
  trace->events++;
  hash_stream_u64(&trace->hash, now);
  hash_stream_u64(&trace->hash, (uint64_t)node << 32 | (uint32_t)kind);
  for (int i = 0; i < 3; i++)
    hash_stream_u64(&trace->hash, values[i]);
  if (text)
    hash_stream_bytes(&trace->hash, text, strlen(text));
  while (form < CHI_COUNT(sim_trace_forms) && sim_trace_forms[form].kind != kind)
    form++;
  if (!trace->put || form == CHI_COUNT(sim_trace_forms))
    return;
  sim_trace_begin(&line, now, node);
  for (const char *at = sim_trace_forms[form].format; *at; at++) {
    if (*at == '%')
      sim_trace_add_field(&line, *++at, values, text);
    else
      sim_trace_add(&line, (char[2]){*at, '\0'});
  }
  sim_trace_end(trace, &line);
}

CHI_PRIVATE void sim_trace_text(struct sim_trace *trace, uint64_t now, uint32_t node,
                                const char *text)
{
  struct sim_trace_line line;
  if (!trace->put)
    return;
  sim_trace_begin(&line, now, node);
  sim_trace_add(&line, text);
  sim_trace_end(trace, &line);
}

#undef SIM_TRACE_LINE
#undef SIM_TRACE_WORD
#endif /* CHI_OMIT_SIM */
