/* bench_raw.c - limits of the machine, measured without the runtime. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAW_LINE 64
#define RAW_RING 1024 /* entries of a ring */
#define RAW_BATCH 1000
#define RAW_PAUSES 50 /* before the first yield: about a microsecond */

extern char **environ;

void bench_pin(int cpu)
{
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < CPU_SETSIZE; i++) {
    if (cpu == BENCH_NOWHERE || cpu == i)
      CPU_SET(i, &set);
  }
  sched_setaffinity(0, sizeof(set), &set);
}

/* A word on a cache line of its own. */
struct raw_word {
  uint64_t value;
  char rest[RAW_LINE - sizeof(uint64_t)];
};

#define RAW_WORDS (RAW_LINE / sizeof(uint64_t))

struct raw_entry {
  uint64_t words[RAW_WORDS];
};

struct raw_ring {
  struct raw_word head, tail; /* of the consumer and of the producer */
  struct raw_entry entries[RAW_RING];
};

/* What the processes of one measurement share. */
struct raw_shared {
  struct raw_word stop, ready, ball;
  struct raw_word requests[BENCH_CLIENTS_MAX], replies[BENCH_CLIENTS_MAX];
  struct raw_word counts[BENCH_CLIENTS_MAX];
  struct raw_ring there, back;
};

static uint64_t raw_get(const struct raw_word *w)
{
  return __atomic_load_n(&w->value, __ATOMIC_ACQUIRE);
}

static void raw_set(struct raw_word *w, uint64_t value)
{
  __atomic_store_n(&w->value, value, __ATOMIC_RELEASE);
}

