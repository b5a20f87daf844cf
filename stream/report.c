#include "stream/report.h"

#include <jansson.h>
#include <string.h>

#include "stream/origin.h"

/* What happened between two reports, per second. */
struct rates {
    bool known;
    double images, mib, batches, waited; /* waited: share of the time, 0..1 */
};

static struct rates rates_between(const struct message_status *before,
                                  const struct message_status *now)
{
    /* a trainer that was started again counts from 0 */
    if (before == NULL || now->time_ns <= before->time_ns || now->n_images < before->n_images ||
        now->n_batches < before->n_batches || now->waited_ns < before->waited_ns)
        return (struct rates){.known = false};
    double seconds = 1e-9 * (double)(now->time_ns - before->time_ns);
    return (struct rates){
        .known = true,
        .images = (double)(now->n_images - before->n_images) / seconds,
        .mib = (double)(now->n_bytes - before->n_bytes) / 1048576.0 / seconds,
        .batches = (double)(now->n_batches - before->n_batches) / seconds,
        .waited = 1e-9 * (double)(now->waited_ns - before->waited_ns) / seconds,
    };
}

/* Images per second of a loader, by its name; negative: not known. */
static double loader_rate(const struct message_status *before, const struct message_status *now,
                          const struct status_loader *loader)
{
    if (before == NULL || now->time_ns <= before->time_ns)
        return -1;
    double seconds = 1e-9 * (double)(now->time_ns - before->time_ns);
    for (int32_t i = 0; i < before->n_listed; i++)
        if (strcmp(before->loaders[i].name, loader->name) == 0 &&
            before->loaders[i].n_images <= loader->n_images)
            return (double)(loader->n_images - before->loaders[i].n_images) / seconds;
    return (double)loader->n_images / seconds; /* it has come since */
}

static const char *bottleneck(const struct message_status *now, const struct rates *rates)
{
    if (now->n_loaders == 0)
        return "no loaders";
    if (!rates->known || rates->batches == 0.0)
        return "";
    return rates->waited > 0.01 ? "data is the limit" : "compute is the limit";
}

void report_print(FILE *out, const char *endpoint, const struct message_status *before,
                  const struct message_status *now)
{
    const struct message_recording *stream = &now->stream;
    struct rates rates = rates_between(before, now);

    if (now->has_stream)
        fprintf(out, "%s  rank %d of %d  step %lld of %lld, epoch %lld", endpoint, stream->rank,
                stream->world, (long long)stream->first_step, (long long)now->end_step,
                (long long)(stream->first_step / stream->steps_per_epoch));
    else
        fprintf(out, "%s  the stream has not begun", endpoint);
    if (rates.known && now->has_stream)
        fprintf(out, "  %.1f images/s  %.1f MiB/s  %.2f batches/s  %.1f %% of the time waiting",
                rates.images, rates.mib, rates.batches, 100.0 * rates.waited);
    const char *limit = bottleneck(now, &rates);
    fprintf(out, "%s%s\n", limit[0] != '\0' ? "  " : "", limit);
    fprintf(out,
            "  batches: %d of %d ready; slices: %d in the making, %llu accepted, %llu leased "
            "again, %llu late copies\n",
            now->n_ready, now->n_slots, now->n_leases, (unsigned long long)now->n_slices,
            (unsigned long long)now->n_reissued, (unsigned long long)now->n_duplicates);
    fprintf(out,
            "  %d loader%s; bad images: %llu, repaired: %llu; corrupt messages: %llu; refused: "
            "%llu\n",
            now->n_loaders, now->n_loaders == 1 ? "" : "s", (unsigned long long)now->n_bad_images,
            (unsigned long long)now->n_repaired, (unsigned long long)now->n_corrupt,
            (unsigned long long)now->n_refused);
    for (int32_t i = 0; i < now->n_listed; i++) {
        const struct status_loader *loader = &now->loaders[i];
        double rate = loader_rate(before, now, loader);
        fprintf(out, "    %-24s %3d thread%s  %2d of %2d slices in hand  %9llu images",
                loader->name, loader->n_threads, loader->n_threads == 1 ? " " : "s",
                loader->n_leases, loader->credit, (unsigned long long)loader->n_images);
        if (rate >= 0)
            fprintf(out, "  %8.1f images/s", rate);
        if (loader->n_strikes > 0)
            fprintf(out, "  %d strikes", loader->n_strikes);
        if (loader->silent_ms > 2000)
            fprintf(out, "  silent for %.1f s", 1e-3 * loader->silent_ms);
        fputs("\n", out);
    }
    if (now->n_listed < now->n_loaders)
        fprintf(out, "    and %d more\n", now->n_loaders - now->n_listed);
}

