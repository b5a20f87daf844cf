/* One training step: teacher and student forward, both losses, backward, update. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "trainer/model/ibot_internal.h"

static const float *control_field(const struct ibot *ibot, size_t offset)
{
    return (const float *)(const void *)((const char *)ibot->control + offset);
}

/* ------------------------------------------------------------------------------ input */

enum status ibot_patchify(struct ibot *ibot, struct tensor pixels, struct tensor patches)
{
    int64_t p = ibot->options.backbone.patch_size_px, grid = pixels.shape[2] / p;
    struct patchify_args args = {
        .pixels = pixels,
        .patches = shaped(patches, pixels.shape[0] * grid * grid, 3 * p * p),
        .patch_size = (int32_t)p,
        .mean = {0.485f, 0.456f, 0.406f},
        .std = {0.229f, 0.224f, 0.225f},
    };
    return ibot->ops->patchify(ibot->device, &args);
}

enum status ibot_zero_gradients(struct ibot *ibot)
{
    struct device *device = ibot->device;

    ibot->n_micro = 0;
    ibot->n_masked_sum = 0;
    TRY(device->zero(device, ibot->gradients,
                     (size_t)ibot->student.table.n_elements * sizeof(float)));
    TRY(device->zero(device, ibot->bottleneck_mean,
                     2 * (size_t)ibot->options.head.bottleneck_dim * sizeof(float)));
    return device->zero(device, ibot->sums, 4 * sizeof(double));
}

/* ------------------------------------------------------------------------------ forward */

static enum status gather(struct ibot *ibot, float *from, int64_t n_from, int32_t *index, int64_t n,
                          float *to)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    struct rows_gather_args args = {matrix(from, n_from, bottleneck),
                                    tensor_1d(index, DTYPE_I32, n), matrix(to, n, bottleneck)};
    return ibot->ops->rows_gather(ibot->device, &args);
}

/* Adds the mean bottleneck vector of [CLS] (which 0) or patch rows (which 1) to its sum. By the
 * linearity of the last layer the mean of the logits is the logits of this mean. */
static enum status add_mean(struct ibot *ibot, int which)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    int64_t length = ibot->teacher.backbone.groups[0].length;
    struct rows_mean_args mean = {
        .x = matrix(ibot->teacher.head.z, ibot->teacher.backbone.n_tokens, bottleneck),
        .mean = tensor_1d(ibot->micro_mean, DTYPE_F32, bottleneck),
        .period = which == 0 ? -length : length,
    };
    struct rows_add_args add = {
        matrix(ibot->micro_mean, 1, bottleneck),
        matrix(ibot->bottleneck_mean + which * bottleneck, 1, bottleneck),
    };
    TRY(ibot->ops->rows_mean(ibot->device, &mean));
    return ibot->ops->rows_add(ibot->device, &add);
}

static enum status teacher_forward(struct ibot *ibot)
{
    struct network *teacher = &ibot->teacher;
    int64_t images = (int64_t)ibot->options.n_global * ibot->options.batch_size;
    int64_t n = teacher->backbone.n_tokens;

    TRY(backbone_forward(&teacher->backbone, NULL));
    TRY(head_prepare(&teacher->head));
    teacher->head.spans[0] = (struct head_span){0, n};
    TRY(head_forward(&teacher->head, teacher->backbone.features, n));
    TRY(gather(ibot, teacher->head.z, n, ibot->tables.teacher_rows, images + ibot->n_masked,
               ibot->teacher_z.z));
    TRY(head_copy_vectors(&teacher->head, &ibot->teacher_z, images + ibot->n_masked));
    TRY(add_mean(ibot, 0));
    TRY(add_mean(ibot, 1));
    return head_logits(&teacher->head, false, &ibot->teacher_z, 0, images, ibot->teacher_cls);
}

static uint8_t *student_mask(struct ibot *ibot, bool masked)
{
    return masked && ibot->options.masked_im_modeling ? ibot->mask : NULL;
}

/* With batch norm the head sees every token, as two calls (global crops, local crops). */
static void set_spans(struct ibot *ibot)
{
    struct head *head = &ibot->student.head;
    const struct backbone *backbone = &ibot->student.backbone;
    int64_t globals = backbone->groups[0].n_images * backbone->groups[0].length;

    head->spans[0] = (struct head_span){0, globals};
    head->spans[1] = (struct head_span){globals, backbone->n_tokens - globals};
    head->n_spans = backbone->n_groups;
}

