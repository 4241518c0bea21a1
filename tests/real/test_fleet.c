/* test_fleet.c - several daemons on loopback addresses: tasks between them, and bad days. */
#include "fleet.h"
#include "modules/calc.h"
#include "station.h"
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define BULK_MOST (16u << 20)

/* ---- tasks ----------------------------------------------------------------------------------- */

TEST(every_kind_of_query_is_answered_from_every_node)
{
  static const char *const queries[] = {"local",  "id:0",      "id:2",       "hash:7",
                                        "hash:8", "range:0:3", "range:1:2",  "broadcast",
                                        "dynamic", "physical:0", "physical:2"};
  static struct town t;
  char words[128], said[1024];
  CHECK_STR(town_open(&t, 3), "");
  for (uint32_t node = 0; node < 3; node++) {
    for (size_t i = 0; i < CHI_COUNT(queries); i++) {
      snprintf(words, sizeof(words), "--query %s test add a=20 b=22", queries[i]);
      CHECK_INT(town_call(&t, node, words, said, sizeof(said)), 0);
      CHECK(strstr(said, "\"sum\":42"));
    }
  }
  CHECK_INT(town_call(&t, 1, "--query physical:3 test add a=1 b=1", said, sizeof(said)), 1);
  town_free(&t);
}

/* A method that all of them refuse: how many did, and which. */
TEST(failed_containers_are_told)
{
  static struct town t;
  char said[2048];
  CHECK_STR(town_open(&t, 3), "");
  CHECK_INT(town_call(&t, 1, "--json --query broadcast test add a=1 b=1", said, sizeof(said)), 0);
  CHECK(strstr(said, "\"asked\":3,\"failed\":0,\"failures\":[]"));
  CHECK_INT(town_call(&t, 1, "--json --query local test add a=1 b=1", said, sizeof(said)), 0);
  CHECK(!strstr(said, "\"asked\""));
  town_kill(&t, 2);
  CHECK_INT(town_call(&t, 1, "--json --query range:1:2 test add a=1 b=1", said, sizeof(said)), 1);
  CHECK(strstr(said, "\"asked\":2,\"failed\":1,\"failures\":[{\"container\":2,\"rc\":-1"));
  town_free(&t);
}

/* A pool that is made on one node is there on all, and each container counts for itself. */
TEST(a_broadcast_runs_once_on_each_node)
{
  static struct town t;
  CHECK_STR(town_open(&t, 3), "");
  for (uint64_t round = 1; round <= 20; round++) {
    struct calc_count *all = SEAT_NEW(&t.seat[round % 3], calc_count);
    CHECK(all);
    all->task.query = (chi_query){.mode = CHI_QUERY_BROADCAST};
    CHECK_INT(chi_run(t.seat[round % 3].queue, all), CHI_OK);
    chi_task_free(t.seat[round % 3].queue, all);
  }
  for (uint32_t i = 0; i < 3; i++) {
    struct calc_count *one = SEAT_NEW(&t.seat[i], calc_count);
    CHECK(one);
    CHECK_INT(chi_run(t.seat[i].queue, one), CHI_OK);
    CHECK_INT(one->count, 21);
    chi_task_free(t.seat[i].queue, one);
  }
  town_free(&t);
}

/* Sends `size` bytes from node a to node b and back; what is wrong with them. */
static const char *town_shift(struct town *t, uint32_t a, uint32_t b, uint64_t size)
{
  struct seat *s = &t->seat[a];
  struct calc_shift *task = SEAT_NEW(s, calc_shift);
  const char *wrong = "no memory";
  if (task && chi_bulk_alloc(s->queue, size, &task->from) == CHI_OK &&
      chi_bulk_alloc(s->queue, size, &task->to) == CHI_OK) {
    task->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = b};
    task->add = 7;
    memcpy(task->from.data, station_bulk(), size);
    memset(task->to.data, 0, size);
    int rc = chi_run(s->queue, task);
    wrong = rc != CHI_OK ? chi_status_name(rc) : task->to.size != size ? "its size" : "";
    const unsigned char *to = task->to.data;
    for (uint64_t i = 0; !wrong[0] && i < size; i++)
      if (to[i] != (unsigned char)(station_bulk()[i] + 7))
        wrong = "its bytes";
  }
  if (task) {
    chi_bulk_free(s->queue, &task->from);
    chi_bulk_free(s->queue, &task->to);
    chi_task_free(s->queue, task);
  }
  return wrong;
}

