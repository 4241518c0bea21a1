/* json.h - reading JSON: what a daemon, a manifest or a program of our own wrote. */
#ifndef CHI_TOOL_JSON_H
#define CHI_TOOL_JSON_H

#include "base.h"

#define JSON_SIZE_MAX (16u << 20) /* of a text */
#define JSON_DEPTH_MAX 32

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* One value. It belongs to the tree it is in, which json_free of its root releases. */
struct json {
  int kind;           /* enum json_kind */
  bool exact;         /* a number that `integer` holds exactly */
  const char *name;   /* of a member of an object, else NULL */
  const char *string; /* of a string: UTF-8, no NUL within */
  double number;
  uint64_t integer;
  struct json *child, *next; /* first element or member; the one after this */
};

/* Parses one value; the text is untrusted and need not end in NUL. CHI_ECORRUPT names the byte
 * where it stops making sense; CHI_ETOOBIG; CHI_ENOMEM. */
int json_parse(const char *text, size_t size, struct json **out, chi_error *err);
void json_free(struct json *root);

/* The member of that name; NULL if there is none, or object is NULL or something else. */
const struct json *json_get(const struct json *object, const char *name);
/* The same as a value: fallback if it is not there or of another kind. */
const char *json_string(const struct json *object, const char *name, const char *fallback);
uint64_t json_integer(const struct json *object, const char *name, uint64_t fallback);
double json_number(const struct json *object, const char *name, double fallback);
bool json_bool(const struct json *object, const char *name);
/* The first element of an array member, NULL if it is none; the others follow by `next`. */
const struct json *json_list(const struct json *object, const char *name);
uint32_t json_count(const struct json *object, const char *name);

#endif
