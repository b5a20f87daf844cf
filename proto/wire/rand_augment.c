#include "proto/wire/rand_augment.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct rand_augment rand_augment_official(void)
{
    return (struct rand_augment){
        .n_ops = 2,
        .probability = 0.5f,
        .magnitude = 9.0f,
        .magnitude_std = 0.5f,
        .increasing = true,
        .fill = {124, 116, 104}, /* round(255 * 0.485), and so on */
    };
}

/* One section: letters, then a number. */
static enum status parse_section(struct rand_augment *out, const char *section, size_t length,
                                 const char *text)
{
    char name[8], number[24], *end = NULL;
    size_t n_letters = 0;

    while (n_letters < length && isalpha((unsigned char)section[n_letters]))
        n_letters++;
    size_t n_digits = length - n_letters;
    if (n_letters == 0 || n_letters >= sizeof(name) || n_digits == 0 || n_digits >= sizeof(number))
        goto unknown;
    memcpy(name, section, n_letters);
    name[n_letters] = '\0';
    memcpy(number, section + n_letters, n_digits);
    number[n_digits] = '\0';
    if (strspn(number, "0123456789.") != n_digits)
        goto unknown;
    double value = strtod(number, &end);
    if (*end != '\0')
        goto unknown;
    bool whole = strchr(number, '.') == NULL && value <= 1e6;
    if (strcmp(name, "mstd") == 0)
        out->magnitude_std = (float)value;
    else if (strcmp(name, "p") == 0)
        out->probability = (float)value;
    else if (strcmp(name, "m") == 0 && whole)
        out->magnitude = (float)value;
    else if (strcmp(name, "n") == 0 && whole)
        out->n_ops = (int32_t)value;
    else if (strcmp(name, "inc") == 0 && whole && value <= 1.0)
        out->increasing = value > 0.0;
    else
        goto unknown;
    return STATUS_OK;
unknown:
    FAIL(STATUS_INVALID,
         "RandAugment '%s': the section '%.*s' is none of mN, nN, incN (0 or 1), mstdX, pX; "
         "write it like rand-m9-mstd0.5-inc1",
         text, (int)(length < 64 ? length : 64), section);
}

enum status rand_augment_parse(struct rand_augment *out, const char *text)
{
    struct rand_augment parsed = rand_augment_official();

    if (strcmp(text, "rand") != 0 && strncmp(text, "rand-", 5) != 0)
        FAIL(STATUS_INVALID,
             "RandAugment '%s' begins with no 'rand'; write it like "
             "rand-m9-mstd0.5-inc1",
             text);
    parsed.magnitude = RAND_AUGMENT_MAX_MAGNITUDE;
    parsed.magnitude_std = 0.0f;
    parsed.increasing = false;
    for (const char *at = text + 4; *at != '\0';) {
        size_t length = strcspn(at + 1, "-");
        TRY(parse_section(&parsed, at + 1, length, text));
        at += 1 + length;
    }
    if (parsed.n_ops == 0)
        FAIL(STATUS_INVALID, "RandAugment '%s' with no operations; leave it out instead", text);
    TRY(rand_augment_check(&parsed));
    *out = parsed;
    return STATUS_OK;
}

/* Also refuses NaN. */
static enum status check(const char *field, float value, float most)
{
    if (!(value >= 0.0f && value <= most))
        FAIL(STATUS_INVALID, "RandAugment: %s is %g; it must be in 0..%g", field, (double)value,
             (double)most);
    return STATUS_OK;
}

enum status rand_augment_check(const struct rand_augment *r)
{
    if (r->n_ops < 0 || r->n_ops > RAND_AUGMENT_MAX_OPS)
        FAIL(STATUS_INVALID, "RandAugment: n_ops is %d; it must be in 0..%d", r->n_ops,
             RAND_AUGMENT_MAX_OPS);
    TRY(check("probability", r->probability, 1));
    TRY(check("magnitude", r->magnitude, RAND_AUGMENT_MAX_MAGNITUDE));
    TRY(check("magnitude_std", r->magnitude_std, 1e6f));
    for (int c = 0; c < 3; c++)
        if (r->fill[c] < 0 || r->fill[c] > 255)
            FAIL(STATUS_INVALID, "RandAugment: fill is %d; it must be in 0..255", r->fill[c]);
    return STATUS_OK;
}
