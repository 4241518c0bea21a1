/* metrics.c - the figures of nodes as metrics for Prometheus: see docs/watching.md. */
#include "metrics.h"

#include <stdlib.h>

#include "exposition.h"
#include "latency.h"

#define METRICS_FIGURES 256u /* of one pool's module */
#define METRICS_LABELS 8

enum metrics_unit { METRICS_COUNT, METRICS_NS };

/* A metric that is one figure of something. */
struct metrics_field {
  struct exposition_metric metric;
  const char *field;
  int unit; /* enum metrics_unit */
};

#define METRICS_COUNTER(name, field, help) {{name, EXPOSITION_COUNTER, help}, field, METRICS_COUNT}
#define METRICS_SECONDS(name, field, help) {{name, EXPOSITION_COUNTER, help}, field, METRICS_NS}
#define METRICS_GAUGE(name, field, help) {{name, EXPOSITION_GAUGE, help}, field, METRICS_COUNT}

struct metrics {
  struct exposition e;
  const struct watch *watch;
};

/* The labels of one sample; the first is the node. */
struct metrics_labels {
  struct exposition_label at[METRICS_LABELS];
  int used;
  char node[16], other[24];
};

static void metrics_label(struct metrics_labels *l, const char *name, const char *value)
{
  CHI_ASSERT(l->used + 1 < METRICS_LABELS);
  l->at[l->used++] = (struct exposition_label){name, value};
}

static void metrics_label_node(struct metrics_labels *l, uint32_t node)
{
  *l = (struct metrics_labels){.used = 0};
  snprintf(l->node, sizeof(l->node), "%u", node);
  metrics_label(l, "node", l->node);
}

static void metrics_label_number(struct metrics_labels *l, const char *name, uint64_t value)
{
  snprintf(l->other, sizeof(l->other), "%llu", (unsigned long long)value);
  metrics_label(l, name, l->other);
}

/* The next node after `at` (NULL: the first) that answered. */
static const struct watch_node *metrics_next(const struct metrics *m, const struct watch_node *at)
{
  uint32_t i = at ? (uint32_t)(at - m->watch->node) + 1 : 0;
  while (i < m->watch->count && m->watch->node[i].answer != WATCH_FRESH)
    i++;
  return i < m->watch->count ? &m->watch->node[i] : NULL;
}
#define METRICS_EACH(m, node)                                                                      \
  for (const struct watch_node *node = metrics_next(m, NULL); node; node = metrics_next(m, node))

static void metrics_one(struct metrics *m, const struct metrics_labels *l,
                        const struct json *object, const struct metrics_field *f)
{
  const struct json *value = json_get(object, f->field);
  if (!value || value->kind != JSON_NUMBER || !value->exact)
    return;
  if (f->unit == METRICS_NS)
    exposition_seconds(&m->e, "", l->at, value->integer);
  else
    exposition_count(&m->e, "", l->at, value->integer);
}

/* ---- one of each node -------------------------------------------------------------------- */

