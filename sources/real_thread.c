/* real_thread.c - the threads of a node: each steps one worker, looks for more work, and parks. */
#include "real_thread.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "error.h"
#include "real_file.h"
#include "real_loop.h"
#include "real_net.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define REAL_THREAD_BUDGET 64u        /* pieces of work in a step, for one look at the clock */
#define REAL_THREAD_PAUSES 72         /* 1 to 5 us, depending on the processor */
#define REAL_THREAD_TRY 64u           /* steps between tries to let tasks gather, at first */
#define REAL_THREAD_TRY_MAX 4096u     /* and where it never pays */
#define REAL_THREAD_GATHER 64         /* pauses in which they do */
#define REAL_THREAD_FEW 4u            /* in a step, that are worth them */
#define REAL_THREAD_POLL_NS 50000u    /* the most a busy network worker leaves its sockets alone */
#define REAL_THREAD_ALT_SIZE 65536u   /* of the stack on which a memory fault is handled */

/* Signal actions belong to the process, and a handler has nothing but the thread it runs on to
 * find out whose fault it is: that is why these are not in a handle. */
static _Thread_local struct real_thread *real_thread_current
    __attribute__((tls_model("initial-exec")));
static struct sigaction real_thread_before[2]; /* SIGSEGV, SIGBUS */
static pthread_once_t real_thread_once = PTHREAD_ONCE_INIT;

/* ---- memory faults --------------------------------------------------------------------------- */

static void real_thread_pass_on(int signal, siginfo_t *info, void *context)
{
  const struct sigaction *before = &real_thread_before[signal == SIGBUS];
  if (before->sa_flags & SA_SIGINFO)
    before->sa_sigaction(signal, info, context);
  else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
    before->sa_handler(signal);
  else
    sigaction(signal, before, NULL); /* it faults again at once, and then as if we weren't there */
}

static void real_thread_on_fault(int signal, siginfo_t *info, void *context)
{
  struct real_thread *t = real_thread_current;
  char text[512];
  int error = errno;
  const char *said =
      t ? runtime_fault(t->crew->runtime, info->si_addr, text, sizeof(text)) : NULL;
  if (said) {
    real_log_cry(&t->crew->env->log, said);
    _exit(REAL_THREAD_OVERRUN_STATUS);
  }
  errno = error;
  real_thread_pass_on(signal, info, context);
}

static void real_thread_catch(void)
{
  struct sigaction action = {.sa_sigaction = real_thread_on_fault,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, NULL, &real_thread_before[1]);
  sigaction(SIGSEGV, NULL, &real_thread_before[0]);
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
}

int real_thread_guard(void)
{
  return pthread_once(&real_thread_once, real_thread_catch) == 0 ? CHI_OK : CHI_EINVAL;
}

