/* test_real_module.c - modules from CHI_MODULE_PATH: found, checked, or told what was looked for.
 */
#include "real_module.h"
#include "scratch.h"
#include "test.h"

/* An environment that loads modules; where the shared objects of the tests are. */
struct shelf {
  struct real_env r;
  char built[512];
};

static bool shelf_make(struct shelf *s)
{
  const char *build = getenv("BUILD");
  if (!build) {
    test_skip("BUILD doesn't say where the modules are");
    return false;
  }
  snprintf(s->built, sizeof(s->built), "%s/modules", build);
  setenv("CHI_MODULE_PATH", s->built, 1);
  if (real_env_open(&s->r, NULL) != CHI_OK)
    return false;
  real_module_bind(&s->r);
  return true;
}

static void shelf_free(struct shelf *s)
{
  real_module_close(&s->r);
  real_env_close(&s->r);
}

static int shelf_load(struct shelf *s, const char *name, const chi_module **out, chi_error *err)
{
  return s->r.env.module_load(&s->r.env, name, out, err);
}

TEST(a_module_is_loaded_once)
{
  struct shelf s;
  const chi_module *m = NULL, *again = NULL;
  chi_error err = {0};
  if (!shelf_make(&s))
    return;
  CHECK_INT(shelf_load(&s, "loaded", &m, &err), CHI_OK);
  CHECK_STR(m->name, "loaded");
  CHECK_INT(m->methods[0].type->id, 10);
  CHECK_INT(shelf_load(&s, "loaded", &again, NULL), CHI_OK);
  CHECK(m == again);
  shelf_free(&s);
}

TEST(a_module_is_found_in_any_directory_and_under_any_of_its_names)
{
  static const char *const files[] = {"other.so", "libother.so", "chimaera_other.so",
                                      "libchimaera_other.so"};
  char dir[64], way[700], from[600], to[128];
  for (size_t i = 0; i < CHI_COUNT(files); i++) {
    struct shelf s;
    const chi_module *m = NULL;
    if (!shelf_make(&s))
      return;
    CHECK(scratch_make(dir));
    snprintf(from, sizeof(from), "%s/loaded.so", s.built);
    snprintf(to, sizeof(to), "%s/%s", dir, files[i]);
    char *real = realpath(from, NULL);
    CHECK(real);
    CHECK_INT(symlink(real, to), 0);
    free(real);
    snprintf(way, sizeof(way), "/nowhere::%s:%s", s.built, dir);
    setenv("CHI_MODULE_PATH", way, 1);
    CHECK_INT(shelf_load(&s, "other", &m, NULL), CHI_OK);
    CHECK_INT(shelf_load(&s, "chimaera_other", &m, NULL), CHI_OK);
    CHECK_STR(m->name, "loaded");
    shelf_free(&s);
    scratch_remove(dir);
  }
}

TEST(a_module_that_is_nowhere_is_told_with_the_path)
{
  struct shelf s;
  const chi_module *m;
  chi_error err = {0};
  if (!shelf_make(&s))
    return;
  CHECK_INT(shelf_load(&s, "nothing", &m, &err), CHI_ENOMODULE);
  CHECK(strstr(err.text, "nothing.so") && strstr(err.text, s.built));
  unsetenv("CHI_MODULE_PATH");
  CHECK_INT(shelf_load(&s, "nothing", &m, &err), CHI_ENOMODULE);
  CHECK(strstr(err.text, "CHI_MODULE_PATH is not set"));
  shelf_free(&s);
}

TEST(a_name_that_leaves_the_directory_is_refused)
{
  static const char *const names[] = {"",    ".",           "..",  "../loaded",
                                      "a/b", "/etc/passwd", "a b", "a\nb"};
  struct shelf s;
  const chi_module *m;
  char name[CHI_NAME_MAX + 1];
  if (!shelf_make(&s))
    return;
  for (size_t i = 0; i < CHI_COUNT(names); i++)
    CHECK_INT(shelf_load(&s, names[i], &m, NULL), CHI_ENOMODULE);
  memset(name, 'n', sizeof(name));
  name[CHI_NAME_MAX] = '\0';
  CHECK_INT(shelf_load(&s, name, &m, NULL), CHI_ENOMODULE);
  shelf_free(&s);
}

TEST(what_is_no_module_is_refused)
{
  struct shelf s;
  const chi_module *m;
  char dir[64];
  chi_error err = {0};
  if (!shelf_make(&s))
    return;
  CHECK_INT(shelf_load(&s, "loaded_old", &m, &err), CHI_EVERSION);
  CHECK(strstr(err.text, "version 2") && strstr(err.text, "version 1"));
  CHECK_INT(shelf_load(&s, "loaded_bare", &m, &err), CHI_ENOMODULE);
  CHECK(strstr(err.text, "chi_module_entry"));
  CHECK_INT(shelf_load(&s, "loaded_none", &m, &err), CHI_ENOMODULE);
  CHECK(scratch_make(dir));
  CHECK(scratch_write(dir, "text.so", "this is no shared object\n"));
  setenv("CHI_MODULE_PATH", dir, 1);
  CHECK_INT(shelf_load(&s, "text", &m, &err), CHI_ENOMODULE);
  CHECK(strstr(err.text, "text.so"));
  shelf_free(&s);
  scratch_remove(dir);
}