int report_fit(char *text, int columns, int rows)
{
    const char *from = text;
    char *to = text;
    int n_lines = 0;

    for (; *from != '\0' && n_lines < rows; n_lines++) {
        for (int column = 0; *from != '\0' && *from != '\n'; from++) {
            column += ((unsigned char)*from & 0xc0) != 0x80; /* not the rest of a character */
            if (column <= columns)
                *to++ = *from;
        }
        if (*from == '\n' || to < from)
            *to++ = '\n';
        from += *from == '\n';
    }
    *to = '\0';
    return n_lines;
}

/* ---- JSON ---- */

static void set_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key,
                        json_integer(value <= INT64_MAX ? (json_int_t)value : INT64_MAX));
}

static json_t *loader_json(const struct message_status *before, const struct message_status *now,
                           const struct status_loader *loader)
{
    json_t *out = json_object();
    double rate = loader_rate(before, now, loader);

    json_object_set_new(out, "name", origin_text_json(loader->name));
    set_count(out, "threads", (uint64_t)loader->n_threads);
    set_count(out, "credit", (uint64_t)loader->credit);
    set_count(out, "leases", (uint64_t)loader->n_leases);
    set_count(out, "slices", loader->n_slices);
    set_count(out, "images", loader->n_images);
    set_count(out, "strikes", (uint64_t)loader->n_strikes);
    json_object_set_new(out, "silent_s", json_real(1e-3 * loader->silent_ms));
    if (rate >= 0)
        json_object_set_new(out, "images_per_second", json_real(rate));
    return out;
}

static void set_stream(json_t *out, const struct message_status *now)
{
    const struct message_recording *stream = &now->stream;

    if (!now->has_stream)
        return;
    set_count(out, "rank", (uint64_t)stream->rank);
    set_count(out, "world", (uint64_t)stream->world);
    set_count(out, "step", (uint64_t)stream->first_step);
    set_count(out, "end_step", (uint64_t)now->end_step);
    set_count(out, "steps_per_epoch", (uint64_t)stream->steps_per_epoch);
}

enum status report_json(FILE *out, const char *endpoint, const struct message_status *before,
                        const struct message_status *now)
{
    struct rates rates = rates_between(before, now);
    json_t *object = json_object(), *loaders = json_array();
    enum status status = STATUS_OK;

    json_object_set_new(object, "endpoint", origin_text_json(endpoint));
    set_stream(object, now);
    json_object_set_new(object, "time_s", json_real(1e-9 * (double)now->time_ns));
    set_count(object, "batches", now->n_batches);
    set_count(object, "slices", now->n_slices);
    set_count(object, "images", now->n_images);
    set_count(object, "bytes", now->n_bytes);
    set_count(object, "reissued", now->n_reissued);
    set_count(object, "duplicates", now->n_duplicates);
    set_count(object, "corrupt", now->n_corrupt);
    set_count(object, "refused", now->n_refused);
    set_count(object, "bad_images", now->n_bad_images);
    set_count(object, "repaired_images", now->n_repaired);
    json_object_set_new(object, "waited_s", json_real(1e-9 * (double)now->waited_ns));
    set_count(object, "slots", (uint64_t)now->n_slots);
    set_count(object, "ready", (uint64_t)now->n_ready);
    set_count(object, "leases", (uint64_t)now->n_leases);
    set_count(object, "connected", (uint64_t)now->n_loaders);
    if (rates.known) {
        json_object_set_new(object, "images_per_second", json_real(rates.images));
        json_object_set_new(object, "batches_per_second", json_real(rates.batches));
        json_object_set_new(object, "wait_share", json_real(rates.waited));
    }
    for (int32_t i = 0; i < now->n_listed; i++)
        json_array_append_new(loaders, loader_json(before, now, &now->loaders[i]));
    json_object_set_new(object, "loaders", loaders);
    if (json_dumpf(object, out, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
        fputc('\n', out) == EOF)
        status = status_set(STATUS_IO, "cannot write JSON");
    json_decref(object);
    return status;
}
