/* tape.h - what a node heard and did, item by item: written and read again by the same calls.
 *
 * An item is an input, whose values are written once and read again, or an output, which is written
 * once and compared with what is said the second time. Both are hashed. A file begins with
 * TAPE_MAGIC and a version; then come blocks, each with its place, length and checksums, and at
 * last, if the end was reached, the number of items and their hash. docs/simulation.md tells more.
 *
 * Whatever is wrong while reading is kept in `why` and ends in `lost`, which does not come back: so
 * nobody in between has to know. One thread. */
#ifndef CHI_TAPE_H
#define CHI_TAPE_H

#include "base.h"
#include "hash.h"

#define TAPE_MAGIC "chi-rec"   /* 8 bytes with the 0 at its end */
#define TAPE_VERSION 1u
#define TAPE_BLOCK 65536u      /* bytes of content of a block, at most */
#define TAPE_SAID 32768u       /* bytes of one output; longer strings are said by their hash */
#define TAPE_SAID_LONG 8192u   /* bytes of a string that is longer */

enum tape_mode { TAPE_OFF, TAPE_WRITES, TAPE_READS };

/* How reading ended. */
enum tape_end {
  TAPE_GOES_ON,
  TAPE_COMPLETE,  /* the end, with equal items and an equal hash */
  TAPE_CUT,       /* the record ends before its end: in the middle of a block or after one */
  TAPE_DIFFERS,   /* an output isn't what it was */
  TAPE_DAMAGED,   /* checksums or values that cannot be */
  TAPE_FOREIGN    /* no record, one of another version, or of something that is not there */
};

/* Where the bytes are. write: CHI_OK, or why not. read: how many, fewer at the end only, or a
 * negative chi_status. */
struct tape_store {
  void *arg;
  int (*write)(void *arg, const void *data, size_t size);
  int64_t (*read)(void *arg, void *data, size_t size);
};

struct tape {
  enum tape_mode mode;
  struct tape_store store;
  struct hash_stream hash;
  uint64_t items, place;            /* so far; of the block at hand in the file */
  uint32_t blocks, size, at;        /* of the block at hand: bytes in it, bytes read */
  unsigned char head[20], block[TAPE_BLOCK];
  uint32_t said;
  unsigned char out[TAPE_SAID], was[TAPE_SAID]; /* what is being said, and what was */
  const char *(*name)(int kind);    /* for people */
  void (*lost)(void *arg);          /* while reading, when there is no way on */
  void *arg;
  int failed;                       /* a write: nothing more is written */
  enum tape_end end;
  chi_error why;
};

/* Begins a record. *t is zero, but for name, lost and arg. CHI_OK or what write gave. */
CHI_PRIVATE int tape_write(struct tape *t, const struct tape_store *store);
/* Begins to read one; false: t->end and t->why say what is wrong with it. */
CHI_PRIVATE bool tape_read(struct tape *t, const struct tape_store *store);
/* Writes what there is, so that it isn't lost if this process is. */
CHI_PRIVATE void tape_flush(struct tape *t);
/* Writes the end. */
CHI_PRIVATE void tape_finish(struct tape *t);

/* The end of a complete record, of the last TAPE_TAIL bytes of it. False: it is not complete. */
#define TAPE_TAIL 36u
CHI_PRIVATE CHI_UNUSED bool tape_tail(const unsigned char *tail, uint64_t *items, uint64_t *hash);

/* The kind of the next item; 0: there is none, and t->end says why. Reading. */
CHI_PRIVATE int tape_next(struct tape *t);

/* An input begins; its values follow. Reading: it must be of that kind. */
CHI_PRIVATE void tape_in(struct tape *t, int kind);
CHI_PRIVATE void tape_u64(struct tape *t, uint64_t *value);
/* Of a known size. */
CHI_PRIVATE void tape_bytes(struct tape *t, void *data, uint64_t size);
/* A string with its end, into `room` bytes. */
CHI_PRIVATE void tape_text(struct tape *t, char *text, size_t room);

/* An output begins, its values follow, and tape_said ends it: reading, it is compared. */
CHI_PRIVATE void tape_out(struct tape *t, int kind);
CHI_PRIVATE void tape_say(struct tape *t, uint64_t value);
CHI_PRIVATE void tape_say_bytes(struct tape *t, const void *data, size_t size);
CHI_PRIVATE void tape_said(struct tape *t);

/* There is no way on. Reading. */
CHI_PRIVATE void tape_lose(struct tape *t, enum tape_end end, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
