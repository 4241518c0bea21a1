/* record.c - a node on a tape: everything it hears from the world, and all it says. */
#include "record.h"
#include "attach.h"
#include "config.h"
#include "error.h"

#include <stdio.h>

#define RECORD_MESSAGE_MAX (UINT64_C(1) << 33) /* bytes of one, more than any node sends */

#define RECORD_KIND(name, number, text)                                                            \
  case RECORD_##name:                                                                              \
    return text;
static const char *record_name(int kind)
{
  switch ((enum record_kind)kind) {
    RECORD_KINDS(RECORD_KIND)
  case RECORD_NONE:
    break;
  }
  return NULL;
}
#undef RECORD_KIND

/* ---- lists ----------------------------------------------------------------------------------- */

void *record_list_add(struct record *r, struct record_list *list, size_t size)
{
  const struct alloc *alloc = &r->base->alloc;
  if (list->count == list->room) {
    uint32_t room = list->room ? list->room * 2 : 64;
    void *bigger = alloc_get(alloc, room * size);
    if (!bigger)
      return NULL;
    if (list->count)
      memcpy(bigger, list->item, list->count * size);
    alloc_put(alloc, list->item, list->room * size);
    list->item = bigger;
    list->room = room;
  }
  return (char *)list->item + list->count++ * size;
}

static void record_list_free(struct record *r, struct record_list *list, size_t size)
{
  alloc_put(&r->base->alloc, list->item, list->room * size);
  *list = (struct record_list){NULL, 0, 0};
}

struct record_flight record_list_take(struct record_list *list, const void *what, uint64_t number)
{
  struct record_flight *f = list->item, found = {NULL, 0};
  uint32_t at = 0;
  while (at < list->count && (what ? f[at].what != what : f[at].number != number))
    at++;
  if (at == list->count)
    return found;
  found = f[at];
  list->count--;
  memmove(&f[at], &f[at + 1], (list->count - at) * sizeof *f);
  return found;
}

/* ---- begin and end --------------------------------------------------------------------------- */

int record_open(struct env *base, struct record **out)
{
  struct record *r = alloc_zero(&base->alloc, sizeof *r);
  if (!r)
    return CHI_ENOMEM;
  r->base = base;
  r->set_end = &r->set;
  r->tape.name = record_name;
  record_env_init(r);
  *out = r;
  return CHI_OK;
}

void record_close(struct record *r)
{
  const struct alloc *alloc = &r->base->alloc;
  while (r->set)
    record_set_drop(r, r->set->desk);
  alloc_put(alloc, r->task, r->task_room);
  record_list_free(r, &r->segment, sizeof(struct record_segment));
  record_list_free(r, &r->bell, sizeof(env_bell));
  record_list_free(r, &r->io, sizeof(struct record_flight));
  record_list_free(r, &r->parcel, sizeof(struct record_flight));
  alloc_put(alloc, r, sizeof *r);
}

struct env *record_env(struct record *r)
{
  return &r->env;
}

const struct tape *record_tape(const struct record *r)
{
  return &r->tape;
}

/* ---- the head -------------------------------------------------------------------------------- */

static void record_keys(struct tape *t, chi_config *config)
{
  struct config_value value;
  char name[CHI_NAME_MAX] = "";
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = config_key_at(i);
    snprintf(name, sizeof name, "%s", key->name);
    config_get(config, key, &value);
    tape_text(t, name, sizeof name);
    tape_u64(t, &value.number);
    tape_text(t, value.text, sizeof value.text);
    if (strcmp(name, key->name) != 0)
      tape_lose(t, TAPE_FOREIGN, "the key %.64s of the configuration is not known here", name);
    else if (config_key_is_text(key) && strlen(value.text) >= CHI_NAME_MAX &&
             key->type != CONFIG_PATH)
      tape_lose(t, TAPE_DAMAGED, "an impossible value of %s", key->name);
    if (t->end != TAPE_GOES_ON)
      return;
    if (t->mode == TAPE_READS)
      config_put(config, key, &value);
  }
}

static void record_hosts(struct tape *t, chi_config *config)
{
  uint64_t count = config->host_count;
  chi_host host = {{0}, {0}};
  tape_u64(t, &count);
  for (uint64_t i = 0; i < count && t->end == TAPE_GOES_ON; i++) {
    if (t->mode == TAPE_WRITES)
      host = config->hosts[i];
    tape_text(t, host.name, sizeof host.name);
    tape_text(t, host.address, sizeof host.address);
    if (t->mode == TAPE_READS && chi_config_add_host(config, host.name, host.address) != CHI_OK)
      tape_lose(t, TAPE_DAMAGED, "an impossible host");
  }
}

