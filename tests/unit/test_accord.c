/* test_accord.c - one table: decisions, what beats what, records that are refused. */
#include "accord.h"
#include "scarce.h"
#include "test.h"

#include <stdlib.h>

/* ---- one node of `count`, whose records are caught */

static struct scarce table_memory = {.fail_at = -1};
static const struct alloc table_alloc = SCARCE_ALLOC(&table_memory);

struct table_letter {
  struct table_letter *next;
  struct table *from, *to;
  enum wire_kind kind;
  size_t size;
  unsigned char bytes[];
};

static struct table_letter *table_post, **table_post_end = &table_post;

struct table {
  struct accord *a;
  uint32_t sent, told;
  size_t most;
  enum wire_kind kind;
  size_t size;
  unsigned char bytes[32768];
  struct table *other; /* gets what is sent, later; NULL: nobody */
  uint32_t self;
};

static void table_send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  struct table *t = arg;
  (void)to;
  t->sent++;
  t->kind = kind;
  t->size = size;
  t->most = size > t->most ? size : t->most;
  memcpy(t->bytes, bytes, size);
  if (!t->other)
    return;
  struct table_letter *letter = malloc(sizeof *letter + size);
  *letter = (struct table_letter){NULL, t, t->other, kind, size};
  memcpy(letter->bytes, bytes, size);
  *table_post_end = letter;
  table_post_end = &letter->next;
}

static void table_deliver(void)
{
  struct table_letter *letter = table_post;
  struct wire_in in;
  wire_in_init(&in, letter->bytes, letter->size);
  if (!accord_on_record(letter->to->a, 0, letter->from->self, letter->kind, &in))
    abort();
  table_post = letter->next;
  if (!table_post)
    table_post_end = &table_post;
  free(letter);
}

static void table_on_entry(void *arg, const struct accord_entry *entry)
{
  (void)entry;
  ((struct table *)arg)->told++;
}

static void table_open(struct table *t, uint32_t self, uint32_t count)
{
  *t = (struct table){.self = self};
  const struct accord_options o = {.alloc = &table_alloc,
                                   .self = self,
                                   .count = count,
                                   .boot = 100 + self,
                                   .interval_ns = 1000,
                                   .send = table_send,
                                   .on_entry = table_on_entry,
                                   .arg = t};
  if (accord_open(&o, &t->a) != CHI_OK)
    abort();
}

static bool table_close(struct table *t)
{
  accord_close(t->a);
  return table_memory.bytes == 0;
}

static struct accord_pool table_pool(uint32_t major, const char *name)
{
  return (struct accord_pool){{major, 0}, name, "mod", "a=1\n", 5};
}

static int table_decide(struct table *t, uint32_t major, const char *name, enum accord_state state)
{
  const struct accord_pool pool = table_pool(major, name);
  return accord_put(t->a, &pool, state);
}

static const struct accord_entry *table_find(const struct table *t, uint32_t major)
{
  return accord_find(t->a, (chi_pool_id){major, 0});
}

/* Both see each other's digest, and talk until all is said. */
static void table_meet(struct table *x, struct table *y, uint64_t now)
{
  x->other = y;
  y->other = x;
  uint64_t of_x = accord_digest(x->a);
  accord_on_digest(x->a, now, y->self, accord_digest(y->a));
  accord_on_digest(y->a, now, x->self, of_x);
  while (table_post)
    table_deliver();
  x->other = y->other = NULL;
}

/* ---- decisions */

TEST(accord_pool_lives_and_ends)
{
  struct table t;
  table_open(&t, 1, 3);
  CHECK(accord_count(t.a) == 0 && accord_digest(t.a) == 0 && !accord_next(t.a, NULL));
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_DESTROYED), CHI_ENOENT);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_CREATING), CHI_OK);
  const struct accord_entry *e = table_find(&t, 300);
  CHECK(e && e->state == ACCORD_CREATING && e->version.boot == 101 && e->version.node == 1);
  CHECK_STR(e->pool.name, "n");
  CHECK_STR(e->pool.module, "mod");
  CHECK_STR(e->pool.params, "a=1\n");
  CHECK(e->pool.containers == 5 && e->move_count == 0 && accord_find_name(t.a, "n") == e);
  struct accord_version first = e->version;
  uint64_t digest = accord_digest(t.a);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_CREATING), CHI_OK); /* it is that already */
  CHECK(accord_digest(t.a) == digest && e->version.counter == first.counter);
  CHECK_INT(accord_put(t.a, &e->pool, ACCORD_READY), CHI_OK);
  CHECK(e->state == ACCORD_READY && e->version.counter > first.counter);
  CHECK(accord_digest(t.a) != digest);
  CHECK_INT(accord_put(t.a, &e->pool, ACCORD_CREATING), CHI_OK); /* and more */
  CHECK_INT(e->state, ACCORD_READY);
  CHECK_INT(accord_put(t.a, &e->pool, ACCORD_DESTROYED), CHI_OK);
  e = table_find(&t, 300);
  CHECK(e && e->state == ACCORD_DESTROYED && !accord_find_name(t.a, "n"));
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_FAILED), CHI_ENOENT);
  CHECK(accord_count(t.a) == 1 && t.told == 0 && t.sent == 0);
  CHECK(table_close(&t));
}

