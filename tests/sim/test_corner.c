/* test_corner.c - one small run, and every fault at every moment of it; and every pair of faults.
 *
 * Single faults are tried at the boundary after every event; pairs at those where something has
 * happened beyond a thread's going on, for else the nodes are as they were. A fault is a crash, an
 * isolation or a failing disk of one of three nodes; what it broke is made whole some milliseconds
 * later. Of a pair, the second one comes at the same moment as the first, or at any later one.
 *
 * CORNER_STRIDE=n tries every n-th pair: with 1 all of them (`make corner`); with more than usual,
 * fewer single faults, too. CORNER_PROGRESS=1 tells how far that is. The runs are shared out among
 * a process for each core. */
#include "town.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODES 3u
#define KINDS 3u
#define FAULTS (NODES * KINDS)
#define USUAL_STRIDE 2003u /* a prime: it passes through all faults and moments */
#define OUTAGE_NS (3 * TOWN_MS)
#define JOBS_MAX 64
#define DEVICE ((chi_pool_id){900, 0})
#define DEVICE_NODE 1u
#define MOVED 2u            /* the container that is moved to node 0 */
#define CRASH_OF_CREATOR 0u /* the number of that fault */
#define SIZE 4096u
#define BYTE 0x5a

static const int kinds[KINDS] = {CHI_FAULT_CRASH, CHI_FAULT_ISOLATE, CHI_FAULT_DISK};
static const char *const ends[KINDS] = {"start", "rejoin", NULL};

/* ---- the run ------------------------------------------------------------------------------- */

/* What a client was told has been done, and who it was. */
struct promise {
  int client;
  bool created, summed, hashed, asked, written, moved;
  bool alone; /* the creator may have been, just started again: the pool is lost with it */
  struct chi_block block;
};

static chi_query query(uint32_t mode, uint32_t a)
{
  return (chi_query){.mode = mode, .a = a};
}

static bool creates(chi_queue *queue)
{
  chi_pool_id id = TOWN_POOL;
  return chi_pool_create(queue, "town", "town", NULL, 0, &id, NULL) == CHI_OK;
}

/* Over all containers. */
static bool sums(chi_queue *queue)
{
  struct town_sum *t = CHI_NEW(queue, town_sum);
  bool good = false;
  if (t) {
    t->task.pool = TOWN_POOL;
    t->task.query = query(CHI_QUERY_BROADCAST, 0);
    good = chi_run(queue, t) == CHI_OK && t->sum == 6;
  }
  chi_task_free(queue, t);
  return good;
}

static bool hashes(chi_queue *queue, uint32_t container)
{
  struct town_where *t = CHI_NEW(queue, town_where);
  bool good = false;
  if (t) {
    t->task.pool = TOWN_POOL;
    t->task.query = query(CHI_QUERY_HASH, container);
    good = chi_run(queue, t) == CHI_OK && t->container == container;
  }
  chi_task_free(queue, t);
  return good;
}

/* A container asks another node's. */
static bool asks(chi_queue *queue)
{
  struct town_ask *t = CHI_NEW(queue, town_ask);
  bool good = false;
  if (t) {
    t->task.pool = TOWN_POOL;
    t->task.query = query(CHI_QUERY_PHYSICAL, 1);
    t->whom = 2;
    good = chi_run(queue, t) == CHI_OK && t->node == 2;
  }
  chi_task_free(queue, t);
  return good;
}

static bool allocates(chi_queue *queue, struct chi_block *block)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(queue, chi_bdev_allocate_blocks);
  bool good = false;
  if (t) {
    t->task.pool = DEVICE;
    t->task.query = query(CHI_QUERY_PHYSICAL, DEVICE_NODE);
    t->size = SIZE;
    good = chi_run(queue, t) == CHI_OK && t->block_total == 1;
    if (good)
      *block = t->blocks[0];
  }
  chi_task_free(queue, t);
  return good;
}

static bool syncs(chi_queue *queue)
{
  struct chi_bdev_sync *t = CHI_NEW(queue, chi_bdev_sync);
  bool good = false;
  if (t) {
    t->task.pool = DEVICE;
    t->task.query = query(CHI_QUERY_PHYSICAL, DEVICE_NODE);
    good = chi_run(queue, t) == CHI_OK;
  }
  chi_task_free(queue, t);
  return good;
}

