/* test_client.c - a program's side of shared memory, against a daemon as it ships: waits that end
 * early, tasks that are taken back, full queues, spent budgets, event loops, forks, restarts. */
#include "daemon.h"
#include "modules/calc.h"
#include "modules/unruly.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#define LONG_NS (20 * SECOND_NS) /* far more than anything here takes */

/* A daemon with one client, and a pool of a module. */
struct stage {
  struct daemon d;
  struct seat s;
};

static const char *stage_open(struct stage *st, const char *yaml, const char *module)
{
  if (!daemon_make(&st->d, yaml))
    return "cannot make a daemon";
  const char *wrong = daemon_start(&st->d);
  if (!*wrong && seat_open(&st->s, st->d.instance) != CHI_OK)
    wrong = "cannot attach";
  if (!*wrong && module && seat_pool(&st->s, module, NULL, NULL) != CHI_OK)
    wrong = "cannot create the pool";
  return wrong;
}

/* The empty text if the daemon stopped as it should. */
static const char *stage_close(struct stage *st)
{
  static char text[64];
  if (st->s.client)
    seat_close(&st->s);
  int status = daemon_stop(&st->d);
  snprintf(text, sizeof(text), "exit status %d", status);
  if (status == 0)
    text[0] = '\0';
  daemon_free(&st->d);
  return text;
}

static struct calc_later *later(struct seat *s, uint64_t ns)
{
  struct calc_later *t = SEAT_NEW(s, calc_later);
  if (t)
    t->ns = ns;
  return t;
}

/* ---- waits, cancellation, ends --------------------------------------------------------------- */

TEST(wait_that_times_out_is_no_completion)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  struct calc_later *t = later(&st.s, 150 * MS_NS);
  CHECK(t);
  t->a = 41;
  CHECK_INT(chi_submit(q, t), CHI_OK);
  uint64_t began = now_ns();
  CHECK_INT(chi_wait(q, t, 0), CHI_ETIMEOUT);
  CHECK_INT(chi_wait(q, t, 10 * MS_NS), CHI_ETIMEOUT);
  CHECK(now_ns() - began >= 10 * MS_NS);
  CHECK_INT(chi_task_done(q, t), 0);
  CHECK_INT(chi_task_free(q, t), CHI_EBUSY); /* its memory stays */
  CHECK_INT(chi_submit(q, t), CHI_EINVAL);
  CHECK_INT(chi_wait(q, t, UINT64_MAX), CHI_OK);
  CHECK_INT(t->sum, 42);
  CHECK_INT(chi_wait(q, t, UINT64_MAX), CHI_OK); /* the answer stays, too */
  CHECK_INT(chi_task_free(q, t), CHI_OK);
  CHECK_STR(stage_close(&st), "");
}

TEST(cancel_before_during_and_after)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "unruly"), "");
  chi_queue *q = st.s.queue;
  struct unruly_spin *spin = SEAT_NEW(&st.s, unruly_spin);
  struct unruly_lock *t = SEAT_NEW(&st.s, unruly_lock);
  CHECK(spin && t);
  CHECK_INT(chi_cancel(q, t), CHI_OK); /* not submitted: there is nothing to end */
  spin->ns = 100 * MS_NS;              /* nobody else is let in meanwhile */
  t->ns = 100 * SECOND_NS;
  CHECK_INT(chi_submit(q, spin), CHI_OK);
  CHECK_INT(chi_wait(q, spin, 20 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_submit(q, t), CHI_OK);
  CHECK_INT(chi_cancel(q, t), CHI_OK);
  CHECK_INT(chi_wait(q, t, LONG_NS), CHI_ECANCELLED);
  CHECK_INT(t->inside, 0); /* it did not begin */
  CHECK_INT(chi_wait(q, spin, LONG_NS), CHI_OK);
  CHECK_INT(chi_cancel(q, spin), CHI_OK);
  CHECK_INT(chi_wait(q, spin, LONG_NS), CHI_OK);
  CHECK_INT(chi_submit(q, t), CHI_OK);
  CHECK_INT(chi_wait(q, t, 20 * MS_NS), CHI_ETIMEOUT);
  uint64_t began = now_ns();
  CHECK_INT(chi_cancel(q, t), CHI_OK);
  CHECK_INT(chi_cancel(q, t), CHI_OK);
  CHECK_INT(chi_wait(q, t, LONG_NS), CHI_ECANCELLED);
  CHECK(now_ns() - began < SOON);
  CHECK_INT(t->inside, 1);
  CHECK_STR(stage_close(&st), "");
}

/* A body that doesn't care is not torn away: the task completes when the body ends. */
TEST(cancelled_body_that_does_not_listen_completes_when_it_ends)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "unruly"), "");
  struct unruly_deaf *t = SEAT_NEW(&st.s, unruly_deaf);
  CHECK(t);
  t->ns = 150 * MS_NS;
  uint64_t began = now_ns();
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, 20 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_cancel(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, LONG_NS), CHI_OK);
  CHECK(now_ns() - began >= 140 * MS_NS);
  CHECK_STR(stage_close(&st), "");
}

TEST(deadline_ends_a_task)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  struct calc_later *t = later(&st.s, 100 * SECOND_NS);
  CHECK(t);
  t->task.deadline_ms = 20;
  uint64_t began = now_ns();
  CHECK_INT(chi_run(st.s.queue, t), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(st.s.queue, t), 1);
  CHECK(now_ns() - began >= 19 * MS_NS && now_ns() - began < SOON);
  CHECK_STR(stage_close(&st), "");
}

