/* cmd_sim_sweep.c - runs of many seeds, in several processes, and what they come to. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <ctype.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "net.h"
#include "text.h"

#define SWEEP_JOBS 256u
#define SWEEP_FAILURES 64u /* that are told, */
#define SWEEP_FILES 8u     /* and saved: one for each check */
#define SWEEP_TICK_MS 250
#define SWEEP_ZEROS 64u
#define SWEEP_SECOND 1e9

struct sweep_failure {
  uint64_t seed;
  chi_failure failure;
  char file[CHI_PATH_MAX + 128];
  bool repeats; /* a second run was the same */
};

struct sweep {
  const struct simulate_ask *ask;
  struct job job[SWEEP_JOBS], again; /* again: failing runs once more */
  struct trial sum;
  struct sweep_failure failure[SWEEP_FAILURES];
  uint32_t failures, files;
  uint64_t begun, ended, failed, begin_ns, shown_ns;
  char zero[SWEEP_ZEROS][48]; /* what should have happened and never did */
  uint32_t zeros;
  bool stop, broken, progress;
};

/* ---- failures ------------------------------------------------------------------------------- */

/* "NAME-SEED.chi-replay" in the directory; of the name only what is fit for a file. */
static void sweep_path(const struct sweep *w, struct sweep_failure *f)
{
  char name[SCENARIO_NAME];
  snprintf(name, sizeof(name), "%s", w->ask->s->name);
  for (char *c = name; *c; c++)
    if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
      *c = '-';
  snprintf(f->file, sizeof(f->file), "%.1023s/%s-%llu.chi-replay", w->ask->output, name,
           (unsigned long long)f->seed);
}

static bool sweep_is_new(const struct sweep *w, const char *check)
{
  for (uint32_t i = 0; i < w->failures; i++)
    if (strcmp(w->failure[i].failure.check, check) == 0)
      return false;
  return w->files < SWEEP_FILES;
}

/* Runs it once more, keeps every event's digest, and saves it. */
static void sweep_save(struct sweep *w, struct sweep_failure *f, const struct trial *t)
{
  struct scenario *s = scenario_draw(w->ask->s, t->seed, w->ask->swarm);
  struct trial second;
  if (job_run(w->ask->cli, &w->again, s, &second)) {
    f->repeats = second.failed && second.hash == t->hash &&
                 strcmp(second.failure.check, t->failure.check) == 0;
    sweep_path(w, f);
    if (replay_write(w->ask->cli, f->file, s, f->repeats ? &second : t))
      w->files++;
    else
      f->file[0] = '\0';
    free(second.digest);
  }
  scenario_free(s);
}

static void sweep_clear_line(const struct sweep *w)
{
  if (w->progress)
    fputs("\r\033[K", stderr);
}

static void sweep_failed(struct sweep *w, const struct trial *t)
{
  struct sweep_failure *f = &w->failure[w->failures];
  w->failed++;
  w->stop = w->stop || w->ask->until_failure;
  if (w->failures == SWEEP_FAILURES)
    return;
  *f = (struct sweep_failure){.seed = t->seed, .failure = t->failure, .repeats = true};
  if (sweep_is_new(w, t->failure.check))
    sweep_save(w, f, t);
  w->failures++;
  sweep_clear_line(w);
  simulate_say_failure(stderr, t);
  if (f->file[0])
    fprintf(stderr, "  saved as %s\n", f->file);
  if (!f->repeats)
    fprintf(stderr, "  a second run of this seed went another way: see --verify\n");
}

static void sweep_ended(struct sweep *w, struct trial *t)
{
  w->ended++;
  if (t->broken && !w->broken)
    trial_say_broken(w->ask->cli, t);
  w->broken = w->broken || t->broken;
  w->stop = w->stop || t->broken;
  if (t->failed)
    sweep_failed(w, t);
  if (w->ended == 1)
    w->sum.hash = t->hash;
  trial_add(&w->sum, t);
  free(t->digest);
}

/* ---- the loop ------------------------------------------------------------------------------- */

static bool sweep_goes_on(const struct sweep *w)
{
  uint64_t minutes = w->ask->minutes_ns;
  return !w->stop && w->begun < w->ask->runs &&
         (minutes == 0 || w->begun == 0 || cli_now() - w->begin_ns < minutes);
}

/* False: a process could not be started. */
static bool sweep_feed(struct sweep *w)
{
  static const struct job_variant plain = {0};
  for (uint32_t i = 0; i < w->ask->jobs && sweep_goes_on(w); i++) {
    struct job *job = &w->job[i];
    if (job->busy)
      continue;
    if (job->pid <= 0 && job_open(w->ask->cli, job, &plain) != CLI_OK)
      return false;
    job_give(job, w->ask->s, w->ask->s->seed + w->begun++, w->ask->swarm, false);
  }
  return true;
}

