/* test_real_net.c - the network between real nodes: order, bulk, full queues, connections that end
 * and begin, strangers. */
#include "daemon.h"
#include "station.h"
#include "test.h"
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <zmq.h>

#define LONG_MS (10000 * SLOW)

static const char *const pair[] = {"127.0.0.1", "127.0.0.2", NULL};

/* Two nodes that know each other. */
static bool pair_open(struct station *a, struct station *b)
{
  uint32_t port = station_port();
  return station_open(a, pair, 0, port, NULL, NULL) == CHI_OK &&
         station_open(b, pair, 1, port, NULL, NULL) == CHI_OK &&
         STATION_UNTIL(a, b, LONG_MS, a->up[1] && b->up[0]);
}

static void pair_close(struct station *a, struct station *b)
{
  station_close(a);
  station_close(b);
}

/* A plain connection to a station. */
static int stranger(const struct station *s)
{
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  inet_pton(AF_INET, s->host[s->self].address, &to.sin_addr);
  if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
    return fd;
  close(fd);
  return -1;
}

/* ---- messages -------------------------------------------------------------------------------- */

TEST(bounds_are_those_of_the_wire)
{
  CHECK_INT(REAL_NET_FIRST_MAX, WIRE_MESSAGE_MAX);
}

TEST(messages_arrive_whole_and_in_order)
{
  static struct station a, b;
  const uint64_t sizes[] = {0, 1, 33, 4096, 0, 65536, 1000003, 8191};
  uint32_t parcels = 0, n = 0;
  uint64_t bytes = 0;
  CHECK(pair_open(&a, &b));
  while (n < 2000) {
    uint64_t size = sizes[n % CHI_COUNT(sizes)];
    int rc = station_send(&a, 1, n, size);
    if (rc == CHI_EBUSY) {
      station_turn(&a);
      station_turn(&b);
      continue;
    }
    CHECK_INT(rc, CHI_OK);
    bytes += size;
    parcels += size > 0;
    n++;
  }
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == n && a.returned == parcels));
  CHECK_INT(b.wrong, 0);
  CHECK_INT(b.bytes, bytes);
  for (uint32_t i = 0; i < n; i++)
    CHECK_INT(a.parcel[i], sizes[i % CHI_COUNT(sizes)] > 0);
  pair_close(&a, &b);
}

static volatile uint32_t signals;

static void on_signal(int number)
{
  (void)number;
  signals++;
}

/* Of so many frames each, while signals are handled all the time; in turns of the other node that
 * are as short as they can be. */
TEST(signals_tear_no_message_and_let_none_wait)
{
  static struct station a, b;
  const struct sigaction action = {.sa_handler = on_signal};
  const struct itimerval often = {{0, 30}, {0, 30}}, never = {{0, 0}, {0, 0}};
  struct env_frame frame[ENV_FRAMES_MAX];
  struct sigaction before;
  uint32_t number = 0;
  CHECK(pair_open(&a, &b));
  sigaction(SIGALRM, &action, &before);
  setitimer(ITIMER_REAL, &often, NULL);
  frame[0] = (struct env_frame){&number, sizeof(number)};
  for (uint32_t i = 1; i < ENV_FRAMES_MAX; i++)
    frame[i] = (struct env_frame){station_bulk(), 33};
  struct env *env = &a.r.env;
  for (uint64_t end = now_ns() + 4 * SECOND_NS; now_ns() < end; number++) {
    CHECK_INT(env->net_send(env, 1, frame, ENV_FRAMES_MAX, &a.parcel[0]), CHI_OK);
    CHECK(STATION_UNTIL(&b, NULL, LONG_MS, b.messages == number + 1));
    CHECK_INT(b.count, ENV_FRAMES_MAX);
    station_turn(&a);
  }
  setitimer(ITIMER_REAL, &never, NULL);
  sigaction(SIGALRM, &before, NULL);
  CHECK_INT(b.wrong, 0);
  CHECK(number > 100 && signals > 100);
  CHECK_INT(a.downs[1] + b.downs[0], 0);
  pair_close(&a, &b);
}

