/* cli.c - what the commands share: options and help, messages, the connection, fetching figures. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "text.h"
#include "units.h"
#include "utf8.h"
#include "word.h"

#define CLI_FETCH_FIRST (64u * 1024)
#define CLI_FETCH_NS (10ull * 1000000000) /* limit of what asks a daemon for figures */

/* ---- messages --------------------------------------------------------------------------- */

const char *cli_plain(const char *text, char *buf, size_t size)
{
  snprintf(buf, size, "%s", text);
  utf8_make_line(buf);
  return buf;
}

static void cli_say(const struct cli *cli, const char *fmt, va_list args)
{
  char text[2048], plain[2048];
  vsnprintf(text, sizeof(text), fmt, args);
  fflush(stdout);
  fprintf(stderr, "%s: %s\n", cli->program, cli_plain(text, plain, sizeof(plain)));
}

int cli_fail(const struct cli *cli, const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  cli_say(cli, fmt, args);
  va_end(args);
  return CLI_FAILED;
}

int cli_can_write(const struct cli *cli, const char *path)
{
  bool there = access(path, F_OK) == 0;
  FILE *out = fopen(path, "ae");
  if (!out)
    return cli_fail(cli, "%s: %s", path, strerror(errno));
  fclose(out);
  if (!there)
    unlink(path);
  return CLI_OK;
}

int cli_usage(const struct cli *cli, const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  cli_say(cli, fmt, args);
  va_end(args);
  fprintf(stderr, "Try '%s --help'.\n", cli->program);
  return CLI_USAGE;
}

void cli_warn(const struct cli *cli, const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  cli_say(cli, fmt, args);
  va_end(args);
}

/* ---- options ---------------------------------------------------------------------------- */

static int cli_help(const struct cli *cli)
{
  const struct cli_command *c = cli->command;
  printf("usage: %s%s%s%s\n\n%s\n\n", cli->program, c->options[0].name ? " [OPTION...]" : "",
         *c->arguments ? " " : "", c->arguments, c->about);
  if (c->more)
    printf("%s\n", c->more);
  printf("Options:\n");
  for (const struct cli_option *o = c->options; o->name; o++) {
    int width = printf("  --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    printf("%*s%s\n", width < 28 ? 28 - width : 1, "", o->help);
  }
  printf("  --help                    this text\n\n"
         "Exit status: 0 success, 1 failure, 2 wrong usage%s\n",
         c->more && strstr(c->more, "Exit status") ? ", others as told above." : ".");
  return CLI_OK;
}

static int cli_unknown_option(const struct cli *cli, const char *name)
{
  const char *nearest = NULL;
  uint32_t least = UINT32_MAX;
  for (const struct cli_option *o = cli->command->options; o->name; o++) {
    uint32_t distance = word_distance(name, o->name);
    if (distance < least) {
      least = distance;
      nearest = o->name;
    }
  }
  if (nearest)
    return cli_usage(cli, "no option --%s; nearest is --%s", name, nearest);
  return cli_usage(cli, "no option --%s", name);
}

/* One option; *used becomes 2 if it took the next word as its value. */
static int cli_option(struct cli *cli, const char *word, const char *next, int *used)
{
  const struct cli_option *options = cli->command->options;
  size_t size = strcspn(word, "=");
  char name[64];
  snprintf(name, sizeof(name), "%.*s", (int)size, word);
  for (int i = 0; options[i].name; i++) {
    if (strcmp(options[i].name, name) != 0)
      continue;
    if (!options[i].value && word[size])
      return cli_usage(cli, "--%s takes no value", name);
    if (!options[i].value)
      cli->values[i] = "";
    else if (word[size])
      cli->values[i] = word + size + 1;
    else if (next && strncmp(next, "--", 2) != 0)
      cli->values[i] = next;
    else
      return cli_usage(cli, "--%s needs a value: %s", name, options[i].value);
    *used = options[i].value && !word[size] ? 2 : 1;
    return CLI_OK;
  }
  return cli_unknown_option(cli, name);
}

int cli_run(const struct cli_command *command, const char *program, int argc, char **argv)
{
  struct cli cli = {.command = command, .program = program, .arguments = argv};
  bool more = true;
  int used;
  for (int i = 0; i < argc; i += used) {
    int status;
    used = 1;
    if (more && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0))
      return cli_help(&cli);
    if (more && strcmp(argv[i], "--") == 0) {
      more = false;
    } else if (more && argv[i][0] == '-' && argv[i][1] == '-') {
      status = cli_option(&cli, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL, &used);
      if (status != CLI_OK)
        return status;
    } else if (more && argv[i][0] == '-' && argv[i][1]) {
      return cli_usage(&cli, "no option %s", argv[i]);
    } else {
      argv[cli.argument_count++] = argv[i];
    }
  }
  return command->run(&cli);
}

