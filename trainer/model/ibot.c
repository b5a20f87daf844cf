/* Opening: options checked, tables built, memory planned; initial weights; state for checkpoints.
 */
#include "trainer/model/ibot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/ibot_internal.h"

/* ------------------------------------------------------------------------------ options */

static enum status check_options(const struct ibot_options *o)
{
    const struct backbone_options *b = &o->backbone;
    const struct head_options *h = &o->head;

    TRY(backbone_options_check(b));
    if (o->batch_size < 1 || o->n_global < 1 || o->n_local < 0 || o->n_global + o->n_local > 64)
        FAIL(STATUS_INVALID,
             "batch %d, global crops %d, local crops %d: wanted at least 1, 1, 0 "
             "and at most 64 crops",
             o->batch_size, o->n_global, o->n_local);
    if (o->global_size_px < b->patch_size_px ||
        (o->n_local > 0 && o->local_size_px < b->patch_size_px))
        FAIL(STATUS_INVALID, "crops of %d and %d px are smaller than a patch of %d px",
             o->global_size_px, o->local_size_px, b->patch_size_px);
    if (b->n_stages > 0 && !o->inference_only && o->global_size_px % backbone_cell_px(b) != 0)
        FAIL(STATUS_INVALID,
             "global crops of %d px: mask cells of %d px, which are the tokens of %s, must divide "
             "them",
             o->global_size_px, backbone_cell_px(b), b->arch);
    if (o->global_width_px != 0 && (b->n_stages > 0 || !o->inference_only))
        FAIL(STATUS_UNSUPPORTED,
             "images of %d x %d px: %s takes squares; rectangles are for a ViT that does not train",
             o->global_width_px, o->global_size_px, b->arch);
    if (o->global_width_px != 0 && o->global_width_px < b->patch_size_px)
        FAIL(STATUS_INVALID, "images %d px wide are smaller than a patch of %d px",
             o->global_width_px, b->patch_size_px);
    if (h->shared_student != h->shared_teacher && h->out_dim != h->patch_out_dim)
        FAIL(STATUS_INVALID,
             "out_dim %d and patch_out_dim %d differ while one of shared_head and "
             "shared_head_teacher is on: make them equal, or share both or neither",
             h->out_dim, h->patch_out_dim);
    if (b->mlp_ratio < 1 || h->hidden_dim < 1 || h->bottleneck_dim < 1 || h->out_dim < 1 ||
        h->patch_out_dim < 1)
        FAIL(STATUS_INVALID,
             "mlp_ratio %d, head widths %d and %d, out_dim %d, patch_out_dim %d: each must be "
             "positive",
             b->mlp_ratio, h->hidden_dim, h->bottleneck_dim, h->out_dim, h->patch_out_dim);
    if (o->residual_stream == PRECISION_BF16 && o->precision != PRECISION_BF16)
        FAIL(STATUS_INVALID,
             "a residual stream of bf16 with precision f32: wanted f32, or bf16 for both");
    if (!(b->drop_path >= 0.0f && b->drop_path < 1.0f))
        FAIL(STATUS_INVALID, "drop_path: got %g, wanted 0 <= rate < 1", (double)b->drop_path);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ planning */

static enum status plan(struct ibot *ibot, void *pointer, int64_t n, size_t size)
{
    return workspace_reserve(&ibot->workspace, pointer, (size_t)n * size);
}

static enum status plan_network(struct ibot *ibot, struct network *network)
{
    int64_t n = network->table.n_elements;

    TRY(plan_floats(&ibot->workspace, &network->parameters, n));
    return ibot->dtype == DTYPE_F32
               ? STATUS_OK
               : plan_buffer(&ibot->workspace, &network->operands, ibot->dtype, n);
}

/* The flat arrays: parameters, gradients, moments, teacher. */
static enum status plan_parameters(struct ibot *ibot)
{
    int64_t n = ibot->student.table.n_elements;

