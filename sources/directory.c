/* directory.c - the pools of this node: owned by the network worker, published to the others. */
#include "directory.h"

static struct worker *directory_network(const struct directory *d)
{
  return &d->crew->worker[d->crew->count - 1];
}

static void directory_release(struct directory *d, struct pool_table *t)
{
  CHI_ASSERT(t->users > 0);
  if (--t->users == 0 && t != d->current)
    pool_table_free(d->crew->alloc, t);
}

int directory_open(struct directory *d, struct worker_crew *crew)
{
  *d = (struct directory){.crew = crew, .version = 1};
  d->notice = alloc_zero(crew->alloc, crew->count * sizeof *d->notice);
  d->seen = alloc_zero(crew->alloc, crew->count * sizeof *d->seen);
  d->current = pool_table_build(crew->alloc, NULL, d->version);
  if (!d->notice || !d->seen || !d->current) {
    directory_close(d);
    return CHI_ENOMEM;
  }
  for (uint32_t w = 0; w < crew->count; w++) {
    d->notice[w].worker = w;
    d->seen[w] = d->version;
    crew->worker[w].table = d->current;
    d->current->users++;
  }
  return CHI_OK;
}

void directory_close(struct directory *d)
{
  const struct alloc *alloc = d->crew->alloc;
  for (uint32_t w = 0; d->notice && d->seen && w < d->crew->count; w++) {
    struct pool_notice *n = &d->notice[w];
    if (n->under_way) /* sent, or on its way back: both tables count this worker */
      directory_release(d, n->node.kind == NODE_TABLE ? n->table : n->former);
    if (d->crew->worker[w].table)
      directory_release(d, d->crew->worker[w].table);
    d->crew->worker[w].table = NULL;
  }
  while (d->first) {
    struct pool *p = d->first;
    d->first = p->next;
    pool_close(alloc, p);
  }
  if (d->current)
    pool_table_free(alloc, d->current);
  alloc_put(alloc, d->notice, d->crew->count * sizeof *d->notice);
  alloc_put(alloc, d->seen, d->crew->count * sizeof *d->seen);
  d->current = NULL;
  d->notice = NULL;
  d->seen = NULL;
}

struct pool *directory_find(const struct directory *d, chi_pool_id id)
{
  struct pool *p = d->first;
  while (p && !pool_id_equal(p->id, id))
    p = p->next;
  return p;
}

struct pool *directory_find_name(const struct directory *d, const char *name)
{
  struct pool *p = d->first;
  while (p && strcmp(p->name, name) != 0)
    p = p->next;
  return p;
}

void directory_add(struct directory *d, struct pool *pool)
{
  struct pool **at = &d->first;
  while (*at)
    at = &(*at)->next;
  pool->next = NULL;
  *at = pool;
}

void directory_remove(struct directory *d, struct pool *pool)
{
  struct pool **at = &d->first;
  while (*at != pool) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = pool->next;
}

static void directory_send(struct directory *d, uint32_t w)
{
  struct pool_notice *n = &d->notice[w];
  n->under_way = true;
  n->table = d->current;
  n->former = NULL;
  n->node.kind = NODE_TABLE;
  d->current->users++;
  worker_send(directory_network(d), &d->crew->worker[w], &n->node);
}

int directory_publish(struct directory *d)
{
  struct pool_table *t = pool_table_build(d->crew->alloc, d->first, d->version + 1);
  if (!t)
    return CHI_ENOMEM;
  d->version++;
  struct pool_table *old = d->current;
  d->current = t;
  if (old->users == 0)
    pool_table_free(d->crew->alloc, old);
  struct worker *network = directory_network(d);
  directory_release(d, network->table);
  network->table = t;
  network->last = NULL;
  t->users++;
  d->seen[network->index] = d->version;
  for (uint32_t w = 0; w < network->index; w++)
    if (!d->notice[w].under_way)
      directory_send(d, w);
  return CHI_OK;
}

bool directory_settled(const struct directory *d)
{
  for (uint32_t w = 0; w < d->crew->count; w++)
    if (d->seen[w] != d->version)
      return false;
  return true;
}

void directory_on_notice(struct directory *d, struct pool_notice *n)
{
  n->under_way = false;
  d->seen[n->worker] = n->table->version;
  directory_release(d, n->former);
  if (n->table != d->current)
    directory_send(d, n->worker);
}
