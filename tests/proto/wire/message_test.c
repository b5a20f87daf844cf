/* Messages: what is packed comes back; what is too long, too many, or no message is refused. */
#include "proto/wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "proto/stream.pb-c.h"

static uint8_t bytes[MESSAGE_MAX_BYTES];
static struct message in, out;

static void round_trip(void)
{
    size_t n_bytes = message_pack(&out, bytes);
    memset(&in, 0xee, sizeof(in));
    assert_int_equal(message_unpack(&in, bytes, n_bytes), STATUS_OK);
    assert_int_equal(in.kind, out.kind);
    assert_int_equal(in.session, out.session);
}

static void hello_comes_back(void **state)
{
    (void)state;
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_HELLO;
    out.hello = (struct message_hello){.version = WIRE_VERSION,
                                       .instance = 1,
                                       .attempt = 2,
                                       .self_test = UINT64_MAX,
                                       .index_digest = 4,
                                       .n_samples = UINT32_MAX,
                                       .n_classes = 1000,
                                       .credit = MESSAGE_MAX_LEASES,
                                       .n_threads = 8,
                                       .name = "host:17"};
    round_trip();
    assert_memory_equal(&in.hello, &out.hello, offsetof(struct message_hello, name));
    assert_string_equal(in.hello.name, "host:17");
}

static void hello_of_another_version_says_only_that(void **state)
{
    (void)state;
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_HELLO;
    out.hello.version = WIRE_VERSION + 1; /* and a credit of 0, which ours could not have */
    round_trip();
    assert_int_equal(in.hello.version, WIRE_VERSION + 1);
}

static void spec_comes_back_whole(void **state)
{
    (void)state;
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_SPEC;
    out.session = 77;
    out.spec.attempt = 3;
    out.spec.data_spec = data_spec_default();
    out.spec.data_spec.seed = UINT64_MAX;
    out.spec.data_spec.order_seed = 1ULL << 63;
    out.spec.data_spec.pred_start_epoch = INT32_MAX;
    out.spec.digest = data_spec_digest(&out.spec.data_spec);
    round_trip();
    assert_int_equal(in.spec.digest, out.spec.digest);
    assert_int_equal(in.spec.attempt, 3);
    assert_int_equal(data_spec_digest(&in.spec.data_spec), out.spec.digest);
    out.spec.data_spec = data_spec_centre_crop(256, 224);
    out.spec.digest = data_spec_digest(&out.spec.data_spec);
    round_trip();
    assert_int_equal(data_spec_digest(&in.spec.data_spec), out.spec.digest);
    out.spec.data_spec = data_spec_fine_tuning(224);
    out.spec.data_spec.repeats = 3;
    out.spec.data_spec.interpolation = INTERPOLATION_RANDOM;
    out.spec.data_spec.rand_augment.fill[2] = 255;
    out.spec.digest = data_spec_digest(&out.spec.data_spec);
    round_trip();
    assert_int_equal(data_spec_digest(&in.spec.data_spec), out.spec.digest);
    assert_memory_equal(in.spec.data_spec.rand_augment.fill, out.spec.data_spec.rand_augment.fill,
                        sizeof(out.spec.data_spec.rand_augment.fill));
    out.spec.data_spec = data_spec_random_crop(224);
    out.spec.digest = data_spec_digest(&out.spec.data_spec);
    round_trip();
    assert_int_equal(data_spec_digest(&in.spec.data_spec), out.spec.digest);
}

static void a_spec_that_cannot_be_served_is_invalid(void **state)
{
    (void)state;
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_SPEC;
    out.session = 77;
    out.spec.data_spec = data_spec_default();
    out.spec.data_spec.hue = 3;
    out.spec.digest = data_spec_digest(&out.spec.data_spec);
    size_t n_bytes = message_pack(&out, bytes);
    assert_int_equal(message_unpack(&in, bytes, n_bytes), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "hue"));
    assert_int_equal(in.session, 77);
    out.spec.data_spec = data_spec_default();
    n_bytes = message_pack(&out, bytes);
    assert_int_equal(message_unpack(&in, bytes, n_bytes), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "digest"));
}

static void same_item(const struct lease_item *a, const struct lease_item *b)
{
    assert_int_equal(a->slice_id, b->slice_id);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->first_position, b->first_position);
    assert_int_equal(a->stride, b->stride);
    assert_int_equal(a->n_samples, b->n_samples);
}

