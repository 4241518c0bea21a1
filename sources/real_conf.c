/* real_conf.c - configuration from YAML files, with libyaml. */
#include "real_conf.h"

#ifndef CHI_OMIT_REAL

#include "error.h"
#include "hostfile.h"
#include "units.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

#define REAL_CONF_FILE_MAX ((size_t)1 << 20)     /* far beyond any configuration */
#define REAL_CONF_HOSTFILE_MAX ((size_t)1 << 24) /* CONFIG_HOSTS_MAX long lines */
#define REAL_CONF_DEPTH_MAX 16                   /* of maps and lists within each other */

/* A file on its way through libyaml. `event` is the current one; after a syntax error, or when
 * reading on makes no sense, there are no more. */
struct real_conf {
  yaml_parser_t parser;
  yaml_event_t event;
  struct reader *reader;
  struct report *report;
  const char *text;
  size_t size;
  int depth; /* maps and lists that have begun and not ended */
  bool over;
};

/* A key of a map: its text and place. */
struct real_conf_key {
  char name[CHI_NAME_MAX];
  struct report_mark at;
};

/* ---- events ---------------------------------------------------------------------------------- */

static struct report_mark real_conf_mark(yaml_mark_t mark)
{
  return (struct report_mark){(int)mark.line + 1, (int)mark.column + 1};
}

/* libyaml says of a malformed character only at which byte it is. */
static struct report_mark real_conf_mark_byte(const struct real_conf *c, size_t offset)
{
  struct report_mark at = {1, 1};
  for (size_t i = 0; i < offset && i < c->size; i++) {
    if (c->text[i] == '\n')
      at = (struct report_mark){at.line + 1, 1};
    else if ((c->text[i] & 0xc0) != 0x80)
      at.column++;
  }
  return at;
}

