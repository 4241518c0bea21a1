/* json.c - reading JSON: what a daemon, a manifest or a program of our own wrote. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One allocation holds the parser's result: the values, then a copy of the text in which strings
 * are decoded in place. The copy ends in NUL, which no rule of the grammar accepts. */
struct json_parser {
  struct json *nodes;
  uint32_t used, room;
  char *at, *begin, *end;
  const char *why; /* what was expected, when it failed */
};

static bool json_value(struct json_parser *p, struct json **out, int depth);

static bool json_fail(struct json_parser *p, const char *expected)
{
  p->why = expected;
  return false;
}

static void json_space(struct json_parser *p)
{
  while (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t')
    p->at++;
}

static bool json_take(struct json_parser *p, char c, const char *expected)
{
  json_space(p);
  if (*p->at != c)
    return json_fail(p, expected);
  p->at++;
  return true;
}

static bool json_word(struct json_parser *p, const char *word)
{
  size_t size = strlen(word);
  if (strncmp(p->at, word, size) != 0)
    return json_fail(p, "a value");
  p->at += size;
  return true;
}

static int json_hex(char c)
{
  if (c >= '0' && c <= '9')
    return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits at p->at. */
static bool json_unit(struct json_parser *p, uint32_t *out)
{
  *out = 0;
  for (int i = 0; i < 4; i++) {
    int digit = json_hex(p->at[i]);
    if (digit < 0)
      return json_fail(p, "four hexadecimal digits");
    *out = *out << 4 | (uint32_t)digit;
  }
  p->at += 4;
  return true;
}

static char *json_put_utf8(char *to, uint32_t c)
{
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 0x3f));
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  }
  return to;
}

/* The rest of \uXXXX, with the second half of a pair. */
static bool json_unicode(struct json_parser *p, char **to)
{
  uint32_t c, low;
  if (!json_unit(p, &c))
    return false;
  if (c >= 0xd800 && c < 0xdc00 && p->at[0] == '\\' && p->at[1] == 'u') {
    p->at += 2;
    if (!json_unit(p, &low))
      return false;
    if (low < 0xdc00 || low >= 0xe000)
      return json_fail(p, "the second half of a pair");
    c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
  } else if (c >= 0xd800 && c < 0xe000) {
    c = 0xfffd;
  }
  if (c == 0)
    return json_fail(p, "no NUL in a string");
  *to = json_put_utf8(*to, c);
  return true;
}

