/* real_keys.h - who may speak to this node: its own key and the public ones of all, in files.
 *
 * A key file has one line, "secret KEY" or "public KEY" with the 40 characters by which ZeroMQ
 * writes a key; lines that begin with # and empty ones don't count. The public key of the node NAME
 * of the host list is in the file NAME.pub of the directory of authorised keys. One thread. */
#ifndef CHI_REAL_KEYS_H
#define CHI_REAL_KEYS_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#define REAL_KEYS_TEXT CHI_KEY_MAX
#define REAL_KEYS_SUFFIX ".pub" /* of the files in the directory */

typedef char real_keys_text[REAL_KEYS_TEXT];

struct real_keys {
  const char *file, *directory;
  const chi_host *hosts;
  uint32_t count, self;
  real_keys_text own, secret; /* own public and secret key */
  real_keys_text *node;       /* public keys, by node; empty: none, so it isn't spoken with */
};

/* Reads the secret key of `file` and the directory; the arguments stay valid until real_keys_close.
 * A secret key that others could read, a directory or key that all may write to, and what is not a
 * key are errors; a node without a key is none. CHI_ENOTSUP: ZeroMQ was built without CURVE. */
CHI_PRIVATE int real_keys_open(struct real_keys *k, const char *file, const char *directory,
                               const chi_host *hosts, uint32_t count, uint32_t self,
                               chi_error *err);
/* Wipes the keys. Does nothing to one that is zero. */
CHI_PRIVATE void real_keys_close(struct real_keys *k);

/* Reads the directory again and tells of each node whose key is another one now. A node whose key
 * can't be read has none from then on: the code and *err are of the last such problem. */
CHI_PRIVATE int real_keys_read(struct real_keys *k, void (*changed)(void *arg, uint32_t node),
                               void *arg, chi_error *err);
/* Whether some node has this public key; whether that one does. */
CHI_PRIVATE bool real_keys_known(const struct real_keys *k, const char *key);
CHI_PRIVATE bool real_keys_fit(const struct real_keys *k, uint32_t node, const char *key);

#endif
#endif
