/* real_net.c - the other nodes, over ZeroMQ: net_open, net_send, net_reset and net_close of a node.
 */
#include "real_net.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "error.h"
#include "log.h"
#include "real_guest.h"
#include "real_keys.h"
#include "real_loop.h"
#include "real_zap.h"
#include "real_zmq.h"
#include "ring.h"
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#define REAL_NET_MESSAGES 64u  /* received in a turn, before others get theirs */
#define REAL_NET_BYTES 4096u   /* likewise: then what they ask for is done, and answered, first */
#define REAL_NET_SEAL 64u      /* bytes that encryption adds to a frame, at most */
#define REAL_NET_UNLOOKED 64u  /* turns full of messages until strangers are looked at */
#define REAL_NET_TICK_S 0.1    /* what could not be done is tried again */
#define REAL_NET_TICKS_MAX 10u /* until a connection that broke is tried again, at most */
#define REAL_NET_LOOKUP_NS 2000000000u /* names are tried at the start for so long */

/* Of every socket. A message is up to 64 KiB and its bulk, which is bounded apart: so the queue to
 * a peer holds as much as 64 MiB, and what is received of one peer and not yet looked at a tenth. A
 * connection that is silent though it was asked is dead; with the peer's machine gone, nothing else
 * would tell. Membership finds out sooner who doesn't answer. */
#define REAL_NET_SEND_QUEUE 1000
#define REAL_NET_TAKE_QUEUE 100
#define REAL_NET_ASK_MS 2000       /* a connection is asked whether it lives */
#define REAL_NET_DEAD_MS 6000      /* silent for so long, it does not */
#define REAL_NET_HANDSHAKE_MS 5000 /* who says nothing sensible is no node */
#define REAL_NET_CONNECT_MS 3000   /* until the system would give up by itself it takes minutes */
#define REAL_NET_AGAIN_MS 100      /* between attempts to connect, at first */
#define REAL_NET_AGAIN_MAX_MS 1000
#define REAL_NET_BACKLOG 1024
#define REAL_NET_COMMAND_MAX 4096 /* bytes of what ZeroMQ itself answers to a PUSH */
#define REAL_NET_SOCKETS 6u       /* for each node: two, their monitors, and two being closed */

/* Bulk on its way: what it was sent with, to be handed back when no frame is read any more. */
struct real_net_parcel {
  struct ring_node node;
  struct real_net *net;
  void *parcel;
  uint64_t bytes;
  uint32_t peer;
  uint32_t left; /* atomic: frames that are read, and one for who sends */
};

struct real_net_peer {
  struct real_net *net;
  uint32_t node;
  void *out;           /* PUSH; NULL: a tick makes a new one */
  void *news;          /* PAIR on its monitor */
  ev_io out_io, news_io;
  bool up;             /* hands were shaken */
  bool told, lost;     /* the owner takes it for connected; since then it was not */
  uint32_t wait, next; /* ticks until it is tried, and until it is the time after */
  uint32_t generation; /* of the socket: names its monitor */
  uint64_t called_at;  /* when its machine took the connection */
  uint64_t pinned;     /* bytes of bulk on their way */
  struct log_limit failed, gone; /* for a reason that is known, or not */
};

struct real_net {
  struct real_env *env;
  struct real_net_owner owner;
  struct ev_loop *ev;
  const chi_host *hosts;
  uint32_t count, self, port;
  void *context; /* NULL: not open */
  void *in;      /* PULL, at our own address */
  ev_io in_io, sent_io;
  ev_timer tick;
  struct real_net_peer *peer; /* by node; that of self is unused */
  bool changed;               /* some peer's state is to be told */
  bool heard;                 /* `in` may have messages: its descriptor, or a look, has told */
  struct inbox sent;          /* parcels that no frame of is read any more */
  int sent_fd;
  struct real_guest_book *guests; /* those connected to us */
  bool stirred;                   /* they came or went, in this turn */
  uint32_t unlooked;              /* turns full of messages since they were looked at */
  const chi_config *config;
  struct real_keys keys; /* zero: messages are plain text */
  struct real_zap *zap;
  struct log log;
  struct log_limit dropped, forged, undialled;
};

static bool real_net_encrypts(const struct real_net *n)
{
  return n->keys.node != NULL;
}

