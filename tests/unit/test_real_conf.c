/* test_real_conf.c - configuration files of every generation, good and bad; where they are found.
 *
 * Each file in config/ begins with what reading it reports, in order: "# LEVEL: LINE:COLUMN: TEXT".
 * Files in config/good load, those in config/bad don't. */
#include "real_conf.h"

#include "test.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_LOG_MAX 65536

static const char *const conf_levels[] = {"debug", "info", "warning", "error"};

/* All that was reported, a line each, as in the heads of the corpus. */
struct conf_log {
  const char *file;
  char text[CONF_LOG_MAX];
  size_t used;
};

static void conf_keep(void *arg, int level, const char *text)
{
  struct conf_log *log = arg;
  size_t n = log->file ? strlen(log->file) : 0;
  if (n && strncmp(text, log->file, n) == 0 && text[n] == ':')
    text += n + 1;
  if (log->used < sizeof(log->text))
    log->used += (size_t)snprintf(log->text + log->used, sizeof(log->text) - log->used,
                                  "# %s: %s\n", conf_levels[level], text);
}

/* An environment of our own. */
static const char *conf_lookup(void *arg, const char *name)
{
  static const char *const set[][2] = {
      {"USER", "alice"}, {"HOME", "/home/alice"}, {"CLUSTER", "c1"}, {"EMPTY", ""}, {NULL, NULL}};
  (void)arg;
  for (size_t i = 0; set[i][0]; i++) {
    if (strcmp(set[i][0], name) == 0)
      return set[i][1];
  }
  return NULL;
}

static int conf_parse(chi_config *config, const char *text, size_t size, struct conf_log *log,
                      chi_error *err)
{
  struct report report = {log->file, conf_keep, log, err, 0, CHI_OK};
  struct reader r = {config, &report, .lookup = conf_lookup};
  log->used = 0;
  log->text[0] = '\0';
  real_conf_parse(&r, text, size);
  return report.code;
}

/* The path of something beside this source file. */
static const char *conf_path(char *path, size_t size, const char *name)
{
  const char *slash = strrchr(__FILE__, '/');
  snprintf(path, size, "%.*s%s", slash ? (int)(slash - __FILE__) + 1 : 0, __FILE__, name);
  return path;
}

static char *conf_slurp(const char *path, size_t *size)
{
  FILE *f = fopen(path, "rb");
  char *text = malloc(1 << 16);
  *size = f && text ? fread(text, 1, 1 << 16, f) : 0;
  if (f)
    fclose(f);
  if (f)
    return text;
  free(text);
  return NULL;
}

/* ---- there and back --------------------------------------------------------------------- */

struct conf_print {
  char *text;
  size_t used, room;
};

static void conf_put(void *arg, const char *text)
{
  struct conf_print *p = arg;
  size_t n = strlen(text);
  if (p->used + n + 1 > p->room)
    p->text = realloc(p->text, p->room = 2 * (p->used + n + 1));
  memcpy(p->text + p->used, text, n + 1);
  p->used += n;
}

static bool conf_same_pool(const chi_compose_entry *a, const chi_compose_entry *b)
{
  bool same = !strcmp(a->mod_name, b->mod_name) && !strcmp(a->pool_name, b->pool_name) &&
              !strcmp(a->pool_query, b->pool_query) && a->pool_major == b->pool_major &&
              a->pool_minor == b->pool_minor && a->param_count == b->param_count;
  for (uint32_t i = 0; same && i < a->param_count; i++)
    same = !strcmp(a->params[i].name, b->params[i].name) &&
           !strcmp(a->params[i].value, b->params[i].value);
  return same;
}

