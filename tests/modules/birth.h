/* birth.h - the tasks of a module that tells how often it was created and destroyed. */
#ifndef TEST_BIRTH_H
#define TEST_BIRTH_H

#include "chimaera.h"

/* file: a line is added for each create and destroy. slow: how long create takes. rc: what it
 * returns. again: create asks for its own pool, and waits for that. */
#define BIRTH_PARAMS(X, T)                                                                         \
  X(T, IN, str, file, 256) X(T, IN, duration, slow, "0ms") X(T, IN, i32, rc, "0")                  \
  X(T, IN, bool, again, "false")
CHI_STRUCT(birth_params, BIRTH_PARAMS)
/* Whether create had come to its end when this ran. */
#define BIRTH_READY(X, T) X(T, OUT, bool, ready)
CHI_TASK(birth_ready, 10, BIRTH_READY)
/* Sleeps so long, then adds a line. */
#define BIRTH_REST(X, T) X(T, IN, u64, ns)
CHI_TASK(birth_rest, 11, BIRTH_REST)

#endif
