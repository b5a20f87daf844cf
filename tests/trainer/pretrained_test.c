/* Loading weights of any origin: names of others, positions of another resolution, other
 * precisions; and what does not fit is told by name. */
#include "trainer/pretrained.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"
#include "trainer/weights/pth_write.h"

enum { WIDTH = 10, PATCH_PX = 4, MAX_TENSORS = 64 };

struct fixture {
    char folder[64], path[128];
    struct param_table table; /* of the teacher */
    struct weight_record records[MAX_TENSORS];
    char names[MAX_TENSORS][160];
    size_t n;
};

static struct ibot_options model_of(int32_t grid)
{
    struct ibot_options options = model_options_small();

    options.backbone.embed_dim = WIDTH;
    options.backbone.n_heads = 2;
    options.backbone.depth = 1;
    options.backbone.patch_size_px = PATCH_PX;
    options.backbone.image_size_px = grid * PATCH_PX;
    options.global_size_px = grid * PATCH_PX;
    options.n_local = 0;
    return options;
}

/* Records of a flat backbone with a grid of positions, values 0.01 (k + tensor number). */
static int fixture_open(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct ibot_options options = model_of(4);

    strcpy(f->folder, "/tmp/ibot-pretrained-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof(f->path), "%s/w.pth", f->folder);
    assert_int_equal(param_table_init(&f->table, &options, false), STATUS_OK);
    for (size_t i = 0; i < f->table.n_params; i++) {
        const struct param *param = &f->table.params[i];
        if (strncmp(param->name, "backbone.", 9) != 0)
            continue;
        assert_true(f->n < MAX_TENSORS - 2);
        float *values = malloc((size_t)param->n * sizeof(float));
        for (int64_t k = 0; k < param->n; k++)
            values[k] = 0.01f * (float)(k % 97 + (int64_t)i);
        snprintf(f->names[f->n], sizeof(f->names[0]), "%s", param->name + 9);
        struct weight_record *record = &f->records[f->n];
        *record = (struct weight_record){
            .name = f->names[f->n], .dtype = WEIGHT_F32, .rank = param->rank, .data = values};
        memcpy(record->shape, param->shape, sizeof(param->shape));
        f->n++;
    }
    *state = f;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < f->n; i++)
        free((void *)(uintptr_t)f->records[i].data);
    param_table_release(&f->table);
    unlink(f->path);
    int removed = rmdir(f->folder);
    free(f);
    return removed;
}

static struct weight_record *record_of(struct fixture *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->records[i].name, name) == 0)
            return &f->records[i];
    fail_msg("no record '%s'", name);
    return NULL;
}

/* PREFIX before every name, under `key` (NULL: flat); `more` besides, a tensor of one value. */
static void write_file(struct fixture *f, const char *key, const char *prefix, const char *more)
{
    static const float one = 1.0f;
    struct weight_record extra = {.dtype = WEIGHT_F32, .data = &one};
    struct pth_writer writer;
    char name[256];

    pth_writer_open(&writer);
    if (key != NULL) {
        pth_begin_dict(&writer);
        pth_text(&writer, key);
    }
    pth_begin_state_dict(&writer);
    for (size_t i = 0; i < f->n; i++) {
        if (f->records[i].data == NULL)
            continue; /* a test took it away */
        snprintf(name, sizeof(name), "%s%s", prefix, f->records[i].name);
        pth_text(&writer, name);
        pth_tensor(&writer, &f->records[i]);
    }
    if (more != NULL) {
        pth_text(&writer, more);
        pth_tensor(&writer, &extra);
    }
    pth_end_dict(&writer);
    if (key != NULL)
        pth_end_dict(&writer);
    assert_int_equal(pth_writer_commit(&writer, f->path), STATUS_OK);
    pth_writer_close(&writer);
}

static enum status load(struct fixture *f, const char *key, struct model_fixture *model,
                        struct pretrained_report *report)
{
    struct pretrained_options options = {.path = f->path, .key = key, .n_heads = 2};
    struct pretrained pretrained;

    TRY(pretrained_open(&pretrained, &options));
    enum status status = pretrained_load(&pretrained, model->ibot, &model->device, false, report);
    if (status == STATUS_OK) {
        assert_int_equal(pretrained.backbone.embed_dim, WIDTH);
        assert_int_equal(pretrained.backbone.depth, 1);
        assert_int_equal(pretrained.backbone.patch_size_px, PATCH_PX);
        assert_int_equal(pretrained.backbone.mlp_ratio, 4);
    }
    pretrained_close(&pretrained);
    return status;
}

