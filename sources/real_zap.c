/* real_zap.c - the door-keeper of an encrypted network: ZeroMQ asks it (ZAP, RFC 27) whether the
 * public key of one who connects is authorised; it also notices when the directory of keys changes.
 */
#include "real_zap.h"

#ifndef CHI_OMIT_REAL

#include "real_zmq.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <zmq.h>

#define REAL_ZAP_QUESTIONS 64u /* answered before others get their turn */
#define REAL_ZAP_PARTS 7       /* version, id, domain, address, identity, mechanism, credentials */
#define REAL_ZAP_TEXT 64u      /* bytes that are looked at of a part */
#define REAL_ZAP_CALM_S 0.2    /* the directory is read so long after it began to change */
#define REAL_ZAP_BLIND_S 5.    /* and as often if changes can't be heard of */

enum real_zap_part {
  REAL_ZAP_VERSION,
  REAL_ZAP_ID,
  REAL_ZAP_REALM,
  REAL_ZAP_ADDRESS,
  REAL_ZAP_IDENTITY,
  REAL_ZAP_MECHANISM,
  REAL_ZAP_KEY
};

/* A question: its parts, cut, each with a NUL behind it. */
struct real_zap_question {
  char part[REAL_ZAP_PARTS][REAL_ZAP_TEXT + 1];
  int size[REAL_ZAP_PARTS], count;
};

struct real_zap {
  struct ev_loop *ev;
  struct env *env;
  const struct log *log;
  struct real_keys *keys;
  struct real_zap_owner owner;
  void *socket; /* REP */
  ev_io io, change_io;
  ev_timer calm;
  int change_fd; /* of inotify; -1: none */
  uint32_t changes;
  struct log_limit refused, unread;
};

/* ---- questions ------------------------------------------------------------------------------- */

/* False: there is none. */
static bool real_zap_take(struct real_zap *z, struct real_zap_question *q)
{
  int more = 1, i = 0;
  *q = (struct real_zap_question){.count = 0};
  for (; more; i++) {
    size_t room = sizeof more;
    char spare[1], *to = i < REAL_ZAP_PARTS ? q->part[i] : spare;
    int n = real_zmq_take_bytes(z->socket, to, i < REAL_ZAP_PARTS ? REAL_ZAP_TEXT : 0);
    if (n < 0)
      return false;
    if (i < REAL_ZAP_PARTS)
      q->size[i] = n;
    zmq_getsockopt(z->socket, ZMQ_RCVMORE, &more, &room);
  }
  q->count = i;
  return true;
}

static void real_zap_answer(struct real_zap *z, const struct real_zap_question *q, bool good,
                            const char *user)
{
  real_zmq_put_text(z->socket, "1.0", true);
  real_zmq_put_text(z->socket, q->part[REAL_ZAP_ID], true);
  real_zmq_put_text(z->socket, good ? "200" : "400", true);
  real_zmq_put_text(z->socket, "", true);
  real_zmq_put_text(z->socket, user, true);
  real_zmq_put_text(z->socket, "", false);
}

/* The user of an authorised connection is its public key: that is looked at with each message. */
static void real_zap_judge(struct real_zap *z, const struct real_zap_question *q)
{
  real_keys_text key = "";
  bool asked = q->count == REAL_ZAP_PARTS && strcmp(q->part[REAL_ZAP_VERSION], "1.0") == 0 &&
               strcmp(q->part[REAL_ZAP_MECHANISM], "CURVE") == 0 && q->size[REAL_ZAP_KEY] == 32;
  if (asked)
    zmq_z85_encode(key, (const uint8_t *)q->part[REAL_ZAP_KEY], 32);
  bool good = asked && real_keys_known(z->keys, key);
  real_zap_answer(z, q, good, good ? key : "");
  if (!good)
    log_limited(z->log, &z->refused, z->env->clock(z->env), CHI_LOG_WARNING,
                "refused a connection from %s: its public key %s is not one of a node in %s",
                q->part[REAL_ZAP_ADDRESS], key, z->keys->directory);
}

