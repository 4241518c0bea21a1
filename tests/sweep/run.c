/* run.c - one run of a sweep: a storm, an audit, a device without power, a node that is missed. */
#include "run.h"
#include "sim/bdev_shadow.h"
#include "feud.h"
#include "folk.h"
#include "gate.h"
#include "ledger.h"
#include "limbo.h"
#include "rift.h"
#include "member.h"
#include "net.h"
#include "sim_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define CALLS_END (60 * SECOND) /* no single call of the audit lasts longer */
#define STORM_BEGINS SECOND     /* after the start; the cluster stands by then */
#define DEVICE ((chi_pool_id){900, 0})
#define MEMORY ((chi_pool_id){901, 0})
#define UNITS 64u
#define MEMORY_UNITS 150u /* of several pieces, the last of them a short one */
#define HANDS 3u
#define SHIFTS 12u
#define LOOK (20 * MS / 1000)
#define NAPS 3u

struct run {
  const struct run_case *c;
  chi_cluster *cluster;
  struct books books;
  struct actor actor[ACTOR_KINDS * 8];
  struct shadow *shadow;
  struct rng rng;
  chi_error err;
};

/* ---- what is drawn -------------------------------------------------------------------------- */

/* One node lives through it all: with the last that knows of them, pools would be gone. */
static void spare(struct sim_plan *plan, uint32_t node)
{
  for (uint32_t i = plan->count; i-- > 0;) {
    const struct sim_plan_entry *e = &plan->entry[i];
    bool ends = e->kind == SIM_PLAN_CRASH || e->kind == SIM_PLAN_KILL || e->kind == SIM_PLAN_STOP;
    if (ends && e->a == node)
      sim_plan_remove(plan, i);
  }
}

/* Much of a few kinds, of those that a task is to get over. */
static void draw_gentle(struct sim_plan_limits *limits, struct rng *rng)
{
  static const enum sim_plan_kind kinds[] = {SIM_PLAN_DROP, SIM_PLAN_HALF, SIM_PLAN_LOSE,
                                             SIM_PLAN_SNAP, SIM_PLAN_CLOG, SIM_PLAN_FULL,
                                             SIM_PLAN_SLOW, SIM_PLAN_CUT};
  limits->kinds = 0;
  for (int i = 0; i < 3; i++)
    limits->kinds |= UINT64_C(1) << kinds[rng_below(rng, CHI_COUNT(kinds))];
  limits->per_kind = 3 + (uint32_t)rng_below(rng, 10);
  if (rng_below(rng, 2)) { /* so many losses that they hit each other's repairs */
    limits->kinds = 1u << SIM_PLAN_DROP | 1u << SIM_PLAN_SNAP | 1u << SIM_PLAN_LOSE;
    limits->per_kind = 48;
  }
  limits->outage_ns = 700 * MS;
  limits->swarm = false;
}

static void draw_plan(struct run_case *c, struct rng *rng)
{
  static const uint64_t outages[] = {200 * MS, 600 * MS, 3 * SECOND};
  struct sim_plan_limits limits;
  sim_plan_limits(&limits, c->nodes, STORM_BEGINS, STORM_BEGINS + (1 + rng_below(rng, 3)) * SECOND);
  limits.outage_ns = outages[rng_below(rng, 3)];
  limits.per_kind = 1 + (uint32_t)rng_below(rng, 3);
  limits.down = 1 + (uint32_t)rng_below(rng, c->nodes - 1);
  limits.kinds = (UINT64_C(1) << SIM_PLAN_CALM) - 1;
  if (rng_below(rng, 4))
    limits.kinds &= ~(UINT64_C(1) << SIM_PLAN_MEMORY);
  limits.swarm = rng_below(rng, 4) != 0;
  if (c->gentle)
    draw_gentle(&limits, rng);
  if (sim_plan_generate(&c->plan, c->seed, &limits) != CHI_OK)
    abort();
  spare(&c->plan, (uint32_t)rng_below(rng, c->nodes));
}