static void real_net_complain(struct real_net *n, struct log_limit *limit, const char *text)
{
  struct env *env = &n->env->env;
  log_limited(&n->log, limit, env->clock(env), CHI_LOG_WARNING, "%s", text);
}

/* Wakes the network worker for a turn. Any thread. */
static void real_net_nudge(struct real_net *n)
{
  real_env_ring(n->sent_fd);
}

/* The state of some peer is to be told in a turn. */
static void real_net_changed(struct real_net *n)
{
  n->changed = true;
  real_net_nudge(n);
}

/* ---- sockets --------------------------------------------------------------------------------- */

/* NULL: no descriptors or memory. */
static void *real_net_socket(struct real_net *n, int type)
{
  uint64_t room = n->config->bulk_max > REAL_NET_FIRST_MAX ? n->config->bulk_max
                                                            : REAL_NET_FIRST_MAX;
  if (real_net_encrypts(n))
    room += REAL_NET_SEAL;
  int64_t frame_max = type == ZMQ_PULL ? (int64_t)room : REAL_NET_COMMAND_MAX;
  void *s = real_zmq_socket(n->context, type);
  if (!s)
    return NULL;
  real_zmq_set(s, ZMQ_SNDHWM, REAL_NET_SEND_QUEUE);
  real_zmq_set(s, ZMQ_RCVHWM, REAL_NET_TAKE_QUEUE);
  real_zmq_set(s, ZMQ_IMMEDIATE, 1);
  real_zmq_set(s, ZMQ_BACKLOG, REAL_NET_BACKLOG);
  real_zmq_set(s, ZMQ_HANDSHAKE_IVL, REAL_NET_HANDSHAKE_MS);
  real_zmq_set(s, ZMQ_HEARTBEAT_IVL, REAL_NET_ASK_MS);
  real_zmq_set(s, ZMQ_HEARTBEAT_TIMEOUT, REAL_NET_DEAD_MS);
  real_zmq_set(s, ZMQ_HEARTBEAT_TTL, REAL_NET_DEAD_MS);
  real_zmq_set(s, ZMQ_CONNECT_TIMEOUT, REAL_NET_CONNECT_MS);
  real_zmq_set(s, ZMQ_RECONNECT_IVL, REAL_NET_AGAIN_MS);
  real_zmq_set(s, ZMQ_RECONNECT_IVL_MAX, REAL_NET_AGAIN_MAX_MS);
  int rc = zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &frame_max, sizeof frame_max);
  CHI_ASSERT(rc == 0);
  return s;
}

/* Whoever calls at `door` must have an authorised key: without an answer of the door-keeper nobody
 * has a name, and messages of the nameless aren't heard. */
static void real_net_lock(const struct real_net *n, void *door)
{
  real_zmq_set(door, ZMQ_CURVE_SERVER, 1);
  real_zmq_set_text(door, ZMQ_CURVE_SECRETKEY, n->keys.secret);
  real_zmq_set_text(door, ZMQ_ZAP_DOMAIN, REAL_ZAP_DOMAIN);
}

/* Only who has the secret key of that node will understand. */
static void real_net_seal(const struct real_net *n, void *out, uint32_t node)
{
  real_zmq_set_text(out, ZMQ_CURVE_SERVERKEY, n->keys.node[node]);
  real_zmq_set_text(out, ZMQ_CURVE_PUBLICKEY, n->keys.own);
  real_zmq_set_text(out, ZMQ_CURVE_SECRETKEY, n->keys.secret);
}

static void real_net_endpoint(char *text, const char *host, uint32_t port)
{
  bool bare = strchr(host, ':') && host[0] != '[';
  snprintf(text, REAL_ZMQ_ENDPOINT, "tcp://%s%s%s:%u", bare ? "[" : "", host, bare ? "]" : "",
           port);
}

/* ---- connections to others ------------------------------------------------------------------- */

static void real_net_wait(struct real_net *n)
{
  if (ev_is_active(&n->tick))
    return;
  ev_now_update(n->ev);
  ev_timer_again(n->ev, &n->tick);
}

