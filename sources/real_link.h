/* real_link.h - the attach socket: where it is, and messages with descriptors over it.
 *
 * An instance NAME:PORT listens at DIRECTORY/NAME-PORT.sock; the directory is /tmp/chimaera-UID and
 * belongs to that user alone. Beside the socket is a lock file, which a node holds locked while it
 * lives. A node that is killed leaves both behind, and the next one replaces them. */
#ifndef CHI_REAL_LINK_H
#define CHI_REAL_LINK_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

#include <sys/un.h>

#define REAL_LINK_DIRECTORY_MAX 80

/* Where an instance is. */
struct real_link_place {
  char instance[CHI_NAME_MAX + 16]; /* "NAME:PORT" */
  char directory[REAL_LINK_DIRECTORY_MAX];
  char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
  char lock[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* What a node holds while it listens. */
struct real_link_desk {
  int socket, lock; /* -1: none */
};

/* directory NULL: that of this user. CHI_EINVAL: not a name; CHI_ETOOBIG: the path of the socket
 * would be longer than an address may be. */
CHI_PRIVATE int real_link_locate(const char *directory, const char *name, uint32_t port,
                                 struct real_link_place *out, chi_error *err);

/* Makes the directory if it isn't there, takes the lock and listens. CHI_EBUSY: another node has
 * this instance; CHI_EACCES: the directory isn't ours alone; CHI_EIO, CHI_ENOSPC, CHI_ENOMEM. */
CHI_PRIVATE int real_link_listen(const struct real_link_place *place, struct real_link_desk *out,
                                 chi_error *err);
/* Stops listening and removes both files. */
CHI_PRIVATE void real_link_leave(const struct real_link_place *place, struct real_link_desk *desk);

/* ---- a node's side of a connection */

/* Who is at the other end; CHI_EACCES if it is neither this user nor root. */
CHI_PRIVATE int real_link_peer(int fd, struct env_peer *out);
/* A descriptor that becomes readable when the process at the other end has died, whoever has
 * inherited its socket; -1 where the kernel has none. */
CHI_PRIVATE int real_link_watch(int fd, const struct env_peer *peer);
/* Sends a reply without waiting. CHI_ESHUTDOWN: the peer is gone, or doesn't read. CHI_EINVAL: a
 * segment can't be shared that way (again); CHI_ETOOBIG. */
CHI_PRIVATE int real_link_answer(int fd, const void *message, size_t size,
                                 const struct env_share *shares, uint32_t count);
/* Takes a request without waiting: its size, 0 if there is none now. CHI_ESHUTDOWN: the peer is
 * gone, or sent what is no request: too much, nothing, or descriptors. */
CHI_PRIVATE int64_t real_link_take(int fd, void *message, size_t room);

/* ---- a client's side */

/* Adds the operations on links of a client. */
CHI_PRIVATE void real_link_bind(struct real_env *r);
/* Ends the connection as if the node had, from any thread; link_shut is still to come. */
CHI_PRIVATE void real_link_hang_up(env_link link);

#endif
#endif
