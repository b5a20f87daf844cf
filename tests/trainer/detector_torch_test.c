/* detector_torch_test [cpu|queued|cuda|cuda_emulated [f32|bf16]]: losses, gradients and detections
 * against PyTorch's and torchvision's of the same detector, on each backend. Exit status 77: no
 * such device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/detector_values.h"
#include "tests/trainer/model_backend.h"
#include "trainer/detect/detector_internal.h"

enum { B = 2, ROWS = 5, COLUMNS = 6, D = 8, CLASSES = 3, DETECTIONS = 12 };
enum { TAP = B * ROWS * COLUMNS * D, N_TAPS = 4, MOST_MASK = 640 * 768, MOST_OBJECTS = 4 };

static struct model_backend backend;

/* ------------------------------------------------------------------------------ the case */

static double wave(int64_t t, int64_t k)
{
    return sin(0.7 * (double)t + 0.37 * (double)k + 0.013 * (double)k * (double)k);
}

static const struct box boxes[B][MOST_OBJECTS] = {
    {{61, 43, 323, 307}, {31, 130, 601, 597}, {400, 300, 451, 363}, {503, 101, 640, 233}},
    {{50, 61, 331, 303}, {300, 200, 361, 253}, {101, 20, 640, 543}},
};
static const int32_t labels[B][MOST_OBJECTS] = {{0, 2, 1, 1}, {1, 0, 2}};
static uint8_t bits[B][MOST_OBJECTS][MOST_MASK];
static struct region_bits masks[B][MOST_OBJECTS];
static struct detector_picture pictures[B];

/* An ellipse in the box of each object. */
static void draw_mask(int image, int object)
{
    const struct box *box = &boxes[image][object];
    struct region_bits *m = &masks[image][object];
    float rx = 0.5f * (box->right - box->left), ry = 0.5f * (box->bottom - box->top);

    *m = (struct region_bits){
        .left = (int32_t)box->left,
        .top = (int32_t)box->top,
        .width = (int32_t)(box->right - box->left),
        .height = (int32_t)(box->bottom - box->top),
        .bits = bits[image][object],
    };
    for (int32_t y = 0; y < m->height; y++)
        for (int32_t x = 0; x < m->width; x++) {
            float u = ((float)x + 0.5f - rx) / rx, v = ((float)y + 0.5f - ry) / ry;
            bits[image][object][y * m->width + x] = u * u + v * v <= 1.0f;
        }
}

static void make_pictures(void)
{
    static const struct box_frame frames[B] = {{640, 768}, {560, 700}};

    for (int i = 0; i < B; i++) {
        pictures[i] = (struct detector_picture){
            .frame = frames[i],
            .truth = {boxes[i], labels[i], i == 0 ? 4 : 3},
            .masks = masks[i],
            .key = {.seed = 1, .sample = (uint32_t)i},
        };
        for (int k = 0; k < pictures[i].truth.n; k++)
            draw_mask(i, k);
    }
}

/* ------------------------------------------------------------------------------ the detector */

struct scene {
    struct device device;
    struct detector *detector;
    const struct classifier_decoder *decoder;
    struct param_table table;
    struct workspace workspace;
    float *parameters, *gradients;
    struct tensor operands, taps, d_taps;
    enum dtype dtype;
};

