/* Reading recordings: an index of slices first, by skimming through the files, then any slice. */
#include "proto/wire/recording.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/wire/tfrecord.h"

enum {
    MAX_OPEN_FILES = 64,
    FRAME_BYTES = 64, /* what fields of a record take around their content, and more */
    HASHES_BYTES = SLICE_MAX_SAMPLES * 3 * DATA_SPEC_MAX_VIEWS * 8, /* of the parts, at most */
};
static const size_t max_record_bytes = (size_t)SLICE_MAX_SAMPLES * DATA_SPEC_MAX_RECORD_BYTES;

/* ---- a record ---- */

/* A varint; false when it is none. */
static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

enum status record_split(struct record *out, const uint8_t *bytes, size_t n_bytes, size_t length)
{
    const uint8_t *at = bytes, *end = bytes + n_bytes;

    *out = (struct record){.head = bytes};
    while (at < end) {
        const uint8_t *field = at;
        uint64_t tag, n;
        if (!get_varint(&at, end, &tag) || (tag & 7) != 2 || !get_varint(&at, end, &n))
            FAIL(STATUS_CORRUPT, "a record with something else than messages at byte %zu",
                 (size_t)(field - bytes));
        bool head = tag >> 3 < RECORDING_PART_HASH_TAG >> 3;
        if (n > length - (size_t)(at - bytes) ||
            (tag != RECORDING_PAYLOAD_TAG && n > (size_t)(end - at)))
            FAIL(STATUS_CORRUPT, "a record with a field of %llu bytes at byte %zu of %zu",
                 (unsigned long long)n, (size_t)(field - bytes), length);
        if (head && out->n_head == (size_t)(field - bytes)) {
            out->n_head = (size_t)(at - bytes) + (size_t)n;
        } else if (tag == RECORDING_PART_HASH_TAG && out->part_hashes == NULL && n % 8 == 0) {
            out->part_hashes = at;
            out->n_part_hashes = (size_t)n / 8;
        } else if (tag == RECORDING_PAYLOAD_TAG && n == length - (size_t)(at - bytes)) {
            out->payload = at;
            out->n_payload = (size_t)n;
            return STATUS_OK;
        } else {
            FAIL(STATUS_CORRUPT, "a record with field %llu out of place at byte %zu",
                 (unsigned long long)(tag >> 3), (size_t)(field - bytes));
        }
        at += n;
    }
    if (n_bytes != length)
        FAIL(STATUS_CORRUPT, "a record with a message of more than %zu bytes", n_bytes);
    return STATUS_OK;
}

uint64_t record_part_hash(const struct record *record, size_t i)
{
    uint64_t value = 0;

    for (int byte = 7; byte >= 0; byte--)
        value = value << 8 | record->part_hashes[8 * i + (size_t)byte];
    return value;
}

int32_t recording_parts(const struct data_spec *spec)
{
    int32_t n_views = spec->n_global + spec->n_local;

    return n_views + (data_spec_mask_grid(spec) > 0 ? spec->n_global : 0) +
           (data_spec_photometric_bytes(spec) > 0 ? n_views : 0);
}

struct recorded_part recording_part_of(const struct data_spec *spec, int32_t i)
{
    int32_t n_views = spec->n_global + spec->n_local;
    int32_t n_masks = data_spec_mask_grid(spec) > 0 ? spec->n_global : 0;

    if (i < n_views)
        return (struct recorded_part){RECORDED_VIEW, i};
    if (i < n_views + n_masks)
        return (struct recorded_part){RECORDED_MASK, i - n_views};
    return (struct recorded_part){RECORDED_COLOURS, i - n_views - n_masks};
}

void recording_part(const struct data_spec *spec, int32_t i, size_t *offset, size_t *n_bytes)
{
    struct recorded_part part = recording_part_of(spec, i);

    switch (part.kind) {
    case RECORDED_VIEW:
        *offset = data_spec_view_offset(spec, part.view);
        *n_bytes = data_spec_view_bytes(spec, part.view);
        break;
    case RECORDED_MASK:
        *offset = data_spec_mask_offset(spec, part.view);
        *n_bytes = data_spec_mask_bytes(spec);
        break;
    case RECORDED_COLOURS:
        *offset = data_spec_photometric_offset(spec, part.view);
        *n_bytes = data_spec_photometric_bytes(spec);
        break;
    }
}

