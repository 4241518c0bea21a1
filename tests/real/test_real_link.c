/* test_real_link.c - instances, the attach socket, and links between a client and a node's loop. */
#include "real_link.h"
#include "atomic.h"
#include "real_loop.h"
#include "real_shm.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define WAIT_NS 5000000000u /* far more than anything here takes */

/* ---- a node's side that answers on a thread of its own --------------------------------------- */

/* What the first byte of a request asks the server for. */
enum { ECHO = 'e', SHARE = 's', SILENCE = 'n', CLOSE = 'c', SHARE_AGAIN = 'a', RING = 'r' };

struct server {
  struct real_env r;
  char dir[64], directory[80];
  struct real_link_place place;
  struct real_link_desk desk;
  pthread_t thread;
  env_bell bell, shared_bell;
  struct env_segment readable, writable;
  uint32_t quit, connects, hangups, requests, awakes; /* atomic */
  int share_rc;
  struct env_peer peer;
  env_link last;
};

static void server_on_connect(void *arg, env_link link, const struct env_peer *peer)
{
  struct server *s = arg;
  s->peer = *peer;
  s->last = link;
  atomic_add(&s->connects, 1);
}

static void server_share(struct server *s, env_link link)
{
  struct env *env = &s->r.env;
  const struct env_share shares[] = {
      {.kind = ENV_SHARE_SEGMENT_READ, .segment = s->readable},
      {.kind = ENV_SHARE_BELL, .bell = s->shared_bell},
      {.kind = ENV_SHARE_SEGMENT_WRITE, .segment = s->writable},
  };
  s->share_rc = env->link_reply(env, link, "three", 5, shares, CHI_COUNT(shares));
  if (s->share_rc != CHI_OK)
    env->link_reply(env, link, "none", 4, NULL, 0);
}

static void server_on_request(void *arg, env_link link, const void *message, size_t size)
{
  struct server *s = arg;
  struct env *env = &s->r.env;
  char what = *(const char *)message;
  atomic_add(&s->requests, 1);
  if (what == ECHO)
    env->link_reply(env, link, message, size, NULL, 0);
  if (what == SHARE)
    server_share(s, link);
  if (what == CLOSE)
    env->link_close(env, link);
  if (what == RING) {
    env->bell_ring(env, s->shared_bell);
    env->link_reply(env, link, "", 0, NULL, 0);
  }
}

static void server_on_hangup(void *arg, env_link link)
{
  struct server *s = arg;
  struct env *env = &s->r.env;
  /* A handle of a link that is gone is harmless. */
  if (env->link_reply(env, link, "x", 1, NULL, 0) != CHI_ESHUTDOWN)
    abort();
  env->link_close(env, link);
  atomic_add(&s->hangups, 1);
}

static void server_on_awake(void *arg)
{
  struct server *s = arg;
  atomic_add(&s->awakes, 1);
}

static void *server_main(void *arg)
{
  struct server *s = arg;
  while (!atomic_get_acquire(&s->quit))
    real_loop_sleep(s->r.loop, UINT64_MAX);
  return NULL;
}

static bool server_open_memory(struct server *s)
{
  struct env *env = &s->r.env;
  return env->segment_open(env, "readable", 4096, ENV_SHARED_READ, &s->readable) == CHI_OK &&
         env->segment_open(env, "writable", 8192, ENV_SHARED_WRITE, &s->writable) == CHI_OK;
}

