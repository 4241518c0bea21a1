/* shm.c - shared memory in chunks leased to clients: places in it, and the allocator over it. */
#include "shm.h"

#define SHM_SLOTS_MAX (SHM_SPAN_SIZE / 64u)
#define SHM_WORDS (SHM_SLOTS_MAX / 64u)
#define SHM_CLASS_NONE 0xffu
#define SHM_CLASS_LARGE 0xfeu /* first span of an allocation of whole spans */
#define SHM_CLASS_REST 0xfdu  /* further spans of it */

/* One span: SHM_SPAN_SIZE bytes of a lease. A bit of `vacant` is set for each free slot. */
struct shm_span {
  struct shm_span *next, *prev; /* in the arena's partial list of its class */
  struct shm_lease *lease;
  uint8_t class, index;
  uint16_t spans; /* of a large allocation */
  uint16_t free, slots;
  uint32_t size, inverse; /* of a slot; see shm_inverse */
  uint64_t vacant[SHM_WORDS];
};

/* A chunk, private view. A lease larger than one chunk holds a single allocation. */
struct shm_lease {
  char *base;
  uint64_t size;
  uint32_t chunk;
  uint32_t vacant_spans; /* a bit for each free span */
  uint32_t used_spans, open_spans; /* open: used spans of slots that are all free */
  struct shm_span span[SHM_SPANS];
};

void *shm_resolve(const struct shm_table *t, uint64_t ref, uint64_t size)
{
  uint64_t room = 0;
  void *p = shm_resolve_room(t, ref, &room);
  return size <= room ? p : NULL;
}

void shm_publish(struct shm_table *t, uint32_t chunk, void *base, uint64_t size)
{
  CHI_ASSERT(chunk < t->room);
  t->chunk[chunk].base = base;
  atomic_set_release(&t->chunk[chunk].size, size);
}

/* Classes: 64 .. 1024 by 64, then 1280 .. 3584 in quarters, then 4096 .. 32768 by 4096. */
static uint32_t shm_class(uint64_t size)
{
  if (size <= 1024)
    return size == 0 ? 0 : (uint32_t)((size - 1) / 64);
  if (size <= 2048)
    return 16 + (uint32_t)((size - 1025) / 256);
  if (size <= 3584)
    return 20 + (uint32_t)((size - 2049) / 512);
  return 23 + (uint32_t)((size - 1) / 4096);
}

static uint32_t shm_class_size(uint32_t class)
{
  CHI_ASSERT(class < SHM_CLASSES);
  if (class < 16)
    return (class + 1) * 64;
  if (class < 20)
    return 1024 + (class - 15) * 256;
  if (class < 23)
    return 2048 + (class - 19) * 512;
  return (class - 22) * 4096;
}

/* For slots of that size: n * inverse >> 20 is the slot in which line n of a span lies, without a
 * division; exact for n below 1024, a span's worth of lines. */
static uint32_t shm_inverse(uint32_t size)
{
  uint32_t lines = size / 64;
  return ((1u << 20) + lines - 1) / lines;
}

void shm_arena_init(struct shm_arena *a, const struct alloc *alloc, enum shm_kind kind,
                    const struct shm_source *source)
{
  *a = (struct shm_arena){.alloc = alloc, .source = *source, .kind = kind};
}

void shm_arena_fini(struct shm_arena *a)
{
  for (uint32_t i = 0; i < a->lease_count; i++)
    alloc_put(a->alloc, a->lease[i], sizeof *a->lease[i]);
  alloc_put(a->alloc, a->lease, a->lease_room * sizeof(struct shm_lease *));
  a->lease = NULL;
  a->lease_count = a->lease_room = a->idle = 0;
  a->last = NULL;
  a->fresh_at = NULL;
  memset(a->partial, 0, sizeof a->partial);
}

void shm_arena_give_back(struct shm_arena *a)
{
  for (uint32_t i = 0; i < a->lease_count; i++)
    a->source.give_back(a->source.arg, a->lease[i]->chunk);
  shm_arena_fini(a);
}

static void shm_partial_add(struct shm_arena *a, struct shm_span *s)
{
  s->prev = NULL;
  s->next = a->partial[s->class];
  if (s->next)
    s->next->prev = s;
  a->partial[s->class] = s;
}

static void shm_partial_drop(struct shm_arena *a, struct shm_span *s)
{
  if (s->prev)
    s->prev->next = s->next;
  else
    a->partial[s->class] = s->next;
  if (s->next)
    s->next->prev = s->prev;
}