static bool conf_same(const chi_config *a, const chi_config *b)
{
  bool same = a->compose_count == b->compose_count;
  for (size_t i = 0; same && i < CONFIG_KEY_COUNT; i++) {
    struct config_value va, vb;
    config_get(a, config_key_at(i), &va);
    config_get(b, config_key_at(i), &vb);
    same = va.number == vb.number && !strcmp(va.text, vb.text);
  }
  for (uint32_t i = 0; same && i < a->compose_count; i++)
    same = conf_same_pool(&a->compose[i], &b->compose[i]);
  return same;
}

/* Prints, reads what was printed, and compares. */
static bool conf_round_trip(const chi_config *config)
{
  struct conf_print p = {NULL, 0, 0};
  struct conf_log log = {.file = "printed"};
  chi_config back;
  bool same;
  chi_config_init(&back);
  chi_config_print(config, conf_put, &p);
  same = conf_parse(&back, p.text, p.used, &log, NULL) == CHI_OK && conf_same(config, &back);
  if (!same || log.used)
    fprintf(stderr, "%s%s", p.text, log.text);
  chi_config_free(&back);
  free(p.text);
  return same && !log.used;
}

/* ---- the corpus ------------------------------------------------------------------------- */

/* Checks one file of the corpus; false after saying what is wrong. */
static bool conf_check_file(const char *path, bool good)
{
  struct conf_log log = {.file = path};
  chi_error err = {0, ""};
  chi_config config;
  size_t size;
  char *text = conf_slurp(path, &size);
  bool ok = text != NULL;
  int rc;
  if (!ok)
    return false;
  chi_config_init(&config);
  rc = conf_parse(&config, text, size, &log, &err);
  ok = rc == (good ? CHI_OK : CHI_ECONFIG) && err.code == rc;
  ok = ok && size >= log.used && memcmp(text, log.text, log.used) == 0;
  ok = ok && (log.used == size || memcmp(text + log.used, "# error: ", 9) != 0);
  ok = ok && (!good || conf_round_trip(&config));
  if (!ok)
    fprintf(stderr, "%s: code %d, reported:\n%s", path, rc, log.text);
  chi_config_free(&config);
  free(text);
  return ok;
}

/* Gives the number of files in a directory of the corpus, or -1 if one is not as it says. */
static int conf_check_all(const char *directory, bool good)
{
  char path[PATH_MAX], file[PATH_MAX + 256];
  DIR *d = opendir(conf_path(path, sizeof(path), directory));
  struct dirent *e;
  int count = 0;
  while (d && count >= 0 && (e = readdir(d)) != NULL) {
    size_t n = strlen(e->d_name);
    if (n < 5 || strcmp(e->d_name + n - 5, ".yaml") != 0)
      continue;
    snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
    count = conf_check_file(file, good) ? count + 1 : -1;
  }
  if (d)
    closedir(d);
  return count;
}

TEST(real_conf_good_files)
{
  int count = conf_check_all("config/good", true);
  CHECK(count >= 16);
}

TEST(real_conf_bad_files)
{
  int count = conf_check_all("config/bad", false);
  CHECK(count >= 30);
}

/* The file that is shipped says the defaults. */
TEST(real_conf_shipped_file)
{
  char path[PATH_MAX];
  struct conf_log log = {.file = NULL};
  chi_config config, defaults;
  size_t size;
  char *text =
      conf_slurp(conf_path(path, sizeof(path), "../../config/chimaera_default.yaml"), &size);
  int rc;
  CHECK(text);
  chi_config_init(&config);
  chi_config_init(&defaults);
  rc = conf_parse(&config, text, size, &log, NULL);
  free(text);
  CHECK_INT(rc, CHI_OK);
  CHECK_STR(log.text, "");
  conf_parse(&defaults, "", 0, &log, NULL);
  CHECK(conf_same(&config, &defaults));
  CHECK_INT(config.sched_threads, 0);
  chi_config_free(&config);
  chi_config_free(&defaults);
}

/* ---- values of good files --------------------------------------------------------------- */

