/* bdev_io.c - turns, files and memory of a block device. */
#include "bdev_io.h"
#include "ctx.h"

#define BDEV_IO_SECTOR 4096u               /* what a direct file asks of offset, size and memory */
#define BDEV_IO_BOUNCE ((uint64_t)1 << 18) /* bytes of the buffer for what isn't aligned */
#define BDEV_IO_PIECE ((uint64_t)1 << 18)  /* memory that is taken at a time */
#define BDEV_IO_TIMED 16u                  /* of so many operations in memory one is timed */
#define BDEV_IO_PATIENCE 1000000000u       /* nanoseconds that a locked file is waited for */

static uint64_t bdev_io_least(uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static bool bdev_io_aligned(uint64_t place, const void *data)
{
  return ((place | (uintptr_t)data) & (BDEV_IO_SECTOR - 1)) == 0;
}

/* ---- figures --------------------------------------------------------------------------------- */

static void bdev_io_meter_begin(struct bdev_io_meter *m, uint64_t now)
{
  if (m->under_way++ == 0)
    m->since = now;
}

static void bdev_io_meter_end(struct bdev_io_meter *m, const struct bdev_io_turn *turn,
                              uint64_t now, bool done, uint64_t bytes)
{
  if (turn->timed && --m->under_way == 0)
    m->busy_ns += now - m->since;
  if (!done)
    return;
  m->count++;
  m->bytes += bytes;
  if (!turn->timed)
    return;
  m->timed++;
  m->timed_bytes += bytes;
  m->spent += now - turn->since;
}

static void bdev_io_time_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  turn->timed = turn->kind != BDEV_IO_SYNC &&
                (io->file || io->sample[turn->kind]++ % BDEV_IO_TIMED == 0);
  if (!turn->timed)
    return;
  turn->since = chi_now(ctx);
  bdev_io_meter_begin(&io->meter[turn->kind], turn->since);
  bdev_io_meter_begin(&io->meter[2], turn->since);
}

static void bdev_io_time_end(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn,
                             bool done, uint64_t bytes)
{
  uint64_t now = turn->timed ? chi_now(ctx) : 0;
  if (turn->kind == BDEV_IO_SYNC)
    return;
  bdev_io_meter_end(&io->meter[turn->kind], turn, now, done, bytes);
  bdev_io_meter_end(&io->meter[2], turn, now, done, bytes);
}

CHI_PRIVATE double bdev_io_bandwidth_mbps(const struct bdev_io_meter *m)
{
  return m->busy_ns ? (double)m->timed_bytes * 1e3 / (double)m->busy_ns : 0;
}

CHI_PRIVATE double bdev_io_latency_us(const struct bdev_io_meter *m)
{
  return m->timed ? (double)m->spent / 1e3 / (double)m->timed : 0;
}

