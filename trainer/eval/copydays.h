/* INRIA Copydays as it is downloaded: holiday pictures, and attacks on them. Images, *.jpg, lie in
 *
 *   original             the database, and the queries that are trivial
 *   strong               prints, scans, paint, strong crops: several of an original
 *   jpegqual/3 5 8 … 75  JPEG of these qualities, a sixteenth of the pixels: one of each original
 *   crops/10 15 20 … 80  these percents of the area cut off: one of each original
 *
 * Source: Douze et al. 2009, and the original's list of folders. */
#ifndef IBOT_TRAINER_EVAL_COPYDAYS_H
#define IBOT_TRAINER_EVAL_COPYDAYS_H

#include <stdbool.h>
#include <stdint.h>

#include "trainer/eval/image_paths.h"

enum { COPYDAYS_MAX_BLOCKS = 20 };

/* The images of a folder, in the order of their names. */
struct copydays_block {
    char name[16];
    int64_t first, n; /* of the paths */
};

/* Zeroed is valid and empty. */
struct copydays {
    struct image_paths paths;                          /* of all blocks, originals first */
    struct copydays_block blocks[COPYDAYS_MAX_BLOCKS]; /* [0]: the originals */
    int32_t n_blocks;
    char missing[40]; /* folders that are not there: "strong", "jpegqual, crops"; "": none */
    int64_t odd;      /* the first that is an original's copy by its place alone, -1: none */
};

/* original/ must be there, and of jpegqual/ and crops/ all or nothing. Errors: STATUS_NOT_FOUND (a
 * folder, or its images), STATUS_CORRUPT (a block, but strong, of another number of images than
 * there are originals; one in strong/ that is of no original). */
enum status copydays_open(struct copydays *out, const char *folder) IBOT_WARN_UNUSED;

/* Whether image i of a block is made from that original: by its place, and in strong/ where the
 * first four characters of the names are the same. */
bool copydays_is_copy(const struct copydays *data, const struct copydays_block *block, int64_t i,
                      int64_t original);
void copydays_close(struct copydays *data);

#endif
