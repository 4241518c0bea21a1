/* peer.c - the other nodes: who they are, which life of theirs this is, and the post between us. */
#include "peer.h"

#include "config.h"
#include "error.h"
#include "hash.h"

#include <stdio.h>

#define PEER_BOOT_MAX (UINT64_MAX >> 1)  /* so that there is always one above */
#define PEER_BOOT_GAP 0xfffffu           /* the next life is up to so much above */
#define PEER_REFUSE_NS 10000000u         /* between two refusals to one peer */
#define PEER_LIVES 4                     /* former lives of a peer that are remembered */
#define PEER_ROOM_MIN 4096u              /* bytes of a batch to begin with */
#define PEER_INSTANCE (CHI_NAME_MAX + 8) /* bytes of "NAME:PORT" with its NUL */
#define PEER_SINGLE (WIRE_HEADER + WIRE_RECORD + 32 + PEER_INSTANCE) /* of a HELLO or REFUSE */

/* Why a message is refused: name, number on the wire, level of the line, what differs. */
#define PEER_REASONS(X)                                                                            \
  X(CLUSTER, 1, CHI_LOG_WARNING, "digest of the host list")                                        \
  X(NODES, 2, CHI_LOG_WARNING, "number of nodes in the host list")                                 \
  X(TO, 3, CHI_LOG_WARNING, "number of the node that is written to")                               \
  X(TO_BOOT, 4, CHI_LOG_DEBUG, "boot that is written to")                                          \
  X(STALE, 5, CHI_LOG_DEBUG, "boot that writes, an earlier life")                                  \
  X(STRANGER, 6, CHI_LOG_DEBUG, "boot that writes, which said no hello")                           \
  X(TWICE, 7, CHI_LOG_ERROR, "two daemons run as one node; boot")

enum peer_reason {
  PEER_WELCOME,
#define PEER_REASON_ENUM(name, number, level, text) PEER_##name = number,
  PEER_REASONS(PEER_REASON_ENUM)
#undef PEER_REASON_ENUM
};

_Static_assert(CONFIG_BULK_MOST == WIRE_BULK_MAX, "what a node takes can be sent");

/* A refusal: what was found and what would have been right. */
struct peer_refusal {
  enum peer_reason reason;
  uint64_t got, want;
};

/* What most peers never have: former lives, and quarrels with us. */
struct peer_past {
  uint64_t former[PEER_LIVES]; /* random numbers of its lives before the present one; 0: none */
  uint32_t former_next;
  uint64_t refusals;
  uint64_t refuse_at;                         /* the next refusal may be sent */
  struct log_limit complaints, complained_of; /* by us of it, and the reverse */
};

struct peer_hello {
  uint32_t nodes;
  uint64_t life, heard, room;
  bool ask;
  char instance[PEER_INSTANCE];
};

/* Records for one peer, behind room for a header, that leave as one message. With bulk frames it is
 * the parcel of the environment. */
struct peer_batch {
  struct peer *peer;
  struct peer_batch *next, *before; /* waiting: next alone, in a ring; flying: both */
  unsigned char *data;
  uint32_t room, used, records, frames, parcels;
  uint64_t bulk_bytes;
  void *parcel[ENV_FRAMES_MAX];
  struct env_frame frame[ENV_FRAMES_MAX]; /* the first one is data */
};

static const char *peer_name(const struct peer *p)
{
  return peer_set_of(p)->hosts[p->node].name;
}

/* ---- batches */

static void peer_batch_put(struct peer_set *s, struct peer_batch *b)
{
  alloc_put(s->alloc, b->data, b->room);
  alloc_put(s->alloc, b, sizeof *b);
}

/* One is kept: most steps send one or two small messages. What had bulk is not used again, so that
 * it is noticed if somebody still looks at it. */
static void peer_batch_free(struct peer_set *s, struct peer_batch *b)
{
  if (!s->spare && b->room == PEER_ROOM_MIN && b->frames == 0)
    s->spare = b;
  else
    peer_batch_put(s, b);
}

/* Nobody reads it any more. */
static void peer_batch_release(struct peer_set *s, struct peer_batch *b)
{
  for (uint32_t i = 0; i < b->parcels; i++)
    s->on_sent(s->arg, b->parcel[i]);
  peer_batch_free(s, b);
}

