/* text.c - declared structs as text: reading fields, printing them, describing a module. */
#include "text.h"
#include "error.h"
#include "units.h"
#include "utf8.h"
#include "word.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- kinds ------------------------------------------------------------------------------ */

static const struct text_kind {
  const char *name;
  uint32_t size;
  uint64_t max; /* of unsigned integers; of signed ones the largest, the smallest is -max - 1 */
} text_kinds[] = {
    [CHI_KIND_u8] = {"u8", 1, UINT8_MAX},
    [CHI_KIND_u16] = {"u16", 2, UINT16_MAX},
    [CHI_KIND_u32] = {"u32", 4, UINT32_MAX},
    [CHI_KIND_u64] = {"u64", 8, UINT64_MAX},
    [CHI_KIND_i8] = {"i8", 1, INT8_MAX},
    [CHI_KIND_i16] = {"i16", 2, INT16_MAX},
    [CHI_KIND_i32] = {"i32", 4, INT32_MAX},
    [CHI_KIND_i64] = {"i64", 8, INT64_MAX},
    [CHI_KIND_f64] = {"f64", 8, 0},
    [CHI_KIND_bool] = {"bool", 1, 1},
    [CHI_KIND_size] = {"size", 8, UINT64_MAX},
    [CHI_KIND_duration] = {"duration", 8, UINT64_MAX},
    [CHI_KIND_pool] = {"pool", sizeof(chi_pool_id), 0},
    [CHI_KIND_str] = {"str", 0, 0},
    [CHI_KIND_object] = {"object", 0, 0},
    [CHI_KIND_array] = {"array", 0, 0},
    [CHI_KIND_bulk] = {"bulk", sizeof(chi_bulk), 0},
};

CHI_PRIVATE const char *text_kind_name(uint32_t kind)
{
  return kind < CHI_COUNT(text_kinds) ? text_kinds[kind].name : NULL;
}

CHI_PRIVATE uint32_t text_kind_size(uint32_t kind)
{
  return kind < CHI_COUNT(text_kinds) ? text_kinds[kind].size : 0;
}

static const char *text_dir_name(uint32_t dir)
{
  return dir == CHI_DIR_IN ? "in" : dir == CHI_DIR_OUT ? "out" : "inout";
}

/* ---- names ------------------------------------------------------------------------------ */

/* Adds to a text in buf; what does not fit is left out. */
static void text_add(char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void text_add(char *buf, size_t size, const char *fmt, ...)
{
  size_t used = strlen(buf);
  va_list args;
  CHI_ASSERT(used < size);
  va_start(args, fmt);
  if (vsnprintf(buf + used, size - used, fmt, args) < 0)
    buf[used] = '\0';
  va_end(args);
}

static int text_no_field(const chi_type *type, const char *path, const char *name, chi_error *err)
{
  const chi_field *nearest = NULL;
  uint32_t least = UINT32_MAX;
  char known[300] = "";
  for (uint32_t i = 0; i < type->field_count; i++) {
    uint32_t distance = word_distance(name, type->fields[i].name);
    if (distance < least) {
      least = distance;
      nearest = &type->fields[i];
    }
    text_add(known, sizeof(known), "%s%s", i ? ", " : "", type->fields[i].name);
  }
  if (nearest)
    return error_set(err, CHI_ENOENT, "%.64s: %s has no such field; nearest is \"%s\"; it has: %s",
                     path, type->name, nearest->name, known);
  return error_set(err, CHI_ENOENT, "%.64s: %s has no such field; it has: %s", path, type->name,
                   *known ? known : "none");
}

static const chi_field *text_field(const chi_type *type, const char *name)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (strcmp(type->fields[i].name, name) == 0)
      return &type->fields[i];
  }
  return NULL;
}

/* ---- numbers ---------------------------------------------------------------------------- */

