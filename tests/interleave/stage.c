/* stage.c - a whole node and a client of it, built once and set back before each run. */
#include "stage.h"
#include "attach.h"
#include "client.h"
#include "test.h"
#include "worker.h"

#include <stdlib.h>

#define STAGE_WARM (768u << 10)  /* memory that is set back */
#define STAGE_COLD (12u << 20)   /* large memory whose content need not be */
#define STAGE_LARGE (12u << 10)  /* what is large */
#define STAGE_STACK (64u << 10)
#define STAGE_STACKS 24u
#define STAGE_LIVE 6144u         /* of a stack, at most, while its fiber is suspended in a worker */
#define STAGE_SEGMENTS 24u
#define STAGE_BELLS 16u
#define STAGE_BUDGET 16u
#define STAGE_LINK 1

struct stage_segment {
  void *base;
  uint64_t size;
  bool daemon;     /* has it open */
  uint32_t others;
};

/* All that is set back. What lies in warm is set back as far as it is used. */
static struct stage {
  struct stage_facts facts;
  struct env env, client_env;
  struct worker_crew *crew;
  struct queue_lane *lane[3]; /* by queue: the fast one */
  struct stage_segment segment[STAGE_SEGMENTS];
  struct explore_bell bell[STAGE_BELLS];
  bool bell_open[STAGE_BELLS];
  uint32_t stacks;
  uint64_t deadline[STAGE_WORKERS];
  uint32_t wake[STAGE_WORKERS]; /* something else than the bell: a timer, a message */
  uint32_t hung, hung_told;     /* the client's end of the link */
  bool asked, answered;
  bool set; /* from now on only the parties do anything */
  struct attach_request request;
  struct attach_reply reply;
  struct env_share share[ATTACH_BELLS_MAX];
  uint32_t shares;
  uint64_t warm_used, cold_used;
  uint8_t dead[STAGE_WARM / 64];
  char warm[STAGE_WARM] __attribute__((aligned(4096)));
} stage;

static char stage_cold[STAGE_COLD] __attribute__((aligned(4096)));
static char stage_stacks[STAGE_STACKS][STAGE_STACK] __attribute__((aligned(4096)));
static struct {
  struct stage stage;
  uint64_t size;
  uint32_t stacks;
  char live[STAGE_STACKS][STAGE_LIVE];
} stage_saved;
static const uint32_t stage_alive = 1;

struct stage_facts *stage_facts(void)
{
  return &stage.facts;
}

/* ---- memory: never used twice in a run, so that a late access to what was freed is seen */

static void *stage_get(void *arg, size_t size)
{
  (void)arg;
  bool large = size >= STAGE_LARGE;
  uint64_t *used = large ? &stage.cold_used : &stage.warm_used;
  uint64_t at = *used, whole = (size + 63) / 64 * 64;
  CHI_ASSERT(at + whole <= (large ? STAGE_COLD : STAGE_WARM));
  *used += whole;
  return (large ? stage_cold : stage.warm) + at;
}

static bool stage_is_warm(const void *p)
{
  return (uintptr_t)p - (uintptr_t)stage.warm < STAGE_WARM;
}

static void stage_put(void *arg, void *p, size_t size)
{
  (void)arg;
  if (!stage_is_warm(p))
    return;
  memset(p, 0xdd, size);
  memset(stage.dead + ((char *)p - stage.warm) / 64, 1, (size + 63) / 64);
}

bool stage_dead(const void *p)
{
  return stage_is_warm(p) && stage.dead[((const char *)p - stage.warm) / 64];
}

/* ---- the environment */

static uint64_t stage_clock(struct env *env)
{
  (void)env;
  return stage.facts.now;
}

static uint64_t stage_random(struct env *env)
{
  (void)env;
  return 4;
}

static void stage_log(struct env *env, int level, const char *line)
{
  (void)env;
  if (getenv("STAGE_LOG"))
    fprintf(stderr, "    log %d: %s\n", level, line);
}

static int stage_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  (void)env;
  CHI_ASSERT(size <= STAGE_STACK && stage.stacks < STAGE_STACKS);
  *out = (struct env_stack){stage_stacks[stage.stacks++], STAGE_STACK};
  return CHI_OK;
}

static void stage_stack_close(struct env *env, struct env_stack *stack)
{
  (void)env, (void)stack;
}