static struct peer_batch *peer_batch_get(struct peer_set *s, uint32_t room)
{
  struct peer_batch *b = s->spare;
  if (b && b->room == room) {
    s->spare = NULL;
    return b;
  }
  b = alloc_get(s->alloc, sizeof *b);
  if (!b)
    return NULL;
  b->data = alloc_get(s->alloc, room);
  b->room = room;
  if (b->data)
    return b;
  alloc_put(s->alloc, b, sizeof *b);
  return NULL;
}

static struct peer_batch *peer_batch_new(struct peer *p, uint32_t room)
{
  struct peer_batch *b = peer_batch_get(peer_set_of(p), room);
  if (!b)
    return NULL;
  b->peer = p;
  b->before = NULL;
  b->used = WIRE_HEADER;
  b->records = b->frames = b->parcels = 0;
  b->bulk_bytes = 0;
  b->next = p->last ? p->last->next : b;
  if (p->last)
    p->last->next = b;
  p->last = b;
  return b;
}

/* The one that waits longest; NULL. */
static struct peer_batch *peer_oldest(const struct peer *p)
{
  return p->last ? p->last->next : NULL;
}

/* It waits no longer. */
static void peer_take_oldest(struct peer *p)
{
  struct peer_batch *b = peer_oldest(p);
  if (b == p->last)
    p->last = NULL;
  else
    p->last->next = b->next;
}

/* At least doubles the room, so that a batch grows seldom. */
static bool peer_batch_grow(struct peer_batch *b, uint32_t room)
{
  const struct alloc *alloc = peer_set_of(b->peer)->alloc;
  uint32_t most = WIRE_HEADER + PEER_BATCH;
  unsigned char *data;
  if (room < 2 * b->room)
    room = 2 * b->room < most ? 2 * b->room : most;
  data = alloc_get(alloc, room);
  if (!data)
    return false;
  memcpy(data, b->data, b->used);
  alloc_put(alloc, b->data, b->room);
  b->data = data;
  b->room = room;
  return true;
}

/* The batch that the next record of `need` bytes goes to. */
static struct peer_batch *peer_batch_for(struct peer *p, uint32_t need)
{
  struct peer_batch *b = p->last;
  if (!b || b->used + need > WIRE_HEADER + PEER_BATCH ||
      b->frames + WIRE_BULKS > ENV_FRAMES_MAX - 1) {
    uint32_t room = WIRE_HEADER + need;
    return peer_batch_new(p, room > PEER_ROOM_MIN ? room : PEER_ROOM_MIN);
  }
  return b->used + need <= b->room || peer_batch_grow(b, b->used + need) ? b : NULL;
}

static void peer_fly(struct peer_set *s, struct peer_batch *b)
{
  b->before = NULL;
  b->next = s->flying;
  if (s->flying)
    s->flying->before = b;
  s->flying = b;
  b->peer->flying++;
}

static void peer_land(struct peer_set *s, struct peer_batch *b)
{
  if (b->before)
    b->before->next = b->next;
  else
    s->flying = b->next;
  if (b->next)
    b->next->before = b->before;
  b->peer->flying--;
}

static void peer_count_sent(struct peer *p, uint64_t bytes)
{
  p->sent++;
  p->bytes_sent += bytes;
}

static int peer_send_batch(struct peer *p, struct peer_batch *b)
{
  struct peer_set *s = peer_set_of(p);
  struct wire_header h = {.records = b->records, .cluster = s->cluster, .from = s->self,
                          .to = p->node, .from_boot = s->boot, .to_boot = p->boot,
                          .bulk = b->frames, .bulk_bytes = b->bulk_bytes};
  wire_header_put(b->data, b->used, &h);
  b->frame[0] = (struct env_frame){b->data, b->used};
  return s->env->net_send(s->env, p->node, b->frame, 1 + b->frames, b->frames ? b : NULL);
}

/* Sends what waits for a peer, oldest first, as long as the environment takes it. */
static int peer_send(struct peer *p)
{
  struct peer_batch *b;
  while ((b = peer_oldest(p)) && b->records > 0) {
    int rc = peer_send_batch(p, b);
    if (rc != CHI_OK)
      return rc;
    peer_count_sent(p, b->used + b->bulk_bytes);
    p->waiting -= b->used - WIRE_HEADER;
    peer_take_oldest(p);
    if (b->frames)
      peer_fly(peer_set_of(p), b);
    else
      peer_batch_free(peer_set_of(p), b);
  }
  return CHI_OK;
}

