/* env.h - the seam; includes an environment. */
#ifndef CHI_ENV_H
#define CHI_ENV_H
#include "base.h"
#include "real_disk.h"
#endif
