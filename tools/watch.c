/* watch.c - the figures of a daemon, or of all nodes of its cluster, asked again and again. */
#include "watch.h"

#include <stdio.h>
#include <stdlib.h>

#include "utf8.h"

#define WATCH_SEATS 64u /* questions under way at a time */
#define WATCH_ROOM (64u << 10)
#define WATCH_GROWTHS 8 /* times that an answer which doesn't fit is asked for again in a round */
#define WATCH_CLOSE_NS 100000000ull

/* One question: its task and buffer are kept for the next, so that asking takes no memory. */
struct watch_seat {
  struct watch_node *node; /* who is asked; NULL: nobody */
  struct chi_admin_monitor *task;
  chi_bulk own; /* the buffer as allocated: what stands in the task is not relied on */
  uint64_t wanted;
};

void watch_open(struct watch *w, struct cli_link *link, bool cluster, uint64_t wait_ns)
{
  *w = (struct watch){.link = link, .cluster = cluster, .wait_ns = wait_ns, .began = cli_now()};
}

static void watch_seat_free(struct watch *w, struct watch_seat *s)
{
  if (s->task && s->node && !chi_task_done(w->link->queue, s->task)) {
    chi_abandon(w->link->queue, s->task); /* takes the buffer along */
  } else {
    if (s->own.ref)
      chi_bulk_free(w->link->queue, &s->own);
    if (s->task)
      chi_task_free(w->link->queue, s->task);
  }
  *s = (struct watch_seat){.wanted = s->wanted};
}

static void watch_nodes_free(struct watch *w)
{
  for (uint32_t i = 0; i < w->count; i++) {
    json_free(w->node[i].now);
    json_free(w->node[i].before);
    free(w->node[i].text);
  }
  free(w->node);
  w->node = NULL;
  w->count = 0;
}

void watch_close(struct watch *w)
{
  for (uint32_t i = 0; w->seats && i < WATCH_SEATS; i++)
    watch_seat_free(w, &w->seats[i]);
  free(w->seats);
  w->seats = NULL;
  watch_nodes_free(w);
}

/* ---- questions -------------------------------------------------------------------------- */

static int watch_error(chi_error *err, int code)
{
  err->code = code;
  snprintf(err->text, sizeof(err->text), "%s: %s", chi_admin_monitor_type.name,
           chi_status_text(code));
  return code;
}

/* A task and a buffer of the size that was wanted last. */
static int watch_seat_provide(struct watch *w, struct watch_seat *s)
{
  chi_queue *queue = w->link->queue;
  chi_error err = {0};
  if (s->own.ref && s->own.size < s->wanted)
    watch_seat_free(w, s);
  if (!s->task)
    s->task = CHI_NEW(queue, chi_admin_monitor);
  if (!s->task)
    return chi_queue_error(queue, &err);
  if (s->own.ref)
    return CHI_OK;
  if (s->wanted < WATCH_ROOM)
    s->wanted = WATCH_ROOM;
  return chi_bulk_alloc(queue, s->wanted, &s->own);
}

/* Asks a node; node->seat stays NULL if there is no free seat. */
static int watch_ask(struct watch *w, struct watch_node *node)
{
  struct watch_seat *s = NULL;
  for (uint32_t i = 0; i < WATCH_SEATS && !s; i++)
    s = w->seats[i].node ? NULL : &w->seats[i];
  if (!s)
    return CHI_EBUSY;
  int rc = watch_seat_provide(w, s);
  if (rc != CHI_OK)
    return rc;
  s->task->task.pool = CHI_ADMIN_POOL;
  s->task->task.query = node->node == w->own
                            ? (chi_query){.mode = CHI_QUERY_LOCAL}
                            : (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node->node};
  s->task->json = s->own;
  rc = chi_submit(w->link->queue, s->task);
  if (rc != CHI_OK)
    return rc;
  s->node = node;
  node->seat = s;
  node->answer = WATCH_LATE;
  return CHI_OK;
}

/* Rates mean something only between two answers of one life. */
static bool watch_same_life(const struct json *a, const struct json *b)
{
  return json_integer(a, "boot", 0) == json_integer(b, "boot", 0) &&
         json_integer(a, "uptime_ns", 0) >= json_integer(b, "uptime_ns", 0);
}

