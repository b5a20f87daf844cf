/* What a run leaves in its folder: run.yaml, log.txt, tf_logs/, losses.svg, contact_sheet.png,
 * bad_images.log, batches that went wrong. Checkpoints are run_state.c's. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/cluster_scores.h"
#include "trainer/picture.h"
#include "trainer/plot.h"
#include "trainer/train/run.h"

enum { MAX_BAD_IMAGES_IN_LOG = 20, MAX_PICTURE_BYTES = 64 << 20 };

const char *run_path(const struct run *run, char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", run->options->output_dir, name);
    return out;
}

static bool is_first_rank(const struct run *run)
{
    return run->backend.collective.rank == 0;
}

/* ------------------------------------------------------------------------------ opening */

/* mkdir -p */
static enum status make_folders(const char *path)
{
    char part[CHECKPOINT_MAX_PATH];

    if (path[0] == '\0' || snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part) - 64)
        FAIL(STATUS_INVALID, "--output_dir '%s' is empty or too long", path);
    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        char kept = *at;
        *at = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            FAIL(STATUS_IO, "cannot make folder '%s': %s", part, strerror(errno));
        *at = kept;
        if (kept == '\0')
            return STATUS_OK;
    }
}

enum status run_folder_open(struct run *run)
{
    struct collective_environment environment;
    char path[CHECKPOINT_MAX_PATH];

    TRY(collective_environment_read(&environment));
    TRY(make_folders(run->options->output_dir));
    if (environment.rank != 0)
        return STATUS_OK;
    run_path(run, path, sizeof(path), ".lock");
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0) {
        run->lock = 0;
        FAIL(STATUS_IO, "cannot write into the run folder: '%s': %s", path, strerror(errno));
    }
    /* ENOLCK: a file system without locks; nothing is lost then but this protection */
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        FAIL(STATUS_IO, "another ibot-train works in '%s': end it, or choose another --output_dir",
             run->options->output_dir);
    return STATUS_OK;
}

static enum status write_run_file(const struct run *run)
{
    char path[CHECKPOINT_MAX_PATH], temporary[CHECKPOINT_MAX_PATH];
    FILE *file = fopen(run_path(run, temporary, sizeof(temporary), "run.yaml.tmp"), "w");

    if (file == NULL)
        FAIL(STATUS_IO, "cannot write '%s': %s", temporary, strerror(errno));
    fprintf(file,
            "# The run as it was asked for: ibot-train --config this file does the same.\n"
            "# digest %016llx\n",
            (unsigned long long)options_digest(run->parsed));
    enum status status = options_dump(run->parsed, file);
    bool failed = fflush(file) != 0 || fsync(fileno(file)) != 0;
    if ((fclose(file) != 0 || failed) && status == STATUS_OK)
        status = status_set(STATUS_IO, "cannot write '%s': %s", temporary, strerror(errno));
    run_path(run, path, sizeof(path), "run.yaml");
    if (status == STATUS_OK && rename(temporary, path) != 0)
        status = status_set(STATUS_IO, "cannot rename '%s': %s", temporary, strerror(errno));
    if (status != STATUS_OK)
        unlink(temporary);
    return status;
}

/* Line by line, so that what was seen is there whatever happens next. */
static enum status open_digests(struct run *run)
{
    const struct collective *ranks = &run->backend.collective;
    char path[CHECKPOINT_MAX_PATH];

    if (run->options->log_digests == NULL)
        return STATUS_OK;
    if (ranks->world > 1)
        snprintf(path, sizeof(path), "%s.%d", run->options->log_digests, ranks->rank);
    else
        snprintf(path, sizeof(path), "%s", run->options->log_digests);
    run->digests = fopen(path, "a");
    if (run->digests == NULL)
        FAIL(STATUS_IO, "--log_digests '%s': %s", path, strerror(errno));
    setvbuf(run->digests, NULL, _IOLBF, 0);
    return STATUS_OK;
}

enum status run_folder_start(struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    int32_t epoch = (int32_t)(run->step / run->schedule.steps_per_epoch);

    TRY(open_digests(run));
    if (!is_first_rank(run))
        return STATUS_OK;
    TRY(write_run_file(run));
    TRY(log_file_rewind(run_path(run, path, sizeof(path), "log.txt"), epoch));
    run->sheet_drawn = access(run_path(run, path, sizeof(path), "contact_sheet.png"), F_OK) == 0;
    return event_file_open(&run->events, run_path(run, path, sizeof(path), "tf_logs"), epoch);
}