    TRY(plan_network(ibot, &ibot->teacher));
    TRY(plan_network(ibot, &ibot->student));
    if (ibot->options.inference_only)
        return STATUS_OK;
    TRY(plan(ibot, &ibot->gradients, n, sizeof(float)));
    TRY(plan(ibot, &ibot->moment1, n, sizeof(float)));
    if (ibot->options.optimizer == OPTIMIZER_ADAMW)
        TRY(plan(ibot, &ibot->moment2, n, sizeof(float)));
    return plan(ibot, &ibot->segments, (int64_t)ibot->student.table.n_params,
                sizeof(struct segment));
}

static bool has_teacher_head(const struct ibot_options *options)
{
    return !options->inference_only || options->inference_head;
}

static enum status plan_networks(struct ibot *ibot)
{
    const struct ibot_options *o = &ibot->options;
    int64_t b = o->batch_size, p = o->backbone.patch_size_px;
    struct backbone_layout layout = {
        .n_global_images = b * o->n_global,
        .n_local_images = o->inference_only ? 0 : b * o->n_local,
        .global_size_px = o->global_size_px,
        .local_size_px = o->local_size_px,
        .global_width_px = o->global_width_px,
        .dtype = ibot->dtype,
        .stream = o->residual_stream == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32,
        .gelu = o->gelu_tanh ? ACTIVATION_GELU_TANH : ACTIVATION_GELU,
        .backward = !o->inference_only,
        .recompute = o->recompute,
        .weights_apart = o->weights_apart,
    };
    int64_t wide = o->global_width_px > 0 ? o->global_width_px : o->global_size_px;
    int64_t global = o->global_size_px / p * (wide / p), local = o->local_size_px / p;
    int64_t row = 3 * p * p;
    bool all_rows = o->head.norm == HEAD_NORM_BN;
    struct network *student = &ibot->student, *teacher = &ibot->teacher;

    TRY(backbone_plan(&student->backbone, &student->vit, &student->swin, ibot->device, ibot->ops,
                      &o->backbone, &layout, &ibot->workspace));
    TRY(plan_buffer(&ibot->workspace, &ibot->patches[0], ibot->dtype,
                    layout.n_global_images * global * row));
    TRY(plan_buffer(&ibot->workspace, &ibot->patches[1], ibot->dtype,
                    layout.n_local_images * local * local * row));
    layout.n_local_images = 0;
    layout.backward = false;
    layout.recompute = RECOMPUTE_NONE;
    TRY(backbone_plan(&teacher->backbone, &teacher->vit, &teacher->swin, ibot->device, ibot->ops,
                      &o->backbone, &layout, &ibot->workspace));
    int64_t needed = ibot->n_cls + b * o->n_global * ibot_n_patches(ibot);
    if (!o->inference_only)
        TRY(head_plan(&student->head, ibot->device, ibot->ops, ibot->collective, &o->head,
                      ibot->dtype, student->backbone.width,
                      all_rows ? student->backbone.n_tokens : needed, true, &ibot->workspace));
    if (!has_teacher_head(o))
        return STATUS_OK;
    return head_plan(&teacher->head, ibot->device, ibot->ops, ibot->collective, &o->head,
                     ibot->dtype, teacher->backbone.width, teacher->backbone.n_tokens, false,
                     &ibot->workspace);
}

/* Logits of tokens, a chunk at a time. */
static enum status plan_inference(struct ibot *ibot)
{
    const struct head_options *o = &ibot->options.head;
    int64_t widest = o->out_dim > o->patch_out_dim ? o->out_dim : o->patch_out_dim;

    return ibot->options.inference_head
               ? plan(ibot, &ibot->teacher_patch, PATCH_CHUNK * widest, sizeof(float))
               : STATUS_OK;
}

/* Rows, logits, centres, sums of a step. */
static enum status plan_step(struct ibot *ibot)
{
    const struct ibot_options *o = &ibot->options;
    int64_t b = o->batch_size, g = o->n_global, masked = ibot_patch_capacity(ibot);
    int64_t k = o->head.out_dim, bottleneck = o->head.bottleneck_dim;
    int64_t k2 = o->head.shared_student && o->head.shared_teacher ? k : o->head.patch_out_dim;
    int64_t needed = ibot->n_cls + masked, widest = k > k2 ? k : k2;
    struct constant_tables *t = &ibot->constant;

