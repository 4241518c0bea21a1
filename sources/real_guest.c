/* real_guest.c - who is connected to our own door. */
#include "real_guest.h"

#ifndef CHI_OMIT_REAL

#include "real_zmq.h"

#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <zmq.h>

#define REAL_GUEST_NOBODY UINT32_MAX
#define REAL_GUEST_TICK_S 0.05  /* strangers are looked at so often */
#define REAL_GUEST_ADDRESS 64u  /* bytes of an address with its NUL */
#define REAL_GUEST_FILES_PART 4 /* of the descriptors there may be, guests take one in so many */

/* A connection; known by its descriptor, which is ZeroMQ's. */
struct real_guest {
  bool here;
  bool dismissed;
  uint32_t node; /* REAL_GUEST_NOBODY: a stranger */
  int before, next; /* strangers, oldest first; -1: none */
  uint64_t since;
  char address[REAL_GUEST_ADDRESS];
};

struct real_guest_book {
  struct ev_loop *ev;
  struct env *env;
  const struct log *log;
  void *door, *news;
  ev_io news_io;
  ev_timer tick;
  bool look; /* it is time to */
  bool encrypted;
  uint32_t port;
  uint32_t count, limit;   /* connections, and when room is made */
  struct real_guest *at;   /* by descriptor */
  int room;
  int oldest, newest; /* of the strangers */
  int failure, failure_value; /* what is wrong with the one whose end is told next */
  struct log_limit crowded, dismissed, failed;
};

static uint64_t real_guest_now(const struct real_guest_book *g)
{
  return g->env->clock(g->env);
}

static struct real_guest *real_guest_at(const struct real_guest_book *g, int fd)
{
  return fd >= 0 && fd < g->room && g->at[fd].here ? &g->at[fd] : NULL;
}

/* ---- strangers ------------------------------------------------------------------------------- */

static void real_guest_enlist(struct real_guest_book *g, int fd)
{
  struct real_guest *k = &g->at[fd];
  k->before = g->newest;
  k->next = -1;
  *(g->newest >= 0 ? &g->at[g->newest].next : &g->oldest) = fd;
  g->newest = fd;
  if (ev_is_active(&g->tick))
    return;
  ev_now_update(g->ev);
  ev_timer_again(g->ev, &g->tick);
}

static void real_guest_delist(struct real_guest_book *g, int fd)
{
  const struct real_guest *k = &g->at[fd];
  *(k->before >= 0 ? &g->at[k->before].next : &g->oldest) = k->next;
  *(k->next >= 0 ? &g->at[k->next].before : &g->newest) = k->before;
  if (g->oldest < 0)
    ev_timer_stop(g->ev, &g->tick);
}

static bool real_guest_listed(const struct real_guest *k)
{
  return k->node == REAL_GUEST_NOBODY && !k->dismissed;
}

/* Hangs up, so that what was not read yet is thrown away and the system keeps nothing of it. The
 * descriptor may be another's by now: then one that is not of our port is left alone, and one that
 * is connects again. */
