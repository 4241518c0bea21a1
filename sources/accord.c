/* accord.c - the pool table on which all nodes agree: versions, tombstones, exchange. */
#include "accord.h"

#include "hash.h"

#define ACCORD_COUNTER_MAX (1ull << 60)
#define ACCORD_BUCKETS 256u         /* of names */
#define ACCORD_LIST 200u            /* versions in one record */
#define ACCORD_PIECE 200u           /* moves in one record */
#define ACCORD_RECORD 8192u         /* bytes that any record fits in */
#define ACCORD_BURST (128u * 1024u) /* bytes sent for one record that came */
#define ACCORD_WANT 1u              /* flag of a list: send me these */

/* An entry with what the table needs beside it; its texts follow the bits. */
struct accord_item {
  struct accord_entry entry;
  struct accord_item *next;  /* in the bucket of its name */
  struct accord_item *later; /* of complete ones: the one that was completed next */
  uint64_t name_hash;
  uint64_t extra; /* hash of moves or acknowledgements */
  uint64_t sum;   /* its part in the digest */
  size_t size;
  uint32_t move_room, acks;
  bool complete;
  uint64_t acked[]; /* a bit for each node */
};

/* For records as they are read and written. */
struct accord_desk {
  char name[CHI_PATH_MAX], module[CHI_NAME_MAX], params[ACCORD_PARAMS];
  struct accord_move move[ACCORD_PIECE];
  unsigned char bytes[ACCORD_RECORD];
};

struct accord {
  struct accord_options opt;
  uint64_t digest;
  struct accord_item **item; /* by id */
  uint32_t count, room;
  uint32_t open;                       /* those that aren't complete */
  struct accord_item *oldest, *newest; /* complete ones */
  uint32_t complete, budget;
  struct accord_item *bucket[ACCORD_BUCKETS];
  struct accord_desk *desk; /* NULL: there was no record yet */
  uint64_t next_at[]; /* by peer: before that, no exchange is started */
};

/* ---- entries */

static uint64_t accord_key(chi_pool_id id)
{
  return (uint64_t)id.major << 32 | id.minor;
}

static bool accord_is_live(const struct accord_item *item)
{
  return item && item->entry.state <= ACCORD_READY;
}

static int accord_compare(const struct accord_version *x, const struct accord_version *y)
{
  if (x->counter != y->counter)
    return x->counter < y->counter ? -1 : 1;
  if (x->boot != y->boot)
    return x->boot < y->boot ? -1 : 1;
  return x->node < y->node ? -1 : x->node > y->node;
}

static bool accord_is_same(const struct accord_pool *x, const struct accord_pool *y)
{
  return x->containers == y->containers && strcmp(x->name, y->name) == 0 &&
         strcmp(x->module, y->module) == 0 && strcmp(x->params, y->params) == 0;
}

static uint64_t accord_name_hash(const char *name)
{
  return hash_bytes(name, strlen(name), 0);
}

static uint32_t accord_words(const struct accord *a)
{
  return (a->opt.count + 63) / 64;
}

/* The first place with this id or a higher one. */
static uint32_t accord_place(const struct accord *a, uint64_t key)
{
  uint32_t from = 0, to = a->count;
  while (from < to) {
    uint32_t middle = from + (to - from) / 2;
    if (accord_key(a->item[middle]->entry.pool.id) < key)
      from = middle + 1;
    else
      to = middle;
  }
  return from;
}

static struct accord_item *accord_get(const struct accord *a, uint64_t key)
{
  uint32_t place = accord_place(a, key);
  bool found = place < a->count && accord_key(a->item[place]->entry.pool.id) == key;
  return found ? a->item[place] : NULL;
}

/* Another live pool with the name of this one. */
static struct accord_item *accord_rival(const struct accord *a, const struct accord_pool *pool)
{
  uint64_t hash = accord_name_hash(pool->name), key = accord_key(pool->id);
  struct accord_item *item = a->bucket[hash % ACCORD_BUCKETS];
  while (item && !(item->name_hash == hash && accord_is_live(item) &&
                   accord_key(item->entry.pool.id) != key &&
                   strcmp(item->entry.pool.name, pool->name) == 0))
    item = item->next;
  return item;
}

/* ---- items */

static const char *accord_copy(char **to, const char *text)
{
  size_t size = strlen(text) + 1;
  char *copy = memcpy(*to, text, size);
  *to += size;
  return copy;
}

