/* test_sim_env.c - the parts of the simulated environment, without a runtime. */
#include "sim_io.h"
#include "sim_link.h"
#include "test.h"

#include <stdlib.h>

static bool run_all(struct sim_world *world)
{
  for (int i = 0; i < 100000; i++)
    if (!sim_world_next(world, SIM_WORLD_NEVER))
      return true;
  return false;
}

/* ---- time and threads --------------------------------------------------------------------- */

struct note {
  struct sim_world_event event;
  struct sim_world *world;
  char *log;
  char name;
};

static void note_run(struct sim_world_event *event)
{
  struct note *note = (struct note *)(void *)event;
  size_t end = strlen(note->log);
  note->log[end] = note->name;
}

TEST(sim_world_runs_events_in_order_of_time)
{
  struct sim_world world;
  char log[8] = {0};
  struct note notes[3];
  sim_world_init(&world, 1);
  CHECK_INT(world.now, SIM_WORLD_START);
  for (int i = 0; i < 3; i++) {
    notes[i] = (struct note){{{0, 0, 0}, note_run}, &world, log, (char)('a' + i)};
    sim_world_at(&world, &notes[i].event, world.now + (uint64_t)(30 - 10 * i));
  }
  sim_world_at(&world, &notes[0].event, world.now + 5);
  sim_world_cancel(&world, &notes[1].event);
  CHECK(sim_world_next(&world, world.now + 7));
  CHECK(!sim_world_next(&world, world.now + 3));
  CHECK_INT(world.now, SIM_WORLD_START + 8);
  CHECK(run_all(&world));
  CHECK_INT(world.now, SIM_WORLD_START + 10);
  CHECK_STR(log, "ac");
  sim_world_fini(&world);
}

/* Simultaneous events come in an order that differs between seeds and not between runs. */
TEST(sim_world_draws_the_order_of_simultaneous_events)
{
  char first[8] = {0};
  int other = 0;
  for (uint64_t seed = 0; seed < 20; seed++) {
    char log[2][8] = {{0}, {0}};
    for (int round = 0; round < 2; round++) {
      struct sim_world world;
      struct note notes[4];
      sim_world_init(&world, seed);
      for (int i = 0; i < 4; i++) {
        notes[i] = (struct note){{{0, 0, 0}, note_run}, &world, log[round], (char)('a' + i)};
        sim_world_at(&world, &notes[i].event, world.now);
      }
      CHECK(run_all(&world));
      sim_world_fini(&world);
    }
    CHECK_STR(log[0], log[1]);
    if (seed == 0)
      memcpy(first, log[0], sizeof(first));
    other += strcmp(first, log[0]) != 0;
  }
  CHECK(other > 10);
}

struct sleeper {
  struct sim_thread thread;
  struct sim_world *world;
  uint64_t woke[2];
};

static void sleeper_main(void *arg)
{
  struct sleeper *s = arg;
  sim_thread_sleep(s->world, s->world->now + 100);
  s->woke[0] = s->world->now;
  sim_thread_park(s->world, s->world->now + 100);
  s->woke[1] = s->world->now;
}

TEST(sim_thread_sleeps_and_parks)
{
  struct sim_world world;
  struct sleeper s = {.world = &world};
  sim_world_init(&world, 1);
  sim_thread_start(&world, &s.thread, 0, sleeper_main, &s);
  CHECK(sim_world_next(&world, world.now));
  sim_thread_wake(&s.thread, world.now + 1); /* it sleeps: nothing may wake it */
  CHECK(sim_world_next(&world, SIM_WORLD_NEVER));
  CHECK_INT(s.woke[0], SIM_WORLD_START + 100);
  sim_thread_wake(&s.thread, world.now + 20);
  sim_thread_wake(&s.thread, world.now + 30);
  CHECK(run_all(&world));
  CHECK_INT(s.woke[1], SIM_WORLD_START + 120);
  CHECK(s.thread.done);
  sim_thread_end(&s.thread);
  sim_world_fini(&world);
}

/* A thread whose code runs on a fiber of its own when time passes, as a worker's methods do. */
struct nested {
  struct sim_thread thread;
  struct sim_world *world;
  struct fiber host, inner;
  uint64_t woke;
  bool back;
};

static void nested_inner(void *arg)
{
  struct nested *n = arg;
  sim_thread_sleep(n->world, n->world->now + 50);
  n->woke = n->world->now;
  fiber_switch(&n->inner, &n->host);
}