static bool server_start(struct server *s, uint32_t links_max)
{
  const struct real_loop_owner owner = {s, server_on_connect, server_on_request, server_on_hangup,
                                        server_on_awake};
  memset(s, 0, sizeof(*s));
  if (!scratch_make(s->dir) || real_env_open(&s->r, NULL) != CHI_OK)
    return false;
  snprintf(s->directory, sizeof(s->directory), "%s/run", s->dir);
  s->r.directory = s->directory;
  real_shm_bind(&s->r);
  real_link_bind(&s->r);
  return real_link_locate(s->directory, "here", 1, &s->place, NULL) == CHI_OK &&
         real_link_listen(&s->place, &s->desk, NULL) == CHI_OK &&
         real_loop_open(&s->r, s->desk.socket, links_max, &owner) == CHI_OK &&
         s->r.env.bell_open(&s->r.env, &s->bell) == CHI_OK &&
         s->r.env.bell_open(&s->r.env, &s->shared_bell) == CHI_OK && server_open_memory(s) &&
         real_loop_watch(s->r.loop, real_env_bell_of(s->bell)->fd, true) == CHI_OK &&
         pthread_create(&s->thread, NULL, server_main, s) == 0;
}

/* Ends the thread and closes all links. */
static void server_hang_up(struct server *s)
{
  struct env *env = &s->r.env;
  atomic_set_release(&s->quit, 1);
  env->bell_ring(env, s->bell);
  pthread_join(s->thread, NULL);
  real_loop_close(&s->r);
  real_link_leave(&s->place, &s->desk);
}

static void server_stop(struct server *s)
{
  struct env *env = &s->r.env;
  server_hang_up(s);
  env->segment_close(env, &s->readable);
  env->segment_close(env, &s->writable);
  env->bell_close(env, s->bell);
  env->bell_close(env, s->shared_bell);
  real_env_close(&s->r);
  scratch_remove(s->dir);
}

/* Waits until *counter has reached a value. */
static bool reaches(const uint32_t *counter, uint32_t value)
{
  const struct timespec nap = {0, 1000000};
  for (int i = 0; i < 5000 && atomic_get_acquire(counter) < value; i++)
    nanosleep(&nap, NULL);
  return atomic_get_acquire(counter) == value;
}

/* Waits until so many descriptors are open. */
static bool descriptors_settle(int count)
{
  const struct timespec nap = {0, 1000000};
  for (int i = 0; i < 5000 && scratch_descriptors() != count; i++)
    nanosleep(&nap, NULL);
  return scratch_descriptors() == count;
}

/* ---- a client's side ------------------------------------------------------------------------- */

struct guest {
  struct real_env r;
  struct env *env;
  env_link link;
};

static int guest_open(struct guest *g, const struct server *s, const char *instance, chi_error *err)
{
  if (real_env_open(&g->r, NULL) != CHI_OK)
    return CHI_ENOMEM;
  g->env = &g->r.env;
  g->r.directory = s ? s->directory : NULL;
  real_shm_bind(&g->r);
  real_link_bind(&g->r);
  int rc = g->env->link_open(g->env, instance, &g->link, err);
  if (rc != CHI_OK)
    real_env_close(&g->r);
  return rc;
}

static void guest_close(struct guest *g)
{
  g->env->link_shut(g->env, g->link);
  real_env_close(&g->r);
}

static int guest_call(struct guest *g, const char *request, size_t size, char *reply, size_t *room)
{
  uint32_t count = 0;
  return g->env->link_call(g->env, g->link, request, size, reply, room, NULL, &count);
}

/* A socket that speaks for itself, for what no library would send. */
static int raw_connect(const struct server *s)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", s->place.socket);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
    return -1;
  return fd;
}

/* True when the server has hung up on a raw socket. */
static bool hung_up(int fd)
{
  struct pollfd p = {fd, POLLRDHUP, 0};
  return poll(&p, 1, 5000) == 1 && (p.revents & (POLLHUP | POLLRDHUP));
}

/* ---- where ----------------------------------------------------------------------------------- */

TEST(an_instance_has_a_socket_named_after_it)
{
  struct real_link_place p;
  char want[128];
  CHECK_INT(real_link_locate("/tmp/x", "name", 5555, &p, NULL), CHI_OK);
  CHECK_STR(p.instance, "name:5555");
  CHECK_STR(p.socket, "/tmp/x/name-5555.sock");
  CHECK_STR(p.lock, "/tmp/x/name-5555.lock");
  CHECK_INT(real_link_locate(NULL, "name", 5555, &p, NULL), CHI_OK);
  snprintf(want, sizeof(want), "/tmp/chimaera-%u/name-5555.sock", (unsigned)geteuid());
  CHECK_STR(p.socket, want);
}

