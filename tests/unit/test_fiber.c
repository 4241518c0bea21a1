/* test_fiber.c - the switch keeps what it must, in any order, under every tool that watches. */
#include "fiber.h"

#include "dies.h"
#include "test.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unwind.h>

enum { FIBER_STACK = 256 * 1024, FIBER_MANY = 1000 };

/* A host and some fibers that know of each other. */
struct fiber_set {
  struct fiber host;
  struct fiber f[4];
  char *stack[4];
  uint64_t count;
  char trace[64];
};

static void fiber_set_init(struct fiber_set *s, fiber_entry *const entry[4])
{
  memset(s, 0, sizeof(*s));
  fiber_init_host(&s->host);
  for (int i = 0; i < 4 && entry[i]; i++) {
    s->stack[i] =
        mmap(NULL, FIBER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->stack[i] == MAP_FAILED)
      abort();
    fiber_init(&s->f[i], s->stack[i], FIBER_STACK, entry[i], s);
  }
}

static void fiber_set_fini(struct fiber_set *s)
{
  for (int i = 0; i < 4 && s->stack[i]; i++) {
    fiber_fini(&s->f[i]);
    munmap(s->stack[i], FIBER_STACK);
  }
  fiber_fini(&s->host);
}

static void fiber_note(struct fiber_set *s, char c)
{
  s->trace[strlen(s->trace)] = c;
}

/* ---- what is kept ------------------------------------------------------------------------ */

#ifdef __x86_64__

/* Puts six values made from seed into the registers that a call must keep, switches, and returns
 * how many of them came back changed. */
#ifdef __clang__
__attribute__((naked, noinline))
#else
__attribute__((naked, noipa))
#endif
__attribute__((no_stack_protector, no_instrument_function, no_profile_instrument_function))
__attribute__((no_sanitize("address", "thread", "undefined"))) static uint64_t
fiber_kept(struct fiber *from __attribute__((unused)), struct fiber *to __attribute__((unused)),
           void (*change)(struct fiber *, struct fiber *) __attribute__((unused)),
           uint64_t seed __attribute__((unused)))
{
  __asm__("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n push %rcx\n"
          "lea 1(%rcx), %rbp\n lea 2(%rcx), %rbx\n lea 3(%rcx), %r12\n"
          "lea 4(%rcx), %r13\n lea 5(%rcx), %r14\n lea 6(%rcx), %r15\n"
          "call *%rdx\n"
          "pop %rcx\n xor %eax, %eax\n"
          "sub $1, %rbp\n cmp %rcx, %rbp\n je 1f\n inc %rax\n 1:\n"
          "sub $2, %rbx\n cmp %rcx, %rbx\n je 2f\n inc %rax\n 2:\n"
          "sub $3, %r12\n cmp %rcx, %r12\n je 3f\n inc %rax\n 3:\n"
          "sub $4, %r13\n cmp %rcx, %r13\n je 4f\n inc %rax\n 4:\n"
          "sub $5, %r14\n cmp %rcx, %r14\n je 5f\n inc %rax\n 5:\n"
          "sub $6, %r15\n cmp %rcx, %r15\n je 6f\n inc %rax\n 6:\n"
          "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
          "ret");
}

static void fiber_set_modes(uint32_t mxcsr, uint16_t x87)
{
  __asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(x87));
}

static uint32_t fiber_get_modes(void)
{
  uint32_t mxcsr;
  uint16_t x87;
  __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87));
  return (mxcsr & 0xffc0) << 16 | x87;
}

static void fiber_pong(void *arg)
{
  struct fiber_set *s = arg;
  uint64_t seed = 0x1111111111111111u;
  for (;; seed += 0x0101010101010101u)
    s->count += fiber_kept(&s->f[0], &s->host, fiber_switch, seed);
}

