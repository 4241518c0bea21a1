/* client_link.c - what a client says to its node: calls, and notices of what it gives back. */
#include "client.h"

#define CLIENT_LATE 4u /* late answers that one call takes in before it gives up */

/* What comes with the answer goes to share, which has room for all there can be. CHI_ESTALE: it is
 * the answer to another request, and this one was not sent; CHI_EBUSY: nor was it. */
static int client_ask(struct client_link *l, const struct attach_request *request,
                      struct attach_reply *reply, struct env_share *share, uint32_t *count)
{
  struct attach_request q = *request;
  size_t size = sizeof *reply;
  q.version = ATTACH_VERSION;
  *reply = (struct attach_reply){0};
  *count = ENV_SHARES_MAX;
  int rc = l->env->link_call(l->env, l->link, &q, sizeof q, reply, &size, share, count);
  if (rc == CHI_ESHUTDOWN)
    mark_set(&l->dead, 1);
  if (rc != CHI_OK && rc != CHI_ESTALE)
    *count = 0;
  return rc == CHI_OK && size != sizeof *reply ? CHI_EVERSION : rc;
}

/* ---- notices */

/* There is room for all that a node can have given. */
static void client_owe(struct client_link *l, const struct attach_request *q)
{
  latch_lock(&l->latch);
  if (q->op == ATTACH_CLOSE && l->closed_count < ATTACH_QUEUES_MAX) {
    l->closed[l->closed_count++] = q->id;
    count_add(&l->untold, 1);
  } else if (q->op == ATTACH_RETURN && q->id < l->chunks && !l->returned[q->id]) {
    l->returned[q->id] = (uint8_t)(1 + q->kind);
    count_add(&l->untold, 1);
  }
  latch_unlock(&l->latch);
}

/* Queues first: their tasks use the memory. False: nothing is untold. */
static bool client_owed(struct client_link *l, struct attach_request *q)
{
  latch_lock(&l->latch);
  bool some = l->untold > 0;
  if (l->closed_count > 0) {
    *q = (struct attach_request){.op = ATTACH_CLOSE, .id = l->closed[--l->closed_count]};
  } else if (some) {
    uint32_t i = 0;
    while (!l->returned[i])
      i++;
    *q = (struct attach_request){.op = ATTACH_RETURN, .id = i, .kind = l->returned[i] - 1u};
    l->returned[i] = 0;
  }
  count_add(&l->untold, (uint32_t)-some);
  latch_unlock(&l->latch);
  return some;
}

/* An answer that nobody takes: what it gave goes back. */
static void client_disown(struct client_link *l, const struct attach_reply *r,
                          struct env_share *share, uint32_t count)
{
  struct env *env = l->env;
  for (uint32_t i = 0; i < count; i++)
    if (share[i].kind == ENV_SHARE_BELL)
      env->bell_close(env, share[i].bell);
    else
      env->segment_close(env, &share[i].segment);
  if (r->rc == CHI_OK && r->op == ATTACH_QUEUE)
    client_owe(l, &(struct attach_request){.op = ATTACH_CLOSE, .id = r->id});
  if (r->rc == CHI_OK && r->op == ATTACH_LEASE)
    client_owe(l, &(struct attach_request){
                      .op = ATTACH_RETURN, .id = r->id, .kind = ATTACH_RETURN_UNMAPPED});
}

void client_tell(struct client_link *l)
{
  struct env_share share[ENV_SHARES_MAX];
  struct attach_request q;
  struct attach_reply r;
  uint32_t count = 0;
  int rc = CHI_OK;
  while ((rc == CHI_OK || rc == CHI_ESTALE) && mark_get(&l->untold) > 0 &&
         !l->env->link_owes(l->env, l->link) && client_owed(l, &q)) {
    rc = client_ask(l, &q, &r, share, &count);
    if (rc == CHI_ESTALE)
      client_disown(l, &r, share, count);
    if (rc == CHI_ESTALE || rc == CHI_EBUSY)
      client_owe(l, &q);
  }
}

void client_notice(struct client_link *l, uint32_t op, uint32_t id)
{
  if (mark_get(&l->dead))
    return; /* there is nobody to give it back to */
  client_owe(l, &(struct attach_request){.op = op, .id = id});
  client_tell(l);
}

/* ---- calls */

int client_call(struct client_link *l, const struct attach_request *request,
                struct attach_reply *reply, struct env_share *share, uint32_t *count)
{
  struct env_share got[ENV_SHARES_MAX];
  uint32_t n = 0, room = *count;
  client_tell(l);
  int rc = client_ask(l, request, reply, got, &n);
  for (uint32_t late = 1; rc == CHI_ESTALE && late < CLIENT_LATE; late++) {
    client_disown(l, reply, got, n);
    client_tell(l);
    rc = client_ask(l, request, reply, got, &n);
  }
  *count = rc == CHI_OK && n <= room ? n : 0;
  memcpy(share, got, *count * sizeof *share);
  /* Nor may what could not be mapped, or is nobody's, stay lent. */
  if (n > *count || rc == CHI_ENOMEM || rc == CHI_ESTALE) {
    client_disown(l, reply, got + *count, n - *count);
    client_tell(l);
  }
  if (rc == CHI_OK && n > room)
    rc = CHI_EVERSION;
  if (rc == CHI_EBUSY || rc == CHI_ESTALE)
    rc = CHI_ETIMEOUT;
  return rc != CHI_OK ? rc : reply->rc;
}

#undef CLIENT_LATE
