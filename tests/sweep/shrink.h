/* shrink.h - makes a run that fails smaller while the same check fails. */
#ifndef SHRINK_H
#define SHRINK_H

#include "run.h"

/* Does a run in a process of its own; whatever ends that is a failed check, too: "assertion" with
 * its text, or the name of a signal. */
void shrink_try(const struct run_case *c, struct run_result *r);
/* Takes away faults, nodes, clients and phases, for so many seconds at most. Returns how many runs
 * that took; *r is of the last that failed. */
uint32_t shrink_case(struct run_case *c, struct run_result *r, uint32_t seconds);

/* Starts a run in a process of its own whose result will be in *shared, memory that processes have
 * in common; its number. `log`: a file for what it says. */
int shrink_start(const struct run_case *c, struct run_result *shared, int log);
/* That process has ended so: completes the result. */
void shrink_ended(struct run_result *shared, int status, int log);

#endif
