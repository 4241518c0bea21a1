/* real_limit.h - what this process may use: memory and CPUs, as cgroups and the machine say. */
#ifndef CHI_REAL_LIMIT_H
#define CHI_REAL_LIMIT_H

#include "base.h"

#ifndef CHI_OMIT_REAL

/* Where to look; a test looks elsewhere. */
struct real_limit {
  const char *cgroup;  /* the cgroups of this process: /proc/self/cgroup */
  const char *root;    /* where they are mounted: /sys/fs/cgroup */
  const char *meminfo; /* the machine: /proc/meminfo */
};

CHI_PRIVATE struct real_limit real_limit_system(void);

/* Bytes of memory that can still be taken while a reserve stays free: the least that the machine,
 * the own cgroup and those above it have left, page cache that can be dropped counted as free.
 * UINT64_MAX: nothing limits it. Any thread; reads files. */
CHI_PRIVATE uint64_t real_limit_memory(const struct real_limit *limit);

/* CPUs that the calling thread may run on, at most as many as the quota of its cgroups amounts to,
 * rounded up; at least 1. */
CHI_PRIVATE uint32_t real_limit_cpus(const struct real_limit *limit);

/* Threads of a process that may look for work in a loop at a time: as many as there are CPUs, for
 * each gives way between two looks. Under a quota one less than it amounts to: what looking uses
 * up of it is lost to work. */
CHI_PRIVATE uint32_t real_limit_spinners(const struct real_limit *limit);

#endif
#endif
