/* Schedules against the reference's check values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/train/schedule.h"

#define assert_close(got, wanted, relative)                                                        \
    do {                                                                                           \
        double got_ = (got), wanted_ = (wanted);                                                   \
        if (!(fabs(got_ - wanted_) <= (relative)*fabs(wanted_)))                                   \
            fail_msg("%s: got %.12g, wanted %.12g", #got, got_, wanted_);                          \
    } while (0)

/* 100 epochs of ImageNet at batch 1024. */
static struct schedule published(void)
{
    return (struct schedule){
        .steps_per_epoch = 1251,
        .epochs = 100,
        .lr = 5e-4 * 1024 / 256,
        .min_lr = 1e-6,
        .warmup_epochs = 10,
        .weight_decay = 0.04,
        .weight_decay_end = 0.4,
        .momentum_teacher = 0.996,
        .warmup_teacher_temp = 0.04,
        .teacher_temp = 0.07,
        .warmup_teacher_patch_temp = 0.04,
        .teacher_patch_temp = 0.07,
        .warmup_teacher_temp_epochs = 30,
        .freeze_last_layer = 1,
        .student_temp = 0.1,
        .centre_momentum = 0.9,
        .centre_patch_momentum = 0.9,
        .clip_grad = 3.0,
    };
}

static void the_published_schedule_has_the_reference_values(void **state)
{
    struct schedule s = published();

    (void)state;
    assert_true(schedule_lr(&s, 0) == 0.0);
    assert_close(schedule_lr(&s, 1), 1.5988488e-7, 1e-7);
    assert_close(schedule_lr(&s, 12509), 0.002, 1e-14);
    assert_close(schedule_lr(&s, 12510), 0.002, 1e-14);
    assert_close(schedule_lr(&s, 12511), 0.0019999999996, 2e-11);
    assert_close(schedule_lr(&s, 125099), 1.00000039e-6, 1e-8);
    assert_close(schedule_momentum(&s, 62550), 0.998, 1e-14);
    assert_close(schedule_weight_decay(&s, 62550), 0.22, 1e-14);
    assert_true(schedule_momentum(&s, 125099) < 1.0);
}

static void a_short_schedule_has_the_reference_values(void **state)
{
    static const double lr[] = {0.0,        0.004,     0.004,      0.0037321178,
                                0.00300025, 0.0020005, 0.00100075, 0.0002688822};
    static const double momentum[] = {0.9,          0.9038060234, 0.9146446609,
                                      0.9308658284, 0.95,         0.9691341716};
    static const double decay[] = {0.04,        0.0537016841, 0.0927207794,
                                   0.151116982, 0.22,         0.288883018};
    struct schedule s = published();

    (void)state;
    s.steps_per_epoch = 2;
    s.epochs = 4;
    s.warmup_epochs = 1;
    s.lr = 0.004;
    s.momentum_teacher = 0.9;
    for (int i = 0; i < 8; i++)
        assert_close(schedule_lr(&s, i), lr[i], 1e-7);
    for (int i = 0; i < 6; i++) {
        assert_close(schedule_momentum(&s, i), momentum[i], 1e-9);
        assert_close(schedule_weight_decay(&s, i), decay[i], 1e-8);
    }
}

