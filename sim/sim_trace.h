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
  SIM_TRACE_FAULT_MEMORY  /* memory is refused: a client or 0; text: which */
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

/* The hash sees every event, the listener those worth reading; it may be NULL. */
struct sim_trace {
  struct hash_stream hash;
  uint64_t events;
  chi_put_fn *put;
  void *arg;
};

/* One event: its values, and its text (may be NULL), enter the hash; so they must not depend on
 * addresses. A line "TIME nodeN EVENT" goes to the listener, NODE being UINT32_MAX for none. */
CHI_PRIVATE void sim_trace_event(struct sim_trace *trace, uint64_t now, uint32_t node, int kind,
                                 const uint64_t values[3], const char *text);

/* A line of text for the listener alone. */
CHI_PRIVATE void sim_trace_text(struct sim_trace *trace, uint64_t now, uint32_t node,
                                const char *text);

#endif
