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

#include "base.h"
#include "alloc.h"

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
#define ENV_CALL_NS UINT64_C(10000000000) /* a node that takes longer to answer is taken not to */

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
  ENV_TRACE_BEGIN,    /* its body begins: a worker, b task id, c pool << 16 | method */
  ENV_TRACE_BLOCK,    /* it blocks: a worker, b task id */
  ENV_TRACE_RESUME,   /* it goes on: a worker, b task id */
  ENV_TRACE_COMPLETE, /* a worker, b task id, c rc */
  ENV_TRACE_POOL,     /* a pool's state: a major << 32 | minor, b state, c generation */
  ENV_TRACE_TAKEOVER, /* a worker found stuck, b its heir, c lanes moved */
  ENV_TRACE_CLIENT,   /* a link, b 1 attached, 2 refused, 0 gone */
  ENV_TRACE_MARK,     /* a test's own */
  ENV_TRACE_KEY,      /* a body begins that several nodes know: a node << 32 | container, b
                       * sequence, c boot: where its task began, and for which container this is */
  ENV_TRACE_NET,      /* of a task between nodes: a enum net_trace, b peer, c sequence */
  ENV_TRACE_MEMBER,   /* another node: a node, b enum member_state, c boot */
  ENV_TRACE_BOOT,     /* the own life: a boot */
  ENV_TRACE_SUBMIT,   /* a client's task is under way: a boot of its daemon, b queue << 32 | slot, c
                       * pool << 16 | method */
  ENV_TRACE_DONE,     /* and has completed, as the client sees it: a and b as above, c rc */
  ENV_TRACE_COST,     /* the method of the body that begins declares what it costs: a worker, b task
                       * id, c ns of CPU; a simulation lets them pass before it returns */
  ENV_TRACE_RESULT,   /* to who records inputs alone: a worker, b task id, c hash of OUT fields */
  ENV_TRACE_DEVICE    /* a device on a file: a hash of its path << ENV_DEVICE_BITS | what it says */
};

/* What a device on a file says of itself; b and c are offset and size unless it is said here. */
#define ENV_DEVICE_BITS 4
enum env_device {
  ENV_DEVICE_OPENS,     /* what it finds allocated follows */
  ENV_DEVICE_HAS,
  ENV_DEVICE_OPENED,    /* that was all */
  ENV_DEVICE_ALLOCATED, /* and about to be acknowledged: it must outlive a crash */
  ENV_DEVICE_FREES,     /* or tries to */
  ENV_DEVICE_SYNCS,     /* b its number: whatever was acknowledged before is to be made durable */
  ENV_DEVICE_SYNCED     /* b its number, c rc */
};

/* What travels between nodes: frames of bytes that belong together. The first is small and is
 * copied; the others are bulk. */
struct env_frame {
  const void *data;
  uint64_t size;
};
#define ENV_FRAMES_MAX 65 /* of one message */

/* What the core does with memory of a client. */
enum env_memory {
  ENV_MEMORY_TASK,   /* it is going to read a task, or its header, once */
  ENV_MEMORY_BUFFER, /* a buffer is its own from now on */
  ENV_MEMORY_RETURN  /* it has written to a buffer, and gives it back */
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
   * other. *size: room in, bytes out; *count: room for shares in, number out. CHI_ESHUTDOWN;
   * CHI_ETIMEOUT: no answer within ENV_CALL_NS, and nothing is sent before it has come. Until then
   * calls fail with CHI_EBUSY, which takes as long; the first one afterwards gets it instead of
   * its own, and CHI_ESTALE. CHI_ENOMEM: what came with the answer could not be mapped here. */
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

  /* Nanoseconds since 1970 by the machine's own opinion, which may jump: only to number the lives
   * of a node. Any thread. */
  uint64_t (*wall)(struct env *env);

  /* ---- other nodes, known by their position in the list; network worker thread. The environment
   * calls runtime_on_message, runtime_on_peer and runtime_on_sent between steps of the network
   * worker. Messages to one peer arrive in the order they were sent, each whole or not at all; they
   * are lost only with the connection or in a queue that is full, and whoever sent them may not
   * hear of it. */
  /* Makes this node reachable at its own place in the list and keeps trying to connect to the
   * others, until net_close. CHI_EBUSY: the address is in use; CHI_EINVAL: no such address. hosts
   * stays valid. */
  int (*net_open)(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                  uint32_t port, chi_error *err);
  /* Drops every connection with what is queued; parcels that were not handed back will not be. */
  void (*net_close)(struct env *env);
  /* Sends a message. frame[0] is copied; the others are read until `parcel` (not NULL if there are
   * any) is handed back by runtime_on_sent, sent or not. CHI_EBUSY: the queue to this peer is full;
   * CHI_EUNREACHABLE: no connection now. After an error nothing was taken. */
  int (*net_send)(struct env *env, uint32_t peer, const struct env_frame *frame, uint32_t count,
                  void *parcel);
  /* Drops the connection to a peer and what is queued for it, so that it pins nothing; parcels are
   * handed back. Goes on trying to connect. */
  void (*net_reset)(struct env *env, uint32_t peer);

  /* For who records all inputs: memory of a client, and an enum env_memory. Returns where a task
   * shall be read, which is good until the next call. NULL where nobody listens. Worker thread. */
  const void *(*memory)(struct env *env, int what, void *at, uint64_t size);

  /* Client side: whether a call would have to wait for the answer to one that timed out. Any
   * thread. */
  bool (*link_owes)(struct env *env, env_link link);
};

#endif
