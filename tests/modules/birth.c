/* birth.c - a module that tells how often it was created and destroyed. */
#define _POSIX_C_SOURCE 200809L
#include "modules/birth.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

struct birth {
  char file[256];
  bool ready;
};

static void birth_tell(const struct birth *self, const char *line)
{
  int fd = open(self->file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return;
  if (write(fd, line, strlen(line)) < 0)
    close(fd);
  else
    close(fd);
}

/* Creates its own pool once more, which waits for itself. */
static int birth_again(chi_ctx *ctx)
{
  struct chi_admin_get_or_create_pool *t = chi_subtask_new(ctx, &chi_admin_get_or_create_pool_type);
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = CHI_ADMIN_POOL;
  t->pool_id = chi_self_pool(ctx);
  memcpy(t->mod_name, "birth", 6);
  memcpy(t->params, "file=/dev/null\n", 16);
  strncat(t->pool_name, chi_self_pool_name(ctx), sizeof(t->pool_name) - 1);
  return chi_call(ctx, t);
}

static int birth_create(chi_ctx *ctx, void *state, const void *params)
{
  struct birth *self = state;
  const struct birth_params *p = params;
  memcpy(self->file, p->file, sizeof(self->file));
  birth_tell(self, "create\n");
  int rc = p->slow ? chi_sleep(ctx, p->slow) : CHI_OK;
  if (rc == CHI_OK && p->again)
    rc = birth_again(ctx);
  self->ready = rc == CHI_OK && p->rc == 0;
  return rc == CHI_OK ? p->rc : rc;
}

static void birth_destroy(chi_ctx *ctx, void *state)
{
  (void)ctx;
  birth_tell(state, "destroy\n");
}

static int birth_ready_run(chi_ctx *ctx, struct birth *self, struct birth_ready *t)
{
  (void)ctx;
  t->ready = self->ready;
  return CHI_OK;
}

static int birth_rest_run(chi_ctx *ctx, struct birth *self, struct birth_rest *t)
{
  int rc = chi_sleep(ctx, t->ns);
  birth_tell(self, "rested\n");
  return rc;
}

#define BIRTH_METHODS(M, S) M(S, birth_ready) M(S, birth_rest)
CHI_METHODS(birth, BIRTH_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module birth = {.version = CHI_MODULE_VERSION,
                                   .name = "birth",
                                   .state_size = sizeof(struct birth),
                                   .params = &birth_params_type,
                                   .methods = birth_methods,
                                   .create = birth_create,
                                   .destroy = birth_destroy};
  return &birth;
}
