/* fuzz_wire.c - any bytes from the network: as the fields of a task, what is accepted is sound and
 * is written back to the same bytes; as messages to a node, it stays itself and keeps nothing. */
#include "peer.h"

#include <stdlib.h>

#define FUZZ_SPOT(X, T) X(T, IN, u64, offset) X(T, IN, bool, flag) X(T, IN, str, tag, 5)
CHI_STRUCT(fuzz_spot, FUZZ_SPOT)
#define FUZZ_NEST(X, T) X(T, IN, object, place, fuzz_spot) X(T, IN, i16, level)
CHI_STRUCT(fuzz_nest, FUZZ_NEST)
#define FUZZ_MIXED(X, T)                                                                           \
  X(T, IN, u8, small)                                                                              \
  X(T, INOUT, str, name, 16) X(T, INOUT, array, spots, fuzz_nest, 4) X(T, IN, bulk, in)            \
      X(T, OUT, bulk, out) X(T, INOUT, bool, flag) X(T, INOUT, bulk, both) X(T, IN, pool, pool)    \
          X(T, IN, f64, weight) X(T, INOUT, u32, number) X(T, OUT, u64, sum)
CHI_TASK(fuzz_mixed, 10, FUZZ_MIXED)

#define FUZZ_FRAMES 3u
#define FUZZ_NODES 3u
#define FUZZ_HELD 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_check(bool holds)
{
  if (!holds)
    abort();
}

/* ---- tasks */

struct fuzz_rooms {
  uint32_t count;
  void *got[4];
};

static void *fuzz_room(void *arg, const chi_field *field, chi_bulk *bulk, uint64_t size)
{
  struct fuzz_rooms *r = arg;
  (void)bulk;
  fuzz_check(field->kind == CHI_KIND_bulk && size > 0 && size <= WIRE_BULK_MAX && r->count < 4);
  if (size > 65536)
    return NULL;
  r->got[r->count] = calloc(1, (size_t)size);
  return r->got[r->count++];
}

static void fuzz_check_task(const struct fuzz_mixed *t)
{
  fuzz_check(memchr(t->name, 0, sizeof t->name) != NULL && t->flag <= 1 && t->spots_count <= 4);
  for (uint32_t i = 0; i < t->spots_count; i++)
    fuzz_check(memchr(t->spots[i].place.tag, 0, 5) != NULL && t->spots[i].place.flag <= 1);
}

/* There is one way to write a task. */
static void fuzz_write_back(const struct fuzz_mixed *t, uint32_t dirs, const struct wire_in *in)
{
  struct env_frame frame[FUZZ_FRAMES];
  uint32_t frames = 0;
  size_t room = wire_task_size(&fuzz_mixed_type, t, dirs);
  unsigned char *bytes = malloc(room);
  struct wire_out out;
  wire_out_init(&out, bytes, room);
  fuzz_check(wire_task_put(&out, &fuzz_mixed_type, t, dirs, frame, &frames, FUZZ_FRAMES) == CHI_OK);
  fuzz_check(out.used == in->at && memcmp(bytes, in->data, out.used) == 0);
  free(bytes);
}

static void fuzz_task(const uint8_t *data, size_t size, uint32_t dirs)
{
  static const unsigned char bulk[2 * WIRE_BULK_INLINE];
  const struct env_frame frame[FUZZ_FRAMES] = {
      {bulk, WIRE_BULK_INLINE + 1}, {bulk, sizeof bulk}, {bulk, 1}};
  struct fuzz_mixed t;
  struct fuzz_rooms rooms = {0};
  struct wire_in in;
  memset(&t, 0, sizeof t);
  wire_in_init(&in, data, size);
  in.bulk = frame;
  in.bulk_count = FUZZ_FRAMES;
  if (wire_task_get(&in, &fuzz_mixed_type, &t, dirs, fuzz_room, &rooms) == CHI_OK) {
    fuzz_check_task(&t);
    fuzz_write_back(&t, dirs, &in);
  }
  for (uint32_t i = 0; i < rooms.count; i++)
    free(rooms.got[i]);
}

/* An answer, into the memory of who asked. */
static void fuzz_answer(const uint8_t *data, size_t size)
{
  char *room = malloc(100); /* of its exact size, so that the sanitizer sees a step outside */
  struct fuzz_mixed t;
  struct wire_in in;
  memset(&t, 0, sizeof t);
  t.out = (chi_bulk){room, 100, 0};
  wire_in_init(&in, data, size);
  if (wire_task_get(&in, &fuzz_mixed_type, &t, CHI_DIR_OUT, NULL, NULL) == CHI_OK) {
    fuzz_check_task(&t);
    fuzz_check(t.out.size <= 100 && t.both.size == 0 && t.out.data == room);
  }
  free(room);
}

/* ---- messages */

