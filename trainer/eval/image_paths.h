/* Paths of images, made of folders and names. */
#ifndef IBOT_TRAINER_EVAL_IMAGE_PATHS_H
#define IBOT_TRAINER_EVAL_IMAGE_PATHS_H

#include <stddef.h>

#include "proto/base/status.h"

/* Zeroed is valid and empty. */
struct image_paths {
    char **paths;
    size_t n, capacity;
};

/* Adds FOLDER/NAME and the ending. Errors: STATUS_NO_MEMORY. */
enum status image_paths_add(struct image_paths *paths, const char *folder, const char *name,
                            const char *ending) IBOT_WARN_UNUSED;
/* Adds the files of a folder that end so, sorted by bytes; `what` is for messages. Errors:
 * STATUS_NOT_FOUND, also where there are none. */
enum status image_paths_add_folder(struct image_paths *paths, const char *folder,
                                   const char *ending, const char *what) IBOT_WARN_UNUSED;
/* What follows the last slash. */
const char *image_paths_name(const struct image_paths *paths, size_t i);
void image_paths_release(struct image_paths *paths);

#endif
