/* wire.h - bytes between nodes: bounded reading and writing, messages, records, tasks.
 *
 * Everything is little-endian and written field by field; nothing is read beyond its bounds, and
 * what doesn't fit is CHI_ECORRUPT. docs/wire.md describes each byte. Any thread. */
#ifndef CHI_WIRE_H
#define CHI_WIRE_H

#include "base.h"
#include "alloc.h"
#include "env.h"
#include "task.h"

#define WIRE_VERSION 2u
#define WIRE_MAGIC 0x31494843u /* "CHI1" */
#define WIRE_HEADER 64u        /* bytes of a message's header */
#define WIRE_AT_SENDER 24u     /* where all versions have the number of the sender */
#define WIRE_RECORD 8u         /* bytes of a record's header */
#define WIRE_MESSAGE_MAX (4u * 1024u * 1024u) /* bytes of frame 0 that are accepted */
#define WIRE_BULK_MAX (1ull << 32)            /* bytes of one bulk that are accepted */

enum wire_kind {
  WIRE_HELLO = 1, /* who I am, which life, with which settings */
  WIRE_REFUSE,    /* why a message was refused */
  WIRE_PROBE,     /* membership: are you there; gossip */
  WIRE_PROBE_ASK, /* probe somebody for me */
  WIRE_PROBE_ACK, /* I am here, or he is; gossip */
  WIRE_REQUEST,   /* a task, or a range of its replicas */
  WIRE_ANSWER,    /* its end */
  WIRE_ASK,       /* how is it going with these requests */
  WIRE_STATE,     /* running, or never seen */
  WIRE_CANCEL,    /* of a request */
  WIRE_ACK,       /* answers that have arrived and may be forgotten */
  WIRE_POOLS,     /* versions of pool entries */
  WIRE_POOL,      /* a pool entry */
  WIRE_DEPART,    /* the sender stops; or has heard that the receiver does */
  WIRE_KINDS
};

/* A writer: room bytes at data; what doesn't fit sets `failed`, and then nothing is written any
 * more. */
struct wire_out {
  unsigned char *data;
  size_t room, used;
  bool failed;
};
/* A reader: what isn't there sets `failed`, and then everything reads as zero. */
struct wire_in {
  const unsigned char *data;
  size_t size, at;
  bool failed;
  const struct env_frame *bulk; /* frames of this record that were not read yet */
  uint32_t bulk_count;
};

CHI_PRIVATE void wire_out_init(struct wire_out *out, void *data, size_t room);
/* Room for so many bytes, to be written by the caller; NULL: there is none. */
CHI_INLINE unsigned char *wire_reserve(struct wire_out *out, size_t size)
{
  if (CHI_UNLIKELY(out->failed || size > out->room - out->used)) {
    out->failed = true;
    return NULL;
  }
  out->used += size;
  return out->data + out->used - size;
}
CHI_PRIVATE void wire_put_bytes(struct wire_out *out, const void *data, size_t size);
/* A length of 16 bits and the bytes; text longer than 65535 bytes fails. */
CHI_PRIVATE void wire_put_text(struct wire_out *out, const char *text);

CHI_PRIVATE void wire_in_init(struct wire_in *in, const void *data, size_t size);
/* NULL: not there (never for no bytes, unless it failed). The bytes stay where they are. */
CHI_INLINE const void *wire_get_bytes(struct wire_in *in, size_t size)
{
  if (CHI_UNLIKELY(in->failed || size > in->size - in->at)) {
    in->failed = true;
    return NULL;
  }
  in->at += size;
  return in->data + in->at - size;
}
/* Into room bytes, with a NUL; one that is too long, or holds a NUL, fails and reads as "". */
CHI_PRIVATE void wire_get_text(struct wire_in *in, char *text, size_t room);
/* For checks of the caller: from now on it has failed. */
CHI_PRIVATE void wire_in_fail(struct wire_in *in);
/* Nothing failed and everything was read, bulk frames included. */
CHI_PRIVATE bool wire_in_ended(const struct wire_in *in);

/* ---- numbers; small, and there are twenty and more in each task's records */

