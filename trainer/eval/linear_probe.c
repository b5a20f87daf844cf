/* Linear probing. The parameters lie as in one wide layer: all weights [C K, D], then all biases
 * [C K], so that forward and backward are one product each; the optimizer takes the two segments
 * of a classifier at a time, with the classifier's own rate. */
#include "trainer/eval/linear_probe.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "trainer/weights/safetensors.h"

enum { SEGMENTS = 2 }; /* of a classifier: weight, bias */

struct linear_probe {
    struct device *device; /* borrowed */
    const struct op_table *ops;
    struct linear_probe_options options;
    struct linear_classifier classifiers[LINEAR_PROBE_MAX];
    struct step_control controls[LINEAR_PROBE_MAX];
    int64_t outputs, n_weights, n_parameters; /* C K; C K D; both and the biases */

    float *parameter, *gradient, *momentum; /* device [n_parameters] */
    float *features, *logits, *loss;        /* device [B, D], [B, C K], [B C] */
    int32_t *labels, *rank;                 /* device [B], [B C] */
    double *norms;                          /* device [2]: nothing is clipped */
    struct segment *segments;               /* device [C, 2] */
    struct step_control *control;           /* device [C] */
    float *host, *host_loss;                /* [n_parameters], [B C] */
    int32_t *host_rank;                     /* [B C] */
};

/* ------------------------------------------------------------------------------ opening */

static enum status allocate(struct linear_probe *p)
{
    struct device *d = p->device;
    const struct linear_probe_options *o = &p->options;
    size_t parameters = (size_t)p->n_parameters * sizeof(float);
    size_t rows = (size_t)o->batch_size * (size_t)o->n_classifiers, batch = (size_t)o->batch_size;

    TRY(d->alloc(d, (void **)&p->parameter, parameters, "linear classifiers"));
    TRY(d->alloc(d, (void **)&p->gradient, parameters, "their gradients"));
    TRY(d->alloc(d, (void **)&p->momentum, parameters, "their momentum"));
    TRY(d->alloc(d, (void **)&p->features, batch * (size_t)o->dim * sizeof(float), "features"));
    TRY(d->alloc(d, (void **)&p->logits, batch * (size_t)p->outputs * sizeof(float), "logits"));
    TRY(d->alloc(d, (void **)&p->loss, rows * sizeof(float), "losses"));
    TRY(d->alloc(d, (void **)&p->labels, batch * sizeof(int32_t), "labels"));
    TRY(d->alloc(d, (void **)&p->rank, rows * sizeof(int32_t), "ranks"));
    TRY(d->alloc(d, (void **)&p->norms, SEGMENTS * sizeof(double), "norms"));
    TRY(d->alloc(d, (void **)&p->segments,
                 (size_t)o->n_classifiers * SEGMENTS * sizeof(struct segment), "segments"));
    TRY(d->alloc(d, (void **)&p->control, (size_t)o->n_classifiers * sizeof(struct step_control),
                 "learning rates"));
    TRY(memory_alloc(&p->host, (size_t)p->n_parameters, sizeof(float), "linear classifiers"));
    TRY(memory_alloc(&p->host_loss, rows, sizeof(float), "losses"));
    return memory_alloc(&p->host_rank, rows, sizeof(int32_t), "ranks");
}

static enum status start(struct linear_probe *p)
{
    struct device *d = p->device;
    const struct linear_probe_options *o = &p->options;
    struct segment segments[LINEAR_PROBE_MAX * SEGMENTS] = {0};
    int64_t each = (int64_t)o->n_classes * o->dim;

