/* real_node.h - a node in this process, and a client of one: the functions are in chimaera.h. */
#ifndef CHI_REAL_NODE_H
#define CHI_REAL_NODE_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include "real_fault.h"

/* As chi_node_open, for a node that something may go wrong with; fault may be NULL. */
CHI_PRIVATE int real_node_open(const chi_config *config, const chi_module *const *modules,
                               uint32_t count, struct real_fault *fault, chi_node **out,
                               chi_error *err);

#endif

#endif
