/* config.h - the configuration of a node: its keys, their defaults and bounds, the struct. */
#ifndef CHI_CONFIG_H
#define CHI_CONFIG_H

#include "base.h"

#define CONFIG_KEY_COUNT 27
#define CONFIG_POOLS_MAX 4096  /* entries of compose: keeps the search for doubles short */
#define CONFIG_PARAMS_MAX 256  /* parameters of one entry, for the same reason */
#define CONFIG_HOSTS_MAX 4096  /* nodes of a cluster: who each of them keeps account of */
#define CONFIG_NEIGHBORS_MAX 65536
#define CONFIG_BULK_MIN (1ull << 20) /* bulk data of a task that every node takes */
#define CONFIG_BULK_MOST (1ull << 32)
#define CONFIG_EXPECTED_MAX 128

enum config_type {
  CONFIG_COUNT,    /* uint32_t; 0 where there is no preset: not set */
  CONFIG_SIZE,     /* uint64_t; unit: what it is rounded up to */
  CONFIG_DURATION, /* uint64_t; unit: of a plain number */
  CONFIG_LEVEL,    /* int */
  CONFIG_POLICY,   /* int */
  CONFIG_SECURITY, /* int */
  CONFIG_SWITCH,   /* int: 0 or 1 */
  CONFIG_PATH,     /* char[CHI_PATH_MAX], may be empty */
  CONFIG_NAME      /* char[CHI_NAME_MAX]; empty: not set */
};

/* A key as it is spelled today, "section.key", and the field of chi_config it sets. */
struct config_key {
  const char *name, *preset;
  size_t offset;
  enum config_type type;
  uint64_t min, max, unit;
};

/* The value of a key on its way into or out of the struct: text for the last two types. */
struct config_value {
  uint64_t number;
  char text[CHI_PATH_MAX];
};

/* Key number i, ordered by section. */
CHI_PRIVATE const struct config_key *config_key_at(size_t i);
/* The key of that name, or NULL. */
CHI_PRIVATE const struct config_key *config_find_key(const char *name);
CHI_PRIVATE bool config_key_is_text(const struct config_key *key);
/* Its value is one of a few words, of which one may have an older spelling. */
CHI_PRIVATE bool config_key_is_word(const struct config_key *key);
/* What the key wants, in words: perhaps in buf, of CONFIG_EXPECTED_MAX bytes. */
CHI_PRIVATE const char *config_key_expected(const struct config_key *key, char *buf);

CHI_PRIVATE void config_get(const chi_config *config, const struct config_key *key,
                            struct config_value *out);
/* The value must be valid for the key. */
CHI_PRIVATE void config_put(chi_config *config, const struct config_key *key,
                            const struct config_value *value);
/* Reads a number, size, time or word as the key wants it; false if it is none or out of bounds. */
CHI_PRIVATE bool config_parse(const struct config_key *key, const char *text, uint64_t *out);
/* The word of today for the value of a key that is a word. */
CHI_PRIVATE const char *config_word(const struct config_key *key, uint64_t value);
/* Whether text of a proper length may be the value of a key that is text. */
CHI_PRIVATE bool config_text_valid(const struct config_key *key, const char *text);
/* What an entry of compose may have: names of modules and parameters, queries, ids ("300.0", not
 * null). */
CHI_PRIVATE bool config_is_identifier(const char *text);
CHI_PRIVATE bool config_is_query(const char *text);
CHI_PRIVATE bool config_parse_id(const char *text, uint32_t *major, uint32_t *minor);

/* The only place of the core that takes memory from the C library: a chi_config is a value that
 * exists before there is an environment to take memory from. As realloc; size 0 frees and gives
 * NULL. */
CHI_PRIVATE void *config_memory(void *old, size_t size);
/* A new zeroed entry at the end of compose, or NULL. */
CHI_PRIVATE chi_compose_entry *config_new_pool(chi_config *config);
CHI_PRIVATE void config_drop_pools(chi_config *config);
CHI_PRIVATE void config_drop_hosts(chi_config *config);
/* The first of `count` entries with this id (unless null) or this name (unless empty), or NULL. */
CHI_PRIVATE const chi_compose_entry *config_find_pool(const chi_config *config, uint32_t count,
                                                      uint32_t major, uint32_t minor,
                                                      const char *name);
/* Whether the keys of security fit together. CHI_ECONFIG, and *key is the one to be looked at. */
CHI_PRIVATE int config_check_security(const chi_config *config, const char **key, chi_error *err);
CHI_PRIVATE const chi_param *config_find_param(const chi_compose_entry *entry, const char *name);

#endif
