/* test_hash.c - known answers, and the properties that callers rely on. */
#include "hash.h"

#include "dies.h"
#include "test.h"

#include <stdlib.h>

#define CHECK_HASH(got, want) CHECK_INT((int64_t)(got), (int64_t)(want))

/* The bytes that the reference implementation of XXH64 checks itself with. */
static void hash_fill(uint8_t *p, size_t size)
{
  uint64_t x = 2654435761u;
  for (size_t i = 0; i < size; i++, x *= 11400714785074694797u)
    p[i] = (uint8_t)(x >> 56);
}

TEST(hash_bytes_is_xxh64)
{
  const uint64_t prime = 2654435761u;
  uint8_t p[222];
  hash_fill(p, sizeof(p));
  CHECK_HASH(hash_bytes(NULL, 0, 0), 0xef46db3751d8e999u);
  CHECK_HASH(hash_bytes(NULL, 0, prime), 0xac75fda2929b17efu);
  CHECK_HASH(hash_bytes(p, 1, 0), 0xe934a84adb052768u);
  CHECK_HASH(hash_bytes(p, 1, prime), 0x5014607643a9b4c3u);
  CHECK_HASH(hash_bytes(p, 4, 0), 0x9136a0dca57457eeu);
  CHECK_HASH(hash_bytes(p, 14, 0), 0x8282dcc4994e35c8u);
  CHECK_HASH(hash_bytes(p, 14, prime), 0xc3bd6bf63deb6df0u);
  CHECK_HASH(hash_bytes(p, 222, 0), 0xb641ae8cb691c174u);
  CHECK_HASH(hash_bytes(p, 222, prime), 0x20cb8ab7ae10c14au);
  CHECK_HASH(hash_bytes("abc", 3, 0), 0x44bc2cf5ad770999u);
}

TEST(hash_bytes_does_not_depend_on_alignment)
{
  uint8_t buffer[200 + 8], p[200];
  hash_fill(p, sizeof(p));
  for (size_t shift = 0; shift < 8; shift++) {
    memcpy(buffer + shift, p, sizeof(p));
    for (size_t size = 0; size <= sizeof(p); size++)
      CHECK_HASH(hash_bytes(buffer + shift, size, 3), hash_bytes(p, size, 3));
  }
}

