/* real_fault.h - what goes wrong inside a node on this host, for tests that forked it: its clocks,
 * its memory, its files, and what it sends.
 *
 * Whoever forked it tells by way of memory that both processes have. In the node, operations of the
 * seam stand behind others that forward, unless something is to go wrong. */
#ifndef CHI_REAL_FAULT_H
#define CHI_REAL_FAULT_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

#define REAL_FAULT_NODES 250u                   /* of a cluster, at most */
#define REAL_FAULT_ANY ((uint32_t)ENV_IO_SPACE + 1) /* any operation on files */

/* Of one node; zero: nothing is wrong. All is atomic: one tells, and the node's threads look. */
struct real_fault {
  uint32_t turn;    /* of the skew: odd while it is changed; 0: it never was */
  uint64_t skew[4]; /* a struct skew, word by word */
  uint32_t refused; /* askings for memory, in a million, while the node serves */
  uint32_t asked;   /* for memory, while some were refused */
  uint32_t file[REAL_FAULT_ANY + 1][2]; /* so many next operations fail: CHI_EIO, CHI_ENOSPC */
  struct {
    uint32_t full; /* no room in the queue to that node */
    uint32_t left; /* messages to it until one is lost, with REAL_FAULT_SNAP; 0: none is */
  } to[REAL_FAULT_NODES];
};

/* Whether it is one of these. */
CHI_PRIVATE bool real_fault_can(chi_fault kind);
/* Tells the node of a fault that happens to it: b and value as in chimaera.h. One at a time.
 * CHI_ERANGE: there is no such value. */
CHI_PRIVATE int real_fault_tell(struct real_fault *f, chi_fault kind, uint32_t b, int64_t value);
/* Ends what is wrong with what it sends; or all that lasts. */
CHI_PRIVATE void real_fault_heal(struct real_fault *f);
CHI_PRIVATE void real_fault_calm(struct real_fault *f);

/* In the node, when all else is bound, and before its threads run. CHI_ENOMEM. */
CHI_PRIVATE int real_fault_bind(struct real_env *r, struct real_fault *f);
CHI_PRIVATE void real_fault_unbind(struct real_env *r);
/* It serves: from now on it may be refused memory. */
CHI_PRIVATE void real_fault_serves(struct real_env *r);

#endif
#endif
