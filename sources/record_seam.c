/* record_seam.c - the seam of a node that is recorded or replayed: every call of it is an item. */
#include "record.h"
#include "attach.h"
#include "hash.h"

static struct record *record_of(struct env *env)
{
  return env->self;
}

/* The result of the call whose output came before. */
static int record_result(struct record *r, int64_t *rc)
{
  uint64_t value = (uint64_t)*rc;
  record_values(r, RECORD_RESULT, &value, 1);
  *rc = (int64_t)value;
  if (record_reads(r) && (*rc > 1 || *rc < INT16_MIN))
    tape_lose(&r->tape, TAPE_DAMAGED, "a result that cannot be: %lld", (long long)*rc);
  return (int)*rc;
}

/* Only memory stands behind a replay: where it is short, that says nothing about the record. */
static void record_check_own(struct record *r, int rc, const char *what)
{
  if (rc != CHI_OK)
    tape_lose(&r->tape, TAPE_FOREIGN, "cannot be replayed here: %s: %s", what, chi_status_text(rc));
}

/* ---- memory, time, lines --------------------------------------------------------------------- */

static void *record_get(void *arg, size_t size)
{
  struct record *r = arg;
  void *p = NULL;
  uint64_t number = ++r->gets;
  if (record_reads(r) && tape_next(&r->tape) == RECORD_NO_MEMORY) {
    record_values(r, RECORD_NO_MEMORY, &number, 1);
    return NULL;
  }
  p = r->base->alloc.get(r->base->alloc.arg, size);
  if (!p && record_reads(r))
    record_check_own(r, CHI_ENOMEM, "private memory");
  if (!p)
    record_values(r, RECORD_NO_MEMORY, &number, 1);
  return p;
}

static void record_put(void *arg, void *p, size_t size)
{
  struct record *r = arg;
  r->puts++;
  r->base->alloc.put(r->base->alloc.arg, p, size);
}

static uint64_t record_clock(struct env *env)
{
  struct record *r = record_of(env);
  uint64_t value = record_reads(r) ? 0 : r->base->clock(r->base);
  record_values(r, RECORD_CLOCK, &value, 1);
  return value;
}

static uint64_t record_random(struct env *env)
{
  struct record *r = record_of(env);
  uint64_t value = record_reads(r) ? 0 : r->base->random(r->base);
  record_values(r, RECORD_RANDOM, &value, 1);
  return value;
}

static uint64_t record_wall(struct env *env)
{
  struct record *r = record_of(env);
  uint64_t value = record_reads(r) ? 0 : r->base->wall(r->base);
  record_values(r, RECORD_WALL, &value, 1);
  return value;
}

static void record_log(struct env *env, int level, const char *line)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_LOG);
  tape_say(&r->tape, (uint64_t)level);
  tape_say_bytes(&r->tape, line, strlen(line));
  tape_said(&r->tape);
  r->base->log(r->base, level, line);
}

static void record_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_TRACE);
  tape_say(&r->tape, (uint64_t)what);
  tape_say(&r->tape, a);
  tape_say(&r->tape, b);
  tape_say(&r->tape, c);
  tape_said(&r->tape);
  if (r->base->trace)
    r->base->trace(r->base, what, a, b, c);
}

static int record_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  struct record *r = record_of(env);
  uint64_t rc = 0;
  if (!record_reads(r))
    rc = (uint64_t)(int64_t)r->base->stack_open(r->base, size, out);
  record_values(r, RECORD_STACK, &rc, 1);
  if (record_reads(r) && rc == 0)
    record_check_own(r, r->base->stack_open(r->base, size, out), "a stack");
  return (int)rc;
}

static void record_stack_close(struct env *env, struct env_stack *stack)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_STACK_CLOSE);
  tape_said(&r->tape);
  r->base->stack_close(r->base, stack);
}

/* ---- shared memory --------------------------------------------------------------------------- */

static struct record_segment *record_segment_at(struct record *r, int64_t handle)
{
  CHI_ASSERT(handle >= 0 && handle < r->segment.count);
  return (struct record_segment *)r->segment.item + handle;
}

/* A place that is free, or a new one; -1: no memory. */
static int64_t record_segment_place(struct record *r)
{
  struct record_segment *s = r->segment.item;
  for (uint32_t i = 0; i < r->segment.count; i++)
    if (!s[i].base.base)
      return i;
  s = record_list_add(r, &r->segment, sizeof *s);
  if (!s)
    return -1;
  *s = (struct record_segment){.own = NULL};
  return r->segment.count - 1;
}

