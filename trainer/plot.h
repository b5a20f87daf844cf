/* Curves as SVG: panels below each other over one x axis, and the panels of a run's log.txt. Text
 * only, no library: a browser, a paper or rsvg-convert shows it. */
#ifndef IBOT_TRAINER_PLOT_H
#define IBOT_TRAINER_PLOT_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { PLOT_MAX_SERIES = 6 };

/* One curve; values that are not finite are gaps. All pointers are borrowed during plot_write. */
struct plot_series {
    const char *name;
    const double *x, *y;
    size_t n;
};

struct plot_panel {
    const char *title;
    struct plot_series series[PLOT_MAX_SERIES];
    int n_series;
    const char *x_label; /* of an x axis of its own; NULL: the one that all such panels share */
};

/* Writes the panels to `path`, which is replaced in one go. Errors: STATUS_IO, STATUS_INVALID
 * (no panel). */
enum status plot_write(const char *path, const char *title, const char *x_label,
                       const struct plot_panel *panels, int n_panels) IBOT_WARN_UNUSED;

/* The curves of a log.txt (one JSON object per epoch, official keys: losses, rates, agreement;
 * teacher entropy and k-NN where present), against the epoch. An epoch that is there twice, as
 * after a resume, counts as last written; a torn last line is passed over. `out_path` is left alone
 * when there is no full line yet. Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_NO_MEMORY. */
enum status plot_log(const char *out_path, const char *log_path) IBOT_WARN_UNUSED;

/* k-NN and linear accuracy against epochs and minutes, a curve for each run that the lines of a log
 * name: {"run": "ibot", "epoch": 10, "minutes": 1.5, "knn_top1": 71.2, "linear_top1": 75.0}. Other
 * lines are passed over. Of several lines of a run for the same epoch each adds what it has, and
 * the last one that has a number counts. Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_NO_MEMORY,
 * STATUS_INVALID (nothing to draw, or more than PLOT_MAX_SERIES runs). */
enum status plot_accuracies(const char *out_path, const char *log_path) IBOT_WARN_UNUSED;

/* A picture of an SVG file, twice its size. Errors: STATUS_UNSUPPORTED (libvips without SVG),
 * STATUS_IO. */
enum status plot_png(const char *out_path, const char *svg_path) IBOT_WARN_UNUSED;

#endif
