/* What follows from the options: contradictions, and what model, data and schedules are told. */
#include "trainer/train/run_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/config/ranges.h"
#include "proto/monitor/monitor.h"
#include "trainer/checkpoint.h"

/* A Swin brings its own patches and stochastic depth. */
static void settle_arch(struct run_options *o, const struct options *parsed)
{
    struct backbone_options b;

    if (backbone_options_for(&b, o->arch) != STATUS_OK || b.n_stages == 0)
        return; /* an unknown name is told of by the check */
    if (!options_is_set(parsed, "patch_size"))
        o->patch_size = b.patch_size_px;
    if (!options_is_set(parsed, "drop_path"))
        o->drop_path = b.drop_path;
}

/* "" takes back what a run file or the environment says. */
static void settle_text(const char **text)
{
    if (*text != NULL && (*text)[0] == '\0')
        *text = NULL;
}

void run_options_settle(struct run_options *o, const struct options *parsed)
{
    settle_text(&o->key);
    settle_text(&o->allow);
    settle_text(&o->index_digest);
    settle_text(&o->metrics);
    settle_arch(o, parsed);
    backend_options_settle(&o->backend, &o->network, parsed);
    if (!options_is_set(parsed, "pred_ratio") || options_is_set(parsed, "pred_ratio_var"))
        return;
    o->pred_ratio_var[0] = 0.0f;
    o->n_pred_ratio_var = 1;
}

/* ------------------------------------------------------------------------------ contradictions */

static enum status check_swin(const struct run_options *o, const struct backbone_options *b)
{
    if (o->patch_size != b->patch_size_px)
        FAIL(STATUS_INVALID,
             "--patch_size %d: a patch of %s has %d px, and a mask cell %d px; leave --patch_size "
             "out",
             o->patch_size, o->arch, b->patch_size_px, backbone_cell_px(b));
    if (o->depth > 0 || o->num_heads > 0)
        FAIL(STATUS_INVALID,
             "--depth %d, --num_heads %d: %s has its own for each stage; leave them out", o->depth,
             o->num_heads, o->arch);
    return backbone_options_check(b);
}

static enum status check_backbone(const struct run_options *o, const struct backbone_options *b)
{
    if (b->n_stages > 0)
        return check_swin(o, b);
    if (b->embed_dim % b->n_heads != 0)
        FAIL(STATUS_INVALID, "--embed_dim %d is no multiple of --num_heads %d", b->embed_dim,
             b->n_heads);
    return STATUS_OK;
}

static enum status check_masks(const struct run_options *o, int32_t cell_px)
{
    if (o->n_pred_ratio < 1)
        FAIL(STATUS_INVALID, "--pred_ratio wants at least one value; 0 alone means no masks");
    if (o->n_pred_ratio_var != 1 && o->n_pred_ratio_var != o->n_pred_ratio)
        FAIL(STATUS_INVALID,
             "--pred_ratio has %d values and --pred_ratio_var %d: give one half-width, "
             "or one for each ratio",
             o->n_pred_ratio, o->n_pred_ratio_var);
    for (int32_t i = 0; i < o->n_pred_ratio; i++) {
        float half = o->pred_ratio_var[o->n_pred_ratio_var == 1 ? 0 : i];
        if (half > o->pred_ratio[i])
            FAIL(STATUS_INVALID,
                 "--pred_ratio_var %g exceeds its --pred_ratio %g: the ratio would be negative; "
                 "lower it",
                 (double)half, (double)o->pred_ratio[i]);
    }
    if (o->global_crop_size % cell_px != 0 && (o->n_pred_ratio > 1 || o->pred_ratio[0] > 0.0f)) {
        if (cell_px != o->patch_size)
            FAIL(STATUS_INVALID,
                 "--global_crop_size %d is no multiple of %d, the side of a mask cell of %s",
                 o->global_crop_size, cell_px, o->arch);
        FAIL(STATUS_INVALID,
             "--global_crop_size %d is no multiple of --patch_size %d: masks need whole patches",
             o->global_crop_size, o->patch_size);
    }
    return STATUS_OK;
}

