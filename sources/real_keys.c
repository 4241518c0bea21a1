/* real_keys.c - who may speak to this node: its own key and the public ones of all, in files. */
#include "real_keys.h"

#ifndef CHI_OMIT_REAL

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define REAL_KEYS_FILE_MAX 4096u /* bytes of a key file */

/* What a file of a kind must be like. */
struct real_keys_kind {
  const char *word, *other;
  mode_t forbidden;
  const char *why;
};

static const struct real_keys_kind real_keys_secret = {
    "secret", "public", S_IRWXG | S_IRWXO, "others may read it; \"chmod 600\" makes it secret"};
static const struct real_keys_kind real_keys_public = {
    "public", "secret", S_IWOTH, "anybody may write to it, and so be taken for that node"};

static int real_keys_code(int error)
{
  return error == ENOENT || error == ENOTDIR ? CHI_ENOENT
         : error == EACCES || error == EPERM ? CHI_EACCES
         : error == ENOMEM                   ? CHI_ENOMEM
                                             : CHI_EIO;
}

/* ---- one file -------------------------------------------------------------------------------- */

/* The whole of a small file that is as its kind must be, with a NUL. */
static int real_keys_slurp(int fd, const char *path, const struct real_keys_kind *kind, char *text,
                           chi_error *err)
{
  struct stat st;
  size_t used = 0;
  ssize_t n = 0;
  if (fstat(fd, &st) != 0)
    return error_set(err, real_keys_code(errno), "%s: %m", path);
  if (!S_ISREG(st.st_mode))
    return error_set(err, CHI_ECONFIG, "%s: expected a file with a %s key", path, kind->word);
  if (st.st_mode & kind->forbidden)
    return error_set(err, CHI_EACCES, "%s: its mode is %04o: %s", path, st.st_mode & 07777u,
                     kind->why);
  while (used <= REAL_KEYS_FILE_MAX &&
         ((n = read(fd, text + used, REAL_KEYS_FILE_MAX + 1 - used)) > 0 ||
          (n < 0 && errno == EINTR)))
    used += n > 0 ? (size_t)n : 0;
  if (n < 0)
    return error_set(err, real_keys_code(errno), "%s: %m", path);
  if (used > REAL_KEYS_FILE_MAX)
    return error_set(err, CHI_ECONFIG, "%s: more than %u bytes, so it is no key", path,
                     REAL_KEYS_FILE_MAX);
  text[used] = '\0';
  return CHI_OK;
}

/* The key of a line "WORD KEY"; false: it isn't one. */
static bool real_keys_line(const char *line, size_t size, const char *word, real_keys_text key)
{
  size_t n = strlen(word);
  uint8_t bytes[32];
  bool good;
  if (size != n + REAL_KEYS_TEXT || strncmp(line, word, n) != 0 || line[n] != ' ')
    return false;
  memcpy(key, line + n + 1, REAL_KEYS_TEXT - 1);
  key[REAL_KEYS_TEXT - 1] = '\0';
  good = !memchr(key, '\0', REAL_KEYS_TEXT - 1) && zmq_z85_decode(bytes, key) != NULL;
  explicit_bzero(bytes, sizeof bytes);
  return good;
}

/* The one key of a text. */
static int real_keys_parse(const char *text, const char *path, const struct real_keys_kind *kind,
                           real_keys_text key, chi_error *err)
{
  bool found = false;
  int number = 1;
  for (size_t size; *text; text += size + (text[size] == '\n'), number++) {
    size = strcspn(text, "\n");
    size_t bare = size > 0 && text[size - 1] == '\r' ? size - 1 : size;
    if (bare == 0 || text[0] == '#')
      continue;
    if (!found && real_keys_line(text, bare, kind->word, key)) {
      found = true;
      continue;
    }
    key[0] = '\0';
    return error_set(err, CHI_ECONFIG, "%s:%d: expected %s\"%s \" and 40 characters of a key%s",
                     path, number, found ? "nothing after the line " : "one line, ", kind->word,
                     strncmp(text, kind->other, 6) ? "" : "; this is the other half of a pair");
  }
  return found ? CHI_OK
               : error_set(err, CHI_ECONFIG, "%s: there is no key in it; expected one line, "
                                             "\"%s \" and 40 characters",
                           path, kind->word);
}

/* Doesn't wait, whatever is at the path. */
static int real_keys_load(const char *path, const struct real_keys_kind *kind, real_keys_text key,
                          chi_error *err)
{
  char text[REAL_KEYS_FILE_MAX + 2];
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), rc;
  key[0] = '\0';
  if (fd < 0)
    return error_set(err, real_keys_code(errno), "%s: cannot read the %s key: %m", path,
                     kind->word);
  rc = real_keys_slurp(fd, path, kind, text, err);
  close(fd);
  if (rc == CHI_OK)
    rc = real_keys_parse(text, path, kind, key, err);
  explicit_bzero(text, sizeof text);
  return rc;
}

/* ---- the directory --------------------------------------------------------------------------- */

static int real_keys_check_directory(const struct real_keys *k, chi_error *err)
{
  struct stat st;
  if (stat(k->directory, &st) != 0)
    return error_set(err, real_keys_code(errno), "%s: cannot read the authorised keys: %m",
                     k->directory);
  if (!S_ISDIR(st.st_mode))
    return error_set(err, CHI_ECONFIG, "%s: expected the directory of the authorised keys",
                     k->directory);
  if (st.st_mode & S_IWOTH)
    return error_set(err, CHI_EACCES, "%s: its mode is %04o: anybody may add a key", k->directory,
                     st.st_mode & 07777u);
  return CHI_OK;
}

