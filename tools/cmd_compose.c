/* cmd_compose.c - creates the pools of a file on a running daemon. */
#include "cli.h"

#include <stdio.h>

#include "client.h"
#include "compose.h"
#include "settings.h"
#include "text.h"

/* What became of one entry, for people or as an element of a JSON list. */
static void compose_say(const chi_compose_entry *entry, chi_pool_id id, bool found, bool json,
                        bool first)
{
  char name[CHI_PATH_MAX], module[CHI_NAME_MAX];
  if (!json) {
    printf("%u.%u %s %s: %s\n", id.major, id.minor,
           cli_plain(entry->mod_name, module, sizeof(module)),
           cli_plain(entry->pool_name, name, sizeof(name)), found ? "was there" : "created");
    return;
  }
  printf("%s{\"id\":\"%u.%u\",\"module\":", first ? "" : ",", id.major, id.minor);
  text_put_string(entry->mod_name, SIZE_MAX, cli_put, stdout);
  printf(",\"name\":");
  text_put_string(entry->pool_name, SIZE_MAX, cli_put, stdout);
  printf(",\"created\":%s}", found ? "false" : "true");
}

static int compose_entry(const struct cli *cli, chi_queue *queue, const char *file,
                         const chi_compose_entry *entry, bool first)
{
  chi_pool_id id = {entry->pool_major, entry->pool_minor}, other;
  chi_error err = {0};
  int line, column;
  bool found = chi_pool_find(queue, entry->pool_name, &other) == CHI_OK;
  int status = client_pool_create(queue, entry->mod_name, entry->pool_name, entry->pool_query,
                                  entry->params, entry->param_count, &id, &err);
  if (status != CHI_OK) {
    compose_place(entry, err.text, &line, &column);
    return cli_fail(cli, "%s:%d:%d: pool %u.%u \"%s\": %s", file, line, column,
                    entry->pool_major, entry->pool_minor, entry->pool_name,
                    *err.text ? err.text : chi_status_text(status));
  }
  compose_say(entry, id, found, cli_value(cli, "json") != NULL, first);
  return CLI_OK;
}

static int compose_all(const struct cli *cli, const chi_config *config)
{
  bool json = cli_value(cli, "json");
  struct cli_link link;
  int status = cli_connect(cli, &link);
  if (status != CLI_OK)
    return status;
  if (json)
    printf("[");
  for (uint32_t i = 0; i < config->compose_count && status == CLI_OK; i++)
    status = compose_entry(cli, link.queue, cli->arguments[0], &config->compose[i], i == 0);
  if (json)
    printf("]\n");
  cli_disconnect(&link);
  return status;
}

static int compose_run(struct cli *cli)
{
  chi_config config;
  int status;
  if (cli->argument_count != 1)
    return cli_usage(cli, "takes one argument: the file");
  status = settings_load(cli, cli->arguments[0], &config);
  if (status == CLI_OK && config.compose_count == 0)
    status = cli_fail(cli, "%s: has no pools under 'compose'", cli->arguments[0]);
  if (status == CLI_OK)
    status = compose_all(cli, &config);
  chi_config_free(&config);
  return status;
}

const struct cli_command cmd_compose = {
    .name = "compose",
    .arguments = "FILE",
    .about = "create the pools of a file on a running daemon",
    .more =
        "FILE has a 'compose' list; a whole configuration is fine, of which only that list is\n"
        "used. Pools are created in order. One that is there already with the same definition is\n"
        "fine; the first failure stops, and names the entry.\n",
    .run = compose_run,
    .options = {{CLI_INSTANCE}, {CLI_JSON}}};
