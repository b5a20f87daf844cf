/* The way of batches into an accelerator's memory, as slots and places for them are used again. */
#include "trainer/batch_upload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/photometric.h"
#include "tests/support/queued_device.h"

enum { BATCH = 2, GLOBAL_BYTES = BATCH * 2 * 8 * 8 * 3, LOCAL_BYTES = BATCH * 2 * 4 * 4 * 3 };

struct slot {
    struct batch batch;
    uint8_t globals[GLOBAL_BYTES], locals[LOCAL_BYTES];
    struct photometric_params params[4 * BATCH]; /* of a spec that leaves colours to the trainer */
};

static struct device device;
static struct batch_upload upload;
static struct slot slots[3];

static int open_for(enum photometric_place place)
{
    struct data_spec spec = data_spec_default();

    spec.photometric = place;
    spec.n_global = spec.n_local = 2;
    spec.global_size_px = 8;
    spec.local_size_px = 4;
    memset(slots, 0, sizeof(slots));
    for (int i = 0; i < 3; i++)
        slots[i].batch = (struct batch){
            .n_samples = BATCH, .globals = slots[i].globals, .locals = slots[i].locals};
    if (queued_device_open(&device, 1) != STATUS_OK)
        return -1;
    return batch_upload_open(&upload, &device, &op_table_queued, &spec, BATCH, false) == STATUS_OK
               ? 0
               : -1;
}

static int open_upload(void **state)
{
    (void)state;
    return open_for(PHOTOMETRIC_BY_LOADER);
}

static int open_with_colours(void **state)
{
    (void)state;
    if (open_for(PHOTOMETRIC_BY_TRAINER) != 0)
        return -1;
    for (int i = 0; i < 3; i++)
        slots[i].batch.photometric = (uint8_t *)slots[i].params;
    return 0;
}

static int close_upload(void **state)
{
    (void)state;
    batch_upload_close(&upload);
    device_close(&device);
    return 0;
}

/* Another batch in the slot, all of whose pixels are `value`. */
static struct batch *fill(int slot, uint8_t value)
{
    memset(slots[slot].globals, value, GLOBAL_BYTES);
    memset(slots[slot].locals, value, LOCAL_BYTES);
    return &slots[slot].batch;
}

static void begin(int slot, uint8_t value)
{
    assert_int_equal(batch_upload_begin(&upload, fill(slot, value)), STATUS_OK);
}

static struct ibot_input take(int slot)
{
    struct ibot_input input = {0};

    assert_int_equal(batch_upload_take(&upload, &slots[slot].batch, &input), STATUS_OK);
    return input;
}

/* The slot may be written again: done so at once, as a consumer would. */
static void give_back(int slot)
{
    assert_int_equal(batch_upload_wait(&upload, &slots[slot].batch), STATUS_OK);
    fill(slot, 0xee);
}

static void expect_pixels(const struct ibot_input *input, uint8_t value)
{
    const uint8_t *globals = input->globals.data, *locals = input->locals.data;

    assert_int_equal(device.synchronize(&device), STATUS_OK);
    for (int i = 0; i < GLOBAL_BYTES; i++)
        assert_int_equal(globals[i], value);
    for (int i = 0; i < LOCAL_BYTES; i++)
        assert_int_equal(locals[i], value);
}

/* As when the trainer waits for each batch. */
static void a_slot_may_come_again_at_once(void **state)
{
    (void)state;
    for (uint8_t value = 1; value < 6; value++) {
        begin(0, value);
        struct ibot_input input = take(0);
        give_back(0);
        expect_pixels(&input, value);
    }
}

/* As when batches are there before they are needed. */
static void the_next_batch_comes_beside_the_step_on_this_one(void **state)
{
    (void)state;
    begin(0, 1);
    for (int i = 0; i < 7; i++) {
        struct ibot_input input = take(i % 3);
        begin((i + 1) % 3, (uint8_t)(i + 2));
        expect_pixels(&input, (uint8_t)(i + 1));
        give_back(i % 3);
    }
    (void)take(7 % 3);
}

/* Slots of a pool come back in any order: here each twice. */
static void slots_come_again_in_any_order(void **state)
{
    static const int order[] = {0, 1, 1, 0, 0, 2, 2, 2, 1, 0, 1};

    (void)state;
    for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++) {
        begin(order[i], (uint8_t)(10 + i));
        struct ibot_input input = take(order[i]);
        give_back(order[i]);
        expect_pixels(&input, (uint8_t)(10 + i));
    }
}

/* Parameters lie in the order of the views: those of global crops, then of local ones. */
static void each_crop_has_its_own_colours(void **state)
{
    struct ibot_input input;

    (void)state;
    for (int i = 0; i < 4 * BATCH; i++) /* local crops are inverted */
        slots[0].params[i].steps = i < 2 * BATCH ? 0 : PHOTOMETRIC_SOLARIZE;
    begin(0, 10);
    input = take(0);
    give_back(0);
    assert_int_equal(device.synchronize(&device), STATUS_OK);
    for (int i = 0; i < GLOBAL_BYTES; i++)
        assert_int_equal(((const uint8_t *)input.globals.data)[i], 10);
    for (int i = 0; i < LOCAL_BYTES; i++)
        assert_int_equal(((const uint8_t *)input.locals.data)[i], 245);
}

static void colours_that_no_operation_is_defined_for_are_refused(void **state)
{
    struct ibot_input input = {0};

    (void)state;
    slots[0].params[4 * BATCH - 1].order[3] = 9;
    begin(0, 10);
    assert_int_equal(batch_upload_take(&upload, &slots[0].batch, &input), STATUS_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_slot_may_come_again_at_once, open_upload, close_upload),
        cmocka_unit_test_setup_teardown(the_next_batch_comes_beside_the_step_on_this_one,
                                        open_upload, close_upload),
        cmocka_unit_test_setup_teardown(slots_come_again_in_any_order, open_upload, close_upload),
        cmocka_unit_test_setup_teardown(each_crop_has_its_own_colours, open_with_colours,
                                        close_upload),
        cmocka_unit_test_setup_teardown(colours_that_no_operation_is_defined_for_are_refused,
                                        open_with_colours, close_upload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
