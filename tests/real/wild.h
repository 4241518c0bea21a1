/* wild.h - a client that keeps to no rules: it speaks to the daemon by hand. */
#ifndef CHI_TEST_WILD_H
#define CHI_TEST_WILD_H

#include "attach.h"
#include "lane.h"
#include "real_env.h"
#include "shm.h"

#define WILD_CHUNKS 64

struct wild_queue {
  uint32_t id, depth;
  struct env_segment desk_segment, board_segment;
  struct lane_desk *desk;
  const struct lane_board *board;
  env_bell bell;
  struct lane_out out[LANE_KINDS];
  struct lane_done_out done;
  uint64_t answers;
};

struct wild {
  struct real_env real;
  env_link link; /* 0: none */
  struct attach_reply hello;
  struct env_segment page;
  env_bell bell[ATTACH_BELLS_MAX];
  uint32_t bells;
  struct env_segment chunk[WILD_CHUNKS]; /* by chunk number */
  uint64_t lot;
};

/* Connects; says hello and fetches the bells if `greet`. CHI_OK or a code. */
int wild_attach(struct wild *w, const char *instance, bool greet);
/* Hangs up and forgets everything. */
void wild_detach(struct wild *w);

/* Any request. *reply is what came back; shares may be NULL: then there is room for none. */
int wild_call(struct wild *w, const struct attach_request *request, struct attach_reply *reply,
              struct env_share *shares, uint32_t *count);
/* A chunk; its number, or a code. */
int wild_lease(struct wild *w, uint32_t kind, uint64_t size);
int wild_return(struct wild *w, uint32_t chunk);
int wild_open(struct wild *w, struct wild_queue *q);
int wild_close(struct wild *w, struct wild_queue *q);
/* Forgets the memory of a queue without telling anybody. */
void wild_drop(struct wild *w, struct wild_queue *q);

/* Puts an entry and wakes whoever may sleep; false: full. */
bool wild_put(struct wild *w, struct wild_queue *q, enum lane_kind kind, enum lane_op op,
              uint64_t ref, uint32_t slot);
/* Puts, and waits while it is full: for at most a second. */
bool wild_push(struct wild *w, struct wild_queue *q, enum lane_kind kind, enum lane_op op,
               uint64_t ref, uint32_t slot);
/* Rings every worker, asleep or not. */
void wild_ring(struct wild *w);
/* Takes the answers that there are: how many. */
/* The same for an entry that claims to say all there is in the header. */
bool wild_push_brief(struct wild *w, struct wild_queue *q, enum lane_kind kind, uint64_t ref,
                     uint32_t slot, chi_pool_id pool, uint32_t method);
uint32_t wild_reap(struct wild_queue *q);

/* Random numbers: a new one, one below `most`, and bytes. */
uint64_t wild_lot(struct wild *w);
uint64_t wild_below(struct wild *w, uint64_t most);
void wild_noise(struct wild *w, void *to, size_t size);

#endif
