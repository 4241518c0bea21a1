/* word.h - how alike two words are, for suggestions. */
#ifndef CHI_WORD_H
#define CHI_WORD_H

#include "base.h"

/* How many bytes must be inserted, removed, changed or swapped with their neighbour to make one
 * word of the other; UINT32_MAX when they are too different, or too long, to be confused. */
CHI_PRIVATE uint32_t word_distance(const char *a, const char *b);

#endif
