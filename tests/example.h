/* example.h - reads the bytes of an example out of a document, so that both stay the same. */
#ifndef CHI_EXAMPLE_H
#define CHI_EXAMPLE_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Two hexadecimal digits at `at`, as a byte; -1: there are none. */
static inline int example_byte(const char *at)
{
  static const char digits[] = "0123456789abcdef";
  const char *high = at[0] ? strchr(digits, at[0]) : NULL;
  const char *low = high && at[1] ? strchr(digits, at[1]) : NULL;
  return low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

/* The bytes at the beginning of each line of the fenced block below the line that holds `title` and
 * nothing else but '#'. A second space ends the bytes of a line. Returns how many; 0: no such
 * block, or no room. */
static inline size_t example_read(const char *path, const char *title, unsigned char *bytes,
                                  size_t room)
{
  char line[256];
  size_t size = 0;
  bool found = false, inside = false;
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f)) {
    const char *at = line + strspn(line, "# ");
    line[strcspn(line, "\n")] = '\0';
    if (!found) {
      found = line[0] == '#' && strcmp(at, title) == 0;
    } else if (strncmp(line, "```", 3) == 0) {
      if (inside)
        break;
      inside = true;
    } else if (inside) {
      int byte;
      for (at = line; (byte = example_byte(at)) >= 0 && size < room; at += 2 + (at[2] == ' '))
        bytes[size++] = (unsigned char)byte;
    }
  }
  if (f)
    fclose(f);
  return inside && size < room ? size : 0;
}

#endif
