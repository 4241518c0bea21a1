/* run.h - one run of a sweep: what is drawn for a seed, and what came of it. */
#ifndef RUN_H
#define RUN_H

#include "actors.h"
#include "sim_check.h"
#include "sim_plan.h"

/* All that a run follows from. */
struct run_case {
  uint64_t seed;
  uint32_t nodes, neighborhood, acts;
  uint32_t kinds; /* of clients: bits 1 << enum actor_kind */
  bool quiet, gentle, loaded, device, coda, leave, rift, rebirth, feud, nap, gate, ghost,
      limbo;
  bool real; /* on processes of this machine */
  struct sim_plan plan;
};

struct run_result {
  bool ended;
  char check[64], text[400]; /* the check that failed; empty: none */
  uint64_t time, events, hash;
  uint64_t fault[CHI_FAULT_KINDS], net[SIM_CHECK_NET], code[SIM_CHECK_CODES];
  uint64_t submitted, moves, pools;
};

void run_draw(struct run_case *c, uint64_t seed);
/* For processes of this machine. */
void run_make_real(struct run_case *c);
void run_free(struct run_case *c);
/* story: where its lines go; may be NULL. */
void run_do(const struct run_case *c, struct run_result *r, chi_put_fn *story, void *arg);
/* Faults of a plan, without the entries that end them. */
uint32_t run_faults(const struct sim_plan *plan);

#endif
