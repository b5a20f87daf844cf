/* Sub-folders as loaders count them: every one is a class, unless archives lie beside them. */
#include "trainer/eval/class_folders.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct class_folders {
    struct dirent **entries; /* sorted by bytes */
    int n;
};

static bool is_archive(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tar") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Takes the entry at i out. */
static void drop(struct class_folders *folders, int i)
{
    free(folders->entries[i]);
    memmove(folders->entries + i, folders->entries + i + 1,
            (size_t)(folders->n - i - 1) * sizeof(*folders->entries));
    folders->n--;
}

static void release(struct class_folders *folders)
{
    while (folders->n > 0)
        drop(folders, folders->n - 1);
    free(folders->entries);
}

/* None, where the data set is something else. Errors: STATUS_NOT_FOUND. */
static enum status read_folders(struct class_folders *out, const char *option, const char *path)
{
    bool archives = false;
    struct stat info;

    *out = (struct class_folders){0};
    if (stat(path, &info) != 0)
        FAIL(STATUS_NOT_FOUND, "%s '%s': %s", option, path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return STATUS_OK;
    out->n = scandir(path, &out->entries, NULL, by_name);
    if (out->n < 0) {
        *out = (struct class_folders){0};
        FAIL(STATUS_NOT_FOUND, "%s '%s' can't be read: %s", option, path, strerror(errno));
    }
    for (int i = out->n - 1; i >= 0; i--) {
        const char *name = out->entries[i]->d_name;
        char below[4096];
        archives = archives || is_archive(name);
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            (size_t)snprintf(below, sizeof(below), "%s/%s", path, name) >= sizeof(below) ||
            stat(below, &info) != 0 || !S_ISDIR(info.st_mode))
            drop(out, i);
    }
    while (archives && out->n > 0)
        drop(out, out->n - 1);
    return STATUS_OK;
}

enum status class_folders_check(const char *train, const char *test)
{
    struct class_folders a = {0}, b = {0};
    enum status status;
    int i = 0;

    TRY_OUT(read_folders(&a, "--train", train));
    TRY_OUT(read_folders(&b, "--test", test));
    if (a.n == 0 || b.n == 0)
        goto out;
    while (i < a.n && i < b.n && strcmp(a.entries[i]->d_name, b.entries[i]->d_name) == 0)
        i++;
    if (i < a.n || i < b.n)
        FAIL_OUT(STATUS_MISMATCH,
                 "--train '%s' has %d class folders, --test '%s' %d, and class %d is '%s' in one "
                 "and '%s' in the other: wanted the same names in both",
                 train, a.n, test, b.n, i, i < a.n ? a.entries[i]->d_name : "(none)",
                 i < b.n ? b.entries[i]->d_name : "(none)");
out:
    release(&a);
    release(&b);
    return status;
}
