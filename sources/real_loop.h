/* real_loop.h - the event loop of a node's network worker: the attach socket and its links, bells,
 * a deadline. libev underneath. One thread, but for real_loop_open. */
#ifndef CHI_REAL_LOOP_H
#define CHI_REAL_LOOP_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

struct ev_loop;
struct real_loop;

/* What the loop tells its owner, in real_loop_poll and real_loop_sleep only. connect, request and
 * hangup as runtime_on_*. */
struct real_loop_owner {
  void *arg;
  void (*connect)(void *arg, env_link link, const struct env_peer *peer);
  void (*request)(void *arg, env_link link, const void *message, size_t size);
  void (*hangup)(void *arg, env_link link);
  /* A sleep is over; comes before anything else that is told. */
  void (*awake)(void *arg);
};

#define REAL_LOOP_LINKS_MAX 4096 /* clients at a time; more are hung up on */

/* Begins to watch `listener`, which stays the caller's, and adds link_reply and link_close to the
 * environment. At most links_max links. CHI_ENOMEM. */
CHI_PRIVATE int real_loop_open(struct real_env *r, int listener, uint32_t links_max,
                               const struct real_loop_owner *owner);
/* Closes all links without a word to the owner. */
CHI_PRIVATE void real_loop_close(struct real_env *r);

/* Wakes the loop when fd becomes readable; a bell is then drained. CHI_ENOMEM. */
CHI_PRIVATE int real_loop_watch(struct real_loop *l, int fd, bool bell);
/* Something watched, no bell, wakes it no longer; or does again. Of what isn't watched: nothing. */
CHI_PRIVATE void real_loop_mute(struct real_loop *l, int fd, bool mute);

/* For those who have more to watch, and stop that before real_loop_close. */
CHI_PRIVATE struct ev_loop *real_loop_ev(const struct real_loop *l);

/* Handles what has arrived, without waiting. */
CHI_PRIVATE void real_loop_poll(struct real_loop *l);
/* Waits until something arrives or the deadline of the clock has come, and handles it. May return
 * for nothing. */
CHI_PRIVATE void real_loop_sleep(struct real_loop *l, uint64_t deadline);

#endif
#endif
