/* bench_io.c - our side of block device figures: memory against memcpy, a file against fio. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define IO_SPAN ((uint64_t)256 << 20)
#define IO_PAGE 4096
#define IO_RAM_PIECE ((uint64_t)1 << 20)
#define IO_RAM_WINDOW 4
#define IO_FILE_WINDOW 32
#define IO_WINDOW_MAX 64
#define IO_CHECKS 64
#define IO_WAIT_NS (10ull * 1000000000)

/* A device under test, cut into pieces. Each piece holds its stamp at the start of every page. */
struct io {
  struct cli_link *link;
  chi_pool_id pool;
  uint64_t piece; /* bytes of one */
  uint64_t count; /* of them, a power of two */
  struct chi_block *places;
  uint64_t *stamps; /* as written last */
  uint64_t next_stamp;
  uint32_t window, flying;
  struct io_slot {
    struct chi_bdev_write *write;
    struct chi_bdev_read *read;
    chi_bulk buffer;
    uint64_t index; /* of the piece */
  } slots[IO_WINDOW_MAX]; /* those in flight come first */
  void *tasks[IO_WINDOW_MAX]; /* theirs */
};

/* A way through all pieces in which neighbours are far apart: one to one on the count. */
static uint64_t io_scatter(const struct io *io, uint64_t n)
{
  uint64_t mask = io->count - 1, x = n & mask;
  x = (x * 0x9e3779b1u + 12345) & mask;
  x ^= x >> 5;
  return (x * 0x85ebca6bu + (n & ~mask) * 7) & mask;
}

static bool io_open(struct io *io, struct cli_link *link, chi_pool_id pool, uint64_t piece,
                    uint32_t window)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(link->queue, chi_bdev_allocate_blocks);
  uint64_t found = 0;
  *io = (struct io){.link = link, .pool = pool, .piece = piece, .window = window};
  io->count = IO_SPAN / piece;
  io->places = calloc(io->count, sizeof(*io->places));
  io->stamps = calloc(io->count, sizeof(*io->stamps));
  if (!t || !io->places || !io->stamps)
    return false;
  t->task.pool = pool;
  t->size = IO_SPAN;
  if (chi_run(link->queue, t) == CHI_OK) {
    for (uint32_t i = 0; i < t->blocks_count; i++) {
      struct chi_block block = t->blocks[i];
      for (; block.size >= piece && found < io->count; block.size -= piece, block.offset += piece)
        io->places[found++] = (struct chi_block){block.offset, piece, block.type};
    }
  }
  chi_task_free(link->queue, t);
  return found == io->count;
}

static void io_close(struct io *io)
{
  free(io->places);
  free(io->stamps);
}

static bool io_send(struct io *io, const struct io_slot *s)
{
  void *task = s->write ? (void *)s->write : (void *)s->read;
  if (chi_submit(io->link->queue, task) != CHI_OK)
    return false;
  io->slots[io->flying] = *s;
  io->tasks[io->flying++] = task;
  return true;
}

static bool io_submit_write(struct io *io, struct io_slot *s)
{
  uint64_t stamp = ++io->next_stamp;
  s->write = CHI_NEW(io->link->queue, chi_bdev_write);
  if (!s->write)
    return false;
  for (uint64_t i = 0; i < io->piece; i += IO_PAGE)
    memcpy((char *)s->buffer.data + i, &stamp, sizeof(stamp));
  io->stamps[s->index] = stamp;
  s->write->task.pool = io->pool;
  s->write->task.io_size = io->piece;
  s->write->block = io->places[s->index];
  s->write->data = s->buffer;
  s->write->length = io->piece;
  return io_send(io, s);
}

static bool io_submit_read(struct io *io, struct io_slot *s)
{
  s->read = CHI_NEW(io->link->queue, chi_bdev_read);
  if (!s->read)
    return false;
  memset(s->buffer.data, 0, sizeof(uint64_t));
  s->read->task.pool = io->pool;
  s->read->task.io_size = io->piece;
  s->read->block = io->places[s->index];
  s->read->data = s->buffer;
  s->read->length = io->piece;
  return io_send(io, s);
}

