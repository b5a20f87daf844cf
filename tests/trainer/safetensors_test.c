/* The safetensors reader and writer: what is written comes back, every rule of the format is
 * enforced, a failed write leaves the old file, and the reference implementation agrees. */
#include "tests/support/test_folder.h"
#include "trainer/weights/safetensors.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static int fixture_open(void **state)
{
    return test_folder_open(state, "w.safetensors");
}

/* Also shows that no temporary file was left behind: the folder must be empty then. */
/* A file of the given header text and `n_data` zero bytes. */
static void header_put(const char *path, const char *header, size_t n_data)
{
    size_t length = strlen(header), total = 8 + length + n_data;
    unsigned char *bytes = calloc(1, total);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    test_file_put(path, bytes, total);
    free(bytes);
}

static void assert_refused(const struct test_folder *fixture, enum status wanted, const char *word)
{
    struct safetensors file = {0};
    assert_int_equal(safetensors_open(&file, fixture->path), wanted);
    if (strstr(status_message(), word) == NULL)
        fail_msg("'%s' does not say '%s'", status_message(), word);
    assert_null(file.map);
}

static void what_is_written_comes_back(void **state)
{
    struct test_folder *fixture = *state;
    uint8_t bytes[3] = {1, 2, 255};
    float matrix[6] = {0.5f, -1, 2, 3, 1e-30f, 5};
    double scalar = 3.25;
    int32_t numbers[2] = {-1, 7};
    struct safetensors_item items[] = {
        {"a.bytes", tensor_1d(bytes, DTYPE_U8, 3)},
        {"matrix \"quoted\" \xc3\xa4", tensor_2d(matrix, DTYPE_F32, 2, 3)},
        {"scalar", {&scalar, DTYPE_F64, 0, {0}}},
        {"empty", tensor_2d(NULL, DTYPE_F32, 0, 4)},
        {"numbers", tensor_1d(numbers, DTYPE_I32, 2)},
    };
    const char *metadata[] = {"format", "pt", "step", "12"};
    struct safetensors file;

    assert_int_equal(safetensors_write(fixture->path, items, 5, metadata, 2), STATUS_OK);
    assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
    assert_int_equal(file.n_entries, 5);
    for (size_t i = 0; i < 5; i++) {
        const struct safetensors_entry *entry = safetensors_find(&file, items[i].name);
        assert_non_null(entry);
        assert_int_equal(entry->tensor.dtype, items[i].tensor.dtype);
        assert_int_equal(entry->tensor.rank, items[i].tensor.rank);
        assert_int_equal(tensor_n_elements(&entry->tensor), tensor_n_elements(&items[i].tensor));
        assert_int_equal(entry->n_bytes, tensor_size_bytes(&items[i].tensor));
        assert_null(entry->aligned_copy);
        if (entry->n_bytes > 0)
            assert_memory_equal(entry->tensor.data, items[i].tensor.data, entry->n_bytes);
    }
    assert_string_equal(safetensors_metadata(&file, "step"), "12");
    assert_null(safetensors_metadata(&file, "other"));
    assert_null(safetensors_find(&file, "other"));
    safetensors_release(&file);
    safetensors_release(&file);
}

static void a_file_without_tensors_is_fine(void **state)
{
    struct test_folder *fixture = *state;
    struct safetensors file;

    assert_int_equal(safetensors_write(fixture->path, NULL, 0, NULL, 0), STATUS_OK);
    assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
    assert_int_equal(file.n_entries, 0);
    safetensors_release(&file);
}

