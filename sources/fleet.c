/* fleet.c - this node among the others: peers, membership, the pool table and tasks between nodes,
 * wired together. */
#include "fleet.h"
#include "error.h"

/* ---- what peers say */

static void fleet_on_record(void *arg, struct peer *from, enum wire_kind kind,
                            struct wire_in *record)
{
  struct fleet *f = arg;
  bool ok = true;
  switch (kind) {
  case WIRE_PROBE:
  case WIRE_PROBE_ASK:
  case WIRE_PROBE_ACK:
    ok = member_on_record(f->member, f->now, from->node, kind, record) == CHI_OK;
    break;
  case WIRE_POOLS:
  case WIRE_POOL:
    ok = accord_on_record(f->accord, f->now, from->node, kind, record);
    break;
  default:
    net_on_record(f->net, from, kind, record);
  }
  if (!ok)
    log_limited(&f->options.crew->log, peer_complaints(from), f->now, CHI_LOG_WARNING,
                "node %u sent a malformed record of kind %d", from->node, (int)kind);
}

static void fleet_on_boot(void *arg, struct peer *peer, uint64_t former)
{
  struct fleet *f = arg;
  (void)former;
  if (peer->met) {
    member_on_boot(f->member, peer->node, peer->boot);
    accord_on_digest(f->accord, f->now, peer->node, 0); /* not known yet: to be compared at once */
  }
  net_on_boot(f->net, peer);
}

static void fleet_trace_boot(const struct fleet *f)
{
  struct env *env = f->options.crew->env;
  if (env->trace)
    env->trace(env, ENV_TRACE_BOOT, f->peers.boot, 0, 0);
}

static void fleet_on_reborn(void *arg)
{
  struct fleet *f = arg;
  fleet_trace_boot(f);
  member_reborn(f->member, f->peers.boot);
  accord_reborn(f->accord, f->peers.boot);
  net_on_reborn(f->net);
}

static void fleet_on_parcel(void *arg, void *parcel)
{
  struct fleet *f = arg;
  if (f->net)
    net_on_sent(f->net, parcel);
}

/* ---- what is to be sent */

static void fleet_send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  struct fleet *f = arg;
  struct wire_out out;
  if (!peer_begin(&f->peers.peer[to], kind, size, true, &out))
    return;
  wire_put_bytes(&out, bytes, size);
  peer_post(&f->peers.peer[to], &out, NULL, 0, NULL);
}

/* ---- what members and the table say */

static uint64_t fleet_random(void *arg)
{
  const struct fleet *f = arg;
  return f->options.crew->env->random(f->options.crew->env);
}

static uint64_t fleet_digest(void *arg)
{
  const struct fleet *f = arg;
  return accord_digest(f->accord);
}

static void fleet_on_digest(void *arg, uint32_t from, uint64_t digest)
{
  struct fleet *f = arg;
  accord_on_digest(f->accord, f->now, from, digest);
}

static void fleet_on_change(void *arg, uint32_t node, enum member_state state, uint64_t boot)
{
  struct fleet *f = arg;
  struct worker_crew *crew = f->options.crew;
  static const char *const names[] = {"unknown", "alive", "suspected", "dead"};
  log_write(&crew->log, state == MEMBER_SUSPECT ? CHI_LOG_DEBUG : CHI_LOG_INFO, "node %u is %s",
            node, names[state]);
  if (crew->env->trace)
    crew->env->trace(crew->env, ENV_TRACE_MEMBER, node, (uint64_t)state, boot);
  if (state == MEMBER_DEAD) {
    net_on_dead(f->net, node);
    peer_reset(&f->peers.peer[node]);
  }
  if (state == MEMBER_DEAD || state == MEMBER_ALIVE)
    f->options.on_member(f->options.arg, node, state == MEMBER_DEAD);
}

static void fleet_on_own_boot(void *arg, uint64_t boot)
{
  struct fleet *f = arg;
  peer_raise(&f->peers, boot);
}

static void fleet_on_entry(void *arg, const struct accord_entry *entry)
{
  struct fleet *f = arg;
  f->options.on_entry(f->options.arg, entry);
}

static bool fleet_is_dead(void *arg, uint32_t node)
{
  const struct fleet *f = arg;
  return member_state(f->member, node) == MEMBER_DEAD;
}

/* ---- open and close */

static int fleet_open_parts(struct fleet *f)
{
  struct worker_crew *crew = f->options.crew;
  const chi_config *config = f->options.config;
  const struct member_options member = {.alloc = crew->alloc,
                                        .self = crew->node,
                                        .count = crew->nodes,
                                        .boot = f->peers.boot,
                                        .interval_ns = config->heartbeat_interval_ns,
                                        .random = fleet_random,
                                        .send = fleet_send,
                                        .on_change = fleet_on_change,
                                        .on_own_boot = fleet_on_own_boot,
                                        .digest = fleet_digest,
                                        .on_digest = fleet_on_digest,
                                        .arg = f};
  const struct accord_options accord = {.alloc = crew->alloc,
                                        .self = crew->node,
                                        .count = crew->nodes,
                                        .boot = f->peers.boot,
                                        .interval_ns = config->heartbeat_interval_ns / 2,
                                        .send = fleet_send,
                                        .on_entry = fleet_on_entry,
                                        .arg = f};
  const struct net_options net = {.crew = crew,
                                  .peers = &f->peers,
                                  .directory = f->options.directory,
                                  .neighborhood = config->neighborhood_size,
                                  .task_timeout_ns = config->task_timeout_ns,
                                  .wait_for_restart_ns = config->wait_for_restart_ns,
                                  .is_dead = fleet_is_dead,
                                  .arg = f};
  int rc = member_open(&member, &f->member);
  if (rc == CHI_OK)
    rc = accord_open(&accord, &f->accord);
  return rc == CHI_OK ? net_open(&net, &f->net) : rc;
}

