/* test_text.c - declared structs as text: setting, defaults, printing, describing. */
#include "text.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "test.h"

#define SPOT_FIELDS(X, T) X(T, IN, u64, offset) X(T, IN, u32, size, "4096") X(T, IN, u8, kind, "7")
CHI_STRUCT(spot, SPOT_FIELDS)
#define NEST_FIELDS(X, T) X(T, IN, object, place, spot) X(T, IN, str, label, 4, "ab")
CHI_STRUCT(nest, NEST_FIELDS)

#define ALL_FIELDS(X, T)                                                                           \
  X(T, IN, u8, a8)                                                                                 \
  X(T, IN, u16, a16)                                                                               \
  X(T, IN, u32, a32, "9") X(T, IN, u64, a64) X(T, IN, i8, b8) X(T, IN, i16, b16)                   \
      X(T, IN, i32, b32, "-9") X(T, IN, i64, b64) X(T, IN, f64, ratio, "0.5")                      \
          X(T, INOUT, bool, flag, "true") X(T, IN, size, amount, "64K")                            \
              X(T, IN, duration, pause, "20ms") X(T, IN, pool, where, "300.1")                     \
                  X(T, IN, str, name, 8, "x") X(T, IN, object, home, spot)                         \
                      X(T, OUT, array, spots, nest, 3) X(T, IN, bulk, data) X(T, OUT, u64, sum)
CHI_TASK(chi_test_all, 21, ALL_FIELDS)
CHI_TASK(chi_test_none, 22, CHI_NO_FIELDS)

static char out[8192];

static void collect(void *arg, const char *text)
{
  (void)arg;
  if (strlen(out) + strlen(text) < sizeof(out))
    strcat(out, text);
}

static const char *printed(const chi_type *type, const void *object, uint32_t dirs)
{
  out[0] = '\0';
  chi_type_print(type, object, dirs, collect, NULL);
  return out;
}

static int set(struct chi_test_all *t, const char *field, const char *text, chi_error *err)
{
  memset(err, 0, sizeof(*err));
  return chi_type_set(&chi_test_all_type, t, field, text, err);
}

TEST(text_sets_integers_to_their_bounds)
{
  struct chi_test_all t = {0};
  chi_error err;
  CHECK_INT(set(&t, "a8", "255", &err), CHI_OK);
  CHECK_INT(set(&t, "a16", "65535", &err), CHI_OK);
  CHECK_INT(set(&t, "a32", "4294967295", &err), CHI_OK);
  CHECK_INT(set(&t, "a64", "18446744073709551615", &err), CHI_OK);
  CHECK_INT(set(&t, "b8", "-128", &err), CHI_OK);
  CHECK_INT(set(&t, "b16", "-32768", &err), CHI_OK);
  CHECK_INT(set(&t, "b32", "-2147483648", &err), CHI_OK);
  CHECK_INT(set(&t, "b64", "-9223372036854775808", &err), CHI_OK);
  CHECK(t.a8 == 255 && t.a16 == 65535 && t.a32 == UINT32_MAX && t.a64 == UINT64_MAX);
  CHECK(t.b8 == INT8_MIN && t.b16 == INT16_MIN && t.b32 == INT32_MIN && t.b64 == INT64_MIN);
  CHECK_INT(set(&t, "b8", "127", &err), CHI_OK);
  CHECK_INT(set(&t, "b64", "9223372036854775807", &err), CHI_OK);
  CHECK(t.b8 == INT8_MAX && t.b64 == INT64_MAX);
}

