/* tape.c - what a node heard and did, item by item: written and read again by the same calls. */
#include "tape.h"
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

#define TAPE_HEAD 20u          /* mark, number, size, checksum of the content, of these four */
#define TAPE_MARK 0x4b4c4231u  /* of a block */
#define TAPE_LAST 0x444e4531u  /* of the last: the number of items and their hash */
#define TAPE_NUMBER 'n'        /* tags of what is said */
#define TAPE_STRING 's'
#define TAPE_HASHED 'h'
#define TAPE_SHOWN 300u        /* characters of an item, for people */

/* ---- bytes ----------------------------------------------------------------------------------- */

static void tape_put(unsigned char *to, uint64_t value, uint32_t bytes)
{
  for (uint32_t i = 0; i < bytes; i++)
    to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t tape_get(const unsigned char *from, uint32_t bytes)
{
  uint64_t value = 0;
  for (uint32_t i = bytes; i > 0; i--)
    value = value << 8 | from[i - 1];
  return value;
}

void tape_lose(struct tape *t, enum tape_end end, const char *fmt, ...)
{
  va_list args;
  if (t->end == TAPE_GOES_ON || t->end == TAPE_COMPLETE) {
    t->end = end;
    t->why.code = CHI_ECORRUPT;
    va_start(args, fmt);
    vsnprintf(t->why.text, sizeof t->why.text, fmt, args);
    va_end(args);
  }
  if (t->lost)
    t->lost(t->arg);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void tape_store_write(struct tape *t, const void *data, size_t size)
{
  if (t->failed == CHI_OK)
    t->failed = t->store.write(t->store.arg, data, size);
}

static void tape_block_write(struct tape *t, uint32_t mark)
{
  tape_put(t->head, mark, 4);
  tape_put(t->head + 4, t->blocks, 4);
  tape_put(t->head + 8, t->size, 4);
  tape_put(t->head + 12, hash_crc32c(0, t->block, t->size), 4);
  tape_put(t->head + 16, hash_crc32c(0, t->head, 16), 4);
  tape_store_write(t, t->head, TAPE_HEAD);
  tape_store_write(t, t->block, t->size);
  t->blocks++;
  t->size = 0;
}

void tape_flush(struct tape *t)
{
  if (t->mode == TAPE_WRITES && t->size > 0)
    tape_block_write(t, TAPE_MARK);
}

void tape_finish(struct tape *t)
{
  tape_flush(t);
  tape_put(t->block, t->items, 8);
  tape_put(t->block + 8, hash_stream_finish(&t->hash), 8);
  t->size = 16;
  tape_block_write(t, TAPE_LAST);
  t->mode = TAPE_OFF;
}

int tape_write(struct tape *t, const struct tape_store *store)
{
  unsigned char begin[12];
  t->mode = TAPE_WRITES;
  t->store = *store;
  hash_stream_init(&t->hash, TAPE_VERSION);
  memcpy(begin, TAPE_MAGIC, 8);
  tape_put(begin + 8, TAPE_VERSION, 4);
  tape_store_write(t, begin, sizeof begin);
  return t->failed;
}

static bool tape_cannot_read(struct tape *t, int64_t rc)
{
  t->end = TAPE_FOREIGN;
  error_set(&t->why, (int)rc, "cannot be read: %s", chi_status_text((int)rc));
  return false;
}

bool tape_read(struct tape *t, const struct tape_store *store)
{
  unsigned char begin[12];
  t->mode = TAPE_READS;
  t->store = *store;
  hash_stream_init(&t->hash, TAPE_VERSION);
  int64_t n = store->read(store->arg, begin, sizeof begin);
  if (n < 0)
    return tape_cannot_read(t, n);
  uint32_t version = (uint32_t)tape_get(begin + 8, 4);
  if (n < (int64_t)sizeof begin || memcmp(begin, TAPE_MAGIC, 8) != 0) {
    t->end = TAPE_FOREIGN;
    error_set(&t->why, CHI_ECORRUPT, "is not a record of a node");
    return false;
  }
  if (version != TAPE_VERSION) {
    t->end = TAPE_FOREIGN;
    error_set(&t->why, CHI_EVERSION, "is a record of version %u; this program reads version %u",
              version, TAPE_VERSION);
    return false;
  }
  t->place = sizeof begin;
  return true;
}

bool tape_tail(const unsigned char *tail, uint64_t *items, uint64_t *hash)
{
  const unsigned char *end = tail + TAPE_HEAD;
  *items = tape_get(end, 8);
  *hash = tape_get(end + 8, 8);
  return tape_get(tail, 4) == TAPE_LAST && tape_get(tail + 16, 4) == hash_crc32c(0, tail, 16) &&
         tape_get(tail + 12, 4) == hash_crc32c(0, end, TAPE_TAIL - TAPE_HEAD);
}

/* The end that was written: the same number of items, and the same hash. */
static void tape_reach_end(struct tape *t)
{
  uint64_t items = tape_get(t->block, 8), hash = tape_get(t->block + 8, 8);
  if (t->size == 16 && items == t->items && hash == hash_stream_finish(&t->hash))
    t->end = TAPE_COMPLETE;
  else
    tape_lose(t, TAPE_DIFFERS, "%llu items with hash %016llx were recorded, not %llu with %016llx",
              (unsigned long long)items, (unsigned long long)hash, (unsigned long long)t->items,
              (unsigned long long)hash_stream_finish(&t->hash));
}

/* Bytes of the file, all of them or none. False: it ends before. */
static bool tape_store_read(struct tape *t, void *data, size_t size, const char *what)
{
  int64_t n = size ? t->store.read(t->store.arg, data, size) : 0;
  if (n == (int64_t)size)
    return true;
  if (n < 0)
    tape_lose(t, TAPE_DAMAGED, "cannot be read at byte %llu: %s", (unsigned long long)t->place,
              chi_status_text((int)n));
  else if (n > 0 || size == t->size)
    tape_lose(t, TAPE_CUT, "the file ends at byte %llu, within the %s of block %u",
              (unsigned long long)(t->place + (uint64_t)n), what, t->blocks);
  else
    tape_lose(t, TAPE_CUT, "the file ends after block %u, without an end of the record: the node "
              "was killed, or is still running", t->blocks ? t->blocks - 1 : 0);
  return false;
}

/* The next block. False, where lost comes back: there is none. */
static bool tape_block_read(struct tape *t)
{
  if (t->end != TAPE_GOES_ON)
    return false;
  t->at = t->size = 0;
  if (!tape_store_read(t, t->head, TAPE_HEAD, "head"))
    return false;
  uint32_t mark = (uint32_t)tape_get(t->head, 4), size = (uint32_t)tape_get(t->head + 8, 4);
  uint64_t place = t->place;
  t->place += TAPE_HEAD;
  if (tape_get(t->head + 16, 4) != hash_crc32c(0, t->head, 16) || size > TAPE_BLOCK || size == 0 ||
      tape_get(t->head + 4, 4) != t->blocks || (mark != TAPE_MARK && mark != TAPE_LAST)) {
    tape_lose(t, TAPE_DAMAGED, "the head of block %u at byte %llu is damaged", t->blocks,
              (unsigned long long)place);
    return false;
  }
  t->size = size;
  if (!tape_store_read(t, t->block, size, "content"))
    return false;
  t->place += size;
  if (tape_get(t->head + 12, 4) != hash_crc32c(0, t->block, size)) {
    tape_lose(t, TAPE_DAMAGED, "block %u at byte %llu is damaged: its checksum does not fit",
              t->blocks, (unsigned long long)place);
    return false;
  }
  t->blocks++;
  if (mark == TAPE_LAST) {
    t->at = size;
    tape_reach_end(t);
    return false;
  }
  return true;
}

/* ---- values ---------------------------------------------------------------------------------- */

static void tape_move(struct tape *t, void *data, uint64_t size, bool hashed)
{
  unsigned char *p = data;
  while (size > 0 && t->mode != TAPE_OFF) {
    uint32_t room = t->mode == TAPE_WRITES ? TAPE_BLOCK - t->size : t->size - t->at;
    if (room == 0) {
      if (t->mode == TAPE_WRITES)
        tape_flush(t);
      else if (!tape_block_read(t))
        break;
      continue;
    }
    uint32_t n = size < room ? (uint32_t)size : room;
    unsigned char *at = &t->block[t->mode == TAPE_WRITES ? t->size : t->at];
    if (t->mode == TAPE_WRITES) {
      memcpy(at, p, n);
      t->size += n;
    } else {
      memcpy(p, at, n);
      t->at += n;
    }
    if (hashed) /* where they cannot change any more */
      hash_stream_bytes(&t->hash, at, n);
    p += n;
    size -= n;
  }
  if (size == 0)
    return;
  memset(p, 0, size);
  if (t->mode == TAPE_READS)
    tape_lose(t, TAPE_DAMAGED, "the record ends within an item");
}

void tape_bytes(struct tape *t, void *data, uint64_t size)
{
  if (t->mode != TAPE_OFF)
    tape_move(t, data, size, true);
}

static uint32_t tape_shorten(unsigned char *to, uint64_t value)
{
  uint32_t n = 0;
  for (; value >= 0x80; value >>= 7)
    to[n++] = (unsigned char)(value | 0x80);
  to[n++] = (unsigned char)value;
  return n;
}

void tape_u64(struct tape *t, uint64_t *value)
{
  unsigned char byte[10];
  if (t->mode == TAPE_WRITES) {
    tape_move(t, byte, tape_shorten(byte, *value), false);
    hash_stream_u64(&t->hash, *value);
  } else if (t->mode == TAPE_READS) {
    *value = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
      tape_move(t, byte, 1, false);
      *value |= (uint64_t)(byte[0] & 0x7f) << shift;
      if (byte[0] < 0x80) {
        hash_stream_u64(&t->hash, *value);
        return;
      }
    }
    tape_lose(t, TAPE_DAMAGED, "a number that does not end");
  }
}

void tape_text(struct tape *t, char *text, size_t room)
{
  uint64_t size = t->mode == TAPE_WRITES ? strnlen(text, room - 1) : 0;
  tape_u64(t, &size);
  if (size >= room) {
    tape_lose(t, TAPE_DAMAGED, "a string of %llu bytes", (unsigned long long)size);
    size = 0;
  }
  tape_bytes(t, text, size);
  if (t->mode == TAPE_READS)
    text[size] = '\0';
}

/* ---- items ----------------------------------------------------------------------------------- */

int tape_next(struct tape *t)
{
  if (t->at == t->size && !tape_block_read(t))
    return 0;
  return t->block[t->at];
}

/* Reading: how the item at hand was recorded, for people. */
static void tape_show_kind(struct tape *t, int kind, char *text, size_t room)
{
  const char *name = t->name ? t->name(kind) : NULL;
  if (name)
    snprintf(text, room, "%s", name);
  else
    snprintf(text, room, "an item of unknown kind %d", kind);
}

static void tape_show(struct tape *t, int kind, const unsigned char *said, uint32_t size,
                      char *text, size_t room);

/* The values of the output that comes next in the record. */
static uint32_t tape_take_output(struct tape *t)
{
  uint64_t size = 0;
  tape_u64(t, &size);
  if (size > TAPE_SAID) {
    tape_lose(t, TAPE_DAMAGED, "an output of %llu bytes", (unsigned long long)size);
    size = 0;
  }
  tape_bytes(t, t->was, size);
  return (uint32_t)size;
}

/* Inputs have even kinds, outputs odd ones; size: of the output that was recorded. */
static void tape_differ(struct tape *t, int kind, int was, uint32_t size)
{
  char mine[TAPE_SHOWN], theirs[TAPE_SHOWN];
  if (was & 1)
    tape_show(t, was, t->was, size, theirs, sizeof theirs);
  else
    tape_show_kind(t, was, theirs, sizeof theirs);
  if (kind & 1)
    tape_show(t, kind, t->out, t->said, mine, sizeof mine);
  else
    tape_show_kind(t, kind, mine, sizeof mine);
  tape_lose(t, TAPE_DIFFERS, "item %llu: recorded was {%s}, and now comes {%s}",
            (unsigned long long)t->items, theirs, mine);
}

static void tape_kind(struct tape *t, int kind)
{
  unsigned char byte = (unsigned char)kind;
  if (t->mode == TAPE_READS) {
    int was = tape_next(t);
    if (was == 0) {
      tape_lose(t, TAPE_DIFFERS, "the record is at its end, and the node goes on");
    } else if (was != kind) {
      uint32_t size = 0;
      if (was & 1) {
        tape_move(t, &byte, 1, false);
        size = tape_take_output(t);
      }
      tape_differ(t, kind, was, size);
    }
  }
  tape_move(t, &byte, 1, false);
  hash_stream_u64(&t->hash, (uint64_t)kind);
  t->items++;
}

void tape_in(struct tape *t, int kind)
{
  CHI_ASSERT((kind & 1) == 0 && kind > 0 && kind < 256);
  t->said = 0;
  if (t->mode != TAPE_OFF)
    tape_kind(t, kind);
}

void tape_out(struct tape *t, int kind)
{
  CHI_ASSERT((kind & 1) == 1 && kind > 0 && kind < 255);
  t->out[0] = (unsigned char)kind;
  t->said = 1;
}

static void tape_say_tagged(struct tape *t, unsigned char tag, uint64_t value, size_t more)
{
  CHI_ASSERT(t->said + 11 + more <= sizeof t->out);
  t->out[t->said++] = tag;
  t->said += tape_shorten(&t->out[t->said], value);
}

void tape_say(struct tape *t, uint64_t value)
{
  if (t->mode != TAPE_OFF)
    tape_say_tagged(t, TAPE_NUMBER, value, 0);
}

void tape_say_bytes(struct tape *t, const void *data, size_t size)
{
  if (t->mode == TAPE_OFF)
    return;
  if (size > TAPE_SAID_LONG) {
    tape_say_tagged(t, TAPE_HASHED, hash_bytes(data, size, size), 0);
    return;
  }
  tape_say_tagged(t, TAPE_STRING, size, size);
  if (size > 0)
    memcpy(&t->out[t->said], data, size);
  t->said += (uint32_t)size;
}

void tape_said(struct tape *t)
{
  uint64_t size = t->said - 1;
  int kind = t->out[0];
  if (t->mode == TAPE_OFF)
    return;
  memmove(t->out, t->out + 1, size);
  t->said = (uint32_t)size;
  tape_kind(t, kind);
  if (t->mode == TAPE_WRITES) {
    tape_u64(t, &size);
    tape_bytes(t, t->out, size);
    return;
  }
  uint32_t was = tape_take_output(t);
  if (was != size || memcmp(t->was, t->out, size) != 0)
    tape_differ(t, kind, kind, was);
}

/* ---- for people ------------------------------------------------------------------------------ */

static uint64_t tape_lengthen(const unsigned char *from, uint32_t size, uint32_t *at)
{
  uint64_t value = 0;
  for (uint32_t shift = 0; shift < 64 && *at < size; shift += 7) {
    unsigned char byte = from[(*at)++];
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80)
      break;
  }
  return value;
}

