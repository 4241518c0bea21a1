/* ledger.c - an allocation log while it is written: what its records say of each other. */
#include "ledger.h"
#include "sim_cluster.h"
#include "sim_disk.h"

#include <stdio.h>
#include <string.h>

/* See bdev_log.c; read here once more, by somebody else. */
#define HEAD 64u
#define RECORD 48u
#define RANGE 16u
#define MAGIC 0x4c494843u
#define ROOM (1u << 18)

static uint64_t number_at(const uint8_t *at, uint32_t bytes)
{
  uint64_t value = 0;
  for (uint32_t i = 0; i < bytes; i++)
    value |= (uint64_t)at[i] << (8 * i);
  return value;
}

static void look_at_record(const uint8_t *r, uint64_t at, uint64_t safe, uint64_t before,
                           bool strict)
{
  uint64_t seq = number_at(r + 8, 8), base = number_at(r + 16, 8);
  if (at >= safe && base > safe)
    books_fail("P5", "a record of the log at %llu says that %llu bytes are durable: %llu are",
               (unsigned long long)at, (unsigned long long)base, (unsigned long long)safe);
  else if (base > at)
    books_fail("P5", "a record of the log at %llu says of itself that it is durable",
               (unsigned long long)at);
  if (seq <= before || (strict && seq != before + 1))
    books_fail("P5", "a record of the log has the number %llu, behind %llu",
               (unsigned long long)seq, (unsigned long long)before);
}

void ledger_look(chi_cluster *cluster, uint32_t node, const char *device, bool strict)
{
  static uint8_t bytes[ROOM];
  const struct sim_disk *disk = sim_node_disk(sim_cluster_sim(cluster), node);
  char path[64];
  snprintf(path, sizeof(path), "%s.chi-log", device);
  int64_t size = sim_disk_peek(disk, path, bytes, sizeof(bytes), 0);
  int64_t safe = sim_disk_peek_safe(disk, path, NULL, 0, 0);
  if (size < (int64_t)HEAD || safe < 0 || safe >= size) /* nothing is on its way */
    return;
  uint64_t before = 0, left = (uint64_t)size - HEAD;
  for (uint64_t at = HEAD; left >= RECORD && !chi_cluster_failure(cluster);) {
    const uint8_t *r = bytes + at;
    uint64_t count = number_at(r + 24, 8);
    if (number_at(r, 4) != MAGIC || count > (left - RECORD) / RANGE)
      return;
    look_at_record(r, at, (uint64_t)safe, before, strict);
    before = number_at(r + 8, 8);
    at += RECORD + count * RANGE;
    left -= RECORD + count * RANGE;
  }
}