/* ---- the index ---- */

/* Says where: the message that is set, in this file and at this byte. */
static enum status at_place(const struct recorded_file *file, uint64_t offset)
{
    char reason[512];

    snprintf(reason, sizeof(reason), "%s", status_message());
    FAIL(STATUS_CORRUPT, "'%s', record at byte %llu: %s", file->path, (unsigned long long)offset,
         reason);
}

/* What the header says must be what such a recording has there. Errors: STATUS_CORRUPT. */
static enum status check_slice(const struct recording *recording, const struct recorded_file *file,
                               const struct message_slice *slice, const struct record *record,
                               int64_t *step)
{
    const struct message_recording *info = &recording->info;
    const struct lease_item *lease = &slice->lease;
    uint64_t per_batch = (uint64_t)((info->batch_size + info->slice_size - 1) / info->slice_size);
    uint64_t world = (uint64_t)info->world, per_epoch = (uint64_t)info->steps_per_epoch;
    uint64_t number = lease->slice_id / per_batch, n_local = (info->n_samples + world - 1) / world;
    uint64_t first = number % per_epoch * (uint64_t)info->batch_size +
                     lease->slice_id % per_batch * (uint64_t)info->slice_size;
    uint64_t n = (uint64_t)lease->n_samples;

    if (number > INT64_MAX / (1 << 21) || number < (uint64_t)file->first_step ||
        number / per_epoch != (uint64_t)lease->epoch || first + n > n_local ||
        lease->first_position != (uint64_t)file->rank + world * first || lease->stride != world ||
        lease->n_samples > info->slice_size || slice->spec_digest != info->spec_digest)
        FAIL(STATUS_CORRUPT,
             "slice %llu of epoch %d, %d images from position %llu by %u, spec %016llx, is none of "
             "this recording",
             (unsigned long long)lease->slice_id, lease->epoch, lease->n_samples,
             (unsigned long long)lease->first_position, lease->stride,
             (unsigned long long)slice->spec_digest);
    if (record->n_payload != (info->pixels ? n * recording->record_bytes : 0) ||
        record->n_part_hashes != (info->pixels ? 0 : n * (uint64_t)recording->parts))
        FAIL(STATUS_CORRUPT, "slice %llu: %zu bytes of pixels and %zu hashes for %d images",
             (unsigned long long)lease->slice_id, record->n_payload, record->n_part_hashes,
             lease->n_samples);
    for (int32_t i = 0; i < lease->n_samples; i++)
        if (slice->index[i] >= info->n_samples || slice->label[i] < -1 ||
            slice->label[i] >= (info->n_classes > 0 ? info->n_classes : 1))
            FAIL(STATUS_CORRUPT,
                 "slice %llu: index %u and label %d in a data set of %llu images "
                 "and %d classes",
                 (unsigned long long)lease->slice_id, slice->index[i], slice->label[i],
                 (unsigned long long)info->n_samples, info->n_classes);
    *step = (int64_t)number;
    return STATUS_OK;
}

/* One record of a file. `last` is the id of the slice before it. */
static enum status index_record(struct recording *recording, uint32_t number, uint64_t offset,
                                const uint8_t *bytes, size_t n_bytes, size_t length)
{
    struct recorded_file *file = &recording->files[number];
    struct recorded_slice slice = {.file = number, .offset = offset};
    struct record record;

    if (file->finished)
        FAIL(STATUS_CORRUPT, "a record after the end");
    TRY(record_split(&record, bytes, n_bytes, length));
    TRY(message_unpack(&recording->message, record.head, record.n_head));
    if (recording->message.kind == MESSAGE_FINISHED) {
        file->finished = true;
        return STATUS_OK;
    }
    if (recording->message.kind != MESSAGE_SLICE)
        FAIL(STATUS_CORRUPT, "a message of kind %d where a slice was wanted",
             (int)recording->message.kind);
    TRY(check_slice(recording, file, &recording->message.slice, &record, &slice.step));
    slice.lease = recording->message.slice.lease;
    if (file->n_slices > 0 &&
        slice.lease.slice_id <= recording->slices[recording->n_slices - 1].lease.slice_id)
        FAIL(STATUS_CORRUPT, "slice %llu is out of order",
             (unsigned long long)slice.lease.slice_id);
    TRY(memory_grow(&recording->slices, &recording->slice_capacity, recording->n_slices + 1,
                    sizeof(slice), "recorded slices"));
    recording->slices[recording->n_slices++] = slice;
    file->n_slices++;
    return STATUS_OK;
}

