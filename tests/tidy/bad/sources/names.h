/* names.h - names that don't begin with "names_", and a wrong include guard. */
#ifndef NAMES_H
#define NAMES_H
#include "base.h"
#define OTHER_MACRO 1
struct other_tag {
  int x;
};
enum names_kind { NAMES_A, OTHER_CONSTANT };
typedef int other_type;
typedef int (*other_pointer)(void);
typedef int other_function_type(int names);
CHI_PRIVATE int names_twice(void);
int names_linkage(void);
#endif
