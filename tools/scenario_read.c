/* scenario_read.c - a scenario from YAML, with libyaml. */
#include "scenario.h"

#ifndef CHI_OMIT_SIM

#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "units.h"
#include "word.h"

#define SCENARIO_KEYS_MAX 64u /* of one map */
#define SCENARIO_HOUR UINT64_C(3600000000000)

/* A file being read. */
struct scenario_reader {
  struct scenario *s;
  struct report *report;
  yaml_document_t document;
};

/* A key of a map: how its value is read into an object. */
struct scenario_key {
  const char *name;
  void (*read)(struct scenario_reader *r, const struct scenario_key *key, yaml_node_t *node,
               void *object);
  size_t offset;
  uint64_t min, max; /* of numbers and times; the room of text */
};

static struct report_mark scenario_at(const yaml_mark_t *mark)
{
  return (struct report_mark){(int)mark->line + 1, (int)mark->column + 1};
}

#define SCENARIO_WRONG(r, node, ...)                                                               \
  report_error((r)->report, scenario_at(&(node)->start_mark), CHI_ECONFIG, __VA_ARGS__)

/* The text of a scalar; NULL after complaining. */
static const char *scenario_scalar(struct scenario_reader *r, yaml_node_t *node, const char *name)
{
  if (node->type == YAML_SCALAR_NODE &&
      strlen((const char *)node->data.scalar.value) == node->data.scalar.length)
    return (const char *)node->data.scalar.value;
  SCENARIO_WRONG(r, node, "%s: expected one value", name);
  return NULL;
}

/* ---- maps and lists ------------------------------------------------------------------------- */

static bool scenario_is_map(struct scenario_reader *r, yaml_node_t *node, const char *name)
{
  if (node->type == YAML_MAPPING_NODE)
    return true;
  SCENARIO_WRONG(r, node, "%s: expected a map of keys and values", name);
  return false;
}

static bool scenario_is_list(struct scenario_reader *r, yaml_node_t *node, const char *name)
{
  if (node->type == YAML_SEQUENCE_NODE)
    return true;
  SCENARIO_WRONG(r, node, "%s: expected a list", name);
  return false;
}

/* Calls for each pair of a map whose keys are text and differ. */
static void scenario_each(struct scenario_reader *r, yaml_node_t *map,
                          void (*take)(struct scenario_reader *r, yaml_node_t *at, const char *name,
                                       yaml_node_t *value, void *arg),
                          void *arg)
{
  const char *seen[SCENARIO_KEYS_MAX];
  uint32_t count = 0;
  for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
    yaml_node_t *at = yaml_document_get_node(&r->document, p->key);
    const char *name = scenario_scalar(r, at, "a key");
    uint32_t i = 0;
    while (name && i < count && strcmp(seen[i], name) != 0)
      i++;
    if (name && i < count)
      SCENARIO_WRONG(r, at, "%s: is there twice", name);
    else if (name && count == SCENARIO_KEYS_MAX)
      SCENARIO_WRONG(r, at, "%s: there are more than %u keys", name, SCENARIO_KEYS_MAX);
    else if (name) {
      seen[count++] = name;
      take(r, at, name, yaml_document_get_node(&r->document, p->value), arg);
    }
  }
}

struct scenario_table {
  const struct scenario_key *keys;
  void *object;
};

static void scenario_unknown(struct scenario_reader *r, yaml_node_t *at, const char *name,
                             const struct scenario_key *keys)
{
  const char *nearest = NULL;
  uint32_t least = UINT32_MAX;
  for (const struct scenario_key *k = keys; k->name; k++) {
    uint32_t distance = word_distance(name, k->name);
    if (distance < least) {
      least = distance;
      nearest = k->name;
    }
  }
  SCENARIO_WRONG(r, at, "unknown key \"%s\"%s%s", name, nearest ? "; nearest is " : "",
                 nearest ? nearest : "");
}

static void scenario_take_key(struct scenario_reader *r, yaml_node_t *at, const char *name,
                              yaml_node_t *value, void *arg)
{
  const struct scenario_table *table = arg;
  const struct scenario_key *key = table->keys;
  while (key->name && strcmp(key->name, name) != 0)
    key++;
  if (key->name)
    key->read(r, key, value, (char *)table->object + key->offset);
  else
    scenario_unknown(r, at, name, table->keys);
}

