/* Logistic regression: loss and gradient in chunks of rows, L-BFGS (Liu and Nocedal 1989) with a
 * backtracking line search around them. Products run on the device in float32, sums and the
 * search in double on the host. */
#include "trainer/eval/logistic.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

enum { CHUNK = 16384, HISTORY = 12, MAX_HALVINGS = 30 };

struct logistic {
    struct device *device;
    const struct op_table *ops;
    const struct logistic_args *args;
    double lambda;
    size_t n;                                         /* of W: n_classes * dim */
    float *train, *rows, *weight, *d_weight, *logits; /* device */
    float *host_logits, *host_weight;
    double *w, *gradient, *next, *next_gradient, *direction;
    double *s, *y, alpha[HISTORY]; /* [HISTORY, n] steps and gradient differences */
    int32_t n_pairs, newest;
};

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ------------------------------------------------------------------------------ loss */

/* One row: its logits become the gradient (softmax - one-hot) * share. Returns its loss. */
static double row_loss(float *logits, int32_t n_classes, int32_t label, double share)
{
    double most = -INFINITY, sum = 0.0;
    double of_label = (double)logits[label];

    for (int32_t c = 0; c < n_classes; c++)
        most = fmax(most, (double)logits[c]);
    for (int32_t c = 0; c < n_classes; c++)
        sum += exp((double)logits[c] - most);
    for (int32_t c = 0; c < n_classes; c++)
        logits[c] = (float)((exp((double)logits[c] - most) / sum - (c == label)) * share);
    return most + log(sum) - of_label;
}

static enum status put_weight(struct logistic *l, const double *w)
{
    for (size_t i = 0; i < l->n; i++)
        l->host_weight[i] = (float)w[i];
    return l->device->copy_in(l->device, l->weight, l->host_weight, l->n * sizeof(float));
}

/* Logits of n rows of `x` (device) into host_logits. */
static enum status make_logits(struct logistic *l, float *x, int64_t n)
{
    const struct logistic_args *a = l->args;
    struct linear_args product = {
        .x = tensor_2d(x, DTYPE_F32, n, a->dim),
        .weight = tensor_2d(l->weight, DTYPE_F32, a->n_classes, a->dim),
        .y = tensor_2d(l->logits, DTYPE_F32, n, a->n_classes),
    };

    TRY(l->ops->linear_forward(l->device, &product));
    TRY(l->device->copy_out(l->device, l->host_logits, l->logits,
                            (size_t)(n * a->n_classes) * sizeof(float)));
    return l->device->synchronize(l->device);
}

/* d_weight += d_logits^T x, for the n rows whose d_logits are in host_logits. */
static enum status add_gradient(struct logistic *l, float *x, int64_t n)
{
    const struct logistic_args *a = l->args;
    struct linear_backward_args product = {
        .d_y = tensor_2d(l->logits, DTYPE_F32, n, a->n_classes),
        .x = tensor_2d(x, DTYPE_F32, n, a->dim),
        .weight = tensor_2d(l->weight, DTYPE_F32, a->n_classes, a->dim),
        .d_weight = tensor_2d(l->d_weight, DTYPE_F32, a->n_classes, a->dim),
    };

    TRY(l->device->copy_in(l->device, l->logits, l->host_logits,
                           (size_t)(n * a->n_classes) * sizeof(float)));
    return l->ops->linear_backward(l->device, &product);
}

/* f and its gradient at w. */
static enum status evaluate(struct logistic *l, const double *w, double *loss, double *gradient)
{
    const struct logistic_args *a = l->args;
    double sum = 0.0;