CHI_PRIVATE double bdev_io_iops(const struct bdev_io_meter *m)
{
  return m->busy_ns ? (double)m->timed * 1e9 / (double)m->busy_ns : 0;
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Two writes to the same sectors, one of them only to parts; or two syncs, of which only the first
 * would hear of an error. */
static bool bdev_io_conflict(const struct bdev_io_turn *a, const struct bdev_io_turn *b)
{
  if (a->kind == BDEV_IO_SYNC || b->kind == BDEV_IO_SYNC)
    return a->kind == b->kind;
  return (a->patch || b->patch) && a->first <= b->last && b->first <= a->last;
}

/* An earlier operation that is under way must have ended before. */
static bool bdev_io_must_wait(const struct bdev_io *io, const struct bdev_io_turn *turn)
{
  if (io->touchy == 0)
    return false;
  for (const struct bdev_io_turn *t = io->running; t; t = t->next) {
    if (t->number < turn->number && bdev_io_conflict(t, turn))
      return true;
  }
  return false;
}

/* Whether others may have to wait for it though there is room for them. */
static bool bdev_io_touchy(const struct bdev_io_turn *turn)
{
  return turn->patch || turn->kind == BDEV_IO_SYNC;
}

static void bdev_io_admit(struct bdev_io *io, struct bdev_io_turn *turn)
{
  turn->admitted = true;
  turn->next = io->running;
  io->running = turn;
  io->active++;
  io->touchy += bdev_io_touchy(turn);
}

/* Takes a turn out of one of the lists. */
static void bdev_io_unlink(struct bdev_io *io, struct bdev_io_turn *turn)
{
  struct bdev_io_turn **at = turn->admitted ? &io->running : &io->waiting;
  while (*at != turn)
    at = &(*at)->next;
  *at = turn->next;
  if (!turn->admitted && io->waiting_end == &turn->next)
    io->waiting_end = at;
}

/* Gives up a turn: who waits longest gets it, and those look again that wait for a sector. */
static void bdev_io_leave(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  bdev_io_unlink(io, turn);
  if (turn->admitted) {
    for (struct bdev_io_turn *t = io->touchy > 0 ? io->running : NULL; t; t = t->next)
      chi_event_set(ctx, &t->wake);
    io->active--;
    io->touchy -= bdev_io_touchy(turn);
  }
  while (io->waiting && io->active < io->depth) {
    struct bdev_io_turn *next = io->waiting;
    bdev_io_unlink(io, next);
    bdev_io_admit(io, next);
    chi_event_set(ctx, &next->wake);
  }
}

static int bdev_io_enter(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn)
{
  if (io->active < io->depth) {
    bdev_io_admit(io, turn);
  } else {
    *io->waiting_end = turn;
    io->waiting_end = &turn->next;
  }
  while (!turn->admitted || bdev_io_must_wait(io, turn)) {
    int rc = chi_event_wait(ctx, &turn->wake, 0);
    if (rc) {
      bdev_io_leave(ctx, io, turn);
      return rc;
    }
    chi_event_reset(ctx, &turn->wake);
  }
  return CHI_OK;
}

CHI_PRIVATE int bdev_io_begin(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn,
                              enum bdev_io_kind kind, uint64_t offset, uint64_t size)
{
  int rc = CHI_OK;
  *turn = (struct bdev_io_turn){.kind = kind, .number = io->turns++, .first = 1};
  if (kind == BDEV_IO_WRITE && size > 0) {
    turn->first = offset / BDEV_IO_SECTOR;
    turn->last = (offset + size - 1) / BDEV_IO_SECTOR;
    turn->patch = !bdev_io_aligned(offset | size, NULL);
  }
  if (io->file)
    rc = bdev_io_enter(ctx, io, turn);
  if (!rc)
    bdev_io_time_begin(ctx, io, turn);
  return rc;
}

CHI_PRIVATE void bdev_io_end(chi_ctx *ctx, struct bdev_io *io, struct bdev_io_turn *turn, int rc,
                             uint64_t bytes)
{
  bdev_io_time_end(ctx, io, turn, rc == CHI_OK, bytes);
  if (io->file)
    bdev_io_leave(ctx, io, turn);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t bdev_io_pieces(const struct bdev_io *io)
{
  return (io->capacity - 1) / BDEV_IO_PIECE + 1;
}

/* The last piece may be shorter. */
static uint64_t bdev_io_piece_size(const struct bdev_io *io, uint64_t index)
{
  return bdev_io_least(BDEV_IO_PIECE, io->capacity - index * BDEV_IO_PIECE);
}

/* Whether there is that much memory now. */
static bool bdev_io_fits(chi_ctx *ctx, uint64_t size)
{
  void *all = size <= SIZE_MAX / 2 ? chi_alloc(ctx, size) : NULL;
  if (all)
    chi_free(ctx, all, size);
  return all != NULL;
}

CHI_PRIVATE int bdev_io_open_memory(chi_ctx *ctx, struct bdev_io *io, uint64_t capacity)
{
  uint64_t left;
  CHI_ASSERT(capacity > 0);
  *io = (struct bdev_io){0};
  if (ctx_data_take(ctx, capacity, &left) != CHI_OK) {
    chi_log(ctx, CHI_LOG_ERROR,
            "capacity is %llu bytes, but of memory.runtime_data_segment_size only %llu are left",
            (unsigned long long)capacity, (unsigned long long)left);
    return CHI_ENOMEM;
  }
  io->capacity = capacity;
  if (bdev_io_fits(ctx, capacity))
    io->memory = chi_alloc(ctx, bdev_io_pieces(io) * sizeof(*io->memory));
  if (!io->memory) {
    chi_log(ctx, CHI_LOG_ERROR, "no memory for %llu bytes", (unsigned long long)capacity);
    bdev_io_close(ctx, io);
    return CHI_ENOMEM;
  }
  memset(io->memory, 0, bdev_io_pieces(io) * sizeof(*io->memory));
  return CHI_OK;
}

/* What is left of a piece at offset, at most size. */
static uint64_t bdev_io_part(uint64_t offset, uint64_t size)
{
  return bdev_io_least(BDEV_IO_PIECE - offset % BDEV_IO_PIECE, size);
}

/* Takes the memory of a piece that has none and touches all of it: what is taken next is measured
 * against what is left then. */
static bool bdev_io_take_piece(chi_ctx *ctx, struct bdev_io *io, uint64_t index)
{
  uint64_t size = bdev_io_piece_size(io, index);
  if (io->memory[index])
    return true;
  io->memory[index] = chi_alloc(ctx, size);
  if (io->memory[index])
    memset(io->memory[index], 0, size);
  return io->memory[index] != NULL;
}

static int bdev_io_store(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, const uint8_t *data,
                         uint64_t size)
{
  for (uint64_t i = offset / BDEV_IO_PIECE; i <= (offset + size - 1) / BDEV_IO_PIECE; i++) {
    if (bdev_io_take_piece(ctx, io, i))
      continue;
    chi_log(ctx, CHI_LOG_ERROR, "no memory for a write of %llu bytes at %llu",
            (unsigned long long)size, (unsigned long long)offset);
    return CHI_ENOMEM;
  }
  for (uint64_t done = 0, n; done < size; done += n) {
    uint64_t at = offset + done;
    n = bdev_io_part(at, size - done);
    memcpy(io->memory[at / BDEV_IO_PIECE] + at % BDEV_IO_PIECE, data + done, n);
  }
  return CHI_OK;
}

static void bdev_io_fetch(const struct bdev_io *io, uint64_t offset, uint8_t *data, uint64_t size)
{
  for (uint64_t done = 0, n; done < size; done += n) {
    uint64_t at = offset + done;
    const uint8_t *piece = io->memory[at / BDEV_IO_PIECE];
    n = bdev_io_part(at, size - done);
    if (piece)
      memcpy(data + done, piece + at % BDEV_IO_PIECE, n);
    else
      memset(data + done, 0, n);
  }
}

static void bdev_io_close_memory(chi_ctx *ctx, struct bdev_io *io)
{
  for (uint64_t i = 0; io->memory && i < bdev_io_pieces(io); i++) {
    if (io->memory[i])
      chi_free(ctx, io->memory[i], bdev_io_piece_size(io, i));
  }
  if (io->memory)
    chi_free(ctx, io->memory, bdev_io_pieces(io) * sizeof(*io->memory));
  ctx_data_give(ctx, io->capacity);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Memory for what isn't aligned. */
struct bdev_io_bounce {
  void *memory;
  uint8_t *sectors; /* aligned, inside memory */
  uint64_t size;
};

static int bdev_io_bounce_open(chi_ctx *ctx, struct bdev_io_bounce *b, uint64_t offset,
                               uint64_t size)
{
  uint64_t span = offset % BDEV_IO_SECTOR + size + BDEV_IO_SECTOR - 1;
  b->size = bdev_io_least(span - span % BDEV_IO_SECTOR, BDEV_IO_BOUNCE);
  b->memory = chi_alloc(ctx, b->size + BDEV_IO_SECTOR - 1);
  if (!b->memory)
    return CHI_ENOMEM;
  b->sectors = (uint8_t *)b->memory + (-(uintptr_t)b->memory & (BDEV_IO_SECTOR - 1));
  return CHI_OK;
}

static void bdev_io_bounce_close(chi_ctx *ctx, struct bdev_io_bounce *b)
{
  chi_free(ctx, b->memory, b->size + BDEV_IO_SECTOR - 1);
}

/* Less than what was asked for means that somebody else has cut the file. */
static int bdev_io_load(chi_ctx *ctx, struct bdev_io *io, void *to, uint64_t size, uint64_t offset)
{
  int64_t n = chi_file_read(ctx, io->file, to, size, offset);
  return n < 0 ? (int)n : (uint64_t)n < size ? CHI_EIO : CHI_OK;
}

static int bdev_io_save(chi_ctx *ctx, struct bdev_io *io, const void *from, uint64_t size,
                        uint64_t offset)
{
  int64_t n = chi_file_write(ctx, io->file, from, size, offset);
  return n < 0 ? (int)n : CHI_OK;
}

/* Reads the sectors that a write of the bytes from begin to end changes only in part. */
static int bdev_io_load_edges(chi_ctx *ctx, struct bdev_io *io, uint8_t *sectors, uint64_t begin,
                              uint64_t end)
{
  uint64_t low = begin - begin % BDEV_IO_SECTOR, high = end - end % BDEV_IO_SECTOR;
  int rc = CHI_OK;
  if (begin > low || end < low + BDEV_IO_SECTOR)
    rc = bdev_io_load(ctx, io, sectors, BDEV_IO_SECTOR, low);
  if (!rc && end > high && high > low)
    rc = bdev_io_load(ctx, io, sectors + (high - low), BDEV_IO_SECTOR, high);
  return rc;
}

static int bdev_io_bounce_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset,
                                const uint8_t *data, uint64_t size)
{
  struct bdev_io_bounce b;
  int rc = bdev_io_bounce_open(ctx, &b, offset, size);
  for (uint64_t done = 0, n; !rc && done < size; done += n) {
    uint64_t at = offset + done, lead = at % BDEV_IO_SECTOR, span;
    n = bdev_io_least(b.size - lead, size - done);
    span = (lead + n + BDEV_IO_SECTOR - 1) / BDEV_IO_SECTOR * BDEV_IO_SECTOR;
    rc = bdev_io_load_edges(ctx, io, b.sectors, at, at + n);
    memcpy(b.sectors + lead, data + done, n);
    if (!rc)
      rc = bdev_io_save(ctx, io, b.sectors, span, at - lead);
  }
  if (b.memory)
    bdev_io_bounce_close(ctx, &b);
  return rc;
}

static int bdev_io_bounce_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, uint8_t *data,
                               uint64_t size)
{
  struct bdev_io_bounce b;
  int rc = bdev_io_bounce_open(ctx, &b, offset, size);
  for (uint64_t done = 0, n; !rc && done < size; done += n) {
    uint64_t at = offset + done, lead = at % BDEV_IO_SECTOR, span;
    n = bdev_io_least(b.size - lead, size - done);
    span = (lead + n + BDEV_IO_SECTOR - 1) / BDEV_IO_SECTOR * BDEV_IO_SECTOR;
    rc = bdev_io_load(ctx, io, b.sectors, span, at - lead);
    if (!rc)
      memcpy(data + done, b.sectors + lead, n);
  }
  if (b.memory)
    bdev_io_bounce_close(ctx, &b);
  return rc;
}

/* Whole sectors that can go without a buffer, from the beginning of a transfer. */
static uint64_t bdev_io_straight(uint64_t offset, const void *data, uint64_t size)
{
  return bdev_io_aligned(offset, data) ? size - size % BDEV_IO_SECTOR : 0;
}

/* ---- what others call ------------------------------------------------------------------------ */

CHI_PRIVATE int bdev_io_read(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, void *data,
                             uint64_t size)
{
  uint64_t straight = bdev_io_straight(offset, data, size);
  int rc = CHI_OK;
  CHI_ASSERT(size <= io->capacity && offset <= io->capacity - size);
  if (!io->file) {
    bdev_io_fetch(io, offset, data, size);
    return CHI_OK;
  }
  if (straight > 0)
    rc = bdev_io_load(ctx, io, data, straight, offset);
  if (!rc && size > straight)
    rc = bdev_io_bounce_read(ctx, io, offset + straight, (uint8_t *)data + straight,
                             size - straight);
  return rc;
}

CHI_PRIVATE int bdev_io_write(chi_ctx *ctx, struct bdev_io *io, uint64_t offset, const void *data,
                              uint64_t size)
{
  uint64_t straight = bdev_io_straight(offset, data, size);
  int rc = CHI_OK;
  CHI_ASSERT(size <= io->capacity && offset <= io->capacity - size);
  if (!io->file)
    return bdev_io_store(ctx, io, offset, data, size);
  if (straight > 0)
    rc = bdev_io_save(ctx, io, data, straight, offset);
  if (!rc && size > straight)
    rc = bdev_io_bounce_write(ctx, io, offset + straight, (const uint8_t *)data + straight,
                              size - straight);
  return rc;
}

CHI_PRIVATE int bdev_io_sync(chi_ctx *ctx, struct bdev_io *io, const struct bdev_io_turn *turn)
{
  uint64_t covers = io->turns;
  int rc;
  if (io->failed || turn->number < io->synced)
    return io->failed;
  rc = chi_file_sync(ctx, io->file);
  if (rc == CHI_OK)
    io->synced = covers;
  if (rc == CHI_OK || rc == CHI_ECANCELLED || rc == CHI_ETIMEOUT)
    return rc;
  io->failed = CHI_EIO;
  chi_log(ctx, CHI_LOG_ERROR, "syncing the file failed (%s): every sync fails from now on",
          chi_status_text(rc));
  return CHI_EIO;
}

/* ---- open and close -------------------------------------------------------------------------- */

CHI_PRIVATE int bdev_io_open_locked(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out)
{
  uint64_t end = chi_now(ctx) + BDEV_IO_PATIENCE;
  int rc = chi_file_open(ctx, path, flags | CHI_FILE_LOCK, out);
  while (rc == CHI_EBUSY && chi_now(ctx) < end) {
    rc = chi_sleep(ctx, BDEV_IO_PATIENCE / 100);
    if (rc == CHI_OK)
      rc = chi_file_open(ctx, path, flags | CHI_FILE_LOCK, out);
  }
  return rc;
}

/* Opens the file or makes it. */
static int bdev_io_open_or_make(chi_ctx *ctx, struct bdev_io *io, const char *path, bool make,
                                bool *made)
{
  int rc = bdev_io_open_locked(ctx, path, CHI_FILE_DIRECT, &io->file);
  *made = rc == CHI_ENOENT && make;
  if (*made)
    rc = chi_file_open(ctx, path,
                       CHI_FILE_DIRECT | CHI_FILE_LOCK | CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE,
                       &io->file);
  *made = *made && rc == CHI_OK;
  return rc;
}

/* Sees to the size of the file, and that it and the name are durable: who made it may have been
 * killed before they were. */
static int bdev_io_extend(chi_ctx *ctx, struct bdev_io *io, const char *path, uint64_t *capacity)
{
  int64_t size = chi_file_size(ctx, io->file);
  int rc = size < 0 ? (int)size : CHI_OK;
  if (!rc && *capacity == 0)
    *capacity = (uint64_t)size;
  if (!rc && *capacity == 0)
    return CHI_EINVAL;
  if (!rc && (uint64_t)size < *capacity)
    rc = chi_file_truncate(ctx, io->file, *capacity);
  if (!rc)
    rc = chi_file_sync(ctx, io->file);
  return rc ? rc : chi_file_dirsync(ctx, path);
}

CHI_PRIVATE int bdev_io_open_file(chi_ctx *ctx, struct bdev_io *io, const char *path,
                                  uint64_t *capacity, uint32_t depth, bool *made)
{
  const char *why;
  int rc;
  *io = (struct bdev_io){.depth = depth};
  io->waiting_end = &io->waiting;
  rc = bdev_io_open_or_make(ctx, io, path, *capacity > 0, made);
  if (rc) {
    why = rc == CHI_EBUSY ? "another pool or process uses it" : chi_status_text(rc);
    chi_log(ctx, CHI_LOG_ERROR, "the file can't be opened: %s", why);
    return rc;
  }
  rc = bdev_io_extend(ctx, io, path, capacity);
  io->capacity = *capacity;
  if (!rc)
    return CHI_OK;
  why = rc == CHI_EINVAL && *capacity == 0 ? "it is empty, and no capacity is given"
                                           : chi_status_text(rc);
  chi_log(ctx, CHI_LOG_ERROR, "the file can't be given its size: %s", why);
  bdev_io_close(ctx, io);
  if (*made)
    chi_file_remove(ctx, path);
  return rc;
}

CHI_PRIVATE void bdev_io_close(chi_ctx *ctx, struct bdev_io *io)
{
  CHI_ASSERT(!io->running && !io->waiting);
  if (io->file)
    chi_file_close(ctx, io->file);
  else
    bdev_io_close_memory(ctx, io);
  *io = (struct bdev_io){0};
}

#undef BDEV_IO_SECTOR
#undef BDEV_IO_BOUNCE
#undef BDEV_IO_PIECE
#undef BDEV_IO_TIMED
#undef BDEV_IO_PATIENCE
