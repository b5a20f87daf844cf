/* Replaying stored steps, and comparing. */
#include "tests/trainer/golden_replay.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

static const double tolerance = 1e-5, direction_tolerance = 1e-4;

enum { SCHEDULES, LOSSES, OUTPUTS, GRADIENTS, CENTRES, STUDENT, TEACHER };

static const char *const category_names[N_CATEGORIES] = {
    "schedules", "losses",        "step-0 outputs", "step-0 gradients",
    "centres",   "final student", "final teacher"};

static const char *text(const struct golden *g, const char *key)
{
    const char *value = safetensors_metadata(&g->file, key);
    if (value == NULL) {
        fprintf(stderr, "golden: metadata '%s' is missing\n", key);
        exit(1);
    }
    return value;
}

static double number(const struct golden *g, const char *key)
{
    return strtod(text(g, key), NULL);
}

static bool flag(const struct golden *g, const char *key)
{
    const char *value = text(g, key);
    return strcmp(value, "True") == 0 || strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
}

/* Whether an option, which older files lack, has this value. */
static bool option_is(const struct golden *g, const char *key, const char *value)
{
    const char *got = safetensors_metadata(&g->file, key);
    return got != NULL && strcmp(got, value) == 0;
}

IBOT_PRINTF(2, 3)
static const struct safetensors_entry *entry(const struct golden *g, const char *format, ...)
{
    char name[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    const struct safetensors_entry *found = safetensors_find(&g->file, name);
    if (found != NULL)
        g->used[found - g->file.entries] = true;
    return found;
}

/* The tensor `name`, which must have this type and number of values. */
static enum status take(const struct golden *g, const struct safetensors_entry **out,
                        const char *name, enum dtype dtype, int64_t n)
{
    const struct safetensors_entry *e = entry(g, "%s", name);

    if (e == NULL || e->tensor.data == NULL)
        FAIL(STATUS_MISMATCH, "tensor '%s' is missing", name);
    if (e->tensor.dtype != dtype || tensor_n_elements(&e->tensor) != n)
        FAIL(STATUS_MISMATCH, "tensor '%s': %lld values of type %s, wanted %lld of %zu bytes", name,
             (long long)tensor_n_elements(&e->tensor), e->file_dtype, (long long)n,
             dtype_size_bytes(dtype));
    *out = e;
    return STATUS_OK;
}

/* Copies such a tensor to `to`. */
static enum status copy(const struct golden *g, void *to, const char *name, enum dtype dtype,
                        int64_t n)
{
    const struct safetensors_entry *e;

    TRY(take(g, &e, name, dtype, n));
    memcpy(to, e->tensor.data, tensor_size_bytes(&e->tensor));
    return STATUS_OK;
}

/* Largest difference over `n` values, relative to the largest magnitude of what was wanted. */
static void compare(struct golden *g, int category, const char *name, const float *got,
                    const float *wanted, int64_t n, double limit, int64_t skip_from,
                    int64_t skip_to)
{
    double largest = 0.0, error = 0.0;
    struct worst *worst = &g->worst[category];

    for (int64_t i = 0; i < n; i++) {
        if (i >= skip_from && i < skip_to)
            continue;
        double difference = fabs((double)got[i] - (double)wanted[i]);
        largest = fmax(largest, fabs((double)wanted[i]));
        error = difference > error || isnan(difference) ? difference : error;
    }
    double relative = largest > 0.0 ? error / largest : error;
    limit *= g->slack[category];
    worst->n_tensors++;
    if (!(relative / limit <= worst->error)) {
        worst->error = isnan(relative) ? INFINITY : relative / limit;
        worst->relative = relative;
        snprintf(worst->name, sizeof(worst->name), "%s", name);
    }
}

/* "2,2,6,2": one number for each stage. */
static enum status read_stages(const struct golden *g, const char *key, int32_t *out, int32_t *n)
{
    const char *at = text(g, key);
    char *end;

    for (*n = 0; *n < BACKBONE_MAX_STAGES; at = end + 1) {
        out[(*n)++] = (int32_t)strtol(at, &end, 10);
        if (end == at || (*end != '\0' && *end != ','))
            break;
        if (*end == '\0')
            return STATUS_OK;
    }
    FAIL(STATUS_MISMATCH, "metadata '%s': got '%s', wanted 1 to %d numbers", key, text(g, key),
         BACKBONE_MAX_STAGES);
}

/* A Swin's windows are chosen for the global crops. */
static enum status read_swin(struct golden *g, struct backbone_options *o)
{
    int32_t n_heads;

    TRY(read_stages(g, "depth", o->stage_depth, &o->n_stages));
    TRY(read_stages(g, "heads", o->stage_heads, &n_heads));
    if (n_heads != o->n_stages)
        FAIL(STATUS_MISMATCH, "metadata: depth has %d stages, heads %d", o->n_stages, n_heads);
    for (int32_t i = 0; i < o->n_stages; i++)
        o->depth += o->stage_depth[i];
    o->n_heads = o->stage_heads[0];
    o->window_size = (int32_t)number(g, "window");
    o->image_size_px = (int32_t)number(g, "global_size");
    return STATUS_OK;
}

static enum status read_vit(struct golden *g, struct backbone_options *o)
{
    const struct safetensors_entry *pos = entry(g, "init/student/backbone.pos_embed");

    o->depth = (int32_t)number(g, "depth");
    o->n_heads = (int32_t)number(g, "heads");
    if (pos == NULL)
        FAIL(STATUS_MISMATCH, "tensor 'init/student/backbone.pos_embed' is missing");
    o->image_size_px = (int32_t)lround(sqrt((double)(pos->file_shape[1] - 1))) * o->patch_size_px;
    return STATUS_OK;
}

static enum status read_options(struct golden *g)
{
    struct ibot_options *o = &g->options;
    struct schedule *s = &g->schedule;

    o->backbone = (struct backbone_options){
        .arch = "golden",
        .embed_dim = (int32_t)number(g, "embed_dim"),
        .mlp_ratio = 4,
        .patch_size_px = (int32_t)number(g, "patch_size"),
        .drop_path = (float)number(g, "drop_path"),
        .layer_norm_eps = (float)number(g, "layer_norm_eps"),
    };
    TRY((strcmp(text(g, "kind"), "swin") == 0 ? read_swin : read_vit)(g, &o->backbone));
    o->head = (struct head_options){
        .hidden_dim = (int32_t)number(g, "head_hidden"),
        .bottleneck_dim = (int32_t)number(g, "bottleneck"),
        .out_dim = (int32_t)number(g, "out_dim"),
        .patch_out_dim = (int32_t)number(g, "patch_out_dim"),
        .shared_student = flag(g, "shared_head"),
        .shared_teacher = flag(g, "shared_head_teacher"),
        .fixed_gains = flag(g, "norm_last_layer"),
        .norm = option_is(g, "norm_in_head", "ln")   ? HEAD_NORM_LN
                : option_is(g, "norm_in_head", "bn") ? HEAD_NORM_BN
                                                     : HEAD_NORM_NONE,
        .activation = option_is(g, "act_in_head", "relu") ? ACTIVATION_RELU : ACTIVATION_GELU,
    };
    if (o->head.shared_student || o->head.shared_teacher)
        o->head.patch_out_dim = o->head.out_dim;
    o->batch_size = (int32_t)number(g, "B");
    o->n_global = (int32_t)number(g, "global_crops");
    o->global_size_px = (int32_t)number(g, "global_size");
    o->n_local = (int32_t)number(g, "local_crops");
    o->local_size_px = (int32_t)number(g, "local_size");
    o->masked_im_modeling = true;
    o->lambda1 = (float)number(g, "lambda1");
    o->lambda2 = (float)number(g, "lambda2");
    o->accumulation_steps = 1;
    const char *optimizer = text(g, "optimizer");
    o->optimizer = strcmp(optimizer, "sgd") == 0    ? OPTIMIZER_SGD
                   : strcmp(optimizer, "lars") == 0 ? OPTIMIZER_LARS
                                                    : OPTIMIZER_ADAMW;
    *s = (struct schedule){
        .steps_per_epoch = (int64_t)number(g, "niter_per_epoch"),
        .epochs = (int32_t)number(g, "epochs"),
        .lr = number(g, "lr"),
        .min_lr = number(g, "min_lr"),
        .warmup_epochs = (int32_t)number(g, "warmup_epochs"),
        .weight_decay = number(g, "weight_decay"),
        .weight_decay_end = number(g, "weight_decay_end"),
        .momentum_teacher = number(g, "momentum_teacher"),
        .warmup_teacher_temp = number(g, "warmup_teacher_temp"),
        .teacher_temp = number(g, "teacher_temp"),
        .warmup_teacher_patch_temp = number(g, "warmup_teacher_patch_temp"),
        .teacher_patch_temp = number(g, "teacher_patch_temp"),
        .warmup_teacher_temp_epochs = (int32_t)number(g, "warmup_teacher_temp_epochs"),
        .pred_start_epoch = (int32_t)number(g, "pred_start_epoch"),
        .freeze_last_layer = (int32_t)number(g, "freeze_last_layer"),
        .student_temp = number(g, "student_temp"),
        .centre_momentum = number(g, "center_momentum"),
        .centre_patch_momentum = number(g, "center_momentum"),
        .clip_grad = number(g, "clip_grad"),
    };
    g->n_steps = (int32_t)(s->steps_per_epoch * s->epochs);
    return schedule_check(s);
}

static void compare_schedule(struct golden *g, const char *name, int64_t i, double got,
                             double wanted)
{
    struct worst *worst = &g->worst[SCHEDULES];
    double relative = wanted != 0.0 ? fabs(got - wanted) / fabs(wanted) : fabs(got);

    worst->n_tensors++;
    if (!(relative / tolerance <= worst->error)) {
        worst->error = isnan(relative) ? INFINITY : relative / tolerance;
        worst->relative = relative;
        snprintf(worst->name, sizeof(worst->name), "%s[%lld]", name, (long long)i);
    }
}

static double teacher_temp(const struct schedule *s, int64_t epoch)
{
    return schedule_teacher_temp(s, (int32_t)epoch);
}

static double teacher_patch_temp(const struct schedule *s, int64_t epoch)
{
    return schedule_teacher_patch_temp(s, (int32_t)epoch);
}

static enum status compare_schedules(struct golden *g)
{
    const struct {
        const char *name;
        double (*value)(const struct schedule *, int64_t);
        int64_t n;
    } arrays[] = {
        {"schedule/lr", schedule_lr, g->n_steps},
        {"schedule/weight_decay", schedule_weight_decay, g->n_steps},
        {"schedule/momentum", schedule_momentum, g->n_steps},
        {"schedule/teacher_temp", teacher_temp, g->schedule.epochs},
        {"schedule/teacher_patch_temp", teacher_patch_temp, g->schedule.epochs},
    };

    for (size_t a = 0; a < sizeof(arrays) / sizeof(arrays[0]); a++) {
        const struct safetensors_entry *e;
        TRY(take(g, &e, arrays[a].name, DTYPE_F64, arrays[a].n));
        for (int64_t i = 0; i < arrays[a].n; i++)
            compare_schedule(g, arrays[a].name, i, arrays[a].value(&g->schedule, i),
                             ((const double *)e->tensor.data)[i]);
    }
    return STATUS_OK;
}

/* Loads init/{student,teacher}; the file holds aliases of shared layers too. */
static enum status load_init(struct golden *g)
{
    size_t n_loaded = 0;

    for (size_t i = 0; i < ibot_n_state(g->ibot); i++) {
        struct ibot_state_entry state;
        ibot_state(g->ibot, i, &state);
        bool student = strncmp(state.name, "student.", 8) == 0;
        if (!student && strncmp(state.name, "teacher.", 8) != 0)
            continue;
        if (strstr(state.name, "running_") != NULL)
            continue; /* not among the parameters */
        const struct safetensors_entry *e;
        char name[256];
        snprintf(name, sizeof(name), "init/%s/%s", student ? "student" : "teacher", state.name + 8);
        TRY(take(g, &e, name, DTYPE_F32, tensor_n_elements(&state.tensor)));
        TRY(g->device.copy_in(&g->device, state.tensor.data, e->tensor.data,
                              tensor_size_bytes(&e->tensor)));
        n_loaded++;
    }
    printf("initial tensors loaded: %zu\n", n_loaded);
    return ibot_state_written(g->ibot);
}

/* Keep vectors of step k, in the order of the calls: branches of the global pass, then the local.
 */
static enum status read_keep(struct golden *g, int32_t k, bool *any)
{
    const struct ibot_options *o = &g->options;
    int64_t b = o->batch_size, per_pass = 2 * ((int64_t)o->backbone.depth - 1);
    int64_t n_passes = o->n_local > 0 ? 2 : 1;

    *any = o->backbone.drop_path > 0.0f;
    for (int64_t i = 0; *any && i < n_passes * per_pass; i++) {
        bool local = i >= per_pass;
        int64_t n = b * (local ? o->n_local : o->n_global), row = local ? i - per_pass : i;
        uint8_t *to = (local ? g->keep_locals : g->keep_globals) + row * n;
        const struct safetensors_entry *e;
        char name[64];
        snprintf(name, sizeof(name), "step%d/drop_keep%02lld", k, (long long)i);
        TRY(take(g, &e, name, DTYPE_F32, n));
        for (int64_t j = 0; j < n; j++)
            to[j] = ((const float *)e->tensor.data)[j] != 0.0f;
    }
    return STATUS_OK;
}

/* Crops, masks and keep vectors of step k, stacked crop-major. */
static enum status read_input(struct golden *g, int32_t k, struct ibot_input *input)
{
    const struct ibot_options *o = &g->options;
    int64_t b = o->batch_size;
    int64_t side = o->global_size_px, small = o->local_size_px;
    int64_t global = b * 3 * side * side, local = b * 3 * small * small;
    int64_t grid = backbone_grid(&o->backbone, o->global_size_px), cells = b * grid * grid;
    bool any_keep;
    char name[64];

    for (int32_t i = 0; i < o->n_global; i++) {
        snprintf(name, sizeof(name), "step%d/global%d", k, i);
        TRY(copy(g, g->globals + i * global, name, DTYPE_F32, global));
        snprintf(name, sizeof(name), "step%d/mask%d", k, i);
        TRY(copy(g, g->masks + i * cells, name, DTYPE_U8, cells));
    }
    for (int32_t i = 0; i < o->n_local; i++) {
        snprintf(name, sizeof(name), "step%d/local%d", k, i);
        TRY(copy(g, g->locals + i * local, name, DTYPE_F32, local));
    }
    TRY(read_keep(g, k, &any_keep));
    for (int i = 0; i < 2; i++)
        TRY(g->device.copy_in(&g->device, g->on_device[i].data, i == 0 ? g->globals : g->locals,
                              tensor_size_bytes(&g->on_device[i])));
    *input = (struct ibot_input){
        .globals = g->on_device[0],
        .masks = g->masks,
        .keep_globals = any_keep ? g->keep_globals : NULL,
        .keep_locals = any_keep ? g->keep_locals : NULL,
    };
    if (o->n_local > 0)
        input->locals = g->on_device[1];
    return STATUS_OK;
}

/* What adds the same to every row that a batch norm sees has no gradient in exact arithmetic. */
static bool is_constant_before_norm(const char *name)
{
    return strstr(name, "backbone.norm.bias") != NULL || strstr(name, "head.mlp.0.bias") != NULL ||
           strstr(name, "head.mlp.3.bias") != NULL;
}

/* The key third of a qkv bias has no gradient in exact arithmetic: it is left out after training.
 */
static void compare_parameter(struct golden *g, int category, const char *name, const float *got,
                              const struct safetensors_entry *e, bool trained)
{
    if (g->options.head.norm == HEAD_NORM_BN && is_constant_before_norm(name))
        return;
    int64_t n = tensor_n_elements(&e->tensor), third = n / 3;
    bool key = trained && strstr(name, "attn.qkv.bias") != NULL;
    bool direction = trained && strstr(name, "weight_v") != NULL;

    compare(g, category, name, got, e->tensor.data, n, direction ? direction_tolerance : tolerance,
            key ? third : 0, key ? 2 * third : 0);
}

static enum status compare_step0(struct golden *g)
{
    static const struct {
        const char *name;
        enum ibot_logits_kind kind;
    } outputs[] = {
        {"teacher_cls", IBOT_TEACHER_CLS},
        {"teacher_patch", IBOT_TEACHER_PATCH},
        {"student_cls", IBOT_STUDENT_CLS},
        {"student_patch", IBOT_STUDENT_PATCH},
        {"student_local_cls", IBOT_STUDENT_LOCAL_CLS},
    };

    for (size_t i = 0; i < ibot_n_state(g->ibot); i++) {
        struct tensor gradient = ibot_gradient(g->ibot, i);
        struct ibot_state_entry state;
        ibot_state(g->ibot, i, &state);
        if (gradient.data == NULL)
            continue;
        const struct safetensors_entry *e;
        char name[256];
        snprintf(name, sizeof(name), "step0/grad/%s", state.name + 8);
        if (g->options.head.fixed_gains && strstr(name, "weight_g") != NULL)
            continue; /* fixed gains have none */
        TRY(take(g, &e, name, DTYPE_F32, tensor_n_elements(&gradient)));
        TRY(g->device.copy_out(&g->device, g->values, gradient.data, tensor_size_bytes(&gradient)));
        compare_parameter(g, GRADIENTS, e->name, g->values, e, false);
    }
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        const struct safetensors_entry *e = entry(g, "step0/%s", outputs[i].name);
        if (outputs[i].kind == IBOT_STUDENT_LOCAL_CLS && g->options.n_local == 0)
            continue;
        if (e == NULL || e->tensor.dtype != DTYPE_F32)
            FAIL(STATUS_MISMATCH, "step0/%s is missing or not float32", outputs[i].name);
        int64_t n = tensor_n_elements(&e->tensor); /* ibot_logits checks it */
        TRY(ibot_logits(g->ibot, outputs[i].kind, g->values, (size_t)n));
        compare(g, OUTPUTS, outputs[i].name, g->values, e->tensor.data, n, tolerance, 0, 0);
    }
    return STATUS_OK;
}

