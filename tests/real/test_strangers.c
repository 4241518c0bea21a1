/* test_strangers.c - who comes to the port of a daemon and is no node: noise, floods, silence. The
 * daemons serve each other and their clients all the while. */
#include "fleet.h"
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <zmq.h>

#define CROWD 10000
/* Bytes that nobody should take of a stranger: in pieces that each cost far more, and in one. */
#define PIECES_MOST (UINT64_C(48) << 20)
#define WHOLE_MOST (UINT64_C(512) << 20)

/* A connection to node 1; -1: none now. */
static int call(const struct town *t)
{
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  inet_pton(AF_INET, "127.0.0.2", &to.sin_addr);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (fd >= 0 && (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 || errno == EINPROGRESS))
    return fd;
  if (fd >= 0)
    close(fd);
  return -1;
}

/* Waits until bytes can be sent, and sends what there is room for: false when hung up on. */
static bool say(int fd, const void *bytes, size_t size)
{
  struct pollfd p = {fd, POLLOUT, 0};
  if (poll(&p, 1, 1000 * SLOW) <= 0 || p.revents & (POLLERR | POLLHUP))
    return false;
  return send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
}

/* Has it come to an end? What was said before that is thrown away. */
static bool ended(int fd)
{
  char bytes[256];
  ssize_t n;
  while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
    ;
  return n == 0 || (errno != EAGAIN && errno != ENOTCONN && errno != EINTR);
}

/* What ZeroMQ says first, and what one says who will send messages. */
static const unsigned char greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0,
                                           'N',  'U', 'L', 'L'};
static const unsigned char ready[] = {4,   26,  5,   'R', 'E', 'A', 'D', 'Y', 11,  'S',
                                      'o', 'c', 'k', 'e', 't', '-', 'T', 'y', 'p', 'e',
                                      0,   0,   0,   4,   'P', 'U', 'S', 'H'};

/* A connection over which hands were shaken. */
static int shake(const struct town *t)
{
  char bytes[512];
  int fd = call(t);
  size_t got = 0;
  if (fd < 0 || !say(fd, greeting, sizeof(greeting)) || !say(fd, ready, sizeof(ready)))
    return fd;
  for (uint64_t end = now_ns() + SOON; got < sizeof(greeting) + 20 && now_ns() < end;) {
    struct pollfd p = {fd, POLLIN, 0};
    ssize_t n = poll(&p, 1, 100) > 0 ? recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) : 0;
    got += n > 0 ? (size_t)n : 0;
  }
  return fd;
}

/* Both nodes answer each other, and a new client. */
static bool serves(struct town *t)
{
  struct seat seat;
  uint64_t sum = 0;
  if (town_add(t, 0, 1, &sum) != CHI_OK || town_add(t, 1, 0, &sum) != CHI_OK ||
      seat_open(&seat, t->node[1].instance) != CHI_OK)
    return false;
  seat_close(&seat);
  return true;
}

static uint64_t lines_logged(const struct town *t)
{
  return daemon_logged(&t->node[1], "\n");
}

/* ---- noise ----------------------------------------------------------------------------------- */

static uint64_t noise_state;

static uint32_t noise(void)
{
  noise_state = noise_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(noise_state >> 33);
}

/* Bytes that begin well for a while, then don't. */
static size_t noise_make(unsigned char *bytes, size_t room)
{
  size_t size = noise() % room, good = 0;
  for (size_t i = 0; i < size; i++)
    bytes[i] = (unsigned char)noise();
  if (noise() % 4)
    good = size < sizeof(greeting) ? size : sizeof(greeting);
  memcpy(bytes, greeting, good);
  if (good == sizeof(greeting) && noise() % 2 && size >= good + sizeof(ready))
    memcpy(bytes + good, ready, sizeof(ready));
  if (good && noise() % 8 == 0)
    bytes[noise() % good] ^= (unsigned char)(1u << noise() % 8);
  return size;
}

