/* test_member.c - one member and hand-made records: order of news, answers, what is refused. */
#include "member.h"
#include "scarce.h"
#include "test.h"

#include <stdlib.h>

#define SECOND 1000000000ull

static struct scarce lone_memory = {.fail_at = -1};
static const struct alloc lone_alloc = SCARCE_ALLOC(&lone_memory);

/* ---- one node and hand-made records */

struct lone {
  struct member *m;
  uint32_t sent, changes, digests, own_boots, to;
  enum wire_kind kind;
  enum member_state state;
  uint64_t boot, digest;
  unsigned char bytes[MEMBER_RECORD_MAX];
  size_t size;
};

static uint64_t lone_random(void *arg)
{
  (void)arg;
  return 42;
}

static void lone_send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  struct lone *l = arg;
  l->sent++;
  l->to = to;
  l->kind = kind;
  l->size = size;
  memcpy(l->bytes, bytes, size);
}

static void lone_on_change(void *arg, uint32_t node, enum member_state state, uint64_t boot)
{
  struct lone *l = arg;
  (void)node;
  l->changes++;
  l->state = state;
  l->boot = boot;
}

static void lone_on_own_boot(void *arg, uint64_t boot)
{
  struct lone *l = arg;
  l->own_boots++;
  l->boot = boot;
}

static void lone_on_digest(void *arg, uint32_t from, uint64_t digest)
{
  struct lone *l = arg;
  (void)from;
  l->digests++;
  l->digest = digest;
}

/* Node 1 of 5, boot 100. */
static struct member_options lone_options(struct lone *l)
{
  *l = (struct lone){0};
  return (struct member_options){.alloc = &lone_alloc,
                                 .self = 1,
                                 .count = 5,
                                 .boot = 100,
                                 .interval_ns = SECOND,
                                 .random = lone_random,
                                 .send = lone_send,
                                 .on_change = lone_on_change,
                                 .on_own_boot = lone_on_own_boot,
                                 .on_digest = lone_on_digest,
                                 .arg = l};
}

static void lone_open(struct lone *l)
{
  const struct member_options o = lone_options(l);
  if (member_open(&o, &l->m) != CHI_OK)
    abort();
}

struct note {
  uint32_t node;
  uint64_t boot;
  uint32_t refute;
  uint8_t state;
};

struct letter {
  uint64_t boot;
  uint32_t refute;
  uint64_t digest, sequence;
  uint32_t origin, subject, count;
  struct note note[60];
};

static size_t letter_write(const struct letter *r, unsigned char *bytes, size_t room)
{
  struct wire_out out;
  wire_out_init(&out, bytes, room);
  wire_put_u64(&out, r->boot);
  wire_put_u32(&out, r->refute);
  wire_put_u64(&out, r->digest);
  wire_put_u64(&out, r->sequence);
  wire_put_u32(&out, r->origin);
  wire_put_u32(&out, r->subject);
  wire_put_u16(&out, (uint16_t)r->count);
  for (uint32_t i = 0; i < r->count; i++) {
    wire_put_u32(&out, r->note[i].node);
    wire_put_u64(&out, r->note[i].boot);
    wire_put_u32(&out, r->note[i].refute);
    wire_put_u8(&out, r->note[i].state);
  }
  return out.used;
}

static bool letter_read(const unsigned char *bytes, size_t size, struct letter *r)
{
  struct wire_in in;
  wire_in_init(&in, bytes, size);
  r->boot = wire_get_u64(&in);
  r->refute = wire_get_u32(&in);
  r->digest = wire_get_u64(&in);
  r->sequence = wire_get_u64(&in);
  r->origin = wire_get_u32(&in);
  r->subject = wire_get_u32(&in);
  r->count = wire_get_u16(&in);
  for (uint32_t i = 0; i < r->count && i < 60; i++) {
    r->note[i].node = wire_get_u32(&in);
    r->note[i].boot = wire_get_u64(&in);
    r->note[i].refute = wire_get_u32(&in);
    r->note[i].state = wire_get_u8(&in);
  }
  return wire_in_ended(&in);
}

