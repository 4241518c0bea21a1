/* profile.c - the costs of a simulation as a file. */
#include "profile.h"

#include <errno.h>
#include <stdlib.h>
#include <yaml.h>

#include "error.h"
#ifndef CHI_OMIT_SIM
#include "sim_profile.h"
#endif

bool profile_add(struct profile *p, const char *name, const char *value)
{
  if (p->count == PROFILE_COSTS || strlen(name) >= PROFILE_NAME ||
      strlen(value) >= PROFILE_VALUE || strpbrk(name, ",=\n") || strpbrk(value, ",\n"))
    return false;
  snprintf(p->cost[p->count].name, PROFILE_NAME, "%s", name);
  snprintf(p->cost[p->count].value, PROFILE_VALUE, "%s", value);
  p->count++;
  return true;
}

void profile_print(const struct profile *p, FILE *out)
{
  fprintf(out, "costs:\n");
  for (uint32_t i = 0; i < p->count; i++)
    fprintf(out, "  %s: %s\n", p->cost[i].name, p->cost[i].value);
}

const char *profile_spec(const struct profile *p, char buf[PROFILE_SPEC])
{
  size_t n = 0;
  buf[0] = '\0';
  for (uint32_t i = 0; i < p->count; i++)
    n += (size_t)snprintf(buf + n, PROFILE_SPEC - n, "%s%s=%s", i ? "," : "", p->cost[i].name,
                          p->cost[i].value);
  return buf;
}

/* ---- reading ---------------------------------------------------------------------------- */

/* Where a document is read from, for messages. */
struct profile_reader {
  const struct cli *cli;
  const char *path;
  yaml_document_t document;
};

static bool profile_wrong(const struct profile_reader *r, const yaml_mark_t *at, const char *what)
{
  cli_fail(r->cli, "%s:%zu:%zu: %s", r->path, at->line + 1, at->column + 1, what);
  return false;
}

#ifndef CHI_OMIT_SIM

/* A cost is what a cluster's name takes as one. */
static bool profile_is_cost(const char *name, const char *value, chi_error *err)
{
  uint64_t number;
  uint32_t which;
  int rc = sim_profile_parse(name, value, &which, &number, err);
  if (rc == CHI_ENOENT && strcmp(name, "latency") == 0 &&
      (rc = chi_parse_duration(value, 1, &number)) != CHI_OK)
    error_set(err, rc, "latency: expected a time, found \"%.40s\"", value);
  else if (rc == CHI_ENOENT)
    error_set(err, rc, "no such cost: \"%.40s\"", name);
  return rc == CHI_OK;
}

#else

static bool profile_is_cost(const char *name, const char *value, chi_error *err)
{
  (void)name;
  (void)value;
  (void)err;
  return true;
}

#endif

static bool profile_read_costs(struct profile_reader *r, const yaml_node_t *map, struct profile *p)
{
  const yaml_node_pair_t *pair = map->data.mapping.pairs.start;
  chi_error err;
  for (; pair < map->data.mapping.pairs.top; pair++) {
    const yaml_node_t *name = yaml_document_get_node(&r->document, pair->key);
    const yaml_node_t *value = yaml_document_get_node(&r->document, pair->value);
    if (name->type != YAML_SCALAR_NODE || value->type != YAML_SCALAR_NODE)
      return profile_wrong(r, &name->start_mark, "expected NAME: VALUE");
    if (!profile_add(p, (const char *)name->data.scalar.value,
                     (const char *)value->data.scalar.value))
      return profile_wrong(r, &name->start_mark, "a name or value that no cost has");
    if (!profile_is_cost(p->cost[p->count - 1].name, p->cost[p->count - 1].value, &err))
      return profile_wrong(r, err.code == CHI_ENOENT ? &name->start_mark : &value->start_mark,
                           err.text);
  }
  return true;
}

static bool profile_read(struct profile_reader *r, struct profile *p)
{
  static const yaml_mark_t start = {0, 0, 0};
  const yaml_node_t *root = yaml_document_get_root_node(&r->document);
  const yaml_node_t *name, *costs;
  if (!root || root->type != YAML_MAPPING_NODE ||
      root->data.mapping.pairs.top - root->data.mapping.pairs.start != 1)
    return profile_wrong(r, root ? &root->start_mark : &start, "expected a map with `costs` alone");
  name = yaml_document_get_node(&r->document, root->data.mapping.pairs.start->key);
  costs = yaml_document_get_node(&r->document, root->data.mapping.pairs.start->value);
  if (name->type != YAML_SCALAR_NODE || strcmp((const char *)name->data.scalar.value, "costs") != 0)
    return profile_wrong(r, &name->start_mark, "expected a map with `costs` alone");
  if (costs->type != YAML_MAPPING_NODE)
    return profile_wrong(r, &costs->start_mark, "costs: expected a map of names and values");
  return profile_read_costs(r, costs, p);
}

bool profile_load(const struct cli *cli, const char *path, struct profile *p)
{
  struct profile_reader r = {.cli = cli, .path = path};
  yaml_parser_t parser;
  bool good = false;
  char *text = malloc(PROFILE_FILE_MAX);
  FILE *in = fopen(path, "re");
  size_t size = in && text ? fread(text, 1, PROFILE_FILE_MAX, in) : 0;
  p->count = 0;
  if (!in || !text || ferror(in)) {
    cli_fail(cli, "%s: %s", path, strerror(errno));
  } else if (size == PROFILE_FILE_MAX) {
    cli_fail(cli, "%s: it is larger than %u bytes", path, PROFILE_FILE_MAX - 1);
  } else if (!yaml_parser_initialize(&parser)) {
    cli_fail(cli, "out of memory");
  } else {
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    if (!yaml_parser_load(&parser, &r.document)) {
      profile_wrong(&r, &parser.problem_mark, parser.problem ? parser.problem : "malformed");
    } else {
      good = profile_read(&r, p);
      yaml_document_delete(&r.document);
    }
    yaml_parser_delete(&parser);
  }
  if (in)
    fclose(in);
  free(text);
  return good;
}
