/* session.c - clients as their node sees them: attach, lease memory, open queues, vanish. */
#include "session.h"
#include "error.h"
#include "hash.h"

enum session_chunk_state { SESSION_UNUSED, SESSION_LEASED, SESSION_RESTING, SESSION_RETURNED };

#define SESSION_REST_NS 500000000u /* for so long a large chunk that was returned keeps its pages */
#define SESSION_TEND_FIRST 1000000ull /* nanoseconds between looks at what is closing */
#define SESSION_TEND_LAST 200000000ull

static struct worker *session_network(const struct session_set *s)
{
  return &s->crew->worker[s->crew->count - 1];
}

int session_set_open(struct session_set *s, struct worker_crew *crew, const chi_config *config)
{
  struct env *env = crew->env;
  *s = (struct session_set){.crew = crew, .config = config, .tend_at = UINT64_MAX};
  s->boot = env->random(env);
  s->budget[SHM_MAIN] = config->main_segment_size;
  s->budget[SHM_CLIENT_DATA] = config->client_data_segment_size;
  uint64_t size = sizeof *s->page + crew->count * sizeof s->page->worker[0];
  int rc = env->segment_open(env, config->main_segment_name, size, ENV_SHARED_READ,
                             &s->page_segment);
  if (rc != CHI_OK)
    return rc;
  s->page = s->page_segment.base;
  s->page->version = ATTACH_VERSION;
  s->page->workers = crew->count;
  s->page->boot = s->boot;
  return CHI_OK;
}

void session_set_close(struct session_set *s)
{
  CHI_ASSERT(s->first == NULL);
  if (s->page)
    s->crew->env->segment_close(s->crew->env, &s->page_segment);
  s->page = NULL;
}

static struct session *session_find(struct session_set *s, env_link link)
{
  struct session *c = s->first;
  while (c && (c->link != link || c->gone))
    c = c->next;
  return c;
}

static void session_trace(struct session_set *s, env_link link, uint64_t what)
{
  if (s->crew->env->trace)
    s->crew->env->trace(s->crew->env, ENV_TRACE_CLIENT, (uint64_t)link, what, 0);
}

void session_connect(struct session_set *s, env_link link, const struct env_peer *peer)
{
  struct env *env = s->crew->env;
  struct session *c = NULL;
  if (s->count < SESSION_MOST && !s->draining)
    c = alloc_zero(s->crew->alloc, sizeof *c);
  if (!c) {
    session_trace(s, link, 2);
    env->link_close(env, link);
    return;
  }
  c->link = link;
  c->peer = *peer;
  c->id = ++s->next_session;
  c->next = s->first;
  s->first = c;
  s->count++;
  session_trace(s, link, 1);
}

/* Chunk numbers a client can need: all of both budgets, and as many again that it returned. */
static uint32_t session_chunk_room(const struct session_set *s)
{
  uint64_t room = (s->budget[SHM_MAIN] + s->budget[SHM_CLIENT_DATA]) / SHM_CHUNK_SIZE * 2 + 16;
  return room < (1u << 20) ? (uint32_t)room : 1u << 20;
}

static int session_hello(struct session_set *s, struct session *c, struct attach_reply *r,
                         struct env_share *share, uint32_t *count)
{
  if (c->greeted || c->table.room)
    return CHI_EINVAL;
  uint32_t room = session_chunk_room(s);
  c->table.chunk = alloc_zero(s->crew->alloc, room * sizeof *c->table.chunk);
  c->chunk = alloc_zero(s->crew->alloc, room * sizeof *c->chunk);
  c->table.room = room;
  if (!c->table.chunk || !c->chunk)
    return CHI_ENOMEM; /* freed with the session */
  c->greeted = true;
  r->boot = s->boot;
  r->workers = s->crew->count;
  r->fast = s->crew->fast;
  r->slow = s->crew->slow;
  r->depth = s->config->queue_depth;
  r->nodes = s->crew->nodes;
  r->chunks = room;
  r->spin_ns = s->config->spin_window_ns;
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_READ, .segment = s->page_segment};
  *count = 1;
  return CHI_OK;
}

