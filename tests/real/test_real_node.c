/* test_real_node.c - a whole node in this process: start, refusals, stop, faults, idleness, death.
 */
#include "atomic.h"
#include "chimaera.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define SECOND 1000000000u

/* ---- a module to play with ------------------------------------------------------------------- */

#define PLAY_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(play_add, 10, PLAY_ADD)
#define PLAY_HOG(X, T) X(T, IN, u64, unused, "0")
CHI_TASK(play_hog, 11, PLAY_HOG)
#define PLAY_DIVE(X, T) X(T, IN, u64, depth)
CHI_TASK(play_dive, 12, PLAY_DIVE)
#define PLAY_SLEEP(X, T) X(T, IN, u64, ns) X(T, OUT, u64, late)
CHI_TASK(play_sleep, 13, PLAY_SLEEP)
#define PLAY_CLOSE(X, T) X(T, IN, u64, unused, "0")
CHI_TASK(play_close, 14, PLAY_CLOSE)
#define PLAY_CRASH(X, T) X(T, IN, u64, unused, "0")
CHI_TASK(play_crash, 15, PLAY_CRASH)

struct play {
  uint64_t calls;
};

static uint32_t play_hogging, play_release; /* atomic */
static chi_node *play_node;                 /* the one that play_close closes */

static int play_add_run(chi_ctx *ctx, struct play *self, struct play_add *t)
{
  (void)ctx;
  self->calls++;
  t->sum = t->a + t->b;
  return CHI_OK;
}

/* Doesn't come back until it is let go. */
static int play_hog_run(chi_ctx *ctx, struct play *self, struct play_hog *t)
{
  (void)ctx;
  (void)self;
  (void)t;
  atomic_set(&play_hogging, 1);
  while (!atomic_get(&play_release))
    usleep(1000);
  return CHI_OK;
}

__attribute__((noinline)) static uint64_t play_dive_down(volatile uint64_t *depth)
{
  volatile char block[1024];
  block[0] = (char)*depth;
  if (*depth == 0)
    return 0;
  --*depth;
  return play_dive_down(depth) + (uint64_t)block[0];
}

static int play_dive_run(chi_ctx *ctx, struct play *self, struct play_dive *t)
{
  volatile uint64_t depth = t->depth;
  (void)ctx;
  (void)self;
  return play_dive_down(&depth) == 1 ? CHI_EIO : CHI_OK;
}

static int play_sleep_run(chi_ctx *ctx, struct play *self, struct play_sleep *t)
{
  uint64_t due = chi_now(ctx) + t->ns;
  (void)self;
  int rc = chi_sleep(ctx, t->ns);
  t->late = chi_now(ctx) - due;
  return rc;
}

static int play_close_run(chi_ctx *ctx, struct play *self, struct play_close *t)
{
  (void)ctx;
  (void)self;
  (void)t;
  return chi_node_close(play_node, 0);
}

static int play_crash_run(chi_ctx *ctx, struct play *self, struct play_crash *t)
{
  (void)ctx;
  (void)self;
  (void)t;
  volatile uintptr_t nowhere = 8;
  *(volatile int *)nowhere = 1;
  return CHI_OK;
}

#define PLAY_METHODS(M, S)                                                                         \
  M(S, play_add) M(S, play_hog) M(S, play_dive) M(S, play_sleep) M(S, play_close) M(S, play_crash)
CHI_METHODS(play, PLAY_METHODS)
static const chi_module play_module = {.version = CHI_MODULE_VERSION,
                                       .name = "play",
                                       .state_size = sizeof(struct play),
                                       .methods = play_methods};
static const chi_module *const play_modules[] = {&play_module};

/* ---- a node and a client of it --------------------------------------------------------------- */

#define PLAY_POOL ((chi_pool_id){300, 0})

/* A configuration whose instance and log are this test's own. */
struct stage {
  char dir[64], log[96];
  uint32_t port;
  chi_config config;
  chi_node *node;
  chi_error err;
};

static bool stage_make(struct stage *s)
{
  static uint32_t port = 1;
  memset(s, 0, sizeof(*s));
  if (!scratch_make(s->dir))
    return false;
  snprintf(s->log, sizeof(s->log), "%s/log", s->dir);
  chi_config_init(&s->config);
  s->config.single_thread = getenv("CHI_TEST_SINGLE") != NULL; /* see test_record.sh */
  s->config.port = s->port = 20000 + port++;
  snprintf(s->config.log_file, sizeof(s->config.log_file), "%s", s->log);
  snprintf(s->config.main_segment_name, sizeof(s->config.main_segment_name), "chi-test-%ld",
           (long)getpid());
  return chi_config_add_pool(&s->config, "play", "play", "local", 300, 0, NULL) == CHI_OK;
}

