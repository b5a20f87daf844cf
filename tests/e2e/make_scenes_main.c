/* make_scenes ROOT: scenes as ADE20K lays them out, small ones: on a grey ground (label 1) a red
 * disc (2), a green square (3) and a blue stripe (4), in noise; a frame without a label (0). 24 to
 * train with, 8 to test. Prints the share of the labelled test pixels that are ground. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "ops/pixels/canvas.h"
#include "proto/base/rng.h"
#include "trainer/eval/label_image.h"

enum { FRAME = 2 };

struct shape {
    double x, y, radius;
};

static int label_at(const struct shape shapes[3], int x, int y)
{
    const struct shape *disc = &shapes[0], *square = &shapes[1], *stripe = &shapes[2];
    double dx = x - square->x, dy = y - square->y;

    if ((x - disc->x) * (x - disc->x) + (y - disc->y) * (y - disc->y) < disc->radius * disc->radius)
        return 2;
    if (dx * dx < square->radius * square->radius && dy * dy < square->radius * square->radius)
        return 3;
    return (x - stripe->x) * (x - stripe->x) < stripe->radius * stripe->radius / 4.0 ? 4 : 1;
}

static uint8_t noisy(struct rng *rng, int value)
{
    int v = value + (int)(12.0 * rng_normal(rng));

    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void must(enum status status)
{
    if (status != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        exit(1);
    }
}

static void make_folder(const char *root, const char *below)
{
    char path[1024];

    snprintf(path, sizeof(path), "%s%s", root, below);
    if (mkdir(path, 0777) != 0 && errno != EEXIST) {
        perror(path);
        exit(1);
    }
}

/* Adds up labels: [0] ground, [1] all that count. */
static void make_scene(const char *root, const char *part, int number, int64_t counts[2])
{
    static const int colours[5][3] = {
        {20, 20, 20}, {110, 110, 110}, {210, 60, 50}, {50, 190, 70}, {60, 70, 220}};
    struct rng rng = rng_open(
        (struct rng_key){11, (uint32_t)number, strcmp(part, "training") == 0, 0, RNG_TEST});
    int width = 60 + (int)rng_below(&rng, 50), height = 56 + (int)rng_below(&rng, 40);
    struct shape shapes[3];
    struct label_image labels;
    struct canvas canvas;
    char path[1024];

    for (int i = 0; i < 3; i++)
        shapes[i] = (struct shape){rng_range(&rng, 0.0, width), rng_range(&rng, 0.0, height),
                                   rng_range(&rng, 12.0, 26.0)};
    must(canvas_open(&canvas, width, height, 0));
    must(label_image_open(&labels, width, height));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            bool frame = x < FRAME || y < FRAME || x >= width - FRAME || y >= height - FRAME;
            int label = frame ? 0 : label_at(shapes, x, y), at = y * width + x;
            labels.labels[at] = (uint8_t)label;
            counts[0] += label == 1;
            counts[1] += label != 0;
            for (int c = 0; c < 3; c++)
                canvas.pixels[3 * at + c] = noisy(&rng, colours[label][c]);
        }
    snprintf(path, sizeof(path), "%s/images/%s/%03d.png", root, part, number);
    must(canvas_save_png(&canvas, path));
    snprintf(path, sizeof(path), "%s/annotations/%s/%03d.png", root, part, number);
    must(label_image_write(&labels, path));
    canvas_release(&canvas);
    label_image_release(&labels);
}

int main(int argc, char **argv)
{
    static const char *const below[] = {"",
                                        "/images",
                                        "/annotations",
                                        "/images/training",
                                        "/images/validation",
                                        "/annotations/training",
                                        "/annotations/validation"};
    int64_t train[2] = {0}, test[2] = {0};

    if (argc != 2) {
        fprintf(stderr, "make_scenes ROOT\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++)
        make_folder(argv[1], below[i]);
    for (int i = 0; i < 24; i++)
        make_scene(argv[1], "training", i, train);
    for (int i = 0; i < 8; i++)
        make_scene(argv[1], "validation", i, test);
    printf("%.6f\n", (double)test[0] / (double)test[1]);
    return 0;
}