static void real_guest_shut(const struct real_guest_book *g, int fd)
{
  struct sockaddr_storage own;
  socklen_t size = sizeof own;
  const struct linger none = {1, 0};
  char port[16];
  if (getsockname(fd, (struct sockaddr *)&own, &size) == 0 &&
      getnameinfo((struct sockaddr *)&own, size, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0 &&
      strtoul(port, NULL, 10) == g->port) {
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    shutdown(fd, SHUT_RDWR);
  }
}

void real_guest_dismiss(struct real_guest_book *g, int fd)
{
  struct real_guest *k = real_guest_at(g, fd);
  if (!k || k->dismissed)
    return;
  if (real_guest_listed(k))
    real_guest_delist(g, fd);
  k->dismissed = true;
  real_guest_shut(g, fd);
}

void real_guest_dismiss_node(struct real_guest_book *g, uint32_t node)
{
  for (int fd = 0; fd < g->room; fd++)
    if (g->at[fd].here && g->at[fd].node == node)
      real_guest_dismiss(g, fd);
}

bool real_guest_is_node(const struct real_guest_book *g, int fd)
{
  const struct real_guest *k = real_guest_at(g, fd);
  return k && k->node != REAL_GUEST_NOBODY;
}

/* A node has one connection, and perhaps a former one whose end was not seen yet. Who has many only
 * says that he is a node, or is one of another cluster. */
static void real_guest_thin(struct real_guest_book *g, uint32_t node)
{
  uint32_t count = 0;
  int oldest = -1;
  for (int fd = 0; fd < g->room; fd++) {
    const struct real_guest *k = &g->at[fd];
    if (!k->here || k->dismissed || k->node != node)
      continue;
    count++;
    if (oldest < 0 || k->since < g->at[oldest].since)
      oldest = fd;
  }
  if (count > REAL_GUEST_EACH)
    real_guest_dismiss(g, oldest);
}

void real_guest_introduce(struct real_guest_book *g, int fd, uint32_t node)
{
  struct real_guest *k = real_guest_at(g, fd);
  if (!k || !real_guest_listed(k))
    return;
  real_guest_delist(g, fd);
  k->node = node;
  real_guest_thin(g, node);
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void real_guest_name(int fd, char *address)
{
  struct sockaddr_storage other;
  socklen_t size = sizeof other;
  char host[REAL_GUEST_ADDRESS - 8], port[8];
  snprintf(address, REAL_GUEST_ADDRESS, "somewhere");
  if (getpeername(fd, (struct sockaddr *)&other, &size) == 0 &&
      getnameinfo((struct sockaddr *)&other, size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) == 0)
    snprintf(address, REAL_GUEST_ADDRESS, "%s:%s", host, port);
}

static bool real_guest_grow(struct real_guest_book *g, int fd)
{
  int room = g->room > 0 ? g->room : 64;
  struct real_guest *more;
  while (room <= fd)
    room *= 2;
  if (room == g->room)
    return true;
  more = realloc(g->at, (size_t)room * sizeof *more);
  if (!more)
    return false;
  memset(more + g->room, 0, (size_t)(room - g->room) * sizeof *more);
  g->at = more;
  g->room = room;
  return true;
}

static void real_guest_on_leave(struct real_guest_book *g, int fd)
{
  struct real_guest *k = real_guest_at(g, fd);
  const char *why = real_zmq_failure(g->failure, g->failure_value, g->encrypted);
  /* An unauthorised key was told of by who has refused it. */
  if (k && why && g->failure != ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
    log_limited(g->log, &g->failed, real_guest_now(g), CHI_LOG_WARNING,
                "refused a connection from %s: %s", k->address, why);
  g->failure = 0;
  if (!k)
    return;
  if (real_guest_listed(k))
    real_guest_delist(g, fd);
  k->here = false;
  g->count--;
}

/* Room is made by the oldest stranger, which may be the new one. */
static void real_guest_on_come(struct real_guest_book *g, int fd)
{
  if (fd < 0 || !real_guest_grow(g, fd)) {
    real_guest_shut(g, fd);
    return;
  }
  if (g->at[fd].here) /* its end was not told */
    real_guest_on_leave(g, fd);
  g->at[fd] = (struct real_guest){.here = true, .node = REAL_GUEST_NOBODY,
                                  .since = real_guest_now(g)};
  real_guest_name(fd, g->at[fd].address);
  real_guest_enlist(g, fd);
  if (++g->count <= g->limit)
    return;
  log_limited(g->log, &g->crowded, real_guest_now(g), CHI_LOG_WARNING,
              "hung up on %s: %u connections are too many", g->at[g->oldest].address, g->count);
  real_guest_dismiss(g, g->oldest);
}

void real_guest_hear(struct real_guest_book *g)
{
  int value = -1, event = 1;
  for (uint32_t i = 0; i < REAL_ZMQ_NEWS && (event = real_zmq_event(g->news, &value)); i++) {
    if (event == ZMQ_EVENT_ACCEPTED) {
      real_guest_on_come(g, value);
    } else if (event == ZMQ_EVENT_DISCONNECTED) {
      real_guest_on_leave(g, value);
    } else { /* the same thread tells of the end next */
      g->failure = event;
      g->failure_value = value;
    }
  }
  if (event)
    real_zmq_again(g->ev, &g->news_io);
}

static void real_guest_on_news(struct ev_loop *ev, ev_io *io, int events)
{
  (void)ev;
  (void)events;
  real_guest_hear(io->data);
}

/* ---- those who stay too long ----------------------------------------------------------------- */

static void real_guest_on_tick(struct ev_loop *ev, ev_timer *timer, int events)
{
  (void)ev;
  (void)events;
  ((struct real_guest_book *)timer->data)->look = true;
}

static uint64_t real_guest_received(int fd)
{
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
      size < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received)
    return 0;
  return info.tcpi_bytes_received;
}

void real_guest_look(struct real_guest_book *g)
{
  uint64_t now = real_guest_now(g);
  int next;
  if (!g->look)
    return;
  g->look = false;
  real_guest_hear(g);
  for (int fd = g->oldest; fd >= 0; fd = next) {
    const struct real_guest *k = &g->at[fd];
    bool much = real_guest_received(fd) > REAL_GUEST_BYTES;
    next = k->next;
    if (!much && now - k->since < REAL_GUEST_STAY_NS)
      continue;
    log_limited(g->log, &g->dismissed, now, CHI_LOG_WARNING,
                "hung up on %s: it %s without a message of a node", k->address,
                much ? "sends much" : "stays");
    real_guest_dismiss(g, fd);
  }
}

/* ---- open and close -------------------------------------------------------------------------- */

/* So many that clients and files find descriptors, too, where there are few. */
static uint32_t real_guest_limit(uint32_t nodes)
{
  struct rlimit files;
  uint32_t limit = 2 * nodes + REAL_GUEST_STRANGERS, least = 2 * nodes + 8;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / REAL_GUEST_FILES_PART < limit)
    limit = (uint32_t)(files.rlim_cur / REAL_GUEST_FILES_PART);
  return limit > least ? limit : least;
}

int real_guest_open(struct real_guest_book **out, void *context, void *door, struct ev_loop *ev,
                    struct env *env, const struct log *log, uint32_t nodes, uint32_t port,
                    bool encrypted)
{
  struct real_guest_book *g = calloc(1, sizeof *g);
  *out = g;
  if (!g)
    return CHI_ENOMEM;
  *g = (struct real_guest_book){.ev = ev, .env = env, .log = log, .door = door, .port = port,
                            .encrypted = encrypted, .limit = real_guest_limit(nodes), .oldest = -1,
                            .newest = -1};
  ev_timer_init(&g->tick, real_guest_on_tick, 0., REAL_GUEST_TICK_S);
  g->tick.data = g;
  /* Not of ZMQ_EVENT_ACCEPT_FAILED: while descriptors are short, there is no end of these. */
  g->news = real_zmq_monitor(context, door, "inproc://door",
                             ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
  if (!g->news) {
    real_guest_close(g);
    *out = NULL;
    return CHI_ENOMEM;
  }
  real_zmq_watch(ev, &g->news_io, g->news, g, real_guest_on_news);
  real_guest_hear(g); /* from now on its descriptor tells */
  return CHI_OK;
}

void real_guest_close(struct real_guest_book *g)
{
  if (!g)
    return;
  ev_timer_stop(g->ev, &g->tick);
  if (g->news)
    ev_io_stop(g->ev, &g->news_io);
  zmq_socket_monitor(g->door, NULL, 0);
  real_zmq_drop(&g->news);
  free(g->at);
  free(g);
}

#undef REAL_GUEST_NOBODY
#undef REAL_GUEST_TICK_S
#undef REAL_GUEST_ADDRESS
#undef REAL_GUEST_FILES_PART

#endif
