/* cmd_sim_shrink.c - looks for the smallest run that fails as a saved one does.
 *
 * Takes away pieces as long as the same check fails: large ones first, then smaller. What is drawn
 * for an operation doesn't depend on the others, so that what stays is what it was. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SHRINK_EVENTS 3u /* times as many as before are enough for any try, */
#define SHRINK_MORE 100000u
#define SHRINK_ROUNDS 8
#define SHRINK_SEEDS 12
#define SHRINK_MS UINT64_C(1000000)

struct shrink {
  const struct cli *cli;
  struct scenario *s; /* the smallest so far */
  struct job job;
  chi_failure failure; /* of it */
  uint64_t begin, limit_ns, events, tries;
  uint32_t seeds; /* that a candidate may have: without a piece, all comes at other times */
  bool progress, changed;
};

static bool shrink_in_time(const struct shrink *h)
{
  return cli_now() - h->begin < h->limit_ns;
}

static void shrink_show(const struct shrink *h)
{
  if (h->progress)
    fprintf(stderr, "\r\033[K%llu tries: %u nodes, %u faults, %u kills, %u operations",
            (unsigned long long)h->tries, h->s->nodes, h->s->plan.count, h->s->kill_count,
            h->s->works);
}

/* One run of it: whether the same check fails. */
static bool shrink_fails(struct shrink *h, struct scenario *candidate)
{
  uint64_t usual = candidate->limit_events;
  struct trial t;
  bool alike;
  if (h->events)
    candidate->limit_events = h->events * SHRINK_EVENTS + SHRINK_MORE;
  if (!shrink_in_time(h) || !job_run(h->cli, &h->job, candidate, &t))
    return false;
  candidate->limit_events = usual;
  h->tries++;
  alike = t.failed && strcmp(t.failure.check, h->failure.check) == 0;
  if (alike) {
    h->failure = t.failure;
    h->events = h->events && h->events < t.events ? h->events : t.events;
  }
  free(t.digest);
  return alike;
}

/* Whether it fails alike, with its seed or one of the next. Takes the candidate: it becomes the
 * smallest, or is freed. */
static bool shrink_try(struct shrink *h, struct scenario *candidate)
{
  bool alike = shrink_fails(h, candidate);
  for (uint32_t i = 1; i < h->seeds && !alike; i++) {
    candidate->seed++;
    alike = shrink_fails(h, candidate);
  }
  if (!alike) {
    scenario_free(candidate);
    return false;
  }
  scenario_free(h->s);
  h->s = candidate;
  h->changed = true;
  shrink_show(h);
  return true;
}

/* ---- lists of things ------------------------------------------------------------------------ */

/* Something that there are several of, and how to take some of them away. */
struct shrink_list {
  uint32_t (*count)(const struct scenario *s);
  void (*remove)(struct scenario *s, uint32_t from, uint32_t count);
};

static uint32_t shrink_work_count(const struct scenario *s)
{
  return s->works;
}

static void shrink_work_remove(struct scenario *s, uint32_t from, uint32_t count)
{
  memmove(&s->work[from], &s->work[from + count], (s->works - from - count) * sizeof(*s->work));
  s->works -= count;
}

static uint32_t shrink_plan_count(const struct scenario *s)
{
  return s->plan.count;
}

static void shrink_plan_remove(struct scenario *s, uint32_t from, uint32_t count)
{
  while (count-- > 0)
    sim_plan_remove(&s->plan, from);
}

static uint32_t shrink_kill_count(const struct scenario *s)
{
  return s->kill_count;
}

static void shrink_kill_remove(struct scenario *s, uint32_t from, uint32_t count)
{
  memmove(&s->kill[from], &s->kill[from + count],
          (s->kill_count - from - count) * sizeof(s->kill[0]));
  s->kill_count -= count;
}

static uint32_t shrink_config_count(const struct scenario *s)
{
  return s->config.count;
}

static void shrink_config_remove(struct scenario *s, uint32_t from, uint32_t count)
{
  struct scenario_setting *item = s->config.item;
  memmove(&item[from], &item[from + count], (s->config.count - from - count) * sizeof(*item));
  s->config.count -= count;
}

/* Halves, quarters ... single ones, from the end: what comes late is the least likely to matter. */
static void shrink_list(struct shrink *h, const struct shrink_list *list)
{
  for (uint32_t size = list->count(h->s); size > 0 && shrink_in_time(h); size /= 2) {
    uint32_t end = list->count(h->s);
    while (end > 0 && shrink_in_time(h)) {
      uint32_t from = end > size ? end - size : 0;
      struct scenario *candidate = scenario_copy(h->s);
      list->remove(candidate, from, end - from);
      shrink_try(h, candidate);
      end = from;
    }
  }
}

