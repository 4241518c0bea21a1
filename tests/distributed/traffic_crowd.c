/* traffic_crowd.c - strangers at the port of a node: thousands of connections, silent or noisy. */
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CROWD_CALLS 10000
#define CROWD_PORT 5555
#define CROWD_NOISE 300 /* bytes of one who speaks */

/* What ZeroMQ says first: with it noise comes a bit further. */
static const unsigned char crowd_greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0,
                                                 'N',  'U', 'L', 'L'};

struct crowd {
  struct sockaddr_in to;
  struct pollfd call[CROWD_CALLS]; /* fd -1: none */
  uint64_t calls, met, ended;      /* begun; answered by the node; that have come to an end */
};

/* A connection on its way. */
static int crowd_call(struct crowd *c, uint32_t i)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  c->call[i] = (struct pollfd){fd, POLLIN | POLLOUT, 0};
  if (fd < 0)
    return traffic_fail("connection %u: %s", i, strerror(errno));
  c->calls++;
  if (connect(fd, (struct sockaddr *)&c->to, sizeof c->to) == 0 || errno == EINPROGRESS)
    return 0;
  return traffic_fail("connection %u: %s", i, strerror(errno));
}

/* One in four says nothing, one greets only, the others make noise, with a greeting or without. */
static void crowd_speak(int fd, uint32_t i)
{
  unsigned char noise[CROWD_NOISE];
  for (size_t n = 0; n < sizeof noise; n++)
    noise[n] = (unsigned char)random();
  if (i % 4 == 1 || i % 4 == 2)
    send(fd, crowd_greeting, sizeof crowd_greeting, MSG_NOSIGNAL);
  if (i % 4 >= 2)
    send(fd, noise, sizeof noise, MSG_NOSIGNAL);
}

/* Looks after one connection; one that has ended is made anew. */
static int crowd_attend(struct crowd *c, uint32_t i)
{
  struct pollfd *p = &c->call[i];
  unsigned char bytes[256];
  ssize_t n = 0;
  if (p->revents & POLLOUT && !(p->revents & (POLLERR | POLLHUP))) {
    crowd_speak(p->fd, i);
    p->events = POLLIN;
  }
  if (p->revents & (POLLIN | POLLERR | POLLHUP)) {
    n = recv(p->fd, bytes, sizeof bytes, 0);
    c->met += n > 0;
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
      close(p->fd);
      c->ended++;
      return crowd_call(c, i);
    }
  }
  return 0;
}

static int crowd_stay(struct crowd *c, uint64_t seconds)
{
  uint64_t end = traffic_now() + seconds * TRAFFIC_SECOND;
  while (traffic_now() < end) {
    if (poll(c->call, CROWD_CALLS, 100) < 0 && errno != EINTR)
      return traffic_fail("poll: %s", strerror(errno));
    for (uint32_t i = 0; i < CROWD_CALLS; i++)
      if (c->call[i].revents && crowd_attend(c, i) != 0)
        return 1;
    traffic_pause(10 * TRAFFIC_MS);
  }
  return 0;
}

int traffic_crowd(const struct traffic_options *o)
{
  static struct crowd c;
  struct rlimit files;
  int status = 0;
  c.to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(CROWD_PORT)};
  if (!o->address || inet_pton(AF_INET, o->address, &c.to.sin_addr) != 1)
    return traffic_fail("crowd: expected address=ADDRESS, that of a node");
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  for (uint32_t i = 0; i < CROWD_CALLS && status == 0; i++)
    status = crowd_call(&c, i);
  if (status == 0)
    status = crowd_stay(&c, o->seconds);
  printf("%llu connections, %llu answered, %llu ended\n", (unsigned long long)c.calls,
         (unsigned long long)c.met, (unsigned long long)c.ended);
  return status == 0 && c.met == 0 ? traffic_fail("nobody was at the port") : status;
}
