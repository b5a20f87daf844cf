/* A sample is a pure function of the index, the spec, the epoch and the position: whichever thread
 * makes it, whatever was made before. Probabilities, substitutes and the evaluation transform. */
#include "loader/view.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loader/draw.h"
#include "loader/self_test.h"
#include "proto/base/hash.h"
#include "tests/loader/folder.h"

enum { N_FILES = 12 };

struct scene {
    struct folder *folder;
    struct index index;
    struct order *order;
    struct view_maker maker;
    struct data_spec spec;
    uint8_t *record;
    int n_bad; /* reports */
    uint32_t last_bad;
    enum bad_image_kind last_kind;
    char reason[256];
};

/* A picture of noise as PPM, so that every crop differs. */
static void put_picture(const struct folder *folder, const char *name, uint32_t seed)
{
    static uint8_t bytes[64 + 3 * 60 * 50];
    int n = sprintf((char *)bytes, "P6 60 50 255\n");
    uint32_t state = seed * 2654435761u + 1;

    for (int i = 0; i < 3 * 60 * 50; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[n + i] = (uint8_t)(state >> 24);
    }
    folder_put(folder, name, bytes, (size_t)n + 3 * 60 * 50);
}

static struct data_spec small_spec(void)
{
    struct data_spec spec = data_spec_default();

    spec.n_local = 3;
    spec.global_size_px = 32;
    spec.local_size_px = 16;
    spec.mask_cell_px = 8;
    return spec;
}