static void record_params(struct tape *t, chi_compose_entry *entry)
{
  uint64_t count = entry->param_count;
  char name[CHI_NAME_MAX] = "", value[CHI_PATH_MAX] = "";
  tape_u64(t, &count);
  for (uint64_t i = 0; i < count && t->end == TAPE_GOES_ON; i++) {
    if (t->mode == TAPE_WRITES) {
      snprintf(name, sizeof name, "%s", entry->params[i].name);
      snprintf(value, sizeof value, "%s", entry->params[i].value);
    }
    tape_text(t, name, sizeof name);
    tape_text(t, value, sizeof value);
    if (t->mode == TAPE_READS && chi_config_add_param(entry, name, value) != CHI_OK)
      tape_lose(t, TAPE_DAMAGED, "an impossible parameter");
  }
}

static void record_pool(struct tape *t, chi_config *config, uint64_t i)
{
  chi_compose_entry entry, *at = &entry;
  uint64_t major, minor;
  memset(&entry, 0, sizeof entry);
  if (t->mode == TAPE_WRITES)
    at = &config->compose[i];
  entry = *at;
  major = entry.pool_major;
  minor = entry.pool_minor;
  tape_text(t, entry.mod_name, sizeof entry.mod_name);
  tape_text(t, entry.pool_name, sizeof entry.pool_name);
  tape_text(t, entry.pool_query, sizeof entry.pool_query);
  tape_u64(t, &major);
  tape_u64(t, &minor);
  if (t->mode == TAPE_READS &&
      chi_config_add_pool(config, entry.mod_name, entry.pool_name, entry.pool_query,
                          (uint32_t)major, (uint32_t)minor, &at) != CHI_OK)
    tape_lose(t, TAPE_DAMAGED, "an impossible pool");
  else
    record_params(t, at);
}

static void record_head(struct tape *t, struct record_head *h)
{
  uint64_t node = h->node, modules = h->module_count, pools = h->config.compose_count;
  tape_in(t, RECORD_HEAD);
  tape_text(t, h->instance, sizeof h->instance);
  tape_u64(t, &node);
  tape_u64(t, &modules);
  if (modules > RECORD_MODULES)
    tape_lose(t, TAPE_DAMAGED, "%llu modules", (unsigned long long)modules);
  h->node = (uint32_t)node;
  h->module_count = (uint32_t)modules;
  for (uint64_t i = 0; i < modules && t->end == TAPE_GOES_ON; i++)
    tape_text(t, h->module[i], sizeof h->module[i]);
  record_keys(t, &h->config);
  record_hosts(t, &h->config);
  tape_u64(t, &pools);
  for (uint64_t i = 0; i < pools && t->end == TAPE_GOES_ON; i++)
    record_pool(t, &h->config, i);
}

int record_write(struct record *r, const struct tape_store *store,
                 const struct runtime_options *options)
{
  struct record_head *h;
  int rc = options->module_count > RECORD_MODULES ? CHI_ETOOBIG : tape_write(&r->tape, store);
  r->records = true;
  if (rc != CHI_OK)
    return rc;
  h = alloc_zero(&r->base->alloc, sizeof *h);
  if (!h)
    return CHI_ENOMEM;
  h->config = *options->config; /* its lists stay the caller's */
  h->node = options->node;
  h->module_count = options->module_count;
  snprintf(h->instance, sizeof h->instance, "%s", options->instance);
  for (uint32_t i = 0; i < h->module_count; i++)
    snprintf(h->module[i], sizeof h->module[i], "%s", options->modules[i]->name);
  record_head(&r->tape, h);
  alloc_put(&r->base->alloc, h, sizeof *h);
  return r->tape.failed;
}

bool record_read(struct record *r, const struct tape_store *store, void (*lost)(void *arg),
                 void *arg, struct record_head *head)
{
  memset(head, 0, sizeof *head);
  chi_config_init(&head->config);
  if (!tape_read(&r->tape, store))
    return false;
  record_head(&r->tape, head);
  r->tape.lost = lost;
  r->tape.arg = arg;
  return r->tape.end == TAPE_GOES_ON;
}

