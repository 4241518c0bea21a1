/* test_wire.c - bytes between nodes: bounds, messages, records, tasks; each field once wrong. */
#include "wire.h"
#include "example.h"
#include "hash.h"
#include "test.h"

#include <stdlib.h>

/* ---- integers and texts */

TEST(wire_integers_are_little_endian)
{
  static const unsigned char want[] = {0xa1, 0xb2, 0xa1, 0xd4, 0xc3, 0xb2, 0xa1, 8,
                                       7,    6,    5,    4,    3,    2,    1};
  unsigned char bytes[15];
  struct wire_out out;
  struct wire_in in;
  wire_out_init(&out, bytes, sizeof bytes);
  wire_put_u8(&out, 0xa1);
  wire_put_u16(&out, 0xa1b2);
  wire_put_u32(&out, 0xa1b2c3d4);
  wire_put_u64(&out, 0x0102030405060708);
  CHECK(!out.failed && out.used == sizeof bytes && memcmp(bytes, want, sizeof want) == 0);
  wire_in_init(&in, bytes, sizeof bytes);
  CHECK(wire_get_u8(&in) == 0xa1 && wire_get_u16(&in) == 0xa1b2);
  CHECK(wire_get_u32(&in) == 0xa1b2c3d4 && !wire_in_ended(&in));
  CHECK(wire_get_u64(&in) == 0x0102030405060708 && wire_in_ended(&in));
}

TEST(wire_out_stays_inside)
{
  unsigned char bytes[8];
  struct wire_out out;
  memset(bytes, 0xee, sizeof bytes);
  wire_out_init(&out, bytes, 7);
  wire_put_u64(&out, 1);
  CHECK(out.failed && out.used == 0);
  wire_put_u8(&out, 1); /* would fit, but not any more */
  wire_put_bytes(&out, "x", 1);
  wire_put_text(&out, "");
  CHECK(out.failed && out.used == 0 && bytes[0] == 0xee && bytes[7] == 0xee);
  wire_out_init(&out, NULL, 0);
  wire_put_bytes(&out, NULL, 0);
  CHECK(!out.failed);
  wire_put_u8(&out, 0);
  CHECK(out.failed);
}

TEST(wire_in_stays_inside)
{
  static const unsigned char bytes[] = {1, 2, 3, 4, 5, 6, 7};
  struct wire_in in;
  wire_in_init(&in, bytes, sizeof bytes);
  CHECK(wire_get_u64(&in) == 0 && in.failed);
  CHECK(wire_get_u8(&in) == 0 && wire_get_u32(&in) == 0 && !wire_get_bytes(&in, 0));
  CHECK(!wire_in_ended(&in));
  wire_in_init(&in, bytes, sizeof bytes);
  CHECK(wire_get_bytes(&in, 7) == bytes && wire_in_ended(&in) && wire_get_bytes(&in, 0));
  CHECK(!wire_get_bytes(&in, 1) && in.failed);
  wire_in_init(&in, NULL, 0);
  CHECK(wire_in_ended(&in) && wire_get_bytes(&in, 0));
  wire_in_fail(&in);
  CHECK(!wire_in_ended(&in));
}

TEST(wire_texts)
{
  static char text[70000];
  static unsigned char bytes[70002];
  char back[6];
  struct wire_out out;
  struct wire_in in;
  memset(text, 'x', sizeof text);
  wire_out_init(&out, bytes, sizeof bytes);
  text[65536] = '\0';
  wire_put_text(&out, text);
  CHECK(out.failed && out.used == 0);
  wire_out_init(&out, bytes, sizeof bytes);
  text[65535] = '\0';
  wire_put_text(&out, text);
  CHECK(!out.failed && out.used == 65537);
  wire_out_init(&out, bytes, 6);
  wire_put_text(&out, "hello"); /* not even its length is written */
  CHECK(out.failed && out.used == 0);
  wire_out_init(&out, bytes, 7);
  wire_put_text(&out, "hello");
  CHECK(!out.failed && out.used == 7);
  wire_in_init(&in, bytes, 7);
  wire_get_text(&in, back, sizeof back);
  CHECK(wire_in_ended(&in));
  CHECK_STR(back, "hello");
  wire_in_init(&in, bytes, 7);
  wire_get_text(&in, back, 5); /* no room for its end */
  CHECK(in.failed && back[0] == '\0');
  bytes[4] = '\0';
  wire_in_init(&in, bytes, 7);
  wire_get_text(&in, back, sizeof back);
  CHECK(in.failed && back[0] == '\0');
  wire_in_init(&in, bytes, 6);
  wire_get_text(&in, back, sizeof back);
  CHECK(in.failed && back[0] == '\0');
}

