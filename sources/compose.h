/* compose.h - pools declared in configuration become create tasks. */
#ifndef CHI_COMPOSE_H
#define CHI_COMPOSE_H

#include "base.h"
#include "admin.h"

struct compose {
  struct admin_host *host;
  const chi_config *config; /* outlives the task */
  struct method method;
  void (*done)(void *arg, int rc); /* on the network worker; error tells more */
  void *arg;
  chi_error error;
};

/* Creates the pools of config->compose in order; the first failure ends it. c stays until done. */
CHI_PRIVATE int compose_start(struct compose *c);

/* Where an entry's creation went wrong: at the parameter whose name `why` begins with, else at the
 * entry. 0: it was not read from a file. */
CHI_PRIVATE void compose_place(const chi_compose_entry *entry, const char *why, int *line,
                               int *column);

/* The parameters of an entry in the form admin takes: NAME=VALUE lines. CHI_ETOOBIG. */
CHI_PRIVATE int compose_params(const chi_param *params, uint32_t count, char *out, size_t room);

#endif
