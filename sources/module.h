/* module.h - the registry of modules: method tables, checked and indexed once. */
#ifndef CHI_MODULE_H
#define CHI_MODULE_H

#include "base.h"
#include "alloc.h"
#include "cost.h"
#include "env.h"
#include "task.h"

#define MODULE_METHOD_IDS 256u /* method ids are below this */
#define MODULE_OWN_METHODS 10u /* ids below are the system's */
#define METHOD_OF_NODES 0x100u /* flag of a method that clients may not call */
#define METHOD_VARIES UINT32_MAX    /* size on the wire that depends on the task */
#define METHOD_UNCOUNTED UINT32_MAX /* index of a method that is in no module's table */

struct method {
  const chi_method *def;
  struct task_plan plan;
  uint32_t index;  /* in its module, for figures */
  uint32_t wire_in;  /* bytes of its IN fields between nodes */
  size_t wire_out;   /* of its OUT fields, at most */
  uint64_t weight; /* tally: measured cost over estimate, times 1024; any worker corrects it */
};

struct module {
  const chi_module *def;
  struct module *next;
  uint32_t count;
  uint16_t by_id[MODULE_METHOD_IDS]; /* index + 1 */
  struct method method[];
};

struct module_list {
  const struct alloc *alloc;
  struct module *first;
};

/* CHI_EINVAL as task_plan_init says. */
CHI_PRIVATE int module_method_init(struct method *m, const chi_method *def, uint32_t index,
                                   chi_error *err);
/* Checks the declaration and adds it. CHI_EINVAL, CHI_EVERSION, CHI_EEXIST, CHI_ENOMEM. */
CHI_PRIVATE int module_add(struct module_list *l, const chi_module *def, chi_error *err);
/* Whether a module has this name, with or without a leading "chimaera_" on either side. */
CHI_PRIVATE bool module_is_named(const chi_module *def, const char *name);
/* By name, in the same way. NULL: not there. */
CHI_PRIVATE struct module *module_find(const struct module_list *l, const char *name);
CHI_PRIVATE void module_free_all(struct module_list *l);

CHI_INLINE struct method *module_method(struct module *m, uint32_t id)
{
  return id < MODULE_METHOD_IDS && m->by_id[id] ? &m->method[m->by_id[id] - 1] : NULL;
}

/* Declared cost in nanoseconds, corrected by measurement: good to tell 5 us from 50. */
CHI_INLINE uint64_t method_estimate(const struct method *m, uint64_t compute_us, uint64_t io_size)
{
  uint64_t declared = cost_declared(compute_us ? compute_us : m->def->compute_us, io_size);
  return declared * (tally_get(&m->weight) >> 3) >> 7;
}
CHI_INLINE bool method_is_slow(const struct method *m, uint64_t compute_us, uint64_t io_size)
{
  return method_estimate(m, compute_us, io_size) >= COST_SLOW_NS;
}

#endif
