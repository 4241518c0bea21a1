/* bench_field.c - the test cases that the field knows, against a running daemon. */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "units.h"

#define FIELD_THREADS_MAX 256
#define FIELD_BUCKETS 64 /* of a histogram of latencies: four to a power of two */
#define FIELD_BUCKET_FIRST 64
#define FIELD_BLOCK 4096 /* the device's blocks are multiples of it */

/* What all threads of one run share. */
struct field {
  const struct cli *cli;
  const struct field_case *test;
  chi_client *client;
  chi_pool_id pool;
  uint64_t threads, duration_s, file_size, io_size;
  uint64_t share; /* of the device, for each thread: whole blocks */
  uint64_t end; /* time at which the threads stop */
};

struct field_thread {
  struct field *field;
  chi_queue *queue;
  pthread_t thread;
  uint64_t index, operations, bytes, sum_ns;
  uint64_t buckets[4 * FIELD_BUCKETS];
  struct chi_block block;
  int status;
};

struct field_case {
  const char *name, *about;
  bool needs_blocks, needs_pool;
  /* One operation; n counts them. A chi_status. */
  int (*step)(struct field_thread *t, uint64_t n);
};

/* ---- the operations --------------------------------------------------------------------- */

static int field_io(struct field_thread *t, uint64_t n)
{
  uint64_t size = t->field->io_size, places = t->block.size / size;
  struct chi_block block = t->block;
  chi_bulk buffer;
  bool reading = n % 2;
  chi_task *task;
  int status = chi_bulk_alloc(t->queue, size, &buffer);
  if (status != CHI_OK)
    return status;
  block.offset += (n / 2 * 0x9e3779b1u % places) * size;
  block.size = size;
  if (reading) {
    struct chi_bdev_read *r = CHI_NEW(t->queue, chi_bdev_read);
    if (r)
      r->block = block, r->data = buffer, r->length = size;
    task = (chi_task *)r;
  } else {
    struct chi_bdev_write *w = CHI_NEW(t->queue, chi_bdev_write);
    memcpy(buffer.data, &n, sizeof(n));
    if (w)
      w->block = block, w->data = buffer, w->length = size;
    task = (chi_task *)w;
  }
  status = CHI_ENOMEM;
  if (task) {
    task->pool = t->field->pool;
    task->io_size = size;
    status = chi_run(t->queue, task);
    chi_task_free(t->queue, task);
  }
  if (status == CHI_OK && reading && memcmp(buffer.data, &(uint64_t){n - 1}, sizeof(n)) != 0)
    status = CHI_ECORRUPT;
  chi_bulk_free(t->queue, &buffer);
  t->bytes += size;
  return status;
}

static int field_allocation(struct field_thread *t, uint64_t n)
{
  struct chi_bdev_allocate_blocks *a = CHI_NEW(t->queue, chi_bdev_allocate_blocks);
  struct chi_bdev_free_blocks *f = CHI_NEW(t->queue, chi_bdev_free_blocks);
  int status = CHI_ENOMEM;
  (void)n;
  if (a && f) {
    a->task.pool = f->task.pool = t->field->pool;
    a->size = t->field->io_size;
    status = chi_run(t->queue, a);
  }
  if (status == CHI_OK) {
    f->blocks_count = a->blocks_count;
    memcpy(f->blocks, a->blocks, sizeof(f->blocks));
    status = chi_run(t->queue, f);
  }
  if (a)
    chi_task_free(t->queue, a);
  if (f)
    chi_task_free(t->queue, f);
  t->bytes += t->field->io_size;
  return status;
}

static int field_task_alloc(struct field_thread *t, uint64_t n)
{
  struct chi_bdev_write *w = CHI_NEW(t->queue, chi_bdev_write);
  (void)n;
  return w ? chi_task_free(t->queue, w) : CHI_ENOMEM;
}

static int field_latency(struct field_thread *t, uint64_t n)
{
  struct chi_bdev_get_stats *s = CHI_NEW(t->queue, chi_bdev_get_stats);
  int status = CHI_ENOMEM;
  (void)n;
  if (s) {
    s->task.pool = t->field->pool;
    status = chi_run(t->queue, s);
    chi_task_free(t->queue, s);
  }
  return status;
}