static bool json_escape(struct json_parser *p, char **to)
{
  static const char codes[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  char c = *p->at;
  const char *code = c ? strchr(codes, c) : NULL;
  if (c == 'u') {
    p->at++;
    return json_unicode(p, to);
  }
  if (!code)
    return json_fail(p, "an escape");
  p->at++;
  *(*to)++ = values[code - codes];
  return true;
}

/* A string, of which the opening quote is next. */
static bool json_text(struct json_parser *p, const char **out)
{
  char *to;
  if (!json_take(p, '"', "a string"))
    return false;
  *out = to = p->at;
  while (*p->at != '"') {
    if (p->at == p->end)
      return json_fail(p, "the end of a string");
    if ((unsigned char)*p->at < 0x20)
      return json_fail(p, "no control character in a string");
    if (*p->at != '\\') {
      *to++ = *p->at++;
      continue;
    }
    p->at++;
    if (!json_escape(p, &to))
      return false;
  }
  p->at++;
  *to = '\0';
  return true;
}

static size_t json_digits(const char *text)
{
  size_t n = 0;
  while (text[n] >= '0' && text[n] <= '9')
    n++;
  return n;
}

static bool json_digits_of(struct json_parser *p, struct json *node)
{
  const char *start = p->at, *whole;
  size_t digits, n;
  p->at += *p->at == '-';
  whole = p->at;
  digits = json_digits(whole);
  if (!digits || (digits > 1 && *whole == '0'))
    return json_fail(p, "a number");
  p->at += digits;
  node->exact = *start != '-';
  if (*p->at == '.') {
    n = json_digits(p->at + 1);
    if (!n)
      return json_fail(p, "digits");
    p->at += 1 + n;
    node->exact = false;
  }
  if (*p->at == 'e' || *p->at == 'E') {
    p->at += 1 + (p->at[1] == '-' || p->at[1] == '+');
    n = json_digits(p->at);
    if (!n)
      return json_fail(p, "digits");
    p->at += n;
    node->exact = false;
  }
  node->number = strtod(start, NULL);
  for (size_t i = 0; i < digits && node->exact; i++)
    node->exact =
        !__builtin_mul_overflow(node->integer, 10u, &node->integer) &&
        !__builtin_add_overflow(node->integer, (uint64_t)(whole[i] - '0'), &node->integer);
  return true;
}

/* The elements of an array or the members of an object, after the opening bracket. */
static bool json_parts(struct json_parser *p, struct json *node, char close, int depth)
{
  struct json **link = &node->child;
  bool members = node->kind == JSON_OBJECT;
  json_space(p);
  if (*p->at == close) {
    p->at++;
    return true;
  }
  for (;;) {
    const char *name = NULL;
    if (members && (!json_text(p, &name) || !json_take(p, ':', "\":\"")))
      return false;
    if (!json_value(p, link, depth + 1))
      return false;
    (*link)->name = name;
    link = &(*link)->next;
    json_space(p);
    if (*p->at == close)
      break;
    if (!json_take(p, ',', members ? "\",\" or \"}\"" : "\",\" or \"]\""))
      return false;
  }
  p->at++;
  return true;
}

static bool json_value(struct json_parser *p, struct json **out, int depth)
{
  struct json *node;
  if (depth == JSON_DEPTH_MAX)
    return json_fail(p, "less depth");
  if (p->used == p->room)
    return json_fail(p, "the end");
  *out = node = &p->nodes[p->used++];
  json_space(p);
  switch (*p->at) {
  case '{':
  case '[':
    node->kind = *p->at == '{' ? JSON_OBJECT : JSON_ARRAY;
    p->at++;
    return json_parts(p, node, node->kind == JSON_OBJECT ? '}' : ']', depth);
  case '"':
    node->kind = JSON_STRING;
    return json_text(p, &node->string);
  case 't':
  case 'f':
    node->kind = JSON_BOOL;
    node->integer = *p->at == 't';
    return json_word(p, node->integer ? "true" : "false");
  case 'n':
    return json_word(p, "null");
  default:
    node->kind = JSON_NUMBER;
    return json_digits_of(p, node);
  }
}

static int json_error(chi_error *err, int code, const char *what, size_t where)
{
  if (err) {
    err->code = code;
    snprintf(err->text, sizeof(err->text), "malformed JSON at byte %zu: expected %s", where, what);
  }
  return code;
}

/* Each value but the first follows one of these, or the ":" of a member that follows one. */
static uint32_t json_room(const char *text, size_t size)
{
  uint32_t room = 1;
  for (size_t i = 0; i < size; i++)
    room += text[i] == ',' || text[i] == '[' || text[i] == '{';
  return room;
}

int json_parse(const char *text, size_t size, struct json **out, chi_error *err)
{
  struct json_parser p = {0};
  size_t nodes;
  *out = NULL;
  if (size > JSON_SIZE_MAX)
    return json_error(err, CHI_ETOOBIG, "a shorter text", JSON_SIZE_MAX);
  p.room = json_room(text, size);
  nodes = p.room * sizeof(struct json);
  p.nodes = calloc(1, nodes + size + 1);
  if (!p.nodes)
    return json_error(err, CHI_ENOMEM, "more memory", 0);
  p.begin = p.at = (char *)p.nodes + nodes;
  p.end = p.begin + size;
  memcpy(p.begin, text, size);
  if (json_value(&p, out, 0)) {
    json_space(&p);
    if (p.at == p.end)
      return CHI_OK;
    p.why = "the end";
  }
  *out = NULL;
  json_error(err, CHI_ECORRUPT, p.why, (size_t)(p.at - p.begin));
  free(p.nodes);
  return CHI_ECORRUPT;
}

void json_free(struct json *root)
{
  free(root);
}

const struct json *json_get(const struct json *object, const char *name)
{
  if (!object || object->kind != JSON_OBJECT)
    return NULL;
  for (const struct json *m = object->child; m; m = m->next) {
    if (strcmp(m->name, name) == 0)
      return m;
  }
  return NULL;
}

const char *json_string(const struct json *object, const char *name, const char *fallback)
{
  const struct json *m = json_get(object, name);
  return m && m->kind == JSON_STRING ? m->string : fallback;
}

uint64_t json_integer(const struct json *object, const char *name, uint64_t fallback)
{
  const struct json *m = json_get(object, name);
  return m && m->kind == JSON_NUMBER && m->exact ? m->integer : fallback;
}

double json_number(const struct json *object, const char *name, double fallback)
{
  const struct json *m = json_get(object, name);
  return m && m->kind == JSON_NUMBER ? m->number : fallback;
}

bool json_bool(const struct json *object, const char *name)
{
  const struct json *m = json_get(object, name);
  return m && m->kind == JSON_BOOL && m->integer;
}

const struct json *json_list(const struct json *object, const char *name)
{
  const struct json *m = json_get(object, name);
  return m && m->kind == JSON_ARRAY ? m->child : NULL;
}

uint32_t json_count(const struct json *object, const char *name)
{
  uint32_t n = 0;
  for (const struct json *m = json_list(object, name); m; m = m->next)
    n++;
  return n;
}
