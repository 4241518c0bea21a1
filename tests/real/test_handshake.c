/* test_handshake.c - daemons that don't belong together: each refuses the other, and says why; and
 * those that do, with keys. */
#include "fleet.h"
#include "modules/calc.h"
#include "station.h"
#include "test.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <zmq.h>

/* Two nodes, each with a hostfile of its own. */
static const char *differing(struct town *t, const char *mine, const char *theirs)
{
  if (!town_plan(t, 2) || !scratch_write(t->dir, "hosts", mine) ||
      !scratch_write(t->dir, "other", theirs))
    return "cannot be planned";
  snprintf(t->hostfile[1], sizeof(t->hostfile[1]), "%s/other", t->dir);
  return town_make(t) ? "" : "cannot be made";
}

/* Both run, and each has logged what it should within the time for meeting. */
static bool both_say(struct town *t, const char *first, const char *second)
{
  bool said = EVENTUALLY(MET_MS, daemon_logged(&t->node[0], first) > 0 &&
                                     daemon_logged(&t->node[1], second) > 0);
  char text[4096];
  for (uint32_t i = 0; i < 2 && !said; i++)
    fprintf(stderr, "%u: %s\n", i, scratch_read(t->node[i].log, text, sizeof(text)));
  return said;
}

TEST(other_names_in_the_hostfile_are_told_on_both_sides)
{
  static struct town t;
  static const char *const mine = "alpha 127.0.0.1\nbeta 127.0.0.2\n";
  static const char *const theirs = "alpha 127.0.0.1\ngamma 127.0.0.2\n";
  CHECK_STR(differing(&t, mine, theirs), "");
  for (uint32_t i = 0; i < 2; i++)
    CHECK_STR(town_start(&t, i), "");
  CHECK(both_say(&t, "node 1 (beta, chi-town-", "node 0 (alpha, chi-town-"));
  CHECK(both_say(&t, "is refused: digest of the host list: ",
                 "is refused: digest of the host list: "));
  CHECK(both_say(&t, "node 1 (beta) refuses this node: digest of the host list: ",
                 "node 0 (alpha) refuses this node: digest of the host list: "));
  pause_ns(3 * SECOND_NS); /* they go on trying, and log no more than a line a second of a kind */
  CHECK(daemon_logged(&t.node[0], "digest of the host list") < 40 * SLOW);
  town_free(&t);
}

TEST(another_number_of_nodes_is_told_on_both_sides)
{
  static struct town t;
  CHECK_STR(differing(&t, "127.0.0.1\n127.0.0.2\n", "127.0.0.1\n127.0.0.2\n127.0.0.3\n"), "");
  for (uint32_t i = 0; i < 2; i++)
    CHECK_STR(town_start(&t, i), "");
  CHECK(both_say(&t, "is refused: number of nodes in the host list: 3, here 2",
                 "is refused: number of nodes in the host list: 2, here 3"));
  CHECK(both_say(&t, "refuses this node: number of nodes in the host list: 2, there 3",
                 "refuses this node: number of nodes in the host list: 3, there 2"));
  town_free(&t);
}

/* The same list, but addresses that mean other nodes. */
TEST(addresses_of_other_nodes_are_told_on_both_sides)
{
  static struct town t;
  static const char *const mine = "alpha 127.0.0.1\nbeta 127.0.0.2\ngamma 127.0.0.3\n";
  static const char *const theirs = "alpha 127.0.0.1\nbeta 127.0.0.3\ngamma 127.0.0.2\n";
  CHECK_STR(differing(&t, mine, theirs), "");
  CHECK_STR(town_start(&t, 0), "");
  setenv("CHI_NODE", "2", 1);
  const char *said = daemon_start(&t.node[1]);
  unsetenv("CHI_NODE");
  CHECK_STR(said[0] ? said : "", "");
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[1], "node 0 (alpha, chi-town-") > 0));
  CHECK(both_say(&t, "refuses this node: number of the node that is written to: 1, there 2",
                 "is refused: number of the node that is written to: 1, here 2"));
  town_free(&t);
}