static bool record_is_desk(uint64_t size, int access)
{
  return access == ENV_SHARED_WRITE && size == (sizeof(struct lane_desk) + 4095) / 4096 * 4096;
}

static int record_segment_make(struct record *r, const char *name, uint64_t size, int access,
                               struct env_segment *out)
{
  const struct alloc *alloc = &r->base->alloc;
  int64_t place = record_segment_place(r);
  if (place < 0)
    return CHI_ENOMEM;
  struct record_segment *s = record_segment_at(r, place);
  s->own = NULL;
  if (r->records && record_is_desk(size, access)) {
    s->own = alloc_zero(alloc, (size_t)size);
    if (!s->own)
      return CHI_ENOMEM;
  }
  int rc = r->base->segment_open(r->base, name, size, access, &s->base);
  if (rc != CHI_OK) {
    alloc_put(alloc, s->own, (size_t)size);
    *s = (struct record_segment){.own = NULL};
    return rc;
  }
  *out = (struct env_segment){s->own ? s->own : s->base.base, size, place};
  return CHI_OK;
}

static int record_segment_open(struct env *env, const char *name, uint64_t size, int access,
                               struct env_segment *out)
{
  struct record *r = record_of(env);
  int64_t rc = CHI_OK;
  tape_out(&r->tape, RECORD_SEGMENT_OPEN);
  tape_say_bytes(&r->tape, name, strlen(name));
  tape_say(&r->tape, size);
  tape_say(&r->tape, (uint64_t)access);
  tape_said(&r->tape);
  if (!record_reads(r))
    rc = record_segment_make(r, name, size, access, out);
  record_result(r, &rc);
  if (record_reads(r) && rc == CHI_OK)
    record_check_own(r, record_segment_make(r, name, size, access, out), "shared memory");
  return (int)rc;
}

static void record_segment_say(struct record *r, int kind, const struct env_segment *segment)
{
  tape_out(&r->tape, kind);
  tape_say(&r->tape, (uint64_t)segment->handle);
  tape_said(&r->tape);
}

static void record_segment_close(struct env *env, struct env_segment *segment)
{
  struct record *r = record_of(env);
  struct record_segment *s = record_segment_at(r, segment->handle);
  record_segment_say(r, RECORD_SEGMENT_CLOSE, segment);
  record_set_drop(r, segment->handle);
  alloc_put(&r->base->alloc, s->own, (size_t)segment->size);
  r->base->segment_close(r->base, &s->base);
  *s = (struct record_segment){.own = NULL};
}

static void record_segment_discard(struct env *env, struct env_segment *segment)
{
  struct record *r = record_of(env);
  record_segment_say(r, RECORD_SEGMENT_DISCARD, segment);
  r->base->segment_discard(r->base, &record_segment_at(r, segment->handle)->base);
}

static int record_segment_restore(struct env *env, struct env_segment *segment)
{
  struct record *r = record_of(env);
  struct env_segment *base = &record_segment_at(r, segment->handle)->base;
  int64_t rc = CHI_OK;
  record_segment_say(r, RECORD_SEGMENT_RESTORE, segment);
  if (!record_reads(r))
    rc = r->base->segment_restore(r->base, base);
  record_result(r, &rc);
  if (record_reads(r) && rc == CHI_OK)
    record_check_own(r, r->base->segment_restore(r->base, base), "shared memory");
  return (int)rc;
}

/* Where an address is in the memory of clients. */
static int64_t record_segment_of(const struct record *r, const char *at)
{
  const struct record_segment *s = r->segment.item;
  for (uint32_t i = 0; i < r->segment.count; i++)
    if (s[i].base.base && at >= (char *)s[i].base.base &&
        at < (char *)s[i].base.base + s[i].base.size)
      return i;
  return -1;
}

/* A copy of a task, which the client cannot change any more. */
static const void *record_task(struct record *r, const void *at, uint64_t size)
{
  const struct alloc *alloc = &r->base->alloc;
  if (size > r->task_room) {
    alloc_put(alloc, r->task, r->task_room);
    r->task = alloc_get(alloc, (size_t)size);
    r->task_room = r->task ? (size_t)size : 0;
    if (!r->task)
      r->tape.failed = CHI_ENOMEM; /* from here on there is no record */
    if (!r->task && record_reads(r))
      record_check_own(r, CHI_ENOMEM, "private memory");
  }
  if (!r->task)
    return at;
  if (!record_reads(r))
    memcpy(r->task, at, (size_t)size);
  tape_bytes(&r->tape, r->task, size);
  return r->task;
}