TEST(accord_next_generation_beats_the_last)
{
  struct table t;
  table_open(&t, 0, 2);
  uint64_t last = 0;
  for (int i = 0; i < 3; i++) {
    CHECK_INT(table_decide(&t, 300, "n", ACCORD_READY), CHI_OK);
    CHECK(table_find(&t, 300)->version.counter > last);
    CHECK_INT(table_decide(&t, 300, "n", ACCORD_DESTROYED), CHI_OK);
    last = table_find(&t, 300)->version.counter;
  }
  CHECK_INT(table_decide(&t, 301, "n", ACCORD_CREATING), CHI_OK); /* the name counts, too */
  CHECK(table_find(&t, 301)->version.counter > last);
  CHECK_INT(table_decide(&t, 300, "other", ACCORD_CREATING), CHI_OK);
  CHECK_STR(table_find(&t, 300)->pool.name, "other");
  CHECK(accord_count(t.a) == 2 && table_close(&t));
}

TEST(accord_put_finds_conflicts)
{
  struct table t;
  struct accord_pool p = table_pool(300, "n");
  table_open(&t, 0, 2);
  CHECK_INT(accord_put(t.a, &p, ACCORD_CREATING), CHI_OK);
  uint64_t digest = accord_digest(t.a);
  p.name = "other";
  CHECK_INT(accord_put(t.a, &p, ACCORD_READY), CHI_ECONFLICT);
  p = table_pool(300, "n");
  p.module = "other";
  CHECK_INT(accord_put(t.a, &p, ACCORD_CREATING), CHI_ECONFLICT);
  p = table_pool(300, "n");
  p.params = "";
  CHECK_INT(accord_put(t.a, &p, ACCORD_CREATING), CHI_ECONFLICT);
  p = table_pool(300, "n");
  p.containers = 4;
  CHECK_INT(accord_put(t.a, &p, ACCORD_DESTROYED), CHI_ECONFLICT);
  CHECK_INT(table_decide(&t, 301, "n", ACCORD_CREATING), CHI_ECONFLICT);
  CHECK(accord_digest(t.a) == digest && accord_count(t.a) == 1);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_FAILED), CHI_OK);
  CHECK_INT(table_decide(&t, 301, "n", ACCORD_CREATING), CHI_OK);
  CHECK(table_close(&t));
}

TEST(accord_moves_are_kept_by_epoch)
{
  struct table t;
  chi_pool_id id = {300, 0};
  table_open(&t, 0, 4);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 2, 1}), CHI_ENOENT);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_CREATING), CHI_OK);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){5, 2, 1}), CHI_ENOENT);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){3, 2, 1}), CHI_OK);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 0, 4}), CHI_OK);
  uint64_t digest = accord_digest(t.a);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 3, 4}), CHI_ECONFLICT);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 3, 3}), CHI_ECONFLICT);
  CHECK(accord_digest(t.a) == digest);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 1, 5}), CHI_OK);
  const struct accord_entry *e = table_find(&t, 300);
  CHECK(e->move_count == 2 && e->move[0].index == 1 && e->move[0].node == 1);
  CHECK(e->move[0].epoch == 5 && e->move[1].index == 3 && e->move[1].node == 2);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_READY), CHI_OK); /* they stay */
  CHECK_INT(table_find(&t, 300)->move_count, 2);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_DESTROYED), CHI_OK);
  CHECK_INT(table_find(&t, 300)->move_count, 0);
  CHECK_INT(accord_move(t.a, id, &(struct accord_move){1, 3, 9}), CHI_ENOENT);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(table_find(&t, 300)->move_count, 0);
  CHECK(table_close(&t));
}