/* ---- messages */

#define SUM_AT 8

static char bulk_a[100], bulk_b[WIRE_BULK_INLINE + 1];

/* A message of three records: one of an unknown kind with the first of two bulk frames. */
struct wire_sample {
  unsigned char bytes[256];
  size_t size;
  struct wire_header h;
  struct env_frame frame[3];
};

static void wire_sample_make(struct wire_sample *m)
{
  struct wire_out out;
  size_t begin;
  memset(m, 0, sizeof *m);
  wire_out_init(&out, m->bytes, sizeof m->bytes);
  out.used = WIRE_HEADER;
  begin = wire_record_begin(&out, WIRE_PROBE);
  wire_put_u32(&out, 77);
  wire_record_end(&out, begin, 0);
  begin = wire_record_begin(&out, WIRE_PROBE);
  wire_put_bytes(&out, "strange", 7);
  wire_record_end(&out, begin, 1);
  m->bytes[begin + 4] = WIRE_KINDS;
  begin = wire_record_begin(&out, WIRE_REQUEST);
  wire_record_end(&out, begin, 1);
  m->size = out.used;
  m->h = (struct wire_header){.records = 3,
                              .cluster = 0x1122334455667788,
                              .from = 3,
                              .to = 5,
                              .from_boot = 0x0a0b0c0d0e0f,
                              .to_boot = 0x010203040506,
                              .bulk = 2,
                              .bulk_bytes = sizeof bulk_a + sizeof bulk_b};
  wire_header_put(m->bytes, m->size, &m->h);
  m->frame[0] = (struct env_frame){m->bytes, m->size};
  m->frame[1] = (struct env_frame){bulk_a, sizeof bulk_a};
  m->frame[2] = (struct env_frame){bulk_b, sizeof bulk_b};
}

/* Makes the sum right again after something else was made wrong. */
static void wire_sample_sum(struct wire_sample *m)
{
  uint32_t sum;
  memset(m->bytes + SUM_AT, 0, 4);
  sum = hash_crc32c(0, m->bytes, m->size);
  for (int i = 0; i < 4; i++)
    m->bytes[SUM_AT + i] = (unsigned char)(sum >> (8 * i));
}

/* The message, with a byte at that place raised by one and a sum that fits. */
static int wire_sample_with(size_t at)
{
  struct wire_sample m;
  struct wire_header h;
  struct wire_in in;
  wire_sample_make(&m);
  m.bytes[at]++;
  wire_sample_sum(&m);
  return wire_header_get(m.frame, 3, &h, &in);
}

TEST(wire_header_round_trip)
{
  struct wire_sample m;
  struct wire_header h;
  struct wire_in in, record;
  enum wire_kind kind;
  wire_sample_make(&m);
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_OK);
  CHECK(h.version == WIRE_VERSION && h.records == 3 && h.cluster == m.h.cluster);
  CHECK(h.from == 3 && h.to == 5 && h.from_boot == m.h.from_boot && h.to_boot == m.h.to_boot);
  CHECK(h.bulk == 2 && h.bulk_bytes == m.h.bulk_bytes);
  const struct env_frame *bulk = m.frame + 1;
  uint32_t left = h.bulk;
  CHECK(wire_record_next(&in, &bulk, &left, &kind, &record));
  CHECK(kind == WIRE_PROBE && wire_get_u32(&record) == 77 && wire_in_ended(&record));
  CHECK(wire_record_next(&in, &bulk, &left, &kind, &record)); /* past the strange one */
  CHECK(kind == WIRE_REQUEST && record.size == 0 && record.bulk_count == 1);
  CHECK(record.bulk->data == bulk_b && left == 0 && !wire_in_ended(&record));
  CHECK(!wire_record_next(&in, &bulk, &left, &kind, &record) && !in.failed);
}

TEST(wire_header_magic)
{
  CHECK_INT(wire_sample_with(0), CHI_ECORRUPT);
}

TEST(wire_header_version)
{
  struct wire_sample m;
  struct wire_header h;
  struct wire_in in;
  CHECK_INT(wire_sample_with(4), CHI_EVERSION);
  wire_sample_make(&m);
  m.bytes[4] = 3; /* what is behind it may be anything: no sum is looked at */
  CHECK_INT(wire_header_get(m.frame, 1, &h, &in), CHI_EVERSION);
  CHECK(h.version == 3 && h.cluster == m.h.cluster && h.from == 3);
}

