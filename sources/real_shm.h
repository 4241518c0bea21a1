/* real_shm.h - shared memory: memfds that nobody can shrink, populated before they are used. */
#ifndef CHI_REAL_SHM_H
#define CHI_REAL_SHM_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

/* Adds segment_open, segment_close, segment_discard and segment_restore. Segments are whole pages,
 * are not inherited by forked children, and are known by an address of private memory (handle 0 in
 * a process that received one). A segment that may be written is shared at most once: its
 * descriptor is closed then, so that a node needs few of them; one that may only be read is shared
 * any number of times. */
CHI_PRIVATE void real_shm_bind(struct real_env *r);

/* The descriptor to hand over for a share of this segment; -1 if there is none any more. It stays
 * the segment's. */
CHI_PRIVATE int real_shm_lend(const struct env_segment *segment, enum env_access access);
/* After a descriptor that was lent has been sent. */
CHI_PRIVATE void real_shm_lent(const struct env_segment *segment, enum env_access access);

/* Maps a segment that was received; closes fd in any case. CHI_ENOMEM, CHI_ECORRUPT: it is not a
 * segment, or could be shrunk. */
CHI_PRIVATE int real_shm_adopt(int fd, enum env_access access, struct env_segment *out);

#endif
#endif
