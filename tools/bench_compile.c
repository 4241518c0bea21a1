/* bench_compile.c - how long a compiler takes for the one file. */
#include "bench.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPILE_ROUNDS 3u /* at most: each takes seconds */

extern char **environ;

/* chimaera.c of the working directory, or that of the tree in which this program was built. */
static bool compile_find(char *path, size_t size)
{
  static const char *const above[] = {"../../chimaera.c", "../../../chimaera.c"};
  char self[CHI_PATH_MAX];
  ssize_t n = readlink(CLI_SELF, self, sizeof(self) - 1);
  snprintf(path, size, "chimaera.c");
  for (size_t i = 0; access(path, R_OK) != 0; i++) {
    if (n <= 0 || i == CHI_COUNT(above))
      return false;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(path, size, "%.*s/%s", slash ? (int)(slash - self) : 0, self, above[i]);
  }
  return true;
}

/* Runs it without a word. The exit status; 127 if it can't be run. */
static int compile_run(char *const *argv)
{
  posix_spawn_file_actions_t quiet;
  int status = 0;
  pid_t pid;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
  if (posix_spawnp(&pid, argv[0], &quiet, NULL, argv, environ) != 0)
    pid = -1;
  posix_spawn_file_actions_destroy(&quiet);
  if (pid < 0 || waitpid(pid, &status, 0) != pid)
    return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

bool bench_run_compile(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  char source[CHI_PATH_MAX + 32], object[CHI_PATH_MAX + 16];
  char *argv[] = {"cc", "-O2", "-c", source, "-o", object, NULL};
  char *version[] = {"cc", "--version", NULL};
  (void)f;
  if (!compile_find(source, sizeof(source)))
    return bench_skip(r, "chimaera.c isn't here, nor above this program");
  if (compile_run(version) != 0)
    return bench_skip(r, "there is no cc");
  snprintf(object, sizeof(object), "%s/chimaera.o", b->directory);
  for (uint32_t i = 0; i < b->rounds && i < COMPILE_ROUNDS; i++) {
    uint64_t begin = cli_now();
    if (compile_run(argv) != 0)
      return bench_note(r, "cc -O2 -c %.100s fails", source);
    r->ours[r->rounds++] = (double)(cli_now() - begin);
  }
  bench_note(r, "%.140s", source);
  return true;
}
