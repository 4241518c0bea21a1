/* sim_disk.c - an environment may include the seam and what is below, nothing else. */
#include "env.h"
#include "names.h"
#include "upper.h"
#include "real_disk.h"

static int sim_disk_x;
