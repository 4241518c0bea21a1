/* test_embed.c - nodes inside a program, with clients beside them, and methods that misbehave. */
#include "daemon.h"
#include "modules/calc.h"
#include "modules/unruly.h"
#include "test.h"

#include <pthread.h>
#include <signal.h>

#define LONG_NS (20 * SECOND_NS) /* far more than anything here takes */

/* ---- a node of one's own --------------------------------------------------------------------- */

struct home {
  chi_config config;
  chi_node *node;
  struct seat s;
};

static const char *home_open(struct home *h, const char *module)
{
  static uint32_t number;
  static char text[400];
  chi_error err = {0};
  setenv("CHI_MODULE_PATH", daemon_modules(), 1);
  memset(h, 0, sizeof(*h));
  chi_config_init(&h->config);
  h->config.sched_threads = h->config.slow_threads = 2;
  h->config.single_thread = getenv("CHI_TEST_SINGLE") != NULL; /* see test_record.sh */
  h->config.main_segment_size = h->config.client_data_segment_size = 64 << 20;
  h->config.port = 7101;
  h->config.log_level = CHI_LOG_ERROR;
  snprintf(h->config.log_file, sizeof(h->config.log_file), "/dev/null");
  snprintf(h->config.main_segment_name, sizeof(h->config.main_segment_name), "chi-test-embed-%d-%u",
           (int)getpid(), ++number);
  int rc = chi_node_open(&h->config, NULL, 0, &h->node, &err);
  if (rc == CHI_OK)
    rc = seat_open(&h->s, chi_node_instance(h->node));
  if (rc == CHI_OK && module)
    rc = seat_pool(&h->s, module, NULL, NULL);
  snprintf(text, sizeof(text), "%s%s", rc == CHI_OK ? "" : chi_status_name(rc), err.text);
  return text;
}

/* The empty text if it closed as it should. */
static const char *home_close(struct home *h)
{
  if (h->s.client)
    seat_close(&h->s);
  int rc = chi_node_close(h->node, 300);
  chi_config_free(&h->config);
  return rc == CHI_OK ? "" : chi_status_name(rc);
}

/* One thread has nobody to go on beside it. */
static bool home_is_alone(void)
{
  bool alone = getenv("CHI_TEST_SINGLE") != NULL;
  if (alone)
    test_skip("one thread does the work of all");
  return alone;
}

static struct unruly_spin *spin(struct seat *s, uint64_t ns)
{
  struct unruly_spin *t = SEAT_NEW(s, unruly_spin);
  if (t)
    t->ns = ns;
  return t;
}

/* ---- coming and going ------------------------------------------------------------------------ */

struct visitor {
  const char *instance;
  pthread_t thread;
  int rc;
};

static void *visitor_main(void *arg)
{
  struct visitor *v = arg;
  struct seat s;
  v->rc = seat_open(&s, v->instance);
  if (v->rc != CHI_OK)
    return NULL;
  for (uint64_t i = 0; i < 50 && v->rc == CHI_OK; i++) {
    struct calc_later *t = SEAT_NEW(&s, calc_later);
    v->rc = CHI_ENOMEM;
    if (!t)
      break;
    t->a = i;
    t->ns = i * 1000;
    v->rc = chi_run(s.queue, t);
    if (v->rc == CHI_OK && t->sum != i + 1)
      v->rc = CHI_ECORRUPT;
  }
  seat_close(&s);
  return NULL;
}