/* The first operation of the i-th client, and the end of it; false: there are not so many. */
static bool shrink_client(const struct scenario *s, uint32_t i, uint32_t *from, uint32_t *to)
{
  *from = 0;
  for (*to = 0; *to < s->works;) {
    *from = *to;
    while (*to < s->works && s->work[*to].client == s->work[*from].client)
      (*to)++;
    if (i-- == 0)
      return true;
  }
  return false;
}

static void shrink_clients(struct shrink *h)
{
  uint32_t i = 0, from, to;
  while (shrink_client(h->s, i, &from, &to) && shrink_in_time(h)) {
    struct scenario *candidate = scenario_copy(h->s);
    shrink_work_remove(candidate, from, to - from);
    if (!shrink_try(h, candidate))
      i++;
  }
}

/* ---- nodes ---------------------------------------------------------------------------------- */

/* The last node takes the victim's number. */
static uint32_t shrink_renamed(uint32_t node, uint32_t victim, uint32_t last)
{
  return node == last ? victim : node;
}

static bool shrink_rename_fault(struct sim_plan_entry *e, uint32_t victim, uint32_t last)
{
  bool way = e->kind != SIM_PLAN_DISK && e->kind != SIM_PLAN_DELAY;
  if (e->a == victim || (way && e->b == victim))
    e->kind = SIM_PLAN_CALM;
  e->a = shrink_renamed(e->a, victim, last);
  if (way)
    e->b = shrink_renamed(e->b, victim, last);
  return e->kind != SIM_PLAN_CALM && e->kind != SIM_PLAN_SPLIT && sim_plan_valid(e);
}

static struct scenario *shrink_without_node(const struct scenario *from, uint32_t victim)
{
  struct scenario *s = scenario_copy(from);
  uint32_t last = s->nodes - 1;
  for (uint32_t i = s->plan.count; i-- > 0;)
    if (!shrink_rename_fault(&s->plan.entry[i], victim, last))
      sim_plan_remove(&s->plan, i);
  for (uint32_t i = s->works; i-- > 0;) {
    if (s->work[i].node == victim)
      shrink_work_remove(s, i, 1);
    else
      s->work[i].node = shrink_renamed(s->work[i].node, victim, last);
  }
  s->nodes--;
  s->up = s->up > s->nodes ? s->nodes : s->up;
  return s;
}

static void shrink_nodes(struct shrink *h)
{
  uint32_t victim = h->s->nodes;
  while (victim-- > 0 && h->s->nodes > 1 && shrink_in_time(h))
    if (shrink_try(h, shrink_without_node(h->s, victim)))
      victim = victim < h->s->nodes ? victim + 1 : h->s->nodes;
}

/* ---- values --------------------------------------------------------------------------------- */

/* Tries a change of one member. */
#define SHRINK_SET(h, member, value)                                                               \
  do {                                                                                             \
    if ((h)->s->member != (value)) {                                                               \
      struct scenario *candidate = scenario_copy((h)->s);                                          \
      candidate->member = (value);                                                                 \
      shrink_try(h, candidate);                                                                    \
    }                                                                                              \
  } while (0)

/* Times of faults and kills without digits that don't matter. */
static void shrink_times(struct shrink *h)
{
  static const uint64_t units[] = {1000 * SHRINK_MS, 100 * SHRINK_MS, 10 * SHRINK_MS, SHRINK_MS};
  for (size_t i = 0; i < CHI_COUNT(units); i++) {
    struct scenario *candidate = scenario_copy(h->s);
    bool differs = false;
    for (uint32_t n = 0; n < candidate->plan.count; n++) {
      uint64_t *time = &candidate->plan.entry[n].time;
      differs = differs || *time % units[i] != 0;
      *time -= *time % units[i];
    }
    for (uint32_t n = 0; n < candidate->kill_count; n++) {
      uint64_t *time = &candidate->kill[n].time;
      differs = differs || *time % units[i] != 0;
      *time -= *time % units[i];
    }
    if (!differs)
      scenario_free(candidate);
    else if (shrink_try(h, candidate))
      return;
  }
}

/* How late, slow or askew something is. */
static void shrink_delays(struct shrink *h)
{
  for (uint32_t i = 0; i < h->s->plan.count; i++)
    while (shrink_in_time(h) && (h->s->plan.entry[i].kind == SIM_PLAN_CLOG ||
                                 h->s->plan.entry[i].kind == SIM_PLAN_DELAY ||
                                 h->s->plan.entry[i].kind == SIM_PLAN_JUMP) &&
           h->s->plan.entry[i].value / 2 > (int64_t)SHRINK_MS) {
      struct scenario *candidate = scenario_copy(h->s);
      candidate->plan.entry[i].value /= 2;
      if (!shrink_try(h, candidate))
        break;
    }
}

