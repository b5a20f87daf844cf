/* From text to value and back. Numbers are decimal, finite and complete: what follows them is an
 * error, never ignored. They are printed in the fewest digits that read back to the same bits. */
#include "proto/config/options_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/config/nearest.h"

static const char *const true_words[] = {"on", "true", "yes", "1"};
static const char *const false_words[] = {"off", "false", "no", "0"};

bool option_is_list(const struct option_spec *spec)
{
    return spec->type == OPTION_FLOAT_LIST || spec->type == OPTION_STRING_LIST;
}

static bool is_whole(const struct option_spec *spec)
{
    return spec->type == OPTION_INT32 || spec->type == OPTION_INT64;
}

const char *option_wanted_text(const struct option_spec *spec, char *out, size_t n_bytes)
{
    const char *kind = is_whole(spec) ? "a whole number" : "a number";
    const char *unit = spec->unit != NULL ? spec->unit : "";
    const char *gap = spec->unit != NULL ? " " : "";
    double low = spec->minimum, high = spec->maximum;
    FILE *text = fmemopen(out, n_bytes, "w");

    if (text == NULL)
        return "another value";
    switch (spec->type) {
    case OPTION_BOOL:
        fputs("on or off", text);
        break;
    case OPTION_STRING:
    case OPTION_STRING_LIST:
        fputs("a text", text);
        break;
    case OPTION_CHOICE:
        fputs("one of", text);
        for (int i = 0; spec->choices[i] != NULL; i++)
            fprintf(text, "%s %s", i > 0 ? "," : "", spec->choices[i]);
        break;
    default:
        if ((low == 0 && high == 0) || (isinf(low) && isinf(high)))
            fprintf(text, "%s%s%s", kind, gap, unit);
        else if (isinf(high))
            fprintf(text, "%s of at least %.9g%s%s", kind, low, gap, unit);
        else if (isinf(low))
            fprintf(text, "%s of at most %.9g%s%s", kind, high, gap, unit);
        else
            fprintf(text, "%s from %.9g to %.9g%s%s", kind, low, high, gap, unit);
        if (spec->zero != NULL)
            fprintf(text, ", or %s", spec->zero);
    }
    fputc('\0', text);
    fclose(text);
    out[n_bytes - 1] = '\0';
    return out;
}

/* A value that is not what the option takes. */
static enum status refuse(const struct option_spec *spec, const char *word, const char *where)
{
    char wanted[512];

    FAIL(STATUS_INVALID, "--%s %.200s (%s): wanted %s", spec->name, word, where,
         option_wanted_text(spec, wanted, sizeof(wanted)));
}

static enum status read_bool(bool *out, const struct option_spec *spec, const char *word,
                             const char *where)
{
    for (size_t i = 0; i < sizeof(true_words) / sizeof(true_words[0]); i++) {
        if (strcasecmp(word, true_words[i]) == 0) {
            *out = true;
            return STATUS_OK;
        }
        if (strcasecmp(word, false_words[i]) == 0) {
            *out = false;
            return STATUS_OK;
        }
    }
    return refuse(spec, word, where);
}

static bool in_range(const struct option_spec *spec, double number)
{
    return (spec->minimum == 0 && spec->maximum == 0) ||
           (number >= spec->minimum && number <= spec->maximum);
}

static enum status read_integer(int64_t *out, const struct option_spec *spec, const char *word,
                                const char *where)
{
    char *end;

    if (spec->zero != NULL && strcmp(word, spec->zero) == 0) {
        *out = 0;
        return STATUS_OK;
    }
    /* strtoll skips blanks; only a sign or a digit may begin a number here. */
    if (word[0] == '\0' || strspn(word, "+-0123456789") != strlen(word))
        return refuse(spec, word, where);
    errno = 0;
    long long number = strtoll(word, &end, 10);
    if (*end != '\0' || errno != 0 || !in_range(spec, (double)number) ||
        (spec->type == OPTION_INT32 && (number < INT32_MIN || number > INT32_MAX)))
        return refuse(spec, word, where);
    *out = number;
    return STATUS_OK;
}

