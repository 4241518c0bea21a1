/* limbo.c - tasks that wait for a pool that takes its time, for a lock that their group gets, those
 * that keep a container from moving, and those whose request is lost. */
#include "limbo.h"
#include "folk.h"

#define MS UINT64_C(1000000)
#define SOON (40 * MS) /* after it was asked for, an end has come */
#define LATE_MS 20u
#define WAITERS 9u
#define ECHOES 4
#define WAY_BACK (600 * MS)

/* Of a task that waits for its pool. */
enum fate { STAYS, CANCELLED, LATE };
static const int fate_code[] = {CHI_OK, CHI_ECANCELLED, CHI_ETIMEOUT};

struct waiter {
  enum fate fate;
  bool visits; /* by way of a task here, which has a subtask there */
  uint32_t node;
  chi_query query;
  chi_pool_id pool;
};

struct scene {
  uint32_t maker, other; /* nodes */
  chi_pool_id pool;
  struct waiter waiter[WAITERS];
  uint32_t waiters;
  struct rng *rng;
};

static void *new_task(chi_queue *queue, const chi_type *type, uint32_t mode, uint32_t a)
{
  chi_task *t = chi_task_new(queue, type);
  if (!t)
    return NULL;
  t->pool = FOLK_POOL;
  t->query = (chi_query){.mode = mode, .a = a};
  return t;
}

static void await_all(chi_cluster *cluster, const int *client, uint32_t count, const char *what)
{
  for (uint32_t i = 0; i < count; i++)
    if (!chi_cluster_client_ended(cluster, client[i]) && !chi_cluster_failure(cluster))
      books_fail("limbo", "%s", what);
}

/* ---- a pool that takes its time ------------------------------------------------------------- */

static void maker_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct scene *s = arg;
  chi_queue *queue = NULL;
  chi_error err = {0, ""};
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  int rc = chi_pool_create(queue, "folk", "limbo", NULL, 0, &s->pool, &err);
  chi_cluster_sleep(cluster, 200 * MS);
  if (rc == CHI_OK)
    rc = chi_pool_destroy(queue, s->pool, &err);
  if (rc != CHI_OK)
    books_fail("limbo", "a pool that takes its time: %s", err.text);
  chi_queue_close(queue);
}

/* Another node is told to keep some of the time back, and so answers before it is over. */
static void look_at_end(const struct waiter *w, uint64_t token, int rc, uint64_t asked)
{
  bool elsewhere = w->query.mode == CHI_QUERY_ID;
  uint64_t now = chi_cluster_now(books_now->cluster);
  static const char *const words[] = {"stays", "is cancelled", "is late"};
  if (w->visits && rc == CHI_ENOENT)
    return; /* no container is here that could be visited */
  if (rc != fate_code[w->fate] || books_ran(token) != (rc == CHI_OK))
    books_fail("limbo", "a %s of node %u that waits for its pool, and %s, ends with %s",
               w->visits ? "subtask" : "task", w->node, words[w->fate], chi_status_name(rc));
  else if (w->fate == LATE && elsewhere && now > asked)
    books_fail("limbo", "of a task that waits for its pool elsewhere no time was kept back");
  else if (w->fate != STAYS && now > asked + SOON)
    books_fail("limbo", "a %s of node %u that waits for its pool, and %s, ends %llu ms later",
               w->visits ? "subtask" : "task", w->node, words[w->fate],
               (unsigned long long)((now - asked) / MS));
}

static chi_task *wait_for_pool(chi_queue *queue, const struct waiter *w, uint64_t token)
{
  if (w->visits) {
    struct folk_visit *v = new_task(queue, &folk_visit_type, CHI_QUERY_PHYSICAL, w->node);
    if (!v)
      return NULL;
    v->token = books_submit(false, false);
    v->sub = token;
    v->whose = w->pool;
    return &v->task;
  }
  struct folk_add *t = new_task(queue, &folk_add_type, w->query.mode, w->query.a);
  if (!t)
    return NULL;
  t->token = token;
  t->task.pool = w->pool;
  return &t->task;
}

static void waiter_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct waiter *w = arg;
  chi_queue *queue = NULL;
  uint64_t token = books_submit(false, false), asked;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  chi_task *t = wait_for_pool(queue, w, token);
  if (!t)
    return;
  t->deadline_ms = w->fate == LATE ? LATE_MS : 0;
  if (chi_submit(queue, t) != CHI_OK)
    return;
  asked = chi_cluster_now(cluster) + t->deadline_ms * MS;
  if (w->fate == CANCELLED) {
    chi_cluster_sleep(cluster, 5 * MS);
    asked = chi_cluster_now(cluster);
    chi_cancel(queue, t);
  }
  int rc = chi_wait(queue, t, UINT64_MAX);
  look_at_end(w, token, rc, asked);
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

