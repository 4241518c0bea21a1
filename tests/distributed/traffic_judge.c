/* traffic_judge.c - what clients were told beside what bodies did.
 *
 * A journal says of each task for which containers it was and with which code it completed; the
 * ledgers, which bodies began. What must hold:
 *   every task of a client that was not killed has completed, with a code that may come here;
 *   no body ran twice, and none that nobody asked for;
 *   CHI_OK: each of its bodies ran; CHI_EUNREACHABLE of one container: none did. */
#include "traffic.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define JUDGE_CODES 64
#define JUDGE_COMPLAINTS 10u

struct judge_file {
  struct traffic_entry *entry;
  uint64_t *ran, *twice; /* of each entry: in which containers, and where more than once */
  uint64_t count, client;
  bool killed; /* its name ends in .killed */
};

struct judge {
  const struct traffic_options *o;
  struct judge_file *file;
  uint32_t files;
  uint64_t tasks, bodies, holes, longest_ns;
  uint64_t codes[JUDGE_CODES], ran[JUDGE_CODES]; /* by -rc; those for one container, and it ran */
  uint64_t other;
  uint64_t open;                      /* of clients that were killed */
  uint32_t complaints;
};

static void judge_wrong(struct judge *j, const struct traffic_entry *e, const char *what)
{
  if (j->complaints++ < JUDGE_COMPLAINTS)
    traffic_fail("task %llu of client %llu, for containers %#llx, %s: %s",
                 (unsigned long long)e->seq, (unsigned long long)e->client,
                 (unsigned long long)e->containers,
                 e->state == TRAFFIC_COMPLETED ? chi_status_name(e->rc) : "open", what);
}

/* The whole file; NULL: it can't be read. */
static void *judge_read(const char *path, size_t *size)
{
  FILE *f = fopen(path, "rb");
  struct stat st;
  char *bytes = NULL;
  if (f && fstat(fileno(f), &st) == 0 && (bytes = calloc(1, (size_t)st.st_size + 1)) != NULL)
    *size = fread(bytes, 1, (size_t)st.st_size, f);
  if (!bytes)
    traffic_fail("%s: %s", path, strerror(errno));
  if (f)
    fclose(f);
  return bytes;
}