static enum status read_real(double *out, const struct option_spec *spec, const char *word,
                             const char *where)
{
    char *end;

    if (word[0] == '\0' || strspn(word, "+-.0123456789eE") != strlen(word))
        return refuse(spec, word, where);
    double number = strtod(word, &end);
    if (spec->type != OPTION_DOUBLE)
        number = (double)strtof(word, &end);
    /* Limits are compared in the field's own precision: 0.1f is not 0.1. */
    double low = spec->minimum, high = spec->maximum;
    if (spec->type != OPTION_DOUBLE) {
        low = (double)(float)low;
        high = (double)(float)high;
    }
    if (end == word || *end != '\0' || !isfinite(number))
        return refuse(spec, word, where);
    if (!(low == 0 && high == 0) && !(number >= low && number <= high))
        return refuse(spec, word, where);
    *out = number;
    return STATUS_OK;
}

static enum status read_choice(int64_t *out, const struct option_spec *spec, const char *word,
                               const char *where)
{
    struct nearest nearest = nearest_open(word);
    char wanted[512];

    for (int i = 0; spec->choices[i] != NULL; i++) {
        if (strcmp(spec->choices[i], word) == 0) {
            *out = i;
            return STATUS_OK;
        }
        nearest_offer(&nearest, spec->choices[i]);
    }
    option_wanted_text(spec, wanted, sizeof(wanted));
    if (nearest_result(&nearest) == NULL)
        return refuse(spec, word, where);
    FAIL(STATUS_INVALID, "--%s %.200s (%s): wanted %s; did you mean '%s'?", spec->name, word, where,
         wanted, nearest_result(&nearest));
}

/* Length of the UTF-8 character at `at` and its code; 0 when it is none (overlong, surrogate). */
static size_t utf8_length(const unsigned char *at, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = 1;

    *code = at[0];
    if (at[0] >= 0x80) {
        length = at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
        *code = at[0] & (0x7fu >> length);
    }
    for (size_t i = 1; i < length; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        *code = *code << 6 | (at[i] & 0x3f);
    }
    bool surrogate = *code >= 0xd800 && *code < 0xe000;
    return length == 0 || *code < least[length] || *code > 0x10ffff || surrogate ? 0 : length;
}

/* Controls, line separators and what is no character: none may stand in a YAML file as it is. */
static bool is_printable(uint32_t code)
{
    return code >= 0x20 && !(code >= 0x7f && code < 0xa0) && code != 0x2028 && code != 0x2029 &&
           code != 0xfeff && code != 0xfffe && code != 0xffff;
}

/* Strings go into run files, logs and JSON, so they must be text. */
static enum status check_string(const struct option_spec *spec, const char *word, const char *where)
{
    const unsigned char *at = (const unsigned char *)word;
    uint32_t code;

    if (strlen(word) > OPTION_MAX_TEXT_BYTES)
        FAIL(STATUS_INVALID, "--%s (%s): %zu bytes are too long; at most %d", spec->name, where,
             strlen(word), OPTION_MAX_TEXT_BYTES);
    while (*at != '\0') {
        size_t length = utf8_length(at, &code);
        if (length == 0 || !is_printable(code))
            FAIL(STATUS_INVALID, "--%s (%s): byte %zu (0x%02x) is not printable UTF-8 text",
                 spec->name, where, (size_t)(at - (const unsigned char *)word) + 1, *at);
        at += length;
    }
    return STATUS_OK;
}

static enum status read_element(struct option_element *out, const struct option_spec *spec,
                                const char *word, const char *where)
{
    switch (spec->type) {
    case OPTION_BOOL:
        return read_bool(&out->truth, spec, word, where);
    case OPTION_INT32:
    case OPTION_INT64:
        return read_integer(&out->integer, spec, word, where);
    case OPTION_FLOAT:
    case OPTION_DOUBLE:
    case OPTION_FLOAT_LIST:
        return read_real(&out->real, spec, word, where);
    case OPTION_CHOICE:
        return read_choice(&out->integer, spec, word, where);
    case OPTION_STRING:
    case OPTION_STRING_LIST:
        out->string = word;
        return check_string(spec, word, where);
    }
    CHECK(false, "option %s has no type", spec->name);
    return STATUS_INVALID;
}

enum status option_value_read(struct option_value *out, const struct option_spec *spec,
                              const struct option_words *words, const char *where)
{
    struct option_value value = {.n = 0};

    if (words->null && spec->type != OPTION_STRING && !option_is_list(spec))
        return refuse(spec, "null", where);
    if (!words->null && !option_is_list(spec) && words->n != 1)
        FAIL(STATUS_INVALID, "--%s (%s): takes one value, got %d", spec->name, where, words->n);
    if (option_is_list(spec) && words->n > spec->capacity)
        FAIL(STATUS_INVALID, "--%s (%s): takes at most %d values, got %d", spec->name, where,
             spec->capacity, words->n);
    for (int i = 0; i < words->n && !words->null; i++)
        TRY(read_element(&value.elements[value.n++], spec, words->words[i], where));
    *out = value;
    return STATUS_OK;
}