static bool io_submit(struct io *io, uint64_t index, bool writing)
{
  struct io_slot s = {.index = index};
  if (chi_bulk_alloc(io->link->queue, io->piece, &s.buffer) != CHI_OK)
    return false;
  return writing ? io_submit_write(io, &s) : io_submit_read(io, &s);
}

/* Waits for any of those in flight, as fio does, checks what came, gives task and buffer back. */
static bool io_finish(struct io *io)
{
  chi_queue *queue = io->link->queue;
  uint32_t which = UINT32_MAX;
  struct io_slot s;
  bool good = chi_wait_any(queue, io->tasks, io->flying, IO_WAIT_NS, &which) == CHI_OK;
  if (which >= io->flying) {
    io->flying = 0; /* they end with the queue */
    return false;
  }
  s = io->slots[which];
  io->slots[which] = io->slots[--io->flying];
  io->tasks[which] = io->tasks[io->flying];
  if (good)
    good = s.write ? s.write->bytes_written == io->piece : s.read->bytes_read == io->piece;
  for (uint64_t i = 0; good && s.read && i < io->piece; i += IO_PAGE)
    good = memcmp((char *)s.buffer.data + i, &io->stamps[s.index], sizeof(uint64_t)) == 0;
  good = chi_task_free(queue, s.write ? (void *)s.write : (void *)s.read) == CHI_OK && good;
  return chi_bulk_free(queue, &s.buffer) == CHI_OK && good;
}

/* Keeps the window full until the time is over, or for `most` pieces; pieces per second. 0: an
 * operation failed or a piece had not the content that was written to it. */
static double io_measure(struct io *io, bool writing, bool scattered, uint64_t ns, uint64_t most)
{
  uint64_t begin = cli_now(), end, sent = 0;
  bool good = true;
  while (good && sent < most && (sent % 16 != 0 || cli_now() - begin < ns)) {
    if (io->flying == io->window)
      good = io_finish(io);
    if (good) {
      uint64_t index = scattered ? io_scatter(io, sent) : sent % io->count;
      good = io_submit(io, index, writing);
      sent++;
    }
  }
  while (io->flying > 0)
    good = io_finish(io) && good;
  end = cli_now();
  return good && sent ? (double)sent * 1e9 / (double)(end - begin) : 0;
}

/* Reads some of the pieces back. */
static bool io_check(struct io *io)
{
  return io_measure(io, false, true, UINT64_MAX, IO_CHECKS < io->count ? IO_CHECKS : io->count) > 0;
}

static bool io_wrong(struct bench_result *r)
{
  return bench_note(r, "an operation failed, or what was read is not what was written");
}

static bool io_ram_rounds(const struct bench *b, struct io *io, struct bench_result *r)
{
  for (uint32_t i = 0; i < b->rounds; i++) {
    double rate;
    if (i % 2 == 0)
      r->raw[i] = bench_raw_copy(1, IO_SPAN, IO_RAM_PIECE, b->round_ns);
    bench_pin(0);
    rate = io_measure(io, true, false, b->round_ns, UINT64_MAX);
    bench_pin(BENCH_NOWHERE);
    if (i % 2 == 1)
      r->raw[i] = bench_raw_copy(1, IO_SPAN, IO_RAM_PIECE, b->round_ns);
    if (!rate || !io_check(io))
      return io_wrong(r);
    r->ours[i] = rate * (double)IO_RAM_PIECE;
    r->rounds++;
  }
  bench_note(r, "%u writes in flight, daemon and memcpy on CPU 1", IO_RAM_WINDOW);
  return true;
}

