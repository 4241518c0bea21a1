/* settings.c - reading the configuration for a command, and showing what is wrong with it. */
#include "settings.h"

#include <stdio.h>

#include "units.h"

/* arg: whether there was an error. */
static void settings_report(void *arg, int level, const char *text)
{
  static const char *const names[] = {"note: ", "note: ", "warning: ", "error: "};
  *(bool *)arg = *(bool *)arg || level == CHI_LOG_ERROR;
  if (level >= CHI_LOG_DEBUG && level <= CHI_LOG_ERROR)
    fprintf(stderr, "%s%s\n", names[level], text);
}

int settings_load(const struct cli *cli, const char *path, chi_config *config)
{
  chi_error err = {0};
  bool told = false;
  int status;
  chi_config_init(config);
  status = chi_config_load(config, path, settings_report, &told, &err);
  if (status != CHI_OK && told)
    return cli_fail(cli, "the configuration is not valid");
  if (status != CHI_OK)
    return cli_fail(cli, "%s", *err.text ? err.text : chi_status_text(status));
  return CLI_OK;
}

int settings_instance(const struct cli *cli, const char *instance, chi_config *config)
{
  const char *colon = strrchr(instance, ':');
  size_t size = colon ? (size_t)(colon - instance) : strlen(instance);
  uint64_t port = config->port;
  if (size >= sizeof(config->main_segment_name) ||
      (colon && (units_parse_count(colon + 1, &port) != CHI_OK || port < 1 || port > 65535)))
    return cli_usage(cli, "--instance %s: expected NAME:PORT", instance);
  if (size) {
    memcpy(config->main_segment_name, instance, size);
    config->main_segment_name[size] = '\0';
  }
  config->port = (uint32_t)port;
  return CLI_OK;
}