static const void *record_memory(struct env *env, int what, void *at, uint64_t size)
{
  struct record *r = record_of(env);
  int64_t place = r->tape.mode == TAPE_OFF ? -1 : record_segment_of(r, at);
  if (place < 0)
    return at;
  const struct env_segment *base = &record_segment_at(r, place)->base;
  uint64_t offset = (uint64_t)((char *)at - (char *)base->base);
  size = size < base->size - offset ? size : base->size - offset;
  tape_out(&r->tape, what == ENV_MEMORY_RETURN ? RECORD_RETURNS : RECORD_TAKES);
  tape_say(&r->tape, (uint64_t)place);
  tape_say(&r->tape, offset);
  tape_say(&r->tape, size);
  if (what == ENV_MEMORY_RETURN)
    tape_say(&r->tape, hash_bytes(at, (size_t)size, size));
  tape_said(&r->tape);
  if (what == ENV_MEMORY_TASK)
    return record_task(r, at, size);
  if (what == ENV_MEMORY_BUFFER)
    tape_bytes(&r->tape, at, size);
  return at;
}

/* ---- bells ----------------------------------------------------------------------------------- */

static env_bell *record_bell_at(const struct record *r, env_bell bell)
{
  env_bell *b = r->bell.item;
  for (uint32_t i = 0; i < r->bell.count; i++)
    if (b[i] == bell)
      return &b[i];
  return NULL;
}

static uint64_t record_bell_number(const struct record *r, env_bell bell)
{
  const env_bell *at = record_bell_at(r, bell);
  CHI_ASSERT(at);
  return (uint64_t)(at - (const env_bell *)r->bell.item);
}

static int record_bell_make(struct record *r, env_bell *out)
{
  env_bell *at = record_bell_at(r, ENV_NO_BELL);
  if (!at)
    at = record_list_add(r, &r->bell, sizeof *at);
  if (!at)
    return CHI_ENOMEM;
  *at = ENV_NO_BELL;
  int rc = r->base->bell_open(r->base, out);
  if (rc == CHI_OK)
    *at = *out;
  return rc;
}

static int record_bell_open(struct env *env, env_bell *out)
{
  struct record *r = record_of(env);
  uint64_t rc = 0;
  if (!record_reads(r))
    rc = (uint64_t)(int64_t)record_bell_make(r, out);
  record_values(r, RECORD_BELL, &rc, 1);
  if (record_reads(r) && rc == 0)
    record_check_own(r, record_bell_make(r, out), "a bell");
  return (int)rc;
}

static void record_bell_say(struct record *r, int kind, env_bell bell)
{
  tape_out(&r->tape, kind);
  tape_say(&r->tape, record_bell_number(r, bell));
  tape_said(&r->tape);
}

static void record_bell_close(struct env *env, env_bell bell)
{
  struct record *r = record_of(env);
  record_bell_say(r, RECORD_BELL_CLOSE, bell);
  *record_bell_at(r, bell) = ENV_NO_BELL;
  r->base->bell_close(r->base, bell);
}

static void record_bell_ring(struct env *env, env_bell bell)
{
  struct record *r = record_of(env);
  record_bell_say(r, RECORD_BELL_RING, bell);
  if (!record_reads(r))
    r->base->bell_ring(r->base, bell);
}

/* ---- links ----------------------------------------------------------------------------------- */

/* The answer by which a client gets a queue: see attach.h. */
static int record_look_for_queue(struct record *r, const void *message, size_t size,
                                  const struct env_share *share, uint32_t count)
{
  struct attach_reply reply;
  if (count != 3 || size != sizeof reply || share[0].kind != ENV_SHARE_SEGMENT_WRITE ||
      share[1].kind != ENV_SHARE_SEGMENT_READ || share[2].kind != ENV_SHARE_BELL)
    return CHI_OK;
  memcpy(&reply, message, sizeof reply);
  return record_set_add(r, share, reply.depth) ? CHI_OK : CHI_ENOMEM;
}

