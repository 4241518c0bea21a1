/* cmd_sim_replay.c - runs as files: written when they fail, read again, replayed and compared.
 *
 * A file is text: "chi-replay VERSION"; lines NAME VALUE; "scenario BYTES" and the YAML of a
 * scenario that draws nothing more; "digests COUNT" and 16 bits of each event, hexadecimal; and
 * "end CHECKSUM" over all before it. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "hash.h"

#define REPLAY_VERSION 1u
#define REPLAY_DIFFERS 3 /* exit status */
#define REPLAY_LINE 32u  /* digests */

/* ---- writing -------------------------------------------------------------------------------- */

static void replay_print(FILE *out, const struct scenario *s, const struct trial *t)
{
  char *text = NULL, plain[sizeof(t->failure.text)];
  size_t size = 0;
  FILE *yaml = open_memstream(&text, &size);
  if (yaml) {
    scenario_print(s, cli_put, yaml);
    fclose(yaml);
  }
  fprintf(out, "chi-replay %u\nseed %llu\nevents %llu\ntime %llu\nhash %016llx\n", REPLAY_VERSION,
          (unsigned long long)t->seed, (unsigned long long)t->events, (unsigned long long)t->time,
          (unsigned long long)t->hash);
  fprintf(out, "check %s\nat %llu\ntext %s\nscenario %zu\n", t->failure.check,
          (unsigned long long)t->failure.event,
          cli_plain(t->failure.text, plain, sizeof(plain)), size);
  fwrite(text ? text : "", 1, size, out);
  fprintf(out, "digests %llu\n", (unsigned long long)t->digests);
  for (uint64_t i = 0; i < t->digests; i++)
    fprintf(out, "%04x%s", t->digest[i], (i + 1) % REPLAY_LINE && i + 1 < t->digests ? "" : "\n");
  free(text);
}

