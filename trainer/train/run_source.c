/* Where a run begins: at step 0, at the newest checkpoint of its folder, or at what --load_from
 * names, which may be a checkpoint of the original. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/log.h"
#include "trainer/pretrained.h"
#include "trainer/train/batch_size.h"
#include "trainer/train/run.h"

/* ------------------------------------------------------------------------------ finding */

/* --load_from: a folder of ours, or a file of the original's. */
static enum status open_foreign(const struct run *run, struct run_source *out)
{
    const struct run_options *o = run->options;
    char path[CHECKPOINT_MAX_PATH];
    struct stat info;
    enum status status;

    if (o->load_from[0] == '/')
        snprintf(path, sizeof(path), "%s", o->load_from);
    else
        run_path(run, path, sizeof(path), o->load_from);
    if (stat(path, &info) != 0)
        FAIL(STATUS_INVALID, "--load_from %s: '%s': %s", o->load_from, path, strerror(errno));
    out->official = !S_ISDIR(info.st_mode);
    status = out->official ? official_checkpoint_open(&out->file, path)
                           : checkpoint_open(&out->checkpoint, path);
    if (status != STATUS_OK)
        FAIL(STATUS_INVALID, "--load_from %s: %s", o->load_from, status_message());
    out->found = true;
    return STATUS_OK;
}

enum status run_source_find(const struct run *run, struct run_source *out)
{
    const struct run_options *o = run->options;
    char path[CHECKPOINT_MAX_PATH];
    bool found;

    memset(out, 0, sizeof(*out));
    TRY(checkpoint_open_latest(&out->checkpoint, run_path(run, path, sizeof(path), "checkpoints"),
                               &found));
    out->found = out->own = found;
    if (found && o->resume == RESUME_NONE)
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run already and --resume is none: choose another --output_dir",
             o->output_dir);
    return found || o->load_from == NULL ? STATUS_OK : open_foreign(run, out);
}

int32_t run_source_batch_size(const struct run_source *source)
{
    const char *text = source->found && !source->official
                           ? checkpoint_option(&source->checkpoint, "batch_size_per_gpu")
                           : NULL;
    long size = text != NULL ? strtol(text, NULL, 10) : 0;

    return size > 0 && size <= BATCH_SIZE_MOST ? (int32_t)size : 0;
}

void run_source_close(struct run_source *source)
{
    checkpoint_close(&source->checkpoint);
    official_checkpoint_close(&source->file);
    memset(source, 0, sizeof(*source));
}

/* ------------------------------------------------------------------------------ comparing */

/* The next word of a list, of "0 0.3" as of "[0, 0.3]"; empty at the end. Moves *at on. */
static void next_word(const char **at, char word[64])
{
    static const char marks[] = " ,[]()'";
    size_t n;

    *at += strspn(*at, marks);
    n = strcspn(*at, marks);
    snprintf(word, 64, "%.*s", (int)n, *at);
    *at += n;
}

static bool same_word(const char *ours, const char *theirs)
{
    static const char *const same[][2] = {
        {"true", "True"}, {"false", "False"}, {"none", "None"}, {"", "None"}};
    char *end_a, *end_b;

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        if (strcmp(ours, same[i][0]) == 0 && strcmp(theirs, same[i][1]) == 0)
            return true;
    double a = strtod(ours, &end_a), b = strtod(theirs, &end_b);
    if (ours[0] != '\0' && theirs[0] != '\0' && *end_a == '\0' && *end_b == '\0')
        return a == b;
    return strcmp(ours, theirs) == 0;
}

/* Whether Python's value is that of our option; the original takes one value for a list of one. */
static bool same_value(const char *ours, const char *theirs)
{
    char a[64], b[64];

    do {
        next_word(&ours, a);
        next_word(&theirs, b);
        if (!same_word(a, b))
            return false;
    } while (a[0] != '\0');
    return true;
}

