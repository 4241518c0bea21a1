/* net_fold.c - copies of a task for its parts, and one result from many. */
#include "net.h"

#define NET_STORE_PAGE 4096u
#define NET_STORE_LINE 64u
#define NET_SHELF_LEAST (64u << 10)        /* smaller blocks cost little */
#define NET_SHELF_BYTES (NET_BYTES + (1u << 20)) /* of blocks kept for the next use */

struct net_block {
  struct net_block *next;
  size_t size;
};

/* ---- bulk memory */

/* Large blocks that were used just now are used again: fresh ones cost a fault for each page, which
 * is more than to copy it. */
static struct net_block *net_shelf_take(struct net *n, size_t whole)
{
  for (struct net_block **at = &n->shelf; *at; at = &(*at)->next) {
    struct net_block *b = *at;
    if (b->size < whole || b->size / 2 > whole)
      continue;
    *at = b->next;
    n->shelf_bytes -= b->size;
    return b;
  }
  return NULL;
}

static bool net_shelf_put(struct net *n, struct net_block *b)
{
  if (b->size < NET_SHELF_LEAST || b->size > NET_SHELF_BYTES - n->shelf_bytes)
    return false;
  b->next = n->shelf;
  n->shelf = b;
  n->shelf_bytes += b->size;
  n->shelf_used = n->now;
  return true;
}

void net_shelf_clear(struct net *n)
{
  while (n->shelf) {
    struct net_block *b = n->shelf;
    n->shelf = b->next;
    n->shelf_bytes -= b->size;
    alloc_put(n->alloc, b, b->size);
  }
  CHI_ASSERT(n->shelf_bytes == 0);
}

void *net_store_get(struct net *n, struct net_store *s, uint64_t size)
{
  uint64_t align = size >= NET_STORE_PAGE ? NET_STORE_PAGE : NET_STORE_LINE;
  if (size == 0 || size > SIZE_MAX / 2)
    return NULL;
  size_t whole = sizeof(struct net_block) + (size_t)(size + align);
  struct net_block *b = net_shelf_take(n, whole);
  if (!b && (b = alloc_get(n->alloc, whole)))
    b->size = whole;
  if (!b)
    return NULL;
  b->next = s->first;
  s->first = b;
  s->bytes += size;
  uintptr_t data = (uintptr_t)(b + 1);
  return (char *)(b + 1) + ((data + align - 1) / align * align - data);
}

void net_store_free(struct net *n, struct net_store *s)
{
  while (s->first) {
    struct net_block *b = s->first;
    s->first = b->next;
    if (!net_shelf_put(n, b))
      alloc_put(n->alloc, b, b->size);
  }
  s->bytes = 0;
}

/* The next bulk field of a task at or after field *i, which moves beyond it. */
static chi_bulk *net_bulk_next(const chi_type *type, const chi_task *task, uint32_t *i,
                               const chi_field **field)
{
  while (*i < type->field_count) {
    const chi_field *f = &type->fields[(*i)++];
    if (f->kind == CHI_KIND_bulk) {
      *field = f;
      return (chi_bulk *)(void *)((char *)(uintptr_t)task + f->offset);
    }
  }
  return NULL;
}

int net_rooms_get(const struct method *m, const chi_task *task, uint64_t *rooms)
{
  const chi_field *f = NULL;
  uint32_t i = 0;
  if (m->plan.bulks > WIRE_BULKS)
    return CHI_ETOOBIG;
  for (uint32_t k = 0; k < m->plan.bulks; k++)
    rooms[k] = net_bulk_next(m->plan.type, task, &i, &f)->size;
  return CHI_OK;
}

void net_rooms_hold(const struct method *m, chi_task *task, const uint64_t *rooms)
{
  const chi_field *f = NULL;
  uint32_t i = 0;
  CHI_ASSERT(m->plan.bulks <= WIRE_BULKS);
  for (uint32_t k = 0; k < m->plan.bulks; k++) {
    chi_bulk *b = net_bulk_next(m->plan.type, task, &i, &f);
    b->size = b->size < rooms[k] ? b->size : rooms[k];
  }
}

uint64_t net_bulk_bytes(const struct method *m, const chi_task *task, uint32_t dirs)
{
  const chi_field *f = NULL;
  uint64_t bytes = 0;
  uint32_t i = 0;
  for (uint32_t k = 0; k < m->plan.bulks; k++) {
    const chi_bulk *b = net_bulk_next(m->plan.type, task, &i, &f);
    bytes += f->dir & dirs ? b->size : 0;
  }
  return bytes;
}

/* ---- replicas */

