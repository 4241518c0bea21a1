/* atomic.h - the only door to atomic operations. Those named atomic_ are for lane, ring, shm and
 * bell alone; marks, counts and tallies are for all.
 *
 * With CHI_INTERLEAVE every operation is a scheduling point: the interleaving test build runs
 * the parties of a protocol as co-operative threads and explores the orders in which they pass
 * these points. The point comes *before* the operation it belongs to. Stores wait there in a
 * buffer, as in a processor, until a fence, a read-modify-write or the explorer lets others see
 * them. */
#ifndef CHI_ATOMIC_H
#define CHI_ATOMIC_H

#include "base.h"

#ifdef CHI_INTERLEAVE
/* Provided by the test. */
enum chi_interleave_kind { CHI_INTERLEAVE_GET, CHI_INTERLEAVE_SET, CHI_INTERLEAVE_CHANGE };
void chi_interleave_point(const void *p, int kind, const char *file, int line);
void chi_interleave_set(void *p, const void *value, size_t size);
void chi_interleave_drain(void);
void chi_interleave_pause(void);
#define CHI_ATOMIC_POINT(p, kind)                                                                  \
  chi_interleave_point((p), CHI_INTERLEAVE_##kind, __FILE__, __LINE__)
#define CHI_ATOMIC_SET(p, v, order)                                                                \
  (CHI_ATOMIC_POINT(p, SET),                                                                       \
   chi_interleave_set((p), &(__typeof__(*(p))){(v)}, sizeof(*(p))))
#define CHI_ATOMIC_DRAIN(p) (CHI_ATOMIC_POINT(p, CHANGE), chi_interleave_drain())
#else
#define CHI_ATOMIC_POINT(p, kind) ((void)0)
#define CHI_ATOMIC_SET(p, v, order) __atomic_store_n((p), (v), (order))
#define CHI_ATOMIC_DRAIN(p) ((void)0)
#endif

/* Plain integers and pointers, accessed atomically: the public header must not need _Atomic. */
#define atomic_get(p) (CHI_ATOMIC_POINT(p, GET), __atomic_load_n((p), __ATOMIC_RELAXED))
#define atomic_get_acquire(p) (CHI_ATOMIC_POINT(p, GET), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define atomic_set(p, v) CHI_ATOMIC_SET(p, v, __ATOMIC_RELAXED)
#define atomic_set_release(p, v) CHI_ATOMIC_SET(p, v, __ATOMIC_RELEASE)
#define atomic_swap(p, v) (CHI_ATOMIC_DRAIN(p), __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL))
/* The same, and a full fence. */
#if defined(__x86_64__) || defined(__i386__)
#define atomic_swap_fenced(p, v)                                                                   \
  (CHI_ATOMIC_DRAIN(p), __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST))
#else
#define atomic_swap_fenced(p, v) (atomic_fence(), atomic_swap(p, v))
#endif
#define atomic_add(p, v) (CHI_ATOMIC_DRAIN(p), __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL))
/* On failure *expected receives the value found. */
#define atomic_cas(p, expected, v)                                                                 \
  (CHI_ATOMIC_DRAIN(p), __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL,     \
                                                    __ATOMIC_ACQUIRE))
/* Orders every earlier store before every later load: one half of a sleep/wake hand-shake. */
#define atomic_fence() (CHI_ATOMIC_DRAIN(NULL), __atomic_thread_fence(__ATOMIC_SEQ_CST))

CHI_INLINE void atomic_pause(void)
{
#ifdef CHI_INTERLEAVE
  chi_interleave_pause();
#elif defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* A word that somebody sets for others to see: what was written before is seen by who sees it. */
#define mark_get(p) atomic_get_acquire(p)
#define mark_set(p, v) atomic_set_release(p, v)
/* As mark_set, and before any later look at another word: one half of a hand-shake. */
#define mark_set_fenced(p, v) (mark_set(p, v), atomic_fence())
/* The mark was `from`, and is `to` now. False: it was something else, and is that still. */
#define mark_change(p, from, to) atomic_cas((p), &(__typeof__(*(p))){(from)}, (to))
/* A number that several change; the value before. */
#define count_add(p, n) atomic_add(p, n)

/* A figure that one thread counts and others read: no order is implied. */
CHI_INLINE void tally_add(uint64_t *t, uint64_t n)
{
  __atomic_store_n(t, __atomic_load_n(t, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
/* The same of one that several threads count. */
CHI_INLINE void tally_add_shared(uint64_t *t, uint64_t n)
{
  __atomic_fetch_add(t, n, __ATOMIC_RELAXED);
}
CHI_INLINE void tally_set(uint64_t *t, uint64_t n)
{
  __atomic_store_n(t, n, __ATOMIC_RELAXED);
}
CHI_INLINE uint64_t tally_get(const uint64_t *t)
{
  return __atomic_load_n(t, __ATOMIC_RELAXED);
}

#endif