static void temperatures_warm_up_by_epoch(void **state)
{
    struct schedule s = published();

    (void)state;
    assert_close(schedule_teacher_temp(&s, 0), 0.04, 1e-15);
    assert_close(schedule_teacher_temp(&s, 1), 0.0410345, 1e-6);
    assert_close(schedule_teacher_temp(&s, 29), 0.07, 1e-15);
    assert_close(schedule_teacher_temp(&s, 99), 0.07, 1e-15);
    s.pred_start_epoch = 5;
    assert_close(schedule_teacher_patch_temp(&s, 4), 0.04, 1e-15);
    assert_close(schedule_teacher_patch_temp(&s, 5), 0.04, 1e-15);
    assert_close(schedule_teacher_patch_temp(&s, 6), 0.0410345, 1e-6);
    assert_close(schedule_teacher_patch_temp(&s, 30), 0.04 + 0.03 * 25 / 29, 1e-12);
    assert_close(schedule_teacher_patch_temp(&s, 33), 0.04 + 0.03 * 28 / 29, 1e-12);
    assert_close(schedule_teacher_patch_temp(&s, 34), 0.07, 1e-15);
    assert_close(schedule_teacher_patch_temp(&s, 99), 0.07, 1e-15);
    assert_close(schedule_teacher_temp(&s, 29), 0.07, 1e-15); /* which waits for no masks */
    s.warmup_teacher_temp_epochs = 0;
    assert_close(schedule_teacher_temp(&s, 0), 0.07, 1e-15);
    assert_close(schedule_teacher_patch_temp(&s, 4), 0.04, 1e-15);
    assert_close(schedule_teacher_patch_temp(&s, 5), 0.07, 1e-15);
}

/* Each number in its own field; temperatures are those of the step's epoch. */
static void a_step_is_told_everything(void **state)
{
    struct schedule s = published();
    struct step_control control;
    int64_t step = 20 * 1251 + 7;

    (void)state;
    s.teacher_temp = 0.06;
    s.warmup_teacher_patch_temp = 0.05;
    s.pred_start_epoch = 5;
    s.student_temp = 0.2;
    s.centre_momentum = 0.8;
    s.centre_patch_momentum = 0.7;
    s.clip_grad = 0.3;
    schedule_fill(&s, step, &control);
    assert_true(control.lr == (float)schedule_lr(&s, step));
    assert_true(control.weight_decay == (float)schedule_weight_decay(&s, step));
    assert_true(control.teacher_momentum == (float)schedule_momentum(&s, step));
    assert_true(control.student_temp == 0.2f);
    assert_true(control.teacher_temp == (float)schedule_teacher_temp(&s, 20));
    assert_true(control.teacher_patch_temp == (float)schedule_teacher_patch_temp(&s, 20));
    assert_true(control.centre_momentum == 0.8f);
    assert_true(control.centre_patch_momentum == 0.7f);
    assert_true(control.clip_grad == 0.3f);
}

static void the_frozen_last_layer_counts_its_own_steps(void **state)
{
    struct schedule s = published();
    struct step_control control;

    (void)state;
    schedule_fill(&s, 1250, &control);
    assert_int_equal(control.freeze_last_layer, 1);
    assert_int_equal(control.last_layer_step, 0);
    assert_int_equal(control.step, 1250);
    schedule_fill(&s, 1251, &control);
    assert_int_equal(control.freeze_last_layer, 0);
    assert_int_equal(control.last_layer_step, 0);
    schedule_fill(&s, 1260, &control);
    assert_int_equal(control.last_layer_step, 9);
    assert_int_equal(control.step, 1260);
}

static void contradictions_name_the_option(void **state)
{
    struct schedule s = published();

    (void)state;
    assert_int_equal(schedule_check(&s), STATUS_OK);
    s.warmup_epochs = 100;
    s.warmup_teacher_temp_epochs = 80;
    s.pred_start_epoch = 20;
    assert_int_equal(schedule_check(&s), STATUS_OK);
    s.warmup_epochs = 101;
    assert_int_equal(schedule_check(&s), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--warmup_epochs"));
    s = published();
    s.warmup_teacher_temp_epochs = 90;
    s.pred_start_epoch = 20;
    assert_int_equal(schedule_check(&s), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--pred_start_epoch"));
    s = published();
    s.steps_per_epoch = 0;
    assert_int_equal(schedule_check(&s), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_schedule_has_the_reference_values),
        cmocka_unit_test(a_short_schedule_has_the_reference_values),
        cmocka_unit_test(temperatures_warm_up_by_epoch),
        cmocka_unit_test(a_step_is_told_everything),
        cmocka_unit_test(the_frozen_last_layer_counts_its_own_steps),
        cmocka_unit_test(contradictions_name_the_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
