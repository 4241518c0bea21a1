/* task.c - a task inside the daemon: its record, and the copy between client memory and private. */
#include "task.h"
#include "error.h"
#include "hash.h"
#include "text.h"

#include <stdio.h>

static bool task_kind_is_scalar(uint8_t kind)
{
  return kind >= CHI_KIND_u8 && kind <= CHI_KIND_pool;
}

#define TASK_NESTED 4         /* levels of objects inside elements */
#define TASK_FIELDS_MAX 4096u /* of a struct: each is compared with each */

/* Bytes of a struct: of a field's values, or of an array's count. */
struct task_span {
  uint64_t from, to;
};

static struct task_span task_values(const chi_field *f)
{
  return (struct task_span){f->offset, f->offset + (uint64_t)f->size * f->room};
}

/* Empty where the field is no array. */
static struct task_span task_count(const chi_field *f)
{
  uint64_t size = f->kind == CHI_KIND_array ? sizeof(uint32_t) : 0;
  return (struct task_span){f->count_offset, f->count_offset + size};
}

static bool task_spans_meet(struct task_span a, struct task_span b)
{
  return a.from < b.to && b.from < a.to && a.from < a.to && b.from < b.to;
}

static bool task_fields_meet(const chi_field *f, const chi_field *g)
{
  return task_spans_meet(task_values(f), task_values(g)) ||
         task_spans_meet(task_values(f), task_count(g)) ||
         task_spans_meet(task_count(f), task_values(g)) ||
         task_spans_meet(task_count(f), task_count(g));
}

/* As the compiler would have it; elements have been checked. */
static uint32_t task_alignment(const chi_field *f)
{
  uint32_t most = 1;
  if (f->kind == CHI_KIND_pool)
    return (uint32_t)_Alignof(chi_pool_id);
  if (!f->elem && f->kind != CHI_KIND_str)
    return f->size < _Alignof(chi_bulk) ? f->size : (uint32_t)_Alignof(chi_bulk);
  for (uint32_t i = 0; f->elem && i < f->elem->field_count; i++) {
    uint32_t inner = task_alignment(&f->elem->fields[i]);
    most = inner > most ? inner : most;
  }
  return most;
}

/* What is wrong with a field by itself; NULL: nothing. */
static const char *task_field_fault(const chi_type *type, const chi_field *f)
{
  bool nested = f->kind == CHI_KIND_object || f->kind == CHI_KIND_array;
  uint64_t begin = type->id ? sizeof(chi_task) : 0;
  if (!f->name || !f->preset || f->dir < CHI_DIR_IN || f->dir > CHI_DIR_INOUT ||
      f->kind < CHI_KIND_u8 || f->kind > CHI_KIND_bulk || nested != (f->elem != NULL) ||
      f->room == 0 || (f->room != 1 && f->kind != CHI_KIND_array))
    return "is declared wrongly";
  if (f->size == 0 || (text_kind_size(f->kind) && f->size != text_kind_size(f->kind)) ||
      (nested && f->size != f->elem->size))
    return "has the wrong size";
  if (f->offset < begin || task_values(f).to > type->size)
    return "lies outside the struct";
  if (f->kind == CHI_KIND_array && (f->count_offset < begin || task_count(f).to > type->size))
    return "has its count outside the struct";
  if (f->kind == CHI_KIND_array && f->count_offset % _Alignof(uint32_t) != 0)
    return "has a count that is not aligned";
  if (task_spans_meet(task_values(f), task_count(f)))
    return "overlaps its own count";
  return NULL;
}

static int task_type_fault(const chi_type *type, const chi_field *f, const char *what,
                           chi_error *err)
{
  return error_set(err, CHI_EINVAL, "%s: field %s %s", type->name ? type->name : "?",
                   f->name ? f->name : "?", what);
}

/* The fields of a struct, without what is inside them. */
static int task_fields_check(const chi_type *type, chi_error *err)
{
  if (!type->name || (type->field_count && !type->fields))
    return error_set(err, CHI_EINVAL, "%s: a struct without a name or without its fields",
                     type->name ? type->name : "?");
  if (type->field_count > TASK_FIELDS_MAX)
    return error_set(err, CHI_EINVAL, "%s: %u fields, at most %u", type->name, type->field_count,
                     TASK_FIELDS_MAX);
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    const char *fault = task_field_fault(type, f);
    for (uint32_t k = 0; k < i && !fault; k++) {
      if (strcmp(type->fields[k].name, f->name) == 0)
        fault = "is there twice";
      else if (task_fields_meet(f, &type->fields[k]))
        fault = "overlaps another one";
    }
    if (fault)
      return task_type_fault(type, f, fault, err);
  }
  return CHI_OK;
}

