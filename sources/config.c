/* config.c - the configuration of a node: its keys, their defaults and bounds, the struct. */
#include "config.h"

#include "error.h"
#include "units.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CONFIG_PAGE 4096
#define CONFIG_KI ((uint64_t)1024)
#define CONFIG_MI (CONFIG_KI * CONFIG_KI)
#define CONFIG_TI (CONFIG_MI * CONFIG_MI)
#define CONFIG_US ((uint64_t)1000)
#define CONFIG_MS (CONFIG_US * 1000)
#define CONFIG_S (CONFIG_MS * 1000)
#define CONFIG_TIME_MAX (CONFIG_S * 86400 * 365) /* so that adding it to a clock is safe */
#define CONFIG_AT(field) offsetof(chi_config, field)

static const struct config_key config_keys[] = {
    {"workers.sched_threads", NULL, CONFIG_AT(sched_threads), CONFIG_COUNT, 1, 1024, 0},
    {"workers.slow_threads", NULL, CONFIG_AT(slow_threads), CONFIG_COUNT, 1, 1024, 0},
    {"workers.process_reaper_threads", "1", CONFIG_AT(process_reaper_threads), CONFIG_COUNT, 1,
     1024, 0},
    {"workers.single_thread", "false", CONFIG_AT(single_thread), CONFIG_SWITCH, 0, 1, 0},
    {"memory.main_segment_size", "1G", CONFIG_AT(main_segment_size), CONFIG_SIZE, 4 * CONFIG_MI,
     256 * CONFIG_TI, 1},
    {"memory.client_data_segment_size", "512M", CONFIG_AT(client_data_segment_size), CONFIG_SIZE,
     4 * CONFIG_MI, 256 * CONFIG_TI, 1},
    {"memory.runtime_data_segment_size", "512M", CONFIG_AT(runtime_data_segment_size), CONFIG_SIZE,
     4 * CONFIG_MI, 256 * CONFIG_TI, 1},
    {"networking.port", "5555", CONFIG_AT(port), CONFIG_COUNT, 1, 65535, 0},
    {"networking.neighborhood_size", "32", CONFIG_AT(neighborhood_size), CONFIG_COUNT, 1,
     CONFIG_NEIGHBORS_MAX, 0},
    {"networking.bulk_max", "4G", CONFIG_AT(bulk_max), CONFIG_SIZE, CONFIG_BULK_MIN,
     CONFIG_BULK_MOST, 1},
    {"networking.hostfile", "", CONFIG_AT(hostfile), CONFIG_PATH, 0, 0, 0},
    {"networking.wait_for_restart", "30", CONFIG_AT(wait_for_restart_ns), CONFIG_DURATION, 0,
     CONFIG_TIME_MAX, CONFIG_S},
    {"networking.wait_for_restart_poll_period", "1", CONFIG_AT(wait_for_restart_poll_ns),
     CONFIG_DURATION, CONFIG_MS, CONFIG_TIME_MAX, CONFIG_S},
    {"networking.security", "optional", CONFIG_AT(security), CONFIG_SECURITY, 0,
     CHI_SECURITY_REQUIRED, 0},
    {"networking.key_file", "", CONFIG_AT(key_file), CONFIG_PATH, 0, 0, 0},
    {"networking.authorized_keys", "", CONFIG_AT(authorized_keys), CONFIG_PATH, 0, 0, 0},
    {"logging.level", "info", CONFIG_AT(log_level), CONFIG_LEVEL, 0, CHI_LOG_ERROR, 0},
    {"logging.file", "/tmp/chimaera.log", CONFIG_AT(log_file), CONFIG_PATH, 0, 0, 0},
    {"runtime.stack_size", "65536", CONFIG_AT(stack_size), CONFIG_SIZE, 16 * CONFIG_KI,
     1024 * CONFIG_MI, CONFIG_PAGE},
    {"runtime.queue_depth", "10000", CONFIG_AT(queue_depth), CONFIG_COUNT, 1, 1048576, 0},
    {"runtime.lane_map_policy", "round_robin", CONFIG_AT(lane_policy), CONFIG_POLICY, 0,
     CHI_LANE_RANDOM, 0},
    {"runtime.heartbeat_interval", "1000", CONFIG_AT(heartbeat_interval_ns), CONFIG_DURATION,
     CONFIG_MS, CONFIG_TIME_MAX, CONFIG_MS},
    {"runtime.task_timeout", "30000", CONFIG_AT(task_timeout_ns), CONFIG_DURATION, CONFIG_MS,
     CONFIG_TIME_MAX, CONFIG_MS},
    {"runtime.first_busy_wait", "50", CONFIG_AT(spin_window_ns), CONFIG_DURATION, 0,
     CONFIG_TIME_MAX, CONFIG_US},
    {"shared_memory.main_segment_name", "chi_main_segment_${USER}", CONFIG_AT(main_segment_name),
     CONFIG_NAME, 0, 0, 0},
    {"shared_memory.client_data_segment_name", "chi_client_data_segment_${USER}",
     CONFIG_AT(client_data_segment_name), CONFIG_NAME, 0, 0, 0},
    {"shared_memory.runtime_data_segment_name", "chi_runtime_data_segment_${USER}",
     CONFIG_AT(runtime_data_segment_name), CONFIG_NAME, 0, 0, 0},
};