    for (int32_t c = 0; c < o->n_classifiers; c++) {
        struct rng rng =
            rng_open((struct rng_key){.seed = o->seed, .sample = (uint32_t)c, .purpose = RNG_INIT});
        for (int64_t i = 0; i < each; i++)
            p->host[c * each + i] = (float)(0.01 * rng_normal(&rng));
        segments[SEGMENTS * c] = (struct segment){
            .offset = c * each, .n = each, .teacher_offset = -1, .flags = SEGMENT_DECAY};
        segments[SEGMENTS * c + 1] = (struct segment){
            .offset = p->n_weights + (int64_t)c * o->n_classes,
            .n = o->n_classes,
            .teacher_offset = -1,
            .flags = SEGMENT_DECAY | SEGMENT_VECTOR,
        };
    }
    TRY(d->copy_in(d, p->parameter, p->host, (size_t)p->n_parameters * sizeof(float)));
    TRY(d->copy_in(d, p->segments, segments,
                   (size_t)o->n_classifiers * SEGMENTS * sizeof(struct segment)));
    TRY(d->zero(d, p->momentum, (size_t)p->n_parameters * sizeof(float)));
    TRY(d->zero(d, p->norms, SEGMENTS * sizeof(double)));
    TRY(linear_probe_set_rate(p, 1.0));
    return d->synchronize(d);
}

enum status linear_probe_open(struct linear_probe **out, struct device *device,
                              const struct op_table *ops, const struct linear_probe_options *o)
{
    struct linear_probe *p = NULL;

    *out = NULL;
    CHECK(o->n_classifiers > 0 && o->n_classifiers <= LINEAR_PROBE_MAX);
    CHECK(o->dim > 0 && o->n_classes > 0 && o->batch_size > 0);
    TRY(memory_alloc(&p, 1, sizeof(*p), "linear probing"));
    p->device = device;
    p->ops = ops;
    p->options = *o;
    memcpy(p->classifiers, o->classifiers, (size_t)o->n_classifiers * sizeof(*o->classifiers));
    p->options.classifiers = p->classifiers;
    p->outputs = (int64_t)o->n_classifiers * o->n_classes;
    p->n_weights = p->outputs * o->dim;
    p->n_parameters = p->n_weights + p->outputs;
    enum status status = allocate(p);
    if (status == STATUS_OK)
        status = start(p);
    if (status != STATUS_OK)
        linear_probe_close(&p);
    *out = p;
    return status;
}

enum status linear_probe_set_rate(struct linear_probe *p, double factor)
{
    for (int32_t c = 0; c < p->options.n_classifiers; c++)
        p->controls[c] = (struct step_control){
            .lr = (float)(factor * p->classifiers[c].lr),
            .weight_decay = (float)p->classifiers[c].weight_decay,
        };
    return p->device->copy_in(p->device, p->control, p->controls,
                              (size_t)p->options.n_classifiers * sizeof(struct step_control));
}

/* ------------------------------------------------------------------------------ a batch */

static struct tensor wide_weight(const struct linear_probe *p, float *parameters)
{
    return tensor_2d(parameters, DTYPE_F32, p->outputs, p->options.dim);
}

static struct tensor wide_bias(const struct linear_probe *p, float *parameters)
{
    return tensor_1d(parameters + p->n_weights, DTYPE_F32, p->outputs);
}

static int64_t n_ranks(const struct linear_probe *p)
{
    return p->options.ranks != NULL ? p->options.ranks->world : 1;
}

/* Logits, losses and ranks of n rows; with `train` the gradient of the mean loss in the place of
 * the logits. Adds to the scores. */
