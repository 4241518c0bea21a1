/* cmd_call.c - runs any method of any module, by the field tables that the daemon describes. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "schema.h"
#include "text.h"
#include "units.h"

#define CALL_BULKS_MAX 16
#define CALL_FILE_MAX ((size_t)1 << 30)

/* A buffer of the task. */
struct call_bulk {
  const chi_field *field;
  chi_bulk own;     /* as allocated; what stands in the task is not relied on */
  const char *text; /* as given: "@FILE" or the content; NULL: not given */
  uint64_t size;    /* as given by NAME.size */
  bool sized;
};

struct call {
  const struct cli *cli;
  struct cli_link link;
  struct schema *schema;
  const chi_type *type;
  char *task;
  struct call_bulk bulks[CALL_BULKS_MAX];
  int bulk_count;
  bool has_length; /* the field of that name was derived from a buffer */
};

/* ---- what there is to call -------------------------------------------------------------- */

static const char *const call_directions[] = {"", "in", "out", "inout"};

/* Each value that can be set, by its path; those of an array once for all elements. */
static void call_list_fields(const chi_type *type, const char *path, uint32_t dir)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    char full[TEXT_DEPTH_MAX * (TEXT_NAME_MAX + 16)];
    uint32_t where = dir ? dir : f->dir;
    if (f->kind == CHI_KIND_array)
      snprintf(full, sizeof(full), "%s%s[%u].", path, f->name, f->room);
    else
      snprintf(full, sizeof(full), "%s%s%s", path, f->name, f->elem ? "." : "");
    if (f->elem) {
      call_list_fields(f->elem, full, where);
      continue;
    }
    printf("      %-5s %-8s %s", call_directions[where], text_kind_name(f->kind), full);
    if (f->kind == CHI_KIND_str)
      printf(", %u bytes", f->size - 1);
    if (*f->preset && (where & CHI_DIR_IN)) {
      printf(", default ");
      text_put_string(f->preset, SIZE_MAX, cli_put, stdout);
    }
    printf("\n");
  }
}

static int call_list(const struct call *c)
{
  printf("module %s\n", c->schema->module);
  for (uint32_t i = 0; i < c->schema->method_count; i++) {
    const chi_type *m = &c->schema->methods[i];
    printf("\n  %u %s\n", m->id, schema_short_name(c->schema, m));
    call_list_fields(m, "", 0);
  }
  return CLI_OK;
}

/* ---- arguments -------------------------------------------------------------------------- */

static struct call_bulk *call_bulk(struct call *c, const char *name, size_t size)
{
  for (int i = 0; i < c->bulk_count; i++) {
    const char *known = c->bulks[i].field->name;
    if (strlen(known) == size && strncmp(known, name, size) == 0)
      return &c->bulks[i];
  }
  return NULL;
}

/* "data=@FILE", "data=TEXT" or "data.size=4K" of a buffer; false: the name is not one's. */
static bool call_bulk_argument(struct call *c, const char *name, const char *value, int *status)
{
  const char *dot = strchr(name, '.');
  struct call_bulk *b = call_bulk(c, name, dot ? (size_t)(dot - name) : strlen(name));
  *status = CLI_OK;
  if (!b)
    return false;
  if (!dot) {
    b->text = value;
    return true;
  }
  b->sized = true;
  if (strcmp(dot, ".size") != 0)
    *status = cli_usage(c->cli, "%s: a buffer has only %s.size", name, b->field->name);
  else if (chi_parse_size(value, &b->size) != CHI_OK)
    *status = cli_usage(c->cli, "%s=%s: expected a size such as 4096 or 64K", name, value);
  return true;
}

/* Splits "name=value"; name has room for TEXT_NAME_MAX. NULL: it is none. */
static const char *call_split(const char *argument, char *name)
{
  const char *equals = strchr(argument, '=');
  size_t size = equals ? (size_t)(equals - argument) : 0;
  if (!size || size >= TEXT_NAME_MAX)
    return NULL;
  memcpy(name, argument, size);
  name[size] = '\0';
  return equals + 1;
}

