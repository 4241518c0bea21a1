/* real_nest.c - processes of nodes that have the modules of this one: they are forked from it. */
#include "real_nest.h"

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What is asked of the nest, and what it answers: messages on a socket. */
enum real_nest_what { REAL_NEST_HATCH, REAL_NEST_ENDED };

struct real_nest_request {
  enum real_nest_what what;
  int32_t value; /* number of a node; or of its process */
};

struct real_nest_answer {
  pid_t pid;  /* HATCH: -1, there is none. ENDED: 0, not yet */
  int status; /* of ENDED */
};

/* ---- in the nest ----------------------------------------------------------------------------- */

/* Of the standard descriptors only those to speak to people stay. */
static void real_nest_forget(int but)
{
  int nothing = open("/dev/null", O_RDWR);
  if (nothing >= 0)
    dup2(nothing, STDIN_FILENO);
  if (but > STDERR_FILENO + 1)
    close_range(STDERR_FILENO + 1, (unsigned)but - 1, 0);
  close_range((unsigned)(but > STDERR_FILENO ? but : STDERR_FILENO) + 1, ~0u, 0);
}

/* In the new process. The nest may have ended before this one asked to end with it. */
static void real_nest_become(const struct real_nest *nest, int socket, pid_t parent, int32_t node)
{
  close(socket);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(EXIT_FAILURE);
  _exit(nest->serve(nest->arg, (uint32_t)node));
}

static struct real_nest_answer real_nest_do(const struct real_nest *nest, int socket,
                                            const struct real_nest_request *r)
{
  struct real_nest_answer answer = {0, 0};
  pid_t self = getpid();
  if (r->what == REAL_NEST_HATCH) {
    answer.pid = fork();
    if (answer.pid == 0)
      real_nest_become(nest, socket, self, r->value);
  } else {
    answer.pid = waitpid(r->value, &answer.status, WNOHANG);
  }
  return answer;
}

/* Until nobody is there any more who could ask. Nodes get the signal of a parent's death. */
static void real_nest_brood(const struct real_nest *nest, int socket)
{
  struct real_nest_request request;
  for (;;) {
    ssize_t got = recv(socket, &request, sizeof(request), 0);
    if (got < 0 && errno == EINTR)
      continue;
    if (got != (ssize_t)sizeof(request))
      _exit(EXIT_SUCCESS);
    struct real_nest_answer answer = real_nest_do(nest, socket, &request);
    send(socket, &answer, sizeof(answer), MSG_NOSIGNAL);
  }
}

/* ---- outside --------------------------------------------------------------------------------- */

int real_nest_open(struct real_nest *nest, real_nest_fn *serve, void *arg)
{
  int pair[2];
  *nest = (struct real_nest){.serve = serve, .arg = arg, .socket = -1};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return CHI_ENOMEM;
  nest->pid = fork();
  if (nest->pid == 0) {
    real_nest_forget(pair[1]);
    real_nest_brood(nest, pair[1]);
  }
  close(pair[1]);
  nest->socket = pair[0];
  if (nest->pid < 0) {
    close(pair[0]);
    return CHI_ENOMEM;
  }
  pthread_mutex_init(&nest->lock, NULL);
  return CHI_OK;
}

/* False: the nest is gone. */
static bool real_nest_ask(struct real_nest *nest, enum real_nest_what what, int32_t value,
                          struct real_nest_answer *answer)
{
  struct real_nest_request request = {what, value};
  ssize_t done;
  pthread_mutex_lock(&nest->lock);
  done = send(nest->socket, &request, sizeof(request), MSG_NOSIGNAL);
  if (done == (ssize_t)sizeof(request))
    do
      done = recv(nest->socket, answer, sizeof(*answer), 0);
    while (done < 0 && errno == EINTR);
  pthread_mutex_unlock(&nest->lock);
  return done == (ssize_t)sizeof(*answer);
}

int real_nest_hatch(struct real_nest *nest, uint32_t node, pid_t *pid)
{
  struct real_nest_answer answer;
  *pid = 0;
  if (!real_nest_ask(nest, REAL_NEST_HATCH, (int32_t)node, &answer) || answer.pid < 0)
    return CHI_ENOMEM;
  *pid = answer.pid;
  return CHI_OK;
}

/* With the nest its nodes have gone. */
bool real_nest_ended(struct real_nest *nest, pid_t pid, int *status)
{
  struct real_nest_answer answer;
  *status = SIGKILL;
  if (!real_nest_ask(nest, REAL_NEST_ENDED, pid, &answer))
    return true;
  if (answer.pid > 0)
    *status = answer.status;
  return answer.pid != 0;
}

void real_nest_close(struct real_nest *nest)
{
  close(nest->socket);
  kill(nest->pid, SIGKILL);
  while (waitpid(nest->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  pthread_mutex_destroy(&nest->lock);
}

#endif
