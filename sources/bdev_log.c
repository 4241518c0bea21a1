/* bdev_log.c - layout and replay of an allocation log. */
#include "bdev_log.h"
#include "error.h"
#include "hash.h"

/* Head: 0 magic[8], 8 version, 12 checksum, 16 id, 24 capacity, 32 unit, 40 snapshot_end, zeros.
 * Record: 0 magic, 4 kind, 8 seq, 16 base, 24 count, 32 id, 40 link, 44 checksum, 48 ranges, each
 * offset and size. A checksum is that of everything else in its head or record. */
#define BDEV_LOG_MAGIC "CHI-LOG\n"
#define BDEV_LOG_VERSION 1u
#define BDEV_LOG_RECORD_MAGIC 0x4c494843u
#define BDEV_LOG_UNIT_MAX ((uint64_t)1 << 30)

struct bdev_log_record {
  uint32_t kind, link, sum;
  uint64_t seq, base, count, size;
  const uint8_t *ranges;
};

/* ---- bytes ----------------------------------------------------------------------------------- */

static void bdev_log_put32(uint8_t *at, uint32_t value)
{
  for (int i = 0; i < 4; i++)
    at[i] = (uint8_t)(value >> (8 * i));
}

static void bdev_log_put64(uint8_t *at, uint64_t value)
{
  bdev_log_put32(at, (uint32_t)value);
  bdev_log_put32(at + 4, (uint32_t)(value >> 32));
}

