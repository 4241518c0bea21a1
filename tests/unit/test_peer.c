/* test_peer.c - how nodes meet, their lives, and the post between them, over a toy network. */
#include "peer_toy.h"
#include "hash.h"
#include "test.h"

static uint64_t peer_toy_zero(struct env *env)
{
  (void)env;
  return 0;
}

/* ---- meeting */

TEST(peer_meets)
{
  struct peer_toys *w = peer_toys_met();
  CHECK(peer_of(w, 0, 1)->boot == w->node[1].set.boot && w->node[1].set.boot != 0);
  CHECK(w->node[0].boot_news == 2 && w->node[0].former == peer_of(w, 0, 1)->boot);
  CHECK(w->node[0].news_met && w->node[0].sent_to[1] + w->node[1].sent_to[0] <= 6);
  CHECK(!peer_of(w, 0, 2)->met && peer_of(w, 0, 2)->boot == 0);
  CHECK_INT(peer_flush(&w->node[0].set, w->now, PEER_POLL), w->now + PEER_POLL);
  CHECK(peer_toys_poll(w) && w->node[0].sent_to[1] <= 4); /* and no more of it */
  CHECK_INT(peer_flush(&w->node[0].set, w->now, PEER_POLL), UINT64_MAX);
  peer_toys_close(w);
}

TEST(peer_meets_when_one_side_connects_first)
{
  struct peer_toys *w = peer_toys_open();
  peer_toy_link(w, 0, 1, true);
  for (int i = 0; i < 5; i++)
    CHECK(peer_toys_poll(w));
  CHECK(peer_of(w, 1, 0)->boot == w->node[0].set.boot); /* heard, though it can't answer */
  CHECK(!peer_of(w, 0, 1)->met && !peer_of(w, 1, 0)->met);
  CHECK(w->node[0].sent_to[1] >= 5 && w->node[1].sent_to[0] == 0);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* The environment may be able to send before it says so. */
TEST(peer_answers_without_connection)
{
  struct peer_toys *w = peer_toys_open();
  w->node[1].up[0] = true;
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_settle(w) && peer_of(w, 0, 1)->met && !peer_of(w, 1, 0)->met);
  CHECK(peer_say(w, 0, 1, 5, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 1 && !peer_say(w, 1, 0, 5, false));
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_repeats_hellos)
{
  struct peer_toys *w = peer_toys_open();
  uint32_t before;
  w->node[0].lose[1] = w->node[1].lose[0] = true;
  peer_toy_link(w, 0, 1, true);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w));
  before = w->node[0].sent_to[1];
  for (int i = 0; i < 4; i++)
    CHECK(peer_toys_poll(w));
  CHECK_INT(w->node[0].sent_to[1], before + 4);
  w->node[0].lose[1] = false; /* one way is enough to be heard, not to be met */
  CHECK(peer_toys_poll(w) && !peer_of(w, 0, 1)->met);
  w->node[1].lose[0] = false;
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_hello_when_full)
{
  struct peer_toys *w = peer_toys_open();
  w->node[0].full[1] = true;
  peer_toy_link(w, 0, 1, true);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_poll(w) && !peer_of(w, 0, 1)->met);
  w->node[0].full[1] = false;
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* ---- the connection */

TEST(peer_is_heard_one_way)
{
  struct peer_toys *w = peer_toys_met();
  peer_toy_link(w, 1, 0, false);
  CHECK(!peer_of(w, 1, 0)->met && w->node[1].former == peer_of(w, 1, 0)->boot);
  CHECK(!w->node[1].news_met && !peer_say(w, 1, 0, 1, true));
  CHECK(peer_say(w, 0, 1, 7, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 1 && w->node[1].seen[0].value == 7);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1) && w->node[1].news_met);
  peer_toys_close(w);
}

TEST(peer_drops_what_waits_with_the_connection)
{
  struct peer_toys *w = peer_toys_met();
  int parcel;
  w->node[0].full[1] = true;
  CHECK(peer_say_bulk(w, 0, 1, 2, &parcel) && peer_toys_settle(w));
  CHECK_INT(w->node[0].parcel_count, 0);
  peer_toy_link(w, 0, 1, false);
  CHECK(w->node[0].parcel_count == 1 && w->node[0].parcels[0] == &parcel);
  CHECK_INT(peer_of(w, 0, 1)->waiting, 0);
  w->node[0].full[1] = false;
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1) && w->node[1].seen_count == 0);
  peer_toys_close(w);
}

