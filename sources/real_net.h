/* real_net.h - the other nodes, over ZeroMQ: net_open, net_send, net_reset and net_close of a node.
 *
 * Each node binds a PULL socket at its own address and has one PUSH socket for each other node: a
 * connection carries messages one way, and no reply has to find its way back through it, since
 * messages name their sender. Order, whole messages and bounded queues are ZeroMQ's. A PUSH socket
 * lives as long as its connection: when that is gone, so is all that waited for it, and a new
 * socket tries.
 *
 * Everything happens on the network worker's thread, but for the release of bulk frames, which
 * ZeroMQ's own thread tells; it goes through an inbox. */
#ifndef CHI_REAL_NET_H
#define CHI_REAL_NET_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

/* What the network tells its owner, in real_net_turn only; as runtime_on_*. */
struct real_net_owner {
  void *arg;
  void (*message)(void *arg, const struct env_frame *frame, uint32_t count);
  void (*peer)(void *arg, uint32_t peer, bool connected);
  void (*sent)(void *arg, void *parcel);
};

#define REAL_NET_FIRST_MAX (4u << 20)    /* bytes of frame 0; a message with more is dropped */
#define REAL_NET_PINNED_MAX (64u << 20)  /* bulk on its way to a peer, from which on it is busy */

/* Adds net_open and the like to the environment of a node, whose loop is open already and stays so
 * until net_close. Of *config, which stays valid, it looks at the level of the log, at how much
 * bulk data is taken, and at the keys of security. CHI_ENOMEM. */
CHI_PRIVATE int real_net_bind(struct real_env *r, const struct real_net_owner *owner,
                              const chi_config *config);
/* Frees what real_net_bind made; after net_close. */
CHI_PRIVATE void real_net_unbind(struct real_env *r);

/* As net_send of the environment; but the message is lost on its way, and nobody hears of it. */
CHI_PRIVATE int real_net_lose(struct env *env, uint32_t peer, const struct env_frame *frame,
                              uint32_t count, void *parcel);

/* Between steps: tells the owner what has happened. True: there is more, so don't sleep. */
CHI_PRIVATE bool real_net_turn(struct real_env *r);
/* For a spin between steps: something has arrived. It costs a system call. */
CHI_PRIVATE bool real_net_ready(struct real_env *r);

#endif
#endif
