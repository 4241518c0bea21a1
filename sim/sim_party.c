/* sim_party.c - a process in the simulation: the memory, stacks, segments and bells it holds. */
#include "sim_party.h"

#include <stdlib.h>
#include <sys/mman.h>

#define SIM_PARTY_EPOCH UINT64_C(1700000000000000000) /* wall time at virtual time 0 */
#define SIM_PARTY_NEW 0xa5
#define SIM_PARTY_OLD 0x5a
#define SIM_PARTY_FORMER_BYTES 32768u /* at most, of a party, that nobody may touch */
#define SIM_PARTY_FORMER_ALL (4u << 20) /* and of all of them */
#define SIM_PARTY_FORMER_LEAST 2048u    /* but of each so many */
#define SIM_PARTY_LARGE 16384u /* blocks from this on have pages of their own */
#define SIM_PARTY_MARKED 2048u /* bytes of such a block that are filled with the above */
#if defined(__SANITIZE_ADDRESS__)
#define SIM_PARTY_WATCHED true /* it knows better who touches what was given back */
#elif defined(__has_feature)
#define SIM_PARTY_WATCHED __has_feature(address_sanitizer)
#else
#define SIM_PARTY_WATCHED false
#endif

/* ---- tables ------------------------------------------------------------------------------- */

CHI_PRIVATE int64_t sim_party_table_add(struct sim_party_table *table, void *item)
{
  CHI_ASSERT(item);
  if (table->count == table->room) {
    table->room = table->room * 2 + 8;
    table->item = realloc(table->item, table->room * sizeof(*table->item));
    CHI_ASSERT(table->item);
  }
  table->item[table->count] = item;
  return table->count++;
}

CHI_PRIVATE void *sim_party_table_get(const struct sim_party_table *table, int64_t handle)
{
  return handle >= 0 && handle < table->count ? table->item[handle] : NULL;
}

CHI_PRIVATE void *sim_party_table_take(struct sim_party_table *table, int64_t handle)
{
  void *item = sim_party_table_get(table, handle);
  if (item)
    table->item[handle] = NULL;
  return item;
}

CHI_PRIVATE uint32_t sim_party_table_used(const struct sim_party_table *table)
{
  uint32_t used = 0;
  for (uint32_t i = 0; i < table->count; i++)
    used += table->item[i] != NULL;
  return used;
}

/* Whether a fault refuses it. The size is no part of the trace: it differs between machines. */
static bool sim_party_refused(struct sim_party *party, enum sim_fault_memory kind, const char *what)
{
  if (!sim_fault_hits(&party->world->fault, kind))
    return false;
  sim_world_trace(party->world, party->node, SIM_TRACE_FAULT_MEMORY, party->number, 0, 0, what);
  return true;
}

/* ---- private memory ----------------------------------------------------------------------- */

/* In front of what a party was given. */
struct sim_party_block {
  struct sim_party_block *next, *previous;
  struct sim_party *party;
  size_t size;
};
_Static_assert(sizeof(struct sim_party_block) % 16 == 0,
               "what follows must be aligned for any type");

/* Large blocks take no memory until they are used. The rest of them is zero, and so the same in
 * every run. */
