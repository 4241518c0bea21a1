/* real_zap.h - the door-keeper of an encrypted network: ZeroMQ asks it (ZAP, RFC 27) whether the
 * public key of one who connects is authorised; it also notices when the directory of keys changes.
 *
 * It belongs to the network worker's loop: a connection waits for its answer, nobody else does. */
#ifndef CHI_REAL_ZAP_H
#define CHI_REAL_ZAP_H

#include "real_keys.h"

#ifndef CHI_OMIT_REAL

#include "env.h"
#include "log.h"

struct ev_loop;
struct real_zap;

struct real_zap_owner {
  void *arg;
  /* The node has another key now, or none: what was said with the old one is over. */
  void (*changed)(void *arg, uint32_t node);
};

#define REAL_ZAP_DOMAIN "chimaera"

/* Answers for all sockets of the context that have a domain; before the first one is bound. keys,
 * log and the loop outlive it. CHI_ENOMEM: no descriptors or memory. */
CHI_PRIVATE int real_zap_open(struct real_zap **out, void *context, struct ev_loop *ev,
                              struct env *env, const struct log *log, struct real_keys *keys,
                              const struct real_zap_owner *owner);
/* Before the context ends. NULL does nothing. */
CHI_PRIVATE void real_zap_close(struct real_zap *z);

#endif
#endif
