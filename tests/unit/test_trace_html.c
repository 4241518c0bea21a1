/* test_trace_html.c - runs as a page and as Chrome trace events: what is in the files. */
#include "json.h"
#include "test.h"
#include "trace_chrome.h"
#include "trace_html.h"

#include <stdlib.h>

/* A message, a body that blocks, a node that dies, a message that is lost; and odd texts. */
static const struct trace_record run[] = {
    {1, {1000, 0, ENV_TRACE_DISPATCH, 2, 1ull << 32 | 3, 700u << 16 | 12, NULL}},
    {4, {2000, 0, SIM_TRACE_NET_SEND, 1, 41, 88, NULL}},
    {5, {2000, 0, SIM_TRACE_NET_SEND, 1, 42, 88, NULL}},
    {7, {27500, 1, SIM_TRACE_NET_DELIVER, 0, 41, 88, NULL}},
    {8, {28000, 1, ENV_TRACE_BEGIN, 0, 9, 700u << 16 | 12, NULL}},
    {9, {28000, 1, ENV_TRACE_KEY, 1, 6, 123456789012345678u, NULL}},
    {10, {29000, 1, ENV_TRACE_BLOCK, 0, 9, 0, NULL}},
    {11, {30000, 1, SIM_TRACE_IO_BEGIN, 0, 2, 4096, "/data/007 <&>\x01"}},
    {12, {31000, 1, ENV_TRACE_RESUME, 0, 9, 0, NULL}},
    {13, {32000, 1, ENV_TRACE_BOOT, 123456789012345678u, 0, 0, NULL}},
    {14, {33000, UINT32_MAX, SIM_TRACE_PLAN, 0, SIM_PLAN_CRASH, 1ull << 32, "crash 1"}},
    {15, {33000, 1, SIM_TRACE_NODE, SIM_TRACE_NODE_LOSES_POWER, 0, 0, NULL}},
    {16, {34000, 0, SIM_TRACE_NET_LOST, 1, 42, SIM_NET_DIED, "the other side died"}},
    {18, {35000, 0, ENV_TRACE_COMPLETE, 2, 1ull << 32 | 3, 0, NULL}},
};

static const struct trace_page page = {.title = "A <run> & \"more\" </script>",
                                       .spec = "sim:nodes=2\nseed=5",
                                       .seed = 18446744073709551615u,
                                       .hash = 0xabc,
                                       .events = 20,
                                       .nodes = 2,
                                       .record = run,
                                       .count = CHI_COUNT(run),
                                       .check = "P2",
                                       .why = "it </script> began again",
                                       .failed_event = 19,
                                       .failed_time = 35000};

typedef int writer(FILE *out, const struct trace_page *what);

/* The file as a text, to be freed; NULL: not written. */
static char *written(writer *write, const struct trace_page *what)
{
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  int rc = out ? write(out, what) : CHI_ENOMEM;
  if (out)
    fclose(out);
  if (rc == CHI_OK)
    return text;
  free(text);
  return NULL;
}

/* The data of a page; NULL: there is none, or it is no JSON. */
static struct json *data_of(const char *html)
{
  static const char opening[] = "<script type=\"application/json\" id=\"data\">";
  const char *begin = strstr(html, opening), *end = begin ? strstr(begin, "</script>") : NULL;
  struct json *data = NULL;
  chi_error err;
  if (!end)
    return NULL;
  begin += sizeof(opening) - 1;
  return json_parse(begin, (size_t)(end - begin), &data, &err) == CHI_OK ? data : NULL;
}

static uint32_t times(const char *text, const char *what)
{
  uint32_t count = 0;
  for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
    count++;
  return count;
}

TEST(trace_html_holds_the_run)
{
  char *html = written(trace_html_write, &page);
  CHECK(html);
  struct json *data = data_of(html);
  CHECK(data);
  CHECK_STR(json_string(data, "title", ""), page.title);
  CHECK_STR(json_string(data, "spec", ""), page.spec);
  CHECK_STR(json_string(data, "seed", ""), "18446744073709551615");
  CHECK_STR(json_string(data, "hash", ""), "0000000000000abc");
  CHECK_INT(json_integer(data, "nodes", 0), 2);
  CHECK_STR(json_string(json_get(data, "failure"), "why", ""), page.why);
  CHECK_INT(json_integer(json_get(data, "failure"), "event", 0), 19);
  CHECK_INT(json_count(data, "number"), CHI_COUNT(run));
  CHECK_INT(json_count(data, "time"), CHI_COUNT(run));
  CHECK_INT(json_count(data, "node"), CHI_COUNT(run));
  CHECK_INT(json_count(data, "form"), CHI_COUNT(run));
  CHECK_INT(json_count(data, "arrows"), 2 * 5);
  CHECK_INT(json_count(data, "tasks"), 2);
  CHECK_INT(json_count(data, "bands"), 5);
  json_free(data);
  free(html);
}

