/* sim_net.c - the network between simulated nodes: connections, delay, loss and disturbances. */
#include "sim_net.h"

#include "error.h"
#include "hash.h"

#include <stdlib.h>

#define SIM_NET_AGAIN_NS 200000000u /* at most until what was held is sent again */
#define SIM_NET_UNASKED 2           /* of so many dead connections, one is noticed unasked */
#define SIM_NET_INBOX 64u           /* mails for which an empty inbox keeps room */

/* What is drawn for a way, each by a number of its own. */
enum sim_net_purpose { SIM_NET_JITTER = 1, SIM_NET_WHEN, SIM_NET_WHETHER, SIM_NET_ARRIVED };

/* The way from one node to another, and the first one's connection along it: there are as many as
 * the square of the nodes, and most are quiet most of the time. */
struct sim_net_pair {
  struct sim_net_way *way; /* NULL: nothing is on it, nothing is wrong with it */
  uint32_t sent;           /* messages so far: they number the draws, as do changes */
  uint32_t changes : 31;
  bool up : 1; /* as the sender sees it */
};

/* What is on a way, and what is wrong with it. */
struct sim_net_way {
  struct sim_world_event change; /* up: it will be noticed dead; down: it will be up */
  struct sim_net *net;
  uint32_t from, to;
  struct sim_net_mail *first, *last; /* sent and not taken, in order */
  uint64_t free;                     /* from then on nothing is being transmitted */
  uint64_t due;                      /* of the last message */
  uint64_t bytes;                    /* sent and not taken */
  uint64_t clog;                     /* ns added to the latency */
  uint64_t down_at;
  uint32_t count; /* messages sent and not taken */
  uint32_t slow;  /* percent of the usual time; 0: 100 */
  uint32_t lose;  /* messages until the one that is lost; 0: none is */
  bool dead;      /* though it is up, and nothing arrives */
  bool mute;      /* dead, and there is nobody who would say so */
  bool cut;       /* by a fault */
  bool stalled;   /* up over a way that is blocked: what is sent is held */
  bool deaf;      /* up, but no answer gets back: it will be noticed dead */
  bool full, snap;
};

/* ---- ports and ways ----------------------------------------------------------------------- */

CHI_PRIVATE void sim_net_init(struct sim_net *net, struct sim_world *world)
{
  *net = (struct sim_net){.world = world};
}

CHI_PRIVATE struct sim_net_port *sim_net_port(struct sim_net *net, uint32_t number)
{
  CHI_ASSERT(number < SIM_NET_NODES);
  if (number >= net->port_count) {
    uint32_t count = number + 1;
    net->port = realloc(net->port, count * sizeof(struct sim_net_port *));
    CHI_ASSERT(net->port);
    memset(net->port + net->port_count, 0, (count - net->port_count) * sizeof(net->port[0]));
    net->port_count = count;
  }
  if (!net->port[number]) {
    struct sim_net_port *port = sim_world_new(sizeof(*port));
    port->net = net;
    port->number = number;
    heap_init(&port->inbox, &net->world->alloc);
    net->port[number] = port;
  }
  return net->port[number];
}

/* The way, if anything was ever said of it; NULL. */
static struct sim_net_pair *sim_net_known(const struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_net_port *port = from < net->port_count ? net->port[from] : NULL;
  return port && to < port->pair_count ? &port->pair[to] : NULL;
}

/* The ways from a node to all before `count`; they may move in memory. */
static void sim_net_grow(struct sim_net_port *port, uint32_t count)
{
  struct sim_net_pair *pair;
  if (count <= port->pair_count)
    return;
  pair = sim_world_new(count * sizeof(*pair));
  if (port->pair_count)
    memcpy(pair, port->pair, port->pair_count * sizeof(*pair));
  free(port->pair);
  port->pair = pair;
  port->pair_count = count;
}

static void sim_net_changes(struct sim_world_event *event);

/* What is on a way that is known, made if nothing is. */
static struct sim_net_way *sim_net_use(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  struct sim_net_way *way = pair->way;
  if (way)
    return way;
  way = pair->way = sim_world_new(sizeof(*way));
  net->ways++;
  way->change.run = sim_net_changes;
  way->net = net;
  way->from = from;
  way->to = to;
  way->down_at = net->port[from]->opened;
  return way;
}