/* Room for one more in the sorted list of leases. */
static int shm_lease_room(struct shm_arena *a)
{
  if (a->lease_count < a->lease_room)
    return CHI_OK;
  uint32_t room = a->lease_room ? a->lease_room * 2 : 8;
  struct shm_lease **bigger = alloc_get(a->alloc, room * sizeof *bigger);
  if (!bigger)
    return CHI_ENOMEM;
  if (a->lease_count)
    memcpy(bigger, a->lease, a->lease_count * sizeof *bigger);
  alloc_put(a->alloc, a->lease, a->lease_room * sizeof *bigger);
  a->lease = bigger;
  a->lease_room = room;
  return CHI_OK;
}

static int shm_lease_add(struct shm_arena *a, uint64_t size, struct shm_lease **out)
{
  int rc = shm_lease_room(a);
  struct shm_lease *l = rc == CHI_OK ? alloc_zero(a->alloc, sizeof *l) : NULL;
  if (!l)
    return CHI_ENOMEM;
  void *base = NULL;
  rc = a->source.lease(a->source.arg, a->kind, size, &base, &l->chunk);
  if (rc != CHI_OK) {
    alloc_put(a->alloc, l, sizeof *l);
    return rc;
  }
  l->base = base;
  l->size = size;
  l->vacant_spans = UINT32_MAX;
  for (uint32_t i = 0; i < SHM_SPANS; i++) {
    l->span[i].lease = l;
    l->span[i].index = (uint8_t)i;
    l->span[i].class = SHM_CLASS_NONE;
  }
  uint32_t at = a->lease_count++;
  for (; at > 0 && a->lease[at - 1]->base > l->base; at--)
    a->lease[at] = a->lease[at - 1];
  a->lease[at] = l;
  a->idle++;
  *out = l;
  return CHI_OK;
}

static void shm_lease_drop(struct shm_arena *a, struct shm_lease *l)
{
  uint32_t at = 0;
  while (a->lease[at] != l)
    at++;
  a->lease_count--;
  for (; at < a->lease_count; at++)
    a->lease[at] = a->lease[at + 1];
  if (a->last == l)
    a->last = NULL;
  a->idle--;
  a->source.give_back(a->source.arg, l->chunk);
  alloc_put(a->alloc, l, sizeof *l);
}

static void shm_spans_take(struct shm_arena *a, struct shm_lease *l, uint32_t first, uint32_t n)
{
  a->idle -= l->used_spans == l->open_spans;
  uint32_t mask = n == SHM_SPANS ? UINT32_MAX : ((1u << n) - 1) << first;
  CHI_ASSERT((l->vacant_spans & mask) == mask);
  l->vacant_spans &= ~mask;
  l->used_spans += n;
}

static bool shm_span_is_open(const struct shm_span *s)
{
  return s->class < SHM_CLASSES && s->free == s->slots;
}

static void shm_lease_sweep(struct shm_arena *a, struct shm_lease *l)
{
  for (uint32_t i = 0; i < SHM_SPANS && l->open_spans > 0; i++) {
    struct shm_span *s = &l->span[i];
    if (!shm_span_is_open(s))
      continue;
    shm_partial_drop(a, s);
    s->class = SHM_CLASS_NONE;
    l->vacant_spans |= 1u << i;
    l->used_spans--;
    l->open_spans--;
  }
  CHI_ASSERT(l->open_spans == 0);
}

/* One lease with nothing in use is kept, so that a program at the edge does not lease and return
 * a chunk for every task; a further one, and any oversized one, goes back. */
static void shm_lease_rest(struct shm_arena *a, struct shm_lease *l)
{
  CHI_ASSERT(l->used_spans == l->open_spans);
  a->idle++;
  if (a->idle > 1 || l->size > SHM_CHUNK_SIZE) {
    shm_lease_sweep(a, l);
    shm_lease_drop(a, l);
  }
}

static void shm_spans_give(struct shm_arena *a, struct shm_lease *l, uint32_t first, uint32_t n)
{
  uint32_t mask = n == SHM_SPANS ? UINT32_MAX : ((1u << n) - 1) << first;
  CHI_ASSERT((l->vacant_spans & mask) == 0 && l->used_spans >= n);
  l->vacant_spans |= mask;
  l->used_spans -= n;
  for (uint32_t i = first; i < first + n; i++)
    l->span[i].class = SHM_CLASS_NONE;
  if (l->used_spans == l->open_spans)
    shm_lease_rest(a, l);
}

