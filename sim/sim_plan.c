/* sim_plan.c - what goes wrong with nodes and their network, and when, as data. */
#include "sim_plan.h"

#include "error.h"
#include "rng.h"

#include <stdio.h>
#include <stdlib.h>

#define SIM_PLAN_LINE 96
#define SIM_PLAN_SECOND UINT64_C(1000000000)
#define SIM_PLAN_MS INT64_C(1000000)

static const struct {
  const char *name;
  bool a, b;
  int64_t low, high;
} sim_plan_forms[] = {
#define SIM_PLAN_FORM(name, text, a, b, low, high) {text, a, b, low, high},
    SIM_PLAN_KINDS(SIM_PLAN_FORM)
#undef SIM_PLAN_FORM
};

static bool sim_plan_has_value(enum sim_plan_kind kind)
{
  return sim_plan_forms[kind].low < sim_plan_forms[kind].high;
}

/* Whether b of that kind is an operation on files. */
static bool sim_plan_is_disk(enum sim_plan_kind kind)
{
  return kind == SIM_PLAN_DISK || kind == SIM_PLAN_DELAY;
}

/* What is wrong with it; NULL: nothing. */
static const char *sim_plan_problem(const struct sim_plan_entry *entry)
{
  if ((unsigned)entry->kind >= SIM_PLAN_KIND_COUNT)
    return "no such kind of fault";
  if (entry->a >= SIM_PLAN_NODES)
    return "no node has such a number";
  if (sim_plan_is_disk(entry->kind)) {
    if (entry->b > ENV_IO_SPACE && entry->b != SIM_PLAN_ANY)
      return "no such operation on files";
  } else if (entry->b >= SIM_PLAN_NODES) {
    return "no node has such a number";
  }
  if (sim_plan_forms[entry->kind].a && sim_plan_forms[entry->kind].b &&
      entry->kind != SIM_PLAN_PARTITION && !sim_plan_is_disk(entry->kind) && entry->a == entry->b)
    return "there is no way from a node to itself";
  if (entry->value < sim_plan_forms[entry->kind].low ||
      entry->value > sim_plan_forms[entry->kind].high)
    return "the value is out of range";
  return NULL;
}

CHI_PRIVATE bool sim_plan_valid(const struct sim_plan_entry *entry)
{
  return !sim_plan_problem(entry);
}

/* ---- the list ----------------------------------------------------------------------------- */

static int sim_plan_reserve(struct sim_plan *plan, uint32_t count)
{
  struct sim_plan_entry *entry;
  uint32_t room = plan->room ? plan->room * 2 : 16;
  if (count <= plan->room)
    return CHI_OK;
  if (count > SIM_PLAN_ENTRIES)
    return CHI_ETOOBIG;
  room = room < count ? count : room;
  entry = realloc(plan->entry, room * sizeof(*entry));
  if (!entry)
    return CHI_ENOMEM;
  plan->entry = entry;
  plan->room = room;
  return CHI_OK;
}

CHI_PRIVATE int sim_plan_add(struct sim_plan *plan, const struct sim_plan_entry *entry)
{
  uint32_t at = plan->count;
  int rc = sim_plan_problem(entry) ? CHI_EINVAL : sim_plan_reserve(plan, plan->count + 1);
  if (rc)
    return rc;
  while (at > 0 && plan->entry[at - 1].time > entry->time)
    at--;
  memmove(&plan->entry[at + 1], &plan->entry[at], (plan->count - at) * sizeof(*entry));
  plan->entry[at] = *entry;
  plan->count++;
  return CHI_OK;
}

CHI_PRIVATE void sim_plan_remove(struct sim_plan *plan, uint32_t index)
{
  CHI_ASSERT(index < plan->count);
  plan->count--;
  memmove(&plan->entry[index], &plan->entry[index + 1],
          (plan->count - index) * sizeof(*plan->entry));
}

CHI_PRIVATE int sim_plan_copy(struct sim_plan *to, const struct sim_plan *from)
{
  struct sim_plan copy = {NULL, 0, 0};
  int rc = sim_plan_reserve(&copy, from->count);
  if (rc)
    return rc;
  if (from->count)
    memcpy(copy.entry, from->entry, from->count * sizeof(*copy.entry));
  copy.count = from->count;
  *to = copy;
  return CHI_OK;
}

