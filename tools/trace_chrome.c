/* trace_chrome.c - a simulated run as Chrome trace events, for Perfetto and chrome://tracing. */
#include "trace_chrome.h"

#include "error.h"

#include <inttypes.h>
#include <stdlib.h>

/* Threads of a process that are no workers. */
#define TRACE_CHROME_FAULTS 9000
#define TRACE_CHROME_EVENTS 9001
#define TRACE_CHROME_FRAME_NS 1000 /* how long a message takes to send or receive, to be seen */

struct trace_chrome {
  FILE *out;
  const struct trace_page *page;
  struct trace_model model;
  uint32_t cluster; /* the process of what is about no node */
  uint64_t end;     /* time of the last record */
  bool any;         /* something was written */
};

/* ---- one event of the format ----------------------------------------------------------------- */

/* Times are microseconds there. */
static void trace_chrome_time(FILE *out, const char *name, uint64_t ns)
{
  fprintf(out, ",\"%s\":%" PRIu64 ".%03" PRIu64, name, ns / 1000, ns % 1000);
}

/* {"ph":PHASE,"pid":..,"tid":..,"name":..  and leaves it open. */
static void trace_chrome_begin(struct trace_chrome *c, const char *phase, uint32_t process,
                               uint32_t thread, const char *name)
{
  fprintf(c->out,
          "%s{\"ph\":\"%s\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32 ",\"name\":", c->any ? ",\n" : "",
          phase, process, thread);
  trace_put_string(c->out, name);
  c->any = true;
}

static void trace_chrome_end(struct trace_chrome *c)
{
  fputc('}', c->out);
}

static void trace_chrome_name(struct trace_chrome *c, const char *what, uint32_t process,
                              uint32_t thread, const char *name)
{
  trace_chrome_begin(c, "M", process, thread, what);
  fputs(",\"args\":{\"name\":", c->out);
  trace_put_string(c->out, name);
  fputs("}", c->out);
  trace_chrome_end(c);
}

static uint64_t trace_chrome_at(const struct trace_chrome *c, uint32_t record, uint64_t otherwise)
{
  return record == TRACE_NONE ? otherwise : c->page->record[record].event.time;
}

/* A slice from one time to another. */
static void trace_chrome_slice(struct trace_chrome *c, uint32_t process, uint32_t thread,
                               const char *name, uint64_t from, uint64_t to)
{
  trace_chrome_begin(c, "X", process, thread, name);
  trace_chrome_time(c->out, "ts", from);
  trace_chrome_time(c->out, "dur", to - from);
}

/* ---- what there is --------------------------------------------------------------------------- */

static void trace_chrome_names(struct trace_chrome *c)
{
  char name[48];
  for (uint32_t node = 0; node < c->model.nodes; node++) {
    snprintf(name, sizeof(name), "node%" PRIu32, node);
    trace_chrome_name(c, "process_name", node, 0, name);
    for (uint32_t worker = 0; worker < c->model.workers; worker++) {
      snprintf(name, sizeof(name), "worker %" PRIu32, worker);
      trace_chrome_name(c, "thread_name", node, worker, name);
    }
    trace_chrome_name(c, "thread_name", node, TRACE_CHROME_FAULTS, "faults");
    trace_chrome_name(c, "thread_name", node, TRACE_CHROME_EVENTS, "messages and events");
  }
  trace_chrome_name(c, "process_name", c->cluster, 0, "cluster");
  trace_chrome_name(c, "thread_name", c->cluster, TRACE_CHROME_EVENTS, "all nodes");
}

static void trace_chrome_task_name(const struct trace_task *t, char *name, size_t size)
{
  if (t->key_seq)
    snprintf(name, size, "method %" PRIu32 " of node%" PRIu32 ".%" PRIu64, t->method, t->key_node,
             t->key_seq);
  else
    snprintf(name, size, "method %" PRIu32, t->method);
}

