/* Small models with known weights. */
#include "tests/trainer/model_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "tests/support/queued_device.h"

struct ibot_options model_options_small(void)
{
    return (struct ibot_options){
        .backbone = {.arch = "small test",
                     .embed_dim = 32,
                     .depth = 2,
                     .n_heads = 2,
                     .mlp_ratio = 4,
                     .patch_size_px = 8,
                     .image_size_px = 32,
                     .layer_norm_eps = 1e-6f},
        .head = {.hidden_dim = 48,
                 .bottleneck_dim = 16,
                 .out_dim = 64,
                 .patch_out_dim = 64,
                 .shared_student = true,
                 .shared_teacher = true,
                 .activation = ACTIVATION_GELU},
        .batch_size = 2,
        .n_global = 2,
        .global_size_px = 32,
        .n_local = 2,
        .local_size_px = 16,
        .masked_im_modeling = true,
        .lambda1 = 1.0f,
        .lambda2 = 1.0f,
        .accumulation_steps = 1,
    };
}

struct ibot_options model_options_small_swin(void)
{
    struct ibot_options o = model_options_small();

    o.backbone = (struct backbone_options){
        .arch = "small swin",
        .embed_dim = 16,
        .depth = 4,
        .n_heads = 2,
        .mlp_ratio = 4,
        .patch_size_px = 4,
        .image_size_px = 32,
        .layer_norm_eps = 1e-6f,
        .n_stages = 2,
        .stage_depth = {2, 2},
        .stage_heads = {2, 4},
        .window_size = 4,
    };
    return o;
}

void model_fixture_open(struct model_fixture *fixture, const struct ibot_options *options)
{
    memset(fixture, 0, sizeof(*fixture));
    if (device_open_cpu(&fixture->device, 0) != STATUS_OK)
        fail_msg("%s", status_message());
    collective_open_alone(&fixture->collective);
    if (ibot_open(&fixture->ibot, &fixture->device, &op_table_cpu, &fixture->collective, options) !=
        STATUS_OK)
        fail_msg("%s", status_message());
}

void model_fixture_open_queued(struct model_fixture *fixture, const struct ibot_options *options)
{
    memset(fixture, 0, sizeof(*fixture));
    collective_open_alone(&fixture->collective);
    if (queued_device_open(&fixture->device, 2) != STATUS_OK ||
        ibot_open(&fixture->ibot, &fixture->device, &op_table_queued, &fixture->collective,
                  options) != STATUS_OK ||
        fixture->device.synchronize(&fixture->device) != STATUS_OK)
        fail_msg("%s", status_message());
}

void model_fixture_close(struct model_fixture *fixture)
{
    ibot_close(&fixture->ibot);
    collective_close(&fixture->collective);
    device_close(&fixture->device);
}

void fill_parameter(const struct param *param, float *values, int64_t t)
{
    const char *end = strrchr(param->name, '.');
    bool gain = end != NULL && strcmp(end, ".weight_g") == 0;
    bool batch = strstr(param->name, ".bn.") != NULL || strstr(param->name, "fpn1.1.") != NULL;
    bool norm = (strstr(param->name, "norm") != NULL || batch) && end != NULL &&
                (strcmp(end, ".weight") == 0 || strcmp(end, ".running_var") == 0);

    for (int64_t k = 0; k < param->n; k++) {
        float value = (float)(0.1 * sin(0.7 * (double)t + 0.37 * (double)k));
        values[k] = gain ? 1.0f : norm ? value + 1.0f : value;
    }
}

void fill_model(struct ibot *ibot)
{
    const struct param_table *table = &ibot->student.table;

    for (size_t i = 0; i < table->n_params; i++)
        fill_parameter(&table->params[i], ibot->student.parameters + table->params[i].offset,
                       (int64_t)i);
    if (ibot_teacher_from_student(ibot) != STATUS_OK)
        fail_msg("%s", status_message());
}

void fill_wave(float *values, int64_t n, double phase)
{
    for (int64_t k = 0; k < n; k++)
        values[k] = (float)sin(0.05 * (double)k + phase);
}

void fill_random(float *values, int64_t n, uint64_t seed)
{
    struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});

    for (int64_t k = 0; k < n; k++)
        values[k] = (float)rng_range(&rng, -1.0, 1.0);
}

struct step_control plain_control(double lr, int32_t step)
{
    return (struct step_control){
        .lr = (float)lr,
        .weight_decay = 0.04f,
        .teacher_momentum = 0.99f,
        .student_temp = 0.1f,
        .teacher_temp = 0.05f,
        .teacher_patch_temp = 0.06f,
        .centre_momentum = 0.9f,
        .centre_patch_momentum = 0.9f,
        .step = step,
        .last_layer_step = step,
    };
}

struct tensor state_tensor(const struct ibot *ibot, const char *name)
{
    struct ibot_state_entry entry;

    for (size_t i = 0; i < ibot_n_state(ibot); i++) {
        ibot_state(ibot, i, &entry);
        if (strcmp(entry.name, name) == 0)
            return entry.tensor;
    }
    fail_msg("no state entry '%s'", name);
    return (struct tensor){0};
}

double relative_error(const float *got, const float *wanted, int64_t n)
{
    double error = 0.0, largest = 0.0;

    for (int64_t i = 0; i < n; i++) {
        double difference = fabs((double)got[i] - (double)wanted[i]);
        error = difference > error || isnan(difference) ? difference : error;
        largest = fmax(largest, fabs((double)wanted[i]));
    }
    return largest > 0.0 ? error / largest : error;
}

double sum_of(const float *values, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)values[i];
    return sum;
}

double absolute_sum(const float *values, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)values[i]);
    return sum;
}
