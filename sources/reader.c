/* reader.c - a configuration file's sections, keys and values on their way into chi_config. */
#include "reader.h"

#include "utf8.h"
#include "word.h"

#include <stdio.h>

/* Older spellings; current NULL: has no meaning any more. */
static const struct reader_alias {
  const char *name, *current;
} reader_aliases[] = {
    {"workers.low_latency_threads", "workers.sched_threads"},
    {"runtime.sched_threads", "workers.sched_threads"},
    {"runtime.num_threads", "workers.sched_threads"},
    {"workers.high_latency_threads", "workers.slow_threads"},
    {"runtime.slow_threads", "workers.slow_threads"},
    {"runtime.process_reaper_threads", "workers.process_reaper_threads"},
    {"workers.reinforcement_threads", NULL},
    {"network.port", "networking.port"},
    {"network.zmq_port", "networking.port"},
    {"networking.zmq_port", "networking.port"},
    {"performance.stack_size", "runtime.stack_size"},
    {"performance.queue_depth", "runtime.queue_depth"},
    {"performance.lane_map_policy", "runtime.lane_map_policy"},
    {"task_queue.lanes", NULL},
    {"runtime.sleep_increment", NULL},
    {"runtime.max_sleep", NULL},
};

/* The sections of all generations, and what an older one is called now. */
static const struct reader_alias reader_sections[] = {
    {"workers", "workers"}, {"memory", "memory"},      {"networking", "networking"},
    {"logging", "logging"}, {"runtime", "runtime"},    {"shared_memory", "shared_memory"},
    {"compose", "compose"}, {"network", "networking"}, {"performance", "runtime"},
    {"task_queue", NULL},
};

_Static_assert(CHI_COUNT(reader_aliases) == READER_SPELLING_COUNT - CONFIG_KEY_COUNT, "aliases");
_Static_assert(CHI_COUNT(reader_sections) == READER_SECTION_COUNT, "sections");

static const char *const reader_fields[] = {"mod_name", "pool_name", "pool_query", "pool_id"};
enum reader_field_index { READER_MOD_NAME, READER_POOL_NAME, READER_POOL_QUERY, READER_POOL_ID };
_Static_assert(CHI_COUNT(reader_fields) == READER_FIELD_COUNT, "fields");

/* Spellings are numbered: first the current keys, then the aliases. */
static const char *reader_spelling(size_t i)
{
  return i < CONFIG_KEY_COUNT ? config_key_at(i)->name : reader_aliases[i - CONFIG_KEY_COUNT].name;
}

/* The key that a spelling stands for, NULL if it has no meaning. */
static const struct config_key *reader_meaning(size_t spelling)
{
  const char *current;
  CHI_ASSERT(spelling < READER_SPELLING_COUNT);
  if (spelling < CONFIG_KEY_COUNT)
    return config_key_at(spelling);
  current = reader_aliases[spelling - CONFIG_KEY_COUNT].current;
  return current ? config_find_key(current) : NULL;
}

/* What follows the section in a dotted name. */
static const char *reader_leaf(const char *name)
{
  const char *dot = strchr(name, '.');
  return dot ? dot + 1 : name;
}

/* Whether a dotted name lies in a section. */
static bool reader_within(const char *name, const char *section)
{
  size_t n = strlen(section);
  return strncmp(name, section, n) == 0 && name[n] == '.';
}

static void reader_unexpected(struct report *report, const char *what, const char *expected,
                              const struct reader_value *value)
{
  static const char *const shapes[] = {"", "", "", "nothing", "a map", "a list"};
  CHI_ASSERT(value->kind < READER_REFUSED);
  if (value->kind >= READER_NOTHING)
    report_error(report, value->at, CHI_ECONFIG, "%s: expected %s, found %s", what, expected,
                 shapes[value->kind]);
  else if (!utf8_is_line(value->text))
    report_error(report, value->at, CHI_ECONFIG,
                 "%s: expected %s, found control characters in \"%.80s\"", what, expected,
                 value->text);
  else
    report_error(report, value->at, CHI_ECONFIG, "%s: expected %s, found \"%.80s\"", what, expected,
                 value->text);
}

/* ---- suggestions ------------------------------------------------------------------------ */

/* The current key whose spelling in any section is nearest; one in the same section comes before
 * one that is as near elsewhere. section "": at the top level. NULL: none is near. */
