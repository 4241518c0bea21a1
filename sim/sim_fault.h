/* sim_fault.h - what goes wrong in a simulation, and when: memory, shared memory, files. */
#ifndef CHI_SIM_FAULT_H
#define CHI_SIM_FAULT_H

#include "base.h"
#include "env.h"
#include "rng.h"

/* What may be refused for want of memory, as a set. */
enum sim_fault_memory {
  SIM_FAULT_ALLOC = 1,   /* private memory */
  SIM_FAULT_STACK = 2,   /* of a fiber */
  SIM_FAULT_SEGMENT = 4, /* shared memory, opened or populated again */
  SIM_FAULT_BELL = 8,
  SIM_FAULT_ANY = 15
};

/* What is counted, and its name. */
#define SIM_FAULT_COUNTS(X)                                                                        \
  X(REFUSED_ALLOC, "private memory refused")                                                       \
  X(REFUSED_STACK, "stack refused")                                                                \
  X(REFUSED_SEGMENT, "shared memory refused")                                                      \
  X(REFUSED_BELL, "bell refused")                                                                  \
  X(IO_FAILED, "file operation failed")                                                            \
  X(IO_SHORT, "transfer cut short")                                                                \
  X(IO_LATE, "file operation delayed")

enum sim_fault_count {
#define SIM_FAULT_ENUM(name, text) SIM_FAULT_##name,
  SIM_FAULT_COUNTS(SIM_FAULT_ENUM)
#undef SIM_FAULT_ENUM
      SIM_FAULT_COUNT
};

#define SIM_FAULT_ANYWHERE UINT32_MAX /* every node, every operation */
#define SIM_FAULT_RULES 16

/* Something wrong with files. Of the operations that fit, the first `after` are left alone, then
 * `times` are hit (0: all). A hit delays by delay_ns and then: a result below 0 fails it, of a
 * write some part may have happened, of a sync the changes may be gone; else a limit above 0 lets
 * it transfer that much at most. */
struct sim_fault_io {
  uint32_t node;    /* or SIM_FAULT_ANYWHERE */
  uint32_t op;      /* enum env_io_op, or SIM_FAULT_ANYWHERE */
  const char *path; /* part of the file's path; NULL: any. The caller's, while the rule lives */
  uint64_t after, times;
  int64_t result;
  uint64_t limit, delay_ns;
  uint64_t fits; /* how often it fitted so far: set by the simulation */
};

struct sim_fault {
  struct rng rng;
  uint64_t asked;       /* times that memory of `kinds` was asked for, since this was last set */
  uint64_t fail_at;     /* the asking that fails, once; 0: none */
  uint32_t per_million; /* of askings that fail */
  uint32_t kinds;       /* a set of enum sim_fault_memory; 0: none are counted */
  uint64_t injected;    /* faults so far */
  uint64_t count[SIM_FAULT_COUNT];
  struct sim_fault_io rules[SIM_FAULT_RULES];
  uint32_t rule_count;
};

/* Counts askings for memory of these kinds from now on, by anybody, and fails the one with this
 * number (from 1; 0: none), or per_million of them at random, or both. */
CHI_PRIVATE CHI_UNUSED void sim_fault_memory(struct sim_fault *fault, uint32_t kinds,
                                             uint64_t fail_at, uint32_t per_million);
/* Adds a rule (a copy) and returns it; at most SIM_FAULT_RULES, of which those that will never hit
 * again make room when there is none. */
CHI_PRIVATE CHI_UNUSED struct sim_fault_io *sim_fault_add(struct sim_fault *fault,
                                                          const struct sim_fault_io *rule);
/* Whether there is room for one more. */
CHI_PRIVATE CHI_UNUSED bool sim_fault_room(const struct sim_fault *fault);
CHI_PRIVATE CHI_UNUSED const char *sim_fault_name(enum sim_fault_count count);
/* From now on nothing goes wrong. */
CHI_PRIVATE CHI_UNUSED void sim_fault_clear(struct sim_fault *fault);

/* Asked by the environment: whether this asking for memory fails. */
CHI_PRIVATE bool sim_fault_hits(struct sim_fault *fault, enum sim_fault_memory kind);
/* Asked by the environment: the rule that hits this operation, or NULL. */
CHI_PRIVATE const struct sim_fault_io *sim_fault_hits_io(struct sim_fault *fault, uint32_t node,
                                                         int op, const char *path);

#endif
