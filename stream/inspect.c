/* ibot-stream inspect: what is in a recording. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "proto/base/log.h"
#include "proto/wire/recording.h"
#include "stream/command.h"

struct inspect_options {
    bool samples;
    int64_t first_step, last_step;
};

static struct inspect_options values;

#define AT(field) .offset = offsetof(struct inspect_options, field)

static const struct option_spec specs[] = {
    {.name = "samples",
     .type = OPTION_BOOL,
     AT(samples),
     .text = "off",
     .group = "What to show",
     .help = "every sample of every step: position, index in the data set, label, hash"},
    {.name = "first_step",
     .type = OPTION_INT64,
     AT(first_step),
     .text = "0",
     .minimum = 0,
     .maximum = 9e18,
     .help = "leave out steps before this one"},
    {.name = "last_step",
     .type = OPTION_INT64,
     AT(last_step),
     .text = "-1",
     .minimum = -1,
     .maximum = 9e18,
     .help = "leave out steps after this one; -1: none"},
};

static const struct options_program program = {
    .name = "ibot-stream inspect",
    .summary = "Show what is in a recording; check every sum and hash in it.",
    .epilogue = "One line per step: its number, rank, epoch, images and the digest of the batch, "
                "as --log_digests of ibot-train writes it.\n\n"
                "  ibot-stream inspect runs/small/recording",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "RECORDING",
    .min_positional = 1,
    .max_positional = 1,
};

static void show_spec(const struct data_spec *spec)
{
    if (spec->kind == DATA_CENTRE_CROP) {
        printf("samples: centre crop of %d px from a shorter side of %d px\n", spec->global_size_px,
               spec->resize_px);
        return;
    }
    printf("samples: %d global crops of %d px, scale %g to %g; %d local crops of %d px, scale %g "
           "to %g; seed %llu, order seed %llu\n",
           spec->n_global, spec->global_size_px, (double)spec->global_scale[0],
           (double)spec->global_scale[1], spec->n_local, spec->local_size_px,
           (double)spec->local_scale[0], (double)spec->local_scale[1],
           (unsigned long long)spec->seed, (unsigned long long)spec->order_seed);
    if (data_spec_mask_grid(spec) > 0)
        printf("masks: grid of %d x %d, %d ratios\n", data_spec_mask_grid(spec),
               data_spec_mask_grid(spec), spec->n_pred_ratios);
}

static void show_head(const struct recording *recording)
{
    const struct message_recording *info = &recording->info;
    time_t started = (time_t)info->started_s;
    char when[64] = "?";
    struct tm parts;

    if (gmtime_r(&started, &parts) != NULL)
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &parts);
    printf("recording: %s, by %s, begun %s\n",
           info->pixels ? "full" : "ids (hashes without pixels)", info->name, when);
    printf("data set: %llu images in %d classes, digest %016llx\n",
           (unsigned long long)info->n_samples, info->n_classes,
           (unsigned long long)info->index_digest);
    printf("stream: %d ranks, batches of %d images, %lld steps in an epoch, data spec %016llx\n",
           info->world, info->batch_size, (long long)info->steps_per_epoch,
           (unsigned long long)info->spec_digest);
    show_spec(&info->data_spec);
    for (size_t i = 0; i < recording->n_files; i++) {
        const struct recorded_file *file = &recording->files[i];
        printf("file: %s, rank %d from step %lld, %zu records%s\n", file->path, file->rank,
               (long long)file->first_step, file->n_slices,
               file->torn       ? ", ends inside a record"
               : file->finished ? ""
                                : ", ends without an end: its writer died");
    }
}

static void show_samples(const struct recording *recording)
{
    const struct message_slice *slice = &recording->message.slice;

    for (int32_t i = 0; i < slice->lease.n_samples; i++)
        printf(
            "  position %llu index %u label %d hash %016llx%s\n",
            (unsigned long long)(slice->lease.first_position + (uint64_t)i * slice->lease.stride),
            slice->index[i], slice->label[i], (unsigned long long)slice->hash[i],
            slice->n_substituted[i] > 0 ? " (in place of a bad image)" : "");
}

/* The step that begins with slice i; *next is the slice after it. */
static enum status show_step(struct recording *recording, size_t i, size_t *next)
{
    const struct recorded_slice *first = &recording->slices[i];
    int32_t rank = recording->files[first->file].rank, n_images = 0;
    uint64_t digest;

    for (*next = i; *next < recording->n_slices; ++*next) {
        const struct recorded_slice *slice = &recording->slices[*next];
        if (slice->step != first->step || recording->files[slice->file].rank != rank)
            break;
        n_images += slice->lease.n_samples;
    }
    if (first->step < values.first_step ||
        (values.last_step >= 0 && first->step > values.last_step))
        return STATUS_OK;
    TRY(recording_digest(recording, i, *next - i, &digest));
    printf("step %lld rank %d epoch %d images %d digest %016llx\n", (long long)first->step, rank,
           first->lease.epoch, n_images, (unsigned long long)digest);
    for (size_t j = i; j < *next && values.samples; j++) {
        TRY(recording_read(recording, j));
        show_samples(recording);
    }
    return STATUS_OK;
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    struct recording *recording = NULL;
    enum status status = recording_open(&recording, options->positional[0]);

    if (status != STATUS_OK)
        return status;
    show_head(recording);
    for (size_t i = 0; i < recording->n_slices && status == STATUS_OK;) {
        status = show_step(recording, i, &i);
        if (atomic_load(stop) != 0)
            FAIL_OUT(STATUS_INTERRUPTED, "stopped");
    }
out:
    recording_close(&recording);
    return status;
}

const struct stream_command stream_inspect = {&program, &values, run};
