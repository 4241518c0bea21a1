/* test_net_loss.c - tasks between nodes when messages, connections, nodes and memory are lost. */
#include "net_town.h"
#include "rng.h"
#include "test.h"

#include <stdlib.h>

static struct town town;

/* ---- messages */

TEST(net_lost_request_is_sent_again)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_settle(&town);
  town.wire[0][1].held = false;
  town_bounce(&town, 0, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK_INT(town.bodies, 1);
  net_figures(town.node[0].net, &f);
  CHECK(f.retries == 1 && f.requests == 1);
  CHECK_INT(town.node[0].trace[NET_TRACE_RESENT], 1);
  town_free(&t);
  TOWN_END();
}

/* The connection is lost without anybody hearing of it. */
TEST(net_silently_lost_request_is_asked_for)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  uint64_t begun = town.now;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_settle(&town);
  town_lose(&town, 0, 1);
  town.wire[0][1].held = false;
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK(town.now >= begun + NET_ASK_NS && town.now < begun + 2 * NET_ASK_NS);
  town_free(&t);
  TOWN_END();
}

TEST(net_lost_answer_is_given_again)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town.wire[1][0].held = true;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_MS);
  CHECK_INT(town.bodies, 1);
  town_lose(&town, 1, 0);
  town.wire[1][0].held = false;
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK_INT(((struct town_wait *)t.task)->done, 1);
  CHECK_INT(town.bodies, 1);
  net_figures(town.node[1].net, &f);
  CHECK(f.repeats == 1 && f.answers == 1);
  town_free(&t);
  TOWN_END();
}

/* The acknowledgement is lost: the slot's next request says the same. */
TEST(net_lost_acknowledgement)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  town_free(&t);
  town.wire[0][1].held = true;
  town_pass(&town, 2 * NET_ACK_NS);
  town_lose(&town, 0, 1);
  town.wire[0][1].held = false;
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 1);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 1); /* the second one's */
  town_free(&t);
  town.wire[0][1].held = true;
  town_pass(&town, 2 * NET_ACK_NS);
  town_lose(&town, 0, 1);
  town.wire[0][1].held = false;
  town_pass(&town, NET_ASK_MAX_NS); /* no next one: the executor reminds */
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 0);
  TOWN_END();
}

TEST(net_lost_cancellation_is_repeated)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, 100 * TOWN_S, 1, 1);
  town_pass(&town, TOWN_MS);
  town.wire[0][1].held = true;
  town_cancel(&town, &t);
  town_settle(&town);
  town_lose(&town, 0, 1);
  town.wire[0][1].held = false;
  CHECK(town_until(&town, &t, 2 * NET_ASK_NS));
  CHECK_INT(t.rc, CHI_ECANCELLED);
  town_free(&t);
  TOWN_END();
}

/* A cancelled request that was lost on its way isn't sent again. */
TEST(net_cancelled_request_is_lost)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_submit_wait(&town, &t, 0, &town_wait_type, 100 * TOWN_S, 1, 1);
  town_settle(&town);
  town_cancel(&town, &t);
  town_settle(&town);
  town_lose(&town, 0, 1);
  town.wire[0][1].held = false;
  CHECK(town_until(&town, &t, 2 * NET_ASK_NS));
  CHECK_INT(t.rc, CHI_ECANCELLED);
  CHECK_INT(town.bodies, 0);
  town_free(&t);
  TOWN_END();
}

/* A request of a slot's past is never run, whatever brought it. */
TEST(net_old_request)
{
  unsigned char bytes[NET_REQUEST_SIZE + 64];
  struct town_task t;
  struct wire_out out;
  struct wire_in in;
  town_open(&town, 2, 4);
  for (int i = 0; i < 2; i++) {
    town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
    CHECK(town_until(&town, &t, TOWN_S));
    town_free(&t);
  }
  for (uint64_t seq = 1; seq <= 3; seq++) {
    struct net_request r = {.slot = 0,
                            .seq = seq,
                            .key = {0, 1, 77},
                            .first = 1,
                            .count = 1,
                            .pool = {300, 0},
                            .method = 14};
    wire_out_init(&out, bytes, sizeof bytes);
    net_request_put(&out, &r);
    struct town_wait wait = {.ns = 1000};
    uint32_t frames = 0;
    CHECK_INT(wire_task_put(&out, &town_wait_type, &wait, CHI_DIR_IN, NULL, &frames, 0), CHI_OK);
    wire_in_init(&in, bytes, out.used);
    net_on_record(town.node[1].net, &town.node[1].peers.peer[0], WIRE_REQUEST, &in);
    town_pass(&town, 10 * TOWN_MS);
    CHECK_INT(town.bodies, seq < 3 ? 2 : 3);
  }
  town_pass(&town, 2 * NET_ASK_MAX_NS); /* nobody waits for that one: it is forgotten */
  TOWN_END();
}

