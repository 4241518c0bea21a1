/* wire.c - bytes between nodes: bounded reading and writing, messages, records, tasks. */
#include "wire.h"

#include "hash.h"
#include "text.h"

/* ---- writing */

void wire_out_init(struct wire_out *out, void *data, size_t room)
{
  *out = (struct wire_out){.data = data, .room = room};
}

void wire_put_bytes(struct wire_out *out, const void *data, size_t size)
{
  unsigned char *at = size > 0 ? wire_reserve(out, size) : NULL;
  if (at)
    memcpy(at, data, size);
}

void wire_put_text(struct wire_out *out, const char *text)
{
  size_t size = strlen(text);
  if (size > UINT16_MAX || sizeof(uint16_t) + size > out->room - out->used) {
    out->failed = true;
    return;
  }
  wire_put_u16(out, (uint16_t)size);
  wire_put_bytes(out, text, size);
}

/* ---- reading */

void wire_in_init(struct wire_in *in, const void *data, size_t size)
{
  *in = (struct wire_in){.data = size > 0 ? data : (const void *)"", .size = size};
}

void wire_in_fail(struct wire_in *in)
{
  in->failed = true;
}

/* A string of `size` bytes into room bytes, of which it leaves one for its end. */
static void wire_get_string(struct wire_in *in, size_t size, char *text, size_t room)
{
  const unsigned char *at = wire_get_bytes(in, size);
  CHI_ASSERT(room > 0);
  text[0] = '\0';
  if (!at || size >= room || memchr(at, 0, size)) {
    in->failed = true;
    return;
  }
  memcpy(text, at, size);
  text[size] = '\0';
}

void wire_get_text(struct wire_in *in, char *text, size_t room)
{
  wire_get_string(in, wire_get_u16(in), text, room);
}

bool wire_in_ended(const struct wire_in *in)
{
  return !in->failed && in->at == in->size && in->bulk_count == 0;
}

/* ---- messages */

#define WIRE_SUM_AT 8u /* where a header has its sum, of all bytes but these four */

static uint32_t wire_sum(const unsigned char *frame, size_t size)
{
  static const unsigned char hole[4];
  uint32_t sum = hash_crc32c(0, frame, WIRE_SUM_AT);
  sum = hash_crc32c(sum, hole, sizeof hole);
  return hash_crc32c(sum, frame + WIRE_SUM_AT + sizeof hole, size - WIRE_SUM_AT - sizeof hole);
}

void wire_header_put(unsigned char *frame, size_t size, const struct wire_header *h)
{
  struct wire_out out;
  CHI_ASSERT(size >= WIRE_HEADER && size <= WIRE_MESSAGE_MAX);
  wire_out_init(&out, frame, WIRE_HEADER);
  wire_put_u32(&out, WIRE_MAGIC);
  wire_put_u16(&out, WIRE_VERSION);
  wire_put_u16(&out, WIRE_HEADER);
  wire_put_u32(&out, 0);
  wire_put_u32(&out, (uint32_t)size);
  wire_put_u64(&out, h->cluster);
  wire_put_u32(&out, h->from);
  wire_put_u32(&out, h->to);
  wire_put_u64(&out, h->from_boot);
  wire_put_u64(&out, h->to_boot);
  wire_put_u32(&out, h->records);
  wire_put_u32(&out, h->bulk);
  wire_put_u64(&out, h->bulk_bytes);
  CHI_ASSERT(!out.failed && out.used == WIRE_HEADER);
  wire_store(frame + WIRE_SUM_AT, wire_sum(frame, size), 4);
}

/* The records fill the rest, and are as many, with as many bulk frames, as the header says. */
static bool wire_records_fit(struct wire_in in, const struct wire_header *h)
{
  uint64_t bulk = 0;
  uint32_t records = 0;
  for (; in.at < in.size && !in.failed; records++) {
    uint32_t size = wire_get_u32(&in);
    uint32_t frames;
    (void)wire_get_u16(&in);
    frames = wire_get_u16(&in);
    if (frames > WIRE_BULKS)
      return false;
    bulk += frames;
    (void)wire_get_bytes(&in, size);
  }
  return !in.failed && records > 0 && records == h->records && bulk == h->bulk;
}

