/* peer_toy.h - three nodes that meet over a toy network, for tests of peer. */
#ifndef CHI_PEER_TOY_H
#define CHI_PEER_TOY_H

#include "peer.h"

#include <stdbool.h>

#define PEER_NODES 3
#define PEER_POLL 1000000000ull

/* A message on its way. */
struct peer_letter {
  struct peer_letter *next;
  uint32_t to, count;
  struct env_frame frame[ENV_FRAMES_MAX];
  void *parcel; /* handed back when it has arrived or was lost */
};

/* A record that arrived. */
struct peer_seen {
  enum wire_kind kind;
  uint32_t from, value, bulks;
  uint64_t bulk_bytes;
};

struct peer_toys;

/* One node: its environment, what it heard and what it said. */
struct peer_toy {
  struct env env;
  struct peer_toys *all;
  struct peer_set set;
  struct log log;
  chi_config config;
  chi_host hosts[PEER_NODES + 1];
  struct peer_letter *mail, *mail_last; /* on its way from here, in order */
  bool up[PEER_NODES], full[PEER_NODES], lose[PEER_NODES], gone[PEER_NODES];
  uint64_t random, wall;
  int allocs_left; /* negative: without end */
  int allocs, resets, opened;
  int open_rc;
  uint32_t sent_to[PEER_NODES]; /* messages taken */
  char line[512], before[512]; /* the last two */
  int lines, last_level;
  struct peer_seen seen[8192];
  uint32_t seen_count;
  uint64_t former, boot_news, reborn;
  bool news_met, raise;
  void *parcels[64];
  uint32_t parcel_count;
  void *context; /* of a test's own upcall */
};

/* Node 0 to 2, `alpha`, `beta` and `gamma`. */
struct peer_toys {
  struct peer_toy node[PEER_NODES];
  uint64_t now;
};

/* Three nodes that are open and have no connections yet. */
struct peer_toys *peer_toys_open(void);
/* Nodes 0 and 1 that know each other. */
struct peer_toys *peer_toys_met(void);
/* Fails the test if a node keeps memory or its network. */
void peer_toys_close(struct peer_toys *w);

/* Opens one node with its upcalls; closes it and opens it with that much more on its clock. */
int peer_toy_open(struct peer_toys *w, uint32_t node);
void peer_toy_hear(struct peer_toy *t);
void peer_toy_restart(struct peer_toys *w, uint32_t node, int64_t wall);
/* The connection from one node to another comes up or goes down, and it is told. */
void peer_toy_link(struct peer_toys *w, uint32_t from, uint32_t to, bool up);

/* The oldest letter on its way from a node; it arrives or not, and its parcel is handed back. */
struct peer_letter *peer_toy_take(struct peer_toy *t);
void peer_toy_deliver(struct peer_toy *t, struct peer_letter *m, bool arrives);
/* Every node sends what it has; everything that was sent arrives (false: nothing was). */
void peer_toys_flush(struct peer_toys *w);
bool peer_toys_carry(struct peer_toys *w);
/* Both, until nothing is said any more; false: they never stop. */
bool peer_toys_settle(struct peer_toys *w);
/* The same before and after a poll period. */
bool peer_toys_poll(struct peer_toys *w);

struct peer *peer_of(struct peer_toys *w, uint32_t node, uint32_t other);
bool peer_both_met(struct peer_toys *w, uint32_t a, uint32_t b);
/* Posts a record with a number, or with a parcel of `count` frames; false: it can't be. */
bool peer_say(struct peer_toys *w, uint32_t from, uint32_t to, uint32_t value, bool control);
#define PEER_TOY_BULK 1000u /* bytes of each frame */
bool peer_say_bulk(struct peer_toys *w, uint32_t from, uint32_t to, uint32_t count, void *parcel);

#endif
