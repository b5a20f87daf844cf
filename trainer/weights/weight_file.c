/* Telling formats apart, listing, reading. */
#include "trainer/weights/weight_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "trainer/weights/mapped_range.h"

enum {
    MAX_DEPTH = 6,          /* of dictionaries; the optimizer's state is four deep */
    MAX_TENSORS = 1 << 18,  /* of a file */
    MAX_VISITS = 1 << 19,   /* of keys: dictionaries may hold one another many times over */
    MAX_GROUP = 512,        /* bytes of keys */
    MAX_GROUPS_IN_TEXT = 8, /* of a message */
};

const char *weight_format_name(enum weight_format format)
{
    static const char *const names[] = {"safetensors", "PyTorch", "PyTorch before 1.6"};
    return names[format];
}

const char *weight_shape_text(int32_t rank, const int64_t *shape, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");

    for (int32_t i = 0; i < rank && used < size; i++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

/* ------------------------------------------------------------------------------ listing */

struct listing {
    struct weight_file *file;
    size_t capacity, n_visits;
};

static enum status entry_add(struct listing *listing, const char *group, const char *name,
                             struct weight_entry **out)
{
    struct weight_file *file = listing->file;

    if (file->n_entries == MAX_TENSORS)
        FAIL(STATUS_UNSUPPORTED, "weights file '%s' has more than %d tensors", file->path,
             MAX_TENSORS);
    TRY(memory_grow(&file->entries, &listing->capacity, file->n_entries + 1, sizeof(*file->entries),
                    "tensors"));
    *out = &file->entries[file->n_entries++];
    TRY(memory_strdup(&(*out)->group, group));
    return memory_strdup(&(*out)->name, name);
}

/* Our checkpoints, and whoever else writes both networks into one flat file. */
static bool has_networks(const struct safetensors *file)
{
    const char *format = safetensors_metadata(file, "format");

    if (format != NULL && strcmp(format, "ibot") == 0)
        return true;
    for (size_t i = 0; i < file->n_entries; i++)
        if (strncmp(file->entries[i].name, "student.", 8) == 0 ||
            strncmp(file->entries[i].name, "teacher.", 8) == 0)
            return true;
    return false;
}

static enum status list_safetensors(struct listing *listing)
{
    const struct safetensors *file = &listing->file->safetensors;
    bool grouped = has_networks(file);

    for (size_t i = 0; i < file->n_entries; i++) {
        const struct safetensors_entry *from = &file->entries[i];
        const char *dot = grouped ? strchr(from->name, '.') : NULL;
        struct weight_entry *entry = NULL;
        char group[64] = "";
        if (dot != NULL && (size_t)(dot - from->name) < sizeof(group))
            snprintf(group, sizeof(group), "%.*s", (int)(dot - from->name), from->name);
        TRY(entry_add(listing, group, group[0] != '\0' ? dot + 1 : from->name, &entry));
        snprintf(entry->type, sizeof(entry->type), "%s", from->file_dtype);
        entry->known = weight_dtype_from_name(from->file_dtype, &entry->dtype);
        entry->rank = from->file_rank;
        memcpy(entry->shape, from->file_shape, sizeof(entry->shape));
        entry->n_bytes = from->n_bytes;
        entry->source = from;
    }
    return STATUS_OK;
}

static enum status list_tensor(struct listing *listing, const char *group, const char *name,
                               const struct pickle_tensor *tensor)
{
    enum weight_dtype dtype = tensor->storage->storage.dtype;
    struct weight_entry *entry = NULL;

    TRY(entry_add(listing, group, name, &entry));
    snprintf(entry->type, sizeof(entry->type), "%s", weight_dtype_name(dtype));
    entry->known = true;
    entry->dtype = dtype;
    entry->rank = tensor->rank;
    memcpy(entry->shape, tensor->shape, sizeof(entry->shape));
    entry->n_bytes = (size_t)tensor->n_elements * weight_dtype_bytes(dtype);
    entry->source = tensor;
    return STATUS_OK;
}

/* The tensors of a dictionary and of those within; a dictionary that holds itself is walked once.
 */
static enum status list_dict(struct listing *listing, struct pickle_value *dict, const char *group,
                             int depth)
{
    char inside[MAX_GROUP], number[24];
    enum status status = STATUS_OK;

    if (depth > MAX_DEPTH || dict->visiting)
        return STATUS_OK;
    dict->visiting = true;
    for (size_t i = 0; i + 1 < dict->sequence.n && status == STATUS_OK; i += 2) {
        const struct pickle_value *key = dict->sequence.items[i];
        struct pickle_value *value = dict->sequence.items[i + 1];
        const char *name = pickle_text(key);
        if (listing->n_visits++ == MAX_VISITS)
            FAIL_OUT(STATUS_UNSUPPORTED, "weights file '%s' has more than %d keys",
                     listing->file->path, MAX_VISITS);
        if (value->kind != PICKLE_TENSOR && value->kind != PICKLE_DICT)
            continue;
        if (key->kind == PICKLE_INT) {
            snprintf(number, sizeof(number), "%" PRId64, key->integer);
            name = number;
        }
        if (name == NULL)
            FAIL_OUT(STATUS_UNSUPPORTED,
                     "weights file '%s': a key in '%s' is %s; wanted texts and whole numbers",
                     listing->file->path, group, pickle_kind_name(key->kind));
        if (value->kind == PICKLE_TENSOR) {
            status = list_tensor(listing, group, name, value->tensor);
            continue;
        }
        if (snprintf(inside, sizeof(inside), "%s%s%s", group, group[0] != '\0' ? "/" : "", name) >=
            (int)sizeof(inside))
            FAIL_OUT(STATUS_UNSUPPORTED, "weights file '%s': its keys are overlong",
                     listing->file->path);
        status = list_dict(listing, value, inside, depth + 1);
    }
out:
    dict->visiting = false;
    return status;
}

static enum status list_pth(struct listing *listing)
{
    struct pickle_value *root = listing->file->pth.object.root;

    if (root->kind == PICKLE_TENSOR)
        return list_tensor(listing, "", "tensor", root->tensor);
    if (root->kind != PICKLE_DICT)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s' holds %s; wanted a dictionary of tensors (a state dict) or of such "
             "dictionaries",
             listing->file->path, pickle_kind_name(root->kind));
    return list_dict(listing, root, "", 0);
}

/* ------------------------------------------------------------------------------ order of names */

static int entry_compare(const struct weight_entry *a, const struct weight_entry *b)
{
    int order = strcmp(a->group, b->group);
    return order != 0 ? order : strcmp(a->name, b->name);
}

static int pointer_compare(const void *left, const void *right)
{
    const struct weight_entry *const *a = left, *const *b = right;
    return entry_compare(*a, *b);
}

/* Entries by group and name; *out is the caller's. */
static enum status sorted(const struct weight_file *file, const struct weight_entry ***out)
{
    const struct weight_entry **order;

    TRY(memory_alloc(&order, file->n_entries, sizeof(struct weight_entry *), "tensors"));
    for (size_t i = 0; i < file->n_entries; i++)
        order[i] = &file->entries[i];
    if (file->n_entries > 1)
        qsort(order, file->n_entries, sizeof(struct weight_entry *), pointer_compare);
    *out = order;
    return STATUS_OK;
}

static enum status check_names_differ(const struct weight_file *file)
{
    const struct weight_entry **order = NULL;
    enum status status = STATUS_OK;

    TRY(sorted(file, &order));
    for (size_t i = 1; i < file->n_entries && status == STATUS_OK; i++)
        if (entry_compare(order[i - 1], order[i]) == 0)
            status = status_set(STATUS_CORRUPT,
                                "weights file '%s': tensor '%s' of '%s' is there "
                                "twice",
                                file->path, order[i]->name, order[i]->group);
    memory_free(order);
    return status;
}

/* ------------------------------------------------------------------------------ files */

static enum status open_as(struct weight_file *file, const char *path)
{
    unsigned char start[PTH_MAGIC_BYTES];
    struct listing listing = {.file = file};
    FILE *stream = fopen(path, "rbe");

    if (stream == NULL)
        FAIL(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
             "weights file '%s' can't be opened: %s", path, strerror(errno));
    size_t n = fread(start, 1, sizeof(start), stream);
    fclose(stream);
    if (pth_looks_like(start, n)) {
        TRY(pth_open(&file->pth, path));
        file->format = file->pth.legacy ? WEIGHT_FORMAT_PTH_LEGACY : WEIGHT_FORMAT_PTH;
        return list_pth(&listing);
    }
    if (n < 9 || start[8] != '{')
        FAIL(STATUS_CORRUPT,
             "'%s' is no file of weights: wanted safetensors, or what torch.save writes (a zip "
             "archive, or the older form)%s",
             path, n >= 2 && start[0] == 0x80 ? "; this is a bare pickle" : "");
    TRY(safetensors_map(&file->safetensors, path));
    return list_safetensors(&listing);
}

enum status weight_file_open(struct weight_file *out, const char *path)
{
    struct weight_file file = {0};
    char inside[4096];
    enum status status;
    struct stat info;

    memset(out, 0, sizeof(*out));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        snprintf(inside, sizeof(inside), "%s/model.safetensors", path);
        if (stat(inside, &info) != 0)
            FAIL(STATUS_NOT_FOUND,
                 "'%s' is a folder without model.safetensors: wanted a file of weights or a "
                 "checkpoint folder",
                 path);
        path = inside;
    }
    TRY(memory_strdup(&file.path, path));
    TRY_OUT(open_as(&file, path));
    TRY_OUT(check_names_differ(&file));
    *out = file;
    memset(&file, 0, sizeof(file));
out:
    weight_file_release(&file);
    return status;
}

