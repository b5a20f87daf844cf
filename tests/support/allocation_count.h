/* Counts the allocations of our own code in this process: a program that links the library
 * allocation_count has its malloc family replaced. (OpenBLAS makes a job table of its own for each
 * threaded product; what shared libraries allocate for themselves is not counted.) */
#ifndef IBOT_TESTS_SUPPORT_ALLOCATION_COUNT_H
#define IBOT_TESTS_SUPPORT_ALLOCATION_COUNT_H

#include <stdbool.h>

/* False in sanitizer builds, where the sanitizer owns malloc. */
bool allocation_count_works(void);
long allocation_count(void);

#endif
