/* test_bad_days.c - daemons under load while one is killed, frozen, started again, or is short of
 * memory, disk or the right time. Every task ends once, with a code that is true. */
#include "fleet.h"
#include "modules/calc.h"
#include "station.h"
#include "modules/unruly.h"
#include "test.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define BURST 40 /* tasks of a kind to each node at a time */

/* How tasks for a node have ended. */
struct toll {
  uint64_t ok, unknown, unreachable, other;
  int code; /* the last other one */
};

static void toll_count(struct toll *t, int rc)
{
  t->ok += rc == CHI_OK;
  t->unknown += rc == CHI_EUNKNOWN;
  t->unreachable += rc == CHI_EUNREACHABLE;
  if (rc == CHI_OK || rc == CHI_EUNKNOWN || rc == CHI_EUNREACHABLE)
    return;
  t->other++;
  t->code = rc;
}

/* Tasks under way from one node to all: some that count, some that take a moment. */
struct burst {
  struct calc_count *count[TOWN_NODES][BURST];
  struct calc_later *later[TOWN_NODES][BURST];
};

static bool burst_begin(struct town *t, uint32_t from, struct burst *b)
{
  struct seat *s = &t->seat[from];
  for (uint32_t i = 0; i < BURST; i++) {
    for (uint32_t to = 0; to < t->count; to++) {
      struct calc_count *c = b->count[to][i] = SEAT_NEW(s, calc_count);
      struct calc_later *l = b->later[to][i] = SEAT_NEW(s, calc_later);
      if (!c || !l)
        return false;
      c->task.query = l->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = to};
      l->ns = i * 5 * MS_NS;
      if (chi_submit(s->queue, l) != CHI_OK || chi_submit(s->queue, c) != CHI_OK)
        return false;
    }
  }
  return true;
}

/* Waits for all of them. False: one hangs. */
static bool burst_end(struct town *t, uint32_t from, struct burst *b, struct toll *counted,
                      struct toll *slept)
{
  chi_queue *queue = t->seat[from].queue;
  bool all = true;
  for (uint32_t i = 0; i < BURST && all; i++) {
    for (uint32_t to = 0; to < t->count && all; to++) {
      all = chi_wait(queue, b->count[to][i], 2 * WAIT_NS) != CHI_ETIMEOUT ||
            chi_task_done(queue, b->count[to][i]);
      all = all && (chi_wait(queue, b->later[to][i], 2 * WAIT_NS) != CHI_ETIMEOUT ||
                    chi_task_done(queue, b->later[to][i]));
      if (!all)
        break;
      toll_count(&counted[to], b->count[to][i]->task.rc);
      toll_count(&slept[to], b->later[to][i]->task.rc);
      chi_task_free(queue, b->count[to][i]);
      chi_task_free(queue, b->later[to][i]);
    }
  }
  return all;
}

/* How often the container of a node, whose daemon has lived on, has counted; asking counts, too. */
static uint64_t counted_by(struct town *t, uint32_t node)
{
  struct calc_count *c = SEAT_NEW(&t->seat[node], calc_count);
  uint64_t count = c && chi_run(t->seat[node].queue, c) == CHI_OK ? c->count - 1 : UINT64_MAX;
  if (c)
    chi_task_free(t->seat[node].queue, c);
  return count;
}

/* ---- killed, frozen -------------------------------------------------------------------------- */

TEST(a_node_that_is_frozen_under_load)
{
  static struct town t;
  static struct burst b;
  struct toll counted[TOWN_NODES] = {0}, slept[TOWN_NODES] = {0};
  CHECK_STR(town_open(&t, 3), "");
  for (uint32_t round = 0; round < 2; round++) {
    CHECK(burst_begin(&t, 0, &b));
    CHECK(daemon_freeze(&t.node[2]));
    CHECK(burst_end(&t, 0, &b, counted, slept));
    CHECK(burst_begin(&t, 1, &b)); /* begun while it is frozen, by a node that knows it already */
    kill(t.node[2].pid, SIGCONT);
    CHECK(burst_end(&t, 1, &b, counted, slept));
    CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  }
  for (uint32_t i = 0; i < 3; i++) {
    uint64_t count = counted_by(&t, i);
    CHECK_INT(counted[i].other + slept[i].other, 0);
    CHECK(count >= counted[i].ok && count <= counted[i].ok + counted[i].unknown);
    CHECK_INT(counted[i].ok + counted[i].unknown + counted[i].unreachable, 4 * BURST);
  }
  CHECK_INT(counted[0].ok + counted[1].ok, 8 * BURST); /* nothing happened to these */
  CHECK(slept[2].ok < 4 * BURST);
  town_free(&t);
}

