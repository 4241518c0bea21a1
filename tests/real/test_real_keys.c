/* test_real_keys.c - keys in files, and what nodes with keys say to each other. */
#include "daemon.h"
#include "real_keys.h"
#include "station.h"
#include "test.h"

#include <errno.h>
#include <zmq.h>

#define LONG_MS (10000 * SLOW)

static const char *const pair[] = {"127.0.0.1", "127.0.0.2", NULL};
static const chi_host pair_hosts[] = {{"node0", "127.0.0.1"}, {"node1", "127.0.0.2"}};

/* A directory with keys: DIR/nodeN.key, DIR/pub/nodeN.pub. */
struct ring_of_keys {
  char dir[64], pub[80], log[2][80];
  char key[4][CHI_KEY_MAX];
};

static const char *key_path(const struct ring_of_keys *r, uint32_t i)
{
  static char path[4][128];
  snprintf(path[i], sizeof(path[i]), "%s/node%u.key", r->dir, i);
  return path[i];
}

static const char *pub_path(const struct ring_of_keys *r, uint32_t i)
{
  static char path[4][128];
  snprintf(path[i], sizeof(path[i]), "%s/node%u.pub", r->pub, i);
  return path[i];
}

static bool ring_make(struct ring_of_keys *r, uint32_t count)
{
  if (!scratch_make(r->dir))
    return false;
  snprintf(r->pub, sizeof(r->pub), "%s/pub", r->dir);
  for (uint32_t i = 0; i < 2; i++)
    snprintf(r->log[i], sizeof(r->log[i]), "%s/log%u", r->dir, i);
  bool good = mkdir(r->pub, 0700) == 0;
  for (uint32_t i = 0; i < count; i++)
    good = good && chi_keygen(key_path(r, i), pub_path(r, i), r->key[i], NULL) == CHI_OK;
  return good;
}

/* Opens the keys of node 0 and closes them; what is wrong. */
static const char *ring_fault(const struct ring_of_keys *r)
{
  static chi_error err;
  struct real_keys k;
  err = (chi_error){0, ""};
  if (real_keys_open(&k, key_path(r, 0), r->pub, pair_hosts, 2, 0, &err) == CHI_OK)
    real_keys_close(&k);
  return err.text;
}

/* "PATH: " and the rest. */
static const char *said(const char *path, const char *rest)
{
  static char text[400];
  snprintf(text, sizeof(text), "%s%s", path, rest);
  return text;
}

/* ---- files ----------------------------------------------------------------------------------- */

TEST(a_pair_is_made_once_and_only_its_user_reads_the_secret)
{
  struct ring_of_keys r;
  struct stat st;
  char other[CHI_KEY_MAX], text[100], again[100], spare[128];
  chi_error err;
  CHECK(ring_make(&r, 1));
  CHECK_INT(strlen(r.key[0]), 40);
  CHECK_INT(stat(key_path(&r, 0), &st), 0);
  CHECK_INT(st.st_mode & 07777, 0600);
  CHECK_INT(stat(pub_path(&r, 0), &st), 0);
  CHECK_INT(st.st_mode & 0133, 0);
  scratch_read(key_path(&r, 0), text, sizeof(text));
  CHECK_INT(chi_keygen(key_path(&r, 0), pub_path(&r, 0), other, &err), CHI_EEXIST);
  CHECK_STR(err.text, said(key_path(&r, 0), ": is there already, and is not overwritten"));
  CHECK_STR(scratch_read(key_path(&r, 0), again, sizeof(again)), text);
  /* With one of the two there, the other one isn't left behind either. */
  snprintf(spare, sizeof(spare), "%s/spare.key", r.dir);
  CHECK_INT(chi_keygen(spare, pub_path(&r, 0), other, &err), CHI_EEXIST);
  CHECK(access(spare, F_OK) != 0);
  CHECK_INT(chi_keygen("/nowhere/at/all.key", pub_path(&r, 1), other, &err), CHI_ENOENT);
  CHECK(access(pub_path(&r, 1), F_OK) != 0);
  scratch_remove(r.dir);
}

