/* peer_toy.c - three nodes that meet over a toy network, for tests of peer. */
#include "peer_toy.h"
#include "hash.h"
#include "test.h"

#include <stdlib.h>

static void *peer_toy_get(void *arg, size_t size)
{
  struct peer_toy *t = arg;
  if (t->allocs_left == 0)
    return NULL;
  t->allocs_left -= t->allocs_left > 0;
  t->allocs++;
  return malloc(size);
}

static void peer_toy_put(void *arg, void *p, size_t size)
{
  struct peer_toy *t = arg;
  memset(p, 0xdd, size);
  t->allocs--;
  free(p);
}

static uint64_t peer_toy_random(struct env *env)
{
  struct peer_toy *t = env->self;
  return t->random = hash_mix64(t->random + 0x9e3779b97f4a7c15u);
}

static uint64_t peer_toy_wall(struct env *env)
{
  return ((struct peer_toy *)env->self)->wall;
}

static int peer_toy_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                             uint32_t port, chi_error *err)
{
  struct peer_toy *t = env->self;
  (void)hosts, (void)count, (void)self, (void)port, (void)err;
  t->opened += t->open_rc == CHI_OK;
  return t->open_rc;
}

static void peer_toy_net_close(struct env *env)
{
  ((struct peer_toy *)env->self)->opened--;
}

static int peer_toy_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                         uint32_t count, void *parcel)
{
  struct peer_toy *t = env->self;
  struct peer_letter *m;
  if (!t->up[peer])
    return CHI_EUNREACHABLE;
  if (t->full[peer])
    return CHI_EBUSY;
  if ((count > 1) != (parcel != NULL))
    abort();
  m = calloc(1, sizeof *m);
  m->to = peer;
  m->count = count;
  m->parcel = parcel;
  for (uint32_t i = 0; i < count; i++) {
    void *copy = malloc((size_t)frame[i].size);
    memcpy(copy, frame[i].data, (size_t)frame[i].size);
    m->frame[i] = (struct env_frame){copy, frame[i].size};
  }
  if (t->mail_last)
    t->mail_last->next = m;
  else
    t->mail = m;
  t->mail_last = m;
  t->sent_to[peer]++;
  return CHI_OK;
}

static void peer_toy_reset(struct env *env, uint32_t peer)
{
  struct peer_toy *t = env->self;
  t->resets++;
  t->up[peer] = false;
  t->gone[peer] = true; /* told later: never before the call returns */
}

static void peer_toy_log(void *arg, int level, const char *line)
{
  struct peer_toy *t = arg;
  memcpy(t->before, t->line, sizeof t->before);
  snprintf(t->line, sizeof t->line, "%s", line);
  t->last_level = level;
  t->lines++;
}

static void peer_toy_on_record(void *arg, struct peer *from, enum wire_kind kind,
                               struct wire_in *record)
{
  struct peer_toy *t = arg;
  struct peer_seen *seen = &t->seen[t->seen_count++ % 8192];
  *seen = (struct peer_seen){.kind = kind, .from = from->node, .bulks = record->bulk_count};
  for (uint32_t i = 0; i < record->bulk_count; i++)
    seen->bulk_bytes += record->bulk[i].size;
  seen->value = wire_get_u32(record);
  if (t->raise)
    peer_raise(&t->set, t->set.boot + 9);
  t->raise = false;
}

static void peer_toy_on_boot(void *arg, struct peer *peer, uint64_t former)
{
  struct peer_toy *t = arg;
  t->former = former;
  t->news_met = peer->met;
  t->boot_news++;
}

static void peer_toy_on_reborn(void *arg)
{
  ((struct peer_toy *)arg)->reborn++;
}

static void peer_toy_on_sent(void *arg, void *parcel)
{
  struct peer_toy *t = arg;
  t->parcels[t->parcel_count++ % 64] = parcel;
}

void peer_toy_hear(struct peer_toy *t)
{
  t->set.on_record = peer_toy_on_record;
  t->set.on_boot = peer_toy_on_boot;
  t->set.on_reborn = peer_toy_on_reborn;
  t->set.on_sent = peer_toy_on_sent;
  t->set.arg = t;
}

int peer_toy_open(struct peer_toys *w, uint32_t node)
{
  struct peer_toy *t = &w->node[node];
  int rc = peer_open(&t->set, &t->env, &t->log, &t->config, node, "chi:7000", NULL);
  peer_toy_hear(t);
  return rc;
}

static void peer_toy_init(struct peer_toys *w, uint32_t node)
{
  static const char *const names[] = {"alpha", "beta", "gamma", "delta"};
  struct peer_toy *t = &w->node[node];
  memset(t, 0, sizeof *t);
  t->all = w;
  t->env = (struct env){.version = ENV_VERSION,
                        .self = t,
                        .alloc = {peer_toy_get, peer_toy_put, t},
                        .random = peer_toy_random,
                        .wall = peer_toy_wall,
                        .net_open = peer_toy_net_open,
                        .net_close = peer_toy_net_close,
                        .net_send = peer_toy_send,
                        .net_reset = peer_toy_reset};
  t->log = (struct log){.sink = peer_toy_log, .arg = t, .level = CHI_LOG_INFO};
  for (uint32_t i = 0; i <= PEER_NODES; i++)
    snprintf(t->hosts[i].name, sizeof t->hosts[i].name, "%s", names[i]);
  t->config.hosts = t->hosts;
  t->config.host_count = PEER_NODES;
  t->config.port = 7000;
  t->config.bulk_max = WIRE_BULK_MAX;
  t->random = node;
  t->wall = 1700000000000000000u + node;
  t->allocs_left = -1;
}