static void lease_comes_back_with_every_item(void **state)
{
    (void)state;
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_LEASE;
    out.session = 5;
    out.lease.n_items = MESSAGE_MAX_LEASES;
    for (int32_t i = 0; i < MESSAGE_MAX_LEASES; i++)
        out.lease.items[i] = (struct lease_item){.slice_id = UINT64_MAX - (uint64_t)i,
                                                 .epoch = INT32_MAX,
                                                 .first_position = INT64_MAX / 2,
                                                 .stride = UINT32_MAX,
                                                 .n_samples = 1 + i % SLICE_MAX_SAMPLES};
    round_trip();
    assert_int_equal(in.lease.n_items, MESSAGE_MAX_LEASES);
    for (int32_t i = 0; i < MESSAGE_MAX_LEASES; i++)
        same_item(&in.lease.items[i], &out.lease.items[i]);
}

static void fill_slice(int32_t n_samples, int32_t n_bad, size_t n_text)
{
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_SLICE;
    out.session = UINT64_MAX;
    out.slice.lease = (struct lease_item){UINT64_MAX, INT32_MAX, INT64_MAX / 2, 1, n_samples};
    out.slice.spec_digest = 9;
    for (int32_t i = 0; i < n_samples; i++) {
        out.slice.index[i] = UINT32_MAX - (uint32_t)i;
        out.slice.label[i] = i % 2 == 0 ? INT32_MAX - i : -1;
        out.slice.n_substituted[i] = UINT32_MAX;
        out.slice.n_repaired[i] = UINT32_MAX - 7 * (uint32_t)i;
        out.slice.hash[i] = (uint64_t)i * 0x9e3779b97f4a7c15u;
    }
    out.slice.n_bad_images = n_bad;
    for (int32_t i = 0; i < n_bad; i++) {
        out.slice.bad_images[i].epoch = i;
        out.slice.bad_images[i].index = UINT32_MAX;
        out.slice.bad_images[i].sample = n_samples - 1 - i;
        out.slice.bad_images[i].kind = (enum bad_image_kind)(i % BAD_IMAGE_KINDS);
        memset(out.slice.bad_images[i].path, 'p', n_text);
        memset(out.slice.bad_images[i].reason, 'r', n_text);
    }
}

static void the_largest_slice_header_fits_a_frame(void **state)
{
    (void)state;
    fill_slice(SLICE_MAX_SAMPLES, MESSAGE_MAX_BAD_IMAGES, sizeof(in.slice.bad_images[0].path) - 1);
    round_trip();
    same_item(&in.slice.lease, &out.slice.lease);
    assert_int_equal(in.slice.spec_digest, 9);
    assert_memory_equal(in.slice.index, out.slice.index, sizeof(out.slice.index));
    assert_memory_equal(in.slice.label, out.slice.label, sizeof(out.slice.label));
    assert_memory_equal(in.slice.hash, out.slice.hash, sizeof(out.slice.hash));
    assert_memory_equal(in.slice.n_substituted, out.slice.n_substituted,
                        sizeof(out.slice.n_substituted));
    assert_memory_equal(in.slice.n_repaired, out.slice.n_repaired, sizeof(out.slice.n_repaired));
    assert_int_equal(in.slice.n_bad_images, MESSAGE_MAX_BAD_IMAGES);
    for (int32_t i = 0; i < MESSAGE_MAX_BAD_IMAGES; i++) {
        assert_int_equal(in.slice.bad_images[i].epoch, i);
        assert_int_equal(in.slice.bad_images[i].index, UINT32_MAX);
        assert_int_equal(in.slice.bad_images[i].sample, SLICE_MAX_SAMPLES - 1 - i);
        assert_int_equal(in.slice.bad_images[i].kind, i % BAD_IMAGE_KINDS);
        assert_string_equal(in.slice.bad_images[i].path, out.slice.bad_images[i].path);
        assert_string_equal(in.slice.bad_images[i].reason, out.slice.bad_images[i].reason);
    }
}

static void slices_without_substitutions_say_nothing_of_them(void **state)
{
    (void)state;
    fill_slice(16, 0, 0);
    memset(out.slice.n_substituted, 0, sizeof(out.slice.n_substituted));
    memset(out.slice.n_repaired, 0, sizeof(out.slice.n_repaired));
    memset(&in, 0xff, sizeof(in));
    round_trip();
    assert_memory_equal(in.slice.n_substituted, out.slice.n_substituted, 16 * sizeof(uint32_t));
    assert_memory_equal(in.slice.n_repaired, out.slice.n_repaired, 16 * sizeof(uint32_t));
}

