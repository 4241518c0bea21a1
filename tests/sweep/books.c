/* books.c - what a sweep knows of a run from outside, and holds the nodes to. */
#include "books.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BOOKS_HEARS 20000000u /* until all of a node knows that it stops */

struct books *books_now;

static void *room_for(size_t bytes)
{
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
  if (p == MAP_FAILED)
    abort();
  return p;
}

/* Who has it may have been killed: then one entry is as it was, or as it is to be. */
static void enter(struct books *b)
{
  if (pthread_mutex_lock(&b->lock) == EOWNERDEAD)
    pthread_mutex_consistent(&b->lock);
}

static void leave(struct books *b)
{
  pthread_mutex_unlock(&b->lock);
}

void books_open(struct books *b)
{
  pthread_mutexattr_t shared;
  memset(b, 0, sizeof(*b));
  b->task = room_for(BOOKS_TASKS * sizeof(*b->task));
  b->life = room_for(BOOKS_LIVES * sizeof(*b->life));
  b->copy = room_for(BOOKS_LIVES * sizeof(*b->copy));
  pthread_mutexattr_init(&shared);
  pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&b->lock, &shared);
  pthread_mutexattr_destroy(&shared);
  books_now = b;
}

void books_close(struct books *b)
{
  munmap(b->task, BOOKS_TASKS * sizeof(*b->task));
  munmap(b->life, BOOKS_LIVES * sizeof(*b->life));
  munmap(b->copy, BOOKS_LIVES * sizeof(*b->copy));
  pthread_mutex_destroy(&b->lock);
  books_now = NULL;
}

void books_fail(const char *check, const char *fmt, ...)
{
  char text[300];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof(text), fmt, args);
  va_end(args);
  chi_cluster_fail(books_now->cluster, check, "%s", text);
}

/* ---- tasks ---------------------------------------------------------------------------------- */

uint64_t books_submit(bool loose, bool many)
{
  struct books *b = books_now;
  uint64_t now = chi_cluster_now(b->cluster);
  enter(b);
  if (b->tasks == BOOKS_TASKS)
    abort();
  b->task[b->tasks] = (struct books_task){.loose = loose, .many = many, .begun = now};
  uint64_t token = ++b->tasks;
  leave(b);
  return token;
}

static struct books_task *task_of(uint64_t token)
{
  struct books *b = books_now;
  if (token == 0 || token > b->tasks) {
    books_fail("fields", "a body finds the token %llu, which nobody gave",
               (unsigned long long)token);
    return NULL;
  }
  return &b->task[token - 1];
}

void books_lives(uint64_t token, uint32_t oldest, uint32_t newest)
{
  struct books_task *t = task_of(token);
  if (!t)
    return;
  t->oldest = oldest;
  t->newest = newest;
}

uint64_t books_submit_periodic(void)
{
  uint64_t token = books_submit(true, false);
  books_now->task[token - 1].periodic = true;
  return token;
}

static void begin(uint64_t token, uint32_t container, uint32_t life, uint32_t node)
{
  struct books_task *t = task_of(token);
  uint64_t bit = UINT64_C(1) << container;
  if (!t)
    return;
  if (life < t->oldest || (t->newest && life > t->newest))
    books_fail("former", "a task for a pool runs in the %s with its id, on node %u",
               life < t->oldest ? "former one" : "next one", node);
  if (!t->loose && (t->many ? t->ran & bit : t->ran))
    books_fail("once", "task %llu runs again, in container %u", (unsigned long long)token,
               container);
  if (t->ended && (t->rc == CHI_EUNREACHABLE || t->rc == CHI_ENOENT) && !t->loose && !t->many)
    books_fail("not run", "task %llu runs, though it ended with %s", (unsigned long long)token,
               chi_status_name(t->rc));
  if (t->periodic && t->ended && t->rc == CHI_ECANCELLED)
    books_fail("once", "a periodic task goes on after it was cancelled and has ended");
  t->ran |= bit;
  uint64_t stops = books_now->stopping[node];
  if (stops && t->begun > stops + BOOKS_HEARS)
    books_fail("stop", "a task begins on a node that was asked to stop before it was submitted");
}