static void nested_main(void *arg)
{
  struct nested *n = arg;
  void *stack = sim_thread_stack_open(65536);
  fiber_init_host(&n->host);
  fiber_init(&n->inner, stack, 65536, nested_inner, n);
  fiber_switch(&n->host, &n->inner);
  fiber_fini(&n->inner);
  sim_thread_stack_close(stack, 65536);
  n->back = true;
}

TEST(sim_thread_may_sleep_on_another_stack)
{
  struct sim_world world;
  struct nested n[2];
  memset(n, 0, sizeof(n));
  sim_world_init(&world, 1);
  for (int i = 0; i < 2; i++) {
    n[i].world = &world;
    sim_thread_start(&world, &n[i].thread, 0, nested_main, &n[i]);
  }
  CHECK(run_all(&world));
  for (int i = 0; i < 2; i++) {
    CHECK_INT(n[i].woke, SIM_WORLD_START + 50);
    CHECK(n[i].back);
    sim_thread_end(&n[i].thread);
  }
  sim_world_fini(&world);
}

static void nested_forever(void *arg)
{
  struct nested *n = arg;
  n->back = true;
  sim_thread_sleep(n->world, SIM_WORLD_NEVER);
  n->back = false;
}

/* It is ended where it is, on a stack that is then somebody else's to release. */
TEST(sim_thread_ends_wherever_it_is)
{
  struct sim_world world;
  struct nested n = {.world = &world};
  sim_world_init(&world, 1);
  sim_thread_start(&world, &n.thread, 0, nested_forever, &n);
  sim_thread_end(&n.thread);
  CHECK(!n.back); /* it never ran */
  sim_thread_start(&world, &n.thread, 0, nested_forever, &n);
  CHECK(run_all(&world));
  sim_thread_end(&n.thread);
  CHECK(n.back);
  n.back = false;
  sim_thread_start(&world, &n.thread, 0, nested_main, &n);
  CHECK(sim_world_next(&world, world.now));
  sim_thread_end(&n.thread);
  CHECK(!n.back);
  sim_thread_stack_close((void *)(uintptr_t)n.inner.stack, n.inner.size);
  CHECK(!sim_world_next(&world, SIM_WORLD_NEVER));
  sim_world_fini(&world);
}

static void ticker_main(void *arg)
{
  struct sleeper *s = arg;
  for (;;) {
    s->woke[0]++;
    sim_thread_sleep(s->world, s->world->now + 100);
  }
}

TEST(sim_thread_stands_still_while_frozen)
{
  struct sim_world world;
  struct sleeper s = {.world = &world};
  bool frozen = false;
  sim_world_init(&world, 1);
  sim_thread_start(&world, &s.thread, 0, ticker_main, &s);
  s.thread.frozen = &frozen;
  while (sim_world_next(&world, SIM_WORLD_START + 950))
    continue;
  CHECK_INT(s.woke[0], 10);
  frozen = true;
  sim_thread_thaw(&s.thread); /* it hadn't missed anything */
  while (sim_world_next(&world, SIM_WORLD_START + 5000))
    continue;
  CHECK_INT(s.woke[0], 10);
  frozen = false;
  sim_thread_thaw(&s.thread);
  while (sim_world_next(&world, SIM_WORLD_START + 5950))
    continue;
  CHECK_INT(s.woke[0], 20);
  sim_thread_end(&s.thread);
  sim_world_fini(&world);
}

/* ---- clocks ------------------------------------------------------------------------------- */

TEST(sim_party_has_the_clocks_of_its_machine)
{
  struct sim_world world;
  struct sim_party party;
  struct skew clock = {0, 0, 0, 0};
  struct env *env = &party.env;
  uint64_t wall;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 0, 0);
  CHECK_INT(env->clock(env), world.now);
  wall = env->wall(env);
  party.clock = &clock;
  CHECK(env->wall(env) == wall);
  skew_jump(&clock, world.now, 77);
  CHECK_INT(env->clock(env), world.now + 77);
  CHECK_INT(env->wall(env), wall + 77);
  CHECK_INT(sim_party_until(&party, world.now + 100), world.now + 23);
  sim_party_fini(&party);
  sim_world_fini(&world);
}

/* ---- a party ------------------------------------------------------------------------------ */

