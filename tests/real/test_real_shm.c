/* test_real_shm.c - segments: populated before use, sealed, never a fault, gone with their last
 * user. */
#include "real_shm.h"
#include "dies.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define MIB ((uint64_t)1 << 20)

/* An environment with shared memory, logging to a file in a scratch directory. */
struct place {
  struct real_env r;
  struct env *env;
  char dir[64], log[80];
};

static bool place_make(struct place *p)
{
  if (!scratch_make(p->dir))
    return false;
  snprintf(p->log, sizeof(p->log), "%s/log", p->dir);
  if (real_env_open(&p->r, p->log) != CHI_OK)
    return false;
  real_shm_bind(&p->r);
  p->env = &p->r.env;
  return true;
}

static void place_free(struct place *p)
{
  real_env_close(&p->r);
  scratch_remove(p->dir);
}

/* Pages of a segment that are in memory. */
static uint64_t resident(const struct env_segment *s)
{
  static unsigned char page[4096];
  uint64_t count = 0;
  if (mincore(s->base, s->size, page) != 0)
    return 0;
  for (uint64_t i = 0; i < s->size / 4096; i++)
    count += page[i] & 1;
  return count;
}

static bool all_zero(const struct env_segment *s)
{
  const char *p = s->base;
  return p[0] == 0 && memcmp(p, p + 1, s->size - 1) == 0;
}

TEST(a_segment_is_zeroed_and_populated)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", 2 * MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  CHECK_INT(s.size, 2 * MIB);
  CHECK_INT(resident(&s), 512);
  CHECK(all_zero(&s));
  memset(s.base, 1, s.size);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(a_segment_is_whole_pages)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", 1, ENV_SHARED_READ, &s), CHI_OK);
  CHECK_INT(s.size, sysconf(_SC_PAGESIZE));
  p.env->segment_close(p.env, &s);
  CHECK_INT(p.env->segment_open(p.env, "test", 0, ENV_SHARED_READ, &s), CHI_EINVAL);
  CHECK_INT(p.env->segment_open(p.env, "test", UINT64_MAX, ENV_SHARED_READ, &s), CHI_EINVAL);
  place_free(&p);
}

TEST(a_segment_is_populated_without_help_of_the_kernel_too)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  p.r.no_populate = true;
  CHECK_INT(p.env->segment_open(p.env, "test", 2 * MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  CHECK_INT(resident(&s), 512);
  CHECK(all_zero(&s));
  memset(s.base, 1, s.size);
  p.env->segment_discard(p.env, &s);
  CHECK_INT(p.env->segment_restore(p.env, &s), CHI_OK);
  CHECK_INT(resident(&s), 512);
  CHECK(all_zero(&s));
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(a_segment_can_not_be_resized_by_anyone)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  int fd = real_shm_lend(&s, ENV_SHARED_WRITE);
  CHECK(fd >= 0);
  CHECK(ftruncate(fd, 0) != 0 && errno == EPERM);
  CHECK(ftruncate(fd, 2 * (off_t)MIB) != 0 && errno == EPERM);
  CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0 && errno == EPERM);
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(a_segment_shared_for_reading_can_not_be_mapped_for_writing)
{
  struct place p;
  struct env_segment s, other;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_READ, &s), CHI_OK);
  int fd = real_shm_lend(&s, ENV_SHARED_READ);
  CHECK(fd >= 0);
  CHECK(mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK_INT(errno, EPERM);
  CHECK(pwrite(fd, "x", 1, 0) < 0);
  CHECK_INT(real_shm_adopt(dup(fd), ENV_SHARED_READ, &other), CHI_OK);
  CHECK(mprotect(other.base, other.size, PROT_READ | PROT_WRITE) != 0);
  ((char *)s.base)[100] = 7; /* its owner still can */
  CHECK_INT(((const char *)other.base)[100], 7);
  CHECK_INT(real_shm_adopt(dup(fd), ENV_SHARED_WRITE, &other), CHI_ENOMEM);
  p.env->segment_close(p.env, &other);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(a_writable_segment_is_shared_once_and_a_readable_one_often)
{
  struct place p;
  struct env_segment w, r;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_WRITE, &w), CHI_OK);
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_READ, &r), CHI_OK);
  CHECK_INT(real_shm_lend(&w, ENV_SHARED_READ), -1);
  CHECK_INT(real_shm_lend(&r, ENV_SHARED_WRITE), -1);
  int before = scratch_descriptors();
  CHECK(real_shm_lend(&w, ENV_SHARED_WRITE) >= 0);
  real_shm_lent(&w, ENV_SHARED_WRITE);
  CHECK_INT(scratch_descriptors(), before - 1);
  CHECK_INT(real_shm_lend(&w, ENV_SHARED_WRITE), -1);
  real_shm_lent(&r, ENV_SHARED_READ);
  CHECK(real_shm_lend(&r, ENV_SHARED_READ) >= 0);
  p.env->segment_close(p.env, &w);
  p.env->segment_close(p.env, &r);
  place_free(&p);
}

