/* sim_net.h - the network between simulated nodes: connections, delay, loss and disturbances.
 *
 * The model is ZeroMQ's. Each node keeps a connection to each other one (an ordered pair is a way):
 * what is sent arrives in order and whole, after the latency, the time its bytes take through the
 * sender's line, and a little chance. It is lost only with the connection - then what has left may
 * still arrive, up to a drawn message, never more - or when a fault says so. Of a sender that is no
 * more it may arrive behind what its next life says. Queues are bounded.
 * A way that is cut holds what is sent on it until it is joined, or until the sender notices, at a
 * drawn time, that the connection is dead; some notice only after they sent something. */
#ifndef CHI_SIM_NET_H
#define CHI_SIM_NET_H

#include "base.h"
#include "env.h"
#include "heap.h"
#include "sim_thread.h"

#define SIM_NET_NODES 4096u /* most of one simulation */

struct sim_net_pair;

/* Why a message was lost, or a connection is up or down. */
#define SIM_NET_REASONS(X)                                                                         \
  X(CONNECTED, "connected")                                                                        \
  X(CLOSED, "the other side closed it")                                                            \
  X(DIED, "the other side died")                                                                   \
  X(NOTICED, "nothing was heard")                                                                  \
  X(RESET, "it was reset")                                                                         \
  X(DROPPED, "a fault broke it")                                                                   \
  X(LOST, "a fault lost it")                                                                       \
  X(NOBODY, "nobody was there")

enum sim_net_reason {
#define SIM_NET_ENUM(name, text) SIM_NET_##name,
  SIM_NET_REASONS(SIM_NET_ENUM)
#undef SIM_NET_ENUM
      SIM_NET_REASON_COUNT
};

enum sim_net_kind { SIM_NET_MESSAGE, SIM_NET_PEER, SIM_NET_SENT };

/* What a node's network worker hears. */
struct sim_net_mail {
  struct heap_entry entry; /* in an inbox; time: when it is due */
  struct sim_net_mail *next;
  enum sim_net_kind kind;
  uint32_t from, to;
  bool connected;                /* SIM_NET_PEER: `from` */
  bool held;                     /* by a cut: in no inbox */
  bool stray;                    /* of a life that is over: on no way any more */
  uint64_t number, size, leaves; /* SIM_NET_MESSAGE: of all messages; bytes; when it has left */
  void *parcel;                  /* SIM_NET_SENT */
  struct sim_net_mail *other;    /* of a message its SIM_NET_SENT, and of that the message */
  void *copy;                    /* of the bulk, when the sender's memory isn't read any more */
  uint32_t count;
  struct env_frame frame[];
};

/* One node's end, there as long as the simulation, and open while the node wants it. */
struct sim_net_port {
  struct sim_net *net;
  uint32_t number;
  bool open;
  uint32_t count;            /* nodes it connects to, itself among them; 0: it is alone */
  struct sim_thread *thread; /* network worker, to be woken; NULL: none */
  struct heap inbox;
  uint64_t opened; /* when it last was */
  uint64_t busy;   /* its line is, until then */
  uint64_t owed;   /* CPU time its messages took; the worker takes it (and zeroes it) */
  bool isolated;
  uint32_t side;             /* of a partition */
  struct sim_net_pair *pair; /* to each other node */
  uint32_t pair_count;
};

struct sim_net_figures {
  uint64_t sent, delivered, bytes; /* messages, bytes sent */
  uint64_t busy, unreachable;      /* sendings refused */
  uint64_t held;                   /* messages a cut held up */
  uint64_t ups, downs;             /* of connections */
  uint64_t lost[SIM_NET_REASON_COUNT];
};

struct sim_net {
  struct sim_world *world;
  struct sim_net_port **port; /* by node number; NULL: never heard of */
  uint32_t port_count;
  uint64_t messages, sequence;
  uint32_t ways; /* that aren't quiet: only these take memory */
  struct sim_net_figures figures;
};

CHI_PRIVATE void sim_net_init(struct sim_net *net, struct sim_world *world);
CHI_PRIVATE void sim_net_fini(struct sim_net *net);
/* The port of a node, made when it is first spoken of. */
CHI_PRIVATE struct sim_net_port *sim_net_port(struct sim_net *net, uint32_t number);

/* ---- of a node; as env.net_* */
CHI_PRIVATE int sim_net_open(struct sim_net_port *port, uint32_t count, uint32_t self,
                             chi_error *err);
CHI_PRIVATE void sim_net_close(struct sim_net_port *port);
CHI_PRIVATE int sim_net_send(struct sim_net_port *port, uint32_t peer,
                             const struct env_frame *frame, uint32_t count, void *parcel);
CHI_PRIVATE void sim_net_reset(struct sim_net_port *port, uint32_t peer);
/* Its process is no more; `silent`: nor its machine, so that nobody is told. */
CHI_PRIVATE void sim_net_die(struct sim_net_port *port, bool silent);

/* The next mail that is due, to be freed with sim_net_mail_free after the upcall; NULL: none. */
CHI_PRIVATE struct sim_net_mail *sim_net_take(struct sim_net_port *port);
CHI_PRIVATE void sim_net_mail_free(struct sim_net_mail *mail);
/* When the next mail is due; SIM_WORLD_NEVER. */
CHI_PRIVATE uint64_t sim_net_due(const struct sim_net_port *port);
/* Whether `from` takes itself for connected to `to`. */
CHI_PRIVATE CHI_UNUSED bool sim_net_connected(struct sim_net *net, uint32_t from, uint32_t to);

/* ---- what disturbs it, at once; see sim_plan.h. Nodes below SIM_NET_NODES, started or not */
CHI_PRIVATE CHI_UNUSED void sim_net_cut(struct sim_net *net, uint32_t from, uint32_t to, bool cut);
CHI_PRIVATE CHI_UNUSED void sim_net_isolate(struct sim_net *net, uint32_t node, bool isolated);
/* Nodes first to last on one side, all others on the other. */
CHI_PRIVATE CHI_UNUSED void sim_net_partition(struct sim_net *net, uint32_t first, uint32_t last);
/* The nodes whose bits are set on one side. */
CHI_PRIVATE CHI_UNUSED void sim_net_split(struct sim_net *net, uint64_t mask);
CHI_PRIVATE CHI_UNUSED void sim_net_heal(struct sim_net *net);
CHI_PRIVATE CHI_UNUSED void sim_net_clog(struct sim_net *net, uint32_t from, uint32_t to,
                                         uint64_t ns);
CHI_PRIVATE CHI_UNUSED void sim_net_slow(struct sim_net *net, uint32_t from, uint32_t to,
                                         uint32_t percent);
CHI_PRIVATE CHI_UNUSED void sim_net_full(struct sim_net *net, uint32_t from, uint32_t to,
                                         bool full);
/* Breaks it, if there is one: true. */
CHI_PRIVATE CHI_UNUSED bool sim_net_drop(struct sim_net *net, uint32_t from, uint32_t to,
                                         bool noticed);
CHI_PRIVATE CHI_UNUSED void sim_net_lose(struct sim_net *net, uint32_t from, uint32_t to,
                                         uint32_t nth, bool with_connection);

CHI_PRIVATE CHI_UNUSED const char *sim_net_reason(enum sim_net_reason reason);

#endif