static int scene_open(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char name[64];

    folder_open((void **)&scene->folder);
    for (uint32_t i = 0; i < N_FILES; i++) {
        snprintf(name, sizeof(name), "class%u/%u.ppm", i % 3, i);
        put_picture(scene->folder, name, i);
    }
    assert_int_equal(index_build(&scene->index, scene->folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(order_open(&scene->order, N_FILES), STATUS_OK);
    assert_int_equal(view_maker_open(&scene->maker, &scene->index, scene->order), STATUS_OK);
    scene->spec = small_spec();
    assert_int_equal(data_spec_check(&scene->spec), STATUS_OK);
    scene->record = calloc(1, data_spec_record_bytes(&scene->spec));
    *state = scene;
    return 0;
}

static int scene_close(void **state)
{
    struct scene *scene = *state;

    view_maker_close(&scene->maker);
    order_close(&scene->order);
    index_close(&scene->index);
    folder_close((void **)&scene->folder);
    free(scene->record);
    free(scene);
    return 0;
}

static void note_bad(void *context, enum bad_image_kind kind, uint32_t sample, const char *path,
                     const char *reason)
{
    struct scene *scene = context;

    assert_true(strlen(path) > 0);
    scene->n_bad++;
    scene->last_bad = sample;
    scene->last_kind = kind;
    snprintf(scene->reason, sizeof(scene->reason), "%s", reason);
}

static uint64_t make(struct scene *scene, int32_t epoch, uint64_t position)
{
    struct batch_sample sample;

    memset(scene->record, 0xee, data_spec_record_bytes(&scene->spec)); /* all of it is written */
    assert_int_equal(view_make(&scene->maker, &scene->spec, epoch, position, scene->record, &sample,
                               note_bad, scene),
                     STATUS_OK);
    assert_int_equal(sample.position, position);
    assert_int_equal(sample.label, scene->index.entries[sample.index].label);
    return hash_bytes(scene->record, data_spec_record_bytes(&scene->spec));
}

static void a_record_depends_on_epoch_and_position_alone(void **state)
{
    struct scene *scene = *state;
    uint64_t hashes[2][N_FILES];

    for (int epoch = 0; epoch < 2; epoch++)
        for (uint64_t p = 0; p < N_FILES; p++)
            hashes[epoch][p] = make(scene, epoch, p);
    for (int i = 0; i < 2 * N_FILES; i++)
        for (int j = 0; j < i; j++)
            assert_true(hashes[0][i % N_FILES] != 0 &&
                        hashes[i / N_FILES][i % N_FILES] != hashes[j / N_FILES][j % N_FILES]);
    for (uint64_t p = N_FILES; p-- > 0;) /* another order, used buffers */
        for (int epoch = 1; epoch >= 0; epoch--)
            assert_int_equal(make(scene, epoch, p), hashes[epoch][p]);
    scene->spec.seed = 1;
    assert_int_not_equal(make(scene, 0, 0), hashes[0][0]);
}

struct thread_job {
    const struct scene *scene;
    uint64_t hashes[N_FILES];
    bool failed;
};

static void *make_all(void *argument)
{
    struct thread_job *job = argument;
    const struct data_spec *spec = &job->scene->spec;
    struct view_maker maker;
    struct batch_sample sample;
    uint8_t *record = calloc(1, data_spec_record_bytes(spec));

    job->failed = view_maker_open(&maker, &job->scene->index, job->scene->order) != STATUS_OK;
    for (uint64_t p = 0; p < N_FILES && !job->failed; p++) {
        job->failed = view_make(&maker, spec, 0, p, record, &sample, NULL, NULL) != STATUS_OK;
        job->hashes[p] = hash_bytes(record, data_spec_record_bytes(spec));
    }
    view_maker_close(&maker);
    free(record);
    return NULL;
}

static void threads_make_the_same_records(void **state)
{
    struct scene *scene = *state;
    struct thread_job jobs[3];
    pthread_t threads[3];

    for (int i = 0; i < 3; i++) {
        jobs[i] = (struct thread_job){.scene = scene};
        assert_int_equal(pthread_create(&threads[i], NULL, make_all, &jobs[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_false(jobs[i].failed);
    }
    for (uint64_t p = 0; p < N_FILES; p++) {
        uint64_t hash = make(scene, 0, p);
        for (int i = 0; i < 3; i++)
            assert_int_equal(jobs[i].hashes[p], hash);
    }
}

static void without_shuffling_samples_come_in_index_order(void **state)
{
    struct scene *scene = *state;
    struct batch_sample sample;

    scene->spec.shuffle = false;
    for (uint64_t p = 0; p < 2 * N_FILES; p++) {
        assert_int_equal(
            view_make(&scene->maker, &scene->spec, 0, p, scene->record, &sample, NULL, NULL),
            STATUS_OK);
        assert_int_equal(sample.index, p % N_FILES);
    }
}

/* Breaks the file of a sample. */
static void break_sample(const struct scene *scene, uint32_t sample)
{
    folder_put(scene->folder, scene->index.strings + scene->index.entries[sample].path, "P6 60", 5);
}

static void the_next_good_sample_takes_the_place_of_a_bad_one(void **state)
{
    struct scene *scene = *state;
    struct batch_sample sample;
    char path[512];
    uint32_t first, second, third;
    uint64_t wanted = make(scene, 0, 7);

    assert_int_equal(order_sample(scene->order, true, 0, 0, 5, &first), STATUS_OK);
    assert_int_equal(order_sample(scene->order, true, 0, 0, 6, &second), STATUS_OK);
    assert_int_equal(order_sample(scene->order, true, 0, 0, 7, &third), STATUS_OK);
    break_sample(scene, first);
    break_sample(scene, second);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 5, scene->record, &sample, note_bad, scene),
        STATUS_OK);
    assert_int_equal(sample.position, 5);
    assert_int_equal(sample.index, third);
    assert_int_equal(sample.label, scene->index.entries[third].label);
    assert_int_equal(sample.n_substituted, 2);
    assert_int_equal(hash_bytes(scene->record, data_spec_record_bytes(&scene->spec)), wanted);
    assert_int_equal(scene->n_bad, 2);
    assert_int_equal(scene->last_bad, second);
    assert_int_equal(scene->last_kind, BAD_IMAGE_CORRUPT);
    assert_non_null(strstr(scene->reason, "truncated"));
    folder_path(scene->folder, scene->index.strings + scene->index.entries[second].path, path,
                sizeof(path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 6, scene->record, &sample, note_bad, scene),
        STATUS_OK);
    assert_int_equal(scene->last_kind, BAD_IMAGE_MISSING);
}

static int n_open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL)
        n++;
    closedir(folder);
    return n;
}

/* An image that was fetched is read from the file that was opened then; none stays open. */
static void fetched_images_are_those_that_are_made(void **state)
{
    struct scene *scene = *state;
    uint64_t wanted[N_FILES];
    struct batch_sample sample;
    char path[512];
    uint32_t first;
    int n_files = n_open_files();

    for (uint64_t p = 0; p < N_FILES; p++)
        wanted[p] = make(scene, 0, p);
    for (uint64_t p = 0; p < N_FILES; p++)
        view_fetch(&scene->maker, &scene->spec, 0, p);
    assert_int_equal(n_open_files(), n_files + VIEW_AHEAD);
    for (uint64_t p = N_FILES; p-- > 0;)
        assert_int_equal(make(scene, 0, p), wanted[p]);
    assert_int_equal(n_open_files(), n_files);

    view_fetch(&scene->maker, &scene->spec, 0, 5);
    view_fetch(&scene->maker, &scene->spec, 0, 6);
    assert_int_equal(order_sample(scene->order, true, 0, 0, 5, &first), STATUS_OK);
    folder_path(scene->folder, scene->index.strings + scene->index.entries[first].path, path,
                sizeof(path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(make(scene, 0, 5), wanted[5]);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 5, scene->record, &sample, note_bad, scene),
        STATUS_OK); /* gone by now: the fetched one at 6 takes its place */
    assert_int_equal(sample.n_substituted, 1);
    assert_int_equal(n_open_files(), n_files);
    view_fetch(&scene->maker, &scene->spec, 0, 5); /* nothing to open, and no harm */
    view_fetch(&scene->maker, &scene->spec, 0, 7);
    view_fetch_end(&scene->maker);
    assert_int_equal(n_open_files(), n_files);
}

/* One of the stored pictures; the caller's. */
static uint8_t *picture(const char *name, size_t *n_bytes)
{
    const char *data = getenv("IBOT_TEST_DATA");
    uint8_t *bytes = malloc(1 << 16);
    char path[1024];

    assert_non_null(data);
    snprintf(path, sizeof(path), "%s/images/%s", data, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("%s is missing", path);
    *n_bytes = fread(bytes, 1, 1 << 16, file);
    fclose(file);
    return bytes;
}

/* A JPEG whose data end too early by a marker: used as it is, and told. */
static void a_repaired_image_is_used_and_counted(void **state)
{
    struct scene *scene = *state;
    struct batch_sample sample;
    uint32_t first;
    size_t n;
    uint8_t *jpeg = picture("jpeg_444.jpg", &n);

    assert_int_equal(order_sample(scene->order, true, 0, 0, 5, &first), STATUS_OK);
    const char *path = scene->index.strings + scene->index.entries[first].path;
    folder_put(scene->folder, path, jpeg, n);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 5, scene->record, &sample, note_bad, scene),
        STATUS_OK);
    assert_int_equal(sample.n_repaired, 0);
    jpeg[n - 12] = 0xff; /* an early end of image inside the data */
    jpeg[n - 11] = 0xd9;
    folder_put(scene->folder, path, jpeg, n);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 5, scene->record, &sample, note_bad, scene),
        STATUS_OK);
    assert_int_equal(sample.index, first);
    assert_true(sample.n_repaired > 0);
    assert_int_equal(scene->n_bad, 0);
    free(jpeg);
}