TEST(abandoned_tasks_end_and_their_memory_comes_back)
{
  struct stage st;
  struct figures before, after;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int round = 0; round < 100; round++) {
    for (int i = 0; i < 100; i++) {
      struct calc_later *t = later(&st.s, 1000 * SECOND_NS);
      CHECK(t);
      CHECK(EVENTUALLY(5000, chi_submit(q, t) == CHI_OK)); /* the lane may be full */
      CHECK(EVENTUALLY(5000, chi_abandon(q, t) == CHI_OK));
    }
  }
  struct calc_add *last = SEAT_NEW(&st.s, calc_add);
  CHECK(last);
  CHECK_INT(chi_run(q, last), CHI_OK);
  CHECK(EVENTUALLY(5000, figures_ask(&st.s, &after) == CHI_OK && after.in_flight == 1));
  CHECK_INT(after.blocked, before.blocked);
  CHECK(after.main_used <= before.main_used + (2 << 20)); /* 1.5 million bytes of tasks passed */
  struct calc_later *t = later(&st.s, 0);
  CHECK(t);
  CHECK_INT(chi_abandon(q, t), CHI_OK); /* one that was never submitted is freed */
  t = later(&st.s, 0);
  CHECK(t);
  CHECK_INT(chi_submit(q, t), CHI_OK);
  CHECK(EVENTUALLY(5000, chi_task_done(q, t)));
  CHECK_INT(chi_abandon(q, t), CHI_OK); /* as is one that has completed */
  CHECK_STR(stage_close(&st), "");
}

TEST(fire_and_forget_frees_itself)
{
  struct stage st;
  struct figures before, after;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  struct calc_count *t = SEAT_NEW(&st.s, calc_count);
  CHECK(t);
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int i = 0; i < 20000; i++) {
    struct calc_count *f = SEAT_NEW(&st.s, calc_count);
    CHECK(f);
    f->task.flags = CHI_TASK_FORGET;
    CHECK(EVENTUALLY(5000, chi_submit(st.s.queue, f) == CHI_OK));
  }
  CHECK(EVENTUALLY(5000, chi_run(st.s.queue, t) == CHI_OK && t->count >= 20001));
  CHECK_INT(figures_ask(&st.s, &after), CHI_OK);
  CHECK_INT(after.main_used, before.main_used);
  CHECK_STR(stage_close(&st), "");
}

TEST(periodic_task_runs_until_it_is_cancelled)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  struct calc_count *t = SEAT_NEW(&st.s, calc_count), *u = SEAT_NEW(&st.s, calc_count);
  CHECK(t && u);
  t->task.flags = CHI_TASK_PERIODIC;
  CHECK_INT(chi_run(st.s.queue, t), CHI_EINVAL); /* without a period */
  t->task.period_us = 1000;
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, 100 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_run(st.s.queue, u), CHI_OK);
  CHECK(u->count > 20);
  CHECK_INT(chi_cancel(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_wait(st.s.queue, t, LONG_NS), CHI_ECANCELLED);
  CHECK_INT(chi_run(st.s.queue, u), CHI_OK);
  uint64_t count = u->count;
  pause_ns(20 * MS_NS);
  CHECK_INT(chi_run(st.s.queue, u), CHI_OK);
  CHECK_INT(u->count, count + 1);
  CHECK_STR(stage_close(&st), "");
}

/* ---- what isn't right is said ---------------------------------------------------------------- */

TEST(calls_that_do_not_fit_are_refused)
{
  struct stage st;
  chi_queue *other;
  chi_bulk bulk = {0};
  chi_error err;
  char local[sizeof(struct calc_add)] = {0};
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  CHECK_INT(chi_queue_open(st.s.client, &other, &err), CHI_OK);
  struct calc_add *t = SEAT_NEW(&st.s, calc_add);
  CHECK(t);
  CHECK_INT(chi_wait(st.s.queue, t, 0), CHI_EINVAL); /* never submitted */
  CHECK_INT(chi_submit(other, t), CHI_EINVAL);
  CHECK_INT(chi_submit(st.s.queue, local), CHI_EINVAL);
  CHECK_INT(chi_submit(st.s.queue, (char *)t + 64), CHI_EINVAL);
  CHECK_INT(chi_task_free(other, t), CHI_EINVAL);
  CHECK_INT(chi_queue_error(other, &err), CHI_EINVAL);
  CHECK(err.text[0]);
  CHECK_INT(chi_bulk_alloc(st.s.queue, 100, &bulk), CHI_OK);
  CHECK_INT(chi_submit(st.s.queue, bulk.data), CHI_EINVAL); /* a buffer is no task */
  chi_bulk part = bulk;
  part.data = (char *)bulk.data + 64;
  CHECK_INT(chi_bulk_free(st.s.queue, &part), CHI_EINVAL);
  CHECK_INT(chi_bulk_free(st.s.queue, &bulk), CHI_OK);
  CHECK(!bulk.data);
  CHECK_INT(chi_bulk_free(st.s.queue, &bulk), CHI_OK); /* nothing, once more */
  CHECK_INT(chi_task_free(st.s.queue, t), CHI_OK);
  CHECK_INT(chi_task_free(st.s.queue, t), CHI_EINVAL); /* twice */
  CHECK_INT(chi_wait_any(st.s.queue, NULL, 0, 0, NULL), CHI_EINVAL);
  chi_queue_close(other);
  CHECK_STR(stage_close(&st), "");
}

