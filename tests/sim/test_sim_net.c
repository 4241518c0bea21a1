/* test_sim_net.c - the network between simulated nodes, without a runtime. */
#include "sim_net.h"
#include "test.h"

#include <stdlib.h>

#define NODES 4u
#define SECOND UINT64_C(1000000000)
#define MS UINT64_C(1000000)

/* Bulk that is the sender's until it comes back. */
struct parcel {
  struct parcel *next;
  char bytes[64];
};

/* A node that writes down what it hears. Messages are their number on their way. */
struct station {
  struct town *town;
  uint32_t number;
  struct sim_net_port *port;
  struct sim_thread thread;
  uint64_t next_out[NODES]; /* number of the next message to each */
  uint64_t last_in[NODES];  /* of the last heard from each */
  uint64_t heard_at, heard[NODES], heard_bytes, strays;
  uint32_t ups[NODES], downs[NODES], parcels_out, parcels_back;
  bool deaf;              /* takes nothing */
  struct parcel *parcels; /* that are out */
};

struct town {
  struct sim_world world;
  struct sim_net net;
  struct station station[NODES];
  char wrong[100]; /* the first thing */
};

static void town_wrong(struct town *t, const char *what, uint64_t a, uint64_t b)
{
  if (!t->wrong[0])
    snprintf(t->wrong, sizeof(t->wrong), "%s: %llu %llu", what, (unsigned long long)a,
             (unsigned long long)b);
}

/* It is somebody else's memory now. */
static void station_forget(struct station *s, struct parcel **at)
{
  struct parcel *parcel = *at;
  *at = parcel->next;
  memset(parcel, '?', sizeof(*parcel));
  free(parcel);
  s->parcels_back++;
}

static void station_sent(struct station *s, const void *parcel)
{
  struct parcel **at = &s->parcels;
  while (*at && *at != parcel)
    at = &(*at)->next;
  if (*at)
    station_forget(s, at);
  else
    town_wrong(s->town, "nobody's parcel", s->number, 0);
}

static struct parcel *station_parcel(struct station *s)
{
  struct parcel *parcel = malloc(sizeof(*parcel));
  if (!parcel)
    abort();
  memset(parcel->bytes, 'a' + (int)s->number, sizeof(parcel->bytes));
  parcel->next = s->parcels;
  s->parcels = parcel;
  return parcel;
}

static void station_message(struct station *s, const struct sim_net_mail *mail)
{
  uint64_t number;
  memcpy(&number, mail->frame[0].data, sizeof(number));
  if (mail->stray) { /* of a life that is over */
    s->strays++;
  } else {
    if (number <= s->last_in[mail->from])
      town_wrong(s->town, "out of order or again", mail->from, number);
    s->last_in[mail->from] = number;
  }
  s->heard[mail->from]++;
  s->heard_at = s->town->world.now;
  for (uint32_t i = 0; i < mail->count; i++)
    s->heard_bytes += mail->frame[i].size;
  for (uint32_t i = 1; i < mail->count; i++)
    for (uint64_t at = 0; at < mail->frame[i].size; at++)
      if (((const char *)mail->frame[i].data)[at] != (char)('a' + mail->from))
        town_wrong(s->town, "bulk is not what was sent", mail->from, number);
}

static void station_peer(struct station *s, uint32_t peer, bool connected)
{
  s->ups[peer] += connected;
  s->downs[peer] += !connected;
  if (s->ups[peer] != s->downs[peer] + connected)
    town_wrong(s->town, "up and down don't alternate", s->number, peer);
}

static void station_take(struct station *s)
{
  struct sim_net_mail *mail;
  while (!s->deaf && (mail = sim_net_take(s->port))) {
    if (mail->kind == SIM_NET_MESSAGE)
      station_message(s, mail);
    else if (mail->kind == SIM_NET_PEER)
      station_peer(s, mail->from, mail->connected);
    else
      station_sent(s, mail->parcel);
    sim_net_mail_free(mail);
  }
}

