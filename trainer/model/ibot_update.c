/* The end of a step: agreement of the ranks, centres, optimizer, teacher average; and the numbers
 * that it leaves behind. Whether the step counts is decided on the device: losses and norms that
 * are not finite hold everything where it was, and the host hears of it when it reads the numbers.
 */
#include <math.h>
#include <stddef.h>

#include "trainer/model/ibot_internal.h"

/* Moves a centre towards the mean logits of the teacher over micro-batches and ranks. */
static enum status move_centre(struct ibot *ibot, const struct step_key *key, bool patch,
                               float *centre, size_t momentum)
{
    int64_t bottleneck = ibot->options.head.bottleneck_dim;
    struct head *teacher = &ibot->teacher.head;
    int64_t k = teacher->last[patch && !teacher->shared].n_out;
    struct centre_update_args args = {
        .centre = tensor_1d(centre, DTYPE_F32, k),
        .sum = tensor_1d(ibot->mean_logits, DTYPE_F32, k),
        .guard = tensor_1d(ibot->numbers.guard, DTYPE_F64, N_GUARDS),
        .momentum = ibot_control_field(ibot, momentum),
        .scale = 1.0f / (float)(key->n_micro * ibot->collective->world),
    };
    TRY(head_exact_logits(teacher, patch, ibot->bottleneck_mean + (patch ? bottleneck : 0), 1,
                          ibot->mean_logits));
    return ibot->ops->centre_update(ibot->device, &args);
}

/* Gradients (unless the backward has seen to it), centre means and losses of all ranks. */
static enum status sum_over_ranks(struct ibot *ibot, const struct step_key *key)
{
    struct collective *ranks = ibot->collective;
    struct tensor sums[] = {
        tensor_1d(ibot->gradients, DTYPE_F32, ibot->student.table.n_elements),
        tensor_1d(ibot->bottleneck_mean, DTYPE_F32, 2 * ibot->options.head.bottleneck_dim),
        tensor_1d(ibot->numbers.guard, DTYPE_F64, N_GUARDS),
    };

    TRY(ibot->device->copy(ibot->device, ibot->numbers.guard, ibot->numbers.sums,
                           N_GUARDS * sizeof(double)));
    for (size_t i = key->summed ? 1 : 0; i < sizeof(sums) / sizeof(sums[0]); i++)
        TRY(ranks->all_reduce(ranks, ibot->device, &sums[i]));
    return STATUS_OK;
}

static enum status move_weights(struct ibot *ibot)
{
    int64_t n = ibot->student.table.n_elements, n_segments = (int64_t)ibot->student.table.n_params;
    struct gradient_norms_args norms = {
        .gradient = tensor_1d(ibot->gradients, DTYPE_F32, n),
        .norms = tensor_1d(ibot->numbers.norms, DTYPE_F64, n_segments),
        .segments = ibot->segments,
        .n_segments = (int32_t)n_segments,
    };
    struct optimizer_step_args step = {
        .parameter = tensor_1d(ibot->student.parameters, DTYPE_F32, n),
        .gradient = norms.gradient,
        .moment1 = tensor_1d(ibot->moment1, DTYPE_F32, n),
        .moment2 = tensor_1d(ibot->moment2, DTYPE_F32, n),
        .teacher = tensor_1d(ibot->teacher.parameters, DTYPE_F32, ibot->teacher.table.n_elements),
        .norms = norms.norms,
        .guard = tensor_1d(ibot->numbers.guard, DTYPE_F64, N_GUARDS),
        .segments = ibot->segments,
        .control = ibot->tables.control,
        .n_segments = (int32_t)n_segments,
        .kind = ibot->options.optimizer,
        .global_norm = ibot->options.clip_global_norm,
    };

    if (ibot->dtype != DTYPE_F32) {
        step.parameter_half = ibot->student.operands;
        step.teacher_half = ibot->teacher.operands;
    }
    TRY(ibot->ops->gradient_norms(ibot->device, &norms));
    return ibot->ops->optimizer_step(ibot->device, &step);
}

static enum status queue_update(struct ibot *ibot, const struct step_key *key)
{
    TRY(sum_over_ranks(ibot, key));
    /* before the optimizer: the centre is of the teacher that made the targets */
    TRY(move_centre(ibot, key, false, ibot->centre,
                    offsetof(struct step_control, centre_momentum)));
    TRY(move_centre(ibot, key, true, ibot->centre_patch,
                    offsetof(struct step_control, centre_patch_momentum)));
    return move_weights(ibot);
}

static enum status copy_numbers(struct ibot *ibot)
{
    return ibot->device->copy_out(ibot->device, ibot->result->numbers.sums, ibot->numbers.sums,
                                  ibot->numbers_bytes);
}

enum status ibot_update(struct ibot *ibot)
{
    struct device *device = ibot->device;
    struct step_key key = {
        .update = true, .summed = ibot->summed, .n_micro = ibot->result->n_micro};

    CHECK(key.n_micro > 0, "ibot_update without ibot_accumulate");
    TRY(ibot_run_part(ibot, &key, queue_update));
    TRY(copy_numbers(ibot));
    TRY(device->mark(device, IBOT_MARK_RESULT + (int)(ibot->n_updates % 2)));
    ibot->n_updates++;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ results */

static enum status read_result(const struct ibot *ibot, const struct step_result *result,
                               struct ibot_result *out)
{
    double world = ibot->collective->world;
    int64_t b = ibot->options.batch_size;
    double cls_rows = (double)ibot->options.n_global * (double)b * result->n_micro;
    const double *sums = result->numbers.sums, *norms = result->numbers.norms;

    *out = (struct ibot_result){
        .loss = (sums[0] + sums[1]) * world,
        .loss_cls = sums[0] * world,
        .loss_patch = sums[1] * world,
        .teacher_entropy_cls = sums[2] / cls_rows,
        .teacher_entropy_patch = result->n_masked > 0 ? sums[3] / (double)result->n_masked : 0.0,
        .n_samples = (int32_t)(b * result->n_micro),
        .teacher_cluster = result->clusters,
        .student_cluster = result->clusters + b * ibot->options.accumulation_steps,
        .n_masked = (int32_t)result->n_masked,
    };
    for (size_t i = 0; i < ibot->student.table.n_params; i++) {
        out->gradient_norm_sum += norms[i];
        out->gradient_norm_max = fmax(out->gradient_norm_max, norms[i]);
    }
    if (!isfinite(out->loss))
        FAIL(STATUS_NOT_FINITE, "the loss is not finite: cls %g, patch %g", out->loss_cls,
             out->loss_patch);
    if (!isfinite(result->numbers.guard[0] + result->numbers.guard[1]))
        FAIL(STATUS_NOT_FINITE, "the loss of another rank is not finite");
    if (!isfinite(out->gradient_norm_sum))
        FAIL(STATUS_NOT_FINITE, "the gradient is not finite");
    return STATUS_OK;
}

enum status ibot_result(struct ibot *ibot, struct ibot_result *out)
{
    TRY(copy_numbers(ibot));
    TRY(ibot->device->synchronize(ibot->device));
    return read_result(ibot, ibot->result, out);
}

enum status ibot_result_before(struct ibot *ibot, struct ibot_result *out)
{
    int which = (int)(ibot->n_updates % 2);

    CHECK(ibot->n_updates >= 2, "no step before the last one");
    TRY(ibot->device->wait_mark(ibot->device, IBOT_MARK_RESULT + which));
    return read_result(ibot, &ibot->results[which], out);
}
