/* sim_check.h - what must hold in every simulation of a cluster, checked as things happen.
 *
 *   P1           what a client submits completes once, and by the time all is settled it has; no
 *                worker sleeps while there is work for it (seen by sim_host)
 *   P2           a method's body begins at most once for each key of a task
 *   P5           what a device on a file has acknowledged is there: see sim_device.h
 *   membership   when all is settled, every node takes every other for alive, in its present life
 *   pools        and all have the same table of pools
 *   places       and no container is on two nodes
 *   open         and no node has a task that nobody waits for
 *   credit       and none holds slots, bytes or answers of tasks between nodes
 *
 * An event costs a look into a table; nodes are compared with each other in sim_check_settled only.
 * Fed by the simulation's recorder, which belongs to it; others listen through sim_check_listen. */
#ifndef CHI_SIM_CHECK_H
#define CHI_SIM_CHECK_H

#include "base.h"
#include "sim.h"
#include "sim_device.h"

#define SIM_CHECK_CODES 64 /* completions are counted by -rc, those of a method's own as 63 */
#define SIM_CHECK_NET 32   /* and what happened to tasks between nodes by enum net_trace */

struct sim_check_key {
  uint64_t a, b, c;
  uint32_t owner; /* client number + 1; 0: the place is empty */
};

/* A set of keys: open addressing, never more than half full. */
struct sim_check_set {
  struct sim_check_key *key;
  uint32_t count, mask;
};

/* A node, as the events tell. */
struct sim_check_node {
  bool serves;
  uint64_t boot; /* its present life */
};

struct sim_check {
  struct sim *sim;
  sim_trace_sink *sink; /* who listens besides */
  void *sink_arg;
  uint32_t nodes;
  struct sim_check_node *node;
  struct sim_device *devices;
  struct sim_check_set keys, open; /* bodies begun; tasks of clients under way */
  uint32_t thread;                 /* that runs */
  uint32_t *client, threads;       /* by thread: client number + 1 */
  uint64_t submitted, completed, code[SIM_CHECK_CODES], net[SIM_CHECK_NET];
  const char *failed; /* the name of the first check that did; NULL: none */
  char why[200];
};

/* Starts to listen. */
CHI_PRIVATE void sim_check_open(struct sim_check *c, struct sim *sim, uint32_t nodes);
CHI_PRIVATE void sim_check_close(struct sim_check *c);
/* An event, as its recorder gets it: arg is the struct sim_check. */
CHI_PRIVATE void sim_check_event(void *arg, const struct sim_trace_event *e);
/* Events go to that sink, too. */
CHI_PRIVATE CHI_UNUSED void sim_check_listen(struct sim_check *c, sim_trace_sink *sink, void *arg);
/* In the body of a client, at its beginning: this is its number. Of others P1 is checked while
 * they live, but what they leave behind when killed is taken for open. */
CHI_PRIVATE void sim_check_client(struct sim_check *c, uint32_t number);

/* Tasks of clients under way. */
CHI_INLINE uint32_t sim_check_open_tasks(const struct sim_check *c)
{
  return c->open.count;
}
/* For what a node takes another: enum member_state; unknown also where it is down. */
CHI_PRIVATE CHI_UNUSED uint32_t sim_check_judges(const struct sim_check *c, uint32_t node,
                                                 uint32_t other);
/* Whether every node that serves takes every other one for alive; else who does not in `why`. */
CHI_PRIVATE bool sim_check_met(const struct sim_check *c, char *why, size_t size);
/* Compares all nodes that serve: true if nothing is missing, else what in `why`. */
CHI_PRIVATE bool sim_check_settled(const struct sim_check *c, char *why, size_t size);

#endif
