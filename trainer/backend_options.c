#include "trainer/backend_options.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

/* ------------------------------------------------------------------------------ rows */

static const char *const backends[] = {"cpu", "cuda", NULL};      /* enum backend_kind */
static const char *const tunings[] = {"off", "kept", "on", NULL}; /* enum device_tuning_mode */
static const char *const precisions[] = {"auto", "f32", "bf16", NULL};
static const char *const gelus[] = {"auto", "tanh", "erf", NULL};
static const char *const recomputes[] = {"none", "gelu", "norms", "blocks", NULL};
static const char *const skips[] = {"auto", "on", "off", NULL};     /* enum skip_choice */
static const char *const makers[] = {"auto", "own", "cudnn", NULL}; /* backend_attention_by */

enum { ATTENTION_OWN = 1 }; /* in `makers` */

#define AT(field) .offset = offsetof(struct backend_options, field)

static const struct option_spec backend_specs[] = {
    {.name = "backend",
     .type = OPTION_CHOICE,
     AT(kind),
     .choices = backends,
     .text = "cpu",
     .help = "hardware that computes"},
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "0",
     .minimum = 0,
     .maximum = 1024,
     .help = "threads of the CPU backend; 0: one per core"},
    {.name = "matmul_tune",
     .type = OPTION_CHOICE,
     AT(matmul_tune),
     .choices = tunings,
     .text = "on",
     .help = "which of its algorithms an accelerator's library uses for a matrix product. on: the "
             "one in --matmul_cache, or else the fastest, measured when the product first comes "
             "and kept there; kept: the one in the file, or else the library's own choice; off: "
             "that. They sum in other orders: results have the same bits again while the file has "
             "the same choices"},
    {.name = "matmul_cache",
     .type = OPTION_STRING,
     AT(matmul_cache),
     .argument = "FILE",
     .help = "where choices of algorithms are kept, for all programs, by chip, library and "
             "product; by default matrix_products in $XDG_CACHE_HOME/ibot or ~/.cache/ibot; none: "
             "nowhere"},
    {.name = "deterministic",
     .type = OPTION_BOOL,
     AT(deterministic),
     .text = "off",
     .help = "an accelerator uses nothing that could differ from run to run on the same machine "
             "with the same libraries: --matmul_tune off and, of a network, --attention own. It "
             "costs what those save. Without it there are the same bits again while "
             "--matmul_cache keeps its choices"},
};
const struct option_part rows_backend = {backend_specs,
                                         sizeof(backend_specs) / sizeof(backend_specs[0])};

#undef AT
#define AT(field) .offset = offsetof(struct network_options, field)

static const struct option_spec network_specs[] = {
    {.name = "precision",
     .type = OPTION_CHOICE,
     AT(precision),
     .choices = precisions,
     .text = "auto",
     .help = "of what products are made of; weights, sums and what comes out are float32 either "
             "way. auto: bf16 on an accelerator, f32 on the CPU, which has no other"},
    {.name = "gelu",
     .type = OPTION_CHOICE,
     AT(gelu),
     .choices = gelus,
     .text = "auto",
     .help = "form of the GELU: erf is the exact one; tanh, within 5e-4 of it, is part of the "
             "product on an accelerator. auto: tanh with bf16, erf with f32"},
    {.name = "attention",
     .type = OPTION_CHOICE,
     AT(attention),
     .choices = makers,
     .text = "auto",
     .help = "who computes attention of a ViT in bf16 on an accelerator: own kernels; cudnn, "
             "wherever it takes the shape; auto: what --matmul_cache has, or else the faster of "
             "the two, measured when the shape first comes as --matmul_tune says; unless it is "
             "on, own for sequences of up to 64 tokens, cudnn, where the build has it, for longer "
             "ones"},
};
const struct option_part rows_network = {network_specs,
                                         sizeof(network_specs) / sizeof(network_specs[0])};

#undef AT
#define AT(field) .offset = offsetof(struct backward_options, field)

static const struct option_spec backward_specs[] = {
    {.name = "recompute",
     .type = OPTION_CHOICE,
     AT(recompute),
     .choices = recomputes,
     .text = "none",
     .help = "what of a block the backward makes again instead of keeping it, for a larger batch: "
             "gelu (hidden activations), norms (these and the normed rows: two thirds of a "
             "bf16 ViT's memory is left), blocks (all but the stream between blocks: a ninth is, "
             "for another forward of the student). Same gradients; gelu and norms up to rounding "
             "in bf16"},
    {.name = "skip_dropped",
     .type = OPTION_CHOICE,
     AT(skip_dropped),
     .choices = skips,
     .text = "auto",
     .help = "leave out of a ViT's branches the samples that --drop_path drops there, instead of "
             "multiplying them by 0: the same values up to rounding, of products of fewer rows; "
             "steps then differ too much to be recorded, which ibot-train does on an accelerator. "
             "auto: on the CPU"},
};
const struct option_part rows_backward = {backward_specs,
                                          sizeof(backward_specs) / sizeof(backward_specs[0])};

/* ------------------------------------------------------------------------------ what follows */

void backend_options_settle(struct backend_options *backend, struct network_options *network,
                            const struct options *parsed)
{
    if (!backend->deterministic)
        return;
    if (!options_is_set(parsed, "matmul_tune"))
        backend->matmul_tune = DEVICE_TUNING_OFF;
    if (network != NULL && !options_is_set(parsed, "attention"))
        network->attention = ATTENTION_OWN;
}

enum status backend_options_check(const struct backend_options *backend,
                                  const struct network_options *network)
{
    if (backend->deterministic && backend->matmul_tune != DEVICE_TUNING_OFF)
        FAIL(STATUS_INVALID,
             "--deterministic takes no algorithm that was chosen by measuring: leave "
             "--matmul_tune out, or say off");
    if (network != NULL && backend->kind == BACKEND_CPU &&
        network->precision == PRECISION_CHOICE_BF16)
        FAIL(STATUS_INVALID, "--precision bf16: the CPU computes in float32; leave it out, or give "
                             "--backend cuda");
    return STATUS_OK;
}

enum ibot_precision network_options_precision(const struct network_options *network,
                                              enum backend_kind kind)
{
    bool half = network->precision == PRECISION_CHOICE_BF16 ||
                (network->precision == PRECISION_CHOICE_AUTO && kind != BACKEND_CPU);
    return half ? PRECISION_BF16 : PRECISION_F32;
}

bool network_options_gelu_tanh(const struct network_options *network, enum ibot_precision precision)
{
    return network->gelu == GELU_CHOICE_TANH ||
           (network->gelu == GELU_CHOICE_AUTO && precision == PRECISION_BF16);
}

bool backward_options_skip(const struct backward_options *backward, enum backend_kind kind)
{
    return backward->skip_dropped == SKIP_ON ||
           (backward->skip_dropped == SKIP_AUTO && kind == BACKEND_CPU);
}

enum status backend_options_open(struct backend *out, const struct backend_options *options,
                                 const struct network_options *network)
{
    struct device_tuning tuning = {.mode = (enum device_tuning_mode)options->matmul_tune,
                                   .cache = options->matmul_cache};
    char file[PATH_MAX];

    if (options->matmul_cache != NULL && strcmp(options->matmul_cache, "none") == 0)
        tuning.cache = NULL;
    else if (options->matmul_cache == NULL && options->kind == BACKEND_CUDA) {
        backend_tuning_file(file, sizeof(file));
        tuning.cache = file;
    }
    TRY(backend_open(out, (enum backend_kind)options->kind, options->threads, &tuning));
    return network != NULL ? backend_attention_by(out, network->attention) : STATUS_OK;
}
