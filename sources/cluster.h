/* cluster.h - one handle on many nodes: what all kinds of clusters share, and what a kind does.
 *
 * A kind embeds struct chi_cluster at the beginning of its own and does what only it can. Specs,
 * checks, properties and reports are the same for all. */
#ifndef CHI_CLUSTER_H
#define CHI_CLUSTER_H

#include "base.h"

#define CLUSTER_COSTS 32u

/* What chi_cluster_open was asked for. */
struct cluster_spec {
  uint32_t nodes, up;
  uint64_t seed;
  uint64_t latency_ns, bandwidth; /* of the network between nodes, bytes a second; 0: as it is */
  const struct cluster_kind *kind; /* NULL: not in this build */
  uint32_t costs_set; /* of the simulation's costs, those that were given, and the values */
  uint64_t cost[CLUSTER_COSTS];
  chi_config config;              /* of every node, with as many hosts; open may take it away */
  const struct cluster_watch *watch; /* NULL: nobody */
  const char *path; /* of the hostfile of a cluster that is there; then nothing else is set */
};

/* Who wants to know of a cluster before anything happens in it. */
struct cluster_watch {
  void (*opened)(void *arg, chi_cluster *c);
  void *arg;
};

/* What faults that are drawn keep to; what is 0 is as the kind thinks fit. */
struct cluster_limits {
  uint64_t until_ns, outage_ns; /* from now on */
  uint64_t kinds;               /* a set of 1 << enum chi_fault */
  uint64_t each, down, swarm;
};

/* What a kind does; see the functions of the same names in chimaera.h. Nodes and kinds of faults
 * have been checked. NULL where it never can. */
struct cluster_kind {
  const char *name;
  /* Takes a key of a spec that only this kind has; CHI_ENOENT: it isn't one. NULL: has none. */
  int (*key)(struct cluster_spec *spec, const char *name, const char *value, chi_error *err);
  int (*open)(struct cluster_spec *spec, const chi_module *const *modules, uint32_t count,
              chi_cluster **out, chi_error *err);
  void (*close)(chi_cluster *c);
  bool (*is_up)(const chi_cluster *c, uint32_t node);
  int (*client)(chi_cluster *c, uint32_t node, chi_cluster_body *body, void *arg);
  void (*client_kill)(chi_cluster *c, uint32_t number);
  bool (*client_ended)(const chi_cluster *c, uint32_t number); /* 0: all of them have */
  void (*use)(chi_cluster *c, uint64_t ns); /* time of who calls: CPU, or sleep */
  int (*run)(chi_cluster *c, chi_cluster_fn *pred, void *arg, uint64_t limit_ns);
  int (*settle)(chi_cluster *c, uint64_t limit_ns);
  int (*stop)(chi_cluster *c, uint32_t node, uint32_t grace_ms);
  int (*fault)(chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b, int64_t value);
  int (*plan)(chi_cluster *c, const char *text, chi_error *err);
  int (*faults)(chi_cluster *c, const struct cluster_limits *limits, chi_error *err);
  uint64_t (*fault_count)(const chi_cluster *c, chi_fault kind);
  uint64_t (*now)(const chi_cluster *c);
  uint64_t (*hash)(const chi_cluster *c);
  uint64_t (*events)(const chi_cluster *c);
  void (*story)(chi_cluster *c, chi_put_fn *put, void *arg);
  void (*report)(const chi_cluster *c, chi_put_fn *put, void *arg); /* lines of its own; NULL */
  /* Where clients run at the same time as the test: holds the others off what is shared, while one
   * is inside, which may enter again. NULL: they don't. */
  void (*guard)(chi_cluster *c, bool enter);
};

struct cluster_check {
  char name[64];
  int when; /* enum chi_check_when */
  chi_check_fn *fn;
  void *arg;
};

enum cluster_claim { CLUSTER_ALWAYS, CLUSTER_SOMETIMES, CLUSTER_EVENTUALLY };

struct cluster_property {
  char name[64];
  enum cluster_claim claim;
  uint64_t told, held;
  chi_cluster_fn *pred; /* of CLUSTER_EVENTUALLY */
  void *arg;
};

struct chi_cluster {
  const struct cluster_kind *kind;
  uint32_t nodes;
  uint64_t seed;
  bool running; /* time runs: who calls now is called by it */
  bool failed;
  chi_failure failure;
  struct cluster_check check[CHI_CLUSTER_CHECKS_MAX];
  uint32_t checks, event_checks;
  struct cluster_property property[CHI_CLUSTER_PROPERTIES_MAX];
  uint32_t properties;
  chi_put_fn *put; /* the story's listener, or NULL */
  void *put_arg;
  bool (*counts)(void *arg, const char *check); /* whether its failure is one; NULL: all are */
  void *counts_arg;
};

/* As chi_cluster_open; watch, which may be NULL, is called when the cluster is there and nothing
 * has happened yet. */
CHI_PRIVATE int cluster_open(const char *spec, const chi_module *const *modules, uint32_t count,
                             const struct cluster_watch *watch, chi_cluster **out, chi_error *err);

/* For kinds. Fills in what is shared; the rest of *c is zero. */
CHI_PRIVATE void cluster_init(chi_cluster *c, const struct cluster_kind *kind,
                              const struct cluster_spec *spec);
/* Whether there are such nodes and operations for that kind of fault. */
CHI_PRIVATE bool cluster_fault_fits(const chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b);
/* Calls the checks that are due then; whether all hold, and no check has failed before. */
CHI_PRIVATE bool cluster_holds(chi_cluster *c, enum chi_check_when when);
/* Asks what must hold at last: NULL if all does, else the name of the first that does not. */
CHI_PRIVATE const char *cluster_missing(chi_cluster *c);

#endif
