/* bdev.h - the block device module: space of a file or of memory, in blocks.
 *
 * What its methods do is said at their tasks in chimaera.h. Beyond that:
 * - An allocation is acknowledged when it is durable, and not cancelled while it waits for that. A
 *   free is durable with the next allocation or sync: until then a crash may take it back, and the
 *   block can be freed again.
 * - Any part of an allocated block may be freed, in units of the alignment, at least 4 KiB.
 * - A block's type is the power of two of 4 KiB that it holds: 0 from 4 KiB on, 1 from 8 KiB on.
 * - Reads and writes ask that the whole block is allocated (else CHI_EINVAL), and that the length
 *   fits the block (CHI_ERANGE) and the buffer (CHI_EINVAL). Offset and length are any bytes.
 *   Freeing a block while it is written to is the caller's own race.
 * - A sync that failed makes every later one fail with CHI_EIO until the pool is opened again. What
 *   was written since the last good one must be written again: it may be readable and yet be lost.
 * - The declared perf_metrics are shown by the monitor beside what was measured, and used nowhere.
 * - A pool whose file is in use by another pool or process is refused with CHI_EBUSY. */
#ifndef CHI_BDEV_H
#define CHI_BDEV_H

#include "base.h"

CHI_PRIVATE const chi_module *bdev_module(void);

#endif