static bool wire_frames_fit(const struct env_frame *bulk, uint32_t count,
                            const struct wire_header *h)
{
  uint64_t bytes = 0;
  if (count != h->bulk)
    return false;
  for (uint32_t i = 0; i < count; i++) {
    if (bulk[i].size == 0 || bulk[i].size > WIRE_BULK_MAX)
      return false;
    bytes += bulk[i].size;
  }
  return bytes == h->bulk_bytes;
}

bool wire_sender(const struct env_frame *frame, uint32_t *from)
{
  struct wire_in in;
  if (frame->size < WIRE_HEADER || frame->size > WIRE_MESSAGE_MAX)
    return false;
  wire_in_init(&in, frame->data, (size_t)frame->size);
  bool ours = wire_get_u32(&in) == WIRE_MAGIC;
  (void)wire_get_bytes(&in, WIRE_AT_SENDER - sizeof(uint32_t));
  *from = wire_get_u32(&in);
  return ours;
}

int wire_header_get(const struct env_frame *frame, uint32_t count, struct wire_header *h,
                    struct wire_in *in)
{
  const unsigned char *data = count > 0 ? frame[0].data : NULL;
  uint64_t size = count > 0 ? frame[0].size : 0;
  *h = (struct wire_header){0};
  *in = (struct wire_in){0};
  if (size < WIRE_HEADER || size > WIRE_MESSAGE_MAX || count > ENV_FRAMES_MAX)
    return CHI_ECORRUPT;
  wire_in_init(in, data, (size_t)size);
  if (wire_get_u32(in) != WIRE_MAGIC)
    return CHI_ECORRUPT;
  h->version = wire_get_u16(in);
  uint16_t header = wire_get_u16(in);
  uint32_t sum = wire_get_u32(in);
  uint32_t bytes = wire_get_u32(in);
  h->cluster = wire_get_u64(in);
  h->from = wire_get_u32(in);
  if (h->version != WIRE_VERSION)
    return CHI_EVERSION;
  h->to = wire_get_u32(in);
  h->from_boot = wire_get_u64(in);
  h->to_boot = wire_get_u64(in);
  h->records = wire_get_u32(in);
  h->bulk = wire_get_u32(in);
  h->bulk_bytes = wire_get_u64(in);
  CHI_ASSERT(in->at == WIRE_HEADER && !in->failed);
  if (header != WIRE_HEADER || bytes != size || sum != wire_sum(data, (size_t)size))
    return CHI_ECORRUPT;
  if (!wire_frames_fit(frame + 1, count - 1, h) || !wire_records_fit(*in, h))
    return CHI_ECORRUPT;
  return CHI_OK;
}

size_t wire_record_begin(struct wire_out *out, enum wire_kind kind)
{
  size_t begin = out->used;
  CHI_ASSERT(kind >= WIRE_HELLO && kind < WIRE_KINDS);
  if (wire_reserve(out, WIRE_RECORD)) {
    wire_store(out->data + begin, 0, 4);
    wire_store(out->data + begin + 4, kind, 2);
    wire_store(out->data + begin + 6, 0, 2);
  }
  return begin;
}

void wire_record_end(struct wire_out *out, size_t begin, uint32_t bulk)
{
  if (out->failed)
    return;
  CHI_ASSERT(begin + WIRE_RECORD <= out->used && bulk <= WIRE_BULKS);
  wire_store(out->data + begin, out->used - begin - WIRE_RECORD, 4);
  wire_store(out->data + begin + 6, bulk, 2);
}

bool wire_record_next(struct wire_in *in, const struct env_frame **bulk, uint32_t *bulk_left,
                      enum wire_kind *kind, struct wire_in *record)
{
  while (in->at < in->size && !in->failed) {
    uint32_t size = wire_get_u32(in);
    uint16_t code = wire_get_u16(in);
    uint16_t frames = wire_get_u16(in);
    const void *data = wire_get_bytes(in, size);
    if (!data || frames > *bulk_left) {
      in->failed = true;
      break;
    }
    wire_in_init(record, data, size);
    record->bulk = *bulk;
    record->bulk_count = frames;
    if (frames > 0)
      *bulk += frames;
    *bulk_left -= frames;
    if (code >= WIRE_HELLO && code < WIRE_KINDS) {
      *kind = (enum wire_kind)code;
      return true;
    }
  }
  return false;
}