/* The times its body was on a worker; and the task as a whole beside them. */
static void trace_chrome_task(struct trace_chrome *c, uint32_t index)
{
  const struct trace_task *t = &c->model.task[index];
  uint64_t begun = trace_chrome_at(c, c->model.phase[t->first].record, 0);
  uint64_t end = trace_chrome_at(c, t->end, c->end);
  char name[96];
  trace_chrome_task_name(t, name, sizeof(name));
  for (uint32_t p = t->first; p != TRACE_NONE; p = c->model.phase[p].next) {
    const struct trace_phase *phase = &c->model.phase[p];
    uint64_t from = c->page->record[phase->record].event.time;
    uint64_t to = phase->next == TRACE_NONE
                      ? end
                      : c->page->record[c->model.phase[phase->next].record].event.time;
    bool goes_on = phase->next != TRACE_NONE && c->model.phase[phase->next].kind == TRACE_RUNS;
    if (phase->kind != TRACE_RUNS || goes_on)
      continue;
    trace_chrome_slice(c, t->node, t->worker, name, from, to);
    fprintf(c->out, ",\"cat\":\"task\",\"args\":{\"id\":\"%" PRIu64 ":%" PRIu64 "\"}", t->id >> 32,
            t->id & UINT32_MAX);
    trace_chrome_end(c);
  }
  for (int last = 0; last <= 1; last++) {
    trace_chrome_begin(c, last ? "e" : "b", t->node, t->worker, name);
    trace_chrome_time(c->out, "ts", last ? end : begun);
    fprintf(c->out, ",\"cat\":\"task\",\"id\":\"t%" PRIu32 "\"", index);
    if (last && t->end != TRACE_NONE)
      fprintf(c->out, ",\"args\":{\"result\":\"%s\"}",
              t->cut_off  ? "ended with the node"
              : t->rc > 0 ? "its own"
                          : chi_status_name(t->rc));
    trace_chrome_end(c);
  }
}

/* A flow needs a slice to begin and one to end at. */
static void trace_chrome_end_of_flow(struct trace_chrome *c, uint32_t index, bool last)
{
  const struct trace_arrow *a = &c->model.arrow[index];
  uint32_t record = last ? a->to : a->from, node = last && !a->lost ? a->receiver : a->sender;
  uint64_t time = c->page->record[record].event.time;
  trace_chrome_slice(c, node, TRACE_CHROME_EVENTS,
                     !last     ? "send"
                     : a->lost ? "lost"
                               : "receive",
                     time, time + TRACE_CHROME_FRAME_NS);
  fputs(",\"cat\":\"message\"", c->out);
  trace_chrome_end(c);
  if (a->from == TRACE_NONE || a->to == TRACE_NONE)
    return;
  trace_chrome_begin(c, last ? "f" : "s", node, TRACE_CHROME_EVENTS, "message");
  trace_chrome_time(c->out, "ts", time);
  fprintf(c->out, ",\"cat\":\"message\",\"id\":%" PRIu32 "%s", index, last ? ",\"bp\":\"e\"" : "");
  trace_chrome_end(c);
}

static void trace_chrome_arrow(struct trace_chrome *c, uint32_t index)
{
  if (c->model.arrow[index].from != TRACE_NONE)
    trace_chrome_end_of_flow(c, index, false);
  if (c->model.arrow[index].to != TRACE_NONE)
    trace_chrome_end_of_flow(c, index, true);
}

/* Bands may overlap, as slices of a thread may not, unless they are asynchronous. */
static void trace_chrome_band(struct trace_chrome *c, uint32_t index)
{
  const struct trace_band *b = &c->model.band[index];
  uint32_t process = b->node == TRACE_NONE ? c->cluster : b->node;
  uint64_t start = c->page->record[0].event.time;
  char name[64];
  snprintf(name, sizeof(name), b->peer == TRACE_NONE ? "%s" : "%s to node%" PRIu32,
           trace_band_name((enum trace_band_kind)b->kind), b->peer);
  for (int last = 0; last <= 1; last++) {
    trace_chrome_begin(c, last ? "e" : "b", process, TRACE_CHROME_FAULTS, name);
    trace_chrome_time(c->out, "ts",
                      last ? trace_chrome_at(c, b->to, c->end)
                           : trace_chrome_at(c, b->from, start));
    fprintf(c->out, ",\"cat\":\"fault\",\"id\":\"b%" PRIu32 "\"", index);
    trace_chrome_end(c);
  }
}

/* Everything that is no slice yet is an instant. */
static void trace_chrome_instant(struct trace_chrome *c, const struct trace_record *r)
{
  enum trace_group group = trace_group(&r->event);
  uint32_t node = trace_node(&r->event);
  char text[TRACE_TEXT];
  bool ours = node < c->model.nodes;
  if (group == TRACE_TASKS || (group == TRACE_MESSAGES && r->event.kind != SIM_TRACE_NET_REFUSED))
    return;
  trace_say(&r->event, text);
  trace_chrome_begin(c, "i", ours ? node : c->cluster,
                     group == TRACE_FAULTS && ours ? TRACE_CHROME_FAULTS : TRACE_CHROME_EVENTS,
                     text);
  trace_chrome_time(c->out, "ts", r->event.time);
  fprintf(c->out, ",\"s\":\"%s\",\"args\":{\"event\":%" PRIu64 "}",
          group == TRACE_FAULTS ? "p" : "t", r->number);
  trace_chrome_end(c);
}