    ibot->tables_bytes = ibot_tables_layout(ibot, NULL, &ibot->tables);
    TRY(workspace_reserve(&ibot->workspace, &ibot->tables.control, ibot->tables_bytes));
    TRY(plan(ibot, &t->identity, PATCH_CHUNK, sizeof(int32_t)));
    TRY(plan(ibot, &t->cls_target, ibot->n_cls * g, sizeof(int32_t)));
    TRY(plan(ibot, &t->cls_weight, ibot->n_cls, sizeof(float)));
    if (o->head.norm == HEAD_NORM_BN)
        TRY(plan(ibot, &ibot->chosen_z, needed * bottleneck, sizeof(float)));
    TRY(plan(ibot, &ibot->teacher_z.z, (g * b + masked) * bottleneck, sizeof(float)));
    TRY(head_plan_vectors(&ibot->student_z, ibot->dtype, needed * bottleneck, true,
                          &ibot->workspace));
    TRY(plan(ibot, &ibot->d_z,
             (needed > ibot->student.backbone.n_tokens ? needed : ibot->student.backbone.n_tokens) *
                 bottleneck,
             sizeof(float)));
    TRY(head_plan_vectors(&ibot->teacher_z, ibot->dtype, (g * b + masked) * bottleneck, false,
                          &ibot->workspace));
    if (ibot->dtype != DTYPE_F32) {
        TRY(plan_buffer(&ibot->workspace, &ibot->d_cls, ibot->dtype, ibot->n_cls * k));
        TRY(plan_buffer(&ibot->workspace, &ibot->d_patch, ibot->dtype, PATCH_CHUNK * k2));
    }
    TRY(plan(ibot, &ibot->student_cls, ibot->n_cls * k, sizeof(float)));
    TRY(plan(ibot, &ibot->teacher_cls, g * b * k, sizeof(float)));
    TRY(plan(ibot, &ibot->student_patch, PATCH_CHUNK * k2, sizeof(float)));
    TRY(plan(ibot, &ibot->teacher_patch, PATCH_CHUNK * k2, sizeof(float)));
    TRY(plan(ibot, &ibot->scratch, 2 * (g * b > PATCH_CHUNK ? g * b : PATCH_CHUNK), sizeof(float)));
    TRY(plan(ibot, &ibot->centre, k, sizeof(float)));
    TRY(plan(ibot, &ibot->centre_patch, k2, sizeof(float)));
    TRY(plan(ibot, &ibot->bottleneck_mean, 2 * bottleneck, sizeof(float)));
    TRY(plan(ibot, &ibot->micro_mean, bottleneck, sizeof(float)));
    TRY(plan(ibot, &ibot->mean_logits, widest, sizeof(float)));
    ibot->numbers_bytes =
        (size_t)(N_SUMS + N_GUARDS + (int64_t)ibot->student.table.n_params) * sizeof(double);
    TRY(workspace_reserve(&ibot->workspace, &ibot->numbers.sums, ibot->numbers_bytes));
    return plan(ibot, &ibot->clusters, 2 * b, sizeof(int32_t));
}

static struct step_numbers numbers_at(double *base)
{
    return (struct step_numbers){base, base + N_SUMS, base + N_SUMS + N_GUARDS};
}

/* Pinned memory: two staging blocks, and the numbers of two steps. */
static enum status open_host(struct ibot *ibot)
{
    const struct ibot_options *o = &ibot->options;
    struct device *device = ibot->device;
    size_t clusters = 2 * (size_t)(o->batch_size * o->accumulation_steps) * sizeof(int32_t);

    ibot_tables_layout(ibot, (char *)ibot->tables.control, &ibot->tables);
    ibot->numbers = numbers_at(ibot->numbers.sums);
    for (int i = 0; i < 2; i++) {
        struct step_result *result = &ibot->results[i];
        double *numbers;
        char *block;
        TRY(device->alloc_host(device, (void **)&block, ibot->tables_bytes, "step tables"));
        ibot_tables_layout(ibot, block, &ibot->staging[i]);
        TRY(device->alloc_host(device, (void **)&numbers, ibot->numbers_bytes, "step results"));
        result->numbers = numbers_at(numbers);
        TRY(device->alloc_host(device, (void **)&result->clusters, clusters, "step results"));
    }
    ibot->result = &ibot->results[0];
    ibot_bind_depth(ibot);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ constant tables */

/* Which teacher rows each [CLS] row of the student answers to, and its weight: spec of the loss. */
static void cls_tables(const struct ibot *ibot, int32_t *target, float *weights)
{
    const struct ibot_options *o = &ibot->options;
    int32_t b = o->batch_size, g = o->n_global, v = g + o->n_local;
    double terms = (double)g * (double)(v - 1);
    double weight = terms > 0.0 ? (double)o->lambda1 /
                                      (terms * b * o->accumulation_steps * ibot->collective->world)
                                : 0.0;

    for (int32_t view = 0; view < v; view++)
        for (int32_t i = 0; i < b; i++) {
            int64_t row = (int64_t)view * b + i;
            weights[row] = (float)weight;
            for (int32_t q = 0; q < g; q++)
                target[row * g + q] = q == view ? -1 : q * b + i;
        }
}

static enum status fill_constant_tables(struct ibot *ibot)
{
    struct device *device = ibot->device;
    size_t n = (size_t)ibot->n_cls, g = (size_t)ibot->options.n_global;
    enum status status = STATUS_OK;
    int32_t *target = NULL, identity[PATCH_CHUNK];
    float *weights = NULL;

