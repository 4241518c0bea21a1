/* sim_disk.c - a disk in memory: what programs see, what is safe, and what a crash leaves. */
#include "sim_disk.h"
#include "hash.h"
#include "rng.h"

#include <stdlib.h>

#define SIM_DISK_STREAM UINT64_C(0x6469736b)  /* "disk" */
#define SIM_DISK_SIZE_MAX (UINT64_C(1) << 42) /* of a file: bounds the table of its pages */

/* Content of a file: pages that were never written are holes, and read as zeros. */
struct sim_disk_data {
  uint8_t **page;
  uint64_t room;  /* of the table */
  uint64_t pages; /* that are there */
  uint64_t size;
};

/* What was done to a file since its last sync. */
struct sim_disk_change {
  struct sim_disk_change *next;
  uint64_t number; /* of all changes on this disk */
  bool cut;        /* truncated to size; else size bytes written at offset */
  uint64_t offset, size;
  uint8_t bytes[];
};

struct sim_disk_file {
  struct sim_disk_file *next;
  uint32_t opens;
  bool locked;
  struct sim_disk_data now, safe;
  struct sim_disk_change *changes, **last;
};

struct sim_disk_name {
  struct sim_disk_name *next;
  struct sim_disk_file *file; /* NULL: a directory */
  char path[];
};

/* A file lost the name `from`, got the name `to`, or both; the other is NULL. */
struct sim_disk_move {
  struct sim_disk_move *next;
  uint64_t number;
  struct sim_disk_file *file;
  char *from, *to;
};

struct sim_disk_handle {
  struct sim_disk_file *file; /* NULL: closed */
  uint32_t flags;
};

struct sim_disk {
  struct rng rng;
  uint64_t capacity;
  uint64_t changes; /* numbers changes and moves */
  struct sim_disk_file *files;
  struct sim_disk_name *now, *safe, *directories;
  struct sim_disk_move *moves, **last_move;
  struct sim_disk_handle *handles;
  uint32_t handle_count, handle_room;
};

static void *sim_disk_new(size_t size)
{
  void *p = calloc(1, size);
  CHI_ASSERT(p);
  return p;
}

static char *sim_disk_text(const char *text)
{
  size_t size = text ? strlen(text) + 1 : 0;
  return text ? memcpy(sim_disk_new(size), text, size) : NULL;
}

/* ---- content ------------------------------------------------------------------------------ */

static uint8_t *sim_disk_data_page(const struct sim_disk_data *data, uint64_t offset)
{
  uint64_t index = offset / SIM_DISK_ALIGN;
  return index < data->room ? data->page[index] : NULL;
}

/* The page that holds offset, made if it was a hole. */
static uint8_t *sim_disk_data_make(struct sim_disk_data *data, uint64_t offset)
{
  uint64_t index = offset / SIM_DISK_ALIGN;
  CHI_ASSERT(offset < SIM_DISK_SIZE_MAX);
  if (index >= data->room) {
    uint64_t room = index + index / 2 + 8;
    data->page = realloc(data->page, room * sizeof(*data->page));
    CHI_ASSERT(data->page);
    memset(data->page + data->room, 0, (room - data->room) * sizeof(*data->page));
    data->room = room;
  }
  if (!data->page[index]) {
    data->page[index] = sim_disk_new(SIM_DISK_ALIGN);
    data->pages++;
  }
  return data->page[index];
}

/* Bytes from offset to the end of what `unit` divides, at most size. */
static uint64_t sim_disk_piece(uint64_t offset, uint64_t size, uint64_t unit)
{
  uint64_t piece = unit - offset % unit;
  return piece < size ? piece : size;
}

static void sim_disk_data_write(struct sim_disk_data *data, const uint8_t *bytes, uint64_t size,
                                uint64_t offset)
{
  while (size) {
    uint64_t piece = sim_disk_piece(offset, size, SIM_DISK_ALIGN);
    memcpy(sim_disk_data_make(data, offset) + offset % SIM_DISK_ALIGN, bytes, piece);
    bytes += piece;
    offset += piece;
    size -= piece;
    if (data->size < offset)
      data->size = offset;
  }
}

