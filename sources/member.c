/* member.c - who is alive: probes, suspicion, contradiction and the news of it. */
#include "member.h"

#include "rng.h"

#define MEMBER_NONE UINT16_MAX
#define MEMBER_HELPERS 3u    /* others that are asked to probe */
#define MEMBER_DRAWS 12u     /* attempts to find that many different ones */
#define MEMBER_HEALTH_MAX 3u /* a suspicion lasts up to 1 + this times as long */
#define MEMBER_COPIES 48u    /* times that a piece of news is sent, at most */
#define MEMBER_MET 4u        /* and of whom it has met itself, as the others will */
#define MEMBER_BUCKETS 128u  /* of ticks in which suspicions end: the longest one lasts fewer */
#define MEMBER_LOST_FAST 8u  /* of so many probes at most one goes to who is dead or unknown */
#define MEMBER_LOST_SLOW 64u /* and at least one */
#define MEMBER_HEAD 38u      /* bytes of a record before the news */
#define MEMBER_ITEM 17u      /* bytes of a piece of news */
#define MEMBER_ITEMS ((MEMBER_RECORD_MAX - MEMBER_HEAD) / MEMBER_ITEM)

/* Lists that a node can be in, linked by number through the nodes. */
enum member_chain { MEMBER_NEWS, MEMBER_WHEEL, MEMBER_CHAINS };

/* By number, which takes no more than these bits: every node of a cluster keeps all of them. */
struct member_link {
  uint16_t before, after;
};
_Static_assert(MEMBER_MOST <= MEMBER_NONE, "a link names any node, or none");

struct member_list {
  uint32_t first, last, count;
};

struct member_node {
  uint64_t boot;
  uint32_t refute;
  struct member_link link[MEMBER_CHAINS];
  uint16_t place;      /* in its ring */
  uint8_t state : 2;   /* enum member_state */
  uint8_t left : 6;    /* times the news about it is still to be sent; 0: it isn't in a list */
  uint8_t bucket;      /* of a suspected one */
};
_Static_assert(MEMBER_COPIES < 1u << 6, "left has room for them");

/* Nodes that take turns: those before `next` had theirs in this round, the rest is in no order. */
struct member_ring {
  uint16_t *node;
  uint32_t count, next;
};

/* The probe of this interval. */
struct member_probe {
  bool waiting;
  uint32_t target, asked, heard; /* helpers asked, and heard of */
  uint64_t boot, sequence, sent, ask_at;
};

struct member {
  struct member_options opt;
  struct rng rng;
  uint64_t now, next_at, tick;
  uint64_t rtt, rtt_spread; /* smoothed; 0: not measured yet */
  uint32_t health;          /* 0: well .. MEMBER_HEALTH_MAX */
  uint32_t since_lost;      /* probes since the last one of a lost node */
  uint32_t copies;          /* times that a piece of news is sent */
  uint32_t outdone;         /* to whom its own later life is being told, or MEMBER_NONE */
  struct member_probe probe;
  struct member_figures figures;
  struct member_ring lively, lost;            /* alive or suspected; dead or unknown */
  struct member_list news[MEMBER_COPIES + 1]; /* by the times it is still to be sent */
  struct member_list wheel[MEMBER_BUCKETS];
  struct member_node node[];
};

/* ---- lists and rings */

static void member_list_init(struct member_list *l)
{
  *l = (struct member_list){MEMBER_NONE, MEMBER_NONE, 0};
}

static void member_list_push(struct member *m, enum member_chain chain, struct member_list *l,
                             uint32_t node)
{
  m->node[node].link[chain] = (struct member_link){(uint16_t)l->last, MEMBER_NONE};
  if (l->count == 0)
    l->first = node;
  else
    m->node[l->last].link[chain].after = (uint16_t)node;
  l->last = node;
  l->count++;
}

static void member_list_remove(struct member *m, enum member_chain chain, struct member_list *l,
                               uint32_t node)
{
  const struct member_link link = m->node[node].link[chain];
  CHI_ASSERT(l->count > 0);
  if (link.before == MEMBER_NONE)
    l->first = link.after;
  else
    m->node[link.before].link[chain].after = link.after;
  if (link.after == MEMBER_NONE)
    l->last = link.before;
  else
    m->node[link.after].link[chain].before = link.before;
  l->count--;
}

