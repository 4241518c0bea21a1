/* test_bell.c - words by which a sleeper tells that it must be rung. */
#include "bell.h"
#include "dies.h"
#include "test.h"

TEST(bell_awake_is_not_rung)
{
  struct bell_word b = {0};
  uint32_t last = 0;
  CHECK(!bell_wanted(&b, &last));
  bell_announce(&b);
  bell_withdraw(&b);
  CHECK(!bell_wanted(&b, &last));
  CHECK_INT(last, 0);
  CHECK_INT(b.word, 2);
}

TEST(bell_each_announcement_is_answered_once)
{
  struct bell_word b = {0};
  uint32_t last = 0;
  for (int i = 0; i < 3; i++) {
    bell_announce(&b);
    CHECK(bell_wanted(&b, &last));
    CHECK(!bell_wanted(&b, &last));
    CHECK(!bell_wanted_after_fence(&b, &last));
    bell_withdraw(&b);
    CHECK(!bell_wanted(&b, &last));
  }
}

TEST(bell_each_ringer_answers_for_itself)
{
  struct bell_word b = {0};
  uint32_t one = 0, other = 0;
  bell_announce(&b);
  CHECK(bell_wanted(&b, &one));
  CHECK(bell_wanted(&b, &other));
  CHECK(!bell_wanted_after_fence(&b, &other));
}

TEST(bell_word_wraps)
{
  struct bell_word b = {UINT32_MAX - 1, {0}};
  uint32_t last = 0;
  bell_announce(&b);
  CHECK_INT(b.word, UINT32_MAX);
  CHECK(bell_wanted(&b, &last));
  bell_withdraw(&b);
  CHECK_INT(b.word, 0);
  CHECK(!bell_wanted(&b, &last));
}

static void bell_announces_twice(void *arg)
{
  bell_announce(arg);
  bell_announce(arg);
}

static void bell_withdraws_first(void *arg)
{
  bell_withdraw(arg);
}

TEST(bell_refuses_disorder)
{
  struct bell_word b = {0};
  CHECK(dies(bell_announces_twice, &b, "(word & 1) == 0"));
  CHECK(dies(bell_withdraws_first, &b, "(word & 1) == 1"));
}
