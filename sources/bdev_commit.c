/* bdev_commit.c - group commit of the allocation log, and its renewal. */
#include "bdev_commit.h"
#include "bdev_io.h"
#include "ctx.h"
#include "error.h"

#include <stdio.h>

#define BDEV_COMMIT_SLACK ((uint64_t)64 << 10) /* of a log beyond twice its snapshot */
#define BDEV_COMMIT_OWED ((uint64_t)256 << 10) /* bytes of frees that may wait for a commit */

enum bdev_commit_kind {
  BDEV_COMMIT_ALLOCATE, /* chain is to be allocated; somebody waits */
  BDEV_COMMIT_FREE,     /* ranges are free already; nobody waits */
  BDEV_COMMIT_BARRIER,  /* somebody waits for what is before; leaves no record */
  BDEV_COMMIT_MARK      /* somebody waits; leaves a mark */
};

/* What waits to be written, in order; those in flight come first. On the stack of who waits. */
struct bdev_commit_entry {
  struct bdev_commit_entry *next;
  enum bdev_commit_kind kind;
  int rc;
  bool done;    /* rc is what the waiter gets */
  bool flight;  /* part of the batch that is being written */
  bool covered; /* the snapshot that is being written has its effect */
  chi_event wake;
  struct extent *chain;
  uint64_t count; /* of ranges, or in the chain */
  struct extent_range ranges[];
};

/* ---- small things ---------------------------------------------------------------------------- */

static void *bdev_commit_get(void *ctx, size_t size)
{
  return chi_alloc(ctx, size);
}

static void bdev_commit_put(void *ctx, void *p, size_t size)
{
  chi_free(ctx, p, size);
}

CHI_PRIVATE struct alloc bdev_commit_memory(chi_ctx *ctx)
{
  return (struct alloc){bdev_commit_get, bdev_commit_put, ctx};
}

/* Bytes of a free's entry in memory. */
static size_t bdev_commit_room(uint64_t ranges)
{
  return sizeof(struct bdev_commit_entry) + ranges * sizeof(struct extent_range);
}

/* Bytes of an entry's record. */
static uint64_t bdev_commit_size(const struct bdev_commit_entry *e)
{
  return e->kind == BDEV_COMMIT_BARRIER ? 0 : bdev_log_size(e->count);
}

static void bdev_commit_append(struct bdev_commit *c, struct bdev_commit_entry *e)
{
  e->next = NULL;
  *c->last = e;
  c->last = &e->next;
}

static void bdev_commit_unlink(struct bdev_commit *c, struct bdev_commit_entry **at)
{
  struct bdev_commit_entry *e = *at;
  *at = e->next;
  if (c->last == &e->next)
    c->last = at;
}

/* ---- the outcome of a batch ------------------------------------------------------------------ */

/* The first that waits has to write next. */
static void bdev_commit_pass(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry *e = c->first;
  while (e && e->kind == BDEV_COMMIT_FREE)
    e = e->next;
  if (e)
    chi_event_set(ctx, &e->wake);
}

/* A free that the file knows of, or never will. */
static void bdev_commit_forget(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry **at)
{
  struct bdev_commit_entry *e = *at;
  CHI_ASSERT(e->kind == BDEV_COMMIT_FREE);
  bdev_commit_unlink(c, at);
  c->owed -= bdev_commit_size(e);
  chi_free(ctx, e, bdev_commit_room(e->count));
}

/* Ends an entry for which somebody waits. */
static void bdev_commit_end(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry **at,
                            int rc)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_commit_entry *e = *at;
  bdev_commit_unlink(c, at);
  if (e->kind == BDEV_COMMIT_ALLOCATE && rc == CHI_OK)
    extent_settle(c->map, &memory, e->chain);
  else if (e->kind == BDEV_COMMIT_ALLOCATE)
    extent_release(c->map, &memory, e->chain);
  e->rc = rc;
  e->done = true;
  chi_event_set(ctx, &e->wake);
}

/* Frees that could not be written stay. */
static void bdev_commit_resolve(chi_ctx *ctx, struct bdev_commit *c, int rc)
{
  struct bdev_commit_entry **at = &c->first;
  while (*at && (*at)->flight) {
    (*at)->flight = false;
    if ((*at)->kind != BDEV_COMMIT_FREE)
      bdev_commit_end(ctx, c, at, rc);
    else if (rc == CHI_OK)
      bdev_commit_forget(ctx, c, at);
    else
      at = &(*at)->next;
  }
}

