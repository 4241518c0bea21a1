/* real_link.c - the attach socket: where it is, and messages with descriptors over it. */
#include "real_link.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "error.h"
#include "real_conf.h"
#include "real_shm.h"
#include "units.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define REAL_LINK_BACKLOG 512    /* clients that have connected and wait to be accepted */
#define REAL_LINK_CONNECT_S 5    /* so long a client waits for room in it */
#define REAL_LINK_LOCK_TRIES 16  /* a lock file may be removed while it is being locked */
#define REAL_LINK_ENTRIES 65536   /* of the directory that are looked at: killed nodes leave some */
#define REAL_LINK_SUFFIX ".sock"
#define REAL_LINK_PEERPIDFD 77 /* SO_PEERPIDFD: Linux 6.5, not in older headers */

/* What precedes the bytes of a reply: how many descriptors come along, and which. */
struct real_link_header {
  uint32_t count;
  uint8_t kind[ENV_SHARES_MAX]; /* enum env_share_kind */
};

/* Room for the descriptors of a message. */
union real_link_control {
  char room[CMSG_SPACE(ENV_SHARES_MAX * sizeof(int))];
  struct cmsghdr align;
};

/* ---- where ----------------------------------------------------------------------------------- */

static void real_link_directory(const char *directory, char *out, size_t room)
{
  if (directory)
    snprintf(out, room, "%s", directory);
  else
    snprintf(out, room, "/tmp/chimaera-%u", (unsigned)geteuid());
}

static bool real_link_named(const char *name)
{
  if (!*name || *name == '.' || strchr(name, '/'))
    return false;
  for (; *name; name++)
    if ((unsigned char)*name < ' ' || *name == 127)
      return false;
  return true;
}

int real_link_locate(const char *directory, const char *name, uint32_t port,
                     struct real_link_place *out, chi_error *err)
{
  if (!real_link_named(name) || strlen(name) >= CHI_NAME_MAX)
    return error_set(err, CHI_EINVAL,
                     "\"%s\" is not a name of an instance: it is part of a file's name, and must "
                     "not be empty, begin with a dot, or contain a slash",
                     name);
  real_link_directory(directory, out->directory, sizeof(out->directory));
  snprintf(out->instance, sizeof(out->instance), "%s:%u", name, (unsigned)port);
  int n = snprintf(out->socket, sizeof(out->socket), "%s/%s-%u" REAL_LINK_SUFFIX, out->directory,
                   name, (unsigned)port);
  if (n < 0 || (size_t)n >= sizeof(out->socket))
    return error_set(err, CHI_ETOOBIG,
                     "the name \"%s\" is too long: the socket %s/%s-%u" REAL_LINK_SUFFIX
                     " would have %d bytes, and %d is the most",
                     name, out->directory, name, (unsigned)port, n, (int)sizeof(out->socket) - 1);
  snprintf(out->lock, sizeof(out->lock), "%s/%s-%u.lock", out->directory, name, (unsigned)port);
  return CHI_OK;
}

/* ---- a node listens -------------------------------------------------------------------------- */

static int real_link_check_directory(const char *path, chi_error *err)
{
  struct stat st;
  if (mkdir(path, 0700) != 0 && errno != EEXIST)
    return error_set(err, real_env_code(errno), "cannot make the directory %s: %m", path);
  if (lstat(path, &st) != 0)
    return error_set(err, real_env_code(errno), "cannot look at the directory %s: %m", path);
  if (!S_ISDIR(st.st_mode))
    return error_set(err, CHI_EACCES, "%s is %s, not a directory: remove it", path,
                     S_ISLNK(st.st_mode) ? "a symbolic link" : "something else");
  if (st.st_uid != geteuid())
    return error_set(err, CHI_EACCES, "the directory %s belongs to user %u, not to user %u", path,
                     (unsigned)st.st_uid, (unsigned)geteuid());
  if (st.st_mode & 077)
    return error_set(err, CHI_EACCES,
                     "the directory %s is open to others (mode %04o, expected 0700): remove it",
                     path, (unsigned)st.st_mode & 07777);
  return CHI_OK;
}