static struct sim_party_block *sim_party_block_new(size_t size)
{
  struct sim_party_block *block;
  if (size < SIM_PARTY_LARGE) {
    block = malloc(sizeof(*block) + size);
    CHI_ASSERT(block);
    memset(block + 1, SIM_PARTY_NEW, size);
    return block;
  }
  block = mmap(NULL, sizeof(*block) + size, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHI_ASSERT(block != MAP_FAILED);
  memset(block + 1, SIM_PARTY_NEW, SIM_PARTY_MARKED);
  return block;
}

static void sim_party_block_free(struct sim_party_block *block)
{
  size_t size = sizeof(*block) + block->size;
  if (block->size < SIM_PARTY_LARGE) {
    block->party = NULL; /* so that it isn't given back again */
    free(block);
  } else {
    munmap(block, size);
  }
}

/* Nobody may write to what was given back: it is kept for a while, and looked at. */
static void sim_party_former_free(struct sim_party *party)
{
  uint32_t oldest = party->former_next - party->former_count--;
  struct sim_party_block *block = party->former[oldest % SIM_PARTY_FORMER];
  const unsigned char *bytes = (const unsigned char *)(block + 1);
  party->former_bytes -= block->size;
  if (block->size > 0 &&
      (bytes[0] != SIM_PARTY_OLD || memcmp(bytes, bytes + 1, block->size - 1) != 0))
    sim_world_fail(party->world, party->node, SIM_WORLD_LEAK,
                   "memory that was given back was written to");
  sim_party_block_free(block);
}

static uint64_t sim_party_former_room(const struct sim_party *party)
{
  uint64_t share = SIM_PARTY_FORMER_ALL / (party->world->party_count + 1);
  share = share < SIM_PARTY_FORMER_BYTES ? share : SIM_PARTY_FORMER_BYTES;
  return share > SIM_PARTY_FORMER_LEAST ? share : SIM_PARTY_FORMER_LEAST;
}

static void sim_party_former_add(struct sim_party *party, struct sim_party_block *block)
{
  if (block->size >= SIM_PARTY_LARGE || SIM_PARTY_WATCHED) {
    sim_party_block_free(block);
    return;
  }
  while (party->former_count == SIM_PARTY_FORMER ||
         (party->former_count > 0 && party->former_bytes > sim_party_former_room(party)))
    sim_party_former_free(party);
  memset(block + 1, SIM_PARTY_OLD, block->size);
  block->party = NULL;
  party->former[party->former_next++ % SIM_PARTY_FORMER] = block;
  party->former_count++;
  party->former_bytes += block->size;
}

static void sim_party_former_clear(struct sim_party *party)
{
  while (party->former_count > 0)
    sim_party_former_free(party);
}

static void *sim_party_env_get(void *arg, size_t size)
{
  struct sim_party *party = arg;
  struct sim_party_block *block;
  if (sim_party_refused(party, SIM_FAULT_ALLOC, "private memory"))
    return NULL;
  block = sim_party_block_new(size);
  *block = (struct sim_party_block){party->blocks, NULL, party, size};
  if (party->blocks)
    party->blocks->previous = block;
  party->blocks = block;
  party->block_count++;
  party->block_bytes += size;
  return block + 1;
}

static void sim_party_unlink(struct sim_party_block *block)
{
  struct sim_party *party = block->party;
  if (block->previous)
    block->previous->next = block->next;
  else
    party->blocks = block->next;
  if (block->next)
    block->next->previous = block->previous;
  party->block_count--;
  party->block_bytes -= block->size;
}

static void sim_party_env_put(void *arg, void *p, size_t size)
{
  struct sim_party_block *block = (struct sim_party_block *)p - 1;
  CHI_ASSERT(block->party == arg && "memory is given back once, and by who has it");
  CHI_ASSERT(block->size == size);
  sim_party_unlink(block);
  sim_party_former_add(arg, block);
}

/* ---- stacks ------------------------------------------------------------------------------- */

static int sim_party_env_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  struct sim_party *party = sim_party_of(env);
  struct env_stack *stack;
  if (sim_party_refused(party, SIM_FAULT_STACK, "a stack"))
    return CHI_ENOMEM;
  out->size = size;
  out->base = sim_thread_stack_open(size);
  if (!out->base)
    return CHI_ENOMEM;
  stack = sim_world_new(sizeof(*stack));
  *stack = *out;
  sim_party_table_add(&party->stacks, stack);
  return CHI_OK;
}

static void sim_party_stack_free(struct env_stack *stack)
{
  sim_thread_stack_close(stack->base, stack->size);
  free(stack);
}

static void sim_party_env_stack_close(struct env *env, struct env_stack *stack)
{
  struct sim_party_table *stacks = &sim_party_of(env)->stacks;
  for (uint32_t i = 0; i < stacks->count; i++) {
    struct env_stack *held = stacks->item[i];
    if (held && held->base == stack->base) {
      CHI_ASSERT(held->size == stack->size);
      stacks->item[i] = NULL;
      sim_party_stack_free(held);
      return;
    }
  }
  CHI_ASSERT(!"a stack that the party does not have");
}

/* ---- segments ----------------------------------------------------------------------------- */

CHI_PRIVATE void sim_party_segment_drop(struct sim_party_segment *segment)
{
  CHI_ASSERT(segment->refs > 0);
  if (--segment->refs)
    return;
  munmap(segment->base, segment->size);
  free(segment);
}

CHI_PRIVATE struct sim_party_segment *sim_party_segment_get(struct sim_party *party, int64_t handle)
{
  struct sim_party_segment *segment = sim_party_table_get(&party->segments, handle);
  CHI_ASSERT(segment);
  segment->refs++;
  return segment;
}

CHI_PRIVATE void sim_party_segment_give(struct sim_party *party, struct sim_party_segment *segment,
                                        struct env_segment *out)
{
  out->base = segment->base;
  out->size = segment->size;
  out->handle = sim_party_table_add(&party->segments, segment);
}