/* ---- a method that never yields -------------------------------------------------------------- */

/* Spins so long on node 1, asked on node 0; NULL: it can't be asked. */
static struct unruly_spin *spin_far(struct town *t, uint64_t ns)
{
  struct unruly_spin *spin = SEAT_NEW(&t->seat[0], unruly_spin);
  if (!spin)
    return NULL;
  spin->task.pool = (chi_pool_id){301, 0};
  spin->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  spin->ns = ns;
  return chi_submit(t->seat[0].queue, spin) == CHI_OK ? spin : NULL;
}

/* So often that the method is known to be brief; how many were not right. */
static uint32_t spin_often(struct town *t)
{
  uint32_t wrong = 0;
  for (uint32_t i = 0; i < 2000; i++) {
    struct unruly_spin *spin = spin_far(t, 0);
    wrong += !spin || chi_wait(t->seat[0].queue, spin, WAIT_NS) != CHI_OK;
    chi_task_free(t->seat[0].queue, spin);
  }
  return wrong;
}

/* The node goes on with all but that task, and keeps its place among the others. */
static void served_while(struct town *t, uint64_t ns)
{
  struct seat seat;
  uint64_t sum = 0;
  for (uint64_t end = now_ns() + ns; now_ns() < end; pause_ns(20 * MS_NS)) {
    CHECK_INT(town_add(t, 0, 1, &sum), CHI_OK);
    CHECK_INT(town_add(t, 1, 0, &sum), CHI_OK);
    CHECK_INT(seat_open(&seat, t->node[1].instance), CHI_OK);
    seat_close(&seat);
  }
}

TEST(a_method_that_was_brief_and_never_yields_does_not_hold_up_the_network)
{
  static struct town t;
  chi_pool_id id = {301, 0};
  CHECK_STR(town_open(&t, 2), "");
  CHECK_INT(chi_pool_create(t.seat[0].queue, "unruly", "wild", NULL, 0, &id, NULL), CHI_OK);
  for (uint32_t round = 0; round < 2; round++) {
    CHECK_INT(spin_often(&t), 0);
    struct unruly_spin *stuck = spin_far(&t, 4 * SLOW * SECOND_NS);
    CHECK(stuck);
    served_while(&t, 3 * SLOW * SECOND_NS);
    CHECK_INT(chi_task_done(t.seat[0].queue, stuck), 0);
    CHECK_INT(chi_wait(t.seat[0].queue, stuck, WAIT_NS), CHI_OK);
    chi_task_free(t.seat[0].queue, stuck);
  }
  CHECK(daemon_logged(&t.node[1], "another thread takes the network over") >= 2);
  CHECK(daemon_logged(&t.node[1], "another thread takes the network over") < 60);
  /* And for ever: the daemon stops all the same, as if it had been any other worker. */
  CHECK_INT(spin_often(&t), 0);
  CHECK(spin_far(&t, UINT64_MAX / 2));
  served_while(&t, SECOND_NS);
  kill(t.node[1].pid, SIGTERM);
  CHECK(daemon_wait(&t.node[1], 60000 * SLOW) >= 0);
  town_free(&t);
}

/* Who attaches hears that there is no answer; who is attached gets none, and goes on afterwards:
 * what was answered late is not taken for the answer to something else. */
TEST(nobody_waits_for_ever_for_a_daemon_that_is_frozen)
{
  static struct daemon d;
  struct seat seat;
  chi_client *none = NULL;
  chi_bulk bulk = {0};
  chi_error err = {0};
  CHECK(daemon_make(&d, NULL));
  CHECK_STR(daemon_start(&d), "");
  CHECK_INT(seat_open(&seat, d.instance), CHI_OK);
  CHECK(daemon_freeze(&d));
  uint64_t begun = now_ns();
  CHECK_INT(chi_client_open(d.instance, &none, &err), CHI_ETIMEOUT);
  CHECK_STR(err.text, "the daemon does not answer: it is stopped, or has had no time for 10 s");
  CHECK_INT(chi_bulk_alloc(seat.queue, 4u << 20, &bulk), CHI_ETIMEOUT);
  CHECK_INT(chi_bulk_alloc(seat.queue, 4u << 20, &bulk), CHI_ETIMEOUT); /* nothing more is asked */
  CHECK(now_ns() - begun >= 29 * SECOND_NS && now_ns() - begun < 30 * SECOND_NS + 3 * SOON);
  kill(d.pid, SIGCONT);
  CHECK_INT(chi_bulk_alloc(seat.queue, 3u << 20, &bulk), CHI_OK);
  memset(bulk.data, 1, bulk.size);
  chi_bulk_free(seat.queue, &bulk);
  seat_close(&seat);
  CHECK_INT(seat_open(&seat, d.instance), CHI_OK);
  seat_close(&seat);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
}

