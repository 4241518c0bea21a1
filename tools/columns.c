/* columns.c - a table on a terminal: as wide as its content, aligned, plain. */
#include "columns.h"

#include <stdarg.h>
#include <stdlib.h>

#include "utf8.h"

#define COLUMNS_MAX 24
#define COLUMNS_CELL_MAX 300

struct columns {
  char **cells; /* the titles are the first row */
  size_t used, room;
  int count;
  bool right[COLUMNS_MAX];
};

static void columns_keep(struct columns *c, const char *text)
{
  if (c->used == c->room) {
    c->room = c->room ? 2 * c->room : 64;
    c->cells = realloc(c->cells, c->room * sizeof(*c->cells));
  }
  if (c->cells)
    c->cells[c->used] = strdup(text);
  if (!c->cells || !c->cells[c->used]) {
    fprintf(stderr, "chimaera: out of memory\n");
    exit(1);
  }
  c->used++;
}

struct columns *columns_new(const char *titles)
{
  struct columns *c = calloc(1, sizeof(*c));
  if (!c) {
    fprintf(stderr, "chimaera: out of memory\n");
    exit(1);
  }
  while (*titles) {
    char title[COLUMNS_CELL_MAX];
    size_t size = strcspn(titles, " ");
    CHI_ASSERT(c->count < COLUMNS_MAX && size < sizeof(title));
    c->right[c->count++] = *titles == '>';
    snprintf(title, sizeof(title), "%.*s", (int)size, titles);
    for (char *p = title; *p; p++)
      *p = *p == '_' ? ' ' : *p;
    columns_keep(c, title + (*title == '>'));
    titles += size + (titles[size] == ' ');
  }
  return c;
}

void columns_cell(struct columns *c, const char *fmt, ...)
{
  char text[COLUMNS_CELL_MAX];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof(text), fmt, args);
  va_end(args);
  utf8_make_line(text);
  columns_keep(c, text);
}

/* Characters, each taken to be as wide as the others. */
static int columns_width(const char *text)
{
  int n = 0;
  for (; *text; text++)
    n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

static void columns_line(const struct columns *c, size_t row, const int *widths, FILE *out,
                         int indent)
{
  int blanks = indent; /* written only when something follows */
  for (int i = 0; i < c->count; i++) {
    const char *text = c->cells[row + (size_t)i];
    int width = columns_width(text);
    if (c->right[i])
      blanks += widths[i] - width;
    if (*text)
      fprintf(out, "%*s%s", blanks, "", text);
    blanks = *text ? 0 : blanks;
    blanks += 2 + (c->right[i] ? 0 : widths[i] - width);
  }
  fputc('\n', out);
}

void columns_end(struct columns *c, FILE *out, int indent)
{
  int widths[COLUMNS_MAX] = {0};
  while (c->used % (size_t)c->count != 0)
    columns_keep(c, "");
  for (size_t i = 0; i < c->used; i++) {
    int width = columns_width(c->cells[i]), *widest = &widths[i % (size_t)c->count];
    *widest = width > *widest ? width : *widest;
  }
  for (size_t row = 0; out && row < c->used; row += (size_t)c->count)
    columns_line(c, row, widths, out, indent);
  for (size_t i = 0; i < c->used; i++)
    free(c->cells[i]);
  free(c->cells);
  free(c);
}
