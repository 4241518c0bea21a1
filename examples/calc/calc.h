/* calc.h - what the module calc and its clients share: its tasks, each declared once. */
#include "chimaera.h"

#define CALC_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(calc_add, 10, CALC_ADD) /* struct calc_add, and all that is known about its fields */
