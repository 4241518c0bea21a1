/* admin_monitor.c - the node's figures as one JSON object. Figures of other workers are read while
 * they run: each is exact for some recent moment, together they need not be of the same one. */
#include "admin.h"
#include "sync.h"
#include "syntax.h"
#include "text.h"

#include <stdio.h>

#define ADMIN_FIGURES_MAX 4096u          /* bytes of one module's text, with its NUL */
#define ADMIN_FIGURES_WAIT_NS 200000000u /* for all of them together */

/* ---- what modules say of themselves */

/* A container is asked by a task of its own, which nobody has to wait for: one that stays away too
 * long is left out, and not asked again before it has come back. Belongs to the network worker, but
 * for `found` and `text` while its task is under way. */
struct admin_figures {
  struct admin_figures *next; /* of those under way */
  struct admin_host *host;
  chi_pool_id pool;
  uint32_t users; /* who asked, and the task itself */
  bool ended;
  chi_event end;
  const char *found; /* NULL: the text is good; else why it isn't */
  char text[ADMIN_FIGURES_MAX];
};

CHI_TASK(admin_figures_task, 0, CHI_NO_FIELDS)

static const char *admin_figures_judge(char *text, int size)
{
  if (size == CHI_ETOOBIG || size >= (int)ADMIN_FIGURES_MAX)
    return "too big";
  if (size < 0)
    return "failed";
  text[size] = '\0';
  return strlen(text) == (size_t)size && syntax_is_object(text) ? NULL : "invalid";
}

static int admin_figures_body(chi_ctx *ctx, void *self, void *task)
{
  struct admin_figures *f = ctx->call_arg;
  const chi_module *def = ctx->container->pool->module->def;
  (void)task;
  f->found = admin_figures_judge(f->text, def->monitor(ctx, self, f->text, sizeof f->text));
  return CHI_OK;
}

static const chi_method admin_figures_method = {&admin_figures_task_type, admin_figures_body, 0, 0};

static void admin_figures_leave(struct admin_figures *f)
{
  CHI_ASSERT(f->users > 0);
  if (--f->users == 0)
    alloc_put(f->host->crew->alloc, f, sizeof *f);
}

/* Its pool may be gone by now. */
static void admin_figures_ended(chi_ctx *ctx)
{
  struct admin_figures *f = ctx->call_arg, **at = &f->host->asked;
  struct worker *network = &f->host->crew->worker[f->host->crew->count - 1];
  chi_ctx *woken = NULL;
  if (ctx->task->rc != CHI_OK)
    f->found = "failed";
  worker_record_free(network, ctx);
  while (*at != f)
    at = &(*at)->next;
  *at = f->next;
  f->ended = true;
  sync_event_set(&f->end, &woken);
  worker_wake_all(network, woken);
  admin_figures_leave(f);
}

/* The first container of the pool on this node, or NULL. */
static struct container *admin_figures_place(const struct pool *p)
{
  for (uint32_t i = 0; p->map && i < p->map->count; i++)
    if (p->map->at[i].here)
      return p->map->at[i].here;
  return NULL;
}

/* Asks a container, or joins whoever did and still waits. NULL: no memory. */
static struct admin_figures *admin_figures_start(struct admin_host *host, struct pool *p)
{
  struct admin_figures *f = host->asked;
  while (f && !pool_id_equal(f->pool, p->id))
    f = f->next;
  if (f)
    return f;
  f = alloc_zero(host->crew->alloc, sizeof *f);
  if (!f)
    return NULL;
  chi_ctx *ctx = admin_prepare(host, &host->figures);
  if (!ctx) {
    alloc_put(host->crew->alloc, f, sizeof *f);
    return NULL;
  }
  ctx->container = admin_figures_place(p);
  ctx->slow = true;
  ctx->depth = 1; /* as a subtask: somebody waits for it */
  f->host = host;
  f->pool = p->id;
  f->users = 1;
  f->next = host->asked;
  host->asked = f;
  admin_start(host, ctx, false, admin_figures_ended, f);
  return f;
}

/* Whether there is somebody to ask. */
static bool admin_figures_has(const struct pool *p)
{
  return p->state == POOL_READY && p->module->def->monitor && admin_figures_place(p);
}