static void member_ring_put(struct member *m, struct member_ring *r, uint32_t place, uint32_t node)
{
  r->node[place] = (uint16_t)node;
  m->node[node].place = (uint16_t)place;
}

/* At the end: it has its turn in this round. */
static void member_ring_add(struct member *m, struct member_ring *r, uint32_t node)
{
  CHI_ASSERT(r->count < m->opt.count);
  member_ring_put(m, r, r->count++, node);
}

static void member_ring_remove(struct member *m, struct member_ring *r, uint32_t node)
{
  uint32_t hole = m->node[node].place;
  CHI_ASSERT(hole < r->count && r->node[hole] == node);
  if (hole < r->next) {
    member_ring_put(m, r, hole, r->node[--r->next]);
    hole = r->next;
  }
  if (hole != --r->count)
    member_ring_put(m, r, hole, r->node[r->count]);
}

/* Whose turn it is: a round is shuffled while it goes on. */
static uint32_t member_ring_draw(struct member *m, struct member_ring *r)
{
  CHI_ASSERT(r->count > 0);
  if (r->next >= r->count)
    r->next = 0;
  uint32_t place = r->next + (uint32_t)rng_below(&m->rng, r->count - r->next);
  uint32_t node = r->node[place];
  member_ring_put(m, r, place, r->node[r->next]);
  member_ring_put(m, r, r->next++, node);
  return node;
}

/* ---- what is known */

static bool member_is_lively(const struct member *m, uint32_t node)
{
  return m->node[node].state == MEMBER_ALIVE || m->node[node].state == MEMBER_SUSPECT;
}

static uint32_t member_log2(uint32_t n)
{
  uint32_t log = 0;
  while ((1u << log) < n)
    log++;
  return log;
}

uint32_t member_patience(uint32_t count)
{
  return 2 + 2 * member_log2(count);
}

static void member_be_ill(struct member *m)
{
  if (m->health < MEMBER_HEALTH_MAX)
    m->health++;
}

/* The news about a node is to be sent so many times. */
static void member_tell(struct member *m, uint32_t node, uint32_t times)
{
  if (m->node[node].left > 0)
    member_list_remove(m, MEMBER_NEWS, &m->news[m->node[node].left], node);
  m->node[node].left = times & 0x3f;
  if (times > 0)
    member_list_push(m, MEMBER_NEWS, &m->news[times], node);
}

static void member_unwatch(struct member *m, uint32_t node)
{
  member_list_remove(m, MEMBER_WHEEL, &m->wheel[m->node[node].bucket], node);
}

static void member_watch(struct member *m, uint32_t node)
{
  uint32_t ticks = member_patience(m->opt.count) * (1 + m->health);
  CHI_ASSERT(ticks < MEMBER_BUCKETS);
  m->node[node].bucket = (uint8_t)((m->tick + ticks) % MEMBER_BUCKETS);
  member_list_push(m, MEMBER_WHEEL, &m->wheel[m->node[node].bucket], node);
}

/* Somebody speaks of this node itself. */
static void member_hear_of_self(struct member *m, uint64_t boot, uint32_t refute, uint8_t state)
{
  struct member_node *self = &m->node[m->opt.self];
  if (boot > self->boot && m->opt.on_own_boot)
    m->opt.on_own_boot(m->opt.arg, boot);
  if (boot != self->boot || refute < self->refute)
    return;
  self->refute = refute;
  if (state == MEMBER_ALIVE)
    return;
  CHI_ASSERT(refute < MEMBER_REFUTE_MAX);
  self->refute = refute + 1;
  m->figures.refuted++;
  member_be_ill(m);
}

static bool member_is_news(const struct member_node *n, uint64_t boot, uint32_t refute,
                           uint8_t state)
{
  if (boot != n->boot)
    return boot > n->boot;
  return refute != n->refute ? refute > n->refute : state > n->state;
}

static void member_announce(struct member *m, uint32_t node)
{
  const struct member_node *n = &m->node[node];
  m->figures.suspected += n->state == MEMBER_SUSPECT;
  m->figures.died += n->state == MEMBER_DEAD;
  if (m->opt.on_change)
    m->opt.on_change(m->opt.arg, node, (enum member_state)n->state, n->boot);
}

