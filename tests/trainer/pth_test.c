/* PyTorch files: what PyTorch wrote is read byte for byte in every container, what we write comes
 * back, damage of any kind is told. */
#include "trainer/weights/pth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"
#include "trainer/weights/pth_write.h"
#include "trainer/weights/weight_file.h"
#include "trainer/weights/zip_store.h"

static int fixture_open(void **state)
{
    return test_folder_open(state, "w.pth");
}

/* Also shows that no temporary file was left behind: the folder must be empty then. */
static const char *data_path(char out[512], const char *name)
{
    snprintf(out, 512, "%s/%s", getenv("IBOT_TEST_DATA"), name);
    return out;
}

static void open_data(struct weight_file *file, const char *name)
{
    char path[512];

    if (weight_file_open(file, data_path(path, name)) != STATUS_OK)
        fail_msg("%s", status_message());
}

static void expect_failure(enum status code, const char *reason, const char *path)
{
    struct weight_file file;

    assert_int_equal(weight_file_open(&file, path), code);
    if (strstr(status_message(), reason) == NULL)
        fail_msg("'%s' is not in: %s", reason, status_message());
}

static void expect_data_failure(enum status code, const char *reason, const char *name)
{
    char path[512];

    expect_failure(code, reason, data_path(path, name));
}

static uint64_t digest_of(const struct weight_file *file)
{
    uint64_t digest;

    if (weight_file_digest(file, &digest) != STATUS_OK)
        fail_msg("%s", status_message());
    return digest;
}

static void *contents(const struct weight_file *file, const struct weight_entry *entry)
{
    void *bytes = malloc(entry->n_bytes + 1);

    if (weight_file_read(file, entry, bytes) != STATUS_OK)
        fail_msg("%s", status_message());
    return bytes;
}

/* Every tensor of group `key` of `file`, byte for byte, as PREFIX/NAME of `wanted`. */
static void compare_group(const struct weight_file *file, const char *key, const char *skip,
                          const struct weight_file *wanted, const char *prefix)
{
    size_t n = 0;

    for (size_t i = 0; i < file->n_entries; i++) {
        const struct weight_entry *entry = &file->entries[i], *other;
        char name[256];
        if (strcmp(entry->group, key) != 0)
            continue;
        assert_memory_equal(entry->name, skip, strlen(skip));
        snprintf(name, sizeof(name), "%s%s", prefix, entry->name + strlen(skip));
        other = weight_file_find(wanted, "", name);
        if (other == NULL)
            fail_msg("no tensor '%s'", name);
        assert_string_equal(entry->type, other->type);
        assert_int_equal(entry->rank, other->rank);
        assert_memory_equal(entry->shape, other->shape, (size_t)entry->rank * sizeof(int64_t));
        void *got = contents(file, entry), *want = contents(wanted, other);
        assert_memory_equal(got, want, entry->n_bytes);
        free(got);
        free(want);
        n++;
    }
    assert_true(n > 0);
}

static void every_type_and_view_is_read_in_every_container(void **state)
{
    static const char *const files[] = {"kinds.pth", "kinds_legacy.pth", "kinds_protocol4.pth"};
    struct weight_file wanted, file;
    char name[64];

    (void)state;
    open_data(&wanted, "weights/kinds.safetensors");
    assert_int_equal(wanted.n_entries, 17);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "weights/%s", files[i]);
        open_data(&file, name);
        assert_int_equal(file.format, i == 1 ? WEIGHT_FORMAT_PTH_LEGACY : WEIGHT_FORMAT_PTH);
        assert_int_equal(file.n_entries, 17);
        compare_group(&file, "", "", &wanted, "");
        assert_true(digest_of(&file) == digest_of(&wanted));
        weight_file_release(&file);
    }
    weight_file_release(&wanted);
}

static void an_official_checkpoint_is_read_whole(void **state)
{
    struct weight_file file, golden;
    int64_t epoch;
    double lr;

    (void)state;
    open_data(&file, "golden/official_checkpoint.pth");
    open_data(&golden, "golden/vit_shared.safetensors");
    assert_int_equal(file.n_entries, 53 + 52 + 153 + 2);
    compare_group(&file, "student", "module.", &golden, "final/student/");
    compare_group(&file, "teacher", "", &golden, "final/teacher/");
    assert_true(pickle_integer(weight_file_value(&file, "epoch"), &epoch) && epoch == 3);
    const struct pickle_value *args = weight_file_value(&file, "args");
    assert_int_equal(args->kind, PICKLE_NAMESPACE);
    assert_string_equal(pickle_text(pickle_find(args, "arch")), "vit_tiny_test");
    assert_true(pickle_find(args, "shared_head")->truth);
    const struct pickle_value *groups =
        pickle_find(weight_file_value(&file, "optimizer"), "param_groups");
    assert_int_equal(groups->sequence.n, 2);
    assert_true(pickle_number(pickle_find(groups->sequence.items[0], "lr"), &lr));
    assert_true(lr == 0.0005943219715328379);
    weight_file_release(&golden);
    weight_file_release(&file);
}