static void station_main(void *arg)
{
  struct station *s = arg;
  for (;;) {
    station_take(s);
    sim_thread_park(&s->town->world, s->deaf ? SIM_WORLD_NEVER : sim_net_due(s->port));
  }
}

static int station_open(struct station *s)
{
  memset(s->ups, 0, sizeof(s->ups));
  memset(s->downs, 0, sizeof(s->downs));
  sim_thread_start(&s->town->world, &s->thread, s->number, station_main, s);
  s->port->thread = &s->thread;
  s->parcels_out = s->parcels_back = 0;
  return sim_net_open(s->port, NODES, s->number, NULL);
}

static void station_end(struct station *s, bool silent)
{
  s->port->thread = NULL;
  sim_net_die(s->port, silent);
  sim_thread_end(&s->thread);
  while (s->parcels)
    station_forget(s, &s->parcels);
}

static int station_send(struct station *s, uint32_t to, uint32_t bulks)
{
  uint64_t number = s->next_out[to] + 1;
  struct env_frame frame[4] = {{&number, sizeof(number)}};
  struct parcel *parcel = bulks ? station_parcel(s) : NULL;
  int rc;
  for (uint32_t i = 1; i <= bulks; i++)
    frame[i] = (struct env_frame){parcel->bytes, i * 10};
  rc = sim_net_send(s->port, to, frame, 1 + bulks, parcel);
  if (rc == CHI_OK) {
    s->next_out[to]++;
    s->parcels_out += bulks > 0;
  } else if (parcel) {
    station_forget(s, &s->parcels);
    s->parcels_back--;
  }
  return rc;
}

static void town_open(struct town *t, uint64_t seed)
{
  memset(t, 0, sizeof(*t));
  sim_world_init(&t->world, seed);
  sim_net_init(&t->net, &t->world);
  for (uint32_t i = 0; i < NODES; i++) {
    t->station[i].town = t;
    t->station[i].number = i;
    t->station[i].port = sim_net_port(&t->net, i);
    if (station_open(&t->station[i]) != CHI_OK)
      town_wrong(t, "open", i, 0);
  }
}

static void town_run(struct town *t, uint64_t ns)
{
  uint64_t until = t->world.now + ns;
  while (sim_world_next(&t->world, until))
    continue;
}

static bool town_connected(struct town *t)
{
  for (uint32_t i = 0; i < NODES * NODES; i++)
    if (i / NODES != i % NODES && !sim_net_connected(&t->net, i / NODES, i % NODES))
      return false;
  return true;
}

/* Opens it, and all are connected. */
static void town_begin(struct town *t, uint64_t seed)
{
  town_open(t, seed);
  town_run(t, 3 * SECOND);
  if (!town_connected(t))
    town_wrong(t, "not connected", 0, 0);
}

static void town_close(struct town *t)
{
  for (uint32_t i = 0; i < NODES; i++)
    if (t->station[i].port->open)
      station_end(&t->station[i], false);
  sim_net_fini(&t->net);
  sim_world_fini(&t->world);
}

/* ---- an undisturbed network --------------------------------------------------------------- */

TEST(sim_net_carries_messages_in_order)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  uint64_t began;
  town_begin(&t, 1);
  began = t.world.now;
  for (int i = 0; i < 100; i++)
    CHECK_INT(station_send(a, 1, (uint32_t)i % 4), CHI_OK);
  town_run(&t, 10 * MS);
  CHECK_STR(t.wrong, "");
  CHECK_INT(b->heard[0], 100);
  CHECK_INT(b->heard_bytes, 100 * 8 + 25 * (10 + 30 + 60));
  CHECK(b->heard_at >= began + t.world.profile.latency);
  CHECK_INT(a->parcels_back, 75);
  CHECK_INT(t.net.figures.sent, 100);
  CHECK_INT(t.net.figures.delivered, 100);
  CHECK_INT(a->ups[1], 1);
  CHECK_INT(a->downs[1], 0);
  town_close(&t);
}

