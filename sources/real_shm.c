/* real_shm.c - shared memory: memfds that nobody can shrink, populated before they are used. */
#include "real_shm.h"

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL_SHM_POPULATE 23          /* MADV_POPULATE_WRITE: Linux 5.14, not in older headers */
#define REAL_SHM_NOEXEC 8u            /* MFD_NOEXEC_SEAL: Linux 6.3, likewise */

/* A segment that this process has opened. */
struct real_shm {
  int fd; /* -1: shared, and not to be shared again */
  enum env_access access;
};

static struct real_shm *real_shm_of(const struct env_segment *segment)
{
  return (struct real_shm *)(intptr_t)segment->handle;
}

static uint64_t real_shm_pages(uint64_t size)
{
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  return (size + page - 1) / page * page;
}

/* Lets the kernel write to every page: where a page can't be had, read() fails with EFAULT, while
 * touching it here would end the process. */
static int real_shm_touch(void *base, uint64_t size)
{
  int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  uint64_t done = 0;
  while (fd >= 0 && done < size) {
    ssize_t n = read(fd, (char *)base + done, size - done);
    if (n <= 0 && errno != EINTR)
      break;
    done += n > 0 ? (uint64_t)n : 0;
  }
  if (fd >= 0)
    close(fd);
  return done == size ? CHI_OK : CHI_ENOMEM;
}

/* Gives every page of a mapping memory of its own. The content must still be zero. */
static int real_shm_populate(const struct real_env *r, void *base, uint64_t size)
{
  int rc;
  if (size > real_limit_memory(&r->limit))
    return CHI_ENOMEM;
  do
    rc = r->no_populate ? -1 : madvise(base, size, REAL_SHM_POPULATE);
  while (rc != 0 && !r->no_populate && (errno == EINTR || errno == EAGAIN));
  if (rc == 0)
    return CHI_OK;
  return r->no_populate || errno == EINVAL ? real_shm_touch(base, size) : CHI_ENOMEM;
}

/* Logs that memory is short, once a second at most: a client may ask again and again. */
static void real_shm_complain(struct real_env *r, const char *name, uint64_t size, int rc)
{
  char text[256];
  snprintf(text, sizeof(text),
           "Failed to allocate shared memory segment %s of %llu bytes: %s (%llu can be had)", name,
           (unsigned long long)size, chi_status_text(rc),
           (unsigned long long)real_limit_memory(&r->limit));
  real_env_complain(r, &r->complaints, CHI_LOG_ERROR, text);
}

/* A sealed memfd, mapped and populated. */
static int real_shm_make(struct real_env *r, const char *name, struct real_shm *s,
                         struct env_segment *out)
{
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  char label[200]; /* the kernel takes 249 bytes */
  snprintf(label, sizeof(label), "%s", name);
  s->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | REAL_SHM_NOEXEC);
  if (s->fd < 0 && errno == EINVAL)
    s->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (s->fd < 0 || ftruncate(s->fd, (off_t)out->size) != 0)
    return real_env_code(errno);
  void *base = mmap(NULL, out->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
  if (base == MAP_FAILED)
    return CHI_ENOMEM;
  out->base = base;
  madvise(base, out->size, MADV_DONTFORK);
  if (s->access == ENV_SHARED_READ) /* from here on nobody else can map it to write */
    seals |= F_SEAL_FUTURE_WRITE;
  if (fcntl(s->fd, F_ADD_SEALS, seals) != 0)
    return real_env_code(errno);
  return real_shm_populate(r, base, out->size);
}

static void real_shm_close(struct env *env, struct env_segment *segment)
{
  struct real_shm *s = real_shm_of(segment);
  /* In a forked child it isn't mapped, and something else may be there. */
  if (segment->base && real_env_alive(real_env_of(env)))
    munmap(segment->base, segment->size);
  if (s && s->fd >= 0)
    close(s->fd);
  free(s);
  *segment = (struct env_segment){NULL, 0, 0};
}

static int real_shm_open(struct env *env, const char *name, uint64_t size, int access,
                         struct env_segment *out)
{
  struct real_env *r = real_env_of(env);
  if (size == 0 || size > (uint64_t)INT64_MAX / 2)
    return CHI_EINVAL;
  struct real_shm *s = malloc(sizeof(*s));
  if (!s)
    return CHI_ENOMEM;
  *s = (struct real_shm){-1, (enum env_access)access};
  *out = (struct env_segment){NULL, real_shm_pages(size), (int64_t)(intptr_t)s};
  int rc = real_shm_make(r, name, s, out);
  if (rc != CHI_OK) {
    real_shm_complain(r, name, size, rc);
    real_shm_close(env, out);
  }
  return rc;
}

static void real_shm_discard(struct env *env, struct env_segment *segment)
{
  (void)env;
  /* Refused for a segment sealed against writing. */
  if (madvise(segment->base, segment->size, MADV_REMOVE) != 0)
    memset(segment->base, 0, segment->size);
}

static int real_shm_restore(struct env *env, struct env_segment *segment)
{
  struct real_env *r = real_env_of(env);
  int rc = real_shm_populate(r, segment->base, segment->size);
  if (rc != CHI_OK)
    real_shm_complain(r, "(again)", segment->size, rc);
  return rc;
}

void real_shm_bind(struct real_env *r)
{
  r->env.segment_open = real_shm_open;
  r->env.segment_close = real_shm_close;
  r->env.segment_discard = real_shm_discard;
  r->env.segment_restore = real_shm_restore;
}

int real_shm_lend(const struct env_segment *segment, enum env_access access)
{
  const struct real_shm *s = real_shm_of(segment);
  return s && s->access == access ? s->fd : -1;
}

void real_shm_lent(const struct env_segment *segment, enum env_access access)
{
  struct real_shm *s = real_shm_of(segment);
  if (access == ENV_SHARED_READ)
    return;
  close(s->fd);
  s->fd = -1;
}

/* What makes a descriptor a segment that can't vanish under its readers. */
static int real_shm_check(int fd, uint64_t *size)
{
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0 || st.st_size <= 0)
    return CHI_ECORRUPT;
  *size = (uint64_t)st.st_size;
  return CHI_OK;
}

int real_shm_adopt(int fd, enum env_access access, struct env_segment *out)
{
  int protection = access == ENV_SHARED_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
  uint64_t size = 0;
  int rc = real_shm_check(fd, &size);
  if (rc == CHI_OK) {
    void *base = mmap(NULL, size, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED) {
      rc = CHI_ENOMEM;
    } else {
      madvise(base, size, MADV_DONTFORK);
      *out = (struct env_segment){base, size, 0};
    }
  }
  close(fd);
  return rc;
}

#undef REAL_SHM_POPULATE
#undef REAL_SHM_NOEXEC

#endif
