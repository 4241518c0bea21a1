/* test_ring.c - latch, inbox, list and gate, in one thread. */
#include "dies.h"
#include "ring.h"
#include "test.h"

TEST(ring_latch)
{
  struct latch l = {0};
  CHECK(latch_try(&l));
  CHECK(!latch_try(&l));
  latch_unlock(&l);
  latch_lock(&l);
  CHECK(!latch_try(&l));
  latch_unlock(&l);
  CHECK_INT(l.held, 0);
}

static void ring_unlocks_free_latch(void *arg)
{
  latch_unlock(arg);
}

TEST(ring_latch_that_is_free_is_not_unlocked)
{
  struct latch l = {0};
  CHECK(dies(ring_unlocks_free_latch, &l, "held"));
}

TEST(ring_inbox_gives_oldest_first)
{
  struct inbox b = {0};
  struct ring_node n[3] = {{0}};
  CHECK(inbox_empty(&b) && inbox_take(&b) == NULL);
  CHECK(inbox_push(&b, &n[0])); /* it was empty */
  CHECK(!inbox_push(&b, &n[1]));
  CHECK(!inbox_push(&b, &n[2]));
  CHECK(!inbox_empty(&b));
  struct ring_node *at = inbox_take(&b);
  CHECK(inbox_empty(&b));
  for (int i = 0; i < 3; i++, at = at->next)
    CHECK(at == &n[i]);
  CHECK(at == NULL);
  CHECK(inbox_push(&b, &n[1])); /* may be sent again */
  CHECK(inbox_take(&b) == &n[1] && n[1].next == NULL);
}

TEST(ring_list_is_first_in_first_out)
{
  struct ring_list l = {0};
  struct ring_node n[4] = {{0}};
  CHECK(ring_empty(&l) && ring_pop(&l) == NULL);
  for (int lap = 0; lap < 3; lap++) {
    for (int i = 0; i < 4; i++)
      ring_push(&l, &n[i]);
    CHECK_INT(l.count, 4);
    CHECK(!ring_empty(&l));
    CHECK(ring_pop(&l) == &n[0]);
    ring_push(&l, &n[0]);
    for (int i = 1; i <= 4; i++)
      CHECK(ring_pop(&l) == &n[i % 4]);
    CHECK(ring_empty(&l) && ring_pop(&l) == NULL && l.head == NULL && l.tail == NULL);
  }
}

/* What is appended comes after what is there; either may be empty. */
TEST(ring_splice_appends)
{
  for (uint32_t there = 0; there < 3; there++) {
    for (uint32_t more = 0; more < 3; more++) {
      struct ring_list to = {0}, from = {0};
      struct ring_node n[6] = {{0}};
      for (uint32_t i = 0; i < there; i++)
        ring_push(&to, &n[i]);
      for (uint32_t i = there; i < there + more; i++)
        ring_push(&from, &n[i]);
      CHECK_INT(ring_splice(&to, &from), more);
      CHECK(ring_empty(&from) && from.head == NULL && from.tail == NULL);
      CHECK_INT(to.count, there + more);
      ring_push(&to, &n[4]);
      ring_push(&from, &n[5]);
      for (uint32_t i = 0; i < there + more; i++)
        CHECK(ring_pop(&to) == &n[i]);
      CHECK(ring_pop(&to) == &n[4] && ring_pop(&to) == NULL);
      CHECK(ring_pop(&from) == &n[5] && ring_pop(&from) == NULL);
    }
  }
}

static void ring_splices_itself(void *arg)
{
  ring_splice(arg, arg);
}

TEST(ring_splice_into_itself_dies)
{
  struct ring_list l = {0};
  CHECK(dies(ring_splices_itself, &l, "to != from"));
}

TEST(ring_gate_lets_one_in_at_a_time)
{
  struct gate g = {0};
  struct ring_node n[4] = {{0}};
  CHECK(gate_enter(&g, &n[0]));
  CHECK(gate_leave(&g) == NULL);
  CHECK_INT(g.state, 0);
  CHECK(gate_enter(&g, &n[0]));
  CHECK(!gate_enter(&g, &n[1]));
  CHECK(!gate_enter(&g, &n[2]));
  CHECK(gate_leave(&g) == &n[1]); /* it is inside now */
  CHECK(!gate_enter(&g, &n[3]));
  CHECK(gate_leave(&g) == &n[2]);
  CHECK(gate_leave(&g) == &n[3]);
  CHECK(!gate_enter(&g, &n[0])); /* n[3] is inside, alone */
  CHECK(gate_leave(&g) == &n[0]);
  CHECK(gate_leave(&g) == NULL);
  CHECK(g.state == 0 && g.head == NULL && g.tail == NULL);
}

static void ring_leaves_open_gate(void *arg)
{
  gate_leave(arg);
}

TEST(ring_gate_that_is_open_is_not_left)
{
  struct gate g = {0};
  CHECK(dies(ring_leaves_open_gate, &g, "alone == 2"));
}
