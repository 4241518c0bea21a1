/* test_sim_disk.c - the simulated disk: what is read, what is safe, and what a crash leaves. */
#include "sim_disk.h"
#include "test.h"

#define SEEDS 200

static int64_t do_io(struct sim_disk *d, struct env_io io)
{
  return sim_disk_do(d, &io, sim_disk_mark(d));
}

static int64_t open_file(struct sim_disk *d, const char *path, uint32_t flags)
{
  return do_io(d, (struct env_io){.op = ENV_IO_OPEN, .path = path, .flags = flags});
}

static int64_t close_file(struct sim_disk *d, int64_t file)
{
  return do_io(d, (struct env_io){.op = ENV_IO_CLOSE, .file = file});
}

static int64_t write_at(struct sim_disk *d, int64_t file, const void *buf, uint64_t size,
                        uint64_t offset)
{
  return do_io(d, (struct env_io){.op = ENV_IO_WRITE,
                                  .file = file,
                                  .buf = (void *)(uintptr_t)buf,
                                  .size = size,
                                  .offset = offset});
}

static int64_t read_at(struct sim_disk *d, int64_t file, void *buf, uint64_t size, uint64_t offset)
{
  return do_io(d, (struct env_io){
                      .op = ENV_IO_READ, .file = file, .buf = buf, .size = size, .offset = offset});
}

static int64_t on_file(struct sim_disk *d, int op, int64_t file, uint64_t size)
{
  return do_io(d, (struct env_io){.op = op, .file = file, .size = size});
}

static int64_t on_path(struct sim_disk *d, int op, const char *path, const char *path2)
{
  return do_io(d, (struct env_io){.op = op, .path = path, .path2 = path2});
}

TEST(sim_disk_reads_what_was_written)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  char buf[8];
  int64_t f = open_file(d, "a", CHI_FILE_CREATE);
  CHECK_INT(f >= 0, 1);
  CHECK_INT(read_at(d, f, buf, 4, 0), 0);
  CHECK_INT(write_at(d, f, "hello", 5, 4094), 5);
  CHECK_INT(on_file(d, ENV_IO_SIZE, f, 0), 4099);
  CHECK_INT(read_at(d, f, buf, 8, 4092), 7);
  CHECK(memcmp(buf, "\0\0hello", 7) == 0);
  CHECK_INT(read_at(d, f, buf, 8, 4099), 0);
  CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, 4096), 0);
  CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, 5000), 0);
  CHECK_INT(read_at(d, f, buf, 6, 4094), 6);
  CHECK(memcmp(buf, "he\0\0\0\0", 6) == 0);
  CHECK_STR(sim_disk_path(d, f), "a");
  CHECK_INT(sim_disk_open_count(d), 1);
  CHECK_INT(close_file(d, f), 0);
  CHECK_INT(sim_disk_open_count(d), 0);
  CHECK(!sim_disk_path(d, f));
  sim_disk_close(d);
}