/* Whether the name is that of a field, or of a part of one, that only comes out. */
static bool call_is_out(const struct call *c, const char *name)
{
  size_t size = strcspn(name, ".[");
  for (uint32_t i = 0; i < c->type->field_count; i++) {
    const chi_field *f = &c->type->fields[i];
    if (strlen(f->name) == size && strncmp(f->name, name, size) == 0)
      return !(f->dir & CHI_DIR_IN);
  }
  return false;
}

static int call_argument(struct call *c, const char *argument)
{
  char name[TEXT_NAME_MAX];
  const char *value = call_split(argument, name);
  chi_error err;
  int status;
  if (!value)
    return cli_usage(c->cli, "%s: expected name=value", argument);
  if (call_bulk_argument(c, name, value, &status))
    return status;
  if (call_is_out(c, name))
    return cli_usage(c->cli, "%s: comes out of %s, and takes no value", name, c->type->name);
  if (chi_type_set(c->type, c->task, name, value, &err) != CHI_OK)
    return cli_usage(c->cli, "%s", err.text);
  return CLI_OK;
}

static bool call_is_given(const struct call *c, const char *path)
{
  char name[TEXT_NAME_MAX];
  for (int i = 2; i < c->cli->argument_count; i++) {
    if (call_split(c->cli->arguments[i], name) && strcmp(name, path) == 0)
      return true;
  }
  return false;
}

/* Looks for fields that have no default and were not given; path: what leads to the struct. */
static int call_check(struct call *c, const chi_type *type, const char *path)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    char full[2 * TEXT_NAME_MAX];
    uint32_t count = 1;
    int status = CLI_OK;
    snprintf(full, sizeof(full), "%s%s", path, f->name);
    if (f->kind == CHI_KIND_array)
      memcpy(&count, c->task + f->count_offset, sizeof(count));
    for (uint32_t k = 0; f->elem && (f->dir & CHI_DIR_IN) && k < count && status == CLI_OK; k++) {
      snprintf(full, sizeof(full), f->kind == CHI_KIND_array ? "%s%s[%u]." : "%s%s.", path, f->name,
               k);
      status = call_check(c, f->elem, full);
    }
    if (status != CLI_OK)
      return status;
    if (!f->elem && (f->dir & CHI_DIR_IN) && f->kind != CHI_KIND_bulk && !*f->preset &&
        !call_is_given(c, full) && !(c->has_length && strcmp(full, "length") == 0))
      return cli_usage(c->cli, "%s: %s (%s) must be given", c->type->name, full,
                       text_kind_name(f->kind));
  }
  return CLI_OK;
}

/* A field `length` of kind size that was not given is the size of the only buffer that goes in:
 * what one nearly always means. */
static void call_default_length(struct call *c)
{
  const struct call_bulk *in = NULL;
  char text[24];
  int ins = 0;
  for (int i = 0; i < c->bulk_count; i++) {
    if (c->bulks[i].field->dir & CHI_DIR_IN) {
      in = &c->bulks[i];
      ins++;
    }
  }
  if (ins != 1 || !in->own.ref || call_is_given(c, "length"))
    return;
  for (uint32_t i = 0; i < c->type->field_count; i++) {
    const chi_field *f = &c->type->fields[i];
    if (strcmp(f->name, "length") != 0 || f->kind != CHI_KIND_size)
      continue;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)in->own.size);
    c->has_length = chi_type_set(c->type, c->task, "length", text, NULL) == CHI_OK;
  }
}

/* ---- buffers ---------------------------------------------------------------------------- */

static char *call_read_all(FILE *file, size_t *size)
{
  size_t room = 65536, used = 0, n;
  char *data = malloc(room);
  while (data && (n = fread(data + used, 1, room - used, file)) > 0) {
    used += n;
    if (used == room && room < CALL_FILE_MAX) {
      char *more = realloc(data, room *= 2);
      if (!more)
        free(data);
      data = more;
    }
  }
  if (data && (ferror(file) || used == CALL_FILE_MAX)) {
    errno = ferror(file) ? errno : EFBIG;
    free(data);
    return NULL;
  }
  *size = used;
  return data;
}

