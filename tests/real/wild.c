/* wild.c - a client that keeps to no rules: it speaks to the daemon by hand. */
#include "wild.h"

#include "daemon.h"
#include "real_link.h"
#include "real_shm.h"

int wild_call(struct wild *w, const struct attach_request *request, struct attach_reply *reply,
              struct env_share *shares, uint32_t *count)
{
  struct env *env = &w->real.env;
  size_t size = sizeof(*reply);
  uint32_t none = 0;
  memset(reply, 0, sizeof(*reply));
  int rc = env->link_call(env, w->link, request, sizeof(*request), reply, &size, shares,
                          count ? count : &none);
  return rc != CHI_OK ? rc : reply->rc;
}

static int wild_greet(struct wild *w)
{
  struct env_share share[ATTACH_BELLS_MAX];
  struct attach_reply reply;
  uint32_t count = 1;
  int rc = wild_call(w, &(struct attach_request){.version = ATTACH_VERSION, .op = ATTACH_HELLO},
                     &w->hello, share, &count);
  if (rc != CHI_OK || count != 1)
    return rc != CHI_OK ? rc : CHI_EVERSION;
  w->page = share[0].segment;
  w->bells = ATTACH_BELLS_MAX;
  rc = wild_call(w, &(struct attach_request){.version = ATTACH_VERSION, .op = ATTACH_BELLS}, &reply,
                 share, &w->bells);
  if (rc != CHI_OK)
    w->bells = 0;
  for (uint32_t i = 0; i < w->bells; i++)
    w->bell[i] = share[i].bell;
  return rc;
}

int wild_attach(struct wild *w, const char *instance, bool greet)
{
  memset(w, 0, sizeof(*w));
  w->lot = now_ns() | 1;
  int rc = real_env_open(&w->real, NULL);
  if (rc != CHI_OK)
    return rc;
  real_shm_bind(&w->real);
  real_link_bind(&w->real);
  rc = w->real.env.link_open(&w->real.env, instance, &w->link, NULL);
  if (rc != CHI_OK) {
    w->link = 0;
    real_env_close(&w->real);
    return rc;
  }
  return greet ? wild_greet(w) : CHI_OK;
}

void wild_detach(struct wild *w)
{
  struct env *env = &w->real.env;
  if (!w->link)
    return;
  for (uint32_t i = 0; i < w->bells; i++)
    env->bell_close(env, w->bell[i]);
  for (uint32_t i = 0; i < WILD_CHUNKS; i++)
    if (w->chunk[i].base)
      env->segment_close(env, &w->chunk[i]);
  if (w->page.base)
    env->segment_close(env, &w->page);
  env->link_shut(env, w->link);
  real_env_close(&w->real);
  w->link = 0;
}

int wild_lease(struct wild *w, uint32_t kind, uint64_t size)
{
  struct env_share share[1];
  struct attach_reply reply;
  uint32_t count = 1;
  const struct attach_request request = {
      .version = ATTACH_VERSION, .op = ATTACH_LEASE, .kind = kind, .size = size};
  int rc = wild_call(w, &request, &reply, share, &count);
  if (rc != CHI_OK)
    return rc;
  if (reply.id >= WILD_CHUNKS)
    return CHI_ERANGE;
  if (count == 1)
    w->chunk[reply.id] = share[0].segment;
  return w->chunk[reply.id].base ? (int)reply.id : CHI_ECORRUPT;
}

int wild_return(struct wild *w, uint32_t chunk)
{
  struct attach_reply reply;
  return wild_call(
      w, &(struct attach_request){.version = ATTACH_VERSION, .op = ATTACH_RETURN, .id = chunk},
      &reply, NULL, NULL);
}