/* ---- tasks */

/* How the data of a bulk travels; the byte after its size. */
enum wire_bulk { WIRE_BULK_SIZE, WIRE_BULK_HERE, WIRE_BULK_FRAME };

static bool wire_is_written(const chi_field *f, uint32_t dirs)
{
  return (f->dir & dirs) || (f->kind == CHI_KIND_bulk && (dirs & CHI_DIR_IN));
}

/* Scalars that lie in memory one behind the other, and are there as they are on the wire: how many
 * bytes, from field *i on, which moves beyond them. 0: field *i is none. */
static size_t wire_run(const chi_type *type, uint32_t *i, uint32_t dirs)
{
  const chi_field *f = &type->fields[*i], *end = type->fields + type->field_count;
  uint32_t begin = f->offset, at = begin;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  while (f < end && f->offset == at && f->kind <= CHI_KIND_pool && f->kind != CHI_KIND_bool &&
         (f->dir & dirs))
    at += (f++)->size;
#endif
  *i = (uint32_t)(f - type->fields);
  CHI_ASSERT(*i <= (uint32_t)(end - type->fields));
  return at - begin;
}

static uint32_t wire_count_of(const chi_field *f, const void *object)
{
  uint32_t count;
  memcpy(&count, (const char *)object + f->count_offset, sizeof count);
  return count < f->room ? count : f->room;
}

static size_t wire_elements_size(const chi_type *elem);

/* One value of a field that is neither an array nor a bulk, at its longest. */
static size_t wire_value_size(const chi_field *f)
{
  if (f->kind == CHI_KIND_str)
    return sizeof(uint32_t) + f->size - 1;
  return f->kind == CHI_KIND_object ? wire_elements_size(f->elem) : f->size;
}

static size_t wire_elements_size(const chi_type *elem)
{
  size_t size = 0;
  for (uint32_t i = 0; i < elem->field_count; i++)
    size += wire_value_size(&elem->fields[i]);
  return size;
}

static size_t wire_field_size(const chi_field *f, const char *task, uint32_t dirs)
{
  if (f->kind == CHI_KIND_array)
    return sizeof(uint32_t) +
           wire_elements_size(f->elem) * (task ? wire_count_of(f, task) : f->room);
  if (f->kind == CHI_KIND_bulk) {
    uint64_t size = WIRE_BULK_INLINE;
    if (task)
      memcpy(&size, task + f->offset + offsetof(chi_bulk, size), sizeof size);
    if (!(f->dir & dirs) || size > WIRE_BULK_INLINE)
      size = 0;
    return sizeof(uint64_t) + 1 + size;
  }
  if (f->kind == CHI_KIND_str && task)
    return sizeof(uint32_t) + strnlen(task + f->offset, f->size - 1);
  return wire_value_size(f);
}

size_t wire_task_size(const chi_type *type, const void *task, uint32_t dirs)
{
  size_t size = 0, run = 0;
  for (uint32_t i = 0; i < type->field_count;) {
    size += run = wire_run(type, &i, dirs);
    if (run > 0)
      continue;
    const chi_field *f = &type->fields[i++];
    if (wire_is_written(f, dirs))
      size += wire_field_size(f, task, dirs);
  }
  return size;
}

/* The scalars of a declaration, without regard to their sign. */
static void wire_put_scalar(struct wire_out *out, const chi_field *f, const char *at)
{
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  switch (f->size) {
  case 1:
    memcpy(&u8, at, 1);
    wire_put_u8(out, f->kind == CHI_KIND_bool ? u8 != 0 : u8);
    break;
  case 2:
    memcpy(&u16, at, 2);
    wire_put_u16(out, u16);
    break;
  case 4:
    memcpy(&u32, at, 4);
    wire_put_u32(out, u32);
    break;
  default:
    CHI_ASSERT(f->size == 8);
    memcpy(&u64, at, 8);
    wire_put_u64(out, u64);
    break;
  }
}