static struct accord_item *accord_item_new(struct accord *a, const struct accord_pool *pool)
{
  size_t bits = accord_words(a) * sizeof(uint64_t);
  size_t size = sizeof(struct accord_item) + bits + strlen(pool->name) + strlen(pool->module) +
                strlen(pool->params) + 3;
  struct accord_item *item = alloc_zero(a->opt.alloc, size);
  if (!item)
    return NULL;
  char *text = (char *)item->acked + bits;
  item->size = size;
  item->entry.pool = *pool;
  item->entry.pool.name = accord_copy(&text, pool->name);
  item->entry.pool.module = accord_copy(&text, pool->module);
  item->entry.pool.params = accord_copy(&text, pool->params);
  item->name_hash = accord_name_hash(pool->name);
  return item;
}

static void accord_clear_moves(struct accord *a, struct accord_item *item)
{
  if (item->entry.move)
    alloc_put(a->opt.alloc, item->entry.move, item->move_room * sizeof *item->entry.move);
  item->entry.move = NULL;
  item->entry.move_count = item->move_room = 0;
}

static void accord_item_free(struct accord *a, struct accord_item *item)
{
  accord_clear_moves(a, item);
  alloc_put(a->opt.alloc, item, item->size);
}

/* Out of everything but the array. */
static void accord_unlink(struct accord *a, struct accord_item *item)
{
  struct accord_item **at = &a->bucket[item->name_hash % ACCORD_BUCKETS];
  while (*at != item)
    at = &(*at)->next;
  *at = item->next;
  a->digest -= item->sum;
  a->open -= !item->complete;
}

static void accord_link(struct accord *a, struct accord_item *item)
{
  struct accord_item **bucket = &a->bucket[item->name_hash % ACCORD_BUCKETS];
  item->next = *bucket;
  *bucket = item;
  a->open++;
}

/* ---- complete tombstones */

static void accord_forget_oldest(struct accord *a)
{
  struct accord_item *item = a->oldest;
  uint32_t place = accord_place(a, accord_key(item->entry.pool.id));
  CHI_ASSERT(item->complete && a->item[place] == item);
  a->oldest = item->later;
  if (!a->oldest)
    a->newest = NULL;
  a->complete--;
  a->count--;
  memmove(&a->item[place], &a->item[place + 1], (a->count - place) * sizeof *a->item);
  accord_unlink(a, item);
  accord_item_free(a, item);
}

static void accord_completed(struct accord *a, struct accord_item *item)
{
  item->complete = true;
  item->later = NULL;
  if (a->newest)
    a->newest->later = item;
  else
    a->oldest = item;
  a->newest = item;
  a->open--;
  if (++a->complete > ACCORD_REMEMBERED)
    accord_forget_oldest(a);
}

static void accord_reopen(struct accord *a, struct accord_item *item)
{
  struct accord_item *before = NULL, *at = a->oldest;
  for (; at != item; at = at->later)
    before = at;
  if (before)
    before->later = item->later;
  else
    a->oldest = item->later;
  if (a->newest == item)
    a->newest = before;
  item->complete = false;
  a->complete--;
  a->open++;
}

/* ---- changes */

/* After anything about it has changed. It may have become complete. */
static void accord_update(struct accord *a, struct accord_item *item)
{
  const struct accord_entry *e = &item->entry;
  bool complete = !accord_is_live(item) && item->acks == a->opt.count;
  struct hash_stream s;
  hash_stream_init(&s, 0);
  for (uint32_t i = 0; i < e->move_count; i++) {
    hash_stream_u64(&s, (uint64_t)e->move[i].index << 32 | e->move[i].node);
    hash_stream_u64(&s, e->move[i].epoch);
  }
  for (uint32_t i = 0; i < accord_words(a) && item->acks > 0; i++)
    hash_stream_u64(&s, item->acked[i]);
  item->extra = hash_stream_finish(&s);
  hash_stream_u64(&s, accord_key(e->pool.id));
  hash_stream_u64(&s, e->version.counter);
  hash_stream_u64(&s, e->version.boot);
  hash_stream_u64(&s, e->version.node);
  a->digest -= item->sum;
  item->sum = complete ? 0 : hash_stream_finish(&s);
  a->digest += item->sum;
  if (complete && !item->complete)
    accord_completed(a, item);
  else if (!complete && item->complete)
    accord_reopen(a, item);
}

static void accord_acknowledge(struct accord_item *item, uint32_t node)
{
  uint64_t bit = 1ull << (node % 64);
  item->acks += !(item->acked[node / 64] & bit);
  item->acked[node / 64] |= bit;
}