/* Loads a file of config/good; the caller frees the configuration. */
static int conf_load_good(chi_config *config, const char *name)
{
  char path[PATH_MAX], file[128];
  struct conf_log log = {.file = NULL};
  size_t size;
  char *text;
  int rc;
  snprintf(file, sizeof(file), "config/good/%s.yaml", name);
  text = conf_slurp(conf_path(path, sizeof(path), file), &size);
  chi_config_init(config);
  if (!text)
    return CHI_ENOENT;
  rc = conf_parse(config, text, size, &log, NULL);
  free(text);
  return rc;
}

TEST(real_conf_first_generation)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "first_generation"), CHI_OK);
  CHECK_INT(c.sched_threads, 4);
  CHECK_INT(c.slow_threads, 2);
  CHECK_INT(c.process_reaper_threads, 1);
  CHECK_INT(c.main_segment_size, 1 << 30);
  CHECK_INT(c.client_data_segment_size, 1 << 29);
  CHECK_INT(c.port, 5555);
  CHECK_INT(c.stack_size, 65536);
  CHECK_INT(c.queue_depth, 10000);
  CHECK_INT(c.heartbeat_interval_ns, 1000000000);
  CHECK(c.task_timeout_ns == 30000000000);
  CHECK_STR(c.main_segment_name, "chi_main_segment_alice");
  CHECK_STR(c.runtime_data_segment_name, "chi_runtime_data_segment_alice");
  chi_config_free(&c);
}

TEST(real_conf_single_thread)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "single_thread"), CHI_OK);
  CHECK_INT(c.single_thread, 1);
  chi_config_free(&c);
}

TEST(real_conf_guide_compose)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "guide_compose"), CHI_OK);
  CHECK_INT(c.compose_count, 3);
  CHECK_STR(c.compose[0].mod_name, "chimaera_bdev");
  CHECK_STR(c.compose[0].pool_name, "/tmp/storage_device.dat");
  CHECK_STR(c.compose[0].pool_query, "dynamic");
  CHECK_INT(c.compose[0].pool_major, 300);
  CHECK_INT(c.compose[0].pool_minor, 0);
  CHECK_INT(c.compose[0].param_count, 4);
  CHECK_STR(c.compose[0].params[0].name, "capacity");
  CHECK_STR(c.compose[0].params[0].value, "1GB");
  CHECK_INT(c.compose[0].line, 14);
  CHECK_INT(c.compose[0].column, 5);
  CHECK_INT(c.compose[0].params[0].line, 18);
  CHECK_INT(c.compose[0].params[0].column, 5);
  CHECK_STR(c.compose[2].params[1].value, "value2");
  chi_config_free(&c);
}

TEST(real_conf_restart_fraction)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "guide_restart"), CHI_OK);
  CHECK(c.wait_for_restart_ns == 30000000000);
  CHECK_INT(c.wait_for_restart_poll_ns, 500000000);
  CHECK_INT(c.log_level, CHI_LOG_DEBUG);
  CHECK_INT(c.queue_depth, 5000);
  chi_config_free(&c);
}

TEST(real_conf_units)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "units"), CHI_OK);
  CHECK_INT(c.main_segment_size, 3 << 29);
  CHECK_INT(c.client_data_segment_size, 4 << 20);
  CHECK(c.runtime_data_segment_size == (uint64_t)1 << 38);
  CHECK(c.wait_for_restart_ns == 90000000000);
  CHECK_INT(c.wait_for_restart_poll_ns, 250000000);
  CHECK_INT(c.stack_size, 102400);
  CHECK_INT(c.heartbeat_interval_ns, 2000000000);
  CHECK_INT(c.task_timeout_ns, 1500500000);
  CHECK_INT(c.spin_window_ns, 0);
  chi_config_free(&c);
}

