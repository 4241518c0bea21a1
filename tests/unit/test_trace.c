/* test_trace.c - the log of a simulation's events, and what they add up to. */
#include "trace.h"

#include "test.h"

#include <stdlib.h>

#define MANY 64

/* Records to be written down quickly: each is a microsecond after the one before. */
struct notes {
  struct trace_record record[MANY];
  uint32_t count;
  struct trace_page page;
  struct trace_model model;
};

static uint32_t note(struct notes *n, uint32_t node, int kind, uint64_t a, uint64_t b, uint64_t c)
{
  struct trace_record *r = &n->record[n->count];
  *r = (struct trace_record){
      .number = 10 * (n->count + 1u),
      .event = {
          .time = 1000u * (n->count + 1u), .node = node, .kind = kind, .a = a, .b = b, .c = c}};
  return n->count++;
}

static uint32_t note_fault(struct notes *n, enum sim_plan_kind kind, uint32_t a, uint32_t b,
                           uint64_t value)
{
  return note(n, UINT32_MAX, SIM_TRACE_PLAN, value, kind, (uint64_t)a << 32 | b);
}

static int add_up(struct notes *n)
{
  n->page.record = n->record;
  n->page.count = n->count;
  return trace_model_open(&n->model, &n->page);
}

/* ---- the log --------------------------------------------------------------------------------- */

static void tell(struct trace_log *log, int kind, uint64_t time, const char *text)
{
  struct sim_trace_event event = {.time = time, .kind = kind, .text = text};
  trace_log_sink(log, &event);
}

TEST(trace_log_keeps_what_is_worth_it)
{
  struct trace_log log;
  char text[] = "path";
  trace_log_open(&log, 100);
  tell(&log, SIM_TRACE_THREAD, 1, NULL);
  tell(&log, SIM_TRACE_IO_BEGIN, 2, text);
  tell(&log, SIM_TRACE_RING, 3, NULL);
  tell(&log, SIM_TRACE_NODE, 4, NULL);
  text[0] = 'x'; /* the log has a copy */
  CHECK_INT(log.count, 2);
  CHECK_INT(log.seen, 4);
  CHECK_INT(log.record[0].number, 2);
  CHECK_STR(log.record[0].event.text, "path");
  CHECK_INT(log.record[1].number, 4);
  CHECK(!log.record[1].event.text);
  CHECK_INT(log.dropped, 0);
  trace_log_close(&log);
}

TEST(trace_log_drops_the_oldest)
{
  struct trace_log log;
  trace_log_open(&log, 4);
  for (uint64_t i = 1; i <= 11; i++)
    tell(&log, SIM_TRACE_NODE, i, "text");
  CHECK_INT(log.count + log.dropped, 11);
  CHECK(log.count >= 2 && log.count <= 4);
  CHECK_INT(log.record[log.count - 1].number, 11);
  CHECK_INT(log.record[0].number, log.dropped + 1);
  trace_log_close(&log);
}

/* ---- messages -------------------------------------------------------------------------------- */