static uint64_t sim_disk_data_read(const struct sim_disk_data *data, uint8_t *bytes, uint64_t size,
                                   uint64_t offset)
{
  uint64_t done = 0;
  if (offset >= data->size)
    return 0;
  if (size > data->size - offset)
    size = data->size - offset;
  while (done < size) {
    uint64_t piece = sim_disk_piece(offset, size - done, SIM_DISK_ALIGN);
    const uint8_t *page = sim_disk_data_page(data, offset);
    if (page)
      memcpy(bytes + done, page + offset % SIM_DISK_ALIGN, piece);
    else
      memset(bytes + done, 0, piece);
    done += piece;
    offset += piece;
  }
  return done;
}

static void sim_disk_data_cut(struct sim_disk_data *data, uint64_t size)
{
  uint64_t keep = (size + SIM_DISK_ALIGN - 1) / SIM_DISK_ALIGN;
  uint8_t *page = sim_disk_data_page(data, size);
  if (size % SIM_DISK_ALIGN && page)
    memset(page + size % SIM_DISK_ALIGN, 0, SIM_DISK_ALIGN - size % SIM_DISK_ALIGN);
  for (uint64_t i = keep; i < data->room; i++) {
    data->pages -= data->page[i] != NULL;
    free(data->page[i]);
    data->page[i] = NULL;
  }
  data->size = size;
}

static void sim_disk_data_copy(struct sim_disk_data *to, const struct sim_disk_data *from)
{
  sim_disk_data_cut(to, 0);
  for (uint64_t i = 0; i < from->room; i++)
    if (from->page[i])
      memcpy(sim_disk_data_make(to, i * SIM_DISK_ALIGN), from->page[i], SIM_DISK_ALIGN);
  to->size = from->size;
}

static void sim_disk_data_free(struct sim_disk_data *data)
{
  sim_disk_data_cut(data, 0);
  free(data->page);
}

/* ---- names -------------------------------------------------------------------------------- */

static struct sim_disk_name **sim_disk_name_at(struct sim_disk_name **names, const char *path)
{
  while (*names && strcmp((*names)->path, path) != 0)
    names = &(*names)->next;
  return names;
}

static struct sim_disk_file *sim_disk_find(const struct sim_disk *d, const char *path)
{
  struct sim_disk_name *names = d->now;
  struct sim_disk_name *name = *sim_disk_name_at(&names, path);
  return name ? name->file : NULL;
}

static void sim_disk_name_set(struct sim_disk_name **names, const char *path,
                              struct sim_disk_file *file)
{
  struct sim_disk_name **at = sim_disk_name_at(names, path);
  size_t size = strlen(path) + 1;
  if (!*at) {
    *at = sim_disk_new(sizeof(**at) + size);
    memcpy((*at)->path, path, size);
  }
  (*at)->file = file;
}

static void sim_disk_name_drop(struct sim_disk_name **at)
{
  struct sim_disk_name *name = *at;
  *at = name->next;
  free(name);
}

static void sim_disk_move_apply(struct sim_disk_name **names, const struct sim_disk_move *move)
{
  struct sim_disk_name **at = move->from ? sim_disk_name_at(names, move->from) : NULL;
  if (at && *at && (*at)->file == move->file)
    sim_disk_name_drop(at);
  if (move->to)
    sim_disk_name_set(names, move->to, move->file);
}

/* Length of the directory part of a path: 0 for a relative one without a slash. */
static size_t sim_disk_directory(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash ? (slash == path ? 1 : (size_t)(slash - path)) : 0;
}

static bool sim_disk_has_directory(const struct sim_disk *d, const char *path)
{
  size_t length = sim_disk_directory(path);
  const struct sim_disk_name *name = d->directories;
  if (length == 0 || (length == 1 && path[0] == '/'))
    return true;
  while (name && !(strlen(name->path) == length && memcmp(name->path, path, length) == 0))
    name = name->next;
  return name != NULL;
}

static void sim_disk_move(struct sim_disk *d, struct sim_disk_file *file, const char *from,
                          const char *to)
{
  struct sim_disk_move *move = sim_disk_new(sizeof(*move));
  move->number = ++d->changes;
  move->file = file;
  move->from = sim_disk_text(from);
  move->to = sim_disk_text(to);
  *d->last_move = move;
  d->last_move = &move->next;
  sim_disk_move_apply(&d->now, move);
}

/* Takes the move at *at out of the list, and makes it safe or forgets it. */
static void sim_disk_move_settle(struct sim_disk *d, struct sim_disk_move **at, bool keep)
{
  struct sim_disk_move *move = *at;
  *at = move->next;
  if (d->last_move == &move->next)
    d->last_move = at;
  if (keep)
    sim_disk_move_apply(&d->safe, move);
  free(move->from);
  free(move->to);
  free(move);
}

