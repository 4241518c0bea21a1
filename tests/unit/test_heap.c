/* test_heap.c - order, removal, memory. */
#include "heap.h"

#include "dies.h"
#include "test.h"

#include <stdlib.h>

enum { HEAP_MANY = 3000 };

/* A source of memory that fails after `left` successes and counts what is out. */
struct heap_memory {
  struct alloc alloc;
  int left;
  size_t out;
};

static void *heap_memory_get(void *arg, size_t size)
{
  struct heap_memory *m = arg;
  if (m->left-- <= 0)
    return NULL;
  m->out += size;
  return malloc(size);
}

static void heap_memory_put(void *arg, void *p, size_t size)
{
  struct heap_memory *m = arg;
  m->out -= size;
  free(p);
}

static void heap_memory_init(struct heap_memory *m, int left)
{
  *m = (struct heap_memory){{heap_memory_get, heap_memory_put, m}, left, 0};
}

static uint32_t heap_random(uint32_t *state)
{
  *state = *state * 1664525 + 1013904223;
  return *state >> 8;
}

/* Empties the heap: whether `want` entries come out, each after the one before it. */
static bool heap_ascends(struct heap *heap, uint32_t want)
{
  struct heap_entry *last = NULL, *e;
  uint32_t n = 0;
  for (; (e = heap_pop(heap)); last = e, n++) {
    if (e->index != 0)
      return false;
    if (last && (e->time < last->time || (e->time == last->time && e->seq <= last->seq)))
      return false;
  }
  return n == want;
}

TEST(heap_empty_has_no_top)
{
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 0);
  heap_init(&heap, &m.alloc);
  CHECK(heap_top(&heap) == NULL);
  CHECK(heap_pop(&heap) == NULL);
  heap_fini(&heap);
}

TEST(heap_orders_by_time_then_seq)
{
  static struct heap_entry e[HEAP_MANY];
  struct heap_memory m;
  struct heap heap;
  uint32_t state = 1;
  heap_memory_init(&m, 100);
  heap_init(&heap, &m.alloc);
  for (uint32_t i = 0; i < HEAP_MANY; i++) {
    e[i] = (struct heap_entry){.time = heap_random(&state) % 100, .seq = HEAP_MANY - i};
    CHECK_INT(heap_push(&heap, &e[i]), CHI_OK);
    CHECK_INT(heap.count, i + 1);
  }
  CHECK(heap_ascends(&heap, HEAP_MANY));
  heap_fini(&heap);
  CHECK_INT(m.out, 0);
}

TEST(heap_orders_the_extremes)
{
  struct heap_entry late = {.time = UINT64_MAX, .seq = UINT64_MAX}, soon = {.time = UINT64_MAX};
  struct heap_entry first = {.time = 0};
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 1);
  heap_init(&heap, &m.alloc);
  CHECK_INT(heap_push(&heap, &late), CHI_OK);
  CHECK_INT(heap_push(&heap, &soon), CHI_OK);
  CHECK_INT(heap_push(&heap, &first), CHI_OK);
  CHECK(heap_pop(&heap) == &first);
  CHECK(heap_pop(&heap) == &soon);
  CHECK(heap_top(&heap) == &late);
  heap_fini(&heap);
}

/* Random pushes, removals and pops against a plain array as the model. */
TEST(heap_removes_any_entry)
{
  static struct heap_entry e[200];
  struct heap_memory m;
  struct heap heap;
  uint32_t state = 7, count = 0;
  heap_memory_init(&m, 100);
  heap_init(&heap, &m.alloc);
  memset(e, 0, sizeof(e));
  for (uint64_t step = 0; step < 100000; step++) {
    struct heap_entry *at = &e[heap_random(&state) % CHI_COUNT(e)], *least = NULL;
    CHECK(heap_contains(&heap, at) == (at->index != 0));
    if (heap_contains(&heap, at)) {
      heap_remove(&heap, at);
      count--;
    } else {
      at->time = heap_random(&state) % 50;
      at->seq = step;
      CHECK_INT(heap_push(&heap, at), CHI_OK);
      count++;
    }
    CHECK_INT(heap.count, count);
    if (step % 16)
      continue;
    for (size_t i = 0; i < CHI_COUNT(e); i++)
      if (e[i].index && (!least || e[i].time < least->time ||
                         (e[i].time == least->time && e[i].seq < least->seq)))
        least = &e[i];
    CHECK(heap_top(&heap) == least);
  }
  CHECK(heap_ascends(&heap, count));
  heap_fini(&heap);
  CHECK_INT(m.out, 0);
}

