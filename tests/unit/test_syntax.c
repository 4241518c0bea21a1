/* test_syntax.c - which texts are JSON objects, and which only look like it. */
#include "syntax.h"
#include "json.h"
#include "test.h"

#include <stdlib.h>

TEST(syntax_takes_objects)
{
  static const char *const good[] = {
      "{}",
      " {\t}\r\n",
      "{\"a\":1}",
      "{\"a\":[],\"b\":[1,-2, 3.5 ,0,-0,1e9,1E+2,0.5e-7],\"\":{\"c\":{}}}",
      "{\"t\":true,\"f\":false,\"n\":null}",
      "{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":\"\\u00e9\\uD83d\\uDe00\"}",
      "{\"\xc3\xa9\":\"\xf0\x9f\x98\x80\x7f\"}",
      "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
      "\"a\":{\"a\":[]}}}}}}}}}}}}}}}",
      NULL};
  for (size_t i = 0; good[i]; i++) {
    struct json *json = NULL;
    if (!syntax_is_object(good[i]))
      CHECK_STR(good[i], "an object");
    CHECK_INT(json_parse(good[i], strlen(good[i]), &json, NULL), CHI_OK);
    json_free(json);
  }
}

TEST(syntax_refuses_the_rest)
{
  static const char *const bad[] = {
      "", " ", "1", "\"a\"", "[]", "null", "{", "}", "{}}", "{} {}", "{},", "{,}", "{\"a\"}",
      "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "{\"a\":1 \"b\":2}", "{\"a\":[1,]}",
      "{\"a\":[1 2]}", "{\"a\":[}", "{\"a\":1]", "{\"a\":01}", "{\"a\":-}", "{\"a\":.5}",
      "{\"a\":5.}", "{\"a\":+5}", "{\"a\":1e}", "{\"a\":1e+}", "{\"a\":0x10}", "{\"a\":nan}",
      "{\"a\":tru}", "{\"a\":True}", "{\"a\":nul", "{\"a", "{\"a\\", "{\"a\\\"", "{\"a\n\":1}",
      "{\"a\\x\":1}", "{\"a\\u\":1}", "{\"a\\u12\":1}", "{\"a\\u00g0\":1}", "{\"a\\u0000\":1}",
      "{\"\\ud800\":1}", "{\"\\ud800\\n\":1}", "{\"\\ud800\\u0041\":1}", "{\"\\udc00\":1}",
      "{\"\xff\":1}", "{\"\xc3\":1}", "{\"\xed\xa0\x80\":1}", "{\"\x1b[2J\":1}",
      "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
      "\"a\":{\"a\":[{}]}}}}}}}}}}}}}}}",
      NULL};
  for (size_t i = 0; bad[i]; i++)
    if (syntax_is_object(bad[i]))
      CHECK_STR(bad[i], "refused");
}

TEST(syntax_ends_with_the_text)
{
  static const char whole[] = "{\"a\":[1.5e3,\"\\ud83d\\ude00\",{\"b\":null}],\"c\":true}";
  for (size_t size = 0; size < sizeof whole - 1; size++) {
    char *part = malloc(size + 1); /* of its size, so that a sanitizer sees a look beyond */
    memcpy(part, whole, size);
    part[size] = '\0';
    CHECK(!syntax_is_object(part));
    free(part);
  }
  CHECK(syntax_is_object(whole));
}
