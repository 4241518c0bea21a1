/* pollloop.c - a client in somebody else's poll loop: standard input goes to a pool as it comes.
 *
 * The loop belongs to the program: it watches standard input and one descriptor of the library, and
 * never waits for the daemon. usage: pollloop <FILE */
#include "chimaera.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define POLLLOOP_LINE 4096
#define POLLLOOP_CAPACITY (1u << 20)

struct pollloop {
  chi_queue *queue;
  chi_pool_id pool;
  struct chi_block block; /* where the lines go, one after the other */
  uint64_t written, in_flight, completed;
  int rc; /* the first failure */
};

/* A write has ended: runs inside chi_reap. */
static void pollloop_done(void *arg, chi_queue *queue, void *task)
{
  struct pollloop *loop = arg;
  struct chi_bdev_write *w = task;
  loop->in_flight--;
  loop->completed++;
  if (loop->rc == CHI_OK)
    loop->rc = w->task.rc;
  chi_bulk_free(queue, &w->data);
  chi_task_free(queue, w);
}

/* Submits what was read; returns at once. */
static int pollloop_write(struct pollloop *loop, const char *line, size_t size)
{
  struct chi_bdev_write *w = CHI_NEW(loop->queue, chi_bdev_write);
  int rc = w ? chi_bulk_alloc(loop->queue, size, &w->data) : CHI_ENOMEM;
  if (rc == CHI_OK) {
    memcpy(w->data.data, line, size);
    w->task.pool = loop->pool;
    w->block = loop->block;
    w->block.offset += loop->written;
    w->block.size = size;
    w->length = size;
    rc = chi_submit_callback(loop->queue, w, pollloop_done, loop);
  }
  loop->written += size;
  loop->in_flight += rc == CHI_OK;
  return rc;
}

static int pollloop_allocate(struct pollloop *loop)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(loop->queue, chi_bdev_allocate_blocks);
  int rc = CHI_ENOMEM;
  if (t) {
    t->task.pool = loop->pool;
    t->size = POLLLOOP_CAPACITY;
    rc = chi_run(loop->queue, t);
    loop->block = t->blocks[0];
    chi_task_free(loop->queue, t);
  }
  return rc;
}

/* Reads what there is. Returns 0 at the end of the input. */
static int pollloop_input(struct pollloop *loop)
{
  char line[POLLLOOP_LINE];
  ssize_t size = read(STDIN_FILENO, line, sizeof(line));
  if (size <= 0 || loop->written + (uint64_t)size > loop->block.size)
    return 0;
  if (loop->rc == CHI_OK)
    loop->rc = pollloop_write(loop, line, (size_t)size);
  return 1;
}

/* The foreign loop. Completions are reaped first; the descriptor is armed only when there are none
 * left, so none is overlooked while this sleeps. */
static int pollloop_run(struct pollloop *loop)
{
  struct pollfd watched[2] = {{STDIN_FILENO, POLLIN, 0}, {chi_queue_fd(loop->queue), POLLIN, 0}};
  int open = 1;
  while ((open || loop->in_flight) && loop->rc == CHI_OK) {
    void *none[1];
    do
      chi_reap(loop->queue, none, 1);
    while (chi_queue_arm(loop->queue) == 1);
    if (!open && !loop->in_flight)
      break;
    watched[0].fd = open ? STDIN_FILENO : -1;
    if (poll(watched, 2, -1) > 0 && watched[0].revents)
      open = pollloop_input(loop);
  }
  return loop->rc;
}

int main(void)
{
  char capacity[] = "1M", type[] = "ram", names[2][12] = {"capacity", "bdev_type"};
  chi_param params[] = {{names[0], capacity, 0, 0}, {names[1], type, 0, 0}};
  struct pollloop loop = {.pool = {501, 0}};
  chi_client *client = NULL;
  chi_error err = {0, ""};
  int rc = chi_client_open(NULL, &client, &err);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &loop.queue, &err);
  if (rc == CHI_OK)
    rc = chi_pool_create(loop.queue, "bdev", "pollloop", params, 2, &loop.pool, &err);
  if (rc == CHI_OK)
    rc = pollloop_allocate(&loop);
  if (rc == CHI_OK)
    rc = pollloop_run(&loop);
  if (rc == CHI_OK)
    printf("%llu bytes in %llu writes\n", (unsigned long long)loop.written,
           (unsigned long long)loop.completed);
  else
    fprintf(stderr, "%s\n", err.text[0] ? err.text : chi_status_text(rc));
  chi_queue_close(loop.queue);
  chi_client_close(client);
  return rc != CHI_OK;
}
