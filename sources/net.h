/* net.h - a task between nodes: sent, retried, run once, split over a range, answered, gathered.
 *
 * A call is a task that is (also) for containers of other nodes. It has parts: contiguous ranges of
 * containers, each for one node, which splits its range again. A part for another node is a request
 * in one of the slots towards that node; the pair (slot, sequence) is what the receiver remembers,
 * so that a body runs at most once however often the request arrives, with bounded memory and
 * without one long task holding up the others. A request is bound to the life (boot) of the node it
 * was first sent to.
 *
 *   CHI_EUNREACHABLE   certainly not run: never sent, or refused as not run
 *   CHI_EUNKNOWN       may have run: the other side died, came back or gave no sign of life
 *
 * Answers are folded in container order, each index once. Network worker only. */
#ifndef CHI_NET_H
#define CHI_NET_H

#include "base.h"
#include "directory.h"
#include "peer.h"
#include "worker.h"

#define NET_SLOTS 256u               /* requests under way to one peer */
#define NET_BYTES (64ull << 20)      /* bulk bytes under way to one peer, or one request */
#define NET_BYTE_NS 120ull           /* what a byte of bulk may take: 8 MiB/s and more are borne */
#define NET_ASK_NS 250000000ull      /* without news, after which a request is asked for */
#define NET_ACK_NS 250000000ull      /* an answer is acknowledged by then, if no request does it */
#define NET_FAILED ((uint32_t)CHI_FAILURES_MOST) /* failed containers that a result names */
#define NET_HOPS 8u                  /* times that "moved" is followed at once; then slower */
#define NET_TRIES 3u                 /* lives that may end with an idempotent part: it may be why */
#define NET_WAITING 65536u           /* parts that wait for one peer; beyond: CHI_EBUSY */
#define NET_ASK_MAX_NS 2000000000ull /* between two questions about a long task, and until */
                                     /* a peer is reminded of an answer */
#define NET_BUSY_NS 1000000ull       /* first pause after "not run: busy"; doubles */
#define NET_BUSY_MAX_NS 100000000ull
#define NET_SHELF_NS 1000000000ull /* memory of bulk data is kept so long for more of it */
#define NET_MARGIN_NS 2000000ull /* of the remaining time, kept back at each hop */

struct net;

struct net_options {
  struct worker_crew *crew;
  struct peer_set *peers;
  struct directory *directory;
  uint32_t neighborhood;        /* most parts of a range at each hop; below 2: a chain */
  uint64_t task_timeout_ns;     /* without a sign of life from the executor */
  uint64_t wait_for_restart_ns; /* for a peer that isn't there */
  /* Membership: whether the node is taken for dead. */
  bool (*is_dead)(void *arg, uint32_t node);
  void *arg;
};

CHI_PRIVATE int net_open(const struct net_options *options, struct net **out);
/* After the last step; frees what is left. */
CHI_PRIVATE void net_close(struct net *n);

/* Takes a task that is for containers first .. first + count - 1 of its pool (ctx->container is any
 * of them, ctx->map the pool's map): not all of them here, or with CHI_TASK_FORCE_NET. Ends it by
 * worker_end exactly once, in this call or later. */
CHI_PRIVATE void net_submit(struct net *n, chi_ctx *ctx, uint32_t first, uint32_t count);
/* Somebody asked for cancellations: calls whose task is cancelled pass it on. */
CHI_PRIVATE void net_look_for_cancelled(struct net *n);
/* A new snapshot of the pools: requests that wait for a pool are looked at again. */
CHI_PRIVATE void net_on_pools(struct net *n);

CHI_PRIVATE void net_on_record(struct net *n, struct peer *from, enum wire_kind kind,
                               struct wire_in *record);