TEST(hash_bytes_feels_every_bit)
{
  uint8_t p[100];
  hash_fill(p, sizeof(p));
  for (size_t size = 1; size <= sizeof(p); size++) {
    uint64_t before = hash_bytes(p, size, 0);
    for (size_t bit = 0; bit < size * 8; bit++) {
      p[bit / 8] ^= (uint8_t)(1 << bit % 8);
      CHECK(hash_bytes(p, size, 0) != before);
      p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(hash_bytes(p, size, 1) != before);
    CHECK(hash_bytes(p, size - 1, 0) != before);
  }
}

TEST(hash_mix64_known_answers)
{
  /* splitmix64 from 1234567 */
  CHECK_HASH(hash_mix64(1234567 + 0x9e3779b97f4a7c15u), 6457827717110365317u);
  CHECK_HASH(hash_mix64(1234567 + 2 * 0x9e3779b97f4a7c15u), 3203168211198807973u);
  CHECK_HASH(hash_mix64(0), 0);
}

/* Half of the output bits change, give or take, whichever input bit does. */
TEST(hash_mix64_spreads)
{
  for (int bit = 0; bit < 64; bit++) {
    int changed = 0;
    for (uint64_t x = 0; x < 1000; x++)
      changed += __builtin_popcountll(hash_mix64(x) ^ hash_mix64(x ^ (uint64_t)1 << bit));
    CHECK(changed > 30000 && changed < 34000);
  }
}

/* ---- CRC-32C ----------------------------------------------------------------------------- */

static uint32_t hash_crc_by_bit(uint32_t crc, const uint8_t *p, size_t size)
{
  crc = ~crc;
  for (; size > 0; size--) {
    crc ^= *p++;
    for (int i = 0; i < 8; i++)
      crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

TEST(hash_crc32c_known_answers)
{
  uint8_t p[32];
  CHECK_HASH(hash_crc32c(0, NULL, 0), 0);
  CHECK_HASH(hash_crc32c(0, "123456789", 9), 0xe3069283u);
  memset(p, 0, sizeof(p));
  CHECK_HASH(hash_crc32c(0, p, sizeof(p)), 0x8a9136aau);
  memset(p, 0xff, sizeof(p));
  CHECK_HASH(hash_crc32c(0, p, sizeof(p)), 0x62a8ab43u);
  for (int i = 0; i < 32; i++)
    p[i] = (uint8_t)i;
  CHECK_HASH(hash_crc32c(0, p, sizeof(p)), 0x46dd794eu);
}

TEST(hash_crc32c_both_ways_are_the_definition)
{
  uint8_t p[2048 + 3];
  hash_fill(p, sizeof(p));
  for (size_t size = 0; size <= 100; size++)
    for (size_t at = 0; at < 8; at++) {
      uint32_t want = hash_crc_by_bit(7, p + at, size);
      CHECK_HASH(hash_crc32c(7, p + at, size), want);
      CHECK_HASH(hash_crc32c_portable(7, p + at, size), want);
    }
  CHECK_HASH(hash_crc32c(0, p, sizeof(p)), hash_crc_by_bit(0, p, sizeof(p)));
  CHECK_HASH(hash_crc32c_portable(0, p, sizeof(p)), hash_crc_by_bit(0, p, sizeof(p)));
}

/* Each entry of each table is reached with a single byte that is not zero. */
TEST(hash_crc32c_every_table_entry)
{
  for (size_t at = 0; at < 8; at++)
    for (int value = 0; value < 256; value++) {
      uint8_t p[8] = {0};
      p[at] = (uint8_t)value;
      CHECK_HASH(hash_crc32c_portable(0, p, 8), hash_crc_by_bit(0, p, 8));
    }
}

TEST(hash_crc32c_continues)
{
  uint8_t p[300];
  hash_fill(p, sizeof(p));
  for (size_t cut = 0; cut <= sizeof(p); cut++) {
    uint32_t crc = hash_crc32c(0, p, cut);
    CHECK_HASH(hash_crc32c(crc, p + cut, sizeof(p) - cut), hash_crc32c(0, p, sizeof(p)));
  }
}

/* ---- streams ----------------------------------------------------------------------------- */

static uint64_t hash_of(size_t count, const uint64_t *value)
{
  struct hash_stream s;
  hash_stream_init(&s, 1);
  for (size_t i = 0; i < count; i++)
    hash_stream_u64(&s, value[i]);
  return hash_stream_finish(&s);
}

TEST(hash_stream_depends_on_values_and_order)
{
  const uint64_t a[] = {1, 2, 3}, b[] = {2, 1, 3}, c[] = {1, 2, 4}, zero[4] = {0};
  CHECK_HASH(hash_of(3, a), hash_of(3, a));
  CHECK(hash_of(3, a) != hash_of(3, b));
  CHECK(hash_of(3, a) != hash_of(3, c));
  for (size_t i = 0; i < 4; i++)
    for (size_t j = 0; j < i; j++)
      CHECK(hash_of(i, zero) != hash_of(j, zero));
}

/* Recorded hashes are compared between machines and versions: these numbers must never change. */
TEST(hash_stream_known_answers)
{
  struct hash_stream s;
  hash_stream_init(&s, 0);
  CHECK_HASH(hash_stream_finish(&s), 0);
  hash_stream_u64(&s, 42);
  CHECK_HASH(hash_stream_finish(&s), 0xaa57873bce9452a9u);
  hash_stream_bytes(&s, "chimaera", 8);
  CHECK_HASH(hash_stream_finish(&s), 0xb827df08a8f8e096u);
  CHECK_HASH(hash_stream_finish(&s), 0xb827df08a8f8e096u);
}

static uint64_t hash_of_two(const char *a, const char *b)
{
  struct hash_stream s;
  hash_stream_init(&s, 0);
  hash_stream_bytes(&s, a, strlen(a));
  hash_stream_bytes(&s, b, strlen(b));
  return hash_stream_finish(&s);
}

TEST(hash_stream_bytes_have_borders)
{
  CHECK_HASH(hash_of_two("ab", "c"), hash_of_two("ab", "c"));
  CHECK(hash_of_two("ab", "c") != hash_of_two("a", "bc"));
  CHECK(hash_of_two("abc", "") != hash_of_two("", "abc"));
}

static void hash_of_nothing(void *arg)
{
  hash_bytes(arg, 1, 0);
}

static void hash_crc_of_nothing(void *arg)
{
  hash_crc32c(0, arg, 1);
}

TEST(hash_misuse_is_caught)
{
  CHECK(dies(hash_of_nothing, NULL, "data || size == 0"));
  CHECK(dies(hash_crc_of_nothing, NULL, "data || size == 0"));
}

#undef CHECK_HASH