static uint32_t bdev_log_get32(const uint8_t *at)
{
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t bdev_log_get64(const uint8_t *at)
{
  return bdev_log_get32(at) | (uint64_t)bdev_log_get32(at + 4) << 32;
}

/* The checksum of size bytes without the four at `hole`. */
static uint32_t bdev_log_sum(const uint8_t *bytes, uint64_t size, uint64_t hole)
{
  uint32_t sum = hash_crc32c(0, bytes, hole);
  return hash_crc32c(sum, bytes + hole + 4, size - hole - 4);
}

/* ---- writing --------------------------------------------------------------------------------- */

CHI_PRIVATE uint64_t bdev_log_size(uint64_t count)
{
  return BDEV_LOG_RECORD + BDEV_LOG_RANGE * count;
}

CHI_PRIVATE void bdev_log_put_head(struct bdev_log_writer *w, const struct bdev_log_head *head)
{
  uint8_t *at = w->bytes;
  CHI_ASSERT(w->room >= BDEV_LOG_HEAD);
  memset(at, 0, BDEV_LOG_HEAD);
  memcpy(at, BDEV_LOG_MAGIC, 8);
  bdev_log_put32(at + 8, BDEV_LOG_VERSION);
  bdev_log_put64(at + 16, head->id);
  bdev_log_put64(at + 24, head->capacity);
  bdev_log_put64(at + 32, head->unit);
  bdev_log_put64(at + 40, head->snapshot_end);
  w->link = bdev_log_sum(at, BDEV_LOG_HEAD, 12);
  bdev_log_put32(at + 12, w->link);
  w->size = w->base = BDEV_LOG_HEAD;
  w->id = head->id;
  w->seq = 0;
}

CHI_PRIVATE void bdev_log_begin(struct bdev_log_writer *w, enum bdev_log_kind kind)
{
  uint8_t *at = w->bytes + w->size;
  CHI_ASSERT(w->room - w->size >= BDEV_LOG_RECORD);
  bdev_log_put32(at, BDEV_LOG_RECORD_MAGIC);
  bdev_log_put32(at + 4, (uint32_t)kind);
  bdev_log_put64(at + 8, ++w->seq);
  bdev_log_put64(at + 16, w->base);
  bdev_log_put64(at + 32, w->id);
  bdev_log_put32(at + 40, w->link);
  w->open = w->size;
  w->size += BDEV_LOG_RECORD;
}

CHI_PRIVATE void bdev_log_range(struct bdev_log_writer *w, uint64_t offset, uint64_t size)
{
  CHI_ASSERT(w->room - w->size >= BDEV_LOG_RANGE);
  bdev_log_put64(w->bytes + w->size, offset);
  bdev_log_put64(w->bytes + w->size + 8, size);
  w->size += BDEV_LOG_RANGE;
}

CHI_PRIVATE void bdev_log_end(struct bdev_log_writer *w)
{
  uint8_t *at = w->bytes + w->open;
  bdev_log_put64(at + 24, (w->size - w->open - BDEV_LOG_RECORD) / BDEV_LOG_RANGE);
  w->link = bdev_log_sum(at, w->size - w->open, 44);
  bdev_log_put32(at + 44, w->link);
}

/* ---- reading --------------------------------------------------------------------------------- */

static int bdev_log_read_head(const uint8_t *bytes, uint64_t size, struct bdev_log_found *found,
                              chi_error *err)
{
  struct bdev_log_head *head = &found->head;
  if (size < BDEV_LOG_HEAD || memcmp(bytes, BDEV_LOG_MAGIC, 8) != 0)
    return error_set(err, CHI_ECORRUPT, "this is not an allocation log");
  found->link = bdev_log_sum(bytes, BDEV_LOG_HEAD, 12);
  if (found->link != bdev_log_get32(bytes + 12))
    return error_set(err, CHI_ECORRUPT, "the head of the log is damaged");
  if (bdev_log_get32(bytes + 8) != BDEV_LOG_VERSION)
    return error_set(err, CHI_EVERSION, "the log is of version %u, expected %u",
                     bdev_log_get32(bytes + 8), BDEV_LOG_VERSION);
  head->id = bdev_log_get64(bytes + 16);
  head->capacity = bdev_log_get64(bytes + 24);
  head->unit = bdev_log_get64(bytes + 32);
  head->snapshot_end = bdev_log_get64(bytes + 40);
  if (head->unit == 0 || head->unit > BDEV_LOG_UNIT_MAX || (head->unit & (head->unit - 1)) != 0 ||
      head->capacity == 0 || (head->capacity & (head->unit - 1)) != 0 ||
      head->snapshot_end < BDEV_LOG_HEAD)
    return error_set(err, CHI_ECORRUPT, "the head of the log makes no sense");
  found->end = BDEV_LOG_HEAD;
  return CHI_OK;
}

/* Whether an intact record of the log `id` begins at `at`, of which `room` bytes are there. */
static bool bdev_log_parse(const uint8_t *at, uint64_t room, uint64_t id, struct bdev_log_record *r)
{
  if (room < BDEV_LOG_RECORD || bdev_log_get32(at) != BDEV_LOG_RECORD_MAGIC ||
      bdev_log_get64(at + 32) != id)
    return false;
  r->count = bdev_log_get64(at + 24);
  if (r->count > (room - BDEV_LOG_RECORD) / BDEV_LOG_RANGE)
    return false;
  r->size = bdev_log_size(r->count);
  r->sum = bdev_log_get32(at + 44);
  r->kind = bdev_log_get32(at + 4);
  r->seq = bdev_log_get64(at + 8);
  r->base = bdev_log_get64(at + 16);
  r->link = bdev_log_get32(at + 40);
  r->ranges = at + BDEV_LOG_RECORD;
  return bdev_log_sum(at, r->size, 44) == r->sum;
}

static bool bdev_log_continues(const struct bdev_log_found *found, const struct bdev_log_record *r)
{
  return r->link == found->link && r->seq > found->seq && r->base <= found->end;
}

/* Does what a record says. */
static int bdev_log_apply(const struct bdev_log_record *r, const struct alloc *alloc,
                          struct extent_map *map)
{
  for (uint64_t i = 0; i < r->count; i++) {
    const uint8_t *at = r->ranges + i * BDEV_LOG_RANGE;
    struct extent_range range = {bdev_log_get64(at), bdev_log_get64(at + 8)};
    int rc = CHI_EINVAL;
    if (r->kind == BDEV_LOG_ALLOCATE)
      rc = extent_take(map, alloc, range);
    else if (r->kind == BDEV_LOG_FREE)
      rc = extent_free(map, alloc, &range, 1);
    if (rc)
      return rc;
  }
  return r->kind >= BDEV_LOG_ALLOCATE && r->kind <= BDEV_LOG_MARK ? CHI_OK : CHI_EINVAL;
}

/* Whether a record behind the end proves that what lies at the end was durable. */
static bool bdev_log_was_durable(const uint8_t *bytes, uint64_t size,
                                 const struct bdev_log_found *found)
{
  struct bdev_log_record r;
  for (uint64_t at = found->end; at < size; at += BDEV_LOG_RANGE) {
    if (bdev_log_parse(bytes + at, size - at, found->head.id, &r) && r.base > found->end)
      return true;
  }
  return false;
}

static int bdev_log_read(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                         struct extent_map *map, struct bdev_log_found *found, chi_error *err)
{
  struct bdev_log_record r;
  while (bdev_log_parse(bytes + found->end, size - found->end, found->head.id, &r) &&
         bdev_log_continues(found, &r)) {
    int rc = bdev_log_apply(&r, alloc, map);
    if (rc == CHI_ENOMEM)
      return error_set(err, rc, "no memory for the free space");
    if (rc)
      return error_set(err, CHI_ECORRUPT, "the record at offset %llu contradicts those before it",
                       (unsigned long long)found->end);
    found->end += r.size;
    found->seq = r.seq;
    found->link = r.sum;
    found->records++;
    found->marked = r.kind == BDEV_LOG_MARK;
  }
  if (found->end < found->head.snapshot_end || bdev_log_was_durable(bytes, size, found))
    return error_set(err, CHI_ECORRUPT,
                     "the log is damaged at offset %llu, before records that are in order",
                     (unsigned long long)found->end);
  found->torn = found->end < size;
  found->marked = found->marked || found->end == found->head.snapshot_end;
  return CHI_OK;
}

CHI_PRIVATE int bdev_log_replay(const uint8_t *bytes, uint64_t size, const struct alloc *alloc,
                                struct extent_map *map, struct bdev_log_found *found,
                                chi_error *err)
{
  int rc;
  *found = (struct bdev_log_found){0};
  rc = bdev_log_read_head(bytes, size, found, err);
  if (rc)
    return rc;
  if (extent_init(map, alloc, found->head.capacity, found->head.unit))
    return error_set(err, CHI_ENOMEM, "no memory for the free space");
  rc = bdev_log_read(bytes, size, alloc, map, found, err);
  if (rc)
    extent_fini(map, alloc);
  return rc;
}

#undef BDEV_LOG_MAGIC
#undef BDEV_LOG_VERSION
#undef BDEV_LOG_RECORD_MAGIC
#undef BDEV_LOG_UNIT_MAX
