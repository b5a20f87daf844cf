/* Ways that are measured as a whole, and the file of choices. */
#include "kernels/tuned_way.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"

enum { LOG_TEXT = 256 };

/* Another way than the first is taken when it needs this much less. */
static const float worth = 0.99f;

bool tuned_way_recall(const struct matmul_tuning *tuning, const struct tuned_ways *ways, int *way)
{
    const struct matmul_choice *known =
        tuning->cache != NULL ? matmul_choices_find(&tuning->known, tuning->device, ways->name)
                              : NULL;

    if (known == NULL || known->algorithm[0] >= ways->n)
        return false;
    *way = known->algorithm[0];
    return true;
}

static void tell(const struct tuned_ways *ways, const float *ms)
{
    char text[LOG_TEXT] = "";
    size_t at = 0;

    for (int i = 0; i < ways->n && at < sizeof(text); i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s %.1f us", i > 0 ? ", " : "",
                               ways->names[i], (double)ms[i] * 1e3);
    log_debug("%s: %s", ways->name, text);
}

static enum status measure(struct device *device, const struct tuned_ways *ways, float *median_ms)
{
    struct tuning_clock clock;
    enum status status = tuning_clock_open(&clock, device);

    for (int i = 0; status == STATUS_OK && i < ways->n; i++)
        status = tuning_clock_time(&clock, &ways->work, i, &median_ms[i]);
    if (status == STATUS_OK)
        status = tuning_clock_medians(&clock, &ways->work, ways->n, median_ms);
    tuning_clock_close(&clock);
    return status;
}

/* Keeps the choice, or takes the one that another process has kept meanwhile. */
static void keep(const struct matmul_tuning *tuning, const struct tuned_ways *ways, const float *ms,
                 int *way)
{
    struct matmul_choice choice = {.algorithm = {(uint8_t)*way},
                                   .time_ns = (uint64_t)((double)ms[*way] * 1e6),
                                   .first_ns = (uint64_t)((double)ms[0] * 1e6),
                                   .n_candidates = (uint32_t)ways->n};

    snprintf(choice.device, sizeof(choice.device), "%s", tuning->device);
    snprintf(choice.product, sizeof(choice.product), "%s", ways->name);
    if (matmul_cache_keep(tuning->cache, &choice, NULL) != STATUS_OK)
        log_warning("how %s is done is not kept, so that another run may do it otherwise: %s",
                    ways->name, status_message());
    else if (choice.algorithm[0] < ways->n)
        *way = choice.algorithm[0];
}

enum status tuned_way_measure(struct matmul_tuning *tuning, struct device *device,
                              const struct tuned_ways *ways, int *way)
{
    float ms[TUNING_MOST];
    int best = 1;

    CHECK(ways->n >= 2 && ways->n <= TUNING_MOST);
    if (tuning->cache != NULL && matmul_cache_read(&tuning->known, tuning->cache) == STATUS_OK &&
        tuned_way_recall(tuning, ways, way))
        return STATUS_OK;
    TRY(measure(device, ways, ms));
    for (int i = 2; i < ways->n; i++)
        if (ms[i] < ms[best])
            best = i;
    *way = ms[best] < worth * ms[0] ? best : 0;
    tell(ways, ms);
    if (tuning->cache != NULL)
        keep(tuning, ways, ms, way);
    return STATUS_OK;
}