/* The environment lost the connection and has not said so yet. */
TEST(peer_unreachable_at_flush)
{
  struct peer_toys *w = peer_toys_met();
  int parcel;
  CHECK(peer_toys_poll(w) && peer_toys_poll(w));
  w->node[0].up[1] = false;
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcel) && peer_toys_settle(w));
  CHECK(!peer_of(w, 0, 1)->met && w->node[0].parcel_count == 1 && !w->node[0].news_met);
  w->node[0].up[1] = true; /* it was never noticed */
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* ---- the post */

TEST(peer_post_gathers)
{
  struct peer_toys *w = peer_toys_met();
  uint32_t before = w->node[0].sent_to[1];
  uint64_t received = peer_of(w, 1, 0)->received;
  for (uint32_t i = 0; i < 200; i++)
    CHECK(peer_say(w, 0, 1, i, false));
  CHECK_INT(w->node[0].sent_to[1], before);
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[0].sent_to[1], before + 1);
  CHECK_INT(peer_of(w, 1, 0)->received, received + 1);
  CHECK(peer_of(w, 0, 1)->bytes_sent == peer_of(w, 1, 0)->bytes_received);
  CHECK_INT(w->node[1].seen_count, 200);
  for (uint32_t i = 0; i < 200; i++)
    CHECK(w->node[1].seen[i].value == i && w->node[1].seen[i].kind == WIRE_ASK);
  peer_toys_close(w);
}

/* Who is to work on it needn't wait for the end of the step. */
TEST(peer_post_sends_what_is_much)
{
  struct peer_toys *w = peer_toys_met();
  uint32_t before = w->node[0].sent_to[1], said = 0;
  while (w->node[0].sent_to[1] == before && said < PEER_EARLY)
    CHECK(peer_say(w, 0, 1, said++, false));
  CHECK(w->node[0].sent_to[1] == before + 1 && peer_of(w, 0, 1)->waiting == 0);
  CHECK(peer_of(w, 0, 1)->bytes_sent >= PEER_EARLY);
  w->node[0].full[1] = true;
  for (uint32_t i = 0; i < 2 * said; i++) /* more than once as much, for which there is no room */
    CHECK(peer_say(w, 0, 1, said + i, false));
  CHECK(w->node[0].sent_to[1] == before + 1 && peer_of(w, 0, 1)->waiting > PEER_EARLY);
  w->node[0].full[1] = false;
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[1].seen_count, 3 * said);
  for (uint32_t i = 0; i < 3 * said; i++)
    CHECK_INT(w->node[1].seen[i].value, i);
  peer_toys_close(w);
}

TEST(peer_post_largest_records)
{
  static unsigned char bytes[PEER_RECORD_MAX];
  struct peer_toys *w = peer_toys_met();
  uint32_t before = w->node[0].sent_to[1];
  struct wire_out out;
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(peer_begin(peer_of(w, 0, 1), WIRE_POOL, sizeof bytes, false, &out));
    wire_put_bytes(&out, bytes, sizeof bytes);
    CHECK(!out.failed);
    wire_put_u8(&out, 0);
    CHECK(out.failed); /* no more than was asked for */
    CHECK(peer_begin(peer_of(w, 0, 1), WIRE_POOL, sizeof bytes, false, &out));
    wire_put_u32(&out, i);
    wire_put_bytes(&out, bytes, sizeof bytes - 4);
    peer_post(peer_of(w, 0, 1), &out, NULL, 0, NULL);
    CHECK(peer_say(w, 0, 1, 100 + i, false));
  }
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[0].sent_to[1], before + 6);
  CHECK_INT(w->node[1].seen_count, 6);
  for (uint32_t i = 0; i < 6; i++)
    CHECK_INT(w->node[1].seen[i].value, i % 2 * 100 + i / 2);
  peer_toys_close(w);
}

