/* Lost and displaced parts. What is random is drawn for each image, by its number: no batch, thread
 * or resumption changes it. */
#include <stdio.h>
#include <string.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "trainer/attention_mass.h"
#include "trainer/eval/robustness.h"

enum { N_SUMS = 2 }; /* right answers; share of the pixels that were dropped */

enum what { DROP_RANDOM, DROP_SALIENT, DROP_NON_SALIENT, SHUFFLE };

struct setting {
    enum what what;
    double share; /* of the cells; of the attention's mass */
    struct cell_grid grid;
    int32_t try;
    struct book_entry entry;
};

struct occlusion {
    const struct robustness *r;
    const struct occlusion_options *o;
    struct setting *settings;
    int32_t n_settings;
    float *normal, *values; /* [batch, 3, size, size]: of the pictures; with parts dropped */
    uint8_t *keep;          /* [batch, size, size] */
    uint8_t *shuffled;      /* [batch, size, size, 3] */
    float *attention;       /* [batch, heads, cells + 1] of the saliency network */
    int32_t *order;         /* [batch, CELL_GRID_MAX^2] at most: [batch, cells] */
    int32_t n_cells;        /* the most of any grid */
    uint8_t *chosen;        /* [batch, cells] of the saliency network */
};

static const char *const drop_names[] = {"random", "salient", "non_salient"};

/* ------------------------------------------------------------------------------ pictures */

static struct rng_key key_of(const struct occlusion *x, const struct setting *setting,
                             int64_t image)
{
    bool shuffle = setting->what == SHUFFLE;

    return (struct rng_key){
        .seed = x->r->seed,
        .epoch = (uint32_t)setting->try,
        .sample = (uint32_t)image,
        .view =
            shuffle ? (uint16_t)(setting->grid.rows * CELL_GRID_MAX + setting->grid.columns) : 0,
        .purpose = shuffle ? RNG_SHUFFLE_CELLS : RNG_DROP_CELLS,
    };
}

static enum status begin(void *context, const struct pass_batch *batch)
{
    struct occlusion *x = context;
    int32_t size = x->r->classifier->network.size_px;
    int64_t picture = 3 * (int64_t)size * size;

    if (x->normal == NULL)
        return STATUS_OK;
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < batch->n; i++)
        ibot_normalise(x->normal + i * picture, batch->rgb + i * picture, (int64_t)size * size);
    if (x->attention == NULL)
        return STATUS_OK;
    return inference_tokens(x->o->saliency, batch->rgb, batch->n,
                            &(struct ibot_tokens){.attention = x->attention});
}

/* What is kept of image i of the batch. Errors: STATUS_NO_MEMORY. */
static enum status keep_of(struct occlusion *x, const struct setting *setting,
                           const struct pass_batch *batch, int32_t i)
{
    int32_t size = x->r->classifier->network.size_px;
    uint8_t *keep = x->keep + (int64_t)i * size * size;

    if (setting->what == DROP_RANDOM) {
        int32_t n = setting->grid.rows * setting->grid.columns;
        int32_t *order = x->order + (int64_t)i * x->n_cells;
        cell_permutation(order, n, key_of(x, setting, batch->which[i]));
        keep_outside_cells(keep, size, setting->grid, order, cell_count(setting->share, n),
                           x->o->offset_px);
        return STATUS_OK;
    }
    const struct inference *saliency = x->o->saliency;
    int32_t cells = saliency->grid * saliency->grid;
    uint8_t *chosen = x->chosen + (int64_t)i * cells;
    const float *row =
        x->attention + ((int64_t)i * saliency->n_heads + x->o->head) * (cells + 1) + 1;
    TRY(attention_threshold(chosen, row, cells, setting->share));
    keep_patches(keep, size, chosen, saliency->grid, setting->what == DROP_NON_SALIENT);
    return STATUS_OK;
}

static enum status drop(struct occlusion *x, const struct setting *setting,
                        const struct pass_batch *batch)
{
    int32_t size = x->r->classifier->network.size_px;
    int64_t area = (int64_t)size * size;
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < batch->n; i++) {
        float *values = x->values + 3 * i * area;
        enum status one = keep_of(x, setting, batch, i);
        if (one != STATUS_OK) {
            first_failure_note(&failure, i, one);
            continue;
        }
        memcpy(values, x->normal + 3 * i * area, 3 * (size_t)area * sizeof(float));
        drop_pixels(values, x->keep + i * area, size);
    }
    return first_failure_take(&failure);
}