static void run(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

static void fill_parameters(struct scene *s)
{
    float *values;

    run(memory_alloc(&values, (size_t)s->table.n_elements, sizeof(*values), "weights"));
    for (size_t t = 0; t < s->table.n_params; t++) {
        const struct param *p = &s->table.params[t];
        bool norm = strstr(p->name, ".bn.") != NULL || strstr(p->name, "fpn1.1.") != NULL;
        const char *end = strrchr(p->name, '.');
        bool near_one = norm && (strcmp(end, ".weight") == 0 || strcmp(end, ".running_var") == 0);
        for (int64_t k = 0; k < p->n; k++)
            values[p->offset + k] = (float)(0.15 * wave((int64_t)t, k) + (near_one ? 1.0 : 0.0));
    }
    run(s->device.copy_in(&s->device, s->parameters, values,
                          (size_t)s->table.n_elements * sizeof(float)));
    run(s->device.zero(&s->device, s->gradients, (size_t)s->table.n_elements * sizeof(float)));
    run(s->device.synchronize(&s->device));
    memory_free(values);
}

/* As the compute type. */
static void cast(struct scene *s, float *from, struct tensor to, int64_t n)
{
    struct cast_args args = {tensor_1d(from, DTYPE_F32, n), tensor_1d(to.data, s->dtype, n)};

    if (s->dtype != DTYPE_F32)
        run(backend.ops->cast(&s->device, &args));
}

static void fill_taps(struct scene *s, float *device_taps)
{
    static float values[N_TAPS * TAP];

    for (int64_t k = 0; k < N_TAPS * TAP; k++)
        values[k] = (float)wave(500, k);
    run(s->device.copy_in(&s->device, device_taps, values, sizeof(values)));
    run(s->device.synchronize(&s->device));
    cast(s, device_taps, s->taps, N_TAPS * TAP);
}

static struct detector_options options_of_case(void)
{
    struct detector_options o = detector_options_default();

    o.n_classes = CLASSES;
    o.channels = 16;
    o.hidden = 24;
    o.train = o.test = (struct proposal_options){40, 20, 0.7f};
    o.patch_px = 128;
    o.anchors = 1024;
    o.regions = 48;
    o.detections = DETECTIONS;
    return o;
}

static void open_scene(struct scene *s)
{
    struct detector_options options = options_of_case();
    struct workspace *w = &s->workspace;
    float *wide_taps;

    memset(s, 0, sizeof(*s));
    make_pictures();
    s->dtype = backend.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    run(model_backend_open(&backend, &s->device));
    run(detector_open(&s->detector, &options));
    s->decoder = detector_decoder(s->detector);
    void *context = s->decoder->context;
    run(s->decoder->add_parameters(context, &s->table, D));
    struct decoder_site site = {&s->device, backend.ops, NULL,    s->dtype, B,
                                D,          ROWS,        COLUMNS, true,     true};
    size_t n = (size_t)s->table.n_elements;
    run(workspace_reserve(w, &s->parameters, n * sizeof(float)));
    run(workspace_reserve(w, &s->gradients, n * sizeof(float)));
    run(workspace_reserve(w, &s->operands.data, n * sizeof(float)));
    run(workspace_reserve(w, &wide_taps, N_TAPS * TAP * sizeof(float)));
    run(workspace_reserve(w, &s->taps.data, N_TAPS * TAP * sizeof(float)));
    run(workspace_reserve(w, &s->d_taps.data, N_TAPS * TAP * sizeof(float)));
    run(s->decoder->plan(context, &site, w));
    run(workspace_commit(w, &s->device, "detector"));
    if (s->dtype == DTYPE_F32) {
        s->operands.data = s->parameters;
        s->taps.data = wide_taps;
    }
    s->operands = tensor_1d(s->operands.data, s->dtype, (int64_t)n);
    s->taps = tensor_2d(s->taps.data, s->dtype, N_TAPS * TAP / D, D);
    s->d_taps = tensor_2d(s->d_taps.data, s->dtype, N_TAPS * TAP / D, D);
    fill_parameters(s);
    cast(s, s->parameters, s->operands, (int64_t)n);
    fill_taps(s, wide_taps);
    struct binder binder = {&s->table, s->parameters, s->gradients, s->operands, 0};
    run(s->decoder->bind(context, &binder));
    run(s->decoder->reshape(context, B, ROWS, COLUMNS));
}

static void close_scene(struct scene *s)
{
    run(s->device.synchronize(&s->device));
    detector_close(&s->detector);
    workspace_release(&s->workspace);
    param_table_release(&s->table);
    device_close(&s->device);
}

/* ------------------------------------------------------------------------------ expectations */

static bool half(void)
{
    return backend.precision == PRECISION_BF16;
}

static void expect(double got, double want, double tolerance, const char *what, int which)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s %d: got %.9g, wanted %.9g", what, which, got, want);
}

static void project(double out[2], const float *values, int64_t n)
{
    out[0] = out[1] = 0.0;
    for (int64_t k = 0; k < n; k++) {
        out[0] += (double)values[k] * cos(0.3 * (double)k);
        out[1] += fabs((double)values[k]);
    }
}

static void expect_projection(const float *values, int64_t n, const double *want, double tolerance,
                              const char *what, int which)
{
    double got[2];

    project(got, values, n);
    for (int i = 0; i < 2; i++)
        expect(got[i], want[i], tolerance * (want[1] + 1e-4), what, 2 * which + i);
}

