#include "trainer/detect/boxes.h"

#include <math.h>
#include <stdlib.h>

#include "proto/base/memory.h"

static const float max_log_ratio = 4.135166556742356f; /* log(1000 / 16) */
static const float least_area = 1e-6f;

/* ------------------------------------------------------------------------------ geometry */

float box_area(const struct box *b)
{
    return (b->right - b->left) * (b->bottom - b->top);
}

/* Area that both have. */
static float shared_area(const struct box *a, const struct box *b)
{
    float width = fminf(a->right, b->right) - fmaxf(a->left, b->left);
    float height = fminf(a->bottom, b->bottom) - fmaxf(a->top, b->top);

    return width > 0.0f && height > 0.0f ? width * height : 0.0f;
}

float box_overlap(const struct box *a, const struct box *b)
{
    float both = shared_area(a, b), either = box_area(a) + box_area(b) - both;

    return both / fmaxf(either, least_area);
}

static float within(float x, float most)
{
    return x < 0.0f ? 0.0f : x > most ? most : x;
}

struct box box_cut(const struct box *b, const struct box_frame *frame)
{
    if (frame->width <= 0.0f && frame->height <= 0.0f)
        return *b;
    return (struct box){within(b->left, frame->width), within(b->top, frame->height),
                        within(b->right, frame->width), within(b->bottom, frame->height)};
}

/* ------------------------------------------------------------------------------ coding */

/* Centre and sides. */
struct centred {
    float x, y, width, height;
};

static struct centred centred_of(const struct box *b)
{
    return (struct centred){0.5f * (b->left + b->right), 0.5f * (b->top + b->bottom),
                            b->right - b->left, b->bottom - b->top};
}

void box_encode(float *delta, const struct box *from, const struct box *to, const float *std)
{
    struct centred a = centred_of(from), b = centred_of(to);

    delta[0] = (b.x - a.x) / a.width / std[0];
    delta[1] = (b.y - a.y) / a.height / std[1];
    delta[2] = logf(b.width / a.width) / std[2];
    delta[3] = logf(b.height / a.height) / std[3];
}

static float log_ratio(float x)
{
    return x < -max_log_ratio ? -max_log_ratio : x > max_log_ratio ? max_log_ratio : x;
}

struct box box_decode(const struct box *from, const float *delta, const float *std,
                      const struct box_frame *frame)
{
    struct centred a = centred_of(from);
    float x = a.x + a.width * delta[0] * std[0], y = a.y + a.height * delta[1] * std[1];
    float width = a.width * expf(log_ratio(delta[2] * std[2]));
    float height = a.height * expf(log_ratio(delta[3] * std[3]));
    struct box out = {x - 0.5f * width, y - 0.5f * height, x + 0.5f * width, y + 0.5f * height};

    return box_cut(&out, frame);
}

void box_decode_backward(float *d_delta, const struct box *from, const float *delta,
                         const float *std, const float *d_box)
{
    struct centred a = centred_of(from);
    const float sides[2] = {a.width, a.height};

    for (int i = 0; i < 2; i++) {
        float ratio = delta[2 + i] * std[2 + i];
        bool kept = ratio >= -max_log_ratio && ratio <= max_log_ratio;
        float d_side = 0.5f * (d_box[2 + i] - d_box[i]);
        d_delta[i] = (d_box[i] + d_box[2 + i]) * sides[i] * std[i];
        d_delta[2 + i] = kept ? d_side * sides[i] * expf(ratio) * std[2 + i] : 0.0f;
    }
}

/* ------------------------------------------------------------------------------ generalised IoU */

/* With I, U, E the areas of intersection, union and enclosing box: 1 - I/U + (E - U)/E, so that
 * dL = -dI/U + I/U^2 dU - dU/E + U/E^2 dE. */
float box_giou_loss(float *d_box, const struct box *p, const struct box *t)
{
    float width = fminf(p->right, t->right) - fmaxf(p->left, t->left);
    float height = fminf(p->bottom, t->bottom) - fmaxf(p->top, t->top);
    bool meets = width > 0.0f && height > 0.0f;
    float both = meets ? width * height : 0.0f;
    float either = box_area(p) + box_area(t) - both, around_width, around_height;

    around_width = fmaxf(p->right, t->right) - fminf(p->left, t->left);
    around_height = fmaxf(p->bottom, t->bottom) - fminf(p->top, t->top);
    float around = around_width * around_height;
    bool wide = either > least_area, far = around > least_area;
    either = wide ? either : least_area;
    around = far ? around : least_area;

    /* by edge: of the box's own area, the intersection, the enclosing box */
    float own_width = p->right - p->left, own_height = p->bottom - p->top;
    const float d_own[4] = {-own_height, -own_width, own_height, own_width};
    const float d_both[4] = {
        meets && p->left >= t->left ? -height : 0.0f,
        meets && p->top >= t->top ? -width : 0.0f,
        meets && p->right <= t->right ? height : 0.0f,
        meets && p->bottom <= t->bottom ? width : 0.0f,
    };
    const float d_around[4] = {
        far && p->left < t->left ? -around_height : 0.0f,
        far && p->top < t->top ? -around_width : 0.0f,
        far && p->right > t->right ? around_height : 0.0f,
        far && p->bottom > t->bottom ? around_width : 0.0f,
    };
    for (int i = 0; i < 4; i++) {
        float d_either = wide ? d_own[i] - d_both[i] : 0.0f;
        d_box[i] = -d_both[i] / either + both / (either * either) * d_either - d_either / around +
                   either / (around * around) * d_around[i];
    }
    return 1.0f - both / either + (around - either) / around;
}

/* ------------------------------------------------------------------------------ suppression */

struct ranked {
    float score;
    int32_t number;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

enum status box_suppress(int32_t *keep, int32_t *n_keep, const struct box_candidates *c,
                         float threshold, int32_t most)
{
    struct ranked *ranked;
    int32_t n = 0;

    TRY(memory_alloc(&ranked, (size_t)c->n, sizeof(*ranked), "boxes by score"));
    for (int32_t i = 0; i < c->n; i++)
        ranked[i] = (struct ranked){c->scores[i], i};
    qsort(ranked, (size_t)c->n, sizeof(*ranked), compare_ranked);
    for (int32_t i = 0; i < c->n && n < most; i++) {
        int32_t number = ranked[i].number, k = 0;
        while (k < n && ((c->groups != NULL && c->groups[keep[k]] != c->groups[number]) ||
                         box_overlap(&c->boxes[keep[k]], &c->boxes[number]) <= threshold))
            k++;
        if (k == n)
            keep[n++] = number;
    }
    *n_keep = n;
    memory_free(ranked);
    return STATUS_OK;
}
