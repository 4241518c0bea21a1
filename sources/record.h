/* record.h - a node on a tape: everything it hears from the world, and all it says.
 *
 * While recording, this is an environment in front of the real one that only forwards, and writes
 * down what passes. While replaying, there is nothing behind it but memory: the same calls answer
 * from the tape, and what the node says is compared with what it said. All workers must be stepped
 * by one thread. Whoever drives the node uses these functions instead of runtime_*.
 *
 * What clients write is read at two places. Lanes: the node is given a desk of its own, to which
 * entries are copied between steps. Tasks and buffers: where the core says that it is going to read
 * (env.h: memory); of a task it reads a copy. A client that writes to a buffer that it has
 * submitted spoils the record. */
#ifndef CHI_RECORD_H
#define CHI_RECORD_H

#include "base.h"
#include "env.h"
#include "lane.h"
#include "runtime.h"
#include "tape.h"

/* What a node begins with, at the head of its record. */
#define RECORD_MODULES 64u
struct record_head {
  chi_config config; /* reading: to be freed */
  char instance[CHI_NAME_MAX + 16];
  uint32_t node, module_count;
  char module[RECORD_MODULES][CHI_NAME_MAX]; /* linked in */
};

#define RECORD_WORKERS 2050u /* the most that a configuration allows */

struct record;

/* Prepares a record over an environment; CHI_ENOMEM. */
CHI_PRIVATE int record_open(struct env *base, struct record **out);
/* Frees it; after runtime_close. */
CHI_PRIVATE void record_close(struct record *r);
/* What the node is to be opened with. */
CHI_PRIVATE struct env *record_env(struct record *r);

/* Begins to write, before runtime_open. CHI_ETOOBIG: too many modules; or what the store said. */
CHI_PRIVATE int record_write(struct record *r, const struct tape_store *store,
                             const struct runtime_options *options);
/* Begins to read instead. The caller opens the node as *head says, then calls record_opened and
 * record_play until that is false. lost is called, and must not come back, where the tape ends or
 * doesn't fit while the node is at work. False: see record_tape. */
CHI_PRIVATE CHI_UNUSED bool record_read(struct record *r, const struct tape_store *store,
                                        void (*lost)(void *arg), void *arg,
                                        struct record_head *head);
/* Does the next thing that was done to the node; false: there is none. */
CHI_PRIVATE CHI_UNUSED bool record_play(struct record *r, struct runtime *rt);
/* How far it is, and what is wrong. */
CHI_PRIVATE const struct tape *record_tape(const struct record *r);

/* ---- driving a node, written down. r may be NULL: then these only forward. */
CHI_PRIVATE void record_opened(struct record *r, int rc);
CHI_PRIVATE bool record_step(struct record *r, struct runtime *rt, uint32_t worker, uint64_t now,
                             uint32_t budget, uint64_t *deadline);
CHI_PRIVATE bool record_may_sleep(struct record *r, struct runtime *rt, uint32_t worker);
CHI_PRIVATE void record_awake(struct record *r, struct runtime *rt, uint32_t worker);
CHI_PRIVATE void record_stop(struct record *r, struct runtime *rt, uint64_t grace_ns);
CHI_PRIVATE void record_on_connect(struct record *r, struct runtime *rt, env_link link,
                                   const struct env_peer *peer);
CHI_PRIVATE void record_on_request(struct record *r, struct runtime *rt, env_link link,
                                   const void *message, size_t size);
CHI_PRIVATE void record_on_hangup(struct record *r, struct runtime *rt, env_link link);
CHI_PRIVATE void record_on_message(struct record *r, struct runtime *rt,
                                   const struct env_frame *frame, uint32_t count);
CHI_PRIVATE void record_on_peer(struct record *r, struct runtime *rt, uint32_t peer,
                                bool connected);
CHI_PRIVATE void record_on_sent(struct record *r, struct runtime *rt, void *parcel);

/* Between steps: copies what clients have put into their lanes, and wakes those for whom something
 * has ended. True: something was copied. After every step, and once more before a sleep: the
 * node's own look, after it has said that it is going to sleep, doesn't reach the clients. */
CHI_PRIVATE bool record_exchange(struct record *r);
/* Writes what there is to the file, before a sleep. */
CHI_PRIVATE void record_flush(struct record *r);
/* The node has stopped: its last figures and the end of the record. CHI_OK, or why it is not
 * complete. */
CHI_PRIVATE int record_finish(struct record *r, struct runtime *rt);

/* ---- between record.c and record_seam.c */