/* Another node holds the lock: says which process that is, if it has written that down. */
static int real_link_taken(const struct real_link_place *place, int fd, chi_error *err)
{
  char text[32] = "";
  uint64_t pid = 0;
  ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
  text[n > 0 ? n : 0] = '\0';
  text[strcspn(text, "\n")] = '\0';
  if (units_parse_count(text, &pid) == CHI_OK && pid > 0)
    return error_set(err, CHI_EBUSY, "instance %s is already served by process %llu (%s)",
                     place->instance, (unsigned long long)pid, place->lock);
  return error_set(err, CHI_EBUSY, "instance %s is already served by another process (%s)",
                   place->instance, place->lock);
}

/* Opens and locks the lock file. One that was removed meanwhile protects nothing: again then. */
static int real_link_lock(const struct real_link_place *place, int *out, chi_error *err)
{
  struct stat held, there;
  for (int i = 0; i < REAL_LINK_LOCK_TRIES; i++) {
    int fd = open(place->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0)
      return error_set(err, real_env_code(errno), "cannot open %s: %m", place->lock);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      int rc = errno == EWOULDBLOCK
                   ? real_link_taken(place, fd, err)
                   : error_set(err, real_env_code(errno), "cannot lock %s: %m", place->lock);
      close(fd);
      return rc;
    }
    if (fstat(fd, &held) == 0 && stat(place->lock, &there) == 0 && held.st_ino == there.st_ino &&
        held.st_dev == there.st_dev) {
      *out = fd;
      return CHI_OK;
    }
    close(fd);
  }
  return error_set(err, CHI_EBUSY, "cannot lock %s: it is removed again and again", place->lock);
}

/* Only for people, and for the message of real_link_taken: a full disk is no reason to stop. */
static void real_link_sign(int lock)
{
  char text[32];
  int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
  if (ftruncate(lock, 0) != 0 || pwrite(lock, text, (size_t)n, 0) != n)
    return;
}

static void real_link_address(const char *path, struct sockaddr_un *out)
{
  *out = (struct sockaddr_un){.sun_family = AF_UNIX};
  CHI_ASSERT(strlen(path) < sizeof(out->sun_path));
  memcpy(out->sun_path, path, strlen(path) + 1);
}

static int real_link_socket(const struct real_link_place *place, int *out, chi_error *err)
{
  struct sockaddr_un address;
  real_link_address(place->socket, &address);
  *out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*out < 0)
    return error_set(err, real_env_code(errno), "cannot make a socket: %m");
  if (unlink(place->socket) != 0 && errno != ENOENT)
    return error_set(err, real_env_code(errno), "cannot replace %s: %m", place->socket);
  if (bind(*out, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
      listen(*out, REAL_LINK_BACKLOG) != 0)
    return error_set(err, real_env_code(errno), "cannot listen at %s: %m", place->socket);
  return CHI_OK;
}

int real_link_listen(const struct real_link_place *place, struct real_link_desk *out,
                     chi_error *err)
{
  *out = (struct real_link_desk){-1, -1};
  int rc = real_link_check_directory(place->directory, err);
  if (rc == CHI_OK)
    rc = real_link_lock(place, &out->lock, err);
  if (rc != CHI_OK)
    return rc;
  real_link_sign(out->lock);
  rc = real_link_socket(place, &out->socket, err);
  if (rc != CHI_OK)
    real_link_leave(place, out);
  return rc;
}

/* A forked child may have inherited the socket: nobody shall wait there for an answer. */
static void real_link_hush(int socket)
{
  int fd = 0;
  shutdown(socket, SHUT_RDWR);
  for (int i = 0; i < REAL_LINK_BACKLOG && fd >= 0; i++) {
    fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
      close(fd);
  }
}

void real_link_leave(const struct real_link_place *place, struct real_link_desk *desk)
{
  if (desk->socket >= 0) {
    unlink(place->socket);
    real_link_hush(desk->socket);
    close(desk->socket);
  }
  if (desk->lock >= 0) {
    unlink(place->lock);
    close(desk->lock);
  }
  *desk = (struct real_link_desk){-1, -1};
}

/* ---- a node's side of a connection ----------------------------------------------------------- */