TEST(sim_net_quiet_ways_take_no_memory)
{
  struct town t;
  struct station *a = &t.station[0];
  town_begin(&t, 1);
  CHECK_INT(t.net.ways, 0);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  CHECK_INT(t.net.ways, 1);
  town_run(&t, 10 * MS);
  CHECK_INT(t.net.ways, 0);
  sim_net_clog(&t.net, 0, 2, MS);
  sim_net_cut(&t.net, 1, 3, true);
  town_run(&t, 10 * MS);
  CHECK(t.net.ways >= 2);
  sim_net_heal(&t.net);
  town_run(&t, 10 * SECOND);
  CHECK_INT(t.net.ways, 0);
  CHECK_INT(t.station[1].heard[0], 1);
  town_close(&t);
}

TEST(sim_net_bytes_take_time_on_the_line_of_their_sender)
{
  static char big[1000000];
  struct town t;
  struct station *a = &t.station[0];
  uint64_t number = 1, began;
  const struct env_frame frame[2] = {{&number, 8}, {big, sizeof(big)}};
  town_begin(&t, 1);
  memset(big, 'a', sizeof(big));
  began = t.world.now;
  CHECK_INT(sim_net_send(a->port, 1, frame, 2, station_parcel(a)), CHI_OK);
  CHECK_INT(sim_net_send(a->port, 2, frame, 2, station_parcel(a)), CHI_OK);
  CHECK(a->port->owed >= 2 * 1000000 / 10); /* and on its CPU */
  town_run(&t, 10 * MS);
  CHECK_STR(t.wrong, "");
  CHECK(t.station[1].heard_at >= began + 800000 && t.station[1].heard_at < began + 1200000);
  CHECK(t.station[2].heard_at >= began + 1600000);
  CHECK_INT(a->parcels_back, 2);
  town_close(&t);
}

TEST(sim_net_says_whom_it_cannot_reach)
{
  struct town t;
  struct station *a = &t.station[0];
  chi_error err;
  town_open(&t, 1);
  CHECK_INT(station_send(a, 1, 0), CHI_EUNREACHABLE); /* not yet */
  town_run(&t, 3 * SECOND);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  CHECK_INT(station_send(a, 0, 0), CHI_EUNREACHABLE); /* itself */
  CHECK_INT(sim_net_send(a->port, 77, &(struct env_frame){"x", 1}, 1, NULL), CHI_EUNREACHABLE);
  CHECK_INT(t.net.figures.unreachable, 3);
  CHECK_INT(sim_net_open(a->port, NODES, 0, &err), CHI_EBUSY);
  CHECK_STR(err.text, "node 0 is there already");
  sim_net_close(a->port);
  CHECK_INT(sim_net_open(a->port, SIM_NET_NODES + 1, 0, &err), CHI_EINVAL);
  CHECK_INT(sim_net_open(a->port, 3, 3, &err), CHI_EINVAL);
  CHECK_INT(sim_net_open(a->port, 1, 0, &err), CHI_OK); /* a cluster of one */
  town_run(&t, 3 * SECOND);
  CHECK_INT(sim_net_send(a->port, 1, &(struct env_frame){"x", 1}, 1, NULL), CHI_EUNREACHABLE);
  town_close(&t);
}

TEST(sim_net_queues_are_bounded)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  int sent = 0;
  town_begin(&t, 1);
  b->deaf = true;
  while (station_send(a, 1, 0) == CHI_OK)
    sent++;
  CHECK_INT(sent, t.world.profile.queue_messages);
  CHECK_INT(station_send(a, 1, 0), CHI_EBUSY);
  CHECK_INT(station_send(a, 2, 0), CHI_OK); /* each its own */
  town_run(&t, SECOND);
  CHECK_INT(station_send(a, 1, 0), CHI_EBUSY);
  CHECK_INT(t.net.figures.busy, 3);
  b->deaf = false;
  sim_thread_wake(&b->thread, t.world.now);
  town_run(&t, MS);
  CHECK_INT(b->heard[0], sent);
  t.world.profile.queue_bytes = 100;
  for (sent = 0; station_send(a, 1, 1) == CHI_OK; sent++)
    continue;
  CHECK_INT(sent, 6); /* of 18 bytes: one may go over */
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* ---- connections -------------------------------------------------------------------------- */