/* Regression: a task whose container is missing never completed, or completed with code 0. */
TEST(task_for_nobody_completes_with_a_code)
{
  struct stage st;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  struct calc_add *t = SEAT_NEW(&st.s, calc_add);
  CHECK(t);
  t->task.pool = (chi_pool_id){999, 7};
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOENT);
  t->task.pool = TEST_POOL;
  t->task.method = 200;
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOMETHOD);
  t->task.method = UINT32_MAX;
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOMETHOD);
  t->task.method = 0; /* create is not for callers */
  CHECK_INT(chi_run(st.s.queue, t), CHI_ENOMETHOD);
  t->task.method = calc_add_type.id;
  t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = 1};
  CHECK_INT(chi_run(st.s.queue, t), CHI_ERANGE);
  t->task.query = (chi_query){.mode = CHI_QUERY_RANGE, .a = 0, .b = 2};
  CHECK_INT(chi_run(st.s.queue, t), CHI_ERANGE);
  t->task.query = (chi_query){.mode = 99};
  CHECK_INT(chi_run(st.s.queue, t), CHI_EINVAL);
  t->task.query = (chi_query){.mode = CHI_QUERY_BROADCAST};
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK);
  t->task.flags = CHI_TASK_FORCE_NET;
  CHECK_INT(chi_run(st.s.queue, t), CHI_OK);
  CHECK_STR(stage_close(&st), "");
}

/* ---- full ------------------------------------------------------------------------------------ */

/* Regression: a full queue deadlocked. */
TEST(full_queue_is_busy_and_goes_on)
{
  struct stage st;
  struct calc_later *t[17];
  CHECK_STR(stage_open(&st, "runtime: {queue_depth: 16}\n", "calc"), "");
  for (int i = 0; i < 17; i++) {
    t[i] = later(&st.s, 30 * MS_NS);
    CHECK(t[i]);
  }
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 16; i++)
      CHECK_INT(chi_submit(st.s.queue, t[i]), CHI_OK);
    CHECK_INT(chi_submit(st.s.queue, t[16]), CHI_EBUSY);
    CHECK_INT(chi_task_done(st.s.queue, t[16]), 1); /* nothing was submitted */
    CHECK_INT(chi_wait(st.s.queue, t[0], LONG_NS), CHI_OK);
    CHECK_INT(chi_submit(st.s.queue, t[16]), CHI_OK);
    CHECK_INT(chi_wait_all(st.s.queue, (void **)t, 17, LONG_NS), CHI_OK);
  }
  CHECK_STR(stage_close(&st), "");
}

/* With all workers held up, nobody takes from the lane. */
TEST(full_lane_is_busy_and_goes_on)
{
  struct stage st;
  static struct calc_add *t[3000];
  struct unruly_spin *spin[2];
  struct calc_later *sleeper;
  uint64_t n = 0;
  CHECK_STR(stage_open(&st,
                       "workers: {sched_threads: 1, slow_threads: 1}\n"
                       "runtime: {queue_depth: 4000}\n",
                       "calc"),
            "");
  chi_queue *q = st.s.queue;
  sleeper = later(&st.s, 1000 * SECOND_NS);
  CHECK(sleeper);
  CHECK_INT(chi_submit(q, sleeper), CHI_OK);
  for (uint32_t i = 0; i < 2; i++) {
    chi_pool_id id = {301 + i, 0};
    CHECK_INT(chi_pool_create(q, "unruly", i ? "one" : "two", NULL, 0, &id, NULL), CHI_OK);
    spin[i] = SEAT_NEW(&st.s, unruly_spin);
    CHECK(spin[i]);
    spin[i]->task.pool = id;
    spin[i]->ns = 1500 * MS_NS;
    CHECK_INT(chi_submit(q, spin[i]), CHI_OK);
  }
  CHECK_INT(chi_wait(q, spin[1], 300 * MS_NS), CHI_ETIMEOUT); /* both are inside by now */
  for (; n < 3000; n++) {
    t[n] = SEAT_NEW(&st.s, calc_add);
    CHECK(t[n]);
    t[n]->a = n;
    if (chi_submit(q, t[n]) != CHI_OK)
      break;
  }
  CHECK(n >= 1000 && n < 3000);
  CHECK_INT(chi_submit(q, t[n]), CHI_EBUSY);
  CHECK_INT(chi_cancel(q, sleeper), CHI_EBUSY);
  CHECK_INT(chi_task_free(q, t[n]), CHI_OK);
  CHECK_INT(chi_wait_all(q, (void **)t, (uint32_t)n, LONG_NS), CHI_OK);
  for (uint64_t i = 0; i < n; i++)
    CHECK_INT(t[i]->sum, i);
  CHECK_INT(chi_cancel(q, sleeper), CHI_OK);
  CHECK_INT(chi_wait(q, sleeper, LONG_NS), CHI_ECANCELLED);
  CHECK_STR(stage_close(&st), "");
}

