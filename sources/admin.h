/* admin.h - the admin module: pools, stop, flush, monitor. Runs on the network worker. */
#ifndef CHI_ADMIN_H
#define CHI_ADMIN_H

#include "base.h"
#include "directory.h"
#include "module.h"
#include "session.h"

/* What admin works on; belongs to the network worker. */
struct admin_host {
  struct worker_crew *crew;
  struct directory *directory;
  struct session_set *sessions;
  struct module_list *modules;
  const char *instance;
  uint64_t boot_time;
  uint64_t flushing; /* tasks that wait for the others to end */
  uint32_t waiting;  /* tasks of the admin pool that may wait for long */
  chi_event composed; /* set when the pools of the configuration are there, or have failed */
  struct pool *pool; /* admin's own */
  struct method create, destroy; /* run in a container for its pool */
  /* The node is to stop, and how it is: an enum runtime_state as text. */
  void (*stop)(void *arg, uint64_t grace_ns);
  const char *(*state)(void *arg);
  void *arg;
};

CHI_PRIVATE const chi_module *admin_module(void);
/* Creates pool 1.0 for a host that outlives it. Before the first step. */
CHI_PRIVATE int admin_open(struct admin_host *host, chi_error *err);

/* For compose: the body of get_or_create, for the running task of the admin pool. *id in: wanted,
 * out: given. */
CHI_PRIVATE int admin_create_pool(chi_ctx *ctx, struct admin_host *host, const char *mod_name,
                                  const char *pool_name, const char *params, chi_pool_id *id,
                                  bool *created, chi_error *err);
/* Destroys every pool but admin's own. */
CHI_PRIVATE void admin_destroy_all(chi_ctx *ctx, struct admin_host *host);

/* A method of the node's own, in no module's table: run gets what was passed to admin_start. */
CHI_PRIVATE void admin_method(struct method *method, const chi_method *def);
/* Starts a task of the admin pool on behalf of the node, one that can't be cancelled if `shielded`;
 * done(ctx) runs on the network worker when it has ended, and frees it by worker_record_free.
 * ctx->call_arg is arg. CHI_ENOMEM. */
CHI_PRIVATE int admin_start(struct admin_host *host, struct method *method, bool shielded,
                            void (*done)(chi_ctx *ctx), void *arg);

/* ---- figures (admin_monitor.c) */
CHI_PRIVATE void admin_monitor_print(const struct admin_host *host, uint64_t now, chi_put_fn *put,
                                     void *arg);

#endif