/* The same of a way that need not be known yet. */
static struct sim_net_way *sim_net_way(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_port *port = sim_net_port(net, from);
  sim_net_port(net, to);
  sim_net_grow(port, to + 1);
  return sim_net_use(net, from, to);
}

static bool sim_net_will_change(const struct sim_net_way *way)
{
  return way && heap_contains(&way->net->world->heap, &way->change.entry);
}

/* Forgets what is on a way if that makes no difference. */
static void sim_net_rest(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  const struct sim_net_way *way = pair ? pair->way : NULL;
  uint64_t now = net->world->now;
  if (!way || way->first || way->due > now || way->free > now || sim_net_will_change(way))
    return;
  if (way->clog || way->slow || way->lose || way->dead || way->cut || way->stalled || way->deaf ||
      way->full)
    return;
  if (!pair->up && net->port[from]->open && way->down_at != net->port[from]->opened)
    return;
  free(pair->way);
  pair->way = NULL;
  net->ways--;
}

static bool sim_net_is_open(const struct sim_net *net, uint32_t number)
{
  return number < net->port_count && net->port[number] && net->port[number]->open;
}

static bool sim_net_blocked(const struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_net_port *a = net->port[from], *b = net->port[to];
  const struct sim_net_pair *pair = sim_net_known(net, from, to);
  return (pair && pair->way && pair->way->cut) || a->isolated || b->isolated || a->side != b->side;
}

/* A number below n, n > 0. It depends on way, purpose and number alone: no draw shifts another. */
static uint64_t sim_net_draw(const struct sim_net *net, uint32_t from, uint32_t to,
                             enum sim_net_purpose purpose, uint32_t number, uint64_t n)
{
  const uint64_t step = 0x9e3779b97f4a7c15u;
  uint64_t x = hash_mix64(net->world->seed + step) ^ ((uint64_t)from << 32 | to);
  CHI_ASSERT(n > 0);
  x = hash_mix64(x + step) ^ ((uint64_t)purpose << 32 | number);
  return hash_mix64(x + step) % n;
}

/* ---- mail --------------------------------------------------------------------------------- */

static void sim_net_post(struct sim_net *net, uint32_t to, struct sim_net_mail *mail, uint64_t due)
{
  struct sim_net_port *port = net->port[to];
  if (heap_contains(&port->inbox, &mail->entry))
    heap_remove(&port->inbox, &mail->entry);
  mail->entry.time = due;
  mail->entry.seq = net->sequence++;
  if (heap_push(&port->inbox, &mail->entry) != CHI_OK)
    CHI_ASSERT(!"memory for an inbox");
  if (port->thread)
    sim_thread_wake(port->thread, due);
}

/* From now on the memory of the sender isn't read any more. */
static void sim_net_own(struct sim_net_mail *mail)
{
  uint64_t size = mail->size - mail->frame[0].size;
  char *to;
  if (mail->copy || size == 0)
    return;
  to = mail->copy = sim_world_new(size);
  for (uint32_t i = 1; i < mail->count; i++) {
    if (mail->frame[i].size)
      memcpy(to, mail->frame[i].data, mail->frame[i].size);
    mail->frame[i].data = to;
    to += mail->frame[i].size;
  }
}

static void sim_net_part(struct sim_net_mail *mail)
{
  if (mail->other)
    mail->other->other = NULL;
  mail->other = NULL;
}

/* The parcel of a message comes back, whatever became of it. */
static void sim_net_hand_back(struct sim_net *net, struct sim_net_mail *mail, uint64_t due)
{
  if (mail->other)
    sim_net_post(net, mail->from, mail->other, due);
}

CHI_PRIVATE void sim_net_mail_free(struct sim_net_mail *mail)
{
  sim_net_part(mail);
  free(mail->copy);
  free(mail);
}

static void sim_net_tell(struct sim_net *net, uint32_t node, uint32_t peer, bool connected)
{
  struct sim_net_mail *mail;
  if (!net->port[node]->open)
    return;
  mail = sim_world_new(sizeof(*mail));
  mail->kind = SIM_NET_PEER;
  mail->from = peer;
  mail->to = node;
  mail->connected = connected;
  sim_net_post(net, node, mail, net->world->now);
}

/* ---- messages on their way ---------------------------------------------------------------- */

static uint64_t sim_net_factor(const struct sim_net_way *way, uint64_t ns)
{
  return way->slow ? ns * way->slow / 100 : ns;
}

