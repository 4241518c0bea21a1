/* test_units.c - counts, sizes and durations: exact, bounded, and the same there and back. */
#include "units.h"

#include "test.h"

#define CHECK_SIZE(text, want)                                                                     \
  do {                                                                                             \
    uint64_t size_got = 77;                                                                        \
    CHECK_INT(chi_parse_size(text, &size_got), CHI_OK);                                            \
    CHECK(size_got == (want));                                                                     \
  } while (0)
#define CHECK_NO_SIZE(text, code)                                                                  \
  do {                                                                                             \
    uint64_t size_got = 77;                                                                        \
    CHECK_INT(chi_parse_size(text, &size_got), code);                                              \
    CHECK(size_got == 77);                                                                         \
  } while (0)
#define CHECK_TIME(text, unit, want)                                                               \
  do {                                                                                             \
    uint64_t time_got = 77;                                                                        \
    CHECK_INT(chi_parse_duration(text, unit, &time_got), CHI_OK);                                  \
    CHECK(time_got == (want));                                                                     \
  } while (0)
#define CHECK_NO_TIME(text, unit, code)                                                            \
  do {                                                                                             \
    uint64_t time_got = 77;                                                                        \
    CHECK_INT(chi_parse_duration(text, unit, &time_got), code);                                    \
    CHECK(time_got == 77);                                                                         \
  } while (0)

static const uint64_t kib = 1024, ms = 1000000, second = 1000000000;

TEST(units_count)
{
  uint64_t got = 77;
  CHECK_INT(units_parse_count("0", &got), CHI_OK);
  CHECK_INT(got, 0);
  CHECK_INT(units_parse_count("007", &got), CHI_OK);
  CHECK_INT(got, 7);
  CHECK_INT(units_parse_count("18446744073709551615", &got), CHI_OK);
  CHECK(got == UINT64_MAX);
  got = 77;
  CHECK_INT(units_parse_count("18446744073709551616", &got), CHI_ERANGE);
  CHECK_INT(units_parse_count("", &got), CHI_EINVAL);
  CHECK_INT(units_parse_count("+1", &got), CHI_EINVAL);
  CHECK_INT(units_parse_count("-1", &got), CHI_EINVAL);
  CHECK_INT(units_parse_count("1 ", &got), CHI_EINVAL);
  CHECK_INT(units_parse_count("1.0", &got), CHI_EINVAL);
  CHECK_INT(units_parse_count("0x10", &got), CHI_EINVAL);
  CHECK_INT(got, 77);
}

TEST(units_size_plain)
{
  CHECK_SIZE("0", 0);
  CHECK_SIZE("1073741824", 1073741824);
  CHECK_SIZE("512B", 512);
  CHECK_SIZE("18446744073709551615", UINT64_MAX);
}

TEST(units_size_suffixes)
{
  CHECK_SIZE("64K", 64 * kib);
  CHECK_SIZE("64k", 64 * kib);
  CHECK_SIZE("64KB", 64 * kib);
  CHECK_SIZE("64kb", 64 * kib);
  CHECK_SIZE("64KiB", 64 * kib);
  CHECK_SIZE("64kIb", 64 * kib);
  CHECK_SIZE("512M", 512 * kib * kib);
  CHECK_SIZE("1G", kib * kib * kib);
  CHECK_SIZE("1GB", kib * kib * kib);
  CHECK_SIZE("2TiB", 2 * kib * kib * kib * kib);
}

TEST(units_size_fractions_are_exact)
{
  CHECK_SIZE("1.5g", 3 * kib * kib * kib / 2);
  CHECK_SIZE("0.5K", 512);
  CHECK_SIZE("2.5gb", 5 * kib * kib * kib / 2);
  CHECK_SIZE("1.3K", 1331); /* 1331.2 */
  CHECK_SIZE("1.999999999999999999999999999999K", 2047);
  /* 2^-40, in full: one byte of a tebibyte, where a double or a cut-off fraction gives none. */
  CHECK_SIZE("0.0000000000009094947017729282379150390625T", 1);
  CHECK_NO_SIZE("0.0000000000009094947017729282379150390624T", CHI_ERANGE);
  CHECK_SIZE("16777215.999999999999T", UINT64_MAX - 1);
  CHECK_SIZE("0.0G", 0);
}

TEST(units_size_too_large_or_small)
{
  CHECK_NO_SIZE("18446744073709551616", CHI_ERANGE);
  CHECK_NO_SIZE("99999999999999999999999999", CHI_ERANGE);
  CHECK_NO_SIZE("16777216T", CHI_ERANGE);
  CHECK_NO_SIZE("18446744073709551615K", CHI_ERANGE);
  CHECK_NO_SIZE("0.0001K", CHI_ERANGE);
}

