/* test_error.c - status codes, messages, failed assertions. */
#include "error.h"

#include "dies.h"
#include "test.h"

TEST(error_every_status_has_its_name_and_text)
{
#define ERROR_CHECK(name, code, text)                                                              \
  CHECK_INT(name, code);                                                                           \
  CHECK_STR(chi_status_name(code), #name);                                                         \
  CHECK_STR(chi_status_text(code), text);
  CHI_STATUS_TABLE(ERROR_CHECK)
#undef ERROR_CHECK
  CHECK_STR(chi_status_name(0), "CHI_OK");
  CHECK_STR(chi_status_text(-3), "busy: a queue or a reserve is full");
}

TEST(error_codes_outside_the_table_are_unknown)
{
  const int codes[] = {1, 10, -1000, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < CHI_COUNT(codes); i++) {
    CHECK_STR(chi_status_name(codes[i]), "unknown");
    CHECK_STR(chi_status_text(codes[i]), "unknown");
  }
}

TEST(error_set_formats_and_returns_the_code)
{
  chi_error err = {0};
  CHECK_INT(error_set(&err, CHI_ENOENT, "no pool \"%s\" on node %d", "x", 3), CHI_ENOENT);
  CHECK_INT(err.code, CHI_ENOENT);
  CHECK_STR(err.text, "no pool \"x\" on node 3");
  CHECK_INT(error_set(&err, 7, "%s", ""), 7);
  CHECK_INT(err.code, 7);
  CHECK_STR(err.text, "");
}

TEST(error_set_without_an_error_only_returns_the_code)
{
  CHECK_INT(error_set(NULL, CHI_EIO, "%s", "lost"), CHI_EIO);
}

TEST(error_set_makes_one_line)
{
  chi_error err;
  error_set(&err, CHI_EIO, "%s", "one\ntwo\r\nthree\n\r\n");
  CHECK_STR(err.text, "one two  three");
  error_set(&err, CHI_EIO, "%s", "\n\n");
  CHECK_STR(err.text, "");
}

TEST(error_set_cuts_what_does_not_fit)
{
  char longer[2 * sizeof(((chi_error *)0)->text)];
  chi_error err;
  memset(longer, 'x', sizeof(longer) - 1);
  longer[sizeof(longer) - 1] = '\0';
  error_set(&err, CHI_EIO, "%s", longer);
  CHECK_INT(strlen(err.text), sizeof(err.text) - 1);
  CHECK(memcmp(err.text, longer, sizeof(err.text) - 1) == 0);
}

static void error_false(void *arg)
{
  CHI_ASSERT(arg == NULL && "the moon is made of cheese");
}

static void error_endless(void *arg)
{
  chi_assert_failed(arg, "file.c", 12);
}

TEST(error_failed_assertion_aborts_with_one_line)
{
  char cond[2000];
  CHECK(dies(error_false, "", "the moon is made of cheese"));
  CHECK(dies(error_endless, "a > b", "chimaera: file.c:12: assertion failed: a > b\n"));
  memset(cond, 'c', sizeof(cond) - 1);
  cond[sizeof(cond) - 1] = '\0';
  CHECK(dies(error_endless, cond, "cccc\n"));
}

TEST(error_true_assertion_goes_on)
{
  int evaluated = 0;
  CHI_ASSERT(++evaluated);
  CHECK_INT(evaluated, 1);
}
