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
  uint64_t interval_ns;
  bool live;
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

/* Draws over what is there, as many lines as fit. */
static void top_draw(const char *text)
{
  struct winsize window = {0};
  int rows = 24, columns = 80, row;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 1) {
    rows = window.ws_row;
    columns = window.ws_col;
  }
  fputs(TOP_HOME, stdout);
  for (row = 0; row < rows - 1 && *text; row++) {
    size_t size = strcspn(text, "\n");
    printf("%.*s" TOP_REST_OF_LINE "\n", (int)size < columns ? (int)size : columns, text);
    text += size + (text[size] == '\n');
  }
  printf(TOP_REST_OF_SCREEN "q quits");
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

static bool top_show(const struct top *t, const struct json *now, const struct json *before)
{
  char *text = NULL;
  size_t size = 0;
  FILE *out = t->live ? open_memstream(&text, &size) : stdout;
  if (!out)
    return false;
  view_print(out, now, before);
  if (t->live) {
    fclose(out);
    top_draw(text);
    free(text);
  }
  return true;
}

/* Until the user leaves, the daemon does, or `count` reports are out. */
static int top_loop(struct top *t, uint64_t count, chi_error *err)
{
  struct json *before = cli_figures(&t->link, err), *now;
  if (before && t->live)
    top_show(t, before, NULL);
  while (before && count-- && top_pause(t)) {
    now = cli_figures(&t->link, err);
    if (now)
      top_show(t, now, before);
    json_free(before);
    before = now;
  }
  if (!before)
    return CLI_FAILED;
  json_free(before);
  return CLI_OK;
}

static int top_run(struct cli *cli)
{
  struct top t = {.cli = cli, .interval_ns = 1000000000};
  uint64_t count = 0;
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
  t.live = isatty(STDOUT_FILENO) && !cli_value(cli, "plain");
  if (!count)
    count = t.live ? UINT64_MAX : 1;
  if (t.live)
    top_terminal_enter(&t);
  status = top_loop(&t, count, &err);
  if (t.live)
    top_terminal_leave(&t);
  if (status != CLI_OK)
    cli_fail(cli, "%s", err.text);
  cli_disconnect(&t.link);
  return status;
}

const struct cli_command cmd_top = {
    .name = "top",
    .arguments = "",
    .about = "show what a daemon is doing as rates, live",
    .more = "On a terminal it is redrawn each interval until q or Ctrl-C. Elsewhere it prints one\n"
            "report of one interval.\n",
    .run = top_run,
    .options = {{CLI_INSTANCE},
                {"interval", "SECONDS", "between reports; default 1"},
                {"count", "N", "end after so many reports"},
                {"plain", NULL, "as if the output were no terminal"}}};