/* Digits, a point, an exponent: what JSON calls a number, with a leading + allowed. */
static bool text_is_decimal(const char *text)
{
  size_t digits = 0;
  text += *text == '-' || *text == '+';
  for (; *text >= '0' && *text <= '9'; text++)
    digits++;
  if (*text == '.')
    for (text++; *text >= '0' && *text <= '9'; text++)
      digits++;
  if (!digits)
    return false;
  if (*text == 'e' || *text == 'E') {
    text++;
    text += *text == '-' || *text == '+';
    for (digits = 0; *text >= '0' && *text <= '9'; text++)
      digits++;
  }
  return digits && !*text;
}

/* The C library reads and writes the point as the program's locale has it. One byte in all that
 * are in use but a few, where a fraction is refused and printing shows their point. */
static char text_point(void)
{
  char half[16];
  snprintf(half, sizeof(half), "%.1f", 0.5);
  return half[1];
}

static int text_read_double(const char *text, double *out)
{
  char buf[64], *point, *end;
  double value;
  size_t size = strlen(text);
  if (size >= sizeof(buf) || !text_is_decimal(text))
    return CHI_EINVAL;
  memcpy(buf, text, size + 1);
  point = strchr(buf, '.');
  if (point)
    *point = text_point();
  value = strtod(buf, &end);
  if (*end)
    return CHI_EINVAL;
  if (value > DBL_MAX || value < -DBL_MAX)
    return CHI_ERANGE;
  *out = value;
  return CHI_OK;
}

/* The shortest text that reads back as the same number. JSON has none for infinity and NaN. */
static void text_put_double(double value, chi_put_fn *put, void *arg)
{
  char buf[40], *point;
  if (value != value || value > DBL_MAX || value < -DBL_MAX) {
    put(arg, "null");
    return;
  }
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(buf, sizeof(buf), "%.*g", digits, value);
    if (strtod(buf, NULL) == value)
      break;
  }
  point = strchr(buf, text_point());
  if (point)
    *point = '.';
  put(arg, buf);
}

/* ---- setting fields --------------------------------------------------------------------- */

/* Where a path leads to. No effect has been had on the object yet. */
struct text_place {
  const chi_field *field;
  char *at;
  const chi_field *array; /* the array that it is an element of, else NULL */
  uint32_t index;
};

/* A scalar in its struct's representation, before it is stored. */
union text_value {
  uint64_t u64;
  uint32_t u32;
  uint16_t u16;
  uint8_t u8;
  double f64;
  chi_pool_id pool;
};

/* Cuts the next name off a path. */
static bool text_next_name(const char **path, char *name)
{
  size_t size = 0;
  while ((*path)[size] && (*path)[size] != '.' && (*path)[size] != '[')
    size++;
  if (!size || size >= TEXT_NAME_MAX)
    return false;
  memcpy(name, *path, size);
  name[size] = '\0';
  *path += size;
  return true;
}

/* Cuts "[2]" off a path. */
static bool text_next_index(const char **path, uint32_t room, uint32_t *index)
{
  uint64_t value = 0;
  const char *p = *path;
  if (p[0] != '[' || p[1] < '0' || p[1] > '9')
    return false;
  for (p++; *p >= '0' && *p <= '9'; p++) {
    value = value * 10 + (uint64_t)(*p - '0');
    if (value >= room)
      return false;
  }
  if (*p != ']')
    return false;
  *index = (uint32_t)value;
  *path = p + 1;
  return true;
}

/* The step from an object or array into its struct: rest begins at the first "." or "[". */
static int text_enter(const char *path, const char **rest, struct text_place *place, chi_error *err)
{
  const chi_field *field = place->field;
  CHI_ASSERT(field->elem != NULL);
  if (field->kind == CHI_KIND_array) {
    if (!text_next_index(rest, field->room, &place->index))
      return error_set(err, **rest == '[' ? CHI_ERANGE : CHI_EINVAL,
                       "%.64s: \"%s\" is an array; write \"%s[N].%s\" with N from 0 to %u", path,
                       field->name, field->name, field->elem->fields[0].name, field->room - 1);
    place->array = field;
    place->at += (size_t)place->index * field->size;
  }
  if (**rest != '.')
    return error_set(err, CHI_EINVAL, "%.64s: \"%s\" is a struct %s; write \"%.64s.%s\"", path,
                     field->name, field->elem->name, path, field->elem->fields[0].name);
  ++*rest;
  return CHI_OK;
}