/* ---- files -------------------------------------------------------------------------------- */

static bool sim_disk_named(const struct sim_disk_name *name, const struct sim_disk_file *file)
{
  while (name && name->file != file)
    name = name->next;
  return name != NULL;
}

static bool sim_disk_moving(const struct sim_disk_move *move, const struct sim_disk_file *file)
{
  while (move && move->file != file)
    move = move->next;
  return move != NULL;
}

/* Takes the oldest change out, and makes it safe or forgets it. */
static void sim_disk_change_settle(struct sim_disk_file *file, bool keep)
{
  struct sim_disk_change *change = file->changes;
  file->changes = change->next;
  if (!file->changes)
    file->last = &file->changes;
  if (keep && change->cut)
    sim_disk_data_cut(&file->safe, change->size);
  else if (keep)
    sim_disk_data_write(&file->safe, change->bytes, change->size, change->offset);
  free(change);
}

static void sim_disk_file_free(struct sim_disk_file *file)
{
  while (file->changes)
    sim_disk_change_settle(file, false);
  sim_disk_data_free(&file->now);
  sim_disk_data_free(&file->safe);
  free(file);
}

/* Frees the files that nothing refers to any more. */
static void sim_disk_sweep(struct sim_disk *d)
{
  for (struct sim_disk_file **at = &d->files; *at;) {
    struct sim_disk_file *file = *at;
    if (file->opens || sim_disk_named(d->now, file) || sim_disk_named(d->safe, file) ||
        sim_disk_moving(d->moves, file)) {
      at = &file->next;
    } else {
      *at = file->next;
      sim_disk_file_free(file);
    }
  }
}

static struct sim_disk_file *sim_disk_file_new(struct sim_disk *d)
{
  struct sim_disk_file *file = sim_disk_new(sizeof(*file));
  file->last = &file->changes;
  file->next = d->files;
  d->files = file;
  return file;
}

static uint64_t sim_disk_free_bytes(const struct sim_disk *d)
{
  uint64_t used = 0;
  for (const struct sim_disk_file *file = d->files; file; file = file->next)
    if (file->opens || sim_disk_named(d->now, file))
      used += file->now.pages * SIM_DISK_ALIGN;
  return used < d->capacity ? d->capacity - used : 0;
}

static struct sim_disk_change *sim_disk_change(struct sim_disk *d, struct sim_disk_file *file,
                                               uint64_t bytes)
{
  struct sim_disk_change *change = sim_disk_new(sizeof(*change) + bytes);
  change->number = ++d->changes;
  *file->last = change;
  file->last = &change->next;
  return change;
}

/* ---- operations --------------------------------------------------------------------------- */

static struct sim_disk_handle *sim_disk_handle(const struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle;
  if (io->file < 0 || io->file >= (int64_t)d->handle_count)
    return NULL;
  handle = &d->handles[io->file];
  return handle->file ? handle : NULL;
}

static int64_t sim_disk_handle_new(struct sim_disk *d, struct sim_disk_file *file, uint32_t flags)
{
  if (d->handle_count == d->handle_room) {
    d->handle_room = d->handle_room * 2 + 8;
    d->handles = realloc(d->handles, d->handle_room * sizeof(*d->handles));
    CHI_ASSERT(d->handles);
  }
  d->handles[d->handle_count] = (struct sim_disk_handle){file, flags};
  file->opens++;
  file->locked = file->locked || (flags & CHI_FILE_LOCK);
  return d->handle_count++;
}

static int64_t sim_disk_do_open(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  uint32_t make = io->flags & (CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE);
  if (!io->path || !io->path[0])
    return CHI_EINVAL;
  if (!sim_disk_has_directory(d, io->path))
    return CHI_ENOENT;
  if (file && make == (CHI_FILE_CREATE | CHI_FILE_EXCLUSIVE))
    return CHI_EEXIST;
  if (file && file->locked && (io->flags & CHI_FILE_LOCK))
    return CHI_EBUSY;
  if (!file && !(io->flags & CHI_FILE_CREATE))
    return CHI_ENOENT;
  if (!file) {
    file = sim_disk_file_new(d);
    sim_disk_move(d, file, NULL, io->path);
  }
  return sim_disk_handle_new(d, file, io->flags);
}

static int64_t sim_disk_do_close(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return CHI_EINVAL;
  if (handle->flags & CHI_FILE_LOCK)
    handle->file->locked = false;
  handle->file->opens--;
  handle->file = NULL;
  sim_disk_sweep(d);
  return CHI_OK;
}

