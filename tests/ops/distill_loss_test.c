/* The distillation loss against its definition in double and central differences, on every
 * backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

struct loss_case {
    int64_t n, m, k, n_targets; /* [CLS] of several views: several targets; patches: one */
    double logit_scale, student_temp, teacher_temp;
};

static const struct loss_case cases[] = {
    {1, 1, 1, 1, 1.0, 0.1, 0.04},    {12, 4, 37, 2, 1.0, 0.1, 0.04},
    {5, 5, 1000, 1, 2.0, 0.1, 0.07}, {24, 8, 8192, 2, 1.0, 0.1, 0.07},
    {3, 3, 513, 3, 0.0, 0.1, 0.04},  {4, 4, 100, 2, 1e3, 0.1, 0.04},
    {4, 4, 100, 1, 1e6, 0.1, 0.04},  {4, 4, 600, 2, 1e-2, 0.1, 0.04},
    {6, 2, 65, 1, 1.0, 1.0, 1.0},    {2, 2, 70000, 1, 1.0, 0.1, 0.04},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct loss_problem {
    struct loss_case c;
    double *student, *teacher, *centre, *target, *weight;
    double *p_student, *p_teacher; /* room for one row each */
    double *d_student;             /* [N, K], or NULL */
    double entropy;
};

/* Logits where the teacher and the student agree in part, so that the gradient is not all alike. */
static void draw(struct op_fixture *f, struct loss_problem *p, const struct loss_case *c)
{
    p->c = *c;
    p->student = op_random(f, f->dtype, c->n * c->k, c->logit_scale);
    p->teacher = op_random(f, f->dtype, c->m * c->k, c->logit_scale);
    p->centre = op_random(f, DTYPE_F32, c->k, 0.3 * c->logit_scale);
    p->target = op_zeros(f, c->n * c->n_targets);
    p->weight = op_zeros(f, c->n);
    p->p_student = op_zeros(f, c->k);
    p->p_teacher = op_zeros(f, c->k);
    p->d_student = op_zeros(f, c->n * c->k);
    for (int64_t i = 0; i < c->n * c->n_targets; i++) /* every seventh: none */
        p->target[i] = i % 7 == 5 ? -1.0 : (double)(i * 5 / 3 % c->m);
    for (int64_t i = 0; i < c->n; i++)
        p->weight[i] = (double)(float)(i % 4 == 2 ? 0.0 : 1.0 / (double)(3 * c->n + i));
}

/* Probabilities of (row - centre) / temp; returns the log of the normaliser, *top the greatest. */
static double softmax(const double *row, const double *centre, int64_t k, double temp, double *p,
                      double *top)
{
    double sum = 0.0;

    *top = -INFINITY;
    for (int64_t j = 0; j < k; j++)
        *top = fmax(*top, (row[j] - (centre != NULL ? centre[j] : 0.0)) / temp);
    for (int64_t j = 0; j < k; j++) {
        p[j] = exp((row[j] - (centre != NULL ? centre[j] : 0.0)) / temp - *top);
        sum += p[j];
    }
    for (int64_t j = 0; j < k; j++)
        p[j] /= sum;
    return log(sum);
}

static double reference(void *context)
{
    struct loss_problem *p = context;
    const struct loss_case *c = &p->c;
    double loss = 0.0, student_temp = (float)c->student_temp, teacher_temp = (float)c->teacher_temp;

    if (p->d_student != NULL)
        memset(p->d_student, 0, (size_t)(c->n * c->k) * sizeof(double));
    for (int64_t i = 0; i < c->n; i++) {
        double top, ignored, *x = p->student + i * c->k;
        double log_sum = softmax(x, NULL, c->k, student_temp, p->p_student, &top);
        for (int64_t t = 0; t < c->n_targets; t++) {
            int64_t row = (int64_t)p->target[i * c->n_targets + t];
            if (row < 0)
                continue;
            softmax(p->teacher + row * c->k, p->centre, c->k, teacher_temp, p->p_teacher, &ignored);
            for (int64_t j = 0; j < c->k; j++) {
                loss -= p->weight[i] * p->p_teacher[j] * (x[j] / student_temp - top - log_sum);
                if (p->d_student != NULL)
                    p->d_student[i * c->k + j] +=
                        p->weight[i] / student_temp * (p->p_student[j] - p->p_teacher[j]);
            }
        }
    }
    p->entropy = 0.0;
    for (int64_t i = 0; i < c->m; i++) {
        double top;
        softmax(p->teacher + i * c->k, p->centre, c->k, teacher_temp, p->p_teacher, &top);
        for (int64_t j = 0; j < c->k; j++)
            p->entropy -= p->p_teacher[j] > 0.0 ? p->p_teacher[j] * log(p->p_teacher[j]) : 0.0;
    }
    return loss;
}

static struct distill_loss_args upload(struct op_fixture *f, const struct loss_problem *p)
{
    const struct loss_case *c = &p->c;
    static const double before[1] = {3.25};
    struct tensor temps[2] = {op_upload(f, DTYPE_F32, &c->student_temp, 1, 0),
                              op_upload(f, DTYPE_F32, &c->teacher_temp, 1, 0)};

    return (struct distill_loss_args){
        .student = op_upload(f, f->dtype, p->student, c->n, c->k),
        .teacher = op_upload(f, f->dtype, p->teacher, c->m, c->k),
        .centre = op_upload(f, DTYPE_F32, p->centre, c->k, 0),
        .target = op_upload(f, DTYPE_I32, p->target, c->n, c->n_targets),
        .weight = op_upload(f, DTYPE_F32, p->weight, c->n, 0),
        .student_temp = temps[0].data,
        .teacher_temp = temps[1].data,
        .loss = op_upload(f, DTYPE_F64, before, 1, 0),
        .d_student = op_output(f, f->dtype, c->n, c->k),
        .entropy = op_upload(f, DTYPE_F64, before, 1, 0),
        .scratch = op_output(f, DTYPE_F32, 2, c->m),
    };
}

static void run_case(const struct loss_case *c)
{
    struct op_fixture f;
    struct loss_problem p;

    op_fixture_open(&f, 1);
    draw(&f, &p, c);
    double loss = reference(&p);
    struct distill_loss_args args = upload(&f, &p);
    op_run(f.ops->distill_loss(&f.device, &args));
    double sum = op_download(&f, args.loss)[0], entropy = op_download(&f, args.entropy)[0];
    double tolerance = op_tolerance("distill_loss", f.dtype);
    op_expect_values("distill_loss", "loss, added to", &sum, (double[]){3.25 + loss}, 1, tolerance);
    op_expect_values("distill_loss", "entropy, added to", &entropy, (double[]){3.25 + p.entropy}, 1,
                     tolerance);
    op_expect(&f, "distill_loss", "d_student", args.d_student, p.d_student);

    /* in place: the same bits */
    struct tensor apart = args.d_student;
    args.d_student = args.student;
    op_run(f.ops->distill_loss(&f.device, &args));
    op_expect_values("distill_loss", "d_student in place", op_download(&f, args.student),
                     op_download(&f, apart), c->n * c->k, 0.0);
    op_fixture_close(&f);
}

static void loss_gradient_and_entropy_follow_their_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run_case(&cases[i]);
}

