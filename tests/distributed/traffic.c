/* traffic.c - the program: its arguments, its connection, and waiting for a cluster. */
#include "traffic.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int traffic_fail(const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  vfprintf(stderr, fmt, args);
  va_end(args);
  fputc('\n', stderr);
  return 1;
}

void *traffic_task(struct traffic *t, const chi_type *type, chi_query query)
{
  chi_task *task = chi_task_new(t->queue, type);
  chi_error err = {0, ""};
  if (!task) {
    chi_queue_error(t->queue, &err);
    traffic_fail("no memory for a task: %s", err.text);
    return NULL;
  }
  task->pool = COURIER_POOL;
  task->query = query;
  return task;
}

int traffic_run(struct traffic *t, void *task)
{
  int rc = chi_submit(t->queue, task);
  return rc == CHI_OK ? chi_wait(t->queue, task, TRAFFIC_LIMIT) : rc;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void traffic_close(struct traffic *t)
{
  chi_queue_close(t->queue);
  chi_client_close(t->client);
  t->queue = NULL;
  t->client = NULL;
}

static int traffic_connect(struct traffic *t, chi_error *err)
{
  int rc = chi_client_open(NULL, &t->client, err);
  if (rc == CHI_OK)
    rc = chi_queue_open(t->client, &t->queue, err);
  if (rc != CHI_OK)
    traffic_close(t);
  return rc;
}

/* Which node this is: its own container says so. */
static int traffic_ask(struct traffic *t, chi_query query, uint32_t *node)
{
  struct courier_add *task = traffic_task(t, &courier_add_type, query);
  if (!task)
    return CHI_ENOMEM;
  int rc = traffic_run(t, task);
  *node = task->node;
  chi_task_free(t->queue, task);
  return rc;
}

/* One attempt: every node answers. */
static int traffic_meet(struct traffic *t, chi_error *err)
{
  uint32_t node = 0;
  int rc = t->client ? CHI_OK : traffic_connect(t, err);
  if (rc != CHI_OK)
    return rc;
  rc = traffic_ask(t, (chi_query){.mode = CHI_QUERY_LOCAL}, &t->self);
  snprintf(err->text, sizeof err->text, "its own container: %s", chi_status_text(rc));
  for (uint32_t i = 0; rc == CHI_OK && i < t->o->nodes; i++) {
    rc = traffic_ask(t, (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = i}, &node);
    snprintf(err->text, sizeof err->text, "node %u of %u: %s", i, t->o->nodes, chi_status_text(rc));
    if (rc == CHI_OK && node != i)
      rc = CHI_ECORRUPT;
  }
  if (rc == CHI_ESHUTDOWN)
    traffic_close(t);
  return rc;
}

/* Attaches and waits until all nodes of the cluster answer. */
static int traffic_open(struct traffic *t)
{
  uint64_t end = traffic_now() + t->o->seconds * TRAFFIC_SECOND;
  chi_error err = {0, ""};
  while (traffic_meet(t, &err) != CHI_OK) {
    if (traffic_now() >= end)
      return traffic_fail("after %llu s still: %s", (unsigned long long)t->o->seconds, err.text);
    traffic_pause(20 * TRAFFIC_MS);
  }
  return 0;
}

static int traffic_ready(struct traffic *t)
{
  printf("node%u reaches all %u\n", t->self + 1, t->o->nodes);
  return 0;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static const struct {
  const char *name, *help;
  int (*run)(struct traffic *t);
  int (*run_alone)(const struct traffic_options *o); /* without a daemon on this host */
} traffic_parts[] = {
    {"ready", "waits until this host's daemon reaches all nodes", traffic_ready, NULL},
    {"queries", "every kind of query, to every node", traffic_queries, NULL},
    {"bulk", "buffers of 1 byte to size to the next node and back, by checksum", traffic_bulk,
     NULL},
    {"speed", "latency and throughput to every other node", traffic_speed, NULL},
    {"load", "tasks of all kinds until stop is there, written down in journal", traffic_load, NULL},
    {"judge", "compares all files of journal with all files of ledger", NULL, traffic_judge},
    {"crowd", "10,000 connections to the port at address, silent or noisy", NULL, traffic_crowd},
};
#define TRAFFIC_PARTS (sizeof traffic_parts / sizeof traffic_parts[0])

static int traffic_usage(void)
{
  fprintf(stderr, "usage: traffic PART [NAME=VALUE...]\n\n");
  for (size_t i = 0; i < TRAFFIC_PARTS; i++)
    fprintf(stderr, "  %-8s %s\n", traffic_parts[i].name, traffic_parts[i].help);
  fprintf(stderr, "\nNames: nodes window rate client seed size seconds journal ledger stop "
                  "address codes\n");
  return 2;
}

static bool traffic_is(const char *argument, const char *name, const char **value)
{
  size_t size = strlen(name);
  if (strncmp(argument, name, size) != 0 || argument[size] != '=')
    return false;
  *value = argument + size + 1;
  return true;
}

static bool traffic_number(const char *text, uint64_t most, uint64_t *out)
{
  char *end;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 10);
  *out = n;
  return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && n <= most;
}

static bool traffic_option(struct traffic_options *o, const char *argument)
{
  const char *value = NULL;
  uint64_t n = 0;
  bool fits = true;
  if (traffic_is(argument, "journal", &value))
    o->journal = value;
  else if (traffic_is(argument, "ledger", &value))
    o->ledger = value;
  else if (traffic_is(argument, "stop", &value))
    o->stop = value;
  else if (traffic_is(argument, "address", &value))
    o->address = value;
  else if (traffic_is(argument, "codes", &value))
    o->codes = value;
  else if (traffic_is(argument, "size", &value))
    fits = chi_parse_size(value, &o->size) == CHI_OK;
  else if (traffic_is(argument, "client", &value))
    fits = traffic_number(value, UINT64_MAX, &o->client);
  else if (traffic_is(argument, "seed", &value))
    fits = traffic_number(value, UINT64_MAX, &o->seed);
  else if (traffic_is(argument, "seconds", &value))
    fits = traffic_number(value, 3600, &o->seconds);
  else if (traffic_is(argument, "nodes", &value) && traffic_number(value, COURIER_NODES, &n) && n)
    o->nodes = (uint32_t)n;
  else if (traffic_is(argument, "window", &value) && traffic_number(value, 1024, &n) && n)
    o->window = (uint32_t)n;
  else if (traffic_is(argument, "rate", &value) && traffic_number(value, 1000000, &n))
    o->rate = (uint32_t)n;
  else
    fits = false;
  return fits;
}

int main(int argc, char **argv)
{
  struct traffic_options o = {.nodes = 2, .window = 32, .size = 64u << 20, .seconds = 30};
  struct traffic t = {.o = &o};
  size_t part = 0;
  int status;
  while (argc > 1 && part < TRAFFIC_PARTS && strcmp(argv[1], traffic_parts[part].name) != 0)
    part++;
  if (argc < 2 || part == TRAFFIC_PARTS)
    return traffic_usage();
  for (int i = 2; i < argc; i++)
    if (!traffic_option(&o, argv[i])) {
      traffic_fail("traffic: \"%s\" is no NAME=VALUE that fits", argv[i]);
      return traffic_usage();
    }
  if (traffic_parts[part].run_alone)
    return traffic_parts[part].run_alone(&o);
  status = traffic_open(&t);
  if (status == 0)
    status = traffic_parts[part].run(&t);
  fflush(stdout);
  traffic_close(&t);
  return status;
}
