/* real_daemon.h - the nodes of a cluster on this host, each a process at an address of its own.
 *
 * With modules given as pointers they are forked from this process (real_nest), else they are
 * processes of the program chimaera ($CHIMAERA, or found on $PATH), whose modules come from
 * $CHI_MODULE_PATH. The network between them is a relay, as long as they are few. */
#ifndef CHI_REAL_DAEMON_H
#define CHI_REAL_DAEMON_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include "real_fault.h"
#include "real_nest.h"
#include "real_relay.h"

struct real_daemon {
  pid_t pid; /* 0: none runs */
  bool paused, stopping;
  bool serves; /* told by a node that was forked */
  bool ended;  /* by itself, and not because it was asked to */
  int status;  /* as of waitpid, of the last that ended */
  chi_error failure; /* why one that was forked did not start */
  struct real_fault fault; /* of its machine: stays as it is when another starts there */
};

struct real_daemon_set {
  uint32_t count;
  struct real_daemon *node; /* memory that processes share, as is the whole */
  chi_config config;        /* of every node, but for names and addresses */
  const chi_module **modules; /* NULL: they are processes of the program */
  uint32_t module_count;
  struct real_nest nest;
  struct real_relay *relay; /* NULL: they speak to each other directly */
  char dir[32];             /* of configurations and logs, and of what nodes write */
  pid_t owner;
};

/* For so many nodes as the configuration has hosts; takes it away. *d is zero, and in memory that
 * processes share. On failure there is nothing to close. */
CHI_PRIVATE int real_daemon_open(struct real_daemon_set *d, chi_config *config,
                                 const chi_module *const *modules, uint32_t count, chi_error *err);
/* Kills what runs, and removes all files. */
CHI_PRIVATE void real_daemon_close(struct real_daemon_set *d);
/* Starts a node that is down. It may still fail: who waits for it will see. */
CHI_PRIVATE int real_daemon_start(struct real_daemon_set *d, uint32_t node, chi_error *err);
/* Whether its process is there; as far as one can know, it serves. */
CHI_PRIVATE bool real_daemon_is_there(struct real_daemon_set *d, uint32_t node);
CHI_PRIVATE bool real_daemon_is_up(struct real_daemon_set *d, uint32_t node);
CHI_PRIVATE void real_daemon_kill(struct real_daemon_set *d, uint32_t node);
/* Freezes it, or lets it go on: then or before long none or all of its threads run. */
CHI_PRIVATE void real_daemon_pause(struct real_daemon_set *d, uint32_t node, bool pause);
/* Whether no thread of a process runs. */
CHI_PRIVATE bool real_daemon_is_still(pid_t pid);
/* What real_fault.h can do, to a node or, of memory, to all. */
CHI_PRIVATE int real_daemon_fault(struct real_daemon_set *d, chi_fault kind, uint32_t a, uint32_t b,
                                  int64_t value);
/* Asks it to stop; its process ends some time later. */
CHI_PRIVATE int real_daemon_ask_to_stop(struct real_daemon_set *d, uint32_t node,
                                        uint32_t grace_ms);
/* For chi_client_open. */
CHI_PRIVATE void real_daemon_instance(const struct real_daemon_set *d, uint32_t node,
                                      char out[CHI_NAME_MAX]);
/* Hands over the logs of all nodes, line by line. */
CHI_PRIVATE void real_daemon_logs(const struct real_daemon_set *d, chi_put_fn *put, void *arg);

/* What a node says of itself. */
struct real_daemon_view {
  uint64_t alive, met; /* nodes it sees; others that it can send to now */
  uint64_t pools, open; /* that it knows; tasks between nodes */
  char *json;           /* room for REAL_DAEMON_JSON */
};
#define REAL_DAEMON_JSON (1u << 20)

/* NULL: of the default instance. */
CHI_PRIVATE int real_daemon_ask(const char *instance, struct real_daemon_view *view,
                                chi_error *err);
/* Which of so many hosts the node that gave the view, `self`, has in another place of its own list
 * or not at all; `count` if that is longer; UINT32_MAX: none. A node alone has no list. */
CHI_PRIVATE uint32_t real_daemon_differs(const struct real_daemon_view *view, uint32_t self,
                                         const chi_host *hosts, uint32_t count);

#endif
#endif