static int stage_open(struct stage *s)
{
  return chi_node_open(&s->config, play_modules, 1, &s->node, &s->err);
}

static bool stage_set(struct stage *s)
{
  if (stage_make(s) && stage_open(s) == CHI_OK)
    return true;
  fprintf(stderr, "  %s\n", s->err.text);
  return false;
}

/* Where a node that was killed has left something. */
static void stage_path(const struct stage *s, const char *suffix, char *path, size_t room)
{
  snprintf(path, room, "/tmp/chimaera-%u/chi-test-%ld-%u.%s", (unsigned)geteuid(), (long)getpid(),
           s->port, suffix);
}

static void stage_strike(struct stage *s)
{
  char path[128];
  stage_path(s, "sock", path, sizeof(path));
  unlink(path);
  stage_path(s, "lock", path, sizeof(path));
  unlink(path);
  chi_config_free(&s->config);
  scratch_remove(s->dir);
}

struct actor {
  chi_client *client;
  chi_queue *queue;
};

static bool actor_open(struct actor *a, const char *instance)
{
  chi_error err = {0};
  if (chi_client_open(instance, &a->client, &err) != CHI_OK) {
    fprintf(stderr, "  %s\n", err.text);
    return false;
  }
  return chi_queue_open(a->client, &a->queue, &err) == CHI_OK;
}

static void actor_close(struct actor *a)
{
  chi_queue_close(a->queue);
  chi_client_close(a->client);
}

/* A new task for the pool; never freed by hand: closing the client does. */
static void *actor_task(struct actor *a, const chi_type *type)
{
  chi_task *t = chi_task_new(a->queue, type);
  if (t)
    t->pool = PLAY_POOL;
  return t;
}
#define ACTOR_NEW(a, type) ((struct type *)actor_task((a), &type##_type))

static bool adds(struct actor *a)
{
  struct play_add *t = ACTOR_NEW(a, play_add);
  if (!t)
    return false;
  t->a = 40;
  t->b = 2;
  return chi_run(a->queue, t) == CHI_OK && t->sum == 42 && chi_task_free(a->queue, t) == CHI_OK;
}

static uint64_t now_ns(clockid_t clock)
{
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* Threads of nodes in this process, and how often they have gone to sleep so far. */
struct threads {
  int count;
  uint64_t sleeps;
};

static struct threads threads_now(void)
{
  struct threads t = {0, 0};
  char path[400], text[4096];
  DIR *d = opendir("/proc/self/task");
  for (const struct dirent *e; d && (e = readdir(d));) {
    snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
    const char *sleeps =
        strstr(scratch_read(path, text, sizeof(text)), "\nvoluntary_ctxt_switches:");
    if (strncmp(text, "Name:\tchi-", 10) != 0 || !sleeps)
      continue;
    t.count++;
    t.sleeps += strtoull(strchr(sleeps, ':') + 1, NULL, 10);
  }
  closedir(d);
  return t;
}

/* ---- start and stop -------------------------------------------------------------------------- */

TEST(a_node_serves_clients_and_leaves_nothing_behind)
{
  int files = scratch_descriptors();
  for (int i = 0; i < 3; i++) {
    struct stage s;
    struct actor a;
    char socket[128];
    CHECK(stage_set(&s));
    stage_path(&s, "sock", socket, sizeof(socket));
    CHECK(access(socket, F_OK) == 0);
    CHECK(actor_open(&a, chi_node_instance(s.node)));
    CHECK(adds(&a));
    actor_close(&a);
    CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
    CHECK(access(socket, F_OK) != 0);
    stage_strike(&s);
  }
  CHECK_INT(scratch_descriptors(), files);
  CHECK_INT(threads_now().count, 0);
}

TEST(the_configuration_may_be_freed_when_the_node_is_open)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  chi_config_free(&s.config);
  memset(&s.config, 0xff, sizeof(s.config));
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  CHECK(adds(&a));
  actor_close(&a);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  chi_config_init(&s.config);
  stage_strike(&s);
}