static int lone_hear(struct lone *l, uint32_t from, enum wire_kind kind, const struct letter *r)
{
  unsigned char bytes[2000];
  struct wire_in in;
  wire_in_init(&in, bytes, letter_write(r, bytes, sizeof bytes));
  return member_on_record(l->m, 10 * SECOND, from, kind, &in);
}

/* Lets time pass until a node is probed; when it wants to be called next. */
static uint64_t lone_until_probed(struct lone *l, uint32_t node)
{
  uint64_t at = SECOND;
  for (int i = 0; i < 200 && (l->sent == 0 || l->to != node || l->kind != WIRE_PROBE); i++)
    at = member_step(l->m, at);
  return at;
}

/* A probe of node 1 by node 0 with one piece of news. */
static struct letter letter_with(struct note note)
{
  return (struct letter){
      .boot = 7, .digest = 9, .sequence = 5, .subject = 1, .count = 1, .note = {note}};
}

TEST(member_news_is_ordered)
{
  static const struct note order[] = {{3, 5, 0, MEMBER_ALIVE},   {3, 5, 0, MEMBER_SUSPECT},
                                      {3, 5, 0, MEMBER_DEAD},    {3, 5, 1, MEMBER_ALIVE},
                                      {3, 5, 1, MEMBER_SUSPECT}, {3, 5, 9, MEMBER_DEAD},
                                      {3, 6, 0, MEMBER_ALIVE},   {3, 6, 0, MEMBER_DEAD},
                                      {3, 7, 3, MEMBER_SUSPECT}, {3, 7, 4, MEMBER_ALIVE}};
  for (uint32_t a = 0; a < CHI_COUNT(order); a++) {
    for (uint32_t b = 0; b < CHI_COUNT(order); b++) {
      struct lone l;
      struct letter first = letter_with(order[a]), second = letter_with(order[b]);
      const struct note *wins = &order[a > b ? a : b];
      lone_open(&l);
      CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &first), CHI_OK);
      CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &second), CHI_OK);
      CHECK(member_state(l.m, 3) == wins->state && member_boot(l.m, 3) == wins->boot);
      CHECK_INT(member_alive_count(l.m), wins->state == MEMBER_DEAD ? 2 : 3);
      CHECK_INT(l.digest, 9);
      member_close(l.m);
    }
  }
}

TEST(member_answers_a_probe)
{
  struct lone l;
  struct letter probe = letter_with((struct note){3, 5, 2, MEMBER_SUSPECT}), answer = {0};
  lone_open(&l);
  probe.origin = 4; /* for whom node 0 asks */
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &probe), CHI_OK);
  CHECK(l.sent == 1 && l.to == 0 && l.kind == WIRE_PROBE_ACK && l.digests == 1);
  CHECK(letter_read(l.bytes, l.size, &answer));
  CHECK(answer.boot == 100 && answer.refute == 0 && answer.sequence == 5 && answer.origin == 4);
  CHECK(answer.subject == 1 && answer.digest == 0 && answer.count == 1);
  CHECK(answer.note[0].node == 3 && answer.note[0].boot == 5 && answer.note[0].refute == 2);
  CHECK_INT(answer.note[0].state, MEMBER_SUSPECT);
  CHECK(member_state(l.m, 0) == MEMBER_ALIVE && member_state(l.m, 4) == MEMBER_UNKNOWN);
  member_close(l.m);
}

