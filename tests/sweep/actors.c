/* actors.c - the client programs of a sweep: one of each kind on each node. */
#include "actors.h"
#include "folk.h"

#include <stdio.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define LATER (80 * MS)     /* a new pool is waited for no longer in a quiet run */
#define CROWD 5u            /* tasks that want locks at once */
#define CROWDED (500 * MS)  /* and are waited for no longer */
#define LOAD (20 * MS)      /* bodies that use CPU hold others up so long at most */
#define LONG (100 * SECOND) /* longer than a cluster may take to settle */

static uint64_t draw(struct actor *a, uint64_t below)
{
  return rng_below(&a->rng, below);
}

static void *begin_with(struct actor *a, const chi_type *type, bool failures)
{
  void *t = NULL;
  if (!a->queue && chi_queue_open(a->client, &a->queue, NULL) != CHI_OK)
    a->queue = NULL;
  if (a->queue)
    t = failures ? chi_task_new_failures(a->queue, type) : chi_task_new(a->queue, type);
  if (t)
    ((chi_task *)t)->pool = FOLK_POOL;
  else
    chi_client_reconnect(a->client, SECOND, NULL);
  return t;
}

/* A task of the common pool; NULL: not now. */
static void *begin(struct actor *a, const chi_type *type)
{
  return begin_with(a, type, false);
}

static void end(struct actor *a, void *task, int rc)
{
  chi_task_free(a->queue, task);
  if (rc == CHI_ESHUTDOWN)
    chi_client_reconnect(a->client, SECOND, NULL);
}

static bool goes_to_node(const chi_task *t)
{
  return t->query.mode == CHI_QUERY_LOCAL || t->query.mode == CHI_QUERY_PHYSICAL;
}

/* Runs it. Where nothing goes wrong, it succeeds, and within that time if nobody is in the way. */
static int run(struct actor *a, void *task, const char *what, uint64_t within)
{
  uint64_t began = chi_cluster_now(a->cluster), took;
  int rc = chi_run(a->queue, task);
  took = chi_cluster_now(a->cluster) - began;
  if (rc == CHI_ENOENT && a->books->gentle && goes_to_node((const chi_task *)task))
    return rc; /* its container is on another one by now */
  if ((a->books->quiet || a->books->gentle) && rc != CHI_OK)
    books_fail(a->books->quiet ? "quiet" : "gentle", "%s fails where %s is wrong: %s", what,
               a->books->quiet ? "nothing" : "little", chi_status_name(rc));
  if (a->books->quiet && took > within + (a->books->loaded ? LOAD : 0))
    books_fail("quiet", "%s takes %llu ms where nothing is wrong", what,
               (unsigned long long)(took / MS));
  return rc;
}

static chi_query anyone(struct actor *a)
{
  static const uint32_t modes[] = {CHI_QUERY_LOCAL, CHI_QUERY_ID, CHI_QUERY_HASH,
                                   CHI_QUERY_PHYSICAL, CHI_QUERY_DYNAMIC};
  chi_query q = {.mode = modes[draw(a, 5)]};
  q.a =
      (uint32_t)draw(a, q.mode == CHI_QUERY_HASH || q.mode == CHI_QUERY_DYNAMIC ? 1000 : a->nodes);
  return q;
}

static chi_query another(struct actor *a)
{
  return (chi_query){.mode = CHI_QUERY_ID, .a = (uint32_t)draw(a, a->nodes)};
}

/* ---- one container -------------------------------------------------------------------------- */