void option_value_store(const struct option_spec *spec, void *base,
                        const struct option_value *value)
{
    const struct option_element *first = &value->elements[0];
    char *field = (char *)base + spec->offset;

    switch (spec->type) {
    case OPTION_BOOL:
        *(bool *)field = first->truth;
        break;
    case OPTION_INT32:
        *(int32_t *)field = (int32_t)first->integer;
        break;
    case OPTION_INT64:
        *(int64_t *)field = first->integer;
        break;
    case OPTION_FLOAT:
        *(float *)field = (float)first->real;
        break;
    case OPTION_DOUBLE:
        *(double *)field = first->real;
        break;
    case OPTION_STRING:
        *(const char **)field = value->n > 0 ? first->string : NULL;
        break;
    case OPTION_CHOICE:
        *(int *)field = (int)first->integer;
        break;
    case OPTION_FLOAT_LIST:
        for (int32_t i = 0; i < value->n; i++)
            ((float *)field)[i] = (float)value->elements[i].real;
        break;
    case OPTION_STRING_LIST:
        for (int32_t i = 0; i < value->n; i++)
            ((const char **)field)[i] = value->elements[i].string;
        break;
    }
    if (option_is_list(spec))
        *(int32_t *)((char *)base + spec->count_offset) = value->n;
}

void option_value_load(struct option_value *out, const struct option_spec *spec, const void *base)
{
    const char *field = (const char *)base + spec->offset;
    struct option_element *first = &out->elements[0];

    memset(out, 0, sizeof(*out));
    out->n = 1;
    switch (spec->type) {
    case OPTION_BOOL:
        first->truth = *(const bool *)field;
        break;
    case OPTION_INT32:
        first->integer = *(const int32_t *)field;
        break;
    case OPTION_INT64:
        first->integer = *(const int64_t *)field;
        break;
    case OPTION_FLOAT:
        first->real = (double)*(const float *)field;
        break;
    case OPTION_DOUBLE:
        first->real = *(const double *)field;
        break;
    case OPTION_STRING:
        first->string = *(const char *const *)field;
        out->n = first->string != NULL;
        break;
    case OPTION_CHOICE:
        first->integer = *(const int *)field;
        break;
    case OPTION_FLOAT_LIST:
    case OPTION_STRING_LIST:
        out->n = *(const int32_t *)((const char *)base + spec->count_offset);
        for (int32_t i = 0; i < out->n; i++) {
            if (spec->type == OPTION_FLOAT_LIST)
                out->elements[i].real = (double)((const float *)field)[i];
            else
                out->elements[i].string = ((const char *const *)field)[i];
        }
        break;
    }
}

/* A mantissa with a point, as YAML 1.1 readers want before an exponent: 1.0e-06. */
static void print_real(FILE *out, double number, bool single)
{
    char text[40];

    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, number);
        if (single ? strtof(text, NULL) == (float)number : strtod(text, NULL) == number)
            break;
    }
    char *exponent = strchr(text, 'e');
    if (exponent != NULL && strchr(text, '.') == NULL)
        fprintf(out, "%.*s.0%s", (int)(exponent - text), text, exponent);
    else
        fputs(text, out);
}

void option_element_print(FILE *out, const struct option_spec *spec,
                          const struct option_element *element)
{
    switch (spec->type) {
    case OPTION_BOOL:
        fputs(element->truth ? "true" : "false", out);
        break;
    case OPTION_INT32:
    case OPTION_INT64:
        if (spec->zero != NULL && element->integer == 0)
            fputs(spec->zero, out);
        else
            fprintf(out, "%" PRId64, element->integer);
        break;
    case OPTION_FLOAT:
    case OPTION_FLOAT_LIST:
        print_real(out, element->real, true);
        break;
    case OPTION_DOUBLE:
        print_real(out, element->real, false);
        break;
    case OPTION_CHOICE:
        fputs(spec->choices[element->integer], out);
        break;
    case OPTION_STRING:
    case OPTION_STRING_LIST:
        fputs(element->string, out);
        break;
    }
}