static void sim_net_append(struct sim_net_way *way, struct sim_net_mail *mail)
{
  if (way->last)
    way->last->next = mail;
  else
    way->first = mail;
  way->last = mail;
  way->count++;
  way->bytes += mail->size;
}

static void sim_net_lost(struct sim_net *net, struct sim_net_mail *mail, enum sim_net_reason why)
{
  sim_world_trace(net->world, mail->from, SIM_TRACE_NET_LOST, mail->to, mail->number, why,
                  sim_net_reason(why));
  net->figures.lost[why]++;
  if (heap_contains(&net->port[mail->to]->inbox, &mail->entry))
    heap_remove(&net->port[mail->to]->inbox, &mail->entry);
  if (net->port[mail->from]->open)
    sim_net_hand_back(net, mail, net->world->now);
  else if (mail->other && mail->other->entry.index == 0)
    sim_net_mail_free(mail->other); /* it was held, too */
  sim_net_mail_free(mail);
}

/* Loses all that was sent after the first `keep`. */
static void sim_net_lose_rest(struct sim_net *net, struct sim_net_way *way, uint32_t keep,
                              enum sim_net_reason why)
{
  struct sim_net_mail *mail = way->first, *kept = NULL, *next;
  for (uint32_t i = 0; i < keep; i++) {
    kept = mail;
    mail = mail->next;
  }
  for (; mail; mail = next) {
    next = mail->next;
    way->count--;
    way->bytes -= mail->size;
    sim_net_lost(net, mail, why);
  }
  way->last = kept;
  if (kept)
    kept->next = NULL;
  else
    way->first = NULL;
}

/* How many messages arrive though their connection breaks now: all that are there, some of those
 * that have left. */
static uint32_t sim_net_saved(struct sim_net *net, struct sim_net_way *way, bool all)
{
  uint64_t now = net->world->now;
  uint32_t there = 0, left = 0;
  const struct sim_net_mail *mail = way->first;
  for (; mail && !mail->held && mail->leaves <= now; mail = mail->next) {
    there += mail->entry.time <= now;
    left++;
  }
  if (all || left == there)
    return left;
  return there + (uint32_t)sim_net_draw(net, way->from, way->to, SIM_NET_ARRIVED,
                                        sim_net_known(net, way->from, way->to)->changes++,
                                        left - there + 1);
}

/* ---- connections -------------------------------------------------------------------------- */

static void sim_net_change(struct sim_net *net, uint32_t from, uint32_t to, uint64_t time)
{
  sim_world_at(net->world, &sim_net_use(net, from, to)->change, time);
}

static uint64_t sim_net_when(struct sim_net *net, uint32_t from, uint32_t to, uint64_t ns)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  return net->world->now + sim_net_draw(net, from, to, SIM_NET_WHEN, pair->changes++, ns + 1);
}

/* Connects in a moment, or at the next attempt, if nothing prevents it. */
static void sim_net_try(struct sim_net *net, uint32_t from, uint32_t to, bool first)
{
  const struct sim_profile *profile = &net->world->profile;
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  uint64_t wait;
  if (!pair || from == to || pair->up || sim_net_will_change(pair->way) ||
      !sim_net_is_open(net, from) || !sim_net_is_open(net, to) || to >= net->port[from]->count)
    return;
  if (sim_net_blocked(net, from, to) || sim_net_blocked(net, to, from))
    return;
  wait = (net->world->now - sim_net_use(net, from, to)->down_at) / 2;
  wait = wait < profile->retry ? profile->retry : wait;
  wait = first ? profile->latency : wait < profile->retry_max ? wait : profile->retry_max;
  sim_net_change(net, from, to, sim_net_when(net, from, to, wait) + 3 * profile->latency);
}

static void sim_net_trace(struct sim_net *net, uint32_t from, uint32_t to, bool up,
                          enum sim_net_reason why)
{
  net->figures.ups += up;
  net->figures.downs += !up;
  sim_world_trace(net->world, from, SIM_TRACE_NET_PEER, to, up, why, sim_net_reason(why));
}