TEST(member_passes_probes_and_answers_on)
{
  struct lone l;
  struct letter ask = {.boot = 7, .sequence = 5, .subject = 2}, out = {0};
  lone_open(&l);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE_ASK, &ask), CHI_OK);
  CHECK(l.sent == 2 && l.to == 2 && l.kind == WIRE_PROBE);
  CHECK(letter_read(l.bytes, l.size, &out) && out.origin == 0 && out.subject == 2);
  CHECK_INT(out.sequence, 5);
  out = (struct letter){.boot = 8, .refute = 6, .sequence = 5, .origin = 0, .subject = 2};
  CHECK_INT(lone_hear(&l, 2, WIRE_PROBE_ACK, &out), CHI_OK);
  CHECK(l.sent == 3 && l.to == 0 && l.kind == WIRE_PROBE_ACK);
  CHECK(letter_read(l.bytes, l.size, &out) && out.origin == 0 && out.subject == 2);
  CHECK(out.boot == 100 && out.count >= 1 && out.note[0].node == 2 && out.note[0].refute == 6);
  member_close(l.m);
}

TEST(member_contradicts)
{
  struct lone l;
  struct letter r = letter_with((struct note){1, 100, 0, MEMBER_SUSPECT}), answer = {0};
  lone_open(&l);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.refute == 1);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK); /* known already */
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.refute == 1);
  r = letter_with((struct note){1, 100, 77, MEMBER_DEAD});
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.refute == 78);
  r = letter_with((struct note){1, 99, 500, MEMBER_DEAD}); /* an earlier life: let it rest */
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.refute == 78);
  r = letter_with((struct note){1, 100, MEMBER_REFUTE_MAX - 1, MEMBER_DEAD});
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.refute == MEMBER_REFUTE_MAX);
  CHECK(l.own_boots == 0 && member_figures(l.m)->refuted == 3);
  CHECK(member_state(l.m, 1) == MEMBER_ALIVE && member_boot(l.m, 1) == 100);
  member_close(l.m);
}

TEST(member_is_reborn_above_what_is_known_of_it)
{
  struct lone l;
  struct letter r = letter_with((struct note){1, 200, 3, MEMBER_DEAD}), answer = {0};
  lone_open(&l);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(l.own_boots == 1 && l.boot == 200);
  member_reborn(l.m, 201);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(l.own_boots == 1 && member_boot(l.m, 1) == 201);
  CHECK(letter_read(l.bytes, l.size, &answer) && answer.boot == 201 && answer.refute == 0);
  member_close(l.m);
}

TEST(member_that_was_met_is_there)
{
  struct lone l;
  struct letter r = letter_with((struct note){3, 5, 4, MEMBER_DEAD}), out = {0};
  lone_open(&l);
  member_on_boot(l.m, 3, 4);
  CHECK(l.changes == 1 && l.state == MEMBER_ALIVE && l.boot == 4 && l.sent == 0);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(l.state == MEMBER_DEAD && l.boot == 5);
  member_on_boot(l.m, 3, 4); /* changes nothing, and is told of the life that is known */
  CHECK(member_state(l.m, 3) == MEMBER_DEAD && l.sent == 2 && l.to == 3);
  CHECK(letter_read(l.bytes, l.size, &out) && out.count >= 1);
  member_on_boot(l.m, 3, 5); /* is told what is said of it */
  CHECK(l.sent == 3 && l.to == 3 && l.kind == WIRE_PROBE);
  CHECK(letter_read(l.bytes, l.size, &out) && out.count >= 1);
  CHECK(out.note[0].node == 3 && out.note[0].refute == 4 && out.note[0].state == MEMBER_DEAD);
  member_on_boot(l.m, 3, 6);
  CHECK(member_state(l.m, 3) == MEMBER_ALIVE && member_boot(l.m, 3) == 6);
  member_close(l.m);
}

TEST(member_takes_no_answer_to_another_question)
{
  struct lone l;
  struct letter probe = {0}, r;
  lone_open(&l);
  member_on_boot(l.m, 0, 7);
  uint64_t at = lone_until_probed(&l, 0);
  CHECK(l.to == 0 && letter_read(l.bytes, l.size, &probe));
  r = (struct letter){.boot = 7, .sequence = probe.sequence - 1, .origin = 1, .subject = 0};
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE_ACK, &r), CHI_OK);
  member_step(l.m, at + SECOND / 4);
  at = member_step(l.m, at + SECOND);
  CHECK(member_state(l.m, 0) == MEMBER_SUSPECT && member_figures(l.m)->failed == 1);
  CHECK_INT(member_alive_count(l.m), 2);
  member_close(l.m);
}

