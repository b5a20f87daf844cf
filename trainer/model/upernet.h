/* The UPerNet decoder on four blocks of a ViT, and the auxiliary head beside it, for semantic
 * segmentation: feature pyramid, pooling pyramid, and their fusion, in maps of a fourth of a patch.
 *
 *   tap 0 ─ 2x2^T ─ BN GELU ─ 2x2^T ─> p0 [4h x 4w]      tap 2 ──────────> p2 [h x w]
 *   tap 1 ─ 2x2^T ───────────────────> p1 [2h x 2w]      tap 3 ─ max pool ─> p3 [h/2 x w/2]
 *
 *   l3 = 3x3 (p3 with its means over 1, 2, 3, 6 bins, each through 1x1, scaled up)
 *   l2 = 1x1 (p2) + up(l3)     l1 = 1x1 (p1) + up(l2)     l0 = 1x1 (p0) + up(l1)
 *   fused = 3x3 (3x3 (l0), up(3x3 (l1)), up(3x3 (l2)), up(l3))       4h x 4w, to be classified
 *   auxiliary = 3x3 (p2)                                              h x w, to be classified too
 *
 * Each 1x1 and 3x3 is a convolution without bias, batch norm over all ranks, and ReLU. All of it
 * but the products is sparse matrices on maps (map_tables.h). Transposed convolutions have no bias:
 * each goes, perhaps through a 1x1, into a batch norm, which takes a constant away. Sources: Xiao
 * et al. 2018 (UPerNet); the spec of the original and mmsegmentation's UPerHead and FCNHead, whose
 * names the parameters have, behind "decoder." and "auxiliary.". */
#ifndef IBOT_TRAINER_MODEL_UPERNET_H
#define IBOT_TRAINER_MODEL_UPERNET_H

#include "trainer/model/map_scales.h"

enum {
    UPERNET_TAPS = 4,
    UPERNET_POOLS = 4,
    UPERNET_AUXILIARY = 256, /* channels of the auxiliary head */
};

/* Its layers with a batch norm, in the order of their parameters. */
enum upernet_layer {
    UPERNET_POOLED, /* one for each of the pooling pyramid's sides */
    UPERNET_BOTTLENECK = UPERNET_POOLED + UPERNET_POOLS,
    UPERNET_LATERAL, /* 0 .. 2 */
    UPERNET_PYRAMID = UPERNET_LATERAL + 3,
    UPERNET_FUSED = UPERNET_PYRAMID + 3,
    UPERNET_AUXILIARY_LAYER,
    UPERNET_LAYERS,
};

/* What a layer is: its product's parameter is "PREFIX.conv.weight" [Out, In] or [Out, 3, 3, In],
 * its norm's are "PREFIX.bn.…". */
struct upernet_shape {
    const char *prefix;
    int32_t in, out; /* in widths of the backbone; out 0: UPERNET_AUXILIARY channels */
    int32_t level;   /* of its map: 0 to 3; 4 + i: the i-th of the pooling pyramid's sides */
    bool window;     /* 3x3 */
};
extern const struct upernet_shape upernet_shapes[UPERNET_LAYERS];

/* Sides of the pooling pyramid. */
extern const int32_t upernet_sides[UPERNET_POOLS];

struct upernet_layout {
    int64_t n_images, width, n_classes; /* images at most; D */
    int32_t rows, columns;              /* patches of an image at most: h, w */
    enum dtype dtype;
    bool trains;          /* has a backward */
    bool d_taps;          /* and gradients of the taps */
    int64_t most_windows; /* values of a convolution's windows at a time; 0: the default */
};

struct upernet {
    struct device *device;
    const struct op_table *ops;
    struct conv_unit_site site;
    struct upernet_layout layout;
    int64_t images; /* at present, of rows x columns patches */
    int32_t rows, columns;

    struct map_tables tables;
    struct map_pair up[3], far[2]; /* level i + 1 to i; levels 2, 3 to 0 */
    struct map_pair pooled[UPERNET_POOLS], grown[UPERNET_POOLS]; /* level 3 to side^2, and back */
    struct map_pair copied;                                      /* level 0 to itself */

    struct conv_unit units[UPERNET_LAYERS];
    struct map_scales scales;
    struct affine auxiliary;
    struct conv3x3_scratch scratch;
    struct tensor means[UPERNET_POOLS]; /* [side^2, D] */
    struct tensor pyramid, levels;      /* [h/2*w/2, 5D], [4h*4w, 4D]: side by side */
    float *auxiliary_logits;            /* [h*w, K] of each image */
    bool stored_fits;                   /* the stored moments are those of the running ones */

    struct tensor d_level, d_lateral[4], d_pyramid, d_levels, d_means[2];
};

/* Errors of all: those of the ops, STATUS_NO_MEMORY. */
enum status upernet_plan(struct upernet *u, struct device *device, const struct op_table *ops,
                         struct collective *ranks, const struct upernet_layout *layout,
                         struct workspace *workspace) IBOT_WARN_UNUSED;
enum status upernet_bind(struct upernet *u, const struct binder *binder) IBOT_WARN_UNUSED;

/* n images of rows x columns patches from now on, at least 2 x 2. Waits for the device. */
enum status upernet_reshape(struct upernet *u, int64_t n, int32_t rows,
                            int32_t columns) IBOT_WARN_UNUSED;

/* Factors of the channels of what is classified: [n, D] and [n, 256] f32; NULL: none, and batch
 * norm by the running moments. */
struct upernet_dropout {
    float *fused, *auxiliary;
};

/* taps [4, n*rows*columns, D] -> upernet_fused [n*16*rows*columns, D]; and the auxiliary logits,
 * when it trains. */
enum status upernet_forward(struct upernet *u, struct tensor taps,
                            const struct upernet_dropout *dropout) IBOT_WARN_UNUSED;
struct tensor upernet_fused(const struct upernet *u);

/* d_fused, d_auxiliary [n*rows*columns, K], of the compute dtype, both overwritten -> gradients of
 * all parameters, added to, and d_taps, if they are wanted. taps and dropout as in the forward. */
enum status upernet_backward(struct upernet *u, struct tensor taps, struct tensor d_fused,
                             struct tensor d_auxiliary, struct tensor d_taps,
                             const struct upernet_dropout *dropout) IBOT_WARN_UNUSED;

/* Where d_fused may lie. */
struct tensor upernet_d_fused(const struct upernet *u);

/* After the parameters were written from outside. */
void upernet_written(struct upernet *u);
void upernet_release(struct upernet *u);

#endif