static enum status student_forward(struct ibot *ibot, bool masked)
{
    struct network *student = &ibot->student;
    struct backbone *backbone = &student->backbone;

    TRY(backbone_forward(backbone, student_mask(ibot, masked)));
    TRY(head_prepare(&student->head));
    set_spans(ibot);
    TRY(head_forward(&student->head, backbone->features, backbone->rows.n_rows));
    if (backbone->rows.index == NULL)
        TRY(gather(ibot, student->head.z, backbone->n_tokens, ibot->tables.needed, ibot->n_needed,
                   ibot->student_z.z));
    else
        TRY(ibot->device->copy(ibot->device, ibot->student_z.z, student->head.z,
                               (size_t)(ibot->n_needed * ibot->options.head.bottleneck_dim) *
                                   sizeof(float)));
    TRY(head_copy_vectors(&student->head, &ibot->student_z, ibot->n_needed));
    return head_logits(&student->head, false, &ibot->student_z, 0, ibot->n_cls, ibot->student_cls);
}

/* Arg-max of the teacher on crop 0 and of the student on crop 1 (0 if there is one): `acc`, NMI. */
static enum status find_clusters(struct ibot *ibot)
{
    int64_t b = ibot->options.batch_size, k = ibot->options.head.out_dim;
    int64_t view = ibot->options.n_global > 1 ? 1 : 0;
    struct rows_argmax_args teacher = {matrix(ibot->teacher_cls, b, k),
                                       tensor_1d(ibot->clusters, DTYPE_I32, b)};
    struct rows_argmax_args student = {matrix(ibot->student_cls + view * b * k, b, k),
                                       tensor_1d(ibot->clusters + b, DTYPE_I32, b)};
    int32_t *to = ibot->host_clusters + ibot->n_micro * b;
    size_t bytes = (size_t)b * sizeof(int32_t);

    TRY(ibot->ops->rows_argmax(ibot->device, &teacher));
    TRY(ibot->ops->rows_argmax(ibot->device, &student));
    TRY(ibot->device->copy_out(ibot->device, to, ibot->clusters, bytes));
    return ibot->device->copy_out(ibot->device, to + ibot->options.accumulation_steps * b,
                                  ibot->clusters + b, bytes);
}

/* ------------------------------------------------------------------------------ loss */

static enum status cls_loss(struct ibot *ibot)
{
    int64_t k = ibot->options.head.out_dim, g = ibot->options.n_global;
    int64_t images = g * ibot->options.batch_size;
    struct distill_loss_args args = {
        .student = matrix(ibot->student_cls, ibot->n_cls, k),
        .teacher = matrix(ibot->teacher_cls, images, k),
        .centre = tensor_1d(ibot->centre, DTYPE_F32, k),
        .target = tensor_2d(ibot->tables.cls_target, DTYPE_I32, ibot->n_cls, g),
        .weight = tensor_1d(ibot->tables.cls_weight, DTYPE_F32, ibot->n_cls),
        .student_temp = control_field(ibot, offsetof(struct step_control, student_temp)),
        .teacher_temp = control_field(ibot, offsetof(struct step_control, teacher_temp)),
        .loss = tensor_1d(&ibot->sums[0], DTYPE_F64, 1),
        .d_student = shaped(ibot->d_cls, ibot->n_cls, k),
        .entropy = tensor_1d(&ibot->sums[2], DTYPE_F64, 1),
        .scratch = matrix(ibot->scratch, 2, images),
    };
    TRY(ibot->ops->distill_loss(ibot->device, &args));
    return head_logits_backward(&ibot->student.head, false, ibot->d_cls, &ibot->student_z, 0,
                                ibot->n_cls, ibot->d_z);
}

