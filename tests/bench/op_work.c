/* Bytes and operations of each op, from its arguments. */
#include "tests/bench/op_work.h"

/* Of tensors that are there. */
static double sum(const struct tensor *tensors, int n)
{
    double bytes = 0.0;

    for (int i = 0; i < n; i++)
        bytes += tensors[i].data != NULL ? (double)tensor_size_bytes(&tensors[i]) : 0.0;
    return bytes;
}

#define BYTES(...)                                                                                 \
    sum((const struct tensor[]){__VA_ARGS__},                                                      \
        (int)(sizeof((const struct tensor[]){__VA_ARGS__}) / sizeof(struct tensor)))

/* An op that only moves. */
static struct op_work moves(double bytes)
{
    return (struct op_work){.bytes = bytes};
}

static double element_bytes(const struct tensor *tensor)
{
    return (double)dtype_size_bytes(tensor->dtype);
}

/* ------------------------------------------------------------------------------ tokens, rows */

struct op_work work_of_patchify(const struct patchify_args *a)
{
    /* trailing pixels are not read */
    double pixels =
        (double)tensor_n_elements(&a->patches) * (double)dtype_size_bytes(a->pixels.dtype);
    return moves(pixels + BYTES(a->patches));
}

struct op_work work_of_tokens_forward(const struct tokens_args *a)
{
    return moves(BYTES(a->patches, a->mask, a->mask_token, a->cls, a->pos, a->tokens));
}

struct op_work work_of_tokens_backward(const struct tokens_backward_args *a)
{
    return moves(BYTES(a->d_tokens, a->mask, a->d_patches) +
                 2.0 * BYTES(a->d_mask_token, a->d_cls, a->d_pos));
}

struct op_work work_of_position_interpolate(const struct position_interpolate_args *a)
{
    return moves(BYTES(a->grid, a->out));
}

struct op_work
work_of_position_interpolate_backward(const struct position_interpolate_backward_args *a)
{
    return moves(BYTES(a->d_out) + 2.0 * BYTES(a->d_grid));
}

struct op_work work_of_rows_gather(const struct rows_gather_args *a)
{
    return moves(BYTES(a->index) + 2.0 * BYTES(a->to));
}

struct op_work work_of_rows_scatter(const struct rows_scatter_args *a)
{
    return moves(BYTES(a->index, a->from, a->zero_others ? a->to : a->from));
}

struct op_work work_of_rows_add(const struct rows_add_args *a)
{
    return moves(BYTES(a->from) + 2.0 * BYTES(a->to));
}

struct op_work work_of_cast(const struct cast_args *a)
{
    return moves(BYTES(a->from, a->to));
}

struct op_work work_of_rows_mean(const struct rows_mean_args *a)
{
    return moves(BYTES(a->x, a->mean));
}

struct op_work work_of_rows_argmax(const struct rows_argmax_args *a)
{
    return moves(BYTES(a->x, a->index));
}

/* ------------------------------------------------------------------------------ layers */

struct op_work work_of_linear_forward(const struct linear_args *a)
{
    return (struct op_work){
        .flop = 2.0 * (double)tensor_n_elements(&a->x) * (double)a->weight.shape[0],
        .bytes = BYTES(a->x, a->weight, a->bias, a->y, a->pre),
    };
}

/* d_y is read once, though two products take it. */
struct op_work work_of_linear_backward(const struct linear_backward_args *a)
{
    double product = 2.0 * (double)tensor_n_elements(&a->d_y) * (double)a->weight.shape[1];
    bool data = a->d_x.data != NULL, weight = a->d_weight.data != NULL;
    struct op_work work = {
        .bytes = BYTES(a->d_y, a->d_x) + 2.0 * BYTES(a->d_weight, a->d_bias, a->d_x_sums),
    };

    if (data) {
        work.flop += product;
        work.bytes += BYTES(a->weight, a->pre);
    }
    if (weight) {
        work.flop += product;
        work.bytes += BYTES(a->x);
    }
    return work;
}

struct op_work work_of_activation_forward(const struct activation_args *a)
{
    return moves(BYTES(a->x, a->y));
}

struct op_work work_of_activation_backward(const struct activation_backward_args *a)
{
    return moves(BYTES(a->d_y, a->x, a->d_x));
}

struct op_work work_of_residual_layernorm_forward(const struct residual_layernorm_args *a)
{
    double bytes =
        BYTES(a->x, a->branch, a->scale, a->sample, a->gamma, a->beta, a->y, a->mean, a->rstd) +
        BYTES(a->branch_shift, a->y_shift);
    return moves(bytes + (a->branch.data != NULL ? BYTES(a->sum) : 0.0));
}

struct op_work work_of_residual_layernorm_backward(const struct residual_layernorm_backward_args *a)
{
    double norm = a->d_y.data != NULL ? BYTES(a->d_y, a->sum, a->mean, a->rstd, a->gamma) : 0.0;
    return moves(norm + BYTES(a->d_sum, a->scale, a->sample, a->d_sum_out, a->d_branch) +
                 BYTES(a->branch_shift, a->y_shift) +
                 2.0 * BYTES(a->d_gamma, a->d_beta, a->d_bias));
}