/* Runs until `to` of `from` is as wanted; how long that took, or 0: not within a minute. */
static uint64_t town_await(struct town *t, uint32_t from, uint32_t to, bool connected)
{
  uint64_t began = t->world.now;
  while (sim_net_connected(&t->net, from, to) != connected)
    if (t->world.now > began + 60 * SECOND || !sim_world_next(&t->world, began + 61 * SECOND))
      return 0;
  return t->world.now - began + 1;
}

TEST(sim_net_reset_hands_parcels_back_and_connects_again)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 1);
  for (int i = 0; i < 50; i++)
    CHECK_INT(station_send(a, 1, 3), CHI_OK);
  town_run(&t, 30000); /* some have arrived, some have left */
  sim_net_reset(a->port, 1);
  CHECK_INT(station_send(a, 1, 0), CHI_EUNREACHABLE);
  town_run(&t, MS);
  CHECK_INT(a->parcels_back, 50);
  CHECK_INT(a->downs[1], 1);
  CHECK(b->heard[0] > 0 && b->heard[0] < 50);
  CHECK_INT(t.net.figures.lost[SIM_NET_RESET], 50 - b->heard[0]);
  CHECK(town_await(&t, 0, 1, true) > t.world.profile.latency);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  CHECK_INT(b->last_in[0], 51);
  CHECK_STR(t.wrong, "");
  sim_net_reset(a->port, 77); /* nobody: nothing */
  town_close(&t);
}

TEST(sim_net_what_has_left_outlives_its_sender)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 1);
  a->deaf = true; /* so that it has its parcels still */
  for (int i = 0; i < 50; i++)
    CHECK_INT(station_send(a, 1, 3), CHI_OK);
  town_run(&t, 20000);
  CHECK_INT(b->heard[0], 0);
  station_end(a, false);
  town_run(&t, MS);
  CHECK(b->heard[0] > 10 && b->heard[0] < 50);
  CHECK_STR(t.wrong, ""); /* the bulk was copied in time */
  CHECK_INT(b->downs[0], 1);
  town_close(&t);
}

/* Whoever doesn't answer is noticed to be dead, in either direction, as ZeroMQ does. */
TEST(sim_net_silence_is_noticed_when_connections_are_asked)
{
  uint64_t least = UINT64_MAX, most = 0;
  for (uint64_t seed = 0; seed < 40; seed++) {
    struct town t;
    town_begin(&t, seed);
    uint64_t notice = t.world.profile.notice, ask = t.world.profile.ask, began = t.world.now;
    station_end(&t.station[1], true);
    sim_net_cut(&t.net, 2, 0, true); /* what is asked there and answered here is lost */
    while (sim_net_connected(&t.net, 0, 1) || sim_net_connected(&t.net, 0, 2) ||
           sim_net_connected(&t.net, 2, 0))
      town_run(&t, 100 * MS);
    CHECK(t.world.now - began >= notice && t.world.now - began <= notice + ask + 100 * MS);
    least = t.world.now - began < least ? t.world.now - began : least;
    most = t.world.now - began > most ? t.world.now - began : most;
    CHECK(sim_net_connected(&t.net, 0, 3) && sim_net_connected(&t.net, 3, 0));
    CHECK_STR(t.wrong, "");
    town_close(&t);
  }
  CHECK(most - least > 500 * MS);
}

TEST(sim_net_a_short_cut_is_not_noticed_on_the_way_back)
{
  struct town t;
  town_begin(&t, 5);
  sim_net_cut(&t.net, 2, 0, true);
  town_run(&t, t.world.profile.notice - SECOND);
  sim_net_cut(&t.net, 2, 0, false);
  town_run(&t, 10 * SECOND);
  CHECK_INT(t.station[0].downs[2] + t.station[2].downs[0], 0);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* The next life has a connection of its own, that does not wait for what is on its way. */
TEST(sim_net_what_a_life_has_sent_may_come_behind_the_next_one)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 1);
  sim_net_clog(&t.net, 0, 1, 2 * SECOND);
  for (int i = 0; i < 3; i++)
    CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  sim_net_clog(&t.net, 0, 1, 0);
  station_end(a, false);
  CHECK_INT(station_open(a), CHI_OK);
  town_run(&t, SECOND);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  CHECK(b->heard[0] == 1 && b->strays == 0);
  town_run(&t, SECOND);
  CHECK(b->heard[0] == 4 && b->strays == 3);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