TEST(accord_walks_in_order_of_id)
{
  static const chi_pool_id ids[] = {{UINT32_MAX, UINT32_MAX}, {7, 1}, {300, 0}, {7, 0}, {0, 9}};
  static const uint32_t order[] = {4, 3, 1, 2, 0};
  struct table t;
  char name[8];
  table_open(&t, 0, 2);
  for (uint32_t i = 0; i < CHI_COUNT(ids); i++) {
    snprintf(name, sizeof name, "p%u", i);
    struct accord_pool p = table_pool(0, name);
    p.id = ids[i];
    CHECK_INT(accord_put(t.a, &p, ACCORD_READY), CHI_OK);
  }
  const struct accord_entry *e = accord_next(t.a, NULL);
  for (uint32_t i = 0; i < CHI_COUNT(ids); i++, e = accord_next(t.a, &e->pool.id))
    CHECK(e && e->pool.id.major == ids[order[i]].major && e->pool.id.minor == ids[order[i]].minor);
  CHECK(!e && table_close(&t));
}

TEST(accord_table_is_bounded)
{
  struct table t, other;
  char name[16];
  table_open(&t, 0, 2);
  table_open(&other, 1, 2);
  for (uint32_t i = 1; i <= ACCORD_MAX; i++) {
    snprintf(name, sizeof name, "p%u", i);
    CHECK_INT(table_decide(&t, i, name, ACCORD_READY), CHI_OK);
  }
  CHECK_INT(table_decide(&t, ACCORD_MAX + 1, "more", ACCORD_READY), CHI_ERANGE);
  CHECK_INT(table_decide(&other, ACCORD_MAX + 1, "more", ACCORD_READY), CHI_OK);
  CHECK_INT(accord_learn(t.a, table_find(&other, ACCORD_MAX + 1)), CHI_ERANGE);
  for (int i = 1; i <= 20; i++)
    table_meet(&t, &other, (uint64_t)i * 1000);
  CHECK(accord_count(t.a) == ACCORD_MAX && accord_count(other.a) == ACCORD_MAX);
  CHECK_INT(table_decide(&t, 5, "p5", ACCORD_DESTROYED), CHI_OK); /* that needs no more room */
  CHECK(t.most <= 32768 && other.most <= 32768);
  accord_close(other.a);
  CHECK(table_close(&t));
}

TEST(accord_survives_every_failed_allocation)
{
  uint32_t failures = 0;
  for (int at = 0; at < 100; at++) {
    struct table x, y;
    const chi_pool_id id = {300, 0};
    table_open(&x, 0, 2);
    table_open(&y, 1, 2);
    table_memory.fail_at = at;
    int rc = table_decide(&x, 300, "n", ACCORD_CREATING);
    rc = rc == CHI_OK ? accord_move(x.a, id, &(struct accord_move){1, 0, 1}) : rc;
    rc = rc == CHI_OK ? accord_learn(y.a, table_find(&x, 300)) : rc;
    rc = rc == CHI_OK ? table_decide(&x, 300, "n", ACCORD_DESTROYED) : rc;
    rc = rc == CHI_OK ? table_decide(&x, 300, "m", ACCORD_READY) : rc;
    rc = rc == CHI_OK ? accord_learn(y.a, table_find(&x, 300)) : rc;
    bool spent = table_memory.fail_at == -1;
    table_memory.fail_at = -1;
    CHECK(rc == CHI_OK || rc == CHI_ENOMEM);
    failures += rc == CHI_ENOMEM;
    for (int k = 1; k <= 4; k++)
      table_meet(&x, &y, (uint64_t)k * 1000);
    CHECK(accord_digest(x.a) == accord_digest(y.a));
    accord_close(x.a);
    CHECK(table_close(&y));
    if (!spent)
      break;
  }
  CHECK(failures >= 6);
  struct accord *a;
  table_memory.fail_at = 0;
  CHECK_INT(accord_open(&(struct accord_options){.alloc = &table_alloc, .count = 1, .boot = 1}, &a),
            CHI_ENOMEM);
  CHECK(table_memory.fail_at == -1 && table_memory.bytes == 0);
}

/* ---- two tables */

TEST(accord_equal_tables_are_silent)
{
  struct table x, y;
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  table_meet(&x, &y, 1000);
  CHECK(x.sent + y.sent == 0);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  table_meet(&x, &y, 2000);
  CHECK(accord_digest(x.a) == accord_digest(y.a) && y.told == 1 && x.told == 0);
  uint32_t sent = x.sent + y.sent;
  table_meet(&x, &y, 9000);
  CHECK_INT(x.sent + y.sent, sent);
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_starts_one_exchange_per_interval)
{
  struct table t;
  table_open(&t, 0, 3);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_READY), CHI_OK);
  accord_on_digest(t.a, 5000, 1, 0);
  accord_on_digest(t.a, 5999, 1, 0);
  CHECK(t.sent == 1 && t.kind == WIRE_POOLS);
  accord_on_digest(t.a, 5999, 2, 0); /* another peer */
  accord_on_digest(t.a, 6000, 1, 0);
  CHECK_INT(t.sent, 3);
  CHECK(table_close(&t));
}

