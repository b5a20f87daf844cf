/* The tensors of a head, under the names that head_bind asks for, in one flat array. With a batch
 * norm, which at this point is a scale and a shift, it becomes a head without: the linear layers
 * before it take both. */
#include "trainer/eval/prototypes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"
#include "trainer/model/head.h"

enum { ROWS = 256 }; /* features at a time */

static const double norm_eps = 1e-5;

struct prototypes {
    struct backend *backend; /* borrowed */
    struct head head;
    struct workspace workspace;
    struct param_table table;
    float *parameters, *x, *logits; /* device */
    int32_t *index;                 /* device */
};

/* ------------------------------------------------------------------------------ tensors */

/* A tensor of the head by its official name; NULL when there is none. */
static const struct weight_entry *find(const struct weight_selection *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *have = s->tensors[i].name;
        if (strncmp(have, "module.", 7) == 0)
            have += 7;
        if (!s->tensors[i].backbone && strcmp(have, name) == 0)
            return s->tensors[i].entry;
    }
    return NULL;
}

/* A tensor that must be there with this shape; 0: any. */
static enum status need(const struct weight_selection *s, const char *name, int32_t rank,
                        int64_t rows, int64_t columns, const struct weight_entry **out)
{
    const struct weight_entry *entry = find(s, name);
    char got[160], wanted[160];

    if (entry == NULL)
        FAIL(STATUS_MISMATCH,
             "weights file '%s', key '%s': there is no '%s', so no projection head; give a run, "
             "a whole checkpoint, or what ibot-convert --with_head made of one",
             s->file->path, s->key, name);
    if (entry->rank != rank || entry->shape[0] < 1 || (rows > 0 && entry->shape[0] != rows) ||
        (rank == 2 && (entry->shape[1] < 1 || (columns > 0 && entry->shape[1] != columns))))
        FAIL(STATUS_MISMATCH,
             "weights file '%s': tensor '%s' of the projection head has shape %s, wanted %s (0: "
             "any)",
             s->file->path, name, weight_shape_text(entry->rank, entry->shape, got, sizeof(got)),
             weight_shape_text(rank, (const int64_t[]){rows, columns}, wanted, sizeof(wanted)));
    *out = entry;
    return STATUS_OK;
}

static enum status add(struct prototypes *p, const char *name, int64_t rows, int64_t columns)
{
    struct param_table *t = &p->table;

    TRY(memory_grow(&t->params, &t->capacity, t->n_params + 1, sizeof(*t->params), "head"));
    struct param *param = &t->params[t->n_params++];
    *param = (struct param){.rank = columns > 0 ? 2 : 1,
                            .shape = {rows, columns > 0 ? columns : 1, 1, 1},
                            .n = rows * (columns > 0 ? columns : 1),
                            .offset = t->n_elements};
    snprintf(param->name, sizeof(param->name), "%s", name);
    t->n_elements += (param->n + 15) / 16 * 16;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ planning */

/* Widths and the kind of norm, from the shapes; the table of what head_bind asks for. */
static enum status read_shapes(struct prototypes *p, const struct weight_selection *s,
                               int32_t width, struct head_options *out, bool *batchnorm)
{
    bool norm = find(s, "head.mlp.1.weight") != NULL;
    const char *last = norm ? "head.mlp.6.weight" : "head.mlp.4.weight";
    const struct weight_entry *entry;

    *batchnorm = norm && find(s, "head.mlp.1.running_mean") != NULL;
    TRY(need(s, "head.mlp.0.weight", 2, 0, width, &entry));
    int64_t hidden = entry->shape[0];
    TRY(need(s, last, 2, 0, hidden, &entry));
    int64_t bottleneck = entry->shape[0];
    TRY(need(s, "head.last_layer.weight_v", 2, 0, bottleneck, &entry));
    out->hidden_dim = (int32_t)hidden;
    out->bottleneck_dim = (int32_t)bottleneck;
    out->out_dim = out->patch_out_dim = (int32_t)entry->shape[0];
    out->norm = norm && !*batchnorm ? HEAD_NORM_LN : HEAD_NORM_NONE;
    bool ln = out->norm == HEAD_NORM_LN;
    TRY(add(p, "head.mlp.0.weight", hidden, width));
    TRY(add(p, "head.mlp.0.bias", hidden, 0));
    if (ln) {
        TRY(add(p, "head.mlp.1.weight", hidden, 0));
        TRY(add(p, "head.mlp.1.bias", hidden, 0));
    }
    TRY(add(p, ln ? "head.mlp.3.weight" : "head.mlp.2.weight", hidden, hidden));
    TRY(add(p, ln ? "head.mlp.3.bias" : "head.mlp.2.bias", hidden, 0));
    TRY(add(p, ln ? "head.mlp.6.weight" : "head.mlp.4.weight", bottleneck, hidden));
    TRY(add(p, ln ? "head.mlp.6.bias" : "head.mlp.4.bias", bottleneck, 0));
    TRY(add(p, "head.last_layer.weight_g", out->out_dim, 1));
    return add(p, "head.last_layer.weight_v", out->out_dim, bottleneck);
}

static enum status plan(struct prototypes *p, const struct head_options *options, int32_t width)
{
    struct backend *b = p->backend;

