/* sim_link.h - connections between clients and nodes: messages in order, and hang-ups. */
#ifndef CHI_SIM_LINK_H
#define CHI_SIM_LINK_H

#include "base.h"
#include "env.h"
#include "sim_party.h"

struct sim_link;

enum sim_link_kind { SIM_LINK_CONNECT, SIM_LINK_REQUEST, SIM_LINK_REPLY, SIM_LINK_HANGUP };

/* Something on its way to one end of a link. */
struct sim_link_mail {
  struct sim_link_mail *next;
  struct sim_link *link;
  int kind;        /* enum sim_link_kind */
  uint32_t sender; /* the client's number; 0: a node */
  uint64_t due;
  uint64_t size;
  uint32_t count;
  struct {
    int kind; /* enum env_share_kind */
    struct sim_party_segment *segment;
    struct sim_party_bell *bell;
  } share[ENV_SHARES_MAX];
  unsigned char bytes[]; /* size of them */
};

/* Where a node hears of its links: mail in order. */
struct sim_link_port {
  struct sim_party *node;
  struct sim_thread *thread; /* its network worker, to be woken; NULL: none */
  struct sim_link_mail *first, **last;
};

CHI_PRIVATE void sim_link_port_init(struct sim_link_port *port, struct sim_party *node);
/* The next mail that is due, to be freed with sim_link_mail_free; NULL: none. Its link's handle on
 * the node's side goes to *link. */
CHI_PRIVATE struct sim_link_mail *sim_link_take(struct sim_link_port *port, env_link *link);
CHI_PRIVATE void sim_link_mail_free(struct sim_link_mail *mail);
/* When the next mail is due; SIM_WORLD_NEVER. */
CHI_PRIVATE uint64_t sim_link_due(const struct sim_link_port *port);

/* Of the running thread of a client. See env.h. */
CHI_PRIVATE env_link sim_link_connect(struct sim_party *client, struct sim_link_port *port);
CHI_PRIVATE int sim_link_call(struct sim_party *client, env_link link, const void *request,
                              size_t request_size, void *reply, size_t *size,
                              struct env_share *shares, uint32_t *count);
CHI_PRIVATE bool sim_link_owes(struct sim_party *client, env_link link);
CHI_PRIVATE int sim_link_wait(struct sim_party *client, env_link link, env_bell bell,
                              uint64_t deadline);
CHI_PRIVATE void sim_link_shut(struct sim_party *client, env_link link);

/* Of the network worker of a node. */
CHI_PRIVATE int sim_link_reply(struct sim_party *node, env_link link, const void *message,
                               size_t size, const struct env_share *shares, uint32_t count);
CHI_PRIVATE void sim_link_close(struct sim_link_port *port, env_link link);

/* Those that the node has not been told of: it can't give them back. */
CHI_PRIVATE void sim_link_close_unheard(struct sim_link_port *port);
/* A client, or a node, is no more: all of its links hang up. */
CHI_PRIVATE void sim_link_shut_all(struct sim_party *client);
CHI_PRIVATE void sim_link_close_all(struct sim_link_port *port);

#endif