static void real_conf_syntax_error(struct real_conf *c)
{
  const yaml_parser_t *p = &c->parser;
  const char *problem = p->problem ? p->problem : "malformed";
  struct report_mark at = real_conf_mark(p->problem_mark);
  if (p->error == YAML_MEMORY_ERROR)
    report_error(c->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
  else if (p->error == YAML_READER_ERROR)
    report_error(c->report, real_conf_mark_byte(c, p->problem_offset), CHI_ECONFIG, "%s", problem);
  else if (p->context && p->context_mark.line != p->problem_mark.line)
    report_error(c->report, at, CHI_ECONFIG, "%s %s that begins in line %d", problem, p->context,
                 real_conf_mark(p->context_mark).line);
  else if (p->context)
    report_error(c->report, at, CHI_ECONFIG, "%s %s", problem, p->context);
  else
    report_error(c->report, at, CHI_ECONFIG, "%s", problem);
}

static bool real_conf_begins(const yaml_event_t *e)
{
  return e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT;
}

static bool real_conf_ends(const yaml_event_t *e)
{
  return e->type == YAML_MAPPING_END_EVENT || e->type == YAML_SEQUENCE_END_EVENT;
}

/* Moves to the next event and gives its type; YAML_NO_EVENT when there are no more. */
static yaml_event_type_t real_conf_next(struct real_conf *c)
{
  yaml_event_delete(&c->event);
  c->over = c->over || report_gave_up(c->report);
  if (c->over)
    return YAML_NO_EVENT;
  if (!yaml_parser_parse(&c->parser, &c->event)) {
    real_conf_syntax_error(c);
    c->over = true;
  }
  c->depth += real_conf_begins(&c->event);
  c->depth -= real_conf_ends(&c->event);
  if (c->depth > REAL_CONF_DEPTH_MAX) {
    report_error(c->report, real_conf_mark(c->event.start_mark), CHI_ECONFIG,
                 "more than %d maps and lists within each other", REAL_CONF_DEPTH_MAX);
    c->over = true;
  }
  if (c->over)
    yaml_event_delete(&c->event);
  return c->event.type;
}

/* Passes over the rest of the value whose first event is the current one. */
static void real_conf_skip(struct real_conf *c)
{
  int outside = c->depth - real_conf_begins(&c->event);
  while (c->depth > outside && real_conf_next(c) != YAML_NO_EVENT) {
  }
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool real_conf_is_one_of(const char *text, const char *const *words)
{
  while (*words && strcmp(text, *words) != 0)
    words++;
  return *words != NULL;
}

static bool real_conf_is_number(const char *text)
{
  size_t digits = 0, points = 0;
  text += *text == '+' || *text == '-';
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o') && text[2])
    return strspn(text + 2, "0123456789abcdefABCDEF") == strlen(text + 2);
  for (; (*text >= '0' && *text <= '9') || *text == '.'; text++) {
    digits += *text != '.';
    points += *text == '.';
  }
  if (!digits || points > 1)
    return false;
  if (*text == 'e' || *text == 'E') {
    text++;
    text += *text == '+' || *text == '-';
    return *text && strspn(text, "0123456789") == strlen(text);
  }
  return !*text;
}

/* What an unquoted scalar is by its looks. */
static int real_conf_plain_kind(const char *text)
{
  static const char *const nothing[] = {"", "~", "null", "Null", "NULL", NULL};
  static const char *const booleans[] = {"true", "True", "TRUE", "false", "False", "FALSE", "yes",
                                         "Yes",  "YES",  "no",   "No",    "NO",    "on",    "On",
                                         "ON",   "off",  "Off",  "OFF",   NULL};
  if (real_conf_is_one_of(text, nothing))
    return READER_NOTHING;
  if (real_conf_is_one_of(text, booleans))
    return READER_BOOL;
  return real_conf_is_number(text) ? READER_NUMBER : READER_TEXT;
}

/* What YAML offers beyond plain maps, lists and scalars is refused: it would be surprising if it
 * were ignored. */
static bool real_conf_refuse(struct real_conf *c, const yaml_char_t *anchor, const yaml_char_t *tag)
{
  struct report_mark at = real_conf_mark(c->event.start_mark);
  if (anchor)
    report_error(c->report, at, CHI_ECONFIG, "anchors and aliases (\"%.80s\") are not supported",
                 (const char *)anchor);
  else if (tag)
    report_error(c->report, at, CHI_ECONFIG, "tags (\"%.80s\") are not supported",
                 (const char *)tag);
  return anchor || tag;
}

/* Describes the value whose first event is the current one; its text lives as long as the event.
 * False after complaining. */
static bool real_conf_describe(struct real_conf *c, struct reader_value *value)
{
  const yaml_event_t *e = &c->event;
  *value = (struct reader_value){READER_NOTHING, "", real_conf_mark(e->start_mark)};
  switch (e->type) {
  case YAML_MAPPING_START_EVENT:
    value->kind = READER_MAP;
    return !real_conf_refuse(c, e->data.mapping_start.anchor, e->data.mapping_start.tag);
  case YAML_SEQUENCE_START_EVENT:
    value->kind = READER_LIST;
    return !real_conf_refuse(c, e->data.sequence_start.anchor, e->data.sequence_start.tag);
  case YAML_ALIAS_EVENT:
    return !real_conf_refuse(c, e->data.alias.anchor, NULL);
  case YAML_SCALAR_EVENT:
    break;
  default:
    return false;
  }
  value->text = (const char *)e->data.scalar.value;
  value->kind = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? real_conf_plain_kind(value->text)
                                                                : READER_TEXT;
  if (strlen(value->text) != e->data.scalar.length) {
    report_error(c->report, value->at, CHI_ECONFIG, "text with a NUL character");
    return false;
  }
  return !real_conf_refuse(c, e->data.scalar.anchor, e->data.scalar.tag);
}

/* The same, with the kind saying what was refused. */
static bool real_conf_value(struct real_conf *c, struct reader_value *value)
{
  bool good = real_conf_describe(c, value);
  if (!good)
    value->kind = READER_REFUSED;
  return good;
}

/* Reads the key that is the current event. False after complaining. */
static bool real_conf_read_key(struct real_conf *c, struct real_conf_key *key)
{
  struct reader_value value;
  if (!real_conf_value(c, &value))
    return false;
  key->at = value.at;
  if (value.kind >= READER_MAP) {
    report_error(c->report, value.at, CHI_ECONFIG, "a key must be a word");
    return false;
  }
  if (strlen(value.text) >= sizeof(key->name)) {
    report_error(c->report, value.at, CHI_ECONFIG, "a key of more than %zu bytes",
                 sizeof(key->name) - 1);
    return false;
  }
  memcpy(key->name, value.text, strlen(value.text) + 1);
  return true;
}

/* Steps through a map: moves to the first event of the next value and describes key and value.
 * False at the end of the map. Between the calls the value must be passed over. */
static bool real_conf_entry(struct real_conf *c, struct real_conf_key *key,
                            struct reader_value *value)
{
  for (;;) {
    yaml_event_type_t type = real_conf_next(c);
    bool good;
    if (type == YAML_MAPPING_END_EVENT || type == YAML_NO_EVENT)
      return false;
    good = real_conf_read_key(c, key);
    real_conf_skip(c);
    if (real_conf_next(c) == YAML_NO_EVENT)
      return false;
    real_conf_value(c, value);
    if (good)
      return true;
    real_conf_skip(c);
  }
}

/* ---- the file -------------------------------------------------------------------------------- */

static void real_conf_section(struct real_conf *c)
{
  struct real_conf_key key;
  struct reader_value value;
  while (real_conf_entry(c, &key, &value)) {
    reader_key(c->reader, key.name, key.at, &value);
    real_conf_skip(c);
  }
}

/* Hands over one key of a pool, and the keys of a map below it with their names joined: the depth
 * of the recursion is bounded with the depth of the file. */
static void real_conf_field(struct real_conf *c, const char *prefix)
{
  struct real_conf_key key;
  struct reader_value value;
  char name[CHI_NAME_MAX];
  while (real_conf_entry(c, &key, &value)) {
    int n = snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key.name);
    if (n < 0 || (size_t)n >= sizeof(name))
      report_error(c->report, key.at, CHI_ECONFIG, "a key of more than %zu bytes",
                   sizeof(name) - 1);
    else if (reader_field(c->reader, name, key.at, &value)) {
      real_conf_field(c, name);
      continue;
    }
    real_conf_skip(c);
  }
}

static void real_conf_compose(struct real_conf *c)
{
  struct reader_value value;
  for (;;) {
    yaml_event_type_t type = real_conf_next(c);
    if (type == YAML_SEQUENCE_END_EVENT || type == YAML_NO_EVENT)
      return;
    if (!real_conf_value(c, &value) || !reader_pool(c->reader, &value)) {
      real_conf_skip(c);
      continue;
    }
    real_conf_field(c, "");
    if (!c->over)
      reader_pool_end(c->reader);
  }
}

static void real_conf_sections(struct real_conf *c)
{
  struct real_conf_key key;
  struct reader_value value;
  while (real_conf_entry(c, &key, &value)) {
    switch (reader_section(c->reader, key.name, key.at, &value)) {
    case READER_SKIP:
      real_conf_skip(c);
      break;
    case READER_KEYS:
      real_conf_section(c);
      break;
    case READER_POOLS:
      real_conf_compose(c);
      break;
    }
  }
}

static void real_conf_document(struct real_conf *c)
{
  struct reader_value value;
  real_conf_next(c);
  if (!real_conf_value(c, &value))
    return;
  if (value.kind == READER_MAP) {
    real_conf_sections(c);
  } else if (value.kind == READER_NOTHING && !*value.text) {
    return;
  } else {
    report_error(c->report, value.at, CHI_ECONFIG,
                 "expected a map of sections such as \"networking:\", found %s",
                 value.kind == READER_LIST ? "a list" : "a single value");
    c->over = true;
  }
}

CHI_PRIVATE void real_conf_parse(struct reader *r, const char *text, size_t size)
{
  struct real_conf c = {.reader = r, .report = r->report, .text = text, .size = size};
  bool seen = false;
  if (!yaml_parser_initialize(&c.parser)) {
    report_error(r->report, (struct report_mark){0, 0}, CHI_ENOMEM, "out of memory");
    return;
  }
  yaml_parser_set_input_string(&c.parser, (const unsigned char *)text, size);
  for (yaml_event_type_t type = real_conf_next(&c);
       type != YAML_STREAM_END_EVENT && type != YAML_NO_EVENT; type = real_conf_next(&c)) {
    if (type != YAML_DOCUMENT_START_EVENT)
      continue;
    if (seen) {
      report_error(r->report, real_conf_mark(c.event.start_mark), CHI_ECONFIG,
                   "a second document begins here; a configuration is one");
      c.over = true;
    } else {
      real_conf_document(&c);
    }
    seen = true;
  }
  yaml_event_delete(&c.event);
  yaml_parser_delete(&c.parser);
  reader_end(r);
}

/* ---- the world ------------------------------------------------------------------------------- */

/* Holds the user's name while it is expanded. */
struct real_conf_env {
  char user[CHI_NAME_MAX];
};

static const char *real_conf_lookup(void *arg, const char *name)
{
  struct real_conf_env *env = arg;
  const char *value = getenv(name);
  struct passwd entry, *found = NULL;
  char buf[4096];
  if (strcmp(name, "USER") != 0 || (value && *value))
    return value;
  if (getpwuid_r(getuid(), &entry, buf, sizeof(buf), &found) == 0 && found)
    snprintf(env->user, sizeof(env->user), "%s", found->pw_name);
  else
    snprintf(env->user, sizeof(env->user), "%lu", (unsigned long)getuid());
  return env->user;
}

static int real_conf_status(int error)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    return CHI_ENOENT;
  case EACCES:
  case EPERM:
    return CHI_EACCES;
  case ENOMEM:
    return CHI_ENOMEM;
  default:
    return CHI_EIO;
  }
}

