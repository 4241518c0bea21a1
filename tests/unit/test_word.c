/* test_word.c - how alike two words are. */
#include "word.h"
#include "test.h"

TEST(word_distance_counts_edits)
{
  CHECK_INT(word_distance("offset", "offset"), 0);
  CHECK_INT(word_distance("ofset", "offset"), 1);
  CHECK_INT(word_distance("ofsfet", "offset"), 1); /* swapped neighbours */
  CHECK_INT(word_distance("sice", "size"), 1);
  CHECK_INT(word_distance("lenght", "length"), 1);
  CHECK_INT(word_distance("", ""), 0);
  CHECK_INT(word_distance("apple", "offset"), UINT32_MAX);
  CHECK_INT(word_distance("", "abcd"), UINT32_MAX);
  CHECK_INT(word_distance("a", ""), 1);
}

TEST(word_distance_of_long_words)
{
  char a[50], b[50];
  memset(a, 'a', sizeof a);
  memset(b, 'a', sizeof b);
  a[48] = b[48] = '\0';
  b[20] = 'b';
  CHECK_INT(word_distance(a, b), 1);
  a[48] = 'a', a[49] = '\0';
  CHECK_INT(word_distance(a, b), UINT32_MAX); /* too long to be compared */
  CHECK_INT(word_distance(b, a), UINT32_MAX);
}
