/* sim_check.c - what must hold in every simulation of a cluster, checked as things happen. */
#include "sim_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SIM_CHECK_FIRST 1024u /* places of a set at first */

static void sim_check_fail(struct sim_check *c, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void sim_check_fail(struct sim_check *c, const char *name, const char *fmt, ...)
{
  va_list args;
  if (c->failed)
    return;
  c->failed = name;
  va_start(args, fmt);
  vsnprintf(c->why, sizeof(c->why), fmt, args);
  va_end(args);
}

/* ---- sets --------------------------------------------------------------------------------- */

static uint32_t sim_check_home(const struct sim_check_set *s, const struct sim_check_key *k)
{
  return (uint32_t)hash_mix64(hash_mix64(hash_mix64(k->a + 1) ^ k->b) ^ k->c) & s->mask;
}

/* The place of a key, or the empty one where it belongs. */
static uint32_t sim_check_find(const struct sim_check_set *s, const struct sim_check_key *k)
{
  uint32_t at = sim_check_home(s, k);
  while (s->key[at].owner && (s->key[at].a != k->a || s->key[at].b != k->b || s->key[at].c != k->c))
    at = (at + 1) & s->mask;
  return at;
}

static void sim_check_grow(struct sim_check_set *s)
{
  struct sim_check_set old = *s;
  uint32_t room = old.key ? (old.mask + 1) * 2 : SIM_CHECK_FIRST;
  s->key = sim_world_new(room * sizeof(*s->key));
  s->mask = room - 1;
  for (uint32_t i = 0; old.key && i <= old.mask; i++)
    if (old.key[i].owner)
      s->key[sim_check_find(s, &old.key[i])] = old.key[i];
  free(old.key);
}

/* False: it is there already. */
static bool sim_check_add(struct sim_check_set *s, const struct sim_check_key *k)
{
  if (!s->key || s->count > s->mask / 2)
    sim_check_grow(s);
  struct sim_check_key *place = &s->key[sim_check_find(s, k)];
  if (place->owner)
    return false;
  *place = *k;
  s->count++;
  return true;
}

/* Closes the gap: whoever comes after it and would rather stand there moves. */
static void sim_check_clear(struct sim_check_set *s, uint32_t gap)
{
  s->count--;
  for (uint32_t at = (gap + 1) & s->mask; s->key[at].owner; at = (at + 1) & s->mask) {
    uint32_t home = sim_check_home(s, &s->key[at]);
    if (((at - home) & s->mask) < ((at - gap) & s->mask))
      continue;
    s->key[gap] = s->key[at];
    gap = at;
  }
  s->key[gap].owner = 0;
}

static bool sim_check_drop(struct sim_check_set *s, const struct sim_check_key *k)
{
  uint32_t at = s->key ? sim_check_find(s, k) : 0;
  if (!s->key || !s->key[at].owner)
    return false;
  sim_check_clear(s, at);
  return true;
}

/* A process is no more, and what it waited for with it. Clearing may move a key to where we look,
 * or from the end to the beginning: then it is looked at again. */
static void sim_check_forget(struct sim_check_set *s, uint32_t owner)
{
  for (uint32_t i = 0; s->count > 0 && i <= s->mask; i++)
    while (s->key[i].owner == owner)
      sim_check_clear(s, i);
}

/* ---- events ------------------------------------------------------------------------------- */

static void sim_check_on_submit(struct sim_check *c, const struct sim_trace_event *e)
{
  uint32_t client = c->thread < c->threads ? c->client[c->thread] : 0;
  struct sim_check_key key = {e->a, e->b, e->node, client ? client : 1};
  c->submitted++;
  if (!sim_check_add(&c->open, &key))
    sim_check_fail(c, "P1", "a client of node %u submits task %llu:%llu, which is under way",
                   e->node, (unsigned long long)(e->b >> 32),
                   (unsigned long long)(e->b & UINT32_MAX));
}

static void sim_check_on_done(struct sim_check *c, const struct sim_trace_event *e)
{
  struct sim_check_key key = {e->a, e->b, e->node, 1};
  int64_t rc = (int64_t)e->c;
  bool own = rc > 0 || rc <= -(SIM_CHECK_CODES - 1);
  c->completed++;
  c->code[own ? SIM_CHECK_CODES - 1 : -rc]++;
  if (!sim_check_drop(&c->open, &key))
    sim_check_fail(c, "P1", "task %llu:%llu of a client of node %u completes once more",
                   (unsigned long long)(e->b >> 32), (unsigned long long)(e->b & UINT32_MAX),
                   e->node);
}

static void sim_check_on_key(struct sim_check *c, const struct sim_trace_event *e)
{
  struct sim_check_key key = {e->a, e->b, e->c, 1};
  if (!sim_check_add(&c->keys, &key))
    sim_check_fail(c, "P2", "the body of task %llu of node %llu for container %llu begins again",
                   (unsigned long long)e->b, (unsigned long long)(e->a >> 32),
                   (unsigned long long)(e->a & UINT32_MAX));
}

static void sim_check_on_node(struct sim_check *c, const struct sim_trace_event *e)
{
  struct sim_check_node *node = &c->node[e->node];
  node->serves = e->a == SIM_TRACE_NODE_SERVES;
  if (e->a == SIM_TRACE_NODE_STARTS)
    node->boot = 0;
}

static void sim_check_on_client(struct sim_check *c, const struct sim_trace_event *e)
{
  if (e->b != SIM_TRACE_CLIENT_STARTS)
    sim_check_forget(&c->open, (uint32_t)e->a + 1);
}

static void sim_check_on_device(struct sim_check *c, const struct sim_trace_event *e)
{
  char why[sizeof(c->why)];
  if (!sim_device_event(&c->devices, e, sim_node_disk(c->sim, e->node), why, sizeof(why)))
    sim_check_fail(c, "P5", "%s", why);
}

CHI_PRIVATE void sim_check_event(void *arg, const struct sim_trace_event *e)
{
  struct sim_check *c = arg;
  bool ours = e->node < c->nodes;
  if (e->kind == SIM_TRACE_THREAD)
    c->thread = (uint32_t)e->a;
  else if (e->kind == ENV_TRACE_SUBMIT)
    sim_check_on_submit(c, e);
  else if (e->kind == ENV_TRACE_DONE)
    sim_check_on_done(c, e);
  else if (e->kind == ENV_TRACE_KEY)
    sim_check_on_key(c, e);
  else if (e->kind == ENV_TRACE_NET)
    c->net[e->a < SIM_CHECK_NET ? e->a : SIM_CHECK_NET - 1]++;
  else if (e->kind == ENV_TRACE_BOOT && ours)
    c->node[e->node].boot = e->a;
  else if (e->kind == SIM_TRACE_NODE && ours)
    sim_check_on_node(c, e);
  else if (e->kind == SIM_TRACE_CLIENT)
    sim_check_on_client(c, e);
  else if (e->kind == ENV_TRACE_DEVICE && ours)
    sim_check_on_device(c, e);
  if (c->sink)
    c->sink(c->sink_arg, e);
}

CHI_PRIVATE void sim_check_open(struct sim_check *c, struct sim *sim, uint32_t nodes)
{
  memset(c, 0, sizeof(*c));
  c->sim = sim;
  c->nodes = nodes;
  c->node = sim_world_new(nodes * sizeof(*c->node));
  sim_record(sim, sim_check_event, c);
}

CHI_PRIVATE void sim_check_close(struct sim_check *c)
{
  free(c->node);
  free(c->keys.key);
  free(c->open.key);
  free(c->client);
  sim_device_free(&c->devices);
}

CHI_PRIVATE void sim_check_listen(struct sim_check *c, sim_trace_sink *sink, void *arg)
{
  c->sink = sink;
  c->sink_arg = arg;
}

CHI_PRIVATE void sim_check_client(struct sim_check *c, uint32_t number)
{
  if (c->thread >= c->threads) {
    uint32_t room = (c->thread + 64) * 2;
    uint32_t *client = sim_world_new(room * sizeof(*client));
    if (c->client)
      memcpy(client, c->client, c->threads * sizeof(*client));
    free(c->client);
    c->client = client;
    c->threads = room;
  }
  c->client[c->thread] = number + 1;
}

/* ---- when all is settled ------------------------------------------------------------------ */

CHI_PRIVATE uint32_t sim_check_judges(const struct sim_check *c, uint32_t node, uint32_t other)
{
  const struct runtime *rt = sim_node_runtime(c->sim, node);
  return rt ? runtime_judges(rt, other) : 0;
}

static bool sim_check_sees(const struct sim_check *c, uint32_t node, char *why, size_t size)
{
  const struct runtime *rt = sim_node_runtime(c->sim, node);
  for (uint32_t other = 0; other < c->nodes; other++) {
    const struct sim_check_node *to = &c->node[other];
    if (other == node || !to->serves)
      continue;
    uint64_t seen = rt ? runtime_sees(rt, other) : 0;
    if (seen != 0 && (to->boot == 0 || seen == to->boot))
      continue;
    snprintf(why, size, "node %u does not take node %u for alive in its present life", node, other);
    return false;
  }
  return true;
}

CHI_PRIVATE bool sim_check_met(const struct sim_check *c, char *why, size_t size)
{
  for (uint32_t i = 0; i < c->nodes; i++)
    if (c->node[i].serves && !sim_check_sees(c, i, why, size))
      return false;
  return true;
}

/* Whether no container is on two nodes. */
static bool sim_check_places(const struct sim_check *c, char *why, size_t size)
{
  struct sim_check_set places = {0};
  struct runtime_place p;
  bool good = true;
  for (uint32_t i = 0; i < c->nodes && good; i++) {
    const struct runtime *rt = c->node[i].serves ? sim_node_runtime(c->sim, i) : NULL;
    for (uint32_t at = 0; good && rt && runtime_inspect_place(rt, at, &p); at++) {
      uint64_t id = (uint64_t)p.pool.major << 32 | p.pool.minor;
      good = sim_check_add(&places, &(struct sim_check_key){id, p.generation, p.container, 1});
    }
    if (!good)
      snprintf(why, size, "container %u of pool %u.%u is on node %u, and on another one",
               p.container, p.pool.major, p.pool.minor, i);
  }
  free(places.key);
  return good;
}

CHI_PRIVATE bool sim_check_settled(const struct sim_check *c, char *why, size_t size)
{
  struct runtime_view first = {0}, view;
  uint32_t known = c->nodes;
  if (!sim_check_met(c, why, size))
    return false;
  for (uint32_t i = 0; i < c->nodes; i++) {
    const struct runtime *rt = sim_node_runtime(c->sim, i);
    if (!c->node[i].serves || !rt)
      continue;
    runtime_inspect(rt, &view);
    if (view.tasks_open) {
      snprintf(why, size, "node %u has %llu open tasks", i, (unsigned long long)view.tasks_open);
      return false;
    }
    if (view.credit) {
      snprintf(why, size, "node %u holds room for tasks between nodes that are over: %llu", i,
               (unsigned long long)view.credit);
      return false;
    }
    if (known < c->nodes && view.pools != first.pools) {
      snprintf(why, size, "nodes %u and %u have different tables of pools", known, i);
      return false;
    }
    first = view;
    known = i;
  }
  if (c->open.count)
    snprintf(why, size, "%u tasks of clients are under way", c->open.count);
  return c->open.count == 0 && sim_check_places(c, why, size);
}

#undef SIM_CHECK_FIRST
