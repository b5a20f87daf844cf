/* Sub-folders as loaders count them: every one is a class, unless archives lie beside them. */
#include "trainer/eval/class_folders.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "trainer/eval/folder_names.h"

static bool is_archive(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tar") == 0;
}

/* None, where the data set is something else. Errors: STATUS_NOT_FOUND. */
static enum status read_folders(struct folder_names *out, const char *option, const char *path)
{
    struct folder_names files = {0};
    bool archives = false;
    struct stat info;

    *out = (struct folder_names){0};
    if (stat(path, &info) != 0)
        FAIL(STATUS_NOT_FOUND, "%s '%s': %s", option, path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return STATUS_OK;
    TRY(folder_names_read(&files, path, NAMES_OF_FILES, option));
    for (int i = 0; i < files.n; i++)
        archives = archives || is_archive(folder_name(&files, i));
    folder_names_release(&files);
    return archives ? STATUS_OK : folder_names_read(out, path, NAMES_OF_FOLDERS, option);
}

enum status class_folders_check(const char *train, const char *test)
{
    struct folder_names a = {0}, b = {0};
    enum status status;
    int i = 0;

    TRY_OUT(read_folders(&a, "--train", train));
    TRY_OUT(read_folders(&b, "--test", test));
    if (a.n == 0 || b.n == 0)
        goto out;
    while (i < a.n && i < b.n && strcmp(folder_name(&a, i), folder_name(&b, i)) == 0)
        i++;
    if (i < a.n || i < b.n)
        FAIL_OUT(STATUS_MISMATCH,
                 "--train '%s' has %d class folders, --test '%s' %d, and class %d is '%s' in one "
                 "and '%s' in the other: wanted the same names in both",
                 train, a.n, test, b.n, i, i < a.n ? folder_name(&a, i) : "(none)",
                 i < b.n ? folder_name(&b, i) : "(none)");
out:
    folder_names_release(&a);
    folder_names_release(&b);
    return status;
}
