/* bench_zmq.c - what ZeroMQ alone does on this machine: messages there and back. */
#include "bench.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define ZMQ_BENCH_PAGE 4096
#define ZMQ_BENCH_WAIT_MS 5000 /* longer for one message is a failure */
#define ZMQ_BENCH_WARM 32      /* messages before time counts */
#define ZMQ_BENCH_LOOK 16      /* answers between two looks at the clock, if they are small */
#define ZMQ_BENCH_ENDPOINT 64

void bench_stamp(void *data, uint64_t size, uint64_t stamp)
{
  char *bytes = data;
  for (uint64_t at = 0; at + sizeof(stamp) <= size; at += ZMQ_BENCH_PAGE) {
    uint64_t word = stamp + at;
    memcpy(bytes + at, &word, sizeof(word));
  }
}

bool bench_stamped(const void *data, uint64_t size, uint64_t stamp)
{
  const char *bytes = data;
  for (uint64_t at = 0; at + sizeof(stamp) <= size; at += ZMQ_BENCH_PAGE) {
    uint64_t word;
    memcpy(&word, bytes + at, sizeof(word));
    if (word != stamp + at)
      return false;
  }
  return true;
}

static void *zmq_bench_socket(void *context, int type)
{
  static const int wait = ZMQ_BENCH_WAIT_MS, none = 0;
  void *s = zmq_socket(context, type);
  if (!s)
    return NULL;
  zmq_setsockopt(s, ZMQ_RCVTIMEO, &wait, sizeof(wait));
  zmq_setsockopt(s, ZMQ_SNDTIMEO, &wait, sizeof(wait));
  zmq_setsockopt(s, ZMQ_LINGER, &none, sizeof(none));
  return s;
}

/* ---- the peer: answers until `end` is closed -------------------------------------------- */

struct zmq_peer {
  const struct bench_exchange *exchange;
  void *socket;
  char *first, *bulk;
};

/* One message and its answer, which begins with the first word of what came; false: no message, or
 * a wrong one. */
static bool zmq_peer_serve(const struct zmq_peer *p)
{
  const struct bench_exchange *x = p->exchange;
  char name[256];
  uint64_t stamp = 0;
  int size = zmq_recv(p->socket, name, sizeof(name), 0);
  if (size < 0 || zmq_recv(p->socket, p->first, x->out, 0) != (int)x->out)
    return false;
  memcpy(&stamp, p->first, sizeof(stamp));
  if (x->bulk && (zmq_recv(p->socket, p->bulk, x->bulk, 0) != (int)x->bulk ||
                  !bench_stamped(p->bulk, x->bulk, stamp)))
    return false;
  return zmq_send(p->socket, name, (size_t)size, ZMQ_SNDMORE) == size &&
         zmq_send(p->socket, p->first, x->in, 0) == (int)x->in;
}

static void zmq_peer_run(const struct bench_exchange *x, int end)
{
  char endpoint[ZMQ_BENCH_ENDPOINT] = "";
  size_t size = sizeof(endpoint), room = x->out > x->in ? x->out : x->in;
  struct zmq_peer p = {.exchange = x, .first = calloc(1, room), .bulk = malloc(x->bulk + 1)};
  void *context;
  zmq_pollitem_t items[2] = {{.fd = end, .events = ZMQ_POLLIN}, {.events = ZMQ_POLLIN}};
  bench_pin(x->other);
  context = zmq_ctx_new();
  p.socket = zmq_bench_socket(context, ZMQ_ROUTER);
  if (!p.first || !p.bulk || !p.socket || zmq_bind(p.socket, "tcp://127.0.0.1:*") != 0 ||
      zmq_getsockopt(p.socket, ZMQ_LAST_ENDPOINT, endpoint, &size) != 0 ||
      write(end, endpoint, sizeof(endpoint)) != sizeof(endpoint))
    _exit(CLI_FAILED);
  items[1].socket = p.socket;
  /* Who measures waits in zmq_recv; here, too, once it has begun. */
  while (zmq_poll(items, 2, -1) > 0 && !items[0].revents) {
    while (zmq_peer_serve(&p))
      ;
  }
  _exit(CLI_OK);
}

/* ---- this side -------------------------------------------------------------------------- */

struct zmq_bench {
  const struct bench_exchange *exchange;
  void *context, *socket;
  char *first, *answer;
  uint64_t sent, got;
  uint64_t due[BENCH_BURST_MAX]; /* numbers that have been sent and not been answered */
  pid_t pid[BENCH_PEERS_MAX];
  int end[BENCH_PEERS_MAX];
};

static void zmq_bench_free(void *data, void *hint)
{
  (void)hint;
  free(data);
}

/* A new buffer each time, as on our side. */
static bool zmq_bench_send_bulk(struct zmq_bench *z, uint64_t stamp)
{
  const struct bench_exchange *x = z->exchange;
  void *bulk = malloc(x->bulk);
  zmq_msg_t part;
  if (!bulk)
    return false;
  bench_stamp(bulk, x->bulk, stamp);
  if (zmq_msg_init_data(&part, bulk, x->bulk, zmq_bench_free, NULL) != 0) {
    free(bulk);
    return false;
  }
  if (zmq_msg_send(&part, z->socket, 0) == (int)x->bulk)
    return true;
  zmq_msg_close(&part);
  return false;
}