static const struct field_case field_cases[] = {
    {"bdev_io", "writes and reads of --io-size, alternating, each read checked", true, true,
     field_io},
    {"bdev_allocation", "blocks of --io-size allocated and freed", false, true, field_allocation},
    {"bdev_task_alloc", "tasks allocated and freed in shared memory", false, false,
     field_task_alloc},
    {"latency", "round trips of a task that does nothing but answer", false, true, field_latency}};

/* ---- threads ---------------------------------------------------------------------------- */

/* Four buckets to a power of two, from FIELD_BUCKET_FIRST nanoseconds on. */
static uint32_t field_bucket(uint64_t ns)
{
  uint64_t x = ns / (FIELD_BUCKET_FIRST / 4);
  uint32_t power;
  if (x < 8)
    return (uint32_t)x;
  power = 63 - (uint32_t)__builtin_clzll(x);
  return 4 * (power - 1) + (uint32_t)(x >> (power - 2) & 3);
}

/* Where a bucket begins. */
static double field_bucket_ns(uint32_t bucket)
{
  uint64_t x = bucket < 8 ? bucket : (uint64_t)(4 + bucket % 4) << (bucket / 4 - 1);
  return (double)(x * (FIELD_BUCKET_FIRST / 4));
}

static int field_blocks(struct field_thread *t)
{
  struct chi_bdev_allocate_blocks *a = CHI_NEW(t->queue, chi_bdev_allocate_blocks);
  int status = CHI_ENOMEM;
  if (a) {
    a->task.pool = t->field->pool;
    a->size = t->field->share;
    status = chi_run(t->queue, a);
    t->block = a->blocks[0];
    chi_task_free(t->queue, a);
  }
  if (status == CHI_OK && t->block.size < t->field->io_size)
    status = CHI_ENOSPC;
  return status;
}

static void *field_thread(void *arg)
{
  struct field_thread *t = arg;
  uint64_t now = cli_now();
  for (uint64_t n = 0; t->status == CHI_OK && now < t->field->end; n++) {
    uint64_t begin = now;
    t->status = t->field->test->step(t, n);
    now = cli_now();
    t->sum_ns += now - begin;
    t->buckets[field_bucket(now - begin)]++;
    t->operations += t->status == CHI_OK;
  }
  return NULL;
}

static int field_threads(struct field *f, struct field_thread *threads)
{
  int status = CHI_OK;
  uint64_t started = 0;
  for (uint64_t i = 0; i < f->threads && status == CHI_OK; i++) {
    threads[i] = (struct field_thread){.field = f, .index = i};
    status = chi_queue_open(f->client, &threads[i].queue, NULL);
    if (status == CHI_OK && f->test->needs_blocks)
      status = field_blocks(&threads[i]);
  }
  f->end = cli_now() + f->duration_s * 1000000000;
  for (; started < f->threads && status == CHI_OK; started++) {
    if (pthread_create(&threads[started].thread, NULL, field_thread, &threads[started]) != 0)
      status = CHI_ENOMEM;
  }
  for (uint64_t i = 0; i < started; i++) {
    pthread_join(threads[i].thread, NULL);
    if (status == CHI_OK)
      status = threads[i].status;
  }
  for (uint64_t i = 0; i < f->threads; i++) {
    if (threads[i].queue)
      chi_queue_close(threads[i].queue);
  }
  return status;
}

/* ---- results ---------------------------------------------------------------------------- */

static double field_percentile(const struct field_thread *sum, double share)
{
  uint64_t seen = 0;
  for (uint32_t i = 0; i < CHI_COUNT(sum->buckets); i++) {
    seen += sum->buckets[i];
    if ((double)seen >= share * (double)sum->operations)
      return field_bucket_ns(i);
  }
  return 0;
}

static void field_sum(const struct field *f, const struct field_thread *threads,
                      struct field_thread *sum)
{
  *sum = (struct field_thread){0};
  for (uint64_t i = 0; i < f->threads; i++) {
    sum->operations += threads[i].operations;
    sum->bytes += threads[i].bytes;
    sum->sum_ns += threads[i].sum_ns;
    for (uint32_t k = 0; k < CHI_COUNT(sum->buckets); k++)
      sum->buckets[k] += threads[i].buckets[k];
  }
}