int real_link_peer(int fd, struct env_peer *out)
{
  struct ucred cred;
  socklen_t size = sizeof(cred);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0)
    return CHI_EACCES;
  *out = (struct env_peer){.uid = cred.uid, .pid = (uint32_t)cred.pid};
  return cred.uid == geteuid() || cred.uid == 0 || geteuid() == 0 ? CHI_OK : CHI_EACCES;
}

int real_link_watch(int fd, const struct env_peer *peer)
{
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (getsockopt(fd, SOL_SOCKET, REAL_LINK_PEERPIDFD, &pidfd, &size) != 0)
    pidfd = peer->pid ? (int)syscall(SYS_pidfd_open, peer->pid, 0) : -1;
  return pidfd;
}

/* The descriptors of what is shared. */
static int real_link_lend(const struct env_share *shares, uint32_t count,
                          struct real_link_header *header, int *fds)
{
  *header = (struct real_link_header){.count = count};
  for (uint32_t i = 0; i < count; i++) {
    const struct env_share *s = &shares[i];
    header->kind[i] = (uint8_t)s->kind;
    fds[i] = s->kind == ENV_SHARE_BELL            ? real_env_bell_of(s->bell)->fd
             : s->kind == ENV_SHARE_SEGMENT_WRITE ? real_shm_lend(&s->segment, ENV_SHARED_WRITE)
                                                  : real_shm_lend(&s->segment, ENV_SHARED_READ);
    if (fds[i] < 0)
      return CHI_EINVAL;
  }
  return CHI_OK;
}

static void real_link_attach(struct msghdr *m, union real_link_control *control, const int *fds,
                             uint32_t count)
{
  if (count == 0)
    return;
  memset(control, 0, sizeof(*control));
  m->msg_control = control->room;
  m->msg_controllen = CMSG_SPACE(count * sizeof(int));
  struct cmsghdr *c = CMSG_FIRSTHDR(m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(c), fds, count * sizeof(int));
}

int real_link_answer(int fd, const void *message, size_t size, const struct env_share *shares,
                     uint32_t count)
{
  struct real_link_header header;
  union real_link_control control;
  int fds[ENV_SHARES_MAX];
  if (size > ENV_MESSAGE_MAX || count > ENV_SHARES_MAX)
    return CHI_ETOOBIG;
  int rc = real_link_lend(shares, count, &header, fds);
  if (rc != CHI_OK)
    return rc;
  struct iovec part[] = {{&header, sizeof(header)}, {(void *)(uintptr_t)message, size}};
  struct msghdr m = {.msg_iov = part, .msg_iovlen = CHI_COUNT(part)};
  real_link_attach(&m, &control, fds, count);
  ssize_t n;
  do
    n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return CHI_ESHUTDOWN;
  for (uint32_t i = 0; i < count; i++)
    if (shares[i].kind == ENV_SHARE_SEGMENT_WRITE)
      real_shm_lent(&shares[i].segment, ENV_SHARED_WRITE);
  return CHI_OK;
}

int64_t real_link_take(int fd, void *message, size_t room)
{
  struct iovec part = {message, room};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1}; /* no room for descriptors */
  ssize_t n;
  do
    n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : CHI_ESHUTDOWN;
  return n == 0 || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ? CHI_ESHUTDOWN : n;
}

/* ---- a client finds its node ----------------------------------------------------------------- */

static int real_link_refused(int error, const char *path, chi_error *err)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    return error_set(err, CHI_ENODAEMON, "no daemon: there is no socket %s", path);
  case ECONNREFUSED:
  case EPROTOTYPE:
  case ENOTSOCK:
    return error_set(err, CHI_ENODAEMON, "no daemon: nobody listens at %s", path);
  case EAGAIN:
    return error_set(err, CHI_EBUSY, "the daemon at %s does not answer", path);
  default:
    errno = error;
    return error_set(err, real_env_code(error), "cannot connect to %s: %m", path);
  }
}

/* Whether the process that listened has ended: then a forked child of it has the socket, and nobody
 * will answer. */