static bool writes(chi_queue *queue, const struct chi_block *block)
{
  struct chi_bdev_write *t = CHI_NEW(queue, chi_bdev_write);
  bool good = t && chi_bulk_alloc(queue, SIZE, &t->data) == CHI_OK;
  if (good) {
    t->task.pool = DEVICE;
    t->task.query = query(CHI_QUERY_PHYSICAL, DEVICE_NODE);
    t->block = *block;
    t->length = SIZE;
    memset(t->data.data, BYTE, SIZE);
    good = chi_run(queue, t) == CHI_OK && t->bytes_written == SIZE;
    chi_bulk_free(queue, &t->data);
  }
  chi_task_free(queue, t);
  return good;
}

static bool moves(chi_queue *queue)
{
  struct chi_admin_migrate *t = CHI_NEW(queue, chi_admin_migrate);
  bool good = false;
  if (t) {
    t->task.pool = CHI_ADMIN_POOL;
    t->task.query = query(CHI_QUERY_PHYSICAL, MOVED);
    t->pool_id = TOWN_POOL;
    t->container = MOVED;
    t->node = 0;
    good = chi_run(queue, t) == CHI_OK;
  }
  chi_task_free(queue, t);
  return good;
}

static void small_run(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct promise *p = arg;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  p->created = creates(queue);
  p->summed = sums(queue);
  p->hashed = hashes(queue, 1);
  p->asked = asks(queue);
  p->written = allocates(queue, &p->block) && writes(queue, &p->block) && syncs(queue);
  p->moved = moves(queue);
  chi_queue_close(queue);
}

/* ---- what was promised --------------------------------------------------------------------- */

static bool reads(chi_queue *queue, const struct chi_block *block)
{
  struct chi_bdev_read *t = CHI_NEW(queue, chi_bdev_read);
  bool good = t && chi_bulk_alloc(queue, SIZE, &t->data) == CHI_OK;
  if (good) {
    t->task.pool = DEVICE;
    t->task.query = query(CHI_QUERY_PHYSICAL, DEVICE_NODE);
    t->block = *block;
    t->length = SIZE;
    good = chi_run(queue, t) == CHI_OK && t->bytes_read == SIZE;
    for (uint32_t i = 0; i < SIZE && good; i++)
      good = ((const unsigned char *)t->data.data)[i] == BYTE;
    chi_bulk_free(queue, &t->data);
  }
  chi_task_free(queue, t);
  return good;
}

/* When all is whole again. */
static void judges(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct promise *p = arg;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK) {
    chi_cluster_fail(cluster, "corner", "the judge has no queue");
    return;
  }
  if (p->created && !p->alone && !sums(queue))
    chi_cluster_fail(cluster, "corner", "the pool does not answer");
  if (p->written && !reads(queue, &p->block))
    chi_cluster_fail(cluster, "corner", "what was synced is not there");
  chi_queue_close(queue);
}

/* ---- moments ------------------------------------------------------------------------------- */

/* Counts them: after every event, or after those that traced more than a thread's going on. */
struct moments {
  bool every;
  uint64_t traced, count, until;
  int client;
};

static void moments_look(chi_cluster *cluster, struct moments *m)
{
  uint64_t traced = chi_cluster_events(cluster);
  m->count += m->every || traced > m->traced + 1;
  m->traced = traced;
}

static int moment_has_come(chi_cluster *cluster, void *arg)
{
  struct moments *m = arg;
  moments_look(cluster, m);
  return m->count >= m->until;
}

static int client_has_ended(chi_cluster *cluster, void *arg)
{
  struct moments *m = arg;
  moments_look(cluster, m);
  return chi_cluster_client_ended(cluster, m->client);
}

/* A fault after so many more moments, and what ends it. */
static void corner_fault(chi_cluster *cluster, bool every, uint64_t wait, uint32_t fault)
{
  struct moments m = {.every = every, .traced = chi_cluster_events(cluster), .until = wait};
  uint32_t node = fault % NODES, kind = fault / NODES;
  uint64_t end;
  char line[64];
  if (wait && chi_cluster_run_until(cluster, moment_has_come, &m, TOWN_SECOND) != CHI_OK)
    return; /* all was over before */
  chi_cluster_fault(cluster, kinds[kind], node, kinds[kind] == CHI_FAULT_DISK ? CHI_CLUSTER_ALL : 0,
                    0);
  end = chi_cluster_now(cluster) - TOWN_SECOND + OUTAGE_NS;
  if (!ends[kind])
    return;
  snprintf(line, sizeof(line), "%llu.%09llu %s %u", (unsigned long long)(end / TOWN_SECOND),
           (unsigned long long)(end % TOWN_SECOND), ends[kind], node);
  chi_cluster_plan(cluster, line, NULL);
}

