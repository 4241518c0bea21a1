/* real_record.c - the file that a node is recorded in. */
#include "real_record.h"

#ifndef CHI_OMIT_REAL

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int real_record_write(void *arg, const void *data, size_t size)
{
  const struct real_record *f = arg;
  const char *p = data;
  while (size > 0) {
    ssize_t n = write(f->fd, p, size);
    if (n < 0 && errno != EINTR)
      return real_env_code(errno);
    if (n == 0)
      return CHI_EIO;
    p += n > 0 ? n : 0;
    size -= n > 0 ? (size_t)n : 0;
  }
  return CHI_OK;
}

static int64_t real_record_read(void *arg, void *data, size_t size)
{
  const struct real_record *f = arg;
  size_t done = 0;
  while (done < size) {
    ssize_t n = read(f->fd, (char *)data + done, size - done);
    if (n < 0 && errno != EINTR)
      return real_env_code(errno);
    if (n == 0)
      break;
    done += n > 0 ? (size_t)n : 0;
  }
  return (int64_t)done;
}

static int real_record_use(struct real_record *f, struct tape_store *store)
{
  *store = (struct tape_store){f, real_record_write, real_record_read};
  return CHI_OK;
}

/* A pipe would hold the node up whenever its reader does; and what others may have open, or look
 * into, is no place for what clients send. */
static int real_record_own(int fd, const char *path, chi_error *err)
{
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
    return error_set(err, CHI_EINVAL, "cannot record to %s: it is no file", path);
  if (st.st_uid != geteuid())
    return error_set(err, CHI_EACCES, "cannot record to %s: it belongs to user %u", path,
                     (unsigned)st.st_uid);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0)
    return error_set(err, CHI_EBUSY, "cannot record to %s: another node does", path);
  if (fchmod(fd, 0600) != 0 || ftruncate(fd, 0) != 0)
    return error_set(err, real_env_code(errno), "cannot record to %s: %m", path);
  return CHI_OK;
}

int real_record_make(struct real_record *f, const char *path, struct tape_store *store,
                     chi_error *err)
{
  f->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
  if (f->fd < 0)
    return error_set(err, real_env_code(errno), "cannot record to %s: %m", path);
  int rc = real_record_own(f->fd, path, err);
  if (rc == CHI_OK)
    return real_record_use(f, store);
  real_record_close(f);
  return rc;
}

int real_record_find(struct real_record *f, const char *path, struct tape_store *store,
                     chi_error *err)
{
  f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (f->fd < 0)
    return error_set(err, real_env_code(errno), "%s: %m", path);
  return real_record_use(f, store);
}

bool real_record_tail(const char *path, uint64_t *items, uint64_t *hash)
{
  unsigned char tail[TAPE_TAIL];
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
  bool there = size >= (off_t)sizeof(tail) &&
               pread(fd, tail, sizeof(tail), size - (off_t)sizeof(tail)) == (ssize_t)sizeof(tail);
  if (fd >= 0)
    close(fd);
  return there && tape_tail(tail, items, hash);
}

void real_record_close(struct real_record *f)
{
  if (f->fd >= 0)
    close(f->fd);
  f->fd = -1;
}

#endif