static enum status forward(struct linear_probe *p, const float *features, const int32_t *labels,
                           int64_t n, bool train, struct linear_score *scores)
{
    struct device *d = p->device;
    const struct linear_probe_options *o = &p->options;
    int64_t rows = n * o->n_classifiers;
    struct linear_args product = {
        .x = tensor_2d(p->features, DTYPE_F32, n, o->dim),
        .weight = wide_weight(p, p->parameter),
        .bias = wide_bias(p, p->parameter),
        .y = tensor_2d(p->logits, DTYPE_F32, n, p->outputs),
    };
    struct cross_entropy_args loss = {
        .logits = tensor_2d(p->logits, DTYPE_F32, rows, o->n_classes),
        .label = tensor_1d(p->labels, DTYPE_I32, n),
        .loss = tensor_1d(p->loss, DTYPE_F32, rows),
        .rank = tensor_1d(p->rank, DTYPE_I32, rows),
        .scale = 1.0f / (float)(n * n_ranks(p)),
    };

    CHECK(n > 0 && n <= o->batch_size);
    if (train)
        loss.d_logits = loss.logits;
    TRY(d->copy_in(d, p->features, features, (size_t)(n * o->dim) * sizeof(float)));
    TRY(d->copy_in(d, p->labels, labels, (size_t)n * sizeof(int32_t)));
    TRY(p->ops->linear_forward(d, &product));
    TRY(p->ops->cross_entropy(d, &loss));
    TRY(d->copy_out(d, p->host_loss, p->loss, (size_t)rows * sizeof(float)));
    TRY(d->copy_out(d, p->host_rank, p->rank, (size_t)rows * sizeof(int32_t)));
    TRY(d->synchronize(d));
    for (int64_t i = 0; i < rows; i++) {
        struct linear_score *score = &scores[i % o->n_classifiers];
        score->n++;
        score->top1 += p->host_rank[i] < 1;
        score->top5 += p->host_rank[i] < 5;
        score->loss += (double)p->host_loss[i];
    }
    return STATUS_OK;
}

enum status linear_probe_step(struct linear_probe *p, const float *features, const int32_t *labels,
                              int64_t n, struct linear_score *scores)
{
    struct device *d = p->device;
    const struct linear_probe_options *o = &p->options;

    TRY(forward(p, features, labels, n, true, scores));
    struct linear_backward_args product = {
        .d_y = tensor_2d(p->logits, DTYPE_F32, n, p->outputs),
        .x = tensor_2d(p->features, DTYPE_F32, n, o->dim),
        .weight = wide_weight(p, p->parameter),
        .d_weight = wide_weight(p, p->gradient),
        .d_bias = wide_bias(p, p->gradient),
    };
    TRY(d->zero(d, p->gradient, (size_t)p->n_parameters * sizeof(float)));
    TRY(p->ops->linear_backward(d, &product));
    struct tensor gradient = tensor_1d(p->gradient, DTYPE_F32, p->n_parameters);
    if (n_ranks(p) > 1)
        TRY(o->ranks->all_reduce(o->ranks, d, &gradient));
    for (int32_t c = 0; c < o->n_classifiers; c++) {
        struct optimizer_step_args update = {
            .parameter = tensor_1d(p->parameter, DTYPE_F32, p->n_parameters),
            .gradient = gradient,
            .moment1 = tensor_1d(p->momentum, DTYPE_F32, p->n_parameters),
            .teacher = tensor_1d(p->parameter, DTYPE_F32, p->n_parameters), /* of no segment */
            .norms = tensor_1d(p->norms, DTYPE_F64, SEGMENTS),
            .segments = p->segments + SEGMENTS * c,
            .control = p->control + c,
            .n_segments = SEGMENTS,
            .kind = p->classifiers[c].optimizer,
        };
        TRY(p->ops->optimizer_step(d, &update));
    }
    return STATUS_OK;
}