    TRY(plan_floats(&p->workspace, &p->parameters, p->table.n_elements));
    TRY(plan_floats(&p->workspace, &p->x, (int64_t)ROWS * width));
    TRY(plan_floats(&p->workspace, &p->logits, (int64_t)ROWS * options->out_dim));
    TRY(workspace_reserve(&p->workspace, &p->index, ROWS * sizeof(int32_t)));
    TRY(head_plan(&p->head, &b->device, b->ops, &b->collective, options, DTYPE_F32, width, ROWS,
                  false, &p->workspace));
    return workspace_commit(&p->workspace, &b->device, "projection head");
}

/* ------------------------------------------------------------------------------ values */

/* What the file calls a parameter of the table: with a batch norm its layers stand further apart.
 */
static const char *stored_name(const char *name, bool batchnorm)
{
    static const char *const names[][2] = {
        {"head.mlp.2.weight", "head.mlp.3.weight"},
        {"head.mlp.2.bias", "head.mlp.3.bias"},
        {"head.mlp.4.weight", "head.mlp.6.weight"},
        {"head.mlp.4.bias", "head.mlp.6.bias"},
    };

    for (size_t i = 0; batchnorm && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i][0]) == 0)
            return names[i][1];
    return name;
}

static enum status read_values(const struct prototypes *p, const struct weight_selection *s,
                               bool batchnorm, float *out)
{
    const struct weight_entry *entry;

    for (size_t i = 0; i < p->table.n_params; i++) {
        const struct param *param = &p->table.params[i];
        TRY(need(s, stored_name(param->name, batchnorm), param->rank, param->shape[0],
                 param->shape[1], &entry));
        TRY(weight_file_read_f32(s->file, entry, out + param->offset));
    }
    return STATUS_OK;
}

static enum status read_vector(const struct weight_selection *s, const char *name, float *out,
                               int64_t n)
{
    const struct weight_entry *entry;

    TRY(need(s, name, 1, n, 0, &entry));
    return weight_file_read_f32(s->file, entry, out);
}

/* gamma (W x + b - mean) / sqrt(var + eps) + beta, as one layer: for both of them, since the norm
 * is one module. */