/* The connection is no more, or is not wanted: nothing of it stays. */
static void real_net_part(struct real_net_peer *p)
{
  struct real_net *n = p->net;
  if (p->out) {
    ev_io_stop(n->ev, &p->out_io);
    zmq_socket_monitor(p->out, NULL, 0);
  }
  if (p->news)
    ev_io_stop(n->ev, &p->news_io);
  real_zmq_drop(&p->news);
  real_zmq_drop(&p->out);
  p->up = false;
  if (p->told && !p->lost) {
    p->lost = true;
    real_net_changed(n);
  }
  p->wait = p->next;
  p->next = 2 * p->next < REAL_NET_TICKS_MAX ? 2 * p->next : REAL_NET_TICKS_MAX;
  real_net_wait(n);
}

/* Of two who don't fit the one that notices first hangs up, so that the other can but guess. */
static const char *real_net_guess(const struct real_net_peer *p, uint64_t now)
{
  if (now - p->called_at > REAL_NET_HANDSHAKE_MS * UINT64_C(1000000) / 2)
    return "its port is open, but it says nothing; perhaps it stands still";
  return real_net_encrypts(p->net)
             ? "it hung up; perhaps it does not encrypt, or expects another key "
               "(networking.key_file)"
             : "it hung up; perhaps it encrypts, and this node does not (networking.key_file)";
}

static void real_net_failed(struct real_net_peer *p, int event, int value)
{
  const struct real_net *n = p->net;
  struct env *env = &n->env->env;
  bool gone = event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
  const char *why = gone ? real_net_guess(p, env->clock(env))
                         : real_zmq_failure(event, value, real_net_encrypts(n));
  if (why)
    log_limited(&n->log, gone ? &p->gone : &p->failed, env->clock(env), CHI_LOG_WARNING,
                "node %u (%s) at %s is not spoken with: %s", p->node, n->hosts[p->node].name,
                n->hosts[p->node].address, why);
}

/* What the monitor has to say. */
static void real_net_hear(struct real_net_peer *p)
{
  int event = 1, value;
  for (uint32_t i = 0; i < REAL_ZMQ_NEWS && p->news; i++) {
    if ((event = real_zmq_event(p->news, &value)) == 0)
      return;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
      p->up = true;
      p->next = 1;
      real_net_changed(p->net);
    } else if (event == ZMQ_EVENT_CONNECTED) {
      p->called_at = p->net->env->env.clock(&p->net->env->env);
    } else { /* after some errors it would not try again by itself */
      real_net_failed(p, event, value);
      real_net_part(p);
    }
  }
  if (p->news)
    real_zmq_again(p->net->ev, &p->news_io);
}

static void real_net_on_news(struct ev_loop *ev, ev_io *io, int events)
{
  (void)ev;
  (void)events;
  real_net_hear(io->data);
}

/* Its own work, such as forgetting a connection. */
static void real_net_on_out(struct ev_loop *ev, ev_io *io, int events)
{
  const struct real_net_peer *p = io->data;
  (void)ev;
  (void)events;
  real_zmq_events(p->out);
}

/* Without its key there is no speaking with it. */
static bool real_net_callable(const struct real_net *n, uint32_t node)
{
  return node != n->self && (!real_net_encrypts(n) || n->keys.node[node][0]);
}

static bool real_net_dial(struct real_net_peer *p)
{
  struct real_net *n = p->net;
  const char *address = n->hosts[p->node].address;
  char name[64], endpoint[REAL_ZMQ_ENDPOINT];
  struct in_addr v4;
  p->out = real_net_socket(n, ZMQ_PUSH);
  if (!p->out)
    return false;
  real_zmq_set(p->out, ZMQ_IPV6, inet_pton(AF_INET, address, &v4) != 1);
  if (real_net_encrypts(n))
    real_net_seal(n, p->out, p->node);
  snprintf(name, sizeof name, "inproc://peer-%u-%u", p->node, ++p->generation);
  p->news = real_zmq_monitor(n->context, p->out, name,
                             ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED);
  if (!p->news) {
    real_zmq_drop(&p->out);
    return false;
  }
  real_zmq_watch(n->ev, &p->out_io, p->out, p, real_net_on_out);
  real_zmq_watch(n->ev, &p->news_io, p->news, p, real_net_on_news);
  real_net_endpoint(endpoint, address, n->port);
  if (zmq_connect(p->out, endpoint) != 0) {
    real_net_part(p);
    return false;
  }
  real_net_hear(p); /* its descriptor tells of what comes after somebody has looked, and failed */
  return true;
}

/* ---- our own door ---------------------------------------------------------------------------- */