static int text_find(const chi_type *type, void *object, const char *path, struct text_place *place,
                     chi_error *err)
{
  char name[TEXT_NAME_MAX];
  const char *rest = path;
  int status;
  *place = (struct text_place){.at = object};
  for (int depth = 0; depth < TEXT_DEPTH_MAX; depth++) {
    if (!text_next_name(&rest, name))
      return error_set(err, CHI_EINVAL, "%.64s: not the name of a field", path);
    place->field = text_field(type, name);
    if (!place->field)
      return text_no_field(type, path, name, err);
    place->at += place->field->offset;
    type = place->field->elem;
    if (!type) {
      if (*rest)
        return error_set(err, CHI_EINVAL, "%.64s: \"%s\" has no parts", path, name);
      return CHI_OK;
    }
    if (place->field->kind == CHI_KIND_array && depth > 0)
      return error_set(err, CHI_EINVAL, "%.64s: an array within a struct", path);
    status = text_enter(path, &rest, place, err);
    if (status != CHI_OK)
      return status;
  }
  return error_set(err, CHI_EINVAL, "%.64s: too many parts", path);
}

static int text_read_unsigned(const char *text, uint64_t max, union text_value *out)
{
  uint64_t value;
  int status = units_parse_count(text, &value);
  if (status != CHI_OK)
    return status;
  out->u64 = value;
  return value <= max ? CHI_OK : CHI_ERANGE;
}

static int text_read_signed(const char *text, uint64_t max, union text_value *out)
{
  bool negative = *text == '-';
  uint64_t value;
  int status = units_parse_count(text + negative, &value);
  if (status != CHI_OK)
    return status;
  out->u64 = negative ? 0 - value : value;
  return value <= max + negative ? CHI_OK : CHI_ERANGE;
}

static int text_read_bool(const char *text, union text_value *out)
{
  out->u64 = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
  return out->u64 || strcmp(text, "false") == 0 || strcmp(text, "0") == 0 ? CHI_OK : CHI_EINVAL;
}

/* An integer of `size` bytes in the place where memcpy of that size takes it from. */
static void text_narrow(union text_value *value, uint32_t size)
{
  uint64_t wide = value->u64;
  if (size == 4)
    value->u32 = (uint32_t)wide;
  else if (size == 2)
    value->u16 = (uint16_t)wide;
  else if (size == 1)
    value->u8 = (uint8_t)wide;
}

static int text_read_value(uint32_t kind, const char *text, union text_value *out)
{
  uint64_t max = text_kinds[kind].max;
  int status;
  if (kind == CHI_KIND_f64)
    return text_read_double(text, &out->f64);
  if (kind == CHI_KIND_pool)
    return units_parse_pool(text, &out->pool);
  if (kind == CHI_KIND_bool)
    status = text_read_bool(text, out);
  else if (kind == CHI_KIND_size)
    status = chi_parse_size(text, &out->u64);
  else if (kind == CHI_KIND_duration)
    status = chi_parse_duration(text, 1, &out->u64);
  else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64)
    status = text_read_signed(text, max, out);
  else
    status = text_read_unsigned(text, max, out);
  text_narrow(out, text_kinds[kind].size);
  return status;
}

/* What the text of a kind looks like, for messages. */
static void text_expected(uint32_t kind, char *buf, size_t size)
{
  uint64_t max = text_kinds[kind].max;
  if (kind >= CHI_KIND_u8 && kind <= CHI_KIND_u64)
    snprintf(buf, size, "a whole number from 0 to %llu", (unsigned long long)max);
  else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64)
    snprintf(buf, size, "a whole number from -%llu to %llu", (unsigned long long)max + 1,
             (unsigned long long)max);
  else
    snprintf(buf, size, "%s",
             kind == CHI_KIND_f64        ? "a number"
             : kind == CHI_KIND_bool     ? "true or false"
             : kind == CHI_KIND_size     ? "a size such as 4096, 64K or 1.5G"
             : kind == CHI_KIND_duration ? "a duration such as 20ms or 1.5s"
                                         : "a pool id such as 300.0");
}

