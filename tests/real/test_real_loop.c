/* test_real_loop.c - links of a node's loop: their ends, forks, hostile clients, sleeping. */
#include "real_loop.h"
#include "atomic.h"
#include "scratch.h"
#include "server.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define WAIT_NS 5000000000u /* far more than anything here takes */

/* ---- ends ------------------------------------------------------------------------------------ */

TEST(the_node_hears_that_a_client_has_closed)
{
  static struct server s;
  struct guest g;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(server_reaches(&s.connects, 1));
  guest_close(&g);
  CHECK(server_reaches(&s.hangups, 1));
  server_stop(&s);
}

/* A client process that is killed, perhaps leaving a child that inherited its socket. */
struct victim {
  const struct server *server;
  bool with_child;
  int ready[2];
};

static int victim_run(void *arg)
{
  const struct victim *v = arg;
  int fd = guest_connect_raw(v->server);
  if (v->with_child && fork() == 0) {
    char byte;
    close(v->ready[1]);
    while (read(v->ready[0], &byte, 1) > 0) /* until the test is over */
      ;
    _exit(0);
  }
  kill(getpid(), SIGKILL);
  return fd;
}

TEST(the_node_hears_that_a_client_was_killed)
{
  static struct server s;
  struct victim v = {.server = &s};
  CHECK(server_start(&s, 8));
  CHECK_INT(scratch_child(victim_run, &v), -1);
  CHECK(server_reaches(&s.hangups, 1));
  server_stop(&s);
}

TEST(the_node_hears_that_a_client_was_killed_whose_child_holds_the_socket)
{
  static struct server s;
  struct victim v = {.server = &s, .with_child = true};
  CHECK(server_start(&s, 8));
  int probe = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (probe < 0) {
    test_skip("this kernel has no pidfd");
  } else {
    close(probe);
    CHECK_INT(pipe(v.ready), 0);
    CHECK_INT(scratch_child(victim_run, &v), -1);
    CHECK(server_reaches(&s.hangups, 1));
    close(v.ready[0]);
    close(v.ready[1]);
  }
  server_stop(&s);
}

TEST(a_client_whose_node_is_gone_gets_shutdown_from_everything)
{
  static struct server s;
  struct guest g;
  char reply[16];
  size_t size = sizeof(reply);
  env_bell bell;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(g.env->bell_open(g.env, &bell), CHI_OK);
  server_hang_up(&s);
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, UINT64_MAX), CHI_ESHUTDOWN);
  CHECK_INT(guest_call(&g, "e", 1, reply, &size), CHI_ESHUTDOWN);
  CHECK_INT(guest_call(&g, "e", 1, reply, &size), CHI_ESHUTDOWN);
  g.env->bell_ring(g.env, bell); /* what was rung before still counts */
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, UINT64_MAX), CHI_OK);
  g.env->bell_close(g.env, bell);
  guest_close(&g);
  server_free(&s);
}

struct waiter {
  struct guest *guest;
  env_bell bell;
  int rc;
};

static void *wait_long(void *arg)
{
  struct waiter *w = arg;
  struct env *env = w->guest->env;
  w->rc = env->link_wait(env, w->guest->link, w->bell, env->clock(env) + WAIT_NS);
  return NULL;
}

TEST(all_threads_that_wait_hear_the_node_hang_up)
{
  static struct server s;
  struct guest g;
  struct waiter w[3];
  pthread_t thread[3];
  char reply[16];
  size_t size = sizeof(reply);
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  for (int i = 0; i < 3; i++) {
    w[i] = (struct waiter){.guest = &g};
    CHECK_INT(g.env->bell_open(g.env, &w[i].bell), CHI_OK);
    CHECK_INT(pthread_create(&thread[i], NULL, wait_long, &w[i]), 0);
  }
  CHECK_INT(guest_call(&g, "c", 1, reply, &size), CHI_ESHUTDOWN);
  for (int i = 0; i < 3; i++) {
    pthread_join(thread[i], NULL);
    CHECK_INT(w[i].rc, CHI_ESHUTDOWN);
    g.env->bell_close(g.env, w[i].bell);
  }
  CHECK_INT(atomic_get(&s.hangups), 0); /* the node closed it itself */
  guest_close(&g);
  server_stop(&s);
}

