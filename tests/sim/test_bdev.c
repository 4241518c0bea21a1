/* test_bdev.c - the block device as its clients know it: blocks, bytes, parameters, bad days. */
#include "bdev.h"
#include "bdev_story.h"

#include <stdlib.h>

#define UNIT SHADOW_UNIT
#define UNITS 64u

/* Most stories: a device of 64 units, one client. */
#define STORY_BODY(name) static void name(chi_queue *queue, void *arg)
#define BEGIN(b, seed)                                                                             \
  bdev_story_open(&(b), seed, "256K");                                                             \
  CHECK_INT(story_start(&(b).s), CHI_OK)
#define RUN(b, body, arg) CHECK(bdev_story_run(&(b), body, arg))

static struct chi_block block_at(uint64_t unit, uint64_t units)
{
  struct chi_block block;
  memset(&block, 0, sizeof(block));
  block.offset = unit * UNIT;
  block.size = units * UNIT;
  return block;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

STORY_BODY(allocates_and_frees)
{
  struct chi_bdev_get_stats stats;
  struct chi_block a, b, c, part;
  bool *done = arg;
  CHECK_INT(dev_allocate(queue, 1, &a), CHI_OK);
  CHECK_INT(a.offset, 0);
  CHECK_INT(a.size, UNIT);
  CHECK_INT(a.type, 0);
  CHECK_INT(dev_allocate(queue, 3 * UNIT + 1, &b), CHI_OK);
  CHECK_INT(b.size, 4 * UNIT);
  CHECK_INT(b.type, 2);
  CHECK_INT(dev_allocate(queue, (UNITS - 5) * UNIT, &c), CHI_OK);
  CHECK_INT(dev_remaining(queue), 0);
  CHECK_INT(dev_allocate(queue, 1, &part), CHI_ENOSPC);
  CHECK_INT(dev_allocate(queue, 0, &part), CHI_EINVAL);
  CHECK_INT(dev_allocate(queue, UINT64_MAX, &part), CHI_ENOSPC);
  CHECK_INT(dev_allocate(queue, UNITS * UNIT + 1, &part), CHI_ENOSPC);
  CHECK_INT(dev_free(queue, &b), CHI_OK);
  CHECK_INT(dev_free(queue, &b), CHI_EINVAL);
  CHECK_INT(dev_remaining(queue), 4 * UNIT);
  part = block_at(5, 2); /* the beginning of c */
  CHECK_INT(dev_free(queue, &part), CHI_OK);
  CHECK_INT(dev_free(queue, &c), CHI_EINVAL);
  part.size = 100;
  CHECK_INT(dev_free(queue, &part), CHI_EINVAL);
  CHECK_INT(dev_stats(queue, &stats), CHI_OK);
  CHECK_INT(stats.remaining, 6 * UNIT); /* b and the part are one */
  CHECK_INT(stats.largest_extent, 6 * UNIT);
  CHECK_INT(stats.capacity, UNITS * UNIT);
  *done = true;
}

TEST(bdev_remaining_is_true_and_freed_blocks_coalesce)
{
  for (int ram = 0; ram < 2; ram++) {
    struct bdev_story b;
    bool done = false;
    bdev_story_open(&b, 1, "256K");
    if (ram)
      bdev_story_ram(&b);
    CHECK_INT(story_start(&b.s), CHI_OK);
    RUN(b, allocates_and_frees, &done);
    CHECK_STR(story_end(&b.s), "");
    CHECK(done);
  }
}

/* All space, then every second unit of it. */
static int shatter(chi_queue *queue, uint32_t units)
{
  struct chi_bdev_free_blocks *t = CHI_NEW(queue, chi_bdev_free_blocks);
  struct chi_block *more;
  struct chi_block all;
  int rc = dev_allocate(queue, (uint64_t)units * UNIT, &all);
  if (!t || rc || chi_bulk_alloc(queue, units / 2 * sizeof(*more), &t->more) != CHI_OK)
    return rc ? rc : CHI_ENOMEM;
  more = t->more.data;
  for (uint32_t i = 0; i < units / 2; i++)
    more[i] = block_at(2 * i, 1);
  t->task.pool = BDEV_POOL;
  rc = chi_run(queue, t);
  chi_bulk_free(queue, &t->more);
  chi_task_free(queue, t);
  return rc;
}

STORY_BODY(wants_more_than_64_blocks)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(queue, chi_bdev_allocate_blocks);
  const struct chi_block *more;
  bool *done = arg;
  chi_bulk bulk;
  CHECK(t);
  CHECK_INT(shatter(queue, 256), CHI_OK);
  CHECK_INT(chi_bulk_alloc(queue, 64 * sizeof(struct chi_block), &bulk), CHI_OK);
  t->task.pool = BDEV_POOL;
  t->size = 100 * UNIT;
  CHECK_INT(chi_run(queue, t), CHI_ETOOBIG); /* without room for more */
  CHECK_INT(t->block_total, 100);
  CHECK_INT(dev_remaining(queue), 128 * UNIT);
  t->more = bulk;
  t->more.size = 35 * sizeof(struct chi_block);
  CHECK_INT(chi_run(queue, t), CHI_ETOOBIG); /* one is missing */
  CHECK_INT(t->block_total, 100);
  t->more = bulk;
  t->more.size = 36 * sizeof(struct chi_block);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(t->block_total, 100);
  CHECK_INT(t->blocks_count, 64);
  more = bulk.data;
  for (uint32_t i = 0; i < 100; i++) {
    const struct chi_block *block = i < 64 ? &t->blocks[i] : &more[i - 64];
    CHECK_INT(block->offset, 2 * i * UNIT);
    CHECK_INT(block->size, UNIT);
  }
  CHECK_INT(dev_remaining(queue), 28 * UNIT);
  t->size = 29 * UNIT;
  CHECK_INT(chi_run(queue, t), CHI_ENOSPC);
  CHECK_INT(t->block_total, 0);
  CHECK_INT(t->blocks_count, 0);
  CHECK_INT(dev_remaining(queue), 28 * UNIT);
  *done = true;
}