TEST(fiber_keeps_registers_over_a_million_switches)
{
  static struct fiber_set s;
  uint64_t changed = 0;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_pong});
  for (uint64_t i = 0; i < 500000; i++)
    changed += fiber_kept(&s.host, &s.f[0], fiber_switch, ~i * 0x0123456789abcdefu);
  CHECK_INT(changed, 0);
  CHECK_INT(s.count, 0);
  fiber_set_fini(&s);
}

static void fiber_rounds_up(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    s->count = fiber_get_modes();
    fiber_set_modes(0x1f80 | 0x4000, 0x037f | 0x0800);
    fiber_switch(&s->f[0], &s->host);
  }
}

TEST(fiber_keeps_floating_point_modes)
{
  const uint32_t normal = 0x1f80u << 16 | 0x037f, down = 0x3f80u << 16 | 0x077f;
  static struct fiber_set s;
  uint32_t after[3];
  fiber_set_modes(0x3f80, 0x077f);
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_rounds_up});
  fiber_set_modes(0x1f80, 0x037f);
  fiber_switch(&s.host, &s.f[0]);
  after[0] = fiber_get_modes();
  CHECK_INT(s.count, down); /* those of fiber_init */
  fiber_switch(&s.host, &s.f[0]);
  after[1] = fiber_get_modes();
  CHECK_INT(s.count, 0x5f80u << 16 | 0x0b7f);
  fiber_set_modes(0x3f80, 0x077f);
  fiber_switch(&s.host, &s.f[0]);
  after[2] = fiber_get_modes();
  fiber_set_modes(0x1f80, 0x037f);
  CHECK_INT(after[0], normal);
  CHECK_INT(after[1], normal);
  CHECK_INT(after[2], down);
  fiber_set_fini(&s);
}

static void fiber_looks_at_alignment(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    volatile char aligned __attribute__((aligned(64))) = 0;
    __attribute__((aligned(16))) volatile float v[4] = {1, 2, 3, 4};
    s->count =
        (uintptr_t)__builtin_frame_address(0) % 16 + (uintptr_t)&aligned % 64 + (uintptr_t)v % 16;
    fiber_switch(&s->f[0], &s->host);
  }
}

TEST(fiber_stack_is_aligned_whatever_its_size)
{
  static struct fiber_set s;
  for (size_t less = 0; less < 64; less += 7) {
    fiber_set_init(&s, (fiber_entry *const[4]){fiber_looks_at_alignment});
    fiber_fini(&s.f[0]);
    fiber_init(&s.f[0], s.stack[0] + less, FIBER_STACK - 2 * less - 1, fiber_looks_at_alignment,
               &s);
    s.count = 1;
    fiber_switch(&s.host, &s.f[0]);
    CHECK_INT(s.count, 0);
    fiber_set_fini(&s);
  }
}

#endif

static void fiber_sums(void *arg)
{
  struct fiber_set *s = arg;
  volatile double kept = 0.5;
  uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
  for (;;) {
    fiber_switch(&s->f[0], &s->host);
    a += 1, b += a, c += b, d += c, e += d, f += e, g += f, h += g;
    kept += 1;
    s->count = h + (uint64_t)kept;
  }
}

TEST(fiber_keeps_locals)
{
  static struct fiber_set s;
  uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_sums});
  fiber_switch(&s.host, &s.f[0]);
  for (uint64_t i = 1; i < 1000; i++) {
    fiber_switch(&s.host, &s.f[0]);
    a += 1, b += a, c += b, d += c, e += d, f += e, g += f, h += g;
    CHECK_INT(s.count, h + i);
  }
  fiber_set_fini(&s);
}

/* ---- order ------------------------------------------------------------------------------- */

static void fiber_a(void *arg)
{
  struct fiber_set *s = arg;
  fiber_note(s, 'a');
  fiber_switch(&s->f[0], &s->f[1]);
  fiber_note(s, 'A');
  fiber_switch(&s->f[0], &s->host);
  fiber_note(s, '1');
  fiber_switch(&s->f[0], &s->f[2]);
  abort();
}