static int real_keys_load_node(const struct real_keys *k, uint32_t node, real_keys_text key,
                               chi_error *err)
{
  char path[CHI_PATH_MAX + CHI_NAME_MAX + sizeof REAL_KEYS_SUFFIX];
  const char *name = k->hosts[node].name;
  int rc;
  key[0] = '\0';
  if (strchr(name, '/')) /* no file has such a name */
    return CHI_OK;
  snprintf(path, sizeof path, "%s/%s" REAL_KEYS_SUFFIX, k->directory, name);
  if (access(path, F_OK) != 0 && errno == ENOENT)
    return CHI_OK;
  rc = real_keys_load(path, &real_keys_public, key, err);
  if (rc != CHI_OK || node != k->self || strcmp(key, k->own) == 0)
    return rc;
  key[0] = '\0';
  return error_set(err, CHI_ECONFIG, "%s: this is node %u itself, whose key in %s is another one",
                   path, node, k->file);
}

int real_keys_read(struct real_keys *k, void (*changed)(void *arg, uint32_t node), void *arg,
                   chi_error *err)
{
  int rc = real_keys_check_directory(k, err);
  bool closed = rc != CHI_OK;
  for (uint32_t i = 0; i < k->count; i++) {
    real_keys_text key = "";
    int one = closed ? CHI_OK : real_keys_load_node(k, i, key, err);
    rc = one == CHI_OK ? rc : one;
    if (strcmp(k->node[i], key) == 0)
      continue;
    memcpy(k->node[i], key, sizeof key);
    if (changed)
      changed(arg, i);
  }
  return rc;
}

bool real_keys_known(const struct real_keys *k, const char *key)
{
  for (uint32_t i = 0; i < k->count; i++)
    if (real_keys_fit(k, i, key))
      return true;
  return false;
}

bool real_keys_fit(const struct real_keys *k, uint32_t node, const char *key)
{
  return node < k->count && k->node[node][0] && strcmp(k->node[node], key) == 0;
}

/* ---- open and close -------------------------------------------------------------------------- */

int real_keys_open(struct real_keys *k, const char *file, const char *directory,
                   const chi_host *hosts, uint32_t count, uint32_t self, chi_error *err)
{
  int rc;
  CHI_ASSERT(self < count);
  *k = (struct real_keys){.file = file, .directory = directory, .hosts = hosts, .count = count,
                          .self = self};
  if (!zmq_has("curve"))
    return error_set(err, CHI_ENOTSUP, "networking.key_file: this ZeroMQ was built without CURVE, "
                                       "so it cannot encrypt");
  k->node = calloc(count, sizeof *k->node);
  if (!k->node)
    return error_set(err, CHI_ENOMEM, "no memory for the keys of %u nodes", count);
  rc = real_keys_load(file, &real_keys_secret, k->secret, err);
  if (rc == CHI_OK && zmq_curve_public(k->own, k->secret) != 0)
    rc = error_set(err, CHI_ECONFIG, "%s: ZeroMQ does not take this key: %s", file,
                   zmq_strerror(zmq_errno()));
  if (rc == CHI_OK)
    rc = real_keys_read(k, NULL, NULL, err);
  if (rc != CHI_OK)
    real_keys_close(k);
  return rc;
}

void real_keys_close(struct real_keys *k)
{
  free(k->node);
  explicit_bzero(k, sizeof *k);
}

/* ---- making ---------------------------------------------------------------------------------- */

/* A new file with one line. After a failure it isn't there, unless it was before. */
static int real_keys_write(const char *path, mode_t mode, const char *word, const char *key,
                           chi_error *err)
{
  char line[16 + REAL_KEYS_TEXT];
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode), error;
  if (fd < 0 && errno == EEXIST)
    return error_set(err, CHI_EEXIST, "%s: is there already, and is not overwritten", path);
  if (fd < 0)
    return error_set(err, real_keys_code(errno), "%s: %m", path);
  int size = snprintf(line, sizeof line, "%s %s\n", word, key);
  errno = ENOSPC;
  bool good = write(fd, line, (size_t)size) == size && fsync(fd) == 0;
  error = errno;
  explicit_bzero(line, sizeof line);
  close(fd);
  if (good)
    return CHI_OK;
  unlink(path);
  return error_set(err, real_keys_code(error), "%s: cannot write: %s", path, zmq_strerror(error));
}

int chi_keygen(const char *secret_file, const char *public_file, char *key, chi_error *err)
{
  real_keys_text secret;
  int rc;
  if (zmq_curve_keypair(key, secret) != 0)
    return error_set(err, CHI_ENOTSUP, "this ZeroMQ was built without CURVE, so it has no keys");
  rc = real_keys_write(secret_file, S_IRUSR | S_IWUSR, real_keys_secret.word, secret, err);
  explicit_bzero(secret, sizeof secret);
  if (rc != CHI_OK)
    return rc;
  rc = real_keys_write(public_file, S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH, real_keys_public.word,
                       key, err);
  if (rc != CHI_OK)
    unlink(secret_file);
  return rc;
}

#undef REAL_KEYS_FILE_MAX

#endif