TEST(a_name_that_is_no_file_name_is_refused)
{
  static const char *const names[] = {"", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\nb"};
  struct real_link_place p;
  for (size_t i = 0; i < CHI_COUNT(names); i++)
    CHECK_INT(real_link_locate("/tmp/x", names[i], 1, &p, NULL), CHI_EINVAL);
}

TEST(a_name_too_long_for_a_socket_is_told_with_the_limit)
{
  struct real_link_place p;
  char name[200];
  chi_error err = {0};
  memset(name, 'n', sizeof(name));
  name[120] = '\0';
  CHECK_INT(real_link_locate("/tmp/x", name, 1, &p, &err), CHI_ETOOBIG);
  CHECK(strstr(err.text, "107"));
  name[120] = 'n';
  name[107 - strlen("/tmp/x/-1.sock")] = '\0';
  CHECK_INT(real_link_locate("/tmp/x", name, 1, &p, NULL), CHI_OK);
  CHECK_INT(strlen(p.socket), 107);
  CHECK_INT(strlen(p.lock), 107);
}

/* ---- a node listens -------------------------------------------------------------------------- */

/* A place in a scratch directory, where nobody listens yet. */
struct site {
  char dir[64], run[80];
  struct real_link_place place;
  chi_error err;
};

static bool site_make(struct site *s)
{
  memset(s, 0, sizeof(*s));
  if (!scratch_make(s->dir))
    return false;
  snprintf(s->run, sizeof(s->run), "%s/run", s->dir);
  return real_link_locate(s->run, "here", 7, &s->place, NULL) == CHI_OK;
}

TEST(listening_makes_the_directory_and_leaving_removes_both_files)
{
  struct site s;
  struct real_link_desk d;
  struct stat st;
  CHECK(site_make(&s));
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_OK);
  CHECK(lstat(s.run, &st) == 0 && S_ISDIR(st.st_mode));
  CHECK_INT(st.st_mode & 07777, 0700);
  CHECK(lstat(s.place.socket, &st) == 0 && lstat(s.place.lock, &st) == 0);
  real_link_leave(&s.place, &d);
  CHECK(lstat(s.place.socket, &st) != 0 && lstat(s.place.lock, &st) != 0);
  scratch_remove(s.dir);
}

TEST(a_second_node_of_an_instance_is_told_who_the_first_is)
{
  struct site s;
  struct real_link_desk first, second;
  char pid[32];
  CHECK(site_make(&s));
  CHECK_INT(real_link_listen(&s.place, &first, &s.err), CHI_OK);
  CHECK_INT(real_link_listen(&s.place, &second, &s.err), CHI_EBUSY);
  snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
  CHECK(strstr(s.err.text, "here:7") && strstr(s.err.text, pid));
  CHECK(access(s.place.socket, F_OK) == 0); /* the first one's is left alone */
  CHECK_INT(ftruncate(first.lock, 0), 0);
  CHECK_INT(real_link_listen(&s.place, &second, &s.err), CHI_EBUSY);
  CHECK(strstr(s.err.text, "another process"));
  real_link_leave(&s.place, &first);
  CHECK_INT(real_link_listen(&s.place, &second, &s.err), CHI_OK);
  real_link_leave(&s.place, &second);
  scratch_remove(s.dir);
}

TEST(instances_on_other_ports_do_not_get_in_the_way)
{
  struct site s;
  struct real_link_place other;
  struct real_link_desk first, second;
  CHECK(site_make(&s));
  CHECK_INT(real_link_locate(s.run, "here", 8, &other, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&s.place, &first, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&other, &second, NULL), CHI_OK);
  real_link_leave(&other, &second);
  real_link_leave(&s.place, &first);
  scratch_remove(s.dir);
}

