/* sim_replay.h - a recorded node lives again: the same core, with a tape for a world.
 *
 * Behind the node there is nothing but memory. What it was told is told again, and what it says is
 * compared with what it said then; the first difference ends it. */
#ifndef CHI_SIM_REPLAY_H
#define CHI_SIM_REPLAY_H

#include "base.h"
#include "record.h"

struct sim_replay_options {
  struct tape_store store;
  const chi_module *const *modules; /* that the node may have had linked in */
  uint32_t module_count;
  /* Finds any other module by its name; NULL: there are none. */
  int (*load)(void *arg, const char *name, const chi_module **out, chi_error *err);
  /* Each line of the node's log; may be NULL. */
  void (*log)(void *arg, int level, const char *line);
  void *arg;
};

struct sim_replay_report {
  enum tape_end end;
  chi_error why; /* unless it is complete */
  char instance[CHI_NAME_MAX + 16];
  uint64_t items, hash; /* of what was replayed */
};

/* Replays a record from its beginning. The report's end is never TAPE_GOES_ON. */
CHI_PRIVATE CHI_UNUSED void sim_replay_run(const struct sim_replay_options *options,
                                           struct sim_replay_report *report);

#endif
