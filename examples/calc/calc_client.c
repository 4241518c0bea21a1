/* calc_client.c - a program that uses the module calc of the daemon on this host. */
#include "calc.h"

#include <stdio.h>

static int calc_client_add(chi_queue *queue, chi_pool_id pool)
{
  struct calc_add *t = CHI_NEW(queue, calc_add);
  int rc = CHI_ENOMEM;
  if (t) {
    t->task.pool = pool;
    t->a = 2;
    t->b = 3;
    rc = chi_run(queue, t);
    if (rc == CHI_OK)
      printf("2 + 3 = %llu\n", (unsigned long long)t->sum);
    chi_task_free(queue, t);
  }
  return rc;
}

int main(void)
{
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  chi_pool_id pool = {500, 0};
  chi_error err = {0, ""};
  int rc = chi_client_open(NULL, &client, &err);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, &err);
  if (rc == CHI_OK)
    rc = chi_pool_create(queue, "calc", "my calc", NULL, 0, &pool, &err);
  if (rc == CHI_OK)
    rc = calc_client_add(queue, pool);
  if (rc != CHI_OK)
    fprintf(stderr, "%s\n", err.text[0] ? err.text : chi_status_text(rc));
  chi_queue_close(queue);
  chi_client_close(client);
  return rc != CHI_OK;
}
