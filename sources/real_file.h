/* real_file.h - files: io_uring where the kernel has it and lets us, else pread and pwrite. */
#ifndef CHI_REAL_FILE_H
#define CHI_REAL_FILE_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

#define REAL_FILE_DEPTH 256u /* operations of one worker in flight */

/* Adds io_submit, io_blocks and io_reap for this number of workers. A worker gets its ring when it
 * first needs one; without rings, and for everything but read, write and sync, an operation is done
 * at once and blocks. A direct file on a file system that has no such thing is opened as a plain
 * one. CHI_ENOMEM. */
CHI_PRIVATE int real_file_bind(struct real_env *r, uint32_t workers);
/* No operation may be in flight. */
CHI_PRIVATE void real_file_close(struct real_env *r);

/* The rest is for the thread of that worker, between its steps. */

/* Hands what was submitted to the kernel, all of it in one call, and lets it finish what has
 * completed. False: the kernel can't take all of it now; try again soon. */
CHI_PRIVATE bool real_file_flush(struct real_env *r, uint32_t worker);
/* True if something has completed that io_reap hasn't handed out. */
CHI_PRIVATE bool real_file_ready(const struct real_env *r, uint32_t worker);
/* A descriptor that is readable while real_file_ready; -1 while nothing is in flight. It stays the
 * same from the first operation on. */
CHI_PRIVATE int real_file_descriptor(const struct real_env *r, uint32_t worker);

#endif
#endif
