/* bench.h - measuring: figures in rounds, the raw limits beside them, a daemon of one's own. */
#ifndef CHI_TOOL_BENCH_H
#define CHI_TOOL_BENCH_H

#include "cli.h"

#include <sys/types.h>

#define BENCH_ROUNDS_MAX 100
#define BENCH_CLIENTS_MAX 64
#define BENCH_NOWHERE (-1) /* a cpu: not pinned */

/* What all figures share. */
struct bench {
  const struct cli *cli;
  uint64_t rounds, round_ns;
  uint64_t idle_ns;
  char directory[CHI_PATH_MAX]; /* a temporary one, for configurations and the file of a bdev */
  bool verbose;
};

/* One figure in all rounds. raw 0: there is no raw limit. No rounds: it was skipped. */
struct bench_result {
  double ours[BENCH_ROUNDS_MAX], raw[BENCH_ROUNDS_MAX];
  uint32_t rounds;
  char note[160]; /* what else is worth knowing, or why it failed or was skipped */
};

/* The target of the first three is one of ours / raw, of the others one of ours. */
enum bench_unit {
  BENCH_NS,
  BENCH_PER_SECOND,
  BENCH_BYTES_PER_SECOND,
  BENCH_NS_ALONE,
  BENCH_EVENTS, /* per second */
  BENCH_BYTES,
  BENCH_PERCENT,
  BENCH_TIMES,
  BENCH_PER_DAY,
  BENCH_NUMBER
};