/* Forms and numbers give the texts again. */
TEST(trace_html_texts_come_back)
{
  char *html = written(trace_html_write, &page), text[TRACE_TEXT];
  struct json *data = html ? data_of(html) : NULL;
  CHECK(data);
  const struct json *value = json_list(data, "values"), *which = json_list(data, "form");
  for (uint32_t i = 0; i < page.count; i++, which = which->next) {
    char again[TRACE_TEXT] = "";
    const struct json *form = json_list(data, "forms");
    for (uint64_t f = 0; f < which->integer; f++)
      form = form->next;
    for (const char *at = form->child->next->next->string; *at; at++) {
      size_t used = strlen(again), room = sizeof(again) - used;
      if (*at != '\1') {
        snprintf(again + used, room, "%c", *at);
        continue;
      }
      if (value->kind == JSON_STRING)
        snprintf(again + used, room, "%s", value->string);
      else
        snprintf(again + used, room, "%llu", (unsigned long long)value->integer);
      value = value->next;
    }
    trace_say(&run[i].event, text);
    CHECK_STR(again, text);
  }
  CHECK(!value);
  json_free(data);
  free(html);
}

TEST(trace_html_needs_nothing_else)
{
  char *html = written(trace_html_write, &page);
  CHECK(html);
  CHECK(strstr(html, "<title>A &#60;run&#62; &#38; &#34;more&#34; &#60;/script&#62;</title>"));
  CHECK_INT(times(html, "</script>"), 2);
  CHECK_INT(times(html, "<script"), 2);
  CHECK(!strstr(html, "http:") && !strstr(html, "https:"));
  CHECK(!strstr(html, " src=") && !strstr(html, "<link") && !strstr(html, "@import"));
  CHECK(!strstr(html, "@title@") && !strstr(html, "@data@"));
  free(html);
}

TEST(trace_html_of_nothing)
{
  struct trace_page nothing = {0};
  char *html = written(trace_html_write, &nothing);
  CHECK(html);
  struct json *data = data_of(html);
  CHECK(data);
  CHECK_INT(json_count(data, "number"), 0);
  CHECK_INT(json_get(data, "failure")->kind, JSON_NULL);
  json_free(data);
  free(html);
}

/* ---- Chrome ---------------------------------------------------------------------------------- */

/* Events of a phase, and a category unless it is NULL. */
static uint32_t events(const struct json *data, const char *phase, const char *category)
{
  uint32_t count = 0;
  for (const struct json *e = json_list(data, "traceEvents"); e; e = e->next)
    count += strcmp(json_string(e, "ph", ""), phase) == 0 &&
             (!category || strcmp(json_string(e, "cat", ""), category) == 0);
  return count;
}

TEST(trace_chrome_holds_the_run)
{
  char *text = written(trace_chrome_write, &page);
  struct json *data = NULL;
  chi_error err;
  CHECK(text);
  CHECK_INT(json_parse(text, strlen(text), &data, &err), CHI_OK);
  CHECK_INT(events(data, "X", "task"), 2); /* until it blocks; until its node dies */
  CHECK_INT(events(data, "b", "task"), 2); /* and the two tasks as a whole */
  CHECK_INT(events(data, "e", "task"), 2);
  CHECK_INT(events(data, "X", "message"), 4); /* two sent, one arrives, one is lost */
  CHECK_INT(events(data, "s", "message"), 2);
  CHECK_INT(events(data, "f", "message"), 2);
  CHECK_INT(events(data, "b", "fault"), 1);
  CHECK_INT(events(data, "e", "fault"), 1);
  CHECK_INT(events(data, "i", NULL), 5); /* file, boot, crash twice, the failure */
  CHECK(events(data, "C", NULL) > 0);
  CHECK(strstr(text, "\"name\":\"P2 failed: it \\u003c/script> began again\""));
  json_free(data);
  free(text);
}

TEST(trace_chrome_slices_last)
{
  char *text = written(trace_chrome_write, &page);
  CHECK(text);
  CHECK(strstr(text, "\"name\":\"method 12 of node0.6\",\"ts\":28.000,\"dur\":1.000"));
  CHECK(strstr(text, "\"name\":\"method 12 of node0.6\",\"ts\":31.000,\"dur\":2.000"));
  free(text);
}

TEST(trace_chrome_of_nothing)
{
  struct trace_page nothing = {0};
  char *text = written(trace_chrome_write, &nothing);
  struct json *data = NULL;
  chi_error err;
  CHECK(text);
  CHECK_INT(json_parse(text, strlen(text), &data, &err), CHI_OK);
  CHECK_INT(events(data, "M", NULL), 2);
  json_free(data);
  free(text);
}

/* ---- errors ---------------------------------------------------------------------------------- */

TEST(trace_writers_tell_of_errors)
{
  writer *const writers[] = {trace_html_write, trace_chrome_write};
  struct trace_record mixed[2] = {run[1], run[0]};
  struct trace_page bad = {.record = mixed, .count = 2};
  for (size_t i = 0; i < CHI_COUNT(writers); i++) {
    FILE *full = fopen("/dev/full", "w");
    CHECK(!written(writers[i], &bad));
    CHECK(full);
    CHECK_INT(writers[i](full, &page), CHI_EIO);
    fclose(full);
  }
}
