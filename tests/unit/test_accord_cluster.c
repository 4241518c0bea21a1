/* test_accord_cluster.c - up to 50 tables that decide at random under loss, cuts and restarts; and
 * how soon all are equal when that ends. */
#include "accord.h"
#include "hash.h"
#include "rng.h"
#include "scarce.h"
#include "test.h"

#include <stdlib.h>

#define REALM_POST 20000u /* records under way at most */
#define REALM_IDS 12u

static struct scarce realm_memory = {.fail_at = -1};
static const struct alloc realm_alloc = SCARCE_ALLOC(&realm_memory);

struct realm_letter {
  uint32_t from, to;
  uint64_t to_boot;
  enum wire_kind kind;
  size_t size;
  unsigned char *bytes;
};

struct realm_node {
  struct realm *realm;
  struct accord *a;
  uint64_t boot;
  uint32_t group;
  struct accord_version seen[REALM_IDS]; /* the highest of each id, told or decided, in this life */
};

struct realm {
  uint32_t count, post_count, loss_ppm, twice_ppm;
  uint64_t now, records, bad;
  struct rng rng;
  struct realm_node *node;
  struct realm_letter post[REALM_POST];
};

static int realm_compare(const struct accord_version *x, const struct accord_version *y)
{
  if (x->counter != y->counter)
    return x->counter < y->counter ? -1 : 1;
  if (x->boot != y->boot)
    return x->boot < y->boot ? -1 : 1;
  return x->node < y->node ? -1 : x->node > y->node;
}

static void realm_drop(struct realm *r, uint32_t at)
{
  free(r->post[at].bytes);
  r->post[at] = r->post[--r->post_count];
}

static void realm_send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  struct realm_node *n = arg;
  struct realm *r = n->realm;
  uint32_t copies = 1 + rng_chance(&r->rng, r->twice_ppm);
  r->bad += to >= r->count || to == (uint32_t)(n - r->node) || size > 8192;
  for (uint32_t i = 0; i < copies; i++) {
    if (rng_chance(&r->rng, r->loss_ppm) || r->node[to].group != n->group ||
        r->post_count == REALM_POST)
      continue;
    struct realm_letter *letter = &r->post[r->post_count++];
    *letter =
        (struct realm_letter){(uint32_t)(n - r->node), to, r->node[to].boot, kind, size, NULL};
    letter->bytes = malloc(size);
    memcpy(letter->bytes, bytes, size);
  }
}

/* Whoever is told of an id never hears of an older version again. */
static void realm_on_entry(void *arg, const struct accord_entry *entry)
{
  struct realm_node *n = arg;
  struct accord_version *seen = &n->seen[entry->pool.id.major - 1];
  n->realm->bad += realm_compare(&entry->version, seen) < 0;
  *seen = entry->version;
}

static void realm_start(struct realm *r, uint32_t i)
{
  struct realm_node *n = &r->node[i];
  const struct accord_options o = {.alloc = &realm_alloc,
                                   .self = i,
                                   .count = r->count,
                                   .boot = ++n->boot,
                                   .interval_ns = 1,
                                   .send = realm_send,
                                   .on_entry = realm_on_entry,
                                   .arg = n};
  memset(n->seen, 0, sizeof n->seen);
  if (accord_open(&o, &n->a) != CHI_OK)
    abort();
}

static struct realm *realm_open(uint32_t count, uint64_t seed)
{
  struct realm *r = calloc(1, sizeof *r);
  r->count = count;
  r->node = calloc(count, sizeof *r->node);
  rng_seed(&r->rng, seed, count, 3);
  for (uint32_t i = 0; i < count; i++) {
    r->node[i].realm = r;
    realm_start(r, i);
  }
  return r;
}

static bool realm_close(struct realm *r)
{
  bool good = r->bad == 0;
  while (r->post_count > 0)
    realm_drop(r, 0);
  for (uint32_t i = 0; i < r->count; i++)
    accord_close(r->node[i].a);
  free(r->node);
  free(r);
  return good && realm_memory.bytes == 0;
}

