/* net_town.c - several nodes in one thread: see net_town.h. */
#include "net_town.h"

#include <stdio.h>
#include <stdlib.h>

#define TOWN_QUEUE 64u /* messages on a wire */

struct town_message {
  struct town_message *next;
  uint32_t count;
  struct env_frame frame[ENV_FRAMES_MAX];
  void *parcel;
};

/* ---- the module */

static void town_began(chi_ctx *ctx)
{
  struct town_node *node = CHI_CONTAINER_OF(ctx->worker->crew, struct town_node, crew);
  struct town *t = node->town;
  CHI_ASSERT(t->bodies < TOWN_RUNS);
  t->body[t->bodies++] = (struct town_body){.at = node->index,
                                            .key_node = ctx->key_node,
                                            .index = ctx->key_index,
                                            .method = ctx->task->method,
                                            .key_boot = ctx->key_boot,
                                            .key_seq = ctx->key_seq};
}

static int town_add_run(chi_ctx *ctx, struct town *self, struct town_add *t)
{
  (void)self;
  town_began(ctx);
  t->sum = t->a * (chi_self_container(ctx) + 1);
  t->count = 1;
  t->order = chi_self_container(ctx);
  t->twice *= 2;
  snprintf(t->word, sizeof t->word, "container %u", chi_self_container(ctx));
  return CHI_OK;
}

/* `to` gets `from` backwards, each byte plus the container's number; `both` is counted up. */
static int town_blob_run(chi_ctx *ctx, struct town *self, struct town_blob *t)
{
  const unsigned char *from = t->from.data;
  unsigned char *to = t->to.data, *both = t->both.data;
  (void)self;
  town_began(ctx);
  if (t->from.size > t->to.size)
    return CHI_ETOOBIG;
  for (uint64_t i = 0; i < t->from.size; i++)
    to[i] = (unsigned char)(from[t->from.size - 1 - i] + chi_self_container(ctx));
  t->to.size = t->from.size;
  for (uint64_t i = 0; i < t->both.size; i++)
    both[i]++;
  return CHI_OK;
}

static int town_wait_run(chi_ctx *ctx, struct town *self, struct town_wait *t)
{
  (void)self;
  town_began(ctx);
  int rc = chi_sleep(ctx, t->ns);
  t->done = 1;
  return rc;
}

static int town_again_run(chi_ctx *ctx, struct town *self, struct town_again *t)
{
  return town_wait_run(ctx, self, (struct town_wait *)(void *)t);
}

static int town_fail_run(chi_ctx *ctx, struct town *self, struct town_fail *t)
{
  uint32_t c = chi_self_container(ctx);
  (void)self;
  town_began(ctx);
  if (t->mask >> c & 1) {
    snprintf(t->text, sizeof t->text, "%u failed", c);
    return 100 + (int)c;
  }
  t->bits = 1ull << c;
  return CHI_OK;
}

static int town_huge_run(chi_ctx *ctx, struct town *self, struct town_huge *t)
{
  (void)self, (void)t;
  town_began(ctx);
  return CHI_OK;
}

static int town_tick_run(chi_ctx *ctx, struct town *self, struct town_tick *t)
{
  (void)self;
  town_began(ctx);
  t->ticks++;
  return CHI_OK;
}

#define TOWN_METHODS(M, S)                                                                         \
  M(S, town_add)                                                                                   \
  M(S, town_blob) M(S, town_wait) M(S, town_fail) M(S, town_again, CHI_METHOD_IDEMPOTENT)          \
      M(S, town_huge) M(S, town_tick)
CHI_METHODS(town, TOWN_METHODS)

static int town_aggregate(uint32_t method, void *into, const void *from)
{
  if (method == town_add_type.id) {
    struct town_add *sum = into;
    const struct town_add *more = from;
    sum->sum += more->sum;
    sum->count += more->count;
    sum->order = sum->order << (4 * more->count) | more->order;
  } else if (method == town_fail_type.id) {
    ((struct town_fail *)into)->bits |= ((const struct town_fail *)from)->bits;
  }
  return CHI_OK;
}

