/* worker_io.c - file operations of tasks: here, or on a slow worker if they would block. */
#include "worker.h"

static void worker_io_done(struct worker *w, struct worker_io *wio)
{
  wio->node.kind = NODE_IO_DONE;
  if (wio->ctx->worker == w)
    worker_wake(w, wio->ctx, CHI_OK);
  else
    worker_send(w, wio->ctx->worker, &wio->node);
}

void worker_io_start(struct worker *w, struct worker_io *wio)
{
  struct env *env = w->crew->env;
  int rc = w->io_first ? CHI_EBUSY : env->io_submit(env, w->index, &wio->io);
  if (rc == CHI_EBUSY) {
    wio->next = NULL;
    *w->io_end = wio;
    w->io_end = &wio->next;
  } else if (rc == 0) {
    w->io_flight++;
  } else {
    worker_io_done(w, wio);
  }
}

bool worker_io_reap(struct worker *w)
{
  struct env *env = w->crew->env;
  struct env_io *io = env->io_reap(env, w->index);
  if (!io)
    return false;
  while (io) {
    struct env_io *next = io->next;
    CHI_ASSERT(w->io_flight > 0);
    w->io_flight--;
    worker_io_done(w, CHI_CONTAINER_OF(io, struct worker_io, io));
    io = next;
  }
  struct worker_io *waiting = w->io_first;
  w->io_first = NULL;
  w->io_end = &w->io_first;
  while (waiting) {
    struct worker_io *next = waiting->next;
    worker_io_start(w, waiting);
    waiting = next;
  }
  return true;
}

int64_t worker_io_run(chi_ctx *ctx, struct env_io *io)
{
  struct worker *w = ctx->worker;
  struct env *env = w->crew->env;
  struct worker_io wio = {.node.kind = NODE_IO, .io = *io, .ctx = ctx};
  if (w->kind != WORKER_SLOW && env->io_blocks(env, w->index, &wio.io)) {
    struct worker *slow = worker_of_slow(w->crew);
    ring_push(&slow->urgent, &wio.node);
    worker_ring(w, slow);
    worker_block(ctx, TASK_WAIT_IO, UINT64_MAX);
    return wio.io.result;
  }
  int rc = w->io_first ? CHI_EBUSY : env->io_submit(env, w->index, &wio.io);
  if (rc == 1)
    return wio.io.result;
  if (rc == 0) {
    w->io_flight++;
  } else if (rc == CHI_EBUSY && w->io_flight > 0) {
    *w->io_end = &wio;
    w->io_end = &wio.next;
  } else {
    return rc;
  }
  worker_block(ctx, TASK_WAIT_IO, UINT64_MAX);
  return wio.io.result;
}
