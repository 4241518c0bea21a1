/* real_relay.c - what can go wrong with a network, for nodes on this host. */
#include "real_relay.h"

#ifndef CHI_OMIT_REAL

#include "error.h"
#include "real_env.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REAL_RELAY_CHUNK 65536u      /* read at a time */
#define REAL_RELAY_HOLDS (1u << 20)  /* bytes of one flow that wait here; the rest waits in TCP */
#define REAL_RELAY_LINKS 512u        /* connections at a time; others wait to be accepted */
#define REAL_RELAY_BACKLOG 64
#define REAL_RELAY_REST_NS 10000000u /* until accepting is tried again after it failed */
#define REAL_RELAY_POLLS (1 + REAL_RELAY_NODES * REAL_RELAY_NODES + 2 * REAL_RELAY_LINKS)
#define REAL_RELAY_TRIP_NS 50000u /* what a slow network takes a multiple of: a message, */
#define REAL_RELAY_BYTE_NS 1u     /* and a byte */

/* Bytes that are to go on at a time. */
struct real_relay_chunk {
  struct real_relay_chunk *next;
  uint64_t due;
  size_t size, sent;
  uint8_t data[];
};

/* One direction of a connection. */
struct real_relay_flow {
  struct real_relay_chunk *first, **last;
  size_t held;
  uint64_t free_at; /* when the last chunk is over the line, where it is slow */
  bool ended;       /* who sends has hung up */
};

/* A connection: end[0] has connected to us, and we to end[1]. */
struct real_relay_link {
  struct real_relay_link *next;
  int end[2];
  uint32_t node[2];
  struct real_relay_flow flow[2]; /* from that end */
  bool connecting;
  bool half; /* end[1] is gone, and end[0] does not hear of it */
  bool dead;
  struct pollfd *poll[2]; /* of this turn */
};

/* What is wrong with the way from a node to another. */
struct real_relay_way {
  int listener;
  bool cut;
  uint64_t clog_ns;
  uint64_t slow; /* hundredths; 0: as it is */
};

struct real_relay {
  pthread_t thread;
  pthread_mutex_t lock; /* held by the thread but while it waits; guards all that follows */
  int bell;
  uint32_t count, port;
  struct in_addr node[REAL_RELAY_NODES];
  struct real_relay_way way[REAL_RELAY_NODES][REAL_RELAY_NODES];
  uint64_t isolated, split; /* nodes, as bits; split: those of one side, 0: all are on one */
  struct real_relay_link *links;
  uint32_t link_count;
  uint64_t rest; /* until then nothing is accepted: descriptors or memory are short */
  bool quit;
  struct pollfd poll[REAL_RELAY_POLLS];
  uint8_t room[REAL_RELAY_CHUNK];
};

/* ---- what is wrong --------------------------------------------------------------------------- */

static bool real_relay_blocks(const struct real_relay *r, uint32_t from, uint32_t to)
{
  uint64_t both = UINT64_C(1) << from | UINT64_C(1) << to;
  uint64_t here = r->split & both;
  return r->way[from][to].cut || (r->isolated & both) || (here && here != both);
}

/* When what has just come may go on. */
static uint64_t real_relay_due(struct real_relay *r, uint32_t from, uint32_t to,
                               struct real_relay_flow *flow, size_t size)
{
  const struct real_relay_way *way = &r->way[from][to];
  uint64_t now = real_env_now(), begins = now > flow->free_at ? now : flow->free_at;
  if (way->slow <= 100)
    return now + way->clog_ns;
  uint64_t more = way->slow - 100;
  flow->free_at = begins + size * REAL_RELAY_BYTE_NS * more / 100;
  return flow->free_at + REAL_RELAY_TRIP_NS * more / 100 + way->clog_ns;
}

/* ---- connections ----------------------------------------------------------------------------- */

static void real_relay_hang_up(struct real_relay_link *l, int end)
{
  if (l->end[end] >= 0)
    close(l->end[end]);
  l->end[end] = -1;
}

