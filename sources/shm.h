/* shm.h - shared memory in chunks leased to clients: places in it, and the allocator over it.
 *
 * A place is a `ref`: chunk number + 1 in the upper 24 bits, offset in the lower 40; 0 is none.
 * The daemon keeps a table chunk -> memory for each client and resolves refs through it, with
 * bounds. The client allocates in its chunks by an arena whose own data is private memory. */
#ifndef CHI_SHM_H
#define CHI_SHM_H

#include "base.h"
#include "alloc.h"
#include "atomic.h"

#define SHM_CHUNK_SIZE (2u << 20)
#define SHM_SPAN_SIZE (64u << 10) /* a chunk is cut into spans, a span into slots of one class */
#define SHM_SPANS (SHM_CHUNK_SIZE / SHM_SPAN_SIZE)
#define SHM_SMALL (32u << 10)     /* up to this, a slot; above, whole spans or an own chunk */
#define SHM_CLASSES 31u
#define SHM_SIZE_MAX (1ull << 39) /* of one allocation */

/* Which budget a chunk counts against. */
enum shm_kind { SHM_MAIN, SHM_CLIENT_DATA, SHM_RUNTIME_DATA, SHM_KINDS };

CHI_INLINE uint64_t shm_ref(uint32_t chunk, uint64_t offset)
{
  return ((uint64_t)(chunk + 1) << 40) | offset;
}

/* ---- daemon side */
struct shm_chunk {
  char *base;
  uint64_t size; /* published last; 0: no such chunk */
};
struct shm_table {
  struct shm_chunk *chunk;
  uint32_t room;
};
/* The memory of a ref, and how many bytes there are from it to the end of its chunk; NULL, and 0,
 * if there is no such chunk or the ref is not aligned to 8. Any worker. */
CHI_INLINE void *shm_resolve_room(const struct shm_table *t, uint64_t ref, uint64_t *room)
{
  uint64_t index = (ref >> 40) - 1, offset = ref & ((1ull << 40) - 1); /* of none: beyond all */
  *room = 0;
  if (index >= t->room || (offset & 7) != 0)
    return NULL;
  const struct shm_chunk *c = &t->chunk[index];
  uint64_t size = atomic_get_acquire(&c->size);
  if (size == 0 || offset > size)
    return NULL;
  *room = size - offset;
  return c->base + offset;
}
/* The memory of a ref, or NULL if [ref, ref + size) is not all inside one chunk or not aligned to
 * 8. Any worker. */
CHI_PRIVATE void *shm_resolve(const struct shm_table *t, uint64_t ref, uint64_t size);
/* Makes a chunk known (network worker). */
CHI_PRIVATE void shm_publish(struct shm_table *t, uint32_t chunk, void *base, uint64_t size);

/* ---- client side: one thread */

/* Where an arena gets its chunks: a multiple of SHM_CHUNK_SIZE bytes. */
struct shm_source {
  int (*lease)(void *arg, enum shm_kind kind, uint64_t size, void **base, uint32_t *chunk);
  void (*give_back)(void *arg, uint32_t chunk);
  void *arg;
};

struct shm_span;
struct shm_lease;
struct shm_arena {
  const struct alloc *alloc;
  struct shm_source source;
  enum shm_kind kind;
  struct shm_span *partial[SHM_CLASSES]; /* spans with a free slot, by class */
  struct shm_lease **lease;              /* sorted by base */
  uint32_t lease_count, lease_room, idle; /* idle: leases with nothing in use */
  struct shm_lease *last;                /* the one found last */
  const void *fresh_at; /* small memory handed out last, until it is given back: often the next */
  uint64_t fresh_ref, fresh_room; /* that is looked for */
  uint64_t used;                         /* bytes handed out, rounded to slots */
};

CHI_PRIVATE void shm_arena_init(struct shm_arena *a, const struct alloc *alloc, enum shm_kind kind,
                                const struct shm_source *source);
/* Forgets everything; chunks are not given back. */
CHI_PRIVATE void shm_arena_fini(struct shm_arena *a);
/* Gives every chunk back and forgets everything: nothing in them is used any more. */
CHI_PRIVATE void shm_arena_give_back(struct shm_arena *a);
/* Memory aligned to 64, and to 4096 if size is 4096 or more. CHI_ENOMEM, or what lease returned. */
CHI_PRIVATE int shm_get(struct shm_arena *a, uint64_t size, void **out, uint64_t *ref);
/* CHI_EINVAL if p isn't the start of something allocated here: then nothing has changed. */
CHI_PRIVATE int shm_put(struct shm_arena *a, void *p);
/* The ref of memory that was allocated here, and the bytes it has room for; CHI_EINVAL. */
CHI_PRIVATE int shm_find(struct shm_arena *a, const void *p, uint64_t *ref, uint64_t *room);

#endif
