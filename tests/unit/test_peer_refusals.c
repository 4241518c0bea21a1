/* test_peer_refusals.c - each field of header, hello and refusal once wrong; the document's bytes.
 */
#include "peer_toy.h"
#include "example.h"
#include "hash.h"
#include "test.h"

/* ---- each field once wrong: header */

/* A message as node 0 would send it to node 1, to be spoilt. */
struct peer_forged {
  unsigned char bytes[512];
  struct wire_out out;
  struct wire_header h;
  size_t begin;
};

static void peer_forge(struct peer_toys *w, struct peer_forged *f, enum wire_kind kind)
{
  memset(f, 0, sizeof *f);
  wire_out_init(&f->out, f->bytes, sizeof f->bytes);
  f->out.used = WIRE_HEADER;
  f->begin = wire_record_begin(&f->out, kind);
  f->h = (struct wire_header){.records = 1,
                              .cluster = w->node[0].set.cluster,
                              .from = 0,
                              .to = 1,
                              .from_boot = w->node[0].set.boot,
                              .to_boot = w->node[1].set.boot};
}

static void peer_forge_deliver(struct peer_toys *w, struct peer_forged *f)
{
  struct env_frame frame = {f->bytes, f->out.used};
  wire_record_end(&f->out, f->begin, 0);
  wire_header_put(f->bytes, f->out.used, &f->h);
  w->now += PEER_POLL; /* so that no line and no refusal is held back */
  w->node[1].line[0] = '\0';
  peer_on_message(&w->node[1].set, w->now, &frame, 1);
}

static void peer_forge_record(struct peer_toys *w, struct peer_forged *f)
{
  peer_forge(w, f, WIRE_ASK);
  wire_put_u32(&f->out, 11);
}

/* The last message of node 1 is a refusal for this reason, and node 0 does as told. */
static bool peer_refused_for(struct peer_toys *w, uint16_t reason)
{
  struct peer_letter *m = w->node[1].mail_last;
  struct wire_header h;
  struct wire_in in;
  if (!m || wire_header_get(m->frame, m->count, &h, &in) != CHI_OK)
    return false;
  in.at += 4;
  if (wire_get_u16(&in) != WIRE_REFUSE)
    return false;
  in.at += 2;
  return wire_get_u16(&in) == reason;
}

TEST(peer_header_is_right)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_record(w, &f);
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 1 && w->node[1].seen[0].value == 11 && !w->node[1].mail);
  peer_toys_close(w);
}

TEST(peer_header_cluster)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_record(w, &f);
  f.h.cluster++;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && strstr(w->node[1].line, "digest of the host list"));
  CHECK(peer_refused_for(w, 1) && peer_refusals(peer_of(w, 1, 0)) == 1);
  CHECK(peer_of(w, 1, 0)->met && !peer_of(w, 1, 0)->refused); /* a stray one changes nothing */
  peer_toys_close(w);
}

TEST(peer_header_from)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_record(w, &f);
  f.h.from = PEER_NODES; /* nobody */
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && w->node[1].set.dropped == 1 && !w->node[1].mail);
  CHECK(strstr(w->node[1].line, "another cluster"));
  f.h.from = 2; /* somebody else, who was never heard of */
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && peer_refusals(peer_of(w, 1, 2)) == 1);
  peer_toys_close(w);
}

TEST(peer_header_to)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_record(w, &f);
  f.h.to = 2;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && strstr(w->node[1].line, "written to: 2, here 1"));
  CHECK(peer_refused_for(w, 3));
  peer_toys_close(w);
}

