/* A folder for one test, with the file that it is about; files as bytes. */
#ifndef IBOT_TESTS_SUPPORT_TEST_FOLDER_H
#define IBOT_TESTS_SUPPORT_TEST_FOLDER_H

#include <stddef.h>

struct test_folder {
    char folder[64];
    char path[128]; /* of the file in it */
    char out[128];  /* of another one, where a test makes one; "" */
};

/* For a set-up of cmocka's: *state is a struct test_folder, with a folder that is there and a file
 * of this name that is not. */
int test_folder_open(void **state, const char *file);

/* A tear-down: removes both files and the folder. Fails when something else was left in it. */
int test_folder_close(void **state);

void test_file_put(const char *path, const void *bytes, size_t n_bytes);

/* The whole file, which must be there, with a NUL behind it; the caller's (free). n_bytes: NULL, or
 * its size. */
char *test_file_get(const char *path, size_t *n_bytes);

#endif
