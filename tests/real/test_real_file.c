/* test_real_file.c - what the seam says of files, with io_uring and without. */
#include "real_file.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* An environment with files for two workers, and a directory. */
struct desk {
  struct real_env r;
  struct env *env;
  char dir[64], path[96];
};

static bool desk_make(struct desk *d, bool no_ring)
{
  if (!scratch_make(d->dir) || real_env_open(&d->r, NULL) != CHI_OK ||
      real_file_bind(&d->r, 2) != CHI_OK)
    return false;
  d->env = &d->r.env;
  d->r.no_ring = no_ring;
  snprintf(d->path, sizeof(d->path), "%s/file", d->dir);
  return true;
}

static void desk_free(struct desk *d)
{
  real_file_close(&d->r);
  real_env_close(&d->r);
  scratch_remove(d->dir);
}

/* Waits for the next operation of worker 0 to come back. */
static struct env_io *desk_reap(struct desk *d)
{
  for (;;) {
    struct env_io *io = d->env->io_reap(d->env, 0);
    if (io)
      return io;
    struct pollfd p = {real_file_descriptor(&d->r, 0), POLLIN, 0};
    if (p.fd < 0 || poll(&p, 1, 10000) != 1)
      return NULL;
  }
}

/* Runs one operation to its end and gives its result. */
static int64_t desk_do(struct desk *d, struct env_io *io)
{
  int rc = d->env->io_submit(d->env, 0, io);
  if (rc == 1)
    return io->result;
  if (rc != 0)
    return rc;
  return desk_reap(d) == io ? io->result : CHI_EUNKNOWN;
}

static int64_t desk_open(struct desk *d, const char *path, uint32_t flags)
{
  struct env_io io = {.op = ENV_IO_OPEN, .path = path, .flags = flags};
  return desk_do(d, &io);
}

static int64_t desk_move(struct desk *d, int op, int64_t file, void *buf, uint64_t size,
                         uint64_t offset)
{
  struct env_io io = {.op = op, .file = file, .buf = buf, .size = size, .offset = offset};
  return desk_do(d, &io);
}

static int64_t desk_plain(struct desk *d, int op, int64_t file, const char *path, const char *path2,
                          uint64_t size)
{
  struct env_io io = {.op = op, .file = file, .path = path, .path2 = path2, .size = size};
  return desk_do(d, &io);
}

/* What one file goes through. The number of the first check that fails, or 0. */
static int whole_life(struct desk *d)
{
  char text[32] = "";
  int64_t f = desk_open(d, d->path, CHI_FILE_CREATE);
  if (f < 0)
    return 1;
  if (desk_move(d, ENV_IO_WRITE, f, (char[]){"hello world"}, 11, 5) != 11)
    return 2;
  if (desk_plain(d, ENV_IO_SIZE, f, NULL, NULL, 0) != 16)
    return 3;
  if (desk_move(d, ENV_IO_READ, f, text, 5, 11) != 5 || memcmp(text, "world", 5) != 0)
    return 4;
  if (desk_move(d, ENV_IO_READ, f, text, 32, 11) != 5) /* less at the end */
    return 5;
  if (desk_move(d, ENV_IO_READ, f, text, 32, 100) != 0)
    return 6;
  if (desk_plain(d, ENV_IO_TRUNCATE, f, NULL, NULL, 10) != 0)
    return 7;
  if (desk_plain(d, ENV_IO_SIZE, f, NULL, NULL, 0) != 10)
    return 8;
  if (desk_move(d, ENV_IO_SYNC, f, NULL, 0, 0) != 0)
    return 9;
  if (desk_plain(d, ENV_IO_DIRSYNC, 0, d->path, NULL, 0) != 0)
    return 10;
  if (desk_plain(d, ENV_IO_CLOSE, f, NULL, NULL, 0) != 0)
    return 11;
  if (desk_move(d, ENV_IO_READ, f, text, 1, 0) >= 0)
    return 12;
  return 0;
}

TEST(a_file_is_written_read_cut_and_synced)
{
  for (int no_ring = 0; no_ring < 2; no_ring++) {
    struct desk d;
    CHECK(desk_make(&d, no_ring));
    CHECK_INT(whole_life(&d), 0);
    desk_free(&d);
  }
}