/* Makes an array long enough for an index; new elements start at their defaults. */
static int text_grow(const chi_field *array, void *object, uint32_t index, chi_error *err)
{
  uint32_t count;
  char *base = (char *)object + array->offset;
  memcpy(&count, (char *)object + array->count_offset, sizeof(count));
  if (count > array->room)
    count = array->room;
  for (; count <= index; count++) {
    int status;
    memset(base + (size_t)count * array->size, 0, array->size);
    status = chi_type_preset(array->elem, base + (size_t)count * array->size, err);
    if (status != CHI_OK)
      return status;
  }
  memcpy((char *)object + array->count_offset, &count, sizeof(count));
  return CHI_OK;
}

int chi_type_set(const chi_type *type, void *object, const char *field, const char *text,
                 chi_error *err)
{
  struct text_place place;
  union text_value value = {0};
  char expected[80];
  uint32_t kind;
  int status = text_find(type, object, field, &place, err);
  if (status != CHI_OK)
    return status;
  kind = place.field->kind;
  if (kind == CHI_KIND_bulk)
    return error_set(err, CHI_EINVAL, "%.64s: a buffer cannot be set from text", field);
  if (kind == CHI_KIND_str) {
    if (strlen(text) >= place.field->size)
      return error_set(err, CHI_ETOOBIG, "%.64s: has room for %u bytes, not %zu", field,
                       place.field->size - 1, strlen(text));
  } else {
    status = text_read_value(kind, text, &value);
    text_expected(kind, expected, sizeof(expected));
    if (status != CHI_OK)
      return error_set(err, status, "%.64s: \"%.64s\" is %s; expected %s", field, text,
                       status == CHI_ERANGE ? "out of range" : "no value for it", expected);
  }
  if (place.array) {
    status = text_grow(place.array, object, place.index, err);
    if (status != CHI_OK)
      return status;
  }
  if (kind == CHI_KIND_str) {
    memset(place.at, 0, place.field->size);
    memcpy(place.at, text, strlen(text));
  } else {
    memcpy(place.at, &value, text_kinds[kind].size);
  }
  return CHI_OK;
}

static int text_preset(const chi_type *type, void *object, int depth, chi_error *err)
{
  if (depth == TEXT_DEPTH_MAX)
    return error_set(err, CHI_EINVAL, "%s: structs nest too deep", type->name);
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    int status = CHI_OK;
    if (f->kind == CHI_KIND_object)
      status = text_preset(f->elem, (char *)object + f->offset, depth + 1, err);
    else if (f->preset && *f->preset && f->kind != CHI_KIND_array)
      status = chi_type_set(type, object, f->name, f->preset, err);
    if (status != CHI_OK)
      return status;
  }
  return CHI_OK;
}

int chi_type_preset(const chi_type *type, void *object, chi_error *err)
{
  return text_preset(type, object, 0, err);
}

/* ---- printing --------------------------------------------------------------------------- */

/* Writes one character as JSON to out (8 bytes) and returns how many bytes it took of the text. */
static size_t text_escape(const char *text, size_t left, char *out)
{
  char copy[5] = "";
  uint32_t code;
  size_t size;
  memcpy(copy, text, left < 4 ? left : 4); /* a field need not have its NUL */
  size = utf8_char(copy, &code);
  if (size == 0)
    snprintf(out, 8, "\\ufffd");
  else if (code == '"' || code == '\\')
    snprintf(out, 8, "\\%c", copy[0]);
  else if (code == '\n')
    snprintf(out, 8, "\\n");
  else if (utf8_is_control(code))
    snprintf(out, 8, "\\u%04x", code);
  else
    snprintf(out, 8, "%.*s", (int)size, copy);
  return size ? size : 1;
}

