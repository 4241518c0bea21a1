/* compose.c - pools declared in configuration become create tasks. */
#include "compose.h"
#include "error.h"
#include "worker.h"

#include <stdio.h>

#define COMPOSE_PARAMS_MAX 2048u

int compose_params(const chi_param *params, uint32_t count, char *out, size_t room)
{
  size_t used = 0;
  for (uint32_t i = 0; i < count; i++) {
    size_t name = strlen(params[i].name), value = strlen(params[i].value);
    if (strpbrk(params[i].value, "\n") || strpbrk(params[i].name, "\n="))
      return CHI_EINVAL;
    if (used + name + value + 3 > room)
      return CHI_ETOOBIG;
    memcpy(out + used, params[i].name, name);
    out[used + name] = '=';
    memcpy(out + used + name + 1, params[i].value, value);
    used += name + value + 1;
    out[used++] = '\n';
  }
  out[used] = '\0';
  return CHI_OK;
}

/* Whether the text is "NAME: ...", with or without points in the name. */
static bool compose_about(const char *text, const char *name)
{
  for (; *name; name++, text++)
    if (*text != *name && !(*text == '_' && *name == '.'))
      return false;
  return *text == ':';
}

void compose_place(const chi_compose_entry *entry, const char *why, int *line, int *column)
{
  *line = entry->line;
  *column = entry->column;
  for (uint32_t i = 0; i < entry->param_count; i++)
    if (compose_about(why, entry->params[i].name)) {
      *line = entry->params[i].line;
      *column = entry->params[i].column;
    }
}

static void compose_wrong(struct compose *c, const chi_compose_entry *e, int rc, const char *why)
{
  char place[48] = "";
  int line, column;
  compose_place(e, why, &line, &column);
  if (line)
    snprintf(place, sizeof place, ", line %d, column %d", line, column);
  error_set(&c->error, rc, "compose entry %s (%u.%u, module %s%s): %s", e->pool_name,
            e->pool_major, e->pool_minor, e->mod_name, place, why);
}

static int compose_entry(chi_ctx *ctx, struct compose *c, const chi_compose_entry *e)
{
  char params[COMPOSE_PARAMS_MAX];
  chi_error why = {0};
  chi_pool_id id = {e->pool_major, e->pool_minor};
  const struct admin_wanted wanted = {e->mod_name, e->pool_name, params, e->pool_query};
  bool created = false;
  int rc = compose_params(e->params, e->param_count, params, sizeof params);
  if (rc == CHI_OK)
    rc = admin_create_pool(ctx, c->host, &wanted, &id, &created, &why);
  else
    error_set(&why, rc, "its parameters: %s", chi_status_text(rc));
  if (rc == CHI_OK && (id.major != e->pool_major || id.minor != e->pool_minor))
    rc = error_set(&why, CHI_ECONFLICT, "it is there as %u.%u", id.major, id.minor);
  if (rc != CHI_OK)
    compose_wrong(c, e, rc, why.text);
  return rc;
}

CHI_TASK(compose_pools, 0, CHI_NO_FIELDS)

static int compose_body(chi_ctx *ctx, void *self, void *task)
{
  struct compose *c = ctx->call_arg;
  (void)self;
  (void)task;
  int rc = CHI_OK;
  for (uint32_t i = 0; i < c->config->compose_count && rc == CHI_OK; i++)
    rc = compose_entry(ctx, c, &c->config->compose[i]);
  chi_event_set(ctx, &c->host->composed);
  return rc;
}

static const chi_method compose_method = {&compose_pools_type, compose_body, 0, 0};

static void compose_ended(chi_ctx *ctx)
{
  struct compose *c = ctx->call_arg;
  int rc = ctx->task->rc;
  worker_record_free(&c->host->crew->worker[c->host->crew->count - 1], ctx);
  if (rc != CHI_OK && c->error.code == CHI_OK)
    error_set(&c->error, rc, "compose: %s", chi_status_text(rc));
  c->done(c->arg, rc);
}

int compose_start(struct compose *c)
{
  admin_method(&c->method, &compose_method);
  chi_ctx *ctx = admin_prepare(c->host, &c->method);
  if (!ctx)
    return CHI_ENOMEM;
  admin_start(c->host, ctx, false, compose_ended, c);
  return CHI_OK;
}

#undef COMPOSE_PARAMS_MAX