/* All slices of a file whose head was read. */
static enum status index_file(struct recording *recording, uint32_t number)
{
    struct recorded_file *file = &recording->files[number];
    size_t most = MESSAGE_MAX_BYTES + FRAME_BYTES + (recording->info.pixels ? 0 : HASHES_BYTES);
    const uint8_t *bytes;
    size_t n_bytes, length;
    bool first = true;

    TRY(tfrecord_reader_open(&file->reader, file->path, max_record_bytes));
    for (;;) {
        uint64_t offset = tfrecord_reader_offset(file->reader);
        enum status status = tfrecord_reader_skim(file->reader, most, &bytes, &n_bytes, &length);
        if (status == STATUS_CLOSED)
            break;
        if (tfrecord_reader_torn(file->reader)) {
            file->torn = true;
            break;
        }
        TRY(status);
        if (!first) {
            status = index_record(recording, number, offset, bytes, n_bytes, length);
            if (status == STATUS_CORRUPT || status == STATUS_INVALID)
                return at_place(file, offset);
            TRY(status);
        }
        first = false;
    }
    tfrecord_reader_close(&file->reader);
    return STATUS_OK;
}

static int by_file(const void *a, const void *b)
{
    const struct recorded_file *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->first_step > y->first_step) - (x->first_step < y->first_step);
}

static int by_place(const void *a, const void *b)
{
    const struct lease_item *x = &((const struct recorded_slice *)a)->lease;
    const struct lease_item *y = &((const struct recorded_slice *)b)->lease;
    uint64_t rank_x = x->first_position % x->stride, rank_y = y->first_position % y->stride;

    if (x->epoch != y->epoch)
        return x->epoch < y->epoch ? -1 : 1;
    if (rank_x != rank_y)
        return rank_x < rank_y ? -1 : 1;
    return (x->first_position > y->first_position) - (x->first_position < y->first_position);
}

/* Drops the slices that a later file of the rank has again, sorts the rest. */
static void order_slices(struct recording *recording)
{
    size_t n = 0;

    for (size_t i = 0; i < recording->n_slices; i++) {
        const struct recorded_slice *slice = &recording->slices[i];
        size_t next = (size_t)slice->file + 1;
        bool later = next < recording->n_files &&
                     recording->files[next].rank == recording->files[slice->file].rank;
        if (!later || slice->step < recording->files[next].first_step)
            recording->slices[n++] = *slice;
    }
    recording->n_slices = n;
    if (n > 0)
        qsort(recording->slices, n, sizeof(recording->slices[0]), by_place);
}

/* ---- open ---- */

static enum status add_file(struct recording *recording, const char *path)
{
    struct message *message = &recording->message;
    bool found;

    TRY(recording_head(path, message, &found));
    if (!found)
        return STATUS_OK; /* its writer died at once */
    if (recording->n_files == 0)
        recording->info = message->recording;
    else if (recording_compare(&recording->info, &message->recording) != STATUS_OK) {
        char reason[512];
        snprintf(reason, sizeof(reason), "%s", status_message());
        FAIL(STATUS_MISMATCH, "'%s' and '%s' are of different runs: %s", recording->files[0].path,
             path, reason);
    }
    TRY(memory_grow(&recording->files, &recording->file_capacity, recording->n_files + 1,
                    sizeof(recording->files[0]), "recorded files"));
    struct recorded_file *file = &recording->files[recording->n_files];
    TRY(memory_strdup(&file->path, path));
    recording->n_files++;
    file->rank = message->recording.rank;
    file->first_step = message->recording.first_step;
    return STATUS_OK;
}

enum status recording_open(struct recording **out, const char *path)
{
    struct recording *recording = NULL;
    char **paths = NULL;
    size_t n = 0;
    enum status status;

