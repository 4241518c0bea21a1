/* fiber.h - many stacks on one thread: switching from one to another by hand. */
#ifndef CHI_FIBER_H
#define CHI_FIBER_H

#include "base.h"

/* x86-64 switches by hand in a few nanoseconds; everything else, and a build that defines
 * CHI_FIBER_UCONTEXT, through ucontext. */
#if !defined(CHI_FIBER_UCONTEXT) && (!defined(__x86_64__) || defined(__ILP32__))
#define CHI_FIBER_UCONTEXT 1
#endif

#ifdef CHI_FIBER_UCONTEXT
#include <ucontext.h>
#endif

/* How far below a stack an overrun is still told to be its own: a method's local array is rarely
 * larger, so that no step of it gets past the guard. Addresses only, no memory. */
#define FIBER_GUARD_SIZE (1u << 20)
#define FIBER_STACK_MIN 4096  /* the least a stack may have; real methods need far more */

/* What runs on a fiber. It never returns: its last act is a switch away for good. */
typedef void fiber_entry(void *arg);

/* A stack and where its code was left. At any moment exactly one fiber runs on a thread. Private to
 * fiber.c; not moved in memory between fiber_init and fiber_fini. */
struct fiber {
  void *sp;               /* where it goes on; NULL while it runs */
  const void *stack;      /* lowest address; of a host known to sanitizers only */
  size_t size;            /* bytes of stack */
  fiber_entry *entry;     /* NULL: a host */
  void *arg;              /* for entry */
  struct fiber *previous; /* who switched here last */
  void *fake_stack;       /* AddressSanitizer's, of a fiber that doesn't run */
  void *tsan;             /* ThreadSanitizer's handle */
  unsigned valgrind;      /* valgrind's stack id */
#ifdef CHI_FIBER_UCONTEXT
  ucontext_t context;
#endif
};

/* Makes *host stand for the stack that the calling thread runs on at this moment, so that one can
 * switch away from it and back. One host for each thread at a time. */
CHI_PRIVATE void fiber_init_host(struct fiber *host);

/* Prepares *f so that the first switch to it calls entry(arg) on the given stack, with the
 * floating-point modes (rounding, masks) that the caller of fiber_init has now. The stack is the
 * caller's, at least FIBER_STACK_MIN bytes, and stays untouched by others until fiber_fini. Whoever
 * maps many equal stacks should vary size by some cache lines, else all their tops fall into the
 * same cache set. Any thread. */
CHI_PRIVATE void fiber_init(struct fiber *f, void *stack, size_t size, fiber_entry *entry,
                            void *arg);

/* Leaves *from, which must be the one that runs on this thread, and goes on in *to, which must be
 * suspended. Returns when someone switches to *from again. Kept over the switch: what a function
 * call keeps, with the floating-point modes; the signal mask must be the same in both. A fiber may
 * be switched to only on the thread on which it ran last (a new one: on any), because compilers
 * keep addresses of thread-local variables over calls. Those of the network worker, which another
 * thread may have to take over, run bodies of the admin pool only, which have none. */
CHI_PRIVATE void fiber_switch(struct fiber *from, struct fiber *to);

/* Forgets *f, which must not be running: what is on its stack is dropped without being unwound. A
 * fiber that never ran is fine, and so is a host. The stack is the caller's again, to be unmapped
 * or used for another fiber. Any thread. */
CHI_PRIVATE void fiber_fini(struct fiber *f);

/* Whether address lies in the stack of *f or in the FIBER_GUARD_SIZE bytes directly below, where a
 * guard catches an overrun. Always false for a host. Reads only; fit for a signal handler. */
CHI_PRIVATE bool fiber_holds(const struct fiber *f, const void *address);

#endif
