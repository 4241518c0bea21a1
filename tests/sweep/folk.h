/* folk.h - the module that sweeps use: its bodies keep the books, and check on each other. */
#ifndef FOLK_H
#define FOLK_H

#include "base.h"

#define FOLK_POOL ((chi_pool_id){700, 0})
#define FOLK_MOST 16
/* Pools of this number take their time to begin: so long on the node that is the minor number, and
 * longer on others. */
#define FOLK_TARDY 720u
#define FOLK_TARDY_NS UINT64_C(200000000)

/* Counts up by one; where, and to what. Uses so much CPU, and sleeps for ns, before. */
#define FOLK_ADD(X, T)                                                                             \
  X(T, IN, u64, token)                                                                             \
  X(T, IN, u64, cpu)                                                                               \
  X(T, IN, u64, ns)                                                                                \
  X(T, OUT, u32, node) X(T, OUT, u32, container) X(T, OUT, u32, life) X(T, OUT, u64, value)
CHI_TASK(folk_add, 10, FOLK_ADD)
/* As folk_add, but may be run again after a loss. */
CHI_TASK(folk_again, 11, FOLK_ADD)
/* Every container says its name: gathered, they stand in order. */
#define FOLK_ONE(X, T) X(T, OUT, u32, container) X(T, OUT, u32, life)
CHI_STRUCT(folk_one, FOLK_ONE)
#define FOLK_ROLL(X, T)                                                                            \
  X(T, IN, u64, token) X(T, IN, u64, ns) X(T, OUT, array, one, folk_one, FOLK_MOST)
CHI_TASK(folk_roll, 12, FOLK_ROLL)
/* Adds one buffer to another, and 1 to every byte. */
#define FOLK_BULK(X, T) X(T, IN, u64, token) X(T, IN, bulk, from) X(T, INOUT, bulk, to)
CHI_TASK(folk_bulk, 13, FOLK_BULK)
/* Takes a lock (0: mutex, 1: to read, 2: to write), works, and has a task of its own take it again:
 * by way of the container `via` - 1 if that isn't 0. Gives up after `patience` ns (0: never), which
 * is a success. */
#define FOLK_LOCK(X, T)                                                                            \
  X(T, IN, u64, token)                                                                             \
  X(T, IN, u64, group)                                                                             \
  X(T, IN, u64, ns)                                                                                \
  X(T, IN, u64, patience)                                                                          \
  X(T, IN, u32, mode) X(T, IN, u32, depth) X(T, IN, u32, via) X(T, IN, u32, back)
CHI_TASK(folk_lock, 14, FOLK_LOCK)
CHI_TASK(folk_via, 15, FOLK_LOCK)
/* Gives back locks that it doesn't have. */
#define FOLK_MEDDLE(X, T) X(T, IN, u64, token)
CHI_TASK(folk_meddle, 16, FOLK_MEDDLE)
/* Sleeps, or has the container `via` - 1 do so if that isn't 0. On another node than `from` it is
 * to end before `until`, by the cluster's clock, as hops keep some of the time back (0: no such
 * time). */
#define FOLK_SLEEP(X, T)                                                                           \
  X(T, IN, u64, token)                                                                             \
  X(T, IN, u64, ns) X(T, IN, u64, until) X(T, IN, u32, from) X(T, IN, u32, via)
CHI_TASK(folk_sleep, 17, FOLK_SLEEP)
/* Has subtasks: one (sub) in container `whom`, one that is left running, one that is forgotten. */
#define FOLK_ASK(X, T)                                                                             \
  X(T, IN, u64, token) X(T, IN, u64, sub) X(T, IN, u64, forgotten) X(T, IN, u32, whom)
CHI_TASK(folk_ask, 18, FOLK_ASK)
/* What this container knows: its counter, and how often it was told of nodes lost and found. */
#define FOLK_NEWS(X, T)                                                                            \
  X(T, OUT, u32, node)                                                                             \
  X(T, OUT, u32, life) X(T, OUT, u64, value) X(T, OUT, u64, lost) X(T, OUT, u64, found)
CHI_TASK(folk_news, 19, FOLK_NEWS)
/* Waits for an event, `patience` ns at most: a success either way; and tells all who wait of it. */
#define FOLK_AWAIT(X, T) X(T, IN, u64, token) X(T, IN, u64, patience)
CHI_TASK(folk_await, 20, FOLK_AWAIT)
CHI_TASK(folk_tell, 21, FOLK_AWAIT)
/* Has subtasks, all in its group, want the mutex of its container, each `gap` after the one before
 * and for ns. */
#define FOLK_TEAM(X, T)                                                                            \
  X(T, IN, u64, token) X(T, IN, u64, group) X(T, IN, u64, ns) X(T, IN, u64, gap)
CHI_TASK(folk_team, 22, FOLK_TEAM)
/* Has a subtask (sub) run here, in another pool. */
#define FOLK_VISIT(X, T) X(T, IN, u64, token) X(T, IN, u64, sub) X(T, IN, pool, whose)
CHI_TASK(folk_visit, 23, FOLK_VISIT)

extern const chi_module folk_module;

#endif
