/* Images from indexes, decoded by a few threads. */
#include "trainer/images.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "loader/draw.h"
#include "loader/index.h"
#include "loader/thumbnail.h"
#include "loader/view.h"
#include "proto/base/first_failure.h"
#include "proto/base/memory.h"

/* One of the given paths: a file that is an image, or a data set. */
struct source {
    const char *file; /* borrowed; NULL: a data set */
    struct index index;
    int64_t first, n; /* images, counted over all sources */
    int32_t first_label, n_classes;
};

struct images {
    struct source *sources;
    int n_sources, n_threads;
    int64_t n;
    int32_t n_classes;
    struct view_maker *makers; /* [n_threads] */
    char path[INDEX_MAX_PATH_BYTES];
};

/* ------------------------------------------------------------------------------ open */

static enum status open_source(struct images *images, const char *path)
{
    struct source *source = &images->sources[images->n_sources];
    struct stat info;

    images->n_sources++;
    source->first = images->n;
    source->first_label = images->n_classes;
    source->n = 1;
    if (index_is_image_name(path) && stat(path, &info) == 0 && !S_ISDIR(info.st_mode)) {
        source->file = path;
    } else {
        TRY(index_load(&source->index, path, NULL, NULL, NULL));
        source->n = (int64_t)source->index.header->n_samples;
        source->n_classes = (int32_t)source->index.header->n_classes;
    }
    images->n += source->n;
    images->n_classes += source->n_classes;
    return STATUS_OK;
}

enum status images_open(struct images **out, const char *const *paths, int n_paths, int n_threads)
{
    struct images *images = NULL;
    enum status status = STATUS_OK;

    if (n_paths < 1)
        FAIL(STATUS_INVALID, "no images: name files, folders or data sets of them");
    TRY(image_library_start("images"));
    TRY(memory_alloc(&images, 1, sizeof(*images), "images"));
    images->n_threads = n_threads > 0 ? n_threads : omp_get_num_procs();
    TRY_OUT(memory_alloc(&images->sources, (size_t)n_paths, sizeof(*images->sources), "images"));
    TRY_OUT(memory_alloc(&images->makers, (size_t)images->n_threads, sizeof(*images->makers),
                         "decoders"));
    for (int i = 0; i < n_paths; i++)
        TRY_OUT(open_source(images, paths[i]));
    for (int i = 0; i < images->n_threads; i++)
        TRY_OUT(view_maker_open(&images->makers[i], NULL, NULL));
    *out = images;
    images = NULL;
out:
    images_close(&images);
    return status;
}

void images_close(struct images **address)
{
    struct images *images = address != NULL ? *address : NULL;

    if (images == NULL)
        return;
    for (int i = 0; images->makers != NULL && i < images->n_threads; i++)
        view_maker_close(&images->makers[i]);
    for (int i = 0; i < images->n_sources; i++)
        if (images->sources[i].file == NULL)
            index_close(&images->sources[i].index);
    memory_free(images->makers);
    memory_free(images->sources);
    memory_free(images);
    *address = NULL;
}

/* ------------------------------------------------------------------------------ which images */

int64_t images_n(const struct images *images)
{
    return images->n;
}

int32_t images_n_classes(const struct images *images)
{
    return images->n_classes;
}

static const struct source *source_of(const struct images *images, int64_t image)
{
    CHECK(image >= 0 && image < images->n, "image %lld", (long long)image);
    for (int i = 0; i < images->n_sources; i++)
        if (image < images->sources[i].first + images->sources[i].n)
            return &images->sources[i];
    return NULL;
}

int32_t images_label(const struct images *images, int64_t image)
{
    const struct source *source = source_of(images, image);

    return source->n_classes == 0
               ? -1
               : source->first_label + (int32_t)source->index.entries[image - source->first].label;
}

static enum status place_of(const struct images *images, int64_t image,
                            char path[INDEX_MAX_PATH_BYTES], struct image_place *place)
{
    const struct source *source = source_of(images, image);

    if (source->file == NULL)
        return index_image(&source->index, (uint32_t)(image - source->first), path, place);
    *place = (struct image_place){.path = source->file};
    return STATUS_OK;
}

enum status images_info(struct images *images, int64_t image, struct image_info *out)
{
    const struct source *source = source_of(images, image);
    struct image_place place;

    TRY(place_of(images, image, images->path, &place));
    *out = (struct image_info){
        .path = place.path,
        .name = place.name != NULL ? place.name : "",
        .class_name = "",
        .label = images_label(images, image),
    };
    if (out->label >= 0)
        out->class_name =
            index_class_name(&source->index, (uint32_t)(out->label - source->first_label));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ reading */

static void pack(struct view_maker *maker, uint8_t *rgb)
{
    const struct planes *planes = &maker->planes;
    const uint8_t *const rows[3] = {planes->channel[0], planes->channel[1], planes->channel[2]};

    maker->resampler.kernels->interleave(rgb, rows, planes_n_pixels(planes), false);
}

/* All of an image in a square. */
static enum status squash(struct view_maker *maker, uint8_t *rgb, const struct image_form *form)
{
    const struct image *image = &maker->image;
    struct region whole = {0, 0, image->width, image->height};
    struct resample_plan plan = resample_whole(whole, form->size_px, form->size_px);

