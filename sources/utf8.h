/* utf8.h - looking at UTF-8 text that ends in NUL. */
#ifndef CHI_UTF8_H
#define CHI_UTF8_H

#include "base.h"

/* Length of the character at p, which is not at the end of the text, and its code point; 0 if it
 * is malformed: cut short, longer than needed, a surrogate, or beyond U+10FFFF. */
CHI_PRIVATE size_t utf8_char(const char *p, uint32_t *code);
/* Control characters, line breaks among them: C0, DEL and C1. */
CHI_PRIVATE bool utf8_is_control(uint32_t code);
/* Well-formed from beginning to end. */
CHI_PRIVATE bool utf8_is_text(const char *text);
/* Well-formed and without control characters. */
CHI_PRIVATE bool utf8_is_line(const char *text);
/* Replaces what is malformed and control characters by "?", in place. */
CHI_PRIVATE void utf8_make_line(char *text);

#endif
