#include "trainer/eval/frozen_options.h"

#include <stddef.h>

#include "proto/config/rows.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

#define AT(field) .offset = offsetof(struct frozen_model_options, field)

static const struct option_spec model_specs[] = {
    {.name = "checkpoint",
     .alias = "pretrained_weights",
     .type = OPTION_STRING,
     AT(checkpoint),
     .argument = "PATH",
     .help = "run folder (its newest checkpoint), one checkpoint folder, or a file of weights: "
             "safetensors or PyTorch's, a full checkpoint of iBOT or DINO, or a backbone alone "
             "(iBOT, DINO, DeiT, timm)"},
    {.name = "checkpoint_key",
     .type = OPTION_STRING,
     AT(checkpoint_key),
     .argument = "KEY",
     .help = "which network of it: teacher, student, state_dict, model, …; without, the first of "
             "teacher, state_dict, model, student that is there, or the whole of a flat file"},
    {.name = "arch",
     .type = OPTION_STRING,
     AT(arch),
     .argument = "NAME",
     .help = "what the weights must be, as in ibot-train; without, their shapes say it"},
    {.name = "num_heads",
     .type = OPTION_INT32,
     AT(num_heads),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "attention heads of a ViT, which its shapes don't tell; 0: as the run or --arch "
             "says, else one for each 64 of its width"},
};
const struct option_part rows_frozen_model = {model_specs, N(model_specs)};

#undef AT
#define AT(field) .offset = offsetof(struct frozen_data_options, field)

static const struct option_spec data_specs[] = {
    {.name = "train",
     .type = OPTION_STRING,
     AT(train),
     .argument = "DIR",
     .help = "labelled images to learn from: one folder per class, the same as those of --test"},
    {.name = "test",
     .type = OPTION_STRING,
     AT(test),
     .argument = "DIR",
     .help = "images to classify: one folder per class"},
    {.name = "resize_size",
     .type = OPTION_INT32,
     AT(resize_size),
     .text = "0",
     .minimum = 0,
     .maximum = 4096,
     .unit = "px",
     .help = "shorter side after resizing; 0: 8/7 of the crop, 256 for "
             "224"},
    {.name = "crop_size",
     .type = OPTION_INT32,
     AT(crop_size),
     .text = "0",
     .minimum = 0,
     .maximum = 4096,
     .unit = "px",
     .help = "central crop; 0: that of the run's global crops, or what the positions are for"},
    {.name = "loaders",
     .type = OPTION_INT32,
     AT(loaders),
     .text = "1",
     .minimum = 1,
     .maximum = 64,
     .help = "loader processes"},
    {.part = &row_loader_threads, AT(loader_threads)},
};
const struct option_part rows_frozen_data = {data_specs, N(data_specs)};
const struct option_part rows_frozen_test = {data_specs + 1, N(data_specs) - 1};

enum status frozen_model_open(struct feature_model *out, struct backend *backend,
                              const struct frozen_choice *choice)
{
    struct feature_model_options options = {
        .checkpoint = choice->model->checkpoint,
        .key = choice->model->checkpoint_key,
        .arch = choice->model->arch,
        .n_heads = choice->model->num_heads,
        .n_last_blocks = choice->n_last_blocks,
        .avgpool = choice->avgpool_patchtokens,
        .batch_size = choice->batch_size,
        .crop_size_px = choice->data->crop_size,
    };

    options.precision = network_options_precision(choice->network, choice->kind);
    options.gelu_tanh = network_options_gelu_tanh(choice->network, options.precision);
    return feature_model_open(out, backend, &options);
}

int32_t frozen_resize_px(const struct frozen_data_options *data, const struct feature_model *model)
{
    return data->resize_size > 0 ? data->resize_size : model->crop_size_px * 8 / 7;
}
