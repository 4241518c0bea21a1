/* explore.h - runs the parties of a protocol in every order that matters, and kills them.
 *
 * The parties are fibers of one thread. In a build with CHI_INTERLEAVE they can be interrupted
 * before each atomic operation. All schedules with up to a number of such preemptions are run,
 * each from the start, fewest first, so that the first one that fails is among the shortest. To
 * give way because one cannot go on (to spin, to park, to end) is no preemption.
 *
 * Stores are buffered as an x86 processor does it (TSO): a party sees its own at once, the others
 * only after a fence or a read-modify-write, or when the explorer chooses to, at a preemption. So
 * a missing fence between publishing and looking, of which lost wake-ups are made, is found. What
 * weaker machines do beyond that - stores and loads that change places - isn't seen here: that is
 * for the thread sanitizer and for whoever reads the acquire and release of each operation.
 *
 * A party is interrupted only where it can matter: before an operation on something that another
 * party uses too, one of them writing, as learned from the runs so far; and before a fence. */
#ifndef EXPLORE_H
#define EXPLORE_H

#include "base.h"

#define EXPLORE_PARTIES 6u

struct explore_party {
  const char *name;
  void (*run)(void *world);
  uint32_t group; /* those of a group are one process: they die together; below 32 */
};

struct explore {
  const char *name;
  void *world;
  void (*begin)(void *world);                   /* before each run: everything as new */
  void (*end)(void *world);                     /* after it: nobody can go on; is all well? */
  void (*killed)(void *world, uint32_t group);  /* at the instant; NULL: nobody needs to know */
  bool (*dead)(const void *p);                  /* memory that was freed; NULL: none ever is */
  uint32_t preemptions;      /* at most, where nobody is killed */
  uint32_t kill_preemptions; /* at most, where somebody is */
  uint32_t victims;          /* bit mask of groups: each is killed at each point */
  uint32_t hurried;          /* bit mask of parties that spin only for a while: not waited for */
  bool orderly;              /* who follows one that waits isn't chosen: for long stories */
  uint32_t count;
  struct explore_party party[EXPLORE_PARTIES];
};

/* Explores, prints the counts, and fails the running test with the schedule that went wrong.
 * False: it did. */
bool explore(const struct explore *plan);

/* The run goes wrong, in words. Does not return to a party. */
void explore_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define EXPLORE_CHECK(cond)                                                                        \
  do {                                                                                             \
    if (!(cond)) {                                                                                 \
      explore_fail("%s:%d: %s", __FILE__, __LINE__, #cond);                                        \
      return;                                                                                      \
    }                                                                                              \
  } while (0)

/* ---- for parties */
/* A point, before what is no atomic operation but is seen by others; and one before a system call,
 * for which others see all stores. */
void explore_point(const void *p, const char *file, int line);
void explore_call(const void *p, const char *file, int line);
#define EXPLORE_POINT(p) explore_point((p), __FILE__, __LINE__)
#define EXPLORE_CALL(p) explore_call((p), __FILE__, __LINE__)
/* Blocks until ready(arg), which looks only at what is changed at points of its own. */
void explore_wait(bool (*ready)(void *arg), void *arg);
/* Others first, if any can go on: of a loop that tries again. */
void explore_yield(void);
/* For explore_wait of one party: nobody else can go on. */
bool explore_others_rest(void *arg);
/* True in a party, false in begin and end and outside of an exploration. */
bool explore_running(void);
/* The place of the running party in the plan. */
uint32_t explore_self(void);

/* An eventfd. */
struct explore_bell {
  uint32_t rung;
};
void explore_ring(struct explore_bell *b);
/* Until it is rung, which is consumed, or *also is not 0. */
void explore_park(struct explore_bell *b, const uint32_t *also);

/* ---- for end */
enum explore_state { EXPLORE_ABLE, EXPLORE_SPINS, EXPLORE_WAITS, EXPLORE_DONE, EXPLORE_KILLED };
enum explore_state explore_state(uint32_t party);

#endif
