/* Crops of scenes: sizes, labels and colours as OpenCV and numpy make them (scripts/
 * check_torch_segment.py has the code), frozen; and that a crop is what its draws say, of pictures
 * whose colours tell where a pixel was. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/opencv_hsv.h"
#include "proto/base/memory.h"
#include "trainer/eval/scene_crop.h"

static uint8_t value_at(int x, int y, int c)
{
    return (uint8_t)((x * x * 7 + y * 13 + c * x * y * 5) % 256);
}

struct sum {
    int64_t sum, n;
};
static void add(struct sum *sum, const uint8_t *bytes, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum->sum = (sum->sum + bytes[i] * (sum->n++ % 9973 + 1)) % 1000000007;
}

/* ------------------------------------------------------------------------------ as OpenCV */

static void every_colour_goes_to_hsv_as_opencv_says(void **state)
{
    struct sum sum = {0};

    (void)state;
    for (uint32_t i = 0; i < 1u << 24; i++) {
        uint8_t hsv[3];
        opencv_rgb_to_hsv(hsv,
                          (const uint8_t[3]){(uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i});
        add(&sum, hsv, 3);
    }
    assert_int_equal(sum.sum, 223601913);
}

static void and_back(void **state)
{
    struct sum sum = {0};

    (void)state;
    for (uint32_t i = 0; i < OPENCV_HUES * 65536u; i++) {
        uint8_t rgb[3];
        opencv_hsv_to_rgb(rgb,
                          (const uint8_t[3]){(uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i});
        add(&sum, rgb, 3);
    }
    assert_int_equal(sum.sum, 694878126);
}

static void labels_are_resized_as_opencv_does(void **state)
{
    static const struct {
        int width, height, to_width, to_height;
        int64_t sum;
    } cases[] = {
        {37, 53, 64, 80, 657354393},      {100, 70, 33, 21, 30332309},
        {640, 480, 683, 512, 395893004},  {7, 5, 3, 11, 46522},
        {500, 375, 1013, 760, 417332194},
    };
    static uint8_t from[640 * 480], to[1013 * 760];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct scene_size size = {cases[i].to_width, cases[i].to_height};
        struct sum sum = {0};
        for (int y = 0; y < cases[i].height; y++)
            for (int x = 0; x < cases[i].width; x++)
                from[y * cases[i].width + x] = value_at(x, y, 0);
        scene_labels_resize(to, size, from, cases[i].width, cases[i].height);
        add(&sum, to, (int64_t)size.width * size.height);
        assert_int_equal(sum.sum, cases[i].sum);
    }
}

static void colours_are_distorted_as_opencv_and_numpy_do(void **state)
{
    static const struct {
        struct scene_colours colours;
        int64_t sum;
    } cases[] = {
        {{.contrast = 1.0f}, 758186847},
        {{.brightness = 20.25f, .contrast = 1.0f}, 702376874},
        {{.brightness = -31.5f, .contrast = 1.375f}, 525387492},
        {{0.0f, 0.625f, true, 1.3125f, 0, true, false}, 687097342},
        {{0.0f, 1.4375f, true, 1.0f, 180 - 18, false, true}, 298444627},
        {{11.125f, 1.1875f, false, 0.5625f, 17, true, true}, 262793267},
        {{11.125f, 1.1875f, true, 1.4921875f, 180 - 3, true, true}, 821378644},
    };
    static uint8_t rgb[96 * 512 * 3];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sum sum = {0};
        for (int y = 0; y < 96; y++)
            for (int x = 0; x < 512; x++)
                for (int c = 0; c < 3; c++)
                    rgb[(y * 512 + x) * 3 + c] = value_at(x, y, c);
        scene_colours_apply(rgb, 96 * 512, &cases[i].colours);
        add(&sum, rgb, sizeof(rgb));
        assert_int_equal(sum.sum, cases[i].sum);
    }
}

static void expect_size(int width, int height, int short_px, int long_px, int to_width,
                        int to_height)
{
    struct scene_size size = scene_size_within(width, height, short_px, long_px);

    assert_int_equal(size.width, to_width);
    assert_int_equal(size.height, to_height);
}

