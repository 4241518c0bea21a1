/* net_town.h - several nodes in one thread, as far as tasks between nodes need them: workers, one
 * pool, peers, net, and wires between them that can be cut. Time moves when nothing else does. */
#ifndef CHI_NET_TOWN_H
#define CHI_NET_TOWN_H

#include "directory.h"
#include "net.h"
#include "rng.h"

#define TOWN_NETWORK 3u /* the last worker of a node */
#define TOWN_NODES 12u
#define TOWN_RUNS 4096u
#define TOWN_MS 1000000ull
#define TOWN_S 1000000000ull

#define TOWN_ADD(X, T)                                                                             \
  X(T, IN, u64, a) X(T, OUT, u64, sum) X(T, OUT, u64, count) X(T, OUT, u64, order)                 \
  X(T, INOUT, u64, twice) X(T, OUT, str, word, 24)
CHI_TASK(town_add, 10, TOWN_ADD)
#define TOWN_BLOB(X, T) X(T, IN, bulk, from) X(T, OUT, bulk, to) X(T, INOUT, bulk, both)
CHI_TASK(town_blob, 11, TOWN_BLOB)
#define TOWN_WAIT(X, T) X(T, IN, u64, ns) X(T, OUT, u64, done)
CHI_TASK(town_wait, 12, TOWN_WAIT)
#define TOWN_FAIL(X, T) X(T, IN, u64, mask) X(T, OUT, u64, bits) X(T, OUT, str, text, 32)
CHI_TASK(town_fail, 13, TOWN_FAIL)
CHI_TASK(town_again, 14, TOWN_WAIT) /* as wait, but idempotent */
#define TOWN_HUGE(X, T) X(T, IN, str, text, 70000)
CHI_TASK(town_huge, 15, TOWN_HUGE)
#define TOWN_TICK(X, T) X(T, OUT, u64, ticks)
CHI_TASK(town_tick, 16, TOWN_TICK)

/* A body that has begun. */
struct town_body {
  uint32_t at, key_node, index, method;
  uint64_t key_boot, key_seq;
};

struct town_message;
struct town_wire {
  struct town_message *first, **last;
  uint32_t waiting;
  bool up, held; /* held: what is on the way stays there */
};

struct town_node {
  struct env env;
  struct town *town;
  uint32_t index;
  bool up, dead; /* dead: the others' membership says so */
  uint64_t wall, randoms;
  struct alloc alloc;
  int64_t blocks;
  int fail_at; /* counts allocations down; -1: never */
  size_t fail_above; /* larger ones fail; 0: none */
  struct peer_set peers;
  struct worker_crew crew;
  struct worker worker[TOWN_NETWORK + 1]; /* fast, slow, brief, network */
  struct bell_word word[TOWN_NETWORK + 1];
  struct directory directory;
  struct module_list modules;
  struct pool *pool;
  struct net *net;
  chi_config config;
  uint64_t trace[16]; /* of enum net_trace */
};

struct town {
  uint32_t count, neighborhood;
  uint64_t now, task_timeout, wait_for_restart;
  struct town_node node[TOWN_NODES];
  struct town_wire wire[TOWN_NODES][TOWN_NODES];
  struct town_body body[TOWN_RUNS];
  uint32_t bodies;
  uint64_t pinned; /* messages whose parcel has not been handed back */
  bool plain;      /* the module aggregates nothing: set before town_open, which keeps it */
};

/* One task that some node was given. */
struct town_task {
  chi_ctx *ctx;
  chi_task *task; /* its fields; after its end a copy of them */
  uint32_t ends;  /* how often it has ended */
  int rc;
  struct town_node *node;
  uint32_t size;
};

void town_open(struct town *t, uint32_t count, uint32_t neighborhood);
void town_close(struct town *t);
void town_start(struct town *t, uint32_t node);
void town_crash(struct town *t, uint32_t node);
/* Without its pool yet. */
void town_start_bare(struct town *t, uint32_t node);
void town_add_pool(struct town *t, uint32_t node, enum pool_state state);
void town_wire_set(struct town *t, uint32_t from, uint32_t to, bool up);
void town_connect(struct town *t, uint32_t node);
/* What `node` thinks: the container is on node `to`. */
void town_move(struct town *t, uint32_t node, uint32_t container, uint32_t to);
/* Loses what is on the way without telling anybody. */
void town_lose(struct town *t, uint32_t from, uint32_t to);
/* Loses what is on the way between two nodes, in both directions. */
void town_bounce(struct town *t, uint32_t a, uint32_t b);

/* A task of a declared type, to be filled and submitted. */
void town_new(struct town *t, struct town_task *task, uint32_t node, const chi_type *type);
void town_submit(struct town *t, struct town_task *task, uint32_t first, uint32_t count);
/* Both, of a type that waits for so long. */
void town_submit_wait(struct town *t, struct town_task *task, uint32_t node, const chi_type *type,
                      uint64_t ns, uint32_t first, uint32_t count);
void town_free(struct town_task *task);
void town_cancel(struct town *t, struct town_task *task);

/* Until the task has ended or that much time has passed; true: it has. */
bool town_until(struct town *t, const struct town_task *task, uint64_t ns);
void town_pass(struct town *t, uint64_t ns);
/* Lets happen what happens without time passing. */
void town_settle(struct town *t);
/* What was posted arrives; no worker does anything. */
void town_step_messages(struct town *t);
/* Bodies begun of a method in a container; and how many keys have been run more than once. */
uint32_t town_bodies(const struct town *t, uint32_t method, uint32_t container);
uint32_t town_doubles(const struct town *t);
/* Nothing of all this is left anywhere, and nobody sent nonsense. */
bool town_idle(const struct town *t);

/* Ends a test whose town is `town`: nothing ran twice, nothing is left, all memory came back. */
#define TOWN_END()                                                                                 \
  do {                                                                                             \
    CHECK_INT(town_doubles(&town), 0);                                                             \
    town_pass(&town, 2 * NET_ACK_NS);                                                              \
    CHECK(town_idle(&town));                                                                       \
    town_close(&town);                                                                             \
    for (uint32_t i_ = 0; i_ < town.count; i_++)                                                   \
      CHECK_INT(town.node[i_].blocks, 0);                                                          \
  } while (0)

#endif