/* An answer that doesn't fit its request: the task has run, and its result is lost. */
TEST(net_answer_does_not_suit)
{
  for (int wrong = 0; wrong < 5; wrong++) {
    unsigned char bytes[NET_ANSWER_SIZE + 64];
    struct town_task t;
    struct wire_out out;
    struct wire_in in;
    town_open(&town, 2, 4);
    town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_S, 1, 1);
    town_pass(&town, TOWN_MS);
    struct net_answer a = {.slot = 0, .seq = 1, .ran = true, .gathered = true};
    struct town_wait wait = {.done = 1};
    a.failures.asked = wrong == 1 ? 2 : 1;
    if (wrong == 2)
      net_failures_add(&a.failures, 1, a.rc = 5); /* failed and succeeded */
    if (wrong == 3)
      net_failures_add(&a.failures, 0, a.rc = 5), a.gathered = false; /* somebody else */
    wire_out_init(&out, bytes, sizeof bytes);
    net_answer_put(&out, &a);
    uint32_t frames = 0;
    CHECK_INT(wire_task_put(&out, &town_wait_type, &wait, CHI_DIR_OUT, NULL, &frames, 0), CHI_OK);
    if (wrong == 4)
      wire_put_u8(&out, 0); /* too long */
    wire_in_init(&in, bytes, out.used);
    net_on_record(town.node[0].net, &town.node[0].peers.peer[1], WIRE_ANSWER, &in);
    CHECK_INT(t.ends, 1);
    CHECK_INT(t.rc, wrong ? CHI_ECORRUPT : CHI_OK);
    town_free(&t);
    town_pass(&town, 2 * TOWN_S);
    TOWN_END();
  }
}

/* Long tasks outlive the time without a sign of life, since there are signs. */
TEST(net_long_task)
{
  struct town_task t;
  town_open(&town, 4, 2);
  town_submit_wait(&town, &t, 0, &town_wait_type, 100 * TOWN_S, 0, 4);
  CHECK(town_until(&town, &t, 101 * TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK_INT(town.bodies, 4);
  town_free(&t);
  TOWN_END();
}

/* Nothing is heard any more, though the connection seems to stand. */
TEST(net_silence)
{
  struct town_task t;
  town_open(&town, 2, 4);
  uint64_t begun = town.now;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000 * TOWN_S, 1, 1);
  town_settle(&town);
  town.wire[1][0].held = true;
  CHECK(town_until(&town, &t, 2 * town.task_timeout));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  uint64_t end = begun + town.task_timeout;
  CHECK(town.now >= end && town.now <= end + 3 * TOWN_S);
  struct net_figures f;
  net_figures(town.node[0].net, &f);
  CHECK(f.unknown == 1 && f.unreachable == 0 && town.node[0].trace[NET_TRACE_UNKNOWN] == 1);
  town.wire[1][0].held = false;
  town_pass(&town, TOWN_S); /* the cancellation has arrived: the body has ended, too */
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.runs_open, 0);
  town_free(&t);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1); /* in the same slot */
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  TOWN_END();
}

/* Bulk frames that nobody takes don't hold the task for ever. */
TEST(net_silence_with_bulk)
{
  static unsigned char data[100000];
  struct town_task t;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_new(&town, &t, 0, &town_blob_type);
  ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data, 0};
  ((struct town_blob *)t.task)->to = (chi_bulk){data, sizeof data, 0};
  town_submit(&town, &t, 1, 1);
  CHECK(town_until(&town, &t, 2 * town.task_timeout));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  CHECK_INT(town.pinned, 0);
  town_free(&t);
  town.wire[0][1].held = false;
  TOWN_END();
}

