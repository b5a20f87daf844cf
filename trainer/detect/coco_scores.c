#include "trainer/detect/coco_scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"

/* Detections of a category in a picture that are looked at, the surest ones. */
enum { MOST = 100 };
static const int32_t limits[COCO_LIMITS] = {1, 10, MOST};

static const double size_range[COCO_SIZES][2] = {
    [COCO_ALL] = {0.0, 1e10},
    [COCO_SMALL] = {0.0, COCO_SMALL_AREA},
    [COCO_MEDIUM] = {COCO_SMALL_AREA, COCO_LARGE_AREA},
    [COCO_LARGE] = {COCO_LARGE_AREA, 1e10},
};

static double threshold(int t)
{
    return t == COCO_THRESHOLDS - 1 ? 0.95 : 0.5 + t * ((0.95 - 0.5) / (COCO_THRESHOLDS - 1));
}

/* ------------------------------------------------------------------------------ overlaps */

static double box_area(const struct mask_box *box)
{
    return box->width * box->height;
}

/* Over the union; in a crowd over the detection alone. */
static double box_overlap(const struct mask_box *found, const struct mask_box *object, bool crowd)
{
    double width =
        fmin(found->x + found->width, object->x + object->width) - fmax(found->x, object->x);
    double height =
        fmin(found->y + found->height, object->y + object->height) - fmax(found->y, object->y);

    if (width <= 0.0 || height <= 0.0)
        return 0.0;
    double both = width * height;
    return both / (crowd ? box_area(found) : box_area(found) + box_area(object) - both);
}

static double mask_overlap(const struct run_length_mask *found,
                           const struct run_length_mask *object, bool crowd)
{
    struct mask_box a = run_length_mask_box(found), b = run_length_mask_box(object);

    if (box_overlap(&a, &b, crowd) <= 0.0)
        return 0.0;
    int64_t both = run_length_mask_overlap(found, object), area = run_length_mask_area(found);
    if (both == 0)
        return 0.0;
    return (double)both / (double)(crowd ? area : area + run_length_mask_area(object) - both);
}

/* ------------------------------------------------------------------------------ a category */

/* A detection that is looked at: at each size and threshold (a bit) whether it found an object,
 * and whether it doesn't count. */
struct judged {
    double score, area;
    size_t order;  /* in the lists of pictures, for equal scores */
    int32_t place; /* among those of its picture */
    uint16_t found[COCO_SIZES], ignored[COCO_SIZES];
};

/* What the categories share, read only. */
struct inputs {
    const struct coco_data *data;
    enum coco_overlap overlap;
    /* by category, picture, and falling score */
    const struct coco_detection **detections;
    size_t n_detections;
    const struct coco_object **objects; /* by category and picture */
    size_t n_objects;
};

struct category_work {
    const struct inputs *in;
    struct judged *judged;
    size_t n, capacity;
    int64_t n_objects[COCO_SIZES]; /* that count */
    double *overlaps;              /* [detections, objects] of a picture */
    size_t overlaps_capacity;
    uint8_t *taken; /* [objects] of a picture */
    size_t taken_capacity;
};

static bool object_ignored(const struct coco_object *o, int size)
{
    return o->crowd || o->area < size_range[size][0] || o->area > size_range[size][1];
}

static void measure_overlaps(struct category_work *w, const struct coco_detection *const *found,
                             size_t n_found, const struct coco_object *const *objects,
                             size_t n_objects)
{
    for (size_t d = 0; d < n_found; d++)
        for (size_t o = 0; o < n_objects; o++) {
            bool crowd = objects[o]->crowd;
            w->overlaps[d * n_objects + o] =
                w->in->overlap == COCO_MASKS
                    ? mask_overlap(&found[d]->mask, &objects[o]->mask, crowd)
                    : box_overlap(&found[d]->box, &objects[o]->box, crowd);
        }
}

/* The object that a detection is matched to: of those that count the one it overlaps most, the
 * last of equals; when there is none, of the others. n_objects: none. */