TEST(peer_header_from_boot)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t boot = w->node[0].set.boot;
  peer_forge_record(w, &f);
  f.h.from_boot = 0;
  peer_forge_deliver(w, &f);
  f.h.from_boot = 1ull << 63;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].set.dropped == 2 && !w->node[1].mail && peer_refusals(peer_of(w, 1, 0)) == 0);
  f.h.from_boot = boot - 1;
  peer_forge_deliver(w, &f);
  CHECK(peer_refused_for(w, 5));
  f.h.from_boot = boot + 1;
  peer_forge_deliver(w, &f);
  CHECK(peer_refused_for(w, 6));
  CHECK(w->node[1].seen_count == 0 && peer_of(w, 1, 0)->boot == boot);
  CHECK(peer_toys_settle(w) && w->node[0].reborn == 0); /* neither was of its present life */
  CHECK(peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_header_to_boot)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_record(w, &f);
  f.h.to_boot--;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && peer_refused_for(w, 4));
  f.h.to_boot = 0; /* for hellos and refusals only */
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].seen_count == 0 && peer_refusals(peer_of(w, 1, 0)) == 2);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_header_version)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  struct env_frame frame;
  peer_forge_record(w, &f);
  wire_header_put(f.bytes, f.out.used, &f.h);
  f.bytes[4]++;
  frame = (struct env_frame){f.bytes, f.out.used};
  peer_on_message(&w->node[1].set, w->now, &frame, 1);
  CHECK(w->node[1].seen_count == 0 && w->node[1].set.dropped == 1 && !w->node[1].mail);
  CHECK(strstr(w->node[1].line, "version of the protocol: 3, here 2"));
  CHECK(strstr(w->node[1].line, "alpha"));
  peer_toys_close(w);
}

TEST(peer_header_version_of_others)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  struct env_frame frame;
  peer_forge_record(w, &f);
  f.h.from = UINT32_MAX;
  wire_header_put(f.bytes, f.out.used, &f.h);
  f.bytes[5]++;
  frame = (struct env_frame){f.bytes, f.out.used};
  peer_on_message(&w->node[1].set, w->now, &frame, 1);
  CHECK(strstr(w->node[1].line, "of another cluster") && w->node[1].set.dropped == 1);
  peer_toys_close(w);
}

TEST(peer_header_corrupt)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  struct env_frame frame;
  peer_forge_record(w, &f);
  wire_header_put(f.bytes, f.out.used, &f.h);
  frame = (struct env_frame){f.bytes, f.out.used};
  for (size_t i = 0; i < f.out.used; i++) {
    f.bytes[i] ^= 0x40;
    peer_on_message(&w->node[1].set, w->now, &frame, 1);
    f.bytes[i] ^= 0x40;
  }
  CHECK(w->node[1].seen_count == 0 && w->node[1].set.dropped == f.out.used && !w->node[1].mail);
  CHECK_INT(w->node[1].lines, 2); /* of all those: not sound, of another version */
  peer_on_message(&w->node[1].set, w->now, &frame, 0);
  CHECK_INT(w->node[1].set.dropped, f.out.used + 1);
  peer_toys_close(w);
}

/* ---- each field once wrong: hello */

static void peer_forge_room(struct peer_toys *w, struct peer_forged *f, uint32_t nodes,
                            uint64_t life, uint64_t heard, uint8_t ask, uint64_t room,
                            const char *instance)
{
  peer_forge(w, f, WIRE_HELLO);
  wire_put_u32(&f->out, nodes);
  wire_put_u64(&f->out, life);
  wire_put_u64(&f->out, heard);
  wire_put_u8(&f->out, ask);
  wire_put_u64(&f->out, room);
  wire_put_text(&f->out, instance);
}

static void peer_forge_hello(struct peer_toys *w, struct peer_forged *f, uint32_t nodes,
                             uint64_t life, uint64_t heard, uint8_t ask, const char *instance)
{
  peer_forge_room(w, f, nodes, life, heard, ask, WIRE_BULK_MAX, instance);
}

/* A hello of node 0 that is right but for what is given; true: it was dropped as not sound. */
static bool peer_hello_dropped(struct peer_toys *w, uint64_t life, uint64_t heard, uint8_t ask,
                               const char *instance)
{
  struct peer_forged f;
  uint64_t dropped = w->node[1].set.dropped;
  peer_forge_hello(w, &f, PEER_NODES, life, heard, ask, instance);
  peer_forge_deliver(w, &f);
  return w->node[1].set.dropped == dropped + 1 && !w->node[1].mail && w->node[1].reborn == 0;
}

