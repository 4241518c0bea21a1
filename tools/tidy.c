/* tidy.c - the style test: reads names of files, one a line, prints "file:line: what is wrong".
 *
 * Files of sources/ and sim/ come in reading order (./amalgamate --list) and are held to every
 * rule; all others to those about lines, length and their first line. Exit status 1 if anything
 * was found, 2 if a file can't be read. */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_LENGTH_MAX 100
#define FILE_LINES_MAX 999
#define FUNCTION_LINES_MAX 70
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- what is allowed and what isn't: the tables to edit -------------------------------------- */

/* Functions nobody calls in sources/ and sim/, and why. */
static const struct {
  const char *name, *why;
} banned[] = {
    {"strcpy", "unbounded"},      {"strcat", "unbounded"},
    {"stpcpy", "unbounded"},      {"sprintf", "unbounded"},
    {"vsprintf", "unbounded"},    {"gets", "unbounded"},
    {"strncpy", "may not end"},   {"strncat", "confusing bound"},
    {"alloca", "unbounded"},      {"strtok", "hidden state"},
    {"rand", "use the seam"},     {"srand", "hidden state"},
    {"atoi", "no errors"},        {"atol", "no errors"},
    {"atoll", "no errors"},       {"atof", "no errors"},
    {"system", "runs a shell"},   {"popen", "runs a shell"},
    {"fork", "use posix_spawn"},  {"vfork", "use posix_spawn"},
    {"assert", "use CHI_ASSERT"}, {"qsort", "not stable"},
    {"sleep", "blind wait"},      {"usleep", "blind wait"},
    {"tmpnam", "races"},          {"mktemp", "races"},
    {"setjmp", "leaps"},          {"signal", "use sigaction"},
    {"gmtime", "hidden state"},   {"localtime", "hidden state"},
    {"strerror", "hidden state"},
};

/* Where one of them is called nevertheless. */
static const struct {
  const char *name, *room;
} excused[] = {
    {"fork", "real_nest"}, /* nodes with the modules of this program */
};

/* The rooms that may use atomic operations; atomic.h is the door. */
static const char *const atomic_rooms[] = {"atomic", "ring", "lane", "bell", "shm"};

/* A room normally has one noun, its own name. These have more. */
static const struct {
  const char *room, *noun;
} more_nouns[] = {
    {"base", "chi"},   {"atomic", "chi"},     {"atomic", "tally"},
    {"atomic", "mark"}, {"atomic", "count"},
    {"ring", "latch"}, {"ring", "inbox"},     {"ring", "gate"},
    {"task", "node"},  {"pool", "container"}, {"module", "method"},
    {"admin", "chi_admin"}, {"bdev", "chi_bdev"},
};

/* Files that are part of a room with another name, and share its header. */
static const struct {
  const char *file, *room;
} parts[] = {
    {"client_task", "client"},
    {"client_link", "client"},
    {"admin_monitor", "admin"},
    {"admin_pool", "admin"},
    {"admin_move", "admin"},
    {"record_seam", "record"},
    {"worker_accept", "worker"},
    {"worker_io", "worker"},
    {"worker_look", "worker"},
    {"worker_sleep", "worker"},
    {"net_call", "net"},
    {"net_link", "net"},
    {"net_seat", "net"},
    {"net_depart", "net"},
    {"net_fold", "net"},
    {"net_record", "net"},
};

/* An environment (real_*, sim/) is driven by nobody and drives these; it may include them beside
 * the seam, what lies below the seam, and other rooms of the same environment. */
static const char *const driven_rooms[] = {"record",   "runtime", "client", "reader", "config",
                                           "hostfile", "fiber",   "attach", "cluster", "wire",
                                           "spin"};

/* Who may include something above itself, or on another side. */
static const struct {
  const char *from, *to;
} upward[] = {
    {"cluster", "sim_cluster"}, /* which kinds of clusters there are */
    {"cluster", "real_cluster"},
    {"real_cluster", "sim_plan"}, /* faults to come, as data */
};

/* Words that may not stay in a file; written in halves so that this file passes. */
static const char *const left_over[] = {"TO"
                                        "DO",
                                        "FIX"
                                        "ME",
                                        "XX"
                                        "X"};

/* ---- files and their tokens ------------------------------------------------------------------ */