/* Two who take themselves for one node, at two addresses. */
TEST(two_daemons_in_one_place_are_told)
{
  static struct town t;
  CHECK(town_plan(&t, 3));
  CHECK(scratch_write(t.dir, "hosts", "alpha 127.0.0.1\nbeta 127.0.0.2\n"));
  CHECK(scratch_write(t.dir, "other", "alpha 127.0.0.1\nbeta 127.0.0.3\n"));
  snprintf(t.hostfile[2], sizeof(t.hostfile[2]), "%s/other", t.dir);
  CHECK(town_make(&t));
  CHECK_STR(town_start(&t, 0), "");
  CHECK_STR(town_start(&t, 1), "");
  setenv("CHI_NODE", "1", 1);
  const char *said = daemon_start(&t.node[2]);
  unsetenv("CHI_NODE");
  CHECK_STR(said[0] ? said : "", "");
  CHECK(EVENTUALLY(2 * MET_MS, daemon_logged(&t.node[0], "two daemons run as one node") > 0));
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[1], "two daemons run as one node") +
                                   daemon_logged(&t.node[2], "two daemons run as one node") > 0));
  town_free(&t);
}

/* ---- finding oneself ------------------------------------------------------------------------- */

/* What a daemon says that doesn't start with this hostfile and node number (NULL: none). */
static const char *does_not_start(const char *hosts, const char *node)
{
  static struct town t;
  static char text[sizeof(t.node[0].said) + 32];
  if (!town_plan(&t, 1) || !scratch_write(t.dir, "hosts", hosts) || !town_make(&t))
    return "cannot be made";
  if (node)
    setenv("CHI_NODE", node, 1);
  bool spawned = daemon_spawn(&t.node[0]);
  unsetenv("CHI_NODE");
  int status = spawned ? daemon_wait(&t.node[0], MET_MS) : -1;
  snprintf(text, sizeof(text), "%s%s", status == 1 ? "" : "another status: ", t.node[0].said);
  for (char *at; (at = strstr(text, t.dir));) /* the directory has another name each time */
    memmove(at, at + strlen(t.dir), strlen(at + strlen(t.dir)) + 1);
  town_free(&t);
  return text;
}

TEST(who_is_not_in_the_hostfile_or_is_there_twice_is_told)
{
  const char *said = does_not_start("198.51.100.7\n198.51.100.8\n", NULL);
  CHECK(strstr(said, "start: none of the hostfile's 2 nodes has an address of this machine ("));
  CHECK(strstr(said, "; say which it is by --node or CHI_NODE"));
  said = does_not_start("127.0.0.1\n127.0.0.2\n", NULL);
  CHECK_STR(said, "chimaera start: several nodes of the hostfile have an address of this machine: "
                  "0 (127.0.0.1), 1 (127.0.0.2); say which it is by --node or CHI_NODE\n");
  said = does_not_start("127.0.0.1\n127.0.0.2\n", "2");
  CHECK_STR(said, "chimaera start: node 2: the hostfile has fewer nodes\n");
  said = does_not_start("127.0.0.1\n127.0.0.2\n127.0.0.1\n", "0");
  CHECK(strstr(said, "/hosts:3:1: "));
  CHECK(strstr(said, "line 1"));
  said = does_not_start("127.0.0.1\nno-such-host.invalid\n", "1");
  CHECK(strstr(said, "node 1: the address \"no-such-host.invalid\" in the hostfile cannot be "
                     "resolved: "));
  said = does_not_start("198.51.100.7\n127.0.0.1\n", "0");
  CHECK(strstr(said, "node 0: 198.51.100.7 is not an address of this machine, which is where the "
                     "hostfile puts it"));
}