    plan.filter = form->bilinear ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
    TRY(resample(&maker->resampler, &maker->planes, image, &plan));
    pack(maker, rgb);
    return STATUS_OK;
}

static enum status decode(const struct images *images, struct view_maker *maker, int64_t image)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;

    TRY(place_of(images, image, path, &place));
    return image_read(maker->decoder, &place, &maker->image);
}

static enum status read_one(const struct images *images, struct view_maker *maker, uint8_t *rgb,
                            int64_t image, const struct image_form *form)
{
    TRY(decode(images, maker, image));
    if (form->fit == IMAGE_SQUASH)
        return squash(maker, rgb, form);
    struct data_spec spec = data_spec_centre_crop(form->resize_px, form->size_px);
    spec.interpolation = form->bilinear ? INTERPOLATION_BILINEAR : INTERPOLATION_BICUBIC;
    TRY(data_spec_check(&spec));
    return view_render(maker, &spec, 0, 0, &maker->image, rgb);
}

static enum status thumbnail_of_one(const struct images *images, struct view_maker *maker,
                                    uint8_t *rgb, struct image_size *size, int64_t image,
                                    int32_t most_px, const struct image_box *box)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;

    TRY(place_of(images, image, path, &place));
    TRY(image_read(maker->decoder, &place, &maker->image));
    const struct image *from = &maker->image;
    struct region region = {0, 0, from->width, from->height};
    if (box != NULL) {
        region = (struct region){box->left, box->top, box->width, box->height};
        if (box->left < 0 || box->top < 0 || box->width < 1 || box->height < 1 ||
            box->width > from->width - box->left || box->height > from->height - box->top)
            FAIL(STATUS_INVALID, "%s: a box of %d x %d px at (%d, %d) is not within its %d x %d px",
                 place.path, box->width, box->height, box->left, box->top, from->width,
                 from->height);
    }
    TRY(thumbnail(&maker->resampler, &maker->planes, &maker->turned, from, region, most_px));
    *size = (struct image_size){maker->planes.width, maker->planes.height};
    pack(maker, rgb);
    return STATUS_OK;
}

/* What is read of each of several images. */
struct reading {
    const struct image_form *form; /* squares; NULL: thumbnails */
    struct image_size *sizes;
    const struct image_box *boxes;
    int32_t size_px;
};

static enum status read_all(struct images *images, uint8_t *rgb, const int64_t *which, int32_t n,
                            const struct reading *r)
{
    size_t bytes = 3 * (size_t)r->size_px * (size_t)r->size_px;
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(dynamic, 1) num_threads(images->n_threads)
    for (int32_t i = 0; i < n; i++) {
        struct view_maker *maker = &images->makers[omp_get_thread_num()];
        uint8_t *to = rgb + (size_t)i * bytes;
        enum status one =
            r->form != NULL ? read_one(images, maker, to, which[i], r->form)
                            : thumbnail_of_one(images, maker, to, &r->sizes[i], which[i],
                                               r->size_px, r->boxes != NULL ? &r->boxes[i] : NULL);
        first_failure_note(&failure, i, one);
    }
    return first_failure_take(&failure);
}

enum status images_read(struct images *images, uint8_t *rgb, const int64_t *which, int32_t n,
                        const struct image_form *form)
{
    return read_all(images, rgb, which, n,
                    &(struct reading){.form = form, .size_px = form->size_px});
}

enum status images_read_thumbnails(struct images *images, uint8_t *rgb, struct image_size *sizes,
                                   const int64_t *which, int32_t n, int32_t most_px,
                                   const struct image_box *boxes)
{
    return read_all(images, rgb, which, n,
                    &(struct reading){.sizes = sizes, .boxes = boxes, .size_px = most_px});
}

enum status images_views(struct images *images, uint8_t *record, struct image_box *boxes,
                         int64_t image, const struct data_spec *spec)
{
    struct view_maker *maker = &images->makers[0];
    uint32_t sample = (uint32_t)image;

    TRY(decode(images, maker, image));
    for (int32_t v = 0; v < spec->n_global + spec->n_local; v++) {
        struct draw draw = {.spec = spec, .sample = sample, .view = v};
        struct region region = draw_region(&draw, maker->image.width, maker->image.height);
        boxes[v] = (struct image_box){region.left, region.top, region.width, region.height};
    }
    return view_render(maker, spec, 0, sample, &maker->image, record);
}