/* ---- appending ------------------------------------------------------------------------------- */

/* A sync has failed: nobody knows what is durable. */
static int bdev_commit_doubt(chi_ctx *ctx, struct bdev_commit *c, int rc)
{
  c->failed = CHI_EIO;
  chi_log(ctx, CHI_LOG_ERROR,
          "syncing the allocation log failed (%s): nothing is allocated or freed any more",
          chi_status_text(rc));
  return CHI_EIO;
}

static void bdev_commit_encode(struct bdev_log_writer *w, const struct bdev_commit_entry *e)
{
  static const enum bdev_log_kind kinds[] = {
      [BDEV_COMMIT_ALLOCATE] = BDEV_LOG_ALLOCATE,
      [BDEV_COMMIT_FREE] = BDEV_LOG_FREE,
      [BDEV_COMMIT_MARK] = BDEV_LOG_MARK,
  };
  if (e->kind == BDEV_COMMIT_BARRIER)
    return;
  bdev_log_begin(w, kinds[e->kind]);
  if (e->kind == BDEV_COMMIT_FREE) {
    for (uint64_t i = 0; i < e->count; i++)
      bdev_log_range(w, e->ranges[i].offset, e->ranges[i].size);
  }
  for (const struct extent *x = e->chain; x; x = x->next)
    bdev_log_range(w, x->offset, x->size);
  bdev_log_end(w);
}

/* Cuts off what a failed batch has left. It does no harm but keep its space after a restart. */
static int bdev_commit_sweep(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = c->reach > c->end ? chi_file_truncate(ctx, c->file, c->end) : CHI_OK;
  c->reach = rc ? c->reach : c->end;
  return rc;
}

static int bdev_commit_settle_name(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = c->unnamed ? chi_file_dirsync(ctx, c->path) : CHI_OK;
  if (rc)
    return bdev_commit_doubt(ctx, c, rc);
  c->unnamed = false;
  return CHI_OK;
}

static int bdev_commit_store(chi_ctx *ctx, struct bdev_commit *c, const struct bdev_log_writer *w)
{
  int64_t n = chi_file_write(ctx, c->file, w->bytes, w->size, c->end);
  int rc;
  c->reach = c->reach > c->end + w->size ? c->reach : c->end + w->size;
  if (n < 0) {
    bdev_commit_sweep(ctx, c);
    return (int)n;
  }
  rc = chi_file_sync(ctx, c->file);
  return rc ? bdev_commit_doubt(ctx, c, rc) : CHI_OK;
}

/* Writes the batch in flight and makes it durable. */
static int bdev_commit_write(chi_ctx *ctx, struct bdev_commit *c, uint64_t size)
{
  struct bdev_log_writer w = {
      .room = size, .id = c->id, .base = c->end, .seq = c->seq, .link = c->link};
  bool mark = false;
  int rc;
  w.bytes = chi_alloc(ctx, size);
  if (!w.bytes)
    return CHI_ENOMEM;
  for (const struct bdev_commit_entry *e = c->first; e && e->flight; e = e->next) {
    bdev_commit_encode(&w, e);
    mark = e->kind == BDEV_COMMIT_MARK;
  }
  CHI_ASSERT(w.size == size);
  c->seq = w.seq; /* used, whatever comes of it */
  rc = bdev_commit_store(ctx, c, &w);
  chi_free(ctx, w.bytes, size);
  if (!rc)
    rc = bdev_commit_settle_name(ctx, c);
  if (rc)
    return rc;
  c->end += size;
  c->link = w.link;
  c->unmarked = !mark;
  return CHI_OK;
}

/* ---- a new file ------------------------------------------------------------------------------ */

