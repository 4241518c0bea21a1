/* columns.h - a table on a terminal: as wide as its content, aligned, plain. */
#ifndef CHI_TOOL_COLUMNS_H
#define CHI_TOOL_COLUMNS_H

#include "base.h"

#include <stdio.h>

struct columns;

/* Titles separated by spaces; one that begins with ">" heads a column that is aligned right, and
 * "_" stands for a space. Ends the program when memory runs out, as columns_cell does. */
struct columns *columns_new(const char *titles);
/* The next cell, row by row. Control characters become "?". */
void columns_cell(struct columns *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints the table, each line after `indent` spaces, and frees it; out NULL: only frees. */
void columns_end(struct columns *c, FILE *out, int indent);

#endif
