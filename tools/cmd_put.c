/* cmd_put.c - a real file into a block device pool, and back, verified. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "text.h"
#include "units.h"

#define PUT_PIECE ((uint64_t)1 << 20) /* bytes of one write or read */
#define PUT_SLOTS 8                   /* of them in flight */
#define PUT_BLOCKS_MAX 1000000        /* in a manifest */
#define PUT_FORMAT "chimaera-file 1"

/* A piece in flight: a task with its buffer. Slots are used in turn, so that pieces end in order.
 */
struct put_slot {
  struct chi_bdev_write *write;
  struct chi_bdev_read *read;
  chi_bulk buffer;
  uint64_t length; /* 0: idle */
};

struct put {
  const struct cli *cli;
  struct cli_link link;
  chi_pool_id pool, origin; /* where the blocks are; where the manifest says they are */
  const char *file, *manifest;
  int fd;
  uint64_t size, done; /* of the file; transferred and checked */
  struct chi_block *blocks;
  uint64_t block_count;
  uint64_t block, within, sent; /* where the next piece begins */
  struct put_slot slots[PUT_SLOTS];
  struct checksum checksum;
  uint64_t begin, shown; /* times of the progress line */
};

static volatile sig_atomic_t put_stop;

static void put_on_signal(int number)
{
  (void)number;
  put_stop = 1;
}

