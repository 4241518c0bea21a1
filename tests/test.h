/* test.h - the whole test framework. A test file defines TEST(name) { ... } bodies; all test
 * files of one program link with tests/test_main.c, which runs them in order of name.
 * CHECK* record a failure and return from the test; they never abort the program. */
#ifndef CHI_TEST_H
#define CHI_TEST_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct test {
  const char *file, *name;
  void (*run)(void);
  struct test *next;
};
void test_register(struct test *t);
void test_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void test_skip(const char *why); /* marks the running test as skipped */
/* The same, and ends it at once: only where each test is a process of its own. */
void test_leave(const char *why) __attribute__((noreturn));
/* Why the tests of a file are skipped; NULL: they are not. NULL: none are. */
extern const char *(*test_excuse)(const char *file);

#define TEST(id)                                                                                   \
  static void test_body_##id(void);                                                                \
  __attribute__((constructor)) static void test_add_##id(void)                                     \
  {                                                                                                \
    static struct test t = {__FILE__, #id, test_body_##id, 0};                                     \
    test_register(&t);                                                                             \
  }                                                                                                \
  static void test_body_##id(void)

#define CHECK(cond)                                                                                \
  do {                                                                                             \
    if (!(cond)) {                                                                                 \
      test_fail(__FILE__, __LINE__, "%s", #cond);                                                  \
      return;                                                                                      \
    }                                                                                              \
  } while (0)
#define CHECK_INT(got, want)                                                                       \
  do {                                                                                             \
    long long test_g = (long long)(got), test_w = (long long)(want);                               \
    if (test_g != test_w) {                                                                        \
      test_fail(__FILE__, __LINE__, "%s is %lld, want %lld", #got, test_g, test_w);                \
      return;                                                                                      \
    }                                                                                              \
  } while (0)
#define CHECK_STR(got, want)                                                                       \
  do {                                                                                             \
    const char *test_g = (got), *test_w = (want);                                                  \
    if (!test_g || strcmp(test_g, test_w) != 0) {                                                  \
      test_fail(__FILE__, __LINE__, "%s is \"%s\", want \"%s\"", #got, test_g ? test_g : "(null)", \
                test_w);                                                                           \
      return;                                                                                      \
    }                                                                                              \
  } while (0)

#endif