/* Takes a piece of news in, if it is one, and passes it on. */
static void member_hear(struct member *m, uint32_t node, uint64_t boot, uint32_t refute,
                        uint8_t state)
{
  struct member_node *n = &m->node[node];
  CHI_ASSERT(boot != 0 && state != MEMBER_UNKNOWN);
  if (node == m->opt.self) {
    member_hear_of_self(m, boot, refute, state);
    return;
  }
  if (!member_is_news(n, boot, refute, state))
    return;
  bool was_lively = member_is_lively(m, node), changed = state != n->state || boot != n->boot;
  if (n->state == MEMBER_SUSPECT)
    member_unwatch(m, node);
  n->boot = boot;
  n->refute = refute;
  n->state = state;
  if (state == MEMBER_SUSPECT)
    member_watch(m, node);
  if (was_lively != member_is_lively(m, node)) {
    member_ring_remove(m, was_lively ? &m->lively : &m->lost, node);
    member_ring_add(m, was_lively ? &m->lost : &m->lively, node);
  }
  member_tell(m, node, m->copies);
  if (changed)
    member_announce(m, node);
}

/* ---- records
 *
 * WIRE_PROBE, WIRE_PROBE_ASK and WIRE_PROBE_ACK have one payload:
 *
 *   u64 boot, u32 refute   the sender's: it is alive
 *   u64 digest             the sender's, of whatever it keeps in step with others
 *   u64 sequence           chosen by the origin of the probe, repeated in all that follows from it
 *   u32 origin             the node that wants to know
 *   u32 subject            PROBE: the receiver. ASK: the node to be probed. ACK: the node that is
 *                          there: the sender, or one for which it passes the answer on
 *   u16 count              at most 56, then so many times
 *     u32 node, u64 boot, u32 refute, u8 state   1 alive, 2 suspected, 3 dead
 *
 * A probe is answered to its sender, with the sender's origin; who gets an answer whose origin is
 * another node passes it on to that. Who is asked to probe says first that it is there itself. */

/* What goes along to a node: first whatever it has to contradict, then whom it is being told about
 * (`about`), then news, what was sent least first. Returns how many. */
static uint32_t member_gather(struct member *m, uint32_t to, uint32_t about, uint32_t *pick)
{
  uint32_t count = 0, first;
  if (m->node[to].state == MEMBER_SUSPECT || m->node[to].state == MEMBER_DEAD || m->outdone == to)
    pick[count++] = to;
  if (about != m->opt.self && about != to && m->node[about].state != MEMBER_UNKNOWN)
    pick[count++] = about;
  first = count;
  for (uint32_t left = m->copies; left > 0 && count < MEMBER_ITEMS; left--) {
    uint32_t at = m->news[left].first;
    for (; at != MEMBER_NONE && count < MEMBER_ITEMS; at = m->node[at].link[MEMBER_NEWS].after)
      if (at != to && at != about)
        pick[count++] = at;
  }
  for (uint32_t i = first; i < count; i++)
    member_tell(m, pick[i], m->node[pick[i]].left - 1u);
  return count;
}

static void member_send(struct member *m, uint32_t to, enum wire_kind kind, uint64_t sequence,
                        uint32_t origin, uint32_t subject)
{
  unsigned char bytes[MEMBER_RECORD_MAX];
  uint32_t pick[MEMBER_ITEMS];
  uint32_t count = member_gather(m, to, kind == WIRE_PROBE_ACK ? subject : m->opt.self, pick);
  struct wire_out out;
  wire_out_init(&out, bytes, sizeof bytes);
  wire_put_u64(&out, m->node[m->opt.self].boot);
  wire_put_u32(&out, m->node[m->opt.self].refute);
  wire_put_u64(&out, m->opt.digest ? m->opt.digest(m->opt.arg) : 0);
  wire_put_u64(&out, sequence);
  wire_put_u32(&out, origin);
  wire_put_u32(&out, subject);
  wire_put_u16(&out, (uint16_t)count);
  for (uint32_t i = 0; i < count; i++) {
    const struct member_node *n = &m->node[pick[i]];
    wire_put_u32(&out, pick[i]);
    wire_put_u64(&out, n->boot);
    wire_put_u32(&out, n->refute);
    wire_put_u8(&out, n->state);
  }
  CHI_ASSERT(!out.failed && out.used == MEMBER_HEAD + count * MEMBER_ITEM);
  m->opt.send(m->opt.arg, to, kind, bytes, out.used);
}

