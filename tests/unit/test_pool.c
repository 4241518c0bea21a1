/* test_pool.c - pools and their figures, snapshots of the pool table. */
#include "pool.h"
#include "scarce.h"
#include "task.h"
#include "test.h"

#include <stdlib.h>

static struct scarce pool_memory;
static const struct alloc pool_alloc = SCARCE_ALLOC(&pool_memory);

/* ---- a module */

CHI_TASK(pool_one, 10, CHI_NO_FIELDS)
CHI_TASK(pool_two, 11, CHI_NO_FIELDS)
#define POOL_PARAMS(X, T) X(T, IN, u64, a) X(T, IN, u32, b)
CHI_STRUCT(pool_params, POOL_PARAMS)

static int pool_run(chi_ctx *ctx, void *self, void *task)
{
  (void)ctx, (void)self, (void)task;
  return CHI_OK;
}

static const chi_method pool_methods[] = {{&pool_one_type, pool_run, 0, 0},
                                          {&pool_two_type, pool_run, 0, 0},
                                          {0, 0, 0, 0}};
static const chi_module pool_module = {.version = CHI_MODULE_VERSION,
                                       .name = "pool",
                                       .state_size = 24,
                                       .params = &pool_params_type,
                                       .methods = pool_methods};
static const chi_module pool_small = {.version = CHI_MODULE_VERSION,
                                      .flags = CHI_MODULE_PARALLEL,
                                      .name = "small",
                                      .methods = pool_methods};

static struct module_list pool_list(void)
{
  static struct module_list l;
  pool_memory = (struct scarce){.fail_at = -1};
  l = (struct module_list){.alloc = &pool_alloc};
  if (module_add(&l, &pool_module, NULL) != CHI_OK || module_add(&l, &pool_small, NULL) != CHI_OK)
    abort();
  return l;
}

static bool pool_all_free(struct module_list *l)
{
  module_free_all(l);
  return pool_memory.blocks == 0 && pool_memory.bytes == 0;
}

/* ---- life */

