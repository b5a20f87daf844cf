/* golden_image_ops FILE: compares every image operation with stored results of Pillow and
 * torchvision. Any file of the layout is accepted. Exit 0 only when every byte is equal. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loader/view.h"
#include "proto/base/memory.h"
#include "trainer/weights/safetensors.h"

enum { WORK_BYTES = 1 << 20 };

struct golden {
    struct safetensors file;
    struct view_maker maker;
    struct image source; /* the file's, as words */
    int n_tensors, n_wrong;
    uint8_t *work;
};

static const struct safetensors_entry *need(const struct golden *g, const char *format, int i)
{
    char name[64];

    snprintf(name, sizeof(name), format, i);
    const struct safetensors_entry *entry = safetensors_find(&g->file, name);
    if (entry == NULL) {
        fprintf(stderr, "golden_image_ops: tensor '%s' is missing\n", name);
        exit(1);
    }
    return entry;
}

static void compare(struct golden *g, const struct safetensors_entry *entry, const uint8_t *got)
{
    const uint8_t *wanted = entry->tensor.data;
    int64_t n = tensor_n_elements(&entry->tensor), differ = 0, first = -1;
    int worst = 0;

    for (int64_t i = 0; i < n; i++) {
        int difference = abs(got[i] - wanted[i]);
        if (difference == 0)
            continue;
        first = first < 0 ? i : first;
        differ++;
        worst = difference > worst ? difference : worst;
    }
    g->n_tensors++;
    g->n_wrong += differ > 0;
    if (differ > 0)
        printf("FAIL %-18s %lld of %lld bytes differ, by at most %d; first at byte %lld: got %d, "
               "wanted %d\n",
               entry->name, (long long)differ, (long long)n, worst, (long long)first, got[first],
               wanted[first]);
}

/* The same for the picture in the maker's planes. */
static void compare_planes(struct golden *g, const struct safetensors_entry *entry)
{
    const struct planes *planes = &g->maker.planes;
    size_t n = planes_n_pixels(planes);

    if (n * 3 != entry->n_bytes || n * 3 > WORK_BYTES) {
        fprintf(stderr, "golden_image_ops: '%s' has another size than its result\n", entry->name);
        exit(1);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            g->work[3 * i + c] = planes->channel[c][i];
    compare(g, entry, g->work);
}

static enum status load_source(struct golden *g)
{
    const struct safetensors_entry *source = need(g, "source", 0);
    const uint8_t *rgb = source->tensor.data;

    TRY(image_reserve(&g->source, source->file_shape[1], source->file_shape[0]));
    for (size_t y = 0; y < (size_t)g->source.height; y++)
        for (size_t x = 0; x < (size_t)g->source.width; x++, rgb += 3)
            memcpy(image_pixel(&g->source, x, y), rgb, 3);
    return STATUS_OK;
}

/* The file's crop into the planes. */
static enum status load_crop(struct golden *g)
{
    const struct safetensors_entry *crop = need(g, "crop", 0);

    return planes_from_rgb(&g->maker.planes, crop->tensor.data, (int32_t)crop->file_shape[1],
                           (int32_t)crop->file_shape[0]);
}

static enum status resize(struct golden *g, const int32_t box[5], int32_t side)
{
    struct resample_plan plan =
        resample_whole((struct region){box[0], box[1], box[2], box[3]}, side, side);

    return resample(&g->maker.resampler, &g->maker.planes, &g->source, &plan);
}

static enum status check_resize(struct golden *g)
{
    const struct safetensors_entry *boxes = need(g, "resize_boxes", 0);
    const int32_t *box = boxes->tensor.data;

    for (int i = 0; i < boxes->file_shape[0]; i++, box += 5) {
        TRY(resize(g, box, box[4]));
        compare_planes(g, need(g, "resize_bicubic%d", i));
    }
    return STATUS_OK;
}

static enum status check_factors(struct golden *g, const char *factors_name, const char *format,
                                 void (*operation)(struct photometric *, struct planes *, float))
{
    const struct safetensors_entry *factors = need(g, factors_name, 0);

    for (int i = 0; i < factors->file_shape[0]; i++) {
        TRY(load_crop(g));
        operation(&g->maker.photometric, &g->maker.planes,
                  ((const float *)factors->tensor.data)[i]);
        compare_planes(g, need(g, format, i));
    }
    return STATUS_OK;
}

static enum status check_blur(struct golden *g)
{
    const struct safetensors_entry *radii = need(g, "blur_radii", 0);

    for (int i = 0; i < radii->file_shape[0]; i++) {
        TRY(load_crop(g));
        TRY(photometric_blur(&g->maker.photometric, &g->maker.planes,
                             ((const float *)radii->tensor.data)[i]));
        compare_planes(g, need(g, "gaussian_blur%d", i));
    }
    return STATUS_OK;
}

/* The planes, each row mirrored as a record is, back into the planes. */
static enum status flip(struct golden *g)
{
    struct planes *planes = &g->maker.planes;
    size_t width = (size_t)planes->width;

    for (size_t y = 0; y < (size_t)planes->height; y++) {
        const uint8_t *const rows[3] = {planes->channel[0] + y * width,
                                        planes->channel[1] + y * width,
                                        planes->channel[2] + y * width};
        g->maker.resampler.kernels->interleave(g->work + 3 * y * width, rows, width, true);
    }
    return planes_from_rgb(planes, g->work, planes->width, planes->height);
}

static enum status check_plain(struct golden *g)
{
    TRY(load_crop(g));
    photometric_grayscale(&g->maker.photometric, &g->maker.planes);
    compare_planes(g, need(g, "grayscale", 0));
    TRY(load_crop(g));
    photometric_solarize(&g->maker.photometric, &g->maker.planes, 128);
    compare_planes(g, need(g, "solarize128", 0));
    TRY(load_crop(g));
    TRY(flip(g));
    compare_planes(g, need(g, "hflip", 0));
    return STATUS_OK;
}

/* The chain of the file's note, and its normalisation in float. */
static enum status check_chain(struct golden *g)
{
    const struct safetensors_entry *chain = need(g, "chain", 0);
    const struct safetensors_entry *normalised = need(g, "chain_normalised", 0);
    const int32_t *box = (const int32_t *)need(g, "resize_boxes", 0)->tensor.data + 5;
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
    struct photometric *photometric = &g->maker.photometric;
    struct planes *planes = &g->maker.planes;
    double worst = 0.0;

    TRY(resize(g, box, (int32_t)chain->file_shape[0]));
    TRY(flip(g));
    photometric_hue(photometric, planes, -0.07f);
    photometric_contrast(photometric, planes, 1.3f);
    photometric_saturation(photometric, planes, 0.85f);
    photometric_brightness(photometric, planes, 0.7f);
    TRY(photometric_blur(photometric, planes, 0.9f));
    photometric_solarize(photometric, planes, 128);
    compare_planes(g, chain);
    size_t n = planes_n_pixels(planes);
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < n; i++) {
            float got = ((float)g->work[3 * i + c] / 255.0f - mean[c]) / std[c];
            worst = fmax(worst, fabs((double)got -
                                     (double)((const float *)normalised->tensor.data)[c * n + i]));
        }
    g->n_tensors++;
    if (worst > 1e-6) {
        g->n_wrong++;
        printf("FAIL chain_normalised: largest difference %g\n", worst);
    }
    return STATUS_OK;
}

