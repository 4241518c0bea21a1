/* test_shm.c - places in shared memory, and the arena against a naive model. */
#include "rng.h"
#include "scarce.h"
#include "shm.h"
#include "test.h"

#include <stdlib.h>

/* ---- places */

TEST(shm_resolve_finds_what_was_published)
{
  static char memory[256] __attribute__((aligned(64)));
  struct shm_chunk chunk[3] = {{0}};
  const struct shm_table t = {chunk, 3};
  struct shm_table *mine = (struct shm_table *)(uintptr_t)&t;
  CHECK(shm_resolve(&t, shm_ref(1, 0), 8) == NULL);
  shm_publish(mine, 1, memory, sizeof memory);
  CHECK(shm_resolve(&t, shm_ref(1, 0), 8) == memory);
  CHECK(shm_resolve(&t, shm_ref(1, 248), 8) == memory + 248);
  CHECK(shm_resolve(&t, shm_ref(1, 0), sizeof memory) == memory);
  CHECK(shm_resolve(&t, shm_ref(1, 256), 0) == memory + 256);
}

TEST(shm_resolve_refuses_all_else)
{
  static char memory[256] __attribute__((aligned(64)));
  struct shm_chunk chunk[3] = {{0}};
  struct shm_table t = {chunk, 3};
  shm_publish(&t, 1, memory, sizeof memory);
  CHECK(shm_resolve(&t, 0, 0) == NULL);                         /* the null place */
  CHECK(shm_resolve(&t, 8, 8) == NULL);                         /* no chunk */
  CHECK(shm_resolve(&t, shm_ref(0, 0), 0) == NULL);             /* a chunk that isn't there */
  CHECK(shm_resolve(&t, shm_ref(2, 0), 0) == NULL);
  CHECK(shm_resolve(&t, shm_ref(3, 0), 0) == NULL);             /* beyond the table */
  CHECK(shm_resolve(&t, UINT64_MAX & ~7ull, 8) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, 4), 8) == NULL);             /* not aligned */
  CHECK(shm_resolve(&t, shm_ref(1, 249), 1) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, 248), 9) == NULL);           /* over the end */
  CHECK(shm_resolve(&t, shm_ref(1, 0), 257) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, 256), 1) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, 264), 0) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, 8), UINT64_MAX) == NULL);    /* wraps around */
  CHECK(shm_resolve(&t, shm_ref(1, 8), UINT64_MAX - 7) == NULL);
  CHECK(shm_resolve(&t, shm_ref(1, (1ull << 40) - 8), 8) == NULL);
}

/* ---- where the arena gets its chunks, and its own memory */

#define LEASES 64u

struct lessor {
  char *base[LEASES];
  uint64_t size[LEASES];
  uint32_t out, most; /* leased now; at most so many */
  uint32_t leases;    /* so far */
  int rc;             /* what a lease fails with; 0: it doesn't */
  enum shm_kind kind;
  struct scarce memory;
  struct alloc alloc;
  struct shm_source source;
  struct shm_chunk chunk[LEASES];
  struct shm_table table;
};

static int lessor_lease(void *arg, enum shm_kind kind, uint64_t size, void **base, uint32_t *chunk)
{
  struct lessor *l = arg;
  if (l->rc != 0)
    return l->rc;
  if (kind != l->kind || size == 0 || size % SHM_CHUNK_SIZE != 0 || l->out == l->most)
    return CHI_ENOMEM;
  uint32_t n = 0;
  while (l->base[n])
    n++;
  if (posix_memalign((void **)&l->base[n], 4096, size) != 0)
    return CHI_ENOMEM;
  l->size[n] = size;
  l->out++;
  l->leases++;
  shm_publish(&l->table, n, l->base[n], size);
  *base = l->base[n];
  *chunk = n;
  return CHI_OK;
}

static void lessor_give_back(void *arg, uint32_t chunk)
{
  struct lessor *l = arg;
  free(l->base[chunk]);
  shm_publish(&l->table, chunk, NULL, 0);
  l->base[chunk] = NULL;
  l->out--;
}

static void lessor_open(struct lessor *l, struct shm_arena *a)
{
  memset(l, 0, sizeof *l);
  l->most = LEASES;
  l->kind = SHM_CLIENT_DATA;
  l->memory.fail_at = -1;
  l->alloc = (struct alloc)SCARCE_ALLOC(&l->memory);
  l->source = (struct shm_source){lessor_lease, lessor_give_back, l};
  l->table = (struct shm_table){l->chunk, LEASES};
  shm_arena_init(a, &l->alloc, SHM_CLIENT_DATA, &l->source);
}

