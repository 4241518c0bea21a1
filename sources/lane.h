/* lane.h - submission and completion rings in memory shared between a client and the daemon.
 *
 * A queue has a desk, which the client writes, and a board, which the daemon writes and the client
 * maps read-only. On the desk: three submission rings. On the board: how far each was taken, which
 * worker is its home, and the completion ring, which has room for everything in flight.
 *
 * Every entry carries its turn (which lap of the ring it belongs to), written last; so neither side
 * needs the other's index to know whether an entry is there. The daemon copies an entry before it
 * looks at it, and trusts nothing in it. */
#ifndef CHI_LANE_H
#define CHI_LANE_H

#include "base.h"
#include "bell.h"

enum lane_kind { LANE_FAST, LANE_SLOW, LANE_NETWORK, LANE_KINDS };
enum lane_op { LANE_RUN, LANE_CANCEL };

#ifndef LANE_ENTRIES
#define LANE_ENTRIES 1024u /* of one submission ring: eight pages */
#endif

struct lane_entry {
  uint64_t ref;    /* of the task in shared memory */
  uint64_t pool;   /* brief: lane_pool of its pool */
  uint32_t method; /* brief: of its method */
  uint32_t brief;  /* not 0: all else in its header is zero, so that it need not be looked at */
  uint32_t slot;   /* echoed by the completion; the tag of the task for LANE_CANCEL */
  uint32_t turn;   /* lap * 2 + op; where it was taken out: its tag */
};
CHI_INLINE uint64_t lane_pool(chi_pool_id id)
{
  return (uint64_t)id.major << 32 | id.minor;
}

struct lane_done {
  uint32_t slot;
  int32_t rc;
  uint32_t unused;
  uint32_t turn; /* lap */
};

struct lane_desk {
  struct bell_word client; /* the client's own sleep */
  struct lane_entry entry[LANE_KINDS][LANE_ENTRIES];
};

struct lane_count {
  uint32_t value;
  uint32_t unused[15];
};

struct lane_board {
  uint32_t home[LANE_KINDS]; /* worker that serves the lane now */
  uint32_t unused[13];
  struct lane_count taken[LANE_KINDS];
  struct lane_done done[]; /* lane_done_room(depth) of them */
};

/* Entries of a completion ring for `depth` tasks in flight, and the bytes of a board. */
CHI_PRIVATE uint32_t lane_done_room(uint32_t depth);
CHI_PRIVATE uint64_t lane_board_size(uint32_t depth);

/* ---- client side: one thread */
struct lane_out {
  struct lane_entry *entry;
  const uint32_t *taken;
  uint32_t tail, taken_seen;
};
CHI_PRIVATE void lane_out_init(struct lane_out *o, struct lane_desk *desk,
                               const struct lane_board *board, enum lane_kind kind);
/* False: full. */
CHI_PRIVATE bool lane_put(struct lane_out *o, enum lane_op op, uint64_t ref, uint32_t slot);
/* The same for a task whose header has a pool and a method, and else is zero: then its memory stays
 * in the cache of who wrote it, but for the fields. */
CHI_PRIVATE bool lane_put_brief(struct lane_out *o, uint64_t ref, uint32_t slot, uint64_t pool,
                                uint32_t method);
/* The tag of what was put last: names an entry among all lanes of a queue; never 0. Both sides
 * know it from the entry's place, so that it need not be written anywhere. */
CHI_PRIVATE uint32_t lane_tag(const struct lane_out *o, enum lane_kind kind);

/* Who serves the lane, to be woken for what was put; orders everything put before it. */
CHI_PRIVATE uint32_t lane_home(const struct lane_board *board, enum lane_kind kind);

struct lane_done_out {
  const struct lane_done *ring;
  uint32_t mask, shift, head;
};
CHI_PRIVATE void lane_done_out_init(struct lane_done_out *o, const struct lane_board *board,
                                    uint32_t depth);
CHI_PRIVATE bool lane_done_pop(struct lane_done_out *o, struct lane_done *out);
CHI_PRIVATE bool lane_done_ready(const struct lane_done_out *o);

/* ---- daemon side. Taking: one worker at a time, under a latch. Completing: any worker. */
struct lane_in {
  struct lane_entry *entry;
  uint32_t *taken;
  uint32_t head, kind;
};
CHI_PRIVATE void lane_in_init(struct lane_in *in, struct lane_desk *desk, struct lane_board *board,
                              enum lane_kind kind);
CHI_PRIVATE bool lane_take(struct lane_in *in, struct lane_entry *out, enum lane_op *op);
/* The ref of the entry that lies `ahead` places after the next one, if it has arrived; 0: not. A
 * hint, for who wants its memory to be near when its turn comes. */
CHI_PRIVATE uint64_t lane_ahead(const struct lane_in *in, uint32_t ahead);
/* A hint without the latch; exact for the home worker after a fence while nobody else takes. */
CHI_PRIVATE bool lane_ready(const struct lane_in *in);

struct lane_done_in {
  struct lane_done *ring;
  uint32_t mask, shift;
  uint32_t tail; /* completions so far */
};
CHI_PRIVATE void lane_done_in_init(struct lane_done_in *in, struct lane_board *board,
                                   uint32_t depth);
CHI_PRIVATE void lane_done_push(struct lane_done_in *in, uint32_t slot, int32_t rc);

#endif
