/* story.c - what the stories in simulation share: a node, a module to play with, the transcript. */
#include "story.h"
#include "town.h"

#include <stdlib.h>

struct sim *story_sim;

/* ---- the module --------------------------------------------------------------------------- */

struct story_state {
  chi_mutex mutex;
  chi_rwlock rwlock;
  chi_event event;
  uint64_t places, inside, most, ticks;
};

static int story_add_run(chi_ctx *ctx, struct story_state *self, struct story_add *t)
{
  (void)ctx, (void)self;
  t->sum = t->a + t->b;
  return CHI_OK;
}

/* Below the handle of a cluster, or in its node. */
static void story_use(uint64_t ns)
{
  if (story_sim)
    sim_cpu(story_sim, ns);
  else
    chi_cluster_cpu(town_cluster, ns);
}

static int story_work_run(chi_ctx *ctx, struct story_state *self, struct story_work *t)
{
  (void)ctx, (void)self;
  story_use(t->ns);
  return CHI_OK;
}

static int story_sleep_run(chi_ctx *ctx, struct story_state *self, struct story_sleep *t)
{
  (void)self;
  return chi_sleep(ctx, t->ns);
}

static int story_deaf_run(chi_ctx *ctx, struct story_state *self, struct story_deaf *t)
{
  (void)self;
  for (t->done = 0; t->done < t->pieces; t->done++)
    if (chi_sleep(ctx, STORY_MS) != CHI_OK)
      story_use(STORY_MS); /* it can't sleep any more */
  return CHI_OK;
}

static int story_lock_run(chi_ctx *ctx, struct story_state *self, struct story_lock *t)
{
  int rc = chi_mutex_lock(ctx, &self->mutex, 0), unlocked;
  if (rc)
    return rc;
  t->place = ++self->places;
  if (t->ns)
    rc = chi_sleep(ctx, t->ns);
  if (rc == CHI_OK && t->depth) {
    struct story_lock *inner = chi_subtask_new(ctx, &story_lock_type);
    if (inner) {
      inner->task.pool = chi_self_pool(ctx);
      inner->ns = t->ns;
      inner->depth = t->depth - 1;
      rc = chi_call(ctx, inner);
    } else {
      rc = CHI_ENOMEM;
    }
  }
  unlocked = chi_mutex_unlock(ctx, &self->mutex);
  return rc ? rc : unlocked;
}

static int story_share_run(chi_ctx *ctx, struct story_state *self, struct story_share *t)
{
  int rc = t->write ? chi_rwlock_wrlock(ctx, &self->rwlock, 0)
                    : chi_rwlock_rdlock(ctx, &self->rwlock, 0);
  int unlocked;
  if (rc)
    return rc;
  self->inside++;
  t->inside = self->inside;
  rc = chi_sleep(ctx, t->ns);
  if (t->inside < self->inside)
    t->inside = self->inside;
  self->inside--;
  unlocked = chi_rwlock_unlock(ctx, &self->rwlock);
  return rc ? rc : unlocked;
}

static int story_event_run(chi_ctx *ctx, struct story_state *self, struct story_event *t)
{
  if (!t->set)
    return chi_event_wait(ctx, &self->event, t->timeout_ns);
  chi_event_set(ctx, &self->event);
  return CHI_OK;
}

static int story_tick_run(chi_ctx *ctx, struct story_state *self, struct story_tick *t)
{
  (void)ctx;
  t->ticks = ++self->ticks;
  return CHI_OK;
}

static int story_fan_run(chi_ctx *ctx, struct story_state *self, struct story_fan *t)
{
  int rc = CHI_OK;
  (void)self;
  for (uint64_t i = 0; i < t->count && rc == CHI_OK; i++) {
    struct story_sleep *sub = chi_subtask_new(ctx, &story_sleep_type);
    if (!sub)
      return CHI_ENOMEM; /* those under way are waited for */
    sub->task.pool = chi_self_pool(ctx);
    sub->ns = t->ns;
    rc = chi_subtask_submit(ctx, sub);
    t->sum += i;
  }
  if (rc == CHI_OK)
    rc = chi_subtask_wait_all(ctx);
  return rc;
}

static int story_file_run(chi_ctx *ctx, struct story_state *self, struct story_file *t)
{
  chi_file *file;
  int rc = chi_file_open(ctx, "/data/line", CHI_FILE_CREATE, &file);
  (void)self;
  if (rc)
    return rc;
  if (t->write) {
    t->bytes = chi_file_write(ctx, file, t->text, sizeof(t->text), 0);
    rc = t->bytes < 0 ? (int)t->bytes : chi_file_sync(ctx, file);
    if (rc == CHI_OK)
      rc = chi_file_dirsync(ctx, "/data/line");
  } else {
    t->bytes = chi_file_read(ctx, file, t->text, sizeof(t->text), 0);
    t->text[sizeof(t->text) - 1] = '\0';
    rc = t->bytes < 0 ? (int)t->bytes : CHI_OK;
  }
  chi_file_close(ctx, file);
  return rc;
}

