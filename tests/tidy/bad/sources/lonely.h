/* lonely.h - a header that nobody includes. */
#ifndef CHI_LONELY_H
#define CHI_LONELY_H
#include "base.h"
#endif
