/* Files of more than 2 GiB are read and converted in little memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"
#include "tests/trainer/sparse_weights.h"
#include "trainer/weights/weight_export.h"

static int fixture_open(void **state)
{
    return test_folder_open(state, "in");
}

static void must(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

enum { LARGE = 1 << 30 }; /* values: 4 GiB */

static int64_t peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

static int64_t size_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_size;
}

/* The small tensor behind 4 GiB, and a place within them. */
static void read_a_little(const char *path, const char *name, const char *behind)
{
    struct weight_file file;
    float last[4];

    assert_true(size_of(path) > (int64_t)LARGE * 4);
    must(weight_file_open(&file, path));
    const struct weight_entry *large = weight_file_find(&file, "", name);
    const struct weight_entry *entry = weight_file_find(&file, "", behind);
    assert_int_equal(large->n_bytes, (size_t)LARGE * 4);
    must(weight_file_read(&file, entry, last));
    for (int i = 0; i < 4; i++)
        assert_true(last[i] == (file.format == WEIGHT_FORMAT_SAFETENSORS ? 0.0f : (float)(i + 1)));
    if (file.format != WEIGHT_FORMAT_SAFETENSORS) { /* a view far inside the storage */
        struct pickle_tensor view = *(const struct pickle_tensor *)large->source;
        view.offset = LARGE - 5;
        view.shape[0] = view.n_elements = 2;
        view.stride[0] = 3;
        last[0] = last[1] = 7.0f;
        must(pth_read(&file.pth, &view, last));
        assert_true(last[0] == 0.0f && last[1] == 0.0f);
    }
    weight_file_release(&file);
}

static void large_files_are_read_in_little_memory(void **state)
{
    struct test_folder *f = *state;
    const int64_t large[] = {LARGE}, last[] = {4};
    struct table table = {0};
    int64_t before = peak_mib();

    table_add(&table, "large", "F32", 1, large);
    table_add(&table, "last", "F32", 1, last);
    sparse_safetensors(f->path, &table);
    read_a_little(f->path, "large", "last");
    sparse_legacy(f->path, LARGE);
    read_a_little(f->path, "large", "last");
    sparse_archive(f->path, LARGE);
    read_a_little(f->path, "large", "last");
    table_release(&table);
    if (peak_mib() - before > 64)
        fail_msg("%lld MiB more were used", (long long)(peak_mib() - before));
}

/* 2.2 GiB in tensors of 64 MiB: no more than a few of them are in memory. */
static void large_files_are_converted_tensor_by_tensor(void **state)
{
    enum { N = 35 };
    struct test_folder *f = *state;
    const int64_t shape[] = {16 << 20};
    struct weight_selection selection;
    struct weight_export export = {0};
    struct table table = {0};
    struct weight_file file;
    struct weight_entry *entry;
    char name[32];

    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "blocks.%d.norm1.weight", i);
        table_add(&table, name, "F32", 1, shape);
    }
    sparse_safetensors(f->path, &table);
    snprintf(f->out, sizeof(f->out), "%s/out.pth", f->folder);
    must(weight_file_open(&file, f->path));
    must(weight_selection_open(&selection, &file, NULL));
    must(weight_export_backbone(&export, &selection, false));
    int64_t before = peak_mib();
    must(weight_export_write(&export, f->out, "state_dict", NULL, 0));
    int64_t used = peak_mib() - before;
    weight_export_release(&export);
    weight_selection_release(&selection);
    weight_file_release(&file);
    assert_true(size_of(f->out) > INT64_C(2) << 30);
    must(weight_file_open(&file, f->out));
    assert_int_equal(file.n_entries, N);
    entry = &file.entries[N - 1];
    float *values = malloc(entry->n_bytes);
    must(weight_file_read(&file, entry, values));
    for (size_t i = 0; i < entry->n_bytes / sizeof(float); i += 4099)
        assert_true(values[i] == 0.0f);
    free(values);
    weight_file_release(&file);
    table_release(&table);
    printf("%lld MiB used for 2240\n", (long long)used);
    assert_true(used < 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(large_files_are_read_in_little_memory, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(large_files_are_converted_tensor_by_tensor, fixture_open,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
