/* trace.h - what happened in a simulation, to be drawn: events, and what they add up to. */
#ifndef CHI_TOOL_TRACE_H
#define CHI_TOOL_TRACE_H

#include "base.h"
#include "sim.h"

#include <stdio.h>

#define TRACE_NONE UINT32_MAX
#define TRACE_MOST 4000000u /* events that a log may be asked to keep */
#define TRACE_TEXT 240      /* bytes of what an event says, with its NUL */

/* One event and its number among all events of the run, from 1. */
struct trace_record {
  uint64_t number;
  struct sim_trace_event event;
};

/* Events as they come. What only drives the simulation (threads, bells, mail on links) is counted
 * and not kept. When there is no more room, the oldest half goes. */
struct trace_log {
  struct trace_record *record; /* by number */
  uint32_t count, room, most;
  uint64_t seen;      /* events so far: set it to sim_events where the log begins later */
  uint64_t dropped;   /* of those worth keeping */
  bool out_of_memory; /* from then on nothing is kept */
};

/* An empty log that keeps up to `most` events, 2 .. TRACE_MOST. */
void trace_log_open(struct trace_log *log, uint32_t most);
void trace_log_close(struct trace_log *log);
/* A sim_trace_sink; arg is the log. */
void trace_log_sink(void *arg, const struct sim_trace_event *event);

/* A run to be shown. Only the records are needed; the texts may be NULL. Texts may come from
 * anywhere: what isn't UTF-8 is replaced. */
struct trace_page {
  const char *title;
  const char *spec; /* what was run, in any number of lines */
  uint64_t seed, hash, events;
  uint32_t nodes;                    /* at least; more if the records speak of more */
  const struct trace_record *record; /* by number */
  uint32_t count;
  uint64_t dropped;                   /* events that came before, but weren't kept */
  const char *check;                  /* the one that failed; NULL: none did */
  const char *why;                    /* what it said */
  uint64_t failed_event, failed_time; /* the number of the event it failed at; ns */
};

/* ---- what the records add up to */

enum trace_group {
  TRACE_MESSAGES, /* between nodes */
  TRACE_TASKS,    /* on workers */
  TRACE_CALLS,    /* of clients, and between nodes */
  TRACE_FILES,
  TRACE_LIVES, /* of nodes and connections, membership, pools */
  TRACE_FAULTS,
  TRACE_GROUPS
};

/* All that follows speaks of records by their place in the page. */

/* A message between nodes. */
struct trace_arrow {
  uint32_t from, to; /* where it was sent and arrived, or was lost; TRACE_NONE: not among these */
  uint32_t sender, receiver;
  bool lost;
};

/* A task on one node, from the moment that it was taken to its completion. */
enum trace_phase_kind { TRACE_WAITS, TRACE_RUNS, TRACE_BLOCKS };
struct trace_phase {
  uint32_t record, next; /* where it begins; the next phase of this task, or TRACE_NONE */
  uint8_t kind;          /* enum trace_phase_kind */
};
struct trace_task {
  uint64_t id;
  uint32_t node, worker; /* that ran it last */
  uint32_t pool, method; /* its pool's major number; 0: not known */
  uint32_t key_node,
      key_container; /* where it began, and for which container; if key_seq isn't 0 */
  uint64_t key_seq;
  uint32_t first, last; /* phases */
  uint32_t end;         /* TRACE_NONE: it hasn't */
  bool cut_off;         /* it ended with its node */
  int rc;
};

/* Something that was wrong for a while. */
enum trace_band_kind {
  TRACE_DOWN,
  TRACE_STARTING,
  TRACE_PAUSED,
  TRACE_APART, /* isolated, or on one side of a partition */
  TRACE_CUT,   /* from the node to its peer */
  TRACE_LATE,  /* messages from the node to its peer: clog, slow */
  TRACE_FULL,  /* the queue from the node to its peer */
  TRACE_DRIFT, /* its clock */
  TRACE_SCARCE /* memory, everywhere */
};
struct trace_band {
  uint8_t kind;        /* enum trace_band_kind */
  uint32_t node, peer; /* TRACE_NONE: all nodes; no peer */
  uint32_t from, to;   /* TRACE_NONE: since before, until after these records */
};

struct trace_model {
  uint32_t nodes, workers; /* workers: most of a node */
  struct trace_arrow *arrow;
  struct trace_task *task;
  struct trace_phase *phase;
  struct trace_band *band;
  uint32_t arrows, tasks, phases, bands;
};

/* CHI_OK, CHI_ENOMEM; CHI_EINVAL: more than TRACE_MOST records, or out of order. */
int trace_model_open(struct trace_model *model, const struct trace_page *page);
void trace_model_close(struct trace_model *model);

enum trace_group trace_group(const struct sim_trace_event *event);
/* The node that an event is about; TRACE_NONE. */
uint32_t trace_node(const struct sim_trace_event *event);
/* What it says, as a line of text without time and node. */
void trace_say(const struct sim_trace_event *event, char text[TRACE_TEXT]);
const char *trace_band_name(enum trace_band_kind kind);
/* Writes a text as a JSON string that may stand in a page: also "<" is escaped. */
void trace_put_string(FILE *out, const char *text);

#endif
