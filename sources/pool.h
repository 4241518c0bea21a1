/* pool.h - pools, their containers and figures, and snapshots of the pool table.
 *
 * Pools belong to the network worker. The other workers look pools up in immutable snapshots that
 * are handed to them by message; a container's figures are counted by each worker for itself. */
#ifndef CHI_POOL_H
#define CHI_POOL_H

#include "base.h"
#include "alloc.h"
#include "log.h"
#include "module.h"
#include "ring.h"

enum pool_state { POOL_CREATING, POOL_READY, POOL_DESTROYED, POOL_FAILED };

#define POOL_BUCKETS 60u /* of service time: powers of two of nanoseconds in halves, from 64 ns */

/* One method on one worker: tallies. */
struct pool_figures {
  uint64_t count, errors, sampled, sampled_ns;
  uint64_t bucket[POOL_BUCKETS];
};

/* What one worker knows of one container. */
struct pool_tally {
  uint64_t active;              /* tally: accepted less ended here; the sum over workers is meant */
  struct pool_figures *figures; /* by method index; NULL until something was counted */
  struct log_limit log;         /* of what methods say */
  uint64_t unused[4];
};

struct container {
  struct container *next; /* of those that came later */
  struct pool *pool;
  uint32_t index; /* among the pool's containers, over all nodes */
  bool parallel;
  uint32_t leaving; /* atomic: on its way to another node, periodic tasks end */
  struct gate gate;
  void *state;
  struct pool_tally *tally; /* by worker */
};

/* Where the containers of a pool are: never changed while a snapshot refers to it. */
struct pool_map {
  struct pool_map *next;
  uint32_t count;
  struct {
    uint32_t node;
    struct container *here; /* NULL: on another node */
  } at[];
};

struct pool {
  struct pool *next;
  chi_pool_id id;
  char name[CHI_PATH_MAX];
  struct module *module;
  enum pool_state state;
  uint32_t doomed; /* atomic: being destroyed, periodic tasks end */
  void *params; /* module->def->params->size bytes, or NULL */
  uint32_t workers;
  bool shared;          /* of all nodes: in the table they agree on; else of this node alone */
  uint64_t version[2];  /* in that table: generation, and hash of the module's name; or 0 */
  struct pool_map *map, *maps; /* now; all there have been */
  struct container container;  /* the one that was made here at first, if any was */
  struct container *more;      /* those that moved here */
  uint64_t calls;              /* tally: tasks that are for containers elsewhere, or on their way */
  uint32_t moving;             /* containers on their way from here or to here; network worker */
  chi_event created; /* set when it is no longer in creation */
  struct ring_node *parked, **parked_end; /* task_raw that wait for creation */
};

struct pool_entry {
  chi_pool_id id;
  enum pool_state state;
  struct pool *pool;
  const struct pool_map *map;
};

/* A snapshot: never changed after pool_table_build; counted by the network worker alone. */
struct pool_table {
  uint64_t version;
  uint32_t users, mask;
  struct pool_entry slot[];
};

/* A snapshot on its way to a worker and back. */
struct pool_notice {
  struct ring_node node;
  uint32_t worker;
  bool under_way;
  struct pool_table *table;  /* to be used */
  struct pool_table *former; /* filled by the worker: no longer used there */
};

/* A pool in creation with `containers` of them, container i on node i, of which number `index` is
 * here; one alone is on node `self` whatever its number. CHI_ENOMEM. */
CHI_PRIVATE int pool_open(const struct alloc *alloc, uint32_t workers, chi_pool_id id,
                          const char *name, struct module *module, uint32_t containers,
                          uint32_t self, struct pool **out);
CHI_PRIVATE void pool_close(const struct alloc *alloc, struct pool *pool);
/* Container `index` is on that node from now on, and here if `here` says so. The map is another one
 * thereafter, the former stays valid as long as the pool. CHI_ENOMEM. */
CHI_PRIVATE int pool_move(const struct alloc *alloc, struct pool *pool, uint32_t index,
                          uint32_t node, struct container *here);
/* One more container here, in no map yet. CHI_ENOMEM. */
CHI_PRIVATE int pool_container_open(const struct alloc *alloc, struct pool *pool, uint32_t index,
                                    struct container **out);
/* Takes it away again. */
CHI_PRIVATE void pool_container_close(const struct alloc *alloc, struct container *c);
/* Tasks of one container accepted and not ended; see pool_active. */
CHI_PRIVATE uint64_t pool_container_active(const struct container *c);
/* Tasks accepted and not ended. Exact once every worker has a snapshot without the pool; before
 * that, a figure. */
CHI_PRIVATE uint64_t pool_active(const struct pool *pool);
CHI_PRIVATE void pool_park(struct pool *pool, struct ring_node *raw);

CHI_PRIVATE struct pool_table *pool_table_build(const struct alloc *alloc, struct pool *first,
                                                uint64_t version);
CHI_PRIVATE void pool_table_free(const struct alloc *alloc, struct pool_table *t);
CHI_PRIVATE const struct pool_entry *pool_table_find(const struct pool_table *t, chi_pool_id id);

/* Counts one run; ns 0: it was not timed. */
CHI_PRIVATE void pool_count(const struct alloc *alloc, struct container *c, uint32_t worker,
                            const struct method *method, int rc, uint64_t ns);
/* Figures of a method over all workers. */
CHI_PRIVATE void pool_figures_sum(const struct pool *pool, uint32_t method,
                                  struct pool_figures *out);
/* The bucket of a time, and the upper end of one, in nanoseconds. The last has what is longer. */
CHI_PRIVATE uint32_t pool_bucket(uint64_t ns);
CHI_PRIVATE uint64_t pool_bucket_end(uint32_t bucket);
/* The time below which `percent` of the sampled runs stayed: upper end of a bucket; 0: none. */
CHI_PRIVATE uint64_t pool_percentile(const struct pool_figures *f, uint32_t percent);

CHI_INLINE bool pool_id_equal(chi_pool_id a, chi_pool_id b)
{
  return a.major == b.major && a.minor == b.minor;
}

#endif