TEST(real_conf_variables)
{
  chi_config c;
  CHECK_INT(conf_load_good(&c, "variables"), CHI_OK);
  CHECK_STR(c.hostfile, "/home/alice/clusters/c1/hostfile");
  CHECK_STR(c.log_file, "/tmp/${not_a_variable}/$HOME/a$b/chimaera.log");
  CHECK_STR(c.main_segment_name, "main_alice");
  CHECK_STR(c.compose[0].pool_name, "/home/alice/data.bin");
  CHECK_INT(c.compose[0].pool_major, 1000);
  CHECK_INT(c.compose[0].pool_minor, 100);
  CHECK_STR(c.compose[0].params[0].value, "${NOT_EXPANDED}");
  chi_config_free(&c);
}

TEST(real_conf_parameters)
{
  static const char *const want[][2] = {
      {"perf_metrics.read_bandwidth_mbps", "1000"},
      {"perf_metrics.write_bandwidth_mbps", "800.5"},
      {"perf_metrics.deep.er.still", "yes"},
      {"perf_metrics.iops", "9e4"},
      {"empty", ""},
      {"folded", "two words\n"},
      {"literal", "line 1\nline 2\n"},
      {"not_null", "null"},
      {"unicode", "\xc3\xa9\x01\t"},
  };
  chi_config c;
  CHECK_INT(conf_load_good(&c, "parameters"), CHI_OK);
  CHECK_STR(c.compose[0].pool_name, "42");
  CHECK_INT(c.compose[0].param_count, CHI_COUNT(want));
  for (size_t i = 0; i < CHI_COUNT(want); i++) {
    CHECK_STR(c.compose[0].params[i].name, want[i][0]);
    CHECK_STR(c.compose[0].params[i].value, want[i][1]);
  }
  chi_config_free(&c);
}

/* ---- files that cannot say what they report --------------------------------------------- */

/* Parses a text and gives what it reported, in a buffer that the next call uses again. */
static int conf_try(const char *text, size_t size, struct conf_log *log)
{
  chi_config c;
  int rc;
  chi_config_init(&c);
  log->file = "f";
  rc = conf_parse(&c, text, size, log, NULL);
  chi_config_free(&c);
  return rc;
}

TEST(real_conf_empty_file)
{
  static struct conf_log log;
  CHECK_INT(conf_try("", 0, &log), CHI_OK);
  CHECK_INT(conf_try("\n\n", 2, &log), CHI_OK);
  CHECK_STR(log.text, "");
}

TEST(real_conf_other_encodings)
{
  static const char mark[] = "\xef\xbb\xbfnetworking: {port: 7000}\r\n# end\r\n";
  static const char utf16[] = "\xff\xfe{\0}\0\n\0";
  static struct conf_log log;
  CHECK_INT(conf_try(mark, sizeof(mark) - 1, &log), CHI_OK);
  CHECK_INT(conf_try(utf16, sizeof(utf16) - 1, &log), CHI_OK);
  CHECK_STR(log.text, "");
}

TEST(real_conf_many_errors)
{
  static struct conf_log log;
  static char text[1 << 20];
  size_t used = 0;
  for (int i = 0; i < 50000; i++)
    used += (size_t)snprintf(text + used, sizeof(text) - used, "k%d: 1\n", i);
  CHECK_INT(conf_try(text, used, &log), CHI_ECONFIG);
  CHECK(strncmp(log.text, "# error: 1:1: unknown key \"k0\"", 30) == 0);
}

TEST(real_conf_many_pools)
{
  static struct conf_log log;
  static char text[1 << 20];
  size_t used = (size_t)snprintf(text, sizeof(text), "compose:\n");
  for (int i = 1; i <= CONFIG_POOLS_MAX + 3; i++)
    used += (size_t)snprintf(text + used, sizeof(text) - used,
                             "- {mod_name: m, pool_name: p%d, pool_query: local, pool_id: %d.0}\n",
                             i, i);
  CHECK_INT(conf_try(text, used, &log), CHI_ECONFIG);
  CHECK_STR(log.text, "# error: 4098:3: compose: more than 4096 pools\n");
}