/* The sender knows that its connection is no more. */
static void sim_net_break(struct sim_net *net, uint32_t from, uint32_t to, enum sim_net_reason why)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  struct sim_net_way *way = sim_net_use(net, from, to);
  CHI_ASSERT(pair->up);
  sim_net_lose_rest(net, way, sim_net_saved(net, way, why == SIM_NET_RESET), why);
  sim_world_cancel(net->world, &way->change);
  pair->up = way->dead = way->mute = way->stalled = way->deaf = false;
  way->down_at = net->world->now;
  sim_net_trace(net, from, to, false, why);
  sim_net_tell(net, from, to, false);
  sim_net_try(net, from, to, false);
}

/* The sender, who asks every so often, has just been answered, or will be asking next. */
static uint64_t sim_net_unanswered(struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_profile *profile = &net->world->profile;
  if (profile->ask)
    return sim_net_when(net, from, to, profile->ask) + profile->notice;
  return sim_net_when(net, from, to, profile->notice) + profile->notice / 16;
}

/* The sender will know: of a dead or blocked connection some time, where a host answers for a dead
 * process soon. */
static void sim_net_notice(struct sim_net *net, uint32_t from, uint32_t to, bool soon)
{
  const struct sim_profile *profile = &net->world->profile;
  struct sim_net_way *way = sim_net_use(net, from, to);
  uint64_t when = soon ? sim_net_when(net, from, to, profile->latency) + profile->latency
                       : sim_net_unanswered(net, from, to);
  if (!sim_net_will_change(way) || way->change.entry.time > when)
    sim_net_change(net, from, to, when);
}

/* The same, unless it is one of those who have to send something first. */
static void sim_net_may_notice(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  if (net->world->profile.ask ||
      sim_net_draw(net, from, to, SIM_NET_WHETHER, pair->changes++, SIM_NET_UNASKED) == 0)
    sim_net_notice(net, from, to, false);
}

/* Where connections are asked, the answer comes by the other way. */
static void sim_net_hark(struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_net_pair *pair = sim_net_known(net, from, to);
  struct sim_net_way *way = pair->way;
  bool live = pair->up && !(way && (way->dead || way->stalled));
  bool deaf = live && net->world->profile.ask && sim_net_blocked(net, to, from);
  if (deaf == (way && way->deaf))
    return;
  way = sim_net_use(net, from, to);
  way->deaf = deaf;
  if (deaf)
    sim_net_notice(net, from, to, false);
  else if (live)
    sim_world_cancel(net->world, &way->change);
}

/* It is dead, and the sender doesn't know. */
static void sim_net_orphan(struct sim_net *net, uint32_t from, uint32_t to, enum sim_net_reason why,
                           bool silent)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  struct sim_net_way *way = pair->up ? sim_net_use(net, from, to) : pair->way;
  bool nobody = why == SIM_NET_DIED || why == SIM_NET_CLOSED;
  if (!way)
    return;
  sim_net_lose_rest(net, way, nobody ? 0 : sim_net_saved(net, way, false), why);
  if (!way->dead)
    sim_world_cancel(net->world, &way->change);
  way->stalled = false;
  if (!pair->up || way->dead) {
    sim_net_rest(net, from, to);
    return;
  }
  way->dead = true;
  way->mute = !nobody;
  if (silent || sim_net_blocked(net, to, from))
    sim_net_may_notice(net, from, to);
  else
    sim_net_notice(net, from, to, true);
}

static void sim_net_changes(struct sim_world_event *event)
{
  struct sim_net_way *way = CHI_CONTAINER_OF(event, struct sim_net_way, change);
  struct sim_net *net = way->net;
  uint32_t from = way->from, to = way->to;
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  CHI_ASSERT(pair->way == way);
  if (pair->up) {
    sim_net_break(net, from, to, SIM_NET_NOTICED);
  } else if (!sim_net_blocked(net, from, to) && !sim_net_blocked(net, to, from)) {
    pair->up = true;
    sim_net_trace(net, from, to, true, SIM_NET_CONNECTED);
    sim_net_tell(net, from, to, true);
  }
  sim_net_rest(net, from, to);
}

/* ---- ways that are blocked ---------------------------------------------------------------- */

/* What hasn't arrived stays where it is. */
static void sim_net_stall(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_way *way = sim_net_use(net, from, to);
  struct heap *inbox = &net->port[to]->inbox;
  way->stalled = true;
  for (struct sim_net_mail *mail = way->first; mail; mail = mail->next) {
    if (mail->entry.time <= net->world->now)
      continue;
    heap_remove(inbox, &mail->entry);
    mail->held = true;
    net->figures.held++;
  }
  sim_net_may_notice(net, from, to);
}