struct fuzz_node {
  struct env env;
  struct peer_set set;
  struct log log;
  chi_config config;
  chi_host hosts[FUZZ_NODES];
  int allocs, send_rc;
  void *held[FUZZ_HELD]; /* parcels with the environment */
  uint32_t held_count, parcels;
  uint64_t boot;
  uint64_t seen[FUZZ_NODES]; /* of each peer, after the hello before */
};

static void *fuzz_get(void *arg, size_t size)
{
  ((struct fuzz_node *)arg)->allocs++;
  return malloc(size);
}

static void fuzz_put(void *arg, void *p, size_t size)
{
  ((struct fuzz_node *)arg)->allocs--;
  memset(p, 0xdd, size);
  free(p);
}

static uint64_t fuzz_number(struct env *env)
{
  (void)env;
  return 1234567890;
}

static int fuzz_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                         uint32_t port, chi_error *err)
{
  (void)env, (void)hosts, (void)count, (void)self, (void)port, (void)err;
  return CHI_OK;
}

static void fuzz_net_close(struct env *env)
{
  (void)env;
}

static int fuzz_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                         uint32_t count, void *parcel)
{
  struct fuzz_node *n = env->self;
  struct wire_header h;
  struct wire_in in;
  fuzz_check(peer < FUZZ_NODES && (count > 1) == (parcel != NULL));
  fuzz_check(wire_header_get(frame, count, &h, &in) == CHI_OK && h.from == 0 && h.to == peer);
  if (n->send_rc != CHI_OK || n->held_count == FUZZ_HELD)
    return n->send_rc != CHI_OK ? n->send_rc : CHI_EBUSY;
  if (parcel)
    n->held[n->held_count++] = parcel;
  return CHI_OK;
}

static void fuzz_net_reset(struct env *env, uint32_t peer)
{
  (void)env, (void)peer;
}

static void fuzz_on_record(void *arg, struct peer *from, enum wire_kind kind,
                           struct wire_in *record)
{
  struct fuzz_node *n = arg;
  static const char bulk[100];
  const struct env_frame frame = {bulk, sizeof bulk};
  struct wire_out out;
  fuzz_check(from->boot != 0 && from->node != 0 && kind > WIRE_REFUSE && kind < WIRE_KINDS);
  fuzz_check(record->bulk_count <= WIRE_BULKS);
  if (wire_get_u8(record) == 'r')
    peer_raise(&n->set, wire_get_u64(record));
  if (!peer_begin(from, kind, record->size, wire_get_u8(record) & 1, &out))
    return;
  wire_put_bytes(&out, record->data, record->size);
  if (record->size & 1) {
    peer_post(from, &out, &frame, 1, n);
    n->parcels++;
  } else {
    peer_post(from, &out, NULL, 0, NULL);
  }
}

static void fuzz_on_boot(void *arg, struct peer *peer, uint64_t former)
{
  (void)arg;
  fuzz_check(peer->boot >= former && (!peer->met || (peer->connected && peer->boot != 0)));
}

static void fuzz_on_reborn(void *arg)
{
  struct fuzz_node *n = arg;
  fuzz_check(n->set.boot > n->boot && n->set.boot <= UINT64_MAX >> 1);
  n->boot = n->set.boot;
}

static void fuzz_on_sent(void *arg, void *parcel)
{
  struct fuzz_node *n = arg;
  fuzz_check(parcel == n && n->parcels > 0);
  n->parcels--;
}

static void fuzz_open(struct fuzz_node *n)
{
  memset(n, 0, sizeof *n);
  n->env = (struct env){.version = ENV_VERSION,
                        .self = n,
                        .alloc = {fuzz_get, fuzz_put, n},
                        .random = fuzz_number,
                        .wall = fuzz_number,
                        .net_open = fuzz_net_open,
                        .net_close = fuzz_net_close,
                        .net_send = fuzz_net_send,
                        .net_reset = fuzz_net_reset};
  for (uint32_t i = 0; i < FUZZ_NODES; i++)
    n->hosts[i].name[0] = (char)('a' + i);
  n->config.hosts = n->hosts;
  n->config.host_count = FUZZ_NODES;
  n->config.bulk_max = WIRE_BULK_MAX;
  fuzz_check(peer_open(&n->set, &n->env, &n->log, &n->config, 0, "fuzz:1", NULL) == CHI_OK);
  n->set.on_record = fuzz_on_record;
  n->set.on_boot = fuzz_on_boot;
  n->set.on_reborn = fuzz_on_reborn;
  n->set.on_sent = fuzz_on_sent;
  n->set.arg = n;
  n->boot = n->set.boot;
}

/* A message whose header is right but where a bit of `how` says otherwise; `what` has the sender
 * and its boot. */
