/* test_sim_replay.c - a node that is stepped by hand, with a client, recorded and replayed. */
#include "sim_replay.h"

#include "attach.h"
#include "lane.h"
#include "reel.h"
#include "shm.h"
#include "sim_party.h"
#include "test.h"

#include <stdio.h>

#define LINK 77
#define ROUNDS 2000

/* ---- a module whose actions depend on what it draws */

#define WHIM_ROLL(X, T) X(T, IN, u64, sides) X(T, OUT, u64, roll) X(T, OUT, str, said, 32)
CHI_TASK(whim_roll, 10, WHIM_ROLL)

struct whim {
  uint64_t rolls;
};

static uint64_t whim_more; /* what the same module does otherwise */

static int whim_create(chi_ctx *ctx, void *self, const void *params)
{
  (void)self, (void)params;
  uint64_t n = chi_random(ctx) % 4 + 1;
  int rc = CHI_OK;
  for (uint64_t i = 0; i < n && rc == CHI_OK; i++)
    rc = chi_sleep(ctx, 1000000 + chi_random(ctx) % 1000000);
  chi_log(ctx, CHI_LOG_INFO, "slept %llu times", (unsigned long long)n);
  return rc;
}

static int whim_roll_run(chi_ctx *ctx, struct whim *self, struct whim_roll *t)
{
  void *cup = chi_alloc(ctx, 100);
  if (!cup)
    return CHI_ENOMEM;
  chi_free(ctx, cup, 100);
  t->roll = chi_random(ctx) % t->sides + whim_more;
  snprintf(t->said, sizeof(t->said), "roll %llu", (unsigned long long)++self->rolls);
  return chi_sleep(ctx, 1000 * t->roll);
}

#define WHIM_METHODS(M, S) M(S, whim_roll)
CHI_METHODS(whim, WHIM_METHODS)

static const chi_module whim_module = {.version = CHI_MODULE_VERSION,
                                       .name = "whim",
                                       .state_size = sizeof(struct whim),
                                       .methods = whim_methods,
                                       .create = whim_create};
static const chi_module *const whim_modules[] = {&whim_module};

/* ---- a node, and what is around it */

struct desk {
  struct sim_party party; /* first: the environment below it is found by it */
  struct sim_world world;
  struct record *record;
  struct runtime *runtime;
  chi_config config;
  struct reel reel;
  struct attach_reply reply;
  struct env_share share[ENV_SHARES_MAX];
  struct env_segment chunk;
  struct lane_out lane;
  struct lane_done_out done;
  uint32_t rings;
};

static struct desk *desk_of(struct env *env)
{
  return CHI_CONTAINER_OF(sim_party_of(env), struct desk, party);
}

static void desk_log(struct env *env, int level, const char *line)
{
  (void)env, (void)level, (void)line;
}

static void desk_ring(struct env *env, env_bell bell)
{
  (void)bell;
  desk_of(env)->rings++;
}

static int desk_link_reply(struct env *env, env_link link, const void *message, size_t size,
                           const struct env_share *shares, uint32_t count)
{
  struct desk *d = desk_of(env);
  if (link != LINK || size != sizeof(d->reply))
    return CHI_ESHUTDOWN;
  memcpy(&d->reply, message, size);
  for (uint32_t i = 0; i < count; i++)
    d->share[i] = shares[i];
  return CHI_OK;
}

static void desk_link_close(struct env *env, env_link link)
{
  (void)env, (void)link;
}

static bool desk_open(struct desk *d)
{
  struct env *env = &d->party.env;
  struct tape_store store;
  chi_compose_entry *pool;
  memset(d, 0, sizeof(*d));
  sim_world_init(&d->world, 5);
  sim_party_init(&d->party, &d->world, 0, 0);
  env->log = desk_log;
  env->bell_ring = desk_ring;
  env->link_reply = desk_link_reply;
  env->link_close = desk_link_close;
  chi_config_init(&d->config);
  d->config.sched_threads = d->config.slow_threads = 1;
  d->config.log_level = CHI_LOG_DEBUG;
  snprintf(d->config.main_segment_name, CHI_NAME_MAX, "m");
  snprintf(d->config.client_data_segment_name, CHI_NAME_MAX, "c");
  snprintf(d->config.runtime_data_segment_name, CHI_NAME_MAX, "r");
  if (chi_config_add_pool(&d->config, "whim", "dice", "local", 500, 0, &pool) != CHI_OK ||
      record_open(env, &d->record) != CHI_OK)
    return false;
  const struct runtime_options options = {
      .config = &d->config, .instance = "desk:1", .modules = whim_modules, .module_count = 1};
  store = reel_store(&d->reel);
  if (record_write(d->record, &store, &options) != CHI_OK)
    return false;
  int rc = runtime_open(record_env(d->record), &options, &d->runtime, NULL);
  record_opened(d->record, rc);
  return rc == CHI_OK;
}

static void desk_close(struct desk *d)
{
  sim_party_fini(&d->party);
  sim_world_fini(&d->world);
  chi_config_free(&d->config);
  reel_free(&d->reel);
}

