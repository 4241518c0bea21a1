/* test_modules.c - modules that are loaded, and pools that come and go: in a daemon as it ships. */
#include "daemon.h"
#include "modules/birth.h"
#include "modules/calc.h"
#include "test.h"

#include <pthread.h>
#include <signal.h>

/* A daemon with one client. */
struct stage {
  struct daemon d;
  struct seat s;
  char tale[96]; /* where the module `birth` tells its life */
};

static const char *stage_open(struct stage *st)
{
  if (!daemon_make(&st->d, NULL))
    return "cannot make a daemon";
  snprintf(st->tale, sizeof(st->tale), "%s/tale", st->d.dir);
  const char *wrong = daemon_start(&st->d);
  if (!*wrong && seat_open(&st->s, st->d.instance) != CHI_OK)
    wrong = "cannot attach";
  return wrong;
}

/* The empty text if the daemon stopped as it should. */
static const char *stage_close(struct stage *st)
{
  static char text[64];
  seat_close(&st->s);
  int status = daemon_stop(&st->d);
  snprintf(text, sizeof(text), "exit status %d", status);
  if (status == 0)
    text[0] = '\0';
  daemon_free(&st->d);
  return text;
}

/* Creates a pool of `birth`; further parameters as NAME, VALUE pairs. */
static int birth_open(struct stage *st, struct seat *s, chi_pool_id *id, const char *name,
                      const char *value, chi_error *err)
{
  chi_param p[2] = {{(char *)(uintptr_t) "file", st->tale, 0, 0},
                    {(char *)(uintptr_t)name, (char *)(uintptr_t)value, 0, 0}};
  return chi_pool_create(s->queue, "birth", "cradle", p, name ? 2 : 1, id, err);
}

static const char *tale_of(struct stage *st)
{
  static char text[4096];
  return scratch_read(st->tale, text, sizeof(text));
}

/* ---- loading --------------------------------------------------------------------------------- */

TEST(module_is_loaded_from_the_module_path)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(seat_pool(&st.s, "calc", NULL, NULL), CHI_OK);
  struct calc_add *t = SEAT_NEW(&st.s, calc_add);
  CHECK(t);
  t->a = 40;
  t->b = 2;
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK);
  CHECK_INT(t->sum, 42);
  struct calc_sum *u = SEAT_NEW(&st.s, calc_sum);
  CHECK(u);
  u->items_count = 2;
  u->items[0].value = 3;
  u->items[1].value = 4;
  memcpy(u->items[0].name, "ab", 3);
  memcpy(u->items[1].name, "cd", 3);
  u->twice = 1;
  CHECK_INT(chi_run(st.s.queue, u), CHI_OK);
  CHECK_INT(u->sum, 14);
  CHECK_STR(u->names, "abcd");
  struct calc_divide *v = SEAT_NEW(&st.s, calc_divide);
  CHECK(v);
  v->a = 7;
  CHECK_INT(chi_run(st.s.queue, v), 33); /* a code of its own */
  CHECK_STR(stage_close(&st), "");
}

/* Regression: a module that can't be found was reported as created. */
TEST(missing_module_is_an_error_and_no_pool)
{
  struct stage st;
  chi_pool_id id = TEST_POOL;
  chi_error err = {0};
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(chi_pool_create(st.s.queue, "nowhere", "test", NULL, 0, &id, &err), CHI_ENOMODULE);
  CHECK(strstr(err.text, "nowhere") && strstr(err.text, daemon_modules()));
  CHECK_INT(chi_pool_find(st.s.queue, "test", &id), CHI_ENOENT);
  struct calc_add *t = SEAT_NEW(&st.s, calc_add);
  CHECK(t);
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOENT);
  CHECK_INT(seat_pool(&st.s, "calc", NULL, NULL), CHI_OK); /* the name and the id are still free */
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK);
  CHECK_STR(stage_close(&st), "");
}

