/* One training step: teacher and student forward, both losses, backward, update. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "trainer/model/ibot_internal.h"

const float *ibot_control_field(const struct ibot *ibot, size_t offset)
{
    return (const float *)(const void *)((const char *)ibot->tables.control + offset);
}

/* ------------------------------------------------------------------------------ input */

/* Of ImageNet, as everywhere in the original. */
static const float colour_mean[3] = {0.485f, 0.456f, 0.406f};
static const float colour_std[3] = {0.229f, 0.224f, 0.225f};

void ibot_normalise(float *out, const uint8_t *pixels, int64_t n)
{
    float table[3][256];

    patchify_table(table, colour_mean, colour_std);
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++)
            out[c * n + i] = table[c][pixels[3 * i + c]];
}

enum status ibot_reshape(struct ibot *ibot, int32_t height_px, int32_t width_px)
{
    CHECK(ibot->options.inference_only);
    TRY(backbone_reshape(&ibot->teacher.backbone, ibot->teacher.backbone.groups[0].n_images,
                         height_px, width_px));
    ibot->options.global_size_px = height_px;
    ibot->options.global_width_px = width_px;
    return STATUS_OK;
}

enum status ibot_check_images(const struct ibot *ibot, const struct tensor *pixels,
                              const char *what)
{
    int64_t capacity = (int64_t)ibot->options.n_global * ibot->options.batch_size;
    int64_t height = ibot->options.global_size_px, width = ibot->options.global_width_px;
    bool u8 = pixels->dtype == DTYPE_U8;

    width = width > 0 ? width : height;
    if (pixels->rank != 4 || pixels->shape[0] < 1 || pixels->shape[0] > capacity)
        FAIL(STATUS_INVALID, "%s of %lld images: wanted 1 to %lld", what,
             (long long)(pixels->rank == 4 ? pixels->shape[0] : 0), (long long)capacity);
    int64_t got_height = pixels->shape[u8 ? 1 : 2], got_width = pixels->shape[u8 ? 2 : 3];
    if (got_height != height || got_width != width)
        FAIL(STATUS_INVALID, "%s of images of %lld x %lld px, wanted %lld x %lld px", what,
             (long long)got_width, (long long)got_height, (long long)width, (long long)height);
    return STATUS_OK;
}

enum status ibot_patchify(struct ibot *ibot, struct tensor pixels, struct tensor patches)
{
    bool u8 = pixels.dtype == DTYPE_U8;
    int64_t p = ibot->options.backbone.patch_size_px;
    int64_t cells = pixels.shape[u8 ? 1 : 2] / p * (pixels.shape[u8 ? 2 : 3] / p);
    struct patchify_args args = {
        .pixels = pixels,
        .patches = shaped(patches, pixels.shape[0] * cells, 3 * p * p),
        .patch_size = (int32_t)p,
    };

    memcpy(args.mean, colour_mean, sizeof(colour_mean));
    memcpy(args.std, colour_std, sizeof(colour_std));
    return ibot->ops->patchify(ibot->device, &args);
}

enum status ibot_zero_gradients(struct ibot *ibot)
{
    struct device *device = ibot->device;

    ibot->result = &ibot->results[ibot->n_updates % 2];
    ibot->result->n_micro = 0;
    ibot->result->n_masked = 0;
    TRY(device->zero(device, ibot->gradients,
                     (size_t)ibot->student.table.n_elements * sizeof(float)));
    TRY(device->zero(device, ibot->bottleneck_mean,
                     2 * (size_t)ibot->options.head.bottleneck_dim * sizeof(float)));
    return device->zero(device, ibot->numbers.sums, N_SUMS * sizeof(double));
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

static enum status teacher_forward(struct ibot *ibot, const struct step_key *key)
{
    struct network *teacher = &ibot->teacher;
    int64_t images = (int64_t)ibot->options.n_global * ibot->options.batch_size;
    int64_t n = teacher->backbone.n_tokens;

