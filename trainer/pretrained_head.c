#include "trainer/pretrained_head.h"

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

enum status pretrained_head_options(const struct pretrained *p, struct head_options *out)
{
    bool norm = find(p, "mlp.1.weight") != NULL && find(p, "mlp.6.weight") != NULL;
    char activation[16] = "gelu";

    *out = (struct head_options){
        .hidden_dim = dimension(p, "mlp.0.weight", 0),
        .bottleneck_dim = dimension(p, "last_layer.weight_v", 1),
        .out_dim = dimension(p, "last_layer.weight_v", 0),
        .fixed_gains = true,
        .norm = norm ? HEAD_NORM_LN : HEAD_NORM_NONE,
        .activation = ACTIVATION_GELU,
    };
    if (out->hidden_dim == 0 || out->bottleneck_dim == 0 || out->out_dim == 0)
        FAIL(STATUS_NOT_FOUND,
             "weights file '%s', key '%s': there is no projection head in it (head.mlp.0.weight, "
             "head.last_layer.weight_v, …): give a run folder, a whole checkpoint of iBOT, or what "
             "ibot-convert --with_head made of one",
             p->file.path, p->selection.key);
    if (find(p, "mlp.1.running_mean") != NULL)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s': the head has batch norm, so what it makes of an image depends on "
             "the others of its batch: wanted a head without, or with --norm_in_head ln",
             p->file.path);
    int32_t patch = dimension(p, "last_layer2.weight_v", 0);
    out->shared_student = out->shared_teacher = patch == 0;
    out->patch_out_dim = patch > 0 ? patch : out->out_dim;
    if (pretrained_option(p, "act_in_head", activation, sizeof(activation)) &&
        strcmp(activation, "relu") == 0)
        out->activation = ACTIVATION_RELU;
    return STATUS_OK;
}

static enum status load_one(const struct pretrained *p, struct device *device,
                            const struct ibot_state_entry *state, const char *name)
{
    const struct weight_entry *entry = find(p, name);
    const struct tensor *to = &state->tensor;
    char got[160], wanted[160];
    float *values;

    if (entry == NULL)
        FAIL(STATUS_MISMATCH, "weights file '%s', key '%s': tensor 'head.%s' is missing",
             p->file.path, p->selection.key, name);
    if (entry->rank != to->rank ||
        memcmp(entry->shape, to->shape, (size_t)to->rank * sizeof(int64_t)) != 0)
        FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' has shape %s, wanted %s",
             p->file.path, entry->name,
             weight_shape_text(entry->rank, entry->shape, got, sizeof(got)),
             weight_shape_text(to->rank, to->shape, wanted, sizeof(wanted)));
    TRY(memory_alloc_unset(&values, tensor_size_bytes(to), 1, entry->name));
    enum status status = weight_file_read_f32(&p->file, entry, values);
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
            TRY(load_one(p, device, &state, state.name + strlen(prefix)));
    }
    return ibot_state_written(ibot);
}
