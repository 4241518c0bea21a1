/* server.h - for tests of links: a node's loop that answers on a thread of its own, and clients. */
#ifndef CHI_SERVER_H
#define CHI_SERVER_H

#include "real_link.h"

#include <pthread.h>

/* What the first byte of a request asks the server for. */
enum {
  SERVER_ECHO = 'e',
  SERVER_SHARE = 's',   /* a readable segment, a bell and a writable segment */
  SERVER_SILENCE = 'n', /* no answer */
  SERVER_CLOSE = 'c',   /* the end of the link */
  SERVER_RING = 'r'     /* to ring the bell */
};

struct server {
  struct real_env r;
  char dir[64], directory[80];
  struct real_link_place place;
  struct real_link_desk desk;
  pthread_t thread;
  env_bell bell, shared_bell;
  struct env_segment readable, writable;
  uint32_t quit, connects, hangups, requests, awakes; /* atomic */
  int share_rc;                                       /* of the last one */
  struct env_peer peer;                               /* who connected last */
  env_link last;
};

/* Serves instance here:1 in a directory of its own. */
bool server_start(struct server *s, uint32_t links_max);
/* Ends the thread and closes all links. */
void server_hang_up(struct server *s);
/* What is left after server_hang_up. */
void server_free(struct server *s);
void server_stop(struct server *s); /* both */
/* Waits until *counter has reached a value; false if it does not, or goes beyond. */
bool server_reaches(const uint32_t *counter, uint32_t value);
/* Waits until so many descriptors are open in this process. */
bool server_descriptors_settle(int count);

struct guest {
  struct real_env r;
  struct env *env;
  env_link link;
};

/* Connects to an instance in the server's directory. */
int guest_open(struct guest *g, const struct server *s, const char *instance, chi_error *err);
void guest_close(struct guest *g);
/* A call without shares. */
int guest_call(struct guest *g, const char *request, size_t size, char *reply, size_t *room);

/* Calls 500 times and counts answers that are not its own; for a thread. */
struct guest_caller {
  struct guest *guest;
  uint32_t wrong;
};
void *guest_call_often(void *arg);

/* A socket that speaks for itself, for what no library would send. */
int guest_connect_raw(const struct server *s);
/* True when the server has hung up on a raw socket. */
bool guest_hung_up(int fd);

#endif