static void real_relay_forget(struct real_relay_flow *flow)
{
  while (flow->first) {
    struct real_relay_chunk *chunk = flow->first;
    flow->first = chunk->next;
    free(chunk);
  }
  flow->last = &flow->first;
  flow->held = 0;
}

static void real_relay_drop(struct real_relay_link *l)
{
  for (int i = 0; i < 2; i++) {
    real_relay_hang_up(l, i);
    real_relay_forget(&l->flow[i]);
  }
  l->dead = true;
}

/* Its end[0] goes on for itself, as if the other's machine had vanished. */
static void real_relay_halve(struct real_relay_link *l)
{
  real_relay_hang_up(l, 1);
  real_relay_forget(&l->flow[0]);
  real_relay_forget(&l->flow[1]);
  l->half = true;
}

static void real_relay_bury(struct real_relay *r)
{
  for (struct real_relay_link **at = &r->links; *at;) {
    struct real_relay_link *l = *at;
    if (!l->dead) {
      at = &l->next;
      continue;
    }
    *at = l->next;
    free(l);
    r->link_count--;
  }
}

static void real_relay_prepare(int fd)
{
  const int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

/* What connects to the node in the name of another; -1: nothing can. */
static int real_relay_connect(const struct real_relay *r, uint32_t to)
{
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)r->port), .sin_addr = r->node[to]};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  real_relay_prepare(fd);
  if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 || errno == EINPROGRESS)
    return fd;
  close(fd);
  return -1;
}