/* A node lives with a lower boot than is known: it should hear that, and be reborn above. */
static void member_outdo(struct member *m, uint32_t node)
{
  m->outdone = node;
  member_send(m, node, WIRE_PROBE, 0, m->opt.self, node);
  m->outdone = MEMBER_NONE;
}

struct member_item {
  uint64_t boot;
  uint32_t node, refute;
  uint8_t state;
};

struct member_record {
  struct member_item sender;
  uint64_t digest, sequence;
  uint32_t origin, subject, count;
  struct member_item news[MEMBER_ITEMS];
};

/* An accusation must leave room for the contradiction. */
static bool member_item_fits(const struct member *m, const struct member_item *item)
{
  if (item->node >= m->opt.count || item->boot == 0 || item->refute > MEMBER_REFUTE_MAX)
    return false;
  if (item->state == MEMBER_ALIVE)
    return true;
  return (item->state == MEMBER_SUSPECT || item->state == MEMBER_DEAD) &&
         item->refute < MEMBER_REFUTE_MAX;
}

/* Whether those who are named have the parts that this kind of record gives them. */
static bool member_roles_fit(const struct member *m, enum wire_kind kind,
                             const struct member_record *r)
{
  uint32_t self = m->opt.self, from = r->sender.node;
  if (r->origin >= m->opt.count || r->subject >= m->opt.count || r->origin == r->subject)
    return false;
  if (kind == WIRE_PROBE)
    return r->subject == self;
  if (kind == WIRE_PROBE_ASK)
    return r->origin == from && r->subject != self;
  return kind == WIRE_PROBE_ACK && r->subject != self &&
         (r->origin == self || (r->subject == from && r->origin != from));
}

static bool member_read(const struct member *m, uint32_t from, enum wire_kind kind,
                        struct wire_in *in, struct member_record *r)
{
  r->sender.boot = wire_get_u64(in);
  r->sender.refute = wire_get_u32(in);
  r->sender.node = from;
  r->sender.state = MEMBER_ALIVE;
  r->digest = wire_get_u64(in);
  r->sequence = wire_get_u64(in);
  r->origin = wire_get_u32(in);
  r->subject = wire_get_u32(in);
  r->count = wire_get_u16(in);
  if (in->failed || r->count > MEMBER_ITEMS || from == m->opt.self ||
      !member_item_fits(m, &r->sender) || !member_roles_fit(m, kind, r))
    return false;
  for (uint32_t i = 0; i < r->count; i++) {
    struct member_item *item = &r->news[i];
    item->node = wire_get_u32(in);
    item->boot = wire_get_u64(in);
    item->refute = wire_get_u32(in);
    item->state = wire_get_u8(in);
    if (!member_item_fits(m, item))
      return false;
  }
  return wire_in_ended(in);
}

/* ---- probing */

/* How long to wait for an answer before others are asked. */
static uint64_t member_timeout(const struct member *m)
{
  uint64_t interval = m->opt.interval_ns, wait = m->rtt + 4 * m->rtt_spread;
  if (m->rtt == 0 || wait > interval / 2)
    return interval / 2;
  return wait < interval / 8 ? interval / 8 : wait;
}

static void member_measure(struct member *m, uint64_t rtt)
{
  uint64_t off = rtt > m->rtt ? rtt - m->rtt : m->rtt - rtt;
  if (m->rtt == 0) {
    m->rtt = rtt + 1;
    m->rtt_spread = rtt / 2;
    return;
  }
  m->rtt_spread = m->rtt_spread - m->rtt_spread / 4 + off / 4;
  m->rtt = m->rtt - m->rtt / 8 + rtt / 8 + 1;
}

/* Who is lost is probed, too: less often the fewer there are, as everybody does so. */
static bool member_look_for_lost(struct member *m)
{
  uint32_t every;
  if (m->lost.count == 0)
    return false;
  every = m->opt.count / m->lost.count;
  if (every < MEMBER_LOST_FAST)
    every = MEMBER_LOST_FAST;
  if (every > MEMBER_LOST_SLOW)
    every = MEMBER_LOST_SLOW;
  return m->lively.count == 0 || ++m->since_lost >= every;
}

static void member_probe_next(struct member *m)
{
  bool lost = member_look_for_lost(m);
  uint32_t target = member_ring_draw(m, lost ? &m->lost : &m->lively);
  uint64_t sequence = m->probe.sequence + 1;
  if (lost)
    m->since_lost = 0;
  m->probe = (struct member_probe){.waiting = true,
                                   .target = target,
                                   .boot = m->node[target].boot,
                                   .sequence = sequence ? sequence : 1,
                                   .sent = m->now,
                                   .ask_at = lost ? UINT64_MAX : m->now + member_timeout(m)};
  m->figures.probes++;
  member_send(m, target, WIRE_PROBE, m->probe.sequence, m->opt.self, target);
}

