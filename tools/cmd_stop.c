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

/* How a daemon ended, as far as it told. */
struct stop_end {
  int status;         /* of the task that asked for it */
  uint64_t cancelled; /* tasks */
  uint64_t took;      /* nanoseconds; UINT64_MAX: it is still there */
};

/* Asks the daemon to stop, and waits until its work has ended. */
static void stop_ask(struct cli_link *link, uint32_t grace_ms, uint64_t limit, struct stop_end *end)
{
  struct chi_admin_stop_runtime *task = CHI_NEW(link->queue, chi_admin_stop_runtime);
  end->status = CHI_ENOMEM;
  if (!task)
    return;
  task->task.pool = CHI_ADMIN_POOL;
  task->flags = CHI_STOP_WAIT;
  task->grace_period_ms = grace_ms;
  end->status = chi_submit(link->queue, task);
  if (end->status == CHI_OK)
    end->status = chi_wait(link->queue, task, limit);
  if (end->status == CHI_OK)
    end->cancelled = task->cancelled;
}

/* Waits until the daemon has gone. */
static void stop_wait(const struct cli *cli, struct cli_link *link, uint64_t begin, uint64_t limit,
                      struct stop_end *end)
{
  end->took = UINT64_MAX;
  while (!stop_hung_up(link)) {
    if (cli_now() - begin >= limit)
      return;
  }
  end->took = cli_now() - begin;
  stop_settle(cli);
}

static int stop_say(const struct cli *cli, const struct stop_end *end, uint64_t grace_ms)
{
  char text[32];
  if (end->took == UINT64_MAX) {
    cli_fail(cli, "still running after twice the grace period of %llu ms",
             (unsigned long long)grace_ms);
    return STOP_RUNNING;
  }
  cli_time((double)end->took, text, sizeof(text));
  if (end->status == CHI_ESHUTDOWN)
    printf("stopped after %s, without telling whether its work was done\n", text);
  else if (end->status == CHI_ECANCELLED) /* somebody else had stopped it */
    printf("stopped after %s; what was left at the end of the grace period was cancelled\n", text);
  else if (end->cancelled > 0)
    printf("stopped after %s; work was cancelled at the end of the grace period: %llu task%s\n",
           text, (unsigned long long)end->cancelled, end->cancelled == 1 ? "" : "s");
  else
    printf("stopped after %s\n", text);
  return end->status != CHI_OK || end->cancelled > 0 ? STOP_CANCELLED : CLI_OK;
}

static int stop_run(struct cli *cli)
{
  struct cli_link link;
  struct stop_end end = {0};
  uint64_t grace_ms = STOP_GRACE_MS;
  if (cli->argument_count > 1)
    return cli_usage(cli, "takes one argument: the grace period in milliseconds");
  if (cli->argument_count &&
      (units_parse_count(cli->arguments[0], &grace_ms) != CHI_OK || grace_ms > STOP_GRACE_MAX_MS))
    return cli_usage(cli, "%s: expected milliseconds from 0 to %d", cli->arguments[0],
                     STOP_GRACE_MAX_MS);
  if (cli_connect(cli, &link) != CLI_OK)
    return CLI_FAILED;
  uint64_t begin = cli_now(), limit = 2 * grace_ms * 1000000 + STOP_MARGIN_NS;
  stop_ask(&link, (uint32_t)grace_ms, limit, &end);
  int status = CLI_FAILED;
  if (end.status == CHI_OK || end.status == CHI_ESHUTDOWN || end.status == CHI_ECANCELLED ||
      end.status == CHI_ETIMEOUT) {
    stop_wait(cli, &link, begin, limit, &end);
    status = stop_say(cli, &end, grace_ms);
  } else {
    cli_fail(cli, "%s", chi_status_text(end.status));
  }
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
        "work was cancelled at the end of the grace period, or it ended without telling; 4\n"
        "still running after twice as long.\n",
    .run = stop_run,
    .options = {{CLI_INSTANCE}}};