/* Requests, answers and acknowledgements lost at random, with and without notice. */
static bool net_soak(uint64_t seed, uint32_t tasks, const chi_type *type)
{
  struct town_task *t = calloc(tasks, sizeof *t);
  struct rng rng;
  bool fine = true;
  rng_seed(&rng, seed, 0, 0);
  town_open(&town, 4, 2);
  for (uint32_t i = 0; i < tasks; i++) {
    uint32_t first = (uint32_t)rng_below(&rng, 4), count = 1 + (uint32_t)rng_below(&rng, 4 - first);
    uint32_t node = (uint32_t)rng_below(&rng, 4);
    town_submit_wait(&town, &t[i], node, type, rng_below(&rng, 20 * TOWN_MS), first, count);
    town_pass(&town, rng_below(&rng, 5 * TOWN_MS));
    uint32_t a = (uint32_t)rng_below(&rng, 4), b = (uint32_t)rng_below(&rng, 4);
    if (a == b)
      continue;
    town.wire[a][b].held = rng_below(&rng, 2);
    if (rng_below(&rng, 4) == 0)
      town_bounce(&town, a, b);
    else if (rng_below(&rng, 2) == 0)
      town_lose(&town, a, b);
  }
  for (uint32_t a = 0; a < 16; a++)
    town.wire[a / 4][a % 4].held = false;
  for (uint32_t i = 0; i < tasks; i++) {
    fine = fine && town_until(&town, &t[i], 60 * TOWN_S) && t[i].ends == 1 && t[i].rc == CHI_OK;
    town_free(&t[i]);
  }
  free(t);
  town_pass(&town, 2 * NET_ASK_MAX_NS);
  return fine && town_doubles(&town) == 0;
}

TEST(net_soak)
{
  uint64_t repeats = 0, resent = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    CHECK(net_soak(seed, 60, &town_wait_type));
    for (uint32_t i = 0; i < 4; i++) {
      repeats += town.node[i].trace[NET_TRACE_REPEATED];
      resent += town.node[i].trace[NET_TRACE_RESENT];
    }
    TOWN_END();
  }
  CHECK(repeats > 20 && resent > 20);
}

/* ---- nodes */

TEST(net_executor_dies)
{
  struct town_task t;
  town_open(&town, 3, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_S, 0, 3);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 1);
  CHECK(!town_until(&town, &t, 5 * TOWN_S)); /* it may come back, or not: nobody knows yet */
  town_start(&town, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  CHECK_INT(t.task->query.c, 1);
  CHECK_INT(town_bodies(&town, 12, 1), 1);
  town_free(&t);
  TOWN_END();
}

TEST(net_executor_is_declared_dead)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_S, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 1);
  town.node[1].dead = true;
  net_on_dead(town.node[0].net, 1);
  CHECK_INT(t.ends, 1);
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  TOWN_END();
}

/* Declared dead by mistake: what runs there is overtaken by the slot's next request. */
TEST(net_executor_was_not_dead)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, 100 * TOWN_S, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  town.node[1].dead = true;
  net_on_dead(town.node[0].net, 1);
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_S);
  CHECK_INT(t.ends, 0); /* nothing is sent to the dead */
  town.node[1].dead = false;
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.aborted, 1);
  town_free(&t);
  TOWN_END();
}

TEST(net_idempotent_runs_again)
{
  struct town_task t;
  town_open(&town, 3, 4);
  town_submit_wait(&town, &t, 0, &town_again_type, TOWN_S, 1, 2);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 1);
  town_start(&town, 1);
  CHECK(town_until(&town, &t, 3 * TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK_INT(town_bodies(&town, 14, 1), 2); /* under two keys */
  CHECK_INT(town_bodies(&town, 14, 2), 1);
  CHECK_INT(town.node[0].trace[NET_TRACE_RETRIED], 1);
  town_free(&t);
  TOWN_END();
}

/* What is begun again is older than what has only waited: it goes first. */
TEST(net_waiting_is_by_age)
{
  struct town_task t, u;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_again_type, TOWN_S, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 1);
  town.bodies = 0;
  town_submit_wait(&town, &u, 0, &town_wait_type, TOWN_S, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  town_start(&town, 1);
  CHECK(town_until(&town, &t, 3 * TOWN_S) && town_until(&town, &u, 3 * TOWN_S));
  CHECK(town.bodies == 2 && town.body[0].method == 14 && town.body[1].method == 12);
  town_free(&t);
  town_free(&u);
  TOWN_END();
}

/* One that takes its executor with it each time is not tried for ever. */
TEST(net_idempotent_has_an_end)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_again_type, 10 * TOWN_S, 1, 1);
  uint32_t crashes = 0;
  for (; t.ends == 0 && crashes < 20; crashes++) {
    town_pass(&town, 100 * TOWN_MS);
    town_crash(&town, 1);
    town_start(&town, 1);
    town_settle(&town);
  }
  CHECK_INT(crashes, NET_TRIES);
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  TOWN_END();
}

