/* traffic_load.c - tasks of all kinds, so many a second, while nodes come and go: each is written
 * down before it is submitted, and again when it has completed.
 *
 * It is a client that means to survive: when its daemon is gone, it attaches to the next one. What
 * it finds wrong by itself is a task that completes with a wrong answer, or doesn't complete. What
 * the bodies did is for the judge. */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOAD_WINDOW 64u
#define LOAD_TASKS 400000u /* room in the journal */
#define LOAD_ECHO (UINT64_C(128) << 10)
#define LOAD_RECONNECT (30 * TRAFFIC_SECOND)
#define LOAD_WORK_US 3000u

struct load_slot {
  chi_task *task; /* NULL: free */
  uint64_t number, began;
  uint64_t containers; /* what the answer must say, if all is well */
};

struct load {
  struct traffic *t;
  struct traffic_entry *journal;
  struct load_slot slot[LOAD_WINDOW];
  void *task[LOAD_WINDOW]; /* of the slots in use, for waiting */
  uint32_t index[LOAD_WINDOW];
  uint64_t begun, ended, lives;
  uint64_t random, due; /* when the next one may begin */
  chi_bulk data, back;  /* of the one echo at a time */
  bool echo;
};

static uint64_t load_draw(struct load *l, uint64_t below)
{
  return courier_mix(l->random++) % below;
}

/* ---- the journal ----------------------------------------------------------------------------- */

static int load_open_journal(struct load *l)
{
  const char *path = l->t->o->journal;
  size_t size = LOAD_TASKS * sizeof(struct traffic_entry);
  void *map;
  int fd;
  if (!path)
    return traffic_fail("a load needs journal=FILE");
  fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
    return traffic_fail("%s: %s", path, strerror(errno));
  map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED)
    return traffic_fail("%s: %s", path, strerror(errno));
  l->journal = map;
  return 0;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

/* Draws where a task is for, and which containers those are. */
static chi_query load_target(struct load *l, uint64_t seq, uint64_t *containers)
{
  uint32_t nodes = l->t->o->nodes, a = (uint32_t)load_draw(l, nodes);
  uint32_t b = 1 + (uint32_t)load_draw(l, nodes - a);
  chi_query q = {.mode = (uint32_t)load_draw(l, CHI_QUERY_DYNAMIC + 1), .a = a};
  *containers = UINT64_C(1) << a;
  if (q.mode == CHI_QUERY_LOCAL) {
    *containers = UINT64_C(1) << l->t->self;
  } else if (q.mode == CHI_QUERY_RANGE) {
    q.b = b;
    *containers = ((UINT64_C(1) << b) - 1) << a;
  } else if (q.mode == CHI_QUERY_BROADCAST) {
    *containers = (UINT64_C(1) << nodes) - 1;
  } else if (q.mode == CHI_QUERY_DYNAMIC) {
    *containers = UINT64_C(1) << (uint32_t)seq % nodes;
  }
  return q;
}

static chi_task *load_mark(struct load *l, struct load_slot *s)
{
  struct courier_mark *task = CHI_NEW(l->t->queue, courier_mark);
  if (!task)
    return NULL;
  task->task.query = load_target(l, s->number, &s->containers);
  task->client = l->t->o->client;
  task->seq = s->number;
  task->work_us = load_draw(l, 2) ? (uint32_t)load_draw(l, LOAD_WORK_US) : 0;
  return &task->task;
}

static void load_free_bulk(struct load *l)
{
  if (l->data.data)
    chi_bulk_free(l->t->queue, &l->data);
  if (l->back.data)
    chi_bulk_free(l->t->queue, &l->back);
  l->data = l->back = (chi_bulk){0};
  l->echo = false;
}

static chi_task *load_echo(struct load *l, struct load_slot *s)
{
  uint64_t size = 1 + load_draw(l, LOAD_ECHO);
  struct courier_echo *task = CHI_NEW(l->t->queue, courier_echo);
  if (task && (chi_bulk_alloc(l->t->queue, size, &l->data) != CHI_OK ||
               chi_bulk_alloc(l->t->queue, size, &l->back) != CHI_OK)) {
    load_free_bulk(l);
    chi_task_free(l->t->queue, task);
    task = NULL;
  }
  if (!task)
    return NULL;
  task->task.query.mode = CHI_QUERY_PHYSICAL;
  task->task.query.a = (uint32_t)load_draw(l, l->t->o->nodes);
  s->containers = 0;
  courier_fill(l->data.data, size, s->number);
  memset(l->back.data, 0, size);
  task->data = l->data;
  task->back = l->back;
  l->echo = true;
  return &task->task;
}

static bool load_is_right(struct load *l, const struct load_slot *s)
{
  const struct courier_echo *echo = (const struct courier_echo *)s->task;
  if (s->task->rc != CHI_OK)
    return true;
  if (s->task->method == courier_mark_type.id)
    return ((const struct courier_mark *)s->task)->containers == s->containers;
  return echo->back.size == l->data.size &&
         memcmp(l->data.data, l->back.data, l->data.size) == 0;
}

static void load_free(struct load *l, struct load_slot *s)
{
  if (s->task->method == courier_echo_type.id)
    load_free_bulk(l);
  chi_task_free(l->t->queue, s->task);
  s->task = NULL;
}

