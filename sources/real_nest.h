/* real_nest.h - processes of nodes that have the modules of this one: they are forked from it.
 *
 * Only a process with one thread can be forked without care, and a test with clients has many. So
 * the nest is a process that is forked first, does nothing but wait, and forks the nodes when it is
 * told to. It ends with the process that made it, whichever way that ends, and its nodes with it.
 */
#ifndef CHI_REAL_NEST_H
#define CHI_REAL_NEST_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include <pthread.h>
#include <sys/types.h>

/* In the process of a node, which ends when it returns, with that status. */
typedef int real_nest_fn(void *arg, uint32_t node);

struct real_nest {
  real_nest_fn *serve;
  void *arg;
  int socket; /* to the nest */
  pid_t pid;  /* of the nest */
  pthread_mutex_t lock;
};

/* Forks the nest: nodes will find memory as it is now, standard output and error, and nothing else
 * that is open. CHI_ENOMEM: no process or descriptors. */
CHI_PRIVATE int real_nest_open(struct real_nest *nest, real_nest_fn *serve, void *arg);
/* Forks a node. CHI_ENOMEM: no more processes, or the nest is gone. Any thread, as all below. */
CHI_PRIVATE int real_nest_hatch(struct real_nest *nest, uint32_t node, pid_t *pid);
/* Whether that node's process has ended: then *status is as of waitpid, and its number is free. */
CHI_PRIVATE bool real_nest_ended(struct real_nest *nest, pid_t pid, int *status);
/* Ends the nest and all of its nodes, as kill -9. */
CHI_PRIVATE void real_nest_close(struct real_nest *nest);

#endif
#endif
