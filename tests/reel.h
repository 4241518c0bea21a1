/* reel.h - a record in memory, for tests: what tape.h calls a store. */
#ifndef CHI_TEST_REEL_H
#define CHI_TEST_REEL_H

#include "tape.h"

struct reel {
  unsigned char *data;
  size_t size, room, at; /* at: reading */
  size_t refuse;         /* writes beyond that size fail; 0: none */
};

/* A store over a reel that is zeroed, or was written; reading begins anew. */
struct tape_store reel_store(struct reel *r);
void reel_free(struct reel *r);

#endif
