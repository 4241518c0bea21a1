/* real_stand.c - who stands in for the network worker's thread when that does not come back. */
#include "real_stand.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "real_env.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REAL_STAND_LINGER 12u /* looks that find nothing, until it sleeps */

enum real_stand_place {
  REAL_STAND_HOME,  /* at the network worker */
  REAL_STAND_AWAY,  /* in a step of the brief one */
  REAL_STAND_TAKEN, /* there, and the network worker was taken from it */
  REAL_STAND_BACK   /* back, and wants it again */
};

int real_stand_open(struct real_stand *s)
{
  *s = (struct real_stand){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->home, NULL);
  return s->fd >= 0 ? CHI_OK : CHI_ENOMEM;
}

void real_stand_close(struct real_stand *s)
{
  if (s->fd >= 0)
    close(s->fd);
  s->fd = -1;
  pthread_mutex_destroy(&s->lock);
  pthread_cond_destroy(&s->home);
}

void real_stand_wake(struct real_stand *s)
{
  real_env_ring(s->fd);
}

/* ---- the network worker's thread ------------------------------------------------------------- */

void real_stand_leave(struct real_stand *s)
{
  mark_set_fenced(&s->place, REAL_STAND_AWAY);
  if (mark_get(&s->watching))
    return;
  mark_set(&s->watching, 1);
  real_stand_wake(s);
}

bool real_stand_return(struct real_stand *s, struct env *env, env_bell bell)
{
  if (mark_change(&s->place, REAL_STAND_AWAY, REAL_STAND_HOME))
    return false;
  pthread_mutex_lock(&s->lock);
  if (mark_get(&s->place) == REAL_STAND_TAKEN) {
    mark_set(&s->place, REAL_STAND_BACK);
    env->bell_ring(env, bell);
  }
  while (mark_get(&s->place) != REAL_STAND_HOME)
    pthread_cond_wait(&s->home, &s->lock);
  pthread_mutex_unlock(&s->lock);
  return true;
}

/* ---- the one that stands in ------------------------------------------------------------------ */

bool real_stand_wanted(const struct real_stand *s)
{
  return mark_get(&s->place) == REAL_STAND_BACK;
}

void real_stand_give_back(struct real_stand *s)
{
  pthread_mutex_lock(&s->lock);
  /* Who quits gives back unasked: the other, if it ever returns, is only to find its way out. */
  mark_set(&s->place, REAL_STAND_HOME);
  pthread_cond_signal(&s->home);
  pthread_mutex_unlock(&s->lock);
}

/* Whoever leaves sets its place before it looks whether anybody watches. */
static void real_stand_rest(struct real_stand *s)
{
  mark_set_fenced(&s->watching, 0);
  if (mark_get(&s->place) == REAL_STAND_AWAY)
    mark_set(&s->watching, 1);
}

bool real_stand_await(struct real_stand *s, const struct runtime *rt, const uint32_t *quit)
{
  const int look_ms = RUNTIME_STUCK_NS / 1000000u;
  struct pollfd p = {s->fd, POLLIN, 0};
  uint64_t beat = 0;
  uint32_t idle = 0;
  while (!mark_get(quit)) {
    bool watching = mark_get(&s->watching);
    if (poll(&p, 1, watching ? look_ms : -1) > 0)
      real_env_drain(s->fd);
    uint64_t before = beat;
    bool stays = runtime_brief_stays(rt, &beat);
    if (stays && watching && mark_change(&s->place, REAL_STAND_AWAY, REAL_STAND_TAKEN))
      return true;
    idle = beat == before ? idle + 1 : 0;
    if (idle < REAL_STAND_LINGER)
      continue;
    idle = 0;
    real_stand_rest(s);
  }
  return false;
}

#undef REAL_STAND_LINGER

#endif