CHI_PRIVATE void sim_plan_free(struct sim_plan *plan)
{
  free(plan->entry);
  *plan = (struct sim_plan){NULL, 0, 0};
}

/* ---- text --------------------------------------------------------------------------------- */

CHI_PRIVATE const char *sim_plan_name(enum sim_plan_kind kind)
{
  CHI_ASSERT(kind < SIM_PLAN_KIND_COUNT);
  return sim_plan_forms[kind].name;
}

CHI_PRIVATE int sim_plan_kind(const char *name)
{
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    if (strcmp(sim_plan_forms[kind].name, name) == 0)
      return kind;
  return -1;
}

CHI_PRIVATE void sim_plan_line(const struct sim_plan_entry *entry, char *buf, size_t size)
{
  char a[16] = "", b[16] = "", value[32] = "";
  CHI_ASSERT(entry->kind < SIM_PLAN_KIND_COUNT);
  if (sim_plan_forms[entry->kind].a)
    snprintf(a, sizeof(a), " %u", entry->a);
  if (sim_plan_forms[entry->kind].b)
    snprintf(b, sizeof(b), " %u", entry->b);
  if (sim_plan_is_disk(entry->kind) && entry->b == SIM_PLAN_ANY)
    snprintf(b, sizeof(b), " *");
  if (sim_plan_has_value(entry->kind))
    snprintf(value, sizeof(value), " %lld", (long long)entry->value);
  snprintf(buf, size, "%llu.%09llu %s%s%s%s", (unsigned long long)(entry->time / SIM_PLAN_SECOND),
           (unsigned long long)(entry->time % SIM_PLAN_SECOND), sim_plan_name(entry->kind), a, b,
           value);
}

CHI_PRIVATE void sim_plan_print(const struct sim_plan *plan, chi_put_fn *put, void *arg)
{
  for (uint32_t i = 0; i < plan->count; i++) {
    char line[SIM_PLAN_LINE + 2];
    size_t size;
    sim_plan_line(&plan->entry[i], line, SIM_PLAN_LINE);
    size = strlen(line);
    memcpy(line + size, "\n", 2);
    put(arg, line);
  }
}

/* Where parsing is. */
struct sim_plan_text {
  const char *at, *line;
  uint32_t number;
  chi_error *err;
};

static int sim_plan_wrong(const struct sim_plan_text *text, const char *what)
{
  return error_set(text->err, CHI_EINVAL, "%u:%u: %s", text->number,
                   (unsigned)(text->at - text->line) + 1, what);
}

static void sim_plan_skip(struct sim_plan_text *text)
{
  text->at += strspn(text->at, " \t\r");
}

static bool sim_plan_digit(char c)
{
  return c >= '0' && c <= '9';
}

/* A word ends here. */
static bool sim_plan_at_end(const struct sim_plan_text *text)
{
  return strchr(" \t\r\n#", *text->at) != NULL; /* the end of the text, too */
}

/* Digits, of a number up to `most`; nothing else may follow unless it is `stop`. */
static bool sim_plan_digits(struct sim_plan_text *text, uint64_t most, char stop, uint64_t *out)
{
  const char *from = text->at;
  uint64_t value = 0;
  for (; sim_plan_digit(*text->at); text->at++) {
    uint64_t digit = (uint64_t)(*text->at - '0');
    if (value > (most - digit) / 10)
      return false;
    value = value * 10 + digit;
  }
  *out = value;
  return text->at > from && (sim_plan_at_end(text) || (stop && *text->at == stop));
}

static int sim_plan_time(struct sim_plan_text *text, uint64_t *out)
{
  uint64_t unit = SIM_PLAN_SECOND, fraction = 0;
  if (!sim_plan_digits(text, UINT64_MAX / 4 / SIM_PLAN_SECOND, '.', out))
    return sim_plan_wrong(text, "a time is SECONDS or SECONDS.FRACTION");
  *out *= SIM_PLAN_SECOND;
  if (*text->at != '.')
    return CHI_OK;
  for (text->at++; unit > 1 && sim_plan_digit(*text->at); text->at++) {
    unit /= 10;
    fraction += (uint64_t)(*text->at - '0') * unit;
  }
  *out += fraction;
  if (unit == SIM_PLAN_SECOND || !sim_plan_at_end(text))
    return sim_plan_wrong(text, "a fraction has one to nine digits");
  return CHI_OK;
}

