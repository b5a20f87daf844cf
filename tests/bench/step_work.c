/*   ViT, tokens t of width D in a sequence of N, MLP r times as wide:
 *     block        (8 + 4 r) D^2 t     qkv 6, proj 2, fc1 and fc2 2 r each
 *     attention    4 N D t
 *     patches      2 (3 p^2) D each
 *   Swin: blocks of each stage with its width, attention 4 w^2 D for each token of padded windows;
 *     a merge 2 (4 D) (2 D) for each token after it
 *   head, each token: 2 (D h + h^2 + h b) for the MLP, 2 b K for the last layer */
#include "tests/bench/step_work.h"

/* Forward of all blocks for n crops of a size, and of their patch embedding. */
struct pass {
    double blocks, patches;
    int64_t tokens; /* rows that a head could take, [CLS] among them */
};

static struct pass vit_pass(const struct backbone_options *b, int64_t n, int32_t size_px)
{
    double d = b->embed_dim, p = b->patch_size_px, ratio = b->mlp_ratio;
    int64_t grid = size_px / b->patch_size_px, length = grid * grid + 1;
    double tokens = (double)(n * length);

    return (struct pass){
        .blocks = b->depth * tokens * ((8.0 + 4.0 * ratio) * d * d + 4.0 * (double)length * d),
        .patches = 2.0 * 3.0 * p * p * d * (double)(n * grid * grid),
        .tokens = n * length,
    };
}

static struct pass swin_pass(const struct backbone_options *b, int64_t n, int32_t size_px)
{
    double p = b->patch_size_px, ratio = b->mlp_ratio, d = b->embed_dim;
    int64_t side = size_px / b->patch_size_px, planned = b->image_size_px / b->patch_size_px;
    struct pass pass = {.patches = 2.0 * 3.0 * p * p * d * (double)(n * side * side)};

    for (int32_t s = 0; s < b->n_stages; s++) {
        int64_t window = planned < b->window_size ? planned : b->window_size;
        int64_t padded = (side + window - 1) / window * window;
        double tokens = (double)(n * side * side),
               pairs = (double)(n * padded * padded) * (double)(window * window);
        pass.blocks += b->stage_depth[s] * (tokens * (8.0 + 4.0 * ratio) * d * d + 4.0 * pairs * d);
        pass.tokens = n * (side * side + 1);
        if (s + 1 == b->n_stages)
            break;
        side = (side + 1) / 2;
        planned = (planned + 1) / 2;
        pass.blocks += (double)(n * side * side) * 2.0 * (4.0 * d) * (2.0 * d);
        d *= 2.0;
    }
    return pass;
}

static struct pass pass_of(const struct backbone_options *b, int64_t n, int32_t size_px)
{
    return b->n_stages > 0 ? swin_pass(b, n, size_px) : vit_pass(b, n, size_px);
}

struct ibot_options step_work_published(void)
{
    return (struct ibot_options){
        .head = {.hidden_dim = 2048,
                 .bottleneck_dim = 256,
                 .out_dim = 8192,
                 .patch_out_dim = 8192,
                 .shared_student = true,
                 .shared_teacher = true,
                 .activation = ACTIVATION_GELU},
        .n_global = 2,
        .global_size_px = 224,
        .n_local = 10,
        .local_size_px = 96,
        .masked_im_modeling = true,
        .lambda1 = 1.0f,
        .lambda2 = 1.0f,
        .accumulation_steps = 1,
    };
}

struct step_work step_work_of(const struct ibot_options *o, int64_t n_masked)
{
    const struct backbone_options *b = &o->backbone;
    const struct head_options *h = &o->head;
    int64_t n_global = (int64_t)o->n_global * o->batch_size;
    int64_t n_local = (int64_t)o->n_local * o->batch_size;
    struct pass globals = pass_of(b, n_global, o->global_size_px);
    struct pass locals =
        n_local > 0 ? pass_of(b, n_local, o->local_size_px) : (struct pass){.tokens = 0};
    double d = backbone_width(b), hidden = h->hidden_dim, bottleneck = h->bottleneck_dim;
    double mlp = 2.0 * (d * hidden + hidden * hidden + hidden * bottleneck);
    double last = 2.0 * bottleneck * h->out_dim; /* both token kinds have as many prototypes */
    double tokens = (double)(globals.tokens + locals.tokens), masked = (double)n_masked;
    double needed = (double)(n_global + n_local) + masked;
    struct step_work work = {0};

    /* teacher forward; student forward and backward: once and twice, patches once and once */
    double backbone = globals.blocks + globals.patches + 3.0 * (globals.blocks + locals.blocks) +
                      2.0 * (globals.patches + locals.patches);
    work.original_flop = backbone + (double)globals.tokens * (mlp + last) +
                         tokens * (3.0 * mlp + last) +
                         2.0 * last * (double)(globals.tokens + n_local);
    work.model_flop = backbone + (double)globals.tokens * mlp + ((double)n_global + masked) * last +
                      3.0 * needed * (mlp + last);
    work.done_flop = work.model_flop;
    if (b->n_stages == 0) /* proj and the MLP of the last block */
        work.done_flop -= 3.0 * (tokens - needed) * (2.0 + 4.0 * b->mlp_ratio) *
                          (double)b->embed_dim * b->embed_dim;
    for (int32_t i = 0; o->skip_dropped && b->n_stages == 0 && i + 1 < b->depth; i++)
        work.done_flop -= 3.0 * (globals.blocks + locals.blocks) / b->depth *
                          (double)backbone_drop_rate(b, i); /* in the mean */
    return work;
}
