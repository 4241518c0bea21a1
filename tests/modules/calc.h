/* calc.h - the tasks of a module that behaves: shared by tests and the module. */
#ifndef TEST_CALC_H
#define TEST_CALC_H

#include "chimaera.h"

#define CALC_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(calc_add, 10, CALC_ADD)
/* A positive code of its own when it is divided by 0. */
#define CALC_DIVIDE(X, T) X(T, IN, i64, a) X(T, IN, i64, b) X(T, OUT, i64, quotient)
CHI_TASK(calc_divide, 11, CALC_DIVIDE)

#define CALC_ITEM(X, T) X(T, IN, u64, value) X(T, IN, str, name, 16)
CHI_STRUCT(calc_item, CALC_ITEM)
/* The sum of the values; the names one after the other. */
#define CALC_SUM(X, T)                                                                             \
  X(T, IN, array, items, calc_item, 8) X(T, IN, bool, twice) X(T, OUT, u64, sum)                   \
  X(T, OUT, str, names, 64)
CHI_TASK(calc_sum, 12, CALC_SUM)
/* Copies one buffer to another, adding `add` to every byte. */
#define CALC_SHIFT(X, T) X(T, IN, bulk, from) X(T, OUT, bulk, to) X(T, IN, u8, add)
CHI_TASK(calc_shift, 13, CALC_SHIFT)
/* Sleeps, then adds: a task that blocks. */
#define CALC_LATER(X, T) X(T, IN, u64, ns) X(T, IN, u64, a) X(T, OUT, u64, sum)
CHI_TASK(calc_later, 14, CALC_LATER)
/* Counts its runs in the state of the container. */
#define CALC_COUNT(X, T) X(T, OUT, u64, count)
CHI_TASK(calc_count, 15, CALC_COUNT)

#endif
