/* cmd_metrics.c - the figures of a daemon, or of a cluster, over HTTP for Prometheus. */
#include "cli.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "metrics.h"
#include "watch.h"

#define METRICS_LISTEN "127.0.0.1:9655"
#define METRICS_PATH "/metrics"
#define METRICS_BACKLOG 16

/* Who asks the daemon: a thread of its own, so that a daemon which stands still in the middle of
 * something holds up neither the page nor the end of the program. */
struct collector {
  const struct cli *cli;
  bool cluster;
  uint64_t wait_ns;

  /* the thread's own */
  struct cli_link link;
  struct watch watch;
  bool connected;

  /* under the mutex */
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  bool stop, ended;
  uint64_t asked, answered; /* pages, by number */
  struct metrics_own own;
  char *page; /* number `answered` */
  size_t size;
};

/* ---- asking ----------------------------------------------------------------------------- */

static void collector_disconnect(struct collector *c)
{
  if (!c->connected)
    return;
  watch_close(&c->watch);
  cli_disconnect(&c->link);
  c->connected = false;
}

static int collector_connect(struct collector *c, chi_error *err)
{
  int rc;
  if (c->connected)
    return CHI_OK;
  c->link = (struct cli_link){0};
  rc = chi_client_open(cli_value(c->cli, "instance"), &c->link.client, err);
  if (rc != CHI_OK)
    return rc;
  rc = chi_queue_open(c->link.client, &c->link.queue, err);
  if (rc != CHI_OK) {
    chi_client_close(c->link.client);
    return rc;
  }
  watch_open(&c->watch, &c->link, c->cluster, c->wait_ns);
  c->connected = true;
  return CHI_OK;
}

/* Asks once; a daemon that has been started anew meanwhile is found again. */
static int collector_ask(struct collector *c, chi_error *err)
{
  int rc = CHI_OK;
  for (int tries = 0; tries < 2; tries++) {
    bool fresh = !c->connected;
    rc = collector_connect(c, err);
    if (rc == CHI_OK)
      rc = watch_round(&c->watch, err);
    if (rc == CHI_OK || rc == CHI_ETIMEOUT)
      return rc;
    collector_disconnect(c);
    if (fresh)
      break;
  }
  return rc;
}

/* One page, in memory of its own; NULL: there is none. */
static char *collector_print(struct collector *c, bool up, size_t *size)
{
  char *text = NULL;
  FILE *out = open_memstream(&text, size);
  if (!out)
    return NULL;
  metrics_print(out, up ? &c->watch : NULL, &c->own);
  if (fclose(out) != 0) {
    free(text);
    return NULL;
  }
  return text;
}

static int collector_collect(struct collector *c, chi_error *err)
{
  uint64_t began = cli_now();
  int rc = collector_ask(c, err);
  pthread_mutex_lock(&c->mutex);
  c->own.collections++;
  c->own.failures += rc != CHI_OK;
  c->own.took_ns = cli_now() - began;
  pthread_mutex_unlock(&c->mutex);
  return rc;
}

/* Says when the daemon is there, and when it is gone: not more often than that changes. */
static void collector_tell(const struct collector *c, bool *up, bool now, const chi_error *err)
{
  if (*up == now)
    return;
  *up = now;
  if (now)
    cli_warn(c->cli, "the daemon answers again");
  else
    cli_warn(c->cli, "no figures: %s", err->text);
}

static void *collector_run(void *arg)
{
  struct collector *c = arg;
  bool up = true;
  pthread_mutex_lock(&c->mutex);
  while (!c->stop) {
    uint64_t number = c->asked;
    size_t size = 0;
    chi_error err = {0};
    if (c->answered == number) {
      pthread_cond_wait(&c->cond, &c->mutex);
      continue;
    }
    pthread_mutex_unlock(&c->mutex);
    int rc = collector_collect(c, &err);
    collector_tell(c, &up, rc == CHI_OK, &err);
    char *page = collector_print(c, rc == CHI_OK, &size);
    pthread_mutex_lock(&c->mutex);
    free(c->page);
    c->page = page;
    c->size = size;
    c->answered = number;
    pthread_cond_broadcast(&c->cond);
  }
  collector_disconnect(c);
  c->ended = true;
  pthread_cond_broadcast(&c->cond);
  pthread_mutex_unlock(&c->mutex);
  return NULL;
}