static void the_policy_fail_names_the_bad_file(void **state)
{
    struct scene *scene = *state;
    struct batch_sample sample;
    uint32_t bad;

    assert_int_equal(order_sample(scene->order, true, 0, 0, 3, &bad), STATUS_OK);
    break_sample(scene, bad);
    scene->spec.bad_image_policy = BAD_IMAGE_FAIL;
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 3, scene->record, &sample, note_bad, scene),
        STATUS_CORRUPT);
    assert_non_null(
        strstr(status_message(), scene->index.strings + scene->index.entries[bad].path));
    assert_int_equal(scene->n_bad, 1);
}

static void a_data_set_of_bad_images_ends_in_an_error(void **state)
{
    struct scene *scene = *state;
    struct batch_sample sample;

    for (uint32_t i = 0; i < N_FILES; i++)
        break_sample(scene, i);
    assert_int_equal(
        view_make(&scene->maker, &scene->spec, 0, 0, scene->record, &sample, note_bad, scene),
        STATUS_CORRUPT);
    assert_int_equal(scene->n_bad, N_FILES); /* each one once */
}

/* ---- transforms ---- */

static struct image noise(int32_t width, int32_t height)
{
    struct image image = {0};

    assert_int_equal(image_reserve(&image, width, height), STATUS_OK);
    for (int32_t i = 0; i < width * height * IMAGE_CHANNELS; i++) {
        size_t pixel = (size_t)i / IMAGE_CHANNELS;
        image_pixel(&image, pixel % (size_t)width, pixel / (size_t)width)[i % IMAGE_CHANNELS] =
            (uint8_t)((uint32_t)i * 2654435761u >> 21);
    }
    return image;
}