_Static_assert(CHI_COUNT(config_keys) == CONFIG_KEY_COUNT, "keys");

/* Values of the enumerations; an older word follows the current one. */
struct config_word {
  const char *word;
  int value;
};
static const struct config_word config_levels[] = {
    {"debug", CHI_LOG_DEBUG},  {"info", CHI_LOG_INFO},   {"warning", CHI_LOG_WARNING},
    {"warn", CHI_LOG_WARNING}, {"error", CHI_LOG_ERROR}, {NULL, 0},
};
static const struct config_word config_switches[] = {{"false", 0}, {"true", 1}, {NULL, 0}};
static const struct config_word config_policies[] = {
    {"round_robin", CHI_LANE_ROUND_ROBIN},
    {"map_by_pid_tid", CHI_LANE_BY_PID_TID},
    {"random", CHI_LANE_RANDOM},
    {NULL, 0},
};
static const struct config_word config_securities[] = {
    {"optional", CHI_SECURITY_OPTIONAL},
    {"required", CHI_SECURITY_REQUIRED},
    {NULL, 0},
};

CHI_PRIVATE bool config_key_is_text(const struct config_key *key)
{
  return key->type == CONFIG_PATH || key->type == CONFIG_NAME;
}

CHI_PRIVATE bool config_key_is_word(const struct config_key *key)
{
  return key->type == CONFIG_LEVEL || key->type == CONFIG_POLICY ||
         key->type == CONFIG_SECURITY || key->type == CONFIG_SWITCH;
}

static size_t config_room(const struct config_key *key)
{
  return key->type == CONFIG_PATH ? CHI_PATH_MAX : CHI_NAME_MAX;
}

CHI_PRIVATE void config_get(const chi_config *config, const struct config_key *key,
                            struct config_value *out)
{
  const char *field = (const char *)config + key->offset;
  uint32_t small;
  int word;
  out->text[0] = '\0';
  out->number = 0;
  if (config_key_is_text(key)) {
    size_t n = strnlen(field, config_room(key) - 1);
    memcpy(out->text, field, n);
    out->text[n] = '\0';
  } else if (key->type == CONFIG_COUNT) {
    memcpy(&small, field, sizeof(small));
    out->number = small;
  } else if (config_key_is_word(key)) {
    memcpy(&word, field, sizeof(word));
    out->number = word < 0 ? UINT64_MAX : (uint64_t)word;
  } else {
    memcpy(&out->number, field, sizeof(out->number));
  }
}