static int stage_segment_open(struct env *env, const char *name, uint64_t size, int access,
                              struct env_segment *out)
{
  (void)env, (void)name, (void)access;
  int64_t n = 0;
  while (stage.segment[n].base)
    CHI_ASSERT(++n < STAGE_SEGMENTS);
  void *base = stage_get(NULL, size);
  if (size < STAGE_LARGE)
    memset(base, 0, size);
  stage.segment[n] = (struct stage_segment){base, size, true, 0};
  *out = (struct env_segment){base, size, n};
  return CHI_OK;
}

static void stage_segment_close(struct env *env, struct env_segment *segment)
{
  struct stage_segment *s = &stage.segment[segment->handle];
  EXPLORE_CALL(s);
  if (env == &stage.client_env) {
    CHI_ASSERT(s->others > 0);
    s->others--;
  } else {
    CHI_ASSERT(s->daemon);
    s->daemon = false;
  }
  if (!s->daemon && s->others == 0)
    stage_put(NULL, s->base, s->size);
}

static void stage_segment_discard(struct env *env, struct env_segment *segment)
{
  (void)env, (void)segment;
}

static int stage_segment_restore(struct env *env, struct env_segment *segment)
{
  (void)env, (void)segment;
  return CHI_OK;
}

static int stage_bell_open(struct env *env, env_bell *out)
{
  (void)env;
  env_bell n = 0;
  while (stage.bell_open[n])
    CHI_ASSERT(++n < (env_bell)STAGE_BELLS);
  stage.bell_open[n] = true;
  *out = n;
  return CHI_OK;
}

static void stage_bell_close(struct env *env, env_bell bell)
{
  EXPLORE_CALL(&stage.bell[bell]);
  if (env == &stage.client_env)
    return; /* a descriptor of its own */
  if (!stage.bell_open[bell])
    explore_fail("a bell was closed twice");
  stage.bell_open[bell] = false;
}

static void stage_bell_ring(struct env *env, env_bell bell)
{
  if (env != &stage.client_env && !stage.bell_open[bell])
    explore_fail("a bell was rung that is closed");
  explore_ring(&stage.bell[bell]);
}

static void stage_relax(struct env *env)
{
  (void)env;
}

static int stage_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  (void)env, (void)worker;
  io->result = CHI_ENOTSUP;
  return 1;
}

static struct env_io *stage_io_reap(struct env *env, uint32_t worker)
{
  (void)env, (void)worker;
  return NULL;
}

/* ---- the link */

static int stage_link_reply(struct env *env, env_link link, const void *message, size_t size,
                            const struct env_share *shares, uint32_t count)
{
  (void)env, (void)link;
  CHI_ASSERT(size == sizeof stage.reply && !stage.answered);
  EXPLORE_CALL(&stage.answered);
  memcpy(&stage.reply, message, size);
  for (uint32_t i = 0; i < count; i++) {
    stage.share[i] = shares[i];
    if (shares[i].kind != ENV_SHARE_BELL)
      stage.segment[shares[i].segment.handle].others++;
  }
  stage.shares = count;
  stage.answered = true;
  return CHI_OK;
}

static void stage_link_close(struct env *env, env_link link)
{
  (void)env, (void)link;
  EXPLORE_CALL(&stage.facts.hangup);
  stage.facts.hangup = 1;
}

static int stage_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  (void)env, (void)instance, (void)err;
  static const struct env_peer peer = {1, 1};
  *out = STAGE_LINK;
  runtime_on_connect(stage.facts.runtime, STAGE_LINK, &peer);
  return CHI_OK;
}

static bool stage_is_answered(void *arg)
{
  (void)arg;
  return stage.answered || stage.facts.hangup;
}

static int stage_link_call(struct env *env, env_link link, const void *request,
                           size_t request_size, void *reply, size_t *size,
                           struct env_share *shares, uint32_t *count)
{
  (void)env;
  CHI_ASSERT(request_size == sizeof stage.request);
  if (explore_running()) {
    EXPLORE_CALL(&stage.asked);
    memcpy(&stage.request, request, request_size);
    stage.asked = true;
    stage.wake[STAGE_NETWORK] = 1;
    explore_wait(stage_is_answered, NULL);
    if (!stage.answered)
      return CHI_ESHUTDOWN;
  } else {
    runtime_on_request(stage.facts.runtime, link, request, request_size);
  }
  stage.answered = false;
  memcpy(reply, &stage.reply, sizeof stage.reply);
  *size = sizeof stage.reply;
  CHI_ASSERT(stage.shares <= *count || stage.shares == 0);
  memcpy(shares, stage.share, stage.shares * sizeof stage.share[0]);
  *count = stage.shares;
  return CHI_OK;
}

static bool stage_link_owes(struct env *env, env_link link)
{
  (void)env, (void)link;
  return false;
}