TEST(a_message_has_as_many_frames_as_the_seam_allows)
{
  static struct station a, b;
  struct env_frame frame[ENV_FRAMES_MAX];
  uint32_t number = 0;
  uint8_t parcel = 0;
  CHECK(pair_open(&a, &b));
  for (uint32_t i = 0; i < ENV_FRAMES_MAX; i++)
    frame[i] = (struct env_frame){station_bulk(), 10000};
  frame[0] = (struct env_frame){&number, sizeof(number)};
  CHECK_INT(a.r.env.net_send(&a.r.env, 1, frame, ENV_FRAMES_MAX, &parcel), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1 && a.returned == 1));
  CHECK_INT(b.count, ENV_FRAMES_MAX);
  CHECK_INT(b.wrong, 0);
  CHECK_INT(parcel, 1);
  pair_close(&a, &b);
}

TEST(the_first_frame_is_copied)
{
  static struct station a, b;
  uint32_t number = 0;
  const struct env_frame frame = {&number, sizeof(number)};
  CHECK(pair_open(&a, &b));
  CHECK_INT(a.r.env.net_send(&a.r.env, 1, &frame, 1, NULL), CHI_OK);
  number = 7;
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1));
  CHECK_INT(b.wrong, 0);
  pair_close(&a, &b);
}

TEST(a_message_does_not_wait_for_the_next)
{
  static struct station a, b;
  CHECK(pair_open(&a, &b));
  for (uint32_t i = 0; i < 500; i++) { /* there and back, one at a time */
    CHECK_INT(station_send(&a, 1, i, 0), CHI_OK);
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == i + 1));
    CHECK_INT(station_send(&b, 0, i, 0), CHI_OK);
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.messages == i + 1));
  }
  CHECK_INT(a.wrong + b.wrong, 0);
  pair_close(&a, &b);
}

/* A node that sleeps for as long as nothing wakes it, in a thread of its own, and answers each
 * message with one of its own number. */
struct sleeper {
  struct station *s;
  uint32_t to, stop, plain; /* atomic: stop and plain, which is to answer without bulk */
  uint32_t answered, sleeps;
};

static void *sleeper_run(void *arg)
{
  struct sleeper *z = arg;
  while (!__atomic_load_n(&z->stop, __ATOMIC_ACQUIRE)) {
    bool more = real_net_turn(&z->s->r);
    while (z->answered < z->s->messages &&
           station_send(z->s, z->to, z->answered,
                        z->answered % 7 || __atomic_load_n(&z->plain, __ATOMIC_RELAXED)
                            ? 0
                            : 9000) == CHI_OK)
      z->answered++;
    if (more || z->answered < z->s->messages) {
      real_loop_poll(z->s->r.loop);
      continue;
    }
    z->sleeps++;
    real_loop_sleep(z->s->r.loop, UINT64_MAX);
  }
  return NULL;
}