CHI_INLINE uint64_t wire_little(uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

/* size: a constant, of an unsigned type. */
CHI_INLINE void wire_store(unsigned char *at, uint64_t v, size_t size)
{
  v = wire_little(v);
  memcpy(at, &v, size);
}

CHI_INLINE uint64_t wire_load(const unsigned char *at, size_t size)
{
  uint64_t v = 0;
  memcpy(&v, at, size);
  return wire_little(v);
}

#define WIRE_NUMBER(name, type)                                                                    \
  CHI_INLINE void wire_put_##name(struct wire_out *out, type v)                                    \
  {                                                                                                \
    unsigned char *at = wire_reserve(out, sizeof v);                                               \
    if (at)                                                                                        \
      wire_store(at, v, sizeof v);                                                                 \
  }                                                                                                \
  CHI_INLINE type wire_get_##name(struct wire_in *in)                                              \
  {                                                                                                \
    const unsigned char *at = wire_get_bytes(in, sizeof(type));                                    \
    return at ? (type)wire_load(at, sizeof(type)) : 0;                                             \
  }
WIRE_NUMBER(u8, uint8_t)
WIRE_NUMBER(u16, uint16_t)
WIRE_NUMBER(u32, uint32_t)
WIRE_NUMBER(u64, uint64_t)
#undef WIRE_NUMBER

/* ---- messages */

struct wire_header {
  uint16_t version;
  uint32_t records;
  uint64_t cluster;
  uint32_t from, to;
  uint64_t from_boot, to_boot; /* to_boot 0: not known, hellos and refusals only */
  uint32_t bulk;               /* frames that follow */
  uint64_t bulk_bytes;         /* in all of them */
};
/* Writes WIRE_HEADER bytes over the beginning of a finished frame 0 of `size` bytes, with its sum;
 * h->version is not looked at. */
CHI_PRIVATE void wire_header_put(unsigned char *frame, size_t size, const struct wire_header *h);
/* Checks magic, version, sizes, sum, the number and bytes of the frames that follow, and that the
 * records fill the message and share out its bulk frames: a message is sound as a whole or not at
 * all. CHI_ECORRUPT, CHI_EVERSION (then version, from and cluster are set, as they are at their
 * places in every version). *in is set to the records; their bulk begins at frame[1]. */
CHI_PRIVATE int wire_header_get(const struct env_frame *frame, uint32_t count,
                                struct wire_header *h, struct wire_in *in);
/* The sender that a message of any version names; false: it is no message. Nothing else of it was
 * looked at. */
CHI_PRIVATE bool wire_sender(const struct env_frame *frame, uint32_t *from);
/* Begins a record, which wire_record_end completes with its size and number of bulk frames. */
CHI_PRIVATE size_t wire_record_begin(struct wire_out *out, enum wire_kind kind);
CHI_PRIVATE void wire_record_end(struct wire_out *out, size_t begin, uint32_t bulk);
/* The next record of a message; false: there are no more, or in->failed. Its bulk frames are the
 * next ones of *bulk, which advances. Kinds that aren't known are passed over. */
CHI_PRIVATE bool wire_record_next(struct wire_in *in, const struct env_frame **bulk,
                                  uint32_t *bulk_left, enum wire_kind *kind,
                                  struct wire_in *record);

/* ---- tasks: the fields of a declared struct, without the header */

#define WIRE_BULK_INLINE 4096u /* bulk data up to this travels inside the record */
#define WIRE_BULKS 16u         /* bulk frames of one record */

/* An upper bound of what wire_task_put writes for this task; task NULL: for any task of the type.
 * The data of bulks larger than WIRE_BULK_INLINE is not counted: it travels in frames. */
CHI_PRIVATE size_t wire_task_size(const chi_type *type, const void *task, uint32_t dirs);
/* Writes the fields whose direction has a bit of dirs (enum chi_dir). Of a bulk, if so, size and
 * data; with CHI_DIR_IN also the size of one that is OUT only, so that the reader can make room.
 * Data larger than WIRE_BULK_INLINE is appended to frame[], *count of `room`, and must stay where
 * it is. size bytes of each bulk are read: who ran a method makes sure that it left no more in it
 * than there are. Counts, strings and bools are made sound as task_copy_out does. CHI_ETOOBIG: out
 * or frame[] has no room, or a bulk is above WIRE_BULK_MAX; CHI_EINVAL: a bulk has bytes and no
 * data. Then the record must be dropped, and *count is as it was. */
CHI_PRIVATE int wire_task_put(struct wire_out *out, const chi_type *type, const void *task,
                              uint32_t dirs, struct env_frame *frame, uint32_t *count,
                              uint32_t room);
/* Finds room for `size` bytes (not 0) of a bulk field and returns where they may be written; NULL:
 * CHI_ENOMEM. What it gave out is in task's bulk, also after a failure. */
typedef void *wire_bulk_fn(void *arg, const chi_field *field, chi_bulk *bulk, uint64_t size);
/* Reads them into a task that is zero, or holds what was sent. Each bulk that was written gets room
 * from `bulk`; its size is then what was announced, its ref 0. bulk NULL: the data goes where the
 * task's bulk points, whose size is the room there is, and becomes the bytes that came. Everything
 * is validated: counts within their arrays, strings that fit and end, bools 0 or 1, sizes of bulks
 * and their frames. CHI_ECORRUPT (in->failed, too), CHI_ENOMEM: the task holds part of it. */
CHI_PRIVATE int wire_task_get(struct wire_in *in, const chi_type *type, void *task, uint32_t dirs,
                              wire_bulk_fn *bulk, void *arg);

#endif
