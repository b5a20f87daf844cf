/* --batch_size_per_gpu auto: the largest batch that fits, by plans that hold. */
#include "trainer/train/batch_size.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/queued_device.h"
#include "tests/trainer/model_fixture.h"
#include "trainer/batch_upload.h"

static struct backend backend;
static struct data_spec spec;
static int32_t other_rank; /* what a second rank says; 0: there is none */

static enum status gather_two(struct collective *ranks, void *out, const void *own, size_t bytes)
{
    (void)ranks;
    assert_int_equal(bytes, sizeof(other_rank));
    memcpy(out, own, bytes);
    memcpy((char *)out + bytes, &other_rank, bytes);
    return STATUS_OK;
}

static void set_memory(size_t bytes)
{
    char text[32];

    snprintf(text, sizeof(text), "%zu", bytes);
    setenv("IBOT_QUEUED_MEMORY", text, 1);
}

static int open_backend(void **state)
{
    (void)state;
    memset(&backend, 0, sizeof(backend));
    collective_open_alone(&backend.collective);
    backend.ops = &op_table_queued;
    spec = data_spec_default();
    spec.n_global = spec.n_local = 2;
    spec.global_size_px = 32;
    spec.local_size_px = 16;
    return queued_device_open(&backend.device, 1) == STATUS_OK ? 0 : -1;
}

static int close_backend(void **state)
{
    (void)state;
    unsetenv("IBOT_QUEUED_MEMORY");
    device_close(&backend.device);
    return 0;
}

static size_t planned(struct ibot_options options, int32_t batch_size)
{
    struct ibot_plan plan;

    options.batch_size = batch_size;
    assert_int_equal(ibot_plan(&plan, &backend.device, backend.ops, &backend.collective, &options),
                     STATUS_OK);
    return plan.bytes + batch_upload_bytes(&spec, batch_size);
}

static void the_largest_batch_that_fits_is_found(void **state)
{
    struct ibot_options options = model_options_small();
    struct batch_size_fit fit;
    int32_t before = 0;

    (void)state;
    for (size_t mib = 8; mib <= 256; mib *= 2) {
        size_t total = mib << 20;
        set_memory(total);
        assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_OK);
        assert_int_equal(fit.batch_size % BATCH_SIZE_GRAIN, 0);
        assert_true(fit.batch_size > before);
        assert_int_equal(fit.planned_bytes, planned(options, fit.batch_size));
        assert_true(fit.planned_bytes <= total - total / 16);
        assert_true(planned(options, fit.batch_size + BATCH_SIZE_GRAIN) > total - total / 16);
        before = fit.batch_size;
    }
}

static void a_plan_is_what_the_model_takes(void **state)
{
    struct ibot_options options = model_options_small();
    struct ibot_plan plan;

    (void)state;
    options.precision = PRECISION_BF16;
    for (enum recompute level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        struct model_fixture f;
        options.recompute = level;
        options.residual_stream = level % 2 == 0 ? PRECISION_F32 : PRECISION_BF16;
        assert_int_equal(
            ibot_plan(&plan, &backend.device, backend.ops, &backend.collective, &options),
            STATUS_OK);
        model_fixture_open_queued(&f, &options);
        assert_int_equal(plan.bytes, ibot_device_bytes(f.ibot));
        assert_true(plan.largest_bytes < plan.bytes);
        model_fixture_close(&f);
    }
}

static void ranks_take_the_smallest_of_their_batches(void **state)
{
    struct ibot_options options = model_options_small();
    struct batch_size_fit fit;

    (void)state;
    set_memory(64 << 20);
    backend.collective.all_gather = gather_two;
    backend.collective.world = 2;
    other_rank = 16;
    assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_OK);
    assert_int_equal(fit.batch_size, 16);
    assert_int_equal(fit.planned_bytes, planned(options, 16));
    other_rank = BATCH_SIZE_MOST;
    assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_OK);
    assert_true(fit.batch_size > 16);
    other_rank = 0;
    assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_NO_MEMORY);
    assert_non_null(strstr(status_message(), "rank 1"));
}

static void memory_without_room_is_said(void **state)
{
    struct ibot_options options = model_options_small();
    struct batch_size_fit fit;

    (void)state;
    set_memory(1 << 20);
    assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_NO_MEMORY);
    assert_non_null(strstr(status_message(), "--batch_size_per_gpu auto"));
}

static void no_buffer_needs_more_than_32_bits(void **state)
{
    struct ibot_options options = model_options_small();
    struct batch_size_fit fit;
    struct ibot_plan plan;

    (void)state;
    options.backbone.embed_dim = 512;
    options.backbone.n_heads = 8;
    set_memory((size_t)1 << 42);
    assert_int_equal(batch_size_choose(&fit, &backend, &options, &spec), STATUS_OK);
    options.batch_size = fit.batch_size;
    assert_int_equal(ibot_plan(&plan, &backend.device, backend.ops, &backend.collective, &options),
                     STATUS_OK);
    assert_true(plan.largest_bytes < (size_t)1 << 32 && plan.largest_bytes > (size_t)1 << 31);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_backend, close_backend)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_largest_batch_that_fits_is_found),     TEST(a_plan_is_what_the_model_takes),
        TEST(ranks_take_the_smallest_of_their_batches), TEST(memory_without_room_is_said),
        TEST(no_buffer_needs_more_than_32_bits),
    };
    return cmocka_run_group_tests_name("trainer.batch_size", tests, NULL, NULL);
}
