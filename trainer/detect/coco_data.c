#include "trainer/detect/coco_data.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/detect/json_field.h"

/* ------------------------------------------------------------------------------ look-up */

/* Both kinds of entries begin with their id. */
static int64_t position(const void *entries, size_t size, int64_t n, int64_t id)
{
    int64_t low = 0, high = n;

    while (low < high) {
        int64_t middle = low + (high - low) / 2, there;
        memcpy(&there, (const char *)entries + (size_t)middle * size, sizeof(there));
        if (there == id)
            return middle;
        if (there < id)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

int64_t coco_data_image(const struct coco_data *data, int64_t id)
{
    return position(data->images, sizeof(*data->images), data->n_images, id);
}

int32_t coco_data_category(const struct coco_data *data, int64_t id)
{
    return (int32_t)position(data->categories, sizeof(*data->categories), data->n_categories, id);
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x < y ? -1 : x > y;
}

static enum status sort_by_id(void *entries, size_t size, int64_t n, const char *list,
                              const char *path)
{
    if (n > 0)
        qsort(entries, (size_t)n, size, compare_ids);
    for (int64_t i = 1; i < n; i++)
        if (compare_ids((char *)entries + (size_t)(i - 1) * size,
                        (char *)entries + (size_t)i * size) == 0) {
            int64_t id;
            memcpy(&id, (char *)entries + (size_t)i * size, sizeof(id));
            FAIL(STATUS_CORRUPT, "'%s': %s: the id %lld occurs twice", path, list, (long long)id);
        }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ lists */

static enum status read_images(struct coco_data *data, const json_t *root, const char *path)
{
    struct json_place place = {.path = path, .list = "images"};
    json_t *list;

    TRY(json_field_list(&list, root, place.list, COCO_MAX_IMAGES, path));
    TRY(memory_alloc(&data->images, json_array_size(list), sizeof(*data->images), "pictures"));
    for (; place.n < json_array_size(list); place.n++) {
        const json_t *entry = json_array_get(list, place.n);
        struct coco_image *image = &data->images[data->n_images];
        const char *name;
        int64_t height, width;
        TRY(json_field_integer(&image->id, entry, "id", &place));
        TRY(json_field_text(&name, entry, "file_name", &place));
        TRY(json_field_integer(&height, entry, "height", &place));
        TRY(json_field_integer(&width, entry, "width", &place));
        if (height < 1 || width < 1 || height > MASK_MAX_SIDE || width > MASK_MAX_SIDE)
            FAIL(STATUS_CORRUPT, "'%s': images[%zu]: %lld x %lld px, wanted sides of 1 to %d", path,
                 place.n, (long long)width, (long long)height, MASK_MAX_SIDE);
        image->height = (int32_t)height;
        image->width = (int32_t)width;
        data->n_images++;
        TRY(memory_strdup(&image->file_name, name));
    }
    return sort_by_id(data->images, sizeof(*data->images), data->n_images, place.list, path);
}

static enum status read_categories(struct coco_data *data, const json_t *root, const char *path)
{
    struct json_place place = {.path = path, .list = "categories"};
    json_t *list;

    TRY(json_field_list(&list, root, place.list, COCO_MAX_CATEGORIES, path));
    TRY(memory_alloc(&data->categories, json_array_size(list), sizeof(*data->categories),
                     "categories"));
    for (; place.n < json_array_size(list); place.n++) {
        const json_t *entry = json_array_get(list, place.n);
        struct coco_category *category = &data->categories[data->n_categories];
        const char *name;
        TRY(json_field_integer(&category->id, entry, "id", &place));
        TRY(json_field_text(&name, entry, "name", &place));
        data->n_categories++;
        TRY(memory_strdup(&category->name, name));
    }
    return sort_by_id(data->categories, sizeof(*data->categories), data->n_categories, place.list,
                      path);
}

static enum status read_object(struct coco_object *out, const struct coco_data *data,
                               const json_t *entry, const struct json_place *place, bool masks)
{
    int64_t image, category, crowd = 0;

    TRY(json_field_integer(&image, entry, "image_id", place));
    TRY(json_field_integer(&category, entry, "category_id", place));
    out->image = (int32_t)coco_data_image(data, image);
    out->category = coco_data_category(data, category);
    if (out->image < 0 || out->category < 0)
        FAIL(STATUS_CORRUPT, "'%s': annotations[%zu]: there is no %s %lld", place->path, place->n,
             out->image < 0 ? "image" : "category", (long long)(out->image < 0 ? image : category));
    TRY(json_field_box(&out->box, entry, "bbox", place));
    TRY(json_field_number(&out->area, entry, "area", place));
    if (json_object_get(entry, "iscrowd") != NULL)
        TRY(json_field_integer(&crowd, entry, "iscrowd", place));
    out->crowd = crowd != 0;
    if (!masks)
        return STATUS_OK;
    const struct coco_image *of = &data->images[out->image];
    return json_field_mask(&out->mask, entry, "segmentation", of->height, of->width, place);
}

/* Objects to those of their picture, in the order of the file. */
static enum status sort_objects(struct coco_data *data)
{
    struct coco_object *sorted;
    int64_t at = 0;

    TRY(memory_alloc(&sorted, (size_t)data->n_objects, sizeof(*sorted), "objects"));
    for (int64_t i = 0; i < data->n_objects; i++)
        data->images[data->objects[i].image].n_objects++;
    for (int64_t i = 0; i < data->n_images; i++) {
        data->images[i].first_object = at;
        at += data->images[i].n_objects;
        data->images[i].n_objects = 0;
    }
    for (int64_t i = 0; i < data->n_objects; i++) {
        struct coco_image *image = &data->images[data->objects[i].image];
        sorted[image->first_object + image->n_objects++] = data->objects[i];
    }
    memory_free(data->objects);
    data->objects = sorted;
    return STATUS_OK;
}

static enum status read_objects(struct coco_data *data, const json_t *root, const char *path,
                                bool masks)
{
    struct json_place place = {.path = path, .list = "annotations"};
    json_t *list;

    TRY(json_field_list(&list, root, place.list, COCO_MAX_OBJECTS, path));
    TRY(memory_alloc(&data->objects, json_array_size(list), sizeof(*data->objects), "objects"));
    for (; place.n < json_array_size(list); place.n++) {
        data->n_objects++;
        TRY(read_object(&data->objects[place.n], data, json_array_get(list, place.n), &place,
                        masks));
    }
    return sort_objects(data);
}

/* ------------------------------------------------------------------------------ whole */

/* Takes the root. */
static enum status read_root(struct coco_data *out, json_t *root, const char *path, bool masks)
{
    struct coco_data data = {0};
    enum status status;

    TRY_OUT(read_images(&data, root, path));
    TRY_OUT(read_categories(&data, root, path));
    TRY_OUT(read_objects(&data, root, path, masks));
    *out = data;
    data = (struct coco_data){0};
out:
    coco_data_close(&data);
    json_decref(root);
    return status;
}

enum status coco_data_open(struct coco_data *out, const char *path, bool masks)
{
    json_t *root;

    TRY(json_root_read(&root, path));
    return read_root(out, root, path, masks);
}

enum status coco_data_parse(struct coco_data *out, const char *text, size_t n_bytes,
                            const char *path, bool masks)
{
    json_t *root;

    TRY(json_root_parse(&root, text, n_bytes, path));
    return read_root(out, root, path, masks);
}

void coco_data_close(struct coco_data *data)
{
    for (int64_t i = 0; i < data->n_images; i++)
        memory_free(data->images[i].file_name);
    for (int32_t i = 0; i < data->n_categories; i++)
        memory_free(data->categories[i].name);
    for (int64_t i = 0; i < data->n_objects; i++)
        run_length_mask_release(&data->objects[i].mask);
    memory_free(data->images);
    memory_free(data->categories);
    memory_free(data->objects);
    *data = (struct coco_data){0};
}