static int sim_plan_word(struct sim_plan_text *text, enum sim_plan_kind *out)
{
  char word[16];
  size_t size = strcspn(text->at, " \t\r\n#");
  int kind;
  snprintf(word, sizeof(word), "%.*s", (int)(size < sizeof(word) ? size : sizeof(word) - 1),
           text->at);
  kind = size < sizeof(word) ? sim_plan_kind(word) : -1;
  if (kind < 0)
    return sim_plan_wrong(text, "no such kind of fault");
  text->at += size;
  *out = (enum sim_plan_kind)kind;
  return CHI_OK;
}

static int sim_plan_number(struct sim_plan_text *text, bool star, uint32_t *out)
{
  uint64_t value;
  sim_plan_skip(text);
  if (star && *text->at == '*') {
    text->at++;
    *out = SIM_PLAN_ANY;
    return CHI_OK;
  }
  if (!sim_plan_digits(text, UINT32_MAX - 1, 0, &value))
    return sim_plan_wrong(text, star ? "an operation's number or * is missing"
                                     : "a node's number is missing");
  *out = (uint32_t)value;
  return CHI_OK;
}

static int sim_plan_value(struct sim_plan_text *text, int64_t *out)
{
  uint64_t value;
  bool negative;
  sim_plan_skip(text);
  negative = *text->at == '-';
  text->at += negative;
  if (!sim_plan_digits(text, INT64_MAX, 0, &value))
    return sim_plan_wrong(text, "a value is missing");
  *out = negative ? -(int64_t)value : (int64_t)value;
  return CHI_OK;
}

static int sim_plan_entry_of(struct sim_plan_text *text, struct sim_plan_entry *entry)
{
  int rc = sim_plan_time(text, &entry->time);
  sim_plan_skip(text);
  if (rc == CHI_OK)
    rc = sim_plan_word(text, &entry->kind);
  if (rc == CHI_OK && sim_plan_forms[entry->kind].a)
    rc = sim_plan_number(text, false, &entry->a);
  if (rc == CHI_OK && sim_plan_forms[entry->kind].b)
    rc = sim_plan_number(text, sim_plan_is_disk(entry->kind), &entry->b);
  if (rc == CHI_OK && sim_plan_has_value(entry->kind))
    rc = sim_plan_value(text, &entry->value);
  return rc;
}

/* The rest of the line, if there is anything on it. */
static int sim_plan_parse_line(struct sim_plan *plan, struct sim_plan_text *text)
{
  struct sim_plan_entry entry = {.time = 0};
  const char *problem;
  int rc;
  sim_plan_skip(text);
  if (sim_plan_at_end(text))
    return CHI_OK;
  rc = sim_plan_entry_of(text, &entry);
  if (rc)
    return rc;
  problem = sim_plan_problem(&entry);
  sim_plan_skip(text);
  if (!problem && !sim_plan_at_end(text))
    problem = "there is more than this kind has";
  if (problem)
    return sim_plan_wrong(text, problem);
  rc = sim_plan_add(plan, &entry);
  return rc ? error_set(text->err, rc, "%u:1: no room for the entry", text->number) : CHI_OK;
}

CHI_PRIVATE int sim_plan_parse(struct sim_plan *plan, const char *source, chi_error *err)
{
  struct sim_plan_text text = {source, source, 1, err};
  int rc = CHI_OK;
  while (rc == CHI_OK && *text.at) {
    rc = sim_plan_parse_line(plan, &text);
    text.at += strcspn(text.at, "\n");
    text.at += *text.at == '\n';
    text.line = text.at;
    text.number++;
  }
  return rc;
}

/* ---- chance ------------------------------------------------------------------------------- */