/* Reads all of a file, but at most max bytes and one, into memory that the caller frees. */
static int real_conf_read(int fd, size_t max, char **text, size_t *size)
{
  size_t room = 0;
  ssize_t n;
  *text = NULL;
  *size = 0;
  do {
    if (*size == room) {
      char *grown = realloc(*text, room = room ? room * 2 : 4096);
      if (!grown)
        return CHI_ENOMEM;
      *text = grown;
    }
    n = read(fd, *text + *size, room - *size);
    if (n > 0)
      *size += (size_t)n;
  } while (*size <= max && (n > 0 || (n < 0 && errno == EINTR)));
  return n < 0 ? real_conf_status(errno) : CHI_OK;
}

/* Reads the file at path; `what` it is, and `at` where it is named, are for the report. NULL after
 * reporting; the caller frees the text. */
static char *real_conf_slurp(struct report *report, struct report_mark at, const char *what,
                             const char *path, size_t max, size_t *size)
{
  char *text = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  int rc = fd < 0 ? real_conf_status(errno) : real_conf_read(fd, max, &text, size);
  if (rc != CHI_OK)
    report_error(report, at, rc, "cannot read %s: %m", what);
  else if (*size > max)
    report_error(report, at, rc = CHI_ECONFIG, "%s is larger than %zu bytes", what, max);
  if (fd >= 0)
    close(fd);
  if (rc == CHI_OK)
    return text;
  free(text);
  return NULL;
}

