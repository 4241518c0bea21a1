/* test_config.c - the configuration struct: defaults, bounds, adding, checking, printing. */
#include "config.h"

#include "test.h"

struct config_text {
  char text[65536];
  size_t used;
};

static void config_collect(void *arg, const char *text)
{
  struct config_text *t = arg;
  if (t->used < sizeof(t->text))
    t->used += (size_t)snprintf(t->text + t->used, sizeof(t->text) - t->used, "%s", text);
}

TEST(config_defaults)
{
  chi_config c;
  memset(&c, 0xa5, sizeof(c));
  chi_config_init(&c);
  CHECK_INT(c.sched_threads, 0);
  CHECK_INT(c.slow_threads, 0);
  CHECK_INT(c.process_reaper_threads, 1);
  CHECK_INT(c.single_thread, 0);
  CHECK_STR(c.record_file, "");
  CHECK_INT(c.main_segment_size, 1 << 30);
  CHECK_INT(c.client_data_segment_size, 1 << 29);
  CHECK_INT(c.runtime_data_segment_size, 1 << 29);
  CHECK_INT(c.port, 5555);
  CHECK_INT(c.neighborhood_size, 32);
  CHECK(c.bulk_max == 1ull << 32);
  CHECK_STR(c.hostfile, "");
  CHECK(c.wait_for_restart_ns == 30000000000);
  CHECK_INT(c.wait_for_restart_poll_ns, 1000000000);
  CHECK_INT(c.security, CHI_SECURITY_OPTIONAL);
  CHECK_STR(c.key_file, "");
  CHECK_STR(c.authorized_keys, "");
  CHECK_INT(c.log_level, CHI_LOG_INFO);
  CHECK_STR(c.log_file, "/tmp/chimaera.log");
  CHECK_INT(c.stack_size, 65536);
  CHECK_INT(c.queue_depth, 10000);
  CHECK_INT(c.lane_policy, CHI_LANE_ROUND_ROBIN);
  CHECK_INT(c.heartbeat_interval_ns, 1000000000);
  CHECK(c.task_timeout_ns == 30000000000);
  CHECK_INT(c.spin_window_ns, 50000);
  CHECK_STR(c.main_segment_name, "");
  CHECK_INT(c.compose_count, 0);
  CHECK_INT(c.host_count, 0);
  CHECK_INT(chi_config_check(&c, NULL), CHI_OK);
  chi_config_free(&c);
}

TEST(config_security_fits_together)
{
  chi_config c;
  chi_error err;
  chi_config_init(&c);
  c.security = CHI_SECURITY_REQUIRED;
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "networking.security: \"required\" needs networking.key_file and "
                      "networking.authorized_keys");
  snprintf(c.key_file, sizeof(c.key_file), "/k");
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "networking.key_file: needs networking.authorized_keys, the directory of "
                      "the other nodes' public keys");
  snprintf(c.authorized_keys, sizeof(c.authorized_keys), "/d");
  CHECK_INT(chi_config_check(&c, &err), CHI_OK);
  c.key_file[0] = '\0';
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "networking.authorized_keys: needs networking.key_file, this node's own "
                      "secret key");
  c.security = 2;
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "networking.security: expected optional or required");
  chi_config_free(&c);
}

TEST(config_keys_are_in_order)
{
  const char *section = "";
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = config_key_at(i);
    size_t n = strcspn(key->name, ".");
    CHECK(config_find_key(key->name) == key);
    for (size_t k = 0; k < i && strncmp(section, key->name, n + 1) != 0; k++)
      CHECK(strncmp(config_key_at(k)->name, key->name, n + 1) != 0);
    section = key->name;
  }
  CHECK(!config_find_key("workers"));
}

TEST(config_stack_is_whole_pages)
{
  const struct config_key *key = config_find_key("runtime.stack_size");
  uint64_t value = 77;
  CHECK(config_parse(key, "16384", &value));
  CHECK_INT(value, 16384);
  CHECK(config_parse(key, "16385", &value));
  CHECK_INT(value, 20480);
  CHECK(!config_parse(key, "16383", &value));
  CHECK_INT(value, 20480);
}

TEST(config_ids)
{
  static const char *const bad[] = {"",
                                    ".",
                                    "1",
                                    "1.",
                                    ".1",
                                    "0.0",
                                    "1.2.3",
                                    "a.b",
                                    "-1.0",
                                    "1.+0",
                                    " 1.0",
                                    "1 .0",
                                    "4294967296.0",
                                    "0x1.0",
                                    "1,0",
                                    "0000000000000000000000001.0",
                                    NULL};
  uint32_t major = 7, minor = 8;
  for (size_t i = 0; bad[i]; i++)
    CHECK(!config_parse_id(bad[i], &major, &minor));
  CHECK_INT(major, 7);
  CHECK(config_parse_id("300.0", &major, &minor));
  CHECK_INT(major, 300);
  CHECK_INT(minor, 0);
  CHECK(config_parse_id("0.1", &major, &minor));
  CHECK(config_parse_id("4294967295.4294967295", &major, &minor));
  CHECK(major == UINT32_MAX && minor == UINT32_MAX);
}