/* One of each fate. */
static uint32_t start_waiters(chi_cluster *cluster, struct scene *s, bool visits, chi_query query,
                              int *client)
{
  for (uint32_t fate = STAYS; fate <= LATE; fate++) {
    struct waiter *w = &s->waiter[s->waiters++];
    *w = (struct waiter){(enum fate)fate, visits, s->maker, query, s->pool};
    *client++ = chi_cluster_client(cluster, s->maker, waiter_body, w);
  }
  return LATE + 1;
}

/* First its maker has it in creation, and when it is ready there, the others. */
static void limbo_birth(chi_cluster *cluster, struct scene *s)
{
  int client[WAITERS + 1];
  uint32_t count = 0;
  s->pool = (chi_pool_id){FOLK_TARDY, s->maker};
  client[count++] = chi_cluster_client(cluster, s->maker, maker_body, s);
  chi_cluster_run_for(cluster, FOLK_TARDY_NS / 8);
  const chi_query here = {.mode = CHI_QUERY_LOCAL};
  const chi_query there = {.mode = CHI_QUERY_ID, .a = s->other};
  count += start_waiters(cluster, s, false, here, client + count);
  count += start_waiters(cluster, s, true, here, client + count);
  chi_cluster_run_for(cluster, FOLK_TARDY_NS);
  count += start_waiters(cluster, s, false, there, client + count);
  chi_cluster_run_for(cluster, 5 * FOLK_TARDY_NS);
  await_all(cluster, client, count, "a task waits for its pool for ever");
}

/* ---- a group that wants a lock -------------------------------------------------------------- */

static struct folk_lock *want_lock(chi_queue *queue, uint32_t container, uint64_t ns)
{
  struct folk_lock *t = new_task(queue, &folk_lock_type, CHI_QUERY_ID, container);
  if (!t)
    return NULL;
  t->token = t->group = books_submit(false, false);
  t->ns = ns;
  if (chi_submit(queue, t) == CHI_OK)
    return t;
  books_end(t->token, CHI_ENOMEM);
  chi_task_free(queue, t);
  return NULL;
}

static void have_lock(chi_queue *queue, struct folk_lock *t)
{
  if (!t)
    return;
  books_end(t->token, chi_wait(queue, t, UINT64_MAX));
  chi_task_free(queue, t);
}

/* One has it, the group comes one by one, and a stranger stands between them. */
static void team_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct scene *s = arg;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  uint32_t container = (uint32_t)rng_below(s->rng, chi_cluster_nodes(cluster));
  struct folk_team *team = new_task(queue, &folk_team_type, CHI_QUERY_ID, container);
  if (!team)
    return;
  team->token = team->group = books_submit(false, false);
  team->ns = 30 * MS; /* longer than others who use the CPU may hold it up */
  team->gap = 4 * MS;
  struct folk_lock *holder = want_lock(queue, container, 30 * MS);
  chi_cluster_sleep(cluster, 5 * MS);
  int rc = chi_submit(queue, team);
  chi_cluster_sleep(cluster, 2 * MS);
  struct folk_lock *stranger = want_lock(queue, container, MS);
  rc = rc == CHI_OK ? chi_wait(queue, team, UINT64_MAX) : rc;
  books_end(team->token, rc);
  if (rc != CHI_OK)
    books_fail("limbo", "a group that wants a lock ends with %s", chi_status_name(rc));
  chi_task_free(queue, team);
  have_lock(queue, holder);
  have_lock(queue, stranger);
  chi_queue_close(queue);
}

static void limbo_team(chi_cluster *cluster, struct scene *s)
{
  books_now->orderly = true;
  int client = chi_cluster_client(cluster, s->maker, team_body, s);
  chi_cluster_run_for(cluster, 300 * MS);
  await_all(cluster, &client, 1, "a group waits for a lock for ever");
  books_now->orderly = false;
}

/* ---- an end that comes too late -------------------------------------------------------------- */

static struct folk_add *add_here(chi_queue *queue, uint64_t cpu, uint64_t ns)
{
  struct folk_add *t = new_task(queue, &folk_add_type, CHI_QUERY_LOCAL, 0);
  if (!t)
    return NULL;
  t->token = books_submit(false, false);
  t->cpu = cpu;
  t->ns = ns;
  return t;
}

static int end_of(chi_queue *queue, struct folk_add *t)
{
  int rc = chi_wait(queue, t, UINT64_MAX);
  books_end(t->token, rc);
  chi_task_free(queue, t);
  return rc;
}

/* The first task is over when its cancellation arrives, which is behind a second one in its lane;
 * a third one has its place by then, and came by another lane. */
static void late_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  (void)cluster, (void)arg;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  struct folk_add *t[3] = {add_here(queue, 0, 0), add_here(queue, 5 * MS, 0), NULL};
  if (!t[0] || !t[1] || chi_submit(queue, t[0]) != CHI_OK || chi_submit(queue, t[1]) != CHI_OK)
    return;
  chi_cancel(queue, t[0]);
  end_of(queue, t[0]);
  t[2] = add_here(queue, 0, 20 * MS);
  if (!t[2])
    return;
  t[2]->task.compute_us = 100;
  int rc = chi_submit(queue, t[2]);
  if (rc == CHI_OK)
    rc = end_of(queue, t[2]);
  if (rc != CHI_OK && rc != CHI_ENOENT)
    books_fail("limbo", "a task ends with %s when the one before it is cancelled",
               chi_status_name(rc));
  end_of(queue, t[1]);
  chi_queue_close(queue);
}