TEST(open_means_what_its_flags_say)
{
  struct desk d;
  char byte = 'x';
  CHECK(desk_make(&d, false));
  CHECK_INT(desk_open(&d, d.path, 0), CHI_ENOENT);
  CHECK_INT(desk_open(&d, d.path, CHI_FILE_EXCLUSIVE), CHI_ENOENT); /* nothing without CREATE */
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE);
  CHECK(f >= 0);
  CHECK(fcntl((int)f, F_GETFD) & FD_CLOEXEC);
  CHECK_INT(desk_open(&d, d.path, CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE), CHI_EEXIST);
  int64_t g = desk_open(&d, d.path, CHI_FILE_READONLY);
  CHECK(g >= 0);
  CHECK(desk_move(&d, ENV_IO_WRITE, g, &byte, 1, 0) < 0);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_plain(&d, ENV_IO_CLOSE, g, NULL, NULL, 0);
  desk_free(&d);
}

TEST(a_locked_file_is_busy_for_another_open_even_of_this_process)
{
  struct desk d;
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE | CHI_FILE_LOCK);
  CHECK(f >= 0);
  int before = scratch_descriptors();
  CHECK_INT(desk_open(&d, d.path, CHI_FILE_LOCK), CHI_EBUSY);
  CHECK_INT(scratch_descriptors(), before);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  f = desk_open(&d, d.path, CHI_FILE_LOCK);
  CHECK(f >= 0);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

TEST(what_is_no_file_is_refused_without_waiting)
{
  struct desk d;
  CHECK(desk_make(&d, false));
  CHECK_INT(mkfifo(d.path, 0600), 0);
  CHECK_INT(desk_open(&d, d.path, CHI_FILE_READONLY), CHI_EINVAL);
  CHECK_INT(desk_open(&d, d.path, 0), CHI_EINVAL);
  CHECK_INT(desk_open(&d, d.dir, CHI_FILE_READONLY), CHI_EINVAL);
  CHECK_INT(desk_open(&d, d.dir, 0), CHI_EINVAL);
  CHECK_INT(desk_open(&d, "/dev/null", 0), CHI_EINVAL);
  CHECK_INT(desk_open(&d, "/nowhere/at/all", CHI_FILE_CREATE), CHI_ENOENT);
  desk_free(&d);
}

/* A block device of so many bytes over the file; it goes when the last descriptor of it does. Its
 * path, and a descriptor of it; -1: none can be had. */
static int loop_device(const char *file, int64_t size, char *path, size_t room)
{
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device = -1;
  int number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
  int backing = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR};
  snprintf(path, room, "/dev/loop%d", number);
  if (number >= 0 && backing >= 0 && ftruncate(backing, size) == 0)
    device = open(path, O_RDWR | O_CLOEXEC);
  if (device >= 0 && (ioctl(device, LOOP_SET_FD, backing) != 0 ||
                      ioctl(device, LOOP_SET_STATUS64, &info) != 0)) {
    close(device);
    device = -1;
  }
  if (control >= 0)
    close(control);
  if (backing >= 0)
    close(backing);
  return device;
}

TEST(a_block_device_has_its_own_size_and_keeps_it)
{
  static _Alignas(4096) char block[4096];
  const int64_t size = 1 << 20;
  struct desk d;
  char path[64];
  CHECK(desk_make(&d, false));
  int device = loop_device(d.path, size, path, sizeof(path));
  if (device < 0) {
    desk_free(&d);
    test_skip("no loop device can be had");
    return;
  }
  int64_t f = desk_open(&d, path, CHI_FILE_DIRECT | CHI_FILE_LOCK);
  CHECK(f >= 0);
  CHECK_INT(desk_open(&d, path, CHI_FILE_LOCK), CHI_EBUSY);
  CHECK_INT(desk_plain(&d, ENV_IO_SIZE, f, NULL, NULL, 0), size);
  memset(block, 7, sizeof(block));
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, block, 4096, (uint64_t)size - 4096), 4096);
  memset(block, 0, sizeof(block));
  CHECK_INT(desk_move(&d, ENV_IO_READ, f, block, 4096, (uint64_t)size - 4096), 4096);
  CHECK_INT(block[4095], 7);
  CHECK_INT(desk_move(&d, ENV_IO_READ, f, block, 4096, (uint64_t)size), 0);
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, block, 4096, (uint64_t)size), CHI_ENOSPC);
  CHECK_INT(desk_plain(&d, ENV_IO_TRUNCATE, f, NULL, NULL, 2 << 20), CHI_EINVAL);
  CHECK_INT(desk_move(&d, ENV_IO_SYNC, f, NULL, 0, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, path, NULL, 0), 0);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  close(device);
  desk_free(&d);
}

