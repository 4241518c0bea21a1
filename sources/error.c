/* error.c - names and texts of status codes, error messages, failed assertions. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *chi_status_name(int code)
{
  switch (code) {
#define ERROR_NAME(name, code, text)                                                               \
  case name:                                                                                       \
    return #name;
    CHI_STATUS_TABLE(ERROR_NAME)
#undef ERROR_NAME
  default:
    return "unknown";
  }
}

const char *chi_status_text(int code)
{
  switch (code) {
#define ERROR_TEXT(name, code, text)                                                               \
  case name:                                                                                       \
    return text;
    CHI_STATUS_TABLE(ERROR_TEXT)
#undef ERROR_TEXT
  default:
    return "unknown";
  }
}

/* Format a line of text in place: line breaks become spaces, none stay at the end. */
static void error_one_line(char *text)
{
  size_t end = 0;
  for (size_t i = 0; text[i]; i++) {
    if (text[i] == '\n' || text[i] == '\r')
      text[i] = ' ';
    else
      end = i + 1;
  }
  text[end] = '\0';
}

CHI_PRIVATE int error_set(chi_error *err, int code, const char *fmt, ...)
{
  va_list args;
  if (!err)
    return code;
  err->code = code;
  va_start(args, fmt);
  if (vsnprintf(err->text, sizeof(err->text), fmt, args) < 0)
    err->text[0] = '\0';
  va_end(args);
  error_one_line(err->text);
  return code;
}

/* Not through stdio: an unbuffered stream takes 8 KiB of what may be a small or full stack. */
CHI_PRIVATE void chi_assert_failed(const char *cond, const char *file, int line)
{
  char text[512];
  int n = snprintf(text, sizeof(text), "chimaera: %s:%d: assertion failed: %s\n", file, line, cond);
  if (n >= (int)sizeof(text)) {
    n = sizeof(text);
    text[n - 1] = '\n';
  }
  if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0)
    abort();
  abort();
}