static void the_digest_sees_bytes_names_and_shapes(void **state)
{
    struct test_folder *fixture = *state;
    float values[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 5};
    struct safetensors_item variants[] = {
        {"w", tensor_2d(values, DTYPE_F32, 2, 2)}, {"v", tensor_2d(values, DTYPE_F32, 2, 2)},
        {"w", tensor_2d(values, DTYPE_F32, 4, 1)}, {"w", tensor_2d(other, DTYPE_F32, 2, 2)},
        {"w", tensor_2d(values, DTYPE_I32, 2, 2)}, {"w", tensor_2d(values, DTYPE_F32, 2, 2)},
    };
    uint64_t digests[6];

    for (int i = 0; i < 6; i++) {
        struct safetensors file;
        assert_int_equal(safetensors_write(fixture->path, &variants[i], 1, NULL, 0), STATUS_OK);
        assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
        digests[i] = safetensors_digest(&file);
        safetensors_release(&file);
    }
    for (int i = 1; i < 5; i++)
        assert_true(digests[i] != digests[0]);
    assert_true(digests[5] == digests[0]);
}

static void a_missing_file_is_not_found_and_a_folder_is_refused(void **state)
{
    struct test_folder *fixture = *state;
    struct safetensors file;

    assert_refused(fixture, STATUS_NOT_FOUND, "No such file");
    assert_int_equal(safetensors_open(&file, fixture->folder), STATUS_IO);
}

static void every_broken_header_is_refused_with_its_rule(void **state)
{
    static const struct {
        const char *header, *word;
        size_t n_data;
        enum status status;
    } cases[] = {
        {"", "does not start with", 8, STATUS_CORRUPT},
        {" {}", "does not start with", 0, STATUS_CORRUPT},
        {"[]", "does not start with", 0, STATUS_CORRUPT},
        {"{", "not valid JSON", 0, STATUS_CORRUPT},
        {"{}\n", "not a space", 0, STATUS_CORRUPT},
        {"{} {}", "not a space", 0, STATUS_CORRUPT},
        {"{\"a\":{},\"a\":{}}", "not valid JSON", 0, STATUS_CORRUPT},
        {"{\"a\xff\":{}}", "not valid JSON", 0, STATUS_CORRUPT},
        {"{\"__metadata__\":[]}", "is not an object", 0, STATUS_CORRUPT},
        {"{\"__metadata__\":{\"k\":1}}", "is not a string", 0, STATUS_CORRUPT},
        {"{\"a\":1}", "is not an object", 0, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "must have", 4, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", "nothing else",
         4, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", "unknown type", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", "unknown type", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "no shape", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "natural number", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", "natural number", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "offsets span", 4,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", "within a byte", 1,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "too large", 0, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,1,1,4294967296,4294967296],"
         "\"data_offsets\":[0,0]}}",
         "too large", 0, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}",
         "not valid JSON", 0, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}",
         "dimensions", 1, STATUS_UNSUPPORTED},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", "data_offsets", 1,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", "no range", 1,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", "no range", 1,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", "cut short", 1,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", "a hole", 2,
         STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
         "a hole", 3, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         "an overlap", 3, STATUS_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "there are 2", 2,
         STATUS_CORRUPT},
    };
    struct test_folder *fixture = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        header_put(fixture->path, cases[i].header, cases[i].n_data);
        assert_refused(fixture, cases[i].status, cases[i].word);
    }
}

static void bad_lengths_are_refused(void **state)
{
    struct test_folder *fixture = *state;
    static const unsigned char huge[12] = {0xff, 0xff, 0xff, 0xff, 0xff,
                                           0xff, 0xff, 0xff, '{',  '}'};
    static const unsigned char more[10] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};

    test_file_put(fixture->path, "", 0);
    assert_refused(fixture, STATUS_CORRUPT, "too few");
    test_file_put(fixture->path, "1234567", 7);
    assert_refused(fixture, STATUS_CORRUPT, "too few");
    test_file_put(fixture->path, huge, sizeof(huge));
    assert_refused(fixture, STATUS_CORRUPT, "limit");
    test_file_put(fixture->path, more, sizeof(more));
    assert_refused(fixture, STATUS_CORRUPT, "cut short");
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    struct test_folder *fixture = *state;
    float values[3] = {1, 2, 3};
    struct safetensors_item item = {"w", tensor_1d(values, DTYPE_F32, 3)};
    unsigned char bytes[512];

    assert_int_equal(safetensors_write(fixture->path, &item, 1, NULL, 0), STATUS_OK);
    FILE *file = fopen(fixture->path, "rb");
    size_t n_bytes = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    for (size_t n = 0; n < n_bytes; n++) {
        test_file_put(fixture->path, bytes, n);
        assert_refused(fixture, STATUS_CORRUPT, "w");
    }
}

