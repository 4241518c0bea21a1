/* utf8.c - looking at UTF-8 text that ends in NUL. */
#include "utf8.h"

CHI_PRIVATE size_t utf8_char(const char *p, uint32_t *code)
{
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char first = (unsigned char)*p;
  size_t n = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  uint32_t c = n == 1 ? first : first & (0x7fu >> n);
  if ((first >= 0x80 && first < 0xc0) || first >= 0xf8)
    return 0;
  for (size_t i = 1; i < n; i++) {
    if (((unsigned char)p[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | ((unsigned char)p[i] & 0x3f);
  }
  if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
    return 0;
  *code = c;
  return n;
}

CHI_PRIVATE bool utf8_is_control(uint32_t code)
{
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

CHI_PRIVATE bool utf8_is_text(const char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    if (!n)
      return false;
    text += n;
  }
  return true;
}

CHI_PRIVATE bool utf8_is_line(const char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    if (!n || utf8_is_control(c))
      return false;
    text += n;
  }
  return true;
}

CHI_PRIVATE void utf8_make_line(char *text)
{
  uint32_t c;
  while (*text) {
    size_t n = utf8_char(text, &c);
    size_t skip = n ? n : 1;
    if (!n || utf8_is_control(c))
      memset(text, '?', skip);
    text += skip;
  }
}
