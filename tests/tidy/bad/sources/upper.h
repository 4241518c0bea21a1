/* upper.h - a clean header: nothing is found here. */
#ifndef CHI_UPPER_H
#define CHI_UPPER_H
#include "base.h"
#include "lower.h"
#define UPPER_MAX 3
#define CHI_UPPER_FAST 1
typedef int upper_call(int (*inner)(void), struct lower *l);
struct upper {
  int (*call)(int strcpy);
  struct lower *below, *above;
};
enum upper_state { UPPER_ON, UPPER_OFF = (1 << 2), UPPER_LOST };
CHI_PRIVATE int upper_open(struct upper *u, enum upper_state state)
    __attribute__((nonnull(1)));
static inline int upper_count(const struct upper *u)
{
  return u->call(UPPER_MAX);
}
#endif
