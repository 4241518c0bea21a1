/* test_story_client.c - the edges of what a client may call. */
#include "client.h"
#include "story.h"

#define LONG (10 * STORY_SECOND)

struct edge {
  struct story s;
  void (*body)(struct sim_client *c, chi_client *client, chi_queue *queue);
};

static void edge_client(struct sim_client *c, void *arg)
{
  struct edge *e = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  e->body(c, client, queue);
  chi_queue_close(queue);
  chi_client_close(client);
  e->s.told++;
}

/* One client with this body on a fresh node whose main segment has that size (0: as usual). */
static const char *edge(void (*body)(struct sim_client *c, chi_client *client, chi_queue *queue),
                        uint64_t main_segment)
{
  static struct edge e;
  e = (struct edge){.body = body};
  story_open(&e.s, 1);
  if (main_segment)
    e.s.config.main_segment_size = main_segment;
  int rc = story_start(&e.s);
  sim_client(e.s.sim, 0, edge_client, &e);
  bool idle = sim_run_idle(e.s.sim, LONG);
  const char *end = story_end(&e.s);
  if (end[0])
    return end;
  return rc == CHI_OK && idle && e.s.told == 1 ? "" : "it has no end";
}

/* Where there is something to reap, the queue isn't armed: nobody rings for it. */
static void arms(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  void *done[2];
  (void)client;
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_queue_arm(queue), 0);
  CHECK(queue->armed && (queue->desk->client.word & 1) == 1);
  sim_client_sleep(c, 5 * STORY_MS);
  CHECK_INT(chi_queue_arm(queue), 1);
  CHECK(!queue->armed && (queue->desk->client.word & 1) == 0);
  CHECK_INT(chi_reap(queue, done, 2), 1);
  CHECK(done[0] == t);
  CHECK_INT(chi_queue_arm(queue), 0);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

TEST(story_client_is_not_armed_with_results)
{
  CHECK_STR(edge(arms, 0), "");
}

/* The task is given away even where there is no room to ask for its end. */
static void abandons_in_a_jam(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  (void)client;
  int rc = CHI_OK;
  struct story_work *w = STORY_NEW(queue, story_work);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(w && t);
  w->ns = 15 * STORY_MS; /* the lane's worker is busy: nobody takes what comes now */
  t->ns = 40 * STORY_MS;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  for (int i = 0; i < 5000 && rc == CHI_OK; i++)
    rc = chi_cancel(queue, w);
  CHECK_INT(rc, CHI_EBUSY);
  CHECK_INT(chi_abandon(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, w, UINT64_MAX), CHI_OK);
  sim_client_sleep(c, 100 * STORY_MS);
  void *none;
  CHECK_INT(chi_reap(queue, &none, 1), 0);
  CHECK_INT(queue->memory->task.used, 128); /* w's */
}

TEST(story_client_abandons_in_a_jam)
{
  CHECK_STR(edge(abandons_in_a_jam, 0), "");
}

static void never_called(void *arg, chi_queue *queue, void *task)
{
  (void)arg, (void)queue, (void)task;
  CHECK(!"called");
}

static void calls_back_nobody(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  (void)c, (void)client;
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  t->task.flags = CHI_TASK_FORGET;
  CHECK_INT(chi_submit_callback(queue, t, never_called, NULL), CHI_EINVAL);
  CHECK_INT(chi_task_done(queue, t), 1); /* it was not submitted */
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

TEST(story_client_forgets_or_is_called_back)
{
  CHECK_STR(edge(calls_back_nobody, 0), "");
}

static void finds_by_long_name(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  char name[2000];
  chi_pool_id id = {0, 0};
  (void)c, (void)client;
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  CHECK_INT(chi_pool_find(queue, name, &id), CHI_EINVAL);
  name[1023] = '\0';
  CHECK_INT(chi_pool_find(queue, name, &id), CHI_ENOENT);
}

TEST(story_client_long_pool_name)
{
  CHECK_STR(edge(finds_by_long_name, 0), "");
}

/* The first code that isn't 0 in the order of the array, whichever came first. */
static void waits_for_all(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  (void)client;
  void *t[4];
  for (int i = 0; i < 4; i++) {
    struct story_code *code = STORY_NEW(queue, story_code);
    CHECK(code);
    code->code = i;
    t[i] = code;
  }
  for (int i = 3; i >= 0; i--)
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_wait_all(queue, t, 4, STORY_SECOND), 1);
  for (int i = 0; i < 4; i++) {
    CHECK_INT(((chi_task *)t[i])->rc, i);
    CHECK_INT(chi_task_free(queue, t[i]), CHI_OK);
  }
}

TEST(story_client_waits_for_all)
{
  CHECK_STR(edge(waits_for_all, 0), "");
}

/* A queue that can't be opened leaves nothing in the daemon, wherever memory ran out. */
static void opens_half_way(struct sim_client *c, chi_client *client, chi_queue *queue)
{
  struct sim_fault *fault = sim_faults(sim_client_sim(c));
  chi_queue *more = NULL;
  (void)queue;
  for (uint64_t n = 0; n < 640; n++) {
    sim_fault_memory(fault, SIM_FAULT_ALLOC, n % 16 + 1, 0);
    int rc = chi_queue_open(client, &more, NULL);
    sim_fault_clear(fault);
    CHECK(rc == CHI_OK || rc == CHI_ENOMEM);
    if (rc == CHI_OK)
      chi_queue_close(more);
    sim_client_sleep(c, 10 * STORY_MS);
  }
  CHECK_INT(chi_queue_open(client, &more, NULL), CHI_OK);
  chi_queue_close(more);
}

TEST(story_client_opens_half_way)
{
  CHECK_STR(edge(opens_half_way, 4 << 20), "");
}