TEST(node_opened_and_closed_many_times_leaves_nothing)
{
  struct figures before = {0}, after;
  for (int round = 0; round < 50; round++) {
    struct home h;
    struct visitor v[3];
    CHECK_STR(home_open(&h, "calc"), "");
    for (int i = 0; i < 3; i++) {
      v[i] = (struct visitor){.instance = chi_node_instance(h.node)};
      CHECK_INT(pthread_create(&v[i].thread, NULL, visitor_main, &v[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
      pthread_join(v[i].thread, NULL);
      CHECK_INT(v[i].rc, CHI_OK);
    }
    CHECK_STR(home_close(&h), "");
    if (round == 9)
      CHECK(figures_of_process(getpid(), &before));
  }
  CHECK(figures_of_process(getpid(), &after));
  CHECK_INT(after.descriptors, before.descriptors);
  CHECK_INT(after.threads, before.threads);
  CHECK(after.rss < before.rss + (2 << 20) + RSS_SLACK);
}

TEST(stop_asked_by_a_client_ends_the_wait)
{
  struct home h;
  CHECK_STR(home_open(&h, "calc"), "");
  struct chi_admin_stop_runtime *t = CHI_NEW(h.s.queue, chi_admin_stop_runtime);
  struct calc_later *work = SEAT_NEW(&h.s, calc_later);
  struct calc_add *late = SEAT_NEW(&h.s, calc_add);
  CHECK(t && work && late);
  work->ns = 200 * MS_NS;
  CHECK_INT(chi_submit(h.s.queue, work), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, work, 20 * MS_NS), CHI_ETIMEOUT);
  t->task.pool = CHI_ADMIN_POOL;
  t->grace_period_ms = 5000;
  CHECK_INT(chi_run(h.s.queue, t), CHI_OK);
  CHECK_INT(chi_node_wait(h.node, LONG_NS), CHI_OK);
  CHECK_INT(chi_run(h.s.queue, late), CHI_ESHUTDOWN);    /* nothing new */
  CHECK_INT(chi_wait(h.s.queue, work, LONG_NS), CHI_OK); /* but what was accepted goes on */
  CHECK_STR(home_close(&h), "");
}

TEST(close_cancels_what_outlives_the_grace_period)
{
  struct home h;
  CHECK_STR(home_open(&h, "calc"), "");
  struct calc_later *t = SEAT_NEW(&h.s, calc_later);
  CHECK(t);
  t->ns = 1000 * SECOND_NS;
  CHECK_INT(chi_submit(h.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, t, 20 * MS_NS), CHI_ETIMEOUT);
  uint64_t began = now_ns();
  CHECK_INT(chi_node_close(h.node, 100), CHI_OK);
  CHECK(now_ns() - began >= 99 * MS_NS && now_ns() - began < SOON);
  CHECK_INT(chi_wait(h.s.queue, t, LONG_NS), CHI_ECANCELLED);
  CHECK_INT(chi_run(h.s.queue, t), CHI_ESHUTDOWN);
  seat_close(&h.s);
  chi_config_free(&h.config);
}

/* Regression: stop ignored the grace period. */
TEST(close_is_refused_while_a_method_never_yields_and_the_node_stays_open)
{
  struct home h;
  if (home_is_alone())
    return;
  CHECK_STR(home_open(&h, "unruly"), "");
  struct unruly_spin *t = spin(&h.s, 4000 * MS_NS);
  CHECK(t);
  CHECK_INT(chi_submit(h.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, t, 50 * MS_NS), CHI_ETIMEOUT);
  for (int i = 0; i < 3; i++) {
    uint64_t began = now_ns();
    CHECK_INT(chi_node_close(h.node, 100), CHI_EBUSY);
    CHECK(now_ns() - began >= 99 * MS_NS && now_ns() - began < SOON);
  }
  CHECK_INT(chi_node_close(h.node, 5000), CHI_OK);
  CHECK_INT(chi_task_done(h.s.queue, t), 1);
  seat_close(&h.s);
  chi_config_free(&h.config);
}

/* ---- methods that misbehave ------------------------------------------------------------------ */

/* Regression: a method that never yields wedged its worker and everything queued behind it. */
TEST(others_go_on_while_a_method_never_yields)
{
  struct home h;
  struct seat more;
  chi_pool_id id = {301, 0};
  struct calc_add *t[200];
  if (home_is_alone())
    return;
  CHECK_STR(home_open(&h, "unruly"), "");
  CHECK_INT(chi_pool_create(h.s.queue, "calc", "calm", NULL, 0, &id, NULL), CHI_OK);
  CHECK_INT(seat_open(&more, chi_node_instance(h.node)), CHI_OK);
  for (int round = 0; round < 2; round++) {
    struct unruly_spin *stuck = spin(&h.s, 1500 * MS_NS);
    CHECK(stuck);
    CHECK_INT(chi_submit(h.s.queue, stuck), CHI_OK);
    for (int i = 0; i < 200; i++) { /* on the same lane, right behind it, and on another */
      struct seat *s = i % 2 ? &more : &h.s;
      t[i] = SEAT_NEW(s, calc_add);
      CHECK(t[i]);
      t[i]->task.pool = id;
      t[i]->task.compute_us = i % 3 == 0 ? 1000 : 0; /* for the slow workers, too */
      t[i]->a = (uint64_t)i;
      CHECK_INT(chi_submit(s->queue, t[i]), CHI_OK);
    }
    for (int i = 0; i < 200; i++) {
      CHECK_INT(chi_wait(i % 2 ? more.queue : h.s.queue, t[i], LONG_NS), CHI_OK);
      CHECK_INT(t[i]->sum, i);
    }
    CHECK_INT(chi_task_done(h.s.queue, stuck), 0);
    CHECK_INT(chi_wait(h.s.queue, stuck, LONG_NS), CHI_OK);
  }
  seat_close(&more);
  CHECK_STR(home_close(&h), "");
}

/* All but one worker are held up; the last one carries everything. */
TEST(others_go_on_while_all_workers_but_one_are_stuck)
{
  struct home h;
  struct unruly_spin *stuck[3];
  chi_pool_id id = {400, 0};
  if (home_is_alone())
    return;
  CHECK_STR(home_open(&h, "calc"), "");
  for (uint32_t i = 0; i < 3; i++) {
    char name[16];
    snprintf(name, sizeof(name), "stuck %u", i);
    id.major++;
    CHECK_INT(chi_pool_create(h.s.queue, "unruly", name, NULL, 0, &id, NULL), CHI_OK);
    stuck[i] = spin(&h.s, 2 * SECOND_NS);
    CHECK(stuck[i]);
    stuck[i]->task.pool = id;
    stuck[i]->task.compute_us = i == 2 ? 1000 : 0;
    CHECK_INT(chi_submit(h.s.queue, stuck[i]), CHI_OK);
  }
  CHECK_INT(chi_wait(h.s.queue, stuck[0], 100 * MS_NS), CHI_ETIMEOUT);
  for (int i = 0; i < 100; i++) {
    struct calc_add *t = SEAT_NEW(&h.s, calc_add);
    CHECK(t);
    t->task.compute_us = i % 2 ? 1000 : 0;
    uint64_t began = now_ns();
    CHECK_INT(chi_run(h.s.queue, t), CHI_OK);
    CHECK(now_ns() - began < SECOND_NS);
    CHECK_INT(chi_task_free(h.s.queue, t), CHI_OK);
  }
  for (uint32_t i = 0; i < 3; i++)
    CHECK_INT(chi_wait(h.s.queue, stuck[i], LONG_NS), CHI_OK);
  CHECK_STR(home_close(&h), "");
}

TEST(codes_of_a_methods_own_come_back_as_they_are)
{
  static const int32_t codes[] = {1, 77, INT32_MAX, -999, INT32_MIN, CHI_EDEADLOCK};
  struct home h;
  CHECK_STR(home_open(&h, "unruly"), "");
  struct unruly_code *t = SEAT_NEW(&h.s, unruly_code);
  struct unruly_scribble *u = SEAT_NEW(&h.s, unruly_scribble);
  CHECK(t && u);
  for (size_t i = 0; i < CHI_COUNT(codes); i++) {
    t->code = codes[i];
    CHECK_INT(chi_run(h.s.queue, t), codes[i]);
    CHECK_INT(chi_task_done(h.s.queue, t), 1);
    CHECK(chi_status_name(codes[i])[0] && chi_status_text(codes[i])[0]);
  }
  CHECK_INT(chi_run(h.s.queue, u), CHI_OK); /* what it wrote into its header is nobody's concern */
  CHECK_INT(u->items_count, 4);
  CHECK_INT(u->task.rc, CHI_OK);
  CHECK_INT(u->task.pool.major, 300);
  CHECK_STR(home_close(&h), "");
}

TEST(task_that_waits_for_itself_is_told_so)
{
  struct home h;
  CHECK_STR(home_open(&h, "unruly"), "");
  struct unruly_self *t = SEAT_NEW(&h.s, unruly_self);
  struct unruly_suicide *u = SEAT_NEW(&h.s, unruly_suicide);
  struct unruly_flush *v = SEAT_NEW(&h.s, unruly_flush);
  CHECK(t && u && v);
  CHECK_INT(chi_run(h.s.queue, t), CHI_EDEADLOCK);
  CHECK_INT(chi_submit(h.s.queue, u), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, u, 5 * SECOND_NS), CHI_EDEADLOCK);
  CHECK(u->error_message[0]);
  CHECK_INT(chi_submit(h.s.queue, v), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, v, 5 * SECOND_NS), CHI_EDEADLOCK);
  CHECK_STR(home_close(&h), "");
}

