/* test_story_client.c - the edges of what a client may call. */
#include "client.h"
#include "sim_cluster.h"
#include "tale.h"

/* Where there is something to reap, the queue isn't armed: nobody rings for it. */
static void arms(struct tale *s, chi_queue *queue)
{
  void *done[2];
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = TALE_UNIT;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_queue_arm(queue), 0);
  CHECK(queue->armed && (queue->desk->client.word & 1) == 1);
  tale_sleep(s, 5 * TALE_UNIT);
  CHECK_INT(chi_queue_arm(queue), 1);
  CHECK(!queue->armed && (queue->desk->client.word & 1) == 0);
  CHECK_INT(chi_reap(queue, done, 2), 1);
  CHECK(done[0] == t);
  CHECK_INT(chi_queue_arm(queue), 0);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

TEST(story_client_is_not_armed_with_results)
{
  tale_tell(arms, NULL, NULL);
}

/* The task is given away even where there is no room to ask for its end. */
static void abandons_in_a_jam(struct tale *s, chi_queue *queue)
{
  int rc = CHI_OK;
  struct story_work *w = STORY_NEW(queue, story_work);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(w && t);
  w->ns = 15 * STORY_MS; /* the lane's worker is busy: nobody takes what comes now */
  t->ns = 40 * STORY_MS;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  tale_sleep(s, STORY_MS);
  for (int i = 0; i < 5000 && rc == CHI_OK; i++)
    rc = chi_cancel(queue, w);
  CHECK_INT(rc, CHI_EBUSY);
  CHECK_INT(chi_abandon(queue, t), CHI_OK);
  CHECK_INT(chi_abandon(queue, t), CHI_OK); /* which says nothing new */
  CHECK_INT(queue->quits, 1);
  CHECK_INT(chi_wait(queue, w, UINT64_MAX), CHI_OK);
  tale_sleep(s, 100 * STORY_MS);
  void *none;
  CHECK_INT(chi_reap(queue, &none, 1), 0);
  CHECK_INT(queue->memory->task.used, 128); /* w's */
}

TEST(story_client_abandons_in_a_jam)
{
  TOWN_NEEDS_SIM("a worker is busy for exactly as long as it takes to fill its lane");
  tale_tell(abandons_in_a_jam, NULL, NULL);
}

static void never_called(void *arg, chi_queue *queue, void *task)
{
  (void)arg, (void)queue, (void)task;
  CHECK(!"called");
}

static void calls_back_nobody(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  t->task.flags = CHI_TASK_FORGET;
  CHECK_INT(chi_submit_callback(queue, t, never_called, NULL), CHI_EINVAL);
  CHECK_INT(chi_task_done(queue, t), 1); /* it was not submitted */
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

TEST(story_client_forgets_or_is_called_back)
{
  tale_tell(calls_back_nobody, NULL, NULL);
}

static void finds_by_long_name(struct tale *s, chi_queue *queue)
{
  char name[2000];
  chi_pool_id id = {0, 0};
  (void)s;
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  CHECK_INT(chi_pool_find(queue, name, &id), CHI_EINVAL);
  name[1023] = '\0';
  CHECK_INT(chi_pool_find(queue, name, &id), CHI_ENOENT);
}

TEST(story_client_long_pool_name)
{
  tale_tell(finds_by_long_name, NULL, NULL);
}

/* The first code that isn't 0 in the order of the array, whichever came first. */
static void waits_for_all(struct tale *s, chi_queue *queue)
{
  void *t[4];
  for (int i = 0; i < 4; i++) {
    struct story_code *code = STORY_NEW(queue, story_code);
    CHECK(code);
    code->code = i;
    t[i] = code;
  }
  for (int i = 3; i >= 0; i--)
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_wait_all(queue, t, 4, town_within(STORY_SECOND)), 1);
  for (int i = 0; i < 4; i++) {
    CHECK_INT(((chi_task *)t[i])->rc, i);
    CHECK_INT(chi_task_free(queue, t[i]), CHI_OK);
  }
}