/* News of a peer: see peer.h. */
CHI_PRIVATE void net_on_boot(struct net *n, const struct peer *peer);
CHI_PRIVATE void net_on_reborn(struct net *n);
CHI_PRIVATE void net_on_dead(struct net *n, uint32_t node);
CHI_PRIVATE void net_on_sent(struct net *n, void *parcel);
/* Does what time brings; returns when it wants to be called again. */
CHI_PRIVATE uint64_t net_step(struct net *n, uint64_t now);
/* No request of others is being run, and no call is under way. */
CHI_PRIVATE bool net_idle(const struct net *n);
/* Refuses what others send from now on (not run), and after `at` gives up calls of its own. */
CHI_PRIVATE void net_drain(struct net *n, uint64_t at);
/* Of a node that drains, and is idle: every peer that is there knows that it must not ask any more,
 * has been answered all it has asked, and has all the answers. It may never be so. */
CHI_PRIVATE bool net_departed(const struct net *n);

/* What ENV_TRACE_NET tells of. */
enum net_trace {
  NET_TRACE_SENT,        /* a request, for the first time */
  NET_TRACE_RESENT,      /* the same again: the peer hadn't seen it */
  NET_TRACE_ANSWERED,    /* its answer has arrived */
  NET_TRACE_REPEATED,    /* an answer was sent once more, or a repeated request found its run */
  NET_TRACE_NOT_RUN,     /* a request was refused */
  NET_TRACE_MOVED,       /* refused since the container is on another node */
  NET_TRACE_RETRIED,     /* a part begins again under a new key */
  NET_TRACE_UNREACHABLE, /* a part ended with CHI_EUNREACHABLE */
  NET_TRACE_UNKNOWN,     /* a part ended with CHI_EUNKNOWN */
  NET_TRACE_ABORTED      /* what a peer no longer waits for was cancelled */
};

/* Whether a call of this lock group is under way that waits for its end in vain if the pool is
 * waited for: the client's own task for the pool, or one that was called, over however many others
 * of this node, by one that runs in it. */
CHI_PRIVATE bool net_called_from(const struct net *n, uint64_t root, const struct pool *pool);
/* Calls under way of tasks of this node for that method. */
CHI_PRIVATE uint32_t net_calls_of(const struct net *n, const struct method *method);

struct net_figures {
  uint64_t calls;                /* tasks that were taken in by net_submit */
  uint64_t requests;             /* parts sent to peers */
  uint64_t retries;              /* requests sent again, and parts begun again under a new key */
  uint64_t runs;                 /* requests of peers that were admitted */
  uint64_t repeats;              /* requests that came again, and answers sent again */
  uint64_t answers;              /* to peers */
  uint64_t not_run;              /* refused to peers */
  uint64_t aborted;              /* runs that nobody waits for any more */
  uint64_t malformed;            /* records that made no sense */
  uint64_t unreachable, unknown; /* parts that ended so */
  uint64_t bytes_out, bytes_in;  /* of requests and answers, with their bulk */
  uint32_t calls_open, runs_open, answers_kept;
  uint64_t calls_ended, calls_ns;    /* this node's own, and how long they took in all */
  uint64_t call_time[POOL_BUCKETS];  /* how many took so long: see pool_bucket */
};
CHI_PRIVATE void net_figures(const struct net *n, struct net_figures *out);
/* What lies between this node and another one now. */
struct net_peer_figures {
  uint32_t waiting, open; /* requests that wait to be sent; that are sent and not answered */
  uint32_t kept;          /* answers that the peer has not acknowledged */
};
CHI_PRIVATE void net_peer_figures(const struct net *n, uint32_t node, struct net_peer_figures *out);
/* What this node holds of peers' room, and of its own for them: slots, bytes, answers. It comes
 * back to 0 when nothing is under way any more. */
CHI_PRIVATE uint64_t net_credit(const struct net *n);

/* ---- between the files of net, each with its own part below */

struct net_timer {
  struct heap_entry entry;
  void (*due)(struct net *n, struct net_timer *t);
};

/* Begins whatever bulk frames point into: while `count` of them are under way it isn't freed. */
struct net_pin {
  uint32_t count;
  bool run; /* of a net_run; else of a net_part */
};

/* Blocks of one size, for what tasks come and go with: those of tasks that have ended are used by
 * the next ones, which finds them near. */
#define NET_SPARE 256u /* that are kept */
struct net_spare {
  void *first; /* begins with a pointer to the next */
  uint32_t count, size;
};