TEST(member_asks_nobody_about_the_dead)
{
  struct lone l;
  struct letter news = letter_with((struct note){0, 7, 0, MEMBER_DEAD});
  lone_open(&l);
  member_on_boot(l.m, 0, 7);
  uint64_t at = lone_until_probed(&l, 0);
  news.origin = 2;
  CHECK_INT(lone_hear(&l, 2, WIRE_PROBE, &news), CHI_OK);
  member_on_boot(l.m, 2, 8);
  uint32_t sent = l.sent;
  CHECK(member_step(l.m, at) > at);
  CHECK(l.sent == sent && member_figures(l.m)->asked == 0);
  member_close(l.m);
}

/* Each of these must be refused and leave no trace. */
static bool lone_refuses(uint32_t from, enum wire_kind kind, const struct letter *r, size_t cut,
                         bool longer)
{
  struct lone l;
  unsigned char bytes[2000] = {0};
  struct wire_in in;
  lone_open(&l);
  size_t size = letter_write(r, bytes, sizeof bytes);
  wire_in_init(&in, bytes, longer ? size + 1 : cut < size ? cut : size);
  bool good = member_on_record(l.m, SECOND, from, kind, &in) == CHI_ECORRUPT;
  good = good && l.sent == 0 && l.changes == 0 && l.digests == 0 && l.own_boots == 0;
  good = good && member_alive_count(l.m) == 1 && member_figures(l.m)->refused == 1;
  member_close(l.m);
  return good;
}

TEST(member_refuses_cut_and_overlong_records)
{
  struct letter r = letter_with((struct note){3, 5, 2, MEMBER_ALIVE});
  unsigned char bytes[2000];
  size_t size = letter_write(&r, bytes, sizeof bytes);
  CHECK_INT(size, 38 + 17);
  for (size_t cut = 0; cut < size; cut++)
    CHECK(lone_refuses(0, WIRE_PROBE, &r, cut, false));
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, true));
  r.count = 57;
  for (uint32_t i = 0; i < 57; i++)
    r.note[i] = (struct note){3, 5, i, MEMBER_ALIVE};
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  struct lone l;
  lone_open(&l);
  r.count = 56;
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  member_close(l.m);
}

TEST(member_refuses_impossible_fields)
{
  static const struct note bad[] = {{5, 5, 2, MEMBER_ALIVE},
                                    {3, 0, 2, MEMBER_ALIVE},
                                    {3, 5, 2, MEMBER_UNKNOWN},
                                    {3, 5, 2, MEMBER_DEAD + 1},
                                    {3, 5, MEMBER_REFUTE_MAX + 1, MEMBER_ALIVE},
                                    {3, 5, MEMBER_REFUTE_MAX, MEMBER_SUSPECT},
                                    {3, 5, MEMBER_REFUTE_MAX, MEMBER_DEAD}};
  for (uint32_t i = 0; i < CHI_COUNT(bad); i++) {
    struct letter r = letter_with((struct note){2, 5, 2, MEMBER_ALIVE});
    r.note[r.count++] = bad[i];
    CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  }
  struct letter good = letter_with((struct note){2, 5, 2, MEMBER_ALIVE}), r = good;
  r.boot = 0;
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  r = good;
  r.refute = MEMBER_REFUTE_MAX + 1;
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  r = good;
  r.origin = 5;
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  r = good;
  r.subject = 5;
  CHECK(lone_refuses(0, WIRE_PROBE, &r, SIZE_MAX, false));
  CHECK(lone_refuses(1, WIRE_PROBE, &good, SIZE_MAX, false)); /* from this node itself */
  CHECK(lone_refuses(5, WIRE_PROBE, &good, SIZE_MAX, false)); /* from no node */
  CHECK(lone_refuses(0, WIRE_POOL, &good, SIZE_MAX, false));
}

