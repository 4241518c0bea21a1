/* bdev_log.h - the bytes of an allocation log: a head and records, written and read back.
 *
 * A log says which parts of a device are allocated. It begins with a head and a snapshot, which
 * were durable before the file got its name; records of allocations and frees follow in the order
 * in which they happened. They are appended in batches, one after the other: a batch is begun only
 * when the one before is durable. So each record tells where its batch began (base): whatever lies
 * before that place was durable when the record was made. All numbers are little-endian.
 *
 * Each record carries the checksum of the one before (link) and a sequence number that is never
 * used again, not even after a failed batch. What a failed batch left behind a shorter one
 * therefore never passes for its continuation.
 *
 * Reading stops at the first record that doesn't fit. If all that could be lost with it is a
 * batch that was never confirmed, it is the torn tail of a crash, and dropped. If it lies in the
 * snapshot, or a later record proves that it was durable, it is damage, and the log is refused. The
 * last batch of a log can't be told from a torn one; a mark, a record of its own batch without
 * ranges that is appended at a clean end, closes that gap. */
#ifndef CHI_BDEV_LOG_H
#define CHI_BDEV_LOG_H

#include "alloc.h"
#include "base.h"
#include "extent.h"

#define BDEV_LOG_HEAD 64u   /* bytes of the head */
#define BDEV_LOG_RECORD 48u /* bytes of a record without its ranges */
#define BDEV_LOG_RANGE 16u  /* bytes of a range; records begin at multiples of this */

enum bdev_log_kind { BDEV_LOG_ALLOCATE = 1, BDEV_LOG_FREE, BDEV_LOG_MARK };

struct bdev_log_head {
  uint64_t id; /* of this file; in every record */
  uint64_t capacity, unit;
  uint64_t snapshot_end; /* offset behind the snapshot */
};

/* Writes records into memory of the caller, from where the chain of records stands. */
struct bdev_log_writer {
  uint8_t *bytes;
  uint64_t size, room;
  uint64_t id, base, seq; /* seq: the last one used */
  uint32_t link;
  uint64_t open; /* where the record that is being written begins */
};

/* Bytes of a record with count ranges. */
CHI_PRIVATE uint64_t bdev_log_size(uint64_t count);

/* Writes the head at the beginning of w, whose bytes and room are set, and sets the rest of w for
 * the records of the snapshot, which follow. */
CHI_PRIVATE void bdev_log_put_head(struct bdev_log_writer *w, const struct bdev_log_head *head);

/* Begins a record, adds a range to it, ends it. There must be room. */
CHI_PRIVATE void bdev_log_begin(struct bdev_log_writer *w, enum bdev_log_kind kind);
CHI_PRIVATE void bdev_log_range(struct bdev_log_writer *w, uint64_t offset, uint64_t size);
CHI_PRIVATE void bdev_log_end(struct bdev_log_writer *w);

/* What was read. */
struct bdev_log_found {
  struct bdev_log_head head;
  uint64_t seq, end; /* the last sequence number; where the next record belongs */
  uint32_t link;
  uint64_t records;
  bool torn;   /* something lies behind `end` */
  bool marked; /* nothing follows the snapshot, or a mark comes last */
};

/* Makes *map (unset before) what the log says. CHI_EVERSION: of another version; CHI_ECORRUPT:
 * damaged, *err tells where; CHI_ENOMEM. On failure the map needs no extent_fini. */
CHI_PRIVATE int bdev_log_replay(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                                struct extent_map *map, struct bdev_log_found *found,
                                chi_error *err);

#endif