static enum status pixels(void *context, const struct pass_batch *batch, int32_t s,
                          struct tensor *out)
{
    struct occlusion *x = context;
    const struct setting *setting = &x->settings[s];
    struct inference *network = &x->r->classifier->network;
    int32_t size = network->size_px, n = setting->grid.rows * setting->grid.columns;
    int64_t picture = 3 * (int64_t)size * size;

    if (setting->what != SHUFFLE) {
        TRY(drop(x, setting, batch));
        return inference_upload(network, x->values, DTYPE_F32, batch->n, out);
    }
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < batch->n; i++) {
        int32_t *order = x->order + (int64_t)i * x->n_cells;
        cell_permutation(order, n, key_of(x, setting, batch->which[i]));
        shuffle_cells(x->shuffled + i * picture, batch->rgb + i * picture, size, setting->grid,
                      order);
    }
    return inference_upload(network, x->shuffled, DTYPE_U8, batch->n, out);
}

static void score(void *context, const struct pass_batch *batch, int32_t i, int32_t label,
                  int32_t s, const float *logits, double *sums)
{
    struct occlusion *x = context;
    int32_t size = x->r->classifier->network.size_px;

    score_top1((void *)(uintptr_t)x->r, batch, i, label, s, logits, sums);
    if (x->settings[s].what != SHUFFLE)
        sums[1] += share_dropped(x->keep + (int64_t)i * size * size, size);
}

/* ------------------------------------------------------------------------------ settings */

/* A setting that has no result yet joins the others. */
static void add_setting(struct occlusion *x, struct setting setting, const char *data)
{
    struct book_entry *entry = &setting.entry;
    char more[64] = "";

    entry->data = data;
    if (setting.try > 0)
        snprintf(more, sizeof(more), ", try %d", setting.try + 1);
    if (setting.what == SHUFFLE) {
        entry->test = "shuffle";
        snprintf(entry->setting, sizeof(entry->setting), "%dx%d%s", setting.grid.rows,
                 setting.grid.columns, more);
    } else if (setting.what == DROP_RANDOM) {
        char offset[48] = "";
        if (x->o->offset_px > 0)
            snprintf(offset, sizeof(offset), ", %d px off", x->o->offset_px);
        entry->test = "occlusion";
        snprintf(entry->setting, sizeof(entry->setting), "random %g of %dx%d%s%s", setting.share,
                 setting.grid.rows, setting.grid.columns, offset, more);
    } else {
        entry->test = "occlusion";
        snprintf(entry->setting, sizeof(entry->setting), "%s, mass %g%s", drop_names[setting.what],
                 setting.share, more);
    }
    if (!book_find(x->r->book, entry))
        x->settings[x->n_settings++] = setting;
}

static enum status run(struct occlusion *x, const char *name, const char *data)
{
    const struct robustness *r = x->r;
    char part[BOOK_SETTING_BYTES + 128];
    double *sums = NULL;
    int64_t n_images;
    enum status status;

    if (x->n_settings == 0)
        return STATUS_OK;
    snprintf(part, sizeof(part), "%s: %d settings from '%s'", name, x->n_settings,
             x->settings[0].entry.setting);
    TRY(memory_alloc(&sums, (size_t)x->n_settings * N_SUMS, sizeof(*sums), "sums"));
    struct pass pass = {
        .name = part,
        .data = data,
        .form = {IMAGE_CROP, r->classifier->network.size_px, r->resize_px, !r->bicubic},
        .n_classes = r->classifier->head.n_classes,
        .n_settings = x->n_settings,
        .n_sums = N_SUMS,
        .sums = sums,
        .context = x,
        .begin = begin,
        .pixels = pixels,
        .score = score,
    };
    TRY_OUT(pass_run(r, &pass, &n_images));
    for (int32_t s = 0; s < x->n_settings; s++) {
        struct book_entry *entry = &x->settings[s].entry;
        entry->n_images = n_images;
        book_value(entry, "top1", 100.0 * sums[s * N_SUMS] / (double)n_images);
        if (x->settings[s].what != SHUFFLE)
            book_value(entry, "dropped", sums[s * N_SUMS + 1] / (double)n_images);
        TRY_OUT(book_add(r->book, entry));
    }
out:
    memory_free(sums);
    return status;
}

