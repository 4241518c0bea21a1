/* fuzz_units.c - any text as count, size and duration; what is read comes back when written. */
#include "units.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void units_there_and_back(uint64_t value, uint64_t unit)
{
  char buf[CHI_FORMAT_MAX];
  uint64_t again = ~value;
  if (chi_parse_size(chi_format_size(value, buf, sizeof(buf)), &again) || again != value)
    abort();
  again = ~value;
  if (chi_parse_duration(chi_format_duration(value, buf, sizeof(buf)), unit, &again) ||
      again != value)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const uint64_t units[] = {1, 1000, 1000000, 1000000000};
  char *text = malloc(size + 1);
  uint64_t value = 0, count = 0;
  if (!text)
    return 0;
  memcpy(text, data, size);
  text[size] = '\0';
  if (chi_parse_size(text, &value) == CHI_OK)
    units_there_and_back(value, 1);
  if (units_parse_count(text, &count) == CHI_OK &&
      (chi_parse_size(text, &value) != CHI_OK || value != count))
    abort();
  for (size_t i = 0; i < CHI_COUNT(units); i++) {
    if (chi_parse_duration(text, units[i], &value) == CHI_OK)
      units_there_and_back(value, units[i]);
  }
  free(text);
  return 0;
}
