/* fiber.c - the context switch, and what sanitizers, valgrind and debuggers need to follow it. */
#include "fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#elif __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define FIBER_VALGRIND 1
#endif
#endif

/* ---- the tools that watch ---------------------------------------------------------------- */

static void fiber_tools_init(struct fiber *f)
{
#ifdef FIBER_ASAN
  __asan_unpoison_memory_region(f->stack, f->size);
#endif
#ifdef FIBER_TSAN
  f->tsan = __tsan_create_fiber(0);
#endif
#ifdef FIBER_VALGRIND
  f->valgrind = VALGRIND_STACK_REGISTER(f->stack, (const char *)f->stack + f->size);
#endif
  (void)f;
}

/* Last thing before the switch, still on the stack of *from. This and fiber_swap are inlined: from
 * here on ThreadSanitizer books calls and returns on the other fiber. */
__attribute__((always_inline)) static inline void fiber_tools_leave(struct fiber *from,
                                                                    struct fiber *to)
{
#ifdef FIBER_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->size);
#endif
#ifdef FIBER_TSAN
  __tsan_switch_to_fiber(to->tsan, 0);
#endif
  (void)from, (void)to;
}

/* First thing after the switch, on the stack of *self. The bounds that come out are those of the
 * stack just left: nothing new about a fiber, but the only way to learn those of a host. */
static inline void fiber_tools_arrive(struct fiber *self)
{
#ifdef FIBER_ASAN
  __sanitizer_finish_switch_fiber(self->fake_stack, &self->previous->stack, &self->previous->size);
#endif
  (void)self;
}

#ifdef FIBER_ASAN
/* Only the running fiber's fake stack can be released: so *f is made to run for an instant, as far
 * as the sanitizer knows. Nothing in between may be instrumented. */
__attribute__((no_sanitize_address)) static void fiber_asan_fini(struct fiber *f)
{
  void *fake_stack;
  const void *stack;
  size_t size;
  if (f->fake_stack) {
    __sanitizer_start_switch_fiber(&fake_stack, f->stack, f->size);
    __sanitizer_finish_switch_fiber(f->fake_stack, &stack, &size);
    __sanitizer_start_switch_fiber(NULL, stack, size);
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
  }
  __asan_unpoison_memory_region(f->stack, f->size);
}
#endif

static void fiber_tools_fini(struct fiber *f)
{
#ifdef FIBER_ASAN
  fiber_asan_fini(f);
#endif
#ifdef FIBER_TSAN
  __tsan_destroy_fiber(f->tsan);
#endif
#ifdef FIBER_VALGRIND
  VALGRIND_STACK_DEREGISTER(f->valgrind);
  (void)VALGRIND_MAKE_MEM_UNDEFINED(f->stack, f->size); /* else what lay below sp is forbidden */
#endif
  (void)f;
}

/* ---- the switch -------------------------------------------------------------------------- */

/* Where every fiber begins. */
static void fiber_main(struct fiber *f)
{
  fiber_tools_arrive(f);
  f->entry(f->arg);
  CHI_ASSERT(!"the entry of a fiber never returns");
}

#ifdef CHI_FIBER_UCONTEXT

/* makecontext passes only ints: the address comes in two halves. */
static void fiber_begin(unsigned high, unsigned low)
{
  fiber_main((struct fiber *)(uintptr_t)((uint64_t)high << 32 | low));
}

static void *fiber_prepare(struct fiber *f)
{
  uint64_t self = (uintptr_t)f;
  int rc = getcontext(&f->context);
  CHI_ASSERT(rc == 0);
  f->context.uc_stack.ss_sp = (void *)(uintptr_t)f->stack;
  f->context.uc_stack.ss_size = f->size;
  f->context.uc_link = NULL;
  makecontext(&f->context, (void (*)(void))fiber_begin, 2, (unsigned)(self >> 32), (unsigned)self);
  return f;
}

__attribute__((always_inline)) static inline void fiber_swap(struct fiber *from, struct fiber *to)
{
  int rc;
  from->sp = from;
  to->sp = NULL;
  rc = swapcontext(&from->context, &to->context);
  CHI_ASSERT(rc == 0);
}

static void fiber_check_thread(void)
{
}

#else

/* Naked, so that no compiler flag adds a prologue; no instrumentation, so that none adds a call;
 * and not looked into, because its body doesn't show what it does to registers. */
#ifdef __clang__
#define FIBER_NAKED                                                                                \
  __attribute__((naked, noinline, no_stack_protector, no_instrument_function,                      \
                 no_profile_instrument_function,                                                   \
                 no_sanitize("address", "thread", "undefined", "coverage")))
#else
#define FIBER_NAKED                                                                                \
  __attribute__((naked, noipa, no_stack_protector, no_instrument_function,                         \
                 no_profile_instrument_function, no_sanitize("address", "thread", "undefined")))
#endif
/* One instruction, and what it means to whoever unwinds the stack. */
#ifdef __GCC_HAVE_DWARF2_CFI_ASM
#define FIBER_ASM(text, cfi) __asm__(text "\n" cfi)
#else
#define FIBER_ASM(text, cfi) __asm__(text)
#endif
#define FIBER_PUSH(reg)                                                                            \
  FIBER_ASM("push %" reg, ".cfi_adjust_cfa_offset 8\n.cfi_rel_offset " reg ", 0")
#define FIBER_POP(reg) FIBER_ASM("pop %" reg, ".cfi_adjust_cfa_offset -8\n.cfi_restore " reg)
#if defined(__CET__) && (__CET__ & 1)
#define FIBER_JUMP "notrack jmp *%rcx" /* to behind a call, where there is no endbr64 */
#else
#define FIBER_JUMP "jmp *%rcx"
#endif

