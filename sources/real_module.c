/* real_module.c - modules that are loaded as shared objects. */
#include "real_module.h"

#ifndef CHI_OMIT_REAL

#include "error.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One that is loaded. */
struct real_module {
  struct real_module *next;
  void *handle;
  const chi_module *def;
  char name[CHI_NAME_MAX];
};

/* Letters, digits, dot, dash and underscore, not beginning with a dot: a name of a file that stays
 * in its directory. */
static bool real_module_named(const char *name)
{
  size_t length = 0;
  for (; name[length]; length++)
    if (!isalnum((unsigned char)name[length]) && !strchr("._-", name[length]))
      return false;
  return length > 0 && length < CHI_NAME_MAX && name[0] != '.';
}

/* The first file of that name on the way; false if there is none. */
static bool real_module_seek(const char *way, const char *name, char *path, size_t room)
{
  static const char *const prefix[] = {"", "lib", "chimaera_", "libchimaera_"};
  name += strncmp(name, "chimaera_", 9) == 0 ? 9 : 0;
  while (*way) {
    size_t length = strcspn(way, ":");
    for (size_t i = 0; length > 0 && i < CHI_COUNT(prefix); i++) {
      int n = snprintf(path, room, "%.*s/%s%s.so", (int)length, way, prefix[i], name);
      if (n > 0 && (size_t)n < room && access(path, F_OK) == 0)
        return true;
    }
    way += length + (way[length] == ':');
  }
  return false;
}

/* What the shared object says of itself, checked. */
static int real_module_enter(struct real_module *m, const char *path, chi_error *err)
{
  void *symbol = dlsym(m->handle, "chi_module_entry");
  chi_module_entry_fn *entry;
  if (!symbol)
    return error_set(err, CHI_ENOMODULE, "module %s: %s has no chi_module_entry", m->name, path);
  memcpy(&entry, &symbol, sizeof(entry));
  m->def = entry();
  if (!m->def || !m->def->name)
    return error_set(err, CHI_ENOMODULE, "module %s: chi_module_entry of %s gave nothing", m->name,
                     path);
  if (m->def->version != CHI_MODULE_VERSION)
    return error_set(err, CHI_EVERSION, "module %s: %s is of version %u, this node of version %u",
                     m->name, path, m->def->version, CHI_MODULE_VERSION);
  return CHI_OK;
}

static int real_module_open(struct real_module *m, const char *path, chi_error *err)
{
  m->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!m->handle) {
    const char *why = dlerror();
    return error_set(err, CHI_ENOMODULE, "module %s: %s", m->name, why ? why : path);
  }
  int rc = real_module_enter(m, path, err);
  if (rc != CHI_OK)
    dlclose(m->handle);
  return rc;
}

static int real_module_load(struct env *env, const char *name, const chi_module **out,
                            chi_error *err)
{
  struct real_env *r = real_env_of(env);
  const char *way = getenv("CHI_MODULE_PATH");
  char path[CHI_PATH_MAX + CHI_NAME_MAX];
  for (struct real_module *m = r->modules; m; m = m->next)
    if (strcmp(m->name, name) == 0) {
      *out = m->def;
      return CHI_OK;
    }
  if (!real_module_named(name))
    return error_set(err, CHI_ENOMODULE, "\"%s\" is not a name of a module", name);
  if (!way || !*way)
    return error_set(err, CHI_ENOMODULE,
                     "no module %s: it isn't linked in, and CHI_MODULE_PATH is not set", name);
  if (!real_module_seek(way, name, path, sizeof(path)))
    return error_set(err, CHI_ENOMODULE,
                     "no module %s: it isn't linked in, and there is no %s.so in "
                     "CHI_MODULE_PATH (%s)",
                     name, name, way);
  struct real_module *m = calloc(1, sizeof(*m));
  if (!m)
    return error_set(err, CHI_ENOMEM, "module %s: out of memory", name);
  memcpy(m->name, name, strlen(name) + 1);
  int rc = real_module_open(m, path, err);
  if (rc != CHI_OK) {
    free(m);
    return rc;
  }
  m->next = r->modules;
  r->modules = m;
  *out = m->def;
  return CHI_OK;
}

void real_module_bind(struct real_env *r)
{
  r->env.module_load = real_module_load;
}

void real_module_close(struct real_env *r)
{
  while (r->modules) {
    struct real_module *m = r->modules;
    r->modules = m->next;
    dlclose(m->handle);
    free(m);
  }
}

#endif
