/* A temporary folder of a test, with everything in it. */
#ifndef IBOT_TESTS_LOADER_FOLDER_H
#define IBOT_TESTS_LOADER_FOLDER_H

#include <stddef.h>

struct folder {
    char path[64];
};

/* cmocka set-up and tear-down: *state is a struct folder. */
int folder_open(void **state);
int folder_close(void **state);

void folder_path(const struct folder *folder, const char *name, char *out, size_t size);

/* Writes a file; makes the folders that lead to it. */
void folder_put(const struct folder *folder, const char *name, const void *bytes, size_t n_bytes);

#endif
