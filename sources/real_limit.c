/* real_limit.c - what this process may use: memory and CPUs, as cgroups and the machine say. */
#include "real_limit.h"

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REAL_LIMIT_PATH 1536             /* of a file of a cgroup */
#define REAL_LIMIT_TEXT 6144             /* of a file that is read; a fiber may be short of stack */
#define REAL_LIMIT_RESERVE (16ull << 20) /* kept free, or a part of a small cgroup's limit */
#define REAL_LIMIT_PART 64
#define REAL_LIMIT_CPUS_MAX (1 << 16)

/* A visit of the directory of one cgroup: *least is the least found so far. */
typedef void real_limit_visit(const char *dir, uint64_t *least);

struct real_limit real_limit_system(void)
{
  return (struct real_limit){"/proc/self/cgroup", "/sys/fs/cgroup", "/proc/meminfo"};
}

/* Reads a small file as text; false if there is none. */
static bool real_limit_read(const char *dir, const char *name, char *text, size_t room)
{
  char path[REAL_LIMIT_PATH];
  size_t have = 0;
  ssize_t n;
  if ((size_t)snprintf(path, sizeof(path), "%s%s%s", dir, *dir ? "/" : "", name) >= sizeof(path))
    return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  while (have + 1 < room &&
         ((n = read(fd, text + have, room - 1 - have)) > 0 || (n < 0 && errno == EINTR)))
    have += n > 0 ? (size_t)n : 0;
  text[have] = '\0';
  close(fd);
  return have > 0;
}

/* The number that text begins with; false if it begins with something else, such as "max". */
static bool real_limit_number(const char *text, uint64_t *out)
{
  if (*text < '0' || *text > '9')
    return false;
  *out = strtoull(text, NULL, 10);
  return true;
}

/* The number behind a key that begins a line; 0 if there is none. */
static uint64_t real_limit_field(const char *text, const char *key)
{
  size_t length = strlen(key);
  uint64_t value = 0;
  while (text) {
    if (strncmp(text, key, length) == 0) {
      real_limit_number(text + length + strspn(text + length, " \t"), &value);
      return value;
    }
    text = strchr(text, '\n');
    text = text ? text + 1 : NULL;
  }
  return 0;
}

static void real_limit_least(uint64_t *least, uint64_t value)
{
  if (value < *least)
    *least = value;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void real_limit_account(uint64_t max, uint64_t used, uint64_t cache, uint64_t *least)
{
  uint64_t reserve = max / REAL_LIMIT_PART;
  real_limit_least(&reserve, REAL_LIMIT_RESERVE);
  used -= cache < used ? cache : used;
  used += reserve;
  real_limit_least(least, max > used ? max - used : 0);
}

static void real_limit_memory_v2(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t max, used, cache = 0;
  if (!real_limit_read(dir, "memory.max", text, sizeof(text)) || !real_limit_number(text, &max) ||
      !real_limit_read(dir, "memory.current", text, sizeof(text)) ||
      !real_limit_number(text, &used))
    return;
  if (real_limit_read(dir, "memory.stat", text, sizeof(text)))
    cache = real_limit_field(text, "inactive_file ") + real_limit_field(text, "active_file ");
  real_limit_account(max, used, cache, least);
}

static void real_limit_memory_v1(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t max, used, cache = 0;
  if (!real_limit_read(dir, "memory.limit_in_bytes", text, sizeof(text)) ||
      !real_limit_number(text, &max) ||
      !real_limit_read(dir, "memory.usage_in_bytes", text, sizeof(text)) ||
      !real_limit_number(text, &used))
    return;
  if (real_limit_read(dir, "memory.stat", text, sizeof(text)))
    cache = real_limit_field(text, "total_inactive_file ") +
            real_limit_field(text, "total_active_file ");
  real_limit_account(max, used, cache, least);
}

/* ---- CPUs, in thousandths -------------------------------------------------------------------- */

static void real_limit_quota(uint64_t quota, uint64_t period, uint64_t *least)
{
  if (period > 0 && quota < UINT64_MAX / 1000)
    real_limit_least(least, quota * 1000 / period);
}

static void real_limit_cpus_v2(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT], *rest;
  uint64_t quota, period;
  if (!real_limit_read(dir, "cpu.max", text, sizeof(text)) || !real_limit_number(text, &quota))
    return;
  rest = text + strspn(text, "0123456789");
  if (real_limit_number(rest + strspn(rest, " "), &period))
    real_limit_quota(quota, period, least);
}

static void real_limit_cpus_v1(const char *dir, uint64_t *least)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t quota, period;
  if (real_limit_read(dir, "cpu.cfs_quota_us", text, sizeof(text)) &&
      real_limit_number(text, &quota) &&
      real_limit_read(dir, "cpu.cfs_period_us", text, sizeof(text)) &&
      real_limit_number(text, &period))
    real_limit_quota(quota, period, least);
}

