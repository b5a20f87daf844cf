/* The index: ImageFolder's order, what makes it stale, and files that want to mislead. */
#include "loader/index.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/hash.h"
#include "tests/loader/folder.h"

/* A file of `n` bytes; its folders are made. */
static void put(const struct folder *folder, const char *name, size_t n)
{
    char bytes[64] = {0};

    assert_true(n <= sizeof(bytes));
    folder_put(folder, name, bytes, n);
}

/* Times long gone, so that an index made now is not within the tick of a change. */
static void settle(const struct folder *folder, const char *name)
{
    char path[512];
    struct timespec times[2] = {{1000000000, 123456789}, {1000000000, 123456789}};

    folder_path(folder, name, path, sizeof(path));
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void assert_entries(const struct index *index, size_t n, const char *const *paths,
                           const uint32_t *labels)
{
    assert_int_equal(index->header->n_samples, n);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(index->strings + index->entries[i].path, paths[i]);
        assert_int_equal(index->entries[i].label, labels[i]);
    }
}

static void assert_says(const char *word)
{
    if (strstr(status_message(), word) == NULL)
        fail_msg("'%s' does not say '%s'", status_message(), word);
}

static void order_is_that_of_image_folder(void **state)
{
    static const char *const paths[] = {"A/x.PNG",     "a/1.jpg",       "a/10.jpg",
                                        "a/2.jpg",     "a/d/0.jpeg",    "a/d e/z.webp",
                                        "a/d/e/z.bmp", "\xc3\xa4/q.tif"};
    /* by whole folder path: "a/d" < "a/d e" < "a/d/e"; but files of a folder come together */
    static const char *const wanted[] = {"A/x.PNG",     "a/1.jpg",       "a/10.jpg",
                                         "a/2.jpg",     "a/d/0.jpeg",    "a/d e/z.webp",
                                         "a/d/e/z.bmp", "\xc3\xa4/q.tif"};
    static const uint32_t labels[] = {0, 1, 1, 1, 1, 1, 1, 3};
    struct folder *folder = *state;
    struct index index;

    for (size_t i = 0; i < 8; i++)
        put(folder, paths[7 - i], i);
    put(folder, "b/notes.txt", 1); /* a class without images keeps its number */
    put(folder, "a/.hidden", 1);
    put(folder, "stray.jpg", 1);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_entries(&index, 8, wanted, labels);
    assert_int_equal(index.header->n_classes, 4);
    assert_string_equal(index_class_name(&index, 2), "b");
    assert_int_equal(index.entries[0].size, 7);
    assert_int_equal(index.n_ignored, 1);
    uint64_t counts[4];
    index_class_counts(&index, counts);
    assert_int_equal(counts[1], 6);
    assert_int_equal(counts[2], 0);
    index_close(&index);
}

static void a_flat_folder_is_one_class(void **state)
{
    static const char *const wanted[] = {"a b.jpg", "c\n.ppm"};
    static const uint32_t labels[] = {0, 0};
    struct folder *folder = *state;
    struct index index;
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;

    put(folder, "c\n.ppm", 3);
    put(folder, "a b.jpg", 3);
    put(folder, "thumbs/readme", 3);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_entries(&index, 2, wanted, labels);
    assert_int_equal(index.header->n_classes, 1);
    assert_int_equal(index_image(&index, 1, path, &place), STATUS_OK);
    assert_int_equal(access(path, R_OK), 0);
    index_close(&index);
}

static void links_are_followed_but_not_in_circles(void **state)
{
    static const char *const wanted[] = {"a/1.jpg", "b/gone.jpg", "b/x.jpg", "b/to_a/1.jpg"};
    static const uint32_t labels[] = {0, 1, 1, 1};
    struct folder *folder = *state;
    struct index index;
    char path[512];

    put(folder, "a/1.jpg", 5);
    put(folder, "b/readme", 5);
    folder_path(folder, "b/to_a", path, sizeof(path));
    assert_int_equal(symlink("../a", path), 0);
    folder_path(folder, "b/x.jpg", path, sizeof(path));
    assert_int_equal(symlink("../a/1.jpg", path), 0);
    folder_path(folder, "b/gone.jpg", path, sizeof(path));
    assert_int_equal(symlink("nowhere", path), 0);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_entries(&index, 4, wanted, labels);
    assert_int_equal(index.entries[1].size, 0); /* a bad image, when its turn comes */
    assert_int_equal(index.entries[2].size, 5);
    index_close(&index);

    folder_path(folder, "b/up", path, sizeof(path));
    assert_int_equal(symlink("..", path), 0);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_INVALID);
    assert_says("never end");
}

