/* | header name padding | data | header … | directory | zip64 end, locator | end |
 *
 * The padding is an extra field of the header (id FB, which PyTorch uses for the same). Source of
 * the layout: PKWARE's APPNOTE.TXT 6.3. */
#include "trainer/weights/zip_store.h"

#include <string.h>
#include <zlib.h>

#include "proto/base/memory.h"

enum {
    ALIGNMENT = 64,
    MAX_HEADER = 1024,
    LOCAL_HEADER_BYTES = 30,
    FIELD_HEADER_BYTES = 4,
    ZIP64_FIELD_BYTES = 20, /* with its header: two sizes */
    VERSION = 20,
    VERSION_ZIP64 = 45,
    UTF8_FLAG = 0x800,
    DATE = 33, /* 1980-01-01: the same bytes every time */
};

static const uint64_t beyond = 0xffffffff;

/* A header in the making. */
struct block {
    unsigned char bytes[MAX_HEADER];
    size_t n;
};

static void put(struct block *block, uint64_t value, size_t width)
{
    CHECK(block->n + width <= MAX_HEADER, "zip header");
    for (size_t i = 0; i < width; i++)
        block->bytes[block->n++] = (unsigned char)(value >> (8 * i));
}

static void put_text(struct block *block, const char *text)
{
    for (; *text != '\0'; text++)
        put(block, (unsigned char)*text, 1);
}

/* The fields that local headers and the directory have in common. */
static void put_entry(struct block *block, const struct zip_store_entry *entry)
{
    bool large = entry->n_bytes >= beyond;
    uint64_t size = large ? beyond : entry->n_bytes;

    put(block, large ? VERSION_ZIP64 : VERSION, 2);
    put(block, UTF8_FLAG, 2);
    put(block, 0, 2); /* stored */
    put(block, 0, 2); /* time */
    put(block, DATE, 2);
    put(block, entry->crc, 4);
    put(block, size, 4);
    put(block, size, 4);
    put(block, strlen(entry->name), 2);
}

enum status zip_store_open(struct zip_store *out, const char *path)
{
    memset(out, 0, sizeof(*out));
    return atomic_file_open(&out->file, path);
}

static uint32_t sum_of(const void *bytes, size_t n_bytes)
{
    return (uint32_t)crc32_z(crc32_z(0, NULL, 0), bytes, n_bytes);
}

enum status zip_store_add(struct zip_store *zip, const char *name, const void *bytes,
                          size_t n_bytes)
{
    struct block header = {.n = 0};

    CHECK(strlen(name) < MAX_HEADER / 2, "zip entry '%s'", name);
    TRY(memory_grow(&zip->entries, &zip->capacity, zip->n_entries + 1, sizeof(*zip->entries),
                    "zip entries"));
    struct zip_store_entry *entry = &zip->entries[zip->n_entries];
    *entry = (struct zip_store_entry){
        .n_bytes = n_bytes, .header_at = zip->file.at, .crc = sum_of(bytes, n_bytes)};
    TRY(memory_strdup(&entry->name, name));
    zip->n_entries++;

    size_t large = n_bytes >= beyond ? ZIP64_FIELD_BYTES : 0;
    uint64_t data_at =
        entry->header_at + LOCAL_HEADER_BYTES + strlen(name) + large + FIELD_HEADER_BYTES;
    size_t padding = (size_t)(-data_at % ALIGNMENT);
    put(&header, 0x04034b50, 4);
    put_entry(&header, entry);
    put(&header, large + FIELD_HEADER_BYTES + padding, 2);
    put_text(&header, name);
    if (large > 0) {
        put(&header, 1, 2);
        put(&header, 16, 2);
        put(&header, n_bytes, 8);
        put(&header, n_bytes, 8);
    }
    put_text(&header, "FB");
    put(&header, padding, 2);
    for (size_t i = 0; i < padding; i++)
        put(&header, 'Z', 1);
    TRY(atomic_file_write(&zip->file, header.bytes, header.n));
    return atomic_file_write(&zip->file, bytes, n_bytes);
}

static enum status write_directory_entry(struct zip_store *zip, const struct zip_store_entry *entry)
{
    bool large = entry->n_bytes >= beyond, far = entry->header_at >= beyond;
    size_t n_wide = (large ? 2u : 0u) + (far ? 1u : 0u);
    struct block header = {.n = 0};

    put(&header, 0x02014b50, 4);
    put(&header, n_wide > 0 ? VERSION_ZIP64 : VERSION, 2); /* made by */
    put_entry(&header, entry);
    put(&header, n_wide > 0 ? FIELD_HEADER_BYTES + 8 * n_wide : 0, 2);
    put(&header, 0, 2); /* comment */
    put(&header, 0, 2); /* disk */
    put(&header, 0, 2);
    put(&header, 0, 4); /* attributes */
    put(&header, far ? beyond : entry->header_at, 4);
    put_text(&header, entry->name);
    if (n_wide > 0) {
        put(&header, 1, 2);
        put(&header, 8 * n_wide, 2);
        if (large) {
            put(&header, entry->n_bytes, 8);
            put(&header, entry->n_bytes, 8);
        }
        if (far)
            put(&header, entry->header_at, 8);
    }
    return atomic_file_write(&zip->file, header.bytes, header.n);
}

enum status zip_store_commit(struct zip_store *zip)
{
    uint64_t directory_at = zip->file.at, n = zip->n_entries;
    struct block end = {.n = 0};

    for (size_t i = 0; i < zip->n_entries; i++)
        TRY(write_directory_entry(zip, &zip->entries[i]));
    uint64_t end_at = zip->file.at, n_bytes = end_at - directory_at;
    bool wide = directory_at >= beyond || n_bytes >= beyond || n >= 0xffff;
    if (wide) {
        put(&end, 0x06064b50, 4);
        put(&end, 44, 8);
        put(&end, VERSION_ZIP64, 2);
        put(&end, VERSION_ZIP64, 2);
        put(&end, 0, 4);
        put(&end, 0, 4);
        put(&end, n, 8);
        put(&end, n, 8);
        put(&end, n_bytes, 8);
        put(&end, directory_at, 8);
        put(&end, 0x07064b50, 4);
        put(&end, 0, 4);
        put(&end, end_at, 8);
        put(&end, 1, 4);
    }
    put(&end, 0x06054b50, 4);
    put(&end, 0, 2);
    put(&end, 0, 2);
    put(&end, n >= 0xffff ? 0xffff : n, 2);
    put(&end, n >= 0xffff ? 0xffff : n, 2);
    put(&end, n_bytes >= beyond ? beyond : n_bytes, 4);
    put(&end, directory_at >= beyond ? beyond : directory_at, 4);
    put(&end, 0, 2);
    TRY(atomic_file_write(&zip->file, end.bytes, end.n));
    return atomic_file_commit(&zip->file);
}

void zip_store_close(struct zip_store *zip)
{
    if (zip == NULL)
        return;
    for (size_t i = 0; i < zip->n_entries; i++)
        memory_free(zip->entries[i].name);
    memory_free(zip->entries);
    atomic_file_close(&zip->file);
    memset(zip, 0, sizeof(*zip));
}