static int sim_party_env_segment_open(struct env *env, const char *name, uint64_t size, int access,
                                      struct env_segment *out)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_segment *segment;
  void *base;
  (void)access;
  if (sim_party_refused(party, SIM_FAULT_SEGMENT, name))
    return CHI_ENOMEM;
  base =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return CHI_ENOMEM;
  segment = sim_world_new(sizeof(*segment));
  *segment = (struct sim_party_segment){base, size, 1};
  sim_party_segment_give(party, segment, out);
  return CHI_OK;
}

static void sim_party_env_segment_close(struct env *env, struct env_segment *segment)
{
  struct sim_party_segment *held =
      sim_party_table_take(&sim_party_of(env)->segments, segment->handle);
  CHI_ASSERT(held);
  sim_party_segment_drop(held);
}

static void sim_party_env_segment_discard(struct env *env, struct env_segment *segment)
{
  struct sim_party_segment *held =
      sim_party_table_get(&sim_party_of(env)->segments, segment->handle);
  CHI_ASSERT(held && held->base == segment->base);
  madvise(held->base, held->size, MADV_DONTNEED);
}

static int sim_party_env_segment_restore(struct env *env, struct env_segment *segment)
{
  struct sim_party *party = sim_party_of(env);
  CHI_ASSERT(sim_party_table_get(&party->segments, segment->handle));
  if (sim_party_refused(party, SIM_FAULT_SEGMENT, "pages given back"))
    return CHI_ENOMEM;
  return CHI_OK;
}

/* ---- bells -------------------------------------------------------------------------------- */

CHI_PRIVATE void sim_party_bell_drop(struct sim_party_bell *bell)
{
  CHI_ASSERT(bell->refs > 0);
  if (--bell->refs == 0)
    free(bell);
}

CHI_PRIVATE struct sim_party_bell *sim_party_bell_get(struct sim_party *party, env_bell handle)
{
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  CHI_ASSERT(bell);
  bell->refs++;
  return bell;
}

static int sim_party_env_bell_open(struct env *env, env_bell *out)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_bell *bell;
  if (sim_party_refused(party, SIM_FAULT_BELL, "a bell"))
    return CHI_ENOMEM;
  bell = sim_world_new(sizeof(*bell));
  bell->refs = 1;
  bell->number = ++party->world->bell_count;
  *out = sim_party_table_add(&party->bells, bell);
  return CHI_OK;
}

static void sim_party_env_bell_close(struct env *env, env_bell handle)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_party_bell *bell = sim_party_table_take(&party->bells, handle);
  CHI_ASSERT(bell);
  if (bell->owner == party)
    bell->sleeper = NULL;
  sim_party_bell_drop(bell);
}

static void sim_party_env_bell_ring(struct env *env, env_bell handle)
{
  struct sim_party *party = sim_party_of(env);
  struct sim_world *world = party->world;
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  CHI_ASSERT(bell);
  sim_world_trace(world, party->node, SIM_TRACE_RING, bell->number, 0, 0, NULL);
  bell->rung = true;
  if (bell->sleeper)
    sim_thread_wake(bell->sleeper,
                    world->now + sim_world_about(&party->timing, world->profile.bell));
}

CHI_PRIVATE bool sim_party_bell_wait(struct sim_party *party, env_bell handle, uint64_t until)
{
  struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  bool rung;
  CHI_ASSERT(bell && !bell->sleeper);
  if (!bell->rung && until > party->world->now) {
    bell->sleeper = party->world->running;
    bell->owner = party;
    sim_thread_park(party->world, until);
    bell->sleeper = NULL;
  }
  rung = bell->rung;
  bell->rung = false;
  return rung;
}

CHI_PRIVATE bool sim_party_bell_sleeps(const struct sim_party *party, env_bell handle)
{
  const struct sim_party_bell *bell = sim_party_table_get(&party->bells, handle);
  return bell && bell->sleeper && !bell->rung;
}

/* ---- the whole ---------------------------------------------------------------------------- */

CHI_PRIVATE uint64_t sim_party_now(const struct sim_party *party)
{
  uint64_t now = party->world->now;
  return party->clock ? skew_at(party->clock, now) : now;
}

CHI_PRIVATE uint64_t sim_party_until(const struct sim_party *party, uint64_t local)
{
  return party->clock ? skew_until(party->clock, local) : local;
}