static const struct metrics_field metrics_net[] = {
    METRICS_COUNTER("chimaera_remote_calls_total", "calls",
                    "Tasks of this node that were (also) for containers of other nodes."),
    METRICS_GAUGE("chimaera_remote_calls_open", "calls_open", "Of these, those under way."),
    METRICS_COUNTER("chimaera_remote_requests_total", "requests",
                    "Parts of such tasks that were sent to other nodes."),
    METRICS_COUNTER("chimaera_remote_retries_total", "retries",
                    "Requests that were sent again, or begun again under a new key."),
    METRICS_COUNTER("chimaera_remote_unreachable_total", "unreachable",
                    "Parts that ended with CHI_EUNREACHABLE: certainly not run."),
    METRICS_COUNTER("chimaera_remote_unknown_total", "unknown",
                    "Parts that ended with CHI_EUNKNOWN: they may have run."),
    METRICS_COUNTER("chimaera_remote_runs_total", "runs",
                    "Requests of other nodes that this node took in."),
    METRICS_GAUGE("chimaera_remote_runs_open", "runs_open", "Of these, those not forgotten yet."),
    METRICS_COUNTER("chimaera_remote_answers_total", "answers", "Answers to other nodes."),
    METRICS_COUNTER("chimaera_remote_repeats_total", "repeats",
                    "Requests that came again, and answers that were sent again."),
    METRICS_COUNTER("chimaera_remote_not_run_total", "not_run",
                    "Requests of other nodes that this node refused to run."),
    METRICS_COUNTER("chimaera_remote_aborted_total", "aborted",
                    "Runs that were cancelled since nobody waited for them any more."),
    METRICS_COUNTER("chimaera_remote_malformed_total", "malformed",
                    "Records of other nodes that made no sense."),
    METRICS_COUNTER("chimaera_remote_sent_bytes_total", "bytes_out",
                    "Bytes of requests and answers sent, bulk data included."),
    METRICS_COUNTER("chimaera_remote_received_bytes_total", "bytes_in",
                    "Bytes of requests and answers received, bulk data included."),
    METRICS_COUNTER("chimaera_messages_dropped_total", "dropped",
                    "Messages that were not sound, or of nobody in the host list."),
    METRICS_COUNTER("chimaera_probes_total", "probes", "Probes of other nodes."),
    METRICS_COUNTER("chimaera_probes_failed_total", "probes_failed",
                    "Probes that nobody answered, directly or by way of others."),
    METRICS_COUNTER("chimaera_suspicions_total", "suspected",
                    "Times that this node came to believe another one suspected."),
    METRICS_COUNTER("chimaera_deaths_total", "died",
                    "Times that this node came to believe another one dead."),
    METRICS_COUNTER("chimaera_refutations_total", "refuted",
                    "Times that this node heard that it is suspected or dead, and said no."),
    METRICS_COUNTER("chimaera_late_intervals_total", "late",
                    "Heartbeat intervals in which this node itself was stepped too late."),
    METRICS_GAUGE("chimaera_pool_entries", "pool_entries",
                  "Entries of the table of pools, tombstones included.")};

static const struct metrics_field metrics_totals[] = {
    METRICS_COUNTER("chimaera_tasks_submitted_total", "submitted", "Tasks handed in."),
    METRICS_COUNTER("chimaera_tasks_completed_total", "completed",
                    "Tasks that have ended, with whatever code."),
    METRICS_COUNTER("chimaera_tasks_failed_total", "failed",
                    "Tasks that have ended with another code than success, refused ones left out."),
    METRICS_COUNTER("chimaera_tasks_refused_total", "refused",
                    "Tasks that were refused before they could run.")};

static const struct metrics_field metrics_stacks[] = {
    METRICS_GAUGE("chimaera_stacks", "stacks", "Stacks of tasks, in use or kept."),
    METRICS_GAUGE("chimaera_stack_bytes", "stack_bytes", "Size of all stacks together.")};

/* Figures of a member of the answer; section NULL: of the answer itself. */
static void metrics_section(struct metrics *m, const char *section,
                            const struct metrics_field *fields, size_t count)
{
  struct metrics_labels l;
  for (size_t i = 0; i < count; i++) {
    exposition_begin(&m->e, &fields[i].metric);
    METRICS_EACH(m, node)
    {
      metrics_label_node(&l, node->node);
      metrics_one(m, &l, section ? json_get(node->now, section) : node->now, &fields[i]);
    }
  }
}

static void metrics_codes(struct metrics *m)
{
  static const struct exposition_metric metric = {
      "chimaera_task_failures_total", EXPOSITION_COUNTER,
      "Failed and refused tasks by code; own: a positive code of the method's own."};
  struct metrics_labels l;
  exposition_begin(&m->e, &metric);
  METRICS_EACH(m, node)
  {
    const struct json *codes = json_get(json_get(node->now, "totals"), "codes");
    for (const struct json *c = codes ? codes->child : NULL; c; c = c->next) {
      if (codes->kind != JSON_OBJECT || c->kind != JSON_NUMBER)
        break;
      metrics_label_node(&l, node->node);
      metrics_label(&l, "code", c->name);
      exposition_count(&m->e, "", l.at, c->integer);
    }
  }
}

