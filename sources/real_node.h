/* real_node.h - a node in this process, and a client of one: the functions are in chimaera.h. */
#ifndef CHI_REAL_NODE_H
#define CHI_REAL_NODE_H

#include "base.h"

#endif
