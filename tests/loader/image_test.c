/* Decoding: every kind of file as Pillow reads it, damaged and hostile ones with a clear text, and
 * nothing of one file in the next. */
#include "loader/image.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/loader/folder.h"

enum { WIDTH = 13, HEIGHT = 9, FILE_MAX = 1 << 16 };

struct tools {
    struct image_decoder *decoder;
    struct image image;
    uint8_t bytes[FILE_MAX];
};

static int tools_open(void **state)
{
    struct tools *tools = calloc(1, sizeof(*tools));

    assert_int_equal(image_decoder_open(&tools->decoder), STATUS_OK);
    *state = tools;
    return 0;
}

static int tools_close(void **state)
{
    struct tools *tools = *state;

    image_decoder_close(&tools->decoder);
    image_release(&tools->image);
    image_release(&tools->image);
    free(tools);
    return 0;
}

static void data_path(const char *name, char *out, size_t size)
{
    const char *data = getenv("IBOT_TEST_DATA");

    assert_non_null(data);
    assert_true((size_t)snprintf(out, size, "%s/images/%s", data, name) < size);
}

static size_t load(struct tools *tools, const char *name)
{
    char path[1024];

    data_path(name, path, sizeof(path));
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("%s is missing", path);
    size_t n = fread(tools->bytes, 1, FILE_MAX, file);
    fclose(file);
    return n;
}

static enum status decode(struct tools *tools, size_t n_bytes)
{
    /* an exact copy, so that the address sanitizer sees a read past the end */
    uint8_t *exact = malloc(n_bytes + (n_bytes == 0));

    memcpy(exact, tools->bytes, n_bytes);
    enum status status = image_decode(tools->decoder, exact, n_bytes, &tools->image);
    free(exact);
    return status;
}

static void assert_says(const char *word)
{
    if (strstr(status_message(), word) == NULL)
        fail_msg("'%s' does not say '%s'", status_message(), word);
}

static void assert_pixels(struct tools *tools, const char *name)
{
    uint8_t wanted[3 * WIDTH * HEIGHT];
    char path[1024], rgb[256];

    snprintf(rgb, sizeof(rgb), "%.*s.rgb", (int)strcspn(name, "."), name);
    data_path(rgb, path, sizeof(path));
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(wanted, 1, sizeof(wanted), file), sizeof(wanted));
    fclose(file);
    assert_int_equal(tools->image.width, WIDTH);
    assert_int_equal(tools->image.height, HEIGHT);
    for (size_t i = 0; i < WIDTH * HEIGHT; i++)
        if (memcmp(image_pixel(&tools->image, i % WIDTH, i / WIDTH), wanted + 3 * i, 3) != 0)
            fail_msg("%s: pixel %zu differs from Pillow's", name, i);
}

/* Calls `visit` for each picture of the data folder; returns how many. */
static int each_picture(struct tools *tools, void (*visit)(struct tools *, const char *name))
{
    char path[1024];
    int n = 0;

    data_path("", path, sizeof(path));
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *item = readdir(dir); item != NULL; item = readdir(dir)) {
        if (item->d_name[0] == '.' || strstr(item->d_name, ".rgb") != NULL ||
            strstr(item->d_name, ".md") != NULL)
            continue;
        visit(tools, item->d_name);
        n++;
    }
    closedir(dir);
    return n;
}

static void visit_whole(struct tools *tools, const char *name)
{
    if (decode(tools, load(tools, name)) != STATUS_OK)
        fail_msg("%s: %s", name, status_message());
    assert_int_equal(image_decoder_repairs(tools->decoder), 0);
    assert_in_range(tools->image.orientation, 1, 8);
    assert_pixels(tools, name);
    image_release(&tools->image); /* the next one is in new memory */
}

static void every_kind_is_read_as_pillow_reads_it(void **state)
{
    assert_true(each_picture(*state, visit_whole) > 50);
}

/* Half of a file is never the whole picture. */
static void visit_half(struct tools *tools, const char *name)
{
    size_t n = load(tools, name);

    if (decode(tools, n / 2) == STATUS_OK)
        fail_msg("half of %s was taken", name);
    assert_true(strlen(status_message()) > 10);
    for (size_t cut = 0; cut < n; cut += 1 + n / 40)
        (void)!decode(tools, cut); /* no crash, no hang, whatever it says */
}

static void half_files_of_every_kind_are_refused(void **state)
{
    assert_true(each_picture(*state, visit_half) > 50);
}