TEST(net_origin_dies)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, 100 * TOWN_S, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 0);
  CHECK_INT(t.ends, 0);
  town_start(&town, 0);
  town_pass(&town, 100 * TOWN_MS);
  net_figures(town.node[1].net, &f);
  CHECK(f.aborted == 1 && f.runs_open == 0 && f.answers_kept == 0);
  TOWN_END();
}

/* A branch of the tree is lost with its root; the rest is gathered. */
TEST(net_branch_dies)
{
  struct town_task t;
  town_open(&town, 9, 2);
  town_new(&town, &t, 8, &town_wait_type);
  ((struct town_wait *)t.task)->ns = TOWN_S;
  town_submit(&town, &t, 0, 8);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 4); /* 4..7 */
  town_start(&town, 4);
  CHECK(town_until(&town, &t, 3 * TOWN_S));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  CHECK_INT(t.task->query.c, 4);
  for (uint32_t i = 0; i < 8; i++)
    CHECK_INT(town_bodies(&town, 12, i), 1);
  town_free(&t);
  TOWN_END();
}

TEST(net_never_there)
{
  struct town_task t;
  town_open(&town, 3, 4);
  town_crash(&town, 1);
  uint64_t begun = town.now;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 0, 3);
  CHECK(town_until(&town, &t, 2 * town.wait_for_restart));
  CHECK_INT(t.rc, CHI_EUNREACHABLE);
  CHECK_INT(t.task->query.c, 1);
  CHECK(town.now >= begun + town.wait_for_restart &&
        town.now < begun + town.wait_for_restart + 100 * TOWN_MS);
  CHECK_INT(town.bodies, 2);
  town_free(&t);
  TOWN_END();
}

TEST(net_there_in_time)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, town.wait_for_restart - TOWN_S);
  CHECK_INT(t.ends, 0);
  town_start(&town, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  TOWN_END();
}

/* Who waited long for a slot hasn't waited for the peer: that begins when it goes away. */
TEST(net_patience_begins_anew)
{
  static unsigned char data[60u << 20];
  struct town_task t[2];
  town_open(&town, 2, 4);
  town.wire[1][0].held = true;
  for (int i = 0; i < 2; i++) {
    town_new(&town, &t[i], 0, &town_blob_type);
    struct town_blob *blob = (struct town_blob *)t[i].task;
    blob->from = blob->to = (chi_bulk){data, sizeof data, 0};
    town_submit(&town, &t[i], 1, 1);
  }
  town_pass(&town, town.wait_for_restart + TOWN_S);
  town.wire[1][0].held = false;
  town_wire_set(&town, 0, 1, false);
  town_wire_set(&town, 1, 0, false);
  town_pass(&town, TOWN_S);
  CHECK(t[0].ends == 0 && t[1].ends == 0);
  town_wire_set(&town, 0, 1, true);
  town_wire_set(&town, 1, 0, true);
  for (int i = 0; i < 2; i++) {
    CHECK(town_until(&town, &t[i], TOWN_S));
    CHECK_INT(t[i].rc, CHI_OK);
    town_free(&t[i]);
  }
  CHECK_INT(town.bodies, 2);
  TOWN_END();
}

