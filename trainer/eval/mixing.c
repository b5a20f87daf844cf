#include "trainer/eval/mixing.h"

#include <math.h>
#include <stddef.h>

enum { ERASE_TRIES = 10, VIEW_OF_BOXES = 1 };

static const double erase_area[2] = {0.02, 1.0 / 3.0}, erase_aspect[2] = {0.3, 1.0 / 0.3};

/* ------------------------------------------------------------------------------ Beta */

/* Never 0. */
static double positive_uniform(struct rng *rng)
{
    return ((double)rng_u32(rng) + 1.0) * 0x1p-32;
}

/* Gamma(shape, 1); a shape below 1 by that of one more. */
static double draw_gamma(struct rng *rng, double shape)
{
    double raised = shape < 1.0 ? shape + 1.0 : shape;
    double d = raised - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);

    for (;;) {
        double x = rng_normal(rng), v = pow(1.0 + c * x, 3.0);
        if (!(v > 0.0) || log(positive_uniform(rng)) >= 0.5 * x * x + d - d * v + d * log(v))
            continue;
        return shape < 1.0 ? d * v * pow(positive_uniform(rng), 1.0 / shape) : d * v;
    }
}

double mixing_draw_beta(struct rng *rng, double alpha)
{
    double a = draw_gamma(rng, alpha), b = draw_gamma(rng, alpha);

    return a / (a + b);
}

/* ------------------------------------------------------------------------------ mixing */

static int32_t clipped(int32_t value, int32_t most)
{
    return value < 0 ? 0 : value > most ? most : value;
}

/* A square of side sqrt(1 - share), whose centre is anywhere, so that it may stick out. */
static struct pixel_box draw_cut(struct rng *rng, double share, int32_t side)
{
    int32_t half = (int32_t)((double)side * sqrt(1.0 - share)) / 2;
    int32_t y = (int32_t)rng_below(rng, (uint32_t)side),
            x = (int32_t)rng_below(rng, (uint32_t)side);

    return (struct pixel_box){clipped(y - half, side), clipped(x - half, side),
                              clipped(y + half, side), clipped(x + half, side)};
}

static uint32_t stride_of(const struct mixing_options *o)
{
    return o->n_ranks > 0 ? o->n_ranks : 1;
}

struct mixing mixing_draw(const struct mixing_options *o, int64_t batch)
{
    struct mixing out = {
        .mix = {.share = 1.0f,
                .seed = o->seed,
                .step = (uint32_t)batch,
                .first_sample = o->rank,
                .sample_skip = stride_of(o) - 1},
        .label_share = 1.0f,
    };
    struct rng rng = rng_open((struct rng_key){
        .seed = o->seed, .epoch = (uint32_t)batch, .sample = o->rank, .purpose = RNG_MIX});

    if ((o->mixup <= 0.0 && o->cutmix <= 0.0) || rng_uniform(&rng) >= o->probability)
        return out;
    bool cuts = o->mixup <= 0.0 || (o->cutmix > 0.0 && rng_uniform(&rng) < o->switch_probability);
    double share = mixing_draw_beta(&rng, cuts ? o->cutmix : o->mixup);
    out.mixed = true;
    if (!cuts) {
        out.mix.share = out.label_share = (float)share;
        return out;
    }
    const struct pixel_box cut = draw_cut(&rng, share, o->side_px);
    double area = (double)(cut.bottom - cut.top) * (double)(cut.right - cut.left);
    out.mix.cut = cut;
    out.label_share = (float)(1.0 - area / ((double)o->side_px * (double)o->side_px));
    return out;
}

/* ------------------------------------------------------------------------------ erasing */

static struct pixel_box draw_box(struct rng *rng, int32_t side)
{
    for (int i = 0; i < ERASE_TRIES; i++) {
        double area = rng_range(rng, erase_area[0], erase_area[1]) * (double)side * (double)side;
        double aspect = exp(rng_range(rng, log(erase_aspect[0]), log(erase_aspect[1])));
        int32_t height = (int32_t)lrint(sqrt(area * aspect));
        int32_t width = (int32_t)lrint(sqrt(area / aspect));
        if (height >= side || width >= side)
            continue;
        int32_t top = (int32_t)rng_below(rng, (uint32_t)(side - height + 1));
        int32_t left = (int32_t)rng_below(rng, (uint32_t)(side - width + 1));
        return (struct pixel_box){top, left, top + height, left + width};
    }
    return (struct pixel_box){0};
}

bool mixing_draw_boxes(const struct mixing_options *o, int64_t batch, int32_t n,
                       struct pixel_box *out)
{
    bool any = false;

    for (int32_t i = 0; i < n; i++) {
        struct rng rng = rng_open((struct rng_key){
            .seed = o->seed,
            .epoch = (uint32_t)batch,
            .sample = o->rank + (uint32_t)i * stride_of(o),
            .view = VIEW_OF_BOXES,
            .purpose = RNG_ERASE,
        });
        out[i] = (struct pixel_box){0};
        if (rng_uniform(&rng) < o->erase_probability)
            out[i] = draw_box(&rng, o->side_px);
        any |= out[i].bottom > out[i].top;
    }
    return any;
}
