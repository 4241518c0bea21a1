/* fuzz_schema.c - any text as the description of a module: what is taken can be used, on an object
 * of just the size it states; and what a node would take as a declaration, its copy can live with.
 */
#include "schema.h"
#include "task.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_ignore(void *arg, const char *text)
{
  (void)arg, (void)text;
}

static void fuzz_set_all(const chi_type *type, const chi_type *root, char *object, const char *path)
{
  for (uint32_t i = 0; i < type->field_count && i < 32; i++) {
    const chi_field *f = &type->fields[i];
    char full[1024];
    const char *step = f->kind == CHI_KIND_array ? "[0]." : f->elem ? "." : "";
    if (snprintf(full, sizeof(full), "%s%s%s", path, f->name, step) >= (int)sizeof(full))
      continue;
    if (f->elem)
      fuzz_set_all(f->elem, root, object, full);
    else
      chi_type_set(root, object, full, "1", NULL);
  }
}

/* The copy of a task that was declared so, in and out, from memory full of one byte. */
static void fuzz_copy(const struct task_plan *plan, int byte)
{
  const struct shm_table none = {NULL, 0};
  const chi_task header = {.method = plan->type->id};
  chi_task *shared = malloc(plan->type->size), *copy = calloc(1, plan->type->size);
  if (shared && copy) {
    memset(shared, byte, plan->type->size);
    task_copy_in(plan, &none, &header, shared, copy);
    memset(copy, byte, plan->type->size);
    task_copy_out(plan, copy, shared);
  }
  free(shared);
  free(copy);
}

/* As a module that declares this would be registered. */
static void fuzz_register(const chi_type *type)
{
  struct task_plan plan;
  chi_error err = {0};
  if (task_plan_init(&plan, type, &err) != CHI_OK) {
    if (err.code != CHI_EINVAL || !err.text[0])
      abort();
  } else if (type->id) {
    fuzz_copy(&plan, 0);
    fuzz_copy(&plan, 1);
    fuzz_copy(&plan, 0xff);
  }
}

static void fuzz_use(const chi_type *type)
{
  char *object = calloc(1, type->size);
  chi_error err;
  fuzz_register(type);
  if (!object)
    return;
  chi_type_preset(type, object, &err);
  fuzz_set_all(type, type, object, "");
  chi_type_print(type, object, CHI_DIR_INOUT, fuzz_ignore, NULL);
  memset(object, 0xff, type->size);
  chi_type_print(type, object, CHI_DIR_INOUT, fuzz_ignore, NULL);
  free(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct schema *s;
  chi_error err = {0};
  if (schema_parse((const char *)data, size, &s, &err) != CHI_OK) {
    if (err.code == CHI_OK)
      abort();
    return 0;
  }
  if (s->params)
    fuzz_use(s->params);
  for (uint32_t i = 0; i < s->method_count && i < 16; i++) {
    fuzz_use(&s->methods[i]);
    if (!schema_method(s, s->methods[i].name, &err))
      abort();
    schema_short_name(s, &s->methods[i]);
  }
  schema_free(s);
  return 0;
}