TEST(sim_net_what_a_life_has_sent_does_not_pass_a_cut)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 1);
  sim_net_clog(&t.net, 0, 1, SECOND);
  CHECK_INT(station_send(a, 1, 3), CHI_OK);
  town_run(&t, MS);
  station_end(a, false);
  sim_net_cut(&t.net, 0, 1, true);
  town_run(&t, 2 * SECOND);
  CHECK(b->heard[0] == 0 && t.net.figures.lost[SIM_NET_CLOSED] == 1);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* A process that ends is noticed at once; a machine that does, where connections are not asked,
 * some time, or when spoken to. */
TEST(sim_net_death_is_noticed_soon_or_late)
{
  int late = 0, asked = 0;
  for (uint64_t seed = 0; seed < 40; seed++) {
    struct town t;
    struct station *a = &t.station[0];
    uint64_t took;
    town_begin(&t, seed);
    t.world.profile.ask = 0;
    station_end(&t.station[1], false);
    took = town_await(&t, 0, 1, false);
    CHECK(took > 0 && took < MS);
    station_end(&t.station[2], true);
    CHECK_INT(station_send(a, 2, 0), CHI_OK); /* it doesn't know */
    took = town_await(&t, 0, 2, false);
    CHECK(took > t.world.profile.notice / 16 && took < t.world.profile.notice * 2);
    CHECK_INT(t.net.figures.lost[SIM_NET_NOBODY], 1);
    station_end(&t.station[3], true);
    took = town_await(&t, 0, 3, false);
    late += took > 0;
    if (!took) {
      CHECK_INT(station_send(a, 3, 2), CHI_OK);
      asked += town_await(&t, 0, 3, false) > 0;
      CHECK_INT(a->parcels_back, a->parcels_out);
    }
    CHECK_STR(t.wrong, "");
    town_close(&t);
  }
  CHECK(late > 10 && late < 30);
  CHECK_INT(asked, 40 - late);
}

TEST(sim_net_a_restart_ends_half_open_connections)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 3);
  station_end(b, true);
  CHECK_INT(station_open(b), CHI_OK);
  while (sim_net_connected(&t.net, 0, 1)) {
    CHECK_INT(station_send(a, 1, 0), CHI_OK);
    town_run(&t, 10000);
  }
  CHECK(t.world.now < SIM_WORLD_START + 3 * SECOND + MS);
  CHECK_INT(b->heard[0], 0);
  CHECK(town_await(&t, 0, 1, true));
  CHECK(sim_net_connected(&t.net, 1, 0));
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  CHECK_INT(b->heard[0], 1);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* ---- what disturbs it --------------------------------------------------------------------- */

TEST(sim_net_a_cut_holds_one_way)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 4);
  CHECK_INT(station_send(a, 1, 3), CHI_OK);
  sim_net_cut(&t.net, 0, 1, true);
  CHECK_INT(station_send(a, 1, 3), CHI_OK);
  CHECK_INT(station_send(b, 0, 0), CHI_OK);
  town_run(&t, 10 * MS);
  CHECK_INT(b->heard[0], 0);
  CHECK_INT(a->heard[1], 1);
  CHECK_INT(a->parcels_back, 1); /* the other is still in its queue */
  CHECK_INT(t.net.figures.held, 2);
  sim_net_cut(&t.net, 0, 1, false);
  town_run(&t, SECOND);
  CHECK_INT(b->heard[0], 2);
  CHECK_INT(a->parcels_back, 2);
  CHECK_INT(a->downs[1], 0);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

