#include "trainer/eval/picture_file.h"

#include <string.h>

#include "loader/image.h"
#include "ops/pixels/opencv_resize.h"
#include "proto/base/memory.h"

struct reader {
    struct image_decoder *decoder;
    struct image image, turned;
};

struct picture_readers {
    struct reader *readers; /* [n] */
    int n;
};

enum status picture_reserve(struct picture *out, int32_t width, int32_t height)
{
    size_t wanted = 3 * (size_t)width * (size_t)height;

    if (wanted > out->n_bytes) {
        picture_release(out);
        TRY(memory_alloc_unset(&out->rgb, wanted, 1, "a picture"));
        out->n_bytes = wanted;
    }
    out->width = width;
    out->height = height;
    return STATUS_OK;
}

void picture_release(struct picture *picture)
{
    memory_free(picture->rgb);
    memset(picture, 0, sizeof(*picture));
}

enum status picture_readers_open(struct picture_readers **out, int n)
{
    struct picture_readers *p = NULL;
    enum status status;

    TRY(image_library_start("ibot-eval"));
    TRY(memory_alloc(&p, 1, sizeof(*p), "decoders"));
    p->n = n;
    TRY_OUT(memory_alloc(&p->readers, (size_t)n, sizeof(*p->readers), "decoders"));
    for (int i = 0; i < n; i++)
        TRY_OUT(image_decoder_open(&p->readers[i].decoder));
    *out = p;
    p = NULL;
out:
    picture_readers_close(&p);
    return status;
}

void picture_readers_close(struct picture_readers **address)
{
    struct picture_readers *p = address != NULL ? *address : NULL;

    if (p == NULL)
        return;
    for (int i = 0; p->readers != NULL && i < p->n; i++) {
        image_decoder_close(&p->readers[i].decoder);
        image_release(&p->readers[i].image);
        image_release(&p->readers[i].turned);
    }
    memory_free(p->readers);
    memory_free(p);
    *address = NULL;
}

enum status picture_read(struct picture_readers *p, int which, struct picture *out,
                         const char *path)
{
    struct image_place place = {.path = path};
    struct reader *r = &p->readers[which];
    const struct image *image = &r->image;

    TRY(image_read(r->decoder, &place, &r->image));
    if (r->image.orientation > 1) {
        TRY(image_turn(&r->turned, &r->image));
        image = &r->turned;
    }
    TRY(picture_reserve(out, image->width, image->height));
    for (size_t y = 0; y < (size_t)image->height; y++)
        for (size_t x = 0; x < (size_t)image->width; x++)
            memcpy(out->rgb + 3 * (y * (size_t)image->width + x), image_pixel(image, x, y), 3);
    return STATUS_OK;
}

enum status picture_resize(struct picture *out, const struct picture *from, int32_t width,
                           int32_t height)
{
    TRY(picture_reserve(out, width, height));
    return opencv_resize(out->rgb, width, height, from->rgb, from->width, from->height);
}
