/* sim_io.c - a node's operations on files: the time they take and the faults that hit them. */
#include "sim_io.h"

#include <stdlib.h>

#define SIM_IO_DEPTH 32u /* operations under way, per worker */

struct sim_io_op {
  struct sim_world_event event;
  struct sim_io_op *next;
  struct sim_io *owner;
  uint32_t worker;
  struct env_io *io;
  uint64_t mark;
  bool faulty, done;
  struct sim_fault_io fault;
  struct sim_thread *waiter; /* of a blocking operation */
};

CHI_PRIVATE void sim_io_init(struct sim_io *io, struct sim_world *world, struct sim_disk *disk,
                             uint32_t node, uint32_t worker_count)
{
  *io = (struct sim_io){.world = world, .disk = disk, .node = node, .worker_count = worker_count};
  sim_world_stream(world, &io->rng, node, SIM_WORLD_STREAM_IO);
  io->worker = sim_world_new(worker_count * sizeof(*io->worker));
  for (uint32_t i = 0; i < worker_count; i++)
    io->worker[i].last = &io->worker[i].first;
  io->last = &io->flight;
}

static void sim_io_trace(const struct sim_io_op *op, int kind, uint64_t value)
{
  const struct env_io *io = op->io;
  const char *path = kind == SIM_TRACE_IO_END ? NULL : io->path;
  if (kind == SIM_TRACE_IO_BEGIN && !path)
    path = sim_disk_path(op->owner->disk, io->file);
  sim_world_trace(op->owner->world, op->owner->node, kind, op->worker, (uint64_t)io->op, value,
                  path);
}

/* ---- what an operation does --------------------------------------------------------------- */

/* Fails as the rule says; but part of a write may have happened, a sync may have lost data, and
 * what is closed is closed. */
static int64_t sim_io_fail(struct sim_io_op *op)
{
  struct sim_io *owner = op->owner;
  struct env_io part = *op->io;
  if (part.op == ENV_IO_CLOSE)
    sim_disk_do(owner->disk, &part, op->mark);
  if (part.op == ENV_IO_SYNC)
    sim_disk_sync_failed(owner->disk, &part, op->mark);
  if (part.op == ENV_IO_WRITE) {
    part.size = rng_below(&owner->rng, part.size / SIM_DISK_ALIGN + 1) * SIM_DISK_ALIGN;
    if (part.size)
      sim_disk_do(owner->disk, &part, op->mark);
  }
  return op->fault.result;
}

/* A transfer may do less than asked, at any time. What a direct file transfers stays aligned. */
static uint64_t sim_io_size(struct sim_io_op *op)
{
  uint64_t size = op->io->size, unit = size % SIM_DISK_ALIGN ? SIM_DISK_SECTOR : SIM_DISK_ALIGN;
  bool less = rng_chance(&op->owner->rng, SIM_WORLD_WHIM_PPM);
  if (op->faulty && op->fault.limit)
    return size < op->fault.limit ? size : op->fault.limit;
  if (!less || size <= unit)
    return size;
  return unit * (1 + rng_below(&op->owner->rng, (size - 1) / unit));
}

static int64_t sim_io_perform(struct sim_io_op *op)
{
  struct env_io io = *op->io;
  if (op->faulty && op->fault.result < 0)
    return sim_io_fail(op);
  if (io.op == ENV_IO_READ || io.op == ENV_IO_WRITE)
    io.size = sim_io_size(op);
  return sim_disk_do(op->owner->disk, &io, op->mark);
}

static void sim_io_unlink(struct sim_io_op *op)
{
  struct sim_io_op **at = &op->owner->flight;
  while (*at != op)
    at = &(*at)->next;
  *at = op->next;
  if (!op->next)
    op->owner->last = at;
}

/* ---- its way ------------------------------------------------------------------------------ */

static void sim_io_hand_back(struct sim_io_op *op)
{
  struct sim_io_worker *worker = &op->owner->worker[op->worker];
  op->io->next = NULL;
  *worker->last = op->io;
  worker->last = &op->io->next;
  if (worker->thread)
    sim_thread_wake(worker->thread, op->owner->world->now + op->owner->world->profile.io_wake);
}

static void sim_io_complete(struct sim_world_event *event)
{
  struct sim_io_op *op = CHI_CONTAINER_OF(event, struct sim_io_op, event);
  op->io->result = sim_io_perform(op);
  op->owner->worker[op->worker].flight--;
  sim_io_trace(op, SIM_TRACE_IO_END, (uint64_t)op->io->result);
  sim_io_unlink(op);
  if (op->waiter) {
    op->done = true;
    sim_thread_wake(op->waiter, op->owner->world->now);
    return;
  }
  sim_io_hand_back(op);
  free(op);
}

