/* test_bdev_log.c - allocation logs: written, torn, damaged, read back. */
#include "bdev_log.h"
#include "hash.h"
#include "scarce.h"
#include "test.h"

#include <stdlib.h>

#define UNIT 4096u
#define UNITS 64u
#define BATCHES 6

static struct scarce memory = {.fail_at = -1, .dry = true};
static const struct alloc source = SCARCE_ALLOC(&memory);

/* A log, and what it says after each of its records. */
struct sample {
  uint8_t bytes[4096];
  struct bdev_log_writer w;
  uint64_t snapshot_end;
  uint64_t end[32];        /* of record i */
  uint64_t durable[32];    /* the end of what was durable when it was written: its base */
  uint8_t unit[33][UNITS]; /* unit[i]: allocated after i records */
  uint32_t records;
};

static void sample_record(struct sample *s, enum bdev_log_kind kind, uint32_t first, uint32_t units)
{
  uint32_t n = s->records++;
  bdev_log_begin(&s->w, kind);
  if (kind != BDEV_LOG_MARK)
    bdev_log_range(&s->w, first * UNIT, units * UNIT);
  bdev_log_end(&s->w);
  s->end[n] = s->w.size;
  s->durable[n] = s->w.base;
  memcpy(s->unit[n + 1], s->unit[n], UNITS);
  if (kind != BDEV_LOG_MARK)
    memset(s->unit[n + 1] + first, kind == BDEV_LOG_ALLOCATE, units);
}

static void sample_batch(struct sample *s)
{
  s->w.base = s->w.size;
}

static void sample_begin(struct sample *s)
{
  struct bdev_log_head head = {0x1122334455667788u, UNITS * UNIT, UNIT, 0};
  memset(s, 0, sizeof(*s));
  s->w.bytes = s->bytes;
  s->w.room = sizeof(s->bytes);
  s->snapshot_end = head.snapshot_end = BDEV_LOG_HEAD + bdev_log_size(1);
  bdev_log_put_head(&s->w, &head);
  sample_record(s, BDEV_LOG_ALLOCATE, 0, 4);
}

/* A snapshot and six batches of one to three records. */
static void sample_make(struct sample *s)
{
  sample_begin(s);
  for (uint32_t batch = 0; batch < BATCHES; batch++) {
    sample_batch(s);
    sample_record(s, BDEV_LOG_ALLOCATE, 4 + 8 * batch, 6);
    if (batch % 2)
      sample_record(s, BDEV_LOG_FREE, 4 + 8 * batch, 2);
    if (batch % 3 == 1)
      sample_record(s, BDEV_LOG_MARK, 0, 0);
  }
}

static bool map_says(const struct extent_map *map, const uint8_t *unit)
{
  for (uint32_t i = 0; i < UNITS; i++) {
    if (extent_allocated(map, i * UNIT, UNIT) != unit[i])
      return false;
  }
  return true;
}

/* Replays bytes and gives the number of records that count, or a code. Fails when the map is not
 * what they say. */
static int64_t sample_replay(const struct sample *s, const uint8_t *bytes, uint64_t size,
                             struct bdev_log_found *found, chi_error *err)
{
  struct extent_map map;
  int rc = bdev_log_replay(bytes, size, &source, &map, found, err);
  int64_t result = rc;
  if (rc == CHI_OK) {
    bool right = found->records <= s->records && map_says(&map, s->unit[found->records]);
    result = right ? (int64_t)found->records : -1000;
    extent_fini(&map, &source);
  }
  return memory.bytes == 0 ? result : -2000;
}

TEST(bdev_log_round_trip)
{
  struct sample s;
  struct bdev_log_found found;
  chi_error err;
  sample_make(&s);
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, &err), s.records);
  CHECK(!found.torn);
  CHECK(!found.marked);
  CHECK_INT(found.end, s.w.size);
  CHECK_INT(found.seq, s.w.seq);
  CHECK_INT(found.link, s.w.link);
  CHECK_INT(found.head.id, 0x1122334455667788);
  CHECK_INT(found.head.capacity, UNITS * UNIT);
  CHECK_INT(found.head.unit, UNIT);
  CHECK_INT(found.head.snapshot_end, s.snapshot_end);
  sample_batch(&s);
  sample_record(&s, BDEV_LOG_MARK, 0, 0);
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, &err), s.records);
  CHECK(found.marked);
}