static bool real_link_is_orphan(int fd, const struct env_peer *peer)
{
  errno = 0;
  struct pollfd p = {real_link_watch(fd, peer), POLLIN, 0};
  if (p.fd < 0)
    return errno == ESRCH;
  bool ended = poll(&p, 1, 0) > 0;
  close(p.fd);
  return ended;
}

/* Connects to the socket of that path. Root gets to a daemon of another user by its path only: who
 * has made the directory where names are looked for is not known. */
static int real_link_dial(const char *path, bool chosen, int *out, chi_error *err)
{
  struct sockaddr_un address;
  struct timeval patience = {REAL_LINK_CONNECT_S, 0}, none = {0, 0};
  struct env_peer peer;
  int rc;
  if (strlen(path) >= sizeof(address.sun_path))
    return error_set(err, CHI_ETOOBIG, "the path %s has %zu bytes, and %zu is the most of a socket",
                     path, strlen(path), sizeof(address.sun_path) - 1);
  real_link_address(path, &address);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return error_set(err, real_env_code(errno), "cannot make a socket: %m");
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  do
    rc = connect(fd, (const struct sockaddr *)&address, sizeof(address));
  while (rc != 0 && errno == EINTR);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
  if (rc != 0)
    rc = real_link_refused(errno, path, err);
  else if (real_link_peer(fd, &peer) != CHI_OK ||
           (!chosen && peer.uid != geteuid() && peer.uid != 0))
    rc = error_set(err, CHI_EACCES, "%s is served by another user", path);
  else if (real_link_is_orphan(fd, &peer))
    rc = error_set(err, CHI_ENODAEMON, "no daemon: process %u, which listened at %s, has ended",
                   (unsigned)peer.pid, path);
  if (rc != CHI_OK)
    close(fd);
  else
    *out = fd;
  return rc;
}

/* Splits "NAME-PORT.sock" or "NAME:PORT" at the last mark; false if there is no port behind it. */
static bool real_link_split(const char *text, char mark, const char *end, char *name, size_t room,
                            uint64_t *port)
{
  char digits[8];
  const char *at = end;
  while (at > text && at[-1] != mark)
    at--;
  size_t length = (size_t)(end - at);
  if (at == text || length >= sizeof(digits) || (size_t)(at - text) > room)
    return false;
  memcpy(digits, at, length);
  digits[length] = '\0';
  memcpy(name, text, (size_t)(at - text) - 1);
  name[at - text - 1] = '\0';
  return units_parse_count(digits, port) == CHI_OK && *port <= UINT16_MAX;
}

/* A search for the only node with this name or port. */
struct real_link_search {
  char directory[REAL_LINK_DIRECTORY_MAX];
  const char *name; /* NULL: any */
  const char *port; /* NULL: any */
  int fd;           /* of the first node found, else -1 */
  char found[CHI_NAME_MAX + 16];
};

/* Tries one file of the directory. CHI_EINVAL: it is the second that answers. */
static int real_link_try(struct real_link_search *s, const char *file, chi_error *err)
{
  char name[CHI_NAME_MAX], text[16], path[REAL_LINK_DIRECTORY_MAX + CHI_NAME_MAX];
  size_t length = strlen(file), suffix = strlen(REAL_LINK_SUFFIX);
  uint64_t port;
  int fd;
  if (length <= suffix || strcmp(file + length - suffix, REAL_LINK_SUFFIX) != 0 ||
      !real_link_split(file, '-', file + length - suffix, name, sizeof(name), &port))
    return CHI_OK;
  snprintf(text, sizeof(text), "%u", (unsigned)port);
  if ((s->name && strcmp(name, s->name) != 0) || (s->port && strcmp(text, s->port) != 0))
    return CHI_OK;
  snprintf(path, sizeof(path), "%s/%s", s->directory, file);
  if (real_link_dial(path, false, &fd, NULL) != CHI_OK)
    return CHI_OK;
  if (s->fd >= 0) {
    close(fd);
    return error_set(err, CHI_EINVAL, "there are several daemons, among them %s and %s:%s",
                     s->found, name, text);
  }
  s->fd = fd;
  snprintf(s->found, sizeof(s->found), "%s:%s", name, text);
  return CHI_OK;
}

