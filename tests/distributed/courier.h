/* courier.h - the module that a cluster is tested with: it adds, carries bulk data, and keeps a
 * ledger of every body it runs, which is compared with what clients were told. */
#ifndef CHI_TEST_COURIER_H
#define CHI_TEST_COURIER_H

#include "chimaera.h"

#define COURIER_POOL ((chi_pool_id){700, 0})
#define COURIER_NODES 64u /* sets of containers are bits of 64 */

/* ledger: directory where container i of node n keeps the file "ledger-n-i". */
#define COURIER_PARAMS(X, T) X(T, IN, str, ledger, 512)
CHI_STRUCT(courier_params, COURIER_PARAMS)

/* With the query dynamic it runs where hash a would send it. */
#define COURIER_ADD(X, T)                                                                          \
  X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum) X(T, OUT, u32, container)                  \
  X(T, OUT, u32, node)
CHI_TASK(courier_add, 10, COURIER_ADD)
/* Adds up over containers: `each` for each of them, and who they were. Dynamic: all of them. */
#define COURIER_SUM(X, T) X(T, IN, u64, each) X(T, OUT, u64, sum) X(T, OUT, u64, containers)
CHI_TASK(courier_sum, 11, COURIER_SUM)
/* back becomes what data is; check: the checksum of what was read. */
#define COURIER_ECHO(X, T) X(T, IN, bulk, data) X(T, OUT, bulk, back) X(T, OUT, u64, check)
CHI_TASK(courier_echo, 12, COURIER_ECHO)
#define COURIER_PUT(X, T) X(T, IN, bulk, data) X(T, OUT, u64, check)
CHI_TASK(courier_put, 13, COURIER_PUT)
/* Fills data from a seed, as courier_fill does. */
#define COURIER_GET(X, T) X(T, IN, u64, seed) X(T, OUT, bulk, data) X(T, OUT, u64, check)
CHI_TASK(courier_get, 14, COURIER_GET)
/* Writes (client, seq) into the ledger, works for so long, and says who ran. Dynamic: hash seq. */
#define COURIER_MARK(X, T)                                                                         \
  X(T, IN, u64, client) X(T, IN, u64, seq) X(T, IN, u32, work_us) X(T, OUT, u64, containers)
CHI_TASK(courier_mark, 15, COURIER_MARK)
/* Nothing but there and back, for speed. */
#define COURIER_PING(X, T) X(T, IN, u64, number) X(T, OUT, u64, answer)
CHI_TASK(courier_ping, 16, COURIER_PING)

/* One body of `mark` that has begun. */
struct courier_entry {
  uint64_t client, seq;
  uint32_t node, container;
  uint64_t check; /* courier_entry_check of the others; else it was not written to its end */
};

static inline uint64_t courier_mix(uint64_t x)
{
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static inline uint64_t courier_entry_check(const struct courier_entry *e)
{
  return courier_mix(courier_mix(courier_mix(e->client) ^ e->seq) ^
                     ((uint64_t)e->node << 32 | e->container));
}

/* Bytes that are the seed's own. */
static inline void courier_fill(void *data, uint64_t size, uint64_t seed)
{
  unsigned char *to = (unsigned char *)data;
  for (uint64_t i = 0; i < size; i += 8) {
    uint64_t word = courier_mix(seed + i);
    __builtin_memcpy(to + i, &word, size - i < 8 ? size - i : 8);
  }
}

/* The checksum of all bytes and of how many they are. */
static inline uint64_t courier_check(const void *data, uint64_t size)
{
  const unsigned char *from = (const unsigned char *)data;
  uint64_t sum = courier_mix(size);
  for (uint64_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    __builtin_memcpy(&word, from + i, size - i < 8 ? size - i : 8);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 32;
  }
  return courier_mix(sum);
}

#endif
