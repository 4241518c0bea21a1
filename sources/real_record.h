/* real_record.h - the file that a node is recorded in. */
#ifndef CHI_REAL_RECORD_H
#define CHI_REAL_RECORD_H

#include "real_env.h"

#ifndef CHI_OMIT_REAL

#include "tape.h"

struct real_record {
  int fd; /* -1: none */
};

/* Makes the file, which nobody but its owner may read, in place of one that is there, unless
 * another process is recording to it. The store is good until real_record_close. CHI_EACCES and the
 * like, with *err. */
CHI_PRIVATE int real_record_make(struct real_record *f, const char *path, struct tape_store *store,
                                 chi_error *err);
/* Opens one to be read. */
CHI_PRIVATE CHI_UNUSED int real_record_find(struct real_record *f, const char *path,
                                            struct tape_store *store, chi_error *err);
/* How a record ends: the number of its items, and their hash. False: it is not complete. */
CHI_PRIVATE CHI_UNUSED bool real_record_tail(const char *path, uint64_t *items, uint64_t *hash);
CHI_PRIVATE void real_record_close(struct real_record *f);

#endif
#endif
