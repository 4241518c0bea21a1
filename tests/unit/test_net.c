/* test_net.c - tasks between nodes: one elsewhere, ranges, what comes back, and who is to blame. */
#include "net_town.h"
#include "test.h"

#include <stdlib.h>

static struct town town;

/* Runs `add` for a range and checks what it gives for each container once. */
static bool net_add_range(uint32_t node, uint32_t first, uint32_t count)
{
  struct town_task t;
  uint64_t sum = 0, order = 0;
  for (uint32_t i = first; i < first + count; i++) {
    sum += 7 * (i + 1);
    order = i == first ? i : order * 16 + i;
  }
  town_new(&town, &t, node, &town_add_type);
  struct town_add *add = (struct town_add *)t.task;
  add->a = 7;
  add->twice = 21;
  town_submit(&town, &t, first, count);
  bool fine = town_until(&town, &t, TOWN_S) && t.ends == 1 && t.rc == CHI_OK;
  if (fine) {
    add = (struct town_add *)t.task;
    fine = add->sum == sum && add->count == count && add->order == order && add->twice == 42 &&
           add->task.query.c == 0;
  }
  town_free(&t);
  return fine;
}

TEST(net_one_elsewhere)
{
  town_open(&town, 2, 4);
  CHECK(net_add_range(0, 1, 1));
  CHECK(net_add_range(1, 0, 1));
  CHECK_INT(town.bodies, 2);
  CHECK(town.body[0].at == 1 && town.body[0].key_node == 0 && town.body[0].index == 1);
  CHECK(town.body[1].at == 0 && town.body[1].key_node == 1 && town.body[1].index == 0);
  CHECK_INT(town.body[0].key_boot, town.node[0].peers.boot);
  struct net_figures f;
  net_figures(town.node[0].net, &f);
  CHECK(f.calls == 1 && f.requests == 1 && f.runs == 1 && f.answers == 1 && f.retries == 0);
  CHECK(f.bytes_out > NET_REQUEST_SIZE && f.bytes_in > 28);
  TOWN_END();
}

/* What measuring has shown to be brief stays on the thread that got it; what is not known, or turns
 * out to be longer, is. */
TEST(net_brief_bodies_run_where_they_arrive)
{
  static const uint64_t weights[] = {1024, 8, 1024};
  static const uint32_t fast[] = {1, 1, 2};
  town_open(&town, 2, 4);
  for (uint32_t i = 0; i < 3; i++) {
    struct method *m = (struct method *)(uintptr_t)module_method(town.node[1].pool->module,
                                                                 town_add_type.id);
    tally_set(&m->weight, weights[i]);
    CHECK(net_add_range(0, 1, 1));
    CHECK_INT(tally_get(&town.node[1].worker[0].ended), fast[i]);
    CHECK_INT(tally_get(&town.node[1].worker[2].ended), i + 1 - fast[i]);
  }
  TOWN_END();
}

/* Forced through here though it is at home. */
TEST(net_one_at_home)
{
  town_open(&town, 2, 4);
  CHECK(net_add_range(0, 0, 1));
  CHECK_INT(town.body[0].at, 0);
  CHECK(town.body[0].key_seq != 0);
  TOWN_END();
}

TEST(net_ranges_of_every_shape)
{
  for (uint32_t neighborhood = 0; neighborhood < 6; neighborhood++) {
    town_open(&town, 9, neighborhood);
    for (uint32_t first = 0; first < 9; first += 2)
      for (uint32_t count = 1; count <= 9 - first; count++) {
        town.bodies = 0;
        CHECK(net_add_range((first + count) % 9, first, count));
        CHECK_INT(town.bodies, count);
        for (uint32_t i = first; i < first + count; i++)
          CHECK_INT(town_bodies(&town, 10, i), 1);
        CHECK_INT(town_doubles(&town), 0);
      }
    town.bodies = 0;
    TOWN_END();
  }
}

/* With b = 2, 8 containers and none of them here, the root sends two ranges of four, not eight. */
TEST(net_range_is_a_tree)
{
  town_open(&town, 9, 2);
  CHECK(net_add_range(8, 0, 8));
  struct net_figures f;
  net_figures(town.node[8].net, &f);
  CHECK_INT(f.requests, 2);
  net_figures(town.node[0].net, &f);
  CHECK_INT(f.requests, 2); /* 2..3 to node 2, 1 to node 1 */
  net_figures(town.node[7].net, &f);
  CHECK_INT(f.requests, 0);
  for (uint32_t i = 0; i < town.bodies; i++)
    CHECK(town.body[i].key_node == 8 && town.body[i].key_seq == town.body[0].key_seq);
  TOWN_END();
}

