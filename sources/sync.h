/* sync.h - the state of co-operative locks: who holds, who waits, who is next. Nothing blocks here.
 *
 * The objects live in a container's state as the opaque structs of chimaera.h; zeroed is unlocked.
 * Each has a latch, since containers of parallel modules are entered by several workers. Tasks of
 * one root are one holder. A function that lets tasks in returns them as a list through
 * sync_next; the caller wakes each with CHI_OK. */
#ifndef CHI_SYNC_H
#define CHI_SYNC_H

#include "base.h"
#include "alloc.h"
#include "task.h"

/* CHI_OK: held now. CHI_EBUSY: not; if `wait`, ctx is queued and will be let in by somebody. */
CHI_PRIVATE int sync_mutex_lock(chi_mutex *m, chi_ctx *ctx, bool wait);
CHI_PRIVATE int sync_mutex_unlock(chi_mutex *m, chi_ctx *ctx, chi_ctx **woken);

/* A reader's hold is remembered by root, in memory of alloc: CHI_ENOMEM. */
CHI_PRIVATE int sync_rwlock_lock(chi_rwlock *l, chi_ctx *ctx, bool write,
                                 const struct alloc *alloc);
CHI_PRIVATE int sync_rwlock_unlock(chi_rwlock *l, chi_ctx *ctx, const struct alloc *alloc,
                                   chi_ctx **woken);

/* CHI_OK: it is set. CHI_EBUSY: ctx is queued. */
CHI_PRIVATE int sync_event_wait(chi_event *e, chi_ctx *ctx);
CHI_PRIVATE void sync_event_set(chi_event *e, chi_ctx **woken);
CHI_PRIVATE void sync_event_reset(chi_event *e);

/* Takes a waiting task out of its queue; false: somebody has let it in already. Others may get in
 * because it no longer stands before them. */
CHI_PRIVATE bool sync_abandon(chi_ctx *ctx, const struct alloc *alloc, chi_ctx **woken);

#endif