/* A spec whose only view is the whole picture, with nothing done to it. */
static struct data_spec bare_spec(void)
{
    struct data_spec spec = data_spec_default();

    spec.n_global = 1;
    spec.n_local = 0;
    spec.n_pred_ratios = 0;
    spec.global_size_px = 16;
    spec.global_scale[0] = spec.global_scale[1] = 1.0f;
    spec.aspect[0] = spec.aspect[1] = 1.0f;
    spec.first = (struct view_transform){0};
    spec.solarize_threshold = 0;
    spec.blur_radius[0] = 1.0f; /* a radius of 0.1 may change nothing */
    return spec;
}

/* Share of 6000 samples whose record differs from the untouched one. */
static double share_changed(struct scene *scene, const struct data_spec *spec)
{
    enum { N = 6000 };
    struct image image = noise(16, 16);
    struct data_spec bare = bare_spec();
    uint8_t plain[16 * 16 * 3], record[16 * 16 * 3];
    int n_changed = 0;

    assert_int_equal(data_spec_record_bytes(spec), sizeof(record));
    assert_int_equal(view_render(&scene->maker, &bare, 0, 0, &image, plain), STATUS_OK);
    for (size_t i = 0; i < 16 * 16; i++)
        assert_memory_equal(plain + 3 * i, image_pixel(&image, i % 16, i / 16), 3);
    for (uint32_t sample = 0; sample < N; sample++) {
        assert_int_equal(view_render(&scene->maker, spec, 0, sample, &image, record), STATUS_OK);
        n_changed += memcmp(plain, record, sizeof(record)) != 0;
    }
    image_release(&image);
    return (double)n_changed / N;
}

static void each_transform_has_its_probability(void **state)
{
    struct scene *scene = *state;
    float *fields[5];
    struct data_spec spec = bare_spec();
    static const float probabilities[] = {0.0f, 0.2f, 0.8f, 1.0f};

    fields[0] = &spec.first.flip;
    fields[1] = &spec.first.jitter;
    fields[2] = &spec.first.grayscale;
    fields[3] = &spec.first.blur;
    fields[4] = &spec.first.solarize;
    for (int f = 0; f < 5; f++)
        for (int i = 0; i < 4; i++) {
            spec.first = (struct view_transform){0};
            *fields[f] = probabilities[i];
            double p = (double)probabilities[i], got = share_changed(scene, &spec);
            if (fabs(got - p) > 5.0 * sqrt(p * (1.0 - p) / 6000.0))
                fail_msg("transform %d with probability %g changed %g of the samples", f, p, got);
        }
}

