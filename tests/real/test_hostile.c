/* test_hostile.c - clients that keep to no rules: the daemon survives, others go on, the log stays
 * short. */
#include "daemon.h"
#include "modules/calc.h"
#include "modules/unruly.h"
#include "real_link.h"
#include "test.h"
#include "wild.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BDEV_POOL ((chi_pool_id){310, 0})
#define UNRULY_POOL ((chi_pool_id){320, 0})
#define ROUND_NS SOON /* a decent client gets its answer in this time, whatever happens */

/* A daemon with all kinds of pools, a decent client, and one that isn't. */
struct stage {
  struct daemon d;
  struct seat s;
  struct wild w;
  struct figures before;
  uint64_t rounds, began;
};

#define STAGE_YAML                                                                                 \
  "memory: {main_segment_size: 96M, client_data_segment_size: 96M, "                               \
  "runtime_data_segment_size: 64M}\n"                                                              \
  "runtime: {queue_depth: 2000}\n"                                                                 \
  "compose:\n"                                                                                     \
  "  - {mod_name: calc, pool_name: calc, pool_query: local, pool_id: \"300.0\"}\n"                 \
  "  - {mod_name: bdev, pool_name: ram, pool_query: local, pool_id: \"310.0\", capacity: 8M, "     \
  "bdev_type: ram}\n"                                                                              \
  "  - {mod_name: unruly, pool_name: unruly, pool_query: local, pool_id: \"320.0\"}\n"

static const char *stage_open(struct stage *st)
{
  memset(st, 0, sizeof(*st));
  if (!daemon_make(&st->d, STAGE_YAML))
    return "cannot make a daemon";
  const char *wrong = daemon_start(&st->d);
  if (*wrong)
    return wrong;
  st->began = now_ns();
  if (seat_open(&st->s, st->d.instance) != CHI_OK || figures_begin(&st->s, &st->before) != CHI_OK)
    return "cannot attach";
  return wild_attach(&st->w, st->d.instance, true) == CHI_OK ? "" : "the wild one cannot attach";
}

/* What is wrong, and whether the daemon is still there. */
static const char *stage_wrong(struct stage *st, const char *what)
{
  static char text[3000];
  int status = daemon_wait(&st->d, 500);
  snprintf(text, sizeof(text), "%s; the daemon %s (%d) %.2500s", what,
           status < 0 ? "goes on" : "has ended", status, st->d.said);
  return text;
}

/* The decent client still gets the right answers, in time. The empty text, or what is wrong. */
static const char *stage_look(struct stage *st)
{
  struct calc_add *t = SEAT_NEW(&st->s, calc_add);
  struct calc_later *u = SEAT_NEW(&st->s, calc_later);
  if (!t || !u)
    return stage_wrong(st, "no memory for a decent client");
  t->a = u->a = ++st->rounds;
  t->b = 1;
  u->task.compute_us = 1000; /* on a slow worker */
  if (chi_submit(st->s.queue, t) != CHI_OK || chi_submit(st->s.queue, u) != CHI_OK)
    return stage_wrong(st, "a decent client cannot submit");
  if (chi_wait(st->s.queue, t, ROUND_NS) != CHI_OK || chi_wait(st->s.queue, u, ROUND_NS) != CHI_OK)
    return stage_wrong(st, "a decent task does not complete");
  if (t->sum != st->rounds + 1 || u->sum != st->rounds + 1)
    return "a wrong answer";
  chi_task_free(st->s.queue, t);
  chi_task_free(st->s.queue, u);
  return "";
}

/* The wild one has gone: what it held comes back, the log is short, the daemon stops as usual. */
static const char *stage_close(struct stage *st)
{
  static char text[300];
  wild_detach(&st->w);
  const char *wrong = stage_look(st);
  if (!*wrong)
    wrong = figures_return(&st->s, &st->before, 3000);
  uint32_t lines = daemon_logged(&st->d, "\n");
  uint64_t seconds = (now_ns() - st->began) / SECOND_NS + 1;
  seat_close(&st->s);
  int status = daemon_stop(&st->d);
  snprintf(text, sizeof(text), "%s", wrong);
  if (!*text && status != 0)
    snprintf(text, sizeof(text), "exit status %d: %.200s", status, st->d.said);
  if (!*text && lines > 40 + 4 * seconds)
    snprintf(text, sizeof(text), "%u lines in the log after %u s", lines, (unsigned)seconds);
  daemon_free(&st->d);
  return text;
}