static enum status fold_batchnorm(const struct prototypes *p, const struct weight_selection *s,
                                  float *values)
{
    static const char *const layers[][2] = {{"head.mlp.0.weight", "head.mlp.0.bias"},
                                            {"head.mlp.2.weight", "head.mlp.2.bias"}};
    int64_t n = p->head.options.hidden_dim;
    float *norm; /* gamma, beta, mean, var */
    enum status status;

    TRY(memory_alloc(&norm, 4 * (size_t)n, sizeof(*norm), "batch norm"));
    float *gamma = norm, *beta = norm + n, *mean = norm + 2 * n, *var = norm + 3 * n;
    TRY_OUT(read_vector(s, "head.mlp.1.weight", gamma, n));
    TRY_OUT(read_vector(s, "head.mlp.1.bias", beta, n));
    TRY_OUT(read_vector(s, "head.mlp.1.running_mean", mean, n));
    TRY_OUT(read_vector(s, "head.mlp.1.running_var", var, n));
    for (int layer = 0; layer < 2; layer++) {
        struct tensor weight = param_tensor(&p->table, values, layers[layer][0]);
        float *w = weight.data, *b = param_tensor(&p->table, values, layers[layer][1]).data;
        for (int64_t row = 0; row < n; row++) {
            double scale = (double)gamma[row] / sqrt((double)var[row] + norm_eps);
            for (int64_t j = 0; j < weight.shape[1]; j++)
                w[row * weight.shape[1] + j] =
                    (float)(scale * (double)w[row * weight.shape[1] + j]);
            b[row] = (float)(scale * ((double)b[row] - (double)mean[row]) + (double)beta[row]);
        }
    }
out:
    memory_free(norm);
    return status;
}

static enum status load(struct prototypes *p, const struct weight_selection *s, bool batchnorm)
{
    struct device *device = &p->backend->device;
    int64_t n = p->table.n_elements;
    enum status status;
    float *values;

    TRY(memory_alloc(&values, (size_t)n, sizeof(*values), "projection head"));
    TRY_OUT(read_values(p, s, batchnorm, values));
    if (batchnorm)
        TRY_OUT(fold_batchnorm(p, s, values));
    TRY_OUT(device->copy_in(device, p->parameters, values, (size_t)n * sizeof(*values)));
    TRY_OUT(device->synchronize(device));
    struct binder binder = {&p->table, p->parameters, NULL, vector(p->parameters, n)};
    TRY_OUT(head_bind(&p->head, &binder));
    status = head_prepare(&p->head);
out:
    memory_free(values);
    return status;
}

/* ------------------------------------------------------------------------------ interface */

enum status prototypes_open(struct prototypes **out, struct backend *backend,
                            const struct weight_selection *selection, int32_t width, bool relu)
{
    struct head_options options = {.shared_student = true,
                                   .shared_teacher = true,
                                   .activation = relu ? ACTIVATION_RELU : ACTIVATION_GELU};
    bool batchnorm = false;
    enum status status;

    TRY(memory_alloc(out, 1, sizeof(**out), "projection head"));
    struct prototypes *p = *out;
    p->backend = backend;
    TRY_OUT(read_shapes(p, selection, width, &options, &batchnorm));
    TRY_OUT(plan(p, &options, width));
    TRY_OUT(load(p, selection, batchnorm));
out:
    if (status != STATUS_OK)
        prototypes_close(out);
    return status;
}

int32_t prototypes_count(const struct prototypes *prototypes)
{
    return prototypes->head.options.out_dim;
}

enum status prototypes_assign(struct prototypes *p, const float *features, int64_t n,
                              int32_t *cluster)
{
    struct device *device = &p->backend->device;
    int64_t width = p->head.width, k = p->head.options.out_dim;

    for (int64_t first = 0; first < n; first += ROWS) {
        int64_t rows = n - first < ROWS ? n - first : ROWS;
        struct rows_argmax_args argmax = {matrix(p->logits, rows, k),
                                          tensor_1d(p->index, DTYPE_I32, rows)};
        TRY(device->copy_in(device, p->x, features + first * width,
                            (size_t)(rows * width) * sizeof(float)));
        TRY(head_forward(&p->head, vector(p->x, rows * width), rows));
        TRY(head_exact_logits(&p->head, false, p->head.z, rows, p->logits));
        TRY(p->backend->ops->rows_argmax(device, &argmax));
        TRY(device->copy_out(device, cluster + first, p->index, (size_t)rows * sizeof(int32_t)));
        TRY(device->synchronize(device));
    }
    return STATUS_OK;
}

void prototypes_close(struct prototypes **prototypes)
{
    struct prototypes *p = prototypes != NULL ? *prototypes : NULL;

    if (p == NULL)
        return;
    workspace_release(&p->workspace);
    param_table_release(&p->table);
    memory_free(p);
    *prototypes = NULL;
}
