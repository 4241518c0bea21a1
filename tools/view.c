/* view.c - the figures of admin.monitor as tables for people. */
#include "view.h"

#include "cli.h"
#include "columns.h"
#include "latency.h"

/* Both answers, and the time between them in seconds: 0 if there is no earlier one. */
struct view {
  FILE *out;
  const struct json *now, *before;
  double seconds;
};

/* What is called for each element of a list, with the same element of the earlier answer. */
typedef void view_row_fn(const struct view *v, struct columns *c, const struct json *now,
                         const struct json *before);

/* Elements are known by their id, which is a text or a number. */
static bool view_same(const struct json *a, const struct json *b)
{
  return strcmp(json_string(a, "id", ""), json_string(b, "id", "")) == 0 &&
         json_integer(a, "id", 0) == json_integer(b, "id", 0);
}

static const struct json *view_match(const struct json *parent, const char *list,
                                     const struct json *element)
{
  for (const struct json *e = json_list(parent, list); e; e = e->next) {
    if (view_same(e, element))
      return e;
  }
  return NULL;
}

static uint64_t view_grown(const struct json *now, const struct json *before, const char *name)
{
  uint64_t a = json_integer(now, name, 0), b = json_integer(before, name, 0);
  return a > b ? a - b : 0;
}

/* A count since the start, or per second of the time between. */
static void view_cell_grown(const struct view *v, struct columns *c, uint64_t now, uint64_t before)
{
  char text[32];
  if (v->seconds > 0)
    columns_cell(c, "%s/s",
                 cli_count((double)(now > before ? now - before : 0) / v->seconds, text, 32));
  else
    columns_cell(c, "%llu", (unsigned long long)now);
}

static void view_cell_count(const struct view *v, struct columns *c, const struct json *now,
                            const struct json *before, const char *name)
{
  view_cell_grown(v, c, json_integer(now, name, 0), json_integer(before, name, 0));
}

static void view_cell_plain(struct columns *c, const struct json *now, const char *name)
{
  columns_cell(c, "%llu", (unsigned long long)json_integer(now, name, 0));
}

static void view_cell_bytes(struct columns *c, uint64_t bytes)
{
  char text[32];
  columns_cell(c, "%s", cli_bytes((double)bytes, text, sizeof(text)));
}

/* Bytes since the start, or per second. */
static void view_cell_traffic(const struct view *v, struct columns *c, const struct json *now,
                              const struct json *before, const char *name)
{
  double bytes = (double)view_grown(now, before, name);
  char text[32];
  if (v->seconds > 0)
    columns_cell(c, "%s/s", cli_bytes((double)(uint64_t)(bytes / v->seconds), text, sizeof(text)));
  else
    columns_cell(c, "%s", cli_bytes(bytes, text, sizeof(text)));
}

static void view_cell_time(struct columns *c, double ns)
{
  char text[32];
  columns_cell(c, "%s", ns > 0 ? cli_time(ns, text, sizeof(text)) : "-");
}

static void view_list(const struct view *v, const char *list, const char *title,
                      const char *columns, view_row_fn *row)
{
  struct columns *c;
  if (!json_list(v->now, list))
    return;
  fprintf(v->out, "\n%s\n", title);
  c = columns_new(columns);
  for (const struct json *e = json_list(v->now, list); e; e = e->next)
    row(v, c, e, view_match(v->before, list, e));
  columns_end(c, v->out, 2);
}

static void view_worker(const struct view *v, struct columns *c, const struct json *now,
                        const struct json *before)
{
  double busy = (double)view_grown(now, before, "busy_ns");
  view_cell_plain(c, now, "id");
  columns_cell(c, "%s", json_string(now, "kind", "?"));
  columns_cell(c, "%s", json_integer(now, "stuck", 0) ? "stuck" : "ok");
  view_cell_plain(c, now, "lanes");
  view_cell_plain(c, now, "queued");
  view_cell_plain(c, now, "blocked");
  view_cell_count(v, c, now, before, "tasks");
  if (v->seconds > 0)
    columns_cell(c, "%.1f %%", busy / v->seconds / 1e7);
  else
    view_cell_time(c, busy);
}

/* Calls of all methods. */
static uint64_t view_calls(const struct json *pool)
{
  uint64_t sum = 0;
  for (const struct json *m = json_list(pool, "methods"); m; m = m->next)
    sum += json_integer(m, "count", 0);
  return sum;
}

static void view_pool(const struct view *v, struct columns *c, const struct json *now,
                      const struct json *before)
{
  columns_cell(c, "%s", json_string(now, "id", "?"));
  columns_cell(c, "%s", json_string(now, "name", "?"));
  columns_cell(c, "%s", json_string(now, "module", "?"));
  columns_cell(c, "%s", json_string(now, "state", "?"));
  view_cell_plain(c, now, "tasks");
  view_cell_grown(v, c, view_calls(now), view_calls(before));
}