/* Drops what waits for a peer. */
static void peer_drop(struct peer *p)
{
  struct peer_batch *b;
  while ((b = peer_oldest(p))) {
    peer_take_oldest(p);
    peer_batch_release(peer_set_of(p), b);
  }
  p->waiting = 0;
}

static void peer_queue(struct peer *p)
{
  struct peer_set *s = peer_set_of(p);
  if (p->queued)
    return;
  p->queued = true;
  p->next = 0;
  if (s->pending_last)
    s->peer[s->pending_last - 1].next = p->node + 1;
  else
    s->pending = p->node + 1;
  s->pending_last = p->node + 1;
}

bool peer_begin(struct peer *p, enum wire_kind kind, size_t most, bool control,
                struct wire_out *out)
{
  uint32_t need, limit = control ? 2 * PEER_BACKLOG : PEER_BACKLOG;
  struct peer_batch *b;
  CHI_ASSERT(most <= PEER_RECORD_MAX);
  CHI_ASSERT(kind > WIRE_REFUSE && kind < WIRE_KINDS);
  if (!p->met)
    return false;
  need = WIRE_RECORD + (uint32_t)most;
  if (p->waiting + need > limit)
    (void)peer_send(p); /* what it says is heard at the next flush */
  if (p->waiting + need > limit)
    return false;
  b = peer_batch_for(p, need);
  if (!b)
    return false;
  wire_out_init(out, b->data + b->used, need);
  (void)wire_record_begin(out, kind);
  return true;
}

void peer_post(struct peer *p, struct wire_out *out, const struct env_frame *bulk, uint32_t count,
               void *parcel)
{
  struct peer_batch *b = p->last;
  CHI_ASSERT(b && out->data == b->data + b->used && !out->failed);
  CHI_ASSERT(count <= WIRE_BULKS && (count > 0) == (parcel != NULL));
  wire_record_end(out, 0, count);
  for (uint32_t i = 0; i < count; i++) {
    CHI_ASSERT(bulk[i].size > 0 && bulk[i].size <= WIRE_BULK_MAX);
    b->frame[1 + b->frames++] = bulk[i];
    b->bulk_bytes += bulk[i].size;
  }
  if (parcel)
    b->parcel[b->parcels++] = parcel;
  b->records++;
  bool much = b->used < PEER_EARLY && b->used + out->used >= PEER_EARLY;
  b->used += (uint32_t)out->used;
  p->waiting += (uint32_t)out->used;
  peer_queue(p);
  if (much)             /* while the peer works on it, this step goes on */
    (void)peer_send(p); /* what it says is heard at the next flush */
}

/* ---- meeting */

/* Sends a record alone: not kept if there is no way now. */
static void peer_send_single(struct peer *p, struct wire_out *out, uint64_t to_boot)
{
  struct peer_set *s = peer_set_of(p);
  struct wire_header h = {.records = 1, .cluster = s->cluster, .from = s->self, .to = p->node,
                          .from_boot = s->boot, .to_boot = to_boot};
  struct env_frame frame = {out->data, out->used};
  CHI_ASSERT(!out->failed);
  wire_header_put(out->data, out->used, &h);
  if (s->env->net_send(s->env, p->node, &frame, 1, NULL) == CHI_OK)
    peer_count_sent(p, out->used);
}

static size_t peer_begin_single(struct wire_out *out, unsigned char *bytes, enum wire_kind kind)
{
  wire_out_init(out, bytes, PEER_SINGLE);
  out->used = WIRE_HEADER;
  return wire_record_begin(out, kind);
}

/* HELLO: u32 nodes in the host list; u64 life, a random number of this life, not 0; u64 heard, the
 * highest boot of the receiver that was ever heard of; u8 ask, 1: an answer is wanted; u64 room,
 * bulk bytes that are taken at a time; text instance. Alone in its message, whose to_boot means
 * nothing. */
static void peer_say_hello(struct peer *p)
{
  struct peer_set *s = peer_set_of(p);
  unsigned char bytes[PEER_SINGLE];
  char instance[PEER_INSTANCE];
  struct wire_out out;
  size_t begin = peer_begin_single(&out, bytes, WIRE_HELLO);
  snprintf(instance, sizeof instance, "%s", s->instance);
  wire_put_u32(&out, s->count);
  wire_put_u64(&out, s->life);
  wire_put_u64(&out, p->boot);
  wire_put_u8(&out, !p->confirmed);
  wire_put_u64(&out, s->room);
  wire_put_text(&out, instance);
  wire_record_end(&out, begin, 0);
  peer_send_single(p, &out, p->boot);
}