/* 8 over 3 are 3, 3 and 2. */
TEST(net_range_is_divided_evenly)
{
  static const uint32_t requests[] = {2, 0, 0, 2, 0, 0, 1, 0, 3};
  town_open(&town, 9, 3);
  CHECK(net_add_range(8, 0, 8));
  for (uint32_t i = 0; i < 9; i++) {
    struct net_figures f;
    net_figures(town.node[i].net, &f);
    CHECK_INT(f.requests, requests[i]);
  }
  TOWN_END();
}

TEST(net_many_at_once)
{
  static struct town_task t[600];
  town_open(&town, 2, 4);
  for (int i = 0; i < 600; i++) {
    town_new(&town, &t[i], 0, &town_add_type);
    ((struct town_add *)t[i].task)->a = (uint64_t)i;
    town_submit(&town, &t[i], 1, 1);
  }
  CHECK(town_until(&town, &t[599], TOWN_S));
  for (int i = 0; i < 600; i++) {
    CHECK_INT(t[i].ends, 1);
    CHECK_INT(((struct town_add *)t[i].task)->sum, 2 * i);
    town_free(&t[i]);
  }
  CHECK_INT(town.bodies, 600);
  TOWN_END();
}

/* ---- bulk */

static bool net_blob(uint32_t node, uint32_t first, uint32_t count, size_t size)
{
  struct town_task t;
  unsigned char *from = malloc(size), *to = malloc(size + 9), *both = malloc(size);
  uint32_t by = town.plain ? first + count - 1 : first; /* whose answer is kept */
  for (size_t i = 0; i < size; i++) {
    from[i] = (unsigned char)(i * 31 + i / 256);
    both[i] = (unsigned char)i;
  }
  memset(to, 0xEE, size + 9);
  town_new(&town, &t, node, &town_blob_type);
  struct town_blob *blob = (struct town_blob *)t.task;
  blob->from = (chi_bulk){from, size, 0};
  blob->to = (chi_bulk){to, size + 9, 0};
  blob->both = (chi_bulk){both, size, 0};
  town_submit(&town, &t, first, count);
  bool fine = town_until(&town, &t, TOWN_S) && t.rc == CHI_OK;
  blob = (struct town_blob *)t.task;
  fine = fine && blob->to.size == size && blob->to.data == to && blob->both.data == both;
  for (size_t i = 0; i < size && fine; i++)
    fine = to[i] == (unsigned char)(from[size - 1 - i] + by) && both[i] == (unsigned char)(i + 1);
  for (size_t i = size; i < size + 9; i++)
    fine = fine && to[i] == 0xEE;
  town_free(&t);
  free(from);
  free(to);
  free(both);
  return fine;
}

TEST(net_bulk_there_and_back)
{
  static const size_t sizes[] = {1, 100, 4096, 4097, 100000, 3000000};
  for (int plain = 0; plain < 2; plain++) {
    town.plain = plain;
    town_open(&town, 5, 2);
    for (size_t i = 0; i < CHI_COUNT(sizes); i++) {
      CHECK(net_blob(0, 1, 1, sizes[i]));
      CHECK(net_blob(0, 0, 1, sizes[i]));
      CHECK(net_blob(1, 0, 5, sizes[i]));
    }
    TOWN_END();
  }
  town.plain = false;
}

/* More than may be under way, either way: the rest waits. */
TEST(net_bulk_is_limited)
{
  static struct town_task t[5];
  static unsigned char data[30u << 20];
  struct net_figures f;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  for (int i = 0; i < 5; i++) {
    town_new(&town, &t[i], 0, &town_blob_type);
    struct town_blob *blob = (struct town_blob *)t[i].task;
    blob->from = (chi_bulk){data, i == 4 ? 100 : sizeof data, 0};
    blob->to = (chi_bulk){malloc(sizeof data), sizeof data, 0};
    town_submit(&town, &t[i], 1, 1);
  }
  town_settle(&town);
  net_figures(town.node[0].net, &f);
  CHECK_INT(f.requests, 2); /* 60 MB of 64 */
  town.wire[0][1].held = false;
  for (int i = 0; i < 5; i++) {
    CHECK(town_until(&town, &t[i], TOWN_S));
    CHECK_INT(t[i].rc, CHI_OK);
    free(((struct town_blob *)t[i].task)->to.data);
    town_free(&t[i]);
  }
  TOWN_END();
}

static void bulk_new(struct town_task *t, uint64_t there, uint64_t back)
{
  static unsigned char data[5000];
  town_new(&town, t, 0, &town_blob_type);
  struct town_blob *blob = (struct town_blob *)t->task;
  blob->from = (chi_bulk){data, there, 0};
  blob->to = (chi_bulk){data, back, 0};
}

