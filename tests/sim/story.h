/* story.h - what the stories in simulation share: a node, a module to play with, the transcript. */
#ifndef STORY_H
#define STORY_H

#include "sim.h"
#include "test.h"
#include "transcript.h"

/* The pool of the module below, on every node of a story. */
#define STORY_POOL ((chi_pool_id){300, 0})
#define STORY_SECOND UINT64_C(1000000000)
#define STORY_MS UINT64_C(1000000)
#define STORY_US UINT64_C(1000)

#define STORY_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(story_add, 10, STORY_ADD)
/* Uses that much CPU in one go. */
#define STORY_WORK(X, T) X(T, IN, u64, ns)
CHI_TASK(story_work, 11, STORY_WORK)
/* Sleeps; wakes early if it is cancelled, and returns why. */
#define STORY_SLEEP(X, T) X(T, IN, u64, ns)
CHI_TASK(story_sleep, 12, STORY_SLEEP)
/* Sleeps in short pieces and never looks whether it is cancelled; counts them. */
#define STORY_DEAF(X, T) X(T, IN, u64, pieces) X(T, OUT, u64, done)
CHI_TASK(story_deaf, 13, STORY_DEAF)
/* Locks the mutex, sleeps, unlocks; in which place it came. With depth it calls itself inside. */
#define STORY_LOCK(X, T) X(T, IN, u64, ns) X(T, IN, u64, depth) X(T, OUT, u64, place)
CHI_TASK(story_lock, 14, STORY_LOCK)
/* Reads or writes under the rwlock; how many were inside with it at most. */
#define STORY_SHARE(X, T) X(T, IN, u64, ns) X(T, IN, bool, write) X(T, OUT, u64, inside)
CHI_TASK(story_share, 15, STORY_SHARE)
/* Waits for the event, or sets it. */
#define STORY_EVENT(X, T) X(T, IN, bool, set) X(T, IN, u64, timeout_ns)
CHI_TASK(story_event, 16, STORY_EVENT)
/* Counts how often it ran in this life of the container. */
#define STORY_TICK(X, T) X(T, OUT, u64, ticks)
CHI_TASK(story_tick, 17, STORY_TICK)
/* Calls `count` subtasks that sleep, waits for all, and adds up. */
#define STORY_FAN(X, T) X(T, IN, u64, count) X(T, IN, u64, ns) X(T, OUT, u64, sum)
CHI_TASK(story_fan, 18, STORY_FAN)
/* Writes a line to a file and makes it durable; or reads it. */
#define STORY_FILE(X, T) X(T, IN, bool, write) X(T, INOUT, str, text, 64) X(T, OUT, i64, bytes)
CHI_TASK(story_file, 19, STORY_FILE)
/* Copies one buffer to another, changing every byte. */
#define STORY_BULK(X, T) X(T, IN, bulk, from) X(T, OUT, bulk, to)
CHI_TASK(story_bulk, 20, STORY_BULK)
/* Returns the code it is told to. */
#define STORY_CODE(X, T) X(T, IN, i32, code)
CHI_TASK(story_code, 21, STORY_CODE)
/* Starts a story_bulk that is forgotten, on its own buffers from `skip` on or, with `own` set, on
 * nobody's; the code of its submission. */
#define STORY_HAND(X, T)                                                                           \
  X(T, IN, bulk, from) X(T, OUT, bulk, to) X(T, IN, u64, skip) X(T, IN, bool, own)
CHI_TASK(story_hand, 22, STORY_HAND)

extern const chi_module story_module;

/* How many seeds to try: `usual`, or what the environment says in STORY_SEEDS. With STORY set, the
 * transcript goes to standard error; with STORY_HASH set, each story's hash to standard output. */
uint64_t story_seeds(uint64_t usual);
/* Whether it is told with all of them, so that what is rare must have happened. */
bool story_is_whole(uint64_t usual);

/* One simulation with node 0 in it, which has the pool. All begin and end like this:
 *   struct story s;
 *   CHECK_STR(story_begin(&s, seed), "");
 *   ... CHECK_STR(story_end(&s), ""); */
struct story {
  struct sim *sim;
  uint64_t seed;
  chi_config config;
  const chi_module *modules[1];
  chi_error error;
  struct transcript transcript; /* all of it so far */
  uint64_t hash; /* at the end */
  int told;      /* bodies that got to their end count here */
};

/* Opens the simulation, and a configuration with the pool, but starts nothing. */
void story_open(struct story *s, uint64_t seed);
/* And starts node 0. The empty text, or what went wrong. */
const char *story_begin(struct story *s, uint64_t seed);
/* Starts node 0 again. */
int story_start(struct story *s);
/* Stops node 0 if it runs, and closes everything. The empty text, or what must not have happened.
 */
const char *story_end(struct story *s);
/* Closes everything without looking. */
void story_close(struct story *s);
/* Inside a client's body: attaches and opens a queue; the code of what failed. */
int story_attach(struct sim_client *c, chi_client **client, chi_queue **queue);
/* A task of the module for its pool. NULL: no memory. */
void *story_task(chi_queue *queue, const chi_type *type);
#define STORY_NEW(queue, type) ((struct type *)story_task((queue), &type##_type))

/* Whether the transcript of *s has these texts, in this order; NULL ends. */
#define story_tells(s, ...) transcript_tells(&(s)->transcript, __VA_ARGS__)
/* The simulation that methods of the module use CPU of, from story_open to story_close; NULL: they
 * use that of town_cluster. */
extern struct sim *story_sim;

#endif