static void odd_addresses_other_types_and_high_ranks_are_read(void **state)
{
    struct test_folder *fixture = *state;
    struct safetensors file;

    /* the header's length makes every address odd */
    const char *header = "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                         "\"f\":{\"dtype\":\"F32\",\"shape\":[2,1,1,2,3],\"data_offsets\":[1,49]},"
                         "\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[49,57]},"
                         "\"e\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[49,49]}}";
    for (int padding = 0; padding < 4; padding++) {
        char text[512];
        snprintf(text, sizeof(text), "%s%*s", header, padding, "");
        header_put(fixture->path, text, 57);
        assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
        const struct safetensors_entry *entry = safetensors_find(&file, "f");
        assert_int_equal((uintptr_t)entry->tensor.data % sizeof(float), 0);
        assert_int_equal(entry->tensor.rank, 4);
        assert_int_equal(entry->tensor.shape[3], 6);
        assert_int_equal(entry->file_rank, 5);
        assert_true(((const float *)entry->tensor.data)[11] == 0.0f);
        entry = safetensors_find(&file, "i");
        assert_null(entry->tensor.data);
        assert_string_equal(entry->file_dtype, "I64");
        assert_int_equal(entry->n_bytes, 8);
        safetensors_release(&file);
    }
}

static void a_file_of_gigabytes_is_mapped_not_read(void **state)
{
    struct test_folder *fixture = *state;
    /* 72 bytes: the data is aligned */
    const char *header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1073741824],"
                         "\"data_offsets\":[0,4294967296]}}";
    struct safetensors file;
    struct rusage before, after;

    header_put(fixture->path, header, 0);
    assert_int_equal(truncate(fixture->path, (off_t)(8 + strlen(header)) + 4294967296), 0);
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
    const float *values = safetensors_find(&file, "w")->tensor.data;
    assert_true(values[1073741823] == 0.0f);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 65536); /* kB */
    safetensors_release(&file);
}

static void the_writer_refuses_double_and_bad_names(void **state)
{
    struct test_folder *fixture = *state;
    float value = 1;
    struct safetensors_item items[] = {{"w", tensor_1d(&value, DTYPE_F32, 1)},
                                       {"w", tensor_1d(&value, DTYPE_F32, 1)}};
    const char *twice[] = {"k", "1", "k", "2"};

    assert_int_equal(safetensors_write(fixture->path, items, 2, NULL, 0), STATUS_INVALID);
    assert_int_equal(safetensors_write(fixture->path, items, 1, twice, 2), STATUS_INVALID);
    items[0].name = "\xff";
    assert_int_equal(safetensors_write(fixture->path, items, 1, NULL, 0), STATUS_INVALID);
    items[0].name = "__metadata__";
    assert_int_equal(safetensors_write(fixture->path, items, 1, NULL, 0), STATUS_INVALID);
    items[0] = (struct safetensors_item){"w", tensor_1d(NULL, DTYPE_F32, 1)};
    assert_int_equal(safetensors_write(fixture->path, items, 1, NULL, 0), STATUS_INVALID);
    assert_int_equal(access(fixture->path, F_OK), -1);
    assert_int_equal(safetensors_write("/nonexistent/x", items, 0, NULL, 0), STATUS_IO);
}