TEST(sim_net_a_long_cut_is_noticed_and_loses)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 4);
  sim_net_cut(&t.net, 0, 1, true);
  for (int i = 0; i < 5; i++)
    CHECK_INT(station_send(a, 1, 1), CHI_OK);
  CHECK(town_await(&t, 0, 1, false) > t.world.profile.notice / 16);
  CHECK_INT(t.net.figures.lost[SIM_NET_NOTICED], 5);
  CHECK_INT(town_await(&t, 0, 1, true), 0);
  CHECK_INT(a->parcels_back, 5);
  town_run(&t, t.world.profile.ask);
  CHECK(!sim_net_connected(&t.net, 1, 0)); /* that way, too: no answer gets back */
  CHECK_INT(town_await(&t, 1, 0, true), 0); /* to connect takes both */
  sim_net_cut(&t.net, 0, 1, false);
  CHECK(town_await(&t, 0, 1, true));
  CHECK(town_await(&t, 1, 0, true));
  CHECK_INT(b->heard[0], 0);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* Who hears whom, as bits 4 * from + to. */
static uint32_t town_gossip(struct town *t)
{
  uint32_t heard = 0;
  uint64_t before[NODES][NODES];
  for (uint32_t i = 0; i < NODES * NODES; i++) {
    before[i / NODES][i % NODES] = t->station[i % NODES].heard[i / NODES];
    if (i / NODES != i % NODES)
      station_send(&t->station[i / NODES], i % NODES, 0);
  }
  town_run(t, 10 * MS);
  for (uint32_t i = 0; i < NODES * NODES; i++)
    if (t->station[i % NODES].heard[i / NODES] > before[i / NODES][i % NODES])
      heard |= 1u << i;
  return heard;
}

#define ALL 0x7bdeu /* but themselves */

TEST(sim_net_separates_and_heals)
{
  struct town t;
  town_begin(&t, 4);
  CHECK_INT(town_gossip(&t), ALL);
  sim_net_isolate(&t.net, 1, true);
  CHECK_INT(town_gossip(&t), ALL & ~0x00f0u & ~0x2222u);
  sim_net_isolate(&t.net, 1, false);
  town_run(&t, 5 * SECOND);
  CHECK_INT(town_gossip(&t), ALL);
  sim_net_partition(&t.net, 1, 2);
  CHECK_INT(town_gossip(&t), 0x1008u | 0x0240u);
  sim_net_split(&t.net, 1);
  town_run(&t, 5 * SECOND);
  CHECK_INT(town_gossip(&t), ALL & ~0x000fu & ~0x1111u);
  sim_net_split(&t.net, 0);
  town_run(&t, 5 * SECOND);
  CHECK_INT(town_gossip(&t), ALL);
  sim_net_split(&t.net, UINT64_MAX); /* all on one side */
  CHECK_INT(town_gossip(&t), ALL);
  sim_net_isolate(&t.net, 3, true);
  sim_net_partition(&t.net, 0, 0);
  sim_net_cut(&t.net, 1, 2, true);
  CHECK_INT(town_gossip(&t), 1u << (4 * 2 + 1));
  sim_net_heal(&t.net);
  town_run(&t, 5 * SECOND);
  CHECK_INT(town_gossip(&t), ALL);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

TEST(sim_net_clogs_and_slows)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  uint64_t began;
  town_begin(&t, 4);
  sim_net_clog(&t.net, 0, 1, 100 * MS);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  sim_net_clog(&t.net, 0, 1, 0);
  CHECK_INT(station_send(a, 1, 0), CHI_OK); /* waits behind the other */
  began = t.world.now;
  town_run(&t, 99 * MS);
  CHECK_INT(b->heard[0], 0);
  town_run(&t, 2 * MS);
  CHECK_INT(b->heard[0], 2);
  sim_net_slow(&t.net, 0, 1, 100000);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  began = t.world.now;
  town_run(&t, SECOND);
  CHECK(b->heard_at >= began + 1000 * t.world.profile.latency);
  sim_net_slow(&t.net, 0, 1, 100);
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  CHECK_INT(b->heard[0], 4);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

TEST(sim_net_fills_and_loses)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 4);
  sim_net_full(&t.net, 0, 1, true);
  CHECK_INT(station_send(a, 1, 0), CHI_EBUSY);
  sim_net_full(&t.net, 0, 1, false);
  sim_net_lose(&t.net, 0, 1, 2, false);
  for (int i = 0; i < 3; i++)
    CHECK_INT(station_send(a, 1, 1), CHI_OK);
  town_run(&t, MS);
  CHECK_INT(b->heard[0], 2);
  CHECK_INT(a->parcels_back, 3);
  CHECK_INT(a->downs[1], 0);
  CHECK_INT(t.net.figures.lost[SIM_NET_LOST], 1);
  sim_net_lose(&t.net, 0, 1, 2, true);
  CHECK_INT(station_send(a, 1, 1), CHI_OK);
  CHECK_INT(station_send(a, 1, 1), CHI_OK);
  CHECK_INT(station_send(a, 1, 1), CHI_EUNREACHABLE);
  town_run(&t, MS);
  CHECK_INT(a->downs[1], 1);
  CHECK_INT(a->parcels_back, 5);
  CHECK(b->heard[0] < 4);
  CHECK(town_await(&t, 0, 1, true));
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