TEST(a_wait_ends_at_its_deadline_and_not_before)
{
  static struct server s;
  struct guest g;
  env_bell bell;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(g.env->bell_open(g.env, &bell), CHI_OK);
  uint64_t deadline = g.env->clock(g.env) + 20000000;
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, deadline), CHI_ETIMEOUT);
  CHECK(g.env->clock(g.env) >= deadline);
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, 1), CHI_ETIMEOUT);
  g.env->bell_close(g.env, bell);
  guest_close(&g);
  server_stop(&s);
}

static void on_alarm(int signal)
{
  (void)signal;
}

struct pest {
  pthread_t target;
  uint32_t stop;
};

static void *pester(void *arg)
{
  struct pest *p = arg;
  const struct timespec nap = {0, 100000};
  while (!atomic_get(&p->stop)) {
    pthread_kill(p->target, SIGUSR1);
    nanosleep(&nap, NULL);
  }
  return NULL;
}

TEST(waits_and_calls_go_on_after_signals)
{
  static struct server s;
  struct guest g;
  struct pest p = {pthread_self(), 0};
  struct sigaction action = {.sa_handler = on_alarm}, before;
  pthread_t thread;
  env_bell bell;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(g.env->bell_open(g.env, &bell), CHI_OK);
  CHECK_INT(sigaction(SIGUSR1, &action, &before), 0);
  CHECK_INT(pthread_create(&thread, NULL, pester, &p), 0);
  struct guest_caller c = {&g, 0};
  guest_call_often(&c);
  uint64_t deadline = g.env->clock(g.env) + 20000000;
  int rc = g.env->link_wait(g.env, g.link, bell, deadline);
  bool late = g.env->clock(g.env) >= deadline;
  atomic_set(&p.stop, 1);
  pthread_join(thread, NULL);
  CHECK_INT(sigaction(SIGUSR1, &before, NULL), 0);
  CHECK_INT(c.wrong, 0);
  CHECK_INT(rc, CHI_ETIMEOUT);
  CHECK(late);
  g.env->bell_close(g.env, bell);
  guest_close(&g);
  server_stop(&s);
}

/* ---- a client's own event loop --------------------------------------------------------------- */

static bool readable(int fd, int timeout_ms)
{
  struct pollfd p = {fd, POLLIN, 0};
  return poll(&p, 1, timeout_ms) == 1;
}

TEST(a_descriptor_is_readable_when_the_bell_rings_or_the_node_hangs_up)
{
  static struct server s;
  struct guest g;
  env_bell bell;
  char reply[16];
  size_t size = sizeof(reply);
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(g.env->bell_open(g.env, &bell), CHI_OK);
  int fd = g.env->link_descriptor(g.env, g.link, bell);
  CHECK(fd >= 0);
  CHECK(!readable(fd, 0));
  g.env->bell_ring(g.env, bell);
  CHECK(readable(fd, 0));
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, 1), CHI_OK);
  CHECK(!readable(fd, 0));
  CHECK_INT(g.env->link_descriptor(g.env, g.link, bell), fd);
  size = sizeof(reply);
  CHECK_INT(guest_call(&g, "e", 1, reply, &size), CHI_OK); /* an answer is nothing to be told */
  CHECK(!readable(fd, 0));
  CHECK_INT(guest_call(&g, "c", 1, reply, &size), CHI_ESHUTDOWN);
  CHECK(readable(fd, 5000));
  CHECK_INT(g.env->link_wait(g.env, g.link, bell, 1), CHI_ESHUTDOWN);
  /* A new link takes the place of the one that was shut. */
  g.env->link_shut(g.env, g.link);
  CHECK_INT(g.env->link_open(g.env, "here:1", &g.link, NULL), CHI_OK);
  CHECK_INT(g.env->link_descriptor(g.env, g.link, bell), fd);
  CHECK(!readable(fd, 0));
  g.env->bell_close(g.env, bell);
  guest_close(&g);
  server_stop(&s);
}