TEST(discarded_pages_are_given_back_and_restored_to_zero)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", 2 * MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  real_shm_lent(&s, ENV_SHARED_WRITE); /* works without the descriptor */
  memset(s.base, 1, s.size);
  p.env->segment_discard(p.env, &s);
  CHECK_INT(resident(&s), 0);
  CHECK(all_zero(&s));
  CHECK_INT(p.env->segment_restore(p.env, &s), CHI_OK);
  CHECK_INT(resident(&s), 512);
  CHECK(all_zero(&s));
  memset(s.base, 1, s.size);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(a_discarded_readable_segment_reads_zero)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_READ, &s), CHI_OK);
  memset(s.base, 1, s.size);
  p.env->segment_discard(p.env, &s);
  CHECK(all_zero(&s));
  CHECK_INT(p.env->segment_restore(p.env, &s), CHI_OK);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

/* How often the log tells that memory is short. */
static int complaints(const struct place *p)
{
  char text[4096];
  const char *words = "Failed to allocate shared memory segment";
  int count = 0;
  for (const char *at = scratch_read(p->log, text, sizeof(text)); (at = strstr(at, words)); at++)
    count++;
  return count;
}

TEST(a_budget_that_is_spent_is_told_before_memory_is_touched)
{
  struct place p;
  struct env_segment s;
  char cgroup[80], root[80];
  CHECK(place_make(&p));
  snprintf(cgroup, sizeof(cgroup), "%s/cgroup", p.dir);
  snprintf(root, sizeof(root), "%s/fs", p.dir);
  p.r.limit = (struct real_limit){cgroup, root, "/nowhere"};
  CHECK(scratch_write(p.dir, "cgroup", "0::/a\n"));
  CHECK(scratch_write(p.dir, "fs/a/memory.max", "4194304\n"));
  CHECK(scratch_write(p.dir, "fs/a/memory.current", "1048576\n"));
  int before = scratch_descriptors();
  CHECK_INT(p.env->segment_open(p.env, "first", 4 * MIB, ENV_SHARED_WRITE, &s), CHI_ENOMEM);
  CHECK_INT(p.env->segment_open(p.env, "second", 4 * MIB, ENV_SHARED_WRITE, &s), CHI_ENOMEM);
  CHECK_INT(scratch_descriptors(), before);
  CHECK_INT(complaints(&p), 1); /* at most one a second */
  CHECK_INT(p.env->segment_open(p.env, "small", 2 * MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  p.env->segment_discard(p.env, &s);
  CHECK(scratch_write(p.dir, "fs/a/memory.current", "4194304\n"));
  CHECK_INT(p.env->segment_restore(p.env, &s), CHI_ENOMEM);
  CHECK_INT(resident(&s), 0);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(more_than_there_can_be_is_refused)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "huge", (uint64_t)1 << 50, ENV_SHARED_WRITE, &s),
            CHI_ENOMEM);
  CHECK_INT(complaints(&p), 1);
  place_free(&p);
}

TEST(segments_out_of_descriptors_are_refused)
{
  struct place p;
  struct env_segment s;
  struct rlimit before, none;
  CHECK(place_make(&p));
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  none = before;
  none.rlim_cur = 3;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
  int rc = p.env->segment_open(p.env, "test", MIB, ENV_SHARED_WRITE, &s);
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_INT(rc, CHI_ENOMEM);
  place_free(&p);
}

