/* fleet.c - for tests of several daemons that are one cluster, at loopback addresses. */
#include "fleet.h"
#include "modules/calc.h"
#include "station.h"

#include <limits.h>

bool town_plan(struct town *t, uint32_t count)
{
  char hosts[256] = "";
  *t = (struct town){.count = count, .port = station_port()};
  for (uint32_t i = 0; i < count; i++)
    snprintf(hosts + strlen(hosts), sizeof(hosts) - strlen(hosts), "127.0.0.%u\n", i + 1);
  if (!scratch_make(t->dir) || !scratch_write(t->dir, "hosts", hosts))
    return false;
  for (uint32_t i = 0; i < count; i++)
    snprintf(t->hostfile[i], sizeof(t->hostfile[i]), "%s/hosts", t->dir);
  return true;
}

bool town_make(struct town *t)
{
  static uint32_t number;
  char yaml[2048];
  number++;
  for (uint32_t i = 0; i < t->count; i++) {
    snprintf(yaml, sizeof(yaml),
             "networking: {port: %u, hostfile: %s, wait_for_restart: 3s, "
             "wait_for_restart_poll_period: 50ms%s}\n"
             "runtime: {heartbeat_interval: %ums, task_timeout: 3s}\n"
             "memory: {main_segment_size: 128M, client_data_segment_size: 256M, "
             "runtime_data_segment_size: 256M}\n%s",
             t->port, t->hostfile[i], t->networking[i], 200 * SLOW, t->more[i]);
    if (!daemon_make(&t->node[i], yaml))
      return false;
    snprintf(t->node[i].instance, sizeof(t->node[i].instance), "chi-town-%d-%u-%u:%u",
             (int)getpid(), number, i, t->port);
  }
  return true;
}

const char *town_start(struct town *t, uint32_t i)
{
  char number[16];
  snprintf(number, sizeof(number), "%u", i);
  setenv("CHI_NODE", number, 1);
  const char *said = daemon_start(&t->node[i]);
  unsetenv("CHI_NODE");
  if (said[0])
    return said;
  return seat_open(&t->seat[i], t->node[i].instance) == CHI_OK ? "" : "no client";
}

void town_kill(struct town *t, uint32_t i)
{
  seat_close(&t->seat[i]);
  daemon_kill(&t->node[i]);
}

void town_free(struct town *t)
{
  for (uint32_t i = 0; i < t->count; i++) {
    seat_close(&t->seat[i]);
    daemon_free(&t->node[i]);
  }
  scratch_remove(t->dir);
}

int town_carry(struct town *t, uint32_t from, uint32_t to, uint64_t size)
{
  struct seat *s = &t->seat[from];
  struct calc_shift *task = SEAT_NEW(s, calc_shift);
  int rc = CHI_ENOMEM;
  if (!task)
    return rc;
  rc = chi_bulk_alloc(s->queue, size, &task->from);
  if (rc == CHI_OK)
    rc = chi_bulk_alloc(s->queue, size, &task->to);
  task->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = to};
  if (rc == CHI_OK)
    memset(task->from.data, 7, size);
  if (rc == CHI_OK)
    rc = chi_run(s->queue, task);
  if (rc == CHI_OK && ((const char *)task->to.data)[size - 1] != 7)
    rc = CHI_ECORRUPT;
  chi_bulk_free(s->queue, &task->from);
  chi_bulk_free(s->queue, &task->to);
  chi_task_free(s->queue, task);
  return rc;
}

int town_add(struct town *t, uint32_t a, uint32_t b, uint64_t *sum)
{
  struct calc_add *task = SEAT_NEW(&t->seat[a], calc_add);
  if (!task)
    return CHI_ENOMEM;
  task->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = b};
  task->a = 40;
  task->b = b;
  int rc = chi_run(t->seat[a].queue, task);
  *sum = task->sum;
  chi_task_free(t->seat[a].queue, task);
  return rc;
}

bool town_has_met(struct town *t)
{
  uint64_t sum = 0;
  for (uint32_t a = 0; a < t->count; a++)
    for (uint32_t b = 0; b < t->count; b++)
      if (town_add(t, a, b, &sum) != CHI_OK || sum != 40 + b)
        return false;
  return true;
}

const char *town_begin(struct town *t)
{
  if (!town_make(t))
    return "cannot be made";
  for (uint32_t i = 0; i < t->count; i++) {
    const char *said = town_start(t, i);
    if (said[0])
      return said;
  }
  if (seat_pool(&t->seat[0], "calc", NULL, NULL) != CHI_OK)
    return "no pool";
  return EVENTUALLY(MET_MS, town_has_met(t)) ? "" : "they don't meet";
}

const char *town_open(struct town *t, uint32_t count)
{
  return town_plan(t, count) ? town_begin(t) : "cannot be made";
}

int town_call(const struct town *t, uint32_t i, const char *words, char *said, size_t room)
{
  char line[PATH_MAX + 400], program[PATH_MAX + 16];
  const char *given = getenv("CHIMAERA");
  snprintf(program, sizeof(program), "%s/../chimaera", daemon_modules());
  snprintf(line, sizeof(line), "timeout 60 %s call --instance %s %s 2>&1", given ? given : program,
           t->node[i].instance, words);
  FILE *f = popen(line, "r");
  size_t n = f ? fread(said, 1, room - 1, f) : 0;
  said[n] = '\0';
  int status = f ? pclose(f) : -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