static size_t tape_show_string(const unsigned char *from, uint64_t size, char *text, size_t room)
{
  bool plain = size > 0;
  for (uint64_t i = 0; i < size; i++)
    plain = plain && from[i] >= 0x20 && from[i] < 0x7f;
  int shown = (int)(size < 160 ? size : 160);
  int n = plain ? snprintf(text, room, " \"%.*s\"", shown, (const char *)from)
                : snprintf(text, room, " [%llu bytes: %016llx]", (unsigned long long)size,
                           (unsigned long long)hash_bytes(from, size, size));
  return n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
}

/* An output with its values: numbers, strings, and bytes by their hash. */
static void tape_show(struct tape *t, int kind, const unsigned char *said, uint32_t size,
                      char *text, size_t room)
{
  uint32_t at = 0;
  tape_show_kind(t, kind, text, room);
  size_t n = strlen(text);
  while (at < size && n + 1 < room) {
    unsigned char tag = said[at++];
    uint64_t value = tape_lengthen(said, size, &at);
    if (tag == TAPE_STRING) {
      value = value < size - at ? value : size - at;
      n += tape_show_string(&said[at], value, text + n, room - n);
      at += (uint32_t)value;
    } else {
      int more = tag == TAPE_NUMBER && value < 1u << 31
                     ? snprintf(text + n, room - n, " %llu", (unsigned long long)value)
                     : snprintf(text + n, room - n, " 0x%llx", (unsigned long long)value);
      n += more > 0 ? (size_t)more : 0;
    }
  }
}

#undef TAPE_HEAD
#undef TAPE_MARK
#undef TAPE_LAST
#undef TAPE_NUMBER
#undef TAPE_STRING
#undef TAPE_HASHED
#undef TAPE_SHOWN
