/* Linear classifiers in files of every kind, and which features they take. */
#include "trainer/linear_head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"
#include "trainer/weights/pth_write.h"
#include "trainer/weights/safetensors.h"

enum { K = 3, D = 8 };

static int folder_open(void **state)
{
    return test_folder_open(state, "linear.safetensors");
}

/* Values by which each classifier is known. */
static float values[4][K * D];

static void fill(void)
{
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < K * D; i++)
            values[c][i] = 100.0f * (float)c + (float)i;
}

/* The original's file: {"epoch", "state_dict": {"N.module.linear.weight", …}, "best_acc_hidx"}. */
static void write_original(const char *path, int n, int best)
{
    struct weight_record weight[4], bias[4];
    struct pth_writer writer;
    char names[8][64];

    fill();
    pth_writer_open(&writer);
    pth_begin_dict(&writer);
    pth_text(&writer, "epoch");
    pth_integer(&writer, 7);
    pth_text(&writer, "state_dict");
    pth_begin_state_dict(&writer);
    for (int c = 0; c < n; c++) {
        snprintf(names[2 * c], sizeof(names[0]), "%d.module.linear.weight", c);
        snprintf(names[2 * c + 1], sizeof(names[0]), "%d.module.linear.bias", c);
        weight[c] = (struct weight_record){
            .name = names[2 * c], .dtype = WEIGHT_F32, .rank = 2, .shape = {K, D}};
        weight[c].data = values[c];
        bias[c] = (struct weight_record){
            .name = names[2 * c + 1], .dtype = WEIGHT_F32, .rank = 1, .shape = {K}};
        bias[c].data = values[c];
        pth_text(&writer, names[2 * c]);
        pth_tensor(&writer, &weight[c]);
        pth_text(&writer, names[2 * c + 1]);
        pth_tensor(&writer, &bias[c]);
    }
    pth_end_dict(&writer);
    pth_text(&writer, "best_acc");
    pth_real(&writer, 61.25);
    if (best >= 0) {
        pth_text(&writer, "best_acc_hidx");
        pth_integer(&writer, best);
    }
    pth_end_dict(&writer);
    assert_int_equal(pth_writer_commit(&writer, path), STATUS_OK);
    pth_writer_close(&writer);
}

static void of_many_classifiers_the_best_one_is_taken(void **state)
{
    const char *path = ((struct test_folder *)*state)->path; /* the name says nothing */
    struct linear_head head;

    write_original(path, 3, 2);
    assert_int_equal(linear_head_read(&head, path), STATUS_OK);
    assert_int_equal(head.n_classes, K);
    assert_int_equal(head.dim, D);
    assert_memory_equal(head.weight, values[2], sizeof(values[2]));
    assert_memory_equal(head.bias, values[2], K * sizeof(float));
    assert_int_equal(head.epoch, 7);
    assert_true(head.top1 == 61.25);
    assert_int_equal(head.features.n_last_blocks, 0); /* it does not say */
    linear_head_release(&head);

    write_original(path, 3, -1);
    assert_int_equal(linear_head_read(&head, path), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "best_acc_hidx"));
    write_original(path, 3, 3); /* there is none of that number */
    assert_int_equal(linear_head_read(&head, path), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "3.linear.weight"));
}

static void write_ours(const char *path, const char *weight, const char *bias, int64_t n_bias,
                       const char *const *metadata, size_t n_pairs)
{
    fill();
    struct safetensors_item items[] = {
        {weight, tensor_2d(values[1], DTYPE_F32, K, D)},
        {bias, tensor_1d(values[1], DTYPE_F32, n_bias)},
    };
    assert_int_equal(safetensors_write(path, items, 2, metadata, n_pairs), STATUS_OK);
}

static void a_folder_of_ours_says_what_it_takes(void **state)
{
    const char *const metadata[] = {
        "epoch", "5", "top1", "71.5000", "n_last_blocks", "1", "avgpool_patchtokens", "2"};
    const struct test_folder *f = *state;
    const char *path = f->path;
    struct linear_head head;

    write_ours(path, "linear.weight", "linear.bias", K, metadata, 4);
    assert_int_equal(linear_head_read(&head, f->folder), STATUS_OK);
    assert_memory_equal(head.weight, values[1], sizeof(values[1]));
    assert_int_equal(head.epoch, 5);
    assert_true(head.top1 == 71.5);
    assert_int_equal(head.features.n_last_blocks, 1);
    assert_int_equal(head.features.avgpool, 2);
    linear_head_release(&head);
    unlink(path);

    assert_int_equal(linear_head_read(&head, f->folder), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "no linear.safetensors in the folder"));
    assert_null(head.weight);
}

static void what_is_no_classifier_is_told(void **state)
{
    const char *path = ((struct test_folder *)*state)->path;
    struct linear_head head;

    write_ours(path, "linear.weight", "linear.bias", K - 1, NULL, 0);
    assert_int_equal(linear_head_read(&head, path), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "'linear.bias' [2]: wanted [K, D] and [K]"));
    write_ours(path, "linear.weight", "bias", K, NULL, 0);
    assert_int_equal(linear_head_read(&head, path), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "no linear classifier in it"));
    /* a network's own classifier is one beside its backbone, not in a file of classifiers */
    write_ours(path, "head.weight", "head.bias", K, NULL, 0);
    assert_int_equal(linear_head_read(&head, path), STATUS_NOT_FOUND);
}

