/* real_host.h - which node of the hostfile this machine is. */
#ifndef CHI_REAL_HOST_H
#define CHI_REAL_HOST_H

#include "base.h"

#ifndef CHI_OMIT_REAL

/* The position in config->hosts: config->node if that is set, else of the only host with an address
 * of this machine's; 0 if there are no hosts. May wait for name servers. CHI_ECONFIG: *err names
 * those in question. */
CHI_PRIVATE int real_host_find(const chi_config *config, uint32_t *node, chi_error *err);

#endif
#endif