static void fiber_b(void *arg)
{
  struct fiber_set *s = arg;
  fiber_note(s, 'b');
  fiber_switch(&s->f[1], &s->f[2]);
  fiber_note(s, 'B');
  fiber_switch(&s->f[1], &s->f[0]);
  abort();
}

static void fiber_c(void *arg)
{
  struct fiber_set *s = arg;
  fiber_note(s, 'c');
  fiber_switch(&s->f[2], &s->host);
  fiber_note(s, 'C');
  fiber_switch(&s->f[2], &s->f[1]);
  fiber_note(s, '3');
  fiber_switch(&s->f[2], &s->host);
  abort();
}

TEST(fiber_order_is_free)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_a, fiber_b, fiber_c});
  fiber_switch(&s.host, &s.f[0]);
  fiber_note(&s, '-');
  fiber_switch(&s.host, &s.f[2]);
  fiber_note(&s, '-');
  fiber_switch(&s.host, &s.f[0]);
  CHECK_STR(s.trace, "abc-CBA-13");
  fiber_set_fini(&s);
}

struct fiber_ring {
  struct fiber host, f[FIBER_MANY];
  uint32_t order[FIBER_MANY * 3], count;
} fiber_ring_all;

/* Each hands on to the next, the last one to the host. */
static void fiber_ring_member(void *arg)
{
  struct fiber_ring *r = &fiber_ring_all;
  struct fiber *self = arg;
  uint32_t me = (uint32_t)(self - r->f);
  for (;;) {
    r->order[r->count++] = me;
    fiber_switch(self, me + 1 < FIBER_MANY ? self + 1 : &r->host);
  }
}

TEST(fiber_many)
{
  struct fiber_ring *r = &fiber_ring_all;
  const size_t size = 32 * 1024;
  char *stacks = malloc(FIBER_MANY * size);
  memset(r, 0, sizeof(*r));
  fiber_init_host(&r->host);
  for (size_t i = 0; i < FIBER_MANY; i++)
    fiber_init(&r->f[i], stacks + i * size, size - i % 32 * CHI_CACHE_LINE, fiber_ring_member,
               &r->f[i]);
  for (int lap = 0; lap < 3; lap++)
    fiber_switch(&r->host, &r->f[0]);
  CHECK_INT(r->count, 3 * FIBER_MANY);
  for (uint32_t i = 0; i < r->count; i++)
    CHECK_INT(r->order[i], i % FIBER_MANY);
  for (size_t i = 0; i < FIBER_MANY; i++)
    fiber_fini(&r->f[i]);
  free(stacks);
}

/* A fiber is dropped in the middle of a deep frame and its stack is used again, many times. */
static __attribute__((noinline)) void fiber_deeper(struct fiber_set *s, int levels)
{
  volatile char local[100];
  memset((char *)local, levels, sizeof(local));
  if (levels > 0)
    fiber_deeper(s, levels - 1);
  else
    fiber_switch(&s->f[0], &s->host);
  s->count += (uint64_t)local[sizeof(local) - 1];
}

static void fiber_goes_deep(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    fiber_deeper(s, 100);
    fiber_switch(&s->f[0], &s->host);
  }
}

TEST(fiber_stack_is_used_again)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_goes_deep});
  for (int i = 0; i < 300; i++) {
    s.count = 0;
    fiber_switch(&s.host, &s.f[0]); /* at the bottom of the recursion */
    CHECK_INT(s.count, 0);
    if (i % 2) {
      fiber_switch(&s.host, &s.f[0]);
      CHECK_INT(s.count, 100 * 101 / 2);
    }
    fiber_fini(&s.f[0]);
    memset(s.stack[0], 0xa5, FIBER_STACK);
    fiber_init(&s.f[0], s.stack[0], FIBER_STACK, fiber_goes_deep, &s);
  }
  fiber_set_fini(&s); /* of one that never ran */
}