TEST(sim_net_breaks_connections)
{
  struct town t;
  struct station *a = &t.station[0], *b = &t.station[1];
  town_begin(&t, 4);
  CHECK(sim_net_drop(&t.net, 0, 1, true));
  CHECK(!sim_net_drop(&t.net, 0, 1, true));
  CHECK(!sim_net_drop(&t.net, 0, 1, false));
  CHECK(!sim_net_drop(&t.net, 99, 1, false));
  CHECK(town_await(&t, 0, 1, true));
  CHECK(sim_net_drop(&t.net, 0, 1, false));
  CHECK(!sim_net_drop(&t.net, 0, 1, false)); /* half is half */
  for (int i = 0; i < 20; i++) {
    CHECK_INT(station_send(a, 1, 0), CHI_OK);
    town_run(&t, MS);
  }
  CHECK_INT(t.net.figures.lost[SIM_NET_NOBODY], 20);
  CHECK_INT(b->heard[0], 0);
  CHECK(town_await(&t, 0, 1, false));
  CHECK_INT(a->downs[1], 1); /* told of by the next step */
  CHECK(town_await(&t, 0, 1, true));
  CHECK_INT(station_send(a, 1, 0), CHI_OK);
  town_run(&t, MS);
  CHECK_INT(b->heard[0], 1);
  CHECK_INT(a->downs[1], 2);
  CHECK_STR(t.wrong, "");
  town_close(&t);
}

/* ---- chance ------------------------------------------------------------------------------- */

/* When the 20 messages of a way arrive, with some other way disturbed or not. */
static void town_times(uint64_t *at, bool disturbed)
{
  struct town t;
  town_begin(&t, 9);
  if (disturbed) {
    sim_net_lose(&t.net, 2, 3, 1, true);
    sim_net_cut(&t.net, 1, 3, true);
    station_send(&t.station[2], 3, 3);
    station_send(&t.station[1], 3, 3);
  }
  for (int i = 0; i < 20; i++) {
    station_send(&t.station[0], 1, 0);
    t.station[0].port->owed = 0;
    town_run(&t, 100000);
    at[i] = t.station[1].heard_at - t.world.now;
  }
  town_close(&t);
}

TEST(sim_net_one_way_does_not_shift_the_chance_of_another)
{
  uint64_t plain[20], disturbed[20];
  int different = 0;
  town_times(plain, false);
  town_times(disturbed, true);
  for (int i = 0; i < 20; i++) {
    CHECK_INT(plain[i], disturbed[i]);
    different += plain[i] != plain[0];
  }
  CHECK(different > 15);
}