/* Four samples in a hundred that two transforms of a fifth each fall upon together. */
static void transforms_fall_upon_samples_independently(void **state)
{
    enum { N = 6000, TRANSFORMS = 4 };
    static const enum photometric_step steps[TRANSFORMS] = {
        PHOTOMETRIC_JITTER, PHOTOMETRIC_GRAYSCALE, PHOTOMETRIC_BLUR, PHOTOMETRIC_SOLARIZE};
    struct data_spec spec = bare_spec();
    int n_both[TRANSFORMS + 1][TRANSFORMS + 1] = {0};

    (void)state;
    spec.first = (struct view_transform){0.2f, 0.2f, 0.2f, 0.2f, 0.2f};
    for (uint32_t sample = 0; sample < N; sample++) {
        struct draw draw = {.spec = &spec, .sample = sample};
        struct photometric_params params = draw_photometric(&draw);
        bool falls[TRANSFORMS + 1] = {false};
        for (int i = 0; i < TRANSFORMS; i++)
            falls[i] = (params.steps & steps[i]) != 0;
        falls[TRANSFORMS] = draw_flip(&draw);
        for (int i = 0; i <= TRANSFORMS; i++)
            for (int j = 0; j < i; j++)
                n_both[i][j] += falls[i] && falls[j];
    }
    for (int i = 0; i <= TRANSFORMS; i++)
        for (int j = 0; j < i; j++)
            if (fabs(n_both[i][j] / (double)N - 0.04) > 5.0 * sqrt(0.04 * 0.96 / N))
                fail_msg("transforms %d and %d fall together upon %d of %d samples", j, i,
                         n_both[i][j], N);
}

/* Repeated augmentation: each sample of the permutation three times in a row, never the same crop;
 * a bad image is replaced by the next sample, not by a repeat of itself. */
static void repeats_are_crops_of_one_sample_that_differ(void **state)
{
    struct scene *scene = *state;
    struct data_spec once = data_spec_fine_tuning(24), spec = once;
    size_t n_bytes = data_spec_record_bytes(&spec);
    uint8_t records[3][3 * 24 * 24], plain[3 * 24 * 24];
    struct batch_sample samples[3], first, after;

    assert_int_equal(n_bytes, sizeof(plain));
    spec.repeats = 3;
    for (uint64_t p = 0; p < 2 * N_FILES; p++) { /* past the end it begins again */
        for (uint64_t k = 0; k < 3; k++)
            assert_int_equal(view_make(&scene->maker, &spec, 0, 3 * p + k, records[k], &samples[k],
                                       note_bad, scene),
                             STATUS_OK);
        assert_int_equal(view_make(&scene->maker, &once, 0, p, plain, &first, note_bad, scene),
                         STATUS_OK);
        for (uint64_t k = 0; k < 3; k++) {
            assert_int_equal(samples[k].index, first.index);
            assert_int_equal(samples[k].position, 3 * p + k);
            assert_true(memcmp(records[k], plain, n_bytes) == 0 ? k == 0 : k > 0);
        }
        assert_memory_not_equal(records[1], records[2], n_bytes);
    }
    assert_int_equal(view_make(&scene->maker, &once, 0, 4, plain, &first, note_bad, scene),
                     STATUS_OK);
    assert_int_equal(view_make(&scene->maker, &once, 0, 5, plain, &after, note_bad, scene),
                     STATUS_OK);
    break_sample(scene, first.index);
    for (uint64_t k = 0; k < 3; k++) {
        assert_int_equal(
            view_make(&scene->maker, &spec, 0, 3 * 4 + k, records[k], &samples[0], note_bad, scene),
            STATUS_OK);
        assert_int_equal(samples[0].index, after.index);
        assert_int_equal(samples[0].n_substituted, 1);
    }
    assert_memory_equal(records[0], plain, n_bytes);
    assert_int_equal(scene->n_bad, 3);
}