static int real_conf_home(char *path, size_t size)
{
  const char *home = getenv("HOME");
  struct passwd entry, *found = NULL;
  char buf[4096];
  if ((!home || !*home) && getpwuid_r(getuid(), &entry, buf, sizeof(buf), &found) == 0 && found)
    home = found->pw_dir;
  if (!home || !*home)
    return CHI_ENOENT;
  if ((size_t)snprintf(path, size, "%s/.chimaera/chimaera.yaml", home) >= size)
    return CHI_ETOOBIG;
  if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
    return CHI_ENOENT;
  return CHI_OK;
}

int chi_config_path(char *path, size_t size)
{
  static const char *const variables[] = {"CHI_SERVER_CONF", "WRP_RUNTIME_CONF"};
  for (size_t i = 0; i < CHI_COUNT(variables); i++) {
    const char *value = getenv(variables[i]);
    if (value && *value)
      return (size_t)snprintf(path, size, "%s", value) < size ? CHI_OK : CHI_ETOOBIG;
  }
  return real_conf_home(path, size);
}

static void real_conf_hosts(struct reader *r)
{
  struct report_mark at = reader_written(r, "networking.hostfile");
  const char *file = r->report->file;
  char what[CHI_PATH_MAX + 16], *text;
  size_t size;
  snprintf(what, sizeof(what), "the hostfile %s", r->config->hostfile);
  text = real_conf_slurp(r->report, at, what, r->config->hostfile, REAL_CONF_HOSTFILE_MAX, &size);
  if (!text)
    return;
  r->report->file = r->config->hostfile;
  hostfile_parse(r->config, text, size, r->report);
  r->report->file = file;
  free(text);
}

