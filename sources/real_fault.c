/* real_fault.c - what goes wrong inside a node on this host, for tests that forked it. */
#include "real_fault.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "hash.h"
#include "real_net.h"
#include "skew.h"

#include <stdlib.h>
#include <unistd.h>

#define REAL_FAULT_SNAP UINT32_C(0x80000000) /* with the message the connection breaks */
#define REAL_FAULT_MILLION 1000000
#define REAL_FAULT_HOUR INT64_C(3600000000000)

/* A node's own side. */
struct real_fault_seat {
  struct real_fault *fault;
  struct env base; /* the operations behind ours */
  struct alloc alloc;
  uint32_t serves; /* atomic */
};

/* ---- who tells ------------------------------------------------------------------------------- */

/* How the clocks go wrong, and what time it is without that. Whoever looks in between sees neither
 * the old nor the new, and looks again. The time is read inside as well, and changes begin inside:
 * who is kept up with an old look would else be ahead of who looks later. */
static struct skew real_fault_skew(struct real_fault *f, uint64_t *now)
{
  uint64_t word[4];
  uint32_t turn;
  do {
    turn = mark_get(&f->turn);
    for (uint32_t i = 0; i < CHI_COUNT(word); i++)
      word[i] = tally_get(&f->skew[i]);
    *now = real_env_now();
  } while (turn % 2 || count_add(&f->turn, 0) != turn); /* which no look above comes after */
  return (struct skew){word[0], word[1], (int64_t)word[2], (int64_t)word[3]};
}

/* A new drift, or a jump. */
static void real_fault_change(struct real_fault *f,
                              void (*change)(struct skew *, uint64_t now, int64_t value),
                              int64_t value)
{
  uint64_t now;
  struct skew s = real_fault_skew(f, &now);
  mark_set_fenced(&f->turn, mark_get(&f->turn) + 1);
  change(&s, real_env_now(), value);
  const uint64_t word[] = {s.since, s.local, (uint64_t)s.ppm, (uint64_t)s.wall};
  for (uint32_t i = 0; i < CHI_COUNT(word); i++)
    tally_set(&f->skew[i], word[i]);
  mark_set(&f->turn, mark_get(&f->turn) + 1);
}

bool real_fault_can(chi_fault kind)
{
  const uint64_t can = UINT64_C(1) << CHI_FAULT_FULL | UINT64_C(1) << CHI_FAULT_LOSE |
                       UINT64_C(1) << CHI_FAULT_SNAP | UINT64_C(1) << CHI_FAULT_DRIFT |
                       UINT64_C(1) << CHI_FAULT_JUMP | UINT64_C(1) << CHI_FAULT_DISK |
                       UINT64_C(1) << CHI_FAULT_MEMORY;
  return can >> kind & 1;
}

/* Whether there is such a value of a kind, as in a plan. */
static bool real_fault_fits(chi_fault kind, int64_t value)
{
  switch (kind) {
  case CHI_FAULT_FULL:
  case CHI_FAULT_DISK:
    return value == 0 || value == 1;
  case CHI_FAULT_LOSE:
  case CHI_FAULT_SNAP:
    return value >= 0 && value <= INT32_MAX;
  case CHI_FAULT_DRIFT:
    return value >= -SKEW_PPM_MAX && value <= SKEW_PPM_MAX;
  case CHI_FAULT_JUMP:
    return value >= -REAL_FAULT_HOUR && value <= REAL_FAULT_HOUR;
  default:
    return value >= 0 && value <= REAL_FAULT_MILLION;
  }
}