/* A queue of its own, with room for tasks and for data. */
struct one {
  struct wild_queue q;
  int chunk, data;
};

static bool one_open(struct stage *st, struct one *o)
{
  if (wild_open(&st->w, &o->q) != CHI_OK)
    return false;
  o->chunk = wild_lease(&st->w, SHM_MAIN, SHM_CHUNK_SIZE);
  o->data = wild_lease(&st->w, SHM_CLIENT_DATA, SHM_CHUNK_SIZE);
  return o->chunk >= 0 && o->data >= 0;
}

/* Runs the task that begins the chunk: its code. */
static int one_run(struct stage *st, struct one *o)
{
  struct lane_done done;
  if (!wild_push(&st->w, &o->q, LANE_FAST, LANE_RUN, shm_ref((uint32_t)o->chunk, 0), 5))
    return -1000;
  bool answered = EVENTUALLY(2000, lane_done_pop(&o->q.done, &done));
  return !answered ? -1001 : done.slot != 5 ? -1002 : done.rc;
}

static void one_tell(void (*body)(struct stage *st, struct one *o))
{
  struct stage st;
  struct one o;
  CHECK_STR(stage_open(&st), "");
  CHECK(one_open(&st, &o));
  body(&st, &o);
  wild_drop(&st.w, &o.q);
  CHECK_STR(stage_close(&st), "");
}

/* A test that begins and ends like that. */
#define TEST_ONE(id)                                                                               \
  static void one_##id(struct stage *st, struct one *o);                                           \
  TEST(id)                                                                                         \
  {                                                                                                \
    one_tell(one_##id);                                                                            \
  }                                                                                                \
  static void one_##id(struct stage *st, struct one *o)

/* ---- lanes ----------------------------------------------------------------------------------- */

/* A place that may be anything, in or out of what there is. */
static uint64_t any_ref(struct wild *w, int chunk)
{
  uint64_t offset = wild_below(w, SHM_CHUNK_SIZE);
  switch (wild_below(w, 8)) {
  case 0:
    return wild_lot(w);
  case 1:
    return shm_ref((uint32_t)chunk, SHM_CHUNK_SIZE - wild_below(w, 200));
  case 2:
    return shm_ref((uint32_t)chunk, offset | 1);
  case 3:
    return shm_ref((uint32_t)wild_below(w, 2000), offset & ~7ull);
  case 4:
    return shm_ref((uint32_t)chunk, wild_lot(w) & ((1ull << 40) - 1));
  case 5:
    return wild_below(w, 4096);
  default:
    return shm_ref((uint32_t)chunk, offset & ~63ull);
  }
}

TEST_ONE(lane_entries_of_any_content)
{
  struct wild *w = &st->w;
  struct figures f;
  for (int round = 0; round < 60; round++) {
    for (int i = 0; i < 500; i++) {
      uint32_t slot = (uint32_t)(wild_below(w, 3) ? wild_below(w, o->q.depth) : wild_lot(w));
      enum lane_op op = wild_below(w, 4) ? LANE_RUN : LANE_CANCEL;
      wild_push(w, &o->q, (enum lane_kind)wild_below(w, LANE_KINDS), op, any_ref(w, o->chunk),
                slot);
      wild_reap(&o->q);
    }
    CHECK_STR(stage_look(st), "");
  }
  CHECK(EVENTUALLY(5000, figures_ask(&st->s, &f) == CHI_OK && f.in_flight == 1));
  CHECK(f.refused > 10000);
}

/* What an entry says of its header is not what the header says: pools and methods that are not for
 * this worker, or for no client, among them. */
TEST_ONE(brief_entries_of_any_content)
{
  static const chi_pool_id pools[] = {{1, 0}, {0, 0}, {300, 0}, {500, 0}, {UINT32_MAX, 7}};
  struct wild *w = &st->w;
  struct figures f;
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < 500; i++) {
      chi_pool_id pool = pools[wild_below(w, CHI_COUNT(pools))];
      CHECK(wild_push_brief(w, &o->q, (enum lane_kind)wild_below(w, LANE_KINDS),
                            any_ref(w, o->chunk), (uint32_t)wild_below(w, o->q.depth + 2), pool,
                            (uint32_t)wild_below(w, 24)));
      wild_reap(&o->q);
    }
    CHECK_STR(stage_look(st), "");
  }
  CHECK(EVENTUALLY(5000, figures_ask(&st->s, &f) == CHI_OK && f.in_flight == 1));
}