static void metrics_log(struct metrics *m)
{
  static const struct exposition_metric lines = {"chimaera_log_lines_total", EXPOSITION_COUNTER,
                                                 "Lines of the log by level."};
  static const struct metrics_field held[] = {METRICS_COUNTER(
      "chimaera_log_lines_held_back_total", "held_back",
      "Lines that were left out since there were too many of their kind.")};
  static const char *const levels[] = {"debug", "info", "warning", "error"};
  struct metrics_labels l;
  exposition_begin(&m->e, &lines);
  METRICS_EACH(m, node)
  {
    const struct json *log = json_get(node->now, "log");
    for (size_t i = 0; log && i < CHI_COUNT(levels); i++) {
      metrics_label_node(&l, node->node);
      metrics_label(&l, "level", levels[i]);
      exposition_count(&m->e, "", l.at, json_integer(log, levels[i], 0));
    }
  }
  metrics_section(m, "log", held, 1);
}

static void metrics_memory(struct metrics *m)
{
  static const struct metrics_field fields[] = {
      METRICS_GAUGE("chimaera_memory_used_bytes", "used",
                    "Memory in use of a segment: main (tasks and lanes), client_data, "
                    "runtime_data."),
      METRICS_GAUGE("chimaera_memory_budget_bytes", "budget", "What may be used of it.")};
  static const char *const segments[] = {"main", "client_data", "runtime_data"};
  struct metrics_labels l;
  for (size_t i = 0; i < CHI_COUNT(fields); i++) {
    exposition_begin(&m->e, &fields[i].metric);
    METRICS_EACH(m, node)
    {
      for (size_t s = 0; s < CHI_COUNT(segments); s++) {
        metrics_label_node(&l, node->node);
        metrics_label(&l, "segment", segments[s]);
        metrics_one(m, &l, json_get(json_get(node->now, "memory"), segments[s]), &fields[i]);
      }
    }
  }
}

static void metrics_clients(struct metrics *m)
{
  static const struct exposition_metric metrics[] = {
      {"chimaera_clients", EXPOSITION_GAUGE, "Clients that are attached."},
      {"chimaera_client_queues", EXPOSITION_GAUGE, "Queues of all clients."},
      {"chimaera_client_tasks_in_flight", EXPOSITION_GAUGE,
       "Tasks that clients have handed in and not got back."}};
  static const char *const fields[] = {NULL, "queues", "in_flight"};
  struct metrics_labels l;
  for (size_t i = 0; i < CHI_COUNT(metrics); i++) {
    exposition_begin(&m->e, &metrics[i]);
    METRICS_EACH(m, node)
    {
      uint64_t sum = 0;
      for (const struct json *c = json_list(node->now, "clients"); c; c = c->next)
        sum += fields[i] ? json_integer(c, fields[i], 0) : 1;
      metrics_label_node(&l, node->node);
      exposition_count(&m->e, "", l.at, sum);
    }
  }
}

/* ---- one of each element of a list ------------------------------------------------------- */

static const struct metrics_field metrics_worker[] = {
    METRICS_COUNTER("chimaera_worker_tasks_total", "tasks", "Tasks that ended on this worker."),
    METRICS_SECONDS("chimaera_worker_busy_seconds_total", "busy_ns",
                    "Time that it spent working; 1 a second is all of a core."),
    METRICS_GAUGE("chimaera_worker_lanes", "lanes", "Lanes of clients that it serves."),
    METRICS_GAUGE("chimaera_worker_queued_tasks", "queued", "Tasks that wait to begin."),
    METRICS_GAUGE("chimaera_worker_blocked_tasks", "blocked", "Tasks that have begun and wait."),
    METRICS_GAUGE("chimaera_worker_stuck", "stuck", "1 if a method does not come back.")};

