/* hash.c - XXH64, CRC-32C eight bytes at a time, and the hash of a stream. */
#include "hash.h"

#if defined(__x86_64__) && !defined(__ILP32__)
#define HASH_CRC_INSTRUCTION 1
#endif

/* The constants of XXH64. */
#define HASH_P1 0x9e3779b185ebca87u
#define HASH_P2 0xc2b2ae3d27d4eb4fu
#define HASH_P3 0x165667b19e3779f9u
#define HASH_P4 0x85ebca77c2b2ae63u
#define HASH_P5 0x27d4eb2f165667c5u

/* Little-endian on every machine. */
static inline uint64_t hash_load64(const uint8_t *p)
{
  uint64_t v;
  memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

static inline uint32_t hash_load32(const uint8_t *p)
{
  uint32_t v;
  memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap32(v);
#endif
  return v;
}

static inline uint64_t hash_rotate(uint64_t x, unsigned bits)
{
  return x << bits | x >> (64 - bits);
}

static inline uint64_t hash_round(uint64_t sum, uint64_t word)
{
  return hash_rotate(sum + word * HASH_P2, 31) * HASH_P1;
}

static inline uint64_t hash_merge(uint64_t sum, uint64_t lane)
{
  return (sum ^ hash_round(0, lane)) * HASH_P1 + HASH_P4;
}

/* Four independent lanes over all whole blocks of 32 bytes. */
static uint64_t hash_blocks(const uint8_t *p, size_t blocks, uint64_t seed)
{
  uint64_t a = seed + HASH_P1 + HASH_P2, b = seed + HASH_P2, c = seed, d = seed - HASH_P1;
  uint64_t sum;
  for (; blocks > 0; blocks--, p += 32) {
    a = hash_round(a, hash_load64(p));
    b = hash_round(b, hash_load64(p + 8));
    c = hash_round(c, hash_load64(p + 16));
    d = hash_round(d, hash_load64(p + 24));
  }
  sum = hash_rotate(a, 1) + hash_rotate(b, 7) + hash_rotate(c, 12) + hash_rotate(d, 18);
  return hash_merge(hash_merge(hash_merge(hash_merge(sum, a), b), c), d);
}

CHI_PRIVATE uint64_t hash_bytes(const void *data, size_t size, uint64_t seed)
{
  const uint8_t *p = data;
  size_t left = size % 32;
  uint64_t sum = seed + HASH_P5;
  CHI_ASSERT(data || size == 0);
  if (size >= 32) {
    sum = hash_blocks(p, size / 32, seed);
    p += size - left;
  }
  sum += size;
  for (; left >= 8; left -= 8, p += 8)
    sum = hash_rotate(sum ^ hash_round(0, hash_load64(p)), 27) * HASH_P1 + HASH_P4;
  for (; left >= 4; left -= 4, p += 4)
    sum = hash_rotate(sum ^ hash_load32(p) * HASH_P1, 23) * HASH_P2 + HASH_P3;
  for (; left > 0; left--, p++)
    sum = hash_rotate(sum ^ *p * HASH_P5, 11) * HASH_P1;
  sum = (sum ^ sum >> 33) * HASH_P2;
  sum = (sum ^ sum >> 29) * HASH_P3;
  return sum ^ sum >> 32;
}

/* ---- CRC-32C ----------------------------------------------------------------------------- */

/* The sum of a byte is the exclusive or of the sums of its bits, so that the eight numbers in a row
 * below, for bits 7 to 0, make a table of 256. Table k is for a byte with k bytes after it. */
#define HASH_CRC(i, b7, b6, b5, b4, b3, b2, b1, b0)                                                \
  (((i)&128 ? b7 : 0) ^ ((i)&64 ? b6 : 0) ^ ((i)&32 ? b5 : 0) ^ ((i)&16 ? b4 : 0) ^                \
   ((i)&8 ? b3 : 0) ^ ((i)&4 ? b2 : 0) ^ ((i)&2 ? b1 : 0) ^ ((i)&1 ? b0 : 0))
#define HASH_CRC_4(i, ...)                                                                         \
  HASH_CRC(i, __VA_ARGS__), HASH_CRC((i) + 1, __VA_ARGS__), HASH_CRC((i) + 2, __VA_ARGS__),        \
      HASH_CRC((i) + 3, __VA_ARGS__)
#define HASH_CRC_16(i, ...)                                                                        \
  HASH_CRC_4(i, __VA_ARGS__), HASH_CRC_4((i) + 4, __VA_ARGS__), HASH_CRC_4((i) + 8, __VA_ARGS__),  \
      HASH_CRC_4((i) + 12, __VA_ARGS__)
#define HASH_CRC_64(i, ...)                                                                        \
  HASH_CRC_16(i, __VA_ARGS__), HASH_CRC_16((i) + 16, __VA_ARGS__),                                 \
      HASH_CRC_16((i) + 32, __VA_ARGS__), HASH_CRC_16((i) + 48, __VA_ARGS__)
#define HASH_CRC_TABLE(...)                                                                        \
  {                                                                                                \
    HASH_CRC_64(0, __VA_ARGS__), HASH_CRC_64(64, __VA_ARGS__), HASH_CRC_64(128, __VA_ARGS__),      \
        HASH_CRC_64(192, __VA_ARGS__)                                                              \
  }

static const uint32_t hash_crc_table[8][256] = {
    HASH_CRC_TABLE(0x82f63b78, 0x417b1dbc, 0x20bd8ede, 0x105ec76f, 0x8ad958cf, 0xc79a971f,
                   0xe13b70f7, 0xf26b8303),
    HASH_CRC_TABLE(0xfbc3faf9, 0xff17c604, 0x7f8be302, 0x3fc5f181, 0x9d14c3b8, 0x4e8a61dc,
                   0x274530ee, 0x13a29877),
    HASH_CRC_TABLE(0x8b277743, 0xc76580d9, 0xe144fb14, 0x70a27d8a, 0x38513ec5, 0x9edea41a,
                   0x4f6f520d, 0xa541927e),
    HASH_CRC_TABLE(0x52a0c93f, 0xaba65fe7, 0xd725148b, 0xe964b13d, 0xf64463e6, 0x7b2231f3,
                   0xbf672381, 0xdd45aab8),
    HASH_CRC_TABLE(0x6ea2d55c, 0x37516aae, 0x1ba8b557, 0x8f2261d3, 0xc5670b91, 0xe045beb0,
                   0x7022df58, 0x38116fac),
    HASH_CRC_TABLE(0x1c08b7d6, 0x0e045beb, 0x85f4168d, 0xc00c303e, 0x6006181f, 0xb2f53777,
                   0xdb8ca0c3, 0xef306b19),
    HASH_CRC_TABLE(0xf56e0ef4, 0x7ab7077a, 0x3d5b83bd, 0x9c5bfaa6, 0x4e2dfd53, 0xa5e0c5d1,
                   0xd0065990, 0x68032cc8),
    HASH_CRC_TABLE(0x34019664, 0x1a00cb32, 0x0d006599, 0x847609b4, 0x423b04da, 0x211d826d,
                   0x9278fa4e, 0x493c7d27),
};

CHI_PRIVATE uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
  const uint32_t(*table)[256] = hash_crc_table;
  const uint8_t *p = data;
  crc = ~crc;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t v = hash_load64(p) ^ crc;
    crc = table[7][v & 255] ^ table[6][v >> 8 & 255] ^ table[5][v >> 16 & 255] ^
          table[4][v >> 24 & 255] ^ table[3][v >> 32 & 255] ^ table[2][v >> 40 & 255] ^
          table[1][v >> 48 & 255] ^ table[0][v >> 56];
  }
  for (; size > 0; size--, p++)
    crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
  return ~crc;
}