static int watch_keep(struct watch_node *node, const char *bytes, uint64_t size)
{
  struct json *json = NULL;
  chi_error err = {0};
  int rc = json_parse(bytes, size, &json, &err);
  char *text = rc == CHI_OK ? malloc(size + 1) : NULL;
  if (rc == CHI_OK && json->kind != JSON_OBJECT)
    rc = CHI_ECORRUPT;
  if (!text || rc != CHI_OK) {
    free(text);
    json_free(json);
    return rc != CHI_OK ? rc : CHI_ENOMEM;
  }
  memcpy(text, bytes, size);
  text[size] = '\0';
  free(node->text);
  json_free(node->before);
  node->before = node->now;
  node->now = json;
  node->text = text;
  if (node->before && !watch_same_life(node->now, node->before)) {
    json_free(node->before);
    node->before = NULL;
  }
  node->heard = cli_now();
  return CHI_OK;
}

/* Takes what a question came to. True: it is to be asked again, in a larger buffer. */
static bool watch_take(struct watch_seat *s)
{
  struct watch_node *node = s->node;
  int rc = s->task->task.rc;
  uint64_t size = s->task->size;
  s->node = NULL;
  node->seat = NULL;
  if (rc == CHI_ETOOBIG && size > s->own.size && size <= JSON_SIZE_MAX) {
    s->wanted = size + size / 4;
    return true;
  }
  if (rc == CHI_OK)
    rc = size <= s->own.size ? watch_keep(node, s->own.data, size) : CHI_ECORRUPT;
  node->code = rc;
  node->answer = rc == CHI_OK ? WATCH_FRESH : WATCH_FAILED;
  return false;
}

/* Waits for one question under way. CHI_ENOENT: there is none. */
static int watch_wait(struct watch *w, uint64_t until, struct watch_seat **out)
{
  void *tasks[WATCH_SEATS];
  struct watch_seat *seats[WATCH_SEATS];
  uint32_t count = 0, which = 0;
  uint64_t now = cli_now();
  for (uint32_t i = 0; i < WATCH_SEATS; i++) {
    if (!w->seats[i].node)
      continue;
    seats[count] = &w->seats[i];
    tasks[count++] = w->seats[i].task;
  }
  if (count == 0)
    return CHI_ENOENT;
  int rc = chi_wait_any(w->link->queue, tasks, count, until > now ? until - now : 0, &which);
  *out = seats[which];
  return chi_task_done(w->link->queue, tasks[which]) ? CHI_OK : rc;
}

/* ---- rounds ----------------------------------------------------------------------------- */

/* Asks the daemon itself. */
static int watch_round_own(struct watch *w, chi_error *err)
{
  struct watch_node *own = &w->node[w->cluster ? w->own : 0];
  struct watch_seat *s = NULL;
  uint64_t until = cli_now() + w->wait_ns;
  int growths = 0, rc = own->seat ? CHI_OK : watch_ask(w, own);
  while (rc == CHI_OK && own->seat) {
    rc = watch_wait(w, until, &s);
    if (rc != CHI_OK)
      break;
    struct watch_node *node = s->node;
    if (watch_take(s) && node == own)
      rc = growths++ < WATCH_GROWTHS ? watch_ask(w, own) : CHI_ETOOBIG;
  }
  if (rc == CHI_OK && own->answer == WATCH_FAILED)
    rc = own->code;
  return rc == CHI_OK ? CHI_OK : watch_error(err, rc);
}

static void watch_copy(char *to, size_t room, const char *from)
{
  snprintf(to, room, "%s", from);
  utf8_make_line(to);
}

/* The first answer tells how many nodes there are. */
static int watch_learn_nodes(struct watch *w, chi_error *err)
{
  struct watch_node *first = w->node, *node;
  uint32_t others = json_count(first->now, "nodes");
  uint64_t own = json_integer(first->now, "node", 0);
  if (own > others || own > CHI_CLUSTER_NODES_MAX || others >= CHI_CLUSTER_NODES_MAX)
    return watch_error(err, CHI_ECORRUPT);
  first->node = w->own = (uint32_t)own;
  if (!w->cluster)
    return CHI_OK;
  node = calloc(others + 1, sizeof(*node));
  if (!node)
    return watch_error(err, CHI_ENOMEM);
  for (uint32_t i = 0; i <= others; i++)
    node[i].node = i;
  node[own] = *first;
  free(first);
  w->node = node;
  w->count = others + 1;
  return CHI_OK;
}

