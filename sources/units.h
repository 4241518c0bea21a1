/* units.h - numbers with units: whole counts, sizes in bytes, durations; ids of pools. */
#ifndef CHI_UNITS_H
#define CHI_UNITS_H

#include "base.h"

/* Reads a whole decimal number: digits only. CHI_EINVAL for anything else, CHI_ERANGE beyond
 * UINT64_MAX; *out is then untouched. Any thread. Sizes and durations are in chimaera.h. */
CHI_PRIVATE int units_parse_count(const char *text, uint64_t *out);

/* Reads "300.0". CHI_EINVAL; CHI_ERANGE: a part is above 32 bits. *out is then untouched. */
CHI_PRIVATE int units_parse_pool(const char *text, chi_pool_id *out);

#endif