void run_draw(struct run_case *c, uint64_t seed)
{
  struct rng rng;
  rng_seed(&rng, seed, 11, 12);
  memset(c, 0, sizeof(*c));
  c->seed = seed;
  c->nodes = 2 + (uint32_t)rng_below(&rng, 4);
  c->neighborhood = 1 + (uint32_t)rng_below(&rng, 5);
  c->acts = 5 + (uint32_t)rng_below(&rng, 30);
  c->kinds = (1u << ACTOR_KINDS) - 1;
  if (rng_below(&rng, 2))
    c->kinds &= (uint32_t)rng_below(&rng, 1u << ACTOR_KINDS) | 1u << rng_below(&rng, ACTOR_KINDS);
  c->quiet = rng_below(&rng, 4) == 0;
  c->loaded = rng_below(&rng, 2) == 0;
  c->gentle = !c->quiet && rng_below(&rng, 3) == 0;
  if (c->quiet) /* few, so that nobody is woken up by what others do */
    c->kinds = 1u << rng_below(&rng, ACTOR_KINDS) |
               1u << (c->loaded ? ACTOR_CALLS : rng_below(&rng, ACTOR_KINDS));
  c->device = rng_below(&rng, 2) == 0;
  c->coda = rng_below(&rng, 2) == 0;
  c->leave = rng_below(&rng, 3) == 0;
  /* A container that is to move waits for those inside, and they for it if they call back. */
  if (c->gentle && rng_below(&rng, 2))
    c->kinds &= ~(1u << ACTOR_LOCKS | 1u << ACTOR_ASKS);
  else if (c->quiet || c->gentle)
    c->kinds &= ~(1u << ACTOR_MOVES);
  if (!c->quiet)
    draw_plan(c, &rng);
  c->rift = rng_below(&rng, 4) == 0;
  c->rebirth = c->nodes > 2 && rng_below(&rng, 5) == 0;
  c->feud = c->nodes > 2 && rng_below(&rng, 3) == 0;
  c->nap = rng_below(&rng, 5) == 0;
  c->gate = rng_below(&rng, 4) == 0;
  c->ghost = rng_below(&rng, 5) == 0;
  c->limbo = rng_below(&rng, 2) == 0;
}

/* Nobody promises anything about time there, and one fault cannot be. */
void run_make_real(struct run_case *c)
{
  for (uint32_t i = c->plan.count; i-- > 0;)
    if (c->plan.entry[i].kind == SIM_PLAN_DELAY)
      sim_plan_remove(&c->plan, i);
  c->real = true;
  c->quiet = c->gentle = c->device = false;
  c->rift = c->rebirth = c->feud = c->nap = c->gate = c->ghost = false; /* look into nodes */
  c->limbo = false;
}

void run_free(struct run_case *c)
{
  sim_plan_free(&c->plan);
}

uint32_t run_faults(const struct sim_plan *plan)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < plan->count; i++) {
    enum sim_plan_kind k = plan->entry[i].kind;
    int64_t value = plan->entry[i].value;
    bool ends = k == SIM_PLAN_JOIN || k == SIM_PLAN_REJOIN || k == SIM_PLAN_HEAL ||
                k == SIM_PLAN_RESUME || k == SIM_PLAN_START || k == SIM_PLAN_CALM ||
                (k == SIM_PLAN_SLOW && value == 100);
    if (value == 0 && (k == SIM_PLAN_CLOG || k == SIM_PLAN_FULL || k == SIM_PLAN_DRIFT ||
                       k == SIM_PLAN_MEMORY || k == SIM_PLAN_SPLIT))
      ends = true;
    count += !ends;
  }
  return count;
}

/* ---- the setting ---------------------------------------------------------------------------- */

/* Nobody gives up soon: all must succeed. Nor does a heartbeat wake anybody up by chance. */
static bool is_slow(const struct run_case *c)
{
  return c->gentle || c->quiet;
}

/* Bounds of time are for a machine that has nothing else to do. */
static uint64_t within(const struct run *r, uint64_t ns)
{
  return r->c->real ? 5 * ns : ns;
}

static bool failed(const struct run *r)
{
  return chi_cluster_failure(r->cluster) != NULL;
}

static int call(struct run *r, uint32_t node, const chi_type *type, void *task)
{
  return chi_cluster_call(r->cluster, node, type, task, CALLS_END);
}

/* Makes the cluster whole, and waits until nobody takes a dead connection for alive any more. */
static void calm_down(struct run *r)
{
  chi_cluster_settle(r->cluster, 60 * SECOND);
  chi_cluster_run_for(r->cluster, 3 * SECOND);
  chi_cluster_settle(r->cluster, 60 * SECOND);
}