    TRY(backbone_forward(&teacher->backbone, NULL));
    TRY(head_prepare(&teacher->head));
    teacher->head.spans[0] = (struct head_span){0, n};
    TRY(head_forward(&teacher->head, teacher->backbone.features, n));
    TRY(gather(ibot, teacher->head.z, n, ibot->tables.teacher_rows, images + key->n_patch_rows,
               ibot->teacher_z.z));
    TRY(head_copy_vectors(&teacher->head, &ibot->teacher_z, images + key->n_patch_rows));
    TRY(add_mean(ibot, 0));
    TRY(add_mean(ibot, 1));
    return head_logits(&teacher->head, false, &ibot->teacher_z, 0, images, ibot->teacher_cls);
}

uint8_t *ibot_student_mask(const struct ibot *ibot, bool masked)
{
    return masked && ibot->options.masked_im_modeling ? ibot->tables.mask : NULL;
}

void ibot_set_spans(struct ibot *ibot)
{
    struct head *head = &ibot->student.head;
    const struct backbone *backbone = &ibot->student.backbone;
    int64_t globals = backbone->groups[0].n_images * backbone->groups[0].length;

    head->spans[0] = (struct head_span){0, globals};
    head->spans[1] = (struct head_span){globals, backbone->n_tokens - globals};
    head->n_spans = backbone->n_groups;
}

static enum status student_forward(struct ibot *ibot, const struct step_key *key)
{
    struct network *student = &ibot->student;
    struct backbone *backbone = &student->backbone;
    int64_t n = ibot->n_cls + key->n_patch_rows;

    TRY(backbone_forward(backbone, ibot_student_mask(ibot, key->masked)));
    TRY(head_prepare(&student->head));
    ibot_set_spans(ibot);
    TRY(head_forward(&student->head, backbone->features, backbone->rows.n_rows));
    ibot->student_z.z = student->head.z; /* the rows that are needed, in their order */
    if (backbone->rows.index == NULL) {
        ibot->student_z.z = ibot->chosen_z;
        TRY(gather(ibot, student->head.z, backbone->n_tokens, ibot->tables.needed, n,
                   ibot->chosen_z));
    }
    TRY(head_copy_vectors(&student->head, &ibot->student_z, n));
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

    TRY(ibot->ops->rows_argmax(ibot->device, &teacher));
    return ibot->ops->rows_argmax(ibot->device, &student);
}

/* The clusters of a micro-batch to their places on the host. */
static enum status copy_clusters(struct ibot *ibot)
{
    struct step_result *result = ibot->result;
    int64_t b = ibot->options.batch_size;
    int32_t *to = result->clusters + result->n_micro * b;
    size_t bytes = (size_t)b * sizeof(int32_t);

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
        .target = tensor_2d(ibot->constant.cls_target, DTYPE_I32, ibot->n_cls, g),
        .weight = tensor_1d(ibot->constant.cls_weight, DTYPE_F32, ibot->n_cls),
        .student_temp = ibot_control_field(ibot, offsetof(struct step_control, student_temp)),
        .teacher_temp = ibot_control_field(ibot, offsetof(struct step_control, teacher_temp)),
        .loss = tensor_1d(&ibot->numbers.sums[0], DTYPE_F64, 1),
        .d_student = shaped(ibot->d_cls, ibot->n_cls, k),
        .entropy = tensor_1d(&ibot->numbers.sums[2], DTYPE_F64, 1),
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
        .target = tensor_2d(ibot->constant.identity, DTYPE_I32, n, 1),
        .weight = tensor_1d(ibot->tables.patch_weight + first, DTYPE_F32, n),
        .student_temp = ibot_control_field(ibot, offsetof(struct step_control, student_temp)),
        .teacher_temp = ibot_control_field(ibot, offsetof(struct step_control, teacher_patch_temp)),
        .n_active = &ibot->tables.chunk_active[first / PATCH_CHUNK],
        .loss = tensor_1d(&ibot->numbers.sums[1], DTYPE_F64, 1),
        .d_student = shaped(ibot->d_patch, n, k),
        .entropy = tensor_1d(&ibot->numbers.sums[3], DTYPE_F64, 1),
        .scratch = matrix(ibot->scratch, 2, n),
    };
    TRY(head_logits(teacher, true, &ibot->teacher_z, images + first, n, ibot->teacher_patch));
    TRY(head_logits(student, true, &ibot->student_z, ibot->n_cls + first, n, ibot->student_patch));
    TRY(ibot->ops->distill_loss(ibot->device, &args));
    return head_logits_backward(student, true, ibot->d_patch, &ibot->student_z, ibot->n_cls + first,
                                n, d_z);
}

