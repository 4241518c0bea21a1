/* pool.c - pools, their containers and figures, and snapshots of the pool table. */
#include "pool.h"
#include "hash.h"

static size_t pool_map_size(uint32_t count)
{
  return sizeof(struct pool_map) + count * sizeof(((struct pool_map *)0)->at[0]);
}

static struct pool_map *pool_map_new(const struct alloc *alloc, struct container *own,
                                     uint32_t containers, uint32_t self)
{
  struct pool_map *map = alloc_zero(alloc, pool_map_size(containers));
  if (!map)
    return NULL;
  map->count = containers;
  for (uint32_t i = 0; i < containers; i++)
    map->at[i].node = i;
  own->index = containers == 1 ? 0 : self;
  map->at[own->index].node = self;
  map->at[own->index].here = own;
  return map;
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
  struct container *c = &p->container;
  c->pool = p;
  c->parallel = (def->flags & CHI_MODULE_PARALLEL) != 0;
  c->tally = alloc_zero(alloc, workers * sizeof *c->tally);
  c->state = alloc_zero(alloc, def->state_size ? def->state_size : 1);
  p->params = def->params ? alloc_zero(alloc, def->params->size) : NULL;
  p->map = pool_map_new(alloc, c, containers, self);
  if (!c->tally || !c->state || !p->map || (def->params && !p->params)) {
    pool_close(alloc, p);
    return CHI_ENOMEM;
  }
  *out = p;
  return CHI_OK;
}

void pool_close(const struct alloc *alloc, struct pool *p)
{
  const chi_module *def = p->module->def;
  struct container *c = &p->container;
  CHI_ASSERT(p->parked == NULL);
  for (uint32_t w = 0; c->tally && w < p->workers; w++)
    alloc_put(alloc, c->tally[w].figures, p->module->count * sizeof(struct pool_figures));
  alloc_put(alloc, c->tally, p->workers * sizeof *c->tally);
  alloc_put(alloc, c->state, def->state_size ? def->state_size : 1);
  if (p->params)
    alloc_put(alloc, p->params, def->params->size);
  if (p->map)
    alloc_put(alloc, p->map, pool_map_size(p->map->count));
  alloc_put(alloc, p, sizeof *p);
}

uint64_t pool_active(const struct pool *p)
{
  uint64_t sum = 0;
  for (uint32_t w = 0; w < p->workers; w++)
    sum += mark_get(&p->container.tally[w].active);
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
static uint32_t pool_bucket(uint64_t ns)
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

void pool_count(const struct alloc *alloc, struct container *c, uint32_t worker,
                const struct method *method, int rc, uint64_t ns)
{
  struct pool_tally *t = &c->tally[worker];
  if (method->index == METHOD_UNCOUNTED)
    return;
  if (!t->figures) {
    size_t size = c->pool->module->count * sizeof(struct pool_figures);
    struct pool_figures *fresh = alloc_zero(alloc, size);
    if (!fresh)
      return; /* figures are not worth failing a task for */
    mark_set(&t->figures, fresh);
  }
  struct pool_figures *f = &t->figures[method->index];
  tally_add(&f->count, 1);
  if (rc != CHI_OK)
    tally_add(&f->errors, 1);
  if (ns == 0)
    return;
  tally_add(&f->sampled, 1);
  tally_add(&f->sampled_ns, ns);
  tally_add(&f->bucket[pool_bucket(ns)], 1);
}

void pool_figures_sum(const struct pool *p, uint32_t method, struct pool_figures *out)
{
  *out = (struct pool_figures){0};
  for (uint32_t w = 0; w < p->workers; w++) {
    struct pool_figures *f = mark_get(&p->container.tally[w].figures);
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