static int real_net_bad_name(const struct real_net *n, const char *why, chi_error *err)
{
  return error_set(err, CHI_EINVAL,
                   "node %u: the address \"%.100s\" in the hostfile cannot be resolved: %s",
                   n->self, n->hosts[n->self].address, why);
}

static int real_net_bad_door(const struct real_net *n, const char *host, int error,
                             chi_error *err)
{
  if (error == EADDRINUSE)
    return error_set(err, CHI_EBUSY,
                     "node %u: port %u at %s is in use; is another daemon running there?", n->self,
                     n->port, host);
  if (error == EADDRNOTAVAIL || error == ENODEV)
    return error_set(err, CHI_EINVAL,
                     "node %u: %s is not an address of this machine, which is where the hostfile "
                     "puts it",
                     n->self, host);
  return error_set(err, error == EACCES ? CHI_EACCES : CHI_EINVAL,
                   "node %u: cannot listen at %s, port %u: %s", n->self, host, n->port,
                   zmq_strerror(error));
}

/* Listens at one address. 0, or errno. */
static int real_net_open_door(struct real_net *n, int family, const char *host)
{
  char endpoint[REAL_ZMQ_ENDPOINT];
  real_net_endpoint(endpoint, host, n->port);
  real_zmq_set(n->in, ZMQ_IPV6, family == AF_INET6);
  return zmq_bind(n->in, endpoint) == 0 ? 0 : zmq_errno();
}

