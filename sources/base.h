/* base.h - first include of every source file: feature macros, linkage, assertions. */
#ifndef CHI_BASE_H
#define CHI_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "chimaera.h"

/* Linkage of everything that is not public: static in the amalgamation, hidden otherwise.
 * With a part left out by CHI_OMIT_*, some helpers have no caller; that is not worth a warning. */
#ifndef CHI_PRIVATE
#ifndef CHI_AMALGAMATION
#define CHI_PRIVATE __attribute__((visibility("hidden")))
#elif defined(CHI_OMIT_REAL) || defined(CHI_OMIT_SIM)
#define CHI_PRIVATE static __attribute__((unused))
#else
#define CHI_PRIVATE static
#endif
#endif

/* An assertion states what the program itself guarantees; it stays on in release builds.
 * Input from outside is checked, never asserted. The failing text reaches standard error. */
CHI_PRIVATE void chi_assert_failed(const char *cond, const char *file, int line)
    __attribute__((noreturn));
#define CHI_ASSERT(cond)                                                                           \
  (__builtin_expect(!!(cond), 1) ? (void)0 : chi_assert_failed(#cond, __FILE__, __LINE__))

/* A small function in a header: not every file, nor every build, has a use for it. */
#define CHI_INLINE static inline __attribute__((unused))

/* A function that is not made part of its callers: what they do most of the time would suffer. */
#define CHI_APART __attribute__((noinline))

#define CHI_LIKELY(cond) __builtin_expect(!!(cond), 1)
#define CHI_UNLIKELY(cond) __builtin_expect(!!(cond), 0)
/* Brings a cache line near before it is needed: to be read, or to be written, for which it must be
 * taken from the other CPUs. Any address will do. */
#define CHI_FETCH(p) __builtin_prefetch(p)
#if defined(__x86_64__) /* without an option of their own the compilers fetch it for reading only */
#define CHI_FETCH_TO_WRITE(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define CHI_FETCH_TO_WRITE(p) __builtin_prefetch(p, 1)
#endif
#define CHI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CHI_CACHE_LINE 64
#define CHI_CONTAINER_OF(ptr, type, member)                                                        \
  ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
