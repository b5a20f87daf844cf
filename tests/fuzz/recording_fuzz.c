/* Any bytes as a recording: opened, every slice read and found again, its steps, digests and drawn
 * parameters told. An input that begins with 'c' is not the file itself but its records, each a
 * length of three bytes and its data, so that mutations get past the sums. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/wire/recording.h"
#include "proto/wire/tfrecord.h"
#include "stream/sample.h"

enum { MAX_SHOWN = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Frames the chunks of an input. */
static void write_records(const char *path, const uint8_t *bytes, size_t n_bytes)
{
    struct tfrecord_writer *writer;

    if (tfrecord_writer_open(&writer, path, false) != STATUS_OK)
        abort();
    while (n_bytes >= 3) {
        size_t n = (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16;
        n = n > n_bytes - 3 ? n_bytes - 3 : n;
        struct iovec part = {(void *)(uintptr_t)(bytes + 3), n};
        if (tfrecord_writer_put(writer, &part, 1) != STATUS_OK)
            abort();
        bytes += 3 + n;
        n_bytes -= 3 + n;
    }
    if (tfrecord_writer_close(&writer) != STATUS_OK)
        abort();
}

/* What inspect tells of the first samples of a slice that was read. */
static void show(const struct recording *recording, FILE *out)
{
    const struct message_slice *slice = &recording->message.slice;

    for (int32_t i = 0; i < slice->lease.n_samples && i < MAX_SHOWN; i++) {
        struct sample sample = {.epoch = slice->lease.epoch,
                                .index = slice->index[i],
                                .made = true,
                                .width = 40,
                                .height = 30,
                                .n_repaired = slice->n_repaired[i],
                                .bad_images = slice->bad_images,
                                .n_bad_images = slice->n_bad_images};
        sample_print(out, &recording->info.data_spec, &sample, true);
        json_t *object = sample_json(&recording->info.data_spec, &sample, true);
        if (object == NULL)
            abort();
        json_decref(object);
    }
}

static void read_all(struct recording *recording, FILE *out)
{
    int64_t first, end;
    uint64_t digest;

    for (size_t i = 0; i < recording->n_files; i++) {
        recording_steps(recording, recording->files[i].rank, &first, &end);
        if (first > end)
            abort();
    }
    for (size_t i = 0; i < recording->n_slices; i++) {
        const struct lease_item *lease = &recording->slices[i].lease;
        uint64_t last =
            lease->first_position + (uint64_t)(lease->n_samples - 1) * (uint64_t)lease->stride;
        size_t slice;
        int32_t image;
        if (!recording_find(recording, lease->epoch, last, &slice, &image) || slice != i ||
            image != lease->n_samples - 1)
            abort();
        if (recording_read(recording, i) != STATUS_OK)
            continue;
        if (i < MAX_SHOWN)
            show(recording, out);
        if (recording_digest(recording, i, 1, &digest) != STATUS_OK)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static FILE *out;
    struct recording *recording = NULL;
    char path[64];
    int descriptor = memfd_create("recording", MFD_CLOEXEC);
    bool whole;

    if (out == NULL)
        out = fopen("/dev/null", "w");
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    if (n_bytes > 0 && bytes[0] == 'c')
        write_records(path, bytes + 1, n_bytes - 1);
    else if (write(descriptor, bytes, n_bytes) != (ssize_t)n_bytes)
        abort();
    if (recording_is_whole(path, &whole) != STATUS_OK)
        abort();
    if (recording_open(&recording, path) == STATUS_OK)
        read_all(recording, out);
    recording_close(&recording);
    close(descriptor);
    return 0;
}
