#include "trainer/pretrained_rows.h"

#include "trainer/pretrained.h"

#define AT(field) .offset = offsetof(struct pretrained_options, field)

static const struct option_spec specs[] = {
    {.name = "checkpoint",
     .alias = "pretrained_weights",
     .type = OPTION_STRING,
     AT(path),
     .argument = "PATH",
     .help = "run folder (its newest checkpoint), one checkpoint folder, or a file of weights: "
             "safetensors or PyTorch's, a full checkpoint of iBOT or DINO, or a backbone alone "
             "(iBOT, DINO, DeiT, timm)"},
    {.name = "checkpoint_key",
     .type = OPTION_STRING,
     AT(key),
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
     AT(n_heads),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "attention heads of a ViT, which its shapes don't tell; 0: as the run or --arch "
             "says, else one for each 64 of its width"},
};
const struct option_part rows_pretrained = {specs, sizeof(specs) / sizeof(specs[0])};