/* Listens at every address that our own name has: others may know us by any of them. */
static int real_net_open_doors(struct real_net *n, chi_error *err)
{
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *all = NULL;
  char host[NI_MAXHOST] = "", missed[NI_MAXHOST] = "";
  uint32_t doors = 0;
  int missed_error = 0, rc = getaddrinfo(n->hosts[n->self].address, NULL, &hints, &all);
  if (rc != 0)
    return real_net_bad_name(n, gai_strerror(rc), err);
  for (const struct addrinfo *a = all; a; a = a->ai_next) {
    if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
      continue;
    int error = real_net_open_door(n, a->ai_family, host);
    doors += error == 0;
    if (error == 0 || (missed_error && error != EADDRINUSE))
      continue;
    missed_error = error;
    memcpy(missed, host, sizeof missed);
  }
  freeaddrinfo(all);
  if (doors > 0 && missed_error != EADDRINUSE)
    return CHI_OK;
  return missed_error ? real_net_bad_door(n, missed, missed_error, err)
                      : real_net_bad_name(n, "no address", err);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void real_net_on_tick(struct ev_loop *ev, ev_timer *timer, int events)
{
  struct real_net *n = timer->data;
  bool waiting = false;
  (void)events;
  for (uint32_t i = 0; i < n->count; i++) {
    struct real_net_peer *p = &n->peer[i];
    if (p->out || !real_net_callable(n, i))
      continue;
    p->wait -= p->wait > 0;
    if (p->wait == 0 && !real_net_dial(p))
      real_net_complain(n, &n->undialled,
                        "cannot connect to other nodes: out of descriptors or memory");
    waiting |= !p->out; /* it may have failed already, as where a proxy accepts for nobody */
  }
  if (!waiting)
    ev_timer_stop(ev, timer);
}

/* ---- what arrives ---------------------------------------------------------------------------- */

/* Whether a message comes from who it says it does, as far as one can know; strangers make
 * themselves known by the first that is sound. */
static bool real_net_admit(struct real_net *n, zmq_msg_t *first, const struct env_frame *frame,
                           uint32_t count)
{
  uint32_t from = 0;
  struct wire_header h;
  struct wire_in in;
  int fd = zmq_msg_get(first, ZMQ_SRCFD);
  if (real_net_encrypts(n)) {
    const char *key = zmq_msg_gets(first, "User-Id");
    if (!wire_sender(frame, &from) || !real_keys_fit(&n->keys, from, key ? key : "")) {
      real_net_complain(n, &n->forged, "a message was dropped: whoever sent it has not the key of "
                                       "the node that it names");
      real_guest_dismiss(n->guests, fd);
      return false;
    }
  }
  if (n->stirred && real_guest_is_node(n->guests, fd))
    return true;
  real_guest_hear(n->guests); /* it has come before its message, but that may not be noted yet */
  n->stirred = true;
  if (real_guest_is_node(n->guests, fd))
    return true;
  int rc = wire_header_get(frame, count, &h, &in);
  if ((rc == CHI_OK || rc == CHI_EVERSION) && h.from < n->count && h.from != n->self)
    real_guest_introduce(n->guests, fd, h.from);
  return true;
}

/* One message: its bytes without bulk, and one. 0: there is none. */
static uint64_t real_net_receive(struct real_net *n)
{
  zmq_msg_t part[ENV_FRAMES_MAX], extra;
  struct env_frame frame[ENV_FRAMES_MAX];
  uint32_t count = 0, kept;
  bool more = true;
  for (; more; count++) {
    zmq_msg_t *m = count < ENV_FRAMES_MAX ? &part[count] : &extra;
    zmq_msg_init(m);
    if (!real_zmq_take(n->in, m)) {
      zmq_msg_close(m);
      break;
    }
    more = zmq_msg_more(m);
    if (count < ENV_FRAMES_MAX)
      frame[count] = (struct env_frame){zmq_msg_data(m), zmq_msg_size(m)};
    else
      zmq_msg_close(m);
  }
  if (count == 0)
    return 0;
  uint64_t size = frame[0].size + 1;
  kept = count < ENV_FRAMES_MAX ? count : ENV_FRAMES_MAX;
  if (more || count > ENV_FRAMES_MAX || frame[0].size > REAL_NET_FIRST_MAX)
    real_net_complain(n, &n->dropped,
                      "a message was dropped: it has too many frames, or a large first one");
  else if (real_net_admit(n, &part[0], frame, count))
    n->owner.message(n->owner.arg, frame, count);
  for (uint32_t i = 0; i < kept; i++)
    zmq_msg_close(&part[i]);
  return size;
}

/* It only wakes: what there is is taken in the next turn. */
static void real_net_on_wake(struct ev_loop *ev, ev_io *io, int events)
{
  struct real_net *n = io->data;
  (void)ev;
  (void)events;
  if (io == &n->sent_io)
    real_env_drain(io->fd);
  else
    n->heard = true;
}

static void real_net_hand_back(struct real_net *n)
{
  struct ring_node *node = inbox_empty(&n->sent) ? NULL : inbox_take(&n->sent);
  while (node) {
    struct real_net_parcel *parcel = CHI_CONTAINER_OF(node, struct real_net_parcel, node);
    void *what = parcel->parcel;
    node = node->next;
    n->peer[parcel->peer].pinned -= parcel->bytes;
    free(parcel);
    n->owner.sent(n->owner.arg, what);
  }
}

/* In between a peer may have been lost and found again: both are told. */
static void real_net_tell(struct real_net *n)
{
  n->changed = false;
  for (uint32_t i = 0; i < n->count; i++) {
    struct real_net_peer *p = &n->peer[i];
    if (p->lost) {
      p->told = p->lost = false;
      n->owner.peer(n->owner.arg, i, false);
    }
    if (p->up && !p->told) {
      p->told = true;
      n->owner.peer(n->owner.arg, i, true);
    }
  }
}

bool real_net_turn(struct real_env *r)
{
  struct real_net *n = r->net;
  uint64_t size = 0, bytes = 0;
  uint32_t taken = 0;
  if (!n->context)
    return false;
  n->stirred = false;
  real_net_hand_back(n);
  if (n->changed)
    real_net_tell(n);
  /* Its descriptor tells of what comes after a look that found nothing: looking costs a system
   * call. */
  while (n->heard && taken < REAL_NET_MESSAGES && bytes < REAL_NET_BYTES) {
    size = real_net_receive(n);
    n->heard = size > 0;
    bytes += size;
    taken += n->heard;
  }
  if (!n->heard || ++n->unlooked == REAL_NET_UNLOOKED) {
    n->unlooked = 0;
    real_guest_look(n->guests);
  }
  return n->heard || n->changed;
}

bool real_net_ready(struct real_env *r)
{
  struct real_net *n = r->net;
  if (n->context && !n->heard)
    n->heard = real_zmq_events(n->in) & ZMQ_POLLIN;
  return n->context && (n->heard || !inbox_empty(&n->sent));
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Whoever reads it last, on whatever thread. */
static void real_net_let_go(struct real_net_parcel *parcel)
{
  struct real_net *n = parcel->net;
  if (count_add(&parcel->left, UINT32_MAX) == 1 && inbox_push(&n->sent, &parcel->node))
    real_net_nudge(n);
}

static void real_net_release(void *data, void *hint)
{
  (void)data;
  real_net_let_go(hint);
}

/* Makes messages of the frames behind the first, that will let go of the parcel. NULL: no memory,
 * and nothing was made. */
static struct real_net_parcel *real_net_pack(struct real_net *n, uint32_t peer,
                                             const struct env_frame *frame, uint32_t count,
                                             void *parcel, zmq_msg_t *part)
{
  struct real_net_parcel *p = malloc(sizeof *p);
  if (!p)
    return NULL;
  *p = (struct real_net_parcel){.net = n, .parcel = parcel, .peer = peer, .left = count};
  for (uint32_t i = 1; i < count; i++) {
    void *data = (void *)(uintptr_t)frame[i].data;
    if (zmq_msg_init_data(&part[i], data, frame[i].size, real_net_release, p) == 0) {
      p->bytes += frame[i].size;
      continue;
    }
    while (--i > 0)
      zmq_msg_close(&part[i]);
    free(p);
    return NULL;
  }
  return p;
}

/* The first frame decides whether the message is taken. */
static bool real_net_send_first(struct real_net_peer *p, const struct env_frame *frame, bool more)
{
  zmq_msg_t part;
  if (zmq_msg_init_size(&part, frame->size) != 0)
    return false;
  if (frame->size)
    memcpy(zmq_msg_data(&part), frame->data, frame->size);
  if (real_zmq_put(p->out, &part, more))
    return true;
  /* It may not have looked yet whether there is room. */
  if (real_zmq_events(p->out) & ZMQ_POLLOUT && real_zmq_put(p->out, &part, more))
    return true;
  zmq_msg_close(&part);
  return false;
}

static int real_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                         uint32_t count, void *parcel)
{
  struct real_net *n = real_env_of(env)->net;
  zmq_msg_t part[ENV_FRAMES_MAX];
  struct real_net_parcel *pack = NULL;
  CHI_ASSERT(count > 0 && count <= ENV_FRAMES_MAX && (parcel || count == 1));
  CHI_ASSERT(peer < n->count && peer != n->self);
  struct real_net_peer *p = &n->peer[peer];
  if (!p->up)
    return CHI_EUNREACHABLE;
  if (p->pinned >= REAL_NET_PINNED_MAX)
    return CHI_EBUSY;
  if (parcel && !(pack = real_net_pack(n, peer, frame, count, parcel, part)))
    return CHI_EBUSY;
  bool taken = real_net_send_first(p, frame, count > 1);
  if (taken && pack)
    p->pinned += pack->bytes;
  /* If the connection goes away in between, ZeroMQ drops the whole, once it has seen all of it. */
  for (uint32_t i = 1; i < count; i++)
    if (!taken || !real_zmq_put(p->out, &part[i], i + 1 < count))
      zmq_msg_close(&part[i]);
  if (!taken)
    free(pack);
  else if (pack)
    real_net_let_go(pack);
  return taken ? CHI_OK : CHI_EBUSY;
}

int real_net_lose(struct env *env, uint32_t peer, const struct env_frame *frame, uint32_t count,
                  void *parcel)
{
  struct real_net *n = real_env_of(env)->net;
  zmq_msg_t part[ENV_FRAMES_MAX];
  struct real_net_parcel *pack = NULL;
  if (!n->peer[peer].up)
    return CHI_EUNREACHABLE;
  if (parcel && !(pack = real_net_pack(n, peer, frame, count, parcel, part)))
    return CHI_EBUSY;
  if (pack)
    n->peer[peer].pinned += pack->bytes;
  for (uint32_t i = 1; i < count; i++)
    zmq_msg_close(&part[i]);
  if (pack)
    real_net_let_go(pack);
  return CHI_OK;
}

static void real_net_reset(struct env *env, uint32_t peer)
{
  struct real_net *n = real_env_of(env)->net;
  CHI_ASSERT(peer < n->count && peer != n->self);
  if (n->peer[peer].up)
    real_net_part(&n->peer[peer]);
}

/* ---- open and close -------------------------------------------------------------------------- */

static bool real_net_is_local(const struct addrinfo *a)
{
  if (a->ai_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)(const void *)a->ai_addr)->sin_addr.s_addr) >> 24 ==
           127;
  return a->ai_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a->ai_addr)->sin6_addr);
}