TEST(accord_tables_become_equal)
{
  struct table x, y;
  char name[16];
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  for (uint32_t i = 1; i <= 900; i++) { /* several records of versions */
    snprintf(name, sizeof name, "p%u", i);
    if (i % 3 != 0)
      CHECK_INT(table_decide(&x, i, name, ACCORD_CREATING), CHI_OK);
    if (i % 3 != 1)
      CHECK_INT(table_decide(&y, i, name, i % 2 ? ACCORD_READY : ACCORD_CREATING), CHI_OK);
    if (i % 7 == 0 && i % 3 != 0)
      CHECK_INT(table_decide(&x, i, name, ACCORD_DESTROYED), CHI_OK);
  }
  for (int i = 1; i <= 3; i++)
    table_meet(&x, &y, (uint64_t)i * 1000);
  CHECK(accord_digest(x.a) == accord_digest(y.a));
  for (uint32_t i = 1; i <= 900; i++) {
    const struct accord_entry *e = table_find(&x, i), *f = table_find(&y, i);
    CHECK(e && f && e->state == f->state && e->version.counter == f->version.counter);
    CHECK(e->version.boot == f->version.boot && e->version.node == f->version.node);
    CHECK(strcmp(e->pool.name, f->pool.name) == 0);
    CHECK(i % 7 || i % 3 == 0 || e->state == ACCORD_DESTROYED);
  }
  accord_close(x.a);
  CHECK(table_close(&y));
}

/* Long entries come by and by: what one record makes a node send is bounded. */
TEST(accord_sends_in_bursts)
{
  static char params[ACCORD_PARAMS];
  struct table x, y;
  char name[16];
  memset(params, 'p', sizeof params - 1);
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  for (uint32_t i = 1; i <= 150; i++) {
    snprintf(name, sizeof name, "p%u", i);
    const struct accord_pool pool = {{i, 0}, name, "mod", params, 2};
    CHECK_INT(accord_put(x.a, &pool, ACCORD_READY), CHI_OK);
  }
  x.other = &y;
  y.other = &x;
  for (uint32_t k = 1; k <= 3; k++) {
    accord_on_digest(y.a, k * 1000, 0, accord_digest(x.a));
    uint64_t before = accord_count(y.a);
    while (table_post)
      table_deliver();
    CHECK(accord_count(y.a) - before <= 128 * 1024 / 2048);
    CHECK(accord_count(y.a) == 150 || accord_count(y.a) - before > 50);
  }
  CHECK(accord_count(y.a) == 150 && accord_digest(x.a) == accord_digest(y.a));
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_many_moves_come_in_pieces)
{
  struct table x, y;
  struct accord_pool p = table_pool(300, "n");
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  p.containers = ACCORD_CONTAINERS;
  CHECK_INT(accord_put(x.a, &p, ACCORD_READY), CHI_OK);
  for (uint32_t i = 0; i < 1001; i++)
    CHECK_INT(accord_move(x.a, p.id, &(struct accord_move){4095 - 4 * i, i % 2, 1 + i}), CHI_OK);
  table_meet(&x, &y, 1000);
  const struct accord_entry *e = table_find(&y, 300);
  CHECK(e && e->move_count == 1001 && accord_digest(x.a) == accord_digest(y.a));
  for (uint32_t i = 0; i < 1001; i++)
    CHECK(e->move[i].index == 95 + 4 * i && e->move[i].epoch == 1001 - i);
  accord_close(x.a);
  CHECK(table_close(&y));
}

/* What two nodes decided without hearing of each other, and what comes of it. */
TEST(accord_concurrent_moves_are_both_kept)
{
  struct table x, y;
  chi_pool_id id = {300, 0};
  table_open(&x, 0, 3);
  table_open(&y, 1, 3);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  table_meet(&x, &y, 1000);
  CHECK_INT(accord_move(x.a, id, &(struct accord_move){1, 0, 1}), CHI_OK);
  CHECK_INT(accord_move(x.a, id, &(struct accord_move){2, 0, 1}), CHI_OK);
  CHECK_INT(accord_move(y.a, id, &(struct accord_move){0, 1, 1}), CHI_OK);
  CHECK_INT(accord_move(y.a, id, &(struct accord_move){2, 1, 2}), CHI_OK);
  table_meet(&x, &y, 2000);
  CHECK(accord_digest(x.a) == accord_digest(y.a) && x.told == 1);
  const struct accord_entry *e = table_find(&x, 300);
  CHECK(e->move_count == 3 && e->move[0].node == 1 && e->move[1].node == 0 && e->move[2].node == 1);
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_moves_of_the_last_generation_are_dropped)
{
  struct table x, y;
  chi_pool_id id = {300, 0};
  table_open(&x, 0, 3);
  table_open(&y, 1, 3);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(accord_move(x.a, id, &(struct accord_move){1, 0, 1}), CHI_OK);
  CHECK_INT(accord_learn(y.a, table_find(&x, 300)), CHI_OK);
  CHECK(table_find(&y, 300)->move_count == 1 && accord_digest(x.a) == accord_digest(y.a));
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_DESTROYED), CHI_OK);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(accord_move(x.a, id, &(struct accord_move){2, 0, 1}), CHI_OK);
  CHECK_INT(accord_learn(y.a, table_find(&x, 300)), CHI_OK);
  CHECK(table_find(&y, 300)->move_count == 1 && table_find(&y, 300)->move[0].index == 2);
  accord_close(x.a);
  CHECK(table_close(&y));
}