TEST(peer_record_not_posted)
{
  struct peer_toys *w = peer_toys_met();
  uint32_t before = w->node[0].sent_to[1];
  struct wire_out out;
  CHECK(peer_begin(peer_of(w, 0, 1), WIRE_ASK, 100, false, &out));
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[0].sent_to[1], before);
  CHECK(peer_say(w, 0, 1, 1, false));
  CHECK(peer_begin(peer_of(w, 0, 1), WIRE_ASK, 100, false, &out));
  wire_put_u32(&out, 66);
  CHECK(peer_say(w, 0, 1, 2, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 2 && w->node[1].seen[1].value == 2);
  peer_toys_close(w);
}

TEST(peer_bulk_frames)
{
  struct peer_toys *w = peer_toys_met();
  int parcels[9];
  uint32_t before = w->node[0].sent_to[1];
  for (int i = 0; i < 9; i++)
    CHECK(peer_say_bulk(w, 0, 1, 1 + (uint32_t)i % WIRE_BULKS, &parcels[i]));
  for (int i = 0; i < 2; i++)
    CHECK(peer_say_bulk(w, 0, 1, WIRE_BULKS, &parcels[i]));
  peer_toys_flush(w);
  CHECK_INT(w->node[0].sent_to[1], before + 2); /* 45 + 16 frames, and 16: 64 is the most */
  CHECK(w->node[0].parcel_count == 0 && peer_of(w, 0, 1)->flying == 2);
  CHECK(peer_toys_settle(w));
  CHECK(w->node[0].parcel_count == 11 && w->node[0].parcels[3] == &parcels[3]);
  CHECK(peer_of(w, 0, 1)->flying == 0 && w->node[1].seen_count == 11);
  for (uint32_t i = 0; i < 9; i++) {
    CHECK(w->node[1].seen[i].bulks == i + 1 && w->node[1].seen[i].value == i + 1);
    CHECK(w->node[1].seen[i].bulk_bytes == (i + 1) * PEER_TOY_BULK);
  }
  CHECK(w->node[1].seen[9].bulks == WIRE_BULKS && w->node[1].seen[10].bulks == WIRE_BULKS);
  peer_toys_close(w);
}

/* Parcels come back in any order. */
TEST(peer_parcels_of_two)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_letter *m;
  int parcels[3];
  peer_toy_link(w, 0, 2, true);
  peer_toy_link(w, 2, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 2) && peer_both_met(w, 0, 1));
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(peer_say_bulk(w, 0, 1 + i % 2, 1, &parcels[i]) && peer_say(w, 0, 2 - i % 2, i, false));
    peer_flush(&w->node[0].set, w->now, PEER_POLL);
  }
  m = peer_toy_take(&w->node[0]); /* the first one lands last */
  peer_toy_deliver(&w->node[0], peer_toy_take(&w->node[0]), true);
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[0].parcel_count, 2);
  peer_toy_deliver(&w->node[0], m, true);
  CHECK(w->node[0].parcel_count == 3 && w->node[0].parcels[2] == &parcels[0]);
  CHECK(!w->node[0].set.flying && w->node[1].seen_count + w->node[2].seen_count == 6);
  peer_toys_close(w);
}

TEST(peer_full_queue_keeps_order)
{
  struct peer_toys *w = peer_toys_met();
  uint32_t n = 0, control = 0;
  w->node[0].full[1] = true;
  while (n < 1000000 && peer_say(w, 0, 1, n, false))
    n++;
  CHECK_INT(n, PEER_BACKLOG / (WIRE_RECORD + 4));
  while (control < 1000000 && peer_say(w, 0, 1, n, true))
    control++;
  CHECK(control > n - 2 && control < n + 2); /* as much again, and no more */
  CHECK_INT(peer_flush(&w->node[0].set, w->now, PEER_POLL), w->now + PEER_RETRY_NS);
  CHECK(w->node[0].allocs < 100 && w->node[1].seen_count == 0);
  w->node[0].full[1] = false;
  CHECK(peer_say(w, 0, 1, n, false)); /* finds that there is room again */
  CHECK(peer_toys_settle(w));
  CHECK_INT(w->node[1].seen_count, n + control + 1);
  for (uint32_t i = w->node[1].seen_count - 8000; i < w->node[1].seen_count; i++)
    CHECK(w->node[1].seen[i % 8192].value == (i < n ? i : n));
  CHECK_INT(peer_flush(&w->node[0].set, w->now + PEER_POLL, PEER_POLL), UINT64_MAX);
  peer_toys_close(w);
}

