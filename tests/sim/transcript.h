/* transcript.h - what is told in a story, kept as one text. */
#ifndef TRANSCRIPT_H
#define TRANSCRIPT_H

#include <stdbool.h>
#include <stddef.h>

/* All zero: nothing has been told. */
struct transcript {
  char *text; /* NULL: nothing */
  size_t length, room;
};

/* A chi_put_fn; arg is the transcript. With STORY set in the environment, it goes to standard error
 * as well. */
void transcript_put(void *arg, const char *text);
/* Whether it has this text. */
bool transcript_has(const struct transcript *t, const char *text);
/* Whether it has all of these, in this order; NULL ends. Standard error tells which are missing. */
bool transcript_tells(const struct transcript *t, ...);
void transcript_free(struct transcript *t);

#endif