static void short_messages_come_back(void **state)
{
    (void)state;
    const enum message_kind kinds[] = {MESSAGE_ALIVE, MESSAGE_HELLO_WANTED, MESSAGE_FINISHED};
    for (size_t i = 0; i < 3; i++) {
        memset(&out, 0, sizeof(out));
        out.kind = kinds[i];
        out.session = 1 + i;
        round_trip();
    }
    out.kind = MESSAGE_REJECT;
    out.reject.version = 4;
    strcpy(out.reject.reason, "because");
    round_trip();
    assert_int_equal(in.reject.version, 4);
    assert_string_equal(in.reject.reason, "because");
    out.kind = MESSAGE_FAILURE;
    out.failure.slice_id = 8;
    strcpy(out.failure.reason, "no");
    round_trip();
    assert_int_equal(in.failure.slice_id, 8);
    assert_string_equal(in.failure.reason, "no");
    out.kind = MESSAGE_GOODBYE;
    strcpy(out.goodbye.reason, "late");
    round_trip();
    assert_string_equal(in.goodbye.reason, "late");
}

static void texts_are_cut_and_lose_control_characters(void **state)
{
    (void)state;
    char text[8];
    message_copy_text(text, sizeof(text), "a\033[2J\n\177\303\251", 10);
    assert_string_equal(text, "a?[2J??");
    message_copy_text(text, sizeof(text), "\303\251\0x", 4);
    assert_string_equal(text, "\303\251?x");
    message_copy_text(text, sizeof(text), NULL, 0);
    assert_string_equal(text, "");
}

/* ---- what is refused ---- */

static void corrupt(size_t n_bytes)
{
    assert_int_equal(message_unpack(&in, bytes, n_bytes), STATUS_CORRUPT);
}

static size_t pack_raw(const Ibot__StreamMessage *envelope)
{
    assert_true(ibot__stream_message__get_packed_size(envelope) <= sizeof(bytes));
    return ibot__stream_message__pack(envelope, bytes);
}

static void frames_that_are_empty_too_long_or_cut_are_refused(void **state)
{
    (void)state;
    static uint8_t large[MESSAGE_MAX_BYTES + 1];
    assert_int_equal(message_unpack(&in, large, sizeof(large)), STATUS_CORRUPT);
    assert_int_equal(message_unpack(&in, large, 0), STATUS_CORRUPT);
    fill_slice(16, 1, 5);
    size_t n_bytes = message_pack(&out, bytes);
    for (size_t n = 1; n < n_bytes; n++)
        corrupt(n);
}

static void a_frame_has_exactly_one_message(void **state)
{
    (void)state;
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Alive alive = IBOT__ALIVE__INIT;
    Ibot__Finished finished = IBOT__FINISHED__INIT;
    envelope.payload = (ProtobufCBinaryData){4, (uint8_t *)"abcd"};
    corrupt(pack_raw(&envelope));
    envelope.alive = &alive;
    corrupt(pack_raw(&envelope));
    envelope.payload.len = 0;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    envelope.finished = &finished;
    corrupt(pack_raw(&envelope));
}

