/* sim_link.c - connections between clients and nodes: messages in order, and hang-ups. */
#include "sim_link.h"

#include <stdlib.h>

struct sim_link {
  uint32_t refs;              /* of two ends and the mail under way */
  struct sim_party *client;   /* NULL: shut, or dead */
  struct sim_link_port *port; /* NULL: closed, or dead */
  env_link client_end, node_end;
  struct sim_thread *waiting;  /* the client's, in a call or a wait */
  struct sim_link_mail *reply; /* arrived, or about to */
  bool owed;                   /* it is of a call that has not waited for it */
};

static void sim_link_drop(struct sim_link *link)
{
  CHI_ASSERT(link->refs > 0);
  if (--link->refs == 0)
    free(link);
}

static uint64_t sim_link_time(struct sim_party *sender)
{
  return sender->world->now + sim_world_about(&sender->timing, sender->world->profile.link);
}

/* ---- mail --------------------------------------------------------------------------------- */

static struct sim_link_mail *sim_link_mail(struct sim_link *link, int kind, const void *bytes,
                                           size_t size)
{
  struct sim_link_mail *mail = sim_world_new(sizeof(*mail) + size);
  CHI_ASSERT(size <= ENV_MESSAGE_MAX);
  mail->link = link;
  link->refs++;
  mail->kind = kind;
  mail->size = size;
  if (size)
    memcpy(mail->bytes, bytes, size);
  return mail;
}

static void sim_link_enclose(struct sim_link_mail *mail, struct sim_party *sender,
                             const struct env_share *shares, uint32_t count)
{
  CHI_ASSERT(count <= ENV_SHARES_MAX);
  mail->count = count;
  for (uint32_t i = 0; i < count; i++) {
    mail->share[i].kind = shares[i].kind;
    if (shares[i].kind == ENV_SHARE_BELL)
      mail->share[i].bell = sim_party_bell_get(sender, shares[i].bell);
    else
      mail->share[i].segment = sim_party_segment_get(sender, shares[i].segment.handle);
  }
}

/* What was in the mail becomes the receiver's own. */
static void sim_link_unpack(struct sim_link_mail *mail, struct sim_party *receiver,
                            struct env_share *shares)
{
  for (uint32_t i = 0; i < mail->count; i++) {
    shares[i] = (struct env_share){.kind = mail->share[i].kind, .bell = ENV_NO_BELL};
    if (mail->share[i].kind == ENV_SHARE_BELL)
      shares[i].bell = sim_party_table_add(&receiver->bells, mail->share[i].bell);
    else
      sim_party_segment_give(receiver, mail->share[i].segment, &shares[i].segment);
  }
  mail->count = 0;
}

CHI_PRIVATE void sim_link_mail_free(struct sim_link_mail *mail)
{
  for (uint32_t i = 0; i < mail->count; i++) {
    if (mail->share[i].kind == ENV_SHARE_BELL)
      sim_party_bell_drop(mail->share[i].bell);
    else
      sim_party_segment_drop(mail->share[i].segment);
  }
  sim_link_drop(mail->link);
  free(mail);
}

static void sim_link_trace(struct sim_party *sender, const struct sim_link_mail *mail)
{
  struct sim_world *world = sender->world;
  const struct sim_link *link = mail->link;
  if (mail->kind == SIM_LINK_CONNECT || mail->kind == SIM_LINK_HANGUP)
    sim_world_trace(world, sender->node, SIM_TRACE_LINK, (uint64_t)link->node_end,
                    mail->kind == SIM_LINK_CONNECT, 0, NULL);
  else
    sim_world_trace(world, sender->node, SIM_TRACE_SEND, (uint64_t)link->node_end, mail->size,
                    mail->count, NULL);
}

/* To the node: nothing overtakes what was sent before, whoever sent it. */
static void sim_link_post(struct sim_party *sender, struct sim_link_port *port,
                          struct sim_link_mail *mail)
{
  mail->sender = sender->number;
  mail->due = sim_link_time(sender);
  for (const struct sim_link_mail *before = port->first; before; before = before->next)
    if (mail->due < before->due)
      mail->due = before->due;
  *port->last = mail;
  port->last = &mail->next;
  sim_link_trace(sender, mail);
  if (port->thread)
    sim_thread_wake(port->thread, mail->due);
}

