/* real_zmq.c - sockets of ZeroMQ in an event loop, and what their monitors tell. */
#include "real_zmq.h"

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <zmq.h>

void real_zmq_set(void *socket, int option, int value)
{
  int rc = zmq_setsockopt(socket, option, &value, sizeof value);
  CHI_ASSERT(rc == 0);
}

void real_zmq_set_text(void *socket, int option, const char *text)
{
  int rc = zmq_setsockopt(socket, option, text, strlen(text));
  CHI_ASSERT(rc == 0);
}

void *real_zmq_socket(void *context, int type)
{
  void *s = zmq_socket(context, type);
  if (s)
    real_zmq_set(s, ZMQ_LINGER, 0);
  return s;
}

void real_zmq_drop(void **socket)
{
  if (*socket)
    zmq_close(*socket);
  *socket = NULL;
}

int real_zmq_events(void *socket)
{
  int events = 0, rc;
  size_t size = sizeof events;
  do
    rc = zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size);
  while (rc != 0 && zmq_errno() == EINTR);
  return rc == 0 ? events : 0;
}

bool real_zmq_take(void *socket, zmq_msg_t *part)
{
  int n;
  do
    n = zmq_msg_recv(part, socket, ZMQ_DONTWAIT);
  while (n < 0 && zmq_errno() == EINTR);
  return n >= 0;
}

bool real_zmq_put(void *socket, zmq_msg_t *part, bool more)
{
  int n;
  do
    n = zmq_msg_send(part, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
  while (n < 0 && zmq_errno() == EINTR);
  return n >= 0;
}

int real_zmq_take_bytes(void *socket, void *bytes, size_t room)
{
  int n;
  do
    n = zmq_recv(socket, bytes, room, ZMQ_DONTWAIT);
  while (n < 0 && zmq_errno() == EINTR);
  return n;
}

void real_zmq_put_text(void *socket, const char *text, bool more)
{
  int n;
  do
    n = zmq_send(socket, text, strlen(text), ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
  while (n < 0 && zmq_errno() == EINTR);
}

void real_zmq_watch(struct ev_loop *ev, ev_io *io, void *socket, void *data,
                    void (*on_ready)(struct ev_loop *ev, ev_io *io, int events))
{
  int fd = -1;
  size_t size = sizeof fd;
  int rc = zmq_getsockopt(socket, ZMQ_FD, &fd, &size);
  CHI_ASSERT(rc == 0 && fd >= 0);
  ev_io_init(io, on_ready, fd, EV_READ);
  io->data = data;
  ev_io_start(ev, io);
}

void real_zmq_again(struct ev_loop *ev, ev_io *io)
{
  ev_feed_event(ev, io, EV_READ);
}

void *real_zmq_monitor(void *context, void *socket, const char *name, int events)
{
  void *news;
  if (zmq_socket_monitor(socket, name, events) != 0)
    return NULL;
  news = real_zmq_socket(context, ZMQ_PAIR);
  if (!news)
    return NULL;
  /* ZeroMQ's own thread waits for room in this queue, holding a lock that closing needs, too. */
  real_zmq_set(news, ZMQ_RCVHWM, 0);
  if (zmq_connect(news, name) != 0)
    real_zmq_drop(&news);
  return news;
}

int real_zmq_event(void *news, int *value)
{
  unsigned char first[6];
  char address[REAL_ZMQ_ENDPOINT];
  uint16_t event;
  int32_t number;
  if (real_zmq_take_bytes(news, first, sizeof first) < (int)sizeof first)
    return 0;
  real_zmq_take_bytes(news, address, sizeof address);
  memcpy(&event, first, sizeof event);
  memcpy(&number, first + sizeof event, sizeof number);
  *value = number;
  return event;
}

const char *real_zmq_failure(int event, int value, bool encrypted)
{
  if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
    return "this node's public key is not authorised there";
  if (event != ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
    return NULL;
  switch (value) {
  case ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
    return encrypted ? "it does not encrypt, and this node does (networking.key_file)"
                     : "it encrypts, and this node does not (networking.key_file)";
  case ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
    return "its key is not the one that was expected (networking.authorized_keys)";
  default:
    return "it does not speak as nodes do";
  }
}

#endif
