/* golden_numerics FILE: position interpolation, the optimizers and weighted k-NN against a file of
 * the layout of tests/data/golden/numerics.safetensors (its metadata says how it was made). Prints
 * the worst tensor of each part and its error; exit status 0 only when every tensor is within 1e-5
 * of its largest magnitude, k-NN exactly, and every tensor of the file was looked at. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/op_table.h"
#include "proto/base/memory.h"
#include "trainer/eval/knn.h"
#include "trainer/weights/safetensors.h"

enum { MAX_PARAMETERS = 64, MAX_STEPS = 1000, MAX_K = 64 };
static const double limit = 1e-5;

/* One part of the file. */
struct part {
    const char *name;
    int n_tensors;
    double worst;
    char tensor[128];
};

struct check {
    struct safetensors file;
    struct device device;
    size_t n_seen; /* tensors of the file */
};

static enum status find(struct check *c, const char *name, enum dtype dtype,
                        const struct safetensors_entry **out)
{
    *out = safetensors_find(&c->file, name);
    if (*out == NULL)
        FAIL(STATUS_NOT_FOUND, "%s: no tensor '%s'", c->file.path, name);
    if ((*out)->tensor.data == NULL || (*out)->tensor.dtype != dtype)
        FAIL(STATUS_CORRUPT, "%s: tensor '%s' is %s", c->file.path, name, (*out)->file_dtype);
    c->n_seen++;
    return STATUS_OK;
}

static void compare(struct part *part, const char *name, const float *got,
                    const struct tensor *wanted)
{
    const float *want = wanted->data;
    double largest = 1e-30, worst = 0.0;

    for (int64_t i = 0; i < tensor_n_elements(wanted); i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < tensor_n_elements(wanted); i++) {
        double error = fabs((double)got[i] - (double)want[i]) / largest;
        worst = error <= worst ? worst : isnan(error) ? INFINITY : error;
    }
    if (part->n_tensors++ == 0 || worst > part->worst) {
        part->worst = worst;
        snprintf(part->tensor, sizeof(part->tensor), "%s", name);
    }
}

/* ------------------------------------------------------------------------------ positions */

/* pos_embedN_toG from pos_embedN. */
static enum status check_position(struct check *c, const struct safetensors_entry *wanted, int n,
                                  int size, struct part *part)
{
    char name[32];
    const struct safetensors_entry *grid;
    struct tensor out;
    enum status status;

    snprintf(name, sizeof(name), "pos_embed%d", n);
    TRY(find(c, name, DTYPE_F32, &grid));
    c->n_seen--; /* counted when it comes by itself */
    int64_t d = wanted->file_shape[2];
    if (n < 1 || size < 1 || n > 4096 || size > 4096 || wanted->file_rank != 3 || d < 1 ||
        tensor_n_elements(&wanted->tensor) != (int64_t)size * size * d ||
        tensor_n_elements(&grid->tensor) != (int64_t)n * n * d)
        FAIL(STATUS_CORRUPT, "%s: shapes of '%s' and '%s'", c->file.path, name, wanted->name);
    out = tensor_2d(NULL, DTYPE_F32, (int64_t)size * size, d);
    TRY(memory_alloc(&out.data, tensor_size_bytes(&out), 1, "positions"));
    struct position_interpolate_args args = {
        tensor_2d(grid->tensor.data, DTYPE_F32, (int64_t)n * n, d), out, n, size, size, false};
    TRY_OUT(op_table_cpu.position_interpolate(&c->device, &args));
    compare(part, wanted->name, out.data, &wanted->tensor);
out:
    memory_free(out.data);
    return status;
}