/* The sum of the numbers that stand before a text in a log, and how often it is there. */
static uint64_t logged_sum(const char *log, const char *text, uint64_t *times)
{
  uint64_t sum = 0;
  *times = 0;
  for (const char *at = log; (at = strstr(at, text)) != NULL; at++, ++*times) {
    const char *number = at;
    while (number > log && number[-1] >= '0' && number[-1] <= '9')
      number--;
    sum += strtoull(number, NULL, 10);
  }
  return sum;
}

/* The same wrong thing over and over is told of once a second, and in the end every time counts. */
TEST(a_flood_of_the_same_refusal_is_bounded_and_counted)
{
  static char log[1u << 20];
  struct stage st;
  struct wild_queue q;
  uint64_t lines, times, held;
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(wild_open(&st.w, &q), CHI_OK);
  for (uint32_t i = 0; i < 20000; i++) {
    CHECK(wild_push(&st.w, &q, LANE_FAST, LANE_RUN, 1, i % q.depth));
    wild_reap(&q);
  }
  CHECK(EVENTUALLY(10000, (wild_reap(&q), q.answers == 20000)));
  CHECK_STR(stage_look(&st), "");
  uint64_t seconds = (now_ns() - st.began) / SECOND_NS + 1;
  wild_drop(&st.w, &q);
  wild_detach(&st.w);
  seat_close(&st.s);
  CHECK_INT(daemon_stop(&st.d), 0);
  scratch_read(st.d.log, log, sizeof(log));
  logged_sum(log, "refused a task of queue", &lines);
  held = logged_sum(log, " more held back)", &times) +
         logged_sum(log, " more lines were held back", &times);
  CHECK(lines >= 1 && lines <= seconds + 1);
  CHECK_INT(lines + held, 20000);
  daemon_free(&st.d);
}

/* Whole desks of noise: turns, too, so that nobody knows what is there. */
TEST_ONE(desk_full_of_noise)
{
  for (int round = 0; round < 100; round++) {
    wild_noise(&st->w, o->q.desk, sizeof(*o->q.desk));
    for (uint32_t k = 0; k < LANE_KINDS; k++)
      for (uint32_t i = 0; i < LANE_ENTRIES; i += 1 + (uint32_t)wild_below(&st->w, 3))
        o->q.desk->entry[k][i].turn = (uint32_t)wild_below(&st->w, 200);
    wild_ring(&st->w);
    CHECK_STR(stage_look(st), "");
  }
}

/* Puts as much as goes in for so long, or longer if that was little: how many. */
static uint64_t pour(struct stage *st, struct wild_queue *q, int chunk, uint64_t ns)
{
  uint64_t put = 0, begin = now_ns();
  while (now_ns() < begin + ns || (put <= q->depth && now_ns() < begin + 100 * ns))
    put += wild_put(&st->w, q, LANE_FAST, LANE_RUN, shm_ref((uint32_t)chunk, 0), (uint32_t)put % 7);
  return put;
}

/* More in flight than the queue is deep, under slots that repeat: no more is taken in. */
TEST_ONE(more_in_flight_than_the_depth)
{
  struct figures f;
  struct calc_later *t = st->w.chunk[o->chunk].base;
  t->task.pool = TEST_POOL;
  t->task.method = calc_later_type.id;
  t->ns = SECOND_NS;
  CHECK(pour(st, &o->q, o->chunk, 200 * MS_NS) > o->q.depth);
  CHECK_INT(figures_ask(&st->s, &f), CHI_OK);
  CHECK(f.in_flight <= o->q.depth + 200);
  for (int i = 0; i < 20; i++)
    CHECK_STR(stage_look(st), "");
  CHECK(EVENTUALLY(20000, figures_ask(&st->s, &f) == CHI_OK && f.in_flight == 1));
}