/* First run of n free spans in a lease, or SHM_SPANS. */
static uint32_t shm_spans_find(const struct shm_lease *l, uint32_t n)
{
  if (l->size > SHM_CHUNK_SIZE)
    return SHM_SPANS;
  if (n == SHM_SPANS)
    return l->vacant_spans == UINT32_MAX ? 0 : SHM_SPANS;
  uint32_t mask = (1u << n) - 1;
  for (uint32_t first = 0; first + n <= SHM_SPANS; first++)
    if ((l->vacant_spans >> first & mask) == mask)
      return first;
  return SHM_SPANS;
}

/* n neighbouring spans of some lease, a new one if need be. */
static int shm_spans_get(struct shm_arena *a, uint32_t n, struct shm_span **out)
{
  struct shm_lease *l = NULL;
  uint32_t first = SHM_SPANS;
  for (uint32_t i = 0; i < a->lease_count && first == SHM_SPANS; i++) {
    l = a->lease[i];
    first = shm_spans_find(l, n);
  }
  for (uint32_t i = 0; i < a->lease_count && first == SHM_SPANS; i++) {
    l = a->lease[i];
    if (l->open_spans > 0)
      shm_lease_sweep(a, l);
    first = shm_spans_find(l, n);
  }
  if (first == SHM_SPANS) {
    int rc = shm_lease_add(a, SHM_CHUNK_SIZE, &l);
    if (rc != CHI_OK)
      return rc;
    first = 0;
  }
  shm_spans_take(a, l, first, n);
  *out = &l->span[first];
  return CHI_OK;
}

static char *shm_span_base(const struct shm_span *s)
{
  return s->lease->base + (uint64_t)s->index * SHM_SPAN_SIZE;
}

CHI_APART static int shm_span_open(struct shm_arena *a, uint32_t class)
{
  struct shm_span *s = NULL;
  int rc = shm_spans_get(a, 1, &s);
  if (rc != CHI_OK)
    return rc;
  s->class = (uint8_t)class;
  s->size = shm_class_size(class);
  s->inverse = shm_inverse(s->size);
  s->slots = s->free = (uint16_t)(SHM_SPAN_SIZE / s->size);
  for (uint32_t i = 0; i < SHM_WORDS; i++) {
    uint32_t left = s->slots > i * 64 ? s->slots - i * 64u : 0;
    s->vacant[i] = left >= 64 ? UINT64_MAX : (1ull << left) - 1;
  }
  s->lease->open_spans++;
  a->idle += s->lease->used_spans == s->lease->open_spans;
  shm_partial_add(a, s);
  return CHI_OK;
}

static int shm_small_get(struct shm_arena *a, uint32_t class, void **out, uint64_t *ref)
{
  struct shm_span *s = a->partial[class];
  if (!s) {
    int rc = shm_span_open(a, class);
    if (rc != CHI_OK)
      return rc;
    s = a->partial[class];
  }
  uint32_t word = 0;
  while (s->vacant[word] == 0)
    word++;
  uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(s->vacant[word]);
  CHI_ASSERT(slot < s->slots);
  s->vacant[word] &= s->vacant[word] - 1;
  if (s->free == s->slots) {
    a->idle -= s->lease->used_spans == s->lease->open_spans;
    s->lease->open_spans--;
  }
  if (--s->free == 0)
    shm_partial_drop(a, s);
  uint64_t offset = (uint64_t)s->index * SHM_SPAN_SIZE + (uint64_t)slot * s->size;
  a->used += s->size;
  a->fresh_at = *out = s->lease->base + offset;
  a->fresh_ref = *ref = shm_ref(s->lease->chunk, offset);
  a->fresh_room = s->size;
  return CHI_OK;
}

CHI_APART static int shm_large_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref)
{
  struct shm_span *s = NULL;
  uint32_t n = SHM_SPANS;
  if (size <= SHM_CHUNK_SIZE) {
    n = (uint32_t)((size + SHM_SPAN_SIZE - 1) / SHM_SPAN_SIZE);
    int rc = shm_spans_get(a, n, &s);
    if (rc != CHI_OK)
      return rc;
  } else {
    struct shm_lease *l = NULL;
    uint64_t whole = (size + SHM_CHUNK_SIZE - 1) / SHM_CHUNK_SIZE * SHM_CHUNK_SIZE;
    int rc = shm_lease_add(a, whole, &l);
    if (rc != CHI_OK)
      return rc;
    shm_spans_take(a, l, 0, n);
    s = &l->span[0];
  }
  s->class = SHM_CLASS_LARGE;
  s->spans = (uint16_t)n;
  for (uint32_t i = 1; i < n; i++)
    s[i].class = SHM_CLASS_REST;
  a->used += s->lease->size > SHM_CHUNK_SIZE ? s->lease->size : (uint64_t)n * SHM_SPAN_SIZE;
  *out = shm_span_base(s);
  *ref = shm_ref(s->lease->chunk, (uint64_t)s->index * SHM_SPAN_SIZE);
  return CHI_OK;
}

