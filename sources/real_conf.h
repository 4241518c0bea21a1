/* real_conf.h - configuration from YAML files, with libyaml. */
#ifndef CHI_REAL_CONF_H
#define CHI_REAL_CONF_H

#include "base.h"
#include "reader.h"

#ifndef CHI_OMIT_REAL

/* Reads a YAML text into r->config, as reader.h says; the outcome is in r->report. Does not read
 * the hostfile. */
CHI_PRIVATE void real_conf_parse(struct reader *r, const char *text, size_t size);

/* Fills in the names of segments that are not set, for a configuration that was not loaded from a
 * file. CHI_ECONFIG. */
CHI_PRIVATE int real_conf_names(chi_config *config, chi_error *err);

#endif
#endif
