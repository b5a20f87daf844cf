/* Accuracies of several runs, as panels against epochs and minutes. */
#include "trainer/plot.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

enum { N_KINDS = 2, MAX_NAME = 64 };

static const char *const keys[N_KINDS] = {"knn_top1", "linear_top1"};
static const char *const titles[N_KINDS] = {"k-NN top-1 (%)", "linear top-1 (%)"};

/* The points of one run, in the order of its epochs. */
struct track {
    char name[MAX_NAME];
    double *epoch, *minutes, *top1[N_KINDS];
    size_t n, capacity;
};

struct tracks {
    struct track all[PLOT_MAX_SERIES];
    int n;
};

static void tracks_release(struct tracks *tracks)
{
    for (int t = 0; t < tracks->n; t++) {
        memory_free(tracks->all[t].epoch);
        memory_free(tracks->all[t].minutes);
        for (int k = 0; k < N_KINDS; k++)
            memory_free(tracks->all[t].top1[k]);
    }
}

static enum status track_find(struct tracks *tracks, const char *name, struct track **out)
{
    for (int t = 0; t < tracks->n; t++)
        if (strncmp(tracks->all[t].name, name, MAX_NAME - 1) == 0) {
            *out = &tracks->all[t];
            return STATUS_OK;
        }
    if (tracks->n == PLOT_MAX_SERIES)
        FAIL(STATUS_INVALID, "'%s' is a run too many: at most %d can be drawn", name,
             PLOT_MAX_SERIES);
    *out = &tracks->all[tracks->n++];
    snprintf((*out)->name, MAX_NAME, "%s", name);
    return STATUS_OK;
}

static enum status track_grow(struct track *track)
{
    double **columns[] = {&track->epoch, &track->minutes, &track->top1[0], &track->top1[1]};
    size_t capacity = track->capacity;

    for (size_t c = 0; c < sizeof(columns) / sizeof(columns[0]); c++) {
        capacity = track->capacity;
        TRY(memory_grow(columns[c], &capacity, track->n + 1, sizeof(double), "points of a plot"));
    }
    track->capacity = capacity;
    return STATUS_OK;
}

/* The point of an epoch at its place, which is made, without numbers, unless it is there. */
static enum status track_place(struct track *track, double epoch, size_t *at)
{
    double *columns[2 + N_KINDS];

    for (*at = 0; *at < track->n && track->epoch[*at] < epoch;)
        ++*at;
    if (*at < track->n && track->epoch[*at] == epoch)
        return STATUS_OK;
    TRY(track_grow(track));
    columns[0] = track->epoch;
    columns[1] = track->minutes;
    for (int k = 0; k < N_KINDS; k++)
        columns[2 + k] = track->top1[k];
    for (int c = 0; c < 2 + N_KINDS; c++)
        memmove(columns[c] + *at + 1, columns[c] + *at, (track->n - *at) * sizeof(double));
    for (int c = 0; c < 2 + N_KINDS; c++)
        columns[c][*at] = NAN;
    track->epoch[*at] = epoch;
    track->n++;
    return STATUS_OK;
}

static double number(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* What a line does not say stays as an earlier one said it. */
static void put(double *to, double value)
{
    if (isfinite(value))
        *to = value;
}

static enum status tracks_add(struct tracks *tracks, const json_t *line)
{
    const char *name = json_string_value(json_object_get(line, "run"));
    double epoch = number(line, "epoch");
    struct track *track = NULL;
    size_t at;

    if (name == NULL || !isfinite(epoch) ||
        (!isfinite(number(line, keys[0])) && !isfinite(number(line, keys[1]))))
        return STATUS_OK;
    TRY(track_find(tracks, name, &track));
    TRY(track_place(track, epoch, &at));
    put(&track->minutes[at], number(line, "minutes"));
    for (int k = 0; k < N_KINDS; k++)
        put(&track->top1[k][at], number(line, keys[k]));
    return STATUS_OK;
}

static enum status tracks_read(struct tracks *tracks, FILE *log)
{
    enum status status = STATUS_OK;
    char *text = NULL;
    size_t bytes = 0;

    while (status == STATUS_OK && getline(&text, &bytes, log) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        if (line != NULL)
            status = tracks_add(tracks, line);
        json_decref(line);
    }
    free(text);
    return status;
}

static bool has_points(const double *x, const double *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isfinite(x[i]) && isfinite(y[i]))
            return true;
    return false;
}

/* A panel for each accuracy against each axis that some run has points for. */
static int panels_fill(struct plot_panel panels[2 * N_KINDS], const struct tracks *tracks)
{
    int n = 0;

    for (int against_time = 0; against_time < 2; against_time++)
        for (int k = 0; k < N_KINDS; k++) {
            struct plot_panel *panel = &panels[n];
            *panel = (struct plot_panel){.title = titles[k],
                                         .x_label = against_time ? "minutes of training" : "epoch"};
            for (int t = 0; t < tracks->n; t++) {
                const struct track *track = &tracks->all[t];
                const double *x = against_time ? track->minutes : track->epoch;
                if (has_points(x, track->top1[k], track->n))
                    panel->series[panel->n_series++] =
                        (struct plot_series){track->name, x, track->top1[k], track->n};
            }
            n += panel->n_series > 0;
        }
    return n;
}

enum status plot_accuracies(const char *out_path, const char *log_path)
{
    struct plot_panel panels[2 * N_KINDS];
    struct tracks tracks = {0};
    enum status status;
    FILE *log = fopen(log_path, "r");

    if (log == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "log '%s' can't be read: %s", log_path,
             strerror(errno));
    TRY_OUT(tracks_read(&tracks, log));
    int n = panels_fill(panels, &tracks);
    if (n == 0)
        FAIL_OUT(STATUS_INVALID,
                 "'%s' has no line with run, epoch and knn_top1 or linear_top1: nothing to draw",
                 log_path);
    TRY_OUT(plot_write(out_path, "accuracy of the teacher", "", panels, n));
out:
    fclose(log);
    tracks_release(&tracks);
    return status;
}