/* How a kind is drawn: what it is about, between which values, and what ends it. */
static const struct sim_plan_draw {
  enum sim_plan_kind kind, end; /* the same: it is over at once, or ends with end_value */
  enum { SIM_PLAN_NODE, SIM_PLAN_WAY, SIM_PLAN_RANGE, SIM_PLAN_OPERATION, SIM_PLAN_ALL } about;
  bool lasts, down; /* nodes that are down are counted */
  int64_t low, high, end_value;
} sim_plan_draws[] = {
    {SIM_PLAN_CUT, SIM_PLAN_JOIN, SIM_PLAN_WAY, true, false, 0, 0, 0},
    {SIM_PLAN_ISOLATE, SIM_PLAN_REJOIN, SIM_PLAN_NODE, true, true, 0, 0, 0},
    {SIM_PLAN_PARTITION, SIM_PLAN_SPLIT, SIM_PLAN_RANGE, true, false, 0, 0, 0},
    {SIM_PLAN_CLOG, SIM_PLAN_CLOG, SIM_PLAN_WAY, true, false, SIM_PLAN_MS, 3000 * SIM_PLAN_MS, 0},
    {SIM_PLAN_SLOW, SIM_PLAN_SLOW, SIM_PLAN_WAY, true, false, 200, 100000, 100},
    {SIM_PLAN_FULL, SIM_PLAN_FULL, SIM_PLAN_WAY, true, false, 1, 1, 0},
    {SIM_PLAN_DROP, SIM_PLAN_DROP, SIM_PLAN_WAY, false, false, 0, 0, 0},
    {SIM_PLAN_HALF, SIM_PLAN_HALF, SIM_PLAN_WAY, false, false, 0, 0, 0},
    {SIM_PLAN_LOSE, SIM_PLAN_LOSE, SIM_PLAN_WAY, false, false, 1, 20, 0},
    {SIM_PLAN_SNAP, SIM_PLAN_SNAP, SIM_PLAN_WAY, false, false, 1, 20, 0},
    {SIM_PLAN_PAUSE, SIM_PLAN_RESUME, SIM_PLAN_NODE, true, true, 0, 0, 0},
    {SIM_PLAN_CRASH, SIM_PLAN_START, SIM_PLAN_NODE, true, true, 0, 0, 0},
    {SIM_PLAN_KILL, SIM_PLAN_START, SIM_PLAN_NODE, true, true, 0, 0, 0},
    {SIM_PLAN_STOP, SIM_PLAN_START, SIM_PLAN_NODE, true, true, 0, 1000, 0},
    {SIM_PLAN_DRIFT, SIM_PLAN_DRIFT, SIM_PLAN_NODE, true, false, -1000, 1000, 0},
    {SIM_PLAN_JUMP, SIM_PLAN_JUMP, SIM_PLAN_NODE, false, false, -60000 * SIM_PLAN_MS,
     2000 * SIM_PLAN_MS, 0},
    {SIM_PLAN_DISK, SIM_PLAN_DISK, SIM_PLAN_OPERATION, false, false, 0, 1, 0},
    {SIM_PLAN_DELAY, SIM_PLAN_DELAY, SIM_PLAN_OPERATION, false, false, SIM_PLAN_MS,
     2000 * SIM_PLAN_MS, 0},
    {SIM_PLAN_MEMORY, SIM_PLAN_MEMORY, SIM_PLAN_ALL, true, false, 100, 20000, 0},
};

/* Times at which nodes are down. */
struct sim_plan_outages {
  struct {
    uint32_t node;
    uint64_t from, until;
  } item[SIM_PLAN_KIND_COUNT * SIM_PLAN_PER_KIND];
  uint32_t count;
};

static bool sim_plan_may_go(struct sim_plan_outages *outages, uint32_t most, uint32_t node,
                            uint64_t from, uint64_t until)
{
  uint32_t others = 0;
  for (uint32_t i = 0; i < outages->count; i++) {
    if (outages->item[i].until < from || outages->item[i].from > until)
      continue;
    others++;
    if (outages->item[i].node == node)
      return false;
  }
  if (others >= most)
    return false;
  outages->item[outages->count].node = node;
  outages->item[outages->count].from = from;
  outages->item[outages->count++].until = until;
  return true;
}

/* Some last long, most don't. */
static uint64_t sim_plan_duration(struct rng *rng, uint64_t most)
{
  uint64_t shift = rng_below(rng, 8);
  return 1 + rng_below(rng, (most >> shift) + 1);
}