static enum status compare_loss(struct golden *g, int32_t k, const char *what, double got)
{
    const struct safetensors_entry *e;
    float value = (float)got;
    char name[64];

    snprintf(name, sizeof(name), "step%d/loss_%s", k, what);
    TRY(take(g, &e, name, DTYPE_F32, 1));
    compare(g, LOSSES, e->name, &value, e->tensor.data, 1, tolerance, 0, 0);
    return STATUS_OK;
}

static enum status compare_state(struct golden *g, const char *prefix, const char *folder,
                                 int category)
{
    size_t n = strlen(prefix);

    for (size_t i = 0; i < ibot_n_state(g->ibot); i++) {
        struct ibot_state_entry state;
        ibot_state(g->ibot, i, &state);
        if (strncmp(state.name, prefix, n) != 0)
            continue;
        const struct safetensors_entry *e;
        char name[256];
        snprintf(name, sizeof(name), "%s/%s", folder, state.name + n);
        if (strstr(name, "running_") != NULL)
            continue; /* not among the parameters */
        TRY(take(g, &e, name, DTYPE_F32, tensor_n_elements(&state.tensor)));
        TRY(g->device.copy_out(&g->device, g->values, state.tensor.data,
                               tensor_size_bytes(&state.tensor)));
        compare_parameter(g, category, e->name, g->values, e, true);
    }
    return STATUS_OK;
}

