/* admin.h - the admin module: pools, stop, flush, monitor. Runs on the network worker. */
#ifndef CHI_ADMIN_H
#define CHI_ADMIN_H

#include "base.h"
#include "accord.h"
#include "directory.h"
#include "fleet.h"
#include "module.h"
#include "session.h"

/* An entry of the pool table on its way to every node, in a task: whoever takes it follows it
 * before it answers. code is that of the first container that has something to tell; verdict the
 * worst, an enum admin_verdict. */
#define ADMIN_SETTLE(X, T)                                                                         \
  X(T, IN, str, mod_name, 256) X(T, IN, str, pool_name, 1024) X(T, IN, str, params, 2048, "\n")    \
  X(T, IN, pool, pool_id) X(T, IN, u32, containers) X(T, IN, u32, state) X(T, IN, u32, node)       \
  X(T, IN, u64, boot) X(T, IN, u64, counter) X(T, OUT, i32, code) X(T, OUT, u32, container)        \
  X(T, OUT, u32, verdict) X(T, OUT, str, error_message, 400)
CHI_TASK(admin_settle, 21, ADMIN_SETTLE)

/* A container on its way to where this is run, with its state. */
#define ADMIN_ADOPT(X, T)                                                                          \
  X(T, IN, pool, pool_id) X(T, IN, u32, container) X(T, IN, u64, epoch) X(T, IN, bulk, state)
CHI_TASK(admin_adopt, 23, ADMIN_ADOPT)

/* What a node that knows more than an entry says of it. */
enum admin_verdict {
  ADMIN_TAKEN,
  ADMIN_BEATEN,  /* id or name belong to another pool */
  ADMIN_OUTDATED /* the id has been given to later pools since */
};

/* What admin works on; belongs to the network worker. */
struct admin_host {
  struct worker_crew *crew;
  struct directory *directory;
  const struct fleet *fleet;
  struct accord *accord; /* the table of all nodes; NULL: this node is alone */
  struct session_set *sessions;
  struct module_list *modules;
  const char *instance;
  uint64_t boot_time;
  uint64_t flushing; /* tasks that wait for the others to end */
  uint64_t cancelled; /* others, that were left when the node had to stop */
  uint32_t waiting;  /* tasks of the admin pool that may wait for long */
  chi_event composed; /* set when the pools of the configuration are there, or have failed */
  struct pool *pool; /* admin's own */
  struct pool *leaving; /* pools that are being taken down */
  uint64_t follow_at;   /* when to look which entries of the table are to be followed */
  struct method create, destroy; /* run in a container for its pool */
  struct method follow, failure, recover, save, load;
  void (*changed)(void *arg); /* a pool of this node is ready now, or gone */
  struct method figures;
  struct admin_figures *asked; /* containers that have not told theirs yet */
  /* The node is to stop, and how it is: an enum runtime_state as text. */
  void (*stop)(void *arg, uint64_t grace_ns);
  const char *(*state)(void *arg);
  void *arg;
};

CHI_PRIVATE const chi_module *admin_module(void);
/* Creates pool 1.0 for a host that outlives it. Before the first step. */
CHI_PRIVATE int admin_open(struct admin_host *host, chi_error *err);

/* ---- pools (admin_pool.c) */

/* What somebody wants a pool to be: params are NAME=VALUE lines; pool_query "local": of this node
 * alone, else of all. */
struct admin_wanted {
  const char *mod_name, *pool_name, *params, *pool_query;
};
/* Gets or creates a pool, for the running task of the admin pool. *id in: wanted, out: given. */
CHI_PRIVATE int admin_create_pool(chi_ctx *ctx, struct admin_host *host,
                                  const struct admin_wanted *wanted, chi_pool_id *id,
                                  bool *created, chi_error *err);
/* Destroys a pool, on all nodes if it is of all. */
CHI_PRIVATE int admin_destroy_pool(chi_ctx *ctx, struct admin_host *host, chi_pool_id id,
                                   chi_error *err);