static struct timespec collector_until(uint64_t ns)
{
  uint64_t at = cli_now() + ns;
  return (struct timespec){(time_t)(at / 1000000000), (long)(at % 1000000000)};
}

/* Has a page made. If that takes longer than it can, the daemon stands still, and isn't up. */
static char *collector_page(void *arg, size_t *size)
{
  struct collector *c = arg;
  const struct timespec until = collector_until(2 * c->wait_ns + 1000000000ull);
  char *page = NULL;
  pthread_mutex_lock(&c->mutex);
  uint64_t number = ++c->asked;
  pthread_cond_broadcast(&c->cond);
  while (c->answered < number && !c->stop &&
         pthread_cond_timedwait(&c->cond, &c->mutex, &until) == 0)
    ;
  if (c->answered >= number && c->page && (page = malloc(c->size + 1)) != NULL) {
    memcpy(page, c->page, c->size);
    *size = c->size;
  } else if (c->answered < number) {
    page = collector_print(c, false, size);
  }
  pthread_mutex_unlock(&c->mutex);
  return page;
}

/* Waits a moment for the thread; one that the daemon holds up ends with the process. */
static void collector_end(struct collector *c, pthread_t thread)
{
  const struct timespec until = collector_until(1000000000ull);
  pthread_mutex_lock(&c->mutex);
  c->stop = true;
  pthread_cond_broadcast(&c->cond);
  while (!c->ended && pthread_cond_timedwait(&c->cond, &c->mutex, &until) == 0)
    ;
  bool ended = c->ended;
  pthread_mutex_unlock(&c->mutex);
  if (!ended)
    _exit(CLI_OK);
  pthread_join(thread, NULL);
  free(c->page);
}

/* ---- serving ---------------------------------------------------------------------------- */

/* "ADDRESS:PORT", "[ADDRESS]:PORT", or "PORT" of the loopback address. */
static int metrics_split(const struct cli *cli, const char *text, char *address, char *port,
                         size_t room)
{
  const char *colon = strrchr(text, ':'), *from = text, *digits = colon ? colon + 1 : text;
  size_t size = colon ? (size_t)(colon - text) : 0;
  bool brackets = size >= 2 && *text == '[' && colon[-1] == ']';
  if (brackets) {
    from++;
    size -= 2;
  }
  bool good = size < room && strlen(digits) < 6 && *digits &&
              strspn(digits, "0123456789") == strlen(digits) && strtoul(digits, NULL, 10) < 65536 &&
              (!colon || size > 0) && (brackets || !memchr(from, ':', size));
  if (!good)
    return cli_usage(cli, "--listen %s: expected ADDRESS:PORT, such as %s or [::1]:9655", text,
                     METRICS_LISTEN);
  snprintf(address, room, "%.*s", (int)size, from);
  snprintf(port, room, "%s", digits);
  if (!colon)
    snprintf(address, room, "127.0.0.1");
  return CLI_OK;
}

