#include "trainer/eval/scene_crop.h"

#include <math.h>
#include <string.h>

#include "ops/pixels/opencv_hsv.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"

enum { TRIES = 10, HUE_REACH = 18 };

/* ------------------------------------------------------------------------------ sizes */

struct scene_size scene_size_within(int32_t width, int32_t height, int32_t short_px,
                                    int32_t long_px)
{
    int32_t shorter = width < height ? width : height, longer = width < height ? height : width;
    double by_long = (double)long_px / longer, by_short = (double)short_px / shorter;
    double scale = by_long < by_short ? by_long : by_short;
    struct scene_size size = {(int32_t)(width * scale + 0.5), (int32_t)(height * scale + 0.5)};

    return (struct scene_size){size.width > 0 ? size.width : 1, size.height > 0 ? size.height : 1};
}

static int32_t nearest(int32_t at, double scale, int32_t n)
{
    int32_t from = (int32_t)floor(at * scale);

    return from < n ? from : n - 1;
}

void scene_labels_resize(uint8_t *to, struct scene_size size, const uint8_t *from, int32_t width,
                         int32_t height)
{
    double across = 1.0 / ((double)size.width / width), down = 1.0 / ((double)size.height / height);

    for (int32_t y = 0; y < size.height; y++) {
        const uint8_t *row = from + (int64_t)nearest(y, down, height) * width;
        for (int32_t x = 0; x < size.width; x++)
            *to++ = row[nearest(x, across, width)];
    }
}

/* ------------------------------------------------------------------------------ place */

struct box {
    int32_t left, top, width, height;
};

static bool is_varied(const uint8_t *labels, int32_t width, const struct box *box, double most)
{
    int64_t counts[256] = {0}, all = 0, greatest = 0;

    for (int32_t y = box->top; y < box->top + box->height; y++)
        for (int32_t x = box->left; x < box->left + box->width; x++)
            counts[labels[(int64_t)y * width + x]]++;
    for (int i = 0; i < SCENE_IGNORED; i++) {
        all += counts[i];
        greatest = counts[i] > greatest ? counts[i] : greatest;
    }
    return (double)greatest < most * (double)all;
}

static struct box draw_box(struct rng *rng, struct scene_size size, int32_t crop)
{
    int32_t down = size.height > crop ? size.height - crop : 0;
    int32_t across = size.width > crop ? size.width - crop : 0;
    int32_t top = (int32_t)rng_below(rng, (uint32_t)down + 1);
    int32_t left = (int32_t)rng_below(rng, (uint32_t)across + 1);

    return (struct box){left, top, size.width - across, size.height - down};
}

static struct box choose_box(struct rng *rng, struct scene_size size, const uint8_t *labels,
                             const struct scene_crop_options *o)
{
    struct box box = draw_box(rng, size, o->crop_px);

    for (int i = 0; i < TRIES && o->most < 1.0; i++) {
        if (is_varied(labels, size.width, &box, o->most))
            break;
        box = draw_box(rng, size, o->crop_px);
    }
    return box;
}

/* ------------------------------------------------------------------------------ colours */

static uint8_t changed(float value, float factor, float summand)
{
    value = value * factor;
    value = value + summand;
    return (uint8_t)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
}

static void change_all(uint8_t *rgb, int64_t n, float factor, float summand)
{
    uint8_t table[256];

    for (int i = 0; i < 256; i++)
        table[i] = changed((float)i, factor, summand);
    for (int64_t i = 0; i < 3 * n; i++)
        rgb[i] = table[rgb[i]];
}

void scene_colours_apply(uint8_t *rgb, int64_t n, const struct scene_colours *c)
{
    uint8_t table[256];

    if (c->brightness != 0.0f)
        change_all(rgb, n, 1.0f, c->brightness);
    if (!c->contrast_last && c->contrast != 1.0f)
        change_all(rgb, n, c->contrast, 0.0f);
    for (int i = 0; i < 256 && c->saturates; i++)
        table[i] = changed((float)i, c->saturation, 0.0f);
    if (c->saturates)
        opencv_hsv_saturate(rgb, (size_t)n, table);
    if (c->shifts)
        opencv_hsv_shift(rgb, (size_t)n, c->hue);
    if (c->contrast_last && c->contrast != 1.0f)
        change_all(rgb, n, c->contrast, 0.0f);
}