static void real_zap_on_question(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_zap *z = io->data;
  struct real_zap_question q;
  uint32_t i = 0;
  (void)events;
  for (; i < REAL_ZAP_QUESTIONS && real_zap_take(z, &q); i++)
    real_zap_judge(z, &q);
  if (i == REAL_ZAP_QUESTIONS)
    real_zmq_again(ev, io);
}

/* ---- changes of the directory ---------------------------------------------------------------- */

static void real_zap_calm_down(struct real_zap *z, double seconds)
{
  if (ev_is_active(&z->calm))
    return;
  ev_timer_set(&z->calm, seconds, 0.);
  ev_now_update(z->ev);
  ev_timer_start(z->ev, &z->calm);
}

static void real_zap_on_key(void *arg, uint32_t node)
{
  struct real_zap *z = arg;
  const char *name = z->keys->hosts[node].name;
  z->changes++;
  log_write(z->log, CHI_LOG_INFO, "node %u (%s) %s", node, name,
            z->keys->node[node][0] ? "has another authorised key now"
                                   : "has no authorised key any more: it is not spoken with");
  z->owner.changed(z->owner.arg, node);
}

/* The watch is put up again, for the name may mean another directory now. */
static void real_zap_on_calm(struct ev_loop *ev, ev_timer *timer, int events)
{
  const uint32_t what = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                        IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
  struct real_zap *z = timer->data;
  chi_error err = {0, ""};
  (void)ev;
  (void)events;
  bool seen = z->change_fd >= 0 &&
              inotify_add_watch(z->change_fd, z->keys->directory, what) >= 0;
  if (real_keys_read(z->keys, real_zap_on_key, z, &err) != CHI_OK)
    log_limited(z->log, &z->unread, z->env->clock(z->env), CHI_LOG_ERROR,
                "%s; that node is not spoken with", err.text);
  if (!seen)
    real_zap_calm_down(z, REAL_ZAP_BLIND_S);
}

static void real_zap_on_change(struct ev_loop *ev, ev_io *io, int events)
{
  char news[4096];
  struct real_zap *z = io->data;
  (void)ev;
  (void)events;
  while (read(io->fd, news, sizeof news) > 0)
    ;
  real_zap_calm_down(z, REAL_ZAP_CALM_S);
}

/* ---- open and close -------------------------------------------------------------------------- */

int real_zap_open(struct real_zap **out, void *context, struct ev_loop *ev, struct env *env,
                  const struct log *log, struct real_keys *keys, const struct real_zap_owner *owner)
{
  struct real_zap *z = calloc(1, sizeof *z);
  *out = z;
  if (!z)
    return CHI_ENOMEM;
  *z = (struct real_zap){.ev = ev, .env = env, .log = log, .keys = keys, .owner = *owner};
  ev_timer_init(&z->calm, real_zap_on_calm, 0., 0.);
  z->calm.data = z;
  z->change_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (z->change_fd >= 0) {
    ev_io_init(&z->change_io, real_zap_on_change, z->change_fd, EV_READ);
    z->change_io.data = z;
    ev_io_start(ev, &z->change_io);
  }
  z->socket = real_zmq_socket(context, ZMQ_REP);
  if (!z->socket || zmq_bind(z->socket, "inproc://zeromq.zap.01") != 0) {
    real_zap_close(z);
    *out = NULL;
    return CHI_ENOMEM;
  }
  real_zmq_watch(ev, &z->io, z->socket, z, real_zap_on_question);
  real_zap_on_question(ev, &z->io, EV_READ); /* from now on its descriptor tells */
  real_zap_calm_down(z, REAL_ZAP_CALM_S);    /* what has changed before there was a watch */
  return CHI_OK;
}

void real_zap_close(struct real_zap *z)
{
  if (!z)
    return;
  ev_timer_stop(z->ev, &z->calm);
  if (z->change_fd >= 0) {
    ev_io_stop(z->ev, &z->change_io);
    close(z->change_fd);
  }
  if (z->socket)
    ev_io_stop(z->ev, &z->io);
  real_zmq_drop(&z->socket);
  free(z);
}

#undef REAL_ZAP_QUESTIONS
#undef REAL_ZAP_PARTS
#undef REAL_ZAP_TEXT
#undef REAL_ZAP_CALM_S
#undef REAL_ZAP_BLIND_S

#endif