/* And goes on when the sender's machine next tries. */
static void sim_net_flow(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_way *way = sim_net_use(net, from, to);
  uint64_t again = sim_net_when(net, from, to, SIM_NET_AGAIN_NS);
  way->stalled = false;
  sim_world_cancel(net->world, &way->change);
  for (struct sim_net_mail *mail = way->first; mail; mail = mail->next) {
    if (!mail->held)
      continue;
    mail->held = false;
    if (mail->leaves == SIM_WORLD_NEVER)
      sim_net_hand_back(net, mail, again);
    mail->leaves = again;
    again += sim_net_factor(way, mail->size * net->world->profile.byte_ps / 1000);
    way->due = way->due < again ? again : way->due;
    sim_net_post(net, to, mail, way->due);
  }
}

static void sim_net_review(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  bool blocked;
  if (!pair || from == to || !net->port[to])
    return;
  blocked = sim_net_blocked(net, from, to);
  if (blocked && pair->up && !(pair->way && (pair->way->dead || pair->way->stalled)))
    sim_net_stall(net, from, to);
  if (!blocked && pair->way && pair->way->stalled)
    sim_net_flow(net, from, to);
  sim_net_hark(net, from, to);
  if (!blocked)
    sim_net_try(net, from, to, false);
  sim_net_rest(net, from, to);
}

static void sim_net_review_all(struct sim_net *net)
{
  for (uint32_t from = 0; from < net->port_count; from++)
    for (uint32_t to = 0; net->port[from] && to < net->port[from]->pair_count; to++)
      sim_net_review(net, from, to);
}

/* ---- what a node does --------------------------------------------------------------------- */

CHI_PRIVATE int sim_net_open(struct sim_net_port *port, uint32_t count, uint32_t self,
                             chi_error *err)
{
  struct sim_net *net = port->net;
  if (port->open)
    return error_set(err, CHI_EBUSY, "node %u is there already", port->number);
  if (count > SIM_NET_NODES || (count && self >= count))
    return error_set(err, CHI_EINVAL, "node %u of %u: at most %u", self, count, SIM_NET_NODES);
  port->open = true;
  port->busy = port->owed = 0;
  port->opened = net->world->now;
  port->count = self == port->number ? count : 0;
  sim_net_grow(port, port->count);
  for (uint32_t to = 0; to < port->pair_count; to++)
    if (port->pair[to].way)
      port->pair[to].way->down_at = port->opened;
  for (uint32_t i = 0; i < net->port_count; i++) {
    sim_net_try(net, port->number, i, true);
    sim_net_try(net, i, port->number, false);
  }
  return CHI_OK;
}

/* Its own end of a way. What has left arrives, where somebody is. */
static void sim_net_leave(struct sim_net *net, struct sim_net_pair *pair)
{
  struct sim_net_way *way = pair->way;
  pair->up = false;
  if (!way)
    return;
  sim_net_lose_rest(net, way, sim_net_saved(net, way, true), SIM_NET_CLOSED);
  for (struct sim_net_mail *mail = way->first; mail; mail = mail->next) {
    sim_net_own(mail);
    sim_net_part(mail);
    mail->stray = true;
  }
  way->first = way->last = NULL;
  way->count = 0;
  way->bytes = 0;
  sim_world_cancel(net->world, &way->change);
  way->dead = way->mute = way->stalled = way->deaf = false;
  way->free = way->due = 0;
  sim_net_rest(net, way->from, way->to);
}

static void sim_net_end(struct sim_net_port *port, enum sim_net_reason why, bool silent)
{
  struct sim_net *net = port->net;
  struct heap_entry *entry;
  if (!port->open)
    return;
  port->open = false;
  for (uint32_t from = 0; from < net->port_count; from++)
    if (from != port->number && sim_net_known(net, from, port->number))
      sim_net_orphan(net, from, port->number, why, silent);
  for (uint32_t to = 0; to < port->pair_count; to++)
    sim_net_leave(net, &port->pair[to]);
  while ((entry = heap_pop(&port->inbox))) {
    struct sim_net_mail *mail = CHI_CONTAINER_OF(entry, struct sim_net_mail, entry);
    if (mail->stray)
      sim_net_lost(net, mail, why);
    else
      sim_net_mail_free(mail);
  }
  port->count = 0;
}

