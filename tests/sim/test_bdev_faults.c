/* test_bdev_faults.c - a device on bad disks: full, failing, damaged; and without memory. */
#include "bdev_story.h"

#include <stdlib.h>

#define UNIT SHADOW_UNIT
#define BEGIN(b, seed)                                                                             \
  bdev_story_open(&(b), seed, "256K");                                                             \
  CHECK_INT(story_start(&(b).s), CHI_OK)
#define RUN(b, body, arg) CHECK(bdev_story_run(&(b), body, arg))

/* What a body uses and tells. */
struct tale {
  struct bdev_story b;
  struct chi_block block[8];
  uint64_t left;
  bool done;
};

static struct sim_fault_io fault_on(const char *path, int op, int code)
{
  return (struct sim_fault_io){
      .node = SIM_FAULT_ANYWHERE, .op = (uint32_t)op, .path = path, .result = code};
}

static void add_fault(struct tale *t, const char *path, int op, int code)
{
  struct sim_fault_io rule = fault_on(path, op, code);
  sim_fault_add(sim_faults(t->b.s.sim), &rule);
}

static void heal(struct tale *t)
{
  sim_fault_clear(sim_faults(t->b.s.sim));
}

/* ---- a full disk ----------------------------------------------------------------------------- */

static void allocates_on_a_full_disk(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint64_t left;
  CHECK_INT(dev_allocate(queue, 2 * UNIT, &t->block[0]), CHI_OK);
  left = dev_remaining(queue);
  add_fault(t, ".chi-log", ENV_IO_WRITE, CHI_ENOSPC);
  for (int i = 0; i < 3; i++)
    CHECK_INT(dev_allocate(queue, UNIT, &t->block[1]), CHI_ENOSPC);
  CHECK_INT(dev_remaining(queue), left);
  CHECK_INT(dev_free(queue, &t->block[0]), CHI_OK); /* is only remembered */
  CHECK_INT(dev_sync(queue), CHI_ENOSPC);           /* and can't be made durable */
  CHECK_INT(dev_remaining(queue), left + 2 * UNIT);
  heal(t);
  CHECK_INT(dev_sync(queue), CHI_OK);
  CHECK_INT(dev_allocate(queue, 3 * UNIT, &t->block[1]), CHI_OK);
  t->left = dev_remaining(queue);
  t->done = true;
}

static void finds_what_was_left(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint8_t byte;
  CHECK_INT(dev_remaining(queue), t->left);
  CHECK_INT(dev_read(queue, &t->block[1], &byte, 1), CHI_OK);
  t->done = true;
}

/* Crashes, starts again and runs a body. */
static bool tell_after_crash(struct tale *t, void (*body)(chi_queue *queue, void *arg))
{
  t->done = false;
  sim_node_crash(t->b.s.sim, 0);
  return story_start(&t->b.s) == CHI_OK && bdev_story_run(&t->b, body, t) && t->done;
}

TEST(bdev_full_disk_fails_allocations_and_loses_nothing)
{
  for (uint64_t seed = 0; seed < 20; seed++) {
    struct tale t = {.done = false};
    BEGIN(t.b, seed);
    RUN(t.b, allocates_on_a_full_disk, &t);
    CHECK(t.done);
    CHECK(tell_after_crash(&t, finds_what_was_left));
    CHECK_STR(story_end(&t.b.s), "");
  }
}

/* So many frees wait that the next one must be written, and can't. */
static void frees_on_a_full_disk(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  struct chi_block all, one;
  int rc = CHI_OK;
  CHECK_INT(dev_allocate(queue, 8192 * (uint64_t)UNIT, &all), CHI_OK);
  add_fault(t, ".chi-log", ENV_IO_WRITE, CHI_ENOSPC);
  one = all;
  one.size = UNIT;
  for (; rc == CHI_OK && one.offset < 8192 * (uint64_t)UNIT; one.offset += UNIT)
    rc = dev_free(queue, &one);
  CHECK_INT(rc, CHI_ENOSPC);
  one.offset -= UNIT; /* the one that failed is still allocated */
  CHECK_INT(dev_remaining(queue), one.offset);
  heal(t);
  CHECK_INT(dev_free(queue, &one), CHI_OK);
  t->done = true;
}