TEST(peer_begin_without_memory)
{
  struct peer_toys *w = peer_toys_met();
  struct wire_out out;
  for (int n = 0; n < 2; n++) {
    w->node[0].allocs_left = n;
    CHECK(!peer_say(w, 0, 1, 1, true));
  }
  w->node[0].allocs_left = 2;
  CHECK(peer_say(w, 0, 1, 1, false));
  CHECK(!peer_begin(peer_of(w, 0, 1), WIRE_ASK, 10000, false, &out)); /* no room to grow */
  w->node[0].allocs_left = -1;
  CHECK(peer_toys_settle(w) && w->node[1].seen_count == 1);
  peer_toys_close(w);
}

TEST(peer_uses_its_last_batch_again)
{
  struct peer_toys *w = peer_toys_met();
  CHECK(peer_say(w, 0, 1, 1, false) && peer_toys_settle(w));
  w->node[0].allocs_left = 0;
  for (int i = 0; i < 10; i++)
    CHECK(peer_say(w, 0, 1, 1, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 11);
  peer_toys_close(w);
}

TEST(peer_reset_unpins)
{
  struct peer_toys *w = peer_toys_met();
  int parcels[2];
  CHECK(peer_say(w, 0, 1, 1, false));
  peer_reset(peer_of(w, 0, 1)); /* nothing is pinned: the connection stays */
  CHECK(w->node[0].resets == 0 && peer_of(w, 0, 1)->met);
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcels[0]));
  peer_toys_flush(w);
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcels[1]));
  peer_reset(peer_of(w, 0, 1));
  CHECK(w->node[0].resets == 1 && !peer_of(w, 0, 1)->met && !w->node[0].news_met);
  CHECK(w->node[0].parcel_count == 1 && w->node[0].parcels[0] == &parcels[1]);
  CHECK(peer_toys_settle(w));
  CHECK(w->node[0].parcel_count == 2 && w->node[1].seen_count == 0);
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_close_hands_back)
{
  struct peer_toys *w = peer_toys_met();
  int parcels[2];
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcels[0]));
  peer_toys_flush(w);
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcels[1]));
  peer_close(&w->node[0].set);
  CHECK_INT(w->node[0].parcel_count, 2);
  peer_close(&w->node[0].set); /* nothing any more */
  CHECK_INT(w->node[0].parcel_count, 2);
  peer_toys_close(w);
}

/* ---- opening */

TEST(peer_open_fails)
{
  struct peer_toys *w = peer_toys_open();
  struct peer_toy *t = &w->node[0];
  chi_error err = {0};
  peer_close(&t->set);
  t->allocs_left = 0;
  CHECK_INT(peer_open(&t->set, &t->env, &t->log, &t->config, 0, "x", &err), CHI_ENOMEM);
  CHECK(err.code == CHI_ENOMEM);
  t->allocs_left = -1;
  t->open_rc = CHI_EBUSY;
  CHECK_INT(peer_open(&t->set, &t->env, &t->log, &t->config, 0, "x", &err), CHI_EBUSY);
  CHECK_INT(t->allocs, 0);
  peer_toys_close(w);
}

TEST(peer_open_alone)
{
  struct peer_toys *w = peer_toys_open();
  struct peer_toy *t = &w->node[0];
  peer_close(&t->set);
  t->config.host_count = 0;
  CHECK_INT(peer_toy_open(w, 0), CHI_OK);
  CHECK(t->opened == 0 && t->set.count == 1);
  CHECK_INT(peer_flush(&t->set, 1, PEER_POLL), UINT64_MAX);
  peer_toys_close(w);
}