/* Bytes of bulk data of requests, and of their answers. */
struct net_bulk {
  uint64_t there, back;
};

/* Memory for bulk data. */
struct net_store {
  struct net_block *first;
  uint64_t bytes;
};

/* What a task is known by on all nodes, with the number of the container. */
struct net_key {
  uint32_t node;
  uint64_t boot, seq;
};

/* Of the containers a call was for: how many, how many failed, and the first of those. */
struct net_failures {
  uint32_t asked, failed, listed;
  struct {
    uint32_t container;
    int32_t rc;
  } item[NET_FAILED]; /* by container, ascending */
};

enum net_part_state {
  NET_PART_NEW,
  NET_PART_WAITING, /* in the queue of its link */
  NET_PART_PAUSED,  /* until its timer */
  NET_PART_SENT,    /* in a slot of its link */
  NET_PART_HERE,    /* a task of this node */
  NET_PART_ENDED
};

struct net_part {
  struct net_pin pin;
  struct net_call *call;
  struct net_part *next; /* of the call, by container */
  uint32_t first, count, node;
  enum net_part_state state;
  struct net_key key;
  struct net_link *link;
  struct net_part *before, *behind; /* in the link's queue */
  uint32_t slot;
  uint64_t seq;
  uint64_t heard, ask_at, ask_ns; /* last news; the next question, and how long after this one */
  size_t size;                    /* of the request: most bytes */
  struct net_bulk bulk;
  uint32_t busy, hops, tries;
  struct net_timer timer;
  chi_ctx *replica; /* a task of its own: one that runs here, or is one of several */
  struct net_store store;
  int32_t rc;
  bool ran, gathered; /* its fields mean something; they hold at least one success */
};

struct net_call {
  struct net_call *next, *before; /* of all, or of those that are done */
  struct net *net;
  chi_ctx *ctx;
  const chi_module *def;
  struct net_run *run; /* it is a range for a peer; NULL: ctx ends by worker_end */
  struct net_part *part;
  uint32_t open; /* parts that have not ended, and 1 while it is begun */
  uint32_t pins;
  bool several, gathered, placed, done;
  int32_t cancel; /* the code with which it is to end */
  uint64_t began;
  uint64_t version[2];    /* of the pool's entry when it began */
  struct net_timer timer; /* the deadline */
  struct net_failures failures; /* of a new one, `item` and what follows are as they happen to be */
  uint64_t rooms[WIRE_BULKS];
};

struct net_slot {
  uint64_t seq;
  struct net_part *part;
  uint32_t free; /* the next free one + 1 */
  bool ack;      /* its last answer has not been acknowledged */
};

/* What is remembered of the last request in a slot of a peer: its run, or why there is none. */
struct net_seat {
  uint64_t seq;
  struct net_run *run;
  int32_t rc; /* not run; 0: acknowledged, or there is a run */
  uint32_t moved, first, count;
};

/* One direction there, one back: what we ask of a peer and what it asks of us. */
struct net_link {
  struct net *net;
  struct peer *peer;
  uint32_t node;
  bool choked;   /* it holds memory of calls that are given up */
  bool departing; /* the peer stops: in this life it takes nothing new */
  bool released; /* this node stops, and the peer knows that it does */
  uint64_t boot; /* of the peer's life all this is about */
  bool there;
  uint64_t gone; /* when it was there last */
  struct net_timer timer;
  struct net_part *first, *last; /* waiting, oldest call first */
  uint32_t waiting, prompt;      /* of them, with TASK_PROMPT */
  bool stalled;                  /* what waits found no room with the peer */
  struct net_slot *slot;
  uint32_t slots, free, busy, acks; /* free: the first free one + 1 */
  struct net_bulk bulk; /* under way */
  uint64_t ack_at, ask_at;
  struct net_seat *seat;
  uint32_t seats;
  uint64_t held; /* bytes of its requests and of answers kept for it */
  uint32_t kept; /* answers that it hasn't acknowledged */
  uint64_t tell_at;            /* that this node stops */
  uint64_t remind_at, look_at; /* look_at: runs that it no longer asks for are ended */
};

