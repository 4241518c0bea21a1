/* test_real_env.c - what the seam says of clock, random numbers, stacks, bells and forks. */
#include "real_env.h"
#include "dies.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

static bool rung(int fd)
{
  struct pollfd p = {fd, POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

TEST(the_clock_is_never_zero_and_never_goes_back)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  uint64_t before = r.env.clock(&r.env);
  CHECK(before > 0);
  for (int i = 0; i < 1000; i++) {
    uint64_t now = r.env.clock(&r.env);
    CHECK(now >= before);
    before = now;
  }
  real_env_close(&r);
}

TEST(random_numbers_differ)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  uint64_t a = r.env.random(&r.env), b = r.env.random(&r.env);
  CHECK(a != b);
  real_env_close(&r);
}

TEST(memory_can_be_had_and_given_back)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  char *p = alloc_zero(&r.env.alloc, 100);
  CHECK(p && p[0] == 0 && p[99] == 0);
  alloc_put(&r.env.alloc, p, 100);
  real_env_close(&r);
}

TEST(large_memory_is_had_only_where_it_can_be)
{
  struct real_env r;
  char dir[64], cgroup[80], root[80];
  CHECK(scratch_make(dir));
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  snprintf(cgroup, sizeof(cgroup), "%s/cgroup", dir);
  snprintf(root, sizeof(root), "%s/fs", dir);
  r.limit = (struct real_limit){cgroup, root, "/nowhere"};
  CHECK(scratch_write(dir, "cgroup", "0::/a\n"));
  CHECK(scratch_write(dir, "fs/a/memory.max", "67108864\n"));
  CHECK(scratch_write(dir, "fs/a/memory.current", "1048576\n"));
  void *large = alloc_get(&r.env.alloc, (size_t)32 << 20);
  CHECK(large);
  alloc_put(&r.env.alloc, large, (size_t)32 << 20);
  CHECK(!alloc_get(&r.env.alloc, (size_t)64 << 20));
  real_env_close(&r);
  scratch_remove(dir);
}

static void write_to(void *arg)
{
  *(volatile char *)arg = 1;
}

/* True if writing to this address ends the process. */
static bool faults(void *address)
{
  return dies(write_to, address, "");
}

TEST(a_stack_has_an_inaccessible_page_below)
{
  struct real_env r;
  struct env_stack s;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(r.env.stack_open(&r.env, 10000, &s), CHI_OK);
  CHECK(s.size >= 10000);
  char *base = s.base;
  memset(base, 1, s.size);
  CHECK(faults(base - 1));
  CHECK(faults(base - sysconf(_SC_PAGESIZE)));
  CHECK(!faults(base));
  r.env.stack_close(&r.env, &s);
  real_env_close(&r);
}

TEST(the_tops_of_stacks_fall_into_different_cache_lines)
{
  struct real_env r;
  struct env_stack s[8];
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  uint64_t seen = 0;
  for (int i = 0; i < 8; i++) {
    CHECK_INT(r.env.stack_open(&r.env, 65536, &s[i]), CHI_OK);
    uintptr_t top = (uintptr_t)s[i].base + s[i].size;
    CHECK_INT(top % 64, 0);
    seen |= 1ull << (top / 64 % 64);
  }
  CHECK(__builtin_popcountll(seen) >= 4);
  for (int i = 0; i < 8; i++)
    r.env.stack_close(&r.env, &s[i]);
  real_env_close(&r);
}

TEST(a_stack_that_cannot_be_had_is_refused)
{
  struct real_env r;
  struct env_stack s;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(r.env.stack_open(&r.env, 0, &s), CHI_EINVAL);
  CHECK_INT(r.env.stack_open(&r.env, SIZE_MAX, &s), CHI_EINVAL);
  CHECK_INT(r.env.stack_open(&r.env, (size_t)1 << 50, &s), CHI_ENOMEM);
  real_env_close(&r);
}

TEST(stacks_are_given_back)
{
  struct real_env r;
  struct env_stack s;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  for (int i = 0; i < 100000; i++) { /* more than a process may have mappings */
    CHECK_INT(r.env.stack_open(&r.env, 4096, &s), CHI_OK);
    r.env.stack_close(&r.env, &s);
  }
  real_env_close(&r);
}