static void open_device(struct run *r)
{
  static char keys[2][16] = {"capacity", "bdev_type"}, values[2][8] = {"256K", "file"};
  const chi_param params[] = {{keys[0], values[0], 0, 0}, {keys[1], values[1], 0, 0}};
  chi_pool_id id = DEVICE;
  r->shadow = shadow_open(r->c->seed, UNITS, HANDS);
  r->shadow->lenient = r->c->plan.count > 0; /* disks may still have a fault in store */
  if (chi_cluster_pool_create(r->cluster, 0, "bdev", "device", params, 2, &id, &r->err) != CHI_OK)
    books_fail("opening", "the device: %s", r->err.text);
}

/* What its nodes wait for. Most runs are short, and lose connections sooner than ZeroMQ gives them
 * up. */
static const char *patience(const struct run_case *c)
{
  if (c->real)
    return "heartbeat_interval=500ms,task_timeout=4s,wait_for_restart=2s";
  if (is_slow(c))
    return "heartbeat_interval=2s,task_timeout=12s,wait_for_restart=12s";
  return c->seed % 4 == 3 ? "heartbeat_interval=100ms,task_timeout=2s,wait_for_restart=1s"
                          : "heartbeat_interval=100ms,task_timeout=2s,wait_for_restart=1s,"
                            "ask=0,notice=2s";
}

static bool open_run(struct run *r, chi_put_fn *story, void *arg)
{
  const chi_module *modules[] = {&folk_module};
  const struct run_case *c = r->c;
  chi_pool_id id = FOLK_POOL;
  char spec[300];
  snprintf(spec, sizeof(spec), "%s:nodes=%u,seed=%llu,neighborhood_size=%u,%s",
           c->real ? "local" : "sim", c->nodes, (unsigned long long)c->seed, c->neighborhood,
           patience(c));
  if (chi_cluster_open(spec, modules, 1, &r->books.cluster, &r->err) != CHI_OK)
    return false;
  r->cluster = r->books.cluster;
  r->books.quiet = c->quiet;
  r->books.gentle = c->gentle;
  r->books.loaded = c->loaded;
  r->books.orderly = c->quiet || c->gentle;
  chi_cluster_story(r->cluster, story, arg);
  if (chi_cluster_pool_create(r->cluster, 0, "folk", "folk", NULL, 0, &id, &r->err) != CHI_OK)
    books_fail("opening", "the pool: %s", r->err.text);
  if (c->device)
    open_device(r);
  return true;
}

static void start_actors(struct run *r, uint32_t kinds)
{
  uint32_t next = 0;
  for (uint32_t node = 0; node < r->c->nodes; node++) {
    for (uint32_t kind = 0; kind < ACTOR_KINDS; kind++) {
      struct actor *a = &r->actor[next];
      if (!(kinds >> kind & 1))
        continue;
      *a = (struct actor){.books = &r->books,
                          .kind = (enum actor_kind)kind,
                          .node = node,
                          .nodes = r->c->nodes,
                          .acts = r->c->acts};
      rng_seed(&a->rng, r->c->seed, 20 + node, kind);
      chi_cluster_client(r->cluster, node, actor_body, a);
      next++;
    }
  }
}

static void put_text(void *arg, const char *line)
{
  fputs(line, arg);
}

/* Hands the plan over as text, which any world understands. */
static int schedule_text(struct run *r)
{
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file)
    return CHI_ENOMEM;
  sim_plan_print(&r->c->plan, put_text, file);
  fclose(file);
  int rc = chi_cluster_plan(r->cluster, text, &r->err);
  free(text);
  return rc;
}

static void storm(struct run *r)
{
  uint64_t now = chi_cluster_now(r->cluster), begins = SECOND + STORM_BEGINS - 200 * MS;
  int rc = r->c->real ? schedule_text(r) : sim_cluster_schedule(r->cluster, &r->c->plan);
  if (rc != CHI_OK)
    books_fail("opening", "the plan: %s %s", chi_status_name(rc), r->err.text);
  if (now < begins)
    chi_cluster_run_for(r->cluster, begins - now);
  start_actors(r, r->c->kinds);
  calm_down(r);
  r->books.quiet = r->books.gentle = r->books.orderly = false;
}

/* ---- the audit: all is whole, so all nodes must agree --------------------------------------- */

