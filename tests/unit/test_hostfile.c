/* test_hostfile.c - lists of nodes: forms, ranges, what is refused and where. */
#include "hostfile.h"

#include "config.h"
#include "test.h"

#include <stdlib.h>

/* What parsing a text gave: "name address" lines, and what was reported. */
struct hostfile_result {
  char hosts[4096], said[4096];
  uint32_t count;
  int code;
};

static void hostfile_append(char *text, size_t size, const char *line)
{
  size_t used = strlen(text);
  snprintf(text + used, size - used, "%s\n", line);
}

static void hostfile_keep(void *arg, int level, const char *text)
{
  struct hostfile_result *r = arg;
  (void)level;
  hostfile_append(r->said, sizeof(r->said), text);
}

static void hostfile_run(const char *text, size_t size, struct hostfile_result *out)
{
  struct report report = {"h", hostfile_keep, out, NULL, 0, CHI_OK};
  char *copy = malloc(size + !size);
  chi_config c;
  memset(out, 0, sizeof(*out));
  chi_config_init(&c);
  if (!copy || chi_config_add_host(&c, "left over", NULL) != CHI_OK)
    test_fail(__FILE__, __LINE__, "out of memory");
  if (copy) /* of the exact size, so that a sanitizer sees a read beyond */
    hostfile_parse(&c, memcpy(copy, text, size), size, &report);
  out->code = report.code;
  out->count = c.host_count;
  for (uint32_t i = 0; i < c.host_count && i < 40; i++) {
    char line[2 * CHI_NAME_MAX + 2];
    snprintf(line, sizeof(line), "%s %s", c.hosts[i].name, c.hosts[i].address);
    hostfile_append(out->hosts, sizeof(out->hosts), line);
  }
  chi_config_free(&c);
  free(copy);
}

#define CHECK_HOSTS(text, want)                                                                    \
  do {                                                                                             \
    struct hostfile_result result;                                                                 \
    hostfile_run(text, strlen(text), &result);                                                     \
    CHECK_STR(result.said, "");                                                                    \
    CHECK_STR(result.hosts, want);                                                                 \
  } while (0)
#define CHECK_SAYS(text, want)                                                                     \
  do {                                                                                             \
    struct hostfile_result result;                                                                 \
    hostfile_run(text, strlen(text), &result);                                                     \
    CHECK_STR(result.said, want);                                                                  \
    CHECK_INT(result.code, CHI_ECONFIG);                                                           \
  } while (0)

TEST(hostfile_plain)
{
  CHECK_HOSTS("172.20.0.10\n172.20.0.11\n172.20.0.12\n",
              "172.20.0.10 172.20.0.10\n172.20.0.11 172.20.0.11\n172.20.0.12 172.20.0.12\n");
  CHECK_HOSTS("localhost", "localhost localhost\n");
}

TEST(hostfile_two_columns)
{
  CHECK_HOSTS("# Format: hostname IP_address\nnode1 172.28.0.2\nnode2\t172.28.0.3\n",
              "node1 172.28.0.2\nnode2 172.28.0.3\n");
}

TEST(hostfile_comments_blanks_and_line_ends)
{
  CHECK_HOSTS("\n  # x\n\t\n a # y\nb#z\r\n\r\n  c   d  \r\n#", "a a\nb b\nc d\n");
  CHECK_HOSTS("\xef\xbb\xbf# mark\na\n", "a a\n");
}

TEST(hostfile_ranges)
{
  CHECK_HOSTS("node[00-03,10]-40g;other[1-3]",
              "node00-40g node00-40g\nnode01-40g node01-40g\nnode02-40g node02-40g\n"
              "node03-40g node03-40g\nnode10-40g node10-40g\n"
              "other1 other1\nother2 other2\nother3 other3\n");
  CHECK_HOSTS("n[8-11]", "n8 n8\nn9 n9\nn10 n10\nn11 n11\n");
  CHECK_HOSTS("n[098-101]", "n098 n098\nn099 n099\nn100 n100\nn101 n101\n");
  CHECK_HOSTS("n[08-10,007]", "n08 n08\nn09 n09\nn10 n10\nn007 n007\n");
  CHECK_HOSTS("n[99-100]", "n99 n99\nn100 n100\n");
  CHECK_HOSTS("n[0-1]", "n0 n0\nn1 n1\n");
  CHECK_HOSTS("n[00]x;n[5]", "n00x n00x\nn5 n5\n");
}