static enum status compare_centres(struct golden *g, int32_t k)
{
    for (size_t i = 0; i < ibot_n_state(g->ibot); i++) {
        struct ibot_state_entry state;
        ibot_state(g->ibot, i, &state);
        if (strncmp(state.name, "centre.", 7) != 0)
            continue;
        const struct safetensors_entry *e;
        char name[256];
        snprintf(name, sizeof(name), "step%d/center_%s", k, state.name + 7);
        TRY(take(g, &e, name, DTYPE_F32, tensor_n_elements(&state.tensor)));
        TRY(g->device.copy_out(&g->device, g->values, state.tensor.data,
                               tensor_size_bytes(&state.tensor)));
        compare(g, CENTRES, e->name, g->values, e->tensor.data, tensor_n_elements(&e->tensor),
                tolerance, 0, 0);
    }
    return STATUS_OK;
}

enum status golden_step(struct golden *g, int32_t k)
{
    struct ibot_input input;
    struct ibot_result result;
    struct step_control control;

    TRY(read_input(g, k, &input));
    schedule_fill(&g->schedule, k, &control);
    TRY(ibot_zero_gradients(g->ibot));
    TRY(ibot_accumulate(g->ibot, &input, &control));
    TRY(ibot_result(g->ibot, &result));
    if (k == 0) {
        TRY(compare_step0(g));
        /* the outputs were made again over all rows: run the step once more as it was */
        TRY(ibot_zero_gradients(g->ibot));
        TRY(ibot_accumulate(g->ibot, &input, &control));
    }
    TRY(compare_loss(g, k, "cls", result.loss_cls));
    TRY(compare_loss(g, k, "patch", result.loss_patch));
    TRY(compare_loss(g, k, "loss", result.loss));
    TRY(ibot_update(g->ibot));
    return compare_centres(g, k);
}

