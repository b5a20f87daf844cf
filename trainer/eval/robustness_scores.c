#include "trainer/eval/robustness_scores.h"

#include <math.h>
#include <stdlib.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ classes */

/* From, to, class. Source: the benchmark's in_to_in9.json (Xiao et al. 2020). */
static const struct {
    int16_t first, last, class;
} in9_ranges[] = {
    {151, 170, 0}, {173, 268, 0},                /* dog */
    {7, 24, 1},    {87, 100, 1},  {127, 146, 1}, /* bird */
    {407, 408, 2}, {428, 428, 2}, {436, 436, 2}, {444, 444, 2}, {468, 468, 2}, {511, 511, 2},
    {547, 547, 2}, {555, 555, 2}, {561, 561, 2}, {565, 565, 2}, {569, 569, 2}, {573, 573, 2},
    {586, 586, 2}, {603, 603, 2}, {609, 609, 2}, {612, 612, 2}, {627, 627, 2}, {656, 656, 2},
    {661, 661, 2}, {665, 665, 2}, {670, 671, 2}, {675, 675, 2}, {690, 690, 2}, {705, 705, 2},
    {717, 717, 2}, {734, 734, 2}, {751, 751, 2}, {757, 757, 2}, {791, 791, 2}, {802, 803, 2},
    {817, 817, 2}, {820, 820, 2}, {829, 829, 2}, {847, 847, 2}, {864, 864, 2}, {866, 867, 2},
    {870, 870, 2}, {880, 880, 2},                               /* wheeled vehicle */
    {33, 68, 3},                                                /* reptile */
    {269, 280, 4}, {286, 299, 4}, {356, 362, 4}, {387, 388, 4}, /* carnivore */
    {300, 326, 5},                                              /* insect */
    {401, 402, 6}, {420, 420, 6}, {432, 432, 6}, {486, 486, 6}, {494, 494, 6}, {513, 513, 6},
    {541, 541, 6}, {546, 546, 6}, {558, 558, 6}, {566, 566, 6}, {577, 577, 6}, {579, 579, 6},
    {593, 594, 6}, {641, 642, 6}, {683, 684, 6}, {687, 687, 6}, {699, 699, 6}, {776, 776, 6},
    {822, 822, 6}, {875, 875, 6}, {881, 881, 6}, {889, 889, 6}, /* musical instrument */
    {365, 384, 7},                                              /* primate */
    {0, 6, 8},     {389, 397, 8},                               /* fish */
};

int32_t in9_class(int32_t imagenet_class)
{
    for (size_t i = 0; i < sizeof(in9_ranges) / sizeof(in9_ranges[0]); i++)
        if (imagenet_class >= in9_ranges[i].first && imagenet_class <= in9_ranges[i].last)
            return in9_ranges[i].class;
    return -1;
}

/* Source: Hendrycks et al. 2021, "Natural Adversarial Examples". */
const int16_t imagenet_a_classes[IMAGENET_A_CLASSES] = {
    6,   11,  13,  15,  17,  22,  23,  27,  30,  37,  39,  42,  47,  50,  57,  70,  71,  76,  79,
    89,  90,  94,  96,  97,  99,  105, 107, 108, 110, 113, 124, 125, 130, 132, 143, 144, 150, 151,
    207, 234, 235, 254, 277, 283, 287, 291, 295, 298, 301, 306, 307, 308, 309, 310, 311, 313, 314,
    315, 317, 319, 323, 324, 326, 327, 330, 334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400,
    401, 402, 404, 407, 411, 416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470,
    472, 483, 486, 488, 492, 496, 514, 516, 528, 530, 539, 542, 543, 549, 552, 557, 561, 562, 569,
    572, 573, 575, 579, 589, 606, 607, 609, 614, 626, 627, 640, 641, 642, 643, 658, 668, 677, 682,
    684, 687, 701, 704, 719, 736, 746, 749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786,
    792, 797, 802, 803, 804, 813, 815, 820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862, 870,
    879, 880, 888, 890, 897, 900, 907, 913, 924, 932, 933, 934, 937, 943, 945, 947, 951, 954, 956,
    957, 959, 971, 972, 980, 981, 984, 986, 987, 988};

/* Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
 * Corruptions and Perturbations". */
const struct corruption corruptions[N_CORRUPTIONS] = {
    {"gaussian_noise", 0.886428},
    {"shot_noise", 0.894468},
    {"impulse_noise", 0.922640},
    {"defocus_blur", 0.819880},
    {"glass_blur", 0.826268},
    {"motion_blur", 0.785948},
    {"zoom_blur", 0.798360},
    {"snow", 0.866816},
    {"frost", 0.826572},
    {"fog", 0.819324},
    {"brightness", 0.564592},
    {"contrast", 0.853204},
    {"elastic_transform", 0.646056},
    {"pixelate", 0.717840},
    {"jpeg_compression", 0.606500},
    {"speckle_noise", 0},
    {"gaussian_blur", 0},
    {"spatter", 0},
    {"saturate", 0},
};

/* ------------------------------------------------------------------------------ answers */

int32_t argmax(const float *values, int32_t n)
{
    int32_t best = 0;

    for (int32_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

int32_t argmax_among(const float *logits, const int16_t *classes, int32_t n, double *probability)
{
    int32_t best = 0;
    double sum = 0.0;

    for (int32_t i = 1; i < n; i++)
        if (logits[classes[i]] > logits[classes[best]])
            best = i;
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)logits[classes[i]] - (double)logits[classes[best]]);
    *probability = 1.0 / sum;
    return best;
}

/* ------------------------------------------------------------------------------ confidence */

struct answer {
    double confidence;
    int64_t place;
    bool correct;
};

/* The least confident first; of equals the first. */
static int answer_compare(const void *left, const void *right)
{
    const struct answer *a = left, *b = right;

    if (a->confidence != b->confidence)
        return a->confidence < b->confidence ? -1 : 1;
    return (a->place > b->place) - (a->place < b->place);
}

static enum status sort_answers(struct answer **out, const double *confidence, const bool *correct,
                                int64_t n)
{
    struct answer *answers;

    TRY(memory_alloc_unset(&answers, (size_t)n, sizeof(*answers), "answers"));
    for (int64_t i = 0; i < n; i++)
        answers[i] = (struct answer){confidence[i], i, correct[i]};
    if (n > 1)
        qsort(answers, (size_t)n, sizeof(*answers), answer_compare);
    *out = answers;
    return STATUS_OK;
}

enum status calibration_error(double *out, const double *confidence, const bool *correct, int64_t n,
                              int64_t group, bool all)
{
    int64_t n_groups = n < group ? n > 0 : n / group, used = all ? n_groups : n_groups - 1;
    struct answer *answers;
    double squares = 0.0;

    TRY(sort_answers(&answers, confidence, correct, n));
    for (int64_t g = 0; g < used; g++) {
        int64_t first = g * group, end = g == n_groups - 1 ? n : first + group;
        double sum = 0.0;
        for (int64_t i = first; i < end; i++)
            sum += answers[i].confidence - (double)answers[i].correct;
        squares += sum * sum / (double)(end - first) / (double)n;
    }
    memory_free(answers);
    *out = used > 0 ? sqrt(squares) : NAN;
    return STATUS_OK;
}

enum status response_rate_accuracy(double *out, const double *confidence, const bool *correct,
                                   int64_t n)
{
    struct answer *answers;
    double area = 0.0;
    int64_t right = 0;

    TRY(sort_answers(&answers, confidence, correct, n));
    for (int64_t i = 0; i < n; i++) {
        right += answers[n - 1 - i].correct;
        area += (double)right / (double)(i + 1);
    }
    memory_free(answers);
    *out = n > 0 ? area / (double)n : NAN;
    return STATUS_OK;
}
