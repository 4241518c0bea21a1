/* trace_model.c - what the events of a run add up to: messages, tasks, and what was wrong. */
#include "trace.h"

#include "error.h"
#include "hash.h"

#include <stdlib.h>

/* Where something is, by a key of two numbers; the newest first. Chains, never cleared. */
struct trace_index {
  struct trace_entry {
    uint64_t a, b;
    uint32_t value, next;
  } * entry;
  uint32_t *head, mask, count;
};

/* A model that is being made. */
struct trace_maker {
  struct trace_model *model;
  const struct trace_page *page;
  struct trace_index messages, tasks;
  struct trace_maker_node {
    uint32_t begun; /* its last task that began */
    bool known;     /* a record has told whether it is up */
  } * node;
  uint32_t band_room;
};

/* ---- index ----------------------------------------------------------------------------------- */

static bool trace_index_open(struct trace_index *x, uint32_t most)
{
  uint32_t heads = 16;
  while (heads < most)
    heads *= 2;
  x->entry = calloc(most ? most : 1, sizeof(*x->entry));
  x->head = malloc(heads * sizeof(*x->head));
  x->mask = heads - 1;
  if (!x->entry || !x->head)
    return false;
  memset(x->head, 0xff, heads * sizeof(*x->head));
  return true;
}

static uint32_t *trace_index_head(struct trace_index *x, uint64_t a, uint64_t b)
{
  return &x->head[hash_mix64(hash_mix64(a + 1) ^ b) & x->mask];
}

static uint32_t trace_index_find(struct trace_index *x, uint64_t a, uint64_t b)
{
  uint32_t at = *trace_index_head(x, a, b);
  while (at != TRACE_NONE && (x->entry[at].a != a || x->entry[at].b != b))
    at = x->entry[at].next;
  return at == TRACE_NONE ? TRACE_NONE : x->entry[at].value;
}

/* At most as often as said when it was opened. */
static void trace_index_add(struct trace_index *x, uint64_t a, uint64_t b, uint32_t value)
{
  uint32_t *head = trace_index_head(x, a, b);
  x->entry[x->count] = (struct trace_entry){a, b, value, *head};
  *head = x->count++;
}