static void field_json(const struct field *f, const struct field_thread *sum, FILE *out)
{
  double seconds = (double)f->duration_s, n = sum->operations ? (double)sum->operations : 1;
  fprintf(out,
          "{\"test_case\":\"%s\",\"threads\":%llu,\"seconds\":%llu,\"io_size\":%llu,"
          "\"operations\":%llu,\"operations_per_s\":%.1f,\"mib_per_s\":%.2f,\"mean_ns\":%.0f,"
          "\"p50_ns\":%.0f,\"p99_ns\":%.0f,\"p999_ns\":%.0f}\n",
          f->test->name, (unsigned long long)f->threads, (unsigned long long)f->duration_s,
          (unsigned long long)f->io_size, (unsigned long long)sum->operations,
          (double)sum->operations / seconds, (double)sum->bytes / 1048576 / seconds,
          (double)sum->sum_ns / n, field_percentile(sum, 0.5), field_percentile(sum, 0.99),
          field_percentile(sum, 0.999));
}

static void field_print(const struct field *f, const struct field_thread *sum)
{
  double seconds = (double)f->duration_s, n = sum->operations ? (double)sum->operations : 1;
  char text[4][32];
  printf("%s: %s\n", f->test->name, f->test->about);
  printf("  %llu threads, %llu s: %llu operations, %s/s", (unsigned long long)f->threads,
         (unsigned long long)f->duration_s, (unsigned long long)sum->operations,
         cli_count((double)sum->operations / seconds, text[0], 32));
  if (sum->bytes)
    printf(", %s/s", cli_bytes((double)sum->bytes / seconds, text[0], 32));
  printf("\n  latency mean %s, p50 %s, p99 %s, p99.9 %s\n",
         cli_time((double)sum->sum_ns / n, text[0], 32),
         cli_time(field_percentile(sum, 0.5), text[1], 32),
         cli_time(field_percentile(sum, 0.99), text[2], 32),
         cli_time(field_percentile(sum, 0.999), text[3], 32));
}

static int field_report(const struct field *f, const struct field_thread *threads)
{
  const char *directory = cli_value(f->cli, "output-dir");
  char path[CHI_PATH_MAX];
  struct field_thread sum;
  FILE *out;
  field_sum(f, threads, &sum);
  for (uint64_t i = 0; i < f->threads && cli_value(f->cli, "verbose"); i++)
    fprintf(stderr, "thread %llu: %llu operations\n", (unsigned long long)i,
            (unsigned long long)threads[i].operations);
  if (cli_value(f->cli, "json"))
    field_json(f, &sum, stdout);
  else
    field_print(f, &sum);
  if (!directory)
    return CLI_OK;
  snprintf(path, sizeof(path), "%s/chimaera_bench_%s.json", directory, f->test->name);
  out = fopen(path, "we");
  if (!out)
    return cli_fail(f->cli, "%s: %s", path, strerror(errno));
  field_json(f, &sum, out);
  return fclose(out) == 0 ? CLI_OK : cli_fail(f->cli, "%s: %s", path, strerror(errno));
}

/* ---- a run ------------------------------------------------------------------------------ */

/* A file bdev of --max-file-size in the output directory, made for this run, on the daemon's node
 * alone: others of its cluster may have the same directory. */