static uint64_t sim_party_env_clock(struct env *env)
{
  return sim_party_now(sim_party_of(env));
}

static uint64_t sim_party_env_wall(struct env *env)
{
  const struct sim_party *party = sim_party_of(env);
  uint64_t now = party->world->now;
  int64_t ahead = party->clock ? skew_wall(party->clock, now) : 0;
  return SIM_PARTY_EPOCH + now + (uint64_t)ahead;
}

static uint64_t sim_party_env_random(struct env *env)
{
  return rng_next(&sim_party_of(env)->random);
}

/* Nothing forks in a simulation. */
static const uint32_t sim_party_alive = 1;

CHI_PRIVATE void sim_party_init(struct sim_party *party, struct sim_world *world, uint32_t node,
                                uint32_t number)
{
  struct env *env = &party->env;
  uint64_t purpose = number ? SIM_WORLD_STREAM_CLIENT + 2 * (uint64_t)number : 0;
  memset(party, 0, sizeof(*party));
  party->world = world;
  world->party_count++;
  party->node = node;
  party->number = number;
  sim_world_stream(world, &party->random, node, purpose ? purpose : SIM_WORLD_STREAM_RANDOM);
  sim_world_stream(world, &party->timing, node, purpose ? purpose + 1 : SIM_WORLD_STREAM_LINK);
  env->version = ENV_VERSION;
  env->self = party;
  env->alive = &sim_party_alive;
  env->alloc = (struct alloc){sim_party_env_get, sim_party_env_put, party};
  env->clock = sim_party_env_clock;
  env->random = sim_party_env_random;
  env->wall = sim_party_env_wall;
  env->stack_open = sim_party_env_stack_open;
  env->stack_close = sim_party_env_stack_close;
  env->segment_open = sim_party_env_segment_open;
  env->segment_close = sim_party_env_segment_close;
  env->segment_discard = sim_party_env_segment_discard;
  env->segment_restore = sim_party_env_segment_restore;
  env->bell_open = sim_party_env_bell_open;
  env->bell_close = sim_party_env_bell_close;
  env->bell_ring = sim_party_env_bell_ring;
}

CHI_PRIVATE void sim_party_check(struct sim_party *party, const char *when)
{
  const struct {
    const char *what;
    uint64_t count;
  } held[] = {{"pieces of memory", party->block_count},
              {"stacks", sim_party_table_used(&party->stacks)},
              {"segments", sim_party_table_used(&party->segments)},
              {"bells", sim_party_table_used(&party->bells)},
              {"links", sim_party_table_used(&party->links)}};
  for (size_t i = 0; i < CHI_COUNT(held); i++)
    if (held[i].count)
      sim_world_fail(party->world, party->node, SIM_WORLD_LEAK,
                     "leak %s, node %u: %llu %s (%llu bytes of memory in all)", when, party->node,
                     (unsigned long long)held[i].count, held[i].what,
                     (unsigned long long)party->block_bytes);
}

static void sim_party_drop_bells(struct sim_party *party)
{
  for (uint32_t i = 0; i < party->bells.count; i++) {
    struct sim_party_bell *bell = party->bells.item[i];
    if (bell && bell->owner == party)
      bell->sleeper = NULL;
    if (bell)
      sim_party_bell_drop(bell);
  }
  free(party->bells.item);
}

CHI_PRIVATE void sim_party_fini(struct sim_party *party)
{
  CHI_ASSERT(sim_party_table_used(&party->links) == 0);
  while (party->blocks) {
    struct sim_party_block *block = party->blocks;
    party->blocks = block->next;
    sim_party_block_free(block);
  }
  sim_party_former_clear(party);
  party->world->party_count--;
  for (uint32_t i = 0; i < party->stacks.count; i++)
    if (party->stacks.item[i])
      sim_party_stack_free(party->stacks.item[i]);
  for (uint32_t i = 0; i < party->segments.count; i++)
    if (party->segments.item[i])
      sim_party_segment_drop(party->segments.item[i]);
  sim_party_drop_bells(party);
  free(party->stacks.item);
  free(party->segments.item);
  free(party->links.item);
  memset(party, 0, sizeof(*party));
}

#undef SIM_PARTY_EPOCH
#undef SIM_PARTY_NEW
#undef SIM_PARTY_OLD
#undef SIM_PARTY_FORMER_BYTES
#undef SIM_PARTY_FORMER_ALL
#undef SIM_PARTY_FORMER_LEAST
#undef SIM_PARTY_LARGE
#undef SIM_PARTY_MARKED
#undef SIM_PARTY_WATCHED