/* Logits of one type, gradients of another: what a training in bf16 asks for, and more. */
static void logits_and_gradients_have_types_of_their_own(void **state)
{
    static const enum dtype types[][2] = {
        {DTYPE_F32, DTYPE_BF16}, {DTYPE_F16, DTYPE_F32}, {DTYPE_BF16, DTYPE_F32}};
    static const struct loss_case wide = {6, 4, 1200, 2, 1.0, 0.1, 0.04};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct op_fixture f;
        struct loss_problem p;
        op_fixture_open(&f, 7);
        if (f.device.kind == DEVICE_CPU) { /* which computes in float32 alone */
            op_fixture_close(&f);
            skip();
        }
        f.dtype = types[i][0];
        draw(&f, &p, &wide);
        double loss = reference(&p);
        struct distill_loss_args args = upload(&f, &p);
        args.d_student = op_output(&f, types[i][1], wide.n, wide.k);
        op_run(f.ops->distill_loss(&f.device, &args));
        double sum = op_download(&f, args.loss)[0];
        op_expect_values("distill_loss", "loss", &sum, (double[]){3.25 + loss}, 1,
                         op_tolerance("distill_loss", DTYPE_F32));
        op_expect_values("distill_loss", "d_student", op_download(&f, args.d_student), p.d_student,
                         wide.n * wide.k, op_tolerance("distill_loss", types[i][1]));
        op_fixture_close(&f);
    }
}

static void the_gradient_is_that_of_finite_differences(void **state)
{
    static const struct loss_case small[] = {{6, 4, 13, 2, 1.0, 0.1, 0.04},
                                             {4, 4, 40, 1, 0.2, 0.1, 0.07}};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct op_fixture f;
        struct loss_problem p;
        op_fixture_open(&f, 2);
        draw(&f, &p, &small[i]);
        struct distill_loss_args args = upload(&f, &p);
        op_run(f.ops->distill_loss(&f.device, &args));
        p.d_student = NULL;
        op_expect_gradient(&f, "distill_loss", "d_student", args.d_student, NULL, p.student,
                           reference, &p);
        op_fixture_close(&f);
    }
}

static void equal_logits_cost_the_log_of_their_number(void **state)
{
    enum { K = 4096 };
    static const struct loss_case flat = {1, 1, K, 1, 0.0, 0.1, 0.04};
    struct op_fixture f;
    struct loss_problem p;

    (void)state;
    op_fixture_open(&f, 3);
    draw(&f, &p, &flat);
    p.weight[0] = 1.0;
    struct distill_loss_args args = upload(&f, &p);
    op_run(f.ops->distill_loss(&f.device, &args));
    double sum = op_download(&f, args.loss)[0] - 3.25, *d = op_download(&f, args.d_student);
    op_expect_values("distill_loss", "loss", &sum, (double[]){log(K)}, 1, 1e-7);
    for (int j = 0; j < K; j++)
        assert_true(fabs(d[j]) <= 1e-9); /* the distributions are equal */
    op_fixture_close(&f);
}