TEST(bdev_frees_do_not_wait_for_ever_on_a_full_disk)
{
  struct tale t = {.done = false};
  bdev_story_open(&t.b, 1, "32M");
  sim_transcript(t.b.s.sim, NULL, NULL);
  CHECK_INT(story_start(&t.b.s), CHI_OK);
  RUN(t.b, frees_on_a_full_disk, &t);
  CHECK_STR(story_end(&t.b.s), "");
  CHECK(t.done);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void transfers_with_errors(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  static uint8_t data[2 * UNIT];
  struct chi_bdev_get_stats stats;
  struct chi_block part;
  memset(data, 1, sizeof(data));
  CHECK_INT(dev_allocate(queue, sizeof(data), &t->block[0]), CHI_OK);
  CHECK_INT(dev_write(queue, &t->block[0], data, sizeof(data)), CHI_OK);
  part = t->block[0];
  part.offset += 100;
  part.size = UNIT;
  add_fault(t, BDEV_PATH, ENV_IO_WRITE, CHI_EIO);
  CHECK_INT(dev_write(queue, &t->block[0], data, sizeof(data)), CHI_EIO);
  CHECK_INT(dev_write(queue, &part, data, UNIT), CHI_EIO);
  heal(t);
  add_fault(t, BDEV_PATH, ENV_IO_READ, CHI_EIO);
  CHECK_INT(dev_read(queue, &t->block[0], data, sizeof(data)), CHI_EIO);
  CHECK_INT(dev_write(queue, &part, data, UNIT), CHI_EIO); /* its edges can't be read */
  heal(t);
  memset(data, 0, sizeof(data));
  CHECK_INT(dev_read(queue, &t->block[0], data, sizeof(data)), CHI_OK);
  CHECK_INT(data[0], 1);
  CHECK_INT(dev_sync(queue), CHI_OK); /* an error of a write is over with it */
  CHECK_INT(dev_stats(queue, &stats), CHI_OK);
  CHECK_INT(stats.writes, 1);
  CHECK_INT(stats.reads, 1);
  t->done = true;
}

TEST(bdev_errors_of_reads_and_writes_are_told)
{
  struct tale t = {.done = false};
  BEGIN(t.b, 2);
  RUN(t.b, transfers_with_errors, &t);
  CHECK_STR(story_end(&t.b.s), "");
  CHECK(t.done);
}

static void syncs_with_an_error(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint8_t data[64] = {5};
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[0]), CHI_OK);
  CHECK_INT(dev_write(queue, &t->block[0], data, sizeof(data)), CHI_OK);
  add_fault(t, BDEV_PATH, ENV_IO_SYNC, CHI_EIO);
  CHECK_INT(dev_sync(queue), CHI_EIO);
  heal(t);
  CHECK_INT(dev_write(queue, &t->block[0], data, sizeof(data)), CHI_OK);
  CHECK_INT(dev_sync(queue), CHI_EIO); /* nobody knows what the first one lost */
  CHECK_INT(dev_sync(queue), CHI_EIO);
  CHECK_INT(dev_read(queue, &t->block[0], data, sizeof(data)), CHI_OK);
  t->done = true;
}

static void syncs(chi_queue *queue, void *arg)
{
  ((struct tale *)arg)->done = dev_sync(queue) == CHI_OK;
}