int wild_open(struct wild *w, struct wild_queue *q)
{
  struct env_share share[3];
  struct attach_reply reply;
  uint32_t count = 3;
  const struct attach_request request = {
      .version = ATTACH_VERSION, .op = ATTACH_QUEUE, .thread = wild_lot(w)};
  int rc = wild_call(w, &request, &reply, share, &count);
  memset(q, 0, sizeof(*q));
  if (rc != CHI_OK || count != 3)
    return rc != CHI_OK ? rc : CHI_EVERSION;
  q->id = reply.id;
  q->depth = reply.depth;
  q->desk_segment = share[0].segment;
  q->board_segment = share[1].segment;
  q->desk = share[0].segment.base;
  q->board = share[1].segment.base;
  q->bell = share[2].bell;
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    lane_out_init(&q->out[k], q->desk, q->board, (enum lane_kind)k);
  lane_done_out_init(&q->done, q->board, q->depth);
  return CHI_OK;
}

void wild_drop(struct wild *w, struct wild_queue *q)
{
  struct env *env = &w->real.env;
  env->segment_close(env, &q->desk_segment);
  env->segment_close(env, &q->board_segment);
  env->bell_close(env, q->bell);
  memset(q, 0, sizeof(*q));
}

int wild_close(struct wild *w, struct wild_queue *q)
{
  struct attach_reply reply;
  int rc = wild_call(
      w, &(struct attach_request){.version = ATTACH_VERSION, .op = ATTACH_CLOSE, .id = q->id},
      &reply, NULL, NULL);
  wild_drop(w, q);
  return rc;
}

void wild_ring(struct wild *w)
{
  struct env *env = &w->real.env;
  for (uint32_t i = 0; i < w->bells; i++)
    env->bell_ring(env, w->bell[i]);
}

/* Rings whoever serves the lane, if it sleeps. */
static void wild_wake(struct wild *w, const struct wild_queue *q, enum lane_kind kind)
{
  struct env *env = &w->real.env;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  uint32_t home = q->board->home[kind];
  const struct attach_page *page = w->page.base;
  if (home < w->bells && (page->worker[home].word & 1))
    env->bell_ring(env, w->bell[home]);
}

bool wild_put(struct wild *w, struct wild_queue *q, enum lane_kind kind, enum lane_op op,
              uint64_t ref, uint32_t slot)
{
  if (!lane_put(&q->out[kind], op, ref, slot))
    return false;
  wild_wake(w, q, kind);
  return true;
}

bool wild_push(struct wild *w, struct wild_queue *q, enum lane_kind kind, enum lane_op op,
               uint64_t ref, uint32_t slot)
{
  uint64_t end = now_ns() + SECOND_NS;
  while (!wild_put(w, q, kind, op, ref, slot)) {
    wild_reap(q);
    wild_ring(w);
    if (now_ns() > end)
      return false;
  }
  return true;
}

bool wild_push_brief(struct wild *w, struct wild_queue *q, enum lane_kind kind, uint64_t ref,
                     uint32_t slot, chi_pool_id pool, uint32_t method)
{
  uint64_t end = now_ns() + SECOND_NS;
  while (!lane_put_brief(&q->out[kind], ref, slot, lane_pool(pool), method)) {
    wild_reap(q);
    wild_ring(w);
    if (now_ns() > end)
      return false;
  }
  wild_wake(w, q, kind);
  return true;
}

uint32_t wild_reap(struct wild_queue *q)
{
  struct lane_done d;
  uint32_t n = 0;
  while (lane_done_pop(&q->done, &d))
    n++;
  q->answers += n;
  return n;
}

uint64_t wild_lot(struct wild *w)
{
  w->lot ^= w->lot << 13;
  w->lot ^= w->lot >> 7;
  w->lot ^= w->lot << 17;
  return w->lot;
}

uint64_t wild_below(struct wild *w, uint64_t most)
{
  return wild_lot(w) % most;
}

void wild_noise(struct wild *w, void *to, size_t size)
{
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t n = wild_lot(w);
    memcpy((char *)to + i, &n, 8);
  }
}