/* kind: i identifier, n number, s string or character, # start of a directive, else the
 * punctuation itself. A directive's tokens are marked, up to its end. */
struct token {
  const char *text;
  int length, line;
  char kind;
  bool directive;
};

struct file {
  char *path, *base, *stem; /* sources/lane.h, lane.h, lane */
  char *text;
  size_t size;
  struct token *tokens;
  int count;
  int room; /* position in reading order; -1: not of sources/ or sim/ */
  bool header, included;
};

/* A name with file scope. space: t tag, o everything else. */
struct name {
  const struct file *file;
  const struct token *token;
  char space;
};

struct tidy {
  struct file *files;
  int file_count;
  struct name *names;
  int name_count;
  int found;
};

static void report(struct tidy *t, const struct file *f, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void report(struct tidy *t, const struct file *f, int line, const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  printf("%s:%d: ", f->path, line);
  vprintf(fmt, ap);
  putchar('\n');
  va_end(ap);
  t->found++;
}

/* Room for one more: arrays here double at powers of two. */
static void *grow(void *array, int count, size_t size)
{
  if (count & (count - 1))
    return array;
  array = realloc(array, (count ? (size_t)count * 2 : 1) * size);
  if (!array)
    exit(2);
  return array;
}

static bool starts(const char *text, const char *with)
{
  return strncmp(text, with, strlen(with)) == 0;
}

static bool is(const struct token *token, const char *text)
{
  return (size_t)token->length == strlen(text) && strncmp(token->text, text, strlen(text)) == 0;
}

static bool same(const struct token *a, const struct token *b)
{
  return a->length == b->length && strncmp(a->text, b->text, (size_t)a->length) == 0;
}

static const struct file *find(const struct tidy *t, const char *base)
{
  for (int i = 0; i < t->file_count; i++)
    if (t->files[i].room >= 0 && strcmp(t->files[i].base, base) == 0)
      return &t->files[i];
  return NULL;
}

static bool mentions(const struct file *f, const struct token *name)
{
  for (int i = 0; f && i < f->count; i++)
    if (f->tokens[i].kind == 'i' && same(&f->tokens[i], name))
      return true;
  return false;
}

static void load(struct file *f)
{
  FILE *in = fopen(f->path, "rb");
  if (!in || fseek(in, 0, SEEK_END) != 0) {
    fprintf(stderr, "tidy: %s: cannot be read\n", f->path);
    exit(2);
  }
  long size = ftell(in);
  rewind(in);
  f->text = calloc(1, (size_t)size + 1);
  if (size < 0 || !f->text || fread(f->text, 1, (size_t)size, in) != (size_t)size)
    exit(2);
  f->size = (size_t)size;
  fclose(in);
}

static void push_token(struct file *f, char kind, const char *text, const char *end, int line,
                       bool directive)
{
  f->tokens = grow(f->tokens, f->count, sizeof(*f->tokens));
  f->tokens[f->count++] = (struct token){text, (int)(end - text), line, kind, directive};
}

static bool is_word(char c)
{
  return isalnum((unsigned char)c) || c == '_';
}

/* The end of the comment or quoted text that starts at p, or p itself. */
static const char *skip_quoted(const char *p)
{
  if (starts(p, "//"))
    return p + strcspn(p, "\n");
  if (starts(p, "/*")) {
    const char *end = strstr(p + 2, "*/");
    return end ? end + 2 : p + strlen(p);
  }
  if (*p != '"' && *p != '\'')
    return p;
  const char *end = p + 1;
  while (*end && *end != *p && *end != '\n')
    end += *end == '\\' && end[1] ? 2 : 1;
  return *end == *p ? end + 1 : end;
}

static void lex(struct file *f)
{
  int line = 1;
  bool fresh = true, directive = false;
  for (const char *p = f->text, *end; *p; p = end) {
    end = skip_quoted(p);
    if (end > p && *p != '/') {
      push_token(f, 's', p, end, line, directive);
    } else if (end == p && is_word(*p)) {
      while (is_word(*end) || (isdigit((unsigned char)*p) && *end == '.'))
        end++;
      push_token(f, isdigit((unsigned char)*p) ? 'n' : 'i', p, end, line, directive);
    } else if (end == p) {
      end = p + 1;
      if (*p == '#' && fresh)
        directive = true;
      if (*p == '\n' && (p == f->text || p[-1] != '\\'))
        directive = false;
      if (!isspace((unsigned char)*p) && *p != '\\')
        push_token(f, *p, p, end, line, directive);
    }
    fresh = *p == '\n' || (fresh && isspace((unsigned char)*p));
    for (const char *q = p; q < end; q++)
      line += *q == '\n';
  }
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void check_line(struct tidy *t, const struct file *f, int line, const char *text, size_t n)
{
  size_t width = 0;
  for (size_t i = 0; i < n; i++)
    width += ((unsigned char)text[i] & 0xc0) != 0x80;
  if (width > LINE_LENGTH_MAX)
    report(t, f, line, "%zu characters, at most %d", width, LINE_LENGTH_MAX);
  if (memchr(text, '\t', n))
    report(t, f, line, "a tab");
  if (n > 0 && isspace((unsigned char)text[n - 1]))
    report(t, f, line, "white space at the end");
  for (size_t w = 0; w < COUNT(left_over); w++)
    for (size_t i = 0, length = strlen(left_over[w]); i + length <= n; i++)
      if (strncmp(text + i, left_over[w], length) == 0 && (i == 0 || !is_word(text[i - 1])) &&
          !is_word(text[i + length]))
        report(t, f, line, "%s left", left_over[w]);
}

static void check_lines(struct tidy *t, const struct file *f)
{
  int line = 0;
  const char *text = f->text, *end = f->text + f->size;
  for (const char *next; text < end; text = next + 1) {
    next = memchr(text, '\n', (size_t)(end - text));
    if (!next)
      next = end;
    check_line(t, f, ++line, text, (size_t)(next - text));
  }
  if (line > FILE_LINES_MAX)
    report(t, f, line, "%d lines, at most %d", line, FILE_LINES_MAX);
  if (f->size == 0 || end[-1] != '\n')
    report(t, f, line, "no newline at the end");
}

/* "name - what it is for" in the first line, after a script's interpreter. */
static void check_first_line(struct tidy *t, const struct file *f)
{
  const char *at = f->text;
  bool script = starts(at, "#!");
  if (script)
    at += strcspn(at, "\n") + 1;
  const char *open = strstr(f->path, ".c") || strstr(f->path, ".h") ? "/* " : "# ";
  if (script)
    open = "# ";
  size_t n = strlen(f->base);
  if (!starts(at, open) || !starts(at + strlen(open), f->base) ||
      !starts(at + strlen(open) + n, " - "))
    report(t, f, script ? 2 : 1, "does not begin with \"%s%s - what it is for\"", open, f->base);
}

/* ---- includes -------------------------------------------------------------------------------- */

static bool in_list(const char *const *list, size_t count, const char *text)
{
  for (size_t i = 0; i < count; i++)
    if (strcmp(list[i], text) == 0)
      return true;
  return false;
}

/* c core, r the real environment, s the simulated one. */
static char side(const struct file *f)
{
  return starts(f->path, "sim/") ? 's' : starts(f->base, "real_") ? 'r' : 'c';
}

static bool may_include(const struct tidy *t, const struct file *from, const struct file *to)
{
  static const char *const everywhere[] = {"chimaera", "base", "atomic"};
  for (size_t i = 0; i < COUNT(upward); i++)
    if (strcmp(upward[i].from, from->stem) == 0 && strcmp(upward[i].to, to->stem) == 0)
      return true;
  if (in_list(everywhere, COUNT(everywhere), to->stem) || to->room == from->room)
    return true;
  if (side(from) == side(to))
    return to->room > from->room;
  if (side(to) != 'c')
    return false;
  const struct file *seam = find(t, "env.h");
  return in_list(driven_rooms, COUNT(driven_rooms), to->stem) || !seam || to->room >= seam->room;
}

static void check_layer(struct tidy *t, const struct file *f, int line, const char *base)
{
  struct file *to = (struct file *)find(t, base);
  if (!to) {
    report(t, f, line, "includes \"%s\", which is not in the reading order", base);
    return;
  }
  to->included |= to->room != f->room || !f->header;
  if (!may_include(t, f, to))
    report(t, f, line, "includes \"%s\", which lies above it or on another side", base);
}

/* A .c file's own header comes first, then project headers, then system headers. All ways lead to
 * base.h, which is thus the first of all. */
static void check_includes(struct tidy *t, const struct file *f)
{
  char own[256], base[256];
  bool root = strcmp(f->base, "base.h") == 0 || strcmp(f->base, "chimaera.h") == 0;
  int count = 0, system_line = 0;
  snprintf(own, sizeof(own), "%s.h", f->stem);
  for (int i = 0; i + 2 < f->count && !root; i++) {
    const struct token *name = &f->tokens[i + 2];
    if (f->tokens[i].kind != '#' || !is(&f->tokens[i + 1], "include"))
      continue;
    if (name->kind != 's') {
      system_line = name->line;
      continue;
    }
    snprintf(base, sizeof(base), "%.*s", name->length - 2, name->text + 1);
    if (count++ == 0 && !f->header && find(t, own) && strcmp(base, own) != 0)
      report(t, f, name->line, "the first include is not \"%s\"", own);
    if (system_line > 0)
      report(t, f, name->line, "\"%s\" included after a system header", base);
    check_layer(t, f, name->line, base);
  }
  if (count == 0 && !root)
    report(t, f, 1, "includes no project header, so that base.h isn't the first");
}

static bool is_excused(const struct file *f, const char *name)
{
  for (size_t i = 0; i < COUNT(excused); i++)
    if (strcmp(excused[i].name, name) == 0 && strcmp(excused[i].room, f->stem) == 0)
      return true;
  return false;
}

/* ---- calls and macros ------------------------------------------------------------------------ */

static void check_calls(struct tidy *t, const struct file *f)
{
  bool atomics = in_list(atomic_rooms, COUNT(atomic_rooms), f->stem);
  for (int i = 0; i < f->count; i++) {
    const struct token *token = &f->tokens[i];
    if (token->kind != 'i')
      continue;
    if (!atomics && (starts(token->text, "__atomic") || starts(token->text, "__sync") ||
                     starts(token->text, "_Atomic") || starts(token->text, "atomic_")) &&
        !starts(token->text, "atomic_pause"))
      report(t, f, token->line, "%.*s: no atomic operations here", token->length, token->text);
    bool member = i > 0 && (f->tokens[i - 1].kind == '.' || f->tokens[i - 1].kind == '>');
    if (member || i + 1 == f->count || f->tokens[i + 1].kind != '(')
      continue;
    for (size_t b = 0; b < COUNT(banned); b++)
      if (is(token, banned[b].name) && !is_excused(f, banned[b].name))
        report(t, f, token->line, "%s: %s", banned[b].name, banned[b].why);
  }
}

static bool undefined_later(const struct file *f, int from)
{
  for (int i = from + 1; i + 1 < f->count; i++)
    if (f->tokens[i].directive && is(&f->tokens[i], "undef") &&
        same(&f->tokens[i + 1], &f->tokens[from]))
      return true;
  return false;
}

static void check_guard(struct tidy *t, const struct file *f)
{
  char guard[256], *to = guard;
  to += snprintf(guard, sizeof(guard), "%s", strcmp(f->stem, "chimaera") ? "CHI_" : "");
  for (const char *p = f->base; *p && to < guard + sizeof(guard) - 1; p++)
    *to++ = (char)(*p == '.' ? '_' : toupper((unsigned char)*p));
  *to = '\0';
  if (f->count < 3 || !is(&f->tokens[1], "ifndef") || !is(&f->tokens[2], guard))
    report(t, f, 1, "no include guard %s", guard);
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool has_noun(const struct token *name, const char *noun)
{
  size_t n = strlen(noun);
  if ((size_t)name->length < n || strncasecmp(name->text, noun, n) != 0)
    return false;
  return (size_t)name->length == n || name->text[n] == '_';
}

/* Does a name of this file begin with its noun, or is it one that the public header declares? */
static bool well_named(const struct tidy *t, const struct file *f, const struct token *name)
{
  if (strcmp(f->stem, "chimaera") == 0)
    return has_noun(name, "chi") || has_noun(name, "chimaera");
  if (has_noun(name, f->stem))
    return true;
  for (size_t i = 0; i < COUNT(more_nouns); i++)
    if (strcmp(more_nouns[i].room, f->stem) == 0 && has_noun(name, more_nouns[i].noun))
      return true;
  return has_noun(name, "chi") &&
         (mentions(find(t, "chimaera.h"), name) || mentions(find(t, "base.h"), name));
}

/* A name in one room may not look like one of a room with a longer name: sim_net_x is sim_net's. */
static void check_other_room(struct tidy *t, const struct file *f, const struct token *name)
{
  for (int i = 0; i < t->file_count; i++) {
    const struct file *other = &t->files[i];
    if (other->room >= 0 && strlen(other->stem) > strlen(f->stem) && has_noun(name, other->stem)) {
      report(t, f, name->line, "%.*s is named as if it were of %s", name->length, name->text,
             other->stem);
      return;
    }
  }
}

static void add_name(struct tidy *t, const struct file *f, const struct token *name, char space,
                     bool defined)
{
  if (!well_named(t, f, name))
    report(t, f, name->line, "%.*s does not begin with \"%s_\"", name->length, name->text,
           strcmp(f->stem, "chimaera") == 0 ? "chi" : f->stem);
  else
    check_other_room(t, f, name);
  if (!defined)
    return;
  t->names = grow(t->names, t->name_count, sizeof(*t->names));
  t->names[t->name_count++] = (struct name){f, name, space};
}

/* CHI_LANE_H, CHI_LANE_X: include guards, and what a build may set from outside. */
static bool is_switch(const struct file *f, const struct token *name)
{
  struct token rest = *name;
  rest.text += 4;
  rest.length -= 4;
  return starts(name->text, "CHI_") && has_noun(&rest, f->stem);
}

static void check_macros(struct tidy *t, const struct file *f)
{
  for (int i = 1; i + 1 < f->count; i++) {
    const struct token *name = &f->tokens[i + 1];
    if (f->tokens[i - 1].kind != '#' || !is(&f->tokens[i], "define"))
      continue;
    if (name->text[0] == '_') {
      if (strcmp(f->base, "base.h") != 0)
        report(t, f, name->line, "%.*s: feature macros are base.h's", name->length, name->text);
      continue;
    }
    bool ends = undefined_later(f, i + 1);
    if (!f->header && !ends)
      report(t, f, name->line, "%.*s is not undefined at the end", name->length, name->text);
    if (!is_switch(f, name))
      add_name(t, f, name, 'o', !ends);
  }
}

static void check_clashes(struct tidy *t)
{
  for (int i = 0; i < t->name_count; i++)
    for (int j = 0; j < i; j++) {
      const struct name *a = &t->names[i], *b = &t->names[j];
      if (a->space == b->space && a->file->room != b->file->room && same(a->token, b->token))
        report(t, a->file, a->token->line, "%.*s is also in %s", a->token->length, a->token->text,
               b->file->path);
    }
}

/* ---- declarations ---------------------------------------------------------------------------- */

/* A walk over what is declared with file scope, one declaration after the other. */
struct walk {
  struct tidy *t;
  const struct file *f;
  int at;
  const struct token *last, *name; /* the last identifier; the declared name, once it is known */
  bool is_static, is_private, is_typedef, is_function;
};

static const struct token *peek(const struct walk *w, int ahead)
{
  static const struct token none = {"", 0, 0, '\0', false};
  int at = w->at;
  for (; at < w->f->count; at++)
    if (!w->f->tokens[at].directive && ahead-- == 0)
      return &w->f->tokens[at];
  return &none;
}

static void step(struct walk *w)
{
  while (w->at < w->f->count && w->f->tokens[w->at].directive)
    w->at++;
  w->at += w->at < w->f->count;
}

/* Passes the bracketed group that begins here; returns the line of its end. */
static int pass_group(struct walk *w)
{
  int depth = 0, line = 0;
  do {
    const struct token *token = peek(w, 0);
    if (!token->kind)
      break;
    line = token->line;
    depth += token->kind == '(' || token->kind == '[' || token->kind == '{';
    depth -= token->kind == ')' || token->kind == ']' || token->kind == '}';
    step(w);
  } while (depth > 0);
  return line;
}

static void pass_body(struct walk *w, const struct token *name)
{
  int first = peek(w, 0)->line, last = pass_group(w);
  if (last - first + 1 > FUNCTION_LINES_MAX)
    report(w->t, w->f, first, "%.*s: %d lines, at most %d", name ? name->length : 0,
           name ? name->text : "", last - first + 1, FUNCTION_LINES_MAX);
}

static void declare(struct walk *w, const struct token *name, char space, bool defined)
{
  if (name && w->f->room >= 0)
    add_name(w->t, w->f, name, space, defined);
}

/* The constants between the braces of an enum. */
static void pass_enum(struct walk *w)
{
  step(w);
  while (peek(w, 0)->kind && peek(w, 0)->kind != '}') {
    if (peek(w, 0)->kind == 'i' && !(peek(w, 1)->kind == '('))
      declare(w, peek(w, 0), 'o', true);
    while (peek(w, 0)->kind && peek(w, 0)->kind != ',' && peek(w, 0)->kind != '}') {
      if (peek(w, 0)->kind == '(')
        pass_group(w);
      else
        step(w);
    }
    if (peek(w, 0)->kind == ',')
      step(w);
  }
  step(w);
}

/* struct, union or enum: the tag, and the body if there is one. */
static void pass_tagged(struct walk *w)
{
  bool constants = is(peek(w, 0), "enum");
  step(w);
  if (peek(w, 0)->kind == 'i') {
    if (peek(w, 1)->kind == '{')
      declare(w, peek(w, 0), 't', true);
    step(w);
  }
  if (peek(w, 0)->kind == '{' && constants)
    pass_enum(w);
  else if (peek(w, 0)->kind == '{')
    pass_group(w);
}

/* Parentheses at file scope: the parameters of a function, or a pointer to one. */
static void pass_parentheses(struct walk *w)
{
  if (peek(w, 1)->kind == '*' && !w->name) {
    while (peek(w, 0)->kind && peek(w, 0)->kind != ')' && peek(w, 0)->kind != '[') {
      if (peek(w, 0)->kind == 'i')
        w->name = peek(w, 0);
      step(w);
    }
    while (peek(w, 0)->kind == '[')
      pass_group(w);
    step(w);
  } else {
    w->is_function |= !w->name;
    if (!w->name)
      w->name = w->last;
  }
  if (peek(w, 0)->kind == '(')
    pass_group(w);
}

/* Linkage is written down: a function is static, CHI_PRIVATE (also by its header), or public. */
static void check_linkage(struct walk *w, bool body)
{
  const struct token *name = w->name;
  char own[256];
  if (w->f->room < 0 || !name || !w->is_function || w->is_typedef || w->is_static)
    return;
  if (strcmp(w->f->stem, "chimaera") == 0 || has_noun(name, "chi"))
    return;
  snprintf(own, sizeof(own), "%s.h", w->f->stem);
  if (!w->is_private && (w->f->header || !body || !mentions(find(w->t, own), name)))
    report(w->t, w->f, name->line, "%.*s is neither static nor CHI_PRIVATE", name->length,
           name->text);
  else if (!body && !w->f->header)
    report(w->t, w->f, name->line, "%.*s: its prototype belongs in a header", name->length,
           name->text);
}

/* TEST(name) { ... }, CHI_TASK(...), _Static_assert(...); at the begin of a declaration. */
static bool pass_macro_call(struct walk *w)
{
  const struct token *token = peek(w, 0);
  if (token->kind != 'i' || peek(w, 1)->kind != '(' || is(token, "__attribute__"))
    return false;
  step(w);
  pass_group(w);
  if (peek(w, 0)->kind == '{')
    pass_body(w, token);
  return true;
}

static void pass_word(struct walk *w)
{
  const struct token *token = peek(w, 0);
  if (is(token, "struct") || is(token, "union") || is(token, "enum")) {
    pass_tagged(w);
    return;
  }
  step(w);
  if (is(token, "__attribute__") || is(token, "_Alignas") || is(token, "__asm__"))
    pass_group(w);
  else if (is(token, "static"))
    w->is_static = true;
  else if (is(token, "CHI_INLINE"))
    w->is_static = true;
  else if (is(token, "CHI_PRIVATE"))
    w->is_private = true;
  else if (is(token, "typedef"))
    w->is_typedef = true;
  else if (!is(token, "const") && !is(token, "extern") && !is(token, "inline"))
    w->last = token;
}

/* One declaration, up to its semicolon or the end of its body. */
static void pass_declaration(struct walk *w)
{
  w->last = w->name = NULL;
  w->is_static = w->is_private = w->is_typedef = w->is_function = false;
  if (pass_macro_call(w))
    return;
  for (char kind; (kind = peek(w, 0)->kind) != '\0';) {
    bool body = kind == '{' && w->is_function, end = kind == ';' || body;
    const struct token *name = w->name ? w->name : w->last;
    if (end || kind == ',') {
      check_linkage(w, body);
      declare(w, name, 'o', !w->is_function || body);
      w->last = w->name = NULL;
    }
    if (body)
      pass_body(w, name);
    else if (kind == 'i')
      pass_word(w);
    else if (kind == '(')
      pass_parentheses(w);
    else if (kind == '[' || kind == '{') {
      w->name = name;
      pass_group(w);
    } else
      step(w);
    if (end)
      return;
    if (kind == '=')
      while (peek(w, 0)->kind && peek(w, 0)->kind != ';' && peek(w, 0)->kind != ',')
        pass_group(w);
  }
}

static void check_declarations(struct tidy *t, const struct file *f)
{
  struct walk w = {.t = t, .f = f};
  while (peek(&w, 0)->kind)
    pass_declaration(&w);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void add_file(struct tidy *t, const char *path)
{
  t->files = grow(t->files, t->file_count, sizeof(*t->files));
  struct file *f = &t->files[t->file_count];
  memset(f, 0, sizeof(*f));
  f->path = strdup(path);
  const char *base = strrchr(path, '/');
  f->base = strdup(base ? base + 1 : path);
  f->stem = strdup(f->base);
  if (!f->path || !f->base || !f->stem)
    exit(2);
  f->stem[strcspn(f->stem, ".")] = '\0';
  for (size_t i = 0; i < COUNT(parts); i++)
    if (strcmp(f->stem, parts[i].file) == 0)
      strcpy(f->stem, parts[i].room); /* always the shorter one */
  size_t n = strlen(path);
  f->header = n > 2 && strcmp(path + n - 2, ".h") == 0;
  f->room = starts(path, "sources/") || starts(path, "sim/") ? t->file_count : -1;
  for (int i = 0; i < t->file_count && f->room >= 0; i++)
    if (t->files[i].room >= 0 && strcmp(t->files[i].stem, f->stem) == 0)
      f->room = t->files[i].room;
  t->file_count++;
}

static bool is_c(const struct file *f)
{
  const char *dot = strrchr(f->base, '.');
  return dot && (strcmp(dot, ".c") == 0 || strcmp(dot, ".h") == 0);
}

static void check_file(struct tidy *t, struct file *f)
{
  check_lines(t, f);
  check_first_line(t, f);
  if (is_c(f))
    check_declarations(t, f);
  if (f->room < 0)
    return;
  check_includes(t, f);
  check_calls(t, f);
  check_macros(t, f);
  if (f->header)
    check_guard(t, f);
}

static void release(struct tidy *t)
{
  for (int i = 0; i < t->file_count; i++) {
    struct file *f = &t->files[i];
    free(f->path);
    free(f->base);
    free(f->stem);
    free(f->text);
    free(f->tokens);
  }
  free(t->files);
  free(t->names);
}

int main(void)
{
  struct tidy t = {0};
  char path[1024];
  while (fgets(path, sizeof(path), stdin)) {
    path[strcspn(path, "\n")] = '\0';
    add_file(&t, path);
  }
  for (int i = 0; i < t.file_count; i++) {
    load(&t.files[i]);
    if (is_c(&t.files[i]))
      lex(&t.files[i]);
  }
  for (int i = 0; i < t.file_count; i++)
    check_file(&t, &t.files[i]);
  for (int i = 0; i < t.file_count; i++) {
    const struct file *f = &t.files[i];
    if (f->room >= 0 && f->header && !f->included && strcmp(f->stem, "chimaera") != 0)
      report(&t, f, 1, "nobody includes it");
  }
  check_clashes(&t);
  int status = t.found > 0 || t.file_count == 0;
  if (t.file_count == 0)
    fprintf(stderr, "tidy: no files given\n");
  release(&t);
  return status;
}
