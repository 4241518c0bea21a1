/* test_utf8.c - well-formed and malformed text. */
#include "utf8.h"

#include "test.h"

TEST(utf8_characters)
{
  uint32_t c;
  CHECK_INT(utf8_char("a", &c), 1);
  CHECK_INT(c, 'a');
  CHECK_INT(utf8_char("\xc3\xa9", &c), 2);
  CHECK_INT(c, 0xe9);
  CHECK_INT(utf8_char("\xe2\x82\xac", &c), 3);
  CHECK_INT(c, 0x20ac);
  CHECK_INT(utf8_char("\xf0\x9f\x98\x80", &c), 4);
  CHECK_INT(c, 0x1f600);
  CHECK_INT(utf8_char("\xf4\x8f\xbf\xbf", &c), 4);
  CHECK_INT(c, 0x10ffff);
}

TEST(utf8_malformed)
{
  static const char *const bad[] = {"\x80",
                                    "\xbf",
                                    "\xc3",
                                    "\xc3(",
                                    "\xc0\xaf",
                                    "\xe0\x80\xaf",
                                    "\xe2\x82",
                                    "\xed\xa0\x80",
                                    "\xf0\x8f\xbf\xbf",
                                    "\xf4\x90\x80\x80",
                                    "\xf8\x88\x80\x80\x80",
                                    "\xff",
                                    NULL};
  uint32_t c;
  for (size_t i = 0; bad[i]; i++) {
    CHECK_INT(utf8_char(bad[i], &c), 0);
    CHECK(!utf8_is_text(bad[i]));
    CHECK(!utf8_is_line(bad[i]));
  }
}

TEST(utf8_lines)
{
  CHECK(utf8_is_text("") && utf8_is_line(""));
  CHECK(utf8_is_line("/tmp/\xc3\xa9t\xc3\xa9"));
  CHECK(utf8_is_text("a\nb") && !utf8_is_line("a\nb"));
  CHECK(!utf8_is_line("a\x7f"));
  CHECK(!utf8_is_line("\xc2\x85")); /* next line, of C1 */
  CHECK(utf8_is_line("\xc2\xa0"));
}

TEST(utf8_made_a_line)
{
  char text[] = "a\tb\xff"
                "c\xc2\x85\xc3\xa9\n";
  utf8_make_line(text);
  CHECK_STR(text, "a?b?c??\xc3\xa9?");
}