/* CHI_OK if the handle may transfer like that. */
static int sim_disk_may_transfer(const struct sim_disk_handle *handle, const struct env_io *io)
{
  if (!handle || !io->buf || io->offset > SIM_DISK_SIZE_MAX)
    return CHI_EINVAL;
  if (io->size > SIM_DISK_SIZE_MAX - io->offset)
    return CHI_EINVAL;
  if ((handle->flags & CHI_FILE_DIRECT) &&
      ((io->offset | io->size | (uintptr_t)io->buf) & (SIM_DISK_ALIGN - 1)))
    return CHI_EINVAL;
  return CHI_OK;
}

static int64_t sim_disk_do_read(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  int rc = sim_disk_may_transfer(handle, io);
  if (rc)
    return rc;
  return (int64_t)sim_disk_data_read(&handle->file->now, io->buf, io->size, io->offset);
}

/* How much of a write fits on the disk. */
static uint64_t sim_disk_fits(const struct sim_disk *d, const struct sim_disk_file *file,
                              const struct env_io *io)
{
  uint64_t left = sim_disk_free_bytes(d), fits = 0;
  while (fits < io->size) {
    uint64_t at = io->offset + fits;
    bool hole = !sim_disk_data_page(&file->now, at);
    if (hole && left < SIM_DISK_ALIGN)
      break;
    left -= hole ? SIM_DISK_ALIGN : 0;
    fits += sim_disk_piece(at, io->size - fits, SIM_DISK_ALIGN);
  }
  return fits;
}

static int64_t sim_disk_do_write(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  struct sim_disk_change *change;
  uint64_t size;
  int rc = sim_disk_may_transfer(handle, io);
  if (rc)
    return rc;
  if (handle->flags & CHI_FILE_READONLY)
    return CHI_EACCES;
  size = sim_disk_fits(d, handle->file, io);
  if (size == 0)
    return io->size ? CHI_ENOSPC : 0;
  change = sim_disk_change(d, handle->file, size);
  change->offset = io->offset;
  change->size = size;
  memcpy(change->bytes, io->buf, size);
  sim_disk_data_write(&handle->file->now, change->bytes, size, io->offset);
  return (int64_t)size;
}

static int64_t sim_disk_do_truncate(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  struct sim_disk_change *change;
  if (!handle || io->size > SIM_DISK_SIZE_MAX)
    return CHI_EINVAL;
  if (handle->flags & CHI_FILE_READONLY)
    return CHI_EACCES;
  change = sim_disk_change(d, handle->file, 0);
  change->cut = true;
  change->size = io->size;
  sim_disk_data_cut(&handle->file->now, io->size);
  return CHI_OK;
}

static int64_t sim_disk_do_sync(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return CHI_EINVAL;
  while (handle->file->changes && handle->file->changes->number <= mark)
    sim_disk_change_settle(handle->file, true);
  return CHI_OK;
}

static int64_t sim_disk_do_rename(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  if (!io->path || !io->path2 || !io->path2[0])
    return CHI_EINVAL;
  if (!file || !sim_disk_has_directory(d, io->path2))
    return CHI_ENOENT;
  if (strcmp(io->path, io->path2) != 0)
    sim_disk_move(d, file, io->path, io->path2);
  sim_disk_sweep(d);
  return CHI_OK;
}

static int64_t sim_disk_do_remove(struct sim_disk *d, const struct env_io *io)
{
  struct sim_disk_file *file = io->path ? sim_disk_find(d, io->path) : NULL;
  if (!io->path)
    return CHI_EINVAL;
  if (!file)
    return CHI_ENOENT;
  sim_disk_move(d, file, io->path, NULL);
  return CHI_OK;
}

static bool sim_disk_same_directory(const char *a, const char *b)
{
  size_t length = sim_disk_directory(a);
  return length == sim_disk_directory(b) && memcmp(a, b, length) == 0;
}

/* A rename belongs to the directory it renamed to. */
static int64_t sim_disk_do_dirsync(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  if (!io->path)
    return CHI_EINVAL;
  if (!sim_disk_has_directory(d, io->path))
    return CHI_ENOENT;
  for (struct sim_disk_move **at = &d->moves; *at && (*at)->number <= mark;) {
    if (sim_disk_same_directory((*at)->to ? (*at)->to : (*at)->from, io->path))
      sim_disk_move_settle(d, at, true);
    else
      at = &(*at)->next;
  }
  sim_disk_sweep(d);
  return CHI_OK;
}

