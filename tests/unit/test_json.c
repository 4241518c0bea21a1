/* test_json.c - the JSON reader of the tools: what it takes, what it refuses. */
#include "json.h"

#include <stdlib.h>

#include "test.h"

static struct json *parsed(const char *text)
{
  struct json *json = NULL;
  chi_error err = {0};
  if (json_parse(text, strlen(text), &json, &err) != CHI_OK)
    test_fail(__FILE__, __LINE__, "%s: %s", text, err.text);
  return json;
}

TEST(json_reads_values)
{
  struct json *json = parsed(" { \"a\" : 18446744073709551615 , \"b\":[1,-2.5e1,true,null,{}],"
                             "\"c\":\"x\\n\\u00e9\\ud83d\\ude00\\\"\",\"d\":false,\"e\":[]} ");
  const struct json *list;
  CHECK(json != NULL);
  CHECK(json_integer(json, "a", 0) == UINT64_MAX);
  list = json_list(json, "b");
  CHECK_INT(json_count(json, "b"), 5);
  CHECK(list->kind == JSON_NUMBER && list->exact && list->integer == 1);
  CHECK(list->next->number == -25 && !list->next->exact);
  CHECK(list->next->next->kind == JSON_BOOL && list->next->next->integer == 1);
  CHECK(list->next->next->next->kind == JSON_NULL);
  CHECK(list->next->next->next->next->kind == JSON_OBJECT);
  CHECK_STR(json_string(json, "c", ""), "x\n\xc3\xa9\xf0\x9f\x98\x80\"");
  CHECK(!json_bool(json, "d"));
  CHECK(json_list(json, "e") == NULL);
  json_free(json);
}

TEST(json_gives_the_fallback_for_what_is_not_there)
{
  struct json *json = parsed("{\"text\":\"1\",\"number\":-1,\"half\":0.5,\"huge\":1e30,"
                             "\"wide\":18446744073709551616}");
  CHECK(json != NULL);
  CHECK_INT(json_integer(json, "none", 7), 7);
  CHECK_INT(json_integer(json, "text", 7), 7);
  CHECK_INT(json_integer(json, "number", 7), 7);
  CHECK_INT(json_integer(json, "half", 7), 7);
  CHECK_INT(json_integer(json, "huge", 7), 7);
  CHECK_INT(json_integer(json, "wide", 7), 7);
  CHECK(json_number(json, "half", 0) == 0.5 && json_number(json, "number", 0) == -1);
  CHECK_STR(json_string(json, "number", "none"), "none");
  CHECK(json_get(NULL, "x") == NULL && json_get(json_get(json, "text"), "x") == NULL);
  CHECK_INT(json_count(json, "text"), 0);
  json_free(json);
}

TEST(json_refuses_what_is_malformed)
{
  static const char *const bad[] = {"",
                                    " ",
                                    "{",
                                    "}",
                                    "[1,]",
                                    "[1 2]",
                                    "{\"a\"}",
                                    "{\"a\":}",
                                    "{a:1}",
                                    "{\"a\":1,}",
                                    "\"",
                                    "\"\\x\"",
                                    "\"\\u12\"",
                                    "\"\\ud800\\u0041\"",
                                    "\"\\u0000\"",
                                    "\"a\nb\"",
                                    "01",
                                    "-",
                                    "1.",
                                    ".5",
                                    "1e",
                                    "+1",
                                    "tru",
                                    "nul",
                                    "truefalse",
                                    "1 1",
                                    "[",
                                    "[[]",
                                    "nan",
                                    "\"\\",
                                    "{\"a\":1}x",
                                    "\x01",
                                    "'a'",
                                    "//x"};
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    struct json *json = (struct json *)(uintptr_t)16;
    if (json_parse(bad[i], strlen(bad[i]), &json, &err) != CHI_ECORRUPT)
      test_fail(__FILE__, __LINE__, "\"%s\" was taken", bad[i]);
    CHECK(json == NULL);
    CHECK(json_parse(bad[i], strlen(bad[i]), &json, NULL) == CHI_ECORRUPT);
  }
  json_parse("[1,x]", 5, &(struct json *){NULL}, &err);
  CHECK_STR(err.text, "malformed JSON at byte 3: expected a number");
}

TEST(json_does_not_read_past_the_end)
{
  static const char text[] = "{\"a\":[1,2,\"\\u00e9\",true,null,-1.5e3]}";
  struct json *json;
  for (size_t size = 0; size < sizeof(text) - 1; size++) {
    char *copy = malloc(size + 1); /* of just that size, for the sanitizer */
    CHECK(copy != NULL);
    memcpy(copy, text, size);
    CHECK_INT(json_parse(copy, size, &json, NULL), CHI_ECORRUPT);
    free(copy);
  }
  CHECK_INT(json_parse("1\0", 2, &json, NULL), CHI_ECORRUPT);
}

TEST(json_bounds_depth_and_size)
{
  char text[2 * JSON_DEPTH_MAX + 4];
  struct json *json;
  chi_error err;
  for (int depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    CHECK_INT(json_parse(text, 2 * (size_t)depth, &json, &err),
              depth <= JSON_DEPTH_MAX ? CHI_OK : CHI_ECORRUPT);
    json_free(json);
  }
  CHECK_INT(json_parse(text, (size_t)JSON_SIZE_MAX + 1, &json, &err), CHI_ETOOBIG);
}