/* The content that was given for a buffer; to be freed. NULL: a message has been given. */
static char *call_content(const struct call *c, const struct call_bulk *b, size_t *size)
{
  const char *path = b->text + 1;
  bool standard = strcmp(path, "-") == 0;
  FILE *file;
  char *data;
  if (*b->text != '@' || *path == '@') {
    path = *b->text == '@' ? path : b->text;
    *size = strlen(path);
    data = strdup(path);
    if (!data)
      cli_fail(c->cli, "out of memory");
    return data;
  }
  file = standard ? stdin : fopen(path, "re");
  data = file ? call_read_all(file, size) : NULL;
  if (!data)
    cli_fail(c->cli, "%s: %s", path, strerror(errno));
  if (file && !standard)
    fclose(file);
  return data;
}

static int call_bulk_allocate(struct call *c, struct call_bulk *b, uint64_t size)
{
  chi_error err;
  if (size == 0)
    return CLI_OK;
  if (chi_bulk_alloc(c->link.queue, size, &b->own) != CHI_OK) {
    chi_queue_error(c->link.queue, &err);
    return cli_fail(c->cli, "buffer %s of %llu bytes: %s", b->field->name, (unsigned long long)size,
                    err.text);
  }
  memcpy(c->task + b->field->offset, &b->own, sizeof(b->own));
  return CLI_OK;
}

static int call_bulk_in(struct call *c, struct call_bulk *b)
{
  size_t size = 0;
  char *data;
  int status;
  if (!b->text)
    return b->sized ? cli_usage(c->cli, "%s: is read by the method; give %s=@FILE or %s=TEXT",
                                b->field->name, b->field->name, b->field->name)
                    : CLI_OK;
  data = call_content(c, b, &size);
  if (!data)
    return CLI_FAILED;
  status = call_bulk_allocate(c, b, size);
  if (status == CLI_OK && size)
    memcpy(b->own.data, data, size);
  free(data);
  return status;
}

/* The size of a buffer to be filled: as given, else the task's `length`. */
static int call_bulk_out(struct call *c, struct call_bulk *b)
{
  uint64_t size = b->size;
  for (uint32_t i = 0; i < c->type->field_count && !b->sized; i++) {
    const chi_field *f = &c->type->fields[i];
    if (strcmp(f->name, "length") == 0 && f->kind == CHI_KIND_size)
      memcpy(&size, c->task + f->offset, sizeof(size));
  }
  if (b->text && *b->text != '@')
    return cli_usage(c->cli, "%s=%s: is written by the method; give %s=@FILE", b->field->name,
                     b->text, b->field->name);
  if (b->text && !size)
    return cli_usage(c->cli, "how large is the buffer? give %s.size=SIZE", b->field->name);
  return call_bulk_allocate(c, b, size);
}

static int call_bulk_save(const struct call *c, const struct call_bulk *b)
{
  chi_bulk now;
  const char *path = b->text ? b->text + 1 : NULL;
  uint64_t size;
  FILE *file;
  bool good;
  if (!path || (b->field->dir & CHI_DIR_IN) || !b->own.ref)
    return CLI_OK;
  memcpy(&now, c->task + b->field->offset, sizeof(now));
  size = now.size < b->own.size ? now.size : b->own.size;
  file = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
  good = file && fwrite(b->own.data, 1, size, file) == size;
  if (file && file != stdout)
    good = fclose(file) == 0 && good;
  return good ? CLI_OK : cli_fail(c->cli, "%s: %s", path, strerror(errno));
}

/* ---- the call --------------------------------------------------------------------------- */

/* "local", "broadcast", "dynamic", "id:3", "hash:17", "range:0:4" or "physical:1". */
static int call_query(const struct cli *cli, const char *text, chi_query *query)
{
  static const struct {
    const char *name;
    uint32_t mode, numbers;
  } modes[] = {{"local", CHI_QUERY_LOCAL, 0},      {"broadcast", CHI_QUERY_BROADCAST, 0},
               {"dynamic", CHI_QUERY_DYNAMIC, 0},  {"id", CHI_QUERY_ID, 1},
               {"hash", CHI_QUERY_HASH, 1},        {"range", CHI_QUERY_RANGE, 2},
               {"physical", CHI_QUERY_PHYSICAL, 1}};
  static const char *const forms[] = {"nothing behind it", ":N, a number", ":A:N, two numbers"};
  size_t size = strcspn(text, ":");
  for (size_t i = 0; i < CHI_COUNT(modes); i++) {
    char *end = (char *)(uintptr_t)text + size;
    uint32_t numbers[2] = {0};
    if (strlen(modes[i].name) != size || strncmp(modes[i].name, text, size) != 0)
      continue;
    for (uint32_t k = 0; k < modes[i].numbers; k++) {
      unsigned long value;
      if (end[0] != ':' || end[1] < '0' || end[1] > '9')
        return cli_usage(cli, "--query %s: expected %s%s", text, modes[i].name,
                         forms[modes[i].numbers]);
      value = strtoul(end + 1, &end, 10);
      numbers[k] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    }
    if (*end)
      return cli_usage(cli, "--query %s: %s has %s", text, modes[i].name,
                       forms[modes[i].numbers]);
    *query = (chi_query){modes[i].mode, numbers[0], numbers[1], 0};
    return CLI_OK;
  }
  return cli_usage(cli,
                   "--query %s: expected local, broadcast, dynamic, id:N, hash:N, range:A:N or "
                   "physical:N",
                   text);
}

