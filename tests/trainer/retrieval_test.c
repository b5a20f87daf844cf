/* Ground truth from pickles, good and hostile; protocols; images at other sizes. */
#include "trainer/eval/retrieval.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define BYTES(text) (text), sizeof(text) - 1
#define NAMES                                                                                      \
    "U\x06"                                                                                        \
    "imlist](U\x01"                                                                                \
    "aU\x01"                                                                                       \
    "bU\x01"                                                                                       \
    "ceU\x07"                                                                                      \
    "qimlist](U\x01"                                                                               \
    "qeU\x03"                                                                                      \
    "gnd"
#define TRUTH(names, gnd) "\x80\x02}(" names gnd "u."
#define LISTS                                                                                      \
    "U\x04"                                                                                        \
    "easy](K\x01"                                                                                  \
    "eU\x04"                                                                                       \
    "hard]U\x04"                                                                                   \
    "junkK\x00K\x02\x86"
/* [10.5, 20.5, 31.5, 40], half to even: 10, 20, 32, 40 */
#define BOX                                                                                        \
    "U\x03"                                                                                        \
    "bbx](G@%\0\0\0\0\0\0G@4\x80\0\0\0\0\0G@?\x80\0\0\0\0\0K(e"

static void ground_truth_is_read(void **state)
{
    static const char bytes[] = TRUTH(NAMES, "](}(" LISTS BOX "ue");
    struct retrieval_truth t;

    (void)state;
    if (retrieval_truth_parse(&t, BYTES(bytes), "test") != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(t.n_images, 3);
    assert_int_equal(t.n_queries, 1);
    assert_string_equal(t.names[2], "c");
    assert_string_equal(t.query_names[0], "q");
    assert_int_equal(t.queries[0].n[RETRIEVAL_EASY], 1);
    assert_int_equal(t.queries[0].images[RETRIEVAL_EASY][0], 1);
    assert_int_equal(t.queries[0].n[RETRIEVAL_HARD], 0);
    assert_int_equal(t.queries[0].n[RETRIEVAL_JUNK], 2);
    assert_int_equal(t.queries[0].images[RETRIEVAL_JUNK][1], 2);
    assert_int_equal(t.queries[0].box.left, 10);
    assert_int_equal(t.queries[0].box.top, 20);
    assert_int_equal(t.queries[0].box.width, 22);
    assert_int_equal(t.queries[0].box.height, 20);
    retrieval_truth_close(&t);
    retrieval_truth_close(&t);
}

static void refuse(enum status wanted, const char *reason, const char *bytes, size_t n)
{
    struct retrieval_truth t;

    assert_int_equal(retrieval_truth_parse(&t, bytes, n, "test"), wanted);
    if (strstr(status_message(), reason) == NULL)
        fail_msg("'%s' is not in: %s", reason, status_message());
    assert_null(t.queries);
}

static void what_is_no_ground_truth_is_refused_and_nothing_is_executed(void **state)
{
    (void)state;
    refuse(STATUS_UNSUPPORTED, "os.system",
           BYTES("\x80\x02"
                 "cos\nsystem\nU\x04"
                 "true\x85R."));
    refuse(STATUS_UNSUPPORTED, "builtins.eval",
           BYTES("\x80\x02"
                 "cbuiltins\neval\nU\x01"
                 "1\x85R."));
    refuse(STATUS_CORRUPT, "wanted a dictionary", BYTES("\x80\x02]."));
    refuse(STATUS_CORRUPT, "'imlist' is nothing", BYTES("\x80\x02}."));
    refuse(STATUS_CORRUPT, "'gnd' is None", BYTES(TRUTH(NAMES, "N")));
    refuse(STATUS_CORRUPT, "'gnd' is a list of 0", BYTES(TRUTH(NAMES, "]")));
    refuse(STATUS_CORRUPT, "'easy' of query 0 is nothing", BYTES(TRUTH(NAMES, "](}e")));
    refuse(STATUS_CORRUPT, "0 to 2",
           BYTES(TRUTH(NAMES, "](}(U\x04"
                              "easy](K\x03"
                              "eue")));
    refuse(STATUS_CORRUPT, "0 to 2",
           BYTES(TRUTH(NAMES, "](}(U\x04"
                              "easy](J\xff\xff\xff\xff"
                              "eue")));
    refuse(STATUS_CORRUPT, "at most 3",
           BYTES(TRUTH(NAMES, "](}(U\x04"
                              "easy](K\x00K\x00K\x00K\x00"
                              "eue")));
    refuse(STATUS_CORRUPT, "'bbx'",
           BYTES(TRUTH(NAMES, "](}(" LISTS "U\x03"
                              "bbx]ue")));
    refuse(STATUS_CORRUPT, "'bbx'",
           BYTES(TRUTH(NAMES, "](}(" LISTS "U\x03"
                              "bbx](K\x05K\x05K\x05K\x09"
                              "eue")));
    refuse(STATUS_CORRUPT, "no name",
           BYTES("\x80\x02}(U\x06"
                 "imlist](U\x0b"
                 "../../x/../eu."));
    refuse(STATUS_CORRUPT, "no name",
           BYTES("\x80\x02}(U\x06"
                 "imlist](U\x02"
                 "..eu."));
    refuse(STATUS_CORRUPT, "no name",
           BYTES("\x80\x02}(U\x06"
                 "imlist](K\x01"
                 "eu."));
}

/* Ranked 0 1 2 3 4 5: image 0 hard, 1 junk, 2 easy, 3 wrong, 4 hard. */
static void protocols_take_easy_and_hard_as_right_or_as_junk(void **state)
{
    static const float database[] = {6, 5, 4, 3, 2, 1}, query[] = {1};
    int32_t easy[] = {2}, hard[] = {0, 4}, junk[] = {1};
    struct retrieval_query one = {.images = {easy, hard, junk}, .n = {1, 2, 1}};
    struct retrieval_truth truth = {.queries = &one, .n_images = 6, .n_queries = 1};
    static const int32_t ks[] = {1, 5};
    struct retrieval_score scores[PROTOCOLS];

    (void)state;
    assert_int_equal(retrieval_evaluate(scores, &truth, database, query, 1, ks, 2), STATUS_OK);
    assert_true(fabs(scores[PROTOCOL_EASY].map - 1.0) < 1e-12);
    /* right at 0, 1, 3: 1/3 + 1/3 + 1/3 (2/3 + 3/4)/2 */
    assert_true(fabs(scores[PROTOCOL_MEDIUM].map - (2.0 + 17.0 / 24.0) / 3.0) < 1e-12);
    assert_true(fabs(scores[PROTOCOL_MEDIUM].precision[1] - 0.75) < 1e-12);
    /* right at 0, 2: 1/2 + 1/2 (1/2 + 2/3)/2 */
    assert_true(fabs(scores[PROTOCOL_HARD].map - (0.5 + 7.0 / 24.0)) < 1e-12);
    assert_int_equal(scores[PROTOCOL_HARD].n_queries, 1);
    one.n[RETRIEVAL_EASY] = 0;
    assert_int_equal(retrieval_evaluate(scores, &truth, database, query, 1, ks, 2), STATUS_OK);
    assert_int_equal(scores[PROTOCOL_EASY].n_queries, 0);
    assert_true(isnan(scores[PROTOCOL_EASY].map));
}

/* torch.nn.functional.interpolate(x, scale_factor=2 ** -0.5, mode="bilinear", align_corners=False)
 * of one plane of 3 x 5: 0 1 4 9 16, 25 36 49 64 81, 100 121 144 169 196. */
static void planes_shrink_as_pytorch_shrinks_them(void **state)
{
    static const float wanted[] = {5.8137078f,  11.3994942f,  20.7132034f,
                                   75.1639862f, 100.7497711f, 130.0634918f};
    float in[45], out[45];
    int32_t height, width;

    (void)state;
    for (int i = 0; i < 45; i++)
        in[i] = (float)(i % 15 * (i % 15));
    planes_shrink(out, &height, &width, in, 3, 5, 0.70710678118654752440);
    assert_int_equal(height, 2);
    assert_int_equal(width, 3);
    for (int i = 0; i < 18; i++)
        if (!(fabsf(out[i] - wanted[i % 6]) < 1e-4f))
            fail_msg("element %d: %.7g, wanted %.7g", i, (double)out[i], (double)wanted[i % 6]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ground_truth_is_read),
        cmocka_unit_test(what_is_no_ground_truth_is_refused_and_nothing_is_executed),
        cmocka_unit_test(protocols_take_easy_and_hard_as_right_or_as_junk),
        cmocka_unit_test(planes_shrink_as_pytorch_shrinks_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