static void sim_plan_draw_about(struct rng *rng, const struct sim_plan_draw *draw, uint32_t nodes,
                                struct sim_plan_entry *entry)
{
  uint32_t a = (uint32_t)rng_below(rng, nodes), b = (uint32_t)rng_below(rng, nodes);
  if (draw->about == SIM_PLAN_WAY && a == b)
    b = (a + 1) % nodes;
  if (draw->about == SIM_PLAN_RANGE && b < a) {
    uint32_t first = b;
    b = a;
    a = first;
  }
  if (draw->about == SIM_PLAN_OPERATION)
    b = rng_below(rng, 2) ? SIM_PLAN_ANY : (uint32_t)rng_below(rng, ENV_IO_SPACE + 1);
  entry->a = draw->about == SIM_PLAN_ALL ? 0 : a;
  entry->b = draw->about == SIM_PLAN_ALL || draw->about == SIM_PLAN_NODE ? 0 : b;
  entry->value = draw->low + (int64_t)rng_below(rng, (uint64_t)(draw->high - draw->low) + 1);
}

static int sim_plan_draw_one(struct sim_plan *plan, struct rng *rng,
                             const struct sim_plan_draw *draw, const struct sim_plan_limits *limits,
                             struct sim_plan_outages *outages)
{
  struct sim_plan_entry entry = {.kind = draw->kind}, end;
  int rc;
  entry.time = limits->from + rng_below(rng, limits->until - limits->from);
  sim_plan_draw_about(rng, draw, limits->nodes, &entry);
  end = entry;
  end.kind = draw->end;
  end.value = draw->end_value;
  if (draw->end == SIM_PLAN_SPLIT)
    end.a = end.b = 0;
  end.time += sim_plan_duration(rng, limits->outage_ns);
  end.time = end.time < limits->until ? end.time : limits->until;
  if (draw->down && !sim_plan_may_go(outages, limits->down, entry.a, entry.time, end.time))
    return CHI_OK;
  rc = sim_plan_add(plan, &entry);
  return rc == CHI_OK && draw->lasts ? sim_plan_add(plan, &end) : rc;
}

/* The stream of one fault of a kind, or of the kind itself. */
static void sim_plan_stream(struct rng *rng, uint64_t seed, enum sim_plan_kind kind, uint32_t fault)
{
  rng_seed(rng, seed, UINT64_C(0x506c616e) << 32 | (uint64_t)kind, fault);
}

static bool sim_plan_may_draw(const struct sim_plan_limits *limits,
                              const struct sim_plan_draw *draw)
{
  const uint64_t usual = ~(UINT64_C(1) << SIM_PLAN_MEMORY);
  if (draw->about == SIM_PLAN_WAY && limits->nodes < 2)
    return false;
  return (limits->kinds ? limits->kinds : usual) >> draw->kind & 1;
}

CHI_PRIVATE int sim_plan_generate(struct sim_plan *plan, uint64_t seed,
                                  const struct sim_plan_limits *limits)
{
  const struct sim_plan_entry calm = {.time = limits->until, .kind = SIM_PLAN_CALM};
  struct sim_plan_outages outages = {.count = 0};
  int rc = CHI_OK;
  CHI_ASSERT(limits->nodes > 0 && limits->nodes <= SIM_PLAN_NODES);
  CHI_ASSERT(limits->from < limits->until && limits->per_kind <= SIM_PLAN_PER_KIND);
  for (size_t i = 0; i < CHI_COUNT(sim_plan_draws) && rc == CHI_OK; i++) {
    const struct sim_plan_draw *draw = &sim_plan_draws[i];
    struct rng rng;
    uint64_t count;
    bool out;
    sim_plan_stream(&rng, seed, draw->kind, UINT32_MAX);
    out = rng_below(&rng, 2) && limits->swarm;
    count = rng_below(&rng, limits->per_kind + 1);
    if (out || !sim_plan_may_draw(limits, draw))
      continue;
    for (uint32_t fault = 0; fault < count && rc == CHI_OK; fault++) {
      sim_plan_stream(&rng, seed, draw->kind, fault);
      rc = sim_plan_draw_one(plan, &rng, draw, limits, &outages);
    }
  }
  return rc == CHI_OK ? sim_plan_add(plan, &calm) : rc;
}

CHI_PRIVATE void sim_plan_limits(struct sim_plan_limits *limits, uint32_t nodes, uint64_t from,
                                 uint64_t until)
{
  *limits = (struct sim_plan_limits){.nodes = nodes,
                                     .from = from,
                                     .until = until,
                                     .outage_ns = (until - from) / 3,
                                     .per_kind = 4,
                                     .down = nodes > 2 ? (nodes - 1) / 2 : 1,
                                     .swarm = true};
}

#undef SIM_PLAN_LINE
#undef SIM_PLAN_SECOND
#undef SIM_PLAN_MS
