/* test_real_fault.c - what goes wrong inside a node because a test says so. */
#include "real_fault.h"
#include "real_file.h"
#include "scratch.h"
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

/* An environment that something may go wrong with. */
struct patient {
  struct real_env r;
  struct real_fault fault;
};

static bool patient_open(struct patient *p)
{
  memset(p, 0, sizeof(*p));
  return real_env_open(&p->r, NULL) == CHI_OK && real_file_bind(&p->r, 1) == CHI_OK &&
         real_fault_bind(&p->r, &p->fault) == CHI_OK;
}

static void patient_close(struct patient *p)
{
  real_fault_unbind(&p->r);
  real_file_close(&p->r);
  real_env_close(&p->r);
}

/* ---- memory -------------------------------------------------------------------------------- */

static int refusals(struct patient *p, int times)
{
  int refused = 0;
  for (int i = 0; i < times; i++) {
    void *got = alloc_get(&p->r.env.alloc, 16);
    refused += !got;
    alloc_put(&p->r.env.alloc, got, 16);
  }
  return refused;
}

TEST(memory_is_refused_to_who_serves_as_often_as_told)
{
  struct patient p;
  struct env *env = &p.r.env;
  struct env_stack stack;
  env_bell bell;
  CHECK(patient_open(&p));
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_MEMORY, 0, 1000000), CHI_OK);
  CHECK_INT(refusals(&p, 100), 0);
  real_fault_serves(&p.r);
  CHECK_INT(refusals(&p, 100), 100);
  CHECK_INT(env->stack_open(env, 65536, &stack), CHI_ENOMEM);
  CHECK_INT(env->bell_open(env, &bell), CHI_ENOMEM);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_MEMORY, 0, 250000), CHI_OK);
  int refused = refusals(&p, 4000);
  CHECK(refused > 800 && refused < 1200);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_MEMORY, 0, 1000001), CHI_ERANGE);
  real_fault_calm(&p.fault);
  CHECK_INT(refusals(&p, 1000), 0);
  CHECK_INT(env->stack_open(env, 65536, &stack), CHI_OK);
  env->stack_close(env, &stack);
  CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  env->bell_close(env, bell);
  patient_close(&p);
}

/* ---- clocks -------------------------------------------------------------------------------- */

#define HOUR INT64_C(3600000000000)
#define MINUTE UINT64_C(60000000000)

TEST(clocks_jump_and_drift_and_that_of_a_thread_goes_on)
{
  struct patient p;
  struct env *env = &p.r.env;
  CHECK(patient_open(&p));
  uint64_t now = real_env_now(), clock = env->clock(env), wall = env->wall(env);
  CHECK(clock - now < MINUTE);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_JUMP, 0, HOUR), CHI_OK);
  CHECK(env->clock(env) - clock - HOUR < MINUTE);
  CHECK(env->wall(env) - wall - HOUR < MINUTE);
  CHECK(real_env_now() - now < MINUTE);
  uint64_t due = p.r.until(&p.r, env->clock(env) + MINUTE); /* by the clock that goes right */
  CHECK(due > now + MINUTE / 2 && due - now < 2 * MINUTE);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_JUMP, 0, -HOUR), CHI_OK);
  CHECK(env->clock(env) - clock - HOUR < MINUTE); /* never back */
  CHECK(env->wall(env) - wall < MINUTE);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_DRIFT, 0, 100000), CHI_OK);
  clock = env->clock(env);
  now = real_env_now();
  usleep(100000);
  uint64_t passed = real_env_now() - now;
  CHECK(env->clock(env) - clock >= passed + passed / 10);
  real_fault_calm(&p.fault);
  clock = env->clock(env);
  now = real_env_now();
  usleep(1000);
  CHECK(env->clock(env) - clock >= 1000000);
  CHECK(env->clock(env) - clock <= real_env_now() - now + 1000000); /* no tenth any more */
  patient_close(&p);
}

