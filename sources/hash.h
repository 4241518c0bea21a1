/* hash.h - mixing, hashing and checksums; equal results on every machine and compiler. */
#ifndef CHI_HASH_H
#define CHI_HASH_H

#include "base.h"

/* Spreads x over all 64 bits; one to one, and 0 stays 0. For keys that come as integers. */
CHI_INLINE uint64_t hash_mix64(uint64_t x)
{
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/* The XXH64 hash of size bytes at data (NULL is fine for none). Not for keeping secrets. */
CHI_PRIVATE uint64_t hash_bytes(const void *data, size_t size, uint64_t seed);

/* The CRC-32C (Castagnoli) of size bytes at data, continued from that of the bytes before them, 0
 * at the start: crc(b, crc(a, 0)) is the sum of a followed by b. Finds every burst of errors up to
 * 32 bits. Uses the processor's instruction where there is one. */
CHI_PRIVATE uint32_t hash_crc32c(uint32_t crc, const void *data, size_t size);

/* The same without the instruction. */
CHI_PRIVATE uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t size);

/* A hash of a sequence of values that grows for as long as one likes: what a trace amounts to.
 * Equal sequences of calls with equal values give equal hashes, and no others are likely to. */
struct hash_stream {
  uint64_t state, count;
};

/* Begins with the empty sequence. */
CHI_INLINE void hash_stream_init(struct hash_stream *stream, uint64_t seed)
{
  *stream = (struct hash_stream){seed, 0};
}

/* Appends one integer. */
CHI_INLINE void hash_stream_u64(struct hash_stream *stream, uint64_t value)
{
  stream->state = hash_mix64((stream->state ^ value) + 0x9e3779b97f4a7c15u);
  stream->count++;
}

/* Appends a string of bytes as one value: "ab" and "c" differ from "a" and "bc". Never give it a
 * struct with padding. */
CHI_PRIVATE void hash_stream_bytes(struct hash_stream *stream, const void *data, size_t size);

/* The hash of the sequence so far; more may follow. */
CHI_INLINE uint64_t hash_stream_finish(const struct hash_stream *stream)
{
  return hash_mix64(stream->state + stream->count);
}

#endif
