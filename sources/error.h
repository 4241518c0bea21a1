/* error.h - filling a chi_error. */
#ifndef CHI_ERROR_H
#define CHI_ERROR_H

#include "base.h"

/* Writes code and the formatted text into *err, cut to what fits and made one line: line breaks
 * become spaces and are dropped at the end. err may be NULL. Returns code. Any thread. */
CHI_PRIVATE int error_set(chi_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
