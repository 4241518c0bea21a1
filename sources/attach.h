/* attach.h - what a client and a node say to each other over their link, outside shared memory. */
#ifndef CHI_ATTACH_H
#define CHI_ATTACH_H

#include "base.h"
#include "bell.h"

#define ATTACH_VERSION 3u

enum attach_op {
  ATTACH_HELLO,  /* -> page (read); figures of the node */
  ATTACH_BELLS,  /* id: first worker -> bells, at most ATTACH_BELLS_MAX, in order */
  ATTACH_LEASE,  /* kind, size -> id: chunk; segment (write), none if it was leased here before */
  ATTACH_RETURN, /* id: chunk; kind: 0, or ATTACH_RETURN_UNMAPPED */
  ATTACH_QUEUE,  /* thread: a number for it -> id: queue; desk (write), board (read), bell */
  ATTACH_CLOSE   /* id: queue */
};

#define ATTACH_BELLS_MAX 64u
#define ATTACH_QUEUES_MAX 1024u /* of a client */
#define ATTACH_RETURN_UNMAPPED 1u /* it never reached the client, so it is not leased again */

struct attach_request {
  uint32_t version, op, kind, id;
  uint64_t size, thread;
};

struct attach_reply {
  int32_t rc;
  uint32_t id;
  uint32_t op, unused;                 /* of the request */
  uint64_t boot;                       /* of this run of the node */
  uint64_t spin_ns;                    /* how long a waiting client may look before it sleeps */
  uint32_t workers, fast, slow, depth;
  uint32_t nodes, chunks;              /* nodes of the cluster; chunk numbers are below chunks */
  char text[400];                      /* what went wrong */
};

/* Read by clients: how to wake whom. */
struct attach_page {
  uint32_t version, workers;
  uint64_t boot;
  uint32_t unused[12];
  struct bell_word worker[];
};

#endif
