/* bdev.c - the block device module: parameters, methods, figures. */
#include "bdev.h"
#include "bdev_commit.h"
#include "bdev_io.h"
#include "ctx.h"
#include "env.h"
#include "extent.h"
#include "hash.h"

#include <stdio.h>

#define BDEV_CLASS 4096u /* the smallest block */
#define BDEV_ALIGNMENT_MIN 512u
#define BDEV_ALIGNMENT_MAX (1u << 20)
#define BDEV_DEPTH_MAX 1024u /* operations on a file under way are looked through one by one */

/* A container. */
struct bdev {
  struct chi_bdev_params params;
  struct extent_map map;
  struct bdev_io io;
  struct bdev_commit commit; /* of a file */
  uint64_t syncs;            /* so far: they number them */
};

/* For those who compare what a file's device acknowledges with what is there. */
static void bdev_trace(chi_ctx *ctx, const struct bdev *self, enum env_device what, uint64_t b,
                       uint64_t c)
{
  const char *path = chi_self_pool_name(ctx);
  if (self->io.file)
    ctx_trace(ctx, ENV_TRACE_DEVICE,
              hash_bytes(path, strlen(path), 0) << ENV_DEVICE_BITS | (uint64_t)what, b, c);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static uint32_t bdev_type_of(uint64_t size)
{
  uint32_t type = 0;
  while (size / 2 >= (uint64_t)BDEV_CLASS << type)
    type++;
  return type;
}

/* Tells the extents of a chain: the first in the task, further ones in its buffer. */
static void bdev_tell(struct chi_bdev_allocate_blocks *t, const struct extent *chain)
{
  uint8_t *more = t->more.data;
  for (uint64_t i = 0; chain; chain = chain->next, i++) {
    struct chi_block block;
    memset(&block, 0, sizeof(block));
    block.offset = chain->offset;
    block.size = chain->size;
    block.type = bdev_type_of(chain->size);
    if (i < CHI_BDEV_BLOCKS)
      t->blocks[t->blocks_count++] = block;
    else
      memcpy(more + (i - CHI_BDEV_BLOCKS) * sizeof(block), &block, sizeof(block));
  }
}

static int bdev_allocate(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_allocate_blocks *t = task;
  struct alloc memory = bdev_commit_memory(ctx);
  uint64_t unit = self->map.unit, room = CHI_BDEV_BLOCKS;
  struct extent *chain;
  int rc;
  t->blocks_count = 0;
  t->block_total = 0;
  if (t->size == 0)
    return CHI_EINVAL;
  if (t->size > self->map.capacity)
    return CHI_ENOSPC;
  if (t->more.data)
    room += t->more.size / sizeof(struct chi_block);
  rc = extent_claim(&self->map, &memory, (t->size + unit - 1) & ~(unit - 1), room, &chain,
                    &t->block_total);
  if (rc) {
    t->block_total = rc == CHI_ETOOBIG ? t->block_total : 0;
    return rc;
  }
  bdev_tell(t, chain);
  if (self->io.file)
    rc = bdev_commit_allocate(ctx, &self->commit, chain);
  else
    extent_settle(&self->map, &memory, chain);
  if (rc)
    t->block_total = t->blocks_count = 0;
  for (uint32_t i = 0; i < t->blocks_count; i++)
    bdev_trace(ctx, self, ENV_DEVICE_ALLOCATED, t->blocks[i].offset, t->blocks[i].size);
  return rc;
}

static uint64_t bdev_more_blocks(const struct chi_bdev_free_blocks *t)
{
  return t->more.data ? t->more.size / sizeof(struct chi_block) : 0;
}

/* The task's blocks as ranges; a client may change its buffer at any time: it is read once. */
static void bdev_gather(const struct chi_bdev_free_blocks *t, struct extent_range *ranges)
{
  const uint8_t *more = t->more.data;
  uint64_t count = t->blocks_count + bdev_more_blocks(t);
  for (uint64_t i = 0; i < count; i++) {
    struct chi_block block;
    if (i < t->blocks_count)
      block = t->blocks[i];
    else
      memcpy(&block, more + (i - t->blocks_count) * sizeof(block), sizeof(block));
    ranges[i] = (struct extent_range){block.offset, block.size};
  }
}

static int bdev_free(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  const struct chi_bdev_free_blocks *t = task;
  struct alloc memory = bdev_commit_memory(ctx);
  struct extent_range few[CHI_BDEV_BLOCKS], *ranges = few;
  uint64_t count = t->blocks_count + bdev_more_blocks(t);
  int rc;
  if (t->blocks_count > CHI_BDEV_BLOCKS || count > self->map.capacity / self->map.unit ||
      (t->more.data && t->more.size % sizeof(struct chi_block) != 0))
    return CHI_EINVAL;
  if (count > CHI_BDEV_BLOCKS)
    ranges = chi_alloc(ctx, count * sizeof(*ranges));
  if (!ranges)
    return CHI_ENOMEM;
  bdev_gather(t, ranges);
  for (uint64_t i = 0; i < count; i++)
    bdev_trace(ctx, self, ENV_DEVICE_FREES, ranges[i].offset, ranges[i].size);
  rc = self->io.file ? bdev_commit_free(ctx, &self->commit, ranges, count)
                     : extent_free(&self->map, &memory, ranges, count);
  if (ranges != few)
    chi_free(ctx, ranges, count * sizeof(*ranges));
  return rc;
}

/* ---- transfers ------------------------------------------------------------------------------- */

static int bdev_check_transfer(const struct chi_block *block, const chi_bulk *data, uint64_t length)
{
  if (length > block->size)
    return CHI_ERANGE;
  return length > data->size || (length > 0 && !data->data) ? CHI_EINVAL : CHI_OK;
}

static int bdev_write(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_write *t = task;
  struct bdev_io_turn turn;
  int rc = bdev_check_transfer(&t->block, &t->data, t->length);
  t->bytes_written = 0;
  if (!rc)
    rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_WRITE, t->block.offset, t->length);
  if (rc)
    return rc;
  if (!extent_allocated(&self->map, t->block.offset, t->block.size))
    rc = CHI_EINVAL;
  else if (t->length > 0)
    rc = bdev_io_write(ctx, &self->io, t->block.offset, t->data.data, t->length);
  t->bytes_written = rc ? 0 : t->length;
  bdev_io_end(ctx, &self->io, &turn, rc, t->bytes_written);
  return rc;
}

