/* directory.h - the pools of this node: owned by the network worker, published to the others. */
#ifndef CHI_DIRECTORY_H
#define CHI_DIRECTORY_H

#include "base.h"
#include "pool.h"
#include "worker.h"

struct directory {
  struct worker_crew *crew;
  struct pool *first;
  uint64_t version;
  struct pool_table *current;
  struct pool_notice *notice; /* by worker */
  uint64_t *seen;             /* by worker: version it uses */
};

/* Gives every worker an empty table. Before the first step. */
CHI_PRIVATE int directory_open(struct directory *d, struct worker_crew *crew);
/* After the last step: frees the pools and tables that are left. */
CHI_PRIVATE void directory_close(struct directory *d);

CHI_PRIVATE struct pool *directory_find(const struct directory *d, chi_pool_id id);
CHI_PRIVATE struct pool *directory_find_name(const struct directory *d, const char *name);
CHI_PRIVATE void directory_add(struct directory *d, struct pool *pool);
CHI_PRIVATE void directory_remove(struct directory *d, struct pool *pool);
/* Tells the workers. CHI_ENOMEM: they were not told. */
CHI_PRIVATE int directory_publish(struct directory *d);
/* True once every worker has what was published last. */
CHI_PRIVATE bool directory_settled(const struct directory *d);
CHI_PRIVATE void directory_on_notice(struct directory *d, struct pool_notice *notice);

#endif