CHI_PRIVATE void config_put(chi_config *config, const struct config_key *key,
                            const struct config_value *value)
{
  char *field = (char *)config + key->offset;
  uint32_t small = (uint32_t)value->number;
  int word = (int)value->number;
  if (config_key_is_text(key)) {
    CHI_ASSERT(strlen(value->text) < config_room(key));
    memcpy(field, value->text, strlen(value->text) + 1);
  } else if (key->type == CONFIG_COUNT) {
    memcpy(field, &small, sizeof(small));
  } else if (config_key_is_word(key)) {
    memcpy(field, &word, sizeof(word));
  } else {
    memcpy(field, &value->number, sizeof(value->number));
  }
}

static const struct config_word *config_words(const struct config_key *key)
{
  return key->type == CONFIG_LEVEL    ? config_levels
         : key->type == CONFIG_POLICY ? config_policies
         : key->type == CONFIG_SWITCH ? config_switches
                                      : config_securities;
}

CHI_PRIVATE const char *config_word(const struct config_key *key, uint64_t value)
{
  const struct config_word *words = config_words(key);
  while (words->word && (uint64_t)words->value != value)
    words++;
  return words->word ? words->word : "?";
}

static bool config_match_word(const struct config_word *words, const char *text, uint64_t *out)
{
  for (; words->word; words++) {
    if (strcmp(words->word, text) == 0) {
      *out = (uint64_t)words->value;
      return true;
    }
  }
  return false;
}

CHI_PRIVATE bool config_parse(const struct config_key *key, const char *text, uint64_t *out)
{
  uint64_t value;
  int rc = CHI_EINVAL;
  if (key->type == CONFIG_COUNT)
    rc = units_parse_count(text, &value);
  else if (key->type == CONFIG_SIZE)
    rc = chi_parse_size(text, &value);
  else if (key->type == CONFIG_DURATION)
    rc = chi_parse_duration(text, key->unit, &value);
  else
    return config_match_word(config_words(key), text, out);
  if (rc != CHI_OK || value < key->min || value > key->max)
    return false;
  if (key->type == CONFIG_SIZE)
    value = (value + key->unit - 1) / key->unit * key->unit;
  *out = value;
  return true;
}

/* Letters, digits and a few signs, beginning with no sign. */
CHI_PRIVATE bool config_is_identifier(const char *text)
{
  static const char signs[] = "_.-";
  size_t i = 0;
  for (; text[i]; i++) {
    char c = text[i];
    bool sign = strchr(signs, c) != NULL;
    if (!sign && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z'))
      return false;
    if (i == 0 && sign && c != '_')
      return false;
  }
  return i > 0 && i < CHI_NAME_MAX;
}

CHI_PRIVATE bool config_is_query(const char *text)
{
  return strcmp(text, "dynamic") == 0 || strcmp(text, "local") == 0 ||
         strcmp(text, "broadcast") == 0;
}

CHI_PRIVATE bool config_text_valid(const struct config_key *key, const char *text)
{
  return utf8_is_line(text) && (key->type == CONFIG_PATH || (*text && !strchr(text, '/')));
}

CHI_PRIVATE bool config_parse_id(const char *text, uint32_t *major, uint32_t *minor)
{
  chi_pool_id id;
  if (units_parse_pool(text, &id) != CHI_OK || (id.major == 0 && id.minor == 0))
    return false;
  *major = id.major;
  *minor = id.minor;
  return true;
}

CHI_PRIVATE const char *config_key_expected(const struct config_key *key, char *buf)
{
  char low[CHI_FORMAT_MAX], high[CHI_FORMAT_MAX];
  const char *unit = key->unit == CONFIG_S    ? "seconds"
                     : key->unit == CONFIG_MS ? "milliseconds"
                                              : "microseconds";
  switch (key->type) {
  case CONFIG_COUNT:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a whole number from %llu to %llu",
             (unsigned long long)key->min, (unsigned long long)key->max);
    return buf;
  case CONFIG_SIZE:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a size from %s to %s: bytes, or a number with K, M, G or T",
             chi_format_size(key->min, low, sizeof(low)),
             chi_format_size(key->max, high, sizeof(high)));
    return buf;
  case CONFIG_DURATION:
    snprintf(buf, CONFIG_EXPECTED_MAX, "a time from %s to %s: %s, or a number with ns, us, ms or s",
             chi_format_duration(key->min, low, sizeof(low)),
             chi_format_duration(key->max, high, sizeof(high)), unit);
    return buf;
  case CONFIG_LEVEL:
    return "debug, info, warning or error";
  case CONFIG_POLICY:
    return "round_robin, map_by_pid_tid or random";
  case CONFIG_SECURITY:
    return "optional or required";
  case CONFIG_SWITCH:
    return "true or false";
  case CONFIG_PATH:
    return "a path";
  case CONFIG_NAME:
    return "a name without \"/\"";
  }
  return "";
}

