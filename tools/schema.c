/* schema.c - the declarations of a module as the daemon describes them, made into field tables. */
#include "schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "text.h"
#include "word.h"

/* Tables live as long as the schema; each is one of these. */
struct schema_chunk {
  struct schema_chunk *next;
  uint64_t memory[];
};

static int schema_error(chi_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int schema_error(chi_error *err, int code, const char *fmt, ...)
{
  va_list args;
  if (!err)
    return code;
  err->code = code;
  va_start(args, fmt);
  vsnprintf(err->text, sizeof(err->text), fmt, args);
  va_end(args);
  return code;
}

static void *schema_alloc(struct schema *s, size_t size)
{
  struct schema_chunk *chunk = calloc(1, sizeof(*chunk) + size + 1);
  if (!chunk)
    return NULL;
  chunk->next = s->chunks;
  s->chunks = chunk;
  return chunk->memory;
}

/* Letters, digits, "_", "." and "-", no digit first: what can be shown on a terminal, typed on a
 * command line, and told from a number. */
static bool schema_is_name(const char *name)
{
  size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
  return size && size < TEXT_NAME_MAX && !name[size] && (*name < '0' || *name > '9');
}

static uint32_t schema_u32(const struct json *object, const char *name)
{
  uint64_t value = json_integer(object, name, UINT64_MAX);
  return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static uint32_t schema_dir(const char *name)
{
  return strcmp(name, "in") == 0      ? CHI_DIR_IN
         : strcmp(name, "out") == 0   ? CHI_DIR_OUT
         : strcmp(name, "inout") == 0 ? CHI_DIR_INOUT
                                      : 0;
}

static int schema_type(struct schema *s, const struct json *json, int depth, chi_type *type,
                       chi_error *err);

/* Where a field lies: all but its place among the others. */
static bool schema_field_fits(const chi_field *f, uint32_t begin, uint32_t size)
{
  uint64_t bytes = (uint64_t)f->size * f->room;
  uint32_t scalar = text_kind_size(f->kind);
  if (f->size == 0 || f->room == 0 || (scalar && f->size != scalar))
    return false;
  if (f->offset < begin || f->offset > size || bytes > size - f->offset)
    return false;
  if (f->kind != CHI_KIND_array)
    return true;
  return f->count_offset >= begin && f->count_offset <= size && size - f->count_offset >= 4;
}

static uint8_t schema_kind(const char *name)
{
  uint8_t kind = 1;
  while (text_kind_name(kind) && strcmp(text_kind_name(kind), name) != 0)
    kind++;
  return text_kind_name(kind) ? kind : 0;
}

static int schema_field(struct schema *s, const struct json *json, int depth, chi_field *f,
                        chi_error *err)
{
  const struct json *elem = json_get(json, "elem");
  chi_type *type;
  int status;
  f->name = json_string(json, "name", "");
  f->dir = (uint8_t)schema_dir(json_string(json, "dir", ""));
  f->kind = schema_kind(json_string(json, "kind", ""));
  f->offset = schema_u32(json, "offset");
  f->size = schema_u32(json, "size");
  f->room = f->kind == CHI_KIND_array ? schema_u32(json, "room") : 1;
  f->count_offset = f->kind == CHI_KIND_array ? schema_u32(json, "count_offset") : 0;
  f->preset = json_string(json, "preset", "");
  if (!schema_is_name(f->name) || !f->dir || !f->kind)
    return schema_error(err, CHI_ECORRUPT, "description: a field without name, direction or kind");
  if (depth > 0 && (f->kind == CHI_KIND_array || f->kind == CHI_KIND_bulk))
    return schema_error(err, CHI_ECORRUPT, "description: %s in a struct that is a field", f->name);
  if ((f->kind == CHI_KIND_object || f->kind == CHI_KIND_array) != (elem != NULL))
    return schema_error(err, CHI_ECORRUPT, "description: the struct of field %s", f->name);
  if (!elem)
    return CHI_OK;
  type = schema_alloc(s, sizeof(*type));
  if (!type)
    return schema_error(err, CHI_ENOMEM, "description: out of memory");
  f->elem = type;
  status = schema_type(s, elem, depth + 1, type, err);
  if (status != CHI_OK)
    return status;
  if (type->size != f->size)
    return schema_error(err, CHI_ECORRUPT, "description: the size of field %s", f->name);
  return CHI_OK;
}

static bool schema_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
  return a < b + b_size && b < a + a_size;
}

/* Two fields share a name or a byte. */
static bool schema_clash(const chi_field *a, const chi_field *b)
{
  uint64_t a_size = (uint64_t)a->size * a->room, b_size = (uint64_t)b->size * b->room;
  bool a_counts = a->kind == CHI_KIND_array, b_counts = b->kind == CHI_KIND_array;
  return strcmp(a->name, b->name) == 0 || schema_overlap(a->offset, a_size, b->offset, b_size) ||
         (a_counts && schema_overlap(a->count_offset, 4, b->offset, b_size)) ||
         (b_counts && schema_overlap(b->count_offset, 4, a->offset, a_size)) ||
         (a_counts && b_counts && schema_overlap(a->count_offset, 4, b->count_offset, 4));
}

static int schema_check_fields(const chi_type *type, uint32_t begin, chi_error *err)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    if (!schema_field_fits(f, begin, type->size))
      return schema_error(err, CHI_ECORRUPT, "description: field %s is not within %s", f->name,
                          type->name);
    if (f->kind == CHI_KIND_array &&
        schema_overlap(f->count_offset, 4, f->offset, (uint64_t)f->size * f->room))
      return schema_error(err, CHI_ECORRUPT, "description: field %s holds its own count", f->name);
    for (uint32_t k = 0; k < i; k++) {
      if (schema_clash(f, &type->fields[k]))
        return schema_error(err, CHI_ECORRUPT, "description: fields %s and %s of %s clash", f->name,
                            type->fields[k].name, type->name);
    }
  }
  return CHI_OK;
}

