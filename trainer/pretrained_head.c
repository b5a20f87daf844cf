#include "trainer/pretrained_head.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

/* "head.NAME", or "module.head.NAME" as it is called when it was wrapped for many GPUs; NULL. */
static const struct weight_entry *find(const struct pretrained *p, const char *name)
{
    static const char wrapper[] = "module.";

    for (size_t i = 0; i < p->selection.n; i++) {
        const struct weight_selected *one = &p->selection.tensors[i];
        const char *got = one->name;
        if (strncmp(got, wrapper, strlen(wrapper)) == 0)
            got += strlen(wrapper);
        if (!one->backbone && strncmp(got, "head.", 5) == 0 && strcmp(got + 5, name) == 0)
            return one->entry;
    }
    return NULL;
}

/* One dimension of a matrix of the head; 0 where there is none. */
static int32_t dimension(const struct pretrained *p, const char *name, int which)
{
    const struct weight_entry *entry = find(p, name);
    bool sound = entry != NULL && entry->rank == 2 && entry->shape[which] > 0 &&
                 entry->shape[which] < 1 << 24;

    return sound ? (int32_t)entry->shape[which] : 0;
}

static bool has_batchnorm(const struct pretrained *p)
{
    return find(p, "mlp.1.running_mean") != NULL;
}

enum status pretrained_head_options(const struct pretrained *p, struct head_options *out)
{
    bool norm = find(p, "mlp.1.weight") != NULL && find(p, "mlp.6.weight") != NULL;
    bool layernorm = norm && !has_batchnorm(p);
    char activation[16] = "gelu";

    *out = (struct head_options){
        .hidden_dim = dimension(p, "mlp.0.weight", 0),
        .bottleneck_dim = dimension(p, "last_layer.weight_v", 1),
        .out_dim = dimension(p, "last_layer.weight_v", 0),
        .fixed_gains = true,
        .norm = layernorm ? HEAD_NORM_LN : HEAD_NORM_NONE,
        .activation = ACTIVATION_GELU,
    };
    if (out->hidden_dim == 0 || out->bottleneck_dim == 0 || out->out_dim == 0)
        FAIL(STATUS_NOT_FOUND,
             "weights file '%s', key '%s': there is no projection head in it (head.mlp.0.weight, "
             "head.last_layer.weight_v, …): give a run folder, a whole checkpoint of iBOT, or what "
             "ibot-convert --with_head made of one",
             p->file.path, p->selection.key);
    int32_t patch = dimension(p, "last_layer2.weight_v", 0);
    out->shared_student = out->shared_teacher = patch == 0;
    out->patch_out_dim = patch > 0 ? patch : out->out_dim;
    if (pretrained_option(p, "act_in_head", activation, sizeof(activation)) &&
        strcmp(activation, "relu") == 0)
        out->activation = ACTIVATION_RELU;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ values */

static enum status read_one(const struct pretrained *p, const char *name,
                            const struct tensor *shape, float *out)
{
    const struct weight_entry *entry = find(p, name);
    char got[160], wanted[160];

    if (entry == NULL)
        FAIL(STATUS_MISMATCH, "weights file '%s', key '%s': tensor 'head.%s' is missing",
             p->file.path, p->selection.key, name);
    if (entry->rank != shape->rank ||
        memcmp(entry->shape, shape->shape, (size_t)shape->rank * sizeof(int64_t)) != 0)
        FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' has shape %s, wanted %s",
             p->file.path, entry->name,
             weight_shape_text(entry->rank, entry->shape, got, sizeof(got)),
             weight_shape_text(shape->rank, shape->shape, wanted, sizeof(wanted)));
    return weight_file_read_f32(&p->file, entry, out);
}

/* gamma (W x + b - mean) / sqrt(var + eps) + beta as one layer: its W, or its b where that is a
 * vector. */
static enum status fold_batchnorm(const struct pretrained *p, const struct tensor *shape,
                                  float *values)
{
    static const double eps = 1e-5;
    int64_t n = shape->shape[0], row = tensor_n_elements(shape) / n;
    struct tensor vector = tensor_1d(NULL, DTYPE_F32, n);
    enum status status;
    float *norm;

    TRY(memory_alloc(&norm, 4 * (size_t)n, sizeof(*norm), "batch norm"));
    float *gamma = norm, *beta = norm + n, *mean = norm + 2 * n, *var = norm + 3 * n;
    TRY_OUT(read_one(p, "mlp.1.weight", &vector, gamma));
    TRY_OUT(read_one(p, "mlp.1.bias", &vector, beta));
    TRY_OUT(read_one(p, "mlp.1.running_mean", &vector, mean));
    TRY_OUT(read_one(p, "mlp.1.running_var", &vector, var));
    for (int64_t i = 0; i < n; i++) {
        double scale = (double)gamma[i] / sqrt((double)var[i] + eps);
        if (shape->rank == 1)
            values[i] = (float)(scale * ((double)values[i] - (double)mean[i]) + (double)beta[i]);
        for (int64_t j = 0; shape->rank == 2 && j < row; j++)
            values[i * row + j] = (float)(scale * (double)values[i * row + j]);
    }
out:
    memory_free(norm);
    return status;
}

enum status pretrained_head_read(const struct pretrained *p, const char *name,
                                 const struct tensor *shape, float *out)
{
    /* with a norm the layers stand further apart */
    static const char *const layers[][2] = {
        {"mlp.0.weight", "mlp.0.weight"}, {"mlp.0.bias", "mlp.0.bias"},
        {"mlp.2.weight", "mlp.3.weight"}, {"mlp.2.bias", "mlp.3.bias"},
        {"mlp.4.weight", "mlp.6.weight"}, {"mlp.4.bias", "mlp.6.bias"}};
    enum { N_LAYERS = sizeof(layers) / sizeof(layers[0]), N_NORMED = 4 };
    int i = 0;

    while (i < N_LAYERS && strcmp(layers[i][0], name) != 0)
        i++;
    if (!has_batchnorm(p) || i == N_LAYERS)
        return read_one(p, name, shape, out);
    TRY(read_one(p, layers[i][1], shape, out));
    return i < N_NORMED ? fold_batchnorm(p, shape, out) : STATUS_OK;
}

enum status pretrained_load_tensor(const struct pretrained *p, const struct ibot_state_entry *state,
                                   enum status (*read)(const struct pretrained *, const char *name,
                                                       const struct tensor *shape, float *out),
                                   const char *name, struct device *device)
{
    const struct tensor *to = &state->tensor;
    float *values;

    TRY(memory_alloc_unset(&values, tensor_size_bytes(to), 1, name));
    enum status status = read(p, name, to, values);
    if (status == STATUS_OK)
        status = device->copy_in(device, to->data, values, tensor_size_bytes(to));
    if (status == STATUS_OK)
        status = device->synchronize(device);
    memory_free(values);
    return status;
}

enum status pretrained_load_head(const struct pretrained *p, struct ibot *ibot,
                                 struct device *device)
{
    static const char prefix[] = "teacher.head.";
    struct ibot_state_entry state;

    for (size_t i = 0; i < ibot_n_state(ibot); i++) {
        ibot_state(ibot, i, &state);
        if (strncmp(state.name, prefix, strlen(prefix)) == 0)
            TRY(pretrained_load_tensor(p, &state, pretrained_head_read, state.name + strlen(prefix),
                                       device));
    }
    return ibot_state_written(ibot);
}