TEST(peer_first_boot)
{
  struct peer_toys *w = peer_toys_open();
  uint64_t boot = w->node[0].set.boot;
  CHECK(boot >> 16 == 1700000000000u);
  peer_toy_restart(w, 0, 1000000);
  CHECK(w->node[0].set.boot > boot);
  peer_toy_restart(w, 0, -(int64_t)w->node[0].wall);
  CHECK(w->node[0].set.boot >= 1 && w->node[0].set.boot <= 0xffff);
  w->node[0].env.random = peer_toy_zero;
  w->node[0].wall = 0;
  peer_toy_restart(w, 0, 0);
  CHECK(w->node[0].set.boot == 1 && w->node[0].set.life != 0);
  w->node[0].wall = UINT64_MAX;
  peer_toy_restart(w, 0, 0);
  CHECK(w->node[0].set.boot < UINT64_MAX >> 2);
  peer_toys_close(w);
}

/* The digest knows the names and their order, not how they are written. */
TEST(peer_cluster_digest)
{
  struct peer_toys *w = peer_toys_open();
  struct peer_toy *t = &w->node[0];
  uint64_t digest = t->set.cluster;
  CHECK(digest == w->node[1].set.cluster);
  snprintf(t->hosts[1].name, sizeof t->hosts[1].name, "BETA.");
  snprintf(t->hosts[1].address, sizeof t->hosts[1].address, "10.0.0.1");
  peer_toy_restart(w, 0, 0);
  CHECK(t->set.cluster == digest);
  snprintf(t->hosts[1].name, sizeof t->hosts[1].name, "betA2");
  peer_toy_restart(w, 0, 0);
  CHECK(t->set.cluster != digest);
  snprintf(t->hosts[1].name, sizeof t->hosts[1].name, "gamma");
  snprintf(t->hosts[2].name, sizeof t->hosts[2].name, "beta");
  peer_toy_restart(w, 0, 0);
  CHECK(t->set.cluster != digest);
  t->config.host_count = 2;
  peer_toy_restart(w, 0, 0);
  CHECK(t->set.cluster != digest);
  peer_toys_close(w);
}

/* ---- lives */

TEST(peer_restart)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t former = w->node[1].set.boot;
  int parcels[2];
  w->node[0].full[1] = true;
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcels[0]));
  peer_toys_flush(w);
  peer_toy_restart(w, 1, 1000000000);
  peer_toy_link(w, 1, 0, true); /* node 0 has not noticed anything */
  CHECK(peer_toys_settle(w));
  CHECK(w->node[0].parcel_count == 1 && peer_of(w, 0, 1)->boot == w->node[1].set.boot);
  CHECK(w->node[1].set.boot > former && w->node[1].reborn == 0);
  CHECK_INT(w->node[0].resets, 0); /* nothing of the former life was on its way */
  w->node[0].full[1] = false;
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1) && w->node[1].seen_count == 0);
  peer_toys_close(w);
}

TEST(peer_restart_tells_the_former_life)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t former = w->node[1].set.boot;
  w->node[0].boot_news = 0;
  peer_toy_restart(w, 1, 1000000000);
  peer_toy_link(w, 1, 0, true);
  peer_toys_flush(w);
  peer_toys_carry(w);
  CHECK(w->node[0].boot_news == 1 && w->node[0].former == former);
  CHECK(peer_of(w, 0, 1)->boot == w->node[1].set.boot);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* A life that can't be remembered isn't followed by another: that says hello again. */
TEST(peer_restart_without_memory)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t former = w->node[1].set.boot;
  peer_toy_restart(w, 1, 1000000000);
  peer_toy_link(w, 1, 0, true);
  w->node[0].allocs_left = 0;
  peer_toys_flush(w);
  peer_toys_carry(w);
  CHECK(peer_of(w, 0, 1)->boot == former);
  w->node[0].allocs_left = -1;
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1));
  CHECK(peer_of(w, 0, 1)->boot == w->node[1].set.boot);
  peer_toys_close(w);
}

/* With parcels on their way to the former life the connection is dropped, so that they come back.
 */