TEST(subtasks_deeper_than_the_limit_are_refused)
{
  struct home h;
  struct unruly_deep *t[100];
  CHECK_STR(home_open(&h, "unruly"), "");
  for (int i = 0; i < 100; i++) { /* many chains at once, each as deep as it gets */
    t[i] = SEAT_NEW(&h.s, unruly_deep);
    CHECK(t[i]);
    t[i]->left = i % 2 ? 1000 : 10;
    CHECK_INT(chi_submit(h.s.queue, t[i]), CHI_OK);
  }
  for (int i = 0; i < 100; i++) {
    CHECK_INT(chi_wait(h.s.queue, t[i], LONG_NS), CHI_OK);
    CHECK_INT(t[i]->why, i % 2 ? CHI_EBUSY : CHI_OK);
    CHECK_INT(t[i]->depth, i % 2 ? 16 : 10);
  }
  CHECK_STR(home_close(&h), "");
}

/* More tasks sleep than there are stacks: the rest waits its turn, nothing fails. */
TEST(more_blocked_tasks_than_stacks)
{
  struct home h;
  struct figures f;
  static void *t[6000];
  CHECK_STR(home_open(&h, "calc"), "");
  for (uint64_t i = 0; i < 6000; i++) {
    struct calc_later *one = SEAT_NEW(&h.s, calc_later);
    CHECK(one);
    one->ns = 100 * MS_NS;
    one->a = i;
    t[i] = one;
    CHECK(EVENTUALLY(10000, chi_submit(h.s.queue, one) == CHI_OK));
  }
  CHECK_INT(figures_ask(&h.s, &f), CHI_OK);
  CHECK(f.blocked > 500);
  CHECK_INT(chi_wait_all(h.s.queue, t, 6000, LONG_NS), CHI_OK);
  for (uint64_t i = 0; i < 6000; i++)
    CHECK_INT(((struct calc_later *)t[i])->sum, i + 1);
  /* And they go again. */
  CHECK(EVENTUALLY(20000, figures_ask(&h.s, &f) == CHI_OK && f.blocked == 0 && f.stacks < 300));
  CHECK_STR(home_close(&h), "");
}

