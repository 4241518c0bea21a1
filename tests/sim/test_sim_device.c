/* test_sim_device.c - P5 as it is checked in every simulation: what is found, what is let pass. */
#include "hash.h"
#include "sim_check.h"
#include "test.h"

#define PATH "disk.dat"

struct bench {
  struct sim *sim;
  struct sim_check check;
};

static void bench_open(struct bench *b)
{
  b->sim = sim_open(1);
  sim_check_open(&b->check, b->sim, 2);
}

static void bench_close(struct bench *b)
{
  sim_close(b->sim);
  sim_check_close(&b->check);
}

static void tell(struct bench *b, enum env_device what, uint64_t p, uint64_t q)
{
  uint64_t id = hash_bytes(PATH, strlen(PATH), 0) << ENV_DEVICE_BITS;
  struct sim_trace_event e = {
      .node = 1, .kind = ENV_TRACE_DEVICE, .a = id | (uint64_t)what, .b = p, .c = q};
  sim_check_event(&b->check, &e);
}

/* Opens it, with what it finds from..to and again from..to. */
static void found(struct bench *b, uint64_t from, uint64_t to, uint64_t more, uint64_t end)
{
  tell(b, ENV_DEVICE_OPENS, 0, 0);
  if (to > from)
    tell(b, ENV_DEVICE_HAS, from, to - from);
  if (end > more)
    tell(b, ENV_DEVICE_HAS, more, end - more);
  tell(b, ENV_DEVICE_OPENED, 0, 0);
}

TEST(sim_device_finds_a_lost_allocation)
{
  static const struct {
    uint64_t from, to, more, end, lost;
  } finds[] = {{0, 0, 0, 0, 10},      {10, 30, 0, 0, 40},   {0, 15, 16, 60, 15},
               {10, 20, 20, 49, 49},  {0, 12, 40, 60, 12},  {0, 100, 0, 0, UINT64_MAX},
               {10, 25, 25, 50, UINT64_MAX}, {10, 30, 40, 50, UINT64_MAX}};
  char want[120];
  for (size_t i = 0; i < CHI_COUNT(finds); i++) {
    struct bench b;
    bench_open(&b);
    found(&b, 0, 0, 0, 0);
    tell(&b, ENV_DEVICE_ALLOCATED, 10, 10);
    tell(&b, ENV_DEVICE_ALLOCATED, 40, 10);
    tell(&b, ENV_DEVICE_ALLOCATED, 20, 10);
    CHECK(!b.check.failed);
    found(&b, finds[i].from, finds[i].to, finds[i].more, finds[i].end);
    snprintf(want, sizeof(want),
             "a device of node 1 is opened, and what it allocated at %llu is not there",
             (unsigned long long)finds[i].lost);
    if (finds[i].lost == UINT64_MAX)
      CHECK(!b.check.failed);
    else
      CHECK_STR(b.check.failed ? b.check.why : "", want);
    bench_close(&b);
  }
}

/* What is freed, or may have been, need not be there. */
TEST(sim_device_lets_frees_pass)
{
  struct bench b;
  bench_open(&b);
  tell(&b, ENV_DEVICE_ALLOCATED, 0, 100);
  tell(&b, ENV_DEVICE_FREES, 20, 10);
  tell(&b, ENV_DEVICE_FREES, 90, 50);
  found(&b, 0, 20, 30, 90);
  CHECK(!b.check.failed);
  tell(&b, ENV_DEVICE_ALLOCATED, 25, 1);
  found(&b, 0, 20, 30, 90);
  CHECK_STR(b.check.failed ? b.check.failed : "", "P5");
  bench_close(&b);
}

static int64_t does(struct bench *b, struct env_io *io)
{
  struct sim_disk *d = sim_node_disk(b->sim, 1);
  return sim_disk_do(d, io, sim_disk_mark(d));
}

TEST(sim_device_finds_a_sync_that_was_none)
{
  struct bench b;
  char bytes[100] = "x";
  bench_open(&b);
  struct env_io io = {.op = ENV_IO_OPEN, .path = PATH, .flags = CHI_FILE_CREATE};
  io.file = does(&b, &io);
  CHECK(io.file >= 0);
  struct env_io put = {.op = ENV_IO_WRITE, .file = io.file, .buf = bytes, .size = sizeof(bytes)};
  struct env_io sync = {.op = ENV_IO_SYNC, .file = io.file};
  CHECK_INT(does(&b, &put), sizeof(bytes));
  tell(&b, ENV_DEVICE_SYNCS, 1, 0);
  CHECK_INT(does(&b, &sync), 0);
  tell(&b, ENV_DEVICE_SYNCS, 2, 0);
  CHECK_INT(does(&b, &put), sizeof(bytes)); /* after both had begun */
  tell(&b, ENV_DEVICE_SYNCED, 2, 0);
  tell(&b, ENV_DEVICE_SYNCED, 1, 0);
  tell(&b, ENV_DEVICE_SYNCS, 3, 0);
  tell(&b, ENV_DEVICE_SYNCED, 3, (uint64_t)(int64_t)CHI_EIO);
  CHECK(!b.check.failed);
  tell(&b, ENV_DEVICE_SYNCS, 4, 0);
  tell(&b, ENV_DEVICE_SYNCED, 4, 0);
  CHECK_STR(b.check.failed ? b.check.failed : "", "P5");
  bench_close(&b);
}
