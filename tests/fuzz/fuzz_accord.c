/* fuzz_accord.c - one node of four sends any bytes; the tables of the others become equal. */
#include "accord.h"
#include "scarce.h"

#include <stdlib.h>

#define NODES 4u
#define HOSTILE 3u /* the node that isn't there: its records are the input */
#define POST 1024u /* records under way */
#define ROUNDS 24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct record {
  uint32_t from, to;
  enum wire_kind kind;
  size_t size;
  uint8_t *bytes;
};

struct world {
  struct accord *a[HOSTILE];
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

static void send(void *arg, uint32_t to, enum wire_kind kind, const void *bytes, size_t size)
{
  const struct node *n = arg;
  struct world *w = n->world;
  if (to >= NODES || to == n->self || size > 8192)
    abort();
  if (to == HOSTILE || w->count == POST)
    return;
  struct record *r = &w->post[(w->first + w->count++) % POST];
  *r = (struct record){n->self, to, kind, size, malloc(size)};
  memcpy(r->bytes, bytes, size);
}

static void on_entry(void *arg, const struct accord_entry *entry)
{
  const struct node *n = arg;
  if (accord_find(n->world->a[n->self], entry->pool.id) != entry || !entry->pool.name[0])
    abort();
}

static void deliver(struct world *w)
{
  while (w->count > 0) {
    struct record r = w->post[w->first];
    struct wire_in in;
    w->first = (w->first + 1) % POST;
    w->count--;
    wire_in_init(&in, r.bytes, r.size);
    if (!accord_on_record(w->a[r.to], w->now, r.from, r.kind, &in))
      abort();
    free(r.bytes);
  }
}

static void inject(struct world *w, uint8_t head, const uint8_t *data, size_t size)
{
  struct wire_in in;
  wire_in_init(&in, data, size);
  accord_on_record(w->a[(head & 63u) % HOSTILE], w->now, HOSTILE,
                   head & 64u ? WIRE_POOLS : WIRE_POOL, &in);
  deliver(w);
}

static void meet(struct world *w, uint32_t x, uint32_t y)
{
  uint64_t digest = accord_digest(w->a[x]);
  w->now++;
  accord_on_digest(w->a[x], w->now, y, accord_digest(w->a[y]));
  accord_on_digest(w->a[y], w->now, x, digest);
  deliver(w);
}

static void open_all(struct world *w)
{
  static const struct accord_pool pool = {{300, 0}, "n", "mod", "", 4};
  for (uint32_t i = 0; i < HOSTILE; i++) {
    w->node[i] = (struct node){w, i};
    const struct accord_options o = {.alloc = &source,
                                     .self = i,
                                     .count = NODES,
                                     .boot = 1 + i,
                                     .interval_ns = 1,
                                     .send = send,
                                     .on_entry = on_entry,
                                     .arg = &w->node[i]};
    if (accord_open(&o, &w->a[i]) != CHI_OK)
      abort();
  }
  accord_put(w->a[0], &pool, ACCORD_READY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct world w;
  memset(&w, 0, sizeof w);
  open_all(&w);
  while (size >= 2) {
    size_t length = data[1] < size - 2 ? data[1] : size - 2;
    inject(&w, data[0], data + 2, length);
    data += 2 + length;
    size -= 2 + length;
    if (data[-1] & 1)
      meet(&w, 0, 1);
  }
  for (uint32_t i = 0; i < ROUNDS; i++)
    meet(&w, i % HOSTILE, (i + 1) % HOSTILE);
  for (uint32_t i = 0; i < HOSTILE; i++)
    if (accord_digest(w.a[i]) != accord_digest(w.a[0]))
      abort();
  for (uint32_t i = 0; i < HOSTILE; i++)
    accord_close(w.a[i]);
  return 0;
}