static void wire_put_value(struct wire_out *out, const chi_field *f, const char *at)
{
  if (f->kind == CHI_KIND_str) {
    size_t size = strnlen(at, f->size - 1);
    wire_put_u32(out, (uint32_t)size);
    wire_put_bytes(out, at, size);
  } else if (f->kind == CHI_KIND_object) {
    for (uint32_t i = 0; i < f->elem->field_count; i++)
      wire_put_value(out, &f->elem->fields[i], at + f->elem->fields[i].offset);
  } else if (f->kind == CHI_KIND_pool) {
    chi_pool_id id;
    memcpy(&id, at, sizeof id);
    wire_put_u32(out, id.major);
    wire_put_u32(out, id.minor);
  } else {
    wire_put_scalar(out, f, at);
  }
}

static void wire_put_array(struct wire_out *out, const chi_field *f, const char *task)
{
  uint32_t count = wire_count_of(f, task);
  wire_put_u32(out, count);
  for (uint32_t k = 0; k < count; k++)
    for (uint32_t i = 0; i < f->elem->field_count; i++)
      wire_put_value(out, &f->elem->fields[i],
                     task + f->offset + (size_t)k * f->size + f->elem->fields[i].offset);
}

static int wire_put_bulk(struct wire_out *out, const chi_field *f, const char *task, uint32_t dirs,
                         struct env_frame *frame, uint32_t *count, uint32_t room)
{
  enum wire_bulk how = WIRE_BULK_SIZE;
  chi_bulk bulk;
  memcpy(&bulk, task + f->offset, sizeof bulk);
  if (bulk.size > WIRE_BULK_MAX)
    return CHI_ETOOBIG;
  if ((f->dir & dirs) && bulk.size > 0)
    how = bulk.size <= WIRE_BULK_INLINE ? WIRE_BULK_HERE : WIRE_BULK_FRAME;
  if (how != WIRE_BULK_SIZE && !bulk.data)
    return CHI_EINVAL;
  if (how == WIRE_BULK_FRAME && *count == room)
    return CHI_ETOOBIG;
  wire_put_u64(out, bulk.size);
  wire_put_u8(out, (uint8_t)how);
  if (how == WIRE_BULK_HERE)
    wire_put_bytes(out, bulk.data, (size_t)bulk.size);
  else if (how == WIRE_BULK_FRAME)
    frame[(*count)++] = (struct env_frame){bulk.data, bulk.size};
  return CHI_OK;
}

static int wire_put_field(struct wire_out *out, const chi_field *f, const char *task,
                          uint32_t dirs, struct env_frame *frame, uint32_t *count, uint32_t room)
{
  if (!wire_is_written(f, dirs))
    return CHI_OK;
  if (f->kind == CHI_KIND_bulk)
    return wire_put_bulk(out, f, task, dirs, frame, count, room);
  if (f->kind == CHI_KIND_array)
    wire_put_array(out, f, task);
  else
    wire_put_value(out, f, task + f->offset);
  return CHI_OK;
}

int wire_task_put(struct wire_out *out, const chi_type *type, const void *task, uint32_t dirs,
                  struct env_frame *frame, uint32_t *count, uint32_t room)
{
  uint32_t before = *count;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < type->field_count && rc == CHI_OK;) {
    const chi_field *f = &type->fields[i];
    size_t run = wire_run(type, &i, dirs);
    if (run > 0)
      wire_put_bytes(out, (const char *)task + f->offset, run);
    else
      rc = wire_put_field(out, &type->fields[i++], task, dirs, frame, count, room);
  }
  if (rc == CHI_OK && out->failed)
    rc = CHI_ETOOBIG;
  if (rc != CHI_OK)
    *count = before;
  return rc;
}

/* What failed leaves zero, which nobody looks at. */
static void wire_get_scalar(struct wire_in *in, const chi_field *f, char *at)
{
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  switch (f->size) {
  case 1:
    u8 = wire_get_u8(in);
    if (f->kind == CHI_KIND_bool && u8 > 1)
      in->failed = true;
    else
      memcpy(at, &u8, 1);
    break;
  case 2:
    u16 = wire_get_u16(in);
    memcpy(at, &u16, 2);
    break;
  case 4:
    u32 = wire_get_u32(in);
    memcpy(at, &u32, 4);
    break;
  default:
    CHI_ASSERT(f->size == 8);
    u64 = wire_get_u64(in);
    memcpy(at, &u64, 8);
    break;
  }
}