/* All workers have their turn, and some time passes. */
static void desk_round(struct desk *d)
{
  uint64_t deadline;
  for (uint32_t i = 0; i < runtime_worker_count(d->runtime); i++) {
    record_exchange(d->record);
    record_step(d->record, d->runtime, i, d->world.now, 4, &deadline);
  }
  record_exchange(d->record);
  for (uint32_t i = 0; i < runtime_worker_count(d->runtime); i++) {
    record_may_sleep(d->record, d->runtime, i);
    record_awake(d->record, d->runtime, i);
  }
  d->world.now += 300000;
}

static bool desk_reach(struct desk *d, enum runtime_state state)
{
  for (int i = 0; i < ROUNDS && runtime_state(d->runtime) != state; i++)
    desk_round(d);
  return runtime_state(d->runtime) == state;
}

static int desk_ask(struct desk *d, enum attach_op op, uint32_t kind, uint64_t size)
{
  const struct attach_request ask = {
      .version = ATTACH_VERSION, .op = (uint32_t)op, .kind = kind, .size = size};
  d->reply.rc = CHI_EIO;
  record_on_request(d->record, d->runtime, LINK, &ask, sizeof(ask));
  return d->reply.rc;
}

/* A client attaches: a chunk and a queue. */
static bool desk_attach(struct desk *d)
{
  const struct env_peer peer = {1, 2};
  record_on_connect(d->record, d->runtime, LINK, &peer);
  if (desk_ask(d, ATTACH_HELLO, 0, 0) != CHI_OK ||
      desk_ask(d, ATTACH_LEASE, SHM_MAIN, SHM_CHUNK_SIZE) != CHI_OK)
    return false;
  d->chunk = d->share[0].segment;
  if (desk_ask(d, ATTACH_QUEUE, 0, 0) != CHI_OK)
    return false;
  lane_out_init(&d->lane, d->share[0].segment.base, d->share[1].segment.base, LANE_FAST);
  lane_done_out_init(&d->done, d->share[1].segment.base, d->reply.depth);
  return true;
}

static struct whim_roll *desk_task(struct desk *d, uint32_t slot)
{
  return (void *)((char *)d->chunk.base + 4096 + slot * 256);
}

/* Submits a task, sleeps as a client does, and waits for its end; the code. */
static int desk_roll(struct desk *d, uint32_t slot, uint64_t sides)
{
  struct whim_roll *t = desk_task(d, slot);
  struct lane_done done;
  memset(t, 0, sizeof(*t));
  t->task.pool = (chi_pool_id){500, 0};
  t->task.method = whim_roll_type.id;
  t->task.query.mode = CHI_QUERY_LOCAL;
  t->sides = sides;
  if (!lane_put(&d->lane, LANE_RUN, shm_ref(0, 4096 + slot * 256), slot))
    return CHI_EBUSY;
  for (int i = 0; i < ROUNDS; i++) {
    if (lane_done_pop(&d->done, &done))
      return done.slot == slot ? done.rc : CHI_EIO;
    desk_round(d);
  }
  return CHI_ETIMEOUT;
}

/* A whole life: it serves a client, which goes, and stops. */
static bool desk_live(struct desk *d)
{
  if (!desk_reach(d, RUNTIME_SERVING) || !desk_attach(d))
    return false;
  for (uint32_t i = 0; i < 20; i++)
    if (desk_roll(d, i, 6) != CHI_OK || desk_task(d, i)->roll >= 6)
      return false;
  record_on_hangup(d->record, d->runtime, LINK);
  record_stop(d->record, d->runtime, 1000000000);
  return desk_reach(d, RUNTIME_STOPPED) && record_finish(d->record, d->runtime) == CHI_OK;
}

static void desk_replay(struct desk *d, uint32_t modules, struct sim_replay_report *report)
{
  const struct sim_replay_options options = {
      .store = reel_store(&d->reel), .modules = whim_modules, .module_count = modules};
  sim_replay_run(&options, report);
}

TEST(replay_reaches_the_same_hash)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_live(&d));
  const struct tape *tape = record_tape(d.record);
  uint64_t hash = hash_stream_finish(&tape->hash), items = tape->items;
  desk_replay(&d, 1, &report);
  CHECK_STR(report.why.text, "");
  CHECK_INT(report.end, TAPE_COMPLETE);
  CHECK(report.hash == hash && report.items == items && items > 500);
  CHECK_STR(report.instance, "desk:1");
  desk_close(&d);
}

/* A client is rung when something of its own has ended and it sleeps, and then only. */
TEST(recorded_node_wakes_its_clients)
{
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_reach(&d, RUNTIME_SERVING) && desk_attach(&d));
  struct lane_desk *mine = d.share[0].segment.base;
  d.rings = 0;
  CHECK_INT(desk_roll(&d, 0, 3), CHI_OK);
  CHECK_INT(d.rings, 0);
  bell_announce(&mine->client);
  CHECK_INT(desk_roll(&d, 1, 3), CHI_OK);
  CHECK(d.rings > 0);
  desk_close(&d);
}

