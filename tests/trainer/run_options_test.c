/* What ibot-train can be told: the original's command lines, recipes, contradictions, and what
 * model, data and schedules make of it. */
#include "trainer/train/run_options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_WORDS = 64 };

/* Parses one line of words; the options are released by the caller. */
static enum status parse(struct options *options, struct run_options *values, const char *line)
{
    static char copy[4096];
    char *words[MAX_WORDS + 1] = {"ibot-train"};
    int n = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word != NULL && n < MAX_WORDS; word = strtok(NULL, " "))
        words[n++] = word;
    memset(options, 0, sizeof(*options));
    enum status status = options_parse(options, &run_program, values, n, words);
    if (status == STATUS_OK)
        run_options_settle(values, options);
    return status;
}

static void parse_good(struct options *options, struct run_options *values, const char *line)
{
    if (parse(options, values, line) != STATUS_OK || run_options_check(values) != STATUS_OK)
        fail_msg("%s: %s", line, status_message());
}

static void deterministic_runs_measure_no_algorithm(void **state)
{
    struct run_options values;
    struct options options;

    (void)state;
    parse_good(&options, &values, "--data_path /tmp");
    assert_int_equal(values.backend.matmul_tune, DEVICE_TUNING_ON);
    options_release(&options);
    parse_good(&options, &values, "--data_path /tmp --deterministic");
    assert_int_equal(values.backend.matmul_tune, DEVICE_TUNING_OFF);
    assert_int_equal(values.network.attention, 1); /* own */
    options_release(&options);
    assert_int_equal(parse(&options, &values, "--data_path /tmp --deterministic --matmul_tune on"),
                     STATUS_OK);
    assert_int_equal(run_options_check(&values), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--matmul_tune"));
    options_release(&options);
}

static void the_published_command_line_gives_the_published_run(void **state)
{
    struct run_options values, defaults;
    struct options options, none;
    struct data_spec spec, wanted = data_spec_default();

    (void)state;
    parse_good(&options, &values,
               "--arch vit_small --output_dir /tmp/x --data_path /tmp --teacher_temp 0.07 "
               "--warmup_teacher_temp_epochs 30 --norm_last_layer false --epochs 800 "
               "--batch_size_per_gpu 64 --shared_head true --out_dim 8192 --local_crops_number 10 "
               "--global_crops_scale 0.25 1 --local_crops_scale 0.05 0.25 --pred_ratio 0 0.3 "
               "--pred_ratio_var 0 0.2");
    parse_good(&none, &defaults, "--data_path /tmp");
    assert_true(options_digest(&options) == options_digest(&none));
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_true(data_spec_digest(&spec) == data_spec_digest(&wanted));
    options_release(&options);
    options_release(&none);
}

static void precision_follows_the_backend_unless_it_is_said(void **state)
{
    static const struct {
        const char *line;
        enum ibot_precision precision;
        bool tanh;
    } wanted[] = {
        {"--data /tmp", PRECISION_F32, false},
        {"--data /tmp --gelu tanh", PRECISION_F32, true},
        {"--data /tmp --backend cuda", PRECISION_BF16, true},
        {"--data /tmp --backend cuda --gelu erf", PRECISION_BF16, false},
        {"--data /tmp --backend cuda --precision f32", PRECISION_F32, false},
        {"--data /tmp --backend cuda --use_fp16 off", PRECISION_F32, false},
        {"--data /tmp --backend cuda --use_fp16 off --precision bf16", PRECISION_BF16, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct run_options values;
        struct ibot_options model;
        struct options options;
        parse_good(&options, &values, wanted[i].line);
        assert_int_equal(run_options_model(&values, &model), STATUS_OK);
        assert_int_equal(model.precision, wanted[i].precision);
        assert_int_equal(model.gelu_tanh, wanted[i].tanh);
        assert_true(model.record_steps);
        options_release(&options);
    }
    struct run_options values;
    struct options options;
    assert_int_equal(parse(&options, &values, "--data /tmp --precision bf16"), STATUS_OK);
    assert_int_equal(run_options_check(&values), STATUS_INVALID);
    options_release(&options);
}

static void a_residual_stream_of_bf16_goes_with_bf16_alone(void **state)
{
    static const struct {
        const char *line, *reason; /* NULL: good */
    } wanted[] = {
        {"--data /tmp --backend cuda --residual_stream bf16", NULL},
        {"--data /tmp --residual_stream f32", NULL},
        {"--data /tmp --residual_stream bf16", "give --backend cuda"},
        {"--data /tmp --backend cuda --precision f32 --residual_stream bf16", "--precision bf16"},
        {"--data /tmp --backend cuda --use_fp16 off --residual_stream bf16", "--precision bf16"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct run_options values;
        struct ibot_options model;
        struct options options;
        assert_int_equal(parse(&options, &values, wanted[i].line), STATUS_OK);
        assert_int_equal(run_options_check(&values),
                         wanted[i].reason == NULL ? STATUS_OK : STATUS_INVALID);
        if (wanted[i].reason != NULL)
            assert_non_null(strstr(status_message(), wanted[i].reason));
        assert_int_equal(run_options_model(&values, &model), STATUS_OK);
        assert_int_equal(model.residual_stream, i == 1 ? PRECISION_F32 : PRECISION_BF16);
        options_release(&options);
    }
}

static void every_argument_of_the_original_is_accepted(void **state)
{
    static const char *const lines[] = {
        "--arch deit_small --patch_size 16 --window_size 7 --out_dim 512 --patch_out_dim 512",
        "--shared_head off --shared_head_teacher on --norm_last_layer 1 --momentum_teacher 0.99",
        "--norm_in_head bn --act_in_head relu --use_masked_im_modeling false --pred_ratio 0.3",
        "--pred_ratio 0.3 --pred_ratio_var 0.1 --pred_shape rand --pred_start_epoch 50",
        "--lambda1 0.5 --lambda2 2 --warmup_teacher_temp 0.03 --teacher_temp 0.05",
        "--warmup_teacher_patch_temp 0.03 --teacher_patch_temp 0.06 --use_fp16 true",
        "--warmup_teacher_temp_epochs 3 --weight_decay 0.1 --weight_decay_end 0.2 --clip_grad 0.3",
        "--batch_size_per_gpu 32 --epochs 200 --freeze_last_layer 3 --lr 1e-3 --warmup_epochs 5",
        "--min_lr 2e-6 --optimizer lars --load_from checkpoint.pth --drop_path 0.2",
        "--global_crops_number 2 --global_crops_scale 0.14 1 --local_crops_number 0",
        "--local_crops_scale 0.05 0.4 --output_dir /tmp/y --saveckp_freq 20 --seed 7",
        "--num_workers 10 --dist_url env:// --local_rank 0 --local-rank 0",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct run_options values;
        struct options options;
        char line[512];
        snprintf(line, sizeof(line), "--data_path /tmp %s", lines[i]);
        parse_good(&options, &values, line);
        options_release(&options);
    }
}

static void every_recipe_is_free_of_contradictions(void **state)
{
    static const char *const recipes[] = {"vit_small_16", "vit_base_16",   "vit_large_16",
                                          "swin_tiny_w7", "swin_tiny_w14", "cifar10_small",
                                          "cifar10_swin", "cifar10_vit"};

    (void)state;
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
        struct run_options values;
        struct options options;
        char line[128];
        snprintf(line, sizeof(line), "--data /tmp --recipe %s", recipes[i]);
        parse_good(&options, &values, line);
        options_release(&options);
    }
}

static void a_batch_may_be_left_open_on_an_accelerator(void **state)
{
    struct run_options values;
    struct options options;
    char text[32];

    (void)state;
    parse_good(&options, &values, "--data /tmp --backend cuda --batch_size_per_gpu auto");
    assert_int_equal(values.batch_size_per_gpu, 0);
    assert_string_equal(options_text(&options, "batch_size_per_gpu", text, sizeof(text)), "auto");
    values.batch_size_per_gpu = 96; /* as a run fills it in */
    assert_string_equal(options_text(&options, "batch_size_per_gpu", text, sizeof(text)), "96");
    options_release(&options);
}

static void a_ratio_without_a_range_stays_fixed_as_in_the_original(void **state)
{
    struct run_options values;
    struct options options;
    struct data_spec spec;

    (void)state;
    parse_good(&options, &values, "--data /tmp --pred_ratio 0.3");
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_int_equal(spec.n_pred_ratios, 1);
    assert_true(spec.pred_ratio[0] == 0.3f && spec.pred_ratio_var[0] == 0.0f);
    options_release(&options);
    parse_good(&options, &values, "--data /tmp --pred_ratio 0.2 0.3 --pred_ratio_var 0.1");
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_int_equal(spec.n_pred_ratios, 2); /* one range serves all */
    assert_true(spec.pred_ratio_var[0] == 0.1f && spec.pred_ratio_var[1] == 0.1f);
    options_release(&options);
    parse_good(&options, &values, "--data /tmp --pred_ratio 0");
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_int_equal(spec.n_pred_ratios, 0);
    options_release(&options);
}

static void every_number_of_the_samples_reaches_them(void **state)
{
    struct run_options values;
    struct options options;
    struct data_spec spec;

    (void)state;
    parse_good(&options, &values,
               "--data /tmp --seed 7 --order_seed 9 --global_crops_number 3 --global_crop_size 160 "
               "--global_crops_scale 0.3 0.9 --local_crops_number 5 --local_crop_size 80 "
               "--local_crops_scale 0.1 0.2 --flip 0.15 --jitter_probability 0.25 --grayscale 0.35 "
               "--blur 0.45 0.55 0.65 --solarize 0.75 --color_jitter 0.1 0.2 0.3 0.4 --pred_shape "
               "rand --pred_start_epoch 2");
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_true(spec.seed == 7 && spec.order_seed == 9);
    assert_true(spec.n_global == 3 && spec.global_size_px == 160);
    assert_true(spec.n_local == 5 && spec.local_size_px == 80);
    assert_true(spec.global_scale[0] == 0.3f && spec.global_scale[1] == 0.9f);
    assert_true(spec.local_scale[0] == 0.1f && spec.local_scale[1] == 0.2f);
    const struct view_transform wanted[3] = {{0.15f, 0.25f, 0.35f, 0.45f, 0.0f},
                                             {0.15f, 0.25f, 0.35f, 0.55f, 0.75f},
                                             {0.15f, 0.25f, 0.35f, 0.65f, 0.0f}};
    assert_memory_equal(&spec.first, &wanted[0], sizeof(wanted[0]));
    assert_memory_equal(&spec.other, &wanted[1], sizeof(wanted[0]));
    assert_memory_equal(&spec.local, &wanted[2], sizeof(wanted[0]));
    assert_true(spec.brightness == 0.1f && spec.contrast == 0.2f);
    assert_true(spec.saturation == 0.3f && spec.hue == 0.4f);
    assert_true(spec.mask_shape == MASK_RANDOM && spec.pred_start_epoch == 2);
    options_release(&options);
}

static void every_number_of_the_schedules_reaches_them(void **state)
{
    struct run_options values;
    struct options options;
    struct schedule s;

    (void)state;
    parse_good(&options, &values,
               "--data /tmp --epochs 50 --batch_size_per_gpu 32 --lr 0.002 --min_lr 1e-5 "
               "--warmup_epochs 3 --weight_decay 0.05 --weight_decay_end 0.3 --momentum_teacher "
               "0.99 --warmup_teacher_temp 0.03 --teacher_temp 0.05 --warmup_teacher_patch_temp "
               "0.035 --teacher_patch_temp 0.06 --warmup_teacher_temp_epochs 4 --pred_start_epoch "
               "2 --freeze_last_layer 5 --student_temp 0.2 --center_momentum 0.8 "
               "--center_momentum2 0.7 --clip_grad 0.4");
    run_options_schedule(&values, 100, 4, &s);
    assert_true(s.steps_per_epoch == 100 && s.epochs == 50 && s.warmup_epochs == 3);
    assert_true(s.lr == 0.002 * (32 * 4) / 256 && s.min_lr == 1e-5);
    assert_true(s.weight_decay == 0.05 && s.weight_decay_end == 0.3);
    assert_true(s.momentum_teacher == 0.99);
    assert_true(s.warmup_teacher_temp == 0.03 && s.teacher_temp == 0.05);
    assert_true(s.warmup_teacher_patch_temp == 0.035 && s.teacher_patch_temp == 0.06);
    assert_true(s.warmup_teacher_temp_epochs == 4 && s.pred_start_epoch == 2);
    assert_true(s.freeze_last_layer == 5 && s.student_temp == 0.2 && s.clip_grad == 0.4);
    assert_true(s.centre_momentum == 0.8 && s.centre_patch_momentum == 0.7);
    options_release(&options);
}

static void contradictions_name_the_options(void **state)
{
    static const struct {
        const char *line, *first, *second;
    } cases[] = {
        {"--warmup_epochs 9 --epochs 8 --warmup_teacher_temp_epochs 0", "--warmup_epochs 9",
         "--epochs 8"},
        {"--epochs 20", "--warmup_teacher_temp_epochs 30", "--epochs 20"},
        {"--epochs 40 --pred_start_epoch 20", "--pred_start_epoch 20", "--epochs 40"},
        {"--pred_ratio 0.1 --pred_ratio_var 0.2", "--pred_ratio_var 0.2", "--pred_ratio 0.1"},
        {"--pred_ratio 0 0.3 --pred_ratio_var 0 0.1 0.2", "--pred_ratio has 2", "3"},
        {"--global_crop_size 225", "--global_crop_size 225", "--patch_size 16"},
        {"--local_crop_size 10", "--local_crop_size 10", "--patch_size 16"},
        {"--global_crops_scale 1 0.2", "--global_crops_scale", "lower one first"},
        {"--local_crops_scale 0.2", "--local_crops_scale", "two shares"},
        {"--blur 1 0.1", "--blur", "three"},
        {"--color_jitter 0.4 0.4 0.2 0.6", "--color_jitter", "hue"},
        {"--embed_dim 100 --num_heads 3", "--embed_dim 100", "--num_heads 3"},
        {"--global_crops_number 1 --local_crops_number 0", "--global_crops_number 1",
         "--local_crops_number 0"},
        {"--arch vit_huge", "arch", "vit_large"},
        {"--arch swin_huge", "arch", "swin_large"},
        {"--arch swin_tiny --patch_size 16", "--patch_size 16", "mask cell 32 px"},
        {"--arch swin_tiny --depth 12", "--depth 12", "swin_tiny"},
        {"--arch swin_tiny --embed_dim 100", "embed_dim 100", "num_heads 3"},
        {"--arch swin_tiny --global_crop_size 100", "--global_crop_size 100", "32"},
        {"--arch swin_tiny --global_crop_size 16 --pred_ratio 0", "16 px", "32 px"},
        {"--data /nowhere/at/all", "--data '/nowhere/at/all'", "No such"},
        {"--data /dev/null", "--data '/dev/null'", "neither a folder"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run_options values;
        struct options options;
        char line[256];
        snprintf(line, sizeof(line), "--data /tmp %s", cases[i].line);
        assert_int_equal(parse(&options, &values, line), STATUS_OK);
        assert_int_equal(run_options_check(&values), STATUS_INVALID);
        if (strstr(status_message(), cases[i].first) == NULL ||
            strstr(status_message(), cases[i].second) == NULL)
            fail_msg("%s: %s", cases[i].line, status_message());
        options_release(&options);
    }
}

static void data_must_come_from_somewhere(void **state)
{
    struct run_options values;
    struct options options;

    (void)state;
    assert_int_equal(parse(&options, &values, "--epochs 100"), STATUS_OK);
    assert_int_equal(run_options_check(&values), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--data DIR"));
    options_release(&options);
    assert_int_equal(parse(&options, &values, "--listen tcp://127.0.0.1:0 --loaders 2"), STATUS_OK);
    assert_int_equal(run_options_check(&values), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--loaders 2"));
    options_release(&options);
    parse_good(&options, &values, "--listen tcp://127.0.0.1:0");
    options_release(&options);
}

/* In the original a Swin's mask cell is 8 patches: with the default patch of 16 px a crop has one
 * cell, and never a mask. */
static void a_swin_has_its_own_patches_cells_and_depth(void **state)
{
    struct run_options values;
    struct options options;
    struct ibot_options model;
    struct data_spec spec;

    (void)state;
    parse_good(&options, &values, "--data /tmp --arch swin_tiny --window_size 14");
    assert_int_equal(run_options_model(&values, &model), STATUS_OK);
    assert_int_equal(run_options_data(&values, &spec), STATUS_OK);
    assert_int_equal(spec.mask_cell_px, 32);
    assert_int_equal(values.patch_size, 4);
    assert_int_equal(model.backbone.patch_size_px, 4);
    assert_int_equal(model.backbone.window_size, 14);
    assert_true(model.backbone.drop_path == 0.1f);
    options_release(&options);
    parse_good(&options, &values, "--data /tmp --arch swin_base --patch_size 4 --drop_path 0.3");
    assert_int_equal(run_options_model(&values, &model), STATUS_OK);
    assert_true(model.backbone.drop_path == 0.3f);
    options_release(&options);
    parse_good(&options, &values, "--data /tmp --arch swin_large");
    assert_true(values.drop_path == 0.2f);
    options_release(&options);
    parse_good(&options, &values, "--data /tmp --arch vit_small"); /* and a ViT has not */
    assert_true(values.drop_path == 0.1f && values.patch_size == 16);
    options_release(&options);
}

static void the_learning_rate_follows_the_total_batch(void **state)
{
    struct run_options values;
    struct options options;
    struct schedule schedule;

    (void)state;
    parse_good(&options, &values, "--data /tmp --accumulation_steps 2");
    run_options_schedule(&values, 1251, 8, &schedule);
    assert_true(schedule.lr == 0.002); /* 8 ranks, 2 micro-batches of 64: 1024 images */
    assert_true(schedule.min_lr == 1e-6);
    options_release(&options);
}

static void a_typo_is_answered_with_the_nearest_name(void **state)
{
    struct run_options values;
    struct options options;

    (void)state;
    assert_int_equal(parse(&options, &values, "--data /tmp --teacher_tmp 0.1"), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--teacher_temp"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_command_line_gives_the_published_run),
        cmocka_unit_test(deterministic_runs_measure_no_algorithm),
        cmocka_unit_test(precision_follows_the_backend_unless_it_is_said),
        cmocka_unit_test(a_residual_stream_of_bf16_goes_with_bf16_alone),
        cmocka_unit_test(every_argument_of_the_original_is_accepted),
        cmocka_unit_test(every_recipe_is_free_of_contradictions),
        cmocka_unit_test(a_batch_may_be_left_open_on_an_accelerator),
        cmocka_unit_test(a_ratio_without_a_range_stays_fixed_as_in_the_original),
        cmocka_unit_test(every_number_of_the_samples_reaches_them),
        cmocka_unit_test(every_number_of_the_schedules_reaches_them),
        cmocka_unit_test(contradictions_name_the_options),
        cmocka_unit_test(data_must_come_from_somewhere),
        cmocka_unit_test(a_swin_has_its_own_patches_cells_and_depth),
        cmocka_unit_test(the_learning_rate_follows_the_total_batch),
        cmocka_unit_test(a_typo_is_answered_with_the_nearest_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