TEST(peer_restart_resets)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_letter *held;
  int parcel;
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcel));
  peer_toys_flush(w);
  held = peer_toy_take(&w->node[0]); /* slow */
  w->node[0].boot_news = 0;
  peer_toy_restart(w, 1, 1000000000);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w));
  CHECK(w->node[0].resets == 1 && !peer_of(w, 0, 1)->met && !peer_of(w, 0, 1)->connected);
  CHECK_INT(w->node[0].boot_news, 1); /* another life; not that it could be reached */
  peer_toy_deliver(&w->node[0], held, false);
  CHECK(w->node[0].parcel_count == 1);
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* The other one has heard of our boot already: but records would go to where it was. */
TEST(peer_reborn_resets)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_letter *held;
  int parcel;
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcel));
  peer_toys_flush(w);
  held = peer_toy_take(&w->node[0]);
  w->node[0].boot_news = 0;
  peer_raise(&w->node[1].set, w->node[1].set.boot);
  CHECK(peer_toys_settle(w));
  CHECK(w->node[0].resets == 1 && w->node[0].boot_news == 1 && !w->node[0].news_met);
  peer_toy_deliver(&w->node[0], held, false);
  peer_toy_link(w, 0, 1, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

/* Nobody hears the new life's hello: its refusal of what comes tells enough. */
TEST(peer_restart_heard_by_refusal)
{
  struct peer_toys *w = peer_toys_met();
  peer_toy_restart(w, 1, 1000000000);
  w->node[1].up[0] = true; /* can send, and isn't told that it is connected */
  CHECK(peer_say(w, 0, 1, 1, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 0 && peer_refusals(peer_of(w, 1, 0)) >= 1);
  CHECK(peer_of(w, 0, 1)->boot == w->node[1].set.boot && peer_of(w, 0, 1)->met);
  CHECK(peer_say(w, 0, 1, 2, false) && peer_toys_settle(w));
  CHECK(w->node[1].seen_count == 1);
  peer_toys_close(w);
}

TEST(peer_restart_with_the_clock_set_back)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t former = w->node[1].set.boot;
  peer_toy_restart(w, 1, -3600000000000);
  CHECK(w->node[1].set.boot < former);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  CHECK(w->node[1].reborn == 1 && w->node[1].set.boot > former);
  CHECK(w->node[0].former == former || peer_of(w, 0, 1)->boot == w->node[1].set.boot);
  CHECK(peer_say(w, 0, 1, 3, false) && peer_say(w, 1, 0, 4, false) && peer_toys_settle(w));
  CHECK(w->node[0].seen_count == 1 && w->node[1].seen_count == 1);
  peer_toys_close(w);
}

TEST(peer_equal_boot_of_another_life)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t former = w->node[1].set.boot;
  peer_toy_restart(w, 1, 0);
  w->node[1].set.boot = former;
  CHECK(w->node[1].set.life != peer_of(w, 0, 1)->life);
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_poll(w) && peer_both_met(w, 0, 1));
  CHECK(w->node[1].set.boot > former && w->node[1].reborn == 1);
  peer_toys_close(w);
}

/* What was posted before is for nobody, and those who heard of the former life hear of this one. */
TEST(peer_raise_begins_anew)
{
  struct peer_toys *w = peer_toys_met();
  uint64_t boot = w->node[0].set.boot;
  int parcel;
  CHECK(peer_say_bulk(w, 0, 1, 1, &parcel));
  peer_raise(&w->node[0].set, boot - 1);
  CHECK(w->node[0].reborn == 0 && w->node[0].parcel_count == 0);
  peer_raise(&w->node[0].set, UINT64_MAX);
  CHECK(w->node[0].reborn == 0);
  peer_raise(&w->node[0].set, boot + 4);
  uint64_t risen = w->node[0].set.boot;
  CHECK(w->node[0].reborn == 1 && risen > boot + 4 && risen <= boot + 5 + (1u << 20));
  CHECK(w->node[0].parcel_count == 1 && !peer_of(w, 0, 1)->met);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1) && w->node[1].seen_count == 0);
  CHECK(peer_of(w, 1, 0)->boot == risen && w->node[1].reborn == 0);
  CHECK(w->node[1].former == boot || w->node[1].former == risen);
  peer_toys_close(w);
}

TEST(peer_reborn_amid_a_message)
{
  struct peer_toys *w = peer_toys_met();
  for (uint32_t i = 0; i < 3; i++)
    CHECK(peer_say(w, 0, 1, i, false));
  w->node[1].raise = true;
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  CHECK(w->node[1].seen_count == 1 && w->node[1].reborn == 1);
  peer_toys_close(w);
}

