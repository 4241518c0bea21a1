/* ledger.h - an allocation log while it is written: what its records say of each other. */
#ifndef LEDGER_H
#define LEDGER_H

#include "books.h"

/* Of the device on that node. No record says of more than is safe by now that it is durable.
 * strict: nothing has gone wrong, so that their numbers follow each other. */
void ledger_look(chi_cluster *cluster, uint32_t node, const char *device, bool strict);

#endif
