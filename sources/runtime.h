/* runtime.h - one node: open, step, drain, close. What an environment drives.
 *
 * Life: runtime_open, then every worker is stepped (by a thread each, or by one thread in turn)
 * until the state is RUNTIME_STOPPED, then nobody steps any more, then runtime_close. Upcalls and
 * runtime_stop belong to the thread of the network worker, between its steps. */
#ifndef CHI_RUNTIME_H
#define CHI_RUNTIME_H

#include "base.h"
#include "env.h"
#include "log.h"

struct runtime;

enum runtime_state {
  RUNTIME_STARTING,   /* pools of the configuration are being created */
  RUNTIME_SERVING,
  RUNTIME_FAILED,     /* a pool could not be created: runtime_failure tells; then stop it */
  RUNTIME_DRAINING,   /* no new tasks; those accepted go on */
  RUNTIME_CANCELLING, /* the grace period is over: what is left has been cancelled */
  RUNTIME_STOPPED,    /* nothing runs, all containers are destroyed */
  RUNTIME_STUCK       /* a method does not come back, or tasks outlived the second grace period */
};

struct runtime_options {
  const chi_config *config; /* its lists stay valid; thread counts must be resolved (not 0) */
  const char *instance;     /* "NAME:PORT", for logs and replies */
  uint32_t node;            /* own position in config->hosts */
  const chi_module *const *modules; /* linked in, beside admin and bdev */
  uint32_t module_count;
  struct log_figures *figures; /* where lines of the log are counted; NULL: here alone */
  /* Called on every change of state by the network worker; must not call back. May be NULL. */
  void (*on_state)(void *arg, enum runtime_state state);
  void *arg;
};

CHI_PRIVATE int runtime_open(struct env *env, const struct runtime_options *options,
                             struct runtime **out, chi_error *err);
/* Only in RUNTIME_STOPPED or before the first step: frees everything. */
CHI_PRIVATE void runtime_close(struct runtime *rt);

/* Workers are numbered: fast ones from 0, then slow ones, the brief one, and the network worker
 * last. The brief one is there if there are other nodes. It has the network worker's bell, and is
 * stepped by its thread, before that sleeps and whenever it has work: nobody else rings for what
 * the network worker gives it. Its bodies are to return at once. While one doesn't, for
 * RUNTIME_STUCK_NS, another thread steps the network worker, which first calls runtime_take_over;
 * the first one gets it back, between two steps, when its step of the brief one has ended. */
CHI_PRIVATE uint32_t runtime_worker_count(const struct runtime *rt);
CHI_PRIVATE uint32_t runtime_network_worker(const struct runtime *rt);
CHI_PRIVATE uint32_t runtime_brief_worker(const struct runtime *rt); /* UINT32_MAX: there is none */
#define RUNTIME_STUCK_NS 20000000u
/* Whether the brief worker is inside the same body as when *beat was last read here. Any thread. */
CHI_PRIVATE bool runtime_brief_stays(const struct runtime *rt, uint64_t *beat);
CHI_PRIVATE void runtime_take_over(struct runtime *rt, uint64_t now);
CHI_PRIVATE env_bell runtime_worker_bell(const struct runtime *rt, uint32_t worker);

/* Does up to `budget` pieces of work. Returns true if there may be more to do at once; *deadline
 * receives the time of the next timer (UINT64_MAX: none). Thread of that worker. */
CHI_PRIVATE bool runtime_step(struct runtime *rt, uint32_t worker, uint64_t now, uint32_t budget,
                              uint64_t *deadline);
/* Tasks that this worker has completed or refused. Any thread. */
CHI_PRIVATE uint64_t runtime_worker_done(const struct runtime *rt, uint32_t worker);
/* A cheap look at all sources of work, for a spin between steps. Thread of that worker. */
CHI_PRIVATE bool runtime_has_work(const struct runtime *rt, uint32_t worker);
/* For a simulation, between steps: whether there is work for which a sleeping worker is rung. */
CHI_PRIVATE CHI_UNUSED bool runtime_is_asked(const struct runtime *rt, uint32_t worker);
/* Before a worker parks: announces the sleep and looks once more. True: park until the bell, the
 * deadline of the last step or an I/O completion; false: step again. After either, call
 * runtime_awake before the next step. */
CHI_PRIVATE bool runtime_may_sleep(struct runtime *rt, uint32_t worker);
CHI_PRIVATE void runtime_awake(struct runtime *rt, uint32_t worker);

/* Begins to stop: drains for grace_ns, then cancels and waits as long again. While the node stops,
 * a further call changes nothing, but one that is stuck is given grace_ns more. */
CHI_PRIVATE void runtime_stop(struct runtime *rt, uint64_t grace_ns);
/* The grace period of the stop under way. Network worker. */
CHI_PRIVATE uint64_t runtime_grace(const struct runtime *rt);
CHI_PRIVATE enum runtime_state runtime_state(const struct runtime *rt);
CHI_PRIVATE const chi_error *runtime_failure(const struct runtime *rt);

/* Figures for those who watch several nodes. */
struct runtime_view {
  uint64_t pools;      /* digest of the table of pools that all nodes agree on; 0: alone */
  uint64_t tasks_open; /* accepted and not ended, but for periodic ones at rest */
  uint64_t credit;     /* held of peers' room, and of its own for them: see net_credit */
};
CHI_PRIVATE CHI_UNUSED void runtime_inspect(const struct runtime *rt, struct runtime_view *out);
/* A container that is here, of a ready pool that all nodes share. */
struct runtime_place {
  chi_pool_id pool;
  uint64_t generation; /* of that pool */
  uint32_t container;
};
/* Number `at` of them, from 0; false: there are fewer. */
CHI_PRIVATE CHI_UNUSED bool runtime_inspect_place(const struct runtime *rt, uint32_t at,
                                                  struct runtime_place *out);
/* The life of another node that this one takes for alive; 0: it doesn't. */
CHI_PRIVATE CHI_UNUSED uint64_t runtime_sees(const struct runtime *rt, uint32_t node);
/* For what this one takes it: enum member_state. */
CHI_PRIVATE CHI_UNUSED uint32_t runtime_judges(const struct runtime *rt, uint32_t node);

/* For the handler of a memory fault, on the thread that faulted: if address is in the guard page
 * of the task's stack that runs there, writes "method <name> of pool <id> overran its stack of N
 * bytes" to buf and returns it, else NULL. Safe in a signal handler. */
CHI_PRIVATE const char *runtime_fault(struct runtime *rt, const void *address, char *buf,
                                      size_t size);

CHI_PRIVATE void runtime_on_connect(struct runtime *rt, env_link link, const struct env_peer *peer);
CHI_PRIVATE void runtime_on_request(struct runtime *rt, env_link link, const void *message,
                                    size_t size);
CHI_PRIVATE void runtime_on_hangup(struct runtime *rt, env_link link);

/* A message of some node that says it is one of ours. The frames are valid during the call. */
CHI_PRIVATE CHI_UNUSED void runtime_on_message(struct runtime *rt, const struct env_frame *frame,
                                    uint32_t count);
/* There is a connection to that peer now, or there is none any more. */
CHI_PRIVATE CHI_UNUSED void runtime_on_peer(struct runtime *rt, uint32_t peer, bool connected);
/* The frames sent with this parcel are no longer read. */
CHI_PRIVATE CHI_UNUSED void runtime_on_sent(struct runtime *rt, void *parcel);

#endif
