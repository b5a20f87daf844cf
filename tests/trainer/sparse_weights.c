/* Headers by hand, data by ftruncate. */
#include "tests/trainer/sparse_weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

/* ------------------------------------------------------------------------------ tables */

void table_add(struct table *table, const char *name, const char *type, int rank,
               const int64_t *shape)
{
    table->rows = realloc(table->rows, (table->n + 1) * sizeof(*table->rows));
    assert_non_null(table->rows);
    struct table_row *row = &table->rows[table->n++];
    memset(row, 0, sizeof(*row));
    snprintf(row->name, sizeof(row->name), "%s", name);
    snprintf(row->type, sizeof(row->type), "%s", type);
    row->rank = rank;
    memcpy(row->shape, shape, (size_t)rank * sizeof(int64_t));
}

struct table table_read(const char *path)
{
    FILE *file = fopen(path, "r");
    struct table table = {0};
    char line[512];

    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        char *name = strtok(line, " \n"), *type = strtok(NULL, " \n"), *size;
        int64_t shape[4];
        int rank = 0;
        while ((size = strtok(NULL, " \n")) != NULL && rank < 4)
            shape[rank++] = strtoll(size, NULL, 10);
        assert_non_null(type);
        table_add(&table, name, type, rank, shape);
    }
    fclose(file);
    assert_true(table.n > 0);
    return table;
}

const struct table_row *table_find(const struct table *table, const char *name)
{
    for (size_t i = 0; i < table->n; i++)
        if (strcmp(table->rows[i].name, name) == 0)
            return &table->rows[i];
    return NULL;
}

void table_release(struct table *table)
{
    free(table->rows);
    memset(table, 0, sizeof(*table));
}

/* ------------------------------------------------------------------------------ safetensors */

int64_t sparse_safetensors(const char *path, const struct table *table)
{
    FILE *file = fopen(path, "wb");
    int64_t at = 0;
    uint64_t length;

    assert_non_null(file);
    fwrite("01234567{", 1, 9, file);
    for (size_t i = 0; i < table->n; i++) {
        const struct table_row *row = &table->rows[i];
        int64_t n = strcmp(row->type, "I64") == 0 ? 8 : 4;
        fprintf(file, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i > 0 ? "," : "", row->name,
                row->type);
        for (int d = 0; d < row->rank; n *= row->shape[d++])
            fprintf(file, "%s%lld", d > 0 ? "," : "", (long long)row->shape[d]);
        fprintf(file, "],\"data_offsets\":[%lld,%lld]}", (long long)at, (long long)(at + n));
        at += n;
    }
    fputc('}', file);
    length = (uint64_t)ftell(file) - 8;
    rewind(file);
    fwrite(&length, sizeof(length), 1, file);
    fflush(file);
    assert_int_equal(ftruncate(fileno(file), (off_t)(8 + length) + at), 0);
    assert_int_equal(fclose(file), 0);
    return 8 + (int64_t)length + at;
}

/* ------------------------------------------------------------------------------ PyTorch */

static const float last[4] = {1, 2, 3, 4};