/* Those who wait hold all stacks of a worker; the one that would wake them comes behind. */
TEST(waker_behind_more_waiters_than_stacks_gets_through)
{
  struct home h;
  static void *t[1500];
  CHECK_STR(home_open(&h, "unruly"), "");
  for (int i = 0; i < 1500; i++) {
    t[i] = SEAT_NEW(&h.s, unruly_await);
    CHECK(t[i]);
    CHECK(EVENTUALLY(10000, chi_submit(h.s.queue, t[i]) == CHI_OK));
  }
  struct unruly_set *set = SEAT_NEW(&h.s, unruly_set);
  CHECK(set);
  CHECK_INT(chi_wait(h.s.queue, t[0], 100 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_submit(h.s.queue, set), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, set, LONG_NS), CHI_OK);
  CHECK_INT(chi_wait_all(h.s.queue, t, 1500, LONG_NS), CHI_OK);
  CHECK_STR(home_close(&h), "");
}

/* One client's tasks hold all stacks of all workers. It can still cancel them, and others wait. */
TEST(all_stacks_of_all_workers_are_held)
{
  struct home h;
  struct seat other;
  struct figures f;
  static void *t[6000];
  CHECK_STR(home_open(&h, "calc"), "");
  CHECK_INT(seat_open(&other, chi_node_instance(h.node)), CHI_OK);
  for (int i = 0; i < 6000; i++) {
    struct calc_later *one = SEAT_NEW(&h.s, calc_later);
    CHECK(one);
    one->ns = 1000 * SECOND_NS;
    t[i] = one;
    CHECK(EVENTUALLY(10000, chi_submit(h.s.queue, one) == CHI_OK));
  }
  CHECK(EVENTUALLY(20000, figures_ask(&other, &f) == CHI_OK && f.blocked >= 4096));
  struct calc_add *late = SEAT_NEW(&other, calc_add);
  CHECK(late);
  CHECK_INT(chi_submit(other.queue, late), CHI_OK);
  CHECK_INT(chi_wait(other.queue, late, 100 * MS_NS), CHI_ETIMEOUT);
  for (int i = 0; i < 6000; i++)
    CHECK(EVENTUALLY(10000, chi_cancel(h.s.queue, t[i]) == CHI_OK));
  for (int i = 0; i < 6000; i++)
    CHECK_INT(chi_wait(h.s.queue, t[i], LONG_NS), CHI_ECANCELLED);
  CHECK_INT(chi_wait(other.queue, late, LONG_NS), CHI_OK);
  seat_close(&other);
  CHECK_STR(home_close(&h), "");
}

