/* fuzz_scenario.c - any text as a scenario; one that is good comes back when printed, also as what
 * is drawn from it. */
#include "scenario.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef CHI_OMIT_SIM

#define FUZZ_NODES 64u /* drawing for more takes long */

static void fuzz_hear(void *arg, int level, const char *text)
{
  (void)arg, (void)level;
  if (strchr(text, '\n'))
    abort();
}

static void fuzz_put(void *file, const char *text)
{
  fputs(text, file);
}

static char *fuzz_print(const struct scenario *s)
{
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    abort();
  scenario_print(s, fuzz_put, out);
  fclose(out);
  return text;
}

static struct scenario *fuzz_read(const char *text, size_t size)
{
  struct report report = {.file = "f", .sink = fuzz_hear};
  return scenario_read(text, size, &report);
}

static void fuzz_there_and_back(const struct scenario *s)
{
  char *first = fuzz_print(s), *second;
  struct scenario *again = fuzz_read(first, strlen(first));
  if (!again)
    abort();
  second = fuzz_print(again);
  if (strcmp(first, second) != 0)
    abort();
  scenario_free(again);
  free(first);
  free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct scenario *s = fuzz_read((const char *)data, size), *drawn;
  if (!s)
    return 0;
  fuzz_there_and_back(s);
  if (s->nodes <= FUZZ_NODES) {
    drawn = scenario_draw(s, s->seed, true);
    fuzz_there_and_back(drawn);
    scenario_free(drawn);
  }
  scenario_free(s);
  return 0;
}

#else

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  (void)data, (void)size;
  return 0;
}

#endif