/* Destroys every pool but admin's own, here. */
CHI_PRIVATE void admin_destroy_all(chi_ctx *ctx, struct admin_host *host);
/* The body of admin_settle. */
CHI_PRIVATE int admin_settle_here(chi_ctx *ctx, struct admin_host *host, struct admin_settle *t);
/* The table of all nodes has another entry: it will be followed. */
CHI_PRIVATE void admin_on_entry(struct admin_host *host, const struct accord_entry *entry);
/* Another node is lost, or there again: modules that want to know are told. */
CHI_PRIVATE void admin_on_member(struct admin_host *host, uint32_t node, bool lost);
/* Does what was put off; returns when to call it again. */
CHI_PRIVATE uint64_t admin_tend(struct admin_host *host, uint64_t now);
/* Runs a method of the node's own in a container, to its end, whatever happens to the caller. */
CHI_PRIVATE int admin_run_in(chi_ctx *ctx, struct container *container, struct method *method);
/* The same with a subtask of the caller. */
CHI_PRIVATE int admin_run_sub(chi_ctx *ctx, struct container *container, struct method *method,
                              void *subtask);
/* Calls the module's destroy on a container that no task can reach. */
CHI_PRIVATE void admin_end_container(chi_ctx *ctx, struct admin_host *host, struct container *c);
/* Tells the workers of the pools as they are now, waiting for memory if need be. */
CHI_PRIVATE void admin_publish(chi_ctx *ctx, struct directory *directory);
CHI_PRIVATE void admin_pool_methods(struct admin_host *host);

/* ---- containers that move (admin_move.c) */
CHI_PRIVATE int admin_migrate_here(chi_ctx *ctx, struct admin_host *host,
                                   struct chi_admin_migrate *t, chi_error *err);
CHI_PRIVATE int admin_adopt_here(chi_ctx *ctx, struct admin_host *host, struct admin_adopt *t);
/* Makes the pool's map what the table of all nodes says. */
CHI_PRIVATE void admin_apply_moves(chi_ctx *ctx, struct admin_host *host, struct pool *pool);
/* The same for a pool that isn't in use yet, before its containers are created. CHI_ENOMEM. */
CHI_PRIVATE int admin_first_places(struct admin_host *host, struct pool *pool);
CHI_PRIVATE void admin_move_methods(struct admin_host *host);

/* A method of the node's own, in no module's table: run gets what was passed to admin_start. */
CHI_PRIVATE void admin_method(struct method *method, const chi_method *def);
/* A task of the admin pool on behalf of the node, zeroed; NULL: no memory. */
CHI_PRIVATE chi_ctx *admin_prepare(struct admin_host *host, struct method *method);
/* Starts it, one that can't be cancelled if `shielded`; done(ctx) runs on the network worker when
 * it has ended, and frees it by worker_record_free. ctx->call_arg is arg. */
CHI_PRIVATE void admin_start(struct admin_host *host, chi_ctx *ctx, bool shielded,
                             void (*done)(chi_ctx *ctx), void *arg);

/* ---- figures (admin_monitor.c) */

/* Figures that modules write of themselves, as one task has asked for them: in the order of the
 * directory. */
struct admin_asked {
  struct admin_figures **figures;
  uint32_t count, room, at;
};

CHI_PRIVATE void admin_figures_open(struct admin_host *host);
/* Asks the container of every pool that is ready and waits for all of them, a fifth of a second at
 * most. Blocks; *asked must be given back by admin_figures_done. */
CHI_PRIVATE void admin_figures_ask(chi_ctx *ctx, struct admin_host *host,
                                   struct admin_asked *asked);
/* The JSON object that a module wrote, until admin_figures_done; pools in the directory's order.
 * NULL: there is none, and *missing says why: "busy", "failed", "invalid" or "too big"; NULL where
 * the module has none. */
CHI_PRIVATE const char *admin_figures_of(struct admin_asked *asked, const struct pool *pool,
                                         const char **missing);
CHI_PRIVATE void admin_figures_done(struct admin_host *host, struct admin_asked *asked);

/* Writes everything as one JSON object. */
CHI_PRIVATE void admin_monitor_print(const struct admin_host *host, struct admin_asked *asked,
                                     uint64_t now, chi_put_fn *put, void *arg);

#endif