static void metrics_workers(struct metrics *m)
{
  struct metrics_labels l;
  for (size_t i = 0; i < CHI_COUNT(metrics_worker); i++) {
    exposition_begin(&m->e, &metrics_worker[i].metric);
    METRICS_EACH(m, node)
    {
      for (const struct json *w = json_list(node->now, "workers"); w; w = w->next) {
        metrics_label_node(&l, node->node);
        metrics_label_number(&l, "worker", json_integer(w, "id", 0));
        metrics_label(&l, "kind", json_string(w, "kind", ""));
        metrics_one(m, &l, w, &metrics_worker[i]);
      }
    }
  }
}

static const struct metrics_field metrics_peer[] = {
    METRICS_GAUGE("chimaera_peer_connected", "met",
                  "1 if this node has a connection with the peer, and both know of it."),
    METRICS_COUNTER("chimaera_peer_sent_messages_total", "messages_out", "Messages to the peer."),
    METRICS_COUNTER("chimaera_peer_received_messages_total", "messages_in",
                    "Messages from the peer."),
    METRICS_COUNTER("chimaera_peer_sent_bytes_total", "bytes_out",
                    "Bytes to the peer, bulk data included."),
    METRICS_COUNTER("chimaera_peer_received_bytes_total", "bytes_in",
                    "Bytes from the peer, bulk data included."),
    METRICS_COUNTER("chimaera_peer_refused_messages_total", "refused",
                    "Messages from the peer that were refused: another life, or settings."),
    METRICS_GAUGE("chimaera_peer_requests_waiting", "requests_waiting",
                  "Requests that wait to be sent to the peer."),
    METRICS_GAUGE("chimaera_peer_requests_open", "requests_open",
                  "Requests sent to the peer and not answered."),
    METRICS_GAUGE("chimaera_peer_answers_kept", "answers_kept",
                  "Answers that the peer has not acknowledged.")};

static void metrics_peers(struct metrics *m)
{
  struct metrics_labels l;
  for (size_t i = 0; i < CHI_COUNT(metrics_peer); i++) {
    exposition_begin(&m->e, &metrics_peer[i].metric);
    METRICS_EACH(m, node)
    {
      for (const struct json *p = json_list(node->now, "nodes"); p; p = p->next) {
        metrics_label_node(&l, node->node);
        metrics_label_number(&l, "peer", json_integer(p, "id", 0));
        metrics_one(m, &l, p, &metrics_peer[i]);
      }
    }
  }
}

/* What each node thinks of the others: of each, and how many. */
static void metrics_members(struct metrics *m)
{
  static const struct exposition_metric alive = {
      "chimaera_peer_alive", EXPOSITION_GAUGE,
      "1 if this node believes the peer to be alive; 0: suspected, dead or unknown."};
  static const struct exposition_metric members = {
      "chimaera_members", EXPOSITION_GAUGE,
      "Nodes of the cluster, this one included, by what this node believes of them."};
  static const char *const states[] = {"alive", "suspected", "dead", "unknown"};
  struct metrics_labels l;
  exposition_begin(&m->e, &alive);
  METRICS_EACH(m, node)
  {
    for (const struct json *p = json_list(node->now, "nodes"); p; p = p->next) {
      metrics_label_node(&l, node->node);
      metrics_label_number(&l, "peer", json_integer(p, "id", 0));
      exposition_count(&m->e, "", l.at, strcmp(json_string(p, "state", ""), "alive") == 0);
    }
  }
  exposition_begin(&m->e, &members);
  METRICS_EACH(m, node)
  {
    for (size_t s = 0; s < CHI_COUNT(states); s++) {
      uint64_t count = s == 0;
      for (const struct json *p = json_list(node->now, "nodes"); p; p = p->next)
        count += strcmp(json_string(p, "state", ""), states[s]) == 0;
      metrics_label_node(&l, node->node);
      metrics_label(&l, "state", states[s]);
      exposition_count(&m->e, "", l.at, count);
    }
  }
}

/* ---- times ------------------------------------------------------------------------------- */

/* Buckets of four times the one before: each is the end of one that the daemon counts. What the
 * daemon's last bucket has is in no finite one. */