TEST(two_nodes_live_in_one_process)
{
  struct stage s, t;
  struct actor a, b;
  CHECK(stage_set(&s) && stage_set(&t));
  CHECK(strcmp(chi_node_instance(s.node), chi_node_instance(t.node)) != 0);
  CHECK(actor_open(&a, chi_node_instance(s.node)) && actor_open(&b, chi_node_instance(t.node)));
  CHECK(adds(&a) && adds(&b));
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  CHECK(adds(&b));
  actor_close(&a);
  actor_close(&b);
  CHECK_INT(chi_node_close(t.node, 1000), CHI_OK);
  stage_strike(&s);
  stage_strike(&t);
}

TEST(the_same_instance_twice_is_refused_and_told)
{
  struct stage s;
  chi_node *other;
  CHECK(stage_set(&s));
  int files = scratch_descriptors(), threads = threads_now().count;
  CHECK_INT(chi_node_open(&s.config, play_modules, 1, &other, &s.err), CHI_EBUSY);
  CHECK(strstr(s.err.text, chi_node_instance(s.node)));
  CHECK_INT(scratch_descriptors(), files);
  CHECK_INT(threads_now().count, threads);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  CHECK_INT(stage_open(&s), CHI_OK);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

TEST(thread_counts_left_unset_are_at_most_the_cpus)
{
  struct stage s;
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  long most = cpus < 4 ? cpus : 4;
  CHECK(stage_make(&s));
  s.config.sched_threads = s.config.slow_threads = 0;
  CHECK_INT(stage_open(&s), CHI_OK);
  CHECK(threads_now().count <= 2 * most + 1);
  CHECK(threads_now().count >= 3);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  s.config.sched_threads = 3;
  s.config.slow_threads = 1;
  CHECK_INT(stage_open(&s), CHI_OK);
  CHECK_INT(threads_now().count, 5);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

TEST(what_cannot_start_leaves_nothing_behind)
{
  struct stage s;
  int files = scratch_descriptors();
  CHECK(stage_make(&s));
  s.config.stack_size = 1;
  CHECK_INT(stage_open(&s), CHI_ECONFIG);
  stage_strike(&s);
  CHECK(stage_make(&s));
  memset(s.config.main_segment_name, 'n', 200);
  s.config.main_segment_name[200] = '\0';
  CHECK_INT(stage_open(&s), CHI_ETOOBIG);
  stage_strike(&s);
  CHECK(stage_make(&s));
  CHECK_INT(chi_config_add_pool(&s.config, "nothing", "none", "local", 301, 0, NULL), CHI_OK);
  CHECK_INT(stage_open(&s), CHI_ENOMODULE);
  CHECK(strstr(s.err.text, "nothing"));
  stage_strike(&s);
  CHECK_INT(scratch_descriptors(), files);
  CHECK_INT(threads_now().count, 0);
}

TEST(a_node_out_of_descriptors_is_refused_wherever_it_runs_out)
{
  struct rlimit before, less;
  int files = scratch_descriptors(), opened = 0;
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  for (int room = 3; room < 64 && !opened; room++) {
    struct stage s;
    CHECK(stage_make(&s));
    less = before;
    less.rlim_cur = (rlim_t)room;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &less), 0);
    int rc = stage_open(&s);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
    opened = rc == CHI_OK;
    if (opened)
      CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
    else
      CHECK_INT(rc, CHI_ENOMEM);
    stage_strike(&s);
    CHECK_INT(scratch_descriptors(), files);
  }
  CHECK(opened);
}