enum status linear_probe_score(struct linear_probe *p, const float *features, const int32_t *labels,
                               int64_t n, struct linear_score *scores)
{
    for (int64_t first = 0; first < n; first += p->options.batch_size) {
        int64_t rest = n - first;
        TRY(forward(p, features + first * p->options.dim, labels + first,
                    rest < p->options.batch_size ? rest : p->options.batch_size, false, scores));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ files */

/* Parameters or momentum into host memory. */
static enum status fetch(struct linear_probe *p, float *to, const float *from)
{
    TRY(p->device->copy_out(p->device, to, from, (size_t)p->n_parameters * sizeof(float)));
    return p->device->synchronize(p->device);
}

static void items_of(const struct linear_probe *p, float *parameters, const char *weight,
                     const char *bias, struct safetensors_item out[2])
{
    const struct linear_probe_options *o = &p->options;

    out[0] = (struct safetensors_item){
        weight, {parameters, DTYPE_F32, 3, {o->n_classifiers, o->n_classes, o->dim, 0}}};
    out[1] = (struct safetensors_item){
        bias, tensor_2d(parameters + p->n_weights, DTYPE_F32, o->n_classifiers, o->n_classes)};
}

enum status linear_probe_write(struct linear_probe *p, const char *path,
                               const char *const *metadata, size_t n_pairs)
{
    struct safetensors_item items[4];
    float *momentum = NULL;
    enum status status;

    TRY(memory_alloc(&momentum, (size_t)p->n_parameters, sizeof(float), "momentum"));
    TRY_OUT(fetch(p, p->host, p->parameter));
    TRY_OUT(fetch(p, momentum, p->momentum));
    items_of(p, p->host, "weight", "bias", items);
    items_of(p, momentum, "weight_momentum", "bias_momentum", items + 2);
    status = safetensors_write(path, items, 4, metadata, n_pairs);
out:
    memory_free(momentum);
    return status;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    bool same = a->rank == b->rank;

    for (int i = 0; i < a->rank && same; i++)
        same = a->shape[i] == b->shape[i];
    return same;
}

/* Weights and biases of the file into the device array, by way of host memory. */
static enum status take(struct linear_probe *p, const struct safetensors *file, const char *path,
                        const char *weight, const char *bias, float *to)
{
    struct safetensors_item items[2];

    items_of(p, p->host, weight, bias, items);
    for (int i = 0; i < 2; i++) {
        const struct safetensors_entry *entry = safetensors_find(file, items[i].name);
        if (entry == NULL || entry->tensor.dtype != DTYPE_F32 ||
            !same_shape(&entry->tensor, &items[i].tensor))
            FAIL(STATUS_MISMATCH,
                 "%s: no '%s' for %d classifiers of %d classes and %d features, as this evaluation "
                 "has: give another --output_dir, or the options that the folder was begun with",
                 path, items[i].name, p->options.n_classifiers, p->options.n_classes,
                 p->options.dim);
        memcpy(items[i].tensor.data, entry->tensor.data, entry->n_bytes);
    }
    return p->device->copy_in(p->device, to, p->host, (size_t)p->n_parameters * sizeof(float));
}

enum status linear_probe_read(struct linear_probe *p, const char *path)
{
    struct safetensors file;
    enum status status;

    TRY(safetensors_open(&file, path));
    TRY_OUT(take(p, &file, path, "weight", "bias", p->parameter));
    TRY_OUT(take(p, &file, path, "weight_momentum", "bias_momentum", p->momentum));
out:
    safetensors_release(&file);
    return status;
}

enum status linear_probe_write_one(struct linear_probe *p, int32_t c, const char *path,
                                   const char *const *metadata, size_t n_pairs)
{
    const struct linear_probe_options *o = &p->options;
    int64_t each = (int64_t)o->n_classes * o->dim;

    TRY(fetch(p, p->host, p->parameter));
    struct safetensors_item items[] = {
        {"linear.weight", tensor_2d(p->host + c * each, DTYPE_F32, o->n_classes, o->dim)},
        {"linear.bias",
         tensor_1d(p->host + p->n_weights + (int64_t)c * o->n_classes, DTYPE_F32, o->n_classes)},
    };
    return safetensors_write(path, items, 2, metadata, n_pairs);
}

void linear_probe_close(struct linear_probe **probe)
{
    struct linear_probe *p = *probe;

    if (p == NULL)
        return;
    void *on_device[] = {p->parameter, p->gradient, p->momentum, p->features, p->logits, p->loss,
                         p->labels,    p->rank,     p->norms,    p->segments, p->control};
    for (size_t i = 0; i < sizeof(on_device) / sizeof(on_device[0]); i++)
        p->device->free(p->device, on_device[i]);
    memory_free(p->host);
    memory_free(p->host_loss);
    memory_free(p->host_rank);
    memory_free(p);
    *probe = NULL;
}
