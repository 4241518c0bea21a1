/* syntax.h - whether a text is what it should be before it becomes part of another. */
#ifndef CHI_SYNTAX_H
#define CHI_SYNTAX_H

#include "base.h"

#define SYNTAX_DEPTH_MAX 16 /* of objects and arrays within each other */

/* The text is one JSON object and nothing else: well-formed UTF-8, pairs of \u escapes complete and
 * none of them NUL, so that every reader takes it. */
CHI_PRIVATE bool syntax_is_object(const char *text);

#endif
