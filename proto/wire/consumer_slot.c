/* Slots: where a batch lies in memory, what each slice of it is, and how image records, which have
 * all views of one image together, come to lie crop-major.
 *
 *   record of image i    [g0 g1 l0 … l9 mask0 mask1]
 *   slot                 [g0: image 0 … B-1][g1: …] [l0: …] … [mask0: …][mask1: …]   */
#include "proto/wire/consumer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { PART_ALIGNMENT = 256 }; /* of globals, locals and masks: what a device copy likes */

static size_t align(size_t bytes)
{
    return (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
}

struct slot_layout {
    size_t globals, locals, masks, photometric, total; /* bytes of each part, aligned */
};

static struct slot_layout slot_layout(const struct consumer *consumer)
{
    const struct data_spec *spec = &consumer->options.spec;
    size_t n = (size_t)consumer->options.batch_size, grid = (size_t)data_spec_mask_grid(spec);
    size_t local_bytes = spec->n_local > 0 ? data_spec_view_bytes(spec, spec->n_global) : 0;
    struct slot_layout layout = {
        .globals = align((size_t)spec->n_global * n * data_spec_view_bytes(spec, 0)),
        .locals = align((size_t)spec->n_local * n * local_bytes),
        .masks = align((size_t)spec->n_global * n * grid * grid),
        .photometric =
            align((size_t)(spec->n_global + spec->n_local) * n * data_spec_photometric_bytes(spec)),
    };
    layout.total = layout.globals + layout.locals + layout.masks + layout.photometric;
    return layout;
}

enum status consumer_make_slots(struct consumer *consumer)
{
    const struct consumer_options *options = &consumer->options;
    size_t n = (size_t)consumer->n_slots, n_samples = (size_t)options->batch_size;
    size_t bytes = slot_layout(consumer).total;

    TRY(memory_alloc(&consumer->slots, n, sizeof(struct slot), "batch slots"));
    for (size_t i = 0; i < n; i++) {
        struct slot *slot = &consumer->slots[i];
        if (options->alloc != NULL)
            TRY(options->alloc(options->alloc_context, (void **)&slot->memory, bytes));
        else
            TRY(memory_alloc(&slot->memory, 1, bytes, "batch slot"));
        TRY(memory_alloc(&slot->batch.samples, n_samples, sizeof(struct batch_sample),
                         "batch samples"));
        TRY(memory_alloc(&slot->batch.bad_images, BATCH_MAX_BAD_IMAGES, sizeof(struct bad_image),
                         "bad images"));
        TRY(memory_alloc(&slot->hashes, n_samples, sizeof(uint64_t), "record hashes"));
        TRY(memory_alloc(&slot->failures, (size_t)consumer->slices_per_batch, 1, "failures"));
        slot->batch.hashes = slot->hashes;
        slot->batch.slot = slot;
    }
    pthread_mutex_lock(&consumer->lock);
    for (int32_t i = 0; i < consumer->n_slots; i++)
        consumer->free[consumer->n_free++] = &consumer->slots[i];
    pthread_mutex_unlock(&consumer->lock);
    return STATUS_OK;
}

void consumer_free_slots(struct consumer *consumer)
{
    const struct consumer_options *options = &consumer->options;

    for (int32_t i = 0; consumer->slots != NULL && i < consumer->n_slots; i++) {
        struct slot *slot = &consumer->slots[i];
        if (slot->memory != NULL && options->free != NULL)
            options->free(options->alloc_context, slot->memory);
        else if (slot->memory != NULL && options->alloc == NULL)
            memory_free(slot->memory);
        memory_free(slot->batch.samples);
        memory_free(slot->batch.bad_images);
        memory_free(slot->hashes);
        memory_free(slot->failures);
    }
    memory_free(consumer->slots);
    consumer->slots = NULL;
    pthread_mutex_lock(&consumer->lock);
    consumer->n_free = consumer->n_ready = 0;
    pthread_mutex_unlock(&consumer->lock);
}

/* Samples of batch `number` of an epoch. */
static int64_t batch_samples(const struct consumer *consumer, int64_t number)
{
    const struct consumer_options *options = &consumer->options;
    int64_t n_local = (int64_t)data_spec_epoch_positions(
        &options->spec, consumer->thread_dataset.n_samples, (uint32_t)options->world);
    int64_t left = n_local - number * options->batch_size;

    return left < options->batch_size ? left : options->batch_size;
}

struct lease_item consumer_slice_of(const struct consumer *consumer, uint64_t slice_id)
{
    const struct consumer_options *options = &consumer->options;
    int64_t step = (int64_t)(slice_id / (uint64_t)consumer->slices_per_batch);
    int64_t first =
        (int64_t)(slice_id % (uint64_t)consumer->slices_per_batch) * options->slice_size;
    int64_t number = step % consumer->steps_per_epoch;
    int64_t n = batch_samples(consumer, number) - first;
    int64_t local = number * options->batch_size + first;

    n = n > options->slice_size ? options->slice_size : n;
    return (struct lease_item){
        .slice_id = slice_id,
        .epoch = (int32_t)(step / consumer->steps_per_epoch),
        .first_position = (uint64_t)(options->rank + options->world * local),
        .stride = (uint32_t)options->world,
        .n_samples = n > 0 ? (int32_t)n : 0,
    };
}

void consumer_slot_begin(struct consumer *consumer, struct slot *slot, int64_t step)
{
    const struct data_spec *spec = &consumer->options.spec;
    const struct slot_layout layout = slot_layout(consumer);
    struct batch *batch = &slot->batch;

    batch->step = step;
    batch->epoch = (int32_t)(step / consumer->steps_per_epoch);
    batch->n_samples = (int32_t)batch_samples(consumer, step % consumer->steps_per_epoch);
    batch->globals = slot->memory;
    batch->locals = spec->n_local > 0 ? slot->memory + layout.globals : NULL;
    batch->masks = layout.masks > 0 ? slot->memory + layout.globals + layout.locals : NULL;
    batch->photometric =
        layout.photometric > 0 ? slot->memory + layout.total - layout.photometric : NULL;
    batch->digest = 0;
    batch->n_bad_images = 0;
    slot->n_slices_left = consumer->slices_per_batch;
    memset(slot->failures, 0, (size_t)consumer->slices_per_batch);
}

/* One bit becomes one byte. */
static void expand_bits(uint8_t *out, const uint8_t *bits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(bits[i / 8] >> (i % 8) & 1);
}

void consumer_slot_put(const struct consumer *consumer, struct slot *slot, int32_t i,
                       const uint8_t *record)
{
    const struct data_spec *spec = &consumer->options.spec;
    const struct batch *batch = &slot->batch;
    size_t grid = (size_t)data_spec_mask_grid(spec), n_cells = grid * grid;
    size_t image = (size_t)i, n = (size_t)batch->n_samples;
    size_t global_bytes = data_spec_view_bytes(spec, 0);

    for (size_t view = 0; view < (size_t)spec->n_global; view++) {
        memcpy(batch->globals + (view * n + image) * global_bytes, record, global_bytes);
        record += global_bytes;
    }
    if (spec->n_local > 0) {
        size_t local_bytes = data_spec_view_bytes(spec, spec->n_global);
        for (size_t view = 0; view < (size_t)spec->n_local; view++) {
            memcpy(batch->locals + (view * n + image) * local_bytes, record, local_bytes);
            record += local_bytes;
        }
    }
    for (size_t view = 0; view < (size_t)spec->n_global && n_cells > 0; view++) {
        expand_bits(batch->masks + (view * n + image) * n_cells, record, n_cells);
        record += (n_cells + 7) / 8;
    }
    size_t params_bytes = data_spec_photometric_bytes(spec);
    size_t n_views = (size_t)(spec->n_global + spec->n_local);
    for (size_t view = 0; view < n_views && params_bytes > 0; view++) {
        memcpy(batch->photometric + (view * n + image) * params_bytes, record, params_bytes);
        record += params_bytes;
    }
}

void consumer_slot_note(struct slot *slot, int32_t first, const struct bad_image *image)
{
    struct batch *batch = &slot->batch;

    if (batch->n_bad_images == BATCH_MAX_BAD_IMAGES)
        return;
    batch->bad_images[batch->n_bad_images] = *image;
    batch->bad_images[batch->n_bad_images++].sample += first;
}

/* By sample, then by index: not by which slice came first. */
static int by_sample(const void *a, const void *b)
{
    const struct bad_image *x = a, *y = b;

    if (x->sample != y->sample)
        return x->sample < y->sample ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

void consumer_slot_end(struct slot *slot)
{
    struct batch *batch = &slot->batch;
    uint64_t digest = 0;

    if (batch->n_bad_images > 1)
        qsort(batch->bad_images, (size_t)batch->n_bad_images, sizeof(struct bad_image), by_sample);

    for (int32_t i = 0; i < batch->n_samples; i++) {
        const struct batch_sample *sample = &batch->samples[i];
        const uint64_t words[] = {sample->position, sample->index, (uint32_t)sample->label,
                                  sample->n_substituted, slot->hashes[i]};
        digest = hash_bytes_seeded(words, sizeof(words), digest);
    }
    batch->digest = digest;
}