int fleet_open(struct fleet *f, const struct fleet_options *options, chi_error *err)
{
  struct worker_crew *crew = options->crew;
  *f = (struct fleet){.options = *options};
  if (crew->nodes < 2 || !crew->env->net_open)
    return CHI_OK;
  if (crew->nodes > MEMBER_MOST)
    return error_set(err, CHI_ERANGE, "%u nodes: at most %u", crew->nodes, MEMBER_MOST);
  int rc = peer_open(&f->peers, crew->env, &crew->log, options->config, crew->node,
                     options->instance, err);
  if (rc != CHI_OK)
    return rc;
  f->peers.on_record = fleet_on_record;
  f->peers.on_boot = fleet_on_boot;
  f->peers.on_reborn = fleet_on_reborn;
  f->peers.on_sent = fleet_on_parcel;
  f->peers.arg = f;
  f->open = true;
  fleet_trace_boot(f);
  rc = fleet_open_parts(f);
  return rc == CHI_OK ? rc : error_set(err, rc, "no memory for %u nodes", crew->nodes);
}

void fleet_close(struct fleet *f)
{
  if (f->open)
    peer_close(&f->peers);
  if (f->net)
    net_close(f->net);
  if (f->accord)
    accord_close(f->accord);
  if (f->member)
    member_close(f->member);
  f->net = NULL;
  f->accord = NULL;
  f->member = NULL;
  f->open = false;
}

/* ---- work */

/* Alone, the only container there can be is here: the task need not have come this way. */
void fleet_submit(struct fleet *f, chi_ctx *ctx)
{
  struct worker_crew *crew = f->options.crew;
  struct worker *network = &crew->worker[crew->count - 1];
  const struct pool_map *map = ctx->map;
  if (f->open) {
    net_submit(f->net, ctx, ctx->first, ctx->count);
  } else if (ctx->count == 1 && map->at[ctx->first].here) {
    ctx->map = NULL;
    ctx->container = map->at[ctx->first].here;
    worker_submit(network, ctx);
  } else {
    worker_end(network, ctx, CHI_EUNREACHABLE);
  }
}

void fleet_look_for_cancelled(struct fleet *f)
{
  if (f->open)
    net_look_for_cancelled(f->net);
}

void fleet_on_pools(struct fleet *f)
{
  if (f->open)
    net_on_pools(f->net);
}

void fleet_drain(struct fleet *f, uint64_t at)
{
  if (f->open)
    net_drain(f->net, at);
}

bool fleet_idle(const struct fleet *f)
{
  return !f->open || net_idle(f->net);
}

bool fleet_departed(const struct fleet *f)
{
  return !f->open || net_departed(f->net);
}

bool fleet_called_from(const struct fleet *f, uint64_t root, const struct pool *pool)
{
  return f->open && net_called_from(f->net, root, pool);
}

uint32_t fleet_calls_of(const struct fleet *f, const struct method *method)
{
  return f->open ? net_calls_of(f->net, method) : 0;
}

uint64_t fleet_digest_of(const struct fleet *f)
{
  return f->accord ? accord_digest(f->accord) : 0;
}

uint32_t fleet_judges(const struct fleet *f, uint32_t node)
{
  return f->member ? (uint32_t)member_state(f->member, node) : MEMBER_UNKNOWN;
}

uint64_t fleet_sees(const struct fleet *f, uint32_t node)
{
  return fleet_judges(f, node) == MEMBER_ALIVE ? member_boot(f->member, node) : 0;
}

uint64_t fleet_step(struct fleet *f, uint64_t now)
{
  if (!f->open)
    return UINT64_MAX;
  f->now = now;
  uint64_t next = member_step(f->member, now);
  uint64_t net = net_step(f->net, now);
  uint64_t flush = peer_flush(&f->peers, now, f->options.config->wait_for_restart_poll_ns);
  next = net < next ? net : next;
  return flush < next ? flush : next;
}

static void fleet_look_at_the_clock(struct fleet *f)
{
  struct env *env = f->options.crew->env;
  uint64_t now = env->clock(env);
  f->now = now > f->now ? now : f->now;
}

void fleet_on_message(struct fleet *f, const struct env_frame *frame, uint32_t count)
{
  if (!f->open)
    return;
  fleet_look_at_the_clock(f);
  peer_on_message(&f->peers, f->now, frame, count);
}

void fleet_on_peer(struct fleet *f, uint32_t peer, bool connected)
{
  if (f->open)
    peer_on_link(&f->peers, peer, connected);
}

void fleet_on_sent(struct fleet *f, void *parcel)
{
  if (f->open)
    peer_on_sent(&f->peers, parcel);
}