TEST(config_identifiers)
{
  char text[CHI_NAME_MAX + 1];
  CHECK(config_is_identifier("chimaera_bdev"));
  CHECK(config_is_identifier("_x.y-z9"));
  CHECK(config_is_identifier("9p"));
  CHECK(!config_is_identifier(""));
  CHECK(!config_is_identifier(".x"));
  CHECK(!config_is_identifier("-x"));
  CHECK(!config_is_identifier("a/b"));
  CHECK(!config_is_identifier("a b"));
  CHECK(!config_is_identifier("\xc3\xa9"));
  memset(text, 'a', sizeof(text));
  text[CHI_NAME_MAX] = '\0';
  CHECK(!config_is_identifier(text));
  text[CHI_NAME_MAX - 1] = '\0';
  CHECK(config_is_identifier(text));
}

TEST(config_add_pool)
{
  chi_compose_entry *entry = NULL;
  chi_config c;
  char long_name[CHI_PATH_MAX + 1];
  int again, rc[8];
  memset(long_name, 'x', sizeof(long_name));
  long_name[CHI_PATH_MAX] = '\0';
  chi_config_init(&c);
  CHECK_INT(chi_config_add_pool(&c, "calc", "a", "local", 2, 0, &entry), CHI_OK);
  CHECK_STR(entry->pool_name, "a");
  CHECK_INT(entry->line, 0);
  again = chi_config_add_pool(&c, "calc", "b", "dynamic", 2, 1, NULL);
  rc[0] = chi_config_add_pool(&c, "calc", "c", "local", 2, 0, NULL);
  rc[1] = chi_config_add_pool(&c, "calc", "a", "local", 3, 0, NULL);
  rc[2] = chi_config_add_pool(&c, "calc", "d", "Local", 4, 0, NULL);
  rc[3] = chi_config_add_pool(&c, "calc", "d", "local", 0, 0, NULL);
  rc[4] = chi_config_add_pool(&c, "a/b", "d", "local", 4, 0, NULL);
  rc[5] = chi_config_add_pool(&c, "calc", "", "local", 4, 0, NULL);
  rc[6] = chi_config_add_pool(&c, "calc", long_name, "local", 4, 0, NULL);
  rc[7] = chi_config_add_pool(&c, "calc", "a\nb", "local", 4, 0, NULL);
  CHECK_INT(c.compose_count, 2);
  CHECK_INT(chi_config_check(&c, NULL), CHI_OK);
  chi_config_free(&c);
  CHECK_INT(c.compose_count, 0);
  CHECK_INT(again, CHI_OK);
  CHECK_INT(rc[0], CHI_EEXIST);
  CHECK_INT(rc[1], CHI_EEXIST);
  for (int i = 2; i < 8; i++)
    CHECK_INT(rc[i], CHI_EINVAL);
}

TEST(config_add_many_pools)
{
  chi_config c;
  char name[16];
  int rc = CHI_OK, beyond;
  chi_config_init(&c);
  for (uint32_t i = 1; i <= CONFIG_POOLS_MAX && rc == CHI_OK; i++) {
    snprintf(name, sizeof(name), "p%u", i);
    rc = chi_config_add_pool(&c, "calc", name, "local", i, 0, NULL);
  }
  beyond = chi_config_add_pool(&c, "calc", "beyond", "local", 1000000, 0, NULL);
  CHECK_INT(c.compose[CONFIG_POOLS_MAX - 1].pool_major, CONFIG_POOLS_MAX);
  chi_config_free(&c);
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(beyond, CHI_ERANGE);
}

TEST(config_add_param)
{
  chi_compose_entry *entry;
  chi_config c;
  char name[16];
  int rc[5], many = CHI_OK;
  chi_config_init(&c);
  CHECK_INT(chi_config_add_pool(&c, "calc", "a", "local", 2, 0, &entry), CHI_OK);
  rc[0] = chi_config_add_param(entry, "x", "any \n text");
  rc[1] = chi_config_add_param(entry, "x", "2");
  rc[2] = chi_config_add_param(entry, "x y", "2");
  rc[3] = chi_config_add_param(entry, "y", "\xff");
  for (int i = 1; i < CONFIG_PARAMS_MAX && many == CHI_OK; i++) {
    snprintf(name, sizeof(name), "p%d", i);
    many = chi_config_add_param(entry, name, name);
  }
  rc[4] = chi_config_add_param(entry, "beyond", "");
  CHECK_INT(entry->param_count, CONFIG_PARAMS_MAX);
  CHECK_STR(entry->params[0].value, "any \n text");
  CHECK_STR(entry->params[255].value, "p255");
  chi_config_free(&c);
  CHECK_INT(many, CHI_OK);
  CHECK_INT(rc[0], CHI_OK);
  CHECK_INT(rc[1], CHI_EEXIST);
  CHECK_INT(rc[2], CHI_EINVAL);
  CHECK_INT(rc[3], CHI_EINVAL);
  CHECK_INT(rc[4], CHI_ERANGE);
}