/* Until all have answered, or the time is over, or the task that asks is cancelled. */
static void admin_figures_wait(chi_ctx *ctx, const struct admin_asked *a)
{
  uint64_t now = chi_now(ctx), until = now + ADMIN_FIGURES_WAIT_NS;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < a->count && rc == CHI_OK && now < until; i++) {
    if (!a->figures[i]->ended)
      rc = chi_event_wait(ctx, &a->figures[i]->end, until - now);
    now = chi_now(ctx);
  }
}

void admin_figures_open(struct admin_host *host)
{
  admin_method(&host->figures, &admin_figures_method);
}

void admin_figures_ask(chi_ctx *ctx, struct admin_host *host, struct admin_asked *a)
{
  *a = (struct admin_asked){0};
  for (const struct pool *p = host->directory->first; p; p = p->next)
    a->room += admin_figures_has(p);
  if (a->room == 0 || mark_get(&host->crew->draining))
    return;
  a->figures = alloc_get(host->crew->alloc, a->room * sizeof *a->figures);
  for (struct pool *p = host->directory->first; p && a->figures; p = p->next) {
    struct admin_figures *f = admin_figures_has(p) ? admin_figures_start(host, p) : NULL;
    if (!f)
      continue;
    f->users++;
    a->figures[a->count++] = f;
  }
  admin_figures_wait(ctx, a);
}

const char *admin_figures_of(struct admin_asked *a, const struct pool *p, const char **missing)
{
  *missing = admin_figures_has(p) ? "busy" : NULL;
  for (uint32_t i = a->at; i < a->count; i++) {
    const struct admin_figures *f = a->figures[i];
    if (!pool_id_equal(f->pool, p->id))
      continue;
    a->at = i + 1;
    if (!f->ended)
      return NULL;
    *missing = f->found;
    return f->found ? NULL : f->text;
  }
  return NULL;
}

void admin_figures_done(struct admin_host *host, struct admin_asked *a)
{
  for (uint32_t i = 0; i < a->count; i++)
    admin_figures_leave(a->figures[i]);
  if (a->figures)
    alloc_put(host->crew->alloc, a->figures, a->room * sizeof *a->figures);
}

