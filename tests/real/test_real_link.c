/* test_real_link.c - instances: where they are, who may listen, how clients find and call them. */
#include "atomic.h"
#include "server.h"
#include "scratch.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

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

/* Serves as another user, where root looks for daemons of its own, until it is killed. */
static int listen_as_another(void *arg)
{
  const struct site *s = arg;
  struct real_link_desk d;
  if (mkdir(s->run, 0700) != 0 || chown(s->run, 65534, 65534) != 0 || chmod(s->dir, 0755) != 0 ||
      setgid(65534) != 0 || setuid(65534) != 0 || real_link_listen(&s->place, &d, NULL) != CHI_OK)
    return 1;
  for (;;)
    pause();
}

/* Whoever makes root's directory first is not trusted for that; root may still go to see him. */
TEST(a_daemon_of_another_user_is_found_by_its_path_only)
{
  struct site s;
  struct guest g;
  static struct server fake;
  int status = 0;
  if (geteuid() != 0) {
    test_skip("only root may attach to daemons of others at all");
    return;
  }
  CHECK(site_make(&s));
  snprintf(fake.directory, sizeof(fake.directory), "%s", s.run);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0)
    _exit(listen_as_another(&s));
  for (int i = 0; i < 1000 && access(s.place.socket, F_OK) != 0; i++)
    poll(NULL, 0, 10);
  int rc[3], path_rc = CHI_EIO;
  const char *const forms[] = {"here:7", "here", ":7"};
  for (size_t i = 0; i < CHI_COUNT(forms); i++) {
    rc[i] = guest_open(&g, &fake, forms[i], &s.err);
    if (rc[i] == CHI_OK)
      guest_close(&g);
  }
  path_rc = guest_open(&g, &fake, s.place.socket, &s.err);
  if (path_rc == CHI_OK)
    guest_close(&g);
  kill(child, SIGKILL);
  CHECK_INT(waitpid(child, &status, 0), child);
  scratch_remove(s.dir);
  CHECK_INT(path_rc, CHI_OK);
  CHECK_INT(rc[0], CHI_EACCES);
  CHECK_INT(rc[1], CHI_ENODAEMON);
  CHECK_INT(rc[2], CHI_ENODAEMON);
}

/* What comes with an answer too short to be one is not kept. */
TEST(a_broken_answer_leaves_no_descriptor)
{
  static struct server fake;
  struct site s;
  struct real_link_desk d;
  struct guest g;
  union {
    char room[CMSG_SPACE(sizeof(int))];
    struct cmsghdr head;
  } sign = {{0}};
  char reply[8];
  size_t room = sizeof(reply);
  CHECK(site_make(&s));
  snprintf(fake.directory, sizeof(fake.directory), "%s", s.run);
  CHECK_INT(real_link_listen(&s.place, &d, NULL), CHI_OK);
  CHECK_INT(guest_open(&g, &fake, "here:7", NULL), CHI_OK);
  int fd = accept(d.socket, NULL, NULL), before = scratch_descriptors();
  struct iovec part = {"x", 1};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = sign.room,
                     .msg_controllen = sizeof(sign.room)};
  sign.head.cmsg_level = SOL_SOCKET;
  sign.head.cmsg_type = SCM_RIGHTS;
  sign.head.cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(&sign.head), &fd, sizeof(int));
  CHECK_INT(sendmsg(fd, &m, 0), 1);
  CHECK_INT(guest_call(&g, "e", 1, reply, &room), CHI_ESHUTDOWN);
  CHECK_INT(scratch_descriptors(), before);
  guest_close(&g);
  close(fd);
  real_link_leave(&s.place, &d);
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
  CHECK(server_reaches(&s.connects, 1));
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
  memset(request, SERVER_ECHO, sizeof(request));
  for (size_t i = 0; i < CHI_COUNT(sizes); i++) {
    size_t size = sizeof(reply);
    request[sizes[i] - 1] = i == 0 ? SERVER_ECHO : 'z';
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
  CHECK(server_reaches(&s.connects, 1));
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
  CHECK(server_descriptors_settle(open_before - 1)); /* the server's writable segment was lent */
  guest_close(&g);
  server_stop(&s);
}

TEST(calls_of_several_threads_are_answered_each_with_its_own)
{
  static struct server s;
  struct guest g;
  struct guest_caller c[4];
  pthread_t thread[4];
  CHECK(server_start(&s, 8));
  CHECK_INT(guest_open(&g, &s, "here:1", NULL), CHI_OK);
  for (int i = 0; i < 4; i++) {
    c[i] = (struct guest_caller){&g, 0};
    CHECK_INT(pthread_create(&thread[i], NULL, guest_call_often, &c[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(thread[i], NULL);
    CHECK_INT(c[i].wrong, 0);
  }
  guest_close(&g);
  server_stop(&s);
}
