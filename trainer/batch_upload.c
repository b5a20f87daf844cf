/* Batches into device memory, and colours that were left to the trainer. */
#include "trainer/batch_upload.h"

#include <string.h>

#include "ops/pixels/photometric.h"
#include "proto/base/memory.h"

/* Marks of the device; the model has those before it. */
enum { MARK_TAKEN = 4, N_PLACES = 2 };

/* ------------------------------------------------------------------------------ memory */

struct sizes {
    size_t globals, locals, photometric;
};

static struct sizes sizes_of(const struct data_spec *spec, size_t n_images)
{
    return (struct sizes){
        .globals = n_images * (size_t)spec->n_global * data_spec_view_bytes(spec, 0),
        .locals = spec->n_local > 0 ? n_images * (size_t)spec->n_local *
                                          data_spec_view_bytes(spec, spec->n_global)
                                    : 0,
        .photometric =
            n_images * (size_t)(spec->n_global + spec->n_local) * data_spec_photometric_bytes(spec),
    };
}

static enum status alloc_place(struct batch_upload *upload, struct batch_place *place,
                               const struct sizes *sizes)
{
    struct device *device = upload->device;

    TRY(device->alloc(device, (void **)&place->globals, sizes->globals, "global crops"));
    if (sizes->locals > 0)
        TRY(device->alloc(device, (void **)&place->locals, sizes->locals, "local crops"));
    if (sizes->photometric > 0)
        TRY(device->alloc(device, (void **)&place->photometric, sizes->photometric,
                          "photometric params"));
    return STATUS_OK;
}

enum status batch_upload_open(struct batch_upload *out, struct device *device,
                              const struct op_table *ops, const struct data_spec *spec,
                              int32_t batch_size, bool keep_slots)
{
    struct sizes sizes = sizes_of(spec, (size_t)batch_size);

    *out = (struct batch_upload){.device = device, .ops = ops, .spec = *spec};
    CHECK(sizes.photometric == 0 || ops != NULL);
    if (device->kind != DEVICE_CPU)
        out->n_places = N_PLACES;
    else if (sizes.photometric > 0 && keep_slots)
        out->n_places = 1;
    for (int i = 0; i < out->n_places; i++)
        TRY(alloc_place(out, &out->places[i], &sizes));
    return STATUS_OK;
}

size_t batch_upload_bytes(const struct data_spec *spec, int32_t batch_size)
{
    struct sizes sizes = sizes_of(spec, (size_t)batch_size);
    return N_PLACES * (sizes.globals + sizes.locals + sizes.photometric);
}

/* Where a batch that was begun is. Slots are used again: one that comes anew is no longer where it
 * was before. */
static struct batch_place *place_of(struct batch_upload *upload, const struct batch *batch)
{
    for (int i = 0; i < upload->n_places; i++)
        if (upload->places[i].batch == batch)
            return &upload->places[i];
    return NULL;
}

/* ------------------------------------------------------------------------------ upload */

enum status batch_upload_begin(struct batch_upload *upload, const struct batch *batch)
{
    struct device *device = upload->device;
    struct batch_place *place = &upload->places[upload->next], *before = place_of(upload, batch);
    struct sizes sizes = sizes_of(&upload->spec, (size_t)batch->n_samples);

    if (upload->n_places == 0)
        return STATUS_OK;
    CHECK(!upload->under_way);
    TRY(device->upload_begin(device));
    if (before != NULL)
        before->batch = NULL;
    upload->under_way = true;
    place->batch = batch;
    upload->next = (upload->next + 1) % upload->n_places;
    TRY(device->upload(device, place->globals, batch->globals, sizes.globals));
    TRY(device->upload(device, place->locals, batch->locals, sizes.locals));
    return device->upload(device, place->photometric, batch->photometric, sizes.photometric);
}

