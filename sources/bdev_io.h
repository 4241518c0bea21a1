/* bdev_io.h - where the bytes of a block device are: in a file or in memory, and what that costs.
 *
 * A file is opened past the page cache. What is aligned goes straight from and to the caller's
 * memory; the rest through a buffer, where parts of a sector are read, changed and written back.
 * Meanwhile no other write touches that sector. At most `depth` reads, writes and syncs are under
 * way at a time; others wait in order. Syncs run one by one; one may serve several turns. Memory is
 * zero until it is written.
 *
 * All functions are called inside a method of the device's container; those on a file block. */
#ifndef CHI_BDEV_IO_H
#define CHI_BDEV_IO_H

#include "base.h"

enum bdev_io_kind { BDEV_IO_READ, BDEV_IO_WRITE, BDEV_IO_SYNC };

/* One operation, from begin to end; lives on the caller's stack. Private. */
struct bdev_io_turn {
  struct bdev_io_turn *next;
  enum bdev_io_kind kind;
  uint64_t number, first, last; /* the sectors of a write; first > last: none */
  bool patch;                   /* writes parts of sectors */
  bool admitted, timed;
  uint64_t since;
  chi_event wake;
};

/* Operations of one kind, or of all. Those that were timed count in the last four only. */
struct bdev_io_meter {
  uint64_t count, bytes;       /* for reading */
  uint64_t timed, timed_bytes; /* operations that were timed, and their bytes */
  uint64_t spent, busy_ns;     /* sum of their times; time in which one was under way */
  uint64_t under_way, since;
};

struct bdev_io {
  uint64_t capacity; /* for reading */
  chi_file *file;    /* NULL: memory */
  uint8_t **memory;  /* in pieces; NULL: nothing has been written to it */
  uint64_t turns;
  uint64_t synced; /* turns before this number: what was written before them is durable */
  uint32_t depth, active, touchy;
  uint32_t sample[2]; /* reads and writes so far, of memory: which are timed */
  struct bdev_io_turn *running, *waiting, **waiting_end;
  struct bdev_io_meter meter[3]; /* reads, writes, both together */
  int failed;                    /* a sync has failed */
};

/* Opens a file that nobody else has open in this way; flags beside CHI_FILE_LOCK. What a killed
 * process had under way in the kernel keeps its lock until it has come to its end, and is waited
 * for: a while, then CHI_EBUSY. Other codes as chi_file_open. */
CHI_PRIVATE int bdev_io_open_locked(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out);
/* Opens the file, making or extending it; *capacity 0: its size, then what it is. Locked against
 * every other opener. Name and size are durable, and what was in it. *made: it was not there
 * before. On failure nothing is open or made and the node's log tells why: CHI_EBUSY: in use;
 * CHI_EINVAL: no capacity, or that of a file operation. */
CHI_PRIVATE int bdev_io_open_file(chi_ctx *ctx, struct bdev_io *io, const char *path,
                                  uint64_t *capacity, uint32_t depth, bool *made);
/* capacity bytes of memory, not 0, which count as the data of modules. CHI_ENOMEM if they are not
 * there now, and the node's log tells why. They are taken when they are written to: what others
 * took meanwhile is missing then. Does not block. */
CHI_PRIVATE int bdev_io_open_memory(chi_ctx *ctx, struct bdev_io *io, uint64_t capacity);
/* Gives everything back. Nothing may be under way. */
CHI_PRIVATE void bdev_io_close(chi_ctx *ctx, struct bdev_io *io);

/* Waits for its turn; size 0 for a sync. CHI_OK, then bdev_io_end must follow; or CHI_ECANCELLED,
 * CHI_ETIMEOUT. */
CHI_PRIVATE int bdev_io_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn,
                              enum bdev_io_kind kind, uint64_t offset, uint64_t size);
/* bytes: how many were transferred, for the figures; 0 with an rc other than CHI_OK. */
CHI_PRIVATE void bdev_io_end(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn, int rc,
                             uint64_t bytes);

/* Between begin and end, with what begin was told; the range lies inside the capacity. CHI_OK,
 * CHI_ENOMEM, or that of a file operation: then some part may have been transferred. */
CHI_PRIVATE int bdev_io_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, void *data,
                             uint64_t size);
CHI_PRIVATE int bdev_io_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, const void *data,
                              uint64_t size);
/* Of a file. CHI_OK: what was written before the turn began is durable. When a sync has failed
 * once, it is CHI_EIO until the device is opened again: nobody knows what became of the data. */
CHI_PRIVATE int bdev_io_sync(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn);

/* Figures of a meter; 0 where nothing was measured. Megabytes are of 10^6 bytes. Bandwidth and
 * operations a second count the time in which an operation was under way. */
CHI_PRIVATE double bdev_io_bandwidth_mbps(const struct bdev_io_meter *m);
CHI_PRIVATE double bdev_io_latency_us(const struct bdev_io_meter *m);
CHI_PRIVATE double bdev_io_iops(const struct bdev_io_meter *m);

#endif
