/* settings.h - reading the configuration for a command, and showing what is wrong with it. */
#ifndef CHI_TOOL_SETTINGS_H
#define CHI_TOOL_SETTINGS_H

#include "cli.h"

/* Loads the configuration (path NULL: as chi_config_load finds it), printing every problem on
 * standard error. CLI_OK or CLI_FAILED; either way *config must be freed. */
int settings_load(const struct cli *cli, const char *path, chi_config *config);
/* Applies "NAME:PORT", ":PORT" or "NAME". CLI_USAGE with a message if it is none. */
int settings_instance(const struct cli *cli, const char *instance, chi_config *config);

#endif