static size_t best_object(const struct category_work *w, const double *overlaps,
                          const struct coco_object *const *objects, size_t n_objects, int size,
                          double least)
{
    for (int ignored = 0; ignored < 2; ignored++) {
        double most = least;
        size_t best = n_objects;
        for (size_t o = 0; o < n_objects; o++) {
            if (object_ignored(objects[o], size) != (ignored == 1) ||
                (w->taken[o] != 0 && !objects[o]->crowd) || overlaps[o] < most)
                continue;
            most = overlaps[o];
            best = o;
        }
        if (best < n_objects)
            return best;
    }
    return n_objects;
}

static void match(struct category_work *w, struct judged *judged, size_t n_found,
                  const struct coco_object *const *objects, size_t n_objects, int size, int t)
{
    uint16_t bit = (uint16_t)(1 << t);

    memset(w->taken, 0, n_objects);
    for (size_t d = 0; d < n_found; d++) {
        struct judged *j = &judged[d];
        size_t best = best_object(w, w->overlaps + d * n_objects, objects, n_objects, size,
                                  fmin(threshold(t), 1.0 - 1e-10));
        bool ignored = best < n_objects
                           ? object_ignored(objects[best], size)
                           : j->area < size_range[size][0] || j->area > size_range[size][1];
        if (best < n_objects) {
            w->taken[best] = 1;
            j->found[size] |= bit;
        }
        if (ignored)
            j->ignored[size] |= bit;
    }
}