static const chi_module town_module = {.version = CHI_MODULE_VERSION,
                                       .name = "town",
                                       .methods = town_methods,
                                       .aggregate = town_aggregate};
static const chi_module town_plain = {
    .version = CHI_MODULE_VERSION, .name = "town", .methods = town_methods};

/* ---- the environment */

static struct town_node *town_of(struct env *env)
{
  return CHI_CONTAINER_OF(env, struct town_node, env);
}

static void *town_get(void *arg, size_t size)
{
  struct town_node *node = arg;
  if (node->fail_at >= 0 && node->fail_at-- == 0)
    return NULL;
  if (node->fail_above && size > node->fail_above)
    return NULL;
  node->blocks++;
  void *p = malloc(size);
  return p ? memset(p, 0xA5, size) : NULL;
}

static void town_put(void *arg, void *p, size_t size)
{
  ((struct town_node *)arg)->blocks--;
  memset(p, 0x5A, size);
  free(p);
}

static uint64_t town_clock(struct env *env)
{
  return town_of(env)->town->now;
}

static uint64_t town_random(struct env *env)
{
  struct town_node *node = town_of(env);
  return ++node->randoms * 0x9E3779B97F4A7C15ull + node->index;
}

static uint64_t town_wall(struct env *env)
{
  return town_of(env)->wall;
}

static void town_log(struct env *env, int level, const char *line)
{
  (void)env, (void)level;
  if (getenv("TOWN_LOG"))
    printf("  %s\n", line);
}

static void town_sink(void *arg, int level, const char *line)
{
  town_log(arg, level, line);
}

static void town_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c)
{
  (void)b, (void)c;
  if (what == ENV_TRACE_NET)
    town_of(env)->trace[a]++;
}

static int town_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  (void)env;
  *out = (struct env_stack){aligned_alloc(4096, size), size};
  return out->base ? CHI_OK : CHI_ENOMEM;
}

static void town_stack_close(struct env *env, struct env_stack *stack)
{
  (void)env;
  free(stack->base);
}

static int town_bell_open(struct env *env, env_bell *out)
{
  (void)env;
  *out = 1;
  return CHI_OK;
}

static void town_bell(struct env *env, env_bell bell)
{
  (void)env, (void)bell;
}

static int town_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                         uint32_t port, chi_error *err)
{
  (void)env, (void)hosts, (void)count, (void)self, (void)port, (void)err;
  return CHI_OK;
}

static void town_drop(struct town *t, uint32_t from, uint32_t to, bool give_back)
{
  struct town_wire *w = &t->wire[from][to];
  while (w->first) {
    struct town_message *m = w->first;
    w->first = m->next;
    for (uint32_t i = 0; i < m->count; i++)
      free((void *)(uintptr_t)m->frame[i].data);
    if (m->parcel && give_back)
      peer_on_sent(&t->node[from].peers, m->parcel);
    t->pinned -= m->parcel != NULL;
    free(m);
  }
  w->last = &w->first;
  w->waiting = 0;
}

static void town_net_close(struct env *env)
{
  struct town_node *node = town_of(env);
  for (uint32_t i = 0; i < node->town->count; i++)
    town_drop(node->town, node->index, i, false);
}

static int town_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                         uint32_t count, void *parcel)
{
  struct town_node *node = town_of(env);
  struct town_wire *w = &node->town->wire[node->index][peer];
  if (!w->up || !node->town->node[peer].up)
    return CHI_EUNREACHABLE;
  if (w->waiting >= TOWN_QUEUE)
    return CHI_EBUSY;
  struct town_message *m = calloc(1, sizeof *m);
  m->count = count;
  m->parcel = parcel;
  node->town->pinned += parcel != NULL;
  for (uint32_t i = 0; i < count; i++) {
    void *copy = malloc(frame[i].size ? frame[i].size : 1);
    memcpy(copy, frame[i].data, frame[i].size);
    m->frame[i] = (struct env_frame){copy, frame[i].size};
  }
  *w->last = m;
  w->last = &m->next;
  w->waiting++;
  return CHI_OK;
}

