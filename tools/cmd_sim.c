/* cmd_sim.c - simulated clusters: one run, many, a saved one, the smallest, twice the same. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "profile.h"
#include "trace_chrome.h"
#include "trace_html.h"

#define SIMULATE_STUCK_NS UINT64_C(5000000000)
#define SIMULATE_SHRINK_NS UINT64_C(60000000000)
#define SIMULATE_RECORDS 1000000u
#define SIMULATE_FILE_MAX ((size_t)64 << 20)
#define SIMULATE_SECOND 1000000000.0

/* ---- what happened, for people -------------------------------------------------------------- */

/* "before A 1, B 2\n" of those that are not 0; nothing if all are. */
static void simulate_say_counts(FILE *out, const char *before, const uint64_t *count, int most,
                           const char *(*name)(uint32_t i))
{
  for (int i = 0; i < most; i++) {
    if (!count[i])
      continue;
    fprintf(out, "%s%s %llu", before, name((uint32_t)i), (unsigned long long)count[i]);
    before = ", ";
  }
  if (before[0] == ',')
    fputc('\n', out);
}

static const char *simulate_fault_of(uint32_t kind)
{
  return sim_plan_name((enum sim_plan_kind)kind);
}

static const char *simulate_code_of(uint32_t i)
{
  return i < SIM_CHECK_CODES - 1 ? chi_status_name(-(int)i) : "codes of their own";
}

void simulate_say(FILE *out, const struct trial *t)
{
  fprintf(out, "tasks: %llu submitted, %llu completed\n", (unsigned long long)t->submitted,
          (unsigned long long)t->completed);
  simulate_say_counts(out, "completed with: ", t->code, SIM_CHECK_CODES, simulate_code_of);
  simulate_say_counts(out, "between nodes: ", t->net, SIM_CHECK_NET, trial_net_name);
  simulate_say_counts(out, "faults: ", t->fault, SIM_PLAN_KIND_COUNT, simulate_fault_of);
}

void simulate_say_failure(FILE *out, const struct trial *t)
{
  char plain[sizeof(t->failure.text)];
  fprintf(out, "seed %llu: check \"%s\" failed at %.9f s, event %llu: %s\n",
          (unsigned long long)t->seed, t->failure.check, (double)t->failure.time / SIMULATE_SECOND,
          (unsigned long long)t->failure.event,
          cli_plain(t->failure.text, plain, sizeof(plain)));
}

/* ---- files ---------------------------------------------------------------------------------- */

char *simulate_read_file(const struct cli *cli, const char *path, size_t *size)
{
  FILE *in = fopen(path, "rb");
  char *text = malloc(SIMULATE_FILE_MAX + 2), *fit;
  if (!in || !text) {
    cli_fail(cli, "%s: %s", path, in ? "no memory" : strerror(errno));
  } else {
    *size = fread(text, 1, SIMULATE_FILE_MAX + 1, in);
    text[*size] = '\0';
    if (!ferror(in) && *size <= SIMULATE_FILE_MAX) {
      fclose(in);
      fit = realloc(text, *size + 1);
      return fit ? fit : text;
    }
    cli_fail(cli, "%s: %s", path, ferror(in) ? strerror(errno) : "it is too large");
  }
  if (in)
    fclose(in);
  free(text);
  return NULL;
}

static void simulate_complain(void *arg, int level, const char *text)
{
  (void)arg, (void)level;
  fprintf(stderr, "%s\n", text);
}

/* The scenario of a file, or the default one. NULL: messages were given. */
static struct scenario *simulate_scenario(const struct cli *cli, const char *path)
{
  struct report report = {.file = path, .sink = simulate_complain};
  struct scenario *s;
  size_t size;
  char *text;
  if (!path)
    return scenario_new(true);
  text = simulate_read_file(cli, path, &size);
  if (text && replay_is_saved(text)) {
    cli_fail(cli, "%s: it is a saved run; give it to --replay or --shrink", path);
    free(text);
    return NULL;
  }
  s = text ? scenario_read(text, size, &report) : NULL;
  free(text);
  return s;
}

/* ---- one run that is looked at -------------------------------------------------------------- */

