/* cmd_start.c - the daemon: starts a node, says when it serves, stops it when asked to. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "real_record.h"
#include "settings.h"

#define START_STUCK 75 /* exit status: a method did not come back within twice the grace period */
#define START_GRACE_MS 5000

/* What the signal handler reaches: there is one node in this process. */
static chi_node *start_node;
static volatile sig_atomic_t start_signal;

static void start_on_signal(int number)
{
  if (start_signal)
    _exit(128 + number);
  start_signal = number;
  if (start_node)
    chi_node_stop(start_node);
}

static void start_catch_signals(void)
{
  struct sigaction action = {.sa_handler = start_on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, NULL);
}

/* Each client takes descriptors; how many there may be is for the hard limit to say. */
static void start_raise_limit(void)
{
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max)
    return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

static int start_write_pid(const struct cli *cli, const char *path)
{
  FILE *file = fopen(path, "we");
  if (!file)
    return cli_fail(cli, "%s: %s", path, strerror(errno));
  fprintf(file, "%ld\n", (long)getpid());
  if (fclose(file) != 0)
    return cli_fail(cli, "%s: %s", path, strerror(errno));
  return CLI_OK;
}

/* The ready line, with figures that the node itself answers: so it does serve. */
static int start_describe(const struct cli *cli, const char *instance, char *line, size_t size)
{
  struct cli_link link = {0};
  chi_error err;
  struct json *json = NULL;
  uint32_t fast = 0, slow = 0, pools;
  if (chi_client_open(instance, &link.client, &err) == CHI_OK) {
    if (chi_queue_open(link.client, &link.queue, &err) == CHI_OK)
      json = cli_figures(&link, &err);
    cli_disconnect(&link);
  }
  if (!json && start_signal)
    return cli_fail(cli, "asked to stop before it served");
  if (!json)
    return cli_fail(cli, "the node does not answer: %s", err.text);
  for (const struct json *w = json_list(json, "workers"); w; w = w->next) {
    fast += strcmp(json_string(w, "kind", ""), "fast") == 0;
    slow += strcmp(json_string(w, "kind", ""), "slow") == 0;
  }
  pools = json_count(json, "pools");
  snprintf(line, size, "chimaera: ready: instance %s, %u fast + %u slow workers, %u pool%s\n",
           instance, fast, slow, pools, pools == 1 ? "" : "s");
  json_free(json);
  return CLI_OK;
}

/* In the background, standard streams lead nowhere from now on. */
static void start_leave_terminal(void)
{
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0)
    return;
  for (int fd = 0; fd <= 2; fd++)
    dup2(null, fd);
  close(null);
}

/* Says that the node serves: to systemd, to the waiting parent or on standard output. */
static int start_ready(const struct cli *cli, int parent)
{
  char line[CHI_NAME_MAX + 200];
  ssize_t written;
  if (start_describe(cli, chi_node_instance(start_node), line, sizeof(line)) != CLI_OK)
    return CLI_FAILED;
  cli_notify("READY=1");
  if (parent < 0) {
    fputs(line, stdout);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail(cli, "standard output: %s", strerror(errno));
  }
  written = write(parent, line, strlen(line));
  close(parent);
  start_leave_terminal();
  return written > 0 ? CLI_OK : CLI_FAILED;
}

static int start_close(const struct cli *cli, uint32_t grace_ms)
{
  cli_notify("STOPPING=1");
  if (chi_node_close(start_node, grace_ms) == CHI_OK) {
    start_node = NULL;
    return CLI_OK;
  }
  cli_fail(cli, "a method did not come back within twice the grace period of %u ms; giving up",
           grace_ms);
  return START_STUCK;
}

static void start_tell_record(const struct cli *cli, const char *path)
{
  uint64_t items, hash;
  if (real_record_tail(path, &items, &hash))
    printf("chimaera: recorded %llu items to %s, state hash %016llx\n", (unsigned long long)items,
           path, (unsigned long long)hash);
  else
    cli_warn(cli, "the record in %s is not complete", path);
}

/* From here to the end of the node. parent: descriptor that waits for the ready line, or -1. */
static int start_serve(const struct cli *cli, const chi_config *config, uint32_t grace_ms,
                       int parent)
{
  const char *pid_file = cli_value(cli, "pid-file");
  chi_error err;
  int status, closed;
  start_raise_limit();
  start_catch_signals();
  if (chi_node_open(config, NULL, 0, &start_node, &err) != CHI_OK)
    return cli_fail(cli, "%s", err.text);
  chi_node_guard(start_node);
  if (start_signal || chi_node_wait(start_node, 0) == CHI_OK)
    status = cli_fail(cli, "asked to stop before it served");
  else
    status = pid_file ? start_write_pid(cli, pid_file) : CLI_OK;
  if (status == CLI_OK)
    status = start_ready(cli, parent);
  if (status == CLI_OK)
    chi_node_wait(start_node, UINT64_MAX);
  closed = start_close(cli, grace_ms);
  if (config->record_file[0] && closed == CLI_OK)
    start_tell_record(cli, config->record_file);
  if (pid_file)
    unlink(pid_file);
  if (closed == START_STUCK)
    _exit(START_STUCK);
  return status;
}

