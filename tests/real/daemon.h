/* daemon.h - for tests with real processes: daemons of one's own, figures of them, clients. */
#ifndef CHI_TEST_DAEMON_H
#define CHI_TEST_DAEMON_H

#include "scratch.h"

#include <time.h>

#define SECOND_NS UINT64_C(1000000000)
#define MS_NS UINT64_C(1000000)
/* A sanitizer keeps freed memory for a while, and is slow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif
#ifdef TEST_SANITIZED
#define RSS_SLACK (UINT64_C(1) << 40)
#define SLOW 10
#else
#define RSS_SLACK UINT64_C(0)
#define SLOW 1
#endif
#define SOON (2 * SLOW * SECOND_NS)       /* what happens at once, on a busy machine */
#define TEST_POOL ((chi_pool_id){300, 0}) /* where tests put the pool they work on */

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t now_ns(void);
void pause_ns(uint64_t ns);
/* True as soon as the condition holds; false if it doesn't within so many milliseconds. */
#define EVENTUALLY(ms, cond)                                                                       \
  __extension__({                                                                                  \
    uint64_t test_end = now_ns() + (ms)*MS_NS;                                                     \
    bool test_held = (cond);                                                                       \
    while (!test_held && now_ns() < test_end) {                                                    \
      pause_ns(2 * MS_NS);                                                                         \
      test_held = (cond);                                                                          \
    }                                                                                              \
    test_held;                                                                                     \
  })

/* ---- daemons --------------------------------------------------------------------------------- */

/* A daemon as it ships, with a directory, a configuration and a name of its own. */
struct daemon {
  pid_t pid; /* 0: none runs */
  int out;   /* what it says on standard output and error; -1: none */
  char dir[64], config[96], log[96];
  char instance[96]; /* NAME:PORT */
  char said[4096];
};

/* Writes the configuration: the YAML given (may be NULL) and, where it has no such section, small
 * budgets of memory and two fast and two slow workers. */
bool daemon_make(struct daemon *d, const char *yaml);
/* Starts it and waits until it serves. The empty text, or what it said instead. */
const char *daemon_start(struct daemon *d);
/* Starts it without waiting. */
bool daemon_spawn(struct daemon *d);
/* Its exit status, 256 + the signal that ended it, or -1 if it goes on after so long. Reads what it
 * says into d->said. */
int daemon_wait(struct daemon *d, uint64_t ms);
void daemon_kill(struct daemon *d); /* as kill -9, and waits */
int daemon_stop(struct daemon *d);  /* as SIGTERM, and waits: see daemon_wait */
/* Stops it by SIGSTOP, and waits until none of its threads runs. SIGCONT makes it go on. */
bool daemon_freeze(const struct daemon *d);
/* Kills it if it runs, and removes its files. */
void daemon_free(struct daemon *d);
/* How often a text is in its log. */
uint32_t daemon_logged(const struct daemon *d, const char *text);
/* Directory of the test modules. */
const char *daemon_modules(void);

/* ---- clients --------------------------------------------------------------------------------- */

struct seat {
  chi_client *client;
  chi_queue *queue;
};
/* Attaches and opens a queue: CHI_OK, or the code of what failed. */
int seat_open(struct seat *s, const char *instance);
void seat_close(struct seat *s);
/* A task for TEST_POOL; NULL: no memory. */
void *seat_task(struct seat *s, const chi_type *type);
#define SEAT_NEW(seat, type) ((struct type *)seat_task((seat), &type##_type))
/* Creates TEST_POOL with a module and at most one parameter (NULL: none). */
int seat_pool(struct seat *s, const char *module, const char *name, const char *value);

/* ---- figures --------------------------------------------------------------------------------- */

struct figures {
  uint64_t main_used, data_used, runtime_used;
  uint64_t clients, queues, in_flight, stacks, queued, blocked;
  uint64_t submitted, completed, refused;
  /* of the process */
  uint64_t descriptors, threads, rss, cpu_ns;
};
/* Asks the daemon. CHI_OK or a code. */
int figures_ask(struct seat *s, struct figures *f);
/* Asks once this client is alone: the daemon is its own first one, for a moment. */
int figures_begin(struct seat *s, struct figures *f);
/* Reads what the system knows of a process. */
bool figures_of_process(pid_t pid, struct figures *f);
/* Waits up to so long until the daemon holds exactly what it held before; the empty text, or what
 * it still holds. stacks may be more: they are kept for the next burst. */
const char *figures_return(struct seat *s, const struct figures *before, uint64_t ms);
/* Text of the last answer; valid until the next. */
const char *figures_json(void);

#endif