static void official_backbones_are_read_from_both_containers(void **state)
{
    struct weight_file file, old, golden;

    (void)state;
    open_data(&file, "golden/official_checkpoint_backbone.pth");
    open_data(&old, "golden/official_checkpoint_backbone_legacy.pth");
    open_data(&golden, "golden/vit_shared.safetensors");
    assert_int_equal(file.n_entries, 42);
    compare_group(&file, "", "", &golden, "final/teacher/backbone.");
    assert_true(digest_of(&file) == digest_of(&old));
    weight_file_release(&golden);
    weight_file_release(&old);
    weight_file_release(&file);
}

static void arguments_and_parameters_are_read(void **state)
{
    struct weight_file file;
    char text[256];

    (void)state;
    open_data(&file, "weights/values.pth");
    assert_int_equal(file.n_entries, 2);
    const struct weight_entry *a = weight_file_find(&file, "model", "a");
    const struct weight_entry *b = weight_file_find(&file, "model", "b");
    void *first = contents(&file, a), *second = contents(&file, b);
    assert_memory_equal(first, second, a->n_bytes);
    free(first);
    free(second);
    assert_string_equal(pickle_print(weight_file_value(&file, "args"), text, sizeof(text)),
                        "{'arch': 'vit_small', 'lr': 0.5, 'n': 7, 'fp16': True, 'ratios': [0, 0.3],"
                        " 'name': '\?\?', 'nothing': None}");
    assert_string_equal(pickle_print(weight_file_value(&file, "size"), text, sizeof(text)),
                        "(2, 3)");
    weight_file_release(&file);
}

static void a_dictionary_that_holds_itself_ends(void **state)
{
    struct weight_file file;

    (void)state;
    open_data(&file, "weights/cyclic.pth");
    assert_int_equal(file.n_entries, 1);
    weight_file_release(&file);
}

static void what_is_no_weights_is_refused_by_name(void **state)
{
    (void)state;
    expect_data_failure(STATUS_UNSUPPORTED, "'posix.system'", "weights/opaque.pth");
    expect_data_failure(STATUS_UNSUPPORTED, "expanded view", "weights/expanded.pth");
    expect_data_failure(STATUS_UNSUPPORTED, "TorchScript", "weights/torchscript.pth");
    expect_data_failure(STATUS_CORRUPT, "no file of weights", "images/jpeg_420.jpg");
    expect_data_failure(STATUS_NOT_FOUND, "without model.safetensors", "golden");
    expect_data_failure(STATUS_NOT_FOUND, "can't be opened", "golden/nothing.pth");
}

/* ------------------------------------------------------------------------------ damage */

/* OK only when every tensor can be read. */
static enum status read_all(const char *path, uint64_t *digest)
{
    struct weight_file file;

    TRY(weight_file_open(&file, path));
    enum status status = weight_file_digest(&file, digest);
    weight_file_release(&file);
    return status;
}

static void every_cut_is_noticed(void **state)
{
    static const char *const names[] = {"weights/kinds.pth", "weights/kinds_legacy.pth"};
    struct test_folder *fixture = *state;

    for (size_t k = 0; k < 2; k++) {
        size_t n;
        uint64_t digest;
        char path[512], *bytes = test_file_get(data_path(path, names[k]), &n);
        for (size_t cut = 0; cut < n; cut += 13) {
            test_file_put(fixture->path, bytes, cut);
            if (read_all(fixture->path, &digest) == STATUS_OK)
                fail_msg("%s: read after %zu of %zu bytes", names[k], cut, n);
        }
        free(bytes);
    }
}

/* Of the archive, which has sums, no changed byte of a tensor goes unnoticed. */
static void changed_bytes_never_change_tensors_silently(void **state)
{
    struct test_folder *fixture = *state;
    size_t n, n_refused = 0;
    uint64_t wanted, digest;
    char path[512], *bytes = test_file_get(data_path(path, "weights/kinds.pth"), &n);

    assert_int_equal(read_all(data_path(path, "weights/kinds.pth"), &wanted), STATUS_OK);
    for (size_t i = 0; i < n; i += 3) {
        bytes[i] ^= 0x41;
        test_file_put(fixture->path, bytes, n);
        if (read_all(fixture->path, &digest) != STATUS_OK)
            n_refused++;
        else if (digest != wanted)
            fail_msg("byte %zu changed, and a tensor with it", i);
        bytes[i] ^= 0x41;
    }
    assert_true(n_refused > n / 6);
    free(bytes);
}

