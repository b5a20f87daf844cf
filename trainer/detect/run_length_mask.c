#include "trainer/detect/run_length_mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

/* Polygons are drawn on a grid of a fifth of a pixel, on which lines step as Bresenham's do. */
enum { GRID = 5, MAX_COORDINATE = 1 << 20 };

/* ------------------------------------------------------------------------------ runs */

static void begin(struct run_length_mask *mask, int32_t height, int32_t width)
{
    mask->height = height;
    mask->width = width;
    mask->n = 0;
}

/* Adds n pixels of a value: to the last run when that has it. */
static enum status add_run(struct run_length_mask *mask, bool set, uint32_t n)
{
    if (n == 0)
        return STATUS_OK;
    if (mask->n > 0 && ((mask->n - 1) & 1) == (set ? 1 : 0)) {
        mask->runs[mask->n - 1] += n;
        return STATUS_OK;
    }
    size_t wanted = mask->n + (mask->n == 0 && set ? 2 : 1);
    TRY(memory_grow(&mask->runs, &mask->capacity, wanted, sizeof(*mask->runs), "runs of a mask"));
    if (mask->n == 0 && set)
        mask->runs[mask->n++] = 0;
    mask->runs[mask->n++] = n;
    return STATUS_OK;
}

static uint32_t pixels_of(const struct run_length_mask *mask)
{
    return (uint32_t)mask->height * (uint32_t)mask->width;
}