/* Beside a backbone a network's own classifier counts, on [CLS] of its last block: DeiT's. */
static void a_supervised_network_has_its_own(void **state)
{
    const char *path = ((struct test_folder *)*state)->path;
    struct pretrained pretrained = {0};
    struct linear_head head;

    write_ours(path, "head.weight", "head.bias", K, NULL, 0);
    assert_int_equal(weight_file_open(&pretrained.file, path), STATUS_OK);
    assert_int_equal(weight_selection_open(&pretrained.selection, &pretrained.file, NULL),
                     STATUS_OK);
    assert_int_equal(pretrained.selection.n_backbone, 0);
    assert_int_equal(linear_head_within(&head, &pretrained), STATUS_OK);
    assert_memory_equal(head.weight, values[1], sizeof(values[1]));
    assert_int_equal(head.features.n_last_blocks, 1);
    assert_int_equal(head.features.avgpool, 0);
    linear_head_release(&head);
    weight_selection_release(&pretrained.selection);
    weight_file_release(&pretrained.file);

    /* what was trained on features is meant, where both are there; it is no backbone's either */
    fill();
    struct safetensors_item items[] = {
        {"head.weight", tensor_2d(values[1], DTYPE_F32, K, D)},
        {"head.bias", tensor_1d(values[1], DTYPE_F32, K)},
        {"linear.weight", tensor_2d(values[2], DTYPE_F32, K, D)},
        {"linear.bias", tensor_1d(values[2], DTYPE_F32, K)},
    };
    assert_int_equal(safetensors_write(path, items, 4, NULL, 0), STATUS_OK);
    assert_int_equal(weight_file_open(&pretrained.file, path), STATUS_OK);
    assert_int_equal(weight_selection_open(&pretrained.selection, &pretrained.file, NULL),
                     STATUS_OK);
    assert_int_equal(pretrained.selection.n_backbone, 0);
    assert_int_equal(linear_head_within(&head, &pretrained), STATUS_OK);
    assert_memory_equal(head.weight, values[2], sizeof(values[2]));
    linear_head_release(&head);
    weight_selection_release(&pretrained.selection);
    weight_file_release(&pretrained.file);
}

/* width, depth, Swin? of `dim` features; what is wanted of it. */
static void features_fit_the_width(void **state)
{
    static const struct {
        int32_t dim, depth, n_stages;
        int32_t said[2], wanted[2], n, avgpool; /* n 0: refused */
    } cases[] = {
        {1536, 12, 0, {0, 0}, {0, 0}, 4, 0}, /* ViT-S, n 4, a 0 */
        {384, 12, 0, {0, 0}, {0, 0}, 1, 0},
        {768, 12, 0, {0, 0}, {0, 0}, 1, 2}, /* as the original's base and large have it */
        {768, 12, 0, {2, 0}, {0, 0}, 2, 0}, /* the file knows better */
        {768, 12, 0, {1, 2}, {2, 0}, 2, 0}, /* and who asks knows best */
        {384, 12, 0, {0, 0}, {3, 1}, 3, 1},
        {768, 12, 0, {0, 0}, {1, 0}, 0, 0},
        {1000, 12, 0, {0, 0}, {0, 0}, 0, 0},
        {384 * 13, 12, 0, {0, 0}, {0, 0}, 0, 0},
        /* a Swin of stages of two blocks, 384 and 768 wide: two of the last, two of the first */
        {768, 4, 2, {0, 0}, {0, 0}, 1, 0},
        {768 + 768 + 384, 4, 2, {0, 0}, {0, 0}, 3, 0},
        {768 + 768 + 384 + 384, 4, 2, {0, 0}, {0, 0}, 4, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct backbone_options backbone = {.embed_dim = 384,
                                            .depth = cases[i].depth,
                                            .n_stages = cases[i].n_stages,
                                            .stage_depth = {2, 2}};
        struct ibot_feature_options wanted = {.n_last_blocks = cases[i].wanted[0],
                                              .avgpool = cases[i].wanted[1]};
        struct linear_head head = {.dim = cases[i].dim};
        head.features.n_last_blocks = cases[i].said[0];
        head.features.avgpool = cases[i].said[1];
        enum status status = linear_head_settle(&head, &backbone, &wanted);
        if (status != (cases[i].n > 0 ? STATUS_OK : STATUS_MISMATCH))
            fail_msg("case %zu: %s", i, status_message());
        if (cases[i].n == 0)
            continue;
        assert_int_equal(head.features.n_last_blocks, cases[i].n);
        assert_int_equal(head.features.avgpool, cases[i].avgpool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(of_many_classifiers_the_best_one_is_taken, folder_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_folder_of_ours_says_what_it_takes, folder_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(what_is_no_classifier_is_told, folder_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_supervised_network_has_its_own, folder_open,
                                        test_folder_close),
        cmocka_unit_test(features_fit_the_width),
    };
    return cmocka_run_group_tests_name("trainer.linear_head", tests, NULL, NULL);
}