/* Number and slot go along, and come back. */
static bool zmq_bench_send(struct zmq_bench *z, uint32_t slot)
{
  const struct bench_exchange *x = z->exchange;
  uint64_t words[2] = {++z->sent, slot};
  z->due[slot] = z->sent;
  memcpy(z->first, words, sizeof(words));
  return zmq_send(z->socket, z->first, x->out, x->bulk ? ZMQ_SNDMORE : 0) == (int)x->out &&
         (!x->bulk || zmq_bench_send_bulk(z, words[0]));
}

static bool zmq_bench_receive(struct zmq_bench *z, uint32_t *slot)
{
  const struct bench_exchange *x = z->exchange;
  uint64_t words[2];
  if (zmq_recv(z->socket, z->answer, x->in, 0) != (int)x->in)
    return false;
  memcpy(words, z->answer, sizeof(words));
  if (words[1] >= x->window || z->due[words[1]] != words[0])
    return false;
  *slot = (uint32_t)words[1];
  z->due[*slot] = 0;
  z->got++;
  return true;
}

/* One message at a time, after a pause each; what half of the round trips take at most. */
static double zmq_bench_calm(struct zmq_bench *z, uint64_t ns)
{
  const struct bench_exchange *x = z->exchange;
  struct timespec pause = {0, (long)x->pause_ns};
  struct bench_samples samples = {.count = 0};
  uint64_t end = cli_now() + ns;
  uint32_t slot;
  bool good = true;
  while (good && cli_now() < end) {
    nanosleep(&pause, NULL);
    uint64_t begin = cli_now();
    good = zmq_bench_send(z, 0) && zmq_bench_receive(z, &slot);
    bench_sample(&samples, cli_now() - begin);
  }
  return good ? 1e9 / bench_half(&samples) : 0;
}

static double zmq_bench_measure(struct zmq_bench *z, uint64_t ns)
{
  const struct bench_exchange *x = z->exchange;
  uint64_t begin = cli_now(), now = begin, first = 0, warm = x->bulk ? 1 : ZMQ_BENCH_WARM;
  bool good = true;
  uint32_t slot = 0;
  for (uint32_t i = 0; i < x->window && good; i++)
    good = zmq_bench_send(z, i);
  while (good && now - begin < ns) {
    good = zmq_bench_receive(z, &slot) && zmq_bench_send(z, slot);
    if (x->bulk || z->got % ZMQ_BENCH_LOOK == 0)
      now = cli_now();
    if (z->got == warm) {
      begin = now = cli_now();
      first = z->got;
    }
  }
  double rate = (double)(z->got - first) * 1e9 / (double)(now - begin);
  while (good && z->got < z->sent)
    good = zmq_bench_receive(z, &slot);
  return good ? rate : 0;
}

static bool zmq_bench_peer(struct zmq_bench *z, uint32_t i)
{
  char endpoint[ZMQ_BENCH_ENDPOINT];
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return false;
  z->pid[i] = fork();
  if (z->pid[i] == 0) {
    for (uint32_t k = 0; k < i; k++)
      close(z->end[k]);
    close(ends[0]);
    zmq_peer_run(z->exchange, ends[1]);
  }
  close(ends[1]);
  z->end[i] = ends[0];
  return z->pid[i] > 0 && read(ends[0], endpoint, sizeof(endpoint)) == sizeof(endpoint) &&
         zmq_connect(z->socket, endpoint) == 0;
}

static bool zmq_bench_buffers(struct zmq_bench *z)
{
  const struct bench_exchange *x = z->exchange;
  z->first = calloc(1, x->out);
  z->answer = calloc(1, x->in);
  return z->first && z->answer;
}

static void zmq_bench_end(struct zmq_bench *z)
{
  if (z->socket)
    zmq_close(z->socket);
  if (z->context)
    zmq_ctx_term(z->context);
  for (uint32_t i = 0; i < z->exchange->peers; i++) {
    if (z->end[i] >= 0)
      close(z->end[i]);
    if (z->pid[i] > 0 && kill(z->pid[i], SIGKILL) == 0) /* it may wait for a message */
      waitpid(z->pid[i], NULL, 0);
  }
  free(z->first);
  free(z->answer);
}

double bench_raw_exchange(const struct bench_exchange *x, uint64_t ns)
{
  struct zmq_bench z = {.exchange = x};
  double rate = 0;
  bool good = x->window >= 1 && x->window <= BENCH_BURST_MAX && x->peers <= BENCH_PEERS_MAX &&
              x->out >= 2 * sizeof(uint64_t) && x->in >= 2 * sizeof(uint64_t);
  for (uint32_t i = 0; i < BENCH_PEERS_MAX; i++)
    z.end[i] = -1;
  bench_pin(x->cpu);
  z.context = zmq_ctx_new();
  good = good && z.context && zmq_bench_buffers(&z) &&
         (z.socket = zmq_bench_socket(z.context, ZMQ_DEALER)) != NULL;
  for (uint32_t i = 0; i < x->peers && good; i++)
    good = zmq_bench_peer(&z, i);
  if (good)
    rate = x->pause_ns ? zmq_bench_calm(&z, ns) : zmq_bench_measure(&z, ns);
  bench_pin(BENCH_NOWHERE);
  zmq_bench_end(&z);
  return rate;
}
