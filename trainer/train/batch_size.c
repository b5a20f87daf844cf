/* The largest batch that fits: plans are exact and grow with the batch, so bisection finds it. */
#include "trainer/train/batch_size.h"

#include "proto/base/memory.h"
#include "trainer/batch_upload.h"

enum { MARGIN_PARTS = 16 };

static const size_t largest_buffer_bytes = (size_t)4 << 30;

static enum status plan(struct batch_size_fit *fit, bool *fits, struct backend *backend,
                        const struct ibot_options *model, const struct data_spec *spec,
                        int32_t batch_size)
{
    struct ibot_options options = *model;
    struct ibot_plan plan;

    options.batch_size = batch_size;
    TRY(ibot_plan(&plan, &backend->device, backend->ops, &backend->collective, &options));
    fit->batch_size = batch_size;
    fit->planned_bytes = plan.bytes + batch_upload_bytes(spec, batch_size);
    *fits = fit->planned_bytes + fit->total_bytes / MARGIN_PARTS <= fit->free_bytes &&
            plan.largest_bytes < largest_buffer_bytes;
    return STATUS_OK;
}

/* Of this rank alone; 0: none. */
static enum status find(struct batch_size_fit *fit, struct backend *backend,
                        const struct ibot_options *model, const struct data_spec *spec)
{
    int32_t good = 0, bad = BATCH_SIZE_MOST / BATCH_SIZE_GRAIN + 1; /* in grains */
    bool fits;

    TRY(backend->device.memory(&backend->device, &fit->free_bytes, &fit->total_bytes));
    while (bad - good > 1) {
        int32_t middle = good + (bad - good) / 2;
        TRY(plan(fit, &fits, backend, model, spec, middle * BATCH_SIZE_GRAIN));
        *(fits ? &good : &bad) = middle;
    }
    fit->batch_size = good * BATCH_SIZE_GRAIN;
    return STATUS_OK;
}

/* The smallest of all ranks' batches; a rank that failed counts as one without room. */
static enum status smallest(struct collective *ranks, int32_t own, int32_t *out, int *rank)
{
    int32_t *all;

    TRY(memory_alloc(&all, (size_t)ranks->world, sizeof(*all), "batch sizes"));
    enum status status = ranks->all_gather(ranks, all, &own, sizeof(own));
    *rank = 0;
    for (int r = 0; r < ranks->world && status == STATUS_OK; r++)
        if (all[r] < all[*rank])
            *rank = r;
    *out = all[*rank];
    memory_free(all);
    return status;
}

enum status batch_size_choose(struct batch_size_fit *out, struct backend *backend,
                              const struct ibot_options *model, const struct data_spec *spec)
{
    struct batch_size_fit fit = {0};
    int32_t agreed;
    bool fits;
    int rank;

    CHECK(backend->device.memory != NULL, "a device without memory of its own");
    enum status status = find(&fit, backend, model, spec);
    TRY(smallest(&backend->collective, status == STATUS_OK ? fit.batch_size : 0, &agreed, &rank));
    TRY(status);
    TRY(plan(&fit, &fits, backend, model, spec, agreed > 0 ? agreed : BATCH_SIZE_GRAIN));
    if (agreed == 0 && rank == backend->collective.rank)
        FAIL(STATUS_NO_MEMORY,
             "--batch_size_per_gpu auto: a batch of %d wants %.1f MiB, and %.1f of %.1f MiB are "
             "free, of which a sixteenth of all is left alone; end what else runs there, or take "
             "--recompute blocks, a smaller network, or a number below %d",
             BATCH_SIZE_GRAIN, (double)fit.planned_bytes / 0x1p20, (double)fit.free_bytes / 0x1p20,
             (double)fit.total_bytes / 0x1p20, BATCH_SIZE_GRAIN);
    if (agreed == 0)
        FAIL(STATUS_NO_MEMORY, "--batch_size_per_gpu auto: rank %d has no room for a batch", rank);
    *out = fit;
    return STATUS_OK;
}