/* Elements hold scalars, strings and objects of such, a few levels deep. */
static int task_elem_check(const chi_type *elem, int levels, chi_error *err)
{
  int rc = task_fields_check(elem, err);
  for (uint32_t i = 0; i < elem->field_count && rc == CHI_OK; i++) {
    const chi_field *f = &elem->fields[i];
    if (f->kind == CHI_KIND_array || f->kind == CHI_KIND_bulk || (f->elem && levels == 0))
      return task_type_fault(elem, f, "is in an element: scalars, strings, objects only", err);
    if (f->elem)
      rc = task_elem_check(f->elem, levels - 1, err);
    if (rc == CHI_OK && f->offset % task_alignment(f) != 0)
      return task_type_fault(elem, f, "is not aligned", err);
  }
  return rc;
}

static int task_field_check(const chi_type *type, const chi_field *f, chi_error *err)
{
  chi_error why = {0};
  if (f->elem && task_elem_check(f->elem, TASK_NESTED, &why) != CHI_OK)
    return error_set(err, CHI_EINVAL, "%s: in field %s: %s", type->name, f->name, why.text);
  uint32_t alignment = task_alignment(f);
  if (f->offset % alignment != 0 || (f->elem && f->size % alignment != 0))
    return task_type_fault(type, f, "is not aligned", err);
  return CHI_OK;
}

static void task_plan_out(struct task_plan *plan, const chi_field *f)
{
  if (plan->out_count == UINT32_MAX || !(f->dir & CHI_DIR_OUT))
    return;
  uint32_t n = plan->out_count;
  if (!task_kind_is_scalar(f->kind)) {
    plan->out_count = UINT32_MAX;
  } else if (n > 0 && plan->out[n - 1].offset + plan->out[n - 1].size == f->offset) {
    plan->out[n - 1].size += f->size;
  } else if (n == TASK_RUNS) {
    plan->out_count = UINT32_MAX;
  } else {
    plan->out[n].offset = f->offset;
    plan->out[n].size = f->size;
    plan->out_count++;
  }
}

int task_plan_init(struct task_plan *plan, const chi_type *type, chi_error *err)
{
  *plan = (struct task_plan){.type = type, .plain = type->size % TASK_WORD == 0, .scalar = true};
  if (!type->name || type->size > (1u << 24) || (type->id && type->size < sizeof(chi_task)))
    return error_set(err, CHI_EINVAL, "%s: impossible size %u", type->name ? type->name : "?",
                     type->size);
  int rc = task_fields_check(type, err);
  for (uint32_t i = 0; i < type->field_count && rc == CHI_OK; i++) {
    const chi_field *f = &type->fields[i];
    rc = task_field_check(type, f, err);
    if (rc != CHI_OK)
      return rc;
    plan->bulks += f->kind == CHI_KIND_bulk;
    plan->scalar = plan->scalar && task_kind_is_scalar(f->kind);
    plan->plain = plan->plain && plan->scalar && f->kind != CHI_KIND_bool;
    task_plan_out(plan, f);
  }
  return rc;
}

static uint32_t *task_count_of(const chi_field *f, void *object)
{
  return (uint32_t *)(void *)((char *)object + f->count_offset);
}

/* A string that fills its field without an end is cut; a bool that is neither is true. */
static void task_tidy(const chi_field *f, char *at)
{
  if (f->kind == CHI_KIND_str)
    at[f->size - 1] = '\0';
  else if (f->kind == CHI_KIND_bool)
    *at = *at != 0;
}

static void task_tidy_elements(const chi_field *f, char *at, uint32_t count)
{
  for (uint32_t k = 0; k < count; k++) {
    for (uint32_t i = 0; i < f->elem->field_count; i++) {
      const chi_field *inner = &f->elem->fields[i];
      char *to = at + (size_t)k * f->size + inner->offset;
      if (inner->kind == CHI_KIND_object)
        task_tidy_elements(inner, to, 1);
      else
        task_tidy(inner, to);
    }
  }
}

static int task_bulk_in(const struct shm_table *table, chi_bulk *bulk)
{
  if (bulk->ref == 0 && bulk->size == 0) {
    bulk->data = NULL;
    return CHI_OK;
  }
  bulk->data = shm_resolve(table, bulk->ref, bulk->size);
  return bulk->data ? CHI_OK : CHI_ECORRUPT;
}

static int task_field_in(const chi_field *f, const struct shm_table *table, const char *from,
                         char *to)
{
  const char *src = from + f->offset;
  char *dst = to + f->offset;
  if (f->kind == CHI_KIND_bulk) {
    memcpy(dst, src, sizeof(chi_bulk));
    return task_bulk_in(table, (chi_bulk *)(void *)dst);
  }
  if (!(f->dir & CHI_DIR_IN))
    return CHI_OK;
  if (f->kind == CHI_KIND_array) {
    uint32_t count = 0;
    memcpy(&count, from + f->count_offset, sizeof count);
    if (count > f->room)
      return CHI_ECORRUPT;
    *task_count_of(f, to) = count;
    memcpy(dst, src, (size_t)count * f->size);
    task_tidy_elements(f, dst, count);
    return CHI_OK;
  }
  memcpy(dst, src, f->size);
  if (f->kind == CHI_KIND_object)
    task_tidy_elements(f, dst, 1);
  else
    task_tidy(f, dst);
  return CHI_OK;
}

