/* Progress: plain arithmetic over step times, and one place that decides when to write. */
#include "trainer/progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/base/log.h"

static const double limit_share = 0.05; /* of the time: data hold up the steps */
enum { SECOND_NS = 1000000000, REDRAW_NS = 100000000, LINE_BYTES = 256 };

void progress_init(struct progress *progress, const struct progress_options *options,
                   int64_t first_step, int64_t now_ns)
{
    *progress = (struct progress){.options = *options,
                                  .first_step = first_step,
                                  .start_ns = now_ns,
                                  .last_ns = now_ns,
                                  .shown_ns = now_ns,
                                  .epoch = -1};
    if (progress->options.interval_ns == 0)
        progress->options.interval_ns = 30LL * SECOND_NS;
}

/* Sums over the last steps. */
static void recent(const struct progress *progress, int64_t *n, int64_t *ns, int64_t *waited_ns)
{
    *n = progress->n_done < METER_WINDOW ? progress->n_done : METER_WINDOW;
    *ns = *waited_ns = 0;
    for (int64_t i = 0; i < *n; i++) {
        *ns += progress->step_ns[i];
        *waited_ns += progress->step_waited_ns[i];
    }
}

static double share(int64_t part, int64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

double progress_images_per_second(const struct progress *progress)
{
    double seconds = (double)(progress->last_ns - progress->start_ns) / SECOND_NS;
    return seconds > 0 ? (double)(progress->n_done * progress->options.images_per_step) / seconds
                       : 0;
}

double progress_wait_share(const struct progress *progress)
{
    return share(progress->waited_ns, progress->last_ns - progress->start_ns);
}

bool progress_waits_for_data(const struct progress *progress)
{
    int64_t n, ns, waited_ns;

    recent(progress, &n, &ns, &waited_ns);
    return share(waited_ns, ns) > limit_share;
}

const char *progress_text(const struct progress *progress, char *out, size_t n_bytes)
{
    const struct progress_options *options = &progress->options;
    int64_t n, ns, waited_ns;
    char left[32];

    out[0] = '\0';
    if (progress->n_done == 0)
        return out;
    recent(progress, &n, &ns, &waited_ns);
    int64_t done = progress->first_step + progress->n_done;
    int64_t to_do = options->n_epochs * options->steps_per_epoch - done;
    double per_step = share(progress->last_ns - progress->start_ns, progress->n_done) / SECOND_NS;
    int64_t seconds = (int64_t)(per_step * (double)(to_do > 0 ? to_do : 0) + 0.5);
    snprintf(left, sizeof(left), "%d:%02d:%02d", (int)(seconds / 3600), (int)(seconds / 60 % 60),
             (int)(seconds % 60));
    double rate = ns > 0 ? (double)(n * options->images_per_step) * SECOND_NS / (double)ns : 0;
    int64_t in_epoch = (done - 1) % options->steps_per_epoch + 1;
    snprintf(out, n_bytes,
             "epoch %d/%d  step %lld/%lld  loss %.4f (%.4f)  %.*f images/s  %s left  "
             "limit: %s (%.1f %% waiting for data, %d loader%s)",
             progress->epoch + 1, options->n_epochs, (long long)in_epoch,
             (long long)options->steps_per_epoch, meter_median(&progress->loss),
             meter_mean(&progress->loss), rate < 100 ? 1 : 0, rate, left,
             progress_waits_for_data(progress) ? "data" : "compute", 100 * share(waited_ns, ns),
             progress->n_loaders, progress->n_loaders == 1 ? "" : "s");
    return out;
}

/* Columns of the terminal, so that a redrawn line never wraps; 0 when there is no terminal. */
static int terminal_columns(void)
{
    struct winsize size = {0};

    if (!isatty(STDERR_FILENO))
        return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

static void show(struct progress *progress, bool last, int64_t now_ns)
{
    int columns = terminal_columns();
    int64_t interval_ns = columns > 0 ? REDRAW_NS : progress->options.interval_ns;
    char text[LINE_BYTES];

    if (!last && now_ns - progress->shown_ns < interval_ns)
        return;
    progress->shown_ns = now_ns;
    if (columns > 0 && !last) {
        size_t room = columns < LINE_BYTES ? (size_t)columns : LINE_BYTES;
        log_status_line(progress_text(progress, text, room));
    } else {
        log_info("%s", progress_text(progress, text, sizeof(text)));
    }
}

void progress_step(struct progress *progress, int64_t step, double loss, int64_t waited_ns,
                   int64_t now_ns)
{
    const struct progress_options *options = &progress->options;
    int32_t epoch = (int32_t)(step / options->steps_per_epoch);
    int64_t slot = progress->n_done % METER_WINDOW;

    if (epoch != progress->epoch) {
        progress->epoch = epoch;
        progress->loss = (struct meter){.n = 0};
    }
    meter_add(&progress->loss, loss);
    progress->step_ns[slot] = now_ns - progress->last_ns;
    progress->step_waited_ns[slot] = waited_ns;
    progress->waited_ns += waited_ns;
    progress->last_ns = now_ns;
    progress->n_done++;
    if (!options->quiet)
        show(progress, step + 1 == options->n_epochs * options->steps_per_epoch, now_ns);
}

void progress_clear(const struct progress *progress)
{
    if (!progress->options.quiet)
        log_status_line(NULL);
}
