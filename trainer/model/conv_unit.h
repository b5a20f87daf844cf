/* A product, batch norm over all ranks, and an activation, as decoders of maps are made of: rows
 * [N, In] -> [N, Out]. The product, a linear layer or a convolution (conv3x3.h), is its user's; the
 * running moments stand in for those of the batch when nothing is trained. */
#ifndef IBOT_TRAINER_MODEL_CONV_UNIT_H
#define IBOT_TRAINER_MODEL_CONV_UNIT_H

#include "ops/collective.h"
#include "ops/op_table.h"
#include "trainer/model/binder.h"
#include "trainer/model/conv3x3.h"

/* What units share: borrowed by each. */
struct conv_unit_site {
    struct device *device;
    const struct op_table *ops;
    struct collective *ranks; /* NULL: this one alone; each has as many rows */
    double *moments;          /* [2, widest Out] */
};

struct conv_unit {
    const struct conv_unit_site *site;
    struct affine product, norm;
    struct conv3x3 conv;               /* of a 3x3 */
    float *running_mean, *running_var; /* [Out] parameters */
    float *mean, *rstd;                /* [Out] of the batch */
    double *stored;                    /* [2, Out] moments that stand for the running ones */
    struct tensor raw, pre, y;         /* [rows, Out] of the product, the norm, the activation */
    int64_t in, out;
    enum activation activation;
};

/* Memory of a unit whose site, out and activation are set, for so many rows. */
enum status conv_unit_plan(struct conv_unit *unit, int64_t rows, enum dtype dtype, bool trains,
                           struct workspace *workspace) IBOT_WARN_UNUSED;
/* "PRODUCT.weight", and "NORM.…"; product NULL: there is none. */
void conv_unit_bind(struct conv_unit *unit, const struct binder *binder, const char *product,
                    const char *norm);

/* After running moments were written from outside, or have moved: what stands for them. Waits. */
enum status conv_unit_store(struct conv_unit *unit) IBOT_WARN_UNUSED;

/* raw -> y, of n rows; `train`: by the batch's moments, and pre is kept. */
enum status conv_unit_norm(struct conv_unit *unit, int64_t n, bool train) IBOT_WARN_UNUSED;
/* d_y [n, Out] -> the gradient of raw, in its place; of the norm, added. */
enum status conv_unit_norm_backward(struct conv_unit *unit, struct tensor d_y) IBOT_WARN_UNUSED;

#endif
