/* test_exposition.c - the text in which Prometheus reads metrics: names, escapes, numbers. */
#include "exposition.h"
#include "latency.h"
#include "metrics.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

static const struct exposition_metric counter = {"x_total", EXPOSITION_COUNTER,
                                                 "Some \\ \"x\"\nhere."};
static const struct exposition_metric gauge = {"y_bytes", EXPOSITION_GAUGE, "Y."};

static char page[65536];
static char *page_text;
static size_t page_size;

static struct exposition page_begin(void)
{
  return (struct exposition){.out = open_memstream(&page_text, &page_size)};
}

static const char *page_end(struct exposition *e)
{
  fclose(e->out);
  snprintf(page, sizeof(page), "%s", page_text);
  free(page_text);
  return page;
}

TEST(exposition_tells_of_a_metric_once_and_only_if_there_is_a_sample)
{
  struct exposition e = page_begin();
  exposition_begin(&e, &counter);
  exposition_begin(&e, &gauge);
  exposition_count(&e, "", NULL, 1);
  exposition_count(&e, "", (const struct exposition_label[]){{"a", "b"}, {NULL, NULL}}, 2);
  CHECK_STR(page_end(&e), "# HELP y_bytes Y.\n# TYPE y_bytes gauge\n"
                          "y_bytes 1\ny_bytes{a=\"b\"} 2\n");
}

TEST(exposition_escapes_help_and_labels_each_in_its_way)
{
  struct exposition e = page_begin();
  exposition_begin(&e, &counter);
  exposition_count(&e, "",
                   (const struct exposition_label[]){
                       {"a", "\"\\\n\t\x7f"}, {"b", "\xc3\xa9\xff\xc3"}, {"c", ""}, {NULL, NULL}},
                   3);
  CHECK_STR(page_end(&e), "# HELP x_total Some \\\\ \"x\"\\nhere.\n# TYPE x_total counter\n"
                          "x_total{a=\"\\\"\\\\\\n??\",b=\"\xc3\xa9??\",c=\"\"} 3\n");
}

/* What stands after the name. */
static const char *value_of(void write(struct exposition *e))
{
  struct exposition e = page_begin();
  exposition_begin(&e, &gauge);
  write(&e);
  char *last = strstr(page_end(&e), "\ny_bytes ") + strlen("\ny_bytes ");
  last[strlen(last) - 1] = '\0';
  return last;
}

static void write_most(struct exposition *e)
{
  exposition_count(e, "", NULL, UINT64_MAX);
}

static void write_nan(struct exposition *e)
{
  exposition_number(e, "", NULL, NAN);
}

static void write_infinity(struct exposition *e)
{
  exposition_number(e, "", NULL, INFINITY);
}

static void write_less(struct exposition *e)
{
  exposition_number(e, "", NULL, -INFINITY);
}

static void write_big(struct exposition *e)
{
  exposition_number(e, "", NULL, 1e300);
}

static void write_half(struct exposition *e)
{
  exposition_number(e, "", NULL, -0.5);
}

static void write_ns(struct exposition *e)
{
  exposition_seconds(e, "", NULL, 1);
}

static void write_seconds(struct exposition *e)
{
  exposition_seconds(e, "", NULL, 20000000000);
}

static void write_no_seconds(struct exposition *e)
{
  exposition_seconds(e, "", NULL, 0);
}

static void write_long(struct exposition *e)
{
  exposition_seconds(e, "", NULL, UINT64_MAX);
}

TEST(exposition_writes_numbers_exactly)
{
  CHECK_STR(value_of(write_most), "18446744073709551615");
  CHECK_STR(value_of(write_nan), "NaN");
  CHECK_STR(value_of(write_infinity), "+Inf");
  CHECK_STR(value_of(write_less), "-Inf");
  CHECK_STR(value_of(write_big), "1.0000000000000001e+300");
  CHECK_STR(value_of(write_half), "-0.5");
  CHECK_STR(value_of(write_ns), "0.000000001");
  CHECK_STR(value_of(write_seconds), "20");
  CHECK_STR(value_of(write_no_seconds), "0");
  CHECK_STR(value_of(write_long), "18446744073.709551615");
}

/* ---- histograms -------------------------------------------------------------------------- */