TEST(bdev_sync_that_failed_stays_failed_until_reopened)
{
  struct tale t = {.done = false};
  BEGIN(t.b, 3);
  RUN(t.b, syncs_with_an_error, &t);
  CHECK(t.done);
  CHECK(story_tells(&t.b.s, "syncing the file failed", NULL));
  CHECK_INT(sim_node_stop(t.b.s.sim, 0, 100), CHI_OK);
  CHECK_INT(story_start(&t.b.s), CHI_OK);
  t.done = false;
  RUN(t.b, syncs, &t);
  CHECK_STR(story_end(&t.b.s), "");
  CHECK(t.done);
}

static void allocates_with_a_failing_sync(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint64_t left;
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[0]), CHI_OK);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[1]), CHI_OK);
  left = dev_remaining(queue);
  add_fault(t, ".chi-log", ENV_IO_SYNC, CHI_EIO);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[2]), CHI_EIO);
  heal(t);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[2]), CHI_EIO);
  CHECK_INT(dev_free(queue, &t->block[0]), CHI_EIO);
  CHECK_INT(dev_sync(queue), CHI_EIO);
  CHECK_INT(dev_remaining(queue), left);
  t->done = true;
}

static void finds_both_blocks(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint8_t byte;
  CHECK_INT(dev_read(queue, &t->block[0], &byte, 1), CHI_OK);
  CHECK_INT(dev_read(queue, &t->block[1], &byte, 1), CHI_OK);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[2]), CHI_OK);
  t->done = true;
}

TEST(bdev_log_that_cannot_be_synced_takes_no_more)
{
  for (uint64_t seed = 0; seed < 20; seed++) {
    struct tale t = {.done = false};
    BEGIN(t.b, seed);
    RUN(t.b, allocates_with_a_failing_sync, &t);
    CHECK(t.done);
    CHECK(story_tells(&t.b.s, "syncing the allocation log failed", NULL));
    CHECK(tell_after_crash(&t, finds_both_blocks));
    CHECK_STR(story_end(&t.b.s), "");
  }
}

/* ---- renewal of the log ---------------------------------------------------------------------- */

/* Allocates and frees until the log has been too long for a while. */
static void fills_the_log(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[1]), CHI_OK);
  for (int i = 0; i < 800; i++) {
    CHECK_INT(dev_allocate(queue, UNIT, &t->block[0]), CHI_OK);
    CHECK_INT(dev_free(queue, &t->block[0]), CHI_OK);
  }
  CHECK_INT(dev_sync(queue), CHI_OK);
  t->left = dev_remaining(queue);
  t->done = true;
}

static int64_t log_size(struct tale *t)
{
  static uint8_t bytes[1 << 18];
  return sim_disk_peek(sim_node_disk(t->b.s.sim, 0), BDEV_LOG, bytes, sizeof(bytes), 0);
}

TEST(bdev_log_stays_short)
{
  struct tale t = {.done = false};
  BEGIN(t.b, 5);
  RUN(t.b, fills_the_log, &t);
  CHECK(t.done);
  CHECK(log_size(&t) < 66000); /* 800 * 128 bytes have been written */
  CHECK(tell_after_crash(&t, finds_what_was_left));
  CHECK_STR(story_end(&t.b.s), "");
}

TEST(bdev_log_that_cannot_be_renewed_grows)
{
  static const int ops[] = {ENV_IO_OPEN, ENV_IO_TRUNCATE, ENV_IO_WRITE, ENV_IO_SYNC, ENV_IO_RENAME};
  for (size_t i = 0; i < CHI_COUNT(ops); i++) {
    struct tale t = {.done = false};
    uint8_t byte;
    BEGIN(t.b, 6);
    add_fault(&t, ".chi-log.new", ops[i], CHI_EIO);
    RUN(t.b, fills_the_log, &t);
    CHECK(t.done);
    CHECK(story_tells(&t.b.s, "the allocation log can't be shortened", NULL));
    CHECK(log_size(&t) > 100000);
    CHECK_INT(sim_disk_peek(sim_node_disk(t.b.s.sim, 0), BDEV_LOG ".new", &byte, 1, 0), CHI_ENOENT);
    heal(&t);
    CHECK(tell_after_crash(&t, finds_what_was_left));
    RUN(t.b, fills_the_log, &t);
    CHECK(log_size(&t) < 100000);
    CHECK_STR(story_end(&t.b.s), "");
  }
}

