/* tale.h - stories of one node that every world can tell: through the handle of a cluster, whose
 * node has the pool of the module of story.h. */
#ifndef TALE_H
#define TALE_H

#include "story.h"
#include "town.h"

/* A client of the node. */
struct tale {
  chi_cluster *cluster;
  chi_client *client;
  struct town *town;
  void (*body)(struct tale *t, chi_queue *queue);
  void *arg; /* the body's own */
};

/* What is long beside the time that things take, and short for who waits. */
#define TALE_UNIT (town_is_simulated() ? STORY_MS : 100 * STORY_MS)

/* One client with this body, for a few seeds. In a simulation the transcript must have these texts,
 * in this order; NULL: any. */
void tale_tell(void (*body)(struct tale *t, chi_queue *queue), const char *line, const char *then);
/* One client with this body, once, where these keys of a spec are set. */
void tale_tell_with(void (*body)(struct tale *t, chi_queue *queue), const char *keys);

/* The same in pieces. Opens a cluster of one node with the pool; keys are those of a spec, or NULL.
 * The empty text, or what went wrong. town_end ends it. */
const char *tale_begin(struct town *town, uint64_t seed, const char *keys);
/* Starts a client; the struct is its own, with body and arg set. town->told counts those that got
 * to their end. */
void tale_client(struct town *town, struct tale *t);
/* Until all clients have ended; false: they don't. */
bool tale_is_over(struct town *town);

uint64_t tale_now(const struct tale *t);
void tale_sleep(struct tale *t, uint64_t ns);

#endif