bool replay_write(const struct cli *cli, const char *path, const struct scenario *s,
                  const struct trial *t)
{
  char *text = NULL;
  size_t size = 0;
  FILE *all = open_memstream(&text, &size), *out = fopen(path, "w");
  bool written = all && out;
  if (all) {
    replay_print(all, s, t);
    fclose(all);
  }
  if (out) {
    fwrite(text ? text : "", 1, size, out);
    fprintf(out, "end %08x\n", hash_crc32c(0, text, size));
    written = !ferror(out) && written;
    written = fclose(out) == 0 && written;
  }
  free(text);
  if (!written)
    cli_fail(cli, "%s: %s", path, strerror(errno));
  return written;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Where reading is; what is taken from the front must be there. */
struct replay_text {
  const char *at, *end;
  bool wrong;
};

/* The rest of a line that begins with the name. */
static const char *replay_line(struct replay_text *t, const char *name, char *value, size_t room)
{
  size_t n = strlen(name), size;
  const char *newline;
  value[0] = '\0';
  newline = memchr(t->at, '\n', (size_t)(t->end - t->at));
  if (t->wrong || !newline || strncmp(t->at, name, n) != 0 || t->at[n] != ' ') {
    t->wrong = true;
    return value;
  }
  size = (size_t)(newline - t->at) - n - 1;
  snprintf(value, room, "%.*s", size < room ? (int)size : (int)room - 1, t->at + n + 1);
  t->at = newline + 1;
  return value;
}

static uint64_t replay_number(struct replay_text *t, const char *name, int base)
{
  char text[32], *end;
  uint64_t value;
  replay_line(t, name, text, sizeof(text));
  value = strtoull(text, &end, base);
  t->wrong = t->wrong || end == text || *end;
  return value;
}

static void replay_digests(struct replay_text *t, struct trial *out)
{
  uint64_t count = replay_number(t, "digests", 10), n = 0;
  if (t->wrong || count > TRIAL_DIGESTS || count * 4 > (uint64_t)(t->end - t->at)) {
    t->wrong = true;
    return;
  }
  out->digest = calloc(count + 1, sizeof(*out->digest));
  for (; out->digest && n < count; n++) {
    char hex[5] = "", *end;
    for (int i = 0; i < 4 && t->at < t->end; i++)
      hex[i] = *t->at++;
    out->digest[n] = (uint16_t)strtoul(hex, &end, 16);
    if (end != hex + 4)
      break;
    t->at += t->at < t->end && *t->at == '\n';
  }
  out->digests = n;
  t->wrong = t->wrong || n < count;
}

static void replay_complain(void *arg, int level, const char *text)
{
  (void)arg, (void)level;
  fprintf(stderr, "%s\n", text);
}

static void replay_parse(struct replay_text *t, const char *path, struct replay *out)
{
  struct report report = {.file = path, .sink = replay_complain};
  struct trial *trial = &out->trial;
  uint64_t size;
  trial->seed = replay_number(t, "seed", 10);
  trial->events = replay_number(t, "events", 10);
  trial->time = replay_number(t, "time", 10);
  trial->hash = replay_number(t, "hash", 16);
  replay_line(t, "check", trial->failure.check, sizeof(trial->failure.check));
  trial->failure.event = replay_number(t, "at", 10);
  replay_line(t, "text", trial->failure.text, sizeof(trial->failure.text));
  trial->failed = trial->failure.check[0] != '\0';
  size = replay_number(t, "scenario", 10);
  t->wrong = t->wrong || size > (uint64_t)(t->end - t->at);
  if (t->wrong)
    return;
  out->s = scenario_read(t->at, size, &report);
  t->at += size;
  replay_digests(t, trial);
  t->wrong = t->wrong || !out->s;
}

/* Whether the last line is there and right; moves the end before it. */
static bool replay_whole(struct replay_text *t)
{
  const char *last = t->end;
  char line[16];
  if (last > t->at && last[-1] == '\n')
    last--;
  while (last > t->at && last[-1] != '\n')
    last--;
  snprintf(line, sizeof(line), "end %08x\n", hash_crc32c(0, t->at, (size_t)(last - t->at)));
  if ((size_t)(t->end - last) != strlen(line) || strncmp(last, line, strlen(line)) != 0)
    return false;
  t->end = last;
  return true;
}

bool replay_is_saved(const char *text)
{
  return strncmp(text, "chi-replay ", 11) == 0;
}

int replay_read(const struct cli *cli, const char *path, struct replay *out)
{
  size_t size = 0;
  char *text = simulate_read_file(cli, path, &size);
  struct replay_text t = {text, text ? text + size : NULL, false};
  uint64_t version;
  int status = CLI_OK;
  memset(out, 0, sizeof(*out));
  if (!text)
    return CLI_USAGE;
  version = replay_number(&t, "chi-replay", 10);
  if (t.wrong) {
    cli_fail(cli, "%s: it is not a saved run", path);
  } else if (version != REPLAY_VERSION) {
    cli_fail(cli, "%s: it is of version %llu, this program reads %u", path,
             (unsigned long long)version, REPLAY_VERSION);
  } else {
    t.at = text;
    if (!replay_whole(&t)) {
      cli_fail(cli, "%s: it is truncated or was changed", path);
    } else {
      replay_number(&t, "chi-replay", 10);
      replay_parse(&t, path, out);
      if (t.wrong)
        cli_fail(cli, "%s: it is malformed", path);
    }
  }
  if (!out->s || t.wrong)
    status = CLI_USAGE;
  if (status != CLI_OK)
    replay_free(out);
  free(text);
  return status;
}

void replay_free(struct replay *r)
{
  scenario_free(r->s);
  free(r->trial.digest);
  memset(r, 0, sizeof(*r));
}

/* ---- replaying ------------------------------------------------------------------------------ */

/* Catches the event of a number. */
struct replay_catch {
  uint64_t number, seen;
  char text[400];
};

static void replay_on_event(void *arg, const struct sim_trace_event *e)
{
  struct replay_catch *c = arg;
  char says[300];
  if (c->seen++ != c->number)
    return;
  if (!sim_trace_say(e, says, sizeof(says)))
    snprintf(says, sizeof(says), "kind %d, %llu %llu %llu", e->kind, (unsigned long long)e->a,
             (unsigned long long)e->b, (unsigned long long)e->c);
  snprintf(c->text, sizeof(c->text), "%.9f s, node %d: %s", (double)e->time / 1e9, (int)e->node,
           says);
}

/* Prints the first event that isn't the saved one. */
static void replay_parts(const struct replay *r, const struct trial *now)
{
  struct replay_catch c = {.number = 0, .text = "there is none any more"};
  const struct trial_watch watch = {NULL, replay_on_event, &c};
  struct trial again;
  while (c.number < r->trial.digests && c.number < now->digests &&
         r->trial.digest[c.number] == now->digest[c.number])
    c.number++;
  if (!r->trial.digests || !now->digests) {
    printf("which event was the first to differ is not known\n");
    return;
  }
  if (now->failed && strcmp(now->failure.check, "crash") == 0 && c.number >= now->digests)
    return;
  guard_begin(STDERR_FILENO, UINT64_C(5000000000));
  trial_run(r->s, &watch, &again);
  guard_end();
  free(again.digest);
  printf("event %llu is the first that differs; now it is: %s\n", (unsigned long long)c.number + 1,
         c.text);
}

static int replay_compare(const struct replay *r, const struct trial *now)
{
  const struct trial *was = &r->trial;
  bool same = now->events == was->events && now->hash == was->hash;
  if (was->hash == 0) /* it had crashed: all that is known is when */
    same = now->events == was->events && strcmp(now->failure.check, was->failure.check) == 0;
  if (same)
    printf("replayed event for event: %llu events, hash %016llx\n", (unsigned long long)now->events,
           (unsigned long long)now->hash);
  else
    printf("it goes another way: %llu events and hash %016llx, saved were %llu and %016llx\n",
           (unsigned long long)now->events, (unsigned long long)now->hash,
           (unsigned long long)was->events, (unsigned long long)was->hash);
  if (!same)
    replay_parts(r, now);
  if (now->failed)
    simulate_say_failure(stdout, now);
  if (now->failed && strcmp(now->failure.check, was->failure.check) != 0)
    printf("saved was a failure of the check \"%s\"\n", was->failure.check);
  if (!now->failed)
    printf("no check fails%s%s%s\n", was->failed ? "; saved was a failure of \"" : "",
           was->failed ? was->failure.check : "", was->failed ? "\"" : "");
  if (now->failed)
    return CLI_FAILED;
  return same ? CLI_OK : REPLAY_DIFFERS;
}

int replay_run(const struct simulate_ask *ask, const char *path)
{
  struct replay r;
  struct trial now;
  struct job job = {.to = -1, .from = -1};
  int status = replay_read(ask->cli, path, &r);
  if (status != CLI_OK)
    return status;
  status = CLI_FAILED;
  if (job_run(ask->cli, &job, r.s, &now)) {
    if (now.broken)
      trial_say_broken(ask->cli, &now);
    status = now.broken ? CLI_USAGE : replay_compare(&r, &now);
    free(now.digest);
  }
  job_close(&job);
  replay_free(&r);
  return status;
}

#undef REPLAY_VERSION
#undef REPLAY_DIFFERS
#undef REPLAY_LINE

#endif
