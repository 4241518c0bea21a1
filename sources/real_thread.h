/* real_thread.h - the threads of a node: each steps one worker, looks for more work, and parks. */
#ifndef CHI_REAL_THREAD_H
#define CHI_REAL_THREAD_H

#include "base.h"
#include "runtime.h"

#ifndef CHI_OMIT_REAL

#include "real_env.h"
#include "real_stand.h"
#include "spin.h"

#include <pthread.h>

struct real_thread_crew;
struct record;

/* What the network worker's thread knows of the brief worker, which it steps, too. */
struct real_thread_brief {
  uint32_t worker;   /* UINT32_MAX: there is none */
  uint64_t deadline; /* of its last step */
  bool more;         /* it has more to do */
  bool asleep;       /* it has announced that, and is rung */
  int ring;          /* by which the loop wakes for its files; -1: it doesn't yet */
};

/* The thread of one worker; that of the brief one stands in for the network worker's. */
struct real_thread {
  struct real_thread_crew *crew;
  uint32_t worker;
  pthread_t id;
  struct spin spin;
  uint64_t now;      /* the clock, at the end of the last step or later */
  uint64_t polled;   /* network worker: when it last looked at its sockets */
  bool stands_in;    /* it steps the network worker, though that isn't its own */
  bool gather;       /* tasks come in a stream */
  uint32_t tries;    /* steps until letting them gather is tried again */
  uint32_t patience; /* how many those will be after one more try that didn't pay */
};

/* All threads of a node. Set those before `thread`, the rest to 0. */
struct real_thread_crew {
  struct real_env *env;
  struct runtime *runtime;
  uint64_t spin_window_ns;
  uint32_t spinners; /* so many of its threads may spin at a time */
  /* One thread, which does this, instead of one for each worker; or NULL. See real_single. */
  void (*single)(struct real_thread *t);
  struct real_single *all; /* its own */
  struct record *record;   /* where what it does is written down; or NULL */
  /* Called by the network worker before each step. */
  void (*turn)(void *arg);
  void *arg;

  struct real_thread *thread;
  struct real_thread_brief brief;
  struct real_stand stand;
  int ring;          /* by which the loop wakes for files of the network worker; -1 */
  uint32_t count;    /* started */
  uint32_t gate;     /* 0: wait, 1: go, 2: end; guarded by lock */
  uint32_t quit;     /* atomic */
  uint32_t spinning; /* atomic: threads that spin now */
  pthread_mutex_t lock;
  pthread_cond_t opened;
};

/* Starts a thread for every worker of the runtime; the loop of the environment must be open. On
 * failure no worker has been stepped. CHI_ENOMEM, and in *err what failed. */
CHI_PRIVATE int real_thread_start(struct real_thread_crew *crew, chi_error *err);
/* Makes all threads end; any thread. */
CHI_PRIVATE void real_thread_quit(struct real_thread_crew *crew);
/* Waits until all have ended. */
CHI_PRIVATE void real_thread_join(struct real_thread_crew *crew);
/* True if the caller is one of them. */
CHI_PRIVATE bool real_thread_inside(const struct real_thread_crew *crew);

/* Catches memory faults of the process, once for all nodes in it: one in the guard page of a stack
 * of one of our threads is told to log and standard error and ends the process with this status.
 * Other faults go where they went before. CHI_EINVAL where the system refuses. */
#define REAL_THREAD_OVERRUN_STATUS 70
CHI_PRIVATE int real_thread_guard(void);

#endif
#endif