/* ---- forks ----------------------------------------------------------------------------------- */

/* Uses everything of a parent's link; the number of the first thing that isn't refused. */
static int use_after_fork(void *arg)
{
  struct guest *g = arg;
  env_link other;
  chi_error err = {0};
  char reply[16];
  size_t size = sizeof(reply);
  if (guest_call(g, "e", 1, reply, &size) != CHI_EFORKED)
    return 1;
  if (g->env->link_wait(g->env, g->link, ENV_NO_BELL, UINT64_MAX) != CHI_EFORKED)
    return 2;
  if (g->env->link_descriptor(g->env, g->link, ENV_NO_BELL) != -1)
    return 3;
  if (g->env->link_open(g->env, "here:1", &other, &err) != CHI_EFORKED)
    return 4;
  guest_close(g);
  return 0;
}

TEST(a_forked_child_is_refused_and_may_close_what_it_inherited)
{
  static struct server s;
  struct guest g;
  char reply[16];
  size_t size = sizeof(reply);
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(scratch_child(use_after_fork, &g), 0);
  CHECK_INT(guest_call(&g, "e", 1, reply, &size), CHI_OK); /* the parent's goes on */
  CHECK_INT(atomic_get(&s.hangups), 0);
  guest_close(&g);
  CHECK(server_reaches(&s.hangups, 1));
  server_stop(&s);
}

/* ---- hostile clients ------------------------------------------------------------------------- */

TEST(a_message_that_is_too_large_or_empty_ends_the_link)
{
  static struct server s;
  static char large[ENV_MESSAGE_MAX + 1];
  CHECK(server_start(&s, 8));
  int fd = guest_connect_raw(&s);
  CHECK_INT(send(fd, large, sizeof(large), 0), sizeof(large));
  CHECK(guest_hung_up(fd));
  close(fd);
  fd = guest_connect_raw(&s);
  CHECK_INT(send(fd, large, 0, 0), 0);
  CHECK(guest_hung_up(fd));
  close(fd);
  CHECK(server_reaches(&s.hangups, 2));
  CHECK_INT(atomic_get(&s.requests), 0);
  server_stop(&s);
}