TEST(peer_hello_room)
{
  static const uint64_t bad[] = {0, (1 << 20) - 1, WIRE_BULK_MAX + 1, UINT64_MAX};
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    uint64_t dropped = w->node[1].set.dropped;
    peer_forge_room(w, &f, PEER_NODES, w->node[0].set.life, w->node[1].set.boot, 0, bad[i], "x");
    peer_forge_deliver(w, &f);
    CHECK_INT(w->node[1].set.dropped, dropped + 1);
  }
  CHECK(w->node[1].set.peer[0].room == WIRE_BULK_MAX);
  peer_forge_room(w, &f, PEER_NODES, w->node[0].set.life, w->node[1].set.boot, 0, 1 << 20, "x");
  peer_forge_deliver(w, &f);
  CHECK_INT(w->node[1].set.peer[0].room, 1 << 20);
  peer_toys_close(w);
}

TEST(peer_hello_life)
{
  struct peer_toys *w = peer_toys_met();
  CHECK(peer_hello_dropped(w, 0, w->node[1].set.boot, 1, "x"));
  peer_toys_close(w);
}

TEST(peer_hello_heard)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t life = w->node[0].set.life;
  CHECK(peer_hello_dropped(w, life, UINT64_MAX, 0, "x"));
  CHECK(peer_hello_dropped(w, life, UINT64_MAX >> 1, 0, "x"));
  peer_toys_close(w);
}

TEST(peer_hello_ask)
{
  struct peer_toys *w = peer_toys_met();
  CHECK(peer_hello_dropped(w, w->node[0].set.life, w->node[1].set.boot, 2, "x"));
  CHECK(!peer_hello_dropped(w, w->node[0].set.life, w->node[1].set.boot, 0, "x"));
  peer_toys_close(w);
}

TEST(peer_hello_instance)
{
  struct peer_toys *w = peer_toys_met();
  char text[CHI_NAME_MAX + 9];
  memset(text, 'x', sizeof text);
  text[CHI_NAME_MAX + 8] = '\0';
  CHECK(peer_hello_dropped(w, w->node[0].set.life, w->node[1].set.boot, 0, text));
  text[CHI_NAME_MAX + 7] = '\0';
  CHECK(!peer_hello_dropped(w, w->node[0].set.life, w->node[1].set.boot, 0, text));
  peer_toys_close(w);
}

TEST(peer_hello_length)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t dropped = 0;
  for (size_t size = 0; size < 32; size++) {
    peer_forge_hello(w, &f, PEER_NODES, w->node[0].set.life, w->node[1].set.boot, 1, "x");
    f.out.used = f.begin + WIRE_RECORD + (size < 31 ? size : 33); /* 32 bytes are right */
    peer_forge_deliver(w, &f);
    CHECK(w->node[1].set.dropped == ++dropped && !w->node[1].mail);
  }
  peer_toys_close(w);
}

/* Another number of nodes comes with another digest: the number is what people are told. */
TEST(peer_hello_nodes)
{
  struct peer_toys *w = peer_toys_open();
  w->node[0].config.host_count = PEER_NODES + 1;
  peer_toy_restart(w, 0, 0);
  peer_toy_link(w, 0, 1, true);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && !peer_of(w, 0, 1)->met && !peer_of(w, 1, 0)->met);
  CHECK(peer_of(w, 0, 1)->refused && peer_of(w, 1, 0)->refused);
  CHECK(strstr(w->node[1].before, "is refused: number of nodes in the host list: 4, here 3"));
  CHECK(strstr(w->node[1].line, "this node: number of nodes in the host list: 3, there 4"));
  CHECK(strstr(w->node[0].before, "number of nodes in the host list: 3, here 4"));
  CHECK(strstr(w->node[0].line, "refuses this node: "));
  CHECK(strstr(w->node[0].before, "beta") && strstr(w->node[1].before, "chi:7000"));
  CHECK(w->node[0].lines == 2 && w->node[1].lines == 2); /* of a kind a line a second at most */
  CHECK(!peer_say(w, 0, 1, 1, true));
  w->node[0].config.host_count = PEER_NODES; /* somebody puts it right */
  peer_toy_restart(w, 0, 1000000000);
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1) && !peer_of(w, 1, 0)->refused);
  peer_toys_close(w);
}