static __attribute__((noinline)) uint64_t fiber_recurse(uint64_t n)
{
  volatile uint64_t kept = n;
  if (n == 0)
    return 0;
  return fiber_recurse(n - 1) + kept;
}

static void fiber_recurses(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    s->count = fiber_recurse(s->count);
    fiber_switch(&s->f[0], &s->host);
  }
}

TEST(fiber_recursion_uses_the_whole_stack)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_recurses});
  s.count = 1000;
  fiber_switch(&s.host, &s.f[0]);
  CHECK_INT(s.count, 1000 * 1001 / 2);
  fiber_set_fini(&s);
}

/* The sanitizers follow a jump within a fiber only if they know on which stack they are. */
static void fiber_jumps(void *arg)
{
  struct fiber_set *s = arg;
  jmp_buf env;
  for (;;) {
    if (setjmp(env) == 0) {
      volatile char local[200];
      memset((char *)local, 1, sizeof(local));
      fiber_switch(&s->f[0], &s->host);
      longjmp(env, local[7]);
    }
    s->count++;
    fiber_deeper(s, 10);
  }
}

TEST(fiber_jumps_within_itself)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_jumps});
  fiber_switch(&s.host, &s.f[0]);
  fiber_switch(&s.host, &s.f[0]);
  CHECK_INT(s.count, 1);
  fiber_switch(&s.host, &s.f[0]);
  CHECK_INT(s.count, 1 + 10 * 11 / 2);
  fiber_set_fini(&s);
}

/* ---- threads ----------------------------------------------------------------------------- */

static void fiber_counts(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    s->count++;
    fiber_switch(&s->f[0], &s->host);
  }
}

static void fiber_counts_twice(void *arg)
{
  struct fiber_set *s = arg;
  for (;;) {
    s->count += 2;
    fiber_switch(&s->f[1], &s->f[0]);
  }
}

static void *fiber_thread(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_counts, fiber_counts_twice});
  for (int i = 0; i < 10000; i++)
    fiber_switch(&s->host, &s->f[1]);
  return NULL;
}

TEST(fiber_threads_have_their_own)
{
  static struct fiber_set s[2];
  pthread_t thread[2];
  for (int i = 0; i < 2; i++)
    CHECK(pthread_create(&thread[i], NULL, fiber_thread, &s[i]) == 0);
  for (int i = 0; i < 2; i++)
    CHECK(pthread_join(thread[i], NULL) == 0);
  for (int i = 0; i < 2; i++) {
    CHECK_INT(s[i].count, 30000);
    fiber_set_fini(&s[i]); /* by another thread */
  }
}

static void *fiber_first_run(void *arg)
{
  struct fiber_set *s = arg;
  fiber_init_host(&s->host);
  for (int i = 0; i < 10; i++)
    fiber_switch(&s->host, &s->f[0]);
  return NULL;
}

TEST(fiber_made_here_first_run_there)
{
  static struct fiber_set s;
  pthread_t thread;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_counts});
  CHECK(pthread_create(&thread, NULL, fiber_first_run, &s) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK_INT(s.count, 10);
  fiber_set_fini(&s);
}

/* ---- bounds and the bottom --------------------------------------------------------------- */

TEST(fiber_holds_its_stack_and_the_guard_below)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_counts});
  CHECK(fiber_holds(&s.f[0], s.stack[0]));
  CHECK(fiber_holds(&s.f[0], s.stack[0] + FIBER_STACK - 1));
  CHECK(!fiber_holds(&s.f[0], s.stack[0] + FIBER_STACK));
  CHECK(fiber_holds(&s.f[0], (char *)((uintptr_t)s.stack[0] - 1)));
  CHECK(fiber_holds(&s.f[0], (char *)((uintptr_t)s.stack[0] - FIBER_GUARD_SIZE)));
  CHECK(!fiber_holds(&s.f[0], (char *)((uintptr_t)s.stack[0] - FIBER_GUARD_SIZE - 1)));
  CHECK(!fiber_holds(&s.f[0], NULL));
  fiber_switch(&s.host, &s.f[0]);
  CHECK(!fiber_holds(&s.host, __builtin_frame_address(0)));
  CHECK(!fiber_holds(&s.host, NULL));
  fiber_set_fini(&s);
}

