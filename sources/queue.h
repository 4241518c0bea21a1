/* queue.h - a client's queue as the daemon sees it: three lanes and the way back. */
#ifndef CHI_QUEUE_H
#define CHI_QUEUE_H

#include "base.h"
#include "env.h"
#include "lane.h"
#include "ring.h"
#include "shm.h"

struct session;

/* One submission ring with its home. The latch covers taking entries and changing home. */
struct queue_lane {
  struct ring_node node; /* NODE_LANE, on the way to a new home */
  struct latch latch;
  struct lane_in in;
  struct queue *queue;
  uint32_t kind;      /* enum lane_kind */
  uint32_t home;      /* worker; changed under the latch, on the network worker */
  uint32_t seen;      /* network worker: entries taken when it last looked */
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
/* The same in two halves, for a worker that has a fence of its own, a latch, in between: the client
 * can see the completion after the first, and is woken by the second. */
CHI_PRIVATE void queue_answer(struct queue *q, uint32_t slot, int32_t rc);
CHI_PRIVATE void queue_wake_after_fence(struct queue *q, uint32_t worker);
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
