/* test_story_locks.c - co-operative locks: order, groups, readers and writers, events,
 * cancellation. */
#include "tale.h"

/* ---- mutex -------------------------------------------------------------------------------- */

static void queue_up(struct tale *s, chi_queue *queue)
{
  struct story_lock *t[8];
  uint64_t began = tale_now(s);
  for (int i = 0; i < 8; i++) {
    t[i] = STORY_NEW(queue, story_lock);
    CHECK(t[i]);
    t[i]->ns = STORY_MS;
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
    tale_sleep(s, 50 * STORY_US);
  }
  CHECK_INT(chi_wait_all(queue, (void **)t, 8, UINT64_MAX), CHI_OK);
  for (int i = 0; i < 8; i++)
    CHECK_INT(t[i]->place, i + 1);              /* first come, first served */
  CHECK(tale_now(s) - began >= 8 * STORY_MS); /* one after the other */
}

TEST(story_mutex_first_come_first_served)
{
  tale_tell(queue_up, NULL, NULL);
}

static void nests(struct tale *s, chi_queue *queue)
{
  struct story_lock *t = STORY_NEW(queue, story_lock);
  struct story_lock *other = STORY_NEW(queue, story_lock);
  CHECK(t && other);
  t->ns = STORY_MS;
  t->depth = 5;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, 1500 * STORY_US);
  CHECK_INT(chi_submit(queue, other), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(queue, other, UINT64_MAX), CHI_OK);
  CHECK_INT(t->place, 1);
  CHECK_INT(other->place, 7); /* the five subtasks passed through, a stranger did not */
}

TEST(story_mutex_lets_its_group_through)
{
  tale_tell(nests, NULL, NULL);
}

static void gives_up(struct tale *s, chi_queue *queue)
{
  struct story_lock *t[3];
  for (int i = 0; i < 3; i++) {
    t[i] = STORY_NEW(queue, story_lock);
    CHECK(t[i]);
  }
  t[0]->ns = 10 * TALE_UNIT;
  for (int i = 0; i < 3; i++) {
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
    tale_sleep(s, STORY_MS);
  }
  CHECK_INT(chi_cancel(queue, t[1]), CHI_OK);
  CHECK_INT(chi_wait(queue, t[1], town_within(STORY_MS)), CHI_ECANCELLED);
  CHECK_INT(chi_wait(queue, t[0], UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(queue, t[2], UINT64_MAX), CHI_OK);
  CHECK_INT(t[2]->place, 2);
}

TEST(story_mutex_cancelled_waiter_leaves_the_queue)
{
  tale_tell(gives_up, NULL, NULL);
}

/* A holder that is cancelled while it sleeps cleans up, and the next one gets it. */
static void lets_go(struct tale *s, chi_queue *queue)
{
  struct story_lock *t = STORY_NEW(queue, story_lock);
  struct story_lock *next = STORY_NEW(queue, story_lock);
  CHECK(t && next);
  t->ns = 60 * STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_submit(queue, next), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_task_done(queue, next), 0);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, next, town_within(STORY_MS)), CHI_OK);
  CHECK_INT(chi_wait(queue, t, town_within(STORY_MS)), CHI_ECANCELLED);
}

TEST(story_mutex_of_a_cancelled_holder_is_free)
{
  tale_tell(lets_go, NULL, NULL);
}

/* ---- readers and writers ------------------------------------------------------------------ */

static void shares(struct tale *s, chi_queue *queue)
{
  static const uint8_t writes[] = {0, 0, 1, 0, 0, 1, 1, 0};
  struct story_share *t[CHI_COUNT(writes)];
  uint32_t which;
  for (size_t i = 0; i < CHI_COUNT(writes); i++) {
    t[i] = STORY_NEW(queue, story_share);
    CHECK(t[i]);
    t[i]->ns = TALE_UNIT;
    t[i]->write = writes[i];
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
    tale_sleep(s, 50 * STORY_US);
  }
  CHECK_INT(chi_wait_any(queue, (void **)&t[2], 3, UINT64_MAX, &which), CHI_OK);
  CHECK_INT(which, 0); /* readers that came later did not overtake the writer */
  CHECK_INT(chi_wait_all(queue, (void **)t, CHI_COUNT(writes), UINT64_MAX), CHI_OK);
  for (size_t i = 0; i < CHI_COUNT(writes); i++)
    CHECK_INT(t[i]->inside, writes[i] ? 1 : i < 5 ? 2 : 1);
}

TEST(story_rwlock_readers_share_writers_do_not)
{
  tale_tell(shares, NULL, NULL);
}

/* ---- events ------------------------------------------------------------------------------- */

static void awaits(struct tale *s, chi_queue *queue)
{
  struct story_event *t[5];
  (void)s;
  for (int i = 0; i < 5; i++) {
    t[i] = STORY_NEW(queue, story_event);
    CHECK(t[i]);
  }
  t[0]->timeout_ns = STORY_MS;
  CHECK_INT(chi_run(queue, t[0]), CHI_ETIMEOUT);
  for (int i = 0; i < 4; i++) {
    t[i]->timeout_ns = 0;
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
  }
  CHECK_INT(chi_wait(queue, t[0], 5 * STORY_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(queue, t[0]), 0);
  t[4]->set = 1;
  CHECK_INT(chi_run(queue, t[4]), CHI_OK);
  CHECK_INT(chi_wait_all(queue, (void **)t, 4, town_within(STORY_MS)), CHI_OK);
  CHECK_INT(chi_run(queue, t[0]), CHI_OK); /* it stays set */
}

TEST(story_event_wakes_all_and_stays_set)
{
  tale_tell(awaits, NULL, NULL);
}