static void missing_and_empty_folders_are_named(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char path[512];

    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_INVALID);
    assert_says("has no images");
    put(folder, "class/readme.txt", 1);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_INVALID);
    assert_says("has no images");
    folder_path(folder, "nowhere", path, sizeof(path));
    assert_int_equal(index_build(&index, path, NULL, NULL), STATUS_NOT_FOUND);
    assert_says("nowhere");
    folder_path(folder, "class/readme.txt", path, sizeof(path));
    assert_int_equal(index_build(&index, path, NULL, NULL), STATUS_INVALID);
    assert_says("no path");
}

static void the_digest_covers_paths_sizes_and_labels(void **state)
{
    struct folder *folder = *state;
    struct index index;
    uint64_t digests[4];

    for (int i = 0; i < 4; i++) {
        if (i == 0)
            put(folder, "b/1.jpg", 5);
        if (i == 1)
            put(folder, "b/1.jpg", 6);
        if (i == 2)
            put(folder, "a/notes.txt", 1); /* moves b's label */
        if (i == 3)
            put(folder, "b/2.jpg", 1);
        assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
        digests[i] = index.header->digest;
        for (int j = 0; j < i; j++)
            assert_int_not_equal(digests[i], digests[j]);
        index_close(&index);
    }
}

/* Makes a small data set with old times and its index in it. */
static void make_indexed(const struct folder *folder, char *path, size_t size)
{
    struct index index;

    put(folder, "a/1.jpg", 5);
    put(folder, "a/d/2.jpg", 5);
    put(folder, "b/3.jpg", 5);
    settle(folder, "a/d");
    settle(folder, "a");
    settle(folder, "b");
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(index_place(folder->path, false, path, size), STATUS_OK);
    assert_int_equal(index_write(&index, path), STATUS_OK);
    index_close(&index);
}

static bool is_current(const struct folder *folder, const char *path)
{
    struct index index;

    assert_int_equal(index_open(&index, path, folder->path), STATUS_OK);
    bool current = index_is_current(&index);
    index_close(&index);
    return current;
}