static int session_bells(struct session_set *s, uint32_t first, struct env_share *share,
                         uint32_t *count)
{
  uint32_t n = 0;
  for (uint32_t w = first; w < s->crew->count && n < ATTACH_BELLS_MAX; w++)
    share[n++] = (struct env_share){.kind = ENV_SHARE_BELL, .bell = s->crew->worker[w].bell};
  *count = n;
  return n > 0 ? CHI_OK : CHI_EINVAL;
}

static const char *session_kind_name(const struct session_set *s, uint32_t kind)
{
  return kind == SHM_MAIN ? s->config->main_segment_name : s->config->client_data_segment_name;
}

/* Memory that is counted against a budget, before the system is asked. */
static int session_segment(struct session_set *s, uint32_t kind, uint64_t size, int access,
                           struct env_segment *out, char *text, size_t room)
{
  struct env *env = s->crew->env;
  chi_error err = {0};
  int rc = CHI_OK;
  if (size > s->budget[kind] - s->used[kind])
    rc = error_set(&err, CHI_ENOMEM,
                   "Failed to allocate shared memory segment: %llu bytes of %s asked, %llu of its "
                   "budget of %llu are left",
                   (unsigned long long)size, session_kind_name(s, kind),
                   (unsigned long long)(s->budget[kind] - s->used[kind]),
                   (unsigned long long)s->budget[kind]);
  else if ((rc = env->segment_open(env, session_kind_name(s, kind), size, access, out)) != CHI_OK)
    error_set(&err, rc,
              "Failed to allocate shared memory segment: the system has no %llu bytes for %s",
              (unsigned long long)size, session_kind_name(s, kind));
  if (rc == CHI_OK) {
    s->used[kind] += size;
    return CHI_OK;
  }
  log_limited(&s->crew->log, &s->limit, session_network(s)->now, CHI_LOG_WARNING, "%s", err.text);
  memcpy(text, err.text, room < sizeof err.text ? room : sizeof err.text);
  text[room - 1] = '\0';
  return rc;
}

/* The pages of the one chunk that rests go now. */
static void session_rest_end(struct session_set *s)
{
  struct session *c = s->resting;
  if (!c)
    return;
  struct session_chunk *k = &c->chunk[s->resting_chunk];
  CHI_ASSERT(k->state == SESSION_RESTING);
  s->crew->env->segment_discard(s->crew->env, &k->segment);
  k->state = SESSION_RETURNED;
  s->used[k->kind] -= k->segment.size;
  c->used[k->kind] -= k->segment.size;
  s->resting = NULL;
}

/* Giving pages back and populating them anew takes longer than to fill them: who uses one large
 * buffer after the other gets the same pages again. Anybody else's wish comes first. */
static bool session_rest_taken(struct session_set *s, const struct session *c, uint32_t kind,
                               uint64_t size, uint32_t *number)
{
  struct session_chunk *k = s->resting == c ? &s->resting->chunk[s->resting_chunk] : NULL;
  if (!k || k->kind != kind || k->segment.size != size) {
    session_rest_end(s);
    return false;
  }
  k->state = SESSION_LEASED;
  *number = s->resting_chunk;
  s->resting = NULL;
  return true;
}

/* A chunk of that size that this client had before: still mapped on both sides. */
static int session_lease_again(struct session_set *s, struct session *c, uint32_t kind,
                               uint64_t size, uint32_t *number)
{
  for (uint32_t i = 0; i < c->chunk_count; i++) {
    struct session_chunk *k = &c->chunk[i];
    if (k->state != SESSION_RETURNED || k->kind != kind || k->segment.size != size ||
        size > s->budget[kind] - s->used[kind])
      continue;
    if (s->crew->env->segment_restore(s->crew->env, &k->segment) != CHI_OK) {
      s->crew->env->segment_discard(s->crew->env, &k->segment);
      return CHI_ENOENT; /* nor is a new one to be had, which will be said */
    }
    k->state = SESSION_LEASED;
    s->used[kind] += size;
    c->used[kind] += size;
    *number = i;
    return CHI_OK;
  }
  return CHI_ENOENT;
}