const char *cli_value(const struct cli *cli, const char *option)
{
  for (int i = 0; cli->command->options[i].name; i++) {
    if (strcmp(cli->command->options[i].name, option) == 0)
      return cli->values[i];
  }
  return NULL;
}

bool cli_number(const struct cli *cli, const char *option, uint64_t min, uint64_t max,
                uint64_t *out)
{
  const char *text = cli_value(cli, option);
  uint64_t value;
  if (!text)
    return true;
  if (units_parse_count(text, &value) != CHI_OK || value < min || value > max) {
    cli_usage(cli, "--%s %s: expected a whole number from %llu to %llu", option, text,
              (unsigned long long)min, (unsigned long long)max);
    return false;
  }
  *out = value;
  return true;
}

bool cli_size(const struct cli *cli, const char *option, uint64_t *out)
{
  const char *text = cli_value(cli, option);
  if (!text || chi_parse_size(text, out) == CHI_OK)
    return true;
  cli_usage(cli, "--%s %s: expected a size such as 4096, 64K or 1.5G", option, text);
  return false;
}

bool cli_duration(const struct cli *cli, const char *option, uint64_t unit_ns, uint64_t *out)
{
  const char *text = cli_value(cli, option);
  if (!text || chi_parse_duration(text, unit_ns, out) == CHI_OK)
    return true;
  cli_usage(cli, "--%s %s: expected a duration such as 500ms or 2s", option, text);
  return false;
}

/* ---- the connection --------------------------------------------------------------------- */

int cli_connect(const struct cli *cli, struct cli_link *link)
{
  chi_error err;
  *link = (struct cli_link){0};
  if (chi_client_open(cli_value(cli, "instance"), &link->client, &err) != CHI_OK)
    return cli_fail(cli, "%s", err.text);
  if (chi_queue_open(link->client, &link->queue, &err) == CHI_OK)
    return CLI_OK;
  chi_client_close(link->client);
  return cli_fail(cli, "%s", err.text);
}

void cli_disconnect(struct cli_link *link)
{
  chi_queue_close(link->queue);
  chi_client_close(link->client);
}

int cli_pool(const struct cli *cli, struct cli_link *link, const char *text, chi_pool_id *out)
{
  int status;
  if (units_parse_pool(text, out) == CHI_OK)
    return CLI_OK;
  status = chi_pool_find(link->queue, text, out);
  if (status == CHI_ENOENT)
    return cli_fail(cli, "no pool named \"%s\"; 'chimaera status' lists what there is", text);
  if (status != CHI_OK)
    return cli_fail(cli, "pool %s: %s", text, chi_status_text(status));
  return CLI_OK;
}

/* Runs a task that fills the bulk with text and states its whole length in *size. */
static int cli_fetch_once(struct cli_link *link, void *task, chi_bulk *bulk, uint64_t room)
{
  int status = chi_bulk_alloc(link->queue, room, bulk);
  if (status == CHI_OK)
    status = chi_submit(link->queue, task);
  if (status == CHI_OK)
    status = chi_wait(link->queue, task, CLI_FETCH_NS);
  return status;
}

/* The text of monitor or describe, whose task has these two fields at these places. Grows the
 * buffer until the text fits. */
