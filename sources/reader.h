/* reader.h - a configuration file's sections, keys and values on their way into chi_config.
 *
 * No file format in here: the reader of some format (real_conf) walks its file and hands over what
 * it finds, with the place it was written at. Problems go to a report; memory that runs out is one
 * of them, with code CHI_ENOMEM. */
#ifndef CHI_READER_H
#define CHI_READER_H

#include "config.h"
#include "report.h"

#define READER_SECTION_COUNT 10 /* of all generations */
#define READER_SPELLING_COUNT (CONFIG_KEY_COUNT + 16)
#define READER_FIELD_COUNT 4 /* what every entry of compose has */

/* What a value looks like in the file. */
enum reader_kind {
  READER_TEXT,
  READER_NUMBER, /* text that reads as a number and was not quoted */
  READER_BOOL,   /* likewise as true or false */
  READER_NOTHING,
  READER_MAP,
  READER_LIST,
  READER_REFUSED /* already reported; only that the key is there counts */
};

struct reader_value {
  int kind;         /* enum reader_kind */
  const char *text; /* of the first three kinds */
  struct report_mark at;
};

/* Reads one file. Set the first four, the rest to 0. Used by one thread. */
struct reader {
  chi_config *config;
  struct report *report;
  /* The value of an environment variable, NULL if unset; valid until the next call. NULL: none
   * is set. */
  const char *(*lookup)(void *arg, const char *name);
  void *lookup_arg;

  const char *section; /* being read */
  struct report_mark sections[READER_SECTION_COUNT], spellings[READER_SPELLING_COUNT];
  struct report_mark pool, fields[READER_FIELD_COUNT]; /* of the compose entry being read */
  int given[CONFIG_KEY_COUNT]; /* 1 + the spelling by which the key got a valid value */
  bool overfull;               /* it was said that there are too many pools */
};

enum reader_step { READER_SKIP, READER_KEYS, READER_POOLS };

/* A key of the top level. Says what to do with its value: nothing more, hand each key of the map to
 * reader_key, or each item of the list to reader_pool. */
CHI_PRIVATE enum reader_step reader_section(struct reader *r, const char *name,
                                            struct report_mark at,
                                            const struct reader_value *value);
/* A key of the section that was begun last. Of maps and lists only the kind matters. */
CHI_PRIVATE void reader_key(struct reader *r, const char *name, struct report_mark at,
                            const struct reader_value *value);
/* An item of compose. True: hand each of its keys to reader_field, then call reader_pool_end. */
CHI_PRIVATE bool reader_pool(struct reader *r, const struct reader_value *value);
/* True: the value is a map of parameters; hand over its keys as "name.key". */
CHI_PRIVATE bool reader_field(struct reader *r, const char *name, struct report_mark at,
                              const struct reader_value *value);
CHI_PRIVATE void reader_pool_end(struct reader *r);
/* At the end of the file, or without one: fills in names that were not given, and checks what
 * concerns several keys. */
CHI_PRIVATE void reader_end(struct reader *r);
/* Where the value of a current key was written; line 0 if it was not. */
CHI_PRIVATE struct report_mark reader_written(const struct reader *r, const char *key);

#endif
