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

#endif