TEST(keys_are_those_that_were_made)
{
  struct ring_of_keys r;
  struct real_keys k;
  CHECK(ring_make(&r, 2));
  CHECK_INT(real_keys_open(&k, key_path(&r, 0), r.pub, pair_hosts, 2, 0, NULL), CHI_OK);
  CHECK_STR(k.own, r.key[0]);
  CHECK(real_keys_fit(&k, 1, r.key[1]));
  CHECK(!real_keys_fit(&k, 0, r.key[1]));
  CHECK(!real_keys_fit(&k, 2, r.key[1]));
  CHECK(real_keys_known(&k, r.key[0]));
  CHECK(!real_keys_known(&k, ""));
  real_keys_close(&k);
  for (size_t i = 0; i < sizeof(k); i++)
    CHECK_INT(((const char *)&k)[i], 0);
  scratch_remove(r.dir);
}

TEST(what_is_not_a_secret_key_is_told)
{
  struct ring_of_keys r;
  const char *path;
  char big[5000], text[200];
  CHECK(ring_make(&r, 2));
  path = key_path(&r, 0);
  CHECK_INT(chmod(path, 0640), 0);
  CHECK_STR(ring_fault(&r), said(path, ": its mode is 0640: others may read it; \"chmod 600\" "
                                       "makes it secret"));
  CHECK_INT(chmod(path, 0600), 0);
  CHECK(scratch_write(r.dir, "node0.key", "# a comment\n\npublic 0123\n"));
  CHECK_STR(ring_fault(&r), said(path, ":3: expected one line, \"secret \" and 40 characters of a "
                                       "key; this is the other half of a pair"));
  CHECK(scratch_write(r.dir, "node0.key", "# a comment\n"));
  CHECK_STR(ring_fault(&r), said(path, ": there is no key in it; expected one line, \"secret \" "
                                       "and 40 characters"));
  snprintf(text, sizeof(text), "secret %s\r\nsecret %s\n", r.key[0], r.key[0]);
  CHECK(scratch_write(r.dir, "node0.key", text));
  CHECK_STR(ring_fault(&r), said(path, ":2: expected nothing after the line \"secret \" and 40 "
                                       "characters of a key"));
  snprintf(text, sizeof(text), "secret %.39s~\n", r.key[0]); /* not of the alphabet */
  CHECK(scratch_write(r.dir, "node0.key", text));
  CHECK(strstr(ring_fault(&r), ":1: expected one line, "));
  memset(big, '#', sizeof(big) - 1);
  big[sizeof(big) - 1] = '\0';
  CHECK(scratch_write(r.dir, "node0.key", big));
  CHECK_STR(ring_fault(&r), said(path, ": more than 4096 bytes, so it is no key"));
  CHECK_INT(unlink(path), 0);
  CHECK_STR(ring_fault(&r), said(path, ": cannot read the secret key: No such file or directory"));
  CHECK_INT(mkfifo(path, 0600), 0); /* nothing is waited for */
  CHECK_STR(ring_fault(&r), said(path, ": expected a file with a secret key"));
  scratch_remove(r.dir);
}