static void the_shorter_side_or_the_longer_one_decides(void **state)
{
    (void)state;
    expect_size(683, 512, 512, 2048, 683, 512);
    expect_size(500, 333, 512, 2048, 769, 512); /* 768.77 */
    expect_size(333, 500, 512, 2048, 512, 769);
    expect_size(3000, 300, 512, 2048, 2048, 205); /* 204.8 */
    expect_size(5000, 1, 512, 2048, 2048, 1);
}

/* ------------------------------------------------------------------------------ crops */

enum { WIDTH = 90, HEIGHT = 70, CROP = 48 };

/* Red is the column, green the row, blue 0; of labels `classes` vertical stripes. */
struct scene_of_places {
    struct picture picture;
    uint8_t labels[HEIGHT * WIDTH];
};

static void draw_places(struct scene_of_places *s, int classes)
{
    assert_int_equal(picture_reserve(&s->picture, WIDTH, HEIGHT), STATUS_OK);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            uint8_t *pixel = s->picture.rgb + 3 * (y * WIDTH + x);
            pixel[0] = (uint8_t)x;
            pixel[1] = (uint8_t)y;
            pixel[2] = 0;
            s->labels[y * WIDTH + x] = (uint8_t)(x * classes / WIDTH);
        }
}

static int byte_of(const float *pixels, int side, int c, int y, int x)
{
    static const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    double value = (double)pixels[(c * side + y) * side + x] * deviation[c] + mean[c];

    assert_true(fabs(255.0 * value - rint(255.0 * value)) < 1e-4);
    return (int)rint(255.0 * value);
}

static struct scene_crop_options as_it_is(int side)
{
    return (struct scene_crop_options){
        .crop_px = side, .resize_px = HEIGHT, .scale = {1.0, 1.0}, .most = 1.0, .seed = 7};
}

static void make(float *pixels, uint8_t *labels, const struct scene_of_places *s, uint32_t epoch,
                 const struct scene_crop_options *o, struct scene_crop_room *room)
{
    struct scene_view view = {&s->picture, s->labels, 3, epoch};

    assert_int_equal(scene_crop_make(pixels, labels, &view, o, room), STATUS_OK);
}

