/* golden_training FILE [--backend cpu|queued|cuda] [--precision f32|bf16] [--residual_stream
 * f32|bf16] [--cuda_graph on|off] [--skip_dropped on|off] [--attention auto|own|cudnn]: replays the
 * training steps stored in a golden file through the model and compares every stored value. Any
 * file of the layout is accepted: all hyper-parameters are in its metadata. Exit 0 only when
 * everything is within tolerance, 77 where the backend has no device.
 *
 * `queued` is the stand-in of tests/support for an accelerator. The program that is linked with the
 * emulated kernels calls that backend cuda_emulated. */
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/support/queued_device.h"
#include "tests/trainer/golden_replay.h"

enum { SKIPPED = 77 };

static enum status open_cpu(struct device *out)
{
    return device_open_cpu(out, 0);
}

static enum status open_queued(struct device *out)
{
    return queued_device_open(out, 2);
}

static enum attention_maker wanted_attention;

static enum status open_cuda(struct device *out)
{
    TRY(kernels_device_open(out, 0));
    return kernels_attention_by(out, wanted_attention);
}

/* Times 1e-5 (directions of the last layer: 1e-4), relative to the greatest value of a tensor.
 * bf16, twice what was measured: the loss curve within 0.5 %, logits within 1 %, gradients within 4
 * % of their greatest element, centres 0.5 %, the teacher's weights 0.3 %, the student's 12 %:
 * Adam's first steps take the sign of a gradient, whatever is left of it. */
static const double exact[N_CATEGORIES] = {1, 1, 1, 1, 1, 1, 1};
static const double on_a_gpu[N_CATEGORIES] = {1, 10, 10, 10, 10, 10, 10};
static const double half[N_CATEGORIES] = {1, 500, 1e3, 4e3, 500, 1.2e4, 300};

static const struct {
    const char *name;
    enum status (*open)(struct device *);
    const double *slack; /* in float32 */
} backends[] = {
    {"cpu", open_cpu, exact},
    {"queued", open_queued, exact},
    {"cuda", open_cuda, on_a_gpu},
    {"cuda_emulated", open_cuda, exact},
};

enum { N_BACKENDS = sizeof(backends) / sizeof(backends[0]) };

static int usage(void)
{
    fprintf(stderr, "usage: golden_training FILE [--backend cpu|queued|cuda|cuda_emulated] "
                    "[--precision f32|bf16] [--residual_stream f32|bf16] [--cuda_graph on|off] "
                    "[--skip_dropped on|off] [--attention auto|own|cudnn]\n");
    return 2;
}

/* The op table of a backend; which of the two columns of kernels/ is linked shows in its name. */
static enum status table_of(const char *name, const struct op_table **out)
{
    *out = strcmp(name, "queued") == 0 ? &op_table_queued : &op_table_cpu;
    if (strncmp(name, "cuda", 4) != 0)
        return STATUS_OK;
    TRY(kernels_op_table(out));
    if (strcmp((*out)->name, name) != 0)
        FAIL(STATUS_UNSUPPORTED, "this program has the backend '%s', not '%s'", (*out)->name, name);
    return STATUS_OK;
}

/* By its name; past the last one when there is no such. */
static int maker_of(const char *name)
{
    static const char *const names[] = {"auto", "own", "cudnn"}; /* enum attention_maker */
    int at = 0;

    while (at < 3 && strcmp(names[at], name) != 0)
        at++;
    return at;
}

static int choose(struct golden_backend *out, int argc, char **argv)
{
    const char *backend = "cpu", *precision = "f32", *graph = "on", *attention = "auto";
    const char *stream = "f32", *skip = "off";
    int at = 0;

    for (int i = 2; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--backend") == 0)
            backend = argv[i + 1];
        else if (strcmp(argv[i], "--precision") == 0)
            precision = argv[i + 1];
        else if (strcmp(argv[i], "--residual_stream") == 0)
            stream = argv[i + 1];
        else if (strcmp(argv[i], "--cuda_graph") == 0)
            graph = argv[i + 1];
        else if (strcmp(argv[i], "--skip_dropped") == 0)
            skip = argv[i + 1];
        else if (strcmp(argv[i], "--attention") == 0)
            attention = argv[i + 1];
        else
            return usage();
    bool bf16 = strcmp(precision, "bf16") == 0, on = strcmp(graph, "on") == 0;
    bool narrow = strcmp(stream, "bf16") == 0, skips = strcmp(skip, "on") == 0;
    while (at < N_BACKENDS && strcmp(backends[at].name, backend) != 0)
        at++;
    if (argc < 2 || argc % 2 != 0 || at == N_BACKENDS || (!bf16 && strcmp(precision, "f32") != 0) ||
        (!narrow && strcmp(stream, "f32") != 0) || (!on && strcmp(graph, "off") != 0) ||
        (!skips && strcmp(skip, "off") != 0) || maker_of(attention) > ATTENTION_BY_CUDNN)
        return usage();
    *out = (struct golden_backend){.open = backends[at].open,
                                   .precision = bf16 ? PRECISION_BF16 : PRECISION_F32,
                                   .residual_stream = narrow ? PRECISION_BF16 : PRECISION_F32,
                                   .record_steps = on,
                                   .skip_dropped = skips};
    wanted_attention = (enum attention_maker)maker_of(attention);
    memcpy(out->slack, bf16 ? half : backends[at].slack, sizeof(out->slack));
    struct device device = {0};
    enum status status = table_of(backend, &out->ops);
    if (status == STATUS_OK)
        status = out->open(&device);
    device_close(&device);
    if (status == STATUS_OK)
        return 0;
    fprintf(stderr, "golden_training: %s\n", status_message());
    return SKIPPED;
}

static enum status run(struct golden *g, const char *path, const struct golden_backend *backend)
{
    TRY(golden_open(g, path, backend));
    for (int32_t k = 0; k < g->n_steps; k++)
        TRY(golden_step(g, k));
    return golden_finish(g);
}

int main(int argc, char **argv)
{
    struct golden_backend backend;
    struct golden golden;
    int leave = choose(&backend, argc, argv);

    if (leave != 0)
        return leave;
    printf("%s, %s%s\n", backend.ops->name, backend.precision == PRECISION_F32 ? "f32" : "bf16",
           backend.residual_stream == PRECISION_F32 ? "" : ", its residual stream too");
    enum status status = run(&golden, argv[1], &backend);
    if (status != STATUS_OK)
        fprintf(stderr, "golden_training: %s\n", status_message());
    bool good = status == STATUS_OK && golden_report(&golden);
    golden_release(&golden);
    return good ? 0 : 1;
}