static bool metrics_is_loopback(const struct sockaddr *a)
{
  if (a->sa_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
  return a->sa_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int metrics_bind(const struct addrinfo *info)
{
  int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (fd < 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (info->ai_family == AF_INET6)
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
  if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, METRICS_BACKLOG) == 0)
    return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* A listening socket, or -1 and a message. */
static int metrics_listen(const struct cli *cli, const char *address, const char *port)
{
  const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                 .ai_socktype = SOCK_STREAM,
                                 .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *info = NULL;
  int rc = getaddrinfo(address, port, &hints, &info), fd;
  if (rc != 0) {
    cli_fail(cli, "--listen %s: %s", address, gai_strerror(rc));
    return -1;
  }
  fd = metrics_bind(info);
  if (fd < 0)
    cli_fail(cli, "cannot listen on %s port %s: %s", address, port, strerror(errno));
  else if (!metrics_is_loopback(info->ai_addr))
    cli_warn(cli, "whoever reaches %s port %s can read all figures: there is no authentication",
             address, port);
  freeaddrinfo(info);
  return fd;
}

static void metrics_tell_ready(int fd)
{
  struct sockaddr_storage bound;
  socklen_t size = sizeof(bound);
  char address[INET6_ADDRSTRLEN + 16] = "?", port[8] = "?";
  if (getsockname(fd, (struct sockaddr *)&bound, &size) == 0)
    getnameinfo((struct sockaddr *)&bound, size, address, sizeof(address), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
  printf(bound.ss_family == AF_INET6 ? "chimaera metrics: ready: http://[%s]:%s%s\n"
                                     : "chimaera metrics: ready: http://%s:%s%s\n",
         address, port, METRICS_PATH);
  fflush(stdout);
  cli_notify("READY=1");
}

/* Signals are taken by this thread alone; every other one begins with them blocked. */
static int metrics_serve(struct collector *c, int fd)
{
  struct http *http = NULL;
  pthread_t thread;
  sigset_t ends;
  int number, rc;
  signal(SIGPIPE, SIG_IGN);
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, NULL);
  if (pthread_create(&thread, NULL, collector_run, c) != 0)
    return cli_fail(c->cli, "cannot start a thread: %s", strerror(errno));
  rc = http_open(fd, METRICS_PATH, METRICS_CONTENT_TYPE, collector_page, c, &http);
  if (rc == CHI_OK) {
    metrics_tell_ready(fd);
    sigwait(&ends, &number);
    cli_notify("STOPPING=1");
    http_close(http);
  }
  collector_end(c, thread);
  return rc == CHI_OK ? CLI_OK : cli_fail(c->cli, "cannot serve: %s", chi_status_text(rc));
}

/* ---- the command ------------------------------------------------------------------------- */

static void collector_open(struct collector *c)
{
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&c->cond, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&c->mutex, NULL);
}

static int metrics_once(struct collector *c)
{
  chi_error err = {0};
  int rc = collector_collect(c, &err);
  metrics_print(stdout, rc == CHI_OK ? &c->watch : NULL, &c->own);
  collector_disconnect(c);
  return rc == CHI_OK ? CLI_OK : cli_fail(c->cli, "%s", err.text);
}

static int metrics_run(struct cli *cli)
{
  struct collector c = {.cli = cli, .wait_ns = WATCH_WAIT_NS};
  const char *listen = cli_value(cli, "listen");
  char address[256], port[256];
  int fd, status;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (listen && cli_value(cli, "once"))
    return cli_usage(cli, "--once and --listen exclude each other");
  if (!cli_duration(cli, "timeout", 1000000000, &c.wait_ns))
    return CLI_USAGE;
  if (c.wait_ns < 1000000 || c.wait_ns > 60000000000ull)
    return cli_usage(cli, "--timeout: expected 1ms to 60s");
  status = metrics_split(cli, listen ? listen : METRICS_LISTEN, address, port, sizeof(address));
  if (status != CLI_OK)
    return status;
  c.cluster = cli_value(cli, "cluster");
  collector_open(&c);
  if (cli_value(cli, "once"))
    return metrics_once(&c);
  if (!http_version())
    return cli_fail(cli, "built without libmicrohttpd: only --once works");
  fd = metrics_listen(cli, address, port);
  return fd < 0 ? CLI_FAILED : metrics_serve(&c, fd);
}

const struct cli_command cmd_metrics = {
    .name = "metrics",
    .arguments = "",
    .about = "serve the figures of a daemon for Prometheus",
    .more =
        "GET /metrics gives the figures of that moment in Prometheus' text format. A daemon that\n"
        "is gone is told of as 'chimaera_up 0', and found again when it is back.\n"
        "docs/watching.md says what each metric means.\n",
    .run = metrics_run,
    .options = {{CLI_INSTANCE},
                {CLI_CLUSTER},
                {"listen", "ADDRESS:PORT", "where to serve; default 127.0.0.1:9655"},
                {"once", NULL, "print the page and end"},
                {"timeout", "TIME", "how long to wait for the daemon's answer; default 1 s"}}};
