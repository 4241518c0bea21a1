/* calc_inside.c - the same without a daemon: a node in this very process, the module linked in. */
#include "calc.h"

#include <stdio.h>

const chi_module *chi_module_entry(void);

int main(void)
{
  const chi_module *modules[] = {chi_module_entry()};
  chi_config config;
  chi_node *node = NULL;
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  chi_pool_id pool = {500, 0};
  chi_error err = {0, ""};
  struct calc_add *t = NULL;
  int rc;
  chi_config_init(&config);
  config.port = 5999; /* with the name, it tells the nodes of a host apart */
  rc = chi_node_open(&config, modules, 1, &node, &err);
  if (rc == CHI_OK)
    rc = chi_client_open(chi_node_instance(node), &client, &err);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, &err);
  if (rc == CHI_OK)
    rc = chi_pool_create(queue, "calc", "my calc", NULL, 0, &pool, &err);
  if (rc == CHI_OK && (t = CHI_NEW(queue, calc_add)) != NULL) {
    t->task.pool = pool;
    t->a = 20;
    t->b = 22;
    rc = chi_run(queue, t);
    printf("20 + 22 = %llu\n", (unsigned long long)t->sum);
    chi_task_free(queue, t);
  }
  if (rc != CHI_OK)
    fprintf(stderr, "%s\n", err.text[0] ? err.text : chi_status_text(rc));
  chi_queue_close(queue);
  chi_client_close(client);
  if (node)
    chi_node_close(node, 1000);
  chi_config_free(&config);
  return rc != CHI_OK;
}
