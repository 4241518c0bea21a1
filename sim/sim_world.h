/* sim_world.h - virtual time: events in order of their time, and what all of them share.
 *
 * Time only moves from event to event. Among those of one time the order is drawn. */
#ifndef CHI_SIM_WORLD_H
#define CHI_SIM_WORLD_H

#include "base.h"
#include "fiber.h"
#include "heap.h"
#include "rng.h"
#include "sim_fault.h"
#include "sim_profile.h"
#include "sim_trace.h"

#define SIM_WORLD_START UINT64_C(1000000000) /* time at the beginning, ns */
#define SIM_WORLD_NEVER UINT64_MAX

/* How often, in a million, what may happen for no reason does: a sleeper wakes for nothing, an
 * operation finds no room though there is some, a transfer does less than asked. */
#ifdef CHI_HOSTILE
#define SIM_WORLD_WHIM_PPM 300000u
#else
#define SIM_WORLD_WHIM_PPM 20000u
#endif

/* Purposes of random streams, each keyed by (seed, node, purpose). */
enum sim_world_purpose {
  SIM_WORLD_STREAM_ORDER = 1, /* of simultaneous events */
  SIM_WORLD_STREAM_FAULT,
  SIM_WORLD_STREAM_RANDOM,       /* what the core draws */
  SIM_WORLD_STREAM_CPU,          /* how long steps take */
  SIM_WORLD_STREAM_IO,           /* how files behave */
  SIM_WORLD_STREAM_LINK,         /* how long messages take, spurious wake-ups */
  SIM_WORLD_STREAM_CLIENT = 1000 /* and the client's number on top */
};

/* Something that happens at a time; embedded in what it happens to, zeroed before its first use. */
struct sim_world_event {
  struct heap_entry entry;
  void (*run)(struct sim_world_event *event);
};

/* What must not happen. */
enum sim_world_failure {
  SIM_WORLD_LEAK,     /* something is not given back, or used afterwards */
  SIM_WORLD_FORGOTTEN /* a worker sleeps while there is work for it */
};

struct sim_world {
  uint64_t seed, now;
  uint64_t sequence;
  struct heap heap; /* of sim_world_event */
  struct alloc alloc;
  struct rng order;
  struct fiber host; /* the real thread, while a simulated one runs */
  struct sim_thread *running;
  uint32_t thread_count, bell_count; /* so far: they number them */
  uint32_t party_count;              /* now */
  struct sim_trace trace;
  struct sim_fault fault;
  struct sim_profile profile;
  char failure[400]; /* the first thing that must not happen; empty: none */
  enum sim_world_failure failed; /* of which kind it is */
};

CHI_PRIVATE void sim_world_init(struct sim_world *world, uint64_t seed);
CHI_PRIVATE void sim_world_fini(struct sim_world *world);

/* Memory of the simulation's own, zeroed; ends the program if there is none. Freed by free(). */
CHI_PRIVATE void *sim_world_new(size_t size);
/* Begins a stream. */
CHI_PRIVATE void sim_world_stream(const struct sim_world *world, struct rng *rng, uint32_t node,
                                  uint64_t purpose);
/* One event for hash and transcript, at the present time. */
CHI_PRIVATE void sim_world_trace(struct sim_world *world, uint32_t node, int kind, uint64_t a,
                                 uint64_t b, uint64_t c, const char *text);
/* Notes what must not happen; the first stays. It also reaches the transcript. */
CHI_PRIVATE void sim_world_fail(struct sim_world *world, uint32_t node,
                                enum sim_world_failure what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Lets the event happen at that time (not before now), instead of when it was going to. */
CHI_PRIVATE void sim_world_at(struct sim_world *world, struct sim_world_event *event,
                              uint64_t time);
CHI_PRIVATE void sim_world_cancel(struct sim_world *world, struct sim_world_event *event);
/* Runs the next event if it is due at limit or before: true. Else time moves to the limit. Not
 * from a simulated thread. */
CHI_PRIVATE bool sim_world_next(struct sim_world *world, uint64_t limit);

/* A time of about `ns`: up to a quarter more, as drawn. */
CHI_PRIVATE uint64_t sim_world_about(struct rng *rng, uint64_t ns);

#endif