/* Only one of them ever sees the other's digest. */
TEST(accord_one_side_may_start_all_exchanges)
{
  struct table x, y;
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(table_decide(&y, 200, "m", ACCORD_READY), CHI_OK);
  CHECK_INT(table_decide(&y, 400, "o", ACCORD_READY), CHI_OK);
  x.other = &y;
  y.other = &x;
  accord_on_digest(x.a, 1000, 1, accord_digest(y.a));
  while (table_post)
    table_deliver();
  CHECK(accord_digest(x.a) == accord_digest(y.a) && accord_count(x.a) == 3);
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_later_states_win)
{
  static const enum accord_state pairs[][3] = {{ACCORD_READY, ACCORD_DESTROYED, ACCORD_DESTROYED},
                                               {ACCORD_READY, ACCORD_FAILED, ACCORD_FAILED},
                                               {ACCORD_DESTROYED, ACCORD_FAILED, ACCORD_DESTROYED},
                                               {ACCORD_DESTROYED, ACCORD_READY, ACCORD_DESTROYED}};
  for (uint32_t i = 0; i < CHI_COUNT(pairs); i++) {
    struct table x, y;
    table_open(&x, 0, 3);
    table_open(&y, 1, 3);
    CHECK_INT(table_decide(&x, 300, "n", ACCORD_CREATING), CHI_OK);
    table_meet(&x, &y, 1000);
    CHECK_INT(table_decide(&x, 300, "n", pairs[i][0]), CHI_OK);
    CHECK_INT(table_decide(&y, 300, "n", pairs[i][1]), CHI_OK);
    for (int k = 2; k <= 4; k++)
      table_meet(&x, &y, (uint64_t)k * 1000);
    CHECK(table_find(&x, 300)->state == pairs[i][2] && table_find(&y, 300)->state == pairs[i][2]);
    CHECK(accord_digest(x.a) == accord_digest(y.a));
    accord_close(x.a);
    CHECK(table_close(&y));
  }
}

TEST(accord_one_pool_created_twice_is_one)
{
  struct table x, y;
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_CREATING), CHI_OK);
  CHECK_INT(table_decide(&y, 300, "n", ACCORD_CREATING), CHI_OK);
  table_meet(&x, &y, 1000);
  const struct accord_entry *e = table_find(&x, 300);
  CHECK(e->state == ACCORD_CREATING && e->version.node == 1 && x.told == 1 && y.told == 0);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(table_decide(&y, 300, "n", ACCORD_READY), CHI_OK);
  CHECK(accord_digest(x.a) == accord_digest(y.a)); /* the same decision */
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_one_id_for_two_pools)
{
  struct table x, y;
  table_open(&x, 0, 2);
  table_open(&y, 1, 2);
  CHECK_INT(table_decide(&x, 300, "n", ACCORD_CREATING), CHI_OK);
  CHECK_INT(table_decide(&y, 300, "m", ACCORD_CREATING), CHI_OK);
  table_meet(&x, &y, 1000);
  CHECK_STR(table_find(&x, 300)->pool.name, "m");
  CHECK_STR(table_find(&y, 300)->pool.name, "m");
  CHECK(!accord_find_name(x.a, "n") && accord_find_name(x.a, "m") && x.told == 1);
  CHECK(accord_digest(x.a) == accord_digest(y.a));
  accord_close(x.a);
  CHECK(table_close(&y));
}