TEST(config_add_host)
{
  chi_config c;
  char long_name[CHI_NAME_MAX + 1];
  int rc[6], many = CHI_OK, beyond;
  memset(long_name, 'x', sizeof(long_name));
  long_name[CHI_NAME_MAX] = '\0';
  chi_config_init(&c);
  rc[0] = chi_config_add_host(&c, "one", NULL);
  rc[1] = chi_config_add_host(&c, "two", "10.0.0.2");
  rc[2] = chi_config_add_host(&c, "", NULL);
  rc[3] = chi_config_add_host(&c, "a", "");
  rc[4] = chi_config_add_host(&c, long_name, "a");
  rc[5] = chi_config_add_host(&c, "a", "b\n");
  for (int i = 2; i < CONFIG_HOSTS_MAX && many == CHI_OK; i++)
    many = chi_config_add_host(&c, "n", "n");
  beyond = chi_config_add_host(&c, "beyond", NULL);
  CHECK_INT(c.host_count, CONFIG_HOSTS_MAX);
  CHECK_STR(c.hosts[0].address, "one");
  CHECK_STR(c.hosts[1].address, "10.0.0.2");
  chi_config_free(&c);
  CHECK_INT(rc[0] + rc[1] + many, 0);
  CHECK_INT(beyond, CHI_ERANGE);
  for (int i = 2; i < 6; i++)
    CHECK_INT(rc[i], CHI_EINVAL);
}

/* ---- checking --------------------------------------------------------------------------- */

#define CHECK_BAD(field, value, want)                                                              \
  do {                                                                                             \
    chi_config bad;                                                                                \
    chi_error err;                                                                                 \
    chi_config_init(&bad);                                                                         \
    bad.field = (value);                                                                           \
    CHECK_INT(chi_config_check(&bad, &err), CHI_ECONFIG);                                          \
    CHECK_INT(err.code, CHI_ECONFIG);                                                              \
    CHECK_STR(err.text, want);                                                                     \
  } while (0)

TEST(config_check_numbers)
{
  CHECK_BAD(sched_threads, 1025, "workers.sched_threads: expected a whole number from 1 to 1024");
  CHECK_BAD(process_reaper_threads, 0,
            "workers.process_reaper_threads: expected a whole number from 1 to 1024");
  CHECK_BAD(main_segment_size, 4194303,
            "memory.main_segment_size: expected a size from 4M to 256T: bytes, or a number with K, "
            "M, G or T");
  CHECK_BAD(port, 65536, "networking.port: expected a whole number from 1 to 65535");
  CHECK_BAD(log_level, 4, "logging.level: expected debug, info, warning or error");
  CHECK_BAD(log_level, -1, "logging.level: expected debug, info, warning or error");
  CHECK_BAD(lane_policy, 3,
            "runtime.lane_map_policy: expected round_robin, map_by_pid_tid or random");
  CHECK_BAD(heartbeat_interval_ns, 999999,
            "runtime.heartbeat_interval: expected a time from 1ms to 31536000s: milliseconds, or a "
            "number with ns, us, ms or s");
  CHECK_BAD(wait_for_restart_ns, UINT64_MAX,
            "networking.wait_for_restart: expected a time from 0s to 31536000s: seconds, or a "
            "number with ns, us, ms or s");
}

TEST(config_check_texts)
{
  chi_config c;
  chi_error err;
  chi_config_init(&c);
  memset(c.log_file, 'a', sizeof(c.log_file));
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "logging.file: expected a path");
  chi_config_init(&c);
  memcpy(c.hostfile, "a\nb", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "networking.hostfile: expected a path");
  chi_config_init(&c);
  memcpy(c.main_segment_name, "a/b", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "shared_memory.main_segment_name: expected a name without \"/\"");
}