/* Masked rows first .. first+n-1: logits of both, loss, gradient of the bottleneck vectors. */
static enum status patch_chunk(struct ibot *ibot, int64_t first, int64_t n)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    int64_t images = (int64_t)ibot->options.n_global * ibot->options.batch_size;
    struct head *student = &ibot->student.head, *teacher = &ibot->teacher.head;
    int64_t k = student->last[student->shared ? 0 : 1].n_out;
    float *d_z = ibot->d_z + (ibot->n_cls + first) * bottleneck;
    struct distill_loss_args args = {
        .student = matrix(ibot->student_patch, n, k),
        .teacher = matrix(ibot->teacher_patch, n, k),
        .centre = tensor_1d(ibot->centre_patch, DTYPE_F32, k),
        .target = tensor_2d(ibot->tables.identity, DTYPE_I32, n, 1),
        .weight = tensor_1d(ibot->tables.patch_weight + first, DTYPE_F32, n),
        .student_temp = control_field(ibot, offsetof(struct step_control, student_temp)),
        .teacher_temp = control_field(ibot, offsetof(struct step_control, teacher_patch_temp)),
        .loss = tensor_1d(&ibot->sums[1], DTYPE_F64, 1),
        .d_student = shaped(ibot->d_patch, n, k),
        .entropy = tensor_1d(&ibot->sums[3], DTYPE_F64, 1),
        .scratch = matrix(ibot->scratch, 2, n),
    };
    TRY(head_logits(teacher, true, &ibot->teacher_z, images + first, n, ibot->teacher_patch));
    TRY(head_logits(student, true, &ibot->student_z, ibot->n_cls + first, n, ibot->student_patch));
    TRY(ibot->ops->distill_loss(ibot->device, &args));
    return head_logits_backward(student, true, ibot->d_patch, &ibot->student_z, ibot->n_cls + first,
                                n, d_z);
}

/* ------------------------------------------------------------------------------ backward */

static enum status student_backward(struct ibot *ibot, bool masked)
{
    struct network *student = &ibot->student;
    struct backbone *backbone = &student->backbone;
    int64_t bottleneck = ibot->options.head.bottleneck_dim, n = backbone->rows.n_rows;
    float *d_z = ibot->d_z;

    TRY(head_finish(&student->head));
    if (backbone->rows.index == NULL) { /* back to all rows: student_z has served, raw is free */
        struct rows_scatter_args scatter = {
            matrix(ibot->d_z, ibot->n_needed, bottleneck),
            tensor_1d(ibot->tables.needed, DTYPE_I32, ibot->n_needed),
            matrix(student->head.raw, n, bottleneck),
            true,
        };
        TRY(ibot->ops->rows_scatter(ibot->device, &scatter));
        d_z = student->head.raw;
    }
    TRY(head_backward(&student->head, backbone->features, d_z, backbone_d_features(backbone), n));
    return backbone_backward(backbone, student_mask(ibot, masked));
}

/* n images of `side` px: the sizes that memory was planned for. */
static void check_pixels(const struct tensor *pixels, int64_t n, int64_t side, const char *what)
{
    bool u8 = pixels->dtype == DTYPE_U8;

    CHECK(pixels->rank == 4 && (u8 || pixels->dtype == DTYPE_F32), "%s: wrong type", what);
    CHECK(pixels->shape[0] == n && pixels->shape[2] == side && pixels->shape[u8 ? 1 : 3] == side &&
              pixels->shape[u8 ? 3 : 1] == 3,
          "%s: got %lld of %lld px, planned %lld of %lld px", what, (long long)pixels->shape[0],
          (long long)pixels->shape[2], (long long)n, (long long)side);
}

enum status ibot_accumulate(struct ibot *ibot, const struct ibot_input *input,
                            const struct step_control *control)
{
    const struct ibot_options *o = &ibot->options;
    struct device *device = ibot->device;
    bool masked = input->masks != NULL;

    CHECK(!o->inference_only && ibot->n_micro < o->accumulation_steps);
    check_pixels(&input->globals, (int64_t)o->n_global * o->batch_size, o->global_size_px,
                 "global crops");
    if (o->n_local > 0)
        check_pixels(&input->locals, (int64_t)o->n_local * o->batch_size, o->local_size_px,
                     "local crops");
    TRY(device->copy_in(device, ibot->control, control, sizeof(*control)));
    TRY(ibot_prepare_rows(ibot, input->masks));
    TRY(ibot_prepare_depth(ibot, input));
    TRY(ibot_patchify(ibot, input->globals, ibot->patches[0]));
    if (ibot->options.n_local > 0)
        TRY(ibot_patchify(ibot, input->locals, ibot->patches[1]));
    TRY(teacher_forward(ibot));
    TRY(student_forward(ibot, masked));
    TRY(find_clusters(ibot));
    TRY(cls_loss(ibot));
    for (int64_t first = 0; first < ibot->n_masked; first += PATCH_CHUNK) {
        int64_t n = ibot->n_masked - first;
        TRY(patch_chunk(ibot, first, n < PATCH_CHUNK ? n : PATCH_CHUNK));
    }
    TRY(student_backward(ibot, masked));
    ibot->n_micro++;
    ibot->n_masked_sum += ibot->n_masked;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ update */

/* Moves a centre towards the mean logits of the teacher over micro-batches and ranks. */
static enum status move_centre(struct ibot *ibot, bool patch, float *centre, size_t momentum)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    struct head *teacher = &ibot->teacher.head;
    int64_t k = teacher->last[patch && !teacher->shared].n_out;
    struct centre_update_args args = {
        .centre = tensor_1d(centre, DTYPE_F32, k),
        .sum = tensor_1d(ibot->mean_logits, DTYPE_F32, k),
        .momentum = control_field(ibot, momentum),
        .scale = 1.0f / (float)(ibot->n_micro * ibot->collective->world),
    };
    TRY(head_exact_logits(teacher, patch, ibot->bottleneck_mean + (patch ? bottleneck : 0), 1,
                          ibot->mean_logits));
    return ibot->ops->centre_update(ibot->device, &args);
}

