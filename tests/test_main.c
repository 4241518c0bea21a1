/* test_main.c - runs the registered tests: [-v] [substring of a name]. Closes with the counts. */
#include "test.h"

#include <stdarg.h>
#include <stdlib.h>

static struct test *tests;
static int failed_here, skipped_here;

/* Kept sorted by file and name, so that the order does not depend on the linker. */
void test_register(struct test *t)
{
  struct test **at = &tests;
  while (*at) {
    int order = strcmp((*at)->file, t->file);
    if (order > 0 || (order == 0 && strcmp((*at)->name, t->name) > 0))
      break;
    at = &(*at)->next;
  }
  t->next = *at;
  *at = t;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "  %s:%d: ", file, line);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  failed_here++;
}

void test_skip(const char *why)
{
  printf("  skipped: %s\n", why);
  skipped_here++;
}

int main(int argc, char **argv)
{
  bool verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
  const char *only = argc > 1 + verbose ? argv[1 + verbose] : "";
  int passed = 0, failed = 0, skipped = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (struct test *t = tests; t; t = t->next) {
    if (!strstr(t->name, only))
      continue;
    if (verbose)
      printf("run  %s\n", t->name);
    failed_here = skipped_here = 0;
    t->run();
    if (failed_here)
      printf("FAIL %s (%s)\n", t->name, t->file);
    failed += failed_here != 0;
    skipped += !failed_here && skipped_here;
    passed += !failed_here && !skipped_here;
  }
  printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed != 0;
}