TEST(heap_tells_its_entries_from_others)
{
  struct heap_entry a = {.time = 1}, b = {.time = 2};
  struct heap_memory m;
  struct heap one, two;
  heap_memory_init(&m, 2);
  heap_init(&one, &m.alloc);
  heap_init(&two, &m.alloc);
  CHECK_INT(heap_push(&one, &a), CHI_OK);
  CHECK_INT(heap_push(&two, &b), CHI_OK);
  CHECK(heap_contains(&one, &a) && !heap_contains(&one, &b));
  CHECK(heap_contains(&two, &b) && !heap_contains(&two, &a));
  heap_remove(&one, &a);
  CHECK(!heap_contains(&one, &a));
  heap_fini(&one);
  heap_fini(&two);
}

TEST(heap_out_of_memory_changes_nothing)
{
  static struct heap_entry e[64];
  struct heap_memory m;
  struct heap heap;
  uint32_t count = 0;
  heap_memory_init(&m, 0);
  heap_init(&heap, &m.alloc);
  memset(e, 0, sizeof(e));
  CHECK_INT(heap_push(&heap, &e[0]), CHI_ENOMEM);
  CHECK_INT(heap_reserve(&heap, 1), CHI_ENOMEM);
  CHECK_INT(heap_reserve(&heap, UINT32_MAX), CHI_ENOMEM);
  CHECK(e[0].index == 0 && heap.count == 0);
  m.left = 1;
  while (count < CHI_COUNT(e) && heap_push(&heap, &e[count]) == CHI_OK)
    count++;
  CHECK(count > 0 && count < CHI_COUNT(e));
  CHECK_INT(heap.count, count);
  CHECK(!heap_contains(&heap, &e[count]));
  m.left = 1;
  CHECK_INT(heap_push(&heap, &e[count]), CHI_OK);
  heap_fini(&heap);
  CHECK_INT(m.out, 0);
}

TEST(heap_reserve_makes_pushing_certain)
{
  static struct heap_entry e[1000];
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 2);
  heap_init(&heap, &m.alloc);
  memset(e, 0, sizeof(e));
  CHECK_INT(heap_reserve(&heap, 3), CHI_OK);
  CHECK_INT(heap_push(&heap, &e[0]), CHI_OK);
  CHECK_INT(heap_reserve(&heap, CHI_COUNT(e)), CHI_OK);
  CHECK_INT(heap_reserve(&heap, 10), CHI_OK);
  for (size_t i = 1; i < CHI_COUNT(e); i++) {
    e[i].seq = i;
    CHECK_INT(heap_push(&heap, &e[i]), CHI_OK);
  }
  CHECK_INT(m.left, 0);
  CHECK(heap_ascends(&heap, CHI_COUNT(e)));
  heap_fini(&heap);
  CHECK_INT(m.out, 0);
}

static void heap_push_twice(void *arg)
{
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 2);
  heap_init(&heap, &m.alloc);
  heap_push(&heap, arg);
  heap_push(&heap, arg);
}

TEST(heap_gives_back_room)
{
  static struct heap_entry e[HEAP_MANY];
  struct heap_memory m;
  struct heap heap;
  uint32_t room;
  heap_memory_init(&m, 100);
  heap_init(&heap, &m.alloc);
  for (uint32_t i = 0; i < HEAP_MANY; i++) {
    e[i] = (struct heap_entry){.time = i};
    CHECK_INT(heap_push(&heap, &e[i]), CHI_OK);
  }
  room = heap.room;
  heap_shrink(&heap, 4); /* it is full */
  CHECK_INT(heap.room, room);
  while (heap.count > HEAP_MANY / 10)
    heap_pop(&heap);
  m.left = 0;
  heap_shrink(&heap, 4); /* there is no memory to move to */
  CHECK_INT(heap.room, room);
  m.left = 1;
  heap_shrink(&heap, 4);
  CHECK_INT(heap.room, 2 * heap.count);
  CHECK_INT(heap_top(&heap)->time, HEAP_MANY - HEAP_MANY / 10);
  CHECK(heap_ascends(&heap, HEAP_MANY / 10));
  heap_fini(&heap);
  CHECK_INT(m.out, 0);
}

static void heap_remove_stranger(void *arg)
{
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 2);
  heap_init(&heap, &m.alloc);
  heap_remove(&heap, arg);
}

static void heap_change_inside(void *arg)
{
  struct heap_entry *e = arg;
  struct heap_memory m;
  struct heap heap;
  heap_memory_init(&m, 2);
  heap_init(&heap, &m.alloc);
  heap_push(&heap, e);
  e->time++;
  heap_remove(&heap, e);
}

TEST(heap_misuse_is_caught)
{
  struct heap_entry e = {0};
  CHECK(dies(heap_push_twice, &e, "entry->index == 0"));
  CHECK(dies(heap_remove_stranger, &e, "heap_contains"));
  CHECK(dies(heap_change_inside, &e, "entry->time"));
}
