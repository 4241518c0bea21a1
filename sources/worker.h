/* worker.h - the step: lanes, tasks, ready fibers, blocked tasks, timers, take-over. */
#ifndef CHI_WORKER_H
#define CHI_WORKER_H

#include "base.h"
#include "bell.h"
#include "env.h"
#include "fiber.h"
#include "heap.h"
#include "log.h"
#include "pool.h"
#include "queue.h"
#include "ring.h"
#include "route.h"
#include "task.h"

/* The brief one runs brief tasks from other nodes on the network worker's thread, but is a worker
 * of its own: a body that never comes back costs this one, and not the network. */
enum worker_kind { WORKER_FAST, WORKER_SLOW, WORKER_BRIEF, WORKER_NETWORK };

#define WORKER_BRIEF_NS 2500u   /* below this, which only measuring shows, a hand-over costs more */
#define WORKER_FIBERS 1024u     /* tasks begun and not ended, per worker */
#define WORKER_RESERVE 64u      /* more of them for each level of subtasks */
#define WORKER_DEPTH 16u        /* levels of subtasks */
#define WORKER_SPARES 32u       /* stacks kept for the next burst, per worker */
#define WORKER_RECORDS 8u       /* size classes of records: 512 << class */
#define WORKER_ROW 16u          /* tasks of one lane that are run in a row */
#define WORKER_LOOKS 5u         /* that find one worker busy and another idle before a lane moves */
#define WORKER_CODE(name, code, text) +1u
#define WORKER_CODES (0u CHI_STATUS_TABLE(WORKER_CODE)) /* that are counted apart */
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
  struct log_figures log_figures;
  struct latch refusals_latch;
  struct log_limit refusals; /* one line a second for all workers */
  struct worker *worker; /* fast ones, slow ones, the brief one, the network worker */
  uint32_t count, fast, slow, brief; /* brief: 1 if there are other nodes, else 0 */
  uint32_t node, nodes;
  uint64_t stack_size;
  uint64_t data_budget, data_used; /* bytes that modules count by ctx_data_take; used: atomic */
  uint64_t salt;         /* makes lock groups unique among nodes */
  uint64_t cancel_epoch; /* atomic: rises when somebody asked for a cancellation */
  uint32_t cancel_all;   /* atomic: every task is cancelled */
  uint32_t draining;     /* atomic: nothing new is accepted from clients */
  uint32_t watching;     /* atomic: the network worker looks after the others */
  uint32_t turn;         /* atomic: round robin over slow workers */
  /* Upcalls, on the network worker: a lane entry for a pool that is not ready (the callee owns
   * raw); one worker's answer to a notice. */
  void (*on_raw)(void *arg, struct task_raw *raw);
  void (*on_notice)(void *arg, struct pool_notice *notice);
  void (*on_remote)(void *arg, chi_ctx *ctx); /* a task for elsewhere: to be ended by worker_end */
  void (*on_cancel)(void *arg);               /* somebody asked for a cancellation */
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
  env_bell bell;          /* the brief one has that of the network worker */
  uint32_t awake, inside; /* atomic: stepped lately; inside a method */
  uint32_t full;          /* atomic: it has no stack to begin one more task with */
  uint64_t beat, accepted, ended, refused, busy_ns, blocked_count, resting; /* tallies */
  /* Tallies of tasks that ended, or were refused, with another code than success: by the code's
   * negative; 0: the methods' own codes. */
  uint64_t failed[WORKER_CODES];
  uint64_t beat_seen; /* network worker: at its last look; its own: when that was */
  uint64_t load_seen; /* network worker: nanoseconds of work, at its last look */
  bool stuck;         /* network worker: full, or inside a method since the look before */
  uint32_t busy_looks, idle_looks; /* network worker: so many in a row found it so */
  /* its own */
  uint64_t now, cancel_seen, ids;
  uint32_t budget, sample, switches, turn;
  /* Between two pieces of work of a turn: a client's queue that was answered and is to be woken; a
   * container that a task has left but for its gate, and for its place among those that are
   * active: often the next task is for the same. */
  struct queue *owed;
  struct container *kept;
  bool more;
  struct pool_table *table;
  const struct pool_entry *last; /* found last */
  struct route local;            /* what is local to this node in it; nothing is if here is NULL */
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

/* NULL: there are no other nodes. */
CHI_INLINE struct worker *worker_brief(const struct worker_crew *crew)
{
  return crew->brief ? &crew->worker[crew->count - 2] : NULL;
}

/* See runtime.h. */
CHI_PRIVATE bool worker_step(struct worker *w, uint64_t now, uint32_t budget, uint64_t *deadline);

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
/* Where the header of a client's task is to be read. */
CHI_INLINE const chi_task *worker_header(const struct worker_crew *crew, chi_task *shared)
{
  struct env *env = crew->env;
  return CHI_LIKELY(!env->memory) ? shared
                                  : env->memory(env, ENV_MEMORY_TASK, shared, sizeof *shared);
}
/* Completes a raw entry with a code instead. */
CHI_PRIVATE void worker_refuse_raw(struct worker *w, struct task_raw *raw, int rc);
/* An id for a task that begins inside the node. */
CHI_INLINE uint64_t worker_new_id(struct worker *w)
{
  return (uint64_t)(w->index + 1) << 48 | ++w->ids | 1ull << 63; /* clients' ids begin with 0 */
}
/* The task is for these containers, not (only) for one of this node. */
CHI_INLINE void worker_aim(chi_ctx *ctx, const struct pool_map *map, uint32_t first, uint32_t count)
{
  ctx->map = map;
  ctx->first = first;
  ctx->count = count;
}
/* Submits a record whose container and method are set, from the worker w: starts it there or on
 * a slow worker, or hands it to on_remote if it was aimed elsewhere. */
