/* Files of weights whose data are holes: as large as published ones, and of no weight on disk. */
#ifndef IBOT_TESTS_TRAINER_SPARSE_WEIGHTS_H
#define IBOT_TESTS_TRAINER_SPARSE_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

struct table_row {
    char name[128], type[8];
    int rank;
    int64_t shape[4];
};

struct table {
    struct table_row *rows;
    size_t n;
};

/* A text of "NAME TYPE SIZE SIZE …" lines. Fails the test when it can't be read. */
struct table table_read(const char *path);
void table_add(struct table *table, const char *name, const char *type, int rank,
               const int64_t *shape);
const struct table_row *table_find(const struct table *table, const char *name);
void table_release(struct table *table);

/* A safetensors file of these tensors, all zeros. Returns its size. */
int64_t sparse_safetensors(const char *path, const struct table *table);

/* PyTorch files, old and new, of one dictionary of float32 tensors "large" [n] and "last" [4],
 * zeros but for the values 1 2 3 4 of the last. */
void sparse_legacy(const char *path, int64_t n);
void sparse_archive(const char *path, int64_t n);

#endif