/* ---- tasks ----------------------------------------------------------------------------------- */

/* Methods that a client may call and that would end the test; everything else is tried. */
static bool spares(const chi_task *t)
{
  return (t->pool.major == 1 && (t->method == 11 || t->method == 12)) ||
         (t->pool.major == 320 && (t->method <= 11 || t->method == 15 || t->method == 19 ||
                                   t->method == 20 || t->method == 25));
}

/* A header that is nearly right, so that it gets far. */
static void any_header(struct wild *w, chi_task *t)
{
  static const uint32_t pools[] = {1, 300, 310, 320, 0, 999};
  t->pool = (chi_pool_id){pools[wild_below(w, 6)], wild_below(w, 9) ? 0 : (uint32_t)wild_lot(w)};
  t->method = wild_below(w, 16) ? (uint32_t)wild_below(w, 28) : (uint32_t)wild_lot(w);
  t->query.mode = wild_below(w, 3) ? 0 : (uint32_t)wild_below(w, 9);
  t->query.a = wild_below(w, 2) ? 0 : (uint32_t)wild_lot(w);
  t->flags = wild_below(w, 3) ? 0 : (uint32_t)wild_lot(w);
  t->compute_us = wild_below(w, 2) ? 0 : (uint32_t)wild_lot(w);
  t->io_size = wild_below(w, 2) ? 0 : wild_lot(w);
  t->deadline_ms = wild_below(w, 4) ? 20 : (uint32_t)wild_lot(w);
  t->period_us = (uint32_t)wild_lot(w);
  t->rc = (int32_t)wild_lot(w);
  if (spares(t))
    t->pool.major = 300;
}

/* References among the fields: every eighth word is one. */
static void any_fields(struct wild *w, char *at, size_t size, int chunk)
{
  wild_noise(w, at, size);
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t n = any_ref(w, chunk);
    uint64_t small = wild_below(w, 100);
    if (wild_below(w, 3) == 0)
      memcpy(at + i, &n, 8);
    else if (wild_below(w, 2) == 0)
      memcpy(at + i, &small, 8);
  }
}

#define ROOM 6144u /* of one task of noise: the largest there is fits */

TEST_ONE(tasks_of_any_content)
{
  for (int round = 0; round < 60; round++) {
    for (uint32_t i = 0; i < 200; i++) {
      char *at = (char *)st->w.chunk[o->chunk].base + i * ROOM;
      any_fields(&st->w, at + sizeof(chi_task), ROOM - sizeof(chi_task),
                 wild_below(&st->w, 2) ? o->chunk : o->data);
      any_header(&st->w, (chi_task *)(void *)at);
      wild_push(&st->w, &o->q, (enum lane_kind)wild_below(&st->w, LANE_KINDS), LANE_RUN,
                shm_ref((uint32_t)o->chunk, i * ROOM), i);
    }
    wild_reap(&o->q);
    CHECK_STR(stage_look(st), "");
  }
  CHECK(o->q.answers > 100);
}

TEST_ONE(lengths_and_references_outside_are_refused)
{
  struct calc_shift *t = st->w.chunk[o->chunk].base;
  uint64_t inside = shm_ref((uint32_t)o->data, 0);
  t->task.pool = TEST_POOL;
  t->task.method = calc_shift_type.id;
  t->from = (chi_bulk){.ref = inside, .size = 4096};
  t->to = (chi_bulk){.ref = inside + 4096, .size = 4096};
  CHECK_INT(one_run(st, o), CHI_OK);
  const chi_bulk bad[] = {
      {.ref = inside, .size = SHM_CHUNK_SIZE + 1},
      {.ref = inside + 8, .size = SHM_CHUNK_SIZE},
      {.ref = inside, .size = UINT64_MAX},
      {.ref = inside + 8, .size = UINT64_MAX - 7},
      {.ref = inside + 1, .size = 10},
      {.ref = 0, .size = 10},
      {.ref = 64, .size = 10},
      {.ref = UINT64_MAX, .size = 1},
      {.ref = shm_ref(500, 0), .size = 10},
      {.ref = shm_ref(1u << 23, 0), .size = 10},
      {.ref = inside + (1ull << 39), .size = 10},
  };
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    t->from = bad[i];
    t->to = (chi_bulk){.ref = inside, .size = 4096};
    CHECK_INT(one_run(st, o), CHI_ECORRUPT);
    t->from = t->to;
    t->to = bad[i];
    CHECK_INT(one_run(st, o), CHI_ECORRUPT);
  }
}

