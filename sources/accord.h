/* accord.h - the pool table on which all nodes agree, by anti-entropy.
 *
 * Every node has the table: for each pool id the entry with the highest version. A decision (a pool
 * is being created, is ready, has failed, is destroyed) is an entry with a higher version than the
 * one it replaces. Versions are ordered by counter, then boot, then node; the counter is 8 times
 * the generation of the id (how often a pool was created with it, or with its name) plus the state.
 * So within a generation a later state always beats an earlier one, whoever decides it and whatever
 * they know of each other: what was destroyed cannot be made ready by somebody who didn't hear.
 * Places of containers are merged one by one: the higher epoch wins.
 *
 * A digest of the table travels with the probes of membership. Who sees another one than its own
 * sends its list of versions (WIRE_POOLS); the receiver sends the entries that are newer here
 * (WIRE_POOL), and asks for those that are newer there. Nothing is ever lost by a lost message: the
 * digests still differ the next time. Equal tables send nothing.
 *
 * An entry with one of the last three states is a tombstone: it stays until every node of the list
 * has acknowledged it, so that nobody who was away can bring the pool back. Acknowledgements are a
 * bit for each node, merged like everything else. Then it no longer counts and nobody speaks of it;
 * the last ACCORD_REMEMBERED of these are remembered, for those who were restarted meanwhile and
 * have heard of the pool from somebody who was away.
 *
 * If two live pools have one name, the one with the lower generation, boot and node becomes a
 * tombstone, ACCORD_LOST, with a version that everybody who sees both derives alike. If an id was
 * given to two pools at once, the higher version is the entry; there is no other.
 *
 * A pure state machine of the network worker: no clock but `now`, no message but by `send`. */
#ifndef CHI_ACCORD_H
#define CHI_ACCORD_H

#include "base.h"
#include "alloc.h"
#include "wire.h"

#define ACCORD_STATES 8u        /* a counter is this times the generation, plus the state */
#define ACCORD_MAX 4096u        /* entries, incomplete tombstones included */
#define ACCORD_REMEMBERED 256u  /* complete tombstones beside them */
#define ACCORD_PARAMS 2048u     /* bytes of parameters, as in chi_admin_get_or_create_pool */
#define ACCORD_CONTAINERS 4096u /* of a pool */
#define ACCORD_NODES 4096u

/* In the order in which one beats another within a generation. */
enum accord_state {
  ACCORD_CREATING,
  ACCORD_READY,
  ACCORD_FAILED, /* its create failed somewhere; from here on tombstones */
  ACCORD_DESTROYED,
  ACCORD_LOST /* to another pool with the same name */
};

/* Ordered by counter, then boot, then node. */
struct accord_version {
  uint64_t counter, boot;
  uint32_t node;
};

/* Container `index` isn't on node `index`; the higher epoch is the later place. */
struct accord_move {
  uint32_t index, node;
  uint64_t epoch;
};

/* What was created. Texts are kept by the table; name and module aren't empty. */
struct accord_pool {
  chi_pool_id id;
  const char *name, *module, *params; /* CHI_PATH_MAX, CHI_NAME_MAX, ACCORD_PARAMS with their NUL */
  uint32_t containers;
};

struct accord_entry {
  struct accord_pool pool;
  struct accord_version version;
  enum accord_state state;
  uint32_t move_count;
  struct accord_move *move; /* by index */
};

CHI_INLINE uint64_t accord_generation(const struct accord_entry *e)
{
  return e->version.counter / ACCORD_STATES;
}

struct accord;
struct accord_options {
  const struct alloc *alloc;
  uint32_t self, count; /* own position, nodes */
  uint64_t boot;
  uint64_t interval_ns; /* between exchanges with one peer */
  /* Sends a payload; what can't be sent now is dropped. Must not call back. */
  void (*send)(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size);
  /* The entry with this id is new or another than before: definition, version or moves. Must not
   * change the table. Not called for what accord_put and accord_move were told. */
  void (*on_entry)(void *arg, const struct accord_entry *entry);
  void *arg;
};

/* An empty table. CHI_ENOMEM. */
CHI_PRIVATE int accord_open(const struct accord_options *options, struct accord **out);
CHI_PRIVATE void accord_close(struct accord *a);
/* The own node lives another life: decisions are numbered with it from now on. */
CHI_PRIVATE void accord_reborn(struct accord *a, uint64_t boot);

/* A decision of this node; its version beats all that is known of this id, and of this name.
 * ACCORD_CREATING or ACCORD_READY of a pool that is live: the version of its creator goes on, and
 * nothing is done if it has that state already, or a later one; of one that isn't: a new
 * generation, whose containers are each on its own node. ACCORD_FAILED or ACCORD_DESTROYED: of a
 * live pool, else CHI_ENOENT. pool may be that of the entry itself.
 * CHI_ECONFLICT: the id belongs to a live pool with another definition, or the name to one with
 * another id; CHI_ERANGE: ACCORD_MAX, or no higher version can be written; CHI_ENOMEM. After an
 * error nothing has changed. */
CHI_PRIVATE int accord_put(struct accord *a, const struct accord_pool *pool,
                           enum accord_state state);
/* A container of a live pool has moved. CHI_ENOENT: no such pool or container; CHI_ECONFLICT: it is
 * known to have moved with this epoch or a higher one; CHI_ENOMEM. */
CHI_PRIVATE int accord_move(struct accord *a, chi_pool_id id, const struct accord_move *move);
/* Live or tombstone; NULL: never heard of, or forgotten. Valid until the table changes. */
CHI_PRIVATE const struct accord_entry *accord_find(const struct accord *a, chi_pool_id id);
/* The live pool of that name. */
CHI_PRIVATE const struct accord_entry *accord_find_name(const struct accord *a, const char *name);
/* In order of id: the first entry with an id above `after` (NULL: the first of all). */
CHI_PRIVATE const struct accord_entry *accord_next(const struct accord *a,
                                                   const chi_pool_id *after);

/* Live entries and incomplete tombstones. */
CHI_PRIVATE uint32_t accord_count(const struct accord *a);

/* Equal for equal tables, acknowledgements included; complete tombstones do not count. */
CHI_PRIVATE uint64_t accord_digest(const struct accord *a);
/* A peer's digest: starts an exchange if it differs, and none was started with this peer for
 * interval_ns. */
CHI_PRIVATE void accord_on_digest(struct accord *a, uint64_t now, uint32_t from, uint64_t digest);
/* WIRE_POOLS or WIRE_POOL of a peer; false: malformed, and without effect. What there is no memory
 * or place for is left out, and comes again. */
CHI_PRIVATE bool accord_on_record(struct accord *a, uint64_t now, uint32_t from,
                                  enum wire_kind kind, struct wire_in *in);
/* An entry that came by another way than a record, such as inside a task: taken as if it had come
 * from a peer, with on_entry if it is news. CHI_ECORRUPT: it can't be one; CHI_ERANGE: ACCORD_MAX;
 * CHI_ENOMEM. */
CHI_PRIVATE int accord_learn(struct accord *a, const struct accord_entry *entry);

#endif