/* Makes new threads fail in this process from now on. */
static bool forbid_threads(void)
{
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int open_without_threads(void *arg)
{
  struct stage *s = arg;
  int files = scratch_descriptors();
  if (!forbid_threads())
    return 99;
  if (stage_open(s) != CHI_ENOMEM || !strstr(s->err.text, "thread"))
    return 1;
  return scratch_descriptors() == files ? 0 : 2;
}

TEST(a_node_that_gets_no_threads_is_refused)
{
  struct stage s;
  CHECK(stage_make(&s));
  int rc = scratch_child(open_without_threads, &s);
  if (rc == 99)
    test_skip("no system call filter can be set");
  else
    CHECK_INT(rc, 0);
  stage_strike(&s);
}

/* ---- being asked to stop --------------------------------------------------------------------- */

static void on_signal(int signal)
{
  (void)signal;
  chi_node_stop(play_node);
}

TEST(a_node_is_asked_to_stop_from_a_signal_handler)
{
  struct stage s;
  struct sigaction action = {.sa_handler = on_signal}, before;
  CHECK(stage_set(&s));
  play_node = s.node;
  CHECK_INT(chi_node_wait(s.node, 0), CHI_ETIMEOUT);
  CHECK_INT(chi_node_wait(s.node, 3000000), CHI_ETIMEOUT);
  CHECK_INT(sigaction(SIGUSR1, &action, &before), 0);
  CHECK_INT(raise(SIGUSR1), 0);
  CHECK_INT(sigaction(SIGUSR1, &before, NULL), 0);
  CHECK_INT(chi_node_wait(s.node, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_node_wait(s.node, 0), CHI_OK);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

TEST(a_task_can_ask_the_node_to_stop)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  struct chi_admin_stop_runtime *t = CHI_NEW(a.queue, chi_admin_stop_runtime);
  CHECK(t);
  t->task.pool = CHI_ADMIN_POOL;
  t->grace_period_ms = 1000;
  CHECK_INT(chi_submit(a.queue, t), CHI_OK);
  CHECK_INT(chi_node_wait(s.node, 10ull * SECOND), CHI_OK);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  actor_close(&a);
  stage_strike(&s);
}

TEST(a_method_cannot_close_its_own_node)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  play_node = s.node;
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  CHECK_INT(chi_run(a.queue, ACTOR_NEW(&a, play_close)), CHI_EDEADLOCK);
  actor_close(&a);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

TEST(a_method_that_does_not_come_back_leaves_the_node_open)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  atomic_set(&play_hogging, 0);
  atomic_set(&play_release, 0);
  CHECK_INT(chi_submit(a.queue, ACTOR_NEW(&a, play_hog)), CHI_OK);
  while (!atomic_get(&play_hogging))
    usleep(1000);
  CHECK_INT(chi_node_close(s.node, 50), CHI_EBUSY);
  CHECK_INT(chi_node_close(s.node, 50), CHI_EBUSY);                /* and again */
  CHECK_STR(chi_node_instance(s.node), chi_node_instance(s.node)); /* it is still there */
  atomic_set(&play_release, 1);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  actor_close(&a);
  stage_strike(&s);
}

static int use_in_child(void *arg)
{
  chi_node *n = arg;
  chi_node_stop(n); /* does nothing */
  if (chi_node_wait(n, 0) != CHI_EFORKED || chi_node_guard(n) != CHI_EFORKED)
    return 1;
  return chi_node_close(n, 0) == CHI_EFORKED ? 0 : 2;
}

TEST(a_forked_child_cannot_touch_the_node)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  CHECK_INT(scratch_child(use_in_child, s.node), 0);
  CHECK_INT(chi_node_wait(s.node, 0), CHI_ETIMEOUT);
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  CHECK(adds(&a));
  actor_close(&a);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

/* ---- memory faults --------------------------------------------------------------------------- */

/* In a child: a node whose method faults. */
struct fault {
  struct stage stage;
  const chi_type *type;
  char errors[96];
};

static int run_fault(void *arg)
{
  struct fault *f = arg;
  struct actor a;
  int fd = open(f->errors, O_WRONLY | O_CREAT, 0600);
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  dup2(fd, STDERR_FILENO);
  if (stage_open(&f->stage) != CHI_OK || chi_node_guard(f->stage.node) != CHI_OK ||
      !actor_open(&a, chi_node_instance(f->stage.node)))
    return 1;
  chi_task *t = actor_task(&a, f->type);
  if (f->type == &play_dive_type)
    ((struct play_dive *)(void *)t)->depth = 100000000;
  chi_run(a.queue, t);
  return 2;
}

/* Ends with the status of the child, -1 for a signal. */
static int fault_make(struct fault *f, const chi_type *type)
{
  if (!stage_make(&f->stage))
    return 3;
  f->type = type;
  snprintf(f->errors, sizeof(f->errors), "%s/stderr", f->stage.dir);
  return scratch_child(run_fault, f);
}

TEST(an_overrun_stack_ends_the_daemon_with_a_clear_message)
{
  struct fault f;
  char text[4096];
  CHECK_INT(fault_make(&f, &play_dive_type), 70);
  scratch_read(f.errors, text, sizeof(text));
  CHECK(strstr(text, "method play_dive of pool 300.0") && strstr(text, "overran its stack of"));
  scratch_read(f.stage.log, text, sizeof(text));
  CHECK(strstr(text, "error node=0 method play_dive of pool 300.0"));
  stage_strike(&f.stage);
}

TEST(any_other_fault_goes_where_it_went_before)
{
  struct fault f;
  char text[4096];
  int rc = fault_make(&f, &play_crash_type);
  CHECK(rc != 70 && rc != 2 && rc != 3); /* -1: a signal; sanitizers end with a status */
  CHECK(!strstr(scratch_read(f.errors, text, sizeof(text)), "overran"));
  stage_strike(&f.stage);
}

/* ---- waiting --------------------------------------------------------------------------------- */

TEST(an_idle_node_takes_no_cpu_and_does_not_wake_up)
{
  struct stage s;
  struct actor a;
  const struct timespec settle = {0, 500000000}, idle = {2, 0};
  CHECK(stage_set(&s));
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  CHECK(adds(&a));
  nanosleep(&settle, NULL); /* it watches a little longer after it was busy */
  uint64_t sleeps = threads_now().sleeps;
  uint64_t cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
  nanosleep(&idle, NULL);
  cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  CHECK(cpu < 2 * SECOND / 200); /* half a percent */
  CHECK_INT(threads_now().sleeps - sleeps, 0);
  actor_close(&a);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

TEST(a_sleeping_task_is_resumed_in_time_while_all_threads_park)
{
  struct stage s;
  struct actor a;
  CHECK(stage_set(&s));
  CHECK(actor_open(&a, chi_node_instance(s.node)));
  struct play_sleep *t = ACTOR_NEW(&a, play_sleep);
  for (int i = 0; i < 20; i++) {
    t->ns = 2000000;
    CHECK_INT(chi_run(a.queue, t), CHI_OK);
    CHECK(t->late < SECOND);
  }
  actor_close(&a);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

struct crowd {
  const char *instance;
  int wrong;
};

static void *crowd_member(void *arg)
{
  struct crowd *c = arg;
  struct actor a;
  if (!actor_open(&a, c->instance)) {
    c->wrong = 1;
    return NULL;
  }
  for (int i = 0; i < 300; i++) {
    c->wrong |= !adds(&a);
    if (i % 100 == 0)
      usleep(1000); /* lets workers park */
  }
  actor_close(&a);
  return NULL;
}

TEST(many_clients_at_a_time_are_all_served)
{
  struct stage s;
  struct crowd c[8];
  pthread_t thread[8];
  CHECK(stage_set(&s));
  for (int i = 0; i < 8; i++) {
    c[i] = (struct crowd){chi_node_instance(s.node), 0};
    CHECK_INT(pthread_create(&thread[i], NULL, crowd_member, &c[i]), 0);
  }
  for (int i = 0; i < 8; i++) {
    pthread_join(thread[i], NULL);
    CHECK_INT(c[i].wrong, 0);
  }
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

/* ---- death ----------------------------------------------------------------------------------- */

/* A node in a process of its own, which tells by a byte that it serves. */
static pid_t spawn_node(struct stage *s, int *ready)
{
  int ends[2];
  char byte;
  if (pipe(ends) != 0)
    return -1;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    byte = stage_open(s) == CHI_OK ? 'y' : 'n';
    if (write(ends[1], &byte, 1) != 1)
      _exit(1);
    for (;;)
      pause();
  }
  *ready = read(ends[0], &byte, 1) == 1 && byte == 'y';
  close(ends[0]);
  close(ends[1]);
  return child;
}

TEST(waits_end_within_a_second_when_the_daemon_is_killed_and_the_next_start_works)
{
  struct stage s;
  struct actor a;
  int ready = 0, status;
  char instance[CHI_NAME_MAX + 16];
  CHECK(stage_make(&s));
  snprintf(instance, sizeof(instance), "%s:%u", s.config.main_segment_name, s.config.port);
  for (int i = 0; i < 3; i++) {
    pid_t child = spawn_node(&s, &ready);
    CHECK(child > 0 && ready);
    CHECK(actor_open(&a, instance));
    CHECK(adds(&a));
    struct play_sleep *t = ACTOR_NEW(&a, play_sleep);
    t->ns = 1000ull * SECOND;
    CHECK_INT(chi_submit(a.queue, t), CHI_OK);
    CHECK_INT(chi_wait(a.queue, t, 1000000), CHI_ETIMEOUT);
    CHECK_INT(kill(child, SIGKILL), 0);
    uint64_t killed = now_ns(CLOCK_MONOTONIC);
    CHECK_INT(chi_wait(a.queue, t, UINT64_MAX), CHI_ESHUTDOWN);
    CHECK(now_ns(CLOCK_MONOTONIC) - killed < SECOND);
    CHECK_INT(waitpid(child, &status, 0), child);
    actor_close(&a);
  }
  CHECK_INT(chi_client_open(instance, &a.client, &s.err), CHI_ENODAEMON);
  CHECK_INT(stage_open(&s), CHI_OK);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

/* ---- a forked child that goes on ------------------------------------------------------------- */

static pid_t fork_idler(void)
{
  pid_t child = fork();
  if (child == 0)
    for (;;)
      pause();
  return child;
}

TEST(a_forked_child_is_not_in_the_way_of_the_next_node)
{
  struct stage s;
  struct actor a;
  int status;
  char instance[CHI_NAME_MAX + 16];
  CHECK(stage_set(&s));
  snprintf(instance, sizeof(instance), "%s", chi_node_instance(s.node));
  CHECK(actor_open(&a, instance));
  struct play_sleep *t = ACTOR_NEW(&a, play_sleep);
  t->ns = 1000ull * SECOND;
  CHECK_INT(chi_submit(a.queue, t), CHI_OK);
  pid_t child = fork_idler();
  CHECK(child > 0);
  CHECK_INT(chi_node_close(s.node, 10), CHI_OK);
  int rc = chi_wait(a.queue, t, UINT64_MAX);
  CHECK(rc == CHI_ECANCELLED || rc == CHI_ESHUTDOWN); /* whichever this client hears first */
  rc = chi_submit(a.queue, t); /* nothing answers any more, though the child has the link, too */
  CHECK_INT(rc == CHI_OK ? chi_wait(a.queue, t, UINT64_MAX) : rc, CHI_ESHUTDOWN);
  actor_close(&a);
  CHECK_INT(chi_client_open(instance, &a.client, &s.err), CHI_ENODAEMON);
  CHECK_INT(stage_open(&s), CHI_OK);
  CHECK(actor_open(&a, instance));
  CHECK(adds(&a));
  actor_close(&a);
  CHECK_INT(kill(child, SIGKILL), 0);
  CHECK_INT(waitpid(child, &status, 0), child);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}

/* In a process of its own: a node, and a child that outlives it. Tells the child's id. */
static pid_t spawn_parent(struct stage *s, pid_t *idler)
{
  int ends[2];
  if (pipe(ends) != 0)
    return -1;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    pid_t own = stage_open(s) == CHI_OK ? fork_idler() : -1;
    if (write(ends[1], &own, sizeof(own)) != sizeof(own))
      _exit(1);
    for (;;)
      pause();
  }
  if (read(ends[0], idler, sizeof(*idler)) != sizeof(*idler))
    *idler = -1;
  close(ends[0]);
  close(ends[1]);
  return child;
}

TEST(a_killed_node_whose_child_goes_on_is_no_daemon)
{
  struct stage s;
  struct actor a;
  pid_t idler;
  int status, rc = CHI_EBUSY;
  char instance[CHI_NAME_MAX + 16];
  CHECK(stage_make(&s));
  snprintf(instance, sizeof(instance), "%s:%u", s.config.main_segment_name, s.config.port);
  pid_t child = spawn_parent(&s, &idler);
  CHECK(child > 0 && idler > 0);
  CHECK(actor_open(&a, instance));
  actor_close(&a);
  CHECK_INT(kill(child, SIGKILL), 0);
  CHECK_INT(waitpid(child, &status, 0), child);
  CHECK_INT(chi_client_open(instance, &a.client, &s.err), CHI_ENODAEMON);
  CHECK(strstr(s.err.text, "has ended"));
  CHECK_INT(stage_open(&s), CHI_EBUSY); /* it holds the lock */
  CHECK_INT(kill(idler, SIGKILL), 0);
  for (int i = 0; i < 1000 && rc == CHI_EBUSY; i++) {
    nanosleep(&(struct timespec){0, 10000000}, NULL);
    rc = stage_open(&s);
  }
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(chi_node_close(s.node, 1000), CHI_OK);
  stage_strike(&s);
}
