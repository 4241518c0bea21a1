/* test_schema.c - what a module describes becomes the same field tables; what is hostile doesn't.
 */
#include "schema.h"

#include <stdio.h>
#include <stdlib.h>

#include "test.h"
#include "text.h"

static char described[65536];

static void schema_collect(void *arg, const char *text)
{
  (void)arg;
  if (strlen(described) + strlen(text) < sizeof(described))
    strcat(described, text);
}

static int schema_run(chi_ctx *ctx, void *self, void *task)
{
  (void)ctx, (void)self, (void)task;
  return CHI_OK;
}

/* The real declarations of bdev, which have every shape of field. */
static const chi_method schema_methods[] = {{&chi_bdev_allocate_blocks_type, schema_run, 0, 0},
                                            {&chi_bdev_write_type, schema_run, 0, 0},
                                            {&chi_bdev_read_type, schema_run, 0, 0},
                                            {&chi_bdev_get_stats_type, schema_run, 0, 0},
                                            {&chi_bdev_sync_type, schema_run, 0, 0},
                                            {0, 0, 0, 0}};
static const chi_module schema_module = {
    .name = "bdev", .params = &chi_bdev_params_type, .methods = schema_methods};

static struct schema *schema_there_and_back(void)
{
  struct schema *s = NULL;
  chi_error err = {0};
  described[0] = '\0';
  if (text_describe(&schema_module, schema_collect, NULL) != CHI_OK ||
      schema_parse(described, strlen(described), &s, &err) != CHI_OK)
    test_fail(__FILE__, __LINE__, "%s", err.text);
  return s;
}

static bool schema_same(const chi_type *a, const chi_type *b)
{
  bool same = strcmp(a->name, b->name) == 0 && a->id == b->id && a->size == b->size &&
              a->field_count == b->field_count;
  for (uint32_t i = 0; same && i < a->field_count; i++) {
    const chi_field *f = &a->fields[i], *g = &b->fields[i];
    same = strcmp(f->name, g->name) == 0 && f->dir == g->dir && f->kind == g->kind &&
           f->offset == g->offset && f->size == g->size && f->room == g->room &&
           f->count_offset == g->count_offset && strcmp(f->preset, g->preset) == 0 &&
           !f->elem == !g->elem && (!f->elem || schema_same(f->elem, g->elem));
  }
  return same;
}

TEST(schema_is_what_was_described)
{
  struct schema *s = schema_there_and_back();
  CHECK(s != NULL);
  CHECK_STR(s->module, "bdev");
  CHECK_INT(s->method_count, 5);
  CHECK(schema_same(s->params, &chi_bdev_params_type));
  for (uint32_t i = 0; i < s->method_count; i++) {
    if (!schema_same(&s->methods[i], schema_methods[i].type))
      test_fail(__FILE__, __LINE__, "%s", schema_methods[i].type->name);
  }
  schema_free(s);
}

TEST(schema_finds_methods_by_every_name)
{
  static const char *const names[] = {"chi_bdev_write", "bdev_write", "write", "12"};
  struct schema *s = schema_there_and_back();
  chi_error err;
  CHECK(s != NULL);
  for (size_t i = 0; i < CHI_COUNT(names); i++) {
    const chi_type *type = schema_method(s, names[i], &err);
    CHECK(type != NULL && type->id == 12);
    CHECK_STR(schema_short_name(s, type), "write");
  }
  CHECK(schema_method(s, "wriet", &err) == NULL);
  CHECK_INT(err.code, CHI_ENOMETHOD);
  CHECK_STR(err.text, "module bdev has no method \"wriet\"; nearest is \"write\"; it has: "
                      "allocate_blocks, write, read, get_stats, sync");
  CHECK(schema_method(s, "99", &err) == NULL && schema_method(s, "", &err) == NULL);
  CHECK(schema_method(s, "12x", &err) == NULL);
  schema_free(s);
}

/* Where the description is, with what in place of it. */
static int schema_altered(const char *was, const char *becomes)
{
  char *text = malloc(sizeof(described) + strlen(becomes)), *at;
  struct schema *s = NULL;
  chi_error err = {0};
  int status = -1000;
  schema_free(schema_there_and_back());
  at = strstr(described, was);
  if (text && at) {
    sprintf(text, "%.*s%s%s", (int)(at - described), described, becomes, at + strlen(was));
    status = schema_parse(text, strlen(text), &s, &err);
    if (status != CHI_OK && !*err.text)
      status = -1001;
  }
  schema_free(s);
  free(text);
  return status;
}

