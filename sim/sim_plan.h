/* sim_plan.h - what goes wrong with nodes and their network, and when, as data.
 *
 * A plan is a list of entries in order of time: generated from a seed, printed, parsed, edited,
 * replayed (sim_schedule). Removing an entry changes no other. Times count from the start of the
 * simulation, whose clock then says SIM_WORLD_START. */
#ifndef CHI_SIM_PLAN_H
#define CHI_SIM_PLAN_H

#include "base.h"
#include "env.h"

#define SIM_PLAN_ENTRIES 65536u /* most of one plan */

#define SIM_PLAN_PER_KIND 64u /* most faults of one kind that are generated */
#define SIM_PLAN_NODES 4096u  /* nodes are numbered below */
#define SIM_PLAN_HOUR INT64_C(3600000000000)

/* Kind, name as printed, whether it uses the fields a and b, from where to where its value goes (it
 * uses none if both are 0). a and b are nodes unless said otherwise; of the network, the way from a
 * to b and not that back. */
#define SIM_PLAN_KINDS(X)                                                                          \
  /* Nothing gets from a to b; the connection may be noticed to be dead. JOIN ends it. */          \
  X(CUT, "cut", 1, 1, 0, 0)                                                                        \
  X(JOIN, "join", 1, 1, 0, 0)                                                                      \
  /* Nothing gets to or from a. */                                                                 \
  X(ISOLATE, "isolate", 1, 0, 0, 0)                                                                \
  X(REJOIN, "rejoin", 1, 0, 0, 0)                                                                  \
  /* Nodes a to b are cut off from all others; or those whose bits are set: "split 0" ends both */ \
  X(PARTITION, "partition", 1, 1, 0, 0)                                                            \
  X(SPLIT, "split", 0, 0, 0, INT64_MAX)                                                            \
  /* Ends all of the above, and CLOG, SLOW, FULL, LOSE, SNAP. */                                   \
  X(HEAL, "heal", 0, 0, 0, 0)                                                                      \
  /* Messages take value ns longer; 0 ends it. */                                                  \
  X(CLOG, "clog", 1, 1, 0, SIM_PLAN_HOUR)                                                          \
  /* Latency and time per byte are value percent of the usual; 100 ends it. */                     \
  X(SLOW, "slow", 1, 1, 1, 1000000)                                                                \
  /* 1: the queue of the connection has no room; 0 ends it. */                                     \
  X(FULL, "full", 1, 1, 0, 1)                                                                      \
  /* The connection breaks, and a hears of it; or doesn't hear of it for a while. */               \
  X(DROP, "drop", 1, 1, 0, 0)                                                                      \
  X(HALF, "half", 1, 1, 0, 0)                                                                      \
  /* The value-th message from now is lost, and nobody hears; or the connection breaks with it. */ \
  X(LOSE, "lose", 1, 1, 0, INT32_MAX)                                                              \
  X(SNAP, "snap", 1, 1, 0, INT32_MAX)                                                              \
  /* The node's threads stand still; its network doesn't. RESUME ends it. */                       \
  X(PAUSE, "pause", 1, 0, 0, 0)                                                                    \
  X(RESUME, "resume", 1, 0, 0, 0)                                                                  \
  /* Power is lost; or the process is killed; or asked to stop, with value ms of grace. */         \
  X(CRASH, "crash", 1, 0, 0, 0)                                                                    \
  X(KILL, "kill", 1, 0, 0, 0)                                                                      \
  X(STOP, "stop", 1, 0, 0, INT32_MAX)                                                              \
  /* Starts, or starts again, as it was prepared or began last. */                                 \
  X(START, "start", 1, 0, 0, 0)                                                                    \
  /* Its clocks gain value ppm (0 ends it); or jump by value ns, the monotonic one only ahead. */  \
  X(DRIFT, "drift", 1, 0, -100000, 100000)                                                         \
  X(JUMP, "jump", 1, 0, -SIM_PLAN_HOUR, SIM_PLAN_HOUR)                                             \
  /* The next operation b (enum env_io_op, * any) on its files fails with CHI_EIO, CHI_ENOSPC for  \
   * value 1, or is late by value ns. */                                                           \
  X(DISK, "disk", 1, 1, 0, 1)                                                                      \
  X(DELAY, "delay", 1, 1, 1, SIM_PLAN_HOUR)                                                        \
  /* So many of a million askings for memory, anywhere, are refused; 0 ends it. */                 \
  X(MEMORY, "memory", 0, 0, 0, 1000000)                                                            \
  /* Ends everything that lasts, and starts the nodes that plans have crashed, killed, stopped. */ \
  X(CALM, "calm", 0, 0, 0, 0)