static const char *reader_nearest_key(const char *section, const char *name, uint32_t *nearest)
{
  const char *found = NULL;
  *nearest = UINT32_MAX;
  for (size_t i = 0; i < READER_SPELLING_COUNT; i++) {
    const struct config_key *key = reader_meaning(i);
    const char *spelling = reader_spelling(i);
    uint32_t d = word_distance(name, reader_leaf(spelling));
    if (!key || d == UINT32_MAX)
      continue;
    d = 2 * d + !reader_within(spelling, section);
    if (d < *nearest) {
      *nearest = d;
      found = key->name;
    }
  }
  return found;
}

static const char *reader_nearest_section(const char *name, uint32_t *nearest)
{
  const char *found = NULL;
  *nearest = UINT32_MAX;
  for (size_t i = 0; i < READER_SECTION_COUNT; i++) {
    uint32_t d = word_distance(name, reader_sections[i].name);
    if (d != UINT32_MAX && 2 * d < *nearest && reader_sections[i].current) {
      *nearest = 2 * d;
      found = reader_sections[i].current;
    }
  }
  return found;
}

static void reader_list(char *buf, size_t size, const char *word)
{
  size_t used = strlen(buf);
  snprintf(buf + used, size - used, "%s%s", used ? ", " : "", word);
}

static void reader_unknown_section(struct report *report, const char *name, struct report_mark at)
{
  uint32_t key_distance, section_distance;
  const char *key = reader_nearest_key("", name, &key_distance);
  const char *section = reader_nearest_section(name, &section_distance);
  char known[256] = "";
  if (key || section) {
    report_error(report, at, CHI_ECONFIG, "unknown key \"%.80s\"; did you mean \"%s\"?", name,
                 section_distance <= key_distance ? section : key);
    return;
  }
  for (size_t i = 0; i < READER_SECTION_COUNT; i++) {
    if (reader_sections[i].current && !strcmp(reader_sections[i].name, reader_sections[i].current))
      reader_list(known, sizeof(known), reader_sections[i].name);
  }
  report_error(report, at, CHI_ECONFIG, "unknown key \"%.80s\"; the sections are %s", name, known);
}

static void reader_unknown_key(struct report *report, const char *section, const char *name,
                               struct report_mark at)
{
  uint32_t distance;
  const char *key = reader_nearest_key(section, name, &distance);
  char known[512] = "";
  if (key) {
    report_error(report, at, CHI_ECONFIG, "unknown key \"%s.%.80s\"; did you mean \"%s\"?", section,
                 name, key);
    return;
  }
  for (size_t i = 0; i < READER_SPELLING_COUNT; i++) {
    if (reader_within(reader_spelling(i), section))
      reader_list(known, sizeof(known), reader_leaf(reader_spelling(i)));
  }
  report_error(report, at, CHI_ECONFIG, "unknown key \"%s.%.80s\"; \"%s\" has %s", section, name,
               section, known);
}

/* ---- reading ---------------------------------------------------------------------------- */

/* Notes that something was written at `at`; complains if it was written before. */
static bool reader_first(struct report *report, struct report_mark *seen, const char *what,
                         const char *name, struct report_mark at)
{
  if (seen->line) {
    report_error(report, at, CHI_ECONFIG, "%s\"%s\" is given twice, first in line %d", what, name,
                 seen->line);
    return false;
  }
  *seen = at;
  return true;
}

CHI_PRIVATE enum reader_step reader_section(struct reader *r, const char *name,
                                            struct report_mark at, const struct reader_value *value)
{
  size_t i = 0;
  bool compose;
  while (i < READER_SECTION_COUNT && strcmp(reader_sections[i].name, name) != 0)
    i++;
  if (i == READER_SECTION_COUNT) {
    reader_unknown_section(r->report, name, at);
    return READER_SKIP;
  }
  if (!reader_first(r->report, &r->sections[i], "section ", reader_sections[i].name, at) ||
      value->kind == READER_REFUSED)
    return READER_SKIP;
  compose = strcmp(name, "compose") == 0;
  if (value->kind != (compose ? READER_LIST : READER_MAP)) {
    reader_unexpected(r->report, reader_sections[i].name,
                      compose ? "a list of pools" : "a map of keys", value);
    return READER_SKIP;
  }
  if (compose)
    config_drop_pools(r->config);
  r->section = reader_sections[i].name;
  return compose ? READER_POOLS : READER_KEYS;
}

/* Appends n bytes to the text in out; *used grows beyond room when they do not fit. */
static void reader_append(char *out, size_t room, size_t *used, const char *bytes, size_t n)
{
  if (*used < room && n < room - *used) {
    memcpy(out + *used, bytes, n);
    out[*used + n] = '\0';
  }
  *used += n;
}