/* Messages between nodes that are under way, and tasks of each node that are open. */
static void trace_chrome_counter(struct trace_chrome *c, uint32_t process, const char *name,
                                 uint64_t time, int64_t value)
{
  trace_chrome_begin(c, "C", process, 0, name);
  trace_chrome_time(c->out, "ts", time);
  fprintf(c->out, ",\"args\":{\"value\":%" PRId64 "}", value);
  trace_chrome_end(c);
}

/* How much more there is of something from each record on. */
static int trace_chrome_counters(struct trace_chrome *c)
{
  uint32_t count = c->page->count;
  int32_t *flight = calloc(count + 1, sizeof(*flight)), *open = calloc(count + 1, sizeof(*open));
  int64_t *tasks = calloc(c->model.nodes + 1, sizeof(*tasks)), flying = 0;
  bool ok = flight && open && tasks;
  for (uint32_t i = 0; ok && i < c->model.arrows; i++)
    if (c->model.arrow[i].from != TRACE_NONE && c->model.arrow[i].to != TRACE_NONE) {
      flight[c->model.arrow[i].from]++;
      flight[c->model.arrow[i].to]--;
    }
  for (uint32_t i = 0; ok && i < c->model.tasks; i++) {
    const struct trace_task *t = &c->model.task[i];
    open[c->model.phase[t->first].record]++;
    if (t->end != TRACE_NONE)
      open[t->end]--;
  }
  for (uint32_t i = 0; ok && i < count; i++) {
    const struct sim_trace_event *e = &c->page->record[i].event;
    if (flight[i])
      trace_chrome_counter(c, c->cluster, "messages under way", e->time, flying += flight[i]);
    if (open[i] && e->node < c->model.nodes)
      trace_chrome_counter(c, e->node, "tasks open", e->time, tasks[e->node] += open[i]);
  }
  free(flight);
  free(open);
  free(tasks);
  return ok ? CHI_OK : CHI_ENOMEM;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void trace_chrome_failure(struct trace_chrome *c)
{
  char text[400];
  snprintf(text, sizeof(text), "%s failed: %s", c->page->check, c->page->why ? c->page->why : "");
  trace_chrome_begin(c, "i", c->cluster, TRACE_CHROME_EVENTS, text);
  trace_chrome_time(c->out, "ts", c->page->failed_time);
  fprintf(c->out, ",\"s\":\"g\",\"args\":{\"event\":%" PRIu64 "}", c->page->failed_event);
  trace_chrome_end(c);
}

static int trace_chrome_all(struct trace_chrome *c)
{
  const struct trace_page *page = c->page;
  fputs("{\"displayTimeUnit\":\"ns\",\"otherData\":{\"title\":", c->out);
  trace_put_string(c->out, page->title ? page->title : "");
  fprintf(c->out, ",\"seed\":\"%" PRIu64 "\",\"hash\":\"%016" PRIx64 "\"},\n\"traceEvents\":[\n",
          page->seed, page->hash);
  trace_chrome_names(c);
  for (uint32_t i = 0; i < c->model.tasks; i++)
    trace_chrome_task(c, i);
  for (uint32_t i = 0; i < c->model.arrows; i++)
    trace_chrome_arrow(c, i);
  for (uint32_t i = 0; i < c->model.bands; i++)
    trace_chrome_band(c, i);
  for (uint32_t i = 0; i < page->count; i++)
    trace_chrome_instant(c, &page->record[i]);
  int rc = trace_chrome_counters(c);
  if (page->check)
    trace_chrome_failure(c);
  fputs("\n]}\n", c->out);
  return rc;
}

int trace_chrome_write(FILE *out, const struct trace_page *page)
{
  struct trace_chrome c = {.out = out, .page = page};
  int rc = trace_model_open(&c.model, page);
  if (rc != CHI_OK)
    return rc;
  c.cluster = c.model.nodes;
  c.end = page->count ? page->record[page->count - 1].event.time : 0;
  rc = trace_chrome_all(&c);
  trace_model_close(&c.model);
  if (rc == CHI_OK && (fflush(out) != 0 || ferror(out)))
    rc = CHI_EIO;
  return rc;
}

#undef TRACE_CHROME_FAULTS
#undef TRACE_CHROME_EVENTS
#undef TRACE_CHROME_FRAME_NS