static bool net_replica_buffers(struct net *n, const chi_type *type, chi_task *task,
                                struct net_store *store)
{
  const chi_field *f = NULL;
  uint32_t i = 0;
  for (chi_bulk *b; (b = net_bulk_next(type, task, &i, &f)) != NULL;) {
    if (!(f->dir & CHI_DIR_OUT) || b->size == 0)
      continue;
    void *own = net_store_get(n, store, b->size);
    if (!own)
      return false;
    if (f->dir & CHI_DIR_IN)
      memcpy(own, b->data, b->size);
    b->data = own;
    b->ref = 0;
  }
  return true;
}

chi_ctx *net_replica(struct net_call *call, struct net_store *store)
{
  struct net *n = call->net;
  const chi_ctx *ctx = call->ctx;
  const chi_type *type = ctx->method->def->type;
  chi_ctx *copy = worker_record(n->worker, type->size);
  if (!copy)
    return NULL;
  memcpy(copy->task, ctx->task, type->size);
  copy->task->flags &= ~(uint32_t)CHI_TASK_FAILURES; /* whose room is behind the task itself */
  copy->method = ctx->method;
  if (call->several && !net_replica_buffers(n, type, copy->task, store)) {
    net_store_free(n, store);
    worker_record_free(n->worker, copy);
    return NULL;
  }
  return copy;
}

/* ---- one result from many */

static void net_fold_copy(const struct net_call *call, const chi_task *from)
{
  const chi_ctx *ctx = call->ctx;
  const chi_type *type = ctx->method->def->type;
  const chi_field *f = NULL;
  task_copy_out(&ctx->method->plan, from, ctx->task);
  net_rooms_hold(ctx->method, ctx->task, call->rooms);
  uint32_t i = 0;
  for (chi_bulk *to; (to = net_bulk_next(type, ctx->task, &i, &f)) != NULL;) {
    const chi_bulk *b = (const chi_bulk *)(const void *)((const char *)from + f->offset);
    if ((f->dir & CHI_DIR_OUT) && to->size > 0 && b->data != to->data)
      memcpy(to->data, b->data, to->size);
  }
}

/* Where nothing succeeds, the fields of the first failure are worth having. */
void net_fold(struct net_call *call, struct net_part *part)
{
  CHI_ASSERT(part->state == NET_PART_ENDED);
  const chi_task *from = net_part_task(part);
  if (!part->ran)
    return;
  if (!part->gathered) {
    if (!call->placed && from != call->ctx->task)
      net_fold_copy(call, from);
    call->placed = true;
    return;
  }
  int rc = CHI_OK;
  if (call->gathered && call->def->aggregate)
    rc = call->def->aggregate(call->ctx->task->method, call->ctx->task, from);
  else if (from != call->ctx->task)
    net_fold_copy(call, from);
  net_rooms_hold(call->ctx->method, call->ctx->task, call->rooms);
  if (rc != CHI_OK)
    net_failures_add(&call->failures, part->first, rc);
  call->gathered = call->placed = true;
}

/* ---- who failed */

void net_failures_init(struct net_failures *f, uint32_t asked)
{
  f->asked = asked;
  f->failed = f->listed = 0;
}

/* Kept by container; the last ones fall off the list, not out of the count. */
static void net_failures_list(struct net_failures *f, uint32_t container, int rc)
{
  uint32_t at = f->listed;
  while (at > 0 && f->item[at - 1].container > container)
    at--;
  if (at == NET_FAILED || (at > 0 && f->item[at - 1].container == container))
    return;
  uint32_t move = (f->listed < NET_FAILED ? f->listed : NET_FAILED - 1) - at;
  memmove(&f->item[at + 1], &f->item[at], move * sizeof f->item[0]);
  f->item[at].container = container;
  f->item[at].rc = rc;
  f->listed += f->listed < NET_FAILED;
}

void net_failures_add(struct net_failures *f, uint32_t container, int rc)
{
  CHI_ASSERT(rc != CHI_OK);
  f->failed++;
  net_failures_list(f, container, rc);
}

void net_failures_range(struct net_failures *f, uint32_t first, uint32_t count, int rc)
{
  CHI_ASSERT(rc != CHI_OK);
  f->failed += count;
  for (uint32_t i = 0; i < count && i < NET_FAILED; i++)
    net_failures_list(f, first + i, rc);
}

void net_failures_join(struct net_failures *f, const struct net_failures *from)
{
  f->failed += from->failed;
  for (uint32_t i = 0; i < from->listed; i++)
    net_failures_list(f, from->item[i].container, from->item[i].rc);
}

#undef NET_STORE_PAGE
#undef NET_STORE_LINE
#undef NET_SHELF_LEAST
#undef NET_SHELF_BYTES