TEST(peer_hello_cluster)
{
  struct peer_toys *w = peer_toys_open();
  snprintf(w->node[0].hosts[2].name, CHI_NAME_MAX, "other");
  peer_toy_restart(w, 0, 0);
  peer_toy_link(w, 0, 1, true);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && !peer_of(w, 0, 1)->met && !peer_of(w, 1, 0)->met);
  CHECK(strstr(w->node[0].line, "digest of the host list"));
  CHECK(strstr(w->node[1].line, "digest of the host list"));
  CHECK(peer_of(w, 0, 1)->boot == 0 && w->node[0].boot_news == 0);
  peer_toys_close(w);
}

TEST(peer_hello_cluster_and_heard)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_hello(w, &f, PEER_NODES, 1, w->node[1].set.boot + 5, 1, "x");
  f.h.cluster++;
  peer_forge_deliver(w, &f); /* what another cluster has heard of is not about us */
  CHECK(w->node[1].reborn == 0 && peer_refused_for(w, 1));
  peer_toys_close(w);
}

TEST(peer_hello_to)
{
  struct peer_toys *w = peer_toys_open();
  struct peer_forged f;
  peer_forge_hello(w, &f, PEER_NODES, 1, 0, 1, "x");
  f.h.to = 2;
  peer_forge_deliver(w, &f);
  CHECK(strstr(w->node[1].line, "written to: 2, here 1") && peer_of(w, 1, 0)->boot == 0);
  CHECK(peer_of(w, 1, 0)->refused);
  peer_toys_close(w);
}

TEST(peer_hello_among_others)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t boot = w->node[1].set.boot;
  peer_forge_hello(w, &f, PEER_NODES, w->node[0].set.life, boot + 5, 1, "x");
  wire_record_end(&f.out, f.begin, 0);
  f.begin = wire_record_begin(&f.out, WIRE_ASK);
  wire_put_u32(&f.out, 12);
  f.h.records = 2;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].set.dropped == 1 && w->node[1].set.boot == boot);
  CHECK(w->node[1].seen_count == 1 && w->node[1].seen[0].value == 12);
  peer_toys_close(w);
}

TEST(peer_refuse_among_others)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t boot = w->node[1].set.boot;
  peer_forge(w, &f, WIRE_REFUSE);
  wire_put_u16(&f.out, 5);
  wire_put_u64(&f.out, boot);
  wire_put_u64(&f.out, boot + 5);
  wire_record_end(&f.out, f.begin, 0);
  f.begin = wire_record_begin(&f.out, WIRE_ASK);
  wire_put_u32(&f.out, 12);
  f.h.records = 2;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].set.dropped == 1 && w->node[1].set.boot == boot);
  CHECK(w->node[1].seen_count == 1 && w->node[1].seen[0].value == 12);
  peer_toys_close(w);
}

/* ---- each field once wrong: refusals */

static void peer_forge_refuse(struct peer_toys *w, struct peer_forged *f, uint16_t reason,
                              uint64_t got, uint64_t want)
{
  peer_forge(w, f, WIRE_REFUSE);
  wire_put_u16(&f->out, reason);
  wire_put_u64(&f->out, got);
  wire_put_u64(&f->out, want);
}

TEST(peer_refuse_reason)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  for (uint16_t reason = 0; reason < 20; reason = reason == 0 ? 8 : (uint16_t)(reason + 1)) {
    uint64_t dropped = w->node[1].set.dropped;
    peer_forge_refuse(w, &f, reason, 1, UINT64_MAX >> 2);
    peer_forge_deliver(w, &f);
    CHECK(w->node[1].set.dropped == dropped + 1 && w->node[1].reborn == 0);
  }
  peer_toys_close(w);
}

