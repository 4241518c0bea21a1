/* checksum.h - XXH64 of data that comes in pieces; 'xxhsum -H64' gives the same. */
#ifndef CHI_TOOL_CHECKSUM_H
#define CHI_TOOL_CHECKSUM_H

#include "base.h"

struct checksum {
  uint64_t lanes[4], total;
  unsigned char rest[32]; /* of a stripe that is not complete */
  size_t used;
};

void checksum_begin(struct checksum *c);
void checksum_add(struct checksum *c, const void *data, size_t size);
uint64_t checksum_end(const struct checksum *c);

#endif
