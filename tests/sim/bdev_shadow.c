/* bdev_shadow.c - a model of a block device, and clients that hold the device to it. */
#include "bdev_shadow.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CELLS (SHADOW_UNIT / SHADOW_CELL)
#define UNKNOWN UINT64_MAX /* the tag of whatever stood there before */
#define BLOCK_UNITS 8u     /* largest piece an actor handles at once */

void shadow_fail(struct shadow *s, const char *fmt, ...)
{
  va_list ap;
  if (s->wrong[0])
    return;
  va_start(ap, fmt);
  vsnprintf(s->wrong, sizeof(s->wrong), fmt, ap);
  va_end(ap);
  s->stop = true;
}

struct shadow *shadow_open(uint64_t seed, uint32_t units, uint32_t actors)
{
  struct shadow *s = calloc(1, sizeof(*s));
  if (!s || units > SHADOW_UNITS_MAX || actors > SHADOW_ACTORS)
    abort();
  rng_seed(&s->rng, seed, 1, 2);
  s->units = s->shared = units;
  s->actors = actors;
  return s;
}

void shadow_close(struct shadow *s)
{
  for (uint32_t i = 0; i < s->units * CELLS; i++)
    free(s->cell[i].value);
  free(s);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static struct shadow_cell *cell_at(struct shadow *s, uint64_t offset)
{
  return &s->cell[offset / SHADOW_CELL];
}

static void cell_push(struct shadow_cell *c, struct shadow_value value)
{
  if (c->count == c->room) {
    c->room = c->room * 2 + 4;
    c->value = realloc(c->value, c->room * sizeof(*c->value));
    if (!c->value)
      abort();
  }
  c->value[c->count++] = value;
}

static void cell_forget_before(struct shadow_cell *c, uint32_t first)
{
  memmove(c->value, c->value + first, (c->count - first) * sizeof(*c->value));
  c->count -= first;
}

/* The last value that was acknowledged before `when`; 0 if there is none. */
static uint32_t cell_last(const struct shadow_cell *c, uint64_t when)
{
  for (uint32_t i = c->count; i-- > 0;) {
    if (c->value[i].acked && c->value[i].acked < when)
      return i;
  }
  return 0;
}

/* What stands in a cell: a tag, or UNKNOWN if its words differ. */
static uint64_t cell_read(const uint8_t *bytes)
{
  uint64_t tag, word;
  memcpy(&tag, bytes, sizeof(tag));
  for (uint32_t i = 8; i < SHADOW_CELL; i += 8) {
    memcpy(&word, bytes + i, sizeof(word));
    if (word != tag)
      return UNKNOWN;
  }
  return tag;
}

/* Whether this is one of the values from `first` on. */
static bool cell_may_hold(const struct shadow_cell *c, uint32_t first, uint64_t tag)
{
  for (uint32_t i = first; i < c->count; i++) {
    if (c->value[i].tag == tag || c->value[i].tag == UNKNOWN)
      return true;
  }
  return c->count == 0;
}

static void forget_content(struct shadow *s, uint32_t unit)
{
  for (uint32_t i = unit * CELLS; i < (unit + 1) * CELLS; i++) {
    s->cell[i].count = 0;
    cell_push(&s->cell[i], (struct shadow_value){UNKNOWN, 1, 1});
  }
}

/* ---- events ---------------------------------------------------------------------------------- */

static void write_begins(struct shadow *s, uint64_t offset, uint64_t length, uint64_t tag)
{
  uint64_t now = ++s->clock;
  for (uint64_t at = offset; at < offset + length; at += SHADOW_CELL)
    cell_push(cell_at(s, at), (struct shadow_value){tag, now, 0});
}

static void write_ends(struct shadow *s, uint64_t offset, uint64_t length, uint64_t tag, int rc)
{
  uint64_t now = ++s->clock;
  for (uint64_t at = offset; at < offset + length; at += SHADOW_CELL) {
    struct shadow_cell *c = cell_at(s, at);
    if (rc == CHI_OK && c->count > 0 && c->value[c->count - 1].tag == tag) {
      c->value[c->count - 1].acked = now;
    }
  }
}

static void check_read(struct shadow *s, uint64_t offset, uint64_t length, const uint8_t *data)
{
  for (uint64_t at = offset; at < offset + length; at += SHADOW_CELL) {
    struct shadow_cell *c = cell_at(s, at);
    uint64_t found = cell_read(data + (at - offset));
    if (!cell_may_hold(c, cell_last(c, UINT64_MAX), found))
      shadow_fail(s, "cell at %llu reads %llx", (unsigned long long)at, (unsigned long long)found);
  }
}

/* Everything acknowledged before `begun` is durable. */
static void sync_ends(struct shadow *s, uint64_t begun)
{
  for (uint32_t i = 0; i < s->units * CELLS; i++) {
    if (s->cell[i].count > 0)
      cell_forget_before(&s->cell[i], cell_last(&s->cell[i], begun));
  }
  for (uint32_t i = 0; i < s->units; i++) {
    struct shadow_unit *u = &s->unit[i];
    if (u->state == SHADOW_FREE && u->freed && u->freed < begun)
      u->free_durable = true;
  }
}

static void own(struct shadow *s, uint32_t actor, const struct chi_block *block)
{
  uint32_t first = (uint32_t)(block->offset / SHADOW_UNIT);
  if (block->offset % SHADOW_UNIT || block->size % SHADOW_UNIT || block->size == 0 ||
      block->offset + block->size > (uint64_t)s->units * SHADOW_UNIT) {
    shadow_fail(s, "block %llu+%llu", (unsigned long long)block->offset,
                (unsigned long long)block->size);
    return;
  }
  for (uint32_t i = first; i < first + block->size / SHADOW_UNIT; i++) {
    struct shadow_unit *u = &s->unit[i];
    if (u->state == SHADOW_OWNED || u->state == SHADOW_SHARED)
      shadow_fail(s, "unit %u given to two", i);
    *u = (struct shadow_unit){.state = SHADOW_OWNED, .owner = (uint8_t)actor};
    forget_content(s, i);
  }
}

static void set_units(struct shadow *s, uint32_t first, uint32_t units, uint32_t actor,
                      enum shadow_state from, enum shadow_state to)
{
  for (uint32_t i = first; i < first + units; i++) {
    struct shadow_unit *u = &s->unit[i];
    if (u->state != from || u->owner != actor) {
      /* Somebody else may have got it while its free was still being acknowledged. */
      if (to != SHADOW_FREE)
        shadow_fail(s, "unit %u was freed although the call failed", i);
      continue;
    }
    u->state = to;
    u->freed = to == SHADOW_FREE ? ++s->clock : 0;
    if (to == SHADOW_FREE)
      forget_content(s, i);
  }
}

/* ---- calls ----------------------------------------------------------------------------------- */

static int run(const struct shadow_port *port, void *task)
{
  return port->run ? port->run(port->arg, port->queue, task) : chi_run(port->queue, task);
}

static int call(struct shadow *s, const struct shadow_port *port, void *task)
{
  int rc = run(port, task);
  s->calls++;
  if (rc == CHI_OK)
    return rc;
  s->failed_calls++;
  if (rc < 0 && rc > -64)
    s->by_code[-rc]++;
  if (rc == CHI_ESHUTDOWN)
    return rc;
  if (!s->lenient && rc != CHI_ENOSPC)
    shadow_fail(s, "a call failed: %s", chi_status_name(rc));
  return rc;
}

static int act_allocate(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                        uint32_t actor, uint64_t size)
{
  struct chi_bdev_allocate_blocks *t = chi_task_new(port->queue, &chi_bdev_allocate_blocks_type);
  uint64_t got = 0;
  int rc;
  if (!t)
    return CHI_ESHUTDOWN;
  t->task.pool = pool;
  t->size = size;
  s->allocating++;
  rc = call(s, port, t);
  if (rc == CHI_OK) {
    s->allocating--;
    for (uint32_t i = 0; i < t->blocks_count; i++) {
      own(s, actor, &t->blocks[i]);
      got += t->blocks[i].size;
    }
    if (t->block_total != t->blocks_count ||
        got != (size + SHADOW_UNIT - 1) / SHADOW_UNIT * SHADOW_UNIT)
      shadow_fail(s, "asked for %llu, got %llu", (unsigned long long)size, (unsigned long long)got);
  } else if (rc == CHI_ENOSPC) {
    s->allocating--;
  }
  chi_task_free(port->queue, t);
  return rc;
}

static int act_free(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                    uint32_t actor, uint32_t first, uint32_t units)
{
  struct chi_bdev_free_blocks *t = chi_task_new(port->queue, &chi_bdev_free_blocks_type);
  int rc;
  if (!t)
    return CHI_ESHUTDOWN;
  t->task.pool = pool;
  t->blocks_count = 1;
  t->blocks[0].offset = (uint64_t)first * SHADOW_UNIT;
  t->blocks[0].size = (uint64_t)units * SHADOW_UNIT;
  set_units(s, first, units, actor, SHADOW_OWNED, SHADOW_FREEING);
  rc = call(s, port, t);
  if (rc == CHI_OK)
    set_units(s, first, units, actor, SHADOW_FREEING, SHADOW_FREE);
  else if (rc != CHI_ESHUTDOWN)
    set_units(s, first, units, actor, SHADOW_FREEING, SHADOW_OWNED);
  chi_task_free(port->queue, t);
  return rc;
}

static void fill(uint8_t *data, uint64_t length, uint64_t tag)
{
  for (uint64_t i = 0; i < length; i += 8)
    memcpy(data + i, &tag, 8);
}

static int act_write(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                     uint64_t offset, uint64_t length)
{
  struct chi_bdev_write *t = chi_task_new(port->queue, &chi_bdev_write_type);
  uint64_t tag = ++s->tags;
  chi_bulk data;
  int rc;
  if (!t)
    return CHI_ESHUTDOWN;
  rc = chi_bulk_alloc(port->queue, length, &data);
  if (rc == CHI_OK) {
    t->task.pool = pool;
    t->block.offset = offset;
    t->block.size = length;
    t->length = length;
    t->data = data;
    fill(data.data, length, tag);
    write_begins(s, offset, length, tag);
    rc = call(s, port, t);
    if (rc == CHI_OK && t->bytes_written != length)
      shadow_fail(s, "%llu bytes written", (unsigned long long)t->bytes_written);
    write_ends(s, offset, length, tag, rc);
    chi_bulk_free(port->queue, &data);
  }
  chi_task_free(port->queue, t);
  return rc;
}

/* Reads into a buffer that hand(s, offset, length, bytes) then looks at. */
static int act_read(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                    uint64_t offset, uint64_t length,
                    void (*hand)(struct shadow *, uint64_t, uint64_t, const uint8_t *))
{
  struct chi_bdev_read *t = chi_task_new(port->queue, &chi_bdev_read_type);
  chi_bulk data;
  int rc;
  if (!t)
    return CHI_ESHUTDOWN;
  rc = chi_bulk_alloc(port->queue, length, &data);
  if (rc == CHI_OK) {
    t->task.pool = pool;
    t->block.offset = offset;
    t->block.size = length;
    t->length = length;
    t->data = data;
    memset(data.data, 0xee, length);
    rc = hand == check_read ? call(s, port, t) : run(port, t);
    if (rc == CHI_OK && t->bytes_read != length)
      shadow_fail(s, "%llu bytes read", (unsigned long long)t->bytes_read);
    if (rc == CHI_OK)
      hand(s, offset, length, data.data);
    chi_bulk_free(port->queue, &data);
  }
  chi_task_free(port->queue, t);
  return rc;
}

static int act_sync(struct shadow *s, const struct shadow_port *port, chi_pool_id pool)
{
  struct chi_bdev_sync *t = chi_task_new(port->queue, &chi_bdev_sync_type);
  uint64_t begun = ++s->clock;
  int rc;
  if (!t)
    return CHI_ESHUTDOWN;
  t->task.pool = pool;
  rc = call(s, port, t);
  if (rc == CHI_OK)
    sync_ends(s, begun);
  chi_task_free(port->queue, t);
  return rc;
}

/* ---- actors ---------------------------------------------------------------------------------- */

/* A random run of units of this actor: how many, 0 if it owns none. */
static uint32_t pick(struct shadow *s, uint32_t actor, uint32_t *first)
{
  uint32_t start = (uint32_t)rng_below(&s->rng, s->units), n = 0;
  uint32_t most = 1 + (uint32_t)rng_below(&s->rng, BLOCK_UNITS);
  for (uint32_t i = 0; i < s->units; i++) {
    *first = (start + i) % s->units;
    if (s->unit[*first].state == SHADOW_OWNED && s->unit[*first].owner == actor)
      break;
  }
  while (n < most && *first + n < s->units && s->unit[*first + n].state == SHADOW_OWNED &&
         s->unit[*first + n].owner == actor)
    n++;
  return n;
}

/* A range of cells inside a run of units; often whole units. */
static void pick_range(struct shadow *s, uint32_t first, uint32_t units, uint64_t *offset,
                       uint64_t *length)
{
  uint64_t cells = (uint64_t)units * CELLS, from, count;
  *offset = (uint64_t)first * SHADOW_UNIT;
  *length = (uint64_t)units * SHADOW_UNIT;
  if (rng_below(&s->rng, 2))
    return;
  from = rng_below(&s->rng, cells);
  count = 1 + rng_below(&s->rng, cells - from);
  *offset += from * SHADOW_CELL;
  *length = count * SHADOW_CELL;
}

static int act_shared(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                      uint32_t actor)
{
  uint64_t cell = rng_below(&s->rng, CELLS / s->actors) * s->actors + actor;
  uint64_t offset = (uint64_t)s->shared * SHADOW_UNIT + cell * SHADOW_CELL;
  if (rng_below(&s->rng, 3))
    return act_write(s, port, pool, offset, SHADOW_CELL);
  return act_read(s, port, pool, offset, SHADOW_CELL, check_read);
}

/* Frees all it has, one unit after the other: the next allocation writes all of it to the log. */
static int act_burst(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                     uint32_t actor)
{
  int rc = CHI_OK;
  for (uint32_t i = 0; i < s->units && rc != CHI_ESHUTDOWN && !s->stop; i++)
    if (s->unit[i].state == SHADOW_OWNED && s->unit[i].owner == actor)
      rc = act_free(s, port, pool, actor, i, 1);
  for (uint32_t i = 0; i < 3 && rc != CHI_ESHUTDOWN && !s->stop; i++)
    rc = act_allocate(s, port, pool, actor, 4 * SHADOW_UNIT);
  return rc;
}

static int act_once(struct shadow *s, const struct shadow_port *port, chi_pool_id pool,
                    uint32_t actor)
{
  uint64_t what = rng_below(&s->rng, 100), offset, length, size;
  uint32_t first = 0, units = pick(s, actor, &first);
  if (what < 8)
    return act_sync(s, port, pool);
  if (what < 28 && s->shared < s->units)
    return act_shared(s, port, pool, actor);
  if (what < 48 || units == 0) {
    size = rng_below(&s->rng, 40) ? 1 + rng_below(&s->rng, 5 * SHADOW_UNIT)
                                  : 1 + rng_below(&s->rng, (uint64_t)s->units * SHADOW_UNIT / 2);
    return act_allocate(s, port, pool, actor, size);
  }
  if (what < 65)
    return act_free(s, port, pool, actor, first, units);
  pick_range(s, first, units, &offset, &length);
  if (what < 85)
    return act_write(s, port, pool, offset, length);
  return act_read(s, port, pool, offset, length, check_read);
}

void shadow_act(struct shadow *s, const struct shadow_port *port, chi_pool_id pool, uint32_t actor,
                uint64_t calls)
{
  for (uint64_t i = 0; i < calls && !s->stop; i++) {
    if (s->bursts && rng_below(&s->rng, 8) == 0 &&
        act_burst(s, port, pool, actor) == CHI_ESHUTDOWN)
      return;
    if (act_once(s, port, pool, actor) == CHI_ESHUTDOWN)
      return;
  }
}

int shadow_share(struct shadow *s, const struct shadow_port *port, chi_pool_id pool)
{
  int rc = act_allocate(s, port, pool, 0, SHADOW_UNIT);
  for (uint32_t i = 0; rc == CHI_OK && i < s->units; i++) {
    if (s->unit[i].state == SHADOW_OWNED) {
      s->unit[i].state = SHADOW_SHARED;
      s->shared = i;
      return act_write(s, port, pool, (uint64_t)i * SHADOW_UNIT, SHADOW_UNIT);
    }
  }
  return rc;
}

/* ---- afterwards ------------------------------------------------------------------------------ */

/* What is free is told in whole, and no piece of it is apart from what it touches. */
static void compare_free(struct shadow *s, const struct shadow_port *port, chi_pool_id pool)
{
  struct chi_bdev_get_stats *t = chi_task_new(port->queue, &chi_bdev_get_stats_type);
  uint64_t units = 0, row = 0, longest = 0;
  if (!t) {
    shadow_fail(s, "no memory for a task");
    return;
  }
  for (uint32_t i = 0; i < s->units; i++) {
    bool is_free = s->unit[i].state == SHADOW_FREE;
    row = is_free ? row + 1 : 0;
    units += is_free;
    longest = row > longest ? row : longest;
  }
  t->task.pool = pool;
  int rc = run(port, t);
  if (t->capacity != (uint64_t)s->units * SHADOW_UNIT)
    shadow_fail(s, "the capacity is %llu", (unsigned long long)t->capacity);
  if (rc != CHI_OK || t->remaining != units * SHADOW_UNIT)
    shadow_fail(s, "remaining is not what is free");
  if (rc == CHI_OK && t->largest_extent != longest * SHADOW_UNIT)
    shadow_fail(s, "the largest extent is of %llu bytes, and %llu are free in a row",
                (unsigned long long)t->largest_extent, (unsigned long long)longest * SHADOW_UNIT);
  chi_task_free(port->queue, t);
}

/* One of the values that may have survived; from now on it is the only one. */
static void settle_content(struct shadow *s, uint64_t offset, uint64_t length, const uint8_t *data)
{
  for (uint64_t at = offset; at < offset + length; at += SHADOW_CELL) {
    struct shadow_cell *c = cell_at(s, at);
    uint64_t found = cell_read(data + (at - offset));
    if (!s->doubtful && !cell_may_hold(c, 0, found))
      shadow_fail(s, "after the crash, cell at %llu holds %llx, not %llx or later",
                  (unsigned long long)at, (unsigned long long)found,
                  c->count ? (unsigned long long)c->value[0].tag : 0);
    c->count = 0;
    cell_push(c, (struct shadow_value){found, 1, 1});
  }
}

static void ignore_content(struct shadow *s, uint64_t offset, uint64_t length, const uint8_t *data)
{
  (void)s, (void)offset, (void)length, (void)data;
}

/* What a unit is now, compared with what it may be. */
static void settle_unit(struct shadow *s, uint32_t i, bool allocated, bool clean)
{
  struct shadow_unit *u = &s->unit[i];
  if (!allocated && (u->state == SHADOW_OWNED || u->state == SHADOW_SHARED))
    shadow_fail(s, "unit %u is not allocated any more", i);
  if (allocated && u->state == SHADOW_FREE && s->allocating == 0 && (u->free_durable || clean))
    shadow_fail(s, "unit %u is allocated though it was freed", i);
  if (allocated && u->state == SHADOW_FREE && s->allocating == 0 && !u->freed)
    shadow_fail(s, "unit %u is allocated though nobody asked", i);
  if (allocated && u->state != SHADOW_OWNED && u->state != SHADOW_SHARED) {
    *u = (struct shadow_unit){.state = SHADOW_OWNED, .owner = (uint8_t)(i % s->actors)};
    s->leaked++;
    forget_content(s, i);
  }
  if (!allocated)
    *u = (struct shadow_unit){.state = SHADOW_FREE};
}

void shadow_recover(struct shadow *s, const struct shadow_port *port, chi_pool_id pool, bool clean)
{
  s->crashes += !clean;
  for (uint32_t i = 0; i < s->units && !s->wrong[0]; i++) {
    uint64_t offset = (uint64_t)i * SHADOW_UNIT;
    enum shadow_state before = (enum shadow_state)s->unit[i].state;
    bool mine = before == SHADOW_OWNED || before == SHADOW_SHARED;
    int rc = act_read(s, port, pool, offset, SHADOW_UNIT, mine ? settle_content : ignore_content);
    if (rc != CHI_OK && rc != CHI_EINVAL)
      shadow_fail(s, "reading unit %u: %s", i, chi_status_name(rc));
    settle_unit(s, i, rc == CHI_OK, clean);
  }
  s->allocating = 0;
  s->stop = s->wrong[0] != '\0';
  if (!s->stop)
    compare_free(s, port, pool);
}

/* Of what is allocated all in a row at once, after another half of the device. */
static void verify_rows(struct shadow *s, const struct shadow_port *port, chi_pool_id pool)
{
  act_allocate(s, port, pool, 0, (uint64_t)s->units / 2 * SHADOW_UNIT);
  for (uint32_t first = 0, units; first < s->units && !s->wrong[0]; first += units + 1) {
    uint64_t offset = (uint64_t)first * SHADOW_UNIT, size;
    units = 0;
    while (first + units < s->units && s->unit[first + units].state != SHADOW_FREE)
      units++;
    size = (uint64_t)units * SHADOW_UNIT;
    if (units > 0 && (act_write(s, port, pool, offset, size) ||
                      act_read(s, port, pool, offset, size, check_read)))
      shadow_fail(s, "units from %u on can't be written and read", first);
  }
}

void shadow_verify(struct shadow *s, const struct shadow_port *port, chi_pool_id pool)
{
  int rc = act_sync(s, port, pool); /* also returns what cancelled allocations had got */
  if (rc)
    shadow_fail(s, "sync: %s", chi_status_name(rc));
  for (uint32_t i = 0; i < s->units && !s->wrong[0]; i++) {
    if (s->unit[i].state != SHADOW_FREE &&
        act_read(s, port, pool, (uint64_t)i * SHADOW_UNIT, SHADOW_UNIT, check_read))
      shadow_fail(s, "unit %u can't be read", i);
  }
  if (s->bursts)
    verify_rows(s, port, pool);
  if (!s->wrong[0])
    compare_free(s, port, pool);
}
