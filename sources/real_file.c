/* real_file.c - files: io_uring where the kernel has it and lets us, else pread and pwrite. */
#include "real_file.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL_FILE_MOST 0x7ffff000u /* bytes of one operation: the kernel moves no more at once */
#define REAL_FILE_TRIES 8u         /* of an operation that was interrupted in the ring */
#define REAL_FILE_CALM (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG) /* Linux 5.19 */
#define REAL_FILE_NEEDS                                                                            \
  (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS) /* Linux 5.6 */

enum real_file_state { REAL_FILE_NEW, REAL_FILE_RING, REAL_FILE_PLAIN };

/* The files of one worker. Indices run freely; the kernel's side of them is shared. */
struct real_file {
  enum real_file_state state;
  int fd; /* of the ring */
  uint32_t in_flight, queued;
  uint32_t tail, mask, head, done_mask;
  uint32_t *shared_tail, *shared_head, *shared_flags, *shared_done_tail, *shared_done_head;
  struct io_uring_sqe *sqe;
  const struct io_uring_cqe *done;
  void *map;
  size_t map_size, sqe_size;
};

/* ---- the ring -------------------------------------------------------------------------------- */

static void real_file_unmap(struct real_file *f)
{
  if (f->sqe)
    munmap(f->sqe, f->sqe_size);
  if (f->map)
    munmap(f->map, f->map_size);
  close(f->fd);
  *f = (struct real_file){.state = REAL_FILE_PLAIN, .fd = -1};
}

static void *real_file_map(int fd, size_t size, off_t what)
{
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
  if (p == MAP_FAILED)
    return NULL;
  madvise(p, size, MADV_DONTFORK);
  return p;
}

static bool real_file_map_ring(struct real_file *f, const struct io_uring_params *p)
{
  size_t size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  f->map_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  if (f->map_size < size)
    f->map_size = size;
  f->sqe_size = p->sq_entries * sizeof(struct io_uring_sqe);
  f->map = real_file_map(f->fd, f->map_size, IORING_OFF_SQ_RING);
  f->sqe = f->map ? real_file_map(f->fd, f->sqe_size, IORING_OFF_SQES) : NULL;
  if (!f->sqe)
    return false;
  char *base = f->map;
  uint32_t *array = (uint32_t *)(void *)(base + p->sq_off.array);
  f->shared_tail = (uint32_t *)(void *)(base + p->sq_off.tail);
  f->shared_head = (uint32_t *)(void *)(base + p->sq_off.head);
  f->shared_flags = (uint32_t *)(void *)(base + p->sq_off.flags);
  f->shared_done_tail = (uint32_t *)(void *)(base + p->cq_off.tail);
  f->shared_done_head = (uint32_t *)(void *)(base + p->cq_off.head);
  f->done = (const struct io_uring_cqe *)(const void *)(base + p->cq_off.cqes);
  f->mask = p->sq_entries - 1;
  f->done_mask = p->cq_entries - 1;
  for (uint32_t i = 0; i < p->sq_entries; i++)
    array[i] = i;
  return true;
}

/* A ring that leaves its thread alone: what has completed is finished at the next call, and a flag
 * asks for one. Others interrupt the thread for each completion, wherever it is. */
static int real_file_setup(struct io_uring_params *p)
{
  *p = (struct io_uring_params){.flags = REAL_FILE_CALM};
  int fd = (int)syscall(SYS_io_uring_setup, REAL_FILE_DEPTH, p);
  if (fd >= 0 || errno != EINVAL)
    return fd;
  *p = (struct io_uring_params){0};
  return (int)syscall(SYS_io_uring_setup, REAL_FILE_DEPTH, p);
}

/* Gets a ring, or finds that there are none. */
static void real_file_prepare(const struct real_env *r, struct real_file *f)
{
  struct io_uring_params p;
  if (f->state != REAL_FILE_NEW)
    return;
  f->state = REAL_FILE_PLAIN;
  f->fd = r->no_ring ? -1 : real_file_setup(&p);
  if (f->fd < 0)
    return;
  if ((p.features & REAL_FILE_NEEDS) == REAL_FILE_NEEDS && real_file_map_ring(f, &p))
    f->state = REAL_FILE_RING;
  else
    real_file_unmap(f);
}

static bool real_file_fits_ring(const struct env_io *io)
{
  return io->op == ENV_IO_READ || io->op == ENV_IO_WRITE || io->op == ENV_IO_SYNC;
}

static void real_file_describe(struct io_uring_sqe *sqe, struct env_io *io)
{
  *sqe = (struct io_uring_sqe){.fd = (int)io->file, .user_data = (uint64_t)(uintptr_t)io};
  if (io->op == ENV_IO_SYNC) {
    sqe->opcode = IORING_OP_FSYNC;
    sqe->fsync_flags = IORING_FSYNC_DATASYNC;
    return;
  }
  sqe->opcode = io->op == ENV_IO_READ ? IORING_OP_READ : IORING_OP_WRITE;
  sqe->addr = (uint64_t)(uintptr_t)io->buf;
  sqe->len = io->size < REAL_FILE_MOST ? (uint32_t)io->size : REAL_FILE_MOST;
  sqe->off = io->offset;
}

