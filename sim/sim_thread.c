/* sim_thread.c - threads of the simulation: fibers on one real thread, and their stacks. */
#include "sim_thread.h"

#include <sys/mman.h>

#define SIM_THREAD_STACK (256u << 10)
#define SIM_THREAD_GUARD 65536u /* a page or more, whatever the machine */

/* ---- stacks ------------------------------------------------------------------------------- */

CHI_PRIVATE void *sim_thread_stack_open(size_t size)
{
  char *low = mmap(NULL, size + SIM_THREAD_GUARD, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (low == MAP_FAILED)
    return NULL;
  if (mprotect(low, SIM_THREAD_GUARD, PROT_NONE) != 0) {
    munmap(low, size + SIM_THREAD_GUARD);
    return NULL;
  }
  return low + SIM_THREAD_GUARD;
}

static void sim_thread_stack_entry(void *arg)
{
  (void)arg;
}

/* A fiber that was left for good on this stack may have marked it for a sanitizer; preparing and
 * forgetting a new one takes the marks away. */
CHI_PRIVATE void sim_thread_stack_close(void *base, size_t size)
{
  struct fiber fiber;
  fiber_init(&fiber, base, size, sim_thread_stack_entry, NULL);
  fiber_fini(&fiber);
  munmap((char *)base - SIM_THREAD_GUARD, size + SIM_THREAD_GUARD);
}

/* ---- threads ------------------------------------------------------------------------------ */

static void sim_thread_main(void *arg)
{
  struct sim_thread *thread = arg;
  thread->body(thread->arg);
  thread->done = true;
  sim_thread_sleep(thread->world, SIM_WORLD_NEVER);
}

/* The event by which a thread goes on. */
static void sim_thread_run(struct sim_world_event *event)
{
  struct sim_thread *thread = CHI_CONTAINER_OF(event, struct sim_thread, wake);
  struct sim_world *world = thread->world;
  struct fiber *to = thread->left;
  CHI_ASSERT(to);
  if (thread->frozen && *thread->frozen) {
    thread->held = true;
    return;
  }
  sim_world_trace(world, thread->node, SIM_TRACE_THREAD, thread->number, 0, 0, NULL);
  thread->left = NULL;
  thread->parked = false;
  world->running = thread;
  fiber_init_host(&world->host);
  fiber_switch(&world->host, to);
  world->running = NULL;
}

/* Not by fiber_holds, for whose wide guards there is no room here: other stacks may lie there. */
static bool sim_thread_is_at_home(const struct sim_thread *thread, const void *frame)
{
  return (uintptr_t)frame - (uintptr_t)thread->stack < SIM_THREAD_STACK;
}

/* Back to who runs the events. Code that made a stack of its own and runs on it is left there: a
 * second struct stands for that stack meanwhile. */
static void sim_thread_leave(struct sim_world *world, uint64_t until)
{
  struct sim_thread *thread = world->running;
  struct fiber elsewhere;
  CHI_ASSERT(thread && !thread->left);
  if (until != SIM_WORLD_NEVER)
    sim_world_at(world, &thread->wake, until);
  if (sim_thread_is_at_home(thread, __builtin_frame_address(0))) {
    thread->left = &thread->fiber;
  } else {
    fiber_init_host(&elsewhere);
    thread->left = &elsewhere;
  }
  fiber_switch(thread->left, &world->host);
}

CHI_PRIVATE void sim_thread_sleep(struct sim_world *world, uint64_t until)
{
  sim_thread_leave(world, until);
}

CHI_PRIVATE void sim_thread_park(struct sim_world *world, uint64_t until)
{
  CHI_ASSERT(world->running);
  world->running->parked = true;
  sim_thread_leave(world, until);
}

CHI_PRIVATE void sim_thread_wake(struct sim_thread *thread, uint64_t time)
{
  struct sim_world *world = thread->world;
  if (!thread->parked)
    return;
  if (heap_contains(&world->heap, &thread->wake.entry) && thread->wake.entry.time <= time)
    return;
  sim_world_at(world, &thread->wake, time);
}

CHI_PRIVATE void sim_thread_thaw(struct sim_thread *thread)
{
  if (thread->held)
    sim_world_at(thread->world, &thread->wake, thread->world->now);
  thread->held = false;
}

CHI_PRIVATE void sim_thread_start(struct sim_world *world, struct sim_thread *thread, uint32_t node,
                                  void (*body)(void *arg), void *arg)
{
  memset(thread, 0, sizeof(*thread));
  thread->world = world;
  thread->number = ++world->thread_count;
  thread->node = node;
  thread->body = body;
  thread->arg = arg;
  thread->wake.run = sim_thread_run;
  thread->stack = sim_thread_stack_open(SIM_THREAD_STACK);
  CHI_ASSERT(thread->stack);
  fiber_init(&thread->fiber, thread->stack, SIM_THREAD_STACK, sim_thread_main, thread);
  thread->left = &thread->fiber;
  sim_world_at(world, &thread->wake, world->now);
}

CHI_PRIVATE void sim_thread_end(struct sim_thread *thread)
{
  CHI_ASSERT(thread->stack && thread->world->running != thread);
  sim_world_cancel(thread->world, &thread->wake);
  if (thread->left == &thread->fiber)
    fiber_fini(&thread->fiber);
  sim_thread_stack_close(thread->stack, SIM_THREAD_STACK);
  memset(thread, 0, sizeof(*thread));
}

#undef SIM_THREAD_STACK
#undef SIM_THREAD_GUARD