static enum status judge_picture(struct category_work *w, const struct coco_detection *const *found,
                                 size_t n_found, const struct coco_object *const *objects,
                                 size_t n_objects)
{
    n_found = n_found < MOST ? n_found : MOST;
    TRY(memory_grow(&w->judged, &w->capacity, w->n + n_found + 1, sizeof(*w->judged),
                    "detections"));
    TRY(memory_grow(&w->overlaps, &w->overlaps_capacity, n_found * n_objects + 1, sizeof(double),
                    "overlaps"));
    TRY(memory_grow(&w->taken, &w->taken_capacity, n_objects + 1, 1, "objects"));
    measure_overlaps(w, found, n_found, objects, n_objects);
    struct judged *judged = w->judged + w->n;
    for (size_t d = 0; d < n_found; d++)
        judged[d] = (struct judged){
            .score = found[d]->score,
            .area = w->in->overlap == COCO_MASKS ? (double)run_length_mask_area(&found[d]->mask)
                                                 : box_area(&found[d]->box),
            .order = w->n + d,
            .place = (int32_t)d,
        };
    for (int size = 0; size < COCO_SIZES; size++) {
        for (size_t o = 0; o < n_objects; o++)
            w->n_objects[size] += object_ignored(objects[o], size) ? 0 : 1;
        for (int t = 0; t < COCO_THRESHOLDS; t++)
            match(w, judged, n_found, objects, n_objects, size, t);
    }
    w->n += n_found;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ curves */

static int compare_judged(const void *a, const void *b)
{
    const struct judged *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

/* Precision at the levels of recall, summed up, and the last recall. precision: [w->n] scratch */
static double curve(const struct category_work *w, int size, int t, int32_t limit,
                    double *precision, double *recall, double *last_recall)
{
    int64_t right = 0, wrong = 0;
    size_t n = 0, at = 0;
    double sum = 0.0;

    for (size_t i = 0; i < w->n; i++) {
        const struct judged *j = &w->judged[i];
        bool found = (j->found[size] >> t & 1) != 0, ignored = (j->ignored[size] >> t & 1) != 0;
        if (j->place >= limit)
            continue;
        right += found && !ignored ? 1 : 0;
        wrong += !found && !ignored ? 1 : 0;
        precision[n] = (double)right / ((double)(right + wrong) + 0x1p-52);
        recall[n++] = (double)right / (double)w->n_objects[size];
    }
    *last_recall = n > 0 ? recall[n - 1] : 0.0;
    for (size_t i = n; i-- > 1;)
        precision[i - 1] = fmax(precision[i - 1], precision[i]);
    for (int r = 0; r < COCO_RECALLS; r++) {
        double wanted = r == COCO_RECALLS - 1 ? 1.0 : r * 0.01;
        while (at < n && recall[at] < wanted)
            at++;
        sum += at < n ? precision[at] : 0.0;
    }
    return sum;
}

/* Of one category: means over thresholds; not a number without objects. */
struct category_scores {
    double precision[COCO_SIZES], recall[COCO_SIZES];
    double precision_50, precision_75, recall_at[COCO_LIMITS];
};

static void scores_of_size(struct category_scores *out, const struct category_work *w, int size,
                           double *scratch)
{
    const double n_values = COCO_THRESHOLDS * COCO_RECALLS;
    double sum = 0.0, recall_sum = 0.0, recall;

    for (int t = 0; t < COCO_THRESHOLDS; t++) {
        double one = curve(w, size, t, MOST, scratch, scratch + w->n, &recall);
        sum += one;
        recall_sum += recall;
        if (size == COCO_ALL && t == 0)
            out->precision_50 = one / COCO_RECALLS;
        if (size == COCO_ALL && t == 5)
            out->precision_75 = one / COCO_RECALLS;
    }
    out->precision[size] = sum / n_values;
    out->recall[size] = recall_sum / COCO_THRESHOLDS;
}

static enum status scores_of(struct category_scores *out, struct category_work *w)
{
    double *scratch, recall;

    TRY(memory_alloc(&scratch, 2 * w->n, sizeof(double), "precision and recall"));
    if (w->n > 0)
        qsort(w->judged, w->n, sizeof(*w->judged), compare_judged);
    for (int size = 0; size < COCO_SIZES; size++) {
        if (w->n_objects[size] > 0)
            scores_of_size(out, w, size, scratch);
    }
    for (int i = 0; i < COCO_LIMITS && w->n_objects[COCO_ALL] > 0; i++) {
        out->recall_at[i] = 0.0;
        for (int t = 0; t < COCO_THRESHOLDS; t++) {
            (void)curve(w, COCO_ALL, t, limits[i], scratch, scratch + w->n, &recall);
            out->recall_at[i] += recall / COCO_THRESHOLDS;
        }
    }
    memory_free(scratch);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ all */

static int compare_numbers(int64_t a, int64_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_detections(const void *a, const void *b)
{
    const struct coco_detection *x = *(const struct coco_detection *const *)a;
    const struct coco_detection *y = *(const struct coco_detection *const *)b;
    int by_category = compare_numbers(x->category, y->category);
    int by_image = compare_numbers(x->image, y->image);

    if (by_category != 0 || by_image != 0)
        return by_category != 0 ? by_category : by_image;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x < y ? -1 : x > y; /* as they were given */
}

static int compare_objects(const void *a, const void *b)
{
    const struct coco_object *x = *(const struct coco_object *const *)a;
    const struct coco_object *y = *(const struct coco_object *const *)b;
    int by_category = compare_numbers(x->category, y->category);

    if (by_category != 0)
        return by_category;
    return x < y ? -1 : x > y; /* picture by picture */
}

/* First of a category. */
static size_t first_detection(const struct inputs *in, int32_t category)
{
    size_t low = 0, high = in->n_detections;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (in->detections[middle]->category < category)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t first_object(const struct inputs *in, int32_t category)
{
    size_t low = 0, high = in->n_objects;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (in->objects[middle]->category < category)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Picture by picture, of those that have an object or a detection. */
static enum status judge_category(struct category_work *w, int32_t category)
{
    const struct inputs *in = w->in;
    size_t d = first_detection(in, category), o = first_object(in, category);
    size_t d_end = first_detection(in, category + 1), o_end = first_object(in, category + 1);

    while (d < d_end || o < o_end) {
        int32_t image = d < d_end ? in->detections[d]->image : INT32_MAX;
        size_t n_found = 0, n_objects = 0;
        if (o < o_end && in->objects[o]->image < image)
            image = in->objects[o]->image;
        while (d + n_found < d_end && in->detections[d + n_found]->image == image)
            n_found++;
        while (o + n_objects < o_end && in->objects[o + n_objects]->image == image)
            n_objects++;
        TRY(judge_picture(w, in->detections + d, n_found, in->objects + o, n_objects));
        d += n_found;
        o += n_objects;
    }
    return STATUS_OK;
}

static enum status score_category(struct category_scores *out, const struct inputs *in,
                                  int32_t category)
{
    struct category_work w = {.in = in};
    double *values = (double *)out;

    for (size_t i = 0; i < sizeof(*out) / sizeof(double); i++)
        values[i] = NAN;
    enum status status = judge_category(&w, category);

    if (status == STATUS_OK)
        status = scores_of(out, &w);
    memory_free(w.judged);
    memory_free(w.overlaps);
    memory_free(w.taken);
    return status;
}

/* Of the values that are numbers, `stride` apart. */
static double mean_of(const double *values, size_t stride, int32_t n)
{
    double sum = 0.0;
    int32_t count = 0;

    for (int32_t i = 0; i < n; i++, values += stride)
        if (!isnan(*values)) {
            sum += *values;
            count++;
        }
    return count > 0 ? sum / count : NAN;
}

static void means(struct coco_scores *out, const struct category_scores *of, int32_t n)
{
    const size_t stride = sizeof(*of) / sizeof(double);

    for (int size = 0; size < COCO_SIZES; size++) {
        out->precision[size] = mean_of(&of->precision[size], stride, n);
        out->recall[size] = mean_of(&of->recall[size], stride, n);
    }
    out->precision_50 = mean_of(&of->precision_50, stride, n);
    out->precision_75 = mean_of(&of->precision_75, stride, n);
    for (int i = 0; i < COCO_LIMITS; i++)
        out->recall_at[i] = mean_of(&of->recall_at[i], stride, n);
    for (int32_t c = 0; c < COCO_MAX_CATEGORIES; c++)
        out->category_precision[c] = c < n ? of[c].precision[COCO_ALL] : NAN;
}

static enum status need_masks(const struct coco_data *data, const struct coco_detections *d)
{
    for (int64_t i = 0; i < data->n_objects; i++)
        if (data->objects[i].mask.n == 0)
            FAIL(STATUS_INVALID, "an object of picture '%s' has no mask",
                 data->images[data->objects[i].image].file_name);
    for (size_t i = 0; i < d->n; i++)
        if (d->items[i].mask.n == 0)
            FAIL(STATUS_INVALID, "detection %zu, of picture '%s', has no mask", i,
                 data->images[d->items[i].image].file_name);
    return STATUS_OK;
}

static enum status score_all(struct category_scores *scores, const struct inputs *in)
{
    struct first_failure failure = FIRST_FAILURE_NONE;

#pragma omp parallel for schedule(dynamic, 1)
    for (int32_t c = 0; c < in->data->n_categories; c++)
        first_failure_note(&failure, c, score_category(&scores[c], in, c));
    return first_failure_take(&failure);
}

enum status coco_scores_compute(struct coco_scores *out, const struct coco_data *data,
                                const struct coco_detections *d, enum coco_overlap overlap)
{
    struct inputs in = {
        .data = data,
        .overlap = overlap,
        .n_detections = d->n,
        .n_objects = (size_t)data->n_objects,
    };
    struct category_scores *scores = NULL;
    enum status status;

    if (overlap == COCO_MASKS)
        TRY(need_masks(data, d));
    TRY_OUT(memory_alloc(&in.detections, d->n, sizeof(void *), "detections"));
    TRY_OUT(memory_alloc(&in.objects, in.n_objects, sizeof(void *), "objects"));
    TRY_OUT(memory_alloc(&scores, (size_t)data->n_categories, sizeof(*scores), "scores"));
    for (size_t i = 0; i < d->n; i++)
        in.detections[i] = &d->items[i];
    for (size_t i = 0; i < in.n_objects; i++)
        in.objects[i] = &data->objects[i];
    qsort(in.detections, d->n, sizeof(void *), compare_detections);
    qsort(in.objects, in.n_objects, sizeof(void *), compare_objects);
    TRY_OUT(score_all(scores, &in));
    means(out, scores, data->n_categories);
out:
    memory_free(in.detections);
    memory_free(in.objects);
    memory_free(scores);
    return status;
}
