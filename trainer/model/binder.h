/* Where the pieces of a network find their parameters: by name, in the flat arrays. */
#ifndef IBOT_TRAINER_MODEL_BINDER_H
#define IBOT_TRAINER_MODEL_BINDER_H

#include "trainer/model/block.h"
#include "trainer/model/params.h"

struct binder {
    const struct param_table *table;
    float *parameters, *gradients; /* gradients NULL: none */
    struct tensor operands;        /* the parameters as products take them: in the compute dtype */
    int64_t first_gradient;        /* element of the parameters that gradients begin with */
};

/* "PREFIX.weight" and, where the table has it, "PREFIX.bias", with their gradients: of a norm. */
struct affine binder_affine(const struct binder *binder, const char *prefix);

/* The same of a layer whose result is of the compute dtype; or, wide, of float32 (its bias is). */
struct affine binder_layer(const struct binder *binder, const char *prefix);
struct affine binder_wide_layer(const struct binder *binder, const char *prefix);

/* One parameter, or its gradient (data NULL when there are none), in its official shape. */
struct tensor binder_parameter(const struct binder *binder, const char *name);
struct tensor binder_gradient(const struct binder *binder, const char *name);

/* The student's mask token and its gradient as [D]; data NULL where the table has none. */
void binder_mask_token(const struct binder *binder, struct tensor *token, struct tensor *d_token);

/* Norms and layers of a block named "PREFIX.norm1.weight", … */
void binder_block(const struct binder *binder, const char *prefix, struct block_weights *out);

/* A convolution's weight [D, 3, p, p], and its gradient, as the matrix [D, 3pp] to multiply with.
 */
void binder_flatten(struct affine *convolution);

#endif