/* Node 2 is another daemon that takes itself for node 1. */
TEST(peer_two_daemons_in_one_place)
{
  struct peer_toys *w = peer_toys_met();
  struct peer_toy *other = &w->node[2];
  uint64_t first = w->node[1].set.boot;
  peer_close(&other->set);
  other->wall += 1000000000;
  CHECK_INT(peer_open(&other->set, &other->env, &other->log, &other->config, 1, "twin:7000", NULL),
            CHI_OK);
  peer_toy_hear(other);
  other->up[0] = true;
  peer_on_link(&other->set, 0, true); /* the later one takes the place; answers go to the first */
  CHECK(peer_toys_settle(w));
  CHECK(peer_of(w, 0, 1)->life == other->set.life && w->node[1].reborn == 1);
  CHECK(w->node[1].set.boot > first);
  CHECK(strstr(w->node[0].line, "two daemons") && strstr(w->node[0].line, "beta"));
  CHECK(w->node[0].last_level == CHI_LOG_ERROR && strstr(w->node[1].line, "two daemons"));
  CHECK(w->node[1].set.twice && !peer_of(w, 1, 0)->met && !other->set.twice);
  w->now += PEER_POLL;
  w->node[1].set.peer[0].met = w->node[1].set.peer[0].confirmed = true; /* as if never told */
  CHECK(peer_say(w, 1, 0, 1, false) && peer_toys_settle(w) && !peer_of(w, 1, 0)->met);
  for (int i = 0; i < 10; i++)
    CHECK(peer_toys_poll(w));
  CHECK(w->node[1].reborn == 1 && other->reborn == 0); /* they don't chase each other */
  CHECK(peer_of(w, 0, 1)->life == other->set.life);
  peer_toy_restart(w, 1, 2000000000); /* the other one was stopped, this one started again */
  peer_toy_link(w, 1, 0, true);
  CHECK(peer_toys_settle(w) && peer_both_met(w, 0, 1));
  peer_toys_close(w);
}

TEST(peer_another_says_our_number)
{
  struct peer_toys *w = peer_toys_met();
  struct wire_header h = {.records = 1,
                          .cluster = w->node[0].set.cluster,
                          .from = 0,
                          .to = 0,
                          .from_boot = 5,
                          .to_boot = w->node[0].set.boot};
  unsigned char bytes[WIRE_HEADER + WIRE_RECORD] = {[WIRE_HEADER + 4] = WIRE_ASK};
  struct env_frame frame = {bytes, sizeof bytes};
  uint32_t before = w->node[0].sent_to[1];
  wire_header_put(bytes, sizeof bytes, &h);
  peer_on_message(&w->node[0].set, w->now, &frame, 1);
  CHECK(strstr(w->node[0].line, "another daemon") && w->node[0].last_level == CHI_LOG_ERROR);
  CHECK(w->node[0].set.dropped == 1 && w->node[0].sent_to[1] == before);
  peer_toys_close(w);
}

/* ---- whatever happens */

struct peer_story {
  struct peer_toys *w;
  uint64_t random;
  uint32_t number, heard[PEER_NODES][PEER_NODES], parcels[PEER_NODES];
  uint64_t delivered;
  bool wrong;
};

static uint32_t peer_story_draw(struct peer_story *y, uint32_t below)
{
  y->random = hash_mix64(y->random + 0x9e3779b97f4a7c15u);
  return (uint32_t)(y->random % below);
}

/* In order, of the life that is known, and for the life that hears it. */
static void peer_story_on_record(void *arg, struct peer *from, enum wire_kind kind,
                                 struct wire_in *record)
{
  struct peer_toy *t = arg;
  struct peer_story *y = t->context;
  uint32_t self = (uint32_t)(t - y->w->node), number = wire_get_u32(record);
  uint64_t from_boot = wire_get_u64(record), to_boot = wire_get_u64(record);
  record->bulk_count = 0;
  y->wrong = y->wrong || kind != WIRE_REQUEST || !wire_in_ended(record) ||
             from_boot != from->boot || to_boot != t->set.boot ||
             number <= y->heard[self][from->node];
  y->heard[self][from->node] = number;
  y->delivered++;
}