static int session_lease(struct session_set *s, struct session *c,
                         const struct attach_request *q, struct attach_reply *r,
                         struct env_share *share, uint32_t *count)
{
  if (q->kind > SHM_CLIENT_DATA || q->size == 0 || q->size % SHM_CHUNK_SIZE != 0 ||
      q->size > SHM_SIZE_MAX)
    return CHI_EINVAL;
  if (session_rest_taken(s, c, q->kind, q->size, &r->id))
    return CHI_OK;
  int rc = session_lease_again(s, c, q->kind, q->size, &r->id);
  if (rc != CHI_ENOENT)
    return rc;
  if (c->chunk_count == c->table.room)
    return CHI_ENOMEM;
  struct session_chunk *k = &c->chunk[c->chunk_count];
  rc = session_segment(s, q->kind, q->size, ENV_SHARED_WRITE, &k->segment, r->text,
                       sizeof r->text);
  if (rc != CHI_OK)
    return rc;
  k->kind = q->kind;
  k->state = SESSION_LEASED;
  c->used[q->kind] += q->size;
  r->id = c->chunk_count++;
  shm_publish(&c->table, r->id, k->segment.base, q->size);
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_WRITE, .segment = k->segment};
  *count = 1;
  return CHI_OK;
}

/* The pages go at once, those of a large chunk soon; the mapping stays, so that a task of a lying
 * client that still points there reads zeros instead of faulting. */
static int session_return(struct session_set *s, struct session *c, uint32_t number, uint32_t how)
{
  if (number >= c->chunk_count || c->chunk[number].state != SESSION_LEASED ||
      how > ATTACH_RETURN_UNMAPPED)
    return CHI_EINVAL;
  session_rest_end(s);
  s->resting = c;
  s->resting_chunk = number;
  s->resting_until = session_network(s)->now + SESSION_REST_NS;
  c->chunk[number].state = SESSION_RESTING;
  if (c->chunk[number].segment.size == SHM_CHUNK_SIZE || how == ATTACH_RETURN_UNMAPPED)
    session_rest_end(s);
  if (how == ATTACH_RETURN_UNMAPPED)
    c->chunk[number].state = SESSION_UNUSED;
  return CHI_OK;
}

/* ---- queues */

static uint32_t session_choose(struct session_set *s, const struct session *c, uint64_t thread,
                               uint32_t first, uint32_t count, uint32_t *turn)
{
  uint64_t n = 0;
  switch (s->config->lane_policy) {
  case CHI_LANE_BY_PID_TID:
    n = hash_mix64(((uint64_t)c->peer.pid << 32) ^ thread);
    break;
  case CHI_LANE_RANDOM:
    n = s->crew->env->random(s->crew->env);
    break;
  default:
    n = (*turn)++;
  }
  return first + (uint32_t)(n % count);
}

static void session_queue_free(struct session_set *s, struct session *c, struct queue *q)
{
  struct worker_crew *crew = s->crew;
  struct env *env = crew->env;
  struct env_segment *segment[2] = {&q->desk_segment, &q->board_segment};
  for (uint32_t i = 0; i < 2; i++) {
    if (!segment[i]->base)
      continue;
    s->used[SHM_MAIN] -= segment[i]->size;
    c->used[SHM_MAIN] -= segment[i]->size;
    env->segment_close(env, segment[i]);
  }
  if (q->bell != ENV_NO_BELL)
    env->bell_close(env, q->bell);
  alloc_put(crew->alloc, q->tag, q->depth * sizeof *q->tag);
  alloc_put(crew->alloc, q->ended, (size_t)crew->count * CHI_CACHE_LINE);
  alloc_put(crew->alloc, q, sizeof *q);
}