/* Appends the value of the variable at p, which begins with "${", and gives what follows it; NULL
 * after complaining. */
static const char *reader_variable(struct reader *r, const char *what,
                                   const struct reader_value *value, const char *p, char *out,
                                   size_t room, size_t *used)
{
  char name[CHI_NAME_MAX] = "";
  const char *end = strchr(p, '}'), *found = NULL;
  size_t n = end ? (size_t)(end - p - 2) : 0;
  if (!end) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: \"${\" has no closing \"}\"", what);
    return NULL;
  }
  memcpy(name, p + 2, n < sizeof(name) ? n : sizeof(name) - 1);
  if (n >= sizeof(name) || !config_is_identifier(name) || strpbrk(name, ".-")) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: \"%.80s\" is not a variable's name", what,
                 name);
    return NULL;
  }
  if (r->lookup)
    found = r->lookup(r->lookup_arg, name);
  if (!found) {
    report_error(r->report, value->at, CHI_ECONFIG, "%s: the variable %.80s is not set", what,
                 name);
    return NULL;
  }
  reader_append(out, room, used, found, strlen(found));
  return end + 1;
}

/* Copies a path or name, with "${VAR}" replaced and "$${" made "${". Complains and returns false
 * if that cannot be done or gives more than fits. */
static bool reader_expand(struct reader *r, const char *what, const struct reader_value *value,
                          char *out, size_t room)
{
  const char *p = value->text;
  size_t used = 0;
  out[0] = '\0';
  while (p && *p && used < room) {
    if (strncmp(p, "$${", 3) == 0) {
      reader_append(out, room, &used, "${", 2);
      p += 3;
    } else if (strncmp(p, "${", 2) == 0) {
      p = reader_variable(r, what, value, p, out, room, &used);
    } else {
      reader_append(out, room, &used, p++, 1);
    }
  }
  if (p && used < room)
    return true;
  if (p)
    report_error(r->report, value->at, CHI_ECONFIG, "%s: longer than %zu bytes", what, room - 1);
  out[0] = '\0';
  return false;
}

/* Text that was meant as text: not a number or a boolean by its looks. */
static bool reader_wants_text(struct report *report, const char *what, const char *expected,
                              const struct reader_value *value)
{
  if (value->kind == READER_TEXT)
    return true;
  if (value->kind == READER_NUMBER || value->kind == READER_BOOL)
    report_error(report, value->at, CHI_ECONFIG,
                 "%s: expected %s, found the %s %.80s; quote it if it is meant as text", what,
                 expected, value->kind == READER_BOOL ? "boolean" : "number", value->text);
  else
    reader_unexpected(report, what, expected, value);
  return false;
}

static bool reader_parse(struct reader *r, const struct config_key *key,
                         const struct reader_value *value, struct config_value *out)
{
  char buf[CONFIG_EXPECTED_MAX];
  const char *expected = config_key_expected(key, buf);
  size_t room = key->type == CONFIG_PATH ? CHI_PATH_MAX : CHI_NAME_MAX;
  struct reader_value found = *value;
  out->number = 0;
  out->text[0] = '\0';
  if (config_key_is_text(key)) {
    if (!reader_wants_text(r->report, key->name, expected, value) ||
        !reader_expand(r, key->name, value, out->text, room))
      return false;
    if (config_text_valid(key, out->text))
      return true;
    found.text = out->text;
  } else if (value->kind == READER_TEXT || value->kind == READER_NUMBER ||
             (value->kind == READER_BOOL && key->type == CONFIG_SWITCH)) {
    if (config_parse(key, value->text, &out->number))
      return true;
  }
  reader_unexpected(r->report, key->name, expected, &found);
  return false;
}

/* Notes an older spelling of a value that is a word. */
static void reader_note_word(struct reader *r, const struct config_key *key,
                             const struct reader_value *value, uint64_t number)
{
  const char *word;
  if (!config_key_is_word(key))
    return;
  word = config_word(key, number);
  if (strcmp(value->text, word) != 0)
    report_note(r->report, value->at, CHI_LOG_INFO, "\"%s\" is now spelled \"%s\"", value->text,
                word);
}

/* Stores a valid value unless another spelling of the key gave another one. */
static void reader_accept(struct reader *r, const struct config_key *key, size_t spelling,
                          struct report_mark at, const struct config_value *value)
{
  int *given = &r->given[key - config_key_at(0)];
  struct config_value other;
  if (*given) {
    size_t first = (size_t)*given - 1;
    config_get(r->config, key, &other);
    if (other.number != value->number || strcmp(other.text, value->text) != 0)
      report_error(r->report, at, CHI_ECONFIG,
                   "\"%s\" differs from \"%s\" in line %d, which is the same key",
                   reader_spelling(spelling), reader_spelling(first), r->spellings[first].line);
    return;
  }
  *given = (int)spelling + 1;
  config_put(r->config, key, value);
}