/* The whole file in memory, at w->bytes of w->room. */
static int bdev_commit_snapshot(chi_ctx *ctx, struct bdev_commit *c, struct bdev_log_writer *w)
{
  struct bdev_log_head head = {chi_random(ctx), c->map->capacity, c->map->unit, 0};
  struct extent_range r;
  uint64_t runs = 0;
  for (uint64_t at = 0; extent_next(c->map, at, &r); at = r.offset + r.size)
    runs++;
  head.snapshot_end = BDEV_LOG_HEAD + (runs ? bdev_log_size(runs) : 0);
  *w = (struct bdev_log_writer){.room = head.snapshot_end,
                                .bytes = chi_alloc(ctx, head.snapshot_end)};
  if (!w->bytes)
    return CHI_ENOMEM;
  bdev_log_put_head(w, &head);
  if (runs)
    bdev_log_begin(w, BDEV_LOG_ALLOCATE);
  for (uint64_t at = 0; extent_next(c->map, at, &r); at = r.offset + r.size)
    bdev_log_range(w, r.offset, r.size);
  if (runs)
    bdev_log_end(w);
  CHI_ASSERT(w->size == w->room);
  return CHI_OK;
}

static int bdev_commit_fill(chi_ctx *ctx, chi_file *file, const struct bdev_log_writer *w)
{
  int rc = chi_file_truncate(ctx, file, 0);
  int64_t n = rc ? rc : chi_file_write(ctx, file, w->bytes, w->size, 0);
  return n < 0 ? (int)n : chi_file_sync(ctx, file);
}

/* Makes the file that takes the log's place, up to its name. */
static int bdev_commit_replace(chi_ctx *ctx, struct bdev_commit *c, const struct bdev_log_writer *w,
                               chi_file **out)
{
  int rc = bdev_io_open_locked(ctx, c->beside, CHI_FILE_CREATE, out);
  if (rc)
    return rc;
  rc = bdev_commit_fill(ctx, *out, w);
  if (!rc)
    rc = chi_file_rename(ctx, c->beside, c->path);
  if (rc) {
    chi_file_close(ctx, *out);
    chi_file_remove(ctx, c->beside);
  }
  return rc;
}

/* Frees before the snapshot are in it; what waits for its allocation is not, and follows. */
static void bdev_commit_cover(struct bdev_commit *c, bool covered)
{
  for (struct bdev_commit_entry *e = c->first; e; e = e->next)
    e->covered = covered && e->kind == BDEV_COMMIT_FREE;
}

static void bdev_commit_drop_covered(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry **at = &c->first;
  while (*at) {
    if ((*at)->covered)
      bdev_commit_forget(ctx, c, at);
    else
      at = &(*at)->next;
  }
}

/* Writes the log anew. Only the writer may. On failure the old one goes on, unless c->failed. */
static int bdev_commit_renew(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_log_writer w;
  chi_file *file = NULL;
  int rc = bdev_commit_snapshot(ctx, c, &w);
  if (rc)
    return rc;
  bdev_commit_cover(c, true);
  rc = bdev_commit_replace(ctx, c, &w, &file);
  chi_free(ctx, w.bytes, w.room);
  if (rc) {
    bdev_commit_cover(c, false);
    return rc;
  }
  if (c->file)
    chi_file_close(ctx, c->file);
  c->file = file;
  c->id = w.id;
  c->seq = w.seq;
  c->link = w.link;
  c->end = c->reach = c->snapshot_end = w.size;
  c->retry_at = 0;
  c->unmarked = false;
  c->unnamed = true;
  bdev_commit_drop_covered(ctx, c);
  return bdev_commit_settle_name(ctx, c);
}

/* Renews a log that has outgrown what it says. One that can't be renewed just grows on. */
static int bdev_commit_care(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc;
  if (c->end <= 2 * c->snapshot_end + BDEV_COMMIT_SLACK || c->end < c->retry_at)
    return CHI_OK;
  rc = bdev_commit_renew(ctx, c);
  if (rc && !c->failed) {
    chi_log(ctx, CHI_LOG_WARNING, "the allocation log can't be shortened: %s", chi_status_text(rc));
    c->retry_at = c->end + BDEV_COMMIT_SLACK;
  }
  return c->failed;
}

/* ---- who writes ------------------------------------------------------------------------------ */

/* Everything that waits is one batch; returns the bytes of its records. */
static uint64_t bdev_commit_gather(struct bdev_commit *c)
{
  uint64_t size = 0;
  for (struct bdev_commit_entry *e = c->first; e; e = e->next) {
    e->flight = true;
    size += bdev_commit_size(e);
  }
  return size;
}