static struct json *parsed(const char *text)
{
  struct json *json = NULL;
  chi_error err = {0};
  if (json_parse(text, strlen(text), &json, &err) != CHI_OK)
    test_fail(__FILE__, __LINE__, "%s", err.text);
  return json;
}

TEST(latency_adds_and_takes_away)
{
  struct json *now = parsed("{\"latency\":[[96,10],[128,5],[512,5]]}");
  struct json *before = parsed("{\"latency\":[[96,10],[128,4]]}");
  struct latency l = {0};
  latency_add(&l, now, 1);
  CHECK(latency_total(&l) == 20 && latency_below(&l, 128) == 15);
  CHECK(latency_percentile(&l, 0.5) == 96 && latency_percentile(&l, 0.99) == 512);
  latency_add(&l, before, -1);
  CHECK(latency_total(&l) == 6 && latency_below(&l, 127) == 0);
  CHECK(latency_percentile(&l, 0.1) == 128 && latency_percentile(&l, 0.99) == 512);
  latency_add(&l, now, -1); /* more than there is: none are left */
  CHECK(latency_total(&l) == 0 && latency_percentile(&l, 0.5) == 0);
  json_free(now);
  json_free(before);
}

TEST(latency_leaves_out_what_is_none)
{
  static const char *const texts[] = {"{}", "{\"latency\":1}", "{\"latency\":[]}",
                                      "{\"latency\":[1,[2],[\"a\",3],[4,\"b\"],[5,-6],{},null]}"};
  for (size_t i = 0; i < CHI_COUNT(texts); i++) {
    struct json *json = parsed(texts[i]);
    struct latency l = {0};
    latency_add(&l, json, 1);
    CHECK(latency_total(&l) == 0 && l.used == 0);
    json_free(json);
  }
}

TEST(latency_has_room_for_so_many_buckets_and_no_more)
{
  char text[4096] = "{\"latency\":[";
  struct latency l = {0};
  for (int i = 100; i > 0; i--)
    snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s[%d,1]", i < 100 ? "," : "", i);
  strcat(text, "]}");
  struct json *json = parsed(text);
  latency_add(&l, json, 1);
  CHECK(l.used == LATENCY_BUCKETS && latency_total(&l) == LATENCY_BUCKETS);
  for (uint32_t i = 1; i < l.used; i++)
    CHECK(l.bucket[i - 1].end < l.bucket[i].end);
  json_free(json);
}

/* ---- figures as metrics ------------------------------------------------------------------ */

/* The page about nodes whose answers these are; NULL: one that didn't answer. */
static const char *page_of(const char *const *answers, uint32_t count)
{
  static struct watch_node nodes[4];
  struct watch w = {.count = count, .node = nodes, .cluster = true};
  struct metrics_own own = {.collections = 7, .failures = 2, .took_ns = 1500000};
  struct exposition e = page_begin();
  memset(nodes, 0, sizeof(nodes));
  for (uint32_t i = 0; i < count; i++) {
    nodes[i].node = i;
    nodes[i].answer = answers[i] ? WATCH_FRESH : WATCH_LATE;
    nodes[i].now = answers[i] ? parsed(answers[i]) : NULL;
  }
  metrics_print(e.out, answers ? &w : NULL, &own);
  for (uint32_t i = 0; i < count; i++)
    json_free(nodes[i].now);
  return page_end(&e);
}

TEST(metrics_without_a_daemon_tell_of_the_exporter_alone)
{
  const char *text = page_of(NULL, 0);
  CHECK(strstr(text, "\nchimaera_up 0\n"));
  CHECK(strstr(text, "\nchimaera_exporter_collections_total 7\n"));
  CHECK(strstr(text, "\nchimaera_exporter_failures_total 2\n"));
  CHECK(strstr(text, "\nchimaera_exporter_collection_seconds 0.0015\n"));
  CHECK(!strstr(text, "node"));
}