/* Nothing but the messages wakes either of the two: one that waited for the next would hang. */
TEST(no_message_ever_waits_for_the_next)
{
  static struct station a, b;
  struct sleeper z = {.s = &b, .to = 0};
  pthread_t thread;
  uint32_t sent = 0;
  uint64_t state = 5;
  CHECK(pair_open(&a, &b));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.greeted[1] && b.greeted[0]));
  CHECK_INT(pthread_create(&thread, NULL, sleeper_run, &z), 0);
  for (uint32_t round = 0; round < 3000 / SLOW; round++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    for (uint32_t burst = (uint32_t)(state >> 60) == 0 ? 150 : (uint32_t)(state >> 61); burst > 0;
         burst--) {
      while (station_send(&a, 1, sent, sent % 11 ? 0 : 70000) == CHI_EBUSY)
        station_turn(&a);
      sent++;
    }
    uint64_t end = now_ns() + LONG_MS * MS_NS;
    while (a.messages < sent && now_ns() < end) {
      if (real_net_turn(&a.r))
        real_loop_poll(a.r.loop);
      else if (a.messages < sent)
        real_loop_sleep(a.r.loop, end);
    }
    CHECK_INT(a.messages, sent);
  }
  /* With time to fall asleep between them, each message is one wake-up. */
  __atomic_store_n(&z.plain, 1, __ATOMIC_RELAXED);
  uint32_t sleeps = __atomic_load_n(&z.sleeps, __ATOMIC_RELAXED), before = sent;
  for (; sent < before + 300; sent++) {
    CHECK_INT(station_send(&a, 1, sent, 0), CHI_OK);
    CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.messages == sent + 1));
    pause_ns(MS_NS);
  }
  sleeps = __atomic_load_n(&z.sleeps, __ATOMIC_RELAXED) - sleeps;
  __atomic_store_n(&z.stop, 1, __ATOMIC_RELEASE);
  CHECK_INT(station_send(&a, 1, sent, 0), CHI_OK);
  CHECK_INT(pthread_join(thread, NULL), 0);
  CHECK(a.wrong + b.wrong == 0);
  if (sleeps > 330)
    fprintf(stderr, "%u sleeps for 300 messages\n", sleeps);
  CHECK(sleeps >= 200 && sleeps <= 330);
  pair_close(&a, &b);
}

/* ---- full queues ----------------------------------------------------------------------------- */

TEST(who_does_not_take_makes_the_queue_full_and_nothing_is_lost)
{
  static struct station a, b;
  uint32_t n = 0;
  int rc = CHI_OK;
  CHECK(pair_open(&a, &b));
  for (; rc == CHI_OK && n < 2000000; n++)
    rc = station_send(&a, 1, n, 0);
  CHECK_INT(rc, CHI_EBUSY);
  n--;
  CHECK(n >= 900);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == n));
  CHECK_INT(b.wrong, 0);
  CHECK_INT(station_send(&a, 1, n, 0), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == n + 1));
  pair_close(&a, &b);
}

/* A place of the list where a socket of the test's own takes nothing. */
struct sink {
  void *context, *socket;
};

static bool sink_open(struct sink *s, uint32_t port)
{
  char endpoint[64];
  int one = 1, small = 65536;
  s->context = zmq_ctx_new();
  s->socket = zmq_socket(s->context, ZMQ_PULL);
  zmq_setsockopt(s->socket, ZMQ_RCVHWM, &one, sizeof(one));
  zmq_setsockopt(s->socket, ZMQ_RCVBUF, &small, sizeof(small));
  snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.2:%u", port);
  return zmq_bind(s->socket, endpoint) == 0;
}

static void sink_close(struct sink *s)
{
  zmq_close(s->socket);
  zmq_ctx_term(s->context);
}

/* Sends bulk until there is no room. Returns how many messages that took, or 0. */
static uint32_t fill(struct station *a)
{
  uint32_t n = 0;
  int rc = CHI_OK;
  while (rc == CHI_OK && n < 100) {
    rc = station_send(a, 1, n, STATION_BULK);
    n += rc == CHI_OK;
    for (int i = 0; i < 20; i++) /* what can go may */
      station_turn(a);
  }
  return rc == CHI_EBUSY ? n : 0;
}

TEST(bulk_on_its_way_to_a_peer_is_bounded_and_a_reset_hands_it_back)
{
  static struct station a;
  struct sink sink;
  uint32_t port = station_port();
  CHECK(sink_open(&sink, port));
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.up[1]));
  uint32_t n = fill(&a);
  CHECK(n >= 4 && n < 20);
  CHECK(a.returned < n);
  a.r.env.net_reset(&a.r.env, 1);
  CHECK_INT(a.up[1], 1); /* told in the next turn */
  CHECK_INT(station_send(&a, 1, n, 1), CHI_EUNREACHABLE);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.returned == n && a.downs[1] == 1));
  for (uint32_t i = 0; i < n; i++)
    CHECK_INT(a.parcel[i], 1);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.up[1]));
  CHECK_INT(station_send(&a, 1, 0, 1), CHI_OK);
  a.r.env.net_reset(&a.r.env, 1);
  a.r.env.net_reset(&a.r.env, 1); /* there is nothing any more */
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.downs[1] == 2));
  station_close(&a);
  sink_close(&sink);
}