static enum status check_size(int32_t height, int32_t width)
{
    if (height < 1 || width < 1 || height > MASK_MAX_SIDE || width > MASK_MAX_SIDE)
        FAIL(STATUS_CORRUPT, "a mask of %d x %d px: wanted sides of 1 to %d", width, height,
             MASK_MAX_SIDE);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ polygons */

/* Where the outline crosses the middle of a column of pixels: the value changes there, and below
 * it. Two of them at one place are none. */
struct crossings {
    uint32_t *at; /* [n] places down the columns */
    size_t n, capacity;
};

/* A step of the outline on the grid, from one column of it to a neighbour. */
static enum status cross(struct crossings *c, int32_t from_x, int32_t from_y, int32_t to_x,
                         int32_t to_y, int32_t height, int32_t width)
{
    int32_t x = to_x < from_x ? to_x : to_x - 1, y = to_y < from_y ? to_y : from_y;
    double column = (x + 0.5) / GRID - 0.5, row = (y + 0.5) / GRID - 0.5;

    if (floor(column) != column || column < 0.0 || column > width - 1)
        return STATUS_OK;
    row = ceil(row < 0.0 ? 0.0 : row > height ? height : row);
    TRY(memory_grow(&c->at, &c->capacity, c->n + 1, sizeof(*c->at), "outline of a mask"));
    c->at[c->n++] = (uint32_t)column * (uint32_t)height + (uint32_t)row;
    return STATUS_OK;
}

/* A side of the polygon: points on the grid along its longer direction. What a line from a to b
 * goes through is found from its left (or upper) end, whichever comes first. `last` is the point
 * before, or NULL, and then the last one here. */
static enum status draw_side(struct crossings *c, const int32_t a[2], const int32_t b[2],
                             int32_t last[2], bool *begun, int32_t height, int32_t width)
{
    int32_t along = abs(b[0] - a[0]) >= abs(b[1] - a[1]) ? 0 : 1;
    bool backwards = a[along] > b[along];
    const int32_t *low = backwards ? b : a, *high = backwards ? a : b;
    int32_t n = high[along] - low[along];
    double slope = n > 0 ? (double)(high[1 - along] - low[1 - along]) / n : 0.0;

    for (int32_t i = 0; i <= n; i++) {
        int32_t t = backwards ? n - i : i, point[2];
        point[along] = low[along] + t;
        point[1 - along] = (int32_t)(low[1 - along] + slope * t + 0.5);
        if (*begun && point[0] != last[0])
            TRY(cross(c, last[0], last[1], point[0], point[1], height, width));
        last[0] = point[0];
        last[1] = point[1];
        *begun = true;
    }
    return STATUS_OK;
}

static enum status to_grid(int32_t out[2], const double *xy)
{
    for (int i = 0; i < 2; i++) {
        if (!(fabs(xy[i]) <= MAX_COORDINATE))
            FAIL(STATUS_CORRUPT, "a corner of a polygon at %g px: wanted at most %d", xy[i],
                 MAX_COORDINATE);
        out[i] = (int32_t)(GRID * xy[i] + 0.5);
    }
    return STATUS_OK;
}

static int compare_places(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static enum status runs_between(struct run_length_mask *out, struct crossings *c)
{
    uint32_t from = 0, end = pixels_of(out);
    bool set = false;

    if (c->n > 0)
        qsort(c->at, c->n, sizeof(*c->at), compare_places);
    for (size_t i = 0; i < c->n; i++) {
        TRY(add_run(out, set, c->at[i] - from));
        from = c->at[i];
        set = !set;
    }
    return add_run(out, set, end - from);
}

static enum status fill_one(struct run_length_mask *out, const struct polygon *p, int32_t height,
                            int32_t width)
{
    struct crossings crossings = {0};
    int32_t first[2] = {0}, a[2], b[2], last[2] = {0};
    bool begun = false;
    enum status status = STATUS_OK;

    begin(out, height, width);
    if (p->n > 0)
        TRY(to_grid(first, p->xy));
    memcpy(a, first, sizeof(a));
    for (size_t i = 0; i < p->n; i++) {
        memcpy(b, first, sizeof(b));
        if (i + 1 < p->n)
            TRY_OUT(to_grid(b, p->xy + 2 * (i + 1)));
        TRY_OUT(draw_side(&crossings, a, b, last, &begun, height, width));
        memcpy(a, b, sizeof(a));
    }
    TRY_OUT(runs_between(out, &crossings));
out:
    memory_free(crossings.at);
    return status;
}

enum status run_length_mask_fill(struct run_length_mask *out, const struct polygon *polygons,
                                 size_t n, int32_t height, int32_t width)
{
    struct run_length_mask one = {0}, joined = {0};
    enum status status = STATUS_OK;

    TRY(check_size(height, width));
    begin(&joined, height, width);
    TRY_OUT(add_run(&joined, false, pixels_of(&joined)));
    for (size_t i = 0; i < n; i++) {
        struct run_length_mask both = {0};
        TRY_OUT(fill_one(&one, &polygons[i], height, width));
        status = run_length_mask_join(&both, &joined, &one);
        run_length_mask_release(&joined);
        joined = both;
        TRY_OUT(status);
    }
    run_length_mask_release(out);
    *out = joined;
    joined = (struct run_length_mask){0};
out:
    run_length_mask_release(&one);
    run_length_mask_release(&joined);
    return status;
}

/* ------------------------------------------------------------------------------ numbers, texts */

enum status run_length_mask_set(struct run_length_mask *out, const int64_t *runs, size_t n,
                                int32_t height, int32_t width)
{
    TRY(check_size(height, width));
    begin(out, height, width);
    int64_t left = pixels_of(out);
    for (size_t i = 0; i < n; i++) {
        if (runs[i] < 0 || runs[i] > left)
            FAIL(STATUS_CORRUPT, "run %zu of a mask of %d x %d px has %lld px, where %lld are left",
                 i, width, height, (long long)runs[i], (long long)left);
        left -= runs[i];
        TRY(add_run(out, i % 2 == 1, (uint32_t)runs[i]));
    }
    if (left > 0)
        FAIL(STATUS_CORRUPT, "the runs of a mask of %d x %d px leave %lld px", width, height,
             (long long)left);
    return STATUS_OK;
}

/* One number of a text; advances it. */
static enum status parse_number(int64_t *out, const char **text)
{
    uint64_t bits = 0;
    int shift = 0;

    for (;;) {
        int c = (unsigned char)**text - 48;
        if (c < 0 || c > 63 || shift > 30)
            FAIL(STATUS_CORRUPT, "the text of a mask: %s",
                 **text == '\0' ? "it ends within a number"
                 : shift > 30   ? "a number is too long"
                                : "a character that doesn't occur in one");
        (*text)++;
        bits |= (uint64_t)(c & 31) << shift;
        shift += 5;
        if ((c & 32) == 0) {
            *out = (int64_t)bits - ((c & 16) != 0 ? (int64_t)1 << shift : 0);
            return STATUS_OK;
        }
    }
}

enum status run_length_mask_parse(struct run_length_mask *out, const char *text, int32_t height,
                                  int32_t width)
{
    int64_t *runs = NULL;
    size_t n = 0, capacity = 0;
    enum status status;

    while (*text != '\0') {
        int64_t value = 0;
        TRY_OUT(parse_number(&value, &text));
        TRY_OUT(memory_grow(&runs, &capacity, n + 1, sizeof(*runs), "runs of a mask"));
        runs[n] = value + (n > 2 ? runs[n - 2] : 0);
        if (runs[n] < 0 || runs[n] > (int64_t)MASK_MAX_SIDE * MASK_MAX_SIDE)
            FAIL_OUT(STATUS_CORRUPT, "the text of a mask: run %zu has %lld px", n,
                     (long long)runs[n]);
        n++;
    }
    TRY_OUT(run_length_mask_set(out, runs, n, height, width));
out:
    memory_free(runs);
    return status;
}

static size_t write_number(char *to, int64_t value)
{
    size_t n = 0;
    bool more = true;

    while (more) {
        int64_t bits = value & 31;
        value >>= 5;
        more = (bits & 16) != 0 ? value != -1 : value != 0;
        to[n++] = (char)(48 + bits + (more ? 32 : 0));
    }
    return n;
}

enum status run_length_mask_text(char **out, const struct run_length_mask *mask)
{
    size_t n = 0;

    TRY(memory_alloc(out, mask->n * 8 + 1, 1, "text of a mask"));
    for (size_t i = 0; i < mask->n; i++)
        n += write_number(*out + n,
                          (int64_t)mask->runs[i] - (i > 2 ? (int64_t)mask->runs[i - 2] : 0));
    (*out)[n] = '\0';
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ bits */

enum status run_length_mask_from_bits(struct run_length_mask *out, const uint8_t *bits,
                                      int32_t height, int32_t width)
{
    TRY(check_size(height, width));
    begin(out, height, width);
    for (int32_t x = 0; x < width; x++)
        for (int32_t y = 0, first; y < height;) {
            bool set = bits[(size_t)y * (size_t)width + (size_t)x] != 0;
            for (first = y; y < height && set == (bits[(size_t)y * (size_t)width + (size_t)x] != 0);
                 y++)
                ;
            TRY(add_run(out, set, (uint32_t)(y - first)));
        }
    return STATUS_OK;
}

void run_length_mask_bits(const struct run_length_mask *mask, uint8_t *bits)
{
    uint32_t at = 0, height = (uint32_t)mask->height;
    size_t width = (size_t)mask->width;

    memset(bits, 0, (size_t)pixels_of(mask));
    for (size_t i = 0; i < mask->n; i++) {
        for (uint32_t p = at; i % 2 == 1 && p < at + mask->runs[i]; p++)
            bits[(p % height) * width + p / height] = 1;
        at += mask->runs[i];
    }
}

/* ------------------------------------------------------------------------------ pairs */

/* Walks two masks at once: pieces in which neither changes. */
struct pair_walk {
    const struct run_length_mask *masks[2];
    size_t run[2];
    uint32_t left[2]; /* of that run */
};

static struct pair_walk walk(const struct run_length_mask *a, const struct run_length_mask *b)
{
    struct pair_walk w = {.masks = {a, b}};

    CHECK(a->height == b->height && a->width == b->width);
    for (int i = 0; i < 2; i++)
        w.left[i] = w.masks[i]->n > 0 ? w.masks[i]->runs[0] : 0;
    return w;
}

/* The next piece: its pixels, and what each mask is there; 0 at the end. */
static uint32_t next_piece(struct pair_walk *w, bool set[2])
{
    for (int i = 0; i < 2; i++) {
        while (w->left[i] == 0 && w->run[i] + 1 < w->masks[i]->n)
            w->left[i] = w->masks[i]->runs[++w->run[i]];
        set[i] = w->run[i] % 2 == 1;
    }
    uint32_t n = w->left[0] < w->left[1] ? w->left[0] : w->left[1];
    w->left[0] -= n;
    w->left[1] -= n;
    return n;
}

enum status run_length_mask_join(struct run_length_mask *out, const struct run_length_mask *a,
                                 const struct run_length_mask *b)
{
    struct pair_walk w = walk(a, b);
    bool set[2];
    uint32_t n;

    begin(out, a->height, a->width);
    while ((n = next_piece(&w, set)) > 0)
        TRY(add_run(out, set[0] || set[1], n));
    return STATUS_OK;
}

int64_t run_length_mask_overlap(const struct run_length_mask *a, const struct run_length_mask *b)
{
    struct pair_walk w = walk(a, b);
    int64_t sum = 0;
    bool set[2];
    uint32_t n;

    while ((n = next_piece(&w, set)) > 0)
        sum += set[0] && set[1] ? n : 0;
    return sum;
}

int64_t run_length_mask_area(const struct run_length_mask *mask)
{
    int64_t sum = 0;

    for (size_t i = 1; i < mask->n; i += 2)
        sum += mask->runs[i];
    return sum;
}

struct mask_box run_length_mask_box(const struct run_length_mask *mask)
{
    uint32_t height = (uint32_t)mask->height, left = UINT32_MAX, right = 0, top = UINT32_MAX,
             bottom = 0, at = 0;

    for (size_t i = 0; i < mask->n; at += mask->runs[i++]) {
        if (i % 2 == 0 || mask->runs[i] == 0)
            continue;
        uint32_t last = at + mask->runs[i] - 1;
        bool whole = at / height != last / height; /* it goes on in the next column */
        uint32_t y = whole ? 0 : at % height, y_last = whole ? height - 1 : last % height;
        left = at / height < left ? at / height : left;
        right = last / height > right ? last / height : right;
        top = y < top ? y : top;
        bottom = y_last > bottom ? y_last : bottom;
    }
    if (left == UINT32_MAX)
        return (struct mask_box){0};
    return (struct mask_box){left, top, right - left + 1.0, bottom - top + 1.0};
}

void run_length_mask_release(struct run_length_mask *mask)
{
    memory_free(mask->runs);
    *mask = (struct run_length_mask){0};
}
