/* client.h - a program's side of shared memory: attach, queues, submit, reap, wait, cancel. */
#ifndef CHI_CLIENT_H
#define CHI_CLIENT_H

#include "base.h"
#include "attach.h"
#include "env.h"
#include "lane.h"
#include "ring.h"
#include "shm.h"
#include "spin.h"

/* What chi_client_open does, in any environment. env must outlive the client; if `dispose` is not
 * NULL it is called with env when the client has been closed. */
CHI_PRIVATE int client_open(struct env *env, void (*dispose)(struct env *env), const char *instance,
                            chi_client **out, chi_error *err);

/* ---- between client.c (attach and memory), client_link.c (calls) and client_task.c (tasks) */

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
  /* What the node is still to be told is given back: it did not answer. */
  struct latch latch;
  uint32_t untold; /* atomic: so many in all */
  uint8_t *returned; /* by chunk number: 1 and the kind of ATTACH_RETURN; 0: it is not */
  uint32_t closed_count, closed[ATTACH_QUEUES_MAX]; /* queues */
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
  bool quit; /* it was abandoned when its lane had no room for the cancellation */
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
  uint32_t quits; /* cancellations that wait for room in their lanes */
  struct spin spin;
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

/* One call to the node. share has room for *count, which becomes the number of those that came. */
CHI_PRIVATE int client_call(struct client_link *l, const struct attach_request *request,
                            struct attach_reply *reply, struct env_share *share, uint32_t *count);
/* Tells the node that a queue is closed or a chunk returned: now, or if it does not answer, before
 * the next call that it does answer. */
CHI_PRIVATE void client_notice(struct client_link *l, uint32_t op, uint32_t id);
/* Tells what is untold, unless it would have to wait for a node that has been silent. */
CHI_PRIVATE void client_tell(struct client_link *l);
CHI_PRIVATE int client_fail(chi_queue *q, int code, const char *text);
/* What client_queue_check does with a queue that isn't as it should be. */
CHI_PRIVATE int client_queue_renew(chi_queue *q);
/* CHI_OK if the queue may be used now: the process is the one that opened it, and the queue is on
 * the client's current connection (it moves there if need be). */
CHI_INLINE int client_queue_check(chi_queue *q)
{
  const chi_client *c = q->client;
  const struct client_link *l = q->memory->link;
  bool good = mark_get(c->env->alive) && mark_get(&c->current) == l && !mark_get(&l->dead) &&
              q->slot;
  return CHI_LIKELY(good) ? CHI_OK : client_queue_renew(q);
}
/* Ends everything under way on a dead connection with CHI_ESHUTDOWN. */
CHI_PRIVATE void client_queue_fail_all(chi_queue *q);
CHI_PRIVATE void client_queue_reset(chi_queue *q);
/* Waits until nothing is under way; false: time is up. */
CHI_PRIVATE bool client_queue_settle(chi_queue *q, uint64_t timeout_ns);
/* The memory an address was allocated in; NULL. */
CHI_PRIVATE struct client_memory *client_memory_of(chi_queue *q, const void *p, uint64_t *ref,
                                                   uint64_t *room, bool *bulk);
/* chi_pool_create, saying where: "dynamic", "local" or "broadcast". */
CHI_PRIVATE int client_pool_create(chi_queue *q, const char *mod_name, const char *pool_name,
                                   const char *pool_query, const chi_param *params, uint32_t count,
                                   chi_pool_id *id, chi_error *err);

#endif