static void metrics_histogram(struct metrics *m, struct metrics_labels *l,
                              const struct json *object, uint64_t count, uint64_t sum_ns)
{
  struct latency latency = {0};
  uint64_t total;
  latency_add(&latency, object, 1);
  total = (uint64_t)latency_total(&latency);
  for (uint64_t end = 128; end <= 128ull << 28; end <<= 2) {
    char le[32];
    snprintf(le, sizeof(le), "%.12g", (double)end / 1e9);
    metrics_label(l, "le", le);
    exposition_count(&m->e, "_bucket", l->at, (uint64_t)latency_below(&latency, (double)end));
    l->at[--l->used] = (struct exposition_label){NULL, NULL};
  }
  count = count > total ? count : total; /* they were read one after the other */
  metrics_label(l, "le", "+Inf");
  exposition_count(&m->e, "_bucket", l->at, count);
  l->at[--l->used] = (struct exposition_label){NULL, NULL};
  exposition_seconds(&m->e, "_sum", l->at, sum_ns);
  exposition_count(&m->e, "_count", l->at, count);
}

static void metrics_calls(struct metrics *m)
{
  static const struct exposition_metric metric = {
      "chimaera_remote_call_duration_seconds", EXPOSITION_HISTOGRAM,
      "How long this node's tasks for containers of other nodes took, all of them."};
  struct metrics_labels l;
  exposition_begin(&m->e, &metric);
  METRICS_EACH(m, node)
  {
    const struct json *net = json_get(node->now, "net");
    if (!net)
      continue;
    metrics_label_node(&l, node->node);
    metrics_histogram(m, &l, net, json_integer(net, "calls_ended", 0),
                      json_integer(net, "calls_ns", 0));
  }
}

/* ---- pools ------------------------------------------------------------------------------- */

static void metrics_label_pool(struct metrics_labels *l, const struct watch_node *node,
                               const struct json *pool)
{
  metrics_label_node(l, node->node);
  metrics_label(l, "pool", json_string(pool, "id", ""));
  metrics_label(l, "name", json_string(pool, "name", ""));
}

static void metrics_pool(struct metrics *m, const struct exposition_metric *metric, bool ready)
{
  struct metrics_labels l;
  exposition_begin(&m->e, metric);
  METRICS_EACH(m, node)
  {
    for (const struct json *p = json_list(node->now, "pools"); p; p = p->next) {
      metrics_label_pool(&l, node, p);
      metrics_label(&l, "module", json_string(p, "module", ""));
      exposition_count(&m->e, "", l.at,
                       ready ? strcmp(json_string(p, "state", ""), "ready") == 0
                             : json_integer(p, "tasks", 0));
    }
  }
}

static const struct metrics_field metrics_method[] = {
    METRICS_COUNTER("chimaera_method_calls_total", "count", "Runs of a method that have ended."),
    METRICS_COUNTER("chimaera_method_errors_total", "errors",
                    "Of these, those with another code than success."),
    {{"chimaera_method_duration_seconds", EXPOSITION_HISTOGRAM,
      "How long runs of a method took, waiting included: one in sixteen is timed, so that _count "
      "is a sixteenth of the calls."},
     NULL,
     0}};

static void metrics_methods(struct metrics *m, const struct metrics_field *f)
{
  struct metrics_labels l;
  exposition_begin(&m->e, &f->metric);
  METRICS_EACH(m, node)
  {
    for (const struct json *p = json_list(node->now, "pools"); p; p = p->next) {
      for (const struct json *t = json_list(p, "methods"); t; t = t->next) {
        if (json_integer(t, f->field ? "count" : "sampled", 0) == 0)
          continue; /* of the many methods there are, those that are used */
        metrics_label_pool(&l, node, p);
        metrics_label(&l, "method", json_string(t, "name", ""));
        if (f->field)
          metrics_one(m, &l, t, f);
        else
          metrics_histogram(m, &l, t, json_integer(t, "sampled", 0),
                            json_integer(t, "sampled_ns", 0));
      }
    }
  }
}