/* What a suspended fiber's sp points at. */
struct fiber_frame {
  uint32_t mxcsr;
  uint16_t x87, unused;
  void *r15, *r14, *r13;
  void (*r12)(struct fiber *f);
  struct fiber *rbx;
  void *rbp;
  void (*rip)(void);
};

/* Saves a frame on this stack and its address in *save, then continues at the frame `load` points
 * at. The jump instead of a return is on purpose: the processor would predict a return to whoever
 * called here last, wrongly, at 6 ns each. Both stacks look alike at the exchange, so the unwind
 * information before it fits after it. */
FIBER_NAKED static void fiber_exchange(void **save __attribute__((unused)),
                                       void *load __attribute__((unused)))
{
  FIBER_PUSH("rbp");
  FIBER_PUSH("rbx");
  FIBER_PUSH("r12");
  FIBER_PUSH("r13");
  FIBER_PUSH("r14");
  FIBER_PUSH("r15");
  FIBER_ASM("sub $8, %rsp", ".cfi_adjust_cfa_offset 8");
  __asm__("stmxcsr (%rsp)");
  __asm__("fnstcw 4(%rsp)");
  __asm__("mov %rsp, (%rdi)");
  __asm__("mov %rsi, %rsp");
  __asm__("ldmxcsr (%rsp)");
  __asm__("fldcw 4(%rsp)");
  FIBER_ASM("add $8, %rsp", ".cfi_adjust_cfa_offset -8");
  FIBER_POP("r15");
  FIBER_POP("r14");
  FIBER_POP("r13");
  FIBER_POP("r12");
  FIBER_POP("rbx");
  FIBER_POP("rbp");
  FIBER_ASM("pop %rcx", ".cfi_adjust_cfa_offset -8\n.cfi_register rip, rcx");
  __asm__(FIBER_JUMP);
}

/* The outermost frame of a fiber's stack: unwinding ends here, because no caller is known. */
FIBER_NAKED static void fiber_begin(void)
{
  FIBER_ASM("mov %rbx, %rdi", ".cfi_undefined rip");
  __asm__("call *%r12");
  __asm__("ud2");
}

static void *fiber_prepare(struct fiber *f)
{
  uintptr_t top = ((uintptr_t)f->stack + f->size) & ~(uintptr_t)15;
  struct fiber_frame *frame;
  top -= 16; /* zeroes above the outermost frame, for who looks for a return address there */
  memset((void *)top, 0, 16);
  frame = (struct fiber_frame *)top - 1;
  memset(frame, 0, sizeof(*frame));
  __asm__("stmxcsr %0\n\tfnstcw %1" : "=m"(frame->mxcsr), "=m"(frame->x87));
  frame->rbx = f;
  frame->r12 = fiber_main;
  frame->rip = fiber_begin;
  return frame;
}

__attribute__((always_inline)) static inline void fiber_swap(struct fiber *from, struct fiber *to)
{
  void *sp = to->sp;
  to->sp = NULL;
  fiber_exchange(&from->sp, sp);
}

/* Shadow stacks (which Linux turns on only when asked to) would have to be switched as well; a
 * program that wants them defines CHI_FIBER_UCONTEXT. The instruction does nothing without them. */
static void fiber_check_thread(void)
{
#if defined(__CET__) && (__CET__ & 2)
  uint64_t shadow_stack = 0;
  __asm__(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(shadow_stack)); /* rdsspq %rax */
  CHI_ASSERT(shadow_stack == 0);
#endif
}

#endif

CHI_PRIVATE void fiber_init_host(struct fiber *host)
{
  memset(host, 0, sizeof(*host));
  fiber_check_thread();
#ifdef FIBER_TSAN
  host->tsan = __tsan_get_current_fiber();
#endif
}

CHI_PRIVATE void fiber_init(struct fiber *f, void *stack, size_t size, fiber_entry *entry,
                            void *arg)
{
  CHI_ASSERT(stack && entry);
  CHI_ASSERT(size >= FIBER_STACK_MIN);
  memset(f, 0, sizeof(*f));
  f->stack = stack;
  f->size = size;
  f->entry = entry;
  f->arg = arg;
  fiber_tools_init(f);
  f->sp = fiber_prepare(f);
}

CHI_PRIVATE void fiber_switch(struct fiber *from, struct fiber *to)
{
  CHI_ASSERT(!from->sp); /* it runs */
  CHI_ASSERT(to->sp);    /* it is suspended */
  to->previous = from;
  fiber_tools_leave(from, to);
  fiber_swap(from, to);
  fiber_tools_arrive(from);
}

CHI_PRIVATE void fiber_fini(struct fiber *f)
{
  if (f->entry) {
    CHI_ASSERT(f->sp); /* it doesn't run */
    fiber_tools_fini(f);
  }
  f->sp = NULL;
}

CHI_PRIVATE bool fiber_holds(const struct fiber *f, const void *address)
{
  uintptr_t low = (uintptr_t)f->stack - FIBER_GUARD_SIZE, at = (uintptr_t)address;
  return f->entry && at - low < f->size + FIBER_GUARD_SIZE;
}

#undef FIBER_ASAN
#undef FIBER_TSAN
#undef FIBER_VALGRIND
#undef FIBER_NAKED
#undef FIBER_ASM
#undef FIBER_PUSH
#undef FIBER_POP
#undef FIBER_JUMP