/* Others may have a way to the target that this node hasn't. */
static void member_ask(struct member *m)
{
  struct member_probe *p = &m->probe;
  uint32_t helper[MEMBER_HELPERS];
  p->ask_at = UINT64_MAX;
  if (!member_is_lively(m, p->target)) /* it was, when it was probed */
    return;
  for (uint32_t i = 0; i < MEMBER_DRAWS && p->asked < MEMBER_HELPERS; i++) {
    uint32_t one = m->lively.node[rng_below(&m->rng, m->lively.count)];
    bool fits = one != p->target;
    for (uint32_t k = 0; k < p->asked; k++)
      fits = fits && helper[k] != one;
    if (!fits)
      continue;
    helper[p->asked++] = one;
    m->figures.asked++;
    member_send(m, one, WIRE_PROBE_ASK, p->sequence, m->opt.self, p->target);
  }
}

static void member_on_ack(struct member *m, const struct member_record *r)
{
  struct member_probe *p = &m->probe;
  if (!p->waiting || r->sequence != p->sequence)
    return;
  if (r->subject != p->target) {
    p->heard++;
    return;
  }
  if (p->asked == 0) /* else there is no telling which probe was answered */
    member_measure(m, m->now - p->sent);
  p->waiting = false;
  p->ask_at = UINT64_MAX;
  m->health -= m->health > 0;
}

/* The interval is over. A node that was held up itself has no right to judge. */
static void member_judge(struct member *m, bool late)
{
  const struct member_probe *p = &m->probe;
  const struct member_node *n = &m->node[p->target];
  if (late) {
    m->figures.late++;
    member_be_ill(m);
  }
  if (late || !p->waiting || !member_is_lively(m, p->target))
    return;
  m->figures.failed++;
  if (p->asked > 0 && p->heard == 0)
    member_be_ill(m);
  if (n->state == MEMBER_ALIVE && n->boot == p->boot && n->refute < MEMBER_REFUTE_MAX)
    member_hear(m, p->target, n->boot, n->refute, MEMBER_SUSPECT);
}

static void member_expire(struct member *m)
{
  struct member_list *l = &m->wheel[++m->tick % MEMBER_BUCKETS];
  while (l->count > 0) {
    const struct member_node *n = &m->node[l->first];
    CHI_ASSERT(n->state == MEMBER_SUSPECT);
    member_hear(m, l->first, n->boot, n->refute, MEMBER_DEAD);
  }
}

uint64_t member_step(struct member *m, uint64_t now)
{
  if (m->opt.count == 1)
    return UINT64_MAX;
  m->now = now;
  if (m->next_at == 0) /* so that not all nodes probe at the same moment */
    m->next_at = now + 1 + rng_below(&m->rng, m->opt.interval_ns);
  if (now >= m->next_at) {
    bool late = now - m->next_at > m->opt.interval_ns / 2;
    member_judge(m, late);
    if (!late)
      member_expire(m);
    m->next_at = (late ? now : m->next_at) + m->opt.interval_ns;
    member_probe_next(m);
  } else if (now >= m->probe.ask_at) {
    member_ask(m);
  }
  return m->probe.ask_at < m->next_at ? m->probe.ask_at : m->next_at;
}

/* ---- from outside */

static void member_answer(struct member *m, enum wire_kind kind, const struct member_record *r)
{
  uint32_t from = r->sender.node, self = m->opt.self;
  if (kind == WIRE_PROBE) {
    member_send(m, from, WIRE_PROBE_ACK, r->sequence, r->origin, self);
  } else if (kind == WIRE_PROBE_ASK) {
    member_send(m, from, WIRE_PROBE_ACK, r->sequence, r->origin, self);
    member_send(m, r->subject, WIRE_PROBE, r->sequence, r->origin, r->subject);
  } else if (r->origin == self) {
    member_on_ack(m, r);
  } else {
    member_send(m, r->origin, WIRE_PROBE_ACK, r->sequence, r->origin, r->subject);
  }
}