/* Gives it another version: a tombstone has no moves, and is acknowledged by this node so far. */
static void accord_set(struct accord *a, struct accord_item *item,
                       const struct accord_version *version)
{
  item->entry.version = *version;
  item->entry.state = (enum accord_state)(version->counter % ACCORD_STATES);
  item->acks = 0;
  memset(item->acked, 0, accord_words(a) * sizeof *item->acked);
  if (accord_is_live(item))
    return;
  accord_clear_moves(a, item);
  accord_acknowledge(item, a->opt.self);
}

static int accord_reserve_moves(struct accord *a, struct accord_item *item, uint32_t more)
{
  uint32_t room = item->move_room ? item->move_room : 4;
  while (room < item->entry.move_count + more)
    room *= 2;
  if (room == item->move_room)
    return CHI_OK;
  struct accord_move *move = alloc_get(a->opt.alloc, room * sizeof *move);
  uint32_t count = item->entry.move_count;
  if (!move)
    return CHI_ENOMEM;
  if (count > 0)
    memcpy(move, item->entry.move, count * sizeof *move);
  accord_clear_moves(a, item);
  item->entry.move = move;
  item->entry.move_count = count;
  item->move_room = room;
  return CHI_OK;
}

/* There is room for one more. True if it wasn't known. */
static bool accord_join_move(struct accord_item *item, const struct accord_move *m)
{
  struct accord_move *move = item->entry.move;
  uint32_t count = item->entry.move_count, at = 0;
  while (at < count && move[at].index < m->index)
    at++;
  if (at < count && move[at].index == m->index) {
    bool later = m->epoch != move[at].epoch ? m->epoch > move[at].epoch : m->node > move[at].node;
    if (later)
      move[at] = *m;
    return later;
  }
  CHI_ASSERT(count < item->move_room);
  memmove(&move[at + 1], &move[at], (count - at) * sizeof *move);
  move[at] = *m;
  item->entry.move_count++;
  return true;
}

/* Without memory they are left out: the digest tells, and they come again. */
static bool accord_join_moves(struct accord *a, struct accord_item *item,
                              const struct accord_entry *e)
{
  bool changed = false;
  if (e->move_count == 0 || accord_reserve_moves(a, item, e->move_count) != CHI_OK)
    return false;
  for (uint32_t i = 0; i < e->move_count; i++)
    if (e->move[i].index < item->entry.pool.containers)
      changed = accord_join_move(item, &e->move[i]) || changed;
  return changed;
}

static void accord_join_acks(const struct accord *a, struct accord_item *item,
                             const unsigned char *acks)
{
  for (uint32_t node = 0; acks && node < a->opt.count; node++)
    if (acks[node / 8] >> (node % 8) & 1)
      accord_acknowledge(item, node);
}

static int accord_make_room(struct accord *a)
{
  uint32_t room = a->room ? a->room * 2 : 8;
  if (a->count < a->room)
    return CHI_OK;
  struct accord_item **item = alloc_get(a->opt.alloc, room * sizeof(struct accord_item *));
  if (!item)
    return CHI_ENOMEM;
  if (a->room > 0)
    memcpy(item, a->item, a->count * sizeof(struct accord_item *));
  alloc_put(a->opt.alloc, a->item, a->room * sizeof(struct accord_item *));
  a->item = item;
  a->room = room;
  return CHI_OK;
}

/* An item for this pool, instead of what was there with its id. Its version is still to be set. */
static int accord_insert(struct accord *a, const struct accord_pool *pool, struct accord_item **out)
{
  struct accord_item *former = accord_get(a, accord_key(pool->id));
  int rc = former ? CHI_OK : accord_make_room(a);
  struct accord_item *item = rc == CHI_OK ? accord_item_new(a, pool) : NULL;
  if (!item)
    return CHI_ENOMEM;
  uint32_t place = accord_place(a, accord_key(pool->id));
  if (former) {
    if (former->complete)
      accord_reopen(a, former);
    accord_unlink(a, former);
    accord_item_free(a, former);
  } else {
    memmove(&a->item[place + 1], &a->item[place], (a->count - place) * sizeof *a->item);
    a->count++;
  }
  a->item[place] = item;
  accord_link(a, item);
  *out = item;
  return CHI_OK;
}

/* ---- decisions of this node */

