/* view_cluster.c - the figures of all nodes of a cluster as tables for people. */
#include "view_cluster.h"

#include "cli.h"
#include "columns.h"
#include "latency.h"

#define VIEW_CLUSTER_MANY 24    /* nodes, beyond which those that are not well come first */
#define VIEW_CLUSTER_COMPLAINTS 8 /* lines of what nodes think of each other */
#define VIEW_CLUSTER_POOLS 256

/* What the rows have in common: where figures of two moments are compared, `seconds` is the time
 * between them, and 0 where counts since the start are meant. */
struct cluster_row {
  const struct json *now, *before;
  double seconds;
  bool known; /* there is something to show */
};

struct cluster_view {
  FILE *out;
  const struct watch *watch;
  bool rates;
  int level; /* of detail: 0 fits 80 columns, 1 fits VIEW_CLUSTER_MORE, 2 VIEW_CLUSTER_ALL */
};

static struct cluster_row cluster_row(const struct cluster_view *v, const struct watch_node *node)
{
  struct cluster_row r = {.now = node->now};
  r.known = node->now && node->answer == WATCH_FRESH && (!v->rates || node->before);
  if (r.known && v->rates) {
    r.before = node->before;
    r.seconds = ((double)json_integer(r.now, "uptime_ns", 0) -
                 (double)json_integer(r.before, "uptime_ns", 0)) /
                1e9;
    r.known = r.seconds > 0;
  }
  return r;
}

/* ---- sums over the lists of an answer ---------------------------------------------------- */

static double cluster_sum(const struct json *answer, const char *list, const char *name)
{
  double sum = 0;
  for (const struct json *e = json_list(answer, list); e; e = e->next)
    sum += (double)json_integer(e, name, 0);
  return sum;
}

static double cluster_total(const struct json *answer, const char *name)
{
  return (double)json_integer(json_get(answer, "totals"), name, 0);
}

static double cluster_memory(const struct json *answer)
{
  static const char *const segments[] = {"main", "client_data", "runtime_data"};
  const struct json *memory = json_get(answer, "memory");
  double sum = 0;
  for (size_t i = 0; i < CHI_COUNT(segments); i++)
    sum += (double)json_integer(json_get(memory, segments[i]), "used", 0);
  return sum;
}

/* All methods of a pool, or of all pools if id is NULL. */
static void cluster_latency(struct latency *l, const struct json *answer, const char *id, int times)
{
  for (const struct json *p = json_list(answer, "pools"); p; p = p->next) {
    if (id && strcmp(json_string(p, "id", ""), id) != 0)
      continue;
    for (const struct json *m = json_list(p, "methods"); m; m = m->next)
      latency_add(l, m, times);
  }
}

/* ---- cells ------------------------------------------------------------------------------- */

typedef const char *cluster_text(double n, char *buf, size_t size);

/* What has grown since the start, or by the second. */
static void cluster_cell_grown(struct columns *c, const struct cluster_row *r, double now,
                               double before, cluster_text *write)
{
  char text[32];
  double grown = now > before ? now - before : 0;
  if (r->known)
    columns_cell(c, "%s", write(r->seconds > 0 ? grown / r->seconds : grown, text, sizeof(text)));
  else
    columns_cell(c, "-");
}

static void cluster_cell_count(struct columns *c, const struct cluster_row *r, double now,
                               double before)
{
  cluster_cell_grown(c, r, now, before, cli_count);
}

static void cluster_cell_bytes(struct columns *c, const struct cluster_row *r, double now,
                               double before)
{
  cluster_cell_grown(c, r, now, before, cli_bytes);
}

static void cluster_cell_plain(struct columns *c, bool known, double value)
{
  if (known)
    columns_cell(c, "%.0f", value);
  else
    columns_cell(c, "-");
}

static void cluster_cell_time(struct columns *c, double ns)
{
  char text[32];
  columns_cell(c, "%s", ns > 0 ? cli_time(ns, text, sizeof(text)) : "-");
}

static void cluster_cell_up(struct columns *c, const struct json *answer)
{
  unsigned long long up = json_integer(answer, "uptime_ns", 0) / 1000000000;
  if (!answer)
    columns_cell(c, "-");
  else if (up >= 86400)
    columns_cell(c, "%llu d %02llu h", up / 86400, up / 3600 % 24);
  else
    columns_cell(c, "%02llu:%02llu:%02llu", up / 3600, up / 60 % 60, up % 60);
}

