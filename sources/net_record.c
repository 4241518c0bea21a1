/* net_record.c - the payloads of records about tasks: request, answer, and lists of slots. */
#include "net.h"

enum { NET_ANSWER_RAN = 1, NET_ANSWER_GATHERED = 2, NET_ANSWER_MOVED = 4 };

/* REQUEST: a task for one container, or for a range of them.
 *
 *   u16 slot, u64 sequence     what the receiver remembers it by
 *   u32 key node, u64 key boot, u64 key sequence
 *                              the task's key; with a container's number it names one run of a body
 *   u32 first, u32 count       containers
 *   u32 major, u32 minor, u64 version[2]
 *                              the pool, and which version of its entry the sender knows; 0: any
 *   u32 method, u32 flags      of the task header
 *   u64 remaining              nanoseconds until its deadline; 0: none
 *   u64 root, u8 depth         lock group, level of subtasks
 *   u32 compute_us, u32 period_us, u64 io_size, u8 query mode, u32 query a, u32 query b
 *   fields IN                  as wire_task_put writes them; larger bulk as frames */
#define NET_REQUEST_FIELDS(X)                                                                      \
  X(uint16_t, slot) X(uint64_t, seq)                                                               \
  X(uint32_t, key.node) X(uint64_t, key.boot) X(uint64_t, key.seq)                                 \
  X(uint32_t, first) X(uint32_t, count)                                                            \
  X(uint32_t, pool.major) X(uint32_t, pool.minor) X(uint64_t, version[0]) X(uint64_t, version[1])  \
  X(uint32_t, method) X(uint32_t, flags)                                                           \
  X(uint64_t, remaining)                                                                           \
  X(uint64_t, root) X(uint8_t, depth)                                                              \
  X(uint32_t, compute_us) X(uint32_t, period_us) X(uint64_t, io_size)                              \
  X(uint8_t, query.mode) X(uint32_t, query.a) X(uint32_t, query.b)

void net_request_put(struct wire_out *out, const struct net_request *r)
{
  unsigned char *at = wire_reserve(out, NET_REQUEST_SIZE);
  if (!at)
    return;
#define NET_REQUEST_PUT(type, field)                                                               \
  wire_store(at, (type)r->field, sizeof(type));                                                    \
  at += sizeof(type);
  NET_REQUEST_FIELDS(NET_REQUEST_PUT)
#undef NET_REQUEST_PUT
  CHI_ASSERT(at == out->data + out->used);
}

/* False: it is cut off, and *r is zero. */
static bool net_request_read(struct wire_in *in, struct net_request *r)
{
  const unsigned char *at = wire_get_bytes(in, NET_REQUEST_SIZE);
  if (!at) {
    *r = (struct net_request){0};
    return false;
  }
#define NET_REQUEST_GET(type, field)                                                               \
  r->field = (type)wire_load(at, sizeof(type));                                                    \
  at += sizeof(type);
  NET_REQUEST_FIELDS(NET_REQUEST_GET)
#undef NET_REQUEST_GET
  r->query.c = 0;
  return true;
}

bool net_request_get(struct wire_in *in, struct net_request *r)
{
  if (!net_request_read(in, r) || r->slot >= NET_SLOTS || r->seq == 0) {
    r->seq = 0;
    return false;
  }
  bool periodic = (r->flags & CHI_TASK_PERIODIC) != 0;
  return r->key.seq != 0 && r->count > 0 && r->depth < WORKER_DEPTH &&
         r->compute_us <= 60u * 1000000u && r->query.mode <= CHI_QUERY_DYNAMIC &&
         !(periodic && (r->period_us == 0 || r->count > 1));
}

void net_answer_init(struct net_answer *a, int rc, uint32_t asked)
{
  memset(a, 0, offsetof(struct net_answer, failures));
  a->rc = rc;
  net_failures_init(&a->failures, asked);
}

