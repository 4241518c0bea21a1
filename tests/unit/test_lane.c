/* test_lane.c - submission and completion rings: order, fullness, laps, hostile contents. */
#include "lane.h"
#include "test.h"

#include <stdlib.h>

static struct lane_desk lane_desk;
static struct lane_board *lane_board;
static struct lane_out lane_out;
static struct lane_in lane_in;

/* Both indexes stand at `start`. */
static bool lane_open(enum lane_kind kind, uint32_t start)
{
  memset(&lane_desk, 0, sizeof lane_desk);
  free(lane_board);
  lane_board = calloc(1, lane_board_size(64));
  if (!lane_board)
    return false;
  lane_out_init(&lane_out, &lane_desk, lane_board, kind);
  lane_in_init(&lane_in, &lane_desk, lane_board, kind);
  lane_out.tail = lane_out.taken_seen = lane_in.head = start;
  lane_board->taken[kind].value = start;
  return true;
}

TEST(lane_empty)
{
  struct lane_entry e;
  enum lane_op op;
  CHECK(lane_open(LANE_FAST, 0));
  CHECK(!lane_ready(&lane_in));
  CHECK(!lane_take(&lane_in, &e, &op));
  CHECK_INT(lane_board->taken[LANE_FAST].value, 0);
}

TEST(lane_carries_what_was_put)
{
  CHECK(lane_open(LANE_SLOW, 0));
  CHECK(lane_put(&lane_out, LANE_RUN, UINT64_MAX - 7, UINT32_MAX));
  uint32_t first = lane_tag(&lane_out, LANE_SLOW);
  CHECK(lane_put(&lane_out, LANE_CANCEL, 5, 7));
  uint32_t second = lane_tag(&lane_out, LANE_SLOW);
  CHECK(first != second && first != 0 && second != 0);
  struct lane_entry e = {0};
  enum lane_op op = LANE_CANCEL;
  CHECK(lane_ready(&lane_in));
  CHECK(lane_take(&lane_in, &e, &op));
  CHECK(op == LANE_RUN && e.ref == UINT64_MAX - 7 && e.slot == UINT32_MAX && e.turn == first);
  CHECK(lane_take(&lane_in, &e, &op));
  CHECK(op == LANE_CANCEL && e.ref == 5 && e.slot == 7 && e.turn == second);
  CHECK(!lane_ready(&lane_in) && !lane_take(&lane_in, &e, &op));
  CHECK_INT(lane_board->taken[LANE_SLOW].value, 2);
  CHECK_INT(lane_board->taken[LANE_FAST].value, 0);
}

TEST(lane_looks_ahead)
{
  CHECK(lane_open(LANE_FAST, LANE_ENTRIES - 1));
  for (uint64_t ref = 8; ref <= 24; ref += 8)
    CHECK(lane_put(&lane_out, ref == 16 ? LANE_CANCEL : LANE_RUN, ref, 0));
  CHECK_INT(lane_ahead(&lane_in, 0), 8);
  CHECK_INT(lane_ahead(&lane_in, 1), 0); /* no task */
  CHECK_INT(lane_ahead(&lane_in, 2), 24);
  CHECK_INT(lane_ahead(&lane_in, 3), 0); /* not there yet */
  struct lane_entry e;
  enum lane_op op;
  CHECK(lane_take(&lane_in, &e, &op));
  CHECK_INT(lane_ahead(&lane_in, 1), 24);
}

TEST(lane_kinds_are_apart)
{
  static struct lane_desk desk;
  struct lane_board *board = calloc(1, lane_board_size(16));
  struct lane_out out[LANE_KINDS];
  struct lane_in in[LANE_KINDS];
  uint32_t tag[LANE_KINDS];
  CHECK(board);
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    lane_out_init(&out[k], &desk, board, (enum lane_kind)k);
    lane_in_init(&in[k], &desk, board, (enum lane_kind)k);
    CHECK(lane_put(&out[k], LANE_RUN, k, k));
    tag[k] = lane_tag(&out[k], (enum lane_kind)k);
    for (uint32_t i = 0; i < k; i++)
      CHECK(tag[k] != tag[i]); /* though both are the first of their lane */
  }
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    struct lane_entry e = {0};
    enum lane_op op;
    CHECK(lane_take(&in[k], &e, &op));
    CHECK(e.ref == k && e.turn == tag[k]);
    CHECK(!lane_take(&in[k], &e, &op));
    board->home[k] = k + 5;
    CHECK_INT(lane_home(board, (enum lane_kind)k), k + 5);
  }
  free(board);
}