TEST(peer_refuse_length)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t dropped = 0;
  for (size_t size = 0; size < 19; size++) {
    peer_forge_refuse(w, &f, 5, 1, UINT64_MAX >> 2);
    f.out.used = f.begin + WIRE_RECORD + (size < 18 ? size : 19); /* 18 bytes are right */
    peer_forge_deliver(w, &f);
    CHECK(w->node[1].set.dropped == ++dropped && w->node[1].reborn == 0);
  }
  peer_toys_close(w);
}

TEST(peer_refuse_want)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t boot = w->node[1].set.boot;
  peer_forge_refuse(w, &f, 5, boot, UINT64_MAX); /* no such boot */
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].reborn == 0);
  peer_forge_refuse(w, &f, 5, boot, boot - 1); /* of no interest */
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].reborn == 0);
  peer_forge_refuse(w, &f, 5, boot, boot + 1);
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].reborn == 1 && w->node[1].set.boot > boot + 1);
  peer_toys_close(w);
}

/* Whoever has lost its place leaves it to the other one. */
TEST(peer_refuse_after_twice)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t boot = w->node[1].set.boot;
  peer_forge_refuse(w, &f, 7, boot, boot - 1);
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].set.twice && !peer_of(w, 1, 0)->met && strstr(w->node[1].line, "two daemons"));
  w->node[1].set.peer[0].confirmed = w->node[1].set.peer[0].met = true;
  peer_forge_refuse(w, &f, 5, boot, boot + 1);
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].reborn == 0 && !peer_of(w, 1, 0)->met);
  peer_raise(&w->node[1].set, boot + 5);
  CHECK(w->node[1].reborn == 0 && w->node[1].set.boot == boot);
  peer_toys_close(w);
}

TEST(peer_refuse_to_others)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_refuse(w, &f, 5, 1, UINT64_MAX >> 2);
  f.h.to_boot--;
  peer_forge_deliver(w, &f);
  peer_forge_refuse(w, &f, 5, 1, UINT64_MAX >> 2);
  f.h.to = 2;
  peer_forge_deliver(w, &f);
  peer_forge_refuse(w, &f, 5, 1, UINT64_MAX >> 2);
  f.h.cluster++;
  peer_forge_deliver(w, &f);
  CHECK(w->node[1].reborn == 0 && !w->node[1].mail); /* never refused in turn */
  peer_toys_close(w);
}

TEST(peer_refuse_names_settings)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  for (uint16_t reason = 1; reason <= 3; reason++) {
    peer_forge_refuse(w, &f, reason, 3, 4);
    f.h.cluster++;
    peer_forge_deliver(w, &f);
    CHECK(strstr(w->node[1].line, "node 0 (alpha) refuses this node: "));
    CHECK(strstr(w->node[1].line, ": 3, there 4"));
  }
  CHECK(!peer_of(w, 1, 0)->refused && peer_of(w, 1, 0)->met); /* its hello fits */
  peer_toy_link(w, 1, 0, false);
  peer_forge_deliver(w, &f);
  CHECK(peer_of(w, 1, 0)->refused);
  peer_toys_close(w);
}

/* Each side has two things to say, and says both at once. */
TEST(peer_refuse_is_told_beside_the_own_refusal)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  uint64_t now = w->now;
  peer_forge_hello(w, &f, PEER_NODES, 1, 0, 1, "x:1");
  f.h.cluster++;
  peer_forge_deliver(w, &f);
  CHECK(strstr(w->node[1].line, "is refused: digest of the host list: "));
  w->now = now;
  peer_forge_refuse(w, &f, 1, 3, 4);
  f.h.cluster++;
  peer_forge_deliver(w, &f);
  CHECK(strstr(w->node[1].line, "node 0 (alpha) refuses this node: digest of the host list: "));
  peer_toys_close(w);
}

