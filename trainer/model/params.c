/* Names, shapes and initialisers of backbones and head, as the official state dict has them. */
#include "trainer/model/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "trainer/model/classifier.h"
#include "trainer/model/decoder.h"
#include "trainer/model/swin.h"
#include "trainer/model/upernet.h"

enum { ALIGNMENT = 16 }; /* elements */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static enum status add(struct param_table *table, const char *name, enum param_init init,
                       float bound, int32_t rank, const int64_t shape[])
{
    TRY(memory_grow(&table->params, &table->capacity, table->n_params + 1, sizeof(*table->params),
                    "parameter table"));
    struct param *param = &table->params[table->n_params++];
    *param = (struct param){.rank = rank, .init = init, .bound = bound, .n = 1};
    snprintf(param->name, sizeof(param->name), "%s", name);
    for (int32_t i = 0; i < rank; i++) {
        param->shape[i] = shape[i];
        param->n *= shape[i];
    }
    if (rank == 1)
        param->flags |= SEGMENT_VECTOR;
    if (rank > 1 && !ends_with(name, ".bias"))
        param->flags |= SEGMENT_DECAY;
    if (strstr(name, "last_layer") != NULL)
        param->flags |= SEGMENT_LAST_LAYER;
    param->offset = table->n_elements;
    table->n_elements += (param->n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return STATUS_OK;
}

static enum status add_1d(struct param_table *table, const char *name, enum param_init init,
                          float bound, int64_t n)
{
    return add(table, name, init, bound, 1, (const int64_t[]){n});
}

/* weight [n_out, n_in] (normal) and bias [n_out] (zeros) of "PREFIX.weight", "PREFIX.bias". */
static enum status add_linear(struct param_table *table, const char *prefix, int64_t n_out,
                              int64_t n_in)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.weight", prefix);
    TRY(add(table, name, PARAM_NORMAL_002, 0.0f, 2, (const int64_t[]){n_out, n_in}));
    snprintf(name, sizeof(name), "%s.bias", prefix);
    return add_1d(table, name, PARAM_ZEROS, 0.0f, n_out);
}

static enum status add_norm(struct param_table *table, const char *prefix, int64_t n)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.weight", prefix);
    TRY(add_1d(table, name, PARAM_ONES, 0.0f, n));
    snprintf(name, sizeof(name), "%s.bias", prefix);
    return add_1d(table, name, PARAM_ZEROS, 0.0f, n);
}

/* Norms and layers of one block of width d; a Swin's has the table of `bias` rows besides. */
static enum status add_block(struct param_table *table, const char *prefix, int64_t d,
                             int64_t hidden, int64_t bias, int64_t n_heads)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.norm1", prefix);
    TRY(add_norm(table, name, d));
    snprintf(name, sizeof(name), "%s.attn.relative_position_bias_table", prefix);
    if (bias > 0)
        TRY(add(table, name, PARAM_NORMAL_002, 0, 2, (const int64_t[]){bias, n_heads}));
    snprintf(name, sizeof(name), "%s.attn.qkv", prefix);
    TRY(add_linear(table, name, 3 * d, d));
    snprintf(name, sizeof(name), "%s.attn.proj", prefix);
    TRY(add_linear(table, name, d, d));
    snprintf(name, sizeof(name), "%s.norm2", prefix);
    TRY(add_norm(table, name, d));
    snprintf(name, sizeof(name), "%s.mlp.fc1", prefix);
    TRY(add_linear(table, name, hidden, d));
    snprintf(name, sizeof(name), "%s.mlp.fc2", prefix);
    return add_linear(table, name, d, hidden);
}

/* The matrix [2d, 4d] without bias, and its norm, in the order that the original registers them. */
static enum status add_merge(struct param_table *table, int32_t stage, int64_t d)
{
    char name[96];