struct peer_toys *peer_toys_open(void)
{
  struct peer_toys *w = calloc(1, sizeof *w);
  w->now = 1;
  for (uint32_t i = 0; i < PEER_NODES; i++) {
    peer_toy_init(w, i);
    if (peer_toy_open(w, i) != CHI_OK)
      abort();
  }
  return w;
}

struct peer_letter *peer_toy_take(struct peer_toy *t)
{
  struct peer_letter *m = t->mail;
  t->mail = m->next;
  if (!t->mail)
    t->mail_last = NULL;
  return m;
}

void peer_toy_deliver(struct peer_toy *t, struct peer_letter *m, bool arrives)
{
  struct peer_toys *w = t->all;
  if (arrives && w->node[m->to].set.peer)
    peer_on_message(&w->node[m->to].set, w->now, m->frame, m->count);
  for (uint32_t i = 0; i < m->count; i++)
    free((void *)(uintptr_t)m->frame[i].data);
  if (m->parcel && t->set.peer)
    peer_on_sent(&t->set, m->parcel);
  free(m);
}

void peer_toys_flush(struct peer_toys *w)
{
  for (uint32_t i = 0; i < PEER_NODES; i++)
    if (w->node[i].set.peer)
      peer_flush(&w->node[i].set, w->now, PEER_POLL);
}

bool peer_toys_carry(struct peer_toys *w)
{
  bool any = false;
  for (uint32_t i = 0; i < PEER_NODES; i++) {
    struct peer_toy *t = &w->node[i];
    for (uint32_t to = 0; to < PEER_NODES; to++) {
      if (t->gone[to] && t->set.peer)
        peer_on_link(&t->set, to, false);
      t->gone[to] = false;
    }
    for (int n = 0; t->mail && n < 10000; n++) {
      struct peer_letter *m = peer_toy_take(t);
      any = true;
      peer_toy_deliver(t, m, !t->lose[m->to] && t->up[m->to]);
    }
  }
  return any;
}

bool peer_toys_settle(struct peer_toys *w)
{
  for (int round = 0; round < 100; round++) {
    peer_toys_flush(w);
    if (!peer_toys_carry(w))
      return true;
  }
  return false;
}

bool peer_toys_poll(struct peer_toys *w)
{
  if (!peer_toys_settle(w))
    return false;
  w->now += PEER_POLL;
  return peer_toys_settle(w);
}

void peer_toy_link(struct peer_toys *w, uint32_t from, uint32_t to, bool up)
{
  struct peer_toy *t = &w->node[from];
  if (t->gone[to] && t->set.peer)
    peer_on_link(&t->set, to, false);
  t->gone[to] = false;
  t->up[to] = up;
  if (t->set.peer)
    peer_on_link(&t->set, to, up);
}

void peer_toys_close(struct peer_toys *w)
{
  for (uint32_t i = 0; i < PEER_NODES; i++) {
    struct peer_toy *t = &w->node[i];
    peer_close(&t->set);
    while (t->mail)
      peer_toy_deliver(t, peer_toy_take(t), false);
    if (t->allocs != 0)
      test_fail(__FILE__, __LINE__, "node %u keeps %d allocations", i, t->allocs);
    if (t->opened != 0)
      test_fail(__FILE__, __LINE__, "node %u keeps its network", i);
  }
  free(w);
}

struct peer *peer_of(struct peer_toys *w, uint32_t node, uint32_t other)
{
  return &w->node[node].set.peer[other];
}

bool peer_both_met(struct peer_toys *w, uint32_t a, uint32_t b)
{
  return peer_of(w, a, b)->met && peer_of(w, b, a)->met;
}

struct peer_toys *peer_toys_met(void)
{
  struct peer_toys *w = peer_toys_open();
  peer_toy_link(w, 0, 1, true);
  peer_toy_link(w, 1, 0, true);
  if (!peer_toys_settle(w) || !peer_both_met(w, 0, 1))
    test_fail(__FILE__, __LINE__, "they did not meet");
  return w;
}

bool peer_say(struct peer_toys *w, uint32_t from, uint32_t to, uint32_t value, bool control)
{
  struct wire_out out;
  if (!peer_begin(peer_of(w, from, to), WIRE_ASK, 4, control, &out))
    return false;
  wire_put_u32(&out, value);
  peer_post(peer_of(w, from, to), &out, NULL, 0, NULL);
  return true;
}

static char peer_bulk[PEER_TOY_BULK];

bool peer_say_bulk(struct peer_toys *w, uint32_t from, uint32_t to, uint32_t count, void *parcel)
{
  struct env_frame frame[WIRE_BULKS];
  struct wire_out out;
  for (uint32_t i = 0; i < count; i++)
    frame[i] = (struct env_frame){peer_bulk, sizeof peer_bulk};
  if (!peer_begin(peer_of(w, from, to), WIRE_REQUEST, 4, false, &out))
    return false;
  wire_put_u32(&out, count);
  peer_post(peer_of(w, from, to), &out, frame, count, parcel);
  return true;
}

void peer_toy_restart(struct peer_toys *w, uint32_t node, int64_t wall)
{
  struct peer_toy *t = &w->node[node];
  peer_close(&t->set);
  for (struct peer_letter *m = t->mail; m; m = m->next)
    m->parcel = NULL; /* it may arrive, and nobody waits for it */
  t->wall = (uint64_t)((int64_t)t->wall + wall);
  for (uint32_t i = 0; i < PEER_NODES; i++)
    t->up[i] = false;
  peer_toy_open(w, node);
}