TEST(bdev_log_snapshot_alone_is_marked)
{
  struct sample s;
  struct bdev_log_found found;
  sample_begin(&s);
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, NULL), 1);
  CHECK(found.marked);
  CHECK(!found.torn);
}

TEST(bdev_log_cut_anywhere_keeps_whole_records)
{
  struct sample s;
  struct bdev_log_found found;
  sample_make(&s);
  for (uint64_t size = 0; size <= s.w.size; size++) {
    int64_t whole = 0;
    while (whole < s.records && s.end[whole] <= size)
      whole++;
    CHECK_INT(sample_replay(&s, s.bytes, size, &found, NULL),
              size < s.snapshot_end ? CHI_ECORRUPT : whole);
    if (size >= s.snapshot_end)
      CHECK_INT(found.torn, found.end != size);
  }
}

/* The records that were durable before the last batch began. */
static int64_t sample_confirmed(const struct sample *s)
{
  int64_t n = 0;
  while (s->end[n] <= s->durable[s->records - 1])
    n++;
  return n;
}

/* Damage to what was confirmed is found; to the last batch, it looks torn. */
TEST(bdev_log_every_flipped_bit_is_noticed)
{
  struct sample s;
  struct bdev_log_found found;
  uint8_t bytes[sizeof(s.bytes)];
  int64_t confirmed, rc;
  sample_make(&s);
  confirmed = sample_confirmed(&s);
  CHECK(confirmed > 3 && confirmed < s.records);
  for (uint64_t bit = 0; bit < s.w.size * 8; bit++) {
    memcpy(bytes, s.bytes, s.w.size);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    rc = sample_replay(&s, bytes, s.w.size, &found, NULL);
    if (bit / 8 < s.durable[s.records - 1])
      CHECK_INT(rc, CHI_ECORRUPT);
    else
      CHECK(rc >= confirmed && rc < s.records && found.torn);
  }
}

/* Any part of the last batch may be missing: zeros, or never written. */
TEST(bdev_log_batch_torn_in_any_place_is_dropped)
{
  struct sample s;
  struct bdev_log_found found;
  uint8_t bytes[sizeof(s.bytes)];
  uint64_t base, size;
  sample_make(&s);
  sample_batch(&s);
  for (uint32_t i = 0; i < 6; i++)
    sample_record(&s, BDEV_LOG_ALLOCATE, 52 + i, 1);
  base = s.w.base;
  for (uint64_t from = base; from < s.w.size; from += 8) {
    for (uint64_t to = from + 8; to <= s.w.size; to += 8) {
      int64_t whole = 0;
      memcpy(bytes, s.bytes, s.w.size);
      memset(bytes + from, 0, to - from);
      while (s.end[whole] <= from)
        whole++;
      CHECK_INT(sample_replay(&s, bytes, s.w.size, &found, NULL), whole);
      CHECK(found.torn);
    }
  }
  size = s.w.size;
  CHECK_INT(sample_replay(&s, s.bytes, size, &found, NULL), s.records);
}

/* A batch fails, its bytes stay; a shorter one takes its place. */
TEST(bdev_log_remains_of_a_failed_batch_do_not_count)
{
  struct sample s;
  struct bdev_log_found found;
  struct bdev_log_writer before;
  uint64_t size;
  uint32_t records;
  sample_make(&s);
  sample_batch(&s);
  before = s.w;
  records = s.records;
  for (uint32_t i = 0; i < 4; i++)
    sample_record(&s, BDEV_LOG_ALLOCATE, 52 + i, 1);
  size = s.w.size;
  before.seq = s.w.seq;
  s.w = before;
  s.records = records;
  sample_record(&s, BDEV_LOG_ALLOCATE, 52, 1); /* the same again */
  CHECK_INT(sample_replay(&s, s.bytes, size, &found, NULL), s.records);
  CHECK(found.torn);
  CHECK_INT(found.end, s.w.size);
  sample_batch(&s);
  sample_record(&s, BDEV_LOG_ALLOCATE, 60, 1);
  CHECK_INT(sample_replay(&s, s.bytes, size, &found, NULL), s.records);
  s.bytes[s.w.base + 20] ^= 1; /* the last batch, torn, with old records behind it */
  CHECK_INT(sample_replay(&s, s.bytes, size, &found, NULL), s.records - 1);
}

