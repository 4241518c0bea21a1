/* cmd_sim.h - between the parts of the command sim: a workload, a run, processes that run. */
#ifndef CHI_TOOL_CMD_SIM_H
#define CHI_TOOL_CMD_SIM_H

#include "cli.h"
#include "scenario.h"

#include <stdio.h>

#ifndef CHI_OMIT_SIM

#include "sim_check.h"

/* ---- cmd_sim_load.c: clients and what they do ------------------------------------------------ */

struct load;

/* The module "load", for workloads: methods that echo, sleep, gather, relay, lock. */
extern const chi_module load_module;

/* Prepares the scenario's workload for a cluster whose pools are there; module[i] is behind pool i.
 * NULL: *err says what of it can't be. To be closed after the cluster. */
struct load *load_open(chi_cluster *cluster, const struct scenario *s,
                       const chi_module *const *module, uint32_t *mix, chi_error *err);
void load_close(struct load *l);
/* Is to see every event. */
void load_event(struct load *l, const struct sim_trace_event *e);
/* Starts the clients. Kills one, by its number in the scenario; nothing if there is none. */
void load_begin(struct load *l);
void load_kill(struct load *l, uint32_t client);
/* When all is settled: what devices have acknowledged is there, and every pool answers everywhere.
 * A failure is the cluster's. */
void load_verify(struct load *l);

/* ---- cmd_sim_module.c: modules of shared objects --------------------------------------------- */

struct modules;

/* The modules "load" and those that the scenario names, as an array for chi_cluster_open. They stay
 * loaded; a second call for the same names gives the same. NULL: *err, of number *at of them. */
struct modules *modules_load(const struct scenario *s, uint32_t *at, chi_error *err);
const chi_module *const *modules_all(const struct modules *m, uint32_t *count);
/* By name, built-in ones too. NULL: there is none. */
const chi_module *modules_find(const struct modules *m, const char *name);
/* Makes the variables of shared objects what they were when these had just been loaded. */
void modules_reset(struct modules *m);
/* Names the first variable of a module not declared CHI_MODULE_STATICS that has changed since.
 * False: there is none. */
bool modules_changed(const struct modules *m, char *what, size_t size);

/* ---- cmd_sim_trial.c: one run ---------------------------------------------------------------- */

#define TRIAL_DIGESTS (UINT64_C(1) << 22) /* of so many events, at most */

/* What a run came to. */
struct trial {
  uint64_t seed, events, time, hash, submitted, completed;
  uint64_t fault[SIM_PLAN_KIND_COUNT], net[SIM_CHECK_NET], code[SIM_CHECK_CODES];
  bool failed;         /* a check has; also one that stands for a crash or an endless loop */
  bool broken;         /* it could not begin; failure.text says why */
  char place[CHI_NAME_MAX]; /* and where: for scenario_locate, or empty */
  chi_failure failure; /* of either */
  char warning[400];   /* empty: none */
  uint16_t *digest;    /* of each event; to be freed */
  uint64_t digests;
};

/* Who watches a run. */
struct trial_watch {
  chi_put_fn *story; /* NULL: nobody */
  sim_trace_sink *sink;
  void *arg; /* of both */
};

/* Runs a scenario that draws no more (scenario_draw), in this process. */
void trial_run(const struct scenario *s, const struct trial_watch *watch, struct trial *out);
/* Of an event: 16 bits of all of it. */
uint16_t trial_digest(const struct sim_trace_event *e);
/* Says why it could not begin, and where in the scenario's file that stands, if it is of a file. */
void trial_say_broken(const struct cli *cli, const struct trial *t);
/* Adds what happened in `more`. */
void trial_add(struct trial *sum, const struct trial *more);
/* "NET: 12" and so on. */
const char *trial_net_name(uint32_t what);

/* ---- cmd_sim_guard.c: crashes and endless loops ---------------------------------------------- */

