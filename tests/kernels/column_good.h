/* What the devices of column_good.c do when they are opened, by their ordinal. */
#ifndef IBOT_TESTS_KERNELS_COLUMN_GOOD_H
#define IBOT_TESTS_KERNELS_COLUMN_GOOD_H

enum { COLUMN_OPENS, COLUMN_FAILS, COLUMN_LOGS, COLUMN_BREAKS_A_PROMISE };

#endif
