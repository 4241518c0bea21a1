/* sim_replay.c - a recorded node lives again: the same core, with a tape for a world. */
#include "sim_replay.h"

#include "error.h"
#include "sim_party.h"

#include <stdio.h>
#include <stdlib.h>

struct sim_replay {
  struct sim_party party;
  struct sim_world world;
  struct sim_thread thread;
  const struct sim_replay_options *options;
  struct record *record;
  struct record_head head;
  const chi_module *module[RECORD_MODULES];
  struct runtime *runtime;
};

static struct sim_replay *sim_replay_of(struct env *env)
{
  return CHI_CONTAINER_OF(sim_party_of(env), struct sim_replay, party);
}

static void sim_replay_log(struct env *env, int level, const char *line)
{
  const struct sim_replay_options *o = sim_replay_of(env)->options;
  if (o->log)
    o->log(o->arg, level, line);
}

static int sim_replay_module_load(struct env *env, const char *name, const chi_module **out,
                                  chi_error *err)
{
  const struct sim_replay_options *o = sim_replay_of(env)->options;
  return o->load ? o->load(o->arg, name, out, err)
                 : error_set(err, CHI_ENOMODULE, "no module \"%s\" is linked in", name);
}

/* The thread stays where it is, wherever in the core that may be; all it has is taken later. */
static void sim_replay_lost(void *arg)
{
  struct sim_replay *p = arg;
  sim_thread_sleep(&p->world, SIM_WORLD_NEVER);
}

static void sim_replay_work(void *arg)
{
  struct sim_replay *p = arg;
  const struct runtime_options options = {.config = &p->head.config,
                                          .instance = p->head.instance,
                                          .node = p->head.node,
                                          .modules = p->module,
                                          .module_count = p->head.module_count};
  chi_error err;
  int rc = runtime_open(record_env(p->record), &options, &p->runtime, &err);
  record_opened(p->record, rc);
  while (rc == CHI_OK && record_play(p->record, p->runtime))
    ;
}

static int sim_replay_find(struct sim_replay *p, const char *name, const chi_module **out,
                           chi_error *err)
{
  const struct sim_replay_options *o = p->options;
  for (uint32_t i = 0; i < o->module_count; i++) {
    *out = o->modules[i];
    if (strcmp((*out)->name, name) == 0)
      return CHI_OK;
  }
  return sim_replay_module_load(&p->party.env, name, out, err);
}

/* What the head says must be possible before a node is opened with it. */
static int sim_replay_check(struct sim_replay *p, chi_error *err)
{
  const chi_config *config = &p->head.config;
  int rc = chi_config_check(config, err);
  if (rc == CHI_OK && (config->sched_threads == 0 || config->slow_threads == 0 ||
                       p->head.node >= (config->host_count ? config->host_count : 1)))
    rc = error_set(err, CHI_ECORRUPT, "an impossible configuration");
  for (uint32_t i = 0; i < p->head.module_count && rc == CHI_OK; i++)
    rc = sim_replay_find(p, p->head.module[i], &p->module[i], err);
  return rc;
}

static void sim_replay_open(struct sim_replay *p)
{
  struct env *env = &p->party.env;
  sim_world_init(&p->world, 0);
  sim_party_init(&p->party, &p->world, 0, 0);
  env->log = sim_replay_log;
  env->module_load = sim_replay_module_load;
}

static void sim_replay_close(struct sim_replay *p)
{
  sim_party_fini(&p->party);
  sim_world_fini(&p->world);
  chi_config_free(&p->head.config);
  free(p);
}

void sim_replay_run(const struct sim_replay_options *options, struct sim_replay_report *report)
{
  struct sim_replay *p = sim_world_new(sizeof(*p));
  memset(report, 0, sizeof(*report));
  p->options = options;
  sim_replay_open(p);
  int rc = record_open(&p->party.env, &p->record);
  CHI_ASSERT(rc == CHI_OK);
  const struct tape *tape = record_tape(p->record);
  bool begun = record_read(p->record, &options->store, sim_replay_lost, p, &p->head);
  if (begun && sim_replay_check(p, &report->why) != CHI_OK) {
    report->end = TAPE_FOREIGN;
  } else if (begun) {
    sim_thread_start(&p->world, &p->thread, 0, sim_replay_work, p);
    while (sim_world_next(&p->world, SIM_WORLD_NEVER))
      ;
    sim_thread_end(&p->thread);
  }
  if (report->end == TAPE_GOES_ON) {
    report->end = tape->end;
    report->why = tape->why;
  }
  if (report->end == TAPE_CUT && !begun)
    report->end = TAPE_FOREIGN; /* not even a node is in it */
  if (report->end == TAPE_GOES_ON) {
    report->end = TAPE_CUT;
    error_set(&report->why, CHI_ECORRUPT, "the node did not open");
  }
  snprintf(report->instance, sizeof(report->instance), "%s", p->head.instance);
  report->items = tape->items;
  report->hash = hash_stream_finish(&tape->hash);
  sim_replay_close(p);
}