TEST(noise_on_the_port_for_some_seconds)
{
  static struct town t;
  static unsigned char bytes[4000];
  struct figures before, after;
  int fd[64];
  uint32_t calls = 0, number = 0;
  noise_state = 17;
  memset(fd, 0xff, sizeof(fd));
  CHECK_STR(town_open(&t, 2), "");
  CHECK(figures_of_process(t.node[1].pid, &before));
  for (uint64_t end = now_ns() + 4 * SECOND_NS; now_ns() < end; number++) {
    int *at = &fd[noise() % CHI_COUNT(fd)];
    size_t size = noise_make(bytes, sizeof(bytes)), half = size ? noise() % size : 0;
    if (*at < 0) {
      *at = call(&t);
      calls += *at >= 0;
    }
    if (*at < 0 || !say(*at, bytes, half) || !say(*at, bytes + half, size - half) ||
        noise() % 3 == 0) {
      if (*at >= 0)
        close(*at);
      *at = -1;
    }
    if (number % 256 == 0)
      CHECK(serves(&t));
  }
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
    if (fd[i] >= 0)
      close(fd[i]);
  CHECK(calls > 100);
  CHECK(serves(&t));
  CHECK(lines_logged(&t) < 60 * SLOW);
  CHECK(EVENTUALLY(MET_MS, figures_of_process(t.node[1].pid, &after) &&
                               after.descriptors <= before.descriptors + 5));
  CHECK(after.rss < before.rss + (64u << 20) + RSS_SLACK);
  town_free(&t);
}

/* A frame of ZeroMQ that claims any size, of any kind, and has some of it. */
static size_t claim_make(unsigned char *bytes, size_t room)
{
  uint64_t claimed = (((uint64_t)noise() << 32) | noise()) >> noise() % 56;
  size_t size = 9 + noise() % (room - 9);
  bytes[0] = 2 | (noise() % 4 == 0 ? 4 : 0) | noise() % 2; /* long; a command; more to come */
  for (uint32_t i = 0; i < 8; i++)
    bytes[1 + i] = (unsigned char)(claimed >> (56 - 8 * i));
  for (size_t i = 9; i < size; i++)
    bytes[i] = (unsigned char)noise();
  return size;
}

/* Before hands are shaken and after: what a stranger claims costs no memory, only what it sends
 * does. */
TEST(what_strangers_claim_is_not_taken_for_true)
{
  static struct town t;
  static unsigned char bytes[60000];
  struct figures before, now;
  int fd[100];
  uint64_t most = 0;
  noise_state = 23;
  CHECK_STR(town_open(&t, 2), "");
  CHECK(figures_of_process(t.node[1].pid, &before));
  for (uint32_t round = 0; round < 6; round++) {
    for (uint32_t i = 0; i < CHI_COUNT(fd); i++) {
      fd[i] = i % 2 ? shake(&t) : call(&t);
      CHECK(fd[i] >= 0);
      if (i % 4 == 0)
        say(fd[i], greeting, sizeof(greeting));
      for (uint32_t k = 0; k < 4; k++)
        if (!say(fd[i], bytes, claim_make(bytes, sizeof(bytes))))
          break;
    }
    CHECK(serves(&t));
    CHECK(figures_of_process(t.node[1].pid, &now));
    most = now.rss > most ? now.rss : most;
    for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
      close(fd[i]);
  }
  /* All that was sent in a round, and what is kept of a message that goes on. */
  CHECK(most < before.rss + 4 * CHI_COUNT(fd) * sizeof(bytes) + (32u << 20) + RSS_SLACK);
  CHECK(EVENTUALLY(MET_MS, figures_of_process(t.node[1].pid, &now) &&
                               now.descriptors <= before.descriptors + 5));
  CHECK(serves(&t));
  CHECK(lines_logged(&t) < 60 * SLOW);
  town_free(&t);
}

/* ---- floods ---------------------------------------------------------------------------------- */

/* Repeats bytes until hung up on: true; false: all of the flood was taken. *grown: the most that
 * the daemon grew by. */
