/* What an index is collected in, and its form in memory. */
#include "loader/index_internal.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum status index_add_string(struct index_builder *builder, const char *text, uint64_t *offset)
{
    size_t n = strlen(text) + 1;

    TRY(memory_grow(&builder->strings, &builder->string_capacity, builder->n_strings + n, 1,
                    "index paths"));
    memcpy(builder->strings + builder->n_strings, text, n);
    *offset = builder->n_strings;
    builder->n_strings += n;
    return STATUS_OK;
}

enum status index_join(char *out, size_t size, const char *a, const char *b)
{
    const char *slash = a[0] != '\0' && a[strlen(a) - 1] == '/' ? "" : "/";
    int n = a[0] == '\0'   ? snprintf(out, size, "%s", b)
            : b[0] == '\0' ? snprintf(out, size, "%s", a)
                           : snprintf(out, size, "%s%s%s", a, slash, b);
    if (n < 0 || (size_t)n >= size)
        FAIL(STATUS_INVALID, "path '%.100s/%.100s' is longer than %zu bytes", a, b, size - 1);
    return STATUS_OK;
}

enum status index_note_progress(struct index_builder *builder, size_t n)
{
    uint64_t before = builder->n_found / 1000;

    builder->n_found += n;
    if (builder->progress != NULL && builder->n_found / 1000 != before &&
        builder->progress(builder->context, builder->n_found) != 0)
        FAIL(STATUS_INTERRUPTED, "stopped after %llu images", (unsigned long long)builder->n_found);
    return STATUS_OK;
}

enum status index_add_entry(struct index_builder *builder, const struct index_entry *entry)
{
    if (builder->n_entries >= INDEX_MAX_SAMPLES)
        FAIL(STATUS_UNSUPPORTED, "more than %d images in '%s'", INDEX_MAX_SAMPLES, builder->root);
    TRY(memory_grow(&builder->entries, &builder->entry_capacity, builder->n_entries + 1,
                    sizeof(*builder->entries), "index entries"));
    builder->entries[builder->n_entries++] = *entry;
    return STATUS_OK;
}

enum status index_add_folder(struct index_builder *builder, const char *path, int64_t mtime_ns)
{
    TRY(memory_grow(&builder->folders, &builder->folder_capacity, builder->n_folders + 1,
                    sizeof(*builder->folders), "index folders"));
    builder->folders[builder->n_folders].mtime_ns = mtime_ns;
    TRY(index_add_string(builder, path, &builder->folders[builder->n_folders].path));
    builder->n_folders++;
    return STATUS_OK;
}

enum status index_add_class(struct index_builder *builder, const char *name)
{
    TRY(memory_grow(&builder->class_names, &builder->class_capacity, builder->n_classes + 1,
                    sizeof(uint64_t), "class names"));
    TRY(index_add_string(builder, name, &builder->class_names[builder->n_classes]));
    builder->n_classes++;
    return STATUS_OK;
}

enum status index_add_numbered_classes(struct index_builder *builder, int64_t n)
{
    char name[32];

    for (int64_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "%lld", (long long)i);
        TRY(index_add_class(builder, name));
    }
    return STATUS_OK;
}

enum status index_lay_out(const struct index_builder *builder, struct index *out)
{
    size_t entries = builder->n_entries * sizeof(*builder->entries);
    size_t classes = builder->n_classes * sizeof(uint64_t);
    size_t folders = builder->n_folders * sizeof(*builder->folders);
    size_t total = sizeof(struct index_header) + entries + classes + folders + builder->n_strings;
    char *block;
    uint64_t digest = 0;

    TRY(memory_alloc(&block, 1, total, "index"));
    struct index_header *header = (struct index_header *)(void *)block;
    char *at = block + sizeof(*header);
    memcpy(at, builder->entries, entries);
    out->entries = (const struct index_entry *)(void *)at;
    memcpy(at += entries, builder->class_names, classes);
    out->class_names = (const uint64_t *)(void *)at;
    memcpy(at += classes, builder->folders, folders);
    out->folders = (const struct index_folder *)(void *)at;
    memcpy(at += folders, builder->strings, builder->n_strings);
    out->strings = at;
    for (size_t i = 0; i < builder->n_entries; i++) {
        const struct index_entry *entry = &builder->entries[i];
        const char *path = builder->strings + entry->path, *name = builder->strings + entry->name;
        uint64_t numbers[3] = {entry->size, entry->offset, entry->label};
        digest = hash_bytes_seeded(path, strlen(path) + 1, digest);
        if (name[0] != '\0')
            digest = hash_bytes_seeded(name, strlen(name) + 1, digest);
        digest = hash_bytes_seeded(numbers, sizeof(numbers), digest);
    }
    *header = (struct index_header){
        .magic = "IBOTIDX\n",
        .version = INDEX_VERSION,
        .n_classes = (uint32_t)builder->n_classes,
        .base = (uint32_t)builder->base,
        .names = (uint32_t)builder->names,
        .n_samples = builder->n_entries,
        .n_folders = builder->n_folders,
        .strings_bytes = builder->n_strings,
        .root_names = builder->root_names,
        .digest = digest,
        .checksum = hash_bytes(block + sizeof(*header), total - sizeof(*header)),
    };
    out->header = header;
    out->owned = block;
    out->map_bytes = total;
    out->n_ignored = builder->n_ignored;
    return STATUS_OK;
}

void index_builder_release(struct index_builder *builder)
{
    memory_free(builder->entries);
    memory_free(builder->folders);
    memory_free(builder->class_names);
    memory_free(builder->strings);
    memset(builder, 0, sizeof(*builder));
}
