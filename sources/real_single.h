/* real_single.h - all workers of a node stepped by one thread, in turn. */
#ifndef CHI_REAL_SINGLE_H
#define CHI_REAL_SINGLE_H

#include "real_thread.h"

#ifndef CHI_OMIT_REAL

/* The thread sleeps in the network worker's loop, which is woken by the bells and files of all. */

/* Before real_thread_start: makes it so, and lets the loop be woken by the bells of all workers.
 * CHI_ENOMEM. */
CHI_PRIVATE int real_single_prepare(struct real_thread_crew *crew);
/* After real_thread_join, or instead of real_thread_start. */
CHI_PRIVATE void real_single_end(struct real_thread_crew *crew);
/* The loop's sleep is over: the network worker is awake; the others are when they are needed. */
CHI_PRIVATE void real_single_awake(const struct real_thread_crew *crew);

#endif
#endif