TEST(bdev_log_damage_is_named)
{
  struct sample s;
  struct bdev_log_found found;
  chi_error err;
  char want[64];
  sample_make(&s);
  s.bytes[s.end[3] + 9] ^= 4;
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, &err), CHI_ECORRUPT);
  snprintf(want, sizeof(want), "offset %llu,", (unsigned long long)s.end[3]);
  CHECK(strstr(err.text, want));
  CHECK_INT(err.code, CHI_ECORRUPT);
}

TEST(bdev_log_other_version_is_refused)
{
  struct sample s;
  struct bdev_log_found found;
  uint32_t sum;
  sample_make(&s);
  s.bytes[8] = 2;
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, NULL), CHI_ECORRUPT);
  sum = hash_crc32c(hash_crc32c(0, s.bytes, 12), s.bytes + 16, BDEV_LOG_HEAD - 16);
  for (int i = 0; i < 4; i++)
    s.bytes[12 + i] = (uint8_t)(sum >> (8 * i));
  CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, NULL), CHI_EVERSION);
}

TEST(bdev_log_head_that_makes_no_sense_is_refused)
{
  static const struct bdev_log_head bad[] = {
      {1, 0, UNIT, BDEV_LOG_HEAD}, {1, UNIT + 1, UNIT, BDEV_LOG_HEAD},
      {1, UNIT, 0, BDEV_LOG_HEAD}, {1, 3 * UNIT, 3 * UNIT, BDEV_LOG_HEAD},
      {1, UNIT, UNIT, 0},          {1, UNIT, UNIT, BDEV_LOG_HEAD + 1},
      {1, UNIT, UNIT, UINT64_MAX}, {1, (uint64_t)1 << 40, (uint64_t)1 << 40, 64},
  };
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    struct sample s;
    struct bdev_log_found found;
    sample_begin(&s);
    bdev_log_put_head(&s.w, &bad[i]);
    CHECK_INT(sample_replay(&s, s.bytes, BDEV_LOG_HEAD, &found, NULL), CHI_ECORRUPT);
  }
}

/* Intact records that contradict each other, or say nothing known. */
TEST(bdev_log_contradictions_are_refused)
{
  static const struct {
    uint32_t kind;
    uint64_t offset, size;
  } bad[] = {
      {BDEV_LOG_ALLOCATE, 0, UNIT},
      {BDEV_LOG_ALLOCATE, (UNITS - 1) * UNIT, 2 * UNIT},
      {BDEV_LOG_ALLOCATE, 20 * UNIT, 0},
      {BDEV_LOG_ALLOCATE, 20 * UNIT + 1, UNIT},
      {BDEV_LOG_ALLOCATE, UINT64_MAX - UNIT + 1, 2 * UNIT},
      {BDEV_LOG_FREE, 20 * UNIT, UNIT},
      {BDEV_LOG_FREE, 3 * UNIT, 2 * UNIT},
      {BDEV_LOG_MARK, 0, UNIT},
      {4, 0, UNIT},
      {0, 0, UNIT},
  };
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    struct sample s;
    struct bdev_log_found found;
    sample_begin(&s);
    sample_batch(&s);
    bdev_log_begin(&s.w, (enum bdev_log_kind)bad[i].kind);
    bdev_log_range(&s.w, bad[i].offset, bad[i].size);
    bdev_log_end(&s.w);
    CHECK_INT(sample_replay(&s, s.bytes, s.w.size, &found, NULL), CHI_ECORRUPT);
  }
}

TEST(bdev_log_without_memory)
{
  struct sample s;
  struct bdev_log_found found;
  int64_t rc = CHI_ENOMEM, most = 0;
  sample_make(&s);
  for (; rc == CHI_ENOMEM && most < 100; most++) {
    memory.fail_at = (int)most;
    rc = sample_replay(&s, s.bytes, s.w.size, &found, NULL);
  }
  memory.fail_at = -1;
  CHECK_INT(rc, s.records);
  CHECK(most > 3);
}
