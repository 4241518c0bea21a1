/* cli.h - what the commands share: options and help, messages, the connection, fetching figures. */
#ifndef CHI_TOOL_CLI_H
#define CHI_TOOL_CLI_H

#include "base.h"

#include <stdio.h>

#include "json.h"

/* Exit statuses of every command; further ones are in the help of the command. */
enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli_option {
  const char *name;  /* without the dashes */
  const char *value; /* what its value is called; NULL: it takes none */
  const char *help;
};

#define CLI_OPTIONS_MAX 24
/* Rows of the table that several commands have: {CLI_INSTANCE}, {CLI_CLUSTER}, {CLI_JSON}. */
#define CLI_INSTANCE "instance", "NAME:PORT", "the daemon; default: the one of the configuration"
#define CLI_CLUSTER "cluster", NULL, "all nodes of the daemon's cluster"
#define CLI_JSON "json", NULL, "print JSON"

struct cli;
struct cli_command {
  const char *name;
  const char *arguments; /* as shown in the usage line */
  const char *about;     /* one line */
  const char *more;      /* further paragraphs of the help; NULL: none */
  int (*run)(struct cli *cli);
  struct cli_option options[CLI_OPTIONS_MAX]; /* ended by a row without name */
};

/* One invocation of a command. */
struct cli {
  const struct cli_command *command;
  const char *values[CLI_OPTIONS_MAX]; /* of the options; NULL: not given */
  char **arguments;                    /* what is left of the command line */
  int argument_count;
  const char *program;
};

/* The name by which this program was started, for running itself. */
#define CLI_SELF "/proc/self/exe"

/* Reads the command line (without program and command), runs the command, returns its status. */
int cli_run(const struct cli_command *command, const char *program, int argc, char **argv);
/* The value of an option, "" for one without; NULL: not given. */
const char *cli_value(const struct cli *cli, const char *option);
/* Readers of an option's value: false, and a message, if it is malformed. *out is left as it is if
 * the option was not given. */
bool cli_number(const struct cli *cli, const char *option, uint64_t min, uint64_t max,
                uint64_t *out);
bool cli_size(const struct cli *cli, const char *option, uint64_t *out);
bool cli_duration(const struct cli *cli, const char *option, uint64_t unit_ns, uint64_t *out);

/* "chimaera call: TEXT" on standard error. The first returns CLI_FAILED, the second adds a hint at
 * --help and returns CLI_USAGE, the third is for what does no harm. Control characters in the text
 * are shown as "?". */
int cli_fail(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Before long work: whether its result can be written there; else says why. What is there stays. */
int cli_can_write(const struct cli *cli, const char *path);
int cli_usage(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_warn(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The connection of a command that needs one client and one queue. */
struct cli_link {
  chi_client *client;
  chi_queue *queue;
};
/* Attaches to the instance of --instance. On failure a message has been given. */
int cli_connect(const struct cli *cli, struct cli_link *link);
void cli_disconnect(struct cli_link *link);
/* A pool by "300.0" or by name. On failure a message has been given. */
int cli_pool(const struct cli *cli, struct cli_link *link, const char *text, chi_pool_id *out);
/* The text that admin.monitor, or admin.describe of a pool, gives; to be freed. NULL: *err tells.
 */
char *cli_monitor(struct cli_link *link, chi_error *err);
char *cli_describe(struct cli_link *link, chi_pool_id pool, chi_error *err);
/* The figures as JSON: cli_monitor, parsed. */
struct json *cli_figures(struct cli_link *link, chi_error *err);

/* The readiness protocol of systemd: a datagram to the socket named in the environment, if any. */
void cli_notify(const char *state);
/* Columns of a terminal; INT_MAX: it is none. */
int cli_width(FILE *out);
/* Nanoseconds of the monotonic clock. */
uint64_t cli_now(void);
/* A copy of text in which control characters are "?", for a terminal. Returns buf. */
const char *cli_plain(const char *text, char *buf, size_t size);
/* Texts for people, written to buf: "1.5 GiB", "12.3 us". Return buf. */
const char *cli_bytes(double bytes, char *buf, size_t size);
const char *cli_time(double ns, char *buf, size_t size);
const char *cli_count(double n, char *buf, size_t size);
/* A chi_put_fn that writes to a FILE. */
void cli_put(void *file, const char *text);

/* Every command. */
extern const struct cli_command cmd_start, cmd_stop, cmd_status, cmd_top, cmd_compose, cmd_call,
    cmd_put, cmd_get, cmd_sim, cmd_bench, cmd_calibrate, cmd_config, cmd_keygen, cmd_metrics,
    cmd_version;

#endif
