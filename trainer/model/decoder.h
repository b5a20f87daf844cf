/* Whatever takes the taps of a dense classifier in the place of its linear layer, and has a loss of
 * its own: called by the classifier, which owns parameters, memory, optimizer and state. */
#ifndef IBOT_TRAINER_MODEL_DECODER_H
#define IBOT_TRAINER_MODEL_DECODER_H

#include "ops/collective.h"
#include "ops/op_table.h"
#include "ops/workspace.h"
#include "trainer/model/binder.h"

struct decoder_site {
    struct device *device;
    const struct op_table *ops;
    struct collective *ranks; /* NULL: this one alone */
    enum dtype dtype;
    int64_t n_images, width; /* at most; D */
    int32_t rows, columns;   /* patches of an image: at most as many as they are together */
    bool trains, d_taps;     /* has a backward; and gradients of the taps */
};

/* A table of functions on `context`: borrowed, longer than the classifier lives. */
struct classifier_decoder {
    void *context;
    /* Its parameters, after those of the backbone. */
    enum status (*add_parameters)(void *context, struct param_table *table, int64_t width);
    enum status (*plan)(void *context, const struct decoder_site *site,
                        struct workspace *workspace);
    enum status (*bind)(void *context, const struct binder *binder);
    /* n images of rows x columns patches from now on. */
    enum status (*reshape)(void *context, int64_t n, int32_t rows, int32_t columns);
    /* taps [n_taps, n*rows*columns, D] -> gradients of the parameters, added to, and d_taps; all of
     * them times `scale`. */
    enum status (*step)(void *context, struct tensor taps, struct tensor d_taps, float scale);
    /* Parameters were written from outside, or have moved. */
    void (*written)(void *context);
};

#endif