static int listen_and_die(void *arg)
{
  const struct site *s = arg;
  struct real_link_desk d;
  if (real_link_listen(&s->place, &d, NULL) == CHI_OK)
    kill(getpid(), SIGKILL);
  return 1;
}

TEST(what_a_killed_node_left_behind_is_replaced)
{
  struct site s;
  struct real_link_desk d;
  CHECK(site_make(&s));
  CHECK_INT(scratch_child(listen_and_die, &s), -1);
  CHECK(access(s.place.socket, F_OK) == 0);
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_OK);
  real_link_leave(&s.place, &d);
  scratch_remove(s.dir);
}

TEST(a_directory_that_is_not_ours_alone_is_refused)
{
  struct site s;
  struct real_link_desk d;
  CHECK(site_make(&s));
  CHECK_INT(symlink(s.dir, s.run), 0);
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_EACCES);
  CHECK(strstr(s.err.text, "symbolic link"));
  CHECK_INT(unlink(s.run), 0);
  CHECK(scratch_write(s.dir, "run", "a file"));
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_EACCES);
  CHECK(strstr(s.err.text, "not a directory"));
  CHECK_INT(unlink(s.run), 0);
  CHECK_INT(mkdir(s.run, 0700), 0);
  CHECK_INT(chmod(s.run, 0755), 0);
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_EACCES);
  CHECK(strstr(s.err.text, "0755"));
  scratch_remove(s.dir);
}

TEST(a_directory_of_another_user_is_refused)
{
  struct site s;
  struct real_link_desk d;
  CHECK(site_make(&s));
  CHECK_INT(mkdir(s.run, 0700), 0);
  if (chown(s.run, 65534, 65534) != 0) {
    test_skip("only root can give a directory away");
  } else {
    CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_EACCES);
    CHECK(strstr(s.err.text, "belongs to user 65534"));
  }
  scratch_remove(s.dir);
}

TEST(a_directory_that_cannot_be_made_is_told)
{
  struct real_link_place p;
  struct real_link_desk d;
  chi_error err = {0};
  CHECK_INT(real_link_locate("/nowhere/run", "here", 7, &p, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&p, &d, &err), CHI_ENOENT);
  CHECK(strstr(err.text, "/nowhere/run"));
}

TEST(a_lock_file_that_is_a_symbolic_link_is_not_followed)
{
  struct site s;
  struct real_link_desk d;
  CHECK(site_make(&s));
  CHECK_INT(mkdir(s.run, 0700), 0);
  CHECK_INT(symlink("/tmp/chi-test-victim", s.place.lock), 0);
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_EINVAL);
  CHECK(access("/tmp/chi-test-victim", F_OK) != 0);
  scratch_remove(s.dir);
}

TEST(a_socket_that_cannot_be_replaced_is_told_and_the_lock_is_free_again)
{
  struct site s;
  struct real_link_desk d;
  CHECK(site_make(&s));
  CHECK_INT(mkdir(s.run, 0700), 0);
  CHECK_INT(mkdir(s.place.socket, 0700), 0);
  int before = scratch_descriptors();
  CHECK(real_link_listen(&s.place, &d, &s.err) < 0);
  CHECK(strstr(s.err.text, s.place.socket));
  CHECK_INT(scratch_descriptors(), before);
  CHECK_INT(rmdir(s.place.socket), 0);
  CHECK_INT(real_link_listen(&s.place, &d, &s.err), CHI_OK);
  real_link_leave(&s.place, &d);
  scratch_remove(s.dir);
}

/* ---- a client finds its node ----------------------------------------------------------------- */

TEST(an_instance_is_found_however_it_is_written)
{
  static struct server s;
  struct guest g;
  CHECK(server_start(&s, 8));
  const char *const forms[] = {"here:1", ":1", "here", s.place.socket};
  for (size_t i = 0; i < CHI_COUNT(forms); i++) {
    CHECK_INT(guest_open(&g, &s, forms[i], NULL), CHI_OK);
    guest_close(&g);
  }
  server_stop(&s);
}

