/* What is drawn is where it should be, and nothing is drawn outside. */
#include "ops/pixels/canvas.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { WIDTH = 40, HEIGHT = 30, GREY = 100 };

static const struct colour red = {{255, 0, 0}};

static struct canvas open_canvas(void)
{
    struct canvas canvas;

    assert_int_equal(canvas_open(&canvas, WIDTH, HEIGHT, GREY), STATUS_OK);
    return canvas;
}

static const uint8_t *at(const struct canvas *canvas, int x, int y)
{
    return canvas->pixels + 3 * (y * WIDTH + x);
}

static void a_picture_is_enlarged_and_cut_off_at_the_edges(void **state)
{
    const uint8_t rgb[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    struct canvas canvas = open_canvas();

    (void)state;
    canvas_put(&canvas, WIDTH - 3, -1, rgb, 2, 2, 2);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            const uint8_t *wanted = (const uint8_t[]){GREY, GREY, GREY};
            if (x >= WIDTH - 3 && y < 3)
                wanted = rgb + 3 * ((y + 1) / 2 * 2 + (x - (WIDTH - 3)) / 2);
            assert_memory_equal(at(&canvas, x, y), wanted, 3);
        }
    canvas_release(&canvas);
    canvas_release(&canvas);
}

static void a_frame_is_a_frame(void **state)
{
    struct canvas canvas = open_canvas();

    (void)state;
    canvas_frame(&canvas, 5, 6, 10, 8, 2, red);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            int inside = x >= 5 && x < 15 && y >= 6 && y < 14;
            int hole = x >= 7 && x < 13 && y >= 8 && y < 12;
            assert_int_equal(at(&canvas, x, y)[0], inside && !hole ? 255 : GREY);
        }
    canvas_frame(&canvas, -100, -100, 1000, 1000, 2, red); /* all of it outside */
    assert_int_equal(at(&canvas, 0, 0)[0], GREY);
    canvas_release(&canvas);
}

static void masked_cells_are_dark_with_an_outline_around_them(void **state)
{
    const uint8_t cells[9] = {0, 0, 0, 0, 1, 1, 0, 0, 0};
    struct canvas canvas = open_canvas();

    (void)state;
    canvas_mask(&canvas, 0, 0, 24, cells, 3, 1, red);
    assert_int_equal(at(&canvas, 4, 12)[0], GREY);
    assert_int_equal(at(&canvas, 8, 12)[0], 255);                  /* left edge */
    assert_int_equal(at(&canvas, 23, 12)[0], 255);                 /* right edge */
    assert_true(at(&canvas, 15, 12)[0] < GREY);                    /* between the two cells */
    assert_true(at(&canvas, 12, 12)[2] == at(&canvas, 12, 12)[0]); /* dark, not red */
    canvas_release(&canvas);
}

static void letters_differ_from_each_other(void **state)
{
    static const char all[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:-/%+#()_='\x01";
    struct canvas pictures[sizeof(all) - 1];
    size_t n = sizeof(all) - 1;

    (void)state;
    for (size_t i = 0; i < n; i++) {
        pictures[i] = open_canvas();
        canvas_text(&pictures[i], 1, 1, 1, red, (const char[]){all[i], '\0'});
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(pictures[i].pixels, pictures[j].pixels, 3 * WIDTH * HEIGHT);
    }
    struct canvas small = open_canvas();
    canvas_text(&small, 1, 1, 1, red, "a");
    assert_memory_equal(small.pixels, pictures[10].pixels, 3 * WIDTH * HEIGHT);
    canvas_text(&small, WIDTH - 2, HEIGHT - 2, 3, red, "W over the edge");
    canvas_release(&small);
    for (size_t i = 0; i < n; i++)
        canvas_release(&pictures[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_picture_is_enlarged_and_cut_off_at_the_edges),
        cmocka_unit_test(a_frame_is_a_frame),
        cmocka_unit_test(masked_cells_are_dark_with_an_outline_around_them),
        cmocka_unit_test(letters_differ_from_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