/* ---- the cgroups of this process ------------------------------------------------------------- */

/* Visits a cgroup and those above it. A container may see its own cgroup at the root, though the
 * path is the one the host sees: then only the root is there to be visited. */
static void real_limit_climb(const char *root, const char *mount, const char *path,
                             real_limit_visit *visit, uint64_t *least)
{
  char dir[REAL_LIMIT_PATH];
  int base = snprintf(dir, sizeof(dir), "%s%s", root, mount);
  if (base < 0 || (size_t)base >= sizeof(dir) ||
      (size_t)snprintf(dir + base, sizeof(dir) - (size_t)base, "%s", path) >=
          sizeof(dir) - (size_t)base)
    return;
  for (;;) {
    char *slash = strrchr(dir + base, '/');
    if (!slash || slash[1])
      visit(dir, least);
    if (!slash)
      return;
    *slash = '\0';
  }
}

/* Whether a comma-separated list contains a word. */
static bool real_limit_lists(const char *list, const char *word)
{
  size_t length = strlen(word);
  while (strncmp(list, word, length) != 0 || (list[length] && list[length] != ',')) {
    list = strchr(list, ',');
    if (!list)
      return false;
    list++;
  }
  return true;
}

/* Visits every cgroup that the process is in and that holds this controller: lines are
 * "ID:CONTROLLERS:PATH", where version 2 is "0::PATH". */
static uint64_t real_limit_walk(const struct real_limit *limit, const char *controller,
                                real_limit_visit *v1, real_limit_visit *v2)
{
  char text[REAL_LIMIT_TEXT], mount[64], *next = text;
  uint64_t least = UINT64_MAX;
  if (!real_limit_read("", limit->cgroup, text, sizeof(text)))
    return least;
  while (next && *next) {
    char *list = strchr(next, ':');
    char *path = list ? strchr(list + 1, ':') : NULL;
    next = strchr(next, '\n');
    if (next)
      *next++ = '\0';
    if (!path || path[1] != '/')
      continue;
    *path++ = '\0';
    if (!list[1]) {
      real_limit_climb(limit->root, "", path, v2, &least);
      real_limit_climb(limit->root, "/unified", path, v2, &least);
    } else if (real_limit_lists(list + 1, controller)) {
      snprintf(mount, sizeof(mount), "/%s", controller);
      real_limit_climb(limit->root, mount, path, v1, &least);
    }
  }
  return least;
}

uint64_t real_limit_memory(const struct real_limit *limit)
{
  char text[REAL_LIMIT_TEXT];
  uint64_t least = real_limit_walk(limit, "memory", real_limit_memory_v1, real_limit_memory_v2);
  if (real_limit_read("", limit->meminfo, text, sizeof(text)) && strstr(text, "MemAvailable:")) {
    uint64_t free_bytes = real_limit_field(text, "MemAvailable:") * 1024;
    real_limit_least(&least, free_bytes > REAL_LIMIT_RESERVE ? free_bytes - REAL_LIMIT_RESERVE : 0);
  }
  return least;
}

/* CPUs in the affinity mask of this thread, however large the machine is. */
static uint32_t real_limit_affinity(void)
{
  for (size_t room = CPU_SETSIZE; room <= REAL_LIMIT_CPUS_MAX; room *= 2) {
    cpu_set_t *set = CPU_ALLOC(room);
    if (!set)
      break;
    int rc = sched_getaffinity(0, CPU_ALLOC_SIZE(room), set);
    int count = rc == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE(room), set) : 0;
    CPU_FREE(set);
    if (count > 0)
      return (uint32_t)count;
    if (errno != EINVAL)
      break;
  }
  return 1;
}

/* CPUs that the quota amounts to, rounded up. */
static uint32_t real_limit_quota_cpus(const struct real_limit *limit)
{
  uint64_t quota = real_limit_walk(limit, "cpu", real_limit_cpus_v1, real_limit_cpus_v2);
  uint64_t cpus = quota / 1000 + (quota % 1000 != 0);
  real_limit_least(&cpus, REAL_LIMIT_CPUS_MAX);
  return cpus > 0 ? (uint32_t)cpus : 1;
}

uint32_t real_limit_cpus(const struct real_limit *limit)
{
  uint32_t cpus = real_limit_affinity(), quota = real_limit_quota_cpus(limit);
  return cpus < quota ? cpus : quota;
}

uint32_t real_limit_spinners(const struct real_limit *limit)
{
  uint32_t cpus = real_limit_affinity(), quota = real_limit_quota_cpus(limit);
  return quota <= cpus ? quota - 1 : cpus;
}

#undef REAL_LIMIT_PATH
#undef REAL_LIMIT_TEXT
#undef REAL_LIMIT_RESERVE
#undef REAL_LIMIT_PART
#undef REAL_LIMIT_CPUS_MAX

#endif