static char *cli_fetch(struct cli_link *link, const chi_type *type, const chi_pool_id *pool,
                       size_t bulk_at, size_t size_at, chi_error *err)
{
  uint64_t room = CLI_FETCH_FIRST, size = 0;
  char *text = NULL;
  int status = CHI_ETOOBIG;
  for (int round = 0; status == CHI_ETOOBIG && round < 8; round++) {
    char *task = chi_task_new(link->queue, type);
    chi_bulk own = {0};
    if (!task) {
      chi_queue_error(link->queue, err);
      return NULL;
    }
    ((chi_task *)(void *)task)->pool = CHI_ADMIN_POOL;
    if (pool)
      ((struct chi_admin_describe *)(void *)task)->pool_id = *pool;
    status = cli_fetch_once(link, task, (chi_bulk *)(void *)(task + bulk_at), room);
    memcpy(&own, task + bulk_at, sizeof(own));
    memcpy(&size, task + size_at, sizeof(size));
    if (status == CHI_OK && size <= room && (text = malloc(size + 1)) != NULL) {
      memcpy(text, own.data, size);
      text[size] = '\0';
    }
    room = size < room ? room * 2 : size + size / 4;
    if (room > JSON_SIZE_MAX)
      room = JSON_SIZE_MAX;
    if (!chi_task_done(link->queue, task)) {
      chi_abandon(link->queue, task); /* takes the buffer along */
      continue;
    }
    if (own.ref)
      chi_bulk_free(link->queue, &own);
    chi_task_free(link->queue, task);
  }
  if (!text) {
    if (status == CHI_OK)
      status = CHI_ENOMEM;
    err->code = status;
    snprintf(err->text, sizeof(err->text), "%s: %s", type->name, chi_status_text(status));
  }
  return text;
}

char *cli_monitor(struct cli_link *link, chi_error *err)
{
  return cli_fetch(link, &chi_admin_monitor_type, NULL, offsetof(struct chi_admin_monitor, json),
                   offsetof(struct chi_admin_monitor, size), err);
}

char *cli_describe(struct cli_link *link, chi_pool_id pool, chi_error *err)
{
  return cli_fetch(link, &chi_admin_describe_type, &pool, offsetof(struct chi_admin_describe, text),
                   offsetof(struct chi_admin_describe, size), err);
}

struct json *cli_figures(struct cli_link *link, chi_error *err)
{
  char *text = cli_monitor(link, err);
  struct json *json = NULL;
  if (text)
    json_parse(text, strlen(text), &json, err);
  free(text);
  return json;
}

/* ---- figures for people ----------------------------------------------------------------- */

void cli_notify(const char *state)
{
  const char *path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = path ? strlen(path) : 0;
  int fd;
  if (size < 2 || size >= sizeof(address.sun_path) || (*path != '/' && *path != '@'))
    return;
  memcpy(address.sun_path, path, size);
  if (*path == '@')
    address.sun_path[0] = '\0';
  fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return;
  sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
  close(fd);
}

int cli_width(FILE *out)
{
  struct winsize window = {0};
  if (!isatty(fileno(out)))
    return INT_MAX;
  return ioctl(fileno(out), TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
}

uint64_t cli_now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Three significant digits and the largest unit that leaves at least 1 before it. */
static const char *cli_scaled(double n, double step, const char *const *units, int count, char *buf,
                              size_t size)
{
  int i = 0;
  for (; n >= step * 0.9995 && i + 1 < count; i++)
    n /= step;
  snprintf(buf, size,
           n < 9.995 && n != (int)n   ? "%.2f%s"
           : n < 99.95 && n != (int)n ? "%.1f%s"
                                      : "%.0f%s",
           n, units[i]);
  return buf;
}

const char *cli_bytes(double bytes, char *buf, size_t size)
{
  static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
  return cli_scaled(bytes, 1024, units, 5, buf, size);
}

const char *cli_time(double ns, char *buf, size_t size)
{
  static const char *const units[] = {" ns", " us", " ms", " s"};
  return cli_scaled(ns, 1000, units, 4, buf, size);
}

const char *cli_count(double n, char *buf, size_t size)
{
  static const char *const units[] = {"", " k", " M", " G"};
  return cli_scaled(n, 1000, units, 4, buf, size);
}

void cli_put(void *file, const char *text)
{
  fputs(text, file);
}
