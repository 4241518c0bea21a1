/* fuzz_hostfile.c - any text as a hostfile; a list that is good comes back when written out. */
#include "hostfile.h"

#include <stdio.h>
#include <stdlib.h>

#define HOSTFILE_WRITTEN_MAX 256 /* hosts of a list that is written out: keeps it fast */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hostfile_hear(void *arg, int level, const char *text)
{
  (void)arg;
  if (level != CHI_LOG_ERROR || strchr(text, '\n'))
    abort();
}

static int hostfile_read(chi_config *config, const char *text, size_t size)
{
  struct report report = {"f", hostfile_hear, NULL, NULL, 0, CHI_OK};
  chi_config_init(config);
  hostfile_parse(config, text, size, &report);
  return report.code;
}

static void hostfile_there_and_back(const chi_config *config)
{
  static char text[HOSTFILE_WRITTEN_MAX * (2 * CHI_NAME_MAX + 2)];
  chi_config again;
  size_t used = 0;
  for (uint32_t i = 0; i < config->host_count; i++)
    used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %s\n", config->hosts[i].name,
                             config->hosts[i].address);
  if (hostfile_read(&again, text, used) != CHI_OK || again.host_count != config->host_count ||
      memcmp(again.hosts, config->hosts, again.host_count * sizeof(*again.hosts)) != 0)
    abort();
  chi_config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  chi_config config;
  if (hostfile_read(&config, (const char *)data, size) == CHI_OK) {
    if (config.host_count == 0)
      abort();
    if (config.host_count <= HOSTFILE_WRITTEN_MAX)
      hostfile_there_and_back(&config);
  }
  chi_config_free(&config);
  return 0;
}