/* In bf16 roundings move boxes across thresholds, so that from the second stage on other regions
 * are taken: what is compared then is only that nothing breaks. */
static void losses_are_those_of_torch(void **state)
{
    struct scene s;

    (void)state;
    open_scene(&s);
    detector_pictures(s.detector, pictures);
    run(s.decoder->step(s.decoder->context, s.taps, s.d_taps, 1.0f));
    struct detector_losses l = detector_last_losses(s.detector);
    double got[2 + 3 * CASCADE_STAGES + 1] = {l.proposal_class, l.proposal_box};
    for (int i = 0; i < CASCADE_STAGES; i++) {
        got[2 + 3 * i] = l.class[i];
        got[3 + 3 * i] = l.box[i];
        got[4 + 3 * i] = l.mask[i];
    }
    got[2 + 3 * CASCADE_STAGES] = l.all;
    for (int i = 0; i < 3 + 3 * CASCADE_STAGES; i++) {
        double tolerance = !half() ? 1e-5 : i < 5 ? 0.05 : 0.6;
        expect(got[i], torch_losses[i], tolerance * (fabs(torch_losses[i]) + 0.1), "loss", i);
    }
    close_scene(&s);
}

static void gradients_are_those_of_torch(void **state)
{
    static float values[1 << 17];
    struct scene s;
    int which = 0;

    (void)state;
    open_scene(&s);
    detector_pictures(s.detector, pictures);
    run(s.decoder->step(s.decoder->context, s.taps, s.d_taps, 1.0f));
    for (size_t t = 0; t < s.table.n_params && !half(); t++) {
        const struct param *p = &s.table.params[t];
        assert_true((size_t)p->n <= sizeof(values) / sizeof(values[0]));
        if (p->flags & SEGMENT_FIXED)
            continue;
        run(s.device.copy_out(&s.device, values, s.gradients + p->offset,
                              (size_t)p->n * sizeof(float)));
        run(s.device.synchronize(&s.device));
        expect_projection(values, p->n, torch_gradients + 2 * which, 5e-4, p->name, which);
        which++;
    }
    for (int tap = 0; tap < N_TAPS && !half(); tap++, which++) {
        run(s.device.copy_out(&s.device, values, (float *)s.d_taps.data + tap * TAP,
                              TAP * sizeof(float)));
        run(s.device.synchronize(&s.device));
        expect_projection(values, TAP, torch_gradients + 2 * which, 5e-4, "tap", which);
    }
    if (!half())
        assert_int_equal(2 * which, sizeof(torch_gradients) / sizeof(torch_gradients[0]));
    close_scene(&s);
}

static void detections_are_those_of_torch(void **state)
{
    enum { EACH = 9 };
    static const struct box_frame frames[B] = {{640, 768}, {560, 700}};
    const int32_t n_torch = sizeof(torch_found) / sizeof(torch_found[0]) / EACH;
    const struct detection *found;
    int32_t n;
    struct scene s;

    (void)state;
    open_scene(&s);
    run(detector_find(s.detector, s.taps, frames, &found, &n));
    if (!half())
        assert_int_equal(n, n_torch);
    for (int32_t i = 0; i < n; i++) {
        const double *want = torch_found + i * EACH;
        const struct detection *f = &found[i];
        const float edges[4] = {f->box.left, f->box.top, f->box.right, f->box.bottom};
        assert_true(isfinite(f->score) && f->label >= 0 && f->label < CLASSES);
        if (half())
            continue;
        assert_int_equal(f->image, (int)want[0]);
        assert_int_equal(f->label, (int)want[1]);
        expect((double)f->score, want[2], 1e-5, "score", i);
        for (int k = 0; k < 4; k++)
            expect((double)edges[k], want[3 + k], 2e-3, "edge", 4 * i + k);
        expect_projection(f->mask, MASK_SIDE * MASK_SIDE, want + 7, 1e-5, "mask", i);
    }
    close_scene(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_torch),
        cmocka_unit_test(gradients_are_those_of_torch),
        cmocka_unit_test(detections_are_those_of_torch),
    };
    int status = model_backend_choose(&backend, argc, argv);

    return status != 0 ? status : cmocka_run_group_tests(tests, NULL, NULL);
}
