/* Data sets in tar archives and lists: the same images, classes and order as unpacked. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "loader/tar.h"
#include "loader/view.h"
#include "proto/base/hash.h"
#include "tests/loader/folder.h"

enum { MOST_BYTES = 1 << 16 };

/* An archive in work. */
struct archive {
    uint8_t bytes[MOST_BYTES];
    size_t n_bytes;
};

static void put_octal(uint8_t *field, size_t n, uint64_t value)
{
    snprintf((char *)field, n, "%0*llo", (int)n - 1, (unsigned long long)value);
}

static void seal(uint8_t *header)
{
    unsigned sum = 0;

    memset(header + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        sum += header[i];
    snprintf((char *)header + 148, 8, "%06o", sum);
}

static uint8_t *add(struct archive *archive, const char *name, char type, const void *bytes,
                    size_t n_bytes)
{
    uint8_t *header = archive->bytes + archive->n_bytes;
    size_t padded = (n_bytes + TAR_BLOCK_BYTES - 1) / TAR_BLOCK_BYTES * TAR_BLOCK_BYTES;

    assert_true(archive->n_bytes + TAR_BLOCK_BYTES + padded <= MOST_BYTES);
    memset(header, 0, TAR_BLOCK_BYTES + padded);
    memcpy(header, name, strnlen(name, 100));
    put_octal(header + 100, 8, 0644);
    put_octal(header + 124, 12, n_bytes);
    header[156] = (uint8_t)type;
    memcpy(header + 257, "ustar\00000", 8);
    seal(header);
    memcpy(header + TAR_BLOCK_BYTES, bytes, n_bytes);
    archive->n_bytes += TAR_BLOCK_BYTES + padded;
    return header;
}

static void end(struct archive *archive)
{
    memset(archive->bytes + archive->n_bytes, 0, 2 * TAR_BLOCK_BYTES);
    archive->n_bytes += 2 * TAR_BLOCK_BYTES;
}

/* A small picture; its bytes differ with the seed. */
static size_t picture(uint8_t out[512], uint32_t seed)
{
    int n = sprintf((char *)out, "P6 9 7 255\n");

    for (int i = 0; i < 3 * 9 * 7; i++)
        out[n + i] = (uint8_t)((seed * 2654435761u + (uint32_t)i * 40503u) >> 9);
    return (size_t)n + 3 * 9 * 7;
}

static void add_picture(struct archive *archive, const char *name, uint32_t seed)
{
    uint8_t bytes[512];
    size_t n = picture(bytes, seed);

    add(archive, name, '0', bytes, n);
}

static enum status build(struct index *index, const struct folder *folder, const char *name)
{
    char path[512];

    folder_path(folder, name, path, sizeof(path));
    return index_build(index, path, NULL, NULL);
}

static void assert_says(const char *word)
{
    if (strstr(status_message(), word) == NULL)
        fail_msg("'%s' does not say '%s'", status_message(), word);
}

/* Every image of the index decodes; a hash of all, with their labels, in order. */
static uint64_t hash_of(const struct index *index)
{
    struct image_decoder *decoder;
    struct image image = {0};
    struct image_place place;
    char path[INDEX_MAX_PATH_BYTES];
    uint64_t hash = 1;

    assert_int_equal(image_decoder_open(&decoder), STATUS_OK);
    for (uint32_t i = 0; i < index->header->n_samples; i++) {
        assert_int_equal(index_image(index, i, path, &place), STATUS_OK);
        if (image_read(decoder, &place, &image) != STATUS_OK)
            fail_msg("%s", status_message());
        for (size_t y = 0; y < 7; y++)
            for (size_t x = 0; x < 9; x++)
                hash = hash_bytes_seeded(image_pixel(&image, x, y), 3, hash);
        hash = hash_bytes_seeded(&index->entries[i].label, sizeof(uint32_t), hash);
    }
    image_release(&image);
    image_decoder_close(&decoder);
    return hash;
}

/* Three classes of two images, unpacked; returns their hash. */
static uint64_t put_folders(const struct folder *folder)
{
    struct index index;
    uint8_t bytes[512];
    char name[64];

    for (uint32_t i = 0; i < 6; i++) {
        size_t n = picture(bytes, i);
        snprintf(name, sizeof(name), "folders/n0000000%u/%u.ppm", i / 2, i);
        folder_put(folder, name, bytes, n);
    }
    assert_int_equal(build(&index, folder, "folders"), STATUS_OK);
    uint64_t hash = hash_of(&index);
    index_close(&index);
    return hash;
}

static void assert_same(const struct folder *folder, const char *name, uint64_t hash)
{
    struct index index;

    if (build(&index, folder, name) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(index.header->n_samples, 6);
    assert_int_equal(index.header->n_classes, 3);
    assert_string_equal(index_class_name(&index, 1), "n00000001");
    assert_true(hash_of(&index) == hash);
    index_close(&index);
}

static void archives_are_read_as_if_unpacked(void **state)
{
    static struct archive outer, inner[3], tree;
    struct folder *folder = *state;
    uint64_t wanted = put_folders(folder);
    char name[64];

    for (uint32_t i = 6; i-- > 0;) { /* in another order than that of the names */
        snprintf(name, sizeof(name), "./train/n0000000%u/%u.ppm", i / 2, i);
        add_picture(&tree, name, i);
        add_picture(&inner[i / 2], strrchr(name, '/') + 1, i);
    }
    end(&tree);
    folder_put(folder, "tree.tar", tree.bytes, tree.n_bytes);
    assert_same(folder, "tree.tar", wanted);
    for (int i = 2; i >= 0; i--) {
        end(&inner[i]);
        snprintf(name, sizeof(name), "synsets/n0000000%d.tar", i);
        folder_put(folder, name, inner[i].bytes, inner[i].n_bytes);
        add(&outer, strchr(name, '/') + 1, '0', inner[i].bytes, inner[i].n_bytes);
    }
    assert_same(folder, "synsets", wanted);
    folder_put(folder, "outer.tar", outer.bytes, outer.n_bytes); /* without an end: that is fine */
    assert_same(folder, "outer.tar", wanted);
}

static void shards_take_their_classes_from_cls_files(void **state)
{
    static struct archive shards[2];
    static const uint32_t labels[] = {3, 0, 2, 2};
    struct folder *folder = *state;
    struct index index;
    struct image_place place;
    char path[INDEX_MAX_PATH_BYTES];

    add(&shards[0], "a.cls", '0', "3", 1);
    add_picture(&shards[0], "a.ppm", 0);
    add(&shards[0], "a.json", '0', "{}", 2);
    add_picture(&shards[0], "b.ppm", 1);
    add(&shards[0], "b.cls", '0', "0\n", 2); /* after its image */
    add(&shards[1], "x/c.cls", '0', "2", 1);
    add_picture(&shards[1], "x/c.left.ppm", 2);
    add_picture(&shards[1], "x/c.right.ppm", 3);
    for (int i = 0; i < 2; i++) {
        end(&shards[i]);
        snprintf(path, sizeof(path), "shards/%d.tar", i);
        folder_put(folder, path, shards[i].bytes, shards[i].n_bytes);
    }
    assert_int_equal(build(&index, folder, "shards"), STATUS_OK);
    assert_int_equal(index.header->n_samples, 4);
    assert_int_equal(index.header->n_classes, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(index.entries[i].label, labels[i]);
    assert_int_equal(index_image(&index, 2, path, &place), STATUS_OK);
    assert_string_equal(place.name, "x/c.left.ppm");
    assert_non_null(strstr(path, "shards/1.tar"));
    assert_true(hash_of(&index) != 0);
    index_close(&index);

    add_picture(&shards[1], "d.ppm", 4); /* behind the end: not there */
    folder_put(folder, "shards/1.tar", shards[1].bytes, shards[1].n_bytes);
    assert_int_equal(build(&index, folder, "shards"), STATUS_OK);
    index_close(&index);
    shards[1].n_bytes -= 3 * TAR_BLOCK_BYTES + TAR_BLOCK_BYTES;
    add_picture(&shards[1], "d.ppm", 4);
    folder_put(folder, "shards/1.tar", shards[1].bytes, shards[1].n_bytes);
    assert_int_equal(build(&index, folder, "shards"), STATUS_INVALID);
    assert_says("d.ppm");
    static struct archive wrong;
    add(&wrong, "a.cls", '0', "cat", 3);
    add_picture(&wrong, "a.ppm", 0);
    folder_put(folder, "wrong.tar", wrong.bytes, wrong.n_bytes);
    assert_int_equal(build(&index, folder, "wrong.tar"), STATUS_INVALID);
    assert_says("cat");
}

static void long_names_of_gnu_and_pax_are_read(void **state)
{
    static struct archive archive;
    struct folder *folder = *state;
    struct index index;
    char name[300], record[400];

    memset(name, 'd', sizeof(name) - 1);
    strcpy(name + sizeof(name) - 5, ".ppm");
    add(&archive, "././@LongLink", 'L', name, sizeof(name));
    add_picture(&archive, "cut", 0);
    name[0] = 'p';
    int n = snprintf(record, sizeof(record), "%d path=%s\n", 310, name);
    assert_int_equal(n, 309); /* so the length is wrong by one */
    snprintf(record, sizeof(record), "%d path=%s\n", n, name);
    add(&archive, "pax", 'x', record, (size_t)n);
    add_picture(&archive, "cut", 1);
    uint8_t *header = archive.bytes + archive.n_bytes;
    add_picture(&archive, "name.ppm", 2);
    memcpy(header + 345, "prefix", 6); /* of ustar */
    seal(header);
    add(&archive, "link.ppm", '2', "", 0);
    add(&archive, "folder/", '5', "", 0);
    end(&archive);
    folder_put(folder, "long.tar", archive.bytes, archive.n_bytes);
    assert_int_equal(build(&index, folder, "long.tar"), STATUS_OK);
    assert_int_equal(index.header->n_samples, 3);
    assert_int_equal(index.header->n_classes, 2); /* "." and "prefix" */
    assert_true(hash_of(&index) != 0);
    name[0] = 'd';
    assert_string_equal(index.strings + index.entries[0].name, name);
    name[0] = 'p';
    assert_string_equal(index.strings + index.entries[1].name, name);
    assert_string_equal(index.strings + index.entries[2].name, "prefix/name.ppm");
    index_close(&index);
}

static void damaged_archives_say_where(void **state)
{
    static struct archive archive;
    struct folder *folder = *state;
    struct index index;

    add_picture(&archive, "a.ppm", 0);
    add_picture(&archive, "b.ppm", 1);
    end(&archive);
    folder_put(folder, "cut.tar", archive.bytes, TAR_BLOCK_BYTES + 100);
    assert_int_equal(build(&index, folder, "cut.tar"), STATUS_CORRUPT);
    assert_says("cut short");
    folder_put(folder, "half.tar", archive.bytes, 2 * TAR_BLOCK_BYTES + 100);
    assert_int_equal(build(&index, folder, "half.tar"), STATUS_CORRUPT);
    assert_says("byte 1024");
    archive.bytes[2 * TAR_BLOCK_BYTES + 3] ^= 1;
    folder_put(folder, "flipped.tar", archive.bytes, archive.n_bytes);
    assert_int_equal(build(&index, folder, "flipped.tar"), STATUS_CORRUPT);
    assert_says("byte 1024");
    folder_put(folder, "packed.tar", "\x1f\x8b\x08", 3);
    assert_int_equal(build(&index, folder, "packed.tar"), STATUS_UNSUPPORTED);
    assert_says("decompress");
    static struct archive empty;
    end(&empty);
    folder_put(folder, "none/empty.tar", empty.bytes, empty.n_bytes);
    assert_int_equal(build(&index, folder, "none"), STATUS_INVALID);
    assert_says("no images");
}

static void an_archive_that_changed_makes_an_index_stale(void **state)
{
    static struct archive archive;
    struct folder *folder = *state;
    struct index index, again;
    char path[512], place[INDEX_MAX_PATH_BYTES];
    struct timespec times[2] = {{1000000000, 1}, {1000000000, 1}};

    add_picture(&archive, "a.ppm", 0);
    folder_put(folder, "a.tar", archive.bytes, archive.n_bytes);
    folder_path(folder, "a.tar", path, sizeof(path));
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(index_build(&index, path, NULL, NULL), STATUS_OK);
    assert_int_equal(index_place(path, false, place, sizeof(place)), STATUS_OK);
    assert_int_equal(index_write(&index, place), STATUS_OK);
    assert_int_equal(index_load(&again, path, NULL, NULL, NULL), STATUS_OK);
    assert_non_null(again.map); /* the written one */
    assert_true(hash_of(&again) == hash_of(&index));
    index_close(&again);
    times[1].tv_sec++;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_false(index_is_current(&index));
    index_close(&index);
}

static void an_image_that_lost_its_bytes_is_bad(void **state)
{
    static struct archive archive;
    struct folder *folder = *state;
    struct index index;
    struct image_decoder *decoder;
    struct image image = {0};
    struct image_place place;
    char path[INDEX_MAX_PATH_BYTES];

    add_picture(&archive, "a.ppm", 0);
    add(&archive, "zero.ppm", '0', "", 0);
    folder_put(folder, "a.tar", archive.bytes, archive.n_bytes);
    assert_int_equal(build(&index, folder, "a.tar"), STATUS_OK);
    assert_int_equal(image_decoder_open(&decoder), STATUS_OK);
    assert_int_equal(index_image(&index, 1, path, &place), STATUS_OK);
    assert_int_equal(image_read(decoder, &place, &image), STATUS_CORRUPT);
    assert_says("empty");
    folder_put(folder, "a.tar", archive.bytes, TAR_BLOCK_BYTES + 20);
    assert_int_equal(index_image(&index, 0, path, &place), STATUS_OK);
    assert_int_equal(image_read(decoder, &place, &image), STATUS_CORRUPT);
    assert_says("a.ppm");
    assert_says("ends before");
    image_release(&image);
    image_decoder_close(&decoder);
    index_close(&index);
}

static void put_text(const struct folder *folder, const char *name, const char *text)
{
    folder_put(folder, name, text, strlen(text));
}

static void lists_name_images_and_classes(void **state)
{
    struct folder *folder = *state;
    struct index index;
    char text[2048], path[512];

    put_folders(folder);
    put_text(folder, "plain.txt", "folders/n00000001/2.ppm\r\n\nfolders/n00000000/0.ppm");
    assert_int_equal(build(&index, folder, "plain.txt"), STATUS_OK);
    assert_int_equal(index.header->n_samples, 2);
    assert_int_equal(index.header->n_classes, 1);
    assert_true(hash_of(&index) != 0);
    index_close(&index);
    put_text(folder, "classes.txt", "folders/n00000001/2.ppm 4\nfolders/n00000000/0.ppm\t1\n");
    assert_int_equal(build(&index, folder, "classes.txt"), STATUS_OK);
    assert_int_equal(index.header->n_classes, 5);
    assert_int_equal(index.entries[0].label, 4);
    assert_int_equal(index.entries[1].label, 1);
    assert_true(hash_of(&index) != 0);
    index_close(&index);
    folder_path(folder, "folders/n00000002/4.ppm", path, sizeof(path));
    snprintf(text, sizeof(text), "%s\nfolders/n00000002/5.ppm\n", path);
    put_text(folder, "mixed.txt", text);
    assert_int_equal(build(&index, folder, "mixed.txt"), STATUS_OK);
    assert_true(hash_of(&index) != 0);
    index_close(&index);
}

static void wrong_lists_are_refused(void **state)
{
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "empty"},
        {"a.ppm 3\nb.ppm\n", "line 2 has no class number"},
        {"a.ppm\n../b.ppm\n", "line 2"},
        {"nowhere.ppm\n", "nowhere.ppm"},
    };
    struct folder *folder = *state;
    struct index index;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_text(folder, "list.txt", cases[i].text);
        assert_int_equal(build(&index, folder, "list.txt"), STATUS_INVALID);
        assert_says(cases[i].word);
    }
    folder_put(folder, "list.txt", "a\0b\n", 4);
    assert_int_equal(build(&index, folder, "list.txt"), STATUS_INVALID);
    assert_says("line 1");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_open, folder_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(archives_are_read_as_if_unpacked),
        TEST(shards_take_their_classes_from_cls_files),
        TEST(long_names_of_gnu_and_pax_are_read),
        TEST(damaged_archives_say_where),
        TEST(an_archive_that_changed_makes_an_index_stale),
        TEST(an_image_that_lost_its_bytes_is_bad),
        TEST(lists_name_images_and_classes),
        TEST(wrong_lists_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