/* Tasks of admin that wait, by the thousand, leave room for those that don't. */
TEST(admin_answers_while_thousands_wait_for_it)
{
  struct home h;
  struct seat other;
  struct figures f;
  static void *t[3000];
  CHECK_STR(home_open(&h, "calc"), "");
  struct calc_later *endless = SEAT_NEW(&h.s, calc_later);
  CHECK(endless);
  endless->ns = 1000 * SECOND_NS;
  CHECK_INT(chi_submit(h.s.queue, endless), CHI_OK);
  for (int i = 0; i < 3000; i++) {
    struct chi_admin_flush *one = CHI_NEW(h.s.queue, chi_admin_flush);
    CHECK(one);
    one->task.pool = CHI_ADMIN_POOL;
    t[i] = one;
    CHECK(EVENTUALLY(10000, chi_submit(h.s.queue, one) == CHI_OK));
  }
  CHECK_INT(seat_open(&other, chi_node_instance(h.node)), CHI_OK);
  uint64_t began = now_ns();
  CHECK_INT(figures_ask(&other, &f), CHI_OK);
  CHECK(now_ns() - began < SOON);
  CHECK_INT(chi_cancel(h.s.queue, endless), CHI_OK);
  CHECK_INT(chi_wait(h.s.queue, endless, LONG_NS), CHI_ECANCELLED);
  for (int i = 0; i < 3000; i++) {
    int rc = chi_wait(h.s.queue, t[i], LONG_NS);
    CHECK(rc == CHI_OK || rc == CHI_EBUSY);
  }
  seat_close(&other);
  CHECK_STR(home_close(&h), "");
}

TEST(subtasks_left_behind_are_waited_for)
{
  struct home h;
  struct figures before;
  CHECK_STR(home_open(&h, "unruly"), "");
  CHECK_INT(figures_begin(&h.s, &before), CHI_OK);
  struct unruly_leave *t = SEAT_NEW(&h.s, unruly_leave);
  CHECK(t);
  t->count = 20;
  t->ns = 60 * MS_NS;
  uint64_t began = now_ns();
  CHECK_INT(chi_run(h.s.queue, t), CHI_OK);
  CHECK(now_ns() - began >= 59 * MS_NS);
  CHECK_INT(chi_submit(h.s.queue, t), CHI_OK);
  CHECK_INT(chi_cancel(h.s.queue, t), CHI_OK); /* they don't listen: it takes as long */
  int rc = chi_wait(h.s.queue, t, LONG_NS);
  CHECK(rc == CHI_OK || rc == CHI_ECANCELLED);
  CHECK_INT(chi_task_free(h.s.queue, t), CHI_OK);
  CHECK_STR(figures_return(&h.s, &before, 3000), "");
  CHECK_STR(home_close(&h), "");
}