static void sweep_show(struct sweep *w)
{
  uint64_t now = cli_now();
  double seconds = (double)(now - w->begin_ns) / SWEEP_SECOND;
  char events[32];
  if (!w->progress || now - w->shown_ns < SWEEP_TICK_MS * UINT64_C(1000000))
    return;
  w->shown_ns = now;
  fprintf(stderr, "\r\033[K%llu runs, %llu failed, %.1f seeds/s, %s events/s",
          (unsigned long long)w->ended, (unsigned long long)w->failed, (double)w->ended / seconds,
          cli_count((double)w->sum.events / seconds, events, sizeof(events)));
  fflush(stderr);
}

/* Takes what answers there are; false: nobody is at work any more. */
static bool sweep_gather(struct sweep *w)
{
  struct pollfd fd[SWEEP_JOBS];
  uint32_t which[SWEEP_JOBS];
  nfds_t count = 0;
  struct trial t;
  for (uint32_t i = 0; i < w->ask->jobs; i++)
    if (w->job[i].busy) {
      which[count] = i;
      fd[count++] = (struct pollfd){w->job[i].from, POLLIN, 0};
    }
  if (count == 0)
    return false;
  if (poll(fd, count, SWEEP_TICK_MS) > 0)
    for (nfds_t i = 0; i < count; i++)
      if (fd[i].revents && job_take(&w->job[which[i]], &t))
        sweep_ended(w, &t);
  sweep_show(w);
  return true;
}

/* ---- what never happened -------------------------------------------------------------------- */

static void sweep_expect(struct sweep *w, uint64_t count, const char *what, const char *name)
{
  if (count == 0 && w->zeros < SWEEP_ZEROS)
    snprintf(w->zero[w->zeros++], sizeof(w->zero[0]), "%s %s", what, name);
}

static bool sweep_has_any(uint64_t kinds, const enum sim_plan_kind *of, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (kinds >> of[i] & 1)
      return true;
  return false;
}

/* Looks for zeros among what the scenario turns on. */
static void sweep_look(struct sweep *w)
{
  static const enum sim_plan_kind loss[] = {SIM_PLAN_DROP, SIM_PLAN_HALF, SIM_PLAN_LOSE,
                                            SIM_PLAN_SNAP, SIM_PLAN_CUT};
  static const enum sim_plan_kind death[] = {SIM_PLAN_CRASH, SIM_PLAN_KILL};
  const struct scenario *s = w->ask->s;
  const struct trial *t = &w->sum;
  uint64_t kinds = scenario_kinds(s);
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    if (kinds >> kind & 1)
      sweep_expect(w, t->fault[kind], "fault", sim_plan_name((enum sim_plan_kind)kind));
  if (s->operations == 0 && s->works == 0)
    return;
  sweep_expect(w, t->code[0], "code", "CHI_OK");
  if (s->cancel)
    sweep_expect(w, t->code[-CHI_ECANCELLED], "code", "CHI_ECANCELLED");
  if (s->deadline)
    sweep_expect(w, t->code[-CHI_ETIMEOUT], "code", "CHI_ETIMEOUT");
  if (s->nodes == 1)
    return;
  sweep_expect(w, t->net[NET_TRACE_SENT], "between nodes:", trial_net_name(NET_TRACE_SENT));
  if (sweep_has_any(kinds, loss, CHI_COUNT(loss))) {
    sweep_expect(w, t->net[NET_TRACE_RESENT] + t->net[NET_TRACE_RETRIED], "between nodes:",
                 "retry");
    sweep_expect(w, t->net[NET_TRACE_REPEATED], "between nodes:",
                 trial_net_name(NET_TRACE_REPEATED));
  }
  if (sweep_has_any(kinds, death, CHI_COUNT(death))) {
    sweep_expect(w, t->net[NET_TRACE_UNKNOWN], "between nodes:",
                 trial_net_name(NET_TRACE_UNKNOWN));
    sweep_expect(w, t->net[NET_TRACE_UNREACHABLE], "between nodes:",
                 trial_net_name(NET_TRACE_UNREACHABLE));
  }
}

/* ---- the end -------------------------------------------------------------------------------- */

static void sweep_json_text(const char *before, const char *text)
{
  fputs(before, stdout);
  text_put_string(text, SIZE_MAX, cli_put, stdout);
}

static void sweep_json_failures(const struct sweep *w)
{
  printf(",\"failures\":[");
  for (uint32_t i = 0; i < w->failures; i++) {
    const struct sweep_failure *f = &w->failure[i];
    printf("%s{\"seed\":%llu,\"event\":%llu,\"time_ns\":%llu", i ? "," : "",
           (unsigned long long)f->seed, (unsigned long long)f->failure.event,
           (unsigned long long)f->failure.time);
    sweep_json_text(",\"check\":", f->failure.check);
    sweep_json_text(",\"text\":", f->failure.text);
    sweep_json_text(",\"file\":", f->file);
    printf(",\"repeats\":%s}", f->repeats ? "true" : "false");
  }
  printf("],\"zeros\":[");
  for (uint32_t i = 0; i < w->zeros; i++)
    sweep_json_text(i ? "," : "", w->zero[i]);
  printf("]");
}

