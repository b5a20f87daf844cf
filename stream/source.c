#include "stream/source.h"

#include <stdio.h>
#include <string.h>

enum status source_open(struct source *out, bool *same, const char *data, const char *index,
                        uint64_t index_digest, uint64_t n_samples)
{
    *out = (struct source){.is_open = true};
    TRY(image_library_start("ibot-stream"));
    TRY(index_load(&out->index, data, index, NULL, NULL));
    const struct index_header *header = out->index.header;
    bool is_same = header->digest == index_digest && header->n_samples == n_samples;
    if (same != NULL && header->n_samples == n_samples)
        *same = is_same;
    else if (!is_same)
        FAIL(STATUS_MISMATCH,
             "'%s' is not the data set that was recorded: %llu images, digest %016llx; recorded: "
             "%llu images, digest %016llx",
             data, (unsigned long long)header->n_samples, (unsigned long long)header->digest,
             (unsigned long long)n_samples, (unsigned long long)index_digest);
    TRY(order_open(&out->order, (uint32_t)n_samples));
    return view_maker_open(&out->maker, &out->index, out->order);
}

const char *source_path(const struct source *source, uint32_t sample, char *out, size_t size)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place = {.path = "?"};

    if (sample >= source->index.header->n_samples ||
        index_image(&source->index, sample, path, &place) != STATUS_OK)
        place = (struct image_place){.path = "?"};
    bool in_archive = place.name != NULL && place.name[0] != '\0';
    snprintf(out, size, "%s%s%s", place.path, in_archive ? ":" : "", in_archive ? place.name : "");
    return out;
}

enum status source_image(struct source *source, const struct data_spec *spec, uint32_t sample,
                         const struct image **out)
{
    struct view_maker *maker = &source->maker;
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;

    TRY(index_image(&source->index, sample, path, &place));
    TRY(image_read(maker->decoder, &place, &maker->image));
    *out = &maker->image;
    if (!spec->upright || maker->image.orientation == 1)
        return STATUS_OK;
    TRY(image_turn(&maker->turned, &maker->image));
    *out = &maker->turned;
    return STATUS_OK;
}

void source_close(struct source *source)
{
    if (!source->is_open)
        return;
    view_maker_close(&source->maker);
    order_close(&source->order);
    index_close(&source->index);
    *source = (struct source){0};
}
