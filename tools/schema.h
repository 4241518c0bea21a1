/* schema.h - the declarations of a module as the daemon describes them (docs/modules.md), made
 * into field tables, so that any method can be called by a program that has never seen it. */
#ifndef CHI_TOOL_SCHEMA_H
#define CHI_TOOL_SCHEMA_H

#include "base.h"

#define SCHEMA_METHODS_MAX 1024
#define SCHEMA_FIELDS_MAX 512            /* of one struct */
#define SCHEMA_STRUCT_MAX (1024u * 1024) /* bytes of one struct */

struct schema {
  const char *module;
  const chi_type *params;  /* NULL: takes none */
  const chi_type *methods; /* tasks */
  uint32_t method_count;
  struct json *json; /* holds the names */
  struct schema_chunk *chunks;
};

/* Parses the text of admin.describe. It is untrusted: a field outside its struct, over another one
 * or of the wrong size, a name that is none and whatever else doesn't fit is CHI_ECORRUPT; so no
 * use of the tables leaves an object of the stated size. CHI_ENOMEM. */
int schema_parse(const char *text, size_t size, struct schema **out, chi_error *err);
void schema_free(struct schema *schema);

/* The method of a name or number. A name is that of the task type, or the same without a leading
 * chi_, <module>_, chi_<module>_ or chimaera_. NULL: *err names the nearest and lists all. */
const chi_type *schema_method(const struct schema *schema, const char *name, chi_error *err);
/* The shortest name that schema_method takes for it. */
const char *schema_short_name(const struct schema *schema, const chi_type *method);

#endif