CHI_PRIVATE const struct config_key *config_key_at(size_t i)
{
  CHI_ASSERT(i < CONFIG_KEY_COUNT);
  return &config_keys[i];
}

CHI_PRIVATE const struct config_key *config_find_key(const char *name)
{
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    if (strcmp(config_keys[i].name, name) == 0)
      return &config_keys[i];
  }
  return NULL;
}

/* ---- the struct ------------------------------------------------------------------------- */

CHI_PRIVATE void *config_memory(void *old, size_t size)
{
  if (size)
    return realloc(old, size);
  free(old);
  return NULL;
}

/* Makes room for one more item in *array, which has count. Arrays grow only here, by doubling, so
 * a count that is a power of two means that the array is full. */
static bool config_grow(void *array, uint32_t count, size_t item)
{
  void *old, *grown;
  if (count & (count - 1))
    return true;
  memcpy(&old, array, sizeof(old));
  grown = config_memory(old, (count ? (size_t)count * 2 : 1) * item);
  if (grown)
    memcpy(array, &grown, sizeof(grown));
  return grown != NULL;
}

static char *config_copy(const char *text)
{
  size_t size = strlen(text) + 1;
  char *copy = config_memory(NULL, size);
  return copy ? memcpy(copy, text, size) : NULL;
}

CHI_PRIVATE void config_drop_pools(chi_config *config)
{
  for (uint32_t i = 0; i < config->compose_count; i++) {
    chi_compose_entry *entry = &config->compose[i];
    for (uint32_t k = 0; k < entry->param_count; k++) {
      config_memory(entry->params[k].name, 0);
      config_memory(entry->params[k].value, 0);
    }
    config_memory(entry->params, 0);
  }
  config->compose = config_memory(config->compose, 0);
  config->compose_count = 0;
}

CHI_PRIVATE void config_drop_hosts(chi_config *config)
{
  config->hosts = config_memory(config->hosts, 0);
  config->host_count = 0;
}

void chi_config_init(chi_config *config)
{
  memset(config, 0, sizeof(*config));
  config->node = UINT32_MAX;
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    struct config_value value = {0, ""};
    bool ok = true;
    if (!key->preset || key->type == CONFIG_NAME)
      continue;
    if (key->type == CONFIG_PATH)
      snprintf(value.text, sizeof(value.text), "%s", key->preset);
    else
      ok = config_parse(key, key->preset, &value.number);
    CHI_ASSERT(ok);
    config_put(config, key, &value);
  }
}

void chi_config_free(chi_config *config)
{
  config_drop_pools(config);
  config_drop_hosts(config);
  chi_config_init(config);
}

CHI_PRIVATE const chi_compose_entry *config_find_pool(const chi_config *config, uint32_t count,
                                                      uint32_t major, uint32_t minor,
                                                      const char *name)
{
  for (uint32_t i = 0; i < count; i++) {
    const chi_compose_entry *e = &config->compose[i];
    bool same_id = (major || minor) && e->pool_major == major && e->pool_minor == minor;
    if (same_id || (*name && strcmp(e->pool_name, name) == 0))
      return e;
  }
  return NULL;
}