TEST(after_close_nobody_reads_what_was_sent)
{
  static struct station a;
  struct sink sink;
  uint32_t port = station_port();
  uint8_t parcel = 0;
  size_t size = 32 << 20;
  char *mine = calloc(1, size);
  const struct env_frame frame[] = {{"1234", 4}, {mine, size}};
  CHECK(sink_open(&sink, port));
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.up[1]));
  CHECK_INT(a.r.env.net_send(&a.r.env, 1, frame, 2, &parcel), CHI_OK);
  station_close(&a);
  free(mine); /* a sanitizer would see it */
  CHECK_INT(parcel, 0);
  sink_close(&sink);
}

/* ---- connections ----------------------------------------------------------------------------- */

TEST(there_is_no_way_to_who_is_not_there)
{
  static struct station a;
  CHECK_INT(station_open(&a, pair, 0, station_port(), NULL, NULL), CHI_OK);
  CHECK_INT(station_send(&a, 1, 0, 0), CHI_EUNREACHABLE);
  CHECK_INT(station_send(&a, 1, 0, 100), CHI_EUNREACHABLE);
  a.r.env.net_reset(&a.r.env, 1);
  for (int i = 0; i < 100; i++)
    station_turn(&a);
  CHECK_INT(a.ups[1] + a.downs[1] + a.returned, 0);
  station_close(&a);
}

TEST(a_peer_that_ends_is_told_and_found_again)
{
  static struct station a, b;
  uint32_t port;
  CHECK(pair_open(&a, &b));
  port = b.port;
  for (uint32_t i = 1; i <= 3; i++) {
    station_close(&b);
    CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.downs[1] == i));
    CHECK_INT(station_send(&a, 1, 0, 0), CHI_EUNREACHABLE);
    CHECK_INT(station_open(&b, pair, 1, port, NULL, NULL), CHI_OK);
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.ups[1] == i + 1 && b.up[0]));
    CHECK_INT(station_send(&a, 1, 0, 5000), CHI_OK);
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1 && a.returned == i));
    CHECK_INT(b.wrong, 0);
  }
  pair_close(&a, &b);
}

TEST(nothing_that_waited_for_a_lost_connection_arrives_later)
{
  static struct station a, b;
  uint32_t n = 0;
  CHECK(pair_open(&a, &b));
  while (n < 900 && station_send(&a, 1, n, 0) == CHI_OK)
    n++;
  CHECK_INT(n, 900);
  station_close(&b);
  CHECK_INT(station_open(&b, pair, 1, a.port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.ups[1] == 2));
  b.next = 7777777;
  CHECK_INT(station_send(&a, 1, 7777777, 0), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages > 0));
  CHECK_INT(b.wrong, 0);
  CHECK_INT(b.messages, 1);
  pair_close(&a, &b);
}

static int sorry_listen(uint32_t port)
{
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  inet_pton(AF_INET, "127.0.0.2", &at.sin_addr);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 5) == 0)
    return fd;
  close(fd);
  return -1;
}

/* Another program at a peer's place: a node goes on trying, and not too often. */
TEST(who_says_something_else_is_asked_again)
{
  static struct station a, b;
  static const char no[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
  uint32_t port = station_port(), calls = 0;
  int listener = sorry_listen(port);
  CHECK(listener >= 0);
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  for (uint64_t end = now_ns() + 1500 * MS_NS; now_ns() < end;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    station_turn(&a);
    if (fd < 0)
      continue;
    calls++;
    send(fd, no, sizeof(no) - 1, MSG_NOSIGNAL);
    close(fd);
  }
  close(listener);
  CHECK(calls >= 2 && calls <= 30);
  CHECK_INT(a.ups[1], 0);
  CHECK_INT(station_open(&b, pair, 1, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0]));
  pair_close(&a, &b);
}