    TRY(memory_alloc(&recording, 1, sizeof(*recording), "recording"));
    recording->current = SIZE_MAX;
    recording->lock = -1;
    TRY_OUT(recording_lock(&recording->lock, path, true));
    TRY_OUT(recording_list(path, &paths, &n));
    for (size_t i = 0; i < n; i++)
        TRY_OUT(add_file(recording, paths[i]));
    if (recording->n_files == 0)
        FAIL_OUT(STATUS_NOT_FOUND,
                 "'%s' holds no recording: wanted files rank….tfrecord with a whole first record, "
                 "as ibot-train --record writes them",
                 path);
    recording->parts = recording_parts(&recording->info.data_spec);
    recording->record_bytes = data_spec_record_bytes(&recording->info.data_spec);
    qsort(recording->files, recording->n_files, sizeof(recording->files[0]), by_file);
    for (size_t i = 1; i < recording->n_files; i++)
        if (by_file(&recording->files[i - 1], &recording->files[i]) == 0)
            FAIL_OUT(STATUS_MISMATCH, "'%s' and '%s' both begin at step %lld of rank %d",
                     recording->files[i - 1].path, recording->files[i].path,
                     (long long)recording->files[i].first_step, recording->files[i].rank);
    for (size_t i = 0; i < recording->n_files; i++)
        TRY_OUT(index_file(recording, (uint32_t)i));
    order_slices(recording);
    *out = recording;
    recording = NULL;
out:
    for (size_t i = 0; i < n; i++)
        memory_free(paths[i]);
    memory_free(paths);
    recording_close(&recording);
    return status;
}

enum status recording_share(struct recording **out, const struct recording *recording)
{
    struct recording *other = NULL;

    TRY(memory_alloc(&other, 1, sizeof(*other), "recording"));
    other->shared = true;
    other->info = recording->info;
    other->slices = recording->slices;
    other->n_slices = recording->n_slices;
    other->parts = recording->parts;
    other->record_bytes = recording->record_bytes;
    other->current = SIZE_MAX;
    other->lock = -1;
    enum status status =
        memory_alloc(&other->files, recording->n_files, sizeof(other->files[0]), "recorded files");
    if (status != STATUS_OK) {
        recording_close(&other);
        return status;
    }
    for (; other->n_files < recording->n_files; other->n_files++) {
        other->files[other->n_files] = recording->files[other->n_files];
        other->files[other->n_files].reader = NULL;
    }
    *out = other;
    return STATUS_OK;
}

void recording_close(struct recording **address)
{
    struct recording *recording = address != NULL ? *address : NULL;

    if (recording == NULL)
        return;
    for (size_t i = 0; i < recording->n_files; i++) {
        tfrecord_reader_close(&recording->files[i].reader);
        if (!recording->shared)
            memory_free(recording->files[i].path);
    }
    if (recording->lock >= 0)
        close(recording->lock);
    memory_free(recording->files);
    if (!recording->shared)
        memory_free(recording->slices);
    memory_free(recording);
    *address = NULL;
}

/* ---- read ---- */

static enum status open_reader(struct recording *recording, struct recorded_file *file)
{
    if (file->reader != NULL)
        return STATUS_OK;
    if (recording->n_open >= MAX_OPEN_FILES) {
        for (size_t i = 0; i < recording->n_files; i++)
            tfrecord_reader_close(&recording->files[i].reader);
        recording->n_open = 0;
    }
    TRY(tfrecord_reader_open(&file->reader, file->path, max_record_bytes));
    recording->n_open++;
    return STATUS_OK;
}

/* The record is the one of the index still, and what it carries has the hashes that it says. */
static enum status check_read(struct recording *recording, const struct recorded_slice *want)
{
    const struct message_slice *slice = &recording->message.slice;
    int64_t step;