TEST_ONE(arrays_and_strings_beyond_their_room_are_refused_or_cut)
{
  struct calc_sum *t = st->w.chunk[o->chunk].base;
  memset(t, 'x', sizeof(*t)); /* no string has an end */
  memset(&t->task, 0, sizeof(t->task));
  t->task.pool = TEST_POOL;
  t->task.method = calc_sum_type.id;
  t->items_count = 8;
  CHECK_INT(one_run(st, o), CHI_OK);
  CHECK(memchr(t->names, '\0', sizeof(t->names)));
  static const uint32_t counts[] = {9, 1000, UINT32_MAX, 1u << 31};
  for (size_t i = 0; i < CHI_COUNT(counts); i++) {
    t->items_count = counts[i];
    CHECK_INT(one_run(st, o), CHI_ECORRUPT);
  }
  struct chi_bdev_allocate_blocks *a = st->w.chunk[o->chunk].base;
  memset(a, 0xff, sizeof(*a)); /* what comes back may be anything before */
  memset(&a->task, 0, sizeof(a->task));
  a->task.pool = BDEV_POOL;
  a->task.method = chi_bdev_allocate_blocks_type.id;
  a->size = 4096;
  a->more = (chi_bulk){0};
  CHECK_INT(one_run(st, o), CHI_OK);
  CHECK_INT(a->blocks_count, 1);
  struct chi_bdev_free_blocks *f = st->w.chunk[o->chunk].base;
  struct chi_block block = a->blocks[0];
  memset(f, 0, sizeof(*f));
  f->task.pool = BDEV_POOL;
  f->task.method = chi_bdev_free_blocks_type.id;
  f->blocks_count = 2;
  f->blocks[0] = block;
  f->blocks[1] = (struct chi_block){.offset = UINT64_MAX - 4095, .size = 8192};
  CHECK_INT(one_run(st, o), CHI_EINVAL);
  f->blocks_count = 1;
  CHECK_INT(one_run(st, o), CHI_OK);
  CHECK_INT(one_run(st, o), CHI_EINVAL); /* twice */
}

/* ---- memory that changes --------------------------------------------------------------------- */

struct flipper {
  char *base;
  size_t size;
  uint32_t stop;
  uint64_t seed;
  pthread_t thread;
};

static void *flipper_main(void *arg)
{
  struct flipper *f = arg;
  uint64_t n = f->seed;
  while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
    n = n * 6364136223846793005u + 1442695040888963407u;
    __atomic_store_n(&f->base[(n >> 33) % f->size], (char)(n >> 20), __ATOMIC_RELAXED);
  }
  return NULL;
}

/* Every byte of the task and its buffers may be another one each time it is looked at. */
TEST_ONE(memory_that_changes_while_the_task_runs)
{
  struct calc_sum *t = st->w.chunk[o->chunk].base;
  struct flipper f = {.base = (char *)t + sizeof(chi_task),
                      .size = sizeof(*t) - sizeof(chi_task),
                      .seed = wild_lot(&st->w)};
  struct flipper g = {.base = (char *)t, .size = sizeof(chi_task), .seed = wild_lot(&st->w)};
  CHECK_INT(pthread_create(&f.thread, NULL, flipper_main, &f), 0);
  for (int i = 0; i < 20000; i++) {
    t->task = (chi_task){.pool = TEST_POOL, .method = calc_sum_type.id};
    t->items_count = (uint32_t)i % 9;
    wild_push(&st->w, &o->q, LANE_FAST, LANE_RUN, shm_ref((uint32_t)o->chunk, 0), (uint32_t)i % 64);
    wild_reap(&o->q);
    if (i == 10000)
      CHECK_INT(pthread_create(&g.thread, NULL, flipper_main, &g), 0); /* the header, too */
    if (i % 1000 == 0)
      CHECK_STR(stage_look(st), "");
  }
  f.stop = g.stop = 1;
  pthread_join(f.thread, NULL);
  pthread_join(g.thread, NULL);
  CHECK_STR(stage_look(st), "");
}