TEST(wire_names_its_sender)
{
  struct wire_sample m;
  uint32_t from = 0;
  wire_sample_make(&m);
  CHECK(wire_sender(m.frame, &from) && from == 3);
  m.bytes[4] = 2; /* in any version */
  CHECK(wire_sender(m.frame, &from) && from == 3);
  m.bytes[0] ^= 1;
  CHECK(!wire_sender(m.frame, &from));
  m.bytes[0] ^= 1;
  m.frame[0].size = WIRE_HEADER - 1;
  CHECK(!wire_sender(m.frame, &from));
  m.frame[0].size = WIRE_MESSAGE_MAX + 1;
  CHECK(!wire_sender(m.frame, &from));
}
TEST(wire_header_length)
{
  CHECK_INT(wire_sample_with(6), CHI_ECORRUPT);
}

TEST(wire_header_sum)
{
  struct wire_header h;
  struct wire_in in;
  struct wire_sample m;
  wire_sample_make(&m);
  for (size_t bit = 0; bit < m.size * 8; bit++) {
    m.bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    CHECK(wire_header_get(m.frame, 3, &h, &in) < 0);
    m.bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
  }
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_OK);
}

TEST(wire_header_size)
{
  struct wire_header h;
  struct wire_in in;
  struct wire_sample m;
  CHECK_INT(wire_sample_with(12), CHI_ECORRUPT);
  wire_sample_make(&m);
  for (uint64_t size = 0; size < m.size; size++) {
    m.frame[0].size = size;
    CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
  }
  m.frame[0].size = m.size + 1;
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
  m.frame[0].size = WIRE_MESSAGE_MAX + 1ull; /* refused before it is read */
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
  CHECK_INT(wire_header_get(m.frame, 0, &h, &in), CHI_ECORRUPT);
  CHECK_INT(wire_header_get(NULL, 0, &h, &in), CHI_ECORRUPT);
}

TEST(wire_header_records)
{
  struct wire_header h;
  struct wire_in in;
  struct wire_sample m;
  CHECK_INT(wire_sample_with(48), CHI_ECORRUPT);
  wire_sample_make(&m);
  m.h.records = 0;
  m.h.bulk = 0;
  m.h.bulk_bytes = 0;
  m.frame[0].size = m.size = WIRE_HEADER;
  wire_header_put(m.bytes, m.size, &m.h);
  CHECK_INT(wire_header_get(m.frame, 1, &h, &in), CHI_ECORRUPT);
}

TEST(wire_header_bulk)
{
  struct wire_header h;
  struct wire_in in;
  struct wire_sample m;
  CHECK_INT(wire_sample_with(52), CHI_ECORRUPT);
  wire_sample_make(&m);
  CHECK_INT(wire_header_get(m.frame, 2, &h, &in), CHI_ECORRUPT);
  CHECK_INT(wire_header_get(m.frame, ENV_FRAMES_MAX + 1, &h, &in), CHI_ECORRUPT);
  m.frame[1].size = 0;
  m.frame[2].size = m.h.bulk_bytes;
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
}

TEST(wire_header_bulk_bytes)
{
  struct wire_header h;
  struct wire_in in;
  struct wire_sample m;
  CHECK_INT(wire_sample_with(56), CHI_ECORRUPT);
  wire_sample_make(&m);
  m.frame[1].size--;
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
  m.frame[1].size = WIRE_BULK_MAX + 1;
  m.h.bulk_bytes = WIRE_BULK_MAX + 1 + sizeof bulk_b;
  wire_header_put(m.bytes, m.size, &m.h);
  CHECK_INT(wire_header_get(m.frame, 3, &h, &in), CHI_ECORRUPT);
}

TEST(wire_record_size)
{
  CHECK_INT(wire_sample_with(WIRE_HEADER), CHI_ECORRUPT);
  CHECK_INT(wire_sample_with(WIRE_HEADER + 3), CHI_ECORRUPT);
}

TEST(wire_record_kind)
{
  CHECK_INT(wire_sample_with(WIRE_HEADER + 4), CHI_OK); /* another one: not for this layer */
}

TEST(wire_record_bulk)
{
  struct wire_sample m;
  struct wire_header h;
  struct wire_in in;
  CHECK_INT(wire_sample_with(WIRE_HEADER + 6), CHI_ECORRUPT); /* more frames than there are */
  struct env_frame frame[WIRE_BULKS + 2];
  for (uint32_t n = WIRE_BULKS; n <= WIRE_BULKS + 1; n++) { /* as many as there are, and too many */
    wire_sample_make(&m);
    frame[0] = (struct env_frame){m.bytes, WIRE_HEADER + WIRE_RECORD + 4};
    for (uint32_t i = 1; i <= n; i++)
      frame[i] = m.frame[1];
    m.h.records = 1;
    m.h.bulk = n;
    m.h.bulk_bytes = n * sizeof bulk_a;
    m.bytes[WIRE_HEADER + 6] = (unsigned char)n;
    wire_header_put(m.bytes, frame[0].size, &m.h);
    CHECK_INT(wire_header_get(frame, 1 + n, &h, &in), n == WIRE_BULKS ? CHI_OK : CHI_ECORRUPT);
  }
}