static void a_write_that_runs_out_of_room_leaves_the_old_file(void **state)
{
    struct test_folder *fixture = *state;
    float small[2] = {1, 2}, *large = calloc(1 << 18, sizeof(float));
    struct safetensors_item old = {"w", tensor_1d(small, DTYPE_F32, 2)};
    struct safetensors_item new = {"w", tensor_1d(large, DTYPE_F32, 1 << 18)};
    struct rlimit before, limit;
    struct safetensors file;

    assert_int_equal(safetensors_write(fixture->path, &old, 1, NULL, 0), STATUS_OK);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &limit);
    enum status status = safetensors_write(fixture->path, &new, 1, NULL, 0);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, STATUS_IO);
    assert_non_null(strstr(status_message(), "intact"));
    assert_int_equal(safetensors_open(&file, fixture->path), STATUS_OK);
    assert_int_equal(file.entries[0].tensor.shape[0], 2);
    safetensors_release(&file);
    free(large);
}

static void files_of_the_reference_implementation_are_read(void **state)
{
    const char *data = getenv("IBOT_TEST_DATA");
    struct safetensors file;
    char path[1024];

    (void)state;
    if (data == NULL)
        skip();
    snprintf(path, sizeof(path), "%s/golden/vit_shared.safetensors", data);
    assert_int_equal(safetensors_open(&file, path), STATUS_OK);
    const struct safetensors_entry *entry = safetensors_find(&file, "step0/global0");
    assert_non_null(entry);
    assert_int_equal(entry->tensor.dtype, DTYPE_F32);
    assert_int_equal(entry->tensor.rank, 4);
    assert_int_equal(entry->tensor.shape[1], 3);
    safetensors_release(&file);
}

static void the_reference_implementation_reads_ours(void **state)
{
    struct test_folder *fixture = *state;
    float matrix[6] = {0, 1, 2, 3, 4, 5};
    double scalar = 2.5;
    struct safetensors_item items[] = {{"matrix", tensor_2d(matrix, DTYPE_F32, 2, 3)},
                                       {"scalar", {&scalar, DTYPE_F64, 0, {0}}},
                                       {"empty", tensor_1d(NULL, DTYPE_U8, 0)}};
    const char *metadata[] = {"k", "v"};
    const char *python = getenv("IBOT_PYTHON") != NULL ? getenv("IBOT_PYTHON") : "python3";
    char command[1024];

    snprintf(command, sizeof(command), "%s -c 'import safetensors.numpy' 2>/dev/null", python);
    if (system(command) != 0)
        skip();
    assert_int_equal(safetensors_write(fixture->path, items, 3, metadata, 1), STATUS_OK);
    snprintf(command, sizeof(command),
             "%s -c 'import sys, safetensors\n"
             "f = safetensors.safe_open(sys.argv[1], \"numpy\")\n"
             "assert f.metadata() == {\"k\": \"v\"}, f.metadata()\n"
             "assert set(f.keys()) == {\"matrix\", \"scalar\", \"empty\"}, f.keys()\n"
             "assert f.get_tensor(\"matrix\").tolist() == [[0, 1, 2], [3, 4, 5]]\n"
             "assert f.get_tensor(\"scalar\") == 2.5 and f.get_tensor(\"empty\").shape == (0,)\n"
             "' %s",
             python, fixture->path);
    assert_int_equal(system(command), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_open, test_folder_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_comes_back),
        TEST(a_file_without_tensors_is_fine),
        TEST(the_digest_sees_bytes_names_and_shapes),
        TEST(a_missing_file_is_not_found_and_a_folder_is_refused),
        TEST(every_broken_header_is_refused_with_its_rule),
        TEST(bad_lengths_are_refused),
        TEST(a_file_cut_at_any_byte_is_refused),
        TEST(odd_addresses_other_types_and_high_ranks_are_read),
        TEST(a_file_of_gigabytes_is_mapped_not_read),
        TEST(the_writer_refuses_double_and_bad_names),
        TEST(a_write_that_runs_out_of_room_leaves_the_old_file),
        TEST(files_of_the_reference_implementation_are_read),
        TEST(the_reference_implementation_reads_ours),
    };
    return cmocka_run_group_tests_name("trainer.safetensors", tests, NULL, NULL);
}
