#include "stream/origin.h"

#include <string.h>

#include "proto/wire/data_spec_fields.h"

enum { LINE_COLUMNS = 100 };

/* Every field of the spec, in lines. */
static void print_spec(FILE *out, const struct data_spec *spec)
{
    char text[256], item[320];
    int column = fprintf(out, "spec:");

    for (size_t i = 0; i < n_data_spec_fields; i++) {
        const struct data_spec_field *field = &data_spec_fields[i];
        if (data_spec_field_values(field, spec) == 0)
            continue;
        int n = snprintf(item, sizeof(item), " %s %s%s", field->name,
                         data_spec_field_text(field, spec, text, sizeof(text)),
                         i + 1 < n_data_spec_fields ? "," : "");
        if (column + n > LINE_COLUMNS) {
            fputs("\n     ", out);
            column = 5;
        }
        fputs(item, out);
        column += n;
    }
    fputs("\n", out);
}

void origin_print(FILE *out, const struct message_recording *info)
{
    fprintf(out, "data set: %llu images in %d classes, digest %016llx\n",
            (unsigned long long)info->n_samples, info->n_classes,
            (unsigned long long)info->index_digest);
    fprintf(out,
            "stream: %d ranks, batches of %d images, %lld steps in an epoch; pixel self test "
            "%016llx\n",
            info->world, info->batch_size, (long long)info->steps_per_epoch,
            (unsigned long long)info->self_test);
    print_spec(out, &info->data_spec);
    fprintf(out, "spec digest: %016llx\n", (unsigned long long)info->spec_digest);
}

json_t *origin_text_json(const char *text)
{
    json_t *out = json_string(text);
    char copy[4096];
    size_t n = 0;

    if (out != NULL)
        return out;
    for (; text[n] != '\0' && n < sizeof(copy) - 1; n++)
        copy[n] = (unsigned char)text[n] < 0x80 ? text[n] : '?';
    copy[n] = '\0';
    return json_string(copy);
}

static json_t *hex(uint64_t value)
{
    char text[20];

    snprintf(text, sizeof(text), "%016llx", (unsigned long long)value);
    return json_string(text);
}

static json_t *value_json(const struct data_spec_field *field, const void *at, int i)
{
    switch (field->type) {
    case DATA_SPEC_BOOL:
        return json_boolean(((const bool *)at)[i]);
    case DATA_SPEC_INT32:
        return json_integer(((const int32_t *)at)[i]);
    case DATA_SPEC_UINT64:
        return json_integer((json_int_t)((const uint64_t *)at)[i]);
    case DATA_SPEC_CHOICE:
        return json_string(field->choices[((const unsigned *)at)[i]]);
    default:
        return json_real(data_spec_shortest(((const float *)at)[i]));
    }
}

static json_t *spec_json(const struct data_spec *spec)
{
    json_t *out = json_object();

    for (size_t i = 0; i < n_data_spec_fields; i++) {
        const struct data_spec_field *field = &data_spec_fields[i];
        const char *at = (const char *)spec + field->offset;
        int n = data_spec_field_values(field, spec);
        if (field->n == 1) {
            json_object_set_new(out, field->name, value_json(field, at, 0));
            continue;
        }
        json_t *values = json_array();
        for (int v = 0; v < n; v++)
            json_array_append_new(values, value_json(field, at, v));
        json_object_set_new(out, field->name, values);
    }
    return out;
}

json_t *origin_json(const struct message_recording *info)
{
    return json_pack("{s:o, s:I, s:i, s:o, s:i, s:i, s:I, s:o, s:o}", "index_digest",
                     hex(info->index_digest), "n_samples", (json_int_t)info->n_samples, "n_classes",
                     info->n_classes, "self_test", hex(info->self_test), "world", info->world,
                     "batch_size", info->batch_size, "steps_per_epoch",
                     (json_int_t)info->steps_per_epoch, "spec_digest", hex(info->spec_digest),
                     "spec", spec_json(&info->data_spec));
}