TEST(bulk_of_any_size_goes_there_and_comes_back)
{
  static struct town t;
  CHECK_STR(town_open(&t, 2), "");
  for (uint64_t size = 1; size <= BULK_MOST; size *= 4) {
    CHECK_STR(town_shift(&t, 0, 1, size), "");
    CHECK_STR(town_shift(&t, 1, 0, size - size / 3), "");
  }
  CHECK_STR(town_shift(&t, 1, 0, BULK_MOST), "");
  CHECK_STR(town_shift(&t, 0, 1, 4097), "");
  town_free(&t);
}

/* Many at a time, as many as there is room for. */
TEST(a_stream_of_tasks_loses_and_repeats_nothing)
{
  static struct town t;
  enum { STREAM = 3000, WINDOW = 256 };
  struct calc_count *task[WINDOW];
  uint64_t most = 0, ended = 0;
  CHECK_STR(town_open(&t, 2), "");
  chi_queue *queue = t.seat[0].queue;
  for (uint32_t i = 0; i < STREAM + WINDOW; i++) {
    struct calc_count **at = &task[i % WINDOW];
    if (i >= WINDOW) {
      CHECK_INT(chi_wait(queue, *at, WAIT_NS), CHI_OK);
      most = (*at)->count > most ? (*at)->count : most;
      ended++;
      chi_task_free(queue, *at);
    }
    if (i >= STREAM)
      continue;
    *at = SEAT_NEW(&t.seat[0], calc_count);
    CHECK(*at);
    (*at)->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
    CHECK_INT(chi_submit(queue, *at), CHI_OK);
  }
  CHECK_INT(ended, STREAM);
  CHECK_INT(most, STREAM);
  town_free(&t);
}

/* As a program that finds node `own` in that list, and node 1 as the daemon on its host. */
static int join(const struct town *t, const char *own, const char *list, chi_cluster **c,
                chi_error *err)
{
  char text[512], path[128];
  const char *instance = t->node[1].instance;
  snprintf(text, sizeof(text),
           "networking: {port: %u}\nshared_memory: {main_segment_name: %.*s}\n", t->port,
           (int)strcspn(instance, ":"), instance);
  snprintf(path, sizeof(path), "%s/client.yaml", t->dir);
  *err = (chi_error){0};
  if (!scratch_write(t->dir, "client.yaml", text) || !scratch_write(t->dir, "list", list))
    return CHI_EIO;
  setenv("CHI_SERVER_CONF", path, 1);
  setenv("CHI_NODE", own, 1);
  snprintf(path, sizeof(path), "hostfile:%s/list", t->dir);
  int rc = chi_cluster_open(path, NULL, 0, c, err);
  unsetenv("CHI_NODE");
  return rc;
}

TEST(a_cluster_that_runs_is_joined_and_left_as_it_is)
{
  static struct town t;
  chi_error err;
  chi_cluster *c = NULL;
  chi_pool_id pool = {901, 0};
  struct calc_add add = {.a = 1, .b = 2};
  CHECK_STR(town_open(&t, 3), "");
  int rc = join(&t, "1", "127.0.0.1\n127.0.0.2\n127.0.0.3\n", &c, &err);
  CHECK_STR(err.text, "");
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(chi_cluster_nodes(c), 3);
  for (uint32_t i = 0; i < 3; i++)
    CHECK_INT(chi_cluster_is_up(c, i), 1);
  add.task.pool = TEST_POOL;
  add.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
  CHECK_INT(chi_cluster_call(c, 1, &calc_add_type, &add, WAIT_NS), CHI_OK);
  CHECK_INT(add.sum, 3);
  CHECK_INT(chi_cluster_call(c, 0, &calc_add_type, &add, WAIT_NS), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_pool_create(c, 0, "calc", "sums", NULL, 0, &pool, &err), CHI_ENOTSUP);
  CHECK_STR(err.text, "clients are of the node on this host, not of node 0");
  CHECK_INT(chi_cluster_stop(c, 0, 100), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_KILL, 0, 0, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_settle(c, WAIT_NS), CHI_OK);
  chi_cluster_close(c);
  unsetenv("CHI_SERVER_CONF");
  CHECK(town_has_met(&t));
  town_free(&t);
}