/* The new file has its name, but nobody knows whether for good. */
static void fails_to_name_the_log(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  int rc = CHI_OK;
  add_fault(t, NULL, ENV_IO_DIRSYNC, CHI_EIO);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[1]), CHI_OK);
  for (int i = 0; i < 1000 && rc == CHI_OK; i++) {
    t->left = dev_remaining(queue);
    rc = dev_allocate(queue, UNIT, &t->block[0]);
    if (rc == CHI_OK)
      rc = dev_free(queue, &t->block[0]);
  }
  CHECK_INT(rc, CHI_EIO);
  heal(t);
  CHECK_INT(dev_allocate(queue, UNIT, &t->block[0]), CHI_EIO);
  CHECK_INT(dev_remaining(queue), t->left);
  t->done = true;
}

static void finds_at_most_one_leaked(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint64_t left = dev_remaining(queue);
  uint8_t byte;
  CHECK(left == t->left || left == t->left - UNIT); /* the last free was not durable */
  CHECK_INT(dev_read(queue, &t->block[1], &byte, 1), CHI_OK);
  t->done = true;
}

TEST(bdev_log_whose_name_is_in_doubt_takes_no_more)
{
  for (uint64_t seed = 0; seed < 10; seed++) {
    struct tale t = {.done = false};
    BEGIN(t.b, seed);
    RUN(t.b, fails_to_name_the_log, &t);
    CHECK(t.done);
    CHECK(tell_after_crash(&t, finds_at_most_one_leaked));
    CHECK_STR(story_end(&t.b.s), "");
  }
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void allocates_five_times(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  for (int i = 0; i < 5; i++)
    CHECK_INT(dev_allocate(queue, UNIT, &t->block[i]), CHI_OK);
  t->left = dev_remaining(queue);
  t->done = true;
}

static void flip(struct tale *t, uint64_t offset)
{
  struct sim_disk *disk = sim_node_disk(t->b.s.sim, 0);
  uint8_t byte = 0;
  sim_disk_peek(disk, BDEV_LOG, &byte, 1, offset);
  byte ^= 0x10;
  sim_disk_poke(disk, BDEV_LOG, &byte, 1, offset);
}

/* Head 64 bytes, five records of 64, a mark of 48 at the clean end. */
TEST(bdev_damaged_log_is_refused)
{
  static const struct {
    uint64_t at;
    const char *says;
  } damage[] = {
      {3, "this is not an allocation log"},
      {20, "the head of the log is damaged"},
      {64 + 10, "the log is damaged at offset 64,"},
      {64 + 3 * 64 + 50, "the log is damaged at offset 256,"},
      {64 + 4 * 64 + 1, "the log is damaged at offset 320,"}, /* told by the mark */
  };
  for (size_t i = 0; i < CHI_COUNT(damage); i++) {
    struct tale t = {.done = false};
    int rc;
    BEGIN(t.b, 7);
    RUN(t.b, allocates_five_times, &t);
    CHECK_INT(sim_node_stop(t.b.s.sim, 0, 100), CHI_OK);
    CHECK_INT(log_size(&t), 64 + 5 * 64 + 48);
    flip(&t, damage[i].at);
    rc = story_start(&t.b.s);
    CHECK(story_tells(&t.b.s, damage[i].says, NULL));
    flip(&t, damage[i].at);
    CHECK_INT(rc, CHI_ECORRUPT);
    CHECK_INT(story_start(&t.b.s), CHI_OK); /* nothing was changed meanwhile */
    RUN(t.b, finds_what_was_left, &t);
    CHECK_STR(story_end(&t.b.s), "");
  }
}

TEST(bdev_torn_tail_of_the_log_is_dropped)
{
  struct tale t = {.done = false};
  static const uint8_t rubbish[100] = {0x43, 0x48, 0x49, 0x4c, 1};
  BEGIN(t.b, 8);
  RUN(t.b, allocates_five_times, &t);
  CHECK_INT(sim_node_stop(t.b.s.sim, 0, 100), CHI_OK);
  sim_disk_poke(sim_node_disk(t.b.s.sim, 0), BDEV_LOG, rubbish, sizeof(rubbish),
                (uint64_t)log_size(&t));
  CHECK_INT(story_start(&t.b.s), CHI_OK);
  CHECK(story_tells(&t.b.s, "the last 100 bytes of the allocation log were never confirmed", NULL));
  RUN(t.b, finds_what_was_left, &t);
  CHECK_INT(log_size(&t), 64 + 64); /* a new one: the five blocks are one run */
  CHECK_STR(story_end(&t.b.s), "");
}

/* A log that something follows is begun anew; where that has no room, it goes on. */
TEST(bdev_opens_on_a_full_disk)
{
  struct tale t = {.done = false};
  BEGIN(t.b, 10);
  RUN(t.b, allocates_five_times, &t);
  sim_node_crash(t.b.s.sim, 0);
  add_fault(&t, ".chi-log.new", ENV_IO_WRITE, CHI_ENOSPC);
  CHECK_INT(story_start(&t.b.s), CHI_OK);
  CHECK(story_tells(&t.b.s, "no space for a new allocation log", NULL));
  RUN(t.b, finds_what_was_left, &t);
  CHECK_INT(log_size(&t), 64 + 5 * 64);
  heal(&t);
  CHECK(tell_after_crash(&t, finds_what_was_left));
  CHECK_INT(log_size(&t), 64 + 64);
  CHECK_STR(story_end(&t.b.s), "");
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void does_a_bit_of_everything(chi_queue *queue, void *arg)
{
  struct tale *t = arg;
  uint8_t data[UNIT + 10];
  struct chi_block part;
  int rc = dev_allocate(queue, 3 * UNIT, &t->block[0]);
  memset(data, 3, sizeof(data));
  if (rc == CHI_OK)
    rc = dev_write(queue, &t->block[0], data, sizeof(data));
  if (rc == CHI_OK)
    rc = dev_read(queue, &t->block[0], data, sizeof(data));
  part = t->block[0];
  part.size = UNIT;
  if (rc == CHI_OK)
    rc = dev_free(queue, &part);
  if (rc == CHI_OK)
    rc = dev_sync(queue);
  t->done = rc == CHI_OK || rc == CHI_ENOMEM || rc == CHI_EBUSY;
}

/* One asking for memory fails, whichever: the node starts or says so, calls work or say so. */
TEST(bdev_without_memory_says_so)
{
  for (int ram = 0; ram < 2; ram++) {
    bool over = false;
    for (uint64_t at = 1; !over && at < 3000; at++) {
      struct tale t = {.done = false};
      int rc;
      bdev_story_open(&t.b, 9, "256K");
      sim_transcript(t.b.s.sim, NULL, NULL);
      if (ram)
        bdev_story_ram(&t.b);
      sim_fault_memory(sim_faults(t.b.s.sim), SIM_FAULT_ALLOC, at, 0);
      rc = story_start(&t.b.s);
      if (rc == CHI_OK) {
        bool ran = bdev_story_run(&t.b, does_a_bit_of_everything, &t);
        CHECK(!ran || t.done); /* without memory it may not even attach */
      }
      over = sim_faults(t.b.s.sim)->injected == 0;
      heal(&t);
      CHECK_STR(story_end(&t.b.s), "");
      CHECK(rc == CHI_OK || rc == CHI_ENOMEM || rc == CHI_EBUSY); /* busy: no fiber to be had */
      CHECK(!over || t.done);
    }
    CHECK(over);
  }
}
