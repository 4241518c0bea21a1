/* ring.c - small pieces that several workers of one node touch: latch, inbox, task list. */
#include "ring.h"

void latch_lock(struct latch *l)
{
  while (!latch_try(l))
    while (atomic_get(&l->held))
      atomic_pause();
}

bool latch_try(struct latch *l)
{
  return atomic_get(&l->held) == 0 && atomic_swap_fenced(&l->held, 1) == 0;
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

struct ring_node *ring_pop_first(struct ring_list *l)
{
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
