/* peer.h - the other nodes: who they are, which life of theirs this is, and the post between us.
 *
 * A node is its position in the host list. Each time it starts it has a higher boot number; every
 * message names the boots of both sides as the sender knows them, and one from or for another life
 * is refused. Records to one peer are gathered during a step of the network worker and leave
 * together in one message, or in some where they are many. Network worker only. See docs/wire.md.
 *
 * Meeting. A HELLO says which cluster, which life (boot, and a random number that tells two lives
 * with one boot apart), the highest boot of the other that was ever heard of, and whether it wants
 * an answer. It is sent when a connection comes up and again every poll period while it finds no
 * proper answer. A peer is met when its hello fits and names our present boot; it ends with the
 * connection, with another boot of either side, or with a refusal. */
#ifndef CHI_PEER_H
#define CHI_PEER_H

#include "base.h"
#include "env.h"
#include "log.h"
#include "wire.h"

#define PEER_BATCH (64u * 1024u)     /* bytes of records in one message */
#define PEER_EARLY 3072u             /* so many leave before the step ends */
#define PEER_BACKLOG (1024u * 1024u) /* bytes of records that wait for a full queue to have room */
#define PEER_RECORD_MAX (PEER_BATCH - WIRE_RECORD) /* bytes of one record */
#define PEER_RETRY_NS 1000000ull     /* a full queue is tried again */

struct peer_set;
struct peer_batch;

struct peer_past;

/* Small: a large cluster has as many as the square of its nodes. */
struct peer {
  uint64_t boot; /* highest of those whose hello fits: its records are heard; 0: none */
  uint64_t sent, received, bytes_sent, bytes_received; /* messages and bytes, bulk included */
  uint64_t room; /* bulk bytes that it takes at a time, once it is met */
  uint32_t node : 24;
  bool connected : 1; /* as the environment says */
  bool met : 1;     /* records can be sent: connected, and hellos were exchanged with this boot */
  bool refused : 1; /* it runs with other settings: nothing is sent but hellos */

  /* Private to peer.c. */
  bool confirmed : 1;      /* it knows our boot, as of this connection */
  bool queued : 1;         /* in the set's list of peers with something to send */
  uint32_t waiting;        /* bytes in the batches below */
  uint32_t flying;         /* parcels with the environment */
  uint32_t next;           /* in that list, 1 + its node; 0: none */
  uint64_t life;           /* random number of its life; 0: none */
  struct peer_batch *last; /* being filled; behind it, in a ring, those that wait, oldest first */
  struct peer_past *past;  /* NULL: nothing worth remembering */
};

/* All of them, in one block. */
struct peer_list {
  struct peer_set *set;
  struct peer peer[];
};

struct peer_set {
  struct env *env;
  const struct alloc *alloc;
  struct log *log;
  uint32_t self, count;
  uint64_t boot;    /* own */
  uint64_t cluster; /* digest over the normalised host list */
  uint64_t room;    /* bulk bytes that are taken here at a time: nobody sends more */
  const char *instance;
  struct peer *peer; /* by node; that of self is unused */
  uint64_t now;
  uint64_t dropped; /* messages that weren't sound, or of nobody in the list */

  /* Upcalls, set after peer_open and before the first message; none may be NULL. They may post
   * records. A record of a peer whose hello fits; HELLO and REFUSE are never among them. It is
   * valid during the call. */
  void (*on_record)(void *arg, struct peer *from, enum wire_kind kind, struct wire_in *record);
  /* News of a peer. former != peer->boot: another life of it, and what was sent to the one before
   * is not going to be answered (former 0: its first). Else the same life, and peer->met tells
   * whether records can be sent now; when they no longer can, what was posted may be lost. */
  void (*on_boot)(void *arg, struct peer *peer, uint64_t former);
  /* Our own boot had to be raised: somebody knew a higher one. All peers will see a new life; none
   * is met any more. */
  void (*on_reborn)(void *arg);
  /* Nobody reads the bulk frames of that parcel any more, sent or not. */
  void (*on_sent)(void *arg, void *parcel);
  void *arg;

  /* Private to peer.c. */
  const chi_host *hosts;
  uint64_t life;     /* own random number; not changed by being reborn */
  bool twice;        /* somebody else has our place: our boot isn't raised any more */
  uint64_t hello_at; /* hellos are repeated; 0: a poll period from the next flush on */
  uint32_t pending, pending_last; /* peers with something to send, 1 + node; 0: none */
  struct peer_batch *spare;       /* to begin the next one with; NULL: none */
  struct peer_batch *flying;      /* parcels with the environment, newest first */
  struct log_limit unsound, foreign, twin; /* noise doesn't hide what matters more */
};

/* Takes part in the network of config->hosts, which stay valid, as node `self`; a node that is
 * alone opens no network. CHI_ENOMEM, or what net_open says. */
CHI_PRIVATE int peer_open(struct peer_set *s, struct env *env, struct log *log,
                          const chi_config *config, uint32_t self, const char *instance,
                          chi_error *err);
/* Hands back every parcel through on_sent; so it is closed before those whom the upcalls reach.
 * Does nothing to a set that is zero. */
CHI_PRIVATE void peer_close(struct peer_set *s);

CHI_INLINE struct peer_set *peer_set_of(const struct peer *p)
{
  return CHI_CONTAINER_OF(p - p->node, const struct peer_list, peer)->set;
}

/* How many of its messages we have refused; and what holds back lines that complain of it. */
CHI_PRIVATE uint64_t peer_refusals(const struct peer *p);
CHI_PRIVATE struct log_limit *peer_complaints(struct peer *p);

/* Begins a record of at most `most` bytes (<= PEER_RECORD_MAX) for a peer; false: it isn't met, too
 * much waits for it, or no memory. Write it to *out, then peer_post, with nothing begun between; a
 * record that isn't posted is forgotten. Control records (`control`) find room even when others
 * don't, up to twice PEER_BACKLOG. */
CHI_PRIVATE bool peer_begin(struct peer *p, enum wire_kind kind, size_t most, bool control,
                            struct wire_out *out);
/* Ends it, with `count` bulk frames (<= WIRE_BULKS) that stay readable until on_sent(parcel), which
 * never comes before this returns; parcel is NULL if, and only if, there are none. */
CHI_PRIVATE void peer_post(struct peer *p, struct wire_out *out, const struct env_frame *bulk,
                           uint32_t count, void *parcel);
/* Sends what was gathered; at the end of every step. Returns when it wants to be called again:
 * soon while a queue is full, within poll_ns while a connected peer isn't met; UINT64_MAX. */
CHI_PRIVATE uint64_t peer_flush(struct peer_set *s, uint64_t now, uint64_t poll_ns);
/* Drops what waits for a peer, and the connection if it pins parcels: for a peer taken for dead.
 * Parcels that wait are handed back in this call, those with the environment soon; on_boot may be
 * called. */
CHI_PRIVATE void peer_reset(struct peer *p);
/* Somebody knows this boot of ours: unless ours is higher, this node is reborn with one above it.
 * Ignored if another daemon has our place. */
CHI_PRIVATE void peer_raise(struct peer_set *s, uint64_t boot);

/* A message from the network: any bytes. */
CHI_PRIVATE void peer_on_message(struct peer_set *s, uint64_t now, const struct env_frame *frame,
                                 uint32_t count);
CHI_PRIVATE void peer_on_link(struct peer_set *s, uint32_t node, bool connected);
/* `batch` is the parcel that net_send was given. */
CHI_PRIVATE void peer_on_sent(struct peer_set *s, void *batch);

#endif