static void audit_roll(struct run *r, uint32_t from, chi_pool_id pool, const char *what)
{
  struct folk_roll t = {.task = {.pool = pool, .query = {.mode = CHI_QUERY_BROADCAST}}};
  t.token = books_submit(false, true);
  int rc = call(r, from, &folk_roll_type, &t);
  if (rc != CHI_OK || t.one_count != r->c->nodes)
    books_fail("audit", "%s: node %u gets %s from %u of %u containers", what, from,
               chi_status_name(rc), t.one_count, r->c->nodes);
}

static void audit_place(struct run *r, uint32_t container)
{
  struct folk_news first = {.task = {.rc = 1}};
  for (uint32_t from = 0; from < r->c->nodes && !failed(r); from++) {
    struct folk_news t = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, container, 0, 0}}};
    int rc = call(r, from, &folk_news_type, &t);
    if (rc != CHI_OK)
      books_fail("audit", "container %u: node %u gets %s", container, from, chi_status_name(rc));
    else if (first.task.rc == CHI_OK && (first.node != t.node || first.life != t.life))
      books_fail("audit", "container %u is on node %u (life %u), and on node %u (life %u)",
                 container, first.node, first.life, t.node, t.life);
    first = t;
  }
}

/* Who is asked by its node's number answers, if a container is there, and nobody else. */
static void audit_node(struct run *r, uint32_t from)
{
  for (uint32_t node = 0; node < r->c->nodes && !failed(r); node++) {
    struct folk_news t = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_PHYSICAL, node, 0, 0}}};
    int rc = call(r, from, &folk_news_type, &t);
    if ((rc != CHI_OK && rc != CHI_ENOENT) || (rc == CHI_OK && t.node != node))
      books_fail("audit", "node %u asks node %u: %s, by node %u", from, node, chi_status_name(rc),
                 t.node);
  }
}

static bool lives_were_lost(struct run *r)
{
  return chi_cluster_fault_count(r->cluster, CHI_FAULT_CRASH) +
             chi_cluster_fault_count(r->cluster, CHI_FAULT_KILL) +
             chi_cluster_fault_count(r->cluster, CHI_FAULT_STOP) >
         0;
}

static void audit_pool(struct run *r, const struct books_pool *p)
{
  chi_pool_id id = {0, 0};
  for (uint32_t from = 0; from < r->c->nodes && !failed(r); from++) {
    struct chi_admin_find_pool t = {.task = {.pool = CHI_ADMIN_POOL}};
    snprintf(t.pool_name, sizeof(t.pool_name), "%s", p->name);
    int rc = call(r, from, &chi_admin_find_pool_type, &t);
    chi_pool_id seen = rc == CHI_OK ? t.pool_id : (chi_pool_id){0, 0};
    if (rc != CHI_OK && rc != CHI_ENOENT)
      books_fail("audit", "looking for \"%s\" on node %u: %s", p->name, from, chi_status_name(rc));
    if (from > 0 && (seen.major != id.major || seen.minor != id.minor))
      books_fail("audit", "\"%s\" is pool %u.%u on node %u, and %u.%u on node %u", p->name,
                 id.major, id.minor, from - 1, seen.major, seen.minor, from);
    id = seen;
  }
  if (id.major && p->destroyed == CHI_OK)
    books_fail("audit", "\"%s\" was destroyed, and is there again", p->name);
  if (!id.major && p->created == CHI_OK && p->destroyed == 1 && !lives_were_lost(r) &&
      (!p->fought || is_slow(r->c)))
    books_fail("audit", "\"%s\" was made, and is not there", p->name);
  if (id.major && !failed(r))
    audit_roll(r, p->id.minor % r->c->nodes, id, p->name);
}

/* How often a task was sent to where its container is no more. */
static uint64_t detours(struct run *r)
{
  const struct sim_check *check = sim_cluster_check(r->cluster);
  return check ? check->net[NET_TRACE_MOVED] : 0;
}

static void audit(struct run *r)
{
  uint64_t before = detours(r);
  for (uint32_t i = 0; i < r->c->nodes && !failed(r); i++) {
    audit_roll(r, i, FOLK_POOL, "the pool of all");
    audit_place(r, i);
  }
  if (!failed(r))
    audit_node(r, r->c->nodes - 1);
  if (!failed(r) && detours(r) > before)
    books_fail("audit", "a node does not know where a container is");
  for (uint32_t i = 0; i < r->books.pools && !failed(r); i++)
    audit_pool(r, &r->books.pool[i]);
}