void books_begin(uint64_t token, uint32_t container, uint32_t life, uint32_t node)
{
  enter(books_now);
  begin(token, container, life, node);
  leave(books_now);
}

bool books_ran(uint64_t token)
{
  const struct books_task *t = task_of(token);
  return t && t->ran;
}

static void end(uint64_t token, int rc)
{
  struct books_task *t = task_of(token);
  if (!t)
    return;
  if (t->ended)
    books_fail("once", "task %llu ends again", (unsigned long long)token);
  t->ended = true;
  t->rc = rc;
  if (rc == CHI_OK && !t->ran)
    books_fail("not run", "task %llu%s, submitted at %llu us, ended well, but never ran",
               (unsigned long long)token, t->many ? " for many" : "",
               (unsigned long long)t->begun / 1000);
  if ((rc == CHI_EUNREACHABLE || rc == CHI_ENOENT) && t->ran && !t->loose && !t->many)
    books_fail("not run", "task %llu ended with %s, but ran", (unsigned long long)token,
               chi_status_name(rc));
}

void books_end(uint64_t token, int rc)
{
  enter(books_now);
  end(token, rc);
  if (rc <= 0 && rc > -BOOKS_CODES)
    books_now->code[-rc]++;
  leave(books_now);
}

/* ---- containers ----------------------------------------------------------------------------- */

void books_build(uint32_t container)
{
  struct books *b = books_now;
  enter(b);
  if (b->built[container] && (b->quiet || b->gentle))
    books_fail("state", "container %u begins anew, and no node was lost", container);
  b->built[container] = true;
  leave(b);
}

uint32_t books_new_life(void)
{
  struct books *b = books_now;
  enter(b);
  if (b->lives == BOOKS_LIVES)
    abort();
  b->life[b->lives] = 0;
  uint32_t life = ++b->lives;
  leave(b);
  return life;
}

void books_count(uint32_t life, uint64_t value)
{
  struct books *b = books_now;
  enter(b);
  if (life == 0 || life > b->lives)
    books_fail("state", "a container is of the life %u, which nobody began", life);
  else if (value != b->life[life - 1] + 1)
    books_fail("state", "the state of life %u counts %llu after %llu", life,
               (unsigned long long)value, (unsigned long long)b->life[life - 1]);
  else
    b->life[life - 1] = value;
  leave(b);
}

uint32_t books_new_copy(void)
{
  struct books *b = books_now;
  enter(b);
  if (b->copies == BOOKS_LIVES)
    abort();
  b->copy[b->copies] = 1;
  uint32_t copy = ++b->copies;
  leave(b);
  return copy;
}

void books_touch(uint32_t copy)
{
  struct books *b = books_now;
  if (copy == 0 || copy > b->copies)
    books_fail("state", "a method finds a state that was never made");
  else if (b->copy[copy - 1] != 1)
    books_fail("state", "a method runs in a container that was ended");
}

void books_end_copy(uint32_t copy)
{
  books_touch(copy);
  if (copy > 0 && copy <= books_now->copies)
    books_now->copy[copy - 1] = 2;
}

/* ---- pools ---------------------------------------------------------------------------------- */

struct books_pool *books_new_pool(chi_pool_id id, uint32_t node, const char *name)
{
  struct books *b = books_now;
  struct books_pool *p = NULL;
  enter(b);
  if (b->pools < BOOKS_POOLS)
    p = &b->pool[b->pools++];
  if (p) {
    *p = (struct books_pool){.id = id, .node = node, .created = 1, .destroyed = 1};
    snprintf(p->name, sizeof(p->name), "%s", name);
  }
  leave(b);
  return p;
}
