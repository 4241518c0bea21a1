/* session.h - clients as their node sees them: attach, lease memory, open queues, vanish.
 *
 * All of it belongs to the network worker. What workers touch of a client (its queues, its chunk
 * table) stays until its last task has ended. */
#ifndef CHI_SESSION_H
#define CHI_SESSION_H

#include "base.h"
#include "attach.h"
#include "env.h"
#include "queue.h"
#include "shm.h"
#include "worker.h"

#define SESSION_MOST 4096u       /* clients of a node */

struct session_chunk {
  struct env_segment segment;
  uint32_t kind;
  uint8_t state; /* enum session_chunk_state */
};

struct session {
  struct session *next;
  env_link link;
  struct env_peer peer;
  uint32_t id;
  bool greeted, gone;
  struct shm_table table;
  struct session_chunk *chunk; /* by chunk number */
  uint32_t chunk_count;
  uint64_t used[SHM_KINDS];
  struct queue *queues, *closing;
  uint32_t queue_count;
};

struct session_set {
  struct worker_crew *crew;
  const chi_config *config;
  struct attach_page *page;
  struct env_segment page_segment;
  uint64_t boot;
  struct session *first;
  uint32_t count, next_session, next_queue, next_fast, next_slow;
  uint64_t used[SHM_KINDS], budget[SHM_KINDS];
  uint64_t tend_at, tend_delay; /* while something is closing */
  bool draining;                /* nobody new is let in */
  bool strays;                  /* lanes may be with a worker of another kind */
  struct session *resting;      /* whose chunk keeps its pages for a moment; NULL: nobody's */
  uint32_t resting_chunk;
  uint64_t resting_until;
  struct log_limit limit;
};

CHI_PRIVATE int session_set_open(struct session_set *s, struct worker_crew *crew,
                                 const chi_config *config);
CHI_PRIVATE void session_set_close(struct session_set *s);

CHI_PRIVATE void session_connect(struct session_set *s, env_link link,
                                 const struct env_peer *peer);
CHI_PRIVATE void session_request(struct session_set *s, env_link link, const void *message,
                                 size_t size);
CHI_PRIVATE void session_hangup(struct session_set *s, env_link link);
/* Frees what nothing needs any more; when to look again, UINT64_MAX: nothing is closing. */
CHI_PRIVATE uint64_t session_tend(struct session_set *s, uint64_t now);
/* Closes every link: clients hear that the node is gone. */
CHI_PRIVATE void session_end_all(struct session_set *s);
CHI_PRIVATE uint64_t session_in_flight(const struct session *s);
/* Moves one lane from a worker that serves several in which tasks come, so that two workers share
 * what is too much for one. Returns 1, or 0. */
CHI_PRIVATE uint32_t session_spread(struct session_set *s, uint32_t from, uint32_t to);
/* Lanes that went to a worker of another kind go to one of their own that is not stuck, if there is
 * one again; how many. */
CHI_PRIVATE uint32_t session_bring_home(struct session_set *s);
/* Gives every lane of worker `from` to worker `to`; how many. */
CHI_PRIVATE uint32_t session_move_lanes(struct session_set *s, uint32_t from, uint32_t to);

#endif
