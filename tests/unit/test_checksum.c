/* test_checksum.c - the checksum in pieces is that of the whole. */
#include "checksum.h"

#include "hash.h"
#include "test.h"

TEST(checksum_of_nothing_is_the_known_one)
{
  struct checksum c;
  checksum_begin(&c);
  CHECK(checksum_end(&c) == 0xef46db3751d8e999u);
}

TEST(checksum_does_not_depend_on_the_pieces)
{
  unsigned char data[700];
  uint64_t state = 1;
  for (size_t i = 0; i < sizeof(data); i++)
    data[i] = (unsigned char)((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
  for (size_t size = 0; size <= sizeof(data); size++) {
    for (size_t piece = 1; piece < 80; piece += 1 + piece / 3) {
      struct checksum c;
      checksum_begin(&c);
      for (size_t at = 0; at < size; at += piece)
        checksum_add(&c, data + at, piece < size - at ? piece : size - at);
      CHECK(checksum_end(&c) == hash_bytes(data, size, 0));
    }
  }
}