    snprintf(name, sizeof(name), "backbone.layers.%d.downsample.reduction.weight", stage);
    TRY(add(table, name, PARAM_NORMAL_002, 0, 2, (const int64_t[]){2 * d, 4 * d}));
    snprintf(name, sizeof(name), "backbone.layers.%d.downsample.norm", stage);
    return add_norm(table, name, 4 * d);
}

static enum status add_swin(struct param_table *table, const struct backbone_options *o,
                            bool student)
{
    int64_t d = o->embed_dim, p = o->patch_size_px;
    float bound = 1.0f / sqrtf((float)(3 * p * p));
    char name[64];

    if (student)
        TRY(add(table, "backbone.masked_embed", PARAM_ZEROS, 0, 2, (const int64_t[]){1, d}));
    TRY(add(table, "backbone.patch_embed.proj.weight", PARAM_UNIFORM, bound, 4,
            (const int64_t[]){d, 3, p, p}));
    TRY(add_1d(table, "backbone.patch_embed.proj.bias", PARAM_UNIFORM, bound, d));
    TRY(add_norm(table, "backbone.patch_embed.norm", d));
    for (int32_t stage = 0; stage < o->n_stages; stage++, d *= 2) {
        for (int32_t block = 0; block < o->stage_depth[stage]; block++) {
            int32_t side, shift;
            swin_window(o, stage, block, &side, &shift);
            snprintf(name, sizeof(name), "backbone.layers.%d.blocks.%d", stage, block);
            TRY(add_block(table, name, d, o->mlp_ratio * d, (2L * side - 1) * (2L * side - 1),
                          o->stage_heads[stage]));
        }
        if (stage + 1 < o->n_stages)
            TRY(add_merge(table, stage, d));
    }
    return add_norm(table, "backbone.norm", d / 2);
}

static enum status add_vit(struct param_table *table, const struct backbone_options *o,
                           bool student, bool without_norm)
{
    int64_t d = o->embed_dim, p = o->patch_size_px, grid = o->image_size_px / p;
    float bound = 1.0f / sqrtf((float)(3 * p * p));
    char name[96];

    TRY(add(table, "backbone.cls_token", PARAM_NORMAL_002, 0, 3, (const int64_t[]){1, 1, d}));
    TRY(add(table, "backbone.pos_embed", PARAM_NORMAL_002, 0, 3,
            (const int64_t[]){1, 1 + grid * grid, d}));
    if (student)
        TRY(add(table, "backbone.masked_embed", PARAM_ZEROS, 0, 2, (const int64_t[]){1, d}));
    TRY(add(table, "backbone.patch_embed.proj.weight", PARAM_UNIFORM, bound, 4,
            (const int64_t[]){d, 3, p, p}));
    TRY(add_1d(table, "backbone.patch_embed.proj.bias", PARAM_UNIFORM, bound, d));
    for (int32_t i = 0; i < o->depth; i++) {
        snprintf(name, sizeof(name), "backbone.blocks.%d", i);
        TRY(add_block(table, name, d, o->mlp_ratio * d, 0, 0));
    }
    return without_norm ? STATUS_OK : add_norm(table, "backbone.norm", d);
}

static enum status add_last_layer(struct param_table *table, const char *layer, int64_t k,
                                  int64_t bottleneck, bool fixed_gains)
{
    char name[96];

    snprintf(name, sizeof(name), "head.%s.weight_g", layer);
    TRY(add(table, name, PARAM_ONES, 0.0f, 2, (const int64_t[]){k, 1}));
    if (fixed_gains)
        table->params[table->n_params - 1].flags |= SEGMENT_FIXED;
    snprintf(name, sizeof(name), "head.%s.weight_v", layer);
    return add(table, name, PARAM_UNIFORM, 1.0f / sqrtf((float)bottleneck), 2,
               (const int64_t[]){k, bottleneck});
}

