/* test_view.c - tables for people: what they say of two moments, and of nodes that don't answer. */
#include "view.h"
#include "view_cluster.h"

#include <limits.h>
#include <stdlib.h>

#include "test.h"

static char *shown;

/* Everything that is shown is kept until the next. */
static FILE *show_begin(void)
{
  static size_t size;
  free(shown);
  shown = NULL;
  return open_memstream(&shown, &size);
}

static struct json *parsed(const char *text)
{
  struct json *json = NULL;
  chi_error err = {0};
  if (json_parse(text, strlen(text), &json, &err) != CHI_OK)
    test_fail(__FILE__, __LINE__, "%s", err.text);
  return json;
}

/* A line with these words, whatever is between them. */
static bool has_line(const char *first, const char *second)
{
  for (const char *at = shown; (at = strstr(at, first)) != NULL; at++) {
    const char *end = strchr(at, '\n'), *found = strstr(at, second);
    if (found && end && found < end)
      return true;
  }
  return false;
}

/* A daemon so many nanoseconds after its start. */
#define VIEW_ANSWER(uptime, completed, busy, count, sampled, sampled_ns, latency, bytes)           \
  "{\"instance\":\"n:1\",\"version\":\"0.1.0\",\"node\":0,\"boot\":5,\"state\":\"serving\","       \
  "\"uptime_ns\":" uptime ",\"totals\":{\"submitted\":" completed ",\"completed\":"                \
  completed ",\"failed\":0,\"refused\":0},\"workers\":[{\"id\":0,\"kind\":\"fast\","               \
  "\"busy_ns\":" busy ",\"tasks\":" completed "}],\"pools\":[{\"id\":\"300.0\","                   \
  "\"name\":\"p\",\"module\":\"m\",\"state\":\"ready\",\"tasks\":0,\"methods\":[{\"id\":10,"       \
  "\"name\":\"go\",\"count\":" count ",\"errors\":0,\"sampled\":" sampled                          \
  ",\"sampled_ns\":" sampled_ns ",\"latency\":" latency "}]}],\"nodes\":[{\"id\":1,"               \
  "\"host\":\"b\",\"state\":\"alive\",\"met\":1,\"bytes_out\":" bytes "}],"                        \
  "\"net\":{\"alive\":2,\"calls_open\":0},\"memory\":{\"main\":{\"used\":1048576,"                 \
  "\"budget\":2097152}},\"clients\":[]}"
#define VIEW_BEFORE                                                                                \
  VIEW_ANSWER("1000000000", "100", "0", "160", "10", "1000", "[[128,10]]", "1024")
#define VIEW_NOW                                                                                   \
  VIEW_ANSWER("3000000000", "300", "500000000", "360", "14", "13000", "[[128,10],[4096,4]]", "5120")

/* In two seconds: 200 tasks, a quarter of a core, 4 timed runs of 3 us each, 4 KiB. */
TEST(view_shows_what_happened_between_two_answers)
{
  struct json *before = parsed(VIEW_BEFORE), *now = parsed(VIEW_NOW);
  FILE *out = show_begin();
  view_print(out, now, before);
  fclose(out);
  CHECK(has_line("  100/s", "100/s"));
  CHECK(has_line("   0  fast", "25.0 %"));
  CHECK(has_line("300.0  go", "100/s"));
  CHECK(has_line("300.0  go", "       0  3 us  4.10 us  4.10 us"));
  CHECK(has_line("   1  b     alive  up", "2 KiB/s"));
  json_free(before);
  json_free(now);
}

TEST(view_shows_all_since_the_start)
{
  struct json *now = parsed(VIEW_NOW);
  FILE *out = show_begin();
  view_print(out, now, NULL);
  fclose(out);
  CHECK(has_line("n:1  version 0.1.0", "up 00:00:03"));
  CHECK(has_line("   0  fast", "500 ms"));
  CHECK(has_line("300.0  go", "360       0  929 ns  128 ns  4.10 us"));
  CHECK(has_line("   1  b     alive  up", "5 KiB"));
  json_free(now);
}

/* A cluster of three: one answers, one is silent, one is dead. */
static void cluster_show(bool rates, int width)
{
  static struct watch_node nodes[3];
  struct watch w = {.cluster = true, .count = 3, .node = nodes};
  memset(nodes, 0, sizeof(nodes));
  nodes[0] = (struct watch_node){.state = "alive", .host = "a", .answer = WATCH_FRESH};
  nodes[0].now = parsed(VIEW_NOW);
  nodes[0].before = rates ? parsed(VIEW_BEFORE) : NULL;
  nodes[1] = (struct watch_node){.node = 1, .state = "alive", .host = "b", .answer = WATCH_LATE};
  nodes[1].silent_ns = 3260000000;
  nodes[1].now = parsed(VIEW_NOW); /* from when it still answered: not to be shown as of now */
  nodes[2] = (struct watch_node){.node = 2, .state = "dead", .host = "c\xc3\xa9"};
  FILE *out = show_begin();
  view_cluster_print(out, &w, rates, width);
  fclose(out);
  for (int i = 0; i < 3; i++) {
    json_free(nodes[i].now);
    json_free(nodes[i].before);
  }
}

static int widest_line(void)
{
  int widest = 0;
  for (const char *at = shown; *at; at += strcspn(at, "\n") + 1)
    widest = (int)strcspn(at, "\n") > widest ? (int)strcspn(at, "\n") : widest;
  return widest;
}

TEST(view_cluster_shows_who_answers_and_who_does_not)
{
  cluster_show(true, INT_MAX);
  CHECK(has_line("node 0 of 3: 2 alive, 1 answer, 1 silent", ""));
  CHECK(has_line("     0  a     serving", "25.0 %"));
  CHECK(has_line("     0  a     serving", "4.10 us"));
  CHECK(has_line("     1  b     silent 3.20 s         -", "-"));
  CHECK(has_line("     2  c\xc3\xa9    dead                  -", "-"));
  CHECK(has_line("  300.0  p     m         1/1", "100"));
  cluster_show(false, INT_MAX);
  CHECK(has_line("     0  a     serving", "500 ms"));
  CHECK(has_line("     1  b     silent", "-"));
}

TEST(view_cluster_fits_the_terminal)
{
  cluster_show(true, 80);
  CHECK(widest_line() <= 80 && !has_line("peers", ""));
  cluster_show(true, 130);
  CHECK(widest_line() <= 130 && has_line("peers", "") && !has_line("retries", ""));
  cluster_show(true, 175);
  CHECK(widest_line() <= 175 && has_line("retries/s", "remote p99"));
}