/* "EUNKNOWN" of CHI_EUNKNOWN. */
static const char *cluster_code(int code)
{
  const char *name = chi_status_name(code);
  return strncmp(name, "CHI_", 4) == 0 ? name + 4 : name;
}

/* How it is: as it says itself if it answers, else as the asked daemon sees it. */
static void cluster_cell_state(struct columns *c, const struct watch_node *node)
{
  char text[32];
  bool alive = strcmp(node->state, "alive") == 0;
  if (node->answer == WATCH_LATE)
    columns_cell(c, "silent %s", cli_time((double)(node->silent_ns / 100000000) * 1e8, text, 32));
  else if (!alive || node->answer == WATCH_NONE)
    columns_cell(c, "%s", node->state);
  else if (node->answer == WATCH_FAILED)
    columns_cell(c, "fails: %s", cluster_code(node->code));
  else
    columns_cell(c, "%s", json_string(node->now, "state", "?"));
}

/* The share of the time in which workers were inside methods; since the start, the time. */
static void cluster_cell_busy(struct columns *c, const struct cluster_row *r)
{
  double busy = cluster_sum(r->now, "workers", "busy_ns");
  double workers = json_count(r->now, "workers");
  if (r->known && r->seconds > 0) {
    busy -= cluster_sum(r->before, "workers", "busy_ns");
    columns_cell(c, "%.1f %%", busy > 0 ? busy / workers / r->seconds / 1e7 : 0);
  } else {
    cluster_cell_time(c, r->known ? busy : 0);
  }
}

/* ---- the nodes --------------------------------------------------------------------------- */

/* Titles by level; where "%" stands there is "/s" if figures are rates. */
static const char *const cluster_titles[] = {
    ">node host state >busy >tasks% >failed% >open >p99 >memory",
    ">node host state >up >busy >tasks% >failed% >open >p50 >p99 >memory >peers >sent% "
    ">received%",
    ">node host state >up >workers >busy >tasks% >failed% >open >clients >p50 >p99 >memory >peers "
    ">calls% >retries% >remote_p99 >sent% >received%"};

static struct columns *cluster_columns(const struct cluster_view *v, const char *titles)
{
  char text[300];
  size_t used = 0;
  for (; *titles && used + 2 < sizeof(text); titles++) {
    if (*titles != '%')
      text[used++] = *titles;
    else if (v->rates)
      used += (size_t)snprintf(text + used, sizeof(text) - used, "/s");
  }
  text[used] = '\0';
  return columns_new(text);
}

static void cluster_node_own(const struct cluster_view *v, struct columns *c,
                             const struct cluster_row *r)
{
  struct latency l = {0};
  double open = cluster_total(r->now, "submitted") - cluster_total(r->now, "completed");
  cluster_latency(&l, r->known ? r->now : NULL, NULL, 1);
  cluster_latency(&l, r->before, NULL, -1);
  cluster_cell_busy(c, r);
  cluster_cell_count(c, r, cluster_total(r->now, "completed"),
                     cluster_total(r->before, "completed"));
  cluster_cell_count(c, r, cluster_total(r->now, "failed"), cluster_total(r->before, "failed"));
  cluster_cell_plain(c, r->known, open > 0 ? open : 0);
  if (v->level > 1)
    cluster_cell_plain(c, r->known, json_count(r->now, "clients"));
  if (v->level > 0)
    cluster_cell_time(c, latency_percentile(&l, 0.5));
  cluster_cell_time(c, latency_percentile(&l, 0.99));
  if (r->known)
    cluster_cell_bytes(c, &(struct cluster_row){.known = true}, cluster_memory(r->now), 0);
  else
    columns_cell(c, "-");
}

/* Of its peers, those with which it has a connection. */
static void cluster_cell_peers(struct columns *c, const struct cluster_row *r)
{
  if (r->known)
    columns_cell(c, "%.0f/%u", cluster_sum(r->now, "nodes", "met"), json_count(r->now, "nodes"));
  else
    columns_cell(c, "-");
}