static enum status add_head(struct param_table *table, const struct head_options *o, int64_t width,
                            bool student)
{
    bool norm = o->norm != HEAD_NORM_NONE;
    bool shared = student ? o->shared_student : o->shared_teacher;
    bool fixed = student && o->fixed_gains;

    TRY(add_linear(table, "head.mlp.0", o->hidden_dim, width));
    if (norm)
        TRY(add_norm(table, "head.mlp.1", o->hidden_dim));
    if (o->n_layers == 1)
        return STATUS_OK;
    TRY(add_linear(table, norm ? "head.mlp.3" : "head.mlp.2", o->hidden_dim, o->hidden_dim));
    if (o->n_layers == 2)
        return STATUS_OK;
    TRY(add_linear(table, norm ? "head.mlp.6" : "head.mlp.4", o->bottleneck_dim, o->hidden_dim));
    TRY(add_last_layer(table, "last_layer", o->out_dim, o->bottleneck_dim, fixed));
    if (!shared)
        TRY(add_last_layer(table, "last_layer2", o->patch_out_dim, o->bottleneck_dim, fixed));
    return STATUS_OK;
}

static enum status add_backbone(struct param_table *table, const struct backbone_options *o,
                                bool student, bool without_norm)
{
    return o->n_stages > 0 ? add_swin(table, o, student) : add_vit(table, o, student, without_norm);
}

enum status param_table_init(struct param_table *table, const struct ibot_options *options,
                             bool student)
{
    memset(table, 0, sizeof(*table));
    TRY(add_backbone(table, &options->backbone, student, false));
    return add_head(table, &options->head, backbone_width(&options->backbone), student);
}

enum status param_table_add(struct param_table *table, const char *name, enum param_init init,
                            float bound, int32_t rank, const int64_t *shape)
{
    return add(table, name, init, bound, rank, shape);
}

enum status param_table_add_batchnorm(struct param_table *table, const char *prefix, int64_t n)
{
    char name[96];

    TRY(add_norm(table, prefix, n));
    snprintf(name, sizeof(name), "%s.running_mean", prefix);
    TRY(add_1d(table, name, PARAM_ZEROS, 0.0f, n));
    table->params[table->n_params - 1].flags |= SEGMENT_FIXED;
    snprintf(name, sizeof(name), "%s.running_var", prefix);
    TRY(add_1d(table, name, PARAM_ONES, 0.0f, n));
    table->params[table->n_params - 1].flags |= SEGMENT_FIXED;
    return STATUS_OK;
}

/* A convolution without bias, drawn as He et al. 2015 have it (fan out, ReLU), and its batch norm.
 */
static enum status add_unit(struct param_table *table, const struct upernet_shape *shape,
                            int64_t width)
{
    int64_t in = shape->in * width, out = shape->out > 0 ? shape->out * width : UPERNET_AUXILIARY;
    float std = sqrtf(2.0f / (float)(shape->window ? CONV3X3_WINDOW * out : out));
    char name[96];

    snprintf(name, sizeof(name), "%s.conv.weight", shape->prefix);
    if (shape->window)
        TRY(add(table, name, PARAM_NORMAL, std, 4, (const int64_t[]){out, 3, 3, in}));
    else
        TRY(add(table, name, PARAM_NORMAL, std, 2, (const int64_t[]){out, in}));
    snprintf(name, sizeof(name), "%s.bn", shape->prefix);
    return param_table_add_batchnorm(table, name, out);
}

enum status param_table_add_scales(struct param_table *table, int64_t width)
{
    float bound = 1.0f / sqrtf((float)(4 * width));
    char name[96];

    for (int i = 0; i < MAP_SCALES_DOUBLES; i++) {
        snprintf(name, sizeof(name), "%s.weight", map_scales_doubles[i]);
        TRY(add(table, name, PARAM_UNIFORM, bound, 4, (const int64_t[]){2, 2, width, width}));
    }
    return param_table_add_batchnorm(table, map_scales_norm, width);
}