/* ---- a device loses power ------------------------------------------------------------------- */

struct hand {
  struct shadow *shadow;
  chi_pool_id pool;
  uint32_t actor;
  uint64_t calls;
  bool judges, shares, verifies;
};

static void hand_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct hand *hand = arg;
  struct shadow_port port = {NULL, NULL, NULL};
  (void)cluster;
  if (chi_queue_open(client, &port.queue, NULL) != CHI_OK)
    return;
  if (hand->shares && shadow_share(hand->shadow, &port, hand->pool) != CHI_OK)
    hand->shadow->shared = hand->shadow->units;
  if (hand->judges)
    shadow_recover(hand->shadow, &port, hand->pool, false);
  else if (hand->verifies)
    shadow_verify(hand->shadow, &port, hand->pool);
  else
    shadow_act(hand->shadow, &port, hand->pool, hand->actor, hand->calls);
  chi_queue_close(port.queue);
}

/* A sync fails, so that nobody knows what it covered, and the process ends: the next one finds in
 * memory what the disk need not have. */
static void fail_a_sync(struct run *r, uint32_t node)
{
  r->shadow->lenient = r->shadow->doubtful = true;
  chi_cluster_fault(r->cluster, CHI_FAULT_DISK, node, CHI_FAULT_SYNC, 0);
  chi_cluster_run_for(r->cluster, 20 * MS);
  chi_cluster_fault(r->cluster, CHI_FAULT_KILL, node, 0, 0);
}

static void start_hands(struct run *r, uint32_t node, struct hand *hands, const struct hand *like)
{
  for (uint32_t i = 0; i < HANDS; i++) {
    hands[i] = *like;
    hands[i].actor = i;
    chi_cluster_client(r->cluster, node, hand_body, &hands[i]);
  }
}

static void one_hand(struct run *r, uint32_t node, struct hand hand)
{
  chi_cluster_client(r->cluster, node, hand_body, &hand);
  if (chi_cluster_run_idle(r->cluster, CALLS_END) == CHI_ETIMEOUT)
    books_fail("P5", "a client of a device hangs");
  if (hand.shadow->wrong[0])
    books_fail("P5", "%s", hand.shadow->wrong);
}

/* Some work, and none: whoever waits for the last one is not forgotten. */
static void device_work(struct run *r, uint32_t node, struct shadow *shadow, chi_pool_id pool)
{
  struct hand hands[HANDS], like = {.shadow = shadow, .pool = pool};
  shadow->bursts = true;
  like.shares = true;
  one_hand(r, node, like);
  like.shares = false;
  for (uint32_t i = 0; i < SHIFTS && !failed(r); i++) {
    like.calls = i == 0 ? 200 : 1 + rng_below(&r->rng, 4);
    start_hands(r, node, hands, &like);
    if (chi_cluster_run_idle(r->cluster, CALLS_END) == CHI_ETIMEOUT)
      books_fail("P5", "a client of a device hangs");
  }
  like.verifies = !shadow->lenient;
  if (!failed(r))
    one_hand(r, node, like);
}

static void memory_work(struct run *r, uint32_t node)
{
  static char keys[2][16] = {"capacity", "bdev_type"}, values[2][8] = {"600K", "ram"};
  const chi_param params[] = {{keys[0], values[0], 0, 0}, {keys[1], values[1], 0, 0}};
  struct shadow *shadow = shadow_open(r->c->seed, MEMORY_UNITS, HANDS);
  chi_pool_id id = MEMORY;
  if (chi_cluster_pool_create(r->cluster, node, "bdev", "memory", params, 2, &id, &r->err))
    books_fail("opening", "a device in memory: %s", r->err.text);
  if (!failed(r))
    device_work(r, node, shadow, MEMORY);
  shadow_close(shadow);
}

/* The log is looked at while it is written. */
static void watch_device(struct run *r, uint32_t node, uint64_t ns)
{
  for (uint64_t at = 0; at < ns && !failed(r); at += LOOK) {
    chi_cluster_run_for(r->cluster, ns - at < LOOK ? ns - at : LOOK);
    ledger_look(r->cluster, node, "device", !r->shadow->lenient && !r->shadow->doubtful);
  }
}

