/* sim_disk.h - a disk in memory: what programs see, what is safe, and what a crash leaves.
 *
 * Knows neither time nor faults: every operation happens at once. Each file has what is read now
 * and what is safe, and the changes in between; names likewise. A sync makes safe what was changed
 * before it was begun, a directory sync the names. A crash decides about everything else. */
#ifndef CHI_SIM_DISK_H
#define CHI_SIM_DISK_H

#include "base.h"
#include "env.h"

#define SIM_DISK_SECTOR 512u /* written whole or not at all */
#define SIM_DISK_ALIGN 4096u /* what a direct file asks of offset, size and memory */

struct sim_disk;

enum sim_disk_crash {
  SIM_DISK_SEED, /* each unsynced change is lost, kept or torn, whatever came after it */
  SIM_DISK_LOSE, /* nothing unsynced survives */
  SIM_DISK_KEEP  /* only the process died: all is there, and what was unsynced still is */
};

/* An empty disk of capacity bytes; what a crash leaves is drawn from (seed, node). Ends the program
 * if there is no memory, here and in everything below. */
CHI_PRIVATE struct sim_disk *sim_disk_open(uint64_t seed, uint32_t node, uint64_t capacity);
CHI_PRIVATE void sim_disk_close(struct sim_disk *d);

/* A directory, durable at once. Opening, creating or renaming to a path whose directory was not
 * made this way is CHI_ENOENT; "/" and the directory of relative paths are always there. */
CHI_PRIVATE CHI_UNUSED void sim_disk_mkdir(struct sim_disk *d, const char *path);

/* Performs an operation of the seam and returns its result, as env.h describes it; io is not
 * written, io->buf is as the operation says. mark is what sim_disk_mark gave when the operation
 * was begun: a sync covers the changes that were made up to then. */
CHI_PRIVATE uint64_t sim_disk_mark(const struct sim_disk *d);
CHI_PRIVATE int64_t sim_disk_do(struct sim_disk *d, const struct env_io *io, uint64_t mark);

/* A sync that fails: of the changes it would have covered, each is safe or will be gone after a
 * crash, as drawn; no later sync covers them. Reading gives them until then. */
CHI_PRIVATE void sim_disk_sync_failed(struct sim_disk *d, const struct env_io *io, uint64_t mark);

/* All open files and locks are gone, and of what was not safe, what `how` says. */
CHI_PRIVATE void sim_disk_crash(struct sim_disk *d, enum sim_disk_crash how);

/* A path of an open file; NULL: it has none any more, or there is no such handle. */
CHI_PRIVATE const char *sim_disk_path(const struct sim_disk *d, int64_t handle);
/* Number of open files. */
CHI_PRIVATE uint32_t sim_disk_open_count(const struct sim_disk *d);

/* Whether nothing that was done up to the mark to the file whose path has that hash, as far as
 * ENV_TRACE_DEVICE tells it, is still to be lost in a crash. */
CHI_PRIVATE bool sim_disk_is_safe(const struct sim_disk *d, uint64_t path, uint64_t mark);

/* For tests. Reads as a program would: bytes, or CHI_ENOENT. */
CHI_PRIVATE CHI_UNUSED int64_t sim_disk_peek(const struct sim_disk *d, const char *path, void *buf,
                                             uint64_t size, uint64_t offset);
/* The same of what is safe, under the name it has now; with a size of 0: how many bytes. */
CHI_PRIVATE CHI_UNUSED int64_t sim_disk_peek_safe(const struct sim_disk *d, const char *path,
                                                  void *buf, uint64_t size, uint64_t offset);
/* For tests. Writes into a file, which is made if it isn't there; durable at once. */
CHI_PRIVATE CHI_UNUSED void sim_disk_poke(struct sim_disk *d, const char *path, const void *buf,
                                          uint64_t size, uint64_t offset);

#endif