static int bdev_read(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct chi_bdev_read *t = task;
  struct bdev_io_turn turn;
  int rc = bdev_check_transfer(&t->block, &t->data, t->length);
  t->bytes_read = 0;
  if (!rc)
    rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_READ, t->block.offset, t->length);
  if (rc)
    return rc;
  if (!extent_allocated(&self->map, t->block.offset, t->block.size))
    rc = CHI_EINVAL;
  else if (t->length > 0)
    rc = bdev_io_read(ctx, &self->io, t->block.offset, t->data.data, t->length);
  t->bytes_read = rc ? 0 : t->length;
  bdev_io_end(ctx, &self->io, &turn, rc, t->bytes_read);
  return rc;
}

static int bdev_sync(chi_ctx *ctx, void *state, void *task)
{
  struct bdev *self = state;
  struct bdev_io_turn turn;
  uint64_t number = ++self->syncs;
  int rc;
  (void)task;
  if (!self->io.file)
    return CHI_OK;
  bdev_trace(ctx, self, ENV_DEVICE_SYNCS, number, 0);
  rc = bdev_io_begin(ctx, &self->io, &turn, BDEV_IO_SYNC, 0, 0);
  if (rc == CHI_OK) {
    rc = bdev_io_sync(ctx, &self->io, &turn);
    bdev_io_end(ctx, &self->io, &turn, rc, 0);
  }
  if (rc == CHI_OK)
    rc = bdev_commit_sync(ctx, &self->commit);
  bdev_trace(ctx, self, ENV_DEVICE_SYNCED, number, (uint64_t)(int64_t)rc);
  return rc;
}

/* ---- create and destroy ---------------------------------------------------------------------- */

static int bdev_refuse(chi_ctx *ctx, const char *what, uint64_t got, const char *wanted)
{
  chi_log(ctx, CHI_LOG_ERROR, "%s is %llu, expected %s", what, (unsigned long long)got, wanted);
  return CHI_EINVAL;
}

static bool bdev_is_metric(double value)
{
  return value >= 0 && value <= 1e18;
}

