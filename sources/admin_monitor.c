/* admin_monitor.c - the node's figures as one JSON object. Figures of other workers are read while
 * they run: each is exact for some recent moment, together they need not be of the same one. */
#include "admin.h"
#include "text.h"

#include <stdio.h>

struct admin_out {
  chi_put_fn *put;
  void *arg;
};

static void admin_out_number(const struct admin_out *o, const char *name, uint64_t value,
                             bool first)
{
  char text[96];
  snprintf(text, sizeof text, "%s\"%s\":%llu", first ? "" : ",", name, (unsigned long long)value);
  o->put(o->arg, text);
}

static void admin_out_string(const struct admin_out *o, const char *name, const char *value,
                             bool first)
{
  char text[64];
  snprintf(text, sizeof text, "%s\"%s\":", first ? "" : ",", name);
  o->put(o->arg, text);
  text_put_string(value, strlen(value) + 1, o->put, o->arg);
}

static void admin_out_open(const struct admin_out *o, const char *name, const char *bracket,
                           bool first)
{
  char text[64];
  snprintf(text, sizeof text, "%s\"%s\":%s", first ? "" : ",", name, bracket);
  o->put(o->arg, text);
}

static void admin_out_worker(const struct admin_out *o, const struct worker *w, bool first)
{
  static const char *const kinds[] = {"fast", "slow", "network"};
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", w->index, true);
  admin_out_string(o, "kind", kinds[w->kind], false);
  admin_out_number(o, "lanes", mark_get(&w->lane_count), false);
  admin_out_number(o, "queued", mark_get(&w->queue.count) + mark_get(&w->urgent.count), false);
  admin_out_number(o, "blocked", tally_get(&w->blocked_count), false);
  admin_out_number(o, "tasks", tally_get(&w->ended), false);
  admin_out_number(o, "busy_ns", tally_get(&w->busy_ns), false);
  admin_out_number(o, "stuck", w->stuck, false);
  o->put(o->arg, "}");
}

/* The histogram: [upper end in nanoseconds, count] for each bucket that has any. */
static void admin_out_latency(const struct admin_out *o, const struct pool_figures *f)
{
  bool first = true;
  admin_out_open(o, "latency", "[", false);
  for (uint32_t b = 0; b < POOL_BUCKETS; b++) {
    char text[64];
    if (f->bucket[b] == 0)
      continue;
    snprintf(text, sizeof text, "%s[%llu,%llu]", first ? "" : ",",
             (unsigned long long)pool_bucket_end(b), (unsigned long long)f->bucket[b]);
    o->put(o->arg, text);
    first = false;
  }
  o->put(o->arg, "]");
}

static void admin_out_method(const struct admin_out *o, const struct pool *p, uint32_t index,
                             bool first)
{
  struct pool_figures f;
  const chi_type *type = p->module->method[index].def->type;
  pool_figures_sum(p, index, &f);
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", type->id, true);
  admin_out_string(o, "name", type->name, false);
  admin_out_number(o, "count", f.count, false);
  admin_out_number(o, "errors", f.errors, false);
  admin_out_number(o, "mean_ns", f.sampled ? f.sampled_ns / f.sampled : 0, false);
  admin_out_number(o, "p50_ns", pool_percentile(&f, 50), false);
  admin_out_number(o, "p99_ns", pool_percentile(&f, 99), false);
  admin_out_latency(o, &f);
  o->put(o->arg, "}");
}

static void admin_out_pool(const struct admin_out *o, const struct pool *p, bool first)
{
  static const char *const states[] = {"creating", "ready", "destroyed", "failed"};
  char id[24];
  snprintf(id, sizeof id, "%u.%u", p->id.major, p->id.minor);
  o->put(o->arg, first ? "{" : ",{");
  admin_out_string(o, "id", id, true);
  admin_out_string(o, "name", p->name, false);
  admin_out_string(o, "module", p->module->def->name, false);
  admin_out_string(o, "state", states[p->state], false);
  admin_out_number(o, "tasks", pool_active(p), false);
  admin_out_open(o, "methods", "[", false);
  for (uint32_t i = 0; i < p->module->count; i++)
    admin_out_method(o, p, i, i == 0);
  o->put(o->arg, "]}");
}

