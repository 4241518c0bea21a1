/* bdev_story.c - what the stories of block devices share: a node with a pool 301.0, a client. */
#include "bdev_story.h"

#include <stdlib.h>

void bdev_story_open(struct bdev_story *b, uint64_t seed, const char *capacity)
{
  memset(b, 0, sizeof(*b));
  story_open(&b->s, seed);
  rng_seed(&b->rng, seed, 3, 4);
  if (chi_config_add_pool(&b->s.config, "bdev", BDEV_PATH, "local", 301, 0, &b->entry) != CHI_OK)
    abort();
  bdev_story_param(b, "capacity", capacity);
  bdev_story_param(b, "bdev_type", "file");
}

void bdev_story_param(struct bdev_story *b, const char *name, const char *value)
{
  for (uint32_t i = 0; i < b->entry->param_count; i++) {
    if (strcmp(b->entry->params[i].name, name) == 0) {
      free(b->entry->params[i].value);
      b->entry->params[i].value = strdup(value);
      return;
    }
  }
  if (chi_config_add_param(b->entry, name, value) != CHI_OK)
    abort();
}

void bdev_story_ram(struct bdev_story *b)
{
  bdev_story_param(b, "bdev_type", "ram");
}

struct body {
  struct bdev_story *story;
  void (*run)(chi_queue *queue, void *arg);
  void *arg;
  bool done;
};

static void run_body(struct sim_client *c, void *arg)
{
  struct body *body = arg;
  chi_client *client;
  chi_queue *queue;
  if (story_attach(c, &client, &queue) != CHI_OK)
    return;
  body->run(queue, body->arg);
  chi_client_close(client);
  body->done = true;
}

bool bdev_story_run(struct bdev_story *b, void (*run)(chi_queue *queue, void *arg), void *arg)
{
  struct body body = {b, run, arg, false};
  sim_client(b->s.sim, 0, run_body, &body);
  return sim_run_idle(b->s.sim, BDEV_LONG) && body.done;
}

/* ---- a port for actors ----------------------------------------------------------------------- */

static int port_run(void *arg, chi_queue *queue, void *task)
{
  struct bdev_story *b = arg;
  if (!rng_chance(&b->rng, b->cancel_ppm))
    return chi_run(queue, task);
  int rc = chi_submit(queue, task);
  if (rc)
    return rc;
  rc = chi_wait(queue, task, rng_below(&b->rng, STORY_MS));
  if (chi_task_done(queue, task))
    return rc;
  chi_cancel(queue, task);
  return chi_wait(queue, task, UINT64_MAX);
}

struct shadow_port bdev_story_port(struct bdev_story *b, chi_queue *queue)
{
  return (struct shadow_port){queue, port_run, b};
}

/* ---- single calls ---------------------------------------------------------------------------- */

static int run_and_free(chi_queue *queue, void *task)
{
  int rc;
  if (!task)
    return CHI_ENOMEM;
  ((chi_task *)task)->pool = BDEV_POOL;
  rc = chi_run(queue, task);
  chi_task_free(queue, task);
  return rc;
}

int dev_allocate(chi_queue *queue, uint64_t size, struct chi_block *first)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(queue, chi_bdev_allocate_blocks);
  int rc;
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = BDEV_POOL;
  t->size = size;
  rc = chi_run(queue, t);
  *first = t->blocks[0];
  if (rc == CHI_OK && t->block_total != 1)
    rc = 1000;
  chi_task_free(queue, t);
  return rc;
}

int dev_free(chi_queue *queue, const struct chi_block *block)
{
  struct chi_bdev_free_blocks *t = CHI_NEW(queue, chi_bdev_free_blocks);
  if (t) {
    t->blocks_count = 1;
    t->blocks[0] = *block;
  }
  return run_and_free(queue, t);
}

int dev_write(chi_queue *queue, const struct chi_block *block, const void *data, uint64_t length)
{
  struct chi_bdev_write *t = CHI_NEW(queue, chi_bdev_write);
  chi_bulk bulk;
  int rc = t ? chi_bulk_alloc(queue, length ? length : 1, &bulk) : CHI_ENOMEM;
  if (rc)
    return rc;
  memcpy(bulk.data, data, length);
  t->block = *block;
  t->length = length;
  t->data = bulk;
  rc = run_and_free(queue, t);
  chi_bulk_free(queue, &bulk);
  return rc;
}

int dev_read(chi_queue *queue, const struct chi_block *block, void *data, uint64_t length)
{
  struct chi_bdev_read *t = CHI_NEW(queue, chi_bdev_read);
  chi_bulk bulk;
  int rc = t ? chi_bulk_alloc(queue, length ? length : 1, &bulk) : CHI_ENOMEM;
  if (rc)
    return rc;
  memset(bulk.data, 0xdd, length ? length : 1);
  t->block = *block;
  t->length = length;
  t->data = bulk;
  rc = run_and_free(queue, t);
  memcpy(data, bulk.data, length);
  chi_bulk_free(queue, &bulk);
  return rc;
}

int dev_sync(chi_queue *queue)
{
  return run_and_free(queue, CHI_NEW(queue, chi_bdev_sync));
}

int dev_stats(chi_queue *queue, struct chi_bdev_get_stats *out)
{
  struct chi_bdev_get_stats *t = CHI_NEW(queue, chi_bdev_get_stats);
  int rc;
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = BDEV_POOL;
  rc = chi_run(queue, t);
  *out = *t;
  chi_task_free(queue, t);
  return rc;
}

uint64_t dev_remaining(chi_queue *queue)
{
  struct chi_bdev_get_stats t;
  return dev_stats(queue, &t) == CHI_OK ? t.remaining : UINT64_MAX;
}