/* Whether a node has an address beyond this machine. Names of others may become known later, and
 * are looked up at each attempt; but who waits for nothing at all likes to hear of a mistake. */
static bool real_net_check_name(const struct real_net *n, uint32_t node)
{
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *all = NULL;
  bool far = false;
  int rc = getaddrinfo(n->hosts[node].address, NULL, &hints, &all);
  for (const struct addrinfo *a = rc == 0 ? all : NULL; a; a = a->ai_next)
    far = far || !real_net_is_local(a);
  if (rc == 0)
    freeaddrinfo(all);
  else if (node != n->self)
    log_write(&n->log, CHI_LOG_WARNING,
              "node %u: the address \"%.100s\" in the hostfile cannot be resolved now: %s; it is "
              "tried again",
              node, n->hosts[node].address, gai_strerror(rc));
  return far;
}

static void real_net_check_names(const struct real_net *n)
{
  struct env *env = &n->env->env;
  uint64_t end = env->clock(env) + REAL_NET_LOOKUP_NS;
  uint32_t far = UINT32_MAX;
  for (uint32_t i = 0; i < n->count && env->clock(env) < end; i++)
    if (real_net_check_name(n, i) && far == UINT32_MAX)
      far = i;
  if (far < n->count && !real_net_encrypts(n))
    log_write(&n->log, CHI_LOG_WARNING,
              "messages between nodes are plain text, and node %u (%s) is not on this machine: who "
              "is on the way can read and forge them; networking.key_file encrypts",
              far, n->hosts[far].address);
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Nobody who has shown the old key is heard any more, and we call with the new one. */
static void real_net_on_key(void *arg, uint32_t node)
{
  struct real_net *n = arg;
  if (node == n->self)
    return;
  real_guest_dismiss_node(n->guests, node);
  if (n->peer[node].out)
    real_net_part(&n->peer[node]);
  real_net_wait(n);
}

static int real_net_open_keys(struct real_net *n, chi_error *err)
{
  uint32_t with = 0, without = n->self;
  int rc;
  if (!*n->config->key_file)
    return CHI_OK;
  rc = real_keys_open(&n->keys, n->config->key_file, n->config->authorized_keys, n->hosts, n->count,
                      n->self, err);
  if (rc != CHI_OK)
    return rc;
  for (uint32_t i = 0; i < n->count; i++) {
    with += real_net_callable(n, i);
    if (i != n->self && !real_net_callable(n, i) && without == n->self)
      without = i;
  }
  log_write(&n->log, without == n->self ? CHI_LOG_INFO : CHI_LOG_WARNING,
            "messages between nodes are encrypted; %u of %u other nodes have an authorised key%s%s",
            with, n->count - 1, without == n->self ? "" : "; one that has none: ",
            without == n->self ? "" : n->hosts[without].name);
  return CHI_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void real_net_close(struct env *env)
{
  struct real_net *n = real_env_of(env)->net;
  struct ring_node *node;
  if (!n->context) {
    real_keys_close(&n->keys);
    return;
  }
  for (uint32_t i = 0; n->peer && i < n->count; i++)
    real_net_part(&n->peer[i]);
  ev_timer_stop(n->ev, &n->tick);
  ev_io_stop(n->ev, &n->in_io);
  ev_io_stop(n->ev, &n->sent_io);
  real_guest_close(n->guests);
  n->guests = NULL;
  real_zmq_drop(&n->in);
  real_zap_close(n->zap);
  n->zap = NULL;
  while (zmq_ctx_term(n->context) != 0 && zmq_errno() == EINTR)
    ;
  n->context = NULL; /* from here on nobody reads any frame */
  while ((node = inbox_take(&n->sent)))
    while (node) {
      struct real_net_parcel *parcel = CHI_CONTAINER_OF(node, struct real_net_parcel, node);
      node = node->next;
      free(parcel);
    }
  if (n->sent_fd >= 0)
    close(n->sent_fd);
  n->sent_fd = -1;
  free(n->peer);
  n->peer = NULL;
  real_keys_close(&n->keys);
}

/* Everything but connections and doors. */
static bool real_net_prepare(struct real_net *n)
{
  const struct real_zap_owner owner = {n, real_net_on_key};
  struct env *env = &n->env->env;
  int limit, sockets = (int)(REAL_NET_SOCKETS * (n->count + 1));
  n->context = zmq_ctx_new();
  if (n->context)
    n->peer = calloc(n->count, sizeof *n->peer);
  if (!n->peer)
    return false;
  limit = zmq_ctx_get(n->context, ZMQ_SOCKET_LIMIT);
  zmq_ctx_set(n->context, ZMQ_MAX_SOCKETS, sockets < limit ? sockets : limit);
  for (uint32_t i = 0; i < n->count; i++)
    n->peer[i] = (struct real_net_peer){.net = n, .node = i, .next = 1};
  n->sent_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  n->in = real_net_socket(n, ZMQ_PULL);
  if (n->sent_fd < 0 || !n->in ||
      real_guest_open(&n->guests, n->context, n->in, n->ev, env, &n->log, n->count, n->port,
                      real_net_encrypts(n)) != CHI_OK)
    return false;
  if (real_net_encrypts(n)) {
    if (real_zap_open(&n->zap, n->context, n->ev, env, &n->log, &n->keys, &owner) != CHI_OK)
      return false;
    real_net_lock(n, n->in);
  }
  real_zmq_watch(n->ev, &n->in_io, n->in, n, real_net_on_wake);
  ev_io_init(&n->sent_io, real_net_on_wake, n->sent_fd, EV_READ);
  n->sent_io.data = n;
  ev_io_start(n->ev, &n->sent_io);
  return true;
}

static int real_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                         uint32_t port, chi_error *err)
{
  struct real_net *n = real_env_of(env)->net;
  int rc;
  CHI_ASSERT(!n->context && self < count);
  *n = (struct real_net){.env = n->env, .owner = n->owner, .ev = n->ev, .config = n->config,
                         .hosts = hosts, .count = count, .self = self, .port = port, .sent_fd = -1,
                         .heard = true, .log = real_env_lines(n->env, n->config->log_level)};
  ev_timer_init(&n->tick, real_net_on_tick, 0., REAL_NET_TICK_S);
  n->tick.data = n;
  rc = real_net_open_keys(n, err);
  if (rc != CHI_OK)
    return rc;
  rc = real_net_prepare(n) ? real_net_open_doors(n, err)
                           : error_set(err, CHI_ENOMEM, "no descriptors or memory for %u nodes",
                                       count);
  if (rc != CHI_OK) {
    real_net_close(env);
    return rc;
  }
  real_net_check_names(n);
  for (uint32_t i = 0; i < count; i++)
    if (real_net_callable(n, i) && !real_net_dial(&n->peer[i]))
      real_net_wait(n);
  return CHI_OK;
}

int real_net_bind(struct real_env *r, const struct real_net_owner *owner, const chi_config *config)
{
  struct real_net *n = calloc(1, sizeof *n);
  if (!n)
    return CHI_ENOMEM;
  n->env = r;
  n->owner = *owner;
  n->config = config;
  n->ev = real_loop_ev(r->loop);
  r->net = n;
  r->env.net_open = real_net_open;
  r->env.net_close = real_net_close;
  r->env.net_send = real_net_send;
  r->env.net_reset = real_net_reset;
  return CHI_OK;
}

void real_net_unbind(struct real_env *r)
{
  CHI_ASSERT(!r->net->context);
  free(r->net);
  r->net = NULL;
}

#undef REAL_NET_MESSAGES
#undef REAL_NET_BYTES
#undef REAL_NET_SEAL
#undef REAL_NET_UNLOOKED
#undef REAL_NET_TICK_S
#undef REAL_NET_TICKS_MAX
#undef REAL_NET_LOOKUP_NS
#undef REAL_NET_SEND_QUEUE
#undef REAL_NET_TAKE_QUEUE
#undef REAL_NET_ASK_MS
#undef REAL_NET_DEAD_MS
#undef REAL_NET_HANDSHAKE_MS
#undef REAL_NET_CONNECT_MS
#undef REAL_NET_AGAIN_MS
#undef REAL_NET_AGAIN_MAX_MS
#undef REAL_NET_BACKLOG
#undef REAL_NET_COMMAND_MAX
#undef REAL_NET_SOCKETS

#endif