static void cluster_node_net(const struct cluster_view *v, struct columns *c,
                             const struct cluster_row *r)
{
  const struct json *now = json_get(r->now, "net"), *before = json_get(r->before, "net");
  struct latency l = {0};
  latency_add(&l, r->known ? now : NULL, 1);
  latency_add(&l, before, -1);
  if (v->level > 0)
    cluster_cell_peers(c, r);
  if (v->level > 1) {
    cluster_cell_count(c, r, (double)json_integer(now, "calls", 0),
                       (double)json_integer(before, "calls", 0));
    cluster_cell_count(c, r, (double)json_integer(now, "retries", 0),
                       (double)json_integer(before, "retries", 0));
    cluster_cell_time(c, latency_percentile(&l, 0.99));
  }
  if (v->level > 0)
    cluster_cell_bytes(c, r, cluster_sum(r->now, "nodes", "bytes_out"),
                       cluster_sum(r->before, "nodes", "bytes_out"));
  if (v->level > 0)
    cluster_cell_bytes(c, r, cluster_sum(r->now, "nodes", "bytes_in"),
                       cluster_sum(r->before, "nodes", "bytes_in"));
}

static void cluster_node(const struct cluster_view *v, struct columns *c,
                         const struct watch_node *node)
{
  struct cluster_row r = cluster_row(v, node);
  columns_cell(c, "%u", node->node);
  columns_cell(c, v->level > 1 ? "%.40s" : "%.15s", node->host[0] ? node->host : "-");
  cluster_cell_state(c, node);
  if (v->level > 0)
    cluster_cell_up(c, node->answer == WATCH_FRESH ? node->now : NULL);
  if (v->level > 1)
    cluster_cell_plain(c, node->answer == WATCH_FRESH, json_count(node->now, "workers"));
  cluster_node_own(v, c, &r);
  cluster_node_net(v, c, &r);
}

/* It answers, serves, and nobody doubts it. */
static bool cluster_is_well(const struct watch_node *node)
{
  return node->answer == WATCH_FRESH && strcmp(node->state, "alive") == 0 &&
         strcmp(json_string(node->now, "state", ""), "serving") == 0;
}

/* Of many nodes, those that are not well stand first: the others may not fit the screen. */
static void cluster_nodes(const struct cluster_view *v)
{
  const struct watch *w = v->watch;
  struct columns *c = cluster_columns(v, cluster_titles[v->level]);
  bool many = w->count > VIEW_CLUSTER_MANY;
  for (uint32_t i = 0; i < w->count; i++) {
    if (!many || !cluster_is_well(&w->node[i]))
      cluster_node(v, c, &w->node[i]);
  }
  for (uint32_t i = 0; many && i < w->count; i++) {
    if (cluster_is_well(&w->node[i]))
      cluster_node(v, c, &w->node[i]);
  }
  fprintf(v->out, "\nnodes\n");
  columns_end(c, v->out, 2);
}

/* ---- the pools --------------------------------------------------------------------------- */

/* One pool, over all nodes. */
struct cluster_pool {
  const struct json *one; /* as some node tells of it */
  double active, calls, errors, calls_rate, errors_rate;
  uint32_t nodes, ready;
  struct latency latency;
};

static double cluster_methods(const struct json *pool, const char *name)
{
  return cluster_sum(pool, "methods", name);
}

static const struct json *cluster_pool_of(const struct json *answer, const char *id)
{
  const struct json *p = json_list(answer, "pools");
  while (p && strcmp(json_string(p, "id", ""), id) != 0)
    p = p->next;
  return p;
}

static void cluster_pool_add(const struct cluster_view *v, struct cluster_pool *pool,
                             const char *id)
{
  for (uint32_t i = 0; i < v->watch->count; i++) {
    struct cluster_row r = cluster_row(v, &v->watch->node[i]);
    const struct json *now = r.known ? cluster_pool_of(r.now, id) : NULL;
    const struct json *before = cluster_pool_of(r.before, id);
    double calls = cluster_methods(now, "count") - cluster_methods(before, "count");
    double errors = cluster_methods(now, "errors") - cluster_methods(before, "errors");
    if (!now)
      continue;
    pool->nodes++;
    pool->ready += strcmp(json_string(now, "state", ""), "ready") == 0;
    pool->active += (double)json_integer(now, "tasks", 0);
    pool->calls += r.seconds > 0 ? calls / r.seconds : calls;
    pool->errors += r.seconds > 0 ? errors / r.seconds : errors;
    cluster_latency(&pool->latency, r.now, id, 1);
    cluster_latency(&pool->latency, r.before, id, -1);
  }
}

