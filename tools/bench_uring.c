/* bench_uring.c - what a file gives through io_uring alone, where fio is not installed. */
#include "bench.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define URING_PAGE 4096u
#define URING_NEEDS (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_RW_CUR_POS)

/* A ring, a file, and a page of memory for each place of the ring. */
struct uring {
  int fd, file;
  bool writing;
  uint32_t mask, done_mask;
  uint32_t *tail, *done_head, *done_tail;
  struct io_uring_sqe *sqe;
  struct io_uring_cqe *done;
  void *rings;
  size_t rings_size, sqe_size;
  uint8_t *pages;
  uint64_t count, draw; /* pages of the file; state of the stream of places */
};

static bool uring_map(struct uring *u, const struct io_uring_params *p)
{
  size_t done_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  u->rings_size = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  u->rings_size = u->rings_size > done_size ? u->rings_size : done_size;
  u->sqe_size = p->sq_entries * sizeof(struct io_uring_sqe);
  u->rings = mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                  IORING_OFF_SQ_RING);
  u->sqe = mmap(NULL, u->sqe_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                IORING_OFF_SQES);
  if (u->rings == MAP_FAILED || u->sqe == MAP_FAILED)
    return false;
  char *base = u->rings;
  uint32_t *array = (uint32_t *)(void *)(base + p->sq_off.array);
  u->tail = (uint32_t *)(void *)(base + p->sq_off.tail);
  u->done_head = (uint32_t *)(void *)(base + p->cq_off.head);
  u->done_tail = (uint32_t *)(void *)(base + p->cq_off.tail);
  u->done = (struct io_uring_cqe *)(void *)(base + p->cq_off.cqes);
  u->mask = p->sq_entries - 1;
  u->done_mask = p->cq_entries - 1;
  for (uint32_t i = 0; i < p->sq_entries; i++)
    array[i] = i;
  return true;
}

static bool uring_open(struct uring *u, const char *path, uint64_t size, bool writing,
                       uint32_t depth)
{
  struct io_uring_params p = {0};
  void *pages = NULL;
  *u = (struct uring){.writing = writing, .count = size / URING_PAGE, .draw = cli_now()};
  u->rings = u->sqe = MAP_FAILED;
  u->file = open(path, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
  u->fd = (int)syscall(SYS_io_uring_setup, depth, &p);
  if (posix_memalign(&pages, URING_PAGE, (size_t)depth * URING_PAGE) == 0)
    u->pages = memset(pages, 1, (size_t)depth * URING_PAGE);
  return u->file >= 0 && u->fd >= 0 && u->pages && (p.features & URING_NEEDS) == URING_NEEDS &&
         uring_map(u, &p);
}

static void uring_close(struct uring *u)
{
  if (u->sqe != MAP_FAILED)
    munmap(u->sqe, u->sqe_size);
  if (u->rings != MAP_FAILED)
    munmap(u->rings, u->rings_size);
  if (u->fd >= 0)
    close(u->fd);
  if (u->file >= 0)
    close(u->file);
  free(u->pages);
}

/* One more operation, on a page drawn, with the memory of place `index`. */
static void uring_add(struct uring *u, uint64_t index)
{
  uint32_t tail = *u->tail;
  u->draw = u->draw * 6364136223846793005u + 1442695040888963407u;
  u->sqe[tail & u->mask] =
      (struct io_uring_sqe){.opcode = u->writing ? IORING_OP_WRITE : IORING_OP_READ,
                            .fd = u->file,
                            .addr = (uint64_t)(uintptr_t)(u->pages + index * URING_PAGE),
                            .len = URING_PAGE,
                            .off = (u->draw >> 33) % u->count * URING_PAGE,
                            .user_data = index};
  __atomic_store_n(u->tail, tail + 1, __ATOMIC_RELEASE);
}

/* Takes all that has completed; with `again`, a new one follows each. How many; -1: one failed. */
static int uring_reap(struct uring *u, bool again)
{
  uint32_t head = *u->done_head, tail = __atomic_load_n(u->done_tail, __ATOMIC_ACQUIRE);
  int n = (int)(tail - head);
  for (; head != tail; head++) {
    const struct io_uring_cqe *c = &u->done[head & u->done_mask];
    if (c->res != (int)URING_PAGE)
      return -1;
    if (again)
      uring_add(u, c->user_data);
  }
  __atomic_store_n(u->done_head, head, __ATOMIC_RELEASE);
  return n;
}

/* Submits so many and waits for one at least. */
static bool uring_enter(const struct uring *u, uint32_t submit)
{
  return syscall(SYS_io_uring_enter, u->fd, submit, 1, IORING_ENTER_GETEVENTS, NULL, 0) >= 0;
}

bool bench_raw_uring(const char *path, uint64_t size, bool writing, uint32_t depth, uint64_t ns,
                     double *out)
{
  struct uring u;
  bool good = uring_open(&u, path, size, writing, depth);
  uint64_t begin = cli_now(), now = begin, done = 0;
  uint32_t flying = good ? depth : 0, fresh = flying;
  for (uint32_t i = 0; i < flying; i++)
    uring_add(&u, i);
  while (good && flying > 0) {
    int n = uring_enter(&u, fresh) ? uring_reap(&u, now - begin < ns) : -1;
    good = n >= 0;
    if (!good) {
      u.pages = NULL; /* what is in flight may still write there */
      break;
    }
    fresh = now - begin < ns ? (uint32_t)n : 0;
    flying -= (uint32_t)n - fresh;
    done += (uint32_t)n;
    now = cli_now();
  }
  *out = good ? (double)done * 1e9 / (double)(now - begin) : 0;
  uring_close(&u);
  return good;
}