void run_folder_close(struct run *run)
{
    if (run->events != NULL && event_file_close(&run->events) != STATUS_OK)
        log_warning("%s", status_message());
    if (run->digests != NULL)
        fclose(run->digests);
    if (run->lock > 0)
        close(run->lock);
    run->digests = NULL;
    run->lock = 0;
}

/* ------------------------------------------------------------------------------ batches */

static void report_bad_images(struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    struct bad_image bad;

    while (consumer_bad_image(run->receiver.consumer, &bad)) {
        run->n_bad_images++;
        if (run->n_bad_images <= MAX_BAD_IMAGES_IN_LOG)
            log_warning("bad image (%s), another one takes its place: '%s': %s",
                        bad_image_kind_names[bad.kind], bad.path, bad.reason);
        if (run->n_bad_images == MAX_BAD_IMAGES_IN_LOG)
            log_warning("further bad images are named in bad_images.log alone");
        FILE *file = fopen(run_path(run, path, sizeof(path), "bad_images.log"), "a");
        if (file == NULL)
            continue;
        fprintf(file, "epoch %d sample %u %s '%s': %s\n", bad.epoch, bad.index,
                bad_image_kind_names[bad.kind], bad.path, bad.reason);
        fclose(file);
    }
}

/* The picture once more, for TensorBoard. */
static enum status add_picture(struct run *run, const char *path, const char *tag)
{
    FILE *file = fopen(path, "rb");
    enum status status = STATUS_OK;
    char *bytes = NULL;
    size_t n = 0;
    struct stat info;

    if (file == NULL || fstat(fileno(file), &info) != 0 || info.st_size > MAX_PICTURE_BYTES)
        FAIL_OUT(STATUS_IO, "'%s' can't be read", path);
    TRY_OUT(memory_alloc(&bytes, (size_t)info.st_size, 1, "picture"));
    n = fread(bytes, 1, (size_t)info.st_size, file);
    TRY_OUT(
        event_file_image(run->events, run->step / run->schedule.steps_per_epoch, tag, bytes, n));
out:
    memory_free(bytes);
    if (file != NULL)
        fclose(file);
    return status;
}

static void draw_sheet(struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    uint8_t *memory = NULL;
    struct batch shown;
    enum status status;

    if (run->sheet_drawn || !is_first_rank(run))
        return;
    run->sheet_drawn = true;
    run_path(run, path, sizeof(path), "contact_sheet.png");
    status = receiver_show(&run->receiver, &shown, &memory);
    if (status == STATUS_OK)
        status = picture_contact_sheet(path, &shown, &run->spec, 0);
    memory_free(memory);
    if (status == STATUS_OK)
        status = add_picture(run, path, "crops");
    if (status != STATUS_OK)
        log_warning("no contact sheet: %s", status_message());
}

void run_note_batch(struct run *run, const struct batch *batch)
{
    if (run->digests != NULL)
        fprintf(run->digests, "%lld %016llx\n", (long long)batch->step,
                (unsigned long long)batch->digest);
    report_bad_images(run);
    draw_sheet(run);
}

void run_dump_batch(const struct run *run, const struct batch *batch)
{
    char path[CHECKPOINT_MAX_PATH], name[64];
    const struct data_spec *spec = &run->spec;
    int64_t b = batch->n_samples, grid = data_spec_mask_grid(spec);
    int64_t large = spec->global_size_px, small = spec->local_size_px;
    struct safetensors_item items[4];
    size_t n = 0;
    int32_t *indices = NULL;

    snprintf(name, sizeof(name), "not_finite_step_%lld_rank_%d.safetensors", (long long)run->step,
             run->backend.collective.rank);
    run_path(run, path, sizeof(path), name);
    if (memory_alloc(&indices, (size_t)b, sizeof(int32_t), "indices") != STATUS_OK)
        return;
    for (int64_t i = 0; i < b; i++)
        indices[i] = (int32_t)batch->samples[i].index;
    items[n++] = (struct safetensors_item){"sample", tensor_1d(indices, DTYPE_I32, b)};
    items[n++] = (struct safetensors_item){
        "globals", {batch->globals, DTYPE_U8, 4, {spec->n_global * b, large, large, 3}}};
    if (spec->n_local > 0)
        items[n++] = (struct safetensors_item){
            "locals", {batch->locals, DTYPE_U8, 4, {spec->n_local * b, small, small, 3}}};
    if (batch->masks != NULL)
        items[n++] = (struct safetensors_item){
            "masks", {batch->masks, DTYPE_U8, 3, {spec->n_global * b, grid, grid, 0}}};
    if (safetensors_write(path, items, n, NULL, 0) == STATUS_OK)
        log_error("the batch of step %lld is in '%s'", (long long)run->step, path);
    else
        log_error("%s", status_message());
    memory_free(indices);
}

