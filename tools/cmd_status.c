/* cmd_status.c - what a daemon, or a cluster, is doing: workers, pools, clients, memory, nodes. */
#include "cli.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "view.h"
#include "view_cluster.h"
#include "watch.h"

static void status_print(const struct cli *cli, const struct watch *w)
{
  bool json = cli_value(cli, "json");
  if (w->cluster && json)
    watch_print_json(w, stdout);
  else if (w->cluster)
    view_cluster_print(stdout, w, false, cli_width(stdout));
  else if (json)
    puts(watch_own(w)->text);
  else
    view_print(stdout, watch_own(w)->now, NULL);
}

static int status_run(struct cli *cli)
{
  struct cli_link link;
  struct watch w;
  chi_error err = {0};
  bool cluster = cli_value(cli, "cluster");
  uint64_t wait_ns = cluster ? 2 * WATCH_WAIT_NS : 10 * WATCH_WAIT_NS;
  int status = CLI_OK;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (!cli_duration(cli, "timeout", 1000000000, &wait_ns))
    return CLI_USAGE;
  if (cli_connect(cli, &link) != CLI_OK)
    return CLI_FAILED;
  watch_open(&w, &link, cluster, wait_ns);
  if (watch_round(&w, &err) == CHI_OK)
    status_print(cli, &w);
  else
    status = cli_fail(cli, "%s", err.text);
  watch_close(&w);
  cli_disconnect(&link);
  return status;
}

const struct cli_command cmd_status = {
    .name = "status",
    .arguments = "",
    .about = "show what a daemon is doing: workers, pools, clients, memory",
    .more =
        "Counts and latencies are those since the daemon's start; 'chimaera top' shows rates.\n"
        "With --cluster there is a row for each node; one that does not answer in time is shown\n"
        "as silent.\n",
    .run = status_run,
    .options = {{CLI_INSTANCE},
                {CLI_CLUSTER},
                {"timeout", "TIME", "how long to wait for answers; default 10 s, cluster 2 s"},
                {CLI_JSON}}};