struct watcher {
  struct patient *p;
  pthread_t thread;
  uint32_t over, backwards;
};

static void *watch(void *arg)
{
  struct watcher *w = arg;
  struct env *env = &w->p->r.env;
  uint64_t before = 0;
  while (!__atomic_load_n(&w->over, __ATOMIC_RELAXED)) {
    uint64_t now = env->clock(env);
    w->backwards += now < before;
    before = now;
  }
  return NULL;
}

/* While it is told, over and over, nobody sees half of it. */
TEST(clock_never_goes_back_while_it_is_changed)
{
  struct patient p;
  CHECK(patient_open(&p));
  struct watcher w[2] = {{.p = &p}, {.p = &p}};
  for (int i = 0; i < 2; i++)
    CHECK_INT(pthread_create(&w[i].thread, NULL, watch, &w[i]), 0);
  for (int i = 0; i < 20000; i++) {
    real_fault_tell(&p.fault, CHI_FAULT_JUMP, 0, i % 2 ? 1000000 : -1000000);
    real_fault_tell(&p.fault, CHI_FAULT_DRIFT, 0, i % 3 ? 100000 : -100000);
  }
  for (int i = 0; i < 2; i++) {
    __atomic_store_n(&w[i].over, 1, __ATOMIC_RELAXED);
    pthread_join(w[i].thread, NULL);
  }
  CHECK_INT(w[0].backwards + w[1].backwards, 0);
  patient_close(&p);
}

/* ---- files --------------------------------------------------------------------------------- */

/* One that is done at once: what it gives, or -1000. */
static int64_t do_at_once(struct patient *p, struct env_io *io)
{
  struct env *env = &p->r.env;
  return env->io_submit(env, 0, io) == 1 ? io->result : -1000;
}

TEST(next_operation_on_a_file_fails_and_what_is_closed_is_closed)
{
  struct patient p;
  char dir[64], path[96];
  CHECK(scratch_make(dir) && patient_open(&p));
  snprintf(path, sizeof(path), "%s/file", dir);
  struct env_io open = {.op = ENV_IO_OPEN, .path = path, .flags = CHI_FILE_CREATE};
  struct env_io remove = {.op = ENV_IO_REMOVE, .path = path};
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_DISK, CHI_FAULT_OPEN, 0), CHI_OK);
  CHECK_INT(do_at_once(&p, &open), CHI_EIO);
  CHECK(access(path, F_OK) != 0); /* it has done nothing */
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_DISK, CHI_CLUSTER_ALL, 1), CHI_OK);
  CHECK_INT(do_at_once(&p, &open), CHI_ENOSPC);
  CHECK(do_at_once(&p, &open) >= 0);
  struct env_io size = {.op = ENV_IO_SIZE, .file = open.result};
  struct env_io shut = {.op = ENV_IO_CLOSE, .file = open.result};
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_DISK, CHI_FAULT_CLOSE, 0), CHI_OK);
  CHECK_INT(do_at_once(&p, &size), 0);
  CHECK_INT(do_at_once(&p, &shut), CHI_EIO);
  CHECK(fcntl((int)open.result, F_GETFD) < 0);
  CHECK_INT(real_fault_tell(&p.fault, CHI_FAULT_DISK, CHI_FAULT_REMOVE, 1), CHI_OK);
  real_fault_calm(&p.fault);
  CHECK_INT(do_at_once(&p, &remove), CHI_OK);
  patient_close(&p);
  scratch_remove(dir);
}

/* ---- all ----------------------------------------------------------------------------------- */

TEST(only_these_faults_are_inside_a_node)
{
  uint32_t can = 0;
  for (int kind = 0; kind < CHI_FAULT_KINDS; kind++)
    can += real_fault_can((chi_fault)kind);
  CHECK_INT(can, 7);
  CHECK(!real_fault_can(CHI_FAULT_DELAY) && !real_fault_can(CHI_FAULT_CRASH));
}