/* Everything has been given back: chunks and private memory. */
static bool lessor_close(struct lessor *l, struct shm_arena *a)
{
  shm_arena_give_back(a);
  return l->out == 0 && l->memory.blocks == 0 && l->memory.bytes == 0;
}

/* ---- the arena, size by size */

TEST(shm_arena_every_size)
{
  static struct lessor l;
  struct shm_arena a;
  lessor_open(&l, &a);
  for (uint64_t size = 0; size <= 300000; size += size < 5000 ? 1 : size < 40000 ? 61 : 4093) {
    void *p = NULL;
    uint64_t ref = 0, found = 0, room = 0;
    CHECK_INT(shm_get(&a, size, &p, &ref), CHI_OK);
    CHECK((uintptr_t)p % 64 == 0);
    CHECK(size < 4096 || (uintptr_t)p % 4096 == 0);
    CHECK(shm_resolve(&l.table, ref, size) == p);
    CHECK_INT(shm_find(&a, p, &found, &room), CHI_OK);
    CHECK(found == ref && room >= size);
    CHECK(shm_resolve(&l.table, ref, room) == p);
    /* What is wasted is bounded. */
    CHECK(room <= size + 64 || room <= size + size / 4 || room <= size + 4096 ||
          (size > SHM_SMALL && room <= size + SHM_SPAN_SIZE));
    CHECK_INT(a.used, room);
    memset(p, 0x5a, room);
    CHECK_INT(shm_put(&a, p), CHI_OK);
    CHECK_INT(a.used, 0);
  }
  CHECK_INT(l.leases, 1); /* all fitted in one chunk, which was kept */
  CHECK(lessor_close(&l, &a));
}

TEST(shm_arena_oversized)
{
  static struct lessor l;
  struct shm_arena a;
  void *p[3];
  uint64_t ref[3], found = 0, room = 0;
  lessor_open(&l, &a);
  CHECK_INT(shm_get(&a, SHM_CHUNK_SIZE, &p[0], &ref[0]), CHI_OK);
  CHECK_INT(shm_get(&a, SHM_CHUNK_SIZE + 1, &p[1], &ref[1]), CHI_OK);
  CHECK_INT(shm_get(&a, 5 * SHM_CHUNK_SIZE, &p[2], &ref[2]), CHI_OK);
  CHECK_INT(l.out, 3);
  CHECK_INT(a.used, 8 * (uint64_t)SHM_CHUNK_SIZE);
  CHECK_INT(shm_find(&a, p[1], &found, &room), CHI_OK);
  CHECK(found == ref[1] && room == 2 * SHM_CHUNK_SIZE);
  CHECK(shm_resolve(&l.table, ref[2], 5 * SHM_CHUNK_SIZE) == p[2]);
  /* Nothing inside is the start of an allocation, also beyond the first chunk's worth. */
  CHECK_INT(shm_put(&a, (char *)p[2] + SHM_SPAN_SIZE), CHI_EINVAL);
  CHECK_INT(shm_put(&a, (char *)p[2] + 2 * SHM_CHUNK_SIZE), CHI_EINVAL);
  CHECK_INT(shm_put(&a, p[2]), CHI_OK);
  CHECK_INT(l.out, 2); /* an oversized one goes back at once */
  CHECK_INT(shm_put(&a, p[2]), CHI_EINVAL);
  CHECK_INT(shm_put(&a, p[0]), CHI_OK);
  CHECK_INT(l.out, 2); /* one with nothing in use is kept */
  CHECK_INT(shm_put(&a, p[1]), CHI_OK);
  CHECK_INT(l.out, 1);
  CHECK_INT(shm_get(&a, SHM_SIZE_MAX + 1, &p[0], &ref[0]), CHI_ENOMEM);
  CHECK_INT(shm_get(&a, UINT64_MAX, &p[0], &ref[0]), CHI_ENOMEM);
  CHECK(lessor_close(&l, &a));
}