TEST(real_conf_many_parameters)
{
  static struct conf_log log;
  static char text[1 << 16];
  size_t used =
      (size_t)snprintf(text, sizeof(text),
                       "compose:\n- {mod_name: m, pool_name: p, pool_query: local, pool_id: 2.0");
  for (int i = 0; i < CONFIG_PARAMS_MAX + 1; i++)
    used += (size_t)snprintf(text + used, sizeof(text) - used, ",\n  p%d: 1", i);
  used += (size_t)snprintf(text + used, sizeof(text) - used, "}\n");
  CHECK_INT(conf_try(text, used, &log), CHI_ECONFIG);
  CHECK_STR(log.text, "# error: 259:3: more than 256 parameters\n");
}

TEST(real_conf_long_parameter_names)
{
  static struct conf_log log;
  char text[2048], a[200];
  memset(a, 'a', sizeof(a));
  a[sizeof(a) - 1] = '\0';
  snprintf(text, sizeof(text),
           "compose:\n- {mod_name: m, pool_name: p, pool_query: local, pool_id: 2.0,\n"
           "   %s: {%s: {x: 1}}}\n",
           a, a);
  CHECK_INT(conf_try(text, strlen(text), &log), CHI_ECONFIG);
  CHECK_STR(log.text, "# error: 3:206: a key of more than 255 bytes\n");
}

/* ---- the world -------------------------------------------------------------------------- */

/* A directory of our own, its files, and the environment as it was. */
struct conf_world {
  char dir[64], path[PATH_MAX];
};

static const char *const conf_variables[] = {"CHI_SERVER_CONF", "WRP_RUNTIME_CONF", "HOME", "USER",
                                             "CONF_TEST_DIR"};
static char *conf_saved[CHI_COUNT(conf_variables)];

static bool conf_begin(struct conf_world *w)
{
  for (size_t i = 0; i < CHI_COUNT(conf_variables); i++) {
    const char *value = getenv(conf_variables[i]);
    conf_saved[i] = value ? strdup(value) : NULL;
    unsetenv(conf_variables[i]);
  }
  snprintf(w->dir, sizeof(w->dir), "/tmp/chi-conf-XXXXXX");
  if (!mkdtemp(w->dir))
    return false;
  setenv("CONF_TEST_DIR", w->dir, 1);
  setenv("HOME", w->dir, 1);
  return true;
}

static const char *conf_file(struct conf_world *w, const char *name)
{
  snprintf(w->path, sizeof(w->path), "%s/%s", w->dir, name);
  return w->path;
}

static const char *conf_write(struct conf_world *w, const char *name, const char *text)
{
  FILE *f = fopen(conf_file(w, name), "w");
  if (f) {
    fputs(text, f);
    fclose(f);
  }
  return w->path;
}

static void conf_end(struct conf_world *w)
{
  static const char *const names[] = {"a.yaml", "b.yaml", "hosts", ".chimaera/chimaera.yaml"};
  for (size_t i = 0; i < CHI_COUNT(names); i++)
    unlink(conf_file(w, names[i]));
  rmdir(conf_file(w, ".chimaera"));
  rmdir(w->dir);
  for (size_t i = 0; i < CHI_COUNT(conf_variables); i++) {
    if (conf_saved[i])
      setenv(conf_variables[i], conf_saved[i], 1);
    else
      unsetenv(conf_variables[i]);
    free(conf_saved[i]);
  }
}

/* What chi_config_load gave, the port it read, and what it said without the directory's name. */
struct conf_result {
  int rc, code;
  uint32_t port, hosts;
  char user[CHI_NAME_MAX], host[2 * CHI_NAME_MAX + 2], said[4096];
};

