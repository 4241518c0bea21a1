/* profile.h - the costs of a simulation as a file: YAML, a map `costs` of names and values. */
#ifndef CHI_TOOL_PROFILE_H
#define CHI_TOOL_PROFILE_H

#include "cli.h"

#include <stdio.h>

#define PROFILE_COSTS 32
#define PROFILE_NAME 32
#define PROFILE_VALUE 32
#define PROFILE_SPEC (PROFILE_COSTS * (PROFILE_NAME + PROFILE_VALUE))
#define PROFILE_FILE_MAX (1u << 20)

/* What is read are costs that a simulation knows, where there is one in the program. */
struct profile {
  struct {
    char name[PROFILE_NAME], value[PROFILE_VALUE];
  } cost[PROFILE_COSTS];
  uint32_t count;
};

/* False: it is too long, has characters of a spec, or there are too many. */
bool profile_add(struct profile *p, const char *name, const char *value);
void profile_print(const struct profile *p, FILE *out);
/* "step=1us,message=3us", as a spec has it. Returns buf. */
const char *profile_spec(const struct profile *p, char buf[PROFILE_SPEC]);
/* False: it can't be read, and a message says where and why. */
bool profile_load(const struct cli *cli, const char *path, struct profile *p);

#endif