/* Above what is known of the id, and of the name. */
static uint64_t accord_next_generation(const struct accord *a, const struct accord_pool *pool)
{
  uint64_t hash = accord_name_hash(pool->name), last = 0;
  const struct accord_item *item = accord_get(a, accord_key(pool->id));
  if (item)
    last = accord_generation(&item->entry);
  for (item = a->bucket[hash % ACCORD_BUCKETS]; item; item = item->next)
    if (item->name_hash == hash && accord_generation(&item->entry) > last)
      last = accord_generation(&item->entry);
  return last + 1;
}

static int accord_begin(struct accord *a, const struct accord_pool *pool, enum accord_state state)
{
  struct accord_item *item = accord_get(a, accord_key(pool->id));
  struct accord_version version = {.boot = a->opt.boot, .node = a->opt.self};
  version.counter = accord_next_generation(a, pool) * ACCORD_STATES + (uint64_t)state;
  if (version.counter > ACCORD_COUNTER_MAX || ((!item || item->complete) && a->open >= ACCORD_MAX))
    return CHI_ERANGE;
  if (!item || !accord_is_same(&item->entry.pool, pool)) {
    int rc = accord_insert(a, pool, &item);
    if (rc != CHI_OK)
      return rc;
  }
  accord_set(a, item, &version);
  accord_update(a, item);
  return CHI_OK;
}

int accord_put(struct accord *a, const struct accord_pool *pool, enum accord_state state)
{
  struct accord_item *item = accord_get(a, accord_key(pool->id));
  bool live = accord_is_live(item), begins = state <= ACCORD_READY;
  CHI_ASSERT(state != ACCORD_LOST && pool->containers > 0);
  CHI_ASSERT(pool->containers <= ACCORD_CONTAINERS && accord_key(pool->id) != 0);
  if ((live && !accord_is_same(&item->entry.pool, pool)) || (begins && accord_rival(a, pool)))
    return CHI_ECONFLICT;
  if (!live)
    return begins ? accord_begin(a, pool, state) : CHI_ENOENT;
  if (item->entry.state >= state)
    return CHI_OK;
  struct accord_version version = item->entry.version;
  version.counter += (uint64_t)(state - item->entry.state);
  if (!begins) {
    version.boot = a->opt.boot;
    version.node = a->opt.self;
  }
  accord_set(a, item, &version);
  accord_update(a, item);
  return CHI_OK;
}

int accord_move(struct accord *a, chi_pool_id id, const struct accord_move *move)
{
  struct accord_item *item = accord_get(a, accord_key(id));
  CHI_ASSERT(move->node < a->opt.count);
  if (!accord_is_live(item) || move->index >= item->entry.pool.containers)
    return CHI_ENOENT;
  for (uint32_t i = 0; i < item->entry.move_count; i++)
    if (item->entry.move[i].index == move->index && item->entry.move[i].epoch >= move->epoch)
      return CHI_ECONFLICT;
  int rc = accord_reserve_moves(a, item, 1);
  if (rc != CHI_OK)
    return rc;
  accord_join_move(item, move);
  accord_update(a, item);
  return CHI_OK;
}

/* ---- what others say */

static void accord_tell(struct accord *a, const struct accord_item *item)
{
  if (a->opt.on_entry)
    a->opt.on_entry(a->opt.arg, &item->entry);
}

/* Who keeps a name doesn't depend on how far either pool has come: all nodes choose alike. */
static bool accord_is_weaker(const struct accord_item *x, const struct accord_item *y)
{
  const struct accord_version *v = &x->entry.version, *w = &y->entry.version;
  if (accord_generation(&x->entry) != accord_generation(&y->entry))
    return accord_generation(&x->entry) < accord_generation(&y->entry);
  if (v->boot != w->boot)
    return v->boot < w->boot;
  if (v->node != w->node)
    return v->node < w->node;
  return accord_key(x->entry.pool.id) < accord_key(y->entry.pool.id);
}

static void accord_contest(struct accord *a, struct accord_item *item)
{
  struct accord_item *rival = accord_is_live(item) ? accord_rival(a, &item->entry.pool) : NULL;
  if (!rival)
    return;
  struct accord_item *loser = accord_is_weaker(item, rival) ? item : rival;
  struct accord_version version = loser->entry.version;
  version.counter = accord_generation(&loser->entry) * ACCORD_STATES + (uint64_t)ACCORD_LOST;
  accord_set(a, loser, &version);
  accord_update(a, loser);
  if (loser == rival)
    accord_tell(a, rival);
}

