/* fuzz_config.c - any text as a configuration; one that is good passes the check and comes back
 * when printed. */
#include "real_conf.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct config_printed {
  char *text;
  size_t used, room;
};

static void config_collect(void *arg, const char *text)
{
  struct config_printed *p = arg;
  size_t n = strlen(text);
  if (p->used + n + 1 > p->room) {
    p->room = 2 * (p->used + n + 1);
    p->text = realloc(p->text, p->room);
    if (!p->text)
      abort();
  }
  memcpy(p->text + p->used, text, n + 1);
  p->used += n;
}

static void config_hear(void *arg, int level, const char *text)
{
  (void)arg;
  if (level < CHI_LOG_INFO || strchr(text, '\n'))
    abort();
}

static const char *config_lookup(void *arg, const char *name)
{
  (void)arg;
  switch (name[0]) {
  case 'U':
    return "user";
  case 'H':
    return "/home";
  case 'E':
    return "";
  case 'B':
    return "\xff\n";
  case 'D':
    return "$${D";
  default:
    return NULL;
  }
}

static int config_read(chi_config *config, const char *text, size_t size)
{
  chi_error err = {0, ""};
  struct report report = {"f", config_hear, NULL, &err, 0, CHI_OK};
  struct reader r = {config, &report, .lookup = config_lookup};
  chi_config_init(config);
  real_conf_parse(&r, text, size);
  if (err.code != report.code)
    abort();
  return report.code;
}

static void config_there_and_back(const chi_config *config)
{
  struct config_printed first = {NULL, 0, 0}, second = {NULL, 0, 0};
  chi_config again;
  chi_config_print(config, config_collect, &first);
  if (config_read(&again, first.text, first.used) != CHI_OK)
    abort();
  chi_config_print(&again, config_collect, &second);
  if (strcmp(first.text, second.text) != 0)
    abort();
  chi_config_free(&again);
  free(first.text);
  free(second.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  chi_config config;
  if (config_read(&config, (const char *)data, size) == CHI_OK) {
    if (chi_config_check(&config, NULL) != CHI_OK)
      abort();
    config_there_and_back(&config);
  }
  chi_config_free(&config);
  return 0;
}