/* False: it isn't one. */
static bool peer_read_hello(struct wire_in *in, struct peer_hello *out)
{
  uint8_t ask;
  out->nodes = wire_get_u32(in);
  out->life = wire_get_u64(in);
  out->heard = wire_get_u64(in);
  ask = wire_get_u8(in);
  out->ask = ask;
  out->room = wire_get_u64(in);
  wire_get_text(in, out->instance, sizeof out->instance);
  return wire_in_ended(in) && out->life != 0 && out->heard < PEER_BOOT_MAX && ask <= 1 &&
         out->room >= CONFIG_BULK_MIN && out->room <= CONFIG_BULK_MOST;
}

/* REFUSE: u16 reason; u64 what was found; u64 what would have been right. Alone in its message,
 * whose to_boot is that of the sender of what is refused. */
static void peer_say_refuse(struct peer *p, uint64_t to_boot, struct peer_refusal refusal)
{
  unsigned char bytes[PEER_SINGLE];
  struct wire_out out;
  size_t begin = peer_begin_single(&out, bytes, WIRE_REFUSE);
  wire_put_u16(&out, (uint16_t)refusal.reason);
  wire_put_u64(&out, refusal.got);
  wire_put_u64(&out, refusal.want);
  wire_record_end(&out, begin, 0);
  peer_send_single(p, &out, to_boot);
}

static bool peer_read_refuse(struct wire_in *in, struct peer_refusal *out)
{
  uint16_t reason = wire_get_u16(in);
  out->got = wire_get_u64(in);
  out->want = wire_get_u64(in);
  out->reason = (enum peer_reason)reason;
  return wire_in_ended(in) && reason >= PEER_CLUSTER && reason <= PEER_TWICE;
}

/* An answer is still wanted: hellos are repeated. */
static void peer_want_hello(struct peer_set *s)
{
  if (s->hello_at == UINT64_MAX)
    s->hello_at = 0;
}

/* Hellos until it answers. */
static void peer_greet(struct peer *p)
{
  peer_say_hello(p);
  if (p->connected && !p->confirmed)
    peer_want_hello(peer_set_of(p));
}

/* Says what has become of a peer whose connection, boot or confirmation may have changed. */
static void peer_change(struct peer *p, uint64_t former)
{
  bool met = p->connected && p->confirmed;
  bool news = met != p->met || former != p->boot;
  p->met = met;
  if (!met)
    peer_drop(p);
  if (news)
    peer_set_of(p)->on_boot(peer_set_of(p)->arg, p, former);
}

/* Drops everything on its way to a peer. */
static void peer_unpin(struct peer *p)
{
  peer_drop(p);
  if (p->flying == 0)
    return;
  p->confirmed = false;
  if (p->connected)
    peer_want_hello(peer_set_of(p));
  peer_set_of(p)->env->net_reset(peer_set_of(p)->env, p->node);
}

void peer_reset(struct peer *p)
{
  peer_unpin(p);
  peer_change(p, p->boot);
}

void peer_raise(struct peer_set *s, uint64_t boot)
{
  if (s->twice || boot < s->boot || boot >= PEER_BOOT_MAX - PEER_BOOT_GAP)
    return;
  log_write(s->log, CHI_LOG_INFO, "node %u: a higher boot of this node is known; it begins anew",
            s->self);
  /* Not the very next one: a life that took it and died before anybody knew would be followed by
   * one that takes it again. */
  s->boot = boot + 1 + (s->life & PEER_BOOT_GAP);
  for (uint32_t i = 0; i < s->count; i++) {
    s->peer[i].confirmed = s->peer[i].met = false;
    peer_unpin(&s->peer[i]);
  }
  s->on_reborn(s->arg);
  for (uint32_t i = 0; i < s->count; i++)
    if (s->peer[i].connected)
      peer_greet(&s->peer[i]);
}

/* NULL: no memory. */
static struct peer_past *peer_past(struct peer *p)
{
  if (!p->past)
    p->past = alloc_zero(peer_set_of(p)->alloc, sizeof *p->past);
  return p->past;
}

static bool peer_is_former(const struct peer *p, uint64_t life)
{
  for (uint32_t i = 0; p->past && i < PEER_LIVES; i++)
    if (p->past->former[i] == life)
      return true;
  return false;
}

