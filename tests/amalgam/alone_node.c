/* alone_node.c - a whole node and its client, simulated, in a program that includes the one file
 * and needs nothing but libc. */
#define CHI_OMIT_REAL
#include "chimaera.c"

#define ADDER_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(adder_add, 10, ADDER_ADD)

struct adder {
  uint64_t calls;
};

static int adder_add_run(chi_ctx *ctx, struct adder *self, struct adder_add *t)
{
  (void)ctx;
  self->calls++;
  t->sum = t->a + t->b;
  return CHI_OK;
}

#define ADDER_METHODS(M, S) M(S, adder_add)
CHI_METHODS(adder, ADDER_METHODS)

static const chi_module adder_module = {.version = CHI_MODULE_VERSION,
                                        .name = "adder",
                                        .state_size = sizeof(struct adder),
                                        .methods = adder_methods};

static void client(struct sim_client *self, void *arg)
{
  chi_client *c = NULL;
  chi_queue *q = NULL;
  chi_pool_id id = {300, 0};
  int *right = arg;
  if (sim_client_attach(self, &c, NULL) != CHI_OK || chi_queue_open(c, &q, NULL) != CHI_OK ||
      chi_pool_create(q, "adder", "sums", NULL, 0, &id, NULL) != CHI_OK)
    return;
  for (uint64_t i = 0; i < 100; i++) {
    struct adder_add *t = CHI_NEW(q, adder_add);
    t->task.pool = id;
    t->a = i;
    t->b = 1;
    *right += chi_run(q, t) == CHI_OK && t->sum == i + 1;
    chi_task_free(q, t);
  }
  chi_queue_close(q);
  chi_client_close(c);
}

int main(void)
{
  const chi_module *modules[] = {&adder_module};
  struct sim *sim = sim_open(1);
  chi_config config;
  int right = 0;
  chi_config_init(&config);
  int rc = sim_node_start(sim, 0, &config, modules, 1, NULL);
  sim_client(sim, 0, client, &right);
  bool done = sim_run_idle(sim, 1000000000);
  rc = rc == CHI_OK ? sim_node_stop(sim, 0, 1000) : rc;
  const char *failure = sim_failure(sim);
  bool good = rc == CHI_OK && done && right == 100 && !failure;
  sim_close(sim);
  chi_config_free(&config);
  return good ? 0 : 1;
}
