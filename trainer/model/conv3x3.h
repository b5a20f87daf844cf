/* A convolution of 3x3 cells, perhaps with a bias, padded by zeros: on maps [n*height*width, C], as
 * products with the windows side by side (im2col). Windows are made for a part of the cells at a
 * time, so that their memory has a bound; the backward makes them again. weight [Out, 3, 3, In],
 * multiplied with as [Out, 9*In] */
#ifndef IBOT_TRAINER_MODEL_CONV3X3_H
#define IBOT_TRAINER_MODEL_CONV3X3_H

#include "ops/op_table.h"
#include "trainer/model/block.h"
#include "trainer/model/map_tables.h"

enum { CONV3X3_WINDOW = 9 };

/* Memory for the windows of a part, and for their gradient, which convolutions may share. */
struct conv3x3_scratch {
    struct tensor windows, d_windows; /* d_windows absent: no backward */
    int64_t n;                        /* values of each */
};

struct conv3x3 {
    struct device *device;
    const struct op_table *ops;
    struct map_tables *tables;       /* borrowed */
    struct conv3x3_scratch *scratch; /* borrowed */
    int64_t in, out;
    struct affine layer; /* weight [Out, 9*In], bias or none, and their gradients */
    /* Of maps at their present size: */
    int32_t height, width;
    int64_t images, cells; /* of a part: several whole images, or some cells of one */
    struct map_pair *parts;
    size_t n_parts, capacity;
};

/* Values of scratch that a convolution of maps of `cells` cells and n images wants, at most `most`,
 * but at least those of one cell. */
int64_t conv3x3_scratch_values(int64_t in, int64_t cells, int64_t n, int64_t most);

/* Makes the tables for maps of height x width, among those of conv->tables, to be uploaded then. */
enum status conv3x3_reshape(struct conv3x3 *conv, int32_t height, int32_t width) IBOT_WARN_UNUSED;

/* x [n*height*width, In] -> y [n*height*width, Out], of the type of the weight. */
enum status conv3x3_forward(struct conv3x3 *conv, struct tensor x, struct tensor y,
                            int64_t n) IBOT_WARN_UNUSED;

/* d_y -> d_weight and d_bias, added to; d_x, added to, or absent. */
enum status conv3x3_backward(struct conv3x3 *conv, struct tensor d_y, struct tensor x,
                             struct tensor d_x, int64_t n) IBOT_WARN_UNUSED;

void conv3x3_release(struct conv3x3 *conv);

#endif
