/* lower.h - includes what lies above it. */
#ifndef CHI_LOWER_H
#define CHI_LOWER_H
#include "upper.h"
struct lower {
  int x;
};
#endif