static void trace_index_close(struct trace_index *x)
{
  free(x->entry);
  free(x->head);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void trace_on_message(struct trace_maker *m, uint32_t at, const struct sim_trace_event *e)
{
  struct trace_model *model = m->model;
  bool sent = e->kind == SIM_TRACE_NET_SEND, lost = e->kind == SIM_TRACE_NET_LOST;
  uint32_t old = sent ? TRACE_NONE : trace_index_find(&m->messages, e->b, 0);
  uint32_t other = (uint32_t)e->a;
  if (old != TRACE_NONE) {
    model->arrow[old].to = at;
    model->arrow[old].lost = lost;
    return;
  }
  model->arrow[model->arrows] = (struct trace_arrow){.from = sent ? at : TRACE_NONE,
                                                     .to = sent ? TRACE_NONE : at,
                                                     .sender = sent || lost ? e->node : other,
                                                     .receiver = sent || lost ? other : e->node,
                                                     .lost = lost};
  trace_index_add(&m->messages, e->b, 0, model->arrows++);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static void trace_task_turn(struct trace_model *model, uint32_t task, uint32_t at,
                            enum trace_phase_kind kind)
{
  struct trace_task *t = &model->task[task];
  uint32_t phase = model->phases++;
  model->phase[phase] = (struct trace_phase){at, TRACE_NONE, (uint8_t)kind};
  if (t->first == TRACE_NONE)
    t->first = phase;
  else
    model->phase[t->last].next = phase;
  t->last = phase;
}

/* The task of that id which hasn't ended, or a new one. */
static uint32_t trace_task_of(struct trace_maker *m, const struct sim_trace_event *e)
{
  struct trace_model *model = m->model;
  uint32_t task = trace_index_find(&m->tasks, e->node, e->b);
  if (task == TRACE_NONE || model->task[task].end != TRACE_NONE) {
    task = model->tasks++;
    model->task[task] = (struct trace_task){
        .id = e->b, .node = e->node, .first = TRACE_NONE, .last = TRACE_NONE, .end = TRACE_NONE};
    trace_index_add(&m->tasks, e->node, e->b, task);
  }
  model->task[task].worker = (uint32_t)e->a;
  model->workers = e->a >= model->workers && e->a < 1024 ? (uint32_t)e->a + 1 : model->workers;
  return task;
}

static void trace_on_task(struct trace_maker *m, uint32_t at, const struct sim_trace_event *e)
{
  struct trace_model *model = m->model;
  uint32_t task = trace_task_of(m, e);
  struct trace_task *t = &model->task[task];
  switch (e->kind) {
  case ENV_TRACE_DISPATCH:
    t->pool = (uint32_t)(e->c >> 16);
    t->method = (uint32_t)(e->c & 0xffff);
    trace_task_turn(model, task, at, TRACE_WAITS);
    break;
  case ENV_TRACE_BEGIN:
    m->node[e->node].begun = task;
    t->pool = (uint32_t)(e->c >> 16);
    t->method = (uint32_t)(e->c & 0xffff);
    trace_task_turn(model, task, at, TRACE_RUNS);
    break;
  case ENV_TRACE_RESUME:
    trace_task_turn(model, task, at, TRACE_RUNS);
    break;
  case ENV_TRACE_BLOCK:
    trace_task_turn(model, task, at, TRACE_BLOCKS);
    break;
  default:
    if (t->first == TRACE_NONE)
      trace_task_turn(model, task, at, TRACE_WAITS);
    t->end = at;
    t->rc = (int)(int64_t)e->c;
  }
}

/* Comes right after the body began. */
static void trace_on_key(struct trace_maker *m, uint32_t at, const struct sim_trace_event *e)
{
  uint32_t task = m->node[e->node].begun;
  if (task == TRACE_NONE)
    return;
  m->model->task[task].key_node = (uint32_t)(e->a >> 32);
  m->model->task[task].key_container = (uint32_t)(e->a & UINT32_MAX);
  m->model->task[task].key_seq = e->b;
  trace_task_turn(m->model, task, at, TRACE_RUNS);
}

/* ---- what was wrong -------------------------------------------------------------------------- */

static bool trace_band_add(struct trace_maker *m, enum trace_band_kind kind, uint32_t node,
                           uint32_t peer, uint32_t from)
{
  struct trace_model *model = m->model;
  if (model->bands == m->band_room) {
    uint32_t room = m->band_room ? m->band_room * 2 : 64;
    struct trace_band *band = realloc(model->band, room * sizeof(*band));
    if (!band)
      return false;
    model->band = band;
    m->band_room = room;
  }
  model->band[model->bands++] = (struct trace_band){(uint8_t)kind, node, peer, from, TRACE_NONE};
  return true;
}

static bool trace_band_is_open(const struct trace_band *b, uint32_t kinds, uint32_t node,
                               uint32_t peer)
{
  return b->to == TRACE_NONE && (kinds >> b->kind & 1) && (node == TRACE_NONE || b->node == node) &&
         (peer == TRACE_NONE || b->peer == peer);
}

/* Those of some kinds; of one node and one peer, unless they are TRACE_NONE. */
static void trace_bands_end(struct trace_maker *m, uint32_t kinds, uint32_t node, uint32_t peer,
                            uint32_t at)
{
  for (uint32_t i = 0; i < m->model->bands; i++)
    if (trace_band_is_open(&m->model->band[i], kinds, node, peer))
      m->model->band[i].to = at;
}

#define TRACE_BIT(kind) (1u << (kind))
#define TRACE_NETWORK                                                                              \
  (TRACE_BIT(TRACE_APART) | TRACE_BIT(TRACE_CUT) | TRACE_BIT(TRACE_LATE) | TRACE_BIT(TRACE_FULL))
#define TRACE_LIFE (TRACE_BIT(TRACE_DOWN) | TRACE_BIT(TRACE_STARTING) | TRACE_BIT(TRACE_PAUSED))

/* The nodes a to b, or those whose bits are set, are apart from the others. */
static bool trace_part(struct trace_maker *m, const struct sim_trace_event *e, uint32_t at)
{
  uint32_t first = (uint32_t)(e->c >> 32), last = (uint32_t)e->c;
  bool ok = true;
  trace_bands_end(m, TRACE_BIT(TRACE_APART), TRACE_NONE, TRACE_NONE, at);
  for (uint32_t i = 0; ok && i < m->model->nodes; i++) {
    bool in = e->b == SIM_PLAN_SPLIT ? i < 64 && (e->a >> i & 1) : i >= first && i <= last;
    ok = !in || trace_band_add(m, TRACE_APART, i, TRACE_NONE, at);
  }
  return ok;
}

/* What lasts while a value isn't the usual one. */
static bool trace_band_set(struct trace_maker *m, enum trace_band_kind kind, bool on, uint32_t node,
                           uint32_t peer, uint32_t at)
{
  trace_bands_end(m, TRACE_BIT(kind), node, peer, at);
  return !on || trace_band_add(m, kind, node, peer, at);
}

static bool trace_on_plan(struct trace_maker *m, uint32_t at, const struct sim_trace_event *e)
{
  uint32_t a = (uint32_t)(e->c >> 32), b = (uint32_t)e->c;
  switch (e->b) {
  case SIM_PLAN_CUT:
  case SIM_PLAN_JOIN:
    return trace_band_set(m, TRACE_CUT, e->b == SIM_PLAN_CUT, a, b, at);
  case SIM_PLAN_ISOLATE:
  case SIM_PLAN_REJOIN:
    return trace_band_set(m, TRACE_APART, e->b == SIM_PLAN_ISOLATE, a, TRACE_NONE, at);
  case SIM_PLAN_PARTITION:
  case SIM_PLAN_SPLIT:
    return trace_part(m, e, at);
  case SIM_PLAN_CLOG:
    return trace_band_set(m, TRACE_LATE, e->a != 0, a, b, at);
  case SIM_PLAN_SLOW:
    return trace_band_set(m, TRACE_LATE, e->a != 100, a, b, at);
  case SIM_PLAN_FULL:
    return trace_band_set(m, TRACE_FULL, e->a != 0, a, b, at);
  case SIM_PLAN_PAUSE:
  case SIM_PLAN_RESUME:
    return trace_band_set(m, TRACE_PAUSED, e->b == SIM_PLAN_PAUSE, a, TRACE_NONE, at);
  case SIM_PLAN_DRIFT:
    return trace_band_set(m, TRACE_DRIFT, e->a != 0, a, TRACE_NONE, at);
  case SIM_PLAN_MEMORY:
    return trace_band_set(m, TRACE_SCARCE, e->a != 0, TRACE_NONE, TRACE_NONE, at);
  case SIM_PLAN_HEAL:
    trace_bands_end(m, TRACE_NETWORK, TRACE_NONE, TRACE_NONE, at);
    return true;
  case SIM_PLAN_CALM:
    trace_bands_end(m, ~TRACE_BIT(TRACE_DOWN) & ~TRACE_BIT(TRACE_STARTING), TRACE_NONE, TRACE_NONE,
                    at);
    return true;
  default:
    return true;
  }
}

/* What it was doing ends with it. */
static bool trace_node_ends(struct trace_maker *m, uint32_t node, uint32_t at)
{
  struct trace_model *model = m->model;
  for (uint32_t i = 0; i < model->tasks; i++) {
    if (model->task[i].node != node || model->task[i].end != TRACE_NONE)
      continue;
    model->task[i].end = at;
    model->task[i].cut_off = true;
  }
  trace_bands_end(m, TRACE_LIFE, node, TRACE_NONE, at);
  return trace_band_add(m, TRACE_DOWN, node, TRACE_NONE, at);
}

static bool trace_on_node(struct trace_maker *m, uint32_t at, const struct sim_trace_event *e)
{
  bool known = m->node[e->node].known;
  m->node[e->node].known = true;
  if (e->a != SIM_TRACE_NODE_STARTS && e->a != SIM_TRACE_NODE_SERVES)
    return trace_node_ends(m, e->node, at);
  if (!known && e->a == SIM_TRACE_NODE_STARTS &&
      !trace_band_add(m, TRACE_DOWN, e->node, TRACE_NONE, TRACE_NONE))
    return false;
  trace_bands_end(m, TRACE_LIFE, e->node, TRACE_NONE, at);
  return e->a == SIM_TRACE_NODE_SERVES ||
         trace_band_add(m, TRACE_STARTING, e->node, TRACE_NONE, at);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static bool trace_take(struct trace_maker *m, uint32_t at)
{
  const struct sim_trace_event *e = &m->page->record[at].event;
  bool ours = e->node < m->model->nodes;
  switch (e->kind) {
  case SIM_TRACE_NET_SEND:
  case SIM_TRACE_NET_DELIVER:
  case SIM_TRACE_NET_LOST:
    if (ours && e->a < m->model->nodes)
      trace_on_message(m, at, e);
    return true;
  case ENV_TRACE_DISPATCH:
  case ENV_TRACE_BEGIN:
  case ENV_TRACE_BLOCK:
  case ENV_TRACE_RESUME:
  case ENV_TRACE_COMPLETE:
    if (ours)
      trace_on_task(m, at, e);
    return true;
  case ENV_TRACE_KEY:
    if (ours)
      trace_on_key(m, at, e);
    return true;
  case SIM_TRACE_NODE:
    return !ours || trace_on_node(m, at, e);
  case SIM_TRACE_PLAN:
    return trace_on_plan(m, at, e);
  default:
    return true;
  }
}

/* Whether the records are in order; counts nodes. */
static bool trace_survey(const struct trace_page *page, struct trace_model *model)
{
  model->nodes = page->nodes < SIM_PLAN_NODES ? page->nodes : SIM_PLAN_NODES;
  for (uint32_t i = 0; i < page->count; i++) {
    const struct trace_record *r = &page->record[i];
    uint32_t node = trace_node(&r->event);
    if (i > 0 && (r->number <= r[-1].number || r->event.time < r[-1].event.time))
      return false;
    if (node < SIM_PLAN_NODES && node >= model->nodes)
      model->nodes = node + 1;
  }
  return true;
}

static bool trace_make(struct trace_maker *m)
{
  struct trace_model *model = m->model;
  uint32_t most = m->page->count ? m->page->count : 1;
  model->arrow = calloc(most, sizeof(*model->arrow));
  model->task = calloc(most, sizeof(*model->task));
  model->phase = calloc(most, sizeof(*model->phase));
  m->node = calloc(model->nodes + 1, sizeof(*m->node));
  if (!model->arrow || !model->task || !model->phase || !m->node ||
      !trace_index_open(&m->messages, most) || !trace_index_open(&m->tasks, most))
    return false;
  for (uint32_t i = 0; i < model->nodes; i++)
    m->node[i].begun = TRACE_NONE;
  for (uint32_t i = 0; i < m->page->count; i++)
    if (!trace_take(m, i))
      return false;
  return true;
}

int trace_model_open(struct trace_model *model, const struct trace_page *page)
{
  struct trace_maker m = {.model = model, .page = page};
  *model = (struct trace_model){0};
  if (page->count > TRACE_MOST || !trace_survey(page, model))
    return CHI_EINVAL;
  bool made = trace_make(&m);
  trace_index_close(&m.messages);
  trace_index_close(&m.tasks);
  free(m.node);
  if (made)
    return CHI_OK;
  trace_model_close(model);
  return CHI_ENOMEM;
}

void trace_model_close(struct trace_model *model)
{
  free(model->arrow);
  free(model->task);
  free(model->phase);
  free(model->band);
  *model = (struct trace_model){0};
}

#undef TRACE_BIT
#undef TRACE_NETWORK
#undef TRACE_LIFE