static int call_prepare(struct call *c)
{
  chi_error err;
  int status = CLI_OK;
  if (chi_type_preset(c->type, c->task, &err) != CHI_OK)
    return cli_fail(c->cli, "%s", err.text);
  for (uint32_t i = 0; i < c->type->field_count && c->bulk_count < CALL_BULKS_MAX; i++) {
    if (c->type->fields[i].kind == CHI_KIND_bulk)
      c->bulks[c->bulk_count++].field = &c->type->fields[i];
  }
  for (int i = 2; i < c->cli->argument_count && status == CLI_OK; i++)
    status = call_argument(c, c->cli->arguments[i]);
  for (int i = 0; i < c->bulk_count && status == CLI_OK; i++) {
    if (c->bulks[i].field->dir & CHI_DIR_IN)
      status = call_bulk_in(c, &c->bulks[i]);
  }
  call_default_length(c);
  if (status == CLI_OK)
    status = call_check(c, c->type, "");
  for (int i = 0; i < c->bulk_count && status == CLI_OK; i++) {
    if (!(c->bulks[i].field->dir & CHI_DIR_IN))
      status = call_bulk_out(c, &c->bulks[i]);
  }
  return status;
}

static const char *call_status(int rc)
{
  return rc > 0 ? "module" : chi_status_name(rc);
}

/* The containers that failed, as JSON. */
static void call_print_failures(const chi_failures *f)
{
  printf(",\"asked\":%u,\"failed\":%u,\"failures\":[", f->asked, f->failed);
  for (uint32_t i = 0; i < f->listed; i++)
    printf("%s{\"container\":%u,\"rc\":%d,\"status\":\"%s\"}", i ? "," : "",
           f->item[i].container, f->item[i].rc, call_status(f->item[i].rc));
  putchar(']');
}

static void call_print(const struct call *c, int rc)
{
  const chi_failures *f = chi_failures_of(c->type, c->task);
  bool json = cli_value(c->cli, "json") != NULL;
  if (json)
    printf("{\"rc\":%d,\"status\":\"%s\",\"text\":\"%s\"", rc, call_status(rc),
           rc > 0 ? "" : chi_status_text(rc));
  if (json && f && f->asked > 0)
    call_print_failures(f);
  if (json)
    printf(",\"out\":");
  chi_type_print(c->type, c->task, CHI_DIR_OUT, cli_put, stdout);
  puts(json ? "}" : "");
  if (json || !f || f->failed == 0 || f->asked < 2)
    return;
  cli_warn(c->cli, "%u of %u containers failed:", f->failed, f->asked);
  for (uint32_t i = 0; i < f->listed; i++)
    cli_warn(c->cli, "  container %u: %s (%d)", f->item[i].container, call_status(f->item[i].rc),
             f->item[i].rc);
}

