/* sim_profile.c - what things cost in a simulation, set by name. */
#include "sim_profile.h"

#include "error.h"
#include "units.h"

#include <stddef.h>
#include <stdio.h>

enum sim_profile_kind { SIM_PROFILE_TIME, SIM_PROFILE_NUMBER, SIM_PROFILE_SIZE };

static const struct sim_profile_key {
  const char *name;
  enum sim_profile_kind kind;
  uint64_t least, most;
  size_t offset;
} sim_profile_keys[] = {
#define SIM_PROFILE_ROW(name, kind, least, most)                                                   \
  {#name, SIM_PROFILE_##kind, least, most, offsetof(struct sim_profile, name)},
    SIM_PROFILE_KEYS(SIM_PROFILE_ROW)
#undef SIM_PROFILE_ROW
};

static int sim_profile_read(const struct sim_profile_key *key, const char *value, uint64_t *out)
{
  switch (key->kind) {
  case SIM_PROFILE_TIME:
    return chi_parse_duration(value, 1, out);
  case SIM_PROFILE_SIZE:
    return chi_parse_size(value, out);
  default:
    return units_parse_count(value, out);
  }
}

CHI_PRIVATE int sim_profile_parse(const char *name, const char *value, uint32_t *which,
                                  uint64_t *number, chi_error *err)
{
  static const char *const kinds[] = {"a time in ns", "a whole number", "a size"};
  for (uint32_t i = 0; i < SIM_PROFILE_COUNT; i++) {
    const struct sim_profile_key *key = &sim_profile_keys[i];
    if (strcmp(key->name, name) != 0)
      continue;
    *which = i;
    *number = 0;
    if (sim_profile_read(key, value, number) == CHI_OK && *number >= key->least &&
        *number <= key->most)
      return CHI_OK;
    return error_set(err, CHI_EINVAL, "%s: expected %s from %llu to %llu, found \"%.40s\"", name,
                     kinds[key->kind], (unsigned long long)key->least,
                     (unsigned long long)key->most, value);
  }
  return CHI_ENOENT;
}

CHI_PRIVATE void sim_profile_put(struct sim_profile *profile, uint32_t which, uint64_t number)
{
  CHI_ASSERT(which < SIM_PROFILE_COUNT);
  memcpy((char *)profile + sim_profile_keys[which].offset, &number, sizeof(number));
}
