/* A head apart from its network: its tensors, under the names that head_bind asks for, lie in one
 * flat array. */
#include "trainer/eval/prototypes.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"
#include "trainer/model/head.h"

enum { ROWS = 256 }; /* features at a time */

struct prototypes {
    struct backend *backend; /* borrowed */
    struct head head;
    struct workspace workspace;
    struct param_table table;
    float *parameters, *x, *logits; /* device */
    int32_t *index;                 /* device */
};

/* ------------------------------------------------------------------------------ planning */

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

static enum status add_layer(struct prototypes *p, int place, int64_t n_out, int64_t n_in)
{
    char name[32];

    snprintf(name, sizeof(name), "head.mlp.%d.weight", place);
    TRY(add(p, name, n_out, n_in));
    snprintf(name, sizeof(name), "head.mlp.%d.bias", place);
    return add(p, name, n_out, 0);
}

/* The table of what head_bind asks for. */
static enum status add_all(struct prototypes *p, const struct head_options *o, int32_t width)
{
    bool norm = o->norm != HEAD_NORM_NONE;

    TRY(add_layer(p, 0, o->hidden_dim, width));
    if (norm) { /* of the shape of a bias, both */
        TRY(add(p, "head.mlp.1.weight", o->hidden_dim, 0));
        TRY(add(p, "head.mlp.1.bias", o->hidden_dim, 0));
    }
    TRY(add_layer(p, norm ? 3 : 2, o->hidden_dim, o->hidden_dim));
    TRY(add_layer(p, norm ? 6 : 4, o->bottleneck_dim, o->hidden_dim));
    TRY(add(p, "head.last_layer.weight_g", o->out_dim, 1));
    return add(p, "head.last_layer.weight_v", o->out_dim, o->bottleneck_dim);
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

static enum status load(struct prototypes *p, const struct pretrained *pretrained)
{
    struct device *device = &p->backend->device;
    int64_t n = p->table.n_elements;
    enum status status;
    float *values;

    TRY(memory_alloc(&values, (size_t)n, sizeof(*values), "projection head"));
    for (size_t i = 0; i < p->table.n_params; i++) {
        struct tensor to = param_tensor_at(&p->table, values, i);
        TRY_OUT(pretrained_head_read(pretrained, p->table.params[i].name + strlen("head."), &to,
                                     to.data));
    }
    TRY_OUT(device->copy_in(device, p->parameters, values, (size_t)n * sizeof(*values)));
    TRY_OUT(device->synchronize(device));
    struct binder binder = {&p->table, p->parameters, NULL, vector(p->parameters, n), 0};
    TRY_OUT(head_bind(&p->head, &binder));
    status = head_prepare(&p->head);
out:
    memory_free(values);
    return status;
}

/* ------------------------------------------------------------------------------ interface */

enum status prototypes_open(struct prototypes **out, struct backend *backend,
                            const struct pretrained *pretrained, int32_t width)
{
    struct head_options options;
    enum status status;

    TRY(pretrained_head_options(pretrained, &options));
    options.shared_student = options.shared_teacher = true; /* no patch comes to it */
    TRY(memory_alloc(out, 1, sizeof(**out), "projection head"));
    (*out)->backend = backend;
    TRY_OUT(add_all(*out, &options, width));
    TRY_OUT(plan(*out, &options, width));
    TRY_OUT(load(*out, pretrained));
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
