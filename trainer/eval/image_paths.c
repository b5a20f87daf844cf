#include "trainer/eval/image_paths.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/eval/folder_names.h"

enum status image_paths_add(struct image_paths *paths, const char *folder, const char *name,
                            const char *ending)
{
    size_t size = strlen(folder) + strlen(name) + strlen(ending) + 2;

    TRY(memory_grow(&paths->paths, &paths->capacity, paths->n + 1, sizeof(*paths->paths), "paths"));
    TRY(memory_alloc(&paths->paths[paths->n], size, 1, "a path"));
    snprintf(paths->paths[paths->n++], size, "%s/%s%s", folder, name, ending);
    return STATUS_OK;
}

static bool ends_so(const char *name, const char *ending)
{
    size_t n = strlen(name), tail = strlen(ending);

    return n > tail && strcmp(name + n - tail, ending) == 0;
}

enum status image_paths_add_folder(struct image_paths *paths, const char *folder,
                                   const char *ending, const char *what)
{
    struct folder_names names = {0};
    size_t before = paths->n;
    enum status status = STATUS_OK;

    TRY(folder_names_read(&names, folder, NAMES_OF_FILES, what));
    for (int i = 0; i < names.n; i++)
        if (ends_so(folder_name(&names, i), ending))
            TRY_OUT(image_paths_add(paths, folder, folder_name(&names, i), ""));
    if (paths->n == before)
        FAIL_OUT(STATUS_NOT_FOUND, "%s '%s' has no files that end in %s", what, folder, ending);
out:
    folder_names_release(&names);
    return status;
}

const char *image_paths_name(const struct image_paths *paths, size_t i)
{
    return strrchr(paths->paths[i], '/') + 1;
}

void image_paths_release(struct image_paths *paths)
{
    for (size_t i = 0; i < paths->n; i++)
        memory_free(paths->paths[i]);
    memory_free(paths->paths);
    *paths = (struct image_paths){0};
}