CHI_PRIVATE chi_compose_entry *config_new_pool(chi_config *config)
{
  chi_compose_entry *entry;
  if (!config_grow(&config->compose, config->compose_count, sizeof(*entry)))
    return NULL;
  entry = &config->compose[config->compose_count++];
  memset(entry, 0, sizeof(*entry));
  return entry;
}

int chi_config_add_pool(chi_config *config, const char *mod_name, const char *pool_name,
                        const char *pool_query, uint32_t major, uint32_t minor,
                        chi_compose_entry **entry)
{
  chi_compose_entry *new;
  if (!config_is_identifier(mod_name) || !*pool_name || strlen(pool_name) >= CHI_PATH_MAX ||
      !utf8_is_line(pool_name) || !config_is_query(pool_query) || (!major && !minor))
    return CHI_EINVAL;
  if (config->compose_count >= CONFIG_POOLS_MAX)
    return CHI_ERANGE;
  if (config_find_pool(config, config->compose_count, major, minor, pool_name))
    return CHI_EEXIST;
  new = config_new_pool(config);
  if (!new)
    return CHI_ENOMEM;
  memcpy(new->mod_name, mod_name, strlen(mod_name) + 1);
  memcpy(new->pool_name, pool_name, strlen(pool_name) + 1);
  memcpy(new->pool_query, pool_query, strlen(pool_query) + 1);
  new->pool_major = major;
  new->pool_minor = minor;
  if (entry)
    *entry = new;
  return CHI_OK;
}

CHI_PRIVATE const chi_param *config_find_param(const chi_compose_entry *entry, const char *name)
{
  for (uint32_t i = 0; i < entry->param_count; i++) {
    if (strcmp(entry->params[i].name, name) == 0)
      return &entry->params[i];
  }
  return NULL;
}

int chi_config_add_param(chi_compose_entry *entry, const char *name, const char *value)
{
  chi_param param = {NULL, NULL, 0, 0};
  if (!config_is_identifier(name) || !utf8_is_text(value))
    return CHI_EINVAL;
  if (entry->param_count >= CONFIG_PARAMS_MAX)
    return CHI_ERANGE;
  if (config_find_param(entry, name))
    return CHI_EEXIST;
  if (!config_grow(&entry->params, entry->param_count, sizeof(param)))
    return CHI_ENOMEM;
  param.name = config_copy(name);
  param.value = config_copy(value);
  if (!param.name || !param.value) {
    config_memory(param.name, 0);
    config_memory(param.value, 0);
    return CHI_ENOMEM;
  }
  entry->params[entry->param_count++] = param;
  return CHI_OK;
}

int chi_config_add_host(chi_config *config, const char *name, const char *address)
{
  chi_host *host;
  if (!address)
    address = name;
  if (!*name || strlen(name) >= CHI_NAME_MAX || !utf8_is_line(name) || !*address ||
      strlen(address) >= CHI_NAME_MAX || !utf8_is_line(address))
    return CHI_EINVAL;
  if (config->host_count >= CONFIG_HOSTS_MAX)
    return CHI_ERANGE;
  if (!config_grow(&config->hosts, config->host_count, sizeof(*host)))
    return CHI_ENOMEM;
  host = &config->hosts[config->host_count++];
  memset(host, 0, sizeof(*host));
  memcpy(host->name, name, strlen(name) + 1);
  memcpy(host->address, address, strlen(address) + 1);
  return CHI_OK;
}

/* ---- checking --------------------------------------------------------------------------- */

