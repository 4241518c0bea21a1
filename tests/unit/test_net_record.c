/* test_net_record.c - payloads of records about tasks: there and back, cut short, and nonsense. */
#include "net_town.h"
#include "rng.h"
#include "test.h"

static struct town town;

static const struct net_request net_sample = {.slot = 255,
                                              .seq = 1ull << 60,
                                              .key = {3, 1ull << 50 | 7, 9},
                                              .first = 5,
                                              .count = 70000,
                                              .pool = {300, 1},
                                              .version = {11, 12},
                                              .method = 44,
                                              .flags = CHI_TASK_FORCE_NET,
                                              .remaining = 123456789012,
                                              .root = 1ull << 63 | 5,
                                              .depth = WORKER_DEPTH - 1,
                                              .compute_us = 60000000,
                                              .period_us = 77,
                                              .io_size = 1ull << 40,
                                              .query = {CHI_QUERY_RANGE, 5, 70000, 0}};

static bool net_request_round(const struct net_request *r, size_t cut, struct net_request *out)
{
  unsigned char bytes[NET_REQUEST_SIZE];
  struct wire_out to;
  struct wire_in in;
  wire_out_init(&to, bytes, sizeof bytes);
  net_request_put(&to, r);
  wire_in_init(&in, bytes, to.used - cut);
  return !to.failed && net_request_get(&in, out);
}

TEST(net_request_there_and_back)
{
  struct net_request r;
  CHECK(net_request_round(&net_sample, 0, &r));
  CHECK(r.slot == 255 && r.seq == 1ull << 60 && r.key.node == 3 && r.key.boot == (1ull << 50 | 7));
  CHECK(r.key.seq == 9 && r.first == 5 && r.count == 70000 && r.pool.major == 300);
  CHECK(r.pool.minor == 1 && r.version[0] == 11 && r.version[1] == 12 && r.method == 44);
  CHECK(r.flags == CHI_TASK_FORCE_NET && r.remaining == 123456789012 && r.root == (1ull << 63 | 5));
  CHECK(r.depth == WORKER_DEPTH - 1 && r.compute_us == 60000000 && r.period_us == 77);
  CHECK(r.io_size == 1ull << 40 && r.query.mode == CHI_QUERY_RANGE && r.query.a == 5);
  CHECK_INT(r.query.b, 70000);
  for (size_t cut = 1; cut <= NET_REQUEST_SIZE; cut++) {
    CHECK(!net_request_round(&net_sample, cut, &r));
    CHECK_INT(r.seq, 0); /* nothing of it may be used */
  }
}

/* What is wrong, and whether the request is known by slot and sequence all the same. */
static bool net_request_wrong(struct net_request r, bool known)
{
  struct net_request out;
  return !net_request_round(&r, 0, &out) && (out.seq != 0) == known;
}

TEST(net_request_fields_are_checked)
{
  struct net_request r = net_sample;
  r.slot = NET_SLOTS;
  CHECK(net_request_wrong(r, false));
  r = net_sample, r.seq = 0;
  CHECK(net_request_wrong(r, false));
  r = net_sample, r.key.seq = 0;
  CHECK(net_request_wrong(r, true));
  r = net_sample, r.count = 0;
  CHECK(net_request_wrong(r, true));
  r = net_sample, r.depth = WORKER_DEPTH;
  CHECK(net_request_wrong(r, true));
  r = net_sample, r.compute_us = 60000001;
  CHECK(net_request_wrong(r, true));
  r = net_sample, r.query.mode = CHI_QUERY_DYNAMIC + 1;
  CHECK(net_request_wrong(r, true));
  r = net_sample, r.flags = CHI_TASK_PERIODIC;
  CHECK(net_request_wrong(r, true)); /* several */
  r = net_sample, r.flags = CHI_TASK_PERIODIC, r.count = 1, r.period_us = 0;
  CHECK(net_request_wrong(r, true));
}

static bool net_answer_round(const struct net_answer *a, size_t cut, struct net_answer *out)
{
  unsigned char bytes[NET_ANSWER_SIZE];
  struct wire_out to;
  struct wire_in in;
  wire_out_init(&to, bytes, sizeof bytes);
  net_answer_put(&to, a);
  wire_in_init(&in, bytes, to.used - cut);
  return !to.failed && net_answer_get(&in, out);
}