static void fuzz_message(struct fuzz_node *n, uint64_t now, const uint8_t *data, size_t size,
                         uint8_t what, uint8_t how)
{
  static const unsigned char bulk[64];
  unsigned char *bytes = calloc(1, WIRE_HEADER + size);
  struct env_frame frame[2] = {{bytes, WIRE_HEADER + size}, {bulk, sizeof bulk}};
  struct wire_header h = {.records = 1 + (how >> 6 & 1),
                          .from = what >> 3 & 3,
                          .from_boot = 5 + (what >> 5),
                          .to_boot = how & 2 ? 7 : n->set.boot,
                          .cluster = how & 4 ? 9 : n->set.cluster,
                          .to = how & 8 ? 2 : 0};
  if (how & 16) {
    h.bulk = 1;
    h.bulk_bytes = sizeof bulk;
  }
  memcpy(bytes + WIRE_HEADER, data, size);
  wire_header_put(bytes, WIRE_HEADER + size, &h);
  if (how & 32)
    bytes[size % WIRE_HEADER] ^= how;
  peer_on_message(&n->set, now, frame, 1 + h.bulk);
  free(bytes);
}

/* A hello whose header is right, and whose fields are mostly so: what is known of a peer is then
 * what one of its hellos has said. */
static void fuzz_hello(struct fuzz_node *n, uint64_t now, const uint8_t *data, size_t size,
                       uint8_t what, uint8_t how)
{
  size_t room = WIRE_HEADER + WIRE_RECORD + 32 + size;
  unsigned char *bytes = calloc(1, room);
  struct wire_header h = {.records = 1,
                          .from = what >> 3 & 3,
                          .from_boot = what >> 5,
                          .to_boot = how & 2 ? 7 : n->set.boot,
                          .cluster = n->set.cluster};
  struct wire_in in;
  struct wire_out out;
  wire_in_init(&in, data, size);
  wire_out_init(&out, bytes, room);
  out.used = WIRE_HEADER;
  size_t begin = wire_record_begin(&out, WIRE_HELLO);
  wire_put_u32(&out, FUZZ_NODES + (how & 1));
  wire_put_u64(&out, how >> 5 == 7 ? wire_get_u64(&in) : how >> 5);
  wire_put_u64(&out, how & 4 ? n->set.boot + wire_get_u8(&in) : wire_get_u8(&in));
  wire_put_u8(&out, how >> 3 & 3);
  wire_put_u16(&out, (uint16_t)(in.size - in.at));
  wire_put_bytes(&out, in.data + in.at, in.size - in.at);
  wire_record_end(&out, begin, 0);
  wire_header_put(bytes, out.used, &h);
  peer_on_message(&n->set, now, &(struct env_frame){bytes, out.used}, 1);
  for (uint32_t i = 1; i < FUZZ_NODES; i++) { /* none goes back to an earlier life */
    fuzz_check(n->set.peer[i].boot >= n->seen[i]);
    n->seen[i] = n->set.peer[i].boot;
  }
  free(bytes);
}

/* Each step: what to do, its argument, the number of bytes, the bytes. */
static void fuzz_messages(const uint8_t *data, size_t size)
{
  struct fuzz_node *n = malloc(sizeof *n);
  uint64_t now = 1;
  fuzz_open(n);
  while (size >= 3) {
    uint8_t what = data[0], how = data[1];
    size_t bytes = data[2] < size - 3 ? data[2] : size - 3;
    if (what % 8 == 0) {
      peer_on_link(&n->set, 1 + how % 2, how & 4);
    } else if (what % 8 == 1) {
      n->send_rc = how % 3 == 0 ? CHI_OK : how % 3 == 1 ? CHI_EBUSY : CHI_EUNREACHABLE;
      peer_flush(&n->set, now += how * 10000000ull, 1000000000);
    } else if (what % 8 == 2 && n->held_count > 0) {
      uint32_t which = how % n->held_count--;
      void *parcel = n->held[which];
      n->held[which] = n->held[n->held_count];
      peer_on_sent(&n->set, parcel);
    } else if (what % 8 == 2) {
      peer_reset(&n->set.peer[1 + how % 2]);
    } else if (what % 8 == 7) {
      fuzz_hello(n, now, data + 3, bytes, what, how);
    } else {
      fuzz_message(n, now, data + 3, bytes, what, how);
    }
    data += 3 + bytes;
    size -= 3 + bytes;
  }
  peer_close(&n->set);
  fuzz_check(n->allocs == 0 && n->parcels == 0);
  free(n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct wire_header h;
  struct wire_in in;
  struct env_frame frame = {data, size};
  (void)wire_header_get(&frame, 1, &h, &in);
  fuzz_task(data, size, CHI_DIR_IN);
  fuzz_task(data, size, CHI_DIR_OUT);
  fuzz_answer(data, size);
  fuzz_messages(data, size);
  return 0;
}