/* A map whose keys are those of the table. */
static void scenario_map(struct scenario_reader *r, yaml_node_t *node, const char *name,
                         const struct scenario_key *keys, void *object)
{
  struct scenario_table table = {keys, object};
  if (scenario_is_map(r, node, name))
    scenario_each(r, node, scenario_take_key, &table);
}

/* Item i of a list, or NULL behind its end. */
static yaml_node_t *scenario_item(struct scenario_reader *r, const yaml_node_t *list, uint32_t i)
{
  const yaml_node_item_t *at = list->data.sequence.items.start + i;
  return at < list->data.sequence.items.top ? yaml_document_get_node(&r->document, *at) : NULL;
}

/* Whether there is room for one more. */
static bool scenario_room(struct scenario_reader *r, yaml_node_t *node, const char *name,
                          uint32_t count, uint32_t most)
{
  if (count < most)
    return true;
  SCENARIO_WRONG(r, node, "%s: there are more than %u", name, most);
  return false;
}

/* ---- values --------------------------------------------------------------------------------- */

static void scenario_read_number(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  uint64_t value;
  if (!text)
    return;
  if (units_parse_count(text, &value) != CHI_OK || value < key->min || value > key->max)
    SCENARIO_WRONG(r, node, "%s: expected a whole number from %llu to %llu, found \"%s\"",
                   key->name, (unsigned long long)key->min, (unsigned long long)key->max, text);
  else if (key->max > UINT32_MAX)
    memcpy(out, &value, sizeof(value));
  else
    memcpy(out, &(uint32_t){(uint32_t)value}, sizeof(uint32_t));
}

static void scenario_read_time(struct scenario_reader *r, const struct scenario_key *key,
                               yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  uint64_t *ns = out;
  if (text && (chi_parse_duration(text, 1000000000, ns) != CHI_OK || *ns > key->max))
    SCENARIO_WRONG(r, node, "%s: expected a time such as 500ms or 2s, found \"%s\"", key->name,
                   text);
}

static void scenario_read_text(struct scenario_reader *r, const struct scenario_key *key,
                               yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  size_t size = text ? strlen(text) : 0;
  if (!text)
    return;
  if (size == 0 || size >= key->max)
    SCENARIO_WRONG(r, node, "%s: expected 1 to %llu bytes", key->name,
                   (unsigned long long)key->max - 1);
  else
    memcpy(out, text, size + 1);
}

static void scenario_read_times(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  if (text && !scenario_parse_range(text, true, out))
    SCENARIO_WRONG(r, node, "%s: expected a time or a range such as 1ms..50ms, found \"%s\"",
                   key->name, text);
}

static void scenario_read_sizes(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  struct scenario_range range;
  if (!text)
    return;
  if (!scenario_parse_range(text, false, &range) || range.high > key->max)
    SCENARIO_WRONG(r, node, "%s: expected a size or a range such as 0..64K, at most %llu, found "
                            "\"%s\"",
                   key->name, (unsigned long long)key->max, text);
  else
    memcpy(out, &range, sizeof(range));
}

static void scenario_read_chance(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  if (text && !scenario_parse_chance(text, out))
    SCENARIO_WRONG(r, node, "%s: expected 0%% to 100%%, found \"%s\"", key->name, text);
}

/* YAML's own words for yes and no. */
static bool scenario_switch(struct scenario_reader *r, yaml_node_t *node, const char *name,
                            bool *out)
{
  static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};
  const char *text = scenario_scalar(r, node, name);
  size_t i = 0;
  while (text && i < CHI_COUNT(words) && strcmp(words[i], text) != 0)
    i++;
  if (text && i == CHI_COUNT(words))
    SCENARIO_WRONG(r, node, "%s: expected on or off, found \"%s\"", name, text);
  *out = i % 2 != 0;
  return text && i < CHI_COUNT(words);
}

static void scenario_read_switch(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  bool on;
  if (scenario_switch(r, node, key->name, &on))
    *(bool *)out = on;
}

