/* Frames, decoded by a few threads with the loader's own code: they come in order, in one piece and
 * as rectangles, which is not what loaders make. */
#include "trainer/eval/video_picture.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "loader/image.h"
#include "ops/pixels/opencv_resize.h"
#include "proto/base/first_failure.h"
#include "proto/base/memory.h"

struct reader {
    struct image_decoder *decoder;
    struct image image, turned;
    uint8_t *rgb, *resized;
    size_t rgb_bytes, resized_bytes; /* there is room for */
};

struct video_pictures {
    struct reader *readers; /* [n_threads] */
    int n_threads;
};

enum status video_pictures_open(struct video_pictures **out, int n_threads)
{
    struct video_pictures *p = NULL;
    enum status status;

    TRY(image_library_start("ibot-eval"));
    TRY(memory_alloc(&p, 1, sizeof(*p), "decoders"));
    p->n_threads = n_threads > 0 ? n_threads : omp_get_num_procs();
    TRY_OUT(memory_alloc(&p->readers, (size_t)p->n_threads, sizeof(*p->readers), "decoders"));
    for (int i = 0; i < p->n_threads; i++)
        TRY_OUT(image_decoder_open(&p->readers[i].decoder));
    *out = p;
    p = NULL;
out:
    video_pictures_close(&p);
    return status;
}

void video_pictures_close(struct video_pictures **address)
{
    struct video_pictures *p = address != NULL ? *address : NULL;

    if (p == NULL)
        return;
    for (int i = 0; p->readers != NULL && i < p->n_threads; i++) {
        struct reader *r = &p->readers[i];
        image_decoder_close(&r->decoder);
        image_release(&r->image);
        image_release(&r->turned);
        memory_free(r->rgb);
        memory_free(r->resized);
    }
    memory_free(p->readers);
    memory_free(p);
    *address = NULL;
}

struct video_size video_picture_size(struct video_size frame, int32_t side_px)
{
    int64_t shorter = frame.width < frame.height ? frame.width : frame.height;
    int64_t longer = frame.width < frame.height ? frame.height : frame.width;
    int32_t other = (int32_t)(side_px * longer / (64 * shorter) * 64);

    return frame.height > frame.width ? (struct video_size){side_px, other}
                                      : (struct video_size){other, side_px};
}

/* ------------------------------------------------------------------------------ reading */

/* *upright: the frame, turned as its file says. */
static enum status decode(struct reader *r, const struct image **upright, const char *path)
{
    struct image_place place = {.path = path};

    TRY(image_read(r->decoder, &place, &r->image));
    *upright = &r->image;
    if (r->image.orientation > 1) {
        TRY(image_turn(&r->turned, &r->image));
        *upright = &r->turned;
    }
    return STATUS_OK;
}

enum status video_picture_measure(struct video_pictures *p, struct video_size *out,
                                  const char *path)
{
    const struct image *image;

    TRY(decode(&p->readers[0], &image, path));
    *out = (struct video_size){image->width, image->height};
    return STATUS_OK;
}

static enum status make_room(uint8_t **bytes, size_t *n_bytes, struct video_size size)
{
    size_t wanted = 3 * (size_t)size.width * (size_t)size.height;

    if (wanted <= *n_bytes)
        return STATUS_OK;
    memory_free(*bytes);
    *bytes = NULL;
    *n_bytes = 0;
    TRY(memory_alloc_unset(bytes, wanted, 1, "a frame"));
    *n_bytes = wanted;
    return STATUS_OK;
}

/* out [3, height, width] from rgb [height, width, 3], in float32 as the original does it. */
static void normalise(float *out, const uint8_t *rgb, struct video_size size)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.228f, 0.224f, 0.225f};
    int64_t n = (int64_t)size.width * size.height;
    float table[3][256];

    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)v / 255.0f - mean[c]) / deviation[c];
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++)
            out[c * n + i] = table[c][rgb[3 * i + c]];
}

static enum status read_one(struct reader *r, float *out, const char *path, struct video_size frame,
                            struct video_size size)
{
    const struct image *image;

    TRY(decode(r, &image, path));
    if (image->width != frame.width || image->height != frame.height)
        FAIL(STATUS_MISMATCH, "'%s' is %d x %d px, the sequence began with %d x %d", path,
             image->width, image->height, frame.width, frame.height);
    TRY(make_room(&r->rgb, &r->rgb_bytes, frame));
    TRY(make_room(&r->resized, &r->resized_bytes, size));
    for (size_t y = 0; y < (size_t)frame.height; y++)
        for (size_t x = 0; x < (size_t)frame.width; x++)
            memcpy(r->rgb + 3 * (y * (size_t)frame.width + x), image_pixel(image, x, y), 3);
    TRY(opencv_resize(r->resized, size.width, size.height, r->rgb, frame.width, frame.height));
    normalise(out, r->resized, size);
    return STATUS_OK;
}

enum status video_pictures_read(struct video_pictures *p, float *out, const char *const *paths,
                                int32_t n, struct video_size frame, struct video_size size)
{
    size_t picture = 3 * (size_t)size.width * (size_t)size.height;
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(dynamic) num_threads(p->n_threads)
    for (int32_t i = 0; i < n; i++) {
        struct reader *reader = &p->readers[omp_get_thread_num()];
        first_failure_note(&failure, i,
                           read_one(reader, out + (size_t)i * picture, paths[i], frame, size));
    }
    return first_failure_take(&failure);
}