TEST(bdev_gives_any_size_in_any_number_of_blocks)
{
  for (int ram = 0; ram < 2; ram++) {
    struct bdev_story b;
    bool done = false;
    bdev_story_open(&b, 2, "1M");
    if (ram)
      bdev_story_ram(&b);
    CHECK_INT(story_start(&b.s), CHI_OK);
    RUN(b, wants_more_than_64_blocks, &done);
    CHECK_STR(story_end(&b.s), "");
    CHECK(done);
  }
}

STORY_BODY(frees_lists)
{
  struct chi_bdev_free_blocks *t = CHI_NEW(queue, chi_bdev_free_blocks);
  struct chi_block all, *more;
  chi_bulk bulk;
  bool *done = arg;
  CHECK(t);
  CHECK_INT(dev_allocate(queue, UNITS * UNIT, &all), CHI_OK);
  CHECK_INT(chi_bulk_alloc(queue, 200 * sizeof(*more), &bulk), CHI_OK);
  more = bulk.data;
  t->task.pool = BDEV_POOL;
  CHECK_INT(chi_run(queue, t), CHI_OK); /* nothing */
  t->blocks_count = 2;
  t->blocks[0] = block_at(0, 2);
  t->blocks[1] = block_at(1, 1);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL); /* overlaps */
  t->blocks[1] = block_at(UNITS, 1);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL); /* outside */
  t->blocks[1] = block_at(5, 1);
  t->more = bulk;
  for (uint32_t i = 0; i < 200; i++)
    more[i] = block_at(10 + i % 50, 1);
  t->more.size = 3 * sizeof(*more) + 1;
  CHECK_INT(chi_run(queue, t), CHI_EINVAL); /* not whole blocks */
  t->more.size = 200 * sizeof(*more);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL); /* more blocks than there are */
  t->more.size = 51 * sizeof(*more);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL); /* the last is the first again */
  CHECK_INT(dev_remaining(queue), 0);
  t->more.size = 50 * sizeof(*more);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(dev_remaining(queue), 53 * UNIT);
  *done = true;
}