static void scenario_take_setting(struct scenario_reader *r, yaml_node_t *at, const char *name,
                                  yaml_node_t *value, void *arg)
{
  struct scenario_list *list = arg;
  struct scenario_setting *item = &list->item[list->count];
  const char *text = scenario_scalar(r, value, name);
  if (!text || !scenario_room(r, at, name, list->count, SCENARIO_SETTINGS))
    return;
  if (strlen(name) >= sizeof(item->name) || strlen(text) >= sizeof(item->value)) {
    SCENARIO_WRONG(r, at, "%.60s: is too long", name);
    return;
  }
  memcpy(item->name, name, strlen(name) + 1);
  memcpy(item->value, text, strlen(text) + 1);
  list->count++;
}

static void scenario_read_settings(struct scenario_reader *r, const struct scenario_key *key,
                                   yaml_node_t *node, void *out)
{
  ((struct scenario_list *)out)->count = 0;
  if (scenario_is_map(r, node, key->name))
    scenario_each(r, node, scenario_take_setting, out);
}

/* ---- pools, workload ------------------------------------------------------------------------ */

static void scenario_read_modules(struct scenario_reader *r, const struct scenario_key *key,
                                  yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  struct scenario_key item = {key->name, NULL, 0, 0, SCENARIO_NAME};
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    if (!scenario_room(r, at, key->name, i, SCENARIO_MODULES))
      return;
    scenario_read_text(r, &item, at, s->modules[i]);
    s->module_count = i + 1;
  }
}

static void scenario_read_id(struct scenario_reader *r, const struct scenario_key *key,
                             yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  chi_pool_id *id = out;
  if (text && (units_parse_pool(text, id) != CHI_OK || id->major < 2))
    SCENARIO_WRONG(r, node, "%s: expected an id such as 900.0, found \"%s\"", key->name, text);
}

static const struct scenario_key scenario_pool_keys[] = {
    {"module", scenario_read_text, offsetof(struct scenario_pool, module), 0, SCENARIO_NAME},
    {"name", scenario_read_text, offsetof(struct scenario_pool, name), 0, SCENARIO_VALUE},
    {"id", scenario_read_id, offsetof(struct scenario_pool, id), 0, 0},
    {"params", scenario_read_settings, offsetof(struct scenario_pool, params), 0, 0},
    {0}};

static void scenario_read_pools(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  s->pools = 0;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    struct scenario_pool *p = &s->pool[i];
    if (!scenario_room(r, at, key->name, i, SCENARIO_POOLS))
      return;
    *p = (struct scenario_pool){.id = {900 + i, 0}};
    scenario_map(r, at, "a pool", scenario_pool_keys, p);
    if (!p->module[0])
      SCENARIO_WRONG(r, at, "a pool needs a module");
    if (!p->name[0])
      memcpy(p->name, p->module, sizeof(p->module));
    s->pools = i + 1;
  }
}

/* The text of `pool`, which may be declared further below: found when all has been read. */
static void scenario_read_pool_name(struct scenario_reader *r, const struct scenario_key *key,
                                    yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  struct scenario_mix *mix = out;
  mix->pool = 0;
  while (text && mix->pool < r->s->pools && strcmp(r->s->pool[mix->pool].name, text) != 0)
    mix->pool++;
  if (text && mix->pool == r->s->pools)
    SCENARIO_WRONG(r, node, "%s: no pool \"%s\" above", key->name, text);
}

static void scenario_read_query(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  const char *text = scenario_scalar(r, node, key->name);
  if (text && !scenario_parse_query(text, out))
    SCENARIO_WRONG(r, node, "%s: expected local, id, hash, range, broadcast, physical, dynamic or "
                            "any, perhaps with operands as in range:0:2, found \"%s\"",
                   key->name, text);
}

static const struct scenario_key scenario_mix_keys[] = {
    {"pool", scenario_read_pool_name, 0, 0, 0},
    {"method", scenario_read_text, offsetof(struct scenario_mix, method), 0, SCENARIO_NAME},
    {"query", scenario_read_query, 0, 0, 0},
    {"weight", scenario_read_number, offsetof(struct scenario_mix, weight), 0, 1000000},
    {"size", scenario_read_sizes, offsetof(struct scenario_mix, size), 0, 64u << 20},
    {"fields", scenario_read_settings, offsetof(struct scenario_mix, fields), 0, 0},
    {0}};