/* A connection whose other end is gone without a word: it was opened, hands were shaken, and
 * nothing comes any more, though it is asked. */
TEST(who_is_silent_though_asked_is_given_up)
{
  static struct station a;
  static const unsigned char greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0,
                                             'N',  'U', 'L', 'L'};
  static const unsigned char ready[] = {4,   26,  5,   'R', 'E', 'A', 'D', 'Y', 11,  'S',
                                        'o', 'c', 'k', 'e', 't', '-', 'T', 'y', 'p', 'e',
                                        0,   0,   0,   4,   'P', 'U', 'L', 'L'};
  uint32_t port = station_port();
  int listener = sorry_listen(port), fd = -1;
  CHECK(listener >= 0);
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0));
  send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL);
  send(fd, ready, sizeof(ready), MSG_NOSIGNAL);
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.up[1]));
  uint64_t begun = now_ns();
  CHECK(STATION_UNTIL(&a, NULL, 3 * LONG_MS, a.downs[1] == 1));
  CHECK(now_ns() - begun >= 4 * SECOND_NS);
  close(fd);
  close(listener);
  station_close(&a);
}

/* As a daemon that is frozen: its machine takes the connection, and nobody says a word. */
TEST(who_never_greets_is_told_to_stand_still)
{
  static struct station a;
  char dir[64], path[128], log[4096];
  uint32_t port = station_port();
  int listener = sorry_listen(port);
  CHECK(listener >= 0 && scratch_make(dir));
  snprintf(path, sizeof(path), "%s/log", dir);
  CHECK_INT(station_open(&a, pair, 0, port, path, NULL), CHI_OK);
  bool told = STATION_UNTIL(&a, NULL, 2 * LONG_MS,
                            strstr(scratch_read(path, log, sizeof(log)), "is not spoken with: "));
  close(listener);
  station_close(&a);
  scratch_remove(dir);
  CHECK(told);
  if (!strstr(log, "node 1 (node1) at 127.0.0.2 is not spoken with: its port is open, but it says "
                   "nothing; perhaps it stands still\n"))
    CHECK_STR(log, "");
}

TEST(names_and_both_families_of_addresses_are_good)
{
  static struct station a, b;
  static const char *const mixed[] = {"::1", "localhost", NULL};
  static const char *const six[] = {"::1", "127.0.0.3", NULL};
  chi_error err = {0};
  uint32_t port = station_port();
  if (station_open(&a, six, 0, port, NULL, &err) != CHI_OK) {
    test_skip("no IPv6 here");
    station_close(&a);
    return;
  }
  CHECK_INT(station_open(&b, six, 1, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0]));
  pair_close(&a, &b);
  /* A name is bound at all its addresses, so the port at the first must be free, too. */
  CHECK_INT(station_open(&a, mixed, 1, port, NULL, &err), CHI_OK);
  station_close(&a);
}

/* ---- what doesn't open ----------------------------------------------------------------------- */

TEST(a_port_in_use_is_told_and_nothing_stays_open)
{
  static struct station a, b;
  chi_error err = {0};
  uint32_t port = station_port();
  char want[200];
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  int before = scratch_descriptors();
  for (int i = 0; i < 10; i++) {
    CHECK_INT(station_open(&b, pair, 0, port, NULL, &err), CHI_EBUSY);
    station_close(&b);
  }
  snprintf(want, sizeof(want),
           "node 0: port %u at 127.0.0.1 is in use; is another daemon running there?", port);
  CHECK_STR(err.text, want);
  CHECK(scratch_descriptors() <= before + 2); /* the first one's attempts to connect come and go */
  station_close(&a);
}

