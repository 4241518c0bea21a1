/* sim_profile.h - what things cost in a simulation. */
#ifndef CHI_SIM_PROFILE_H
#define CHI_SIM_PROFILE_H

#include "base.h"

/* Nanoseconds, of which up to a quarter more is drawn each time, unless said otherwise. May be
 * changed at any time; what is under way stays. */
struct sim_profile {
  uint64_t step;     /* a step of a worker: what it does is seen when it is over */
  uint64_t park;     /* from announcing sleep to sleeping */
  uint64_t bell;     /* from ringing to the sleeper's first instruction */
  uint64_t declared; /* percent of the CPU time that a method declares, exactly */
  uint64_t relax;    /* a turn of a client's spin */
  uint64_t open;     /* a client's finding out who is there */
  uint64_t link;     /* a message between client and node, a connection, the news of a hang-up */

  uint64_t io, io_sync, io_wake; /* an operation on a file, a sync; from its end to the worker */
  uint64_t io_byte_ps;           /* a byte of a transfer, picoseconds */

  uint64_t message;         /* CPU for sending or taking a message between nodes, exactly */
  uint64_t message_byte_ps; /* and for each of its bytes, picoseconds */
  uint64_t latency;         /* from one node to another */
  uint64_t byte_ps;         /* a byte on a node's line, picoseconds: 800 is 10 Gbit/s */
  uint64_t queue_messages, queue_bytes; /* of one connection, sent and not taken */
  uint64_t notice;                      /* at most until a dead connection is noticed, exactly */
  uint64_t retry, retry_max; /* until the next attempt to connect, at first and at most */
};

#define SIM_PROFILE_DEFAULT                                                                        \
  {                                                                                                \
    .step = 1000, .park = 500, .bell = 5000, .declared = 100, .relax = 500, .open = 20000,         \
    .link = 20000, .io = 50000, .io_sync = 500000, .io_wake = 2000, .io_byte_ps = 1000,            \
    .message = 1000, .message_byte_ps = 100, .latency = 25000, .byte_ps = 800,                     \
    .queue_messages = 1000, .queue_bytes = 64u << 20, .notice = 2000000000, .retry = 100000000,    \
    .retry_max = 2000000000                                                                        \
  }

#endif