/* Calls fn with each file of a directory; the number of those, -1: it can't be read. */
static int judge_each(struct judge *j, const char *directory, int (*fn)(struct judge *, char *))
{
  struct dirent *entry;
  char path[2048];
  int count = 0, rc = 0;
  DIR *dir = directory ? opendir(directory) : NULL;
  if (!dir) {
    traffic_fail("%s: %s", directory ? directory : "journal=, ledger=", strerror(errno));
    return -1;
  }
  while (rc == 0 && (entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    rc = fn(j, path);
    count++;
  }
  closedir(dir);
  return rc == 0 ? count : -1;
}

static int judge_add_journal(struct judge *j, char *path)
{
  struct judge_file *more = realloc(j->file, (j->files + 1) * sizeof *more), *f;
  size_t size = 0, length = strlen(path);
  if (!more)
    return -1;
  j->file = more;
  f = &j->file[j->files];
  *f = (struct judge_file){.entry = judge_read(path, &size)};
  if (!f->entry)
    return -1;
  j->files++;
  while (f->count < size / sizeof *f->entry && f->entry[f->count].state != TRAFFIC_NONE)
    f->count++;
  f->client = f->entry[0].client;
  f->killed = length > 7 && strcmp(path + length - 7, ".killed") == 0;
  f->ran = calloc(f->count + 1, sizeof *f->ran);
  f->twice = calloc(f->count + 1, sizeof *f->twice);
  return f->ran && f->twice ? 0 : -1;
}

static void judge_body(struct judge *j, const struct courier_entry *e)
{
  struct judge_file *f = j->file;
  while (f < j->file + j->files && (f->client != e->client || f->count == 0))
    f++;
  if (f == j->file + j->files)
    return; /* of another stage */
  j->bodies++;
  uint64_t bit = UINT64_C(1) << e->container;
  if (e->seq >= f->count || !(f->entry[e->seq].containers & bit)) {
    struct traffic_entry none = {.client = e->client, .seq = e->seq};
    judge_wrong(j, e->seq < f->count ? &f->entry[e->seq] : &none, "ran where nobody sent it");
    return;
  }
  f->twice[e->seq] |= f->ran[e->seq] & bit;
  f->ran[e->seq] |= bit;
}

/* An entry that was not written to its end belongs to a body that was killed with its daemon. */
static int judge_add_ledger(struct judge *j, char *path)
{
  size_t size = 0;
  struct courier_entry *e = judge_read(path, &size);
  if (!e)
    return -1;
  for (size_t i = 0; i < size / sizeof *e; i++)
    if (e[i].check == courier_entry_check(&e[i]) && e[i].container < COURIER_NODES)
      judge_body(j, &e[i]);
    else
      j->holes++;
  free(e);
  return 0;
}

/* "OK" in "OK,EUNKNOWN"; of "ESHUTDOWN!" only if it did not run. */
static bool judge_allows(const struct judge *j, int rc, bool ran)
{
  const char *name = chi_status_name(rc) + strlen("CHI_"), *at = j->o->codes;
  size_t size = strlen(name);
  while (at && *at) {
    size_t here = strcspn(at, ",");
    bool strict = here > 0 && at[here - 1] == '!';
    if (here - strict == size && strncmp(at, name, size) == 0)
      return !(strict && ran);
    at += here + (at[here] == ',');
  }
  return !j->o->codes;
}

static void judge_task(struct judge *j, const struct judge_file *f, uint64_t i)
{
  const struct traffic_entry *e = &f->entry[i];
  j->tasks++;
  if (f->twice[i])
    judge_wrong(j, e, "a body ran twice");
  if (e->state != TRAFFIC_COMPLETED) {
    j->open++;
    if (!f->killed)
      judge_wrong(j, e, "has not completed");
    return;
  }
  if (e->rc <= 0 && e->rc > -JUDGE_CODES) {
    j->codes[-e->rc]++;
    j->ran[-e->rc] += f->ran[i] != 0 && f->ran[i] == e->containers;
  } else {
    j->other++;
  }
  j->longest_ns = e->took_ns > j->longest_ns ? e->took_ns : j->longest_ns;
  if (!judge_allows(j, e->rc, f->ran[i] != 0))
    judge_wrong(j, e, "this code may not come here");
  if (e->rc == CHI_OK && f->ran[i] != e->containers)
    judge_wrong(j, e, "a body did not run");
  if (e->rc == CHI_EUNREACHABLE && f->ran[i] == e->containers && e->containers != 0)
    judge_wrong(j, e, "it did run");
}

static void judge_report(const struct judge *j)
{
  printf("%llu tasks: OK %llu", (unsigned long long)j->tasks, (unsigned long long)j->codes[0]);
  for (int i = 1; i < JUDGE_CODES; i++)
    if (j->codes[i])
      printf(", %s %llu (%llu ran)", chi_status_name(-i) + strlen("CHI_"),
             (unsigned long long)j->codes[i], (unsigned long long)j->ran[i]);
  if (j->other)
    printf(", other %llu", (unsigned long long)j->other);
  if (j->open)
    printf(", open %llu", (unsigned long long)j->open);
  if (j->holes)
    printf(", %llu entries cut short", (unsigned long long)j->holes);
  printf("; %llu bodies, longest %.1f s\n", (unsigned long long)j->bodies,
         (double)j->longest_ns / 1e9);
}

int traffic_judge(const struct traffic_options *o)
{
  struct judge j = {.o = o};
  if (judge_each(&j, o->journal, judge_add_journal) < 0 ||
      judge_each(&j, o->ledger, judge_add_ledger) < 0)
    return 1;
  for (uint32_t i = 0; i < j.files; i++)
    for (uint64_t n = 0; n < j.file[i].count; n++)
      judge_task(&j, &j.file[i], n);
  judge_report(&j);
  if (j.tasks == 0)
    return traffic_fail("%s: not a single task", o->journal);
  if (j.complaints > JUDGE_COMPLAINTS)
    traffic_fail("and %u more", j.complaints - JUDGE_COMPLAINTS);
  return j.complaints != 0;
}
