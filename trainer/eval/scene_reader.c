#include "trainer/eval/scene_reader.h"

#include <omp.h>
#include <string.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"

/* A thread's. */
struct room {
    struct scene scene;
    struct scene_crop_room crop;
};

struct scene_reader {
    const struct scene_data *data;
    struct scene_labels labels;
    struct picture_readers *files;
    struct room *rooms; /* [n_threads] */
    int n_threads;
    int32_t *order; /* [data->n] scenes of an epoch */
    int64_t epoch;  /* whose order it is; -1: none */
};

uint8_t scene_label_of_class(const struct scene_labels *labels, uint8_t class)
{
    return (uint8_t)(class + (labels->reduce_zero_label ? 1 : 0));
}

enum status scene_reader_open(struct scene_reader **out, const struct scene_data *data,
                              const struct scene_labels *labels, int n_threads)
{
    struct scene_reader *r = NULL;
    enum status status;

    CHECK(data->n <= INT32_MAX);
    TRY(memory_alloc(&r, 1, sizeof(*r), "scenes"));
    r->data = data;
    r->labels = *labels;
    r->epoch = -1;
    r->n_threads = n_threads > 0 ? n_threads : omp_get_num_procs();
    TRY_OUT(memory_alloc(&r->order, (size_t)data->n, sizeof(*r->order), "scenes"));
    TRY_OUT(memory_alloc(&r->rooms, (size_t)r->n_threads, sizeof(*r->rooms), "scenes"));
    TRY_OUT(picture_readers_open(&r->files, r->n_threads));
    *out = r;
    r = NULL;
out:
    scene_reader_close(&r);
    return status;
}

void scene_release(struct scene *scene)
{
    picture_release(&scene->whole);
    for (int i = 0; i < SCENE_MAX_SIZES; i++)
        picture_release(&scene->resized[i]);
    label_image_release(&scene->truth);
}

void scene_reader_close(struct scene_reader **address)
{
    struct scene_reader *r = address != NULL ? *address : NULL;

    if (r == NULL)
        return;
    for (int i = 0; r->rooms != NULL && i < r->n_threads; i++) {
        scene_release(&r->rooms[i].scene);
        scene_crop_room_release(&r->rooms[i].crop);
    }
    picture_readers_close(&r->files);
    memory_free(r->rooms);
    memory_free(r->order);
    memory_free(r);
    *address = NULL;
}

/* ------------------------------------------------------------------------------ a scene */

/* Labels of a file become classes. */
static enum status classify(struct label_image *image, const struct scene_labels *labels,
                            const char *path)
{
    int64_t n = (int64_t)image->width * image->height;
    int first = labels->reduce_zero_label ? 1 : 0;
    bool known[256] = {false};
    uint8_t class_of[256];

    for (int i = 0; i < 256; i++) {
        bool ignored = i == SCENE_IGNORED || i < first;
        known[i] = ignored || i - first < labels->n_classes;
        class_of[i] = ignored ? SCENE_IGNORED : (uint8_t)(i - first);
    }
    for (int64_t i = 0; i < n; i++) {
        uint8_t label = image->labels[i];
        if (!known[label])
            FAIL(STATUS_INVALID,
                 "'%s': label %d at pixel %lld, %lld: wanted %d to %d, for %d classes, or %d; see "
                 "--num_classes and --reduce_zero_label",
                 path, label, (long long)(i % image->width), (long long)(i / image->width), first,
                 first + labels->n_classes - 1, labels->n_classes, SCENE_IGNORED);
        image->labels[i] = class_of[label];
    }
    return STATUS_OK;
}

/* Picture and truth of a scene, by one thread. */
static enum status read_scene(struct scene_reader *r, int thread, struct scene *out, int64_t number)
{
    char path[SCENE_MAX_PATH];

