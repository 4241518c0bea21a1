/* scenario.h - what a simulation is to do: nodes, pools, clients, faults, checks, limits. */
#ifndef CHI_TOOL_SCENARIO_H
#define CHI_TOOL_SCENARIO_H

#include "base.h"

#ifndef CHI_OMIT_SIM

#include "report.h"
#include "sim_plan.h"

#define SCENARIO_FILE_MAX ((size_t)16 << 20)
#define SCENARIO_NAME 64
#define SCENARIO_VALUE 256
#define SCENARIO_SETTINGS 32 /* keys of the configuration, fields of a task, parameters of a pool */
#define SCENARIO_MODULES 16
#define SCENARIO_POOLS 16
#define SCENARIO_MIX 32
#define SCENARIO_KILLS 256
#define SCENARIO_CODES 32
#define SCENARIO_CLIENTS 1000u       /* on each node */
#define SCENARIO_OPERATIONS 1000000u /* of each client, and in a list of them */
#define SCENARIO_WINDOW 64u
#define SCENARIO_MILLION 1000000u /* parts of a million are chances: "2.5%" */

/* Built-in checks, which may be turned off. The last four are those of the workload: an answer is
 * what it should be; what a device has acknowledged is there; a healed cluster answers; no
 * operation ends with a code of `never`. */
#define SCENARIO_CHECKS(X)                                                                         \
  X(P1, "P1") X(P2, "P2") X(P7, "P7") X(LEAK, "leak") X(LIVENESS, "liveness") X(ANSWER, "answer")  \
  X(P5, "P5") X(HEALED, "healed") X(NEVER, "never")
enum scenario_check {
#define SCENARIO_ENUM(name, text) SCENARIO_##name,
  SCENARIO_CHECKS(SCENARIO_ENUM)
#undef SCENARIO_ENUM
      SCENARIO_CHECK_COUNT
};

/* From low to high, both included. */
struct scenario_range {
  uint64_t low, high;
};

struct scenario_setting {
  char name[SCENARIO_NAME], value[SCENARIO_VALUE];
};

struct scenario_list {
  struct scenario_setting item[SCENARIO_SETTINGS];
  uint32_t count;
};

struct scenario_pool {
  char module[SCENARIO_NAME], name[SCENARIO_VALUE];
  chi_pool_id id;
  struct scenario_list params;
};

#define SCENARIO_ANY 7u          /* beside enum chi_query_mode: any of them */
#define SCENARIO_DRAWN UINT32_MAX /* an operand of a query that is drawn */

/* A kind of operation. */
struct scenario_mix {
  uint32_t pool; /* index */
  char method[SCENARIO_NAME];
  uint32_t mode, a, b; /* enum chi_query_mode or SCENARIO_ANY; operands or SCENARIO_DRAWN */
  uint32_t weight;
  struct scenario_range size;  /* of each of its buffers */
  struct scenario_list fields; /* NAME: VALUE, or LOW..HIGH of numbers */
};

/* Operation number `op` of the client `client`, which is on `node`. */
struct scenario_work {
  uint32_t client, node, op;
};

struct scenario_kill {
  uint64_t time; /* ns from the start, as in a plan */
  uint32_t client;
};

/* Allocated as a whole by scenario_new. */
struct scenario {
  char name[SCENARIO_NAME];
  uint32_t nodes, up; /* up 0: all */
  uint64_t seed;
  struct scenario_list costs, config; /* of a profile; the configuration comes second */
  char module_path[CHI_PATH_MAX]; /* directories, separated by colons */
  char modules[SCENARIO_MODULES][SCENARIO_NAME];
  uint32_t module_count;
  struct scenario_pool pool[SCENARIO_POOLS];
  uint32_t pools;

  uint32_t clients, operations, window, kills;
  uint32_t deadline, cancel, abandon; /* how many operations have one, in a million */
  struct scenario_range think, deadline_after; /* ns */
  struct scenario_mix mix[SCENARIO_MIX];
  uint32_t mixes;
  struct scenario_work *work; /* the operations there are, by client and number; NULL: all */
  uint32_t works;
  struct scenario_kill kill[SCENARIO_KILLS]; /* beside those that are drawn; by time */
  uint32_t kill_count;

  struct sim_plan plan;
  bool random; /* and these are drawn: */
  uint64_t from, until, outage, kinds;
  uint32_t each, down;
  bool swarm;

  uint32_t off;                   /* a set of 1 << enum scenario_check */
  int32_t never[SCENARIO_CODES];
  uint32_t nevers;
  uint64_t limit_time, limit_events, limit_wall; /* ns; 0: none */
};

/* The default scenario, or one with nothing but three nodes; ends the program if there is no
 * memory. To be freed. */
struct scenario *scenario_new(bool full);
struct scenario *scenario_copy(const struct scenario *from);
void scenario_free(struct scenario *s);

/* Reads YAML over a new scenario. NULL: there are errors, all of which went to the report. */
struct scenario *scenario_read(const char *text, size_t size, struct report *report);
/* Where a value stands in it: by keys and numbers of items, as in "pools/0/params/capacity"; of
 * what isn't there, where that would be. */
struct report_mark scenario_locate(const char *text, size_t size, const char *path);
/* What reading gives the same scenario from. */
void scenario_print(const struct scenario *s, chi_put_fn *put, void *arg);

/* Makes of it what happens with a seed: faults and kills that were to be drawn are drawn, and with
 * `swarm` some of the configuration, too. The result draws no more. */
struct scenario *scenario_draw(const struct scenario *s, uint64_t seed, bool swarm);
/* Kinds of faults that may be drawn, or are in its plan, as a set of 1 << enum sim_plan_kind. */
uint64_t scenario_kinds(const struct scenario *s);
/* Lists in s->work what is to be done, unless it is listed. */
void scenario_list_work(struct scenario *s);
/* The node of a client that has no list. */
uint32_t scenario_node(const struct scenario *s, uint32_t client);

const char *scenario_check_name(enum scenario_check check);
/* Whether the check of that name counts; those that aren't built-in do. */
bool scenario_counts(const struct scenario *s, const char *check);
/* A mode's name: "local", ..., "any". */
const char *scenario_mode_name(uint32_t mode);

/* Texts, to be given. False: it isn't one. */
bool scenario_parse_range(const char *text, bool times, struct scenario_range *out);
bool scenario_parse_chance(const char *text, uint32_t *out);
bool scenario_parse_query(const char *text, struct scenario_mix *out);
/* "1 2: 4 7-9": operations 4 and 7 to 9 of client 1, on node 2; all lines in order. */
bool scenario_parse_work(struct scenario *s, const char *text);
/* "2.5 3": client 3 is killed at 2.5 s. */
bool scenario_parse_kill(struct scenario *s, const char *text);

#endif
#endif