static int bdev_check(chi_ctx *ctx, const struct chi_bdev_params *p)
{
  bool file = strcmp(p->bdev_type, "file") == 0;
  if (!file && strcmp(p->bdev_type, "ram") != 0) {
    chi_log(ctx, CHI_LOG_ERROR, "bdev_type is \"%s\", expected \"file\" or \"ram\"", p->bdev_type);
    return CHI_EINVAL;
  }
  if (p->alignment < BDEV_ALIGNMENT_MIN || p->alignment > BDEV_ALIGNMENT_MAX ||
      (p->alignment & (p->alignment - 1)) != 0)
    return bdev_refuse(ctx, "alignment", p->alignment, "a power of two from 512 to 1048576");
  if (p->io_depth < 1 || p->io_depth > BDEV_DEPTH_MAX)
    return bdev_refuse(ctx, "io_depth", p->io_depth, "1 to 1024");
  if (p->capacity > INT64_MAX || (p->capacity == 0 && !file))
    return bdev_refuse(ctx, "capacity", p->capacity, "1 to 2^63 - 1 bytes");
  if (!bdev_is_metric(p->perf_metrics_read_bandwidth_mbps) ||
      !bdev_is_metric(p->perf_metrics_write_bandwidth_mbps) ||
      !bdev_is_metric(p->perf_metrics_read_latency_us) ||
      !bdev_is_metric(p->perf_metrics_write_latency_us) || !bdev_is_metric(p->perf_metrics_iops)) {
    chi_log(ctx, CHI_LOG_ERROR, "a value of perf_metrics is negative or not a number");
    return CHI_EINVAL;
  }
  return CHI_OK;
}

/* What blocks are multiples of. */
static uint64_t bdev_unit(const struct chi_bdev_params *p)
{
  return p->alignment > BDEV_CLASS ? p->alignment : BDEV_CLASS;
}

static int bdev_open_memory(chi_ctx *ctx, struct bdev *self, uint64_t capacity, uint64_t unit)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc = bdev_io_open_memory(ctx, &self->io, capacity);
  if (rc)
    return rc;
  rc = extent_init(&self->map, &memory, capacity, unit);
  if (rc) {
    chi_log(ctx, CHI_LOG_ERROR, "no memory for the free space");
    bdev_io_close(ctx, &self->io);
  }
  return rc;
}

static int bdev_create_memory(chi_ctx *ctx, struct bdev *self)
{
  uint64_t unit = bdev_unit(&self->params), capacity = self->params.capacity & ~(unit - 1);
  if (capacity == 0)
    return bdev_refuse(ctx, "capacity", self->params.capacity, "at least one block");
  return bdev_open_memory(ctx, self, capacity, unit);
}

static int bdev_open_log(chi_ctx *ctx, struct bdev *self, const char *path, uint64_t capacity)
{
  uint64_t unit = bdev_unit(&self->params), whole = capacity & ~(unit - 1);
  if (whole == 0)
    return bdev_refuse(ctx, "capacity", capacity, "at least one block");
  return bdev_commit_open(ctx, &self->commit, path, &self->map, whole, unit);
}

static void bdev_trace_found(chi_ctx *ctx, const struct bdev *self)
{
  struct extent_range r;
  bdev_trace(ctx, self, ENV_DEVICE_OPENS, 0, 0);
  for (uint64_t at = 0; extent_next(&self->map, at, &r); at = r.offset + r.size)
    bdev_trace(ctx, self, ENV_DEVICE_HAS, r.offset, r.size);
  bdev_trace(ctx, self, ENV_DEVICE_OPENED, 0, 0);
}

static int bdev_create_file(chi_ctx *ctx, struct bdev *self)
{
  const char *path = chi_self_pool_name(ctx);
  uint64_t capacity = self->params.capacity;
  bool made;
  int rc = bdev_io_open_file(ctx, &self->io, path, &capacity, self->params.io_depth, &made);
  if (rc)
    return rc;
  rc = bdev_open_log(ctx, self, path, capacity);
  if (!rc && strncmp(path, "/dev/", 5) == 0)
    chi_log(ctx, CHI_LOG_WARNING,
            "what is allocated is noted beside the name, in /dev, and lost when the machine "
            "restarts; name it by a symbolic link elsewhere");
  if (!rc) {
    bdev_trace_found(ctx, self);
    return CHI_OK;
  }
  bdev_io_close(ctx, &self->io);
  if (made)
    chi_file_remove(ctx, path);
  return rc;
}