TEST(mutex_that_is_never_given_back_does_not_stop_the_node)
{
  struct home h;
  struct unruly_lock *t[20];
  CHECK_STR(home_open(&h, "unruly"), "");
  struct unruly_keep *keep = SEAT_NEW(&h.s, unruly_keep);
  CHECK(keep);
  CHECK_INT(chi_run(h.s.queue, keep), CHI_OK);
  for (int i = 0; i < 20; i++) {
    t[i] = SEAT_NEW(&h.s, unruly_lock);
    CHECK(t[i]);
    t[i]->task.deadline_ms = i % 2 ? 50 : 0;
    CHECK_INT(chi_submit(h.s.queue, t[i]), CHI_OK);
  }
  for (int i = 1; i < 20; i += 2)
    CHECK_INT(chi_wait(h.s.queue, t[i], LONG_NS), CHI_ETIMEOUT);
  for (int i = 0; i < 20; i += 2) {
    CHECK_INT(chi_wait(h.s.queue, t[i], 0), CHI_ETIMEOUT);
    CHECK_INT(chi_cancel(h.s.queue, t[i]), CHI_OK);
    CHECK_INT(chi_wait(h.s.queue, t[i], LONG_NS), CHI_ECANCELLED);
  }
  CHECK_STR(home_close(&h), "");
}

TEST(lock_lets_one_in_and_goes_on_after_each_death)
{
  struct home h;
  struct unruly_lock *t[50];
  CHECK_STR(home_open(&h, "unruly"), "");
  for (int i = 0; i < 50; i++) {
    t[i] = SEAT_NEW(&h.s, unruly_lock);
    CHECK(t[i]);
    t[i]->ns = i % 5 == 0 ? 1000 * SECOND_NS : MS_NS;
    CHECK_INT(chi_submit(h.s.queue, t[i]), CHI_OK);
  }
  for (int i = 0; i < 50; i += 5) { /* whether they wait or hold it */
    CHECK_INT(chi_wait(h.s.queue, t[i], 5 * MS_NS), CHI_ETIMEOUT);
    CHECK_INT(chi_cancel(h.s.queue, t[i]), CHI_OK);
  }
  for (int i = 0; i < 50; i++) {
    CHECK_INT(chi_wait(h.s.queue, t[i], LONG_NS), i % 5 == 0 ? CHI_ECANCELLED : CHI_OK);
    CHECK(t[i]->inside <= 1);
  }
  CHECK_STR(home_close(&h), "");
}

TEST(allocation_of_a_method_may_fail)
{
  struct home h;
  CHECK_STR(home_open(&h, "unruly"), "");
  struct unruly_alloc *t = SEAT_NEW(&h.s, unruly_alloc);
  CHECK(t);
  t->size = 1 << 20;
  CHECK_INT(chi_run(h.s.queue, t), CHI_OK);
  t->size = 0;
  CHECK_INT(chi_run(h.s.queue, t), CHI_OK);
  CHECK_STR(home_close(&h), "");
}

/* ---- and what becomes of a daemon ------------------------------------------------------------ */

struct stage {
  struct daemon d;
  struct seat s;
};

static const char *stage_open(struct stage *st)
{
  if (!daemon_make(&st->d, NULL))
    return "cannot make a daemon";
  const char *wrong = daemon_start(&st->d);
  if (!*wrong && seat_open(&st->s, st->d.instance) != CHI_OK)
    wrong = "cannot attach";
  if (!*wrong && seat_pool(&st->s, "unruly", NULL, NULL) != CHI_OK)
    wrong = "cannot create the pool";
  return wrong;
}

