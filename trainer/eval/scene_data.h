/* Scenes: pictures, and for each a picture of labels with the class of every pixel. Two folders
 * whose files have the same names but for the ending, in subfolders too:
 *
 *   IMAGES/a/b.jpg     .jpg, .jpeg, .png, in any case
 *   LABELS/a/b.png     indices of a palette, or grey */
#ifndef IBOT_TRAINER_EVAL_SCENE_DATA_H
#define IBOT_TRAINER_EVAL_SCENE_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* Zeroed is valid and empty. */
struct scene_data {
    char *images, *labels; /* folders; labels NULL: there are none */
    char **names;          /* below `images`, with the ending; sorted by bytes */
    int64_t n;
    size_t capacity;
};

/* labels: NULL where pictures have none. Errors: STATUS_NOT_FOUND (a folder; no pictures; a picture
 * without labels, which is named), STATUS_INVALID (two pictures of one name), STATUS_NO_MEMORY. */
enum status scene_data_open(struct scene_data *out, const char *images,
                            const char *labels) IBOT_WARN_UNUSED;
void scene_data_close(struct scene_data *data);

enum { SCENE_MAX_PATH = 4096 };

/* Paths of a picture and of its labels; and FOLDER/NAME.png, where labels of it would go. out has
 * SCENE_MAX_PATH bytes. */
void scene_image_path(char *out, const struct scene_data *data, int64_t scene);
void scene_labels_path(char *out, const struct scene_data *data, int64_t scene);
void scene_path_in(char *out, const char *folder, const struct scene_data *data, int64_t scene);

/* A number made of names, and of the sizes of files. Errors: STATUS_NOT_FOUND. */
enum status scene_data_digest(uint64_t *out, const struct scene_data *data) IBOT_WARN_UNUSED;

#endif
