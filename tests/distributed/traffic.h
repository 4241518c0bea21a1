/* traffic.h - a client program that uses a cluster in every way: parts of it, one file each.
 *
 * It knows the public header only. What a part finds it says in one line on standard output; what
 * is wrong, on standard error, and then it ends with 1. */
#ifndef CHI_TEST_TRAFFIC_H
#define CHI_TEST_TRAFFIC_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "courier.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#define TRAFFIC_MS UINT64_C(1000000)
#define TRAFFIC_SECOND UINT64_C(1000000000)
#define TRAFFIC_LIMIT (60 * TRAFFIC_SECOND) /* no task of a cluster that is well takes so long */

/* What the command line says, NAME=VALUE each. */
struct traffic_options {
  uint32_t nodes;         /* of the cluster */
  uint32_t window, rate;  /* tasks in flight; begun in a second, 0: as many as there can be */
  uint64_t client, seed;  /* who this is, in ledger and journal */
  uint64_t size;          /* the largest bulk */
  uint64_t seconds;       /* for how long, at most */
  const char *journal;    /* file, or the directory of all that are judged */
  const char *ledger;     /* directory */
  const char *stop;       /* a file: when it is there, a load begins nothing new */
  const char *address;    /* of a node */
  const char *codes;      /* those that may come, "OK,EUNKNOWN,ESHUTDOWN!"; !: not if it ran */
};

/* The connection to the daemon of this host, which is node `self`. */
struct traffic {
  const struct traffic_options *o;
  chi_client *client;
  chi_queue *queue;
  uint32_t self;
};

static inline uint64_t traffic_now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * TRAFFIC_SECOND + (uint64_t)t.tv_nsec;
}

static inline void traffic_pause(uint64_t ns)
{
  struct timespec t = {(time_t)(ns / TRAFFIC_SECOND), (long)(ns % TRAFFIC_SECOND)};
  nanosleep(&t, NULL);
}

/* Says what is wrong; returns 1. */
int traffic_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A task for the pool of the courier; NULL: no memory, which it has said. */
void *traffic_task(struct traffic *t, const chi_type *type, chi_query query);
#define TRAFFIC_NEW(t, type, ...)                                                                  \
  ((struct type *)traffic_task((t), &type##_type, (chi_query){__VA_ARGS__}))
/* Submits it and waits, for no longer than TRAFFIC_LIMIT. */
int traffic_run(struct traffic *t, void *task);

int traffic_queries(struct traffic *t); /* every kind of query, to every node */
int traffic_bulk(struct traffic *t);    /* buffers of all sizes to and from the next node */
int traffic_speed(struct traffic *t);   /* latency and throughput to every other node */
int traffic_load(struct traffic *t);    /* tasks of all kinds, written down one by one */
int traffic_judge(const struct traffic_options *o); /* journals beside ledgers */
int traffic_crowd(const struct traffic_options *o); /* strangers at a node's port */

/* A task of a load, in its journal: a file of them that is mapped, so that it outlives a kill. */
enum traffic_state { TRAFFIC_NONE, TRAFFIC_SUBMITTED, TRAFFIC_COMPLETED };
struct traffic_entry {
  uint64_t client, seq; /* the task is the seq-th entry, from 0 */
  uint64_t containers;  /* for which it is; 0: it leaves nothing in a ledger */
  int32_t rc;           /* of one that has completed */
  uint32_t state;       /* enum traffic_state */
  uint64_t took_ns;
};

#endif
