/* cmd_sim_module.c - modules of shared objects, and their variables that should not change. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "bdev.h"
#include "module.h"
#include "real_env.h"
#include "real_module.h"

#define MODULES_SEGMENTS 8u
#define MODULES_FILE_MAX ((size_t)256 << 20)

/* Memory of a shared object that may be written, and what was in it at first. */
struct modules_segment {
  char *now;
  char *then;
  size_t size;
};

struct modules_object {
  struct modules_object *next;
  const chi_module *def;
  char name[SCENARIO_NAME], path[CHI_PATH_MAX];
  uintptr_t base;
  struct modules_segment segment[MODULES_SEGMENTS];
  uint32_t segments;
};

struct modules {
  struct real_env env;
  struct modules_object *objects;
  const chi_module *all[SCENARIO_MODULES + 1];
  uint32_t count;
};

/* ---- their memory --------------------------------------------------------------------------- */

/* Byte by byte, also where a sanitizer has put something in between. */
__attribute__((no_sanitize_address)) static void modules_copy(char *to, const char *from,
                                                              size_t size)
{
  for (size_t i = 0; i < size; i++)
    ((volatile char *)to)[i] = from[i];
}

__attribute__((no_sanitize_address)) static size_t modules_same(const char *a, const char *b,
                                                                size_t size)
{
  size_t i = 0;
  while (i < size && ((const volatile char *)a)[i] == b[i])
    i++;
  return i;
}

/* Takes a copy of what can be written of a segment. */
static void modules_keep(struct modules_object *o, uintptr_t from, uintptr_t to)
{
  struct modules_segment *s = &o->segment[o->segments];
  if (from >= to || o->segments == MODULES_SEGMENTS)
    return;
  s->now = (char *)from;
  s->size = to - from;
  s->then = malloc(s->size);
  if (!s->then)
    return;
  modules_copy(s->then, s->now, s->size);
  o->segments++;
}

static bool modules_holds(const struct dl_phdr_info *info, uintptr_t address)
{
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type == PT_LOAD && address - (info->dlpi_addr + p->p_vaddr) < p->p_memsz)
      return true;
  }
  return false;
}

/* Of the object that the definition is in: its segments, without what is read-only by now. */
static int modules_look(struct dl_phdr_info *info, size_t size, void *arg)
{
  struct modules_object *o = arg;
  uintptr_t relro = 0, relro_end = 0, page = (uintptr_t)sysconf(_SC_PAGESIZE);
  (void)size;
  if (!modules_holds(info, (uintptr_t)o->def))
    return 0;
  o->base = info->dlpi_addr;
  snprintf(o->path, sizeof(o->path), "%s", info->dlpi_name);
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
      relro = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
      relro_end = (relro + info->dlpi_phdr[i].p_memsz) & ~(page - 1);
    }
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uintptr_t from = info->dlpi_addr + p->p_vaddr, to = from + p->p_memsz;
    if (p->p_type == PT_LOAD && (p->p_flags & PF_W) != 0)
      modules_keep(o, from >= relro && from < relro_end ? relro_end : from, to);
  }
  return 1;
}

/* ---- their symbols -------------------------------------------------------------------------- */

/* Section `index` of an ELF file, if it lies inside. */
static const ElfW(Shdr) *modules_section(const char *file, size_t size, uint32_t index)
{
  const ElfW(Ehdr) *head = (const void *)file;
  const ElfW(Shdr) *s;
  if (size < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
      head->e_shoff > size || head->e_shoff % 8 != 0 || index >= head->e_shnum ||
      (size - head->e_shoff) / sizeof(*s) < head->e_shnum)
    return NULL;
  s = (const ElfW(Shdr) *)(const void *)(file + head->e_shoff) + index;
  return s->sh_type != SHT_NOBITS && (s->sh_offset > size || s->sh_size > size - s->sh_offset)
             ? NULL
             : s;
}

