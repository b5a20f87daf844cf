/* The parameter table against the reference's counts, and the initial weights' statistics. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/model_fixture.h"

static struct ibot_options published(const char *arch, bool shared)
{
    struct ibot_options o = model_options_small();

    assert_int_equal(backbone_options_for(&o.backbone, arch), STATUS_OK);
    o.head = (struct head_options){
        .hidden_dim = 2048,
        .bottleneck_dim = 256,
        .out_dim = 8192,
        .patch_out_dim = 8192,
        .shared_student = shared,
        .shared_teacher = shared,
        .activation = ACTIVATION_GELU,
    };
    return o;
}

static int64_t count(const struct param_table *table, const char *prefix)
{
    int64_t n = 0;

    for (size_t i = 0; i < table->n_params; i++)
        if (strncmp(table->params[i].name, prefix, strlen(prefix)) == 0)
            n += table->params[i].n;
    return n;
}

static void architectures_have_the_reference_parameter_counts(void **state)
{
    static const struct {
        const char *arch;
        int64_t backbone, shared_head, unshared_head;
    } wanted[] = {
        {"vit_tiny", 5524416, 7221504, 9326848},    {"vit_small", 21665664, 7614720, 9720064},
        {"vit_base", 85798656, 8401152, 10506496},  {"vit_large", 303301632, 8925440, 11030784},
        {"swin_tiny", 27519354, 8401152, 10506496}, {"swin_small", 48837258, 8401152, 10506496},
        {"swin_base", 86743224, 8925440, 11030784}, {"swin_large", 194995476, 9974016, 12079360},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct ibot_options shared = published(wanted[i].arch, true);
        struct ibot_options unshared = published(wanted[i].arch, false);
        struct param_table student, teacher;
        assert_int_equal(param_table_init(&student, &shared, true), STATUS_OK);
        assert_int_equal(param_table_init(&teacher, &unshared, false), STATUS_OK);
        assert_int_equal(count(&teacher, "backbone."), wanted[i].backbone);
        assert_int_equal(count(&student, "backbone."),
                         wanted[i].backbone + shared.backbone.embed_dim);
        assert_int_equal(count(&student, "head."), wanted[i].shared_head);
        assert_int_equal(count(&teacher, "head."), wanted[i].unshared_head);
        param_table_release(&student);
        param_table_release(&teacher);
    }
}

static void decay_groups_are_the_references(void **state)
{
    struct ibot_options o = published("vit_small", false);
    struct param_table table;
    int64_t tensors[2] = {0}, values[2] = {0};

    (void)state;
    assert_int_equal(param_table_init(&table, &o, true), STATUS_OK);
    for (size_t i = 0; i < table.n_params; i++) {
        int decayed = (table.params[i].flags & SEGMENT_DECAY) != 0;
        tensors[decayed]++;
        values[decayed] += table.params[i].n;
    }
    assert_int_equal(tensors[1], 59);
    assert_int_equal(values[1], 31320704);
    assert_int_equal(tensors[0], 102);
    assert_int_equal(values[0], 65408);
    param_table_release(&table);
}

static void names_come_in_the_order_of_the_original(void **state)
{
    static const char *const first[] = {
        "backbone.cls_token",
        "backbone.pos_embed",
        "backbone.masked_embed",
        "backbone.patch_embed.proj.weight",
        "backbone.patch_embed.proj.bias",
        "backbone.blocks.0.norm1.weight",
        "backbone.blocks.0.norm1.bias",
        "backbone.blocks.0.attn.qkv.weight",
        "backbone.blocks.0.attn.qkv.bias",
        "backbone.blocks.0.attn.proj.weight",
        "backbone.blocks.0.attn.proj.bias",
        "backbone.blocks.0.norm2.weight",
        "backbone.blocks.0.norm2.bias",
        "backbone.blocks.0.mlp.fc1.weight",
        "backbone.blocks.0.mlp.fc1.bias",
        "backbone.blocks.0.mlp.fc2.weight",
        "backbone.blocks.0.mlp.fc2.bias",
        "backbone.blocks.1.norm1.weight",
    };
    struct ibot_options o = published("vit_small", true);
    struct param_table table;

    (void)state;
    assert_int_equal(param_table_init(&table, &o, true), STATUS_OK);
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
        assert_string_equal(table.params[i].name, first[i]);
    assert_string_equal(table.params[table.n_params - 2].name, "head.last_layer.weight_g");
    assert_string_equal(table.params[table.n_params - 1].name, "head.last_layer.weight_v");
    param_table_release(&table);
}

static void an_unknown_architecture_is_named_with_the_known_ones(void **state)
{
    struct backbone_options o;

    (void)state;
    assert_int_equal(backbone_options_for(&o, "vit_smal"), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "vit_smal"));
    assert_non_null(strstr(status_message(), "vit_small"));
    assert_int_equal(backbone_options_for(&o, "deit_small"), STATUS_OK);
    assert_int_equal(o.embed_dim, 384);
}

/* Mean 0, this deviation, nothing beyond `bound`; sampling error of 5 sigma allowed. */
static void expect_spread(const struct ibot *ibot, const char *name, double deviation, double bound)
{
    struct tensor tensor = state_tensor(ibot, name);
    const float *values = tensor.data;
    int64_t n = tensor_n_elements(&tensor);
    double sum = 0.0, squares = 0.0, largest = 0.0;

    for (int64_t i = 0; i < n; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
        largest = fmax(largest, fabs((double)values[i]));
    }
    double scatter = 5.0 / sqrt((double)n);
    if (fabs(sum / (double)n) > deviation * scatter ||
        fabs(sqrt(squares / (double)n) / deviation - 1.0) > scatter || largest > bound)
        fail_msg("%s: mean %g, deviation %g, largest %g", name, sum / (double)n,
                 sqrt(squares / (double)n), largest);
}

