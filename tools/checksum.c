/* checksum.c - XXH64 of data that comes in pieces. */
#include "checksum.h"

#include <endian.h>

#define CHECKSUM_P1 0x9e3779b185ebca87u
#define CHECKSUM_P2 0xc2b2ae3d27d4eb4fu
#define CHECKSUM_P3 0x165667b19e3779f9u
#define CHECKSUM_P4 0x85ebca77c2b2ae63u
#define CHECKSUM_P5 0x27d4eb2f165667c5u

static uint64_t checksum_rotate(uint64_t x, int bits)
{
  return x << bits | x >> (64 - bits);
}

static uint64_t checksum_load8(const unsigned char *p)
{
  uint64_t x;
  memcpy(&x, p, sizeof(x));
  return le64toh(x);
}

static uint64_t checksum_load4(const unsigned char *p)
{
  uint32_t x;
  memcpy(&x, p, sizeof(x));
  return le32toh(x);
}

static uint64_t checksum_round(uint64_t lane, uint64_t input)
{
  return checksum_rotate(lane + input * CHECKSUM_P2, 31) * CHECKSUM_P1;
}

static void checksum_stripe(struct checksum *c, const unsigned char *p)
{
  for (size_t i = 0; i < 4; i++)
    c->lanes[i] = checksum_round(c->lanes[i], checksum_load8(p + 8 * i));
}

void checksum_begin(struct checksum *c)
{
  *c = (struct checksum){
      .lanes = {CHECKSUM_P1 + CHECKSUM_P2, CHECKSUM_P2, 0, (uint64_t)0 - CHECKSUM_P1}};
}

void checksum_add(struct checksum *c, const void *data, size_t size)
{
  const unsigned char *p = data;
  c->total += size;
  if (c->used) {
    size_t n = sizeof(c->rest) - c->used;
    n = n < size ? n : size;
    memcpy(c->rest + c->used, p, n);
    c->used += n;
    p += n;
    size -= n;
    if (c->used < sizeof(c->rest))
      return;
    checksum_stripe(c, c->rest);
    c->used = 0;
  }
  for (; size >= sizeof(c->rest); p += sizeof(c->rest), size -= sizeof(c->rest))
    checksum_stripe(c, p);
  if (size)
    memcpy(c->rest, p, size);
  c->used = size;
}

static uint64_t checksum_merge(const struct checksum *c)
{
  static const int turns[] = {1, 7, 12, 18};
  uint64_t h = 0;
  if (c->total < sizeof(c->rest))
    return CHECKSUM_P5;
  for (size_t i = 0; i < 4; i++)
    h += checksum_rotate(c->lanes[i], turns[i]);
  for (size_t i = 0; i < 4; i++)
    h = (h ^ checksum_round(0, c->lanes[i])) * CHECKSUM_P1 + CHECKSUM_P4;
  return h;
}

uint64_t checksum_end(const struct checksum *c)
{
  uint64_t h = checksum_merge(c) + c->total;
  const unsigned char *p = c->rest, *end = c->rest + c->used;
  for (; end - p >= 8; p += 8)
    h = checksum_rotate(h ^ checksum_round(0, checksum_load8(p)), 27) * CHECKSUM_P1 + CHECKSUM_P4;
  for (; end - p >= 4; p += 4)
    h = checksum_rotate(h ^ checksum_load4(p) * CHECKSUM_P1, 23) * CHECKSUM_P2 + CHECKSUM_P3;
  for (; p < end; p++)
    h = checksum_rotate(h ^ *p * CHECKSUM_P5, 11) * CHECKSUM_P1;
  h = (h ^ h >> 33) * CHECKSUM_P2;
  h = (h ^ h >> 29) * CHECKSUM_P3;
  return h ^ h >> 32;
}
