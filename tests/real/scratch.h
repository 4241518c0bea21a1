/* scratch.h - for tests of the real environment: a directory of one's own, small files in it, and
 * child processes. */
#ifndef CHI_SCRATCH_H
#define CHI_SCRATCH_H

#include "base.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Makes a directory; path must have room for 64 bytes. */
static inline bool scratch_make(char *path)
{
  snprintf(path, 64, "/tmp/chi-test-XXXXXX");
  return mkdtemp(path) != NULL;
}

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *walk)
{
  (void)st;
  (void)type;
  (void)walk;
  return remove(path);
}

static inline void scratch_remove(const char *path)
{
  nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Writes a file below dir, making the directories on the way. */
static inline bool scratch_write(const char *dir, const char *name, const char *text)
{
  char path[1024];
  snprintf(path, sizeof(path), "%s/%s", dir, name);
  for (char *slash = strchr(path + strlen(dir) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
  FILE *f = fopen(path, "w");
  return f && fputs(text, f) >= 0 && fclose(f) == 0;
}

/* Reads a whole small file as text; "" if there is none. */
static inline const char *scratch_read(const char *path, char *text, size_t room)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
  text[n > 0 ? n : 0] = '\0';
  if (fd >= 0)
    close(fd);
  return text;
}

/* Open descriptors of this process. */
static inline int scratch_descriptors(void)
{
  DIR *d = opendir("/proc/self/fd");
  int count = 0;
  while (d && readdir(d))
    count++;
  if (d)
    closedir(d);
  return count;
}

/* Runs fn(arg) in a forked child; gives what it returned, 0 to 255, or -1 if it ended otherwise. */
static inline int scratch_child(int (*fn)(void *arg), void *arg)
{
  int status = 0;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0)
    _exit(fn(arg));
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
    return -1;
  return WEXITSTATUS(status);
}

#endif
