/* real_zmq.h - sockets of ZeroMQ in an event loop, and what their monitors tell. One thread. */
#ifndef CHI_REAL_ZMQ_H
#define CHI_REAL_ZMQ_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include <ev.h>
#include <zmq.h>

#define REAL_ZMQ_ENDPOINT 320u /* bytes of "tcp://[HOST]:PORT" with its NUL */
#define REAL_ZMQ_NEWS 64u      /* events of a monitor that are heard before others get their turn */

/* A socket without linger. NULL: no descriptors or memory. */
CHI_PRIVATE void *real_zmq_socket(void *context, int type);
CHI_PRIVATE void real_zmq_drop(void **socket);
/* An option that can't fail. */
CHI_PRIVATE void real_zmq_set(void *socket, int option, int value);
CHI_PRIVATE void real_zmq_set_text(void *socket, int option, const char *text);
/* What the socket can do now; asking lets it do its own work. */
CHI_PRIVATE int real_zmq_events(void *socket);

/* The next part of a message, or false: there is none, or no room for one. A signal that is handled
 * meanwhile is no reason to say so: the rest of a message would be taken for another, and nobody
 * would be told again of what is there. */
CHI_PRIVATE bool real_zmq_take(void *socket, zmq_msg_t *part);
CHI_PRIVATE bool real_zmq_put(void *socket, zmq_msg_t *part, bool more);
/* The same of bytes, cut to what there is room for: how many it has; negative: there is none. */
CHI_PRIVATE int real_zmq_take_bytes(void *socket, void *bytes, size_t room);
CHI_PRIVATE void real_zmq_put_text(void *socket, const char *text, bool more);

/* Calls when the socket may have become ready. The descriptor tells of changes only: whoever is
 * called takes all there is, or asks by real_zmq_again to be called once more. */
CHI_PRIVATE void real_zmq_watch(struct ev_loop *ev, ev_io *io, void *socket, void *data,
                                void (*on_ready)(struct ev_loop *ev, ev_io *io, int events));
CHI_PRIVATE void real_zmq_again(struct ev_loop *ev, ev_io *io);

/* A socket that hears these events of another one, by a name of its own. NULL: as above. */
CHI_PRIVATE void *real_zmq_monitor(void *context, void *socket, const char *name, int events);
/* The next event of a monitor and its value; 0: none. */
CHI_PRIVATE int real_zmq_event(void *news, int *value);
/* What is wrong with one who wanted to speak with us, by the event ZMQ_EVENT_HANDSHAKE_FAILED_* and
 * its value. `encrypted`: whether we do. NULL: nothing to be told, it went away. */
CHI_PRIVATE const char *real_zmq_failure(int event, int value, bool encrypted);

#endif
#endif