static void a_jpeg_is_truncated_unless_its_end_is_there(void **state)
{
    struct tools *tools = *state;
    size_t n = load(tools, "jpeg_420.jpg");

    assert_int_equal(decode(tools, n - 1), STATUS_CORRUPT);
    assert_says("truncated");
    assert_int_equal(decode(tools, n - 2), STATUS_CORRUPT);
    assert_says("truncated");
    tools->bytes[n] = 'x'; /* what follows the end does not matter */
    assert_int_equal(decode(tools, n + 1), STATUS_OK);
}

static void repaired_damage_is_counted_as_a_warning(void **state)
{
    struct tools *tools = *state;
    size_t n = load(tools, "jpeg_444.jpg");

    tools->bytes[n - 12] = 0xff; /* an early end of image inside the data */
    tools->bytes[n - 11] = 0xd9;
    assert_int_equal(decode(tools, n), STATUS_OK);
    assert_true(image_decoder_repairs(tools->decoder) > 0);
    load(tools, "jpeg_444.jpg");
    assert_int_equal(decode(tools, n), STATUS_OK);
    assert_int_equal(image_decoder_repairs(tools->decoder), 0);
}

static void things_that_are_no_images_are_named(void **state)
{
    static const struct {
        const char *bytes;
        size_t n_bytes;
        const char *word;
    } files[] = {
        {"", 0, "empty"},
        {"This is a text file.\n", 21, "none of"},
        {"GIF89a\1\0\1\0", 10, "none of"},
        {"<svg xmlns='http://www.w3.org/2000/svg'/>", 41, "none of"},
        {"%PDF-1.4\n", 9, "none of"},
        {"\xff", 1, "none of"},
        {"\xff\xd8", 2, "JPEG"},
        {"\xff\xd8\xff\xd9", 4, "JPEG"},
        {"\x89PNG\r\n\x1a\n", 8, "broken"},
        {"BM", 2, "BMP"},
        {"P6 1 1", 6, "truncated"},
        {"P6 0 1 255\n", 11, "pixels"},
        {"P6 1 1 0\n   ", 12, "maximum"},
        {"P5 99999999999999 1 255\n", 24, "above"},
        {"P2 1 1 255\nx", 12, "number"},
        {"P2 1 1 255\n300", 14, "above"},
        {"P4 65500 65500\n", 15, "pixels"},
        {"II*\0\x08\0\0\0", 8, "broken"},
        {"RIFF\x04\0\0\0WEBP", 12, "broken"},
    };
    struct tools *tools = *state;

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        memcpy(tools->bytes, files[i].bytes, files[i].n_bytes);
        assert_int_not_equal(decode(tools, files[i].n_bytes), STATUS_OK);
        assert_says(files[i].word);
    }
}

/* A JPEG's size fields overwritten. */
static size_t load_sized(struct tools *tools, const char *name, unsigned width, unsigned height)
{
    size_t n = load(tools, name);

    for (size_t i = 2; i + 9 < n; i++)
        if (tools->bytes[i] == 0xff &&
            (tools->bytes[i + 1] == 0xc0 || tools->bytes[i + 1] == 0xc2)) {
            tools->bytes[i + 5] = (uint8_t)(height >> 8);
            tools->bytes[i + 6] = (uint8_t)height;
            tools->bytes[i + 7] = (uint8_t)(width >> 8);
            tools->bytes[i + 8] = (uint8_t)width;
            return n;
        }
    fail_msg("%s has no frame header", name);
    return 0;
}