static chi_cluster *corner_open(struct promise *p, chi_error *err)
{
  static char names[2][16] = {"capacity", "bdev_type"}, values[2][8] = {"64K", "file"};
  const chi_param params[] = {{names[0], values[0], 0, 0}, {names[1], values[1], 0, 0}};
  const chi_module *modules[] = {&town_module};
  chi_pool_id id = DEVICE;
  chi_cluster *cluster = NULL;
  int rc = chi_cluster_open("sim:nodes=3,seed=1,sched_threads=1,heartbeat_interval=500ms,"
                            "task_timeout=2s,wait_for_restart=1s,first_busy_wait=0",
                            modules, 1, &cluster, err);
  if (rc == CHI_OK)
    rc = chi_cluster_pool_create(cluster, 0, "bdev", "device", params, 2, &id, err);
  if (rc == CHI_OK) {
    *p = (struct promise){0};
    p->client = chi_cluster_client(cluster, 0, small_run, p);
    return cluster;
  }
  chi_cluster_close(cluster);
  return NULL;
}

/* How many moments the run has when nothing goes wrong; 0: it goes wrong by itself. */
static uint64_t corner_length(bool every)
{
  struct promise p;
  chi_error err = {0, ""};
  chi_cluster *cluster = corner_open(&p, &err);
  struct moments m = {.every = every, .client = p.client};
  if (!cluster)
    return 0;
  m.traced = chi_cluster_events(cluster);
  chi_cluster_run_until(cluster, client_has_ended, &m, TOWN_LONG);
  chi_cluster_close(cluster);
  return p.created && p.summed && p.hashed && p.asked && p.written && p.moved ? m.count : 0;
}

/* ---- many runs ----------------------------------------------------------------------------- */

/* What a run is: so many faults (1 or 2), the first after so many moments, the second after more.
 */
struct trial {
  bool every;
  uint32_t count, fault[2];
  uint64_t wait[2];
};

/* What some runs came to; a process tells it to its parent. */
struct tally {
  uint64_t number, runs, failed;
  char wrong[500]; /* the first failure */
};

static void corner_tell(struct tally *tally, const struct trial *trial, const char *wrong)
{
  size_t used = 0;
  if (tally->failed++ > 0)
    return;
  for (uint32_t i = 0; i < trial->count; i++)
    used += (size_t)snprintf(tally->wrong + used, sizeof(tally->wrong) - used,
                             "%s %u after %llu moments, ",
                             chi_fault_name(kinds[trial->fault[i] / NODES]),
                             trial->fault[i] % NODES, (unsigned long long)trial->wait[i]);
  snprintf(tally->wrong + used, sizeof(tally->wrong) - used, "%s", wrong);
}

static void corner_run(struct tally *tally, const struct trial *trial)
{
  struct promise p;
  const chi_failure *failure;
  chi_error err = {0, ""};
  chi_cluster *cluster = corner_open(&p, &err);
  if (cluster) {
    for (uint32_t i = 0; i < trial->count; i++)
      corner_fault(cluster, trial->every, trial->wait[i], trial->fault[i]);
    p.alone = trial->count == 2 && trial->fault[0] == CRASH_OF_CREATOR &&
              trial->fault[1] == CRASH_OF_CREATOR;
    if (chi_cluster_settle(cluster, 60 * TOWN_SECOND) == CHI_OK) {
      chi_cluster_client(cluster, 0, judges, &p);
      chi_cluster_run_idle(cluster, 60 * TOWN_SECOND);
      chi_cluster_stop(cluster, CHI_CLUSTER_ALL, 100);
    }
    failure = chi_cluster_failure(cluster);
    if (failure)
      snprintf(err.text, sizeof(err.text), "%s: %.300s", failure->check, failure->text);
  }
  tally->runs++;
  if (err.text[0])
    corner_tell(tally, trial, err.text);
  chi_cluster_close(cluster);
}

/* Every stride-th run, of those the one in `jobs`. */
struct share {
  bool every;
  uint64_t length, stride, job, jobs;
};

/* How far the first process is, for whoever waits for all of them (CORNER_PROGRESS). */
static void corner_progress(const struct share *share, const struct tally *tally)
{
  uint64_t pairs = share->length * (share->length + 1) / 2 * FAULTS * FAULTS;
  if (share->job == 0 && !share->every && getenv("CORNER_PROGRESS") && tally->number % 500 == 0)
    fprintf(stderr, "\rcorner: %4.1f %% of %llu pairs, %llu failed so far",
            100.0 * (double)tally->number / (double)pairs, (unsigned long long)pairs,
            (unsigned long long)tally->failed);
}

