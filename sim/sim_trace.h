/* sim_trace.h - what happens in a simulation: a hash over all of it, and a transcript to read. */
#ifndef CHI_SIM_TRACE_H
#define CHI_SIM_TRACE_H

#include "base.h"
#include "env.h"
#include "hash.h"

/* What the simulation itself reports, beside the events of enum env_trace. */
enum sim_trace_kind {
  SIM_TRACE_THREAD = 100, /* a thread goes on: a its number */
  SIM_TRACE_RING,         /* a bell is rung: a its number */
  SIM_TRACE_SEND,         /* a message on a link: a link, b bytes, c shares */
  SIM_TRACE_LINK,         /* a link, b 1 up, 0 hung up */
  SIM_TRACE_NODE,         /* a enum sim_trace_node */
  SIM_TRACE_CLIENT,       /* a its number, b enum sim_trace_client */
  SIM_TRACE_IO_BEGIN,     /* a worker, b operation, c bytes; text: path */
  SIM_TRACE_IO_END,       /* a worker, b operation, c result */
  SIM_TRACE_FAULT_IO,     /* an operation is hit: a worker, b operation; text: path */
  SIM_TRACE_FAULT_MEMORY, /* memory is refused: a client or 0; text: which */
  SIM_TRACE_NET_SEND,     /* a message to another node: a node, b message, c bytes */
  SIM_TRACE_NET_DELIVER,  /* it is handed to its receiver: a sender, b message, c bytes */
  SIM_TRACE_NET_LOST,     /* of the sender: a receiver, b message, c enum sim_net_reason */
  SIM_TRACE_NET_PEER,     /* a connection: a node, b 1 up 0 down, c enum sim_net_reason */
  SIM_TRACE_NET_REFUSED,  /* a sending: a node, b messages waiting, c chi_status */
  SIM_TRACE_PLAN          /* a fault is applied: a its value, b enum sim_plan_kind, c nodes or
                             operations a << 32 | b; node: a if it is about one; text: its line */
};

enum sim_trace_node {
  SIM_TRACE_NODE_STARTS,
  SIM_TRACE_NODE_SERVES,
  SIM_TRACE_NODE_FAILS,
  SIM_TRACE_NODE_STOPS,
  SIM_TRACE_NODE_KILLED,
  SIM_TRACE_NODE_LOSES_POWER
};

enum sim_trace_client { SIM_TRACE_CLIENT_STARTS, SIM_TRACE_CLIENT_ENDS, SIM_TRACE_CLIENT_KILLED };

/* One event: what the hash is made of. */
struct sim_trace_event {
  uint64_t time;
  uint32_t node; /* UINT32_MAX: none */
  int kind;      /* enum env_trace or enum sim_trace_kind */
  uint64_t a, b, c;
  const char *text; /* NULL: none; valid during the call */
};
typedef void sim_trace_sink(void *arg, const struct sim_trace_event *event);

/* The hash and the sink see every event, the listener those worth reading; it may be NULL. */
struct sim_trace {
  sim_trace_sink *sink;
  void *sink_arg;
  struct hash_stream hash;
  uint64_t events;
  chi_put_fn *put;
  void *arg;
};

/* One event: all of it enters the hash, so that it must not depend on addresses. A line "TIME nodeN
 * EVENT" goes to the listener. */
CHI_PRIVATE void sim_trace_event(struct sim_trace *trace, const struct sim_trace_event *event);

/* What the event says, as in the transcript without time and node; false: it isn't worth a line.
 * Any `size`; cut off if need be. */
CHI_PRIVATE CHI_UNUSED bool sim_trace_say(const struct sim_trace_event *event, char *buf,
                                          size_t size);

/* A line of text for the listener alone. */
CHI_PRIVATE void sim_trace_text(struct sim_trace *trace, uint64_t now, uint32_t node,
                                const char *text);

#endif