static void calls(struct actor *a)
{
  bool again = draw(a, 8) == 0;
  struct folk_add *t = begin(a, again ? &folk_again_type : &folk_add_type);
  int rc;
  if (!t)
    return;
  t->token = books_submit(again, false);
  t->task.query = anyone(a);
  t->task.flags = draw(a, 6) == 0 ? CHI_TASK_FORCE_NET : 0;
  t->task.compute_us = draw(a, 3) == 0 ? 100 : 0; /* slow workers have a share */
  t->cpu = a->books->loaded && draw(a, 3) == 0 ? draw(a, 2 * MS) : 0;
  t->ns = draw(a, 4) == 0 ? draw(a, 20) * MS : 0;
  rc = run(a, t, "a call", t->ns + 2 * MS);
  books_end(t->token, rc);
  if (rc == CHI_OK && t->task.query.mode == CHI_QUERY_ID && t->container != t->task.query.a)
    books_fail("place", "a task for container %u ran in %u", t->task.query.a, t->container);
  end(a, t, rc);
}

static void carries(struct actor *a)
{
  struct folk_bulk *t = begin(a, &folk_bulk_type);
  uint64_t size = draw(a, 3) ? 1 + draw(a, 20000) : 100000 + draw(a, 200000);
  uint8_t salt = (uint8_t)draw(a, 256);
  int rc = CHI_ENOMEM;
  if (!t)
    return;
  if (chi_bulk_alloc(a->queue, size, &t->from) == CHI_OK &&
      chi_bulk_alloc(a->queue, size, &t->to) == CHI_OK) {
    uint8_t *from = t->from.data;
    uint8_t *to = t->to.data;
    for (uint64_t i = 0; i < size; i++) {
      from[i] = (uint8_t)(i * 7 + salt);
      to[i] = (uint8_t)(i * 3);
    }
    bool many = draw(a, 4) == 0;
    t->token = books_submit(false, many);
    t->task.query = many ? (chi_query){.mode = CHI_QUERY_BROADCAST} : anyone(a);
    rc = run(a, t, "a task with buffers", 10 * MS);
    books_end(t->token, rc);
    for (uint64_t i = 0; rc == CHI_OK && i < size; i++)
      if (to[i] != (uint8_t)(i * 10 + salt + 1)) {
        books_fail("bulk", "byte %llu of %llu is wrong", (unsigned long long)i,
                   (unsigned long long)size);
        break;
      }
  }
  if (t->from.size)
    chi_bulk_free(a->queue, &t->from);
  if (t->to.size)
    chi_bulk_free(a->queue, &t->to);
  end(a, t, rc);
}

/* One task waits for an event, another one tells. */
static void awaits(struct actor *a, uint32_t container)
{
  struct folk_await *t = begin(a, &folk_await_type);
  struct folk_tell *tell = t ? begin(a, &folk_tell_type) : NULL;
  int rc;
  if (!tell) {
    if (t)
      chi_task_free(a->queue, t);
    return;
  }
  t->token = books_submit(false, false);
  tell->token = books_submit(false, false);
  t->task.query = tell->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = container};
  t->patience = (draw(a, 3) ? 60 : 1 + draw(a, 4)) * MS;
  if (chi_submit(a->queue, t) != CHI_OK) {
    chi_task_free(a->queue, t);
    end(a, tell, CHI_ESHUTDOWN);
    return;
  }
  chi_cluster_sleep(a->cluster, draw(a, 6) * MS);
  rc = run(a, tell, "a task that tells of an event", CROWDED);
  books_end(tell->token, rc);
  chi_task_free(a->queue, tell);
  rc = chi_wait(a->queue, t, UINT64_MAX);
  books_end(t->token, rc);
  end(a, t, rc);
}

/* A task that wants a lock of that container, or gives back what it doesn't have; NULL: not now. */
static struct folk_lock *new_lock(struct actor *a, uint32_t container)
{
  bool meddles = draw(a, 4) == 0;
  struct folk_lock *t = begin(a, meddles ? &folk_meddle_type : &folk_lock_type);
  if (!t)
    return NULL;
  t->token = books_submit(false, false);
  t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = container};
  if (!meddles) {
    t->group = t->token;
    t->mode = (uint32_t)draw(a, 3);
    t->ns = (1 + draw(a, 6)) * MS;
    t->patience = draw(a, 3) ? 0 : (1 + draw(a, 6)) * MS;
    t->via = draw(a, 2) ? 1 + (uint32_t)draw(a, a->nodes) : 0;
  }
  return t;
}

