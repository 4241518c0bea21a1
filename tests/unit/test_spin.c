/* test_spin.c - who waits looks on for work only as long as that pays. */
#include "spin.h"
#include "test.h"

#define LIMIT 50000u
#define TURN 1000u /* what giving way costs where nobody else wants the CPU */
#define CROWD 400000u

/* Who waits: turn by turn there is work or not, and giving way takes longer or shorter. */
struct waiter {
  struct env env;
  struct spin spin;
  uint64_t now, turn; /* the clock; how long giving way takes */
  uint32_t turns, work_at; /* looks so far; the one that finds work, 0: none does */
};

static struct waiter *waiter_of(struct env *env)
{
  return CHI_CONTAINER_OF(env, struct waiter, env);
}

static void waiter_relax(struct env *env)
{
  waiter_of(env)->now += waiter_of(env)->turn;
}

static uint64_t waiter_clock(struct env *env)
{
  return waiter_of(env)->now;
}

static bool waiter_look(const void *who)
{
  struct waiter *w = (struct waiter *)(uintptr_t)who;
  return ++w->turns == w->work_at;
}

static void waiter_init(struct waiter *w, uint64_t limit)
{
  *w = (struct waiter){.turn = TURN, .env = {.relax = waiter_relax, .clock = waiter_clock}};
  spin_init(&w->spin, &w->env, limit, waiter_look, w);
}

/* So many sleeps as it takes to open a window. */
static void waiter_sleep(struct waiter *w, uint64_t took)
{
  for (int i = 0; i < 4; i++)
    spin_slept(&w->spin, took);
}

/* Spins until that look finds work, or the window is over. */
static bool waiter_spin(struct waiter *w, uint32_t work_at)
{
  uint64_t now = w->now;
  w->turns = 0;
  w->work_at = work_at;
  return spin_on(&w->spin, UINT64_MAX, &now) && now == w->now;
}

TEST(spin_who_was_never_busy_does_not)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  CHECK(!waiter_spin(&w, 1));
  CHECK_INT(w.turns, 0);
}

TEST(spin_opens_after_short_sleeps_and_not_after_long_ones)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1000000);
  CHECK(!waiter_spin(&w, 1));
  waiter_sleep(&w, UINT64_MAX);
  CHECK(!waiter_spin(&w, 1));
  waiter_sleep(&w, 1);
  CHECK(waiter_spin(&w, 1));
}

TEST(spin_a_single_short_sleep_does_not_open_the_window)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  for (int i = 0; i < 100; i++)
    spin_slept(&w.spin, i % 4 == 3 ? 1000000 : 1);
  CHECK_INT(w.spin.window, 0);
}

TEST(spin_a_window_twice_fruitless_shrinks_to_nothing)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1);
  CHECK(!waiter_spin(&w, 0));
  CHECK_INT(w.turns, 64); /* more time has passed then, but it is not all its own */
  CHECK_INT(w.spin.window, LIMIT);
  CHECK(!waiter_spin(&w, 0));
  CHECK_INT(w.spin.window, 0);
  waiter_sleep(&w, LIMIT);
  CHECK_INT(w.spin.window, LIMIT);
}

TEST(spin_a_window_lasts_its_time_where_turns_are_short)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1);
  w.turn = 100;
  CHECK(!waiter_spin(&w, 0));
  CHECK_INT(w.now, LIMIT);
}

TEST(spin_a_fruitful_window_stays_open)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1);
  for (int i = 0; i < 10; i++) {
    CHECK(!waiter_spin(&w, 0));
    CHECK(waiter_spin(&w, 64));
  }
  CHECK_INT(w.spin.window, LIMIT);
}

TEST(spin_a_limit_of_zero_never_does)
{
  struct waiter w;
  waiter_init(&w, 0);
  waiter_sleep(&w, 1);
  CHECK(!waiter_spin(&w, 1));
  CHECK_INT(w.turns, 0);
}

TEST(spin_ends_at_the_deadline)
{
  struct waiter w;
  uint64_t now = 0;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1);
  CHECK(!spin_on(&w.spin, 5 * TURN, &now));
  CHECK_INT(now, 5 * TURN);
}

/* However soon there is work: another who keeps the CPU for that long will do so again. */
TEST(spin_among_many_sleeps)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  waiter_sleep(&w, 1);
  w.turn = CROWD;
  CHECK(waiter_spin(&w, 1));
  CHECK_INT(w.turns, 1);
  CHECK_INT(w.spin.window, 0);
  for (int i = 0; i < 3; i++)
    spin_slept(&w.spin, 1);
  CHECK_INT(w.spin.window, 0);
  spin_slept(&w.spin, 1);
  CHECK_INT(w.spin.window, LIMIT);
  CHECK(!waiter_spin(&w, 2));
  CHECK_INT(w.turns, 1);
}

TEST(spin_of_the_eager_begins_at_once_and_again_after_one_short_sleep)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  spin_be_eager(&w.spin);
  CHECK(!waiter_spin(&w, 0));
  CHECK(!waiter_spin(&w, 0));
  CHECK_INT(w.spin.window, 0);
  spin_slept(&w.spin, 1000000);
  CHECK_INT(w.spin.window, 0);
  spin_slept(&w.spin, 1);
  CHECK(!waiter_spin(&w, 0));
  CHECK_INT(w.turns, 64);
  CHECK_INT(w.spin.window, 0);
}

TEST(spin_of_the_eager_goes_on_among_many)
{
  struct waiter w;
  waiter_init(&w, LIMIT);
  spin_be_eager(&w.spin);
  w.turn = CROWD;
  CHECK(waiter_spin(&w, 3));
  CHECK_INT(w.turns, 3);
  CHECK_INT(w.spin.window, LIMIT);
}
