/* The pool makes the slices that one thread would make, reports bad images with them, and gives
 * every job back. */
#include "loader/pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loader/view.h"
#include "proto/base/memory.h"
#include "proto/base/queue.h"
#include "tests/loader/folder.h"

enum { N_FILES = 20, N_JOBS = 9, SLICE = 4 };

struct scene {
    struct folder *folder;
    struct index index;
    struct order *order;
    struct data_spec spec;
    struct queue *done;
};

static int scene_open(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    char name[64];
    uint8_t bytes[16 + 3 * 30 * 20];

    folder_open((void **)&scene->folder);
    for (unsigned i = 0; i < N_FILES; i++) {
        int n = sprintf((char *)bytes, "P6 30 20 255\n");
        for (unsigned j = 0; j < 3 * 30 * 20; j++)
            bytes[n + (int)j] = (uint8_t)(j * (i + 3) * 97u >> 3);
        snprintf(name, sizeof(name), "c/%02u.ppm", i);
        folder_put(scene->folder, name, bytes, i == 7 ? 50 : (size_t)n + 3 * 30 * 20);
    }
    assert_int_equal(index_build(&scene->index, scene->folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(order_open(&scene->order, N_FILES), STATUS_OK);
    assert_int_equal(queue_open(&scene->done, N_JOBS), STATUS_OK);
    scene->spec = data_spec_default();
    scene->spec.global_size_px = 32;
    scene->spec.local_size_px = 16;
    scene->spec.n_local = 2;
    *state = scene;
    return 0;
}

static int scene_close(void **state)
{
    struct scene *scene = *state;

    queue_close(&scene->done);
    order_close(&scene->order);
    index_close(&scene->index);
    folder_close((void **)&scene->folder);
    free(scene);
    return 0;
}

static void take(void *context, struct slice_job *job)
{
    struct scene *scene = context;
    CHECK(queue_push(scene->done, job, INT64_MAX) == STATUS_OK);
}

static struct slice_job job_of(const struct scene *scene, int i)
{
    return (struct slice_job){
        .spec = &scene->spec,
        .consumer = i % 2,
        .slice_id = (uint64_t)i,
        .epoch = 1,
        .first_position = (uint64_t)i,
        .stride = 3,
        .n_samples = SLICE,
    };
}

static struct pool *pool_of(struct scene *scene, int n_threads)
{
    struct pool_options options = {.index = &scene->index,
                                   .order = scene->order,
                                   .n_threads = n_threads,
                                   .n_consumers = 2,
                                   .capacity = N_JOBS,
                                   .done = take,
                                   .context = scene};
    struct pool *pool = NULL;

    assert_int_equal(pool_open(&pool, &options), STATUS_OK);
    return pool;
}

static void release(struct slice_job *job)
{
    memory_free(job->payload);
    memory_free(job->bad_images);
}

static void check_against_one_thread(const struct scene *scene, struct slice_job *job)
{
    struct view_maker maker;
    struct batch_sample sample;
    size_t n_bytes = data_spec_record_bytes(&scene->spec), n_bad = 0;
    uint8_t *record = calloc(1, n_bytes);

    assert_int_equal(job->status, STATUS_OK);
    assert_int_equal(view_maker_open(&maker, &scene->index, scene->order), STATUS_OK);
    for (unsigned i = 0; i < SLICE; i++) {
        assert_int_equal(view_make(&maker, &scene->spec, 1, job->first_position + 3 * i, record,
                                   &sample, NULL, NULL),
                         STATUS_OK);
        assert_memory_equal(job->payload + i * n_bytes, record, n_bytes);
        assert_memory_equal(&job->samples[i], &sample, sizeof(sample));
        n_bad += sample.n_substituted;
    }
    assert_int_equal(job->n_bad_images, n_bad);
    for (size_t i = 0; i < n_bad; i++) {
        assert_int_equal(job->bad_images[i].index, 7);
        assert_int_equal(job->bad_images[i].epoch, 1);
        assert_non_null(strstr(job->bad_images[i].path, "07.ppm"));
        assert_non_null(strstr(job->bad_images[i].reason, "truncated"));
        assert_int_equal(job->bad_images[i].kind, BAD_IMAGE_CORRUPT);
        assert_in_range(job->bad_images[i].sample, 0, SLICE - 1);
        assert_true(job->samples[job->bad_images[i].sample].n_substituted > 0);
    }
    view_maker_close(&maker);
    free(record);
}

static void slices_are_those_of_one_thread(void **state)
{
    struct scene *scene = *state;
    struct slice_job jobs[N_JOBS];
    struct pool *pool = NULL;
    size_t n_bad = 0;
    void *job;

    for (int n_threads = 1; n_threads <= 4; n_threads += 3) {
        pool = pool_of(scene, n_threads);
        for (int i = 0; i < N_JOBS; i++) {
            jobs[i] = job_of(scene, i);
            pool_submit(pool, &jobs[i]);
        }
        for (int i = 0; i < N_JOBS; i++)
            assert_int_equal(queue_pop(scene->done, &job, INT64_MAX), STATUS_OK);
        struct pool_stats stats;
        pool_stats(pool, &stats);
        pool_close(&pool);
        n_bad = 0;
        for (int i = 0; i < N_JOBS; i++) {
            check_against_one_thread(scene, &jobs[i]);
            n_bad += jobs[i].n_bad_images;
            release(&jobs[i]);
        }
        assert_int_equal(stats.n_bad[BAD_IMAGE_CORRUPT], n_bad);
        assert_int_equal(stats.n_bad[BAD_IMAGE_MISSING], 0);
        assert_int_equal(stats.n_repaired, 0);
    }
    assert_true(n_bad > 0); /* the broken file was met */
}

static void closing_gives_every_job_back(void **state)
{
    struct scene *scene = *state;
    struct slice_job jobs[N_JOBS];
    struct pool *pool = NULL;

    pool = pool_of(scene, 2);
    for (int i = 0; i < N_JOBS; i++) {
        jobs[i] = job_of(scene, i);
        pool_submit(pool, &jobs[i]);
    }
    pool_close(&pool);
    pool_close(&pool);
    assert_int_equal(queue_length(scene->done), N_JOBS);
    for (int i = 0; i < N_JOBS; i++) {
        assert_true(jobs[i].status == STATUS_OK || jobs[i].status == STATUS_CLOSED);
        release(&jobs[i]);
    }
}

static void a_failed_slice_says_why(void **state)
{
    struct scene *scene = *state;
    struct slice_job jobs[N_FILES];
    struct pool *pool = NULL;
    int n_failed = 0;
    void *job;

    scene->spec.bad_image_policy = BAD_IMAGE_FAIL;
    scene->spec.shuffle = false;
    pool = pool_of(scene, 2);
    for (int i = 0; i < 5; i++) {
        jobs[i] = job_of(scene, 4 * i);
        jobs[i].stride = 1;
        pool_submit(pool, &jobs[i]);
        assert_int_equal(queue_pop(scene->done, &job, INT64_MAX), STATUS_OK);
        if (jobs[i].status != STATUS_OK) {
            n_failed++;
            assert_int_equal(i, 1); /* samples 4 to 7 */
            assert_int_equal(jobs[i].status, STATUS_CORRUPT);
            assert_non_null(strstr(jobs[i].reason, "07.ppm"));
        }
        release(&jobs[i]);
    }
    assert_int_equal(n_failed, 1);
    pool_close(&pool);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(slices_are_those_of_one_thread),
        TEST(closing_gives_every_job_back),
        TEST(a_failed_slice_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