static void scenario_read_mix(struct scenario_reader *r, const struct scenario_key *key,
                              yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    struct scenario_mix *m = &s->mix[i];
    if (!scenario_room(r, at, key->name, i, SCENARIO_MIX))
      return;
    *m = (struct scenario_mix){.pool = UINT32_MAX,
                               .weight = 1,
                               .a = SCENARIO_DRAWN,
                               .b = SCENARIO_DRAWN,
                               .size = {0, 4096}};
    scenario_map(r, at, "an operation", scenario_mix_keys, m);
    if (m->pool == UINT32_MAX || !m->method[0])
      SCENARIO_WRONG(r, at, "an operation needs a pool and a method");
    s->mixes = i + 1;
  }
}

/* Lists of lines. */
static void scenario_read_lines(struct scenario_reader *r, const char *name, yaml_node_t *node,
                                bool (*parse)(struct scenario *s, const char *text),
                                const char *form)
{
  yaml_node_t *at;
  if (!scenario_is_list(r, node, name))
    return;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    const char *text = scenario_scalar(r, at, name);
    if (text && !parse(r->s, text))
      SCENARIO_WRONG(r, at, "%s: expected \"%s\", in order and not too many, found \"%s\"", name,
                     form, text);
  }
}

static void scenario_read_only(struct scenario_reader *r, const struct scenario_key *key,
                               yaml_node_t *node, void *out)
{
  (void)out;
  scenario_read_lines(r, key->name, node, scenario_parse_work, "CLIENT NODE: OPERATION...");
  if (!r->s->work)
    r->s->work = calloc(2, sizeof(*r->s->work)); /* listed, and empty */
}

static void scenario_read_kill(struct scenario_reader *r, const struct scenario_key *key,
                               yaml_node_t *node, void *out)
{
  (void)out;
  scenario_read_lines(r, key->name, node, scenario_parse_kill, "SECONDS CLIENT");
}

#define SCENARIO_AT(member) offsetof(struct scenario, member)
static const struct scenario_key scenario_workload_keys[] = {
    {"clients", scenario_read_number, SCENARIO_AT(clients), 1, SCENARIO_CLIENTS},
    {"operations", scenario_read_number, SCENARIO_AT(operations), 0, SCENARIO_OPERATIONS},
    {"window", scenario_read_number, SCENARIO_AT(window), 1, SCENARIO_WINDOW},
    {"think", scenario_read_times, SCENARIO_AT(think), 0, 0},
    {"deadline", scenario_read_chance, SCENARIO_AT(deadline), 0, 0},
    {"deadline_after", scenario_read_times, SCENARIO_AT(deadline_after), 0, 0},
    {"cancel", scenario_read_chance, SCENARIO_AT(cancel), 0, 0},
    {"abandon", scenario_read_chance, SCENARIO_AT(abandon), 0, 0},
    {"kills", scenario_read_number, SCENARIO_AT(kills), 0, SCENARIO_KILLS},
    {"mix", scenario_read_mix, 0, 0, 0},
    {"only", scenario_read_only, 0, 0, 0},
    {"kill", scenario_read_kill, 0, 0, 0},
    {0}};

static void scenario_read_workload(struct scenario_reader *r, const struct scenario_key *key,
                                   yaml_node_t *node, void *out)
{
  scenario_map(r, node, key->name, scenario_workload_keys, out);
}

/* ---- faults, checks, limits ----------------------------------------------------------------- */

static void scenario_read_plan(struct scenario_reader *r, const struct scenario_key *key,
                               yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    const char *text = scenario_scalar(r, at, key->name);
    chi_error err = {0, ""};
    if (text && sim_plan_parse(&s->plan, text, &err) != CHI_OK)
      SCENARIO_WRONG(r, at, "%s: \"%s\": %s", key->name, text, err.text);
  }
}

/* Kinds that are drawn: those that begin something. */
static bool scenario_drawable(int kind)
{
  static const enum sim_plan_kind ends[] = {SIM_PLAN_JOIN, SIM_PLAN_REJOIN, SIM_PLAN_SPLIT,
                                            SIM_PLAN_HEAL, SIM_PLAN_RESUME, SIM_PLAN_START,
                                            SIM_PLAN_CALM};
  size_t i = 0;
  while (i < CHI_COUNT(ends) && (int)ends[i] != kind)
    i++;
  return kind >= 0 && i == CHI_COUNT(ends);
}

