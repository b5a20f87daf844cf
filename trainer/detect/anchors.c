#include "trainer/detect/anchors.h"

#include <math.h>

int64_t anchors_of_level(const struct pyramid_level *l)
{
    return (int64_t)l->rows * l->columns * ANCHOR_SHAPES;
}

int64_t anchors_of_all(const struct pyramid_level *levels)
{
    int64_t n = 0;

    for (int i = 0; i < PYRAMID_LEVELS; i++)
        n += anchors_of_level(&levels[i]);
    return n;
}

struct box anchor_box(const struct pyramid_level *l, int64_t number)
{
    static const double ratios[ANCHOR_SHAPES] = {0.5, 1.0, 2.0};
    int64_t cell = number / ANCHOR_SHAPES;
    double root = sqrt(ratios[number % ANCHOR_SHAPES]), side = (double)ANCHOR_SCALE * l->stride;
    float x = (float)(cell % l->columns * l->stride), y = (float)(cell / l->columns * l->stride);
    float width = (float)(0.5 * side / root), height = (float)(0.5 * side * root);

    return (struct box){x - width, y - height, x + width, y + height};
}

void anchors_fill(struct box *out, const struct pyramid_level *levels)
{
    for (int i = 0; i < PYRAMID_LEVELS; i++)
        for (int64_t k = 0; k < anchors_of_level(&levels[i]); k++)
            *out++ = anchor_box(&levels[i], k);
}

bool anchor_inside(const struct box *a, const struct box_frame *frame)
{
    return a->left >= 0.0f && a->top >= 0.0f && a->right < frame->width &&
           a->bottom < frame->height;
}
