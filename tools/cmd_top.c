/* cmd_top.c - the figures of status as rates, live. */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "view.h"
#include "view_cluster.h"
#include "watch.h"

#define TOP_ENTER "\033[?1049h\033[?25l" /* other screen, no cursor */
#define TOP_LEAVE "\033[?25h\033[?1049l"
#define TOP_HOME "\033[H"
#define TOP_REST_OF_LINE "\033[K"
#define TOP_REST_OF_SCREEN "\033[J"

static volatile sig_atomic_t top_stop, top_resized;

static void top_on_signal(int number)
{
  if (number == SIGWINCH)
    top_resized = 1;
  else
    top_stop = 1;
}

struct top {
  const struct cli *cli;
  struct cli_link link;
  struct watch watch;
  uint64_t interval_ns;
  bool live, json;
  struct termios saved;
  bool raw; /* the terminal has been changed, and `saved` is how it was */
};

static void top_terminal_enter(struct top *t)
{
  struct sigaction action = {.sa_handler = top_on_signal};
  struct termios raw;
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGHUP, &action, NULL);
  sigaction(SIGWINCH, &action, NULL);
  if (tcgetattr(STDIN_FILENO, &t->saved) == 0) {
    raw = t->saved;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    t->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  fputs(TOP_ENTER, stdout);
}

static void top_terminal_leave(struct top *t)
{
  fputs(TOP_LEAVE, stdout);
  fflush(stdout);
  if (t->raw)
    tcsetattr(STDIN_FILENO, TCSANOW, &t->saved);
}

/* Bytes of the first `columns` characters of a line. */
static int top_fitting(const char *line, size_t size, int columns)
{
  size_t n = 0;
  for (; n < size && columns > 0; columns--) {
    n++;
    while (n < size && ((unsigned char)line[n] & 0xc0) == 0x80)
      n++;
  }
  return (int)n;
}

/* Draws over what is there, as many lines as fit, and a last line that tells of the others. */
static void top_draw(const char *text, const char *note)
{
  struct winsize window = {0};
  int rows = 24, columns = 80, row, more = 0;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 1) {
    rows = window.ws_row;
    columns = window.ws_col;
  }
  fputs(TOP_HOME, stdout);
  for (row = 0; *text; row++) {
    size_t size = strcspn(text, "\n");
    if (row < rows - 1)
      printf("%.*s" TOP_REST_OF_LINE "\n", top_fitting(text, size, columns), text);
    else
      more++;
    text += size + (text[size] == '\n');
  }
  printf(TOP_REST_OF_SCREEN "q quits");
  if (more)
    printf("; %d more lines below", more);
  if (*note)
    printf("; %s", note);
  fflush(stdout);
}

/* Waits for the interval or a key. False: the user wants to leave. */
static bool top_pause(const struct top *t)
{
  uint64_t end = cli_now() + t->interval_ns, now;
  while (!top_stop && !top_resized && (now = cli_now()) < end) {
    struct pollfd key = {t->live && t->raw ? STDIN_FILENO : -1, POLLIN, 0};
    char c = 0;
    if (poll(&key, 1, (int)((end - now) / 1000000) + 1) <= 0)
      continue;
    if (read(STDIN_FILENO, &c, 1) <= 0 || c == 'q' || c == 'Q' || c == 3)
      return false;
  }
  top_resized = 0;
  return !top_stop;
}

static void top_print(const struct top *t, FILE *out, bool rates)
{
  const struct watch_node *own = watch_own(&t->watch);
  if (t->json && t->watch.cluster)
    watch_print_json(&t->watch, out);
  else if (t->json)
    fprintf(out, "%s\n", own->text);
  else if (t->watch.cluster)
    view_cluster_print(out, &t->watch, rates, cli_width(stdout));
  else
    view_print(out, own->now, rates ? own->before : NULL);
}

/* note: what is wrong, or nothing. */
static void top_show(const struct top *t, bool rates, const char *note)
{
  char *text = NULL;
  size_t size = 0;
  FILE *out;
  if (!t->live) {
    top_print(t, stdout, rates);
    fflush(stdout);
    return;
  }
  out = open_memstream(&text, &size);
  if (!out)
    return;
  top_print(t, out, rates);
  fclose(out);
  top_draw(text, note);
  free(text);
}

/* A daemon that is there and doesn't answer stays on the screen, as it was. */
static int top_round(struct top *t, bool rates, chi_error *err)
{
  const struct watch_node *own;
  char note[80], time[32];
  int rc = watch_round(&t->watch, err);
  own = watch_own(&t->watch);
  if (rc == CHI_OK) {
    if (t->live || rates)
      top_show(t, rates, "");
    return CLI_OK;
  }
  if (rc != CHI_ETIMEOUT || !t->live || !own->now)
    return CLI_FAILED;
  snprintf(note, sizeof(note), "no answer from the daemon for %s",
           cli_time((double)(own->silent_ns / 100000000) * 1e8, time, sizeof(time)));
  top_show(t, rates, note);
  return CLI_OK;
}

/* Until the user leaves, the daemon does, or `count` reports are out. */
static int top_loop(struct top *t, uint64_t count, chi_error *err)
{
  int status = top_round(t, false, err);
  while (status == CLI_OK && count-- && top_pause(t))
    status = top_round(t, true, err);
  return status;
}

static int top_run(struct cli *cli)
{
  struct top t = {.cli = cli, .interval_ns = 1000000000};
  uint64_t count = 0, wait_ns = WATCH_WAIT_NS;
  chi_error err = {0};
  int status;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (!cli_duration(cli, "interval", 1000000000, &t.interval_ns) ||
      !cli_number(cli, "count", 1, UINT32_MAX, &count))
    return CLI_USAGE;
  if (t.interval_ns < 1000000 || t.interval_ns > 3600ull * 1000000000)
    return cli_usage(cli, "--interval: expected 1ms to 3600s");
  if (cli_connect(cli, &t.link) != CLI_OK)
    return CLI_FAILED;
  t.json = cli_value(cli, "json");
  t.live = isatty(STDOUT_FILENO) && !cli_value(cli, "plain") && !t.json;
  watch_open(&t.watch, &t.link, cli_value(cli, "cluster"), t.live ? wait_ns : 10 * wait_ns);
  if (!count)
    count = t.live ? UINT64_MAX : 1;
  if (t.live)
    top_terminal_enter(&t);
  status = top_loop(&t, count, &err);
  if (t.live)
    top_terminal_leave(&t);
  if (status != CLI_OK)
    cli_fail(cli, "%s", err.text);
  watch_close(&t.watch);
  cli_disconnect(&t.link);
  return status;
}

const struct cli_command cmd_top = {
    .name = "top",
    .arguments = "",
    .about = "show what a daemon is doing as rates, live",
    .more = "On a terminal it is redrawn each interval until q or Ctrl-C. Elsewhere it prints one\n"
            "report of one interval. With --cluster there is a row for each node; one that does\n"
            "not answer within a second is shown as silent, and holds up nothing else.\n",
    .run = top_run,
    .options = {{CLI_INSTANCE},
                {CLI_CLUSTER},
                {"interval", "SECONDS", "between reports; default 1"},
                {"count", "N", "end after so many reports"},
                {"plain", NULL, "as if the output were no terminal"},
                {"json", NULL, "print JSON, one line each interval"}}};
