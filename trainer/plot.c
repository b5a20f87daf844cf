/* SVG by hand: a frame, ticks at round numbers, a legend, one path per curve. */
#include "trainer/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WIDTH_PX = 720,
    LEFT_PX = 74,
    RIGHT_PX = 130, /* room of the legend */
    TOP_PX = 40,
    PANEL_PX = 170,
    PANEL_GAP_PX = 44,
    BOTTOM_PX = 40,
    LABEL_PX = 42,    /* from a panel down to the label of its x axis */
    OWN_AXIS_PX = 32, /* more room between panels for ticks and label */
    WANTED_TICKS = 5,
};

/* Okabe and Ito's palette: told apart by colour-blind readers too. */
static const char *const colours[PLOT_MAX_SERIES] = {"#0072b2", "#d55e00", "#009e73",
                                                     "#cc79a7", "#e69f00", "#56b4e9"};

struct axis {
    double low, high, step;
    int n_digits; /* after the point */
};

/* The smallest range of round numbers around the values. */
static struct axis axis_around(double low, double high)
{
    struct axis axis;

    if (!(low <= high)) {
        low = 0;
        high = 1;
    }
    if (high - low < 1e-12 * fmax(1e-12, fabs(high))) {
        double margin = high != 0 ? fabs(high) * 0.05 : 0.5;
        low -= margin;
        high += margin;
    }
    double raw = (high - low) / WANTED_TICKS, power = pow(10, floor(log10(raw)));
    double factor = raw / power;
    axis.step = power * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
    axis.low = floor(low / axis.step + 1e-9) * axis.step;
    axis.high = ceil(high / axis.step - 1e-9) * axis.step;
    double digits = -floor(log10(axis.step) + 1e-9);
    axis.n_digits = digits > 0 ? (int)fmin(digits, 12) : 0;
    return axis;
}

static double axis_share(const struct axis *axis, double value)
{
    return (value - axis->low) / (axis->high - axis->low);
}

static void tick_label(char text[32], const struct axis *axis, double value)
{
    double size = fmax(fabs(axis->low), fabs(axis->high));

    if (fabs(value) < axis->step * 1e-6)
        snprintf(text, 32, "0");
    else if (size < 1e-3 || size >= 1e5)
        snprintf(text, 32, "%.3g", value);
    else
        snprintf(text, 32, "%.*f", axis->n_digits, value);
}

static void text_escaped(FILE *out, const char *text)
{
    for (; *text != '\0'; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        default:
            fputc(*text, out);
        }
}

/* Around the values of one panel, or of all that share their x axis. */
static struct axis panel_axis(const struct plot_panel *panels, int n_panels, bool of_x)
{
    double low = INFINITY, high = -INFINITY;

    for (int p = 0; p < n_panels; p++)
        for (int s = 0; s < panels[p].n_series && (n_panels == 1 || panels[p].x_label == NULL);
             s++) {
            const struct plot_series *series = &panels[p].series[s];
            for (size_t i = 0; i < series->n; i++) {
                double value = of_x ? series->x[i] : series->y[i];
                if (isfinite(series->y[i]) && isfinite(series->x[i])) {
                    low = fmin(low, value);
                    high = fmax(high, value);
                }
            }
        }
    return axis_around(low, high);
}

static bool point_is_finite(const struct plot_series *series, size_t i)
{
    return i < series->n && isfinite(series->x[i]) && isfinite(series->y[i]);
}

/* One path with gaps; points without a neighbour, which a path would not show, as dots. */
static void series_write(FILE *out, const struct plot_series *series, const char *colour,
                         const struct axis *x_axis, const struct axis *y_axis, int top_px)
{
    const double width = WIDTH_PX - LEFT_PX - RIGHT_PX;

    for (int dots = 0; dots < 2; dots++) {
        fputs(dots ? "" : "<path d=\"", out);
        for (size_t i = 0; i < series->n; i++) {
            bool before = i > 0 && point_is_finite(series, i - 1);
            if (!point_is_finite(series, i))
                continue;
            double x = LEFT_PX + width * axis_share(x_axis, series->x[i]);
            double y = top_px + PANEL_PX * (1 - axis_share(y_axis, series->y[i]));
            if (!dots)
                fprintf(out, "%c%.1f %.1f", before ? 'L' : 'M', x, y);
            else if (!before && !point_is_finite(series, i + 1))
                fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n", x, y,
                        colour);
        }
        if (!dots)
            fprintf(out, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"/>\n", colour);
    }
}

static void label_write(FILE *out, const char *text, int y)
{
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
            (LEFT_PX + WIDTH_PX - RIGHT_PX) / 2, y);
    text_escaped(out, text);
    fputs("</text>\n", out);
}

