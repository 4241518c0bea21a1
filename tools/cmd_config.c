/* cmd_config.c - prints the effective configuration, or all that is wrong with it. */
#include "cli.h"

#include <stdio.h>

#include "settings.h"
#include "text.h"

#define CONFIG_ROW(member, kind, size)                                                             \
  {                                                                                                \
    CHI_TEXT(member), CHI_DIR_IN, kind, offsetof(chi_config, member), size, 1, 0, NULL, ""         \
  }
#define CONFIG_U32(name) CONFIG_ROW(name, CHI_KIND_u32, 4)
#define CONFIG_U64(name) CONFIG_ROW(name, CHI_KIND_u64, 8)
#define CONFIG_STR(name) CONFIG_ROW(name, CHI_KIND_str, sizeof(((chi_config *)0)->name))

/* The plain values of a configuration as a declared struct, so that it prints as one. */
static const chi_field config_fields[] = {
    CONFIG_U32(sched_threads),
    CONFIG_U32(slow_threads),
    CONFIG_U32(process_reaper_threads),
    CONFIG_ROW(single_thread, CHI_KIND_i32, 4),
    CONFIG_U64(main_segment_size),
    CONFIG_U64(client_data_segment_size),
    CONFIG_U64(runtime_data_segment_size),
    CONFIG_U32(port),
    CONFIG_U32(neighborhood_size),
    CONFIG_U64(bulk_max),
    CONFIG_STR(hostfile),
    CONFIG_U64(wait_for_restart_ns),
    CONFIG_U64(wait_for_restart_poll_ns),
    CONFIG_ROW(security, CHI_KIND_i32, 4),
    CONFIG_STR(key_file),
    CONFIG_STR(authorized_keys),
    CONFIG_ROW(log_level, CHI_KIND_i32, 4),
    CONFIG_STR(log_file),
    CONFIG_U64(stack_size),
    CONFIG_U32(queue_depth),
    CONFIG_ROW(lane_policy, CHI_KIND_i32, 4),
    CONFIG_U64(heartbeat_interval_ns),
    CONFIG_U64(task_timeout_ns),
    CONFIG_U64(spin_window_ns),
    CONFIG_STR(main_segment_name),
    CONFIG_STR(client_data_segment_name),
    CONFIG_STR(runtime_data_segment_name),
};
static const chi_type config_type = {"chi_config", 0, sizeof(chi_config), CHI_COUNT(config_fields),
                                     config_fields};

static void config_member(const char *before, const char *name, const char *value)
{
  printf("%s\"%s\":", before, name);
  text_put_string(value, SIZE_MAX, cli_put, stdout);
}

static void config_json_pool(const chi_compose_entry *e)
{
  config_member("{", "mod_name", e->mod_name);
  config_member(",", "pool_name", e->pool_name);
  config_member(",", "pool_query", e->pool_query);
  printf(",\"pool_id\":\"%u.%u\",\"params\":{", e->pool_major, e->pool_minor);
  for (uint32_t i = 0; i < e->param_count; i++) {
    if (i)
      printf(",");
    text_put_string(e->params[i].name, SIZE_MAX, cli_put, stdout);
    printf(":");
    text_put_string(e->params[i].value, SIZE_MAX, cli_put, stdout);
  }
  printf("}}");
}

static void config_json(const chi_config *config)
{
  printf("{\"values\":");
  chi_type_print(&config_type, config, CHI_DIR_IN, cli_put, stdout);
  printf(",\"compose\":[");
  for (uint32_t i = 0; i < config->compose_count; i++) {
    if (i)
      printf(",");
    config_json_pool(&config->compose[i]);
  }
  printf("],\"hosts\":[");
  for (uint32_t i = 0; i < config->host_count; i++) {
    config_member(i ? ",{" : "{", "name", config->hosts[i].name);
    config_member(",", "address", config->hosts[i].address);
    printf("}");
  }
  printf("]}\n");
}

static int config_run(struct cli *cli)
{
  const char *check = cli_value(cli, "check"), *file = check ? check : cli_value(cli, "file");
  chi_config config;
  int status;
  if (cli->argument_count || (check && cli_value(cli, "file")))
    return cli_usage(cli, "takes no arguments; give --check FILE or --file FILE");
  status = settings_load(cli, file, &config);
  if (status == CLI_OK && cli_value(cli, "json"))
    config_json(&config);
  else if (status == CLI_OK)
    chi_config_print(&config, cli_put, stdout);
  chi_config_free(&config);
  return status;
}

const struct cli_command cmd_config = {
    .name = "config",
    .arguments = "",
    .about = "print the effective configuration, or every error in it",
    .more = "Without a file it is the one that 'chimaera start' would read. What is wrong comes\n"
            "on standard error, as lines 'error: FILE:LINE:COLUMN: TEXT', or 'warning: ...'.\n",
    .run = config_run,
    .options = {{"check", "FILE", "of this file"}, {"file", "FILE", "the same"}, {CLI_JSON}}};
