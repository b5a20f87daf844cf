/* Reading tensors; the zip container. pth_legacy.c opens old files. */
#include "trainer/weights/pth.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zip.h>

#include "proto/base/memory.h"
#include "trainer/weights/mapped_range.h"
#include "trainer/weights/pth_legacy.h"

enum { MAX_ENTRIES = 1 << 20, MAX_NAME = 512 };

/* Protocol 2, a LONG1 of 10 bytes: the magic number 0x1950a86a20f9469cfc6c. */
static const unsigned char legacy_magic[] = {0x80, 2,    0x8a, 10,   0x6c, 0xfc, 0x9c,
                                             0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

static bool is_legacy(const void *bytes, size_t n_bytes)
{
    return n_bytes >= sizeof(legacy_magic) &&
           memcmp(bytes, legacy_magic, sizeof(legacy_magic)) == 0;
}

bool pth_looks_like(const void *bytes, size_t n_bytes)
{
    return (n_bytes >= 4 && memcmp(bytes, "PK\3\4", 4) == 0) || is_legacy(bytes, n_bytes);
}

/* ------------------------------------------------------------------------------ archive */

static enum status archive_fail(const struct pth *file, const char *what)
{
    zip_error_t *error = zip_get_error(file->archive);
    int system = zip_error_code_zip(error);

    return status_set(system == ZIP_ER_MEMORY                          ? STATUS_NO_MEMORY
                      : system == ZIP_ER_READ || system == ZIP_ER_SEEK ? STATUS_IO
                                                                       : STATUS_CORRUPT,
                      "weights file '%s': %s: %s", file->path, what, zip_error_strerror(error));
}

static enum status archive_open(struct pth *file)
{
    int code = 0;

    file->archive = zip_open(file->path, ZIP_RDONLY, &code);
    if (file->archive != NULL)
        return STATUS_OK;
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    enum status status = status_set(
        code == ZIP_ER_NOENT    ? STATUS_NOT_FOUND
        : code == ZIP_ER_MEMORY ? STATUS_NO_MEMORY
        : code == ZIP_ER_OPEN   ? STATUS_IO
                                : STATUS_CORRUPT,
        "weights file '%s' can't be opened as a PyTorch file (a zip archive): %s; it was cut short "
        "or is damaged",
        file->path, zip_error_strerror(&error));
    zip_error_fini(&error);
    return status;
}

/* Every entry is stored, once, under a name that stays within the archive. */
static enum status check_entry(const struct pth *file, zip_uint64_t i, zip_stat_t *info)
{
    zip_stat_init(info);
    if (zip_stat_index(file->archive, i, 0, info) != 0)
        return archive_fail(file, "an entry can't be read");
    const zip_uint64_t wanted = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
                                ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if ((info->valid & wanted) != wanted)
        FAIL(STATUS_CORRUPT, "weights file '%s': entry %" PRIu64 " says too little of itself",
             file->path, i);
    if (info->comp_method != ZIP_CM_STORE || info->encryption_method != ZIP_EM_NONE)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s': entry '%.200s' is compressed or encrypted; PyTorch stores its "
             "entries as they are, so this is an archive of something else: unpack it first",
             file->path, info->name);
    if (info->comp_size != info->size)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': entry '%.200s' is stored, but its two sizes differ", file->path,
             info->name);
    if (strlen(info->name) >= MAX_NAME || info->name[0] == '/' || strstr(info->name, "..") != NULL)
        FAIL(STATUS_CORRUPT, "weights file '%s': entry '%.200s' has a name that leads elsewhere",
             file->path, info->name);
    if (zip_name_locate(file->archive, info->name, 0) != (zip_int64_t)i)
        FAIL(STATUS_CORRUPT, "weights file '%s': entry '%.200s' is there twice", file->path,
             info->name);
    return STATUS_OK;
}

static bool is_called(const char *name, const char *last)
{
    const char *slash = strchr(name, '/');
    return slash != NULL && strcmp(slash + 1, last) == 0;
}

/* The place of NAME/data.pkl, and the length of "NAME/". */
static enum status find_object(const struct pth *file, zip_uint64_t *object, size_t *prefix_length)
{
    zip_int64_t n = zip_get_num_entries(file->archive, 0);
    bool found = false;
    zip_stat_t info;

