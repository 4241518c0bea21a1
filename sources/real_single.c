/* real_single.c - all workers of a node stepped by one thread, in turn. */
#include "real_single.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "real_file.h"
#include "real_loop.h"
#include "real_net.h"
#include "record.h"

#include <sched.h>
#include <stdlib.h>

#define REAL_SINGLE_BUDGET 64u     /* pieces of work in a step */
#define REAL_SINGLE_PAUSES 72      /* a few microseconds */
#define REAL_SINGLE_POLL_NS 50000u /* the most that sockets are left alone under load */
#define REAL_SINGLE_FLUSH_NS 100000000u /* what was recorded that long ago is in the file */

/* What the thread knows of each worker. */
struct real_single {
  uint64_t deadline; /* of its last step */
  bool more;         /* it has more to do */
  bool asleep;       /* it has announced that, and is rung */
  bool watched;      /* the loop wakes for its files */
};

static void real_single_work(struct real_thread *t);

static uint64_t real_single_now(const struct real_thread *t)
{
  struct env *env = &t->crew->env->env;
  return env->clock(env);
}

int real_single_prepare(struct real_thread_crew *crew)
{
  crew->single = real_single_work;
  crew->all = calloc(runtime_worker_count(crew->runtime), sizeof(*crew->all));
  int rc = crew->all ? CHI_OK : CHI_ENOMEM;
  for (uint32_t i = 0; i + 1 < runtime_worker_count(crew->runtime) && rc == CHI_OK; i++) {
    env_bell bell = runtime_worker_bell(crew->runtime, i);
    rc = real_loop_watch(crew->env->loop, real_env_bell_of(bell)->fd, true);
  }
  return rc;
}

void real_single_end(struct real_thread_crew *crew)
{
  free(crew->all);
  crew->all = NULL;
}

static void real_single_rouse(const struct real_thread_crew *crew, uint32_t worker)
{
  if (crew->all[worker].asleep)
    record_awake(crew->record, crew->runtime, worker);
  crew->all[worker].asleep = false;
}

void real_single_awake(const struct real_thread_crew *crew)
{
  real_single_rouse(crew, runtime_network_worker(crew->runtime));
}

static bool real_single_worker_ready(const struct real_thread *t, uint32_t worker)
{
  return runtime_has_work(t->crew->runtime, worker) || real_file_ready(t->crew->env, worker);
}

/* A look at all sources of work. */
static bool real_single_look(const struct real_thread *t)
{
  bool found = record_exchange(t->crew->record);
  for (uint32_t i = 0; i < runtime_worker_count(t->crew->runtime) && !found; i++)
    found = real_single_worker_ready(t, i);
  return found;
}

/* The same, and at the network. */
static bool real_single_listen(const void *who)
{
  const struct real_thread *t = who;
  return real_single_look(t) || real_net_ready(t->crew->env);
}

/* Sockets, requests to stop, messages. False: it must not sleep. */
static bool real_single_serve(struct real_thread *t)
{
  if (t->now - t->polled > REAL_SINGLE_POLL_NS) {
    real_loop_poll(t->crew->env->loop);
    t->polled = t->now;
  }
  t->crew->turn(t->crew->arg);
  return !real_net_turn(t->crew->env);
}

/* Looks that a completed operation on its files ends a sleep. */
static bool real_single_files(struct real_thread *t, struct real_single *s, uint32_t worker)
{
  struct real_env *r = t->crew->env;
  bool flushed = real_file_flush(r, worker);
  int ring = real_file_descriptor(r, worker);
  if (!flushed)
    sched_yield();
  if (ring >= 0 && !s->watched)
    s->watched = real_loop_watch(r->loop, ring, false) == CHI_OK;
  return flushed && (ring < 0 || s->watched);
}

/* Steps the network worker, and of the others those that have something to do: who has nothing is
 * left asleep. True: there is more. */
static bool real_single_round(struct real_thread *t, struct real_single *all)
{
  struct real_thread_crew *crew = t->crew;
  uint32_t count = runtime_worker_count(crew->runtime);
  bool more = false;
  for (uint32_t i = 0; i < count; i++) {
    struct real_single *s = &all[i];
    if (i + 1 < count && !s->more && s->deadline > t->now && !real_single_worker_ready(t, i))
      continue;
    real_single_rouse(crew, i);
    s->deadline = UINT64_MAX;
    s->more = record_step(crew->record, crew->runtime, i, t->now, REAL_SINGLE_BUDGET,
                          &s->deadline);
    s->more |= !real_single_files(t, s, i);
    more |= s->more;
  }
  return more;
}

/* Looks on for a while, as long as that pays. True: there is work. */
static bool real_single_spin(struct real_thread *t, uint64_t deadline)
{
  bool found = false;
  for (int i = 0; i < REAL_SINGLE_PAUSES && !found; i++) {
    found = real_single_look(t);
    if (!found)
      atomic_pause();
  }
  return found || (t->crew->spinners > 0 && spin_on(&t->spin, deadline, &t->now));
}

/* All have announced it, and none has found anything since. */
static bool real_single_may_sleep(struct real_thread *t)
{
  struct real_thread_crew *crew = t->crew;
  bool may = true;
  for (uint32_t i = 0; i < runtime_worker_count(crew->runtime) && may; i++) {
    if (crew->all[i].asleep)
      continue;
    crew->all[i].asleep = true;
    may = record_may_sleep(crew->record, crew->runtime, i);
    if (!may)
      real_single_rouse(crew, i);
  }
  if (may && !real_single_look(t))
    return true;
  real_single_awake(crew);
  return false;
}

static void real_single_sleep(struct real_thread *t, uint64_t worked, uint64_t deadline)
{
  if (deadline <= real_single_now(t) || !real_single_may_sleep(t))
    return;
  record_flush(t->crew->record);
  real_loop_sleep(t->crew->env->loop, deadline);
  t->polled = t->now = real_single_now(t);
  spin_slept(&t->spin, t->now - worked);
}

static uint64_t real_single_deadline(const struct real_single *all, uint32_t count)
{
  uint64_t deadline = UINT64_MAX;
  for (uint32_t i = 0; i < count; i++)
    deadline = all[i].deadline < deadline ? all[i].deadline : deadline;
  return deadline;
}

static void real_single_loop(struct real_thread *t, struct real_single *all, uint32_t count)
{
  struct real_thread_crew *crew = t->crew;
  uint64_t flushed = 0;
  t->now = real_single_now(t);
  while (!mark_get(&crew->quit)) {
    uint64_t now = t->now;
    bool more = !real_single_serve(t);
    record_exchange(crew->record);
    more |= real_single_round(t, all);
    record_exchange(crew->record);
    t->now = real_single_now(t);
    uint64_t deadline = real_single_deadline(all, count);
    if (!more && !real_single_spin(t, deadline))
      real_single_sleep(t, now, deadline);
    if (t->now - flushed > REAL_SINGLE_FLUSH_NS) {
      flushed = t->now;
      record_flush(crew->record);
    }
  }
}

static void real_single_work(struct real_thread *t)
{
  struct real_thread_crew *crew = t->crew;
  spin_init(&t->spin, &crew->env->env, crew->spin_window_ns, real_single_listen, t);
  real_single_loop(t, crew->all, runtime_worker_count(crew->runtime));
}

#undef REAL_SINGLE_BUDGET
#undef REAL_SINGLE_PAUSES
#undef REAL_SINGLE_POLL_NS
#undef REAL_SINGLE_FLUSH_NS

#endif