/* Many chunks, all of them full of one class; when all is free again, one is kept. */
static void shm_arena_fill(uint64_t size, uint32_t count)
{
  static struct lessor l;
  static void *p[80000];
  struct shm_arena a;
  uint64_t ref;
  CHECK(count <= sizeof p / sizeof p[0]);
  lessor_open(&l, &a);
  for (uint32_t i = 0; i < count; i++)
    CHECK_INT(shm_get(&a, size, &p[i], &ref), CHI_OK);
  CHECK(l.out > 2);
  uint32_t most = l.out;
  for (uint32_t i = 0; i < count; i++)
    CHECK_INT(shm_put(&a, p[(i * 7919ull) % count]), CHI_OK);
  CHECK_INT(a.used, 0);
  CHECK_INT(l.out, 1);
  /* And it is all there to be used again. */
  for (uint32_t i = 0; i < count; i++)
    CHECK_INT(shm_get(&a, size, &p[i], &ref), CHI_OK);
  CHECK_INT(l.out, most);
  CHECK(lessor_close(&l, &a));
}

TEST(shm_arena_gives_chunks_back_64)
{
  shm_arena_fill(64, 79997);
}

TEST(shm_arena_gives_chunks_back_4096)
{
  shm_arena_fill(4096, 2999);
}

TEST(shm_arena_gives_chunks_back_20480)
{
  shm_arena_fill(20000, 499);
}

TEST(shm_arena_gives_chunks_back_spans)
{
  shm_arena_fill(100000, 101);
}

/* Spans that stay open for their class hold no chunk that has nothing else in it. */
TEST(shm_arena_open_spans_hold_nothing)
{
  static struct lessor l;
  static void *p[2000];
  struct shm_arena a;
  uint64_t ref;
  uint32_t count = 0;
  lessor_open(&l, &a);
  for (uint64_t size = 64; size <= SHM_SMALL; size += size < 4096 ? 64 : 4096)
    for (uint32_t i = 0; i < SHM_CHUNK_SIZE / SHM_SMALL / 4; i++)
      CHECK_INT(shm_get(&a, size, &p[count++], &ref), CHI_OK);
  CHECK(l.out >= 3);
  for (uint32_t i = 0; i < count; i++)
    CHECK_INT(shm_put(&a, p[(i * 7919ull) % count]), CHI_OK);
  CHECK_INT(a.used, 0);
  CHECK_INT(l.out, 1);
  /* The one that is kept has room for anything, whatever was open in it. */
  CHECK_INT(shm_get(&a, SHM_CHUNK_SIZE, &p[0], &ref), CHI_OK);
  CHECK_INT(l.out, 1);
  CHECK(lessor_close(&l, &a));
}

/* A task allocated and freed in turn costs no lease, at whatever edge the program stands. */
TEST(shm_arena_does_not_flutter)
{
  static struct lessor l;
  struct shm_arena a;
  static void *p[40];
  void *more = NULL;
  uint64_t ref;
  lessor_open(&l, &a);
  for (uint32_t i = 0; i < 32; i++)
    CHECK_INT(shm_get(&a, SHM_SPAN_SIZE, &p[i], &ref), CHI_OK);
  CHECK_INT(l.leases, 1);
  for (uint32_t i = 0; i < 1000; i++) {
    CHECK_INT(shm_get(&a, i % 2 ? 64 : SHM_CHUNK_SIZE, &more, &ref), CHI_OK);
    CHECK_INT(shm_put(&a, more), CHI_OK);
  }
  CHECK_INT(l.leases, 2);
  CHECK_INT(l.out, 2);
  CHECK(lessor_close(&l, &a));
}

/* ---- what fails */

