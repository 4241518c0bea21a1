/* fuzz_text.c - arguments of `chimaera call`: any lines NAME=VALUE set fields of any kind; what is
 * then printed is JSON. */
#include "text.h"

#include <stdlib.h>

#include "json.h"

#define FUZZ_SPOT(X, T) X(T, IN, u64, offset) X(T, IN, u32, size, "4096") X(T, IN, str, tag, 5)
CHI_STRUCT(fuzz_spot, FUZZ_SPOT)
#define FUZZ_NEST(X, T) X(T, IN, object, place, fuzz_spot) X(T, IN, i16, level, "-3")
CHI_STRUCT(fuzz_nest, FUZZ_NEST)
#define FUZZ_ALL(X, T)                                                                             \
  X(T, IN, u8, a8)                                                                                 \
  X(T, IN, u16, a16) X(T, IN, u32, a32) X(T, IN, u64, a64) X(T, IN, i8, b8) X(T, IN, i16, b16)     \
      X(T, IN, i32, b32) X(T, IN, i64, b64) X(T, IN, f64, ratio, "0.5")                            \
          X(T, IN, bool, flag, "true") X(T, IN, size, amount, "64K")                               \
              X(T, IN, duration, pause, "20ms") X(T, IN, pool, where, "300.1")                     \
                  X(T, IN, str, name, 8, "x") X(T, IN, object, home, fuzz_nest)                    \
                      X(T, IN, array, spots, fuzz_nest, 3) X(T, IN, bulk, data)
CHI_TASK(fuzz_all, 21, FUZZ_ALL)

#define FUZZ_LINES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_out {
  char text[65536];
  size_t used;
};

static void fuzz_put(void *arg, const char *text)
{
  struct fuzz_out *out = arg;
  size_t size = strlen(text);
  if (size > sizeof(out->text) - out->used)
    abort();
  memcpy(out->text + out->used, text, size);
  out->used += size;
}

static void fuzz_print(const struct fuzz_all *t)
{
  static struct fuzz_out out;
  struct json *json;
  out.used = 0;
  chi_type_print(&fuzz_all_type, t, CHI_DIR_INOUT, fuzz_put, &out);
  if (json_parse(out.text, out.used, &json, NULL) != CHI_OK || json->kind != JSON_OBJECT)
    abort();
  json_free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  char *text = malloc(size + 1), *line = text;
  struct fuzz_all t = {.a8 = 0};
  chi_error err = {0};
  if (!text)
    return 0;
  memcpy(text, data, size);
  text[size] = '\0';
  if (chi_type_preset(&fuzz_all_type, &t, NULL) != CHI_OK)
    abort();
  for (int i = 0; i < FUZZ_LINES && *line; i++) {
    size_t length = strcspn(line, "\n");
    char *next = line + length + (line[length] == '\n'), *equals;
    struct fuzz_all before = t;
    line[length] = '\0';
    equals = strchr(line, '=');
    if (equals) {
      *equals = '\0';
      if (chi_type_set(&fuzz_all_type, &t, line, equals + 1, &err) != CHI_OK &&
          (err.code == CHI_OK || memcmp(&before, &t, sizeof(t)) != 0))
        abort();
    }
    line = next;
  }
  if (t.name[sizeof(t.name) - 1] || t.spots_count > 3)
    abort();
  fuzz_print(&t);
  free(text);
  return 0;
}