static int session_queue_memory(struct session_set *s, struct session *c, struct queue *q,
                                struct attach_reply *r)
{
  struct worker_crew *crew = s->crew;
  uint64_t size[2] = {sizeof(struct lane_desk), lane_board_size(q->depth)};
  struct env_segment *segment[2] = {&q->desk_segment, &q->board_segment};
  q->tag = alloc_zero(crew->alloc, q->depth * sizeof *q->tag);
  q->ended = alloc_zero(crew->alloc, (size_t)crew->count * CHI_CACHE_LINE);
  if (!q->tag || !q->ended)
    return CHI_ENOMEM;
  for (uint32_t i = 0; i < 2; i++) {
    uint64_t whole = (size[i] + 4095) / 4096 * 4096;
    int rc = session_segment(s, SHM_MAIN, whole, i == 0 ? ENV_SHARED_WRITE : ENV_SHARED_READ,
                             segment[i], r->text, sizeof r->text);
    if (rc != CHI_OK)
      return rc;
    c->used[SHM_MAIN] += whole;
  }
  q->desk = q->desk_segment.base;
  q->board = q->board_segment.base;
  return crew->env->bell_open(crew->env, &q->bell);
}

static void session_queue_homes(struct session_set *s, struct session *c, struct queue *q,
                                uint64_t thread)
{
  struct worker_crew *crew = s->crew;
  uint32_t home[LANE_KINDS];
  home[LANE_FAST] = session_choose(s, c, thread, 0, crew->fast, &s->next_fast);
  home[LANE_SLOW] = session_choose(s, c, thread, crew->fast, crew->slow, &s->next_slow);
  home[LANE_NETWORK] = crew->count - 1;
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    struct queue_lane *l = &q->lane[k];
    l->queue = q;
    l->kind = k;
    lane_in_init(&l->in, q->desk, q->board, (enum lane_kind)k);
  }
  for (uint32_t k = 0; k < LANE_KINDS; k++) /* a worker that serves one may look at all */
    worker_home(session_network(s), &q->lane[k], home[k]);
}

static int session_queue(struct session_set *s, struct session *c, uint64_t thread,
                         struct attach_reply *r, struct env_share *share, uint32_t *count)
{
  struct worker_crew *crew = s->crew;
  if (c->queue_count == ATTACH_QUEUES_MAX)
    return CHI_EBUSY;
  struct queue *q = alloc_zero(crew->alloc, sizeof *q);
  if (!q)
    return CHI_ENOMEM;
  q->session = c;
  q->env = crew->env;
  q->table = &c->table;
  q->id = ++s->next_queue;
  q->depth = s->config->queue_depth;
  q->workers = crew->count;
  q->bell = ENV_NO_BELL;
  int rc = session_queue_memory(s, c, q, r);
  if (rc != CHI_OK) {
    session_queue_free(s, c, q);
    return rc;
  }
  lane_done_in_init(&q->done, q->board, q->depth);
  session_queue_homes(s, c, q, thread);
  q->next = c->queues;
  c->queues = q;
  c->queue_count++;
  r->id = q->id;
  r->depth = q->depth;
  share[0] = (struct env_share){.kind = ENV_SHARE_SEGMENT_WRITE, .segment = q->desk_segment};
  share[1] = (struct env_share){.kind = ENV_SHARE_SEGMENT_READ, .segment = q->board_segment};
  share[2] = (struct env_share){.kind = ENV_SHARE_BELL, .bell = q->bell};
  *count = 3;
  return CHI_OK;
}

/* From here on nothing is taken from its lanes; it is freed when what was taken has ended. */
static void session_queue_close(struct session_set *s, struct session *c, struct queue *q)
{
  mark_set(&q->gone, 1);
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    latch_lock(&q->lane[k].latch);
    mark_set(&q->lane[k].closed, 1);
    latch_unlock(&q->lane[k].latch);
  }
  q->next = c->closing;
  c->closing = q;
  worker_cancel_changed(session_network(s));
  s->tend_delay = SESSION_TEND_FIRST;
  s->tend_at = 0;
}

static int session_close_queue(struct session_set *s, struct session *c, uint32_t id)
{
  struct queue **at = &c->queues;
  while (*at && (*at)->id != id)
    at = &(*at)->next;
  struct queue *q = *at;
  if (!q)
    return CHI_EINVAL;
  *at = q->next;
  session_queue_close(s, c, q);
  return CHI_OK;
}

/* ---- requests */

