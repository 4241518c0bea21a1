/* fleet.h - for tests of several daemons that are one cluster, at loopback addresses. */
#ifndef CHI_TEST_FLEET_H
#define CHI_TEST_FLEET_H

#include "daemon.h"

#define TOWN_NODES 5
#define MET_MS (15000 * SLOW)
#define WAIT_NS (20 * SLOW * SECOND_NS)

/* Daemons that are one cluster, and a client of each. */
struct town {
  struct daemon node[TOWN_NODES];
  struct seat seat[TOWN_NODES];
  uint32_t count, port;
  char dir[64];
  /* What may be changed between town_plan and town_make: the hostfile of a node, and what else is
   * in its section "networking" (", key: value") and in its configuration. */
  char hostfile[TOWN_NODES][128], networking[TOWN_NODES][400], more[TOWN_NODES][200];
};

/* So many nodes, at 127.0.0.1 and on, in one hostfile. */
bool town_plan(struct town *t, uint32_t count);
bool town_make(struct town *t);
/* The empty text, or what is wrong. */
const char *town_start(struct town *t, uint32_t i);
void town_kill(struct town *t, uint32_t i);
void town_free(struct town *t);
/* The nodes of a plan, with TEST_POOL on all of them; they have met. The empty text, or what is
 * wrong. */
const char *town_begin(struct town *t);
const char *town_open(struct town *t, uint32_t count);

/* Adds 40 and b on node b, asked on node a. */
int town_add(struct town *t, uint32_t a, uint32_t b, uint64_t *sum);
/* Sends bulk of so many bytes to a node and back; its code. */
int town_carry(struct town *t, uint32_t from, uint32_t to, uint64_t size);
/* Whether each reaches each. */
bool town_has_met(struct town *t);
/* Runs `chimaera call` on a node; its exit status, and what it says. */
int town_call(const struct town *t, uint32_t i, const char *words, char *said, size_t room);

#endif