TEST(names_and_both_families_of_addresses_make_a_cluster)
{
  static struct town t;
  CHECK(town_plan(&t, 2));
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool can = fd >= 0 && bind(fd, (struct sockaddr *)&six, sizeof(six)) == 0;
  close(fd);
  if (!can) {
    scratch_remove(t.dir);
    test_skip("no IPv6 here");
    return;
  }
  /* localhost may have both, so that the port of ::1 would be taken twice. */
  CHECK(scratch_write(t.dir, "hosts", "alpha 127.0.0.1\nbeta ::1\n"));
  CHECK_STR(town_begin(&t), "");
  town_free(&t);
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* A plan in which each node has a key. */
static bool plan_with_keys(struct town *t, uint32_t count)
{
  char secret[200], public[200], key[CHI_KEY_MAX];
  bool good = town_plan(t, count);
  snprintf(public, sizeof(public), "%s/keys", t->dir);
  good = good && mkdir(public, 0755) == 0;
  for (uint32_t i = 0; i < count && good; i++) {
    snprintf(secret, sizeof(secret), "%s/%u.key", t->dir, i);
    snprintf(public, sizeof(public), "%s/keys/127.0.0.%u.pub", t->dir, i + 1);
    good = chi_keygen(secret, public, key, NULL) == CHI_OK;
    snprintf(t->networking[i], sizeof(t->networking[i]),
             ", security: required, key_file: %s, authorized_keys: %s/keys", secret, t->dir);
  }
  return good;
}

TEST(a_cluster_with_keys_works_and_one_without_is_kept_out)
{
  static struct town t;
  char secret[200], public[200], key[CHI_KEY_MAX];
  uint64_t sum = 0;
  CHECK(plan_with_keys(&t, 3));
  CHECK_STR(town_begin(&t), "");
  /* Node 2 comes back with a key that nobody knows. */
  town_kill(&t, 2);
  snprintf(secret, sizeof(secret), "%s/2.key", t.dir);
  snprintf(public, sizeof(public), "%s/keys/127.0.0.3.pub", t.dir);
  CHECK_INT(rename(public, "/dev/null/x"), -1); /* it stays: only the secret one is another */
  CHECK_INT(unlink(secret), 0);
  snprintf(public, sizeof(public), "%s/new.pub", t.dir);
  CHECK_INT(chi_keygen(secret, public, key, NULL), CHI_OK);
  const char *said = town_start(&t, 2);
  CHECK(strstr(said, "/keys/127.0.0.3.pub: this is node 2 itself, whose key in "));
  snprintf(secret, sizeof(secret), "%s/keys/127.0.0.3.pub", t.dir);
  CHECK_INT(unlink(secret), 0);
  CHECK_STR(town_start(&t, 2), "");
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[0], "its public key ") > 0));
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[2], "this node's public key is not authorised "
                                                     "there") > 0));
  CHECK_INT(town_add(&t, 0, 2, &sum), CHI_EUNREACHABLE);
  CHECK_INT(town_add(&t, 0, 1, &sum), CHI_OK);
  /* Once it is authorised, it is one of them, without anybody's restart. */
  CHECK_INT(rename(public, secret), 0);
  CHECK(EVENTUALLY(2 * MET_MS, town_has_met(&t)));
  town_free(&t);
}

/* Bulk data of the size that is allowed, to a byte: what is sent is a little longer. */
TEST(a_cluster_with_keys_carries_as_much_as_one_without)
{
  static struct town t;
  char more[sizeof(t.networking[1])];
  CHECK(plan_with_keys(&t, 2));
  for (int i = 0; i < 2; i++) {
    snprintf(more, sizeof(more), "%s", t.networking[i]);
    CHECK(snprintf(t.networking[i], sizeof(more), "%s, bulk_max: 5M", more) < (int)sizeof(more));
  }
  CHECK_STR(town_begin(&t), "");
  for (uint32_t i = 0; i < 2; i++) {
    CHECK_INT(town_carry(&t, i, 1 - i, 5 << 20), CHI_OK);
    CHECK_INT(town_carry(&t, i, 1 - i, (5 << 20) + 1), CHI_ENOMEM);
  }
  town_free(&t);
}

TEST(a_daemon_does_not_start_without_the_keys_it_needs)
{
  static struct town t;
  CHECK(plan_with_keys(&t, 2));
  snprintf(t.networking[1], sizeof(t.networking[1]), ", security: required");
  CHECK(town_make(&t));
  CHECK(strstr(town_start(&t, 1), "networking.security: \"required\" needs networking.key_file and "
                                  "networking.authorized_keys"));
  CHECK(strstr(t.node[1].said, "daemon.yaml:")); /* and where */
  char secret[200];
  snprintf(secret, sizeof(secret), "%s/0.key", t.dir);
  CHECK_INT(chmod(secret, 0644), 0);
  CHECK(strstr(town_start(&t, 0), "/0.key: its mode is 0644: others may read it"));
  town_free(&t);
}