struct net_request {
  uint32_t slot;
  uint64_t seq;
  struct net_key key;
  uint32_t first, count;
  chi_pool_id pool;
  uint64_t version[2];
  uint32_t method, flags;
  uint64_t remaining; /* 0: no deadline */
  uint64_t root;
  uint32_t depth, compute_us, period_us;
  uint64_t io_size;
  chi_query query;
};
#define NET_REQUEST_SIZE 112u

struct net_answer {
  uint32_t slot;
  uint64_t seq;
  int32_t rc;
  bool ran, gathered, moved;
  uint32_t node; /* moved: where to */
  struct net_failures failures;
};
#define NET_ANSWER_SIZE (28u + NET_FAILED * 8u) /* at most */

enum net_run_state { NET_RUN_PARKED, NET_RUN_RUNNING, NET_RUN_ANSWERED };

/* A request of a peer, from its admission until its answer isn't needed any more. */
struct net_run {
  struct net_pin pin;
  struct net_run *next, *before; /* of all */
  struct net *net;
  struct net_link *link;
  enum net_run_state state;
  bool orphan; /* its seat has gone on to another */
  struct net_timer timer; /* while parked */
  uint64_t arrived;       /* the request; then, when it was answered */
  uint64_t heard;         /* the request, or the last question about it */
  struct net_store raw;   /* what came, while parked */
  struct wire_in parked;
  struct net_store in, out; /* bulk that is only read; that is part of the answer */
  uint64_t held;
  chi_ctx *ctx;
  struct net_call *call; /* of a range */
  unsigned char *answer;
  size_t answer_room, answer_size;
  uint32_t frames;

  /* A new one has these as they happen to be. */
  struct net_request request;
  uint64_t rooms[WIRE_BULKS];
  struct env_frame frame[WIRE_BULKS];     /* the parked request's, then the answer's */
  unsigned char small[NET_ANSWER_SIZE + 128]; /* room for most answers */
};

struct net {
  struct net_options o;
  struct env *env;
  const struct alloc *alloc;
  struct worker *worker; /* the network worker */
  uint32_t self, nodes;
  uint64_t now;
  uint32_t inside; /* public functions under way */
  struct heap timer;
  uint32_t timers;
  uint64_t timer_seq, key_seq;
  struct net_call *calls, *done, **done_end;
  struct net_run *runs, *last_run; /* as they came */
  struct net_link **link;          /* by node; NULL: none was needed yet */
  struct net_spare call_spare, part_spare, run_spare;
  struct net_block *shelf;         /* large blocks that are free, for the next bulk */
  uint64_t shelf_bytes, shelf_used;
  bool draining, given_up;
  uint64_t drain_at;
  struct log_limit complaints, reports, heavy;
  struct net_figures figures;
};

/* net.c */
CHI_PRIVATE void net_trace(const struct net *n, enum net_trace what, uint32_t peer, uint64_t seq);
/* Around all that comes from outside (inside++ before): calls that are done end when the last one
 * leaves, so that nobody's loop over calls and parts is disturbed. */
CHI_PRIVATE void net_leave(struct net *n);
/* Ends a task that net_submit has taken in. */
CHI_PRIVATE void net_let_go(struct net *n, chi_ctx *ctx, int rc);
/* One more timer will be in use, or one less: setting a timer cannot fail. CHI_ENOMEM. */
CHI_PRIVATE int net_timer_reserve(struct net *n);
CHI_PRIVATE void net_timer_release(struct net *n, struct net_timer *t);
/* A block, with any content, for something with a timer, which is reserved; NULL: no memory. */
CHI_PRIVATE void *net_take(struct net *n, struct net_spare *s);
CHI_PRIVATE void net_return(struct net *n, struct net_spare *s, void *block, struct net_timer *t);
CHI_PRIVATE void net_timer_set(struct net *n, struct net_timer *t, uint64_t time);
CHI_PRIVATE void net_timer_clear(struct net *n, struct net_timer *t);
CHI_PRIVATE struct net_key net_key_new(struct net *n);
CHI_PRIVATE void net_malformed(struct net *n, const struct net_link *l, const char *what);