static void device_round(struct run *r, uint32_t node, bool fails)
{
  struct hand hands[HANDS], like = {.shadow = r->shadow, .pool = DEVICE, .calls = 3000};
  start_hands(r, node, hands, &like);
  watch_device(r, node, MS + rng_below(&r->rng, 60 * MS));
  if (fails)
    fail_a_sync(r, node);
  else
    chi_cluster_fault(r->cluster, CHI_FAULT_CRASH, node, 0, 0);
  if (chi_cluster_run_idle(r->cluster, CALLS_END) == CHI_ETIMEOUT)
    books_fail("P5", "a client of a node without power hangs");
  calm_down(r);
  like.judges = true;
  one_hand(r, node, like);
}

/* What one round has left is what the next one begins with. */
static void device_rounds(struct run *r, uint32_t node)
{
  uint32_t rounds = 1 + (uint32_t)rng_below(&r->rng, 3);
  device_work(r, node, r->shadow, DEVICE);
  if (!failed(r))
    memory_work(r, node);
  for (uint32_t i = 0; i < rounds && !failed(r); i++)
    device_round(r, node, i + 1 < rounds && rng_below(&r->rng, 2) == 0);
}

/* ---- a node is missed ----------------------------------------------------------------------- */

static void look_at_news(struct run *r, struct folk_news *news, uint32_t but)
{
  for (uint32_t i = 0; i < r->c->nodes && !failed(r); i++) {
    news[i] = (struct folk_news){.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, i, 0, 0}}};
    if (i != but)
      call(r, i, &folk_news_type, &news[i]);
  }
}

/* Containers that live on were told. */
static void compare_news(struct run *r, const struct folk_news *before,
                         const struct folk_news *after, uint32_t who, bool found)
{
  for (uint32_t i = 0; i < r->c->nodes; i++) {
    const struct folk_news *b = &before[i], *a = &after[i];
    if (i == who || b->task.rc != CHI_OK || a->task.rc != CHI_OK || b->life != a->life)
      continue;
    if (found ? a->found == b->found : a->lost == b->lost)
      books_fail("news", "container %u is not told that node %u %s", i, who,
                 found ? "is back" : "is lost");
  }
}

static void look_for_dead(struct run *r, uint32_t who)
{
  const struct sim_check *check = sim_cluster_check(r->cluster);
  for (uint32_t i = 0; check && i < r->c->nodes; i++)
    if (i != who && check->node[i].serves && sim_check_judges(check, i, who) != MEMBER_DEAD)
      books_fail("news", "node %u does not take node %u, which is no more, for dead", i, who);
}

/* A container that cannot go there stays where it is, with what it knows. */
static void move_to_nobody(struct run *r, uint32_t who, const struct folk_news *news)
{
  uint32_t i = 0;
  while (i < r->c->nodes && (i == who || news[i].task.rc != CHI_OK || news[i].node == who))
    i++;
  if (i == r->c->nodes)
    return;
  struct chi_admin_migrate t = {.task = {.pool = CHI_ADMIN_POOL}, .pool_id = FOLK_POOL};
  struct folk_news after = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, i, 0, 0}}};
  t.container = i;
  t.node = who;
  int rc = call(r, news[i].node, &chi_admin_migrate_type, &t);
  if (rc == CHI_OK)
    books_fail("news", "container %u moves to node %u, which is no more", i, who);
  if (rc == CHI_OK || rc == CHI_EUNKNOWN || failed(r))
    return;
  rc = call(r, news[i].node, &folk_news_type, &after);
  if (rc != CHI_OK || after.life != news[i].life || after.node != news[i].node)
    books_fail("news", "container %u, which cannot move to node %u, is lost: %s", i, who,
               chi_status_name(rc));
}

/* Whoever is there answers a call to all, soon. */
static void roll_without(struct run *r, uint32_t who, const struct folk_news *news)
{
  struct folk_roll t = {.task = {.pool = FOLK_POOL, .query = {.mode = CHI_QUERY_BROADCAST}}};
  uint64_t began = chi_cluster_now(r->cluster);
  uint32_t there = 0, from = (who + 1) % r->c->nodes;
  t.token = books_submit(false, true);
  int rc = call(r, from, &folk_roll_type, &t);
  for (uint32_t i = 0; i < r->c->nodes; i++)
    there += i != who && news[i].task.rc == CHI_OK && news[i].node != who;
  if (rc == CHI_OK && there < r->c->nodes - 1)
    books_fail("news", "a call to all succeeds without node %u", who);
  if (chi_cluster_now(r->cluster) - began > within(r, (is_slow(r->c) ? 30 : 6) * SECOND))
    books_fail("news", "a call to all takes long without node %u", who);
}