/* What goes there is limited by the peer, what comes back by this node; what has none passes. */
TEST(net_bulk_is_limited_by_whom_it_comes_to)
{
  static const uint64_t bytes[][2] = {{0, 0},     {0, 4000}, {600, 600}, {0, 0},
                                      {400, 400}, {0, 1},    {1, 1}};
  static struct town_task t[CHI_COUNT(bytes)];
  struct net_figures f;
  town_open(&town, 2, 4);
  for (uint32_t i = 0; i < CHI_COUNT(t); i++) {
    bulk_new(&t[i], bytes[i][0], bytes[i][1]);
    town_submit(&town, &t[i], 1, 1);
    if (i > 0)
      continue;
    CHECK(town_until(&town, &t[i], TOWN_S)); /* they have met */
    town.wire[0][1].held = true;
    town.node[0].peers.peer[1].room = 1000;
    town.node[0].peers.room = 5000;
  }
  town_settle(&town);
  net_figures(town.node[0].net, &f);
  CHECK_INT(f.requests, 5); /* 1000 bytes there and 5000 back: no more */
  town.wire[0][1].held = false;
  for (uint32_t i = 0; i < CHI_COUNT(t); i++) {
    CHECK(town_until(&town, &t[i], TOWN_S));
    CHECK_INT(t[i].rc, CHI_OK);
    town_free(&t[i]);
  }
  TOWN_END();
}

/* A request that could not be sent does not stand for the acknowledgement of its slot. */
TEST(net_bulk_that_is_refused_acknowledges_nothing)
{
  struct net_figures f;
  struct town_task t;
  town_open(&town, 2, 4);
  for (int i = 0; i < 2; i++) {
    bulk_new(&t, 1000 * (uint64_t)i, 1000);
    town_submit(&town, &t, 1, 1);
    CHECK(town_until(&town, &t, TOWN_S));
    CHECK_INT(t.rc, i == 0 ? CHI_OK : CHI_ENOMEM);
    town_free(&t);
    town.node[0].peers.peer[1].room = 999;
  }
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 1);
  town_pass(&town, 2 * NET_ACK_NS);
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 0);
  TOWN_END();
}

TEST(net_too_big)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_new(&town, &t, 0, &town_huge_type);
  memset(((struct town_huge *)t.task)->text, 'x', 69999);
  town_submit(&town, &t, 1, 1);
  CHECK_INT(t.ends, 1);
  CHECK_INT(t.rc, CHI_ETOOBIG);
  town_free(&t);
  CHECK_INT(town.bodies, 0);
  TOWN_END();
}

/* ---- failures */

TEST(net_first_failure_by_container)
{
  struct town_task t;
  town_open(&town, 8, 3);
  town_new(&town, &t, 5, &town_fail_type);
  ((struct town_fail *)t.task)->mask = 1u << 6 | 1u << 2 | 1u << 3;
  town_submit(&town, &t, 0, 8);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, 102);
  CHECK_INT(((struct town_fail *)t.task)->bits, 0xB3); /* those that succeeded are gathered */
  CHECK_INT(t.task->query.c, 3);
  town_free(&t);
  TOWN_END();
}

/* Where all fail, the first one's fields are there: an error message, say. */
TEST(net_all_fail)
{
  struct town_task t;
  town_open(&town, 5, 2);
  town_new(&town, &t, 4, &town_fail_type);
  ((struct town_fail *)t.task)->mask = ~0ull;
  town_submit(&town, &t, 1, 4);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, 101);
  CHECK_STR(((struct town_fail *)t.task)->text, "1 failed");
  CHECK_INT(t.task->query.c, 4);
  town_free(&t);
  town_new(&town, &t, 4, &town_fail_type);
  ((struct town_fail *)t.task)->mask = ~0ull;
  town_submit(&town, &t, 3, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, 103);
  CHECK_STR(((struct town_fail *)t.task)->text, "3 failed");
  town_free(&t);
  TOWN_END();
}

TEST(net_failures_are_listed_by_container)
{
  struct net_failures f = {.asked = 100}, g = {.asked = 10};
  for (uint32_t i = 40; i > 0; i -= 2)
    net_failures_add(&f, i, 1000 + (int)i);
  CHECK(f.failed == 20 && f.listed == NET_FAILED);
  for (uint32_t i = 0; i < NET_FAILED; i++)
    CHECK(f.item[i].container == 2 + 2 * i && f.item[i].rc == 1002 + 2 * (int)i);
  net_failures_add(&f, 3, 7);
  CHECK(f.listed == NET_FAILED && f.item[1].container == 3 && f.item[2].container == 4);
  CHECK_INT(f.item[NET_FAILED - 1].container, 30);
  net_failures_range(&g, 0, 2, CHI_EUNKNOWN);
  net_failures_range(&g, 90, 40, CHI_EUNREACHABLE);
  net_failures_join(&f, &g);
  CHECK(f.failed == 63 && f.item[0].container == 0 && f.item[0].rc == CHI_EUNKNOWN);
  CHECK(f.item[1].container == 1 && f.item[2].container == 2);
  CHECK_INT(f.item[NET_FAILED - 1].container, 26);
}