TEST(sim_party_counts_what_it_holds)
{
  struct sim_world world;
  struct sim_party party;
  struct env *env = &party.env;
  struct env_stack stack;
  struct env_segment segment;
  env_bell bell;
  void *p;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 3, 0);
  p = alloc_get(&env->alloc, 100);
  CHECK(p && (uintptr_t)p % 16 == 0);
  CHECK_INT(party.block_count, 1);
  CHECK_INT(party.block_bytes, 100);
  CHECK_INT(env->stack_open(env, 65536, &stack), CHI_OK);
  CHECK_INT(env->segment_open(env, "x", 1 << 21, ENV_SHARED_WRITE, &segment), CHI_OK);
  CHECK_INT((uintptr_t)segment.base % 4096, 0);
  CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  CHECK_STR(world.failure, "");
  sim_party_check(&party, "here");
  CHECK_STR(world.failure, "leak here, node 3: 1 pieces of memory (100 bytes of memory in all)");
  world.failure[0] = '\0';
  alloc_put(&env->alloc, p, 100);
  env->stack_close(env, &stack);
  env->segment_close(env, &segment);
  env->bell_close(env, bell);
  sim_party_check(&party, "here");
  CHECK_STR(world.failure, "");
  sim_party_fini(&party);
  sim_world_fini(&world);
}

TEST(sim_party_gives_everything_up_at_its_end)
{
  struct sim_world world;
  struct sim_party party;
  struct env *env = &party.env;
  struct env_stack stack;
  struct env_segment segment;
  env_bell bell;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 3, 0);
  for (int i = 0; i < 3; i++) {
    CHECK(alloc_get(&env->alloc, 100));
    CHECK_INT(env->stack_open(env, 65536, &stack), CHI_OK);
    CHECK_INT(env->segment_open(env, "x", 1 << 21, ENV_SHARED_WRITE, &segment), CHI_OK);
    CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  }
  sim_party_fini(&party); /* AddressSanitizer tells what this leaves behind */
  sim_world_fini(&world);
}

TEST(sim_party_discarded_segment_reads_zero)
{
  struct sim_world world;
  struct sim_party party;
  struct env *env = &party.env;
  struct env_segment segment;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 0, 0);
  CHECK_INT(env->segment_open(env, "x", 8192, ENV_SHARED_WRITE, &segment), CHI_OK);
  memset(segment.base, 1, 8192);
  env->segment_discard(env, &segment);
  CHECK_INT(env->segment_restore(env, &segment), CHI_OK);
  CHECK_INT(*((char *)segment.base + 5000), 0);
  sim_fault_memory(&world.fault, SIM_FAULT_SEGMENT, 1, 0);
  CHECK_INT(env->segment_restore(env, &segment), CHI_ENOMEM);
  env->segment_close(env, &segment);
  sim_party_fini(&party);
  sim_world_fini(&world);
}

TEST(sim_fault_refuses_the_memory_it_is_told_to)
{
  struct sim_world world;
  struct sim_party party;
  struct env *env = &party.env;
  struct env_stack stack;
  struct env_segment segment;
  env_bell bell;
  int refused = 0;
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 0, 0);
  sim_fault_memory(&world.fault, SIM_FAULT_ANY, 3, 0);
  CHECK(alloc_get(&env->alloc, 8));
  CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  CHECK_INT(env->stack_open(env, 65536, &stack), CHI_ENOMEM);
  CHECK_INT(env->segment_open(env, "x", 4096, ENV_SHARED_READ, &segment), CHI_OK);
  CHECK_INT(world.fault.asked, 4);
  CHECK_INT(world.fault.injected, 1);
  CHECK_INT(world.fault.count[SIM_FAULT_REFUSED_STACK], 1);
  sim_fault_memory(&world.fault, SIM_FAULT_ALLOC, 2, 0);
  CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  CHECK(alloc_get(&env->alloc, 8));
  CHECK(!alloc_get(&env->alloc, 8));
  sim_fault_memory(&world.fault, SIM_FAULT_ALLOC, 0, 300000);
  for (int i = 0; i < 1000; i++)
    refused += !alloc_get(&env->alloc, 8);
  CHECK(refused > 200 && refused < 400);
  sim_fault_clear(&world.fault);
  CHECK(alloc_get(&env->alloc, 8));
  CHECK_INT(env->bell_open(env, &bell), CHI_OK);
  sim_fault_memory(&world.fault, SIM_FAULT_BELL | SIM_FAULT_SEGMENT, 0, 1000000);
  CHECK_INT(env->bell_open(env, &bell), CHI_ENOMEM);
  CHECK_INT(env->segment_open(env, "x", 4096, ENV_SHARED_READ, &segment), CHI_ENOMEM);
  CHECK_INT(env->stack_open(env, 65536, &stack), CHI_OK);
  sim_party_fini(&party);
  sim_world_fini(&world);
}