static int session_answer(struct session_set *s, struct session *c,
                          const struct attach_request *q, struct attach_reply *r,
                          struct env_share *share, uint32_t *count)
{
  if (!c->greeted && q->op != ATTACH_HELLO)
    return CHI_EINVAL;
  switch (q->op) {
  case ATTACH_HELLO:
    return session_hello(s, c, r, share, count);
  case ATTACH_BELLS:
    return session_bells(s, q->id, share, count);
  case ATTACH_LEASE:
    return session_lease(s, c, q, r, share, count);
  case ATTACH_RETURN:
    return session_return(s, c, q->id, q->kind);
  case ATTACH_QUEUE:
    return s->draining ? CHI_ESHUTDOWN : session_queue(s, c, q->thread, r, share, count);
  case ATTACH_CLOSE:
    return session_close_queue(s, c, q->id);
  default:
    return CHI_EINVAL;
  }
}

void session_request(struct session_set *s, env_link link, const void *message, size_t size)
{
  struct env *env = s->crew->env;
  struct session *c = session_find(s, link);
  struct attach_request q = {0};
  struct attach_reply r = {0};
  struct env_share share[ATTACH_BELLS_MAX] = {{0}};
  uint32_t count = 0;
  if (!c)
    return;
  memcpy(&q, message, size < sizeof q ? size : sizeof q);
  if (size < sizeof(uint32_t) || q.version != ATTACH_VERSION) {
    r.rc = CHI_EVERSION;
    chi_error err = {0};
    error_set(&err, CHI_EVERSION, "the node speaks version %u of the attach protocol, not %u",
              ATTACH_VERSION, q.version);
    memcpy(r.text, err.text, sizeof r.text);
  } else if (size != sizeof q) {
    r.rc = CHI_EINVAL;
  } else {
    r.op = q.op;
    r.rc = session_answer(s, c, &q, &r, share, &count);
  }
  /* A client that doesn't hear what it was given must not go on as if it had been given nothing. */
  if (env->link_reply(env, link, &r, sizeof r, share, r.rc == CHI_OK ? count : 0) != CHI_OK)
    session_hangup(s, link);
}

/* ---- the end of a client */

static void session_end(struct session_set *s, struct session *c)
{
  CHI_ASSERT(!c->gone);
  session_trace(s, c->link, 0);
  s->crew->env->link_close(s->crew->env, c->link);
  c->gone = true;
  while (c->queues) {
    struct queue *q = c->queues;
    c->queues = q->next;
    session_queue_close(s, c, q);
  }
  s->tend_delay = SESSION_TEND_FIRST;
  s->tend_at = 0;
}

void session_hangup(struct session_set *s, env_link link)
{
  struct session *c = session_find(s, link);
  if (c)
    session_end(s, c);
}

void session_end_all(struct session_set *s)
{
  session_rest_end(s);
  for (struct session *c = s->first; c; c = c->next)
    if (!c->gone)
      session_end(s, c);
}

static void session_free(struct session_set *s, struct session *c)
{
  struct worker_crew *crew = s->crew;
  if (s->resting == c)
    session_rest_end(s);
  for (uint32_t i = 0; i < c->chunk_count; i++) {
    if (c->chunk[i].state == SESSION_LEASED)
      s->used[c->chunk[i].kind] -= c->chunk[i].segment.size;
    crew->env->segment_close(crew->env, &c->chunk[i].segment);
  }
  alloc_put(crew->alloc, c->table.chunk, c->table.room * sizeof *c->table.chunk);
  alloc_put(crew->alloc, c->chunk, c->table.room * sizeof *c->chunk);
  alloc_put(crew->alloc, c, sizeof *c);
  s->count--;
}

static bool session_queue_idle(const struct queue *q)
{
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    if (mark_get(&q->lane[k].holders) != 0)
      return false;
  return queue_in_flight(q) == 0;
}

