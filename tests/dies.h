/* dies.h - for tests of assertions: does this end the process, and with which last words? */
#ifndef CHI_DIES_H
#define CHI_DIES_H

#include <stdbool.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn(arg) in a child process. True if it ended by a signal or a non-zero status, after writing
 * a text to standard error that contains `words`. */
static inline bool dies(void (*fn)(void *arg), void *arg, const char *words)
{
  char text[65536];
  size_t have = 0;
  ssize_t n;
  int ends[2], status = 0;
  pid_t child;
  if (pipe(ends) != 0 || (child = fork()) < 0)
    return false;
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    fn(arg);
    _exit(0);
  }
  close(ends[1]);
  while ((n = read(ends[0], text + have, sizeof(text) - 1 - have)) > 0)
    have += (size_t)n;
  text[have] = '\0';
  close(ends[0]);
  return waitpid(child, &status, 0) == child && status != 0 && strstr(text, words);
}

#endif