TEST(what_is_wrong_with_the_directory_is_told)
{
  struct ring_of_keys r;
  char path[400];
  CHECK(ring_make(&r, 2));
  CHECK_STR(ring_fault(&r), "");
  CHECK_INT(chmod(r.pub, 0777), 0);
  CHECK_STR(ring_fault(&r), said(r.pub, ": its mode is 0777: anybody may add a key"));
  CHECK_INT(chmod(r.pub, 0755), 0);
  CHECK_INT(chmod(pub_path(&r, 1), 0666), 0);
  CHECK_STR(ring_fault(&r), said(pub_path(&r, 1), ": its mode is 0666: anybody may write to it, "
                                                  "and so be taken for that node"));
  CHECK_INT(unlink(pub_path(&r, 1)), 0); /* a node without a key is no fault */
  CHECK_STR(ring_fault(&r), "");
  CHECK(scratch_write(r.pub, "node1.pub", "public short\n"));
  CHECK(strstr(ring_fault(&r), "node1.pub:1: expected one line, "));
  CHECK_INT(unlink(pub_path(&r, 1)), 0);
  CHECK_INT(mkdir(pub_path(&r, 1), 0755), 0);
  CHECK_STR(ring_fault(&r), said(pub_path(&r, 1), ": expected a file with a public key"));
  CHECK_INT(rmdir(pub_path(&r, 1)), 0);
  /* Somebody else's secret key, or an old public one of our own. */
  CHECK_INT(rename(pub_path(&r, 0), pub_path(&r, 1)), 0);
  CHECK_INT(chi_keygen(said(r.dir, "/other.key"), pub_path(&r, 0), r.key[2], NULL), CHI_OK);
  snprintf(path, sizeof(path), "%s: this is node 0 itself, whose key in %s is another one",
           pub_path(&r, 0), key_path(&r, 0));
  CHECK_STR(ring_fault(&r), path);
  scratch_remove(r.pub);
  CHECK_STR(ring_fault(&r),
            said(r.pub, ": cannot read the authorised keys: No such file or directory"));
  CHECK(scratch_write(r.dir, "pub", "x"));
  CHECK_STR(ring_fault(&r), said(r.pub, ": expected the directory of the authorised keys"));
  scratch_remove(r.dir);
}

static void note_change(void *arg, uint32_t node)
{
  *(uint32_t *)arg |= 1u << node;
}

TEST(a_directory_is_read_again_and_a_key_that_cannot_be_read_is_none)
{
  struct ring_of_keys r;
  struct real_keys k;
  uint32_t changed = 0;
  chi_error err;
  CHECK(ring_make(&r, 2));
  CHECK_INT(real_keys_open(&k, key_path(&r, 0), r.pub, pair_hosts, 2, 0, NULL), CHI_OK);
  CHECK_INT(real_keys_read(&k, note_change, &changed, &err), CHI_OK);
  CHECK_INT(changed, 0);
  CHECK(scratch_write(r.pub, "node1.pub", "rubbish\n"));
  CHECK_INT(real_keys_read(&k, note_change, &changed, &err), CHI_ECONFIG);
  CHECK_INT(changed, 2);
  CHECK(!real_keys_known(&k, r.key[1]));
  CHECK(real_keys_known(&k, r.key[0]));
  scratch_remove(r.pub);
  CHECK_INT(real_keys_read(&k, note_change, &changed, &err), CHI_ENOENT);
  CHECK_INT(changed, 3);
  CHECK(!real_keys_known(&k, r.key[0]));
  real_keys_close(&k);
  scratch_remove(r.dir);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static int lock_station(struct station *s, const struct ring_of_keys *r, uint32_t self,
                        uint32_t port, uint32_t key)
{
  return station_open_locked(s, pair, self, port, r->log[self], key_path(r, key), r->pub, NULL);
}

/* How often it is in a station's log. */
static bool logged(const struct ring_of_keys *r, uint32_t i, const char *text)
{
  char log[8192];
  return strstr(scratch_read(r->log[i], log, sizeof(log)), text) != NULL;
}

TEST(nodes_with_keys_speak_and_what_they_say_cannot_be_read)
{
  static struct station a, b;
  struct ring_of_keys r;
  uint32_t port = station_port(), n = 0;
  CHECK(ring_make(&r, 2));
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  CHECK_INT(lock_station(&b, &r, 1, port, 1), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0]));
  for (; n < 500; n++) {
    uint64_t size = n % 10 == 0 ? 1000003 : n % 3 ? 0 : 5000;
    while (station_send(&a, 1, n, size) == CHI_EBUSY) {
      station_turn(&a);
      station_turn(&b);
    }
  }
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == n && a.returned == 50 + 150));
  CHECK_INT(b.wrong + b.noise, 0);
  CHECK_INT(station_send(&b, 0, 0, 100), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.messages == 1 && b.returned == 1));
  station_close(&a);
  station_close(&b);
  CHECK(logged(&r, 0, "messages between nodes are encrypted; 1 of 1 other nodes have an "
                      "authorised key"));
  scratch_remove(r.dir);
}