/* ---- bells -------------------------------------------------------------------------------- */

struct ringer {
  struct sim_thread thread;
  struct sim_party *party;
  env_bell bell;
  bool first, second, third;
  uint64_t woke;
};

static void ringer_main(void *arg)
{
  struct ringer *r = arg;
  struct sim_world *world = r->party->world;
  r->first = sim_party_bell_wait(r->party, r->bell, SIM_WORLD_NEVER);
  r->woke = world->now;
  r->second = sim_party_bell_wait(r->party, r->bell, world->now + 100);
  sim_thread_sleep(world, world->now + 1000); /* rung meanwhile */
  r->third = sim_party_bell_wait(r->party, r->bell, SIM_WORLD_NEVER);
}

TEST(sim_bell_ring_is_never_lost)
{
  struct sim_world world;
  struct sim_party party;
  struct env *env = &party.env;
  struct ringer r = {.party = &party};
  sim_world_init(&world, 1);
  sim_party_init(&party, &world, 0, 0);
  CHECK_INT(env->bell_open(env, &r.bell), CHI_OK);
  sim_thread_start(&world, &r.thread, 0, ringer_main, &r);
  CHECK(run_all(&world));
  CHECK(!r.first); /* it waits */
  env->bell_ring(env, r.bell);
  env->bell_ring(env, r.bell);
  CHECK(sim_world_next(&world, SIM_WORLD_NEVER));
  CHECK(r.first && r.woke > SIM_WORLD_START);
  CHECK(sim_world_next(&world, SIM_WORLD_NEVER));
  CHECK(!r.second && world.now == r.woke + 100);
  env->bell_ring(env, r.bell);
  CHECK(run_all(&world));
  CHECK(r.third && r.thread.done);
  sim_thread_end(&r.thread);
  sim_party_fini(&party);
  sim_world_fini(&world);
}

/* ---- links -------------------------------------------------------------------------------- */

struct pair {
  struct sim_world world;
  struct sim_party node, client;
  struct sim_link_port port;
  struct sim_thread server, caller;
  struct env_segment segment;
  env_bell bell;
  bool mute;
  int rcs[4];
  /* what the node saw */
  char seen[64];
  env_link node_link;
  int reply_rc;
  /* what the client saw */
  int call_rc, wait_rc;
  char text[64];
  uint64_t waited;
  env_bell got_bell;
  struct env_segment got_segment;
};

static void pair_answer(struct pair *p, env_link link)
{
  struct env_share shares[2] = {{.kind = ENV_SHARE_SEGMENT_READ, .segment = p->segment},
                                {.kind = ENV_SHARE_BELL, .bell = p->bell}};
  p->reply_rc = sim_link_reply(&p->node, link, "welcome", 8, shares, 2);
}

static const char *const pair_letters[] = {
    [SIM_LINK_CONNECT] = "c", [SIM_LINK_REQUEST] = "r", [SIM_LINK_HANGUP] = "h"};

static void pair_server(void *arg)
{
  struct pair *p = arg;
  for (;;) {
    struct sim_link_mail *mail = sim_link_take(&p->port, &p->node_link);
    if (!mail) {
      sim_thread_park(&p->world, sim_link_due(&p->port));
      continue;
    }
    strcat(p->seen, pair_letters[mail->kind]);
    strncat(p->seen, (char *)mail->bytes, mail->size);
    if (mail->kind == SIM_LINK_REQUEST && !p->mute)
      pair_answer(p, p->node_link);
    sim_link_mail_free(mail);
  }
}

static void pair_client(void *arg)
{
  struct pair *p = arg;
  env_link link = sim_link_connect(&p->client, &p->port);
  struct env_share shares[2];
  size_t size = sizeof(p->text);
  uint32_t count = 2;
  uint64_t began;
  p->call_rc = sim_link_call(&p->client, link, "hi", 2, p->text, &size, shares, &count);
  if (p->call_rc == CHI_OK) {
    p->got_segment = shares[0].segment;
    p->got_bell = shares[1].bell;
    began = p->world.now;
    do
      p->wait_rc = sim_link_wait(&p->client, link, p->got_bell, began + 1000000);
    while (p->wait_rc == CHI_OK);
    p->waited = p->world.now - began;
  }
  sim_link_shut(&p->client, link);
}

