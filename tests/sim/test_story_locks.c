/* test_story_locks.c - co-operative locks: order, groups, readers and writers, events,
 * cancellation. */
#include "story.h"

#define LONG (10 * STORY_SECOND)
#define SEEDS 8

struct scene {
  struct story s;
  chi_client *client;
  chi_queue *queue;
};

static bool enter(struct sim_client *c, struct scene *scene)
{
  return story_attach(c, &scene->client, &scene->queue) == CHI_OK;
}

static void leave(struct scene *scene)
{
  chi_queue_close(scene->queue);
  chi_client_close(scene->client);
  scene->s.told++;
}

/* One client with this body, for a few seeds: what went wrong, or the empty text. */
static const char *play_once(void (*body)(struct sim_client *c, void *arg), uint64_t seed)
{
  static char wrong[400];
  struct scene scene;
  snprintf(wrong, sizeof(wrong), "%s", story_begin(&scene.s, seed));
  if (!wrong[0])
    sim_client(scene.s.sim, 0, body, &scene);
  if (!sim_run_idle(scene.s.sim, LONG))
    snprintf(wrong, sizeof(wrong), "it has no end");
  const char *end = story_end(&scene.s);
  if (!wrong[0])
    snprintf(wrong, sizeof(wrong), "%s", end);
  if (!wrong[0] && scene.s.told != 1)
    snprintf(wrong, sizeof(wrong), "the client does not get to its end");
  return wrong;
}

static void play(void (*body)(struct sim_client *c, void *arg))
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++)
    CHECK_STR(play_once(body, seed), "");
}

/* ---- mutex -------------------------------------------------------------------------------- */

static void queue_up(struct sim_client *c, void *arg)
{
  struct scene *scene = arg;
  struct story_lock *t[8];
  CHECK(enter(c, scene));
  uint64_t began = sim_now(scene->s.sim);
  for (int i = 0; i < 8; i++) {
    t[i] = STORY_NEW(scene->queue, story_lock);
    CHECK(t[i]);
    t[i]->ns = STORY_MS;
    CHECK_INT(chi_submit(scene->queue, t[i]), CHI_OK);
    sim_client_sleep(c, 50 * STORY_US);
  }
  CHECK_INT(chi_wait_all(scene->queue, (void **)t, 8, UINT64_MAX), CHI_OK);
  for (int i = 0; i < 8; i++)
    CHECK_INT(t[i]->place, i + 1);                      /* first come, first served */
  CHECK(sim_now(scene->s.sim) - began >= 8 * STORY_MS); /* one after the other */
  leave(scene);
}

TEST(story_mutex_first_come_first_served)
{
  play(queue_up);
}

static void nests(struct sim_client *c, void *arg)
{
  struct scene *scene = arg;
  CHECK(enter(c, scene));
  struct story_lock *t = STORY_NEW(scene->queue, story_lock);
  struct story_lock *other = STORY_NEW(scene->queue, story_lock);
  CHECK(t && other);
  t->ns = STORY_MS;
  t->depth = 5;
  CHECK_INT(chi_submit(scene->queue, t), CHI_OK);
  sim_client_sleep(c, 1500 * STORY_US);
  CHECK_INT(chi_submit(scene->queue, other), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, other, UINT64_MAX), CHI_OK);
  CHECK_INT(t->place, 1);
  CHECK_INT(other->place, 7); /* the five subtasks passed through, a stranger did not */
  leave(scene);
}

TEST(story_mutex_lets_its_group_through)
{
  play(nests);
}

static void gives_up(struct sim_client *c, void *arg)
{
  struct scene *scene = arg;
  struct story_lock *t[3];
  CHECK(enter(c, scene));
  for (int i = 0; i < 3; i++) {
    t[i] = STORY_NEW(scene->queue, story_lock);
    CHECK(t[i]);
  }
  t[0]->ns = 10 * STORY_MS;
  for (int i = 0; i < 3; i++) {
    CHECK_INT(chi_submit(scene->queue, t[i]), CHI_OK);
    sim_client_sleep(c, STORY_MS);
  }
  CHECK_INT(chi_cancel(scene->queue, t[1]), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, t[1], STORY_MS), CHI_ECANCELLED);
  CHECK_INT(chi_wait(scene->queue, t[0], UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, t[2], UINT64_MAX), CHI_OK);
  CHECK_INT(t[2]->place, 2);
  leave(scene);
}

