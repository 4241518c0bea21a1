/* watch.h - the figures of a daemon, or of all nodes of its cluster, asked again and again. */
#ifndef CHI_TOOL_WATCH_H
#define CHI_TOOL_WATCH_H

#include "base.h"
#include "cli.h"
#include "json.h"

#define WATCH_WAIT_NS 1000000000ull /* for the answers of one round, if nothing else is said */

enum watch_answer {
  WATCH_NONE,   /* not asked: it isn't there, as the asked daemon sees it */
  WATCH_FRESH,  /* it answered in this round */
  WATCH_LATE,   /* it was asked, in this round or before, and has not answered yet */
  WATCH_FAILED  /* the question ended with `code` */
};

/* What is known of one node. */
struct watch_node {
  uint32_t node;
  char host[CHI_NAME_MAX]; /* as in the hostfile; empty for a node that is alone */
  char state[16];          /* alive, suspected, dead or unknown, as the asked daemon sees it */
  uint64_t boot;
  int answer, code;        /* enum watch_answer, a chi_status */
  uint64_t silent_ns;      /* since its last answer, or since the first round; 0 if it is fresh */
  /* Its last answer, and the one before that; NULL: none. Answers of an earlier life are not kept
   * as `before`. text is that of `now`. */
  char *text;
  struct json *now, *before;

  /* private */
  struct watch_seat *seat; /* its question under way */
  uint64_t heard;
};

/* One daemon, by itself or as the door to its cluster. */
struct watch {
  struct cli_link *link;
  bool cluster;
  uint64_t wait_ns;
  uint32_t own, count;     /* the asked daemon's node; how many there are */
  struct watch_node *node; /* by node; the own one alone if it isn't for the cluster */

  /* private */
  struct watch_seat *seats;
  uint64_t began;
};

/* Begins to watch through a connection that stays open until watch_close. */
void watch_open(struct watch *w, struct cli_link *link, bool cluster, uint64_t wait_ns);
void watch_close(struct watch *w);

/* Asks every node that seems to be there and waits for the answers, wait_ns at most for the own
 * daemon and as long again for the others: who is late is not asked again until it has answered.
 * CHI_OK: the own daemon answered. CHI_ETIMEOUT: it didn't, and all is as it was before, but for
 * the time. Else it is gone, or there is no memory; *err tells. */
int watch_round(struct watch *w, chi_error *err);

/* The own node. After the first round that was CHI_OK. */
const struct watch_node *watch_own(const struct watch *w);
/* "fresh", "late" and so on: for people and for JSON. */
const char *watch_answer_name(const struct watch_node *node);
/* All of it as one JSON object. */
void watch_print_json(const struct watch *w, FILE *out);

#endif