TEST(who_has_no_authorised_key_is_refused_on_both_sides)
{
  static struct station a, b;
  struct ring_of_keys r;
  uint32_t port = station_port();
  char want[200];
  CHECK(ring_make(&r, 3));
  CHECK_INT(unlink(pub_path(&r, 2)), 0);
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  CHECK_INT(rename(pub_path(&r, 1), pub_path(&r, 3)), 0); /* b would notice that it isn't itself */
  CHECK_INT(lock_station(&b, &r, 1, port, 2), CHI_OK);
  CHECK_INT(rename(pub_path(&r, 3), pub_path(&r, 1)), 0);
  snprintf(want, sizeof(want), "refused a connection from 127.0.0.1: its public key %s is not one "
                               "of a node in %s", r.key[2], r.pub);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, logged(&r, 0, want)));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS,
                      logged(&r, 1, "node 0 (node0) at 127.0.0.1 is not spoken with: this node's "
                                    "public key is not authorised there")));
  /* And the other way round: a speaks to whom it takes for node 1. */
  CHECK(STATION_UNTIL(&a, &b, LONG_MS,
                      logged(&r, 0, "node 1 (node1) at 127.0.0.2 is not spoken with: ")));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, logged(&r, 1, "refused a connection from 127.0.0.1:")));
  CHECK_INT(a.ups[1] + b.ups[0] + a.greeted[1] + b.greeted[0], 0);
  station_close(&a);
  station_close(&b);
  scratch_remove(r.dir);
}

TEST(who_does_not_encrypt_is_refused_on_both_sides)
{
  static struct station a, b;
  struct ring_of_keys r;
  uint32_t port = station_port();
  CHECK(ring_make(&r, 2));
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  CHECK_INT(station_open(&b, pair, 1, port, r.log[1], NULL), CHI_OK);
  /* Who notices first hangs up; the other one says what it may be. */
  CHECK(STATION_UNTIL(&a, &b, LONG_MS,
                      logged(&r, 0, "does not encrypt, and this node does (networking.key_file)") ||
                          logged(&r, 0, "perhaps it does not encrypt, or expects another key "
                                        "(networking.key_file)")));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS,
                      logged(&r, 1, "it encrypts, and this node does not (networking.key_file)")));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS,
                      logged(&r, 0, "node 1 (node1) at 127.0.0.2 is not spoken with: it ") &&
                          logged(&r, 1, "node 0 (node0) at 127.0.0.1 is not spoken with: it ")));
  CHECK_INT(a.ups[1] + b.ups[0], 0);
  station_close(&a);
  station_close(&b);
  scratch_remove(r.dir);
}

/* A key that is taken away ends what was said with it; one that is added begins. */
TEST(keys_come_and_go_while_nodes_run)
{
  static struct station a, b;
  struct ring_of_keys r;
  uint32_t port = station_port();
  char hidden[100];
  CHECK(ring_make(&r, 2));
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  CHECK_INT(lock_station(&b, &r, 1, port, 1), CHI_OK);
  for (uint32_t round = 1; round <= 2; round++) {
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0] && b.greeted[0] && a.greeted[1]));
    snprintf(hidden, sizeof(hidden), "%s/hidden", r.dir);
    CHECK_INT(rename(pub_path(&r, 1), hidden), 0);
    CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.downs[1] == round && b.downs[0] == round));
    CHECK(logged(&r, 0, "node 1 (node1) has no authorised key any more: it is not spoken with"));
    a.greeted[1] = b.greeted[0] = 0;
    CHECK_INT(rename(hidden, pub_path(&r, 1)), 0);
  }
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0] && b.greeted[0] && a.greeted[1]));
  CHECK_INT(station_send(&a, 1, 0, 3000), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, b.messages == 1));
  /* Another key instead: nobody knows the node that still has the former one. */
  CHECK_INT(unlink(pub_path(&r, 1)), 0);
  CHECK_INT(chi_keygen(key_path(&r, 3), pub_path(&r, 1), r.key[3], NULL), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.downs[1] == 3 && b.downs[0] == 3));
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, logged(&r, 0, "refused a connection from 127.0.0.1: its ")));
  station_close(&b);
  CHECK_INT(lock_station(&b, &r, 1, port, 3), CHI_OK);
  CHECK(STATION_UNTIL(&a, &b, LONG_MS, a.up[1] && b.up[0]));
  station_close(&a);
  station_close(&b);
  scratch_remove(r.dir);
}

