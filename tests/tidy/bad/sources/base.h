/* base.h - the first include of all. */
#ifndef CHI_BASE_H
#define CHI_BASE_H
#define _GNU_SOURCE 1
#include <stddef.h>
#include "chimaera.h"
#define CHI_PRIVATE static
#endif
