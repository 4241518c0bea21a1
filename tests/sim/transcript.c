/* transcript.c - what is told in a story, kept as one text. */
#include "transcript.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void transcript_put(void *arg, const char *text)
{
  struct transcript *t = arg;
  size_t size = strlen(text);
  if (getenv("STORY"))
    fputs(text, stderr);
  if (t->length + size + 1 > t->room) {
    t->room = (t->length + size + 1) * 2;
    t->text = realloc(t->text, t->room);
    if (!t->text)
      abort();
  }
  memcpy(t->text + t->length, text, size + 1);
  t->length += size;
}

bool transcript_has(const struct transcript *t, const char *text)
{
  return t->text && strstr(t->text, text) != NULL;
}

bool transcript_tells(const struct transcript *t, ...)
{
  const char *at = t->text, *text;
  va_list args;
  va_start(args, t);
  for (text = va_arg(args, const char *); text && at; text = va_arg(args, const char *)) {
    at = strstr(at, text);
    if (at)
      at += strlen(text);
    else
      fprintf(stderr, "  the transcript does not tell (any more): %s\n", text);
  }
  va_end(args);
  return at != NULL;
}

void transcript_free(struct transcript *t)
{
  free(t->text);
  *t = (struct transcript){NULL, 0, 0};
}
