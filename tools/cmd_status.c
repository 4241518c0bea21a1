/* cmd_status.c - what a daemon is doing: workers, pools, clients, memory. */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>

#include "view.h"

static int status_run(struct cli *cli)
{
  struct cli_link link;
  struct json *json = NULL;
  chi_error err = {0};
  char *text;
  int status = CLI_OK;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (cli_connect(cli, &link) != CLI_OK)
    return CLI_FAILED;
  text = cli_monitor(&link, &err);
  if (!text || json_parse(text, strlen(text), &json, &err) != CHI_OK)
    status = cli_fail(cli, "%s", err.text);
  else if (cli_value(cli, "json"))
    puts(text);
  else
    view_print(stdout, json, NULL);
  json_free(json);
  free(text);
  cli_disconnect(&link);
  return status;
}

const struct cli_command cmd_status = {
    .name = "status",
    .arguments = "",
    .about = "show what a daemon is doing: workers, pools, clients, memory",
    .more =
        "Counts and latencies are those since the daemon's start; 'chimaera top' shows rates.\n",
    .run = status_run,
    .options = {{CLI_INSTANCE}, {CLI_JSON}}};
