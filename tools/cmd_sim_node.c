/* cmd_sim_node.c - a node that was recorded (chimaera start --record) is replayed. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include "real_module.h"
#include "real_record.h"
#include "sim_replay.h"

#include <stdlib.h>

#define NODE_DIFFERS 3 /* exit status */

static int node_load(void *arg, const char *name, const chi_module **out, chi_error *err)
{
  struct real_env *env = arg;
  return env->env.module_load(&env->env, name, out, err);
}

static void node_log(void *arg, int level, const char *line)
{
  char plain[1024];
  (void)arg;
  (void)level;
  printf("%s\n", cli_plain(line, plain, sizeof(plain)));
}

static int node_tell(const struct cli *cli, const char *path, const struct sim_replay_report *r)
{
  char instance[CHI_NAME_MAX], plain[sizeof(r->why.text)];
  if (r->items)
    printf("%s: %llu items of node %s, state hash %016llx\n", path, (unsigned long long)r->items,
           cli_plain(r->instance, instance, sizeof(instance)), (unsigned long long)r->hash);
  fflush(stdout);
  if (r->end == TAPE_COMPLETE)
    return CLI_OK;
  cli_plain(r->why.text, plain, sizeof(plain));
  if (r->end == TAPE_CUT) {
    cli_warn(cli, "%s: as recorded up to there, but not complete: %s", path, plain);
    return CLI_OK;
  }
  cli_fail(cli, "%s: %s", path, plain);
  return r->end == TAPE_DIFFERS ? NODE_DIFFERS : CLI_FAILED;
}

int node_run(const struct cli *cli, const char *path)
{
  static struct real_env env; /* what is loaded stays so */
  struct sim_replay_options options = {.load = node_load, .arg = &env};
  struct sim_replay_report report;
  struct real_record file;
  chi_error err;
  env.env.self = &env;
  if (cli_value(cli, "story"))
    options.log = node_log;
  if (real_record_find(&file, path, &options.store, &err) != CHI_OK)
    return cli_fail(cli, "%s", err.text);
  real_module_bind(&env);
  sim_replay_run(&options, &report);
  real_record_close(&file);
  return node_tell(cli, path, &report);
}

#undef NODE_DIFFERS

#endif
