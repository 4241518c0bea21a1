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

TEST(a_short_sleep_opens_the_window_and_a_long_one_does_not)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  real_spin_slept(&s, 1000000);
  CHECK_INT(s.window, 0);
  real_spin_slept(&s, UINT64_MAX);
  CHECK_INT(s.window, 0);
  real_spin_slept(&s, 1);
  CHECK_INT(s.window, LIMIT);
}

TEST(a_window_twice_fruitless_shrinks_to_nothing)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  real_spin_slept(&s, 1);
  real_spin_ended(&s, false);
  CHECK_INT(s.window, LIMIT);
  real_spin_ended(&s, false);
  CHECK_INT(s.window, 0);
  real_spin_slept(&s, LIMIT);
  CHECK_INT(s.window, LIMIT);
}

TEST(a_fruitful_window_stays_open)
{
  struct real_spin s;
  real_spin_init(&s, LIMIT);
  real_spin_slept(&s, 1);
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
  real_spin_slept(&s, 1);
  CHECK_INT(s.window, 0);
}