static void realm_deliver(struct realm *r, uint32_t at)
{
  struct realm_letter letter = r->post[at];
  struct realm_node *to = &r->node[letter.to];
  struct wire_in in;
  r->post[at] = r->post[--r->post_count];
  wire_in_init(&in, letter.bytes, letter.size);
  if (letter.to_boot == to->boot && to->group == r->node[letter.from].group) {
    r->bad += !accord_on_record(to->a, r->now, letter.from, letter.kind, &in);
    r->records++;
  }
  free(letter.bytes);
}

/* Every node shows its digest to one other, and sees that one's; records arrive in any order, some
 * of them (hold_ppm) only in a later round. */
static void realm_round(struct realm *r, uint32_t hold_ppm)
{
  r->now += 10;
  for (uint32_t i = 0; i < r->count && r->count > 1; i++) {
    uint32_t k = (uint32_t)rng_below(&r->rng, r->count - 1);
    k += k >= i;
    if (r->node[i].group != r->node[k].group || rng_chance(&r->rng, r->loss_ppm))
      continue;
    uint64_t digest = accord_digest(r->node[i].a);
    accord_on_digest(r->node[i].a, r->now, k, accord_digest(r->node[k].a));
    accord_on_digest(r->node[k].a, r->now, i, digest);
  }
  for (uint32_t left = 2 * REALM_POST; left > 0 && r->post_count > 0; left--) {
    if (rng_chance(&r->rng, hold_ppm))
      break;
    realm_deliver(r, (uint32_t)rng_below(&r->rng, r->post_count));
  }
}

static bool realm_same_entry(const struct accord_entry *x, const struct accord_entry *y)
{
  if (!x || !y || realm_compare(&x->version, &y->version) != 0 || x->state != y->state ||
      strcmp(x->pool.name, y->pool.name) != 0 || strcmp(x->pool.module, y->pool.module) != 0 ||
      x->move_count != y->move_count)
    return false;
  for (uint32_t i = 0; i < x->move_count; i++)
    if (x->move[i].index != y->move[i].index || x->move[i].node != y->move[i].node ||
        x->move[i].epoch != y->move[i].epoch)
      return false;
  return true;
}

/* Live pools are the same everywhere, and no name is there twice. */
static bool realm_agrees(const struct realm *r)
{
  const struct accord *first = r->node[0].a;
  const struct accord_entry *e;
  for (uint32_t i = 0; i < r->count; i++) {
    const struct accord *a = r->node[i].a;
    if (accord_digest(a) != accord_digest(first) || accord_count(a) != accord_count(first))
      return false;
    for (e = accord_next(a, NULL); e; e = accord_next(a, &e->pool.id)) {
      if (e->state > ACCORD_READY)
        continue;
      if (!realm_same_entry(e, accord_find(first, e->pool.id)) ||
          accord_find_name(a, e->pool.name) != e)
        return false;
    }
  }
  return true;
}

/* What a table says is never behind what its node was told. */
static bool realm_is_monotone(const struct realm *r)
{
  for (uint32_t i = 0; i < r->count; i++)
    for (uint32_t id = 0; id < REALM_IDS; id++) {
      const struct accord_entry *e = accord_find(r->node[i].a, (chi_pool_id){id + 1, 0});
      if (r->node[i].seen[id].counter != 0 &&
          (!e || realm_compare(&e->version, &r->node[i].seen[id]) < 0))
        return false;
    }
  return true;
}

/* Rounds until all agree; most + 1: they don't. */
static uint32_t realm_settle(struct realm *r, uint32_t most)
{
  for (uint32_t i = 0; i <= most; i++) {
    if (realm_agrees(r))
      return i;
    realm_round(r, 0);
  }
  return most + 1;
}

static uint32_t realm_bound(uint32_t count)
{
  uint32_t log = 0;
  while ((1u << log) < count)
    log++;
  return 8 + 3 * log;
}