static void conf_load(struct conf_world *w, const char *path, struct conf_result *out)
{
  static struct conf_log log;
  chi_error err = {0, ""};
  chi_config c;
  chi_config_init(&c);
  log.file = w->dir;
  log.used = 0;
  log.text[0] = '\0';
  out->rc = chi_config_load(&c, path, conf_keep, &log, &err);
  out->code = err.code;
  out->port = c.port;
  out->hosts = c.host_count;
  snprintf(out->user, sizeof(out->user), "%s", c.main_segment_name);
  snprintf(out->host, sizeof(out->host), "%s %s", c.host_count ? c.hosts[0].name : "",
           c.host_count ? c.hosts[0].address : "");
  snprintf(out->said, sizeof(out->said), "%s", log.text);
  chi_config_free(&c);
}

TEST(real_conf_which_file)
{
  struct conf_world w;
  struct conf_result none, home, wrp, chi, empty;
  char path[PATH_MAX] = "", small[8];
  int where, no_room;
  CHECK(conf_begin(&w));
  conf_load(&w, NULL, &none);
  mkdir(conf_file(&w, ".chimaera"), 0700);
  conf_write(&w, ".chimaera/chimaera.yaml", "networking: {port: 1001}");
  conf_load(&w, NULL, &home);
  setenv("WRP_RUNTIME_CONF", conf_write(&w, "b.yaml", "networking: {port: 1002}"), 1);
  conf_load(&w, NULL, &wrp);
  setenv("CHI_SERVER_CONF", conf_write(&w, "a.yaml", "networking: {port: 1003}"), 1);
  conf_load(&w, NULL, &chi);
  where = chi_config_path(path, sizeof(path));
  no_room = chi_config_path(small, sizeof(small));
  where = where == CHI_OK && strcmp(path, w.path) == 0;
  setenv("CHI_SERVER_CONF", "", 1);
  conf_load(&w, NULL, &empty);
  conf_end(&w);
  CHECK_INT(none.rc, CHI_OK);
  CHECK_INT(none.port, 5555);
  CHECK_INT(none.hosts, 0);
  CHECK_INT(home.port, 1001);
  CHECK_INT(wrp.port, 1002);
  CHECK_INT(chi.port, 1003);
  CHECK_INT(empty.port, 1002);
  CHECK(where);
  CHECK_INT(no_room, CHI_ETOOBIG);
}

TEST(real_conf_user_name)
{
  struct conf_world w;
  struct conf_result set, unset;
  CHECK(conf_begin(&w));
  setenv("USER", "zoe", 1);
  conf_load(&w, NULL, &set);
  unsetenv("USER");
  conf_load(&w, NULL, &unset);
  conf_end(&w);
  CHECK_STR(set.user, "chi_main_segment_zoe");
  CHECK_INT(unset.rc, CHI_OK);
  CHECK(strlen(unset.user) > strlen("chi_main_segment_"));
  CHECK(strncmp(unset.user, "chi_main_segment_", 17) == 0);
}

TEST(real_conf_bad_user_name)
{
  struct conf_world w;
  struct conf_result r;
  CHECK(conf_begin(&w));
  setenv("USER", "DOM/zoe", 1);
  conf_load(&w, NULL, &r);
  conf_end(&w);
  CHECK_INT(r.rc, CHI_ECONFIG);
  CHECK(strstr(r.said, "shared_memory.main_segment_name: expected a name without \"/\""));
}

TEST(real_conf_missing_file)
{
  struct conf_world w;
  struct conf_result named, from_variable, directory, below_a_file;
  CHECK(conf_begin(&w));
  conf_load(&w, conf_file(&w, "a.yaml"), &named);
  setenv("CHI_SERVER_CONF", conf_file(&w, "b.yaml"), 1);
  conf_load(&w, NULL, &from_variable);
  conf_load(&w, w.dir, &directory);
  conf_write(&w, "a.yaml", "");
  conf_load(&w, conf_file(&w, "a.yaml/x"), &below_a_file);
  conf_end(&w);
  CHECK_INT(named.rc, CHI_ENOENT);
  CHECK_INT(named.code, CHI_ENOENT);
  CHECK(strstr(named.said, "a.yaml: cannot read it: No such file or directory"));
  CHECK_INT(from_variable.rc, CHI_ENOENT);
  CHECK_INT(directory.rc, CHI_EIO);
  CHECK_INT(below_a_file.rc, CHI_ENOENT);
}