static void scenario_read_kinds(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  s->kinds = 0;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    const char *text = scenario_scalar(r, at, key->name);
    int kind = text ? sim_plan_kind(text) : -1;
    if (scenario_drawable(kind))
      s->kinds |= UINT64_C(1) << kind;
    else if (text)
      SCENARIO_WRONG(r, at, "%s: no such kind of fault to be drawn: \"%s\"", key->name, text);
  }
  if (!s->kinds)
    SCENARIO_WRONG(r, node, "%s: there must be one at least", key->name);
}

static const struct scenario_key scenario_random_keys[] = {
    {"from", scenario_read_time, SCENARIO_AT(from), 0, SCENARIO_HOUR},
    {"until", scenario_read_time, SCENARIO_AT(until), 0, SCENARIO_HOUR},
    {"outage", scenario_read_time, SCENARIO_AT(outage), 0, SCENARIO_HOUR},
    {"each", scenario_read_number, SCENARIO_AT(each), 1, SIM_PLAN_PER_KIND},
    {"down", scenario_read_number, SCENARIO_AT(down), 0, SIM_PLAN_NODES},
    {"swarm", scenario_read_switch, SCENARIO_AT(swarm), 0, 0},
    {"kinds", scenario_read_kinds, 0, 0, 0},
    {0}};

static void scenario_read_random(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  s->random = true;
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    if (scenario_drawable(kind) && kind != SIM_PLAN_MEMORY)
      s->kinds |= UINT64_C(1) << kind;
  scenario_map(r, node, key->name, scenario_random_keys, out);
  if (s->until <= s->from)
    SCENARIO_WRONG(r, node, "%s: needs \"until\", after \"from\"", key->name);
}

static const struct scenario_key scenario_fault_keys[] = {
    {"plan", scenario_read_plan, 0, 0, 0}, {"random", scenario_read_random, 0, 0, 0}, {0}};

static void scenario_read_faults(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  scenario_map(r, node, key->name, scenario_fault_keys, out);
}

/* min: which check. */
static void scenario_read_check(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  bool on;
  if (scenario_switch(r, node, key->name, &on))
    s->off = on ? s->off & ~(1u << key->min) : s->off | 1u << key->min;
}

static const struct scenario_key scenario_check_keys[] = {
#define SCENARIO_KEY(name, text) {text, scenario_read_check, 0, SCENARIO_##name, 0},
    SCENARIO_CHECKS(SCENARIO_KEY)
#undef SCENARIO_KEY
        {0}};

static void scenario_read_checks(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  scenario_map(r, node, key->name, scenario_check_keys, out);
}

static void scenario_read_never(struct scenario_reader *r, const struct scenario_key *key,
                                yaml_node_t *node, void *out)
{
  struct scenario *s = out;
  yaml_node_t *at;
  if (!scenario_is_list(r, node, key->name))
    return;
  for (uint32_t i = 0; (at = scenario_item(r, node, i)) != NULL; i++) {
    const char *text = scenario_scalar(r, at, key->name);
    int code = 0;
    while (text && code > -64 && strcmp(chi_status_name(code), text) != 0)
      code--;
    if (text && code == -64)
      SCENARIO_WRONG(r, at, "%s: no such code: \"%s\"", key->name, text);
    else if (text && scenario_room(r, at, key->name, s->nevers, SCENARIO_CODES))
      s->never[s->nevers++] = code;
  }
}

static const struct scenario_key scenario_limit_keys[] = {
    {"time", scenario_read_time, SCENARIO_AT(limit_time), 0, 24 * SCENARIO_HOUR},
    {"wall", scenario_read_time, SCENARIO_AT(limit_wall), 0, 24 * SCENARIO_HOUR},
    {"events", scenario_read_number, SCENARIO_AT(limit_events), 0, UINT64_MAX},
    {0}};

static void scenario_read_limits(struct scenario_reader *r, const struct scenario_key *key,
                                 yaml_node_t *node, void *out)
{
  scenario_map(r, node, key->name, scenario_limit_keys, out);
}

