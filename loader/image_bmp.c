/* BMP, uncompressed: 1, 4, 8 bits with a palette, 16 (5-5-5, 5-6-5), 24 and 32 bits. */
#include "loader/image_internal.h"

enum {
    FILE_HEADER_BYTES = 14,
    OS2_HEADER_BYTES = 12,
    INFO_HEADER_BYTES = 40,
    PLAIN = 0, /* values of the field "compression" */
    BITFIELDS = 3,
};

struct bmp {
    int64_t width, height;
    bool top_down;
    unsigned bits;
    uint32_t masks[3]; /* red, green, blue; 16 and 32 bits */
    uint8_t palette[256][3];
    size_t data, stride; /* bytes */
};

static uint32_t u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

static enum status read_palette(const uint8_t *bytes, size_t n_bytes, size_t start, size_t n_used,
                                size_t entry_bytes, struct bmp *bmp)
{
    size_t n = n_used == 0 || n_used > (1u << bmp->bits) ? 1u << bmp->bits : n_used;

    if (start + n * entry_bytes > n_bytes)
        FAIL(STATUS_CORRUPT, "the palette of %zu colours is cut off", n);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            bmp->palette[i][c] = bytes[start + i * entry_bytes + 2 - c];
    return STATUS_OK;
}

static enum status read_masks(const uint8_t *bytes, size_t n_bytes, uint32_t compression,
                              struct bmp *bmp)
{
    static const uint32_t masks_555[3] = {0x7c00, 0x3e0, 0x1f},
                          masks_565[3] = {0xf800, 0x7e0, 0x1f},
                          masks_888[3] = {0xff0000, 0xff00, 0xff};
    const uint32_t *plain = bmp->bits == 16 ? masks_555 : masks_888;

    for (size_t c = 0; c < 3; c++)
        bmp->masks[c] = plain[c];
    if (compression == PLAIN)
        return STATUS_OK;
    if (n_bytes < FILE_HEADER_BYTES + INFO_HEADER_BYTES + 12)
        FAIL(STATUS_CORRUPT, "the colour masks are cut off");
    for (size_t c = 0; c < 3; c++)
        bmp->masks[c] = u32(bytes + FILE_HEADER_BYTES + INFO_HEADER_BYTES + 4 * c);
    for (size_t c = 0; c < 3; c++) {
        uint32_t mask = bmp->masks[c];
        bool byte = mask == 0xff || mask == 0xff00 || mask == 0xff0000 || mask == 0xff000000u;
        if (bmp->bits == 16 ? mask != masks_555[c] && mask != masks_565[c] : !byte)
            FAIL(STATUS_UNSUPPORTED, "colour mask %08x; wanted 5-5-5, 5-6-5 or whole bytes", mask);
    }
    return STATUS_OK;
}

static enum status read_header(const uint8_t *bytes, size_t n_bytes, struct bmp *bmp)
{
    uint32_t compression = PLAIN, n_used = 0;

    if (n_bytes < FILE_HEADER_BYTES + OS2_HEADER_BYTES)
        FAIL(STATUS_CORRUPT, "the header is cut off");
    uint32_t header_bytes = u32(bytes + FILE_HEADER_BYTES);
    const uint8_t *fields = bytes + FILE_HEADER_BYTES + 4;
    bool os2 = header_bytes == OS2_HEADER_BYTES;
    if (os2) {
        bmp->width = u16(fields);
        bmp->height = u16(fields + 2);
        bmp->bits = u16(fields + 6);
    } else if (header_bytes >= INFO_HEADER_BYTES && header_bytes <= 124 &&
               n_bytes >= FILE_HEADER_BYTES + INFO_HEADER_BYTES) {
        bmp->width = (int32_t)u32(fields);
        bmp->height = (int32_t)u32(fields + 4);
        bmp->bits = u16(fields + 10);
        compression = u32(fields + 12);
        n_used = u32(fields + 28);
    } else {
        FAIL(STATUS_CORRUPT, "a header of %u bytes; wanted 12 or 40 to 124", header_bytes);
    }
    bmp->top_down = bmp->height < 0;
    bmp->height = bmp->top_down ? -bmp->height : bmp->height;
    if (bmp->bits != 1 && bmp->bits != 4 && bmp->bits != 8 && bmp->bits != 16 && bmp->bits != 24 &&
        bmp->bits != 32)
        FAIL(STATUS_CORRUPT, "%u bits in a pixel", bmp->bits);
    if (compression != PLAIN && !(compression == BITFIELDS && (bmp->bits == 16 || bmp->bits == 32)))
        FAIL(STATUS_UNSUPPORTED, "compression %u; wanted none", compression);
    bmp->data = u32(bytes + 10);
    if (bmp->bits <= 8)
        return read_palette(bytes, n_bytes, FILE_HEADER_BYTES + (size_t)header_bytes, n_used,
                            os2 ? 3 : 4, bmp);
    return read_masks(bytes, n_bytes, compression, bmp);
}

/* The bits under a mask, to 0..255. */
static unsigned part(uint32_t value, uint32_t mask)
{
    unsigned top = mask >> __builtin_ctz(mask);

    return ((value & mask) >> __builtin_ctz(mask)) * 255 / top;
}

static void read_row(const struct bmp *bmp, const uint8_t *row, struct image *out, size_t y)
{
    for (size_t x = 0; x < (size_t)bmp->width; x++) {
        uint8_t *pixel = image_pixel(out, x, y);
        if (bmp->bits <= 8) {
            size_t first = x * bmp->bits;
            unsigned shift = 8 - bmp->bits - (unsigned)(first % 8);
            unsigned number = (unsigned)row[first / 8] >> shift & ((1u << bmp->bits) - 1);
            const uint8_t *colour = bmp->palette[number];
            image_put(pixel, colour[0], colour[1], colour[2]);
        } else if (bmp->bits == 24) {
            image_put(pixel, row[3 * x + 2], row[3 * x + 1], row[3 * x]);
        } else {
            uint32_t value = bmp->bits == 16 ? u16(row + 2 * x) : u32(row + 4 * x);
            image_put(pixel, part(value, bmp->masks[0]), part(value, bmp->masks[1]),
                      part(value, bmp->masks[2]));
        }
    }
}

enum status image_decode_bmp(const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    struct bmp bmp = {0};
    size_t left;

    enum status status = read_header(bytes, n_bytes, &bmp);

    if (status != STATUS_OK)
        return status_set(status, "BMP: %s", status_message());
    TRY(image_check_size(bmp.width, bmp.height));
    TRY(image_memory_left(bmp.width, bmp.height, n_bytes, &left));
    bmp.stride = ((size_t)bmp.width * bmp.bits + 31) / 32 * 4;
    if (bmp.data > n_bytes || (n_bytes - bmp.data) / bmp.stride < (size_t)bmp.height)
        FAIL(STATUS_CORRUPT, "BMP: the file is truncated: %zu bytes for %lld rows of %zu", n_bytes,
             (long long)bmp.height, bmp.stride);
    TRY(image_reserve(out, bmp.width, bmp.height));
    for (int32_t y = 0; y < out->height; y++) {
        int32_t from = bmp.top_down ? y : out->height - 1 - y;
        read_row(&bmp, bytes + bmp.data + (size_t)from * bmp.stride, out, (size_t)y);
    }
    return STATUS_OK;
}