/* One reads for long; one who wants to write, and one behind it who reads, wait meanwhile; the
 * writer gives up. */
static void line_up(struct folk_lock *t, uint32_t place)
{
  static const uint32_t mode[] = {1, 2, 1};
  if (place >= CHI_COUNT(mode) || t->task.method != folk_lock_type.id)
    return;
  t->mode = mode[place];
  t->ns = (place == 0 ? 50 : 1) * MS;
  t->patience = place == 1 ? 2 * MS : 0;
}

/* Some at once, each in the way of the others. */
static void crowds(struct actor *a, uint32_t container)
{
  struct folk_lock *t[CROWD] = {0};
  uint32_t count = 0;
  bool lined_up = draw(a, 2) == 0;
  for (; count < CROWD && (t[count] = new_lock(a, container)); count++) {
    if (lined_up)
      line_up(t[count], count);
    if (chi_submit(a->queue, t[count]) == CHI_OK)
      continue;
    chi_task_free(a->queue, t[count]);
    break;
  }
  for (uint32_t i = 0; i < count; i++) {
    books_end(t[i]->token, chi_wait(a->queue, t[i], UINT64_MAX));
    chi_task_free(a->queue, t[i]);
  }
}

static void takes_lock(struct actor *a, uint32_t container)
{
  struct folk_lock *t = new_lock(a, container);
  if (!t)
    return;
  int rc = run(a, t, "a task with locks", CROWDED);
  books_end(t->token, rc);
  end(a, t, rc);
}

static void locks(struct actor *a)
{
  uint32_t container = draw(a, 3) ? 0 : (uint32_t)draw(a, a->nodes);
  uint64_t how = draw(a, 4);
  if (how == 0)
    awaits(a, container);
  else if (how == 1)
    crowds(a, container);
  else
    takes_lock(a, container);
}

static void asks(struct actor *a)
{
  struct folk_ask *t = begin(a, &folk_ask_type);
  int rc;
  if (!t)
    return;
  t->token = books_submit(false, false);
  t->sub = books_submit(false, false);
  t->forgotten = draw(a, 2) ? books_submit(false, false) : 0;
  t->task.query = another(a);
  t->whom = (uint32_t)draw(a, a->nodes);
  rc = run(a, t, "a task with subtasks", 5 * MS);
  books_end(t->token, rc);
  end(a, t, rc);
}

/* ---- many containers ------------------------------------------------------------------------ */

static void look_at_roll(const struct folk_roll *t, int rc, uint32_t first, uint32_t count)
{
  for (uint32_t i = 0; i < t->one_count; i++) {
    uint32_t at = t->one[i].container;
    if (at < first || at - first >= count)
      books_fail("gathered", "container %u answers, which was not asked", at);
    else if (i > 0 && at <= t->one[i - 1].container)
      books_fail("gathered", "container %u stands behind %u", at, t->one[i - 1].container);
  }
  if (rc == CHI_OK && t->one_count != count)
    books_fail("gathered", "%u of %u containers are in a good answer", t->one_count, count);
  if (rc != CHI_OK && t->one_count == count)
    books_fail("gathered", "all %u containers have answered, and yet: %s", count,
               chi_status_name(rc));
}