static void raw_pause(void)
{
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

static struct raw_shared *raw_open(void)
{
  struct raw_shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return s == MAP_FAILED ? NULL : s;
}

/* Runs `body` in a process of its own. */
static pid_t raw_fork(struct raw_shared *s, void (*body)(struct raw_shared *s, uint32_t index),
                      uint32_t index, int cpu)
{
  pid_t pid = fork();
  if (pid == 0) {
    bench_pin(cpu);
    body(s, index);
    _exit(0);
  }
  return pid;
}

static void raw_close(struct raw_shared *s, const pid_t *pids, uint32_t count)
{
  raw_set(&s->stop, 1);
  for (uint32_t i = 0; i < count; i++) {
    if (pids[i] > 0)
      waitpid(pids[i], NULL, 0);
  }
  munmap(s, sizeof(*s));
}

/* ---- one line --------------------------------------------------------------------------- */

static void raw_pong(struct raw_shared *s, uint32_t index)
{
  uint64_t seen = 0;
  (void)index;
  while (!raw_get(&s->stop)) {
    for (int i = 0; i < RAW_BATCH; i++) {
      if (raw_get(&s->ball) == seen + 1)
        raw_set(&s->ball, seen += 2);
      else
        raw_pause();
    }
  }
}

double bench_raw_pingpong(int cpu, int other, uint64_t ns)
{
  struct raw_shared *s = raw_open();
  uint64_t begin, now, ball = 0;
  pid_t pid;
  if (!s)
    return 0;
  pid = raw_fork(s, raw_pong, 0, other);
  bench_pin(cpu);
  begin = now = cli_now();
  while (pid > 0 && now - begin < ns) {
    for (int i = 0; i < RAW_BATCH; i++) {
      raw_set(&s->ball, ball + 1);
      ball += 2;
      while (raw_get(&s->ball) != ball)
        raw_pause();
    }
    now = cli_now();
  }
  bench_pin(BENCH_NOWHERE);
  raw_close(s, &pid, 1);
  return ball ? (double)(now - begin) / (double)(ball / 2) : 0;
}

/* ---- mailboxes -------------------------------------------------------------------------- */

/* A moment of waiting: pauses at first, later yields. *turns: how many so far. */
static void raw_wait(uint32_t *turns)
{
  if (++*turns < RAW_PAUSES)
    raw_pause();
  else
    sched_yield();
}

static void raw_mail_server(struct raw_shared *s, uint32_t clients)
{
  uint64_t seen[BENCH_CLIENTS_MAX] = {0};
  uint32_t turns = 0;
  while (!raw_get(&s->stop)) {
    bool found = false;
    for (uint32_t i = 0; i < clients; i++) {
      uint64_t request = raw_get(&s->requests[i]);
      if (request == seen[i])
        continue;
      seen[i] = request;
      raw_set(&s->replies[i], request);
      found = true;
    }
    if (found)
      turns = 0;
    else
      raw_wait(&turns);
  }
}

static void raw_mail_client(struct raw_shared *s, uint32_t index)
{
  uint64_t n = 0;
  uint32_t turns;
  while (!raw_get(&s->ready))
    sched_yield();
  while (!raw_get(&s->stop)) {
    raw_set(&s->requests[index], ++n);
    for (turns = 0; raw_get(&s->replies[index]) != n && !raw_get(&s->stop);)
      raw_wait(&turns);
    raw_set(&s->counts[index], n);
  }
}

static uint64_t raw_sum(const struct raw_shared *s, uint32_t clients)
{
  uint64_t sum = 0;
  for (uint32_t i = 0; i < clients; i++)
    sum += raw_get(&s->counts[i]);
  return sum;
}

double bench_raw_mailbox(uint32_t clients, uint64_t ns)
{
  struct raw_shared *s = raw_open();
  struct timespec pause = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
  pid_t pids[BENCH_CLIENTS_MAX + 1];
  uint64_t begin, end, sum;
  if (!s || clients > BENCH_CLIENTS_MAX)
    return 0;
  pids[clients] = fork();
  if (pids[clients] == 0) {
    raw_mail_server(s, clients);
    _exit(0);
  }
  for (uint32_t i = 0; i < clients; i++)
    pids[i] = raw_fork(s, raw_mail_client, i, BENCH_NOWHERE);
  begin = cli_now();
  raw_set(&s->ready, 1);
  nanosleep(&pause, NULL);
  sum = raw_sum(s, clients);
  end = cli_now();
  raw_close(s, pids, clients + 1);
  return sum ? (double)(end - begin) * clients / (double)sum : 0;
}

/* ---- rings ------------------------------------------------------------------------------ */

/* All 64 bytes travel, as they do with a task. */
static void raw_ring_fill(struct raw_entry *e, uint64_t value)
{
  for (uint64_t i = 0; i < RAW_WORDS; i++)
    *(volatile uint64_t *)&e->words[i] = value + i;
}

static uint64_t raw_ring_sum(const struct raw_entry *e)
{
  uint64_t sum = 0;
  for (uint64_t i = 0; i < RAW_WORDS; i++)
    sum += *(const volatile uint64_t *)&e->words[i];
  return sum;
}

static void raw_ring_server(struct raw_shared *s, uint32_t index)
{
  uint64_t n = 0;
  (void)index;
  for (;;) {
    while (raw_get(&s->there.tail) == n) {
      if (raw_get(&s->stop))
        return;
      raw_pause();
    }
    raw_ring_fill(&s->back.entries[n % RAW_RING], raw_ring_sum(&s->there.entries[n % RAW_RING]));
    n++;
    raw_set(&s->back.tail, n);
    raw_set(&s->there.head, n);
  }
}

double bench_raw_ring(int cpu, int other, uint32_t window, uint64_t ns)
{
  struct raw_shared *s = raw_open();
  uint64_t begin, now, sent = 0, got = 0;
  bool right = true;
  pid_t pid;
  if (!s || window > RAW_RING)
    return 0;
  pid = raw_fork(s, raw_ring_server, 0, other);
  bench_pin(cpu);
  begin = now = cli_now();
  while (pid > 0 && now - begin < ns && right) {
    for (int i = 0; i < RAW_BATCH; i++) {
      while (sent < got + window) {
        raw_ring_fill(&s->there.entries[sent % RAW_RING], sent);
        raw_set(&s->there.tail, ++sent);
      }
      while (raw_get(&s->back.tail) == got)
        raw_pause();
      /* Twice the sum of 0 to 7 was added, once on each way, and the first was sent 8 times. */
      right = right && raw_ring_sum(&s->back.entries[got % RAW_RING]) == 64 * got + 8 * 28 + 28;
      got++;
    }
    now = cli_now();
  }
  bench_pin(BENCH_NOWHERE);
  raw_close(s, &pid, 1);
  return right && now > begin ? (double)got * 1e9 / (double)(now - begin) : 0;
}

/* ---- memory ----------------------------------------------------------------------------- */

double bench_raw_copy(int cpu, uint64_t span, uint64_t piece, uint64_t ns)
{
  char *to = malloc(span), *from = malloc(4 * piece);
  uint64_t begin, now, copied = 0, n = 0;
  if (!to || !from) {
    free(to);
    free(from);
    return 0;
  }
  memset(to, 1, span);
  memset(from, 2, 4 * piece);
  bench_pin(cpu);
  begin = now = cli_now();
  for (; now - begin < ns || copied < span; n++) {
    char *source = from + n % 4 * piece;
    for (uint64_t i = 0; i < piece; i += 4096)
      memcpy(source + i, &n, sizeof(n));
    memcpy(to + n * piece % span, source, piece);
    __asm__ volatile("" : : "r"(to) : "memory");
    copied += piece;
    now = cli_now();
  }
  bench_pin(BENCH_NOWHERE);
  free(to);
  free(from);
  return (double)copied * 1e9 / (double)(now - begin);
}

double bench_raw_malloc(uint64_t size, uint64_t ns)
{
  uint64_t begin = cli_now(), now = begin, n = 0;
  for (; now - begin < ns; n += RAW_BATCH) {
    for (int i = 0; i < RAW_BATCH; i++) {
      void *volatile p = malloc(size);
      *(volatile char *)p = (char)i;
      free(p);
    }
    now = cli_now();
  }
  return (double)(now - begin) / (double)n;
}

/* ---- fio -------------------------------------------------------------------------------- */

static char *raw_read_all(int fd)
{
  size_t used = 0, room = (size_t)1 << 20;
  char *text = malloc(room);
  ssize_t n;
  while (text && used + 1 < room && (n = read(fd, text + used, room - used - 1)) != 0) {
    if (n < 0 && errno != EINTR)
      break;
    used += n > 0 ? (size_t)n : 0;
  }
  if (text)
    text[used] = '\0';
  return text;
}

/* Runs a program found in PATH, and gives what it prints; to be freed. */
static char *raw_output_of(char *const *argv)
{
  posix_spawn_file_actions_t actions;
  int ends[2], status = 0;
  char *text = NULL;
  pid_t pid;
  if (pipe2(ends, O_CLOEXEC) != 0)
    return NULL;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  if (posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ) != 0)
    pid = -1;
  close(ends[1]);
  if (pid > 0) {
    text = raw_read_all(ends[0]);
    waitpid(pid, &status, 0);
  }
  close(ends[0]);
  posix_spawn_file_actions_destroy(&actions);
  if (status != 0) {
    free(text);
    return NULL;
  }
  return text;
}