/* ---- lanes ----------------------------------------------------------------------------------- */

bool record_set_add(struct record *r, const struct env_share *share, uint32_t depth)
{
  struct record_set *s = alloc_zero(&r->base->alloc, sizeof *s);
  struct record_segment *desk = (struct record_segment *)r->segment.item + share[0].segment.handle;
  struct lane_board *board = share[1].segment.base;
  if (!s)
    return false;
  s->desk = share[0].segment.handle;
  s->number = ++r->sets;
  s->outside = desk->base.base;
  s->bell = share[2].bell;
  for (uint32_t k = 0; k < LANE_KINDS; k++) {
    lane_in_init(&s->in[k], s->outside, &s->taken, (enum lane_kind)k);
    lane_out_init(&s->out[k], share[0].segment.base, board, (enum lane_kind)k);
  }
  lane_done_out_init(&s->done, board, depth);
  *r->set_end = s;
  r->set_end = &s->next;
  return true;
}

void record_set_drop(struct record *r, int64_t desk)
{
  struct record_set **at = &r->set;
  while (*at && (*at)->desk != desk)
    at = &(*at)->next;
  struct record_set *s = *at;
  if (!s)
    return;
  *at = s->next;
  if (!*at)
    r->set_end = at;
  alloc_put(&r->base->alloc, s, sizeof *s);
}

/* A client that keeps to the rules never finds the node's desk full. */
static bool record_lane_room(const struct lane_out *o)
{
  return o->tail - mark_get(o->taken) < LANE_ENTRIES;
}

static bool record_lane_copy(struct record *r, struct record_set *s, uint32_t kind)
{
  bool copied = false;
  struct lane_entry e;
  enum lane_op op;
  while (record_lane_room(&s->out[kind]) && lane_take(&s->in[kind], &e, &op)) {
    uint64_t v[] = {s->number, kind, (uint64_t)op, e.ref, e.slot};
    record_values(r, RECORD_LANE, v, CHI_COUNT(v));
    copied = lane_put(&s->out[kind], op, e.ref, e.slot);
    CHI_ASSERT(copied);
  }
  return copied;
}

/* The node's own look at the client's word finds nothing: it is on the node's desk. */
static void record_wake(struct record *r, struct record_set *s)
{
  struct lane_done done;
  bool some = false;
  while (lane_done_pop(&s->done, &done))
    some = true;
  if (some && bell_wanted(&s->outside->client, &s->rung))
    r->base->bell_ring(r->base, s->bell);
}

bool record_exchange(struct record *r)
{
  bool copied = false;
  if (!r)
    return false;
  for (struct record_set *s = r->set; s; s = s->next) {
    record_wake(r, s);
    for (uint32_t k = 0; k < LANE_KINDS; k++)
      copied |= record_lane_copy(r, s, k);
  }
  return copied;
}

static void record_play_lane(struct record *r)
{
  uint64_t v[5] = {0};
  record_values(r, RECORD_LANE, v, CHI_COUNT(v));
  struct record_set *s = r->set;
  while (s && s->number != v[0])
    s = s->next;
  if (!s || v[1] >= LANE_KINDS || v[2] > LANE_CANCEL || !record_lane_room(&s->out[v[1]]))
    tape_lose(&r->tape, TAPE_DAMAGED, "an entry for a lane that is not there, or full");
  else
    lane_put(&s->out[v[1]], (enum lane_op)v[2], v[3], (uint32_t)v[4]);
}

/* ---- what is done to a node ------------------------------------------------------------------ */

void record_values(struct record *r, int kind, uint64_t *value, uint32_t count)
{
  tape_in(&r->tape, kind);
  for (uint32_t i = 0; i < count; i++)
    tape_u64(&r->tape, &value[i]);
}

void record_opened(struct record *r, int rc)
{
  if (!r)
    return;
  tape_out(&r->tape, RECORD_OPENED);
  tape_say(&r->tape, (uint64_t)rc);
  tape_said(&r->tape);
}

static bool record_worker(struct record *r, const struct runtime *rt, uint64_t worker)
{
  CHI_ASSERT(runtime_worker_count(rt) <= RECORD_WORKERS);
  if (worker < runtime_worker_count(rt))
    return true;
  tape_lose(&r->tape, TAPE_DAMAGED, "a worker that there is not");
  return false;
}

