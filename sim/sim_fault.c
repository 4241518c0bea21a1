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

/* Where one more rule goes; SIM_FAULT_RULES: nowhere. */
static uint32_t sim_fault_place(const struct sim_fault *fault)
{
  uint32_t at = fault->rule_count;
  if (at < SIM_FAULT_RULES)
    return at;
  for (at = 0; at < SIM_FAULT_RULES; at++) {
    const struct sim_fault_io *rule = &fault->rules[at];
    if (rule->times && rule->fits >= rule->after + rule->times)
      break;
  }
  return at;
}

CHI_PRIVATE bool sim_fault_room(const struct sim_fault *fault)
{
  return sim_fault_place(fault) < SIM_FAULT_RULES;
}

CHI_PRIVATE struct sim_fault_io *sim_fault_add(struct sim_fault *fault,
                                               const struct sim_fault_io *rule)
{
  struct sim_fault_io *added = &fault->rules[sim_fault_place(fault)];
  CHI_ASSERT(added < &fault->rules[SIM_FAULT_RULES]);
  CHI_ASSERT(rule->result <= 0);
  if (added == &fault->rules[fault->rule_count])
    fault->rule_count++;
  *added = *rule;
  added->fits = 0;
  return added;
}

CHI_PRIVATE const char *sim_fault_name(enum sim_fault_count count)
{
#define SIM_FAULT_TEXT(name, text) text,
  static const char *const texts[] = {SIM_FAULT_COUNTS(SIM_FAULT_TEXT)};
#undef SIM_FAULT_TEXT
  CHI_ASSERT(count < SIM_FAULT_COUNT);
  return texts[count];
}

CHI_PRIVATE void sim_fault_clear(struct sim_fault *fault)
{
  fault->rule_count = 0;
  sim_fault_memory(fault, 0, 0, 0);
}

static enum sim_fault_count sim_fault_count_of(enum sim_fault_memory kind)
{
  switch (kind) {
  case SIM_FAULT_ALLOC:
    return SIM_FAULT_REFUSED_ALLOC;
  case SIM_FAULT_STACK:
    return SIM_FAULT_REFUSED_STACK;
  case SIM_FAULT_SEGMENT:
    return SIM_FAULT_REFUSED_SEGMENT;
  default:
    return SIM_FAULT_REFUSED_BELL;
  }
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
  fault->count[sim_fault_count_of(kind)] += hit;
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
  if (hit) {
    fault->injected++;
    fault->count[SIM_FAULT_IO_FAILED] += hit->result < 0;
    fault->count[SIM_FAULT_IO_SHORT] += hit->result == 0 && hit->limit;
    fault->count[SIM_FAULT_IO_LATE] += hit->delay_ns > 0;
  }
  return hit;
}
