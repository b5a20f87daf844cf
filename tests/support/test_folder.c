#include "tests/support/test_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

int test_folder_open(void **state, const char *file)
{
    struct test_folder *folder = calloc(1, sizeof(*folder));

    assert_non_null(folder);
    strcpy(folder->folder, "/tmp/ibot-test-XXXXXX");
    assert_non_null(mkdtemp(folder->folder));
    snprintf(folder->path, sizeof(folder->path), "%s/%s", folder->folder, file);
    *state = folder;
    return 0;
}

int test_folder_close(void **state)
{
    struct test_folder *folder = *state;

    unlink(folder->path);
    if (folder->out[0] != '\0')
        unlink(folder->out);
    int failed = rmdir(folder->folder);
    free(folder);
    return failed;
}

void test_file_put(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

char *test_file_get(const char *path, size_t *n_bytes)
{
    struct stat info;
    FILE *file = fopen(path, "rb");

    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    size_t n = (size_t)info.st_size;
    char *bytes = calloc(1, n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, n, file), n);
    fclose(file);
    if (n_bytes != NULL)
        *n_bytes = n;
    return bytes;
}
