/* extent.h - which parts of a space are free: allocation as extents, with coalescing.
 *
 * Every byte of [0, capacity) is free, claimed or allocated. Claimed is between the two: taken from
 * what is free, but not yet granted, so that nobody can free or use it. Only free and claimed
 * extents are stored, in one balanced tree by offset; what no extent covers is allocated. A map
 * does not remember how allocated space was cut: any part of it, in units, may be freed by itself.
 * Free neighbours are always one extent. Operations take O(log n) steps per extent touched. */
#ifndef CHI_EXTENT_H
#define CHI_EXTENT_H

#include "alloc.h"
#include "base.h"

struct extent_range {
  uint64_t offset, size; /* bytes */
};

/* A free or claimed part. Claimed ones may be read by whoever holds the chain; the rest of it is
 * private. */
struct extent {
  uint64_t offset, size;
  struct extent *next; /* in a chain of claims, in order of claiming */
  struct extent *left, *right;
  uint64_t largest; /* free extent of this subtree */
  uint32_t height;
  bool claimed;
};

struct extent_map {
  uint64_t capacity, unit; /* for reading; unit is a power of two and divides capacity */
  uint64_t free_bytes;     /* for reading */
  uint64_t count;          /* for reading: extents in the tree */
  struct extent *root, *spare;
  uint64_t spare_count;
};

/* A map where everything is free. capacity is not 0 and a multiple of unit, a power of two.
 * CHI_OK or CHI_ENOMEM. */
CHI_PRIVATE int extent_init(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                            uint64_t unit);
/* Gives back all memory, that of claims too. A zeroed map may be closed as well. */
CHI_PRIVATE void extent_fini(struct extent_map *map, const struct alloc *alloc);

/* Claims size bytes, a multiple of unit and not 0, as few extents as there can be: the first one
 * in the space that is large enough, else the largest ones and the first that holds what is left.
 * *chain: the claims, linked by `next`; *count: how many. CHI_ENOSPC: less is free; CHI_ETOOBIG:
 * it takes more than `room` extents, *count tells how many; CHI_ENOMEM. Then nothing is claimed. */
CHI_PRIVATE int extent_claim(struct extent_map *map, const struct alloc *alloc, uint64_t size,
                             uint64_t room, struct extent **chain, uint64_t *count);
/* Ends the claims of a chain: they are allocated (settle) or free again (release). The chain is
 * gone. Neither can fail. */
CHI_PRIVATE void extent_settle(struct extent_map *map, const struct alloc *alloc,
                               struct extent *chain);
CHI_PRIVATE void extent_release(struct extent_map *map, const struct alloc *alloc,
                                struct extent *chain);

/* Frees ranges of allocated space; all or none. CHI_EINVAL: one of them is empty, not in whole
 * units, outside, overlaps another one, or is not allocated in whole; CHI_ENOMEM. */
CHI_PRIVATE int extent_free(struct extent_map *map, const struct alloc *alloc,
                            const struct extent_range *ranges, uint64_t count);
/* Allocates exactly this range. CHI_EINVAL: it is not free in whole, or as above; CHI_ENOMEM. */
CHI_PRIVATE int extent_take(struct extent_map *map, const struct alloc *alloc,
                            struct extent_range range);

/* Whether the whole range, any bytes of the space, is allocated. An empty one is if it lies inside
 * or at the end of allocated space. */
CHI_PRIVATE bool extent_allocated(const struct extent_map *map, uint64_t offset, uint64_t size);
/* The first run of allocated space that ends behind `from`, cut to begin at `from` at the
 * earliest. False: there is none. */
CHI_PRIVATE bool extent_next(const struct extent_map *map, uint64_t from,
                             struct extent_range *range);
/* The size of the largest free extent. */
CHI_PRIVATE uint64_t extent_largest(const struct extent_map *map);

/* Makes the space larger or smaller and changes its unit, when nothing is claimed; both as for
 * extent_init. CHI_ECONFLICT: what would be cut off is not free, or the unit would grow though
 * something is allocated; CHI_ENOMEM. Then nothing has changed. */
CHI_PRIVATE int extent_resize(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                              uint64_t unit);

#endif