bool bench_raw_fio(const char *path, uint64_t size, bool writing, uint32_t depth, uint64_t ns,
                   double *out)
{
  char file[CHI_PATH_MAX + 16], bytes[40], many[40], time[40], mode[40];
  char *argv[] = {"fio",
                  "--name=raw",
                  file,
                  bytes,
                  mode,
                  "--bs=4k",
                  many,
                  "--ioengine=io_uring",
                  "--direct=1",
                  "--time_based=1",
                  time,
                  "--output-format=json",
                  "--thread=1",
                  "--norandommap",
                  "--randrepeat=0",
                  NULL};
  char *text, *start;
  struct json *json = NULL;
  chi_error err;
  snprintf(file, sizeof(file), "--filename=%s", path);
  snprintf(bytes, sizeof(bytes), "--size=%llu", (unsigned long long)size);
  snprintf(mode, sizeof(mode), "--rw=%s", writing ? "randwrite" : "randread");
  snprintf(many, sizeof(many), "--iodepth=%u", depth);
  snprintf(time, sizeof(time), "--runtime=%llums", (unsigned long long)(ns / 1000000));
  *out = 0;
  text = raw_output_of(argv);
  start = text ? strchr(text, '{') : NULL;
  if (start && json_parse(start, strlen(start), &json, &err) == CHI_OK)
    *out = json_number(json_get(json_list(json, "jobs"), writing ? "write" : "read"), "iops", 0);
  json_free(json);
  free(text);
  return *out > 0;
}
