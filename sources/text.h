/* text.h - declared structs as text: reading fields, printing them, describing a module.
 *
 * Everything here is pure; any thread. The functions for users are in chimaera.h. */
#ifndef CHI_TEXT_H
#define CHI_TEXT_H

#include "base.h"

#define TEXT_DEPTH_MAX 4  /* structs within structs */
#define TEXT_NAME_MAX 128 /* a field's name with its NUL, in a path */

/* Prints what a module declares as one JSON object, in the form of docs/modules.md: the parameters
 * and methods with every field's place in the struct, so that a program which has never seen the
 * declarations can fill a task. CHI_EINVAL: structs nest deeper than TEXT_DEPTH_MAX; nothing was
 * printed. */
CHI_PRIVATE int text_describe(const chi_module *m, chi_put_fn *put, void *arg);

/* The spelling of an enum chi_kind; NULL for what is none. */
CHI_PRIVATE const char *text_kind_name(uint32_t kind);
/* Bytes of a scalar of this kind; 0 for str, object, array and what is none. */
CHI_PRIVATE uint32_t text_kind_size(uint32_t kind);

/* Prints a string, of which at most max bytes are looked at, in quotes as JSON. Malformed UTF-8
 * becomes U+FFFD. */
CHI_PRIVATE void text_put_string(const char *text, size_t max, chi_put_fn *put, void *arg);

#endif
