/* sim_trace.c - what happens in a simulation: a hash over all of it, and a transcript to read. */
#include "sim_trace.h"

#include <stdio.h>

#define SIM_TRACE_LINE 600

/* How an event reads: %a %b %c are values, %t the text, %p a pool, %k a task, %i an operation, %r
 * its result, %s a status, %x and %y the halves of a, %n %l %h %u %w words. What is not here is not
 * worth a line. */
static const struct {
  int kind;
  const char *format;
} sim_trace_forms[] = {
    {ENV_TRACE_DISPATCH, "worker %a takes task %k for method %m of pool %o"},
    {ENV_TRACE_BEGIN, "worker %a begins task %k, method %m of pool %o"},
    {ENV_TRACE_KEY, "it is task %b of node%x, for container %y"},
    {ENV_TRACE_BLOCK, "worker %a: task %k blocks"},
    {ENV_TRACE_RESUME, "worker %a: task %k goes on"},
    {ENV_TRACE_COMPLETE, "worker %a completes task %k: %s"},
    {ENV_TRACE_POOL, "pool %p is %b, generation %c"},
    {ENV_TRACE_TAKEOVER, "worker %a is stuck: worker %b takes %c lanes"},
    {ENV_TRACE_CLIENT, "link %a %h"},
    {ENV_TRACE_MARK, "mark %a %b %c"},
    {SIM_TRACE_LINK, "link %a %u"},
    {SIM_TRACE_NODE, "the node %n"},
    {SIM_TRACE_CLIENT, "client %a %l"},
    {SIM_TRACE_IO_BEGIN, "worker %a: %i %t, %c bytes"},
    {SIM_TRACE_IO_END, "worker %a: %i gives %r"},
    {SIM_TRACE_FAULT_IO, "worker %a: a fault hits %i %t"},
    {SIM_TRACE_FAULT_MEMORY, "a fault refuses %t"},
    {SIM_TRACE_NET_SEND, "message %b to node%a, %c bytes"},
    {SIM_TRACE_NET_DELIVER, "message %b of node%a arrives"},
    {SIM_TRACE_NET_LOST, "message %b to node%a is lost: %t"},
    {SIM_TRACE_NET_PEER, "connection to node%a is %w: %t"},
    {SIM_TRACE_NET_REFUSED, "cannot send to node%a: %r"},
    {SIM_TRACE_PLAN, "fault: %t"},
};

static const char *const sim_trace_io_words[] = {"open",     "read",    "write", "sync",
                                                 "truncate", "size",    "close", "rename",
                                                 "remove",   "dirsync", "space"};
static const char *const sim_trace_node_words[] = {
    [SIM_TRACE_NODE_STARTS] = "starts",    [SIM_TRACE_NODE_SERVES] = "serves",
    [SIM_TRACE_NODE_FAILS] = "fails",      [SIM_TRACE_NODE_STOPS] = "stops",
    [SIM_TRACE_NODE_KILLED] = "is killed", [SIM_TRACE_NODE_LOSES_POWER] = "loses power"};
static const char *const sim_trace_client_words[] = {[SIM_TRACE_CLIENT_STARTS] = "starts",
                                                     [SIM_TRACE_CLIENT_ENDS] = "ends",
                                                     [SIM_TRACE_CLIENT_KILLED] = "is killed"};
static const char *const sim_trace_attach_words[] = {"is gone", "is attached", "is refused"};
static const char *const sim_trace_link_words[] = {"hangs up", "connects"};
static const char *const sim_trace_peer_words[] = {"down", "up"};

#define SIM_TRACE_WORD(words, value) ((value) < CHI_COUNT(words) ? (words)[value] : "?")

struct sim_trace_line {
  char text[SIM_TRACE_LINE];
  size_t used;
};

static void sim_trace_add(struct sim_trace_line *line, const char *text)
{
  size_t size = strlen(text), room = sizeof(line->text) - 2 - line->used;
  size = size < room ? size : room;
  memcpy(line->text + line->used, text, size);
  line->used += size;
}

static void sim_trace_add_number(struct sim_trace_line *line, uint64_t value)
{
  char text[24];
  snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
  sim_trace_add(line, text);
}

static void sim_trace_add_result(struct sim_trace_line *line, int64_t value)
{
  if (value < 0 && value >= INT32_MIN)
    sim_trace_add(line, chi_status_name((int)value));
  else
    sim_trace_add_number(line, (uint64_t)value);
}

static void sim_trace_add_pool(struct sim_trace_line *line, uint64_t major, uint64_t minor)
{
  sim_trace_add_number(line, major);
  sim_trace_add(line, ".");
  sim_trace_add_number(line, minor);
}