/* The same version as here: what can still be added to it. */
static void accord_add(struct accord *a, struct accord_item *item, const struct accord_entry *e,
                       const unsigned char *acks)
{
  bool moved = accord_is_live(item) && accord_join_moves(a, item, e);
  if (!accord_is_live(item))
    accord_join_acks(a, item, acks);
  accord_update(a, item);
  if (moved)
    accord_tell(a, item);
}

/* A higher version than here, or the first. */
static int accord_take(struct accord *a, struct accord_item *item, const struct accord_entry *e,
                       const unsigned char *acks)
{
  bool same = item && accord_is_same(&item->entry.pool, &e->pool);
  bool goes_on =
      same && accord_is_live(item) && accord_generation(&item->entry) == accord_generation(e);
  if ((!item || item->complete) && a->open >= ACCORD_MAX)
    return CHI_ERANGE;
  if (!same) {
    int rc = accord_insert(a, &e->pool, &item);
    if (rc != CHI_OK)
      return rc;
  } else if (!goes_on) {
    accord_clear_moves(a, item);
  }
  accord_set(a, item, &e->version);
  if (accord_is_live(item))
    accord_join_moves(a, item, e);
  else
    accord_join_acks(a, item, acks);
  accord_update(a, item);
  accord_contest(a, item);
  accord_tell(a, item);
  return CHI_OK;
}

static int accord_merge(struct accord *a, const struct accord_entry *e, const unsigned char *acks)
{
  struct accord_item *item = accord_get(a, accord_key(e->pool.id));
  int order = item ? accord_compare(&e->version, &item->entry.version) : 1;
  if (order > 0)
    return accord_take(a, item, e, acks);
  if (order == 0)
    accord_add(a, item, e, acks);
  return CHI_OK;
}

static bool accord_version_fits(const struct accord *a, const struct accord_version *v)
{
  return v->counter >= ACCORD_STATES && v->counter <= ACCORD_COUNTER_MAX &&
         v->counter % ACCORD_STATES <= ACCORD_LOST && v->boot != 0 && v->node < a->opt.count;
}

static bool accord_entry_fits(const struct accord *a, const struct accord_entry *e)
{
  const struct accord_pool *p = &e->pool;
  if (!accord_version_fits(a, &e->version) || accord_key(p->id) == 0 || p->containers == 0 ||
      p->containers > ACCORD_CONTAINERS || p->name[0] == '\0' || p->module[0] == '\0' ||
      strnlen(p->name, CHI_PATH_MAX) == CHI_PATH_MAX ||
      strnlen(p->module, CHI_NAME_MAX) == CHI_NAME_MAX ||
      strnlen(p->params, ACCORD_PARAMS) == ACCORD_PARAMS)
    return false;
  for (uint32_t i = 0; i < e->move_count; i++) {
    const struct accord_move *m = &e->move[i];
    if (m->index >= p->containers || m->node >= a->opt.count || m->epoch == 0 ||
        (i > 0 && m->index <= m[-1].index))
      return false;
  }
  return true;
}

int accord_learn(struct accord *a, const struct accord_entry *entry)
{
  if (!accord_entry_fits(a, entry) ||
      entry->version.counter % ACCORD_STATES != (uint64_t)entry->state)
    return CHI_ECORRUPT;
  return accord_merge(a, entry, NULL);
}

/* ---- WIRE_POOL: an entry
 *
 *   u64 id                       major << 32 | minor
 *   u64 counter, u64 boot, u32 node
 *   u32 containers
 *   text module, text name, text params
 *   u16 count                    moves, at most 200; an entry with more comes in several records
 *     u32 index, u32 node, u64 epoch
 *   u16 size, bytes              of a tombstone: a bit for each node that has it, node 0 first;
 *                                of a live pool: none */

static void accord_write_acks(const struct accord *a, const struct accord_item *item,
                              struct wire_out *out)
{
  uint32_t size = accord_is_live(item) ? 0 : (a->opt.count + 7) / 8;
  wire_put_u16(out, (uint16_t)size);
  for (uint32_t i = 0; i < size; i++)
    wire_put_u8(out, (uint8_t)(item->acked[i / 8] >> (i % 8 * 8)));
}

