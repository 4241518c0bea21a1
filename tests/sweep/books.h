/* books.h - what a sweep knows of a run from outside, and holds the nodes to.
 *
 * Every task has a token. Its body tells that it begins, its client how it ended: a body that runs
 * twice, one that runs although it "certainly did not", a success that never ran are failures.
 * Every container has a life, from its creation on, and is a copy of it, which ends where another
 * node goes on with the state: its counter goes up by one at a time, whoever has it, and nothing
 * happens in a copy that has been ended. */
#ifndef BOOKS_H
#define BOOKS_H

#include "base.h"

#include <pthread.h>
#include <stdbool.h>

#define BOOKS_POOLS 64u
#define BOOKS_NODES 8u
#define BOOKS_TASKS (1u << 20) /* most of one run */
#define BOOKS_LIVES (1u << 18)
#define BOOKS_CODES 64

struct books_task {
  uint64_t ran;   /* a bit for each container */
  uint64_t begun; /* by the cluster's clock */
  int32_t rc;
  bool ended;
  bool loose; /* may run more than once */
  bool many;  /* is for several containers */
  bool periodic;
  uint32_t oldest, newest; /* lives that it may run in; 0: any */
};

/* A pool that one client has made, and perhaps destroyed. */
struct books_pool {
  chi_pool_id id;
  char name[32];
  uint32_t node;
  int created, destroyed; /* codes; 1: not asked for */
  bool fought;            /* others want the name, too */
};

/* In memory that processes share: nodes may be some. */
struct books {
  chi_cluster *cluster;
  pthread_mutex_t lock; /* of all that follows */
  bool quiet;  /* nothing goes wrong in this run: everything succeeds, and in time */
  bool loaded; /* bodies use CPU, and hold others up */
  bool gentle; /* nothing but what is to be overcome: everything succeeds */
  bool orderly; /* nobody is cancelled who waits for a lock */
  struct books_task *task;
  uint32_t tasks;
  uint64_t *life; /* the counter of each life */
  uint32_t lives;
  uint8_t *copy; /* 1: it is used; 2: it has ended */
  uint32_t copies;
  bool built[BOOKS_NODES]; /* containers of the pool of all have begun */
  struct books_pool pool[BOOKS_POOLS];
  uint32_t pools;
  uint64_t moves;                 /* containers that have moved */
  uint64_t code[BOOKS_CODES];     /* tasks that ended with -code */
  uint64_t stopping[BOOKS_NODES]; /* when a node was asked to stop, and runs nothing new; 0 */
};

/* The books of this process: methods have no other way to them. */
extern struct books *books_now;

void books_open(struct books *b);
void books_close(struct books *b);
void books_fail(const char *check, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A client is about to submit a task; its token, from 1. */
uint64_t books_submit(bool loose, bool many);
/* Its body begins again and again, and no more once it has ended as it was asked to. */
uint64_t books_submit_periodic(void);
/* It is for a pool whose containers have these lives, and not for one before or after; 0: any. */
void books_lives(uint64_t token, uint32_t oldest, uint32_t newest);
/* Its body begins in that container, of that life, on that node. */
void books_begin(uint64_t token, uint32_t container, uint32_t life, uint32_t node);
bool books_ran(uint64_t token);
/* It has ended, and every container that is asked for must have run if all was well. */
void books_end(uint64_t token, int rc);

/* A container of the pool of all begins: anew only if a node may have been lost. */
void books_build(uint32_t container);
uint32_t books_new_life(void);
/* The counter of a life has got to this value. */
void books_count(uint32_t life, uint64_t value);
uint32_t books_new_copy(void);
/* Something happens in a copy; or it is ended. */
void books_touch(uint32_t copy);
void books_end_copy(uint32_t copy);

/* A place for another pool; NULL: there are enough. */
struct books_pool *books_new_pool(chi_pool_id id, uint32_t node, const char *name);

#endif