static enum status sum_norms(struct ibot *ibot)
{
    size_t n = ibot->student.table.n_params;

    TRY(ibot->device->copy_out(ibot->device, ibot->host_norms, ibot->norms, n * sizeof(double)));
    TRY(ibot->device->synchronize(ibot->device));
    ibot->gradient_norm_sum = ibot->gradient_norm_max = 0.0;
    for (size_t i = 0; i < n; i++) {
        ibot->gradient_norm_sum += ibot->host_norms[i];
        ibot->gradient_norm_max = fmax(ibot->gradient_norm_max, ibot->host_norms[i]);
    }
    return STATUS_OK;
}

enum status ibot_update(struct ibot *ibot, const struct step_control *control)
{
    struct collective *ranks = ibot->collective;
    int64_t n = ibot->student.table.n_elements, n_segments = (int64_t)ibot->student.table.n_params;
    struct tensor gradients = tensor_1d(ibot->gradients, DTYPE_F32, n);
    struct tensor means =
        tensor_1d(ibot->bottleneck_mean, DTYPE_F32, 2 * ibot->options.head.bottleneck_dim);
    struct gradient_norms_args norms = {
        .gradient = gradients,
        .norms = tensor_1d(ibot->norms, DTYPE_F64, n_segments),
        .segments = ibot->segments,
        .n_segments = (int32_t)n_segments,
    };
    struct optimizer_step_args step = {
        .parameter = tensor_1d(ibot->student.parameters, DTYPE_F32, n),
        .gradient = gradients,
        .moment1 = tensor_1d(ibot->moment1, DTYPE_F32, n),
        .moment2 = tensor_1d(ibot->moment2, DTYPE_F32, n),
        .teacher = tensor_1d(ibot->teacher.parameters, DTYPE_F32, ibot->teacher.table.n_elements),
        .norms = norms.norms,
        .segments = ibot->segments,
        .control = ibot->control,
        .n_segments = (int32_t)n_segments,
        .kind = ibot->options.optimizer,
        .global_norm = ibot->options.clip_global_norm,
    };

    if (ibot->dtype != DTYPE_F32) {
        step.parameter_half = ibot->student.operands;
        step.teacher_half = ibot->teacher.operands;
    }

    CHECK(ibot->n_micro > 0, "ibot_update without ibot_accumulate");
    TRY(ibot->device->copy_in(ibot->device, ibot->control, control, sizeof(*control)));
    TRY(ranks->all_reduce(ranks, ibot->device, &gradients));
    TRY(ranks->all_reduce(ranks, ibot->device, &means));
    /* before the optimizer: the centre is of the teacher that made the targets */
    TRY(move_centre(ibot, false, ibot->centre, offsetof(struct step_control, centre_momentum)));
    TRY(move_centre(ibot, true, ibot->centre_patch,
                    offsetof(struct step_control, centre_patch_momentum)));
    TRY(ibot->ops->gradient_norms(ibot->device, &norms));
    TRY(ibot->ops->optimizer_step(ibot->device, &step));
    return sum_norms(ibot);
}