/* wire_record_next relies on nothing that wire_header_get has checked. */
TEST(wire_record_next_alone)
{
  struct wire_in in, record;
  struct wire_sample m;
  enum wire_kind kind;
  const struct env_frame *bulk = NULL;
  uint32_t left = 0;
  wire_sample_make(&m);
  for (size_t size = 1; size < WIRE_RECORD + 4; size++) {
    wire_in_init(&in, m.bytes + WIRE_HEADER, size);
    CHECK(!wire_record_next(&in, &bulk, &left, &kind, &record) && in.failed);
  }
  wire_in_init(&in, m.bytes + WIRE_HEADER, m.size - WIRE_HEADER);
  CHECK(wire_record_next(&in, &bulk, &left, &kind, &record));
  CHECK(!wire_record_next(&in, &bulk, &left, &kind, &record) && in.failed);
}

TEST(wire_record_without_room)
{
  unsigned char bytes[16];
  struct wire_out out;
  size_t begin;
  wire_out_init(&out, bytes, WIRE_RECORD - 1);
  begin = wire_record_begin(&out, WIRE_PROBE);
  wire_record_end(&out, begin, 0);
  CHECK(out.failed && out.used == 0);
  wire_out_init(&out, bytes, WIRE_RECORD + 1);
  begin = wire_record_begin(&out, WIRE_PROBE);
  wire_put_u16(&out, 1);
  wire_record_end(&out, begin, 0);
  CHECK(out.failed);
}

/* ---- tasks */

#define WIRE_SPOT(X, T) X(T, IN, u64, at) X(T, IN, bool, flag) X(T, IN, str, tag, 5)
CHI_STRUCT(wire_spot, WIRE_SPOT)
#define WIRE_NEST(X, T) X(T, IN, object, spot, wire_spot) X(T, IN, i16, level)
CHI_STRUCT(wire_nest, WIRE_NEST)
#define WIRE_MIXED(X, T)                                                                           \
  X(T, IN, u8, a)                                                                                  \
  X(T, IN, u16, b) X(T, IN, i32, c) X(T, INOUT, f64, d) X(T, INOUT, bool, e) X(T, IN, pool, f)     \
      X(T, INOUT, str, g, 8) X(T, IN, object, h, wire_nest) X(T, INOUT, array, i, wire_nest, 3)    \
          X(T, IN, bulk, j) X(T, OUT, bulk, k) X(T, OUT, u64, l)
CHI_TASK(wire_mixed, 10, WIRE_MIXED)
#define WIRE_LIST(X, T) X(T, IN, array, spots, wire_spot, 3) X(T, IN, u64, more)
CHI_TASK(wire_list, 13, WIRE_LIST)
#define WIRE_SMALL(X, T) X(T, IN, str, s, 4) X(T, INOUT, bulk, data) X(T, OUT, u32, n)
CHI_TASK(wire_small, 11, WIRE_SMALL)

/* Room that readers get: as much as `budget` says. */
struct wire_rooms {
  uint64_t budget;
  int count;
  void *got[8];
};

static void *wire_room(void *arg, const chi_field *field, chi_bulk *bulk, uint64_t size)
{
  struct wire_rooms *r = arg;
  (void)bulk;
  if (field->kind != CHI_KIND_bulk || size == 0 || size > r->budget || r->count == 8)
    return NULL;
  r->budget -= size;
  return r->got[r->count++] = malloc((size_t)size);
}

static void wire_rooms_free(struct wire_rooms *r)
{
  for (int i = 0; i < r->count; i++)
    free(r->got[i]);
  *r = (struct wire_rooms){.budget = 1u << 20};
}

static char wire_data[2 * WIRE_BULK_INLINE];

static struct wire_mixed wire_mixed_make(void)
{
  struct wire_mixed t = {.a = 0xfe,
                         .b = 0xfedc,
                         .c = -2,
                         .d = -1.5,
                         .e = 1,
                         .f = {300, 7},
                         .g = "seven77",
                         .i_count = 2};
  t.h.spot = (struct wire_spot){1, 1, "wxyz"};
  t.h.level = -3;
  t.i[0].spot = (struct wire_spot){2, 0, ""};
  t.i[1].spot = (struct wire_spot){3, 1, "b"};
  t.i[1].level = 4;
  t.l = 99;
  for (size_t i = 0; i < sizeof wire_data; i++)
    wire_data[i] = (char)(i * 7);
  t.j = (chi_bulk){wire_data, sizeof wire_data, 0};
  t.k = (chi_bulk){NULL, 5000, 0};
  return t;
}