static void add(zip_t *zip, const char *name, const void *bytes, size_t n, zip_int32_t method)
{
    zip_int64_t i = zip_file_add(zip, name, zip_source_buffer(zip, bytes, n, 0), 0);

    assert_true(i >= 0);
    assert_int_equal(zip_set_file_compression(zip, (zip_uint64_t)i, method, 0), 0);
}

/* The object {} and further entries. */
static void archives_are_checked_entry_by_entry(void **state)
{
    static const char object[] = {'\x80', 2, '}', '.'}, zeros[4096];
    static const struct {
        const char *name, *more;
        const void *bytes;
        size_t n;
        zip_int32_t method;
        enum status code;
        const char *reason;
    } cases[] = {
        {"a/data.pkl", "a/version", "3", 1, ZIP_CM_STORE, STATUS_OK, ""},
        {"data.pkl", "a/version", "3", 1, ZIP_CM_STORE, STATUS_CORRUPT, "without data.pkl"},
        {"a/data.pkl", "b/data.pkl", "3", 1, ZIP_CM_STORE, STATUS_CORRUPT, "two objects"},
        {"a/data.pkl", "a/data/0", zeros, sizeof(zeros), ZIP_CM_DEFLATE, STATUS_UNSUPPORTED,
         "compressed"},
        {"a/data.pkl", "a/../../b", "3", 1, ZIP_CM_STORE, STATUS_CORRUPT, "elsewhere"},
        {"a/data.pkl", "/etc/b", "3", 1, ZIP_CM_STORE, STATUS_CORRUPT, "elsewhere"},
        {"a/data.pkl", "a/byteorder", "big", 3, ZIP_CM_STORE, STATUS_UNSUPPORTED, "little-endian"},
        {"a/data.pkl", "a/constants.pkl", "", 0, ZIP_CM_STORE, STATUS_UNSUPPORTED, "TorchScript"},
    };
    struct test_folder *fixture = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        zip_t *zip = zip_open(fixture->path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
        assert_non_null(zip);
        add(zip, cases[i].name, object, sizeof(object), ZIP_CM_STORE);
        add(zip, cases[i].more, cases[i].bytes, cases[i].n, cases[i].method);
        assert_int_equal(zip_close(zip), 0);
        struct weight_file file;
        if (cases[i].code != STATUS_OK) {
            expect_failure(cases[i].code, cases[i].reason, fixture->path);
            continue;
        }
        assert_int_equal(weight_file_open(&file, fixture->path), STATUS_OK);
        weight_file_release(&file);
    }
}

static void an_entry_that_is_there_twice_is_refused(void **state)
{
    static const char object[] = {'\x80', 2, '}', '.'};
    struct test_folder *fixture = *state;
    struct zip_store zip;

    assert_int_equal(zip_store_open(&zip, fixture->path), STATUS_OK);
    assert_int_equal(zip_store_add(&zip, "a/data.pkl", object, sizeof(object)), STATUS_OK);
    assert_int_equal(zip_store_add(&zip, "a/data/0", "1", 1), STATUS_OK);
    assert_int_equal(zip_store_add(&zip, "a/data/0", "2", 1), STATUS_OK);
    assert_int_equal(zip_store_commit(&zip), STATUS_OK);
    zip_store_close(&zip);
    expect_failure(STATUS_CORRUPT, "twice", fixture->path);
}

/* ------------------------------------------------------------------------------ writing */