    if (n < 0 || n > MAX_ENTRIES)
        FAIL(STATUS_UNSUPPORTED, "weights file '%s' has %" PRId64 " entries; at most %d are read",
             file->path, n, MAX_ENTRIES);
    for (zip_uint64_t i = 0; i < (zip_uint64_t)n; i++) {
        const char *name = zip_get_name(file->archive, i, 0);
        if (name != NULL && is_called(name, "constants.pkl"))
            FAIL(STATUS_UNSUPPORTED,
                 "weights file '%s' is a TorchScript program; wanted the weights alone: save its "
                 "state dict with torch.save",
                 file->path);
    }
    for (zip_uint64_t i = 0; i < (zip_uint64_t)n; i++) {
        TRY(check_entry(file, i, &info));
        if (!is_called(info.name, "data.pkl"))
            continue;
        if (found)
            FAIL(STATUS_CORRUPT, "weights file '%s' has two objects (data.pkl)", file->path);
        found = true;
        *object = i;
        *prefix_length = strlen(info.name) - strlen("data.pkl");
        if (info.size > PICKLE_MAX_BYTES)
            FAIL(STATUS_UNSUPPORTED,
                 "weights file '%s': its data.pkl has %" PRIu64 " bytes; at most %d are read",
                 file->path, (uint64_t)info.size, PICKLE_MAX_BYTES);
    }
    if (!found)
        FAIL(STATUS_CORRUPT, "weights file '%s' is a zip archive without data.pkl: no PyTorch file",
             file->path);
    return STATUS_OK;
}

/* Bytes first .. first+n of an entry; all of it is checked against its sum. */
static enum status entry_read(struct pth *file, zip_uint64_t entry, uint64_t first, uint64_t n,
                              void *out)
{
    enum status status = STATUS_OK;
    zip_file_t *stream = zip_fopen_index(file->archive, entry, 0);
    char *to = out, past;

    if (stream == NULL)
        return archive_fail(file, "an entry can't be opened");
    if (first > 0 && zip_fseek(stream, (zip_int64_t)first, SEEK_SET) != 0)
        FAIL_OUT(STATUS_IO, "weights file '%s': no place %" PRIu64 " in an entry: %s", file->path,
                 first, zip_file_strerror(stream));
    for (uint64_t done = 0; done < n;) {
        uint64_t part = n - done < (1u << 30) ? n - done : 1u << 30;
        zip_int64_t got = zip_fread(stream, to + done, part);
        if (got <= 0)
            FAIL_OUT(got == 0 ? STATUS_CORRUPT : STATUS_IO,
                     "weights file '%s': an entry ends %" PRIu64 " bytes early: %s", file->path,
                     n - done, got == 0 ? "the file was cut short" : zip_file_strerror(stream));
        done += (uint64_t)got;
    }
    /* at its end the archive compares the sum */
    if (first == 0 && zip_fread(stream, &past, 1) < 0)
        FAIL_OUT(STATUS_CORRUPT, "weights file '%s': an entry is damaged: %s", file->path,
                 zip_file_strerror(stream));
out:
    zip_fclose(stream);
    return status;
}

static enum status find_entry(const struct pth *file, const char *name, zip_uint64_t *entry,
                              uint64_t *n_bytes, bool *found)
{
    zip_int64_t i = zip_name_locate(file->archive, name, 0);
    zip_stat_t info;

    *found = i >= 0;
    if (!*found)
        return STATUS_OK;
    TRY(check_entry(file, (zip_uint64_t)i, &info));
    *entry = (zip_uint64_t)i;
    *n_bytes = info.size;
    return STATUS_OK;
}

static enum status check_byte_order(struct pth *file, const char *prefix)
{
    char name[MAX_NAME + 16], order[8] = "";
    zip_uint64_t entry;
    uint64_t n_bytes;
    bool found;

    snprintf(name, sizeof(name), "%sbyteorder", prefix);
    TRY(find_entry(file, name, &entry, &n_bytes, &found));
    if (!found)
        return STATUS_OK; /* older files: little-endian */
    if (n_bytes < sizeof(order))
        TRY(entry_read(file, entry, 0, n_bytes, order));
    if (strcmp(order, "little") != 0)
        FAIL(STATUS_UNSUPPORTED, "weights file '%s': its data are not little-endian", file->path);
    return STATUS_OK;
}

/* Each storage's entry, as large as it says. */
static enum status find_storages(struct pth *file, const char *prefix)
{
    char name[2 * MAX_NAME];

    TRY(memory_alloc(&file->places, file->object.n_storages, sizeof(*file->places), "storages"));
    for (size_t i = 0; i < file->object.n_storages; i++) {
        const struct pickle_storage *storage = &file->object.storages[i]->storage;
        uint64_t wanted = (uint64_t)storage->n_elements * weight_dtype_bytes(storage->dtype);
        uint64_t n_bytes;
        bool found;
        if (snprintf(name, sizeof(name), "%sdata/%s", prefix, storage->key) >= (int)sizeof(name))
            FAIL(STATUS_CORRUPT, "weights file '%s': a storage has an overlong key", file->path);
        TRY(find_entry(file, name, &file->places[i].entry, &n_bytes, &found));
        if (!found)
            FAIL(STATUS_CORRUPT, "weights file '%s' has no entry '%.200s'; it is damaged",
                 file->path, name);
        if (n_bytes < wanted)
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': entry '%.200s' has %" PRIu64 " bytes, wanted %" PRIu64
                 "; it is damaged",
                 file->path, name, n_bytes, wanted);
    }
    return STATUS_OK;
}

