/* stage.h - a whole node and a client of it, built once and set back before each run.
 *
 * The core is the real one, from chi_submit to the completion; only the environment is of the
 * test. It is brought up in one thread, to where the workers sleep and the client has a queue;
 * all memory is remembered there, and put back for each run of the explorer. */
#ifndef STAGE_H
#define STAGE_H

#include "explore.h"
#include "runtime.h"

#define STAGE_MS UINT64_C(1000000)

/* Two fast workers, one slow. */
enum { STAGE_FAST, STAGE_FAST_2, STAGE_SLOW, STAGE_NETWORK, STAGE_WORKERS };
/* The processes; the clock is nobody's. */
enum { STAGE_DAEMON, STAGE_CLIENT, STAGE_CLOCK };

/* What a task does. */
enum stage_what {
  STAGE_NOTHING,
  STAGE_STICK, /* holds up its worker until stage_release; in a run only */
  STAGE_AWAIT, /* waits for the container's event */
  STAGE_SET,   /* sets it */
  STAGE_LOCK   /* locks the container's mutex, yields, unlocks */
};
#define STAGE_DO(X, T) X(T, IN, u32, what) X(T, OUT, u32, runs)
CHI_TASK(stage_do, 10, STAGE_DO)
#define STAGE_POOL ((chi_pool_id){300, 0})
#define STAGE_PARALLEL ((chi_pool_id){301, 0})

/* Brings the node up, with a client that has `queues` queues, then calls `more`, which may do
 * anything a client may; NULL: nothing. False, and the test has failed: it didn't get there. */
bool stage_open(uint32_t queues, void (*more)(void));
/* explore.begin of each plan. */
void stage_begin(void *world);
/* explore.killed and explore.dead of each plan. */
void stage_killed(void *world, uint32_t group);
bool stage_dead(const void *p);

/* For begin, after stage_begin: the network worker looks after the others. */
void stage_watch(void);

/* The parties: they begin asleep. */
void stage_fast(void *world);
void stage_fast_2(void *world);
void stage_slow(void *world);
void stage_network(void *world);

struct stage_facts {
  chi_client *client;
  chi_queue *queue[3];
  struct runtime *runtime;
  uint64_t now;
  uint32_t runs; /* of bodies */
  uint32_t released;
  uint32_t hangup; /* the daemon was killed */
};
struct stage_facts *stage_facts(void);

/* For a client's party: a task that does `what`. NULL: the daemon was killed. */
struct stage_do *stage_task(uint32_t queue, chi_pool_id pool, enum stage_what what);
/* For the network worker's party: the node is to stop, with a grace period. */
void stage_stop(void);
/* Lets those go on that stick. */
void stage_release(void);
/* Time passes; workers whose deadline has come are woken. */
void stage_tick(uint64_t ns);
/* Blocks until nobody else can go on. */
void stage_quiet(void);
/* For a client's party: as its own event loop, until the descriptor of the queue is readable. */
void stage_park_client(uint32_t queue);
/* For the network worker's party: gives the fast lane of that queue a home. */
void stage_rehome(uint32_t queue, uint32_t worker);

/* For end: what was accepted has ended, and all sleep who live. */
void stage_check_idle(void);
bool stage_is_awake(uint32_t worker);
uint64_t stage_deadline(uint32_t worker); /* of its last step */
uint32_t stage_daemon_segments(void);     /* that the daemon has open */

#endif