/* Some don't wait for those who aren't there. */
TEST(net_prompt)
{
  struct town_task t, u;
  town_open(&town, 5, 2);
  town_crash(&town, 3);
  town_new(&town, &t, 0, &town_add_type);
  t.task->flags = TASK_PROMPT;
  town_submit(&town, &t, 0, 5);
  CHECK(town_until(&town, &t, 10 * TOWN_MS));
  CHECK_INT(t.rc, CHI_EUNREACHABLE);
  CHECK(t.task->query.c == 2 && town.bodies == 3); /* 3 and 4 are a branch */
  town_free(&t);
  for (int i = 0; i < 2; i++) { /* they wait for a slot when the peer goes away */
    town_new(&town, i ? &u : &t, 0, &town_blob_type);
    struct town_blob *blob = (struct town_blob *)(i ? u : t).task;
    static unsigned char data[60u << 20];
    blob->from = blob->to = (chi_bulk){data, sizeof data, 0};
    blob->task.flags = TASK_PROMPT;
    town_submit(&town, i ? &u : &t, 1, 1);
  }
  CHECK(t.ends == 0 && u.ends == 0);
  town_crash(&town, 1);
  CHECK(town_until(&town, &u, 100 * TOWN_MS));
  CHECK_INT(u.rc, CHI_EUNREACHABLE);
  town_start(&town, 1);
  CHECK(town_until(&town, &t, 100 * TOWN_MS));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  town_free(&u);
  TOWN_END();
}

/* More than may wait for one peer. */
TEST(net_too_many_wait)
{
  uint32_t count = NET_WAITING + 1;
  struct town_task *t = calloc(count, sizeof *t);
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  for (uint32_t i = 0; i < count; i++)
    town_submit_wait(&town, &t[i], 0, &town_wait_type, 1000, 1, 1);
  for (uint32_t i = 0; i < count; i++)
    CHECK_INT(t[i].ends, i == count - 1);
  CHECK_INT(t[count - 1].rc, CHI_EBUSY);
  CHECK(town_until(&town, &t[0], town.wait_for_restart + TOWN_S));
  for (uint32_t i = 0; i < count; i++) {
    CHECK(t[i].ends == 1 && (i == count - 1 || t[i].rc == CHI_EUNREACHABLE));
    town_free(&t[i]);
  }
  free(t);
  TOWN_END();
}

/* Waiting for somebody who isn't there ends at once when the caller wants no more. */
TEST(net_waiting_is_cancelled)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_S);
  town_cancel(&town, &t);
  CHECK_INT(t.ends, 1);
  CHECK_INT(t.rc, CHI_ECANCELLED);
  town_free(&t);
  town_new(&town, &t, 0, &town_wait_type);
  t.task->deadline_ms = 300;
  town_submit(&town, &t, 1, 1);
  CHECK(town_until(&town, &t, 301 * TOWN_MS));
  CHECK_INT(t.rc, CHI_ETIMEOUT);
  town_free(&t);
  TOWN_END();
}

/* Our own boot had to be raised: to the others it is another life. */
TEST(net_reborn)
{
  struct town_task t, u;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_S, 1, 1);
  town_submit_wait(&town, &u, 1, &town_wait_type, TOWN_S, 0, 1);
  town_pass(&town, 100 * TOWN_MS);
  net_on_reborn(town.node[0].net);
  CHECK(t.ends == 1 && t.rc == CHI_EUNKNOWN);
  struct net_figures f;
  net_figures(town.node[0].net, &f);
  CHECK_INT(f.aborted, 1);
  /* What peers do when they see the new boot is what they do for a restart; here nobody sees it,
   * and the question about u finds that its seat is empty: it is sent again, and runs again. */
  town_cancel(&town, &u);
  CHECK(town_until(&town, &u, TOWN_S));
  CHECK_INT(u.rc, CHI_ECANCELLED);
  town_free(&t);
  town_free(&u);
  town_pass(&town, 2 * TOWN_S);
  TOWN_END();
}

/* ---- pools */

TEST(net_waits_for_the_pool)
{
  struct town_task t, u;
  static unsigned char data[20000];
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_start_bare(&town, 1);
  town_connect(&town, 1);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_new(&town, &u, 0, &town_blob_type);
  ((struct town_blob *)u.task)->from = (chi_bulk){data, sizeof data, 0};
  ((struct town_blob *)u.task)->to = (chi_bulk){data, sizeof data, 0};
  town_submit(&town, &u, 1, 1);
  town_pass(&town, TOWN_S);
  CHECK_INT(t.ends, 0);
  town_add_pool(&town, 1, POOL_CREATING);
  town_pass(&town, TOWN_S);
  CHECK_INT(t.ends, 0);
  town_add_pool(&town, 1, POOL_READY);
  CHECK(town_until(&town, &t, TOWN_S) && town_until(&town, &u, TOWN_S));
  CHECK(t.rc == CHI_OK && u.rc == CHI_OK);
  town_free(&t);
  town_free(&u);
  TOWN_END();
}

