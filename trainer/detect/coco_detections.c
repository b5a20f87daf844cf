/* Result files: read, gathered, written. */
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/memory.h"
#include "trainer/detect/coco_data.h"
#include "trainer/detect/json_field.h"
#include "trainer/weights/atomic_file.h"

enum status coco_detections_add(struct coco_detections *d, const struct coco_detection *item)
{
    TRY(memory_grow(&d->items, &d->capacity, d->n + 1, sizeof(*d->items), "detections"));
    d->items[d->n++] = *item;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ reading */

static enum status read_one(struct coco_detection *out, const struct coco_data *data,
                            const json_t *entry, const struct json_place *place)
{
    int64_t image, category;

    TRY(json_field_integer(&image, entry, "image_id", place));
    TRY(json_field_integer(&category, entry, "category_id", place));
    TRY(json_field_number(&out->score, entry, "score", place));
    out->image = (int32_t)coco_data_image(data, image);
    out->category = coco_data_category(data, category);
    if (out->image < 0 || out->category < 0)
        FAIL(STATUS_MISMATCH, "'%s': %s[%zu]: the annotations have no %s %lld", place->path,
             place->list, place->n, out->image < 0 ? "image" : "category",
             (long long)(out->image < 0 ? image : category));
    const struct coco_image *of = &data->images[out->image];
    bool boxed = json_array_size(json_object_get(entry, "bbox")) > 0;
    if (boxed)
        TRY(json_field_box(&out->box, entry, "bbox", place));
    if (!boxed || json_object_get(entry, "segmentation") != NULL)
        TRY(json_field_mask(&out->mask, entry, "segmentation", of->height, of->width, place));
    if (!boxed)
        out->box = run_length_mask_box(&out->mask);
    return STATUS_OK;
}

/* Takes the root. */
static enum status read_root(struct coco_detections *out, const struct coco_data *data,
                             json_t *root, const char *path)
{
    struct coco_detections found = {0};
    struct json_place place = {.path = path, .list = "results"};
    enum status status = STATUS_OK;

    if (!json_is_array(root) || json_array_size(root) > COCO_MAX_OBJECTS)
        FAIL_OUT(STATUS_CORRUPT, "'%s': wanted a list of detections", path);
    TRY_OUT(memory_grow(&found.items, &found.capacity, json_array_size(root), sizeof(*found.items),
                        "detections"));
    for (; place.n < json_array_size(root); place.n++) {
        found.n++;
        TRY_OUT(read_one(&found.items[place.n], data, json_array_get(root, place.n), &place));
    }
    *out = found;
    found = (struct coco_detections){0};
out:
    coco_detections_release(&found);
    json_decref(root);
    return status;
}

enum status coco_detections_read(struct coco_detections *out, const struct coco_data *data,
                                 const char *path)
{
    json_t *root;

    TRY(json_root_read(&root, path));
    return read_root(out, data, root, path);
}

enum status coco_detections_parse(struct coco_detections *out, const struct coco_data *data,
                                  const char *text, size_t n_bytes, const char *path)
{
    json_t *root;

    TRY(json_root_parse(&root, text, n_bytes, path));
    return read_root(out, data, root, path);
}

void coco_detections_release(struct coco_detections *d)
{
    for (size_t i = 0; i < d->n; i++)
        run_length_mask_release(&d->items[i].mask);
    memory_free(d->items);
    *d = (struct coco_detections){0};
}

/* ------------------------------------------------------------------------------ writing */

/* The text of a mask has one character that JSON escapes. */
static enum status print_mask(FILE *to, const struct run_length_mask *mask)
{
    char *text;

    TRY(run_length_mask_text(&text, mask));
    fprintf(to, ", \"segmentation\": {\"size\": [%d, %d], \"counts\": \"", mask->height,
            mask->width);
    for (const char *c = text; *c != '\0'; c++)
        fprintf(to, *c == '\\' ? "\\\\" : "%c", *c);
    fputs("\"}", to);
    memory_free(text);
    return STATUS_OK;
}

static enum status print(FILE *to, const struct coco_detections *d, const struct coco_data *data)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct coco_detection *item = &d->items[i];
        fprintf(to,
                "%s{\"image_id\": %lld, \"category_id\": %lld, \"score\": %.9g, "
                "\"bbox\": [%.9g, %.9g, %.9g, %.9g]",
                i == 0 ? "[" : ",\n ", (long long)data->images[item->image].id,
                (long long)data->categories[item->category].id, item->score, item->box.x,
                item->box.y, item->box.width, item->box.height);
        if (item->mask.n > 0)
            TRY(print_mask(to, &item->mask));
        fputs("}", to);
    }
    fputs(d->n == 0 ? "[]\n" : "]\n", to);
    return STATUS_OK;
}

static enum status write_text(const char *path, const char *text, size_t n_bytes)
{
    struct atomic_file file;

    TRY(atomic_file_open(&file, path));
    enum status status = atomic_file_write(&file, text, n_bytes);
    if (status == STATUS_OK)
        status = atomic_file_commit(&file);
    atomic_file_close(&file);
    return status;
}

enum status coco_detections_write(const struct coco_detections *d, const struct coco_data *data,
                                  const char *path)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *to = open_memstream(&text, &n_bytes);

    if (to == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %zu detections as a text", d->n);
    enum status status = print(to, d, data);
    if ((fclose(to) != 0 || text == NULL) && status == STATUS_OK)
        status = status_set(STATUS_NO_MEMORY, "no memory for %zu detections as a text", d->n);
    if (status == STATUS_OK)
        status = write_text(path, text, n_bytes);
    free(text);
    return status;
}