/* ---- what modules say -------------------------------------------------------------------- */

/* The figures of one pool that have been written: a name twice would spoil the whole page. */
struct metrics_told {
  char *name[METRICS_FIGURES];
  uint32_t count;
};

static bool metrics_tell(struct metrics_told *told, const char *name)
{
  for (uint32_t i = 0; i < told->count; i++) {
    if (strcmp(told->name[i], name) == 0)
      return false;
  }
  if (told->count == METRICS_FIGURES || !(told->name[told->count] = strdup(name)))
    return false;
  told->count++;
  return true;
}

/* Numbers and truth values of an object that a module wrote; names of inner ones follow a dot. */
static void metrics_figure(struct metrics *m, struct metrics_labels *l, struct metrics_told *told,
                           const char *path, const struct json *value)
{
  if (value->kind == JSON_OBJECT) {
    for (const struct json *e = value->child; e; e = e->next) {
      char name[160];
      snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", e->name);
      metrics_figure(m, l, told, name, e);
    }
    return;
  }
  if ((value->kind != JSON_NUMBER && value->kind != JSON_BOOL) || !metrics_tell(told, path))
    return;
  metrics_label(l, "figure", told->name[told->count - 1]);
  if (value->kind == JSON_BOOL || value->exact)
    exposition_count(&m->e, "", l->at, value->integer);
  else
    exposition_number(&m->e, "", l->at, value->number);
  l->at[--l->used] = (struct exposition_label){NULL, NULL};
}

static void metrics_figures(struct metrics *m)
{
  static const struct exposition_metric metric = {
      "chimaera_module_figure", EXPOSITION_UNTYPED,
      "What the module of a pool tells of itself; names of inner objects are joined by dots."};
  struct metrics_labels l;
  exposition_begin(&m->e, &metric);
  METRICS_EACH(m, node)
  {
    for (const struct json *p = json_list(node->now, "pools"); p; p = p->next) {
      const struct json *figures = json_get(p, "figures");
      struct metrics_told told = {.count = 0};
      if (!figures || figures->kind != JSON_OBJECT)
        continue;
      metrics_label_pool(&l, node, p);
      metrics_label(&l, "module", json_string(p, "module", ""));
      metrics_figure(m, &l, &told, "", figures);
      for (uint32_t i = 0; i < told.count; i++)
        free(told.name[i]);
    }
  }
}

/* ---- the nodes, and the exporter --------------------------------------------------------- */

static void metrics_up(struct metrics *m)
{
  static const struct exposition_metric up = {
      "chimaera_node_up", EXPOSITION_GAUGE,
      "1 if the node answered; 0: it is dead, or silent, as seen from the asked daemon."};
  struct metrics_labels l;
  exposition_begin(&m->e, &up);
  for (uint32_t i = 0; i < m->watch->count; i++) {
    metrics_label_node(&l, m->watch->node[i].node);
    exposition_count(&m->e, "", l.at, m->watch->node[i].answer == WATCH_FRESH);
  }
}

static void metrics_info(struct metrics *m)
{
  static const struct exposition_metric build = {"chimaera_build_info", EXPOSITION_GAUGE,
                                                 "1; the version that the node runs."};
  static const struct exposition_metric info = {
      "chimaera_node_info", EXPOSITION_GAUGE,
      "1; the node's name in the host list, its instance, and the number of its present life."};
  struct metrics_labels l;
  exposition_begin(&m->e, &build);
  METRICS_EACH(m, node)
  {
    metrics_label_node(&l, node->node);
    metrics_label(&l, "version", json_string(node->now, "version", ""));
    exposition_count(&m->e, "", l.at, 1);
  }
  exposition_begin(&m->e, &info);
  METRICS_EACH(m, node)
  {
    metrics_label_node(&l, node->node);
    metrics_label(&l, "host", json_string(node->now, "host", ""));
    metrics_label(&l, "daemon", json_string(node->now, "instance", ""));
    metrics_label_number(&l, "boot", json_integer(node->now, "boot", 0));
    exposition_count(&m->e, "", l.at, 1);
  }
}