static void town_mischief(struct town *t, struct rng *rng)
{
  uint32_t a = (uint32_t)rng_below(rng, NODES), b = (a + 1 + (uint32_t)rng_below(rng, 3)) % NODES;
  bool on = rng_below(rng, 2);
  switch (rng_below(rng, 12)) {
  case 0:
    sim_net_cut(&t->net, a, b, on);
    break;
  case 1:
    sim_net_isolate(&t->net, a, on);
    break;
  case 2:
    sim_net_partition(&t->net, 0, a);
    break;
  case 3:
    sim_net_heal(&t->net);
    break;
  case 4:
    sim_net_clog(&t->net, a, b, on ? 300 * MS : 0);
    break;
  case 5:
    sim_net_slow(&t->net, a, b, on ? 5000 : 100);
    break;
  case 6:
    sim_net_full(&t->net, a, b, on);
    break;
  case 7:
    sim_net_drop(&t->net, a, b, on);
    break;
  case 8:
    sim_net_lose(&t->net, a, b, 3, on);
    break;
  case 9:
    if (t->station[a].port->open)
      sim_net_reset(t->station[a].port, b);
    break;
  case 10:
    if (t->station[a].port->open)
      station_end(&t->station[a], on);
    break;
  default:
    if (!t->station[a].port->open)
      station_open(&t->station[a]);
  }
}

static uint64_t town_in_flight(const struct town *t)
{
  const struct sim_net_figures *f = &t->net.figures;
  uint64_t gone = f->delivered;
  for (int i = 0; i < SIM_NET_REASON_COUNT; i++)
    gone += f->lost[i];
  return f->sent - gone;
}

/* Whatever happens, in a drawn order; then it heals. */
static uint64_t town_ordeal(struct town *t, uint64_t seed)
{
  struct rng rng;
  uint64_t hash;
  town_open(t, seed);
  rng_seed(&rng, seed, 1, 1);
  for (int i = 0; i < 300; i++) {
    for (uint32_t k = 0; k < 10; k++) {
      uint32_t a = (uint32_t)rng_below(&rng, NODES), b = (uint32_t)rng_below(&rng, NODES);
      uint32_t bulks = (uint32_t)rng_below(&rng, 4);
      if (a != b && t->station[a].port->open)
        station_send(&t->station[a], b, bulks);
    }
    if (rng_below(&rng, 4) == 0)
      town_mischief(t, &rng);
    town_run(t, rng_below(&rng, rng_below(&rng, 8) ? MS : SECOND));
  }
  sim_net_heal(&t->net);
  for (uint32_t i = 0; i < NODES; i++)
    if (!t->station[i].port->open)
      station_open(&t->station[i]);
  for (int i = 0; i < 10; i++) {
    town_run(t, SECOND);
    town_gossip(t);
  }
  if (town_gossip(t) != ALL || !town_connected(t))
    town_wrong(t, "it doesn't heal", 0, 0);
  if (town_in_flight(t))
    town_wrong(t, "still on their way", town_in_flight(t), 0);
  for (uint32_t i = 0; i < NODES; i++)
    if (t->station[i].parcels_out != t->station[i].parcels_back)
      town_wrong(t, "parcels", t->station[i].parcels_out, t->station[i].parcels_back);
  hash = hash_stream_finish(&t->world.trace.hash);
  town_close(t);
  return hash;
}

TEST(sim_net_story_of_every_ordeal)
{
  uint64_t lost[SIM_NET_REASON_COUNT] = {0}, busy = 0, held = 0, delivered = 0;
  for (uint64_t seed = 0; seed < 150; seed++) {
    struct town t;
    uint64_t hash = town_ordeal(&t, seed);
    CHECK_STR(t.wrong, "");
    for (int i = 0; i < SIM_NET_REASON_COUNT; i++)
      lost[i] += t.net.figures.lost[i];
    busy += t.net.figures.busy;
    held += t.net.figures.held;
    delivered += t.net.figures.delivered;
    if (seed % 10 == 0)
      CHECK(town_ordeal(&t, seed) == hash);
    if (getenv("STORY_HASH"))
      printf("hash %016llx of network %llu\n", (unsigned long long)hash, (unsigned long long)seed);
  }
  for (int i = SIM_NET_CLOSED; i < SIM_NET_REASON_COUNT; i++) {
    if (!lost[i])
      printf("  never lost because %s\n", sim_net_reason((enum sim_net_reason)i));
    CHECK(lost[i] > 0);
  }
  CHECK(busy > 0 && held > 0 && delivered > 1000);
}