TEST(shared_object_that_is_no_fitting_module_is_refused)
{
  static const struct {
    const char *name;
    int code;
    const char *says;
  } bad[] = {
      {"loaded_old", CHI_EVERSION, "version"},   {"loaded_bare", CHI_ENOMODULE, "chi_module_entry"},
      {"loaded_none", CHI_ENOMODULE, "nothing"}, {"alias", CHI_ENOMODULE, "incognito"},
      {"clash", CHI_EINVAL, "same id 10"},       {"../modules/calc", CHI_ENOMODULE, "not a name"},
      {".calc", CHI_ENOMODULE, "not a name"},
  };
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < CHI_COUNT(bad); i++) {
      chi_pool_id id = TEST_POOL;
      chi_error err = {0};
      CHECK_INT(chi_pool_create(st.s.queue, bad[i].name, "test", NULL, 0, &id, &err), bad[i].code);
      if (!strstr(err.text, bad[i].says))
        CHECK_STR(err.text, bad[i].says);
      CHECK_INT(chi_pool_find(st.s.queue, "test", &id), CHI_ENOENT);
    }
  }
  CHECK_STR(stage_close(&st), "");
}

TEST(compose_entry_without_a_module_stops_the_start_and_is_named)
{
  struct daemon d;
  CHECK(daemon_make(&d, "compose:\n  - {mod_name: nowhere, pool_name: lost, pool_query: local, "
                        "pool_id: \"300.0\"}\n"));
  const char *said = daemon_start(&d);
  CHECK(strstr(said, "lost") && strstr(said, "nowhere"));
  CHECK(daemon_spawn(&d));
  CHECK_INT(daemon_wait(&d, 20000), 1);
  daemon_free(&d);
}

/* ---- creation -------------------------------------------------------------------------------- */

TEST(pool_needs_an_id_a_name_and_parameters_that_fit)
{
  struct stage st;
  chi_error err = {0};
  CHECK_STR(stage_open(&st), "");
  chi_pool_id id = {0, 0};
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, &err), CHI_EINVAL);
  id = TEST_POOL;
  CHECK_INT(birth_open(&st, &st.s, &id, "slow", "often", &err), CHI_EINVAL);
  CHECK_INT(birth_open(&st, &st.s, &id, "slwo", "1ms", &err), CHI_ENOENT);
  CHECK(strstr(err.text, "slow")); /* the nearest */
  CHECK_INT(seat_pool(&st.s, "birth", "slow", "1ms"), CHI_EINVAL);
  CHECK_INT(chi_pool_create(st.s.queue, "calc", "", NULL, 0, &id, &err), CHI_EINVAL);
  CHECK_STR(tale_of(&st), ""); /* nothing was created on the way */
  CHECK_STR(stage_close(&st), "");
}

TEST(pool_with_another_definition_is_a_conflict)
{
  struct stage st;
  chi_error err = {0};
  CHECK_STR(stage_open(&st), "");
  chi_pool_id id = TEST_POOL;
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, &err), CHI_OK);
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, &err), CHI_OK); /* the same: fine */
  id = (chi_pool_id){301, 0};
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, &err), CHI_OK); /* by name: there already */
  CHECK_INT(id.major, 300);
  CHECK_INT(birth_open(&st, &st.s, &id, "slow", "1ms", &err), CHI_ECONFLICT);
  CHECK_INT(chi_pool_create(st.s.queue, "calc", "cradle", NULL, 0, &id, &err), CHI_ECONFLICT);
  CHECK_INT(chi_pool_create(st.s.queue, "calc", "other", NULL, 0, &id, &err), CHI_ECONFLICT);
  CHECK(strstr(err.text, "cradle"));
  CHECK_STR(tale_of(&st), "create\n");
  CHECK_STR(stage_close(&st), "");
}

struct creator {
  struct stage *st;
  pthread_t thread;
  chi_pool_id id;
  int rc;
  const char *name, *value;
};

static void *creator_main(void *arg)
{
  struct creator *c = arg;
  struct seat s;
  c->id = TEST_POOL;
  c->rc = seat_open(&s, c->st->d.instance);
  if (c->rc != CHI_OK)
    return NULL;
  c->rc = birth_open(c->st, &s, &c->id, c->name, c->value, NULL);
  seat_close(&s);
  return NULL;
}