TEST(spent_budget_is_an_error_and_comes_back)
{
  struct stage st;
  chi_bulk bulk[8] = {{0}}, big = {0};
  chi_error err;
  int n = 0;
  CHECK_STR(stage_open(&st,
                       "memory: {main_segment_size: 8M, client_data_segment_size: 8M, "
                       "runtime_data_segment_size: 8M}\n",
                       "calc"),
            "");
  chi_queue *q = st.s.queue;
  for (int round = 0; round < 3; round++) {
    for (n = 0; n < 8 && chi_bulk_alloc(q, 2 << 20, &bulk[n]) == CHI_OK; n++)
      memset(bulk[n].data, n, 2 << 20);
    CHECK_INT(n, 4);
    CHECK_INT(chi_queue_error(q, &err), CHI_ENOMEM);
    CHECK(strstr(err.text, "Failed to allocate shared memory segment"));
    CHECK_INT(chi_bulk_alloc(q, 64 << 20, &big), CHI_ENOMEM);
    CHECK_INT(chi_bulk_alloc(q, UINT64_MAX, &big), CHI_ENOMEM);
    struct calc_add *t = SEAT_NEW(&st.s, calc_add);
    CHECK(t); /* tasks have a budget of their own */
    CHECK_INT(chi_run(q, t), CHI_OK);
    CHECK_INT(chi_task_free(q, t), CHI_OK);
    while (n-- > 0)
      CHECK_INT(chi_bulk_free(q, &bulk[n]), CHI_OK);
  }
  for (n = 0; n < 20000 && SEAT_NEW(&st.s, calc_sum); n++)
    ;
  CHECK(n > 1000 && n < 20000);
  CHECK_INT(chi_queue_error(q, &err), CHI_ENOMEM);
  CHECK(strstr(err.text, "Failed to allocate shared memory segment"));
  chi_queue *other; /* nor is there memory for more queues */
  for (n = 0; n < 20 && chi_queue_open(st.s.client, &other, &err) == CHI_OK; n++)
    ;
  CHECK(n > 0 && n < 20);
  CHECK_INT(err.code, CHI_ENOMEM);
  CHECK(strstr(err.text, "Failed to allocate shared memory segment"));
  CHECK(daemon_logged(&st.d, "Failed to allocate shared memory segment") > 0);
  CHECK(daemon_logged(&st.d, "\n") < 20);
  seat_close(&st.s);
  CHECK_INT(seat_open(&st.s, st.d.instance), CHI_OK); /* with the client its share came back */
  CHECK(SEAT_NEW(&st.s, calc_sum));
  CHECK_STR(stage_close(&st), "");
}

/* Who uses one large buffer after the other gets the same pages again; what another one wishes
 * for comes first; and without more wishes they are given back. */
TEST(large_buffer_is_used_again_and_then_given_back)
{
  struct stage st;
  struct figures before;
  chi_bulk bulk = {0}, other = {0};
  CHECK_STR(stage_open(&st, "memory: {client_data_segment_size: 20M}\n", "calc"), "");
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (unsigned i = 0; i < 5; i++) {
    CHECK_INT(chi_bulk_alloc(st.s.queue, 16 << 20, &bulk), CHI_OK);
    const unsigned char *bytes = bulk.data;
    CHECK(i == 0 || (bytes[0] == i && bytes[(16 << 20) - 1] == i));
    memset(bulk.data, (int)i + 1, 16 << 20);
    CHECK_INT(chi_bulk_free(st.s.queue, &bulk), CHI_OK);
  }
  CHECK_INT(chi_bulk_alloc(st.s.queue, 12 << 20, &other), CHI_OK);
  CHECK_INT(chi_bulk_alloc(st.s.queue, 16 << 20, &bulk), CHI_ENOMEM);
  CHECK_INT(chi_bulk_free(st.s.queue, &other), CHI_OK);
  CHECK_STR(figures_return(&st.s, &before, 5000), "");
  CHECK_STR(stage_close(&st), "");
}

TEST(idle_chunks_are_given_back)
{
  struct stage st;
  struct figures before, most, after;
  static chi_bulk bulk[600];
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 600; i++)
      CHECK_INT(chi_bulk_alloc(st.s.queue, 60000, &bulk[i]), CHI_OK);
    CHECK_INT(figures_ask(&st.s, &most), CHI_OK);
    CHECK(most.data_used >= before.data_used + (34 << 20));
    for (int i = 0; i < 600; i++)
      CHECK_INT(chi_bulk_free(st.s.queue, &bulk[i * 7 % 600]), CHI_OK);
    CHECK_INT(figures_ask(&st.s, &after), CHI_OK);
    CHECK(after.data_used <= before.data_used + (2 << 20)); /* one is kept for the next */
  }
  CHECK_STR(stage_close(&st), "");
}

TEST(queues_that_come_and_go_leave_nothing)
{
  struct stage st;
  struct figures before;
  chi_error err;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int i = 0; i < 300; i++) {
    struct seat s = {.client = st.s.client};
    CHECK_INT(chi_queue_open(s.client, &s.queue, &err), CHI_OK);
    struct calc_later *t = later(&s, i % 3 ? 0 : 100 * SECOND_NS);
    CHECK(t);
    CHECK_INT(chi_submit(s.queue, t), CHI_OK);
    chi_queue_close(s.queue); /* cancels what is under way */
  }
  CHECK_STR(figures_return(&st.s, &before, 3000), "");
  CHECK_STR(stage_close(&st), "");
}

/* ---- many at once ---------------------------------------------------------------------------- */

