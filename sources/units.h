/* units.h - numbers with units: whole counts, sizes in bytes, durations. */
#ifndef CHI_UNITS_H
#define CHI_UNITS_H

#include "base.h"

/* Reads a whole decimal number: digits only. CHI_EINVAL for anything else, CHI_ERANGE beyond
 * UINT64_MAX; *out is then untouched. Any thread. Sizes and durations are in chimaera.h. */
CHI_PRIVATE int units_parse_count(const char *text, uint64_t *out);

#endif