/* The original's arguments have the names of our options. */
static void compare_arguments(const struct run *run, const struct official_checkpoint *file)
{
    char differ[1024] = "", then[256];
    size_t used = 0;

    for (size_t i = 0; i < run->n_stored; i++) {
        const struct checkpoint_option *now = &run->stored[i];
        const struct pickle_value *value = official_argument(file, now->name);
        if (!now->digest || value == NULL || strcmp(now->name, "arch") == 0)
            continue; /* an architecture is held to its shapes, whatever it is called */
        pickle_print(value, then, sizeof(then));
        if (same_value(now->text, then))
            continue;
        int n = snprintf(differ + used, sizeof(differ) - used, "%s--%s %s (there %s)",
                         used > 0 ? ", " : "", now->name, now->text, then);
        used += n > 0 && used + (size_t)n < sizeof(differ) ? (size_t)n : 0;
    }
    if (used > 0)
        log_warning("'%s' was trained with other options: %s", file->file.path, differ);
}

/* Ranks are not connected yet; what all of them see, one tells. */
static bool is_first_rank(void)
{
    struct collective_environment environment;
    return collective_environment_read(&environment) == STATUS_OK && environment.rank == 0;
}

enum status run_source_compare(const struct run *run, const struct run_source *source)
{
    if (!source->found)
        return STATUS_OK;
    if (source->official) {
        if (is_first_rank())
            compare_arguments(run, &source->file);
        return STATUS_OK;
    }
    enum status status = run_compare_options(run, &source->checkpoint);
    if (status != STATUS_MISMATCH || source->own)
        return status;
    if (is_first_rank()) /* --load_from says that other options are meant */
        log_warning("%s", status_message());
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ beginning */

/* The next epoch of an original run. */
static enum status take_official(struct run *run, const struct official_checkpoint *file)
{
    const struct schedule *s = &run->schedule;
    int64_t frozen = s->freeze_last_layer * s->steps_per_epoch;
    struct state_counts counts;
    struct official_steps steps;

    TRY(official_restore(file, run->ibot, &run->backend.device, run->options->norm_last_layer,
                         &counts, &steps));
    run->step = file->epoch * s->steps_per_epoch;
    if (file->epoch > s->epochs)
        FAIL(STATUS_INVALID, "'%s' has %lld epochs behind it, more than --epochs %d",
             file->file.path, (long long)file->epoch, s->epochs);
    if (steps.known) {
        run->optimizer_lag = run->step - steps.ordinary;
        run->last_layer_lag = (run->step > frozen ? run->step - frozen : 0) - steps.last_layer;
    }
    if (run->backend.collective.rank != 0)
        return STATUS_OK;
    log_info("going on from '%s': epoch %lld, step %lld, %zu tensors", file->file.path,
             (long long)file->epoch, (long long)run->step, counts.n_loaded);
    if (run->optimizer_lag != 0)
        log_warning("its optimizer took %lld steps in %lld epochs, which have %lld here: half "
                    "precision left some out, or the data set or the batch is another; schedules "
                    "go by the epoch, the optimizer counts on from its own number",
                    (long long)steps.ordinary, (long long)file->epoch, (long long)run->step);
    return STATUS_OK;
}

/* Both backbones from a file of weights; heads as they were drawn. */
static enum status take_backbone(struct run *run)
{
    const struct run_options *o = run->options;
    struct pretrained_options options = {.path = o->init_from, .names_only = true};
    struct pretrained_report report;
    struct pretrained pretrained;
    char text[1024];

    if (pretrained_open(&pretrained, &options) != STATUS_OK)
        FAIL(STATUS_INVALID, "--init_from %s: %s", o->init_from, status_message());
    enum status status =
        pretrained_load(&pretrained, run->ibot, &run->backend.device, true, &report);
    if (status == STATUS_OK && run->backend.collective.rank == 0)
        log_info("starting from %s", pretrained_describe(&pretrained, &report, text, sizeof(text)));
    pretrained_close(&pretrained);
    return status == STATUS_OK ? ibot_teacher_from_student(run->ibot) : status;
}

enum status run_source_take(struct run *run, const struct run_source *source)
{
    if (source->found && !source->official)
        return run_take_checkpoint(run, &source->checkpoint);
    if (source->official) {
        TRY(take_official(run, &source->file));
        return run_save(run); /* from here on the run is one of ours */
    }
    TRY(ibot_initialise(run->ibot, (uint64_t)run->options->seed));
    if (run->options->init_from != NULL)
        TRY(take_backbone(run));
    return run_save(run); /* step 0: what it began with, to compare with */
}
