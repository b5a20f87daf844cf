/* The side of the programs: finds and loads libibot_cuda.so, and hands its table on. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/column.h"
#include "kernels/interface.h"

#define FILE_NAME "libibot_cuda.so"

static const struct kernels_host host = {
    .status_set = status_set,
    .status_message = status_message,
    .status_name = status_name,
    .check_failed = status_check_failed,
    .log_write = log_write,
};

/* ------------------------------------------------------------------------------ finding it */

/* The program's folder, with a '/' at its end. */
static enum status program_folder(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);

    if (n < 0)
        FAIL(STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    out[n] = '\0';
    strrchr(out, '/')[1] = '\0';
    return STATUS_OK;
}

static enum status find(char *out, size_t size, const char *const *folders)
{
    char program[PATH_MAX], tried[PATH_MAX] = "";

    TRY(program_folder(program, sizeof(program)));
    for (; *folders != NULL; folders++) {
        size_t n = strlen(tried);
        int length = snprintf(out, size, "%s%s%s" FILE_NAME, **folders == '/' ? "" : program,
                              *folders, **folders == '\0' ? "" : "/");
        if (length > 0 && (size_t)length < size && access(out, F_OK) == 0)
            return STATUS_OK;
        snprintf(tried + n, sizeof(tried) - n, "%s%.300s", n > 0 ? ", " : "", out);
    }
    FAIL(STATUS_UNSUPPORTED,
         "a CUDA device was asked for, but the CUDA kernels are not here (%s): they are part of a "
         "build with the CUDA toolkit; '--backend cpu' does without",
         tried);
}

/* ------------------------------------------------------------------------------ loading it */

/* What a library is part of, by how its name begins. */
static const struct {
    const char *begins, *part_of;
} parts[] = {
    {"libcublas", "cuBLAS, of the CUDA toolkit (Debian, Ubuntu: NVIDIA's package libcublas-*)"},
    {"libnvJitLink", "the CUDA toolkit (Debian, Ubuntu: NVIDIA's package libnvjitlink-*)"},
    {"libnvrtc", "the CUDA toolkit (Debian, Ubuntu: NVIDIA's package cuda-nvrtc-*)"},
    {"libcudnn", "cuDNN (Debian, Ubuntu: NVIDIA's package libcudnn9-cuda-*)"},
    {"libnccl", "NCCL (Debian, Ubuntu: NVIDIA's package libnccl2)"},
    {"libcuda.", "NVIDIA's driver"},
};

/* Why dlopen failed: its text begins with the library that is missing, or with the file itself. */
static enum status explain(const char *path, const char *text)
{
    if (text == NULL)
        text = "no reason was given";
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strncmp(text, parts[i].begins, strlen(parts[i].begins)) == 0)
            FAIL(STATUS_NOT_FOUND,
                 "the CUDA kernels (%s) can't be loaded: %s. It belongs to %s: install it, or name "
                 "its folder in LD_LIBRARY_PATH; '--backend cpu' does without",
                 path, text, parts[i].part_of);
    FAIL(STATUS_NOT_FOUND,
         "the CUDA kernels can't be loaded: %s; install what it wants, or name its folder in "
         "LD_LIBRARY_PATH; '--backend cpu' does without",
         text);
}

/* Asked first: it says more than the CUDA runtime would, and in no time. */
static enum status find_driver(const char *name)
{
    void *driver = dlopen(name, RTLD_LAZY | RTLD_LOCAL);

    if (driver == NULL)
        FAIL(STATUS_NOT_FOUND,
             "no CUDA device is to be had: NVIDIA's driver is not on this machine (%s); "
             "'--backend cpu' needs none",
             dlerror());
    (void)dlclose(driver);
    return STATUS_OK;
}

enum status kernels_column_load(const struct kernels_column **out,
                                const struct kernels_place *place)
{
    char path[2 * PATH_MAX];

    TRY(find(path, sizeof(path), place->folders));
    if (place->driver != NULL)
        TRY(find_driver(place->driver));
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (file == NULL)
        return explain(path, dlerror());
    kernels_column_fn *column = (kernels_column_fn *)(uintptr_t)dlsym(file, KERNELS_COLUMN_SYMBOL);
    if (column == NULL)
        FAIL(STATUS_MISMATCH, "'%s' is no file of CUDA kernels: it has no symbol '%s'", path,
             KERNELS_COLUMN_SYMBOL);
    const struct kernels_column *found = column(&host);
    if (strncmp(found->interface, KERNELS_INTERFACE, sizeof(found->interface)) != 0)
        FAIL(STATUS_MISMATCH,
             "'%s' was built with other sources than this program (interface %.12s, wanted %.12s): "
             "build or install both at once",
             path, found->interface, KERNELS_INTERFACE);
    *out = found;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ kernels.h */

static enum status load(const struct kernels_column **out)
{
    static const char *const folders[] = {IBOT_COLUMN_FOLDERS, NULL};
    static const struct kernels_place place = {folders, "libcuda.so.1"};

    return kernels_column_load(out, &place);
}

enum status kernels_device_open(struct device *out, int ordinal)
{
    const struct kernels_column *column;

    TRY(load(&column));
    return column->device_open(out, ordinal);
}

enum status kernels_op_table(const struct op_table **out)
{
    const struct kernels_column *column;

    TRY(load(&column));
    return column->op_table(out);
}

enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *ranks)
{
    const struct kernels_column *column;

    TRY(load(&column));
    return column->collective_open(out, device, ranks);
}

enum status kernels_attention_by(struct device *device, enum attention_maker maker)
{
    const struct kernels_column *column;

    TRY(load(&column));
    return column->attention_by(device, maker);
}