static void accord_send_piece(struct accord *a, uint32_t to, const struct accord_item *item,
                              uint32_t first, uint32_t count)
{
  const struct accord_entry *e = &item->entry;
  struct wire_out out;
  wire_out_init(&out, a->desk->bytes, sizeof a->desk->bytes);
  wire_put_u64(&out, accord_key(e->pool.id));
  wire_put_u64(&out, e->version.counter);
  wire_put_u64(&out, e->version.boot);
  wire_put_u32(&out, e->version.node);
  wire_put_u32(&out, e->pool.containers);
  wire_put_text(&out, e->pool.module);
  wire_put_text(&out, e->pool.name);
  wire_put_text(&out, e->pool.params);
  wire_put_u16(&out, (uint16_t)count);
  for (uint32_t i = first; i < first + count; i++) {
    wire_put_u32(&out, e->move[i].index);
    wire_put_u32(&out, e->move[i].node);
    wire_put_u64(&out, e->move[i].epoch);
  }
  accord_write_acks(a, item, &out);
  CHI_ASSERT(!out.failed);
  if (out.used > a->budget)
    return;
  a->budget -= (uint32_t)out.used;
  a->opt.send(a->opt.arg, to, WIRE_POOL, a->desk->bytes, out.used);
}

static void accord_send_entry(struct accord *a, uint32_t to, const struct accord_item *item)
{
  uint32_t count = item->entry.move_count, first = 0;
  do {
    uint32_t piece = count - first < ACCORD_PIECE ? count - first : ACCORD_PIECE;
    accord_send_piece(a, to, item, first, piece);
    first += piece;
  } while (first < count);
}

static void accord_read_version(struct wire_in *in, struct accord_version *v)
{
  v->counter = wire_get_u64(in);
  v->boot = wire_get_u64(in);
  v->node = wire_get_u32(in);
}

static bool accord_read_moves(struct accord *a, struct wire_in *in, struct accord_entry *e)
{
  e->move = a->desk->move;
  e->move_count = wire_get_u16(in);
  if (e->move_count > ACCORD_PIECE || (e->move_count > 0 && e->state > ACCORD_READY))
    return false;
  for (uint32_t i = 0; i < e->move_count; i++) {
    a->desk->move[i].index = wire_get_u32(in);
    a->desk->move[i].node = wire_get_u32(in);
    a->desk->move[i].epoch = wire_get_u64(in);
  }
  return !in->failed;
}

static bool accord_read_acks(const struct accord *a, struct wire_in *in,
                             const struct accord_entry *e, const unsigned char **acks)
{
  uint32_t size = wire_get_u16(in), nodes = a->opt.count;
  *acks = wire_get_bytes(in, size);
  if (!wire_in_ended(in) || size != (e->state <= ACCORD_READY ? 0 : (nodes + 7) / 8))
    return false;
  return size == 0 || nodes % 8 == 0 || (*acks)[size - 1] >> (nodes % 8) == 0;
}

static bool accord_on_pool(struct accord *a, struct wire_in *in)
{
  const unsigned char *acks;
  struct accord_desk *d = a->desk;
  struct accord_entry e = {.pool = {.name = d->name, .module = d->module, .params = d->params}};
  uint64_t key = wire_get_u64(in);
  e.pool.id = (chi_pool_id){(uint32_t)(key >> 32), (uint32_t)key};
  accord_read_version(in, &e.version);
  e.state = (enum accord_state)(e.version.counter % ACCORD_STATES);
  e.pool.containers = wire_get_u32(in);
  wire_get_text(in, d->module, sizeof d->module);
  wire_get_text(in, d->name, sizeof d->name);
  wire_get_text(in, d->params, sizeof d->params);
  if (in->failed || !accord_read_moves(a, in, &e) || !accord_read_acks(a, in, &e, &acks) ||
      !accord_entry_fits(a, &e))
    return false;
  accord_merge(a, &e, acks);
  return true;
}

/* ---- WIRE_POOLS: versions of entries, or a wish for entries
 *
 *   u8 flags                     1: the sender wants these entries
 *   u64 first, u64 last          ids; without the flag: between these the sender has what follows,
 *                                and nothing else
 *   u16 count                    at most 200, then so many times, by id
 *     u64 id
 *     u64 counter, u64 boot, u32 node, u64 extra   not with the flag; extra is a hash of the moves,
 *                                                  or of the acknowledgements
 *
 * Complete tombstones are left out. */

struct accord_list {
  uint8_t flags;
  uint64_t first, last;
  uint32_t count;
};

struct accord_row {
  uint64_t key, extra;
  struct accord_version version;
};

static void accord_write_list(struct accord *a, struct wire_out *out, const struct accord_list *l)
{
  wire_out_init(out, a->desk->bytes, sizeof a->desk->bytes);
  wire_put_u8(out, l->flags);
  wire_put_u64(out, l->first);
  wire_put_u64(out, l->last);
  wire_put_u16(out, (uint16_t)l->count);
}