CHI_PRIVATE void sim_net_close(struct sim_net_port *port)
{
  sim_net_end(port, SIM_NET_CLOSED, false);
}

CHI_PRIVATE void sim_net_die(struct sim_net_port *port, bool silent)
{
  sim_net_end(port, SIM_NET_DIED, silent);
}

CHI_PRIVATE void sim_net_fini(struct sim_net *net)
{
  for (uint32_t i = 0; i < net->port_count; i++)
    if (net->port[i])
      sim_net_die(net->port[i], true);
  for (uint32_t i = 0; i < net->port_count; i++) {
    struct sim_net_port *port = net->port[i];
    for (uint32_t to = 0; port && to < port->pair_count; to++) {
      if (port->pair[to].way)
        sim_world_cancel(net->world, &port->pair[to].way->change);
      free(port->pair[to].way);
    }
    if (port) {
      heap_fini(&port->inbox);
      free(port->pair);
    }
    free(port);
  }
  free(net->port);
}

CHI_PRIVATE void sim_net_reset(struct sim_net_port *port, uint32_t peer)
{
  struct sim_net_pair *pair = sim_net_known(port->net, port->number, peer);
  if (pair && pair->up)
    sim_net_break(port->net, port->number, peer, SIM_NET_RESET);
}

/* ---- sending ------------------------------------------------------------------------------ */

static uint64_t sim_net_work(const struct sim_net *net, uint64_t size)
{
  const struct sim_profile *profile = &net->world->profile;
  return profile->message + size * profile->message_byte_ps / 1000;
}

static struct sim_net_mail *sim_net_wrap(struct sim_net *net, uint32_t from, uint32_t to,
                                         const struct env_frame *frame, uint32_t count)
{
  struct sim_net_mail *mail = sim_world_new(sizeof(*mail) + count * sizeof(*frame) + frame[0].size);
  char *first = (char *)&mail->frame[count];
  mail->kind = SIM_NET_MESSAGE;
  mail->from = from;
  mail->to = to;
  mail->number = ++net->messages;
  mail->leaves = SIM_WORLD_NEVER;
  mail->count = count;
  memcpy(mail->frame, frame, count * sizeof(*frame));
  if (frame[0].size)
    memcpy(first, frame[0].data, frame[0].size);
  mail->frame[0].data = first;
  for (uint32_t i = 0; i < count; i++)
    mail->size += frame[i].size;
  return mail;
}

static void sim_net_attach(struct sim_net_mail *mail, void *parcel)
{
  struct sim_net_mail *sent;
  if (!parcel)
    return;
  sent = sim_world_new(sizeof(*sent));
  sent->kind = SIM_NET_SENT;
  sent->from = sent->to = mail->from;
  sent->parcel = parcel;
  sent->other = mail;
  mail->other = sent;
}

/* Puts it on the line, after what is there. */
static void sim_net_transmit(struct sim_net_port *port, struct sim_net_way *way,
                             struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  const struct sim_profile *profile = &net->world->profile;
  uint64_t line = mail->size * profile->byte_ps / 1000, due = net->world->now + port->owed;
  uint32_t number = sim_net_known(net, mail->from, mail->to)->sent;
  uint64_t jitter = sim_net_draw(net, mail->from, mail->to, SIM_NET_JITTER, number,
                                 profile->latency / 4 + 1);
  due = due < port->busy ? port->busy : due;
  due = due < way->free ? way->free : due;
  port->busy = due + line;
  mail->leaves = way->free = due + sim_net_factor(way, line);
  due = mail->leaves + sim_net_factor(way, profile->latency + jitter) + way->clog;
  way->due = due < way->due ? way->due : due;
  sim_net_hand_back(net, mail, mail->leaves);
}

/* Where it goes: onto the line, to those that are held, or nowhere. */
static void sim_net_dispatch(struct sim_net_port *port, struct sim_net_way *way,
                             struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  uint32_t from = mail->from, to = mail->to;
  bool lost = way->lose && --way->lose == 0;
  if (way->dead || lost) {
    sim_net_lost(net, mail, way->dead ? SIM_NET_NOBODY : SIM_NET_LOST);
    if (way->dead)
      sim_net_notice(net, from, to,
                     !way->mute && sim_net_is_open(net, to) && !sim_net_blocked(net, from, to));
    else if (way->snap)
      sim_net_break(net, from, to, SIM_NET_DROPPED);
    return;
  }
  sim_net_append(way, mail);
  if (!way->stalled) {
    sim_net_transmit(port, way, mail);
    sim_net_post(net, to, mail, way->due);
    return;
  }
  mail->held = true;
  net->figures.held++;
  sim_net_notice(net, from, to, false);
}

