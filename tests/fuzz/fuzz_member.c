/* fuzz_member.c - one node of four sends any bytes; the others go on understanding each other. */
#include "member.h"
#include "scarce.h"

#include <stdlib.h>

#define NODES 4u
#define HOSTILE 3u /* the node that isn't there: its records are the input */
#define POST 256u  /* records under way */
#define SECOND 1000000000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct record {
  uint32_t from, to;
  enum wire_kind kind;
  size_t size;
  uint8_t bytes[MEMBER_RECORD_MAX];
};

struct world {
  struct member *m[HOSTILE];
  struct node {
    struct world *world;
    uint32_t self;
  } node[HOSTILE];
  uint64_t now;
  uint32_t first, count;
  struct record post[POST];
};

static struct scarce memory = {.fail_at = -1};
static const struct alloc source = SCARCE_ALLOC(&memory);

static uint64_t seed(void *arg)
{
  return ((struct node *)arg)->self;
}

static void send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  const struct node *n = arg;
  struct world *w = n->world;
  if (to >= NODES || to == n->self || size > MEMBER_RECORD_MAX)
    abort();
  if (to == HOSTILE || w->count == POST)
    return;
  struct record *r = &w->post[(w->first + w->count++) % POST];
  r->from = n->self;
  r->to = to;
  r->kind = kind;
  r->size = size;
  memcpy(r->bytes, bytes, size);
}

static void deliver(struct world *w)
{
  for (int i = 0; i < 1000 && w->count > 0; i++) {
    struct record r = w->post[w->first];
    struct wire_in in;
    w->first = (w->first + 1) % POST;
    w->count--;
    wire_in_init(&in, r.bytes, r.size);
    if (member_on_record(w->m[r.to], w->now, r.from, r.kind, &in) != CHI_OK)
      abort();
  }
}

static void pass_time(struct world *w, uint64_t ns)
{
  w->now += ns;
  for (uint32_t i = 0; i < HOSTILE; i++)
    if (member_step(w->m[i], w->now) <= w->now)
      abort();
  deliver(w);
}

static void inject(struct world *w, uint8_t head, const uint8_t *data, size_t size)
{
  static const enum wire_kind kinds[] = {WIRE_PROBE, WIRE_PROBE_ASK, WIRE_PROBE_ACK, WIRE_POOL};
  struct wire_in in;
  wire_in_init(&in, data, size);
  member_on_record(w->m[(head & 63u) % HOSTILE], w->now, HOSTILE, kinds[head >> 6], &in);
  deliver(w);
}

static void open_all(struct world *w)
{
  for (uint32_t i = 0; i < HOSTILE; i++) {
    w->node[i] = (struct node){w, i};
    const struct member_options o = {.alloc = &source,
                                     .self = i,
                                     .count = NODES,
                                     .boot = 1 + i,
                                     .interval_ns = SECOND,
                                     .random = seed,
                                     .send = send,
                                     .arg = &w->node[i]};
    if (member_open(&o, &w->m[i]) != CHI_OK)
      abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct world w;
  memset(&w, 0, sizeof w);
  w.now = SECOND;
  open_all(&w);
  while (size >= 2) {
    size_t length = data[1] < size - 2 ? data[1] : size - 2;
    pass_time(&w, SECOND / 4);
    inject(&w, data[0], data + 2, length);
    data += 2 + length;
    size -= 2 + length;
  }
  for (int i = 0; i < 8; i++)
    pass_time(&w, SECOND / 4);
  for (uint32_t i = 0; i < HOSTILE; i++) {
    if (member_boot(w.m[i], i) != 1 + i || member_state(w.m[i], i) != MEMBER_ALIVE)
      abort();
    member_close(w.m[i]);
  }
  return 0;
}