/* net_call.c */
/* Splits and begins; run NULL: for ctx itself. CHI_ENOMEM, CHI_ETOOBIG: nothing has begun. */
CHI_PRIVATE int net_call_open(struct net *n, chi_ctx *ctx, const struct pool *pool,
                              const struct pool_map *map, uint32_t first, uint32_t count,
                              struct net_run *run, struct net_call **out);
CHI_PRIVATE void net_call_free(struct net_call *call);
/* Asks all its parts to end with this code; the first time counts. */
CHI_PRIVATE void net_call_cancel(struct net_call *call, int code);
/* The node stops: what is under way elsewhere is left to itself. */
CHI_PRIVATE void net_call_give_up(struct net_call *call);
/* When it is to end; UINT64_MAX: no such time. */
CHI_PRIVATE uint64_t net_call_deadline(const struct net_call *call);
/* Why it is to end, or CHI_OK. */
CHI_PRIVATE int net_call_cancelled(const struct net_call *call);
/* Done if nothing of it is under way any more. */
CHI_PRIVATE void net_call_settle(struct net_call *call);
/* Ends one that is done. */
CHI_PRIVATE void net_call_end(struct net_call *call);
/* A part that certainly did not run, or may have, ends with a code. It is in no queue and slot. */
CHI_PRIVATE void net_part_fail(struct net_part *part, int rc);
/* A part ends as its answer says; its fields have been decoded. */
CHI_PRIVATE void net_part_answered(struct net_part *part, const struct net_answer *a);
/* Starts a part as a task of this node in a container that is here. */
CHI_PRIVATE void net_part_run(struct net_part *part, struct container *container);
/* The task that a part's answer is decoded into. */
CHI_PRIVATE chi_task *net_part_task(struct net_part *part);

/* net_link.c */
/* NULL: no memory. */
CHI_PRIVATE struct net_link *net_link_get(struct net *n, uint32_t node);
CHI_PRIVATE void net_link_free(struct net_link *l);
/* Not later than `at` it is looked after. */
CHI_PRIVATE void net_link_wake(struct net_link *l, uint64_t at);
/* Gives a part to the link to its node. */
CHI_PRIVATE void net_part_enqueue(struct net_part *part);
/* Its container is on its way from or to this node: sends it there, or waits. */
CHI_PRIVATE void net_part_seek(struct net_part *part);
/* Takes a part out of the queue, the pause or the slot it is in. */
CHI_PRIVATE void net_part_withdraw(struct net_part *part);
/* Tells the executor of a sent part that it is to end with the call's code. */
CHI_PRIVATE void net_part_abort(struct net_part *part, int code);
/* It can be told something now. */
CHI_PRIVATE bool net_link_reaches(const struct net_link *l);
/* The peer stops: what is for it waits until it is back, unless this node is about to stop, too. */
CHI_PRIVATE void net_link_departs(struct net_link *l);
/* What waits for the peer is given up. */
CHI_PRIVATE void net_link_forsake(struct net_link *l);
/* What was sent to the peer is not going to be answered. */
CHI_PRIVATE void net_link_lost(struct net_link *l);
CHI_PRIVATE void net_link_on_boot(struct net_link *l);
CHI_PRIVATE void net_link_on_answer(struct net_link *l, struct wire_in *in);
CHI_PRIVATE void net_link_on_state(struct net_link *l, struct wire_in *in);

/* net_seat.c */
CHI_PRIVATE void net_seat_on_request(struct net_link *l, struct wire_in *in);
CHI_PRIVATE void net_seat_on_ask(struct net_link *l, struct wire_in *in);
CHI_PRIVATE void net_seat_on_cancel(struct net_link *l, struct wire_in *in);
CHI_PRIVATE void net_seat_on_ack(struct net_link *l, struct wire_in *in);
/* Ends what the peer has not asked for in so long that it must have given it up. */
CHI_PRIVATE void net_seat_look(struct net_link *l);
/* Tells a peer of answers that it ought to have acknowledged long ago. */
CHI_PRIVATE void net_seat_remind(struct net_link *l);
/* The peer has forgotten all it asked for. */
CHI_PRIVATE void net_seat_clear(struct net_link *l);
/* The pools have changed: perhaps it needn't wait any more. May free it. */
CHI_PRIVATE void net_run_try_again(struct net_run *run);
/* Its call has ended. */
CHI_PRIVATE void net_run_end(struct net_run *run, int rc, const struct net_failures *failures,
                             bool gathered);
