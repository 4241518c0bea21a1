/* fleet.h - this node among the others: peers, membership, the pool table and tasks between nodes,
 * wired together. Network worker only. */
#ifndef CHI_FLEET_H
#define CHI_FLEET_H

#include "base.h"
#include "accord.h"
#include "directory.h"
#include "member.h"
#include "net.h"
#include "peer.h"

struct fleet_options {
  struct worker_crew *crew;
  struct directory *directory;
  const chi_config *config; /* outlives the fleet, as far as it is used */
  const char *instance;
  void (*on_entry)(void *arg, const struct accord_entry *entry); /* another one in the table */
  void (*on_member)(void *arg, uint32_t node, bool lost);        /* or found again */
  void *arg;
};

struct fleet {
  struct fleet_options options;
  bool open; /* there are other nodes, and a network */
  uint64_t now;
  struct peer_set peers;
  struct member *member;
  struct accord *accord;
  struct net *net;
};

/* Joins the other nodes of the configuration; does nothing if there are none, or no network. */
CHI_PRIVATE int fleet_open(struct fleet *f, const struct fleet_options *options, chi_error *err);
/* Leaves the network. After the last step. */
CHI_PRIVATE void fleet_close(struct fleet *f);

/* A task for containers elsewhere; ended by worker_end. */
CHI_PRIVATE void fleet_submit(struct fleet *f, chi_ctx *ctx);
CHI_PRIVATE void fleet_look_for_cancelled(struct fleet *f);
/* The pools of this node have changed. */
CHI_PRIVATE void fleet_on_pools(struct fleet *f);
/* Takes no more work from others; after `at` its own tasks elsewhere are given up. */
CHI_PRIVATE void fleet_drain(struct fleet *f, uint64_t at);
/* No work of others is left, and nothing of its own elsewhere. */
CHI_PRIVATE bool fleet_idle(const struct fleet *f);
/* See net_departed. */
CHI_PRIVATE bool fleet_departed(const struct fleet *f);
/* See net_called_from. */
CHI_PRIVATE bool fleet_called_from(const struct fleet *f, uint64_t root, const struct pool *pool);
/* Tasks of this node for that method which have gone elsewhere. */
CHI_PRIVATE uint32_t fleet_calls_of(const struct fleet *f, const struct method *method);
/* Of the table of pools; 0: this node is alone. */
CHI_PRIVATE uint64_t fleet_digest_of(const struct fleet *f);
/* The life of a node that this one takes for alive; 0: it doesn't. */
CHI_PRIVATE CHI_UNUSED uint64_t fleet_sees(const struct fleet *f, uint32_t node);
/* For what this one takes it: enum member_state. */
CHI_PRIVATE CHI_UNUSED uint32_t fleet_judges(const struct fleet *f, uint32_t node);
/* At the end of every step; returns when it wants to be called again. */
CHI_PRIVATE uint64_t fleet_step(struct fleet *f, uint64_t now);

CHI_PRIVATE void fleet_on_message(struct fleet *f, const struct env_frame *frame, uint32_t count);
CHI_PRIVATE void fleet_on_peer(struct fleet *f, uint32_t peer, bool connected);
CHI_PRIVATE void fleet_on_sent(struct fleet *f, void *parcel);

#endif
