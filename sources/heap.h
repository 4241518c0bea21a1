/* heap.h - entries ordered by (time, seq): what is due first, and removal of any of them. */
#ifndef CHI_HEAP_H
#define CHI_HEAP_H

#include "alloc.h"
#include "base.h"

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

/* Gives back room that is by far not needed, but for n entries. */
CHI_PRIVATE CHI_UNUSED void heap_shrink(struct heap *heap, uint32_t n);

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
