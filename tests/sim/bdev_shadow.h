/* bdev_shadow.h - what a block device owes its clients: a model beside it, and clients that check.
 *
 * The model knows for every unit of 4 KiB who owns it, and for every cell of 64 bytes what may
 * stand in it: every cell holds eight times the tag of one write. Actors are clients that allocate,
 * write, read, free and sync at random and tell the model before and after each call. After a
 * crash, shadow_recover compares all of it with what is there. Whatever is wrong ends in
 * shadow->wrong. */
#ifndef CHI_BDEV_SHADOW_H
#define CHI_BDEV_SHADOW_H

#include "chimaera.h"
#include "rng.h"

#include <stdbool.h>

#define SHADOW_UNIT 4096u
#define SHADOW_CELL 64u
#define SHADOW_ACTORS 8u
#define SHADOW_UNITS_MAX 512u

/* How an actor reaches the device. */
struct shadow_port {
  chi_queue *queue; /* without memory for a task, or with CHI_ESHUTDOWN of one, the actor ends */
  int (*run)(void *arg, chi_queue *queue, void *task); /* NULL: chi_run */
  void *arg;
};

enum shadow_state { SHADOW_FREE, SHADOW_OWNED, SHADOW_FREEING, SHADOW_SHARED };

struct shadow_unit {
  uint8_t state, owner;
  bool free_durable; /* free, and a sync has confirmed it */
  uint64_t freed;    /* when its free was acknowledged; 0: never */
};

struct shadow_value {
  uint64_t tag, begun, acked; /* acked 0: it was not, or failed */
};

struct shadow_cell {
  struct shadow_value *value; /* oldest first */
  uint32_t count, room;
};

struct shadow {
  struct rng rng;
  uint32_t units, actors;
  struct shadow_unit unit[SHADOW_UNITS_MAX];
  struct shadow_cell cell[SHADOW_UNITS_MAX * (SHADOW_UNIT / SHADOW_CELL)];
  uint64_t clock, tags;
  uint32_t allocating; /* allocations under way, or that failed, since the last recovery */
  uint32_t shared;     /* a unit that all actors write to, each its own cells; else `units` */
  bool stop;           /* actors end after their call */
  bool lenient;        /* calls may fail */
  bool bursts;         /* actors free much at once, too, and much is read at once */
  bool doubtful;       /* a sync has failed: of what was written nobody knows what is durable */
  uint64_t calls, failed_calls, crashes, leaked;
  uint64_t by_code[64]; /* failed calls, by -rc */
  char wrong[200];      /* the first thing that must not be; empty: nothing */
};

/* A device of units * 4 KiB where nothing is allocated. */
struct shadow *shadow_open(uint64_t seed, uint32_t units, uint32_t actors);
void shadow_close(struct shadow *s);

/* Allocates the shared unit. Returns what the call did. */
int shadow_share(struct shadow *s, const struct shadow_port *port, chi_pool_id pool);
/* Works until told to stop or something is wrong, `calls` calls at most. */
void shadow_act(struct shadow *s, const struct shadow_port *port, chi_pool_id pool, uint32_t actor,
                uint64_t calls);
/* After a crash, a kill or an orderly restart (clean), when nothing else runs: compares, and takes
 * what was not decided as it is found. */
void shadow_recover(struct shadow *s, const struct shadow_port *port, chi_pool_id pool, bool clean);
/* Compares when nothing is under way: the remaining size, and all content. */
void shadow_verify(struct shadow *s, const struct shadow_port *port, chi_pool_id pool);

void shadow_fail(struct shadow *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
