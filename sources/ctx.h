/* ctx.h - what a method may call, beyond the public functions: for the built-in modules. */
#ifndef CHI_CTX_H
#define CHI_CTX_H

#include "base.h"
#include "task.h"

/* From here on the running task is not cancelled. */
CHI_PRIVATE void ctx_shield(chi_ctx *ctx);
/* Blocks for ns whatever happens. */
CHI_PRIVATE void ctx_pause(chi_ctx *ctx, uint64_t ns);
/* A subtask for a given container and method instead of those that its pool and method id name. */
CHI_PRIVATE void ctx_aim(void *subtask, struct container *container, struct method *method,
                         bool slow);
/* A typed event (enum env_trace), if anybody listens. */
CHI_PRIVATE void ctx_trace(chi_ctx *ctx, int what, uint64_t a, uint64_t b, uint64_t c);
/* Counts so many bytes against the node's budget for the data of its modules, which the
 * configuration calls memory.runtime_data_segment_size. CHI_ENOMEM: only *left of it are left. */
CHI_PRIVATE int ctx_data_take(chi_ctx *ctx, uint64_t size, uint64_t *left);
CHI_PRIVATE void ctx_data_give(chi_ctx *ctx, uint64_t size);

#endif