static void coda(struct run *r)
{
  struct folk_news before[8], after[8];
  uint32_t who = (uint32_t)rng_below(&r->rng, r->c->nodes);
  look_at_news(r, before, who);
  chi_cluster_fault(r->cluster, CHI_FAULT_CRASH, who, 0, 0);
  chi_cluster_run_for(r->cluster, (is_slow(r->c) ? 90 : r->c->real ? 15 : 6) * SECOND);
  if (failed(r))
    return;
  look_for_dead(r, who);
  look_at_news(r, after, who);
  compare_news(r, before, after, who, false);
  if (!failed(r))
    move_to_nobody(r, who, after);
  if (!failed(r))
    roll_without(r, who, after);
  calm_down(r);
  look_at_news(r, before, who);
  compare_news(r, after, before, who, true);
  audit(r);
}

/* ---- a node stands still -------------------------------------------------------------------- */

static void nobody_is_lost(struct run *r, uint32_t who, uint32_t worst)
{
  const struct sim_check *check = sim_cluster_check(r->cluster);
  for (uint32_t i = 0; i < r->c->nodes && !failed(r); i++) {
    uint32_t state = i != who ? sim_check_judges(check, who, i) : 0;
    if (state > worst)
      books_fail("nap", "node %u stood still, and takes node %u for %s", who, i,
                 state == MEMBER_DEAD ? "dead" : "suspect");
  }
}

/* Its machine stands still, and what was sent to it comes in a moment after it goes on. */
static void stand_still(struct run *r, uint32_t who, uint64_t ns, uint64_t moment)
{
  chi_cluster_fault(r->cluster, CHI_FAULT_PAUSE, who, 0, 0);
  chi_cluster_run_for(r->cluster, ns);
  chi_cluster_fault(r->cluster, CHI_FAULT_RESUME, who, 0, 0);
  chi_cluster_run_for(r->cluster, moment);
}

/* Who stands still hears nothing, which says nothing of others: it doesn't suspect them, nor does
 * it take for dead whom it suspected before. */
static void nap(struct run *r)
{
  uint64_t beat = (is_slow(r->c) ? 2000 : 100) * MS, moment = beat / 20;
  uint32_t who = (uint32_t)rng_below(&r->rng, r->c->nodes);
  bool suspects = rng_below(&r->rng, 2) == 0;
  for (uint32_t i = 0; i < NAPS && !failed(r); i++) {
    chi_cluster_run_for(r->cluster, 20 * beat + rng_below(&r->rng, beat));
    chi_cluster_fault(r->cluster, CHI_FAULT_ISOLATE, who, 0, 0);
    chi_cluster_run_for(r->cluster, suspects ? 5 * beat / 2 : rng_below(&r->rng, 2 * beat / 5));
    for (uint32_t k = 0; k < (suspects ? 16 : 1); k++)
      stand_still(r, who, 2 * beat + rng_below(&r->rng, beat), moment);
    nobody_is_lost(r, who, suspects ? MEMBER_SUSPECT : MEMBER_ALIVE);
    chi_cluster_fault(r->cluster, CHI_FAULT_REJOIN, who, 0, 0);
    for (uint32_t k = 0; k < 16 && !failed(r); k++) { /* until it may judge again */
      chi_cluster_run_for(r->cluster, moment);
      nobody_is_lost(r, who, suspects ? MEMBER_SUSPECT : MEMBER_ALIVE);
    }
  }
  calm_down(r);
}

/* ---- a node stops while others work with it ------------------------------------------------- */

static void leave(struct run *r)
{
  uint32_t who = (uint32_t)rng_below(&r->rng, r->c->nodes);
  start_actors(r, 1u << ACTOR_CALLS | 1u << ACTOR_GATHERS | 1u << ACTOR_CHANGES);
  chi_cluster_run_for(r->cluster, 30 * MS + rng_below(&r->rng, 100 * MS));
  uint64_t began = chi_cluster_now(r->cluster);
  uint64_t unknown = r->books.code[-CHI_EUNKNOWN];
  r->books.stopping[who] = r->c->real ? 0 : began;
  if (chi_cluster_stop(r->cluster, who, 200) == CHI_EBUSY)
    books_fail("stop", "a node does not stop under load");
  if (chi_cluster_now(r->cluster) - began > within(r, 2 * SECOND))
    books_fail("stop", "a node does not stop in time");
  r->books.stopping[who] = 0;
  calm_down(r);
  if (!failed(r) && !r->c->real && r->books.code[-CHI_EUNKNOWN] > unknown)
    books_fail("stop", "nobody knows what became of a task of a node that went in good order");
}

