/* heap.c - a heap with four children per node: half the levels of a binary one, in fewer lines of
 * cache. */
#include "heap.h"

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

/* Moves it all to room for n, at least as many as there are. */
static int heap_move(struct heap *heap, uint32_t n)
{
  struct heap_slot *slot = alloc_get(heap->alloc, n * sizeof(*slot));
  if (!slot)
    return CHI_ENOMEM;
  if (heap->count > 0)
    memcpy(slot, heap->slot, heap->count * sizeof(*slot));
  alloc_put(heap->alloc, heap->slot, heap->room * sizeof(*slot));
  heap->slot = slot;
  heap->room = n;
  return CHI_OK;
}

CHI_PRIVATE int heap_reserve(struct heap *heap, uint32_t n)
{
  if (n <= heap->room)
    return CHI_OK;
  return n <= HEAP_ROOM_MAX ? heap_move(heap, n) : CHI_ENOMEM;
}

CHI_PRIVATE void heap_shrink(struct heap *heap, uint32_t n)
{
  uint32_t room = heap->count * 2 > n ? heap->count * 2 : n;
  if (room <= heap->room / 4)
    (void)heap_move(heap, room); /* else it stays as it is */
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