/* Of this process: what others do on the machine does not count. */
static int64_t processor_ns(void)
{
    struct timespec now;

    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void huge_headers_are_refused_before_they_cost(void **state)
{
    struct tools *tools = *state;
    int64_t start = processor_ns();

    size_t n = load_sized(tools, "jpeg_420.jpg", 35584, 18696);
    assert_int_equal(decode(tools, n), STATUS_CORRUPT);
    assert_says("35584 x 18696");
    n = load_sized(tools, "jpeg_420.jpg", 7000, 7000); /* within the limit, but next to empty */
    assert_int_equal(decode(tools, n), STATUS_CORRUPT);
    assert_says("can't be in");
    n = load_sized(tools, "jpeg_progressive.jpg", 7000, 6000); /* 420 MB of coefficients */
    assert_int_equal(decode(tools, n), STATUS_CORRUPT);
    assert_says("too much memory");
    n = load(tools, "png_rgb.png");
    memcpy(tools->bytes + 16, "\0\0\xff\xdc\0\0\xff\xdc", 8);
    assert_int_not_equal(decode(tools, n), STATUS_OK);
    n = load(tools, "bmp_24.bmp");
    memcpy(tools->bytes + 18, "\x00\x1c\0\0\x00\x10\0\0", 8); /* 7168 x 4096 */
    assert_int_equal(decode(tools, n), STATUS_CORRUPT);
    assert_says("truncated");
    memcpy(tools->bytes + 18, "\xff\xff\xff\x7f\0\0\0\x80", 8); /* 2^31 - 1 x -2^31 */
    assert_int_equal(decode(tools, n), STATUS_CORRUPT);
    assert_true(processor_ns() - start < INT64_C(5000000000));
}

/* A small progressive file whose scans are repeated over and over. */
static void thousands_of_scans_are_refused(void **state)
{
    struct tools *tools = *state;
    size_t n = load_sized(tools, "jpeg_progressive.jpg", 5000, 4000), scan = 0;

    for (size_t i = 2; i + 1 < n && scan == 0; i++)
        if (tools->bytes[i] == 0xff && tools->bytes[i + 1] == 0xda)
            scan = i;
    assert_true(scan > 0);
    size_t end = scan + 2;
    while (tools->bytes[end] != 0xff || tools->bytes[end + 1] == 0)
        end++;
    size_t length = end - scan, total = n - 2;
    while (total + length + 2 < FILE_MAX) {
        memcpy(tools->bytes + total, tools->bytes + scan, length);
        total += length;
    }
    memcpy(tools->bytes + total, "\xff\xd9", 2);
    assert_int_equal(decode(tools, total + 2), STATUS_CORRUPT);
    assert_says("scans");
}

/* A JPEG without tables decodes by whatever tables a kept handle had; here it is refused, or always
 * the same. */
static void tables_of_one_file_do_not_serve_the_next(void **state)
{
    struct tools *tools = *state;
    uint8_t bare[FILE_MAX];
    size_t n = load(tools, "jpeg_444.jpg"), n_bare = 2;

    memcpy(bare, tools->bytes, 2);
    for (size_t i = 2; i + 4 < n;) { /* leave the quantisation tables out */
        size_t length = 2 + ((size_t)tools->bytes[i + 2] << 8) + tools->bytes[i + 3];
        bool scan = tools->bytes[i + 1] == 0xda;
        if (scan)
            length = n - i;
        if (tools->bytes[i + 1] != 0xdb) {
            memcpy(bare + n_bare, tools->bytes + i, length);
            n_bare += length;
        }
        i += length;
    }
    assert_true(n_bare < n);
    assert_int_equal(decode(tools, n), STATUS_OK); /* a handle would have tables now */
    memcpy(tools->bytes, bare, n_bare);
    assert_int_equal(decode(tools, n_bare), STATUS_CORRUPT);
    assert_says("uantization table");
}

/* A JPEG with this orientation in its EXIF data, either byte order. */
static size_t put_orientation(struct tools *tools, const uint8_t *jpeg, size_t n, int orientation,
                              bool little)
{
    uint8_t segment[] = "\xff\xe1\0\x22"
                        "Exif\0\0"
                        "MM\0*\0\0\0\x08"
                        "\0\x01"
                        "\x01\x12\0\x03\0\0\0\x01\0\0\0\0"
                        "\0\0\0\0";
    static const uint8_t little_tiff[] = "II*\0\x08\0\0\0"
                                         "\x01\0"
                                         "\x12\x01\x03\0\x01\0\0\0\0\0\0\0";
    size_t n_segment = sizeof(segment) - 1;

    if (little)
        memcpy(segment + 10, little_tiff, sizeof(little_tiff) - 1);
    segment[28 + !little] = (uint8_t)orientation;
    memcpy(tools->bytes, jpeg, 2);
    memcpy(tools->bytes + 2, segment, n_segment);
    memcpy(tools->bytes + 2 + n_segment, jpeg + 2, n - 2);
    return n + n_segment;
}

/* Where the stored first pixel goes, by the table of the EXIF standard: 0th row and 0th column. */
static void orientations_are_found_and_undone(void **state)
{
    static const struct {
        bool right, bottom, swap;
    } first[] = {{0},       {0, 0, 0}, {1, 0, 0}, {1, 1, 0}, {0, 1, 0},
                 {0, 0, 1}, {1, 0, 1}, {1, 1, 1}, {0, 1, 1}};
    struct tools *tools = *state;
    struct image turned = {0};
    static uint8_t jpeg[FILE_MAX];
    size_t n = load(tools, "jpeg_444.jpg");

    memcpy(jpeg, tools->bytes, n);
    for (int o = 0; o <= 9; o++)
        for (int little = 0; little < 2; little++) {
            size_t n_all = put_orientation(tools, jpeg, n, o, little != 0);
            int wanted = o >= 1 && o <= 8 ? o : 1; /* nonsense says nothing */
            assert_int_equal(decode(tools, n_all), STATUS_OK);
            assert_int_equal(tools->image.orientation, wanted);
            assert_int_equal(image_turn(&turned, &tools->image), STATUS_OK);
            bool swap = first[wanted].swap;
            assert_int_equal(turned.width, swap ? HEIGHT : WIDTH);
            assert_int_equal(turned.height, swap ? WIDTH : HEIGHT);
            for (size_t y = 0; y < HEIGHT; y++)
                for (size_t x = 0; x < WIDTH; x++) {
                    size_t column = swap ? y : x, row = swap ? x : y;
                    if (first[wanted].right)
                        column = (size_t)turned.width - 1 - column;
                    if (first[wanted].bottom)
                        row = (size_t)turned.height - 1 - row;
                    assert_memory_equal(image_pixel(&turned, column, row),
                                        image_pixel(&tools->image, x, y), 3);
                }
        }
    image_release(&turned);
}

static enum status read_at(struct tools *tools, const char *path)
{
    struct image_place place = {.path = path};
    return image_read(tools->decoder, &place, &tools->image);
}

static void files_are_read_by_path_and_named(void **state)
{
    struct tools *tools;
    struct folder *folder;
    char path[1024];

    (void)state;
    tools_open((void **)&tools);
    folder_open((void **)&folder);
    size_t n = load(tools, "jpeg_420.jpg");
    folder_put(folder, "a b/good.jpg", tools->bytes, n);
    folder_put(folder, "empty.jpg", "", 0);
    folder_put(folder, "half.jpg", tools->bytes, n / 2);
    folder_put(folder, "text.jpg", "not an image", 12);
    folder_path(folder, "a b/good.jpg", path, sizeof(path));
    assert_int_equal(read_at(tools, path), STATUS_OK);
    assert_pixels(tools, "jpeg_420.jpg");
    static const char *const bad[] = {"empty.jpg", "half.jpg", "text.jpg"};
    for (int i = 0; i < 3; i++) {
        folder_path(folder, bad[i], path, sizeof(path));
        assert_int_equal(read_at(tools, path), STATUS_CORRUPT);
        assert_says(bad[i]);
    }
    folder_path(folder, "missing.jpg", path, sizeof(path));
    assert_int_equal(read_at(tools, path), STATUS_NOT_FOUND);
    assert_says("missing.jpg");
    assert_int_equal(read_at(tools, folder->path), STATUS_IO);
    assert_says("regular");
    folder_path(folder, "pipe.jpg", path, sizeof(path));
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody will ever write into it */
    assert_int_equal(read_at(tools, path), STATUS_IO);
    folder_path(folder, "locked.jpg", path, sizeof(path));
    folder_put(folder, "locked.jpg", tools->bytes, n);
    assert_int_equal(chmod(path, 0), 0);
    if (geteuid() != 0) { /* the superuser reads everything */
        assert_int_equal(read_at(tools, path), STATUS_IO);
        assert_says("locked.jpg");
    }
    folder_close((void **)&folder);
    tools_close((void **)&tools);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, tools_open, tools_close)
    const struct CMUnitTest tests[] = {
        TEST(every_kind_is_read_as_pillow_reads_it),
        TEST(half_files_of_every_kind_are_refused),
        TEST(a_jpeg_is_truncated_unless_its_end_is_there),
        TEST(repaired_damage_is_counted_as_a_warning),
        TEST(things_that_are_no_images_are_named),
        TEST(huge_headers_are_refused_before_they_cost),
        TEST(thousands_of_scans_are_refused),
        TEST(tables_of_one_file_do_not_serve_the_next),
        TEST(orientations_are_found_and_undone),
        cmocka_unit_test(files_are_read_by_path_and_named),
    };
    if (image_library_start("image_test") != STATUS_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