static void pair_open(struct pair *p)
{
  struct env *env = &p->node.env;
  memset(p, 0, sizeof(*p));
  sim_world_init(&p->world, 1);
  sim_party_init(&p->node, &p->world, 0, 0);
  sim_party_init(&p->client, &p->world, 0, 1);
  sim_link_port_init(&p->port, &p->node);
  env->segment_open(env, "x", 4096, ENV_SHARED_READ, &p->segment);
  env->bell_open(env, &p->bell);
  sim_thread_start(&p->world, &p->server, 0, pair_server, p);
  sim_thread_start(&p->world, &p->caller, 0, pair_client, p);
  p->port.thread = &p->server;
}

static void pair_close(struct pair *p)
{
  sim_thread_end(&p->caller);
  sim_thread_end(&p->server);
  sim_link_shut_all(&p->client);
  p->port.thread = NULL;
  sim_link_close_all(&p->port);
  sim_party_fini(&p->client);
  sim_party_fini(&p->node);
  sim_world_fini(&p->world);
}

TEST(sim_link_carries_messages_and_what_is_shared)
{
  struct pair p;
  pair_open(&p);
  CHECK(run_all(&p.world));
  CHECK_STR(p.seen, "crhih");
  CHECK_INT(p.call_rc, CHI_OK);
  CHECK_INT(p.reply_rc, CHI_OK);
  CHECK_STR(p.text, "welcome");
  CHECK(p.got_segment.base == p.segment.base && p.got_segment.size == 4096);
  CHECK_INT(p.wait_rc, CHI_ETIMEOUT);
  CHECK_INT(p.waited, 1000000);
  CHECK_INT(sim_link_reply(&p.node, p.node_link, "x", 1, NULL, 0), CHI_ESHUTDOWN);
  p.node.env.segment_close(&p.node.env, &p.segment);
  *(char *)p.got_segment.base = 1; /* still the client's */
  pair_close(&p);
}

static bool pair_run_until_waiting(struct pair *p)
{
  while (p->got_bell == 0 && p->got_segment.base == NULL)
    if (!sim_world_next(&p->world, SIM_WORLD_NEVER))
      return false;
  return true;
}

TEST(sim_link_closed_by_the_node_ends_waits)
{
  struct pair p;
  pair_open(&p);
  CHECK(pair_run_until_waiting(&p));
  sim_link_close(&p.port, p.node_link);
  CHECK(run_all(&p.world));
  CHECK_INT(p.wait_rc, CHI_ESHUTDOWN);
  CHECK(p.waited < 1000000);
  CHECK_STR(p.seen, "crhi"); /* no upcall after it was closed */
  pair_close(&p);
}

TEST(sim_link_closed_by_the_node_ends_calls)
{
  struct pair p;
  pair_open(&p);
  p.mute = true;
  while (strcmp(p.seen, "crhi") != 0)
    CHECK(sim_world_next(&p.world, SIM_WORLD_NEVER));
  CHECK(!p.caller.done);
  sim_link_close_all(&p.port);
  CHECK(run_all(&p.world));
  CHECK_INT(p.call_rc, CHI_ESHUTDOWN);
  pair_close(&p);
}

/* Calls once more after a call that has timed out: what comes late is not the answer to this. */
static void pair_insists(void *arg)
{
  struct pair *p = arg;
  env_link link = sim_link_connect(&p->client, &p->port);
  struct env_share shares[2];
  for (uint32_t i = 0; i < CHI_COUNT(p->rcs); i++) {
    size_t size = sizeof(p->text);
    uint32_t count = 2;
    p->rcs[i] = sim_link_call(&p->client, link, "hi", 2, p->text, &size, shares, &count);
    if (i == 1)
      pair_answer(p, p->node_link);
    p->mute = i == 0;
  }
  sim_link_shut(&p->client, link);
}