static int bdev_create(chi_ctx *ctx, void *state, const void *params)
{
  struct bdev *self = state;
  int rc;
  self->params = *(const struct chi_bdev_params *)params;
  rc = bdev_check(ctx, &self->params);
  if (rc)
    return rc;
  if (strcmp(self->params.bdev_type, "ram") == 0)
    return bdev_create_memory(ctx, self);
  return bdev_create_file(ctx, self);
}

static void bdev_destroy(chi_ctx *ctx, void *state)
{
  struct bdev *self = state;
  struct alloc memory = bdev_commit_memory(ctx);
  if (self->io.file) {
    bdev_sync(ctx, self, NULL);
    bdev_commit_close(ctx, &self->commit);
  }
  bdev_io_close(ctx, &self->io);
  extent_fini(&self->map, &memory);
}

/* ---- figures --------------------------------------------------------------------------------- */

static void bdev_figures(const struct bdev *self, struct chi_bdev_get_stats *t)
{
  const struct bdev_io_meter *r = &self->io.meter[BDEV_IO_READ];
  const struct bdev_io_meter *w = &self->io.meter[BDEV_IO_WRITE];
  t->capacity = self->map.capacity;
  t->remaining = self->map.free_bytes;
  t->largest_extent = extent_largest(&self->map);
  t->reads = r->count;
  t->writes = w->count;
  t->bytes_read = r->bytes;
  t->bytes_written = w->bytes;
  t->read_bandwidth_mbps = bdev_io_bandwidth_mbps(r);
  t->write_bandwidth_mbps = bdev_io_bandwidth_mbps(w);
  t->read_latency_us = bdev_io_latency_us(r);
  t->write_latency_us = bdev_io_latency_us(w);
  t->iops = bdev_io_iops(&self->io.meter[2]);
}

static int bdev_get_stats(chi_ctx *ctx, void *state, void *task)
{
  (void)ctx;
  bdev_figures(state, task);
  return CHI_OK;
}

/* Text that is being written into a buffer; goes on counting when it is full. */
struct bdev_text {
  char *to;
  size_t room, size;
};

static void bdev_put(void *arg, const char *text)
{
  struct bdev_text *into = arg;
  size_t n = strlen(text), left = into->size < into->room ? into->room - into->size : 0;
  if (left > 0) {
    size_t fits = n < left ? n : left - 1;
    memcpy(into->to + into->size, text, fits);
    into->to[into->size + fits] = '\0';
  }
  into->size += n;
}

/* {"measured":{...},"declared":{...}} */
static int bdev_monitor(chi_ctx *ctx, void *state, char *json, size_t room)
{
  struct bdev *self = state;
  struct bdev_text into = {json, room, 0};
  struct chi_bdev_get_stats figures;
  (void)ctx;
  memset(&figures, 0, sizeof(figures));
  bdev_figures(self, &figures);
  bdev_put(&into, "{\"measured\":");
  chi_type_print(&chi_bdev_get_stats_type, &figures, CHI_DIR_OUT, bdev_put, &into);
  bdev_put(&into, ",\"declared\":");
  chi_type_print(&chi_bdev_params_type, &self->params, CHI_DIR_IN, bdev_put, &into);
  bdev_put(&into, "}");
  return into.size < room ? (int)into.size : CHI_ETOOBIG;
}

/* ---- the module ------------------------------------------------------------------------------ */

static const chi_method bdev_methods[] = {
    {&chi_bdev_allocate_blocks_type, bdev_allocate, 0, 0},
    {&chi_bdev_free_blocks_type, bdev_free, 0, 0},
    {&chi_bdev_write_type, bdev_write, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_read_type, bdev_read, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_get_stats_type, bdev_get_stats, CHI_METHOD_IDEMPOTENT, 0},
    {&chi_bdev_sync_type, bdev_sync, CHI_METHOD_IDEMPOTENT, 0},
    {NULL, NULL, 0, 0},
};

static const chi_module bdev_definition = {
    .version = CHI_MODULE_VERSION,
    .name = "bdev",
    .state_size = sizeof(struct bdev),
    .params = &chi_bdev_params_type,
    .methods = bdev_methods,
    .create = bdev_create,
    .destroy = bdev_destroy,
    .monitor = bdev_monitor,
};

CHI_PRIVATE const chi_module *bdev_module(void)
{
  return &bdev_definition;
}

#undef BDEV_CLASS
#undef BDEV_ALIGNMENT_MIN
#undef BDEV_ALIGNMENT_MAX
#undef BDEV_DEPTH_MAX