TEST(story_mutex_cancelled_waiter_leaves_the_queue)
{
  play(gives_up);
}

/* A holder that is cancelled while it sleeps cleans up, and the next one gets it. */
static void lets_go(struct sim_client *c, void *arg)
{
  struct scene *scene = arg;
  CHECK(enter(c, scene));
  struct story_lock *t = STORY_NEW(scene->queue, story_lock);
  struct story_lock *next = STORY_NEW(scene->queue, story_lock);
  CHECK(t && next);
  t->ns = STORY_SECOND;
  CHECK_INT(chi_submit(scene->queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_submit(scene->queue, next), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_task_done(scene->queue, next), 0);
  CHECK_INT(chi_cancel(scene->queue, t), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, next, STORY_MS), CHI_OK);
  CHECK_INT(chi_wait(scene->queue, t, STORY_MS), CHI_ECANCELLED);
  leave(scene);
}

TEST(story_mutex_of_a_cancelled_holder_is_free)
{
  play(lets_go);
}

/* ---- readers and writers ------------------------------------------------------------------ */

static void shares(struct sim_client *c, void *arg)
{
  static const uint8_t writes[] = {0, 0, 1, 0, 0, 1, 1, 0};
  struct scene *scene = arg;
  struct story_share *t[CHI_COUNT(writes)];
  uint32_t which;
  CHECK(enter(c, scene));
  for (size_t i = 0; i < CHI_COUNT(writes); i++) {
    t[i] = STORY_NEW(scene->queue, story_share);
    CHECK(t[i]);
    t[i]->ns = STORY_MS;
    t[i]->write = writes[i];
    CHECK_INT(chi_submit(scene->queue, t[i]), CHI_OK);
    sim_client_sleep(c, 50 * STORY_US);
  }
  CHECK_INT(chi_wait_any(scene->queue, (void **)&t[2], 3, UINT64_MAX, &which), CHI_OK);
  CHECK_INT(which, 0); /* readers that came later did not overtake the writer */
  CHECK_INT(chi_wait_all(scene->queue, (void **)t, CHI_COUNT(writes), UINT64_MAX), CHI_OK);
  for (size_t i = 0; i < CHI_COUNT(writes); i++)
    CHECK_INT(t[i]->inside, writes[i] ? 1 : i < 5 ? 2 : 1);
  leave(scene);
}

TEST(story_rwlock_readers_share_writers_do_not)
{
  play(shares);
}

/* ---- events ------------------------------------------------------------------------------- */

static void awaits(struct sim_client *c, void *arg)
{
  struct scene *scene = arg;
  struct story_event *t[5];
  CHECK(enter(c, scene));
  for (int i = 0; i < 5; i++) {
    t[i] = STORY_NEW(scene->queue, story_event);
    CHECK(t[i]);
  }
  t[0]->timeout_ns = STORY_MS;
  CHECK_INT(chi_run(scene->queue, t[0]), CHI_ETIMEOUT);
  for (int i = 0; i < 4; i++) {
    t[i]->timeout_ns = 0;
    CHECK_INT(chi_submit(scene->queue, t[i]), CHI_OK);
  }
  CHECK_INT(chi_wait(scene->queue, t[0], 5 * STORY_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(scene->queue, t[0]), 0);
  t[4]->set = 1;
  CHECK_INT(chi_run(scene->queue, t[4]), CHI_OK);
  CHECK_INT(chi_wait_all(scene->queue, (void **)t, 4, STORY_MS), CHI_OK);
  CHECK_INT(chi_run(scene->queue, t[0]), CHI_OK); /* it stays set */
  leave(scene);
}

TEST(story_event_wakes_all_and_stays_set)
{
  play(awaits);
}