TEST(sim_link_calls_end_though_nobody_answers)
{
  struct pair p;
  pair_open(&p);
  sim_thread_end(&p.caller);
  sim_thread_start(&p.world, &p.caller, 0, pair_insists, &p);
  p.mute = true;
  uint64_t began = p.world.now;
  CHECK(run_all(&p.world));
  CHECK_INT(p.rcs[0], CHI_ETIMEOUT);
  CHECK_INT(p.rcs[1], CHI_EBUSY);
  CHECK_INT(p.rcs[2], CHI_ESTALE);
  CHECK_INT(p.rcs[3], CHI_OK);
  CHECK_STR(p.seen, "crhirhih"); /* nothing was sent before the late answer had come */
  CHECK(p.world.now - began >= 2 * ENV_CALL_NS && p.world.now - began < 2 * ENV_CALL_NS + 1000000);
  pair_close(&p);
}

TEST(sim_link_of_a_killed_client_hangs_up)
{
  struct pair p;
  pair_open(&p);
  CHECK(pair_run_until_waiting(&p));
  sim_thread_end(&p.caller);
  sim_link_shut_all(&p.client);
  sim_party_fini(&p.client);
  sim_party_init(&p.client, &p.world, 0, 2);
  CHECK(run_all(&p.world));
  CHECK_STR(p.seen, "crhih");
  p.node.env.bell_ring(&p.node.env, p.bell);
  CHECK(run_all(&p.world));
  sim_thread_start(&p.world, &p.caller, 0, pair_client, &p); /* and the next one is served */
  CHECK(run_all(&p.world));
  CHECK_STR(p.seen, "crhihcrhih");
  pair_close(&p);
}

/* ---- files -------------------------------------------------------------------------------- */

struct filer {
  struct sim_world world;
  struct sim_disk *disk;
  struct sim_io io;
  struct sim_thread thread;
  int inline_count, busy_count, short_count;
  int64_t result;
  char buf[8192];
};

/* Runs one operation to its end, as a worker does. */
static int64_t filer_do(struct filer *f, struct env_io io)
{
  int rc;
  f->io.worker[1].thread = f->world.running;
  rc = sim_io_submit(&f->io, 1, &io);
  if (rc == 0) {
    while (!sim_io_ready(&f->io, 1))
      sim_thread_park(&f->world, SIM_WORLD_NEVER);
    if (sim_io_reap(&f->io, 1) != &io || sim_io_reap(&f->io, 1))
      return -1000;
  }
  f->inline_count += rc == 1;
  return io.result;
}

static void filer_open(struct filer *f, uint64_t seed, void (*body)(void *arg))
{
  memset(f, 0, sizeof(*f));
  sim_world_init(&f->world, seed);
  f->disk = sim_disk_open(seed, 0, 1 << 20);
  sim_io_init(&f->io, &f->world, f->disk, 0, 2);
  sim_thread_start(&f->world, &f->thread, 0, body, f);
}

static void filer_close(struct filer *f)
{
  sim_io_fini(&f->io);
  sim_thread_end(&f->thread);
  sim_disk_close(f->disk);
  sim_world_fini(&f->world);
}

static void filer_story(void *arg)
{
  struct filer *f = arg;
  int64_t file =
      filer_do(f, (struct env_io){.op = ENV_IO_OPEN, .path = "log", .flags = CHI_FILE_CREATE});
  for (int i = 0; i < 200 && f->result == 0; i++) {
    struct env_io io = {.op = ENV_IO_WRITE, .file = file, .buf = f->buf, .size = sizeof(f->buf)};
    int64_t done = filer_do(f, io);
    if (done < 0)
      f->result = done;
    f->short_count += done >= 0 && done < (int64_t)io.size;
    done = filer_do(f, (struct env_io){.op = ENV_IO_SIZE, .file = file});
    if (done < 0)
      f->result = done;
  }
  if (f->result == 0)
    f->result = filer_do(f, (struct env_io){.op = ENV_IO_SYNC, .file = file});
}

TEST(sim_io_takes_time_and_may_do_less)
{
  uint64_t hash[2];
  for (int round = 0; round < 2; round++) {
    struct filer f;
    filer_open(&f, 5, filer_story);
    CHECK(run_all(&f.world));
    CHECK(f.thread.done);
    CHECK_INT(f.result, CHI_OK);
    CHECK(f.world.now > SIM_WORLD_START + 200 * 50000);
    CHECK(f.short_count > 0 && f.short_count < 100);
    CHECK(f.inline_count > 50 && f.inline_count < 150);
    hash[round] = hash_stream_finish(&f.world.trace.hash);
    filer_close(&f);
  }
  CHECK(hash[0] == hash[1]);
}