TEST(sim_disk_refuses_what_makes_no_sense)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  char buf[8] = {0};
  int64_t f = open_file(d, "a", CHI_FILE_CREATE), g;
  CHECK_INT(open_file(d, "b", 0), CHI_ENOENT);
  CHECK_INT(open_file(d, "", CHI_FILE_CREATE), CHI_EINVAL);
  CHECK_INT(open_file(d, NULL, CHI_FILE_CREATE), CHI_EINVAL);
  CHECK_INT(open_file(d, "dir/b", CHI_FILE_CREATE), CHI_ENOENT);
  CHECK_INT(open_file(d, "a", CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE), CHI_EEXIST);
  CHECK_INT(write_at(d, f, NULL, 4, 0), CHI_EINVAL);
  CHECK_INT(write_at(d, f, buf, 4, UINT64_MAX), CHI_EINVAL);
  CHECK_INT(write_at(d, f, buf, UINT64_MAX, 1), CHI_EINVAL);
  CHECK_INT(write_at(d, f + 7, buf, 4, 0), CHI_EINVAL);
  CHECK_INT(write_at(d, -1, buf, 4, 0), CHI_EINVAL);
  CHECK_INT(write_at(d, f, buf, 0, 0), 0);
  CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, UINT64_MAX), CHI_EINVAL);
  CHECK_INT(on_file(d, ENV_IO_SYNC, 99, 0), CHI_EINVAL);
  CHECK_INT(on_file(d, ENV_IO_SIZE, 99, 0), CHI_EINVAL);
  CHECK_INT(on_path(d, ENV_IO_RENAME, "b", "c"), CHI_ENOENT);
  CHECK_INT(on_path(d, ENV_IO_RENAME, "a", "dir/c"), CHI_ENOENT);
  CHECK_INT(on_path(d, ENV_IO_RENAME, "a", NULL), CHI_EINVAL);
  CHECK_INT(on_path(d, ENV_IO_REMOVE, "b", NULL), CHI_ENOENT);
  CHECK_INT(on_path(d, ENV_IO_REMOVE, NULL, NULL), CHI_EINVAL);
  CHECK_INT(on_path(d, ENV_IO_DIRSYNC, "dir/b", NULL), CHI_ENOENT);
  CHECK_INT(on_path(d, ENV_IO_DIRSYNC, NULL, NULL), CHI_EINVAL);
  CHECK_INT(on_path(d, ENV_IO_SPACE, NULL, NULL), CHI_EINVAL);
  CHECK_INT(on_path(d, 99, "a", NULL), CHI_ENOTSUP);
  g = open_file(d, "a", CHI_FILE_READONLY);
  CHECK_INT(write_at(d, g, buf, 4, 0), CHI_EACCES);
  CHECK_INT(on_file(d, ENV_IO_TRUNCATE, g, 0), CHI_EACCES);
  CHECK_INT(close_file(d, g), 0);
  CHECK_INT(close_file(d, g), CHI_EINVAL);
  sim_disk_close(d);
}

TEST(sim_disk_direct_files_ask_for_alignment)
{
  static _Alignas(4096) char block[8192];
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  int64_t f = open_file(d, "a", CHI_FILE_CREATE | CHI_FILE_DIRECT);
  CHECK_INT(write_at(d, f, block, 4096, 4096), 4096);
  CHECK_INT(write_at(d, f, block, 512, 0), CHI_EINVAL);
  CHECK_INT(write_at(d, f, block + 512, 4096, 0), CHI_EINVAL);
  CHECK_INT(read_at(d, f, block, 4096, 512), CHI_EINVAL);
  CHECK_INT(read_at(d, f, block, 8192, 4096), 4096);
  sim_disk_close(d);
}

TEST(sim_disk_locks_until_closed_or_crashed)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  int64_t f = open_file(d, "a", CHI_FILE_CREATE | CHI_FILE_LOCK), g;
  CHECK_INT(open_file(d, "a", CHI_FILE_LOCK), CHI_EBUSY);
  g = open_file(d, "a", 0);
  CHECK(g >= 0);
  CHECK_INT(close_file(d, g), 0);
  CHECK_INT(open_file(d, "a", CHI_FILE_LOCK), CHI_EBUSY);
  CHECK_INT(close_file(d, f), 0);
  f = open_file(d, "a", CHI_FILE_LOCK);
  CHECK(f >= 0);
  sim_disk_crash(d, SIM_DISK_KEEP);
  CHECK_INT(sim_disk_open_count(d), 0);
  CHECK_INT(write_at(d, f, "x", 1, 0), CHI_EINVAL);
  CHECK(open_file(d, "a", CHI_FILE_LOCK) >= 0);
  sim_disk_close(d);
}