TEST(no_daemon_is_told_at_once_with_the_socket_that_was_looked_for)
{
  static struct server s;
  struct guest g;
  chi_error err = {0};
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:2", &err), CHI_ENODAEMON);
  CHECK(strstr(err.text, "/run/here-2.sock"));
  CHECK_INT(guest_open(&g, &s, ":3", &err), CHI_ENODAEMON);
  CHECK(strstr(err.text, "/run/*-3.sock"));
  CHECK_INT(guest_open(&g, &s, "there", &err), CHI_ENODAEMON);
  CHECK(strstr(err.text, "/run/there-*.sock"));
  CHECK_INT(guest_open(&g, &s, "/tmp/nowhere.sock", &err), CHI_ENODAEMON);
  CHECK(strstr(err.text, "/tmp/nowhere.sock"));
  CHECK_INT(guest_open(&g, &s, "/etc/passwd", &err), CHI_ENODAEMON);
  server_stop(&s);
}

TEST(a_socket_left_by_a_killed_node_is_no_daemon)
{
  struct site s;
  struct guest g;
  static struct server fake;
  CHECK(site_make(&s));
  CHECK_INT(scratch_child(listen_and_die, &s), -1);
  snprintf(fake.directory, sizeof(fake.directory), "%s", s.run);
  CHECK_INT(guest_open(&g, &fake, "here:7", &s.err), CHI_ENODAEMON);
  CHECK(strstr(s.err.text, s.place.socket));
  CHECK_INT(guest_open(&g, &fake, "here", &s.err), CHI_ENODAEMON);
  scratch_remove(s.dir);
}

TEST(what_is_no_instance_is_refused)
{
  static const char *const texts[] = {"", ".", "a\nb"};
  static struct server s;
  struct guest g;
  char path[300];
  CHECK(server_start(&s, 8));
  for (size_t i = 0; i < CHI_COUNT(texts); i++)
    CHECK_INT(guest_open(&g, &s, texts[i], NULL), CHI_EINVAL);
  CHECK_INT(guest_open(&g, &s, "here:70000", NULL), CHI_ENODAEMON);
  memset(path, 'p', sizeof(path) - 1);
  path[0] = '/';
  path[sizeof(path) - 1] = '\0';
  CHECK_INT(guest_open(&g, &s, path, NULL), CHI_ETOOBIG);
  server_stop(&s);
}

TEST(a_name_or_port_that_fits_several_is_ambiguous)
{
  static struct server s;
  struct real_link_place other;
  struct real_link_desk d;
  struct guest g;
  chi_error err = {0};
  CHECK(server_start(&s, 8));
  CHECK_INT(real_link_locate(s.directory, "here", 2, &other, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&other, &d, NULL), CHI_OK);
  CHECK_INT(guest_open(&g, &s, "here", &err), CHI_EINVAL);
  CHECK(strstr(err.text, "here:1") && strstr(err.text, "here:2"));
  CHECK_INT(guest_open(&g, &s, ":2", &err), CHI_OK);
  guest_close(&g);
  real_link_leave(&other, &d);
  server_stop(&s);
}

TEST(without_a_name_the_configuration_tells_the_instance)
{
  static struct server s;
  struct guest g;
  char path[128];
  chi_error err = {0};
  CHECK(server_start(&s, 8));
  CHECK(scratch_write(s.dir, "conf.yaml",
                      "networking:\n  port: 1\nshared_memory:\n  main_segment_name: here\n"));
  snprintf(path, sizeof(path), "%s/conf.yaml", s.dir);
  CHECK_INT(setenv("CHI_SERVER_CONF", path, 1), 0);
  CHECK_INT(guest_open(&g, &s, NULL, &err), CHI_OK);
  guest_close(&g);
  CHECK_INT(setenv("CHI_SERVER_CONF", "/nowhere.yaml", 1), 0);
  CHECK_INT(guest_open(&g, &s, NULL, &err), CHI_ENOENT);
  unsetenv("CHI_SERVER_CONF");
  server_stop(&s);
}