    scene_image_path(path, r->data, number);
    TRY(picture_read(r->files, thread, &out->whole, path));
    label_image_release(&out->truth);
    if (r->data->labels == NULL)
        return STATUS_OK;
    scene_labels_path(path, r->data, number);
    TRY(label_image_read(&out->truth, path));
    if (out->truth.width != out->whole.width || out->truth.height != out->whole.height)
        FAIL(STATUS_MISMATCH, "'%s' is %d x %d px, its picture %d x %d", path, out->truth.width,
             out->truth.height, out->whole.width, out->whole.height);
    return classify(&out->truth, &r->labels, path);
}

/* ------------------------------------------------------------------------------ crops */

static void make_order(struct scene_reader *r, uint64_t seed, int64_t epoch)
{
    struct rng rng = rng_open((struct rng_key){seed, (uint32_t)epoch, 0, 0, RNG_ORDER});

    for (int64_t i = 0; i < r->data->n; i++)
        r->order[i] = (int32_t)i;
    for (int64_t i = r->data->n - 1; i > 0; i--) {
        int64_t other = rng_below(&rng, (uint32_t)i + 1);
        int32_t kept = r->order[i];
        r->order[i] = r->order[other];
        r->order[other] = kept;
    }
    r->epoch = epoch;
}

static enum status one_crop(struct scene_reader *r, float *pixels, uint8_t *labels, int32_t scene,
                            const struct scene_crop_options *o)
{
    int thread = omp_get_thread_num();
    struct room *room = &r->rooms[thread];

    TRY(read_scene(r, thread, &room->scene, scene));
    struct scene_view view = {
        .picture = &room->scene.whole,
        .labels = room->scene.truth.labels,
        .number = (uint32_t)scene,
        .epoch = (uint32_t)r->epoch,
    };
    return scene_crop_make(pixels, labels, &view, o, &room->crop);
}

enum status scene_reader_crops(struct scene_reader *r, float *pixels, uint8_t *labels,
                               int64_t first, int32_t n, const struct scene_crop_options *o)
{
    size_t area = (size_t)o->crop_px * (size_t)o->crop_px;

    CHECK(r->data->labels != NULL);
    while (n > 0) { /* the places of one epoch at a time */
        int64_t epoch = first / r->data->n, at = first % r->data->n;
        int32_t here = r->data->n - at < n ? (int32_t)(r->data->n - at) : n;
        struct first_failure failure = FIRST_FAILURE_NONE;
        if (epoch != r->epoch)
            make_order(r, o->seed, epoch);
#pragma omp parallel for schedule(dynamic) num_threads(r->n_threads)
        for (int32_t i = 0; i < here; i++)
            first_failure_note(&failure, i,
                               one_crop(r, pixels + (size_t)i * 3 * area, labels + (size_t)i * area,
                                        r->order[at + i], o));
        TRY(first_failure_take(&failure));
        pixels += (size_t)here * 3 * area;
        labels += (size_t)here * area;
        first += here;
        n -= here;
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ whole */

static enum status one_scene(struct scene_reader *r, struct scene *out, int64_t number,
                             const struct scene_sizes *sizes)
{
    TRY(read_scene(r, omp_get_thread_num(), out, number));
    for (int32_t i = 0; i < sizes->n; i++) {
        struct scene_size size = scene_size_within(out->whole.width, out->whole.height,
                                                   sizes->px[i], SCENE_ELONGATION * sizes->px[i]);
        TRY(picture_resize(&out->resized[i], &out->whole, size.width, size.height));
    }
    return STATUS_OK;
}

enum status scene_reader_scenes(struct scene_reader *r, struct scene *scenes, int64_t first,
                                int32_t n, const struct scene_sizes *sizes)
{
    struct first_failure failure = FIRST_FAILURE_NONE;

    CHECK(first >= 0 && first + n <= r->data->n && sizes->n <= SCENE_MAX_SIZES);
#pragma omp parallel for schedule(dynamic) num_threads(r->n_threads)
    for (int32_t i = 0; i < n; i++)
        first_failure_note(&failure, i, one_scene(r, &scenes[i], first + i, sizes));
    return first_failure_take(&failure);
}