static int record_link_reply(struct env *env, env_link link, const void *message, size_t size,
                             const struct env_share *shares, uint32_t count)
{
  struct record *r = record_of(env);
  struct env_share share[ENV_SHARES_MAX];
  int64_t rc = CHI_OK;
  CHI_ASSERT(count <= ENV_SHARES_MAX);
  tape_out(&r->tape, RECORD_LINK_REPLY);
  tape_say(&r->tape, (uint64_t)link);
  tape_say_bytes(&r->tape, message, size);
  for (uint32_t i = 0; i < count; i++) {
    bool bell = shares[i].kind == ENV_SHARE_BELL;
    share[i] = shares[i];
    tape_say(&r->tape, (uint64_t)shares[i].kind);
    tape_say(&r->tape, bell ? record_bell_number(r, shares[i].bell)
                            : (uint64_t)shares[i].segment.handle);
    if (!bell)
      share[i].segment = record_segment_at(r, shares[i].segment.handle)->base;
  }
  tape_said(&r->tape);
  rc = record_look_for_queue(r, message, size, shares, count); /* before the client can use it */
  if (rc == CHI_OK && !record_reads(r))
    rc = r->base->link_reply(r->base, link, message, size, share, count);
  return record_result(r, &rc);
}

static void record_link_close(struct env *env, env_link link)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_LINK_CLOSE);
  tape_say(&r->tape, (uint64_t)link);
  tape_said(&r->tape);
  if (!record_reads(r))
    r->base->link_close(r->base, link);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void record_io_say(struct record *r, int kind, uint32_t worker, const struct env_io *io)
{
  struct tape *t = &r->tape;
  tape_out(t, kind);
  tape_say(t, worker);
  tape_say(t, (uint64_t)io->op);
  if (io->path)
    tape_say_bytes(t, io->path, strlen(io->path));
  else
    tape_say(t, (uint64_t)io->file);
  if (io->path && io->path2)
    tape_say_bytes(t, io->path2, strlen(io->path2));
  tape_say(t, io->flags);
  tape_say(t, io->offset);
  tape_say(t, io->size);
  if (kind == RECORD_IO_SUBMIT && io->op == ENV_IO_WRITE)
    tape_say(t, hash_bytes(io->buf, (size_t)io->size, io->size));
  tape_said(t);
}

/* What an operation gave, with the data that was read. */
static void record_io_result(struct record *r, struct env_io *io)
{
  uint64_t result = (uint64_t)io->result;
  tape_u64(&r->tape, &result);
  io->result = (int64_t)result;
  if (io->op != ENV_IO_READ || io->result <= 0)
    return;
  if (result > io->size)
    tape_lose(&r->tape, TAPE_DAMAGED, "an operation that read more than it asked for");
  else
    tape_bytes(&r->tape, io->buf, result);
}

/* It comes back to the same worker. */
static uint64_t record_io_number(uint32_t worker, uint64_t flight)
{
  return (uint64_t)worker << 48 | flight;
}

static int record_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  struct record *r = record_of(env);
  int64_t rc = CHI_OK;
  record_io_say(r, RECORD_IO_SUBMIT, worker, io);
  struct record_flight *f = record_list_add(r, &r->io, sizeof *f);
  if (!f)
    rc = CHI_ENOMEM;
  else
    *f = (struct record_flight){io, record_io_number(worker, ++r->flights)};
  if (!record_reads(r) && f)
    rc = r->base->io_submit(r->base, worker, io);
  if (record_result(r, &rc) != CHI_OK && f)
    r->io.count--; /* it was the last */
  if (rc == 1)
    record_io_result(r, io);
  return (int)rc;
}

static bool record_io_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  struct record *r = record_of(env);
  int64_t rc = 0;
  record_io_say(r, RECORD_IO_BLOCKS, worker, io);
  if (!record_reads(r))
    rc = r->base->io_blocks(r->base, worker, io);
  return record_result(r, &rc) != 0;
}

/* One that is under way, by the number of its submission. */
static struct env_io *record_io_completed(struct record *r, uint32_t worker, struct env_io *io)
{
  struct record_flight f = {0};
  uint64_t number = 0;
  if (io)
    f = record_list_take(&r->io, io, 0);
  number = f.number;
  tape_u64(&r->tape, &number);
  if (record_reads(r))
    f = record_list_take(&r->io, NULL, number);
  if (f.number == 0 || f.number >> 48 != worker)
    tape_lose(&r->tape, TAPE_DAMAGED, "a completed operation that was not under way");
  return f.what;
}

static struct env_io *record_io_reap(struct env *env, uint32_t worker)
{
  struct record *r = record_of(env);
  struct env_io *first = record_reads(r) ? NULL : r->base->io_reap(r->base, worker);
  struct env_io *io = first, **end = &first;
  uint64_t count = 0;
  for (const struct env_io *n = first; n; n = n->next)
    count++;
  record_values(r, RECORD_REAP, &count, 1);
  for (uint64_t i = 0; i < count; i++) {
    struct env_io *done = record_io_completed(r, worker, io);
    io = io ? io->next : NULL;
    if (!done)
      break;
    record_io_result(r, done);
    *end = done;
    end = &done->next;
  }
  *end = NULL;
  return first;
}