/* ------------------------------------------------------------------------------ tests */

static enum status open_buffers(struct occlusion *x, int32_t n_cells, bool attention)
{
    const struct inference *network = &x->r->classifier->network;
    size_t batch = (size_t)network->batch_size, size = (size_t)network->size_px;

    x->n_cells = n_cells;
    TRY(memory_alloc(&x->order, batch * (size_t)n_cells, sizeof(*x->order), "cells"));
    if (x->o == NULL)
        return memory_alloc(&x->shuffled, batch, 3 * size * size, "pictures");
    TRY(memory_alloc(&x->normal, batch * 3, size * size * sizeof(float), "pictures"));
    TRY(memory_alloc(&x->values, batch * 3, size * size * sizeof(float), "pictures"));
    TRY(memory_alloc(&x->keep, batch, size * size, "masks"));
    if (!attention)
        return STATUS_OK;
    size_t cells = (size_t)x->o->saliency->grid * (size_t)x->o->saliency->grid;
    TRY(memory_alloc(&x->chosen, batch, cells, "masks"));
    return memory_alloc(&x->attention, batch * (size_t)x->o->saliency->n_heads * (cells + 1),
                        sizeof(float), "attention");
}

static void close_all(struct occlusion *x)
{
    memory_free(x->settings);
    memory_free(x->normal);
    memory_free(x->values);
    memory_free(x->keep);
    memory_free(x->shuffled);
    memory_free(x->attention);
    memory_free(x->order);
    memory_free(x->chosen);
}

enum status test_occlusion(const struct robustness *r, const char *data,
                           const struct occlusion_options *o)
{
    struct occlusion x = {.r = r, .o = o};
    bool attention = o->salient || o->non_salient;
    size_t most = (size_t)(o->n_ratios * o->n_tries + 2 * o->n_masses) + 1;
    enum status status;

    CHECK(!attention || (o->saliency != NULL && o->head < o->saliency->n_heads));
    TRY_OUT(memory_alloc(&x.settings, most, sizeof(*x.settings), "settings"));
    TRY_OUT(open_buffers(&x, o->grid.rows * o->grid.columns, attention));
    for (int32_t t = 0; o->random && t < o->n_tries; t++)
        for (int32_t i = 0; i < o->n_ratios; i++)
            add_setting(
                &x,
                (struct setting){
                    .what = DROP_RANDOM, .share = (double)o->ratios[i], .grid = o->grid, .try = t},
                data);
    for (int32_t i = 0; o->salient && i < o->n_masses; i++)
        add_setting(&x, (struct setting){.what = DROP_SALIENT, .share = (double)o->masses[i]},
                    data);
    for (int32_t i = 0; o->non_salient && i < o->n_masses; i++)
        add_setting(&x, (struct setting){.what = DROP_NON_SALIENT, .share = (double)o->masses[i]},
                    data);
    status = run(&x, "occlusion", data);
out:
    close_all(&x);
    return status;
}

enum status test_shuffling(const struct robustness *r, const char *data,
                           const struct cell_grid *grids, int32_t n_grids, int32_t n_tries)
{
    struct occlusion x = {.r = r};
    int32_t n_cells = 0;
    enum status status;

    for (int32_t i = 0; i < n_grids; i++)
        if (grids[i].rows * grids[i].columns > n_cells)
            n_cells = grids[i].rows * grids[i].columns;
    TRY_OUT(memory_alloc(&x.settings, (size_t)(n_grids * n_tries) + 1, sizeof(*x.settings),
                         "settings"));
    TRY_OUT(open_buffers(&x, n_cells, false));
    for (int32_t t = 0; t < n_tries; t++)
        for (int32_t i = 0; i < n_grids; i++)
            add_setting(&x, (struct setting){.what = SHUFFLE, .grid = grids[i], .try = t}, data);
    status = run(&x, "shuffle", data);
out:
    close_all(&x);
    return status;
}