enum sim_plan_kind {
#define SIM_PLAN_ENUM(name, text, a, b, low, high) SIM_PLAN_##name,
  SIM_PLAN_KINDS(SIM_PLAN_ENUM)
#undef SIM_PLAN_ENUM
      SIM_PLAN_KIND_COUNT
};

#define SIM_PLAN_ANY UINT32_MAX /* "*" where b is an operation */

struct sim_plan_entry {
  uint64_t time; /* ns from the start */
  enum sim_plan_kind kind;
  uint32_t a, b; /* 0 where they have no meaning */
  int64_t value;
};

/* All zero is the empty plan. */
struct sim_plan {
  struct sim_plan_entry *entry; /* by time, those of one time in the order of adding */
  uint32_t count, room;
};

/* What a generated plan keeps to. */
struct sim_plan_limits {
  uint32_t nodes;
  uint64_t from, until; /* nothing goes wrong before and after; at `until` an entry CALM */
  uint64_t outage_ns;   /* longest that one fault lasts */
  uint32_t per_kind;    /* most faults of one kind, up to SIM_PLAN_PER_KIND */
  uint32_t down;        /* most nodes crashed, killed, stopped, paused, isolated at a time */
  uint64_t kinds;       /* bits 1 << enum sim_plan_kind that may be drawn; 0: all but MEMORY */
  bool swarm;           /* leaves out about half of them, as drawn */
};

/* Whether its fields are in range. */
CHI_PRIVATE CHI_UNUSED bool sim_plan_valid(const struct sim_plan_entry *entry);
/* CHI_OK; CHI_EINVAL: a field is out of range; CHI_ETOOBIG: SIM_PLAN_ENTRIES; CHI_ENOMEM. */
CHI_PRIVATE CHI_UNUSED int sim_plan_add(struct sim_plan *plan, const struct sim_plan_entry *entry);
CHI_PRIVATE CHI_UNUSED void sim_plan_remove(struct sim_plan *plan, uint32_t index);
CHI_PRIVATE CHI_UNUSED int sim_plan_copy(struct sim_plan *to, const struct sim_plan *from);
CHI_PRIVATE CHI_UNUSED void sim_plan_free(struct sim_plan *plan);

/* Sensible limits for so many nodes and such a time. */
CHI_PRIVATE CHI_UNUSED void sim_plan_limits(struct sim_plan_limits *limits, uint32_t nodes,
                                            uint64_t from, uint64_t until);
/* Adds what is drawn for that seed. Each fault has a stream of its own: taking a kind away changes
 * nothing about the others, but that more nodes may be down at a time. As sim_plan_add. */
CHI_PRIVATE CHI_UNUSED int sim_plan_generate(struct sim_plan *plan, uint64_t seed,
                                             const struct sim_plan_limits *limits);

/* "cut"; the kind of that name, or -1. */
CHI_PRIVATE CHI_UNUSED const char *sim_plan_name(enum sim_plan_kind kind);
CHI_PRIVATE CHI_UNUSED int sim_plan_kind(const char *name);

/* One line, "SECONDS.NANOSECONDS KIND [A [B]] [VALUE]", with what the kind uses; parsing the lines
 * gives an equal plan. `size` of 96 is enough for one. */
CHI_PRIVATE CHI_UNUSED void sim_plan_line(const struct sim_plan_entry *entry, char *buf,
                                          size_t size);
CHI_PRIVATE CHI_UNUSED void sim_plan_print(const struct sim_plan *plan, chi_put_fn *put, void *arg);
/* Adds the entries of such lines, in any order; empty lines and what follows a # are skipped.
 * After an error *err says "LINE:COLUMN: what is wrong", and what came before was added. */
CHI_PRIVATE CHI_UNUSED int sim_plan_parse(struct sim_plan *plan, const char *text, chi_error *err);

#endif
