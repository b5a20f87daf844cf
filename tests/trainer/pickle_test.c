/* The restricted pickle machine: what torch.save writes comes through, everything else is refused
 * by name, and no bytes lead out of bounds. */
#include "trainer/weights/pickle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A pickle as a C string with its NULs. */
#define BYTES(text) (text), sizeof(text) - 1

static struct pickle load(const char *bytes, size_t n)
{
    struct pickle pickle;

    if (pickle_load(&pickle, bytes, n, "test") != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(pickle.n_bytes, n);
    return pickle;
}

static void expect_printed(const char *bytes, size_t n, const char *wanted)
{
    struct pickle pickle = load(bytes, n);
    char text[256];

    assert_string_equal(pickle_print(pickle.root, text, sizeof(text)), wanted);
    pickle_release(&pickle);
}

/* An exact copy, so that the address sanitizer sees a read past the end. */
static void expect_failure(enum status code, const char *reason, const char *bytes, size_t n)
{
    struct pickle pickle;
    char *copy = malloc(n > 0 ? n : 1);

    memcpy(copy, bytes, n);
    assert_int_equal(pickle_load(&pickle, copy, n, "test"), code);
    if (strstr(status_message(), reason) == NULL)
        fail_msg("'%s' is not in: %s", reason, status_message());
    free(copy);
}

static void plain_values_come_through(void **state)
{
    (void)state;
    expect_printed(BYTES("\x80\x02N."), "None");
    expect_printed(BYTES("\x80\x02\x88."), "True");
    expect_printed(BYTES("\x80\x02K\xff."), "255");
    expect_printed(BYTES("\x80\x02M\x01\x02."), "513");
    expect_printed(BYTES("\x80\x02J\xff\xff\xff\xff."), "-1");
    expect_printed(BYTES("\x80\x02\x8a\x00."), "0");
    expect_printed(BYTES("\x80\x02\x8a\x02\x00\x80."), "-32768");
    expect_printed(BYTES("\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."),
                   "9223372036854775807");
    expect_printed(BYTES("\x80\x02\x8b\x09\0\0\0\1\2\3\4\5\6\7\x08\x09."), "a large number");
    expect_printed(BYTES("\x80\x02G\x3f\xb9\x99\x99\x99\x99\x99\x9a."), "0.1");
    expect_printed(BYTES("\x80\x02X\x03\0\0\0abc."), "'abc'");
    expect_printed(BYTES("\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x02hi\x94."), "'hi'");
}

static void containers_come_through(void **state)
{
    (void)state;
    expect_printed(BYTES("\x80\x02(K\x01K\x02K\x03t."), "(1, 2, 3)");
    expect_printed(BYTES("\x80\x02K\x01K\x02\x86."), "(1, 2)");
    expect_printed(BYTES("\x80\x02](K\x01K\x02"
                         "eK\x03"
                         "a."),
                   "[1, 2, 3]");
    expect_printed(BYTES("\x80\x02}(K\x01NK\x02\x88u."), "{1: None, 2: True}");
    expect_printed(BYTES("\x80\x02}K\x01]s."), "{1: []}");
    expect_printed(BYTES("\x80\x02K\x07q\x00h\x00\x86."), "(7, 7)");
    expect_printed(BYTES("\x80\x02K\x01K\x02"
                         "0."),
                   "1");
    expect_printed(BYTES("\x80\x02K\x01(K\x02K\x03"
                         "1."),
                   "1");
    expect_printed(BYTES("\x80\x02"
                         "ccollections\nOrderedDict\n)R(K\x01K\x02u."),
                   "{1: 2}");
    expect_printed(BYTES("\x80\x02"
                         "ccollections\nOrderedDict\n](K\x01K\x02\x86"
                         "e\x85R."),
                   "{1: 2}");
}

static void a_list_may_hold_itself(void **state)
{
    (void)state;
    expect_printed(BYTES("\x80\x02]q\x00h\x00"
                         "ah\x00"
                         "a."),
                   "[[[…, …], […, …]], [[…, …], […, …]]]");
}

static void other_names_are_refused_and_named(void **state)
{
    (void)state;
    expect_failure(STATUS_UNSUPPORTED, "'os.system'",
                   BYTES("\x80\x02"
                         "cos\nsystem\nX\x02\0\0\0ls\x85R."));
    expect_failure(STATUS_UNSUPPORTED, "'builtins.eval'",
                   BYTES("\x80\x04\x8c\x08"
                         "builtins\x8c\x04"
                         "eval\x93."));
    expect_failure(STATUS_UNSUPPORTED, "'torch.load'",
                   BYTES("\x80\x02"
                         "ctorch\nload\n."));
    expect_failure(STATUS_UNSUPPORTED, "'collections.OrderedDictX'",
                   BYTES("\x80\x02"
                         "ccollections\nOrderedDictX\n."));
    expect_failure(STATUS_UNSUPPORTED, "NEWOBJ_EX", BYTES("\x80\x02)}\x92."));
    expect_failure(STATUS_UNSUPPORTED, "INST", BYTES("\x80\x02(ios\nsystem\n."));
    expect_failure(STATUS_UNSUPPORTED, "OBJ", BYTES("\x80\x02(No."));
    expect_failure(STATUS_UNSUPPORTED, "EXT1", BYTES("\x80\x02\x82\x01."));
    expect_failure(STATUS_UNSUPPORTED, "STRING", BYTES("S'a'\n."));
    expect_failure(STATUS_UNSUPPORTED, "protocol 6", BYTES("\x80\x06N."));
}

static void known_names_take_their_own_arguments_alone(void **state)
{
    (void)state;
    expect_failure(STATUS_CORRUPT, "wants a storage",
                   BYTES("\x80\x02"
                         "ctorch._utils\n_rebuild_tensor_v2\n)R."));
    expect_failure(STATUS_CORRUPT, "a storage is called",
                   BYTES("\x80\x02"
                         "ctorch\nFloatStorage\n)R."));
    expect_failure(STATUS_CORRUPT, "latin1",
                   BYTES("\x80\x02"
                         "c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0zlib\x86R."));
    expect_failure(STATUS_UNSUPPORTED, "numpy type",
                   BYTES("\x80\x02"
                         "cnumpy\ndtype\nX\x02\0\0\0O8\x85R."));
    expect_failure(STATUS_CORRUPT, "wants no arguments",
                   BYTES("\x80\x02"
                         "cargparse\nNamespace\nN\x85\x81."));
    expect_failure(STATUS_UNSUPPORTED, "attributes are set on a list", BYTES("\x80\x02]}b."));
    expect_failure(STATUS_CORRUPT, "an object wants a name", BYTES("\x80\x02])R."));
    expect_failure(STATUS_CORRUPT, "a reference to data", BYTES("\x80\x02NQ."));
}

static void broken_pickles_are_told_from_good_ones(void **state)
{
    (void)state;
    expect_failure(STATUS_CORRUPT, "cut short", BYTES(""));
    expect_failure(STATUS_CORRUPT, "cut short", BYTES("\x80\x02N"));
    expect_failure(STATUS_CORRUPT, "cut short",
                   BYTES("\x80\x02X\xff\xff\xff\xff"
                         "abc."));
    expect_failure(STATUS_CORRUPT, "cut short",
                   BYTES("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                         "abc."));
    expect_failure(STATUS_CORRUPT, "cut short", BYTES("\x80\x02\x8b\xff\xff\xff\x7f."));
    expect_failure(STATUS_CORRUPT, "stack is empty", BYTES("\x80\x02."));
    expect_failure(STATUS_CORRUPT, "no mark", BYTES("\x80\x02t."));
    expect_failure(STATUS_CORRUPT, "to spare", BYTES("\x80\x02NN."));
    expect_failure(STATUS_CORRUPT, "stack is empty", BYTES("\x80\x02N(R."));
    expect_failure(STATUS_CORRUPT, "never put", BYTES("\x80\x02h\x00."));
    expect_failure(STATUS_CORRUPT, "before so many", BYTES("\x80\x02Nr\xff\xff\xff\xff."));
    expect_failure(STATUS_CORRUPT, "no dictionary", BYTES("\x80\x02]NNs."));
    expect_failure(STATUS_CORRUPT, "no dictionary", BYTES("\x80\x02(NNu."));
    expect_failure(STATUS_CORRUPT, "has no value", BYTES("\x80\x02}(Nu."));
    expect_failure(STATUS_CORRUPT, "no list", BYTES("\x80\x02}Na."));
    expect_failure(STATUS_CORRUPT, "no list", BYTES("\x80\x02(Ne."));
    expect_failure(STATUS_CORRUPT, "tuple of 3", BYTES("\x80\x02NN\x87."));
    expect_failure(STATUS_CORRUPT, "no operation", BYTES("\x80\x02\x99."));
    expect_failure(STATUS_CORRUPT, "frame", BYTES("\x80\x04\x95\x05\1\0\0\0\0\0\0N."));
    expect_failure(STATUS_CORRUPT, "plain characters",
                   BYTES("\x80\x02"
                         "c\x01\n\n."));
}

#define STORAGE(n)                                                                                 \
    "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"                                        \
    "0X\x03\0\0\0"                                                                                 \
    "cpu" n "tQ"
#define TENSOR(n, view)                                                                            \
    "\x80\x02"                                                                                     \
    "ctorch._utils\n_rebuild_tensor_v2\n" STORAGE(n) view "\x89)tR."

static void views_stay_within_their_storage(void **state)
{
    struct pickle pickle = load(BYTES(TENSOR("K\x06", "K\x01K\x02K\x02\x86K\x03K\x01\x86")));
    const struct pickle_tensor *tensor = pickle.root->tensor;

    (void)state;
    assert_int_equal(pickle.root->kind, PICKLE_TENSOR);
    assert_int_equal(tensor->n_elements, 4);
    assert_int_equal(tensor->offset, 1);
    assert_int_equal(tensor->stride[0], 3);
    assert_int_equal(pickle.n_storages, 1);
    assert_string_equal(pickle.storages[0]->storage.key, "0");
    pickle_release(&pickle);

    expect_failure(STATUS_CORRUPT, "reaches element 6",
                   BYTES(TENSOR("K\x06", "K\x02K\x02K\x02\x86K\x03K\x01\x86")));
    expect_failure(STATUS_CORRUPT, "natural",
                   BYTES(TENSOR("K\x06", "K\x00J\xff\xff\xff\xff\x85K\x01\x85")));
    expect_failure(STATUS_CORRUPT, "natural",
                   BYTES(TENSOR("K\x06", "K\x00K\x01\x85K\x01K\x01\x86")));
    expect_failure(STATUS_CORRUPT, "too large",
                   BYTES(TENSOR("K\x06", "K\x00\x8a\x08\0\0\0\0\0\0\0\x40"
                                         "K\x04\x86K\x00K\x00\x86")));
    expect_failure(STATUS_CORRUPT, "too large",
                   BYTES(TENSOR("K\x06", "K\x00K\x03K\x03\x86\x8a\x08\xff\xff\xff\xff\xff\xff\xff"
                                         "\x7fK\x01\x86")));
    expect_failure(STATUS_UNSUPPORTED, "expanded",
                   BYTES(TENSOR("K\x06", "K\x00K\x07\x85K\x00\x85")));
    expect_failure(STATUS_CORRUPT, "count its bytes",
                   BYTES(TENSOR("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "K\x00))")));
}

static void numpy_scalars_become_numbers(void **state)
{
    (void)state;
    expect_printed(BYTES("\x80\x02"
                         "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R"
                         "(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                         "c_codecs\nencode\nX\x0a\0\0\0\0\0\0\0\0\0\xc3\xa0\xc2\xbf"
                         "X\x06\0\0\0latin1\x86R\x86R."),
                   "-0.5");
    expect_failure(STATUS_UNSUPPORTED, "little-endian",
                   BYTES("\x80\x02"
                         "cnumpy\ndtype\nX\x02\0\0\0f8\x85R(K\x03X\x01\0\0\0>tb."));
}

#define ARRAY(shape, type, data)                                                                   \
    "\x80\x02"                                                                                     \
    "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"                            \
    "C\x01"                                                                                        \
    "btR(K\x01" shape "cnumpy\ndtype\nU\x02" type "\x89\x88\x87R(K\x03U\x01<NNNK\x00K\x00K\x00tb"  \
    "\x89" data "tb."

static void numpy_arrays_become_lists(void **state)
{
    (void)state;
    expect_printed(BYTES(ARRAY("K\x02\x85", "i2", "C\x04\x05\x00\x07\x01")), "[5, 263]");
    expect_printed(BYTES(ARRAY("K\x01\x85", "f4", "C\x04\0\0\0\x3f")), "[0.5]");
    expect_printed(BYTES(ARRAY("K\x00\x85", "i8", "c__builtin__\nbytes\n)R")), "[]");
    expect_failure(STATUS_UNSUPPORTED, "2 dimensions",
                   BYTES(ARRAY("K\x01K\x02\x86", "i2", "C\x04\0\0\0\0")));
    expect_failure(STATUS_CORRUPT, "3 numbers", BYTES(ARRAY("K\x03\x85", "i2", "C\x04\0\0\0\0")));
    expect_failure(STATUS_CORRUPT, "not (version",
                   BYTES(ARRAY("J\xff\xff\xff\xff\x85", "i2", "C\x04\0\0\0\0")));
    expect_failure(STATUS_CORRUPT, "is called",
                   BYTES("\x80\x02"
                         "cnumpy\nndarray\n)R."));
    expect_failure(STATUS_CORRUPT, "wants numpy.ndarray",
                   BYTES("\x80\x02"
                         "cnumpy.core.multiarray\n_reconstruct\n)R."));
    expect_failure(STATUS_CORRUPT, "only empty",
                   BYTES("\x80\x02"
                         "cbuiltins\nbytes\nK\x09\x85R."));
}

/* _frombuffer(bytearray, dtype, shape, 'C') */
#define BUFFER(data, shape, rest)                                                                  \
    "\x80\x05\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(" data                             \
    "cnumpy\ndtype\n\x8c\x02i2\x89\x88\x87R(K\x03\x8c\x01<NNNK\x00K\x00K\x00tb" shape rest

static void numpy_arrays_of_protocol_5_become_lists(void **state)
{
    static const char *const refused = "wants bytes, a type, a shape";

    (void)state;
#define DATA "\x96\x04\0\0\0\0\0\0\0\x05\x00\x07\x01"
    expect_printed(BYTES(BUFFER(DATA, "K\x02\x85",
                                "\x8c\x01"
                                "CtR.")),
                   "[5, 263]");
    expect_failure(STATUS_CORRUPT, "of 3 numbers",
                   BYTES(BUFFER(DATA, "K\x03\x85",
                                "\x8c\x01"
                                "CtR.")));
    expect_failure(STATUS_UNSUPPORTED, "2 dimensions",
                   BYTES(BUFFER(DATA, "K\x01K\x02\x86",
                                "\x8c\x01"
                                "CtR.")));
    expect_failure(STATUS_CORRUPT, refused, BYTES(BUFFER(DATA, "K\x02\x85", "tR.")));
    expect_failure(STATUS_CORRUPT, refused,
                   BYTES(BUFFER("N", "K\x02\x85",
                                "\x8c\x01"
                                "CtR.")));
    expect_failure(STATUS_CORRUPT, refused,
                   BYTES(BUFFER(DATA, "J\xff\xff\xff\xff\x85",
                                "\x8c\x01"
                                "CtR.")));
    expect_failure(STATUS_CORRUPT, "cut short",
                   BYTES("\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\xff"
                         "ab."));
#undef DATA
}

/* A few bytes that are named again and again may not become any number of lists. */
static void arrays_of_the_same_bytes_do_not_fill_memory(void **state)
{
    char bytes[8192];
    size_t n = 0;
    struct pickle pickle;

#define PUT(text)                                                                                  \
    do {                                                                                           \
        memcpy(bytes + n, text, sizeof(text) - 1);                                                 \
        n += sizeof(text) - 1;                                                                     \
    } while (0)
    (void)state;
    PUT("\x80\x02(cnumpy.core.multiarray\n_reconstruct\nq\x01"
        "cnumpy\nndarray\nq\x02");
    PUT("cnumpy\ndtype\nU\x02i1\x85Rq\x03"
        "B\x00\x10\0\0");
    memset(bytes + n, 7, 4096);
    n += 4096;
    PUT("q\x04(K\x01M\x00\x10\x85h\x03\x89h\x04tq\x05");
    for (int i = 0; i < 3; i++)
        PUT("h\x01(h\x02K\x00\x85h\x04tRh\x05"
            "b");
    PUT("t.");
    assert_int_equal(pickle_load(&pickle, bytes, n, "test"), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "more bytes than it has itself"));
#undef PUT
}

static void texts_of_python_2_are_ascii(void **state)
{
    (void)state;
    expect_printed(BYTES("\x80\x02U\x02"
                         "abT\x01\0\0\0c\x86."),
                   "('ab', 'c')");
    expect_failure(STATUS_CORRUPT, "not ASCII",
                   BYTES("\x80\x02U\x02"
                         "a\x80."));
}

static void printing_stops_where_the_room_ends(void **state)
{
    struct pickle pickle = load(BYTES("\x80\x02(X\x04\0\0\0abcdX\x04\0\0\0efght."));
    char text[9];

    (void)state;
    assert_string_equal(pickle_print(pickle.root, text, sizeof(text)), "('abcd'");
    pickle_release(&pickle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_values_come_through),
        cmocka_unit_test(containers_come_through),
        cmocka_unit_test(a_list_may_hold_itself),
        cmocka_unit_test(other_names_are_refused_and_named),
        cmocka_unit_test(known_names_take_their_own_arguments_alone),
        cmocka_unit_test(broken_pickles_are_told_from_good_ones),
        cmocka_unit_test(views_stay_within_their_storage),
        cmocka_unit_test(numpy_scalars_become_numbers),
        cmocka_unit_test(numpy_arrays_become_lists),
        cmocka_unit_test(numpy_arrays_of_protocol_5_become_lists),
        cmocka_unit_test(arrays_of_the_same_bytes_do_not_fill_memory),
        cmocka_unit_test(texts_of_python_2_are_ascii),
        cmocka_unit_test(printing_stops_where_the_room_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
