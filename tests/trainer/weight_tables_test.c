/* Published weights by name and shape: files with the tensors of ViT-S, ViT-B, ViT-L and Swin-T as
 * timm (and DeiT) and iBOT have them are the networks that we make, and what we write has the very
 * same tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"
#include "tests/trainer/sparse_weights.h"
#include "trainer/architecture.h"
#include "trainer/model/params.h"
#include "trainer/weights/weight_export.h"

static const char *const archs[] = {"vit_small", "vit_base", "vit_large", "swin_tiny"};
enum { N_ARCHS = sizeof(archs) / sizeof(archs[0]), IBOT_OUT_DIM = 8192 };

static int fixture_open(void **state)
{
    return test_folder_open(state, "in");
}

static struct table published(const char *arch, const char *kind)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/weights/tables/%s.%s.txt", getenv("IBOT_TEST_DATA"), arch,
             kind);
    return table_read(path);
}

static void must(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

static struct ibot_options model_of(const struct backbone_options *backbone)
{
    return (struct ibot_options){
        .backbone = *backbone,
        .head = {.hidden_dim = 2048,
                 .bottleneck_dim = 256,
                 .out_dim = IBOT_OUT_DIM,
                 .patch_out_dim = IBOT_OUT_DIM,
                 .shared_student = true,
                 .shared_teacher = true},
    };
}

static void same_shape(const char *name, int rank, const int64_t *shape, int wanted_rank,
                       const int64_t *wanted)
{
    if (rank != wanted_rank || memcmp(shape, wanted, (size_t)rank * sizeof(int64_t)) != 0)
        fail_msg("another shape: %s", name);
}

/* ------------------------------------------------------------------------------ reading */

/* Every parameter of our backbone is in the file, and nothing else. */
static void expect_backbone(const struct weight_selection *s, const struct param_table *table)
{
    size_t n_found = 0, n_derived = 0;

    for (size_t i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        if (strncmp(param->name, "backbone.", 9) != 0)
            continue;
        const struct weight_selected *found = weight_selection_find(s, param->name + 9);
        if (found == NULL)
            fail_msg("no tensor for %s", param->name);
        same_shape(param->name, found->entry->rank, found->entry->shape, param->rank, param->shape);
        n_found++;
    }
    for (size_t i = 0; i < s->n; i++)
        n_derived += s->tensors[i].backbone && weight_name_is_derived(s->tensors[i].name);
    assert_int_equal(n_found + n_derived, s->n_backbone);
}

static void published_weights_are_the_networks_we_make(void **state)
{
    struct test_folder *f = *state;
    const char *const kinds[] = {"timm", "ibot"};

    for (int i = 0; i < N_ARCHS * 2; i++) {
        struct table table = published(archs[i / 2], kinds[i % 2]);
        struct architecture_hints hints = {.arch = archs[i / 2], .arch_must_fit = true};
        struct backbone_options backbone, named;
        struct weight_selection selection;
        struct param_table params;
        struct weight_file file;

        sparse_safetensors(f->path, &table);
        must(weight_file_open(&file, f->path));
        must(weight_selection_open(&selection, &file, NULL));
        must(architecture_read(&backbone, &selection, &hints));
        must(backbone_options_for(&named, archs[i / 2]));
        named.drop_path = backbone.drop_path;
        assert_memory_equal(&backbone, &named, sizeof(named));
        struct ibot_options model = model_of(&backbone);
        must(param_table_init(&params, &model, i % 2 == 1)); /* iBOT's is a student: mask token */
        expect_backbone(&selection, &params);
        for (size_t k = 0; k < params.n_params && i % 2 == 1; k++) {
            char name[160];
            snprintf(name, sizeof(name), "module.%s", params.params[k].name);
            const struct table_row *row = table_find(&table, name);
            if (row == NULL)
                fail_msg("iBOT has no %s", name);
            same_shape(name, row->rank, row->shape, params.params[k].rank, params.params[k].shape);
        }
        param_table_release(&params);
        weight_selection_release(&selection);
        weight_file_release(&file);
        table_release(&table);
    }
}

/* ------------------------------------------------------------------------------ writing */

/* A checkpoint of ours as far as its names go. */
static void write_ours(const char *path, const struct param_table *student,
                       const struct param_table *teacher)
{
    const struct param_table *const networks[] = {student, teacher};
    struct table table = {0};
    char name[160];

    for (int n = 0; n < 2; n++)
        for (size_t i = 0; i < networks[n]->n_params; i++) {
            const struct param *param = &networks[n]->params[i];
            snprintf(name, sizeof(name), "%s.%s", n == 0 ? "student" : "teacher", param->name);
            table_add(&table, name, "F32", param->rank, param->shape);
        }
    sparse_safetensors(path, &table);
    table_release(&table);
}

/* The export has the rows of the table that begin with `prefix`, which is left out, but not those
 * that begin with `without`. */