/* ---- modules and nodes ----------------------------------------------------------------------- */

/* Why something failed, for those who tell people. */
static int record_error(struct record *r, int64_t *rc, chi_error *err)
{
  if (record_result(r, rc) == CHI_OK)
    return CHI_OK;
  err->code = (int)*rc;
  tape_text(&r->tape, err->text, sizeof err->text);
  return (int)*rc;
}

static int record_module_load(struct env *env, const char *name, const chi_module **out,
                              chi_error *err)
{
  struct record *r = record_of(env);
  int64_t rc = CHI_OK;
  tape_out(&r->tape, RECORD_MODULE_LOAD);
  tape_say_bytes(&r->tape, name, strlen(name));
  tape_said(&r->tape);
  if (!record_reads(r))
    rc = r->base->module_load(r->base, name, out, err);
  record_error(r, &rc, err);
  if (record_reads(r) && rc == CHI_OK && r->base->module_load(r->base, name, out, err) != CHI_OK)
    tape_lose(&r->tape, TAPE_FOREIGN, "cannot be replayed without module \"%s\": %s", name,
              err->text);
  return (int)rc;
}

static int record_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                           uint32_t port, chi_error *err)
{
  struct record *r = record_of(env);
  int64_t rc = CHI_OK;
  tape_out(&r->tape, RECORD_NET_OPEN);
  tape_say(&r->tape, count);
  tape_say(&r->tape, self);
  tape_say(&r->tape, port);
  tape_said(&r->tape);
  if (!record_reads(r))
    rc = r->base->net_open(r->base, hosts, count, self, port, err);
  r->peers = rc == CHI_OK || record_reads(r) ? count : 0;
  return record_error(r, &rc, err);
}

static void record_net_close(struct env *env)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_NET_CLOSE);
  tape_said(&r->tape);
  if (!record_reads(r))
    r->base->net_close(r->base);
}

static int record_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                           uint32_t count, void *parcel)
{
  struct record *r = record_of(env);
  int64_t rc = CHI_OK;
  tape_out(&r->tape, RECORD_NET_SEND);
  tape_say(&r->tape, peer);
  for (uint32_t i = 0; i < count; i++) {
    tape_say(&r->tape, frame[i].size);
    tape_say(&r->tape, hash_bytes(frame[i].data, (size_t)frame[i].size, frame[i].size));
  }
  tape_said(&r->tape);
  struct record_flight *f = parcel ? record_list_add(r, &r->parcel, sizeof *f) : NULL;
  if (f)
    *f = (struct record_flight){parcel, ++r->flights};
  else if (parcel)
    rc = CHI_EBUSY;
  if (!record_reads(r) && rc == CHI_OK)
    rc = r->base->net_send(r->base, peer, frame, count, parcel);
  if (record_result(r, &rc) != CHI_OK && f)
    r->parcel.count--; /* it was the last */
  return (int)rc;
}

static void record_net_reset(struct env *env, uint32_t peer)
{
  struct record *r = record_of(env);
  tape_out(&r->tape, RECORD_NET_RESET);
  tape_say(&r->tape, peer);
  tape_said(&r->tape);
  if (!record_reads(r))
    r->base->net_reset(r->base, peer);
}

void record_env_init(struct record *r)
{
  r->env = (struct env){
      .version = ENV_VERSION,
      .self = r,
      .alloc = {record_get, record_put, r},
      .clock = record_clock,
      .random = record_random,
      .log = record_log,
      .trace = record_trace,
      .stack_open = record_stack_open,
      .stack_close = record_stack_close,
      .segment_open = record_segment_open,
      .segment_close = record_segment_close,
      .segment_discard = record_segment_discard,
      .segment_restore = record_segment_restore,
      .bell_open = record_bell_open,
      .bell_close = record_bell_close,
      .bell_ring = record_bell_ring,
      .link_reply = record_link_reply,
      .link_close = record_link_close,
      .io_submit = record_io_submit,
      .io_blocks = record_io_blocks,
      .io_reap = record_io_reap,
      .module_load = record_module_load,
      .alive = r->base->alive,
      .wall = record_wall,
      .net_open = record_net_open,
      .net_close = record_net_close,
      .net_send = record_net_send,
      .net_reset = record_net_reset,
      .memory = record_memory,
  };
}
