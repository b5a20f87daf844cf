/* TFRecord framing: published sums, records that come back, and every way in which a file can be
 * torn or wrong. */
#include "proto/wire/tfrecord.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "proto/wire/crc32c.h"
#include "tests/support/test_folder.h"

enum { MAX_BYTES = 1 << 20 };

static int fixture_open(void **state)
{
    return test_folder_open(state, "records");
}

static size_t file_get(const char *path, uint8_t *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    n_bytes = fread(bytes, 1, n_bytes, file);
    fclose(file);
    return n_bytes;
}

/* RFC 3720, B.4, and the customary check value. */
static void sums_are_the_published_ones(void **state)
{
    uint8_t bytes[32];
    (void)state;

    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, bytes, 32), 0x46dd794eu);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(crc32c(0, bytes, 32), 0x113fdb5cu);
}

static void both_sums_agree_in_one_piece_or_many(void **state)
{
    struct rng rng = rng_open((struct rng_key){.seed = 1, .purpose = RNG_TEST});
    static uint8_t bytes[100000];
    (void)state;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)rng_u32(&rng);
    for (int i = 0; i < 2200; i++) { /* short ones, and some that are taken in several lanes */
        uint32_t most = i < 2000 ? 200 : sizeof(bytes) - 100;
        size_t first = rng_below(&rng, 100), n = rng_below(&rng, most), cut = n > 0 ? n / 3 : 0;
        uint32_t whole = crc32c(0, bytes + first, n);
        assert_int_equal(crc32c_plain(0, bytes + first, n), whole);
        uint32_t part = crc32c(0, bytes + first, cut);
        assert_int_equal(crc32c(part, bytes + first + cut, n - cut), whole);
        part = crc32c_plain(0, bytes + first, cut);
        assert_int_equal(crc32c_plain(part, bytes + first + cut, n - cut), whole);
    }
}

/* A record with the data "abc", written down by hand after TensorFlow's format. */
static void a_record_has_the_documented_bytes(void **state)
{
    struct test_folder *fixture = *state;
    struct tfrecord_writer *writer;
    struct iovec parts[] = {{(char[]){"a"}, 1}, {NULL, 0}, {(char[]){"bc"}, 2}};
    uint8_t bytes[64];
    static const uint8_t length[8] = {3};

    assert_int_equal(tfrecord_writer_open(&writer, fixture->path, false), STATUS_OK);
    assert_int_equal(tfrecord_writer_put(writer, parts, 3), STATUS_OK);
    assert_int_equal(tfrecord_writer_bytes(writer), 19);
    assert_int_equal(tfrecord_writer_sync(writer), STATUS_OK);
    assert_int_equal(tfrecord_writer_close(&writer), STATUS_OK);
    assert_null(writer);
    assert_int_equal(file_get(fixture->path, bytes, sizeof(bytes)), 19);
    assert_memory_equal(bytes, length, 8);
    assert_memory_equal(bytes + 12, "abc", 3);
    uint32_t sums[2] = {crc32c_plain(0, length, 8), crc32c_plain(0, "abc", 3)};
    for (int i = 0; i < 2; i++) {
        uint32_t masked = ((sums[i] >> 15) | (sums[i] << 17)) + 0xa282ead8u;
        for (int k = 0; k < 4; k++)
            assert_int_equal(bytes[(i == 0 ? 8 : 15) + k], masked >> (8 * k) & 255);
    }
}

/* n records of lengths 0, 1000, 2000, … that begin with their number. */
static void write_records(const char *path, int n, bool append)
{
    static uint8_t body[1 << 19];
    struct tfrecord_writer *writer;

    assert_int_equal(tfrecord_writer_open(&writer, path, append), STATUS_OK);
    for (int i = 0; i < n; i++) {
        uint8_t number = (uint8_t)i;
        struct iovec parts[2] = {{&number, 1}, {body, (size_t)i * 1000}};
        memset(body, i, (size_t)i * 1000);
        assert_int_equal(tfrecord_writer_put(writer, parts, 2), STATUS_OK);
    }
    assert_int_equal(tfrecord_writer_close(&writer), STATUS_OK);
}