    TRY_OUT(memory_alloc(&target, n * g, sizeof(*target), "tables"));
    TRY_OUT(memory_alloc(&weights, n, sizeof(*weights), "tables"));
    cls_tables(ibot, target, weights);
    for (int32_t i = 0; i < PATCH_CHUNK; i++)
        identity[i] = i;
    TRY_OUT(device->copy_in(device, ibot->constant.cls_weight, weights, n * sizeof(*weights)));
    TRY_OUT(device->copy_in(device, ibot->constant.cls_target, target, n * g * sizeof(*target)));
    TRY_OUT(device->copy_in(device, ibot->constant.identity, identity, sizeof(identity)));
    TRY_OUT(device->synchronize(device));
out:
    memory_free(target);
    memory_free(weights);
    return status;
}

static enum status fill_segments(struct ibot *ibot)
{
    const struct param_table *student = &ibot->student.table, *teacher = &ibot->teacher.table;
    enum status status = STATUS_OK;
    struct segment *segments;

    TRY(memory_alloc(&segments, student->n_params, sizeof(*segments), "segments"));
    for (size_t i = 0; i < student->n_params; i++) {
        const struct param *param = &student->params[i];
        int64_t pair = param_find(teacher, param->name);
        segments[i] = (struct segment){
            .offset = param->offset,
            .n = param->n,
            .teacher_offset = pair < 0 ? -1 : teacher->params[pair].offset,
            .flags = param->flags,
        };
    }
    TRY_OUT(ibot->device->copy_in(ibot->device, ibot->segments, segments,
                                  student->n_params * sizeof(*segments)));
    TRY_OUT(ibot->device->synchronize(ibot->device));
out:
    memory_free(segments);
    return status;
}

/* In float32 products take the parameters themselves. */
static struct binder binder_of(struct network *network, float *gradients)
{
    if (network->operands.data == NULL)
        network->operands = vector(network->parameters, network->table.n_elements);
    return (struct binder){&network->table, network->parameters, gradients, network->operands, 0};
}

static enum status bind_networks(struct ibot *ibot)
{
    bool train = !ibot->options.inference_only;

    struct binder student = binder_of(&ibot->student, ibot->gradients);
    struct binder teacher = binder_of(&ibot->teacher, NULL);

    TRY(backbone_bind(&ibot->student.backbone, &student, ibot->patches));
    TRY(backbone_bind(&ibot->teacher.backbone, &teacher, ibot->patches));
    if (train && ibot->dtype == DTYPE_F32) { /* gradients of logits lie on the logits */
        ibot->d_cls = vector(ibot->student_cls, 0);
        ibot->d_patch = vector(ibot->student_patch, 0);
    }
    if (train)
        TRY(head_bind(&ibot->student.head, &student));
    return has_teacher_head(&ibot->options) ? head_bind(&ibot->teacher.head, &teacher) : STATUS_OK;
}

/* Statistics of a batch norm are summed over ranks within a micro-batch; what ranks do together
 * must be recorded on all of them or on none, and only the last micro-batch is agreed upon. */
static bool ranks_talk(const struct ibot *ibot)
{
    return ibot->options.head.norm == HEAD_NORM_BN && ibot->collective->world > 1;
}

/* All of it but the memory. */
static enum status plan_all(struct ibot **out, struct device *device, const struct op_table *ops,
                            struct collective *collective, const struct ibot_options *options)
{
    struct ibot *ibot;

    TRY(check_options(options));
    TRY(memory_alloc(out, 1, sizeof(**out), "model"));
    ibot = *out;
    ibot->device = device;
    ibot->ops = ops;
    ibot->collective = collective;
    ibot->options = *options;
    ibot->dtype = options->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if (options->gelu_tanh && options->head.activation == ACTIVATION_GELU)
        ibot->options.head.activation = ACTIVATION_GELU_TANH;
    ibot->records = options->record_steps && device->capture_begin != NULL && !ranks_talk(ibot);
    ibot->skips_dropped = options->skip_dropped && options->backbone.n_stages == 0 &&
                          options->backbone.drop_path > 0.0f && options->backbone.depth > 2;
    if (ibot->options.accumulation_steps < 1)
        ibot->options.accumulation_steps = 1;
    ibot->n_cls = (int64_t)options->batch_size * (options->n_global + options->n_local);
    TRY(param_table_init(&ibot->student.table, options, true));
    TRY(param_table_init(&ibot->teacher.table, options, false));
    TRY(plan_parameters(ibot));
    TRY(plan_networks(ibot));
    return options->inference_only ? plan_inference(ibot) : plan_step(ibot);
}

enum status ibot_plan(struct ibot_plan *out, struct device *device, const struct op_table *ops,
                      struct collective *collective, const struct ibot_options *options)
{
    struct ibot *ibot = NULL;
    enum status status = plan_all(&ibot, device, ops, collective, options);

