/* sim_fault.c - what goes wrong in a simulation, and when: memory, shared memory, files. */
#include "sim_fault.h"

CHI_PRIVATE void sim_fault_memory(struct sim_fault *fault, uint32_t kinds, uint64_t fail_at,
                                  uint32_t per_million)
{
  CHI_ASSERT((kinds & ~(uint32_t)SIM_FAULT_ANY) == 0);
  fault->asked = 0;
  fault->kinds = kinds;
  fault->fail_at = fail_at;
  fault->per_million = per_million;
}

CHI_PRIVATE struct sim_fault_io *sim_fault_add(struct sim_fault *fault,
                                               const struct sim_fault_io *rule)
{
  struct sim_fault_io *added = &fault->rules[fault->rule_count];
  CHI_ASSERT(fault->rule_count < SIM_FAULT_RULES);
  CHI_ASSERT(rule->result <= 0);
  *added = *rule;
  added->fits = 0;
  fault->rule_count++;
  return added;
}

CHI_PRIVATE void sim_fault_clear(struct sim_fault *fault)
{
  fault->rule_count = 0;
  sim_fault_memory(fault, 0, 0, 0);
}

CHI_PRIVATE bool sim_fault_hits(struct sim_fault *fault, enum sim_fault_memory kind)
{
  bool hit;
  if (!(fault->kinds & (uint32_t)kind))
    return false;
  fault->asked++;
  hit = fault->asked == fault->fail_at;
  if (rng_chance(&fault->rng, fault->per_million))
    hit = true;
  fault->injected += hit;
  return hit;
}

static bool sim_fault_fits(const struct sim_fault_io *rule, uint32_t node, int op, const char *path)
{
  if (rule->node != SIM_FAULT_ANYWHERE && rule->node != node)
    return false;
  if (rule->op != SIM_FAULT_ANYWHERE && rule->op != (uint32_t)op)
    return false;
  return !rule->path || (path && strstr(path, rule->path));
}

CHI_PRIVATE const struct sim_fault_io *sim_fault_hits_io(struct sim_fault *fault, uint32_t node,
                                                         int op, const char *path)
{
  const struct sim_fault_io *hit = NULL;
  for (uint32_t i = 0; i < fault->rule_count; i++) {
    struct sim_fault_io *rule = &fault->rules[i];
    if (!sim_fault_fits(rule, node, op, path))
      continue;
    rule->fits++;
    if (!hit && rule->fits > rule->after &&
        (!rule->times || rule->fits - rule->after <= rule->times))
      hit = rule;
  }
  fault->injected += hit != NULL;
  return hit;
}