TEST(accord_one_name_for_two_pools)
{
  for (uint32_t ready = 0; ready < 4; ready++) { /* who had come how far doesn't matter */
    struct table x, y;
    table_open(&x, 0, 2);
    table_open(&y, 1, 2);
    CHECK_INT(table_decide(&x, 300, "n", ready & 1 ? ACCORD_READY : ACCORD_CREATING), CHI_OK);
    CHECK_INT(table_decide(&y, 200, "n", ready & 2 ? ACCORD_READY : ACCORD_CREATING), CHI_OK);
    for (int k = 1; k <= 3; k++)
      table_meet(&x, &y, (uint64_t)k * 1000);
    const struct table *both[] = {&x, &y};
    for (int i = 0; i < 2; i++) {
      CHECK_INT(table_find(both[i], 300)->state, ACCORD_LOST); /* node 1 has the higher boot */
      CHECK(table_find(both[i], 200)->state <= ACCORD_READY);
      CHECK(accord_find_name(both[i]->a, "n") == table_find(both[i], 200));
      CHECK_INT(accord_count(both[i]->a), 1); /* both have acknowledged the other */
    }
    CHECK(accord_digest(x.a) == accord_digest(y.a) && x.told >= 2 && y.told == 1);
    CHECK_INT(table_decide(&x, 300, "n", ACCORD_READY), CHI_ECONFLICT);
    CHECK_INT(table_decide(&x, 300, "k", ACCORD_READY), CHI_OK);
    accord_close(x.a);
    CHECK(table_close(&y));
  }
}

/* ---- tombstones */

TEST(accord_tombstone_waits_for_everybody)
{
  struct table t[3];
  for (uint32_t i = 0; i < 3; i++)
    table_open(&t[i], i, 3);
  CHECK_INT(table_decide(&t[0], 300, "n", ACCORD_READY), CHI_OK);
  table_meet(&t[0], &t[1], 1000);
  table_meet(&t[0], &t[2], 1000);
  CHECK_INT(table_decide(&t[0], 300, "n", ACCORD_DESTROYED), CHI_OK);
  for (int k = 2; k < 50; k++) /* node 2 is away */
    table_meet(&t[0], &t[1], (uint64_t)k * 1000);
  CHECK(accord_count(t[0].a) == 1 && accord_count(t[1].a) == 1);
  CHECK(accord_digest(t[0].a) == accord_digest(t[1].a) && accord_digest(t[0].a) != 0);
  CHECK_INT(table_find(&t[2], 300)->state, ACCORD_READY);
  uint32_t told = t[2].told;
  table_meet(&t[1], &t[2], 60000); /* it has a live pool to offer, in vain */
  CHECK(table_find(&t[2], 300)->state == ACCORD_DESTROYED && t[2].told == told + 1);
  CHECK(accord_count(t[2].a) == 0 && accord_digest(t[2].a) == 0);
  for (int k = 61; k < 65; k++) {
    table_meet(&t[0], &t[2], (uint64_t)k * 1000);
    table_meet(&t[1], &t[2], (uint64_t)k * 1000);
  }
  for (uint32_t i = 0; i < 3; i++)
    CHECK(accord_count(t[i].a) == 0 && accord_digest(t[i].a) == 0);
  uint32_t sent = t[0].sent + t[1].sent + t[2].sent;
  table_meet(&t[0], &t[1], 70000);
  table_meet(&t[1], &t[2], 70000);
  CHECK_INT(t[0].sent + t[1].sent + t[2].sent, sent);
  accord_close(t[0].a);
  accord_close(t[1].a);
  CHECK(table_close(&t[2]));
}

/* Node 0 acknowledges, is restarted without memory and hears of the pool from node 2, which was
 * away; node 2 then acknowledges, so that all have. */
TEST(accord_complete_tombstones_are_remembered)
{
  struct table t[3];
  for (uint32_t i = 0; i < 3; i++)
    table_open(&t[i], i, 3);
  CHECK_INT(table_decide(&t[2], 300, "n", ACCORD_READY), CHI_OK);
  table_meet(&t[2], &t[1], 1000);
  CHECK_INT(table_decide(&t[1], 300, "n", ACCORD_DESTROYED), CHI_OK);
  table_meet(&t[1], &t[0], 2000);
  table_meet(&t[1], &t[0], 3000);
  accord_close(t[0].a);
  table_open(&t[0], 0, 3);
  table_meet(&t[0], &t[2], 4000);
  CHECK_INT(table_find(&t[0], 300)->state, ACCORD_READY);
  table_meet(&t[1], &t[2], 5000);
  table_meet(&t[1], &t[2], 6000);
  CHECK(accord_count(t[1].a) == 0 && accord_count(t[2].a) == 0);
  table_meet(&t[0], &t[2], 7000);
  CHECK(table_find(&t[0], 300)->state == ACCORD_DESTROYED && accord_count(t[0].a) == 0);
  accord_close(t[0].a);
  accord_close(t[1].a);
  CHECK(table_close(&t[2]));
}

