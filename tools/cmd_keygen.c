/* cmd_keygen.c - makes the key pair of a node. */
#include "cli.h"

#include <stdio.h>

#define KEYGEN_SECRET ".key"
#define KEYGEN_PUBLIC ".pub"

static int keygen_run(struct cli *cli)
{
  const char *directory = cli_value(cli, "directory");
  const char *name = cli->argument_count == 1 ? cli->arguments[0] : "";
  char secret[CHI_PATH_MAX], public[CHI_PATH_MAX];
  char key[CHI_KEY_MAX];
  chi_error err;
  directory = directory && *directory ? directory : ".";
  if (!*name || *name == '.' || strchr(name, '/') || strlen(name) >= CHI_NAME_MAX)
    return cli_usage(cli, "expected one NAME, that of a node in the hostfile");
  if ((size_t)snprintf(secret, sizeof(secret), "%s/%s" KEYGEN_SECRET, directory, name) >=
          sizeof(secret) ||
      (size_t)snprintf(public, sizeof(public), "%s/%s" KEYGEN_PUBLIC, directory, name) >=
          sizeof(public))
    return cli_usage(cli, "--directory: longer than %d bytes", CHI_PATH_MAX - 1);
  if (chi_keygen(secret, public, key, &err) != CHI_OK)
    return cli_fail(cli, "%s", err.text);
  printf("%s\n", key);
  fprintf(stderr, "%s stays with the node; %s is for all nodes\n", secret, public);
  return CLI_OK;
}

const struct cli_command cmd_keygen = {
    .name = "keygen",
    .arguments = "NAME",
    .about = "make the key pair of a node, for networking.key_file",
    .more = "Writes NAME" KEYGEN_SECRET ", the secret key, which only this user can read, and\n"
            "NAME" KEYGEN_PUBLIC ", the public key, and prints the latter. NAME is that of the "
            "node in the\nhostfile. Files that are there already are not overwritten.\n",
    .run = keygen_run,
    .options = {{"directory", "DIR", "where to write them; default: here"}}};