static void a_written_index_comes_back_and_stays_current(void **state)
{
    static const char *const wanted[] = {"a/1.jpg", "a/d/2.jpg", "b/3.jpg"};
    static const uint32_t labels[] = {0, 0, 1};
    struct folder *folder = *state;
    struct index index, built;
    char path[512];

    make_indexed(folder, path, sizeof(path));
    assert_int_equal(index_load(&index, folder->path, NULL, NULL, NULL), STATUS_OK);
    assert_non_null(index.map); /* from the file */
    assert_entries(&index, 3, wanted, labels);
    assert_int_equal(index_build(&built, folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(built.header->digest, index.header->digest);
    index_close(&built);
    index_close(&index);
    index_close(&index);
}

static void a_change_of_folders_makes_an_index_stale(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char path[512], name[512];

    make_indexed(folder, path, sizeof(path));
    assert_true(is_current(folder, path));
    put(folder, "notes.txt", 1); /* beside the classes: no matter */
    assert_true(is_current(folder, path));
    put(folder, "c/4.jpg", 1); /* a new class */
    assert_false(is_current(folder, path));
    assert_int_equal(index_load(&index, folder->path, NULL, NULL, NULL), STATUS_OK);
    assert_int_equal(index.header->n_samples, 4); /* read again */
    index_close(&index);
    folder_path(folder, "c/4.jpg", name, sizeof(name));
    assert_int_equal(unlink(name), 0);
    folder_path(folder, "c", name, sizeof(name));
    assert_int_equal(rmdir(name), 0);
    assert_true(is_current(folder, path));
    put(folder, "a/d/5.jpg", 1); /* deep inside */
    assert_false(is_current(folder, path));
}

static void a_folder_that_changes_while_it_is_read_is_read_again(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char path[512];

    put(folder, "a/1.jpg", 5); /* this moment: another file may come within the same tick */
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(index_place(folder->path, false, path, sizeof(path)), STATUS_OK);
    assert_int_equal(index_write(&index, path), STATUS_OK);
    bool known = index.folders[1].mtime_ns != INDEX_TIME_UNKNOWN;
    index_close(&index);
    assert_int_equal(is_current(folder, path), known); /* known only on a very slow machine */
}

static void a_cache_serves_data_that_cannot_be_written_to(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char cache[512], place[512], again[512];

    put(folder, "data/a/1.jpg", 5);
    settle(folder, "data/a");
    folder_path(folder, "cache", cache, sizeof(cache));
    setenv("XDG_CACHE_HOME", cache, 1);
    char data[512], same[600];
    folder_path(folder, "data", data, sizeof(data));
    snprintf(same, sizeof(same), "%s/a/..", data);
    assert_int_equal(index_place(data, true, place, sizeof(place)), STATUS_OK);
    assert_int_equal(index_place(same, true, again, sizeof(again)), STATUS_OK);
    assert_string_equal(place, again); /* by real path */
    assert_int_equal(index_build(&index, data, NULL, NULL), STATUS_OK);
    assert_int_equal(index_write_below(&index, place), STATUS_OK);
    index_close(&index);
    assert_int_equal(index_load(&index, data, NULL, NULL, NULL), STATUS_OK);
    assert_non_null(index.map);
    index_close(&index);
}

static int stop_at_once(void *context, uint64_t n_found)
{
    *(uint64_t *)context = n_found;
    return 1;
}

static void reading_can_be_stopped(void **state)
{
    struct folder *folder = *state;
    struct index index;
    uint64_t seen = 0;
    char name[64];

    for (int i = 0; i < 1001; i++) {
        snprintf(name, sizeof(name), "a/%d.jpg", i);
        put(folder, name, 0);
    }
    assert_int_equal(index_build(&index, folder->path, stop_at_once, &seen), STATUS_INTERRUPTED);
    assert_int_equal(seen, 1001);
}

/* ---- hostile files ---- */

static uint8_t *read_file(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 16);

    assert_non_null(file);
    *n_bytes = fread(bytes, 1, 1 << 16, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const uint8_t *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

/* The bytes as an index with a right checksum. */
static enum status open_bytes(const char *path, uint8_t *bytes, size_t n_bytes)
{
    struct index_header header;
    struct index index = {0};

    memcpy(&header, bytes, sizeof(header));
    header.checksum = hash_bytes(bytes + sizeof(header), n_bytes - sizeof(header));
    memcpy(bytes, &header, sizeof(header));
    write_file(path, bytes, n_bytes);
    enum status status = index_open(&index, path, "/nowhere");
    if (status != STATUS_OK)
        assert_null(index.map);
    index_close(&index);
    return status;
}

static void a_cut_or_changed_file_is_refused(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char path[512];
    size_t n_bytes;

    make_indexed(folder, path, sizeof(path));
    uint8_t *bytes = read_file(path, &n_bytes);
    for (size_t n = 0; n < n_bytes; n += 5) {
        write_file(path, bytes, n);
        assert_int_equal(index_open(&index, path, folder->path), STATUS_CORRUPT);
    }
    for (size_t i = 0; i < n_bytes; i += 3) { /* a rule or the checksum sees all but two fields */
        bytes[i] ^= 0x40;
        write_file(path, bytes, n_bytes);
        bool free = i >= offsetof(struct index_header, root_names) &&
                    i < offsetof(struct index_header, checksum);
        if (!free)
            assert_int_not_equal(index_open(&index, path, folder->path), STATUS_OK);
        bytes[i] ^= 0x40;
    }
    free(bytes);
    assert_int_equal(index_open(&index, "/dev/null", "/"), STATUS_CORRUPT);
    assert_int_equal(index_open(&index, folder->path, "/"), STATUS_CORRUPT);
}

static void lies_inside_a_whole_file_are_refused(void **state)
{
    struct folder *folder = *state;
    char path[512];
    size_t n_bytes;

    make_indexed(folder, path, sizeof(path));
    uint8_t *bytes = read_file(path, &n_bytes);
    struct index_header *header = (void *)bytes, saved = *header;
    struct index_entry *entries = (void *)(header + 1);
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_OK);

    header->n_samples = UINT64_MAX / sizeof(struct index_entry) + 2;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    *header = saved;
    header->n_folders = UINT64_C(1) << 60; /* times 16 overflows to 0 */
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    *header = saved;
    header->version = 99;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_MISMATCH);
    *header = saved;
    struct index_entry entry = entries[1];
    entries[1].path = header->strings_bytes;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    entries[1] = entry;
    entries[1].name = header->strings_bytes;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    entries[1] = entry;
    header->base = 3;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    *header = saved;
    entries[1].label = 2;
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    entries[1] = entry;

    static const char *const lies[] = {"/etc/pas", "../../a", "a/../../", "..", ""};
    char *text = (char *)(bytes + n_bytes - header->strings_bytes + entries[0].path);
    char kept[16];
    memcpy(kept, text, 8);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        memset(text, 0, 7);
        memcpy(text, lies[i], strlen(lies[i]) < 8 ? strlen(lies[i]) : 7);
        assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    }
    memcpy(text, kept, 8);
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_OK);
    bytes[n_bytes - 1] = 'x'; /* the last string has no end */
    assert_int_equal(open_bytes(path, bytes, n_bytes), STATUS_CORRUPT);
    free(bytes);
}

