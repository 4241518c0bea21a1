/* syntax.c - whether a text is what it should be before it becomes part of another. */
#include "syntax.h"
#include "utf8.h"

/* Each function takes what it is called after from the front of the text; false: it isn't there. */

static void syntax_space(const char **p)
{
  *p += strspn(*p, " \t\n\r");
}

static bool syntax_byte(const char **p, char c)
{
  syntax_space(p);
  if (**p != c)
    return false;
  ++*p;
  return true;
}

static bool syntax_word(const char **p, const char *word)
{
  size_t size = strlen(word);
  if (strncmp(*p, word, size) != 0)
    return false;
  *p += size;
  return true;
}

static bool syntax_digits(const char **p)
{
  size_t n = strspn(*p, "0123456789");
  *p += n;
  return n > 0;
}

static bool syntax_number(const char **p)
{
  *p += **p == '-';
  if (**p == '0')
    ++*p;
  else if (!syntax_digits(p))
    return false;
  if (**p == '.') {
    ++*p;
    if (!syntax_digits(p))
      return false;
  }
  if (**p == 'e' || **p == 'E') {
    ++*p;
    *p += **p == '-' || **p == '+';
    return syntax_digits(p);
  }
  return true;
}

/* Four hexadecimal digits after "\u". */
static bool syntax_unit(const char **p, uint32_t *out)
{
  static const char digits[] = "0123456789abcdefABCDEF";
  *out = 0;
  if (!syntax_word(p, "\\u"))
    return false;
  for (int i = 0; i < 4; i++, ++*p) {
    const char *digit = **p ? strchr(digits, **p) : NULL;
    if (!digit)
      return false;
    uint32_t value = (uint32_t)(digit - digits);
    *out = *out << 4 | (value < 16 ? value : value - 6);
  }
  return true;
}

static bool syntax_escape(const char **p)
{
  uint32_t code, low;
  if ((*p)[1] != 'u') {
    bool known = (*p)[1] && strchr("\"\\/bfnrt", (*p)[1]);
    *p += known ? 2 : 0;
    return known;
  }
  if (!syntax_unit(p, &code) || code == 0 || (code >= 0xdc00 && code < 0xe000))
    return false;
  return code < 0xd800 || code >= 0xdc00 ||
         (syntax_unit(p, &low) && low >= 0xdc00 && low < 0xe000);
}

static bool syntax_string(const char **p)
{
  if (!syntax_byte(p, '"'))
    return false;
  while (**p != '"') {
    uint32_t code;
    size_t size = **p ? utf8_char(*p, &code) : 0;
    if (size == 0 || code < 0x20 || (code == '\\' && !syntax_escape(p)))
      return false;
    *p += code == '\\' ? 0 : size;
  }
  ++*p;
  return true;
}

static bool syntax_value(const char **p, int depth);

/* What is between the brackets of an object or array, and the closing one. */
static bool syntax_parts(const char **p, char close, int depth)
{
  if (depth == SYNTAX_DEPTH_MAX)
    return false;
  if (syntax_byte(p, close))
    return true;
  do {
    if (close == '}' && !(syntax_string(p) && syntax_byte(p, ':')))
      return false;
    if (!syntax_value(p, depth + 1))
      return false;
  } while (syntax_byte(p, ','));
  return syntax_byte(p, close);
}

static bool syntax_value(const char **p, int depth)
{
  syntax_space(p);
  switch (**p) {
  case '{':
    ++*p;
    return syntax_parts(p, '}', depth);
  case '[':
    ++*p;
    return syntax_parts(p, ']', depth);
  case '"':
    return syntax_string(p);
  case 't':
    return syntax_word(p, "true");
  case 'f':
    return syntax_word(p, "false");
  case 'n':
    return syntax_word(p, "null");
  default:
    return syntax_number(p);
  }
}

bool syntax_is_object(const char *text)
{
  syntax_space(&text);
  if (*text != '{' || !syntax_value(&text, 0))
    return false;
  syntax_space(&text);
  return *text == '\0';
}
