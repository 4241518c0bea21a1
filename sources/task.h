/* task.h - a task inside the daemon: its record, and the copy between client memory and private.
 *
 * Dispatch copies header and IN fields into private memory, validates the copy, and the method
 * runs on the copy; OUT is written back at completion. Nothing else reads a client's memory. */
#ifndef CHI_TASK_H
#define CHI_TASK_H

#include "base.h"
#include "alloc.h"
#include "ring.h"
#include "heap.h"
#include "shm.h"

struct worker;
struct queue;
struct container;
struct worker_fiber;
struct method;
struct pool_map;

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
  NODE_CALL,       /* chi_ctx of the node's own: completed, to the network worker */
  NODE_REMOTE,     /* chi_ctx: a task for containers of other nodes, to the network worker */
  NODE_EARLY       /* chi_ctx: a subtask whose pool is in creation, to the network worker */
};

enum task_state {
  TASK_QUEUED,   /* accepted, waiting to be started */
  TASK_RUNNING,  /* its body is on a worker */
  TASK_BLOCKED,  /* its body waits on a fiber of its own */
  TASK_RESTING,  /* periodic, between runs */
  TASK_PARKED    /* a subtask, until its pool is ready: on the network worker */
};

enum task_wait {
  TASK_WAIT_NONE,
  TASK_WAIT_TIME,    /* sleep or yield */
  TASK_WAIT_SUBTASK, /* until one, or all, subtasks have completed */
  TASK_WAIT_SYNC,    /* in the list of a lock or event */
  TASK_WAIT_IO,      /* a file operation: cannot be interrupted */
  TASK_WAIT_PAUSE,   /* as TIME, but cannot be interrupted */
  TASK_WAIT_JOIN,    /* as SUBTASK for all, at the end of its body: cannot be interrupted */
  TASK_WAIT_GATE,    /* to re-enter its container */
  TASK_WAIT_AWAY     /* for the answer of other nodes */
};

/* Where the result goes. */
enum task_origin { TASK_FROM_CLIENT, TASK_FROM_PARENT, TASK_FROM_NODE };

/* A flag beside those of chi_task_flag: for nodes that aren't there it ends at once. */
#define TASK_PROMPT 0x100u

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

  struct queue *queue; /* of the client's task at the root; NULL below a task of the node */
  uint32_t slot, tag;
  chi_task *shared;  /* the client's own task */
  uint64_t id;       /* of this task among all of the node's run: for traces */
  uint64_t root;     /* lock group: the id of the task at the root */
  uint64_t deadline; /* UINT64_MAX: none */
  int32_t cancel;    /* CHI_ECANCELLED asked by the parent or the node: atomic, any worker */
  int32_t wait_rc;   /* what the wait returns */
  uint32_t running;  /* subtasks not completed: parent's worker only */
  bool ended;        /* a subtask that isn't under way: parent's worker only */
  bool slow;         /* estimated to belong on a slow worker */
  bool brief;        /* so brief that the network worker's thread runs it itself */
  bool shielded;     /* is not cancelled */
  bool resolved;     /* container and method are set: no look-up at submission */
  bool early;        /* a subtask whose pool was in creation when it was submitted */
  chi_ctx *parent, *child;    /* subtasks, newest first: parent's worker only */
  const chi_ctx *awaited;     /* the subtask waited for; NULL: all */
  const struct pool_map *map; /* NODE_REMOTE: of its pool; the containers it is for, see first */
  uint64_t key_seq;           /* of a task known to several nodes; 0: known here alone */
  void *sync;                 /* lock or event waited for */
  void *sync_hold;            /* memory for the hold of a reader that waits */
  struct heap_entry timer;

  /* A new record has these as they happen to be: who makes use of one sets it before. */
  chi_ctx *sibling;                     /* of parent's children */
  uint32_t first, count;                /* where there is a map */
  uint64_t key_boot;                    /* where there is a key: where the task began, and for */
  uint32_t key_node, key_index;         /* which container this is */
  void (*call_done)(chi_ctx *ctx);      /* TASK_FROM_NODE: on the network worker */
  void *call_arg;
  struct worker_fiber *fiber;           /* while blocked */
  chi_ctx *blocked_next, *blocked_prev; /* the worker's list of blocked tasks */
  chi_ctx *sync_next, *sync_prev;       /* its list of waiters: under its latch */
  uint32_t sync_mode;
};

/* A lane entry on its way to the network worker. */
struct task_raw {
  struct ring_node node;
  struct queue *queue;
  uint64_t ref;
  uint32_t slot, tag;
  uint64_t deadline; /* of one that has waited for its pool; 0: it hasn't */
};

