/* server.c - for tests of links: a node's loop that answers on a thread of its own, and clients. */
#include "server.h"
#include "atomic.h"
#include "real_loop.h"
#include "real_shm.h"
#include "scratch.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

/* ---- a node's side that answers on a thread of its own --------------------------------------- */

static void server_on_connect(void *arg, env_link link, const struct env_peer *peer)
{
  struct server *s = arg;
  s->peer = *peer;
  s->last = link;
  atomic_add(&s->connects, 1);
}

static void server_share(struct server *s, env_link link)
{
  struct env *env = &s->r.env;
  const struct env_share shares[] = {
      {.kind = ENV_SHARE_SEGMENT_READ, .segment = s->readable},
      {.kind = ENV_SHARE_BELL, .bell = s->shared_bell},
      {.kind = ENV_SHARE_SEGMENT_WRITE, .segment = s->writable},
  };
  s->share_rc = env->link_reply(env, link, "three", 5, shares, CHI_COUNT(shares));
  if (s->share_rc != CHI_OK)
    env->link_reply(env, link, "none", 4, NULL, 0);
}

static void server_on_request(void *arg, env_link link, const void *message, size_t size)
{
  struct server *s = arg;
  struct env *env = &s->r.env;
  char what = *(const char *)message;
  atomic_add(&s->requests, 1);
  if (what == SERVER_ECHO)
    env->link_reply(env, link, message, size, NULL, 0);
  if (what == SERVER_SHARE)
    server_share(s, link);
  if (what == SERVER_CLOSE)
    env->link_close(env, link);
  if (what == SERVER_RING) {
    env->bell_ring(env, s->shared_bell);
    env->link_reply(env, link, "", 0, NULL, 0);
  }
}

static void server_on_hangup(void *arg, env_link link)
{
  struct server *s = arg;
  struct env *env = &s->r.env;
  /* A handle of a link that is gone is harmless. */
  if (env->link_reply(env, link, "x", 1, NULL, 0) != CHI_ESHUTDOWN)
    abort();
  env->link_close(env, link);
  atomic_add(&s->hangups, 1);
}

static void server_on_awake(void *arg)
{
  struct server *s = arg;
  atomic_add(&s->awakes, 1);
}

static void *server_main(void *arg)
{
  struct server *s = arg;
  while (!atomic_get_acquire(&s->quit))
    real_loop_sleep(s->r.loop, UINT64_MAX);
  return NULL;
}

static bool server_open_memory(struct server *s)
{
  struct env *env = &s->r.env;
  return env->segment_open(env, "readable", 4096, ENV_SHARED_READ, &s->readable) == CHI_OK &&
         env->segment_open(env, "writable", 8192, ENV_SHARED_WRITE, &s->writable) == CHI_OK;
}

bool server_start(struct server *s, uint32_t links_max)
{
  const struct real_loop_owner owner = {s, server_on_connect, server_on_request, server_on_hangup,
                                        server_on_awake};
  memset(s, 0, sizeof(*s));
  if (!scratch_make(s->dir) || real_env_open(&s->r, NULL) != CHI_OK)
    return false;
  snprintf(s->directory, sizeof(s->directory), "%s/run", s->dir);
  s->r.directory = s->directory;
  real_shm_bind(&s->r);
  real_link_bind(&s->r);
  return real_link_locate(s->directory, "here", 1, &s->place, NULL) == CHI_OK &&
         real_link_listen(&s->place, &s->desk, NULL) == CHI_OK &&
         real_loop_open(&s->r, s->desk.socket, links_max, &owner) == CHI_OK &&
         s->r.env.bell_open(&s->r.env, &s->bell) == CHI_OK &&
         s->r.env.bell_open(&s->r.env, &s->shared_bell) == CHI_OK && server_open_memory(s) &&
         real_loop_watch(s->r.loop, real_env_bell_of(s->bell)->fd, true) == CHI_OK &&
         pthread_create(&s->thread, NULL, server_main, s) == 0;
}

void server_hang_up(struct server *s)
{
  struct env *env = &s->r.env;
  atomic_set_release(&s->quit, 1);
  env->bell_ring(env, s->bell);
  pthread_join(s->thread, NULL);
  real_loop_close(&s->r);
  real_link_leave(&s->place, &s->desk);
}

void server_free(struct server *s)
{
  struct env *env = &s->r.env;
  env->segment_close(env, &s->readable);
  env->segment_close(env, &s->writable);
  env->bell_close(env, s->bell);
  env->bell_close(env, s->shared_bell);
  real_env_close(&s->r);
  scratch_remove(s->dir);
}

void server_stop(struct server *s)
{
  server_hang_up(s);
  server_free(s);
}

bool server_reaches(const uint32_t *counter, uint32_t value)
{
  const struct timespec nap = {0, 1000000};
  for (int i = 0; i < 5000 && atomic_get_acquire(counter) < value; i++)
    nanosleep(&nap, NULL);
  return atomic_get_acquire(counter) == value;
}

bool server_descriptors_settle(int count)
{
  const struct timespec nap = {0, 1000000};
  for (int i = 0; i < 5000 && scratch_descriptors() != count; i++)
    nanosleep(&nap, NULL);
  return scratch_descriptors() == count;
}

/* ---- a client's side ------------------------------------------------------------------------- */

int guest_open(struct guest *g, const struct server *s, const char *instance, chi_error *err)
{
  if (real_env_open(&g->r, NULL) != CHI_OK)
    return CHI_ENOMEM;
  g->env = &g->r.env;
  g->r.directory = s ? s->directory : NULL;
  real_shm_bind(&g->r);
  real_link_bind(&g->r);
  int rc = g->env->link_open(g->env, instance, &g->link, err);
  if (rc != CHI_OK)
    real_env_close(&g->r);
  return rc;
}

void guest_close(struct guest *g)
{
  g->env->link_shut(g->env, g->link);
  real_env_close(&g->r);
}

int guest_call(struct guest *g, const char *request, size_t size, char *reply, size_t *room)
{
  uint32_t count = 0;
  return g->env->link_call(g->env, g->link, request, size, reply, room, NULL, &count);
}

int guest_connect_raw(const struct server *s)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", s->place.socket);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
    return -1;
  return fd;
}

bool guest_hung_up(int fd)
{
  struct pollfd p = {fd, POLLRDHUP, 0};
  return poll(&p, 1, 5000) == 1 && (p.revents & (POLLHUP | POLLRDHUP));
}

void *guest_call_often(void *arg)
{
  struct guest_caller *c = arg;
  for (int i = 0; i < 500; i++) {
    char request[64], reply[64];
    size_t size = sizeof(reply);
    int n = snprintf(request, sizeof(request), "e %p %d", arg, i);
    if (guest_call(c->guest, request, (size_t)n, reply, &size) != CHI_OK || size != (size_t)n ||
        memcmp(request, reply, size) != 0)
      c->wrong++;
  }
  return NULL;
}