TEST(real_conf_forbidden_file)
{
  struct conf_world w;
  struct conf_result r;
  uid_t user = geteuid();
  int back;
  CHECK(conf_begin(&w));
  chmod(conf_write(&w, "a.yaml", ""), 0);
  if (user == 0 && seteuid(65534) != 0) {
    conf_end(&w);
    test_skip("root may read everything and cannot be anyone else here");
    return;
  }
  conf_load(&w, w.path, &r);
  back = user == 0 ? seteuid(0) : 0;
  conf_end(&w);
  CHECK_INT(back, 0);
  CHECK_INT(r.rc, CHI_EACCES);
  CHECK(strstr(r.said, "a.yaml: cannot read it: Permission denied"));
}

TEST(real_conf_large_file)
{
  struct conf_world w;
  struct conf_result fits, too_large;
  char *text = malloc((1 << 20) + 2);
  CHECK(text && conf_begin(&w));
  memset(text, '\n', 1 << 20);
  text[1 << 20] = '\0';
  conf_load(&w, conf_write(&w, "a.yaml", text), &fits);
  text[1 << 20] = '\n';
  text[(1 << 20) + 1] = '\0';
  conf_load(&w, conf_write(&w, "a.yaml", text), &too_large);
  conf_end(&w);
  free(text);
  CHECK_INT(fits.rc, CHI_OK);
  CHECK_INT(too_large.rc, CHI_ECONFIG);
  CHECK(strstr(too_large.said, "a.yaml: it is larger than 1048576 bytes"));
}

TEST(real_conf_hostfile)
{
  struct conf_world w;
  struct conf_result r;
  CHECK(conf_begin(&w));
  conf_write(&w, "hosts", "# name address\nnode1 172.28.0.2\nnode2 172.28.0.3\n");
  conf_load(&w, conf_write(&w, "a.yaml", "networking:\n  hostfile: ${CONF_TEST_DIR}/hosts\n"), &r);
  conf_end(&w);
  CHECK_INT(r.rc, CHI_OK);
  CHECK_INT(r.hosts, 2);
  CHECK_STR(r.host, "node1 172.28.0.2");
}

TEST(real_conf_bad_hostfile)
{
  struct conf_world w;
  struct conf_result missing, bad, both;
  CHECK(conf_begin(&w));
  conf_write(&w, "a.yaml", "networking:\n  hostfile: ${CONF_TEST_DIR}/hosts\n");
  conf_load(&w, w.path, &missing);
  conf_write(&w, "hosts", "one\ntwo three four\none\n");
  conf_load(&w, conf_file(&w, "a.yaml"), &bad);
  conf_write(&w, "a.yaml", "networking:\n  hostfile: ${CONF_TEST_DIR}/hosts\n  prt: 1\n");
  conf_load(&w, w.path, &both);
  conf_end(&w);
  CHECK_INT(missing.rc, CHI_ENOENT);
  CHECK(strstr(missing.said, "a.yaml:2:3: cannot read the hostfile /tmp/"));
  CHECK_INT(bad.rc, CHI_ECONFIG);
  CHECK(strstr(bad.said, "hosts:2:11: expected a name and an address, found a third column"));
  CHECK(strstr(bad.said, "hosts:3:1: address \"one\" is given twice, first in line 1"));
  CHECK(strstr(both.said, "a.yaml:3:3: unknown key \"networking.prt\""));
  CHECK(strstr(both.said, "hosts:2:11:"));
}