static enum status check_crops(const struct run_options *o)
{
    if (o->n_global_scale != 2 || o->global_crops_scale[0] > o->global_crops_scale[1])
        FAIL(STATUS_INVALID, "--global_crops_scale wants two shares, the lower one first");
    if (o->n_local_scale != 2 || o->local_crops_scale[0] > o->local_crops_scale[1])
        FAIL(STATUS_INVALID, "--local_crops_scale wants two shares, the lower one first");
    if (o->global_crop_size < o->patch_size)
        FAIL(STATUS_INVALID, "--global_crop_size %d is below --patch_size %d: no patch fits",
             o->global_crop_size, o->patch_size);
    if (o->local_crops_number > 0 && o->local_crop_size < o->patch_size)
        FAIL(STATUS_INVALID, "--local_crop_size %d is below --patch_size %d: no patch fits",
             o->local_crop_size, o->patch_size);
    if (o->n_color_jitter != 4 || o->color_jitter[3] > 0.5f)
        FAIL(STATUS_INVALID, "--color_jitter wants four values (brightness, contrast, saturation, "
                             "hue), hue at most 0.5");
    if (o->n_blur != 3)
        FAIL(STATUS_INVALID,
             "--blur wants three probabilities: first global crop, others, local ones");
    if (o->global_crops_number + o->local_crops_number < 2)
        FAIL(STATUS_INVALID,
             "--global_crops_number %d and --local_crops_number %d: the [CLS] loss "
             "compares two crops at least",
             o->global_crops_number, o->local_crops_number);
    return STATUS_OK;
}

static enum status check_epochs(const struct run_options *o)
{
    if (o->warmup_epochs > o->epochs)
        FAIL(STATUS_INVALID, "--warmup_epochs %d exceeds --epochs %d: lower it", o->warmup_epochs,
             o->epochs);
    if (o->warmup_teacher_temp_epochs + o->pred_start_epoch > o->epochs)
        FAIL(STATUS_INVALID,
             "--warmup_teacher_temp_epochs %d plus --pred_start_epoch %d exceed "
             "--epochs %d: lower them",
             o->warmup_teacher_temp_epochs, o->pred_start_epoch, o->epochs);
    return STATUS_OK;
}

enum status run_options_index_digest(const struct run_options *o, uint64_t *out)
{
    char *end;

    *out = 0;
    if (o->index_digest == NULL)
        return STATUS_OK;
    errno = 0;
    *out = strtoull(o->index_digest, &end, 16);
    if (errno != 0 || end == o->index_digest || *end != '\0' || *out == 0 ||
        strspn(o->index_digest, "0123456789abcdefABCDEF") != strlen(o->index_digest))
        FAIL(STATUS_INVALID,
             "--index_digest '%s': wanted up to 16 hex digits, as ibot-index prints "
             "them",
             o->index_digest);
    return STATUS_OK;
}

static enum status check_data(const struct run_options *o)
{
    struct stat info;
    uint64_t digest;

    if (o->data == NULL && o->listen == NULL)
        FAIL(STATUS_INVALID, "no images: give --data DIR (local loaders), or --listen ENDPOINT for "
                             "loaders started elsewhere");
    if (o->loaders > 0 && o->data == NULL)
        FAIL(STATUS_INVALID, "--loaders %d without --data DIR", o->loaders);
    if ((o->key != NULL) != (o->allow != NULL))
        FAIL(STATUS_INVALID, "--key (this trainer's secret key) and --allow (the loaders that may "
                             "connect) belong together: give both or none");
    if (o->key != NULL && o->listen == NULL)
        FAIL(STATUS_INVALID, "--key '%s' without --listen: local loaders need no keys", o->key);
    TRY(run_options_index_digest(o, &digest));
    if (o->data == NULL || (o->loaders == 0 && o->listen != NULL))
        return STATUS_OK; /* nobody reads it: a replay comes, or loaders from elsewhere */
    if (stat(o->data, &info) != 0)
        FAIL(STATUS_INVALID, "--data '%s': %s", o->data, strerror(errno));
    if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode))
        FAIL(STATUS_INVALID,
             "--data '%s' is neither a folder nor a file: wanted a folder for each class, a folder "
             "of images or of tar archives, a tar archive, or a list of images",
             o->data);
    return STATUS_OK;
}