TEST(hostfile_several_ranges)
{
  CHECK_HOSTS("r[1-2]n[1-2,5].x", "r1n1.x r1n1.x\nr1n2.x r1n2.x\nr1n5.x r1n5.x\n"
                                  "r2n1.x r2n1.x\nr2n2.x r2n2.x\nr2n5.x r2n5.x\n");
}

TEST(hostfile_ranges_in_two_columns)
{
  CHECK_HOSTS("node[1-3] 10.0.0.[2-4]", "node1 10.0.0.2\nnode2 10.0.0.3\nnode3 10.0.0.4\n");
  CHECK_HOSTS("a;b[1-2] 10.0.[0-2].1", "a 10.0.0.1\nb1 10.0.1.1\nb2 10.0.2.1\n");
  CHECK_SAYS("node[1-3] 10.0.0.[2-3]", "h:1:11: 2 addresses for 3 names\n");
  CHECK_SAYS("node1 10.0.0.[2-3]", "h:1:7: 2 addresses for 1 names\n");
}

TEST(hostfile_ipv6)
{
  CHECK_HOSTS("::1\n2001:db8::[1-2]\n[fe80::1%eth0]\n::ffff:10.0.0.1\nn [::2]\n",
              "::1 ::1\n2001:db8::1 2001:db8::1\n2001:db8::2 2001:db8::2\n"
              "fe80::1%eth0 fe80::1%eth0\n::ffff:10.0.0.1 ::ffff:10.0.0.1\nn ::2\n");
  CHECK_SAYS("[::1]:5555", "h:1:2: expected a range such as [0-9] or [00-09,12]\n");
  CHECK_SAYS("::x", "h:1:1: \"::x\": not an IPv6 address\n");
}

TEST(hostfile_addresses)
{
  CHECK_SAYS("node1:5555", "h:1:1: \"node1:5555\": a port does not belong here; networking.port "
                           "holds for all nodes\n");
  CHECK_SAYS("10.0.0.256", "h:1:1: \"10.0.0.256\": not an IPv4 address\n");
  CHECK_SAYS("10.0.0", "h:1:1: \"10.0.0\": not an IPv4 address\n");
  CHECK_SAYS("a 10.0.0.1.", "h:1:3: \"10.0.0.1.\": not an IPv4 address\n");
  CHECK_SAYS("10..0.1", "h:1:1: \"10..0.1\": not an IPv4 address\n");
  CHECK_SAYS("10.0.0.[255-257]", "h:1:1: \"10.0.0.256\": not an IPv4 address\n");
  CHECK_SAYS("eth%0", "h:1:1: \"eth%0\": unexpected character in a name or an address\n");
}

TEST(hostfile_characters)
{
  CHECK_SAYS("a/b", "h:1:2: unexpected character in a name or an address\n");
  CHECK_SAYS("tcp://a", "h:1:5: unexpected character in a name or an address\n");
  CHECK_SAYS("a,b", "h:1:2: unexpected character in a name or an address\n");
  CHECK_SAYS("\xc3\xa9", "h:1:1: unexpected character in a name or an address\n");
  CHECK_SAYS("a\rb\n", "h:1:2: unexpected character in a name or an address\n");
  CHECK_SAYS("a]", "h:1:2: unexpected character in a name or an address\n");
  CHECK_SAYS("  a;b!c", "h:1:6: unexpected character in a name or an address\n");
}

TEST(hostfile_nul)
{
  struct hostfile_result r;
  hostfile_run("a\0b", 3, &r);
  CHECK_STR(r.said, "h:1:2: unexpected character in a name or an address\n");
}

TEST(hostfile_malformed_ranges)
{
  static const char *const ranges[] = {
      "[]",     "[",      "[1",       "[1-",          "[1-]",           "[-1]",
      "[a-c]",  "[1,]",   "[,1]",     "[1;2]",        "[3-1]",          "[01-1]",
      "[1-01]", "[10-9]", "[01-003]", "[1234567890]", "[1-1234567890]", "[[1]]",
      "[1--2]", "[0x1]",  NULL};
  for (size_t i = 0; ranges[i]; i++) {
    struct hostfile_result r;
    char text[64];
    snprintf(text, sizeof(text), "n%s\n", ranges[i]);
    hostfile_run(text, strlen(text), &r);
    if (!strstr(r.said, "expected a range such as") || r.count)
      test_fail(__FILE__, __LINE__, "%s: %s", text, r.said);
  }
  CHECK_SAYS("ok[1-2,x]", "h:1:8: expected a range such as [0-9] or [00-09,12]\n");
}

