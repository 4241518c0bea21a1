/* test_real_host.c - which node of the hostfile this machine is, and who decides when that is not
 * clear. Addresses of 192.0.2.0/24 and 198.51.100.0/24 are nobody's. */
#include "real_host.h"
#include "test.h"

#ifndef CHI_OMIT_REAL

/* Finds the node in a list of hosts, ended by NULL. */
static int host_find(uint32_t node, const char *const *hosts, uint32_t *found, chi_error *err)
{
  chi_config config;
  int rc = CHI_OK;
  chi_config_init(&config);
  for (uint32_t i = 0; hosts[i] && rc == CHI_OK; i++) {
    char name[16] = {(char)('a' + i % 26), (char)('a' + i / 26), '\0'};
    rc = chi_config_add_host(&config, name, hosts[i]);
  }
  config.node = node;
  *found = 77;
  if (rc == CHI_OK)
    rc = real_host_find(&config, found, err);
  chi_config_free(&config);
  return rc;
}

TEST(real_host_without_a_list)
{
  static const char *const none[] = {NULL};
  chi_error err = {0};
  uint32_t node;
  CHECK_INT(host_find(UINT32_MAX, none, &node, &err), CHI_OK);
  CHECK_INT(node, 0);
  CHECK_INT(host_find(0, none, &node, &err), CHI_OK);
  CHECK_INT(node, 0);
  CHECK_INT(host_find(1, none, &node, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "node 1: there is no hostfile, so the only node is 0");
}

TEST(real_host_is_the_one_that_matches)
{
  static const char *const second[] = {"198.51.100.1", "127.0.0.1", "198.51.100.2", NULL};
  static const char *const other[] = {"198.51.100.1", "198.51.100.2", "127.0.0.9", NULL};
  static const char *const lost[] = {"no-such-host.invalid", "127.0.0.2", NULL};
  uint32_t node;
  CHECK_INT(host_find(UINT32_MAX, second, &node, NULL), CHI_OK);
  CHECK_INT(node, 1);
  CHECK_INT(host_find(UINT32_MAX, other, &node, NULL), CHI_OK); /* the interface has no such one */
  CHECK_INT(node, 2);
  CHECK_INT(host_find(UINT32_MAX, lost, &node, NULL), CHI_OK);
  CHECK_INT(node, 1);
}

TEST(real_host_is_the_one_that_is_named)
{
  static const char *const both[] = {"127.0.0.1", "127.0.0.2", "198.51.100.2", NULL};
  chi_error err = {0};
  uint32_t node;
  for (uint32_t i = 0; i < 3; i++) { /* even one that has no address of this machine */
    CHECK_INT(host_find(i, both, &node, &err), CHI_OK);
    CHECK_INT(node, i);
  }
  CHECK_INT(host_find(3, both, &node, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "node 3: the hostfile has fewer nodes");
}

TEST(real_host_several_match)
{
  static const char *const both[] = {"127.0.0.1", "198.51.100.2", "127.0.0.2", NULL};
  static const char *const many[] = {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4",
                                     "127.0.0.5", "127.0.0.6", NULL};
  chi_error err = {0};
  uint32_t node;
  CHECK_INT(host_find(UINT32_MAX, both, &node, &err), CHI_ECONFIG);
  CHECK_STR(err.text, "several nodes of the hostfile have an address of this machine: 0 "
                      "(127.0.0.1), 2 (127.0.0.2); say which it is by --node or CHI_NODE");
  CHECK_INT(host_find(UINT32_MAX, many, &node, &err), CHI_ECONFIG);
  CHECK(strstr(err.text, "3 (127.0.0.4), ...;"));
  CHECK_INT(host_find(UINT32_MAX, many, &node, NULL), CHI_ECONFIG);
}

TEST(real_host_none_matches)
{
  static const char *const none[] = {"198.51.100.1", "no-such-host.invalid", NULL};
  chi_error err = {0};
  uint32_t node;
  CHECK_INT(host_find(UINT32_MAX, none, &node, &err), CHI_ECONFIG);
  CHECK(strstr(err.text, "none of the hostfile's 2 nodes has an address of this machine ("));
  CHECK(strstr(err.text, "; without an address: 1 (no-such-host.invalid); say which"));
}

#endif