static int realm_decide(struct realm *r, uint32_t node, uint32_t id, uint32_t name,
                        enum accord_state state)
{
  static const char *const names[] = {"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"};
  struct realm_node *n = &r->node[node];
  struct accord_pool pool = {{id + 1, 0}, names[name % 8], "mod", id % 2 ? "" : "a=1\n", r->count};
  const struct accord_entry *e = accord_find(n->a, pool.id);
  if (e && e->state <= ACCORD_READY)
    pool = e->pool;
  int rc = accord_put(n->a, &pool, state);
  e = accord_find(n->a, pool.id);
  if (rc == CHI_OK)
    n->seen[id] = e->version;
  return rc;
}

static void realm_act(struct realm *r, bool restarts)
{
  uint32_t node = (uint32_t)rng_below(&r->rng, r->count);
  uint32_t id = (uint32_t)rng_below(&r->rng, REALM_IDS), name = (uint32_t)rng_below(&r->rng, 8);
  uint32_t other = (uint32_t)rng_below(&r->rng, r->count);
  switch (rng_below(&r->rng, 12)) {
  case 0:
  case 1:
  case 2:
    realm_decide(r, node, id, name, ACCORD_CREATING);
    break;
  case 3:
  case 4:
    realm_decide(r, node, id, name, ACCORD_READY);
    break;
  case 5:
  case 6:
    realm_decide(r, node, id, name, ACCORD_DESTROYED);
    break;
  case 7:
    realm_decide(r, node, id, name, ACCORD_FAILED);
    break;
  case 8:
    accord_move(r->node[node].a, (chi_pool_id){id + 1, 0},
                &(struct accord_move){other, node, 1 + rng_below(&r->rng, 4)});
    break;
  case 9:
    r->node[node].group = (uint32_t)rng_below(&r->rng, 3);
    break;
  case 10:
    r->loss_ppm = (uint32_t)rng_below(&r->rng, 500000);
    break;
  default:
    if (!restarts)
      break;
    accord_close(r->node[node].a);
    realm_start(r, node);
  }
}

static void realm_heal(struct realm *r)
{
  r->loss_ppm = r->twice_ppm = 0;
  for (uint32_t i = 0; i < r->count; i++)
    r->node[i].group = 0;
}

/* Disorder, then order; without restarts, nothing that anybody decided is beaten by less. */
static bool realm_converges(uint32_t count, uint64_t seed, bool restarts)
{
  struct realm *r = realm_open(count, seed);
  r->twice_ppm = 100000;
  for (int i = 0; i < 300; i++) {
    realm_act(r, restarts);
    if (i % 3 == 0)
      realm_round(r, 50000);
  }
  bool good = realm_is_monotone(r);
  struct accord_version highest[REALM_IDS] = {{0}};
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t id = 0; id < REALM_IDS; id++)
      if (realm_compare(&r->node[i].seen[id], &highest[id]) > 0)
        highest[id] = r->node[i].seen[id];
  realm_heal(r);
  good = good && realm_settle(r, realm_bound(count)) <= realm_bound(count) && realm_is_monotone(r);
  for (uint32_t id = 0; id < REALM_IDS && good; id++) {
    const struct accord_entry *e = accord_find(r->node[0].a, (chi_pool_id){id + 1, 0});
    good = highest[id].counter == 0 || (e && realm_compare(&e->version, &highest[id]) >= 0);
    good = good || (restarts && !e); /* complete, and node 0 never knew it in this life */
  }
  realm_round(r, 0); /* what was still under way */
  uint64_t records = r->records;
  realm_round(r, 0);
  good = good && r->records == records; /* equal tables are silent */
  return realm_close(r) && good;
}

TEST(accord_cluster_converges)
{
  for (uint64_t seed = 1; seed <= 60; seed++)
    CHECK(realm_converges(2 + (uint32_t)(seed * 5 % 20), seed, false));
  for (uint64_t seed = 1; seed <= 3; seed++)
    CHECK(realm_converges(50, seed, false));
}