static bool flood(const struct town *t, const unsigned char *begin, size_t begin_size,
                  const unsigned char *rest, size_t size, uint64_t most, uint64_t *grown)
{
  struct figures before = {0}, now = {0};
  int fd = shake(t);
  uint64_t sent = 0;
  bool open = say(fd, begin, begin_size);
  figures_of_process(t->node[1].pid, &before);
  for (uint32_t i = 0; open && sent < most; i++) {
    struct pollfd p = {fd, POLLOUT, 0};
    open = poll(&p, 1, (int)(10000 * SLOW)) > 0 && !(p.revents & (POLLERR | POLLHUP));
    ssize_t n = open ? send(fd, rest, size, MSG_NOSIGNAL | MSG_DONTWAIT) : -1;
    open = n >= 0 || (open && errno == EAGAIN);
    sent += n > 0 ? (uint64_t)n : 0;
    if (i % 64 == 0 && figures_of_process(t->node[1].pid, &now) && now.rss > before.rss + *grown)
      *grown = now.rss - before.rss;
  }
  close(fd);
  return !open;
}

/* A message is taken as a whole, so one without end would be kept for ever. */
TEST(a_message_without_end_is_hung_up_on)
{
  static struct town t;
  static unsigned char parts[300000];
  static const unsigned char frame[] = {3, 0, 0, 0, 0, 0xf0, 0, 0, 0}; /* 3.75 GiB, and more */
  static const unsigned char claim[] = {2, 0x7f, 0, 0, 0, 0, 0, 0, 0};
  uint64_t grown = 0;
  for (size_t i = 0; i < sizeof(parts); i++)
    parts[i] = i % 3 < 2; /* one byte each, and more to come */
  CHECK_STR(town_open(&t, 2), "");
  CHECK(flood(&t, parts, 0, parts, sizeof(parts), PIECES_MOST, &grown));
  CHECK(serves(&t));
  CHECK(flood(&t, frame, sizeof(frame), parts, sizeof(parts), WHOLE_MOST, &grown));
  CHECK(serves(&t));
  CHECK(grown < (256u << 20) + RSS_SLACK);
  CHECK(daemon_logged(&t.node[1], ": it sends much without a message of a node") > 0);
  /* More than there is. */
  CHECK(flood(&t, claim, sizeof(claim), parts, sizeof(parts), WHOLE_MOST, &grown));
  CHECK(serves(&t));
  town_free(&t);
}

/* What the network says of strangers is in the figures of the log like all other lines. */
TEST(lines_about_strangers_are_counted)
{
  static struct town t;
  static const unsigned char other[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'C', 'U', 'R'};
  struct figures f;
  char counted[64];
  CHECK_STR(town_open(&t, 2), "");
  CHECK_INT(figures_ask(&t.seat[1], &f), CHI_OK);
  uint32_t before = daemon_logged(&t.node[1], " warning node=");
  int fd = call(&t);
  CHECK(say(fd, other, sizeof(other)));
  /* Where it came from is not known any more if it was refused that fast. */
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[1], "refused a connection from ") > 0));
  CHECK(daemon_logged(&t.node[1], " warning node=") > before);
  CHECK_INT(figures_ask(&t.seat[1], &f), CHI_OK);
  snprintf(counted, sizeof(counted), "\"warning\":%u,",
           daemon_logged(&t.node[1], " warning node="));
  CHECK(strstr(figures_json(), counted));
  close(fd);
  town_free(&t);
}

TEST(who_says_nothing_is_hung_up_on)
{
  static struct town t;
  int fd[4];
  char endpoint[64];
  int none = 0;
  CHECK_STR(town_open(&t, 2), "");
  uint64_t begun = now_ns();
  /* One who answers when ZeroMQ asks whether he lives, but has nothing to say. */
  void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_PUSH);
  zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
  snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.2:%u", t.port);
  CHECK_INT(zmq_connect(socket, endpoint), 0);
  fd[0] = call(&t);
  fd[1] = call(&t);
  CHECK(say(fd[1], greeting, 11));
  fd[2] = call(&t);
  CHECK(say(fd[2], greeting, sizeof(greeting)));
  fd[3] = shake(&t);
  CHECK(EVENTUALLY(25000 * SLOW, ended(fd[0]) && ended(fd[1]) && ended(fd[2]) && ended(fd[3])));
  CHECK(now_ns() - begun >= 4 * SECOND_NS);
  CHECK(EVENTUALLY(25000 * SLOW,
                   daemon_logged(&t.node[1], ": it stays without a message of a node") > 0));
  zmq_close(socket);
  zmq_ctx_term(context);
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
    close(fd[i]);
  CHECK(serves(&t));
  town_free(&t);
}