static void accord_send_list(struct accord *a, uint32_t to, const struct wire_out *out)
{
  CHI_ASSERT(!out->failed);
  a->opt.send(a->opt.arg, to, WIRE_POOLS, a->desk->bytes, out->used);
}

/* One record of the own list, from this place and key on; *last is its last key. The next place. */
static uint32_t accord_offer_some(struct accord *a, uint32_t to, uint32_t place, uint64_t first,
                                  uint64_t *last)
{
  struct accord_list l = {.first = first, .last = UINT64_MAX};
  struct wire_out out;
  uint32_t end = place;
  for (; end < a->count && l.count < ACCORD_LIST; end++)
    l.count += !a->item[end]->complete;
  if (end < a->count)
    l.last = accord_key(a->item[end - 1]->entry.pool.id);
  accord_write_list(a, &out, &l);
  for (; place < end; place++) {
    const struct accord_item *item = a->item[place];
    if (item->complete)
      continue;
    wire_put_u64(&out, accord_key(item->entry.pool.id));
    wire_put_u64(&out, item->entry.version.counter);
    wire_put_u64(&out, item->entry.version.boot);
    wire_put_u32(&out, item->entry.version.node);
    wire_put_u64(&out, item->extra);
  }
  accord_send_list(a, to, &out);
  *last = l.last;
  return end;
}

static void accord_offer(struct accord *a, uint32_t to)
{
  uint64_t last;
  uint32_t place = accord_offer_some(a, to, 0, 0, &last);
  while (last != UINT64_MAX)
    place = accord_offer_some(a, to, place, last + 1, &last);
}

static void accord_ask(struct accord *a, uint32_t to, const uint64_t *key, uint32_t count)
{
  struct accord_list l = {ACCORD_WANT, key[0], key[count - 1], count};
  struct wire_out out;
  accord_write_list(a, &out, &l);
  for (uint32_t i = 0; i < count; i++)
    wire_put_u64(&out, key[i]);
  accord_send_list(a, to, &out);
}

static void accord_read_row(struct wire_in *in, const struct accord_list *l, struct accord_row *r)
{
  *r = (struct accord_row){.key = wire_get_u64(in)};
  if (l->flags & ACCORD_WANT)
    return;
  accord_read_version(in, &r->version);
  r->extra = wire_get_u64(in);
}

/* Whether all rows, which `in` is a copy of, are sound. */
static bool accord_rows_fit(const struct accord *a, struct wire_in in, const struct accord_list *l)
{
  struct accord_row row;
  uint64_t least = l->first > 0 ? l->first : 1;
  for (uint32_t i = 0; i < l->count; i++) {
    accord_read_row(&in, l, &row);
    if (in.failed || row.key < least || row.key > l->last ||
        (!(l->flags & ACCORD_WANT) && !accord_version_fits(a, &row.version)))
      return false;
    if (row.key == UINT64_MAX && i + 1 < l->count)
      return false;
    least = row.key + 1;
  }
  return wire_in_ended(&in);
}

static void accord_give(struct accord *a, uint32_t to, struct wire_in *in,
                        const struct accord_list *l)
{
  struct accord_row row;
  for (uint32_t i = 0; i < l->count; i++) {
    accord_read_row(in, l, &row);
    const struct accord_item *item = accord_get(a, row.key);
    if (item)
      accord_send_entry(a, to, item);
  }
}

/* What the other doesn't list, up to this key. The next place. */
static uint32_t accord_give_between(struct accord *a, uint32_t to, uint32_t place, uint64_t end,
                                    bool inclusive)
{
  for (; place < a->count; place++) {
    uint64_t key = accord_key(a->item[place]->entry.pool.id);
    if (key > end || (key == end && !inclusive))
      break;
    if (!a->item[place]->complete)
      accord_send_entry(a, to, a->item[place]);
  }
  return place;
}

/* Gives what is newer here, asks for what is newer there; of what is equal but for moves or
 * acknowledgements, each has something to add. */
static void accord_compare_list(struct accord *a, uint32_t to, struct wire_in *in,
                                const struct accord_list *l)
{
  uint64_t want[ACCORD_LIST];
  uint32_t wanted = 0, place = accord_place(a, l->first);
  struct accord_row row;
  for (uint32_t i = 0; i < l->count; i++) {
    accord_read_row(in, l, &row);
    place = accord_give_between(a, to, place, row.key, false);
    const struct accord_item *item = accord_get(a, row.key);
    int order = item ? accord_compare(&row.version, &item->entry.version) : 1;
    bool differs = order == 0 && row.extra != item->extra;
    place += item != NULL;
    if (order < 0 || differs)
      accord_send_entry(a, to, item);
    if (order > 0 || (differs && !item->complete))
      want[wanted++] = row.key;
  }
  accord_give_between(a, to, place, l->last, true);
  if (wanted > 0)
    accord_ask(a, to, want, wanted);
}

