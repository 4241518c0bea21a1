/* ring.h - small pieces that several workers of one node touch: latch, inbox, task list.
 *
 * Private memory of the daemon only; what is shared with clients is in lane.h. */
#ifndef CHI_RING_H
#define CHI_RING_H

#include "base.h"
#include "atomic.h"

/* A latch guards a handful of instructions, never a method or a system call. */
struct latch {
  uint32_t held;
};

CHI_PRIVATE void latch_lock(struct latch *l);
/* True: held, and all that was written before is seen before anything that is read from here on. */
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
CHI_INLINE bool inbox_empty(const struct inbox *b)
{
  return atomic_get(&b->top) == NULL;
}

/* First in, first out; any worker may push, pop, or take everything (take-over). */
struct ring_list {
  struct latch latch;
  uint32_t count; /* may be read without the latch as a hint; exact after a fence */
  struct ring_node *head, *tail;
};

CHI_PRIVATE void ring_push(struct ring_list *l, struct ring_node *n);
CHI_PRIVATE struct ring_node *ring_pop_first(struct ring_list *l); /* NULL: empty */
CHI_INLINE bool ring_empty(const struct ring_list *l)
{
  return atomic_get(&l->count) == 0;
}
/* The same, without the latch where there is nothing. */
CHI_INLINE struct ring_node *ring_pop(struct ring_list *l)
{
  return ring_empty(l) ? NULL : ring_pop_first(l);
}
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
/* Nobody is queued; for who is inside, a hint. */
CHI_INLINE bool gate_alone(const struct gate *g)
{
  return atomic_get(&g->state) == 1;
}
/* The node that is inside now, or NULL. */
CHI_PRIVATE struct ring_node *gate_leave(struct gate *g);

#endif