/* Each with probability one half, as mmsegmentation has it. */
struct scene_colours scene_colours_draw(struct rng *rng)
{
    struct scene_colours c = {.contrast = 1.0f, .saturation = 1.0f};

    if (rng_below(rng, 2) == 1)
        c.brightness = (float)rng_range(rng, -32.0, 32.0);
    c.contrast_last = rng_below(rng, 2) == 0;
    if (rng_below(rng, 2) == 1)
        c.contrast = (float)rng_range(rng, 0.5, 1.5);
    c.saturates = rng_below(rng, 2) == 1;
    if (c.saturates)
        c.saturation = (float)rng_range(rng, 0.5, 1.5);
    c.shifts = rng_below(rng, 2) == 1;
    if (c.shifts)
        c.hue = ((int32_t)rng_below(rng, 2 * HUE_REACH) - HUE_REACH + OPENCV_HUES) % OPENCV_HUES;
    return c;
}

/* ------------------------------------------------------------------------------ the crop */

static enum status make_room(struct scene_crop_room *room, size_t n)
{
    if (n <= room->labels_bytes)
        return STATUS_OK;
    memory_free(room->labels);
    room->labels = NULL;
    room->labels_bytes = 0;
    TRY(memory_alloc_unset(&room->labels, n, 1, "labels"));
    room->labels_bytes = n;
    return STATUS_OK;
}

void scene_crop_room_release(struct scene_crop_room *room)
{
    picture_release(&room->resized);
    picture_release(&room->crop);
    memory_free(room->labels);
    memset(room, 0, sizeof(*room));
}

static void cut(struct scene_crop_room *room, uint8_t *labels, const struct box *box, bool mirrored,
                int32_t side)
{
    int64_t width = room->resized.width;

    memset(labels, SCENE_IGNORED, (size_t)side * (size_t)side);
    for (int64_t y = 0; y < box->height; y++)
        for (int64_t x = 0; x < box->width; x++) {
            int64_t from = (box->top + y) * width + box->left + (mirrored ? box->width - 1 - x : x);
            memcpy(room->crop.rgb + 3 * (y * box->width + x), room->resized.rgb + 3 * from, 3);
            labels[y * side + x] = room->labels[from];
        }
}

static void normalise(float *pixels, const struct picture *crop, int32_t side)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
    int64_t n = (int64_t)side * side;
    float table[3][256];

    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)v / 255.0f - mean[c]) / deviation[c];
    memset(pixels, 0, 3 * (size_t)n * sizeof(float));
    for (int64_t y = 0; y < crop->height; y++)
        for (int64_t x = 0; x < crop->width; x++)
            for (int c = 0; c < 3; c++)
                pixels[c * n + y * side + x] = table[c][crop->rgb[3 * (y * crop->width + x) + c]];
}

static struct rng rng_of(const struct scene_view *view, const struct scene_crop_options *o,
                         enum rng_purpose purpose)
{
    return rng_open((struct rng_key){o->seed, view->epoch, view->number, 0, (uint16_t)purpose});
}

enum status scene_crop_make(float *pixels, uint8_t *labels, const struct scene_view *view,
                            const struct scene_crop_options *o, struct scene_crop_room *room)
{
    struct rng place = rng_of(view, o, RNG_CROP), mirror = rng_of(view, o, RNG_FLIP);
    struct rng jitter = rng_of(view, o, RNG_JITTER);
    double scale = rng_range(&place, o->scale[0], o->scale[1]);
    struct scene_size size = scene_size_within(view->picture->width, view->picture->height,
                                               (int32_t)(o->resize_px * scale),
                                               (int32_t)(SCENE_ELONGATION * o->resize_px * scale));

    TRY(picture_resize(&room->resized, view->picture, size.width, size.height));
    TRY(make_room(room, (size_t)size.width * (size_t)size.height));
    scene_labels_resize(room->labels, size, view->labels, view->picture->width,
                        view->picture->height);
    struct box box = choose_box(&place, size, room->labels, o);
    TRY(picture_reserve(&room->crop, box.width, box.height));
    cut(room, labels, &box, rng_below(&mirror, 2) == 1, o->crop_px);
    if (o->distortion) {
        struct scene_colours colours = scene_colours_draw(&jitter);
        scene_colours_apply(room->crop.rgb, (int64_t)box.width * box.height, &colours);
    }
    normalise(pixels, &room->crop, o->crop_px);
    return STATUS_OK;
}
