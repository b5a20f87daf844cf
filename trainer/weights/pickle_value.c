/* Looking at values. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/weights/pickle.h"

enum { PRINT_MAX_DEPTH = 3 };

struct pickle_value *pickle_find(const struct pickle_value *value, const char *key)
{
    if (value == NULL || (value->kind != PICKLE_DICT && value->kind != PICKLE_NAMESPACE))
        return NULL;
    for (size_t i = value->sequence.n; i >= 2; i -= 2) {
        const char *text = pickle_text(value->sequence.items[i - 2]);
        if (text != NULL && strcmp(text, key) == 0)
            return value->sequence.items[i - 1];
    }
    return NULL;
}

bool pickle_integer(const struct pickle_value *value, int64_t *out)
{
    if (value == NULL || value->kind != PICKLE_INT)
        return false;
    *out = value->integer;
    return true;
}

bool pickle_number(const struct pickle_value *value, double *out)
{
    if (value == NULL || (value->kind != PICKLE_INT && value->kind != PICKLE_FLOAT))
        return false;
    *out = value->kind == PICKLE_INT ? (double)value->integer : value->real;
    return true;
}

const char *pickle_text(const struct pickle_value *value)
{
    if (value == NULL || value->kind != PICKLE_STRING ||
        strlen(value->string.text) != value->string.length)
        return NULL;
    return value->string.text;
}

const char *pickle_kind_name(enum pickle_kind kind)
{
    static const char *const kinds[] = {
        [PICKLE_NONE] = "None",
        [PICKLE_BOOL] = "a truth value",
        [PICKLE_INT] = "a whole number",
        [PICKLE_LONG] = "a large number",
        [PICKLE_FLOAT] = "a number",
        [PICKLE_STRING] = "a text",
        [PICKLE_BYTES] = "bytes",
        [PICKLE_TUPLE] = "a tuple",
        [PICKLE_LIST] = "a list",
        [PICKLE_DICT] = "a dictionary",
        [PICKLE_NAMESPACE] = "a namespace",
        [PICKLE_STORAGE] = "a storage",
        [PICKLE_TENSOR] = "a tensor",
        [PICKLE_GLOBAL] = "a name",
        [PICKLE_NUMPY_DTYPE] = "a numpy type",
        [PICKLE_NUMPY_ARRAY] = "a numpy array",
    };
    return kinds[kind];
}

struct printer {
    char *out;
    size_t size, used;
};

IBOT_PRINTF(2, 3)
static void print(struct printer *p, const char *format, ...)
{
    va_list arguments;

    if (p->used + 1 >= p->size)
        return;
    va_start(arguments, format);
    int n = vsnprintf(p->out + p->used, p->size - p->used, format, arguments);
    va_end(arguments);
    p->used += n > 0 ? (size_t)n : 0;
    if (p->used >= p->size)
        p->used = p->size - 1;
}

/* Control characters and what is not ASCII would tear a terminal's line. */
static void print_text(struct printer *p, const struct pickle_value *value)
{
    print(p, "'");
    for (size_t i = 0; i < value->string.length && p->used + 2 < p->size; i++) {
        unsigned char c = (unsigned char)value->string.text[i];
        print(p, "%c", c >= ' ' && c <= '~' ? c : '?');
    }
    print(p, "'");
}

/* In as few digits as say it. */
static void print_real(struct printer *p, double value)
{
    char text[32];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    print(p, "%s", text);
}

static void print_value(struct printer *p, const struct pickle_value *value, int depth)
{
    bool pairs = value->kind == PICKLE_DICT || value->kind == PICKLE_NAMESPACE;

    switch (value->kind) {
    case PICKLE_BOOL:
        print(p, "%s", value->truth ? "True" : "False");
        return;
    case PICKLE_INT:
        print(p, "%" PRId64, value->integer);
        return;
    case PICKLE_FLOAT:
        print_real(p, value->real);
        return;
    case PICKLE_STRING:
        print_text(p, value);
        return;
    case PICKLE_TUPLE:
    case PICKLE_LIST:
    case PICKLE_DICT:
    case PICKLE_NAMESPACE:
        if (depth < PRINT_MAX_DEPTH)
            break;
        print(p, "…");
        return;
    default:
        print(p, "%s", pickle_kind_name(value->kind));
        return;
    }
    print(p, "%s", pairs ? "{" : value->kind == PICKLE_LIST ? "[" : "(");
    for (size_t i = 0; i < value->sequence.n; i++) {
        if (p->used + 2 >= p->size)
            return;
        if (i > 0)
            print(p, "%s", pairs && i % 2 == 1 ? ": " : ", ");
        print_value(p, value->sequence.items[i], depth + 1);
    }
    print(p, "%s", pairs ? "}" : value->kind == PICKLE_LIST ? "]" : ")");
}

const char *pickle_print(const struct pickle_value *value, char *out, size_t size)
{
    struct printer printer = {out, size, 0};

    out[0] = '\0';
    print_value(&printer, value, 0);
    return out;
}