/* The present life is over; false: no memory to know it by. */
static bool peer_outlived(struct peer *p)
{
  struct peer_past *past = peer_past(p);
  if (!past)
    return false;
  past->former[past->former_next] = p->life;
  past->former_next = (past->former_next + 1) % PEER_LIVES;
  return true;
}

/* Whether this boot and life of a peer may follow what is known of it. A boot that another life has
 * already must be raised; a life that was followed by another one has no business to come back, so
 * then there are two daemons. */
static struct peer_refusal peer_judge_life(const struct peer *p, uint64_t boot, uint64_t life)
{
  bool other = p->life != 0 && p->life != life;
  if (boot < p->boot || (boot == p->boot && other))
    return (struct peer_refusal){PEER_STALE, boot, p->boot};
  if (other && peer_is_former(p, life))
    return (struct peer_refusal){PEER_TWICE, boot, p->boot};
  return (struct peer_refusal){PEER_WELCOME, 0, 0};
}

static struct peer_refusal peer_judge_hello(const struct peer *p, const struct wire_header *h,
                                            const struct peer_hello *hello)
{
  const struct peer_set *s = peer_set_of(p);
  if (hello->nodes != s->count)
    return (struct peer_refusal){PEER_NODES, hello->nodes, s->count};
  if (h->cluster != s->cluster)
    return (struct peer_refusal){PEER_CLUSTER, h->cluster, s->cluster};
  if (h->to != s->self)
    return (struct peer_refusal){PEER_TO, h->to, s->self};
  return peer_judge_life(p, h->from_boot, hello->life);
}

static struct peer_refusal peer_judge_batch(const struct peer *p, const struct wire_header *h)
{
  const struct peer_set *s = peer_set_of(p);
  if (h->cluster != s->cluster)
    return (struct peer_refusal){PEER_CLUSTER, h->cluster, s->cluster};
  if (h->to != s->self)
    return (struct peer_refusal){PEER_TO, h->to, s->self};
  if (h->to_boot != s->boot)
    return (struct peer_refusal){PEER_TO_BOOT, h->to_boot, s->boot};
  if (h->from_boot < p->boot)
    return (struct peer_refusal){PEER_STALE, h->from_boot, p->boot};
  if (h->from_boot > p->boot)
    return (struct peer_refusal){PEER_STRANGER, h->from_boot, p->boot};
  return (struct peer_refusal){PEER_WELCOME, 0, 0};
}

static const char *peer_reason_text(enum peer_reason reason, int *level)
{
  switch (reason) {
#define PEER_REASON_CASE(name, number, at, text)                                                   \
  case PEER_##name:                                                                                \
    *level = at;                                                                                   \
    return text;
    PEER_REASONS(PEER_REASON_CASE)
#undef PEER_REASON_CASE
  default:
    *level = CHI_LOG_WARNING;
    return "";
  }
}

/* Whether it is about settings of people: nothing but a change of them helps. */
static bool peer_is_setting(enum peer_reason reason)
{
  return reason == PEER_CLUSTER || reason == PEER_NODES || reason == PEER_TO;
}

uint64_t peer_refusals(const struct peer *p)
{
  return p->past ? p->past->refusals : 0;
}

struct log_limit *peer_complaints(struct peer *p)
{
  struct peer_past *past = peer_past(p);
  return past ? &past->complaints : &peer_set_of(p)->unsound;
}

/* Tells it, if it isn't told too often. */
static void peer_tell_refusal(struct peer *p, uint64_t to_boot, struct peer_refusal refusal)
{
  struct peer_set *s = peer_set_of(p);
  struct peer_past *past = peer_past(p);
  if (!past)
    return;
  past->refusals++;
  if (s->now < past->refuse_at)
    return;
  past->refuse_at = s->now + PEER_REFUSE_NS;
  peer_say_refuse(p, to_boot, refusal);
}

/* The message isn't heard: says so here and there. */
static void peer_refuse(struct peer *p, const struct wire_header *h, const char *instance,
                        struct peer_refusal refusal)
{
  struct peer_set *s = peer_set_of(p);
  int level;
  const char *text = peer_reason_text(refusal.reason, &level);
  log_limited(s->log, peer_complaints(p), s->now, level,
              "node %u (%s%s%s) is refused: %s: %llu, here %llu", p->node, peer_name(p),
              *instance ? ", " : "", instance, text, (unsigned long long)refusal.got,
              (unsigned long long)refusal.want);
  if (peer_is_setting(refusal.reason) && !p->confirmed)
    p->refused = true;
  peer_tell_refusal(p, h->from_boot, refusal);
}