    TRY(put_weight(l, w));
    TRY(l->device->zero(l->device, l->d_weight, l->n * sizeof(float)));
    for (int64_t first = 0; first < a->n_train; first += CHUNK) {
        int64_t n = a->n_train - first < CHUNK ? a->n_train - first : CHUNK;
        float *x = l->train + first * a->dim;
        TRY(make_logits(l, x, n));
        for (int64_t i = 0; i < n; i++)
            sum += row_loss(l->host_logits + i * a->n_classes, a->n_classes,
                            a->train_labels[first + i], 1.0 / (double)a->n_train);
        TRY(add_gradient(l, x, n));
    }
    TRY(l->device->copy_out(l->device, l->host_weight, l->d_weight, l->n * sizeof(float)));
    TRY(l->device->synchronize(l->device));
    for (size_t i = 0; i < l->n; i++)
        gradient[i] = (double)l->host_weight[i] + l->lambda * w[i];
    *loss = sum / (double)a->n_train + 0.5 * l->lambda * dot(w, w, l->n);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ search */

static double *pair_of(double *pairs, const struct logistic *l, int32_t age)
{
    int32_t at = (l->newest - age + HISTORY) % HISTORY;
    return pairs + (size_t)at * l->n;
}

/* direction = - (inverse Hessian as the pairs tell it) gradient */
static void find_direction(struct logistic *l)
{
    double *d = l->direction;

    for (size_t i = 0; i < l->n; i++)
        d[i] = -l->gradient[i];
    for (int32_t age = 0; age < l->n_pairs; age++) {
        const double *s = pair_of(l->s, l, age), *y = pair_of(l->y, l, age);
        l->alpha[age] = dot(s, d, l->n) / dot(s, y, l->n);
        for (size_t i = 0; i < l->n; i++)
            d[i] -= l->alpha[age] * y[i];
    }
    if (l->n_pairs > 0) {
        const double *s = pair_of(l->s, l, 0), *y = pair_of(l->y, l, 0);
        double scale = dot(s, y, l->n) / dot(y, y, l->n);
        for (size_t i = 0; i < l->n; i++)
            d[i] *= scale;
    }
    for (int32_t age = l->n_pairs - 1; age >= 0; age--) {
        const double *s = pair_of(l->s, l, age), *y = pair_of(l->y, l, age);
        double beta = dot(y, d, l->n) / dot(s, y, l->n);
        for (size_t i = 0; i < l->n; i++)
            d[i] += (l->alpha[age] - beta) * s[i];
    }
}

/* Remembers the step from w to next, unless rounding has left nothing of its curvature. */
static void remember(struct logistic *l)
{
    int32_t at = (l->newest + 1) % HISTORY;
    double *s = l->s + (size_t)at * l->n, *y = l->y + (size_t)at * l->n;

    for (size_t i = 0; i < l->n; i++) {
        s[i] = l->next[i] - l->w[i];
        y[i] = l->next_gradient[i] - l->gradient[i];
    }
    if (dot(s, y, l->n) <= 1e-10 * sqrt(dot(s, s, l->n) * dot(y, y, l->n)))
        return;
    l->newest = at;
    l->n_pairs = l->n_pairs < HISTORY ? l->n_pairs + 1 : HISTORY;
}

/* One step downhill from w, whose loss and gradient are known. *moved: false when there is no lower
 * point to be seen in float32. */
static enum status descend(struct logistic *l, double *loss, bool *moved)
{
    find_direction(l);
    double slope = dot(l->direction, l->gradient, l->n), lower = *loss;
    double step = l->n_pairs > 0 ? 1.0 : 1.0 / sqrt(dot(l->gradient, l->gradient, l->n));

    *moved = false;
    for (int halving = 0; halving < MAX_HALVINGS && !*moved; halving++, step *= 0.5) {
        for (size_t i = 0; i < l->n; i++)
            l->next[i] = l->w[i] + step * l->direction[i];
        TRY(evaluate(l, l->next, &lower, l->next_gradient));
        *moved = lower <= *loss + 1e-4 * step * slope;
    }
    if (!*moved)
        return STATUS_OK;
    remember(l);
    *loss = lower;
    double *w = l->w, *gradient = l->gradient;
    l->w = l->next;
    l->gradient = l->next_gradient;
    l->next = w;
    l->next_gradient = gradient;
    return STATUS_OK;
}

static enum status fit(struct logistic *l, double norm_at_zero, struct logistic_result *result)
{
    bool moved = true;

    l->lambda = result->lambda;
    l->n_pairs = 0;
    TRY(evaluate(l, l->w, &result->loss, l->gradient));
    for (result->n_iterations = 0;; result->n_iterations++) {
        result->gradient_norm = sqrt(dot(l->gradient, l->gradient, l->n)) / norm_at_zero;
        if (!moved || result->gradient_norm <= l->args->tolerance ||
            result->n_iterations == l->args->max_iterations)
            return STATUS_OK;
        if (l->args->stop != NULL && atomic_load(l->args->stop) != 0)
            FAIL(STATUS_INTERRUPTED, "interrupted");
        TRY(descend(l, &result->loss, &moved));
    }
}

/* ------------------------------------------------------------------------------ accuracy */

static enum status count_hits(struct logistic *l, struct logistic_result *result)
{
    const struct logistic_args *a = l->args;