enum status ibot_result(struct ibot *ibot, struct ibot_result *out)
{
    double sums[4], world = ibot->collective->world;
    int64_t b = ibot->options.batch_size;
    double cls_rows = (double)ibot->options.n_global * (double)b * ibot->n_micro;

    TRY(ibot->device->copy_out(ibot->device, sums, ibot->sums, sizeof(sums)));
    TRY(ibot->device->synchronize(ibot->device));
    *out = (struct ibot_result){
        .loss = (sums[0] + sums[1]) * world,
        .loss_cls = sums[0] * world,
        .loss_patch = sums[1] * world,
        .teacher_entropy_cls = sums[2] / cls_rows,
        .teacher_entropy_patch =
            ibot->n_masked_sum > 0 ? sums[3] / (double)ibot->n_masked_sum : 0.0,
        .gradient_norm_sum = ibot->gradient_norm_sum,
        .gradient_norm_max = ibot->gradient_norm_max,
        .n_samples = (int32_t)(b * ibot->n_micro),
        .teacher_cluster = ibot->host_clusters,
        .student_cluster = ibot->host_clusters + b * ibot->options.accumulation_steps,
        .n_masked = (int32_t)ibot->n_masked_sum,
    };
    if (!isfinite(out->loss))
        FAIL(STATUS_NOT_FINITE, "the loss is not finite: cls %g, patch %g", out->loss_cls,
             out->loss_patch);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ logits */

/* Logits of chosen rows of head->z, chunk by chunk, to the host. */
static enum status copy_logits(struct ibot *ibot, struct head *head, bool patch, int64_t n_all,
                               int64_t first_row, int64_t n_images, int64_t length, float *out)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    int64_t k = head->last[patch && !head->shared].n_out, per_image = patch ? length - 1 : 1;

    CHECK(n_images <= n_all && bottleneck > 0);
    for (int64_t i = 0; i < n_images; i++)
        for (int64_t j = 0; j < per_image; j += PATCH_CHUNK) {
            int64_t n = per_image - j < PATCH_CHUNK ? per_image - j : PATCH_CHUNK;
            int64_t row = first_row + i * length + (patch ? 1 : 0) + j;
            TRY(head_exact_logits(head, patch, head->z + row * bottleneck, n, ibot->student_patch));
            TRY(ibot->device->copy_out(ibot->device, out + (i * per_image + j) * k,
                                       ibot->student_patch, (size_t)(n * k) * sizeof(float)));
        }
    return ibot->device->synchronize(ibot->device);
}

enum status ibot_logits(struct ibot *ibot, enum ibot_logits_kind kind, float *out, size_t n)
{
    bool teacher = kind == IBOT_TEACHER_CLS || kind == IBOT_TEACHER_PATCH;
    bool patch = kind == IBOT_TEACHER_PATCH || kind == IBOT_STUDENT_PATCH;
    bool local = kind == IBOT_STUDENT_LOCAL_CLS;
    struct network *network = teacher ? &ibot->teacher : &ibot->student;
    struct backbone *backbone = &network->backbone;
    const struct backbone_group *group = &backbone->groups[local ? 1 : 0];
    int64_t rows = backbone->groups[0].n_images * backbone->groups[0].length;
    int64_t first = 0, k = network->head.last[patch && !network->head.shared].n_out;
    struct tensor features = backbone->features;

    if (local && backbone->n_groups < 2)
        FAIL(STATUS_INVALID, "there are no local crops");
    int64_t wanted = group->n_images * (patch ? group->length - 1 : 1) * k;
    if ((int64_t)n != wanted)
        FAIL(STATUS_INVALID, "room for %zu logits, wanted %lld", n, (long long)wanted);
    backbone->rows = backbone->all_rows;
    TRY(backbone_forward(backbone, teacher ? NULL : student_mask(ibot, ibot->n_masked > 0)));
    TRY(head_prepare(&network->head));
    network->head.keep_running = true;
    if (network->head.options.norm == HEAD_NORM_BN) {
        rows = backbone->n_tokens;
        first = group->first_row;
        if (!teacher)
            set_spans(ibot);
    } else if (local) {
        features = shaped_from(features, group->first_row * backbone->width, 0, 0);
        rows = group->n_images * group->length;
    }
    enum status status = head_forward(&network->head, features, rows);
    network->head.keep_running = false;
    TRY(status);
    return copy_logits(ibot, &network->head, patch, rows, first, group->n_images, group->length,
                       out);
}