static enum status open_archive(struct pth *file)
{
    enum status status;
    char prefix[MAX_NAME], *bytes = NULL;
    zip_uint64_t object = 0;
    size_t prefix_length = 0;
    zip_stat_t info;

    TRY(archive_open(file));
    TRY(find_object(file, &object, &prefix_length));
    TRY(check_entry(file, object, &info));
    memcpy(prefix, info.name, prefix_length);
    prefix[prefix_length] = '\0';
    TRY(check_byte_order(file, prefix));
    TRY(memory_alloc_unset(&bytes, (size_t)info.size, 1, "pickle"));
    TRY_OUT(entry_read(file, object, 0, info.size, bytes));
    TRY_OUT(pickle_load(&file->object, bytes, (size_t)info.size, file->path));
    TRY_OUT(find_storages(file, prefix));
out:
    memory_free(bytes);
    return status;
}

/* ------------------------------------------------------------------------------ files */

enum status pth_open(struct pth *out, const char *path)
{
    struct pth file = {0};
    unsigned char start[PTH_MAGIC_BYTES];
    enum status status;
    struct stat info;
    FILE *stream = fopen(path, "rbe");

    memset(out, 0, sizeof(*out));
    if (stream == NULL)
        FAIL(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
             "weights file '%s' can't be opened: %s", path, strerror(errno));
    size_t n = fread(start, 1, sizeof(start), stream);
    bool regular = fstat(fileno(stream), &info) == 0 && S_ISREG(info.st_mode);
    fclose(stream);
    if (!regular)
        FAIL(STATUS_IO, "weights file '%s' is not a regular file", path);
    TRY(memory_strdup(&file.path, path));
    file.legacy = is_legacy(start, n);
    if (file.legacy)
        TRY_OUT(pth_legacy_open(&file));
    else if (pth_looks_like(start, n))
        TRY_OUT(open_archive(&file));
    else
        FAIL_OUT(STATUS_CORRUPT,
                 "weights file '%s' is no PyTorch file: it begins neither as a zip archive nor as "
                 "torch.save wrote before 1.6",
                 path);
    *out = file;
    memset(&file, 0, sizeof(file));
out:
    pth_release(&file);
    return status;
}

void pth_release(struct pth *file)
{
    if (file == NULL)
        return;
    pickle_release(&file->object);
    memory_free(file->places);
    if (file->archive != NULL)
        zip_discard(file->archive);
    if (file->map != NULL)
        munmap(file->map, file->map_bytes);
    memory_free(file->path);
    memset(file, 0, sizeof(*file));
}

/* ------------------------------------------------------------------------------ tensors */

static bool is_contiguous(const struct pickle_tensor *tensor)
{
    int64_t stride = 1;

    for (int32_t i = tensor->rank; i-- > 0; stride *= tensor->shape[i])
        if (tensor->shape[i] != 1 && tensor->stride[i] != stride)
            return false;
    return true;
}

/* Bytes first .. first+n of a storage. */
static enum status storage_read(struct pth *file, const struct pickle_value *storage,
                                uint64_t first, uint64_t n, void *out)
{
    const struct pth_place *place = &file->places[storage->storage.index];

    if (file->archive != NULL)
        return entry_read(file, place->entry, first, n, out);
    const char *bytes = (const char *)place->bytes + first;
    memcpy(out, bytes, (size_t)n);
    mapped_range_forget(bytes, (size_t)n);
    return STATUS_OK;
}

/* Picks the elements of a strided view out of the range of bytes that covers it. */
static void gather(const struct pickle_tensor *tensor, const char *covering, size_t width,
                   char *out)
{
    int64_t at[WEIGHT_MAX_RANK] = {0}, element = 0;

    for (int64_t i = 0; i < tensor->n_elements; i++) {
        memcpy(out + (size_t)i * width, covering + (size_t)element * width, width);
        for (int32_t d = tensor->rank; d-- > 0;) {
            element += tensor->stride[d];
            if (++at[d] < tensor->shape[d])
                break;
            element -= tensor->stride[d] * tensor->shape[d];
            at[d] = 0;
        }
    }
}

enum status pth_read(struct pth *file, const struct pickle_tensor *tensor, void *out)
{
    size_t width = weight_dtype_bytes(tensor->storage->storage.dtype);
    uint64_t first = (uint64_t)tensor->offset * width, n_covered = 1;
    char *covering = NULL;

    if (tensor->n_elements == 0)
        return STATUS_OK;
    if (is_contiguous(tensor))
        return storage_read(file, tensor->storage, first, (uint64_t)tensor->n_elements * width,
                            out);
    for (int32_t i = 0; i < tensor->rank; i++)
        n_covered += (uint64_t)(tensor->shape[i] - 1) * (uint64_t)tensor->stride[i];
    TRY(memory_alloc_unset(&covering, (size_t)n_covered, width, "strided tensor"));
    enum status status = storage_read(file, tensor->storage, first, n_covered * width, covering);
    if (status == STATUS_OK)
        gather(tensor, covering, width, out);
    memory_free(covering);
    return status;
}