/* ---- the node's side ---------------------------------------------------------------------- */

CHI_PRIVATE void sim_link_port_init(struct sim_link_port *port, struct sim_party *node)
{
  *port = (struct sim_link_port){node, NULL, NULL, NULL};
  port->last = &port->first;
}

static void sim_link_unlink(struct sim_link_port *port, struct sim_link_mail **at)
{
  struct sim_link_mail *mail = *at;
  *at = mail->next;
  if (port->last == &mail->next)
    port->last = at;
}

CHI_PRIVATE struct sim_link_mail *sim_link_take(struct sim_link_port *port, env_link *link)
{
  struct sim_link_mail *mail = port->first;
  if (!mail || mail->due > port->node->world->now)
    return NULL;
  sim_link_unlink(port, &port->first);
  CHI_ASSERT(mail->link->port == port);
  *link = mail->link->node_end;
  return mail;
}

CHI_PRIVATE uint64_t sim_link_due(const struct sim_link_port *port)
{
  return port->first ? port->first->due : SIM_WORLD_NEVER;
}

CHI_PRIVATE int sim_link_reply(struct sim_party *node, env_link handle, const void *message,
                               size_t size, const struct env_share *shares, uint32_t count)
{
  struct sim_link *link = sim_party_table_get(&node->links, handle);
  struct sim_link_mail *mail;
  CHI_ASSERT(link);
  if (!link->client)
    return CHI_ESHUTDOWN;
  CHI_ASSERT(!link->reply); /* one answer to one request */
  mail = sim_link_mail(link, SIM_LINK_REPLY, message, size);
  sim_link_enclose(mail, node, shares, count);
  mail->due = sim_link_time(node);
  link->reply = mail;
  sim_link_trace(node, mail);
  if (link->waiting)
    sim_thread_wake(link->waiting, mail->due);
  return CHI_OK;
}

CHI_PRIVATE void sim_link_close(struct sim_link_port *port, env_link handle)
{
  struct sim_link *link = sim_party_table_take(&port->node->links, handle);
  CHI_ASSERT(link && link->port == port);
  for (struct sim_link_mail **at = &port->first; *at;) {
    struct sim_link_mail *mail = *at;
    if (mail->link == link) {
      sim_link_unlink(port, at);
      sim_link_mail_free(mail);
    } else {
      at = &mail->next;
    }
  }
  link->port = NULL;
  sim_world_trace(port->node->world, port->node->node, SIM_TRACE_LINK, (uint64_t)link->node_end, 0,
                  0, NULL);
  if (link->waiting)
    sim_thread_wake(link->waiting, sim_link_time(port->node));
  sim_link_drop(link);
}

CHI_PRIVATE void sim_link_close_unheard(struct sim_link_port *port)
{
  const struct sim_link_mail *mail = port->first;
  while (mail) {
    bool unheard = mail->kind == SIM_LINK_CONNECT;
    if (unheard)
      sim_link_close(port, mail->link->node_end);
    mail = unheard ? port->first : mail->next;
  }
}

CHI_PRIVATE void sim_link_close_all(struct sim_link_port *port)
{
  struct sim_party_table *links = &port->node->links;
  for (uint32_t i = 0; i < links->count; i++)
    if (links->item[i])
      sim_link_close(port, i);
  CHI_ASSERT(!port->first);
}

/* ---- the client's side -------------------------------------------------------------------- */

CHI_PRIVATE env_link sim_link_connect(struct sim_party *client, struct sim_link_port *port)
{
  struct sim_link *link = sim_world_new(sizeof(*link));
  link->refs = 2;
  link->client = client;
  link->port = port;
  link->client_end = sim_party_table_add(&client->links, link);
  link->node_end = sim_party_table_add(&port->node->links, link);
  sim_link_post(client, port, sim_link_mail(link, SIM_LINK_CONNECT, NULL, 0));
  return link->client_end;
}