static struct tensor crops(uint8_t *pixels, int64_t n, int32_t size_px)
{
    return n > 0 ? (struct tensor){pixels, DTYPE_U8, 4, {n, size_px, size_px, 3}}
                 : (struct tensor){0};
}

/* Colours of n crops, their parameters from `first` on. */
static enum status change_colours(const struct batch_upload *upload, struct tensor pixels,
                                  const uint8_t *params, int64_t first)
{
    int64_t bytes = (int64_t)data_spec_photometric_bytes(&upload->spec), n = pixels.shape[0];
    union {
        const uint8_t *in;
        void *data;
    } from = {.in = params + first * bytes};
    struct photometric_args args = {pixels, tensor_2d(from.data, DTYPE_U8, n, bytes)};
    return n > 0 ? upload->ops->photometric(upload->device, &args) : STATUS_OK;
}

enum status batch_upload_settle(struct batch_upload *upload)
{
    if (!upload->under_way || upload->settled)
        return STATUS_OK;
    upload->settled = true;
    return upload->device->upload_end(upload->device);
}

enum status batch_upload_take(struct batch_upload *upload, const struct batch *batch,
                              struct ibot_input *input)
{
    const struct data_spec *spec = &upload->spec;
    struct device *device = upload->device;
    struct batch_place *place = place_of(upload, batch);
    int64_t globals = (int64_t)spec->n_global * batch->n_samples;
    int64_t locals = (int64_t)spec->n_local * batch->n_samples;
    const uint8_t *params = batch->photometric;

    CHECK(upload->n_places == 0 || (place != NULL && upload->under_way));
    if (place != NULL) {
        TRY(batch_upload_settle(upload));
        upload->under_way = upload->settled = false;
        TRY(device->mark(device, MARK_TAKEN + (int)(place - upload->places)));
        params = place->photometric;
    }
    input->globals =
        crops(place != NULL ? place->globals : batch->globals, globals, spec->global_size_px);
    input->locals =
        crops(place != NULL ? place->locals : batch->locals, locals, spec->local_size_px);
    if (batch->photometric == NULL)
        return STATUS_OK;
    TRY(photometric_params_check(batch->photometric, globals + locals));
    TRY(change_colours(upload, input->globals, params, 0));
    return change_colours(upload, input->locals, params, globals);
}

enum status batch_upload_wait(struct batch_upload *upload, const struct batch *batch)
{
    struct batch_place *place = place_of(upload, batch);

    return place != NULL ? upload->device->wait_mark(upload->device,
                                                     MARK_TAKEN + (int)(place - upload->places))
                         : STATUS_OK;
}

enum status batch_upload_show(struct batch_upload *upload, const struct batch *batch,
                              struct batch *out, uint8_t **memory)
{
    struct batch_place *place = place_of(upload, batch);
    struct device *device = upload->device;
    struct sizes sizes = sizes_of(&upload->spec, (size_t)batch->n_samples);

    *out = *batch;
    *memory = NULL;
    if (batch->photometric == NULL || place == NULL)
        return STATUS_OK;
    TRY(memory_alloc(memory, sizes.globals + sizes.locals, 1, "crops"));
    out->globals = *memory;
    TRY(device->copy_out(device, out->globals, place->globals, sizes.globals));
    if (sizes.locals > 0) {
        out->locals = *memory + sizes.globals;
        TRY(device->copy_out(device, out->locals, place->locals, sizes.locals));
    }
    return device->synchronize(device);
}

void batch_upload_close(struct batch_upload *upload)
{
    struct device *device = upload->device;

    if (upload->under_way && batch_upload_settle(upload) == STATUS_OK)
        (void)!device->synchronize(device); /* a device that fails says so at its next use */
    for (int i = 0; i < upload->n_places; i++) {
        device->free(device, upload->places[i].globals);
        device->free(device, upload->places[i].locals);
        device->free(device, upload->places[i].photometric);
    }
    memset(upload, 0, sizeof(*upload));
}