static void wire_get_value(struct wire_in *in, const chi_field *f, char *at)
{
  if (f->kind == CHI_KIND_str) {
    wire_get_string(in, wire_get_u32(in), at, f->size);
  } else if (f->kind == CHI_KIND_object) {
    for (uint32_t i = 0; i < f->elem->field_count; i++)
      wire_get_value(in, &f->elem->fields[i], at + f->elem->fields[i].offset);
  } else if (f->kind == CHI_KIND_pool) {
    chi_pool_id id = {.major = wire_get_u32(in)};
    id.minor = wire_get_u32(in);
    if (!in->failed)
      memcpy(at, &id, sizeof id);
  } else {
    wire_get_scalar(in, f, at);
  }
}

static void wire_get_array(struct wire_in *in, const chi_field *f, char *task)
{
  uint32_t count = wire_get_u32(in);
  if (count > f->room)
    in->failed = true;
  for (uint32_t k = 0; k < count && !in->failed; k++)
    for (uint32_t i = 0; i < f->elem->field_count; i++)
      wire_get_value(in, &f->elem->fields[i],
                     task + f->offset + (size_t)k * f->size + f->elem->fields[i].offset);
  if (!in->failed)
    memcpy(task + f->count_offset, &count, sizeof count);
}

/* The data of a bulk: in the record, in its next frame, or not there at all. NULL: none. */
static const void *wire_take_bulk(struct wire_in *in, uint64_t size, enum wire_bulk how)
{
  if (how == WIRE_BULK_HERE) {
    if (size == 0 || size > WIRE_BULK_INLINE)
      in->failed = true;
    return in->failed ? NULL : wire_get_bytes(in, (size_t)size);
  }
  if (how != WIRE_BULK_FRAME || in->bulk_count == 0 || in->bulk->size != size ||
      size <= WIRE_BULK_INLINE) {
    in->failed = true;
    return NULL;
  }
  in->bulk_count--;
  return (in->bulk++)->data;
}

static int wire_get_bulk(struct wire_in *in, const chi_field *f, char *task, uint32_t dirs,
                         wire_bulk_fn *room, void *arg)
{
  chi_bulk bulk;
  const void *from = NULL;
  uint64_t size = wire_get_u64(in);
  enum wire_bulk how = (enum wire_bulk)wire_get_u8(in);
  bool data = (f->dir & dirs) && size > 0;
  memcpy(&bulk, task + f->offset, sizeof bulk);
  if (size > WIRE_BULK_MAX || data != (how != WIRE_BULK_SIZE))
    in->failed = true;
  if (data && !in->failed)
    from = wire_take_bulk(in, size, how);
  if (in->failed || (!room && size > bulk.size))
    return CHI_ECORRUPT;
  if (room) {
    bulk.data = size > 0 ? room(arg, f, &bulk, size) : NULL;
    bulk.ref = 0;
    if (size > 0 && !bulk.data)
      return CHI_ENOMEM;
  }
  bulk.size = size;
  memcpy(task + f->offset, &bulk, sizeof bulk);
  if (from)
    memcpy(bulk.data, from, (size_t)size);
  return CHI_OK;
}

static int wire_get_field(struct wire_in *in, const chi_field *f, char *task, uint32_t dirs,
                          wire_bulk_fn *bulk, void *arg)
{
  if (!wire_is_written(f, dirs))
    return CHI_OK;
  if (f->kind == CHI_KIND_bulk)
    return wire_get_bulk(in, f, task, dirs, bulk, arg);
  if (f->kind == CHI_KIND_array)
    wire_get_array(in, f, task);
  else
    wire_get_value(in, f, task + f->offset);
  return CHI_OK;
}

int wire_task_get(struct wire_in *in, const chi_type *type, void *task, uint32_t dirs,
                  wire_bulk_fn *bulk, void *arg)
{
  for (uint32_t i = 0; i < type->field_count && !in->failed;) {
    const chi_field *f = &type->fields[i];
    size_t run = wire_run(type, &i, dirs);
    if (run > 0) {
      const void *from = wire_get_bytes(in, run);
      if (from)
        memcpy((char *)task + f->offset, from, run);
      continue;
    }
    int rc = wire_get_field(in, &type->fields[i++], task, dirs, bulk, arg);
    if (rc == CHI_ENOMEM)
      return rc;
    in->failed = in->failed || rc != CHI_OK;
  }
  return in->failed ? CHI_ECORRUPT : CHI_OK;
}

#undef WIRE_SUM_AT
