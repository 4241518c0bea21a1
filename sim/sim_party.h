/* sim_party.h - a process in the simulation: the memory, stacks, segments and bells it holds.
 *
 * A node is one, a client another. What a party holds is counted: when it should have given
 * everything back, what it still holds is told; when it dies, all of it is taken. */
#ifndef CHI_SIM_PARTY_H
#define CHI_SIM_PARTY_H

#include "base.h"
#include "env.h"
#include "skew.h"
#include "sim_thread.h"

/* Handles: positions in a table that grows and never uses a position again. */
struct sim_party_table {
  void **item; /* NULL: closed */
  uint32_t count, room;
};

/* Pages that parties share. */
struct sim_party_segment {
  char *base;
  uint64_t size;
  uint32_t refs;
};

/* A bell and its one sleeper, who is there while it sleeps. */
struct sim_party_bell {
  uint32_t refs, number;
  bool rung;
  struct sim_thread *sleeper;
  const struct sim_party *owner; /* of the sleeper */
};

#define SIM_PARTY_FORMER 64u

struct sim_party_block;

struct sim_party {
  struct env env; /* env.self is this party */
  struct sim_world *world;
  const struct skew *clock; /* of its machine; NULL: virtual time itself */
  uint32_t node;                 /* it belongs to */
  uint32_t number;               /* of the client; 0: the node itself */
  struct rng random, timing;
  struct sim_party_block *blocks; /* private memory, newest first */
  struct sim_party_block *former[SIM_PARTY_FORMER]; /* given back last, and not to be touched */
  uint32_t former_next, former_count; /* where the next one goes; how many there are */
  uint64_t former_bytes;
  uint64_t block_count, block_bytes;
  struct sim_party_table stacks, segments, bells, links;
};

/* Fills in memory, stacks, segments, bells, clocks and random of *party's environment. */
CHI_PRIVATE void sim_party_init(struct sim_party *party, struct sim_world *world, uint32_t node,
                                uint32_t number);
/* Takes everything the party holds but its links, which must be closed. */
CHI_PRIVATE void sim_party_fini(struct sim_party *party);
/* Notes a failure for everything it still holds, `when` saying in whose name. */
CHI_PRIVATE void sim_party_check(struct sim_party *party, const char *when);

CHI_INLINE struct sim_party *sim_party_of(struct env *env)
{
  return env->self;
}

/* What its monotonic clock says now; and the virtual time when it will say so. */
CHI_PRIVATE uint64_t sim_party_now(const struct sim_party *party);
CHI_PRIVATE uint64_t sim_party_until(const struct sim_party *party, uint64_t local);

/* Tables. get and take give NULL for a handle that isn't open; take closes it. */
CHI_PRIVATE int64_t sim_party_table_add(struct sim_party_table *table, void *item);
CHI_PRIVATE void *sim_party_table_get(const struct sim_party_table *table, int64_t handle);
CHI_PRIVATE void *sim_party_table_take(struct sim_party_table *table, int64_t handle);
CHI_PRIVATE uint32_t sim_party_table_used(const struct sim_party_table *table);

/* References that are on their way between parties. */
CHI_PRIVATE struct sim_party_segment *sim_party_segment_get(struct sim_party *party,
                                                            int64_t handle);
CHI_PRIVATE void sim_party_segment_drop(struct sim_party_segment *segment);
CHI_PRIVATE void sim_party_segment_give(struct sim_party *party, struct sim_party_segment *segment,
                                        struct env_segment *out);
CHI_PRIVATE struct sim_party_bell *sim_party_bell_get(struct sim_party *party, env_bell handle);
CHI_PRIVATE void sim_party_bell_drop(struct sim_party_bell *bell);

/* Of the running thread of the party: parks until the bell is rung, until then, or until somebody
 * wakes the thread. True: it was rung; the ring is consumed. */
CHI_PRIVATE bool sim_party_bell_wait(struct sim_party *party, env_bell handle, uint64_t until);
/* Whether somebody sleeps there, and it has not been rung. */
CHI_PRIVATE bool sim_party_bell_sleeps(const struct sim_party *party, env_bell handle);

#endif