TEST(who_means_another_cluster_than_the_one_that_runs_is_told)
{
  static const struct {
    const char *own, *list, *says;
  } wrong[] = {
      {"1", "127.0.0.1\n127.0.0.2\n127.0.0.4\n", "node 2 is not 127.0.0.4"},
      {"1", "127.0.0.1\n127.0.0.2\n", "node 2 is in it"},
      {"1", "127.0.0.[1-4]\n", "node 3 is not 127.0.0.4"},
      {"0", "127.0.0.[1-3]\n", "node 0 is not 127.0.0.1"},
  };
  static struct town t;
  char want[200];
  chi_error err;
  chi_cluster *c = NULL;
  CHECK_STR(town_open(&t, 3), "");
  for (size_t i = 0; i < CHI_COUNT(wrong); i++) {
    uint64_t begun = now_ns();
    CHECK_INT(join(&t, wrong[i].own, wrong[i].list, &c, &err), CHI_EINVAL);
    snprintf(want, sizeof(want),
             "node %s, the daemon on this host, has another list of hosts, or is another node of "
             "it: %s",
             wrong[i].own, wrong[i].says);
    CHECK_STR(err.text, want);
    CHECK(!c && now_ns() - begun < 5 * SLOW * SECOND_NS);
  }
  unsetenv("CHI_SERVER_CONF");
  town_free(&t);
}

/* ---- bad days -------------------------------------------------------------------------------- */

TEST(who_is_killed_is_told_and_found_again)
{
  static struct town t;
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 3), "");
  struct calc_later *under_way = SEAT_NEW(&t.seat[0], calc_later);
  CHECK(under_way);
  under_way->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  under_way->ns = 600 * SECOND_NS;
  CHECK_INT(chi_submit(t.seat[0].queue, under_way), CHI_OK);
  pause_ns(300 * MS_NS);
  town_kill(&t, 1);
  uint64_t begun = now_ns();
  CHECK_INT(chi_wait(t.seat[0].queue, under_way, WAIT_NS), CHI_EUNKNOWN);
  CHECK(now_ns() - begun < 10 * SLOW * SECOND_NS);
  chi_task_free(t.seat[0].queue, under_way);
  begun = now_ns();
  CHECK_INT(town_add(&t, 0, 1, &sum), CHI_EUNREACHABLE);
  CHECK(now_ns() - begun < 10 * SLOW * SECOND_NS);
  CHECK_INT(town_add(&t, 0, 2, &sum), CHI_OK);
  CHECK_STR(town_start(&t, 1), "");
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  /* So fast that nobody has missed it. */
  town_kill(&t, 2);
  CHECK_STR(town_start(&t, 2), "");
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  town_free(&t);
}

TEST(who_is_frozen_is_told_and_goes_on_where_it_was)
{
  static struct town t;
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 2), "");
  CHECK(daemon_freeze(&t.node[1]));
  uint64_t begun = now_ns();
  int rc = town_add(&t, 0, 1, &sum);
  CHECK(rc == CHI_EUNREACHABLE || rc == CHI_EUNKNOWN || rc == CHI_ETIMEOUT);
  CHECK(now_ns() - begun < 10 * SLOW * SECOND_NS);
  CHECK_INT(town_add(&t, 0, 0, &sum), CHI_OK);
  kill(t.node[1].pid, SIGCONT);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  town_free(&t);
}

TEST(strangers_at_the_port_disturb_nobody)
{
  static struct town t;
  struct sockaddr_in to = {.sin_family = AF_INET};
  int fd[200];
  char junk[3000];
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 2), "");
  to.sin_port = htons((uint16_t)t.port);
  inet_pton(AF_INET, "127.0.0.2", &to.sin_addr);
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++) {
    for (uint32_t k = 0; k < sizeof(junk); k++)
      junk[k] = (char)((i * 2654435761u + k * 40503u) >> 7);
    fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_INT(connect(fd[i], (struct sockaddr *)&to, sizeof(to)), 0);
    send(fd[i], junk, i * 15 % sizeof(junk), MSG_NOSIGNAL);
    if (i % 3 == 0)
      shutdown(fd[i], SHUT_WR);
    CHECK_INT(town_add(&t, 0, 1, &sum), CHI_OK);
    CHECK_INT(town_add(&t, 1, 0, &sum), CHI_OK);
  }
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
    close(fd[i]);
  CHECK_INT(town_add(&t, 0, 1, &sum), CHI_OK);
  town_free(&t);
}