/* In containers that share a folder everybody may be process 1: what another one is at stays. */
static void a_writer_does_not_touch_the_file_of_another(void **state)
{
    const struct folder *folder = *state;
    char place[512], other[600], name[600];
    struct index index = {0};
    struct stat info;

    put(folder, "images/a/1.jpg", 5);
    folder_path(folder, "images", place, sizeof(place));
    assert_int_equal(index_build(&index, place, NULL, NULL), STATUS_OK);
    folder_path(folder, "index", place, sizeof(place));
    snprintf(name, sizeof(name), "index.tmp-%d", (int)getpid());
    put(folder, name, 3);
    folder_path(folder, name, other, sizeof(other));
    assert_int_equal(index_write(&index, place), STATUS_OK);
    assert_int_equal(stat(other, &info), 0);
    assert_int_equal(info.st_size, 3);
    assert_int_equal(stat(place, &info), 0);
    index_close(&index);
}

static void a_place_that_cannot_be_written_leaves_nothing(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char path[512];

    put(folder, "a/1.jpg", 5);
    assert_int_equal(index_build(&index, folder->path, NULL, NULL), STATUS_OK);
    assert_int_equal(index_write(&index, "/nowhere/index"), STATUS_IO);
    assert_says("/nowhere/index");
    folder_path(folder, "a", path, sizeof(path)); /* a folder is in the way */
    assert_int_equal(index_write(&index, path), STATUS_IO);
    snprintf(path + strlen(path), sizeof(path) - strlen(path), ".tmp-%d", (int)getpid());
    assert_int_not_equal(access(path, F_OK), 0);
    index_close(&index);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_open, folder_close)
    const struct CMUnitTest tests[] = {
        TEST(order_is_that_of_image_folder),
        TEST(a_flat_folder_is_one_class),
        TEST(links_are_followed_but_not_in_circles),
        TEST(missing_and_empty_folders_are_named),
        TEST(the_digest_covers_paths_sizes_and_labels),
        TEST(a_written_index_comes_back_and_stays_current),
        TEST(a_change_of_folders_makes_an_index_stale),
        TEST(a_folder_that_changes_while_it_is_read_is_read_again),
        TEST(a_cache_serves_data_that_cannot_be_written_to),
        TEST(reading_can_be_stopped),
        TEST(a_cut_or_changed_file_is_refused),
        TEST(lies_inside_a_whole_file_are_refused),
        TEST(a_writer_does_not_touch_the_file_of_another),
        TEST(a_place_that_cannot_be_written_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
