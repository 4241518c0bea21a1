/* real_relay.h - what can go wrong with a network, for nodes on this host: each connection between
 * two of them goes through a relay, which holds back, delays and breaks.
 *
 * A relay is a thread that accepts connections at an address for each way from one node to another,
 * and connects each of them to the node. What it does is what a bad network does to TCP: bytes keep
 * their order, and none is lost but with its connection. A cut lets no byte of one node through to
 * the other, whoever has connected: answers of the transport don't get through either, so that the
 * way back ends, too, as soon as the transport has lost its patience. */
#ifndef CHI_REAL_RELAY_H
#define CHI_REAL_RELAY_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#define REAL_RELAY_NODES 16u /* at most: there is an address for each pair */
#define REAL_RELAY_ADDRESS 32u

struct real_relay;

/* For nodes 0 to n - 1, which are at these addresses ("127.0.0.1") and this port. CHI_EBUSY: an
 * address is in use; CHI_ENOMEM. */
CHI_PRIVATE int real_relay_open(const chi_host *nodes, uint32_t count, uint32_t port,
                                struct real_relay **out, chi_error *err);
/* Breaks all connections. NULL is fine. */
CHI_PRIVATE void real_relay_close(struct real_relay *relay);
/* Where node `from` finds node `to`. */
CHI_PRIVATE void real_relay_address(uint32_t from, uint32_t to, char out[REAL_RELAY_ADDRESS]);
/* A fault of the network, of nodes that are there. CHI_ENOTSUP: it isn't one, or can't be done.
 * Any thread. */
CHI_PRIVATE int real_relay_fault(struct real_relay *relay, chi_fault kind, uint32_t a, uint32_t b,
                                 int64_t value);
/* Whether there is a way to do that. */
CHI_PRIVATE bool real_relay_can(chi_fault kind);

#endif
#endif