TEST(bdev_frees_all_of_a_list_or_nothing)
{
  struct bdev_story b;
  bool done = false;
  BEGIN(b, 3);
  RUN(b, frees_lists, &done);
  CHECK_STR(story_end(&b.s), "");
  CHECK(done);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

STORY_BODY(transfers_at_the_limits)
{
  struct chi_bdev_write *w = CHI_NEW(queue, chi_bdev_write);
  struct chi_bdev_read *r = CHI_NEW(queue, chi_bdev_read);
  static uint8_t data[3 * UNIT];
  struct chi_block a, beyond, stale;
  chi_bulk small;
  bool *done = arg;
  CHECK(w && r);
  CHECK_INT(dev_allocate(queue, 2 * UNIT, &a), CHI_OK);
  CHECK_INT(dev_write(queue, &a, data, 2 * UNIT), CHI_OK);
  CHECK_INT(dev_write(queue, &a, data, 2 * UNIT + 1), CHI_ERANGE);
  CHECK_INT(dev_read(queue, &a, data, 2 * UNIT + 1), CHI_ERANGE);
  CHECK_INT(dev_write(queue, &a, data, 0), CHI_OK);
  CHECK_INT(dev_read(queue, &a, data, 0), CHI_OK);
  beyond = block_at(1, 2); /* its second half isn't allocated */
  CHECK_INT(dev_write(queue, &beyond, data, 1), CHI_EINVAL);
  CHECK_INT(dev_read(queue, &beyond, data, 1), CHI_EINVAL);
  beyond = block_at(UNITS, 1);
  CHECK_INT(dev_write(queue, &beyond, data, 1), CHI_EINVAL);
  beyond.offset = UINT64_MAX - 10;
  CHECK_INT(dev_write(queue, &beyond, data, 20), CHI_EINVAL);
  beyond.size = UINT64_MAX;
  CHECK_INT(dev_read(queue, &beyond, data, 20), CHI_EINVAL);
  CHECK_INT(chi_bulk_alloc(queue, 100, &small), CHI_OK);
  w->task.pool = r->task.pool = BDEV_POOL;
  w->block = r->block = a;
  w->length = r->length = 101;
  w->data = r->data = small; /* the buffer is shorter than the length */
  CHECK_INT(chi_run(queue, w), CHI_EINVAL);
  CHECK_INT(chi_run(queue, r), CHI_EINVAL);
  CHECK_INT(w->bytes_written, 0);
  w->length = r->length = 100;
  CHECK_INT(chi_run(queue, w), CHI_OK);
  CHECK_INT(chi_run(queue, r), CHI_OK);
  CHECK_INT(w->bytes_written, 100);
  CHECK_INT(r->bytes_read, 100);
  stale = a;
  CHECK_INT(dev_free(queue, &a), CHI_OK);
  CHECK_INT(dev_write(queue, &stale, data, 1), CHI_EINVAL);
  CHECK_INT(dev_read(queue, &stale, data, 1), CHI_EINVAL);
  *done = true;
}

TEST(bdev_refuses_bytes_beyond_a_block)
{
  for (int ram = 0; ram < 2; ram++) {
    struct bdev_story b;
    bool done = false;
    bdev_story_open(&b, 4, "256K");
    if (ram)
      bdev_story_ram(&b);
    CHECK_INT(story_start(&b.s), CHI_OK);
    RUN(b, transfers_at_the_limits, &done);
    CHECK_STR(story_end(&b.s), "");
    CHECK(done);
  }
}

/* Any offset, any length, against a copy of what the device should hold. */
struct mirror {
  uint8_t bytes[UNITS * UNIT], read[UNITS * UNIT];
  struct rng rng;
  bool done;
};

STORY_BODY(writes_anywhere)
{
  struct mirror *m = arg;
  struct chi_block all, part;
  uint8_t data[3 * UNIT];
  CHECK_INT(dev_allocate(queue, UNITS * UNIT, &all), CHI_OK);
  memset(m->bytes, 7, sizeof(m->bytes));
  CHECK_INT(dev_write(queue, &all, m->bytes, sizeof(m->bytes)), CHI_OK);
  for (int i = 0; i < 300; i++) {
    uint64_t size = 1 + rng_below(&m->rng, sizeof(data));
    memset(&part, 0, sizeof(part));
    part.offset = rng_below(&m->rng, sizeof(m->bytes) - size + 1);
    part.size = size;
    if (rng_below(&m->rng, 3) == 0)
      part.offset -= part.offset % UNIT;
    memset(data, i, sizeof(data));
    CHECK_INT(dev_write(queue, &part, data, size), CHI_OK);
    memset(m->bytes + part.offset, i, size);
    part.offset = rng_below(&m->rng, sizeof(m->bytes) - size + 1);
    CHECK_INT(dev_read(queue, &part, data, size), CHI_OK);
    CHECK(memcmp(data, m->bytes + part.offset, size) == 0);
  }
  CHECK_INT(dev_read(queue, &all, m->read, sizeof(m->read)), CHI_OK);
  CHECK(memcmp(m->read, m->bytes, sizeof(m->bytes)) == 0);
  part.offset = 5; /* all of it but a few bytes: more than the buffer for what isn't aligned */
  part.size = sizeof(m->bytes) - 9;
  memset(m->bytes + part.offset, 0xab, part.size);
  CHECK_INT(dev_write(queue, &part, m->bytes + part.offset, part.size), CHI_OK);
  CHECK_INT(dev_read(queue, &part, m->read, part.size), CHI_OK);
  CHECK(memcmp(m->read, m->bytes + part.offset, part.size) == 0);
  CHECK_INT(dev_read(queue, &all, m->read, sizeof(m->read)), CHI_OK);
  CHECK(memcmp(m->read, m->bytes, sizeof(m->bytes)) == 0);
  m->done = true;
}

TEST(bdev_takes_any_offset_and_length)
{
  for (uint64_t seed = 0; seed < 4; seed++) {
    struct mirror *m = calloc(1, sizeof(*m));
    struct bdev_story b;
    bool done;
    CHECK(m);
    rng_seed(&m->rng, seed, 0, 0);
    bdev_story_open(&b, seed, "256K");
    if (seed % 2)
      bdev_story_ram(&b);
    CHECK_INT(story_start(&b.s), CHI_OK);
    RUN(b, writes_anywhere, m);
    CHECK_STR(story_end(&b.s), "");
    done = m->done;
    free(m);
    CHECK(done);
  }
}

STORY_BODY(reads_what_nobody_wrote)
{
  static uint8_t data[256 * 1024 * 3];
  struct chi_block all, part;
  bool *done = arg;
  CHECK_INT(dev_allocate(queue, sizeof(data), &all), CHI_OK);
  CHECK_INT(dev_read(queue, &all, data, sizeof(data)), CHI_OK);
  for (size_t i = 0; i < sizeof(data); i++)
    CHECK_INT(data[i], 0);
  part = all;
  part.offset += 256 * 1024 - 10; /* over the border of two pieces */
  part.size = 20;
  CHECK_INT(dev_write(queue, &part, "01234567890123456789", 20), CHI_OK);
  CHECK_INT(dev_read(queue, &all, data, sizeof(data)), CHI_OK);
  for (size_t i = 0; i < sizeof(data); i++) {
    bool inside = i >= 256 * 1024 - 10 && i < 256 * 1024 + 10;
    CHECK_INT(data[i], inside ? '0' + (i - (256 * 1024 - 10)) % 10 : 0);
  }
  *done = true;
}

TEST(bdev_memory_is_zero_until_it_is_written)
{
  struct bdev_story b;
  bool done = false;
  bdev_story_open(&b, 6, "1M");
  bdev_story_ram(&b);
  CHECK_INT(story_start(&b.s), CHI_OK);
  RUN(b, reads_what_nobody_wrote, &done);
  CHECK_STR(story_end(&b.s), "");
  CHECK(done);
}

/* ---- figures --------------------------------------------------------------------------------- */

STORY_BODY(measures)
{
  struct chi_bdev_get_stats stats;
  static uint8_t data[4 * UNIT];
  struct chi_block a, none = block_at(60, 1);
  bool *done = arg;
  CHECK_INT(dev_stats(queue, &stats), CHI_OK);
  CHECK(stats.iops == 0 && stats.read_latency_us == 0 && stats.write_bandwidth_mbps == 0);
  CHECK_INT(dev_allocate(queue, sizeof(data), &a), CHI_OK);
  for (int i = 0; i < 10; i++)
    CHECK_INT(dev_write(queue, &a, data, sizeof(data)), CHI_OK);
  for (int i = 0; i < 5; i++)
    CHECK_INT(dev_read(queue, &a, data, UNIT), CHI_OK);
  CHECK_INT(dev_read(queue, &none, data, UNIT), CHI_EINVAL); /* doesn't count */
  CHECK_INT(dev_stats(queue, &stats), CHI_OK);
  CHECK_INT(stats.writes, 10);
  CHECK_INT(stats.reads, 5);
  CHECK_INT(stats.bytes_written, 40 * UNIT);
  CHECK_INT(stats.bytes_read, 5 * UNIT);
  /* The simulated disk takes 50 us and 1 ns for each byte, more or less. */
  CHECK(stats.write_latency_us > 30 && stats.write_latency_us < 300);
  CHECK(stats.read_latency_us > 30 && stats.read_latency_us < 200);
  CHECK(stats.write_bandwidth_mbps > 50 && stats.write_bandwidth_mbps < 600);
  CHECK(stats.read_bandwidth_mbps > 20 && stats.read_bandwidth_mbps < 200);
  CHECK(stats.iops > 3000 && stats.iops < 30000);
  *done = true;
}

TEST(bdev_figures_are_measured)
{
  struct bdev_story b;
  bool done = false;
  BEGIN(b, 7);
  RUN(b, measures, &done);
  CHECK_STR(story_end(&b.s), "");
  CHECK(done);
}

/* How long `count` writes of one client take, all at once. */
struct burst {
  struct bdev_story b;
  uint64_t took;
};

STORY_BODY(writes_all_at_once)
{
  struct burst *u = arg;
  struct chi_bdev_write *w[16];
  struct chi_block all;
  uint64_t begun;
  CHECK_INT(dev_allocate(queue, 16 * UNIT, &all), CHI_OK);
  for (uint32_t i = 0; i < 16; i++) {
    w[i] = CHI_NEW(queue, chi_bdev_write);
    CHECK(w[i] && chi_bulk_alloc(queue, UNIT, &w[i]->data) == CHI_OK);
    w[i]->task.pool = BDEV_POOL;
    w[i]->block = block_at(i, 1);
    w[i]->length = UNIT;
  }
  begun = sim_now(u->b.s.sim);
  for (uint32_t i = 0; i < 16; i++)
    CHECK_INT(chi_submit(queue, w[i]), CHI_OK);
  CHECK_INT(chi_wait_all(queue, (void *const *)w, 16, UINT64_MAX), CHI_OK);
  u->took = sim_now(u->b.s.sim) - begun;
}

static uint64_t burst_with(const char *io_depth)
{
  struct burst u;
  memset(&u, 0, sizeof(u));
  bdev_story_open(&u.b, 8, "256K");
  bdev_story_param(&u.b, "io_depth", io_depth);
  if (story_start(&u.b.s) != CHI_OK || !bdev_story_run(&u.b, writes_all_at_once, &u))
    return 0;
  return story_end(&u.b.s)[0] ? 0 : u.took;
}

TEST(bdev_io_depth_is_honoured)
{
  uint64_t one = burst_with("1"), four = burst_with("4"), all = burst_with("16");
  CHECK(one && four && all);
  CHECK(one > 16 * 25 * STORY_US);
  CHECK(four > 4 * 25 * STORY_US && four < one / 2);
  CHECK(all < four);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* Starts, and tells what it came to; the transcript says why. */
static int start_with(struct bdev_story *b, const char *name, const char *value, const char *says)
{
  int rc;
  bdev_story_param(b, name, value);
  rc = story_start(&b->s);
  if (rc == CHI_OK)
    rc = sim_node_stop(b->s.sim, 0, 1000) ? 1000 : CHI_OK;
  if (says && !story_tells(&b->s, says, NULL))
    return 1001;
  return rc;
}

TEST(bdev_parameters_are_checked)
{
  static const struct {
    const char *name, *value, *says;
  } bad[] = {
      {"bdev_type", "tape", "bdev_type is \"tape\", expected \"file\" or \"ram\""},
      {"alignment", "0", "alignment is 0, expected a power of two from 512 to 1048576"},
      {"alignment", "256", "alignment is 256, expected"},
      {"alignment", "5000", "alignment is 5000, expected"},
      {"alignment", "2097152", "alignment is 2097152, expected"},
      {"io_depth", "0", "io_depth is 0, expected 1 to 1024"},
      {"io_depth", "1025", "io_depth is 1025, expected"},
      {"capacity", "4095", "capacity is 4095, expected at least one block"},
      {"capacity", "9223372036854775808", "capacity is 9223372036854775808, expected"},
      {"perf_metrics_iops", "-1", "a value of perf_metrics is negative or not a number"},
      {"perf_metrics_read_latency_us", "-0.5", "a value of perf_metrics is negative"},
  };
  for (int ram = 0; ram < 2; ram++) {
    for (size_t i = 0; i < CHI_COUNT(bad); i++) {
      struct bdev_story b;
      int rc;
      bdev_story_open(&b, 9, "256K");
      if (ram)
        bdev_story_ram(&b);
      rc = start_with(&b, bad[i].name, bad[i].value, bad[i].says);
      CHECK_STR(story_end(&b.s), "");
      CHECK_INT(rc, CHI_EINVAL);
    }
  }
}

TEST(bdev_memory_needs_a_capacity)
{
  struct bdev_story b;
  int rc;
  bdev_story_open(&b, 9, "0");
  rc = start_with(&b, "bdev_type", "ram", "capacity is 0, expected");
  CHECK_STR(story_end(&b.s), "");
  CHECK_INT(rc, CHI_EINVAL);
}

TEST(bdev_memory_beyond_the_budget_is_refused)
{
  struct bdev_story b;
  int rc;
  bdev_story_open(&b, 9, "4100K");
  b.s.config.runtime_data_segment_size = 4 << 20;
  rc = start_with(&b, "bdev_type", "ram",
                  "capacity is 4198400 bytes, but of memory.runtime_data_segment_size only 4194304"
                  " are left");
  CHECK_STR(story_end(&b.s), "");
  CHECK_INT(rc, CHI_ENOMEM);
}

/* A device has all of the budget: there is room for another once it is gone. */
STORY_BODY(fills_the_budget_in_turn)
{
  chi_param params[] = {{(char *)(uintptr_t) "capacity", (char *)(uintptr_t) "8K", 0, 0},
                        {(char *)(uintptr_t) "bdev_type", (char *)(uintptr_t) "ram", 0, 0}};
  chi_pool_id id = {302, 0};
  CHECK_INT(chi_pool_create(queue, "bdev", "more", params, 2, &id, NULL), CHI_ENOMEM);
  CHECK_INT(chi_pool_destroy(queue, BDEV_POOL, NULL), CHI_OK);
  for (int i = 0; i < 3; i++) {
    params[0].value = (char *)(uintptr_t) "4M";
    CHECK_INT(chi_pool_create(queue, "bdev", "more", params, 2, &id, NULL), CHI_OK);
    CHECK_INT(chi_pool_destroy(queue, id, NULL), CHI_OK);
  }
  *(bool *)arg = true;
}

TEST(bdev_memory_is_counted_until_it_is_given_back)
{
  struct bdev_story b;
  bool done = false;
  bdev_story_open(&b, 9, "4M");
  bdev_story_ram(&b);
  b.s.config.runtime_data_segment_size = 4 << 20;
  CHECK_INT(story_start(&b.s), CHI_OK);
  RUN(b, fills_the_budget_in_turn, &done);
  CHECK(story_tells(&b.s, "capacity is 8192 bytes, but of memory.runtime_data_segment_size only 0"
                          " are left", NULL));
  CHECK_STR(story_end(&b.s), "");
  CHECK(done);
}

STORY_BODY(uses_a_name_in_dev)
{
  chi_param params[] = {{(char *)(uintptr_t) "capacity", (char *)(uintptr_t) "8K", 0, 0},
                        {(char *)(uintptr_t) "bdev_type", (char *)(uintptr_t) "file", 0, 0}};
  chi_pool_id id = {302, 0};
  CHECK_INT(chi_pool_create(queue, "bdev", "/dev/disk", params, 2, &id, NULL), CHI_OK);
  *(bool *)arg = true;
}

TEST(bdev_in_dev_is_warned_of)
{
  struct bdev_story b;
  bool done = false;
  bdev_story_open(&b, 9, "256K");
  sim_disk_mkdir(sim_node_disk(b.s.sim, 0), "/dev");
  CHECK_INT(story_start(&b.s), CHI_OK);
  RUN(b, uses_a_name_in_dev, &done);
  CHECK(story_tells(&b.s, "what is allocated is noted beside the name, in /dev", NULL));
  CHECK_STR(story_end(&b.s), "");
  CHECK(done);
}

STORY_BODY(looks_at_the_capacity)
{
  struct chi_bdev_get_stats stats;
  uint64_t *capacity = arg;
  CHECK_INT(dev_stats(queue, &stats), CHI_OK);
  *capacity = stats.capacity;
}

/* What was in the file before is the first thing that is read. */
STORY_BODY(finds_old_content)
{
  struct chi_block a;
  uint8_t *data = arg;
  CHECK_INT(dev_allocate(queue, UNIT, &a), CHI_OK);
  CHECK_INT(dev_read(queue, &a, data, UNIT), CHI_OK);
}

TEST(bdev_takes_an_existing_file_as_it_is)
{
  static uint8_t old[8 * UNIT], data[UNIT];
  static const struct {
    const char *capacity;
    uint64_t sees, size;
  } as[] = {
      {"0", 8 * UNIT, 8 * UNIT - 100 + 100},
      {"8K", 2 * UNIT, 8 * UNIT},
      {"64K", 16 * UNIT, 16 * UNIT},
      {"20000", 4 * UNIT, 8 * UNIT},
  };
  memset(old, 0x5a, sizeof(old));
  for (size_t i = 0; i < CHI_COUNT(as); i++) {
    struct bdev_story b;
    uint64_t capacity = 0;
    uint8_t byte;
    bdev_story_open(&b, 10, as[i].capacity);
    sim_disk_poke(sim_node_disk(b.s.sim, 0), BDEV_PATH, old, sizeof(old), 0);
    CHECK_INT(story_start(&b.s), CHI_OK);
    RUN(b, looks_at_the_capacity, &capacity);
    RUN(b, finds_old_content, data);
    CHECK_INT(sim_node_stop(b.s.sim, 0, 100), CHI_OK);
    CHECK_INT(sim_disk_peek(sim_node_disk(b.s.sim, 0), BDEV_PATH, &byte, 1, as[i].size - 1), 1);
    CHECK_INT(sim_disk_peek(sim_node_disk(b.s.sim, 0), BDEV_PATH, &byte, 1, as[i].size), 0);
    CHECK_STR(story_end(&b.s), "");
    CHECK_INT(capacity, as[i].sees);
    CHECK(memcmp(data, old, UNIT) == 0);
  }
}

TEST(bdev_without_file_and_capacity_is_refused)
{
  struct bdev_story b;
  uint8_t byte = 0;
  int rc;
  bdev_story_open(&b, 11, "0");
  rc = start_with(&b, "capacity", "0", "the file can't be opened");
  CHECK_INT(rc, CHI_ENOENT);
  sim_disk_poke(sim_node_disk(b.s.sim, 0), BDEV_PATH, &byte, 0, 0);
  rc = start_with(&b, "capacity", "0", "it is empty, and no capacity is given");
  CHECK_STR(story_end(&b.s), "");
  CHECK_INT(rc, CHI_EINVAL);
}

/* Opening fails `times` times (0: always) with this code. */
static int start_opening(struct bdev_story *b, int code, uint64_t times, const char *says)
{
  struct sim_fault_io rule = {
      .node = SIM_FAULT_ANYWHERE, .op = ENV_IO_OPEN, .times = times, .result = code};
  int rc;
  sim_fault_add(sim_faults(b->s.sim), &rule);
  rc = start_with(b, "io_depth", "4", says);
  sim_fault_clear(sim_faults(b->s.sim));
  return rc;
}

/* Another process has it locked, for good or for a moment; it may not be opened; no directory. */
TEST(bdev_file_that_cannot_be_had)
{
  struct bdev_story b;
  int rc;
  bdev_story_open(&b, 12, "256K");
  CHECK_INT(start_opening(&b, CHI_EBUSY, 0, "another pool or process uses it"), CHI_EBUSY);
  CHECK_INT(start_opening(&b, CHI_EBUSY, 5, NULL), CHI_OK);
  CHECK_INT(start_opening(&b, CHI_EACCES, 0, "opened: permission denied"), CHI_EACCES);
  snprintf(b.entry->pool_name, sizeof(b.entry->pool_name), "/nowhere/dev");
  rc = start_with(&b, "io_depth", "4", "the file can't be opened: no such");
  CHECK_STR(story_end(&b.s), "");
  CHECK_INT(rc, CHI_ENOENT);
}

/* A pool that can't be created leaves no file behind that wasn't there. */
TEST(bdev_failed_create_leaves_nothing)
{
  static const int ops[] = {ENV_IO_TRUNCATE, ENV_IO_SYNC, ENV_IO_DIRSYNC, ENV_IO_WRITE,
                            ENV_IO_RENAME};
  for (size_t i = 0; i < CHI_COUNT(ops); i++) {
    struct bdev_story b;
    struct sim_fault_io rule = {
        .node = SIM_FAULT_ANYWHERE, .op = (uint32_t)ops[i], .times = 1, .result = CHI_EIO};
    uint8_t byte;
    int rc;
    bdev_story_open(&b, 13, "256K");
    sim_fault_add(sim_faults(b.s.sim), &rule);
    rc = story_start(&b.s);
    CHECK_INT(rc, CHI_EIO);
    CHECK_INT(sim_disk_peek(sim_node_disk(b.s.sim, 0), BDEV_PATH, &byte, 1, 0), CHI_ENOENT);
    CHECK_INT(story_start(&b.s), CHI_OK);
    CHECK_STR(story_end(&b.s), "");
  }
}

STORY_BODY(takes_units_0_to_3)
{
  struct chi_block a;
  int *rc = arg;
  *rc = dev_allocate(queue, 4 * UNIT, &a);
  CHECK_INT(a.offset, 0);
}

STORY_BODY(looks_at_what_is_left)
{
  *(uint64_t *)arg = dev_remaining(queue);
}

static uint64_t what_is_left(struct bdev_story *b)
{
  uint64_t left = UINT64_MAX;
  if (story_start(&b->s) != CHI_OK || !bdev_story_run(b, looks_at_what_is_left, &left) ||
      sim_node_stop(b->s.sim, 0, 1000) != CHI_OK)
    return UINT64_MAX - 1;
  return left;
}

TEST(bdev_capacity_and_alignment_may_change_around_what_is_allocated)
{
  const char *clash = "doesn't fit this capacity and alignment";
  struct bdev_story b;
  int rc = 1;
  BEGIN(b, 14);
  RUN(b, takes_units_0_to_3, &rc);
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(sim_node_stop(b.s.sim, 0, 1000), CHI_OK);
  bdev_story_param(&b, "capacity", "1M");
  CHECK_INT(what_is_left(&b), 252 * UNIT);
  bdev_story_param(&b, "capacity", "16K");
  CHECK_INT(what_is_left(&b), 0);
  CHECK_INT(start_with(&b, "capacity", "15K", clash), CHI_ECONFLICT);
  bdev_story_param(&b, "capacity", "256K");
  CHECK_INT(start_with(&b, "alignment", "8192", clash), CHI_ECONFLICT);
  bdev_story_param(&b, "alignment", "512");
  CHECK_INT(what_is_left(&b), 60 * UNIT);
  CHECK_STR(story_end(&b.s), "");
}

STORY_BODY(allocates_one_byte)
{
  struct chi_block a;
  CHECK_INT(dev_allocate(queue, 1, &a), CHI_OK);
  *(uint64_t *)arg = a.size;
}

TEST(bdev_blocks_are_multiples_of_the_alignment)
{
  struct bdev_story b;
  uint64_t size = 0;
  bdev_story_open(&b, 15, "300K");
  bdev_story_param(&b, "alignment", "65536");
  CHECK_INT(story_start(&b.s), CHI_OK);
  RUN(b, allocates_one_byte, &size);
  CHECK_INT(size, 65536);
  CHECK_INT(sim_node_stop(b.s.sim, 0, 1000), CHI_OK);
  CHECK_INT(what_is_left(&b), 3 * 65536); /* what isn't a whole block isn't used */
  CHECK_STR(story_end(&b.s), "");
}

/* ---- many at once ---------------------------------------------------------------------------- */

struct crowd {
  struct bdev_story b;
  struct sim_fault_io *log_syncs, *data_syncs;
  bool done;
};

/* A rule that hits nothing, but counts. */
static struct sim_fault_io *count_syncs(struct bdev_story *b, const char *path)
{
  struct sim_fault_io rule = {.node = SIM_FAULT_ANYWHERE,
                              .op = ENV_IO_SYNC,
                              .path = path,
                              .after = UINT64_MAX,
                              .result = CHI_EIO};
  return sim_fault_add(sim_faults(b->s.sim), &rule);
}

STORY_BODY(allocates_and_syncs_all_at_once)
{
  struct crowd *crowd = arg;
  void *tasks[48];
  for (uint32_t i = 0; i < 48; i++) {
    chi_task *task = i < 32 ? (void *)CHI_NEW(queue, chi_bdev_allocate_blocks)
                            : (void *)CHI_NEW(queue, chi_bdev_sync);
    CHECK(task);
    task->pool = BDEV_POOL;
    if (i < 32)
      ((struct chi_bdev_allocate_blocks *)(void *)task)->size = UNIT;
    tasks[i] = task;
  }
  CHECK_INT(chi_submit_many(queue, tasks, 48), 48);
  CHECK_INT(chi_wait_all(queue, tasks, 48, UINT64_MAX), CHI_OK);
  CHECK_INT(dev_remaining(queue), (UNITS - 32) * UNIT);
  crowd->done = true;
}

/* What comes while a sync is under way shares the next one. */
TEST(bdev_shares_syncs_among_those_who_wait)
{
  struct crowd crowd = {.done = false};
  uint64_t log_before, data_before, log_syncs, data_syncs;
  bdev_story_open(&crowd.b, 16, "256K");
  crowd.log_syncs = count_syncs(&crowd.b, BDEV_LOG);
  crowd.data_syncs = count_syncs(&crowd.b, BDEV_PATH);
  CHECK_INT(story_start(&crowd.b.s), CHI_OK);
  log_before = crowd.log_syncs->fits;
  data_before = crowd.data_syncs->fits;
  RUN(crowd.b, allocates_and_syncs_all_at_once, &crowd);
  log_syncs = crowd.log_syncs->fits - log_before;
  data_syncs = crowd.data_syncs->fits - data_before - log_syncs; /* its path is part of the log's */
  CHECK_STR(story_end(&crowd.b.s), "");
  CHECK(crowd.done);
  CHECK(log_syncs >= 1 && log_syncs <= 8);
  CHECK(data_syncs >= 1 && data_syncs <= 8);
}

/* ---- the life of a pool ---------------------------------------------------------------------- */

struct life {
  struct bdev_story b;
  bool ram, done;
};

STORY_BODY(destroys_and_creates_again)
{
  struct life *life = arg;
  chi_param params[] = {{(char *)(uintptr_t) "capacity", (char *)(uintptr_t) "256K", 0, 0},
                        {(char *)(uintptr_t) "bdev_type", (char *)(uintptr_t) "file", 0, 0}};
  chi_pool_id id = BDEV_POOL;
  struct chi_block a;
  char text[8] = "";
  if (life->ram)
    params[1].value = (char *)(uintptr_t) "ram";
  CHECK_INT(dev_allocate(queue, 2 * UNIT, &a), CHI_OK);
  CHECK_INT(dev_write(queue, &a, "content", 8), CHI_OK);
  CHECK_INT(chi_pool_destroy(queue, BDEV_POOL, NULL), CHI_OK);
  CHECK(dev_sync(queue) != CHI_OK);
  CHECK_INT(chi_pool_create(queue, "bdev", BDEV_PATH, params, 2, &id, NULL), CHI_OK);
  CHECK_INT(id.major, BDEV_POOL.major);
  if (life->ram) {
    CHECK_INT(dev_remaining(queue), UNITS * UNIT);
  } else {
    CHECK_INT(dev_remaining(queue), (UNITS - 2) * UNIT);
    CHECK_INT(dev_read(queue, &a, text, 8), CHI_OK);
    CHECK_STR(text, "content");
  }
  life->done = true;
}

TEST(bdev_destroyed_pool_gives_its_file_back)
{
  for (int ram = 0; ram < 2; ram++) {
    struct life life = {.ram = ram};
    bdev_story_open(&life.b, 17, "256K");
    if (ram)
      bdev_story_ram(&life.b);
    CHECK_INT(story_start(&life.b.s), CHI_OK);
    RUN(life.b, destroys_and_creates_again, &life);
    CHECK_STR(story_end(&life.b.s), "");
    CHECK(life.done);
  }
}

/* Without a node: the state of a container that has done nothing. */
TEST(bdev_monitor_writes_one_object)
{
  const chi_module *module = bdev_module();
  void *state = calloc(1, module->state_size);
  char json[2048], small[40];
  int size = module->monitor(NULL, state, json, sizeof(json));
  int cut = module->monitor(NULL, state, small, sizeof(small));
  free(state);
  CHECK(size > 0 && (size_t)size == strlen(json));
  CHECK(strncmp(json, "{\"measured\":{\"capacity\":0,\"remaining\":0", 39) == 0);
  CHECK(strstr(json, "},\"declared\":{\"capacity\":0,"));
  CHECK(json[size - 1] == '}');
  CHECK_INT(cut, CHI_ETOOBIG);
  CHECK_INT(strlen(small), sizeof(small) - 1);
}