/* ---- messages -------------------------------------------------------------------------------- */

TEST(the_node_learns_who_is_at_the_other_end)
{
  static struct server s;
  struct guest g;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(reaches(&s.connects, 1));
  CHECK_INT(s.peer.uid, geteuid());
  CHECK_INT(s.peer.pid, getpid());
  CHECK(s.last > 0);
  guest_close(&g);
  server_stop(&s);
}

TEST(a_message_keeps_its_bounds_up_to_the_largest)
{
  static struct server s;
  static char request[ENV_MESSAGE_MAX + 1], reply[ENV_MESSAGE_MAX];
  struct guest g;
  const size_t sizes[] = {1, 2, 100, 4096, ENV_MESSAGE_MAX};
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  memset(request, ECHO, sizeof(request));
  for (size_t i = 0; i < CHI_COUNT(sizes); i++) {
    size_t size = sizeof(reply);
    request[sizes[i] - 1] = i == 0 ? ECHO : 'z';
    CHECK_INT(guest_call(&g, request, sizes[i], reply, &size), CHI_OK);
    CHECK_INT(size, sizes[i]);
    CHECK(memcmp(request, reply, size) == 0);
  }
  size_t size = sizeof(reply);
  CHECK_INT(guest_call(&g, request, sizeof(request), reply, &size), CHI_ETOOBIG);
  CHECK_INT(guest_call(&g, request, 0, reply, &size), CHI_ETOOBIG);
  guest_close(&g);
  server_stop(&s);
}

TEST(a_reply_that_has_no_room_is_refused_and_the_next_one_is_right)
{
  static struct server s;
  struct guest g;
  char reply[8];
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  size_t size = 4;
  CHECK_INT(guest_call(&g, "e12345678", 9, reply, &size), CHI_ETOOBIG);
  size = sizeof(reply);
  CHECK_INT(guest_call(&g, "e1", 2, reply, &size), CHI_OK);
  CHECK_INT(size, 2);
  size = sizeof(reply);
  CHECK_INT(guest_call(&g, "s", 1, reply, &size), CHI_ETOOBIG); /* no room for shares */
  guest_close(&g);
  server_stop(&s);
}

TEST(segments_and_bells_travel_with_a_reply)
{
  static struct server s;
  struct guest g;
  struct env_share shares[3];
  char reply[16];
  size_t size = sizeof(reply);
  uint32_t count = 3;
  CHECK(server_start(&s, 8));
  strcpy(s.readable.base, "read me");
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK_INT(g.env->link_call(g.env, g.link, "s", 1, reply, &size, shares, &count), CHI_OK);
  CHECK(size == 5 && memcmp(reply, "three", 5) == 0);
  CHECK_INT(count, 3);
  CHECK(shares[0].kind == ENV_SHARE_SEGMENT_READ && shares[0].segment.size == 4096);
  CHECK_STR(shares[0].segment.base, "read me");
  CHECK(shares[2].kind == ENV_SHARE_SEGMENT_WRITE && shares[2].segment.size == 8192);
  strcpy(shares[2].segment.base, "written");
  CHECK_STR(s.writable.base, "written");
  CHECK_INT(shares[1].kind, ENV_SHARE_BELL);
  size = sizeof(reply);
  CHECK_INT(guest_call(&g, "r", 1, reply, &size), CHI_OK);
  CHECK_INT(g.env->link_wait(g.env, g.link, shares[1].bell, UINT64_MAX), CHI_OK);
  CHECK_INT(g.env->link_wait(g.env, g.link, shares[1].bell, 1), CHI_ETIMEOUT);
  /* The writable one can't be shared again. */
  size = sizeof(reply);
  count = 3;
  struct env_share none[3];
  CHECK_INT(g.env->link_call(g.env, g.link, "s", 1, reply, &size, none, &count), CHI_OK);
  CHECK_INT(s.share_rc, CHI_EINVAL);
  CHECK_INT(count, 0);
  for (int i = 0; i < 3; i++)
    if (shares[i].kind == ENV_SHARE_BELL)
      g.env->bell_close(g.env, shares[i].bell);
    else
      g.env->segment_close(g.env, &shares[i].segment);
  guest_close(&g);
  server_stop(&s);
}