/* Regression: two pools created at once raced. */
TEST(two_creators_at_once_get_one_pool)
{
  struct stage st;
  struct creator c[8];
  CHECK_STR(stage_open(&st), "");
  for (int i = 0; i < 8; i++) {
    c[i] = (struct creator){.st = &st, .name = "slow", .value = "50ms"};
    CHECK_INT(pthread_create(&c[i].thread, NULL, creator_main, &c[i]), 0);
  }
  for (int i = 0; i < 8; i++)
    pthread_join(c[i].thread, NULL);
  for (int i = 0; i < 8; i++) {
    CHECK_INT(c[i].rc, CHI_OK);
    CHECK_INT(c[i].id.major, 300);
  }
  CHECK_STR(tale_of(&st), "create\n");
  CHECK_STR(stage_close(&st), "");
}

/* Regression: a container served before its create had run. */
TEST(task_sent_during_creation_waits_for_it)
{
  struct stage st;
  struct creator c = {.st = &st, .name = "slow", .value = "150ms"};
  struct birth_ready *t[40];
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(pthread_create(&c.thread, NULL, creator_main, &c), 0);
  CHECK(EVENTUALLY(5000, strstr(tale_of(&st), "create")));
  for (int i = 0; i < 40; i++) {
    t[i] = SEAT_NEW(&st.s, birth_ready);
    CHECK(t[i]);
    CHECK_INT(chi_submit(st.s.queue, t[i]), CHI_OK);
  }
  for (int i = 0; i < 40; i++) {
    CHECK_INT(chi_wait(st.s.queue, t[i], UINT64_MAX), CHI_OK);
    CHECK_INT(t[i]->ready, 1);
  }
  pthread_join(c.thread, NULL);
  CHECK_INT(c.rc, CHI_OK);
  CHECK_STR(stage_close(&st), "");
}

TEST(failed_creation_fails_those_who_waited_and_frees_the_name)
{
  struct stage st;
  struct creator c = {.st = &st, .name = "rc", .value = "77"};
  chi_pool_id id = TEST_POOL;
  chi_error err = {0};
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(pthread_create(&c.thread, NULL, creator_main, &c), 0);
  pthread_join(c.thread, NULL);
  CHECK_INT(c.rc, 77);
  struct birth_ready *t = SEAT_NEW(&st.s, birth_ready);
  CHECK(t);
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOENT);
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, &err), CHI_OK);
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK);
  CHECK_INT(t->ready, 1);
  CHECK_INT(chi_pool_destroy(st.s.queue, id, &err), CHI_OK);
  CHECK_STR(tale_of(&st), "create\ncreate\ndestroy\n"); /* none for what was never there */
  CHECK_STR(stage_close(&st), "");
}

TEST(creation_whose_client_dies_leaves_nothing_behind)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  for (int i = 0; i < 20; i++) {
    struct creator c = {.st = &st, .name = "slow", .value = "10s"};
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
      creator_main(&c);
      _exit(0);
    }
    pause_ns((uint64_t)i * MS_NS);
    kill(child, SIGKILL);
    CHECK_INT(waitpid(child, NULL, 0), child);
    chi_pool_id id;
    CHECK(EVENTUALLY(3000, chi_pool_find(st.s.queue, "cradle", &id) == CHI_ENOENT));
  }
  CHECK_STR(stage_close(&st), "");
}

TEST(create_that_waits_for_its_own_pool_is_told_so)
{
  struct stage st;
  chi_pool_id id = TEST_POOL;
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(birth_open(&st, &st.s, &id, "again", "true", NULL), CHI_EDEADLOCK);
  CHECK_INT(chi_pool_find(st.s.queue, "cradle", &id), CHI_ENOENT);
  CHECK_STR(stage_close(&st), "");
}

/* ---- destruction ----------------------------------------------------------------------------- */

