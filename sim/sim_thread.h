/* sim_thread.h - threads of the simulation: fibers on one real thread, and their stacks.
 *
 * A thread runs until it sleeps or parks, and no time passes meanwhile. Wherever that happens, on
 * its own stack or on one that its code has made, everything stays as it is, as with a real one. */
#ifndef CHI_SIM_THREAD_H
#define CHI_SIM_THREAD_H

#include "base.h"
#include "fiber.h"
#include "sim_world.h"

struct sim_thread {
  struct sim_world_event wake;
  struct sim_world *world;
  struct fiber fiber;
  struct fiber *left; /* where it goes on: its fiber, or what it left on another stack */
  char *stack;
  uint32_t number, node;
  bool parked;        /* sim_thread_wake may end its sleep */
  bool done;          /* its body has returned */
  bool held;          /* it would go on if it weren't frozen */
  const bool *frozen; /* true: it stands still; NULL: never */
  void (*body)(void *arg);
  void *arg;
};

/* Starts a thread: it runs body(arg) from the next event on. The struct is the caller's; ended
 * with sim_thread_end, also after its body has returned. */
CHI_PRIVATE void sim_thread_start(struct sim_world *world, struct sim_thread *thread, uint32_t node,
                                  void (*body)(void *arg), void *arg);
/* Takes the thread out of the world, whatever it is doing; not the one that runs. */
CHI_PRIVATE void sim_thread_end(struct sim_thread *thread);

/* Of the running thread: time passes until then. SIM_WORLD_NEVER: it never runs again. */
CHI_PRIVATE void sim_thread_sleep(struct sim_world *world, uint64_t until);
/* The same, but sim_thread_wake may end it. */
CHI_PRIVATE void sim_thread_park(struct sim_world *world, uint64_t until);
/* A parked thread goes on at that time if nothing lets it earlier; another isn't touched. */
CHI_PRIVATE void sim_thread_wake(struct sim_thread *thread, uint64_t time);

/* After *frozen has become false. */
CHI_PRIVATE void sim_thread_thaw(struct sim_thread *thread);

/* A stack with its guard page; NULL: no memory. Released even if a fiber was left on it. */
CHI_PRIVATE void *sim_thread_stack_open(size_t size);
CHI_PRIVATE void sim_thread_stack_close(void *base, size_t size);

#endif