void weight_file_release(struct weight_file *file)
{
    if (file == NULL)
        return;
    for (size_t i = 0; i < file->n_entries; i++) {
        memory_free(file->entries[i].group);
        memory_free(file->entries[i].name);
    }
    memory_free(file->entries);
    safetensors_release(&file->safetensors);
    pth_release(&file->pth);
    memory_free(file->path);
    memset(file, 0, sizeof(*file));
}

const struct weight_entry *weight_file_find(const struct weight_file *file, const char *group,
                                            const char *name)
{
    for (size_t i = 0; i < file->n_entries; i++)
        if (strcmp(file->entries[i].name, name) == 0 && strcmp(file->entries[i].group, group) == 0)
            return &file->entries[i];
    return NULL;
}

const struct pickle_value *weight_file_value(const struct weight_file *file, const char *key)
{
    return pickle_find(file->pth.object.root, key);
}

/* ------------------------------------------------------------------------------ groups */

static size_t count_group(const struct weight_file *file, const char *group, const char **own)
{
    size_t n = 0;

    for (size_t i = 0; i < file->n_entries; i++)
        if (strcmp(file->entries[i].group, group) == 0) {
            *own = file->entries[i].group;
            n++;
        }
    return n;
}

/* Length of the first key of a group: "optimizer" of "optimizer/state/0". */
static size_t first_key(const char *group)
{
    return strcspn(group, "/");
}