static enum status alloc_buffers(struct golden *g)
{
    const struct ibot_options *o = &g->options;
    size_t b = (size_t)o->batch_size, n_global = (size_t)o->n_global, n_local = (size_t)o->n_local;
    size_t global = (size_t)o->global_size_px, local = (size_t)o->local_size_px;
    size_t largest = 1, branches = 2 * (size_t)o->backbone.depth;

    for (size_t i = 0; i < g->file.n_entries; i++) {
        size_t n = (size_t)tensor_n_elements(&g->file.entries[i].tensor);
        largest = n > largest ? n : largest;
    }
    TRY(memory_alloc(&g->globals, b * n_global * 3 * global * global, sizeof(float), "crops"));
    TRY(memory_alloc(&g->locals, b * n_local * 3 * local * local, sizeof(float), "crops"));
    TRY(memory_alloc(&g->masks, b * n_global * global * global, 1, "masks"));
    TRY(memory_alloc(&g->keep_globals, branches * b * n_global, 1, "keep vectors"));
    TRY(memory_alloc(&g->keep_locals, branches * b * n_local, 1, "keep vectors"));
    return memory_alloc(&g->values, largest, sizeof(float), "values");
}

/* Every tensor must have been compared or used, but for what a network holds twice or more: the
 * shared layers' other name, and the head norm's (one module at two places). */