static bool accord_on_pools(struct accord *a, uint32_t from, struct wire_in *in)
{
  struct accord_list l;
  l.flags = wire_get_u8(in);
  l.first = wire_get_u64(in);
  l.last = wire_get_u64(in);
  l.count = wire_get_u16(in);
  if (in->failed || l.flags > ACCORD_WANT || l.count > ACCORD_LIST || l.first > l.last ||
      !accord_rows_fit(a, *in, &l))
    return false;
  if (l.flags & ACCORD_WANT)
    accord_give(a, from, in, &l);
  else
    accord_compare_list(a, from, in, &l);
  return true;
}

/* ---- from outside */

uint64_t accord_digest(const struct accord *a)
{
  return a->digest;
}

static bool accord_has_desk(struct accord *a)
{
  if (!a->desk)
    a->desk = alloc_get(a->opt.alloc, sizeof *a->desk);
  return a->desk;
}

void accord_on_digest(struct accord *a, uint64_t now, uint32_t from, uint64_t digest)
{
  CHI_ASSERT(from < a->opt.count && from != a->opt.self);
  if (digest == a->digest || now < a->next_at[from] || !accord_has_desk(a))
    return;
  a->next_at[from] = now + a->opt.interval_ns;
  accord_offer(a, from);
}

bool accord_on_record(struct accord *a, uint64_t now, uint32_t from, enum wire_kind kind,
                      struct wire_in *in)
{
  (void)now;
  if (from >= a->opt.count || from == a->opt.self)
    return false;
  if (!accord_has_desk(a))
    return true; /* as if it were lost: the next one is like it */
  a->budget = ACCORD_BURST;
  if (kind == WIRE_POOLS)
    return accord_on_pools(a, from, in);
  return kind == WIRE_POOL && accord_on_pool(a, in);
}

const struct accord_entry *accord_find(const struct accord *a, chi_pool_id id)
{
  const struct accord_item *item = accord_get(a, accord_key(id));
  return item ? &item->entry : NULL;
}

const struct accord_entry *accord_find_name(const struct accord *a, const char *name)
{
  const struct accord_pool any = {.name = name}; /* no pool has the id 0.0 */
  const struct accord_item *item = accord_rival(a, &any);
  return item ? &item->entry : NULL;
}

const struct accord_entry *accord_next(const struct accord *a, const chi_pool_id *after)
{
  uint64_t key = after ? accord_key(*after) : 0;
  if (key == UINT64_MAX)
    return NULL;
  uint32_t place = accord_place(a, key + 1);
  return place < a->count ? &a->item[place]->entry : NULL;
}

uint32_t accord_count(const struct accord *a)
{
  return a->open;
}

static size_t accord_size(uint32_t nodes)
{
  return sizeof(struct accord) + nodes * sizeof(uint64_t);
}

int accord_open(const struct accord_options *options, struct accord **out)
{
  CHI_ASSERT(options->count > 0 && options->count <= ACCORD_NODES);
  CHI_ASSERT(options->self < options->count && options->boot != 0);
  struct accord *a = alloc_zero(options->alloc, accord_size(options->count));
  if (!a)
    return CHI_ENOMEM;
  a->opt = *options;
  *out = a;
  return CHI_OK;
}

void accord_close(struct accord *a)
{
  for (uint32_t i = 0; i < a->count; i++)
    accord_item_free(a, a->item[i]);
  alloc_put(a->opt.alloc, a->item, a->room * sizeof(struct accord_item *));
  alloc_put(a->opt.alloc, a->desk, sizeof *a->desk);
  alloc_put(a->opt.alloc, a, accord_size(a->opt.count));
}

void accord_reborn(struct accord *a, uint64_t boot)
{
  CHI_ASSERT(boot > a->opt.boot);
  a->opt.boot = boot;
}

#undef ACCORD_COUNTER_MAX
#undef ACCORD_BUCKETS
#undef ACCORD_LIST
#undef ACCORD_PIECE
#undef ACCORD_RECORD
#undef ACCORD_BURST
#undef ACCORD_WANT
