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

#endif