static void pixels_and_labels_of_a_crop_are_of_one_place(void **state)
{
    struct scene_crop_options o = as_it_is(CROP);
    static struct scene_of_places s;
    static float pixels[3 * CROP * CROP];
    static uint8_t labels[CROP * CROP];
    struct scene_crop_room room = {.labels = NULL};
    bool left[WIDTH - CROP + 1] = {false}, top[HEIGHT - CROP + 1] = {false};
    int mirrored = 0, n_left = 0, n_top = 0;

    (void)state;
    draw_places(&s, 5);
    for (uint32_t epoch = 0; epoch < 600; epoch++) {
        make(pixels, labels, &s, epoch, &o, &room);
        int x0 = byte_of(pixels, CROP, 0, 0, 0), y0 = byte_of(pixels, CROP, 1, 0, 0);
        int step = byte_of(pixels, CROP, 0, 0, 1) - x0;
        assert_true(step == 1 || step == -1);
        mirrored += step < 0;
        left[step < 0 ? x0 - CROP + 1 : x0] = top[y0] = true;
        for (int y = 0; y < CROP; y += 5)
            for (int x = 0; x < CROP; x += 3) {
                assert_int_equal(byte_of(pixels, CROP, 0, y, x), x0 + step * x);
                assert_int_equal(byte_of(pixels, CROP, 1, y, x), y0 + y);
                assert_int_equal(labels[y * CROP + x], (x0 + step * x) * 5 / WIDTH);
            }
    }
    for (int i = 0; i <= WIDTH - CROP; i++)
        n_left += left[i];
    for (int i = 0; i <= HEIGHT - CROP; i++)
        n_top += top[i];
    assert_int_equal(n_left, WIDTH - CROP + 1); /* every place comes */
    assert_int_equal(n_top, HEIGHT - CROP + 1);
    assert_in_range(mirrored, 240, 360);
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

static void beyond_the_scene_is_nothing(void **state)
{
    enum { SIDE = 96 };
    struct scene_crop_options o = as_it_is(SIDE);
    static struct scene_of_places s;
    static float pixels[3 * SIDE * SIDE];
    static uint8_t labels[SIDE * SIDE];
    struct scene_crop_room room = {.labels = NULL};

    (void)state;
    draw_places(&s, 2);
    o.distortion = true;
    make(pixels, labels, &s, 0, &o, &room);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            bool outside = y >= HEIGHT || x >= WIDTH;
            assert_int_equal(labels[y * SIDE + x] == SCENE_IGNORED, outside);
            for (int c = 0; c < 3 && outside; c++)
                assert_true(pixels[(c * SIDE + y) * SIDE + x] == 0.0f);
        }
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

/* Columns that a crop spans, of 600 crops at random sizes: what one is enlarged by. */
static void sizes_are_uniform_between_their_ends(void **state)
{
    struct scene_crop_options o = as_it_is(16);
    static struct scene_of_places s;
    static float pixels[3 * 16 * 16];
    static uint8_t labels[16 * 16];
    struct scene_crop_room room = {.labels = NULL};
    double sum = 0.0, least = 1e9, most = 0.0;

    (void)state;
    draw_places(&s, 2);
    o.scale[0] = 0.5;
    o.scale[1] = 2.0;
    for (uint32_t epoch = 0; epoch < 600; epoch++) {
        make(pixels, labels, &s, epoch, &o, &room);
        double scale = (double)room.resized.height / HEIGHT;
        sum += scale;
        least = scale < least ? scale : least;
        most = scale > most ? scale : most;
    }
    assert_true(fabs(sum / 600.0 - 1.25) < 0.06); /* three deviations */
    assert_true(least >= 0.49 && least < 0.53 && most <= 2.0 && most > 1.97);
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

static double greatest_share(const uint8_t *labels, int64_t n)
{
    int64_t counts[256] = {0}, greatest = 0;

    for (int64_t i = 0; i < n; i++)
        counts[labels[i]]++;
    for (int i = 0; i < SCENE_IGNORED; i++)
        greatest = counts[i] > greatest ? counts[i] : greatest;
    return (double)greatest / (double)(n - counts[SCENE_IGNORED]);
}

static void a_class_has_no_more_than_its_share_if_one_of_ten_tries_says_so(void **state)
{
    struct scene_crop_options o = as_it_is(CROP);
    static struct scene_of_places s;
    static float pixels[3 * CROP * CROP];
    static uint8_t labels[CROP * CROP];
    struct scene_crop_room room = {.labels = NULL};
    int without = 0, with = 0;

    (void)state;
    draw_places(&s, 2);
    for (uint32_t epoch = 0; epoch < 300; epoch++) {
        o.most = 1.0;
        make(pixels, labels, &s, epoch, &o, &room);
        without += greatest_share(labels, CROP * CROP) >= 0.75;
        o.most = 0.75;
        make(pixels, labels, &s, epoch, &o, &room);
        with += greatest_share(labels, CROP * CROP) >= 0.75;
    }
    /* of the 43 columns where a crop may begin 9 to 33 cut the stripes so that each has a quarter
     */
    assert_in_range(without, 85, 155);
    assert_int_equal(with, 0); /* (18 / 43)^11 of 300 */
    memset(s.labels, 1, sizeof(s.labels));
    make(pixels, labels, &s, 0, &o, &room); /* no try says so */
    assert_true(greatest_share(labels, CROP * CROP) == 1.0);
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

/* Of 4000 draws: how many change what, and the ends of each range. */
static void colours_change_as_often_as_they_should(void **state)
{
    enum { N = 4000, LEAST = N / 2 - 130, MOST = N / 2 + 130 }; /* four deviations */
    struct rng rng = rng_open((struct rng_key){4, 0, 0, 0, RNG_TEST});
    int brighter = 0, contrasted = 0, last = 0, saturated = 0, shifted = 0, both = 0;
    double low[3] = {1e9, 1e9, 1e9}, high[3] = {-1e9, -1e9, -1e9};
    bool hues[OPENCV_HUES] = {false};

    (void)state;
    for (int i = 0; i < N; i++) {
        struct scene_colours c = scene_colours_draw(&rng);
        const double values[3] = {(double)c.brightness, (double)c.contrast, (double)c.saturation};
        brighter += c.brightness != 0.0f;
        contrasted += c.contrast != 1.0f;
        last += c.contrast_last;
        both += c.contrast_last && c.contrast != 1.0f;
        saturated += c.saturates;
        shifted += c.shifts;
        assert_true(c.saturates || c.saturation == 1.0f);
        for (int k = 0; k < 3; k++) {
            low[k] = fmin(low[k], values[k]);
            high[k] = fmax(high[k], values[k]);
        }
        if (c.shifts)
            hues[c.hue] = true;
    }
    assert_in_range(brighter, LEAST, MOST);
    assert_in_range(contrasted, LEAST, MOST);
    assert_in_range(last, LEAST, MOST);
    assert_in_range(both, N / 4 - 110, N / 4 + 110);
    assert_in_range(saturated, LEAST, MOST);
    assert_in_range(shifted, LEAST, MOST);
    for (int i = 0; i < OPENCV_HUES; i++) /* -18 .. 17 */
        assert_int_equal(hues[i], i < 18 || i >= OPENCV_HUES - 18);
    assert_true(low[0] >= -32.0 && low[0] < -31.0 && high[0] <= 32.0 && high[0] > 31.0);
    for (int k = 1; k < 3; k++)
        assert_true(low[k] >= 0.5 && low[k] < 0.51 && high[k] <= 1.5 && high[k] > 1.49);
}

/* What is drawn is what a crop gets. */
static void crops_get_the_colours_that_are_drawn(void **state)
{
    struct scene_crop_options o = as_it_is(8);
    static struct scene_of_places s;
    static float pixels[2][3 * 8 * 8];
    static uint8_t labels[8 * 8];
    struct scene_crop_room room = {.labels = NULL};
    int different = 0;

    (void)state;
    draw_places(&s, 1);
    for (uint32_t epoch = 0; epoch < 64; epoch++) {
        struct rng rng = rng_open((struct rng_key){o.seed, epoch, 3, 0, RNG_JITTER});
        struct scene_colours colours = scene_colours_draw(&rng);
        uint8_t rgb[3];
        o.distortion = false;
        make(pixels[0], labels, &s, epoch, &o, &room);
        for (int c = 0; c < 3; c++)
            rgb[c] = (uint8_t)byte_of(pixels[0], 8, c, 4, 5);
        scene_colours_apply(rgb, 1, &colours);
        o.distortion = true;
        make(pixels[1], labels, &s, epoch, &o, &room);
        for (int c = 0; c < 3; c++)
            assert_int_equal(byte_of(pixels[1], 8, c, 4, 5), rgb[c]);
        different += memcmp(pixels[0], pixels[1], sizeof(pixels[0])) != 0;
    }
    assert_in_range(different, 45, 64);
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

static void a_crop_follows_from_seed_scene_and_epoch(void **state)
{
    struct scene_crop_options o = as_it_is(CROP);
    static struct scene_of_places s;
    static float pixels[3][3 * CROP * CROP];
    static uint8_t labels[CROP * CROP];
    struct scene_crop_room room = {.labels = NULL};

    (void)state;
    draw_places(&s, 3);
    o.distortion = true;
    o.scale[1] = 2.0;
    make(pixels[0], labels, &s, 1, &o, &room);
    make(pixels[1], labels, &s, 2, &o, &room);
    make(pixels[2], labels, &s, 1, &o, &room);
    assert_memory_equal(pixels[0], pixels[2], sizeof(pixels[0]));
    assert_memory_not_equal(pixels[0], pixels[1], sizeof(pixels[0]));
    o.seed = 8;
    make(pixels[1], labels, &s, 1, &o, &room);
    assert_memory_not_equal(pixels[0], pixels[1], sizeof(pixels[0]));
    scene_crop_room_release(&room);
    scene_crop_room_release(&room);
    picture_release(&s.picture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_colour_goes_to_hsv_as_opencv_says),
        cmocka_unit_test(and_back),
        cmocka_unit_test(labels_are_resized_as_opencv_does),
        cmocka_unit_test(colours_are_distorted_as_opencv_and_numpy_do),
        cmocka_unit_test(the_shorter_side_or_the_longer_one_decides),
        cmocka_unit_test(pixels_and_labels_of_a_crop_are_of_one_place),
        cmocka_unit_test(beyond_the_scene_is_nothing),
        cmocka_unit_test(sizes_are_uniform_between_their_ends),
        cmocka_unit_test(a_class_has_no_more_than_its_share_if_one_of_ten_tries_says_so),
        cmocka_unit_test(colours_change_as_often_as_they_should),
        cmocka_unit_test(crops_get_the_colours_that_are_drawn),
        cmocka_unit_test(a_crop_follows_from_seed_scene_and_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