/* Reads whole records; returns how many, and how it ended. */
static int read_records(const char *path, enum status *end, bool *torn)
{
    struct tfrecord_reader *reader;
    const uint8_t *data;
    size_t n_bytes;
    int n = 0;

    assert_int_equal(tfrecord_reader_open(&reader, path, MAX_BYTES), STATUS_OK);
    while ((*end = tfrecord_reader_next(reader, &data, &n_bytes)) == STATUS_OK) {
        assert_int_equal(n_bytes, 1 + (size_t)data[0] * 1000);
        for (size_t i = 0; i < n_bytes; i++)
            assert_int_equal(data[i], data[0]);
        n++;
    }
    *torn = tfrecord_reader_torn(reader);
    tfrecord_reader_close(&reader);
    assert_null(reader);
    tfrecord_reader_close(&reader);
    return n;
}

static void records_come_back_in_order(void **state)
{
    struct test_folder *fixture = *state;
    enum status end;
    bool torn;

    write_records(fixture->path, 120, false);
    assert_int_equal(read_records(fixture->path, &end, &torn), 120);
    assert_int_equal(end, STATUS_CLOSED);
    assert_false(torn);
    write_records(fixture->path, 0, false);
    assert_int_equal(read_records(fixture->path, &end, &torn), 0);
    assert_int_equal(end, STATUS_CLOSED);
}

static void a_reader_goes_back_to_an_offset(void **state)
{
    struct test_folder *fixture = *state;
    struct tfrecord_reader *reader;
    uint64_t offsets[10];
    const uint8_t *data;
    size_t n_bytes;

    write_records(fixture->path, 10, false);
    assert_int_equal(tfrecord_reader_open(&reader, fixture->path, MAX_BYTES), STATUS_OK);
    for (int i = 0; i < 10; i++) {
        offsets[i] = tfrecord_reader_offset(reader);
        assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_OK);
    }
    for (int i = 9; i >= 0; i--) {
        assert_int_equal(tfrecord_reader_seek(reader, offsets[i]), STATUS_OK);
        assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_OK);
        assert_int_equal(data[0], i);
    }
    tfrecord_reader_close(&reader);
}

/* Cut at every byte: whole records first, then "torn" exactly when something of another is there.
 */
static void a_file_cut_anywhere_gives_its_whole_records(void **state)
{
    struct test_folder *fixture = *state;
    uint8_t bytes[8192];
    enum status end;
    bool torn;

    write_records(fixture->path, 3, false); /* 17, 1017, 2017 bytes */
    size_t n_bytes = file_get(fixture->path, bytes, sizeof(bytes));
    assert_int_equal(n_bytes, 17 + 1017 + 2017);
    for (size_t cut = 0; cut <= n_bytes; cut += cut < 100 || cut > 1000 ? 1 : 37) {
        bool whole = cut == 0 || cut == 17 || cut == 1034 || cut == n_bytes;
        test_file_put(fixture->path, bytes, cut);
        int n = read_records(fixture->path, &end, &torn);
        assert_int_equal(n, (cut >= 17) + (cut >= 1034) + (cut >= n_bytes));
        assert_int_equal(end, whole ? STATUS_CLOSED : STATUS_CORRUPT);
        assert_int_equal(torn, !whole);
    }
}

static void every_flipped_bit_is_found(void **state)
{
    struct test_folder *fixture = *state;
    uint8_t bytes[2048];
    enum status end;
    bool torn;

    write_records(fixture->path, 2, false);
    size_t n_bytes = file_get(fixture->path, bytes, sizeof(bytes));
    for (size_t i = 17; i < n_bytes; i += i < 40 || i > n_bytes - 8 ? 1 : 50)
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1 << bit);
            test_file_put(fixture->path, bytes, n_bytes);
            assert_int_equal(read_records(fixture->path, &end, &torn), 1);
            assert_int_equal(end, STATUS_CORRUPT);
            assert_false(torn);
            assert_non_null(strstr(status_message(), "byte 17"));
            bytes[i] ^= (uint8_t)(1 << bit);
        }
}