static void counts_beyond_their_limits_are_refused(void **state)
{
    (void)state;
    static uint32_t index[SLICE_MAX_SAMPLES + 1];
    static int32_t label[SLICE_MAX_SAMPLES + 1];
    static uint64_t hash[SLICE_MAX_SAMPLES + 1];
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Slice slice = IBOT__SLICE__INIT;
    envelope.slice = &slice;
    slice.stride = 1;
    slice.index = index;
    slice.label = label;
    slice.hash = hash;
    slice.n_index = slice.n_label = slice.n_hash = SLICE_MAX_SAMPLES;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    slice.n_index = slice.n_label = slice.n_hash = SLICE_MAX_SAMPLES + 1;
    corrupt(pack_raw(&envelope));
    slice.n_index = slice.n_label = slice.n_hash = 0;
    corrupt(pack_raw(&envelope));
    slice.n_index = slice.n_label = 2;
    slice.n_hash = 1;
    corrupt(pack_raw(&envelope));
    slice.n_hash = 3;
    corrupt(pack_raw(&envelope));
    slice.n_hash = 2;
    slice.stride = 0;
    corrupt(pack_raw(&envelope));
    slice.stride = 1;
    slice.first_position = UINT64_MAX;
    corrupt(pack_raw(&envelope));
    slice.first_position = 0;
    slice.epoch = UINT32_MAX;
    corrupt(pack_raw(&envelope));
    slice.epoch = 0;
    Ibot__BadImage image = IBOT__BAD_IMAGE__INIT, *images[MESSAGE_MAX_BAD_IMAGES + 1];
    for (int i = 0; i <= MESSAGE_MAX_BAD_IMAGES; i++)
        images[i] = &image;
    slice.bad_images = images;
    slice.n_bad_images = MESSAGE_MAX_BAD_IMAGES;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    slice.n_bad_images = MESSAGE_MAX_BAD_IMAGES + 1;
    corrupt(pack_raw(&envelope));
    slice.n_bad_images = 1;
    image.kind = (Ibot__BadImageKind)BAD_IMAGE_KINDS; /* of a later release */
    image.sample = 1;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    assert_int_equal(in.slice.bad_images[0].kind, BAD_IMAGE_UNKNOWN);
    image.sample = 2;
    corrupt(pack_raw(&envelope));
    slice.n_bad_images = 0;
    slice.n_repaired = index;
    slice.n_n_repaired = 1;
    corrupt(pack_raw(&envelope));
}

static void leases_and_credits_beyond_their_limits_are_refused(void **state)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Lease lease = IBOT__LEASE__INIT;
    Ibot__Lease__Item item = IBOT__LEASE__ITEM__INIT, *items[MESSAGE_MAX_LEASES + 1];
    Ibot__Hello hello = IBOT__HELLO__INIT;

    (void)state;
    item.stride = item.n_samples = 1;
    for (int i = 0; i <= MESSAGE_MAX_LEASES; i++)
        items[i] = &item;
    lease.items = items;
    lease.n_items = MESSAGE_MAX_LEASES;
    envelope.lease = &lease;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    lease.n_items = MESSAGE_MAX_LEASES + 1;
    corrupt(pack_raw(&envelope));
    lease.n_items = 0;
    corrupt(pack_raw(&envelope));
    envelope.lease = NULL;
    envelope.hello = &hello;
    hello.protocol_version = WIRE_VERSION;
    hello.credit = MESSAGE_MAX_LEASES;
    assert_int_equal(message_unpack(&in, bytes, pack_raw(&envelope)), STATUS_OK);
    hello.credit = MESSAGE_MAX_LEASES + 1;
    corrupt(pack_raw(&envelope));
    hello.credit = 0;
    corrupt(pack_raw(&envelope));
}

static void a_small_frame_cannot_make_protobuf_take_much_memory(void **state)
{
    (void)state;
    /* Empty items of a Lease: two bytes each on the wire, a struct and a pointer in memory. */
    size_t n_bytes = 0, n_items = 32000;
    bytes[n_bytes++] = 4 << 3 | 2;
    bytes[n_bytes++] = (uint8_t)(n_items * 2 & 0x7f) | 0x80;
    bytes[n_bytes++] = (uint8_t)(n_items * 2 >> 7 & 0x7f) | 0x80;
    bytes[n_bytes++] = (uint8_t)(n_items * 2 >> 14);
    for (size_t i = 0; i < n_items; i++) {
        bytes[n_bytes++] = 2 << 3 | 2;
        bytes[n_bytes++] = 0;
    }
    corrupt(n_bytes);
    assert_non_null(strstr(status_message(), "no message"));
}

static void fill_status(int32_t n_loaders, int32_t n_listed)
{
    memset(&out, 0, sizeof(out));
    out.kind = MESSAGE_STATUS;
    out.session = 9;
    struct message_status *status = &out.status;
    status->end_step = INT64_MAX;
    status->time_ns = INT64_MAX;
    status->n_images = UINT64_MAX;
    status->n_reissued = 3;
    status->n_repaired = 4;
    status->n_slots = 5;
    status->n_ready = 2;
    status->n_loaders = n_loaders;
    status->n_listed = n_listed;
    for (int32_t i = 0; i < n_listed && i < STATUS_MAX_LOADERS; i++) {
        struct status_loader *loader = &status->loaders[i];
        memset(loader->name, 'x', sizeof(loader->name) - 1);
        loader->n_images = UINT64_MAX - (uint64_t)i;
        loader->credit = 1 << 30;
        loader->silent_ms = UINT32_MAX;
    }
}