/* What the own daemon says of all nodes. */
static void watch_learn_states(struct watch *w)
{
  struct watch_node *own = &w->node[w->cluster ? w->own : 0];
  watch_copy(own->state, sizeof(own->state), "alive");
  watch_copy(own->host, sizeof(own->host), json_string(own->now, "host", ""));
  own->boot = json_integer(own->now, "boot", 0);
  for (const struct json *e = w->cluster ? json_list(own->now, "nodes") : NULL; e; e = e->next) {
    uint64_t id = json_integer(e, "id", UINT64_MAX);
    if (id >= w->count || id == w->own)
      continue;
    struct watch_node *node = &w->node[id];
    watch_copy(node->state, sizeof(node->state), json_string(e, "state", "unknown"));
    watch_copy(node->host, sizeof(node->host), json_string(e, "host", ""));
    node->boot = json_integer(e, "boot", 0);
  }
}

static bool watch_is_there(const struct watch_node *node)
{
  return strcmp(node->state, "alive") == 0 || strcmp(node->state, "suspected") == 0;
}

/* Asks the others, as many at a time as there are seats. */
static void watch_round_others(struct watch *w)
{
  struct watch_seat *s = NULL;
  uint64_t until = cli_now() + w->wait_ns;
  uint32_t at = 0;
  int rc = CHI_OK, growths = 0;
  for (uint32_t i = 0; i < w->count; i++) {
    if (!w->node[i].seat && i != w->own)
      w->node[i].answer = watch_is_there(&w->node[i]) ? WATCH_LATE : WATCH_NONE;
  }
  while (rc == CHI_OK) {
    while (at < w->count && rc == CHI_OK) {
      struct watch_node *node = &w->node[at];
      if (node->answer == WATCH_LATE && !node->seat)
        rc = watch_ask(w, node);
      at += rc == CHI_OK;
    }
    if (rc != CHI_OK && rc != CHI_EBUSY)
      break;
    rc = watch_wait(w, until, &s);
    if (rc != CHI_OK)
      break;
    struct watch_node *node = s->node;
    if (watch_take(s) && growths++ < WATCH_GROWTHS + (int)w->count)
      rc = watch_ask(w, node);
  }
}

static void watch_tell_time(struct watch *w)
{
  uint64_t now = cli_now();
  for (uint32_t i = 0; i < w->count; i++) {
    struct watch_node *node = &w->node[i];
    uint64_t since = node->heard ? node->heard : w->began;
    node->silent_ns = node->answer == WATCH_FRESH ? 0 : now - since;
  }
}

/* The first round doesn't know yet which node it asks. */
static int watch_begin(struct watch *w, chi_error *err)
{
  if (!w->seats)
    w->seats = calloc(WATCH_SEATS, sizeof(*w->seats));
  if (!w->node)
    w->node = calloc(1, sizeof(*w->node));
  if (!w->seats || !w->node)
    return watch_error(err, CHI_ENOMEM);
  w->count = w->count ? w->count : 1;
  return CHI_OK;
}

int watch_round(struct watch *w, chi_error *err)
{
  int rc = watch_begin(w, err);
  bool first = rc == CHI_OK && !watch_own(w)->now;
  if (rc == CHI_OK)
    rc = watch_round_own(w, err);
  if (rc == CHI_OK && first)
    rc = watch_learn_nodes(w, err);
  if (rc == CHI_OK)
    watch_learn_states(w);
  if (rc == CHI_OK && w->cluster)
    watch_round_others(w);
  watch_tell_time(w);
  return rc;
}

const struct watch_node *watch_own(const struct watch *w)
{
  return &w->node[w->cluster && w->count > 1 ? w->own : 0];
}

/* ---- telling ---------------------------------------------------------------------------- */

const char *watch_answer_name(const struct watch_node *node)
{
  static const char *const names[] = {"none", "fresh", "late", "failed"};
  return names[node->answer];
}

static void watch_print_string(FILE *out, const char *name, const char *text)
{
  fprintf(out, "\"%s\":\"", name);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\')
      fputc('\\', out);
    fputc(*text, out);
  }
  fputs("\",", out);
}

void watch_print_json(const struct watch *w, FILE *out)
{
  fprintf(out, "{\"asked\":%u,\"nodes\":[", w->own);
  for (uint32_t i = 0; i < w->count; i++) {
    const struct watch_node *node = &w->node[i];
    fprintf(out, "%s{\"node\":%u,", i ? "," : "", node->node);
    watch_print_string(out, "host", node->host);
    watch_print_string(out, "state", node->state);
    watch_print_string(out, "answer", watch_answer_name(node));
    fprintf(out, "\"boot\":%llu,\"code\":%d,\"silent_ns\":%llu,\"figures\":%s}",
            (unsigned long long)node->boot, node->code, (unsigned long long)node->silent_ns,
            node->text ? node->text : "null");
  }
  fputs("]}\n", out);
}
