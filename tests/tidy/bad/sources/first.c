/* other.c - says it is another file. */
static int first_x;
