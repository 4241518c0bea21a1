/* trace.c - what happened in a simulation, to be drawn: events, and what they say. */
#include "trace.h"

#include "error.h"
#include "member.h"
#include "net.h"
#include "utf8.h"

#include <stdlib.h>

#define TRACE_FIRST 1024u /* room of a log at first */

/* ---- the log --------------------------------------------------------------------------------- */

void trace_log_open(struct trace_log *log, uint32_t most)
{
  CHI_ASSERT(most >= 2 && most <= TRACE_MOST);
  *log = (struct trace_log){.most = most};
}

static void trace_log_drop(struct trace_log *log, uint32_t count)
{
  for (uint32_t i = 0; i < count; i++)
    free((char *)log->record[i].event.text);
  log->count -= count;
  if (log->count > 0)
    memmove(log->record, log->record + count, log->count * sizeof(*log->record));
}

void trace_log_close(struct trace_log *log)
{
  trace_log_drop(log, log->count);
  free(log->record);
  log->record = NULL;
  log->room = 0;
}

static bool trace_log_make_room(struct trace_log *log)
{
  if (log->count < log->room)
    return true;
  if (log->room >= log->most) {
    log->dropped += log->most / 2;
    trace_log_drop(log, log->most / 2);
    return true;
  }
  uint32_t room = log->room ? log->room * 2 : TRACE_FIRST;
  room = room < log->most ? room : log->most;
  struct trace_record *record = realloc(log->record, room * sizeof(*record));
  if (!record)
    return false;
  log->record = record;
  log->room = room;
  return true;
}

static bool trace_is_machinery(int kind)
{
  return kind == SIM_TRACE_THREAD || kind == SIM_TRACE_RING || kind == SIM_TRACE_SEND ||
         kind == ENV_TRACE_COST;
}

void trace_log_sink(void *arg, const struct sim_trace_event *event)
{
  struct trace_log *log = arg;
  char *text = NULL;
  log->seen++;
  if (trace_is_machinery(event->kind) || log->out_of_memory)
    return;
  if (!trace_log_make_room(log) || (event->text && !(text = strdup(event->text)))) {
    log->out_of_memory = true;
    return;
  }
  log->record[log->count] = (struct trace_record){log->seen, *event};
  log->record[log->count++].event.text = text;
}

/* ---- what an event is about ------------------------------------------------------------------ */

enum trace_group trace_group(const struct sim_trace_event *event)
{
  switch (event->kind) {
  case SIM_TRACE_NET_SEND:
  case SIM_TRACE_NET_DELIVER:
  case SIM_TRACE_NET_LOST:
  case SIM_TRACE_NET_REFUSED:
    return TRACE_MESSAGES;
  case ENV_TRACE_DISPATCH:
  case ENV_TRACE_BEGIN:
  case ENV_TRACE_BLOCK:
  case ENV_TRACE_RESUME:
  case ENV_TRACE_COMPLETE:
  case ENV_TRACE_KEY:
  case ENV_TRACE_COST:
    return TRACE_TASKS;
  case ENV_TRACE_NET:
  case ENV_TRACE_SUBMIT:
  case ENV_TRACE_DONE:
  case ENV_TRACE_CLIENT:
  case ENV_TRACE_MARK:
  case SIM_TRACE_CLIENT:
  case SIM_TRACE_LINK:
    return TRACE_CALLS;
  case SIM_TRACE_IO_BEGIN:
  case SIM_TRACE_IO_END:
    return TRACE_FILES;
  case SIM_TRACE_PLAN:
  case SIM_TRACE_FAULT_IO:
  case SIM_TRACE_FAULT_MEMORY:
    return TRACE_FAULTS;
  default:
    return TRACE_LIVES;
  }
}

uint32_t trace_node(const struct sim_trace_event *event)
{
  if (event->kind != SIM_TRACE_PLAN)
    return event->node;
  switch (event->b) {
  case SIM_PLAN_SPLIT:
  case SIM_PLAN_HEAL:
  case SIM_PLAN_MEMORY:
  case SIM_PLAN_CALM:
    return TRACE_NONE;
  default:
    return (uint32_t)(event->c >> 32);
  }
}

/* ---- what it says ---------------------------------------------------------------------------- */

static const char *trace_word(const char *const *words, size_t count, uint64_t value)
{
  return value < count && words[value] ? words[value] : "?";
}