static void stage_pump(void);

static int stage_link_wait(struct env *env, env_link link, env_bell bell, uint64_t deadline)
{
  (void)env, (void)link;
  struct explore_bell *b = &stage.bell[bell];
  if (!explore_running()) {
    if (!stage.set)
      stage_pump();
    b->rung = 0;
    return CHI_OK;
  }
  if (deadline == UINT64_MAX) {
    explore_park(b, &stage.facts.hangup);
  } else {
    EXPLORE_CALL(b);
    b->rung = 0;
  }
  return stage.facts.hangup ? CHI_ESHUTDOWN : CHI_OK;
}

static void stage_link_shut(struct env *env, env_link link)
{
  (void)env, (void)link;
  EXPLORE_CALL(&stage.hung);
  stage.hung = stage.wake[STAGE_NETWORK] = 1;
}

static const struct env stage_env = {
    .version = ENV_VERSION,
    .alloc = {stage_get, stage_put, NULL},
    .clock = stage_clock,
    .random = stage_random,
    .log = stage_log,
    .stack_open = stage_stack_open,
    .stack_close = stage_stack_close,
    .segment_open = stage_segment_open,
    .segment_close = stage_segment_close,
    .segment_discard = stage_segment_discard,
    .segment_restore = stage_segment_restore,
    .bell_open = stage_bell_open,
    .bell_close = stage_bell_close,
    .bell_ring = stage_bell_ring,
    .link_reply = stage_link_reply,
    .link_close = stage_link_close,
    .link_open = stage_link_open,
    .link_call = stage_link_call,
    .link_owes = stage_link_owes,
    .link_wait = stage_link_wait,
    .link_shut = stage_link_shut,
    .relax = stage_relax,
    .io_submit = stage_io_submit,
    .io_reap = stage_io_reap,
    .alive = &stage_alive,
};

/* ---- the module */

struct stage_state {
  chi_event event;
  chi_mutex mutex;
  uint32_t inside;
};

static bool stage_is_released(void *arg)
{
  (void)arg;
  return stage.facts.released;
}

static int stage_lock_run(chi_ctx *ctx, struct stage_state *self)
{
  int rc = chi_mutex_lock(ctx, &self->mutex, 0);
  if (rc != CHI_OK)
    return rc;
  if (self->inside++ != 0)
    explore_fail("two are inside the mutex");
  rc = chi_yield(ctx);
  self->inside--;
  chi_mutex_unlock(ctx, &self->mutex);
  return rc;
}

static int stage_do_run(chi_ctx *ctx, struct stage_state *self, struct stage_do *t)
{
  stage.crew = ctx->worker->crew;
  t->runs = ++stage.facts.runs;
  switch (t->what) {
  case STAGE_STICK:
    if (explore_running())
      explore_wait(stage_is_released, NULL);
    return CHI_OK;
  case STAGE_AWAIT:
    return chi_event_wait(ctx, &self->event, 0);
  case STAGE_SET:
    chi_event_set(ctx, &self->event);
    return CHI_OK;
  case STAGE_LOCK:
    return stage_lock_run(ctx, self);
  default:
    return CHI_OK;
  }
}

#define STAGE_METHODS(M, S) M(S, stage_do)
CHI_METHODS(stage_state, STAGE_METHODS)

static const chi_module stage_module = {.version = CHI_MODULE_VERSION,
                                        .name = "stage",
                                        .state_size = sizeof(struct stage_state),
                                        .methods = stage_state_methods};
static const chi_module stage_parallel = {.version = CHI_MODULE_VERSION,
                                          .flags = CHI_MODULE_PARALLEL,
                                          .name = "stage_parallel",
                                          .state_size = sizeof(struct stage_state),
                                          .methods = stage_state_methods};

/* ---- setting up, in one thread */

static bool stage_step(uint32_t w)
{
  return runtime_step(stage.facts.runtime, w, stage.facts.now, STAGE_BUDGET, &stage.deadline[w]);
}

/* Until nobody has anything to do. */
static void stage_pump(void)
{
  struct runtime *rt = stage.facts.runtime;
  bool any = true;
  for (uint32_t w = 0; w < STAGE_WORKERS; w++)
    runtime_awake(rt, w);
  while (any) {
    any = false;
    for (uint32_t w = 0; w < STAGE_WORKERS; w++)
      any = stage_step(w) || any || runtime_has_work(rt, w);
  }
}

