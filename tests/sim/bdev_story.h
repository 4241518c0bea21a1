/* bdev_story.h - what the stories of block devices share: a node with a pool 301.0, a client. */
#ifndef BDEV_STORY_H
#define BDEV_STORY_H

#include "story.h"
#include "bdev_shadow.h"

#define BDEV_PATH "/data/dev"
#define BDEV_LOG "/data/dev.chi-log"
#define BDEV_POOL ((chi_pool_id){301, 0})
#define BDEV_LONG (1000 * STORY_SECOND)

/* A device. Parameters as in a configuration. */
struct bdev_story {
  struct story s;
  chi_compose_entry *entry;
  chi_client *client; /* of the last body that attached */
  chi_queue *queue;
  struct rng rng; /* draws which tasks are cancelled */
  uint32_t cancel_ppm;
};

/* Opens a simulation with a pool "/data/dev" of a file of `capacity`; more parameters may follow
 * with bdev_story_param before the node is started by story_start. */
void bdev_story_open(struct bdev_story *b, uint64_t seed, const char *capacity);
/* Sets a parameter, in place of the value it has. */
void bdev_story_param(struct bdev_story *b, const char *name, const char *value);
/* Makes it memory. */
void bdev_story_ram(struct bdev_story *b);

/* Runs body(queue, arg) as a client, alone, to its end. False: not within BDEV_LONG, or it could
 * not attach. */
bool bdev_story_run(struct bdev_story *b, void (*body)(chi_queue *queue, void *arg), void *arg);

/* For an actor: tasks through a queue, of which some are cancelled. */
struct shadow_port bdev_story_port(struct bdev_story *b, chi_queue *queue);

/* One call each, in the body of a client. They return its rc. */
int dev_allocate(chi_queue *queue, uint64_t size, struct chi_block *first);
int dev_free(chi_queue *queue, const struct chi_block *block);
int dev_write(chi_queue *queue, const struct chi_block *block, const void *data, uint64_t length);
int dev_read(chi_queue *queue, const struct chi_block *block, void *data, uint64_t length);
int dev_sync(chi_queue *queue);
int dev_stats(chi_queue *queue, struct chi_bdev_get_stats *out);
uint64_t dev_remaining(chi_queue *queue);

#endif
