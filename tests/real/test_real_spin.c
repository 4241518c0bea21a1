/* test_real_spin.c - a thread looks on for work only as long as that pays. */
#include "real_spin.h"
#include "test.h"

#define LIMIT 50000u

TEST(a_thread_that_was_never_busy_does_not_spin)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  CHECK_INT(s.window, 0);
}

/* So many sleeps as it takes to open a window. */
static void sleep_briefly(struct real_spin *s, uint64_t took)
{
  for (int i = 0; i < 4; i++)
    real_spin_slept(s, took);
}

TEST(short_sleeps_open_the_window_and_long_ones_do_not)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  sleep_briefly(&s, 1000000);
  CHECK_INT(s.window, 0);
  sleep_briefly(&s, UINT64_MAX);
  CHECK_INT(s.window, 0);
  sleep_briefly(&s, 1);
  CHECK_INT(s.window, LIMIT);
}

TEST(a_single_short_sleep_does_not_open_the_window)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  for (int i = 0; i < 100; i++)
    real_spin_slept(&s, i % 4 == 3 ? 1000000 : 1);
  CHECK_INT(s.window, 0);
}

TEST(a_window_twice_fruitless_shrinks_to_nothing)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  sleep_briefly(&s, 1);
  real_spin_ended(&s, false);
  CHECK_INT(s.window, LIMIT);
  real_spin_ended(&s, false);
  CHECK_INT(s.window, 0);
  sleep_briefly(&s, LIMIT);
  CHECK_INT(s.window, LIMIT);
}

TEST(a_fruitful_window_stays_open)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  sleep_briefly(&s, 1);
  for (int i = 0; i < 10; i++) {
    real_spin_ended(&s, false);
    real_spin_ended(&s, true);
  }
  CHECK_INT(s.window, LIMIT);
}

TEST(a_limit_of_zero_never_spins)
{
  struct real_spin s;
  real_spin_init(&s, 0);
  sleep_briefly(&s, 1);
  CHECK_INT(s.window, 0);
}

TEST(a_thread_among_many_does_not_spin)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  sleep_briefly(&s, 1);
  real_spin_ended(&s, true);
  real_spin_crowded(&s);
  CHECK_INT(s.window, 0);
  for (int i = 0; i < 3; i++)
    real_spin_slept(&s, 1);
  CHECK_INT(s.window, 0);
  real_spin_slept(&s, 1);
  CHECK_INT(s.window, LIMIT);
}