TEST(schema_refuses_what_does_not_fit)
{
  static const char *const alterations[][2] = {
      {"\"offset\":64,\"size\":8}", "\"offset\":63,\"size\":8}"},         /* in the header */
      {"\"offset\":64,\"size\":8}", "\"offset\":4294967290,\"size\":8}"}, /* outside */
      {"\"offset\":64,\"size\":8}", "\"offset\":64,\"size\":9}"},         /* not a u64 */
      {"\"offset\":64,\"size\":8}", "\"offset\":1e2,\"size\":8}"},
      {"\"offset\":64,\"size\":8}", "\"size\":8}"},
      {"\"room\":64", "\"room\":0"},
      {"\"room\":64", "\"room\":65"},
      {"\"room\":64", "\"room\":4294967295"},
      {"\"count_offset\":72", "\"count_offset\":64"}, /* over another field */
      {"\"count_offset\":72", "\"count_offset\":80"}, /* within its own array */
      {"\"count_offset\":72", "\"count_offset\":9999999"},
      {"\"kind\":\"u32\"", "\"kind\":\"u128\""},
      {"\"kind\":\"u32\"", "\"kind\":\"bulk\""}, /* in an element, and of the wrong size */
      {"\"kind\":\"array\"", "\"kind\":\"bulk\""},
      {"\"kind\":\"object\"", "\"kind\":\"u64\""},
      {"\"dir\":\"in\"", "\"dir\":\"up\""},
      {"\"elem\":{\"name\":\"chi_block\",\"size\":24",
       "\"elem\":{\"name\":\"chi_block\",\"size\":16"},
      {"\"elem\":{\"name\":\"chi_block\",\"size\":24",
       "\"elem\":{\"name\":\"chi_block\",\"size\":32"},
      {"\"name\":\"size\"", "\"name\":\"blocks\""}, /* a name twice */
      {"\"name\":\"size\"", "\"name\":\"a b\""},
      {"\"name\":\"size\"", "\"name\":\"\\u001b[2J\""},
      {"\"name\":\"size\"", "\"name\":\"\""},
      {"\"module\":\"bdev\"", "\"module\":7"},
      {"\"name\":\"chi_bdev_sync\",\"size\":64", "\"name\":\"chi_bdev_sync\",\"size\":63"},
      {"\"name\":\"chi_bdev_sync\",\"size\":64", "\"name\":\"chi_bdev_sync\",\"size\":99999999"},
      {"\"name\":\"chi_bdev_sync\"", "\"name\":\"15\""}, /* not to be told from an id */
      {"\"id\":15", "\"id\":0"},
      {"\"id\":15", "\"id\":-15"}};
  CHECK_INT(schema_altered("\"id\":15", "\"id\":16"), CHI_OK);
  for (size_t i = 0; i < CHI_COUNT(alterations); i++) {
    int status = schema_altered(alterations[i][0], alterations[i][1]);
    if (status != CHI_ECORRUPT)
      test_fail(__FILE__, __LINE__, "%s: %d", alterations[i][1], status);
  }
}

TEST(schema_refuses_what_is_no_description)
{
  static const char *const bad[] = {"",
                                    "{}",
                                    "[]",
                                    "null",
                                    "{\"module\":\"x\",\"methods\":[7]}",
                                    "{\"module\":\"x\",\"params\":{}}"};
  struct schema *s;
  chi_error err;
  for (size_t i = 0; i < CHI_COUNT(bad); i++)
    CHECK_INT(schema_parse(bad[i], strlen(bad[i]), &s, &err), CHI_ECORRUPT);
  CHECK_INT(schema_parse("{\"module\":\"x\"}", 14, &s, &err), CHI_OK);
  CHECK_INT(s->method_count, 0);
  CHECK(schema_method(s, "a", &err) == NULL);
  CHECK_STR(err.text, "module x has no method \"a\"; it has: none");
  schema_free(s);
  schema_free(NULL);
}

/* A struct in a struct in a struct ... */
TEST(schema_bounds_the_depth)
{
  char text[4096] = "{\"module\":\"x\",\"params\":{\"name\":\"p\",\"size\":8,\"fields\":[";
  static const char open[] = "{\"name\":\"f\",\"dir\":\"in\",\"kind\":\"object\",\"offset\":0,"
                             "\"size\":8,\"elem\":{\"name\":\"e\",\"size\":8,\"fields\":[";
  struct schema *s;
  for (int i = 0; i < TEXT_DEPTH_MAX; i++)
    strcat(text, open);
  for (int i = 0; i < TEXT_DEPTH_MAX; i++)
    strcat(text, "]}}");
  strcat(text, "]}}");
  CHECK_INT(schema_parse(text, strlen(text), &s, NULL), CHI_ECORRUPT);
}