struct bytes {
    unsigned char data[4096];
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    assert_true(b->n + n <= sizeof(b->data));
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_number(struct bytes *b, uint64_t value, size_t width)
{
    put(b, &value, width); /* little-endian, as every machine that tests run on */
}

static void put_text(struct bytes *b, const char *text)
{
    put(b, "X", 1);
    put_number(b, strlen(text), 4);
    put(b, text, strlen(text));
}

static void put_long(struct bytes *b, int64_t value)
{
    put(b, "\x8a\x08", 2);
    put_number(b, (uint64_t)value, 8);
}

static void put_tensor(struct bytes *b, const char *name, const char *key, int64_t n)
{
    static const char rebuild[] = "ctorch._utils\n_rebuild_tensor_v2\n((";
    static const char storage[] = "ctorch\nFloatStorage\n";

    put_text(b, name);
    put(b, rebuild, sizeof(rebuild) - 1);
    put_text(b, "storage");
    put(b, storage, sizeof(storage) - 1);
    put_text(b, key);
    put_text(b, "cpu");
    put_long(b, n);
    put(b, "tQK\0", 4);
    put_long(b, n);
    put(b, "\x85K\1\x85\x89NtR", 8);
}

static void put_object(struct bytes *b, int64_t n)
{
    put(b, "\x80\2}(", 4);
    put_tensor(b, "large", "0", n);
    put_tensor(b, "last", "1", 4);
    put(b, "u.", 2);
}

void sparse_legacy(const char *path, int64_t n)
{
    static const char preamble[] = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                                   "\x80\2M\xe9\3.\x80\2}";
    FILE *file = fopen(path, "wb");
    struct bytes b = {.n = 0};

    assert_non_null(file);
    put(&b, preamble, sizeof(preamble) - 1);
    put_text(&b, "little_endian");
    put(&b, "\x88s.", 3);
    put_object(&b, n);
    put(&b, "\x80\2](", 4);
    put_text(&b, "0");
    put_text(&b, "1");
    put(&b, "e.", 2);
    put_number(&b, (uint64_t)n, 8);
    fwrite(b.data, 1, b.n, file);
    assert_int_equal(fseek(file, n * 4, SEEK_CUR), 0);
    b.n = 0;
    put_number(&b, 4, 8);
    put(&b, last, sizeof(last));
    fwrite(b.data, 1, b.n, file);
    assert_int_equal(fclose(file), 0);
}

struct member {
    const char *name;
    uint64_t at, n;
    uint32_t crc;
};

/* Local header (central false) or directory entry; sizes in the zip64 form always. */
static void put_member(struct bytes *b, const struct member *m, int central)
{
    put_number(b, central ? 0x02014b50 : 0x04034b50, 4);
    if (central)
        put_number(b, 45, 2);
    put_number(b, 45, 2);
    put_number(b, 0, 2);
    put_number(b, 0, 2);
    put_number(b, 0, 4);
    put_number(b, m->crc, 4);
    put_number(b, 0xffffffff, 4);
    put_number(b, 0xffffffff, 4);
    put_number(b, strlen(m->name), 2);
    put_number(b, central ? 28 : 20, 2);
    if (central) {
        put_number(b, 0, 2);
        put_number(b, 0, 4);
        put_number(b, 0, 4);
        put_number(b, 0xffffffff, 4);
    }
    put(b, m->name, strlen(m->name));
    put_number(b, 1, 2);
    put_number(b, central ? 24 : 16, 2);
    put_number(b, m->n, 8);
    put_number(b, m->n, 8);
    if (central)
        put_number(b, m->at, 8);
}

/* The sum of n zeros, by doubling. */
static uint32_t sum_of_zeros(uint64_t n)
{
    static const unsigned char zero[1];
    uLong all = crc32(0, NULL, 0), power = crc32(crc32(0, NULL, 0), zero, 1);
    z_off64_t length = 1;

    for (; n > 0; n /= 2, length *= 2) {
        if (n % 2 == 1)
            all = crc32_combine64(all, power, length);
        power = crc32_combine64(power, power, length);
    }
    return (uint32_t)all;
}

void sparse_archive(const char *path, int64_t n)
{
    struct bytes object = {.n = 0}, b = {.n = 0};
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    put_object(&object, n);
    const void *data[] = {object.data, NULL, last};
    struct member members[] = {
        {"big/data.pkl", 0, object.n, (uint32_t)crc32(0, object.data, (uInt)object.n)},
        {"big/data/0", 0, (uint64_t)n * 4, sum_of_zeros((uint64_t)n * 4)},
        {"big/data/1", 0, sizeof(last), (uint32_t)crc32(0, (const void *)last, sizeof(last))},
    };
    for (int i = 0; i < 3; i++) {
        members[i].at = (uint64_t)ftell(file);
        b.n = 0;
        put_member(&b, &members[i], 0);
        fwrite(b.data, 1, b.n, file);
        if (data[i] != NULL)
            fwrite(data[i], 1, members[i].n, file);
        else
            assert_int_equal(fseek(file, (long)members[i].n, SEEK_CUR), 0);
    }
    uint64_t directory = (uint64_t)ftell(file);
    b.n = 0;
    for (int i = 0; i < 3; i++)
        put_member(&b, &members[i], 1);
    uint64_t length = b.n;
    put_number(&b, 0x06064b50, 4);
    put_number(&b, 44, 8);
    put_number(&b, 45, 2);
    put_number(&b, 45, 2);
    put_number(&b, 0, 8);
    put_number(&b, 3, 8);
    put_number(&b, 3, 8);
    put_number(&b, length, 8);
    put_number(&b, directory, 8);
    put_number(&b, 0x07064b50, 4);
    put_number(&b, 0, 4);
    put_number(&b, directory + length, 8);
    put_number(&b, 1, 4);
    put_number(&b, 0x06054b50, 4);
    put_number(&b, 0, 4);
    put_number(&b, 3, 2);
    put_number(&b, 3, 2);
    put_number(&b, 0xffffffff, 4);
    put_number(&b, 0xffffffff, 4);
    put_number(&b, 0, 2);
    fwrite(b.data, 1, b.n, file);
    assert_int_equal(fclose(file), 0);
}