TEST(pool_open_and_close)
{
  struct module_list l = pool_list();
  struct pool *p = NULL;
  CHECK_INT(pool_open(&pool_alloc, 3, (chi_pool_id){300, 1}, "name", module_find(&l, "pool"), 1,
                      0, &p),
            CHI_OK);
  CHECK_STR(p->name, "name");
  CHECK(p->id.major == 300 && p->id.minor == 1 && p->state == POOL_CREATING && !p->doomed);
  CHECK(p->container.pool == p && !p->container.parallel && p->container.state && p->params);
  for (uint32_t i = 0; i < 24; i++)
    CHECK(((char *)p->container.state)[i] == 0);
  CHECK_INT(pool_active(p), 0);
  pool_close(&pool_alloc, p);
  /* Neither state nor parameters. */
  CHECK_INT(pool_open(&pool_alloc, 1, (chi_pool_id){1, 1}, "", module_find(&l, "small"), 1, 0, &p),
            CHI_OK);
  CHECK(p->container.parallel && p->container.state && !p->params && p->name[0] == '\0');
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

TEST(pool_name_is_cut)
{
  struct module_list l = pool_list();
  static char name[CHI_PATH_MAX + 100];
  struct pool *p = NULL;
  memset(name, 'n', sizeof name - 1);
  CHECK_INT(pool_open(&pool_alloc, 1, (chi_pool_id){1, 1}, name, module_find(&l, "small"), 1, 0,
                      &p),
            CHI_OK);
  CHECK_INT(strlen(p->name), CHI_PATH_MAX - 1);
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

TEST(pool_open_survives_every_failed_allocation)
{
  struct module_list l = pool_list();
  int failures = 0;
  for (int at = 0;; at++) {
    struct pool *p = NULL;
    int64_t bytes = pool_memory.bytes;
    pool_memory.fail_at = at;
    int rc = pool_open(&pool_alloc, 2, (chi_pool_id){1, 0}, "x", module_find(&l, "pool"), 1, 0, &p);
    pool_memory.fail_at = -1;
    if (rc == CHI_OK) {
      pool_close(&pool_alloc, p);
      break;
    }
    CHECK_INT(rc, CHI_ENOMEM);
    CHECK(pool_memory.bytes == bytes);
    failures++;
  }
  CHECK(failures >= 4);
  CHECK(pool_all_free(&l));
}

/* Containers on nodes 0 .. 3; this is node 2. */
TEST(pool_containers_move)
{
  struct module_list l = pool_list();
  struct pool *p = NULL;
  struct container *c = NULL;
  CHECK_INT(pool_open(&pool_alloc, 2, (chi_pool_id){1, 0}, "x", module_find(&l, "pool"), 4, 2, &p),
            CHI_OK);
  const struct pool_map *first = p->map;
  for (uint32_t i = 0; i < 4; i++)
    CHECK(first->at[i].node == i && (first->at[i].here == &p->container) == (i == 2));
  CHECK_INT(p->container.index, 2);
  CHECK_INT(pool_move(&pool_alloc, p, 2, 0, NULL), CHI_OK);
  CHECK_INT(pool_container_open(&pool_alloc, p, 3, &c), CHI_OK);
  CHECK(c->pool == p && c->index == 3 && c->state && !c->parallel);
  CHECK_INT(pool_move(&pool_alloc, p, 3, 2, c), CHI_OK);
  CHECK(p->map->at[2].node == 0 && !p->map->at[2].here);
  CHECK(p->map->at[3].node == 2 && p->map->at[3].here == c);
  CHECK(first->at[2].here == &p->container); /* who has the former map goes on with it */
  c->tally[1].active = 5;
  p->container.tally[0].active = 2;
  CHECK_INT(pool_container_active(c), 5);
  CHECK_INT(pool_active(p), 7);
  pool_count(&pool_alloc, c, 1, &p->module->method[0], CHI_OK, 100);
  pool_count(&pool_alloc, &p->container, 0, &p->module->method[0], CHI_OK, 0);
  struct pool_figures f;
  pool_figures_sum(p, 0, &f);
  CHECK_INT(f.count, 2);
  pool_container_close(&pool_alloc, c);
  CHECK(!p->more);
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

TEST(pool_moves_survive_every_failed_allocation)
{
  struct module_list l = pool_list();
  struct pool *p = NULL;
  struct container *c = NULL;
  CHECK_INT(pool_open(&pool_alloc, 2, (chi_pool_id){1, 0}, "x", module_find(&l, "pool"), 2, 0, &p),
            CHI_OK);
  const struct pool_map *map = p->map;
  pool_memory.fail_at = 0;
  CHECK_INT(pool_move(&pool_alloc, p, 0, 1, NULL), CHI_ENOMEM);
  CHECK(p->map == map);
  for (int at = 0; at < 3; at++) {
    pool_memory.fail_at = at;
    CHECK_INT(pool_container_open(&pool_alloc, p, 1, &c), CHI_ENOMEM);
    CHECK(!p->more);
  }
  pool_memory.fail_at = -1;
  pool_close(&pool_alloc, p); /* with one that is still there */
  CHECK(pool_all_free(&l));
}

TEST(pool_parks_in_order)
{
  struct module_list l = pool_list();
  struct pool *p = NULL;
  struct ring_node n[3] = {{0}};
  CHECK_INT(pool_open(&pool_alloc, 1, (chi_pool_id){1, 0}, "x", module_find(&l, "pool"), 1, 0, &p),
            CHI_OK);
  for (int i = 0; i < 3; i++) {
    n[i].next = &n[0];
    pool_park(p, &n[i]);
  }
  struct ring_node *at = p->parked;
  for (int i = 0; i < 3; i++, at = at->next)
    CHECK(at == &n[i]);
  CHECK(at == NULL);
  p->parked = NULL;
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

/* ---- snapshots */

#define POOL_MANY 500u

TEST(pool_table_finds_every_pool)
{
  static struct pool pools[POOL_MANY];
  pool_memory = (struct scarce){.fail_at = -1};
  for (uint32_t count = 0; count <= POOL_MANY; count = count * 2 + 1) {
    for (uint32_t i = 0; i < count; i++)
      pools[i] = (struct pool){.next = i + 1 < count ? &pools[i + 1] : NULL,
                               .id = {i % 3 ? 300 : i, i},
                               .state = (enum pool_state)(i % 4)};
    struct pool_table *t = pool_table_build(&pool_alloc, count ? &pools[0] : NULL, 40 + count);
    CHECK(t && t->version == 40 + count && t->users == 0);
    for (uint32_t i = 0; i < count; i++) {
      const struct pool_entry *e = pool_table_find(t, pools[i].id);
      CHECK(e && e->pool == &pools[i] && e->state == (enum pool_state)(i % 4));
      CHECK(pool_id_equal(e->id, pools[i].id));
      pools[i].state = POOL_FAILED; /* a snapshot doesn't change */
      CHECK(e->state == (enum pool_state)(i % 4));
    }
    for (uint32_t i = 0; i < 100; i++)
      CHECK(pool_table_find(t, (chi_pool_id){77777, i}) == NULL);
    CHECK(pool_table_find(t, (chi_pool_id){300, POOL_MANY}) == NULL);
    pool_table_free(&pool_alloc, t);
  }
  CHECK(pool_memory.blocks == 0 && pool_memory.bytes == 0);
}

TEST(pool_table_without_memory)
{
  pool_memory = (struct scarce){.fail_at = 0};
  CHECK(pool_table_build(&pool_alloc, NULL, 1) == NULL);
  CHECK(pool_memory.blocks == 0);
}

/* ---- figures */

TEST(pool_figures_are_summed)
{
  struct module_list l = pool_list();
  struct module *module = module_find(&l, "pool");
  struct pool *p = NULL;
  struct pool_figures f;
  CHECK_INT(pool_open(&pool_alloc, 3, (chi_pool_id){1, 0}, "x", module, 1, 0, &p), CHI_OK);
  struct container *c = &p->container;
  pool_figures_sum(p, 1, &f);
  CHECK(f.count == 0 && f.errors == 0 && f.sampled == 0 && pool_percentile(&f, 99) == 0);
  pool_count(&pool_alloc, c, 0, &module->method[1], CHI_OK, 0);
  pool_count(&pool_alloc, c, 0, &module->method[1], CHI_EIO, 100);
  pool_count(&pool_alloc, c, 2, &module->method[1], 5, 1000);
  pool_count(&pool_alloc, c, 2, &module->method[0], CHI_OK, 7);
  pool_figures_sum(p, 1, &f);
  CHECK(f.count == 3 && f.errors == 2 && f.sampled == 2 && f.sampled_ns == 1100);
  pool_figures_sum(p, 0, &f);
  CHECK(f.count == 1 && f.errors == 0 && f.sampled == 1 && f.sampled_ns == 7);
  struct method alone = {.index = METHOD_UNCOUNTED};
  pool_count(&pool_alloc, c, 1, &alone, CHI_EIO, 5);
  CHECK(c->tally[1].figures == NULL);
  pool_memory.fail_at = 0; /* figures are not worth failing for */
  pool_count(&pool_alloc, c, 1, &module->method[0], CHI_OK, 5);
  pool_figures_sum(p, 0, &f);
  CHECK_INT(f.count, 1);
  c->tally[0].active = 3;
  c->tally[2].active = (uint64_t)-2; /* accepted there, ended here */
  CHECK_INT(pool_active(p), 1);
  c->tally[0].active = c->tally[2].active = 0;
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

/* The bucket that a run of ns nanoseconds is counted in. */
static uint32_t pool_bucket_of(struct container *c, const struct method *m, uint64_t ns)
{
  struct pool_figures before, after;
  uint32_t bucket = POOL_BUCKETS;
  pool_figures_sum(c->pool, m->index, &before);
  pool_count(&pool_alloc, c, 0, m, CHI_OK, ns);
  pool_figures_sum(c->pool, m->index, &after);
  for (uint32_t b = 0; b < POOL_BUCKETS; b++)
    if (after.bucket[b] != before.bucket[b])
      bucket = b;
  return bucket;
}

TEST(pool_buckets_cover_all_times)
{
  struct module_list l = pool_list();
  struct module *module = module_find(&l, "pool");
  struct pool *p = NULL;
  CHECK_INT(pool_open(&pool_alloc, 1, (chi_pool_id){1, 0}, "x", module, 1, 0, &p), CHI_OK);
  for (uint32_t b = 1; b < POOL_BUCKETS; b++)
    CHECK(pool_bucket_end(b) > pool_bucket_end(b - 1));
  for (uint64_t ns = 1; ns < (1ull << 62); ns += ns / 7 + 1) {
    uint32_t b = pool_bucket_of(&p->container, &module->method[0], ns);
    CHECK(b < POOL_BUCKETS);
    CHECK(ns < pool_bucket_end(b) || b == POOL_BUCKETS - 1);
    CHECK(b == 0 || ns >= pool_bucket_end(b - 1));
  }
  CHECK_INT(pool_bucket_of(&p->container, &module->method[0], UINT64_MAX), POOL_BUCKETS - 1);
  pool_close(&pool_alloc, p);
  CHECK(pool_all_free(&l));
}

TEST(pool_percentiles)
{
  struct pool_figures f = {0};
  f.bucket[2] = 90;
  f.bucket[5] = 9;
  f.bucket[9] = 1;
  CHECK_INT(pool_percentile(&f, 1), pool_bucket_end(2));
  CHECK_INT(pool_percentile(&f, 50), pool_bucket_end(2));
  CHECK_INT(pool_percentile(&f, 90), pool_bucket_end(2));
  CHECK_INT(pool_percentile(&f, 91), pool_bucket_end(5));
  CHECK_INT(pool_percentile(&f, 99), pool_bucket_end(5));
  CHECK_INT(pool_percentile(&f, 100), pool_bucket_end(9));
}
