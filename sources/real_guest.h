/* real_guest.h - who is connected to our own door.
 *
 * A connection is a stranger's until a sound message of a node has come over it. Strangers are few,
 * for a short time, and may send little: who is not of the cluster takes neither all descriptors
 * nor all memory, and whoever is of it finds room, for strangers make it, the oldest first. One
 * thread, and what ZeroMQ's own does meanwhile. */
#ifndef CHI_REAL_GUEST_H
#define CHI_REAL_GUEST_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include "env.h"
#include "log.h"

struct ev_loop;
struct real_guest_book;

#define REAL_GUEST_STRANGERS 256u       /* connections beyond two of each node */
#define REAL_GUEST_EACH 4u              /* connections as one node: the latest; those before end */
#define REAL_GUEST_BYTES (1u << 20)     /* from a stranger, who is then hung up on */
#define REAL_GUEST_STAY_NS 10000000000u /* a stranger's */

/* Begins to watch `door`, a socket that isn't bound yet, on a port. `encrypted` is for the log. The
 * others outlive it. CHI_ENOMEM: no descriptors or memory. */
CHI_PRIVATE int real_guest_open(struct real_guest_book **out, void *context, void *door,
                                struct ev_loop *ev, struct env *env, const struct log *log,
                                uint32_t nodes, uint32_t port, bool encrypted);
/* The door stays. NULL does nothing. */
CHI_PRIVATE void real_guest_close(struct real_guest_book *g);

/* Takes note of who has come and gone. */
CHI_PRIVATE void real_guest_hear(struct real_guest_book *g);
/* Whether the connection is one of a node. */
CHI_PRIVATE bool real_guest_is_node(const struct real_guest_book *g, int fd);
/* A sound message of the node has come over this descriptor. */
CHI_PRIVATE void real_guest_introduce(struct real_guest_book *g, int fd, uint32_t node);
/* Hangs up on one; on all who are this node. */
CHI_PRIVATE void real_guest_dismiss(struct real_guest_book *g, int fd);
CHI_PRIVATE void real_guest_dismiss_node(struct real_guest_book *g, uint32_t node);
/* When all that had arrived was taken: hangs up on strangers who stay or send too much. */
CHI_PRIVATE void real_guest_look(struct real_guest_book *g);

#endif
#endif