TEST(text_refuses_integers_out_of_range)
{
  static const char *const bad[][2] = {{"a8", "256"},
                                       {"a16", "65536"},
                                       {"a32", "4294967296"},
                                       {"a64", "18446744073709551616"},
                                       {"b8", "128"},
                                       {"b8", "-129"},
                                       {"b16", "32768"},
                                       {"b32", "-2147483649"},
                                       {"b64", "-9223372036854775809"},
                                       {"b64", "9223372036854775808"},
                                       {"amount", "16777216T"},
                                       {"where", "4294967296.0"},
                                       {"ratio", "1e999"},
                                       {"ratio", "-1e999"}};
  struct chi_test_all t = {0}, before;
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    before = t;
    if (set(&t, bad[i][0], bad[i][1], &err) != CHI_ERANGE)
      test_fail(__FILE__, __LINE__, "%s=%s: %s", bad[i][0], bad[i][1], err.text);
    CHECK(memcmp(&t, &before, sizeof(t)) == 0);
    CHECK_INT(err.code, CHI_ERANGE);
  }
  CHECK_INT(set(&t, "a8", "256", &err), CHI_ERANGE);
  CHECK_STR(err.text, "a8: \"256\" is out of range; expected a whole number from 0 to 255");
}

TEST(text_refuses_what_is_no_value)
{
  static const char *const bad[][2] = {
      {"a8", ""},        {"a8", "-1"},    {"a8", "1 "},       {"a8", "0x1"},      {"b8", "--1"},
      {"b8", "-"},       {"b8", "+1"},    {"ratio", ""},      {"ratio", "."},     {"ratio", "inf"},
      {"ratio", "nan"},  {"ratio", "1e"}, {"ratio", "0x1p3"}, {"ratio", "1,5"},   {"ratio", "1.5x"},
      {"flag", "maybe"}, {"flag", ""},    {"amount", "12Q"},  {"amount", "-1"},   {"pause", "3h"},
      {"where", "300"},  {"where", "."},  {"where", "3.x"},   {"where", "1.2.3"}, {"where", "-1.0"},
      {"where", ".0"},   {"where", "1."}, {"data", "x"},      {"data", ""}};
  struct chi_test_all t = {0}, before;
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    before = t;
    if (set(&t, bad[i][0], bad[i][1], &err) != CHI_EINVAL)
      test_fail(__FILE__, __LINE__, "%s=%s: %s", bad[i][0], bad[i][1], err.text);
    CHECK(memcmp(&t, &before, sizeof(t)) == 0);
  }
  CHECK_INT(set(&t, "where", "300", &err), CHI_EINVAL);
  CHECK_STR(err.text, "where: \"300\" is no value for it; expected a pool id such as 300.0");
}

TEST(text_sets_other_kinds)
{
  struct chi_test_all t = {0};
  chi_error err;
  CHECK_INT(set(&t, "ratio", "-2.5e-3", &err), CHI_OK);
  CHECK(t.ratio == -0.0025);
  CHECK_INT(set(&t, "ratio", ".5", &err), CHI_OK);
  CHECK(t.ratio == 0.5);
  CHECK_INT(set(&t, "flag", "true", &err), CHI_OK);
  CHECK_INT(t.flag, 1);
  CHECK_INT(set(&t, "flag", "0", &err), CHI_OK);
  CHECK_INT(t.flag, 0);
  CHECK_INT(set(&t, "amount", "1.5g", &err), CHI_OK);
  CHECK_INT(t.amount, 1536ll << 20);
  CHECK_INT(set(&t, "pause", "1.5ms", &err), CHI_OK);
  CHECK_INT(t.pause, 1500000);
  CHECK_INT(set(&t, "where", "300.7", &err), CHI_OK);
  CHECK(t.where.major == 300 && t.where.minor == 7);
}

TEST(text_strings_keep_their_nul)
{
  struct chi_test_all t;
  chi_error err;
  memset(&t, 0x55, sizeof(t));
  CHECK_INT(set(&t, "name", "1234567", &err), CHI_OK);
  CHECK_STR(t.name, "1234567");
  CHECK_INT(set(&t, "name", "12345678", &err), CHI_ETOOBIG);
  CHECK_STR(err.text, "name: has room for 7 bytes, not 8");
  CHECK_STR(t.name, "1234567");
  CHECK_INT(set(&t, "name", "", &err), CHI_OK);
  for (size_t i = 0; i < sizeof(t.name); i++)
    CHECK_INT(t.name[i], 0);
}