/* Who was asked has answered, or is counted among those that failed. */
static void look_at_failures(const struct folk_roll *t, int rc, uint32_t first, uint32_t count)
{
  const chi_failures *f = chi_failures_of(&folk_roll_type, t);
  uint32_t failed = t->task.query.c;
  if (failed + t->one_count != count && (rc == CHI_OK || failed > 0))
    books_fail("gathered", "%u of %u containers failed, and %u answer", failed, count,
               t->one_count);
  if (!f || f->asked == 0)
    return;
  if (f->asked != count || f->failed != failed || f->listed > failed)
    books_fail("gathered", "of %u containers that were asked %u failed, and %u are named", count,
               f->failed, f->listed);
  for (uint32_t i = 0; i < f->listed; i++) {
    uint32_t at = f->item[i].container;
    bool answers = false;
    for (uint32_t k = 0; k < t->one_count; k++)
      answers = answers || t->one[k].container == at;
    if (answers || at < first || at - first >= count || (i > 0 && at <= f->item[i - 1].container))
      books_fail("gathered", "container %u is named as one that failed", at);
  }
}

static void gathers(struct actor *a)
{
  struct folk_roll *t = begin_with(a, &folk_roll_type, draw(a, 2));
  uint32_t first = 0, count = a->nodes;
  int rc;
  if (!t)
    return;
  t->task.query.mode = CHI_QUERY_BROADCAST;
  if (draw(a, 2)) {
    first = (uint32_t)draw(a, a->nodes);
    count = 1 + (uint32_t)draw(a, a->nodes - first);
    t->task.query = (chi_query){.mode = CHI_QUERY_RANGE, .a = first, .b = count};
  }
  t->token = books_submit(false, true);
  t->ns = draw(a, 3) == 0 ? draw(a, 10) * MS : 0;
  rc = run(a, t, "a task for many", t->ns + 3 * MS);
  books_end(t->token, rc);
  if (rc != CHI_ESHUTDOWN) {
    look_at_roll(t, rc, first, count);
    look_at_failures(t, rc, first, count);
  }
  end(a, t, rc);
}

/* ---- ends ----------------------------------------------------------------------------------- */

/* Waits for the end that was asked for `began`; it comes. */
static void await_end(struct actor *a, struct folk_sleep *t, uint64_t began)
{
  int rc = chi_wait(a->queue, t, UINT64_MAX);
  uint64_t now = chi_cluster_now(a->cluster);
  books_end(t->token, rc);
  if (rc == CHI_OK && now < began + LONG / 2)
    books_fail("in time", "a long sleep ended well, and early");
  if (a->books->quiet && now > began + 40 * MS)
    books_fail("in time", "a task ends %llu ms after it was asked to",
               (unsigned long long)((now - began) / MS));
  end(a, t, rc);
}

/* A task that is done again and again, until it is cancelled. */
static void repeats(struct actor *a)
{
  struct folk_add *t = begin(a, &folk_add_type);
  if (!t)
    return;
  t->token = books_submit_periodic();
  t->task.query = another(a);
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 500 + (uint32_t)draw(a, 5000);
  t->ns = draw(a, 2) ? draw(a, 5) * MS : 0;
  int rc = chi_submit(a->queue, t);
  if (rc == CHI_OK) {
    chi_cluster_sleep(a->cluster, draw(a, 30) * MS);
    uint64_t began = chi_cluster_now(a->cluster);
    chi_cancel(a->queue, t);
    rc = chi_wait(a->queue, t, UINT64_MAX);
    books_end(t->token, rc);
    if (a->books->quiet && chi_cluster_now(a->cluster) > began + 40 * MS)
      books_fail("in time", "a periodic task goes on though it was asked to end");
  }
  end(a, t, rc);
}

static void changes(struct actor *a)
{
  uint64_t began = chi_cluster_now(a->cluster), how = draw(a, 4);
  if (how == 3) {
    repeats(a);
    return;
  }
  struct folk_sleep *t = begin(a, &folk_sleep_type);
  if (!t)
    return;
  t->token = books_submit(false, false);
  t->task.query = another(a);
  t->ns = LONG;
  t->via = draw(a, 3) ? 0 : 1 + (uint32_t)draw(a, a->nodes);
  if (how == 0) {
    t->task.deadline_ms = 5 + (uint32_t)draw(a, 60);
    t->until = began + t->task.deadline_ms * MS;
    t->from = a->node;
  }
  if (chi_submit(a->queue, t) != CHI_OK) {
    end(a, t, CHI_ESHUTDOWN);
    return;
  }
  if (how == 0) {
    await_end(a, t, began + t->task.deadline_ms * MS);
    return;
  }
  chi_cluster_sleep(a->cluster, draw(a, 30) * MS);
  began = chi_cluster_now(a->cluster);
  if (how == 1) {
    chi_cancel(a->queue, t);
    await_end(a, t, began);
  } else {
    chi_abandon(a->queue, t);
  }
}