    result->top1 = result->top5 = 0.0;
    TRY(put_weight(l, l->w));
    for (int64_t first = 0; first < a->n_test; first += CHUNK) {
        int64_t n = a->n_test - first < CHUNK ? a->n_test - first : CHUNK;
        TRY(l->device->copy_in(l->device, l->rows, a->test + first * a->dim,
                               (size_t)(n * a->dim) * sizeof(float)));
        TRY(make_logits(l, l->rows, n));
        for (int64_t i = 0; i < n; i++) {
            const float *logits = l->host_logits + i * a->n_classes;
            int32_t label = a->test_labels[first + i], rank = 0;
            for (int32_t c = 0; c < a->n_classes; c++)
                rank += !(logits[label] > logits[c] || (logits[label] == logits[c] && label <= c));
            result->top1 += rank < 1;
            result->top5 += rank < 5;
        }
    }
    result->top1 *= 100.0 / (double)a->n_test;
    result->top5 *= 100.0 / (double)a->n_test;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ memory */

static enum status on_device(struct logistic *l, float **out, size_t n)
{
    return l->device->alloc(l->device, (void **)out, n * sizeof(float), "logistic regression");
}

static enum status on_host(double **out, size_t n)
{
    return memory_alloc(out, n, sizeof(double), "logistic regression");
}

static enum status open_work(struct logistic *l)
{
    const struct logistic_args *a = l->args;
    size_t dim = (size_t)a->dim, classes = (size_t)a->n_classes, train = (size_t)a->n_train * dim;

    TRY(on_device(l, &l->train, train));
    TRY(on_device(l, &l->rows, CHUNK * dim));
    TRY(on_device(l, &l->weight, l->n));
    TRY(on_device(l, &l->d_weight, l->n));
    TRY(on_device(l, &l->logits, CHUNK * classes));
    TRY(memory_alloc(&l->host_logits, CHUNK * classes, sizeof(float), "logits"));
    TRY(memory_alloc(&l->host_weight, l->n, sizeof(float), "weights"));
    double **vectors[] = {&l->w, &l->gradient, &l->next, &l->next_gradient, &l->direction};
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
        TRY(on_host(vectors[i], l->n));
    TRY(on_host(&l->s, HISTORY * l->n));
    TRY(on_host(&l->y, HISTORY * l->n));
    memset(l->w, 0, l->n * sizeof(double));
    return l->device->copy_in(l->device, l->train, a->train, train * sizeof(float));
}

static void release_work(struct logistic *l)
{
    float *device[] = {l->train, l->rows, l->weight, l->d_weight, l->logits};
    double *host[] = {l->w, l->gradient, l->next, l->next_gradient, l->direction, l->s, l->y};

    for (size_t i = 0; i < sizeof(device) / sizeof(device[0]); i++)
        l->device->free(l->device, device[i]);
    for (size_t i = 0; i < sizeof(host) / sizeof(host[0]); i++)
        memory_free(host[i]);
    memory_free(l->host_logits);
    memory_free(l->host_weight);
}

enum status logistic_classify(struct device *device, const struct op_table *ops,
                              const struct logistic_args *args)
{
    struct logistic l = {.device = device, .ops = ops, .args = args};
    double loss;
    enum status status;

    for (int32_t r = 0; r < args->n_results; r++)
        if (!(args->results[r].lambda > 0.0))
            FAIL(STATUS_INVALID, "logistic regression with lambda = %g: wanted more than 0",
                 args->results[r].lambda);
    l.n = (size_t)args->n_classes * (size_t)args->dim;
    TRY_OUT(open_work(&l));
    TRY_OUT(evaluate(&l, l.w, &loss, l.gradient));
    double norm_at_zero = fmax(sqrt(dot(l.gradient, l.gradient, l.n)), 1e-30);
    for (int32_t r = 0; r < args->n_results; r++) {
        TRY_OUT(fit(&l, norm_at_zero, &args->results[r]));
        TRY_OUT(count_hits(&l, &args->results[r]));
        for (size_t i = 0; i < l.n && args->weight != NULL; i++)
            args->weight[(size_t)r * l.n + i] = (float)l.w[i];
    }
out:
    release_work(&l);
    return status;
}
