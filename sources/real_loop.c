/* real_loop.c - the event loop of a node's network worker: the attach socket and its links, bells,
 * a deadline. */
#include "real_loop.h"

#ifndef CHI_OMIT_REAL

#include "real_link.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define REAL_LOOP_FIRST 64             /* links there is room for at first */
#define REAL_LOOP_ACCEPTS 16           /* accepted at a time, before others get their turn */
#define REAL_LOOP_REQUESTS 8           /* of one link at a time, likewise */
#define REAL_LOOP_OWED 16              /* who has more requests unanswered is no client */
#define REAL_LOOP_RETRY_S 0.1          /* until accepting is tried again after it failed */

/* A link's handle is its generation and its index: a handle of a link that is gone fits nothing. */
struct real_loop_link {
  struct real_loop *loop;
  ev_io input, death;
  int fd;    /* -1: free */
  int pidfd; /* -1: none */
  uint32_t index, generation;
  uint32_t owed; /* requests without an answer */
  struct real_loop_link *next_free;
};

/* Something else that wakes the loop. */
struct real_loop_source {
  ev_io io;
  bool bell;
  struct real_loop_source *next;
};

struct real_loop {
  struct real_env *env;
  struct real_loop_owner owner;
  struct ev_loop *ev;
  ev_io listener, clock;
  ev_timer retry;
  int timer;      /* timerfd of the deadline: libev counts in milliseconds */
  uint64_t armed; /* what it is set to; UINT64_MAX: nothing */
  bool asleep;
  struct real_loop_source *sources;
  struct real_loop_link **link;
  uint32_t link_count, link_room, links_max, links_used;
  struct real_loop_link *free_links;
  struct log_limit complaints;
};

static void real_loop_complain(struct real_loop *l, const char *text)
{
  real_env_complain(l->env, &l->complaints, CHI_LOG_WARNING, text);
}

/* ---- links ----------------------------------------------------------------------------------- */

static env_link real_loop_handle(const struct real_loop_link *k)
{
  return (env_link)((uint64_t)k->generation << 32 | k->index);
}

static struct real_loop_link *real_loop_find(const struct real_loop *l, env_link link)
{
  uint32_t index = (uint32_t)link, generation = (uint32_t)((uint64_t)link >> 32);
  if (index >= l->link_count)
    return NULL;
  struct real_loop_link *k = l->link[index];
  return k->fd >= 0 && k->generation == generation ? k : NULL;
}

/* A place for one more link, or NULL. */
static struct real_loop_link *real_loop_place(struct real_loop *l)
{
  struct real_loop_link *k = l->free_links;
  if (k) {
    l->free_links = k->next_free;
    return k;
  }
  if (l->link_count == l->link_room) {
    uint32_t room = l->link_room ? 2 * l->link_room : REAL_LOOP_FIRST;
    struct real_loop_link **more = realloc(l->link, room * sizeof(struct real_loop_link *));
    if (!more)
      return NULL;
    l->link = more;
    l->link_room = room;
  }
  k = calloc(1, sizeof(*k));
  if (!k)
    return NULL;
  k->loop = l;
  k->generation = 1;
  k->fd = k->pidfd = -1;
  k->index = l->link_count;
  l->link[l->link_count++] = k;
  return k;
}

static void real_loop_drop(struct real_loop_link *k)
{
  struct real_loop *l = k->loop;
  CHI_ASSERT(k->fd >= 0);
  ev_io_stop(l->ev, &k->input);
  shutdown(k->fd, SHUT_RDWR);
  close(k->fd);
  if (k->pidfd >= 0) {
    ev_io_stop(l->ev, &k->death);
    close(k->pidfd);
  }
  k->fd = k->pidfd = -1;
  k->generation = k->generation % INT32_MAX + 1;
  k->next_free = l->free_links;
  l->free_links = k;
  l->links_used--;
}

/* The end of a link that its owner does not know of yet. */
static void real_loop_hang_up(struct real_loop_link *k)
{
  struct real_loop *l = k->loop;
  env_link link = real_loop_handle(k);
  real_loop_drop(k);
  l->owner.hangup(l->owner.arg, link);
}

static void real_loop_on_death(struct ev_loop *ev, ev_io *io, int events)
{
  (void)ev;
  (void)events;
  real_loop_hang_up((struct real_loop_link *)io->data);
}

