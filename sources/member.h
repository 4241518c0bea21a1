/* member.h - who is alive: every node finds out about every other one, at constant cost to each.
 *
 * Once per interval a node probes one other, in an order shuffled anew each round. Who doesn't
 * answer in time is probed again through three others; who hasn't answered by the end of the
 * interval is suspected, and who doesn't contradict for member_patience() intervals is dead. What
 * is learned travels as news on probes and acknowledgements, each piece about 3 log2(n) times from
 * each node. So a node sends a few messages of at most MEMBER_RECORD_MAX bytes per interval,
 * however many nodes there are, and no step or message costs more than the news in it.
 *
 * News is ordered by (boot, refute, state): a later life beats all that was said about an earlier
 * one; in the same life dead beats suspect beats alive; only the node itself raises `refute`, when
 * it hears that it is suspected or dead, and so beats that. Who is taken for dead is still probed,
 * in one of 8 to 64 intervals, and a message to it, or an answer, tells it so: it contradicts.
 *
 * A node that is ill itself is slow to accuse: one that is stepped half an interval late counts no
 * probe as failed and lets no suspicion expire, and one that hears nothing even from those it asks
 * for help, or is accused, waits up to 4 times as long before it believes anybody dead.
 *
 * Bounds, where messages between two nodes take less than a quarter of an interval and n nodes are
 * in the list. With good probability (the tests hold all their seeds to it):
 *   - a crash is known everywhere within member_patience() + 2 ceil(log2 n) + 8 intervals;
 *   - after all cuts are healed, all nodes agree within 20 + 4 ceil(log2 n) + n / 8 intervals,
 *     also at the start, when nobody has heard of anybody.
 * With certainty, if no message is lost, whoever missed the news that a node is alive hears it from
 * that node itself within 16 n intervals.
 *
 * A pure state machine: no clock, no connections. One thread. */
#ifndef CHI_MEMBER_H
#define CHI_MEMBER_H

#include "base.h"
#include "alloc.h"
#include "config.h"
#include "wire.h"

#define MEMBER_MOST ((uint32_t)CONFIG_HOSTS_MAX)
#define MEMBER_RECORD_MAX 1000u      /* bytes of the payload of any record it sends */
#define MEMBER_REFUTE_MAX (1u << 30) /* contradictions in one life */

enum member_state { MEMBER_UNKNOWN, MEMBER_ALIVE, MEMBER_SUSPECT, MEMBER_DEAD };

struct member_options {
  const struct alloc *alloc;
  uint32_t self, count;          /* position in the list, nodes in it: 1 .. MEMBER_MOST */
  uint64_t boot, interval_ns;    /* own life; neither is 0 */
  uint64_t (*random)(void *arg); /* called once, by member_open */
  /* Sends a payload; what can't be sent now is dropped. Must not call back. */
  void (*send)(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size);
  /* Another state or life of a node. May only look things up. */
  void (*on_change)(void *arg, uint32_t node, enum member_state state, uint64_t boot);
  /* Somebody speaks of a later life of this node: it should be reborn above that boot, and
   * member_reborn called, now or later. */
  void (*on_own_boot)(void *arg, uint64_t boot);
  /* 64 bits that travel with every record, and those of others as they come. */
  uint64_t (*digest)(void *arg);
  void (*on_digest)(void *arg, uint32_t from, uint64_t digest);
  void *arg;
};

struct member_figures {
  uint64_t probes, failed;  /* sent; not answered by anybody */
  uint64_t asked;           /* probes done by others for this node */
  uint64_t suspected, died; /* believed here, from whatever source */
  uint64_t refuted;         /* own contradictions */
  uint64_t late;            /* intervals in which this node was stepped too late */
  uint64_t refused;         /* malformed records */
};

struct member;

/* Knows nobody yet. *options is copied, but not what it points to. CHI_ENOMEM. */
CHI_PRIVATE int member_open(const struct member_options *options, struct member **out);
CHI_PRIVATE void member_close(struct member *m);

/* Does what time brings; returns when it wants to be called again, UINT64_MAX: never. */
CHI_PRIVATE uint64_t member_step(struct member *m, uint64_t now);
/* A record of kind WIRE_PROBE, WIRE_PROBE_ASK or WIRE_PROBE_ACK. CHI_ECORRUPT: it was malformed and
 * changed nothing. */
CHI_PRIVATE int member_on_record(struct member *m, uint64_t now, uint32_t from, enum wire_kind kind,
                                 struct wire_in *in);
/* The post exchanged hellos with that life of a node, just now: it is there. */
CHI_PRIVATE void member_on_boot(struct member *m, uint32_t node, uint64_t boot);
/* This node begins another life, with a higher boot; what it knows about others stays. */
CHI_PRIVATE void member_reborn(struct member *m, uint64_t boot);

CHI_PRIVATE enum member_state member_state(const struct member *m, uint32_t node);
CHI_PRIVATE uint64_t member_boot(const struct member *m, uint32_t node); /* 0: unknown */
/* Nodes that are alive or suspected, this one included. */
CHI_PRIVATE uint32_t member_alive_count(const struct member *m);
/* Intervals that a suspicion lasts among `count` nodes, if the one who suspects is well. */
CHI_PRIVATE uint32_t member_patience(uint32_t count);
CHI_PRIVATE const struct member_figures *member_figures(const struct member *m);

#endif
