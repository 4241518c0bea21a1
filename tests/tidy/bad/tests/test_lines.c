/* test_lines.c - only the rules of tests: strcpy(a, b) and any name are fine. */
int any_name; /* FIXME: left, and the word MYFIXME is another; 67890123456789012345678901234567890123456 */