TEST(many_tasks_by_wait_any_wait_all_and_reap)
{
  struct stage st;
  void *t[50], *done[50];
  uint32_t which = 0, reaped = 0;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  for (uint64_t i = 0; i < 50; i++) {
    struct calc_later *one = later(&st.s, (i == 49 ? 4 : 250 - i) * MS_NS); /* the last is first */
    CHECK(one);
    one->a = i;
    t[i] = one;
  }
  CHECK_INT(chi_submit_many(q, t, 50), 50);
  CHECK_INT(chi_submit_many(q, t, 50), CHI_EINVAL); /* they are under way */
  CHECK_INT(chi_wait_any(q, t, 50, LONG_NS, &which), CHI_OK);
  CHECK_INT(which, 49);
  CHECK_INT(chi_wait_any(q, t, 1, MS_NS, &which), CHI_ETIMEOUT);
  CHECK_INT(chi_wait_all(q, t, 50, MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_wait_all(q, t, 50, LONG_NS), CHI_OK);
  for (uint64_t i = 0; i < 50; i++)
    CHECK_INT(((struct calc_later *)t[i])->sum, i + 1);
  CHECK_INT(chi_submit_many(q, t, 50), 50);
  while (reaped < 50) {
    int n = chi_reap(q, done, 7); /* fewer than there may be */
    CHECK(n >= 0 && n <= 7);
    reaped += (uint32_t)n;
    pause_ns(MS_NS);
  }
  CHECK_INT(chi_reap(q, done, 7), 0);
  CHECK_STR(stage_close(&st), "");
}

/* A chain: each completion changes, submits or frees. */
struct chain {
  uint64_t calls, left, alive;
  bool wrong;
};

static void chain_done(void *arg, chi_queue *q, void *task)
{
  struct chain *c = arg;
  struct calc_add *t = task;
  c->calls++;
  c->wrong = c->wrong || t->task.rc != CHI_OK || t->sum != t->a + 1;
  t->a++;
  if (c->left > 0 && --c->left % 10 == 3) { /* waits inside a callback run others */
    c->wrong = c->wrong || chi_run(q, t) != CHI_OK;
  }
  if (c->left == 0) {
    c->wrong = c->wrong || chi_task_free(q, t) != CHI_OK;
    c->alive--;
  } else {
    c->wrong = c->wrong || chi_submit_callback(q, t, chain_done, c) != CHI_OK;
  }
}

TEST(callbacks_may_submit_wait_and_free)
{
  struct stage st;
  struct chain c = {.left = 2000, .alive = 8};
  void *done[4];
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  for (int i = 0; i < 8; i++) {
    struct calc_add *t = SEAT_NEW(&st.s, calc_add);
    CHECK(t);
    t->b = 1;
    CHECK_INT(chi_submit_callback(st.s.queue, t, chain_done, &c), CHI_OK);
    CHECK_INT(chi_wait(st.s.queue, t, 0), CHI_EINVAL); /* it answers otherwise */
  }
  CHECK(EVENTUALLY(10000, chi_reap(st.s.queue, done, 4) == 0 && c.alive == 0));
  CHECK(c.calls >= 2000);
  CHECK(!c.wrong);
  CHECK_STR(stage_close(&st), "");
}

/* A program with an event loop of its own: poll() on our descriptor and a pipe beside it. */
TEST(foreign_poll_loop_is_woken_for_completions)
{
  struct stage st;
  struct calc_later *t[16];
  void *done[5];
  int beside[2], fd, running = 0, sent = 0, ended = 0, beats = 0;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  fd = chi_queue_fd(q);
  CHECK(fd >= 0 && pipe(beside) == 0);
  for (int i = 0; i < 16; i++) {
    t[i] = later(&st.s, (uint64_t)i * 100000);
    CHECK(t[i]);
    CHECK_INT(chi_submit(q, t[i]), CHI_OK);
    running++, sent++;
  }
  while (running > 0) {
    int armed = chi_queue_arm(q);
    CHECK(armed >= 0);
    armed = armed ? armed : chi_queue_arm(q); /* twice is once, if nothing has come meanwhile */
    struct pollfd p[2] = {{fd, POLLIN, 0}, {beside[0], POLLIN, 0}};
    if (beats < 100 && ended > beats * 10) {
      CHECK_INT(write(beside[1], "x", 1), 1);
      beats++;
    }
    char beat;
    CHECK(poll(p, 2, armed ? 0 : 5000) > 0 || armed);
    if (p[1].revents)
      CHECK_INT(read(beside[0], &beat, 1), 1);
    int n = chi_reap(q, done, 5);
    CHECK(n >= 0);
    ended += n;
    running -= n;
    for (int i = 0; i < n && sent < 3000; i++, sent++, running++)
      CHECK_INT(chi_submit(q, done[i]), CHI_OK);
  }
  CHECK_INT(ended, sent);
  t[0]->ns = 100 * MS_NS;
  CHECK_INT(chi_submit(q, t[0]), CHI_OK);
  CHECK_INT(chi_queue_arm(q), 0);
  CHECK_INT(chi_wait(q, t[0], LONG_NS), CHI_OK); /* waits take back what was armed */
  CHECK_INT(chi_queue_arm(q), 0);
  daemon_kill(&st.d);
  struct pollfd p = {fd, POLLIN, 0};
  CHECK_INT(poll(&p, 1, 1000), 1); /* and the end of the daemon is heard */
  CHECK(chi_reap(q, done, 5) <= 0);
  CHECK_INT(chi_submit(q, t[0]), CHI_ESHUTDOWN);
  seat_close(&st.s);
  close(beside[0]);
  close(beside[1]);
  daemon_free(&st.d);
}

static void on_alarm(int number)
{
  (void)number;
}

TEST(waits_go_on_after_signals)
{
  struct stage st;
  struct sigaction action = {.sa_handler = on_alarm}, before;
  struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  sigaction(SIGALRM, &action, &before);
  setitimer(ITIMER_REAL, &often, NULL);
  int wrong = 0;
  for (int i = 0; i < 30; i++) {
    struct calc_later *t = later(&st.s, 5 * MS_NS);
    wrong += !t || chi_run(st.s.queue, t) != CHI_OK;
    struct seat s;
    wrong += seat_open(&s, st.d.instance) != CHI_OK;
    if (s.client)
      seat_close(&s);
  }
  setitimer(ITIMER_REAL, &never, NULL);
  sigaction(SIGALRM, &before, NULL);
  CHECK_INT(wrong, 0);
  CHECK_STR(stage_close(&st), "");
}

/* ---- threads and clients --------------------------------------------------------------------- */

struct hand {
  chi_client *client;
  pthread_t thread;
  uint64_t number;
  const char *wrong;
};

/* What each thread does with a queue of its own. */
static const char *hand_work(struct hand *h, struct seat *s)
{
  void *t[32];
  for (int round = 0; round < 60; round++) {
    for (uint64_t i = 0; i < 32; i++) {
      struct calc_add *a = SEAT_NEW(s, calc_add);
      struct calc_later *l = SEAT_NEW(s, calc_later);
      if (!a || !l)
        return "no memory";
      a->a = l->a = h->number * 1000 + i;
      a->b = 1;
      t[i] = i % 4 ? (void *)a : (void *)l;
      if (chi_task_free(s->queue, i % 4 ? (void *)l : (void *)a) != CHI_OK)
        return "cannot free";
    }
    if (chi_submit_many(s->queue, t, 32) != 32 || chi_wait_all(s->queue, t, 32, LONG_NS) != CHI_OK)
      return "does not complete";
    for (uint64_t i = 0; i < 32; i++) {
      uint64_t sum = i % 4 ? ((struct calc_add *)t[i])->sum : ((struct calc_later *)t[i])->sum;
      if (sum != h->number * 1000 + i + 1)
        return "a wrong answer";
      if (chi_task_free(s->queue, t[i]) != CHI_OK)
        return "cannot free";
    }
  }
  return "";
}

static void *hand_main(void *arg)
{
  struct hand *h = arg;
  struct seat s = {.client = h->client};
  h->wrong = "no queue";
  if (chi_queue_open(s.client, &s.queue, NULL) != CHI_OK)
    return NULL;
  h->wrong = hand_work(h, &s);
  chi_queue_close(s.queue);
  return NULL;
}

TEST(many_threads_each_with_a_queue_of_one_client)
{
  struct stage st;
  struct hand h[8];
  struct figures before;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int round = 0; round < 3; round++) {
    for (uint64_t i = 0; i < 8; i++) {
      h[i] = (struct hand){.client = st.s.client, .number = i + 1};
      CHECK_INT(pthread_create(&h[i].thread, NULL, hand_main, &h[i]), 0);
    }
    for (int i = 0; i < 8; i++)
      pthread_join(h[i].thread, NULL);
    for (int i = 0; i < 8; i++)
      CHECK_STR(h[i].wrong, "");
  }
  CHECK_STR(figures_return(&st.s, &before, 3000), "");
  CHECK_STR(stage_close(&st), "");
}