/* To where all workers sleep and the network worker doesn't look after the others. */
static bool stage_settle(void)
{
  struct runtime *rt = stage.facts.runtime;
  bool quiet = true;
  stage_pump();
  for (uint32_t w = 0; w < STAGE_WORKERS; w++)
    quiet = runtime_may_sleep(rt, w) && quiet;
  for (int i = 0; i < 3; i++) {
    stage.facts.now += 300 * STAGE_MS;
    runtime_awake(rt, STAGE_NETWORK);
    while (stage_step(STAGE_NETWORK))
      ;
    quiet = runtime_may_sleep(rt, STAGE_NETWORK) && quiet;
  }
  memset(stage.bell, 0, sizeof stage.bell);
  memset(stage.wake, 0, sizeof stage.wake);
  return quiet && stage.deadline[STAGE_NETWORK] == UINT64_MAX;
}

static int stage_pools(chi_config *config)
{
  chi_compose_entry *entry;
  int rc = chi_config_add_pool(config, "stage", "stage", "local", 300, 0, &entry);
  return rc ? rc : chi_config_add_pool(config, "stage_parallel", "parallel", "local", 301, 0,
                                       &entry);
}

static int stage_node(chi_error *err)
{
  static const chi_module *const modules[] = {&stage_module, &stage_parallel};
  chi_config config;
  chi_config_init(&config);
  config.sched_threads = 2;
  config.slow_threads = 1;
  config.queue_depth = 4;
  config.spin_window_ns = 0;
  config.stack_size = STAGE_STACK;
  config.main_segment_size = config.client_data_segment_size = 8u << 20;
  int rc = stage_pools(&config);
  struct runtime_options options = {
      .config = &config, .instance = "stage:1", .modules = modules, .module_count = 2};
  if (rc == CHI_OK)
    rc = runtime_open(&stage.env, &options, &stage.facts.runtime, err);
  if (rc == CHI_OK)
    stage_pump();
  chi_config_free(&config);
  return rc;
}

/* Each queue runs a task of each kind: memory is leased, fibers are at hand, costs are learned. */
static int stage_client_open(uint32_t queues, chi_error *err)
{
  struct stage_facts *f = &stage.facts;
  int rc = client_open(&stage.client_env, NULL, "stage:1", &f->client, err);
  for (uint32_t q = 0; q < queues && rc == CHI_OK; q++) {
    rc = chi_queue_open(f->client, &f->queue[q], err);
    for (uint32_t pool = 300; rc == CHI_OK && pool <= 301; pool++) {
      struct stage_do *t = stage_task(q, (chi_pool_id){pool, 0}, STAGE_NOTHING);
      rc = t ? chi_run(f->queue[q], t) : CHI_ENOMEM;
      chi_task_free(f->queue[q], t);
    }
    for (uint32_t w = 0; w < STAGE_SLOW && rc == CHI_OK; w++)
      for (uint32_t i = 0; i < stage.crew->worker[w].lane_count; i++)
        if (stage.crew->worker[w].lane[i]->queue->id == f->queue[q]->id)
          stage.lane[q] = stage.crew->worker[w].lane[i];
  }
  return rc;
}

static void stage_save(void)
{
  stage.set = true;
  stage.facts.runs = 0;
  stage_saved.size = offsetof(struct stage, warm) + stage.warm_used;
  stage_saved.stacks = stage.stacks;
  memcpy(&stage_saved.stage, &stage, stage_saved.size);
  for (uint32_t i = 0; i < stage.stacks; i++)
    memcpy(stage_saved.live[i], stage_stacks[i] + STAGE_STACK - STAGE_LIVE, STAGE_LIVE);
}

bool stage_open(uint32_t queues, void (*more)(void))
{
  chi_error err = {0};
  memset(&stage, 0, sizeof stage);
  stage.env = stage.client_env = stage_env;
  stage.facts.now = 1000 * STAGE_MS;
  int rc = stage_node(&err);
  if (rc == CHI_OK)
    rc = stage_client_open(queues, &err);
  if (rc == CHI_OK && more)
    more();
  if (rc != CHI_OK || !stage_settle()) {
    test_fail(__FILE__, __LINE__, "the stage is not set: %d %s", rc, err.text);
    return false;
  }
  stage_save();
  return true;
}

void stage_begin(void *world)
{
  (void)world;
  memcpy(&stage, &stage_saved.stage, stage_saved.size);
  for (uint32_t i = 0; i < stage_saved.stacks; i++)
    memcpy(stage_stacks[i] + STAGE_STACK - STAGE_LIVE, stage_saved.live[i], STAGE_LIVE);
}

void stage_killed(void *world, uint32_t group)
{
  (void)world;
  if (group == STAGE_DAEMON)
    stage.facts.hangup = 1;
  else
    stage.hung = stage.wake[STAGE_NETWORK] = 1;
}