struct wire_encoded {
  unsigned char bytes[16384];
  struct wire_out out;
  struct env_frame frame[WIRE_BULKS];
  uint32_t frames;
};

static int wire_encode(struct wire_encoded *e, const chi_type *type, const void *task,
                       uint32_t dirs)
{
  e->frames = 0;
  wire_out_init(&e->out, e->bytes, sizeof e->bytes);
  return wire_task_put(&e->out, type, task, dirs, e->frame, &e->frames, WIRE_BULKS);
}

static struct wire_in wire_reader(const struct wire_encoded *e)
{
  struct wire_in in;
  wire_in_init(&in, e->bytes, e->out.used);
  in.bulk = e->frame;
  in.bulk_count = e->frames;
  return in;
}

TEST(wire_task_in_round_trip)
{
  struct wire_mixed t = wire_mixed_make(), back = {.l = 5, .k.ref = 7};
  struct wire_rooms rooms = {.budget = 1u << 20};
  static struct wire_encoded e;
  struct wire_in in;
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_IN), CHI_OK);
  CHECK(e.frames == 1 && e.frame[0].data == wire_data && e.frame[0].size == sizeof wire_data);
  /* The bound takes strings inside elements as full: "" and "b" lack seven. */
  CHECK_INT(e.out.used + 7, wire_task_size(&wire_mixed_type, &t, CHI_DIR_IN));
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_IN, wire_room, &rooms), CHI_OK);
  CHECK(wire_in_ended(&in) && rooms.count == 2);
  CHECK(back.a == t.a && back.b == t.b && back.c == t.c && back.e == 1);
  CHECK(memcmp(&back.d, &t.d, sizeof t.d) == 0);
  CHECK(back.f.major == 300 && back.f.minor == 7 && back.i_count == 2);
  CHECK_STR(back.g, "seven77");
  CHECK(back.h.spot.at == 1 && back.h.spot.flag == 1 && back.h.level == -3);
  CHECK_STR(back.h.spot.tag, "wxyz");
  CHECK(back.i[0].spot.at == 2 && back.i[1].spot.at == 3 && back.i[1].level == 4);
  CHECK_STR(back.i[1].spot.tag, "b");
  CHECK(back.j.size == sizeof wire_data && memcmp(back.j.data, wire_data, sizeof wire_data) == 0);
  CHECK(back.k.size == 5000 && back.k.data == rooms.got[1] && back.k.ref == 0);
  CHECK_INT(back.l, 5); /* OUT stays */
  wire_rooms_free(&rooms);
}

/* What comes back goes where the caller's bulk points, and IN fields are left alone. */
TEST(wire_task_out_round_trip)
{
  struct wire_mixed t = wire_mixed_make(), back = wire_mixed_make();
  static struct wire_encoded e;
  static char answer[4999], room[5000];
  struct wire_in in;
  memset(answer, 'k', sizeof answer);
  t.a = 1;
  t.k = (chi_bulk){answer, sizeof answer, 0};
  t.i_count = 1;
  snprintf(t.g, sizeof t.g, "x");
  back.k = (chi_bulk){room, sizeof room, 42};
  back.l = 0;
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_OUT), CHI_OK);
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_OUT, NULL, NULL), CHI_OK);
  CHECK(wire_in_ended(&in) && back.a == 0xfe && back.l == 99 && back.i_count == 1);
  CHECK_STR(back.g, "x");
  CHECK(back.k.data == room && back.k.ref == 42 && back.k.size == sizeof answer);
  CHECK(memcmp(room, answer, sizeof answer) == 0 && room[4999] == 0);
  CHECK(back.j.data == wire_data && back.j.size == sizeof wire_data);
}

TEST(wire_task_bulk_inline)
{
  struct wire_small t = {.s = "abc", .data = {wire_data, WIRE_BULK_INLINE, 0}}, back = {.n = 1};
  struct wire_rooms rooms = {.budget = 1u << 20};
  static struct wire_encoded e;
  struct wire_in in;
  CHECK_INT(wire_encode(&e, &wire_small_type, &t, CHI_DIR_IN), CHI_OK);
  CHECK(e.frames == 0 && e.out.used == 4 + 3 + 9 + WIRE_BULK_INLINE);
  CHECK_INT(e.out.used, wire_task_size(&wire_small_type, &t, CHI_DIR_IN));
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_IN, wire_room, &rooms), CHI_OK);
  CHECK(wire_in_ended(&in) && memcmp(back.data.data, wire_data, WIRE_BULK_INLINE) == 0);
  wire_rooms_free(&rooms);
  t.data = (chi_bulk){NULL, 0, 0};
  CHECK_INT(wire_encode(&e, &wire_small_type, &t, CHI_DIR_INOUT), CHI_OK);
  CHECK(e.frames == 0 && e.out.used == 4 + 3 + 9 + 4);
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_INOUT, wire_room, &rooms), CHI_OK);
  CHECK(wire_in_ended(&in) && rooms.count == 0 && !back.data.data && back.data.size == 0);
}

