/* cmd_version.c - versions and build options. */
#include "cli.h"

#include <dlfcn.h>
#include <stdio.h>

#include "http.h"
#include "text.h"

#ifdef __clang__
#define VERSION_COMPILER __VERSION__
#else
#define VERSION_COMPILER "gcc " __VERSION__
#endif

/* The libraries are asked by name, because a build links only those that it uses. */
static void version_yaml(char *buf, size_t size)
{
  const char *(*ask)(void);
  *(void **)&ask = dlsym(RTLD_DEFAULT, "yaml_get_version_string");
  if (ask)
    snprintf(buf, size, "%s", ask());
}

static void version_ev(char *buf, size_t size)
{
  int (*major)(void), (*minor)(void);
  *(void **)&major = dlsym(RTLD_DEFAULT, "ev_version_major");
  *(void **)&minor = dlsym(RTLD_DEFAULT, "ev_version_minor");
  if (major && minor)
    snprintf(buf, size, "%d.%d", major(), minor());
}

static void version_zmq(char *buf, size_t size)
{
  void (*ask)(int *, int *, int *);
  int major, minor, patch;
  *(void **)&ask = dlsym(RTLD_DEFAULT, "zmq_version");
  if (ask) {
    ask(&major, &minor, &patch);
    snprintf(buf, size, "%d.%d.%d", major, minor, patch);
  }
}

static void version_http(char *buf, size_t size)
{
  snprintf(buf, size, "%s", http_version() ? http_version() : "");
}

static const struct version_part {
  const char *name;
  void (*ask)(char *buf, size_t size);
} version_parts[] = {{"libyaml", version_yaml}, {"libev", version_ev}, {"libzmq", version_zmq},
                     {"libmicrohttpd", version_http}};

/* What was left out or added when this was compiled. */
static const char *version_options(void)
{
  return ""
#ifdef CHI_OMIT_SIM
         " omit-sim"
#endif
#ifdef CHI_INTERLEAVE
         " interleave"
#endif
#ifdef CHI_HOSTILE
         " hostile"
#endif
#ifdef __SANITIZE_ADDRESS__
         " address-sanitizer"
#endif
#ifdef __SANITIZE_THREAD__
         " thread-sanitizer"
#endif
      ;
}

static int version_run(struct cli *cli)
{
  bool json = cli_value(cli, "json");
  const char *options = version_options();
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  printf(json ? "{\"chimaera\":\"%s\"" : "chimaera %s\n", CHI_VERSION);
  for (size_t i = 0; i < CHI_COUNT(version_parts); i++) {
    char version[64] = "";
    version_parts[i].ask(version, sizeof(version));
    if (json)
      printf(*version ? ",\"%s\":\"%s\"" : ",\"%s\":null", version_parts[i].name, version);
    else
      printf("%-14s%s\n", version_parts[i].name, *version ? version : "not used");
  }
  if (json) {
    printf(",\"compiler\":");
    text_put_string(VERSION_COMPILER, SIZE_MAX, cli_put, stdout);
    printf(",\"options\":\"%s\"}\n", *options ? options + 1 : "");
  } else {
    printf("%-14s%s\n%-14s%s\n", "compiler", VERSION_COMPILER, "options",
           *options ? options + 1 : "none");
  }
  return CLI_OK;
}

const struct cli_command cmd_version = {.name = "version",
                                        .arguments = "",
                                        .about = "print versions and build options",
                                        .run = version_run,
                                        .options = {{CLI_JSON}}};