static _Unwind_Reason_Code fiber_count_frame(struct _Unwind_Context *context, void *arg)
{
  int *frames = arg;
  (void)context;
  return ++*frames < 1000 ? _URC_NO_REASON : _URC_NORMAL_STOP;
}

static void fiber_unwinds(void *arg)
{
  struct fiber_set *s = arg;
  int frames = 0;
  for (;;) {
    s->count = (uint64_t)_Unwind_Backtrace(fiber_count_frame, &frames) << 32 | (unsigned)frames;
    fiber_switch(&s->f[0], &s->host);
  }
}

TEST(fiber_unwinding_ends_at_its_bottom)
{
  static struct fiber_set s;
  fiber_set_init(&s, (fiber_entry *const[4]){fiber_unwinds});
  fiber_switch(&s.host, &s.f[0]);
  CHECK_INT(s.count >> 32, _URC_END_OF_STACK);
  CHECK((uint32_t)s.count >= 2 && (uint32_t)s.count < 8);
  fiber_set_fini(&s);
}

/* ---- misuse ------------------------------------------------------------------------------ */

static void fiber_returns(void *arg)
{
  (void)arg;
}

static void fiber_die_return(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_returns});
  fiber_switch(&s->host, &s->f[0]);
}

static void fiber_die_self(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_counts});
  fiber_switch(&s->host, &s->host);
}

static void fiber_die_not_running(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_counts, fiber_counts_twice});
  fiber_switch(&s->f[0], &s->f[1]);
}

static void fiber_die_finished(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_counts});
  fiber_fini(&s->f[0]);
  fiber_switch(&s->host, &s->f[0]);
}

static void fiber_finishes_itself(void *arg)
{
  struct fiber_set *s = arg;
  fiber_fini(&s->f[0]);
}

static void fiber_die_fini_running(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_finishes_itself});
  fiber_switch(&s->host, &s->f[0]);
}

static void fiber_die_small_stack(void *arg)
{
  static char stack[FIBER_STACK_MIN];
  struct fiber_set *s = arg;
  fiber_init(&s->f[0], stack, sizeof(stack) - 1, fiber_counts, s);
}

TEST(fiber_misuse_is_caught)
{
  static struct fiber_set s;
  CHECK(dies(fiber_die_return, &s, "the entry of a fiber never returns"));
  CHECK(dies(fiber_die_self, &s, "assertion failed: to->sp"));
  CHECK(dies(fiber_die_not_running, &s, "assertion failed: !from->sp"));
  CHECK(dies(fiber_die_finished, &s, "assertion failed: to->sp"));
  CHECK(dies(fiber_die_fini_running, &s, "assertion failed: f->sp"));
  CHECK(dies(fiber_die_small_stack, &s, "assertion failed: size >="));
}

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_TEST_ASAN 1
#endif
#endif

#ifdef FIBER_TEST_ASAN
static void fiber_overruns_an_array(void *arg)
{
  struct fiber_set *s = arg;
  char local[16] = {0};
  char *volatile at = local; /* UBSan mustn't see it */
  at[sizeof(local)] = 1;
  s->count = (uint64_t)local[0];
  fiber_switch(&s->f[0], &s->host);
  abort();
}

static void fiber_die_array(void *arg)
{
  struct fiber_set *s = arg;
  fiber_set_init(s, (fiber_entry *const[4]){fiber_overruns_an_array});
  fiber_switch(&s->host, &s->f[0]);
}

TEST(fiber_address_sanitizer_sees_into_it)
{
  static struct fiber_set s;
  CHECK(dies(fiber_die_array, &s, "in frame"));
  CHECK(dies(fiber_die_array, &s, "stack-buffer-overflow"));
}
#endif