TEST(metrics_of_nodes_stand_together)
{
  static const char *const answers[] = {
      "{\"totals\":{\"submitted\":5,\"codes\":{\"CHI_EIO\":2}},\"uptime_ns\":1500000000}", NULL,
      "{\"totals\":{\"submitted\":6},\"uptime_ns\":1}"};
  const char *text = page_of(answers, 3);
  CHECK(strstr(text, "\nchimaera_node_up{node=\"0\"} 1\nchimaera_node_up{node=\"1\"} 0\n"
                     "chimaera_node_up{node=\"2\"} 1\n"));
  CHECK(strstr(text, "\nchimaera_tasks_submitted_total{node=\"0\"} 5\n"
                     "chimaera_tasks_submitted_total{node=\"2\"} 6\n#"));
  CHECK(strstr(text, "\nchimaera_task_failures_total{node=\"0\",code=\"CHI_EIO\"} 2\n"));
  CHECK(strstr(text, "\nchimaera_uptime_seconds{node=\"0\"} 1.5\n"));
  CHECK(!strstr(text, "chimaera_tasks_completed_total"));
}

TEST(metrics_of_times_are_cumulative)
{
  static const char *const answers[] = {
      "{\"pools\":[{\"id\":\"300.0\",\"name\":\"p\",\"methods\":[{\"name\":\"m\",\"count\":160,"
      "\"sampled\":11,\"sampled_ns\":5000000000,\"latency\":[[96,3],[128,2],[192,4],"
      "[68719476736,1]]}]}]}"};
  static const char labels[] = "{node=\"0\",pool=\"300.0\",name=\"p\",method=\"m\"";
  const char *text = page_of(answers, 1);
  char line[300];
  static const char *const ends[][2] = {{"1.28e-07", "5"}, {"5.12e-07", "9"}, {"34.359738368", "9"},
                                        {"+Inf", "11"}};
  for (size_t i = 0; i < CHI_COUNT(ends); i++) {
    snprintf(line, sizeof(line), "\nchimaera_method_duration_seconds_bucket%s,le=\"%s\"} %s\n",
             labels, ends[i][0], ends[i][1]);
    CHECK(strstr(text, line));
  }
  snprintf(line, sizeof(line), "\nchimaera_method_duration_seconds_sum%s} 5\n", labels);
  CHECK(strstr(text, line));
  snprintf(line, sizeof(line), "\nchimaera_method_duration_seconds_count%s} 11\n", labels);
  CHECK(strstr(text, line));
}

static int lines_with(const char *text, const char *part)
{
  int n = 0;
  for (; (text = strstr(text, part)) != NULL; text += strlen(part))
    n++;
  return n;
}

TEST(metrics_of_modules_are_numbers_and_none_is_there_twice)
{
  static const char *const answers[] = {
      "{\"pools\":[{\"id\":\"300.0\",\"name\":\"p\",\"module\":\"m\",\"figures\":{\"a\":1,\"a\":2,"
      "\"b\":{\"c\":-1.5,\"d\":true},\"b.c\":3,\"e\":\"text\",\"f\":[1],\"g\":null}}]}"};
  const char *text = page_of(answers, 1);
  CHECK_INT(lines_with(text, "\nchimaera_module_figure{"), 3);
  CHECK(strstr(text, ",figure=\"a\"} 1\n"));
  CHECK(strstr(text, ",figure=\"b.c\"} -1.5\n"));
  CHECK(strstr(text, ",figure=\"b.d\"} 1\n"));
}

TEST(metrics_of_a_talkative_module_are_bounded)
{
  static char answer[65536];
  const char *const answers[] = {answer};
  strcpy(answer, "{\"pools\":[{\"id\":\"300.0\",\"figures\":{\"x\":0");
  for (int i = 0; i < 1000; i++)
    snprintf(answer + strlen(answer), 32, ",\"f%d\":%d", i, i);
  strcat(answer, "}}]}");
  CHECK_INT(lines_with(page_of(answers, 1), "\nchimaera_module_figure{"), 256);
}

TEST(metrics_of_answers_that_make_no_sense_are_left_out)
{
  static const char *const answers[] = {
      "{\"totals\":[1],\"net\":7,\"memory\":null,\"workers\":{},\"pools\":[1,\"x\",{}],\"nodes\":"
      "[3],\"clients\":[null],\"uptime_ns\":\"long\"}"};
  const char *text = page_of(answers, 1);
  CHECK(strstr(text, "\nchimaera_node_up{node=\"0\"} 1\n"));
  CHECK(!strstr(text, "submitted") && !strstr(text, "uptime"));
}