/* A length of 2^62 with a right sum, in a file of 12 bytes: nothing is allocated for it. */
static void a_length_beyond_the_limit_is_refused(void **state)
{
    struct test_folder *fixture = *state;
    uint8_t header[12] = {0};
    struct tfrecord_reader *reader;
    const uint8_t *data;
    size_t n_bytes;

    header[7] = 0x40;
    uint32_t sum = crc32c_mask(crc32c(0, header, 8));
    for (int i = 0; i < 4; i++)
        header[8 + i] = (uint8_t)(sum >> (8 * i));
    test_file_put(fixture->path, header, sizeof(header));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tfrecord_reader_open(&reader, fixture->path, i == 0 ? 100 : SIZE_MAX),
                         STATUS_OK);
        assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_CORRUPT);
        assert_non_null(strstr(status_message(), "4611686018427387904 bytes"));
        assert_int_equal(tfrecord_reader_offset(reader), 0);
        tfrecord_reader_close(&reader);
    }
    write_records(fixture->path, 2, false); /* 1 and 1001 bytes */
    assert_int_equal(tfrecord_reader_open(&reader, fixture->path, 1000), STATUS_OK);
    assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_OK);
    assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "at most 1000 are allowed"));
    tfrecord_reader_close(&reader);
}

static void appending_goes_on_after_the_last_whole_record(void **state)
{
    struct test_folder *fixture = *state;
    uint8_t bytes[8192];
    enum status end;
    bool torn;

    write_records(fixture->path, 3, true); /* a new file */
    size_t n_bytes = file_get(fixture->path, bytes, sizeof(bytes));
    assert_int_equal(truncate(fixture->path, (off_t)n_bytes - 5), 0);
    write_records(fixture->path, 3, true);
    assert_int_equal(read_records(fixture->path, &end, &torn), 5);
    assert_int_equal(end, STATUS_CLOSED);

    bytes[20] ^= 1; /* damage, not a torn end: nothing is cut off */
    test_file_put(fixture->path, bytes, n_bytes);
    struct tfrecord_writer *writer = NULL;
    assert_int_equal(tfrecord_writer_open(&writer, fixture->path, true), STATUS_CORRUPT);
    assert_null(writer);
    struct stat info;
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_size, n_bytes);
}

/* No file may grow beyond a limit, as on a full disk: the record that does not fit leaves no trace.
 */
static void a_record_that_does_not_fit_is_taken_back(void **state)
{
    struct test_folder *fixture = *state;
    static uint8_t body[5000];
    struct iovec small = {body, 100}, large = {body, sizeof(body)};
    struct tfrecord_writer *writer;
    struct rlimit limit, kept;
    struct stat info;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
    limit = kept;
    limit.rlim_cur = 3000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(tfrecord_writer_open(&writer, fixture->path, false), STATUS_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    enum status first = tfrecord_writer_put(writer, &small, 1);
    enum status second = tfrecord_writer_put(writer, &large, 1);
    enum status third = tfrecord_writer_put(writer, &small, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &kept), 0);
    assert_int_equal(first, STATUS_OK);
    assert_int_equal(second, STATUS_IO);
    assert_int_equal(third, STATUS_OK);
    assert_int_equal(tfrecord_writer_close(&writer), STATUS_OK);
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_size, 2 * 116);
}

static void files_that_cannot_be_opened_are_named(void **state)
{
    struct test_folder *fixture = *state;
    struct tfrecord_reader *reader = NULL;
    struct tfrecord_writer *writer = NULL;

    assert_int_equal(tfrecord_reader_open(&reader, fixture->path, 10), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), fixture->path));
    assert_int_equal(tfrecord_reader_open(&reader, fixture->folder, 10), STATUS_IO);
    assert_non_null(strstr(status_message(), "is a folder"));
    assert_int_equal(tfrecord_writer_open(&writer, "/nowhere/records", false), STATUS_IO);
    assert_non_null(strstr(status_message(), "/nowhere/records"));
    assert_null(reader);
    assert_null(writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_the_published_ones),
        cmocka_unit_test(both_sums_agree_in_one_piece_or_many),
        cmocka_unit_test_setup_teardown(a_record_has_the_documented_bytes, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(records_come_back_in_order, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_reader_goes_back_to_an_offset, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_file_cut_anywhere_gives_its_whole_records, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_found, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_length_beyond_the_limit_is_refused, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(appending_goes_on_after_the_last_whole_record, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_record_that_does_not_fit_is_taken_back, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(files_that_cannot_be_opened_are_named, fixture_open,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