static int field_pool(struct field *f, chi_queue *queue, char *path, size_t size)
{
  const char *directory = cli_value(f->cli, "output-dir");
  struct chi_admin_get_or_create_pool *t = CHI_NEW(queue, chi_admin_get_or_create_pool);
  int status;
  if (!t)
    return cli_fail(f->cli, "out of memory");
  if (!directory)
    directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
  snprintf(path, size, "%s/chimaera_bench.%ld", directory, (long)getpid());
  f->pool = (chi_pool_id){900000 + (uint32_t)getpid() % 100000, 0};
  t->task.pool = CHI_ADMIN_POOL;
  t->pool_id = f->pool;
  snprintf(t->mod_name, sizeof(t->mod_name), "bdev");
  snprintf(t->pool_name, sizeof(t->pool_name), "%s", path);
  snprintf(t->params, sizeof(t->params), "capacity=%llu\nbdev_type=file\n",
           (unsigned long long)f->file_size);
  snprintf(t->pool_query, sizeof(t->pool_query), "local");
  status = chi_run(queue, t);
  if (status != CHI_OK)
    status = cli_fail(f->cli, "pool %s: %s", path,
                      t->error_message[0] ? t->error_message : chi_status_text(status));
  chi_task_free(queue, t);
  return status;
}

/* The device's file, and what the daemon keeps beside it. */
static void field_remove(const char *path)
{
  char beside[CHI_PATH_MAX + 8];
  unlink(path);
  snprintf(beside, sizeof(beside), "%s.chi-log", path);
  unlink(beside);
}

static int field_measure(struct field *f, struct cli_link *link)
{
  struct field_thread *threads = calloc(f->threads, sizeof(*threads));
  char path[CHI_PATH_MAX];
  int status = CLI_OK, run;
  if (!threads)
    return cli_fail(f->cli, "out of memory");
  if (f->test->needs_pool)
    status = field_pool(f, link->queue, path, sizeof(path));
  if (status == CLI_OK) {
    run = field_threads(f, threads);
    status = run == CHI_OK ? field_report(f, threads)
                           : cli_fail(f->cli, "%s: %s", f->test->name, chi_status_text(run));
    if (f->test->needs_pool) {
      chi_pool_destroy(link->queue, f->pool, NULL);
      field_remove(path);
    }
  }
  free(threads);
  return status;
}

static int field_options(struct field *f)
{
  const char *name = cli_value(f->cli, "test-case"), *policy = cli_value(f->cli, "lane-policy");
  for (size_t i = 0; i < CHI_COUNT(field_cases); i++) {
    if (strcmp(field_cases[i].name, name) == 0)
      f->test = &field_cases[i];
  }
  if (!f->test)
    return cli_usage(
        f->cli, "--test-case %s: expected bdev_io, bdev_allocation, bdev_task_alloc or latency",
        name);
  if (policy && strcmp(policy, "round_robin") != 0 && strcmp(policy, "map_by_pid_tid") != 0 &&
      strcmp(policy, "random") != 0)
    return cli_usage(f->cli, "--lane-policy %s: expected round_robin, map_by_pid_tid or random",
                     policy);
  if (policy)
    cli_warn(f->cli, "--lane-policy: is the daemon's; set runtime.lane_map_policy there");
  if (!cli_number(f->cli, "threads", 1, FIELD_THREADS_MAX, &f->threads) ||
      !cli_number(f->cli, "duration", 1, 86400, &f->duration_s) ||
      !cli_size(f->cli, "max-file-size", &f->file_size) ||
      !cli_size(f->cli, "io-size", &f->io_size))
    return CLI_USAGE;
  f->share = f->file_size / FIELD_BLOCK / f->threads * FIELD_BLOCK;
  if (f->share == 0)
    return cli_usage(f->cli,
                     "--max-file-size: expected %llu bytes at least, a block of %d for each of "
                     "%llu threads",
                     (unsigned long long)f->threads * FIELD_BLOCK, FIELD_BLOCK,
                     (unsigned long long)f->threads);
  if (f->io_size < 8 || f->io_size > f->share)
    return cli_usage(f->cli,
                     "--io-size: expected 8 to %llu bytes, a thread's share of --max-file-size",
                     (unsigned long long)f->share);
  return CLI_OK;
}

int bench_field_run(const struct cli *cli)
{
  struct field f = {
      .cli = cli, .threads = 4, .duration_s = 10, .file_size = 1 << 30, .io_size = 4096};
  struct cli_link link;
  int status = field_options(&f);
  if (status != CLI_OK)
    return status;
  status = cli_connect(cli, &link);
  if (status != CLI_OK)
    return status;
  f.client = link.client;
  status = field_measure(&f, &link);
  cli_disconnect(&link);
  return status;
}