static void a_flip_mirrors_whatever_else_is_done(void **state)
{
    struct scene *scene = *state;
    struct image image = noise(40, 30);
    struct data_spec spec = bare_spec();
    uint8_t plain[16 * 16 * 3], mirrored[16 * 16 * 3];

    spec.first = (struct view_transform){0.0f, 1.0f, 0.0f, 1.0f, 0.5f};
    for (uint32_t sample = 0; sample < 100; sample++) {
        spec.first.flip = 0.0f;
        assert_int_equal(view_render(&scene->maker, &spec, 0, sample, &image, plain), STATUS_OK);
        spec.first.flip = 1.0f;
        assert_int_equal(view_render(&scene->maker, &spec, 0, sample, &image, mirrored), STATUS_OK);
        for (size_t y = 0; y < 16; y++)
            for (size_t x = 0; x < 16; x++)
                assert_memory_equal(plain + 3 * (16 * y + x), mirrored + 3 * (16 * y + 15 - x), 3);
    }
    image_release(&image);
}

static void resampling_is_as_the_spec_says(void **state)
{
    enum { SIZE = 10 };
    struct scene *scene = *state;
    struct image image = noise(40, 40);
    struct planes planes = {0};
    uint8_t record[3 * SIZE * SIZE];

    for (int i = 0; i < 2; i++) {
        struct data_spec specs[] = {bare_spec(), data_spec_centre_crop(SIZE, SIZE)};
        struct resample_plan plan = resample_whole((struct region){0, 0, 40, 40}, SIZE, SIZE);
        plan.filter = i == 0 ? RESAMPLE_BICUBIC : RESAMPLE_BILINEAR;
        assert_int_equal(resample(&scene->maker.resampler, &planes, &image, &plan), STATUS_OK);
        for (int k = 0; k < 2; k++) {
            specs[k].global_size_px = SIZE;
            specs[k].interpolation = i == 0 ? INTERPOLATION_BICUBIC : INTERPOLATION_BILINEAR;
            assert_int_equal(view_render(&scene->maker, &specs[k], 0, 0, &image, record),
                             STATUS_OK);
            for (int p = 0; p < 3 * SIZE * SIZE; p++)
                assert_int_equal(record[p], planes.channel[p % 3][p / 3]);
        }
    }
    planes_release(&planes);
    image_release(&image);
}

static void jitter_of_nothing_changes_nothing(void **state)
{
    struct data_spec spec = bare_spec();

    spec.first.jitter = 1.0f;
    spec.brightness = spec.contrast = spec.saturation = spec.hue = 0.0f;
    assert_true(share_changed(*state, &spec) == 0.0);
}

static void views_of_one_sample_differ(void **state)
{
    struct scene *scene = *state;
    const struct data_spec *spec = &scene->spec;

    make(scene, 0, 0);
    for (int32_t v = 1; v < 5; v++)
        for (int32_t u = 0; u < v; u++)
            if (data_spec_view_bytes(spec, u) == data_spec_view_bytes(spec, v))
                assert_int_not_equal(hash_bytes(scene->record + data_spec_view_offset(spec, u),
                                                data_spec_view_bytes(spec, u)),
                                     hash_bytes(scene->record + data_spec_view_offset(spec, v),
                                                data_spec_view_bytes(spec, v)));
}

static void evaluation_takes_the_centre_at_any_shape(void **state)
{
    static const int32_t sizes[][2] = {{20, 20}, {20, 31}, {31, 20}, {57, 20}, {300, 7}, {1, 90}};
    struct scene *scene = *state;
    struct data_spec spec = data_spec_centre_crop(20, 16);
    uint8_t record[16 * 16 * 3];

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct image image = noise(sizes[i][0], sizes[i][1]);
        assert_int_equal(view_render(&scene->maker, &spec, 0, 0, &image, record), STATUS_OK);
        int32_t left = (sizes[i][0] - 16) / 2, top = (sizes[i][1] - 16) / 2;
        if (sizes[i][0] >= 20 && sizes[i][1] >= 20 && (sizes[i][0] == 20 || sizes[i][1] == 20)) {
            /* offsets such as 7.5 are rounded to even */
            left = (int32_t)rint((sizes[i][0] - 16) / 2.0);
            top = (int32_t)rint((sizes[i][1] - 16) / 2.0);
            for (int32_t y = 0; y < 16; y++)
                for (int32_t x = 0; x < 16; x++)
                    assert_memory_equal(record + 3 * (16 * y + x),
                                        image_pixel(&image, (size_t)(left + x), (size_t)(top + y)),
                                        3);
        }
        image_release(&image);
    }
}

