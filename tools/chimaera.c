/* chimaera.c - the one program: finds the command by the name it was started with, or by its first
 * argument. */
#include "cli.h"

#include <stdio.h>

#include "word.h"

static const struct cli_command *const chimaera_commands[] = {
    &cmd_start,  &cmd_stop,  &cmd_status,    &cmd_top,    &cmd_compose, &cmd_call,    &cmd_put,
    &cmd_get,    &cmd_sim,   &cmd_bench,     &cmd_calibrate, &cmd_config, &cmd_keygen,
    &cmd_metrics,
    &cmd_version};

/* Names under which the program is also installed. */
static const struct chimaera_alias {
  const char *name;
  const struct cli_command *command;
} chimaera_aliases[] = {{"chimaera_start_runtime", &cmd_start},
                        {"chimaera_stop_runtime", &cmd_stop},
                        {"chimaera_compose", &cmd_compose},
                        {"chimaera_bench", &cmd_bench}};

static int chimaera_help(FILE *out)
{
  fprintf(out, "usage: chimaera COMMAND [ARGUMENT...]\n\n");
  for (size_t i = 0; i < CHI_COUNT(chimaera_commands); i++)
    fprintf(out, "  %-9s %s\n", chimaera_commands[i]->name, chimaera_commands[i]->about);
  fprintf(out, "\n'chimaera COMMAND --help' tells more.\n");
  return out == stdout ? CLI_OK : CLI_USAGE;
}

static const struct cli_command *chimaera_find(const char *name)
{
  const char *nearest = NULL;
  uint32_t least = UINT32_MAX;
  for (size_t i = 0; i < CHI_COUNT(chimaera_commands); i++) {
    uint32_t distance = word_distance(name, chimaera_commands[i]->name);
    if (distance == 0)
      return chimaera_commands[i];
    if (distance < least) {
      least = distance;
      nearest = chimaera_commands[i]->name;
    }
  }
  fprintf(stderr, "chimaera: no command \"%s\"%s%s\n", name, nearest ? "; nearest is " : "",
          nearest ? nearest : "");
  return NULL;
}

static int chimaera_main(int argc, char **argv)
{
  const struct cli_command *command;
  const char *slash = argc ? strrchr(argv[0], '/') : NULL, *self = slash ? slash + 1 : argv[0];
  char program[64], option[] = "--help";
  for (size_t i = 0; argc && i < CHI_COUNT(chimaera_aliases); i++) {
    if (strcmp(self, chimaera_aliases[i].name) == 0)
      return cli_run(chimaera_aliases[i].command, self, argc - 1, argv + 1);
  }
  if (argc < 2)
    return chimaera_help(stderr);
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
      (strcmp(argv[1], "help") == 0 && argc == 2))
    return chimaera_help(stdout);
  if (strcmp(argv[1], "help") == 0) {
    argv[1] = argv[2];
    argv[2] = option;
  }
  command = chimaera_find(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
  if (!command)
    return chimaera_help(stderr);
  snprintf(program, sizeof(program), "chimaera %s", command->name);
  return cli_run(command, program, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
  int status = chimaera_main(argc, argv);
  if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_OK) {
    fprintf(stderr, "chimaera: cannot write to standard output\n");
    status = CLI_FAILED;
  }
  return status;
}