/* Those that waited for the pool begin as they came. */
TEST(net_parked_keep_their_order)
{
  struct town_task t[5];
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_start_bare(&town, 1);
  town_connect(&town, 1);
  for (int i = 0; i < 5; i++) {
    town_submit_wait(&town, &t[i], 0, &town_wait_type, 1000, 1, 1);
    town_pass(&town, TOWN_MS);
  }
  town_add_pool(&town, 1, POOL_READY);
  for (uint32_t i = 0; i < 5; i++) {
    CHECK(town_until(&town, &t[i], TOWN_S));
    town_free(&t[i]);
    CHECK(i == 0 || town.body[i].key_seq > town.body[i - 1].key_seq);
  }
  TOWN_END();
}

TEST(net_pool_never_comes)
{
  struct town_task t;
  struct net_figures f;
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_start_bare(&town, 1);
  town_connect(&town, 1);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  CHECK(town_until(&town, &t, town.wait_for_restart + TOWN_S));
  CHECK_INT(t.rc, CHI_ENOENT);
  net_figures(town.node[1].net, &f);
  CHECK(f.not_run == 1 && f.runs == 0);
  town_free(&t);
  town_new(&town, &t, 0, &town_wait_type);
  t.task->deadline_ms = 300;
  town_submit(&town, &t, 1, 1);
  CHECK(town_until(&town, &t, 400 * TOWN_MS));
  CHECK_INT(t.rc, CHI_ETIMEOUT); /* it was told how long it may take */
  town_free(&t);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1); /* cancelled while it waits there */
  town_pass(&town, 10 * TOWN_MS);
  town_cancel(&town, &t);
  CHECK(town_until(&town, &t, 10 * TOWN_MS));
  CHECK_INT(t.rc, CHI_ECANCELLED);
  town_free(&t);
  TOWN_END();
}

TEST(net_pool_is_gone)
{
  struct town_task t;
  town_open(&town, 2, 4);
  town_add_pool(&town, 1, POOL_DESTROYED);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  CHECK(town_until(&town, &t, 10 * TOWN_MS));
  CHECK_INT(t.rc, CHI_ENOENT);
  town_free(&t);
  town.node[1].pool->shared = true; /* the sender knows a newer one of that id */
  town.node[0].pool->version[0] = 7;
  town_add_pool(&town, 1, POOL_READY);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_S);
  CHECK_INT(t.ends, 0);
  town.node[1].pool->version[0] = 7;
  net_on_pools(town.node[1].net);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  TOWN_END();
}

TEST(net_container_moved)
{
  struct town_task t;
  town_open(&town, 4, 4);
  town_move(&town, 2, 1, 2);
  town_move(&town, 1, 1, 2);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1); /* 0 hasn't heard of it */
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK(town.bodies == 1 && town.body[0].at == 2 && town.body[0].index == 1);
  CHECK_INT(town.node[0].trace[NET_TRACE_MOVED], 1);
  town_free(&t);
  town_move(&town, 0, 1, 3); /* wrongly; 3 thinks it is on 1, and 1 knows */
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 0, 4);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  TOWN_END();
}

TEST(net_container_moved_here)
{
  struct town_task t;
  town_open(&town, 3, 4);
  town_move(&town, 1, 1, 0);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_S);
  CHECK_INT(t.ends, 0); /* it isn't here, whatever they say; but it may be on its way */
  town_move(&town, 0, 1, 0);
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK(town.bodies == 1 && town.body[0].at == 0);
  town_free(&t);
  TOWN_END();
}

