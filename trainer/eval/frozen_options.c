#include "trainer/eval/frozen_options.h"

#include <stddef.h>

#include "proto/config/rows.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

#define AT(field) .offset = offsetof(struct frozen_feature_options, field)

static const struct option_spec feature_specs[] = {
    {.name = "n_last_blocks",
     .type = OPTION_INT32,
     AT(n_last_blocks),
     .text = "1",
     .minimum = 1,
     .maximum = 256,
     .help = "concatenate the [CLS] tokens (of a Swin: the mean tokens) of this many last blocks"},
    {.name = "avgpool_patchtokens",
     .type = OPTION_INT32,
     AT(avgpool_patchtokens),
     .text = "0",
     .minimum = 0,
     .maximum = 2,
     .help = "0: [CLS] tokens; 1: mean of the last block's patch tokens; 2: both"},
    {.name = "topk",
     .type = OPTION_INT32,
     AT(topk),
     .text = "0",
     .minimum = 0,
     .maximum = 65536,
     .unit = "patches",
     .help =
         "instead, of a ViT: the mean of this many patch tokens of the last block, those that the "
         "[CLS] token looks at most (part-wise probing: 1 7 14 56 112 196 of 196)"},
    {.name = "reverse_top",
     .type = OPTION_BOOL,
     AT(reverse_top),
     .text = "off",
     .help = "or least"},
};
const struct option_part rows_frozen_features = {feature_specs, N(feature_specs)};

static const struct option_spec batch = {
    .name = "batch_size_per_gpu",
    .type = OPTION_INT32,
    .text = "32",
    .minimum = 1,
    .maximum = 4096,
    .unit = "images",
    .help = "images at a time",
};
const struct option_part row_frozen_batch = {&batch, 1};

#undef AT
#define AT(field) .offset = offsetof(struct frozen_data_options, field)

static const struct option_spec data_specs[] = {
    {.name = "train",
     .type = OPTION_STRING,
     AT(train),
     .argument = "DIR",
     .help = "labelled images to learn from: one folder per class, the same as those of --test; or "
             "archives, or a list, such as of 1 % of the images, as ibot-loader takes them"},
    {.name = "test",
     .type = OPTION_STRING,
     AT(test),
     .argument = "DIR",
     .help = "images to classify, labelled in the same ways"},
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
        .weights = *choice->weights,
        .features =
            {
                .n_last_blocks = choice->features.n_last_blocks,
                .avgpool = choice->features.avgpool_patchtokens,
                .topk = choice->features.topk,
                .reverse_top = choice->features.reverse_top,
            },
        .batch_size = choice->batch_size,
        .crop_size_px = choice->data->crop_size,
    };

    options.precision = network_options_precision(choice->network, choice->kind);
    options.gelu_tanh = network_options_gelu_tanh(choice->network, options.precision);
    return feature_model_open(out, backend, &options);
}

int32_t frozen_resize_px(const struct frozen_data_options *data, const struct feature_model *model)
{
    return data->resize_size > 0 ? data->resize_size : model->network.size_px * 8 / 7;
}
