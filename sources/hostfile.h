/* hostfile.h - the nodes of a cluster, from the text of a hostfile. */
#ifndef CHI_HOSTFILE_H
#define CHI_HOSTFILE_H

#include "base.h"
#include "report.h"

/* Replaces config->hosts by the nodes of the text, which needs no NUL at its end. The format is in
 * docs/configuration.md. All errors go to the report, CHI_ENOMEM among them; the hosts are of use
 * only if there were none. No clock, no look-up of names. Any thread. */
CHI_PRIVATE void hostfile_parse(chi_config *config, const char *text, size_t size,
                                struct report *report);

#endif
