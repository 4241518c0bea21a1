/* real_module.h - modules that are loaded as shared objects. */
#ifndef CHI_REAL_MODULE_H
#define CHI_REAL_MODULE_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

/* Adds module_load. NAME is looked for as NAME.so in the directories of $CHI_MODULE_PATH, which are
 * separated by colons; the first one found counts. The file's name may begin with "lib", and it
 * and NAME with "chimaera_". */
CHI_PRIVATE void real_module_bind(struct real_env *r);
/* Unloads what was loaded: nothing may be running in it. */
CHI_PRIVATE void real_module_close(struct real_env *r);

#endif
#endif
