/* real_env.c - the real environment: clock, random, memory, log, stacks, bells, the mark of a
 * fork. */
#include "real_env.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "fiber.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define REAL_ENV_LARGE ((size_t)256 << 10) /* a piece of a device in memory; others are rare */
#define REAL_ENV_ALLOWANCE ((uint64_t)4 << 20)
#define REAL_ENV_ALLOWANCE_PART 64 /* of what is left; less than what real_limit keeps free */

/* ---- clock, random, memory, log -------------------------------------------------------------- */

uint64_t real_env_now(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 1;
}

static uint64_t real_env_clock(struct env *env)
{
  (void)env;
  return real_env_now();
}

static uint64_t real_env_wall(struct env *env)
{
  struct timespec now;
  (void)env;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t real_env_random(struct env *env)
{
  uint64_t value;
  ssize_t n;
  do
    n = getrandom(&value, sizeof(value), 0);
  while (n < 0 && errno == EINTR);
  if (n != sizeof(value)) /* an ancient kernel: different at least for each call and process */
    value = (real_env_clock(env) ^ (uint64_t)getpid() << 40) * 0x9e3779b97f4a7c15u;
  return value;
}

/* Whether there is that much memory. Asking takes 0.1 ms: what comes in small parts asks once for
 * some of them. */
static bool real_env_affords(struct real_env *r, uint64_t size)
{
  uint64_t left = mark_get(&r->allowance);
  if (size <= left && mark_change(&r->allowance, left, left - size))
    return true;
  left = real_limit_memory(&r->limit);
  if (size > left)
    return false;
  left = (left - size) / REAL_ENV_ALLOWANCE_PART;
  mark_set(&r->allowance, left < REAL_ENV_ALLOWANCE ? left : REAL_ENV_ALLOWANCE);
  return true;
}

/* Pages are had when they are written to, and where they can't be that ends the process: so what
 * can never fit is refused here. */
static void *real_env_get(void *arg, size_t size)
{
  if (size < REAL_ENV_LARGE)
    return malloc(size);
  if (!real_env_affords(arg, size))
    return NULL;
  /* Not from the heap, which may keep what is given back. */
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static void real_env_put(void *arg, void *p, size_t size)
{
  (void)arg;
  if (size < REAL_ENV_LARGE)
    free(p);
  else
    munmap(p, size);
}

static void real_env_log(struct env *env, int level, const char *line)
{
  real_log_write(&real_env_of(env)->log, level, line);
}

static void real_env_sink(void *arg, int level, const char *line)
{
  struct env *env = arg;
  env->log(env, level, line);
}

struct log real_env_lines(struct real_env *r, int level)
{
  return (struct log){
      .sink = real_env_sink, .arg = &r->env, .level = level, .figures = &r->figures};
}

void real_env_complain(struct real_env *r, struct log_limit *limit, int level, const char *text)
{
  struct env *env = &r->env;
  const struct log log = real_env_lines(r, CHI_LOG_DEBUG);
  log_limited(&log, limit, env->clock(env), level, "%s", text);
}

static void real_env_relax(struct env *env)
{
  (void)env;
  sched_yield();
}

static void real_env_pause(struct env *env, uint64_t until)
{
  const struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
  (void)env;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
    ;
}

/* ---- stacks ---------------------------------------------------------------------------------- */

/* A stack is a guard and whole pages, of which the size told is a little less, and differs by cache
 * lines from that of its neighbours: else the tops of all would fall into the same sets. */
static int real_env_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE), guard = FIBER_GUARD_SIZE;
  (void)env;
  if (size == 0 || size > SIZE_MAX / 4)
    return CHI_EINVAL;
  size = (size + page - 1) / page * page;
  size_t whole = guard + size + page;
  char *map = mmap(NULL, whole, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (map == MAP_FAILED)
    return CHI_ENOMEM;
  if (mprotect(map + guard, size + page, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, whole);
    return CHI_ENOMEM;
  }
  size_t lines = page / CHI_CACHE_LINE;
  size_t colour = ((uintptr_t)map / whole) % (lines - 1) + 1;
  *out = (struct env_stack){map + guard, size + colour * CHI_CACHE_LINE};
  return CHI_OK;
}

static void real_env_stack_close(struct env *env, struct env_stack *stack)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  (void)env;
  CHI_ASSERT(stack->base);
  munmap((char *)stack->base - FIBER_GUARD_SIZE,
         FIBER_GUARD_SIZE + (stack->size + page - 1) / page * page);
  *stack = (struct env_stack){NULL, 0};
}