static uint64_t sim_io_time(struct sim_io_op *op)
{
  const struct env_io *io = op->io;
  const struct sim_profile *profile = &op->owner->world->profile;
  uint64_t ns = profile->io;
  if (io->op == ENV_IO_SYNC || io->op == ENV_IO_DIRSYNC)
    ns = profile->io_sync;
  if (io->op == ENV_IO_READ || io->op == ENV_IO_WRITE)
    ns += io->size * profile->io_byte_ps / 1000;
  ns = sim_world_about(&op->owner->rng, ns);
  return op->owner->world->now + ns + (op->faulty ? op->fault.delay_ns : 0);
}

static struct sim_io_op *sim_io_begin(struct sim_io *io, uint32_t worker, struct env_io *env_io)
{
  struct sim_io_op *op = sim_world_new(sizeof(*op));
  const char *path = env_io->path ? env_io->path : sim_disk_path(io->disk, env_io->file);
  const struct sim_fault_io *fault =
      sim_fault_hits_io(&io->world->fault, io->node, env_io->op, path);
  op->event.run = sim_io_complete;
  op->owner = io;
  op->worker = worker;
  op->io = env_io;
  op->mark = sim_disk_mark(io->disk);
  op->faulty = fault != NULL;
  if (fault) {
    op->fault = *fault;
    sim_world_trace(io->world, io->node, SIM_TRACE_FAULT_IO, worker, (uint64_t)env_io->op, 0, path);
  }
  *io->last = op;
  io->last = &op->next;
  io->worker[worker].flight++;
  sim_io_trace(op, SIM_TRACE_IO_BEGIN, env_io->size);
  return op;
}

/* The cheapest operations may be over before the call returns. */
static bool sim_io_at_once(struct sim_io_op *op)
{
  bool drawn = rng_below(&op->owner->rng, 2);
  return drawn && !op->faulty && (op->io->op == ENV_IO_CLOSE || op->io->op == ENV_IO_SIZE);
}

static int sim_io_run_blocking(struct sim_io_op *op)
{
  op->waiter = op->owner->world->running;
  sim_world_at(op->owner->world, &op->event, sim_io_time(op));
  while (!op->done)
    sim_thread_park(op->owner->world, SIM_WORLD_NEVER);
  free(op);
  return 1;
}

CHI_PRIVATE int sim_io_submit(struct sim_io *io, uint32_t worker, struct env_io *env_io)
{
  struct sim_io_op *op;
  uint32_t flight;
  CHI_ASSERT(worker < io->worker_count);
  flight = io->worker[worker].flight;
  if (flight && (flight >= SIM_IO_DEPTH || rng_chance(&io->rng, SIM_WORLD_WHIM_PPM)))
    return CHI_EBUSY;
  op = sim_io_begin(io, worker, env_io);
  if (io->blocks)
    return sim_io_run_blocking(op);
  if (!sim_io_at_once(op)) {
    sim_world_at(io->world, &op->event, sim_io_time(op));
    return 0;
  }
  env_io->result = sim_io_perform(op);
  io->worker[worker].flight--;
  sim_io_trace(op, SIM_TRACE_IO_END, (uint64_t)env_io->result);
  sim_io_unlink(op);
  free(op);
  return 1;
}

CHI_PRIVATE bool sim_io_blocks(const struct sim_io *io, const struct env_io *op)
{
  (void)op;
  return io->blocks;
}

CHI_PRIVATE struct env_io *sim_io_reap(struct sim_io *io, uint32_t worker)
{
  struct sim_io_worker *from = &io->worker[worker];
  struct env_io *first = from->first;
  from->first = NULL;
  from->last = &from->first;
  return first;
}

CHI_PRIVATE bool sim_io_ready(const struct sim_io *io, uint32_t worker)
{
  return io->worker[worker].first != NULL;
}

static bool sim_io_changes(const struct env_io *io)
{
  return io->op == ENV_IO_WRITE || io->op == ENV_IO_TRUNCATE || io->op == ENV_IO_RENAME ||
         io->op == ENV_IO_REMOVE || io->op == ENV_IO_OPEN;
}

CHI_PRIVATE void sim_io_fini(struct sim_io *io)
{
  while (io->flight) {
    struct sim_io_op *op = io->flight;
    if (sim_io_changes(op->io) && rng_below(&io->rng, 2))
      sim_disk_do(io->disk, op->io, op->mark);
    sim_world_cancel(io->world, &op->event);
    sim_io_unlink(op);
    free(op);
  }
  free(io->worker);
  memset(io, 0, sizeof(*io));
}

#undef SIM_IO_DEPTH