int real_fault_tell(struct real_fault *f, chi_fault kind, uint32_t b, int64_t value)
{
  if (!real_fault_fits(kind, value))
    return CHI_ERANGE;
  switch (kind) {
  case CHI_FAULT_FULL:
    mark_set(&f->to[b].full, value != 0);
    break;
  case CHI_FAULT_LOSE:
    mark_set(&f->to[b].left, (uint32_t)value);
    break;
  case CHI_FAULT_SNAP:
    mark_set(&f->to[b].left, value ? (uint32_t)value | REAL_FAULT_SNAP : 0);
    break;
  case CHI_FAULT_DRIFT:
    real_fault_change(f, skew_drift, value);
    break;
  case CHI_FAULT_JUMP:
    real_fault_change(f, skew_jump, value);
    break;
  case CHI_FAULT_DISK:
    count_add(&f->file[b < REAL_FAULT_ANY ? b : REAL_FAULT_ANY][value != 0], 1);
    break;
  default:
    CHI_ASSERT(kind == CHI_FAULT_MEMORY);
    mark_set(&f->refused, (uint32_t)value);
  }
  return CHI_OK;
}

void real_fault_heal(struct real_fault *f)
{
  for (uint32_t i = 0; i < REAL_FAULT_NODES; i++) {
    mark_set(&f->to[i].full, 0);
    mark_set(&f->to[i].left, 0);
  }
}

void real_fault_calm(struct real_fault *f)
{
  real_fault_heal(f);
  mark_set(&f->refused, 0);
  for (uint32_t i = 0; i <= REAL_FAULT_ANY; i++) {
    mark_set(&f->file[i][0], 0);
    mark_set(&f->file[i][1], 0);
  }
  if (mark_get(&f->turn))
    real_fault_change(f, skew_drift, 0);
}

/* ---- the node: clocks ------------------------------------------------------------------------ */

static struct real_fault_seat *real_fault_seat_of(struct env *env)
{
  return real_env_of(env)->faults;
}

static uint64_t real_fault_clock(struct env *env)
{
  struct real_fault *f = real_fault_seat_of(env)->fault;
  uint64_t now = real_env_now();
  if (!mark_get(&f->turn))
    return now;
  struct skew s = real_fault_skew(f, &now);
  return skew_at(&s, now);
}

static uint64_t real_fault_until(const struct real_env *r, uint64_t deadline)
{
  uint64_t now;
  if (!mark_get(&r->faults->fault->turn))
    return deadline;
  struct skew s = real_fault_skew(r->faults->fault, &now);
  return skew_until(&s, deadline);
}

static uint64_t real_fault_wall(struct env *env)
{
  const struct real_fault_seat *seat = real_fault_seat_of(env);
  uint64_t now;
  struct skew s = real_fault_skew(seat->fault, &now);
  return seat->base.wall(env) + (uint64_t)skew_wall(&s, now);
}

/* ---- the node: memory ------------------------------------------------------------------------ */

/* A node that starts is spared: it would only be down, which other faults do. */
static bool real_fault_refuses(struct real_fault_seat *seat)
{
  struct real_fault *f = seat->fault;
  uint32_t refused = mark_get(&f->refused);
  if (!refused || !mark_get(&seat->serves))
    return false;
  return hash_mix64(count_add(&f->asked, 1) ^ (uint64_t)getpid() << 32) % REAL_FAULT_MILLION <
         refused;
}

static void *real_fault_get(void *arg, size_t size)
{
  struct real_fault_seat *seat = arg;
  return real_fault_refuses(seat) ? NULL : seat->alloc.get(seat->alloc.arg, size);
}

static void real_fault_put(void *arg, void *p, size_t size)
{
  const struct real_fault_seat *seat = arg;
  seat->alloc.put(seat->alloc.arg, p, size);
}

static int real_fault_stack_open(struct env *env, size_t size, struct env_stack *out)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  return real_fault_refuses(seat) ? CHI_ENOMEM : seat->base.stack_open(env, size, out);
}

static int real_fault_segment_open(struct env *env, const char *name, uint64_t size, int access,
                                   struct env_segment *out)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  return real_fault_refuses(seat) ? CHI_ENOMEM
                                  : seat->base.segment_open(env, name, size, access, out);
}

static int real_fault_segment_restore(struct env *env, struct env_segment *segment)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  return real_fault_refuses(seat) ? CHI_ENOMEM : seat->base.segment_restore(env, segment);
}

