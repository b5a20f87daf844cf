/* Whether two data sets have the same classes. A class is known over the wire by its number alone,
 * its place among the sorted names of the class folders: where these differ, labels of one set mean
 * other classes in the other, and nothing but an accuracy would show it. */
#ifndef IBOT_TRAINER_EVAL_CLASS_FOLDERS_H
#define IBOT_TRAINER_EVAL_CLASS_FOLDERS_H

#include "proto/base/status.h"

/* Both are there and, where both are class folders (not archives, lists, or folders of images),
 * have the same names. Errors: STATUS_NOT_FOUND, STATUS_MISMATCH names the first that differs. */
enum status class_folders_check(const char *train, const char *test) IBOT_WARN_UNUSED;

#endif