static void cluster_pool(const struct cluster_view *v, struct columns *c, const struct json *one)
{
  struct cluster_pool pool = {.one = one};
  struct cluster_row r = {.known = true, .seconds = v->rates ? 1 : 0};
  cluster_pool_add(v, &pool, json_string(one, "id", ""));
  r.known = pool.nodes > 0;
  columns_cell(c, "%s", json_string(one, "id", "?"));
  columns_cell(c, v->level > 0 ? "%.40s" : "%.20s", json_string(one, "name", "?"));
  columns_cell(c, "%.20s", json_string(one, "module", "?"));
  columns_cell(c, "%u/%u", pool.ready, pool.nodes);
  cluster_cell_plain(c, r.known, pool.active);
  cluster_cell_count(c, &r, pool.calls, 0);
  cluster_cell_count(c, &r, pool.errors, 0);
  cluster_cell_time(c, latency_percentile(&pool.latency, 0.5));
  cluster_cell_time(c, latency_percentile(&pool.latency, 0.99));
}

/* Whether a node before that one tells of the pool, too. */
static bool cluster_pool_is_told(const struct cluster_view *v, uint32_t node, const char *id)
{
  for (uint32_t i = 0; i < node; i++) {
    if (v->watch->node[i].answer == WATCH_FRESH && cluster_pool_of(v->watch->node[i].now, id))
      return true;
  }
  return false;
}

static void cluster_pools(const struct cluster_view *v)
{
  struct columns *c =
      cluster_columns(v, "id name module >ready >active >calls% >errors% >p50 >p99");
  uint32_t rows = 0, more = 0;
  for (uint32_t i = 0; i < v->watch->count; i++) {
    const struct watch_node *node = &v->watch->node[i];
    const struct json *p = node->answer == WATCH_FRESH ? json_list(node->now, "pools") : NULL;
    for (; p; p = p->next) {
      if (cluster_pool_is_told(v, i, json_string(p, "id", "")))
        continue;
      if (rows < VIEW_CLUSTER_POOLS)
        cluster_pool(v, c, p);
      more += rows++ >= VIEW_CLUSTER_POOLS;
    }
  }
  if (rows)
    fprintf(v->out, "\npools\n");
  columns_end(c, rows ? v->out : NULL, 2);
  if (more)
    fprintf(v->out, "  and %u more\n", more);
}

/* ---- what nodes think of each other ------------------------------------------------------ */

static void cluster_complaints(const struct cluster_view *v)
{
  uint32_t found = 0;
  for (uint32_t i = 0; i < v->watch->count; i++) {
    const struct watch_node *node = &v->watch->node[i];
    const struct json *e = node->answer == WATCH_FRESH ? json_list(node->now, "nodes") : NULL;
    for (; e; e = e->next) {
      const char *state = json_string(e, "state", "?");
      uint64_t id = json_integer(e, "id", 0);
      char plain[32];
      bool met = json_integer(e, "met", 0);
      if (strcmp(state, "alive") == 0 && met)
        continue;
      if (found++ == 0)
        fprintf(v->out, "\nseen by others\n");
      if (found <= VIEW_CLUSTER_COMPLAINTS)
        fprintf(v->out, "  node %llu is %s to node %u%s\n", (unsigned long long)id,
                cli_plain(state, plain, sizeof(plain)), node->node, met ? "" : ", not connected");
    }
  }
  if (found > VIEW_CLUSTER_COMPLAINTS)
    fprintf(v->out, "  and %u more\n", found - VIEW_CLUSTER_COMPLAINTS);
}

static void cluster_head(const struct cluster_view *v)
{
  const struct watch *w = v->watch;
  const struct watch_node *own = watch_own(w);
  uint32_t answers = 0, alive = 0, late = 0;
  char plain[CHI_NAME_MAX + 32], version[32];
  for (uint32_t i = 0; i < w->count; i++) {
    answers += w->node[i].answer == WATCH_FRESH;
    alive += strcmp(w->node[i].state, "alive") == 0;
    late += w->node[i].answer == WATCH_LATE;
  }
  fprintf(v->out, "%s  version %s  node %u of %u: %u alive, %u answer",
          cli_plain(json_string(own->now, "instance", "?"), plain, sizeof(plain)),
          cli_plain(json_string(own->now, "version", "?"), version, sizeof(version)), w->own,
          w->count, alive, answers);
  if (late)
    fprintf(v->out, ", %u silent", late);
  fputc('\n', v->out);
}

void view_cluster_print(FILE *out, const struct watch *w, bool rates, int width)
{
  struct cluster_view v = {out, w, rates, 0};
  v.level = (width >= VIEW_CLUSTER_MORE) + (width >= VIEW_CLUSTER_ALL);
  cluster_head(&v);
  cluster_nodes(&v);
  cluster_pools(&v);
  cluster_complaints(&v);
}