static int real_fault_bell_open(struct env *env, env_bell *out)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  return real_fault_refuses(seat) ? CHI_ENOMEM : seat->base.bell_open(env, out);
}

/* ---- the node: files ------------------------------------------------------------------------- */

static bool real_fault_take(uint32_t *left)
{
  for (uint32_t n = mark_get(left); n > 0; n = mark_get(left))
    if (mark_change(left, n, n - 1))
      return true;
  return false;
}

/* The code with which an operation is to fail, or CHI_OK. */
static int real_fault_of_file(struct real_fault *f, int op)
{
  uint32_t(*file)[2] = f->file;
  if (real_fault_take(&file[op][0]) || real_fault_take(&file[REAL_FAULT_ANY][0]))
    return CHI_EIO;
  if (real_fault_take(&file[op][1]) || real_fault_take(&file[REAL_FAULT_ANY][1]))
    return CHI_ENOSPC;
  return CHI_OK;
}

/* What fails does nothing; but what is closed is closed. */
static int real_fault_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  int code = real_fault_of_file(seat->fault, io->op);
  if (code == CHI_OK || io->op == ENV_IO_CLOSE) {
    int rc = seat->base.io_submit(env, worker, io);
    if (code == CHI_OK || rc != 1)
      return rc;
  }
  io->result = code;
  return 1;
}

/* ---- the node: messages ---------------------------------------------------------------------- */

/* The last message that is counted, sent as it is to fare. */
static int real_fault_send_last(struct env *env, uint32_t peer, const struct env_frame *frame,
                                uint32_t count, void *parcel, bool snap)
{
  const struct env *base = &real_fault_seat_of(env)->base;
  if (!snap)
    return real_net_lose(env, peer, frame, count, parcel);
  int rc = base->net_send(env, peer, frame, count, parcel);
  if (rc == CHI_OK)
    base->net_reset(env, peer);
  return rc;
}

static int real_fault_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                               uint32_t count, void *parcel)
{
  struct real_fault_seat *seat = real_fault_seat_of(env);
  uint32_t *left = &seat->fault->to[peer].left, n = mark_get(left);
  bool snap = n & REAL_FAULT_SNAP, last = (n & ~REAL_FAULT_SNAP) == 1;
  if (mark_get(&seat->fault->to[peer].full))
    return CHI_EBUSY;
  int rc = last ? real_fault_send_last(env, peer, frame, count, parcel, snap)
                : seat->base.net_send(env, peer, frame, count, parcel);
  if (rc == CHI_OK && n)
    mark_change(left, n, last ? 0 : n - 1); /* unless another was told of just now */
  return rc;
}

/* ---- the whole ------------------------------------------------------------------------------- */

int real_fault_bind(struct real_env *r, struct real_fault *f)
{
  struct real_fault_seat *seat = malloc(sizeof(*seat));
  if (!seat)
    return CHI_ENOMEM;
  *seat = (struct real_fault_seat){.fault = f, .base = r->env, .alloc = r->env.alloc};
  r->faults = seat;
  r->env.alloc = (struct alloc){real_fault_get, real_fault_put, seat};
  r->env.clock = real_fault_clock;
  r->until = real_fault_until;
  r->env.wall = real_fault_wall;
  r->env.stack_open = real_fault_stack_open;
  r->env.segment_open = real_fault_segment_open;
  r->env.segment_restore = real_fault_segment_restore;
  r->env.bell_open = real_fault_bell_open;
  r->env.io_submit = real_fault_io_submit;
  r->env.net_send = real_fault_net_send;
  return CHI_OK;
}

void real_fault_unbind(struct real_env *r)
{
  free(r->faults);
  r->faults = NULL;
  r->until = NULL;
}

void real_fault_serves(struct real_env *r)
{
  if (r->faults)
    mark_set(&r->faults->serves, 1);
}

#undef REAL_FAULT_SNAP
#undef REAL_FAULT_MILLION
#undef REAL_FAULT_HOUR

#endif