TEST(config_check_segment_names)
{
  chi_config c;
  chi_error err;
  chi_config_init(&c);
  memcpy(c.main_segment_name, "one", 4);
  memcpy(c.client_data_segment_name, "two", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_OK);
  memcpy(c.runtime_data_segment_name, "two", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "shared_memory: two segments have the name \"two\"");
  memcpy(c.runtime_data_segment_name, "one", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
  memcpy(c.client_data_segment_name, "one", 4);
  memcpy(c.runtime_data_segment_name, "two", 4);
  CHECK_INT(chi_config_check(&c, &err), CHI_ECONFIG);
}

TEST(config_check_pools)
{
  chi_config c;
  chi_compose_entry *a, *b;
  int rc[6];
  chi_error err;
  chi_config_init(&c);
  CHECK_INT(chi_config_add_pool(&c, "calc", "a", "local", 2, 0, NULL), CHI_OK);
  CHECK_INT(chi_config_add_pool(&c, "calc", "b", "local", 3, 0, &b), CHI_OK);
  a = &c.compose[0];
  rc[0] = chi_config_check(&c, &err);
  b->pool_major = 2;
  rc[1] = chi_config_check(&c, &err);
  b->pool_major = 3;
  memset(a->pool_name, 'x', sizeof(a->pool_name));
  rc[2] = chi_config_check(&c, &err);
  memcpy(a->pool_name, "b", 2);
  rc[3] = chi_config_check(&c, &err);
  memcpy(a->pool_name, "a", 2);
  memcpy(a->pool_query, "all", 4);
  rc[4] = chi_config_check(&c, &err);
  memcpy(a->pool_query, "local", 6);
  CHECK_INT(chi_config_add_param(a, "x", "1"), CHI_OK);
  a->params[0].value[0] = '\xff';
  rc[5] = chi_config_check(&c, &err);
  chi_config_free(&c);
  CHECK_INT(rc[0], CHI_OK);
  for (int i = 1; i < 6; i++)
    CHECK_INT(rc[i], CHI_ECONFIG);
  CHECK_STR(err.text, "compose: entry 1 lacks a proper name, query or id");
}

/* ---- printing --------------------------------------------------------------------------- */

TEST(config_print_defaults)
{
  static struct config_text t;
  chi_config c;
  chi_config_init(&c);
  t.used = 0;
  chi_config_print(&c, config_collect, &t);
  CHECK_STR(t.text, "workers:\n"
                    "  # sched_threads: not set; 4, but at most one per CPU\n"
                    "  # slow_threads: not set; 4, but at most one per CPU\n"
                    "  process_reaper_threads: 1\n"
                    "  single_thread: false\n"
                    "memory:\n"
                    "  main_segment_size: 1G\n"
                    "  client_data_segment_size: 512M\n"
                    "  runtime_data_segment_size: 512M\n"
                    "networking:\n"
                    "  port: 5555\n"
                    "  neighborhood_size: 32\n"
                    "  bulk_max: 4G\n"
                    "  hostfile: \"\"\n"
                    "  wait_for_restart: 30s\n"
                    "  wait_for_restart_poll_period: 1s\n"
                    "  security: optional\n"
                    "  key_file: \"\"\n"
                    "  authorized_keys: \"\"\n"
                    "logging:\n"
                    "  level: info\n"
                    "  file: \"/tmp/chimaera.log\"\n"
                    "runtime:\n"
                    "  stack_size: 64K\n"
                    "  queue_depth: 10000\n"
                    "  lane_map_policy: round_robin\n"
                    "  heartbeat_interval: 1s\n"
                    "  task_timeout: 30s\n"
                    "  first_busy_wait: 50us\n"
                    "shared_memory:\n"
                    "  main_segment_name: \"chi_main_segment_${USER}\"\n"
                    "  client_data_segment_name: \"chi_client_data_segment_${USER}\"\n"
                    "  runtime_data_segment_name: \"chi_runtime_data_segment_${USER}\"\n"
                    "compose: []\n");
}

TEST(config_print_quotes)
{
  static struct config_text t;
  chi_compose_entry *entry;
  chi_config c;
  bool right;
  chi_config_init(&c);
  CHECK_INT(chi_config_add_pool(&c, "calc", "a${b}\"\\$", "dynamic", 300, 7, &entry), CHI_OK);
  CHECK_INT(chi_config_add_param(entry, "x.y", "${b}\n\x7f\xc3\xa9\xc2\x85\xe2\x80\xa8"), CHI_OK);
  entry->params[0].value[0] = '\xff';
  t.used = 0;
  chi_config_print(&c, config_collect, &t);
  chi_config_free(&c);
  right = strstr(t.text, "compose:\n"
                         "  - mod_name: \"calc\"\n"
                         "    pool_name: \"a$${b}\\\"\\\\$\"\n"
                         "    pool_query: dynamic\n"
                         "    pool_id: \"300.7\"\n"
                         "    x.y: \"\\uFFFD{b}\\u000A\\u007F\xc3\xa9\\u0085\\u2028\"\n");
  if (!right)
    fputs(t.text, stderr);
  CHECK(right);
}