static const struct scenario_key scenario_keys[] = {
    {"name", scenario_read_text, SCENARIO_AT(name), 0, SCENARIO_NAME},
    {"nodes", scenario_read_number, SCENARIO_AT(nodes), 1, CHI_CLUSTER_NODES_MAX},
    {"up", scenario_read_number, SCENARIO_AT(up), 1, CHI_CLUSTER_NODES_MAX},
    {"seed", scenario_read_number, SCENARIO_AT(seed), 0, UINT64_MAX},
    {"costs", scenario_read_settings, SCENARIO_AT(costs), 0, 0},
    {"config", scenario_read_settings, SCENARIO_AT(config), 0, 0},
    {"module_path", scenario_read_text, SCENARIO_AT(module_path), 0, CHI_PATH_MAX},
    {"modules", scenario_read_modules, 0, 0, 0},
    {"pools", scenario_read_pools, 0, 0, 0},
    {"workload", scenario_read_workload, 0, 0, 0},
    {"faults", scenario_read_faults, 0, 0, 0},
    {"checks", scenario_read_checks, 0, 0, 0},
    {"never", scenario_read_never, 0, 0, 0},
    {"limits", scenario_read_limits, 0, 0, 0},
    {0}};

/* ---- the whole ------------------------------------------------------------------------------ */

/* Whether a fault is about a node that isn't there. */
static bool scenario_beyond(const struct scenario *s, const struct sim_plan_entry *e)
{
  static const bool about[][2] = {
#define SCENARIO_ABOUT(name, text, a, b, low, high) {a, b},
      SIM_PLAN_KINDS(SCENARIO_ABOUT)
#undef SCENARIO_ABOUT
  };
  bool file = e->kind == SIM_PLAN_DISK || e->kind == SIM_PLAN_DELAY;
  return (about[e->kind][0] && e->a >= s->nodes) ||
         (about[e->kind][1] && !file && e->b >= s->nodes);
}

/* The value of a map's key or a list's item, *mark where it stands; NULL: there is none. */
static yaml_node_t *scenario_below(struct scenario_reader *r, const yaml_node_t *node,
                                   const char *name, size_t length, struct report_mark *mark)
{
  yaml_node_t *below = NULL;
  if (node->type == YAML_SEQUENCE_NODE) {
    below = scenario_item(r, node, (uint32_t)strtoul(name, NULL, 10));
    if (below)
      *mark = scenario_at(&below->start_mark);
    return below;
  }
  if (node->type != YAML_MAPPING_NODE)
    return NULL;
  for (yaml_node_pair_t *p = node->data.mapping.pairs.start;
       p < node->data.mapping.pairs.top && !below; p++) {
    yaml_node_t *key = yaml_document_get_node(&r->document, p->key);
    if (key->type != YAML_SCALAR_NODE || key->data.scalar.length != length ||
        memcmp(key->data.scalar.value, name, length) != 0)
      continue;
    below = yaml_document_get_node(&r->document, p->value);
    *mark = scenario_at(&key->start_mark);
  }
  return below;
}

/* The node that a path leads to, or as far as it leads. */
static yaml_node_t *scenario_follow(struct scenario_reader *r, const char *path,
                                    struct report_mark *mark)
{
  yaml_node_t *node = yaml_document_get_root_node(&r->document), *next = node;
  while (*path && next) {
    size_t length = strcspn(path, "/");
    next = scenario_below(r, node, path, length, mark);
    node = next ? next : node;
    path += length + (path[length] == '/');
  }
  return node;
}

/* Complains about what a path leads to. */
#define SCENARIO_WRONG_AT(r, path, ...)                                                            \
  do {                                                                                             \
    struct report_mark mark = {1, 1};                                                              \
    scenario_follow(r, path, &mark);                                                               \
    report_error((r)->report, mark, CHI_ECONFIG, __VA_ARGS__);                                     \
  } while (0)

/* Whether a line of the plan is about a node that isn't there. */
static bool scenario_line_beyond(const struct scenario *s, const char *text)
{
  struct sim_plan plan = {0};
  chi_error err;
  bool beyond = false;
  if (sim_plan_parse(&plan, text, &err) == CHI_OK)
    for (uint32_t i = 0; i < plan.count; i++)
      beyond = beyond || scenario_beyond(s, &plan.entry[i]);
  sim_plan_free(&plan);
  return beyond;
}

static void scenario_check_plan(struct scenario_reader *r)
{
  struct report_mark mark;
  yaml_node_t *list = scenario_follow(r, "faults/plan", &mark), *at;
  if (!r->s->plan.count || list->type != YAML_SEQUENCE_NODE)
    return;
  for (uint32_t i = 0; (at = scenario_item(r, list, i)) != NULL; i++)
    if (scenario_line_beyond(r->s, (const char *)at->data.scalar.value))
      SCENARIO_WRONG(r, at, "plan: \"%s\" names a node that isn't there",
                     (const char *)at->data.scalar.value);
}

