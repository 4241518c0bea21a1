/* traffic_bulk.c - buffers of all sizes, there and back, compared by checksum; and how fast. */
#include "traffic.h"

#include <stdlib.h>
#include <string.h>

#define TRAFFIC_ROUNDS 2000u  /* round trips, one after the other */
#define TRAFFIC_PINGS 20000u  /* round trips, `window` of them at a time */
#define TRAFFIC_PARCELS 128u  /* of 1 MiB, four at a time */
#define TRAFFIC_WINDOW 64u
#define TRAFFIC_PARCEL (UINT64_C(1) << 20)

static chi_query traffic_to(uint32_t node)
{
  return (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node};
}

static int traffic_room(struct traffic *t, uint64_t size, chi_bulk *out)
{
  chi_error err = {0, ""};
  int rc = chi_bulk_alloc(t->queue, size, out);
  if (rc == CHI_OK)
    return 0;
  chi_queue_error(t->queue, &err);
  return traffic_fail("no buffer of %llu bytes: %s", (unsigned long long)size, err.text);
}

/* ---- all sizes ------------------------------------------------------------------------------- */

static int traffic_wrong(const char *what, uint64_t size, uint32_t node, int rc)
{
  return traffic_fail("%s of %llu bytes to node %u: %s", what, (unsigned long long)size, node,
                      rc == CHI_OK ? "other bytes have arrived" : chi_status_name(rc));
}

/* A buffer that goes there, where its checksum is made. */
static int traffic_put(struct traffic *t, uint32_t node, chi_bulk *data)
{
  struct courier_put *task = traffic_task(t, &courier_put_type, traffic_to(node));
  if (!task)
    return 1;
  task->data = *data;
  int rc = traffic_run(t, task);
  bool right = rc == CHI_OK && task->check == courier_check(data->data, data->size);
  chi_task_free(t->queue, task);
  return right ? 0 : traffic_wrong("put", data->size, node, rc);
}

/* A buffer that is filled there. */
static int traffic_get(struct traffic *t, uint32_t node, chi_bulk *data, uint64_t seed)
{
  struct courier_get *task = traffic_task(t, &courier_get_type, traffic_to(node));
  if (!task)
    return 1;
  memset(data->data, 0, data->size);
  task->data = *data;
  task->seed = seed;
  int rc = traffic_run(t, task);
  bool right = rc == CHI_OK && task->data.size == data->size &&
               task->check == courier_check(data->data, data->size);
  if (right) {
    uint64_t check = task->check;
    courier_fill(data->data, data->size, seed);
    right = check == courier_check(data->data, data->size);
  }
  chi_task_free(t->queue, task);
  return right ? 0 : traffic_wrong("get", data->size, node, rc);
}

/* Both ways in one task. */
static int traffic_echo(struct traffic *t, uint32_t node, chi_bulk *data, chi_bulk *back)
{
  struct courier_echo *task = traffic_task(t, &courier_echo_type, traffic_to(node));
  if (!task)
    return 1;
  memset(back->data, 0, back->size);
  task->data = *data;
  task->back = *back;
  int rc = traffic_run(t, task);
  bool right = rc == CHI_OK && task->back.size == data->size &&
               task->check == courier_check(data->data, data->size) &&
               memcmp(data->data, back->data, data->size) == 0;
  chi_task_free(t->queue, task);
  return right ? 0 : traffic_wrong("echo", data->size, node, rc);
}

static int traffic_carry(struct traffic *t, uint32_t node, uint64_t size)
{
  chi_bulk data = {0}, back = {0};
  int status = traffic_room(t, size, &data);
  if (status != 0)
    return status;
  status = traffic_room(t, size, &back);
  if (status == 0) {
    courier_fill(data.data, size, size + t->self);
    status = traffic_put(t, node, &data) + traffic_echo(t, node, &data, &back) +
             traffic_get(t, node, &back, size * 3 + node);
    chi_bulk_free(t->queue, &back);
  }
  chi_bulk_free(t->queue, &data);
  return status;
}

int traffic_bulk(struct traffic *t)
{
  static const uint64_t sizes[] = {1,       2,         63,       64,       65,
                                   4095,    4096,      4097,     65536,    1u << 20,
                                   1048577, 16u << 20, 64u << 20};
  uint32_t node = (t->self + 1) % t->o->nodes, carried = 0;
  int bad = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && sizes[i] <= t->o->size; i++) {
    bad += traffic_carry(t, node, sizes[i]);
    carried += 3;
  }
  printf("%u buffers from node%u to node%u and back\n", carried, t->self + 1, node + 1);
  return bad != 0;
}

/* ---- speed ----------------------------------------------------------------------------------- */