/* ------------------------------------------------------------------------------ backward */

/* Are gradients final after this micro-batch, and others' to be added? */
static bool sums_over_ranks(const struct ibot *ibot, const struct step_key *key)
{
    return key->last && ibot->collective->world > 1;
}

static enum status student_backward(struct ibot *ibot, const struct step_key *key)
{
    uint8_t *mask = ibot_student_mask(ibot, key->masked);
    struct network *student = &ibot->student;
    struct backbone *backbone = &student->backbone;
    int64_t bottleneck = ibot->options.head.bottleneck_dim, n = backbone->rows.n_rows;
    float *d_z = ibot->d_z;

    TRY(head_finish(&student->head));
    if (backbone->rows.index == NULL) { /* back to all rows: student_z has served, raw is free */
        struct rows_scatter_args scatter = {
            matrix(ibot->d_z, ibot->n_cls + key->n_patch_rows, bottleneck),
            tensor_1d(ibot->tables.needed, DTYPE_I32, ibot->n_cls + key->n_patch_rows),
            matrix(student->head.raw, n, bottleneck),
            true,
        };
        TRY(ibot->ops->rows_scatter(ibot->device, &scatter));
        d_z = student->head.raw;
    }
    TRY(head_backward(&student->head, backbone->features, d_z, backbone_d_features(backbone), n));
    if (!sums_over_ranks(ibot, key))
        return backbone_backward(backbone, mask, &(struct gradient_watch){0});
    struct gradient_watch watch = ibot_reduce_begin(ibot);
    TRY(watch.reached(watch.context, student->head.mlp[0].d_weight.data));
    TRY(backbone_backward(backbone, mask, &watch));
    return ibot_reduce_end(ibot);
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

/* All of a micro-batch but its input. Teacher and student need each other only in the losses. */
static enum status queue_micro_batch(struct ibot *ibot, const struct step_key *key)
{
    struct device *device = ibot->device;
    bool apart = ibot->options.head.norm != HEAD_NORM_BN; /* whose ranks agree in one order */

    if (apart) {
        TRY(device->fork(device));
        device->use_branch(device, 1);
    }
    enum status status = teacher_forward(ibot, key);
    device->use_branch(device, 0);
    if (status == STATUS_OK)
        status = student_forward(ibot, key);
    if (apart)
        TRY(device->join(device));
    TRY(status);
    TRY(find_clusters(ibot));
    TRY(cls_loss(ibot));
    for (int64_t first = 0; first < key->n_patch_rows; first += PATCH_CHUNK) {
        int64_t n = key->n_patch_rows - first;
        TRY(patch_chunk(ibot, first, n < PATCH_CHUNK ? n : PATCH_CHUNK));
    }
    return student_backward(ibot, key);
}

enum status ibot_accumulate(struct ibot *ibot, const struct ibot_input *input,
                            const struct step_control *control)
{
    const struct ibot_options *o = &ibot->options;
    struct step_result *result = ibot->result;
    struct step_key key = {.masked = input->masks != NULL,
                           .last = result->n_micro + 1 == o->accumulation_steps};

    CHECK(!o->inference_only && result->n_micro < o->accumulation_steps);
    check_pixels(&input->globals, (int64_t)o->n_global * o->batch_size, o->global_size_px,
                 "global crops");
    if (o->n_local > 0)
        check_pixels(&input->locals, (int64_t)o->n_local * o->batch_size, o->local_size_px,
                     "local crops");
    TRY(ibot_stage(ibot, input, control));
    key.n_patch_rows = ibot->n_patch_rows;
    TRY(ibot_patchify(ibot, input->globals, ibot->patches[0]));
    if (o->n_local > 0)
        TRY(ibot_patchify(ibot, input->locals, ibot->patches[1]));
    TRY(ibot_run_part(ibot, &key, queue_micro_batch));
    ibot->summed = sums_over_ranks(ibot, &key);
    TRY(copy_clusters(ibot));
    result->n_micro++;
    result->n_masked += ibot->n_masked;
    return STATUS_OK;
}
