/* real_host.c - which node of the hostfile this machine is. */
#include "real_host.h"

#ifndef CHI_OMIT_REAL

#include "error.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAL_HOST_NAMED 4u /* so many are named in an error */

/* A list of words for an error. */
struct real_host_list {
  char text[240];
  uint32_t count;
};

static void real_host_name(struct real_host_list *l, const char *word)
{
  size_t used = strlen(l->text);
  if (l->count++ < REAL_HOST_NAMED)
    snprintf(l->text + used, sizeof(l->text) - used, "%s%.48s", used ? ", " : "", word);
  else if (l->count == REAL_HOST_NAMED + 1)
    snprintf(l->text + used, sizeof(l->text) - used, ", ...");
}

static bool real_host_same(const struct sockaddr *a, const struct sockaddr *b)
{
  if (!b || a->sa_family != b->sa_family)
    return false;
  if (a->sa_family == AF_INET)
    return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
           ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
  return a->sa_family == AF_INET6 &&
         memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr,
                sizeof(struct in6_addr)) == 0;
}

/* All of 127.0.0.0/8 is this machine, though the interface has one address of it: as far as one
 * can bind to it. */
static bool real_host_loops(const struct addrinfo *a)
{
  int fd;
  bool bound;
  if (a->ai_family != AF_INET ||
      ntohl(((const struct sockaddr_in *)(const void *)a->ai_addr)->sin_addr.s_addr) >> 24 != 127)
    return false;
  fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bound = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
  if (fd >= 0)
    close(fd);
  return bound;
}

/* Whether an address of the host is one of this machine's. *unknown: it has no address. */
static bool real_host_is_here(const char *host, const struct ifaddrs *own, bool *unknown)
{
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *all = NULL;
  bool here = false;
  *unknown = getaddrinfo(host, NULL, &hints, &all) != 0;
  if (*unknown)
    return false;
  for (const struct addrinfo *a = all; a && !here; a = a->ai_next) {
    here = real_host_loops(a);
    for (const struct ifaddrs *i = own; i && !here; i = i->ifa_next)
      here = real_host_same(a->ai_addr, i->ifa_addr);
  }
  freeaddrinfo(all);
  return here;
}

static int real_host_nowhere(const struct ifaddrs *own, uint32_t hosts,
                             const struct real_host_list *unknown, chi_error *err)
{
  struct real_host_list mine = {0};
  char text[NI_MAXHOST];
  for (const struct ifaddrs *i = own; i; i = i->ifa_next) {
    socklen_t size = i->ifa_addr && i->ifa_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                                      : sizeof(struct sockaddr_in);
    if (i->ifa_addr && !(i->ifa_flags & IFF_LOOPBACK) &&
        (i->ifa_addr->sa_family == AF_INET || i->ifa_addr->sa_family == AF_INET6) &&
        getnameinfo(i->ifa_addr, size, text, sizeof(text), NULL, 0, NI_NUMERICHOST) == 0)
      real_host_name(&mine, text);
  }
  return error_set(err, CHI_ECONFIG,
                   "none of the hostfile's %u nodes has an address of this machine (%s)%s%s; say "
                   "which it is by --node or CHI_NODE",
                   hosts, mine.count ? mine.text : "the loopback address only",
                   unknown->count ? "; without an address: " : "", unknown->text);
}

static int real_host_search(const chi_config *config, const struct ifaddrs *own, uint32_t *node,
                            chi_error *err)
{
  struct real_host_list found = {0}, unknown = {0};
  for (uint32_t i = 0; i < config->host_count; i++) {
    const char *address = config->hosts[i].address;
    bool lost;
    char text[80];
    snprintf(text, sizeof(text), "%u (%.60s)", i, address);
    if (real_host_is_here(address, own, &lost)) {
      real_host_name(&found, text);
      *node = i;
    } else if (lost) {
      real_host_name(&unknown, text);
    }
  }
  if (found.count == 0)
    return real_host_nowhere(own, config->host_count, &unknown, err);
  if (found.count > 1)
    return error_set(err, CHI_ECONFIG,
                     "several nodes of the hostfile have an address of this machine: %s; say which "
                     "it is by --node or CHI_NODE",
                     found.text);
  return CHI_OK;
}

int real_host_find(const chi_config *config, uint32_t *node, chi_error *err)
{
  uint32_t count = config->host_count ? config->host_count : 1;
  struct ifaddrs *own = NULL;
  int rc;
  *node = config->node;
  if (config->node == UINT32_MAX && config->host_count == 0)
    *node = 0;
  if (*node < count)
    return CHI_OK;
  if (*node != UINT32_MAX)
    return error_set(err, CHI_ECONFIG, "node %u: %s", *node,
                     config->host_count ? "the hostfile has fewer nodes"
                                        : "there is no hostfile, so the only node is 0");
  if (getifaddrs(&own) != 0)
    return error_set(err, CHI_ENOMEM, "cannot list the addresses of this machine: %m");
  rc = real_host_search(config, own, node, err);
  freeifaddrs(own);
  return rc;
}

#undef REAL_HOST_NAMED

#endif