TEST(hostfile_empty_names)
{
  CHECK_SAYS("a;", "h:1:3: expected a name or an address\n");
  CHECK_SAYS(";a", "h:1:1: expected a name or an address\n");
  CHECK_SAYS("a;;b", "h:1:3: expected a name or an address\n");
  CHECK_SAYS("a; b", "h:1:3: expected a name or an address\n");
}

TEST(hostfile_columns)
{
  CHECK_SAYS("a b c", "h:1:5: expected a name and an address, found a third column\n");
  CHECK_SAYS("a b c d e # f", "h:1:5: expected a name and an address, found a third column\n");
}

TEST(hostfile_nothing_in_it)
{
  CHECK_SAYS("", "h: no hosts in it\n");
  CHECK_SAYS("# only a comment\n\n", "h: no hosts in it\n");
}

TEST(hostfile_doubles)
{
  CHECK_SAYS("a\nb\na\n", "h:3:1: address \"a\" is given twice, first in line 1\n");
  CHECK_SAYS("a\n  A\n", "h:2:3: address \"A\" is given twice, first in line 1\n");
  CHECK_SAYS("a 1.1.1.1\nb 1.1.1.1\n",
             "h:2:1: address \"1.1.1.1\" is given twice, first in line 1\n");
  CHECK_SAYS("a 1.1.1.1\na 1.1.1.2\n", "h:2:1: name \"a\" is given twice, first in line 1\n");
  CHECK_SAYS("n[1-3]\nn[3-4]\n", "h:2:1: address \"n3\" is given twice, first in line 1\n");
  CHECK_SAYS("a a\nb b\na b\n", "h:3:1: address \"b\" is given twice, first in line 2\n"
                                "h:3:1: name \"a\" is given twice, first in line 1\n");
}

TEST(hostfile_all_errors)
{
  CHECK_SAYS("a b c\nok\nn[x]\nok\n",
             "h:1:5: expected a name and an address, found a third column\n"
             "h:3:3: expected a range such as [0-9] or [00-09,12]\n"
             "h:4:1: address \"ok\" is given twice, first in line 2\n");
}

TEST(hostfile_limits)
{
  static char lines[5000 * 6];
  struct hostfile_result r;
  hostfile_run("n[0-4095]", 9, &r);
  CHECK_STR(r.said, "");
  CHECK_INT(r.count, 4096);
  hostfile_run("a\nn[0-4095]\nb c d", 17, &r);
  CHECK_STR(r.said, "h:2:1: more than 4096 hosts\n");
  size_t used = 0;
  for (int i = 0; i < 5000; i++)
    used += (size_t)snprintf(lines + used, sizeof(lines) - used, "n%d\n", i);
  hostfile_run(lines, used, &r);
  CHECK_STR(r.said, "h:4097:1: more than 4096 hosts\n");
  hostfile_run("n[0-999999999]", 14, &r);
  CHECK_STR(r.said, "h:1:1: more than 4096 hosts\n");
  hostfile_run("n[0-999]m[0-999]o[0-999];p[0-99999]", 35, &r);
  CHECK_STR(r.said, "h:1:1: more than 4096 hosts\n");
}

TEST(hostfile_long_names)
{
  struct hostfile_result r;
  char text[2048];
  memset(text, 'n', sizeof(text));
  hostfile_run(text, CHI_NAME_MAX - 1, &r);
  CHECK_STR(r.said, "");
  CHECK_INT(r.count, 1);
  hostfile_run(text, CHI_NAME_MAX, &r);
  CHECK_STR(r.said, "h:1:1: a name of more than 255 bytes\n");
  hostfile_run(text, 1025, &r);
  CHECK_STR(r.said, "h:1:1: a name of more than 1024 bytes\n");
  memcpy(text + 249, "[000001-000003]", 15);
  hostfile_run(text, 264, &r);
  CHECK_STR(r.said, "");
  CHECK_INT(r.count, 3);
  memcpy(text + 250, "[000001-000003]", 15);
  text[249] = 'n';
  hostfile_run(text, 265, &r);
  CHECK_STR(r.said, "h:1:1: a name of more than 255 bytes\n");
  CHECK_INT(r.count, 0);
}
