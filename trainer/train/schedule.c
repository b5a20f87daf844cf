/* Schedules of the original, as formulas. */
#include "trainer/train/schedule.h"

#include "trainer/cosine.h"

enum status schedule_check(const struct schedule *s)
{
    if (s->epochs < 1 || s->steps_per_epoch < 1)
        FAIL(STATUS_INVALID,
             "epochs %d with %lld steps each: nothing to train; use more images or "
             "a smaller --batch_size_per_gpu",
             s->epochs, (long long)s->steps_per_epoch);
    if (s->warmup_epochs > s->epochs)
        FAIL(STATUS_INVALID, "--warmup_epochs %d exceeds --epochs %d: lower it", s->warmup_epochs,
             s->epochs);
    if (s->warmup_teacher_temp_epochs + s->pred_start_epoch > s->epochs)
        FAIL(STATUS_INVALID,
             "--warmup_teacher_temp_epochs %d plus --pred_start_epoch %d exceed "
             "--epochs %d: lower them",
             s->warmup_teacher_temp_epochs, s->pred_start_epoch, s->epochs);
    return STATUS_OK;
}

/* linspace(from, to, n)[i], both ends included. */
static double linspace(double from, double to, int64_t n, int64_t i)
{
    if (n <= 1)
        return from;
    return i == n - 1 ? to : from + (to - from) / (double)(n - 1) * (double)i;
}

static int64_t n_steps(const struct schedule *s)
{
    return s->steps_per_epoch * s->epochs;
}

double schedule_lr(const struct schedule *s, int64_t step)
{
    return cosine_schedule(0.0, s->lr, s->min_lr, s->warmup_epochs * s->steps_per_epoch, n_steps(s),
                           step);
}

double schedule_weight_decay(const struct schedule *s, int64_t step)
{
    return cosine_schedule(0.0, s->weight_decay, s->weight_decay_end, 0, n_steps(s), step);
}

double schedule_momentum(const struct schedule *s, int64_t step)
{
    return cosine_schedule(0.0, s->momentum_teacher, 1.0, 0, n_steps(s), step);
}

double schedule_teacher_temp(const struct schedule *s, int32_t epoch)
{
    if (epoch >= s->warmup_teacher_temp_epochs)
        return s->teacher_temp;
    return linspace(s->warmup_teacher_temp, s->teacher_temp, s->warmup_teacher_temp_epochs, epoch);
}

double schedule_teacher_patch_temp(const struct schedule *s, int32_t epoch)
{
    int32_t since = epoch - s->pred_start_epoch;

    if (since < 0)
        return s->warmup_teacher_patch_temp;
    if (since >= s->warmup_teacher_temp_epochs)
        return s->teacher_patch_temp;
    return linspace(s->warmup_teacher_patch_temp, s->teacher_patch_temp,
                    s->warmup_teacher_temp_epochs, since);
}

void schedule_fill(const struct schedule *s, int64_t step, struct step_control *out)
{
    int64_t frozen = s->freeze_last_layer * s->steps_per_epoch;
    int32_t epoch = (int32_t)(step / s->steps_per_epoch);

    *out = (struct step_control){
        .lr = (float)schedule_lr(s, step),
        .weight_decay = (float)schedule_weight_decay(s, step),
        .teacher_momentum = (float)schedule_momentum(s, step),
        .student_temp = (float)s->student_temp,
        .teacher_temp = (float)schedule_teacher_temp(s, epoch),
        .teacher_patch_temp = (float)schedule_teacher_patch_temp(s, epoch),
        .centre_momentum = (float)s->centre_momentum,
        .centre_patch_momentum = (float)s->centre_patch_momentum,
        .clip_grad = (float)s->clip_grad,
        .freeze_last_layer = epoch < s->freeze_last_layer,
        .step = (int32_t)step,
        .last_layer_step = (int32_t)(step > frozen ? step - frozen : 0),
    };
}
