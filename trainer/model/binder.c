/* Parameters by name. */
#include "trainer/model/binder.h"

#include <stdio.h>

enum { MAX_NAME = 128 };

struct tensor binder_parameter(const struct binder *b, const char *name)
{
    return param_tensor(b->table, b->parameters, name);
}

struct tensor binder_gradient(const struct binder *b, const char *name)
{
    struct tensor gradient = param_tensor(b->table, b->parameters, name);
    int64_t at = (const float *)gradient.data - b->parameters - b->first_gradient;

    if (b->gradients == NULL || at < 0)
        return (struct tensor){0};
    gradient.data = b->gradients + at;
    return gradient;
}

struct affine binder_affine(const struct binder *b, const char *prefix)
{
    char name[MAX_NAME];
    struct affine affine = {0};

    snprintf(name, sizeof(name), "%s.weight", prefix);
    affine.weight = binder_parameter(b, name);
    affine.d_weight = binder_gradient(b, name);
    snprintf(name, sizeof(name), "%s.bias", prefix);
    if (param_find(b->table, name) < 0)
        return affine;
    affine.bias = binder_parameter(b, name);
    affine.d_bias = binder_gradient(b, name);
    return affine;
}

/* A parameter among the operands. */
static void use_operand(const struct binder *b, struct tensor *parameter)
{
    if (parameter->data == NULL)
        return;
    char *base = b->operands.data;
    parameter->dtype = b->operands.dtype;
    parameter->data = base + (size_t)((const float *)parameter->data - b->parameters) *
                                 dtype_size_bytes(b->operands.dtype);
}

struct affine binder_wide_layer(const struct binder *b, const char *prefix)
{
    struct affine affine = binder_affine(b, prefix);

    use_operand(b, &affine.weight);
    return affine;
}

struct affine binder_layer(const struct binder *b, const char *prefix)
{
    struct affine affine = binder_wide_layer(b, prefix);

    use_operand(b, &affine.bias);
    return affine;
}

void binder_mask_token(const struct binder *b, struct tensor *token, struct tensor *d_token)
{
    *token = *d_token = (struct tensor){0};
    if (param_find(b->table, "backbone.masked_embed") < 0)
        return;
    *token = binder_parameter(b, "backbone.masked_embed");
    *token = tensor_1d(token->data, DTYPE_F32, tensor_n_elements(token));
    *d_token = binder_gradient(b, "backbone.masked_embed");
    if (d_token->data != NULL)
        *d_token = tensor_1d(d_token->data, DTYPE_F32, tensor_n_elements(d_token));
}

void binder_block(const struct binder *b, const char *prefix, struct block_weights *out)
{
    const struct {
        const char *name;
        struct affine *affine;
        struct affine (*bind)(const struct binder *, const char *);
    } parts[] = {
        {"norm1", &out->norm1, binder_affine},   {"attn.qkv", &out->qkv, binder_layer},
        {"attn.proj", &out->proj, binder_layer}, {"norm2", &out->norm2, binder_affine},
        {"mlp.fc1", &out->fc1, binder_layer},    {"mlp.fc2", &out->fc2, binder_layer},
    };
    char name[MAX_NAME];

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(name, sizeof(name), "%s.%s", prefix, parts[i].name);
        *parts[i].affine = parts[i].bind(b, name);
    }
}

static void flatten_rows(struct tensor *tensor)
{
    if (tensor->data == NULL)
        return;
    int64_t n = tensor_n_elements(tensor), rows = tensor->shape[0];
    *tensor = tensor_2d(tensor->data, tensor->dtype, rows, n / rows);
}

void binder_flatten(struct affine *convolution)
{
    flatten_rows(&convolution->weight);
    flatten_rows(&convolution->d_weight);
}