TEST(shm_arena_refuses_foreign_pointers)
{
  static struct lessor l;
  struct shm_arena a;
  char mine[64];
  void *p = NULL, *q = NULL, *large = NULL;
  uint64_t ref = 0, room = 0;
  lessor_open(&l, &a);
  CHECK_INT(shm_put(&a, mine), CHI_EINVAL);
  CHECK_INT(shm_put(&a, NULL), CHI_EINVAL);
  CHECK_INT(shm_get(&a, 192, &p, &ref), CHI_OK);
  CHECK_INT(shm_get(&a, 192, &q, &ref), CHI_OK);
  CHECK_INT(shm_get(&a, 3 * SHM_SPAN_SIZE, &large, &ref), CHI_OK);
  uint64_t used = a.used;
  const void *wrong[] = {NULL,
                         mine,
                         (char *)p + 1,
                         (char *)p + 64,
                         (char *)p - 64,
                         (char *)q + 192, /* never given out */
                         (char *)large + 64,
                         (char *)large + SHM_SPAN_SIZE,
                         (char *)large + 3 * SHM_SPAN_SIZE, /* a span that is free */
                         l.base[0] + SHM_CHUNK_SIZE,
                         l.base[0] - 1,
                         (char *)UINTPTR_MAX};
  for (uint32_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    CHECK_INT(shm_put(&a, (void *)(uintptr_t)wrong[i]), CHI_EINVAL);
    CHECK_INT(shm_find(&a, wrong[i], &ref, &room), CHI_EINVAL);
  }
  CHECK_INT(shm_put(&a, p), CHI_OK);
  CHECK_INT(shm_put(&a, p), CHI_EINVAL); /* twice */
  CHECK_INT(shm_find(&a, p, &ref, &room), CHI_EINVAL);
  CHECK_INT(a.used, used - 192);
  CHECK_INT(shm_put(&a, large), CHI_OK);
  CHECK_INT(shm_put(&a, large), CHI_EINVAL);
  CHECK_INT(shm_put(&a, q), CHI_OK);
  CHECK_INT(a.used, 0);
  CHECK(lessor_close(&l, &a));
}

TEST(shm_arena_passes_on_why_there_is_no_chunk)
{
  static struct lessor l;
  struct shm_arena a;
  void *p = NULL;
  uint64_t ref = 0;
  lessor_open(&l, &a);
  const uint64_t size[] = {64, 4096, SHM_SPAN_SIZE, SHM_CHUNK_SIZE, 3 * SHM_CHUNK_SIZE};
  for (uint32_t i = 0; i < 5; i++) {
    l.rc = CHI_ESHUTDOWN;
    CHECK_INT(shm_get(&a, size[i], &p, &ref), CHI_ESHUTDOWN);
    l.rc = CHI_ENOMEM;
    CHECK_INT(shm_get(&a, size[i], &p, &ref), CHI_ENOMEM);
    CHECK(l.out == 0 && a.used == 0 && a.lease_count == 0);
  }
  l.rc = 0;
  CHECK_INT(shm_get(&a, 64, &p, &ref), CHI_OK);
  CHECK(lessor_close(&l, &a));
}

TEST(shm_arena_survives_every_failed_allocation)
{
  const uint64_t size[] = {64, 30000, SHM_CHUNK_SIZE, 2 * SHM_CHUNK_SIZE + 1};
  for (uint32_t i = 0; i < 4; i++) {
    int failures = 0;
    for (int at = 0;; at++) {
      static struct lessor l;
      struct shm_arena a;
      void *p[20];
      uint64_t ref = 0;
      lessor_open(&l, &a);
      l.memory.fail_at = at;
      int rc = CHI_OK, n = 0;
      while (rc == CHI_OK && n < 20)
        rc = shm_get(&a, i == 0 ? size[i] : SHM_CHUNK_SIZE, &p[n++], &ref);
      if (rc == CHI_OK)
        rc = shm_get(&a, size[i], &p[0], &ref);
      bool failed = l.memory.fail_at < 0;
      CHECK(!failed || rc == CHI_ENOMEM);
      l.memory.fail_at = -1;
      CHECK_INT(shm_get(&a, size[i], &p[0], &ref), CHI_OK); /* memory is back */
      CHECK_INT(l.out, a.lease_count);
      CHECK(lessor_close(&l, &a));
      if (!failed)
        break;
      failures++;
    }
    CHECK(failures >= 2);
  }
}

/* The chunks are dead, with the connection: nothing is given back. */
TEST(shm_arena_fini_forgets)
{
  static struct lessor l;
  struct shm_arena a;
  void *p = NULL;
  uint64_t ref = 0;
  lessor_open(&l, &a);
  CHECK_INT(shm_get(&a, 64, &p, &ref), CHI_OK);
  shm_arena_fini(&a);
  CHECK(l.out == 1 && l.memory.blocks == 0 && l.memory.bytes == 0);
  CHECK_INT(shm_put(&a, p), CHI_EINVAL);
  lessor_give_back(&l, 0);
}

/* ---- against a naive model */

#define MODEL_MOST 3000u
#define MODEL_BYTES (48u << 20)