static uint64_t session_tend_closing(struct session_set *s, uint64_t now)
{
  if (now < s->tend_at)
    return s->tend_at;
  bool waiting = false;
  struct session **at = &s->first;
  while (*at) {
    struct session *c = *at;
    struct queue **closing = &c->closing;
    while (*closing) {
      struct queue *q = *closing;
      if (session_queue_idle(q)) {
        *closing = q->next;
        c->queue_count--;
        session_queue_free(s, c, q);
      } else {
        closing = &q->next;
      }
    }
    waiting = waiting || c->closing;
    if (c->gone && !c->closing) {
      *at = c->next;
      session_free(s, c);
    } else {
      at = &c->next;
    }
  }
  s->tend_at = waiting ? now + s->tend_delay : UINT64_MAX;
  s->tend_delay = s->tend_delay * 2 < SESSION_TEND_LAST ? s->tend_delay * 2 : SESSION_TEND_LAST;
  return s->tend_at;
}

uint64_t session_tend(struct session_set *s, uint64_t now)
{
  uint64_t at = session_tend_closing(s, now);
  if (s->resting && now >= s->resting_until)
    session_rest_end(s);
  return s->resting && s->resting_until < at ? s->resting_until : at;
}

uint64_t session_in_flight(const struct session *c)
{
  uint64_t sum = 0;
  for (const struct queue *q = c->queues; q; q = q->next)
    sum += queue_in_flight(q);
  for (const struct queue *q = c->closing; q; q = q->next)
    sum += queue_in_flight(q);
  return sum;
}

uint32_t session_move_lanes(struct session_set *s, uint32_t from, uint32_t to)
{
  uint32_t moved = 0;
  for (struct session *c = s->first; c; c = c->next) {
    for (struct queue *q = c->queues; q; q = q->next) {
      for (uint32_t k = 0; k < LANE_KINDS; k++) {
        struct queue_lane *l = &q->lane[k];
        /* One whose last move isn't complete is left for the next look. */
        if (l->home != from || mark_get(&l->moving))
          continue;
        worker_home(session_network(s), l, to);
        s->strays |= s->crew->worker[from].kind != s->crew->worker[to].kind;
        moved++;
      }
    }
  }
  return moved;
}

/* The first worker for that kind of lane that is not stuck; NULL. */
static struct worker *session_able(const struct worker_crew *crew, uint32_t lane_kind)
{
  uint32_t kind = lane_kind == LANE_SLOW ? WORKER_SLOW : WORKER_FAST;
  for (uint32_t i = 0; i + 1 < crew->count; i++)
    if (crew->worker[i].kind == kind && !crew->worker[i].stuck)
      return &crew->worker[i];
  return NULL;
}

uint32_t session_bring_home(struct session_set *s)
{
  struct worker *able[LANE_NETWORK];
  uint32_t moved = 0;
  if (!s->strays)
    return 0;
  s->strays = false;
  for (uint32_t k = 0; k < LANE_NETWORK; k++)
    able[k] = session_able(s->crew, k);
  for (struct session *c = s->first; c; c = c->next) {
    for (struct queue *q = c->queues; q; q = q->next) {
      for (uint32_t k = 0; k < LANE_NETWORK; k++) {
        struct queue_lane *l = &q->lane[k];
        uint32_t kind = k == LANE_SLOW ? WORKER_SLOW : WORKER_FAST;
        if (s->crew->worker[l->home].kind == kind)
          continue;
        if (!able[k] || mark_get(&l->moving)) {
          s->strays = true;
          continue;
        }
        worker_home(session_network(s), l, able[k]->index);
        moved++;
      }
    }
  }
  return moved;
}

uint32_t session_spread(struct session_set *s, uint32_t from, uint32_t to)
{
  struct queue_lane *busy = NULL;
  uint32_t count = 0;
  for (struct session *c = s->first; c; c = c->next) {
    for (struct queue *q = c->queues; q; q = q->next) {
      for (uint32_t k = 0; k < LANE_NETWORK; k++) {
        struct queue_lane *l = &q->lane[k];
        uint32_t taken = mark_get(&l->in.head);
        bool used = l->home == from && taken != l->seen;
        l->seen = taken;
        count += used;
        if (used && !mark_get(&l->moving))
          busy = l;
      }
    }
  }
  if (count < 2 || !busy)
    return 0;
  worker_home(session_network(s), busy, to);
  return 1;
}

#undef SESSION_TEND_FIRST
#undef SESSION_TEND_LAST
#undef SESSION_REST_NS