/* What a method left behind is made sound before it leaves. */
TEST(wire_task_put_tidies)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  static struct wire_encoded e;
  struct wire_in in;
  t.e = 7;
  t.i_count = 1000;
  memset(t.g, 'g', sizeof t.g);
  t.i[2].spot.flag = 200;
  memset(t.i[2].spot.tag, 't', 5);
  t.k = (chi_bulk){NULL, 0, 0};
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_OUT), CHI_OK);
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_OUT, NULL, NULL), CHI_OK);
  CHECK(back.e == 1 && back.i_count == 3 && back.i[2].spot.flag == 1);
  CHECK_STR(back.g, "ggggggg");
  CHECK_STR(back.i[2].spot.tag, "tttt");
}

TEST(wire_task_size_bounds)
{
  struct wire_mixed t = wire_mixed_make();
  struct wire_small s = {.s = "a", .data = {wire_data, 10, 0}};
  static struct wire_encoded e;
  size_t any = wire_task_size(&wire_mixed_type, NULL, CHI_DIR_IN);
  memset(t.g, 'g', sizeof t.g);
  for (uint32_t n = 0; n <= 3; n++) {
    t.i_count = n;
    CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_IN), CHI_OK);
    CHECK(e.out.used <= wire_task_size(&wire_mixed_type, &t, CHI_DIR_IN));
    CHECK(wire_task_size(&wire_mixed_type, &t, CHI_DIR_IN) <= any);
  }
  CHECK_INT(wire_task_size(&wire_small_type, &s, CHI_DIR_IN), 4 + 1 + 9 + 10);
  CHECK_INT(wire_task_size(&wire_small_type, &s, CHI_DIR_OUT), 9 + 10 + 4);
  s.data.size = WIRE_BULK_INLINE + 1;
  CHECK_INT(wire_task_size(&wire_small_type, &s, CHI_DIR_OUT), 9 + 4);
  CHECK_INT(wire_task_size(&wire_small_type, NULL, CHI_DIR_IN), 4 + 3 + 9 + WIRE_BULK_INLINE);
}

TEST(wire_task_put_too_big)
{
  struct wire_small t = {.s = "abc", .data = {wire_data, sizeof wire_data, 0}};
  struct wire_out out;
  unsigned char bytes[64];
  struct env_frame frame[2];
  uint32_t frames = 1;
  for (size_t room = 0; room < 4 + 3 + 9; room++) {
    wire_out_init(&out, bytes, room);
    CHECK_INT(wire_task_put(&out, &wire_small_type, &t, CHI_DIR_IN, frame, &frames, 2),
              CHI_ETOOBIG);
    CHECK_INT(frames, 1);
  }
  wire_out_init(&out, bytes, sizeof bytes);
  CHECK_INT(wire_task_put(&out, &wire_small_type, &t, CHI_DIR_IN, frame, &frames, 1), CHI_ETOOBIG);
  CHECK_INT(wire_task_put(&out, &wire_small_type, &t, CHI_DIR_IN, frame, &frames, 2), CHI_OK);
  CHECK_INT(frames, 2);
  t.data.size = WIRE_BULK_MAX + 1;
  frames = 0;
  CHECK_INT(wire_task_put(&out, &wire_small_type, &t, CHI_DIR_IN, frame, &frames, 2), CHI_ETOOBIG);
  t.data = (chi_bulk){NULL, 1, 0};
  CHECK_INT(wire_task_put(&out, &wire_small_type, &t, CHI_DIR_IN, frame, &frames, 2), CHI_EINVAL);
  CHECK_INT(frames, 0);
}

TEST(wire_task_truncated)
{
  struct wire_mixed t = wire_mixed_make();
  struct wire_rooms rooms = {.budget = 1u << 20};
  static struct wire_encoded e;
  size_t size;
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_IN), CHI_OK);
  size = e.out.used;
  for (e.out.used = 0; e.out.used < size; e.out.used++) {
    struct wire_mixed back = {0};
    struct wire_in in = wire_reader(&e);
    CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_IN, wire_room, &rooms),
              CHI_ECORRUPT);
    CHECK(in.failed);
    wire_rooms_free(&rooms);
  }
}

