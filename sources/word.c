/* word.c - how alike two words are, for suggestions. */
#include "word.h"

#define WORD_MAX 48 /* longer words are not compared */

static uint32_t word_least(uint32_t a, uint32_t b)
{
  return a < b ? a : b;
}

uint32_t word_distance(const char *a, const char *b)
{
  uint32_t rows[3][WORD_MAX + 1], *before = rows[0], *last = rows[1], *now = rows[2];
  size_t m = strlen(a), n = strlen(b), longer = m > n ? m : n;
  if (longer > WORD_MAX)
    return UINT32_MAX;
  for (uint32_t j = 0; j <= n; j++)
    last[j] = before[j] = j;
  for (uint32_t i = 1; i <= m; i++) {
    uint32_t *next = before;
    now[0] = i;
    for (uint32_t j = 1; j <= n; j++) {
      uint32_t change = last[j - 1] + (a[i - 1] != b[j - 1]);
      now[j] = word_least(change, word_least(last[j], now[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        now[j] = word_least(now[j], before[j - 2] + 1);
    }
    before = last;
    last = now;
    now = next;
  }
  return last[n] <= (longer + 2) / 3 ? last[n] : UINT32_MAX;
}

#undef WORD_MAX