static void shrink_sizes(struct shrink *h)
{
  for (uint32_t i = 0; i < h->s->mixes; i++) {
    struct scenario *candidate;
    if (h->s->mix[i].size.high == h->s->mix[i].size.low)
      continue;
    candidate = scenario_copy(h->s);
    candidate->mix[i].size.high = candidate->mix[i].size.low;
    shrink_try(h, candidate);
  }
}

static void shrink_values(struct shrink *h)
{
  SHRINK_SET(h, think.high, h->s->think.low);
  SHRINK_SET(h, window, 1);
  SHRINK_SET(h, abandon, 0);
  SHRINK_SET(h, cancel, 0);
  SHRINK_SET(h, deadline, 0);
  shrink_sizes(h);
  shrink_times(h);
  shrink_delays(h);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static const struct shrink_list shrink_work = {shrink_work_count, shrink_work_remove},
                                shrink_plan = {shrink_plan_count, shrink_plan_remove},
                                shrink_kills = {shrink_kill_count, shrink_kill_remove},
                                shrink_config = {shrink_config_count, shrink_config_remove};

static void shrink_faults(struct shrink *h)
{
  shrink_list(h, &shrink_plan);
  shrink_list(h, &shrink_kills);
}

/* Until nothing more can go. */
static void shrink_rounds(struct shrink *h)
{
  for (int round = 0; round < SHRINK_ROUNDS && shrink_in_time(h); round++) {
    h->changed = false;
    shrink_faults(h);
    shrink_nodes(h);
    shrink_clients(h);
    if (h->s->work)
      shrink_list(h, &shrink_work);
    shrink_list(h, &shrink_config);
    shrink_values(h);
    if (!h->changed)
      return;
  }
}

/* Faults first, while much work is left that they may hit. With the run's own seed it is quick;
 * with others more can go, since without a piece all comes at other times. */
static void shrink_all(struct shrink *h)
{
  h->seeds = 1;
  shrink_faults(h);
  h->seeds = SHRINK_SEEDS;
  shrink_faults(h);
  shrink_nodes(h);
  h->seeds = 1;
  shrink_rounds(h);
  h->seeds = SHRINK_SEEDS;
  shrink_rounds(h);
}

/* "RUN.yaml" beside "RUN.chi-replay". */
static void shrink_path(const char *path, char *out, size_t size)
{
  const char *end = strstr(path, ".chi-replay");
  snprintf(out, size, "%.*s.yaml", end ? (int)(end - path) : (int)strlen(path), path);
}

static int shrink_write(const struct shrink *h, const char *path)
{
  FILE *out = fopen(path, "w");
  char plain[sizeof(h->failure.text)];
  if (!out)
    return cli_fail(h->cli, "%s: %s", path, strerror(errno));
  fprintf(out, "# The check \"%s\" failed here: %s\n", h->failure.check,
          cli_plain(h->failure.text, plain, sizeof(plain)));
  scenario_print(h->s, cli_put, out);
  if (fclose(out) != 0)
    return cli_fail(h->cli, "%s: %s", path, strerror(errno));
  printf("%s: %u nodes, %u faults, %u kills, %u operations, %llu events after %llu tries in %.1f "
         "s\ncheck \"%s\": %s\n",
         path, h->s->nodes, h->s->plan.count, h->s->kill_count, h->s->works,
         (unsigned long long)h->events, (unsigned long long)h->tries,
         (double)(cli_now() - h->begin) / 1e9, h->failure.check, h->failure.text);
  return CLI_OK;
}

int shrink_run(const struct simulate_ask *ask, const char *path, const char *out,
               uint64_t limit_ns)
{
  struct shrink h = {.cli = ask->cli, .begin = cli_now(), .limit_ns = limit_ns, .seeds = 1};
  struct replay saved;
  char beside[CHI_PATH_MAX + 8];
  shrink_path(path, beside, sizeof(beside));
  out = out ? out : beside;
  int status = replay_read(ask->cli, path, &saved);
  if (status != CLI_OK)
    return status;
  status = cli_can_write(ask->cli, out);
  if (status != CLI_OK) {
    replay_free(&saved);
    return status;
  }
  h.job.to = h.job.from = -1;
  h.progress = isatty(STDERR_FILENO) != 0;
  h.s = scenario_copy(saved.s);
  h.failure = saved.trial.failure;
  scenario_list_work(h.s);
  if (!shrink_try(&h, scenario_copy(h.s))) {
    status = cli_fail(ask->cli, "%s: check \"%s\" does not fail", path, saved.trial.failure.check);
  } else {
    shrink_all(&h);
    if (h.progress)
      fputs("\r\033[K", stderr);
    status = shrink_write(&h, out);
  }
  job_close(&h.job);
  scenario_free(h.s);
  replay_free(&saved);
  return status;
}

#undef SHRINK_EVENTS
#undef SHRINK_MORE
#undef SHRINK_ROUNDS
#undef SHRINK_SEEDS
#undef SHRINK_MS
#undef SHRINK_SET

#endif
