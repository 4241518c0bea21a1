/* pool.c - pools, their containers and figures, and snapshots of the pool table. */
#include "pool.h"
#include "hash.h"

static size_t pool_map_size(uint32_t count)
{
  return sizeof(struct pool_map) + count * sizeof(((struct pool_map *)0)->at[0]);
}

static struct pool_map *pool_map_new(const struct alloc *alloc, struct pool *p, uint32_t containers)
{
  struct pool_map *map = alloc_zero(alloc, pool_map_size(containers));
  if (!map)
    return NULL;
  map->count = containers;
  map->next = p->maps;
  p->maps = p->map = map;
  return map;
}

static int pool_map_first(const struct alloc *alloc, struct pool *p, uint32_t containers,
                          uint32_t self)
{
  struct container *own = &p->container;
  struct pool_map *map = pool_map_new(alloc, p, containers);
  if (!map)
    return CHI_ENOMEM;
  for (uint32_t i = 0; i < containers; i++)
    map->at[i].node = i;
  own->index = containers == 1 ? 0 : self;
  map->at[own->index].node = self;
  map->at[own->index].here = own;
  return CHI_OK;
}

int pool_move(const struct alloc *alloc, struct pool *p, uint32_t index, uint32_t node,
              struct container *here)
{
  const struct pool_map *former = p->map;
  CHI_ASSERT(index < former->count && (!here || here->index == index));
  struct pool_map *map = pool_map_new(alloc, p, former->count);
  if (!map)
    return CHI_ENOMEM;
  memcpy(map->at, former->at, former->count * sizeof map->at[0]);
  map->at[index].node = node;
  map->at[index].here = here;
  return CHI_OK;
}

static int pool_container_init(const struct alloc *alloc, struct pool *p, struct container *c)
{
  const chi_module *def = p->module->def;
  c->pool = p;
  c->parallel = (def->flags & CHI_MODULE_PARALLEL) != 0;
  c->tally = alloc_zero(alloc, p->workers * sizeof *c->tally);
  c->state = alloc_zero(alloc, def->state_size ? def->state_size : 1);
  return c->tally && c->state ? CHI_OK : CHI_ENOMEM;
}

static void pool_container_fini(const struct alloc *alloc, struct container *c)
{
  const struct pool *p = c->pool;
  const chi_module *def = p->module->def;
  for (uint32_t w = 0; c->tally && w < p->workers; w++)
    alloc_put(alloc, c->tally[w].figures, p->module->count * sizeof(struct pool_figures));
  alloc_put(alloc, c->tally, p->workers * sizeof *c->tally);
  alloc_put(alloc, c->state, def->state_size ? def->state_size : 1);
}

int pool_container_open(const struct alloc *alloc, struct pool *p, uint32_t index,
                        struct container **out)
{
  struct container *c = alloc_zero(alloc, sizeof *c);
  if (!c)
    return CHI_ENOMEM;
  c->index = index;
  if (pool_container_init(alloc, p, c) != CHI_OK) {
    pool_container_fini(alloc, c);
    alloc_put(alloc, c, sizeof *c);
    return CHI_ENOMEM;
  }
  c->next = p->more;
  p->more = c;
  *out = c;
  return CHI_OK;
}

void pool_container_close(const struct alloc *alloc, struct container *c)
{
  struct container **at = &c->pool->more;
  while (*at != c) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = c->next;
  pool_container_fini(alloc, c);
  alloc_put(alloc, c, sizeof *c);
}

int pool_open(const struct alloc *alloc, uint32_t workers, chi_pool_id id, const char *name,
              struct module *module, uint32_t containers, uint32_t self, struct pool **out)
{
  CHI_ASSERT(containers > 0 && (containers == 1 || self < containers));
  const chi_module *def = module->def;
  struct pool *p = alloc_zero(alloc, sizeof *p);
  if (!p)
    return CHI_ENOMEM;
  p->id = id;
  p->module = module;
  p->state = POOL_CREATING;
  p->workers = workers;
  p->parked_end = &p->parked;
  memcpy(p->name, name, strnlen(name, sizeof p->name - 1));
  int rc = pool_container_init(alloc, p, &p->container);
  if (rc == CHI_OK)
    rc = pool_map_first(alloc, p, containers, self);
  p->params = def->params ? alloc_zero(alloc, def->params->size) : NULL;
  if (rc != CHI_OK || (def->params && !p->params)) {
    pool_close(alloc, p);
    return CHI_ENOMEM;
  }
  *out = p;
  return CHI_OK;
}

void pool_close(const struct alloc *alloc, struct pool *p)
{
  const chi_module *def = p->module->def;
  CHI_ASSERT(p->parked == NULL);
  while (p->more)
    pool_container_close(alloc, p->more);
  pool_container_fini(alloc, &p->container);
  if (p->params)
    alloc_put(alloc, p->params, def->params->size);
  while (p->maps) {
    struct pool_map *map = p->maps;
    p->maps = map->next;
    alloc_put(alloc, map, pool_map_size(map->count));
  }
  alloc_put(alloc, p, sizeof *p);
}

uint64_t pool_container_active(const struct container *c)
{
  uint64_t sum = 0;
  for (uint32_t w = 0; w < c->pool->workers; w++)
    sum += mark_get(&c->tally[w].active);
  return sum;
}

