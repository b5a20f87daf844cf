/* Small models with known weights for the tests of trainer/model: deterministic fill rules, a
 * ready-made step, and access to state by name. */
#ifndef IBOT_TESTS_TRAINER_MODEL_FIXTURE_H
#define IBOT_TESTS_TRAINER_MODEL_FIXTURE_H

#include "trainer/model/ibot_internal.h"

/* A model, alone. */
struct model_fixture {
    struct device device;
    struct collective collective;
    struct ibot *ibot;
};

/* Width 32, depth 2, 2 heads, patch 8, 32-px images; head 48, bottleneck 16, K 64; B 2, G 2, Lc 2
 * of 16 px: the small model of the reference tables. */
struct ibot_options model_options_small(void);

/* The same with the small Swin of the reference: width 16, 2 + 2 blocks, 2 and 4 heads, patch 4,
 * window 4; block 1 of stage 0 is shifted by 2, stage 1 is one window. */
struct ibot_options model_options_small_swin(void);

/* On the CPU; or on the queued device of tests/support, which stands in for an accelerator. */
void model_fixture_open(struct model_fixture *fixture, const struct ibot_options *options);
void model_fixture_open_queued(struct model_fixture *fixture, const struct ibot_options *options);
void model_fixture_close(struct model_fixture *fixture);

/* Element k of tensor t = 0.1 sin(0.7 t + 0.37 k); norm weights + 1; weight_g 1. Tensors are
 * counted from `first` on. */
void fill_parameter(const struct param *param, float *values, int64_t t);
/* The student by the rule above in order of the table, the teacher as its initial copy. */
void fill_model(struct ibot *ibot);

/* Element k = sin(0.05 k + phase). */
void fill_wave(float *values, int64_t n, double phase);
/* Uniform in [-1, 1), from a seed. */
void fill_random(float *values, int64_t n, uint64_t seed);

/* Schedule values of a plain step: lr, decay 0.04, momentum 0.99, temperatures 0.1, 0.05, 0.06. */
struct step_control plain_control(double lr, int32_t step);

/* State entry of this name; fails the test when there is none. */
struct tensor state_tensor(const struct ibot *ibot, const char *name);

/* Largest difference relative to the largest magnitude of `wanted`. */
double relative_error(const float *got, const float *wanted, int64_t n);
double sum_of(const float *values, int64_t n);
double absolute_sum(const float *values, int64_t n);

#define assert_near(got, wanted, tolerance)                                                        \
    do {                                                                                           \
        double got_ = (got), wanted_ = (wanted);                                                   \
        if (!(fabs(got_ - wanted_) <= (tolerance)))                                                \
            fail_msg("%s: got %.9g, wanted %.9g", #got, got_, wanted_);                            \
    } while (0)

#endif