TEST(trace_messages_have_two_ends)
{
  struct notes n = {.page.nodes = 2};
  uint32_t sent = note(&n, 0, SIM_TRACE_NET_SEND, 1, 7, 100);
  uint32_t lost = note(&n, 0, SIM_TRACE_NET_SEND, 1, 8, 100);
  uint32_t arrived = note(&n, 1, SIM_TRACE_NET_DELIVER, 0, 7, 100);
  uint32_t gone = note(&n, 0, SIM_TRACE_NET_LOST, 1, 8, SIM_NET_LOST);
  uint32_t open = note(&n, 1, SIM_TRACE_NET_SEND, 0, 9, 100);
  uint32_t older = note(&n, 0, SIM_TRACE_NET_DELIVER, 1, 3, 100);
  CHECK_INT(add_up(&n), CHI_OK);
  const struct trace_arrow *a = n.model.arrow;
  CHECK_INT(n.model.arrows, 4);
  CHECK(a[0].from == sent && a[0].to == arrived && !a[0].lost);
  CHECK(a[0].sender == 0 && a[0].receiver == 1);
  CHECK(a[1].from == lost && a[1].to == gone && a[1].lost);
  CHECK(a[2].from == open && a[2].to == TRACE_NONE && a[2].sender == 1 && a[2].receiver == 0);
  CHECK(a[3].from == TRACE_NONE && a[3].to == older && a[3].sender == 1 && a[3].receiver == 0);
  trace_model_close(&n.model);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static bool phase_is(const struct notes *n, uint32_t phase, uint32_t record, int kind)
{
  return phase != TRACE_NONE && n->model.phase[phase].record == record &&
         n->model.phase[phase].kind == kind;
}

TEST(trace_tasks_have_phases)
{
  struct notes n = {.page.nodes = 1};
  uint32_t taken = note(&n, 0, ENV_TRACE_DISPATCH, 2, 55, 700ull << 16 | 12);
  uint32_t begun = note(&n, 0, ENV_TRACE_BEGIN, 1, 55, 700ull << 16 | 12);
  note(&n, 0, ENV_TRACE_KEY, 3ull << 32 | 4, 17, 99);
  uint32_t blocks = note(&n, 0, ENV_TRACE_BLOCK, 1, 55, 0);
  uint32_t goes_on = note(&n, 0, ENV_TRACE_RESUME, 1, 55, 0);
  uint32_t ends = note(&n, 0, ENV_TRACE_COMPLETE, 1, 55, (uint64_t)(int64_t)CHI_EIO);
  uint32_t again = note(&n, 0, ENV_TRACE_BEGIN, 0, 55, 10); /* the id is used anew */
  CHECK_INT(add_up(&n), CHI_OK);
  const struct trace_task *t = n.model.task;
  CHECK_INT(n.model.tasks, 2);
  CHECK(t->id == 55 && t->pool == 700 && t->method == 12 && t->worker == 1);
  CHECK(t->key_node == 3 && t->key_container == 4 && t->key_seq == 17);
  CHECK(t->end == ends && t->rc == CHI_EIO && !t->cut_off);
  uint32_t p = t->first;
  CHECK(phase_is(&n, p, taken, TRACE_WAITS));
  CHECK(phase_is(&n, p = n.model.phase[p].next, begun, TRACE_RUNS));
  CHECK(phase_is(&n, p = n.model.phase[p].next, begun + 1, TRACE_RUNS));
  CHECK(phase_is(&n, p = n.model.phase[p].next, blocks, TRACE_BLOCKS));
  CHECK(phase_is(&n, p = n.model.phase[p].next, goes_on, TRACE_RUNS));
  CHECK(n.model.phase[p].next == TRACE_NONE && t->last == p);
  CHECK(t[1].end == TRACE_NONE && phase_is(&n, t[1].first, again, TRACE_RUNS));
  CHECK_INT(n.model.workers, 3);
  trace_model_close(&n.model);
}

TEST(trace_tasks_end_with_their_node)
{
  struct notes n = {.page.nodes = 2};
  note(&n, 0, ENV_TRACE_BEGIN, 0, 5, 10);
  note(&n, 1, ENV_TRACE_BEGIN, 0, 5, 10);
  uint32_t killed = note(&n, 0, SIM_TRACE_NODE, SIM_TRACE_NODE_KILLED, 0, 0);
  CHECK_INT(add_up(&n), CHI_OK);
  CHECK_INT(n.model.tasks, 2);
  CHECK(n.model.task[0].end == killed && n.model.task[0].cut_off);
  CHECK(n.model.task[1].end == TRACE_NONE && !n.model.task[1].cut_off);
  trace_model_close(&n.model);
}

/* A task that was refused has no body; keys without a body are nobody's. */
TEST(trace_tasks_without_a_body)
{
  struct notes n = {.page.nodes = 1};
  note(&n, 0, ENV_TRACE_KEY, 0, 1, 0);
  uint32_t refused = note(&n, 0, ENV_TRACE_COMPLETE, 0, 5, (uint64_t)(int64_t)CHI_EBUSY);
  CHECK_INT(add_up(&n), CHI_OK);
  CHECK_INT(n.model.tasks, 1);
  CHECK(n.model.task[0].end == refused &&
        phase_is(&n, n.model.task[0].first, refused, TRACE_WAITS));
  trace_model_close(&n.model);
}

/* ---- what was wrong -------------------------------------------------------------------------- */

static bool band_is(const struct notes *n, uint32_t at, int kind, uint32_t node, uint32_t from,
                    uint32_t to)
{
  const struct trace_band *b = &n->model.band[at];
  return at < n->model.bands && b->kind == kind && b->node == node && b->from == from &&
         b->to == to;
}

TEST(trace_bands_of_a_life)
{
  struct notes n = {.page.nodes = 1};
  uint32_t starts = note(&n, 0, SIM_TRACE_NODE, SIM_TRACE_NODE_STARTS, 0, 0);
  uint32_t serves = note(&n, 0, SIM_TRACE_NODE, SIM_TRACE_NODE_SERVES, 0, 0);
  uint32_t paused = note_fault(&n, SIM_PLAN_PAUSE, 0, 0, 0);
  uint32_t killed = note(&n, 0, SIM_TRACE_NODE, SIM_TRACE_NODE_LOSES_POWER, 0, 0);
  uint32_t again = note(&n, 0, SIM_TRACE_NODE, SIM_TRACE_NODE_STARTS, 0, 0);
  CHECK_INT(add_up(&n), CHI_OK);
  CHECK_INT(n.model.bands, 5);
  CHECK(band_is(&n, 0, TRACE_DOWN, 0, TRACE_NONE, starts));
  CHECK(band_is(&n, 1, TRACE_STARTING, 0, starts, serves));
  CHECK(band_is(&n, 2, TRACE_PAUSED, 0, paused, killed));
  CHECK(band_is(&n, 3, TRACE_DOWN, 0, killed, again));
  CHECK(band_is(&n, 4, TRACE_STARTING, 0, again, TRACE_NONE));
  trace_model_close(&n.model);
}

TEST(trace_bands_of_the_network)
{
  struct notes n = {.page.nodes = 4};
  uint32_t cut = note_fault(&n, SIM_PLAN_CUT, 0, 1, 0);
  uint32_t other = note_fault(&n, SIM_PLAN_CUT, 0, 2, 0);
  uint32_t join = note_fault(&n, SIM_PLAN_JOIN, 0, 1, 0);
  uint32_t part = note_fault(&n, SIM_PLAN_PARTITION, 1, 2, 0);
  uint32_t split = note_fault(&n, SIM_PLAN_SPLIT, 0, 0, 1u << 3);
  uint32_t slow = note_fault(&n, SIM_PLAN_SLOW, 2, 3, 500);
  uint32_t heal = note_fault(&n, SIM_PLAN_HEAL, 0, 0, 0);
  uint32_t drift = note_fault(&n, SIM_PLAN_DRIFT, 2, 0, (uint64_t)-50);
  uint32_t memory = note_fault(&n, SIM_PLAN_MEMORY, 0, 0, 1000);
  uint32_t calm = note_fault(&n, SIM_PLAN_CALM, 0, 0, 0);
  CHECK_INT(add_up(&n), CHI_OK);
  CHECK_INT(n.model.bands, 8);
  CHECK(band_is(&n, 0, TRACE_CUT, 0, cut, join) && n.model.band[0].peer == 1);
  CHECK(band_is(&n, 1, TRACE_CUT, 0, other, heal) && n.model.band[1].peer == 2);
  CHECK(band_is(&n, 2, TRACE_APART, 1, part, split));
  CHECK(band_is(&n, 3, TRACE_APART, 2, part, split));
  CHECK(band_is(&n, 4, TRACE_APART, 3, split, heal));
  CHECK(band_is(&n, 5, TRACE_LATE, 2, slow, heal));
  CHECK(band_is(&n, 6, TRACE_DRIFT, 2, drift, calm));
  CHECK(band_is(&n, 7, TRACE_SCARCE, TRACE_NONE, memory, calm));
  trace_model_close(&n.model);
}

/* ---- the rest -------------------------------------------------------------------------------- */

TEST(trace_counts_nodes_and_refuses_disorder)
{
  struct notes n = {.page.nodes = 1};
  CHECK_INT(add_up(&n), CHI_OK); /* nothing at all */
  CHECK(n.model.nodes == 1 && n.model.arrows + n.model.tasks + n.model.bands == 0);
  trace_model_close(&n.model);
  note(&n, 5, SIM_TRACE_NODE, SIM_TRACE_NODE_SERVES, 0, 0);
  note(&n, UINT32_MAX, ENV_TRACE_BEGIN, 0, 1, 0);        /* a task of nobody */
  note(&n, 5, SIM_TRACE_NET_SEND, SIM_PLAN_NODES, 1, 0); /* a message to nowhere */
  CHECK_INT(add_up(&n), CHI_OK);
  CHECK(n.model.nodes == 6 && n.model.arrows + n.model.tasks + n.model.bands == 0);
  trace_model_close(&n.model);
  n.record[2].event.time = 1;
  CHECK_INT(add_up(&n), CHI_EINVAL);
  n.record[2].event.time = n.record[1].event.time;
  n.record[2].number = n.record[1].number;
  CHECK_INT(add_up(&n), CHI_EINVAL);
  n.count = TRACE_MOST + 1;
  CHECK_INT(add_up(&n), CHI_EINVAL);
}

static const char *said(int kind, uint64_t a, uint64_t b, uint64_t c)
{
  static char text[TRACE_TEXT];
  struct sim_trace_event event = {.kind = kind, .a = a, .b = b, .c = c};
  trace_say(&event, text);
  return text;
}

TEST(trace_says_what_happened)
{
  CHECK_STR(said(SIM_TRACE_NET_SEND, 2, 41, 88), "message 41 to node2, 88 bytes");
  CHECK_STR(said(ENV_TRACE_KEY, 3ull << 32 | 1, 7, 5), "it is task 7 of node3, for container 1");
  CHECK_STR(said(ENV_TRACE_NET, 0, 4, 9), "sends request 9, node4");
  CHECK_STR(said(ENV_TRACE_NET, 999, 4, 9), "? 9, node4");
  CHECK_STR(said(ENV_TRACE_MEMBER, 3, 2, 9), "node3 is suspect to it");
  CHECK_STR(said(ENV_TRACE_BOOT, 12, 0, 0), "its life is number 12");
  CHECK_STR(said(ENV_TRACE_SUBMIT, 1, 2ull << 32 | 3, 700ull << 16 | 12),
            "a client submits task 2:3 for method 12 of pool 700");
  CHECK_STR(said(ENV_TRACE_DONE, 1, 2ull << 32 | 3, (uint64_t)(int64_t)CHI_EUNKNOWN),
            "a client has task 2:3: CHI_EUNKNOWN");
  CHECK_STR(said(ENV_TRACE_DONE, 1, 3, 5), "a client has task 0:3: its own 5");
  CHECK_STR(said(98, 1, 2, 3), "event 98: 1 2 3");
}

TEST(trace_knows_kinds_and_nodes)
{
  struct sim_trace_event cut = {.kind = SIM_TRACE_PLAN, .b = SIM_PLAN_CUT, .c = 3ull << 32 | 1};
  struct sim_trace_event calm = {.kind = SIM_TRACE_PLAN, .b = SIM_PLAN_CALM};
  struct sim_trace_event body = {.kind = ENV_TRACE_BEGIN, .node = 2};
  struct sim_trace_event file = {.kind = SIM_TRACE_IO_END, .node = 2};
  struct sim_trace_event done = {.kind = ENV_TRACE_DONE, .node = 2};
  struct sim_trace_event member = {.kind = ENV_TRACE_MEMBER, .node = 2};
  CHECK_INT(trace_node(&cut), 3);
  CHECK(trace_node(&calm) == TRACE_NONE);
  CHECK_INT(trace_node(&body), 2);
  CHECK_INT(trace_group(&cut), TRACE_FAULTS);
  CHECK_INT(trace_group(&body), TRACE_TASKS);
  CHECK_INT(trace_group(&file), TRACE_FILES);
  CHECK_INT(trace_group(&done), TRACE_CALLS);
  CHECK_INT(trace_group(&member), TRACE_LIVES);
}

TEST(trace_strings_are_safe_in_a_page)
{
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  CHECK(out);
  trace_put_string(out, "a\"\\</script>\n\xc3\xa9\xff\xe2\x80\xa8");
  fclose(out);
  CHECK_STR(text, "\"a\\u0022\\u005c\\u003c/script>\\u000a\xc3\xa9\\ufffd\\u2028\"");
  free(text);
}