CHI_PRIVATE void text_put_string(const char *text, size_t max, chi_put_fn *put, void *arg)
{
  char buf[128] = "\"";
  size_t used = 1, size = strnlen(text, max);
  for (size_t i = 0; i < size;) {
    if (used + 8 >= sizeof(buf)) {
      put(arg, buf);
      used = 0;
    }
    i += text_escape(text + i, size - i, buf + used);
    used += strlen(buf + used);
  }
  buf[used] = '"';
  buf[used + 1] = '\0';
  put(arg, buf);
}

static void text_put_unsigned(uint64_t value, chi_put_fn *put, void *arg)
{
  char buf[24];
  snprintf(buf, sizeof(buf), "%llu", (unsigned long long)value);
  put(arg, buf);
}

/* The integer of any width at `at`, sign-extended for signed kinds. */
static uint64_t text_integer(uint32_t kind, const char *at)
{
  union text_value value = {0};
  uint32_t size = text_kinds[kind].size;
  bool is_signed = kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64;
  memcpy(&value, at, size);
  if (size == 8)
    return value.u64;
  if (size == 4)
    return is_signed ? (uint64_t)(int32_t)value.u32 : value.u32;
  if (size == 2)
    return is_signed ? (uint64_t)(int16_t)value.u16 : value.u16;
  return is_signed ? (uint64_t)(int8_t)value.u8 : value.u8;
}

static void text_put_integer(uint32_t kind, const char *at, chi_put_fn *put, void *arg)
{
  uint64_t value = text_integer(kind, at);
  if (kind == CHI_KIND_bool) {
    put(arg, value ? "true" : "false");
  } else if (kind >= CHI_KIND_i8 && kind <= CHI_KIND_i64 && (int64_t)value < 0) {
    put(arg, "-");
    text_put_unsigned(0 - value, put, arg);
  } else {
    text_put_unsigned(value, put, arg);
  }
}

static void text_put_struct(const chi_type *type, const char *object, uint32_t dirs, int depth,
                            chi_put_fn *put, void *arg);

static void text_put_array(const chi_field *f, const char *object, int depth, chi_put_fn *put,
                           void *arg)
{
  uint32_t count;
  memcpy(&count, object + f->count_offset, sizeof(count));
  if (count > f->room)
    count = f->room;
  put(arg, "[");
  for (uint32_t i = 0; i < count; i++) {
    if (i)
      put(arg, ",");
    text_put_struct(f->elem, object + f->offset + (size_t)i * f->size, CHI_DIR_INOUT, depth + 1,
                    put, arg);
  }
  put(arg, "]");
}

static void text_put_pool(const char *at, chi_put_fn *put, void *arg)
{
  char buf[40];
  chi_pool_id id;
  memcpy(&id, at, sizeof(id));
  snprintf(buf, sizeof(buf), "\"%u.%u\"", id.major, id.minor);
  put(arg, buf);
}

static void text_put_field(const chi_field *f, const char *object, int depth, chi_put_fn *put,
                           void *arg)
{
  const char *at = object + f->offset;
  chi_bulk bulk;
  double number;
  switch (f->kind) {
  case CHI_KIND_f64:
    memcpy(&number, at, sizeof(number));
    text_put_double(number, put, arg);
    break;
  case CHI_KIND_pool:
    text_put_pool(at, put, arg);
    break;
  case CHI_KIND_str:
    text_put_string(at, f->size, put, arg);
    break;
  case CHI_KIND_object:
    text_put_struct(f->elem, at, CHI_DIR_INOUT, depth + 1, put, arg);
    break;
  case CHI_KIND_array:
    text_put_array(f, object, depth, put, arg);
    break;
  case CHI_KIND_bulk:
    memcpy(&bulk, at, sizeof(bulk));
    text_put_unsigned(bulk.size, put, arg);
    break;
  default:
    text_put_integer(f->kind, at, put, arg);
  }
}