TEST(wire_task_no_memory)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  struct wire_rooms rooms = {.budget = 0};
  static struct wire_encoded e;
  struct wire_in in;
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_IN), CHI_OK);
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_IN, wire_room, &rooms), CHI_ENOMEM);
  rooms.budget = sizeof wire_data; /* for the first, not for the second */
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_mixed_type, &back, CHI_DIR_IN, wire_room, &rooms), CHI_ENOMEM);
  CHECK(rooms.count == 1 && back.j.data == rooms.got[0]);
  wire_rooms_free(&rooms);
}

/* The encoding of a task with the byte at `at` set to `value`; reading it must be refused. */
static bool wire_refused(const chi_type *type, void *task, void *back, size_t at,
                         unsigned char value)
{
  static struct wire_encoded e;
  struct wire_rooms rooms = {.budget = 1ull << 20};
  int rc = wire_encode(&e, type, task, CHI_DIR_IN);
  if (rc == CHI_OK && at < e.out.used && e.bytes[at] != value) {
    struct wire_in in = wire_reader(&e);
    e.bytes[at] = value;
    rc = wire_task_get(&in, type, back, CHI_DIR_IN, wire_room, &rooms);
  }
  wire_rooms_free(&rooms);
  return rc == CHI_ECORRUPT;
}

/* Where the fields of wire_mixed_make() are. */
enum {
  AT_BOOL = 15,
  AT_STR = 24,
  AT_OBJECT = AT_STR + 4 + 7,
  AT_COUNT = AT_OBJECT + 8 + 1 + 8 + 2
};

TEST(wire_task_bool)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_BOOL, 2));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_BOOL, 255));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_OBJECT + 8, 2));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_COUNT + 4 + 8, 2));
}

TEST(wire_task_string)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_STR, 8));         /* no room for its end */
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_STR + 3, 1));     /* much too long */
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_STR + 4 + 2, 0)); /* ends before its end */
  CHECK(back.g[0] == '\0');
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_OBJECT + 9, 5));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_OBJECT + 9 + 4, 0));
}

TEST(wire_task_count)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_COUNT, 4));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, AT_COUNT + 3, 1));
  CHECK_INT(back.i_count, 0);
}

TEST(wire_task_count_of_one_too_many)
{
  for (uint32_t n = 3; n <= 4; n++) { /* all there, and sound */
    struct wire_list back = {.more = 5};
    unsigned char bytes[128];
    struct wire_out out;
    struct wire_in in;
    wire_out_init(&out, bytes, sizeof bytes);
    wire_put_u32(&out, n);
    for (uint32_t i = 0; i < n; i++) {
      wire_put_u64(&out, i);
      wire_put_u8(&out, 1);
      wire_put_u32(&out, 0);
    }
    wire_put_u64(&out, 6);
    wire_in_init(&in, bytes, out.used);
    CHECK_INT(wire_task_get(&in, &wire_list_type, &back, CHI_DIR_IN, NULL, NULL),
              n == 3 ? CHI_OK : CHI_ECORRUPT);
    CHECK_INT(back.more, n == 3 ? 6 : 5);
  }
}

TEST(wire_task_bulk_size)
{
  struct wire_small t = {.s = "abc", .data = {wire_data, 100, 0}}, back = {0};
  static char room[99];
  static struct wire_encoded e;
  struct wire_in in;
  CHECK(wire_refused(&wire_small_type, &t, &back, 7, 101));    /* more than came */
  CHECK(wire_refused(&wire_small_type, &t, &back, 7, 0));      /* none, and data */
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 4, 2));  /* above WIRE_BULK_MAX */
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 1, 32)); /* inline, and too big for it */
  struct wire_mixed mixed = wire_mixed_make(), mixed_back = {0};
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &mixed, CHI_DIR_IN), CHI_OK);
  CHECK(wire_refused(&wire_mixed_type, &mixed, &mixed_back, e.out.used - 5, 2)); /* without data */
  back.data = (chi_bulk){room, sizeof room, 0};
  CHECK_INT(wire_encode(&e, &wire_small_type, &t, CHI_DIR_OUT), CHI_OK);
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_OUT, NULL, NULL), CHI_ECORRUPT);
  CHECK(in.failed && room[0] == 0 && back.data.size == sizeof room); /* no room: untouched */
}

TEST(wire_task_bulk_how)
{
  struct wire_small t = {.s = "abc", .data = {wire_data, 100, 0}}, back = {0};
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 0));
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 2)); /* a frame: there is none */
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 3));
  t.data.size = sizeof wire_data;
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 0));
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 1));
  t.data = (chi_bulk){NULL, 0, 0};
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 1));
  CHECK(wire_refused(&wire_small_type, &t, &back, 7 + 8, 2));
}

