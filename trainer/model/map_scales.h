/* Maps of four sizes out of those of four blocks of a ViT, which all have one, for decoders that
 * want a pyramid:
 *
 *   tap 0 ─ 2x2^T ─ BN GELU ─ 2x2^T ─> [4h x 4w]      tap 2 ──────────> [h x w]
 *   tap 1 ─ 2x2^T ───────────────────> [2h x 2w]      tap 3 ─ max pool ─> [h/2 x w/2]
 *
 * Transposed convolutions have no bias: each goes into a batch norm, or into a linear layer, which
 * have their own. Source: the adapter of the original, whose names the parameters have. */
#ifndef IBOT_TRAINER_MODEL_MAP_SCALES_H
#define IBOT_TRAINER_MODEL_MAP_SCALES_H

#include "trainer/model/conv_unit.h"

enum { MAP_SCALES = 4, MAP_SCALES_DOUBLES = 3 };

/* Transposed convolutions: weight [2, 2, D, D], that of the cell (dy, dx) of the square from each
 * cell being [dy, dx]: Out, In. And the norm between the first two. */
extern const char *const map_scales_doubles[MAP_SCALES_DOUBLES];
extern const char *const map_scales_norm;

struct map_scales_layout {
    int64_t n_images, width; /* images at most; D */
    int32_t rows, columns;   /* patches of an image at most: h, w */
    enum dtype dtype;
    bool trains;
};

struct map_scales {
    const struct conv_unit_site *site; /* borrowed, as the next */
    struct map_tables *tables;
    struct map_scales_layout layout;
    int64_t images; /* at present, of rows x columns patches */
    int32_t rows, columns;
    struct map_pair doubled[2]; /* level 2 to 1, level 1 to 0 */
    struct conv_unit unit;      /* the norm */
    struct affine doubles[MAP_SCALES_DOUBLES];
    struct tensor wide; /* [4*h*w, 4D] of each image */
    struct tensor maps[MAP_SCALES];
    uint8_t *choice; /* of the max pool */
};

/* Rows or columns of a level's map for so many patches, and cells. */
int32_t map_scales_side(int32_t level, int32_t patches);
int64_t map_scales_cells(int32_t level, int32_t rows, int32_t columns);

enum status map_scales_plan(struct map_scales *scales, const struct conv_unit_site *site,
                            struct map_tables *tables, const struct map_scales_layout *layout,
                            struct workspace *workspace) IBOT_WARN_UNUSED;
void map_scales_bind(struct map_scales *scales, const struct binder *binder);

/* n images of rows x columns patches from now on, at least 2 x 2. Its tables are made among the
 * others with `tables`, to be uploaded then. */
enum status map_scales_reshape(struct map_scales *scales, int64_t n, int32_t rows, int32_t columns,
                               bool tables) IBOT_WARN_UNUSED;

/* taps [4, n*rows*columns, D] -> map_scales_map. */
enum status map_scales_forward(struct map_scales *scales, struct tensor taps,
                               bool train) IBOT_WARN_UNUSED;
/* [n*cells, D] of a level: of level 2 the tap itself. */
struct tensor map_scales_map(const struct map_scales *scales, struct tensor taps, int32_t level);
/* One of the taps, [n*rows*columns, D]. */
struct tensor map_scales_tap(const struct map_scales *scales, struct tensor taps, int32_t i);

/* d_map [n*cells, D] of level 0, 1, or 3, overwritten -> gradients of parameters, added to, and
 * d_tap, written, or absent. */
enum status map_scales_backward(struct map_scales *scales, int32_t level, struct tensor taps,
                                struct tensor d_map, struct tensor d_tap) IBOT_WARN_UNUSED;

#endif