TEST(text_paths_lead_into_objects_and_arrays)
{
  struct chi_test_all t = {0};
  chi_error err;
  CHECK_INT(set(&t, "home.offset", "8", &err), CHI_OK);
  CHECK_INT(t.home.offset, 8);
  CHECK_INT(set(&t, "spots[1].place.offset", "5", &err), CHI_OK);
  CHECK_INT(t.spots_count, 2);
  CHECK_INT(t.spots[1].place.offset, 5);
  CHECK_INT(t.spots[1].place.size, 4096); /* new elements begin at their defaults */
  CHECK_INT(t.spots[0].place.kind, 7);
  CHECK_STR(t.spots[0].label, "ab");
  CHECK_INT(set(&t, "spots[0].place.size", "1", &err), CHI_OK);
  CHECK_INT(t.spots_count, 2);
  CHECK_INT(t.spots[1].place.offset, 5);
  CHECK_INT(set(&t, "spots[2].label", "xyz", &err), CHI_OK);
  CHECK_INT(t.spots_count, 3);
}

TEST(text_refuses_bad_paths)
{
  static const struct {
    const char *path;
    int code;
  } bad[] = {{"", CHI_EINVAL},
             {".", CHI_EINVAL},
             {"home", CHI_EINVAL},
             {"home.", CHI_EINVAL},
             {"home[0].offset", CHI_EINVAL},
             {"home.offset.x", CHI_EINVAL},
             {"a8[0]", CHI_EINVAL},
             {"a8.x", CHI_EINVAL},
             {"spots", CHI_EINVAL},
             {"spots.label", CHI_EINVAL},
             {"spots[0]", CHI_EINVAL},
             {"spots[]", CHI_ERANGE},
             {"spots[", CHI_ERANGE},
             {"spots[3].label", CHI_ERANGE},
             {"spots[-1].label", CHI_ERANGE},
             {"spots[18446744073709551616].label", CHI_ERANGE},
             {"spots[0.label", CHI_ERANGE},
             {"spots[0]label", CHI_EINVAL},
             {"spots[0].place", CHI_EINVAL},
             {"home.ofset", CHI_ENOENT},
             {"nothing_like_it", CHI_ENOENT}};
  struct chi_test_all t = {0}, zero = {0};
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    if (set(&t, bad[i].path, "1", &err) != bad[i].code)
      test_fail(__FILE__, __LINE__, "\"%s\": %s", bad[i].path, err.text);
    if (memcmp(&t, &zero, sizeof(t)) != 0)
      test_fail(__FILE__, __LINE__, "\"%s\" changed the object", bad[i].path);
    CHECK_INT(chi_type_set(&chi_test_all_type, &t, bad[i].path, "1", NULL), bad[i].code);
  }
  CHECK_INT(set(&t, "home.ofset", "1", &err), CHI_ENOENT);
  CHECK_STR(err.text, "home.ofset: spot has no such field; nearest is \"offset\"; it has: offset, "
                      "size, kind");
  CHECK_INT(chi_type_set(&chi_test_none_type, &t, "x", "1", &err), CHI_ENOENT);
  CHECK_STR(err.text, "x: chi_test_none has no such field; it has: none");
}

TEST(text_refuses_long_names)
{
  struct chi_test_all t = {0};
  char path[4096];
  chi_error err;
  memset(path, 'n', sizeof(path) - 1);
  path[sizeof(path) - 1] = '\0';
  CHECK_INT(set(&t, path, "1", &err), CHI_EINVAL);
  path[TEXT_NAME_MAX - 1] = '\0';
  CHECK_INT(set(&t, path, "1", &err), CHI_ENOENT);
  CHECK_INT(set(&t, "ratio", path, &err), CHI_EINVAL);
}

TEST(text_bad_value_does_not_grow_an_array)
{
  struct chi_test_all t = {0};
  chi_error err;
  CHECK_INT(set(&t, "spots[2].place.kind", "300", &err), CHI_ERANGE);
  CHECK_INT(t.spots_count, 0);
}

