/* sim_host.h - a simulated machine: the node on it, stepped by workers, with disk and clocks. */
#ifndef CHI_SIM_HOST_H
#define CHI_SIM_HOST_H

#include "base.h"
#include "runtime.h"
#include "skew.h"
#include "sim_io.h"
#include "sim_link.h"
#include "sim_net.h"

/* With what a node begins. The pointers are the user's. */
struct sim_host_setting {
  const chi_config *config; /* NULL: there is none */
  const chi_module *const *modules;
  uint32_t module_count;
};

struct sim_host_worker;

/* The brief worker, which the thread of the network worker steps, too. Its own thread stands in for
 * that one when it stays there. */
struct sim_host_brief {
  struct sim_host_worker *worker; /* NULL: there is none */
  uint64_t deadline;
  bool more, asleep;
  uint64_t late; /* when the network worker's thread is to be back */
  bool away;   /* it is in a step of this one */
  bool taken;  /* and the network worker was taken from it */
  bool wanted; /* it is back, and wants it again */
};

struct sim_host {
  struct sim_world *world;
  uint32_t number;
  char instance[32];
  struct sim_disk *disk;
  struct skew clock;
  uint32_t lives; /* begun so far: each draws other numbers */
  struct sim_net_port *net;
  struct sim_host_setting setting; /* the last */
  bool blocking_io;
  bool felled; /* down by a plan, or about to be */
  bool rises;  /* to be started by a plan, once it has stopped */
  bool up;     /* what follows is in use */
  struct sim_party party;
  struct sim_io io;
  struct sim_link_port port;
  struct rng cpu;
  struct runtime *runtime;
  struct sim_host_worker *worker;
  uint32_t worker_count;
  struct sim_host_brief brief;
  enum runtime_state state;
  bool paused, stop_asked;
  bool ended; /* it has stopped, and is to be finished */
  bool *some_ended;
  uint64_t grace_ns;
};

/* *some_ended becomes true whenever the node has stopped by itself. */
CHI_PRIVATE struct sim_host *sim_host_new(struct sim_world *world, struct sim_net *net,
                                          uint32_t number, bool *some_ended);
CHI_PRIVATE void sim_host_free(struct sim_host *host);

/* Opens a node on a machine where none is up, and lets its workers begin. */
CHI_PRIVATE int sim_host_open(struct sim_host *host, const struct sim_host_setting *setting,
                              chi_error *err);
/* Asks the node to stop. */
CHI_PRIVATE void sim_host_stop(struct sim_host *host, uint64_t grace_ns);
/* The runtime has stopped by itself: nothing of it may be left. */
CHI_PRIVATE void sim_host_finish(struct sim_host *host);
/* Everything of a run goes but the disk, with what is done to it now. `silent`: the machine is not
 * there to tell its peers. Not from one of its threads. */
CHI_PRIVATE void sim_host_clear(struct sim_host *host, enum sim_disk_crash how, bool silent);
/* Lets all its workers stand still, or go on. False: it is so already, or it isn't up. */
CHI_PRIVATE bool sim_host_pause(struct sim_host *host, bool pause);
/* After a change of host->clock. */
CHI_PRIVATE void sim_host_clocks_changed(struct sim_host *host);
CHI_PRIVATE void sim_host_tell(struct sim_host *host, enum sim_trace_node what);

/* Of the environment of every party on a machine. */
CHI_PRIVATE void sim_host_log(struct env *env, int level, const char *line);
CHI_PRIVATE void sim_host_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c);

#endif
