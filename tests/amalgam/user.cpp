/* user.cpp - the C++ unit, and the main function, of a stranger's program. */
#include "chimaera.h"

#include <cstring>

extern "C" const char *user_a(int code);
extern "C" const char *user_b(int code);

int main()
{
  bool same = std::strcmp(user_a(CHI_EINVAL), "CHI_EINVAL") == 0 &&
              std::strcmp(user_b(CHI_OK), chi_status_text(CHI_OK)) == 0;
  return same ? 0 : 1;
}