static int real_link_search(struct real_link_search *s, chi_error *err)
{
  DIR *d = opendir(s->directory);
  const struct dirent *e;
  int rc = CHI_OK;
  for (int i = 0; d && rc == CHI_OK && i < REAL_LINK_ENTRIES && (e = readdir(d)); i++)
    rc = real_link_try(s, e->d_name, err);
  if (d)
    closedir(d);
  if (rc == CHI_OK && s->fd < 0)
    return error_set(err, CHI_ENODAEMON, "no daemon: nobody listens at %s/%s-%s" REAL_LINK_SUFFIX,
                     s->directory, s->name ? s->name : "*", s->port ? s->port : "*");
  if (rc != CHI_OK && s->fd >= 0)
    close(s->fd);
  return rc;
}

/* The instance that the configuration names. */
static int real_link_configured(struct real_env *r, int *fd, chi_error *err)
{
  struct real_link_place place;
  chi_config config;
  chi_config_init(&config);
  int rc = chi_config_load(&config, NULL, NULL, NULL, err);
  if (rc == CHI_OK)
    rc = real_link_locate(r->directory, config.main_segment_name, config.port, &place, err);
  chi_config_free(&config);
  return rc == CHI_OK ? real_link_dial(place.socket, false, fd, err) : rc;
}

/* Connects to an instance, whichever way it is written. */
static int real_link_find(struct real_env *r, const char *instance, int *fd, chi_error *err)
{
  struct real_link_place place;
  struct real_link_search search = {.fd = -1};
  char name[CHI_NAME_MAX];
  uint64_t port;
  if (!instance)
    return real_link_configured(r, fd, err);
  if (strchr(instance, '/'))
    return real_link_dial(instance, true, fd, err);
  bool split =
      real_link_split(instance, ':', instance + strlen(instance), name, sizeof(name), &port);
  if (split && *name) {
    int rc = real_link_locate(r->directory, name, (uint32_t)port, &place, err);
    return rc == CHI_OK ? real_link_dial(place.socket, false, fd, err) : rc;
  }
  if (!split && (*instance == ':' || !real_link_named(instance)))
    return error_set(err, CHI_EINVAL,
                     "\"%s\" is not an instance: expected NAME:PORT, NAME, :PORT or a path",
                     instance);
  real_link_directory(r->directory, search.directory, sizeof(search.directory));
  search.name = split ? NULL : instance;
  search.port = split ? instance + 1 : NULL;
  int rc = real_link_search(&search, err);
  *fd = search.fd;
  return rc;
}

/* ---- a client's side of a connection --------------------------------------------------------- */

struct real_link {
  int fd;
  uint32_t owed;           /* atomic: 1: the answer to a call that has timed out is to come */
  pthread_mutex_t calling; /* held from a request to its answer, and to change `owed` */
};

static struct real_link *real_link_of(env_link link)
{
  return (struct real_link *)(intptr_t)link;
}

static int real_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  struct real_env *r = real_env_of(env);
  if (!real_env_alive(r))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  struct real_link *l = malloc(sizeof(*l));
  if (!l)
    return error_set(err, CHI_ENOMEM, "out of memory");
  l->owed = 0;
  int rc = real_link_find(r, instance, &l->fd, err);
  if (rc != CHI_OK) {
    free(l);
    return rc;
  }
  pthread_mutex_init(&l->calling, NULL);
  *out = (env_link)(intptr_t)l;
  return CHI_OK;
}

void real_link_hang_up(env_link link)
{
  shutdown(real_link_of(link)->fd, SHUT_RDWR);
}

static void real_link_shut(struct env *env, env_link link)
{
  struct real_link *l = real_link_of(link);
  if (real_env_alive(real_env_of(env))) {
    shutdown(l->fd, SHUT_RDWR); /* a forked child may have inherited the socket */
    pthread_mutex_destroy(&l->calling);
  }
  close(l->fd);
  free(l);
}

static void real_link_close_all(const int *fds, uint32_t from, uint32_t count)
{
  for (uint32_t i = from; i < count; i++)
    close(fds[i]);
}