CHI_PRIVATE void net_run_unpinned(struct net_run *run);
CHI_PRIVATE void net_run_free(struct net_run *run);

/* net_depart.c: a node that stops */
CHI_PRIVATE void net_depart_begin(struct net *n);
/* Says so to a peer, now and again until that has heard of it. */
CHI_PRIVATE void net_depart_tell(struct net_link *l);
CHI_PRIVATE void net_depart_on_record(struct net_link *l, struct wire_in *in);

/* net_fold.c */
/* Memory aligned as chi_bulk_alloc does; NULL: none. */
CHI_PRIVATE void *net_store_get(struct net *n, struct net_store *s, uint64_t size);
CHI_PRIVATE void net_store_free(struct net *n, struct net_store *s);
/* Frees the large blocks that were kept for another use. */
CHI_PRIVATE void net_shelf_clear(struct net *n);
/* The sizes of a task's bulk fields, in order. CHI_ETOOBIG: more than WIRE_BULKS. */
CHI_PRIVATE int net_rooms_get(const struct method *m, const chi_task *task, uint64_t *rooms);
/* A method leaves no more in a buffer than there is room; one that says so is corrected. */
CHI_PRIVATE void net_rooms_hold(const struct method *m, chi_task *task, const uint64_t *rooms);
/* In fields of these directions. */
CHI_PRIVATE uint64_t net_bulk_bytes(const struct method *m, const chi_task *task, uint32_t dirs);
/* A copy of a call's task as a record of its own; with buffers of its own for what the method
 * writes, if it is one of several. NULL: no memory. */
CHI_PRIVATE chi_ctx *net_replica(struct net_call *call, struct net_store *store);
/* Adds a part's result to the call's task. In container order. */
CHI_PRIVATE void net_fold(struct net_call *call, struct net_part *part);
/* Of so many containers none has failed yet. */
CHI_PRIVATE void net_failures_init(struct net_failures *f, uint32_t asked);
CHI_PRIVATE void net_failures_add(struct net_failures *f, uint32_t container, int rc);
/* Containers first .. first + count - 1 have failed with one code. */
CHI_PRIVATE void net_failures_range(struct net_failures *f, uint32_t first, uint32_t count, int rc);
/* Those that a sub-range told of. */
CHI_PRIVATE void net_failures_join(struct net_failures *f, const struct net_failures *from);

/* net_record.c: payloads; the comments above the functions that write them say what they are. */
CHI_PRIVATE void net_request_put(struct wire_out *out, const struct net_request *r);
/* False: it makes no sense; only slot and seq may be used, if they are not 0. */
CHI_PRIVATE bool net_request_get(struct wire_in *in, struct net_request *r);
/* With that code, about so many containers, none of which has failed; else zero. */
CHI_PRIVATE void net_answer_init(struct net_answer *a, int rc, uint32_t asked);
CHI_PRIVATE void net_answer_put(struct wire_out *out, const struct net_answer *a);
CHI_PRIVATE bool net_answer_get(struct wire_in *in, struct net_answer *a);
/* An entry of ASK, CANCEL, ACK (what: enum chi_status or 0) and STATE (what: NET_STATE_*). */
#define NET_ITEM_SIZE 14u
enum net_state { NET_STATE_RUNNING = 1, NET_STATE_UNSEEN, NET_STATE_KEPT };
CHI_PRIVATE void net_item_put(struct wire_out *out, uint32_t slot, uint64_t seq, int32_t what);
CHI_PRIVATE bool net_item_get(struct wire_in *in, uint32_t *slot, uint64_t *seq, int32_t *what);

#endif