TEST(a_direct_file_is_direct_where_the_file_system_can_and_plain_elsewhere)
{
  struct desk d;
  char path[64];
  static _Alignas(4096) char block[4096];
  CHECK(desk_make(&d, false));
  snprintf(path, sizeof(path), "/dev/shm/chi-test-%ld", (long)getpid());
  int64_t f = desk_open(&d, path, CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE | CHI_FILE_DIRECT);
  CHECK(f >= 0);
  CHECK_INT(unlink(path), 0);
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, block, 4096, 0), 4096);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  f = desk_open(&d, d.path, CHI_FILE_CREATE | CHI_FILE_DIRECT);
  CHECK(f >= 0);
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, block, 4096, 4096), 4096);
  CHECK_INT(desk_move(&d, ENV_IO_READ, f, block, 4096, 4096), 4096);
  CHECK_INT(fcntl((int)f, F_GETFL) & O_NONBLOCK, 0);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

TEST(names_are_changed_and_removed)
{
  struct desk d;
  char other[128];
  CHECK(desk_make(&d, false));
  snprintf(other, sizeof(other), "%s/other", d.dir);
  CHECK(scratch_write(d.dir, "file", "x"));
  CHECK_INT(desk_plain(&d, ENV_IO_RENAME, 0, d.path, other, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_RENAME, 0, d.path, other, 0), CHI_ENOENT);
  CHECK_INT(desk_plain(&d, ENV_IO_REMOVE, 0, other, NULL, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_REMOVE, 0, other, NULL, 0), CHI_ENOENT);
  desk_free(&d);
}

TEST(the_directory_of_a_path_is_synced_whatever_the_path_looks_like)
{
  struct desk d;
  static char path[CHI_PATH_MAX + 8];
  CHECK(desk_make(&d, false));
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, d.path, NULL, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, "/file-in-the-root", NULL, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, "plain", NULL, 0), 0);
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, "/nowhere/file", NULL, 0), CHI_ENOENT);
  memset(path, 'p', sizeof(path) - 1);
  path[sizeof(path) - 3] = '/';
  CHECK_INT(desk_plain(&d, ENV_IO_DIRSYNC, 0, path, NULL, 0), CHI_ETOOBIG);
  desk_free(&d);
}

TEST(free_space_is_told_of_a_path_that_is_there_or_not_yet)
{
  struct desk d;
  CHECK(desk_make(&d, false));
  CHECK(desk_plain(&d, ENV_IO_SPACE, 0, d.dir, NULL, 0) > 0);
  CHECK(desk_plain(&d, ENV_IO_SPACE, 0, d.path, NULL, 0) > 0);
  CHECK_INT(desk_plain(&d, ENV_IO_SPACE, 0, "/nowhere/at/all", NULL, 0), CHI_ENOENT);
  desk_free(&d);
}

TEST(offsets_beyond_what_files_have_are_refused)
{
  struct desk d;
  char byte = 'x';
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, &byte, 1, UINT64_MAX), CHI_EINVAL);
  CHECK(desk_move(&d, ENV_IO_WRITE, f, &byte, 1, INT64_MAX) < 0);
  CHECK_INT(desk_plain(&d, ENV_IO_TRUNCATE, f, NULL, NULL, UINT64_MAX), CHI_EINVAL);
  CHECK_INT(desk_plain(&d, 99, f, NULL, NULL, 0), CHI_ENOTSUP);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

TEST(only_what_a_ring_can_do_does_not_block)
{
  struct desk d;
  CHECK(desk_make(&d, false));
  for (int op = ENV_IO_OPEN; op <= ENV_IO_SPACE; op++) {
    struct env_io io = {.op = op};
    bool quick = op == ENV_IO_READ || op == ENV_IO_WRITE || op == ENV_IO_SYNC;
    CHECK_INT(d.env->io_blocks(d.env, 0, &io), !quick);
  }
  desk_free(&d);
  CHECK(desk_make(&d, true));
  CHECK(d.env->io_blocks(d.env, 0, &(struct env_io){.op = ENV_IO_READ}));
  desk_free(&d);
}

/* ---- many at a time -------------------------------------------------------------------------- */