TEST(net_container_in_a_circle)
{
  struct town_task t;
  town_open(&town, 3, 4);
  town_move(&town, 1, 1, 2); /* 2 says it is on 1 */
  uint64_t begun = town.now;
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  CHECK(town_until(&town, &t, town.task_timeout + TOWN_S));
  CHECK_INT(t.rc, CHI_EUNREACHABLE);
  CHECK(town.now >= begun + town.task_timeout);
  uint64_t moved = town.node[0].trace[NET_TRACE_MOVED];
  CHECK(moved > NET_HOPS && moved < 200);
  CHECK_INT(town.bodies, 0);
  town_free(&t);
  town_submit_wait(&town, &t, 0, &town_wait_type, 1000, 1, 1);
  town_pass(&town, TOWN_S);
  town_move(&town, 2, 1, 2); /* it has arrived */
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  town_submit_wait(&town, &t, 1, &town_again_type, 10 * TOWN_S, 2, 1);
  town_pass(&town, 100 * TOWN_MS);
  town_crash(&town, 2); /* lost once and never there again: it may have run */
  town.node[2].dead = true;
  net_on_dead(town.node[1].net, 2);
  CHECK(town_until(&town, &t, town.wait_for_restart + TOWN_S));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  TOWN_END();
}

/* ---- memory */

TEST(net_executor_without_memory)
{
  struct town_task t;
  bool refused = false;
  for (int at = 0; at < 12; at++) {
    town_open(&town, 2, 4);
    town_new(&town, &t, 0, &town_add_type);
    town_submit(&town, &t, 1, 1);
    town.node[1].fail_at = at;
    CHECK(town_until(&town, &t, TOWN_S));
    town.node[1].fail_at = -1;
    CHECK_INT(t.rc, CHI_OK);
    CHECK_INT(town.bodies, 1);
    refused = refused || town.node[1].trace[NET_TRACE_NOT_RUN] > 0;
    town_free(&t);
    TOWN_END();
  }
  CHECK(refused);
}

/* "Busy" as long as anybody can bear it; once there is room, it is run. */
TEST(net_executor_stays_busy)
{
  static unsigned char data[1000000];
  struct town_task t;
  town_open(&town, 2, 4);
  for (int round = 0; round < 3; round++) {
    net_shelf_clear(town.node[1].net);
    town.node[1].fail_above = sizeof data / 2;
    uint64_t begun = town.now;
    town_new(&town, &t, 0, &town_blob_type);
    ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data, 0};
    ((struct town_blob *)t.task)->to = (chi_bulk){data, sizeof data, 0};
    t.task->deadline_ms = round == 2 ? 1500 : 0;
    town_submit(&town, &t, 1, 1);
    town_pass(&town, TOWN_S);
    CHECK(t.ends == 0 && town.bodies == 0);
    uint64_t tries = town.node[0].trace[NET_TRACE_RETRIED];
    CHECK(tries >= (uint64_t)(round + 1) * 10 && tries < (uint64_t)(round + 1) * 200);
    if (round == 0)
      town.node[1].fail_above = 0;
    CHECK(town_until(&town, &t, town.task_timeout + TOWN_S));
    CHECK_INT(t.rc, round == 0 ? CHI_OK : round == 1 ? CHI_EBUSY : CHI_ETIMEOUT);
    CHECK(round != 1 || town.now >= begun + town.task_timeout);
    town_free(&t);
    town.bodies = 0;
  }
  TOWN_END();
}

/* Memory that bulk data had is there for the next, for a while; then it is given back. */
TEST(net_executor_uses_large_blocks_again)
{
  static unsigned char data[1000000];
  town_open(&town, 2, 4);
  for (int round = 0; round < 4; round++) {
    struct town_task t;
    town.node[1].fail_above = round == 0 ? 0 : sizeof data / 2;
    if (round == 3)
      town_pass(&town, 2 * NET_SHELF_NS);
    town_new(&town, &t, 0, &town_blob_type);
    ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data - (size_t)round, 0};
    ((struct town_blob *)t.task)->to = (chi_bulk){data, sizeof data, 0};
    t.task->deadline_ms = 500;
    town_submit(&town, &t, 1, 1);
    CHECK(town_until(&town, &t, TOWN_S));
    CHECK_INT(t.rc, round < 3 ? CHI_OK : CHI_ETIMEOUT);
    CHECK(town.node[1].net->shelf_bytes < 3 * sizeof data);
    town_free(&t);
  }
  CHECK_INT(town.node[1].net->shelf_bytes, 0);
  TOWN_END();
}