/* Puts an operation into the ring. False: it is full. */
static bool real_file_queue(struct real_file *f, struct env_io *io)
{
  if (f->tail - mark_get(f->shared_head) > f->mask)
    return false;
  real_file_describe(&f->sqe[f->tail & f->mask], io);
  f->tail++;
  f->queued++;
  mark_set(f->shared_tail, f->tail);
  return true;
}

/* The kernel has something completed that it finishes in a call only. */
static bool real_file_owed(const struct real_file *f)
{
  return f->in_flight > 0 && (mark_get(f->shared_flags) & IORING_SQ_TASKRUN);
}

bool real_file_flush(struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  bool owed = real_file_owed(f);
  while (f->queued || owed) {
    uint32_t how = owed ? IORING_ENTER_GETEVENTS : 0;
    int n = (int)syscall(SYS_io_uring_enter, f->fd, f->queued, 0, how, NULL, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 || (n == 0 && f->queued))
      return false;
    f->queued -= (uint32_t)n;
    owed = false;
  }
  return true;
}

/* ---- operations that are done at once -------------------------------------------------------- */

static int64_t real_file_failed(void)
{
  return real_env_code(errno);
}

/* Only what has an end and offsets is a file: a pipe could hold us up for ever. */
static int real_file_check(int fd, uint32_t flags)
{
  struct stat st;
  if (fstat(fd, &st) != 0)
    return real_env_code(errno);
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
    return CHI_EINVAL;
  if ((flags & CHI_FILE_LOCK) && flock(fd, LOCK_EX | LOCK_NB) != 0)
    return real_env_code(errno);
  /* Drops O_NONBLOCK. Direct where it can be. */
  if (!(flags & CHI_FILE_DIRECT) || fcntl(fd, F_SETFL, O_DIRECT) != 0)
    return fcntl(fd, F_SETFL, 0) == 0 ? CHI_OK : real_env_code(errno);
  return CHI_OK;
}

static int64_t real_file_open(const struct env_io *io)
{
  int how = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  how |= io->flags & CHI_FILE_READONLY ? O_RDONLY : O_RDWR;
  how |= io->flags & CHI_FILE_CREATE ? O_CREAT : 0;
  how |= io->flags & CHI_FILE_CREATE && io->flags & CHI_FILE_EXCLUSIVE ? O_EXCL : 0;
  int fd = open(io->path, how, 0600);
  if (fd < 0)
    return real_file_failed();
  int rc = real_file_check(fd, io->flags);
  if (rc != CHI_OK)
    close(fd);
  return rc == CHI_OK ? fd : rc;
}

static int64_t real_file_move(const struct env_io *io)
{
  size_t size = io->size < REAL_FILE_MOST ? io->size : REAL_FILE_MOST;
  ssize_t n;
  do
    n = io->op == ENV_IO_READ ? pread((int)io->file, io->buf, size, (off_t)io->offset)
                              : pwrite((int)io->file, io->buf, size, (off_t)io->offset);
  while (n < 0 && errno == EINTR);
  return n < 0 ? real_file_failed() : n;
}

static int64_t real_file_size(const struct env_io *io)
{
  struct stat st;
  if (fstat((int)io->file, &st) != 0)
    return real_file_failed();
  off_t size = S_ISBLK(st.st_mode) ? lseek((int)io->file, 0, SEEK_END) : st.st_size;
  return size < 0 ? real_file_failed() : size;
}

/* The directory that holds path. */
static bool real_file_parent(const char *path, char *out, size_t room)
{
  const char *slash = strrchr(path, '/');
  size_t length = slash ? (size_t)(slash - path) : 0;
  if (length >= room)
    return false;
  if (slash && length == 0)
    length = 1; /* the root */
  snprintf(out, room, "%.*s", slash ? (int)length : 1, slash ? path : ".");
  return true;
}

static int64_t real_file_sync_directory(const struct env_io *io)
{
  char path[CHI_PATH_MAX];
  if (!real_file_parent(io->path, path, sizeof(path)))
    return CHI_ETOOBIG;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return real_file_failed();
  /* EINVAL: a file system where that is not needed. */
  int64_t rc = fsync(fd) == 0 || errno == EINVAL ? CHI_OK : real_file_failed();
  close(fd);
  return rc;
}

static int64_t real_file_space(const struct env_io *io)
{
  struct statvfs s;
  char path[CHI_PATH_MAX];
  int rc = statvfs(io->path, &s);
  if (rc != 0 && errno == ENOENT && real_file_parent(io->path, path, sizeof(path)))
    rc = statvfs(path, &s);
  if (rc != 0)
    return real_file_failed();
  uint64_t unit = s.f_frsize ? s.f_frsize : s.f_bsize, blocks = s.f_bavail;
  return unit && blocks > INT64_MAX / unit ? INT64_MAX : (int64_t)(blocks * unit);
}