TEST(net_answer_there_and_back)
{
  struct net_answer a = {.slot = 7, .seq = 8, .rc = -5, .ran = true, .gathered = true}, b;
  a.failures.asked = 100;
  net_failures_range(&a.failures, 10, 40, -5);
  CHECK(net_answer_round(&a, 0, &b));
  CHECK(b.slot == 7 && b.seq == 8 && b.rc == -5 && b.ran && b.gathered && !b.moved);
  CHECK(b.failures.asked == 100 && b.failures.failed == 40 && b.failures.listed == NET_FAILED);
  for (uint32_t i = 0; i < NET_FAILED; i++)
    CHECK(b.failures.item[i].container == 10 + i && b.failures.item[i].rc == -5);
  for (size_t cut = 1; cut <= 28 + NET_FAILED * 8; cut++)
    CHECK(!net_answer_round(&a, cut, &b));
}

TEST(net_answer_fields_are_checked)
{
  struct net_answer a = {.slot = 7, .seq = 8, .rc = CHI_EBUSY, .moved = true, .node = 9}, b;
  a.failures.asked = 3;
  net_failures_range(&a.failures, 0, 3, CHI_EBUSY);
  struct net_answer good = a;
  CHECK(net_answer_round(&a, 0, &b) && b.moved && b.node == 9);
  a.slot = NET_SLOTS;
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.rc = CHI_OK; /* it did not run, and yet all is well */
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.gathered = true;
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.ran = true; /* and moved */
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.failures.failed = 4; /* of three */
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.failures.failed = 2; /* three are listed */
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.failures.listed = 0; /* three have failed, and none is named */
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.failures.item[1].rc = 0;
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.failures.item[1].container = 0;
  CHECK(!net_answer_round(&a, 0, &b));
  a = good, a.ran = true, a.moved = false, a.failures.failed = a.failures.listed = 0;
  CHECK(!net_answer_round(&a, 0, &b)); /* a code, and nobody failed */
}

TEST(net_items_are_checked)
{
  unsigned char bytes[NET_ITEM_SIZE];
  struct wire_out to;
  struct wire_in in;
  uint32_t slot = 0;
  uint64_t seq = 0;
  int32_t what = 0;
  wire_out_init(&to, bytes, sizeof bytes);
  net_item_put(&to, 200, 1ull << 40, CHI_ETIMEOUT);
  wire_in_init(&in, bytes, to.used);
  CHECK(net_item_get(&in, &slot, &seq, &what));
  CHECK(slot == 200 && seq == 1ull << 40 && what == CHI_ETIMEOUT);
  CHECK(!net_item_get(&in, &slot, &seq, &what));
  for (int wrong = 0; wrong < 2; wrong++) {
    wire_out_init(&to, bytes, sizeof bytes);
    net_item_put(&to, wrong ? NET_SLOTS : 1, wrong ? 1 : 0, 0);
    wire_in_init(&in, bytes, to.used);
    CHECK(!net_item_get(&in, &slot, &seq, &what));
  }
}

/* Any bytes as any record, while tasks are under way: nothing breaks, and nobody waits for ever. */
TEST(net_nonsense)
{
  struct rng rng;
  struct town_task t[20];
  uint64_t malformed = 0;
  for (uint64_t seed = 1; seed <= 10; seed++) {
    rng_seed(&rng, seed, 0, 0);
    town_open(&town, 3, 2);
    for (int i = 0; i < 20; i++) {
      town_new(&town, &t[i], 0, &town_wait_type);
      ((struct town_wait *)t[i].task)->ns = 10 * TOWN_MS;
      town_submit(&town, &t[i], 1, 2);
      for (int k = 0; k < 200; k++) {
        unsigned char bytes[256];
        struct wire_in in;
        size_t size = (size_t)rng_below(&rng, sizeof bytes);
        for (size_t b = 0; b < size; b++)
          bytes[b] = rng_below(&rng, 3) ? 0 : (unsigned char)rng_below(&rng, 4);
        wire_in_init(&in, bytes, size);
        uint32_t to = (uint32_t)rng_below(&rng, 3), from = (to + 1) % 3;
        net_on_record(town.node[to].net, &town.node[to].peers.peer[from],
                      (enum wire_kind)(WIRE_REQUEST + rng_below(&rng, 6)), &in);
      }
      town_pass(&town, TOWN_MS);
    }
    for (int i = 0; i < 20; i++) {
      CHECK(town_until(&town, &t[i], 60 * TOWN_S));
      CHECK_INT(t[i].ends, 1);
      town_free(&t[i]);
    }
    for (int i = 0; i < 3; i++) {
      struct net_figures f;
      net_figures(town.node[i].net, &f);
      malformed += f.malformed;
    }
    town_close(&town);
    for (int i = 0; i < 3; i++)
      CHECK_INT(town.node[i].blocks, 0);
  }
  CHECK(malformed > 100);
}