/* Writes what waits, of this task and of others. */
static void bdev_commit_lead(chi_ctx *ctx, struct bdev_commit *c)
{
  uint64_t size;
  int rc = c->failed;
  CHI_ASSERT(!c->busy);
  c->busy = true;
  if (!rc)
    rc = bdev_commit_care(ctx, c);
  size = bdev_commit_gather(c);
  if (!rc)
    rc = size > 0 ? bdev_commit_write(ctx, c, size) : bdev_commit_settle_name(ctx, c);
  bdev_commit_resolve(ctx, c, rc);
  c->busy = false;
  bdev_commit_pass(ctx, c);
}

/* Sees to it that an entry is written, together with others. The task can't be cancelled any more:
 * others may depend on what it writes. */
static int bdev_commit_wait(chi_ctx *ctx, struct bdev_commit *c, struct bdev_commit_entry *e)
{
  ctx_shield(ctx);
  bdev_commit_append(c, e);
  while (!e->done) {
    if (!c->busy) {
      bdev_commit_lead(ctx, c);
    } else {
      int rc = chi_event_wait(ctx, &e->wake, 0);
      CHI_ASSERT(rc == CHI_OK);
      chi_event_reset(ctx, &e->wake);
    }
  }
  return e->rc;
}

/* ---- what others call ------------------------------------------------------------------------ */

CHI_PRIVATE int bdev_commit_allocate(chi_ctx *ctx, struct bdev_commit *c, struct extent *chain)
{
  struct bdev_commit_entry e = {.kind = BDEV_COMMIT_ALLOCATE, .chain = chain};
  for (const struct extent *x = chain; x; x = x->next)
    e.count++;
  return bdev_commit_wait(ctx, c, &e);
}

CHI_PRIVATE int bdev_commit_sync(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry e = {.kind = BDEV_COMMIT_BARRIER};
  if (c->failed || (!c->first && !c->unnamed))
    return c->failed;
  return bdev_commit_wait(ctx, c, &e);
}

CHI_PRIVATE int bdev_commit_free(chi_ctx *ctx, struct bdev_commit *c,
                                 const struct extent_range *ranges, uint64_t count)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_commit_entry *e;
  int rc = c->owed > BDEV_COMMIT_OWED ? bdev_commit_sync(ctx, c) : c->failed;
  if (rc || count == 0)
    return rc;
  e = chi_alloc(ctx, bdev_commit_room(count));
  if (!e)
    return CHI_ENOMEM;
  rc = extent_free(c->map, &memory, ranges, count);
  if (rc) {
    chi_free(ctx, e, bdev_commit_room(count));
    return rc;
  }
  *e = (struct bdev_commit_entry){.kind = BDEV_COMMIT_FREE, .count = count};
  memcpy(e->ranges, ranges, count * sizeof(*ranges));
  c->owed += bdev_commit_size(e);
  bdev_commit_append(c, e);
  return CHI_OK;
}

/* Reads the whole file; *bytes is of *size, NULL when it is empty. */
static int bdev_commit_load(chi_ctx *ctx, struct bdev_commit *c, uint8_t **bytes, uint64_t *size)
{
  int64_t n = chi_file_size(ctx, c->file);
  *bytes = NULL;
  *size = 0;
  if (n <= 0)
    return (int)n;
  *bytes = chi_alloc(ctx, (size_t)n);
  *size = (uint64_t)n;
  if (!*bytes)
    return CHI_ENOMEM;
  n = chi_file_read(ctx, c->file, *bytes, *size, 0);
  return n < 0 ? (int)n : (uint64_t)n < *size ? CHI_EIO : CHI_OK;
}

/* Replays the open file. */
static int bdev_commit_restore(chi_ctx *ctx, struct bdev_commit *c, chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  struct bdev_log_found found = {0};
  uint8_t *bytes;
  uint64_t size;
  int rc = bdev_commit_load(ctx, c, &bytes, &size);
  if (!rc)
    rc = bdev_log_replay(bytes, size, &memory, c->map, &found, err);
  if (bytes)
    chi_free(ctx, bytes, size);
  if (rc)
    return rc;
  c->id = found.head.id;
  c->seq = found.seq;
  c->link = found.link;
  c->end = found.end;
  c->reach = size;
  c->snapshot_end = found.head.snapshot_end;
  c->unmarked = !found.marked;
  c->unnamed = true; /* who renamed it may have been killed before that was durable */
  if (found.torn)
    chi_log(ctx, CHI_LOG_WARNING,
            "the last %llu bytes of the allocation log were never confirmed: dropped",
            (unsigned long long)(size - found.end));
  return CHI_OK;
}