/* ------------------------------------------------------------------------------ epochs */

static double share(double sum, double count)
{
    return count > 0.0 ? sum / count : 0.0;
}

/* The official scalars, and what tells whether the run is well. */
static void write_events(struct run *run, const double *entropies, int32_t epoch)
{
    struct event_scalar scalars[METRIC_COUNT + 5];
    size_t n = 0;

    for (int i = 0; i < METRIC_COUNT; i++)
        scalars[n++] = (struct event_scalar){metric_name((enum metric)i),
                                             metrics_mean(&run->metrics, (enum metric)i)};
    scalars[n++] = (struct event_scalar){"teacher_entropy_cls", share(entropies[0], entropies[1])};
    scalars[n++] =
        (struct event_scalar){"teacher_entropy_patch", share(entropies[2], entropies[3])};
    scalars[n++] =
        (struct event_scalar){"images_per_second", progress_images_per_second(&run->progress)};
    scalars[n++] = (struct event_scalar){"wait_share", progress_wait_share(&run->progress)};
    scalars[n++] = (struct event_scalar){"bad_images", (double)run->n_bad_images};
    if (event_file_scalars(run->events, epoch, scalars, n) != STATUS_OK)
        log_warning("%s", status_message());
}

/* Only what a resumed run finds again, bit by bit: speeds are in the events. Bad images, if there
 * are any, are counted as they were reported, those of slices that were made twice included. */
static enum status write_log(struct run *run, const double *entropies, int32_t epoch)
{
    char log[CHECKPOINT_MAX_PATH], plot[CHECKPOINT_MAX_PATH];
    struct log_line *line;

    TRY(memory_alloc(&line, 1, sizeof(*line), "log line"));
    log_line_metrics(line, &run->metrics, epoch);
    log_line_number(line, "train_teacher_entropy_cls", share(entropies[0], entropies[1]));
    log_line_number(line, "train_teacher_entropy_patch", share(entropies[2], entropies[3]));
    log_line_integer(line, "step", run->step);
    if (run->n_bad_images > 0)
        log_line_integer(line, "bad_images", run->n_bad_images);
    enum status status = log_line_append(line, run_path(run, log, sizeof(log), "log.txt"));
    memory_free(line);
    if (status == STATUS_OK)
        status = plot_log(run_path(run, plot, sizeof(plot), "losses.svg"), log);
    return status;
}

static enum status write_epoch(struct run *run, const struct checkpoint_state *all, int32_t epoch)
{
    struct cluster_scores scores;

    metrics_set_totals(&run->metrics, all->totals);
    TRY(cluster_scores_compute(&scores, all->labels, all->clusters, (size_t)all->n_clusters));
    metrics_set(&run->metrics, METRIC_NMI, scores.nmi);
    metrics_set(&run->metrics, METRIC_ARI, scores.ari);
    metrics_set(&run->metrics, METRIC_FSCORE, scores.fmi);
    write_events(run, all->entropies, epoch);
    return write_log(run, all->entropies, epoch);
}

enum status run_end_epoch(struct run *run)
{
    struct checkpoint_state all = {0};
    int32_t epoch = (int32_t)(run->step / run->schedule.steps_per_epoch) - 1;
    enum status status = run_gather(run, &all);

    if (status == STATUS_OK && is_first_rank(run)) {
        status = write_epoch(run, &all, epoch);
        if (status == STATUS_IO) { /* a full disk costs log lines, not the run */
            log_error("%s", status_message());
            status = STATUS_OK;
        }
    }
    memory_free(all.labels);
    memory_free(all.clusters);
    metrics_init(&run->metrics);
    memset(run->entropies, 0, sizeof(run->entropies));
    run->n_clusters = 0;
    run->warned_collapse = false;
    return status;
}
