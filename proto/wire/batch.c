/* Kinds of bad images. */
#include "proto/wire/batch.h"

const char *const bad_image_kind_names[BAD_IMAGE_KINDS] = {
    [BAD_IMAGE_UNKNOWN] = "unknown",         [BAD_IMAGE_MISSING] = "missing",
    [BAD_IMAGE_UNREADABLE] = "unreadable",   [BAD_IMAGE_CORRUPT] = "corrupt",
    [BAD_IMAGE_UNSUPPORTED] = "unsupported",
};

enum bad_image_kind bad_image_kind_of(enum status status)
{
    switch (status) {
    case STATUS_NOT_FOUND:
        return BAD_IMAGE_MISSING;
    case STATUS_IO:
        return BAD_IMAGE_UNREADABLE;
    case STATUS_CORRUPT:
        return BAD_IMAGE_CORRUPT;
    case STATUS_UNSUPPORTED:
        return BAD_IMAGE_UNSUPPORTED;
    default:
        return BAD_IMAGE_UNKNOWN;
    }
}
