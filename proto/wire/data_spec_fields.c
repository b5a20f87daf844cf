#include "proto/wire/data_spec_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"multi_crop", "centre_crop"};
static const char *const interpolations[] = {"bicubic", "bilinear", "random"};
static const char *const mask_shapes[] = {"block", "rand"};
static const char *const places[] = {"loader", "trainer"};
static const char *const policies[] = {"substitute", "fail"};

#define AT(field) offsetof(struct data_spec, field)
#define ONE(kind, field)                                                                           \
    {                                                                                              \
        .name = #field, .type = DATA_SPEC_##kind, .offset = AT(field), .n = 1                      \
    }
#define TWO(field)                                                                                 \
    {                                                                                              \
        .name = #field, .type = DATA_SPEC_FLOAT, .offset = AT(field), .n = 2                       \
    }
#define CHOICE(field, names)                                                                       \
    {                                                                                              \
        .name = #field, .type = DATA_SPEC_CHOICE, .offset = AT(field), .n = 1, .choices = (names)  \
    }
#define TRANSFORM(view)                                                                            \
    ONE(FLOAT, view.flip), ONE(FLOAT, view.jitter), ONE(FLOAT, view.grayscale),                    \
        ONE(FLOAT, view.blur), ONE(FLOAT, view.solarize)

const struct data_spec_field data_spec_fields[] = {
    CHOICE(kind, kinds),
    ONE(BOOL, shuffle),
    ONE(UINT64, order_seed),
    ONE(UINT64, seed),
    ONE(BOOL, upright),
    CHOICE(interpolation, interpolations),
    ONE(INT32, repeats),
    ONE(INT32, n_global),
    ONE(INT32, global_size_px),
    ONE(INT32, n_local),
    ONE(INT32, local_size_px),
    ONE(INT32, resize_px),
    TWO(global_scale),
    TWO(local_scale),
    TWO(aspect),
    TRANSFORM(first),
    TRANSFORM(other),
    TRANSFORM(local),
    ONE(FLOAT, brightness),
    ONE(FLOAT, contrast),
    ONE(FLOAT, saturation),
    ONE(FLOAT, hue),
    TWO(blur_radius),
    ONE(INT32, solarize_threshold),
    CHOICE(photometric, places),
    ONE(INT32, rand_augment.n_ops),
    ONE(FLOAT, rand_augment.probability),
    ONE(FLOAT, rand_augment.magnitude),
    ONE(FLOAT, rand_augment.magnitude_std),
    ONE(BOOL, rand_augment.increasing),
    {.name = "rand_augment.fill", .type = DATA_SPEC_INT32, .offset = AT(rand_augment.fill), .n = 3},
    ONE(INT32, mask_cell_px),
    CHOICE(mask_shape, mask_shapes),
    {.name = "pred_ratio",
     .type = DATA_SPEC_FLOAT,
     .offset = AT(pred_ratio),
     .count_offset = AT(n_pred_ratios)},
    {.name = "pred_ratio_var",
     .type = DATA_SPEC_FLOAT,
     .offset = AT(pred_ratio_var),
     .count_offset = AT(n_pred_ratios)},
    TWO(mask_aspect),
    ONE(INT32, pred_start_epoch),
    CHOICE(bad_image_policy, policies),
};
const size_t n_data_spec_fields = sizeof(data_spec_fields) / sizeof(data_spec_fields[0]);

double data_spec_shortest(float value)
{
    char text[32];

    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            return strtod(text, NULL);
    }
    return (double)value;
}

int data_spec_field_values(const struct data_spec_field *field, const struct data_spec *spec)
{
    if (field->count_offset == 0)
        return field->n;
    return *(const int32_t *)(const void *)((const char *)spec + field->count_offset);
}

static int print_value(const struct data_spec_field *field, const void *at, int i, char *out,
                       size_t n_bytes)
{
    switch (field->type) {
    case DATA_SPEC_BOOL:
        return snprintf(out, n_bytes, "%s", ((const bool *)at)[i] ? "true" : "false");
    case DATA_SPEC_INT32:
        return snprintf(out, n_bytes, "%d", ((const int32_t *)at)[i]);
    case DATA_SPEC_UINT64:
        return snprintf(out, n_bytes, "%llu", (unsigned long long)((const uint64_t *)at)[i]);
    case DATA_SPEC_CHOICE: /* enums that have passed data_spec_check */
        return snprintf(out, n_bytes, "%s", field->choices[((const unsigned *)at)[i]]);
    default:
        return snprintf(out, n_bytes, "%.9g", data_spec_shortest(((const float *)at)[i]));
    }
}

const char *data_spec_field_text(const struct data_spec_field *field, const struct data_spec *spec,
                                 char *out, size_t n_bytes)
{
    int n = data_spec_field_values(field, spec);
    size_t used = 0;

    out[0] = '\0';
    for (int i = 0; i < n && used + 2 < n_bytes; i++) {
        if (i > 0)
            out[used++] = ' ';
        int printed =
            print_value(field, (const char *)spec + field->offset, i, out + used, n_bytes - used);
        used += printed > 0 && (size_t)printed < n_bytes - used ? (size_t)printed : 0;
    }
    return out;
}

const char *data_spec_difference(const struct data_spec *here, const struct data_spec *there,
                                 char *out, size_t n_bytes)
{
    char a[256], b[256];
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < n_data_spec_fields && used + 1 < n_bytes; i++) {
        const struct data_spec_field *field = &data_spec_fields[i];
        data_spec_field_text(field, here, a, sizeof(a));
        data_spec_field_text(field, there, b, sizeof(b));
        if (strcmp(a, b) == 0)
            continue;
        int n = snprintf(out + used, n_bytes - used, "%s%s is %s here and %s there",
                         used > 0 ? ", " : "", field->name, a[0] != '\0' ? a : "empty",
                         b[0] != '\0' ? b : "empty");
        if (n <= 0 || (size_t)n >= n_bytes - used) {
            out[used] = '\0';
            break;
        }
        used += (size_t)n;
    }
    return out;
}