/* The result of a call that gives 0 or -1. */
static int64_t real_file_outcome(int rc)
{
  return rc == 0 ? CHI_OK : real_file_failed();
}

static int64_t real_file_run(const struct env_io *io)
{
  switch (io->op) {
  case ENV_IO_OPEN:
    return real_file_open(io);
  case ENV_IO_READ:
  case ENV_IO_WRITE:
    return real_file_move(io);
  case ENV_IO_SYNC:
    return real_file_outcome(fdatasync((int)io->file));
  case ENV_IO_TRUNCATE:
    return real_file_outcome(ftruncate((int)io->file, (off_t)io->size));
  case ENV_IO_SIZE:
    return real_file_size(io);
  case ENV_IO_CLOSE:
    close((int)io->file);
    return CHI_OK;
  case ENV_IO_RENAME:
    return real_file_outcome(rename(io->path, io->path2));
  case ENV_IO_REMOVE:
    return real_file_outcome(unlink(io->path));
  case ENV_IO_DIRSYNC:
    return real_file_sync_directory(io);
  case ENV_IO_SPACE:
    return real_file_space(io);
  default:
    return CHI_ENOTSUP;
  }
}

/* ---- the seam -------------------------------------------------------------------------------- */

static bool real_file_in_range(const struct env_io *io)
{
  return io->offset <= INT64_MAX && (io->op != ENV_IO_TRUNCATE || io->size <= INT64_MAX);
}

static int real_file_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  real_file_prepare(r, f);
  if (!real_file_in_range(io)) {
    io->result = CHI_EINVAL;
    return 1;
  }
  if (f->state != REAL_FILE_RING || !real_file_fits_ring(io)) {
    io->result = real_file_run(io);
    return 1;
  }
  if (f->in_flight == REAL_FILE_DEPTH || !real_file_queue(f, io))
    return CHI_EBUSY;
  io->scratch[0] = 0;
  f->in_flight++;
  return 0;
}

static bool real_file_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  real_file_prepare(r, f);
  return f->state != REAL_FILE_RING || !real_file_fits_ring(io);
}

/* What came back from the kernel. True: it is completed. */
static bool real_file_finish(struct real_file *f, struct env_io *io, int res)
{
  if (res != -EINTR && res != -EAGAIN) {
    io->result = res < 0 ? real_env_code(-res) : res;
    return true;
  }
  if (++io->scratch[0] < REAL_FILE_TRIES && real_file_queue(f, io))
    return false;
  io->result = real_file_run(io); /* holds us up, but ends */
  return true;
}

static struct env_io *real_file_reap(struct env *env, uint32_t worker)
{
  struct real_env *r = real_env_of(env);
  CHI_ASSERT(worker < r->file_count);
  struct real_file *f = &r->files[worker];
  struct env_io *first = NULL, **last = &first;
  if (f->in_flight == 0)
    return NULL;
  real_file_flush(r, worker); /* at once: while others are prepared, the device works on these */
  uint32_t tail = mark_get(f->shared_done_tail);
  while (f->head != tail) {
    const struct io_uring_cqe *c = &f->done[f->head & f->done_mask];
    struct env_io *io = (struct env_io *)(uintptr_t)c->user_data;
    int res = c->res;
    f->head++;
    mark_set(f->shared_done_head, f->head);
    if (!real_file_finish(f, io, res))
      continue;
    f->in_flight--;
    io->next = NULL;
    *last = io;
    last = &io->next;
  }
  return first;
}

bool real_file_ready(const struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  const struct real_file *f = &r->files[worker];
  return f->in_flight > 0 && (mark_get(f->shared_done_tail) != f->head || real_file_owed(f));
}

int real_file_descriptor(const struct real_env *r, uint32_t worker)
{
  CHI_ASSERT(worker < r->file_count);
  return r->files[worker].in_flight > 0 ? r->files[worker].fd : -1;
}

int real_file_bind(struct real_env *r, uint32_t workers)
{
  r->files = calloc(workers, sizeof(*r->files));
  if (!r->files)
    return CHI_ENOMEM;
  r->file_count = workers;
  r->env.io_submit = real_file_submit;
  r->env.io_blocks = real_file_blocks;
  r->env.io_reap = real_file_reap;
  return CHI_OK;
}

void real_file_close(struct real_env *r)
{
  for (uint32_t i = 0; i < r->file_count; i++)
    if (r->files[i].state == REAL_FILE_RING)
      real_file_unmap(&r->files[i]);
  free(r->files);
  r->files = NULL;
  r->file_count = 0;
}

#undef REAL_FILE_MOST
#undef REAL_FILE_TRIES
#undef REAL_FILE_CALM
#undef REAL_FILE_NEEDS

#endif