TEST(story_client_waits_for_all)
{
  tale_tell(waits_for_all, NULL, NULL);
}

/* A queue that can't be opened leaves nothing in the daemon, wherever memory ran out. */
static void opens_half_way(struct tale *s, chi_queue *queue)
{
  struct sim_fault *fault = sim_faults(sim_cluster_sim(s->cluster));
  chi_queue *more = NULL;
  (void)queue;
  for (uint64_t n = 0; n < 640; n++) {
    sim_fault_memory(fault, SIM_FAULT_ALLOC, n % 16 + 1, 0);
    int rc = chi_queue_open(s->client, &more, NULL);
    sim_fault_clear(fault);
    CHECK(rc == CHI_OK || rc == CHI_ENOMEM);
    if (rc == CHI_OK)
      chi_queue_close(more);
    tale_sleep(s, 10 * STORY_MS);
  }
  CHECK_INT(chi_queue_open(s->client, &more, NULL), CHI_OK);
  chi_queue_close(more);
}

TEST(story_client_opens_half_way)
{
  TOWN_NEEDS_SIM("each asking for memory is refused in turn");
  tale_tell_with(opens_half_way, "main_segment_size=4M");
}

/* ---- a daemon that is silent for longer than a call waits --------------------------------- */

struct silence {
  bool asks;              /* the client asks again afterwards; else it only waits for a task */
  bool given, taken;
};

/* What is given back, and what is asked for in vain, while the daemon stands still, is there for
 * others when it goes on. */
static void gives_back_in_silence(struct tale *s, chi_queue *queue)
{
  struct silence *w = s->arg;
  chi_queue *rich = NULL;
  chi_bulk bulk = {0};
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  CHECK_INT(chi_queue_open(s->client, &rich, NULL), CHI_OK);
  CHECK_INT(chi_bulk_alloc(rich, 16u << 20, &bulk), CHI_OK);
  town_fault(s->town, CHI_FAULT_PAUSE, 0, 0, 0);
  tale_sleep(s, TALE_UNIT);
  CHECK_INT(chi_bulk_alloc(queue, 4u << 20, &bulk), CHI_ETIMEOUT);
  uint64_t begun = tale_now(s);
  chi_queue_close(rich);
  CHECK(tale_now(s) - begun < 2 * STORY_SECOND); /* it does not wait once more for each */
  town_fault(s->town, CHI_FAULT_RESUME, 0, 0, 0);
  tale_sleep(s, 10 * TALE_UNIT);
  t->ns = 10 * TALE_UNIT;
  CHECK_INT(w->asks ? chi_bulk_alloc(queue, 2u << 20, &bulk) : chi_run(queue, t), CHI_OK);
  if (w->asks)
    chi_bulk_free(queue, &bulk);
  chi_task_free(queue, t);
  w->given = true;
  while (!w->taken)
    tale_sleep(s, TALE_UNIT);
}

static void takes_nearly_all(struct tale *s, chi_queue *queue)
{
  struct silence *w = s->arg;
  chi_bulk bulk = {0};
  while (!w->given)
    tale_sleep(s, TALE_UNIT);
  CHECK_INT(chi_bulk_alloc(queue, 22u << 20, &bulk), CHI_OK);
  chi_bulk_free(queue, &bulk);
  w->taken = true;
}

static void tell_of_silence(bool asks)
{
  struct town town;
  struct silence w = {.asks = asks};
  struct tale gives = {.body = gives_back_in_silence, .arg = &w};
  struct tale takes = {.body = takes_nearly_all, .arg = &w};
  CHECK_STR(tale_begin(&town, 1, "client_data_segment_size=24M"), "");
  tale_client(&town, &gives);
  tale_client(&town, &takes);
  CHECK(tale_is_over(&town));
  CHECK_STR(town_end(&town), "");
  CHECK_INT(town.told, 2);
}

TEST(story_client_gives_back_in_silence_and_asks_again)
{
  tell_of_silence(true);
}

TEST(story_client_gives_back_in_silence_and_waits)
{
  tell_of_silence(false);
}