/* ---- the whole */

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
  static const char *const kinds[] = {"fast", "slow", "brief", "network"};
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
static void admin_out_latency(const struct admin_out *o, const uint64_t *bucket)
{
  bool first = true;
  admin_out_open(o, "latency", "[", false);
  for (uint32_t b = 0; b < POOL_BUCKETS; b++) {
    char text[64];
    if (bucket[b] == 0)
      continue;
    snprintf(text, sizeof text, "%s[%llu,%llu]", first ? "" : ",",
             (unsigned long long)pool_bucket_end(b), (unsigned long long)bucket[b]);
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
  admin_out_number(o, "sampled", f.sampled, false);
  admin_out_number(o, "sampled_ns", f.sampled_ns, false);
  admin_out_latency(o, f.bucket);
  o->put(o->arg, "}");
}

/* What the module says of itself, or why there is nothing of it. */
static void admin_out_figures(const struct admin_out *o, const struct pool *p,
                              struct admin_asked *asked)
{
  const char *missing, *figures = admin_figures_of(asked, p, &missing);
  if (missing)
    admin_out_string(o, "no_figures", missing, false);
  if (!figures)
    return;
  admin_out_open(o, "figures", "", false);
  o->put(o->arg, figures);
}

static void admin_out_pool(const struct admin_out *o, const struct pool *p,
                           struct admin_asked *asked, bool first)
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
  o->put(o->arg, "]");
  admin_out_figures(o, p, asked);
  o->put(o->arg, "}");
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

static void admin_out_budget(const struct admin_out *o, const char *name, uint64_t budget,
                             uint64_t used, bool first)
{
  admin_out_open(o, name, "{", first);
  admin_out_number(o, "budget", budget, true);
  admin_out_number(o, "used", used, false);
  o->put(o->arg, "}");
}

static void admin_out_memory(const struct admin_out *o, const struct admin_host *host)
{
  const struct session_set *s = host->sessions;
  uint64_t fibers = 0;
  for (uint32_t i = 0; i < host->crew->count; i++)
    fibers += mark_get(&host->crew->worker[i].fibers);
  admin_out_open(o, "memory", "{", false);
  admin_out_budget(o, "main", s->budget[SHM_MAIN], s->used[SHM_MAIN], true);
  admin_out_budget(o, "client_data", s->budget[SHM_CLIENT_DATA], s->used[SHM_CLIENT_DATA], false);
  admin_out_budget(o, "runtime_data", host->crew->data_budget, mark_get(&host->crew->data_used),
                   false);
  admin_out_number(o, "stacks", fibers, false);
  admin_out_number(o, "stack_bytes", fibers * host->crew->stack_size, false);
  o->put(o->arg, "}");
}

/* Failures by code: those that a method made up are "own". */
static void admin_out_codes(const struct admin_out *o, const uint64_t *failed)
{
  bool first = true;
  admin_out_open(o, "codes", "{", false);
  for (uint32_t i = 0; i < WORKER_CODES; i++) {
    if (failed[i] == 0)
      continue;
    admin_out_number(o, i == 0 ? "own" : chi_status_name(-(int)i), failed[i], first);
    first = false;
  }
  o->put(o->arg, "}");
}

static void admin_out_totals(const struct admin_out *o, const struct admin_host *host)
{
  uint64_t accepted = 0, ended = 0, refused = 0, sum = 0, failed[WORKER_CODES] = {0};
  for (uint32_t i = 0; i < host->crew->count; i++) {
    const struct worker *w = &host->crew->worker[i];
    refused += tally_get(&w->refused);
    ended += tally_get(&w->ended);
    for (uint32_t c = 0; c < WORKER_CODES; c++)
      failed[c] += tally_get(&w->failed[c]);
  }
  for (uint32_t i = 0; i < host->crew->count; i++) /* later: what ended was accepted before */
    accepted += tally_get(&host->crew->worker[i].accepted);
  for (uint32_t c = 0; c < WORKER_CODES; c++)
    sum += failed[c];
  admin_out_open(o, "totals", "{", false);
  admin_out_number(o, "submitted", accepted + refused, true);
  admin_out_number(o, "completed", ended + refused, false);
  admin_out_number(o, "failed", sum > refused ? sum - refused : 0, false);
  admin_out_number(o, "refused", refused, false);
  admin_out_codes(o, failed);
  o->put(o->arg, "}");
}

static void admin_out_log(const struct admin_out *o, struct log_figures *f)
{
  static const char *const levels[] = {"debug", "info", "warning", "error"};
  admin_out_open(o, "log", "{", false);
  for (uint32_t i = 0; i < CHI_COUNT(f->lines); i++)
    admin_out_number(o, levels[i], tally_get(&f->lines[i]), i == 0);
  admin_out_number(o, "held_back", tally_get(&f->held), false);
  o->put(o->arg, "}");
}

/* ---- other nodes */

static void admin_out_node(const struct admin_out *o, const struct fleet *f, uint32_t node)
{
  static const char *const states[] = {"unknown", "alive", "suspected", "dead"};
  const struct peer *p = &f->peers.peer[node];
  struct net_peer_figures n;
  net_peer_figures(f->net, node, &n);
  admin_out_number(o, "id", node, true);
  admin_out_string(o, "state", states[member_state(f->member, node)], false);
  admin_out_number(o, "boot", member_boot(f->member, node), false);
  admin_out_number(o, "met", p->met, false);
  admin_out_number(o, "messages_out", p->sent, false);
  admin_out_number(o, "messages_in", p->received, false);
  admin_out_number(o, "bytes_out", p->bytes_sent, false);
  admin_out_number(o, "bytes_in", p->bytes_received, false);
  admin_out_number(o, "refused", peer_refusals(p), false);
  admin_out_number(o, "requests_waiting", n.waiting, false);
  admin_out_number(o, "requests_open", n.open, false);
  admin_out_number(o, "answers_kept", n.kept, false);
  admin_out_string(o, "host", f->options.config->hosts[node].name, false);
}

static void admin_out_net(const struct admin_out *o, const struct fleet *f)
{
  struct net_figures n;
  net_figures(f->net, &n);
  const struct member_figures *m = member_figures(f->member);
  admin_out_open(o, "net", "{", false);
  admin_out_number(o, "alive", member_alive_count(f->member), true);
  admin_out_number(o, "pool_entries", accord_count(f->accord), false);
  admin_out_number(o, "calls", n.calls, false);
  admin_out_number(o, "calls_open", n.calls_open, false);
  admin_out_number(o, "requests", n.requests, false);
  admin_out_number(o, "retries", n.retries, false);
  admin_out_number(o, "runs", n.runs, false);
  admin_out_number(o, "runs_open", n.runs_open, false);
  admin_out_number(o, "repeats", n.repeats, false);
  admin_out_number(o, "answers", n.answers, false);
  admin_out_number(o, "not_run", n.not_run, false);
  admin_out_number(o, "unreachable", n.unreachable, false);
  admin_out_number(o, "unknown", n.unknown, false);
  admin_out_number(o, "aborted", n.aborted, false);
  admin_out_number(o, "malformed", n.malformed, false);
  admin_out_number(o, "bytes_out", n.bytes_out, false);
  admin_out_number(o, "bytes_in", n.bytes_in, false);
  admin_out_number(o, "probes", m->probes, false);
  admin_out_number(o, "probes_failed", m->failed, false);
  admin_out_number(o, "suspected", m->suspected, false);
  admin_out_number(o, "died", m->died, false);
  admin_out_number(o, "refuted", m->refuted, false);
  admin_out_number(o, "late", m->late, false);
  admin_out_number(o, "dropped", f->peers.dropped, false);
  admin_out_number(o, "calls_ended", n.calls_ended, false);
  admin_out_number(o, "calls_ns", n.calls_ns, false);
  admin_out_latency(o, n.call_time);
  o->put(o->arg, "}");
}

static void admin_out_fleet(const struct admin_out *o, const struct fleet *f)
{
  if (!f->open)
    return;
  admin_out_open(o, "nodes", "[", false);
  for (uint32_t i = 0, count = 0; i < f->peers.count; i++) {
    if (i == f->peers.self)
      continue;
    o->put(o->arg, count++ ? ",{" : "{");
    admin_out_node(o, f, i);
    o->put(o->arg, "}");
  }
  o->put(o->arg, "]");
  admin_out_net(o, f);
}

void admin_monitor_print(const struct admin_host *host, struct admin_asked *asked, uint64_t now,
                         chi_put_fn *put, void *arg)
{
  const struct admin_out o = {put, arg};
  const struct worker_crew *crew = host->crew;
  put(arg, "{");
  admin_out_string(&o, "instance", host->instance, true);
  admin_out_string(&o, "version", CHI_VERSION, false);
  admin_out_number(&o, "node", crew->node, false);
  if (host->fleet->open) {
    admin_out_string(&o, "host", host->fleet->options.config->hosts[crew->node].name, false);
    admin_out_number(&o, "boot", host->fleet->peers.boot, false);
  }
  admin_out_string(&o, "state", host->state(host->arg), false);
  admin_out_number(&o, "uptime_ns", now - host->boot_time, false);
  admin_out_open(&o, "workers", "[", false);
  for (uint32_t i = 0; i < crew->count; i++)
    admin_out_worker(&o, &crew->worker[i], i == 0);
  put(arg, "]");
  admin_out_open(&o, "pools", "[", false);
  for (const struct pool *p = host->directory->first; p; p = p->next)
    admin_out_pool(&o, p, asked, p == host->directory->first);
  put(arg, "]");
  admin_out_open(&o, "clients", "[", false);
  bool first = true;
  for (const struct session *c = host->sessions->first; c; c = c->next) {
    admin_out_client(&o, c, first);
    first = false;
  }
  put(arg, "]");
  admin_out_fleet(&o, host->fleet);
  admin_out_memory(&o, host);
  admin_out_totals(&o, host);
  admin_out_log(&o, host->crew->log.figures);
  put(arg, "}");
}

#undef ADMIN_FIGURES_MAX
#undef ADMIN_FIGURES_WAIT_NS