/* Collects the descriptors that came with a message; returns how many. */
static uint32_t real_link_collect(struct msghdr *m, int *fds)
{
  uint32_t count = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    uint32_t n = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    CHI_ASSERT(count + n <= ENV_SHARES_MAX);
    memcpy(fds + count, CMSG_DATA(c), n * sizeof(int));
    count += n;
  }
  return count;
}

/* Waits until there is something to read, or the end. */
static int real_link_await(struct env *env, int fd, uint64_t deadline)
{
  struct pollfd p = {fd, POLLIN, 0};
  struct timespec left;
  int n;
  do
    n = ppoll(&p, 1, real_env_left(env->clock(env), deadline, &left), NULL);
  while (n < 0 && errno == EINTR);
  return n > 0 ? CHI_OK : n == 0 ? CHI_ETIMEOUT : CHI_ENOMEM;
}

/* Takes a reply that is there. *size: room in, bytes out; *fd_count: descriptors received. */
static int real_link_receive(int fd, void *reply, size_t *size, struct real_link_header *header,
                             int *fds, uint32_t *fd_count)
{
  union real_link_control control;
  struct iovec part[] = {{header, sizeof(*header)}, {reply, *size}};
  struct msghdr m = {.msg_iov = part,
                     .msg_iovlen = CHI_COUNT(part),
                     .msg_control = control.room,
                     .msg_controllen = sizeof(control.room)};
  ssize_t n;
  do
    n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  *fd_count = n >= 0 ? real_link_collect(&m, fds) : 0;
  if (n < (ssize_t)sizeof(*header)) /* less than a header is no daemon of ours */
    return CHI_ESHUTDOWN;
  *size = (size_t)n - sizeof(*header);
  if (m.msg_flags & MSG_TRUNC)
    return CHI_ETOOBIG;
  if (m.msg_flags & MSG_CTRUNC) /* out of descriptors */
    return CHI_ENOMEM;
  return header->count == *fd_count ? CHI_OK : CHI_ECORRUPT;
}

/* Makes one descriptor what it stands for; closes it if that fails. */
static int real_link_adopt(int fd, int kind, struct env_share *out)
{
  *out = (struct env_share){.kind = kind, .bell = ENV_NO_BELL};
  switch (kind) {
  case ENV_SHARE_BELL:
    return real_env_adopt_bell(fd, &out->bell);
  case ENV_SHARE_SEGMENT_WRITE:
    return real_shm_adopt(fd, ENV_SHARED_WRITE, &out->segment);
  case ENV_SHARE_SEGMENT_READ:
    return real_shm_adopt(fd, ENV_SHARED_READ, &out->segment);
  default:
    close(fd);
    return CHI_ECORRUPT;
  }
}

static int real_link_adopt_all(struct env *env, const struct real_link_header *header,
                               const int *fds, struct env_share *shares)
{
  for (uint32_t i = 0; i < header->count; i++) {
    int rc = real_link_adopt(fds[i], header->kind[i], &shares[i]);
    if (rc == CHI_OK)
      continue;
    real_link_close_all(fds, i + 1, header->count);
    while (i-- > 0)
      if (shares[i].kind == ENV_SHARE_BELL)
        env->bell_close(env, shares[i].bell);
      else
        env->segment_close(env, &shares[i].segment);
    return rc;
  }
  return CHI_OK;
}