static int traffic_compare(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Fills took[rounds] with the times of round trips, in order of length. */
static int traffic_latency(struct traffic *t, uint32_t node, uint64_t *took, uint32_t rounds)
{
  struct courier_ping *task = traffic_task(t, &courier_ping_type, traffic_to(node));
  int rc = task ? CHI_OK : CHI_ENOMEM;
  for (uint32_t i = 0; i < rounds && rc == CHI_OK; i++) {
    uint64_t began = traffic_now();
    task->number = i;
    rc = traffic_run(t, task);
    took[i] = traffic_now() - began;
    if (rc == CHI_OK && task->answer != ~(uint64_t)i)
      rc = CHI_ECORRUPT;
  }
  if (task)
    chi_task_free(t->queue, task);
  qsort(took, rounds, sizeof *took, traffic_compare);
  return rc == CHI_OK ? 0 : traffic_fail("round trips to node %u: %s", node, chi_status_name(rc));
}

/* Runs `count` tasks, `window` at a time, the oldest waited for first; *took is how long it was. */
static int traffic_stream(struct traffic *t, void **task, uint32_t window, uint32_t count,
                          uint64_t *took)
{
  uint64_t began = traffic_now();
  int rc = CHI_OK;
  for (uint32_t i = 0; rc == CHI_OK && i < count + window; i++) {
    if (i >= window)
      rc = chi_wait(t->queue, task[i % window], TRAFFIC_LIMIT);
    if (rc == CHI_OK && i < count)
      rc = chi_submit(t->queue, task[i % window]);
  }
  *took = traffic_now() - began;
  return rc;
}

static int traffic_tasks_rate(struct traffic *t, uint32_t node, double *rate)
{
  void *task[TRAFFIC_WINDOW];
  uint64_t took = 1;
  uint32_t made = 0;
  int rc = CHI_ENOMEM;
  while (made < TRAFFIC_WINDOW &&
         (task[made] = traffic_task(t, &courier_ping_type, traffic_to(node))) != NULL)
    made++;
  if (made == TRAFFIC_WINDOW)
    rc = traffic_stream(t, task, TRAFFIC_WINDOW, TRAFFIC_PINGS, &took);
  while (made > 0)
    chi_task_free(t->queue, task[--made]);
  *rate = TRAFFIC_PINGS * 1e9 / (double)took;
  return rc == CHI_OK ? 0 : traffic_fail("pings to node %u: %s", node, chi_status_name(rc));
}

/* MiB a second of parcels that go there (put) or come from there (get), four at a time. */
static int traffic_bulk_rate(struct traffic *t, uint32_t node, bool put, double *rate)
{
  const chi_type *type = put ? &courier_put_type : &courier_get_type;
  void *task[4] = {NULL};
  chi_bulk data[4] = {{0}};
  uint64_t took = 1;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < 4 && rc == CHI_OK; i++) {
    task[i] = traffic_task(t, type, traffic_to(node));
    rc = task[i] ? traffic_room(t, TRAFFIC_PARCEL, &data[i]) : CHI_ENOMEM;
    if (rc != CHI_OK)
      break;
    courier_fill(data[i].data, data[i].size, i);
    *(put ? &((struct courier_put *)task[i])->data : &((struct courier_get *)task[i])->data) =
        data[i];
  }
  if (rc == CHI_OK)
    rc = traffic_stream(t, task, 4, TRAFFIC_PARCELS, &took);
  for (uint32_t i = 0; i < 4; i++) {
    if (task[i])
      chi_task_free(t->queue, task[i]);
    if (data[i].data)
      chi_bulk_free(t->queue, &data[i]);
  }
  *rate = TRAFFIC_PARCELS * (TRAFFIC_PARCEL / 1048576.0) * 1e9 / (double)took;
  return rc == CHI_OK ? 0 : traffic_fail("parcels, node %u: %s", node, chi_status_name(rc));
}

int traffic_speed(struct traffic *t)
{
  static uint64_t took[TRAFFIC_ROUNDS];
  int bad = 0;
  for (uint32_t node = 0; node < t->o->nodes && bad == 0; node++) {
    double tasks = 0, there = 0, back = 0;
    if (node == t->self)
      continue;
    bad = traffic_latency(t, node, took, TRAFFIC_ROUNDS) || traffic_tasks_rate(t, node, &tasks) ||
          traffic_bulk_rate(t, node, true, &there) || traffic_bulk_rate(t, node, false, &back);
    if (bad == 0)
      printf("%u %u %.1f %.1f %.0f %.0f %.0f\n", t->self, node,
             (double)took[TRAFFIC_ROUNDS / 2] / 1e3, (double)took[TRAFFIC_ROUNDS * 99 / 100] / 1e3,
             tasks, there, back);
  }
  return bad;
}