static bool config_key_valid(const chi_config *config, const struct config_key *key)
{
  struct config_value value;
  config_get(config, key, &value);
  if (config_key_is_text(key)) {
    const char *field = (const char *)config + key->offset;
    if (!memchr(field, '\0', config_room(key)))
      return false;
    return (key->type == CONFIG_NAME && !*value.text) || config_text_valid(key, value.text);
  }
  if (key->type == CONFIG_COUNT && !key->preset && value.number == 0)
    return true;
  return value.number >= key->min && value.number <= key->max;
}

static bool config_pool_valid(const chi_compose_entry *e)
{
  if (!memchr(e->mod_name, '\0', sizeof(e->mod_name)) ||
      !memchr(e->pool_name, '\0', sizeof(e->pool_name)) ||
      !memchr(e->pool_query, '\0', sizeof(e->pool_query)))
    return false;
  if (!config_is_identifier(e->mod_name) || !*e->pool_name || !utf8_is_line(e->pool_name) ||
      !config_is_query(e->pool_query) || (!e->pool_major && !e->pool_minor))
    return false;
  for (uint32_t i = 0; i < e->param_count; i++) {
    if (!config_is_identifier(e->params[i].name) || !utf8_is_text(e->params[i].value))
      return false;
  }
  return true;
}

static int config_check_pool(const chi_config *config, uint32_t i, chi_error *err)
{
  const chi_compose_entry *e = &config->compose[i];
  if (!config_pool_valid(e))
    return error_set(err, CHI_ECONFIG, "compose: entry %u lacks a proper name, query or id", i + 1);
  if (config_find_pool(config, i, e->pool_major, e->pool_minor, e->pool_name))
    return error_set(err, CHI_ECONFIG, "compose: entry %u has the id or name of another", i + 1);
  return CHI_OK;
}

static int config_check_names(const char *a, const char *b, chi_error *err)
{
  if (!*a || strcmp(a, b) != 0)
    return CHI_OK;
  return error_set(err, CHI_ECONFIG, "shared_memory: two segments have the name \"%s\"", a);
}

CHI_PRIVATE int config_check_security(const chi_config *config, const char **key, chi_error *err)
{
  bool file = *config->key_file, directory = *config->authorized_keys;
  *key = !file && directory ? "networking.authorized_keys"
         : file             ? "networking.key_file"
                            : "networking.security";
  if (file && !directory)
    return error_set(err, CHI_ECONFIG, "networking.key_file: needs networking.authorized_keys, the "
                                       "directory of the other nodes' public keys");
  if (!file && directory)
    return error_set(err, CHI_ECONFIG, "networking.authorized_keys: needs networking.key_file, "
                                       "this node's own secret key");
  if (!file && config->security == CHI_SECURITY_REQUIRED)
    return error_set(err, CHI_ECONFIG, "networking.security: \"required\" needs "
                                       "networking.key_file and networking.authorized_keys");
  return CHI_OK;
}

int chi_config_check(const chi_config *config, chi_error *err)
{
  const char *at;
  char buf[CONFIG_EXPECTED_MAX];
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    if (!config_key_valid(config, key))
      return error_set(err, CHI_ECONFIG, "%s: expected %s", key->name,
                       config_key_expected(key, buf));
  }
  if (config_check_names(config->main_segment_name, config->client_data_segment_name, err) ||
      config_check_names(config->main_segment_name, config->runtime_data_segment_name, err) ||
      config_check_names(config->client_data_segment_name, config->runtime_data_segment_name, err))
    return CHI_ECONFIG;
  if (config_check_security(config, &at, err) != CHI_OK)
    return CHI_ECONFIG;
  for (uint32_t i = 0; i < config->compose_count; i++) {
    if (config_check_pool(config, i, err) != CHI_OK)
      return CHI_ECONFIG;
  }
  return CHI_OK;
}

/* ---- printing --------------------------------------------------------------------------- */

struct config_writer {
  void (*put)(void *arg, const char *text);
  void *arg;
};