/* There is room: no request is sent while the answer to the one before is owed. */
static int real_link_send(int fd, const void *request, size_t size)
{
  ssize_t n;
  do
    n = send(fd, request, size, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n < 0 ? CHI_ESHUTDOWN : CHI_OK;
}

/* One request and its answer; under the lock. *late: it is the answer to a call that has timed out,
 * and nothing was sent. While others had the lock and waited in vain, this one has waited, too,
 * since it began. */
static int real_link_exchange(struct env *env, struct real_link *l, const void *request,
                              size_t request_size, void *reply, size_t *size,
                              struct real_link_header *header, int *fds, uint32_t *fd_count,
                              uint64_t begun, bool *late)
{
  *late = mark_get(&l->owed);
  int rc = *late ? CHI_OK : real_link_send(l->fd, request, request_size);
  if (rc != CHI_OK)
    return rc;
  rc = real_link_await(env, l->fd, (*late ? begun : env->clock(env)) + ENV_CALL_NS);
  mark_set(&l->owed, rc != CHI_OK);
  if (rc != CHI_OK)
    return *late ? CHI_EBUSY : rc;
  return real_link_receive(l->fd, reply, size, header, fds, fd_count);
}

static int real_link_call(struct env *env, env_link link, const void *request, size_t request_size,
                          void *reply, size_t *size, struct env_share *shares, uint32_t *count)
{
  struct real_link *l = real_link_of(link);
  struct real_link_header header;
  int fds[ENV_SHARES_MAX];
  uint32_t fd_count = 0;
  bool late;
  if (!real_env_alive(real_env_of(env)))
    return CHI_EFORKED;
  if (request_size == 0 || request_size > ENV_MESSAGE_MAX)
    return CHI_ETOOBIG;
  uint64_t begun = env->clock(env);
  pthread_mutex_lock(&l->calling);
  int rc = real_link_exchange(env, l, request, request_size, reply, size, &header, fds, &fd_count,
                              begun, &late);
  pthread_mutex_unlock(&l->calling);
  if (rc == CHI_OK && fd_count > *count)
    rc = CHI_ETOOBIG;
  if (rc == CHI_OK)
    rc = real_link_adopt_all(env, &header, fds, shares);
  else
    real_link_close_all(fds, 0, fd_count);
  *count = rc == CHI_OK ? fd_count : 0;
  return late && rc != CHI_EBUSY && rc != CHI_ESHUTDOWN ? CHI_ESTALE : rc;
}

static bool real_link_owes(struct env *env, env_link link)
{
  struct real_link *l = real_link_of(link);
  return mark_get(&l->owed) && real_link_await(env, l->fd, 0) == CHI_ETIMEOUT;
}

static int real_link_wait(struct env *env, env_link link, env_bell bell, uint64_t deadline)
{
  struct timespec left;
  if (!real_env_alive(real_env_of(env)))
    return CHI_EFORKED;
  int fd = real_env_bell_of(bell)->fd;
  for (;;) {
    /* Of the link only its end counts: what can be read is the answer to another thread. */
    struct pollfd p[] = {{fd, POLLIN, 0}, {real_link_of(link)->fd, POLLRDHUP, 0}};
    int n = ppoll(p, CHI_COUNT(p), real_env_left(env->clock(env), deadline, &left), NULL);
    if (n == 0)
      return CHI_ETIMEOUT;
    if (n < 0 && errno != EINTR)
      return CHI_ENOMEM;
    if (n > 0 && p[0].revents) {
      real_env_drain(fd);
      return CHI_OK;
    }
    if (n > 0)
      return CHI_ESHUTDOWN;
  }
}

static bool real_link_join(int set, int fd, uint32_t events)
{
  struct epoll_event e = {.events = events};
  return epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0 || errno == EEXIST;
}

static int real_link_descriptor(struct env *env, env_link link, env_bell bell)
{
  struct real_env_bell *b = real_env_bell_of(bell);
  if (!real_env_alive(real_env_of(env)))
    return -1;
  if (b->set < 0)
    b->set = epoll_create1(EPOLL_CLOEXEC);
  /* A link that was shut has left the set by itself. */
  if (b->set >= 0 && real_link_join(b->set, b->fd, EPOLLIN) &&
      real_link_join(b->set, real_link_of(link)->fd, EPOLLRDHUP))
    return b->set;
  return -1;
}

void real_link_bind(struct real_env *r)
{
  r->env.link_open = real_link_open;
  r->env.link_call = real_link_call;
  r->env.link_owes = real_link_owes;
  r->env.link_wait = real_link_wait;
  r->env.link_shut = real_link_shut;
  r->env.link_descriptor = real_link_descriptor;
}

#undef REAL_LINK_BACKLOG
#undef REAL_LINK_CONNECT_S
#undef REAL_LINK_LOCK_TRIES
#undef REAL_LINK_ENTRIES
#undef REAL_LINK_SUFFIX
#undef REAL_LINK_PEERPIDFD

#endif