TEST(accord_remembers_so_many)
{
  struct table t;
  char name[16];
  table_open(&t, 0, 1); /* alone: complete at once */
  for (uint32_t i = 1; i <= ACCORD_REMEMBERED + 10; i++) {
    snprintf(name, sizeof name, "p%u", i);
    CHECK_INT(table_decide(&t, i, name, ACCORD_READY), CHI_OK);
    CHECK_INT(table_decide(&t, i, name, ACCORD_DESTROYED), CHI_OK);
    if (i == 20) { /* a complete one can live again */
      CHECK_INT(table_decide(&t, 15, "p15", ACCORD_READY), CHI_OK);
      CHECK_INT(table_decide(&t, 20, "q", ACCORD_READY), CHI_OK);
    }
  }
  CHECK_INT(accord_count(t.a), 2);
  for (uint32_t i = 1; i <= ACCORD_REMEMBERED + 10; i++)
    CHECK((table_find(&t, i) == NULL) == (i <= 8));
  CHECK(table_find(&t, 15)->state == ACCORD_READY && accord_find_name(t.a, "q"));
  CHECK(table_close(&t));
}

TEST(accord_next_life_decides_with_its_boot)
{
  struct table t;
  table_open(&t, 0, 2);
  accord_reborn(t.a, 900);
  CHECK_INT(table_decide(&t, 300, "n", ACCORD_READY), CHI_OK);
  CHECK_INT(table_find(&t, 300)->version.boot, 900);
  CHECK(table_close(&t));
}

/* ---- entries and records that are refused */

static struct accord_entry table_entry(void)
{
  return (struct accord_entry){
      .pool = table_pool(300, "n"), .version = {8 + ACCORD_READY, 5, 1}, .state = ACCORD_READY};
}

TEST(accord_learns_what_is_newer)
{
  struct table t;
  struct accord_entry e = table_entry();
  table_open(&t, 0, 3);
  CHECK(accord_learn(t.a, &e) == CHI_OK && t.told == 1);
  CHECK(accord_learn(t.a, &e) == CHI_OK && t.told == 1);
  e.version.counter = 8 + ACCORD_CREATING;
  e.state = ACCORD_CREATING;
  CHECK(accord_learn(t.a, &e) == CHI_OK && t.told == 1);
  CHECK_INT(table_find(&t, 300)->state, ACCORD_READY);
  e.version.counter = 8 + ACCORD_FAILED;
  e.state = ACCORD_FAILED;
  CHECK(accord_learn(t.a, &e) == CHI_OK && t.told == 2);
  CHECK_INT(table_find(&t, 300)->state, ACCORD_FAILED);
  CHECK(table_close(&t));
}

TEST(accord_learns_nothing_impossible)
{
  static char text[4096];
  struct table t;
  struct accord_move moves[] = {{1, 0, 1}, {1, 0, 2}, {5, 0, 1}, {1, 3, 1}};
  memset(text, 'x', sizeof text - 1);
  table_open(&t, 0, 3);
  for (int i = 0; i < 17; i++) {
    struct accord_entry e = table_entry();
    switch (i) {
    case 0:
      e.version.counter = 1;
      break;
    case 1:
      e.version.counter = (1ull << 60) + 1;
      break;
    case 2:
      e.version.counter = 8 + 5, e.state = (enum accord_state)5;
      break;
    case 3:
      e.state = ACCORD_CREATING;
      break;
    case 4:
      e.version.boot = 0;
      break;
    case 5:
      e.version.node = 3;
      break;
    case 6:
      e.pool.id = (chi_pool_id){0, 0};
      break;
    case 7:
      e.pool.containers = 0;
      break;
    case 8:
      e.pool.containers = ACCORD_CONTAINERS + 1;
      break;
    case 9:
      e.pool.name = "";
      break;
    case 10:
      e.pool.module = "";
      break;
    case 11:
      e.pool.name = text;
      break;
    case 12:
      e.pool.module = text + sizeof text - 1 - CHI_NAME_MAX;
      break;
    case 13:
      e.pool.params = text + sizeof text - 1 - ACCORD_PARAMS;
      break;
    case 14:
      e.move = moves, e.move_count = 2;
      break;
    case 15:
      e.move = &moves[2], e.move_count = 1;
      break;
    default:
      e.move = &moves[3], e.move_count = 1;
      break;
    }
    CHECK_INT(accord_learn(t.a, &e), CHI_ECORRUPT);
  }
  CHECK(accord_count(t.a) == 0 && t.told == 0);
  CHECK(table_close(&t));
}