    if (recording->message.kind != MESSAGE_SLICE || slice->lease.slice_id != want->lease.slice_id)
        FAIL(STATUS_CORRUPT, "it is not slice %llu any more: the file was changed meanwhile",
             (unsigned long long)want->lease.slice_id);
    TRY(check_slice(recording, &recording->files[want->file], slice, &recording->record, &step));
    for (int32_t i = 0; recording->info.pixels && i < slice->lease.n_samples; i++) {
        const uint8_t *image = recording->record.payload + (size_t)i * recording->record_bytes;
        if (hash_bytes(image, recording->record_bytes) != slice->hash[i])
            FAIL(STATUS_CORRUPT, "step %lld: image %d of slice %llu (index %u) has not its hash",
                 (long long)want->step, i, (unsigned long long)want->lease.slice_id,
                 slice->index[i]);
    }
    return STATUS_OK;
}

enum status recording_read(struct recording *recording, size_t i)
{
    const struct recorded_slice *want = &recording->slices[i];
    struct recorded_file *file = &recording->files[want->file];
    const uint8_t *bytes;
    size_t n_bytes;

    CHECK(i < recording->n_slices);
    if (recording->current == i)
        return STATUS_OK;
    recording->current = SIZE_MAX;
    TRY(open_reader(recording, file));
    if (tfrecord_reader_offset(file->reader) != want->offset)
        TRY(tfrecord_reader_seek(file->reader, want->offset));
    TRY(tfrecord_reader_next(file->reader, &bytes, &n_bytes));
    enum status status = record_split(&recording->record, bytes, n_bytes, n_bytes);
    if (status == STATUS_OK)
        status =
            message_unpack(&recording->message, recording->record.head, recording->record.n_head);
    if (status == STATUS_OK)
        status = check_read(recording, want);
    if (status == STATUS_CORRUPT || status == STATUS_INVALID)
        return at_place(file, want->offset);
    TRY(status);
    recording->current = i;
    return STATUS_OK;
}

bool recording_find(const struct recording *recording, int32_t epoch, uint64_t position,
                    size_t *slice, int32_t *image)
{
    uint64_t world = (uint64_t)recording->info.world;
    struct recorded_slice key = {
        .lease = {.epoch = epoch, .first_position = position, .stride = (uint32_t)world}};
    size_t low = 0, high = recording->n_slices; /* the first slice beyond the position */

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_place(&recording->slices[middle], &key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    const struct lease_item *lease = &recording->slices[low - 1].lease;
    if (lease->epoch != epoch || lease->first_position % world != position % world ||
        (position - lease->first_position) / world >= (uint64_t)lease->n_samples)
        return false;
    *slice = low - 1;
    *image = (int32_t)((position - lease->first_position) / world);
    return true;
}

void recording_steps(const struct recording *recording, int32_t rank, int64_t *first, int64_t *end)
{
    const struct message_recording *info = &recording->info;
    uint64_t per_batch = (uint64_t)((info->batch_size + info->slice_size - 1) / info->slice_size);
    uint64_t next = 0;

    *first = *end = 0;
    for (size_t i = 0; i < recording->n_slices; i++) {
        const struct recorded_slice *slice = &recording->slices[i];
        if (recording->files[slice->file].rank != rank)
            continue;
        if (next == 0)
            *first = slice->step;
        else if (slice->lease.slice_id != next)
            break;
        next = slice->lease.slice_id + 1;
        uint64_t left = (uint64_t)info->batch_size -
                        slice->lease.slice_id % per_batch * (uint64_t)info->slice_size;
        if ((uint64_t)slice->lease.n_samples < left &&
            slice->lease.n_samples < info->slice_size) /* a short batch ends with it */
            next = ((uint64_t)slice->step + 1) * per_batch;
    }
    *end = next == 0 ? 0 : (int64_t)(next / per_batch);
}

enum status recording_digest(struct recording *recording, size_t slice, size_t n, uint64_t *out)
{
    uint64_t digest = 0;

    for (size_t i = slice; i < slice + n; i++) {
        TRY(recording_read(recording, i));
        const struct message_slice *s = &recording->message.slice;
        for (int32_t j = 0; j < s->lease.n_samples; j++) {
            uint64_t position = s->lease.first_position + (uint64_t)j * s->lease.stride;
            const uint64_t words[] = {position, s->index[j], (uint32_t)s->label[j],
                                      s->n_substituted[j], s->hash[j]};
            digest = hash_bytes_seeded(words, sizeof(words), digest);
        }
    }
    *out = digest;
    return STATUS_OK;
}