static void a_status_comes_back_with_the_stream_it_is_of(void **state)
{
    (void)state;
    fill_status(1000, STATUS_MAX_LOADERS);
    round_trip();
    assert_false(in.status.has_stream);
    assert_memory_equal(in.status.loaders, out.status.loaders, sizeof(out.status.loaders));
    out.status.has_stream = true;
    out.status.stream = (struct message_recording){.version = RECORDING_VERSION,
                                                   .rank = 3,
                                                   .world = 4,
                                                   .batch_size = 64,
                                                   .slice_size = 16,
                                                   .steps_per_epoch = 5004,
                                                   .first_step = 77,
                                                   .index_digest = 1,
                                                   .n_samples = 1281167,
                                                   .n_classes = 1000,
                                                   .data_spec = data_spec_default(),
                                                   .name = "host:1"};
    out.status.stream.spec_digest = data_spec_digest(&out.status.stream.data_spec);
    round_trip();
    assert_true(in.status.has_stream);
    assert_int_equal(in.status.stream.first_step, 77);
    assert_int_equal(in.status.stream.n_samples, 1281167);
    assert_int_equal(in.status.end_step, INT64_MAX);
    assert_int_equal(in.status.n_images, UINT64_MAX);
    assert_int_equal(in.status.n_reissued, 3);
    assert_int_equal(in.status.n_repaired, 4);
    assert_int_equal(in.status.n_ready, 2);
    assert_int_equal(in.status.n_loaders, 1000);
    out.status.stream.data_spec.hue = 3;
    out.status.stream.spec_digest = data_spec_digest(&out.status.stream.data_spec);
    assert_int_equal(message_unpack(&in, bytes, message_pack(&out, bytes)), STATUS_INVALID);
}

static void a_status_with_impossible_counts_is_refused(void **state)
{
    (void)state;
    fill_status(3, 4);
    corrupt(message_pack(&out, bytes));
    fill_status(-1, 0);
    corrupt(message_pack(&out, bytes));
    fill_status(0, 0);
    out.status.end_step = -1;
    corrupt(message_pack(&out, bytes));
    fill_status(4, 4);
    out.status.loaders[3].credit = -1;
    corrupt(message_pack(&out, bytes));
}

static void any_bytes_are_refused_or_understood(void **state)
{
    (void)state;
    struct rng rng = rng_open((struct rng_key){.seed = 1, .purpose = RNG_TEST});
    static uint8_t sound[MESSAGE_MAX_BYTES];
    fill_slice(40, 3, 20);
    size_t n_sound = message_pack(&out, sound);
    for (int round = 0; round < 20000; round++) {
        size_t n_bytes = n_sound;
        memcpy(bytes, sound, n_sound);
        for (uint32_t k = rng_below(&rng, 6) + 1; k > 0; k--)
            bytes[rng_below(&rng, round % 2 == 0 ? 64 : (uint32_t)n_sound)] =
                (uint8_t)rng_u32(&rng);
        if (round % 5 == 0)
            n_bytes = 1 + rng_below(&rng, (uint32_t)n_sound);
        enum status status = message_unpack(&in, bytes, n_bytes);
        assert_true(status == STATUS_OK || status == STATUS_CORRUPT || status == STATUS_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_comes_back),
        cmocka_unit_test(hello_of_another_version_says_only_that),
        cmocka_unit_test(spec_comes_back_whole),
        cmocka_unit_test(a_spec_that_cannot_be_served_is_invalid),
        cmocka_unit_test(lease_comes_back_with_every_item),
        cmocka_unit_test(the_largest_slice_header_fits_a_frame),
        cmocka_unit_test(slices_without_substitutions_say_nothing_of_them),
        cmocka_unit_test(short_messages_come_back),
        cmocka_unit_test(texts_are_cut_and_lose_control_characters),
        cmocka_unit_test(frames_that_are_empty_too_long_or_cut_are_refused),
        cmocka_unit_test(a_frame_has_exactly_one_message),
        cmocka_unit_test(counts_beyond_their_limits_are_refused),
        cmocka_unit_test(leases_and_credits_beyond_their_limits_are_refused),
        cmocka_unit_test(a_small_frame_cannot_make_protobuf_take_much_memory),
        cmocka_unit_test(a_status_comes_back_with_the_stream_it_is_of),
        cmocka_unit_test(a_status_with_impossible_counts_is_refused),
        cmocka_unit_test(any_bytes_are_refused_or_understood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
