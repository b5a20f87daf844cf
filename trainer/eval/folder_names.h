/* What is in a folder: names of folders or of files, sorted by bytes. */
#ifndef IBOT_TRAINER_EVAL_FOLDER_NAMES_H
#define IBOT_TRAINER_EVAL_FOLDER_NAMES_H

#include <stdbool.h>

#include "proto/base/status.h"

enum folder_name_kind { NAMES_OF_FOLDERS, NAMES_OF_FILES };

/* Zeroed is valid and empty. */
struct folder_names {
    struct dirent **entries;
    int n;
};

/* Links count as what they lead to. Errors: STATUS_NOT_FOUND names `what` and the path. */
enum status folder_names_read(struct folder_names *out, const char *path,
                              enum folder_name_kind kind, const char *what) IBOT_WARN_UNUSED;
const char *folder_name(const struct folder_names *names, int i);
void folder_names_release(struct folder_names *names);

/* Whether a path is that of a folder. */
bool is_folder(const char *path);

#endif