static int sim_net_refuse(struct sim_net_port *port, uint32_t peer, uint32_t waiting, int code)
{
  struct sim_net *net = port->net;
  net->figures.busy += code == CHI_EBUSY;
  net->figures.unreachable += code == CHI_EUNREACHABLE;
  sim_world_trace(net->world, port->number, SIM_TRACE_NET_REFUSED, peer, waiting,
                  (uint64_t)(int64_t)code, NULL);
  return code;
}

CHI_PRIVATE int sim_net_send(struct sim_net_port *port, uint32_t peer,
                             const struct env_frame *frame, uint32_t count, void *parcel)
{
  struct sim_net *net = port->net;
  const struct sim_profile *profile = &net->world->profile;
  struct sim_net_pair *pair = sim_net_known(net, port->number, peer);
  struct sim_net_way *way;
  struct sim_net_mail *mail;
  CHI_ASSERT(count > 0 && count <= ENV_FRAMES_MAX);
  CHI_ASSERT(parcel || count == 1);
  if (!pair || !pair->up)
    return sim_net_refuse(port, peer, 0, CHI_EUNREACHABLE);
  way = sim_net_use(net, port->number, peer);
  if (way->full || way->count >= profile->queue_messages || way->bytes >= profile->queue_bytes)
    return sim_net_refuse(port, peer, way->count, CHI_EBUSY);
  mail = sim_net_wrap(net, port->number, peer, frame, count);
  sim_net_attach(mail, parcel);
  pair->sent++;
  net->figures.sent++;
  net->figures.bytes += mail->size;
  port->owed += sim_net_work(net, mail->size);
  sim_world_trace(net->world, port->number, SIM_TRACE_NET_SEND, peer, mail->number, mail->size,
                  NULL);
  sim_net_dispatch(port, way, mail);
  return CHI_OK;
}

/* ---- taking ------------------------------------------------------------------------------- */

static void sim_net_arrived(struct sim_net_port *port, struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  if (!mail->stray) {
    struct sim_net_way *way = sim_net_use(net, mail->from, mail->to);
    CHI_ASSERT(way->first == mail && way->count > 0); /* order is kept */
    way->first = mail->next;
    if (!way->first)
      way->last = NULL;
    way->count--;
    way->bytes -= mail->size;
    sim_net_rest(net, mail->from, mail->to);
  }
  port->owed += sim_net_work(net, mail->size);
  net->figures.delivered++;
  sim_world_trace(net->world, port->number, SIM_TRACE_NET_DELIVER, mail->from, mail->number,
                  mail->size, NULL);
}

/* The next mail that is due, out of the inbox; NULL: none. */
static struct sim_net_mail *sim_net_pop(struct sim_net_port *port)
{
  struct heap_entry *entry = heap_top(&port->inbox);
  if (!entry || entry->time > port->net->world->now)
    return NULL;
  heap_remove(&port->inbox, entry);
  if (port->inbox.count == 0 && port->inbox.room > SIM_NET_INBOX)
    heap_fini(&port->inbox); /* it grows again */
  return CHI_CONTAINER_OF(entry, struct sim_net_mail, entry);
}

CHI_PRIVATE struct sim_net_mail *sim_net_take(struct sim_net_port *port)
{
  struct sim_net_mail *mail = sim_net_pop(port);
  while (mail && mail->stray && sim_net_blocked(port->net, mail->from, mail->to)) {
    sim_net_lost(port->net, mail, SIM_NET_CLOSED);
    mail = sim_net_pop(port);
  }
  if (!mail)
    return NULL;
  if (mail->kind == SIM_NET_MESSAGE) {
    sim_net_arrived(port, mail);
  } else if (mail->other) {
    sim_net_own(mail->other);
    sim_net_part(mail);
  }
  return mail;
}

CHI_PRIVATE uint64_t sim_net_due(const struct sim_net_port *port)
{
  const struct heap_entry *entry = heap_top(&port->inbox);
  return entry ? entry->time : SIM_WORLD_NEVER;
}

