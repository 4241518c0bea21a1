/* test_net_depart.c - a node that stops: it takes nothing new, and takes leave of the others. */
#include "net_town.h"
#include "test.h"

static struct town town;

TEST(net_drains)
{
  struct town_task t, u, v, w;
  town_open(&town, 3, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_S, 1, 1);
  town_pass(&town, 10 * TOWN_MS);
  net_drain(town.node[1].net, town.now + 10 * TOWN_S);
  town_submit_wait(&town, &w, 0, &town_wait_type, TOWN_MS, 1, 1);
  town_pass(&town, 10 * TOWN_MS);
  CHECK(w.ends == 0); /* nothing new: that waits */
  town_cancel(&town, &w);
  CHECK(town_until(&town, &w, 10 * TOWN_MS));
  CHECK_INT(w.rc, CHI_ECANCELLED);
  town_free(&w);
  CHECK(!net_idle(town.node[1].net));
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  CHECK(net_idle(town.node[1].net));
  town_free(&t);
  /* And on the other side: calls of its own are given up in time. */
  town_crash(&town, 2);
  town_submit_wait(&town, &u, 1, &town_wait_type, 100 * TOWN_S, 0, 1);
  town_submit_wait(&town, &v, 1, &town_wait_type, 100 * TOWN_S, 2, 1);
  town_pass(&town, 2 * TOWN_S);
  CHECK(u.ends == 0 && v.ends == 0);
  CHECK(town_until(&town, &u, 10 * TOWN_S));
  CHECK_INT(u.rc, CHI_EUNKNOWN);
  CHECK(v.ends == 1 && (v.rc == CHI_ESHUTDOWN || v.rc == CHI_EUNREACHABLE));
  town_free(&u);
  town_free(&v);
  town_submit_wait(&town, &v, 1, &town_wait_type, 1000, 0, 1);
  CHECK(v.ends == 1 && v.rc == CHI_ESHUTDOWN);
  town_free(&v);
  town_pass(&town, 100 * TOWN_MS);
  CHECK(net_idle(town.node[1].net));
  town_submit_wait(&town, &w, 0, &town_wait_type, TOWN_MS, 1, 1);
  town_pass(&town, 100 * TOWN_MS);
  CHECK(w.ends == 0);
  town_crash(&town, 1);
  town_start(&town, 1);
  town_connect(&town, 1);
  CHECK(town_until(&town, &w, TOWN_S));
  CHECK_INT(w.rc, CHI_OK);
  town_free(&w);
  TOWN_END();
}

/* A node that stops takes leave: nothing is under way to it any more, and its answers are there. */
TEST(net_departs_when_all_has_been_said)
{
  struct town_task t, u;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_MS, 1, 1);
  town.wire[1][0].held = true; /* its answer, and that it stops, are on their way */
  town_pass(&town, 10 * TOWN_MS);
  net_drain(town.node[1].net, town.now + 10 * TOWN_S);
  town_submit_wait(&town, &u, 0, &town_wait_type, TOWN_MS, 1, 1); /* so this is sent, and refused */
  town_pass(&town, 10 * TOWN_MS);
  CHECK(net_idle(town.node[1].net));
  CHECK(!net_departed(town.node[1].net));
  CHECK(t.ends == 0 && u.ends == 0);
  town.wire[1][0].held = false;
  town_pass(&town, 2 * NET_ACK_NS);
  CHECK(t.ends == 1 && t.rc == CHI_OK);
  CHECK(net_departed(town.node[1].net));
  CHECK(u.ends == 0);
  town_crash(&town, 1);
  town_start(&town, 1);
  town_connect(&town, 1);
  CHECK(town_until(&town, &u, TOWN_S));
  CHECK_INT(u.rc, CHI_OK);
  town_free(&t);
  town_free(&u);
  TOWN_END();
}

/* Answers that have come are acknowledged before it goes: nobody else could, and they are kept. */
TEST(net_departs_when_answers_are_acknowledged)
{
  struct net_figures f;
  struct town_task t;
  town_open(&town, 2, 4);
  town_submit_wait(&town, &t, 0, &town_wait_type, TOWN_MS, 1, 1);
  CHECK(town_until(&town, &t, TOWN_S));
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 1);
  net_drain(town.node[0].net, town.now + 10 * TOWN_S);
  CHECK(!net_departed(town.node[0].net));
  town_pass(&town, 10 * TOWN_MS);
  CHECK(net_departed(town.node[0].net));
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.answers_kept, 0);
  town_free(&t);
  TOWN_END();
}