CHI_PRIVATE void reader_key(struct reader *r, const char *name, struct report_mark at,
                            const struct reader_value *value)
{
  const struct config_key *key;
  struct config_value parsed;
  size_t i = 0;
  CHI_ASSERT(r->section);
  while (i < READER_SPELLING_COUNT && !(reader_within(reader_spelling(i), r->section) &&
                                        strcmp(reader_leaf(reader_spelling(i)), name) == 0))
    i++;
  if (i == READER_SPELLING_COUNT) {
    reader_unknown_key(r->report, r->section, name, at);
    return;
  }
  if (!reader_first(r->report, &r->spellings[i], "", reader_spelling(i), at))
    return;
  key = reader_meaning(i);
  if (!key) {
    report_note(r->report, at, CHI_LOG_WARNING, "\"%s\" has no meaning any more and is ignored",
                reader_spelling(i));
    return;
  }
  if (value->kind == READER_REFUSED)
    return;
  if (i >= CONFIG_KEY_COUNT)
    report_note(r->report, at, CHI_LOG_INFO, "\"%s\" is now spelled \"%s\"", reader_spelling(i),
                key->name);
  if (!reader_parse(r, key, value, &parsed))
    return;
  reader_note_word(r, key, value, parsed.number);
  reader_accept(r, key, i, at, &parsed);
}

/* ---- reading compose -------------------------------------------------------------------- */

static chi_compose_entry *reader_last_pool(const struct reader *r)
{
  CHI_ASSERT(r->config->compose_count > 0);
  return &r->config->compose[r->config->compose_count - 1];
}

CHI_PRIVATE bool reader_pool(struct reader *r, const struct reader_value *value)
{
  chi_compose_entry *entry;
  if (value->kind == READER_REFUSED)
    return false;
  if (value->kind != READER_MAP) {
    reader_unexpected(r->report, "compose", "a map that describes a pool", value);
    return false;
  }
  if (r->config->compose_count >= CONFIG_POOLS_MAX) {
    if (!r->overfull)
      report_error(r->report, value->at, CHI_ECONFIG, "compose: more than %d pools",
                   CONFIG_POOLS_MAX);
    r->overfull = true;
    return false;
  }
  entry = config_new_pool(r->config);
  if (!entry) {
    report_error(r->report, value->at, CHI_ENOMEM, "compose: out of memory");
    return false;
  }
  r->pool = value->at;
  entry->line = value->at.line;
  entry->column = value->at.column;
  memset(r->fields, 0, sizeof(r->fields));
  return true;
}

static void reader_required(struct reader *r, size_t field, const struct reader_value *value)
{
  static const char *const expected[] = {"the name of a module", "a name or path",
                                         "dynamic, local or broadcast", "an id such as \"300.0\""};
  chi_compose_entry *entry = reader_last_pool(r);
  const char *what = reader_fields[field];
  struct reader_value found = *value;
  char name[CHI_PATH_MAX];
  bool ok = value->kind == READER_TEXT;
  if (field == READER_POOL_ID) {
    ok = (ok || value->kind == READER_NUMBER) &&
         config_parse_id(value->text, &entry->pool_major, &entry->pool_minor);
  } else if (!reader_wants_text(r->report, what, expected[field], value)) {
    return;
  } else if (field == READER_MOD_NAME) {
    ok = config_is_identifier(value->text);
    snprintf(entry->mod_name, sizeof(entry->mod_name), "%s", ok ? value->text : "");
  } else if (field == READER_POOL_QUERY) {
    ok = config_is_query(value->text);
    snprintf(entry->pool_query, sizeof(entry->pool_query), "%s", ok ? value->text : "");
  } else {
    if (!reader_expand(r, what, value, name, sizeof(name)))
      return;
    found.text = name;
    ok = *name && utf8_is_line(name);
    snprintf(entry->pool_name, sizeof(entry->pool_name), "%s", ok ? name : "");
  }
  if (!ok)
    reader_unexpected(r->report, what, expected[field], &found);
}