int task_fields_in(const chi_type *type, const struct shm_table *table, const chi_task *shared,
                   chi_task *copy)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    int rc = task_field_in(&type->fields[i], table, (const char *)shared, (char *)copy);
    if (rc != CHI_OK)
      return rc;
  }
  return CHI_OK;
}

static void task_field_out(const chi_field *f, const char *from, char *to)
{
  const char *src = from + f->offset;
  char *dst = to + f->offset;
  if (f->kind == CHI_KIND_array) {
    uint32_t count = 0;
    memcpy(&count, from + f->count_offset, sizeof count);
    count = count < f->room ? count : f->room;
    memcpy(to + f->count_offset, &count, sizeof count);
    memcpy(dst, src, (size_t)count * f->size);
  } else if (f->kind == CHI_KIND_str) {
    memcpy(dst, src, strnlen(src, f->size - 1) + 1);
    dst[f->size - 1] = '\0';
  } else if (f->kind == CHI_KIND_bulk) {
    memcpy(dst + offsetof(chi_bulk, size), src + offsetof(chi_bulk, size), sizeof(uint64_t));
  } else {
    memcpy(dst, src, f->size);
  }
}

void task_fields_out(const chi_type *type, const chi_task *copy, chi_task *shared)
{
  for (uint32_t i = 0; i < type->field_count; i++)
    if (type->fields[i].dir & CHI_DIR_OUT)
      task_field_out(&type->fields[i], (const char *)copy, (char *)shared);
}

const char *task_label(const chi_ctx *ctx, char *buf, size_t size)
{
  if (ctx->key_seq != 0)
    snprintf(buf, size, "task=%u/%llu/%llu/%u", ctx->key_node, (unsigned long long)ctx->key_boot,
             (unsigned long long)ctx->key_seq, ctx->key_index);
  else
    snprintf(buf, size, "task=%llu", (unsigned long long)ctx->id);
  return buf;
}

static void task_hash_value(struct hash_stream *hash, const chi_field *f, const char *at)
{
  if (f->kind == CHI_KIND_str) {
    hash_stream_bytes(hash, at, strnlen(at, f->size));
  } else if (f->kind == CHI_KIND_bulk) {
    hash_stream_bytes(hash, at + offsetof(chi_bulk, size), sizeof(uint64_t));
  } else if (!f->elem) {
    hash_stream_bytes(hash, at, f->size);
  } else {
    for (uint32_t i = 0; i < f->elem->field_count; i++) /* to TASK_NESTED levels */
      task_hash_value(hash, &f->elem->fields[i], at + f->elem->fields[i].offset);
  }
}

uint64_t task_hash_out(const chi_type *type, const chi_task *copy)
{
  struct hash_stream hash;
  hash_stream_init(&hash, type->id);
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    uint32_t count = 1;
    if (!(f->dir & CHI_DIR_OUT))
      continue;
    if (f->kind == CHI_KIND_array) {
      memcpy(&count, (const char *)copy + f->count_offset, sizeof count);
      count = count < f->room ? count : f->room;
      hash_stream_u64(&hash, count);
    }
    for (uint32_t k = 0; k < count; k++)
      task_hash_value(&hash, f, (const char *)copy + f->offset + (size_t)k * f->size);
  }
  return hash_stream_finish(&hash);
}

chi_type task_with_failures(const chi_type *type)
{
  chi_type with = *type;
  if (type->size <= UINT32_MAX - 8 - sizeof(chi_failures))
    with.size = task_failures_at(type) + (uint32_t)sizeof(chi_failures);
  return with;
}

const chi_failures *chi_failures_of(const chi_type *type, const void *task)
{
  const chi_task *t = task;
  const char *at = (const char *)task + task_failures_at(type);
  return t->flags & CHI_TASK_FAILURES ? (const chi_failures *)(const void *)at : NULL;
}

void task_list_push(struct task_list *l, chi_ctx *ctx)
{
  ctx->node.next = NULL;
  if (l->tail)
    l->tail->node.next = &ctx->node;
  else
    l->head = ctx;
  l->tail = ctx;
}

chi_ctx *task_list_pop(struct task_list *l)
{
  chi_ctx *ctx = l->head;
  if (!ctx)
    return NULL;
  l->head = ctx->node.next ? task_of(ctx->node.next) : NULL;
  if (!l->head)
    l->tail = NULL;
  return ctx;
}

#undef TASK_NESTED
#undef TASK_FIELDS_MAX