TEST(replay_tells_what_a_changed_module_does)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_live(&d));
  whim_more = 1;
  desk_replay(&d, 1, &report);
  whim_more = 0;
  CHECK_INT(report.end, TAPE_DIFFERS);
  CHECK(strstr(report.why.text, "recorded was {") && strstr(report.why.text, "now comes {"));
  desk_replay(&d, 0, &report);
  CHECK_INT(report.end, TAPE_FOREIGN);
  CHECK(strstr(report.why.text, "whim"));
  desk_close(&d);
}

/* Wherever a record ends, the node is left where it is, and nothing of it stays. */
TEST(replay_of_what_is_left_of_a_record)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_reach(&d, RUNTIME_SERVING) && desk_attach(&d));
  for (uint32_t i = 0; i < 5; i++) {
    CHECK_INT(desk_roll(&d, i, 6), CHI_OK);
    record_flush(d.record);
  }
  size_t size = d.reel.size;
  for (size_t n = 13; n < size; n += 97) {
    d.reel.size = n;
    desk_replay(&d, 1, &report);
    CHECK(report.end == TAPE_CUT || report.end == TAPE_FOREIGN);
  }
  d.reel.size = size;
  desk_replay(&d, 1, &report);
  CHECK_INT(report.end, TAPE_CUT);
  CHECK_INT(report.items, record_tape(d.record)->items);
  desk_close(&d);
}

/* Changes a byte of the block that it is in the content of, with a checksum that fits. */
static bool desk_forge(struct desk *d, size_t place, unsigned char change)
{
  unsigned char *p = d->reel.data;
  size_t at = 12, size = 0;
  for (; at + 20 <= d->reel.size; at += 20 + size) {
    size = p[at + 8] | (size_t)p[at + 9] << 8 | (size_t)p[at + 10] << 16;
    if (place >= at + 20 && place < at + 20 + size)
      break;
  }
  if (at + 20 > d->reel.size)
    return false;
  p[place] ^= change;
  uint32_t content = hash_crc32c(0, p + at + 20, size);
  for (int i = 0; i < 4; i++)
    p[at + 12 + (size_t)i] = (unsigned char)(content >> 8 * i);
  uint32_t head = hash_crc32c(0, p + at, 16);
  for (int i = 0; i < 4; i++)
    p[at + 16 + (size_t)i] = (unsigned char)(head >> 8 * i);
  return true;
}

TEST(replay_believes_no_forged_record)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_live(&d));
  uint32_t forged = 0;
  for (size_t n = 32; n < d.reel.size; n += 61) {
    unsigned char change = (unsigned char)(1u << n % 8);
    if (!desk_forge(&d, n, change))
      continue;
    desk_replay(&d, 1, &report);
    CHECK(report.end != TAPE_COMPLETE && report.why.text[0]);
    CHECK(desk_forge(&d, n, change));
    forged++;
  }
  CHECK(forged > 100);
  desk_replay(&d, 1, &report);
  CHECK_INT(report.end, TAPE_COMPLETE);
  desk_close(&d);
}

/* Memory that is refused is an input, wherever that was: to the node or to who records it. */
TEST(replay_refuses_the_memory_that_was_refused)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  CHECK(desk_reach(&d, RUNTIME_SERVING) && desk_attach(&d));
  sim_fault_memory(&d.world.fault, SIM_FAULT_ALLOC | SIM_FAULT_STACK, 0, 200000);
  uint32_t refused = 0;
  for (uint32_t i = 0; i < 200; i++) {
    int rc = desk_roll(&d, i % 50, 6);
    CHECK(rc == CHI_OK || rc == CHI_ENOMEM || rc == CHI_EBUSY);
    refused += rc == CHI_ENOMEM;
  }
  sim_fault_clear(&d.world.fault);
  CHECK(refused > 10 && refused < 100);
  record_on_hangup(d.record, d.runtime, LINK);
  record_stop(d.record, d.runtime, 1000000000);
  CHECK(desk_reach(&d, RUNTIME_STOPPED));
  CHECK_INT(record_finish(d.record, d.runtime), CHI_OK);
  desk_replay(&d, 1, &report);
  CHECK_STR(report.why.text, "");
  CHECK_INT(report.end, TAPE_COMPLETE);
  desk_close(&d);
}

TEST(node_goes_on_when_its_record_cannot_be_written)
{
  struct sim_replay_report report;
  static struct desk d;
  CHECK(desk_open(&d));
  record_flush(d.record);
  d.reel.refuse = d.reel.size + 3000;
  CHECK(desk_reach(&d, RUNTIME_SERVING) && desk_attach(&d));
  for (uint32_t i = 0; i < 5; i++) {
    CHECK_INT(desk_roll(&d, i, 6), CHI_OK);
    record_flush(d.record);
  }
  record_on_hangup(d.record, d.runtime, LINK);
  record_stop(d.record, d.runtime, 1000000000);
  CHECK(desk_reach(&d, RUNTIME_STOPPED));
  CHECK_INT(record_finish(d.record, d.runtime), CHI_ENOSPC);
  desk_replay(&d, 1, &report);
  CHECK_INT(report.end, TAPE_CUT);
  desk_close(&d);
}