/* Gives the thread a stack for signals; without one a fault merely kills without a word. */
static void *real_thread_enter(struct real_thread *t, stack_t *before)
{
  void *base = mmap(NULL, REAL_THREAD_ALT_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  real_thread_current = t;
  if (base == MAP_FAILED)
    return NULL;
  stack_t mine = {.ss_sp = base, .ss_size = REAL_THREAD_ALT_SIZE};
  if (sigaltstack(&mine, before) == 0)
    return base;
  munmap(base, REAL_THREAD_ALT_SIZE);
  return NULL;
}

static void real_thread_leave(void *base, const stack_t *before)
{
  real_thread_current = NULL;
  if (!base)
    return;
  sigaltstack(before, NULL);
  munmap(base, REAL_THREAD_ALT_SIZE);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static bool real_thread_is_network(const struct real_thread *t)
{
  return t->worker == runtime_network_worker(t->crew->runtime);
}

static uint64_t real_thread_now(const struct real_thread *t)
{
  struct env *env = &t->crew->env->env;
  return env->clock(env);
}

static bool real_thread_has_work(const struct real_thread *t, uint32_t worker)
{
  return runtime_has_work(t->crew->runtime, worker) || real_file_ready(t->crew->env, worker);
}

/* Whether this thread steps the brief worker, too. */
static bool real_thread_has_brief(const struct real_thread *t)
{
  return t->crew->brief.worker != UINT32_MAX && !t->stands_in && real_thread_is_network(t);
}

static bool real_thread_look(const struct real_thread *t)
{
  return real_thread_has_work(t, t->worker) ||
         (real_thread_has_brief(t) && real_thread_has_work(t, t->crew->brief.worker));
}

/* The same, and at the network, which costs as much as giving the CPU to others. */
static bool real_thread_listen(const void *who)
{
  const struct real_thread *t = who;
  return real_thread_look(t) || (real_thread_is_network(t) && real_net_ready(t->crew->env));
}

/* Spins on, unless enough others do. */
static bool real_thread_yield(struct real_thread *t, uint64_t deadline)
{
  struct real_thread_crew *crew = t->crew;
  bool found = count_add(&crew->spinning, 1) < crew->spinners &&
               spin_on(&t->spin, deadline, &t->now);
  count_add(&crew->spinning, UINT32_MAX);
  return found;
}

/* When tasks come in a stream, it pays to let some gather before the next look: else both sides
 * fight over the one cache line where the next will be, and each transfer costs as much as a task.
 * Whether it pays shows in how many a step finds; where single ones come it is tried now and
 * then. */
static void real_thread_pace(struct real_thread *t, uint64_t done)
{
  if (done >= REAL_THREAD_FEW) {
    t->gather = true;
    t->patience = t->tries = REAL_THREAD_TRY;
  } else if (t->gather) {
    t->gather = false;
    t->tries = t->patience;
    t->patience = t->patience < REAL_THREAD_TRY_MAX ? t->patience * 2 : REAL_THREAD_TRY_MAX;
  } else if (t->tries > 0) {
    t->tries--;
  } else {
    t->gather = true;
  }
}

static bool real_thread_spin(struct real_thread *t, uint64_t deadline)
{
  for (int i = 0; t->gather && i < REAL_THREAD_GATHER; i++)
    atomic_pause();
  for (int i = 0; i < REAL_THREAD_PAUSES; i++) {
    if (real_thread_look(t))
      return true;
    atomic_pause();
  }
  return t->spin.window > 0 && real_thread_yield(t, deadline);
}

/* Sleeps until the bell, the deadline or a completed operation on a file. */
static void real_thread_park(struct real_thread *t, uint64_t deadline)
{
  struct real_thread_crew *crew = t->crew;
  int bell = real_env_bell_of(runtime_worker_bell(crew->runtime, t->worker))->fd;
  int ring = real_file_descriptor(crew->env, t->worker);
  struct pollfd p[] = {{bell, POLLIN, 0}, {ring, POLLIN, 0}};
  struct timespec left;
  int n = ppoll(p, ring >= 0 ? 2 : 1, real_env_left(real_thread_now(t), deadline, &left), NULL);
  if (n > 0 && p[0].revents)
    real_env_drain(bell);
  runtime_awake(crew->runtime, t->worker);
}

/* Announces it for all workers that this thread steps, and looks once more. */
static bool real_thread_may_sleep(struct real_thread *t)
{
  struct real_thread_brief *b = &t->crew->brief;
  if (runtime_may_sleep(t->crew->runtime, t->worker)) {
    if (!real_thread_has_brief(t) || b->asleep)
      return true;
    b->asleep = runtime_may_sleep(t->crew->runtime, b->worker);
    if (b->asleep)
      return true;
    runtime_awake(t->crew->runtime, b->worker);
  }
  runtime_awake(t->crew->runtime, t->worker);
  return false;
}

/* The network worker's loop calls runtime_awake itself, before anything is told to the runtime. */
static void real_thread_sleep(struct real_thread *t, uint64_t worked, uint64_t deadline)
{
  if (deadline <= real_thread_now(t) || !real_thread_may_sleep(t))
    return;
  if (real_thread_is_network(t))
    real_loop_sleep(t->crew->env->loop, deadline);
  else
    real_thread_park(t, deadline);
  t->polled = t->now = real_thread_now(t);
  spin_slept(&t->spin, t->polled - worked);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* The loop wakes for completed operations of a worker, by *watched. False: not yet. */
static bool real_thread_watch_files(struct real_thread *t, uint32_t worker, int *watched)
{
  struct real_env *r = t->crew->env;
  int ring = real_file_descriptor(r, worker);
  if (*watched < 0 && ring >= 0 && real_loop_watch(r->loop, ring, false) == CHI_OK)
    *watched = ring;
  return ring < 0 || *watched >= 0;
}

/* What the network worker does between steps. False: it must not sleep. */
static bool real_thread_serve(struct real_thread *t, uint64_t now)
{
  struct real_env *r = t->crew->env;
  bool more;
  if (now - t->polled > REAL_THREAD_POLL_NS) {
    real_loop_poll(r->loop);
    t->polled = now;
  }
  t->crew->turn(t->crew->arg);
  more = real_net_turn(r);
  return real_thread_watch_files(t, t->worker, &t->crew->ring) && !more;
}

/* Steps the brief worker if it has something to do. True: there is more. */
static bool real_thread_assist(struct real_thread *t, uint64_t now, uint64_t *deadline)
{
  struct real_thread_crew *crew = t->crew;
  struct real_thread_brief *b = &crew->brief;
  struct env *env = &crew->env->env;
  bool taken = false;
  if (b->more || b->deadline <= now || real_thread_has_work(t, b->worker)) {
    if (b->asleep)
      runtime_awake(crew->runtime, b->worker);
    b->asleep = false;
    real_stand_leave(&crew->stand);
    b->more = runtime_step(crew->runtime, b->worker, now, REAL_THREAD_BUDGET, &b->deadline);
    taken = real_stand_return(&crew->stand, env, runtime_worker_bell(crew->runtime, b->worker));
    b->more |= !real_file_flush(crew->env, b->worker);
    b->more |= !real_thread_watch_files(t, b->worker, &b->ring);
  }
  *deadline = b->deadline < *deadline ? b->deadline : *deadline;
  return b->more || taken; /* the network worker first, which the other has stepped */
}

/* Tasks that the workers of this thread have ended. */
static uint64_t real_thread_done(const struct real_thread *t)
{
  const struct runtime *rt = t->crew->runtime;
  return runtime_worker_done(rt, t->worker) +
         (real_thread_has_brief(t) ? runtime_worker_done(rt, t->crew->brief.worker) : 0);
}

static bool real_thread_goes_on(const struct real_thread *t)
{
  return !mark_get(&t->crew->quit) && !(t->stands_in && real_stand_wanted(&t->crew->stand));
}

static void real_thread_work(struct real_thread *t)
{
  struct real_thread_crew *crew = t->crew;
  bool network = real_thread_is_network(t), brief = real_thread_has_brief(t);
  spin_init(&t->spin, &crew->env->env, crew->spin_window_ns, real_thread_listen, t);
  t->now = real_thread_now(t);
  while (real_thread_goes_on(t)) {
    uint64_t now = t->now, deadline = UINT64_MAX;
    bool more = network && !real_thread_serve(t, now);
    uint64_t done = real_thread_done(t);
    more |= runtime_step(crew->runtime, t->worker, now, REAL_THREAD_BUDGET, &deadline);
    if (brief)
      more |= real_thread_assist(t, now, &deadline);
    real_thread_pace(t, real_thread_done(t) - done);
    if (!real_file_flush(crew->env, t->worker)) {
      sched_yield();
      more = true;
    }
    /* Read here, where nobody waits for it, the time is good for a step that begins within 1 us. */
    t->now = real_thread_now(t);
    if (!more && !real_thread_spin(t, deadline))
      real_thread_sleep(t, now, deadline);
  }
}

/* Stands in for the network worker's thread whenever that stays away. Files of the brief worker,
 * which only the other can attend to, do not wake it. */
static void real_thread_stand_in(struct real_thread *t)
{
  struct real_thread_crew *crew = t->crew;
  const struct real_thread_brief *b = &crew->brief;
  uint32_t own = t->worker;
  while (real_stand_await(&crew->stand, crew->runtime, &crew->quit)) {
    t->worker = runtime_network_worker(crew->runtime);
    t->stands_in = true;
    runtime_take_over(crew->runtime, real_thread_now(t));
    real_loop_mute(crew->env->loop, b->ring, true);
    real_thread_work(t);
    real_loop_mute(crew->env->loop, b->ring, false);
    t->stands_in = false;
    t->worker = own;
    real_stand_give_back(&crew->stand);
  }
}

/* Waits until all threads have been started. False: they could not. */
static bool real_thread_may_go(struct real_thread_crew *crew)
{
  pthread_mutex_lock(&crew->lock);
  while (crew->gate == 0)
    pthread_cond_wait(&crew->opened, &crew->lock);
  bool go = crew->gate == 1;
  pthread_mutex_unlock(&crew->lock);
  return go;
}

static void real_thread_name(const struct real_thread *t)
{
  char name[16];
  const char *form = t->crew->single                       ? "chi-single"
                     : real_thread_is_network(t)           ? "chi-net"
                     : t->worker == t->crew->brief.worker ? "chi-stand-in"
                                                           : "chi-worker-%u";
  snprintf(name, sizeof(name), form, (unsigned)t->worker);
  pthread_setname_np(t->id, name);
}

static void *real_thread_main(void *arg)
{
  struct real_thread *t = (struct real_thread *)arg;
  stack_t before;
  prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* a sleep shall not be rounded up by 50 us */
  void *stack = real_thread_enter(t, &before);
  if (real_thread_may_go(t->crew))
    (t->crew->single                       ? t->crew->single
     : t->worker == t->crew->brief.worker ? real_thread_stand_in
                                           : real_thread_work)(t);
  real_thread_leave(stack, &before);
  return NULL;
}

/* ---- start and end --------------------------------------------------------------------------- */

static void real_thread_open_gate(struct real_thread_crew *crew, uint32_t gate)
{
  pthread_mutex_lock(&crew->lock);
  crew->gate = gate;
  pthread_cond_broadcast(&crew->opened);
  pthread_mutex_unlock(&crew->lock);
}

/* Signals are for the threads of the host program, except those that a thread brings on itself. */
static void real_thread_block_signals(sigset_t *before)
{
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t all;
  sigfillset(&all);
  for (size_t i = 0; i < CHI_COUNT(own); i++)
    sigdelset(&all, own[i]);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

static int real_thread_create_all(struct real_thread_crew *crew, uint32_t count)
{
  sigset_t before;
  int rc = 0;
  real_thread_block_signals(&before);
  while (crew->count < count) {
    struct real_thread *t = &crew->thread[crew->count];
    *t = (struct real_thread){
        .crew = crew, .worker = crew->count, .patience = REAL_THREAD_TRY};
    rc = pthread_create(&t->id, NULL, real_thread_main, t);
    if (rc != 0)
      break;
    real_thread_name(t);
    crew->count++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return rc;
}

int real_thread_start(struct real_thread_crew *crew, chi_error *err)
{
  uint32_t count = runtime_worker_count(crew->runtime);
  env_bell bell = runtime_worker_bell(crew->runtime, runtime_network_worker(crew->runtime));
  pthread_mutex_init(&crew->lock, NULL);
  pthread_cond_init(&crew->opened, NULL);
  crew->thread = calloc(count, sizeof(*crew->thread));
  crew->brief = (struct real_thread_brief){.worker = runtime_brief_worker(crew->runtime),
                                           .deadline = UINT64_MAX,
                                           .ring = -1};
  crew->ring = -1;
  if (real_stand_open(&crew->stand) != CHI_OK || !crew->thread ||
      real_loop_watch(crew->env->loop, real_env_bell_of(bell)->fd, true) != CHI_OK) {
    real_thread_join(crew);
    return error_set(err, CHI_ENOMEM, "out of memory");
  }
  count = crew->single ? 1 : count;
  int rc = real_thread_create_all(crew, count);
  real_thread_open_gate(crew, rc == 0 ? 1 : 2);
  if (rc == 0)
    return CHI_OK;
  uint32_t started = crew->count;
  real_thread_join(crew);
  errno = rc;
  return error_set(err, CHI_ENOMEM, "cannot start thread %u of %u: %m", started + 1, count);
}

void real_thread_quit(struct real_thread_crew *crew)
{
  struct env *env = &crew->env->env;
  mark_set(&crew->quit, 1);
  for (uint32_t i = 0; i < runtime_worker_count(crew->runtime); i++)
    env->bell_ring(env, runtime_worker_bell(crew->runtime, i));
  real_stand_wake(&crew->stand);
}

void real_thread_join(struct real_thread_crew *crew)
{
  for (uint32_t i = 0; i < crew->count; i++)
    pthread_join(crew->thread[i].id, NULL);
  free(crew->thread);
  crew->thread = NULL;
  crew->count = 0;
  real_stand_close(&crew->stand);
  pthread_mutex_destroy(&crew->lock);
  pthread_cond_destroy(&crew->opened);
}

bool real_thread_inside(const struct real_thread_crew *crew)
{
  return real_thread_current && real_thread_current->crew == crew;
}

#undef REAL_THREAD_BUDGET
#undef REAL_THREAD_PAUSES
#undef REAL_THREAD_TRY
#undef REAL_THREAD_TRY_MAX
#undef REAL_THREAD_FEW
#undef REAL_THREAD_GATHER
#undef REAL_THREAD_POLL_NS
#undef REAL_THREAD_ALT_SIZE

#endif