static void metrics_state(struct metrics *m)
{
  static const struct metrics_field uptime[] = {
      {{"chimaera_uptime_seconds", EXPOSITION_GAUGE, "Time since the node started."},
       "uptime_ns",
       METRICS_NS}};
  static const struct exposition_metric metric = {
      "chimaera_node_state", EXPOSITION_GAUGE, "1 for the state that the node is in, else 0."};
  static const char *const states[] = {"starting",   "serving", "failed", "draining",
                                       "cancelling", "stopped", "stuck"};
  struct metrics_labels l;
  metrics_section(m, NULL, uptime, 1);
  exposition_begin(&m->e, &metric);
  METRICS_EACH(m, node)
  {
    for (size_t s = 0; s < CHI_COUNT(states); s++) {
      metrics_label_node(&l, node->node);
      metrics_label(&l, "state", states[s]);
      exposition_count(&m->e, "", l.at,
                       strcmp(json_string(node->now, "state", ""), states[s]) == 0);
    }
  }
}

static void metrics_exporter(struct metrics *m, const struct metrics_own *own)
{
  static const struct exposition_metric up = {
      "chimaera_up", EXPOSITION_GAUGE, "1 if the daemon that the exporter asks answered."};
  static const struct exposition_metric count = {
      "chimaera_exporter_collections_total", EXPOSITION_COUNTER, "Times that it was asked."};
  static const struct exposition_metric failures = {
      "chimaera_exporter_failures_total", EXPOSITION_COUNTER, "Times that it did not answer."};
  static const struct exposition_metric took = {"chimaera_exporter_collection_seconds",
                                                EXPOSITION_GAUGE, "How long asking took now."};
  static const struct exposition_metric build = {"chimaera_exporter_build_info", EXPOSITION_GAUGE,
                                                 "1; the version of the exporter."};
  const struct exposition_label version[] = {{"version", CHI_VERSION}, {NULL, NULL}};
  exposition_begin(&m->e, &up);
  exposition_count(&m->e, "", NULL, m->watch != NULL);
  exposition_begin(&m->e, &build);
  exposition_count(&m->e, "", version, 1);
  exposition_begin(&m->e, &count);
  exposition_count(&m->e, "", NULL, own->collections);
  exposition_begin(&m->e, &failures);
  exposition_count(&m->e, "", NULL, own->failures);
  exposition_begin(&m->e, &took);
  exposition_seconds(&m->e, "", NULL, own->took_ns);
}

static void metrics_pools(struct metrics *m)
{
  static const struct exposition_metric active = {
      "chimaera_pool_active_tasks", EXPOSITION_GAUGE, "Tasks of the pool under way on the node."};
  static const struct exposition_metric ready = {
      "chimaera_pool_ready", EXPOSITION_GAUGE, "1 if the pool is ready on the node."};
  metrics_pool(m, &ready, true);
  metrics_pool(m, &active, false);
  for (size_t i = 0; i < CHI_COUNT(metrics_method); i++)
    metrics_methods(m, &metrics_method[i]);
  metrics_figures(m);
}

void metrics_print(FILE *out, const struct watch *w, const struct metrics_own *own)
{
  struct metrics m = {.e = {.out = out}, .watch = w};
  metrics_exporter(&m, own);
  if (!w)
    return;
  metrics_up(&m);
  metrics_info(&m);
  metrics_state(&m);
  metrics_section(&m, "totals", metrics_totals, CHI_COUNT(metrics_totals));
  metrics_codes(&m);
  metrics_log(&m);
  metrics_workers(&m);
  metrics_memory(&m);
  metrics_section(&m, "memory", metrics_stacks, CHI_COUNT(metrics_stacks));
  metrics_clients(&m);
  metrics_pools(&m);
  metrics_section(&m, "net", metrics_net, CHI_COUNT(metrics_net));
  metrics_calls(&m);
  metrics_peers(&m);
  metrics_members(&m);
}