CHI_PRIVATE bool sim_net_connected(struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_net_pair *pair = sim_net_known(net, from, to);
  return pair && pair->up;
}

/* ---- what disturbs it --------------------------------------------------------------------- */

CHI_PRIVATE void sim_net_cut(struct sim_net *net, uint32_t from, uint32_t to, bool cut)
{
  sim_net_way(net, from, to)->cut = cut;
  sim_net_review(net, from, to);
  sim_net_review(net, to, from);
}

CHI_PRIVATE void sim_net_isolate(struct sim_net *net, uint32_t node, bool isolated)
{
  sim_net_port(net, node)->isolated = isolated;
  sim_net_review_all(net);
}

CHI_PRIVATE void sim_net_partition(struct sim_net *net, uint32_t first, uint32_t last)
{
  sim_net_port(net, last);
  for (uint32_t i = 0; i < net->port_count; i++)
    sim_net_port(net, i)->side = i >= first && i <= last;
  sim_net_review_all(net);
}

CHI_PRIVATE void sim_net_split(struct sim_net *net, uint64_t mask)
{
  for (uint32_t i = 0; i < 64 && mask >> i; i++)
    sim_net_port(net, i);
  for (uint32_t i = 0; i < net->port_count; i++)
    sim_net_port(net, i)->side = i < 64 && (mask >> i & 1);
  sim_net_review_all(net);
}

/* A whole network has no connections that one side only believes in. */
static void sim_net_end_dead(struct sim_net *net)
{
  for (uint32_t from = 0; from < net->port_count; from++) {
    const struct sim_net_port *port = net->port[from];
    for (uint32_t to = 0; port && to < port->pair_count; to++)
      if (port->pair[to].up && port->pair[to].way && port->pair[to].way->dead)
        sim_net_drop(net, from, to, true);
  }
}

CHI_PRIVATE void sim_net_heal(struct sim_net *net)
{
  for (uint32_t i = 0; i < net->port_count; i++) {
    struct sim_net_port *port = net->port[i];
    for (uint32_t to = 0; port && to < port->pair_count; to++) {
      struct sim_net_way *way = port->pair[to].way;
      if (!way)
        continue;
      way->cut = way->full = way->snap = false;
      way->clog = way->slow = way->lose = 0;
    }
    if (port) {
      port->isolated = false;
      port->side = 0;
    }
  }
  sim_net_end_dead(net);
  sim_net_review_all(net);
}

CHI_PRIVATE void sim_net_clog(struct sim_net *net, uint32_t from, uint32_t to, uint64_t ns)
{
  sim_net_way(net, from, to)->clog = ns;
  sim_net_rest(net, from, to);
}

CHI_PRIVATE void sim_net_slow(struct sim_net *net, uint32_t from, uint32_t to, uint32_t percent)
{
  sim_net_way(net, from, to)->slow = percent;
  sim_net_rest(net, from, to);
}

CHI_PRIVATE void sim_net_full(struct sim_net *net, uint32_t from, uint32_t to, bool full)
{
  sim_net_way(net, from, to)->full = full;
  sim_net_rest(net, from, to);
}

CHI_PRIVATE bool sim_net_drop(struct sim_net *net, uint32_t from, uint32_t to, bool noticed)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  if (!pair || !pair->up || (pair->way && pair->way->dead && !noticed))
    return false;
  if (noticed)
    sim_net_break(net, from, to, SIM_NET_DROPPED);
  else
    sim_net_orphan(net, from, to, SIM_NET_DROPPED, true);
  return true;
}

CHI_PRIVATE void sim_net_lose(struct sim_net *net, uint32_t from, uint32_t to, uint32_t nth,
                              bool with_connection)
{
  struct sim_net_way *way = sim_net_way(net, from, to);
  way->lose = nth;
  way->snap = with_connection;
}

CHI_PRIVATE const char *sim_net_reason(enum sim_net_reason reason)
{
#define SIM_NET_TEXT(name, text) text,
  static const char *const texts[] = {SIM_NET_REASONS(SIM_NET_TEXT)};
#undef SIM_NET_TEXT
  CHI_ASSERT(reason < SIM_NET_REASON_COUNT);
  return texts[reason];
}

#undef SIM_NET_AGAIN_NS
#undef SIM_NET_UNASKED
#undef SIM_NET_INBOX