TEST(net_periodic_for_one)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_new(&town, &t, 0, &town_tick_type);
  t.task->flags = CHI_TASK_PERIODIC;
  t.task->period_us = 1000;
  town_submit(&town, &t, 0, 2);
  CHECK_INT(t.rc, CHI_ENOTSUP);
  town_free(&t);
  town_new(&town, &t, 0, &town_tick_type);
  t.task->flags = CHI_TASK_PERIODIC;
  t.task->period_us = 500000;
  town_submit(&town, &t, 1, 1);
  CHECK(!town_until(&town, &t, 20 * TOWN_S)); /* questions keep it alive, beyond task_timeout */
  CHECK(town.bodies >= 40 && town.bodies <= 42);
  town.bodies = 0; /* a periodic task runs again under its key */
  town_cancel(&town, &t);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_ECANCELLED);
  town_free(&t);
  TOWN_END();
}

/* ---- cancellation and deadlines */

TEST(net_cancel_passes_on)
{
  struct town_task t;
  town_open(&town, 5, 2);
  for (uint32_t count = 1; count <= 4; count++) {
    town_new(&town, &t, 4, &town_wait_type);
    ((struct town_wait *)t.task)->ns = 3600 * TOWN_S;
    town_submit(&town, &t, 0, count);
    town_pass(&town, TOWN_MS);
    CHECK_INT(t.ends, 0);
    town_cancel(&town, &t);
    CHECK_INT(t.ends, 0); /* it ends when the bodies have ended */
    CHECK(town_until(&town, &t, 10 * TOWN_MS));
    CHECK_INT(t.rc, CHI_ECANCELLED);
    CHECK_INT(t.task->query.c, count);
    town_free(&t);
  }
  TOWN_END();
}

TEST(net_deadline_passes_on)
{
  struct town_task t;
  town_open(&town, 5, 2);
  town_new(&town, &t, 4, &town_wait_type);
  ((struct town_wait *)t.task)->ns = 3600 * TOWN_S;
  t.task->deadline_ms = 500;
  uint64_t begun = town.now;
  town_submit(&town, &t, 0, 5);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_ETIMEOUT);
  CHECK(town.now <= begun + 500 * TOWN_MS + TOWN_MS);
  CHECK_INT(t.task->query.c, 5);
  town_free(&t);
  TOWN_END();
}

/* Where the executor's clock is slow it is told; why it was ended is known here. */
TEST(net_deadline_of_a_slow_clock)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_new(&town, &t, 0, &town_wait_type);
  ((struct town_wait *)t.task)->ns = 3600 * TOWN_S;
  t.task->deadline_ms = 500;
  town_submit(&town, &t, 1, 1);
  town_step_messages(&town);
  CHECK(town.node[1].net->runs != NULL);
  town.node[1].net->runs->ctx->deadline = UINT64_MAX;
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_ETIMEOUT);
  town_free(&t);
  TOWN_END();
}

/* Each hop keeps something back, so that the answer is home in time. */
TEST(net_deadline_has_a_margin)
{
  struct town_task t;
  town_open(&town, 4, 1); /* a chain: three hops */
  for (uint32_t hops = 1; hops < 4; hops++) {
    town_new(&town, &t, 0, &town_wait_type);
    ((struct town_wait *)t.task)->ns = 3600 * TOWN_S;
    t.task->deadline_ms = 500;
    uint64_t begun = town.now;
    town_submit(&town, &t, 4 - hops, hops);
    CHECK(town_until(&town, &t, TOWN_S));
    CHECK_INT(t.rc, CHI_ETIMEOUT);
    CHECK_INT(town.now, begun + 500 * TOWN_MS - NET_MARGIN_NS);
    town_free(&t);
  }
  TOWN_END();
}

/* Too little time is left to send it at all. */
TEST(net_deadline_used_up)
{
  struct town_task t;
  town_open(&town, 2, 2);
  town_new(&town, &t, 0, &town_wait_type);
  t.task->deadline_ms = 1;
  town_submit(&town, &t, 1, 1);
  CHECK_INT(t.ends, 1);
  CHECK_INT(t.rc, CHI_ETIMEOUT);
  town_free(&t);
  CHECK_INT(town.bodies, 0);
  TOWN_END();
}