/* Parks the running thread until the reply is there, the link has hung up, or it is that late. */
static int sim_link_await(struct sim_party *client, struct sim_link *link, uint64_t end)
{
  struct sim_world *world = client->world;
  CHI_ASSERT(!link->waiting); /* one thread at a time */
  link->waiting = world->running;
  while (world->now < end && (link->reply ? link->reply->due > world->now : link->port != NULL))
    sim_thread_park(world, link->reply && link->reply->due < end ? link->reply->due : end);
  link->waiting = NULL;
  link->owed = link->port && (!link->reply || link->reply->due > world->now);
  if (link->owed)
    return CHI_ETIMEOUT;
  return link->reply ? CHI_OK : CHI_ESHUTDOWN;
}

CHI_PRIVATE int sim_link_call(struct sim_party *client, env_link handle, const void *request,
                              size_t request_size, void *reply, size_t *size,
                              struct env_share *shares, uint32_t *count)
{
  struct sim_link *link = sim_party_table_get(&client->links, handle);
  struct sim_link_mail *mail;
  uint64_t end = client->world->now + ENV_CALL_NS;
  CHI_ASSERT(link);
  bool late = link->owed;
  if (!late && !link->port)
    return CHI_ESHUTDOWN;
  if (!late)
    sim_link_post(client, link->port, sim_link_mail(link, SIM_LINK_REQUEST, request, request_size));
  int rc = sim_link_await(client, link, end);
  if (rc != CHI_OK)
    return late && rc == CHI_ETIMEOUT ? CHI_EBUSY : rc;
  mail = link->reply;
  link->reply = NULL;
  if (mail->size > *size || mail->count > *count) {
    rc = CHI_ETOOBIG;
  } else {
    rc = late ? CHI_ESTALE : CHI_OK;
    *size = mail->size;
    *count = mail->count;
    memcpy(reply, mail->bytes, mail->size);
    sim_link_unpack(mail, client, shares);
  }
  sim_link_mail_free(mail);
  return rc;
}

CHI_PRIVATE bool sim_link_owes(struct sim_party *client, env_link handle)
{
  const struct sim_link *link = sim_party_table_get(&client->links, handle);
  CHI_ASSERT(link);
  return link->owed && link->port && (!link->reply || link->reply->due > client->world->now);
}

CHI_PRIVATE int sim_link_wait(struct sim_party *client, env_link handle, env_bell bell,
                              uint64_t deadline)
{
  struct sim_link *link = sim_party_table_get(&client->links, handle);
  bool rung;
  CHI_ASSERT(link && !link->waiting);
  if (rng_chance(&client->timing, SIM_WORLD_WHIM_PPM))
    return CHI_OK;
  if (!link->port)
    return CHI_ESHUTDOWN;
  link->waiting = client->world->running;
  rung = sim_party_bell_wait(client, bell, sim_party_until(client, deadline));
  link->waiting = NULL;
  if (rung)
    return CHI_OK;
  if (!link->port)
    return CHI_ESHUTDOWN;
  return sim_party_now(client) >= deadline ? CHI_ETIMEOUT : CHI_OK;
}

CHI_PRIVATE void sim_link_shut(struct sim_party *client, env_link handle)
{
  struct sim_link *link = sim_party_table_take(&client->links, handle);
  CHI_ASSERT(link && link->client == client);
  link->client = NULL;
  link->waiting = NULL;
  if (link->reply)
    sim_link_mail_free(link->reply);
  link->reply = NULL;
  if (link->port)
    sim_link_post(client, link->port, sim_link_mail(link, SIM_LINK_HANGUP, NULL, 0));
  sim_link_drop(link);
}

CHI_PRIVATE void sim_link_shut_all(struct sim_party *client)
{
  for (uint32_t i = 0; i < client->links.count; i++)
    if (client->links.item[i])
      sim_link_shut(client, i);
}