static void town_net_reset(struct env *env, uint32_t peer)
{
  struct town_node *node = town_of(env);
  town_drop(node->town, node->index, peer, true);
}

static const struct env town_env = {.version = ENV_VERSION,
                                    .clock = town_clock,
                                    .random = town_random,
                                    .log = town_log,
                                    .trace = town_trace,
                                    .stack_open = town_stack_open,
                                    .stack_close = town_stack_close,
                                    .bell_open = town_bell_open,
                                    .bell_close = town_bell,
                                    .bell_ring = town_bell,
                                    .wall = town_wall,
                                    .net_open = town_net_open,
                                    .net_close = town_net_close,
                                    .net_send = town_net_send,
                                    .net_reset = town_net_reset};

/* ---- a node */

static void town_on_record(void *arg, struct peer *from, enum wire_kind kind, struct wire_in *in)
{
  net_on_record(((struct town_node *)arg)->net, from, kind, in);
}

static void town_on_boot(void *arg, struct peer *peer, uint64_t former)
{
  (void)former;
  net_on_boot(((struct town_node *)arg)->net, peer);
}

static void town_on_reborn(void *arg)
{
  net_on_reborn(((struct town_node *)arg)->net);
}

static void town_on_sent(void *arg, void *parcel)
{
  net_on_sent(((struct town_node *)arg)->net, parcel);
}

static void town_on_notice(void *arg, struct pool_notice *notice)
{
  directory_on_notice(&((struct town_node *)arg)->directory, notice);
}

static void town_on_cancel(void *arg)
{
  net_look_for_cancelled(((struct town_node *)arg)->net);
}

static void town_on_remote(void *arg, chi_ctx *ctx)
{
  net_submit(((struct town_node *)arg)->net, ctx, ctx->first, ctx->count);
}

static bool town_is_dead(void *arg, uint32_t node)
{
  return ((struct town_node *)arg)->town->node[node].dead;
}

static void town_start_workers(struct town_node *node)
{
  static const enum worker_kind kinds[] = {WORKER_FAST, WORKER_SLOW, WORKER_BRIEF,
                                           WORKER_NETWORK};
  struct worker_crew *crew = &node->crew;
  *crew = (struct worker_crew){.env = &node->env,
                               .alloc = &node->alloc,
                               .log = {.sink = town_sink,
                                       .arg = &node->env,
                                       .level = CHI_LOG_DEBUG},
                               .worker = node->worker,
                               .count = TOWN_NETWORK + 1,
                               .fast = 1,
                               .slow = 1,
                               .brief = 1,
                               .node = node->index,
                               .nodes = node->town->count,
                               .stack_size = 64 * 1024,
                               .on_notice = town_on_notice,
                               .on_remote = town_on_remote,
                               .on_cancel = town_on_cancel,
                               .arg = node};
  memset(node->word, 0, sizeof node->word);
  for (uint32_t i = 0; i <= TOWN_NETWORK; i++)
    if (worker_open(&node->worker[i], crew, i, kinds[i], &node->word[i]) != CHI_OK)
      abort();
  worker_brief(crew)->bell = node->worker[TOWN_NETWORK].bell;
}