static enum status check_positions(struct check *c, struct part *part)
{
    for (size_t i = 0; i < c->file.n_entries; i++) {
        const struct safetensors_entry *entry = &c->file.entries[i];
        int n, size, end = 0;
        if (sscanf(entry->name, "pos_embed%d_to%d%n", &n, &size, &end) == 2 &&
            entry->name[end] == '\0') {
            TRY(find(c, entry->name, DTYPE_F32, &entry));
            TRY(check_position(c, entry, n, size, part));
        } else if (sscanf(entry->name, "pos_embed%d%n", &n, &end) == 1 &&
                   entry->name[end] == '\0') {
            c->n_seen++;
        }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ optimizers */

struct run {
    struct segment segments[MAX_PARAMETERS];
    double norms[MAX_PARAMETERS];
    int32_t n;
    int64_t total;
    float *parameter, *gradient, *moment1, *moment2;
};

static void close_run(struct run *run)
{
    memory_free(run->parameter);
    memory_free(run->gradient);
    memory_free(run->moment1);
    memory_free(run->moment2);
}

/* optim/param0 …: one segment each; what has one dimension is not decayed. */
static enum status open_run(struct check *c, struct run *run)
{
    const struct safetensors_entry *entry;
    char name[64];
    size_t seen = c->n_seen;

    memset(run, 0, sizeof(*run));
    for (;; run->n++) {
        snprintf(name, sizeof(name), "optim/param%d", run->n);
        if (run->n == MAX_PARAMETERS || safetensors_find(&c->file, name) == NULL)
            break;
        TRY(find(c, name, DTYPE_F32, &entry));
        run->segments[run->n] = (struct segment){
            .offset = run->total,
            .n = tensor_n_elements(&entry->tensor),
            .teacher_offset = -1,
            .flags = entry->file_rank == 1 ? SEGMENT_VECTOR : SEGMENT_DECAY,
        };
        run->total += run->segments[run->n].n;
    }
    c->n_seen = seen; /* counted once, by the caller */
    TRY(memory_alloc(&run->parameter, (size_t)run->total, sizeof(float), "parameters"));
    TRY(memory_alloc(&run->gradient, (size_t)run->total, sizeof(float), "gradients"));
    TRY(memory_alloc(&run->moment1, (size_t)run->total, sizeof(float), "moments"));
    TRY(memory_alloc(&run->moment2, (size_t)run->total, sizeof(float), "moments"));
    for (int32_t i = 0; i < run->n; i++) {
        snprintf(name, sizeof(name), "optim/param%d", i);
        memcpy(run->parameter + run->segments[i].offset,
               safetensors_find(&c->file, name)->tensor.data,
               (size_t)run->segments[i].n * sizeof(float));
    }
    return STATUS_OK;
}

static enum status load_gradients(struct check *c, struct run *run, int step)
{
    const struct safetensors_entry *entry;
    char name[64];

    for (int32_t i = 0; i < run->n; i++) {
        snprintf(name, sizeof(name), "optim/grad%d_%d", step, i);
        TRY(find(c, name, DTYPE_F32, &entry));
        c->n_seen--;
        if (tensor_n_elements(&entry->tensor) != run->segments[i].n)
            FAIL(STATUS_CORRUPT, "%s: shape of '%s'", c->file.path, name);
        memcpy(run->gradient + run->segments[i].offset, entry->tensor.data,
               (size_t)run->segments[i].n * sizeof(float));
    }
    return STATUS_OK;
}

static enum status take_step(struct check *c, struct run *run, int step, enum optimizer_kind kind)
{
    struct step_control control = {
        .lr = (float)(0.01 * (step + 1)),
        .weight_decay = (float)(0.1 * (step + 1)),
        .step = step,
        .last_layer_step = step,
    };
    struct optimizer_step_args args = {
        .parameter = tensor_1d(run->parameter, DTYPE_F32, run->total),
        .gradient = tensor_1d(run->gradient, DTYPE_F32, run->total),
        .moment1 = tensor_1d(run->moment1, DTYPE_F32, run->total),
        .moment2 = tensor_1d(run->moment2, DTYPE_F32, run->total),
        .norms = tensor_1d(run->norms, DTYPE_F64, run->n),
        .segments = run->segments,
        .control = &control,
        .n_segments = run->n,
        .kind = kind,
    };
    struct gradient_norms_args norms = {args.gradient, args.norms, args.segments, run->n};

    TRY(op_table_cpu.gradient_norms(&c->device, &norms));
    return op_table_cpu.optimizer_step(&c->device, &args);
}

static enum status run_optimizer(struct check *c, const char *kind_name, enum optimizer_kind kind,
                                 struct part *part)
{
    const struct safetensors_entry *entry;
    char name[96];
    struct run run;
    enum status status = open_run(c, &run);

    for (int step = 0; status == STATUS_OK && step < MAX_STEPS; step++) {
        snprintf(name, sizeof(name), "optim/%s/step%d_0", kind_name, step);
        if (run.n == 0 || safetensors_find(&c->file, name) == NULL)
            break;
        TRY_OUT(load_gradients(c, &run, step));
        TRY_OUT(take_step(c, &run, step, kind));
        for (int32_t i = 0; i < run.n; i++) {
            snprintf(name, sizeof(name), "optim/%s/step%d_%d", kind_name, step, i);
            TRY_OUT(find(c, name, DTYPE_F32, &entry));
            if (tensor_n_elements(&entry->tensor) != run.segments[i].n)
                FAIL_OUT(STATUS_CORRUPT, "%s: shape of '%s'", c->file.path, name);
            compare(part, name, run.parameter + run.segments[i].offset, &entry->tensor);
        }
    }
out:
    close_run(&run);
    return status;
}

static enum status check_optimizers(struct check *c, struct part *part)
{
    for (size_t i = 0; i < c->file.n_entries; i++)
        c->n_seen += strncmp(c->file.entries[i].name, "optim/param", 11) == 0 ||
                     strncmp(c->file.entries[i].name, "optim/grad", 10) == 0;
    TRY(run_optimizer(c, "adamw", OPTIMIZER_ADAMW, part));
    TRY(run_optimizer(c, "sgd", OPTIMIZER_SGD, part));
    return run_optimizer(c, "lars", OPTIMIZER_LARS, part);
}

/* ------------------------------------------------------------------------------ k-NN */

/* The labels' common number of classes. */
static enum status count_classes(struct check *c, const struct safetensors_entry *labels, int64_t n,
                                 int32_t *n_classes)
{
    const int32_t *values = labels->tensor.data;

    if (tensor_n_elements(&labels->tensor) != n)
        FAIL(STATUS_CORRUPT, "%s: shape of '%s'", c->file.path, labels->name);
    for (int64_t i = 0; i < n; i++) {
        if (values[i] < 0 || values[i] > 1000000)
            FAIL(STATUS_CORRUPT, "%s: '%s' has a label %d", c->file.path, labels->name, values[i]);
        *n_classes = values[i] >= *n_classes ? values[i] + 1 : *n_classes;
    }
    return STATUS_OK;
}

static void compare_knn(struct part *part, const struct knn_result *got, int64_t n_test,
                        const double *want)
{
    char name[128];
    double percent = 100.0 / (double)n_test;
    double top1 = (double)got->top1 * percent, top5 = (double)got->top5 * percent;
    double error = fmax(fabs(top1 - want[1]), fabs(top5 - want[2]));

    snprintf(name, sizeof(name), "knn, k = %d: top-1 %.6f (%.6f), top-5 %.6f (%.6f)", got->k, top1,
             want[1], top5, want[2]);
    /* percentages of whole counts: what is left below 1e-9 is the last bit of a division */
    error = error < 1e-9 ? 0.0 : isnan(error) ? INFINITY : error;
    if (part->n_tensors++ == 0 || error > part->worst) {
        part->worst = error;
        snprintf(part->tensor, sizeof(part->tensor), "%s", name);
    }
}

static enum status check_knn(struct check *c, struct part *part)
{
    const struct safetensors_entry *train, *test, *train_labels, *test_labels, *wanted;
    struct knn_result results[MAX_K];
    int32_t n_classes = 0;

    if (safetensors_find(&c->file, "knn/k_top1_top5") == NULL)
        return STATUS_OK;
    TRY(find(c, "knn/train", DTYPE_F32, &train));
    TRY(find(c, "knn/test", DTYPE_F32, &test));
    TRY(find(c, "knn/train_labels", DTYPE_I32, &train_labels));
    TRY(find(c, "knn/test_labels", DTYPE_I32, &test_labels));
    TRY(find(c, "knn/k_top1_top5", DTYPE_F64, &wanted));
    if (train->file_rank != 2 || test->file_rank != 2 || wanted->file_rank != 2 ||
        train->file_shape[1] != test->file_shape[1] || wanted->file_shape[1] != 3 ||
        wanted->file_shape[0] > MAX_K)
        FAIL(STATUS_CORRUPT, "%s: shapes of knn/…", c->file.path);
    TRY(count_classes(c, train_labels, train->file_shape[0], &n_classes));
    TRY(count_classes(c, test_labels, test->file_shape[0], &n_classes));
    const double *rows = wanted->tensor.data;
    struct knn_args args = {
        .train = train->tensor.data,
        .test = test->tensor.data,
        .train_labels = train_labels->tensor.data,
        .test_labels = test_labels->tensor.data,
        .n_train = train->file_shape[0],
        .n_test = test->file_shape[0],
        .dim = (int32_t)train->file_shape[1],
        .n_classes = n_classes,
        .temperature = 0.07f,
        .results = results,
        .n_results = (int32_t)wanted->file_shape[0],
    };
    for (int32_t i = 0; i < args.n_results; i++)
        results[i].k = (int32_t)rows[3 * i];
    TRY(knn_classify(&c->device, &op_table_cpu, &args));
    for (int32_t i = 0; i < args.n_results; i++)
        compare_knn(part, &results[i], test->file_shape[0], rows + (ptrdiff_t)3 * i);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ program */

static bool report(const struct part *part, double allowed)
{
    if (part->n_tensors == 0) {
        printf("%-10s not in this file\n", part->name);
        return true;
    }
    bool good = part->worst <= allowed;
    printf("%-10s %3d values  worst %.3g  %s  %s\n", part->name, part->n_tensors, part->worst,
           good ? "ok   " : "WRONG", part->tensor);
    return good;
}

int main(int argc, char **argv)
{
    struct check c = {0};
    struct part positions = {.name = "positions"}, optimizers = {.name = "optimizers"};
    struct part knn = {.name = "k-NN"};
    bool good = false;

    if (argc != 2) {
        fprintf(stderr, "usage: %s FILE\n", argv[0]);
        return 2;
    }
    enum status status = safetensors_open(&c.file, argv[1]);
    if (status == STATUS_OK)
        status = device_open_cpu(&c.device, 0);
    if (status == STATUS_OK)
        status = check_positions(&c, &positions);
    if (status == STATUS_OK)
        status = check_optimizers(&c, &optimizers);
    if (status == STATUS_OK)
        status = check_knn(&c, &knn);
    if (status == STATUS_OK) {
        good = report(&positions, limit);
        good = report(&optimizers, limit) && good;
        good = report(&knn, 0.0) && good;
        if (positions.n_tensors + optimizers.n_tensors + knn.n_tensors == 0 ||
            c.n_seen != c.file.n_entries) {
            printf("%zu of %zu tensors have a known name\n", c.n_seen, c.file.n_entries);
            good = false;
        }
    } else {
        fprintf(stderr, "%s\n", status_message());
    }
    device_close(&c.device);
    safetensors_release(&c.file);
    return good ? 0 : 1;
}
