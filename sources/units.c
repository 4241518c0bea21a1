/* units.c - numbers with units: whole counts, sizes in bytes, durations; ids of pools. */
#include "units.h"

#include <stdio.h>

/* A decimal number as written: the digits before and after the point, and what follows. */
struct units_number {
  const char *whole, *fraction, *suffix;
  size_t whole_digits, fraction_digits;
};

static size_t units_digits(const char *text)
{
  size_t n = 0;
  while (text[n] >= '0' && text[n] <= '9')
    n++;
  return n;
}

static char units_lower(char c)
{
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Equal, where text may be in any case and word is in lower case. */
static bool units_same(const char *text, const char *word)
{
  while (*word && units_lower(*text) == *word)
    text++, word++;
  return !*text && !*word;
}

static int units_split(const char *text, struct units_number *n)
{
  n->whole = text;
  n->whole_digits = units_digits(text);
  n->fraction = n->suffix = text + n->whole_digits;
  n->fraction_digits = 0;
  if (*n->suffix == '.') {
    n->fraction = n->suffix + 1;
    n->fraction_digits = units_digits(n->fraction);
    n->suffix = n->fraction + n->fraction_digits;
    if (!n->fraction_digits)
      return CHI_EINVAL;
  }
  return n->whole_digits ? CHI_OK : CHI_EINVAL;
}

static int units_whole(const char *digits, size_t count, uint64_t *out)
{
  uint64_t value = 0;
  for (size_t i = 0; i < count; i++) {
    if (__builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, (uint64_t)(digits[i] - '0'), &value))
      return CHI_ERANGE;
  }
  *out = value;
  return CHI_OK;
}

/* number * unit, rounded down. Exact for any number of digits: the fraction is worked off from its
 * last digit, and rounding down at each step is the same as rounding down once at the end. */
static int units_scale(const struct units_number *n, uint64_t unit, uint64_t *out)
{
  uint64_t value, part = 0;
  bool zero = true;
  CHI_ASSERT(unit > 0 && unit <= UINT64_MAX / 10);
  if (units_whole(n->whole, n->whole_digits, &value) != CHI_OK)
    return CHI_ERANGE;
  for (size_t i = n->fraction_digits; i-- > 0;) {
    uint64_t digit = (uint64_t)(n->fraction[i] - '0');
    part = (unit * digit + part) / 10;
    zero = zero && digit == 0;
  }
  zero = zero && value == 0;
  if (__builtin_mul_overflow(value, unit, &value) || __builtin_add_overflow(value, part, &value))
    return CHI_ERANGE;
  if (value == 0 && !zero)
    return CHI_ERANGE;
  *out = value;
  return CHI_OK;
}

CHI_PRIVATE int units_parse_count(const char *text, uint64_t *out)
{
  size_t digits = units_digits(text);
  if (!digits || text[digits])
    return CHI_EINVAL;
  return units_whole(text, digits, out);
}

int chi_parse_size(const char *text, uint64_t *out)
{
  static const char letters[] = "kmgt";
  struct units_number n;
  const char *letter;
  if (!text || !out || units_split(text, &n) != CHI_OK)
    return CHI_EINVAL;
  if (!*n.suffix || units_same(n.suffix, "b"))
    return n.fraction_digits ? CHI_EINVAL : units_scale(&n, 1, out);
  letter = strchr(letters, units_lower(*n.suffix));
  if (!letter)
    return CHI_EINVAL;
  if (n.suffix[1] && !units_same(n.suffix + 1, "b") && !units_same(n.suffix + 1, "ib"))
    return CHI_EINVAL;
  return units_scale(&n, (uint64_t)1 << (10 * (letter - letters + 1)), out);
}

static const struct units_time {
  const char *name;
  uint64_t ns;
} units_times[] = {{"s", 1000000000}, {"ms", 1000000}, {"us", 1000}, {"ns", 1}};

int chi_parse_duration(const char *text, uint64_t unit_ns, uint64_t *out)
{
  struct units_number n;
  if (!text || !out || !unit_ns || unit_ns > UINT64_MAX / 10 || units_split(text, &n) != CHI_OK)
    return CHI_EINVAL;
  if (!*n.suffix)
    return units_scale(&n, unit_ns, out);
  for (size_t i = 0; i < CHI_COUNT(units_times); i++) {
    if (strcmp(n.suffix, units_times[i].name) == 0)
      return units_scale(&n, units_times[i].ns, out);
  }
  return CHI_EINVAL;
}

const char *chi_format_size(uint64_t bytes, char *buf, size_t size)
{
  static const char *const names[] = {"", "K", "M", "G", "T"};
  size_t i = 0;
  for (; bytes && bytes % 1024 == 0 && i + 1 < CHI_COUNT(names); i++)
    bytes /= 1024;
  snprintf(buf, size, "%llu%s", (unsigned long long)bytes, names[i]);
  return buf;
}

const char *chi_format_duration(uint64_t ns, char *buf, size_t size)
{
  size_t i = 0;
  while (ns % units_times[i].ns != 0)
    i++;
  snprintf(buf, size, "%llu%s", (unsigned long long)(ns / units_times[i].ns), units_times[i].name);
  return buf;
}

int units_parse_pool(const char *text, chi_pool_id *out)
{
  const char *dot = strchr(text, '.');
  char major_text[16];
  uint64_t major, minor;
  int status;
  if (!dot || dot == text || (size_t)(dot - text) >= sizeof(major_text))
    return CHI_EINVAL;
  memcpy(major_text, text, (size_t)(dot - text));
  major_text[dot - text] = '\0';
  status = units_parse_count(major_text, &major);
  if (status == CHI_OK)
    status = units_parse_count(dot + 1, &minor);
  if (status != CHI_OK)
    return status;
  if (major > UINT32_MAX || minor > UINT32_MAX)
    return CHI_ERANGE;
  *out = (chi_pool_id){(uint32_t)major, (uint32_t)minor};
  return CHI_OK;
}