TEST(an_address_of_somebody_else_is_told)
{
  static struct station a;
  static const char *const far[] = {"198.51.100.7", "127.0.0.2", NULL};
  chi_error err = {0};
  CHECK_INT(station_open(&a, far, 0, station_port(), NULL, &err), CHI_EINVAL);
  CHECK_STR(err.text, "node 0: 198.51.100.7 is not an address of this machine, which is where the "
                      "hostfile puts it");
  station_close(&a);
}

TEST(a_name_without_an_address_is_told)
{
  static struct station a;
  static const char *const lost[] = {"no-such-host.invalid", "127.0.0.2", NULL};
  chi_error err = {0};
  char dir[64], log[80], text[4096];
  CHECK_INT(station_open(&a, lost, 0, station_port(), NULL, &err), CHI_EINVAL);
  CHECK(strstr(err.text, "node 0: the address \"no-such-host.invalid\" in the hostfile cannot be "
                         "resolved: "));
  station_close(&a);
  /* That of another node may come to be known. */
  CHECK(scratch_make(dir));
  snprintf(log, sizeof(log), "%s/log", dir);
  CHECK_INT(station_open(&a, lost, 1, station_port(), log, &err), CHI_OK);
  CHECK_INT(station_send(&a, 0, 0, 0), CHI_EUNREACHABLE);
  station_close(&a);
  CHECK(strstr(scratch_read(log, text, sizeof(text)),
               "node 0: the address \"no-such-host.invalid\" in the hostfile cannot be resolved "
               "now: "));
  scratch_remove(dir);
}

/* ---- strangers ------------------------------------------------------------------------------- */

TEST(garbage_on_the_port_does_no_harm)
{
  static struct station a, b;
  static const unsigned char half[] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L'};
  unsigned char junk[512];
  int fd[60];
  uint64_t state = 1;
  CHECK(pair_open(&a, &b));
  for (uint32_t i = 0; i < CHI_COUNT(fd); i++) {
    fd[i] = stranger(&b);
    CHECK(fd[i] >= 0);
    for (uint32_t k = 0; k < sizeof(junk); k++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      junk[k] = (unsigned char)(state >> 56);
    }
    if (i % 3 == 0)
      send(fd[i], junk, sizeof(junk), MSG_NOSIGNAL);
    else if (i % 3 == 1)
      send(fd[i], half, sizeof(half), MSG_NOSIGNAL);
    if (i % 2)
      close(fd[i]);
    station_turn(&b);
    CHECK_INT(station_send(&a, 1, i, 0), CHI_OK);
  }
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == CHI_COUNT(fd)));
  CHECK_INT(b.wrong, 0);
  CHECK_INT(a.downs[1] + b.downs[0], 0);
  for (uint32_t i = 0; i < CHI_COUNT(fd); i += 2)
    close(fd[i]);
  pair_close(&a, &b);
}

/* A stranger that speaks ZeroMQ. */
static void *stranger_socket(void *context, int type, const struct station *s)
{
  char endpoint[64];
  void *socket = zmq_socket(context, type);
  int wait = 2000, none = 0;
  zmq_setsockopt(socket, ZMQ_SNDTIMEO, &wait, sizeof(wait));
  zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
  snprintf(endpoint, sizeof(endpoint), "tcp://%s:%u", s->host[s->self].address, s->port);
  zmq_connect(socket, endpoint);
  return socket;
}

TEST(messages_that_are_too_large_are_dropped)
{
  static struct station a, b;
  static char big[REAL_NET_FIRST_MAX + 1];
  uint32_t number = 0;
  CHECK(pair_open(&a, &b));
  void *context = zmq_ctx_new(), *socket = stranger_socket(context, ZMQ_PUSH, &b);
  CHECK_INT(zmq_send(socket, big, sizeof(big), 0), sizeof(big));
  for (uint32_t i = 0; i < ENV_FRAMES_MAX; i++)
    CHECK_INT(zmq_send(socket, "more", 4, ZMQ_SNDMORE), 4);
  CHECK_INT(zmq_send(socket, "end", 3, 0), 3);
  CHECK_INT(zmq_send(socket, &number, sizeof(number), 0), sizeof(number));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages > 0));
  CHECK_INT(b.wrong, 0);
  CHECK_INT(station_send(&a, 1, 1, 0), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 2));
  zmq_close(socket);
  zmq_ctx_term(context);
  pair_close(&a, &b);
}

