#include "trainer/model/conv_unit.h"

#include <stdio.h>

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"

enum { MAX_NAME = 96 };

/* Running moments stand for those of so many rows, a power of two. */
static const int64_t stored_rows = (int64_t)1 << 40;
static const float norm_eps = 1e-5f, norm_momentum = 0.1f;

/* ------------------------------------------------------------------------------ set-up */

enum status conv_unit_plan(struct conv_unit *unit, int64_t rows, enum dtype dtype, bool trains,
                           struct workspace *w)
{
    TRY(plan_buffer(w, &unit->raw, dtype, rows * unit->out));
    TRY(plan_buffer(w, &unit->y, dtype, rows * unit->out));
    if (trains)
        TRY(plan_buffer(w, &unit->pre, dtype, rows * unit->out));
    TRY(plan_floats(w, &unit->mean, unit->out));
    TRY(plan_floats(w, &unit->rstd, unit->out));
    return workspace_reserve(w, &unit->stored, 2 * (size_t)unit->out * sizeof(double));
}

void conv_unit_bind(struct conv_unit *unit, const struct binder *binder, const char *product,
                    const char *norm)
{
    char name[MAX_NAME];

    if (product != NULL) {
        unit->product = binder_layer(binder, product);
        binder_flatten(&unit->product);
        unit->conv.layer = unit->product;
    }
    unit->norm = binder_affine(binder, norm);
    snprintf(name, sizeof(name), "%s.running_mean", norm);
    unit->running_mean = binder_parameter(binder, name).data;
    snprintf(name, sizeof(name), "%s.running_var", norm);
    unit->running_var = binder_parameter(binder, name).data;
}

/* ------------------------------------------------------------------------------ moments */

static int64_t n_ranks(const struct conv_unit *unit)
{
    return unit->site->ranks != NULL ? unit->site->ranks->world : 1;
}

static enum status sum_over_ranks(const struct conv_unit *unit)
{
    struct tensor moments = tensor_1d(unit->site->moments, DTYPE_F64, 2 * unit->out);

    return n_ranks(unit) > 1
               ? unit->site->ranks->all_reduce(unit->site->ranks, unit->site->device, &moments)
               : STATUS_OK;
}

enum status conv_unit_store(struct conv_unit *unit)
{
    struct device *d = unit->site->device;
    size_t n = (size_t)unit->out;
    double *moments = NULL;
    float *running = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&running, 2 * n, sizeof(*running), "running moments"));
    TRY_OUT(memory_alloc(&moments, 2 * n, sizeof(*moments), "running moments"));
    TRY_OUT(d->copy_out(d, running, unit->running_mean, n * sizeof(*running)));
    TRY_OUT(d->copy_out(d, running + n, unit->running_var, n * sizeof(*running)));
    TRY_OUT(d->synchronize(d));
    for (size_t j = 0; j < n; j++) {
        double mean = (double)running[j];
        moments[j] = (double)stored_rows * mean;
        moments[n + j] = (double)stored_rows * ((double)running[n + j] + mean * mean);
    }
    TRY_OUT(d->copy_in(d, unit->stored, moments, 2 * n * sizeof(*moments)));
    TRY_OUT(d->synchronize(d));
out:
    memory_free(running);
    memory_free(moments);
    return status;
}

/* ------------------------------------------------------------------------------ norm */

enum status conv_unit_norm(struct conv_unit *unit, int64_t n, bool train)
{
    const struct conv_unit_site *site = unit->site;
    struct batchnorm_moments_args measure = {shaped(unit->raw, n, unit->out),
                                             {site->moments, DTYPE_F64, 2, {2, unit->out}}};
    struct batchnorm_apply_args apply = {
        .x = measure.x,
        .moments = measure.moments,
        .gamma = unit->norm.weight,
        .beta = unit->norm.bias,
        .y = shaped(unit->y, n, unit->out),
        .mean = vector(unit->mean, unit->out),
        .rstd = vector(unit->rstd, unit->out),
        .n_rows = n * n_ranks(unit),
        .eps = norm_eps,
        .momentum = norm_momentum,
        .activation = unit->activation,
    };

    if (!train) {
        apply.moments.data = unit->stored;
        apply.n_rows = stored_rows;
        return site->ops->batchnorm_apply(site->device, &apply);
    }
    apply.pre = shaped(unit->pre, n, unit->out);
    apply.running_mean = vector(unit->running_mean, unit->out);
    apply.running_var = vector(unit->running_var, unit->out);
    TRY(site->ops->batchnorm_moments(site->device, &measure));
    TRY(sum_over_ranks(unit));
    return site->ops->batchnorm_apply(site->device, &apply);
}

enum status conv_unit_norm_backward(struct conv_unit *unit, struct tensor d_y)
{
    const struct conv_unit_site *site = unit->site;
    int64_t n = d_y.shape[0];
    struct activation_backward_args undo = {d_y, shaped(unit->pre, n, unit->out), d_y,
                                            unit->activation};
    struct batchnorm_backward_moments_args measure = {
        .d_y = d_y,
        .x = shaped(unit->raw, n, unit->out),
        .mean = vector(unit->mean, unit->out),
        .rstd = vector(unit->rstd, unit->out),
        .moments = {site->moments, DTYPE_F64, 2, {2, unit->out}},
        .d_gamma = unit->norm.d_weight,
        .d_beta = unit->norm.d_bias,
    };
    struct batchnorm_backward_apply_args apply = {
        .d_y = d_y,
        .x = measure.x,
        .mean = measure.mean,
        .rstd = measure.rstd,
        .gamma = unit->norm.weight,
        .moments = measure.moments,
        .d_x = d_y,
        .n_rows = n * n_ranks(unit),
    };

    TRY(site->ops->activation_backward(site->device, &undo));
    TRY(site->ops->batchnorm_backward_moments(site->device, &measure));
    TRY(sum_over_ranks(unit));
    return site->ops->batchnorm_backward_apply(site->device, &apply);
}