CHI_PRIVATE void worker_submit(struct worker *w, chi_ctx *ctx);
/* The same, for a pool that is in creation: it begins when that is ready, as worker_unpark says. */
CHI_PRIVATE void worker_submit_early(struct worker *w, chi_ctx *ctx);
/* Subtasks that wait for the pool begin, or end with rc. Network worker. */
CHI_PRIVATE void worker_unpark(struct worker *network, const struct pool *p, int rc);

/* Ends a task that on_remote was given: its OUT fields are in ctx->task. Network worker. */
CHI_PRIVATE CHI_UNUSED void worker_end(struct worker *network, chi_ctx *ctx, int rc);

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

/* ---- worker_sleep.c; see runtime.h */
CHI_PRIVATE bool worker_has_work(const struct worker *w);
/* Whether somebody waits for it: such work is never left to be found when it next wakes up. */
CHI_PRIVATE bool worker_is_asked(const struct worker *w);
CHI_PRIVATE bool worker_may_sleep(struct worker *w);
CHI_PRIVATE void worker_awake(struct worker *w);

/* ---- worker_look.c */
/* Network worker: looks which of the others are stuck: in a method, or without a stack to begin one
 * more task with. True: one of them is awake. */
CHI_PRIVATE bool worker_look(struct worker *network);
/* What all workers have to do. A task that goes from one to another meanwhile counts as left. */
struct worker_work {
  uint64_t done, left; /* tasks ended; accepted and not ended */
  uint64_t resting;    /* periodic ones among those that are left, between two runs */
};
CHI_PRIVATE struct worker_work worker_work_left(const struct worker_crew *crew);
/* Network worker: the brief one is known to be stuck, before any look has found it so. */
CHI_PRIVATE void worker_mark_stuck(struct worker *brief);
/* Network worker: gives what has not begun on a stuck worker to another. Returns the heir of worker
 * `index`, or its own index if it isn't stuck or all are. */
CHI_PRIVATE uint32_t worker_relieve(struct worker *network, uint32_t index);
/* Network worker, after a look: one worker has been busy for several looks while another of its
 * kind had nothing to do. It is true again after as many looks at the earliest. */
CHI_PRIVATE bool worker_lopsided(struct worker *network, uint32_t *from, uint32_t *to);
/* Gives a lane a home and tells the worker. Network worker. */
CHI_PRIVATE void worker_home(struct worker *network, struct queue_lane *lane, uint32_t home);

/* ---- between worker.c, worker_accept.c and worker_io.c */
CHI_PRIVATE void worker_count_failure(struct worker *w, int rc);
/* A slow worker that isn't inside a method, if there is one; in turn. */
CHI_PRIVATE struct worker *worker_of_slow(struct worker_crew *crew);
/* Starts an operation from this worker's loop; one that finds no room waits its turn. */
CHI_PRIVATE void worker_io_start(struct worker *w, struct worker_io *wio);
/* Hands on what has completed, and starts what waited; false: nothing has. */
CHI_PRIVATE bool worker_io_reap(struct worker *w);
/* Whether a body of that depth may be begun: there is a fiber to go on with if it blocks. */
CHI_PRIVATE bool worker_may_begin(struct worker *w, uint32_t depth);
/* Takes entries from the next lane that has some and deals with them, a few in a row; false: none
 * has. Lanes that have another home now are dropped on the way. */
CHI_PRIVATE bool worker_take_from_lanes(struct worker *w);
/* A lane whose home this worker is, and those for which there was no memory when they came. */
CHI_PRIVATE void worker_adopt(struct worker *w, struct queue_lane *lane);
CHI_PRIVATE void worker_adopt_waiting(struct worker *w);
/* Enters the container's gate and runs the body to its end or first block. The worker's stack. */
CHI_PRIVATE void worker_begin(struct worker *w, chi_ctx *ctx);
/* The same for a task that has just been taken, for which nobody can have asked anything yet: it is
 * counted among the container's active ones, too. */
CHI_PRIVATE void worker_begin_fresh(struct worker *w, chi_ctx *ctx);
/* The task is going to wait for other nodes: on the network worker, which is returned. */
CHI_INLINE struct worker *worker_lend(const struct worker *w, chi_ctx *ctx)
{
  struct worker *network = &w->crew->worker[w->crew->count - 1];
  ctx->state = TASK_BLOCKED;
  ctx->wait = TASK_WAIT_AWAY;
  ctx->worker = network;
  return network;
}
/* For who records: what a client is given. */
CHI_PRIVATE void worker_tell_result(const struct worker *w, const chi_ctx *ctx);
/* Wakes the client that is owed that; after a fence. */
CHI_INLINE void worker_pay_after_fence(struct worker *w)
{
  struct queue *q = w->owed;
  w->owed = NULL;
  if (q)
    queue_wake_after_fence(q, w->index);
}
/* Somebody may be waiting for more than lanes: messages, cancellations, what became ready. */
CHI_INLINE bool worker_is_wanted(const struct worker *w)
{
  return !inbox_empty(&w->inbox) || w->ready.head || !ring_empty(&w->urgent) || w->io_flight > 0 ||
         mark_get(&w->crew->cancel_epoch) != w->cancel_seen;
}

/* The running task whose stack or guard holds the address, or NULL. Signal-safe. */
CHI_PRIVATE const chi_ctx *worker_fault(const struct worker *w, const void *address);

#endif