static void what_is_written_comes_back(void **state)
{
    struct test_folder *fixture = *state;
    struct weight_file wanted, file;
    struct weight_record records[32];
    struct pth_writer writer;
    int64_t number;
    double real;

    open_data(&wanted, "weights/kinds.pth");
    pth_writer_open(&writer);
    pth_begin_dict(&writer);
    pth_text(&writer, "state_dict");
    pth_begin_state_dict(&writer);
    for (size_t i = 0; i < wanted.n_entries; i++) {
        records[i] = weight_file_record(&wanted, &wanted.entries[i], wanted.entries[i].name);
        pth_text(&writer, records[i].name);
        pth_tensor(&writer, &records[i]);
    }
    pth_text(&writer, "alias");
    pth_tensor(&writer, &records[0]);
    pth_end_dict(&writer);
    pth_text(&writer, "epoch");
    pth_integer(&writer, -1234567890123);
    pth_text(&writer, "lr");
    pth_real(&writer, 0.1);
    pth_text(&writer, "list");
    pth_begin_list(&writer);
    pth_integer(&writer, 255);
    pth_integer(&writer, 256);
    pth_integer(&writer, -1);
    pth_truth(&writer, true);
    pth_none(&writer);
    pth_begin_tuple(&writer);
    pth_end_tuple(&writer);
    pth_end_list(&writer);
    pth_end_dict(&writer);
    if (pth_writer_commit(&writer, fixture->path) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(writer.n_records, wanted.n_entries); /* the alias took none */
    pth_writer_close(&writer);

    assert_int_equal(weight_file_open(&file, fixture->path), STATUS_OK);
    assert_int_equal(file.n_entries, wanted.n_entries + 1);
    for (size_t i = 0; i < wanted.n_entries; i++) {
        const struct weight_entry *entry = &wanted.entries[i];
        const struct weight_entry *other = weight_file_find(&file, "state_dict", entry->name);
        assert_non_null(other);
        assert_string_equal(entry->type, other->type);
        assert_memory_equal(entry->shape, other->shape, sizeof(entry->shape));
        void *want = contents(&wanted, entry), *got = contents(&file, other);
        assert_memory_equal(got, want, entry->n_bytes);
        free(want);
        free(got);
    }
    char text[64];
    assert_true(pickle_integer(weight_file_value(&file, "epoch"), &number));
    assert_true(number == -1234567890123);
    assert_true(pickle_number(weight_file_value(&file, "lr"), &real) && real == 0.1);
    assert_string_equal(pickle_print(weight_file_value(&file, "list"), text, sizeof(text)),
                        "[255, 256, -1, True, None, ()]");
    weight_file_release(&file);
    weight_file_release(&wanted);
}

static void entries_begin_at_multiples_of_64(void **state)
{
    struct test_folder *fixture = *state;
    struct zip_store zip;
    char name[32], *bytes = malloc(1 << 16);

    assert_int_equal(zip_store_open(&zip, fixture->path), STATUS_OK);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "%.*s", i + 1, "a/bcdefghijklmnopqrstuvw");
        assert_int_equal(zip_store_add(&zip, name, "0123456789abcdef", (size_t)(i % 17)),
                         STATUS_OK);
    }
    assert_int_equal(zip_store_commit(&zip), STATUS_OK);
    zip_store_close(&zip);
    FILE *file = fopen(fixture->path, "rb");
    size_t n = fread(bytes, 1, 1 << 16, file), n_found = 0;
    fclose(file);
    for (size_t i = 0; i + 30 < n; i++) {
        if (memcmp(bytes + i, "PK\3\4", 4) != 0)
            continue;
        unsigned char *h = (unsigned char *)bytes + i;
        size_t data = i + 30 + (h[26] | (size_t)h[27] << 8) + (h[28] | (size_t)h[29] << 8);
        assert_int_equal(data % 64, 0);
        n_found++;
    }
    assert_int_equal(n_found, 20);
    free(bytes);
}

static void many_entries_take_the_wide_directory(void **state)
{
    enum { N = 70000 };
    struct test_folder *fixture = *state;
    struct zip_store zip;
    char name[32], got[32];

    assert_int_equal(zip_store_open(&zip, fixture->path), STATUS_OK);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "a/%d", i);
        assert_int_equal(zip_store_add(&zip, name, name, strlen(name)), STATUS_OK);
    }
    assert_int_equal(zip_store_commit(&zip), STATUS_OK);
    zip_store_close(&zip);
    zip_t *read = zip_open(fixture->path, ZIP_RDONLY | ZIP_CHECKCONS, NULL);
    assert_non_null(read);
    assert_int_equal(zip_get_num_entries(read, 0), N);
    zip_file_t *entry = zip_fopen(read, "a/69999", 0);
    assert_non_null(entry);
    assert_int_equal(zip_fread(entry, got, sizeof(got)), 7);
    assert_memory_equal(got, "a/69999", 7);
    zip_fclose(entry);
    zip_discard(read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_view_is_read_in_every_container),
        cmocka_unit_test(an_official_checkpoint_is_read_whole),
        cmocka_unit_test(official_backbones_are_read_from_both_containers),
        cmocka_unit_test(arguments_and_parameters_are_read),
        cmocka_unit_test(a_dictionary_that_holds_itself_ends),
        cmocka_unit_test(what_is_no_weights_is_refused_by_name),
        cmocka_unit_test_setup_teardown(every_cut_is_noticed, fixture_open, test_folder_close),
        cmocka_unit_test_setup_teardown(changed_bytes_never_change_tensors_silently, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(archives_are_checked_entry_by_entry, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(an_entry_that_is_there_twice_is_refused, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(what_is_written_comes_back, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(entries_begin_at_multiples_of_64, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(many_entries_take_the_wide_directory, fixture_open,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