static bool table_refuses(uint32_t from, enum wire_kind kind, const unsigned char *bytes,
                          size_t size)
{
  struct table t;
  struct wire_in in;
  unsigned char *copy = malloc(size + 1); /* so that a sanitizer sees what is read beyond it */
  table_open(&t, 0, 3);
  int rc = table_decide(&t, 7, "seven", ACCORD_READY);
  uint64_t digest = accord_digest(t.a);
  memcpy(copy, bytes, size);
  wire_in_init(&in, copy, size);
  bool good = rc == CHI_OK && !accord_on_record(t.a, 0, from, kind, &in) && t.sent == 0 &&
              t.told == 0 && accord_digest(t.a) == digest;
  free(copy);
  return table_close(&t) && good;
}

/* A real record as another node writes it. */
static void table_sample(struct table *x, enum wire_kind kind, bool dead)
{
  struct wire_in in;
  unsigned char wish[64];
  struct wire_out out;
  table_open(x, 1, 3);
  if (table_decide(x, 300, "n", ACCORD_READY) != CHI_OK ||
      accord_move(x->a, (chi_pool_id){300, 0}, &(struct accord_move){1, 0, 1}) != CHI_OK)
    abort();
  if (dead && table_decide(x, 300, "n", ACCORD_DESTROYED) != CHI_OK)
    abort();
  if (kind == WIRE_POOLS) {
    accord_on_digest(x->a, 1000, 0, 0);
    return;
  }
  wire_out_init(&out, wish, sizeof wish);
  wire_put_u8(&out, 1);
  wire_put_u64(&out, 300ull << 32);
  wire_put_u64(&out, 300ull << 32);
  wire_put_u16(&out, 1);
  wire_put_u64(&out, 300ull << 32);
  wire_in_init(&in, wish, out.used);
  if (!accord_on_record(x->a, 0, 0, WIRE_POOLS, &in) || x->kind != WIRE_POOL)
    abort();
}

TEST(accord_refuses_cut_and_overlong_records)
{
  static const enum wire_kind kinds[] = {WIRE_POOLS, WIRE_POOL, WIRE_POOL};
  for (uint32_t i = 0; i < CHI_COUNT(kinds); i++) {
    struct table x;
    table_sample(&x, kinds[i], i == 2);
    accord_close(x.a);
    for (size_t size = 0; size < x.size; size++)
      CHECK(table_refuses(1, kinds[i], x.bytes, size));
    CHECK(table_refuses(1, kinds[i], x.bytes, x.size + 1));
    CHECK(table_refuses(0, kinds[i], x.bytes, x.size)); /* from this node itself */
    CHECK(table_refuses(3, kinds[i], x.bytes, x.size)); /* from no node */
    CHECK(table_refuses(1, WIRE_PROBE, x.bytes, x.size));
    CHECK(table_memory.bytes == 0);
  }
}

/* Offset in a record, and bytes that can't be there. */
TEST(accord_refuses_impossible_fields)
{
  static const struct {
    enum wire_kind kind;
    bool dead;
    size_t at;
    unsigned char byte;
  } bad[] = {
      {WIRE_POOLS, false, 0, 2},    /* flags */
      {WIRE_POOLS, false, 8, 1},    /* first, beyond the id */
      {WIRE_POOLS, false, 17, 2},   /* count */
      {WIRE_POOLS, false, 18, 255}, /* count */
      {WIRE_POOLS, false, 27, 5},   /* counter without a generation */
      {WIRE_POOLS, false, 34, 255}, /* counter too high */
      {WIRE_POOLS, false, 43, 3},   /* node */
      {WIRE_POOL, false, 8, 8 + 5}, /* state */
      {WIRE_POOL, false, 24, 3},    /* node */
      {WIRE_POOL, false, 31, 1},    /* containers */
      {WIRE_POOL, false, 46, 201},  /* moves */
      {WIRE_POOL, false, 48, 5},    /* index */
      {WIRE_POOL, false, 52, 3},    /* node */
      {WIRE_POOL, false, 56, 0},    /* epoch */
      {WIRE_POOL, false, 64, 1},    /* acknowledgements of a live pool */
      {WIRE_POOL, true, 50, 8 | 2}, /* of a node that isn't there */
      {WIRE_POOL, true, 48, 2},     /* too many bytes of them */
  };
  for (uint32_t i = 0; i < CHI_COUNT(bad); i++) {
    struct table x;
    table_sample(&x, bad[i].kind, bad[i].dead);
    accord_close(x.a);
    CHECK(x.bytes[bad[i].at] != bad[i].byte);
    x.bytes[bad[i].at] = bad[i].byte;
    if (!table_refuses(1, bad[i].kind, x.bytes, x.size))
      test_fail(__FILE__, __LINE__, "row %u was not refused", i);
  }
}