/* An authorised node speaks for itself only. */
TEST(a_key_is_good_for_the_messages_of_its_own_node)
{
  static struct station a;
  struct ring_of_keys r;
  uint32_t port = station_port(), number = 0;
  unsigned char bytes[WIRE_HEADER + WIRE_RECORD] = {0};
  char endpoint[64], secret[100];
  int none = 0;
  CHECK(ring_make(&r, 2));
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_PUSH);
  scratch_read(key_path(&r, 1), secret, sizeof(secret));
  zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
  CHECK_INT(zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, r.key[0], 40), 0);
  CHECK_INT(zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, r.key[1], 40), 0);
  CHECK_INT(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret + 7, 40), 0);
  snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%u", port);
  CHECK_INT(zmq_connect(socket, endpoint), 0);
  struct wire_header h = {.records = 1, .from = 1, .to = 0, .from_boot = 1};
  struct wire_out out;
  wire_out_init(&out, bytes, sizeof(bytes));
  out.used = WIRE_HEADER;
  wire_record_end(&out, wire_record_begin(&out, WIRE_PROBE), 0);
  wire_header_put(bytes, sizeof(bytes), &h);
  CHECK_INT(zmq_send(socket, bytes, sizeof(bytes), 0), sizeof(bytes));
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, a.greeted[1] == 1));
  h.from = 0;
  wire_header_put(bytes, sizeof(bytes), &h);
  CHECK_INT(zmq_send(socket, bytes, sizeof(bytes), 0), sizeof(bytes));
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS,
                      logged(&r, 0, "a message was dropped: whoever sent it has not the key of the "
                                    "node that it names")));
  CHECK_INT(a.greeted[0], 0);
  CHECK_INT(zmq_send(socket, &number, sizeof(number), 0), sizeof(number));
  for (int i = 0; i < 200; i++)
    station_turn(&a);
  CHECK_INT(a.messages + a.noise, 0);
  zmq_close(socket);
  zmq_ctx_term(context);
  station_close(&a);
  scratch_remove(r.dir);
}

/* Encryption without a key of a node of ours is no better than none. */
TEST(a_stranger_who_encrypts_is_not_heard)
{
  static struct station a;
  struct ring_of_keys r;
  uint32_t port = station_port(), number = 0;
  char endpoint[64], public[41], secret[41], log[8192];
  int none = 0, wait = 300;
  CHECK(ring_make(&r, 2));
  CHECK_INT(lock_station(&a, &r, 0, port, 0), CHI_OK);
  snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%u", port);
  void *context = zmq_ctx_new(), *sockets[100];
  for (uint32_t i = 0; i < CHI_COUNT(sockets); i++) {
    void *socket = sockets[i] = zmq_socket(context, ZMQ_PUSH);
    CHECK_INT(zmq_curve_keypair(public, secret), 0);
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &wait, sizeof(wait));
    zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, r.key[0], 40);
    zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, 40);
    zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, 40);
    zmq_connect(socket, endpoint);
    zmq_send(socket, &number, sizeof(number), ZMQ_DONTWAIT);
    station_turn(&a);
  }
  CHECK(STATION_UNTIL(&a, NULL, LONG_MS, logged(&r, 0, "refused a connection from 127.0.0.1:")));
  CHECK_INT(a.messages + a.noise, 0);
  uint32_t lines = 0;
  for (const char *at = scratch_read(r.log[0], log, sizeof(log)); (at = strchr(at, '\n')); at++)
    lines++;
  CHECK(lines < 50 + 10 * SLOW);
  for (uint32_t i = 0; i < CHI_COUNT(sockets); i++)
    zmq_close(sockets[i]);
  zmq_ctx_term(context);
  station_close(&a);
  scratch_remove(r.dir);
}