static void expect_loaded(struct fixture *f, struct model_fixture *model)
{
    for (size_t i = 0; i < f->n; i++) {
        char name[256];
        snprintf(name, sizeof(name), "teacher.backbone.%s", f->records[i].name);
        struct tensor to = state_tensor(model->ibot, name);
        float *got = malloc(tensor_size_bytes(&to));
        assert_int_equal(
            model->device.copy_out(&model->device, got, to.data, tensor_size_bytes(&to)),
            STATUS_OK);
        assert_int_equal(model->device.synchronize(&model->device), STATUS_OK);
        assert_memory_equal(got, f->records[i].data, tensor_size_bytes(&to));
        free(got);
    }
}

static void names_of_others_are_known(void **state)
{
    static const struct {
        const char *key, *prefix, *more;
        size_t n_other;
    } files[] = {
        {NULL, "", NULL, 0},                                       /* a backbone alone */
        {"model", "", "head.weight", 1},                           /* DeiT */
        {"state_dict", "", "masked_embed", 0},                     /* iBOT's extractor */
        {"teacher", "backbone.", "head.last_layer.weight_g", 1},   /* iBOT, DINO */
        {"student", "module.backbone.", "module.head.mlp.0.b", 1}, /* the same, wrapped */
    };
    struct fixture *f = *state;
    struct pretrained_report report;
    struct ibot_options options = model_of(4);

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        for (int queued = 0; queued < 2; queued++) {
            struct model_fixture model;
            (queued ? model_fixture_open_queued : model_fixture_open)(&model, &options);
            write_file(f, files[i].key, files[i].prefix, files[i].more);
            if (load(f, NULL, &model, &report) != STATUS_OK)
                fail_msg("%s", status_message());
            assert_int_equal(report.n_loaded, f->n);
            assert_int_equal(report.n_missing + report.n_unexpected + report.n_resized, 0);
            assert_int_equal(report.n_other, files[i].n_other);
            expect_loaded(f, &model);
            model_fixture_close(&model);
        }
    }
}

static void what_does_not_fit_is_named(void **state)
{
    struct fixture *f = *state;
    struct pretrained_report report;
    struct ibot_options options = model_of(4);
    struct model_fixture model;

    model_fixture_open(&model, &options);
    write_file(f, NULL, "", "register_tokens");
    assert_int_equal(load(f, NULL, &model, &report), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "1 are unexpected ('register_tokens')"));
    assert_int_equal(load(f, "teacher", &model, &report), STATUS_NOT_FOUND);

    const void *kept = record_of(f, "norm.bias")->data;
    record_of(f, "norm.bias")->data = NULL;
    write_file(f, NULL, "", NULL);
    assert_int_equal(load(f, NULL, &model, &report), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "1 are missing ('norm.bias')"));
    record_of(f, "norm.bias")->data = kept;

    record_of(f, "norm.weight")->shape[0] = WIDTH - 1;
    write_file(f, NULL, "", NULL);
    assert_int_equal(load(f, NULL, &model, &report), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "'norm.weight' has shape [9], wanted [10]"));
    record_of(f, "norm.weight")->shape[0] = WIDTH;
    record_of(f, "norm.weight")->dtype = WEIGHT_I32;
    write_file(f, NULL, "", NULL);
    assert_int_equal(load(f, NULL, &model, &report), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "has type I32, wanted real numbers"));
    record_of(f, "norm.weight")->dtype = WEIGHT_F32;
    model_fixture_close(&model);
}

static void other_precisions_are_widened(void **state)
{
    static const double doubles[WIDTH] = {1.5, -0.1, 1e300, 0, 3, 4, 5, 6, 7, 8};
    static const uint16_t halves[WIDTH] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000,
                                           0x7c00, 0x3555, 0x0400, 0x03ff, 0x4248};
    static const uint16_t bf16[WIDTH] = {0x3f80, 0xc000, 0x4049, 0x7f80, 0,
                                         0x0001, 0x3eab, 0xbf00, 0x4300, 0x8000};
    static const float half_values[WIDTH] = {1.0f,         -2.0f,    65504.0f,     0x1p-24f,
                                             -0.0f,        INFINITY, 0.333251953f, 0x1p-14f,
                                             0x1.ff8p-15f, 3.140625f};
    struct fixture *f = *state;
    struct pretrained_report report;
    struct ibot_options options = model_of(4);
    struct model_fixture model;
    struct weight_record *a = record_of(f, "norm.bias"), *b = record_of(f, "norm.weight");
    struct weight_record *c = record_of(f, "patch_embed.proj.bias");
    const void *kept[] = {a->data, b->data, c->data};

    model_fixture_open(&model, &options);
    a->data = doubles;
    a->dtype = WEIGHT_F64;
    b->data = halves;
    b->dtype = WEIGHT_F16;
    c->data = bf16;
    c->dtype = WEIGHT_BF16;
    write_file(f, NULL, "", NULL);
    if (load(f, NULL, &model, &report) != STATUS_OK)
        fail_msg("%s", status_message());
    const float *got = state_tensor(model.ibot, "teacher.backbone.norm.bias").data;
    for (int i = 0; i < WIDTH; i++)
        assert_true(got[i] == (float)doubles[i]);
    got = state_tensor(model.ibot, "teacher.backbone.norm.weight").data;
    assert_memory_equal(got, half_values, sizeof(half_values));
    got = state_tensor(model.ibot, "teacher.backbone.patch_embed.proj.bias").data;
    for (int i = 0; i < WIDTH; i++) {
        uint32_t bits;
        memcpy(&bits, &got[i], sizeof(bits));
        assert_int_equal(bits, (uint32_t)bf16[i] << 16);
    }
    model_fixture_close(&model);
    a->data = kept[0];
    b->data = kept[1];
    c->data = kept[2];
}