/* ---- parties */

static void stage_upcalls(void)
{
  struct runtime *rt = stage.facts.runtime;
  EXPLORE_CALL(&stage.asked);
  if (stage.asked) {
    stage.asked = false;
    struct attach_request request = stage.request;
    runtime_on_request(rt, STAGE_LINK, &request, sizeof request);
  }
  if (stage.hung && !stage.hung_told) {
    stage.hung_told = 1;
    runtime_on_hangup(rt, STAGE_LINK);
  }
}

/* As real_thread_work, without the spin. A worker that may not sleep and has nothing to do, such as
 * one whose lane is latched by another at the moment, tries again. */
static void stage_work(uint32_t w)
{
  struct runtime *rt = stage.facts.runtime;
  for (;;) {
    explore_park(&stage.bell[runtime_worker_bell(rt, w)], &stage.wake[w]);
    for (uint32_t tries = 0; tries == 0 || !runtime_may_sleep(rt, w); tries++) {
      if (tries > 1)
        explore_yield();
      stage.wake[w] = 0;
      runtime_awake(rt, w);
      do
        if (w == STAGE_NETWORK)
          stage_upcalls();
      while (stage_step(w));
      if (runtime_state(rt) == RUNTIME_STOPPED && w == STAGE_NETWORK)
        return;
    }
  }
}

void stage_fast(void *world)
{
  (void)world;
  stage_work(STAGE_FAST);
}

void stage_fast_2(void *world)
{
  (void)world;
  stage_work(STAGE_FAST_2);
}

void stage_slow(void *world)
{
  (void)world;
  stage_work(STAGE_SLOW);
}

void stage_network(void *world)
{
  (void)world;
  stage_work(STAGE_NETWORK);
}

struct stage_do *stage_task(uint32_t queue, chi_pool_id pool, enum stage_what what)
{
  struct stage_do *t = CHI_NEW(stage.facts.queue[queue], stage_do);
  if (!t && !stage.facts.hangup)
    explore_fail("no memory for a task");
  if (!t)
    return NULL;
  t->task.pool = pool;
  t->what = (uint32_t)what;
  return t;
}

void stage_stop(void)
{
  runtime_stop(stage.facts.runtime, 30 * STAGE_MS);
  stage.wake[STAGE_NETWORK] = 1;
}

void stage_release(void)
{
  EXPLORE_CALL(&stage.facts.released);
  stage.facts.released = 1;
}

void stage_tick(uint64_t ns)
{
  EXPLORE_CALL(&stage.facts.now);
  stage.facts.now += ns;
  for (uint32_t w = 0; w < STAGE_WORKERS; w++)
    if (stage.deadline[w] <= stage.facts.now)
      stage.wake[w] = 1;
}

void stage_quiet(void)
{
  explore_wait(explore_others_rest, NULL);
}

void stage_park_client(uint32_t queue)
{
  explore_park(&stage.bell[stage.facts.queue[queue]->bell], &stage.facts.hangup);
}

void stage_watch(void)
{
  struct runtime *rt = stage.facts.runtime;
  runtime_awake(rt, STAGE_FAST);
  runtime_awake(rt, STAGE_NETWORK);
  bool asleep = !stage_step(STAGE_NETWORK);
  asleep = runtime_may_sleep(rt, STAGE_FAST) && asleep;
  asleep = runtime_may_sleep(rt, STAGE_NETWORK) && asleep;
  CHI_ASSERT(asleep && stage.deadline[STAGE_NETWORK] != UINT64_MAX);
  memset(stage.bell, 0, sizeof stage.bell);
}

void stage_rehome(uint32_t queue, uint32_t worker)
{
  worker_home(&stage.crew->worker[STAGE_NETWORK], stage.lane[queue], worker);
}

bool stage_is_awake(uint32_t worker)
{
  return stage.crew->worker[worker].awake;
}

uint64_t stage_deadline(uint32_t worker)
{
  return stage.deadline[worker];
}

uint32_t stage_daemon_segments(void)
{
  uint32_t n = 0;
  for (uint32_t i = 0; i < STAGE_SEGMENTS; i++)
    n += stage.segment[i].daemon;
  return n;
}

void stage_check_idle(void)
{
  uint64_t accepted = 0, ended = 0;
  for (uint32_t w = 0; w < STAGE_WORKERS; w++) {
    accepted += stage.crew->worker[w].accepted;
    ended += stage.crew->worker[w].ended;
  }
  EXPLORE_CHECK(accepted == ended);
}
