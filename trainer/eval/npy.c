/* The format: "\x93NUMPY", two bytes of version, the length of a header (two bytes little-endian,
 * four from version 2 on), a Python literal {'descr': '|b1', 'fortran_order': False, 'shape': (224,
 * 224), } and the data. Source: numpy.lib.format. */
#include "trainer/eval/npy.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_HEADER = 65536 };

static const char magic[] = "\x93NUMPY";
enum { MAGIC_BYTES = 6, PREFIX_BYTES = 10 };

struct header {
    char text[MAX_HEADER + 1];
    char kind; /* b i u f */
    size_t size;
    bool fortran;
    long long shape[2];
};

/* What follows 'key': in the header; NULL when it is not there. */
static const char *value_of(const struct header *header, const char *key)
{
    char quoted[32];

    snprintf(quoted, sizeof(quoted), "'%s'", key);
    const char *at = strstr(header->text, quoted);
    if (at == NULL)
        return NULL;
    at += strlen(quoted);
    at += strspn(at, " \t\n");
    if (*at != ':')
        return NULL;
    at++;
    return at + strspn(at, " \t\n");
}

static enum status read_type(struct header *header, const char *name)
{
    const char *descr = value_of(header, "descr");
    char order, kind, end;
    unsigned size;

    if (descr == NULL || sscanf(descr, "'%c%c%2u%c", &order, &kind, &size, &end) != 4 ||
        end != '\'')
        FAIL(STATUS_UNSUPPORTED, "%s: its 'descr' is no plain type: wanted one such as '|b1'",
             name);
    bool whole = (kind == 'b' && size == 1) || ((kind == 'i' || kind == 'u') &&
                                                (size == 1 || size == 2 || size == 4 || size == 8));
    if (strchr("|<>=", order) == NULL || (!whole && !(kind == 'f' && (size == 4 || size == 8))))
        FAIL(STATUS_UNSUPPORTED,
             "%s: its values are of type '%c%c%u'; wanted truth values, integers or floats", name,
             order, kind, size);
    header->kind = kind;
    header->size = size;
    return STATUS_OK;
}

static enum status read_header(struct header *header, const unsigned char *bytes, size_t n_bytes,
                               size_t *data, const char *name)
{
    if (n_bytes < PREFIX_BYTES + 2 || memcmp(bytes, magic, MAGIC_BYTES) != 0)
        FAIL(STATUS_CORRUPT, "%s: it is no .npy file", name);
    size_t prefix = bytes[6] == 1 ? PREFIX_BYTES : PREFIX_BYTES + 2;
    size_t n = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1)
        n |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (bytes[6] < 1 || bytes[6] > 3)
        FAIL(STATUS_UNSUPPORTED, "%s: version %d of the .npy format; wanted 1 to 3", name,
             bytes[6]);
    if (n > MAX_HEADER || n > n_bytes - prefix)
        FAIL(STATUS_CORRUPT, "%s: a header of %zu bytes in a file of %zu", name, n, n_bytes);
    memcpy(header->text, bytes + prefix, n);
    header->text[n] = '\0';
    *data = prefix + n;
    TRY(read_type(header, name));
    const char *fortran = value_of(header, "fortran_order"), *shape = value_of(header, "shape");
    char end;
    if (fortran == NULL || shape == NULL ||
        sscanf(shape, "(%9lld , %9lld %c", &header->shape[0], &header->shape[1], &end) != 3 ||
        end != ')')
        FAIL(STATUS_MISMATCH, "%s: wanted a shape of two numbers and a 'fortran_order'", name);
    header->fortran = strncmp(fortran, "True", 4) == 0;
    return STATUS_OK;
}

/* -0.0 is 0 as well: its sign, wherever the byte order puts it, does not count. */
static bool is_zero(const unsigned char *value, const struct header *header)
{
    size_t n = header->size, set = 0, signs = 0;

    for (size_t i = 0; i < n; i++) {
        set += value[i] != 0;
        signs += (i == 0 || i == n - 1) && value[i] == 0x80;
    }
    return set == 0 || (header->kind == 'f' && set == 1 && signs == 1);
}

enum status npy_mask(uint8_t *mask, int32_t side, const void *bytes, size_t n_bytes,
                     const char *name)
{
    struct header *header;
    size_t data = 0;

    CHECK(side > 0 && side <= NPY_MAX_SIDE);
    TRY(memory_alloc_unset(&header, 1, sizeof(*header), "header"));
    enum status status = read_header(header, bytes, n_bytes, &data, name);
    if (status != STATUS_OK)
        goto out;
    if (header->shape[0] != side || header->shape[1] != side)
        FAIL_OUT(STATUS_MISMATCH, "%s: a mask of %lld x %lld; wanted one of %d x %d, as its image",
                 name, header->shape[0], header->shape[1], side, side);
    size_t n = (size_t)side * (size_t)side;
    if (n_bytes - data != n * header->size)
        FAIL_OUT(STATUS_CORRUPT, "%s: %zu bytes of data; wanted %zu", name, n_bytes - data,
                 n * header->size);
    const unsigned char *values = (const unsigned char *)bytes + data;
    for (size_t i = 0; i < n; i++) {
        size_t to = header->fortran ? i % (size_t)side * (size_t)side + i / (size_t)side : i;
        mask[to] = !is_zero(values + i * header->size, header);
    }
out:
    memory_free(header);
    return status;
}

enum status npy_mask_read(uint8_t *mask, int32_t side, const char *path)
{
    size_t most = (size_t)side * (size_t)side * 8 + MAX_HEADER + PREFIX_BYTES + 2, n;
    unsigned char *bytes = NULL;
    enum status status;
    FILE *file = fopen(path, "rb");

    if (file == NULL)
        FAIL(STATUS_NOT_FOUND, "mask '%s': %s", path, strerror(errno));
    TRY_OUT(memory_alloc_unset(&bytes, most + 1, 1, "mask"));
    n = fread(bytes, 1, most + 1, file);
    if (ferror(file))
        FAIL_OUT(STATUS_IO, "mask '%s' can't be read: %s", path, strerror(errno));
    status = npy_mask(mask, side, bytes, n, path);
out:
    fclose(file);
    memory_free(bytes);
    return status;
}