/* By all who read weights, those who make no network of them too. */
static void a_distilled_network_is_refused(void **state)
{
    struct fixture *f = *state;
    struct pretrained pretrained;

    write_file(f, "model", "", "dist_token");
    for (int names_only = 0; names_only < 2; names_only++) {
        struct pretrained_options options = {
            .path = f->path, .n_heads = 2, .names_only = names_only != 0};
        assert_int_equal(pretrained_open(&pretrained, &options), STATUS_UNSUPPORTED);
        assert_non_null(strstr(status_message(), "key 'model': it has a distillation token"));
    }
}

/* The stored grids have 5 channels: ours has them twice. */
static float *grid_twice(const struct safetensors *golden, const char *name, int64_t n,
                         const float *cls)
{
    const struct safetensors_entry *entry = safetensors_find(golden, name);
    float *out = malloc((size_t)((1 + n * n) * WIDTH) * sizeof(float));

    assert_non_null(entry);
    assert_int_equal(tensor_n_elements(&entry->tensor), n * n * WIDTH / 2);
    memcpy(out, cls, WIDTH * sizeof(float));
    for (int64_t i = 0; i < n * n; i++)
        for (int64_t j = 0; j < WIDTH; j++)
            out[(1 + i) * WIDTH + j] =
                ((const float *)entry->tensor.data)[i * WIDTH / 2 + j % (WIDTH / 2)];
    return out;
}

static void positions_are_interpolated_as_the_original_does(void **state)
{
    static const int64_t sizes[][2] = {{14, 6}, {14, 7}, {14, 12}, {14, 16}, {14, 28}, {8, 4}};
    static const float cls[WIDTH] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct fixture *f = *state;
    struct weight_record *pos = record_of(f, "pos_embed");
    const void *kept = pos->data;
    struct safetensors golden;
    char path[512];

    snprintf(path, sizeof(path), "%s/golden/numerics.safetensors", getenv("IBOT_TEST_DATA"));
    assert_int_equal(safetensors_open(&golden, path), STATUS_OK);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int64_t from = sizes[i][0], to = sizes[i][1];
        struct ibot_options options = model_of((int32_t)to);
        struct pretrained_report report;
        struct model_fixture model;
        char name[64];
        snprintf(name, sizeof(name), "pos_embed%lld", (long long)from);
        float *stored = grid_twice(&golden, name, from, cls);
        snprintf(name, sizeof(name), "pos_embed%lld_to%lld", (long long)from, (long long)to);
        float *wanted = grid_twice(&golden, name, to, cls);
        pos->data = stored;
        pos->shape[1] = 1 + from * from;
        write_file(f, "teacher", "backbone.", NULL);
        model_fixture_open(&model, &options);
        if (load(f, NULL, &model, &report) != STATUS_OK)
            fail_msg("%s", status_message());
        assert_int_equal(report.n_resized, 1);
        const float *got = state_tensor(model.ibot, "teacher.backbone.pos_embed").data;
        assert_memory_equal(got, cls, sizeof(cls));
        double error = relative_error(got, wanted, (1 + to * to) * WIDTH);
        if (!(error < 1e-6))
            fail_msg("%s: error %.2e", name, error);
        model_fixture_close(&model);
        free(stored);
        free(wanted);
    }
    pos->data = kept;
    pos->shape[1] = 1 + 4 * 4;
    safetensors_release(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_of_others_are_known, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_named, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(other_precisions_are_widened, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_distilled_network_is_refused, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(positions_are_interpolated_as_the_original_does,
                                        fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