TEST(descriptors_that_nobody_asked_for_end_the_link_and_are_not_kept)
{
  static struct server s;
  CHECK(server_start(&s, 8));
  int fd = guest_connect_raw(&s);
  CHECK(server_reaches(&s.connects, 1));
  int before = scratch_descriptors();
  union {
    char room[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {{0}};
  char byte = SERVER_ECHO;
  struct iovec part = {&byte, 1};
  struct msghdr m = {.msg_iov = &part,
                     .msg_iovlen = 1,
                     .msg_control = control.room,
                     .msg_controllen = sizeof(control.room)};
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  *c = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memset(CMSG_DATA(c), 0, 2 * sizeof(int)); /* standard input, twice */
  CHECK_INT(sendmsg(fd, &m, 0), 1);
  CHECK(guest_hung_up(fd));
  CHECK(server_reaches(&s.hangups, 1));
  CHECK_INT(atomic_get(&s.requests), 0);
  CHECK(scratch_descriptors() < before); /* the server's end is closed */
  close(fd);
  server_stop(&s);
}

TEST(a_client_that_floods_without_reading_is_cut_off)
{
  static struct server s;
  static char message[ENV_MESSAGE_MAX];
  CHECK(server_start(&s, 8));
  memset(message, SERVER_ECHO, sizeof(message));
  int fd = guest_connect_raw(&s);
  for (int i = 0; i < 10000 && send(fd, message, sizeof(message), MSG_NOSIGNAL) > 0; i++)
    ;
  CHECK(guest_hung_up(fd));
  CHECK(server_reaches(&s.hangups, 1));
  close(fd);
  message[0] = SERVER_SILENCE;
  fd = guest_connect_raw(&s);
  for (int i = 0; i < 10000 && send(fd, message, 1, MSG_NOSIGNAL) > 0; i++)
    ;
  CHECK(guest_hung_up(fd));
  CHECK(server_reaches(&s.hangups, 2));
  close(fd);
  server_stop(&s);
}

TEST(links_beyond_the_most_are_hung_up_on_and_places_are_used_again)
{
  static struct server s;
  int fd[5];
  CHECK(server_start(&s, 3));
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 4; i++)
      fd[i] = guest_connect_raw(&s);
    CHECK(guest_hung_up(fd[3]));
    CHECK(server_reaches(&s.connects, 3 * (uint32_t)round + 3));
    for (int i = 0; i < 4; i++)
      close(fd[i]);
    CHECK(server_reaches(&s.hangups, 3 * (uint32_t)round + 3));
  }
  server_stop(&s);
}

TEST(a_stale_handle_fits_no_later_link)
{
  static struct server s;
  struct guest g;
  struct env *env = &s.r.env;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(server_reaches(&s.connects, 1));
  env_link stale = s.last;
  guest_close(&g);
  CHECK(server_reaches(&s.hangups, 1));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(server_reaches(&s.connects, 2));
  CHECK(stale != s.last);
  CHECK_INT(env->link_reply(env, stale, "x", 1, NULL, 0), CHI_ESHUTDOWN);
  CHECK_INT(env->link_reply(env, -1, "x", 1, NULL, 0), CHI_ESHUTDOWN);
  env->link_close(env, stale);
  char reply[4];
  size_t size = sizeof(reply);
  CHECK_INT(guest_call(&g, "e", 1, reply, &size), CHI_OK);
  guest_close(&g);
  server_stop(&s);
}

/* ---- the loop -------------------------------------------------------------------------------- */

TEST(accepting_rests_while_descriptors_are_short_and_then_goes_on)
{
  static struct server s;
  struct rlimit before, less;
  CHECK(server_start(&s, 8));
  int fd = guest_connect_raw(&s);
  CHECK(server_reaches(&s.connects, 1));
  int late = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  less = before;
  less.rlim_cur = 3;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &less), 0);
  uint32_t awakes = atomic_get(&s.awakes);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", s.place.socket);
  int rc = connect(late, (const struct sockaddr *)&address, sizeof(address));
  const struct timespec nap = {0, 350000000};
  nanosleep(&nap, NULL);
  awakes = atomic_get(&s.awakes) - awakes;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_INT(rc, 0);
  CHECK(awakes < 20); /* it doesn't spin */
  CHECK(server_reaches(&s.connects, 2));
  close(fd);
  close(late);
  server_stop(&s);
}

static void ignore_connect(void *arg, env_link link, const struct env_peer *peer)
{
  (void)arg;
  (void)link;
  (void)peer;
}

static void ignore_request(void *arg, env_link link, const void *message, size_t size)
{
  (void)arg;
  (void)link;
  (void)message;
  (void)size;
}

static void ignore_hangup(void *arg, env_link link)
{
  (void)arg;
  (void)link;
}

static void count_awake(void *arg)
{
  ++*(int *)arg;
}

/* A loop to which nobody comes. */
struct quiet {
  char dir[64];
  struct real_link_place place;
  struct real_link_desk desk;
  struct real_env r;
  struct real_loop_owner owner;
  env_bell bell; /* that is watched */
  int awakes;
};