static bool same_first_key(const char *a, const char *b)
{
    size_t n = first_key(a);
    return n == first_key(b) && strncmp(a, b, n) == 0;
}

const char *weight_file_groups(const struct weight_file *file, char *out, size_t size)
{
    const char *seen[MAX_GROUPS_IN_TEXT];
    size_t used = 0, n_seen = 0;

    out[0] = '\0';
    for (size_t i = 0; i < file->n_entries && used < size; i++) {
        const char *group = file->entries[i].group;
        size_t n = 0, known = 0;
        while (known < n_seen && !same_first_key(seen[known], group))
            known++;
        if (known < n_seen)
            continue;
        if (n_seen == MAX_GROUPS_IN_TEXT) {
            snprintf(out + used, size - used, ", …");
            break;
        }
        seen[n_seen++] = group;
        for (size_t j = i; j < file->n_entries; j++)
            n += same_first_key(file->entries[j].group, group);
        used += (size_t)snprintf(out + used, size - used, "%s'%.*s' (%zu tensors)",
                                 used > 0 ? ", " : "", (int)first_key(group), group, n);
    }
    return out;
}

enum status weight_file_group(const struct weight_file *file, const char *wanted,
                              const char **group)
{
    static const char *const usual[] = {"teacher", "state_dict", "model", "student", ""};
    char there[1024];

    if (file->n_entries == 0)
        FAIL(STATUS_NOT_FOUND, "weights file '%s' holds no tensors", file->path);
    if (wanted != NULL && count_group(file, wanted, group) > 0)
        return STATUS_OK;
    if (wanted != NULL && count_group(file, "", group) == file->n_entries)
        FAIL(STATUS_NOT_FOUND,
             "weights file '%s' has no key '%s': it is flat, %zu tensors without keys; leave the "
             "key out",
             file->path, wanted, file->n_entries);
    if (wanted != NULL)
        FAIL(STATUS_NOT_FOUND, "weights file '%s' has no key '%s'; its keys are: %s", file->path,
             wanted, weight_file_groups(file, there, sizeof(there)));
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (count_group(file, usual[i], group) > 0)
            return STATUS_OK;
    if (count_group(file, file->entries[0].group, group) == file->n_entries)
        return STATUS_OK;
    FAIL(STATUS_NOT_FOUND, "weights file '%s': say which of its keys is meant: %s", file->path,
         weight_file_groups(file, there, sizeof(there)));
}