static void scenario_check_pools(struct scenario_reader *r)
{
  const struct scenario *s = r->s;
  char path[32];
  for (uint32_t i = 0; i < s->pools; i++)
    for (uint32_t j = 0; j < i; j++) {
      if (strcmp(s->pool[i].name, s->pool[j].name) != 0 &&
          memcmp(&s->pool[i].id, &s->pool[j].id, sizeof(chi_pool_id)) != 0)
        continue;
      snprintf(path, sizeof(path), "pools/%u", i);
      SCENARIO_WRONG_AT(r, path, "pools: two have the name \"%s\" or the id %u.%u",
                        s->pool[i].name, s->pool[i].id.major, s->pool[i].id.minor);
    }
}

/* What concerns several keys. */
static void scenario_check_all(struct scenario_reader *r)
{
  struct scenario *s = r->s;
  bool beyond = false;
  if (s->up > s->nodes)
    SCENARIO_WRONG_AT(r, "up", "up: there are %u nodes, not %u", s->nodes, s->up);
  scenario_check_pools(r);
  scenario_check_plan(r);
  for (uint32_t i = 0; i < s->works; i++)
    beyond = beyond || s->work[i].node >= s->nodes;
  if (beyond)
    SCENARIO_WRONG_AT(r, "workload/only", "only: it names a node that isn't there");
  if ((s->operations || s->works) && !s->mixes)
    SCENARIO_WRONG_AT(r, "workload", "workload: there are operations, but no mix of them");
}

#undef SCENARIO_WRONG_AT

static void scenario_syntax_error(struct scenario_reader *r, const yaml_parser_t *p)
{
  const char *problem = p->problem ? p->problem : "malformed";
  struct report_mark at = scenario_at(&p->problem_mark);
  if (p->error == YAML_READER_ERROR)
    report_error(r->report, (struct report_mark){0, 0}, CHI_ECONFIG, "%s at byte %zu", problem,
                 p->problem_offset);
  else
    report_error(r->report, at, CHI_ECONFIG, "%s%s%s", problem, p->context ? " " : "",
                 p->context ? p->context : "");
}

static void scenario_read_document(struct scenario_reader *r)
{
  yaml_node_t *root = yaml_document_get_root_node(&r->document);
  if (!root) {
    report_error(r->report, (struct report_mark){0, 0}, CHI_ECONFIG, "there is nothing in it");
    return;
  }
  scenario_map(r, root, "a scenario", scenario_keys, r->s);
  if (!r->report->errors)
    scenario_check_all(r);
}

struct report_mark scenario_locate(const char *text, size_t size, const char *path)
{
  struct scenario_reader r = {.s = NULL};
  struct report_mark mark = {1, 1};
  yaml_parser_t parser;
  if (!yaml_parser_initialize(&parser))
    return mark;
  yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
  if (yaml_parser_load(&parser, &r.document)) {
    if (yaml_document_get_root_node(&r.document))
      scenario_follow(&r, path, &mark);
    yaml_document_delete(&r.document);
  }
  yaml_parser_delete(&parser);
  return mark;
}

struct scenario *scenario_read(const char *text, size_t size, struct report *report)
{
  struct scenario_reader r = {.report = report};
  yaml_parser_t parser;
  uint32_t before = report->errors;
  if (size > SCENARIO_FILE_MAX || !yaml_parser_initialize(&parser)) {
    report_error(report, (struct report_mark){0, 0}, CHI_ETOOBIG, "it is too large");
    return NULL;
  }
  r.s = scenario_new(false);
  yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
  if (!yaml_parser_load(&parser, &r.document)) {
    scenario_syntax_error(&r, &parser);
  } else {
    scenario_read_document(&r);
    yaml_document_delete(&r.document);
  }
  yaml_parser_delete(&parser);
  if (report->errors == before)
    return r.s;
  scenario_free(r.s);
  return NULL;
}

#undef SCENARIO_KEYS_MAX
#undef SCENARIO_HOUR
#undef SCENARIO_WRONG
#undef SCENARIO_AT

#endif
