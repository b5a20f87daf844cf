/* Sparse matrices that maps of features [height*width, C] are multiplied with (ops/feature_map.h),
 * each with its transpose for the gradient. They are made on the host, for one size of maps, and
 * lie together in one block of the device.
 *
 *   map_tables_clear ─> map_tables_resize(&tables, &pair, …), … ─> map_tables_upload
 *   map_tables_sparse(&tables, &pair.forward)          // as an op takes it */
#ifndef IBOT_TRAINER_MODEL_MAP_TABLES_H
#define IBOT_TRAINER_MODEL_MAP_TABLES_H

#include "ops/feature_map.h"

struct map_tables {
    int32_t *words; /* values of 4 bytes, floats too */
    size_t n_words, capacity;
    struct device *device;
    void *device_words;
    size_t device_bytes;
};

/* Where a matrix lies among the words. */
struct map_matrix {
    size_t start, column, value;
    int64_t n_rows, n_columns, n_entries;
};

struct map_pair {
    struct map_matrix forward, backward;
};

/* Of maps of height x width cells. All errors: STATUS_NO_MEMORY. */

/* Bilinear, to height_to x width_to: half-pixel centres, edges clamped, no antialiasing (PyTorch's
 * align_corners=False). */
enum status map_tables_resize(struct map_tables *tables, struct map_pair *out, int32_t height,
                              int32_t width, int32_t height_to, int32_t width_to) IBOT_WARN_UNUSED;

/* Means over side x side bins, of which cell i has the rows floor(i h/side) .. ceil((i+1) h/side) -
 * 1 (PyTorch's adaptive average pooling). */
enum status map_tables_pool(struct map_tables *tables, struct map_pair *out, int32_t height,
                            int32_t width, int32_t side) IBOT_WARN_UNUSED;

/* Four rows for each cell, those of (2y, 2x), (2y, 2x+1), (2y+1, 2x), (2y+1, 2x+1), to a map of
 * twice the size: the second half of a transposed convolution of 2x2 with stride 2. */
enum status map_tables_double(struct map_tables *tables, struct map_pair *out, int32_t height,
                              int32_t width) IBOT_WARN_UNUSED;

/* To height_to x width_to, each cell the one that PyTorch's nearest mode takes. */
enum status map_tables_nearest(struct map_tables *tables, struct map_pair *out, int32_t height,
                               int32_t width, int32_t height_to, int32_t width_to) IBOT_WARN_UNUSED;

/* Every second row and column, from the first on. */
enum status map_tables_halve(struct map_tables *tables, struct map_pair *out, int32_t height,
                             int32_t width) IBOT_WARN_UNUSED;

/* One row to n. */
enum status map_tables_repeat(struct map_tables *tables, struct map_pair *out,
                              int64_t n) IBOT_WARN_UNUSED;

/* A rectangle on map `map`, in cells, whose edges lie anywhere. */
struct map_region {
    int32_t map;
    float left, top, right, bottom;
};

/* side x side bins of each region (bin_span.h), of n_maps maps, which are one map to the op. */
struct map_regions {
    const struct map_region *regions;
    int32_t n, side, n_maps, height, width;
};
enum status map_tables_regions(struct map_tables *tables, struct map_pair *out,
                               const struct map_regions *regions) IBOT_WARN_UNUSED;

/* n cells to themselves. */
enum status map_tables_copy(struct map_tables *tables, struct map_pair *out,
                            int64_t n) IBOT_WARN_UNUSED;

/* The 3x3 neighbours of each of the cells first .. first + n - 1, nine rows a cell, row by row; of
 * a neighbour outside of the map there is nothing. */
enum status map_tables_windows(struct map_tables *tables, struct map_pair *out, int32_t height,
                               int32_t width, int64_t first, int64_t n) IBOT_WARN_UNUSED;

/* Forgets all matrices. */
void map_tables_clear(struct map_tables *tables);
/* To the device, and waits for it. Earlier matrices may still be used by what is queued: it waits
 * for that first. */
enum status map_tables_upload(struct map_tables *tables, struct device *device) IBOT_WARN_UNUSED;
void map_tables_release(struct map_tables *tables);

/* A matrix after the upload. */
struct sparse_matrix map_tables_sparse(const struct map_tables *tables,
                                       const struct map_matrix *matrix);
/* Its first n rows and columns, of a map_tables_copy. */
struct sparse_matrix map_tables_part(const struct map_tables *tables,
                                     const struct map_matrix *matrix, int64_t n);
#endif