bool record_step(struct record *r, struct runtime *rt, uint32_t worker, uint64_t now,
                 uint32_t budget, uint64_t *deadline)
{
  uint64_t v[] = {worker, now, budget};
  if (!r)
    return runtime_step(rt, worker, now, budget, deadline);
  record_values(r, RECORD_STEP, v, CHI_COUNT(v));
  if (!record_worker(r, rt, v[0]) || v[2] == 0)
    return false;
  bool more = runtime_step(rt, (uint32_t)v[0], v[1], (uint32_t)v[2], deadline);
  tape_out(&r->tape, RECORD_STEPPED);
  tape_say(&r->tape, more);
  tape_say(&r->tape, *deadline);
  tape_said(&r->tape);
  return more;
}

bool record_may_sleep(struct record *r, struct runtime *rt, uint32_t worker)
{
  uint64_t v = worker;
  if (!r)
    return runtime_may_sleep(rt, worker);
  record_values(r, RECORD_SLEEP, &v, 1);
  if (!record_worker(r, rt, v))
    return false;
  if (r->asleep[v])
    tape_lose(&r->tape, TAPE_DAMAGED, "a worker that goes to sleep twice");
  r->asleep[v] = true;
  bool may = runtime_may_sleep(rt, (uint32_t)v);
  tape_out(&r->tape, RECORD_ASLEEP);
  tape_say(&r->tape, may);
  tape_said(&r->tape);
  return may;
}

void record_awake(struct record *r, struct runtime *rt, uint32_t worker)
{
  uint64_t v = worker;
  if (r)
    record_values(r, RECORD_AWAKE, &v, 1);
  if (r && !record_worker(r, rt, v))
    return;
  if (r)
    r->asleep[v] = false;
  runtime_awake(rt, (uint32_t)v);
}

void record_stop(struct record *r, struct runtime *rt, uint64_t grace_ns)
{
  if (r)
    record_values(r, RECORD_STOP, &grace_ns, 1);
  runtime_stop(rt, grace_ns);
}

void record_on_connect(struct record *r, struct runtime *rt, env_link link,
                       const struct env_peer *peer)
{
  uint64_t v[] = {(uint64_t)link, peer->uid, peer->pid};
  if (r)
    record_values(r, RECORD_CONNECT, v, CHI_COUNT(v));
  const struct env_peer who = {(uint32_t)v[1], (uint32_t)v[2]};
  runtime_on_connect(rt, (env_link)v[0], &who);
}

void record_on_request(struct record *r, struct runtime *rt, env_link link, const void *message,
                       size_t size)
{
  uint64_t v[] = {(uint64_t)link, size};
  char copy[ENV_MESSAGE_MAX];
  if (!r) {
    runtime_on_request(rt, link, message, size);
    return;
  }
  record_values(r, RECORD_REQUEST, v, CHI_COUNT(v));
  if (v[1] > sizeof copy) {
    tape_lose(&r->tape, TAPE_DAMAGED, "a request that is too long");
    return;
  }
  if (message)
    memcpy(copy, message, size);
  tape_bytes(&r->tape, copy, v[1]);
  runtime_on_request(rt, (env_link)v[0], copy, (size_t)v[1]);
}

void record_on_hangup(struct record *r, struct runtime *rt, env_link link)
{
  uint64_t v = (uint64_t)link;
  if (r)
    record_values(r, RECORD_HANGUP, &v, 1);
  runtime_on_hangup(rt, (env_link)v);
}

void record_on_message(struct record *r, struct runtime *rt, const struct env_frame *frame,
                       uint32_t count)
{
  uint64_t v = count;
  if (r)
    record_values(r, RECORD_MESSAGE, &v, 1);
  for (uint32_t i = 0; r && i < count; i++) {
    uint64_t size = frame[i].size;
    tape_u64(&r->tape, &size);
    tape_bytes(&r->tape, (void *)(uintptr_t)frame[i].data, size);
  }
  runtime_on_message(rt, frame, count);
}