CHI_PRIVATE uint64_t sim_disk_mark(const struct sim_disk *d)
{
  return d->changes;
}

CHI_PRIVATE int64_t sim_disk_do(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  const struct sim_disk_handle *handle;
  switch (io->op) {
  case ENV_IO_OPEN:
    return sim_disk_do_open(d, io);
  case ENV_IO_READ:
    return sim_disk_do_read(d, io);
  case ENV_IO_WRITE:
    return sim_disk_do_write(d, io);
  case ENV_IO_SYNC:
    return sim_disk_do_sync(d, io, mark);
  case ENV_IO_TRUNCATE:
    return sim_disk_do_truncate(d, io);
  case ENV_IO_SIZE:
    handle = sim_disk_handle(d, io);
    return handle ? (int64_t)handle->file->now.size : CHI_EINVAL;
  case ENV_IO_CLOSE:
    return sim_disk_do_close(d, io);
  case ENV_IO_RENAME:
    return sim_disk_do_rename(d, io);
  case ENV_IO_REMOVE:
    return sim_disk_do_remove(d, io);
  case ENV_IO_DIRSYNC:
    return sim_disk_do_dirsync(d, io, mark);
  case ENV_IO_SPACE:
    if (!io->path)
      return CHI_EINVAL;
    return sim_disk_has_directory(d, io->path) ? (int64_t)sim_disk_free_bytes(d) : CHI_ENOENT;
  default:
    return CHI_ENOTSUP;
  }
}

/* ---- bad days ----------------------------------------------------------------------------- */

/* Part of a write: sectors up to some point, or any of them; the size may have grown beyond. */
static void sim_disk_tear(struct sim_disk *d, struct sim_disk_file *file,
                          const struct sim_disk_change *change)
{
  uint64_t prefix = rng_below(&d->rng, change->size / SIM_DISK_SECTOR + 2), sectors = 0;
  bool any = rng_below(&d->rng, 2), grown = rng_below(&d->rng, 2);
  for (uint64_t done = 0, piece; done < change->size; done += piece, sectors++) {
    piece = sim_disk_piece(change->offset + done, change->size - done, SIM_DISK_SECTOR);
    if (any ? rng_below(&d->rng, 2) : sectors < prefix)
      sim_disk_data_write(&file->safe, change->bytes + done, piece, change->offset + done);
  }
  if (grown && file->safe.size < change->offset + change->size)
    file->safe.size = change->offset + change->size;
}

/* The oldest change is lost, kept, or torn if it is a write. */
static void sim_disk_change_draw(struct sim_disk *d, struct sim_disk_file *file)
{
  uint64_t fate = rng_below(&d->rng, 3);
  if (fate == 2 && !file->changes->cut)
    sim_disk_tear(d, file, file->changes);
  sim_disk_change_settle(file, fate == 1);
}

CHI_PRIVATE void sim_disk_sync_failed(struct sim_disk *d, const struct env_io *io, uint64_t mark)
{
  struct sim_disk_handle *handle = sim_disk_handle(d, io);
  if (!handle)
    return;
  while (handle->file->changes && handle->file->changes->number <= mark)
    sim_disk_change_draw(d, handle->file);
}

/* Half of the crashes treat all changes alike: the plain cases must not be rare. */
static enum sim_disk_crash sim_disk_draw(struct sim_disk *d)
{
  uint64_t drawn = rng_below(&d->rng, 4);
  return drawn == 0 ? SIM_DISK_LOSE : drawn == 1 ? SIM_DISK_KEEP : SIM_DISK_SEED;
}

static void sim_disk_crash_file(struct sim_disk *d, struct sim_disk_file *file,
                                enum sim_disk_crash how)
{
  if (how == SIM_DISK_SEED)
    how = sim_disk_draw(d);
  while (file->changes) {
    if (how == SIM_DISK_SEED)
      sim_disk_change_draw(d, file);
    else
      sim_disk_change_settle(file, how == SIM_DISK_KEEP);
  }
  sim_disk_data_copy(&file->now, &file->safe);
}

static void sim_disk_crash_names(struct sim_disk *d, enum sim_disk_crash how)
{
  if (how == SIM_DISK_SEED)
    how = sim_disk_draw(d);
  while (d->moves)
    sim_disk_move_settle(d, &d->moves,
                         how == SIM_DISK_SEED ? rng_below(&d->rng, 2) : how == SIM_DISK_KEEP);
  while (d->now)
    sim_disk_name_drop(&d->now);
  for (struct sim_disk_name *name = d->safe; name; name = name->next)
    sim_disk_name_set(&d->now, name->path, name->file);
}

