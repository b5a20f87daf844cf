#include "tests/cuda_emulator/meeting.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace emulator
{
static const uint64_t MAGIC = 0x676e697465656d31u;

static meeting *map_file(int file)
{
    void *map = mmap(nullptr, sizeof(meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return map != MAP_FAILED ? static_cast<meeting *>(map) : nullptr;
}

bool meeting_make(meeting_place *place)
{
    int file = memfd_create("emulator_ranks", MFD_CLOEXEC);

    *place = {MAGIC, 0, (int32_t)getpid(), file};
    if (file < 0 || ftruncate(file, (off_t)sizeof(meeting)) != 0 ||
        getrandom(&place->nonce, sizeof(place->nonce), 0) != (ssize_t)sizeof(place->nonce))
        return false;
    meeting *m = map_file(file);
    if (m == nullptr)
        return false;
    m->nonce = place->nonce;
    meeting_close(m);
    return true;
}

meeting *meeting_open(const meeting_place &place)
{
    char path[64];
    struct stat about;

    if (place.magic != MAGIC)
        return nullptr;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)place.process, (int)place.file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return nullptr;
    bool large = fstat(file, &about) == 0 && about.st_size == (off_t)sizeof(meeting);
    meeting *m = large ? map_file(file) : nullptr;
    close(file);
    if (m == nullptr || m->nonce == place.nonce)
        return m;
    meeting_close(m);
    return nullptr;
}

void meeting_close(meeting *m)
{
    if (m != nullptr)
        munmap(m, sizeof(*m));
}
} // namespace emulator
