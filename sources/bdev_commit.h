/* bdev_commit.h - the allocation log on disk: what was allocated is durable before anybody hears.
 *
 * Allocations wait until their record is durable; those that come while one is being written share
 * the next write and sync. Frees are entered in order but not waited for: one that a crash takes
 * back only keeps its space allocated, and whoever got the space again waited for a record behind
 * it. They are durable with the next allocation or sync.
 *
 * A batch that can't be written fails its allocations and is tried again for its frees. When a
 * sync has failed, nobody knows what is durable: from then on allocations, frees and syncs fail
 * with CHI_EIO until the device is opened again.
 *
 * When the log has outgrown what it says, it is written anew beside itself, and renamed. All
 * functions are called inside a method of the device's container and block, unless said otherwise.
 */
#ifndef CHI_BDEV_COMMIT_H
#define CHI_BDEV_COMMIT_H

#include "alloc.h"
#include "base.h"
#include "bdev_log.h"
#include "extent.h"

struct bdev_commit_entry;

/* Zeroed: closed. Private but for what is said to be for reading. */
struct bdev_commit {
  chi_file *file;
  struct extent_map *map;
  char path[CHI_PATH_MAX + 16];   /* of the file */
  char beside[CHI_PATH_MAX + 16]; /* of the one that takes its place */
  uint64_t id, seq;
  uint64_t end;   /* of what is durable in the file */
  uint64_t reach; /* how far it has been written: beyond the end lie remains of a failed batch */
  uint32_t link;
  uint64_t snapshot_end, retry_at; /* retry_at: no new file before the log is this long */
  uint64_t owed;                   /* bytes of records of frees that wait */
  struct bdev_commit_entry *first, **last;
  bool busy;     /* somebody writes */
  bool unnamed;  /* the file's name is not durable yet */
  bool unmarked; /* the last record is none that ends a log */
  int failed;    /* for reading: not 0: a sync has failed */
};

/* Memory of the node, for those who ask by a struct alloc. Valid as long as ctx is. */
CHI_PRIVATE struct alloc bdev_commit_memory(chi_ctx *ctx);

/* Opens the log beside the file `name`, or makes one, and makes *map (zeroed before) what it says,
 * with this capacity and unit. *map stays the caller's and must live longer. On failure the node's
 * log tells why, and nothing is open: CHI_ECONFLICT: what is allocated doesn't fit the capacity or
 * the unit; CHI_ECORRUPT, CHI_EVERSION, CHI_ENOMEM, or that of a file operation. */
CHI_PRIVATE int bdev_commit_open(chi_ctx *ctx, struct bdev_commit *c, const char *name,
                                 struct extent_map *map, uint64_t capacity, uint64_t unit);

/* Writes what waits and a mark, closes. No other call may be under way. */
CHI_PRIVATE void bdev_commit_close(chi_ctx *ctx, struct bdev_commit *c);

/* Ends the claims of a chain of the map: CHI_OK: they are durably allocated; else they are free
 * again. The chain is gone. As the next ones: when it waits, the task is not cancelled any more. */
CHI_PRIVATE int bdev_commit_allocate(chi_ctx *ctx, struct bdev_commit *c, struct extent *chain);

/* extent_free, and its record. Blocks only when very many frees wait. */
CHI_PRIVATE int bdev_commit_free(chi_ctx *ctx, struct bdev_commit *c,
                                 const struct extent_range *ranges, uint64_t count);

/* Returns CHI_OK when every free of before is durable. */
CHI_PRIVATE int bdev_commit_sync(chi_ctx *ctx, struct bdev_commit *c);

#endif