/* From now on a signal that ends the process, or an event that takes longer than stuck_ns, writes
 * "crash EVENTS TIME CHECK TEXT\n" to the descriptor and ends the process with status 3; if it is
 * standard error, a line for people, and status 1. */
void guard_begin(int fd, uint64_t stuck_ns);
void guard_end(void);
/* Follows the events of a run. */
void guard_event(const struct sim_trace_event *e);
/* Tells what is behind a pool, so that methods have names. */
void guard_pool(chi_pool_id id, const chi_module *module);
/* Forgets all that, before a run and after it: between them nothing has to happen. */
void guard_clear(uint64_t seed);

/* ---- cmd_sim_job.c: processes that run ------------------------------------------------------- */

/* One that waits for scenarios, runs them, and answers. */
struct job {
  int to, from; /* -1: it isn't there */
  int pid;
  bool busy;
  uint64_t seed; /* of the run under way */
  char *text;    /* of its answer, so far */
  size_t used, room;
};

/* How a job's process differs from the others': for looking whether that makes a difference. */
struct job_variant {
  uint32_t poison, padding; /* of memory, bytes; of the environment and the stack, KiB */
  bool stream;              /* every event comes as a line, before the answer */
};

/* Starts a process; of *job, text is NULL or left from the last one. CLI_OK, or a message was
 * given. */
int job_open(const struct cli *cli, struct job *job, const struct job_variant *variant);
void job_close(struct job *job);
/* Gives it a run; it must not be busy. swarm: as scenario_draw; record: with digests. False: it has
 * gone. */
bool job_give(struct job *job, const struct scenario *s, uint64_t seed, bool swarm, bool record);
/* What stands in an answer's line; true: it was the last. */
bool job_read_line(const char *line, struct trial *t);
/* Reads what is there; true: the answer is complete, in *out, and the job is free. A job that has
 * died has answered with a failed run, and is closed. */
bool job_take(struct job *job, struct trial *out);
/* Waits for the answer. */
void job_wait(struct job *job, struct trial *out);
/* The life of such a process: runs what comes in. */
int job_serve(const struct cli *cli);
/* One run, in a process that is started if need be. False: none could be. */
bool job_run(const struct cli *cli, struct job *job, const struct scenario *s, struct trial *out);

/* ---- the modes of the command ---------------------------------------------------------------- */

/* What the command line asks for. */
struct simulate_ask {
  const struct cli *cli;
  struct scenario *s;
  uint64_t runs, jobs, minutes_ns;
  bool until_failure, swarm, json, allow_zero, single;
  const char *output; /* directory for replay files */
};

/* cmd_sim_sweep.c: many seeds. */
int sweep_run(const struct simulate_ask *ask);

/* cmd_sim_replay.c: runs as files. */
struct replay {
  struct scenario *s;
  struct trial trial;
};
/* Writes the file; false, and a message. */
bool replay_write(const struct cli *cli, const char *path, const struct scenario *s,
                  const struct trial *t);
/* Whether the text of a file begins as such a file does. */
bool replay_is_saved(const char *text);
/* CLI_OK, or a message was given. To be freed. */
int replay_read(const struct cli *cli, const char *path, struct replay *out);
void replay_free(struct replay *r);
int replay_run(const struct simulate_ask *ask, const char *path);

/* cmd_sim_shrink.c */
int shrink_run(const struct simulate_ask *ask, const char *path, const char *out,
               uint64_t limit_ns);

/* cmd_sim_node.c: replays a recorded node, and says how that went. */
int node_run(const struct cli *cli, const char *path);

/* cmd_sim_verify.c */
int verify_run(const struct simulate_ask *ask);

/* Prints what happened, as lines; and the failure, as one. */
void simulate_say(FILE *out, const struct trial *t);
void simulate_say_failure(FILE *out, const struct trial *t);
/* Reads a whole file; NULL, and a message. */
char *simulate_read_file(const struct cli *cli, const char *path, size_t *size);

#endif
#endif