static enum status check_skip_steps(const struct run_options *o)
{
    struct ranges skip;

    TRY(ranges_parse(&skip, "--skip_steps", o->skip_steps));
    if (o->skip_steps != NULL && strlen(o->skip_steps) >= CHECKPOINT_OPTION_BYTES)
        FAIL(STATUS_INVALID, "--skip_steps has %zu characters; at most %d go into a checkpoint",
             strlen(o->skip_steps), CHECKPOINT_OPTION_BYTES - 1);
    return STATUS_OK;
}

static enum status check_backend(const struct run_options *o, const struct ibot_options *model)
{
    TRY(backend_options_check(&o->backend, &o->network));
    if (o->residual_stream == PRECISION_BF16 && model->precision != PRECISION_BF16)
        FAIL(STATUS_INVALID,
             "--residual_stream bf16 with products of f32%s: it goes with --precision bf16 alone; "
             "leave it out, or %s",
             o->backend.kind == BACKEND_CPU ? ", all that a CPU has" : "",
             o->backend.kind == BACKEND_CPU ? "give --backend cuda" : "compute in bf16");
    if (o->backend.kind == BACKEND_CPU && o->batch_size_per_gpu == 0)
        FAIL(STATUS_INVALID, "--batch_size_per_gpu auto fills the memory of an accelerator; a CPU "
                             "gains nothing from a batch that large: give a number");
    return STATUS_OK;
}

enum status run_options_check(const struct run_options *o)
{
    struct ibot_options model;
    struct data_spec spec;

    if (o->load_from != NULL && o->init_from != NULL)
        FAIL(STATUS_INVALID, "--load_from goes on with a run, --init_from begins one: give one of "
                             "the two");
    TRY(run_options_model(o, &model));
    TRY(check_backend(o, &model));
    TRY(check_crops(o));
    TRY(check_backbone(o, &model.backbone));
    TRY(check_masks(o, backbone_cell_px(&model.backbone)));
    TRY(check_epochs(o));
    TRY(check_data(o));
    TRY(check_skip_steps(o));
    if (o->metrics != NULL)
        TRY(monitor_check(o->metrics));
    return run_options_data(o, &spec);
}

/* ------------------------------------------------------------------------------ what follows */

enum status run_options_model(const struct run_options *o, struct ibot_options *out)
{
    memset(out, 0, sizeof(*out));
    TRY(backbone_options_for(&out->backbone, o->arch));
    struct backbone_options *b = &out->backbone;
    b->embed_dim = o->embed_dim > 0 ? o->embed_dim : b->embed_dim;
    b->depth = o->depth > 0 ? o->depth : b->depth;
    b->n_heads = o->num_heads > 0 ? o->num_heads : b->n_heads;
    if (b->n_stages == 0)
        b->patch_size_px = o->patch_size;
    b->window_size = o->window_size;
    b->image_size_px = o->global_crop_size;
    b->drop_path = o->drop_path;
    bool any_shared = o->shared_head || o->shared_head_teacher;
    out->head = (struct head_options){
        .hidden_dim = o->head_hidden_dim,
        .bottleneck_dim = o->bottleneck_dim,
        .out_dim = o->out_dim,
        .patch_out_dim = any_shared ? o->out_dim : o->patch_out_dim,
        .shared_student = o->shared_head,
        .shared_teacher = o->shared_head_teacher,
        .fixed_gains = o->norm_last_layer,
        .norm = o->norm_in_head >= 2 ? HEAD_NORM_BN : (enum head_norm)o->norm_in_head,
        .activation = o->act_in_head == 0 ? ACTIVATION_GELU : ACTIVATION_RELU,
    };
    out->batch_size = o->batch_size_per_gpu;
    out->n_global = o->global_crops_number;
    out->global_size_px = o->global_crop_size;
    out->n_local = o->local_crops_number;
    out->local_size_px = o->local_crop_size;
    out->masked_im_modeling = o->use_masked_im_modeling;
    out->lambda1 = o->lambda1;
    out->lambda2 = o->lambda2;
    out->optimizer = (enum optimizer_kind)o->optimizer;
    out->clip_global_norm = o->clip_mode == CLIP_GLOBAL;
    out->accumulation_steps = o->accumulation_steps;
    out->precision = PRECISION_F32;
    if (o->network.precision != PRECISION_CHOICE_AUTO || o->use_fp16)
        out->precision = network_options_precision(&o->network, (enum backend_kind)o->backend.kind);
    out->gelu_tanh = network_options_gelu_tanh(&o->network, out->precision);
    out->record_steps = o->cuda_graph;
    out->skip_dropped = backward_options_skip(&o->backward, (enum backend_kind)o->backend.kind);
    out->weights_apart = o->weight_gradient_branch;
    out->recompute = (enum recompute)o->backward.recompute;
    out->residual_stream = (enum ibot_precision)o->residual_stream;
    return STATUS_OK;
}