/* A hello that fits: this is the peer, in this life. */
static void peer_welcome(struct peer *p, uint64_t boot, const struct peer_hello *hello)
{
  uint64_t former = p->boot;
  bool pinned = false;
  CHI_ASSERT(boot > former || (boot == former && (p->life == 0 || p->life == hello->life)));
  if (p->life != hello->life && p->life != 0 && !peer_outlived(p))
    return; /* it will say hello again */
  if (boot != former) {
    p->met = p->confirmed = false;
    pinned = p->flying > 0;
    peer_unpin(p);
  }
  p->boot = boot;
  p->life = hello->life;
  p->room = hello->room;
  p->refused = false;
  /* A connection that was just dropped can't carry records: it is confirmed when it is back. */
  p->confirmed = hello->heard == peer_set_of(p)->boot && !pinned;
  if (p->connected && !p->confirmed)
    peer_want_hello(peer_set_of(p));
  if (hello->ask)
    peer_say_hello(p);
  peer_change(p, former);
}

static void peer_drop_message(struct peer_set *s, const char *why)
{
  s->dropped++;
  log_limited(s->log, &s->unsound, s->now, CHI_LOG_WARNING, "a message was dropped: %s", why);
}

static void peer_on_hello(struct peer *p, const struct wire_header *h, struct wire_in *in)
{
  struct peer_set *s = peer_set_of(p);
  struct peer_hello hello;
  struct peer_refusal refusal;
  if (!peer_read_hello(in, &hello)) {
    peer_drop_message(s, "a hello that isn't sound");
    return;
  }
  refusal = peer_judge_hello(p, h, &hello);
  /* What an earlier life has heard of us is true all the same. */
  if (!peer_is_setting(refusal.reason) && hello.heard > s->boot)
    peer_raise(s, hello.heard);
  if (refusal.reason != PEER_WELCOME)
    peer_refuse(p, h, hello.instance, refusal);
  else
    peer_welcome(p, h->from_boot, &hello);
}

/* Hellos must be exchanged again before records are. */
static void peer_greet_anew(struct peer *p)
{
  p->confirmed = false;
  peer_greet(p);
  peer_change(p, p->boot);
}

static void peer_on_refuse(struct peer *p, const struct wire_header *h, struct wire_in *in)
{
  struct peer_set *s = peer_set_of(p);
  struct peer_refusal refusal;
  struct peer_past *past;
  const char *text;
  int level;
  if (!peer_read_refuse(in, &refusal)) {
    peer_drop_message(s, "a refusal that isn't sound");
    return;
  }
  if (h->to != s->self || h->to_boot != s->boot)
    return; /* of what another life, or another node, has sent */
  text = peer_reason_text(refusal.reason, &level);
  past = peer_past(p);
  log_limited(s->log, past ? &past->complained_of : &s->unsound, s->now, level,
              "node %u (%s) refuses this node: %s: %llu, there %llu", p->node, peer_name(p), text,
              (unsigned long long)refusal.got, (unsigned long long)refusal.want);
  if (peer_is_setting(refusal.reason)) {
    p->refused = p->refused || !p->confirmed;
    return;
  }
  if (h->cluster != s->cluster)
    return;
  if (refusal.reason == PEER_TWICE)
    s->twice = true;
  else if (refusal.reason == PEER_STALE)
    peer_raise(s, refusal.want);
  else if (refusal.reason == PEER_STRANGER ||
           (refusal.reason == PEER_TO_BOOT && h->from_boot > p->boot))
    peer_greet_anew(p);
  if (s->twice) { /* the other one is heard there */
    p->confirmed = false;
    peer_want_hello(s);
    peer_change(p, p->boot);
  }
}

/* ---- messages */

static void peer_deliver(struct peer *p, struct wire_in *in, const struct env_frame *bulk,
                         uint32_t left)
{
  struct peer_set *s = peer_set_of(p);
  uint64_t boot = s->boot;
  enum wire_kind kind;
  struct wire_in record;
  /* A record may tell that we must be reborn: what follows was for the former life. */
  while (s->boot == boot && wire_record_next(in, &bulk, &left, &kind, &record)) {
    if (kind == WIRE_HELLO || kind == WIRE_REFUSE)
      peer_drop_message(s, "a hello or refusal among other records");
    else
      s->on_record(s->arg, p, kind, &record);
  }
}