uint64_t pool_active(const struct pool *p)
{
  uint64_t sum = pool_container_active(&p->container) + tally_get(&p->calls);
  for (const struct container *c = p->more; c; c = c->next)
    sum += pool_container_active(c);
  return sum;
}

void pool_park(struct pool *p, struct ring_node *raw)
{
  raw->next = NULL;
  *p->parked_end = raw;
  p->parked_end = &raw->next;
}

static uint64_t pool_hash(chi_pool_id id)
{
  return hash_mix64(((uint64_t)id.major << 32) | id.minor);
}

struct pool_table *pool_table_build(const struct alloc *alloc, struct pool *first, uint64_t version)
{
  uint32_t count = 0, room = 8;
  for (struct pool *p = first; p; p = p->next)
    count++;
  while (room < count * 2)
    room *= 2;
  struct pool_table *t = alloc_zero(alloc, sizeof *t + room * sizeof t->slot[0]);
  if (!t)
    return NULL;
  t->version = version;
  t->mask = room - 1;
  for (struct pool *p = first; p; p = p->next) {
    uint32_t at = (uint32_t)pool_hash(p->id) & t->mask;
    while (t->slot[at].pool)
      at = (at + 1) & t->mask;
    t->slot[at] = (struct pool_entry){.id = p->id, .state = p->state, .pool = p, .map = p->map};
  }
  return t;
}

void pool_table_free(const struct alloc *alloc, struct pool_table *t)
{
  CHI_ASSERT(t->users == 0);
  alloc_put(alloc, t, sizeof *t + (t->mask + 1) * sizeof t->slot[0]);
}

const struct pool_entry *pool_table_find(const struct pool_table *t, chi_pool_id id)
{
  uint32_t at = (uint32_t)pool_hash(id) & t->mask;
  while (t->slot[at].pool) {
    if (pool_id_equal(t->slot[at].id, id))
      return &t->slot[at];
    at = (at + 1) & t->mask;
  }
  return NULL;
}

/* Two buckets to each power of two. */
uint32_t pool_bucket(uint64_t ns)
{
  if (ns < 64)
    return 0;
  uint32_t log = 63 - (uint32_t)__builtin_clzll(ns);
  uint32_t bucket = (log - 6) * 2 + (uint32_t)(ns >> (log - 1) & 1);
  return bucket < POOL_BUCKETS ? bucket : POOL_BUCKETS - 1;
}

uint64_t pool_bucket_end(uint32_t bucket)
{
  uint64_t power = 64ull << (bucket / 2);
  return bucket % 2 ? power * 2 : power + power / 2;
}

CHI_APART static bool pool_figures_open(const struct alloc *alloc, const struct container *c,
                                        struct pool_tally *t)
{
  struct pool_figures *fresh =
      alloc_zero(alloc, c->pool->module->count * sizeof(struct pool_figures));
  mark_set(&t->figures, fresh);
  return fresh != NULL;
}

CHI_APART static void pool_count_time(struct pool_figures *f, uint64_t ns)
{
  tally_add(&f->sampled, 1);
  tally_add(&f->sampled_ns, ns);
  tally_add(&f->bucket[pool_bucket(ns)], 1);
}

void pool_count(const struct alloc *alloc, struct container *c, uint32_t worker,
                const struct method *method, int rc, uint64_t ns)
{
  struct pool_tally *t = &c->tally[worker];
  if (method->index == METHOD_UNCOUNTED)
    return;
  if (CHI_UNLIKELY(!t->figures) && !pool_figures_open(alloc, c, t))
    return; /* figures are not worth failing a task for */
  struct pool_figures *f = &t->figures[method->index];
  tally_add(&f->count, 1);
  if (rc != CHI_OK)
    tally_add(&f->errors, 1);
  if (CHI_UNLIKELY(ns > 0))
    pool_count_time(f, ns);
}

static void pool_figures_add(const struct container *c, uint32_t method, struct pool_figures *out)
{
  for (uint32_t w = 0; w < c->pool->workers; w++) {
    struct pool_figures *f = mark_get(&c->tally[w].figures);
    if (!f)
      continue;
    f += method;
    out->count += tally_get(&f->count);
    out->errors += tally_get(&f->errors);
    out->sampled += tally_get(&f->sampled);
    out->sampled_ns += tally_get(&f->sampled_ns);
    for (uint32_t b = 0; b < POOL_BUCKETS; b++)
      out->bucket[b] += tally_get(&f->bucket[b]);
  }
}

void pool_figures_sum(const struct pool *p, uint32_t method, struct pool_figures *out)
{
  *out = (struct pool_figures){0};
  pool_figures_add(&p->container, method, out);
  for (const struct container *c = p->more; c; c = c->next)
    pool_figures_add(c, method, out);
}

uint64_t pool_percentile(const struct pool_figures *f, uint32_t percent)
{
  uint64_t total = 0, below = 0;
  for (uint32_t b = 0; b < POOL_BUCKETS; b++)
    total += f->bucket[b];
  if (total == 0)
    return 0;
  for (uint32_t b = 0; b < POOL_BUCKETS; b++) {
    below += f->bucket[b];
    if (below * 100 >= total * percent)
      return pool_bucket_end(b);
  }
  return pool_bucket_end(POOL_BUCKETS - 1);
}