TEST(sim_io_blocks_where_there_is_nothing_better)
{
  struct filer f;
  struct env_io io = {.op = ENV_IO_SYNC};
  filer_open(&f, 5, filer_story);
  CHECK(!sim_io_blocks(&f.io, &io));
  f.io.blocks = true;
  CHECK(sim_io_blocks(&f.io, &io));
  CHECK(run_all(&f.world));
  CHECK_INT(f.result, CHI_OK);
  CHECK_INT(f.inline_count, 402);
  CHECK(f.world.now > SIM_WORLD_START + 200 * 50000);
  filer_close(&f);
}

TEST(sim_fault_hits_the_files_it_is_told_to)
{
  const struct sim_fault_io other = {
      .node = 7, .op = SIM_FAULT_ANYWHERE, .result = CHI_EACCES}; /* not this node */
  const struct sim_fault_io rule = {.node = SIM_FAULT_ANYWHERE,
                                    .op = ENV_IO_WRITE,
                                    .path = "lo",
                                    .after = 2,
                                    .times = 1,
                                    .result = CHI_EIO};
  struct filer f;
  filer_open(&f, 5, filer_story);
  sim_fault_add(&f.world.fault, &other);
  sim_fault_add(&f.world.fault, &rule);
  CHECK(run_all(&f.world));
  CHECK_INT(f.result, CHI_EIO);
  CHECK_INT(f.world.fault.rules[0].fits, 0);
  CHECK_INT(f.world.fault.rules[1].fits, 3);
  CHECK_INT(f.world.fault.injected, 1);
  filer_close(&f);
}

TEST(sim_fault_shortens_and_delays)
{
  const struct sim_fault_io rule = {
      .node = 0, .op = ENV_IO_WRITE, .limit = 512, .delay_ns = 1000000000};
  struct filer f;
  filer_open(&f, 5, filer_story);
  sim_fault_add(&f.world.fault, &rule);
  CHECK(run_all(&f.world));
  CHECK_INT(f.result, CHI_OK);
  CHECK_INT(f.short_count, 200);
  CHECK(f.world.now > SIM_WORLD_START + UINT64_C(200000000000));
  filer_close(&f);
}

/* A worker that submits without waiting finds that there is no room at some point. */
static void filer_flood(void *arg)
{
  struct filer *f = arg;
  static struct env_io io[100];
  for (int i = 0; i < 100; i++) {
    io[i] = (struct env_io){.op = ENV_IO_OPEN, .path = "a", .flags = CHI_FILE_CREATE};
    f->busy_count += sim_io_submit(&f->io, 0, &io[i]) == CHI_EBUSY;
  }
}

TEST(sim_io_has_bounded_room)
{
  struct filer f;
  int reaped = 0;
  filer_open(&f, 5, filer_flood);
  CHECK(run_all(&f.world));
  CHECK_INT(f.busy_count, 68);
  for (const struct env_io *io = sim_io_reap(&f.io, 0); io; io = io->next)
    reaped++;
  CHECK_INT(reaped, 32);
  CHECK(!sim_io_ready(&f.io, 0));
  filer_close(&f);
}

/* Rules that will never hit again make room. */
TEST(sim_fault_rules_are_used_up)
{
  struct sim_fault fault = {.rule_count = 0};
  struct sim_fault_io rule = {.node = 1, .op = ENV_IO_WRITE, .times = 1, .result = CHI_EIO};
  const struct sim_fault_io *hit;
  for (int i = 0; i < SIM_FAULT_RULES; i++) {
    CHECK(sim_fault_room(&fault));
    rule.times = i != 3;
    sim_fault_add(&fault, &rule);
  }
  CHECK(!sim_fault_room(&fault));
  hit = sim_fault_hits_io(&fault, 1, ENV_IO_WRITE, "x");
  CHECK(hit == &fault.rules[0]);
  CHECK(sim_fault_room(&fault));
  rule.node = 2;
  rule.result = 0;
  rule.limit = 5;
  rule.delay_ns = 7;
  CHECK(sim_fault_add(&fault, &rule) == &fault.rules[0]);
  CHECK(sim_fault_hits_io(&fault, 2, ENV_IO_WRITE, "x") == &fault.rules[0]);
  CHECK_INT(fault.count[SIM_FAULT_IO_FAILED], 1);
  CHECK_INT(fault.count[SIM_FAULT_IO_SHORT], 1);
  CHECK_INT(fault.count[SIM_FAULT_IO_LATE], 1);
  CHECK_STR(sim_fault_name(SIM_FAULT_IO_LATE), "file operation delayed");
}