TEST(a_second_daemon_in_the_same_place_does_not_start)
{
  static struct town t;
  static struct daemon twice;
  CHECK_STR(town_open(&t, 2), "");
  twice = t.node[1];
  snprintf(twice.instance, sizeof(twice.instance), "chi-twice-%d:%u", (int)getpid(), t.port);
  setenv("CHI_NODE", "1", 1);
  CHECK(daemon_spawn(&twice));
  unsetenv("CHI_NODE");
  CHECK_INT(daemon_wait(&twice, MET_MS), 1);
  CHECK(strstr(twice.said, "at 127.0.0.2 is in use; is another daemon running there?"));
  town_free(&t);
}

TEST(a_cluster_that_stops_stops)
{
  static struct town t;
  CHECK_STR(town_open(&t, 3), "");
  for (uint32_t i = 0; i < 3; i++) {
    seat_close(&t.seat[i]);
    CHECK_INT(daemon_stop(&t.node[i]), 0);
  }
  town_free(&t);
}

/* How often the network worker of a daemon has gone to sleep, by what the system counts. */
static uint64_t sleeps(pid_t pid)
{
  char path[96], text[4096];
  uint64_t count = 0;
  snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
  DIR *d = opendir(path);
  for (struct dirent *e; d && (e = readdir(d));) {
    snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", (int)pid, e->d_name);
    scratch_read(path, text, sizeof(text));
    const char *at = strstr(text, "voluntary_ctxt_switches:");
    if (at && strncmp(text, "Name:\tchi-net\n", 14) == 0)
      count = strtoull(at + 24, NULL, 10);
  }
  if (d)
    closedir(d);
  return count;
}

static uint64_t messages_in(struct town *t, uint32_t node)
{
  struct figures f;
  uint64_t sum = 0;
  if (figures_ask(&t->seat[node], &f) == CHI_OK)
    for (const char *at = figures_json(); (at = strstr(at, "\"messages_in\":")); at++)
      sum += strtoull(at + 14, NULL, 10);
  return sum;
}

/* One task at a time, with time to fall asleep between: the network worker of the node that it is
 * for is woken by the request, which is one message, and by the worker that has run it. */
TEST(a_remote_task_wakes_the_network_worker_twice)
{
  static struct town t;
  enum { ROUNDS = 400 };
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 2), "");
  /* What its heart beats without any tasks. */
  uint64_t begun = now_ns(), slept = sleeps(t.node[1].pid);
  CHECK(slept > 0);
  pause_ns(2 * SECOND_NS);
  double beats = (double)(sleeps(t.node[1].pid) - slept) / (double)(now_ns() - begun);
  uint64_t messages = messages_in(&t, 1);
  begun = now_ns();
  slept = sleeps(t.node[1].pid);
  for (uint32_t i = 0; i < ROUNDS; i++) {
    CHECK_INT(town_add(&t, 0, 1, &sum), CHI_OK);
    pause_ns(3 * MS_NS);
  }
  slept = sleeps(t.node[1].pid) - slept;
  double idle = beats * (double)(now_ns() - begun);
  messages = messages_in(&t, 1) - messages;
  CHECK(messages >= ROUNDS);
  double each = ((double)slept - idle) / (double)messages;
  if (each > 2.3)
    fprintf(stderr, "%.2f wake-ups a message, beside %.0f of an idle node\n", each, idle);
  CHECK(each <= 2.3);
  town_free(&t);
}

TEST(an_idle_cluster_uses_next_to_nothing)
{
  static struct town t;
  struct figures before[3], after[3];
  const uint64_t ns = 4 * SECOND_NS;
  CHECK_STR(town_open(&t, 3), "");
  pause_ns(SECOND_NS);
  for (uint32_t i = 0; i < 3; i++)
    CHECK(figures_of_process(t.node[i].pid, &before[i]));
  pause_ns(ns);
  for (uint32_t i = 0; i < 3; i++) {
    CHECK(figures_of_process(t.node[i].pid, &after[i]));
    /* Its heart beats five times as often as usual here. */
    CHECK(after[i].cpu_ns - before[i].cpu_ns <= SLOW * ns * 2 / 100);
  }
  town_free(&t);
}