TEST(sim_disk_can_be_full)
{
  static char block[16384];
  struct sim_disk *d = sim_disk_open(1, 0, 8192);
  int64_t f = open_file(d, "a", CHI_FILE_CREATE), g;
  CHECK_INT(on_path(d, ENV_IO_SPACE, "a", NULL), 8192);
  CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, 1 << 20), 0);
  CHECK_INT(on_path(d, ENV_IO_SPACE, "a", NULL), 8192);
  CHECK_INT(write_at(d, f, block, sizeof(block), 100), 8192 - 100);
  CHECK_INT(on_path(d, ENV_IO_SPACE, "a", NULL), 0);
  CHECK_INT(write_at(d, f, block, 5, 8192), CHI_ENOSPC);
  CHECK_INT(write_at(d, f, block, 8192, 0), 8192);
  g = open_file(d, "b", CHI_FILE_CREATE);
  CHECK_INT(write_at(d, g, block, 1, 0), CHI_ENOSPC);
  CHECK_INT(on_path(d, ENV_IO_REMOVE, "a", NULL), 0);
  CHECK_INT(write_at(d, g, block, 1, 0), CHI_ENOSPC);
  CHECK_INT(close_file(d, f), 0);
  CHECK_INT(write_at(d, g, block, 1, 0), 1);
  sim_disk_close(d);
}

/* A file with its name and "old!" safe. */
static int64_t open_safe(struct sim_disk *d)
{
  sim_disk_poke(d, "a", "old!", 4, 0);
  return open_file(d, "a", 0);
}

TEST(sim_disk_loses_what_is_not_synced)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  char buf[8] = {0};
  int64_t f = open_safe(d);
  CHECK_INT(write_at(d, f, "new", 3, 0), 3);
  CHECK_INT(sim_disk_peek(d, "a", buf, 8, 0), 4);
  CHECK(memcmp(buf, "new!", 4) == 0);
  sim_disk_crash(d, SIM_DISK_LOSE);
  CHECK_INT(sim_disk_peek(d, "a", buf, 8, 0), 4);
  CHECK(memcmp(buf, "old!", 4) == 0);
  sim_disk_close(d);
}

TEST(sim_disk_keeps_what_is_synced)
{
  for (int how = SIM_DISK_SEED; how <= SIM_DISK_KEEP; how++) {
    struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
    char buf[8] = {0};
    int64_t f = open_safe(d);
    CHECK_INT(write_at(d, f, "new", 3, 0), 3);
    CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, 3), 0);
    CHECK_INT(on_file(d, ENV_IO_SYNC, f, 0), 0);
    sim_disk_crash(d, (enum sim_disk_crash)how);
    CHECK_INT(sim_disk_peek(d, "a", buf, 8, 0), 3);
    CHECK(memcmp(buf, "new", 3) == 0);
    sim_disk_close(d);
  }
}

TEST(sim_disk_sync_covers_what_was_done_before_it_began)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  char buf[8] = {0};
  int64_t f = open_safe(d);
  struct env_io sync = {.op = ENV_IO_SYNC, .file = f};
  uint64_t mark;
  CHECK_INT(write_at(d, f, "N", 1, 0), 1);
  mark = sim_disk_mark(d);
  CHECK_INT(write_at(d, f, "N", 1, 2), 1);
  CHECK_INT(sim_disk_do(d, &sync, mark), 0);
  sim_disk_crash(d, SIM_DISK_LOSE);
  CHECK_INT(sim_disk_peek(d, "a", buf, 8, 0), 4);
  CHECK(memcmp(buf, "Nld!", 4) == 0);
  sim_disk_close(d);
}

/* Over many seeds a write of four sectors, across the end of the file, is seen lost, kept and torn;
 * and never is there anything but old and new sectors. */