/* 192.0.2.1 is nobody's, and this machine's other node is not asked. */
TEST(plain_text_to_another_machine_is_warned_of)
{
  static struct town t;
  static const char *const warning = "messages between nodes are plain text, and node 1 "
                                     "(192.0.2.1) is not on this machine";
  CHECK(town_plan(&t, 1));
  CHECK(scratch_write(t.dir, "hosts", "127.0.0.1\n192.0.2.1\n"));
  CHECK(town_make(&t));
  CHECK_STR(town_start(&t, 0), "");
  CHECK_INT(daemon_logged(&t.node[0], warning), 1);
  town_free(&t);
  CHECK_STR(town_open(&t, 2), "");
  CHECK_INT(daemon_logged(&t.node[0], "plain text"), 0);
  town_free(&t);
}

/* ---- messages as of a node, but wrong -------------------------------------------------------- */

static bool speak(void *socket, const void *bytes, size_t size)
{
  return zmq_send(socket, bytes, size, 0) == (int)size;
}

/* A hello of a node; returns its size. */
static size_t hello(unsigned char *bytes, size_t room, const struct wire_header *h, uint32_t nodes)
{
  struct wire_out out;
  wire_out_init(&out, bytes, room);
  out.used = WIRE_HEADER;
  size_t begin = wire_record_begin(&out, WIRE_HELLO);
  wire_put_u32(&out, nodes);
  wire_put_u64(&out, 0x1234567);
  wire_put_u64(&out, 0);
  wire_put_u8(&out, 1);
  wire_put_u64(&out, WIRE_BULK_MAX);
  wire_put_text(&out, "forged\nby a stranger:1");
  wire_record_end(&out, begin, 0);
  wire_header_put(bytes, out.used, h);
  return out.used;
}

/* Of another version, cluster, node, boot; cut at each byte; and all the time it serves. */
TEST(strangers_who_speak_as_nodes_are_refused)
{
  static struct town t;
  unsigned char bytes[300], copy[300];
  struct wire_header h = {.records = 1, .cluster = 77, .from = 1, .to = 0, .from_boot = 5};
  char endpoint[64];
  int none = 0, wait = 5000;
  uint64_t sum = 0;
  CHECK_STR(town_open(&t, 2), "");
  void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_PUSH);
  zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
  zmq_setsockopt(socket, ZMQ_SNDTIMEO, &wait, sizeof(wait));
  snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%u", t.port);
  CHECK_INT(zmq_connect(socket, endpoint), 0);
  size_t size = hello(bytes, sizeof(bytes), &h, 2);
  CHECK(speak(socket, bytes, size));
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[0], "is refused: digest of the host list: 77, "
                                                     "here ") > 0));
  CHECK_INT(daemon_logged(&t.node[0], "\nby a stranger"), 0); /* no line is forged */
  memcpy(copy, bytes, size);
  copy[4] = 9;
  CHECK(speak(socket, copy, size));
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[0], "node 1 (of another cluster) is refused: "
                                                     "version of the protocol: 9, here 2") > 0));
  pause_ns(SECOND_NS); /* lines of one kind are a second apart */
  h.from = 0;
  size = hello(bytes, sizeof(bytes), &h, 2);
  CHECK(speak(socket, bytes, size));
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[0], "node 0 of another cluster is refused") > 0));
  h.from = 999;
  for (size_t cut = 0; cut < size; cut++) {
    hello(bytes, sizeof(bytes), &h, 2);
    CHECK(speak(socket, bytes, cut));
    copy[cut] ^= 0xff;
    CHECK(speak(socket, copy, size));
    copy[cut] ^= 0xff;
  }
  for (uint32_t i = 0; i < 2; i++)
    CHECK_INT(town_add(&t, i, 1 - i, &sum), CHI_OK);
  CHECK(EVENTUALLY(MET_MS, daemon_logged(&t.node[0], "a message was dropped: it isn't sound") > 0));
  CHECK(daemon_logged(&t.node[0], "\n") < 60 * SLOW);
  CHECK(town_has_met(&t));
  zmq_close(socket);
  zmq_ctx_term(context);
  town_free(&t);
}