TEST(peer_refuse_stranger)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  peer_forge_refuse(w, &f, 6, w->node[1].set.boot, 0);
  peer_forge_deliver(w, &f);
  CHECK(!peer_of(w, 1, 0)->met && w->node[1].mail);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_forge_refuse(w, &f, 4, w->node[1].set.boot, 0); /* it was sent before we knew */
  peer_forge_deliver(w, &f);
  CHECK(peer_of(w, 1, 0)->met && !w->node[1].mail);
  peer_toys_close(w);
}

TEST(peer_refuses_seldom)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_forged f;
  struct env_frame frame;
  uint32_t before = w->node[1].sent_to[0];
  peer_forge_record(w, &f);
  f.h.to_boot--;
  peer_forge_deliver(w, &f);
  frame = (struct env_frame){f.bytes, f.out.used};
  for (int i = 0; i < 100; i++)
    peer_on_message(&w->node[1].set, w->now + (uint64_t)i, &frame, 1);
  CHECK(peer_refusals(peer_of(w, 1, 0)) == 101 && w->node[1].sent_to[0] == before + 1);
  peer_on_message(&w->node[1].set, w->now + 10000000, &frame, 1);
  CHECK_INT(w->node[1].sent_to[0], before + 2);
  peer_toys_close(w);
}

/* Any bytes in a sound message, from a known peer: nothing breaks, nobody is raised beyond reason.
 */
TEST(peer_noise)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t random = 1;
  for (int i = 0; i < 20000; i++) {
    struct peer_forged f;
    random = hash_mix64(random + 0x9e3779b97f4a7c15u);
    peer_forge(w, &f, (enum wire_kind)(WIRE_HELLO + random % 2));
    for (uint64_t n = random >> 8 & 31, r = random; n > 0; n--)
      wire_put_u8(&f.out, (uint8_t)((r = hash_mix64(r + n)) % 3));
    f.h.to_boot = random & 1024 ? f.h.to_boot : random >> 32;
    f.h.from_boot = random & 2048 ? f.h.from_boot : random >> 32 | 1;
    peer_forge_deliver(w, &f);
    w->node[1].seen_count = 0;
    while (w->node[1].mail)
      peer_toy_deliver(&w->node[1], peer_toy_take(&w->node[1]), false);
  }
  CHECK(w->node[1].set.boot < UINT64_MAX >> 1);
  peer_toys_close(w);
}

/* ---- docs/wire.md */

/* What node 0 says first to node 1 is, byte for byte, what the document shows. */
static bool peer_says_example(struct peer_toys *w, const char *title)
{
  unsigned char want[512];
  size_t size = example_read("docs/wire.md", title, want, sizeof want);
  struct peer_letter *m = w->node[0].mail_last;
  return m && size > 0 && m->frame[0].size == size && memcmp(m->frame[0].data, want, size) == 0;
}

TEST(peer_hello_of_the_document)
{
  struct peer_toys *w = peer_toys_open();
  w->node[0].set.boot = 0x1122334455;
  w->node[0].set.life = 0x0123456789abcdef;
  w->node[0].set.peer[1].boot = 0x42;
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_says_example(w, "A hello"));
  peer_toys_close(w);
}

TEST(peer_refuse_of_the_document)
{
  struct peer_toys *w = peer_toys_open();
  struct wire_header h = {.records = 1,
                          .cluster = w->node[0].set.cluster,
                          .from = 1,
                          .to = 0,
                          .from_boot = 0x41,
                          .to_boot = 0x1122334455};
  unsigned char bytes[WIRE_HEADER + WIRE_RECORD] = {[WIRE_HEADER + 4] = WIRE_ASK};
  struct env_frame frame = {bytes, sizeof bytes};
  w->node[0].set.boot = 0x1122334455;
  w->node[0].set.peer[1].boot = 0x42;
  w->node[0].up[1] = true;
  wire_header_put(bytes, sizeof bytes, &h);
  peer_on_message(&w->node[0].set, w->now, &frame, 1);
  CHECK(peer_says_example(w, "A refusal"));
  peer_toys_close(w);
}