/* ---- two halves, and a life that is too young ----------------------------------------------- */

static void rift(struct run *r)
{
  rift_split(r->cluster, r->c, &r->rng);
  calm_down(r);
  rift_look_back(r->cluster, r->c);
  audit(r);
}

static void rebirth(struct run *r)
{
  rift_rebirth(r->cluster, r->c, &r->rng);
  calm_down(r);
  audit(r);
}

static void gates(struct run *r)
{
  gate(r->cluster, r->c->nodes, &r->rng);
  if (!failed(r))
    gate_long(r->cluster, r->c->nodes, &r->rng);
}

static void in_limbo(struct run *r)
{
  struct rng rng;
  rng_seed(&rng, r->c->seed, 50, 0);
  limbo(r->cluster, r->c->nodes, &rng);
}

static void feud_with(struct run *r)
{
  feud(r->cluster, r->c, &r->rng);
  calm_down(r);
  audit(r);
}

static void ghost(struct run *r)
{
  feud_ghost(r->cluster, r->c, &r->rng);
  calm_down(r);
  audit(r);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void take_result(struct run *r, struct run_result *out)
{
  const chi_failure *f = r->cluster ? chi_cluster_failure(r->cluster) : NULL;
  const struct sim_check *check = r->cluster ? sim_cluster_check(r->cluster) : NULL;
  if (!r->cluster) {
    snprintf(out->check, sizeof(out->check), "opening");
    snprintf(out->text, sizeof(out->text), "%s", r->err.text);
    return;
  }
  if (f) {
    snprintf(out->check, sizeof(out->check), "%s", f->check);
    snprintf(out->text, sizeof(out->text), "%s", f->text);
  }
  out->time = chi_cluster_now(r->cluster);
  out->events = chi_cluster_events(r->cluster);
  out->hash = chi_cluster_hash(r->cluster);
  for (int i = 0; i < CHI_FAULT_KINDS; i++)
    out->fault[i] = chi_cluster_fault_count(r->cluster, i);
  out->submitted = check ? check->submitted : r->books.tasks;
  if (check)
    memcpy(out->net, check->net, sizeof(out->net));
  for (int i = 0; i < SIM_CHECK_CODES; i++)
    out->code[i] = check ? check->code[i] : i < BOOKS_CODES ? r->books.code[i] : 0;
  out->moves = r->books.moves;
  out->pools = r->books.pools;
}

void run_do(const struct run_case *c, struct run_result *out, chi_put_fn *story, void *arg)
{
  struct run *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (r == MAP_FAILED)
    abort();
  memset(out, 0, sizeof(*out));
  r->c = c;
  rng_seed(&r->rng, c->seed, 13, 14);
  books_open(&r->books);
  if (open_run(r, story, arg)) {
    storm(r);
    audit(r);
    if (c->limbo && !failed(r))
      in_limbo(r);
    if (c->device && !failed(r))
      device_rounds(r, c->nodes - 1);
    if (c->coda && !failed(r))
      coda(r);
    if (c->leave && !failed(r))
      leave(r);
    if (c->gate && !failed(r))
      gates(r);
    if (c->nap && !failed(r))
      nap(r);
    if (c->ghost && !failed(r))
      ghost(r);
    if (c->feud && !failed(r))
      feud_with(r);
    if (c->rift && !failed(r))
      rift(r);
    if (c->rebirth && !failed(r))
      rebirth(r);
    if (!failed(r) && chi_cluster_stop(r->cluster, CHI_CLUSTER_ALL, 100) == CHI_EBUSY)
      books_fail("stop", "a node does not stop");
  }
  take_result(r, out);
  if (r->shadow)
    shadow_close(r->shadow);
  chi_cluster_close(r->cluster);
  books_close(&r->books);
  munmap(r, sizeof(*r));
  out->ended = true;
}
