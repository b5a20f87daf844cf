/* PBM, PGM and PPM, plain and raw (P1 to P6). Values are scaled from the file's maximum to 255;
 * grey of more than 8 bits is scaled to 65535 and cut off at 255, as Pillow's conversions do. */
#include <math.h>

#include "loader/image_internal.h"

struct reader {
    const uint8_t *at, *end;
};

static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_blanks(struct reader *reader)
{
    while (reader->at < reader->end && (is_blank(*reader->at) || *reader->at == '#')) {
        if (*reader->at == '#')
            while (reader->at < reader->end && *reader->at != '\n')
                reader->at++;
        else
            reader->at++;
    }
}

static enum status read_number(struct reader *reader, uint32_t limit, uint32_t *out)
{
    uint32_t value = 0;
    int n_digits = 0;

    skip_blanks(reader);
    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++) {
        value = value * 10 + (uint32_t)(*reader->at - '0');
        if (++n_digits > 9 || value > limit)
            FAIL(STATUS_CORRUPT, "PNM: a number above %u", limit);
    }
    if (n_digits == 0)
        FAIL(STATUS_CORRUPT, "PNM: %s",
             reader->at == reader->end ? "the file is truncated" : "wanted a number");
    *out = value;
    return STATUS_OK;
}

/* One value of a plain file; bits may stand without blanks between them. */
static enum status read_plain(struct reader *reader, bool bits, uint32_t maximum, uint32_t *out)
{
    if (!bits)
        return read_number(reader, maximum, out);
    skip_blanks(reader);
    if (reader->at == reader->end || (*reader->at != '0' && *reader->at != '1'))
        FAIL(STATUS_CORRUPT, "PNM: wanted 0 or 1");
    *out = *reader->at++ == '1';
    return STATUS_OK;
}

static unsigned scaled(uint32_t value, uint32_t maximum, bool grey)
{
    double top = grey && maximum > 255 ? 65535.0 : 255.0;

    if (maximum == (uint32_t)top)
        return value > 255 ? 255 : value;
    double result = rint((double)value / maximum * top);
    return result > 255.0 ? 255 : (unsigned)result;
}

struct header {
    uint32_t width, height, maximum;
    bool plain, bits;
    size_t n_samples; /* of a pixel */
};

static enum status read_header(struct reader *reader, struct header *header)
{
    char kind = (char)reader->at[1];

    *header = (struct header){.maximum = 1, .plain = kind <= '3', .n_samples = 1};
    header->bits = kind == '1' || kind == '4';
    header->n_samples = kind == '3' || kind == '6' ? 3 : 1;
    reader->at += 2;
    TRY(read_number(reader, IMAGE_MAX_SIDE_PX, &header->width));
    TRY(read_number(reader, IMAGE_MAX_SIDE_PX, &header->height));
    if (!header->bits)
        TRY(read_number(reader, 65535, &header->maximum));
    if (header->maximum == 0)
        FAIL(STATUS_CORRUPT, "PNM: the maximum is 0");
    if (!header->plain) {
        if (reader->at == reader->end || !is_blank(*reader->at))
            FAIL(STATUS_CORRUPT, "PNM: wanted a blank after the header");
        reader->at++;
    }
    return STATUS_OK;
}

/* The values of the pixel in column x, as they are in the file. */
static enum status read_pixel(struct reader *reader, const struct header *header, size_t x,
                              uint32_t *out)
{
    size_t index = x * header->n_samples;

    for (size_t c = 0; c < header->n_samples; c++) {
        if (header->plain)
            TRY(read_plain(reader, header->bits, header->maximum, &out[c]));
        else if (header->bits)
            out[c] = (uint32_t)reader->at[x / 8] >> (7 - x % 8) & 1u;
        else if (header->maximum > 255)
            out[c] = (uint32_t)reader->at[2 * (index + c)] << 8 | reader->at[2 * (index + c) + 1];
        else
            out[c] = reader->at[index + c];
    }
    return STATUS_OK;
}

enum status image_decode_pnm(const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    struct reader reader = {bytes, bytes + n_bytes};
    struct header header;
    uint32_t values[3];

    TRY(read_header(&reader, &header));
    TRY(image_check_size(header.width, header.height));
    size_t memory_left;
    TRY(image_memory_left(header.width, header.height, n_bytes, &memory_left));
    size_t row_bytes = header.plain ? 0
                       : header.bits
                           ? (header.width + 7) / 8
                           : header.width * header.n_samples * (header.maximum > 255 ? 2 : 1);
    size_t left = (size_t)(reader.end - reader.at);
    size_t least = header.plain ? header.width * header.n_samples : row_bytes; /* of a row */
    if (least * header.height > left)
        FAIL(STATUS_CORRUPT, "PNM: the file is truncated: %zu bytes of pixels, wanted %zu", left,
             least * header.height);
    TRY(image_reserve(out, header.width, header.height));
    for (size_t y = 0; y < header.height; y++, reader.at += row_bytes)
        for (size_t x = 0; x < header.width; x++) {
            uint8_t *pixel = image_pixel(out, x, y);
            TRY(read_pixel(&reader, &header, x, values));
            for (size_t c = 0; c < 3; c++) {
                uint32_t value = values[header.n_samples == 3 ? c : 0];
                pixel[c] = header.bits
                               ? (value == 0 ? 255 : 0)
                               : (uint8_t)scaled(value, header.maximum, header.n_samples == 1);
            }
            pixel[3] = 255;
        }
    return STATUS_OK;
}