enum status run_options_data(const struct run_options *o, struct data_spec *out)
{
    struct backbone_options b;

    TRY(backbone_options_for(&b, o->arch));
    *out = data_spec_default();
    out->seed = (uint64_t)o->seed;
    out->order_seed = (uint64_t)o->order_seed;
    out->n_global = o->global_crops_number;
    out->global_size_px = o->global_crop_size;
    out->n_local = o->local_crops_number;
    out->local_size_px = o->local_crop_size;
    memcpy(out->global_scale, o->global_crops_scale, sizeof(out->global_scale));
    memcpy(out->local_scale, o->local_crops_scale, sizeof(out->local_scale));
    out->first =
        (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[0], 0};
    out->other = (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[1],
                                         o->solarize};
    out->local =
        (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[2], 0};
    out->brightness = o->color_jitter[0];
    out->contrast = o->color_jitter[1];
    out->saturation = o->color_jitter[2];
    out->hue = o->color_jitter[3];
    out->mask_cell_px = b.n_stages > 0 ? backbone_cell_px(&b) : o->patch_size;
    out->mask_shape = o->pred_shape == 0 ? MASK_BLOCK : MASK_RANDOM;
    out->n_pred_ratios = o->n_pred_ratio;
    if (o->n_pred_ratio == 1 && o->pred_ratio[0] == 0.0f)
        out->n_pred_ratios = 0;
    for (int32_t i = 0; i < o->n_pred_ratio; i++) {
        out->pred_ratio[i] = o->pred_ratio[i];
        out->pred_ratio_var[i] = o->pred_ratio_var[o->n_pred_ratio_var == 1 ? 0 : i];
    }
    out->pred_start_epoch = o->pred_start_epoch;
    out->upright = o->upright;
    out->photometric = o->photometric == 0 ? PHOTOMETRIC_BY_LOADER : PHOTOMETRIC_BY_TRAINER;
    out->bad_image_policy = o->bad_images == 0 ? BAD_IMAGE_SUBSTITUTE : BAD_IMAGE_FAIL;
    return data_spec_check(out);
}

void run_options_schedule(const struct run_options *o, int64_t steps_per_epoch, int world,
                          struct schedule *out)
{
    double batch = (double)o->batch_size_per_gpu * o->accumulation_steps * world;

    *out = (struct schedule){
        .steps_per_epoch = steps_per_epoch,
        .epochs = o->epochs,
        .lr = o->lr * batch / 256.0,
        .min_lr = o->min_lr,
        .warmup_epochs = o->warmup_epochs,
        .weight_decay = o->weight_decay,
        .weight_decay_end = o->weight_decay_end,
        .momentum_teacher = o->momentum_teacher,
        .warmup_teacher_temp = o->warmup_teacher_temp,
        .teacher_temp = o->teacher_temp,
        .warmup_teacher_patch_temp = o->warmup_teacher_patch_temp,
        .teacher_patch_temp = o->teacher_patch_temp,
        .warmup_teacher_temp_epochs = o->warmup_teacher_temp_epochs,
        .pred_start_epoch = o->pred_start_epoch,
        .freeze_last_layer = o->freeze_last_layer,
        .student_temp = o->student_temp,
        .centre_momentum = o->center_momentum,
        .centre_patch_momentum = o->center_momentum2,
        .clip_grad = o->clip_grad,
    };
}
