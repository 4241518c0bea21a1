/* sim_profile.h - what things cost in a simulation, and names for it. */
#ifndef CHI_SIM_PROFILE_H
#define CHI_SIM_PROFILE_H

#include "base.h"

/* Nanoseconds, of which up to a quarter more is drawn each time, unless said otherwise. May be
 * changed at any time; what is under way stays. */
struct sim_profile {
  uint64_t step;     /* a step of a worker: what it does is seen when it is over */
  uint64_t budget;   /* tasks of a step at most, exactly: those for one node leave together */
  uint64_t task;     /* CPU for each task that ended in a step, exactly */
  uint64_t park;     /* from announcing sleep to sleeping */
  uint64_t wake;     /* CPU of a worker for being woken, before its step */
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
  uint64_t ask;    /* a connection is asked so often whether it lives, exactly; 0: never */
  uint64_t notice; /* until a dead one is noticed, and up to `ask` more; not asked: at most */
  uint64_t retry, retry_max; /* until the next attempt to connect, at first and at most */
};

#define SIM_PROFILE_DEFAULT                                                                        \
  {                                                                                                \
    .step = 1000, .budget = 1, .task = 0, .park = 500, .wake = 0, .bell = 5000, .declared = 100,   \
    .relax = 500, .open = 20000,                                                                   \
    .link = 20000, .io = 50000, .io_sync = 500000, .io_wake = 2000, .io_byte_ps = 1000,            \
    .message = 1000, .message_byte_ps = 100, .latency = 25000, .byte_ps = 800,                     \
    .queue_messages = 1000, .queue_bytes = 64u << 20, .ask = 2000000000, .notice = 6000000000,     \
    .retry = 100000000, .retry_max = 1000000000                                                    \
  }

/* Name, kind (a TIME in nanoseconds, a NUMBER, a SIZE), least, most: what a spec may set. */
#define SIM_PROFILE_LONG UINT64_C(1000000000000)
#define SIM_PROFILE_KEYS(X)                                                                        \
  X(step, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(budget, NUMBER, 1, 65536)                                                                      \
  X(task, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(park, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(wake, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(bell, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(declared, NUMBER, 0, 1000000)                                                                  \
  X(relax, TIME, 1, SIM_PROFILE_LONG)                                                              \
  X(open, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(link, TIME, 0, SIM_PROFILE_LONG)                                                               \
  X(io, TIME, 0, SIM_PROFILE_LONG)                                                                 \
  X(io_sync, TIME, 0, SIM_PROFILE_LONG)                                                            \
  X(io_wake, TIME, 0, SIM_PROFILE_LONG)                                                            \
  X(io_byte_ps, NUMBER, 0, 1000000000)                                                             \
  X(message, TIME, 0, SIM_PROFILE_LONG)                                                            \
  X(message_byte_ps, NUMBER, 0, 1000000000)                                                        \
  X(byte_ps, NUMBER, 1, 1000000000)                                                                \
  X(queue_messages, NUMBER, 1, 1000000)                                                            \
  X(queue_bytes, SIZE, 1, UINT64_C(1) << 40)                                                       \
  X(ask, TIME, 0, SIM_PROFILE_LONG)                                                                \
  X(notice, TIME, 1, SIM_PROFILE_LONG)                                                             \
  X(retry, TIME, 1, SIM_PROFILE_LONG)                                                              \
  X(retry_max, TIME, 1, SIM_PROFILE_LONG)

enum sim_profile_name {
#define SIM_PROFILE_ENUM(name, ...) SIM_PROFILE_AT_##name,
  SIM_PROFILE_KEYS(SIM_PROFILE_ENUM)
#undef SIM_PROFILE_ENUM
      SIM_PROFILE_COUNT
};

/* Which one it is and what its value is. CHI_ENOENT: there is no such key, *err is left alone;
 * CHI_EINVAL: the value isn't one, and *err says what was expected. */
CHI_PRIVATE int sim_profile_parse(const char *name, const char *value, uint32_t *which,
                                  uint64_t *number, chi_error *err);
CHI_PRIVATE void sim_profile_put(struct sim_profile *profile, uint32_t which, uint64_t number);

#endif