static void view_client(const struct view *v, struct columns *c, const struct json *now,
                        const struct json *before)
{
  (void)v, (void)before;
  view_cell_plain(c, now, "id");
  view_cell_plain(c, now, "uid");
  view_cell_plain(c, now, "pid");
  view_cell_plain(c, now, "queues");
  view_cell_plain(c, now, "in_flight");
  view_cell_bytes(c, json_integer(now, "main_bytes", 0));
  view_cell_bytes(c, json_integer(now, "data_bytes", 0));
}

/* A percentile of the time between two answers, or since the start. */
static double view_percentile(const struct json *now, const struct json *before, double share)
{
  struct latency l = {0};
  latency_add(&l, now, 1);
  latency_add(&l, before, -1);
  return latency_percentile(&l, share);
}

/* The mean of those that were timed between two answers, or since the start. */
static double view_mean(const struct json *now, const struct json *before)
{
  uint64_t timed = view_grown(now, before, "sampled");
  return timed > 0 ? (double)view_grown(now, before, "sampled_ns") / (double)timed : 0;
}

static void view_method(const struct view *v, struct columns *c, const struct json *now,
                        const struct json *before)
{
  columns_cell(c, "%s", json_string(now, "name", "?"));
  view_cell_count(v, c, now, before, "count");
  columns_cell(c, "%llu", (unsigned long long)view_grown(now, before, "errors"));
  view_cell_time(c, view_mean(now, before));
  view_cell_time(c, view_percentile(now, before, 0.5));
  view_cell_time(c, view_percentile(now, before, 0.99));
}

/* Methods that were called, of all pools: since the start, or in the time between. */
static void view_methods(const struct view *v)
{
  struct columns *c = columns_new(v->seconds > 0 ? "pool method >rate >errors >mean >p50 >p99"
                                                 : "pool method >count >errors >mean >p50 >p99");
  int rows = 0;
  for (const struct json *p = json_list(v->now, "pools"); p; p = p->next) {
    const struct json *p_before = view_match(v->before, "pools", p);
    for (const struct json *m = json_list(p, "methods"); m; m = m->next) {
      const struct json *m_before = view_match(p_before, "methods", m);
      if (!view_grown(m, m_before, "count"))
        continue;
      columns_cell(c, "%s", json_string(p, "id", "?"));
      view_method(v, c, m, m_before);
      rows++;
    }
  }
  fprintf(v->out, "\nmethods\n");
  if (!rows)
    fprintf(v->out, "  none was called\n");
  columns_end(c, rows ? v->out : NULL, 2);
}

/* A row for each value of an object that a module wrote; names of inner ones follow a dot. */
static void view_figure(struct columns *c, const char *pool, const char *path,
                        const struct json *value)
{
  static const char *const words[] = {[JSON_NULL] = "-", [JSON_ARRAY] = "[...]"};
  if (value->kind == JSON_OBJECT) {
    for (const struct json *m = value->child; m; m = m->next) {
      char name[160];
      snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", m->name);
      view_figure(c, pool, name, m);
    }
    return;
  }
  columns_cell(c, "%s", pool);
  columns_cell(c, "%s", path);
  if (value->kind == JSON_STRING)
    columns_cell(c, "%.60s", value->string);
  else if (value->kind == JSON_BOOL)
    columns_cell(c, "%s", value->integer ? "true" : "false");
  else if (value->kind != JSON_NUMBER)
    columns_cell(c, "%s", words[value->kind]);
  else if (value->exact)
    columns_cell(c, "%llu", (unsigned long long)value->integer);
  else
    columns_cell(c, "%.6g", value->number);
}

/* What the modules of pools say of themselves, or why nothing is known of that. */
static void view_figures(const struct view *v)
{
  struct columns *c = columns_new("pool figure >value");
  int rows = 0;
  for (const struct json *p = json_list(v->now, "pools"); p; p = p->next) {
    const struct json *figures = json_get(p, "figures"), *none = json_get(p, "no_figures");
    const char *id = json_string(p, "id", "?");
    if (figures && figures->kind == JSON_OBJECT)
      view_figure(c, id, "", figures);
    else if (none && none->kind == JSON_STRING)
      view_figure(c, id, "-", none);
    rows += figures || none;
  }
  if (rows)
    fprintf(v->out, "\nfigures of modules\n");
  columns_end(c, rows ? v->out : NULL, 2);
}