/* Regression: the second client broke shared memory for all. */
TEST(second_client_does_not_disturb_the_first)
{
  struct stage st;
  struct seat more[6];
  struct calc_add *t[7];
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  t[0] = SEAT_NEW(&st.s, calc_add);
  CHECK(t[0]);
  for (int i = 0; i < 6; i++) {
    CHECK_INT(seat_open(&more[i], st.d.instance), CHI_OK);
    t[i + 1] = SEAT_NEW(&more[i], calc_add);
    CHECK(t[i + 1]);
    for (int k = 0; k <= i + 1; k++) {
      t[k]->a = (uint64_t)(i * 100 + k);
      t[k]->b = 7;
      CHECK_INT(chi_run(k ? more[k - 1].queue : st.s.queue, t[k]), CHI_OK);
      CHECK_INT(t[k]->sum, i * 100 + k + 7);
    }
  }
  for (int i = 0; i < 6; i++) {
    seat_close(&more[i]);
    CHECK_INT(chi_run(st.s.queue, t[0]), CHI_OK);
  }
  CHECK_STR(stage_close(&st), "");
}

TEST(client_that_closes_with_tasks_under_way_leaves_nothing)
{
  struct stage st;
  struct figures before;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  for (int i = 0; i < 30; i++) {
    struct seat s;
    CHECK_INT(seat_open(&s, st.d.instance), CHI_OK);
    for (int k = 0; k < 50; k++) {
      struct calc_later *t = later(&s, 1000 * SECOND_NS);
      CHECK(t);
      CHECK_INT(chi_submit(s.queue, t), CHI_OK);
    }
    chi_client_close(s.client); /* with its queue */
  }
  CHECK_STR(figures_return(&st.s, &before, 3000), "");
  CHECK_STR(stage_close(&st), "");
}

/* ---- forks ----------------------------------------------------------------------------------- */

struct forked {
  struct stage *st;
  struct calc_later *flying;
  struct calc_add *fresh;
  chi_bulk bulk;
};

#define FORKED(code)                                                                               \
  do {                                                                                             \
    if ((code) != CHI_EFORKED)                                                                     \
      return __LINE__ & 127;                                                                       \
  } while (0)