/* Chunks are given back, and their pages thrown away, while tasks are at them. */
TEST_ONE(chunks_given_back_in_use)
{
  for (int i = 0; i < 400; i++) {
    int task = wild_lease(&st->w, SHM_MAIN, SHM_CHUNK_SIZE);
    int data = wild_lease(&st->w, SHM_CLIENT_DATA, SHM_CHUNK_SIZE * (uint64_t)(1 + i % 3));
    CHECK(task >= 0 && data >= 0);
    struct calc_shift *t = st->w.chunk[task].base;
    t->task.pool = TEST_POOL;
    t->task.method = calc_shift_type.id;
    t->from = t->to = (chi_bulk){.ref = shm_ref((uint32_t)data, 0), .size = SHM_CHUNK_SIZE};
    CHECK(wild_push(&st->w, &o->q, LANE_FAST, LANE_RUN, shm_ref((uint32_t)task, 0), (uint32_t)i));
    if (i % 4 == 1)
      madvise(st->w.chunk[data].base, SHM_CHUNK_SIZE, MADV_REMOVE);
    if (i % 4 == 2)
      madvise(st->w.chunk[task].base, SHM_CHUNK_SIZE, MADV_REMOVE);
    CHECK_INT(wild_return(&st->w, (uint32_t)task), CHI_OK);
    CHECK_INT(wild_return(&st->w, (uint32_t)data), CHI_OK);
    CHECK_INT(wild_return(&st->w, (uint32_t)data), CHI_EINVAL);
    if (i % 20 == 0)
      CHECK_STR(stage_look(st), "");
  }
  CHECK(EVENTUALLY(3000, (wild_reap(&o->q), o->q.answers == 400)));
}

/* What the daemon writes is mapped to be read, and can't be mapped otherwise. */
TEST_ONE(what_is_read_only_stays_so)
{
  CHECK(mprotect(st->w.page.base, st->w.page.size, PROT_READ | PROT_WRITE) != 0);
  CHECK(mprotect(o->q.board_segment.base, o->q.board_segment.size, PROT_READ | PROT_WRITE) != 0);
  CHECK(madvise(o->q.board_segment.base, o->q.board_segment.size, MADV_REMOVE) != 0);
}

/* ---- queues ---------------------------------------------------------------------------------- */

TEST(queues_closed_with_tasks_in_flight)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  int chunk = wild_lease(&st.w, SHM_MAIN, SHM_CHUNK_SIZE);
  CHECK(chunk >= 0);
  struct calc_later *t = st.w.chunk[chunk].base;
  t->task.pool = TEST_POOL;
  t->task.method = calc_later_type.id;
  t->ns = 1000 * SECOND_NS;
  for (int i = 0; i < 300; i++) {
    struct wild_queue q;
    CHECK_INT(wild_open(&st.w, &q), CHI_OK);
    for (uint32_t k = 0; k < 20; k++)
      wild_push(&st.w, &q, (enum lane_kind)(k % 3), LANE_RUN, shm_ref((uint32_t)chunk, 0), k);
    if (i % 3 == 0)
      pause_ns(MS_NS);
    struct wild_queue again = q;
    CHECK_INT(wild_close(&st.w, &q), CHI_OK);
    struct attach_reply reply;
    CHECK_INT(wild_call(&st.w,
                        &(struct attach_request){
                            .version = ATTACH_VERSION, .op = ATTACH_CLOSE, .id = again.id},
                        &reply, NULL, NULL),
              CHI_EINVAL); /* twice */
    if (i % 50 == 0)
      CHECK_STR(stage_look(&st), "");
  }
  CHECK_STR(stage_close(&st), "");
}