void town_start_bare(struct town *t, uint32_t index)
{
  struct town_node *node = &t->node[index];
  chi_error err;
  node->env = town_env;
  node->town = t;
  node->index = index;
  node->up = true;
  node->wall += 10 * TOWN_S;
  node->alloc = (struct alloc){town_get, town_put, node};
  node->env.alloc = node->alloc;
  node->fail_at = -1;
  town_start_workers(node);
  node->modules = (struct module_list){.alloc = &node->alloc};
  if (directory_open(&node->directory, &node->crew) != CHI_OK ||
      module_add(&node->modules, t->plain ? &town_plain : &town_module, &err) != CHI_OK)
    abort();
  chi_config_init(&node->config);
  for (uint32_t i = 0; i < t->count; i++) {
    char name[16];
    snprintf(name, sizeof name, "host%u", i);
    chi_config_add_host(&node->config, name, NULL);
  }
  memset(&node->peers, 0, sizeof node->peers);
  if (peer_open(&node->peers, &node->env, &node->crew.log, &node->config, index, "town:1", &err) !=
      CHI_OK)
    abort();
  node->peers.on_record = town_on_record;
  node->peers.on_boot = town_on_boot;
  node->peers.on_reborn = town_on_reborn;
  node->peers.on_sent = town_on_sent;
  node->peers.arg = node;
  struct net_options o = {.crew = &node->crew,
                          .peers = &node->peers,
                          .directory = &node->directory,
                          .neighborhood = t->neighborhood,
                          .task_timeout_ns = t->task_timeout,
                          .wait_for_restart_ns = t->wait_for_restart,
                          .is_dead = town_is_dead,
                          .arg = node};
  if (net_open(&o, &node->net) != CHI_OK)
    abort();
}

void town_add_pool(struct town *t, uint32_t index, enum pool_state state)
{
  struct town_node *node = &t->node[index];
  if (!node->pool) {
    struct module *module = module_find(&node->modules, "town");
    if (pool_open(&node->alloc, TOWN_NETWORK + 1, (chi_pool_id){300, 0}, "town", module, t->count,
                  index, &node->pool) != CHI_OK)
      abort();
    directory_add(&node->directory, node->pool);
  }
  node->pool->state = state;
  if (directory_publish(&node->directory) != CHI_OK)
    abort();
  net_on_pools(node->net);
}

void town_move(struct town *t, uint32_t index, uint32_t container, uint32_t to)
{
  struct town_node *node = &t->node[index];
  struct container *here = NULL;
  if (to == index && to == container)
    here = &node->pool->container;
  else if (to == index && pool_container_open(&node->alloc, node->pool, container, &here) != CHI_OK)
    abort();
  if (pool_move(&node->alloc, node->pool, container, to, here) != CHI_OK ||
      directory_publish(&node->directory) != CHI_OK)
    abort();
  net_on_pools(node->net);
}

/* Both ends of every wire of a node that is up hear of the connection. */
void town_connect(struct town *t, uint32_t index)
{
  for (uint32_t i = 0; i < t->count; i++) {
    if (i == index || !t->node[i].up)
      continue;
    if (t->wire[i][index].up)
      peer_on_link(&t->node[i].peers, index, true);
    if (t->wire[index][i].up)
      peer_on_link(&t->node[index].peers, i, true);
  }
}

void town_start(struct town *t, uint32_t index)
{
  town_start_bare(t, index);
  town_add_pool(t, index, POOL_READY);
  town_connect(t, index);
}

/* Tasks that were begun die with their node: their records and stacks are given back. */
static void town_forget_tasks(struct town_node *node)
{
  for (uint32_t i = 0; i <= TOWN_NETWORK; i++) {
    struct worker *w = &node->worker[i];
    mark_set(&node->crew.cancel_all, 1);
    worker_cancel_changed(&node->worker[TOWN_NETWORK]);
    uint64_t deadline = 0;
    for (int k = 0; k < 1000; k++)
      worker_step(w, node->town->now, 16, &deadline);
  }
}

static void town_stop(struct town *t, uint32_t index)
{
  struct town_node *node = &t->node[index];
  for (uint32_t i = 0; i <= TOWN_NETWORK; i++)
    town_forget_tasks(node);
  peer_close(&node->peers);
  net_close(node->net);
  directory_close(&node->directory);
  for (uint32_t i = 0; i <= TOWN_NETWORK; i++)
    worker_close(&node->worker[i]);
  module_free_all(&node->modules);
  chi_config_free(&node->config);
  node->pool = NULL;
  node->net = NULL;
  node->up = false;
}

void town_crash(struct town *t, uint32_t index)
{
  t->node[index].up = false;
  for (uint32_t i = 0; i < t->count; i++)
    town_drop(t, i, index, true);
  for (uint32_t i = 0; i < t->count; i++)
    if (i != index && t->node[i].up && t->wire[i][index].up)
      peer_on_link(&t->node[i].peers, index, false);
  town_stop(t, index);
}