static void real_relay_accept(struct real_relay *r, uint32_t from, uint32_t to)
{
  int fd = accept4(r->way[from][to].listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  struct real_relay_link *l = fd >= 0 ? calloc(1, sizeof(*l)) : NULL;
  int other = l ? real_relay_connect(r, to) : -1;
  if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
    r->rest = real_env_now() + REAL_RELAY_REST_NS;
  if (other < 0) {
    free(l);
    if (fd >= 0)
      close(fd);
    return;
  }
  real_relay_prepare(fd);
  *l = (struct real_relay_link){.next = r->links,
                                .end = {fd, other},
                                .node = {from, to},
                                .connecting = true};
  l->flow[0].last = &l->flow[0].first;
  l->flow[1].last = &l->flow[1].first;
  r->links = l;
  r->link_count++;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void real_relay_read(struct real_relay *r, struct real_relay_link *l, int from)
{
  struct real_relay_flow *flow = &l->flow[from];
  ssize_t got = recv(l->end[from], r->room, sizeof(r->room), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (got <= 0) {
    flow->ended = true;
    return;
  }
  if (l->half) /* swallowed */
    return;
  struct real_relay_chunk *chunk = malloc(sizeof(*chunk) + (size_t)got);
  if (!chunk) {
    real_relay_drop(l); /* a byte less would be worse than none */
    return;
  }
  *chunk = (struct real_relay_chunk){.size = (size_t)got};
  chunk->due = real_relay_due(r, l->node[from], l->node[1 - from], flow, chunk->size);
  memcpy(chunk->data, r->room, chunk->size);
  *flow->last = chunk;
  flow->last = &chunk->next;
  flow->held += chunk->size;
}

/* Writes what is due, as long as it is taken. */
static void real_relay_write(struct real_relay_link *l, int from, uint64_t now)
{
  struct real_relay_flow *flow = &l->flow[from];
  while (flow->first && flow->first->due <= now) {
    struct real_relay_chunk *chunk = flow->first;
    ssize_t done = send(l->end[1 - from], chunk->data + chunk->sent, chunk->size - chunk->sent,
                        MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN && errno != EINTR)
      real_relay_drop(l);
    if (done < 0)
      return;
    chunk->sent += (size_t)done;
    flow->held -= (size_t)done;
    if (chunk->sent < chunk->size)
      return;
    flow->first = chunk->next;
    if (!flow->first)
      flow->last = &flow->first;
    free(chunk);
  }
}

/* Whether bytes of that end may be taken, and passed on, now. */
static bool real_relay_flows(const struct real_relay *r, const struct real_relay_link *l, int from)
{
  return !real_relay_blocks(r, l->node[from], l->node[1 - from]);
}

static void real_relay_serve(struct real_relay *r, struct real_relay_link *l, uint64_t now)
{
  int error = 0;
  socklen_t size = sizeof(error);
  if (l->connecting && l->poll[1] && l->poll[1]->revents) {
    getsockopt(l->end[1], SOL_SOCKET, SO_ERROR, &error, &size);
    l->connecting = false;
    if (error)
      real_relay_drop(l);
  }
  for (int i = 0; i < 2 && !l->dead && !l->connecting; i++) {
    bool ready = l->poll[i] && l->poll[i]->revents & (POLLIN | POLLHUP | POLLERR);
    if (l->end[i] < 0 || !real_relay_flows(r, l, i))
      continue;
    if (ready && l->flow[i].held < REAL_RELAY_HOLDS && !l->flow[i].ended)
      real_relay_read(r, l, i);
    if (!l->dead && !l->half)
      real_relay_write(l, i, now);
    if (!l->dead && l->flow[i].ended && (l->half || !l->flow[i].first))
      real_relay_drop(l);
  }
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* What the link waits for; brings *until forward to when something is due. */
static uint32_t real_relay_watch(struct real_relay *r, struct real_relay_link *l, struct pollfd *p,
                                 uint64_t now, uint64_t *until)
{
  short events[2] = {0, 0};
  uint32_t used = 0;
  for (int i = 0; i < 2; i++) {
    const struct real_relay_flow *flow = &l->flow[i];
    if (l->connecting || !real_relay_flows(r, l, i))
      continue;
    if (!flow->ended && flow->held < REAL_RELAY_HOLDS)
      events[i] |= POLLIN;
    if (flow->first && flow->first->due <= now)
      events[1 - i] |= POLLOUT;
    else if (flow->first && flow->first->due < *until)
      *until = flow->first->due;
  }
  if (l->connecting)
    events[1] = POLLOUT;
  for (int i = 0; i < 2; i++) {
    l->poll[i] = NULL;
    if (!events[i] || l->end[i] < 0)
      continue; /* poll tells of a hang-up whether one wants to know or not */
    p[used] = (struct pollfd){l->end[i], events[i], 0};
    l->poll[i] = &p[used++];
  }
  return used;
}

static void real_relay_wait(struct real_relay *r, uint32_t used, uint64_t now, uint64_t until)
{
  struct timespec left = {(time_t)((until - now) / 1000000000u),
                          (long)((until - now) % 1000000000u)};
  pthread_mutex_unlock(&r->lock);
  ppoll(r->poll, used, until == UINT64_MAX ? NULL : &left, NULL);
  pthread_mutex_lock(&r->lock);
}

/* One turn: waits for something, and does it. A new connection of nodes that are cut off from each
 * other waits to be accepted. */
static void real_relay_turn(struct real_relay *r)
{
  uint64_t now = real_env_now(), until = UINT64_MAX;
  uint32_t used = 0, from[REAL_RELAY_NODES * REAL_RELAY_NODES], ways;
  r->poll[used++] = (struct pollfd){r->bell, POLLIN, 0};
  if (r->rest > now)
    until = r->rest;
  for (uint32_t i = 0; i < r->count * r->count && r->rest <= now; i++) {
    uint32_t a = i / r->count, b = i % r->count;
    if (a != b && r->link_count < REAL_RELAY_LINKS && !real_relay_blocks(r, a, b) &&
        !real_relay_blocks(r, b, a)) {
      from[used - 1] = i;
      r->poll[used++] = (struct pollfd){r->way[a][b].listener, POLLIN, 0};
    }
  }
  ways = used;
  for (struct real_relay_link *l = r->links; l; l = l->next)
    used += real_relay_watch(r, l, r->poll + used, now, &until);
  real_relay_wait(r, used, now, until);
  now = real_env_now();
  for (struct real_relay_link *l = r->links; l; l = l->next)
    if (!l->dead)
      real_relay_serve(r, l, now);
  for (uint32_t i = 1; i < ways; i++)
    if (r->poll[i].revents && r->link_count < REAL_RELAY_LINKS)
      real_relay_accept(r, from[i - 1] / r->count, from[i - 1] % r->count);
  real_relay_bury(r);
  if (r->poll[0].revents)
    real_env_drain(r->bell);
}

static void *real_relay_main(void *arg)
{
  struct real_relay *r = arg;
  pthread_mutex_lock(&r->lock);
  while (!r->quit)
    real_relay_turn(r);
  pthread_mutex_unlock(&r->lock);
  return NULL;
}

/* ---- faults ---------------------------------------------------------------------------------- */

bool real_relay_can(chi_fault kind)
{
  const uint64_t can = UINT64_C(1) << CHI_FAULT_CUT | UINT64_C(1) << CHI_FAULT_JOIN |
                       UINT64_C(1) << CHI_FAULT_ISOLATE | UINT64_C(1) << CHI_FAULT_REJOIN |
                       UINT64_C(1) << CHI_FAULT_PARTITION | UINT64_C(1) << CHI_FAULT_SPLIT |
                       UINT64_C(1) << CHI_FAULT_HEAL | UINT64_C(1) << CHI_FAULT_CLOG |
                       UINT64_C(1) << CHI_FAULT_SLOW | UINT64_C(1) << CHI_FAULT_DROP |
                       UINT64_C(1) << CHI_FAULT_HALF;
  return can >> kind & 1;
}

/* Breaks what a has connected to b: one end hears of it, or both. */
static void real_relay_break(struct real_relay *r, uint32_t a, uint32_t b, bool half)
{
  for (struct real_relay_link *l = r->links; l; l = l->next) {
    if (l->dead || l->node[0] != a || l->node[1] != b)
      continue;
    if (half && !l->connecting)
      real_relay_halve(l);
    else
      real_relay_drop(l);
  }
  real_relay_bury(r);
}

/* A whole network has no connections that one side only believes in. */
static void real_relay_heal(struct real_relay *r)
{
  r->isolated = r->split = 0;
  for (uint32_t a = 0; a < r->count; a++)
    for (uint32_t b = 0; b < r->count; b++)
      r->way[a][b] = (struct real_relay_way){.listener = r->way[a][b].listener};
  for (struct real_relay_link *l = r->links; l; l = l->next)
    if (l->half && !l->dead)
      real_relay_drop(l);
  real_relay_bury(r);
}

static uint64_t real_relay_bits(uint32_t a, uint32_t b)
{
  uint64_t bits = 0;
  for (uint32_t i = a; i <= b; i++)
    bits |= UINT64_C(1) << i;
  return bits;
}

static void real_relay_do(struct real_relay *r, chi_fault kind, uint32_t a, uint32_t b,
                          int64_t value)
{
  uint64_t all = real_relay_bits(0, r->count - 1);
  switch (kind) {
  case CHI_FAULT_CUT:
  case CHI_FAULT_JOIN:
    r->way[a][b].cut = kind == CHI_FAULT_CUT;
    break;
  case CHI_FAULT_ISOLATE:
    r->isolated |= UINT64_C(1) << a;
    break;
  case CHI_FAULT_REJOIN:
    r->isolated &= ~(UINT64_C(1) << a);
    break;
  case CHI_FAULT_PARTITION:
  case CHI_FAULT_SPLIT:
    r->split = (kind == CHI_FAULT_PARTITION ? real_relay_bits(a, b) : (uint64_t)value) & all;
    break;
  case CHI_FAULT_CLOG:
    r->way[a][b].clog_ns = (uint64_t)value;
    break;
  case CHI_FAULT_SLOW:
    r->way[a][b].slow = (uint64_t)value;
    break;
  case CHI_FAULT_HEAL:
    real_relay_heal(r);
    break;
  default:
    real_relay_break(r, a, b, kind == CHI_FAULT_HALF);
  }
}

int real_relay_fault(struct real_relay *r, chi_fault kind, uint32_t a, uint32_t b, int64_t value)
{
  if (!r || !real_relay_can(kind))
    return CHI_ENOTSUP;
  if (value < 0)
    return CHI_ERANGE;
  pthread_mutex_lock(&r->lock);
  real_relay_do(r, kind, a, b, value);
  real_env_ring(r->bell);
  pthread_mutex_unlock(&r->lock);
  return CHI_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

void real_relay_address(uint32_t from, uint32_t to, char out[REAL_RELAY_ADDRESS])
{
  snprintf(out, REAL_RELAY_ADDRESS, "127.1.%u.%u", from + 1, to + 1);
}

static int real_relay_listen(struct real_relay *r, uint32_t from, uint32_t to, chi_error *err)
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->port)};
  char text[REAL_RELAY_ADDRESS];
  const int yes = 1;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  real_relay_address(from, to, text);
  inet_pton(AF_INET, text, &address.sin_addr);
  r->way[from][to].listener = fd;
  if (fd < 0)
    return error_set(err, CHI_ENOMEM, "no descriptor for a relay: %m");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
      listen(fd, REAL_RELAY_BACKLOG) == 0)
    return CHI_OK;
  return error_set(err, CHI_EBUSY, "a relay cannot listen at %s:%u: %m", text, r->port);
}

static int real_relay_start(struct real_relay *r, chi_error *err)
{
  sigset_t all, before;
  int rc;
  for (uint32_t i = 0; i < r->count * r->count; i++) {
    uint32_t a = i / r->count, b = i % r->count;
    rc = a == b ? CHI_OK : real_relay_listen(r, a, b, err);
    if (rc != CHI_OK)
      return rc;
  }
  sigfillset(&all); /* they are for the threads of the test */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  rc = pthread_create(&r->thread, NULL, real_relay_main, r);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return rc ? error_set(err, CHI_ENOMEM, "no thread for a relay") : CHI_OK;
}

static void real_relay_free(struct real_relay *r)
{
  for (uint32_t i = 0; i < r->count * r->count; i++)
    if (r->way[i / r->count][i % r->count].listener >= 0)
      close(r->way[i / r->count][i % r->count].listener);
  if (r->bell >= 0)
    close(r->bell);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

int real_relay_open(const chi_host *nodes, uint32_t count, uint32_t port, struct real_relay **out,
                    chi_error *err)
{
  struct real_relay *r = calloc(1, sizeof(*r));
  int rc = CHI_OK;
  *out = NULL;
  CHI_ASSERT(count > 0 && count <= REAL_RELAY_NODES);
  if (!r)
    return error_set(err, CHI_ENOMEM, "no memory for a relay");
  r->count = count;
  r->port = port;
  r->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init(&r->lock, NULL);
  for (uint32_t i = 0; i < count * count; i++)
    r->way[i / count][i % count].listener = -1;
  for (uint32_t i = 0; i < count && rc == CHI_OK; i++)
    if (inet_pton(AF_INET, nodes[i].address, &r->node[i]) != 1)
      rc = error_set(err, CHI_EINVAL, "%s is no address", nodes[i].address);
  if (rc == CHI_OK && r->bell < 0)
    rc = error_set(err, CHI_ENOMEM, "no descriptor for a relay: %m");
  if (rc == CHI_OK)
    rc = real_relay_start(r, err);
  if (rc == CHI_OK)
    *out = r;
  else
    real_relay_free(r);
  return rc;
}

void real_relay_close(struct real_relay *r)
{
  if (!r)
    return;
  pthread_mutex_lock(&r->lock);
  r->quit = true;
  real_env_ring(r->bell);
  pthread_mutex_unlock(&r->lock);
  pthread_join(r->thread, NULL);
  for (struct real_relay_link *l = r->links; l; l = l->next)
    if (!l->dead)
      real_relay_drop(l);
  real_relay_bury(r);
  real_relay_free(r);
}

#undef REAL_RELAY_CHUNK
#undef REAL_RELAY_HOLDS
#undef REAL_RELAY_LINKS
#undef REAL_RELAY_BACKLOG
#undef REAL_RELAY_REST_NS
#undef REAL_RELAY_POLLS
#undef REAL_RELAY_TRIP_NS
#undef REAL_RELAY_BYTE_NS

#endif