static void admin_out_client(const struct admin_out *o, const struct session *c, bool first)
{
  o->put(o->arg, first ? "{" : ",{");
  admin_out_number(o, "id", c->id, true);
  admin_out_number(o, "uid", c->peer.uid, false);
  admin_out_number(o, "pid", c->peer.pid, false);
  admin_out_number(o, "queues", c->queue_count, false);
  admin_out_number(o, "in_flight", session_in_flight(c), false);
  admin_out_number(o, "main_bytes", c->used[SHM_MAIN], false);
  admin_out_number(o, "data_bytes", c->used[SHM_CLIENT_DATA], false);
  o->put(o->arg, "}");
}

static void admin_out_budget(const struct admin_out *o, const struct session_set *s,
                             const char *name, enum shm_kind kind, bool first)
{
  admin_out_open(o, name, "{", first);
  admin_out_number(o, "budget", s->budget[kind], true);
  admin_out_number(o, "used", s->used[kind], false);
  o->put(o->arg, "}");
}

static void admin_out_memory(const struct admin_out *o, const struct admin_host *host)
{
  uint64_t fibers = 0;
  for (uint32_t i = 0; i < host->crew->count; i++)
    fibers += mark_get(&host->crew->worker[i].fibers);
  admin_out_open(o, "memory", "{", false);
  admin_out_budget(o, host->sessions, "main", SHM_MAIN, true);
  admin_out_budget(o, host->sessions, "client_data", SHM_CLIENT_DATA, false);
  admin_out_budget(o, host->sessions, "runtime_data", SHM_RUNTIME_DATA, false);
  admin_out_number(o, "stacks", fibers, false);
  admin_out_number(o, "stack_bytes", fibers * host->crew->stack_size, false);
  o->put(o->arg, "}");
}

static void admin_out_totals(const struct admin_out *o, const struct admin_host *host)
{
  uint64_t accepted = 0, ended = 0, refused = 0, failed = 0;
  for (uint32_t i = 0; i < host->crew->count; i++) {
    accepted += tally_get(&host->crew->worker[i].accepted);
    ended += tally_get(&host->crew->worker[i].ended);
    refused += tally_get(&host->crew->worker[i].refused);
  }
  for (const struct pool *p = host->directory->first; p; p = p->next) {
    for (uint32_t i = 0; i < p->module->count; i++) {
      struct pool_figures f;
      pool_figures_sum(p, i, &f);
      failed += f.errors;
    }
  }
  admin_out_open(o, "totals", "{", false);
  admin_out_number(o, "submitted", accepted + refused, true);
  admin_out_number(o, "completed", ended + refused, false);
  admin_out_number(o, "failed", failed, false);
  admin_out_number(o, "refused", refused, false);
  o->put(o->arg, "}");
}

void admin_monitor_print(const struct admin_host *host, uint64_t now, chi_put_fn *put, void *arg)
{
  const struct admin_out o = {put, arg};
  const struct worker_crew *crew = host->crew;
  put(arg, "{");
  admin_out_string(&o, "instance", host->instance, true);
  admin_out_string(&o, "version", CHI_VERSION, false);
  admin_out_number(&o, "node", crew->node, false);
  admin_out_string(&o, "state", host->state(host->arg), false);
  admin_out_number(&o, "uptime_ns", now - host->boot_time, false);
  admin_out_open(&o, "workers", "[", false);
  for (uint32_t i = 0; i < crew->count; i++)
    admin_out_worker(&o, &crew->worker[i], i == 0);
  put(arg, "]");
  admin_out_open(&o, "pools", "[", false);
  for (const struct pool *p = host->directory->first; p; p = p->next)
    admin_out_pool(&o, p, p == host->directory->first);
  put(arg, "]");
  admin_out_open(&o, "clients", "[", false);
  bool first = true;
  for (const struct session *c = host->sessions->first; c; c = c->next) {
    admin_out_client(&o, c, first);
    first = false;
  }
  put(arg, "]");
  admin_out_memory(&o, host);
  admin_out_totals(&o, host);
  put(arg, "}");
}