static void peer_story_say(struct peer_story *y, uint32_t from, uint32_t to)
{
  struct peer *p = peer_of(y->w, from, to);
  const struct env_frame frame = {y, sizeof *y};
  bool bulk = peer_story_draw(y, 3) == 0;
  struct wire_out out;
  if (!peer_begin(p, WIRE_REQUEST, 20, peer_story_draw(y, 2), &out))
    return;
  wire_put_u32(&out, ++y->number);
  wire_put_u64(&out, peer_set_of(p)->boot);
  wire_put_u64(&out, p->boot);
  peer_post(p, &out, &frame, bulk, bulk ? y : NULL);
  y->parcels[from] += bulk;
}

static void peer_story_step(struct peer_story *y)
{
  struct peer_toys *w = y->w;
  uint32_t a = peer_story_draw(y, PEER_NODES);
  uint32_t b = (a + 1 + peer_story_draw(y, PEER_NODES - 1)) % PEER_NODES;
  struct peer_toy *t = &w->node[a];
  uint32_t what = peer_story_draw(y, 1000);
  if (what < 500)
    peer_story_say(y, a, b);
  else if (what < 650)
    peer_flush(&t->set, w->now, PEER_POLL);
  else if (what < 820)
    peer_toys_carry(w);
  else if (what < 900)
    w->now += PEER_POLL / 3;
  else if (what < 950)
    peer_toy_link(w, a, b, what < 940);
  else if (what < 965)
    t->lose[b] = !t->lose[b];
  else if (what < 980)
    t->full[b] = !t->full[b];
  else if (what < 985)
    peer_reset(&t->set.peer[b]);
  else if (what < 990)
    peer_raise(&t->set, t->set.boot + peer_story_draw(y, 3));
  else if (what < 995)
    peer_toy_restart(w, a, (int64_t)peer_story_draw(y, 4000000000u) - 2000000000);
  t->context = y;
  t->set.on_record = peer_story_on_record;
}

/* Everything works again: all meet, and hear each other. */
static bool peer_story_heal(struct peer_story *y)
{
  struct peer_toys *w = y->w;
  uint64_t before;
  for (uint32_t a = 0; a < PEER_NODES; a++)
    for (uint32_t b = 0; b < PEER_NODES; b++)
      if (a != b) {
        w->node[a].lose[b] = w->node[a].full[b] = false;
        peer_toy_link(w, a, b, true);
      }
  for (int i = 0; i < 4; i++) {
    for (uint32_t a = 0; a < PEER_NODES; a++)
      for (uint32_t b = 0; b < PEER_NODES; b++)
        if (a != b && !w->node[a].up[b])
          peer_toy_link(w, a, b, true);
    if (!peer_toys_poll(w))
      return false;
  }
  before = y->delivered;
  for (uint32_t a = 0; a < PEER_NODES; a++)
    for (uint32_t b = 0; b < PEER_NODES; b++)
      if (a != b)
        peer_story_say(y, a, b);
  return peer_toys_settle(w) && y->delivered == before + PEER_NODES * (PEER_NODES - 1);
}

TEST(peer_story)
{
  uint64_t delivered = 0, reborn = 0;
  for (uint32_t seed = 1; seed <= 300; seed++) {
    struct peer_story y = {.w = peer_toys_open(), .random = seed};
    bool healed;
    for (uint32_t i = 0; i < PEER_NODES; i++) {
      y.w->node[i].context = &y;
      y.w->node[i].set.on_record = peer_story_on_record;
    }
    healed = peer_story_heal(&y);
    for (int i = 0; i < 400; i++)
      peer_story_step(&y);
    healed = peer_story_heal(&y) && healed;
    delivered += y.delivered;
    for (uint32_t i = 0; i < PEER_NODES; i++) {
      reborn += y.w->node[i].reborn;
      y.wrong = y.wrong || y.w->node[i].parcel_count != y.parcels[i];
    }
    peer_toys_close(y.w);
    if (y.wrong || !healed) {
      test_fail(__FILE__, __LINE__, "seed %u: %s", seed, y.wrong ? "heard wrongly" : "not healed");
      return;
    }
  }
  CHECK(delivered > 3000 && reborn > 100); /* or it was a story of nothing */
}