/* What --story, --trace and --html have in common. */
struct simulate_show {
  const struct cli *cli;
  struct trace_log log;
  bool keeps;
  const struct scenario *s;
  struct trial crashes; /* how it ended in another process, if it did not come to its end */
};

static void simulate_story(void *arg, const char *text)
{
  (void)arg;
  fputs(text, stdout);
  fflush(stdout); /* a method may end the process */
}

static int simulate_write(const struct cli *cli, const char *path, const struct trace_page *page,
                     int (*write)(FILE *out, const struct trace_page *page))
{
  FILE *out = fopen(path, "w");
  int rc = out ? write(out, page) : CHI_OK;
  if (!out || fclose(out) != 0)
    return cli_fail(cli, "%s: %s", path, strerror(errno));
  return rc ? cli_fail(cli, "%s: %s", path, chi_status_text(rc)) : CLI_OK;
}

static int simulate_write_pages(const struct simulate_show *show, const struct scenario *s,
                           const struct trial *t)
{
  const char *trace = cli_value(show->cli, "trace"), *html = cli_value(show->cli, "html");
  char title[SCENARIO_NAME + 40], *spec = NULL;
  size_t size;
  FILE *text = open_memstream(&spec, &size);
  int status = CLI_OK;
  struct trace_page page = {.title = title,
                            .seed = s->seed,
                            .hash = t->hash,
                            .events = t->events,
                            .nodes = s->nodes,
                            .record = show->log.record,
                            .count = show->log.count,
                            .dropped = show->log.dropped,
                            .check = t->failed ? t->failure.check : NULL,
                            .why = t->failure.text,
                            .failed_event = t->failure.event,
                            .failed_time = t->failure.time};
  snprintf(title, sizeof(title), "%s, seed %llu", s->name, (unsigned long long)s->seed);
  if (!text)
    return cli_fail(show->cli, "no memory");
  scenario_print(s, cli_put, text);
  fclose(text);
  page.spec = spec;
  if (trace)
    status = simulate_write(show->cli, trace, &page, trace_chrome_write);
  if (html && status == CLI_OK)
    status = simulate_write(show->cli, html, &page, trace_html_write);
  free(spec);
  return status;
}

/* All that there is to show before the process would be lost. */
static void simulate_keep(void *arg, const struct sim_trace_event *e)
{
  struct simulate_show *show = arg;
  if (!show->keeps)
    return;
  trace_log_sink(&show->log, e);
  if (!show->crashes.failed || show->log.seen < show->crashes.events)
    return;
  guard_end();
  simulate_write_pages(show, show->s, &show->crashes);
  simulate_say_failure(stderr, &show->crashes);
  exit(CLI_FAILED);
}

/* A method that takes its process along leaves nobody to write pages: whether there is one is tried
 * in another process. False: a message was given. */
static bool simulate_foresee(struct simulate_show *show)
{
  struct job job = {.to = -1, .from = -1};
  bool ran = job_run(show->cli, &job, show->s, &show->crashes);
  const char *check = show->crashes.failure.check;
  job_close(&job);
  free(job.text);
  free(show->crashes.digest);
  show->crashes.digest = NULL;
  if (strcmp(check, "crash") != 0 && strcmp(check, "loop") != 0)
    show->crashes.failed = false;
  return ran;
}

/* Runs it in this process. */
static int simulate_show_run(const struct cli *cli, const struct scenario *s)
{
  bool keeps = cli_value(cli, "trace") || cli_value(cli, "html");
  struct simulate_show show = {.cli = cli, .keeps = keeps, .s = s};
  chi_put_fn *story = cli_value(cli, "story") ? simulate_story : NULL;
  const struct trial_watch watch = {story, simulate_keep, &show};
  struct trial t;
  int status = CLI_OK;
  if (keeps && !simulate_foresee(&show))
    return CLI_FAILED;
  trace_log_open(&show.log, SIMULATE_RECORDS);
  guard_begin(STDERR_FILENO, SIMULATE_STUCK_NS);
  trial_run(s, &watch, &t);
  guard_end();
  if (t.broken) {
    trial_say_broken(cli, &t);
    status = CLI_USAGE;
  }
  if (show.keeps && status == CLI_OK)
    status = simulate_write_pages(&show, s, &t);
  if (t.warning[0])
    cli_warn(cli, "%s", t.warning);
  if (t.failed) {
    simulate_say_failure(stderr, &t);
    status = CLI_FAILED;
  } else if (status == CLI_OK) {
    fprintf(stderr, "seed %llu: all is well after %llu events, hash %016llx\n",
            (unsigned long long)t.seed, (unsigned long long)t.events, (unsigned long long)t.hash);
  }
  trace_log_close(&show.log);
  free(t.digest);
  return status;
}