static void rows_beyond_the_active_ones_do_not_count(void **state)
{
    static const struct loss_case all = {8, 8, 50, 1, 1.0, 0.1, 0.04};
    static const double active[] = {3, 0};
    struct op_fixture f;

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct loss_problem p;
        int64_t n = (int64_t)active[i];
        op_fixture_open(&f, 4);
        draw(&f, &p, &all);
        for (int64_t row = 0; row < all.n; row++)
            p.target[row] = (double)row;
        struct distill_loss_args args = upload(&f, &p);
        args.n_active = op_upload(&f, DTYPE_I32, &active[i], 1, 0).data;
        op_run(f.ops->distill_loss(&f.device, &args));
        p.c.n = p.c.m = n; /* the rest does not count, in the loss or in the entropy */
        double want[2] = {3.25 + reference(&p), 3.25 + p.entropy};
        double got[2] = {op_download(&f, args.loss)[0], op_download(&f, args.entropy)[0]};
        op_expect_values("distill_loss", "sums of active rows", got, want, 2,
                         op_tolerance("distill_loss", f.dtype));
        double *d = op_download(&f, args.d_student);
        for (int64_t j = 0; j < all.n * all.k; j++)
            assert_true(j < n * all.k ? isfinite(d[j]) : d[j] == 0.0);
        op_fixture_close(&f);
    }
}

static void a_nan_reaches_the_loss(void **state)
{
    static const struct loss_case small = {4, 4, 700, 1, 1.0, 0.1, 0.04};

    (void)state;
    for (int which = 0; which < 4; which++) {
        struct op_fixture f;
        struct loss_problem p;
        op_fixture_open(&f, 5);
        draw(&f, &p, &small);
        for (int64_t i = 0; i < small.n; i++)
            p.target[i] = (double)i;
        double *const at[] = {&p.student[600], &p.teacher[3], &p.centre[5], &p.student[0]};
        *at[which] = which == 3 ? INFINITY : NAN;
        struct distill_loss_args args = upload(&f, &p);
        op_run(f.ops->distill_loss(&f.device, &args));
        assert_true(!isfinite(op_download(&f, args.loss)[0]));
        op_fixture_close(&f);
    }
}

static void a_guard_that_is_not_finite_holds_the_centre(void **state)
{
    static const double centre[2] = {1.0, 2.0}, sum[2] = {3.0, 5.0}, momentum = 0.5;
    static const double guards[3][2] = {{1.0, 2.0}, {1.0, NAN}, {-INFINITY, 2.0}};
    static const double want[3][2] = {{2.0, 3.5}, {1.0, 2.0}, {1.0, 2.0}};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 7);
    for (int i = 0; i < 3; i++) {
        struct centre_update_args args = {
            .centre = op_upload(&f, DTYPE_F32, centre, 2, 0),
            .sum = op_upload(&f, DTYPE_F32, sum, 2, 0),
            .guard = op_upload(&f, DTYPE_F64, guards[i], 2, 0),
            .momentum = op_upload(&f, DTYPE_F32, &momentum, 1, 0).data,
            .scale = 1.0f,
        };
        op_run(f.ops->centre_update(&f.device, &args));
        op_expect(&f, "centre_update", "centre", args.centre, want[i]);
    }
    op_fixture_close(&f);
}

static void centres_move_towards_the_mean(void **state)
{
    enum { K = 77 };
    struct op_fixture f;
    static const double momentum[] = {0.9, 0.0, 1.0};

    (void)state;
    op_fixture_open(&f, 6);
    for (int i = 0; i < 3; i++) {
        double *centre = op_random(&f, DTYPE_F32, K, 1.0), *sum = op_random(&f, DTYPE_F32, K, 8.0);
        struct centre_update_args args = {
            .centre = op_upload(&f, DTYPE_F32, centre, K, 0),
            .sum = op_upload(&f, DTYPE_F32, sum, K, 0),
            .momentum = op_upload(&f, DTYPE_F32, &momentum[i], 1, 0).data,
            .scale = 0.125f,
        };
        for (int j = 0; j < K; j++)
            centre[j] = momentum[i] * centre[j] + (1.0 - momentum[i]) * 0.125 * sum[j];
        op_run(f.ops->centre_update(&f.device, &args));
        op_expect(&f, "centre_update", "centre", args.centre, centre);
    }
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_gradient_and_entropy_follow_their_definition),
        cmocka_unit_test(logits_and_gradients_have_types_of_their_own),
        cmocka_unit_test(the_gradient_is_that_of_finite_differences),
        cmocka_unit_test(equal_logits_cost_the_log_of_their_number),
        cmocka_unit_test(rows_beyond_the_active_ones_do_not_count),
        cmocka_unit_test(a_nan_reaches_the_loss),
        cmocka_unit_test(a_guard_that_is_not_finite_holds_the_centre),
        cmocka_unit_test(centres_move_towards_the_mean),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