/* A count that came from elsewhere is not believed. */
TEST(text_survives_a_wrong_count)
{
  struct chi_test_all t = {0};
  chi_error err;
  t.spots_count = 77;
  printed(&chi_test_all_type, &t, CHI_DIR_OUT);
  CHECK(strstr(out, "\"spots\":[{") != NULL);
  CHECK_INT(set(&t, "spots[0].place.kind", "3", &err), CHI_OK);
  CHECK_INT(t.spots_count, 3);
  memset(t.name, 'x', sizeof(t.name));
  printed(&chi_test_all_type, &t, CHI_DIR_IN);
  CHECK(strstr(out, "\"name\":\"xxxxxxxx\"") != NULL);
}

TEST(text_presets_what_has_a_default)
{
  struct chi_test_all t;
  chi_error err;
  memset(&t, 0x11, sizeof(t));
  CHECK_INT(chi_type_preset(&chi_test_all_type, &t, &err), CHI_OK);
  CHECK_INT(t.a32, 9);
  CHECK_INT(t.b32, -9);
  CHECK(t.ratio == 0.5 && t.flag == 1 && t.amount == 65536 && t.pause == 20000000);
  CHECK(t.where.major == 300 && t.where.minor == 1);
  CHECK_STR(t.name, "x");
  CHECK_INT(t.home.size, 4096);
  CHECK_INT(t.home.kind, 7);
  CHECK_INT(t.a8, 0x11); /* no default: left */
  CHECK_INT(t.home.offset, 0x1111111111111111);
}

#define WRONG_FIELDS(X, T) X(T, IN, u8, level, "999")
CHI_STRUCT(wrong, WRONG_FIELDS)
#define WRONG_LIST(X, T) X(T, OUT, array, list, wrong, 2)
CHI_STRUCT(wrong_list, WRONG_LIST)

TEST(text_reports_a_wrong_default)
{
  struct wrong w = {0};
  struct wrong_list l = {0};
  chi_error err;
  CHECK_INT(chi_type_preset(&wrong_type, &w, &err), CHI_ERANGE);
  CHECK(strstr(err.text, "level") != NULL);
  CHECK_INT(chi_type_set(&wrong_list_type, &l, "list[0].level", "1", &err), CHI_ERANGE);
  CHECK_INT(l.list_count, 0);
}

TEST(text_prints_json)
{
  struct chi_test_all t = {0};
  chi_error err;
  CHECK_INT(chi_type_preset(&chi_test_all_type, &t, &err), CHI_OK);
  t.b8 = -1;
  t.b16 = -2;
  t.b64 = INT64_MIN;
  t.a64 = UINT64_MAX;
  t.data.size = 77;
  t.data.data = (void *)(uintptr_t)16; /* must not be touched */
  CHECK_STR(printed(&chi_test_all_type, &t, CHI_DIR_IN),
            "{\"a8\":0,\"a16\":0,\"a32\":9,\"a64\":18446744073709551615,\"b8\":-1,\"b16\":-2,"
            "\"b32\":-9,\"b64\":-9223372036854775808,\"ratio\":0.5,\"flag\":true,"
            "\"amount\":65536,\"pause\":20000000,\"where\":\"300.1\",\"name\":\"x\","
            "\"home\":{\"offset\":0,\"size\":4096,\"kind\":7},\"data\":77}");
  t.sum = 5;
  CHECK_INT(set(&t, "spots[1].place.offset", "5", &err), CHI_OK);
  CHECK_STR(printed(&chi_test_all_type, &t, CHI_DIR_OUT),
            "{\"flag\":true,\"spots\":[{\"place\":{\"offset\":0,\"size\":4096,\"kind\":7},"
            "\"label\":\"ab\"},{\"place\":{\"offset\":5,\"size\":4096,\"kind\":7},"
            "\"label\":\"ab\"}],\"sum\":5}");
  CHECK_STR(printed(&chi_test_none_type, &t, CHI_DIR_INOUT), "{}");
}

static const char *quoted(const char *text, size_t max)
{
  out[0] = '\0';
  text_put_string(text, max, collect, NULL);
  return out;
}

