/* real_env.h - the real environment: clock, random, memory, log, stacks, bells, the mark of a fork.
 *
 * This file makes an environment with these in it; the other real_* files add what is theirs, each
 * by a function real_<file>_bind. */
#ifndef CHI_REAL_ENV_H
#define CHI_REAL_ENV_H

#include "base.h"
#include "env.h"
#include "log.h"

#ifndef CHI_OMIT_REAL

#include "real_limit.h"
#include "real_log.h"

struct real_fault_seat;
struct real_loop;
struct real_file;
struct real_module;
struct real_net;

struct real_env {
  struct env env; /* what the core sees; its self is this struct */
  uint32_t *mark; /* env.alive */
  struct real_log log;
  struct log_figures figures; /* of its lines, whoever writes them */
  const char *directory;   /* of sockets; NULL: that of this user */
  struct real_limit limit; /* asked before memory is taken */
  uint64_t allowance;      /* atomic: bytes that may be taken before it is asked again */
  struct log_limit complaints; /* of real_shm: that memory is short */
  struct real_loop *loop;  /* of a node */
  struct real_file *files; /* of a node: one for each worker */
  uint32_t file_count;
  struct real_module *modules; /* those loaded */
  struct real_net *net;        /* of a node */
  struct real_fault_seat *faults; /* of a node that something may go wrong with */
  /* When the host's clock says what env.clock will say at the deadline; NULL: they are one. */
  uint64_t (*until)(const struct real_env *r, uint64_t deadline);
  /* For tests: as if the kernel had no io_uring, no MADV_POPULATE_WRITE. */
  bool no_ring, no_populate;
};

CHI_INLINE struct real_env *real_env_of(struct env *env)
{
  return (struct real_env *)env->self;
}

/* A bell: an eventfd, which does not block, and the descriptor that a client's own event loop
 * waits on. env_bell is the address of one. */
struct real_env_bell {
  int fd;
  int set; /* epoll of real_link_descriptor; -1: not asked for yet */
};

CHI_INLINE struct real_env_bell *real_env_bell_of(env_bell bell)
{
  return (struct real_env_bell *)(intptr_t)bell;
}

/* log_file: as real_log_open. The struct must stay where it is until real_env_close. CHI_ENOMEM. */
CHI_PRIVATE int real_env_open(struct real_env *r, const char *log_file);
/* What other files have added must be closed before. Fine in a forked child. */
CHI_PRIVATE void real_env_close(struct real_env *r);

/* False in a child that was forked from the process that opened the environment. */
CHI_PRIVATE bool real_env_alive(const struct real_env *r);

/* What the clock says, whatever goes wrong with that of the environment. */
CHI_PRIVATE uint64_t real_env_now(void);

/* A bell of a descriptor, which it then owns; closed if that fails. */
CHI_PRIVATE int real_env_adopt_bell(int fd, env_bell *out);
/* Rings an eventfd; fit for a signal handler. EAGAIN, if it does not block: it has been rung more
 * often than can be counted, and is rung. */
CHI_PRIVATE void real_env_ring(int fd);
/* Consumes what was rung. */
CHI_PRIVATE void real_env_drain(int fd);

/* For those who write lines of this level and above to the log. */
CHI_PRIVATE struct log real_env_lines(struct real_env *r, int level);
/* Logs something that may happen again and again, at most once a second. */
CHI_PRIVATE void real_env_complain(struct real_env *r, struct log_limit *limit, int level,
                                   const char *text);

/* The chi_status that says best what errno says. */
CHI_PRIVATE int real_env_code(int error);

/* The time left until a deadline of the clock, for ppoll; NULL if there is none. */
CHI_PRIVATE struct timespec *real_env_left(uint64_t now, uint64_t deadline, struct timespec *out);

#endif
#endif