/* Starts node 1 with no more than so many descriptors. */
static bool start_narrow(struct town *t, uint32_t files)
{
  char script[600], path[128], beside[512];
  const char *given = getenv("CHIMAERA");
  snprintf(beside, sizeof(beside), "%s/../chimaera", daemon_modules());
  snprintf(script, sizeof(script), "#!/bin/sh\nulimit -n %u\nexec %s \"$@\"\n", files,
           given ? given : beside);
  snprintf(path, sizeof(path), "%s/narrow", t->dir);
  char *former = given ? strdup(given) : NULL;
  bool good = scratch_write(t->dir, "narrow", script) && chmod(path, 0700) == 0;
  setenv("CHIMAERA", path, 1);
  good = good && town_start(t, 1)[0] == '\0';
  if (former)
    setenv("CHIMAERA", former, 1);
  else
    unsetenv("CHIMAERA");
  free(former);
  return good;
}

/* No descriptor is left, and strangers wait at the door: those who are connected go on. */
TEST(a_daemon_out_of_descriptors_goes_on_with_those_it_has)
{
  static struct town t;
  struct figures before, after;
  struct rlimit former, none;
  int fd[100];
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 2), "");
  CHECK(figures_of_process(t.node[1].pid, &before));
  CHECK_INT(prlimit(t.node[1].pid, RLIMIT_NOFILE, NULL, &former), 0);
  none = (struct rlimit){3, former.rlim_max};
  CHECK_INT(prlimit(t.node[1].pid, RLIMIT_NOFILE, &none, NULL), 0);
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
    fd[i] = call(&t);
  for (uint64_t end = now_ns() + 2 * SECOND_NS; now_ns() < end; pause_ns(10 * MS_NS)) {
    CHECK_INT(town_add(&t, 0, 1, &sum), CHI_OK);
    CHECK_INT(town_add(&t, 1, 0, &sum), CHI_OK);
  }
  CHECK(figures_of_process(t.node[1].pid, &after));
  CHECK(after.rss < before.rss + (32u << 20) + RSS_SLACK);
  CHECK_INT(prlimit(t.node[1].pid, RLIMIT_NOFILE, &former, NULL), 0);
  CHECK(EVENTUALLY(MET_MS, serves(&t)));
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++)
    close(fd[i]);
  CHECK(lines_logged(&t) < 60 * SLOW);
  town_free(&t);
}

/* As many connections as the machine lets this program have, up to ten thousand, and all stay. Some
 * go as far as a stranger can. */
TEST(ten_thousand_connections_leave_room_for_nodes_and_clients)
{
  static struct town t;
  static int fd[CROWD];
  struct rlimit files;
  struct figures f;
  uint32_t crowd = CROWD, most = 0;
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < CROWD + 200)
    crowd = (uint32_t)files.rlim_cur - 200;
  CHECK(town_plan(&t, 2));
  CHECK(town_make(&t));
  CHECK_STR(town_start(&t, 0), "");
  CHECK(start_narrow(&t, 400));
  CHECK_INT(seat_pool(&t.seat[0], "calc", NULL, NULL), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, town_has_met(&t)));
  for (uint32_t i = 0; i < crowd; i++) {
    fd[i] = call(&t);
    CHECK(fd[i] >= 0);
    if (i % 4 == 1)
      send(fd[i], greeting, sizeof(greeting), MSG_NOSIGNAL);
    if (i % 500)
      continue;
    CHECK(serves(&t));
    CHECK(figures_of_process(t.node[1].pid, &f));
    most = f.descriptors > most ? (uint32_t)f.descriptors : most;
  }
  CHECK(serves(&t));
  CHECK(most < 400);
  /* And a node that comes back finds its place among them. */
  town_kill(&t, 0);
  CHECK_STR(town_start(&t, 0), "");
  CHECK(EVENTUALLY(2 * MET_MS, town_has_met(&t)));
  for (uint32_t i = 0; i < crowd; i++)
    close(fd[i]);
  CHECK(EVENTUALLY(MET_MS, serves(&t)));
  CHECK(lines_logged(&t) < 100 * SLOW);
  town_free(&t);
}