TEST(text_prints_strings_as_json)
{
  CHECK_STR(quoted("a\"b\\c\nd\te\x01\x7f", SIZE_MAX), "\"a\\\"b\\\\c\\nd\\u0009e\\u0001\\u007f\"");
  CHECK_STR(quoted("gr\xc3\xbc\xc3\x9f", SIZE_MAX), "\"gr\xc3\xbc\xc3\x9f\"");
  CHECK_STR(quoted("\xe2\x82\xac\xf0\x9f\x98\x80", SIZE_MAX), "\"\xe2\x82\xac\xf0\x9f\x98\x80\"");
  CHECK_STR(quoted("\xe2\x82\xac", 2), "\"\\ufffd\\ufffd\"");
  CHECK_STR(quoted("\xff"
                   "a\xc0\x80\xed\xa0\x80\xf5\xc3",
                   SIZE_MAX),
            "\"\\ufffda\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"");
  CHECK_STR(quoted("", SIZE_MAX), "\"\"");
  CHECK_STR(quoted("abc", 2), "\"ab\"");
}

TEST(text_long_strings_come_in_pieces)
{
  char text[1000];
  memset(text, '\n', sizeof(text) - 1);
  text[sizeof(text) - 1] = '\0';
  quoted(text, SIZE_MAX);
  CHECK_INT(strlen(out), 2 * 999 + 2);
  for (size_t i = 0; i < 999; i++)
    CHECK(memcmp(out + 1 + 2 * i, "\\n", 2) == 0);
}

TEST(text_doubles_read_back_the_same)
{
  static const double numbers[] = {
      0, -0.0, 0.1, 1.0 / 3, 1e22, 1e23, 5e-324, DBL_MAX, DBL_MIN, 123456789012345678.0, -2.5e-10};
  struct chi_test_all t = {0};
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(numbers); i++) {
    char *at, text[64];
    t.ratio = numbers[i];
    at = strstr(printed(&chi_test_all_type, &t, CHI_DIR_IN), "\"ratio\":") + 8;
    snprintf(text, sizeof(text), "%.*s", (int)strcspn(at, ","), at);
    t.ratio = 7;
    CHECK_INT(set(&t, "ratio", text, &err), CHI_OK);
    CHECK(memcmp(&t.ratio, &numbers[i], sizeof(double)) == 0);
  }
  t.ratio = 0.1;
  CHECK(strstr(printed(&chi_test_all_type, &t, CHI_DIR_IN), "\"ratio\":0.1,") != NULL);
  t.ratio = INFINITY;
  CHECK(strstr(printed(&chi_test_all_type, &t, CHI_DIR_IN), "\"ratio\":null,") != NULL);
  t.ratio = NAN;
  CHECK(strstr(printed(&chi_test_all_type, &t, CHI_DIR_IN), "\"ratio\":null,") != NULL);
}

TEST(text_does_not_follow_the_locale)
{
  static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "C"};
  struct chi_test_all t = {0};
  chi_error err;
  size_t i = 0;
  while (!setlocale(LC_NUMERIC, names[i]))
    i++;
  if (set(&t, "ratio", "2.25", &err) != CHI_OK || t.ratio != 2.25)
    test_fail(__FILE__, __LINE__, "%s in locale %s", err.text, names[i]);
  if (!strstr(printed(&chi_test_all_type, &t, CHI_DIR_IN), "\"ratio\":2.25,"))
    test_fail(__FILE__, __LINE__, "%s in locale %s", out, names[i]);
  setlocale(LC_NUMERIC, "C");
}

TEST(text_kinds_have_names_and_sizes)
{
  for (uint32_t kind = CHI_KIND_u8; kind <= CHI_KIND_bulk; kind++)
    CHECK(text_kind_name(kind) != NULL);
  CHECK(text_kind_name(0) == NULL && text_kind_name(CHI_KIND_bulk + 1) == NULL);
  CHECK_INT(text_kind_size(CHI_KIND_i16), 2);
  CHECK_INT(text_kind_size(CHI_KIND_str), 0);
  CHECK_INT(text_kind_size(99), 0);
}

static int none_run(chi_ctx *ctx, void *self, void *task)
{
  (void)ctx, (void)self, (void)task;
  return CHI_OK;
}