/* A struct; at depth 0 a task's fields begin after its header, which the caller tells by type->id.
 */
static int schema_type(struct schema *s, const struct json *json, int depth, chi_type *type,
                       chi_error *err)
{
  uint32_t count = json_count(json, "fields"), i = 0;
  chi_field *fields;
  type->name = json_string(json, "name", "");
  type->size = schema_u32(json, "size");
  type->field_count = count;
  if (depth == TEXT_DEPTH_MAX || !schema_is_name(type->name) || type->size == 0 ||
      type->size > SCHEMA_STRUCT_MAX || count > SCHEMA_FIELDS_MAX)
    return schema_error(err, CHI_ECORRUPT, "description: a struct without name or size");
  fields = schema_alloc(s, count * sizeof(*fields));
  if (!fields)
    return schema_error(err, CHI_ENOMEM, "description: out of memory");
  type->fields = fields;
  for (const struct json *f = json_list(json, "fields"); f; f = f->next) {
    int status = schema_field(s, f, depth, &fields[i++], err);
    if (status != CHI_OK)
      return status;
  }
  return schema_check_fields(type, type->id ? (uint32_t)sizeof(chi_task) : 0, err);
}

static int schema_methods(struct schema *s, const struct json *json, chi_error *err)
{
  uint32_t count = json_count(json, "methods"), i = 0;
  chi_type *methods;
  if (count > SCHEMA_METHODS_MAX)
    return schema_error(err, CHI_ECORRUPT, "description: %u methods", count);
  methods = schema_alloc(s, count * sizeof(*methods));
  if (!methods)
    return schema_error(err, CHI_ENOMEM, "description: out of memory");
  s->methods = methods;
  s->method_count = count;
  for (const struct json *m = json_list(json, "methods"); m; m = m->next, i++) {
    int status;
    methods[i].id = schema_u32(m, "id");
    if (methods[i].id == 0 || methods[i].id == UINT32_MAX)
      return schema_error(err, CHI_ECORRUPT, "description: a method without id");
    if (schema_u32(m, "size") < sizeof(chi_task))
      return schema_error(err, CHI_ECORRUPT, "description: a task without its header");
    status = schema_type(s, m, 0, &methods[i], err);
    if (status != CHI_OK)
      return status;
  }
  return CHI_OK;
}