/* The variable at an address of the file's, by its table of symbols. */
static bool modules_symbol(const char *file, size_t size, uint64_t address, char *name, size_t room)
{
  const ElfW(Shdr) *table, *strings;
  for (uint32_t i = 0; (table = modules_section(file, size, i)) != NULL; i++) {
    if (table->sh_type != SHT_SYMTAB || table->sh_offset % 8 != 0)
      continue;
    strings = modules_section(file, size, table->sh_link);
    const ElfW(Sym) *s = (const void *)(file + table->sh_offset);
    for (size_t n = table->sh_size / sizeof(*s); strings && n > 0; n--, s++) {
      uint64_t left = s->st_name < strings->sh_size ? strings->sh_size - s->st_name : 0;
      if (ELF64_ST_TYPE(s->st_info) != STT_OBJECT || address - s->st_value >= s->st_size || !left)
        continue;
      snprintf(name, room, "%.*s", left < room ? (int)left : (int)room - 1,
               file + strings->sh_offset + s->st_name);
      return true;
    }
  }
  return false;
}

static char *modules_file(const char *path, size_t *size)
{
  FILE *in = fopen(path, "rb");
  char *text = NULL;
  long end = -1;
  if (in && fseek(in, 0, SEEK_END) == 0)
    end = ftell(in);
  if (end > 0 && (size_t)end < MODULES_FILE_MAX && fseek(in, 0, SEEK_SET) == 0)
    text = malloc((size_t)end);
  *size = text ? fread(text, 1, (size_t)end, in) : 0;
  if (in)
    fclose(in);
  return text;
}

static void modules_name(const struct modules_object *o, const char *address, char *what,
                         size_t room)
{
  uint64_t offset = (uintptr_t)address - o->base;
  size_t size;
  char *file = modules_file(o->path, &size), name[128];
  if (file && modules_symbol(file, size, offset, name, sizeof(name)))
    snprintf(what, room, "module %s changes its variable %s", o->name, name);
  else
    snprintf(what, room, "module %s changes its memory at offset 0x%llx", o->name,
             (unsigned long long)offset);
  free(file);
}

bool modules_changed(const struct modules *m, char *what, size_t room)
{
  for (const struct modules_object *o = m->objects; o; o = o->next) {
    bool used = false;
    for (uint32_t i = 0; i < m->count; i++)
      used = used || m->all[i] == o->def;
    for (uint32_t i = 0; used && i < o->segments; i++) {
      const struct modules_segment *s = &o->segment[i];
      size_t at = modules_same(s->now, s->then, s->size);
      if (at == s->size || (o->def->flags & CHI_MODULE_STATICS) != 0)
        continue;
      modules_name(o, s->now + at, what, room);
      return true;
    }
  }
  return false;
}

void modules_reset(struct modules *m)
{
  for (struct modules_object *o = m->objects; o; o = o->next)
    for (uint32_t i = 0; i < o->segments; i++)
      modules_copy(o->segment[i].now, o->segment[i].then, o->segment[i].size);
}

/* ---- loading -------------------------------------------------------------------------------- */

static const chi_module *modules_load_one(struct modules *m, const char *name, chi_error *err)
{
  struct modules_object *o = m->objects;
  while (o && strcmp(o->name, name) != 0)
    o = o->next;
  if (o)
    return o->def;
  o = calloc(1, sizeof(*o));
  if (!o || m->env.env.module_load(&m->env.env, name, &o->def, err) != CHI_OK) {
    free(o);
    return NULL;
  }
  snprintf(o->name, sizeof(o->name), "%s", name);
  dl_iterate_phdr(modules_look, o);
  o->next = m->objects;
  m->objects = o;
  return o->def;
}

struct modules *modules_load(const struct scenario *s, uint32_t *at, chi_error *err)
{
  static struct modules *m; /* what is loaded stays so */
  if (!m) {
    m = calloc(1, sizeof(*m));
    if (!m)
      return NULL;
    m->env.env.self = &m->env;
    real_module_bind(&m->env);
  }
  if (s->module_path[0])
    setenv("CHI_MODULE_PATH", s->module_path, 1);
  m->all[0] = &load_module;
  m->count = 1;
  for (uint32_t i = 0; i < s->module_count; i++) {
    const chi_module *def = modules_load_one(m, s->modules[i], err);
    *at = i;
    if (!def)
      return NULL;
    m->all[m->count++] = def;
  }
  return m;
}

const chi_module *const *modules_all(const struct modules *m, uint32_t *count)
{
  *count = m->count;
  return m->all;
}

const chi_module *modules_find(const struct modules *m, const char *name)
{
  for (uint32_t i = 0; i < m->count; i++)
    if (module_is_named(m->all[i], name))
      return m->all[i];
  return module_is_named(bdev_module(), name) ? bdev_module() : NULL;
}

#undef MODULES_SEGMENTS
#undef MODULES_FILE_MAX

#endif