static void expect_rows(const struct weight_export *export, const struct table *table,
                        const char *prefix, const char *without)
{
    size_t n_wanted = 0, n = strlen(prefix);

    for (size_t i = 0; i < table->n; i++) {
        const struct table_row *row = &table->rows[i];
        if (strncmp(row->name, prefix, n) != 0 || strncmp(row->name, without, strlen(without)) == 0)
            continue;
        n_wanted++;
        size_t k = 0;
        while (k < export->n && strcmp(export->records[k].name, row->name + n) != 0)
            k++;
        if (k == export->n)
            fail_msg("%s was not written", row->name);
        assert_string_equal(weight_dtype_name(export->records[k].dtype), row->type);
        same_shape(row->name, export->records[k].rank, export->records[k].shape, row->rank,
                   row->shape);
    }
    assert_int_equal(export->n, n_wanted);
}

static void what_we_write_has_the_published_tensors(void **state)
{
    struct test_folder *f = *state;

    for (int i = 0; i < N_ARCHS; i++) {
        struct table timm = published(archs[i], "timm"), ibot = published(archs[i], "ibot");
        struct weight_export as_timm = {0}, as_backbone = {0};
        struct weight_selection teacher, student;
        struct param_table tables[2];
        struct backbone_options backbone;
        struct weight_file file;

        must(backbone_options_for(&backbone, archs[i]));
        struct ibot_options model = model_of(&backbone);
        must(param_table_init(&tables[0], &model, true));
        must(param_table_init(&tables[1], &model, false));
        write_ours(f->path, &tables[0], &tables[1]);
        must(weight_file_open(&file, f->path));
        must(weight_selection_open(&teacher, &file, NULL));
        must(weight_selection_open(&student, &file, "student"));
        assert_string_equal(teacher.key, "teacher");
        must(weight_export_timm(&as_timm, &teacher));
        expect_rows(&as_timm, &timm, "", "head.");
        must(weight_export_backbone(&as_backbone, &student, false));
        expect_rows(&as_backbone, &ibot, "module.backbone.", "module.head.");
        weight_export_release(&as_backbone);
        memset(&as_backbone, 0, sizeof(as_backbone));
        must(weight_export_backbone(&as_backbone, &student, true));
        assert_int_equal(as_backbone.n, ibot.n); /* the shared layer under both names */
        weight_export_release(&as_timm);
        weight_export_release(&as_backbone);
        weight_selection_release(&teacher);
        weight_selection_release(&student);
        weight_file_release(&file);
        param_table_release(&tables[0]);
        param_table_release(&tables[1]);
        table_release(&timm);
        table_release(&ibot);
    }
}

static void a_written_swin_has_its_table_of_indices(void **state)
{
    struct test_folder *f = *state;
    struct table timm = published("swin_tiny", "timm"), ibot = published("swin_tiny", "ibot");
    struct weight_selection selection;
    struct weight_export export = {0};
    struct weight_file file;

    snprintf(f->out, sizeof(f->out), "%s/out.pth", f->folder);
    sparse_safetensors(f->path, &timm);
    must(weight_file_open(&file, f->path));
    must(weight_selection_open(&selection, &file, NULL));
    must(weight_export_backbone(&export, &selection, false));
    must(weight_export_write(&export, f->out, "state_dict", NULL, 0));
    weight_export_release(&export);
    weight_selection_release(&selection);
    weight_file_release(&file);

    must(weight_file_open(&file, f->out));
    size_t n = 0;
    for (size_t i = 0; i < ibot.n; i++) {
        const struct table_row *row = &ibot.rows[i];
        if (strncmp(row->name, "module.backbone.", 16) != 0 ||
            strcmp(row->name, "module.backbone.masked_embed") == 0)
            continue;
        const struct weight_entry *entry = weight_file_find(&file, "state_dict", row->name + 16);
        if (entry == NULL)
            fail_msg("no %s", row->name);
        assert_string_equal(entry->type, row->type);
        same_shape(row->name, entry->rank, entry->shape, row->rank, row->shape);
        n++;
    }
    assert_int_equal(n, file.n_entries);
    const struct weight_entry *index =
        weight_file_find(&file, "state_dict", "layers.0.blocks.0.attn.relative_position_index");
    int64_t values[49 * 49];
    must(weight_file_read(&file, index, values));
    assert_int_equal(values[0], 84);        /* a place with itself: the table's middle */
    assert_int_equal(values[1], 83);        /* the key one to the right */
    assert_int_equal(values[7], 84 - 13);   /* the key one below */
    assert_int_equal(values[48], 0);        /* the farthest key */
    assert_int_equal(values[48 * 49], 168); /* and back */
    assert_int_equal(values[24 * 49 + 24], 84);
    weight_file_release(&file);
    table_release(&timm);
    table_release(&ibot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(published_weights_are_the_networks_we_make, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(what_we_write_has_the_published_tensors, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_written_swin_has_its_table_of_indices, fixture_open,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
