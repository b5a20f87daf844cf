#include "tests/cuda_emulator/executed.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unordered_set>

#include "tests/cuda_emulator/report.h"

namespace emulator
{
static void append_line(const char *folder, const char *line, size_t bytes)
{
    char path[PATH_MAX];

    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        fail("IBOT_EMULATOR_KERNELS: %s: %s", folder, strerror(errno));
    snprintf(path, sizeof(path), "%s/%d", folder, (int)getpid());
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0 || write(file, line, bytes) != (ssize_t)bytes || close(file) != 0)
        fail("IBOT_EMULATOR_KERNELS: %s: %s", path, strerror(errno));
}

void note_executed(const char *name, const void *kernel)
{
    static const char *const folder = getenv("IBOT_EMULATOR_KERNELS");
    static std::unordered_set<const void *> noted;
    char object[PATH_MAX] = "", line[PATH_MAX + 64];
    struct link_map *map = nullptr;
    void *found = nullptr;
    Dl_info info;

    if (folder == nullptr || *folder == '\0' || !noted.insert(kernel).second)
        return;
    if (dladdr1(kernel, &info, &found, RTLD_DL_LINKMAP) == 0 || found == nullptr)
        fail("kernel '%s' at %p lies in no object", name, kernel);
    map = static_cast<struct link_map *>(found);
    if (map->l_name[0] != '\0')
        snprintf(object, sizeof(object), "%s", map->l_name);
    else if (readlink("/proc/self/exe", object, sizeof(object) - 1) < 0)
        fail("/proc/self/exe: %s", strerror(errno));
    int n = snprintf(line, sizeof(line), "%016llx %s\n",
                     (unsigned long long)((uintptr_t)kernel - map->l_addr), object);
    append_line(folder, line, (size_t)n);
}
} // namespace emulator