static void view_memory(const struct view *v)
{
  static const char *const segments[][2] = {
      {"main", "main"}, {"client_data", "client data"}, {"runtime_data", "runtime data"}};
  const struct json *memory = json_get(v->now, "memory");
  struct columns *c = columns_new("memory >used >budget");
  for (size_t i = 0; i < CHI_COUNT(segments); i++) {
    const struct json *s = json_get(memory, segments[i][0]);
    columns_cell(c, "%s", segments[i][1]);
    view_cell_bytes(c, json_integer(s, "used", 0));
    view_cell_bytes(c, json_integer(s, "budget", 0));
  }
  columns_cell(c, "%llu stacks", (unsigned long long)json_integer(memory, "stacks", 0));
  view_cell_bytes(c, json_integer(memory, "stack_bytes", 0));
  fputc('\n', v->out);
  columns_end(c, v->out, 0);
}

#define VIEW_NODES 32 /* most rows of them */

static void view_node(const struct view *v, struct columns *c, const struct json *now,
                      const struct json *before)
{
  view_cell_plain(c, now, "id");
  columns_cell(c, "%.40s", json_string(now, "host", "-"));
  columns_cell(c, "%s", json_string(now, "state", "?"));
  columns_cell(c, "%s", json_integer(now, "met", 0) ? "up" : "down");
  view_cell_count(v, c, now, before, "messages_out");
  view_cell_count(v, c, now, before, "messages_in");
  view_cell_traffic(v, c, now, before, "bytes_out");
  view_cell_traffic(v, c, now, before, "bytes_in");
  columns_cell(c, "%llu", (unsigned long long)(json_integer(now, "requests_waiting", 0) +
                                               json_integer(now, "requests_open", 0)));
}

/* The other nodes; of many, those that are not well. */
static void view_nodes(const struct view *v)
{
  const struct json *nodes = json_list(v->now, "nodes"), *net = json_get(v->now, "net");
  uint32_t count = 0, rows = 0;
  if (!nodes)
    return;
  for (const struct json *e = nodes; e; e = e->next)
    count++;
  fprintf(v->out, "\nnodes: %llu of %u alive, %llu calls under way\n",
          (unsigned long long)json_integer(net, "alive", 0), count + 1,
          (unsigned long long)json_integer(net, "calls_open", 0));
  struct columns *c =
      columns_new(">id host state link >sent >received >bytes_out >bytes_in >open");
  for (const struct json *e = nodes; e && rows < VIEW_NODES; e = e->next) {
    if (count > VIEW_NODES && strcmp(json_string(e, "state", ""), "alive") == 0)
      continue;
    view_node(v, c, e, view_match(v->before, "nodes", e));
    rows++;
  }
  columns_end(c, v->out, 2);
}

static void view_totals(const struct view *v)
{
  static const char *const names[] = {"submitted", "completed", "failed", "refused"};
  const struct json *now = json_get(v->now, "totals"), *before = json_get(v->before, "totals");
  struct columns *c = columns_new(">submitted >completed >failed >refused");
  for (size_t i = 0; i < CHI_COUNT(names); i++)
    view_cell_count(v, c, now, before, names[i]);
  fprintf(v->out, "\ntasks\n");
  columns_end(c, v->out, 2);
}

static void view_head(const struct view *v)
{
  char plain[CHI_NAME_MAX + 32], version[32], state[32];
  uint64_t up = json_integer(v->now, "uptime_ns", 0) / 1000000000;
  fprintf(v->out, "%s  version %s  node %llu  %s  up ",
          cli_plain(json_string(v->now, "instance", "?"), plain, sizeof(plain)),
          cli_plain(json_string(v->now, "version", "?"), version, sizeof(version)),
          (unsigned long long)json_integer(v->now, "node", 0),
          cli_plain(json_string(v->now, "state", "?"), state, sizeof(state)));
  if (up >= 86400)
    fprintf(v->out, "%llu d ", (unsigned long long)(up / 86400));
  fprintf(v->out, "%02llu:%02llu:%02llu\n", (unsigned long long)(up / 3600 % 24),
          (unsigned long long)(up / 60 % 60), (unsigned long long)(up % 60));
}

void view_print(FILE *out, const struct json *now, const struct json *before)
{
  struct view v = {out, now, before, 0};
  bool rates = before != NULL;
  v.seconds = rates ? (double)view_grown(now, before, "uptime_ns") / 1e9 : 0;
  view_head(&v);
  view_totals(&v);
  view_list(&v, "workers", "workers",
            rates ? ">id kind state >lanes >queued >blocked >tasks >busy"
                  : ">id kind state >lanes >queued >blocked >tasks >busy_for",
            view_worker);
  view_list(&v, "pools", "pools", "id name module state >active >calls", view_pool);
  view_methods(&v);
  view_nodes(&v);
  view_list(&v, "clients", "clients", ">id >uid >pid >queues >in_flight >main >data", view_client);
  view_memory(&v);
  view_figures(&v);
}