static void peer_on_sound(struct peer *p, const struct wire_header *h, struct wire_in *in,
                          const struct env_frame *bulk)
{
  struct wire_in ahead = *in, record;
  uint32_t left = h->bulk;
  const struct env_frame *at = bulk;
  enum wire_kind kind;
  bool first = wire_record_next(&ahead, &at, &left, &kind, &record);
  bool alone = h->records == 1;
  if (first && kind == WIRE_REFUSE && alone) {
    peer_on_refuse(p, h, &record);
  } else if (first && kind == WIRE_HELLO && alone) {
    peer_on_hello(p, h, &record);
  } else {
    struct peer_refusal refusal = peer_judge_batch(p, h);
    if (refusal.reason != PEER_WELCOME)
      peer_refuse(p, h, "", refusal);
    else
      peer_deliver(p, in, bulk, h->bulk);
  }
}

static void peer_on_version(struct peer_set *s, const struct wire_header *h)
{
  bool ours = h->cluster == s->cluster && h->from < s->count;
  s->dropped++;
  /* No refusal: it would be refused as well, for the same reason, and so on. */
  log_limited(s->log, &s->foreign, s->now, CHI_LOG_WARNING,
              "node %u (%s) is refused: version of the protocol: %u, here %u", h->from,
              ours ? s->hosts[h->from].name : "of another cluster", h->version, WIRE_VERSION);
}

static void peer_on_nobody(struct peer_set *s, const struct wire_header *h)
{
  s->dropped++;
  if (h->from == s->self && h->cluster == s->cluster)
    log_limited(s->log, &s->twin, s->now, CHI_LOG_ERROR,
                "another daemon says that it is node %u (%s), which is this one", s->self,
                s->hosts[s->self].name);
  else
    log_limited(s->log, &s->foreign, s->now, CHI_LOG_WARNING,
                "node %u of another cluster is refused: digest of the host list: %llu, here %llu",
                h->from, (unsigned long long)h->cluster, (unsigned long long)s->cluster);
}

void peer_on_message(struct peer_set *s, uint64_t now, const struct env_frame *frame,
                     uint32_t count)
{
  struct wire_header h;
  struct wire_in in;
  int rc = wire_header_get(frame, count, &h, &in);
  s->now = now;
  if (rc == CHI_EVERSION) {
    peer_on_version(s, &h);
  } else if (rc != CHI_OK || h.from_boot == 0 || h.from_boot > PEER_BOOT_MAX) {
    peer_drop_message(s, "it isn't sound");
  } else if (h.from >= s->count || h.from == s->self) {
    peer_on_nobody(s, &h);
  } else {
    struct peer *p = &s->peer[h.from];
    p->received++;
    p->bytes_received += frame[0].size + h.bulk_bytes;
    peer_on_sound(p, &h, &in, frame + 1);
  }
}

void peer_on_link(struct peer_set *s, uint32_t node, bool connected)
{
  struct peer *p;
  CHI_ASSERT(node < s->count && node != s->self);
  p = &s->peer[node];
  p->connected = connected;
  p->confirmed = false;
  if (connected)
    peer_greet(p);
  peer_change(p, p->boot);
}

void peer_on_sent(struct peer_set *s, void *batch)
{
  struct peer_batch *b = batch;
  CHI_ASSERT(b && peer_set_of(b->peer) == s && b->peer->flying > 0);
  peer_land(s, b);
  peer_batch_release(s, b);
}

/* ---- time */

/* Returns whether a peer was left that must be asked again. */
static bool peer_repeat_hellos(struct peer_set *s)
{
  bool any = false;
  for (uint32_t i = 0; i < s->count; i++) {
    struct peer *p = &s->peer[i];
    if (!p->connected || p->confirmed)
      continue;
    any = true;
    peer_say_hello(p);
  }
  return any;
}

static void peer_flush_pending(struct peer_set *s)
{
  uint32_t next = s->pending;
  s->pending = s->pending_last = 0;
  while (next) {
    struct peer *p = &s->peer[next - 1];
    int rc = peer_send(p);
    next = p->next;
    p->queued = false;
    if (rc == CHI_OK)
      continue;
    if (rc == CHI_EUNREACHABLE) {
      p->confirmed = false;
      peer_want_hello(s);
      peer_change(p, p->boot);
    } else {
      peer_queue(p);
    }
  }
}