static void quiet_open(struct quiet *q)
{
  q->awakes = 0;
  q->bell = ENV_NO_BELL;
  q->owner = (struct real_loop_owner){&q->awakes, ignore_connect, ignore_request, ignore_hangup,
                                      count_awake};
  CHECK(scratch_make(q->dir));
  CHECK_INT(chmod(q->dir, 0700), 0);
  CHECK_INT(real_link_locate(q->dir, "here", 7, &q->place, NULL), CHI_OK);
  CHECK_INT(real_env_open(&q->r, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&q->place, &q->desk, NULL), CHI_OK);
  CHECK_INT(real_loop_open(&q->r, q->desk.socket, 4, &q->owner), CHI_OK);
}

static void quiet_close(struct quiet *q)
{
  real_loop_close(&q->r);
  if (q->bell != ENV_NO_BELL)
    q->r.env.bell_close(&q->r.env, q->bell);
  real_link_leave(&q->place, &q->desk);
  real_env_close(&q->r);
  scratch_remove(q->dir);
}

#define AN_HOUR_NS UINT64_C(3600000000000)

static uint64_t an_hour_before(const struct real_env *r, uint64_t deadline)
{
  (void)r;
  return deadline - AN_HOUR_NS;
}

TEST(a_sleep_ends_at_the_deadline_or_by_a_bell_and_says_so_first)
{
  struct quiet q;
  quiet_open(&q);
  CHECK_INT(q.r.env.bell_open(&q.r.env, &q.bell), CHI_OK);
  CHECK_INT(real_loop_watch(q.r.loop, real_env_bell_of(q.bell)->fd, true), CHI_OK);
  uint64_t deadline = q.r.env.clock(&q.r.env) + 3000000;
  real_loop_sleep(q.r.loop, deadline);
  CHECK(q.r.env.clock(&q.r.env) >= deadline);
  CHECK_INT(q.awakes, 1);
  real_loop_sleep(q.r.loop, 1); /* long past */
  CHECK_INT(q.awakes, 2);
  q.r.env.bell_ring(&q.r.env, q.bell);
  real_loop_sleep(q.r.loop, UINT64_MAX);
  CHECK_INT(q.awakes, 3);
  real_loop_poll(q.r.loop);
  CHECK_INT(q.awakes, 3);
  deadline = q.r.env.clock(&q.r.env) + 3000000; /* the ring was consumed */
  real_loop_sleep(q.r.loop, deadline);
  CHECK(q.r.env.clock(&q.r.env) >= deadline);
  q.r.until = an_hour_before; /* the clock of the node is ahead of the timer's */
  deadline = q.r.env.clock(&q.r.env) + 3000000;
  real_loop_sleep(q.r.loop, deadline + AN_HOUR_NS);
  CHECK(q.r.env.clock(&q.r.env) >= deadline && q.r.env.clock(&q.r.env) < deadline + AN_HOUR_NS);
  q.r.until = NULL;
  quiet_close(&q);
}

TEST(loop_is_not_woken_by_what_is_muted)
{
  struct quiet q;
  int ends[2];
  quiet_open(&q);
  CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
  CHECK_INT(real_loop_watch(q.r.loop, ends[0], false), CHI_OK);
  real_loop_sleep(q.r.loop, UINT64_MAX); /* ready it is, and stays */
  real_loop_mute(q.r.loop, ends[0], true);
  uint64_t deadline = q.r.env.clock(&q.r.env) + 3000000;
  while (q.r.env.clock(&q.r.env) < deadline)
    real_loop_sleep(q.r.loop, deadline);
  CHECK(q.awakes <= 3); /* libev looks once more before it lets go */
  real_loop_mute(q.r.loop, ends[0], false);
  int before = q.awakes;
  real_loop_sleep(q.r.loop, UINT64_MAX);
  CHECK_INT(q.awakes, before + 1);
  quiet_close(&q);
  close(ends[0]);
  close(ends[1]);
}