static void sweep_json(const struct sweep *w, double seconds)
{
  const struct trial *t = &w->sum;
  const char *before = ",\"faults\":{";
  sweep_json_text("{\"scenario\":", w->ask->s->name);
  printf(",\"runs\":%llu,\"failed\":%llu,\"first_seed\":%llu,\"seconds\":%.3f,\"virtual_ns\":%llu,"
         "\"events\":%llu,\"seeds_per_second\":%.2f,\"events_per_second\":%.0f,"
         "\"submitted\":%llu,\"completed\":%llu,\"hash\":\"%016llx\"",
         (unsigned long long)w->ended, (unsigned long long)w->failed,
         (unsigned long long)w->ask->s->seed, seconds, (unsigned long long)t->time,
         (unsigned long long)t->events, (double)w->ended / seconds, (double)t->events / seconds,
         (unsigned long long)t->submitted, (unsigned long long)t->completed,
         (unsigned long long)t->hash);
  for (int i = 0; i < SIM_PLAN_KIND_COUNT; i++, before = ",")
    printf("%s\"%s\":%llu", before, sim_plan_name((enum sim_plan_kind)i),
           (unsigned long long)t->fault[i]);
  before = "},\"net\":{";
  for (uint32_t i = 0; i <= NET_TRACE_ABORTED; i++, before = ",")
    printf("%s\"%s\":%llu", before, trial_net_name(i), (unsigned long long)t->net[i]);
  printf("},\"retries\":%llu,\"dedupe_hits\":%llu",
         (unsigned long long)(t->net[NET_TRACE_RESENT] + t->net[NET_TRACE_RETRIED]),
         (unsigned long long)t->net[NET_TRACE_REPEATED]);
  before = ",\"codes\":{";
  for (int i = 0; i < SIM_CHECK_CODES - 1; i++)
    if (t->code[i]) {
      printf("%s\"%s\":%llu", before, chi_status_name(-i), (unsigned long long)t->code[i]);
      before = ",";
    }
  printf("%s\"own\":%llu}", before, (unsigned long long)t->code[SIM_CHECK_CODES - 1]);
  sweep_json_failures(w);
  printf("}\n");
}

static void sweep_print(const struct sweep *w, double seconds)
{
  const struct trial *t = &w->sum;
  char events[32];
  printf("%s: %llu run%s from seed %llu, %llu failed; %.3f virtual s, %llu events", w->ask->s->name,
         (unsigned long long)w->ended, w->ended == 1 ? "" : "s",
         (unsigned long long)w->ask->s->seed, (unsigned long long)w->failed,
         (double)t->time / SWEEP_SECOND, (unsigned long long)t->events);
  if (w->ended == 1)
    printf(", hash %016llx\n", (unsigned long long)t->hash);
  else
    printf("; %.1f s, %.1f seeds/s, %s events/s\n", seconds, (double)w->ended / seconds,
           cli_count((double)t->events / seconds, events, sizeof(events)));
  simulate_say(stdout, t);
  for (uint32_t i = 0; i < w->zeros; i++)
    printf("never: %s\n", w->zero[i]);
}

static int sweep_end(struct sweep *w)
{
  double seconds = (double)(cli_now() - w->begin_ns) / SWEEP_SECOND;
  bool many = w->ended > 1;
  seconds = seconds > 0 ? seconds : 1e-9;
  sweep_clear_line(w);
  if (w->broken)
    return CLI_USAGE;
  if (many)
    sweep_look(w);
  if (w->ask->json)
    sweep_json(w, seconds);
  else
    sweep_print(w, seconds);
  if (w->sum.warning[0])
    cli_warn(w->ask->cli, "%s", w->sum.warning);
  if (w->zeros && !w->ask->allow_zero && !w->failed)
    cli_fail(w->ask->cli,
             "something that was asked for never happened: more runs, or --allow-zero");
  return w->failed || (w->zeros && !w->ask->allow_zero) ? CLI_FAILED : CLI_OK;
}

int sweep_run(const struct simulate_ask *ask)
{
  struct sweep *w = calloc(1, sizeof(*w));
  int status;
  if (!w)
    return cli_fail(ask->cli, "no memory");
  w->ask = ask;
  w->begin_ns = cli_now();
  w->progress = isatty(STDERR_FILENO) && ask->runs > 1;
  for (uint32_t i = 0; i < SWEEP_JOBS; i++)
    w->job[i].to = w->job[i].from = -1;
  w->again.to = w->again.from = -1;
  while (sweep_feed(w) && sweep_gather(w)) {
  }
  status = w->ended ? sweep_end(w) : CLI_FAILED;
  for (uint32_t i = 0; i < SWEEP_JOBS; i++)
    job_close(&w->job[i]);
  job_close(&w->again);
  free(w);
  return status;
}

#undef SWEEP_JOBS
#undef SWEEP_FAILURES
#undef SWEEP_FILES
#undef SWEEP_TICK_MS
#undef SWEEP_ZEROS
#undef SWEEP_SECOND

#endif