TEST(queues_by_the_thousand)
{
  struct stage st;
  static struct wild_queue q[2000];
  CHECK_STR(stage_open(&st), "");
  for (int round = 0; round < 2; round++) {
    int n = 0, rc = CHI_OK;
    while (n < 2000 && (rc = wild_open(&st.w, &q[n])) == CHI_OK)
      n++;
    CHECK(n > 100 && n < 2000);
    CHECK(rc == CHI_ENOMEM || rc == CHI_EBUSY);
    for (int i = 0; i < n; i++) {
      wild_noise(&st.w, q[i].desk->entry[LANE_FAST], 4096);
      wild_ring(&st.w);
    }
    CHECK_STR(stage_look(&st), "");
    while (n-- > 0) {
      if (round == 0)
        CHECK_INT(wild_close(&st.w, &q[n]), CHI_OK);
      else
        wild_drop(&st.w, &q[n]);
    }
    CHECK(EVENTUALLY(3000, wild_open(&st.w, &q[0]) == CHI_OK || round == 1));
    if (round == 0)
      CHECK_INT(wild_close(&st.w, &q[0]), CHI_OK);
  }
  CHECK_STR(stage_close(&st), "");
}

/* ---- messages -------------------------------------------------------------------------------- */

static int request(struct stage *st, uint32_t op, uint32_t kind, uint32_t id, uint64_t size)
{
  struct env_share share[ENV_SHARES_MAX];
  struct attach_reply reply;
  struct env *env = &st->w.real.env;
  uint32_t count = ENV_SHARES_MAX;
  const struct attach_request q = {
      .version = ATTACH_VERSION, .op = op, .kind = kind, .id = id, .size = size};
  int rc = wild_call(&st->w, &q, &reply, share, &count);
  for (uint32_t i = 0; i < count; i++) {
    if (share[i].kind == ENV_SHARE_BELL)
      env->bell_close(env, share[i].bell);
    else
      env->segment_close(env, &share[i].segment);
  }
  return rc;
}

TEST(requests_that_make_no_sense_are_refused)
{
  struct stage st;
  struct attach_reply reply;
  CHECK_STR(stage_open(&st), "");
  CHECK_INT(request(&st, ATTACH_HELLO, 0, 0, 0), CHI_EINVAL); /* twice */
  CHECK_INT(request(&st, 99, 0, 0, 0), CHI_EINVAL);
  CHECK_INT(request(&st, UINT32_MAX, 0, 0, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_BELLS, 0, 1000, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_BELLS, 0, UINT32_MAX, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_MAIN, 0, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_MAIN, 0, SHM_CHUNK_SIZE + 1), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_MAIN, 0, SHM_CHUNK_SIZE / 2), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_RUNTIME_DATA, 0, SHM_CHUNK_SIZE), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, UINT32_MAX, 0, SHM_CHUNK_SIZE), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_MAIN, 0, 1ull << 38), CHI_ENOMEM);
  CHECK_INT(request(&st, ATTACH_LEASE, SHM_MAIN, 0, UINT64_MAX - SHM_CHUNK_SIZE + 1), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_RETURN, 0, 0, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_RETURN, 0, UINT32_MAX, 0), CHI_EINVAL);
  CHECK_INT(request(&st, ATTACH_CLOSE, 0, 1, 0), CHI_EINVAL); /* the decent client's */
  CHECK_INT(request(&st, ATTACH_CLOSE, 0, UINT32_MAX, 0), CHI_EINVAL);
  CHECK_INT(wild_call(&st.w, &(struct attach_request){.version = 77, .op = ATTACH_BELLS}, &reply,
                      NULL, NULL),
            CHI_EVERSION);
  CHECK(strstr(reply.text, "77"));
  wild_detach(&st.w);
  CHECK_INT(wild_attach(&st.w, st.d.instance, false), CHI_OK);
  for (uint32_t op = ATTACH_BELLS; op <= ATTACH_CLOSE; op++) /* without a greeting */
    CHECK_INT(request(&st, op, 0, 0, SHM_CHUNK_SIZE), CHI_EINVAL);
  CHECK_STR(stage_close(&st), "");
}

