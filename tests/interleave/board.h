/* board.h - a board of a queue of depth 16 at most, as part of a world. */
#ifndef BOARD_H
#define BOARD_H

#include "lane.h"

/* struct lane_board ends in an array, so it can be part of nothing. */
struct board {
  char memory[sizeof(struct lane_board) + 16 * sizeof(struct lane_done)];
} __attribute__((aligned(64)));

static inline struct lane_board *board_of(struct board *b)
{
  return (struct lane_board *)(void *)b->memory;
}

#endif