static void reader_param(struct reader *r, const char *name, struct report_mark at,
                         const struct reader_value *value)
{
  chi_compose_entry *entry = reader_last_pool(r);
  const chi_param *other = config_find_param(entry, name);
  int rc;
  if (value->kind >= READER_NOTHING) {
    reader_unexpected(r->report, name, "a value", value);
    return;
  }
  if (other) {
    report_error(r->report, at, CHI_ECONFIG, "\"%s\" is given twice, first in line %d", name,
                 other->line);
    return;
  }
  rc = chi_config_add_param(entry, name, value->text);
  if (rc == CHI_OK) {
    entry->params[entry->param_count - 1].line = at.line;
    entry->params[entry->param_count - 1].column = at.column;
  } else if (rc == CHI_ERANGE) {
    report_error(r->report, at, CHI_ECONFIG, "more than %d parameters", CONFIG_PARAMS_MAX);
  } else if (rc == CHI_EINVAL) {
    report_error(r->report, at, CHI_ECONFIG, "\"%.80s\" is not a parameter's name", name);
  } else {
    report_error(r->report, at, rc, "compose: out of memory");
  }
}

CHI_PRIVATE bool reader_field(struct reader *r, const char *name, struct report_mark at,
                              const struct reader_value *value)
{
  size_t i = 0;
  while (i < READER_FIELD_COUNT && strcmp(reader_fields[i], name) != 0)
    i++;
  if (i < READER_FIELD_COUNT) {
    if (reader_first(r->report, &r->fields[i], "", name, at) && value->kind != READER_REFUSED)
      reader_required(r, i, value);
    return false;
  }
  if (value->kind == READER_REFUSED)
    return false;
  if (value->kind == READER_MAP)
    return true;
  reader_param(r, name, at, value);
  return false;
}

static void reader_missing(struct reader *r, const char *field)
{
  const chi_compose_entry *entry = reader_last_pool(r);
  for (uint32_t i = 0; i < entry->param_count; i++) {
    const chi_param *p = &entry->params[i];
    if (word_distance(p->name, field) != UINT32_MAX) {
      report_error(r->report, (struct report_mark){p->line, p->column}, CHI_ECONFIG,
                   "this pool has no \"%s\"; did you mean that by \"%.80s\"?", field, p->name);
      return;
    }
  }
  report_error(r->report, r->pool, CHI_ECONFIG, "this pool has no \"%s\"", field);
}

CHI_PRIVATE void reader_pool_end(struct reader *r)
{
  const chi_compose_entry *entry = reader_last_pool(r), *other;
  for (size_t i = 0; i < READER_FIELD_COUNT; i++) {
    if (!r->fields[i].line)
      reader_missing(r, reader_fields[i]);
  }
  other = config_find_pool(r->config, r->config->compose_count - 1, entry->pool_major,
                           entry->pool_minor, "");
  if (other)
    report_error(r->report, r->fields[READER_POOL_ID], CHI_ECONFIG,
                 "pool id %u.%u is taken by the pool of line %d", entry->pool_major,
                 entry->pool_minor, other->line);
  other = config_find_pool(r->config, r->config->compose_count - 1, 0, 0, entry->pool_name);
  if (other)
    report_error(r->report, r->fields[READER_POOL_NAME], CHI_ECONFIG,
                 "pool name \"%.200s\" is taken by the pool of line %d", entry->pool_name,
                 other->line);
}

CHI_PRIVATE void reader_end(struct reader *r)
{
  struct report_mark last = {0, 0};
  const char *key;
  chi_error err;
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *name = config_key_at(i);
    struct reader_value preset = {READER_TEXT, name->preset, {0, 0}};
    struct config_value value;
    if (name->type != CONFIG_NAME)
      continue;
    if (reader_written(r, name->name).line > last.line)
      last = reader_written(r, name->name);
    config_get(r->config, name, &value);
    if (!*value.text && reader_parse(r, name, &preset, &value))
      config_put(r->config, name, &value);
  }
  if (!r->report->errors && config_check_security(r->config, &key, &err) != CHI_OK)
    report_error(r->report, reader_written(r, key), CHI_ECONFIG, "%s", err.text);
  /* Each value was checked when it was read, so it is one name being given to two segments, or
   * something that was in the struct before. */
  if (!r->report->errors && chi_config_check(r->config, &err) != CHI_OK)
    report_error(r->report, last, CHI_ECONFIG, "%s", err.text);
}

CHI_PRIVATE struct report_mark reader_written(const struct reader *r, const char *key)
{
  const struct config_key *found = config_find_key(key);
  int given;
  CHI_ASSERT(found);
  given = r->given[found - config_key_at(0)];
  return given ? r->spellings[given - 1] : (struct report_mark){0, 0};
}