static enum status check_all_used(const struct golden *g)
{
    for (size_t i = 0; i < g->file.n_entries; i++) {
        const char *name = g->file.entries[i].name;
        bool student = strstr(name, "/student/") != NULL || strstr(name, "/grad/") != NULL;
        bool shared = student ? g->options.head.shared_student : g->options.head.shared_teacher;
        bool alias =
            (shared && strstr(name, "head.last_layer2.") != NULL) ||
            (g->options.head.norm != HEAD_NORM_NONE && strstr(name, "head.mlp.4.") != NULL);
        if (!g->used[i] && !alias)
            FAIL(STATUS_MISMATCH,
                 "tensor '%s' was not compared: nothing in the model answers to it", name);
    }
    return STATUS_OK;
}

static enum status open_cpu(struct device *out)
{
    return device_open_cpu(out, 0);
}

static const struct golden_backend golden_cpu = {
    .ops = &op_table_cpu, .open = open_cpu, .slack = {1, 1, 1, 1, 1, 1, 1}};

/* Crops on the device, as a batch has them. */
static enum status alloc_on_device(struct golden *g)
{
    const struct ibot_options *o = &g->options;
    int64_t b = o->batch_size;
    struct tensor *t = g->on_device;

    t[0] = (struct tensor){
        NULL, DTYPE_F32, 4, {b * o->n_global, 3, o->global_size_px, o->global_size_px}};
    t[1] = (struct tensor){
        NULL, DTYPE_F32, 4, {b * o->n_local, 3, o->local_size_px, o->local_size_px}};
    for (int i = 0; i < 2; i++)
        TRY(g->device.alloc(&g->device, &t[i].data, tensor_size_bytes(&t[i]), "crops"));
    return STATUS_OK;
}