/* ---- how a declared struct is copied */

#define TASK_RUNS 12
struct task_plan {
  const chi_type *type;
  bool plain;         /* scalars only, in whole words: copied in as such */
  bool scalar;        /* scalars only */
  uint32_t bulks;     /* fields of that kind */
  uint32_t out_count; /* runs of OUT scalars, merged; UINT32_MAX: field by field */
  struct {
    uint32_t offset, size;
  } out[TASK_RUNS];
};

/* CHI_EINVAL (with *err) if a declaration is impossible: sizes, kinds, bounds, alignment,
 * overlaps, of its fields and of those inside elements. */
CHI_PRIVATE int task_plan_init(struct task_plan *plan, const chi_type *type, chi_error *err);
/* The fields of a struct that isn't plain, one by one; of the OUT fields where they aren't runs. */
CHI_PRIVATE int task_fields_in(const chi_type *type, const struct shm_table *table,
                               const chi_task *shared, chi_task *copy);
CHI_PRIVATE void task_fields_out(const chi_type *type, const chi_task *copy, chi_task *shared);

#define TASK_WORD 8u /* bytes; a struct that a compiler laid out has whole ones */

/* Copies IN fields of `shared` behind the header that is in `copy` already and validates them; the
 * rest is zeroed if the struct isn't plain. Bulk fields are resolved through the client's table.
 * CHI_ECORRUPT. */
CHI_INLINE int task_copy_fields_in(const struct task_plan *plan, const struct shm_table *table,
                                   const chi_task *shared, chi_task *copy)
{
  uint32_t size = plan->type->size;
  if (!plan->plain) {
    memset(copy + 1, 0, size - sizeof *copy);
    return task_fields_in(plan->type, table, shared, copy);
  }
  /* A few words, most of the time: quicker than a call. */
  for (uint32_t at = sizeof *copy; at < size; at += TASK_WORD)
    memcpy((char *)copy + at, (const char *)shared + at, TASK_WORD);
  return CHI_OK;
}

/* The same, and the header, which has been read before. */
CHI_INLINE int task_copy_in(const struct task_plan *plan, const struct shm_table *table,
                            const chi_task *header, const chi_task *shared, chi_task *copy)
{
  *copy = *header;
  return task_copy_fields_in(plan, table, shared, copy);
}

/* Writes OUT fields back. The code travels with the completion. */
CHI_INLINE void task_copy_out(const struct task_plan *plan, const chi_task *copy, chi_task *shared)
{
  if (CHI_UNLIKELY(plan->out_count == UINT32_MAX)) {
    task_fields_out(plan->type, copy, shared);
    return;
  }
  for (uint32_t i = 0; i < plan->out_count; i++) {
    char *to = (char *)shared + plan->out[i].offset;
    const char *from = (const char *)copy + plan->out[i].offset;
    if (plan->out[i].size == TASK_WORD)
      memcpy(to, from, TASK_WORD);
    else
      memcpy(to, from, plan->out[i].size);
  }
}

#define TASK_LABEL 80 /* room for any text of the next function */
/* What log lines call a task: "task=ID", or "task=NODE/BOOT/SEQUENCE/CONTAINER" of one that is
 * known to several nodes, to all of them alike. Returns buf. */
CHI_PRIVATE const char *task_label(const chi_ctx *ctx, char *buf, size_t size);
/* The type with that room. */
CHI_PRIVATE chi_type task_with_failures(const chi_type *type);

/* A hash of the OUT fields of a copy: of values, not of what lies between them. Of a buffer it is
 * the size. */
CHI_PRIVATE uint64_t task_hash_out(const chi_type *type, const chi_task *copy);

CHI_PRIVATE void task_list_push(struct task_list *l, chi_ctx *ctx); /* through node.next */
CHI_PRIVATE chi_ctx *task_list_pop(struct task_list *l);

/* Zeroes what of a new record is zero. */
CHI_INLINE void task_zero(chi_ctx *ctx)
{
  alloc_clear(ctx, offsetof(struct chi_ctx, sibling));
}

/* Where the list of failures lies behind a task that has room for one: bytes from its beginning. */
CHI_INLINE uint32_t task_failures_at(const chi_type *type)
{
  return (type->size + 7) / 8 * 8;
}

/* Bytes of a task with these flags. */
CHI_INLINE uint64_t task_room(const chi_type *type, uint32_t flags)
{
  return flags & CHI_TASK_FAILURES ? task_failures_at(type) + sizeof(chi_failures) : type->size;
}

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
