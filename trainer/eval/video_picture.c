/* Frames, decoded by a few threads. */
#include "trainer/eval/video_picture.h"

#include <omp.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "trainer/eval/picture_file.h"

/* A thread's: a frame as it is, and resized. */
struct room {
    struct picture frame, resized;
};

struct video_pictures {
    struct picture_readers *files;
    struct room *rooms; /* [n_threads] */
    int n_threads;
};

enum status video_pictures_open(struct video_pictures **out, int n_threads)
{
    struct video_pictures *p = NULL;
    enum status status;

    TRY(memory_alloc(&p, 1, sizeof(*p), "decoders"));
    p->n_threads = n_threads > 0 ? n_threads : omp_get_num_procs();
    TRY_OUT(memory_alloc(&p->rooms, (size_t)p->n_threads, sizeof(*p->rooms), "decoders"));
    TRY_OUT(picture_readers_open(&p->files, p->n_threads));
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
    for (int i = 0; p->rooms != NULL && i < p->n_threads; i++) {
        picture_release(&p->rooms[i].frame);
        picture_release(&p->rooms[i].resized);
    }
    picture_readers_close(&p->files);
    memory_free(p->rooms);
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

enum status video_picture_measure(struct video_pictures *p, struct video_size *out,
                                  const char *path)
{
    struct picture *frame = &p->rooms[0].frame;

    TRY(picture_read(p->files, 0, frame, path));
    *out = (struct video_size){frame->width, frame->height};
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

static enum status read_one(struct video_pictures *p, int thread, float *out, const char *path,
                            struct video_size frame, struct video_size size)
{
    struct room *r = &p->rooms[thread];

    TRY(picture_read(p->files, thread, &r->frame, path));
    if (r->frame.width != frame.width || r->frame.height != frame.height)
        FAIL(STATUS_MISMATCH, "'%s' is %d x %d px, the sequence began with %d x %d", path,
             r->frame.width, r->frame.height, frame.width, frame.height);
    TRY(picture_resize(&r->resized, &r->frame, size.width, size.height));
    normalise(out, r->resized.rgb, size);
    return STATUS_OK;
}

enum status video_pictures_read(struct video_pictures *p, float *out, const char *const *paths,
                                int32_t n, struct video_size frame, struct video_size size)
{
    size_t picture = 3 * (size_t)size.width * (size_t)size.height;
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(dynamic) num_threads(p->n_threads)
    for (int32_t i = 0; i < n; i++)
        first_failure_note(
            &failure, i,
            read_one(p, omp_get_thread_num(), out + (size_t)i * picture, paths[i], frame, size));
    return first_failure_take(&failure);
}