static void real_loop_on_input(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop_link *k = (struct real_loop_link *)io->data;
  struct real_loop *l = k->loop;
  env_link link = real_loop_handle(k);
  char message[ENV_MESSAGE_MAX];
  (void)ev;
  (void)events;
  for (int i = 0; i < REAL_LOOP_REQUESTS && real_loop_find(l, link) == k; i++) {
    int64_t size = real_link_take(k->fd, message, sizeof(message));
    if (size == 0)
      return;
    if (size < 0 || k->owed == REAL_LOOP_OWED) {
      real_loop_hang_up(k);
      return;
    }
    k->owed++;
    l->owner.request(l->owner.arg, link, message, (size_t)size);
  }
}

/* Takes over a connection. False: no memory. */
static bool real_loop_adopt(struct real_loop *l, int fd, const struct env_peer *peer)
{
  struct real_loop_link *k = real_loop_place(l);
  if (!k)
    return false;
  k->fd = fd;
  k->owed = 0;
  k->pidfd = real_link_watch(fd, peer);
  l->links_used++;
  ev_io_init(&k->input, real_loop_on_input, fd, EV_READ);
  k->input.data = k;
  ev_io_start(l->ev, &k->input);
  if (k->pidfd >= 0) {
    ev_io_init(&k->death, real_loop_on_death, k->pidfd, EV_READ);
    ev_set_priority(&k->death, EV_MINPRI); /* what it has sent before counts */
    k->death.data = k;
    ev_io_start(l->ev, &k->death);
  }
  l->owner.connect(l->owner.arg, real_loop_handle(k), peer);
  return true;
}

static void real_loop_welcome(struct real_loop *l, int fd)
{
  struct env_peer peer;
  if (real_link_peer(fd, &peer) != CHI_OK) {
    real_loop_complain(l, "refused a client of another user");
  } else if (l->links_used == l->links_max) {
    real_loop_complain(l, "refused a client: there are too many");
  } else if (!real_loop_adopt(l, fd, &peer)) {
    real_loop_complain(l, "refused a client: out of memory");
  } else {
    return;
  }
  close(fd);
}

/* Accepting fails as long as descriptors or memory are short, while the socket stays readable. */
static void real_loop_rest(struct real_loop *l)
{
  real_loop_complain(l, "cannot accept clients: out of descriptors or memory; trying again");
  ev_io_stop(l->ev, &l->listener);
  ev_timer_set(&l->retry, REAL_LOOP_RETRY_S, 0.);
  ev_now_update(l->ev);
  ev_timer_start(l->ev, &l->retry);
}

static void real_loop_on_retry(struct ev_loop *ev, ev_timer *timer, int events)
{
  struct real_loop *l = (struct real_loop *)timer->data;
  (void)events;
  ev_io_start(ev, &l->listener);
}

static void real_loop_on_listener(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop *l = (struct real_loop *)io->data;
  (void)ev;
  (void)events;
  for (int i = 0; i < REAL_LOOP_ACCEPTS; i++) {
    int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
      real_loop_welcome(l, fd);
    else if (errno == EAGAIN)
      return;
    else if (errno != EINTR && errno != ECONNABORTED) {
      real_loop_rest(l);
      return;
    }
  }
}

static int real_loop_reply(struct env *env, env_link link, const void *message, size_t size,
                           const struct env_share *shares, uint32_t count)
{
  struct real_loop_link *k = real_loop_find(real_env_of(env)->loop, link);
  if (!k)
    return CHI_ESHUTDOWN;
  int rc = real_link_answer(k->fd, message, size, shares, count);
  if (rc == CHI_ESHUTDOWN) /* who doesn't read answers is gone, too: the loop will see it */
    shutdown(k->fd, SHUT_RDWR);
  else if (rc == CHI_OK && k->owed > 0)
    k->owed--;
  return rc;
}

static void real_loop_close_link(struct env *env, env_link link)
{
  struct real_loop_link *k = real_loop_find(real_env_of(env)->loop, link);
  if (k)
    real_loop_drop(k);
}

/* ---- what else wakes ------------------------------------------------------------------------- */

static void real_loop_on_source(struct ev_loop *ev, ev_io *io, int events)
{
  const struct real_loop_source *s = (const struct real_loop_source *)io->data;
  (void)ev;
  (void)events;
  if (s->bell)
    real_env_drain(io->fd);
}

int real_loop_watch(struct real_loop *l, int fd, bool bell)
{
  struct real_loop_source *s = calloc(1, sizeof(*s));
  if (!s)
    return CHI_ENOMEM;
  s->bell = bell;
  s->next = l->sources;
  l->sources = s;
  ev_io_init(&s->io, real_loop_on_source, fd, EV_READ);
  s->io.data = s;
  ev_io_start(l->ev, &s->io);
  return CHI_OK;
}

