/* Labelled images through the classifier, setting by setting. A stop is heeded after each batch,
 * and how far the pass was is kept then, and now and then. */
#include <stdio.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/robustness.h"
#include "trainer/eval/robustness_scores.h"
#include "trainer/utf8_text.h"

static const int64_t keep_every_ns = 60 * (int64_t)1000000000;

enum { PART_BYTES = 4096 };

struct buffers {
    uint8_t *rgb;
    int64_t *which;
};

void score_top1(void *context, const struct pass_batch *batch, int32_t i, int32_t label,
                int32_t setting, const float *logits, double *sums)
{
    const struct robustness *r = context;

    (void)batch, (void)i, (void)setting;
    sums[0] += argmax(logits, r->classifier->head.n_classes) == label;
}

static enum status one_setting(const struct robustness *r, struct pass *pass, struct images *images,
                               const struct pass_batch *batch, int32_t setting)
{
    struct frozen_classifier *c = r->classifier;
    struct tensor pixels;

    TRY(pass->pixels != NULL
            ? pass->pixels(pass->context, batch, setting, &pixels)
            : inference_upload(&c->network, batch->rgb, DTYPE_U8, batch->n, &pixels));
    TRY(frozen_classifier_run(c, pixels));
    for (int32_t i = 0; i < batch->n; i++)
        pass->score(pass->context, batch, i, images_label(images, batch->which[i]), setting,
                    c->logits + (int64_t)i * c->head.n_classes,
                    pass->sums + setting * pass->n_sums);
    return STATUS_OK;
}

static enum status one_batch(const struct robustness *r, struct pass *pass, struct images *images,
                             const struct buffers *buffers, int64_t first)
{
    int64_t rest = images_n(images) - first;
    int32_t most = r->classifier->network.batch_size;
    struct pass_batch batch = {buffers->rgb, buffers->which, rest < most ? (int32_t)rest : most};

    for (int32_t i = 0; i < batch.n; i++)
        buffers->which[i] = first + i;
    TRY(images_read(images, buffers->rgb, batch.which, batch.n, &pass->form));
    if (pass->begin != NULL)
        TRY(pass->begin(pass->context, &batch));
    for (int32_t s = 0; s < pass->n_settings; s++)
        TRY(one_setting(r, pass, images, &batch, s));
    return STATUS_OK;
}

/* What the book calls it: another data set's is another one. */
static const char *part_of(const struct pass *pass, char out[PART_BYTES])
{
    char data[PART_BYTES / 2];

    snprintf(out, PART_BYTES, "%.500s of %s", pass->name,
             utf8_text(data, sizeof(data), pass->data));
    return out;
}

static enum status keep(const struct robustness *r, const struct pass *pass, int64_t done)
{
    char part[PART_BYTES];

    return pass->name == NULL ? STATUS_OK
                              : book_progress_write(r->book, part_of(pass, part), done, pass->sums,
                                                    pass->n_settings * pass->n_sums);
}

static enum status all_batches(const struct robustness *r, struct pass *pass, struct images *images,
                               const struct buffers *buffers)
{
    int64_t n = images_n(images), done = 0, kept_ns = clock_monotonic_ns();
    char line[160], part[PART_BYTES];

    if (pass->name != NULL)
        TRY(book_progress_read(r->book, part_of(pass, part), &done, pass->sums,
                               pass->n_settings * pass->n_sums));
    if (done > 0 && done <= n)
        log_info("%s: goes on after %lld of %lld images", pass->data, (long long)done,
                 (long long)n);
    else if (done > n) {
        memset(pass->sums, 0, (size_t)(pass->n_settings * pass->n_sums) * sizeof(*pass->sums));
        done = 0;
    }
    while (done < n) {
        if (r->stop != NULL && atomic_load(r->stop) != 0) {
            TRY(keep(r, pass, done));
            FAIL(STATUS_INTERRUPTED, "interrupted after %lld of %lld images%s", (long long)done,
                 (long long)n, r->book->folder != NULL ? "; the same command goes on" : "");
        }
        TRY(one_batch(r, pass, images, buffers, done));
        done += r->classifier->network.batch_size;
        done = done < n ? done : n;
        snprintf(line, sizeof(line), "%s: %lld of %lld images",
                 pass->name != NULL ? pass->name : pass->data, (long long)done, (long long)n);
        log_status_line(line);
        if (clock_monotonic_ns() - kept_ns > keep_every_ns) {
            TRY(keep(r, pass, done));
            kept_ns = clock_monotonic_ns();
        }
    }
    return STATUS_OK;
}

enum status pass_run(const struct robustness *r, struct pass *pass, int64_t *n_images)
{
    const struct inference *network = &r->classifier->network;
    size_t batch = (size_t)network->batch_size;
    struct images *images = NULL;
    struct buffers buffers = {0};
    enum status status;

    CHECK(pass->form.size_px == network->size_px && pass->n_settings > 0);
    memset(pass->sums, 0, (size_t)(pass->n_settings * pass->n_sums) * sizeof(*pass->sums));
    TRY_OUT(images_open(&images, &pass->data, 1, r->n_threads));
    if (images_n_classes(images) != pass->n_classes)
        FAIL_OUT(STATUS_MISMATCH, "'%s' has %d classes, wanted %d class folders", pass->data,
                 images_n_classes(images), pass->n_classes);
    size_t picture = 3 * (size_t)network->size_px * (size_t)network->size_px;
    TRY_OUT(memory_alloc(&buffers.rgb, batch, picture, "pictures"));
    TRY_OUT(memory_alloc(&buffers.which, batch, sizeof(*buffers.which), "pictures"));
    TRY_OUT(all_batches(r, pass, images, &buffers));
    *n_images = images_n(images);
out:
    log_status_line(NULL);
    images_close(&images);
    memory_free(buffers.rgb);
    memory_free(buffers.which);
    return status;
}