static void corner_try(const struct share *share, struct tally *tally, const struct trial *trial)
{
  uint64_t number = tally->number++;
  corner_progress(share, tally);
  if (number % share->stride == 0 && number / share->stride % share->jobs == share->job)
    corner_run(tally, trial);
}

static void corner_singles(const struct share *share, struct tally *tally)
{
  struct trial trial = {.every = share->every, .count = 1};
  for (trial.wait[0] = 0; trial.wait[0] < share->length; trial.wait[0]++)
    for (trial.fault[0] = 0; trial.fault[0] < FAULTS; trial.fault[0]++)
      corner_try(share, tally, &trial);
}

static void corner_pairs(const struct share *share, struct tally *tally)
{
  struct trial trial = {.every = share->every, .count = 2};
  for (trial.wait[0] = 0; trial.wait[0] < share->length; trial.wait[0]++)
    for (trial.wait[1] = 0; trial.wait[0] + trial.wait[1] < share->length; trial.wait[1]++)
      for (uint32_t pair = 0; pair < FAULTS * FAULTS; pair++) {
        trial.fault[0] = pair / FAULTS;
        trial.fault[1] = pair % FAULTS;
        corner_try(share, tally, &trial);
      }
}

typedef void corner_fn(const struct share *share, struct tally *tally);

/* Lets a process do a share; where it tells the tally, or -1. */
static int corner_fork(corner_fn *fn, const struct share *share)
{
  struct tally tally = {0};
  int ends_of[2];
  if (pipe(ends_of) != 0)
    return -1;
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    fn(share, &tally);
    ssize_t told = write(ends_of[1], &tally, sizeof(tally));
    _exit(told != (ssize_t)sizeof(tally));
  }
  close(ends_of[1]);
  return ends_of[0];
}

static void corner_gather(int from, struct tally *all)
{
  struct tally tally;
  if (from < 0 || read(from, &tally, sizeof(tally)) != (ssize_t)sizeof(tally)) {
    tally = (struct tally){.failed = 1, .wrong = "a process died"};
    tally.number = all->number;
  }
  if (from >= 0)
    close(from);
  if (tally.failed && !all->failed)
    memcpy(all->wrong, tally.wrong, sizeof(all->wrong));
  all->number = tally.number;
  all->runs += tally.runs;
  all->failed += tally.failed;
}

static void corner_all(corner_fn *fn, bool every, uint64_t stride, struct tally *all)
{
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  struct share share = {every, corner_length(every), stride, 0, cores < 1 ? 1 : (uint64_t)cores};
  int from[JOBS_MAX];
  *all = (struct tally){0};
  if (share.jobs > JOBS_MAX)
    share.jobs = JOBS_MAX;
  if (share.length == 0)
    *all = (struct tally){.failed = 1, .wrong = "the run without faults fails"};
  if (share.length == 0)
    return;
  for (; share.job < share.jobs; share.job++)
    from[share.job] = corner_fork(fn, &share);
  for (uint64_t i = 0; i < share.jobs; i++)
    corner_gather(from[i], all);
  while (wait(NULL) > 0)
    continue;
  if (!every && getenv("CORNER_PROGRESS"))
    fputc('\n', stderr);
  printf("corner: %llu of %llu runs with %s at each of %llu moments, %llu failed\n",
         (unsigned long long)all->runs, (unsigned long long)all->number,
         every ? "a fault" : "two faults", (unsigned long long)share.length,
         (unsigned long long)all->failed);
}

static uint64_t corner_stride(void)
{
  const char *set = getenv("CORNER_STRIDE");
  uint64_t stride = set ? strtoull(set, NULL, 10) : USUAL_STRIDE;
  return stride ? stride : 1;
}

TEST(corner_of_single_faults)
{
  struct tally all;
  TOWN_NEEDS_NET;
  corner_all(corner_singles, true, 1 + corner_stride() / (USUAL_STRIDE + 1), &all);
  CHECK_STR(all.wrong, "");
}

TEST(corner_of_pairs)
{
  struct tally all;
  TOWN_NEEDS_NET;
  corner_all(corner_pairs, false, corner_stride(), &all);
  CHECK_STR(all.wrong, "");
}