static void panel_write(FILE *out, const struct plot_panel *panel, const struct axis *x_axis,
                        int top_px, bool is_last)
{
    const int width = WIDTH_PX - LEFT_PX - RIGHT_PX;
    struct axis y_axis = panel_axis(panel, 1, false);
    char label[32];

    fprintf(out, "<text x=\"%d\" y=\"%d\" class=\"t\">", LEFT_PX, top_px - 8);
    text_escaped(out, panel->title);
    fputs("</text>\n", out);
    int n_ticks = (int)lround((y_axis.high - y_axis.low) / y_axis.step);
    for (int i = 0; i <= n_ticks; i++) {
        double value = y_axis.low + i * y_axis.step;
        double y = top_px + PANEL_PX * (1 - axis_share(&y_axis, value));
        tick_label(label, &y_axis, value);
        fprintf(out, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"g\"/>", LEFT_PX,
                LEFT_PX + width, y, y);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT_PX - 8,
                y + 4, label);
    }
    n_ticks = (int)lround((x_axis->high - x_axis->low) / x_axis->step);
    for (int i = 0; i <= n_ticks; i++) {
        double value = x_axis->low + i * x_axis->step;
        double x = LEFT_PX + width * axis_share(x_axis, value);
        tick_label(label, x_axis, value);
        fprintf(out, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" class=\"g\"/>", x, x,
                top_px, top_px + PANEL_PX);
        if (is_last)
            fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>", x,
                    top_px + PANEL_PX + 18, label);
        fputc('\n', out);
    }
    fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" class=\"f\"/>\n", LEFT_PX,
            top_px, width, PANEL_PX);
    for (int s = 0; s < panel->n_series; s++) {
        int y = top_px + 12 + 18 * s, x = WIDTH_PX - RIGHT_PX + 12;
        series_write(out, &panel->series[s], colours[s], x_axis, &y_axis, top_px);
        fprintf(out,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"3\"/>"
                "<text x=\"%d\" y=\"%d\">",
                x, x + 16, y - 4, y - 4, colours[s], x + 22, y);
        text_escaped(out, panel->series[s].name);
        fputs("</text>\n", out);
    }
}

static int gaps_px(const struct plot_panel *panels, int n_panels)
{
    int gaps = 0;

    for (int p = 0; p + 1 < n_panels; p++)
        gaps += PANEL_GAP_PX + (panels[p].x_label != NULL ? OWN_AXIS_PX : 0);
    return gaps;
}

static void document_write(FILE *out, const char *title, const char *x_label,
                           const struct plot_panel *panels, int n_panels)
{
    struct axis shared = panel_axis(panels, n_panels, true);
    int height = TOP_PX + n_panels * PANEL_PX + gaps_px(panels, n_panels) + 20 + BOTTOM_PX;
    int top_px = TOP_PX;

    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
            "<style>.g{stroke:#e4e4e4}.f{fill:none;stroke:#888}.t{font-weight:bold}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<title>",
            WIDTH_PX, height, WIDTH_PX, height);
    text_escaped(out, title);
    fputs("</title>\n", out);
    for (int p = 0; p < n_panels; p++) {
        const char *own = panels[p].x_label;
        struct axis x_axis = own != NULL ? panel_axis(&panels[p], 1, true) : shared;
        panel_write(out, &panels[p], &x_axis, top_px, own != NULL || p == n_panels - 1);
        if (own != NULL || p == n_panels - 1)
            label_write(out, own != NULL ? own : x_label, top_px + PANEL_PX + LABEL_PX);
        top_px += PANEL_PX + PANEL_GAP_PX + (own != NULL ? OWN_AXIS_PX : 0);
    }
    fputs("</svg>\n", out);
}

enum status plot_write(const char *path, const char *title, const char *x_label,
                       const struct plot_panel *panels, int n_panels)
{
    enum status status = STATUS_OK;
    char *temporary = NULL;
    FILE *out = NULL;

    if (n_panels < 1)
        FAIL(STATUS_INVALID, "plot '%s' has no panel", path);
    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0)
        FAIL(STATUS_NO_MEMORY, "no memory for a file name");
    out = fopen(temporary, "w");
    if (out == NULL)
        FAIL_OUT(STATUS_IO, "plot '%s' can't be written: %s", path, strerror(errno));
    document_write(out, title, x_label, panels, n_panels);
    bool failed = ferror(out) != 0;
    failed |= fclose(out) != 0;
    out = NULL;
    if (failed || rename(temporary, path) != 0)
        FAIL_OUT(STATUS_IO, "plot '%s' can't be written: %s", path, strerror(errno));
out:
    if (status != STATUS_OK)
        unlink(temporary);
    free(temporary);
    return status;
}