    if (status == STATUS_OK)
        *out = (struct ibot_plan){ibot->workspace.size_bytes,
                                  workspace_largest_bytes(&ibot->workspace)};
    ibot_close(&ibot);
    return status;
}

enum status ibot_open(struct ibot **out, struct device *device, const struct op_table *ops,
                      struct collective *collective, const struct ibot_options *options)
{
    enum status status;
    struct ibot *ibot = NULL;

    TRY_OUT(plan_all(&ibot, device, ops, collective, options));
    TRY_OUT(workspace_commit(&ibot->workspace, device, "model"));
    TRY_OUT(bind_networks(ibot));
    if (!options->inference_only) {
        TRY_OUT(open_host(ibot));
        TRY_OUT(fill_constant_tables(ibot));
        TRY_OUT(fill_segments(ibot));
    }
out:
    if (status == STATUS_OK)
        *out = ibot;
    else
        ibot_close(&ibot);
    return status;
}

void ibot_close(struct ibot **pointer)
{
    struct ibot *ibot = pointer != NULL ? *pointer : NULL;

    if (ibot == NULL)
        return;
    struct device *device = ibot->device;
    ibot_release_graphs(ibot);
    for (int i = 0; i < 2; i++) {
        device->free_host(device, ibot->staging[i].control);
        device->free_host(device, ibot->results[i].numbers.sums);
        device->free_host(device, ibot->results[i].clusters);
    }
    backbone_release(&ibot->student.backbone);
    backbone_release(&ibot->teacher.backbone);
    param_table_release(&ibot->student.table);
    param_table_release(&ibot->teacher.table);
    workspace_release(&ibot->workspace);
    memory_free(ibot);
    *pointer = NULL;
}

size_t ibot_device_bytes(const struct ibot *ibot)
{
    return ibot->workspace.size_bytes;
}

/* ------------------------------------------------------------------------------ initial weights */

/* The official non-strict load: a teacher with one last layer reads `last_layer`, then, under the
 * alias, `last_layer2`; a student with one offers it under both names. */
static const char *source_name(const struct ibot *ibot, const char *name, char *buffer, size_t size)
{
    const char *layer = strstr(name, "last_layer");
    const struct head_options *o = &ibot->options.head;

    if (layer == NULL)
        return name;
    const char *field = strchr(layer, '.');
    bool second = strncmp(layer, "last_layer2", 11) == 0;
    if (o->shared_teacher && !o->shared_student)
        second = true;
    else if (o->shared_student)
        second = false;
    snprintf(buffer, size, "head.last_layer%s%s", second ? "2" : "", field);
    return buffer;
}

enum status ibot_teacher_from_student(struct ibot *ibot)
{
    const struct param_table *student = &ibot->student.table, *teacher = &ibot->teacher.table;
    char buffer[96];

    for (size_t i = 0; i < teacher->n_params; i++) {
        const struct param *to = &teacher->params[i];
        int64_t from = param_find(student, source_name(ibot, to->name, buffer, sizeof(buffer)));
        CHECK(from >= 0 && student->params[from].n == to->n, "teacher parameter '%s' has no source",
              to->name);
        TRY(ibot->device->copy(ibot->device, ibot->teacher.parameters + to->offset,
                               ibot->student.parameters + student->params[from].offset,
                               (size_t)to->n * sizeof(float)));
    }
    return ibot_state_written(ibot);
}

enum status ibot_initialise(struct ibot *ibot, uint64_t seed)
{
    const struct param_table *student = &ibot->student.table;
    size_t bytes = (size_t)student->n_elements * sizeof(float);
    enum status status = STATUS_OK;
    float *values = NULL;

    TRY(memory_alloc(&values, (size_t)student->n_elements, sizeof(float), "initial weights"));
    for (size_t i = 0; i < student->n_params; i++)
        param_draw(&student->params[i], seed, (uint32_t)i, values + student->params[i].offset);
    TRY_OUT(ibot->device->copy_in(ibot->device, ibot->student.parameters, values, bytes));
    TRY_OUT(ibot->collective->broadcast(ibot->collective, ibot->device, ibot->student.parameters,
                                        bytes));
    TRY_OUT(ibot_teacher_from_student(ibot));
    TRY_OUT(ibot->device->synchronize(ibot->device));
out:
    memory_free(values);
    return status;
}
