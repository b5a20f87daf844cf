/* Logits made again from the features of the last micro-batch, for tests and analysis. */
#include "trainer/model/ibot_internal.h"

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
    TRY(backbone_forward(backbone, teacher ? NULL : ibot_student_mask(ibot, ibot->n_masked > 0)));
    TRY(head_prepare(&network->head));
    network->head.keep_running = true;
    if (network->head.options.norm == HEAD_NORM_BN) {
        rows = backbone->n_tokens;
        first = group->first_row;
        if (!teacher)
            ibot_set_spans(ibot);
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