TEST(net_origin_without_memory)
{
  int ended = 0;
  for (int at = 0; at < 40; at++) {
    struct town_task t;
    town_open(&town, 4, 2);
    town_new(&town, &t, 0, &town_add_type);
    town.node[0].fail_at = at;
    town_submit(&town, &t, 0, 4);
    CHECK(town_until(&town, &t, TOWN_S));
    town.node[0].fail_at = -1;
    CHECK(t.rc == CHI_OK || t.rc == CHI_ENOMEM);
    CHECK_INT(t.ends, 1);
    ended += t.rc == CHI_ENOMEM;
    town_free(&t);
    TOWN_END();
  }
  CHECK(ended > 3 && ended < 40);
}

/* A peer may have so much here, or one request of any size. */
TEST(net_peer_has_too_much)
{
  unsigned char bytes[NET_REQUEST_SIZE + 256];
  struct wire_out out;
  struct wire_in in;
  struct net_figures f;
  uint32_t frames = 0;
  town_open(&town, 2, 4);
  for (uint32_t slot = 0; slot < 3; slot++) {
    struct net_request r = {.slot = slot,
                            .seq = 1,
                            .key = {0, 1, 77 + slot},
                            .first = 1,
                            .count = 1,
                            .pool = {300, 0},
                            .method = 11};
    struct town_blob blob = {.to = {NULL, slot == 0 ? 3 * NET_BYTES : 100, 0}};
    wire_out_init(&out, bytes, sizeof bytes);
    net_request_put(&out, &r);
    CHECK_INT(wire_task_put(&out, &town_blob_type, &blob, CHI_DIR_IN, NULL, &frames, 0), CHI_OK);
    wire_in_init(&in, bytes, out.used);
    net_on_record(town.node[1].net, &town.node[1].peers.peer[0], WIRE_REQUEST, &in);
    net_figures(town.node[1].net, &f);
    CHECK_INT(f.runs, slot < 2 ? 1 : 2);
    CHECK_INT(f.not_run, slot < 1 ? 0 : 1);
    if (slot == 1) /* it is answered, and acknowledged */
      town_pass(&town, 2 * NET_ASK_MAX_NS);
  }
  town_pass(&town, 2 * NET_ASK_MAX_NS);
  TOWN_END();
}

/* What is large takes its time: silence is borne longer while bulk is under way. */
TEST(net_bears_silence_while_bulk_is_under_way)
{
  static unsigned char data[16 << 20], back[16 << 20];
  struct town_task t, u;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_new(&town, &t, 0, &town_blob_type);
  ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data, 0};
  ((struct town_blob *)t.task)->to = (chi_bulk){back, sizeof back, 0};
  town_submit(&town, &t, 1, 1);
  town_submit_wait(&town, &u, 0, &town_wait_type, TOWN_MS, 1, 1);
  town_pass(&town, town.task_timeout + TOWN_S);
  CHECK(t.ends == 0 && u.ends == 0);
  town.wire[0][1].held = false;
  CHECK(town_until(&town, &t, 3 * TOWN_S) && t.rc == CHI_OK);
  CHECK(town_until(&town, &u, 3 * TOWN_S) && u.rc == CHI_OK);
  town_free(&t);
  town_free(&u);
  /* And not for ever. */
  town.wire[0][1].held = true;
  town_new(&town, &t, 0, &town_blob_type);
  ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data, 0};
  town_submit(&town, &t, 1, 1);
  CHECK(town_until(&town, &t, town.task_timeout + 10 * TOWN_S));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  town.wire[0][1].held = false;
  town_pass(&town, 2 * NET_ASK_MAX_NS);
  TOWN_END();
}

/* ---- the end */

TEST(net_gives_up_what_is_pinned)
{
  static unsigned char data[100000];
  struct town_task t;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_new(&town, &t, 0, &town_blob_type);
  ((struct town_blob *)t.task)->from = (chi_bulk){data, sizeof data, 0};
  town_submit(&town, &t, 1, 1);
  net_drain(town.node[0].net, town.now + TOWN_S);
  CHECK(town_until(&town, &t, TOWN_S + TOWN_MS));
  CHECK_INT(t.rc, CHI_EUNKNOWN);
  town_free(&t);
  town.wire[0][1].held = false;
  TOWN_END();
}
