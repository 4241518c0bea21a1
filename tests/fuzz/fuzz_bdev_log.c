/* fuzz_bdev_log.c - any bytes as an allocation log; also with the checksums put right. */
#include "bdev_log.h"
#include "hash.h"
#include "scarce.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct scarce memory = {.fail_at = -1};
static const struct alloc source = SCARCE_ALLOC(&memory);

static uint64_t load64(const uint8_t *at)
{
  uint64_t value;
  memcpy(&value, at, sizeof(value));
  return value;
}

static void store32(uint8_t *at, uint32_t value)
{
  memcpy(at, &value, sizeof(value));
}

static uint32_t sum_around(const uint8_t *bytes, uint64_t size, uint64_t hole)
{
  return hash_crc32c(hash_crc32c(0, bytes, hole), bytes + hole + 4, size - hole - 4);
}

/* Makes a log of bytes that mean to be one: checksums, links, magic numbers and ids. */
static void repair(uint8_t *bytes, uint64_t size)
{
  uint64_t at = BDEV_LOG_HEAD;
  uint32_t link;
  if (size < BDEV_LOG_HEAD)
    return;
  memcpy(bytes, "CHI-LOG\n\1\0\0", 12);
  link = sum_around(bytes, BDEV_LOG_HEAD, 12);
  store32(bytes + 12, link);
  while (size - at >= BDEV_LOG_RECORD) {
    uint64_t most = (size - at - BDEV_LOG_RECORD) / BDEV_LOG_RANGE;
    uint64_t count = load64(bytes + at + 24), record;
    if (count > most)
      return;
    record = bdev_log_size(count);
    store32(bytes + at, 0x4c494843u);
    memcpy(bytes + at + 32, bytes + 16, 8);
    store32(bytes + at + 40, link);
    link = sum_around(bytes + at, record, 44);
    store32(bytes + at + 44, link);
    at += record;
  }
}

/* What was understood says the same when it is written down again. */
static void check(const struct extent_map *map)
{
  struct bdev_log_head head = {7, map->capacity, map->unit, 0};
  struct bdev_log_writer w = {0};
  struct bdev_log_found found;
  struct extent_map again;
  struct extent_range r, s;
  uint64_t runs = 0;
  for (uint64_t at = 0; extent_next(map, at, &r); at = r.offset + r.size)
    runs++;
  head.snapshot_end = w.room = BDEV_LOG_HEAD + bdev_log_size(runs);
  w.bytes = malloc(w.room);
  bdev_log_put_head(&w, &head);
  bdev_log_begin(&w, BDEV_LOG_ALLOCATE);
  for (uint64_t at = 0; extent_next(map, at, &r); at = r.offset + r.size)
    bdev_log_range(&w, r.offset, r.size);
  bdev_log_end(&w);
  if (bdev_log_replay(w.bytes, w.size, &source, &again, &found, NULL) != CHI_OK)
    abort();
  if (again.free_bytes != map->free_bytes || found.torn || !found.marked)
    abort();
  for (uint64_t at = 0; extent_next(map, at, &r); at = r.offset + r.size) {
    if (!extent_next(&again, at, &s) || s.offset != r.offset || s.size != r.size)
      abort();
  }
  extent_fini(&again, &source);
  free(w.bytes);
}

static void read_log(const uint8_t *bytes, uint64_t size)
{
  struct bdev_log_found found;
  struct extent_map map;
  chi_error err;
  int rc = bdev_log_replay(bytes, size, &source, &map, &found, &err);
  if (rc != CHI_OK && rc != CHI_ECORRUPT && rc != CHI_EVERSION)
    abort();
  if (rc != CHI_OK)
    return;
  if (found.end > size || found.end < found.head.snapshot_end || found.torn != (found.end < size))
    abort();
  check(&map);
  extent_fini(&map, &source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  uint8_t *bytes = malloc(size + 1);
  if (size > 0)
    memcpy(bytes, data, size);
  read_log(bytes, size);
  repair(bytes, size);
  read_log(bytes, size);
  free(bytes);
  return 0;
}
