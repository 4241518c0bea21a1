/* real_stand.h - who stands in for the network worker's thread when that does not come back.
 *
 * That thread also steps the brief worker, whose bodies belong to others: one that never returns
 * shall not take the network along. So it says when it goes there, and another thread watches. If
 * it stays, the other takes the network worker, until the first is back and wants it again. */
#ifndef CHI_REAL_STAND_H
#define CHI_REAL_STAND_H

#include "base.h"
#include "runtime.h"

#ifndef CHI_OMIT_REAL

#include <pthread.h>

struct real_stand {
  uint32_t place;    /* atomic, enum of real_stand.c: where the network worker's thread is */
  uint32_t watching; /* atomic: the other one looks every so often */
  int fd;            /* eventfd that wakes it */
  pthread_mutex_t lock;
  pthread_cond_t home; /* the network worker was given back */
};

/* CHI_ENOMEM: no descriptors. */
CHI_PRIVATE int real_stand_open(struct real_stand *s);
CHI_PRIVATE void real_stand_close(struct real_stand *s);

/* ---- the network worker's thread */
/* It begins a step of the brief worker. */
CHI_PRIVATE void real_stand_leave(struct real_stand *s);
/* It has ended it. Waits until the network worker is its own again; `bell` is that worker's. True:
 * the other had it meanwhile, and what was known of it is out of date. */
CHI_PRIVATE bool real_stand_return(struct real_stand *s, struct env *env, env_bell bell);

/* ---- the one that stands in */
/* Waits until the network worker is to be taken: true, and it is its own; false: *quit, which
 * real_stand_wake makes it see. */
CHI_PRIVATE bool real_stand_await(struct real_stand *s, const struct runtime *rt,
                                  const uint32_t *quit);
CHI_PRIVATE void real_stand_wake(struct real_stand *s);
/* Between steps: whether it is wanted back. */
CHI_PRIVATE bool real_stand_wanted(const struct real_stand *s);
CHI_PRIVATE void real_stand_give_back(struct real_stand *s);

#endif
#endif