static void text_put_struct(const chi_type *type, const char *object, uint32_t dirs, int depth,
                            chi_put_fn *put, void *arg)
{
  bool first = true;
  if (depth == TEXT_DEPTH_MAX) {
    put(arg, "null");
    return;
  }
  put(arg, "{");
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    if (!(f->dir & dirs))
      continue;
    if (!first)
      put(arg, ",");
    first = false;
    text_put_string(f->name, SIZE_MAX, put, arg);
    put(arg, ":");
    text_put_field(f, object, depth, put, arg);
  }
  put(arg, "}");
}

void chi_type_print(const chi_type *type, const void *object, uint32_t dirs, chi_put_fn *put,
                    void *arg)
{
  text_put_struct(type, object, dirs, 0, put, arg);
}

/* ---- describing a module ---------------------------------------------------------------- */

static bool text_too_deep(const chi_type *type, int depth)
{
  if (depth == TEXT_DEPTH_MAX)
    return true;
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (type->fields[i].elem && text_too_deep(type->fields[i].elem, depth + 1))
      return true;
  }
  return false;
}

static void text_put_number(const char *name, uint64_t value, chi_put_fn *put, void *arg)
{
  put(arg, ",\"");
  put(arg, name);
  put(arg, "\":");
  text_put_unsigned(value, put, arg);
}

static void text_describe_type(const chi_type *type, chi_put_fn *put, void *arg);

static void text_describe_field(const chi_field *f, chi_put_fn *put, void *arg)
{
  put(arg, "{\"name\":");
  text_put_string(f->name, SIZE_MAX, put, arg);
  put(arg, ",\"dir\":\"");
  put(arg, text_dir_name(f->dir));
  put(arg, "\",\"kind\":\"");
  put(arg, text_kind_name(f->kind));
  put(arg, "\"");
  text_put_number("offset", f->offset, put, arg);
  text_put_number("size", f->size, put, arg);
  if (f->kind == CHI_KIND_array) {
    text_put_number("room", f->room, put, arg);
    text_put_number("count_offset", f->count_offset, put, arg);
  }
  if (f->preset && *f->preset) {
    put(arg, ",\"preset\":");
    text_put_string(f->preset, SIZE_MAX, put, arg);
  }
  if (f->elem) {
    put(arg, ",\"elem\":{");
    text_describe_type(f->elem, put, arg);
    put(arg, "}");
  }
  put(arg, "}");
}

/* Without its braces, so that the caller can add to it. */
static void text_describe_type(const chi_type *type, chi_put_fn *put, void *arg)
{
  put(arg, "\"name\":");
  text_put_string(type->name, SIZE_MAX, put, arg);
  text_put_number("size", type->size, put, arg);
  put(arg, ",\"fields\":[");
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (i)
      put(arg, ",");
    text_describe_field(&type->fields[i], put, arg);
  }
  put(arg, "]");
}

static void text_describe_method(const chi_method *method, chi_put_fn *put, void *arg)
{
  put(arg, "{");
  text_describe_type(method->type, put, arg);
  text_put_number("id", method->type->id, put, arg);
  text_put_number("compute_us", method->compute_us, put, arg);
  put(arg, ",\"idempotent\":");
  put(arg, method->flags & CHI_METHOD_IDEMPOTENT ? "true}" : "false}");
}

CHI_PRIVATE int text_describe(const chi_module *m, chi_put_fn *put, void *arg)
{
  const chi_method *method;
  bool deep = m->params && text_too_deep(m->params, 0);
  for (method = m->methods; method && method->type; method++)
    deep = deep || text_too_deep(method->type, 0);
  if (deep)
    return CHI_EINVAL;
  put(arg, "{\"module\":");
  text_put_string(m->name, SIZE_MAX, put, arg);
  put(arg, m->flags & CHI_MODULE_PARALLEL ? ",\"parallel\":true" : ",\"parallel\":false");
  if (m->params) {
    put(arg, ",\"params\":{");
    text_describe_type(m->params, put, arg);
    put(arg, "}");
  }
  put(arg, ",\"methods\":[");
  for (method = m->methods; method && method->type; method++) {
    if (method != m->methods)
      put(arg, ",");
    text_describe_method(method, put, arg);
  }
  put(arg, "]}");
  return CHI_OK;
}