static void record_play_message(struct record *r, struct runtime *rt)
{
  const struct alloc *alloc = &r->base->alloc;
  struct env_frame frame[ENV_FRAMES_MAX];
  uint64_t count = 0, n = 0, all = 0;
  record_values(r, RECORD_MESSAGE, &count, 1);
  if (count > ENV_FRAMES_MAX) {
    tape_lose(&r->tape, TAPE_DAMAGED, "a message of too many frames");
    return;
  }
  for (; n < count; n++) {
    uint64_t size = 0;
    tape_u64(&r->tape, &size);
    all += size < RECORD_MESSAGE_MAX ? size : RECORD_MESSAGE_MAX;
    void *data = all < RECORD_MESSAGE_MAX ? alloc_get(alloc, (size_t)size + 1) : NULL;
    if (!data)
      tape_lose(&r->tape, TAPE_DAMAGED, "no memory for a frame of %llu bytes",
                (unsigned long long)size);
    else
      tape_bytes(&r->tape, data, size);
    frame[n] = (struct env_frame){data, size};
  }
  runtime_on_message(rt, frame, (uint32_t)count);
  for (n = 0; n < count; n++)
    alloc_put(alloc, (void *)(uintptr_t)frame[n].data, (size_t)frame[n].size + 1);
}

void record_on_peer(struct record *r, struct runtime *rt, uint32_t peer, bool connected)
{
  uint64_t v[] = {peer, connected};
  if (r)
    record_values(r, RECORD_PEER, v, CHI_COUNT(v));
  if (r && v[0] >= r->peers)
    tape_lose(&r->tape, TAPE_DAMAGED, "a node that is not in the list of hosts");
  else
    runtime_on_peer(rt, (uint32_t)v[0], v[1] != 0);
}

void record_on_sent(struct record *r, struct runtime *rt, void *parcel)
{
  uint64_t number = 0;
  if (r && parcel)
    number = record_list_take(&r->parcel, parcel, 0).number;
  if (r)
    record_values(r, RECORD_SENT, &number, 1);
  if (r && record_reads(r))
    parcel = record_list_take(&r->parcel, NULL, number).what;
  if (parcel)
    runtime_on_sent(rt, parcel);
  else if (r)
    tape_lose(&r->tape, TAPE_DAMAGED, "a parcel that was not sent");
}

void record_flush(struct record *r)
{
  if (r)
    tape_flush(&r->tape);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void record_figures(struct record *r, struct runtime *rt)
{
  struct runtime_view view;
  runtime_inspect(rt, &view);
  tape_out(&r->tape, RECORD_FIGURES);
  tape_say(&r->tape, (uint64_t)runtime_state(rt));
  tape_say(&r->tape, view.pools);
  tape_say(&r->tape, view.tasks_open);
  tape_say(&r->tape, view.credit);
  tape_say(&r->tape, r->gets);
  tape_say(&r->tape, r->puts);
  for (uint32_t i = 0; i < runtime_worker_count(rt); i++)
    tape_say(&r->tape, runtime_worker_done(rt, i));
  tape_said(&r->tape);
}

int record_finish(struct record *r, struct runtime *rt)
{
  if (r->tape.mode != TAPE_WRITES)
    return r->tape.failed;
  record_figures(r, rt);
  tape_finish(&r->tape);
  return r->tape.failed;
}

bool record_play(struct record *r, struct runtime *rt)
{
  static const struct env_peer nobody = {0, 0};
  uint64_t deadline = 0;
  int kind = tape_next(&r->tape);
  switch (kind) {
  case RECORD_NONE:
    return false;
  case RECORD_STEP:
    record_step(r, rt, 0, 0, 0, &deadline);
    break;
  case RECORD_SLEEP:
    record_may_sleep(r, rt, 0);
    break;
  case RECORD_AWAKE:
    record_awake(r, rt, 0);
    break;
  case RECORD_STOP:
    record_stop(r, rt, 0);
    break;
  case RECORD_CONNECT:
    record_on_connect(r, rt, 0, &nobody);
    break;
  case RECORD_REQUEST:
    record_on_request(r, rt, 0, NULL, 0);
    break;
  case RECORD_HANGUP:
    record_on_hangup(r, rt, 0);
    break;
  case RECORD_MESSAGE:
    record_play_message(r, rt);
    break;
  case RECORD_PEER:
    record_on_peer(r, rt, 0, false);
    break;
  case RECORD_SENT:
    record_on_sent(r, rt, NULL);
    break;
  case RECORD_LANE:
    record_play_lane(r);
    break;
  case RECORD_FIGURES:
    record_figures(r, rt);
    break;
  default:
    tape_lose(&r->tape, TAPE_DAMAGED, "item %llu, {%s}, is not what begins anything",
              (unsigned long long)r->tape.items, record_name(kind) ? record_name(kind) : "?");
    return false;
  }
  return true;
}

#undef RECORD_MESSAGE_MAX
