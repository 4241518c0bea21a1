/* module.c - the registry of modules: method tables, checked and indexed once. */
#include "module.h"
#include "error.h"
#include "wire.h"

static const char *module_short_name(const char *name)
{
  static const char prefix[] = "chimaera_";
  size_t length = sizeof prefix - 1;
  return strncmp(name, prefix, length) == 0 ? name + length : name;
}

bool module_is_named(const chi_module *def, const char *name)
{
  return strcmp(module_short_name(def->name), module_short_name(name)) == 0;
}

struct module *module_find(const struct module_list *l, const char *name)
{
  for (struct module *m = l->first; m; m = m->next)
    if (module_is_named(m->def, name))
      return m;
  return NULL;
}

static int module_check(const struct module_list *l, const chi_module *def, uint32_t *count,
                        chi_error *err)
{
  if (def->version != CHI_MODULE_VERSION)
    return error_set(err, CHI_EVERSION, "module %s: version %u, this library takes %u",
                     def->name ? def->name : "?", def->version, CHI_MODULE_VERSION);
  if (!def->name || def->name[0] == '\0' || strlen(def->name) >= CHI_NAME_MAX || !def->methods)
    return error_set(err, CHI_EINVAL, "a module without a name or without methods");
  if (module_find(l, def->name))
    return error_set(err, CHI_EEXIST, "module %s is there already", def->name);
  *count = 0;
  for (const chi_method *m = def->methods; m->type; m++) {
    if (m->type->id < MODULE_OWN_METHODS || m->type->id >= MODULE_METHOD_IDS || !m->run)
      return error_set(err, CHI_EINVAL, "module %s, method %s: id %u, expected %u to %u",
                       def->name, m->type->name, m->type->id, MODULE_OWN_METHODS,
                       MODULE_METHOD_IDS - 1);
    for (const chi_method *n = def->methods; n != m; n++)
      if (n->type->id == m->type->id)
        return error_set(err, CHI_EINVAL, "module %s: methods %s and %s have the same id %u",
                         def->name, n->type->name, m->type->name, m->type->id);
    ++*count;
  }
  return CHI_OK;
}

int module_method_init(struct method *m, const chi_method *def, uint32_t index, chi_error *err)
{
  const chi_type *type = def->type;
  *m = (struct method){.def = def, .index = index, .weight = 1024, .wire_in = METHOD_VARIES};
  int rc = task_plan_init(&m->plan, type, err);
  if (rc != CHI_OK)
    return rc;
  m->wire_out = wire_task_size(type, NULL, CHI_DIR_OUT);
  if (m->plan.scalar)
    m->wire_in = (uint32_t)wire_task_size(type, NULL, CHI_DIR_IN);
  return CHI_OK;
}

int module_add(struct module_list *l, const chi_module *def, chi_error *err)
{
  uint32_t count = 0;
  int rc = module_check(l, def, &count, err);
  struct task_plan params;
  if (rc == CHI_OK && def->params)
    rc = task_plan_init(&params, def->params, err);
  if (rc != CHI_OK)
    return rc;
  struct module *m = alloc_zero(l->alloc, sizeof *m + count * sizeof m->method[0]);
  if (!m)
    return error_set(err, CHI_ENOMEM, "no memory for module %s", def->name);
  m->def = def;
  m->count = count;
  for (uint32_t i = 0; i < count && rc == CHI_OK; i++) {
    rc = module_method_init(&m->method[i], &def->methods[i], i, err);
    m->by_id[def->methods[i].type->id] = (uint16_t)(i + 1);
  }
  if (rc != CHI_OK) {
    alloc_put(l->alloc, m, sizeof *m + count * sizeof m->method[0]);
    return rc;
  }
  m->next = l->first;
  l->first = m;
  return CHI_OK;
}

void module_free_all(struct module_list *l)
{
  while (l->first) {
    struct module *m = l->first;
    l->first = m->next;
    alloc_put(l->alloc, m, sizeof *m + m->count * sizeof m->method[0]);
  }
}