/* A socket to the daemon, bare. */
static int bare_connect(const struct stage *st)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct real_link_place place;
  char name[64];
  snprintf(name, sizeof(name), "%.60s", st->d.instance);
  *strchr(name, ':') = '\0';
  if (real_link_locate(NULL, name, 7001, &place, NULL) != CHI_OK)
    return -1;
  memcpy(address.sun_path, place.socket, strlen(place.socket) + 1);
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    close(fd);
    fd = -1;
  }
  return fd;
}

/* Sends bytes, with a descriptor if `lend` is not negative. */
static bool bare_send(int fd, const void *bytes, size_t size, int lend)
{
  union {
    char room[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {{0}};
  struct iovec part = {(void *)(uintptr_t)bytes, size};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
  if (lend >= 0) {
    m.msg_control = control.room;
    m.msg_controllen = sizeof(control.room);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &lend, sizeof(int));
  }
  return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

TEST(messages_of_any_size_and_content)
{
  struct stage st;
  static char noise[20000];
  CHECK_STR(stage_open(&st), "");
  for (int i = 0; i < 600; i++) {
    int fd = bare_connect(&st);
    CHECK(fd >= 0);
    for (int k = 0; k < 20; k++) {
      size_t size = wild_below(&st.w, wild_below(&st.w, 4) ? 100 : sizeof(noise));
      uint32_t head[2] = {ATTACH_VERSION, (uint32_t)wild_below(&st.w, 8)};
      wild_noise(&st.w, noise, sizeof(noise));
      if (wild_below(&st.w, 2))
        memcpy(noise, head, sizeof(head));
      if (wild_below(&st.w, 2))
        size = sizeof(struct attach_request);
      if (!bare_send(fd, noise, size, wild_below(&st.w, 10) ? -1 : fd))
        break;
    }
    close(fd);
    if (i % 50 == 0)
      CHECK_STR(stage_look(&st), "");
  }
  CHECK_STR(stage_close(&st), "");
}

/* One that asks and asks, and never reads an answer, is cut off. */
TEST(client_that_does_not_read_its_answers_is_cut_off)
{
  struct stage st;
  CHECK_STR(stage_open(&st), "");
  int fd = bare_connect(&st);
  CHECK(fd >= 0);
  const struct attach_request hello = {.version = ATTACH_VERSION, .op = ATTACH_HELLO};
  CHECK(EVENTUALLY(3000, !bare_send(fd, &hello, sizeof(hello), -1) && errno != EAGAIN));
  CHECK_STR(stage_look(&st), "");
  close(fd);
  CHECK_STR(stage_close(&st), "");
}

TEST(flood_of_links)
{
  struct stage st;
  static int fd[1500];
  CHECK_STR(stage_open(&st), "");
  for (int round = 0; round < 2; round++) {
    int n = 0;
    while (n < 1500 && (fd[n] = bare_connect(&st)) >= 0)
      n++;
    CHECK(n > 500);
    CHECK_STR(stage_look(&st), "");
    while (n-- > 0)
      close(fd[n]);
  }
  for (int i = 0; i < 3000; i++) {
    int one = bare_connect(&st);
    CHECK(one >= 0);
    close(one);
    if (i % 300 == 0)
      CHECK_STR(stage_look(&st), "");
  }
  CHECK_STR(stage_close(&st), "");
}

/* Many clients, each with its tables and all it can get. */
TEST(flood_of_clients_that_hold_all_they_get)
{
  struct stage st;
  static struct wild more[300];
  static struct wild_queue q[300];
  CHECK_STR(stage_open(&st), "");
  int n = 0;
  while (n < 300 && wild_attach(&more[n], st.d.instance, true) == CHI_OK) {
    if (wild_open(&more[n], &q[n]) != CHI_OK)
      break;
    wild_lease(&more[n], SHM_MAIN, SHM_CHUNK_SIZE);
    n++;
  }
  CHECK(n > 20);
  CHECK_STR(stage_look(&st), "");
  for (int i = 0; i <= n && i < 300; i++) {
    if (q[i].desk)
      wild_drop(&more[i], &q[i]);
    wild_detach(&more[i]);
  }
  CHECK_STR(stage_close(&st), "");
}