/* What is under way when the power goes was made, or it wasn't. */
TEST(sim_io_under_way_is_lost_or_not)
{
  int made = 0;
  for (uint64_t seed = 0; seed < 40; seed++) {
    struct filer f;
    char buf[1];
    filer_open(&f, seed, filer_flood);
    CHECK(sim_world_next(&f.world, SIM_WORLD_NEVER));
    CHECK(f.io.flight);
    sim_io_fini(&f.io);
    made += sim_disk_peek(f.disk, "a", buf, 1, 0) == 0;
    filer_close(&f);
  }
  CHECK_INT(made, 40); /* 32 openings under way: none of them was made is beyond chance */
}

/* ---- transcript --------------------------------------------------------------------------- */

static void append(void *arg, const char *text)
{
  strcat(arg, text);
}

static void tell(struct sim_trace *trace, uint64_t time, uint32_t node, int kind,
                 const uint64_t values[3], const char *text)
{
  const struct sim_trace_event event = {time, node, kind, values[0], values[1], values[2], text};
  sim_trace_event(trace, &event);
}

static void collect(void *arg, const struct sim_trace_event *event)
{
  struct sim_trace_event *events = arg;
  for (int i = 4; i > 0; i--)
    events[i] = events[i - 1];
  events[0] = *event;
}

TEST(sim_trace_reads_as_a_story)
{
  char text[1000] = {0};
  struct sim_trace_event events[5] = {{0}};
  struct sim_trace trace = {.put = append, .arg = text, .sink = collect, .sink_arg = events};
  const uint64_t task = UINT64_C(4) << 32 | 17;
  const uint64_t begin[3] = {2, task, 700 << 16 | 12};
  const uint64_t done[3] = {2, task, (uint64_t)(int64_t)CHI_EIO};
  const uint64_t pool[3] = {UINT64_C(300) << 32 | 1, 2, 5}, io[3] = {1, ENV_IO_WRITE, 4096};
  const uint64_t silent[3] = {1, 2, 3};
  tell(&trace, 1000000001, 3, ENV_TRACE_BEGIN, begin, NULL);
  tell(&trace, 1000000002, 3, ENV_TRACE_COMPLETE, done, NULL);
  tell(&trace, 2500000000, 0, ENV_TRACE_POOL, pool, NULL);
  tell(&trace, 2500000000, 0, SIM_TRACE_IO_BEGIN, io, "/data/a");
  tell(&trace, 2500000000, 0, SIM_TRACE_THREAD, silent, NULL);
  sim_trace_text(&trace, 3000000000, UINT32_MAX, "the end");
  CHECK_STR(text, "1.000000001 node3: worker 2 begins task 4:17, method 12 of pool 700\n"
                  "1.000000002 node3: worker 2 completes task 4:17: CHI_EIO\n"
                  "2.500000000 node0: pool 300.1 is 2, generation 5\n"
                  "2.500000000 node0: worker 1: write /data/a, 4096 bytes\n"
                  "3.000000000 the end\n");
  CHECK_INT(trace.events, 5);
  CHECK_INT(events[0].kind, SIM_TRACE_THREAD); /* what isn't told is recorded */
  CHECK_INT(events[4].b, task);
  CHECK(sim_trace_say(&events[1], text, 20));
  CHECK_STR(text, "worker 1: write /da");
  CHECK(!sim_trace_say(&events[0], text, 20));
  CHECK_STR(text, "");
}

TEST(sim_trace_hash_sees_every_value)
{
  const uint64_t base[3] = {1, 2, 3}, other[3] = {1, 2, 4};
  uint64_t hash[6];
  for (int i = 0; i < 6; i++) {
    struct sim_trace trace = {.put = NULL};
    tell(&trace, i == 1, i == 2, i == 3, i == 4 ? other : base, i == 5 ? "x" : NULL);
    hash[i] = hash_stream_finish(&trace.hash);
    for (int j = 0; j < i; j++)
      CHECK(hash[i] != hash[j]);
  }
}
