/* net_depart.c - a node that stops says so, and goes when nobody has anything under way to it. */
#include "net.h"

enum net_depart { NET_DEPART_STOPS, NET_DEPART_HEARD };

static void net_depart_say(struct net_link *l, enum net_depart what)
{
  struct wire_out out;
  if (!peer_begin(l->peer, WIRE_DEPART, 1, true, &out))
    return;
  wire_put_u8(&out, (uint8_t)what);
  peer_post(l->peer, &out, NULL, 0, NULL);
}

void net_depart_tell(struct net_link *l)
{
  l->tell_at = l->net->now + NET_ASK_NS;
  l->ack_at = l->net->now; /* what has arrived is acknowledged before it goes */
  net_link_wake(l, l->acks > 0 ? l->ack_at : l->tell_at);
  net_depart_say(l, NET_DEPART_STOPS);
}

void net_depart_begin(struct net *n)
{
  for (uint32_t i = 0; i < n->nodes; i++) {
    struct net_link *l = NULL;
    if (i != n->self && (n->link[i] || n->o.peers->peer[i].met))
      l = net_link_get(n, i);
    if (!l)
      continue;
    if (l->departing)
      net_link_forsake(l);
    net_depart_tell(l);
  }
}

/* Everything that was asked of the peer before has been sent before the answer, and arrives there
 * before it: so the peer knows all that it may have been asked for. */
void net_depart_on_record(struct net_link *l, struct wire_in *in)
{
  struct net *n = l->net;
  uint8_t what = wire_get_u8(in);
  if (!wire_in_ended(in) || what > NET_DEPART_HEARD) {
    net_malformed(n, l, "a departure");
  } else if (what == NET_DEPART_HEARD) {
    l->released = n->draining;
  } else {
    net_link_departs(l);
    net_depart_say(l, NET_DEPART_HEARD);
  }
}

/* It has said hello, and may take this node for met before it is met here. */
static bool net_depart_meets(const struct net *n, uint32_t node)
{
  const struct peer *p = &n->o.peers->peer[node];
  return p->connected && p->boot != 0 && !p->met && !p->refused &&
         !(n->o.is_dead && n->o.is_dead(n->o.arg, node));
}

/* It hasn't heard of the stop, or hasn't all answers: that it was refused is one, too. Or it keeps
 * answers for this node, which have arrived. */
static bool net_depart_owes(const struct net_link *l)
{
  bool owes = !l->released || l->kept > 0 || l->acks > 0;
  for (uint32_t i = 0; i < l->seats && !owes; i++)
    owes = !l->seat[i].run && l->seat[i].rc == CHI_ESHUTDOWN;
  return owes;
}

bool net_departed(const struct net *n)
{
  for (uint32_t i = 0; i < n->nodes; i++) {
    const struct net_link *l = n->link[i];
    if (net_depart_meets(n, i) || (l && net_link_reaches(l) && net_depart_owes(l)))
      return false;
  }
  return true;
}