/* What was read need not be durable, not even after a sync: one of the process before may have
 * failed. But what follows in the same file would say that it is. So a new one is begun; on a full
 * disk, the old one is made as good as can be. */
static int bdev_commit_secure(chi_ctx *ctx, struct bdev_commit *c)
{
  int rc = bdev_commit_renew(ctx, c);
  if (rc != CHI_ENOSPC)
    return rc;
  chi_log(ctx, CHI_LOG_WARNING, "no space for a new allocation log: the old one goes on");
  rc = bdev_commit_sweep(ctx, c);
  return rc ? rc : chi_file_sync(ctx, c->file);
}

/* Takes over another capacity or unit. */
static int bdev_commit_adapt(chi_ctx *ctx, struct bdev_commit *c, uint64_t capacity, uint64_t unit,
                             chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc;
  if (c->map->capacity == capacity && c->map->unit == unit)
    return c->reach > c->snapshot_end ? bdev_commit_secure(ctx, c)
                                      : bdev_commit_settle_name(ctx, c);
  rc = extent_resize(c->map, &memory, capacity, unit);
  if (rc == CHI_ECONFLICT)
    return error_set(err, rc, "what it says is allocated doesn't fit this capacity and alignment");
  return rc ? rc : bdev_commit_renew(ctx, c);
}

static int bdev_commit_begin(chi_ctx *ctx, struct bdev_commit *c, uint64_t capacity, uint64_t unit,
                             chi_error *err)
{
  struct alloc memory = bdev_commit_memory(ctx);
  int rc = bdev_io_open_locked(ctx, c->path, 0, &c->file);
  if (rc == CHI_ENOENT) {
    c->file = NULL;
    rc = extent_init(c->map, &memory, capacity, unit);
    return rc ? rc : bdev_commit_renew(ctx, c);
  }
  if (rc)
    return rc;
  rc = bdev_commit_restore(ctx, c, err);
  return rc ? rc : bdev_commit_adapt(ctx, c, capacity, unit, err);
}

CHI_PRIVATE int bdev_commit_open(chi_ctx *ctx, struct bdev_commit *c, const char *name,
                                 struct extent_map *map, uint64_t capacity, uint64_t unit)
{
  struct alloc memory = bdev_commit_memory(ctx);
  chi_error err = {0, ""};
  int rc;
  *c = (struct bdev_commit){.map = map};
  c->last = &c->first;
  snprintf(c->path, sizeof(c->path), "%s.chi-log", name);
  snprintf(c->beside, sizeof(c->beside), "%s.chi-log.new", name);
  rc = bdev_commit_begin(ctx, c, capacity, unit, &err);
  if (!rc) {
    chi_file_remove(ctx, c->beside); /* of a renewal that a crash cut short */
    return CHI_OK;
  }
  chi_log(ctx, CHI_LOG_ERROR, "allocation log: %s", err.code ? err.text : chi_status_text(rc));
  if (c->file)
    chi_file_close(ctx, c->file);
  extent_fini(map, &memory);
  *c = (struct bdev_commit){0};
  return rc;
}

CHI_PRIVATE void bdev_commit_close(chi_ctx *ctx, struct bdev_commit *c)
{
  struct bdev_commit_entry mark = {.kind = BDEV_COMMIT_MARK};
  CHI_ASSERT(!c->busy);
  if (bdev_commit_sync(ctx, c) == CHI_OK && c->unmarked)
    bdev_commit_wait(ctx, c, &mark);
  bdev_commit_sweep(ctx, c);
  while (c->first)
    bdev_commit_forget(ctx, c, &c->first);
  chi_file_close(ctx, c->file);
  *c = (struct bdev_commit){0};
}

#undef BDEV_COMMIT_SLACK
#undef BDEV_COMMIT_OWED
