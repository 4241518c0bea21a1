/* books.c - what a sweep knows of a run from outside, and holds the nodes to. */
#include "books.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOOKS_HEARS 20000000u /* until all of a node knows that it stops */

struct books *books_now;

static void *grown(void *p, uint32_t count, uint32_t *room, size_t size)
{
  if (count < *room)
    return p;
  *room = *room ? *room * 2 : 256;
  p = realloc(p, *room * size);
  if (!p)
    abort();
  return p;
}

void books_open(struct books *b)
{
  memset(b, 0, sizeof(*b));
  books_now = b;
}

void books_close(struct books *b)
{
  free(b->task);
  free(b->life);
  free(b->copy);
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
  b->task = grown(b->task, b->tasks, &b->task_room, sizeof(*b->task));
  b->task[b->tasks] =
      (struct books_task){.loose = loose, .many = many, .begun = chi_cluster_now(b->cluster)};
  return ++b->tasks;
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

void books_begin(uint64_t token, uint32_t container, uint32_t node)
{
  struct books_task *t = task_of(token);
  uint64_t bit = UINT64_C(1) << container;
  if (!t)
    return;
  if (!t->loose && (t->many ? t->ran & bit : t->ran))
    books_fail("once", "task %llu runs again, in container %u", (unsigned long long)token,
               container);
  if (t->ended && (t->rc == CHI_EUNREACHABLE || t->rc == CHI_ENOENT) && !t->loose && !t->many)
    books_fail("not run", "task %llu runs, though it ended with %s", (unsigned long long)token,
               chi_status_name(t->rc));
  t->ran |= bit;
  uint64_t stops = books_now->stopping[node];
  if (stops && t->begun > stops + BOOKS_HEARS)
    books_fail("stop", "a task begins on a node that was asked to stop before it was submitted");
}

void books_end(uint64_t token, int rc)
{
  struct books_task *t = task_of(token);
  if (!t)
    return;
  if (t->ended)
    books_fail("once", "task %llu ends again", (unsigned long long)token);
  t->ended = true;
  t->rc = rc;
  if (rc == CHI_OK && !t->ran)
    books_fail("not run", "task %llu ended well, but never ran", (unsigned long long)token);
  if ((rc == CHI_EUNREACHABLE || rc == CHI_ENOENT) && t->ran && !t->loose && !t->many)
    books_fail("not run", "task %llu ended with %s, but ran", (unsigned long long)token,
               chi_status_name(rc));
}

/* ---- containers ----------------------------------------------------------------------------- */

uint32_t books_new_life(void)
{
  struct books *b = books_now;
  b->life = grown(b->life, b->lives, &b->life_room, sizeof(*b->life));
  b->life[b->lives] = 0;
  return ++b->lives;
}

void books_count(uint32_t life, uint64_t value)
{
  struct books *b = books_now;
  if (life == 0 || life > b->lives)
    books_fail("state", "a container is of the life %u, which nobody began", life);
  else if (value != b->life[life - 1] + 1)
    books_fail("state", "the state of life %u counts %llu after %llu", life,
               (unsigned long long)value, (unsigned long long)b->life[life - 1]);
  else
    b->life[life - 1] = value;
}

uint32_t books_new_copy(void)
{
  struct books *b = books_now;
  b->copy = grown(b->copy, b->copies, &b->copy_room, sizeof(*b->copy));
  b->copy[b->copies] = 1;
  return ++b->copies;
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
  if (b->pools == BOOKS_POOLS)
    return NULL;
  struct books_pool *p = &b->pool[b->pools++];
  *p = (struct books_pool){.id = id, .node = node, .created = 1, .destroyed = 1};
  snprintf(p->name, sizeof(p->name), "%s", name);
  return p;
}