static void expect_all(const struct ibot *ibot, const char *name, float value)
{
    struct tensor tensor = state_tensor(ibot, name);

    for (int64_t i = 0; i < tensor_n_elements(&tensor); i++)
        assert_true(((const float *)tensor.data)[i] == value);
}

static struct ibot_options for_statistics(void)
{
    struct ibot_options o = published("vit_tiny", false);

    o.backbone.depth = 2;
    o.head.hidden_dim = 256;
    o.head.out_dim = 512;
    o.head.patch_out_dim = 512;
    o.batch_size = 1;
    return o;
}

static void initial_weights_have_the_reference_distributions(void **state)
{
    struct ibot_options o = for_statistics();
    struct model_fixture f;
    double conv = 1.0 / sqrt(768.0), last = 1.0 / 16.0, root3 = sqrt(3.0);

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 7), STATUS_OK);
    expect_spread(f.ibot, "student.backbone.cls_token", 0.02, 0.12);
    expect_spread(f.ibot, "student.backbone.pos_embed", 0.02, 0.12);
    expect_spread(f.ibot, "student.backbone.blocks.1.attn.qkv.weight", 0.02, 0.12);
    expect_spread(f.ibot, "student.head.mlp.2.weight", 0.02, 0.12);
    expect_spread(f.ibot, "student.backbone.patch_embed.proj.weight", conv / root3, conv);
    expect_spread(f.ibot, "student.backbone.patch_embed.proj.bias", conv / root3, conv);
    expect_spread(f.ibot, "student.head.last_layer.weight_v", last / root3, last);
    expect_spread(f.ibot, "student.head.last_layer2.weight_v", last / root3, last);
    expect_all(f.ibot, "student.backbone.masked_embed", 0.0f);
    expect_all(f.ibot, "student.backbone.blocks.0.mlp.fc1.bias", 0.0f);
    expect_all(f.ibot, "student.backbone.blocks.0.norm1.weight", 1.0f);
    expect_all(f.ibot, "student.backbone.blocks.0.norm1.bias", 0.0f);
    expect_all(f.ibot, "student.head.last_layer.weight_g", 1.0f);
    expect_all(f.ibot, "centre.cls", 0.0f);
    model_fixture_close(&f);
}

static void initial_weights_depend_on_the_seed_alone(void **state)
{
    struct ibot_options o = for_statistics();
    struct model_fixture a, b, c;
    const char *name = "student.backbone.blocks.0.attn.qkv.weight";

    (void)state;
    model_fixture_open(&a, &o);
    o.batch_size = 2;
    model_fixture_open(&b, &o);
    model_fixture_open(&c, &o);
    assert_int_equal(ibot_initialise(a.ibot, 7), STATUS_OK);
    assert_int_equal(ibot_initialise(b.ibot, 7), STATUS_OK);
    assert_int_equal(ibot_initialise(c.ibot, 8), STATUS_OK);
    struct tensor first = state_tensor(a.ibot, name);
    assert_memory_equal(first.data, state_tensor(b.ibot, name).data, tensor_size_bytes(&first));
    assert_memory_not_equal(first.data, state_tensor(c.ibot, name).data, tensor_size_bytes(&first));
    assert_memory_equal(first.data,
                        state_tensor(a.ibot, "teacher.backbone.blocks.0.attn.qkv.weight").data,
                        tensor_size_bytes(&first));
    model_fixture_close(&a);
    model_fixture_close(&b);
    model_fixture_close(&c);
}

static void expect_refused(const struct ibot_options *options, const char *word)
{
    struct device device;
    struct collective alone;
    struct ibot *ibot = NULL;

    assert_int_equal(device_open_cpu(&device, 0), STATUS_OK);
    collective_open_alone(&alone);
    assert_int_equal(ibot_open(&ibot, &device, &op_table_cpu, &alone, options), STATUS_INVALID);
    assert_null(ibot);
    if (strstr(status_message(), word) == NULL)
        fail_msg("'%s' is not in: %s", word, status_message());
    device_close(&device);
}

static void impossible_models_are_refused_with_the_reason(void **state)
{
    struct ibot_options o = model_options_small();

    (void)state;
    o.backbone.n_heads = 5;
    expect_refused(&o, "num_heads");
    o = model_options_small();
    o.local_size_px = 4;
    expect_refused(&o, "smaller than a patch");
    o = model_options_small();
    o.head.shared_student = false;
    o.head.patch_out_dim = 32;
    expect_refused(&o, "patch_out_dim");
    o = model_options_small();
    o.backbone.drop_path = 1.0f;
    expect_refused(&o, "drop_path");
    o = model_options_small();
    o.head.out_dim = 0;
    expect_refused(&o, "out_dim");
    o = model_options_small();
    o.batch_size = 0;
    expect_refused(&o, "batch");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(architectures_have_the_reference_parameter_counts),
        cmocka_unit_test(decay_groups_are_the_references),
        cmocka_unit_test(names_come_in_the_order_of_the_original),
        cmocka_unit_test(an_unknown_architecture_is_named_with_the_known_ones),
        cmocka_unit_test(initial_weights_have_the_reference_distributions),
        cmocka_unit_test(initial_weights_depend_on_the_seed_alone),
        cmocka_unit_test(impossible_models_are_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
