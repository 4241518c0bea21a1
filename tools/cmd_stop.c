/* cmd_stop.c - stops a daemon and tells what became of it. */
#include "cli.h"

#include <poll.h>
#include <stdio.h>

#include "units.h"

#define STOP_GRACE_MS 5000
#define STOP_GRACE_MAX_MS 86400000
#define STOP_MARGIN_NS (2ull * 1000000000) /* beyond twice the grace period, to close and exit */
#define STOP_SETTLE_NS 1000000000
#define STOP_LOOK_NS 100000000
#define STOP_PAUSE_MS 5
enum stop_exit { STOP_CANCELLED = 3, STOP_RUNNING = 4 };

/* True when the daemon has hung up: the only answer that a wait has then. */
static bool stop_hung_up(struct cli_link *link)
{
  struct chi_admin_flush *probe = CHI_NEW(link->queue, chi_admin_flush);
  int status = probe ? CHI_OK : chi_queue_error(link->queue, NULL);
  if (probe) {
    probe->task.pool = CHI_ADMIN_POOL;
    status = chi_submit(link->queue, probe);
  }
  if (status == CHI_OK)
    status = chi_wait(link->queue, probe, STOP_LOOK_NS);
  if (probe && chi_task_done(link->queue, probe))
    chi_task_free(link->queue, probe);
  else if (probe)
    chi_abandon(link->queue, probe);
  if (status != CHI_ESHUTDOWN && status != CHI_ETIMEOUT)
    poll(NULL, 0, STOP_PAUSE_MS); /* it refuses work, but lives */
  return status == CHI_ESHUTDOWN;
}

/* After a hang-up: until the instance can be started anew. Whoever answers after all this time is
 * another daemon. */
static void stop_settle(const struct cli *cli)
{
  uint64_t begin = cli_now();
  chi_client *client;
  while (cli_now() - begin < STOP_SETTLE_NS &&
         chi_client_open(cli_value(cli, "instance"), &client, NULL) == CHI_OK) {
    chi_client_close(client);
    poll(NULL, 0, STOP_PAUSE_MS);
  }
}

/* Waits until the daemon has gone: how long it took, or UINT64_MAX. */
static uint64_t stop_wait(const struct cli *cli, struct cli_link *link, uint64_t limit)
{
  uint64_t begin = cli_now(), took;
  while (!stop_hung_up(link)) {
    if (cli_now() - begin >= limit)
      return UINT64_MAX;
  }
  took = cli_now() - begin;
  stop_settle(cli);
  return took;
}

static int stop_say(const struct cli *cli, uint64_t took, uint64_t grace_ms)
{
  char text[32];
  if (took == UINT64_MAX) {
    cli_fail(cli, "still running after twice the grace period of %llu ms",
             (unsigned long long)grace_ms);
    return STOP_RUNNING;
  }
  cli_time((double)took, text, sizeof(text));
  if (took / 1000000 >= grace_ms && grace_ms) {
    printf("stopped after %s; what was left at the end of the grace period was cancelled\n", text);
    return STOP_CANCELLED;
  }
  printf("stopped after %s\n", text);
  return CLI_OK;
}

static int stop_run(struct cli *cli)
{
  struct chi_admin_stop_runtime *task;
  struct cli_link link;
  uint64_t grace_ms = STOP_GRACE_MS, limit;
  int status;
  if (cli->argument_count > 1)
    return cli_usage(cli, "takes one argument: the grace period in milliseconds");
  if (cli->argument_count &&
      (units_parse_count(cli->arguments[0], &grace_ms) != CHI_OK || grace_ms > STOP_GRACE_MAX_MS))
    return cli_usage(cli, "%s: expected milliseconds from 0 to %d", cli->arguments[0],
                     STOP_GRACE_MAX_MS);
  if (cli_connect(cli, &link) != CLI_OK)
    return CLI_FAILED;
  limit = 2 * grace_ms * 1000000 + STOP_MARGIN_NS;
  task = CHI_NEW(link.queue, chi_admin_stop_runtime);
  status = CHI_ENOMEM;
  if (task) {
    task->task.pool = CHI_ADMIN_POOL;
    task->grace_period_ms = (uint32_t)grace_ms;
    status = chi_submit(link.queue, task);
  }
  if (status == CHI_OK)
    status = chi_wait(link.queue, task, limit);
  if (status == CHI_OK || status == CHI_ESHUTDOWN)
    status = stop_say(cli, stop_wait(cli, &link, limit), grace_ms);
  else
    status = cli_fail(cli, "%s", chi_status_text(status));
  cli_disconnect(&link);
  return status;
}

const struct cli_command cmd_stop = {
    .name = "stop",
    .arguments = "[GRACE_MS]",
    .about = "stop a daemon, which finishes its work first",
    .more =
        "It has GRACE_MS milliseconds (5000) for what it has accepted; what is left then is\n"
        "cancelled. Returns when the daemon has gone.\n\n"
        "Exit status: 0 stopped, its work done; 1 no daemon there, or it refused; 3 stopped, but\n"
        "work was cancelled at the end of the grace period; 4 still running after twice as\n"
        "long.\n",
    .run = stop_run,
    .options = {{CLI_INSTANCE}}};
