/* clock.c - to be preloaded into a daemon: its wall clock is wrong by the seconds in a file. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The file is $TEST_CLOCK, and may be written at any time. */
static const volatile int64_t *clock_offset(void)
{
  static const volatile int64_t *offset;
  const char *path = getenv("TEST_CLOCK");
  int fd = offset || !path ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    void *at = mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    offset = at != MAP_FAILED ? at : NULL;
  }
  return offset;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
  int rc = (int)syscall(SYS_clock_gettime, id, t);
  const volatile int64_t *offset = id == CLOCK_REALTIME ? clock_offset() : NULL;
  if (rc == 0 && offset)
    t->tv_sec += *offset;
  return rc;
}