/* ANSWER: the end of a request.
 *
 *   u16 slot, u64 sequence
 *   i32 code                   that of the first container that failed, or 0
 *   u8 flags                   1: it ran, and fields follow; 2: they hold at least one success;
 *                              4: it did not run since the container is elsewhere
 *   u32 node                   with 4: where
 *   u32 asked, u32 failed      containers
 *   u8 listed, (u32 container, i32 code) each
 *                              the first of those that failed, ascending
 *   fields OUT                 with 1; as wire_task_put writes them */
void net_answer_put(struct wire_out *out, const struct net_answer *a)
{
  CHI_ASSERT(a->failures.listed <= NET_FAILED);
  wire_put_u16(out, (uint16_t)a->slot);
  wire_put_u64(out, a->seq);
  wire_put_u32(out, (uint32_t)a->rc);
  wire_put_u8(out,
              (uint8_t)((a->ran ? NET_ANSWER_RAN : 0) | (a->gathered ? NET_ANSWER_GATHERED : 0) |
                        (a->moved ? NET_ANSWER_MOVED : 0)));
  wire_put_u32(out, a->node);
  wire_put_u32(out, a->failures.asked);
  wire_put_u32(out, a->failures.failed);
  wire_put_u8(out, (uint8_t)a->failures.listed);
  for (uint32_t i = 0; i < a->failures.listed; i++) {
    wire_put_u32(out, a->failures.item[i].container);
    wire_put_u32(out, (uint32_t)a->failures.item[i].rc);
  }
}

static void net_failures_read(struct wire_in *in, struct net_failures *f)
{
  f->asked = wire_get_u32(in);
  f->failed = wire_get_u32(in);
  f->listed = wire_get_u8(in);
  if (f->listed > NET_FAILED || f->listed > f->failed || f->failed > f->asked ||
      (f->failed > 0 && f->listed == 0)) {
    f->listed = 0;
    wire_in_fail(in);
  }
  for (uint32_t i = 0; i < f->listed; i++) {
    f->item[i].container = wire_get_u32(in);
    f->item[i].rc = (int32_t)wire_get_u32(in);
    if (f->item[i].rc == CHI_OK || (i > 0 && f->item[i].container <= f->item[i - 1].container))
      wire_in_fail(in);
  }
}

bool net_answer_get(struct wire_in *in, struct net_answer *a)
{
  net_answer_init(a, CHI_OK, 0);
  a->slot = wire_get_u16(in);
  a->seq = wire_get_u64(in);
  a->rc = (int32_t)wire_get_u32(in);
  uint8_t flags = wire_get_u8(in);
  a->ran = (flags & NET_ANSWER_RAN) != 0;
  a->gathered = (flags & NET_ANSWER_GATHERED) != 0;
  a->moved = (flags & NET_ANSWER_MOVED) != 0;
  a->node = wire_get_u32(in);
  net_failures_read(in, &a->failures);
  if (in->failed || a->slot >= NET_SLOTS)
    return false;
  if (!a->ran && (a->rc == CHI_OK || a->gathered))
    return false;
  return !(a->ran && a->moved) && (a->rc == CHI_OK) == (a->failures.failed == 0);
}

/* ASK, STATE, CANCEL and ACK: u16 number, then for each u16 slot, u64 sequence, i32 what. In STATE
 * that is an enum net_state, in CANCEL the code with which it is to end, else 0. */
void net_item_put(struct wire_out *out, uint32_t slot, uint64_t seq, int32_t what)
{
  wire_put_u16(out, (uint16_t)slot);
  wire_put_u64(out, seq);
  wire_put_u32(out, (uint32_t)what);
}

bool net_item_get(struct wire_in *in, uint32_t *slot, uint64_t *seq, int32_t *what)
{
  *slot = wire_get_u16(in);
  *seq = wire_get_u64(in);
  *what = (int32_t)wire_get_u32(in);
  return !in->failed && *slot < NET_SLOTS && *seq != 0;
}

#undef NET_REQUEST_FIELDS