uint64_t peer_flush(struct peer_set *s, uint64_t now, uint64_t poll_ns)
{
  uint64_t again;
  s->now = now;
  peer_flush_pending(s);
  if (s->hello_at == 0)
    s->hello_at = now + poll_ns;
  else if (now >= s->hello_at)
    s->hello_at = peer_repeat_hellos(s) ? now + poll_ns : UINT64_MAX;
  again = s->pending ? now + PEER_RETRY_NS : UINT64_MAX;
  return again < s->hello_at ? again : s->hello_at;
}

/* ---- life */

/* Over the names of the list as written, but for case and the dot at a name's end: addresses may
 * differ from place to place. */
static uint64_t peer_digest(const chi_config *config)
{
  struct hash_stream stream;
  hash_stream_init(&stream, WIRE_MAGIC);
  hash_stream_u64(&stream, config->host_count);
  for (uint32_t i = 0; i < config->host_count; i++) {
    char name[CHI_NAME_MAX];
    size_t size = strnlen(config->hosts[i].name, sizeof name);
    for (size_t k = 0; k < size; k++) {
      char c = config->hosts[i].name[k];
      name[k] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    if (size > 1 && name[size - 1] == '.')
      size--;
    hash_stream_bytes(&stream, name, size);
  }
  return hash_stream_finish(&stream);
}

/* Higher than that of an earlier life if the machine's clock is right; if it isn't, the peers say
 * so. Never 0 and well below PEER_BOOT_MAX. */
static uint64_t peer_first_boot(struct env *env)
{
  uint64_t ms = env->wall(env) / 1000000u;
  uint64_t boot = ms << 16 | (env->random(env) & 0xffffu);
  return boot > 0 ? boot : 1;
}

static size_t peer_list_size(uint32_t count)
{
  return sizeof(struct peer_list) + count * sizeof(struct peer);
}

static void peer_list_free(struct peer_set *s)
{
  struct peer_list *list = CHI_CONTAINER_OF(s->peer, struct peer_list, peer);
  alloc_put(s->alloc, list, peer_list_size(s->count));
  s->peer = NULL;
}

int peer_open(struct peer_set *s, struct env *env, struct log *log, const chi_config *config,
              uint32_t self, const char *instance, chi_error *err)
{
  uint32_t count = config->host_count > 0 ? config->host_count : 1;
  int rc = CHI_OK;
  CHI_ASSERT(self < count);
  *s = (struct peer_set){.env = env, .alloc = &env->alloc, .log = log, .self = self,
                         .count = count, .instance = instance, .hosts = config->hosts,
                         .room = config->bulk_max, .hello_at = UINT64_MAX};
  s->cluster = peer_digest(config);
  s->boot = peer_first_boot(env);
  s->life = env->random(env) | 1;
  struct peer_list *list = alloc_zero(s->alloc, peer_list_size(count));
  if (!list)
    return error_set(err, CHI_ENOMEM, "no memory for %u nodes", count);
  list->set = s;
  s->peer = list->peer;
  for (uint32_t i = 0; i < count; i++)
    s->peer[i].node = i;
  if (count > 1)
    rc = env->net_open(env, config->hosts, count, self, config->port, err);
  if (rc != CHI_OK)
    peer_list_free(s);
  return rc;
}

void peer_close(struct peer_set *s)
{
  struct peer_batch *b;
  if (!s->peer)
    return;
  if (s->count > 1)
    s->env->net_close(s->env);
  for (uint32_t i = 0; i < s->count; i++) {
    s->peer[i].connected = s->peer[i].confirmed = s->peer[i].met = false;
    peer_drop(&s->peer[i]);
    alloc_put(s->alloc, s->peer[i].past, sizeof *s->peer[i].past);
  }
  while ((b = s->flying)) {
    peer_land(s, b);
    peer_batch_release(s, b);
  }
  if (s->spare)
    peer_batch_put(s, s->spare);
  peer_list_free(s);
}

#undef PEER_BOOT_MAX
#undef PEER_BOOT_GAP
#undef PEER_REFUSE_NS
#undef PEER_LIVES
#undef PEER_ROOM_MIN
#undef PEER_INSTANCE
#undef PEER_SINGLE
#undef PEER_REASONS