TEST(nodes_that_are_killed_under_load_and_come_back_soon_or_late)
{
  static struct town t;
  static struct burst b;
  struct toll counted[TOWN_NODES] = {0}, slept[TOWN_NODES] = {0};
  CHECK_STR(town_open(&t, 5), "");
  for (uint32_t victim = 1; victim < 5; victim++) {
    CHECK(burst_begin(&t, 0, &b));
    town_kill(&t, victim);
    if (victim % 2) { /* at once, or when all have noticed */
      CHECK_STR(town_start(&t, victim), "");
      CHECK(burst_end(&t, 0, &b, counted, slept));
    } else {
      CHECK(burst_end(&t, 0, &b, counted, slept));
      CHECK(burst_begin(&t, 0, &b));
      CHECK(burst_end(&t, 0, &b, counted, slept));
      CHECK_STR(town_start(&t, victim), "");
    }
    CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  }
  for (uint32_t i = 0; i < 5; i++)
    CHECK_INT(counted[i].other + slept[i].other, 0);
  CHECK_INT(counted[0].ok + slept[0].ok, 2 * 6 * BURST);
  CHECK_INT(counted_by(&t, 0), counted[0].ok);
  town_free(&t);
}

/* ---- no room --------------------------------------------------------------------------------- */

/* What a client out of descriptors was given, and could not take, is not kept for it. */
TEST(memory_that_does_not_reach_the_client_is_given_back)
{
  static struct daemon d;
  struct seat seat;
  struct figures before;
  struct rlimit usual, none;
  chi_bulk bulk = {0};
  CHECK(daemon_make(&d, "memory: {client_data_segment_size: 16M}\n"));
  CHECK_STR(daemon_start(&d), "");
  CHECK_INT(seat_open(&seat, d.instance), CHI_OK);
  CHECK_INT(figures_begin(&seat, &before), CHI_OK);
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &usual), 0);
  int probe = dup(0);
  close(probe);
  none = (struct rlimit){(rlim_t)probe, usual.rlim_max};
  for (int i = 0; i < 20; i++) {
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    int rc = chi_bulk_alloc(seat.queue, 4 << 20, &bulk);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &usual), 0);
    CHECK_INT(rc, CHI_ENOMEM);
  }
  CHECK_STR(figures_return(&seat, &before, 5000), "");
  CHECK_INT(chi_bulk_alloc(seat.queue, 14 << 20, &bulk), CHI_OK);
  CHECK_INT(chi_bulk_free(seat.queue, &bulk), CHI_OK);
  seat_close(&seat);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
}