/* Either way has its sizes, so that there is one way to write a task. */
TEST(wire_task_bulk_how_and_size)
{
  static unsigned char bytes[4 + 9 + WIRE_BULK_INLINE + 1];
  const struct env_frame frame = {wire_data, WIRE_BULK_INLINE};
  struct wire_small back = {0};
  struct wire_rooms rooms = {.budget = 1u << 20};
  struct wire_out out;
  struct wire_in in;
  for (unsigned char how = 1; how <= 2; how++) {
    wire_out_init(&out, bytes, sizeof bytes);
    wire_put_u32(&out, 0);
    wire_put_u64(&out, how == 1 ? WIRE_BULK_INLINE + 1 : WIRE_BULK_INLINE);
    wire_put_u8(&out, how);
    wire_in_init(&in, bytes, how == 1 ? sizeof bytes : out.used);
    in.bulk = &frame;
    in.bulk_count = how == 2;
    CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_IN, wire_room, &rooms),
              CHI_ECORRUPT);
  }
  CHECK_INT(rooms.count, 0);
}

/* Data for a bulk that the method only writes is not accepted. */
TEST(wire_task_bulk_direction)
{
  struct wire_mixed t = wire_mixed_make(), back = {0};
  static struct wire_encoded e;
  CHECK_INT(wire_encode(&e, &wire_mixed_type, &t, CHI_DIR_IN), CHI_OK);
  CHECK(wire_refused(&wire_mixed_type, &t, &back, e.out.used - 1, 1));
  CHECK(wire_refused(&wire_mixed_type, &t, &back, e.out.used - 1, 2));
}

TEST(wire_task_bulk_frame)
{
  struct wire_small t = {.s = "abc", .data = {wire_data, sizeof wire_data, 0}}, back = {0};
  struct wire_rooms rooms = {.budget = 1u << 20};
  static struct wire_encoded e;
  struct wire_in in;
  CHECK_INT(wire_encode(&e, &wire_small_type, &t, CHI_DIR_IN), CHI_OK);
  in = wire_reader(&e);
  in.bulk_count = 0;
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_IN, wire_room, &rooms),
            CHI_ECORRUPT);
  e.frame[0].size--;
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_IN, wire_room, &rooms),
            CHI_ECORRUPT);
  CHECK_INT(rooms.count, 0);
  e.frame[0].size++;
  e.frame[e.frames++] = e.frame[0]; /* one that no field asks for */
  in = wire_reader(&e);
  CHECK_INT(wire_task_get(&in, &wire_small_type, &back, CHI_DIR_IN, wire_room, &rooms), CHI_OK);
  CHECK(!wire_in_ended(&in));
  wire_rooms_free(&rooms);
}

/* ---- docs/wire.md */

#define WIRE_POINT(X, T) X(T, IN, i32, x) X(T, IN, i16, y)
CHI_STRUCT(wire_point, WIRE_POINT)
#define WIRE_DRAW(X, T)                                                                            \
  X(T, IN, str, name, 16)                                                                          \
  X(T, IN, array, points, wire_point, 8) X(T, IN, bool, fill) X(T, IN, f64, scale)                 \
      X(T, IN, pool, target) X(T, IN, bulk, data) X(T, OUT, bulk, image) X(T, OUT, u32, pixels)
CHI_TASK(wire_draw, 12, WIRE_DRAW)

static bool wire_is_example(const struct wire_encoded *e, const char *title)
{
  unsigned char want[512];
  size_t size = example_read("docs/wire.md", title, want, sizeof want);
  return size > 0 && size == e->out.used && memcmp(want, e->bytes, size) == 0;
}

TEST(wire_task_of_the_document)
{
  static struct wire_encoded e;
  static char blue[] = "blue", image[5000];
  struct wire_draw t = {.name = "line",
                        .points_count = 2,
                        .points = {{1, 2}, {-1, -2}},
                        .fill = 1,
                        .scale = 0.5,
                        .target = {300, 1},
                        .data = {blue, 4, 0},
                        .image = {image, sizeof image, 0},
                        .pixels = 7};
  CHECK_INT(wire_encode(&e, &wire_draw_type, &t, CHI_DIR_IN), CHI_OK);
  CHECK(wire_is_example(&e, "The fields of a request"));
  CHECK_INT(wire_encode(&e, &wire_draw_type, &t, CHI_DIR_OUT), CHI_OK);
  CHECK(wire_is_example(&e, "The fields of an answer") && e.frames == 1);
}