enum status golden_open(struct golden *g, const char *path, const struct golden_backend *backend)
{
    const struct golden_backend *with = backend != NULL ? backend : &golden_cpu;

    memset(g, 0, sizeof(*g));
    memcpy(g->slack, with->slack, sizeof(g->slack));
    TRY(safetensors_open(&g->file, path));
    const char *kind = text(g, "kind");
    if (strcmp(kind, "vit") != 0 && strcmp(kind, "swin") != 0)
        FAIL(STATUS_UNSUPPORTED, "%s: kind '%s'; 'vit' and 'swin' can be run", path, kind);
    TRY(memory_alloc(&g->used, g->file.n_entries, sizeof(bool), "marks"));
    TRY(read_options(g));
    g->options.precision = with->precision;
    g->options.residual_stream = with->residual_stream;
    g->options.record_steps = with->record_steps;
    g->options.skip_dropped = with->skip_dropped;
    TRY(alloc_buffers(g));
    TRY(with->open(&g->device));
    TRY(alloc_on_device(g));
    collective_open_alone(&g->collective);
    TRY(ibot_open(&g->ibot, &g->device, with->ops, &g->collective, &g->options));
    TRY(load_init(g));
    return compare_schedules(g);
}

enum status golden_finish(struct golden *g)
{
    TRY(compare_state(g, "student.", "final/student", STUDENT));
    TRY(compare_state(g, "teacher.", "final/teacher", TEACHER));
    return check_all_used(g);
}

bool golden_report(const struct golden *g)
{
    bool good = true;

    for (int i = 0; i < N_CATEGORIES; i++) {
        bool within = g->worst[i].error <= 1.0 && g->worst[i].n_tensors > 0;
        printf("%-17s %4lld values  worst %.2e  %s  %s\n", category_names[i],
               (long long)g->worst[i].n_tensors, g->worst[i].relative, within ? "ok  " : "FAIL",
               g->worst[i].name);
        good = good && within;
    }
    return good;
}

void golden_release(struct golden *g)
{
    void *buffers[] = {g->globals,     g->locals, g->masks, g->keep_globals,
                       g->keep_locals, g->values, g->used};

    ibot_close(&g->ibot);
    for (int i = 0; i < 2 && g->device.free != NULL; i++)
        g->device.free(&g->device, g->on_device[i].data);
    device_close(&g->device);
    safetensors_release(&g->file);
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        memory_free(buffers[i]);
}