static int call_submit(struct call *c, uint64_t timeout_ns)
{
  uint64_t limit = timeout_ns ? timeout_ns + 1000000000 : UINT64_MAX;
  int rc = chi_submit(c->link.queue, c->task), status = CLI_OK;
  if (rc != CHI_OK)
    return cli_fail(c->cli, "%s: %s", c->type->name, chi_status_text(rc));
  rc = chi_wait(c->link.queue, c->task, limit);
  if (!chi_task_done(c->link.queue, c->task)) {
    chi_abandon(c->link.queue, c->task);
    c->task = NULL;
    return cli_fail(c->cli, "%s: no answer within the time; it has been cancelled", c->type->name);
  }
  for (int i = 0; i < c->bulk_count && rc == CHI_OK && status == CLI_OK; i++)
    status = call_bulk_save(c, &c->bulks[i]);
  call_print(c, rc);
  if (rc > 0)
    return cli_fail(c->cli, "%s: the module's own code %d", c->type->name, rc);
  if (rc < 0 && strcmp(chi_status_name(rc), "unknown") == 0)
    return cli_fail(c->cli, "%s: the code %d, which is none of the runtime's", c->type->name, rc);
  if (rc < 0)
    return cli_fail(c->cli, "%s: %s (%s)", c->type->name, chi_status_text(rc), chi_status_name(rc));
  return status;
}

/* With the schema at hand: the rest. */
static int call_method(struct call *c, chi_pool_id pool)
{
  const char *query = cli_value(c->cli, "query");
  uint64_t timeout_ns = 0;
  chi_task *task;
  chi_error err;
  int status = CLI_OK;
  c->type = schema_method(c->schema, c->cli->arguments[1], &err);
  if (!c->type)
    return cli_usage(c->cli, "%s", err.text);
  if (!cli_duration(c->cli, "timeout", 1000000000, &timeout_ns))
    return CLI_USAGE;
  c->task = chi_task_new_failures(c->link.queue, c->type);
  if (!c->task) {
    chi_queue_error(c->link.queue, &err);
    return cli_fail(c->cli, "%s", err.text);
  }
  task = (chi_task *)(void *)c->task;
  task->pool = pool;
  task->deadline_ms = (uint32_t)((timeout_ns + 999999) / 1000000);
  if (query)
    status = call_query(c->cli, query, &task->query);
  if (status == CLI_OK)
    status = call_prepare(c);
  if (status == CLI_OK)
    status = call_submit(c, timeout_ns);
  for (int i = 0; i < c->bulk_count && c->task; i++) {
    if (c->bulks[i].own.ref)
      chi_bulk_free(c->link.queue, &c->bulks[i].own);
  }
  if (c->task)
    chi_task_free(c->link.queue, c->task);
  return status;
}

static int call_run(struct cli *cli)
{
  struct call c = {.cli = cli};
  chi_pool_id pool;
  chi_error err = {0};
  char *text = NULL;
  int status;
  if (cli->argument_count < 1)
    return cli_usage(cli, "which pool? an id such as 300.0, or a name");
  if (cli_connect(cli, &c.link) != CLI_OK)
    return CLI_FAILED;
  status = cli_pool(cli, &c.link, cli->arguments[0], &pool);
  if (status == CLI_OK) {
    text = cli_describe(&c.link, pool, &err);
    if (!text || schema_parse(text, strlen(text), &c.schema, &err) != CHI_OK)
      status = cli_fail(cli, "pool %s: %s", cli->arguments[0], err.text);
  }
  if (status == CLI_OK && cli->argument_count > 1)
    status = call_method(&c, pool);
  else if (status == CLI_OK && cli_value(cli, "json"))
    puts(text);
  else if (status == CLI_OK)
    status = call_list(&c);
  schema_free(c.schema);
  free(text);
  cli_disconnect(&c.link);
  return status;
}

const struct cli_command cmd_call = {
    .name = "call",
    .arguments = "POOL [METHOD [NAME=VALUE...]]",
    .about = "run any method of any pool; without one, list what there is",
    .more = "METHOD is a name as listed, or its number. Fields: size=64K, block.offset=0,\n"
            "blocks[1].size=4096. Buffers that go in: data=@FILE, data=@- or data=TEXT (data=@@x "
            "for a\n"
            "text that begins with @); buffers that come out: data=@FILE or data=@-, their size\n"
            "from data.size=4K or the field 'length'. A 'length' that isn't given is the size of\n"
            "the buffer that goes in. Prints the fields that come out as JSON.\n",
    .run = call_run,
    .options = {
        {CLI_INSTANCE},
        {"json", NULL, "add the code and its text to the output"},
        {"query", "WHERE", "local, broadcast, dynamic, id:N, hash:N, range:A:N, physical:N"},
        {"timeout", "TIME", "cancel the call after so long, such as 500ms or 10s"}}};