/* Kinds of items: inputs are even, outputs odd. */
#define RECORD_KINDS(X)                                                                            \
  X(HEAD, 2, "the head")                                                                           \
  X(STEP, 4, "a step")                                                                             \
  X(SLEEP, 6, "a worker about to sleep")                                                           \
  X(AWAKE, 8, "a worker awake")                                                                    \
  X(STOP, 10, "a stop")                                                                            \
  X(CONNECT, 12, "a client connects")                                                              \
  X(REQUEST, 14, "a request of a client")                                                          \
  X(HANGUP, 16, "a client is gone")                                                                \
  X(MESSAGE, 18, "a message of a node")                                                            \
  X(PEER, 20, "a connection to a node")                                                            \
  X(SENT, 22, "a parcel handed back")                                                              \
  X(LANE, 24, "an entry in a lane")                                                                \
  X(RESULT, 26, "the result of what was asked")                                                    \
  X(CLOCK, 28, "a look at the clock")                                                              \
  X(RANDOM, 30, "a random number")                                                                 \
  X(WALL, 32, "the time of day")                                                                   \
  X(NO_MEMORY, 34, "no memory")                                                                    \
  X(STACK, 36, "a stack")                                                                          \
  X(BELL, 38, "a bell")                                                                            \
  X(REAP, 40, "a look for completed file operations")                                              \
  X(OPENED, 1, "opened:")                                                                          \
  X(STEPPED, 3, "stepped:")                                                                        \
  X(ASLEEP, 5, "may sleep:")                                                                       \
  X(LOG, 7, "log:")                                                                                \
  X(TRACE, 9, "trace:")                                                                            \
  X(STACK_CLOSE, 11, "a stack given back")                                                         \
  X(SEGMENT_OPEN, 13, "segment open:")                                                             \
  X(SEGMENT_CLOSE, 15, "segment close:")                                                           \
  X(SEGMENT_DISCARD, 17, "segment discard:")                                                       \
  X(SEGMENT_RESTORE, 19, "segment restore:")                                                       \
  X(BELL_CLOSE, 21, "bell close:")                                                                 \
  X(BELL_RING, 23, "bell ring:")                                                                   \
  X(LINK_REPLY, 25, "link reply:")                                                                 \
  X(LINK_CLOSE, 27, "link close:")                                                                 \
  X(IO_SUBMIT, 29, "io submit:")                                                                   \
  X(IO_BLOCKS, 31, "io blocks:")                                                                   \
  X(MODULE_LOAD, 33, "module load:")                                                               \
  X(NET_OPEN, 35, "net open:")                                                                     \
  X(NET_CLOSE, 37, "net close")                                                                    \
  X(NET_SEND, 39, "net send:")                                                                     \
  X(NET_RESET, 41, "net reset:")                                                                   \
  X(TAKES, 43, "takes a client's memory:")                                                         \
  X(RETURNS, 45, "returns a client's memory:")                                                     \
  X(FIGURES, 47, "figures:")
#define RECORD_KIND(name, number, text) RECORD_##name = number,
enum record_kind { RECORD_NONE = 0, RECORD_KINDS(RECORD_KIND) };
#undef RECORD_KIND

/* Memory shared with clients. The node's handle is the place in the list. */
struct record_segment {
  struct env_segment base; /* base.base NULL: closed */
  void *own;               /* of a desk: what the node has instead; else NULL */
};

/* A pointer that comes back from the environment, by the number of the call that it went with. */
struct record_flight {
  void *what;
  uint64_t number;
};

/* A client's queue: its lanes on the desk that the client writes and on the node's own. */
struct record_set {
  struct record_set *next;
  int64_t desk; /* segment */
  uint64_t number;
  struct lane_desk *outside;
  struct lane_in in[LANE_KINDS];
  struct lane_out out[LANE_KINDS];
  struct lane_done_out done;
  env_bell bell;
  uint32_t rung;
  struct lane_board taken; /* of what was copied: only its fixed part */
};

/* An array that grows. */
struct record_list {
  void *item;
  uint32_t count, room;
};

struct record {
  struct env env; /* the node's */
  struct env *base;
  struct tape tape;
  bool asleep[RECORD_WORKERS]; /* has said that it is going to sleep */
  uint32_t peers; /* nodes in the list of hosts, once there is a network */
  bool records; /* clients are there: desks are copied, also when writing has failed */
  uint64_t gets, puts, flights, sets; /* calls of the allocator; numbers given */
  void *task;            /* the copy of a client's task that is read */
  size_t task_room;
  struct record_list segment; /* of record_segment */
  struct record_list bell;    /* of env_bell; ENV_NO_BELL: closed */
  struct record_list io, parcel; /* of record_flight */
  struct record_set *set, **set_end;
};

/* Fills in the environment of the node. */
CHI_PRIVATE void record_env_init(struct record *r);
/* Several numbers of one input, either way. */
CHI_PRIVATE void record_values(struct record *r, int kind, uint64_t *value, uint32_t count);
/* Room for one more item of `size` bytes; NULL: no memory. */
CHI_PRIVATE void *record_list_add(struct record *r, struct record_list *list, size_t size);
/* The flight of this pointer, or of this number where that is NULL; taken out. Its number is 0 if
 * there is none. */
CHI_PRIVATE struct record_flight record_list_take(struct record_list *list, const void *what,
                                                  uint64_t number);
/* A client is given a queue: desk, board and bell. False: no memory. */
CHI_PRIVATE bool record_set_add(struct record *r, const struct env_share *share, uint32_t depth);
/* The desk is closed, if it is one. */
CHI_PRIVATE void record_set_drop(struct record *r, int64_t desk);

CHI_INLINE bool record_reads(const struct record *r)
{
  return r->tape.mode == TAPE_READS;
}

#endif