/* Of a task between nodes: the number is followed by "of node N", the peer. */
static const char *const trace_net_words[] = {
    [NET_TRACE_SENT] = "sends request",
    [NET_TRACE_RESENT] = "sends again request",
    [NET_TRACE_ANSWERED] = "has the answer to request",
    [NET_TRACE_REPEATED] = "hears again, or answers again, request",
    [NET_TRACE_NOT_RUN] = "does not run request",
    [NET_TRACE_MOVED] = "learns that its container has moved: request",
    [NET_TRACE_RETRIED] = "begins anew, under another key, request",
    [NET_TRACE_UNREACHABLE] = "gives up, certainly not run: request",
    [NET_TRACE_UNKNOWN] = "gives up, perhaps run: request",
    [NET_TRACE_ABORTED] = "cancels what nobody waits for: request",
};
static const char *const trace_member_words[] = {
    [MEMBER_UNKNOWN] = "unknown",
    [MEMBER_ALIVE] = "alive",
    [MEMBER_SUSPECT] = "suspect",
    [MEMBER_DEAD] = "dead",
};

static void trace_say_rc(int64_t rc, char *text, size_t size)
{
  if (rc > 0 || rc < INT32_MIN)
    snprintf(text, size, "its own %lld", (long long)rc);
  else
    snprintf(text, size, "%s", chi_status_name((int)rc));
}

/* What sim_trace_say leaves out. */
static bool trace_say_more(const struct sim_trace_event *e, char text[TRACE_TEXT])
{
  const unsigned long long a = e->a, b = e->b, c = e->c;
  char rc[48];
  switch (e->kind) {
  case ENV_TRACE_NET:
    snprintf(text, TRACE_TEXT, "%s %llu, node%llu",
             trace_word(trace_net_words, CHI_COUNT(trace_net_words), e->a), c, b);
    return true;
  case ENV_TRACE_MEMBER:
    snprintf(text, TRACE_TEXT, "node%llu is %s to it", a,
             trace_word(trace_member_words, CHI_COUNT(trace_member_words), e->b));
    return true;
  case ENV_TRACE_BOOT:
    snprintf(text, TRACE_TEXT, "its life is number %llu", a);
    return true;
  case ENV_TRACE_SUBMIT:
    snprintf(text, TRACE_TEXT, "a client submits task %llu:%llu for method %llu of pool %llu",
             b >> 32, b & UINT32_MAX, c & 0xffff, c >> 16);
    return true;
  case ENV_TRACE_DONE:
    trace_say_rc((int64_t)e->c, rc, sizeof(rc));
    snprintf(text, TRACE_TEXT, "a client has task %llu:%llu: %s", b >> 32, b & UINT32_MAX, rc);
    return true;
  default:
    return false;
  }
}

void trace_say(const struct sim_trace_event *event, char text[TRACE_TEXT])
{
  if (!trace_say_more(event, text) && !sim_trace_say(event, text, TRACE_TEXT))
    snprintf(text, TRACE_TEXT, "event %d: %llu %llu %llu", event->kind,
             (unsigned long long)event->a, (unsigned long long)event->b,
             (unsigned long long)event->c);
  utf8_make_line(text);
}

const char *trace_band_name(enum trace_band_kind kind)
{
  static const char *const names[] = {
      [TRACE_DOWN] = "down",
      [TRACE_STARTING] = "starting",
      [TRACE_PAUSED] = "paused",
      [TRACE_APART] = "isolated",
      [TRACE_CUT] = "cut",
      [TRACE_LATE] = "late",
      [TRACE_FULL] = "full",
      [TRACE_DRIFT] = "clock drifts",
      [TRACE_SCARCE] = "memory scarce",
  };
  CHI_ASSERT((size_t)kind < CHI_COUNT(names));
  return names[kind];
}

/* Bytes of the character at p if it may stand as it is; 0. Separators of lines end a line of
 * JavaScript. */
static size_t trace_plain(const char *p)
{
  uint32_t code;
  size_t size = utf8_char(p, &code);
  bool special = *p == '"' || *p == '\\' || *p == '<' || code == 0x2028 || code == 0x2029;
  return size && !special && !utf8_is_control(code) ? size : 0;
}

void trace_put_string(FILE *out, const char *text)
{
  fputc('"', out);
  while (*text) {
    size_t plain = trace_plain(text);
    uint32_t code = 0xfffd;
    size_t size = utf8_char(text, &code);
    if (plain)
      fwrite(text, 1, plain, out);
    else
      fprintf(out, "\\u%04x", size ? (unsigned)code : 0xfffdu);
    text += size ? size : 1;
  }
  fputc('"', out);
}

#undef TRACE_FIRST
