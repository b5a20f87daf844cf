/* Annotated pictures as COCO's instance files have them: pictures, categories, and the objects of
 * each picture with their boxes and masks. And detections, as its result files have them.
 *
 *   {"images": [{"id": 9, "file_name": "000000000009.jpg", "height": 480, "width": 640}, …],
 *    "categories": [{"id": 1, "name": "person"}, …],
 *    "annotations": [{"image_id": 9, "category_id": 51, "bbox": [1.08, 187.69, 611.59, 285.84],
 *                     "area": 120057.1, "iscrowd": 0, "segmentation": [[x, y, …], …]}, …]}
 *
 *   [{"image_id": 9, "category_id": 51, "score": 0.97, "bbox": [x, y, width, height],
 *     "segmentation": {"size": [480, 640], "counts": "…"}}, …]
 *
 * The whole file is in memory while it is read: about four times its size. */
#ifndef IBOT_TRAINER_DETECT_COCO_DATA_H
#define IBOT_TRAINER_DETECT_COCO_DATA_H

#include "trainer/detect/run_length_mask.h"

enum {
    COCO_MAX_CATEGORIES = 4096,
    COCO_MAX_IMAGES = 1 << 24,
    COCO_MAX_OBJECTS = 1 << 28,
};

struct coco_image {
    int64_t id;
    char *file_name; /* owned */
    int32_t height, width;
    int64_t first_object, n_objects;
};

struct coco_category {
    int64_t id;
    char *name; /* owned */
};

struct coco_object {
    int32_t image, category;     /* which of the data's; a category is a class, from 0 */
    struct mask_box box;         /* px */
    double area;                 /* px, as it is annotated */
    bool crowd;                  /* many objects at once: neither found nor missed */
    struct run_length_mask mask; /* n 0: not read, or there is none */
};

/* Zeroed is valid and empty. */
struct coco_data {
    struct coco_image *images;        /* [n_images] by rising id */
    struct coco_category *categories; /* [n_categories] by rising id */
    struct coco_object *objects;      /* [n_objects] those of a picture together, as the file has
                                         them */
    int64_t n_images, n_objects;
    int32_t n_categories;
};

/* A detection; score: the greater, the surer. */
struct coco_detection {
    int32_t image, category;
    double score;
    struct mask_box box;
    struct run_length_mask mask; /* n 0: none */
};

struct coco_detections {
    struct coco_detection *items; /* [n] owned */
    size_t n, capacity;
};

/* Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_CORRUPT (which entry, what is wrong). Masks are read
 * when they are asked for. */
enum status coco_data_open(struct coco_data *out, const char *path, bool masks) IBOT_WARN_UNUSED;
/* The same of a text; `path` names it. */
enum status coco_data_parse(struct coco_data *out, const char *text, size_t n_bytes,
                            const char *path, bool masks) IBOT_WARN_UNUSED;
void coco_data_close(struct coco_data *data);

/* Which picture, category has an id; -1: none. */
int64_t coco_data_image(const struct coco_data *data, int64_t id);
int32_t coco_data_category(const struct coco_data *data, int64_t id);

/* A result file. A detection that has a mask and no box gets the box around it. Errors: as above,
 * and STATUS_MISMATCH: a picture or category that the data does not have, a mask of another size.
 */
enum status coco_detections_read(struct coco_detections *out, const struct coco_data *data,
                                 const char *path) IBOT_WARN_UNUSED;
enum status coco_detections_parse(struct coco_detections *out, const struct coco_data *data,
                                  const char *text, size_t n_bytes,
                                  const char *path) IBOT_WARN_UNUSED;
/* Takes the mask. */
enum status coco_detections_add(struct coco_detections *detections,
                                const struct coco_detection *item) IBOT_WARN_UNUSED;
/* Errors: STATUS_IO, STATUS_NO_MEMORY; the file is there whole or not at all. */
enum status coco_detections_write(const struct coco_detections *detections,
                                  const struct coco_data *data, const char *path) IBOT_WARN_UNUSED;
void coco_detections_release(struct coco_detections *detections);

#endif
