#include "tests/support/exposition_check.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FAMILIES = 256, NAME_BYTES = 128 };

struct checker {
    char names[MAX_FAMILIES][NAME_BYTES]; /* families so far */
    int n_families;
    char type[16];    /* of the last one */
    bool helped;      /* HELP was read, TYPE not yet */
    int n_samples;    /* of the last one */
    double last, inf; /* buckets of a histogram; -1: none yet */
    int line;
    char *why;
    size_t why_bytes;
};

__attribute__((format(printf, 2, 3))) static bool wrong(struct checker *c, const char *format, ...)
{
    va_list arguments;
    int n = snprintf(c->why, c->why_bytes, "line %d: ", c->line);

    va_start(arguments, format);
    vsnprintf(c->why + n, c->why_bytes - (size_t)n, format, arguments);
    va_end(arguments);
    return false;
}

/* Takes a metric or label name; NULL when there is none. */
static const char *take_name(const char *at, char *out, bool metric)
{
    size_t n = 0;

    while ((isalnum((unsigned char)at[n]) || at[n] == '_' || (metric && at[n] == ':')) &&
           n + 1 < NAME_BYTES)
        n++;
    if (n == 0 || isdigit((unsigned char)at[0]))
        return NULL;
    memcpy(out, at, n);
    out[n] = '\0';
    return at + n;
}

static bool end_family(struct checker *c)
{
    if (c->n_families == 0)
        return true;
    if (c->helped || c->n_samples == 0)
        return wrong(c, "family '%s' has no TYPE or no samples", c->names[c->n_families - 1]);
    return true;
}

static bool check_comment(struct checker *c, const char *line)
{
    char name[NAME_BYTES], type[16];
    bool help = strncmp(line, "# HELP ", 7) == 0;

    if (!help && strncmp(line, "# TYPE ", 7) != 0)
        return wrong(c, "a comment that is neither HELP nor TYPE");
    const char *at = take_name(line + 7, name, true);
    if (at == NULL || *at != ' ' || at[1] == '\0')
        return wrong(c, "no name and text");
    if (help) {
        if (!end_family(c))
            return false;
        for (int i = 0; i < c->n_families; i++)
            if (strcmp(c->names[i], name) == 0)
                return wrong(c, "family '%s' comes twice", name);
        if (c->n_families == MAX_FAMILIES)
            return wrong(c, "too many families");
        strcpy(c->names[c->n_families++], name);
        c->helped = true;
        c->n_samples = 0;
        c->last = c->inf = -1.0;
        return true;
    }
    if (!c->helped || strcmp(c->names[c->n_families - 1], name) != 0)
        return wrong(c, "TYPE of '%s' does not follow its HELP", name);
    snprintf(type, sizeof(type), "%s", at + 1);
    bool total = strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_total") == 0;
    if (strcmp(type, "counter") != 0 && strcmp(type, "gauge") != 0 &&
        strcmp(type, "histogram") != 0)
        return wrong(c, "type '%s'", type);
    if (total != (strcmp(type, "counter") == 0))
        return wrong(c, "'%s' is a %s", name, type);
    strcpy(c->type, type);
    c->helped = false;
    return true;
}

/* {name="value",…}; *le gets the value of a label of that name. */
static const char *check_labels(struct checker *c, const char *at, double *le)
{
    char name[NAME_BYTES], value[256];

    if (*at != '{')
        return at;
    do {
        size_t n = 0;
        at = take_name(at + 1, name, false);
        if (at == NULL || at[0] != '=' || at[1] != '"') {
            wrong(c, "a label without name or value");
            return NULL;
        }
        for (at += 2; *at != '"'; at++) {
            if (*at == '\\' && (at[1] == '\\' || at[1] == '"' || at[1] == 'n'))
                at++;
            else if (*at == '\\' || *at == '\0') {
                wrong(c, "a label value that does not end, or has an unknown escape");
                return NULL;
            }
            if (n + 1 < sizeof(value))
                value[n++] = *at;
        }
        value[n] = '\0';
        if (strcmp(name, "le") == 0)
            *le = strtod(value, NULL);
        at++;
    } while (*at == ',');
    if (*at != '}') {
        wrong(c, "labels do not end");
        return NULL;
    }
    return at + 1;
}

static bool check_bucket(struct checker *c, const char *suffix, double le, double value)
{
    if (strcmp(suffix, "_bucket") == 0) {
        if (isnan(le) || value < c->last)
            return wrong(c, "buckets do not rise");
        c->last = value;
        if (isinf(le))
            c->inf = value;
        return true;
    }
    if (strcmp(suffix, "_sum") == 0)
        return true;
    if (strcmp(suffix, "_count") != 0 || value != c->inf)
        return wrong(c, "'%s' in a histogram, or a _count that is not the bucket of +Inf", suffix);
    return true;
}

static bool check_sample(struct checker *c, const char *line)
{
    char name[NAME_BYTES], *end;
    double le = NAN;
    const char *at = take_name(line, name, true);

    if (at == NULL || c->n_families == 0 || c->helped)
        return wrong(c, "neither a comment nor a sample of a family");
    const char *family = c->names[c->n_families - 1];
    size_t n = strlen(family);
    if (strncmp(name, family, n) != 0 || (name[n] != '\0' && strcmp(c->type, "histogram") != 0))
        return wrong(c, "'%s' stands in family '%s'", name, family);
    at = check_labels(c, at, &le);
    if (at == NULL)
        return false;
    if (at[0] != ' ' || at[1] == ' ' || at[1] == '\0')
        return wrong(c, "no number after one blank");
    double value = strtod(at + 1, &end);
    if (*end != '\0')
        return wrong(c, "'%s' is no number", at + 1);
    if (strcmp(c->type, "counter") == 0 && !(value >= 0.0))
        return wrong(c, "a counter of %g", value);
    c->n_samples++;
    return strcmp(c->type, "histogram") != 0 || check_bucket(c, name + n, le, value);
}

bool exposition_check(const char *text, char *why, size_t why_bytes)
{
    struct checker *c = calloc(1, sizeof(*c));
    char line[1024];
    bool good = true;

    c->why = why;
    c->why_bytes = why_bytes;
    while (good && *text != '\0') {
        size_t n = strcspn(text, "\n");
        c->line++;
        if (text[n] != '\n' || n >= sizeof(line)) {
            good = wrong(c, "too long, or without its end");
            break;
        }
        memcpy(line, text, n);
        line[n] = '\0';
        good = line[0] == '#' ? check_comment(c, line) : check_sample(c, line);
        text += n + 1;
    }
    good = good && end_family(c);
    if (good && c->n_families == 0)
        good = wrong(c, "nothing is there");
    free(c);
    return good;
}

double exposition_value(const char *text, const char *sample)
{
    size_t n = strlen(sample);

    for (const char *at = text; (at = strstr(at, sample)) != NULL; at += n)
        if ((at == text || at[-1] == '\n') && at[n] == ' ')
            return strtod(at + n + 1, NULL);
    return NAN;
}