TEST(a_client_out_of_descriptors_gets_no_half_of_a_reply)
{
  static struct server s;
  struct guest g;
  struct env_share shares[3];
  struct rlimit before, less;
  char reply[16];
  size_t size = sizeof(reply);
  uint32_t count = 3;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(reaches(&s.connects, 1));
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
  int probe = dup(0);
  close(probe);
  less = before;
  less.rlim_cur = (rlim_t)probe + 1; /* one can still be had */
  int open_before = scratch_descriptors();
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &less), 0);
  int rc = g.env->link_call(g.env, g.link, "s", 1, reply, &size, shares, &count);
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_INT(rc, CHI_ENOMEM);
  CHECK_INT(count, 0);
  CHECK(descriptors_settle(open_before - 1)); /* the server's writable segment was lent */
  guest_close(&g);
  server_stop(&s);
}

struct caller {
  struct guest *guest;
  uint32_t wrong;
};

static void *call_often(void *arg)
{
  struct caller *c = arg;
  for (int i = 0; i < 500; i++) {
    char request[64], reply[64];
    size_t size = sizeof(reply);
    int n = snprintf(request, sizeof(request), "e %p %d", arg, i);
    if (guest_call(c->guest, request, (size_t)n, reply, &size) != CHI_OK || size != (size_t)n ||
        memcmp(request, reply, size) != 0)
      c->wrong++;
  }
  return NULL;
}

