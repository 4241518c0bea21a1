/* test_ring.c - latch, inbox, list and gate between the workers of a node. */
#include "explore.h"
#include "ring.h"
#include "test.h"

#define RING_NODES 4u

/* ---- inbox */

struct mail {
  struct inbox inbox;
  struct ring_node node[RING_NODES];
  uint32_t wakes; /* pushes that found it empty */
  uint32_t seen, last[2];
};

static void mail_begin(void *world)
{
  struct mail *m = world;
  memset(m, 0, sizeof *m);
  for (uint32_t i = 0; i < RING_NODES; i++)
    m->node[i].kind = i;
}

static void mail_send(struct mail *m, uint32_t first)
{
  for (uint32_t i = first; i < first + 2; i++)
    m->wakes += inbox_push(&m->inbox, &m->node[i]);
}

static void mail_first(void *world)
{
  mail_send(world, 0);
}

static void mail_second(void *world)
{
  mail_send(world, 2);
}

static void mail_take(struct mail *m)
{
  struct ring_node *n = inbox_take(&m->inbox);
  while (n) {
    struct ring_node *next = n->next;
    uint32_t sender = n->kind / 2;
    EXPLORE_CHECK(n->kind < RING_NODES && !(m->seen >> n->kind & 1));
    EXPLORE_CHECK(n->kind % 2 == m->last[sender]); /* in the order they were sent */
    m->last[sender]++;
    m->seen |= 1u << n->kind;
    n->next = NULL; /* it is the receiver's now */
    n = next;
  }
}

static void mail_receiver(void *world)
{
  for (int i = 0; i < 4; i++)
    mail_take(world);
}

static void mail_end(void *world)
{
  struct mail *m = world;
  EXPLORE_CHECK((m->seen != 0) + (m->inbox.top != NULL) <= (int)m->wakes);
  mail_take(m);
  EXPLORE_CHECK(m->seen == (1u << RING_NODES) - 1);
  EXPLORE_CHECK(inbox_empty(&m->inbox));
}

TEST(interleave_inbox_two_send)
{
  static struct mail m;
  const struct explore e = {
      .name = "inbox",
      .world = &m,
      .begin = mail_begin,
      .end = mail_end,
      .preemptions = 3,
      .count = 3,
      .party = {{"receiver", mail_receiver, 0},
                {"sender", mail_first, 0},
                {"sender 2", mail_second, 0}},
  };
  CHECK(explore(&e));
}

/* ---- list */

struct listing {
  struct ring_list stuck, heir;
  struct ring_node node[RING_NODES];
  uint32_t seen[RING_NODES], popped[RING_NODES], count, moved;
};

static void listing_begin(void *world)
{
  struct listing *l = world;
  memset(l, 0, sizeof *l);
  for (uint32_t i = 0; i < RING_NODES; i++)
    l->node[i].kind = i;
  ring_push(&l->stuck, &l->node[0]);
}

static void listing_pop(struct listing *l, struct ring_list *list)
{
  struct ring_node *n = ring_pop(list);
  if (!n)
    return;
  EXPLORE_CHECK(l->seen[n->kind] == 0);
  n->next = &l->node[0]; /* nobody may follow it any more */
  l->popped[l->count++] = n->kind;
  l->seen[n->kind]++;
}

static void listing_pusher(void *world)
{
  struct listing *l = world;
  ring_push(&l->stuck, &l->node[1]);
  ring_push(&l->stuck, &l->node[2]);
}

/* Comes back from what it was stuck in. */
static void listing_owner(void *world)
{
  struct listing *l = world;
  ring_push(&l->heir, &l->node[3]);
  listing_pop(l, &l->stuck);
  listing_pop(l, &l->stuck);
}

static void listing_mover(void *world)
{
  struct listing *l = world;
  l->moved = ring_splice(&l->heir, &l->stuck);
  listing_pop(l, &l->heir);
}

/* Those of one list come out in the order they went in, of whichever list that is. */
static bool listing_ordered(const struct listing *l, uint32_t from, uint32_t to)
{
  uint32_t last = 0;
  bool ordered = true;
  for (uint32_t i = from; i < to; i++) {
    if (l->popped[i] == 3)
      continue;
    ordered = ordered && l->popped[i] >= last;
    last = l->popped[i];
  }
  return ordered;
}

static void listing_end(void *world)
{
  struct listing *l = world;
  EXPLORE_CHECK(l->moved <= 3);
  uint32_t left = l->count;
  for (uint32_t i = 0; i < RING_NODES && !ring_empty(&l->heir); i++)
    listing_pop(l, &l->heir);
  EXPLORE_CHECK(listing_ordered(l, left, l->count));
  uint32_t stuck = l->count;
  for (uint32_t i = 0; i < RING_NODES && !ring_empty(&l->stuck); i++)
    listing_pop(l, &l->stuck);
  EXPLORE_CHECK(listing_ordered(l, stuck, l->count));
  EXPLORE_CHECK(l->heir.tail == NULL && l->stuck.tail == NULL);
  for (uint32_t i = 0; i < RING_NODES; i++)
    EXPLORE_CHECK(l->seen[i] == 1);
}

TEST(interleave_list_push_pop_splice)
{
  static struct listing l;
  const struct explore e = {
      .name = "list",
      .world = &l,
      .begin = listing_begin,
      .end = listing_end,
      .preemptions = 3,
      .count = 3,
      .party = {{"pusher", listing_pusher, 0},
                {"owner", listing_owner, 0},
                {"mover", listing_mover, 0}},
  };
  CHECK(explore(&e));
}

/* ---- gate */

struct crowd {
  struct gate gate;
  struct ring_node node[3];
  uint32_t inside, turns[3], left[3]; /* how often it got in, how often it will ask again */
};

static void crowd_begin(void *world)
{
  struct crowd *c = world;
  memset(c, 0, sizeof *c);
  for (uint32_t i = 0; i < 3; i++) {
    c->node[i].kind = i;
    c->left[i] = 2;
  }
}

/* A worker runs whom it was handed at the gate, as itself; who gets in asks again, once. */
static void crowd_run(struct crowd *c, uint32_t who)
{
  bool in = gate_enter(&c->gate, &c->node[who]);
  while (in) {
    EXPLORE_CHECK(c->inside == 0);
    c->inside++;
    EXPLORE_POINT(&c->inside);
    EXPLORE_CHECK(c->inside == 1);
    c->inside--;
    c->turns[who]++;
    c->left[who]--;
    struct ring_node *next = gate_leave(&c->gate);
    uint32_t me = who;
    in = next != NULL;
    if (c->left[me] > 0 && gate_enter(&c->gate, &c->node[me])) {
      EXPLORE_CHECK(!in);
      in = true;
      next = &c->node[me];
    }
    who = in ? next->kind : who;
  }
}

static void crowd_party(void *world)
{
  crowd_run(world, explore_self());
}

static void crowd_end(void *world)
{
  const struct crowd *c = world;
  EXPLORE_CHECK(c->turns[0] == 2 && c->turns[1] == 2 && c->turns[2] == 2);
  EXPLORE_CHECK(c->gate.state == 0 && c->gate.head == NULL && c->gate.tail == NULL);
}

TEST(interleave_gate_three_enter)
{
  static struct crowd c;
  const struct explore e = {
      .name = "gate",
      .world = &c,
      .begin = crowd_begin,
      .end = crowd_end,
      .preemptions = 3,
      .count = 3,
      .party = {{"worker", crowd_party, 0},
                {"worker 2", crowd_party, 0},
                {"worker 3", crowd_party, 0}},
  };
  CHECK(explore(&e));
}