TEST(other_kinds_of_sockets_are_not_heard)
{
  static struct station a, b;
  CHECK(pair_open(&a, &b));
  void *context = zmq_ctx_new(), *socket = stranger_socket(context, ZMQ_DEALER, &b);
  zmq_send(socket, "hello", 5, ZMQ_DONTWAIT);
  for (int i = 0; i < 500; i++)
    station_turn(&b);
  CHECK_INT(b.messages, 0);
  CHECK_INT(station_send(&a, 1, 0, 0), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1));
  zmq_close(socket);
  zmq_ctx_term(context);
  pair_close(&a, &b);
}

/* Whoever forges a node's messages in plain text doesn't fill the house with its connections. */
TEST(connections_in_the_name_of_a_node_are_few)
{
  static struct station a, b;
  void *socket[12];
  unsigned char bytes[WIRE_HEADER + WIRE_RECORD] = {0};
  struct wire_header h = {.records = 1, .from = 0, .to = 1, .from_boot = 1};
  struct wire_out out;
  CHECK(pair_open(&a, &b));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.greeted[0] == 1));
  int before = scratch_descriptors();
  void *context = zmq_ctx_new();
  wire_out_init(&out, bytes, sizeof(bytes));
  out.used = WIRE_HEADER;
  wire_record_end(&out, wire_record_begin(&out, WIRE_PROBE), 0);
  wire_header_put(bytes, sizeof(bytes), &h);
  for (uint32_t i = 0; i < CHI_COUNT(socket); i++) {
    socket[i] = stranger_socket(context, ZMQ_PUSH, &b);
    CHECK_INT(zmq_send(socket[i], bytes, sizeof(bytes), 0), sizeof(bytes));
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.greeted[0] >= i + 2));
  }
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.downs[1] > 0)); /* its own was among the oldest */
  for (uint32_t i = 0; i < CHI_COUNT(socket); i++)
    zmq_close(socket[i]);
  zmq_ctx_term(context);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && scratch_descriptors() <= before));
  pair_close(&a, &b);
}

/* How many of them have nothing to read but the end, or an error. */
static uint32_t hung_up(const int *fd, uint32_t count)
{
  uint32_t ended = 0;
  char byte[64];
  for (uint32_t i = 0; i < count; i++) {
    ssize_t n;
    while ((n = recv(fd[i], byte, sizeof(byte), MSG_DONTWAIT)) > 0)
      ;
    ended += n == 0 || errno != EAGAIN;
  }
  return ended;
}

/* Those who are there stay; and when the crowd is gone, all is as before. */
TEST(a_crowd_of_strangers_finds_the_door_shut)
{
  static struct station a, b;
  enum { CROWD = 600 };
  static int fd[CROWD];
  uint32_t refused = 0, port;
  int before = scratch_descriptors();
  CHECK(pair_open(&a, &b));
  port = a.port;
  for (uint32_t i = 0; i < CROWD; i++) {
    fd[i] = stranger(&b);
    CHECK(fd[i] >= 0);
    station_turn(&b);
  }
  /* The rest is hung up on: reading gives an end, not a greeting to wait for. */
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, (refused = hung_up(fd, CROWD)) >= CROWD - 300));
  CHECK(refused < CROWD);
  CHECK_INT(station_send(&a, 1, 0, 0), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1));
  for (uint32_t i = 0; i < CROWD; i++)
    close(fd[i]);
  CHECK_INT(a.downs[1], 0);
  station_close(&a);
  CHECK_INT(station_open(&a, pair, 0, port, NULL, NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0]));
  pair_close(&a, &b);
  CHECK_INT(scratch_descriptors(), before);
}