static int schema_read(struct schema *s, chi_error *err)
{
  const struct json *params = json_get(s->json, "params");
  chi_type *type;
  int status;
  s->module = json_string(s->json, "module", "");
  if (!schema_is_name(s->module))
    return schema_error(err, CHI_ECORRUPT, "description: no module");
  if (params) {
    type = schema_alloc(s, sizeof(*type));
    if (!type)
      return schema_error(err, CHI_ENOMEM, "description: out of memory");
    status = schema_type(s, params, 0, type, err);
    if (status != CHI_OK)
      return status;
    s->params = type;
  }
  return schema_methods(s, s->json, err);
}

int schema_parse(const char *text, size_t size, struct schema **out, chi_error *err)
{
  struct schema *s = calloc(1, sizeof(*s));
  int status;
  *out = NULL;
  if (!s)
    return schema_error(err, CHI_ENOMEM, "description: out of memory");
  status = json_parse(text, size, &s->json, err);
  if (status == CHI_OK)
    status = schema_read(s, err);
  if (status != CHI_OK) {
    schema_free(s);
    return status;
  }
  *out = s;
  return CHI_OK;
}

void schema_free(struct schema *schema)
{
  if (!schema)
    return;
  while (schema->chunks) {
    struct schema_chunk *next = schema->chunks->next;
    free(schema->chunks);
    schema->chunks = next;
  }
  json_free(schema->json);
  free(schema);
}

/* The name without a prefix, or NULL if it does not begin with it or ends there. */
static const char *schema_strip(const char *name, const char *prefix)
{
  size_t size = strlen(prefix);
  return strncmp(name, prefix, size) == 0 && name[size] == '_' && name[size + 1] ? name + size + 1
                                                                                 : NULL;
}

const char *schema_short_name(const struct schema *schema, const chi_type *method)
{
  const char *name = method->name, *rest;
  rest = schema_strip(name, "chimaera");
  if (!rest)
    rest = schema_strip(name, "chi");
  if (rest)
    name = rest;
  rest = schema_strip(name, schema->module);
  return rest ? rest : name;
}

static bool schema_is_called(const struct schema *schema, const chi_type *method, const char *name)
{
  const char *rest = schema_strip(method->name, "chi");
  if (!rest)
    rest = schema_strip(method->name, "chimaera");
  return strcmp(name, method->name) == 0 || (rest && strcmp(name, rest) == 0) ||
         strcmp(name, schema_short_name(schema, method)) == 0;
}

static void schema_no_method(const struct schema *s, const char *name, chi_error *err)
{
  const char *nearest = NULL;
  uint32_t least = UINT32_MAX;
  char known[300] = "";
  size_t used = 0;
  for (uint32_t i = 0; i < s->method_count; i++) {
    const char *other = schema_short_name(s, &s->methods[i]);
    uint32_t distance = word_distance(name, other);
    if (distance < least) {
      least = distance;
      nearest = other;
    }
    if (used < sizeof(known))
      used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", other);
  }
  schema_error(err, CHI_ENOMETHOD, "module %s has no method \"%.64s\"%s%.64s%s; it has: %s",
               s->module, name, nearest ? "; nearest is \"" : "", nearest ? nearest : "",
               nearest ? "\"" : "", s->method_count ? known : "none");
}

const chi_type *schema_method(const struct schema *schema, const char *name, chi_error *err)
{
  char *end;
  unsigned long id = strtoul(name, &end, 10);
  bool number = *name >= '0' && *name <= '9' && !*end;
  for (uint32_t i = 0; i < schema->method_count; i++) {
    const chi_type *method = &schema->methods[i];
    if (number ? method->id == id : schema_is_called(schema, method, name))
      return method;
  }
  schema_no_method(schema, name, err);
  return NULL;
}