int shm_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref)
{
  if (size > SHM_SIZE_MAX)
    return CHI_ENOMEM;
  return size <= SHM_SMALL ? shm_small_get(a, shm_class(size), out, ref)
                           : shm_large_get(a, size, out, ref);
}

/* The lease that an address lies in, or NULL. */
CHI_APART static struct shm_lease *shm_lease_search(struct shm_arena *a, const char *p)
{
  uint32_t low = 0, high = a->lease_count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (a->lease[middle]->base <= p)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0)
    return NULL;
  struct shm_lease *l = a->lease[low - 1];
  if (p >= l->base + l->size)
    return NULL;
  a->last = l;
  return l;
}

/* The span and slot of an allocation that starts at p; NULL if none does. */
static inline struct shm_span *shm_locate(struct shm_arena *a, const void *p, uint32_t *slot)
{
  struct shm_lease *l = a->last;
  if (CHI_UNLIKELY(!l || (uintptr_t)p - (uintptr_t)l->base >= l->size))
    l = shm_lease_search(a, p);
  if (!l)
    return NULL;
  uint64_t offset = (uintptr_t)p - (uintptr_t)l->base;
  if (offset >= SHM_CHUNK_SIZE)
    return NULL;
  struct shm_span *s = &l->span[offset / SHM_SPAN_SIZE];
  uint32_t inside = (uint32_t)(offset % SHM_SPAN_SIZE);
  *slot = 0;
  if (CHI_UNLIKELY(s->class >= SHM_CLASSES))
    return s->class == SHM_CLASS_LARGE && inside == 0 ? s : NULL;
  uint32_t at = inside / 64 * s->inverse >> 20;
  if (at * s->size != inside || at >= s->slots || (s->vacant[at / 64] >> (at % 64) & 1))
    return NULL;
  *slot = at;
  return s;
}

/* All slots of a span are free. */
CHI_APART static void shm_span_rest(struct shm_arena *a, struct shm_span *s)
{
  struct shm_lease *l = s->lease;
  /* The last span of a class stays open: a task allocated and freed in turn costs no set-up. */
  if (a->partial[s->class] == s && !s->next) {
    l->open_spans++;
    if (l->used_spans == l->open_spans)
      shm_lease_rest(a, l);
    return;
  }
  shm_partial_drop(a, s);
  shm_spans_give(a, l, s->index, 1);
}

static void shm_large_put(struct shm_arena *a, struct shm_span *s)
{
  struct shm_lease *l = s->lease;
  a->used -= l->size > SHM_CHUNK_SIZE ? l->size : (uint64_t)s->spans * SHM_SPAN_SIZE;
  shm_spans_give(a, l, s->index, s->spans);
}

int shm_put(struct shm_arena *a, void *p)
{
  uint32_t slot = 0;
  struct shm_span *s = shm_locate(a, p, &slot);
  if (!s)
    return CHI_EINVAL;
  if (CHI_UNLIKELY(s->class == SHM_CLASS_LARGE)) {
    shm_large_put(a, s);
    return CHI_OK;
  }
  if (p == a->fresh_at)
    a->fresh_at = NULL;
  a->used -= s->size;
  s->vacant[slot / 64] |= 1ull << (slot % 64);
  if (CHI_UNLIKELY(s->free++ == 0))
    shm_partial_add(a, s);
  if (CHI_UNLIKELY(s->free == s->slots))
    shm_span_rest(a, s);
  return CHI_OK;
}

int shm_find(struct shm_arena *a, const void *p, uint64_t *ref, uint64_t *room)
{
  if (p == a->fresh_at && p) {
    *ref = a->fresh_ref;
    *room = a->fresh_room;
    return CHI_OK;
  }
  uint32_t slot = 0;
  struct shm_span *s = shm_locate(a, p, &slot);
  if (!s)
    return CHI_EINVAL;
  uint64_t offset = (uint64_t)((const char *)p - s->lease->base);
  *ref = shm_ref(s->lease->chunk, offset);
  if (s->class != SHM_CLASS_LARGE)
    *room = s->size;
  else
    *room = s->lease->size > SHM_CHUNK_SIZE ? s->lease->size : (uint64_t)s->spans * SHM_SPAN_SIZE;
  return CHI_OK;
}

#undef SHM_SLOTS_MAX
#undef SHM_WORDS
#undef SHM_CLASS_NONE
#undef SHM_CLASS_LARGE
#undef SHM_CLASS_REST