TEST(rings_before_an_answer_are_one_ring)
{
  struct real_env r;
  env_bell bell;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(r.env.bell_open(&r.env, &bell), CHI_OK);
  int fd = real_env_bell_of(bell)->fd;
  CHECK(!rung(fd));
  r.env.bell_ring(&r.env, bell);
  r.env.bell_ring(&r.env, bell);
  CHECK(rung(fd));
  real_env_drain(fd);
  CHECK(!rung(fd));
  real_env_drain(fd); /* nothing to consume: doesn't wait */
  r.env.bell_close(&r.env, bell);
  real_env_close(&r);
}

TEST(ringing_a_bell_that_is_full_does_not_wait)
{
  struct real_env r;
  env_bell bell;
  uint64_t most = UINT64_MAX - 1;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(r.env.bell_open(&r.env, &bell), CHI_OK);
  int fd = real_env_bell_of(bell)->fd;
  CHECK_INT(write(fd, &most, sizeof(most)), sizeof(most));
  r.env.bell_ring(&r.env, bell);
  CHECK(rung(fd));
  r.env.bell_close(&r.env, bell);
  real_env_close(&r);
}

struct ringer {
  struct env *env;
  env_bell bell;
  uint64_t written;
};

static void *ring_it(void *arg)
{
  struct ringer *x = arg;
  x->written = 42;
  x->env->bell_ring(x->env, x->bell);
  return NULL;
}

TEST(a_ring_wakes_a_sleeper_who_then_sees_what_was_written_before)
{
  struct real_env r;
  env_bell bell;
  pthread_t thread;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(r.env.bell_open(&r.env, &bell), CHI_OK);
  struct ringer x = {&r.env, bell, 0};
  CHECK_INT(pthread_create(&thread, NULL, ring_it, &x), 0);
  struct pollfd p = {real_env_bell_of(bell)->fd, POLLIN, 0};
  CHECK_INT(poll(&p, 1, -1), 1);
  real_env_drain(p.fd);
  CHECK_INT(x.written, 42);
  pthread_join(thread, NULL);
  r.env.bell_close(&r.env, bell);
  real_env_close(&r);
}

TEST(bells_out_of_descriptors_are_refused)
{
  struct real_env r;
  struct rlimit before, none;
  env_bell bell;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  none = before;
  none.rlim_cur = 3;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
  int rc = r.env.bell_open(&r.env, &bell);
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_INT(rc, CHI_ENOMEM);
  real_env_close(&r);
}

static int is_alive(void *arg)
{
  const struct real_env *r = arg;
  return (real_env_alive(r) ? 2 : 0) + (*r->env.alive != 0);
}

TEST(alive_reads_zero_in_a_forked_child_only)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(scratch_child(is_alive, &r), 0);
  CHECK_INT(is_alive(&r), 3);
  real_env_close(&r);
}

TEST(a_pause_ends_when_the_clock_says_so)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  uint64_t until = r.env.clock(&r.env) + 3000000;
  r.env.pause(&r.env, until);
  CHECK(r.env.clock(&r.env) >= until);
  r.env.pause(&r.env, 1);
  real_env_close(&r);
}

TEST(relax_returns)
{
  struct real_env r;
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  r.env.relax(&r.env);
  real_env_close(&r);
}

TEST(the_time_left_until_a_deadline)
{
  struct timespec left;
  CHECK(real_env_left(5, UINT64_MAX, &left) == NULL);
  CHECK(real_env_left(5, 3000000007u, &left) == &left);
  CHECK_INT(left.tv_sec, 3);
  CHECK_INT(left.tv_nsec, 2);
  CHECK(real_env_left(10, 5, &left) && left.tv_sec == 0 && left.tv_nsec == 0);
}

TEST(error_numbers_become_codes)
{
  static const struct {
    int error, code;
  } pairs[] = {{0, CHI_OK},           {ENOSPC, CHI_ENOSPC}, {EIO, CHI_EIO},
               {EROFS, CHI_EACCES},   {ENOENT, CHI_ENOENT}, {EMFILE, CHI_ENOMEM},
               {EEXIST, CHI_EEXIST},  {EINVAL, CHI_EINVAL}, {EPIPE, CHI_ESHUTDOWN},
               {ENOSYS, CHI_ENOTSUP}, {EFBIG, CHI_ETOOBIG}, {EWOULDBLOCK, CHI_EBUSY},
               {12345, CHI_EIO}};
  for (size_t i = 0; i < CHI_COUNT(pairs); i++)
    CHECK_INT(real_env_code(pairs[i].error), pairs[i].code);
}