static void sim_trace_add_field(struct sim_trace_line *line, char field, const uint64_t v[3],
                                const char *text)
{
  switch (field) {
  case 'a':
    sim_trace_add_number(line, v[0]);
    break;
  case 'b':
    sim_trace_add_number(line, v[1]);
    break;
  case 'c':
    sim_trace_add_number(line, v[2]);
    break;
  case 'm':
    sim_trace_add_number(line, v[2] & 0xffff);
    break;
  case 'o':
    sim_trace_add_number(line, v[2] >> 16);
    break;
  case 'p':
    sim_trace_add_pool(line, v[0] >> 32, v[0] & UINT32_MAX);
    break;
  case 'r':
    sim_trace_add_result(line, (int64_t)v[2]);
    break;
  case 'k': /* of a client's queue; or the node's own, begun by a worker */
    sim_trace_add(line, v[1] >> 63 ? "w" : "");
    sim_trace_add_number(line, v[1] >> 63 ? (v[1] >> 48 & 0x7fff) - 1 : v[1] >> 32);
    sim_trace_add(line, ":");
    sim_trace_add_number(line, v[1] & UINT32_MAX);
    break;
  case 'x':
    sim_trace_add_number(line, v[0] >> 32);
    break;
  case 'y':
    sim_trace_add_number(line, v[0] & UINT32_MAX);
    break;
  case 's':
    sim_trace_add(line, (int64_t)v[2] > 0 ? "its own " : "");
    if ((int64_t)v[2] > 0)
      sim_trace_add_number(line, v[2]);
    else
      sim_trace_add(line, chi_status_name((int)(int64_t)v[2]));
    break;
  case 'i':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_io_words, v[1]));
    break;
  case 'n':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_node_words, v[0]));
    break;
  case 'l':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_client_words, v[1]));
    break;
  case 'h':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_attach_words, v[1]));
    break;
  case 'w':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_peer_words, v[1]));
    break;
  case 'u':
    sim_trace_add(line, SIM_TRACE_WORD(sim_trace_link_words, v[1]));
    break;
  default:
    sim_trace_add(line, text ? text : "-");
  }
}

/* "12.000345678 node3: ": virtual seconds and who. */
static void sim_trace_begin(struct sim_trace_line *line, uint64_t now, uint32_t node)
{
  line->used = (size_t)snprintf(line->text, sizeof(line->text), "%llu.%09llu ",
                                (unsigned long long)(now / 1000000000u),
                                (unsigned long long)(now % 1000000000u));
  if (node == UINT32_MAX)
    return;
  sim_trace_add(line, "node");
  sim_trace_add_number(line, node);
  sim_trace_add(line, ": ");
}

static void sim_trace_end(struct sim_trace *trace, struct sim_trace_line *line)
{
  line->text[line->used] = '\n';
  line->text[line->used + 1] = '\0';
  trace->put(trace->arg, line->text);
}

/* Appends what the event says. */
static bool sim_trace_form(struct sim_trace_line *line, const struct sim_trace_event *event)
{
  const uint64_t values[3] = {event->a, event->b, event->c};
  size_t form = 0;
  while (form < CHI_COUNT(sim_trace_forms) && sim_trace_forms[form].kind != event->kind)
    form++;
  if (form == CHI_COUNT(sim_trace_forms))
    return false;
  for (const char *at = sim_trace_forms[form].format; *at; at++) {
    if (*at == '%')
      sim_trace_add_field(line, *++at, values, event->text);
    else
      sim_trace_add(line, (char[2]){*at, '\0'});
  }
  return true;
}

CHI_PRIVATE bool sim_trace_say(const struct sim_trace_event *event, char *buf, size_t size)
{
  struct sim_trace_line line = {.used = 0};
  bool told = sim_trace_form(&line, event);
  line.text[line.used] = '\0';
  snprintf(buf, size, "%s", line.text);
  return told;
}

static void sim_trace_tell(struct sim_trace *trace, const struct sim_trace_event *event)
{
  struct sim_trace_line line;
  sim_trace_begin(&line, event->time, event->node);
  if (sim_trace_form(&line, event))
    sim_trace_end(trace, &line);
}

CHI_PRIVATE void sim_trace_event(struct sim_trace *trace, const struct sim_trace_event *event)
{
  trace->events++;
  hash_stream_u64(&trace->hash, event->time);
  hash_stream_u64(&trace->hash, (uint64_t)event->node << 32 | (uint32_t)event->kind);
  hash_stream_u64(&trace->hash, event->a);
  hash_stream_u64(&trace->hash, event->b);
  hash_stream_u64(&trace->hash, event->c);
  if (event->text)
    hash_stream_bytes(&trace->hash, event->text, strlen(event->text));
  if (trace->put)
    sim_trace_tell(trace, event);
  if (trace->sink)
    trace->sink(trace->sink_arg, event);
}

CHI_PRIVATE void sim_trace_text(struct sim_trace *trace, uint64_t now, uint32_t node,
                                const char *text)
{
  struct sim_trace_line line;
  if (!trace->put)
    return;
  sim_trace_begin(&line, now, node);
  sim_trace_add(&line, text);
  sim_trace_end(trace, &line);
}

#undef SIM_TRACE_LINE
#undef SIM_TRACE_WORD