void town_open(struct town *t, uint32_t count, uint32_t neighborhood)
{
  CHI_ASSERT(count <= TOWN_NODES);
  bool plain = t->plain;
  memset(t, 0, sizeof *t);
  t->plain = plain;
  t->count = count;
  t->neighborhood = neighborhood;
  t->now = 1000 * TOWN_S;
  t->task_timeout = 10 * TOWN_S;
  t->wait_for_restart = 5 * TOWN_S;
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t k = 0; k < count; k++)
      t->wire[i][k] = (struct town_wire){.last = &t->wire[i][k].first, .up = true};
  for (uint32_t i = 0; i < count; i++)
    town_start(t, i);
  town_settle(t);
}

void town_close(struct town *t)
{
  for (uint32_t i = 0; i < t->count; i++)
    if (t->node[i].up)
      town_crash(t, i);
}

void town_wire_set(struct town *t, uint32_t from, uint32_t to, bool up)
{
  struct town_wire *w = &t->wire[from][to];
  if (w->up == up)
    return;
  w->up = up;
  town_drop(t, from, to, true);
  if (t->node[from].up && t->node[to].up)
    peer_on_link(&t->node[from].peers, to, up);
}

void town_lose(struct town *t, uint32_t from, uint32_t to)
{
  town_drop(t, from, to, true);
}

void town_bounce(struct town *t, uint32_t a, uint32_t b)
{
  for (int up = 0; up < 2; up++) {
    town_wire_set(t, a, b, up);
    town_wire_set(t, b, a, up);
  }
}

/* ---- tasks */

static void town_on_end(chi_ctx *ctx)
{
  struct town_task *task = ctx->call_arg;
  task->ends++;
  task->rc = ctx->task->rc;
  task->task = malloc(task->size);
  memcpy(task->task, ctx->task, task->size);
  worker_record_free(&task->node->worker[TOWN_NETWORK], ctx);
  task->ctx = NULL;
}

void town_new(struct town *t, struct town_task *task, uint32_t index, const chi_type *type)
{
  struct town_node *node = &t->node[index];
  *task = (struct town_task){.node = node, .size = type->size};
  chi_ctx *ctx = worker_record(&node->worker[TOWN_NETWORK], type->size);
  memset(ctx->task, 0, type->size);
  ctx->task->pool = (chi_pool_id){300, 0};
  ctx->task->method = type->id;
  ctx->method = module_method(node->pool->module, type->id);
  ctx->container = &node->pool->container;
  ctx->map = node->pool->map;
  ctx->origin = TASK_FROM_NODE;
  ctx->call_done = town_on_end;
  ctx->call_arg = task;
  ctx->id = ctx->root = worker_new_id(&node->worker[TOWN_NETWORK]);
  task->ctx = ctx;
  task->task = ctx->task;
}

void town_submit(struct town *t, struct town_task *task, uint32_t first, uint32_t count)
{
  struct town_node *node = task->node;
  struct worker *network = &node->worker[TOWN_NETWORK];
  chi_ctx *ctx = task->ctx;
  (void)t;
  if (ctx->task->deadline_ms)
    ctx->deadline = node->town->now + ctx->task->deadline_ms * TOWN_MS;
  tally_add(&network->accepted, 1);
  tally_add(&ctx->container->tally[TOWN_NETWORK].active, 1);
  net_submit(node->net, ctx, first, count);
}

void town_submit_wait(struct town *t, struct town_task *task, uint32_t node, const chi_type *type,
                      uint64_t ns, uint32_t first, uint32_t count)
{
  town_new(t, task, node, type);
  ((struct town_wait *)task->task)->ns = ns;
  town_submit(t, task, first, count);
}

void town_free(struct town_task *task)
{
  if (task->ends > 0)
    free(task->task);
  task->task = NULL;
}

