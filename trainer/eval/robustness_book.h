/* The results of an evaluation of many parts, one line of JSON each: told as they come, and kept in
 * a folder, so that the same command goes on with what is missing.
 *
 *   FOLDER/robustness.jsonl   a first line that says what was evaluated, then a line for each
 * result FOLDER/progress.json      how far the part under way is */
#ifndef IBOT_TRAINER_EVAL_ROBUSTNESS_BOOK_H
#define IBOT_TRAINER_EVAL_ROBUSTNESS_BOOK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { BOOK_MAX_VALUES = 6, BOOK_SETTING_BYTES = 160 };

/* One result: of which test, in which setting, and the numbers. */
struct book_entry {
    const char *test;
    char setting[BOOK_SETTING_BYTES];
    const char *data; /* the images; NULL: it follows from other entries */
    int64_t n_images; /* 0: the same */
    int32_t n_values;
    struct {
        const char *name;
        double value; /* NaN: there is none */
    } values[BOOK_MAX_VALUES];
};

void book_value(struct book_entry *entry, const char *name, double value);

struct robustness_book {
    const char *folder; /* borrowed; NULL: nothing is kept */
    bool json;          /* tell results as JSON, else as text */
    json_t *kept;       /* an array of lines */
};

/* Makes the folder, reads what it has. identity: a text; what must be the same. Errors:
 * STATUS_MISMATCH (another identity), STATUS_CORRUPT, STATUS_IO. */
enum status book_open(struct robustness_book *out, const char *folder, const char *identity,
                      bool json) IBOT_WARN_UNUSED;
void book_close(struct robustness_book *book);

/* Whether there is a result of this test, setting and data: then its numbers are in the entry, and
 * told. */
bool book_find(struct robustness_book *book, struct book_entry *entry);

/* Tells a result, and keeps it. Errors: STATUS_IO. */
enum status book_add(struct robustness_book *book, const struct book_entry *entry) IBOT_WARN_UNUSED;

/* How far a part is that takes long: images done, and sums over them. `name` tells parts apart;
 * another part's progress counts as none: *n_done is 0 then. Errors: STATUS_CORRUPT, STATUS_IO. */
enum status book_progress_read(const struct robustness_book *book, const char *name,
                               int64_t *n_done, double *sums, int32_t n_sums) IBOT_WARN_UNUSED;
enum status book_progress_write(const struct robustness_book *book, const char *name,
                                int64_t n_done, const double *sums,
                                int32_t n_sums) IBOT_WARN_UNUSED;

#endif