TEST(a_worker_has_so_many_in_flight_and_then_is_busy)
{
  static struct env_io io[REAL_FILE_DEPTH + 1];
  static char block[REAL_FILE_DEPTH][512];
  struct desk d;
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  for (uint32_t i = 0; i < REAL_FILE_DEPTH; i++) {
    memset(block[i], (int)i, sizeof(block[i]));
    io[i] = (struct env_io){
        .op = ENV_IO_WRITE, .file = f, .buf = block[i], .size = 512, .offset = i * 512};
    CHECK_INT(d.env->io_submit(d.env, 0, &io[i]), 0);
  }
  io[REAL_FILE_DEPTH] = io[0];
  CHECK_INT(d.env->io_submit(d.env, 0, &io[REAL_FILE_DEPTH]), CHI_EBUSY);
  CHECK(real_file_flush(&d.r, 0));
  uint32_t back = 0;
  while (back < REAL_FILE_DEPTH) {
    struct env_io *done = desk_reap(&d);
    CHECK(done);
    for (; done; done = done->next, back++)
      CHECK_INT(done->result, 512);
  }
  CHECK_INT(real_file_descriptor(&d.r, 0), -1);
  CHECK(d.env->io_reap(d.env, 0) == NULL);
  for (uint32_t i = 0; i < REAL_FILE_DEPTH; i++) {
    memset(block[i], 0, sizeof(block[i]));
    CHECK_INT(desk_move(&d, ENV_IO_READ, f, block[i], 512, i * 512), 512);
    CHECK_INT((unsigned char)block[i][511], i);
  }
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

TEST(a_completion_wakes_one_who_polls_the_descriptor)
{
  struct desk d;
  static char block[65536];
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  struct env_io io = {.op = ENV_IO_WRITE, .file = f, .buf = block, .size = sizeof(block)};
  for (int i = 0; i < 100; i++) {
    CHECK_INT(d.env->io_submit(d.env, 0, &io), 0);
    CHECK(!real_file_ready(&d.r, 0)); /* not handed to the kernel yet */
    CHECK(real_file_flush(&d.r, 0));
    struct pollfd p = {real_file_descriptor(&d.r, 0), POLLIN, 0};
    CHECK(p.fd >= 0);
    CHECK_INT(poll(&p, 1, 10000), 1);
    CHECK(real_file_ready(&d.r, 0));
    CHECK(d.env->io_reap(d.env, 0) == &io);
    CHECK_INT(io.result, sizeof(block));
    CHECK(!real_file_ready(&d.r, 0));
  }
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

/* A thread that never sleeps and makes no other call is told, too. */
TEST(a_completion_shows_to_one_who_only_looks)
{
  struct desk d;
  static char block[4096];
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  CHECK_INT(desk_move(&d, ENV_IO_WRITE, f, block, sizeof(block), 0), sizeof(block));
  for (int i = 0; i < 100; i++) {
    struct env_io io = {.op = ENV_IO_SYNC, .file = f}; /* never done in the call */
    CHECK_INT(d.env->io_submit(d.env, 0, &io), 0);
    CHECK(real_file_flush(&d.r, 0));
    uint64_t end = d.env->clock(d.env) + 10000000000u;
    while (!real_file_ready(&d.r, 0) && d.env->clock(d.env) < end)
      continue;
    CHECK(d.env->io_reap(d.env, 0) == &io);
    CHECK_INT(io.result, 0);
  }
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

TEST(workers_do_not_get_each_others_completions)
{
  struct desk d;
  char a = 'a', b = 'b';
  CHECK(desk_make(&d, false));
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  struct env_io first = {.op = ENV_IO_WRITE, .file = f, .buf = &a, .size = 1};
  struct env_io second = {.op = ENV_IO_WRITE, .file = f, .buf = &b, .size = 1, .offset = 1};
  CHECK_INT(d.env->io_submit(d.env, 0, &first), 0);
  CHECK_INT(d.env->io_submit(d.env, 1, &second), 0);
  CHECK(real_file_flush(&d.r, 1));
  CHECK(desk_reap(&d) == &first);
  struct pollfd p = {real_file_descriptor(&d.r, 1), POLLIN, 0};
  CHECK_INT(poll(&p, 1, 10000), 1);
  CHECK(d.env->io_reap(d.env, 1) == &second);
  desk_plain(&d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  desk_free(&d);
}

/* ---- refusals of the kernel ------------------------------------------------------------------ */

/* Makes one system call of this process fail from now on, as a container's filter would. */
static bool forbid(unsigned nr, unsigned error)
{
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int live_refused(void *arg)
{
  struct desk d;
  struct env_io io = {.op = ENV_IO_READ};
  if (!forbid(SYS_io_uring_setup, *(const unsigned *)arg))
    return 99;
  if (!desk_make(&d, false))
    return 98;
  int rc = d.env->io_blocks(d.env, 0, &io) ? whole_life(&d) : 97;
  desk_free(&d);
  return rc;
}

TEST(where_io_uring_is_refused_files_work_all_the_same)
{
  static const unsigned errors[] = {EPERM, ENOSYS, EINVAL, ENOMEM};
  for (size_t i = 0; i < CHI_COUNT(errors); i++) {
    unsigned error = errors[i];
    int rc = scratch_child(live_refused, &error);
    if (rc == 99) {
      test_skip("no system call filter can be set");
      return;
    }
    CHECK_INT(rc, 0);
  }
}

/* The ring exists, but the kernel takes nothing: told by flush, so that the thread doesn't sleep.
 */
static int flush_refused(void *arg)
{
  struct desk d;
  char byte = 'x';
  (void)arg;
  if (!desk_make(&d, false))
    return 1;
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE);
  struct env_io io = {.op = ENV_IO_WRITE, .file = f, .buf = &byte, .size = 1};
  if (f < 0 || d.env->io_submit(d.env, 0, &io) != 0)
    return 2;
  if (!forbid(SYS_io_uring_enter, EAGAIN))
    return 99;
  int rc = real_file_flush(&d.r, 0) ? 3 : d.env->io_reap(d.env, 0) != NULL ? 4 : 0;
  scratch_remove(d.dir);
  return rc;
}

TEST(what_the_kernel_does_not_take_now_is_kept)
{
  int rc = scratch_child(flush_refused, NULL);
  if (rc == 99)
    test_skip("no system call filter can be set");
  else
    CHECK_INT(rc, 0);
}

TEST(files_out_of_descriptors_are_refused)
{
  struct desk d;
  struct rlimit before, none;
  CHECK(desk_make(&d, false));
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  none = before;
  none.rlim_cur = 3;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
  int64_t f = desk_open(&d, d.path, CHI_FILE_CREATE); /* and there is no ring either */
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_INT(f, CHI_ENOMEM);
  CHECK(d.env->io_blocks(d.env, 0, &(struct env_io){.op = ENV_IO_READ}));
  desk_free(&d);
}

/* A file system of 64 KiB, full and read-only in turn, in a child with mounts of its own. */
static int fill_disk(void *arg)
{
  struct desk *d = arg;
  static char block[32768];
  int64_t n = 0, written = 0;
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("none", d->dir, "tmpfs", 0, "size=64k") != 0)
    return 99;
  int64_t f = desk_open(d, d->path, CHI_FILE_CREATE);
  if (f < 0)
    return 1;
  while (written < (1 << 20) &&
         (n = desk_move(d, ENV_IO_WRITE, f, block, sizeof(block), (uint64_t)written)) > 0)
    written += n;
  if (n != CHI_ENOSPC || written != 65536)
    return 2;
  if (desk_plain(d, ENV_IO_SPACE, 0, d->path, NULL, 0) != 0)
    return 3;
  desk_plain(d, ENV_IO_CLOSE, f, NULL, NULL, 0);
  if (mount("none", d->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0)
    return 4;
  return desk_open(d, d->path, 0) == CHI_EACCES ? 0 : 5;
}

TEST(a_full_or_read_only_file_system_is_told)
{
  for (int no_ring = 0; no_ring < 2; no_ring++) {
    struct desk d;
    CHECK(desk_make(&d, no_ring));
    int rc = scratch_child(fill_disk, &d);
    if (rc == 99)
      test_skip("nothing can be mounted here");
    else
      CHECK_INT(rc, 0);
    desk_free(&d);
  }
}

TEST(an_operation_on_no_file_fails)
{
  for (int no_ring = 0; no_ring < 2; no_ring++) {
    struct desk d;
    char byte;
    CHECK(desk_make(&d, no_ring));
    CHECK(desk_move(&d, ENV_IO_READ, 9999, &byte, 1, 0) < 0);
    CHECK(desk_move(&d, ENV_IO_SYNC, 9999, NULL, 0, 0) < 0);
    CHECK(desk_plain(&d, ENV_IO_SIZE, 9999, NULL, NULL, 0) < 0);
    desk_free(&d);
  }
}