TEST(units_size_refuses)
{
  static const char *const bad[] = {
      "",    " ",   "-1",  "-1G", "+1",  "inf",   "nan",    "1e9",      "0x10", "1,5G", "G",
      "KB",  ".5G", "1.G", "1.",  "1.5", "1.5B",  "1 G",    " 1G",      "1G ",  "1P",   "1GBs",
      "1iB", "1Gi", "1KK", "1bb", "1G1", "1_000", "1.5.5G", "\xc2\xb2", NULL,
  };
  for (size_t i = 0; bad[i]; i++)
    CHECK_NO_SIZE(bad[i], CHI_EINVAL);
  CHECK_NO_SIZE(NULL, CHI_EINVAL);
  CHECK_INT(chi_parse_size("1", NULL), CHI_EINVAL);
}

TEST(units_duration_in_own_unit)
{
  CHECK_TIME("30", second, 30 * second);
  CHECK_TIME("1000", ms, second);
  CHECK_TIME("0.5", second, 500 * ms);
  CHECK_TIME("0", ms, 0);
  CHECK_TIME("0.000000001", second, 1);
  CHECK_TIME("1.9999999999", second, 1999999999);
}

TEST(units_duration_with_unit)
{
  CHECK_TIME("7ns", second, 7);
  CHECK_TIME("250us", second, 250000);
  CHECK_TIME("1.5ms", second, 1500000);
  CHECK_TIME("2s", ms, 2 * second);
  CHECK_TIME("18446744073709551615ns", second, UINT64_MAX);
  CHECK_TIME("18446744073.709551615s", ms, UINT64_MAX);
}

TEST(units_duration_refuses)
{
  static const char *const bad[] = {"",    "-1", "-0.5s", "s",   "1 s", "1S", "1MS", "1m", "1h",
                                    "1ss", "1.", ".5",    "inf", "1e3", "1d", "1s ", "ms", NULL};
  for (size_t i = 0; bad[i]; i++)
    CHECK_NO_TIME(bad[i], second, CHI_EINVAL);
  CHECK_NO_TIME("18446744073709551616ns", second, CHI_ERANGE);
  CHECK_NO_TIME("18446744073.709551616", second, CHI_ERANGE);
  CHECK_NO_TIME("18446744074", second, CHI_ERANGE);
  CHECK_NO_TIME("0.1ns", second, CHI_ERANGE);
  CHECK_NO_TIME("1", 0, CHI_EINVAL);
  CHECK_NO_TIME("1", UINT64_MAX, CHI_EINVAL);
  CHECK_NO_TIME(NULL, second, CHI_EINVAL);
}

TEST(units_format)
{
  char buf[CHI_FORMAT_MAX];
  CHECK_STR(chi_format_size(0, buf, sizeof(buf)), "0");
  CHECK_STR(chi_format_size(1000, buf, sizeof(buf)), "1000");
  CHECK_STR(chi_format_size(1536 * kib * kib, buf, sizeof(buf)), "1536M");
  CHECK_STR(chi_format_size(kib * kib * kib, buf, sizeof(buf)), "1G");
  CHECK_STR(chi_format_size((uint64_t)1 << 63, buf, sizeof(buf)), "8388608T");
  CHECK_STR(chi_format_size(UINT64_MAX, buf, sizeof(buf)), "18446744073709551615");
  CHECK_STR(chi_format_duration(0, buf, sizeof(buf)), "0s");
  CHECK_STR(chi_format_duration(30 * second, buf, sizeof(buf)), "30s");
  CHECK_STR(chi_format_duration(1500 * ms, buf, sizeof(buf)), "1500ms");
  CHECK_STR(chi_format_duration(50000, buf, sizeof(buf)), "50us");
  CHECK_STR(chi_format_duration(UINT64_MAX, buf, sizeof(buf)), "18446744073709551615ns");
  CHECK_STR(chi_format_size(123456, buf, 4), "123");
}

TEST(units_there_and_back)
{
  uint64_t value = 1;
  char buf[CHI_FORMAT_MAX];
  for (int i = 0; i < 4096; i++) {
    uint64_t sample = value >> (i % 64);
    CHECK_SIZE(chi_format_size(sample, buf, sizeof(buf)), sample);
    CHECK_TIME(chi_format_duration(sample, buf, sizeof(buf)), ms, sample);
    value = value * 6364136223846793005u + 1442695040888963407u;
  }
}

TEST(units_parse_pool_ids)
{
  chi_pool_id id = {7, 8};
  CHECK_INT(units_parse_pool("4294967295.4294967295", &id), CHI_OK);
  CHECK(id.major == UINT32_MAX && id.minor == UINT32_MAX);
  CHECK_INT(units_parse_pool("00000000000000001.0", &id), CHI_EINVAL);
  CHECK_INT(units_parse_pool("1.4294967296", &id), CHI_ERANGE);
  CHECK_INT(units_parse_pool("", &id), CHI_EINVAL);
  CHECK(id.major == UINT32_MAX);
}