static void victim_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct actor *a = arg;
  chi_queue *queue = NULL;
  chi_bulk bulk = {0};
  void *first = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < a->nodes; i++) {
    struct folk_sleep *t = CHI_NEW(queue, folk_sleep);
    struct folk_bulk *b = CHI_NEW(queue, folk_bulk);
    if (!t || !b || chi_bulk_alloc(queue, 50000, &bulk) != CHI_OK)
      break;
    t->task.pool = b->task.pool = FOLK_POOL;
    t->task.query = b->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = i};
    t->ns = LONG;
    t->token = books_submit(false, false);
    b->token = books_submit(false, false);
    b->from = b->to = bulk;
    if (chi_submit(queue, t) != CHI_OK || chi_submit(queue, b) != CHI_OK)
      break;
    first = first ? first : t;
  }
  if (first)
    chi_wait(queue, first, 2 * SECOND);
  (void)cluster; /* who was not killed leaves without a word */
}

static void dies(struct actor *a)
{
  int number = chi_cluster_client(a->cluster, a->node, victim_body, a);
  chi_cluster_sleep(a->cluster, draw(a, 20) * MS + MS);
  chi_cluster_client_kill(a->cluster, number);
  while (!chi_cluster_client_ended(a->cluster, number))
    chi_cluster_sleep(a->cluster, MS);
}

/* ---- pools ---------------------------------------------------------------------------------- */

/* One that this client has made and destroyed: it makes it again, under the same id. */
static struct books_pool *choose_former(struct actor *a)
{
  for (uint32_t i = 0; i < a->books->pools; i++) {
    struct books_pool *p = &a->books->pool[i];
    if (p->node == a->node && !p->fought && p->destroyed == CHI_OK && draw(a, 2)) {
      p->created = p->destroyed = 1;
      return p;
    }
  }
  return NULL;
}

static struct books_pool *choose_pool(struct actor *a)
{
  struct books_pool *former = choose_former(a);
  if (former)
    return former;
  uint32_t number = (uint32_t)draw(a, 1000);
  chi_pool_id id = {800 + a->node, a->books->pools};
  char name[32];
  bool fought = a->built++ == 0 || draw(a, 3) == 0; /* at first all want the same */
  snprintf(name, sizeof(name), fought ? "prize %u" : "pool %u of %u",
           fought ? (a->built == 1 ? 0 : number % 2) : number, a->node);
  for (uint32_t i = 0; i < a->books->pools && !fought; i++)
    if (strcmp(a->books->pool[i].name, name) == 0)
      return NULL;
  struct books_pool *p = books_new_pool(id, a->node, name);
  if (p)
    p->fought = fought;
  return p;
}

/* All nodes are asked for a pool that is new: some may not have heard of it yet. */
static void visits(struct actor *a, chi_pool_id pool)
{
  struct folk_roll *t = begin(a, &folk_roll_type);
  int rc;
  if (!t)
    return;
  t->task.pool = pool;
  t->task.query.mode = CHI_QUERY_BROADCAST;
  t->token = books_submit(false, true);
  rc = run(a, t, "a task for a new pool", LATER);
  books_end(t->token, rc);
  end(a, t, rc);
}