__attribute__((format(printf, 2, 3))) static void config_write(const struct config_writer *w,
                                                               const char *fmt, ...)
{
  char line[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof(line), fmt, args);
  va_end(args);
  w->put(w->arg, line);
}

/* One character within double quotes; gives its length in text. */
static size_t config_write_char(const struct config_writer *w, const char *text)
{
  uint32_t c;
  size_t n = utf8_char(text, &c);
  if (!n) {
    w->put(w->arg, "\\uFFFD");
    return 1;
  }
  if (c == '"' || c == '\\')
    config_write(w, "\\%c", (int)c);
  else if (utf8_is_control(c) || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe ||
           c == 0xffff)
    config_write(w, "\\u%04X", c);
  else
    config_write(w, "%.*s", (int)n, text);
  return n;
}

/* Text in double quotes; where variables are expanded, "${" is written so that it stays. */
static void config_write_text(const struct config_writer *w, const char *text, bool expanded)
{
  w->put(w->arg, "\"");
  while (*text) {
    if (expanded && strncmp(text, "${", 2) == 0)
      w->put(w->arg, "$");
    text += config_write_char(w, text);
  }
  w->put(w->arg, "\"\n");
}

static void config_write_key(const struct config_writer *w, const char *leaf,
                             const struct config_key *key, const struct config_value *value)
{
  char buf[CHI_FORMAT_MAX];
  if (key->type == CONFIG_COUNT && !key->preset && !value->number) {
    config_write(w, "  # %s: not set; 4, but at most one per CPU\n", leaf);
    return;
  }
  if (key->type == CONFIG_NAME && !*value->text) {
    config_write(w, "  %s: \"%s\"\n", leaf, key->preset);
    return;
  }
  config_write(w, "  %s: ", leaf);
  if (config_key_is_text(key))
    config_write_text(w, value->text, true);
  else if (key->type == CONFIG_COUNT)
    config_write(w, "%llu\n", (unsigned long long)value->number);
  else if (key->type == CONFIG_SIZE)
    config_write(w, "%s\n", chi_format_size(value->number, buf, sizeof(buf)));
  else if (key->type == CONFIG_DURATION)
    config_write(w, "%s\n", chi_format_duration(value->number, buf, sizeof(buf)));
  else
    config_write(w, "%s\n", config_word(key, value->number));
}

static void config_write_pool(const struct config_writer *w, const chi_compose_entry *entry)
{
  config_write(w, "  - mod_name: ");
  config_write_text(w, entry->mod_name, false);
  config_write(w, "    pool_name: ");
  config_write_text(w, entry->pool_name, true);
  config_write(w, "    pool_query: %s\n", entry->pool_query);
  config_write(w, "    pool_id: \"%u.%u\"\n", entry->pool_major, entry->pool_minor);
  for (uint32_t i = 0; i < entry->param_count; i++) {
    config_write(w, "    %s: ", entry->params[i].name);
    config_write_text(w, entry->params[i].value, false);
  }
}

void chi_config_print(const chi_config *config, void (*put)(void *arg, const char *text), void *arg)
{
  struct config_writer w = {put, arg};
  struct config_value value;
  const char *section = "";
  size_t length = 0;
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = &config_keys[i];
    if (strncmp(key->name, section, length + 1) != 0) {
      section = key->name;
      length = strcspn(section, ".");
      config_write(&w, "%.*s:\n", (int)length, section);
    }
    config_get(config, key, &value);
    config_write_key(&w, key->name + length + 1, key, &value);
  }
  config_write(&w, config->compose_count ? "compose:\n" : "compose: []\n");
  for (uint32_t i = 0; i < config->compose_count; i++)
    config_write_pool(&w, &config->compose[i]);
}

#undef CONFIG_PAGE
#undef CONFIG_KI
#undef CONFIG_MI
#undef CONFIG_TI
#undef CONFIG_US
#undef CONFIG_MS
#undef CONFIG_S
#undef CONFIG_TIME_MAX
#undef CONFIG_AT
