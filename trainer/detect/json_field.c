#include "trainer/detect/json_field.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ roots */

enum status json_root_read(json_t **out, const char *path)
{
    FILE *file = fopen(path, "rb");
    json_error_t error;

    if (file == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s' can't be opened: %s", path,
             strerror(errno));
    errno = 0;
    *out = json_loadf(file, 0, &error);
    int reason = ferror(file) != 0 ? errno : 0;
    fclose(file);
    if (reason != 0) {
        json_decref(*out);
        FAIL(STATUS_IO, "'%s' can't be read: %s", path, strerror(reason));
    }
    if (*out == NULL)
        FAIL(STATUS_CORRUPT, "'%s', line %d, column %d: %s", path, error.line, error.column,
             error.text);
    return STATUS_OK;
}

enum status json_root_parse(json_t **out, const char *text, size_t n_bytes, const char *path)
{
    json_error_t error;

    *out = json_loadb(text, n_bytes, 0, &error);
    if (*out == NULL)
        FAIL(STATUS_CORRUPT, "'%s', line %d, column %d: %s", path, error.line, error.column,
             error.text);
    return STATUS_OK;
}

enum status json_field_list(json_t **out, const json_t *root, const char *list, size_t most,
                            const char *path)
{
    *out = json_object_get(root, list);
    if (!json_is_array(*out))
        FAIL(STATUS_CORRUPT, "'%s': wanted a list '%s'", path, list);
    if (json_array_size(*out) > most)
        FAIL(STATUS_CORRUPT, "'%s': '%s' has %zu entries, wanted at most %zu", path, list,
             json_array_size(*out), most);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ values */

static const char *kind_of(const json_t *value)
{
    static const char *const kinds[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",  [JSON_STRING] = "a text",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return value == NULL ? "nothing" : kinds[json_typeof(value)];
}

#define WRONG(place, name, wanted, value)                                                          \
    FAIL(STATUS_CORRUPT, "'%s': %s[%zu]: '%s': wanted %s, got %s", (place)->path, (place)->list,   \
         (place)->n, name, wanted, kind_of(value))

enum status json_field_integer(int64_t *out, const json_t *entry, const char *name,
                               const struct json_place *place)
{
    const json_t *value = json_object_get(entry, name);

    if (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)) &&
        fabs(json_real_value(value)) < 9e15) {
        *out = (int64_t)json_real_value(value);
        return STATUS_OK;
    }
    if (!json_is_integer(value))
        WRONG(place, name, "a whole number", value);
    *out = json_integer_value(value);
    return STATUS_OK;
}

enum status json_field_number(double *out, const json_t *entry, const char *name,
                              const struct json_place *place)
{
    const json_t *value = json_object_get(entry, name);

    if (!json_is_number(value) || !isfinite(json_number_value(value)))
        WRONG(place, name, "a number", value);
    *out = json_number_value(value);
    return STATUS_OK;
}

enum status json_field_text(const char **out, const json_t *entry, const char *name,
                            const struct json_place *place)
{
    const json_t *value = json_object_get(entry, name);

    if (!json_is_string(value))
        WRONG(place, name, "a text", value);
    *out = json_string_value(value);
    return STATUS_OK;
}

enum status json_field_box(struct mask_box *out, const json_t *entry, const char *name,
                           const struct json_place *place)
{
    const json_t *value = json_object_get(entry, name);
    double numbers[4];

    if (!json_is_array(value) || json_array_size(value) != 4)
        WRONG(place, name, "a list of four numbers", value);
    for (size_t i = 0; i < 4; i++) {
        const json_t *number = json_array_get(value, i);
        if (!json_is_number(number) || !isfinite(json_number_value(number)))
            WRONG(place, name, "a list of four numbers", number);
        numbers[i] = json_number_value(number);
    }
    *out = (struct mask_box){numbers[0], numbers[1], numbers[2], numbers[3]};
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ masks */

static enum status polygons_of(struct run_length_mask *out, const json_t *list, const char *name,
                               int32_t height, int32_t width, const struct json_place *place)
{
    size_t n = json_array_size(list), n_numbers = 0, at = 0;
    struct polygon *polygons = NULL;
    double *xy = NULL;
    enum status status;

    for (size_t i = 0; i < n; i++)
        n_numbers += json_array_size(json_array_get(list, i));
    TRY_OUT(memory_alloc(&polygons, n, sizeof(*polygons), "polygons"));
    TRY_OUT(memory_alloc(&xy, n_numbers, sizeof(*xy), "corners of polygons"));
    for (size_t i = 0; i < n; i++) {
        const json_t *numbers = json_array_get(list, i);
        polygons[i] = (struct polygon){xy + at, json_array_size(numbers) / 2};
        for (size_t k = 0; k < 2 * polygons[i].n; k++) {
            if (!json_is_number(json_array_get(numbers, k)))
                FAIL_OUT(STATUS_CORRUPT, "'%s': %s[%zu]: '%s': wanted polygons of numbers, got %s",
                         place->path, place->list, place->n, name,
                         kind_of(json_array_get(numbers, k)));
            xy[at++] = json_number_value(json_array_get(numbers, k));
        }
    }
    TRY_OUT(run_length_mask_fill(out, polygons, n, height, width));
out:
    memory_free(polygons);
    memory_free(xy);
    return status;
}

static enum status runs_of(struct run_length_mask *out, const json_t *list, int32_t height,
                           int32_t width)
{
    size_t n = json_array_size(list);
    int64_t *runs;

    TRY(memory_alloc(&runs, n, sizeof(*runs), "runs of a mask"));
    for (size_t i = 0; i < n; i++) /* what is no whole number does not fit in any picture */
        runs[i] = json_is_integer(json_array_get(list, i))
                      ? json_integer_value(json_array_get(list, i))
                      : -1;
    enum status status = run_length_mask_set(out, runs, n, height, width);
    memory_free(runs);
    return status;
}

static enum status coded_mask(struct run_length_mask *out, const json_t *value, const char *name,
                              int32_t height, int32_t width, const struct json_place *place)
{
    const json_t *size = json_object_get(value, "size"), *counts = json_object_get(value, "counts");

    if (json_integer_value(json_array_get(size, 0)) != height ||
        json_integer_value(json_array_get(size, 1)) != width)
        FAIL(STATUS_CORRUPT,
             "'%s': %s[%zu]: '%s': wanted a size of [%d, %d], as the picture has, got [%lld, %lld]",
             place->path, place->list, place->n, name, height, width,
             (long long)json_integer_value(json_array_get(size, 0)),
             (long long)json_integer_value(json_array_get(size, 1)));
    if (json_is_string(counts))
        return run_length_mask_parse(out, json_string_value(counts), height, width);
    if (!json_is_array(counts))
        WRONG(place, name, "'counts' that are a list or a text", counts);
    return runs_of(out, counts, height, width);
}

enum status json_field_mask(struct run_length_mask *out, const json_t *entry, const char *name,
                            int32_t height, int32_t width, const struct json_place *place)
{
    const json_t *value = json_object_get(entry, name);
    enum status status;

    if (json_is_object(value))
        status = coded_mask(out, value, name, height, width, place);
    else if (json_is_array(value))
        status = polygons_of(out, value, name, height, width, place);
    else
        WRONG(place, name, "a list of polygons, or an object with 'size' and 'counts'", value);
    if (status == STATUS_CORRUPT && status_message()[0] != '\'')
        FAIL(STATUS_CORRUPT, "'%s': %s[%zu]: '%s': %s", place->path, place->list, place->n, name,
             status_message());
    return status;
}
