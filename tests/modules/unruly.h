/* unruly.h - the tasks of a module that misbehaves: shared by tests and the module. */
#ifndef TEST_UNRULY_H
#define TEST_UNRULY_H

#include "chimaera.h"

/* Uses the CPU so long, without looking left or right. */
#define UNRULY_SPIN(X, T) X(T, IN, u64, ns)
CHI_TASK(unruly_spin, 10, UNRULY_SPIN)
/* Calls itself until the stack is at its end. */
#define UNRULY_OVERRUN(X, T) X(T, IN, u64, depth) X(T, OUT, u64, sum)
CHI_TASK(unruly_overrun, 11, UNRULY_OVERRUN)
#define UNRULY_CODE(X, T) X(T, IN, i32, code)
CHI_TASK(unruly_code, 12, UNRULY_CODE)
/* Waits for itself, as a subtask of its own would be. */
CHI_TASK(unruly_self, 13, CHI_NO_FIELDS)
/* Calls itself as a subtask so many levels deep; how deep it came, and why it ended there. */
#define UNRULY_DEEP(X, T) X(T, IN, u32, left) X(T, OUT, u32, depth) X(T, OUT, i32, why)
CHI_TASK(unruly_deep, 14, UNRULY_DEEP)
/* Sleeps in pieces and doesn't care whether it is cancelled. */
#define UNRULY_DEAF(X, T) X(T, IN, u64, ns)
CHI_TASK(unruly_deaf, 15, UNRULY_DEAF)
/* Sleeps inside the mutex of the container; how many were inside at most. */
#define UNRULY_LOCK(X, T) X(T, IN, u64, ns) X(T, OUT, u32, inside)
CHI_TASK(unruly_lock, 16, UNRULY_LOCK)
/* Waits for the event of the container; the next sets it. */
CHI_TASK(unruly_await, 17, CHI_NO_FIELDS)
CHI_TASK(unruly_set, 18, CHI_NO_FIELDS)
/* Starts `count` subtasks that sleep, and leaves without waiting for them. */
#define UNRULY_LEAVE(X, T) X(T, IN, u32, count) X(T, IN, u64, ns)
CHI_TASK(unruly_leave, 19, UNRULY_LEAVE)
/* Allocates, writes, frees. */
#define UNRULY_ALLOC(X, T) X(T, IN, u64, size)
CHI_TASK(unruly_alloc, 20, UNRULY_ALLOC)
/* Asks admin to destroy its own pool, and waits for that. */
#define UNRULY_SUICIDE(X, T) X(T, OUT, str, error_message, 400)
CHI_TASK(unruly_suicide, 21, UNRULY_SUICIDE)
/* Asks admin to flush, and waits for that: it waits for itself. */
CHI_TASK(unruly_flush, 22, CHI_NO_FIELDS)
/* Takes the mutex and never gives it back. */
CHI_TASK(unruly_keep, 23, CHI_NO_FIELDS)
/* Writes over what it was given: its own header and all fields. */
#define UNRULY_SCRIBBLE(X, T) X(T, INOUT, u64, a) X(T, OUT, array, items, unruly_item, 4)
#define UNRULY_ITEM(X, T) X(T, IN, u64, value)
CHI_STRUCT(unruly_item, UNRULY_ITEM)
CHI_TASK(unruly_scribble, 24, UNRULY_SCRIBBLE)
/* Has a local array larger than the whole stack, and begins at its far end. */
#define UNRULY_WIDE(X, T) X(T, OUT, u64, sum)
CHI_TASK(unruly_wide, 25, UNRULY_WIDE)

#endif