TEST(accord_cluster_converges_after_restarts)
{
  for (uint64_t seed = 1; seed <= 60; seed++)
    CHECK(realm_converges(2 + (uint32_t)(seed * 5 % 20), seed, true));
  CHECK(realm_converges(50, 1, true));
}

/* Every pool is destroyed while some nodes are away: nothing of it is live again, the tombstones
 * stay until the last one is back, and are gone soon after. */
TEST(accord_cluster_destroyed_stays_destroyed)
{
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct realm *r = realm_open(12, seed);
    for (uint32_t id = 0; id < 8; id++)
      CHECK_INT(realm_decide(r, id % 12, id, id, ACCORD_READY), CHI_OK);
    CHECK(realm_settle(r, 30) <= 30);
    r->node[3].group = 1;
    r->node[7].group = 2;
    for (uint32_t id = 0; id < 8; id++)
      CHECK_INT(realm_decide(r, 10, id, id, ACCORD_DESTROYED), CHI_OK);
    for (int i = 0; i < 40; i++)
      realm_round(r, 0);
    r->node[3].group = 0;
    for (int i = 0; i < 40; i++)
      realm_round(r, 0);
    for (uint32_t i = 0; i < 12; i++)
      CHECK(accord_count(r->node[i].a) == 8 &&
            (i == 7 || accord_digest(r->node[i].a) == accord_digest(r->node[0].a)));
    uint64_t records = r->records;
    for (int i = 0; i < 10; i++)
      realm_round(r, 0);
    CHECK(r->records == records); /* the absence of one costs nothing */
    CHECK_INT(accord_find(r->node[7].a, (chi_pool_id){1, 0})->state, ACCORD_READY);
    r->node[7].group = 0;
    CHECK(realm_settle(r, realm_bound(12)) <= realm_bound(12));
    for (uint32_t i = 0; i < 12; i++) {
      CHECK(accord_count(r->node[i].a) == 0);
      for (uint32_t id = 0; id < 8; id++)
        CHECK(accord_find(r->node[i].a, (chi_pool_id){id + 1, 0})->state == ACCORD_DESTROYED);
    }
    CHECK(realm_close(r));
  }
}

/* A node that comes back empty learns all there is. */
TEST(accord_cluster_teaches_who_was_restarted)
{
  struct realm *r = realm_open(9, 4);
  for (uint32_t id = 0; id < 8; id++)
    CHECK_INT(realm_decide(r, id, id, id, ACCORD_READY), CHI_OK);
  CHECK(realm_settle(r, 30) <= 30);
  for (uint32_t i = 0; i < 8; i++) {
    accord_close(r->node[i].a);
    realm_start(r, i);
  }
  CHECK(realm_settle(r, 30) <= 30);
  for (uint32_t i = 0; i < 9; i++)
    CHECK_INT(accord_count(r->node[i].a), 8);
  CHECK(realm_close(r));
}

/* Each of three parts creates a pool of the same name; one stays. */
TEST(accord_cluster_keeps_one_of_a_name)
{
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct realm *r = realm_open(9, seed);
    for (uint32_t i = 0; i < 9; i++)
      r->node[i].group = i % 3;
    for (uint32_t i = 0; i < 3; i++) {
      CHECK_INT(realm_decide(r, i, (seed + i) % 3, 5, ACCORD_CREATING), CHI_OK);
      if (seed >> i & 1)
        CHECK_INT(realm_decide(r, i, (seed + i) % 3, 5, ACCORD_READY), CHI_OK);
    }
    for (int i = 0; i < 10; i++)
      realm_round(r, 0);
    realm_heal(r);
    CHECK(realm_settle(r, realm_bound(9)) <= realm_bound(9));
    for (uint32_t i = 0; i < 9; i++) {
      const struct accord_entry *e = accord_find_name(r->node[i].a, "n5");
      CHECK(e && e->version.node == 2 && accord_count(r->node[i].a) == 1);
    }
    CHECK(realm_close(r));
  }
}