TEST(sim_disk_tears_at_sectors)
{
  int lost = 0, kept = 0, torn = 0, reversed = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct sim_disk *d = sim_disk_open(seed, 0, 1 << 20);
    char old[1024], new[2048], buf[2048] = {0};
    int fresh = 0, backwards = 0;
    int64_t f, size;
    memset(old, 'o', sizeof(old));
    memset(new, 'n', sizeof(new));
    sim_disk_poke(d, "a", old, sizeof(old), 0);
    f = open_file(d, "a", 0);
    CHECK_INT(write_at(d, f, new, sizeof(new), 0), 2048);
    sim_disk_crash(d, SIM_DISK_SEED);
    size = sim_disk_peek(d, "a", buf, sizeof(buf), 0);
    CHECK(size == 1024 || size == 1536 || size == 2048);
    for (int i = 0; i < 4; i++) {
      char first = buf[i * 512];
      CHECK(first == 'n' || first == (i < 2 ? 'o' : '\0'));
      for (int j = 1; j < 512; j++)
        CHECK_INT(buf[i * 512 + j], first);
      fresh += first == 'n';
      backwards += first == 'n' && i > 0 && buf[(i - 1) * 512] != 'n';
    }
    lost += fresh == 0;
    kept += fresh == 4;
    torn += fresh > 0 && fresh < 4;
    reversed += backwards > 0;
    sim_disk_close(d);
  }
  CHECK(lost > 0 && kept > 0 && torn > 0 && reversed > 0);
}

TEST(sim_disk_reorders_writes_and_truncates)
{
  int seen[4] = {0}, size_lost = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct sim_disk *d = sim_disk_open(seed, 0, 1 << 20);
    char buf[2048] = {0};
    int64_t f, size;
    sim_disk_poke(d, "a", "12", 2, 0);
    f = open_file(d, "a", 0);
    CHECK_INT(write_at(d, f, "A", 1, 0), 1);
    CHECK_INT(write_at(d, f, "B", 1, 1), 1);
    CHECK_INT(on_file(d, ENV_IO_TRUNCATE, f, 1024), 0);
    sim_disk_crash(d, SIM_DISK_SEED);
    size = sim_disk_peek(d, "a", buf, sizeof(buf), 0);
    CHECK(size == 2 || size == 1024);
    CHECK(buf[0] == '1' || buf[0] == 'A');
    CHECK(buf[1] == '2' || buf[1] == 'B');
    seen[(buf[0] == 'A') + 2 * (buf[1] == 'B')]++;
    size_lost += size == 2 && buf[1] == 'B';
    sim_disk_close(d);
  }
  CHECK(seen[0] && seen[1] && seen[2] && seen[3] && size_lost);
}

TEST(sim_disk_new_file_needs_its_directory_synced)
{
  for (int synced = 0; synced < 2; synced++) {
    struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
    char buf[4];
    int64_t f;
    sim_disk_mkdir(d, "/data");
    f = open_file(d, "/data/a", CHI_FILE_CREATE);
    CHECK_INT(write_at(d, f, "new", 3, 0), 3);
    CHECK_INT(on_file(d, ENV_IO_SYNC, f, 0), 0);
    CHECK_INT(on_path(d, ENV_IO_DIRSYNC, "/b", NULL), 0);
    if (synced)
      CHECK_INT(on_path(d, ENV_IO_DIRSYNC, "/data/a", NULL), 0);
    sim_disk_crash(d, SIM_DISK_LOSE);
    CHECK_INT(sim_disk_peek(d, "/data/a", buf, 4, 0), synced ? 3 : CHI_ENOENT);
    sim_disk_close(d);
  }
}

/* Replacing a file by renaming: after a crash its name shows the old content or the new one. */
TEST(sim_disk_rename_is_atomic)
{
  int was_old = 0, was_new = 0, both = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct sim_disk *d = sim_disk_open(seed, 0, 1 << 20);
    char buf[4] = {0}, other[4];
    int64_t f;
    sim_disk_poke(d, "a", "old", 3, 0);
    f = open_file(d, "a.new", CHI_FILE_CREATE);
    CHECK_INT(write_at(d, f, "new", 3, 0), 3);
    CHECK_INT(on_file(d, ENV_IO_SYNC, f, 0), 0);
    CHECK_INT(on_path(d, ENV_IO_RENAME, "a.new", "a"), 0);
    CHECK_STR(sim_disk_path(d, f), "a");
    sim_disk_crash(d, SIM_DISK_SEED);
    CHECK_INT(sim_disk_peek(d, "a", buf, 3, 0), 3);
    CHECK(!strcmp(buf, "old") || !strcmp(buf, "new"));
    was_old += !strcmp(buf, "old");
    was_new += !strcmp(buf, "new");
    both += !strcmp(buf, "old") && sim_disk_peek(d, "a.new", other, 3, 0) == 3;
    sim_disk_close(d);
  }
  CHECK(was_old && was_new && both);
}

