/* ibot-stream watch: how the streams of trainers stand, now and again. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "proto/wire/endpoint_list.h"
#include "proto/wire/observer.h"
#include "proto/wire/stream_rows.h"
#include "stream/command.h"
#include "stream/report.h"

struct options_of_watch {
    struct key_options keys;
    double interval, patience;
    int32_t count;
    bool json;
};

static struct options_of_watch values;

#define AT(field) .offset = offsetof(struct options_of_watch, field)

static const struct option_spec specs[] = {
    {.name = "interval",
     .type = OPTION_DOUBLE,
     AT(interval),
     .text = "1",
     .minimum = 0.05,
     .maximum = 3600,
     .unit = "s",
     .group = "What to show",
     .help = "between reports"},
    {.name = "count",
     .type = OPTION_INT32,
     AT(count),
     .text = "0",
     .minimum = 0,
     .maximum = 1000000000,
     .help = "end after this many reports; 0: when the trainer ends, or on Ctrl-C"},
    {.part = &row_json, AT(json)},
    {.name = "patience",
     .type = OPTION_DOUBLE,
     AT(patience),
     .text = "10",
     .minimum = 0.1,
     .maximum = 1e6,
     .unit = "s",
     .group = "Stream",
     .help = "how long to wait for an answer"},
    {.part = &rows_keys, AT(keys)},
};

static const struct options_program program = {
    .name = "ibot-stream watch",
    .summary = "Show how a trainer's stream stands: rates of its loaders, queue, re-issued slices.",
    .epilogue = "Asking changes nothing; whoever may connect as a loader may ask.\n\n"
                "  ibot-stream watch tcp://trainer:5550\n"
                "  ibot-stream watch tcp://trainer:5550-5557 --json --interval 60",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "ENDPOINT",
    .min_positional = 1,
    .max_positional = 1,
};

/* One trainer. */
struct watched {
    struct observer *observer;
    const char *endpoint;
    struct message_status before, now;
    bool has_before;
};

struct watch {
    struct endpoint_list endpoints;
    struct watched *trainers; /* [endpoints.n] */
    struct message *message;
    int n_lines; /* of the last report on a terminal: written over by the next */
};

static enum status open_watch(struct watch *watch, const char *endpoint)
{
    struct key_pair keys = {0};
    struct key server_key;
    bool has_keys = false;
    enum status status;

    TRY(endpoint_list_add(&watch->endpoints, endpoint));
    TRY(key_read_options(&has_keys, &keys, &server_key, &values.keys));
    TRY_OUT(memory_alloc(&watch->message, 1, sizeof(*watch->message), "message"));
    TRY_OUT(memory_alloc(&watch->trainers, (size_t)watch->endpoints.n, sizeof(struct watched),
                         "trainers"));
    for (int i = 0; i < watch->endpoints.n; i++) {
        struct watched *trainer = &watch->trainers[i];
        trainer->endpoint = watch->endpoints.texts[i];
        TRY_OUT(observer_open(&trainer->observer, trainer->endpoint, has_keys ? &keys : NULL,
                              has_keys ? &server_key : NULL));
    }
out:
    key_pair_wipe(&keys);
    return status;
}

static void close_watch(struct watch *watch)
{
    for (int i = 0; watch->trainers != NULL && i < watch->endpoints.n; i++)
        observer_close(&watch->trainers[i].observer);
    memory_free(watch->trainers);
    memory_free(watch->message);
}

static enum status ask_all(struct watch *watch, const atomic_int *stop)
{
    int64_t deadline_ns = clock_monotonic_ns() + (int64_t)(1e9 * values.patience);

    for (int i = 0; i < watch->endpoints.n; i++) {
        struct watched *trainer = &watch->trainers[i];
        TRY(observer_ask(trainer->observer, watch->message, deadline_ns, stop));
        trainer->has_before = trainer->now.time_ns > 0;
        trainer->before = trainer->now;
        trainer->now = watch->message->status;
    }
    return STATUS_OK;
}

/* On a terminal each report is written over the one before. */
static enum status show_over(struct watch *watch)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80}, found;
    char *text = NULL;
    size_t n_text = 0;
    FILE *out = open_memstream(&text, &n_text);

    if (out == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a report");
    for (int i = 0; i < watch->endpoints.n; i++) {
        const struct watched *trainer = &watch->trainers[i];
        report_print(out, trainer->endpoint, trainer->has_before ? &trainer->before : NULL,
                     &trainer->now);
    }
    fclose(out);
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &found) == 0 && found.ws_col > 0 && found.ws_row > 1)
        size = found;
    if (watch->n_lines > 0)
        printf("\033[%dA\033[J", watch->n_lines);
    /* The cursor stands below the last line: what went out at the top would stay there. */
    watch->n_lines = report_fit(text, size.ws_col - 1, size.ws_row - 1);
    fputs(text, stdout);
    free(text);
    return fflush(stdout) == 0 ? STATUS_OK : status_set(STATUS_IO, "cannot write to the terminal");
}

static enum status show(struct watch *watch)
{
    if (!values.json && isatty(STDOUT_FILENO))
        return show_over(watch);
    for (int i = 0; i < watch->endpoints.n; i++) {
        const struct watched *trainer = &watch->trainers[i];
        const struct message_status *before = trainer->has_before ? &trainer->before : NULL;
        if (values.json)
            TRY(report_json(stdout, trainer->endpoint, before, &trainer->now));
        else
            report_print(stdout, trainer->endpoint, before, &trainer->now);
    }
    fflush(stdout);
    return STATUS_OK;
}

static enum status look_on(struct watch *watch, const atomic_int *stop)
{
    for (int32_t n = 0; values.count == 0 || n < values.count; n++) {
        int64_t next_ns = clock_monotonic_ns() + (int64_t)(1e9 * values.interval);
        enum status status = ask_all(watch, stop);
        if (status == STATUS_TIMEOUT && n > 0 && values.count == 0) {
            log_info("%s; it has ended", status_message());
            return STATUS_OK;
        }
        TRY(status);
        TRY(show(watch));
        if (n + 1 != values.count)
            TRY(observer_pause(watch->trainers[0].observer, next_ns, stop));
    }
    return STATUS_OK;
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    struct watch watch = {0};
    enum status status = open_watch(&watch, options->positional[0]);

    if (status == STATUS_OK)
        status = look_on(&watch, stop);
    if (status == STATUS_INTERRUPTED) /* how it usually ends */
        status = STATUS_OK;
    close_watch(&watch);
    return status;
}

const struct stream_command stream_watch = {&program, &values, run};