/* ---- bells ----------------------------------------------------------------------------------- */

int real_env_adopt_bell(int fd, env_bell *out)
{
  struct real_env_bell *b = malloc(sizeof(*b));
  if (!b) {
    close(fd);
    return CHI_ENOMEM;
  }
  *b = (struct real_env_bell){fd, -1};
  *out = (env_bell)(intptr_t)b;
  return CHI_OK;
}

static int real_env_bell_open(struct env *env, env_bell *out)
{
  (void)env;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? CHI_ENOMEM : real_env_adopt_bell(fd, out);
}

static void real_env_bell_close(struct env *env, env_bell bell)
{
  struct real_env_bell *b = real_env_bell_of(bell);
  (void)env;
  CHI_ASSERT(bell != ENV_NO_BELL && b);
  close(b->fd);
  if (b->set >= 0)
    close(b->set);
  free(b);
}

void real_env_ring(int fd)
{
  uint64_t one = 1;
  while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
    ;
}

static void real_env_bell_ring(struct env *env, env_bell bell)
{
  (void)env;
  CHI_ASSERT(bell != ENV_NO_BELL);
  real_env_ring(real_env_bell_of(bell)->fd);
}

void real_env_drain(int fd)
{
  uint64_t count;
  while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
    ;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* A page of its own, which the kernel clears in a forked child. */
static uint32_t *real_env_make_mark(void)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint32_t *mark = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mark == MAP_FAILED)
    return NULL;
  madvise(mark, page, MADV_WIPEONFORK);
  *mark = 1;
  return mark;
}

bool real_env_alive(const struct real_env *r)
{
  return *r->mark != 0;
}

int real_env_open(struct real_env *r, const char *log_file)
{
  *r = (struct real_env){.mark = real_env_make_mark(), .limit = real_limit_system()};
  if (!r->mark)
    return CHI_ENOMEM;
  real_log_open(&r->log, log_file);
  r->env = (struct env){
      .version = ENV_VERSION,
      .self = r,
      .alloc = {real_env_get, real_env_put, r},
      .clock = real_env_clock,
      .random = real_env_random,
      .log = real_env_log,
      .stack_open = real_env_stack_open,
      .stack_close = real_env_stack_close,
      .bell_open = real_env_bell_open,
      .bell_close = real_env_bell_close,
      .bell_ring = real_env_bell_ring,
      .relax = real_env_relax,
      .alive = r->mark,
      .pause = real_env_pause,
      .wall = real_env_wall,
  };
  return CHI_OK;
}

void real_env_close(struct real_env *r)
{
  real_log_close(&r->log);
  munmap(r->mark, (size_t)sysconf(_SC_PAGESIZE));
  r->mark = NULL;
}

int real_env_code(int error)
{
  switch (error) {
  case 0:
    return CHI_OK;
  case ENOMEM:
  case EMFILE:
  case ENFILE:
  case ENOBUFS:
  case ETOOMANYREFS:
    return CHI_ENOMEM;
  case ENOSPC:
  case EDQUOT:
    return CHI_ENOSPC;
  case EACCES:
  case EPERM:
  case EROFS:
    return CHI_EACCES;
  case ENOENT:
  case ENOTDIR:
    return CHI_ENOENT;
  case EEXIST:
  case ENOTEMPTY:
    return CHI_EEXIST;
  case EBUSY:
  case EAGAIN:
  case ETXTBSY:
    return CHI_EBUSY;
  case EFBIG:
  case EOVERFLOW:
  case ENAMETOOLONG:
    return CHI_ETOOBIG;
  case ENOSYS:
  case EOPNOTSUPP:
    return CHI_ENOTSUP;
  case EPIPE:
  case ECONNRESET:
  case ENOTCONN:
    return CHI_ESHUTDOWN;
  case ECANCELED:
    return CHI_ECANCELLED;
  case EINVAL:
  case EISDIR:
  case ELOOP:
  case EBADF:
  case EFAULT:
  case ESPIPE:
    return CHI_EINVAL;
  default:
    return CHI_EIO;
  }
}

struct timespec *real_env_left(uint64_t now, uint64_t deadline, struct timespec *out)
{
  if (deadline == UINT64_MAX)
    return NULL;
  uint64_t left = deadline > now ? deadline - now : 0;
  out->tv_sec = (time_t)(left / 1000000000u);
  out->tv_nsec = (long)(left % 1000000000u);
  return out;
}

#undef REAL_ENV_LARGE
#undef REAL_ENV_ALLOWANCE
#undef REAL_ENV_ALLOWANCE_PART

#endif