static int story_bulk_run(chi_ctx *ctx, struct story_state *self, struct story_bulk *t)
{
  (void)ctx, (void)self;
  return town_copy(&t->from, &t->to);
}

static int story_code_run(chi_ctx *ctx, struct story_state *self, struct story_code *t)
{
  (void)ctx, (void)self;
  return t->code;
}

static int story_hand_run(chi_ctx *ctx, struct story_state *self, struct story_hand *t)
{
  static char nobodys[2][8];
  struct story_bulk *sub = chi_subtask_new(ctx, &story_bulk_type);
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.flags = CHI_TASK_FORGET;
  sub->from = (chi_bulk){nobodys[0], sizeof(nobodys[0]), 0};
  sub->to = (chi_bulk){nobodys[1], sizeof(nobodys[1]), 0};
  if (!t->own)
    sub->to = (chi_bulk){(char *)t->to.data + t->skip, t->to.size - t->skip, 0};
  return chi_subtask_submit(ctx, sub);
}

#define STORY_METHODS(M, S)                                                                        \
  M(S, story_add)                                                                                  \
  M(S, story_work)                                                                                 \
  M(S, story_sleep)                                                                                \
  M(S, story_deaf)                                                                                 \
  M(S, story_lock)                                                                                 \
  M(S, story_share)                                                                                \
  M(S, story_event)                                                                                \
  M(S, story_tick)                                                                                 \
  M(S, story_fan)                                                                                  \
  M(S, story_file)                                                                                 \
  M(S, story_bulk)                                                                                 \
  M(S, story_code)                                                                                 \
  M(S, story_hand)
CHI_METHODS(story_state, STORY_METHODS)

const chi_module story_module = {.version = CHI_MODULE_VERSION,
                                 .name = "story",
                                 .state_size = sizeof(struct story_state),
                                 .methods = story_state_methods};

/* ---- the setting -------------------------------------------------------------------------- */

uint64_t story_seeds(uint64_t usual)
{
  const char *seeds = getenv("STORY_SEEDS");
  return seeds ? strtoull(seeds, NULL, 10) : usual;
}

bool story_is_whole(uint64_t usual)
{
  return story_seeds(usual) >= usual;
}

void story_open(struct story *s, uint64_t seed)
{
  chi_compose_entry *entry;
  memset(s, 0, sizeof(*s));
  s->seed = seed;
  s->modules[0] = &story_module;
  s->sim = story_sim = sim_open(seed);
  sim_transcript(s->sim, transcript_put, &s->transcript);
  sim_disk_mkdir(sim_node_disk(s->sim, 0), "/data");
  chi_config_init(&s->config);
  s->config.queue_depth = 64;
  if (chi_config_add_pool(&s->config, "story", "story", "local", 300, 0, &entry) != CHI_OK)
    abort();
}

int story_start(struct story *s)
{
  return sim_node_start(s->sim, 0, &s->config, s->modules, 1, &s->error);
}

const char *story_begin(struct story *s, uint64_t seed)
{
  story_open(s, seed);
  return story_start(s) == CHI_OK ? "" : s->error.text;
}

void story_close(struct story *s)
{
  s->hash = sim_hash(s->sim);
  if (getenv("STORY_HASH"))
    printf("hash %016llx of seed %llu\n", (unsigned long long)s->hash, (unsigned long long)s->seed);
  sim_close(s->sim);
  chi_config_free(&s->config);
  transcript_free(&s->transcript);
  story_sim = NULL;
}

const char *story_end(struct story *s)
{
  const char *failure;
  int rc = CHI_OK;
  if (sim_node_state(s->sim, 0) != RUNTIME_STOPPED)
    rc = sim_node_stop(s->sim, 0, 100);
  failure = sim_failure(s->sim);
  snprintf(s->error.text, sizeof(s->error.text), "%s", failure ? failure : "");
  if (rc != CHI_OK && !failure)
    snprintf(s->error.text, sizeof(s->error.text), "stop: %s", chi_status_name(rc));
  story_close(s);
  return s->error.text;
}

int story_attach(struct sim_client *c, chi_client **client, chi_queue **queue)
{
  int rc = sim_client_attach(c, client, NULL);
  if (rc)
    return rc;
  rc = chi_queue_open(*client, queue, NULL);
  if (rc)
    chi_client_close(*client);
  return rc;
}

void *story_task(chi_queue *queue, const chi_type *type)
{
  chi_task *task = chi_task_new(queue, type);
  if (task)
    task->pool = STORY_POOL;
  return task;
}