/* Destroys a pool while a task is in it, which ends first. */
static void wrecks(struct actor *a, struct books_pool *p)
{
  struct folk_roll *t = begin(a, &folk_roll_type);
  chi_error err = {0, ""};
  if (!t)
    return;
  t->task.pool = p->id;
  t->task.query.mode = CHI_QUERY_BROADCAST;
  t->token = books_submit(false, true);
  t->ns = 20 * MS;
  int rc = chi_submit(a->queue, t);
  chi_cluster_sleep(a->cluster, MS);
  p->destroyed = chi_pool_destroy(a->queue, p->id, &err);
  if (a->books->quiet && p->destroyed != CHI_OK)
    books_fail("quiet", "a pool cannot be destroyed: %s", err.text);
  if (rc == CHI_OK)
    books_end(t->token, chi_wait(a->queue, t, UINT64_MAX));
  chi_task_free(a->queue, t);
}

static void builds(struct actor *a)
{
  chi_task *look = begin(a, &folk_news_type);
  struct books_pool *p = look ? choose_pool(a) : NULL;
  chi_error err = {0, ""};
  if (!look)
    return;
  chi_task_free(a->queue, look);
  if (!p) {
    chi_cluster_sleep(a->cluster, 50 * MS);
    return;
  }
  p->created = chi_pool_create(a->queue, "folk", p->name, NULL, 0, &p->id, &err);
  if (a->books->quiet && p->created != CHI_OK && !p->fought)
    books_fail("quiet", "a pool cannot be made: %s", err.text);
  if (p->created == CHI_OK && !p->fought)
    visits(a, p->id);
  chi_cluster_sleep(a->cluster, draw(a, 100) * MS);
  if (p->created == CHI_OK && !p->fought && draw(a, 2))
    wrecks(a, p);
  if (p->created == CHI_ESHUTDOWN || p->destroyed == CHI_ESHUTDOWN)
    chi_client_reconnect(a->client, SECOND, NULL);
}

static void moves(struct actor *a)
{
  struct folk_news *news = begin(a, &folk_news_type);
  struct chi_admin_migrate *t = news ? begin(a, &chi_admin_migrate_type) : NULL;
  int rc = CHI_ENOMEM;
  if (!t) {
    if (news)
      end(a, news, CHI_OK);
    return;
  }
  news->task.query = another(a);
  if (chi_run(a->queue, news) == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = news->node};
    t->pool_id = FOLK_POOL;
    t->container = news->task.query.a;
    t->node = (uint32_t)draw(a, a->nodes);
    rc = chi_run(a->queue, t);
  }
  chi_task_free(a->queue, news);
  end(a, t, rc);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static const struct {
  const char *name;
  void (*act)(struct actor *a);
  uint64_t pause_ms; /* between two acts, on average about half of it */
  uint32_t most;
} actor_table[ACTOR_KINDS] = {
    [ACTOR_CALLS] = {"calls", calls, 40, 1000},
    [ACTOR_GATHERS] = {"gathers", gathers, 60, 1000},
    [ACTOR_CARRIES] = {"carries", carries, 90, 40},
    [ACTOR_LOCKS] = {"locks", locks, 60, 1000},
    [ACTOR_CHANGES] = {"changes", changes, 60, 40},
    [ACTOR_DIES] = {"dies", dies, 200, 10},
    [ACTOR_ASKS] = {"asks", asks, 60, 1000},
    [ACTOR_BUILDS] = {"builds", builds, 200, 12},
    [ACTOR_MOVES] = {"moves", moves, 250, 12},
};

const char *actor_name(enum actor_kind kind)
{
  return actor_table[kind].name;
}

void actor_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct actor *a = arg;
  uint32_t acts = a->acts < actor_table[a->kind].most ? a->acts : actor_table[a->kind].most;
  a->cluster = cluster;
  a->client = client;
  for (uint32_t i = 0; i < acts; i++) {
    actor_table[a->kind].act(a);
    chi_cluster_sleep(cluster, draw(a, actor_table[a->kind].pause_ms) * MS + MS);
  }
  if (a->queue)
    chi_queue_close(a->queue);
}