TEST(real_conf_second_load_replaces)
{
  struct conf_world w;
  chi_config c;
  int first, second;
  uint32_t pools, hosts;
  CHECK(conf_begin(&w));
  conf_write(&w, "hosts", "one\ntwo\n");
  conf_write(&w, "a.yaml",
             "networking: {port: 6000, hostfile: \"${CONF_TEST_DIR}/hosts\"}\n"
             "compose: [{mod_name: m, pool_name: p, pool_query: local, pool_id: 2.0}]");
  conf_write(&w, "b.yaml",
             "networking: {hostfile: ''}\n"
             "compose: [{mod_name: m, pool_name: p, pool_query: local, pool_id: 2.0},"
             "{mod_name: m, pool_name: q, pool_query: local, pool_id: 3.0, x: 1}]");
  chi_config_init(&c);
  first = chi_config_load(&c, conf_file(&w, "a.yaml"), NULL, NULL, NULL);
  hosts = c.host_count;
  second = chi_config_load(&c, conf_file(&w, "b.yaml"), NULL, NULL, NULL);
  pools = c.compose_count;
  CHECK_INT(hosts, 2);
  hosts = c.host_count;
  chi_config_free(&c);
  conf_end(&w);
  CHECK_INT(first, CHI_OK);
  CHECK_INT(second, CHI_OK);
  CHECK_INT(pools, 2);
  CHECK_INT(hosts, 0);
}

TEST(real_conf_names)
{
  struct conf_world w;
  chi_config c;
  chi_error err;
  int rc, bad;
  CHECK(conf_begin(&w));
  setenv("USER", "zoe", 1);
  chi_config_init(&c);
  snprintf(c.main_segment_name, sizeof(c.main_segment_name), "mine");
  rc = real_conf_names(&c, &err);
  CHECK_STR(c.main_segment_name, "mine");
  CHECK_STR(c.client_data_segment_name, "chi_client_data_segment_zoe");
  c.port = 0;
  bad = real_conf_names(&c, &err);
  conf_end(&w);
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(bad, CHI_ECONFIG);
  CHECK_STR(err.text, "configuration: networking.port: expected a whole number from 1 to 65535");
}

TEST(real_conf_node_of_the_environment)
{
  static const char *const bad[] = {"x", "-1", "4096", "1.0", " 1", NULL};
  struct conf_world w;
  chi_config c;
  chi_error err = {0};
  uint32_t unset, set, empty;
  int rc, wrong = 0;
  CHECK(conf_begin(&w));
  conf_write(&w, "a.yaml", "networking: {port: 6000}\n");
  unsetenv("CHI_NODE");
  chi_config_init(&c);
  rc = chi_config_load(&c, conf_file(&w, "a.yaml"), NULL, NULL, &err);
  unset = c.node;
  setenv("CHI_NODE", "4095", 1);
  rc = rc ? rc : chi_config_load(&c, conf_file(&w, "a.yaml"), NULL, NULL, &err);
  set = c.node;
  setenv("CHI_NODE", "", 1);
  rc = rc ? rc : chi_config_load(&c, conf_file(&w, "a.yaml"), NULL, NULL, &err);
  empty = c.node;
  for (size_t i = 0; bad[i]; i++) {
    setenv("CHI_NODE", bad[i], 1);
    wrong += chi_config_load(&c, conf_file(&w, "a.yaml"), NULL, NULL, &err) == CHI_ECONFIG;
  }
  unsetenv("CHI_NODE");
  chi_config_free(&c);
  conf_end(&w);
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(unset, UINT32_MAX);
  CHECK_INT(set, 4095);
  CHECK_INT(empty, 4095); /* as if it were not set */
  CHECK_INT(wrong, 5);
  CHECK_INT(c.node, UINT32_MAX);
  CHECK(strstr(err.text, "CHI_NODE: expected a node's number from 0 to 4095, found \" 1\""));
}
