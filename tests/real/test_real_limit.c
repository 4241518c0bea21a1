/* test_real_limit.c - memory and CPUs as cgroups of both versions and the machine tell them. */
#include "real_limit.h"
#include "scratch.h"
#include "test.h"

#include <sched.h>

#define MIB (1ull << 20)

/* A machine in a scratch directory. */
struct machine {
  char dir[64], cgroup[80], root[80], meminfo[80];
  struct real_limit limit;
};

static bool machine_make(struct machine *m, const char *cgroup, const char *meminfo)
{
  if (!scratch_make(m->dir))
    return false;
  snprintf(m->cgroup, sizeof(m->cgroup), "%s/cgroup", m->dir);
  snprintf(m->root, sizeof(m->root), "%s/fs", m->dir);
  snprintf(m->meminfo, sizeof(m->meminfo), "%s/meminfo", m->dir);
  m->limit = (struct real_limit){m->cgroup, m->root, m->meminfo};
  return (!cgroup || scratch_write(m->dir, "cgroup", cgroup)) &&
         (!meminfo || scratch_write(m->dir, "meminfo", meminfo));
}

TEST(memory_without_any_limit_is_unlimited)
{
  struct machine m;
  CHECK(machine_make(&m, NULL, NULL));
  CHECK(real_limit_memory(&m.limit) == UINT64_MAX);
  scratch_remove(m.dir);
}

TEST(memory_is_what_the_machine_has_less_a_reserve)
{
  struct machine m;
  CHECK(machine_make(&m, NULL,
                     "MemTotal:       1048576 kB\nMemFree:  1 kB\nMemAvailable:   102400 kB\n"));
  CHECK_INT(real_limit_memory(&m.limit), 100 * MIB - 16 * MIB);
  CHECK(scratch_write(m.dir, "meminfo", "MemAvailable:   1024 kB\n"));
  CHECK_INT(real_limit_memory(&m.limit), 0);
  scratch_remove(m.dir);
}

TEST(memory_of_a_version_2_cgroup_counts_page_cache_as_free)
{
  struct machine m;
  CHECK(machine_make(&m, "0::/a/b\n", NULL));
  CHECK(scratch_write(m.dir, "fs/a/b/memory.max", "134217728\n"));
  CHECK(scratch_write(m.dir, "fs/a/b/memory.current", "67108864\n"));
  CHECK_INT(real_limit_memory(&m.limit), 64 * MIB - 2 * MIB);
  CHECK(scratch_write(m.dir, "fs/a/b/memory.stat",
                      "anon 1\nfile 5\nactive_file 1048576\ninactive_file 2097152\n"));
  CHECK_INT(real_limit_memory(&m.limit), 64 * MIB - 2 * MIB + 3 * MIB);
  scratch_remove(m.dir);
}

TEST(memory_is_limited_by_every_cgroup_above)
{
  struct machine m;
  CHECK(machine_make(&m, "0::/a/b/c\n", NULL));
  CHECK(scratch_write(m.dir, "fs/a/b/c/memory.max", "max\n"));
  CHECK(scratch_write(m.dir, "fs/a/b/c/memory.current", "1\n"));
  CHECK(scratch_write(m.dir, "fs/a/memory.max", "67108864\n"));
  CHECK(scratch_write(m.dir, "fs/a/memory.current", "0\n"));
  CHECK_INT(real_limit_memory(&m.limit), 63 * MIB);
  CHECK(scratch_write(m.dir, "fs/a/memory.current", "67108864\n"));
  CHECK_INT(real_limit_memory(&m.limit), 0);
  scratch_remove(m.dir);
}

TEST(memory_of_a_version_1_cgroup)
{
  struct machine m;
  CHECK(machine_make(&m, "3:cpuset:/\n4:cpuacct,memory:/docker/x\n0::/\n", NULL));
  CHECK(scratch_write(m.dir, "fs/memory/docker/x/memory.limit_in_bytes", "134217728\n"));
  CHECK(scratch_write(m.dir, "fs/memory/docker/x/memory.usage_in_bytes", "33554432\n"));
  CHECK(scratch_write(m.dir, "fs/memory/docker/x/memory.stat",
                      "inactive_file 9\ntotal_inactive_file 1048576\ntotal_active_file 0\n"));
  CHECK_INT(real_limit_memory(&m.limit), (96 - 2 + 1) * MIB);
  scratch_remove(m.dir);
}