/* Fills and empties it several times, around every place where an index wraps. */
static void lane_laps(uint32_t start)
{
  struct lane_entry e;
  enum lane_op op;
  uint64_t put = 0, taken = 0;
  CHECK(lane_open(LANE_NETWORK, start));
  for (uint32_t lap = 0; lap < 5; lap++) {
    while (lane_put(&lane_out, put % 3 ? LANE_RUN : LANE_CANCEL, put, (uint32_t)put))
      put++;
    CHECK_INT(put - taken, LANE_ENTRIES);
    for (uint32_t i = 0; i < LANE_ENTRIES / (lap % 2 + 1); i++, taken++) {
      CHECK(lane_ready(&lane_in) && lane_take(&lane_in, &e, &op));
      CHECK(e.ref == taken && e.slot == (uint32_t)taken);
      CHECK(op == (taken % 3 ? LANE_RUN : LANE_CANCEL));
    }
  }
  while (lane_take(&lane_in, &e, &op))
    CHECK(e.ref == taken++);
  CHECK(put == taken);
}

TEST(lane_laps_from_the_start)
{
  lane_laps(0);
}

TEST(lane_laps_where_the_index_wraps)
{
  lane_laps(UINT32_MAX - LANE_ENTRIES - 3);
  lane_laps(UINT32_MAX);
}

/* A client may write what it likes: the daemon takes an entry only in its turn, and the turn of
 * another lap, or a gap, is none. */
TEST(lane_ignores_wrong_turns)
{
  struct lane_entry e;
  enum lane_op op;
  CHECK(lane_open(LANE_FAST, 7 * LANE_ENTRIES));
  struct lane_entry *at = &lane_desk.entry[LANE_FAST][0];
  for (uint32_t lap = 0; lap < 20; lap++) {
    for (uint32_t any = 0; any < 2; any++) {
      at->turn = lap << 1 | any;
      CHECK(lane_ready(&lane_in) == (lap == 8));
      CHECK(lap == 8 || !lane_take(&lane_in, &e, &op));
    }
  }
  at->turn = UINT32_MAX;
  CHECK(!lane_ready(&lane_in));
  lane_desk.entry[LANE_FAST][1].turn = 8 << 1; /* the next, but not this one */
  CHECK(!lane_take(&lane_in, &e, &op));
}

/* A daemon's figures may be as wrong: the client then sees a full lane, never one too many. */
TEST(lane_full_whatever_is_taken)
{
  CHECK(lane_open(LANE_FAST, 0));
  for (uint32_t i = 0; i < LANE_ENTRIES; i++)
    CHECK(lane_put(&lane_out, LANE_RUN, 0, 0));
  CHECK(!lane_put(&lane_out, LANE_RUN, 0, 0));
  lane_board->taken[LANE_FAST].value = 1;
  CHECK(lane_put(&lane_out, LANE_RUN, 0, 0));
  CHECK(!lane_put(&lane_out, LANE_RUN, 0, 0));
}

/* ---- completions */

TEST(lane_done_room)
{
  CHECK_INT(lane_done_room(1), 16);
  CHECK_INT(lane_done_room(16), 16);
  CHECK_INT(lane_done_room(17), 32);
  CHECK_INT(lane_done_room(64), 64);
  CHECK_INT(lane_done_room(1000), 1024);
  CHECK_INT(lane_done_room(65536), 65536);
  CHECK(lane_board_size(16) == sizeof(struct lane_board) + 16 * sizeof(struct lane_done));
}

static void lane_done_laps(uint32_t depth, uint32_t start)
{
  struct lane_board *board = calloc(1, lane_board_size(depth));
  struct lane_done_in in;
  struct lane_done_out out;
  struct lane_done d = {0};
  uint32_t room = lane_done_room(depth);
  uint64_t pushed = 0, popped = 0;
  CHECK(board);
  lane_done_in_init(&in, board, depth);
  lane_done_out_init(&out, board, depth);
  in.tail = out.head = start;
  CHECK(!lane_done_ready(&out) && !lane_done_pop(&out, &d));
  for (uint32_t lap = 0; lap < 4; lap++) {
    for (; pushed - popped < room; pushed++)
      lane_done_push(&in, (uint32_t)pushed, -(int32_t)pushed);
    for (uint32_t i = 0; i < room - lap; i++, popped++) {
      CHECK(lane_done_ready(&out) && lane_done_pop(&out, &d));
      CHECK(d.slot == (uint32_t)popped && d.rc == -(int32_t)popped);
    }
  }
  while (lane_done_pop(&out, &d))
    CHECK(d.slot == popped++);
  CHECK(popped == pushed && !lane_done_ready(&out));
  free(board);
}

TEST(lane_done_laps)
{
  lane_done_laps(1, 0);
  lane_done_laps(16, 0);
  lane_done_laps(100, 0);
}

TEST(lane_done_laps_where_the_index_wraps)
{
  lane_done_laps(16, UINT32_MAX - 20);
  lane_done_laps(64, UINT32_MAX);
}
