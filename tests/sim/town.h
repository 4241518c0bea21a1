/* town.h - what the stories of clusters share: a module, its pool, a cluster and its transcript. */
#ifndef TOWN_H
#define TOWN_H

#include "chimaera.h"
#include "test.h"
#include "transcript.h"

/* 1: tasks travel between nodes. 0: the stories that need that are skipped. */
#ifndef CLUSTER_WIRED
#define CLUSTER_WIRED 1
#endif

#define TOWN_POOL ((chi_pool_id){700, 0})
#define TOWN_MS UINT64_C(1000000)
#define TOWN_SECOND UINT64_C(1000000000)
#define TOWN_LONG (120 * TOWN_SECOND)

/* Where it ran, and how many have run in this container. */
#define TOWN_WHERE(X, T) X(T, OUT, u32, node) X(T, OUT, u32, container) X(T, OUT, u64, runs)
CHI_TASK(town_where, 10, TOWN_WHERE)
/* Each container gives its number plus one; aggregated as a sum. */
#define TOWN_SUM(X, T) X(T, IN, u64, ns) X(T, OUT, u64, sum) X(T, OUT, u64, answers)
CHI_TASK(town_sum, 11, TOWN_SUM)
/* Sleeps; returns why it woke. */
#define TOWN_SLEEP(X, T) X(T, IN, u64, ns)
CHI_TASK(town_sleep, 12, TOWN_SLEEP)
/* Asks the container of another node where it is, as a subtask, and tells. */
#define TOWN_ASK(X, T) X(T, IN, u32, whom) X(T, OUT, u32, node)
CHI_TASK(town_ask, 13, TOWN_ASK)
/* Copies one buffer to another, adding 1 to every byte. */
#define TOWN_BULK(X, T) X(T, IN, bulk, from) X(T, OUT, bulk, to)
CHI_TASK(town_bulk, 14, TOWN_BULK)
/* Returns the code in that container, 0 in others. */
#define TOWN_CODE(X, T) X(T, IN, u32, container) X(T, IN, i32, code)
CHI_TASK(town_code, 15, TOWN_CODE)
/* What this container has seen: how often a node was lost and found, and which last. */
#define TOWN_NEWS(X, T)                                                                            \
  X(T, OUT, u64, lost) X(T, OUT, u64, found) X(T, OUT, u32, last_lost) X(T, OUT, u32, last_found)
CHI_TASK(town_news, 16, TOWN_NEWS)
/* As town_where, but may be run again elsewhere. */
#define TOWN_AGAIN(X, T) X(T, OUT, u32, node)
CHI_TASK(town_again, 17, TOWN_AGAIN)
/* Uses that much CPU of the cluster town_cluster in one go. */
#define TOWN_WORK(X, T) X(T, IN, u64, ns)
CHI_TASK(town_work, 18, TOWN_WORK)

/* Has a subtask for all containers, and tells what became of it. */
#define TOWN_LIST(X, T) X(T, OUT, u32, asked) X(T, OUT, u32, failed) X(T, OUT, u32, first)
CHI_TASK(town_list, 19, TOWN_LIST)

/* What methods that copy do. */
static inline int town_copy(const chi_bulk *from, chi_bulk *to)
{
  const uint8_t *in = from->data;
  uint8_t *out = to->data;
  if (to->size < from->size)
    return CHI_ETOOBIG;
  for (uint64_t i = 0; i < from->size; i++)
    out[i] = (uint8_t)(in[i] + 1);
  to->size = from->size;
  return CHI_OK;
}

extern const chi_module town_module, town_other_module;
/* The cluster that methods use CPU of: the last that was opened. */
extern chi_cluster *town_cluster;

struct town {
  chi_cluster *cluster;
  chi_error error;
  struct transcript story; /* so far */
  uint64_t hash; /* at the end */
  int told;      /* bodies that got to their end count here */
};

/* The stories are told in the simulation, or in the world that $CHI_WORLD names: "local:", nodes as
 * processes, for which "sim:" in their specs then stands; "hostfile:PATH", daemons that have loaded
 * town_module.c, for those that need nothing else. */
bool town_is_simulated(void);
/* What is to happen within ns in the simulation; elsewhere the machine may be busy. */
uint64_t town_within(uint64_t ns);
/* Lets time pass; where it is real, ten seconds at most. What it returns. */
int town_pass(struct town *t, uint64_t ns);
/* Opens a cluster with other modules. What it returns. */
int town_open_with(struct town *t, const char *spec, const chi_module *const *modules,
                   uint32_t count);
/* Opens a cluster with the module, without a pool. The empty text, or what went wrong. */
const char *town_open(struct town *t, const char *spec);
/* And creates the pool from node 0. */
const char *town_begin(struct town *t, const char *spec);
/* The same with a seed beside the keys of the spec. */
const char *town_seed(struct town *t, uint64_t seed, const char *keys);
/* Settles within a virtual minute, stops all nodes, looks for failures and closes. */
const char *town_end(struct town *t);
/* Closes without looking. */
void town_close(struct town *t);
/* One of the module's tasks for its pool. The query is mode, a, b. */
chi_task town_task(uint32_t mode, uint32_t a, uint32_t b);
/* Leaves a story that does something to nodes where that cannot be. */
void town_needs_faults(void);
/* What a world cannot do ends the story there, as skipped. Else it is what it was. */
int town_possible(int rc);
/* Starts a client on a node. */
int town_client(struct town *t, uint32_t node, chi_cluster_body *body, void *arg);
/* Calls a task of any pool from node `from`; its rc. */
int town_call(struct town *t, uint32_t from, const chi_type *type, void *task);
/* Where a query from that node goes: the node, or a code. */
int town_find(struct town *t, uint32_t from, uint32_t mode, uint32_t a);
/* A fault, which must be possible. */
void town_fault(struct town *t, int kind, uint32_t a, uint32_t b, int64_t value);
/* Whether the transcript has this text. */
bool town_tells(const struct town *t, const char *text);
/* How many seeds: `usual`, or STORY_SEEDS; where time is real, a few. */
uint64_t town_seeds(uint64_t usual);

/* At the beginning of a story that only the simulation can tell. */
#define TOWN_NEEDS_SIM(why)                                                                        \
  do {                                                                                             \
    if (!town_is_simulated()) {                                                                    \
      test_skip(why);                                                                              \
      return;                                                                                      \
    }                                                                                              \
  } while (0)
/* At the beginning of a story that needs other nodes. */
#define TOWN_NEEDS_NET                                                                             \
  do {                                                                                             \
    if (!CLUSTER_WIRED) {                                                                          \
      test_skip("tasks do not travel between nodes");                                              \
      return;                                                                                      \
    }                                                                                              \
  } while (0)

#endif