/* The daemon ends with a status of its own after twice the grace period of 300 ms. */
TEST(daemon_whose_method_never_yields_ends_by_itself)
{
  for (int round = 0; round < 3; round++) {
    struct stage st;
    CHECK_STR(stage_open(&st), "");
    struct unruly_spin *t = spin(&st.s, 1000 * SECOND_NS);
    CHECK(t);
    CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
    CHECK_INT(chi_wait(st.s.queue, t, 50 * MS_NS), CHI_ETIMEOUT);
    uint64_t began = now_ns();
    if (round == 0) {
      kill(st.d.pid, SIGTERM);
    } else { /* asked by a client, once without any grace */
      struct chi_admin_stop_runtime *stop = CHI_NEW(st.s.queue, chi_admin_stop_runtime);
      CHECK(stop);
      stop->task.pool = CHI_ADMIN_POOL;
      stop->grace_period_ms = round == 1 ? 300 : 0;
      CHECK_INT(chi_run(st.s.queue, stop), CHI_OK);
    }
    CHECK_INT(daemon_wait(&st.d, 20000), 75);
    CHECK(now_ns() - began < 2 * SOON);
    CHECK_INT(chi_wait(st.s.queue, t, LONG_NS), CHI_ESHUTDOWN);
    CHECK_STR(daemon_start(&st.d), ""); /* nothing is in the way of the next */
    seat_close(&st.s);
    CHECK_INT(daemon_stop(&st.d), 0);
    daemon_free(&st.d);
  }
}

/* Regression: stop ignored the grace period. The daemon's own is 300 ms. */
TEST(stop_gives_the_grace_period_that_was_asked_for)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  struct unruly_deaf *t = SEAT_NEW(&st.s, unruly_deaf);
  struct chi_admin_stop_runtime *stop = CHI_NEW(st.s.queue, chi_admin_stop_runtime);
  CHECK(t && stop);
  t->ns = 11500 * MS_NS;
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, 50 * MS_NS), CHI_ETIMEOUT);
  stop->task.pool = CHI_ADMIN_POOL;
  stop->grace_period_ms = 15000;
  CHECK_INT(chi_run(st.s.queue, stop), CHI_OK);
  CHECK_INT(daemon_wait(&st.d, 20000), 0);
  CHECK_INT(chi_wait(st.s.queue, t, LONG_NS), CHI_OK);
  seat_close(&st.s);
  daemon_free(&st.d);
}

TEST(second_signal_ends_a_daemon_at_once)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  struct unruly_spin *t = spin(&st.s, 1000 * SECOND_NS);
  CHECK(t);
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, 50 * MS_NS), CHI_ETIMEOUT);
  kill(st.d.pid, SIGTERM);
  pause_ns(20 * MS_NS);
  kill(st.d.pid, SIGTERM);
  CHECK_INT(daemon_wait(&st.d, SOON / MS_NS), 128 + SIGTERM);
  seat_close(&st.s);
  daemon_free(&st.d);
}

/* One step past everything: the guard is wide enough. */
TEST(local_array_larger_than_the_stack_is_named_and_ends_the_daemon)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  struct unruly_wide *t = SEAT_NEW(&st.s, unruly_wide);
  CHECK(t);
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(daemon_wait(&st.d, 5000), 70);
  CHECK(strstr(st.d.said, "unruly_wide") && strstr(st.d.said, "overran its stack"));
  seat_close(&st.s);
  daemon_free(&st.d);
}

TEST(method_that_overruns_its_stack_is_named_and_ends_the_daemon)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  struct unruly_overrun *t = SEAT_NEW(&st.s, unruly_overrun);
  CHECK(t);
  t->depth = 10;
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK); /* 5 KiB: fits */
  t->depth = 100000;
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(daemon_wait(&st.d, 5000), 70);
  CHECK_INT(chi_wait(st.s.queue, t, LONG_NS), CHI_ESHUTDOWN);
  CHECK(strstr(st.d.said, "unruly_overrun") && strstr(st.d.said, "overran its stack"));
  CHECK_INT(daemon_logged(&st.d, "method unruly_overrun of pool 300.0 (test) overran its stack"),
            1);
  CHECK_STR(daemon_start(&st.d), "");
  seat_close(&st.s);
  CHECK_INT(daemon_stop(&st.d), 0);
  daemon_free(&st.d);
}