TEST(text_describes_a_module)
{
  static const chi_method methods[] = {{&chi_test_none_type, none_run, CHI_METHOD_IDEMPOTENT, 25},
                                       {0, 0, 0, 0}};
  static const chi_module module = {.version = CHI_MODULE_VERSION,
                                    .flags = CHI_MODULE_PARALLEL,
                                    .name = "te\"st",
                                    .params = &nest_type,
                                    .methods = methods};
  out[0] = '\0';
  CHECK_INT(text_describe(&module, collect, NULL), CHI_OK);
  CHECK_STR(out,
            "{\"module\":\"te\\\"st\",\"parallel\":true,\"params\":{\"name\":\"nest\",\"size\":24,"
            "\"fields\":[{\"name\":\"place\",\"dir\":\"in\",\"kind\":\"object\",\"offset\":0,"
            "\"size\":16,\"elem\":{\"name\":\"spot\",\"size\":16,\"fields\":["
            "{\"name\":\"offset\",\"dir\":\"in\",\"kind\":\"u64\",\"offset\":0,\"size\":8},"
            "{\"name\":\"size\",\"dir\":\"in\",\"kind\":\"u32\",\"offset\":8,\"size\":4,"
            "\"preset\":\"4096\"},"
            "{\"name\":\"kind\",\"dir\":\"in\",\"kind\":\"u8\",\"offset\":12,\"size\":1,"
            "\"preset\":\"7\"}]}},{\"name\":\"label\",\"dir\":\"in\",\"kind\":\"str\","
            "\"offset\":16,\"size\":4,\"preset\":\"ab\"}]},"
            "\"methods\":[{\"name\":\"chi_test_none\",\"size\":64,\"fields\":[],\"id\":22,"
            "\"compute_us\":25,\"idempotent\":true}]}");
}

TEST(text_describes_arrays_and_directions)
{
  static const chi_method methods[] = {{&chi_test_all_type, none_run, 0, 0}, {0, 0, 0, 0}};
  static const chi_module module = {.name = "t", .methods = methods};
  char want[200];
  out[0] = '\0';
  CHECK_INT(text_describe(&module, collect, NULL), CHI_OK);
  snprintf(want, sizeof(want),
           "{\"name\":\"spots\",\"dir\":\"out\",\"kind\":\"array\",\"offset\":%zu,\"size\":24,"
           "\"room\":3,\"count_offset\":%zu,\"elem\":{",
           offsetof(struct chi_test_all, spots), offsetof(struct chi_test_all, spots_count));
  CHECK(strstr(out, want) != NULL);
  CHECK(strstr(out, "{\"name\":\"flag\",\"dir\":\"inout\",\"kind\":\"bool\"") != NULL);
  CHECK(strstr(out, "\"parallel\":false,\"methods\"") != NULL);
}

TEST(text_describes_a_module_with_nothing)
{
  static const chi_module module = {.name = "empty"};
  out[0] = '\0';
  CHECK_INT(text_describe(&module, collect, NULL), CHI_OK);
  CHECK_STR(out, "{\"module\":\"empty\",\"parallel\":false,\"methods\":[]}");
}

/* A type that contains itself, which no declaration can make but a table by hand can. */
TEST(text_bounds_the_depth)
{
  static chi_type loop;
  static const chi_field field = {"in", CHI_DIR_INOUT, CHI_KIND_object, 0, 8, 1, 0, &loop, ""};
  static const chi_module module = {.name = "loop", .params = &loop};
  uint64_t object = 0;
  chi_error err;
  loop = (chi_type){"loop", 0, 8, 1, &field};
  out[0] = '\0';
  CHECK_INT(text_describe(&module, collect, NULL), CHI_EINVAL);
  CHECK_STR(out, "");
  CHECK_STR(printed(&loop, &object, CHI_DIR_IN), "{\"in\":{\"in\":{\"in\":{\"in\":null}}}}");
  CHECK_INT(chi_type_set(&loop, &object, "in.in.in.in.in.in", "1", &err), CHI_EINVAL);
  CHECK_INT(chi_type_preset(&loop, &object, &err), CHI_EINVAL);
}
