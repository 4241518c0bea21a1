/* actors.h - the client programs of a sweep: one of each kind on each node. */
#ifndef ACTORS_H
#define ACTORS_H

#include "books.h"
#include "rng.h"

enum actor_kind {
  ACTOR_CALLS,   /* one container: local, id, hash, physical, dynamic */
  ACTOR_GATHERS, /* range, broadcast */
  ACTOR_CARRIES, /* bulk */
  ACTOR_LOCKS,
  ACTOR_CHANGES, /* its mind: cancels, abandons, has deadlines */
  ACTOR_DIES,    /* is killed while tasks are under way */
  ACTOR_ASKS,    /* subtasks on other nodes */
  ACTOR_BUILDS,  /* pools, and destroys them */
  ACTOR_MOVES,   /* containers */
  ACTOR_KINDS
};

struct actor {
  chi_cluster *cluster;
  struct books *books;
  chi_client *client;
  chi_queue *queue;
  struct rng rng;
  enum actor_kind kind;
  uint32_t node, nodes, acts, built;
};

/* What the clients of that kind are called. */
const char *actor_name(enum actor_kind kind);
/* The body of such a client: arg is its struct actor. */
void actor_body(chi_cluster *cluster, chi_client *client, void *arg);

#endif