TEST(sim_disk_remove_is_undone_by_a_crash)
{
  struct sim_disk *d = sim_disk_open(1, 0, 1 << 20);
  char buf[4];
  sim_disk_poke(d, "a", "old", 3, 0);
  CHECK_INT(on_path(d, ENV_IO_REMOVE, "a", NULL), 0);
  CHECK_INT(sim_disk_peek(d, "a", buf, 3, 0), CHI_ENOENT);
  sim_disk_crash(d, SIM_DISK_LOSE);
  CHECK_INT(sim_disk_peek(d, "a", buf, 3, 0), 3);
  CHECK_INT(on_path(d, ENV_IO_REMOVE, "a", NULL), 0);
  CHECK_INT(on_path(d, ENV_IO_DIRSYNC, "a", NULL), 0);
  sim_disk_crash(d, SIM_DISK_LOSE);
  CHECK_INT(sim_disk_peek(d, "a", buf, 3, 0), CHI_ENOENT);
  sim_disk_close(d);
}

TEST(sim_disk_failed_sync_is_not_mended_by_the_next)
{
  int lost = 0, kept = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    struct sim_disk *d = sim_disk_open(seed, 0, 1 << 20);
    char buf[5] = {0};
    int64_t f = open_safe(d);
    struct env_io sync = {.op = ENV_IO_SYNC, .file = f};
    CHECK_INT(write_at(d, f, "new", 3, 0), 3);
    sim_disk_sync_failed(d, &sync, sim_disk_mark(d));
    CHECK_INT(sim_disk_peek(d, "a", buf, 4, 0), 4);
    CHECK_STR(buf, "new!");
    CHECK_INT(write_at(d, f, "?", 1, 3), 1);
    CHECK_INT(on_file(d, ENV_IO_SYNC, f, 0), 0);
    sim_disk_crash(d, SIM_DISK_KEEP); /* the cache still has it */
    CHECK_INT(sim_disk_peek(d, "a", buf, 4, 0), 4);
    CHECK_STR(buf, "new?");
    sim_disk_crash(d, SIM_DISK_LOSE);
    CHECK_INT(sim_disk_peek(d, "a", buf, 4, 0), 4);
    CHECK(!strcmp(buf, "old?") || !strcmp(buf, "new?"));
    lost += !strcmp(buf, "old?");
    kept += !strcmp(buf, "new?");
    sim_disk_close(d);
  }
  CHECK(lost && kept);
}

TEST(sim_disk_crash_is_drawn_from_the_seed)
{
  char first[4096] = {0}, second[4096];
  for (int round = 0; round < 2; round++) {
    struct sim_disk *d = sim_disk_open(42, 7, 1 << 20);
    int64_t f = open_file(d, "a", CHI_FILE_CREATE);
    memset(second, 0, sizeof(second));
    CHECK_INT(on_path(d, ENV_IO_DIRSYNC, "a", NULL), 0);
    for (int i = 0; i < 8; i++) {
      memset(second, 'a' + i, 512);
      CHECK_INT(write_at(d, f, second, 512, (uint64_t)i * 512), 512);
    }
    sim_disk_crash(d, SIM_DISK_SEED);
    memset(second, 0, sizeof(second));
    CHECK(sim_disk_peek(d, "a", second, sizeof(second), 0) >= 0);
    if (round == 0)
      memcpy(first, second, sizeof(first));
    CHECK(memcmp(first, second, sizeof(first)) == 0);
    sim_disk_close(d);
  }
}
