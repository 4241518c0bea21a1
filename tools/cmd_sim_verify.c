/* cmd_sim_verify.c - the same run in two processes that differ, compared event for event.
 *
 * Addresses differ by themselves; beside that the second process has its memory filled with other
 * bytes, a larger environment, and its stacks elsewhere. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <stdlib.h>
#include <unistd.h>

#define VERIFY_POISON 165u
#define VERIFY_PADDING 97u /* KiB */
#define VERIFY_BEFORE 3u   /* events told before the one that differs */

/* One of the two: its process, and its line of the moment. */
struct verify_side {
  struct job job;
  FILE *in;
  char *line;
  size_t room;
  uint64_t hash;
  bool event; /* the line is one */
};

struct verify {
  struct verify_side side[2];
  char before[VERIFY_BEFORE][600]; /* the last events that were equal */
  uint64_t events;
};

static bool verify_open(const struct cli *cli, struct verify_side *side, const struct scenario *s,
                        bool other)
{
  const struct job_variant variant = {.poison = other ? VERIFY_POISON : 0,
                                      .padding = other ? VERIFY_PADDING : 0,
                                      .stream = true};
  if (job_open(cli, &side->job, &variant) != CLI_OK)
    return false;
  side->in = fdopen(dup(side->job.from), "r");
  return side->in && job_give(&side->job, s, s->seed, false, false);
}

static void verify_close(struct verify_side *side)
{
  if (side->in)
    fclose(side->in);
  job_close(&side->job);
  free(side->line);
}

/* The next line, without newline; at the end of all lines it is empty. */
static void verify_next(struct verify_side *side)
{
  ssize_t n = getline(&side->line, &side->room, side->in);
  if (n <= 0 && side->line)
    side->line[0] = '\0';
  else if (n > 0 && side->line[n - 1] == '\n')
    side->line[n - 1] = '\0';
  side->event = n > 0 && strncmp(side->line, "e ", 2) == 0;
}

/* An event's line as the transcript has it, or else as it is. */
static const char *verify_say(const char *line, char *buf, size_t size)
{
  unsigned long long time, a, b, c;
  struct sim_trace_event e = {.time = 0};
  char says[400];
  int at = 0;
  if (sscanf(line, "e %llu %u %d %llu %llu %llu%n", &time, &e.node, &e.kind, &a, &b, &c, &at) < 6) {
    snprintf(buf, size, "%s", *line ? line : "nothing more");
    return buf;
  }
  e.a = a;
  e.b = b;
  e.c = c;
  e.text = line[at] == ' ' && line[at + 1] ? line + at + 1 : NULL;
  if (!sim_trace_say(&e, says, sizeof(says)))
    snprintf(says, sizeof(says), "kind %d, %llu %llu %llu", e.kind, a, b, c);
  snprintf(buf, size, "%llu.%09llu node %d: %s", time / 1000000000, time % 1000000000, (int)e.node,
           says);
  return buf;
}

static void verify_differ(const struct verify *v)
{
  char text[600];
  uint64_t first = v->events > VERIFY_BEFORE ? v->events - VERIFY_BEFORE : 0;
  printf("event %llu differs\n", (unsigned long long)v->events + 1);
  for (uint64_t i = first; i < v->events; i++)
    printf("  both    %s\n", verify_say(v->before[i % VERIFY_BEFORE], text, sizeof(text)));
  printf("  first   %s\n", verify_say(v->side[0].line, text, sizeof(text)));
  printf("  second  %s\n", verify_say(v->side[1].line, text, sizeof(text)));
}

/* Both up to where they part, or to their ends: then true. */
static bool verify_compare(struct verify *v)
{
  for (;;) {
    verify_next(&v->side[0]);
    verify_next(&v->side[1]);
    if (!v->side[0].line || !v->side[1].line)
      return false;
    if (strcmp(v->side[0].line, v->side[1].line) != 0)
      return false;
    if (!v->side[0].event)
      return true;
    snprintf(v->before[v->events % VERIFY_BEFORE], sizeof(v->before[0]), "%s", v->side[0].line);
    v->events++;
  }
}

/* Why it could not begin stands in the lines that follow. */
static void verify_broken(const struct cli *cli, struct verify_side *side)
{
  struct trial t = {.broken = true};
  while (side->line[0] && strncmp(side->line, "text ", 5) != 0) {
    verify_next(side);
    job_read_line(side->line, &t);
  }
  trial_say_broken(cli, &t);
}

/* What they came to; a crash is one, too. */
static int verify_result(const struct cli *cli, struct verify *v)
{
  unsigned long long failed = 0, broken = 0, events = 0, time = 0, hash = 0;
  sscanf(v->side[0].line, "result %llu %llu %llu %llu %llu", &failed, &broken, &events, &time,
         &hash);
  if (broken) {
    verify_broken(cli, &v->side[0]);
    return CLI_USAGE;
  }
  if (strncmp(v->side[0].line, "result ", 7) != 0) {
    printf("both end alike after %llu events: %s\n", (unsigned long long)v->events,
           v->side[0].line[0] ? v->side[0].line : "they die");
    return CLI_FAILED;
  }
  printf("both are equal: %llu events, hash %016llx\n", events, hash);
  return failed ? CLI_FAILED : CLI_OK;
}

int verify_run(const struct simulate_ask *ask)
{
  struct verify *v = calloc(1, sizeof(*v));
  struct scenario *s = scenario_draw(ask->s, ask->s->seed, ask->swarm);
  int status = CLI_FAILED;
  if (!v)
    return cli_fail(ask->cli, "no memory");
  for (int i = 0; i < 2; i++)
    v->side[i].job.to = v->side[i].job.from = -1;
  if (verify_open(ask->cli, &v->side[0], s, false) && verify_open(ask->cli, &v->side[1], s, true)) {
    if (verify_compare(v)) {
      status = verify_result(ask->cli, v);
    } else {
      status = 3;
      verify_differ(v);
    }
  }
  verify_close(&v->side[0]);
  verify_close(&v->side[1]);
  scenario_free(s);
  free(v);
  return status;
}

#undef VERIFY_POISON
#undef VERIFY_PADDING
#undef VERIFY_BEFORE

#endif