bool bench_run_ram(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  static const char config[] = "workers:\n  sched_threads: 1\n  slow_threads: 1\n"
                               "compose:\n- {mod_name: bdev, pool_name: bench-ram,"
                               " pool_query: local, pool_id: \"901.0\", bdev_type: ram,"
                               " capacity: 256M}\n";
  struct bench_daemon d;
  struct cli_link link;
  struct io io = {0};
  bool good;
  (void)f;
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
    return bench_note(r, "needs two CPUs");
  if (!bench_daemon_start(b, config, 1, &d, r->note, sizeof(r->note)))
    return false;
  good = bench_link(&d, &link, r->note, sizeof(r->note));
  if (good) {
    good = io_open(&io, &link, (chi_pool_id){901, 0}, IO_RAM_PIECE, IO_RAM_WINDOW) ||
           bench_note(r, "cannot allocate the blocks");
    good = good && (io_measure(&io, true, false, UINT64_MAX, io.count) > 0 || io_wrong(r));
    good = good && io_ram_rounds(b, &io, r);
    io_close(&io);
    cli_disconnect(&link);
  }
  bench_daemon_stop(&d);
  return good;
}

/* What the machine gives: fio, or a loop of our own where there is no fio. */
static double io_file_raw(const struct bench *b, const char *path, bool writing, const char **by)
{
  double rate = 0;
  *by = "fio";
  if (bench_raw_fio(path, IO_SPAN, writing, IO_FILE_WINDOW, b->round_ns, &rate))
    return rate;
  *by = "no fio: raw is an io_uring loop of our own";
  if (!bench_raw_uring(path, IO_SPAN, writing, IO_FILE_WINDOW, b->round_ns, &rate))
    *by = "neither fio nor io_uring: no raw limit";
  return rate;
}

static bool io_file_rounds(const struct bench *b, struct io *io, const char *path, bool writing,
                           struct bench_result *r)
{
  const char *by = "";
  for (uint32_t i = 0; i < b->rounds; i++) {
    bool checks = true;
    if (i % 2 == 0)
      r->raw[i] = io_file_raw(b, path, writing, &by);
    r->ours[i] = io_measure(io, writing, true, b->round_ns, UINT64_MAX);
    if (writing) /* before the raw side writes over it */
      checks = io_check(io);
    if (i % 2 == 1)
      r->raw[i] = io_file_raw(b, path, writing, &by);
    if (!r->ours[i] || !checks)
      return io_wrong(r);
    r->rounds++;
  }
  bench_note(r, "depth %u, O_DIRECT; %s", IO_FILE_WINDOW, by);
  return true;
}

/* parameter: 1 writes, 0 reads. */
bool bench_run_file(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  char config[CHI_PATH_MAX + 300], path[CHI_PATH_MAX + 16];
  struct bench_daemon d;
  struct cli_link link;
  struct io io = {0};
  bool good;
  snprintf(path, sizeof(path), "%s/device-%u", b->directory, f->parameter);
  snprintf(config, sizeof(config),
           "compose:\n- {mod_name: bdev, pool_name: \"%s\", pool_query: local,"
           " pool_id: \"902.0\", bdev_type: file, capacity: 256M, io_depth: %u}\n",
           path, IO_FILE_WINDOW);
  if (!bench_daemon_start(b, config, BENCH_NOWHERE, &d, r->note, sizeof(r->note)))
    return false;
  good = bench_link(&d, &link, r->note, sizeof(r->note));
  if (good) {
    good = io_open(&io, &link, (chi_pool_id){902, 0}, IO_PAGE, IO_FILE_WINDOW) ||
           bench_note(r, "cannot allocate the blocks");
    good = good && (io_measure(&io, true, false, UINT64_MAX, io.count) > 0 || io_wrong(r));
    good = good && io_file_rounds(b, &io, path, f->parameter == 1, r);
    io_close(&io);
    cli_disconnect(&link);
  }
  bench_daemon_stop(&d);
  unlink(path);
  return good;
}
