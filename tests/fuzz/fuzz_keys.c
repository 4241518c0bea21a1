/* fuzz_keys.c - any text as the key files of a node, before a NUL its own, behind it the public one
 * of node 1: what is taken is a key, what isn't is told in one line that doesn't tell the key. */
#include "real_keys.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const chi_host keys_hosts[] = {{.name = "own"}, {.name = "other"}};

/* The files are in memory; only the directory of public keys is a real one, with a link. */
static int keys_own = -1, keys_other = -1;
static char keys_file[32], keys_directory[32] = "/tmp/fuzz-keys-XXXXXX", keys_link[64];

static void keys_remove(void)
{
  unlink(keys_link);
  rmdir(keys_directory);
}

static void keys_check(bool holds)
{
  if (!holds)
    abort();
}

static void keys_begin(void)
{
  char target[32];
  keys_own = memfd_create("own", MFD_CLOEXEC);
  keys_other = memfd_create("other", MFD_CLOEXEC);
  keys_check(fchmod(keys_own, 0600) == 0 && fchmod(keys_other, 0644) == 0);
  keys_check(mkdtemp(keys_directory) != NULL);
  snprintf(keys_file, sizeof keys_file, "/proc/self/fd/%d", keys_own);
  snprintf(target, sizeof target, "/proc/self/fd/%d", keys_other);
  snprintf(keys_link, sizeof keys_link, "%s/other%s", keys_directory, REAL_KEYS_SUFFIX);
  keys_check(symlink(target, keys_link) == 0);
  atexit(keys_remove);
}

static void keys_fill(int fd, const void *bytes, size_t size)
{
  keys_check(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
}

static bool keys_is_key(const char *text)
{
  uint8_t bytes[32];
  return strlen(text) == REAL_KEYS_TEXT - 1 && zmq_z85_decode(bytes, text);
}

/* A line for people, without any 40 characters in a row that would be a key. */
static void keys_check_words(int rc, const chi_error *err)
{
  size_t run = 0;
  keys_check(rc == err->code && err->text[0] && !strchr(err->text, '\n'));
  for (const char *at = strstr(err->text, ": "); at && *at; at++) {
    run = *at == ' ' ? 0 : run + 1;
    keys_check(run < REAL_KEYS_TEXT - 1);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  const uint8_t *end = size ? memchr(data, 0, size) : NULL;
  size_t own = end ? (size_t)(end - data) : size;
  struct real_keys k;
  chi_error err = {0};
  if (keys_own < 0)
    keys_begin();
  keys_fill(keys_own, data, own);
  keys_fill(keys_other, end ? end + 1 : data, end ? size - own - 1 : 0);
  int rc = real_keys_open(&k, keys_file, keys_directory, keys_hosts, 2, 0, &err);
  if (rc == CHI_OK) {
    keys_check(keys_is_key(k.secret) && keys_is_key(k.own) && !k.node[0][0]);
    keys_check(keys_is_key(k.node[1]) && real_keys_known(&k, k.node[1]));
    keys_check(real_keys_fit(&k, 1, k.node[1]) && !real_keys_fit(&k, 0, k.node[1]));
    /* One that becomes unreadable is none from then on. */
    keys_fill(keys_other, data, own);
    keys_check(real_keys_read(&k, NULL, NULL, &err) != CHI_OK && !k.node[1][0]);
    keys_check(!real_keys_known(&k, ""));
    real_keys_close(&k);
  } else {
    keys_check_words(rc, &err);
  }
  keys_check(!k.node && !k.secret[0] && !k.own[0]);
  return 0;
}