/* Every call in the child is refused and none faults; then the child attaches by itself. */
static int forked_child(void *arg)
{
  struct forked *f = arg;
  chi_client *c = f->st->s.client;
  chi_queue *q = f->st->s.queue, *other;
  void *tasks[] = {f->flying}, *done[1];
  chi_error err = {0};
  chi_bulk bulk = {0};
  chi_pool_id id = TEST_POOL;
  uint32_t which;
  FORKED(chi_submit(q, f->fresh));
  FORKED(chi_submit_many(q, tasks, 1));
  FORKED(chi_run(q, f->fresh));
  FORKED(chi_wait(q, f->flying, 0));
  FORKED(chi_wait_any(q, tasks, 1, 0, &which));
  FORKED(chi_wait_all(q, tasks, 1, 0));
  FORKED(chi_task_done(q, f->flying));
  FORKED(chi_reap(q, done, 1));
  FORKED(chi_cancel(q, f->flying));
  FORKED(chi_abandon(q, f->flying));
  FORKED(chi_task_free(q, f->fresh));
  FORKED(chi_bulk_alloc(q, 100, &bulk));
  FORKED(chi_bulk_free(q, &f->bulk));
  FORKED(chi_queue_arm(q));
  FORKED(chi_queue_fd(q));
  FORKED(chi_pool_find(q, "test", &id));
  FORKED(chi_pool_destroy(q, id, &err));
  FORKED(chi_queue_open(c, &other, &err));
  FORKED(chi_client_reconnect(c, 0, &err));
  if (chi_task_new(q, &calc_add_type) || chi_queue_error(q, &err) != CHI_EFORKED)
    return __LINE__ & 127;
  chi_queue_close(q);
  chi_client_close(c);
  struct seat s;
  if (seat_open(&s, f->st->d.instance) != CHI_OK)
    return __LINE__ & 127;
  struct calc_add *t = SEAT_NEW(&s, calc_add);
  if (!t || chi_run(s.queue, t) != CHI_OK)
    return __LINE__ & 127;
  seat_close(&s);
  return 0;
}

TEST(calls_in_a_forked_child_are_refused)
{
  struct stage st;
  struct forked f = {.st = &st};
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  f.flying = later(&st.s, 200 * MS_NS);
  f.fresh = SEAT_NEW(&st.s, calc_add);
  CHECK(f.flying && f.fresh);
  CHECK_INT(chi_bulk_alloc(st.s.queue, 100, &f.bulk), CHI_OK);
  CHECK_INT(chi_submit(st.s.queue, f.flying), CHI_OK);
  CHECK_INT(scratch_child(forked_child, &f), 0);              /* else the line, modulo 128 */
  CHECK_INT(chi_wait(st.s.queue, f.flying, LONG_NS), CHI_OK); /* nothing changed for the parent */
  CHECK_INT(chi_run(st.s.queue, f.fresh), CHI_OK);
  CHECK_STR(stage_close(&st), "");
}

/* ---- no daemon, another daemon, the daemon's end --------------------------------------------- */

/* Regression: no daemon meant half a minute of silence. */
TEST(no_daemon_is_an_error_at_once)
{
  static const char *const instances[] = {"chi-test-nobody:7001", "chi-test-nobody", ":64999",
                                          "/tmp/chi-test-nobody.sock"};
  uint64_t began = now_ns();
  for (size_t i = 0; i < CHI_COUNT(instances); i++) {
    chi_client *c;
    chi_error err = {0};
    CHECK_INT(chi_client_open(instances[i], &c, &err), CHI_ENODAEMON);
    CHECK(strstr(err.text, i == 2 ? "64999" : "chi-test-nobody")); /* what was looked for */
  }
  CHECK(now_ns() - began < SOON);
}

TEST(two_daemons_of_one_user_keep_apart)
{
  struct daemon a, b, again;
  struct seat s, t;
  char name[64];
  CHECK(daemon_make(&a, NULL) && daemon_make(&b, NULL) && daemon_make(&again, NULL));
  snprintf(name, sizeof(name), "%.60s", a.instance);
  *strchr(name, ':') = '\0';
  snprintf(b.instance, sizeof(b.instance), "%s:7002", name);
  snprintf(again.instance, sizeof(again.instance), "%s", a.instance);
  CHECK_STR(daemon_start(&a), "");
  CHECK_STR(daemon_start(&b), "");
  const char *said = daemon_start(&again); /* the same port twice */
  CHECK(strstr(said, "already served by process") && strstr(said, a.instance));
  CHECK_INT(seat_open(&s, a.instance), CHI_OK);
  CHECK_INT(seat_open(&t, b.instance), CHI_OK);
  CHECK_INT(seat_pool(&s, "calc", NULL, NULL), CHI_OK);
  struct calc_add *u = SEAT_NEW(&s, calc_add), *v = SEAT_NEW(&t, calc_add);
  CHECK(u && v);
  CHECK_INT(chi_run(s.queue, u), CHI_OK);
  CHECK_INT(chi_run(t.queue, v), CHI_ENOENT); /* the pool is the other's */
  chi_client *c;
  CHECK_INT(chi_client_open(name, &c, NULL), CHI_EINVAL); /* which of the two? */
  daemon_kill(&a);
  CHECK_INT(chi_run(t.queue, v), CHI_ENOENT);
  CHECK_INT(chi_client_open(name, &c, NULL), CHI_OK); /* now there is one */
  chi_client_close(c);
  CHECK_STR(daemon_start(&again), "");
  seat_close(&s);
  seat_close(&t);
  CHECK_INT(daemon_stop(&b), 0);
  CHECK_INT(daemon_stop(&again), 0);
  daemon_free(&a);
  daemon_free(&b);
  daemon_free(&again);
}