/* Returns in the child the descriptor for the ready line; never returns in the parent, which ends
 * when the child is ready or has failed, with the child's status. */
static int start_detach(const struct cli *cli)
{
  char line[CHI_NAME_MAX + 200];
  int ends[2], status = 0;
  ssize_t size;
  pid_t child;
  if (pipe2(ends, O_CLOEXEC) != 0 || (child = fork()) < 0)
    exit(cli_fail(cli, "cannot detach: %s", strerror(errno)));
  if (child == 0) {
    close(ends[0]);
    setsid();
    return ends[1];
  }
  close(ends[1]);
  do
    size = read(ends[0], line, sizeof(line));
  while (size < 0 && errno == EINTR);
  if (size > 0) {
    printf("%.*s", (int)size, line);
    exit(fflush(stdout) == 0 ? CLI_OK : CLI_FAILED);
  }
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : CLI_FAILED);
}

static int start_log_level(const struct cli *cli, chi_config *config)
{
  static const char *const names[] = {"debug", "info", "warning", "error"};
  const char *text = cli_value(cli, "log-level");
  for (int i = 0; text && i < 4; i++) {
    if (strcmp(names[i], text) == 0) {
      config->log_level = i;
      return CLI_OK;
    }
  }
  return text ? cli_usage(cli, "--log-level %s: expected debug, info, warning or error", text)
              : CLI_OK;
}

static int start_run(struct cli *cli)
{
  const char *instance = cli_value(cli, "instance"), *record = cli_value(cli, "record");
  uint64_t grace_ms = START_GRACE_MS, node = UINT32_MAX;
  chi_config config;
  int status;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (record && (!*record || strlen(record) >= CHI_PATH_MAX))
    return cli_usage(cli, "--record needs a path of 1 to %d characters", CHI_PATH_MAX - 1);
  if (!cli_number(cli, "grace", 0, 86400000, &grace_ms) ||
      !cli_number(cli, "node", 0, CONFIG_HOSTS_MAX - 1, &node))
    return CLI_USAGE;
  status = settings_load(cli, cli_value(cli, "config"), &config);
  if (status == CLI_OK)
    status = start_log_level(cli, &config);
  if (status == CLI_OK && cli_value(cli, "log-file"))
    snprintf(config.log_file, sizeof(config.log_file), "%s", cli_value(cli, "log-file"));
  if (status == CLI_OK && node != UINT32_MAX)
    config.node = (uint32_t)node;
  if (status == CLI_OK && cli_value(cli, "single"))
    config.single_thread = 1;
  if (status == CLI_OK && record)
    snprintf(config.record_file, sizeof(config.record_file), "%s", record);
  if (status == CLI_OK && instance)
    status = settings_instance(cli, instance, &config);
  if (status == CLI_OK)
    status = start_serve(cli, &config, (uint32_t)grace_ms,
                         cli_value(cli, "detach") ? start_detach(cli) : -1);
  chi_config_free(&config);
  return status;
}

const struct cli_command cmd_start = {
    .name = "start",
    .arguments = "",
    .about = "start a node and serve until it is stopped",
    .more =
        "Prints one line when the node serves. SIGINT and SIGTERM stop it: it finishes what it\n"
        "has accepted for the grace period, cancels the rest and waits as long again. A second\n"
        "signal ends it at once. The soft limit of open files is raised to the hard one.\n\n"
        "Exit status: 70 if a method overran its stack; 75 if one did not come back in all that\n"
        "time; 128 + the signal's number after a second signal.\n",
    .run = start_run,
    .options = {{"config", "FILE", "configuration; default: $CHI_SERVER_CONF, ..."},
                {"detach", NULL, "go to the background; return when it serves"},
                {"pid-file", "FILE", "write the process id there while it runs"},
                {"log-level", "LEVEL", "debug, info, warning or error"},
                {"log-file", "FILE", "where the log goes; empty: standard error"},
                {"grace", "MS", "grace period after a signal; default 5000"},
                {"single", NULL, "one thread does the work of all workers"},
                {"record", "FILE", "write all the node hears and does; implies --single"},
                {"node", "N", "own position in the hostfile; default: $CHI_NODE, or found out"},
                {"instance", "NAME:PORT", "instead of the name and port of the configuration"}}};