TEST(memory_of_a_container_that_sees_its_own_cgroup_as_the_root)
{
  struct machine m;
  CHECK(machine_make(&m, "4:memory:/docker/not-there\n", NULL));
  CHECK(scratch_write(m.dir, "fs/memory/memory.limit_in_bytes", "67108864\n"));
  CHECK(scratch_write(m.dir, "fs/memory/memory.usage_in_bytes", "1048576\n"));
  CHECK_INT(real_limit_memory(&m.limit), 62 * MIB);
  scratch_remove(m.dir);
}

TEST(malformed_files_do_not_limit)
{
  struct machine m;
  CHECK(machine_make(&m, "rubbish\n::\n0:\n4:memory\n0::relative\n0::/a", "no such line\n"));
  CHECK(scratch_write(m.dir, "fs/a/memory.max", "lots\n"));
  CHECK(scratch_write(m.dir, "fs/a/cpu.max", "100 \n"));
  CHECK(scratch_write(m.dir, "fs/cpu.max", "100 0\n"));
  CHECK(real_limit_memory(&m.limit) == UINT64_MAX);
  CHECK(real_limit_cpus(&m.limit) >= 1);
  scratch_remove(m.dir);
}

/* Leaves one CPU in the affinity mask. */
static void confine(void)
{
  cpu_set_t all, one;
  int cpu = 0;
  sched_getaffinity(0, sizeof(all), &all);
  while (!CPU_ISSET(cpu, &all))
    cpu++;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof(one), &one);
}

/* In a child: the CPUs there are when the affinity mask holds one. */
static int on_one_cpu(void *arg)
{
  const struct machine *m = arg;
  confine();
  return (int)real_limit_cpus(&m->limit);
}

static int spinners_on_one_cpu(void *arg)
{
  const struct machine *m = arg;
  confine();
  return (int)real_limit_spinners(&m->limit);
}

TEST(cpus_are_those_of_the_affinity_mask_and_no_more_than_the_quota)
{
  struct machine m;
  CHECK(machine_make(&m, NULL, NULL));
  uint32_t all = real_limit_cpus(&m.limit);
  CHECK_INT(scratch_child(on_one_cpu, &m), 1);
  CHECK(scratch_write(m.dir, "cgroup", "0::/a\n"));
  CHECK(scratch_write(m.dir, "fs/a/cpu.max", "50000 100000\n"));
  CHECK_INT(real_limit_cpus(&m.limit), 1);
  CHECK(scratch_write(m.dir, "fs/a/cpu.max", "110000 100000\n"));
  CHECK_INT(real_limit_cpus(&m.limit), all < 2 ? all : 2);
  CHECK(scratch_write(m.dir, "fs/a/cpu.max", "max 100000\n"));
  CHECK_INT(real_limit_cpus(&m.limit), all);
  scratch_remove(m.dir);
}

TEST(cpus_by_the_quota_of_a_version_1_cgroup)
{
  struct machine m;
  CHECK(machine_make(&m, "1:cpu,cpuacct:/j\n2:cpuset:/k\n", NULL));
  uint32_t all = real_limit_cpus(&m.limit);
  CHECK(scratch_write(m.dir, "fs/cpu/j/cpu.cfs_period_us", "100000\n"));
  CHECK(scratch_write(m.dir, "fs/cpu/j/cpu.cfs_quota_us", "100000\n"));
  CHECK_INT(real_limit_cpus(&m.limit), 1);
  CHECK(scratch_write(m.dir, "fs/cpu/j/cpu.cfs_quota_us", "-1\n"));
  CHECK_INT(real_limit_cpus(&m.limit), all);
  scratch_remove(m.dir);
}

TEST(one_cpu_is_left_for_those_who_are_waited_for)
{
  struct machine m;
  CHECK(machine_make(&m, NULL, NULL));
  uint32_t all = real_limit_cpus(&m.limit);
  CHECK_INT(real_limit_spinners(&m.limit), all);
  if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
    CHECK_INT(scratch_child(spinners_on_one_cpu, &m), 1);
  CHECK(scratch_write(m.dir, "cgroup", "0::/a\n"));
  CHECK(scratch_write(m.dir, "fs/a/cpu.max", "100000 100000\n"));
  CHECK_INT(real_limit_spinners(&m.limit), 0);
  CHECK_INT(scratch_child(spinners_on_one_cpu, &m), 0);
  scratch_remove(m.dir);
}

TEST(the_limits_of_this_machine_can_be_read)
{
  struct real_limit limit = real_limit_system();
  CHECK(real_limit_memory(&limit) > 0);
  CHECK(real_limit_memory(&limit) < UINT64_MAX);
  CHECK(real_limit_cpus(&limit) >= 1);
}