/* One that has completed, with the code it has. */
static int load_end(struct load *l, struct load_slot *s, int rc)
{
  struct traffic_entry *e = &l->journal[s->number];
  bool right = load_is_right(l, s);
  e->rc = rc;
  e->took_ns = traffic_now() - s->began;
  e->state = TRAFFIC_COMPLETED;
  l->ended++;
  load_free(l, s);
  return right ? 0 : traffic_fail("task %llu has a wrong answer", (unsigned long long)s->number);
}

/* Begins one more in that slot. After another code than CHI_OK it is as if it had not. */
static int load_begin(struct load *l, struct load_slot *s)
{
  struct traffic_entry *e = &l->journal[l->begun];
  s->number = l->begun;
  s->task = !l->echo && load_draw(l, 16) == 0 ? load_echo(l, s) : load_mark(l, s);
  if (!s->task)
    return chi_queue_error(l->t->queue, NULL);
  s->task->pool = COURIER_POOL;
  e->client = l->t->o->client;
  e->seq = s->number;
  e->containers = s->containers;
  e->state = TRAFFIC_SUBMITTED;
  s->began = traffic_now();
  int rc = chi_submit(l->t->queue, s->task);
  if (rc != CHI_OK) {
    e->state = TRAFFIC_NONE;
    load_free(l, s);
    return rc;
  }
  l->begun++;
  return CHI_OK;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Waits a moment for those in flight, and ends those that have completed. */
static int load_reap(struct load *l)
{
  uint32_t count = 0, which = 0;
  for (uint32_t i = 0; i < l->t->o->window; i++)
    if (l->slot[i].task) {
      l->index[count] = i;
      l->task[count++] = l->slot[i].task;
    }
  if (count == 0)
    return traffic_pause(TRAFFIC_MS), 0;
  int rc = chi_wait_any(l->t->queue, l->task, count, 2 * TRAFFIC_MS, &which);
  if (rc == CHI_ETIMEOUT && !chi_task_done(l->t->queue, l->task[which]))
    return 0;
  for (uint32_t i = 0; i < count; i++)
    if (chi_task_done(l->t->queue, l->task[i])) {
      struct load_slot *s = &l->slot[l->index[i]];
      if (load_end(l, s, chi_wait(l->t->queue, s->task, 0)) != 0)
        return 1;
    }
  return 0;
}

static int load_late(const struct load *l)
{
  for (uint32_t i = 0; i < l->t->o->window; i++) {
    const struct load_slot *s = &l->slot[i];
    if (s->task && traffic_now() - s->began > TRAFFIC_LIMIT)
      return traffic_fail("task %llu (mode %u, a %u, b %u) has not completed after %llu s",
                          (unsigned long long)s->number, s->task->query.mode, s->task->query.a,
                          s->task->query.b, (unsigned long long)(TRAFFIC_LIMIT / TRAFFIC_SECOND));
  }
  return 0;
}

/* The daemon is gone: when all in flight has ended, the next one is attached to. */
static int load_reconnect(struct load *l)
{
  chi_error err = {0, ""};
  if (l->begun != l->ended)
    return 0;
  int rc = chi_client_reconnect(l->t->client, LOAD_RECONNECT, &err);
  if (rc != CHI_OK && rc != CHI_ESHUTDOWN)
    return traffic_fail("no daemon again: %s: %s", chi_status_name(rc), err.text);
  l->lives++;
  return 0;
}

static bool load_may_begin(const struct load *l)
{
  return l->begun < LOAD_TASKS && l->begun - l->ended < l->t->o->window &&
         traffic_now() >= l->due && (!l->t->o->stop || access(l->t->o->stop, F_OK) != 0);
}

/* Fills the slots that are free, as fast as it may. */
static int load_fill(struct load *l)
{
  uint32_t rate = l->t->o->rate;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < l->t->o->window && rc == CHI_OK && load_may_begin(l); i++) {
    if (l->slot[i].task)
      continue;
    rc = load_begin(l, &l->slot[i]);
    l->due += rate ? TRAFFIC_SECOND / rate : 0;
  }
  if (l->due + TRAFFIC_SECOND / 10 < traffic_now())
    l->due = traffic_now(); /* what could not begin in time isn't made up for */
  if (rc == CHI_ESHUTDOWN || rc == CHI_ESTALE)
    return load_reconnect(l);
  if (rc != CHI_OK && rc != CHI_EBUSY)
    return traffic_fail("a task is refused: %s", chi_status_name(rc));
  return 0;
}

int traffic_load(struct traffic *t)
{
  static struct load l;
  uint64_t end = traffic_now() + t->o->seconds * TRAFFIC_SECOND;
  if (t->o->window > LOAD_WINDOW)
    return traffic_fail("window is at most %u", LOAD_WINDOW);
  l = (struct load){.t = t, .random = courier_mix(t->o->seed), .due = traffic_now()};
  if (load_open_journal(&l) != 0)
    return 1;
  while (traffic_now() < end && (!t->o->stop || access(t->o->stop, F_OK) != 0))
    if (load_fill(&l) || load_reap(&l) || load_late(&l))
      return 1;
  while (l.ended < l.begun)
    if (load_reap(&l) || load_late(&l))
      return 1;
  printf("node%u: %llu tasks, daemon lost %llu times\n", t->self + 1, (unsigned long long)l.begun,
         (unsigned long long)l.lives);
  return 0;
}
