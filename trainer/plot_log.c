/* log.txt as panels. */
#include "trainer/plot.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

struct curve {
    const char *key, *name;
};

static const struct {
    const char *title;
    struct curve curves[PLOT_MAX_SERIES];
} layout[] = {
    {"loss (nats)", {{"train_loss", "loss"}, {"train_cls", "[CLS]"}, {"train_patch", "patches"}}},
    {"teacher entropy (nats)",
     {{"train_teacher_entropy_cls", "[CLS]"}, {"train_teacher_entropy_patch", "patches"}}},
    {"agreement",
     {{"train_acc", "accuracy"},
      {"train_nmi", "NMI"},
      {"train_ari", "ARI"},
      {"train_fscore", "FMI"}}},
    {"k-NN top-1 (%)", {{"knn_top1", "teacher"}, {"test_knn_top1", "teacher"}}},
    {"learning rate", {{"train_lr", "lr"}}},
    {"images per second", {{"train_images_per_second", "speed"}}},
    {"weight decay", {{"train_wd", "wd"}}},
};

enum { N_PANELS = sizeof(layout) / sizeof(layout[0]), MAX_EPOCHS = 1000000 };

/* One value per epoch for every curve; NAN where the log has none. */
struct history {
    double *epochs;
    double *values[N_PANELS][PLOT_MAX_SERIES];
    size_t n, capacity; /* epochs 0 .. n-1 */
};

static void history_release(struct history *history)
{
    memory_free(history->epochs);
    for (int p = 0; p < N_PANELS; p++)
        for (int c = 0; c < PLOT_MAX_SERIES; c++)
            memory_free(history->values[p][c]);
}

static enum status history_extend(struct history *history, size_t n)
{
    size_t capacity = history->capacity;

    TRY(memory_grow(&history->epochs, &capacity, n, sizeof(double), "epochs of a plot"));
    for (int p = 0; p < N_PANELS; p++)
        for (int c = 0; c < PLOT_MAX_SERIES && layout[p].curves[c].key != NULL; c++) {
            capacity = history->capacity;
            TRY(memory_grow(&history->values[p][c], &capacity, n, sizeof(double),
                            "values of a plot"));
            for (size_t i = history->n; i < n; i++)
                history->values[p][c][i] = NAN;
        }
    for (size_t i = history->n; i < n; i++)
        history->epochs[i] = (double)i;
    history->capacity = capacity;
    history->n = n;
    return STATUS_OK;
}

static enum status history_add(struct history *history, const json_t *line)
{
    const json_t *epoch = json_object_get(line, "epoch");

    if (!json_is_integer(epoch) || json_integer_value(epoch) < 0 ||
        json_integer_value(epoch) >= MAX_EPOCHS)
        return STATUS_OK;
    size_t i = (size_t)json_integer_value(epoch);
    if (i >= history->n)
        TRY(history_extend(history, i + 1));
    for (int p = 0; p < N_PANELS; p++)
        for (int c = 0; c < PLOT_MAX_SERIES && layout[p].curves[c].key != NULL; c++) {
            const json_t *value = json_object_get(line, layout[p].curves[c].key);
            history->values[p][c][i] = json_is_number(value) ? json_number_value(value) : NAN;
        }
    return STATUS_OK;
}

static bool has_values(const double *values, size_t n)
{
    for (size_t i = 0; values != NULL && i < n; i++)
        if (isfinite(values[i]))
            return true;
    return false;
}

/* The panels that have a curve, with the curves that have a value. */
static int panels_fill(struct plot_panel panels[N_PANELS], const struct history *history)
{
    int n_panels = 0;

    for (int p = 0; p < N_PANELS; p++) {
        struct plot_panel *panel = &panels[n_panels];
        *panel = (struct plot_panel){.title = layout[p].title};
        for (int c = 0; c < PLOT_MAX_SERIES; c++)
            if (has_values(history->values[p][c], history->n))
                panel->series[panel->n_series++] = (struct plot_series){
                    layout[p].curves[c].name, history->epochs, history->values[p][c], history->n};
        n_panels += panel->n_series > 0;
    }
    return n_panels;
}

enum status plot_log(const char *out_path, const char *log_path)
{
    enum status status = STATUS_OK;
    struct history history = {0};
    struct plot_panel panels[N_PANELS];
    char *line = NULL;
    size_t line_bytes = 0;
    FILE *log = fopen(log_path, "r");

    if (log == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "log '%s' can't be read: %s", log_path,
             strerror(errno));
    while (getline(&line, &line_bytes, log) > 0) {
        json_t *object = json_loads(line, 0, NULL);
        if (object == NULL)
            continue;
        status = history_add(&history, object);
        json_decref(object);
        if (status != STATUS_OK)
            goto out;
    }
    int n_panels = panels_fill(panels, &history);
    if (n_panels > 0)
        TRY_OUT(plot_write(out_path, "iBOT training", "epoch", panels, n_panels));
out:
    free(line);
    fclose(log);
    history_release(&history);
    return status;
}