/* Files are visited newest first: an order that the program's own doings made. */
CHI_PRIVATE void sim_disk_crash(struct sim_disk *d, enum sim_disk_crash how)
{
  for (struct sim_disk_file *file = d->files; file; file = file->next) {
    file->opens = 0;
    file->locked = false;
    if (how != SIM_DISK_KEEP) /* else the cache lives on, as safe as it was and no more */
      sim_disk_crash_file(d, file, how);
  }
  d->handle_count = 0;
  if (how != SIM_DISK_KEEP)
    sim_disk_crash_names(d, how);
  sim_disk_sweep(d);
}

/* ---- open, close, and a test's own view --------------------------------------------------- */

CHI_PRIVATE struct sim_disk *sim_disk_open(uint64_t seed, uint32_t node, uint64_t capacity)
{
  struct sim_disk *d = sim_disk_new(sizeof(*d));
  rng_seed(&d->rng, seed, node, SIM_DISK_STREAM);
  d->capacity = capacity;
  d->last_move = &d->moves;
  return d;
}

CHI_PRIVATE void sim_disk_close(struct sim_disk *d)
{
  sim_disk_crash(d, SIM_DISK_LOSE);
  while (d->now)
    sim_disk_name_drop(&d->now);
  while (d->safe)
    sim_disk_name_drop(&d->safe);
  while (d->directories)
    sim_disk_name_drop(&d->directories);
  sim_disk_sweep(d);
  CHI_ASSERT(!d->files);
  free(d->handles);
  free(d);
}

CHI_PRIVATE void sim_disk_mkdir(struct sim_disk *d, const char *path)
{
  sim_disk_name_set(&d->directories, path, NULL);
}

CHI_PRIVATE const char *sim_disk_path(const struct sim_disk *d, int64_t handle)
{
  const struct sim_disk_name *name = d->now;
  if (handle < 0 || handle >= (int64_t)d->handle_count || !d->handles[handle].file)
    return NULL;
  while (name && name->file != d->handles[handle].file)
    name = name->next;
  return name ? name->path : NULL;
}

CHI_PRIVATE bool sim_disk_is_safe(const struct sim_disk *d, uint64_t path, uint64_t mark)
{
  const uint64_t bits = UINT64_MAX >> ENV_DEVICE_BITS;
  for (const struct sim_disk_name *name = d->now; name; name = name->next) {
    if ((hash_bytes(name->path, strlen(name->path), 0) & bits) != path || !name->file)
      continue;
    if (name->file->changes && name->file->changes->number <= mark)
      return false;
  }
  return true;
}

CHI_PRIVATE uint32_t sim_disk_open_count(const struct sim_disk *d)
{
  uint32_t count = 0;
  for (const struct sim_disk_file *file = d->files; file; file = file->next)
    count += file->opens;
  return count;
}

CHI_PRIVATE int64_t sim_disk_peek(const struct sim_disk *d, const char *path, void *buf,
                                  uint64_t size, uint64_t offset)
{
  const struct sim_disk_file *file = sim_disk_find(d, path);
  return file ? (int64_t)sim_disk_data_read(&file->now, buf, size, offset) : CHI_ENOENT;
}

CHI_PRIVATE int64_t sim_disk_peek_safe(const struct sim_disk *d, const char *path, void *buf,
                                       uint64_t size, uint64_t offset)
{
  const struct sim_disk_file *file = sim_disk_find(d, path);
  if (!file)
    return CHI_ENOENT;
  return (int64_t)(size ? sim_disk_data_read(&file->safe, buf, size, offset) : file->safe.size);
}

CHI_PRIVATE void sim_disk_poke(struct sim_disk *d, const char *path, const void *buf, uint64_t size,
                               uint64_t offset)
{
  struct sim_disk_file *file = sim_disk_find(d, path);
  if (!file)
    file = sim_disk_file_new(d);
  sim_disk_name_set(&d->now, path, file);
  sim_disk_name_set(&d->safe, path, file);
  sim_disk_data_write(&file->now, buf, size, offset);
  sim_disk_data_write(&file->safe, buf, size, offset);
}

#undef SIM_DISK_STREAM
#undef SIM_DISK_SIZE_MAX
