/* upper.c - clean as well, with what could be mistaken for a fault. */
#include "upper.h"

#include <stdio.h>

#define UPPER_LOCAL(x) #x

/* sprintf(text) and atomic_get(p) in a comment are no calls. */
static const char *const upper_texts[] = {"strcat(a, b)", "a /* b", "\"{", UPPER_LOCAL(c)};
static int (*upper_pointer)(int a, int b);
static const struct upper upper_none = {.call = NULL}, *upper_first = &upper_none;

CHI_PRIVATE int upper_open(struct upper *u, enum upper_state state)
{
  char brace = '{', quote = '\'';
  return u->strcpy(brace) + state + quote + upper_pointer(0, 1) + !upper_texts[0] + !upper_first;
}

int chi_open(void)
{
  return CHI_OK;
}

#undef UPPER_LOCAL
