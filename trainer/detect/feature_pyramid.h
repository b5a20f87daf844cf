/* A feature pyramid on four blocks of a ViT: five levels of maps with as many channels each.
 *
 *   l3 = 1x1 (scale 3)     l2 = 1x1 (scale 2) + up(l3)     l1 = …     l0 = …
 *   levels 0 .. 3: 3x3 (l0 .. l3), of 4, 8, 16, 32 px a cell; level 4: every second cell of level 3
 *
 * All with a bias, without norms. Source: Lin et al. 2017 (FPN), as mmdetection has it, whose names
 * the parameters have, behind "decoder.". */
#ifndef IBOT_TRAINER_DETECT_FEATURE_PYRAMID_H
#define IBOT_TRAINER_DETECT_FEATURE_PYRAMID_H

#include "trainer/detect/anchors.h"
#include "trainer/model/map_scales.h"

struct feature_pyramid_layout {
    struct map_scales_layout scales;
    int64_t channels;
    bool d_taps; /* gradients of the taps are wanted */
};

struct feature_pyramid {
    const struct conv_unit_site *site; /* borrowed, as the next two */
    struct map_tables *tables;
    struct conv3x3_scratch *scratch;
    struct feature_pyramid_layout layout;
    struct map_scales scales;
    struct affine lateral[MAP_SCALES];
    struct conv3x3 conv[MAP_SCALES];
    struct map_pair up[MAP_SCALES - 1]; /* level i + 1 to i */
    struct map_pair halved;             /* level 3 to 4 */
    struct tensor merged[MAP_SCALES], d_merged[MAP_SCALES];
    struct tensor levels[PYRAMID_LEVELS], d_levels[PYRAMID_LEVELS];
    struct tensor d_scale; /* of the largest map */
};

enum status feature_pyramid_plan(struct feature_pyramid *pyramid, const struct conv_unit_site *site,
                                 struct map_tables *tables, struct conv3x3_scratch *scratch,
                                 const struct feature_pyramid_layout *layout,
                                 struct workspace *workspace) IBOT_WARN_UNUSED;
void feature_pyramid_bind(struct feature_pyramid *pyramid, const struct binder *binder);
/* n pictures of rows x columns patches; as map_scales_reshape. */
enum status feature_pyramid_reshape(struct feature_pyramid *pyramid, int64_t n, int32_t rows,
                                    int32_t columns, bool tables) IBOT_WARN_UNUSED;

/* Rows, columns and px of a cell of a level, patches being of patch_px. */
struct pyramid_level feature_pyramid_shape(int32_t level, int32_t rows, int32_t columns,
                                           int32_t patch_px);
/* A level's map, and the place of its gradient: [n*cells, channels]. */
struct tensor feature_pyramid_level(const struct feature_pyramid *pyramid, int32_t level);
struct tensor feature_pyramid_d_level(const struct feature_pyramid *pyramid, int32_t level);

enum status feature_pyramid_forward(struct feature_pyramid *pyramid, struct tensor taps,
                                    bool train) IBOT_WARN_UNUSED;
/* The gradients of all levels -> those of parameters, added to, and of the taps. */
enum status feature_pyramid_backward(struct feature_pyramid *pyramid, struct tensor taps,
                                     struct tensor d_taps) IBOT_WARN_UNUSED;
void feature_pyramid_release(struct feature_pyramid *pyramid);

#endif
