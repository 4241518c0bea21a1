/* test_module.c - the registry: names, and every declaration it must refuse. */
#include "module.h"
#include "scarce.h"
#include "test.h"

#define MODULE_ADD(X, T) X(T, IN, u64, a) X(T, OUT, u64, sum)
CHI_TASK(module_one, 10, MODULE_ADD)
CHI_TASK(module_two, 255, CHI_NO_FIELDS)
CHI_TASK(module_again, 10, CHI_NO_FIELDS)
CHI_TASK(module_low, 9, CHI_NO_FIELDS)
CHI_TASK(module_high, 256, CHI_NO_FIELDS)
#define MODULE_PARAMS(X, T) X(T, IN, u32, depth, "4")
CHI_STRUCT(module_params, MODULE_PARAMS)

static int module_run(chi_ctx *ctx, void *self, void *task)
{
  (void)ctx, (void)self, (void)task;
  return CHI_OK;
}

static struct scarce module_memory;
static const struct alloc module_alloc = SCARCE_ALLOC(&module_memory);

static struct module_list module_list(void)
{
  module_memory = (struct scarce){.fail_at = -1};
  return (struct module_list){.alloc = &module_alloc};
}

static const chi_method module_methods[] = {{&module_one_type, module_run, 0, 7},
                                            {&module_two_type, module_run, 0, 0},
                                            {0, 0, 0, 0}};

static chi_module module_good(const char *name)
{
  return (chi_module){.version = CHI_MODULE_VERSION,
                      .name = name,
                      .state_size = 8,
                      .params = &module_params_type,
                      .methods = module_methods};
}

TEST(module_is_found_by_either_name)
{
  struct module_list l = module_list();
  chi_module plain = module_good("plain"), prefixed = module_good("chimaera_other");
  CHECK_INT(module_add(&l, &plain, NULL), CHI_OK);
  CHECK_INT(module_add(&l, &prefixed, NULL), CHI_OK);
  CHECK(module_find(&l, "plain") && module_find(&l, "plain")->def == &plain);
  CHECK(module_find(&l, "chimaera_plain") == module_find(&l, "plain"));
  CHECK(module_find(&l, "other") && module_find(&l, "other")->def == &prefixed);
  CHECK(module_find(&l, "chimaera_other") == module_find(&l, "other"));
  CHECK(module_find(&l, "chimaera_chimaera_other") == NULL);
  CHECK(module_find(&l, "othe") == NULL && module_find(&l, "") == NULL);
  CHECK(module_is_named(&plain, "chimaera_plain") && !module_is_named(&plain, "plainer"));
  module_free_all(&l);
  CHECK(l.first == NULL && module_memory.blocks == 0 && module_memory.bytes == 0);
}

TEST(module_methods_by_id)
{
  struct module_list l = module_list();
  chi_module def = module_good("one");
  CHECK_INT(module_add(&l, &def, NULL), CHI_OK);
  struct module *m = module_find(&l, "one");
  CHECK_INT(m->count, 2);
  struct method *one = module_method(m, 10), *two = module_method(m, 255);
  CHECK(one && one->def == &module_methods[0] && one->index == 0 && one->weight == 1024);
  CHECK(two && two->def == &module_methods[1] && two->index == 1);
  CHECK(one->plan.type == &module_one_type);
  for (uint32_t id = 0; id < 255; id++)
    CHECK(id == 10 || module_method(m, id) == NULL);
  CHECK(module_method(m, 256) == NULL && module_method(m, UINT32_MAX) == NULL);
  module_free_all(&l);
}

/* Adds def to a list that has a module "one"; the error must say `words`, and nothing stays. */
static void module_refused(chi_module def, int code, const char *words)
{
  struct module_list l = module_list();
  chi_module one = module_good("one");
  chi_error err = {0};
  CHECK_INT(module_add(&l, &one, NULL), CHI_OK);
  int64_t bytes = module_memory.bytes;
  CHECK_INT(module_add(&l, &def, &err), code);
  CHECK_INT(err.code, code);
  if (!strstr(err.text, words))
    CHECK_STR(err.text, words);
  CHECK_INT(module_add(&l, &def, NULL), code); /* nobody has to listen */
  CHECK(module_memory.bytes == bytes && l.first->next == NULL);
  module_free_all(&l);
}

TEST(module_refuses_wrong_declarations)
{
  chi_module m = module_good("two");
  m.version = CHI_MODULE_VERSION + 1;
  module_refused(m, CHI_EVERSION, "two");
  module_refused(module_good("one"), CHI_EEXIST, "one");
  module_refused(module_good("chimaera_one"), CHI_EEXIST, "one");
  module_refused(module_good(""), CHI_EINVAL, "without a name");
  module_refused(module_good(NULL), CHI_EINVAL, "without a name");
  char name[CHI_NAME_MAX + 1];
  memset(name, 'x', sizeof name);
  name[CHI_NAME_MAX] = '\0';
  module_refused(module_good(name), CHI_EINVAL, "");
  m = module_good("two");
  m.methods = NULL;
  module_refused(m, CHI_EINVAL, "without methods");
}

static void module_methods_refused(chi_method first, chi_method second, const char *words)
{
  const chi_method methods[] = {first, second, {0, 0, 0, 0}};
  chi_module m = module_good("two");
  m.methods = methods;
  module_refused(m, CHI_EINVAL, words);
}

TEST(module_refuses_wrong_methods)
{
  const chi_method one = module_methods[0];
  module_methods_refused(one, (chi_method){&module_again_type, module_run, 0, 0}, "same id 10");
  module_methods_refused(one, (chi_method){&module_low_type, module_run, 0, 0}, "id 9");
  module_methods_refused(one, (chi_method){&module_high_type, module_run, 0, 0}, "id 256");
  module_methods_refused(one, (chi_method){&module_two_type, NULL, 0, 0}, "module_two");
}

TEST(module_refuses_impossible_types)
{
  chi_type task = module_two_type, params = module_params_type;
  chi_module m = module_good("two");
  task.size = sizeof(chi_task) - 1;
  module_methods_refused(module_methods[0], (chi_method){&task, module_run, 0, 0}, "module_two");
  params.size = 0; /* its field lies outside */
  m.params = &params;
  module_refused(m, CHI_EINVAL, "depth");
}

TEST(module_add_without_memory)
{
  struct module_list l = module_list();
  chi_module def = module_good("one");
  chi_error err = {0};
  module_memory.fail_at = 0;
  CHECK_INT(module_add(&l, &def, &err), CHI_ENOMEM);
  CHECK(strstr(err.text, "one") && l.first == NULL && module_memory.blocks == 0);
  CHECK_INT(module_add(&l, &def, &err), CHI_OK);
  module_free_all(&l);
}