struct model {
  struct lessor lessor;
  struct shm_arena arena;
  struct rng rng;
  struct block {
    char *p;
    uint64_t ref, size, room;
    unsigned char mark;
  } block[MODEL_MOST];
  uint32_t count;
  uint64_t rooms, sizes;
};

static uint64_t model_size(struct model *m)
{
  switch (rng_below(&m->rng, 8)) {
  case 0:
    return rng_below(&m->rng, SHM_CHUNK_SIZE + SHM_SPAN_SIZE);
  case 1:
    return rng_below(&m->rng, SHM_SMALL + 100);
  case 2:
    return 64 * rng_below(&m->rng, 66);
  case 3:
    return SHM_SPAN_SIZE * (1 + rng_below(&m->rng, 4)) - rng_below(&m->rng, 2);
  default:
    return rng_below(&m->rng, 2000);
  }
}

/* Writes, or checks, the ends of a block and something in between: neighbours must not share. */
static bool model_paint(const struct block *b, bool check)
{
  uint64_t step = b->room > 65536 ? b->room / 64 : b->room > 1024 ? 512 : 64;
  bool good = true;
  for (uint64_t at = 0; at < b->room; at += step) {
    for (uint64_t i = at; i < at + 8; i++) {
      if (check)
        good = good && (unsigned char)b->p[i] == b->mark;
      else
        b->p[i] = (char)b->mark;
    }
  }
  if (check)
    good = good && (unsigned char)b->p[b->room - 1] == b->mark;
  else
    b->p[b->room - 1] = (char)b->mark;
  return good;
}

static void model_get(struct model *m)
{
  struct block *b = &m->block[m->count];
  void *p = NULL;
  *b = (struct block){.size = model_size(m)};
  CHECK_INT(shm_get(&m->arena, b->size, &p, &b->ref), CHI_OK);
  b->p = p;
  b->mark = (unsigned char)rng_next(&m->rng);
  uint64_t ref = 0;
  CHECK_INT(shm_find(&m->arena, p, &ref, &b->room), CHI_OK);
  CHECK(ref == b->ref && b->room >= b->size);
  CHECK(shm_resolve(&m->lessor.table, b->ref, b->room) == p);
  CHECK((uintptr_t)p % (b->size >= 4096 ? 4096 : 64) == 0);
  model_paint(b, false);
  m->rooms += b->room;
  m->sizes += b->size;
  m->count++;
}

static void model_put(struct model *m)
{
  uint32_t i = (uint32_t)rng_below(&m->rng, m->count);
  struct block b = m->block[i];
  CHECK(model_paint(&b, true));
  CHECK_INT(shm_put(&m->arena, b.p), CHI_OK);
  CHECK_INT(shm_put(&m->arena, b.p), CHI_EINVAL);
  m->rooms -= b.room;
  m->sizes -= b.size;
  m->block[i] = m->block[--m->count];
}

/* Somewhere in a block but not at its start; or in a block of nobody. */
static void model_put_wrong(struct model *m)
{
  const struct block *b = &m->block[rng_below(&m->rng, m->count)];
  uint64_t at = 1 + rng_below(&m->rng, b->room - 1);
  CHECK_INT(shm_put(&m->arena, b->p + at), CHI_EINVAL);
}

static void model_run(uint64_t seed)
{
  static struct model m;
  memset(&m, 0, sizeof m);
  lessor_open(&m.lessor, &m.arena);
  rng_seed(&m.rng, seed, 0, 0);
  for (uint32_t step = 0; step < 20000; step++) {
    bool grow = (step / 2500) % 2 == 0;
    bool room = m.count < MODEL_MOST && m.rooms < MODEL_BYTES;
    if (m.count == 0 || (room && rng_below(&m.rng, 10) < (grow ? 7 : 3)))
      model_get(&m);
    else
      model_put(&m);
    if (m.count > 0 && step % 7 == 0)
      model_put_wrong(&m);
    CHECK_INT(m.arena.used, m.rooms);
    CHECK_INT(m.lessor.out, m.arena.lease_count);
  }
  while (m.count > 0)
    model_put(&m);
  CHECK_INT(m.arena.used, 0);
  CHECK(m.lessor.out <= 1);
  CHECK(lessor_close(&m.lessor, &m.arena));
}

TEST(shm_arena_against_model)
{
  for (uint64_t seed = 1; seed <= 8; seed++)
    model_run(seed);
}