static enum status check_evaluation(struct golden *g)
{
    static const int32_t sizes[2][2] = {{256, 224}, {64, 56}};

    for (int i = 0; i < 2; i++) {
        struct data_spec spec = data_spec_centre_crop(sizes[i][0], sizes[i][1]);
        TRY(view_render(&g->maker, &spec, 0, 0, &g->source, g->work));
        compare(g, need(g, "eval%d", i), g->work);
    }
    return STATUS_OK;
}

static enum status run(struct golden *g, const char *path)
{
    TRY(view_maker_open(&g->maker, NULL, NULL));
    TRY(safetensors_open(&g->file, path));
    TRY(memory_alloc(&g->work, WORK_BYTES, 1, "work"));
    TRY(load_source(g));
    TRY(check_resize(g));
    TRY(check_factors(g, "brightness_factors", "brightness%d", photometric_brightness));
    TRY(check_factors(g, "contrast_factors", "contrast%d", photometric_contrast));
    TRY(check_factors(g, "saturation_factors", "saturation%d", photometric_saturation));
    TRY(check_factors(g, "hue_factors", "hue%d", photometric_hue));
    TRY(check_plain(g));
    TRY(check_blur(g));
    TRY(check_chain(g));
    return check_evaluation(g);
}

int main(int argc, char **argv)
{
    struct golden g = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: golden_image_ops FILE\n");
        return 2;
    }
    enum status status = run(&g, argv[1]);
    if (status != STATUS_OK)
        fprintf(stderr, "golden_image_ops: %s\n", status_message());
    else
        printf("%d tensors compared, %d differ\n", g.n_tensors, g.n_wrong);
    view_maker_close(&g.maker);
    image_release(&g.source);
    memory_free(g.work);
    safetensors_release(&g.file);
    return status == STATUS_OK && g.n_wrong == 0 ? 0 : 1;
}