/* Regression: destroying a pool left its containers. */
TEST(destroyed_pool_takes_its_container_along)
{
  struct stage st;
  chi_pool_id id = TEST_POOL;
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, NULL), CHI_OK);
  struct birth_rest *t = SEAT_NEW(&st.s, birth_rest);
  CHECK(t);
  t->ns = 100 * MS_NS;
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, 20 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_pool_destroy(st.s.queue, id, NULL), CHI_OK);
  CHECK_INT(chi_task_done(st.s.queue, t), 1); /* it was waited for */
  CHECK_INT(chi_wait(st.s.queue, t, 0), CHI_OK);
  CHECK_STR(tale_of(&st), "create\nrested\ndestroy\n");
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOENT);
  CHECK_INT(chi_pool_destroy(st.s.queue, id, NULL), CHI_ENOENT);
  CHECK_STR(stage_close(&st), "");
}

TEST(stop_destroys_every_container_once)
{
  struct stage st;
  chi_pool_id id = TEST_POOL;
  char text[64];
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, NULL), CHI_OK);
  seat_close(&st.s);
  CHECK_INT(daemon_stop(&st.d), 0);
  CHECK_STR(scratch_read(st.tale, text, sizeof(text)), "create\ndestroy\n");
  daemon_free(&st.d);
}

TEST(pools_that_come_and_go_leave_nothing)
{
  struct stage st;
  struct figures before, after;
  CHECK_STR(stage_open(&st), "");
  snprintf(st.tale, sizeof(st.tale), "/dev/null");
  for (int i = 0; i < 440; i++) {
    chi_pool_id id = TEST_POOL;
    CHECK_INT(birth_open(&st, &st.s, &id, NULL, NULL, NULL), CHI_OK);
    CHECK_INT(chi_pool_destroy(st.s.queue, id, NULL), CHI_OK);
    if (i == 40) {
      CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
      CHECK(figures_of_process(st.d.pid, &before));
    }
  }
  CHECK_INT(figures_ask(&st.s, &after), CHI_OK);
  CHECK(figures_of_process(st.d.pid, &after));
  CHECK_INT(after.main_used, before.main_used);
  CHECK_INT(after.runtime_used, before.runtime_used);
  CHECK_INT(after.stacks, before.stacks);
  CHECK_INT(after.descriptors, before.descriptors);
  CHECK(after.rss < before.rss + (1 << 20) + RSS_SLACK);
  CHECK_STR(stage_close(&st), "");
}

/* ---- what ships ------------------------------------------------------------------------------ */

/* Regression: the shipped configuration did not start on a single node. */
TEST(shipped_configuration_starts_on_a_single_node)
{
  struct daemon d;
  struct seat s;
  CHECK(daemon_make(&d, NULL));
  snprintf(d.config, sizeof(d.config), "config/chimaera_default.yaml");
  CHECK(access(d.config, R_OK) == 0); /* tests are run from the root of the source */
  CHECK_STR(daemon_start(&d), "");
  CHECK_INT(seat_open(&s, d.instance), CHI_OK);
  CHECK_INT(seat_pool(&s, "calc", NULL, NULL), CHI_OK);
  seat_close(&s);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
}

/* Sockets of a process that listen for others: those of /proc/PID/fd that are in a table. */
static int listening(pid_t pid, const char *table)
{
  char path[64], link[64], line[512];
  int count = 0;
  snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)pid, table);
  FILE *f = fopen(path, "re");
  while (f && fgets(line, sizeof(line), f)) {
    unsigned state = 0;
    unsigned long inode = 0;
    if (sscanf(line, "%*d: %*s %*s %x %*s %*s %*s %*u %*d %lu", &state, &inode) != 2 || !inode)
      continue;
    for (int fd = 0; fd < 256; fd++) {
      char want[64];
      snprintf(want, sizeof(want), "socket:[%lu]", inode);
      snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
      ssize_t n = readlink(path, link, sizeof(link) - 1);
      link[n > 0 ? n : 0] = '\0';
      count += strcmp(link, want) == 0;
    }
  }
  if (f)
    fclose(f);
  return count;
}

/* Regression: ports were open on all interfaces, without authentication, by default. */
TEST(no_port_is_open_by_default)
{
  static const char *const tables[] = {"tcp", "tcp6", "udp", "udp6"};
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  for (size_t i = 0; i < CHI_COUNT(tables); i++)
    CHECK_INT(listening(st.d.pid, tables[i]), 0);
  CHECK_STR(stage_close(&st), "");
}