static void the_self_test_is_the_same_each_time(void **state)
{
    uint64_t first, second;

    (void)state;
    assert_int_equal(self_test_pixels(&first), STATUS_OK);
    assert_int_equal(self_test_pixels(&second), STATUS_OK);
    assert_int_equal(first, second);
    assert_true(first == UINT64_C(0x505fe297a6fea069)); /* on every kind of machine */
}

/* What a trainer does with crops that came plain, and their parameters. */
static void apply_photometric(const struct data_spec *spec, uint8_t *record)
{
    struct photometric tools = {.kernels = pixel_kernels_best()};
    struct photometric_params params;
    struct planes planes = {0};

    for (int32_t v = 0; v < spec->n_global + spec->n_local; v++) {
        int32_t side = v < spec->n_global ? spec->global_size_px : spec->local_size_px;
        uint8_t *rgb = record + data_spec_view_offset(spec, v);
        memcpy(&params, record + data_spec_photometric_offset(spec, v), sizeof(params));
        assert_true(photometric_params_are_sound(&params));
        assert_int_equal(planes_from_rgb(&planes, rgb, side, side), STATUS_OK);
        assert_int_equal(photometric_apply(&tools, &planes, &params), STATUS_OK);
        const uint8_t *const channels[3] = {planes.channel[0], planes.channel[1],
                                            planes.channel[2]};
        tools.kernels->interleave(rgb, channels, planes_n_pixels(&planes), false);
    }
    photometric_release(&tools);
    planes_release(&planes);
}

static void colours_may_be_left_to_the_trainer(void **state)
{
    struct scene *scene = *state;
    struct data_spec plain = scene->spec;
    size_t n_bytes = data_spec_record_bytes(&scene->spec);
    int n_changed = 0;

    plain.photometric = PHOTOMETRIC_BY_TRAINER;
    assert_int_equal(data_spec_check(&plain), STATUS_OK);
    assert_int_equal(data_spec_record_bytes(&plain), n_bytes + 5 * DATA_SPEC_PHOTOMETRIC_BYTES);
    assert_int_not_equal(data_spec_digest(&plain), data_spec_digest(&scene->spec));
    uint8_t *record = calloc(1, data_spec_record_bytes(&plain));
    for (uint64_t p = 0; p < N_FILES; p++) {
        struct batch_sample sample;
        make(scene, 0, p);
        assert_int_equal(view_make(&scene->maker, &plain, 0, p, record, &sample, note_bad, scene),
                         STATUS_OK);
        n_changed += memcmp(record, scene->record, n_bytes) != 0;
        apply_photometric(&plain, record);
        assert_memory_equal(record, scene->record, n_bytes);
    }
    assert_int_equal(n_changed, N_FILES);
    free(record);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(a_record_depends_on_epoch_and_position_alone),
        TEST(colours_may_be_left_to_the_trainer),
        TEST(threads_make_the_same_records),
        TEST(without_shuffling_samples_come_in_index_order),
        TEST(the_next_good_sample_takes_the_place_of_a_bad_one),
        TEST(the_policy_fail_names_the_bad_file),
        TEST(a_repaired_image_is_used_and_counted),
        TEST(fetched_images_are_those_that_are_made),
        TEST(a_data_set_of_bad_images_ends_in_an_error),
        TEST(each_transform_has_its_probability),
        cmocka_unit_test(transforms_fall_upon_samples_independently),
        TEST(repeats_are_crops_of_one_sample_that_differ),
        TEST(a_flip_mirrors_whatever_else_is_done),
        TEST(resampling_is_as_the_spec_says),
        TEST(jitter_of_nothing_changes_nothing),
        TEST(views_of_one_sample_differ),
        TEST(evaluation_takes_the_centre_at_any_shape),
        cmocka_unit_test(the_self_test_is_the_same_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