static enum status add_upernet(struct param_table *table, int64_t width, int64_t n_classes)
{
    TRY(param_table_add_scales(table, width));
    for (int i = 0; i < UPERNET_LAYERS; i++)
        TRY(add_unit(table, &upernet_shapes[i], width));
    TRY(add(table, "auxiliary.conv_seg.weight", PARAM_NORMAL, 0.01f, 2,
            (const int64_t[]){n_classes, UPERNET_AUXILIARY}));
    return add_1d(table, "auxiliary.conv_seg.bias", PARAM_ZEROS, 0.0f, n_classes);
}

/* Without decay, as in the original: vectors, biases (which have none anyway), and these two. */
static void leave_undecayed(struct param_table *table)
{
    static const char *const names[] = {"backbone.cls_token", "backbone.pos_embed"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int64_t at = param_find(table, names[i]);
        if (at >= 0)
            table->params[at].flags &= ~(uint32_t)SEGMENT_DECAY;
    }
}

enum status param_table_init_classifier(struct param_table *table,
                                        const struct classifier_options *o)
{
    bool normed_mean = classifier_norms_mean(o);
    int64_t width = backbone_width(&o->backbone);

    memset(table, 0, sizeof(*table));
    TRY(add_backbone(table, &o->backbone, false, classifier_without_norm(o)));
    if (normed_mean)
        TRY(add_norm(table, "fc_norm", width));
    if (o->n_head_layers > 0)
        TRY(add_head(table, &o->head, width, true));
    if (classifier_is_dense(o) && o->taps.upernet)
        TRY(add_upernet(table, width, o->n_classes));
    if (o->taps.decoder != NULL) {
        TRY(o->taps.decoder->add_parameters(o->taps.decoder->context, table, width));
        return STATUS_OK; /* the original then spares no tokens and positions the decay */
    }
    TRY(add_linear(table, "head", o->n_classes, classifier_width(o)));
    for (size_t i = 0; i < table->n_params; i++) /* nothing is frozen for a while */
        table->params[i].flags &= ~(uint32_t)SEGMENT_LAST_LAYER;
    leave_undecayed(table);
    if (o->frozen && !o->taps.upernet) /* the original then spares nothing */
        table->params[table->n_params - 1].flags |= SEGMENT_DECAY;
    return STATUS_OK;
}

void param_table_release(struct param_table *table)
{
    if (table == NULL)
        return;
    memory_free(table->params);
    memset(table, 0, sizeof(*table));
}

int64_t param_find(const struct param_table *table, const char *name)
{
    for (size_t i = 0; i < table->n_params; i++)
        if (strcmp(table->params[i].name, name) == 0)
            return (int64_t)i;
    return -1;
}

struct tensor param_tensor_at(const struct param_table *table, float *flat, size_t i)
{
    const struct param *param = &table->params[i];
    struct tensor tensor = {flat + param->offset, DTYPE_F32, param->rank, {0}};
    memcpy(tensor.shape, param->shape, sizeof(tensor.shape));
    return tensor;
}

struct tensor param_tensor(const struct param_table *table, float *flat, const char *name)
{
    int64_t i = param_find(table, name);
    CHECK(i >= 0, "no parameter '%s'", name);
    return param_tensor_at(table, flat, (size_t)i);
}

void param_draw(const struct param *param, uint64_t seed, uint32_t number, float *values)
{
    struct rng rng =
        rng_open((struct rng_key){.seed = seed, .sample = number, .purpose = RNG_INIT});

    for (int64_t i = 0; i < param->n; i++)
        switch (param->init) {
        case PARAM_ZEROS:
            values[i] = 0.0f;
            break;
        case PARAM_ONES:
            values[i] = 1.0f;
            break;
        case PARAM_NORMAL_002:
            values[i] = (float)(0.02 * rng_normal(&rng));
            break;
        case PARAM_NORMAL:
            values[i] = param->bound * (float)rng_normal(&rng);
            break;
        case PARAM_UNIFORM:
            values[i] = (float)rng_range(&rng, -(double)param->bound, (double)param->bound);
            break;
        }
}
