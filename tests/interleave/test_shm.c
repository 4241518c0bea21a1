/* test_shm.c - a chunk is known only when all of it is. */
#include "board.h"
#include "explore.h"
#include "lane.h"
#include "shm.h"
#include "test.h"

struct leasing {
  struct shm_table table;
  struct shm_chunk chunk[2];
  char memory[2][128];
  struct lane_desk desk;
  struct board board;
  struct lane_out out;
  struct lane_in in;
  uint32_t told; /* the reply that says which chunk it is: a message, in order */
  uint32_t guessed, resolved;
};

static void leasing_begin(void *world)
{
  struct leasing *l = world;
  memset(l, 0, sizeof *l);
  l->table = (struct shm_table){l->chunk, 2};
  lane_out_init(&l->out, &l->desk, board_of(&l->board), LANE_FAST);
  lane_in_init(&l->in, &l->desk, board_of(&l->board), LANE_FAST);
}

static void leasing_network(void *world)
{
  struct leasing *l = world;
  for (uint32_t i = 0; i < 2; i++) {
    shm_publish(&l->table, i, l->memory[i], sizeof l->memory[i]);
    EXPLORE_CALL(&l->told);
    l->told = i + 1;
  }
}

static void leasing_client(void *world)
{
  struct leasing *l = world;
  for (uint32_t i = 0; i < 2; i++) {
    EXPLORE_CALL(&l->told);
    if (l->told > i)
      lane_put(&l->out, LANE_RUN, shm_ref(i, 64), 1);
    else
      lane_put(&l->out, LANE_RUN, shm_ref(i, 64), 0); /* a guess */
  }
}

static void leasing_worker(void *world)
{
  struct leasing *l = world;
  for (int i = 0; i < 4; i++) {
    struct lane_entry e = {0};
    enum lane_op op = LANE_RUN;
    if (!lane_take(&l->in, &e, &op))
      continue;
    void *at = shm_resolve(&l->table, e.ref, 64);
    uint32_t chunk = e.ref == shm_ref(1, 64);
    EXPLORE_CHECK(at == l->memory[chunk] + 64 || (!at && e.slot == 0));
    EXPLORE_CHECK(shm_resolve(&l->table, e.ref, 65) == NULL);
    EXPLORE_CHECK(at || shm_resolve(&l->table, shm_ref(1, 0), 0) != (void *)64);
    l->resolved += e.slot == 1;
    l->guessed += e.slot == 0;
  }
}

static void leasing_end(void *world)
{
  const struct leasing *l = world;
  EXPLORE_CHECK(l->resolved + l->guessed <= 2);
  EXPLORE_CHECK(l->told == 2 || explore_state(0) == EXPLORE_KILLED);
}

TEST(interleave_shm_publish_resolve)
{
  static struct leasing l;
  const struct explore e = {
      .name = "chunks",
      .world = &l,
      .begin = leasing_begin,
      .end = leasing_end,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << 1,
      .count = 3,
      .party = {{"network", leasing_network, 0},
                {"worker", leasing_worker, 0},
                {"client", leasing_client, 1}},
  };
  CHECK(explore(&e));
}
