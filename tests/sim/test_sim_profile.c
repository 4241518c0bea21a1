/* test_sim_profile.c - what things cost: by name, in a spec, and what comes of it. */
#include "sim_cluster.h"
#include "sim_profile.h"
#include "town.h"

#include <stdio.h>

#define PROFILE_TASKS 200u

/* ---- names -------------------------------------------------------------------------------- */

/* Every member of the struct can be set, each by its own name, and nothing else is touched. */
TEST(sim_profile_names_everything)
{
  CHECK_INT(SIM_PROFILE_COUNT + 1, sizeof(struct sim_profile) / sizeof(uint64_t)); /* latency */
#define PROFILE_CHECK(name, kind, least, most)                                                     \
  do {                                                                                             \
    struct sim_profile p = SIM_PROFILE_DEFAULT, before = p;                                        \
    uint32_t which = UINT32_MAX;                                                                   \
    uint64_t number = 0;                                                                           \
    chi_error err = {0, ""};                                                                       \
    CHECK_INT(sim_profile_parse(#name, "77", &which, &number, &err), CHI_OK);                      \
    CHECK(which == SIM_PROFILE_AT_##name && number == 77);                                         \
    sim_profile_put(&p, which, number);                                                            \
    CHECK_INT(p.name, 77);                                                                         \
    p.name = before.name;                                                                          \
    CHECK(memcmp(&p, &before, sizeof(p)) == 0);                                                    \
    CHECK(before.name <= (most) && before.name + 1 > (least));                                     \
  } while (0);
  SIM_PROFILE_KEYS(PROFILE_CHECK)
#undef PROFILE_CHECK
}

TEST(sim_profile_says_what_was_expected)
{
  static const struct {
    const char *name, *value, *text;
  } bad[] = {
      {"step", "", "step: expected a time in ns from 0 to 1000000000000, found \"\""},
      {"step", "-1", "step: expected a time in ns from 0 to 1000000000000, found \"-1\""},
      {"step", "1001s", "step: expected a time in ns from 0 to 1000000000000, found \"1001s\""},
      {"budget", "0", "budget: expected a whole number from 1 to 65536, found \"0\""},
      {"budget", "1us", "budget: expected a whole number from 1 to 65536, found \"1us\""},
      {"queue_bytes", "2T", "queue_bytes: expected a size from 1 to 1099511627776, found \"2T\""},
      {"notice", "0", "notice: expected a time in ns from 1 to 1000000000000, found \"0\""},
  };
  uint32_t which = 0;
  uint64_t number = 0;
  chi_error err = {0, "as it was"};
  CHECK_INT(sim_profile_parse("latenzy", "1us", &which, &number, &err), CHI_ENOENT);
  CHECK_STR(err.text, "as it was");
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    CHECK_INT(sim_profile_parse(bad[i].name, bad[i].value, &which, &number, &err), CHI_EINVAL);
    CHECK_STR(err.text, bad[i].text);
  }
}

TEST(sim_profile_is_in_a_spec)
{
  struct town t;
  CHECK_STR(town_open(&t, "sim:nodes=2,step=3us,message_byte_ps=5,queue_bytes=1M,budget=9"), "");
  const struct sim_profile *p = sim_costs(sim_cluster_sim(t.cluster));
  CHECK(p->step == 3000 && p->message_byte_ps == 5 && p->queue_bytes == 1 << 20 && p->budget == 9);
  CHECK_INT(p->park, 500);
  town_close(&t);
  CHECK_STR(town_open(&t, "sim:nodes=2,step=soon"),
            "step: expected a time in ns from 0 to 1000000000000, found \"soon\"");
  town_close(&t);
}

/* ---- what comes of them ------------------------------------------------------------------- */

struct profile_client {
  uint32_t window;
  uint64_t took, done;
};

static void profile_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct profile_client *me = arg;
  struct town_where *task[64] = {NULL};
  chi_queue *queue = NULL;
  uint64_t begin = 0, sent = 0;
  int rc = chi_queue_open(client, &queue, NULL);
  for (uint64_t got = 0; rc == CHI_OK && got < PROFILE_TASKS; got++, me->done++) {
    for (; sent < got + me->window && rc == CHI_OK; sent++) {
      struct town_where *w = task[sent % me->window] = CHI_NEW(queue, town_where);
      w->task.pool = town_task(0, 0, 0).pool;
      w->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
      rc = chi_submit(queue, w);
    }
    if (got == PROFILE_TASKS / 2)
      begin = chi_cluster_now(cluster);
    rc = rc == CHI_OK ? chi_wait(queue, task[got % me->window], UINT64_MAX) : rc;
    chi_task_free(queue, task[got % me->window]);
  }
  me->took = (chi_cluster_now(cluster) - begin) / (PROFILE_TASKS / 2);
  chi_queue_close(queue);
}

/* Virtual nanoseconds of a task of node 1, and messages that were sent for all of them. */
static void profile_run(const char *costs, uint32_t window, uint64_t *took, uint64_t *messages)
{
  struct profile_client client = {.window = window};
  char spec[200];
  struct town t;
  snprintf(spec, sizeof(spec), "sim:nodes=2,seed=5,heartbeat_interval=60s%s", costs);
  CHECK_STR(town_begin(&t, spec), "");
  uint64_t before = sim_network(sim_cluster_sim(t.cluster))->figures.sent;
  chi_cluster_client(t.cluster, 0, profile_body, &client);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 60 * UINT64_C(1000000000)), CHI_OK);
  *messages = sim_network(sim_cluster_sim(t.cluster))->figures.sent - before;
  CHECK_INT(client.done, PROFILE_TASKS);
  CHECK_STR(town_end(&t), "");
  *took = client.took;
}

/* A round trip is woken for three times, has two messages and passes both ways. */
TEST(sim_profile_makes_round_trips_longer)
{
  uint64_t messages = 0, plain = 0, woken = 0, sent = 0, far = 0;
  profile_run("", 1, &plain, &messages);
  profile_run(",wake=100us", 1, &woken, &messages);
  profile_run(",message=100us", 1, &sent, &messages);
  profile_run(",latency=1ms", 1, &far, &messages);
  CHECK(woken >= plain + 300000 && woken < plain + 500000);
  CHECK(sent >= plain + 300000 && sent < plain + 500000);
  CHECK(far >= plain + 1900000 && far < plain + 2600000);
}

TEST(sim_profile_of_steps_with_many_tasks)
{
  uint64_t single = 0, many = 0, costly = 0, one = 0, more = 0, task = 0;
  profile_run("", 32, &one, &single);
  profile_run(",budget=64", 32, &more, &many);
  profile_run(",budget=64,task=20us", 32, &task, &costly);
  CHECK(many < single / 2);
  CHECK(more < one);
  /* A window full of them may have been done when it began to be measured. */
  CHECK(task >= 20000 - 20000 * 32 / (PROFILE_TASKS / 2) && task > more);
}