/* An interruption ends a transfer at a piece, so that its blocks can be given back. */
static void put_catch_signals(void)
{
  struct sigaction action = {.sa_handler = put_on_signal, .sa_flags = SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

static int put_chi(const struct put *p, const char *what, int status)
{
  return cli_fail(p->cli, "%s: %s", what, chi_status_text(status));
}

/* The pool of the given id or name, which must be a block device. */
static int put_find_pool(struct put *p, const char *name)
{
  chi_error err = {0, ""};
  struct json *json = NULL;
  char *text;
  int status = cli_pool(p->cli, &p->link, name, &p->pool);
  if (status != CLI_OK)
    return status;
  text = cli_describe(&p->link, p->pool, &err);
  if (!text || json_parse(text, strlen(text), &json, &err) != CHI_OK)
    status = cli_fail(p->cli, "pool %s: %s", name, err.text);
  else if (strcmp(json_string(json, "module", ""), "bdev") != 0)
    status = cli_fail(p->cli, "pool %s is of the module %s, not bdev", name,
                      json_string(json, "module", "?"));
  json_free(json);
  free(text);
  return status;
}

static void put_progress(struct put *p, bool last)
{
  uint64_t now = cli_now();
  char done[32], speed[32];
  if (!isatty(STDERR_FILENO) || (!last && now - p->shown < 100000000))
    return;
  p->shown = now;
  fprintf(stderr, "\r%3.0f %%  %s  %s/s   ",
          p->size ? 100.0 * (double)p->done / (double)p->size : 100,
          cli_bytes((double)p->done, done, sizeof(done)),
          cli_bytes((double)p->done * 1e9 / (double)(now - p->begin + 1), speed, sizeof(speed)));
  if (last)
    fprintf(stderr, "\r\033[K");
}

/* ---- blocks ----------------------------------------------------------------------------- */

/* Takes over what was allocated, which a daemon may get wrong. */
static int put_keep_blocks(struct put *p, const struct chi_bdev_allocate_blocks *task)
{
  uint64_t covered = 0;
  if (task->blocks_count > task->block_total)
    return CHI_ECORRUPT;
  p->block_count = task->block_total;
  p->blocks = calloc(task->block_total + 1, sizeof(*p->blocks));
  if (!p->blocks ||
      (task->block_total > task->blocks_count &&
       task->more.size < (task->block_total - task->blocks_count) * sizeof(*p->blocks)))
    return CHI_ENOMEM;
  memcpy(p->blocks, task->blocks, task->blocks_count * sizeof(*p->blocks));
  if (task->block_total > task->blocks_count)
    memcpy(p->blocks + task->blocks_count, task->more.data,
           (task->block_total - task->blocks_count) * sizeof(*p->blocks));
  for (uint64_t i = 0; i < p->block_count; i++)
    if (p->blocks[i].size == 0 || __builtin_add_overflow(covered, p->blocks[i].size, &covered))
      return CHI_ECORRUPT;
  return covered >= p->size ? CHI_OK : CHI_ECORRUPT;
}

/* Asks for the blocks; a second time, with a buffer, if the extents are many. */
static int put_allocate(struct put *p)
{
  struct chi_bdev_allocate_blocks *task = CHI_NEW(p->link.queue, chi_bdev_allocate_blocks);
  chi_bulk more = {0};
  int status = CHI_ENOMEM;
  for (int round = 0; task && round < 2; round++) {
    task->task.pool = p->pool;
    task->size = p->size;
    status = chi_run(p->link.queue, task);
    if (status != CHI_ETOOBIG || task->block_total > PUT_BLOCKS_MAX || round == 1)
      break;
    status = chi_bulk_alloc(p->link.queue, task->block_total * sizeof(struct chi_block), &more);
    if (status != CHI_OK)
      break;
    task->more = more;
  }
  if (status == CHI_OK)
    status = put_keep_blocks(p, task);
  if (more.ref)
    chi_bulk_free(p->link.queue, &more);
  if (task)
    chi_task_free(p->link.queue, task);
  return status;
}

/* Gives back what an unfinished put had allocated. */
static void put_free_blocks(struct put *p)
{
  for (uint64_t i = 0; i < p->block_count; i += CHI_BDEV_BLOCKS) {
    struct chi_bdev_free_blocks *task = CHI_NEW(p->link.queue, chi_bdev_free_blocks);
    uint64_t n = p->block_count - i < CHI_BDEV_BLOCKS ? p->block_count - i : CHI_BDEV_BLOCKS;
    if (!task)
      break;
    task->task.pool = p->pool;
    task->blocks_count = (uint32_t)n;
    memcpy(task->blocks, p->blocks + i, n * sizeof(*p->blocks));
    chi_run(p->link.queue, task);
    chi_task_free(p->link.queue, task);
  }
}

/* ---- the pipeline ----------------------------------------------------------------------- */

/* Cuts the next piece: within one block, no longer than a buffer. */
static uint64_t put_next(struct put *p, struct chi_block *block)
{
  uint64_t length = p->size - p->sent;
  CHI_ASSERT(p->block < p->block_count && p->within < p->blocks[p->block].size);
  *block = p->blocks[p->block];
  block->offset += p->within;
  block->size -= p->within;
  length = length < PUT_PIECE ? length : PUT_PIECE;
  length = length < block->size ? length : block->size;
  p->within += length;
  p->sent += length;
  if (p->within == p->blocks[p->block].size) {
    p->block++;
    p->within = 0;
  }
  return length;
}

static int put_slots_open(struct put *p, bool reading)
{
  for (int i = 0; i < PUT_SLOTS; i++) {
    struct put_slot *s = &p->slots[i];
    int status = chi_bulk_alloc(p->link.queue, PUT_PIECE, &s->buffer);
    if (status != CHI_OK)
      return put_chi(p, "buffers", status);
    if (reading)
      s->read = CHI_NEW(p->link.queue, chi_bdev_read);
    else
      s->write = CHI_NEW(p->link.queue, chi_bdev_write);
    if (!s->read && !s->write)
      return put_chi(p, "tasks", CHI_ENOMEM);
  }
  return CLI_OK;
}

static int put_submit(struct put *p, struct put_slot *s, const struct chi_block *block)
{
  chi_bulk data = s->buffer;
  chi_task *task = s->read ? &s->read->task : &s->write->task;
  int status;
  data.size = s->length;
  task->pool = p->pool;
  task->io_size = s->length;
  if (s->read) {
    s->read->block = *block;
    s->read->data = data;
    s->read->length = s->length;
  } else {
    s->write->block = *block;
    s->write->data = data;
    s->write->length = s->length;
  }
  status = chi_submit(p->link.queue, task);
  if (status == CHI_OK)
    return CLI_OK;
  s->length = 0;
  return put_chi(p, "submit", status);
}

static int put_transfer_all(const struct put *p, char *data, uint64_t length, bool reading)
{
  while (length) {
    ssize_t n = reading ? read(p->fd, data, length) : write(p->fd, data, length);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return cli_fail(p->cli, "%s: %s", p->file, strerror(errno));
    if (n == 0)
      return cli_fail(p->cli, "%s: has become shorter while it was read", p->file);
    data += n;
    length -= (uint64_t)n;
  }
  return CLI_OK;
}

static int put_piece_failed(const struct put *p, const struct put_slot *s, uint64_t length,
                            int status)
{
  char what[160], origin[48] = "";
  if (s->read && memcmp(&p->origin, &p->pool, sizeof(p->pool)) != 0)
    snprintf(origin, sizeof(origin), " (the manifest is of pool %u.%u)", p->origin.major,
             p->origin.minor);
  snprintf(what, sizeof(what), "%s %llu bytes at %llu of pool %u.%u%s",
           s->read ? "reading" : "writing", (unsigned long long)length,
           (unsigned long long)(s->read ? s->read->block.offset : s->write->block.offset),
           p->pool.major, p->pool.minor, origin);
  return put_chi(p, what, status);
}

/* Waits for the slot's piece; a piece of a get goes on to the file. */
static int put_finish(struct put *p, struct put_slot *s)
{
  chi_task *task = s->read ? &s->read->task : &s->write->task;
  uint64_t length = s->length;
  int status;
  if (!length)
    return CLI_OK;
  status = chi_wait(p->link.queue, task, UINT64_MAX);
  s->length = 0;
  if (status != CHI_OK)
    return put_piece_failed(p, s, length, status);
  if ((s->read ? s->read->bytes_read : s->write->bytes_written) != length)
    return put_chi(p, "a piece is incomplete", CHI_EIO);
  if (s->read) {
    checksum_add(&p->checksum, s->buffer.data, length);
    if (put_transfer_all(p, s->buffer.data, length, false) != CLI_OK)
      return CLI_FAILED;
  }
  p->done += length;
  put_progress(p, false);
  return CLI_OK;
}

/* Takes a piece of the file into the slot's buffer, if it is a put, and sends the task off. */
static int put_begin(struct put *p, struct put_slot *s)
{
  struct chi_block block;
  s->length = put_next(p, &block);
  if (s->write) {
    if (put_transfer_all(p, s->buffer.data, s->length, true) != CLI_OK) {
      s->length = 0;
      return CLI_FAILED;
    }
    checksum_add(&p->checksum, s->buffer.data, s->length);
  }
  return put_submit(p, s, &block);
}

static int put_pipeline(struct put *p, bool reading)
{
  int status = put_slots_open(p, reading);
  uint64_t turn = 0;
  checksum_begin(&p->checksum);
  for (; status == CLI_OK && p->sent < p->size; turn++) {
    status = put_finish(p, &p->slots[turn % PUT_SLOTS]);
    if (status == CLI_OK && put_stop)
      status = cli_fail(p->cli, "interrupted");
    if (status == CLI_OK)
      status = put_begin(p, &p->slots[turn % PUT_SLOTS]);
  }
  /* All are waited for, even after a failure: their buffers belong to the daemon until then. */
  for (uint64_t i = 0; i < PUT_SLOTS; i++) {
    struct put_slot *s = &p->slots[(turn + i) % PUT_SLOTS];
    if (status == CLI_OK)
      status = put_finish(p, s);
    else if (s->length)
      chi_wait(p->link.queue, s->read ? (void *)s->read : (void *)s->write, UINT64_MAX);
  }
  put_progress(p, true);
  return status;
}

static int put_sync(struct put *p)
{
  struct chi_bdev_sync *task = CHI_NEW(p->link.queue, chi_bdev_sync);
  int status = CHI_ENOMEM;
  if (task) {
    task->task.pool = p->pool;
    status = chi_run(p->link.queue, task);
    chi_task_free(p->link.queue, task);
  }
  return status == CHI_OK ? CLI_OK : put_chi(p, "sync", status);
}

/* ---- the manifest ----------------------------------------------------------------------- */

static void put_print_manifest(const struct put *p, FILE *out)
{
  fprintf(out,
          "{\"format\":\"" PUT_FORMAT "\",\"pool\":\"%u.%u\",\"size\":%llu,"
          "\"checksum\":\"xxh64:%016llx\",\n\"blocks\":[",
          p->pool.major, p->pool.minor, (unsigned long long)p->size,
          (unsigned long long)checksum_end(&p->checksum));
  for (uint64_t i = 0; i < p->block_count; i++)
    fprintf(out, "%s{\"offset\":%llu,\"size\":%llu,\"type\":%u}", i ? ",\n" : "\n",
            (unsigned long long)p->blocks[i].offset, (unsigned long long)p->blocks[i].size,
            p->blocks[i].type);
  fprintf(out, "]}\n");
}

/* Beside the target first, then renamed: there is a whole one or none. */
static int put_write_manifest(const struct put *p)
{
  char temp[CHI_PATH_MAX + 16];
  FILE *out;
  bool good;
  snprintf(temp, sizeof(temp), "%s.part", p->manifest);
  out = fopen(temp, "we");
  if (!out)
    return cli_fail(p->cli, "%s: %s", temp, strerror(errno));
  put_print_manifest(p, out);
  good = fflush(out) == 0 && fsync(fileno(out)) == 0;
  good = fclose(out) == 0 && good;
  if (good && rename(temp, p->manifest) == 0)
    return CLI_OK;
  cli_fail(p->cli, "%s: %s", p->manifest, strerror(errno));
  unlink(temp);
  return CLI_FAILED;
}

static bool put_read_blocks(struct put *p, const struct json *json)
{
  uint64_t covered = 0, n = 0;
  p->block_count = json_count(json, "blocks");
  if (p->block_count > PUT_BLOCKS_MAX)
    return false;
  p->blocks = calloc(p->block_count + 1, sizeof(*p->blocks));
  for (const struct json *b = json_list(json, "blocks"); p->blocks && b; b = b->next) {
    struct chi_block *block = &p->blocks[n++];
    block->offset = json_integer(b, "offset", UINT64_MAX);
    block->size = json_integer(b, "size", 0);
    block->type = (uint32_t)json_integer(b, "type", 0);
    if (block->offset == UINT64_MAX || block->size == 0 ||
        __builtin_add_overflow(covered, block->size, &covered))
      return false;
  }
  return p->blocks && covered >= p->size;
}

static struct json *put_load_json(const struct put *p)
{
  FILE *in = fopen(p->manifest, "re");
  char *text = in ? calloc(1, JSON_SIZE_MAX) : NULL;
  struct json *json = NULL;
  chi_error err;
  if (!text) {
    cli_fail(p->cli, "%s: %s", p->manifest, strerror(errno));
  } else {
    size_t size = fread(text, 1, JSON_SIZE_MAX, in);
    if (json_parse(text, size, &json, &err) != CHI_OK)
      cli_fail(p->cli, "%s: %s", p->manifest, err.text);
  }
  if (in)
    fclose(in);
  free(text);
  return json;
}

static int put_read_manifest(struct put *p, uint64_t *checksum)
{
  struct json *json = put_load_json(p);
  const char *sum = json_string(json, "checksum", ""), *digits = sum + 6;
  char *end = NULL;
  bool good = json && strcmp(json_string(json, "format", ""), PUT_FORMAT) == 0;
  p->size = json_integer(json, "size", UINT64_MAX);
  good = good && units_parse_pool(json_string(json, "pool", ""), &p->origin) == CHI_OK;
  good = good && p->size != UINT64_MAX && strncmp(sum, "xxh64:", 6) == 0 && strlen(digits) == 16;
  if (good)
    *checksum = strtoull(digits, &end, 16);
  good = good && !*end && put_read_blocks(p, json);
  if (json && !good)
    cli_fail(p->cli, "%s: is not the manifest of a file", p->manifest);
  json_free(json);
  return good ? CLI_OK : CLI_FAILED;
}

/* ---- put and get ------------------------------------------------------------------------ */

static int put_report(const struct put *p, const char *did)
{
  uint64_t took = cli_now() - p->begin;
  double mib = (double)p->size / 1048576, seconds = (double)took / 1e9;
  char size[32], time[32];
  unsigned long long sum = checksum_end(&p->checksum);
  if (cli_value(p->cli, "json")) {
    printf("{\"size\":%llu,\"blocks\":%llu,\"seconds\":%.6f,\"mib_per_s\":%.1f,"
           "\"checksum\":\"xxh64:%016llx\",\"manifest\":",
           (unsigned long long)p->size, (unsigned long long)p->block_count, seconds,
           seconds > 0 ? mib / seconds : 0, sum);
    text_put_string(p->manifest, SIZE_MAX, cli_put, stdout);
    printf("}\n");
    return CLI_OK;
  }
  printf("%s %s in %s, %.0f MiB/s, %llu block%s of pool %u.%u, xxh64:%016llx\n", did,
         cli_bytes((double)p->size, size, sizeof(size)), cli_time((double)took, time, sizeof(time)),
         seconds > 0 ? mib / seconds : 0, (unsigned long long)p->block_count,
         p->block_count == 1 ? "" : "s", p->pool.major, p->pool.minor, sum);
  return CLI_OK;
}

static void put_close(struct put *p)
{
  for (int i = 0; i < PUT_SLOTS; i++) {
    struct put_slot *s = &p->slots[i];
    if (s->read)
      chi_task_free(p->link.queue, s->read);
    if (s->write)
      chi_task_free(p->link.queue, s->write);
    if (s->buffer.ref)
      chi_bulk_free(p->link.queue, &s->buffer);
  }
  free(p->blocks);
  cli_disconnect(&p->link);
}

/* The manifest's name: as given, else FILE.chi.json. */
static int put_name_manifest(struct put *p, char *buf, size_t size)
{
  p->manifest = cli_value(p->cli, "manifest");
  if (!p->manifest) {
    snprintf(buf, size, "%s.chi.json", p->file);
    p->manifest = buf;
  }
  return strlen(p->manifest) < CHI_PATH_MAX ? CLI_OK : cli_usage(p->cli, "the name is too long");
}

static int put_all(struct put *p)
{
  int status = CHI_OK;
  put_catch_signals();
  p->begin = p->shown = cli_now();
  if (p->size)
    status = put_allocate(p);
  if (status != CHI_OK)
    return put_chi(p, "cannot allocate the blocks", status);
  status = put_pipeline(p, false);
  if (status == CLI_OK)
    status = put_sync(p);
  if (status == CLI_OK)
    status = put_write_manifest(p);
  if (status != CLI_OK)
    put_free_blocks(p);
  return status == CLI_OK ? put_report(p, "put") : status;
}

static int put_run(struct cli *cli)
{
  struct put p = {.cli = cli};
  char manifest[CHI_PATH_MAX];
  struct stat info;
  int status;
  if (cli->argument_count != 2)
    return cli_usage(cli, "takes two arguments: the file and the pool");
  p.file = cli->arguments[0];
  if (put_name_manifest(&p, manifest, sizeof(manifest)) != CLI_OK)
    return CLI_USAGE;
  if (!cli_value(cli, "force") && access(p.manifest, F_OK) == 0)
    return cli_fail(cli,
                    "%s is there already and may be all that knows where an earlier copy is; "
                    "--force overwrites it",
                    p.manifest);
  p.fd = open(p.file, O_RDONLY | O_CLOEXEC);
  if (p.fd < 0 || fstat(p.fd, &info) != 0)
    return cli_fail(cli, "%s: %s", p.file, strerror(errno));
  p.size = (uint64_t)info.st_size;
  status = S_ISREG(info.st_mode) ? CLI_OK : cli_fail(cli, "%s: is no regular file", p.file);
  if (status == CLI_OK)
    status = cli_connect(cli, &p.link);
  if (status == CLI_OK) {
    status = put_find_pool(&p, cli->arguments[1]);
    if (status == CLI_OK)
      status = put_all(&p);
    put_close(&p);
  }
  close(p.fd);
  return status;
}

/* Into FILE.part, which becomes FILE if the checksum is right. */
static int put_fetch(struct put *p, uint64_t wanted)
{
  char part[CHI_PATH_MAX + 16];
  int status;
  snprintf(part, sizeof(part), "%s.part", p->file);
  p->fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (p->fd < 0)
    return cli_fail(p->cli, "%s: %s", part, strerror(errno));
  put_catch_signals();
  p->begin = p->shown = cli_now();
  status = put_pipeline(p, true);
  if (close(p->fd) != 0 && status == CLI_OK)
    status = cli_fail(p->cli, "%s: %s", part, strerror(errno));
  if (status == CLI_OK && checksum_end(&p->checksum) != wanted)
    status = cli_fail(p->cli, "%s: the checksum is xxh64:%016llx, not xxh64:%016llx", p->file,
                      (unsigned long long)checksum_end(&p->checksum), (unsigned long long)wanted);
  if (status == CLI_OK && rename(part, p->file) != 0)
    status = cli_fail(p->cli, "%s: %s", p->file, strerror(errno));
  if (status != CLI_OK)
    unlink(part);
  return status == CLI_OK ? put_report(p, "got") : status;
}

static int get_run(struct cli *cli)
{
  struct put p = {.cli = cli};
  char manifest[CHI_PATH_MAX];
  struct stat info;
  uint64_t wanted = 0;
  int status;
  if (cli->argument_count != 2)
    return cli_usage(cli, "takes two arguments: the pool and the file");
  p.file = cli->arguments[1];
  if (put_name_manifest(&p, manifest, sizeof(manifest)) != CLI_OK)
    return CLI_USAGE;
  if (stat(p.file, &info) == 0 && !S_ISREG(info.st_mode)) /* renaming would replace it */
    return cli_fail(cli, "%s: is there, and no regular file", p.file);
  if (put_read_manifest(&p, &wanted) != CLI_OK) {
    free(p.blocks);
    return CLI_FAILED;
  }
  status = cli_connect(cli, &p.link);
  if (status != CLI_OK) {
    free(p.blocks);
    return status;
  }
  status = put_find_pool(&p, cli->arguments[0]);
  if (status == CLI_OK)
    status = put_fetch(&p, wanted);
  put_close(&p);
  return status;
}

const struct cli_command cmd_put = {
    .name = "put",
    .arguments = "FILE POOL",
    .about = "copy a file into a block device pool",
    .more =
        "Allocates blocks, writes and syncs them, and writes a manifest that says where they are\n"
        "and what the content's checksum is (XXH64, as 'xxhsum -H64' prints it). 'chimaera get'\n"
        "needs it. What fails gives its blocks back.\n",
    .run = put_run,
    .options = {{CLI_INSTANCE},
                {"manifest", "FILE", "where to write it; default FILE.chi.json"},
                {"force", NULL, "overwrite the manifest if there is one"},
                {CLI_JSON}}};

const struct cli_command cmd_get = {
    .name = "get",
    .arguments = "POOL FILE",
    .about = "copy a file that was put into a pool back out, verified",
    .more = "FILE appears when it is complete and its checksum is the one of the manifest.\n",
    .run = get_run,
    .options = {{CLI_INSTANCE},
                {"manifest", "FILE", "as put wrote it; default FILE.chi.json"},
                {CLI_JSON}}};