struct op_work work_of_unit_norm_forward(const struct unit_norm_args *a)
{
    return moves(BYTES(a->x, a->y, a->inverse));
}

struct op_work work_of_unit_norm_backward(const struct unit_norm_backward_args *a)
{
    return moves(BYTES(a->d_y, a->y, a->inverse, a->d_x));
}

struct op_work work_of_weight_norm_forward(const struct weight_norm_args *a)
{
    return moves(BYTES(a->direction, a->gain, a->weight, a->inverse));
}

struct op_work work_of_weight_norm_backward(const struct weight_norm_backward_args *a)
{
    return moves(BYTES(a->d_weight, a->direction, a->gain, a->inverse) +
                 2.0 * BYTES(a->d_direction, a->d_gain));
}

/* ------------------------------------------------------------------------------ attention */

/* Tokens in the groups, and pairs of tokens that meet. */
struct meetings {
    double tokens, pairs;
};

static struct meetings of_sequences(const struct attention_group *groups, int32_t n_groups)
{
    struct meetings m = {0};

    for (int32_t i = 0; i < n_groups; i++) {
        double tokens = (double)groups[i].n_sequences * (double)groups[i].length;
        m.tokens += tokens;
        m.pairs += tokens * (double)groups[i].length;
    }
    return m;
}

/* Padding of the windows takes part. */
static struct meetings of_windows(const struct region_group *groups, int32_t n_groups,
                                  int32_t window)
{
    struct meetings m = {0};

    for (int32_t i = 0; i < n_groups; i++) {
        double side = (double)groups[i].side, w = window;
        double padded = (double)((groups[i].side + window - 1) / window * window);
        m.tokens += (double)groups[i].n_images * side * side;
        m.pairs += (double)groups[i].n_images * padded * padded * w * w;
    }
    return m;
}

/* `rows` values of the width D for each token: 4 for q, k, v and out; and the log-sum-exp. */
static struct op_work attention(struct meetings m, const struct tensor *out, int32_t n_heads,
                                double products, double rows, bool lse)
{
    double d = (double)out->shape[1];
    return (struct op_work){
        .flop = products * 2.0 * m.pairs * d,
        .bytes = m.tokens * (rows * d * element_bytes(out) + (lse ? 4.0 * n_heads : 0.0)),
    };
}

struct op_work work_of_attention_forward(const struct attention_args *a)
{
    return attention(of_sequences(a->groups, a->n_groups), &a->out, a->n_heads, 2.0, 4.0,
                     a->lse.data != NULL);
}

struct op_work work_of_attention_backward(const struct attention_backward_args *a)
{
    return attention(of_sequences(a->groups, a->n_groups), &a->out, a->n_heads, 4.0, 8.0, true);
}

struct op_work work_of_window_attention_forward(const struct window_attention_args *a)
{
    struct op_work work = attention(of_windows(a->groups, a->n_groups, a->window), &a->out,
                                    a->n_heads, 2.0, 4.0, a->lse.data != NULL);
    work.bytes += BYTES(a->pad, a->table);
    return work;
}

struct op_work work_of_window_attention_backward(const struct window_attention_backward_args *a)
{
    struct op_work work = attention(of_windows(a->groups, a->n_groups, a->window), &a->out,
                                    a->n_heads, 4.0, 8.0, true);
    work.bytes += BYTES(a->pad, a->table) + 2.0 * BYTES(a->d_pad, a->d_table);
    return work;
}

/* ------------------------------------------------------------------------------ loss, update */

struct op_work work_of_distill_loss(const struct distill_loss_args *a)
{
    return moves(BYTES(a->student, a->teacher, a->centre, a->target, a->weight, a->d_student));
}

struct op_work work_of_centre_update(const struct centre_update_args *a)
{
    return moves(BYTES(a->sum) + 2.0 * BYTES(a->centre));
}

struct op_work work_of_gradient_norms(const struct gradient_norms_args *a)
{
    return moves(BYTES(a->gradient, a->norms));
}

struct op_work work_of_optimizer_step(const struct optimizer_step_args *a)
{
    return moves(BYTES(a->gradient, a->norms, a->parameter_half, a->teacher_half) +
                 2.0 * BYTES(a->parameter, a->moment1, a->moment2, a->teacher));
}

/* ------------------------------------------------------------------------------ regions */

struct op_work work_of_region_mask(const struct region_mask_args *a)
{
    return moves(BYTES(a->x, a->mask, a->mask_token));
}

struct op_work work_of_region_mask_backward(const struct region_mask_backward_args *a)
{
    return moves(2.0 * BYTES(a->d_x, a->d_mask_token) + BYTES(a->mask));
}

struct op_work work_of_patch_merge(const struct patch_merge_args *a)
{
    return moves(BYTES(a->x, a->y));
}

struct op_work work_of_patch_merge_backward(const struct patch_merge_backward_args *a)
{
    return moves(BYTES(a->d_y, a->d_x));
}

struct op_work work_of_region_mean(const struct region_mean_args *a)
{
    return moves(BYTES(a->x, a->y));
}

struct op_work work_of_region_mean_backward(const struct region_mean_backward_args *a)
{
    return moves(BYTES(a->d_y, a->d_x));
}