static void limbo_late(chi_cluster *cluster, struct scene *s)
{
  int client = chi_cluster_client(cluster, s->maker, late_body, s);
  chi_cluster_run_for(cluster, 100 * MS);
  await_all(cluster, &client, 1, "a task that comes after a cancelled one hangs");
}

/* ---- a container that is to move ------------------------------------------------------------ */

struct move {
  uint32_t container, to;
};

/* Has a task done again and again there. */
static void repeater_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct move *m = arg;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  struct folk_add *t = new_task(queue, &folk_add_type, CHI_QUERY_ID, m->container);
  if (!t)
    return;
  t->token = books_submit_periodic();
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 2000;
  int rc = chi_run(queue, t);
  books_end(t->token, rc);
  if (rc != CHI_ECANCELLED)
    books_fail("limbo", "a periodic task in a container that moves ends with %s",
               chi_status_name(rc));
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

static void mover_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct move *m = arg;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  struct chi_admin_migrate *t = new_task(queue, &chi_admin_migrate_type, CHI_QUERY_LOCAL, 0);
  if (!t)
    return;
  t->task.pool = CHI_ADMIN_POOL;
  t->pool_id = FOLK_POOL;
  t->container = m->container;
  t->node = m->to;
  int rc = chi_run(queue, t);
  if (rc != CHI_OK)
    books_fail("limbo", "a container with a periodic task does not move: %s", chi_status_name(rc));
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

static void limbo_move(chi_cluster *cluster, struct scene *s)
{
  uint32_t nodes = chi_cluster_nodes(cluster);
  struct move m = {.container = (uint32_t)rng_below(s->rng, nodes)};
  struct folk_news t = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, m.container, 0, 0}}};
  if (chi_cluster_call(cluster, 0, &folk_news_type, &t, 1000 * MS) != CHI_OK)
    return;
  m.to = (t.node + 1 + (uint32_t)rng_below(s->rng, nodes - 1)) % nodes;
  int client[2] = {chi_cluster_client(cluster, s->maker, repeater_body, &m), 0};
  chi_cluster_run_for(cluster, 20 * MS);
  client[1] = chi_cluster_client(cluster, t.node, mover_body, &m);
  chi_cluster_run_for(cluster, 500 * MS);
  await_all(cluster, client, 2, "a periodic task goes on in a container that is to move");
}

/* ---- a request that is lost ------------------------------------------------------------------ */

static void echo_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct scene *s = arg;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  struct folk_add *t = add_here(queue, 0, 0);
  if (!t)
    return;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = s->other};
  if (chi_submit(queue, t) == CHI_OK)
    end_of(queue, t);
  chi_queue_close(queue);
}

/* The way back is so long that it is asked for twice before the first answer, and so is sent twice
 * again: who gets it knows it the second time. */
static void limbo_echo(chi_cluster *cluster, struct scene *s)
{
  int client[ECHOES];
  chi_cluster_fault(cluster, CHI_FAULT_CLOG, s->other, s->maker, WAY_BACK);
  for (uint32_t i = 0; i < ECHOES; i++) {
    chi_cluster_fault(cluster, CHI_FAULT_LOSE, s->maker, s->other, 1);
    client[i] = chi_cluster_client(cluster, s->maker, echo_body, s);
    chi_cluster_run_for(cluster, 5 * MS);
  }
  chi_cluster_run_for(cluster, 2000 * MS);
  chi_cluster_fault(cluster, CHI_FAULT_CLOG, s->other, s->maker, 0);
  chi_cluster_run_for(cluster, 2 * WAY_BACK); /* until nothing is behind what is late */
  chi_cluster_settle(cluster, 60000 * MS);
  await_all(cluster, client, ECHOES, "a task whose request is lost is waited for for ever");
}

/* ---- all ------------------------------------------------------------------------------------ */

void limbo(chi_cluster *cluster, uint32_t nodes, struct rng *rng)
{
  struct scene s = {.maker = (uint32_t)rng_below(rng, nodes), .rng = rng};
  s.other = (s.maker + 1 + (uint32_t)rng_below(rng, nodes - 1)) % nodes;
  limbo_birth(cluster, &s);
  if (!chi_cluster_failure(cluster))
    limbo_team(cluster, &s);
  if (!chi_cluster_failure(cluster))
    limbo_late(cluster, &s);
  if (!chi_cluster_failure(cluster))
    limbo_move(cluster, &s);
  if (!chi_cluster_failure(cluster))
    limbo_echo(cluster, &s);
}