/* Who isn't there is not waited for. */
TEST(net_departs_though_a_peer_is_gone)
{
  town_open(&town, 3, 4);
  town_crash(&town, 1);
  net_drain(town.node[0].net, town.now + 10 * TOWN_S);
  CHECK(!net_departed(town.node[0].net));
  town_pass(&town, 10 * TOWN_MS);
  CHECK(net_departed(town.node[0].net));
  TOWN_END();
}

/* That it stops is said again if it was lost. */
TEST(net_departure_is_told_again)
{
  town_open(&town, 2, 4);
  town.wire[1][0].held = true;
  net_drain(town.node[1].net, town.now + 10 * TOWN_S);
  town_pass(&town, 10 * TOWN_MS);
  town_lose(&town, 1, 0);
  town.wire[1][0].held = false;
  town_pass(&town, 10 * TOWN_MS);
  CHECK(!net_departed(town.node[1].net));
  town_pass(&town, NET_ASK_NS);
  CHECK(net_departed(town.node[1].net));
  TOWN_END();
}

TEST(net_departure_that_makes_no_sense_is_refused)
{
  static const unsigned char bytes[][2] = {{2, 0}, {255, 0}, {0, 0}};
  struct net_figures f;
  struct wire_in in;
  struct town_task t;
  town_open(&town, 2, 4);
  for (uint32_t i = 0; i < 3; i++) { /* no such value; one that is followed by something; nothing */
    wire_in_init(&in, bytes[i], i == 2 ? 2 : i);
    net_on_record(town.node[1].net, &town.node[1].peers.peer[0], WIRE_DEPART, &in);
    net_figures(town.node[1].net, &f);
    CHECK_INT(f.malformed, i + 1);
  }
  wire_in_init(&in, bytes[0], 1);
  net_on_record(town.node[1].net, &town.node[1].peers.peer[0], WIRE_DEPART, &in);
  net_figures(town.node[1].net, &f);
  CHECK_INT(f.malformed, 4);
  town_submit_wait(&town, &t, 1, &town_wait_type, TOWN_MS, 0, 1); /* it was told nothing */
  CHECK(town_until(&town, &t, TOWN_S));
  CHECK_INT(t.rc, CHI_OK);
  town_free(&t);
  town_close(&town);
}

/* Node 1 goes when what it says arrives, and not before; its next life does what waits for it. */
static void departs_when_heard(struct town_task *waiting)
{
  CHECK(!net_departed(town.node[1].net));
  town.wire[1][0].held = false;
  town_pass(&town, 2 * NET_ACK_NS);
  CHECK(net_departed(town.node[1].net) && waiting->ends == 0);
  town_crash(&town, 1);
  town_start(&town, 1);
  CHECK(town_until(&town, waiting, TOWN_S));
  CHECK_INT(waiting->rc, CHI_OK);
  town_free(waiting);
}

/* Who finds the node only while that stops is told before it sends what has waited. */
TEST(net_departs_not_while_it_is_met)
{
  struct town_task u;
  town_open(&town, 2, 4);
  town_crash(&town, 1);
  town_wire_set(&town, 0, 1, false);
  town_start(&town, 1);
  town_submit_wait(&town, &u, 0, &town_wait_type, TOWN_MS, 1, 1);
  town_pass(&town, 10 * TOWN_MS);
  net_drain(town.node[1].net, town.now + 10 * TOWN_S);
  CHECK(net_departed(town.node[1].net)); /* nobody could ask it for anything */
  town.wire[1][0].held = true;
  town_wire_set(&town, 0, 1, true);
  town_pass(&town, 10 * TOWN_MS);
  departs_when_heard(&u);
  TOWN_END();
}

/* That something was refused must be known there, like any answer. */
TEST(net_departs_when_refusals_are_known)
{
  struct town_task u;
  town_open(&town, 2, 4);
  town.wire[0][1].held = true;
  town_submit_wait(&town, &u, 0, &town_wait_type, TOWN_MS, 1, 1);
  town_pass(&town, 10 * TOWN_MS);
  net_drain(town.node[1].net, town.now + 10 * TOWN_S);
  town_pass(&town, 10 * TOWN_MS); /* it has heard, and says so behind the request */
  town.wire[1][0].held = true;
  town.wire[0][1].held = false;
  town_pass(&town, 10 * TOWN_MS);
  departs_when_heard(&u);
  TOWN_END();
}