TEST(a_full_disk_for_the_log_holds_nobody_up)
{
  static struct town t;
  static struct burst b;
  struct toll counted[TOWN_NODES] = {0}, slept[TOWN_NODES] = {0};
  CHECK(town_plan(&t, 2));
  snprintf(t.hostfile[0], sizeof(t.hostfile[0]), "%s/hosts", t.dir);
  CHECK(town_make(&t));
  CHECK_INT(symlink("/dev/full", t.node[1].log), 0);
  for (uint32_t i = 0; i < 2; i++)
    CHECK_STR(town_start(&t, i), "");
  CHECK_INT(seat_pool(&t.seat[0], "calc", NULL, NULL), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  for (uint32_t round = 0; round < 3; round++) { /* each time it has something to log */
    town_kill(&t, 0);
    CHECK_STR(town_start(&t, 0), "");
    CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
    CHECK(burst_begin(&t, 1, &b));
    CHECK(burst_end(&t, 1, &b, counted, slept));
  }
  CHECK_INT(counted[0].ok + counted[1].ok + slept[0].ok + slept[1].ok, 3 * 4 * BURST);
  seat_close(&t.seat[1]);
  CHECK_INT(daemon_stop(&t.node[1]), 0);
  town_free(&t);
}

/* What a process has mapped; 0: not known. */
static uint64_t mapped(pid_t pid)
{
  char path[64], text[4096];
  snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
  const char *at = strstr(scratch_read(path, text, sizeof(text)), "VmSize:");
  return at ? strtoull(at + 7, NULL, 10) * 1024 : 0;
}

/* A node at its limit of memory refuses what it has no room for, and goes on. */
TEST(a_node_at_its_limit_of_memory_refuses_and_goes_on)
{
  static struct town t;
  uint32_t refused = 0;
#ifdef TEST_SANITIZED
  test_skip("a sanitizer maps more than any limit");
  return;
#endif
  CHECK_STR(town_open(&t, 3), "");
  uint64_t limit = mapped(t.node[1].pid) + (24u << 20);
  struct rlimit least = {limit, RLIM_INFINITY};
  CHECK_INT(prlimit(t.node[1].pid, RLIMIT_AS, &least, NULL), 0);
  for (uint32_t i = 0; i < 4; i++) {
    int rc = town_carry(&t, i % 2 ? 2 : 0, 1, i < 2 ? 1 << 20 : 48 << 20);
    CHECK(rc == CHI_OK || rc == CHI_ENOMEM || rc == CHI_EBUSY || rc == CHI_EUNKNOWN);
    CHECK(i >= 2 || rc == CHI_OK);
    refused += rc != CHI_OK;
  }
  CHECK(refused > 0);
  CHECK_INT(kill(t.node[1].pid, 0), 0);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  least.rlim_cur = RLIM_INFINITY;
  CHECK_INT(prlimit(t.node[1].pid, RLIMIT_AS, &least, NULL), 0);
  CHECK(EVENTUALLY(MET_MS, town_carry(&t, 0, 1, 48 << 20) == CHI_OK));
  town_free(&t);
}

/* What a node could not even take in is not sent to it, nor asked for by it. */
TEST(bulk_that_a_node_does_not_take_is_refused_before_it_is_sent)
{
  static struct town t;
  CHECK(town_plan(&t, 2));
  snprintf(t.networking[1], sizeof(t.networking[1]), ", bulk_max: 4M");
  CHECK(town_make(&t));
  CHECK_STR(town_begin(&t), "");
  CHECK_INT(town_carry(&t, 0, 1, 4 << 20), CHI_OK);
  CHECK_INT(town_carry(&t, 0, 1, 8 << 20), CHI_ENOMEM);
  CHECK_INT(town_carry(&t, 1, 0, 8 << 20), CHI_ENOMEM); /* the answer would not fit */
  CHECK_INT(town_carry(&t, 1, 0, 4 << 20), CHI_OK);
  CHECK(daemon_logged(&t.node[0], "a task is refused: 8388608 bytes of bulk data for node 1") == 1);
  CHECK(daemon_logged(&t.node[1], "a task is refused: 8388608 bytes of bulk data for node 1") == 1);
  town_free(&t);
}

/* A control group of our own that limits memory. */
struct cage {
  char dir[200], home[400]; /* its directory; cgroup.procs of where we were */
};

static bool cage_write(const char *dir, const char *name, const char *text)
{
  char path[512];
  snprintf(path, sizeof(path), "%s%s%s", dir, *name ? "/" : "", name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  if (fd >= 0)
    close(fd);
  return good;
}

/* Version 1 with its own hierarchy of memory, or version 2. False: there are none to be had. */
static bool cage_make(struct cage *c, const char *limit)
{
  char text[4096], *at;
  scratch_read("/proc/self/cgroup", text, sizeof(text));
  bool old = (at = strstr(text, ":memory:")) != NULL;
  if (!old && !(at = strstr(text, "0::")))
    return false;
  at += old ? 8 : 3;
  at[strcspn(at, "\n")] = '\0';
  const char *root = old ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
  snprintf(c->home, sizeof(c->home), "%s%.200s/cgroup.procs", root, at);
  snprintf(c->dir, sizeof(c->dir), "%s/chi-test-%d", root, (int)getpid());
  if (mkdir(c->dir, 0755) != 0)
    return false;
  if (cage_write(c->dir, old ? "memory.limit_in_bytes" : "memory.max", limit) &&
      access(c->home, W_OK) == 0)
    return true;
  rmdir(c->dir);
  return false;
}

/* One message cannot take all the memory that a node has: it is refused, and the node lives. */
TEST(bulk_beyond_the_memory_of_a_container_does_not_end_the_node)
{
  static struct town t;
  struct cage cage;
  if (!cage_make(&cage, "100663296")) {
    test_skip("no control groups of memory can be made here");
    return;
  }
  CHECK(town_plan(&t, 2));
  CHECK(town_make(&t));
  CHECK_STR(town_start(&t, 0), "");
  bool in = cage_write(cage.dir, "cgroup.procs", "0");
  const char *wrong = town_start(&t, 1);
  bool out = cage_write(cage.home, "", "0");
  CHECK(in && out);
  CHECK_STR(wrong, "");
  CHECK_INT(seat_pool(&t.seat[0], "calc", NULL, NULL), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  CHECK_INT(town_carry(&t, 0, 1, 16 << 20), CHI_OK);
  CHECK_INT(town_carry(&t, 0, 1, 120 << 20), CHI_ENOMEM);
  CHECK_INT(kill(t.node[1].pid, 0), 0);
  CHECK_INT(town_carry(&t, 0, 1, 16 << 20), CHI_OK);
  town_free(&t);
  CHECK(EVENTUALLY(5000, rmdir(cage.dir) == 0));
}

/* The shared memory of a node is for its own clients: it says so to them, and works for others. */
TEST(a_node_with_too_little_shared_memory_says_so_and_works_for_others)
{
  static struct town t;
  CHECK(town_plan(&t, 2));
  CHECK(town_make(&t));
  char text[1024], *at;
  scratch_read(t.node[1].config, text, sizeof(text));
  CHECK((at = strstr(text, "client_data_segment_size: 256M")) != NULL);
  memcpy(at, "client_data_segment_size: 4M  ", 30);
  CHECK(scratch_write(t.node[1].dir, "daemon.yaml", text));
  for (uint32_t i = 0; i < 2; i++)
    CHECK_STR(town_start(&t, i), "");
  CHECK_INT(seat_pool(&t.seat[0], "calc", NULL, NULL), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  CHECK_INT(town_carry(&t, 1, 0, 8 << 20), CHI_ENOMEM);
  CHECK_INT(town_carry(&t, 1, 0, 1 << 20), CHI_OK);
  CHECK_INT(town_carry(&t, 0, 1, 16 << 20), CHI_OK);
  CHECK_INT(town_carry(&t, 1, 0, 8 << 20), CHI_ENOMEM);
  CHECK(town_has_met(&t));
  town_free(&t);
}

/* ---- the wrong time -------------------------------------------------------------------------- */

/* A wall clock that is wrong by *offset seconds for every daemon started meanwhile. */
static volatile int64_t *wrong_clock(const struct town *t)
{
  char path[128], preload[512];
  snprintf(path, sizeof(path), "%s/clock", t->dir);
  snprintf(preload, sizeof(preload), "%s/clock.so", daemon_modules());
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void *at = fd >= 0 && ftruncate(fd, sizeof(int64_t)) == 0
                 ? mmap(NULL, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                 : MAP_FAILED;
  if (fd >= 0)
    close(fd);
  setenv("TEST_CLOCK", path, 1);
  setenv("LD_PRELOAD", preload, 1);
  return at == MAP_FAILED ? NULL : at;
}

static void right_clock(void)
{
  unsetenv("TEST_CLOCK");
  unsetenv("LD_PRELOAD");
}

/* The wall clock only numbers lives: whatever it does, tasks run and deadlines hold. */
TEST(a_wall_clock_that_jumps_disturbs_nobody)
{
  static const int64_t jumps[] = {3600, -3600, 86400 * 365, -86400 * 365, 0};
  static struct town t;
  static struct burst b;
  struct toll counted[TOWN_NODES] = {0}, slept[TOWN_NODES] = {0};
#ifdef TEST_SANITIZED
  test_skip("a sanitizer wants to be loaded first");
  return;
#endif
  CHECK(town_plan(&t, 3));
  CHECK(town_make(&t));
  volatile int64_t *offset = wrong_clock(&t);
  CHECK(offset);
  for (uint32_t i = 0; i < 3; i++) {
    const char *said = town_start(&t, i);
    if (i == 1)
      right_clock();
    CHECK_STR(said, "");
  }
  CHECK_INT(seat_pool(&t.seat[0], "calc", NULL, NULL), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  for (uint32_t i = 0; i < CHI_COUNT(jumps); i++) {
    *offset = jumps[i];
    CHECK(burst_begin(&t, i % 3, &b));
    CHECK(burst_end(&t, i % 3, &b, counted, slept));
    CHECK(town_has_met(&t));
  }
  for (uint32_t i = 0; i < 3; i++) {
    CHECK_INT(counted[i].ok + slept[i].ok, 2 * 5 * BURST);
    CHECK_INT(counted_by(&t, i), counted[i].ok);
  }
  /* A life that begins in the past, or in the future, is a later one all the same. */
  for (uint32_t i = 0; i < 3; i++) {
    town_kill(&t, 1);
    wrong_clock(&t);
    *offset = (int64_t)(i % 2 ? 1 : -1) * 86400 * (1 + i);
    const char *said = town_start(&t, 1);
    right_clock();
    CHECK_STR(said, "");
    CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  }
  CHECK(daemon_logged(&t.node[1], "a higher boot of this node is known; it begins anew") >= 2);
  munmap((void *)(uintptr_t)offset, sizeof(*offset));
  town_free(&t);
}