void town_cancel(struct town *t, struct town_task *task)
{
  (void)t;
  mark_set(&task->ctx->cancel, CHI_ECANCELLED);
  net_look_for_cancelled(task->node->net);
}

/* ---- time */

static bool town_deliver(struct town *t, uint32_t from, uint32_t to)
{
  struct town_wire *w = &t->wire[from][to];
  struct town_message *m = w->first;
  if (!m || w->held || !t->node[to].up)
    return false;
  w->first = m->next;
  w->waiting--;
  if (!w->first)
    w->last = &w->first;
  peer_on_message(&t->node[to].peers, t->now, m->frame, m->count);
  if (m->parcel)
    peer_on_sent(&t->node[from].peers, m->parcel);
  t->pinned -= m->parcel != NULL;
  for (uint32_t i = 0; i < m->count; i++)
    free((void *)(uintptr_t)m->frame[i].data);
  free(m);
  return true;
}

static bool town_step_node(struct town *t, struct town_node *node, uint64_t *next)
{
  bool more = false;
  for (uint32_t i = 0; i <= TOWN_NETWORK; i++) {
    uint64_t deadline = UINT64_MAX;
    more |= worker_step(&node->worker[i], t->now, 64, &deadline);
    *next = deadline < *next ? deadline : *next;
  }
  uint64_t at = net_step(node->net, t->now);
  *next = at < *next ? at : *next;
  at = peer_flush(&node->peers, t->now, 100 * TOWN_MS);
  *next = at < *next ? at : *next;
  return more;
}

/* One round; the time when something happens next. */
static bool town_round(struct town *t, uint64_t *next)
{
  bool more = false;
  *next = UINT64_MAX;
  for (uint32_t i = 0; i < t->count; i++)
    if (t->node[i].up)
      more |= town_step_node(t, &t->node[i], next);
  for (uint32_t i = 0; i < t->count; i++)
    for (uint32_t k = 0; k < t->count; k++)
      more |= town_deliver(t, i, k);
  return more || *next <= t->now;
}

void town_step_messages(struct town *t)
{
  for (uint32_t i = 0; i < t->count; i++)
    peer_flush(&t->node[i].peers, t->now, 100 * TOWN_MS);
  for (uint32_t i = 0; i < t->count; i++)
    for (uint32_t k = 0; k < t->count; k++)
      town_deliver(t, i, k);
}

static uint64_t town_still(struct town *t)
{
  uint64_t next = UINT64_MAX;
  for (int i = 0; i < 20000 && town_round(t, &next); i++)
    ;
  return next;
}

void town_settle(struct town *t)
{
  town_still(t);
}

bool town_until(struct town *t, const struct town_task *task, uint64_t ns)
{
  uint64_t end = t->now + ns;
  for (;;) {
    uint64_t next = town_still(t);
    if (task && task->ends > 0)
      return true;
    if (next > end) {
      t->now = end;
      town_still(t);
      return task && task->ends > 0;
    }
    t->now = next > t->now ? next : t->now + 1;
  }
}

void town_pass(struct town *t, uint64_t ns)
{
  town_until(t, NULL, ns);
}

/* ---- looking */

uint32_t town_bodies(const struct town *t, uint32_t method, uint32_t container)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < t->bodies; i++)
    count += t->body[i].method == method && t->body[i].index == container;
  return count;
}

uint32_t town_doubles(const struct town *t)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < t->bodies; i++) {
    for (uint32_t k = 0; k < i; k++) {
      const struct town_body *a = &t->body[i], *b = &t->body[k];
      count += a->key_node == b->key_node && a->key_boot == b->key_boot &&
               a->key_seq == b->key_seq && a->index == b->index;
    }
  }
  return count;
}

bool town_idle(const struct town *t)
{
  for (uint32_t i = 0; i < t->count; i++) {
    const struct town_node *node = &t->node[i];
    struct net_figures f;
    if (!node->up)
      continue;
    net_figures(node->net, &f);
    if (!net_idle(node->net) || f.calls_open || f.runs_open || f.answers_kept || f.malformed)
      return false;
  }
  return t->pinned == 0;
}