#ifdef HASH_CRC_INSTRUCTION
__attribute__((target("sse4.2"))) static uint32_t hash_crc32c_fast(uint32_t crc, const void *data,
                                                                   size_t size)
{
  const uint8_t *p = data;
  uint64_t sum = ~crc;
  for (; size >= 8; size -= 8, p += 8)
    sum = __builtin_ia32_crc32di(sum, hash_load64(p));
  for (; size > 0; size--, p++)
    sum = __builtin_ia32_crc32qi((uint32_t)sum, *p);
  return ~(uint32_t)sum;
}
#endif

CHI_PRIVATE uint32_t hash_crc32c(uint32_t crc, const void *data, size_t size)
{
  CHI_ASSERT(data || size == 0);
#ifdef HASH_CRC_INSTRUCTION
  if (__builtin_cpu_supports("sse4.2"))
    return hash_crc32c_fast(crc, data, size);
#endif
  return hash_crc32c_portable(crc, data, size);
}

CHI_PRIVATE void hash_stream_bytes(struct hash_stream *stream, const void *data, size_t size)
{
  hash_stream_u64(stream, size);
  hash_stream_u64(stream, hash_bytes(data, size, 0));
}

#undef HASH_CRC_INSTRUCTION
#undef HASH_P1
#undef HASH_P2
#undef HASH_P3
#undef HASH_P4
#undef HASH_P5
#undef HASH_CRC
#undef HASH_CRC_4
#undef HASH_CRC_16
#undef HASH_CRC_64
#undef HASH_CRC_TABLE
