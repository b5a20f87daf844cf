/* Any bytes as annotations, as detections of a small data set, and as the text of a mask. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/detect/coco_scores.h"

enum { SIDE = 12 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static const char small[] =
    "{\"images\": [{\"id\": 1, \"file_name\": \"a\", \"height\": 12, \"width\": 12}],"
    "\"categories\": [{\"id\": 1, \"name\": \"a\"}], \"annotations\": [{\"image_id\": 1,"
    "\"category_id\": 1, \"bbox\": [0, 0, 4, 4], \"area\": 16, \"segmentation\": "
    "[[0, 0, 4, 0, 4, 4, 0, 4]]}]}";

static void check_mask(const struct run_length_mask *mask)
{
    int64_t all = 0;

    for (size_t i = 0; i < mask->n; i++)
        all += mask->runs[i];
    if (mask->n > 0 && all != (int64_t)mask->height * mask->width)
        abort();
    if (run_length_mask_area(mask) > all || run_length_mask_overlap(mask, mask) > all)
        abort();
    struct mask_box box = run_length_mask_box(mask);
    if (box.x + box.width > mask->width || box.y + box.height > mask->height)
        abort();
}

static void as_annotations(const char *text, size_t n)
{
    struct coco_data data = {0};

    if (coco_data_parse(&data, text, n, "fuzz", true) != STATUS_OK)
        return;
    for (int64_t i = 0; i < data.n_objects; i++) {
        if (data.objects[i].image >= data.n_images || data.objects[i].category >= data.n_categories)
            abort();
        check_mask(&data.objects[i].mask);
    }
    coco_data_close(&data);
}

static void as_detections(const char *text, size_t n)
{
    static struct coco_scores scores;
    struct coco_detections found = {0};
    struct coco_data data = {0};

    if (coco_data_parse(&data, small, sizeof(small) - 1, "small", true) != STATUS_OK)
        abort();
    if (coco_detections_parse(&found, &data, text, n, "fuzz") == STATUS_OK &&
        coco_scores_compute(&scores, &data, &found, COCO_BOXES) != STATUS_OK)
        abort();
    coco_detections_release(&found);
    coco_data_close(&data);
}

static void as_text(const char *bytes, size_t n)
{
    struct run_length_mask mask = {0};
    uint8_t bits[SIDE * SIDE];
    char text[256];

    n = n < sizeof(text) - 1 ? n : sizeof(text) - 1;
    memcpy(text, bytes, n);
    text[n] = '\0';
    if (run_length_mask_parse(&mask, text, SIDE, SIDE) == STATUS_OK) {
        check_mask(&mask);
        run_length_mask_bits(&mask, bits);
    }
    run_length_mask_release(&mask);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    as_annotations((const char *)bytes, n_bytes);
    as_detections((const char *)bytes, n_bytes);
    as_text((const char *)bytes, n_bytes);
    return 0;
}