/* A row of the table. */
struct bench_figure {
  const char *name, *title;
  enum bench_unit unit;
  bool less;          /* less is better: the target is a most, else a least */
  double target;      /* 0: none */
  uint32_t parameter; /* clients, window, what the runner makes of it */
  /* Measures all rounds; returns false, with the note set, if it could not. */
  bool (*run)(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
};

/* ---- cmd_bench.c */

/* Makes b->directory in `directory`, or (NULL) where temporary files go; false: a message says why
 * not. bench_clean removes it and what is in it. */
bool bench_directory(struct bench *b, const char *directory);
void bench_clean(const struct bench *b);

/* ---- bench_daemon.c */

/* A daemon of one's own, as a process of this program with the module `bench` linked in. */
struct bench_daemon {
  pid_t pid;
  int input; /* the daemon ends when this descriptor is closed, also by our own end */
  char instance[CHI_NAME_MAX + 8];
};

/* Starts one with so many lines of configuration added to the defaults, pinned to a cpu or not,
 * and waits until it serves. False: the note says why. */
bool bench_daemon_start(const struct bench *b, const char *config, int cpu, struct bench_daemon *d,
                        char *note, size_t size);
/* The same for a node of a cluster: its number, and a hostfile of nodes that share the port. */
bool bench_daemon_join(const struct bench *b, const char *hostfile, uint32_t port, uint32_t node,
                       int cpu, struct bench_daemon *d, char *note, size_t size);
/* A port that this process takes for its daemons. */
uint32_t bench_daemon_port(void);
void bench_daemon_stop(struct bench_daemon *d);
/* What `chimaera bench --serve FILE` does. */
int bench_daemon_serve(const struct cli *cli, const char *file);
/* A client of it. */
bool bench_link(const struct bench_daemon *d, struct cli_link *link, char *note, size_t size);
/* Nanoseconds of CPU that all threads of a process have used so far; 0 if it is gone. */
uint64_t bench_cpu_time(pid_t pid);
/* Runs tasks for so long, `window` of them in flight, checking each; how many, 0 on failure. */
uint64_t bench_nops(struct cli_link *link, uint32_t window, uint64_t ns, uint64_t *took);

/* The module `bench` itself. */
const chi_module *bench_module(void);

/* How often the threads of a process have waited for something so far: of the one of that name, or
 * (NULL) of all. */
uint64_t bench_waits(pid_t pid, const char *thread);
/* Nanoseconds of CPU that its thread of that name has used so far; 0: the kernel doesn't tell. */
uint64_t bench_thread_time(pid_t pid, const char *thread);

bool bench_run_idle(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
bool bench_run_start(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
bool bench_run_memory(const struct bench *b, const struct bench_figure *f, struct bench_result *r);

/* ---- bench_raw.c: limits of the machine. Each measures for about `ns`; 0 on failure. */

/* Nanoseconds of a round trip on one cache line between two processes pinned to two cpus. */
double bench_raw_pingpong(int cpu, int other, uint64_t ns);
/* Nanoseconds of a round trip through a mailbox, of `clients` processes and one that serves them,
 * all spinning and yielding, none pinned. */
double bench_raw_mailbox(uint32_t clients, uint64_t ns);
/* Entries per second there and back through two rings of 64-byte entries, `window` of them on the
 * way, between two processes pinned to two cpus. */
double bench_raw_ring(int cpu, int other, uint32_t window, uint64_t ns);
/* Bytes per second copied into `span` bytes, `piece` at a time, pinned. */
double bench_raw_copy(int cpu, uint64_t span, uint64_t piece, uint64_t ns);
/* Nanoseconds of malloc and free of that size. */
double bench_raw_malloc(uint64_t size, uint64_t ns);
/* Operations per second of fio with io_uring on a file; false if there is no fio. */
bool bench_raw_fio(const char *path, uint64_t size, bool writing, uint32_t depth, uint64_t ns,
                   double *out);
/* The same by a loop of our own on a ring; false if the kernel has none for us. bench_uring.c */
bool bench_raw_uring(const char *path, uint64_t size, bool writing, uint32_t depth, uint64_t ns,
                     double *out);
/* Pins this thread to a cpu; BENCH_NOWHERE: to none. */
void bench_pin(int cpu);

/* ---- bench_task.c */

#define BENCH_SAMPLES 4096

/* Times, of which the first so many are kept. */
struct bench_samples {
  uint32_t count;
  uint64_t ns[BENCH_SAMPLES];
};
void bench_sample(struct bench_samples *s, uint64_t ns);
/* What half of them are at most; sorts them. UINT64_MAX: there are none. */
double bench_half(struct bench_samples *s);
/* Runs a task for the own node after a pause each, for so long; half took at most so many ns. 0: a
 * task failed. */
double bench_nops_calm(struct cli_link *link, uint64_t pause_ns, uint64_t ns);

/* ---- bench_zmq.c: what ZeroMQ alone does, between this process and others that answer */

#define BENCH_NODES_MAX 5
#define BENCH_PEERS_MAX 8
#define BENCH_BURST_MAX 256 /* messages on their way */

/* Messages there and back between a DEALER here and a ROUTER in each peer. A message has a first
 * part of `out` bytes, and a second one if bulk is not 0, which is sent from where it lies, with a
 * stamp in each page, received into a buffer and looked at there. The answer has `in` bytes. */
struct bench_exchange {
  uint32_t peers, window;
  uint64_t out, in, bulk;
  uint64_t pause_ns; /* before each message, of which one is on its way; 0: none */
  int cpu, other;    /* of this process and of the peers */
};
/* Messages answered per second, during about `ns`; with pauses, one over what half of the round
 * trips take at most. 0: something failed or was wrong. */
double bench_raw_exchange(const struct bench_exchange *x, uint64_t ns);
/* The stamps of bulk data, one in each page. */
void bench_stamp(void *data, uint64_t size, uint64_t stamp);
bool bench_stamped(const void *data, uint64_t size, uint64_t stamp);

/* ---- bench_remote.c: tasks for other nodes */

/* So many nodes on loopback addresses, and a client of node 0. */
struct bench_remote {
  uint32_t nodes;
  struct bench_daemon daemon[BENCH_NODES_MAX];
  struct cli_link link;
};
/* What node 0 has exchanged with the others so far. */
struct bench_traffic {
  double sent, received, bytes_sent, bytes_received; /* messages */
  double tasks;                                      /* sent in them */
};
/* cpus: where each daemon is pinned; NULL: nowhere. False: the note says why. */
bool bench_remote_open(const struct bench *b, uint32_t nodes, const int *cpus,
                       struct bench_remote *c, struct bench_result *r);
void bench_remote_close(struct bench_remote *c);
/* Runs tasks for all other nodes in turn, `window` at a time, of 64 bytes or with bulk of that size
 * if it is not 0, for about so long. How many in a second; 0: one failed or gave a wrong result. */
double bench_remote_run(struct bench_remote *c, uint32_t window, uint64_t size, uint64_t ns);
bool bench_remote_traffic(struct bench_remote *c, struct bench_traffic *out);
/* One task after the other, with a pause before each. How many; *half: half took at most so long.
 * 0: one failed. */
uint64_t bench_remote_calm(struct bench_remote *c, uint64_t pause_ns, uint64_t ns, double *half);

bool bench_run_remote_latency(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r);
bool bench_run_remote_rate(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r);
bool bench_run_remote_bulk(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r);
bool bench_run_remote_wakeups(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r);
bool bench_run_remote_idle(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r);

/* ---- bench_task.c, bench_io.c: our side of the same */

bool bench_run_latency_pinned(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r);
bool bench_run_latency(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
bool bench_run_rate(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
bool bench_run_allocation(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r);
bool bench_run_ram(const struct bench *b, const struct bench_figure *f, struct bench_result *r);
bool bench_run_file(const struct bench *b, const struct bench_figure *f, struct bench_result *r);

/* ---- bench_sim.c, bench_compile.c */
bool bench_run_sim_events(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r);
bool bench_run_sim_idle(const struct bench *b, const struct bench_figure *f,
                        struct bench_result *r);
bool bench_run_sim_probes(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r);
bool bench_run_sim_seeds(const struct bench *b, const struct bench_figure *f,
                         struct bench_result *r);
bool bench_run_sim_memory(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r);
bool bench_run_compile(const struct bench *b, const struct bench_figure *f, struct bench_result *r);

/* ---- bench_field.c: --test-case against a running daemon */
int bench_field_run(const struct cli *cli);

/* The task of the module `bench`: gives back what it got, plus one. */
#define BENCH_NOP(X, T) X(T, IN, u64, in) X(T, OUT, u64, out)
CHI_TASK(bench_nop, 10, BENCH_NOP)
/* Eight words there and back, each one more. */
#define BENCH_LINE(X, T)                                                                           \
  X(T, INOUT, u64, a) X(T, INOUT, u64, b) X(T, INOUT, u64, c) X(T, INOUT, u64, d)                  \
  X(T, INOUT, u64, e) X(T, INOUT, u64, f) X(T, INOUT, u64, g) X(T, INOUT, u64, h)
CHI_TASK(bench_line, 11, BENCH_LINE)
/* Looks at stamped data and says whether it is right. */
#define BENCH_BULK(X, T) X(T, IN, bulk, data) X(T, IN, u64, stamp) X(T, OUT, u64, right)
CHI_TASK(bench_bulk, 12, BENCH_BULK)
#define BENCH_POOL ((chi_pool_id){900, 0})
#define BENCH_POOL_CONFIG                                                                          \
  "compose:\n- {mod_name: bench, pool_name: bench, pool_query: local, pool_id: \"900.0\"}\n"

/* Writes to result->note; returns false. */
bool bench_note(struct bench_result *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for a figure that can't be measured here; returns true. */
bool bench_skip(struct bench_result *r, const char *why);

#endif
