/* test_sim_check.c - the built-in checks of clusters: what they find, and what they let pass. */
#include "sim_check.h"
#include "test.h"

#define NODES 3

struct bench {
  struct sim *sim;
  struct sim_check check;
  char why[200];
};

static void bench_open(struct bench *b)
{
  b->sim = sim_open(1);
  sim_check_open(&b->check, b->sim, NODES);
}

static void bench_close(struct bench *b)
{
  sim_close(b->sim);
  sim_check_close(&b->check);
}

static void tell(struct bench *b, uint32_t node, int kind, uint64_t p, uint64_t q, uint64_t r)
{
  struct sim_trace_event e = {.node = node, .kind = kind, .a = p, .b = q, .c = r};
  sim_check_event(&b->check, &e);
}

static bool settled(struct bench *b)
{
  return sim_check_settled(&b->check, b->why, sizeof(b->why));
}

TEST(sim_check_finds_a_task_that_completes_twice)
{
  struct bench b;
  bench_open(&b);
  tell(&b, 1, ENV_TRACE_SUBMIT, 7, 1, 0);
  tell(&b, 2, ENV_TRACE_SUBMIT, 7, 1, 0); /* of another node */
  tell(&b, 1, ENV_TRACE_SUBMIT, 8, 1, 0); /* of another life */
  CHECK_INT(sim_check_open_tasks(&b.check), 3);
  CHECK(!settled(&b));
  CHECK_STR(b.why, "3 tasks of clients are under way");
  tell(&b, 1, ENV_TRACE_DONE, 7, 1, 0);
  tell(&b, 1, ENV_TRACE_SUBMIT, 7, 1, 0); /* the slot is used again */
  tell(&b, 1, ENV_TRACE_DONE, 7, 1, (uint64_t)CHI_EUNKNOWN);
  CHECK(!b.check.failed);
  tell(&b, 1, ENV_TRACE_DONE, 7, 1, 0);
  CHECK_STR(b.check.failed, "P1");
  CHECK_STR(b.check.why, "task 0:1 of a client of node 1 completes once more");
  CHECK_INT(b.check.submitted, 4);
  CHECK_INT(b.check.completed, 3);
  CHECK_INT(b.check.code[0], 2);
  CHECK_INT(b.check.code[-CHI_EUNKNOWN], 1);
  bench_close(&b);
}

TEST(sim_check_finds_a_slot_used_twice)
{
  struct bench b;
  bench_open(&b);
  tell(&b, 1, ENV_TRACE_SUBMIT, 7, UINT64_C(5) << 32 | 3, 0);
  tell(&b, 1, ENV_TRACE_SUBMIT, 7, UINT64_C(5) << 32 | 3, 0);
  CHECK_STR(b.check.failed, "P1");
  CHECK_STR(b.check.why, "a client of node 1 submits task 5:3, which is under way");
  bench_close(&b);
}

TEST(sim_check_counts_codes)
{
  struct bench b;
  const int64_t codes[] = {0, 5, -5, -62, -63, -1000, INT32_MAX, INT32_MIN};
  bench_open(&b);
  for (size_t i = 0; i < CHI_COUNT(codes); i++) {
    tell(&b, 0, ENV_TRACE_SUBMIT, 1, 1, 0);
    tell(&b, 0, ENV_TRACE_DONE, 1, 1, (uint64_t)codes[i]);
  }
  CHECK_INT(b.check.code[0], 1);
  CHECK_INT(b.check.code[5], 1);
  CHECK_INT(b.check.code[62], 1);
  CHECK_INT(b.check.code[63], 5);
  tell(&b, 0, ENV_TRACE_NET, 2, 0, 0);
  tell(&b, 0, ENV_TRACE_NET, 99, 0, 0);
  CHECK(b.check.net[2] == 1 && b.check.net[SIM_CHECK_NET - 1] == 1);
  CHECK(!b.check.failed);
  bench_close(&b);
}

/* Two clients, thread 4 and thread 600; what the dead one waited for is forgotten, no more. */
TEST(sim_check_forgets_what_the_dead_waited_for)
{
  struct bench b;
  bench_open(&b);
  tell(&b, 0, SIM_TRACE_THREAD, 4, 0, 0);
  sim_check_client(&b.check, 1);
  for (uint64_t i = 0; i < 3000; i++)
    tell(&b, 0, ENV_TRACE_SUBMIT, 1, i, 0);
  tell(&b, 0, SIM_TRACE_THREAD, 600, 0, 0);
  sim_check_client(&b.check, 2);
  for (uint64_t i = 3000; i < 6000; i++)
    tell(&b, 0, ENV_TRACE_SUBMIT, 1, i, 0);
  tell(&b, 0, SIM_TRACE_THREAD, 5, 0, 0); /* nobody's */
  tell(&b, 0, ENV_TRACE_SUBMIT, 1, 9000, 0);
  tell(&b, 0, SIM_TRACE_CLIENT, 3, SIM_TRACE_CLIENT_STARTS, 0);
  tell(&b, 0, SIM_TRACE_CLIENT, 1, SIM_TRACE_CLIENT_KILLED, 0);
  CHECK_INT(sim_check_open_tasks(&b.check), 3001);
  for (uint64_t i = 3000; i < 6000; i++)
    tell(&b, 0, ENV_TRACE_DONE, 1, i, 0);
  CHECK_INT(sim_check_open_tasks(&b.check), 1);
  tell(&b, 0, SIM_TRACE_CLIENT, 2, SIM_TRACE_CLIENT_ENDS, 0);
  tell(&b, 0, ENV_TRACE_DONE, 1, 9000, 0);
  CHECK(!b.check.failed && settled(&b));
  bench_close(&b);
}

TEST(sim_check_finds_a_body_that_runs_twice)
{
  struct bench b;
  bench_open(&b);
  for (uint64_t i = 0; i < 5000; i++)
    tell(&b, (uint32_t)(i % NODES), ENV_TRACE_KEY, UINT64_C(2) << 32 | 1, i, 77);
  tell(&b, 0, ENV_TRACE_KEY, UINT64_C(2) << 32 | 2, 4000, 77); /* another container */
  tell(&b, 0, ENV_TRACE_KEY, UINT64_C(2) << 32 | 1, 4000, 78); /* another life */
  CHECK(!b.check.failed);
  tell(&b, 0, ENV_TRACE_KEY, UINT64_C(2) << 32 | 1, 4000, 77);
  CHECK_STR(b.check.failed, "P2");
  CHECK_STR(b.check.why, "the body of task 4000 of node 2 for container 1 begins again");
  bench_close(&b);
}

static void count(void *arg, const struct sim_trace_event *e)
{
  *(uint64_t *)arg += e->a;
}

TEST(sim_check_passes_events_on)
{
  struct bench b;
  uint64_t sum = 0;
  bench_open(&b);
  sim_check_listen(&b.check, count, &sum);
  tell(&b, 0, ENV_TRACE_MARK, 3, 0, 0);
  tell(&b, UINT32_MAX, ENV_TRACE_BOOT, 4, 0, 0);
  CHECK_INT(sum, 7);
  bench_close(&b);
}
