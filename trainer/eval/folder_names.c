#include "trainer/eval/folder_names.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

bool is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_wanted(const char *path, const char *name, enum folder_name_kind kind)
{
    char below[4096];
    struct stat info;

    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           (size_t)snprintf(below, sizeof(below), "%s/%s", path, name) < sizeof(below) &&
           stat(below, &info) == 0 &&
           (kind == NAMES_OF_FOLDERS ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode));
}

enum status folder_names_read(struct folder_names *out, const char *path,
                              enum folder_name_kind kind, const char *what)
{
    int n = scandir(path, &out->entries, NULL, by_name);

    out->n = 0;
    if (n < 0) {
        out->entries = NULL;
        FAIL(STATUS_NOT_FOUND, "%s '%s' can't be read: %s", what, path, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        if (is_wanted(path, out->entries[i]->d_name, kind))
            out->entries[out->n++] = out->entries[i];
        else
            free(out->entries[i]);
    }
    return STATUS_OK;
}

const char *folder_name(const struct folder_names *names, int i)
{
    return names->entries[i]->d_name;
}

void folder_names_release(struct folder_names *names)
{
    for (int i = 0; i < names->n; i++)
        free(names->entries[i]);
    free(names->entries);
    *names = (struct folder_names){0};
}