TEST(calls_of_several_threads_are_answered_each_with_its_own)
{
  static struct server s;
  struct guest g;
  struct caller c[4];
  pthread_t thread[4];
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  for (int i = 0; i < 4; i++) {
    c[i] = (struct caller){&g, 0};
    CHECK_INT(pthread_create(&thread[i], NULL, call_often, &c[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(thread[i], NULL);
    CHECK_INT(c[i].wrong, 0);
  }
  guest_close(&g);
  server_stop(&s);
}

/* ---- ends ------------------------------------------------------------------------------------ */

TEST(the_node_hears_that_a_client_has_closed)
{
  static struct server s;
  struct guest g;
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(reaches(&s.connects, 1));
  guest_close(&g);
  CHECK(reaches(&s.hangups, 1));
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
  int fd = raw_connect(v->server);
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
  CHECK(reaches(&s.hangups, 1));
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
    CHECK(reaches(&s.hangups, 1));
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
  struct env *env = &s.r.env;
  env->segment_close(env, &s.readable);
  env->segment_close(env, &s.writable);
  env->bell_close(env, s.bell);
  env->bell_close(env, s.shared_bell);
  real_env_close(&s.r);
  scratch_remove(s.dir);
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
  struct caller c = {&g, 0};
  call_often(&c);
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
  CHECK(reaches(&s.hangups, 1));
  server_stop(&s);
}

/* ---- hostile clients ------------------------------------------------------------------------- */

TEST(a_message_that_is_too_large_or_empty_ends_the_link)
{
  static struct server s;
  static char large[ENV_MESSAGE_MAX + 1];
  CHECK(server_start(&s, 8));
  int fd = raw_connect(&s);
  CHECK_INT(send(fd, large, sizeof(large), 0), sizeof(large));
  CHECK(hung_up(fd));
  close(fd);
  fd = raw_connect(&s);
  CHECK_INT(send(fd, large, 0, 0), 0);
  CHECK(hung_up(fd));
  close(fd);
  CHECK(reaches(&s.hangups, 2));
  CHECK_INT(atomic_get(&s.requests), 0);
  server_stop(&s);
}

TEST(descriptors_that_nobody_asked_for_end_the_link_and_are_not_kept)
{
  static struct server s;
  CHECK(server_start(&s, 8));
  int fd = raw_connect(&s);
  CHECK(reaches(&s.connects, 1));
  int before = scratch_descriptors();
  union {
    char room[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
  } control = {{0}};
  char byte = ECHO;
  struct iovec part = {&byte, 1};
  struct msghdr m = {.msg_iov = &part,
                     .msg_iovlen = 1,
                     .msg_control = control.room,
                     .msg_controllen = sizeof(control.room)};
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  *c = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memset(CMSG_DATA(c), 0, 2 * sizeof(int)); /* standard input, twice */
  CHECK_INT(sendmsg(fd, &m, 0), 1);
  CHECK(hung_up(fd));
  CHECK(reaches(&s.hangups, 1));
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
  memset(message, ECHO, sizeof(message));
  int fd = raw_connect(&s);
  for (int i = 0; i < 10000 && send(fd, message, sizeof(message), MSG_NOSIGNAL) > 0; i++)
    ;
  CHECK(hung_up(fd));
  CHECK(reaches(&s.hangups, 1));
  close(fd);
  message[0] = SILENCE;
  fd = raw_connect(&s);
  for (int i = 0; i < 10000 && send(fd, message, 1, MSG_NOSIGNAL) > 0; i++)
    ;
  CHECK(hung_up(fd));
  CHECK(reaches(&s.hangups, 2));
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
      fd[i] = raw_connect(&s);
    CHECK(hung_up(fd[3]));
    CHECK(reaches(&s.connects, 3 * (uint32_t)round + 3));
    for (int i = 0; i < 4; i++)
      close(fd[i]);
    CHECK(reaches(&s.hangups, 3 * (uint32_t)round + 3));
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
  CHECK(reaches(&s.connects, 1));
  env_link stale = s.last;
  guest_close(&g);
  CHECK(reaches(&s.hangups, 1));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  CHECK(reaches(&s.connects, 2));
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
  int fd = raw_connect(&s);
  CHECK(reaches(&s.connects, 1));
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
  CHECK(reaches(&s.connects, 2));
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

TEST(a_sleep_ends_at_the_deadline_or_by_a_bell_and_says_so_first)
{
  struct site s;
  struct real_link_desk d;
  struct real_env r;
  env_bell bell;
  int awakes = 0;
  const struct real_loop_owner owner = {&awakes, ignore_connect, ignore_request, ignore_hangup,
                                        count_awake};
  CHECK(site_make(&s));
  CHECK_INT(real_env_open(&r, NULL), CHI_OK);
  CHECK_INT(real_link_listen(&s.place, &d, NULL), CHI_OK);
  CHECK_INT(real_loop_open(&r, d.socket, 4, &owner), CHI_OK);
  CHECK_INT(r.env.bell_open(&r.env, &bell), CHI_OK);
  CHECK_INT(real_loop_watch(r.loop, real_env_bell_of(bell)->fd, true), CHI_OK);
  uint64_t deadline = r.env.clock(&r.env) + 3000000;
  real_loop_sleep(r.loop, deadline);
  CHECK(r.env.clock(&r.env) >= deadline);
  CHECK_INT(awakes, 1);
  real_loop_sleep(r.loop, 1); /* long past */
  CHECK_INT(awakes, 2);
  r.env.bell_ring(&r.env, bell);
  real_loop_sleep(r.loop, UINT64_MAX);
  CHECK_INT(awakes, 3);
  real_loop_poll(r.loop);
  CHECK_INT(awakes, 3);
  deadline = r.env.clock(&r.env) + 3000000; /* the ring was consumed */
  real_loop_sleep(r.loop, deadline);
  CHECK(r.env.clock(&r.env) >= deadline);
  real_loop_close(&r);
  r.env.bell_close(&r.env, bell);
  real_link_leave(&s.place, &d);
  real_env_close(&r);
  scratch_remove(s.dir);
}
