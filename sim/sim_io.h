/* sim_io.h - a node's operations on files: the time they take and the faults that hit them. */
#ifndef CHI_SIM_IO_H
#define CHI_SIM_IO_H

#include "base.h"
#include "env.h"
#include "sim_disk.h"
#include "sim_thread.h"

/* What one worker has under way, and what it has not reaped. */
struct sim_io_worker {
  struct sim_thread *thread; /* to be woken; NULL: none */
  uint32_t flight;
  struct env_io *first, **last;
};

struct sim_io_op;

struct sim_io {
  struct sim_world *world;
  struct sim_disk *disk;
  uint32_t node;
  struct rng rng;
  bool blocks; /* operations hold their thread up, as where there is no asynchronous I/O */
  struct sim_io_worker *worker;
  uint32_t worker_count;
  struct sim_io_op *flight, **last; /* oldest first */
};

CHI_PRIVATE void sim_io_init(struct sim_io *io, struct sim_world *world, struct sim_disk *disk,
                             uint32_t node, uint32_t worker_count);
/* Forgets what is under way: of a change it is drawn whether it was made. */
CHI_PRIVATE void sim_io_fini(struct sim_io *io);

/* As env.io_submit, io_blocks and io_reap. */
CHI_PRIVATE int sim_io_submit(struct sim_io *io, uint32_t worker, struct env_io *op);
CHI_PRIVATE bool sim_io_blocks(const struct sim_io *io, const struct env_io *op);
CHI_PRIVATE struct env_io *sim_io_reap(struct sim_io *io, uint32_t worker);
/* Whether the worker has anything to reap. */
CHI_PRIVATE bool sim_io_ready(const struct sim_io *io, uint32_t worker);

#endif