/* ---- the command line ----------------------------------------------------------------------- */

static bool simulate_is_shown(const struct cli *cli)
{
  return cli_value(cli, "story") || cli_value(cli, "trace") || cli_value(cli, "html");
}

/* Modes exclude each other. NULL: a message was given; "": none of them. */
static const char *simulate_mode(const struct cli *cli)
{
  static const char *const modes[] = {"replay", "replay-node", "shrink", "verify", "print"};
  const char *mode = "";
  for (size_t i = 0; i < CHI_COUNT(modes); i++) {
    if (!cli_value(cli, modes[i]))
      continue;
    if (*mode) {
      cli_usage(cli, "--%s and --%s do not go together", mode, modes[i]);
      return NULL;
    }
    mode = modes[i];
  }
  if (cli->argument_count > 1 || (cli->argument_count && (mode[0] == 'r' || mode[0] == 's'))) {
    cli_usage(cli, "there is more than one scenario");
    return NULL;
  }
  return mode;
}

static bool simulate_options(struct simulate_ask *ask)
{
  const struct cli *cli = ask->cli;
  uint64_t minute_ns = UINT64_C(60000000000);
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  ask->runs = cli_value(cli, "until-failure") || cli_value(cli, "minutes") ? UINT64_MAX : 1;
  ask->jobs = cpus > 0 ? (uint64_t)cpus : 1;
  ask->until_failure = cli_value(cli, "until-failure") != NULL;
  ask->swarm = cli_value(cli, "swarm") != NULL;
  ask->json = cli_value(cli, "json") != NULL;
  ask->allow_zero = cli_value(cli, "allow-zero") != NULL;
  ask->output = cli_value(cli, "output") ? cli_value(cli, "output") : ".";
  if (!cli_number(cli, "runs", 1, UINT64_MAX, &ask->runs) ||
      !cli_number(cli, "jobs", 1, 256, &ask->jobs) ||
      !cli_duration(cli, "minutes", minute_ns, &ask->minutes_ns))
    return false;
  ask->jobs = ask->jobs < ask->runs ? ask->jobs : ask->runs;
  return true;
}

static int simulate_do(struct simulate_ask *ask, const char *mode)
{
  const struct cli *cli = ask->cli;
  struct scenario *drawn;
  int status;
  if (strcmp(mode, "verify") == 0)
    return verify_run(ask);
  if (strcmp(mode, "print") == 0) {
    scenario_print(ask->s, cli_put, stdout);
    return CLI_OK;
  }
  if (!simulate_is_shown(cli))
    return sweep_run(ask);
  if (ask->runs > 1)
    return cli_usage(cli, "--story, --trace and --html are of one run");
  drawn = scenario_draw(ask->s, ask->s->seed, ask->swarm);
  status = simulate_show_run(cli, drawn);
  scenario_free(drawn);
  return status;
}

/* A saved run: replayed, shown or shrunk. */
static int simulate_saved(struct simulate_ask *ask, const char *mode)
{
  const struct cli *cli = ask->cli;
  const char *path = cli_value(cli, mode);
  struct replay replay;
  uint64_t limit = SIMULATE_SHRINK_NS;
  int status;
  if (strcmp(mode, "replay-node") == 0)
    return node_run(cli, path);
  if (strcmp(mode, "shrink") == 0) {
    if (!cli_duration(cli, "seconds", 1000000000, &limit))
      return CLI_USAGE;
    if (limit == 0)
      return cli_usage(cli, "--seconds %s: expected more than 0", cli_value(cli, "seconds"));
    return shrink_run(ask, path, cli_value(cli, "to"), limit);
  }
  if (!simulate_is_shown(cli))
    return replay_run(ask, path);
  status = replay_read(cli, path, &replay);
  if (status != CLI_OK)
    return status;
  status = simulate_show_run(cli, replay.s);
  replay_free(&replay);
  return status;
}