TEST(member_refuses_wrong_parts)
{
  static const struct {
    enum wire_kind kind;
    uint32_t from, origin, subject;
  } bad[] = {
      {WIRE_PROBE, 0, 0, 2},     /* for another node */
      {WIRE_PROBE, 0, 1, 1},     /* this node asks about itself */
      {WIRE_PROBE_ASK, 0, 2, 3}, /* on behalf of somebody else */
      {WIRE_PROBE_ASK, 0, 0, 1}, /* to probe itself */
      {WIRE_PROBE_ASK, 0, 0, 0}, /* to probe the asker */
      {WIRE_PROBE_ACK, 0, 1, 1}, /* this node is there: it knows */
      {WIRE_PROBE_ACK, 0, 2, 3}, /* passed on twice */
      {WIRE_PROBE_ACK, 0, 0, 0}, /* about itself to itself */
      {WIRE_PROBE_ACK, 0, 0, 3}, /* for the sender to itself */
  };
  for (uint32_t i = 0; i < CHI_COUNT(bad); i++) {
    struct letter r = {
        .boot = 7, .sequence = 5, .origin = bad[i].origin, .subject = bad[i].subject};
    CHECK(lone_refuses(bad[i].from, bad[i].kind, &r, SIZE_MAX, false));
  }
}

TEST(member_open_without_memory)
{
  struct lone l;
  const struct member_options o = lone_options(&l);
  lone_memory.fail_at = 0;
  CHECK_INT(member_open(&o, &l.m), CHI_ENOMEM);
  lone_memory.fail_at = -1;
  CHECK(lone_memory.bytes == 0);
  CHECK_INT(member_open(&o, &l.m), CHI_OK);
  member_close(l.m);
  CHECK(lone_memory.bytes == 0);
}

TEST(member_memory_per_node)
{
  struct lone l;
  struct member_options o = lone_options(&l);
  int64_t one, many;
  o.self = 0;
  o.count = 1;
  CHECK_INT(member_open(&o, &l.m), CHI_OK);
  one = lone_memory.bytes;
  member_close(l.m);
  o.count = MEMBER_MOST;
  CHECK_INT(member_open(&o, &l.m), CHI_OK);
  many = lone_memory.bytes;
  member_close(l.m);
  CHECK(one <= 4096 && many - one <= 48 * (MEMBER_MOST - 1));
}

TEST(member_patience_grows_slowly)
{
  CHECK(member_patience(2) == 4 && member_patience(3) == 6 && member_patience(1000) == 22);
  CHECK_INT(member_patience(MEMBER_MOST), 26);
}

/* Regression: a clock that went back let a node live with a boot below one that others knew. */
TEST(member_tells_a_node_of_its_own_later_life)
{
  struct lone l;
  struct letter r = letter_with((struct note){3, 9, 0, MEMBER_ALIVE}), out = {0};
  lone_open(&l);
  CHECK_INT(lone_hear(&l, 0, WIRE_PROBE, &r), CHI_OK);
  CHECK(l.state == MEMBER_ALIVE && l.boot == 9 && l.sent == 1); /* the acknowledgement */
  r = letter_with((struct note){0, 1, 0, MEMBER_ALIVE});
  r.boot = 4; /* of who writes: node 3, in a life that is over */
  CHECK_INT(lone_hear(&l, 3, WIRE_PROBE, &r), CHI_OK);
  CHECK(l.sent == 3 && l.to == 3);
  member_on_boot(l.m, 3, 4);
  CHECK(l.sent == 4 && l.to == 3 && l.kind == WIRE_PROBE);
  CHECK(letter_read(l.bytes, l.size, &out) && out.count >= 1);
  CHECK(out.note[0].node == 3 && out.note[0].boot == 9);
  member_close(l.m);
}