/* Makes a memory cgroup with a limit of 64 MiB below the one of this process. */
static bool make_cgroup(char *dir, size_t room)
{
  char text[4096], own[256] = "";
  const char *at = strstr(scratch_read("/proc/self/cgroup", text, sizeof(text)), ":memory:");
  bool old = at && sscanf(at, ":memory:%255[^\n]", own) == 1;
  if (!old && sscanf(text, "0::%255[^\n]", own) != 1)
    return false;
  snprintf(dir, room, "/sys/fs/cgroup%s%s/chi-test-%ld", old ? "/memory" : "", own, (long)getpid());
  return mkdir(dir, 0700) == 0 &&
         scratch_write(dir, old ? "memory.limit_in_bytes" : "memory.max", "67108864");
}

/* 0: it went as it should. 9: the cgroup can't be entered. */
static int fill_cgroup(void *arg)
{
  struct place p;
  struct env_segment s;
  char pid[32];
  int rc, count = 0;
  snprintf(pid, sizeof(pid), "%ld", (long)getpid());
  if (!scratch_write(arg, "cgroup.procs", pid))
    return 9;
  if (!place_make(&p))
    return 1;
  while ((rc = p.env->segment_open(p.env, "chunk", 2 * MIB, ENV_SHARED_WRITE, &s)) == CHI_OK &&
         ++count < 100)
    memset(s.base, 1, s.size);
  bool ok = rc == CHI_ENOMEM && count >= 16 && count < 32 && complaints(&p) == 1;
  place_free(&p);
  return ok ? 0 : 1;
}

#if !defined(__SANITIZE_THREAD__) && defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

TEST(a_real_cgroup_that_is_full_is_out_of_memory_and_kills_nobody)
{
  char dir[400];
#ifdef __SANITIZE_THREAD__
  test_skip("the sanitizer's own memory fills the cgroup");
  return;
#endif
  int rc = make_cgroup(dir, sizeof(dir)) ? scratch_child(fill_cgroup, dir) : 9;
  rmdir(dir);
  if (rc == 9)
    test_skip("no memory cgroup can be made here");
  else
    CHECK_INT(rc, 0);
}

static void write_to(void *arg)
{
  *(volatile char *)arg = 1;
}

static int close_in_child(void *arg)
{
  struct place *p = arg;
  struct env_segment s;
  if (p->env->segment_open(p->env, "test", MIB, ENV_SHARED_WRITE, &s) != CHI_OK)
    return 1;
  *p->r.mark = 0; /* as in a child of this one, where something else is mapped there */
  char *base = s.base;
  p->env->segment_close(p->env, &s);
  base[0] = 1;
  return 0;
}

TEST(segments_are_not_inherited_by_a_forked_child)
{
  struct place p;
  struct env_segment s;
  CHECK(place_make(&p));
  CHECK_INT(p.env->segment_open(p.env, "test", MIB, ENV_SHARED_WRITE, &s), CHI_OK);
  CHECK(dies(write_to, s.base, ""));
  CHECK_INT(scratch_child(close_in_child, &p), 0);
  p.env->segment_close(p.env, &s);
  place_free(&p);
}

TEST(what_is_no_segment_is_not_mapped)
{
  struct place p;
  struct env_segment s;
  int ends[2];
  CHECK(place_make(&p));
  int before = scratch_descriptors();
  int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK_INT(ftruncate(plain, 4096), 0);
  CHECK_INT(real_shm_adopt(plain, ENV_SHARED_READ, &s), CHI_ECORRUPT); /* could be shrunk */
  int empty = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK_INT(fcntl(empty, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  CHECK_INT(real_shm_adopt(empty, ENV_SHARED_READ, &s), CHI_ECORRUPT);
  CHECK_INT(pipe(ends), 0);
  CHECK_INT(real_shm_adopt(ends[0], ENV_SHARED_READ, &s), CHI_ECORRUPT);
  close(ends[1]);
  CHECK_INT(scratch_descriptors(), before); /* all closed */
  place_free(&p);
}