bool weight_file_option(const struct weight_file *file, const char *name, char *out, size_t size)
{
    const struct pickle_value *value = pickle_find(weight_file_value(file, "args"), name);
    const char *text = NULL;

    if (file->format == WEIGHT_FORMAT_SAFETENSORS)
        text = safetensors_metadata(&file->safetensors, name);
    else if (value != NULL)
        text = pickle_text(value);
    if (text != NULL)
        snprintf(out, size, "%s", text);
    else if (value != NULL)
        pickle_print(value, out, size);
    return text != NULL || value != NULL;
}

/* ------------------------------------------------------------------------------ reading */

enum status weight_file_read(const struct weight_file *file, const struct weight_entry *entry,
                             void *out)
{
    if (!entry->known)
        FAIL(STATUS_UNSUPPORTED, "weights file '%s': tensor '%s' has type %s, which is not read",
             file->path, entry->name, entry->type);
    if (file->format != WEIGHT_FORMAT_SAFETENSORS) {
        /* the archive keeps its place while it reads: not for two threads at once */
        struct pth *pth = (struct pth *)(uintptr_t)&file->pth;
        return pth_read(pth, entry->source, out);
    }
    const struct safetensors_entry *from = entry->source;
    const char *bytes = (const char *)file->safetensors.bytes + from->offset;
    memcpy(out, bytes, entry->n_bytes);
    mapped_range_forget(bytes, entry->n_bytes);
    return STATUS_OK;
}

enum status weight_file_read_f32(const struct weight_file *file, const struct weight_entry *entry,
                                 float *out)
{
    void *bytes = NULL;

    if (!entry->known || !weight_dtype_is_real(entry->dtype))
        FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' has type %s, wanted real numbers",
             file->path, entry->name, entry->type);
    if (entry->dtype == WEIGHT_F32)
        return weight_file_read(file, entry, out);
    TRY(memory_alloc_unset(&bytes, entry->n_bytes, 1, entry->name));
    enum status status = weight_file_read(file, entry, bytes);
    if (status == STATUS_OK)
        weight_dtype_to_f32(out, bytes, entry->dtype,
                            entry->n_bytes / weight_dtype_bytes(entry->dtype));
    memory_free(bytes);
    return status;
}

static enum status read_record(const struct weight_record *record, void *out)
{
    return weight_file_read(record->file, record->entry, out);
}

struct weight_record weight_file_record(const struct weight_file *file,
                                        const struct weight_entry *entry, const char *name)
{
    CHECK(entry->known, "tensor '%s' has type %s", entry->name, entry->type);
    struct weight_record record = {
        .name = name,
        .dtype = entry->dtype,
        .rank = entry->rank,
        .read = read_record,
        .file = file,
        .entry = entry,
    };
    memcpy(record.shape, entry->shape, sizeof(record.shape));
    return record;
}

enum status weight_file_digest(const struct weight_file *file, uint64_t *out)
{
    enum status status = STATUS_OK;
    const struct weight_entry **order = NULL;
    void *bytes = NULL;
    uint64_t digest = 0;

    TRY(sorted(file, &order));
    for (size_t i = 0; i < file->n_entries; i++) {
        const struct weight_entry *entry = order[i];
        digest = hash_bytes_seeded(entry->group, strlen(entry->group) + 1, digest);
        digest = hash_bytes_seeded(entry->name, strlen(entry->name) + 1, digest);
        digest = hash_bytes_seeded(entry->type, strlen(entry->type) + 1, digest);
        digest = hash_bytes_seeded(entry->shape, (size_t)entry->rank * sizeof(int64_t), digest);
        if (file->format == WEIGHT_FORMAT_SAFETENSORS) {
            const struct safetensors_entry *from = entry->source;
            const char *mapped = (const char *)file->safetensors.bytes + from->offset;
            digest = hash_bytes_seeded(mapped, entry->n_bytes, digest);
            mapped_range_forget(mapped, entry->n_bytes);
            continue;
        }
        TRY_OUT(memory_alloc_unset(&bytes, entry->n_bytes, 1, entry->name));
        TRY_OUT(weight_file_read(file, entry, bytes));
        digest = hash_bytes_seeded(bytes, entry->n_bytes, digest);
        memory_free(bytes);
        bytes = NULL;
    }
    *out = digest;
out:
    memory_free(bytes);
    memory_free(order);
    return status;
}