TEST(client_goes_on_after_the_daemon_was_started_again)
{
  struct stage st;
  chi_error err = {0};
  chi_bulk bulk;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  for (int round = 0; round < 5; round++) {
    struct calc_later *t = later(&st.s, 1000 * SECOND_NS);
    struct calc_add *u = SEAT_NEW(&st.s, calc_add), *v;
    CHECK(t && u);
    CHECK_INT(chi_bulk_alloc(q, 5000, &bulk), CHI_OK);
    memset(bulk.data, round, 5000);
    u->a = 5;
    CHECK_INT(chi_run(q, u), CHI_OK);
    CHECK_INT(chi_submit(q, t), CHI_OK);
    daemon_kill(&st.d);
    CHECK_INT(chi_wait(q, t, LONG_NS), CHI_ESHUTDOWN);
    CHECK_INT(chi_run(q, u), CHI_ESHUTDOWN);
    CHECK_INT(chi_client_reconnect(st.s.client, 0, &err), CHI_ENODAEMON);
    CHECK_STR(daemon_start(&st.d), "");
    CHECK_INT(chi_client_reconnect(st.s.client, 5 * SECOND_NS, &err), CHI_OK);
    CHECK_INT(chi_submit(q, u), CHI_ESTALE);
    CHECK_INT(u->sum, 5); /* what there was can be read */
    CHECK_INT(((char *)bulk.data)[4999], round);
    CHECK_INT(seat_pool(&st.s, "calc", NULL, NULL), CHI_OK);
    v = SEAT_NEW(&st.s, calc_add);
    CHECK(v);
    CHECK_INT(chi_run(q, v), CHI_OK);
    CHECK_INT(chi_task_free(q, t), CHI_OK); /* and freed */
    CHECK_INT(chi_task_free(q, u), CHI_OK);
    CHECK_INT(chi_bulk_free(q, &bulk), CHI_OK);
    CHECK_INT(chi_task_free(q, v), CHI_OK);
  }
  CHECK_STR(stage_close(&st), "");
}

/* A program that looks from time to time, and never waits, hears of the end as well. */
TEST(polling_client_hears_of_the_end)
{
  struct stage st;
  void *done[4];
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  struct calc_later *t = later(&st.s, 1000 * SECOND_NS), *u = later(&st.s, 1000 * SECOND_NS);
  CHECK(t && u);
  CHECK_INT(chi_submit(q, t), CHI_OK);
  CHECK_INT(chi_submit(q, u), CHI_OK);
  CHECK_INT(chi_task_done(q, t), 0);
  daemon_kill(&st.d);
  CHECK(EVENTUALLY(1000, chi_task_done(q, t) == 1));
  CHECK_INT(t->task.rc, CHI_ESHUTDOWN);
  CHECK(EVENTUALLY(1000, chi_reap(q, done, 4) != 0));
  seat_close(&st.s);
  daemon_free(&st.d);
}

TEST(reaping_client_hears_of_the_end)
{
  struct stage st;
  void *done[4];
  int n = 0;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  chi_queue *q = st.s.queue;
  struct calc_later *t = later(&st.s, 1000 * SECOND_NS);
  CHECK(t);
  CHECK_INT(chi_submit(q, t), CHI_OK);
  CHECK_INT(chi_reap(q, done, 4), 0);
  daemon_kill(&st.d);
  CHECK(EVENTUALLY(1000, (n = chi_reap(q, done, 4)) != 0));
  CHECK_INT(n, 1);
  CHECK(done[0] == t);
  CHECK_INT(t->task.rc, CHI_ESHUTDOWN);
  seat_close(&st.s);
  daemon_free(&st.d);
}

/* Regression: the daemon grew with every write. */
TEST(daemon_does_not_grow_with_what_passes_through)
{
  struct stage st;
  struct figures before, after;
  chi_pool_id id = {310, 0};
  chi_param params[] = {{(char *)(uintptr_t) "capacity", (char *)(uintptr_t) "4M", 0, 0},
                        {(char *)(uintptr_t) "bdev_type", (char *)(uintptr_t) "ram", 0, 0}};
  CHECK_STR(stage_open(&st, NULL, NULL), "");
  chi_queue *q = st.s.queue;
  CHECK_INT(chi_pool_create(q, "bdev", "ram", params, 2, &id, NULL), CHI_OK);
  struct chi_bdev_allocate_blocks *a = SEAT_NEW(&st.s, chi_bdev_allocate_blocks);
  CHECK(a);
  a->task.pool = id;
  a->size = 1 << 20;
  CHECK_INT(chi_run(q, a), CHI_OK);
  for (int i = 0; i < 6000; i++) {
    struct chi_bdev_write *w = SEAT_NEW(&st.s, chi_bdev_write);
    CHECK(w);
    CHECK_INT(chi_bulk_alloc(q, 60000, &w->data), CHI_OK);
    w->task.pool = id;
    w->block = a->blocks[0];
    w->length = 60000;
    CHECK_INT(chi_run(q, w), CHI_OK);
    CHECK_INT(chi_bulk_free(q, &w->data), CHI_OK);
    CHECK_INT(chi_task_free(q, w), CHI_OK);
    if (i == 1000)
      CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
    if (i == 1000)
      CHECK(figures_of_process(st.d.pid, &before));
  }
  CHECK_STR(figures_return(&st.s, &before, 1000), "");
  CHECK(figures_of_process(st.d.pid, &after));
  CHECK(after.rss < before.rss + (1 << 20) + RSS_SLACK);
  CHECK_STR(stage_close(&st), "");
}

/* Regression: an idle daemon burned CPU. One client is attached and waits for nothing. */
TEST(idle_daemon_burns_nothing)
{
  struct stage st;
  struct figures before, after;
  CHECK_STR(stage_open(&st, NULL, "calc"), "");
  struct calc_later *t = later(&st.s, 1000 * SECOND_NS);
  CHECK(t);
  CHECK_INT(chi_submit(st.s.queue, t), CHI_OK);
  CHECK_INT(figures_begin(&st.s, &before), CHI_OK);
  pause_ns(500 * MS_NS); /* it looks around for a moment after the last work */
  CHECK(figures_of_process(st.d.pid, &before));
  pause_ns(4 * SECOND_NS);
  CHECK(figures_of_process(st.d.pid, &after));
  CHECK(after.cpu_ns - before.cpu_ns <= 20 * MS_NS); /* 0.5 %; the clock ticks every 10 ms */
  CHECK_STR(stage_close(&st), "");
}
