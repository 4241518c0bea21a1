/* fuzz_task.c - a task in shared memory that a hostile client wrote: whatever it holds, the copy is
 * refused or sound, and the daemon reads and writes inside the client's chunk alone. */
#include "task.h"

#include <stdlib.h>

#define FUZZ_SPOT(X, T) X(T, IN, u64, offset) X(T, IN, bool, flag) X(T, IN, str, tag, 5)
CHI_STRUCT(fuzz_spot, FUZZ_SPOT)
#define FUZZ_NEST(X, T) X(T, IN, object, place, fuzz_spot) X(T, IN, i16, level)
CHI_STRUCT(fuzz_nest, FUZZ_NEST)
#define FUZZ_MIXED(X, T)                                                                           \
  X(T, IN, u8, small) X(T, INOUT, str, name, 16) X(T, INOUT, array, spots, fuzz_nest, 4)           \
  X(T, IN, bulk, in) X(T, OUT, bulk, out) X(T, INOUT, bool, flag) X(T, OUT, u64, sum)
CHI_TASK(fuzz_mixed, 10, FUZZ_MIXED)
#define FUZZ_PLAIN(X, T) X(T, IN, u64, a) X(T, INOUT, i32, b) X(T, OUT, u64, sum)
CHI_TASK(fuzz_plain, 11, FUZZ_PLAIN)

#define FUZZ_CHUNK 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_check(bool holds)
{
  if (!holds)
    abort();
}

/* Every promise that a method relies on. */
static void fuzz_check_mixed(const struct fuzz_mixed *t, const char *chunk)
{
  const chi_bulk *bulks[] = {&t->in, &t->out};
  fuzz_check(memchr(t->name, 0, sizeof t->name) != NULL && t->flag <= 1 && t->spots_count <= 4);
  for (uint32_t i = 0; i < t->spots_count; i++)
    fuzz_check(memchr(t->spots[i].place.tag, 0, 5) != NULL && t->spots[i].place.flag <= 1);
  for (int i = 0; i < 2; i++) {
    const char *at = bulks[i]->data;
    fuzz_check(at || bulks[i]->size == 0);
    fuzz_check(!at || (at >= chunk && at + bulks[i]->size <= chunk + FUZZ_CHUNK));
  }
}

static void fuzz_copy(const chi_type *type, const struct shm_table *table, uint64_t ref,
                      const char *chunk)
{
  struct task_plan plan;
  chi_task *shared = shm_resolve(table, ref, type->size);
  chi_task *copy = calloc(1, type->size);
  fuzz_check(task_plan_init(&plan, type, NULL) == CHI_OK && copy);
  if (shared) {
    chi_task header = *shared;
    if (task_copy_in(&plan, table, &header, shared, copy) == CHI_OK) {
      if (type == &fuzz_mixed_type)
        fuzz_check_mixed((const struct fuzz_mixed *)copy, chunk);
      task_copy_out(&plan, copy, shared);
    }
  }
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  /* Of its exact size, so that the sanitizer sees a step outside; the rest of the input is it. */
  uint64_t head[2] = {0, 0};
  char *chunk = aligned_alloc(64, FUZZ_CHUNK);
  struct shm_chunk chunks[2] = {{NULL, 0}, {NULL, 0}};
  struct shm_table table = {chunks, 2};
  fuzz_check(chunk != NULL);
  memset(chunk, 0, FUZZ_CHUNK);
  memcpy(head, data, size < sizeof head ? size : sizeof head);
  if (size > sizeof head)
    memcpy(chunk, data + sizeof head,
           size - sizeof head < FUZZ_CHUNK ? size - sizeof head : FUZZ_CHUNK);
  shm_publish(&table, 1, chunk, FUZZ_CHUNK);
  fuzz_copy(&fuzz_mixed_type, &table, head[0], chunk);
  fuzz_copy(&fuzz_mixed_type, &table, shm_ref(1, head[1] % FUZZ_CHUNK / 8 * 8), chunk);
  fuzz_copy(&fuzz_plain_type, &table, shm_ref(1, 0), chunk);
  free(chunk);
  return 0;
}