void real_loop_mute(struct real_loop *l, int fd, bool mute)
{
  for (struct real_loop_source *s = l->sources; s; s = s->next) {
    if (s->io.fd != fd || s->bell)
      continue;
    if (mute)
      ev_io_stop(l->ev, &s->io);
    else
      ev_io_start(l->ev, &s->io);
  }
}

struct ev_loop *real_loop_ev(const struct real_loop *l)
{
  return l->ev;
}

static void real_loop_on_clock(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_loop *l = (struct real_loop *)io->data;
  (void)ev;
  (void)events;
  real_env_drain(io->fd);
  l->armed = UINT64_MAX;
}

static void real_loop_arm(struct real_loop *l, uint64_t deadline)
{
  struct itimerspec at = {{0, 0}, {0, 0}};
  if (deadline == l->armed)
    return;
  if (deadline != UINT64_MAX) {
    at.it_value.tv_sec = (time_t)(deadline / 1000000000u);
    at.it_value.tv_nsec = (long)(deadline % 1000000000u);
  }
  int rc = timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &at, NULL);
  CHI_ASSERT(rc == 0);
  l->armed = deadline;
}

/* libev calls this when it has waited, before it calls any watcher. */
static void real_loop_woken(struct ev_loop *ev)
{
  struct real_loop *l = (struct real_loop *)ev_userdata(ev);
  if (!l->asleep)
    return;
  l->asleep = false;
  l->owner.awake(l->owner.arg);
}

void real_loop_poll(struct real_loop *l)
{
  CHI_ASSERT(!l->asleep);
  ev_run(l->ev, EVRUN_NOWAIT);
}

void real_loop_sleep(struct real_loop *l, uint64_t deadline)
{
  CHI_ASSERT(!l->asleep);
  real_loop_arm(l, l->env->until ? l->env->until(l->env, deadline) : deadline);
  l->asleep = true;
  ev_run(l->ev, EVRUN_ONCE);
  CHI_ASSERT(!l->asleep);
}

/* ---- open and close -------------------------------------------------------------------------- */

static void real_loop_start(struct real_loop *l, int listener)
{
  ev_set_userdata(l->ev, l);
  ev_set_loop_release_cb(l->ev, NULL, real_loop_woken);
  ev_io_init(&l->listener, real_loop_on_listener, listener, EV_READ);
  ev_set_priority(&l->listener, EV_MINPRI); /* those who are there come first */
  l->listener.data = l;
  ev_io_start(l->ev, &l->listener);
  ev_io_init(&l->clock, real_loop_on_clock, l->timer, EV_READ);
  l->clock.data = l;
  ev_io_start(l->ev, &l->clock);
  ev_timer_init(&l->retry, real_loop_on_retry, REAL_LOOP_RETRY_S, 0.);
  l->retry.data = l;
}

int real_loop_open(struct real_env *r, int listener, uint32_t links_max,
                   const struct real_loop_owner *owner)
{
  struct real_loop *l = calloc(1, sizeof(*l));
  if (!l)
    return CHI_ENOMEM;
  l->env = r;
  l->owner = *owner;
  l->links_max = links_max;
  l->armed = UINT64_MAX;
  l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  l->ev = l->timer >= 0 ? ev_loop_new(EVFLAG_NOENV | EVBACKEND_EPOLL | EVBACKEND_POLL) : NULL;
  if (!l->ev) {
    if (l->timer >= 0)
      close(l->timer);
    free(l);
    return CHI_ENOMEM;
  }
  real_loop_start(l, listener);
  r->loop = l;
  r->env.link_reply = real_loop_reply;
  r->env.link_close = real_loop_close_link;
  return CHI_OK;
}

void real_loop_close(struct real_env *r)
{
  struct real_loop *l = r->loop;
  for (uint32_t i = 0; i < l->link_count; i++) {
    if (l->link[i]->fd >= 0)
      real_loop_drop(l->link[i]);
    free(l->link[i]);
  }
  while (l->sources) {
    struct real_loop_source *s = l->sources;
    l->sources = s->next;
    ev_io_stop(l->ev, &s->io);
    free(s);
  }
  ev_loop_destroy(l->ev);
  close(l->timer);
  free(l->link);
  free(l);
  r->loop = NULL;
}

#undef REAL_LOOP_FIRST
#undef REAL_LOOP_ACCEPTS
#undef REAL_LOOP_REQUESTS
#undef REAL_LOOP_OWED
#undef REAL_LOOP_RETRY_S

#endif