/* The costs of --profile instead of the scenario's. */
static bool simulate_profile(const struct cli *cli, struct scenario *s)
{
  const char *path = cli_value(cli, "profile");
  struct profile p;
  if (!path)
    return true;
  if (!profile_load(cli, path, &p))
    return false;
  s->costs.count = p.count;
  for (uint32_t i = 0; i < p.count; i++) {
    snprintf(s->costs.item[i].name, SCENARIO_NAME, "%s", p.cost[i].name);
    snprintf(s->costs.item[i].value, SCENARIO_VALUE, "%s", p.cost[i].value);
  }
  return true;
}

static int simulate_run_command(struct cli *cli)
{
  struct simulate_ask ask = {.cli = cli};
  const char *mode;
  int status;
  if (getenv("CHI_SIM_JOB"))
    return job_serve(cli);
  mode = simulate_mode(cli);
  if (!mode || !simulate_options(&ask))
    return CLI_USAGE;
  if (mode[0] == 'r' || mode[0] == 's')
    return simulate_saved(&ask, mode);
  ask.s = simulate_scenario(cli, cli->argument_count ? cli->arguments[0] : NULL);
  if (!ask.s)
    return CLI_USAGE;
  status = CLI_USAGE;
  if (simulate_profile(cli, ask.s) && cli_number(cli, "seed", 0, UINT64_MAX, &ask.s->seed))
    status = simulate_do(&ask, mode);
  scenario_free(ask.s);
  return status;
}

#undef SIMULATE_STUCK_NS
#undef SIMULATE_SHRINK_NS
#undef SIMULATE_RECORDS
#undef SIMULATE_FILE_MAX
#undef SIMULATE_SECOND

#else

static int simulate_run_command(struct cli *cli)
{
  return cli_fail(cli, "this program was built without the simulation");
}

#endif

const struct cli_command cmd_sim = {
    .name = "sim",
    .arguments = "[SCENARIO.yaml]",
    .about = "run simulated clusters with faults, from seeds",
    .more = "Without a scenario it is the default one, which --print shows. One run, or many with\n"
            "seeds that follow each other. A run that fails is saved as NAME-SEED.chi-replay.\n"
            "docs/simulation.md tells what a scenario may have.\n\n"
            "Exit status 3: a replayed run went otherwise than the saved one, or a verified one\n"
            "differs, though no check failed.\n",
    .run = simulate_run_command,
    .options = {{"seed", "N", "of the first run; default: the scenario's"},
                {"runs", "N", "so many, which fail if a fault that was asked for never happens"},
                {"jobs", "N", "runs at a time; default: one for each processor"},
                {"until-failure", NULL, "end with the first failure; no end without --runs"},
                {"minutes", "M", "begin no run after that time"},
                {"swarm", NULL, "only some kinds of faults and other limits in each run"},
                {"allow-zero", NULL, "what never happened is no failure"},
                {"profile", "FILE", "costs, as chimaera calibrate writes them"},
                {"output", "DIR", "where failing runs are saved; default: here"},
                {"replay", "FILE", "run a saved run again, and compare"},
                {"replay-node", "FILE", "let a node live again that start --record wrote down"},
                {"shrink", "FILE", "look for the smallest run that fails as this one does"},
                {"seconds", "N", "for that; default 60"},
                {"to", "FILE", "where it goes; default: beside, .yaml"},
                {"verify", NULL, "run twice in different processes, and compare every event"},
                {"story", NULL, "print what happens, as lines"},
                {"trace", "FILE", "write what happens as Chrome trace events"},
                {"html", "FILE", "write what happens as a page"},
                {"print", NULL, "print the scenario as YAML"},
                {CLI_JSON}}};
