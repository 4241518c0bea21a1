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

/* Something that will happen to the connection of a way. */
struct sim_net_change {
  struct sim_world_event event;
  struct sim_net *net;
  uint32_t from, to;
};

/* The way from one node to another, and the first one's connection along it. */
struct sim_net_pair {
  struct sim_net_mail *first, *last; /* sent and not taken, in order */
  struct sim_net_change *change;     /* up: it will be noticed dead; down: it will be up */
  uint64_t free;                     /* from then on nothing is being transmitted */
  uint64_t due;                      /* of the last message */
  uint64_t bytes;                    /* sent and not taken */
  uint64_t clog;                     /* ns added to the latency */
  uint64_t down_at;
  uint32_t count;         /* messages sent and not taken */
  uint32_t sent, changes; /* so far: they number the draws */
  uint32_t slow;          /* percent of the usual time; 0: 100 */
  uint32_t lose;          /* messages until the one that is lost; 0: none is */
  bool up;                /* as the sender sees it */
  bool dead;              /* though it is not, and nothing arrives */
  bool mute;              /* dead, and there is nobody who would say so */
  bool cut;               /* by a fault */
  bool stalled;           /* up over a way that is blocked: what is sent is held */
  bool deaf;              /* up, but no answer gets back: it will be noticed dead */
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

static struct sim_net_pair *sim_net_pair(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_port *port = sim_net_port(net, from);
  sim_net_port(net, to);
  sim_net_grow(port, to + 1);
  return &port->pair[to];
}

static bool sim_net_is_open(const struct sim_net *net, uint32_t number)
{
  return number < net->port_count && net->port[number] && net->port[number]->open;
}

static bool sim_net_blocked(const struct sim_net *net, uint32_t from, uint32_t to)
{
  const struct sim_net_port *a = net->port[from], *b = net->port[to];
  const struct sim_net_pair *pair = sim_net_known(net, from, to);
  return (pair && pair->cut) || a->isolated || b->isolated || a->side != b->side;
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

static uint64_t sim_net_factor(const struct sim_net_pair *pair, uint64_t ns)
{
  return pair->slow ? ns * pair->slow / 100 : ns;
}

static void sim_net_append(struct sim_net_pair *pair, struct sim_net_mail *mail)
{
  if (pair->last)
    pair->last->next = mail;
  else
    pair->first = mail;
  pair->last = mail;
  pair->count++;
  pair->bytes += mail->size;
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
static void sim_net_lose_rest(struct sim_net *net, struct sim_net_pair *pair, uint32_t keep,
                              enum sim_net_reason why)
{
  struct sim_net_mail *mail = pair->first, *kept = NULL, *next;
  for (uint32_t i = 0; i < keep; i++) {
    kept = mail;
    mail = mail->next;
  }
  for (; mail; mail = next) {
    next = mail->next;
    pair->count--;
    pair->bytes -= mail->size;
    sim_net_lost(net, mail, why);
  }
  pair->last = kept;
  if (kept)
    kept->next = NULL;
  else
    pair->first = NULL;
}

/* How many messages arrive though their connection breaks now: all that are there, some of those
 * that have left. */
static uint32_t sim_net_saved(struct sim_net *net, struct sim_net_pair *pair, bool all)
{
  uint64_t now = net->world->now;
  uint32_t there = 0, left = 0;
  const struct sim_net_mail *mail = pair->first;
  for (; mail && !mail->held && mail->leaves <= now; mail = mail->next) {
    there += mail->entry.time <= now;
    left++;
  }
  if (all || left == there)
    return left;
  return there + (uint32_t)sim_net_draw(net, pair->first->from, pair->first->to, SIM_NET_ARRIVED,
                                        pair->changes++, left - there + 1);
}

/* ---- connections -------------------------------------------------------------------------- */

static void sim_net_cancel(struct sim_net *net, struct sim_net_pair *pair)
{
  if (!pair->change)
    return;
  sim_world_cancel(net->world, &pair->change->event);
  free(pair->change);
  pair->change = NULL;
}

static void sim_net_changes(struct sim_world_event *event);

static void sim_net_change(struct sim_net *net, uint32_t from, uint32_t to, uint64_t time)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  if (!pair->change) {
    pair->change = sim_world_new(sizeof(*pair->change));
    pair->change->event.run = sim_net_changes;
    pair->change->net = net;
    pair->change->from = from;
    pair->change->to = to;
  }
  sim_world_at(net->world, &pair->change->event, time);
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
  if (!pair || from == to || pair->up || pair->change || !sim_net_is_open(net, from) ||
      !sim_net_is_open(net, to) || to >= net->port[from]->count)
    return;
  if (sim_net_blocked(net, from, to) || sim_net_blocked(net, to, from))
    return;
  wait = (net->world->now - pair->down_at) / 2;
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
  CHI_ASSERT(pair->up);
  sim_net_lose_rest(net, pair, sim_net_saved(net, pair, why == SIM_NET_RESET), why);
  sim_net_cancel(net, pair);
  pair->up = pair->dead = pair->mute = pair->stalled = pair->deaf = false;
  pair->down_at = net->world->now;
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
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  uint64_t when = soon ? sim_net_when(net, from, to, profile->latency) + profile->latency
                       : sim_net_unanswered(net, from, to);
  if (!pair->change || pair->change->event.entry.time > when)
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
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  bool deaf = pair->up && !pair->dead && !pair->stalled && net->world->profile.ask &&
              sim_net_blocked(net, to, from);
  if (deaf == pair->deaf)
    return;
  pair->deaf = deaf;
  if (deaf)
    sim_net_notice(net, from, to, false);
  else if (pair->up && !pair->dead && !pair->stalled)
    sim_net_cancel(net, pair);
}

/* It is dead, and the sender doesn't know. */
static void sim_net_orphan(struct sim_net *net, uint32_t from, uint32_t to, enum sim_net_reason why,
                           bool silent)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  bool nobody = why == SIM_NET_DIED || why == SIM_NET_CLOSED;
  sim_net_lose_rest(net, pair, nobody ? 0 : sim_net_saved(net, pair, false), why);
  if (!pair->dead)
    sim_net_cancel(net, pair);
  pair->stalled = false;
  if (!pair->up || pair->dead)
    return;
  pair->dead = true;
  pair->mute = !nobody;
  if (silent || sim_net_blocked(net, to, from))
    sim_net_may_notice(net, from, to);
  else
    sim_net_notice(net, from, to, true);
}

static void sim_net_changes(struct sim_world_event *event)
{
  struct sim_net_change *change = CHI_CONTAINER_OF(event, struct sim_net_change, event);
  struct sim_net *net = change->net;
  uint32_t from = change->from, to = change->to;
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  CHI_ASSERT(pair->change == change);
  pair->change = NULL;
  free(change);
  if (pair->up) {
    sim_net_break(net, from, to, SIM_NET_NOTICED);
  } else if (!sim_net_blocked(net, from, to) && !sim_net_blocked(net, to, from)) {
    pair->up = true;
    sim_net_trace(net, from, to, true, SIM_NET_CONNECTED);
    sim_net_tell(net, from, to, true);
  }
}

/* ---- ways that are blocked ---------------------------------------------------------------- */

/* What hasn't arrived stays where it is. */
static void sim_net_stall(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  struct heap *inbox = &net->port[to]->inbox;
  pair->stalled = true;
  for (struct sim_net_mail *mail = pair->first; mail; mail = mail->next) {
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
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  uint64_t again = sim_net_when(net, from, to, SIM_NET_AGAIN_NS);
  pair->stalled = false;
  sim_net_cancel(net, pair);
  for (struct sim_net_mail *mail = pair->first; mail; mail = mail->next) {
    if (!mail->held)
      continue;
    mail->held = false;
    if (mail->leaves == SIM_WORLD_NEVER)
      sim_net_hand_back(net, mail, again);
    mail->leaves = again;
    again += sim_net_factor(pair, mail->size * net->world->profile.byte_ps / 1000);
    pair->due = pair->due < again ? again : pair->due;
    sim_net_post(net, to, mail, pair->due);
  }
}

static void sim_net_review(struct sim_net *net, uint32_t from, uint32_t to)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  bool blocked;
  if (!pair || from == to || !net->port[to])
    return;
  blocked = sim_net_blocked(net, from, to);
  if (blocked && pair->up && !pair->dead && !pair->stalled)
    sim_net_stall(net, from, to);
  if (!blocked && pair->stalled)
    sim_net_flow(net, from, to);
  sim_net_hark(net, from, to);
  if (!blocked)
    sim_net_try(net, from, to, false);
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
  port->count = self == port->number ? count : 0;
  sim_net_grow(port, port->count);
  for (uint32_t to = 0; to < port->pair_count; to++)
    port->pair[to].down_at = net->world->now;
  for (uint32_t i = 0; i < net->port_count; i++) {
    sim_net_try(net, port->number, i, true);
    sim_net_try(net, i, port->number, false);
  }
  return CHI_OK;
}

/* Its own end of everything. What has left arrives, where somebody is. */
static void sim_net_leave(struct sim_net_port *port)
{
  struct sim_net *net = port->net;
  for (uint32_t to = 0; to < port->pair_count; to++) {
    struct sim_net_pair *pair = &port->pair[to];
    sim_net_lose_rest(net, pair, sim_net_saved(net, pair, true), SIM_NET_CLOSED);
    for (struct sim_net_mail *mail = pair->first; mail; mail = mail->next) {
      sim_net_own(mail);
      sim_net_part(mail);
    }
    sim_net_cancel(net, pair);
    pair->up = pair->dead = pair->mute = pair->stalled = pair->deaf = false;
    pair->free = 0;
    pair->down_at = net->world->now;
  }
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
  sim_net_leave(port);
  while ((entry = heap_pop(&port->inbox)))
    sim_net_mail_free(CHI_CONTAINER_OF(entry, struct sim_net_mail, entry));
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
    for (uint32_t to = 0; port && to < port->pair_count; to++)
      sim_net_cancel(net, &port->pair[to]);
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
static void sim_net_transmit(struct sim_net_port *port, struct sim_net_pair *pair,
                             struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  const struct sim_profile *profile = &net->world->profile;
  uint64_t line = mail->size * profile->byte_ps / 1000, due = net->world->now + port->owed;
  uint64_t jitter =
      sim_net_draw(net, mail->from, mail->to, SIM_NET_JITTER, pair->sent, profile->latency / 4 + 1);
  due = due < port->busy ? port->busy : due;
  due = due < pair->free ? pair->free : due;
  port->busy = due + line;
  mail->leaves = pair->free = due + sim_net_factor(pair, line);
  due = mail->leaves + sim_net_factor(pair, profile->latency + jitter) + pair->clog;
  pair->due = due < pair->due ? pair->due : due;
  sim_net_hand_back(net, mail, mail->leaves);
}

/* Where it goes: onto the line, to those that are held, or nowhere. */
static void sim_net_dispatch(struct sim_net_port *port, struct sim_net_pair *pair,
                             struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  uint32_t from = mail->from, to = mail->to;
  bool lost = pair->lose && --pair->lose == 0;
  if (pair->dead || lost) {
    sim_net_lost(net, mail, pair->dead ? SIM_NET_NOBODY : SIM_NET_LOST);
    if (pair->dead)
      sim_net_notice(net, from, to,
                     !pair->mute && sim_net_is_open(net, to) && !sim_net_blocked(net, from, to));
    else if (pair->snap)
      sim_net_break(net, from, to, SIM_NET_DROPPED);
    return;
  }
  sim_net_append(pair, mail);
  if (!pair->stalled) {
    sim_net_transmit(port, pair, mail);
    sim_net_post(net, to, mail, pair->due);
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
  struct sim_net_mail *mail;
  CHI_ASSERT(count > 0 && count <= ENV_FRAMES_MAX);
  CHI_ASSERT(parcel || count == 1);
  if (!pair || !pair->up)
    return sim_net_refuse(port, peer, 0, CHI_EUNREACHABLE);
  if (pair->full || pair->count >= profile->queue_messages || pair->bytes >= profile->queue_bytes)
    return sim_net_refuse(port, peer, pair->count, CHI_EBUSY);
  mail = sim_net_wrap(net, port->number, peer, frame, count);
  sim_net_attach(mail, parcel);
  pair->sent++;
  net->figures.sent++;
  net->figures.bytes += mail->size;
  port->owed += sim_net_work(net, mail->size);
  sim_world_trace(net->world, port->number, SIM_TRACE_NET_SEND, peer, mail->number, mail->size,
                  NULL);
  sim_net_dispatch(port, pair, mail);
  return CHI_OK;
}

/* ---- taking ------------------------------------------------------------------------------- */

static void sim_net_arrived(struct sim_net_port *port, struct sim_net_mail *mail)
{
  struct sim_net *net = port->net;
  struct sim_net_pair *pair = sim_net_known(net, mail->from, mail->to);
  CHI_ASSERT(pair->first == mail && pair->count > 0); /* order is kept */
  pair->first = mail->next;
  if (!pair->first)
    pair->last = NULL;
  pair->count--;
  pair->bytes -= mail->size;
  port->owed += sim_net_work(net, mail->size);
  net->figures.delivered++;
  sim_world_trace(net->world, port->number, SIM_TRACE_NET_DELIVER, mail->from, mail->number,
                  mail->size, NULL);
}

CHI_PRIVATE struct sim_net_mail *sim_net_take(struct sim_net_port *port)
{
  struct heap_entry *entry = heap_top(&port->inbox);
  struct sim_net_mail *mail;
  if (!entry || entry->time > port->net->world->now)
    return NULL;
  heap_remove(&port->inbox, entry);
  if (port->inbox.count == 0 && port->inbox.room > SIM_NET_INBOX)
    heap_fini(&port->inbox); /* it grows again */
  mail = CHI_CONTAINER_OF(entry, struct sim_net_mail, entry);
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
  sim_net_pair(net, from, to)->cut = cut;
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
      if (port->pair[to].up && port->pair[to].dead)
        sim_net_drop(net, from, to, true);
  }
}

CHI_PRIVATE void sim_net_heal(struct sim_net *net)
{
  for (uint32_t i = 0; i < net->port_count; i++) {
    struct sim_net_port *port = net->port[i];
    for (uint32_t to = 0; port && to < port->pair_count; to++) {
      struct sim_net_pair *pair = &port->pair[to];
      pair->cut = pair->full = pair->snap = false;
      pair->clog = pair->slow = pair->lose = 0;
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
  sim_net_pair(net, from, to)->clog = ns;
}

CHI_PRIVATE void sim_net_slow(struct sim_net *net, uint32_t from, uint32_t to, uint32_t percent)
{
  sim_net_pair(net, from, to)->slow = percent;
}

CHI_PRIVATE void sim_net_full(struct sim_net *net, uint32_t from, uint32_t to, bool full)
{
  sim_net_pair(net, from, to)->full = full;
}

CHI_PRIVATE bool sim_net_drop(struct sim_net *net, uint32_t from, uint32_t to, bool noticed)
{
  struct sim_net_pair *pair = sim_net_known(net, from, to);
  if (!pair || !pair->up || (pair->dead && !noticed))
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
  struct sim_net_pair *pair = sim_net_pair(net, from, to);
  pair->lose = nth;
  pair->snap = with_connection;
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