static void real_conf_node(chi_config *config, struct report *report)
{
  const char *text = getenv("CHI_NODE");
  uint64_t node;
  if (!text || !*text)
    return;
  if (units_parse_count(text, &node) == CHI_OK && node < CONFIG_HOSTS_MAX)
    config->node = (uint32_t)node;
  else
    report_error(report, (struct report_mark){0, 0}, CHI_ECONFIG,
                 "CHI_NODE: expected a node's number from 0 to %d, found \"%.80s\"",
                 CONFIG_HOSTS_MAX - 1, text);
}

int chi_config_load(chi_config *config, const char *path, chi_config_report *report, void *arg,
                    chi_error *err)
{
  char found[CHI_PATH_MAX];
  struct real_conf_env env;
  struct report problems = {NULL, report, arg, err, 0, CHI_OK};
  struct reader r = {config, &problems, .lookup = real_conf_lookup, .lookup_arg = &env};
  char *text = NULL;
  size_t size = 0;
  int rc = path ? CHI_OK : chi_config_path(found, sizeof(found));
  if (rc == CHI_ETOOBIG)
    report_error(&problems, (struct report_mark){0, 0}, CHI_ECONFIG, "its path is too long");
  if (problems.errors)
    return problems.code;
  problems.file = path ? path : rc == CHI_OK ? found : NULL;
  if (problems.file) {
    text = real_conf_slurp(&problems, (struct report_mark){0, 0}, "it", problems.file,
                           REAL_CONF_FILE_MAX, &size);
    if (!text)
      return problems.code;
  }
  real_conf_parse(&r, text ? text : "", size);
  free(text);
  if (*config->hostfile)
    real_conf_hosts(&r);
  else
    config_drop_hosts(config);
  real_conf_node(config, &problems);
  return problems.code;
}

CHI_PRIVATE int real_conf_names(chi_config *config, chi_error *err)
{
  struct real_conf_env env;
  struct report problems = {NULL, NULL, NULL, err, 0, CHI_OK};
  struct reader r = {config, &problems, .lookup = real_conf_lookup, .lookup_arg = &env};
  reader_end(&r);
  return problems.code;
}

#undef REAL_CONF_FILE_MAX
#undef REAL_CONF_HOSTFILE_MAX
#undef REAL_CONF_DEPTH_MAX

#endif
