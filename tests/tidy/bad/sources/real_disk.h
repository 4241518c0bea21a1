/* real_disk.h - of one environment. */
#ifndef CHI_REAL_DISK_H
#define CHI_REAL_DISK_H
#include "upper.h"
#endif