int member_on_record(struct member *m, uint64_t now, uint32_t from, enum wire_kind kind,
                     struct wire_in *in)
{
  struct member_record r;
  m->now = now;
  if (!member_read(m, from, kind, in, &r)) {
    m->figures.refused++;
    return CHI_ECORRUPT;
  }
  member_hear(m, from, r.sender.boot, r.sender.refute, MEMBER_ALIVE);
  if (CHI_UNLIKELY(r.sender.boot < m->node[from].boot))
    member_outdo(m, from);
  for (uint32_t i = 0; i < r.count; i++)
    member_hear(m, r.news[i].node, r.news[i].boot, r.news[i].refute, r.news[i].state);
  member_answer(m, kind, &r);
  if (m->opt.on_digest)
    m->opt.on_digest(m->opt.arg, from, r.digest);
  return CHI_OK;
}

void member_on_boot(struct member *m, uint32_t node, uint64_t boot)
{
  CHI_ASSERT(node < m->opt.count && node != m->opt.self && boot != 0);
  const struct member_node *n = &m->node[node];
  member_hear(m, node, boot, 0, MEMBER_ALIVE);
  if (n->left > MEMBER_MET) /* a few do, for those who don't meet it */
    member_tell(m, node, MEMBER_MET);
  if (n->boot > boot)
    member_outdo(m, node);
  else if (n->state != MEMBER_ALIVE) /* it should know, and contradict */
    member_send(m, node, WIRE_PROBE, 0, m->opt.self, node);
}

void member_reborn(struct member *m, uint64_t boot)
{
  struct member_node *self = &m->node[m->opt.self];
  CHI_ASSERT(boot > self->boot);
  self->boot = boot;
  self->refute = 0;
  m->probe.waiting = false; /* the answer would be for the earlier life */
  m->probe.ask_at = UINT64_MAX;
}

/* ---- life */

static size_t member_size(uint32_t count)
{
  return sizeof(struct member) + count * (sizeof(struct member_node) + 2 * sizeof(uint16_t));
}

int member_open(const struct member_options *options, struct member **out)
{
  uint32_t count = options->count;
  CHI_ASSERT(count >= 1 && count <= MEMBER_MOST && options->self < count);
  CHI_ASSERT(options->boot != 0 && options->interval_ns != 0);
  struct member *m = alloc_zero(options->alloc, member_size(count));
  if (!m)
    return CHI_ENOMEM;
  m->opt = *options;
  rng_seed(&m->rng, options->random(options->arg), options->self, options->boot);
  m->copies = 3 * member_log2(count + 1);
  CHI_ASSERT(m->copies <= MEMBER_COPIES);
  m->lively.node = (uint16_t *)&m->node[count];
  m->lost.node = m->lively.node + count;
  m->probe.ask_at = UINT64_MAX;
  m->outdone = MEMBER_NONE;
  for (uint32_t i = 0; i <= MEMBER_COPIES; i++)
    member_list_init(&m->news[i]);
  for (uint32_t i = 0; i < MEMBER_BUCKETS; i++)
    member_list_init(&m->wheel[i]);
  m->node[options->self].boot = options->boot;
  m->node[options->self].state = MEMBER_ALIVE;
  for (uint32_t i = 0; i < count; i++)
    if (i != options->self)
      member_ring_add(m, &m->lost, i);
  *out = m;
  return CHI_OK;
}

void member_close(struct member *m)
{
  alloc_put(m->opt.alloc, m, member_size(m->opt.count));
}

enum member_state member_state(const struct member *m, uint32_t node)
{
  CHI_ASSERT(node < m->opt.count);
  return (enum member_state)m->node[node].state;
}

uint64_t member_boot(const struct member *m, uint32_t node)
{
  CHI_ASSERT(node < m->opt.count);
  return m->node[node].boot;
}

uint32_t member_alive_count(const struct member *m)
{
  return m->lively.count + 1;
}

const struct member_figures *member_figures(const struct member *m)
{
  return &m->figures;
}

#undef MEMBER_NONE
#undef MEMBER_HELPERS
#undef MEMBER_DRAWS
#undef MEMBER_HEALTH_MAX
#undef MEMBER_COPIES
#undef MEMBER_MET
#undef MEMBER_BUCKETS
#undef MEMBER_LOST_FAST
#undef MEMBER_LOST_SLOW
#undef MEMBER_HEAD
#undef MEMBER_ITEM
#undef MEMBER_ITEMS
